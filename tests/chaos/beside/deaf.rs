//! A request queue that is deleted while another part of the process sees to the topology: the consumer may never be told.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::QueueDeleteOptions;

use crate::support::TestApp;
use crate::support::wait::within;
use crate::{by_form, only_on_a_set_of_its_own};

/// A minute until a subscription that hears nothing is taken anew, and half of one to spare.
const PATIENCE: Duration = Duration::from_secs(90);

/// Above which a consumer was deaf, and not just told late.
const DEAF: Duration = Duration::from_secs(15);

/// How long it took from the request to its delivery.
async fn delete_and_ask() -> Duration {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let queue = &broker.names.push_queue;
    // Its mail has the relay connect, and see to the topology, right now.
    let user = app.client.register("Ada").await;
    broker.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    within(PATIENCE, "the queue is made again, and bound", async || broker.try_request_push(&user.id, "again").await).await;
    let asked = Instant::now();
    within(PATIENCE, "the request is delivered", async || broker.waiting(&broker.names.deliver_queue).await > 0).await;
    let took = asked.elapsed();
    app.stop().await.unwrap();
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_not_told_of_its_queues_end_subscribes_anew() {
    only_on_a_set_of_its_own();
    let mut took = Vec::new();
    for _ in 0..by_form(2, 12) {
        took.extend(join_all((0..6).map(|_| delete_and_ask())).await);
    }
    let deaf = took.iter().filter(|took| **took > DEAF).count();
    println!("deaf: {} queues deleted, {deaf} consumers were not told, the longest silence {:.1?}", took.len(), took.iter().max().unwrap());
}
