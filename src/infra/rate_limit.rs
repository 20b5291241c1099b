//! Coarse limits: so many requests in a window, counted in Redis in the round trip that is made anyway.
//!
//! They keep one caller from taking what belongs to all. What must not be got around (logins, links) is counted in
//! PostgreSQL instead ([`super::throttle`]). While Redis is away each process counts by itself, and allows half.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use governor::{DefaultKeyedRateLimiter, Quota};

use super::cache::Counter;
use crate::config::{Limit, Rate};
use crate::error::{Allowance, Result};

/// Beyond so many callers those that used nothing lately are forgotten.
const MAX_LOCAL_CALLERS: usize = 10_000;

/// One named limit. Clones share what is counted locally.
#[derive(Clone, Debug)]
pub struct RateLimiter {
    name: &'static str,
    limit: Option<(Rate, Arc<Local>)>,
}

impl RateLimiter {
    pub fn new(name: &'static str, limit: Limit) -> Self {
        let limit = limit.map(|rate| (rate, Arc::new(Local::half_of(rate))));
        Self { name, limit }
    }

    pub fn is_on(&self) -> bool {
        self.limit.is_some()
    }

    /// What Redis is to count for a request of this caller; nothing if there is no limit.
    pub fn counter(&self, caller: &str, now: DateTime<Utc>) -> Option<Counter> {
        let (rate, _) = self.limit.as_ref()?;
        let window = rate.window.as_secs().max(1);
        Some(Counter { key: format!("rate:{}:{caller}:{}", self.name, now.timestamp().unsigned_abs() / window), ttl: rate.window })
    }

    /// What is left after a request, by what Redis counted with it, or without Redis by what this process has seen. `Err`
    /// if it is one too many.
    pub fn judge(&self, caller: &str, counted: Option<u64>, now: DateTime<Utc>) -> Result<Option<Allowance>> {
        let Some((rate, local)) = &self.limit else { return Ok(None) };
        let (remaining, reset) = match counted {
            Some(counted) => {
                let window = rate.window.as_secs().max(1);
                let reset = Duration::from_secs(window - now.timestamp().unsigned_abs() % window);
                (u64::from(rate.count).checked_sub(counted), reset)
            }
            None => (local.take(caller).then_some(1), local.period),
        };
        let allowance = |remaining| Allowance { name: self.name, rate: *rate, remaining, reset };
        match remaining {
            Some(remaining) => Ok(Some(allowance(u32::try_from(remaining).unwrap_or(u32::MAX)))),
            None => Err(allowance(0).exceeded()),
        }
    }
}

/// What this process counts by itself.
#[derive(Debug)]
struct Local {
    limiter: DefaultKeyedRateLimiter<String>,
    /// After which a caller may ask once more.
    period: Duration,
}

impl Local {
    /// Half of what Redis would allow.
    fn half_of(rate: Rate) -> Self {
        let half = NonZeroU32::new(rate.count / 2).unwrap_or(NonZeroU32::MIN);
        let period = (rate.window / half.get()).max(Duration::from_nanos(1));
        let quota = Quota::with_period(period).unwrap_or(Quota::per_second(half)).allow_burst(half);
        Self { limiter: DefaultKeyedRateLimiter::keyed(quota), period }
    }

    fn take(&self, caller: &str) -> bool {
        if self.limiter.len() > MAX_LOCAL_CALLERS {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(&caller.to_owned()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 4, window: Duration::from_secs(60) };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn what_redis_counted_decides_and_a_new_window_is_a_new_counter() {
        let limiter = RateLimiter::new("default", Some(RATE));
        let left = |counted| limiter.judge("ada", Some(counted), at(630)).map(|allowance| allowance.unwrap().remaining);
        assert_eq!((left(3).unwrap(), left(4).unwrap()), (1, 0));
        assert_eq!(left(5).unwrap_err().retry_after, Some(Duration::from_secs(30)));
        let keys = [at(600), at(659), at(660)].map(|now| limiter.counter("ada", now).unwrap().key);
        assert_eq!(keys[0], keys[1]);
        assert_ne!(keys[1], keys[2]);
    }

    #[test]
    fn without_redis_half_is_allowed_and_each_caller_has_his_own() {
        let limiter = RateLimiter::new("default", Some(RATE));
        let allowed = |caller: &str| limiter.judge(caller, None, at(0)).is_ok();
        assert_eq!([allowed("ada"), allowed("ada"), allowed("ada"), allowed("bob")], [true, true, false, true]);
    }

    #[test]
    fn off_is_off() {
        let limiter = RateLimiter::new("default", None);
        assert!(limiter.counter("ada", at(0)).is_none() && limiter.judge("ada", None, at(0)).unwrap().is_none());
    }
}
