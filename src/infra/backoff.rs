//! Delays between attempts: exponential with full jitter, for ever.
//!
//! The one file that knows the `backoff` crate, which is no longer maintained; `docs/decisions/backoff.md` says why it
//! stays and what follows it.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// Full jitter reaches twice the interval, so half of the promised 30 s.
const LONGEST: Duration = Duration::from_secs(15);

/// The delays of one series of failures: 0.5 s growing to 30 s at most.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Default for Delays {
    fn default() -> Self {
        Self::from(Duration::from_millis(500))
    }
}

impl Delays {
    /// A series whose first delay is about this long.
    pub fn from(first: Duration) -> Self {
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            randomization_factor: 1.0,
            multiplier: 2.0,
            max_interval: LONGEST,
            // The crate's default gives up after 15 minutes.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// How long to wait before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST)
    }

    /// The series is over: the next failure starts small again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_stay_under_30_seconds_and_never_end() {
        let mut delays = Delays::default();
        assert!(delays.next_delay() <= Duration::from_secs(1));
        let later: Vec<_> = (0..2_000).map(|_| delays.next_delay()).collect();
        assert!(later.iter().all(|delay| *delay <= Duration::from_secs(30)));
        assert!(later.iter().skip(10).any(|delay| *delay > Duration::from_secs(5)), "no growth");
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_secs(1));
    }
}
