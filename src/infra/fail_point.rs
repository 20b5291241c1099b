//! The points at which the fault laboratory lets the process crash, fail or hang. Without the feature `fail-points`, and so in
//! every release, there is nothing here.
//!
//! `FAILPOINTS="confirmed=1*return(abort)"` in the environment arms one: `abort`, `panic`, `error`, or `hang` for two seconds;
//! `abort-on:TEXT` and `panic-on:TEXT` only when what is in hand contains the text.

use crate::error::Result;

/// Each point between a delivery and its acknowledgement, and those beside.
pub const POINTS: [&str; 11] = [
    "delivered",
    "parsed",
    "inbox-read",
    "resolved",
    "published-unconfirmed",
    "confirmed",
    "inbox-committed",
    "acked-unflushed",
    "retry-confirmed",
    "outbox-confirmed",
    "draining",
];

/// Each point of a write under an idempotency key, from the key's lock to the answer.
pub const KEYED_WRITE: [&str; 5] = ["key-locked", "key-unknown", "effect-done", "answer-stored", "answer-committed"];

/// Passes unless the point is armed.
#[cfg(not(feature = "fail-points"))]
#[expect(clippy::unused_async, reason = "with the feature it may sleep")]
pub async fn reach(_point: &'static str) -> Result<()> {
    Ok(())
}

/// The same for one message, whose text may decide.
#[cfg(not(feature = "fail-points"))]
pub fn reach_with(_point: &'static str, _body: &[u8]) {}

/// Passes unless the point is armed.
#[cfg(feature = "fail-points")]
pub async fn reach(point: &'static str) -> Result<()> {
    match armed(point).as_deref() {
        Some("abort") => std::process::abort(),
        #[expect(clippy::panic, reason = "it is asked for")]
        Some("panic") => panic!("the fail point '{point}'"),
        Some("error") => Err(crate::error::Error::internal(format!("the fail point '{point}'"))),
        Some("hang") => {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The same for one message, whose text may decide.
#[cfg(feature = "fail-points")]
pub fn reach_with(point: &'static str, body: &[u8]) {
    let action = armed(point);
    match action.as_deref().and_then(|action| action.split_once("-on:")) {
        Some((action, text)) if String::from_utf8_lossy(body).contains(text) => match action {
            "abort" => std::process::abort(),
            #[expect(clippy::panic, reason = "it is asked for")]
            "panic" => panic!("the fail point '{point}'"),
            _ => {}
        },
        _ => {}
    }
}

#[cfg(feature = "fail-points")]
fn armed(point: &'static str) -> Option<String> {
    fail::fail_point!(point, |action: Option<String>| action);
    None
}

/// Arms what `FAILPOINTS` says, until it is dropped.
#[cfg(feature = "fail-points")]
pub fn arm() -> fail::FailScenario<'static> {
    tracing::warn!("this build has fail points: it is for tests only");
    fail::FailScenario::setup()
}
