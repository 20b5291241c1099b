//! The only reader of the wall clock, so that tests can move time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Duration, SubsecRound, Utc};

/// Tells the time; a test's clock can be moved.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds that a test added; zero outside tests.
    offset: Arc<AtomicI64>,
}

impl Clock {
    /// Now, in the microseconds that PostgreSQL keeps, so that what is stored equals what was answered.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> DateTime<Utc> {
        (Utc::now() + Duration::milliseconds(self.offset.load(Ordering::Relaxed))).trunc_subsecs(6)
    }

    /// Moves this clock and its clones.
    pub fn advance(&self, by: std::time::Duration) {
        self.offset.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }

    /// The same the other way.
    pub fn turn_back(&self, by: std::time::Duration) {
        self.offset.fetch_sub(by.as_millis() as i64, Ordering::Relaxed);
    }
}
