//! Memory, while a backlog is worked off.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Confirmation};
use serde_json::json;

use crate::ledger::{Cast, Kind, Ledger, Producer};
use crate::support::{TestBroker, eventually};
use crate::worker::Worker;
use crate::{api_with_queues, by_form};

/// What is published before its confirms are awaited.
const CHUNK: usize = 1_000;

/// Of 300 KB each, all of which the broker hands out at once.
const OVERSIZED: i64 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_and_oversized_messages_do_not_grow_the_process() {
    let backlog = by_form(20_000, 1_000_000);
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let worker = Worker::start(&app, &[]);
    let settled = async || app.count("SELECT count(*) AS n FROM push_inbox").await;
    let mut first = Producer::new(app.config.broker.clone());
    first.publish(&mut Ledger::default(), &cast, "warm", Kind::Good).await;
    eventually("it works", async || settled().await == 1).await;
    let broker = app.broker().await;
    let before = worker.resident_kib();
    let grown_until = async |count: i64| {
        worker.resume().await;
        let mut highest = before;
        while settled().await < count {
            highest = worker.resident_kib().max(highest);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (highest - before) / 1024
    };
    worker.pause().await;
    for chunk in 0..backlog / CHUNK {
        fill(&broker, &cast, chunk).await;
    }
    let by_backlog = grown_until(backlog as i64 + 1).await;
    worker.pause().await;
    let large = json!({"user_id": cast.ada.id, "template_code": "X", "text": "x".repeat(300_000)}).to_string();
    for _ in 0..OVERSIZED {
        broker.publish(large.as_bytes(), BasicProperties::default()).await;
    }
    let by_size = grown_until(backlog as i64 + 1 + OVERSIZED).await;
    println!(
        "memory: {} MiB at rest, {by_backlog} MiB more with a backlog of {backlog}, {by_size} MiB with {OVERSIZED} oversized messages",
        before / 1024
    );
    assert!(by_backlog.max(by_size) < 64, "{by_backlog}, {by_size} MiB more");
    worker.stop().await;
    app.stop().await.unwrap();
}

async fn fill(broker: &TestBroker, cast: &Cast, chunk: usize) {
    let mut confirms = Vec::with_capacity(CHUNK);
    for number in 0..CHUNK {
        let (exchange, key) = (broker.names.exchange.as_str().into(), broker.names.push_key.as_str().into());
        let body = cast.body(&format!("b-{chunk}-{number}"), Kind::Good);
        let properties = BasicProperties::default().with_delivery_mode(2);
        confirms.push(broker.channel.basic_publish(exchange, key, BasicPublishOptions::default(), &body, properties).await.unwrap());
    }
    assert!(join_all(confirms).await.into_iter().all(|confirm| confirm.unwrap() == Confirmation::Ack(None)));
}
