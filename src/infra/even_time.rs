//! Answers that must not tell by their time whether an account exists.

use std::time::Duration;

use tokio::time::Instant;

/// Waits for the next whole multiple of `step` after `arrived`: whatever the work before took, below a step, cannot be
/// told from outside. Nothing is held meanwhile.
pub async fn wait(arrived: Instant, step: Duration) {
    tokio::time::sleep_until(arrived + due(arrived.elapsed(), step)).await;
}

fn due(worked: Duration, step: Duration) -> Duration {
    let steps = worked.as_nanos() / step.as_nanos().max(1) + 1;
    step * u32::try_from(steps).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_work_end_at_the_same_time() {
        let due = |worked| due(Duration::from_millis(worked), Duration::from_millis(100)).as_millis();
        for (worked, end) in [(0, 100), (1, 100), (99, 100), (100, 200), (250, 300)] {
            assert_eq!(due(worked), end, "{worked} ms of work");
        }
    }
}
