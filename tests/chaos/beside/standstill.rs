//! A worker that stands still (SIGSTOP, a paused machine) for longer than broker and database wait for it, and goes on.

use std::time::Duration;

use crate::api_with_queues;
use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::eventually;
use crate::worker::Worker;

/// Longer than two heartbeats of 20 s, by which the broker gives its messages to somebody else.
const STANDSTILL: Duration = Duration::from_secs(90);

/// What one may have in hand when it is stopped.
const PREFETCH: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn who_stood_still_for_a_minute_and_a_half_repeats_nothing_that_was_done_for_him() {
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let (mut ledger, broker) = (Ledger::named("standstill"), app.broker().await);
    let prefetch = PREFETCH.to_string();
    let start = || Worker::start(&app, &[("WORKER_PREFETCH", &prefetch)]);
    let stopped = start();
    let names = app.config.broker.clone();
    let consumers = async || broker.find_queue(&names.push_queue).await.map_or(0, |queue| queue.consumer_count());
    eventually("the first one consumes", async || consumers().await == 1).await;
    let other = start();
    eventually("both consume", async || consumers().await == 2).await;
    let publishing = async {
        let mut producer = Producer::new(names.clone());
        // Before, during, and after: 25 a second.
        let mut pace = tokio::time::interval(Duration::from_millis(40));
        for number in 0..2_750 {
            pace.tick().await;
            producer.publish(&mut ledger, &cast, &format!("s-{number}"), Kind::nth(number)).await;
        }
    };
    let standing_still = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stopped.pause().await;
        tokio::time::sleep(STANDSTILL).await;
        assert_eq!(consumers().await, 1, "the broker still waits for it");
        stopped.resume().await;
        eventually("it consumes again", async || consumers().await == 2).await;
    };
    tokio::join!(publishing, standing_still);
    observe(&app, &mut ledger, Duration::from_secs(30)).await;
    check(&ledger, &cast, 0).assert_clean("a standstill of 90 s", PREFETCH);
    for worker in [stopped, other] {
        worker.stop().await;
    }
    app.stop().await.unwrap();
}
