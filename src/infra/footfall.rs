//! Whether so many are being served that what may wait should leave them room.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::{DefaultDirectRateLimiter, Quota};

/// So long after the last one above the rate it still counts as crowded.
const LINGER: Duration = Duration::from_millis(200);

/// Meters who comes. Clones share the meter.
#[derive(Clone, Debug)]
pub struct Footfall {
    meter: Arc<DefaultDirectRateLimiter>,
    began: Instant,
    /// Until when it is crowded, in milliseconds after the beginning.
    crowded_until: Arc<AtomicU64>,
}

impl Footfall {
    /// `crowd`: how many a second make it crowded; a tenth of it may come at once.
    pub fn new(crowd: NonZeroU32) -> Self {
        let at_once = NonZeroU32::new(crowd.get() / 10).unwrap_or(NonZeroU32::MIN);
        Self {
            meter: Arc::new(DefaultDirectRateLimiter::direct(Quota::per_second(crowd).allow_burst(at_once))),
            began: Instant::now(),
            crowded_until: Arc::default(),
        }
    }

    /// One more.
    pub fn count(&self) {
        if self.meter.check().is_err() {
            self.crowded_until.store(self.milliseconds() + LINGER.as_millis() as u64, Ordering::Relaxed);
        }
    }

    pub fn is_crowded(&self) -> bool {
        self.milliseconds() < self.crowded_until.load(Ordering::Relaxed)
    }

    fn milliseconds(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_crowded_while_many_come_and_a_little_longer() {
        let footfall = Footfall::new(NonZeroU32::new(100).unwrap());
        // One as long as ten come at once.
        footfall.count();
        assert!(!footfall.is_crowded());
        (0..1_000).for_each(|_| footfall.clone().count());
        assert!(footfall.is_crowded());
        let emptied = Instant::now();
        while footfall.is_crowded() {
            assert!(emptied.elapsed() < LINGER * 2, "still crowded after {:?}", emptied.elapsed());
            std::thread::yield_now();
        }
    }
}
