//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Longer than anything takes on a busy machine; a condition that holds is seen at once.
const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until the condition holds; panics with what was waited for.
pub async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    within(DEADLINE, what, condition).await;
}

/// The same with a deadline that is part of the claim.
pub async fn within(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !condition().await {
        assert!(started.elapsed() < deadline, "not within {deadline:?}: {what}");
        tick.tick().await;
    }
}
