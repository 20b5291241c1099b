//! How often a server is asked for a connection: as often as wanted while it gives them, once a second when it does not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// After a failure, between one attempt and the next.
const PAUSE: Duration = Duration::from_secs(1);

/// Clones share what was found.
#[derive(Clone, Debug, Default)]
pub struct Reconnects(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    /// Since the last success.
    failed: Option<Instant>,
    succeeded: Option<Instant>,
}

/// Leave to connect, to be given back with what came of it.
#[derive(Debug)]
pub struct Attempt {
    reconnects: Reconnects,
    began: Instant,
}

impl Reconnects {
    /// `None`: the last attempt failed a moment ago, or somebody is at the next one.
    pub fn begin(&self, began: Instant) -> Option<Attempt> {
        self.with(|found| {
            if found.failed.is_some_and(|failed| began - failed < PAUSE) {
                return None;
            }
            // Until this one is known the others are refused.
            found.failed = found.failed.map(|_| began);
            Some(Attempt { reconnects: self.clone(), began })
        })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Found) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Attempt {
    pub fn end(self, connected: bool, now: Instant) {
        self.reconnects.with(|found| {
            if connected {
                *found = Found { failed: None, succeeded: Some(now) };
            } else if found.succeeded.is_none_or(|succeeded| succeeded < self.began) {
                // Otherwise it began in a time that is over.
                found.failed = Some(now);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_attempt_a_second_until_one_succeeds() {
        let (reconnects, start) = (Reconnects::default(), Instant::now());
        let (first, second) = (reconnects.begin(start).unwrap(), reconnects.begin(start).unwrap());
        first.end(false, start);
        assert!(reconnects.begin(start + PAUSE / 2).is_none(), "right after a failure");
        let later = start + PAUSE;
        let probe = reconnects.begin(later).unwrap();
        assert!(reconnects.begin(later + PAUSE / 2).is_none(), "beside the one that tries");
        probe.end(true, later + PAUSE / 2);
        second.end(false, later + PAUSE);
        let freely = [later + PAUSE, later + PAUSE].map(|now| reconnects.begin(now).is_some());
        assert_eq!(freely, [true, true], "a failure of before counts for nothing");
    }
}
