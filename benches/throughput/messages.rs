//! The worker against a bare relay between the same kinds of queue.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::*;
use lapin::types::FieldTable;
use lapin::{BasicProperties, Confirmation};
use serde_json::json;
use user_service::config::Role;

use crate::support::client::TestUser;
use crate::support::{Services, TestApp, TestBroker};
use crate::{Marks, median};

const MESSAGES: usize = 20_000;
const USERS: usize = 1_000;
const ROUNDS: usize = 5;

/// Its ratio to a bare consume–publish–confirm–ack relay.
pub async fn run(marks: &mut Marks) {
    // Declares the queues, then leaves them to the relay.
    let owner = TestApp::start_with(Role::Both, |_| {}).await;
    let registering = futures_util::stream::iter(0..USERS).map(|_| owner.client.register("Ada"));
    let users: Vec<TestUser> = registering.buffer_unordered(8).collect().await;
    let database_url = owner.database_url.clone();
    let broker = owner.broker().await;
    owner.halt().await;

    // One round after the other, so that what else the machine does falls on all alike.
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 1..=ROUNDS {
        fill(&broker, &users).await;
        let bare_rate = MESSAGES as f64 / bare_relay(&broker).await.as_secs_f64();
        empty(&broker).await;
        let mut line = format!("round {round}: bare {bare_rate:.0}/s");
        for (place, what) in ["cold", "warm"].into_iter().enumerate() {
            fill(&broker, &users).await;
            let rate = worker_rate(&broker, &database_url, &format!("bench-{round}")).await;
            empty(&broker).await;
            line += &format!(", worker {what} {rate:.0}/s ({:.2})", rate / bare_rate);
            ratios[place].push(rate / bare_rate);
        }
        println!("{line}");
    }
    let asked = [("worker, cache empty at its start", 0.25), ("worker, every user cached", 0.5)];
    for ((what, asked), ratios) in asked.into_iter().zip(ratios) {
        let ratio = median(ratios);
        let figure = format!("{what:<44} median ratio {ratio:.2} of a bare consume, publish, confirm, ack (asked: {asked:.2})");
        marks.note(figure, ratio >= asked);
    }
    broker.delete_all().await;
}

async fn empty(broker: &TestBroker) {
    broker.channel.queue_purge(broker.names.deliver_queue.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
}

/// From its first delivery to its last; Redis knows of nobody under a prefix that is new.
async fn worker_rate(broker: &TestBroker, database_url: &str, redis_prefix: &str) -> f64 {
    let app = TestApp::launch(Services::from_env(), database_url.to_owned(), Role::Worker, |config| {
        config.broker = broker.names.clone();
        config.redis_prefix = redis_prefix.to_owned();
        config.database.pool_size = 16;
    })
    .await;
    let (first, delivered) = wait_for(broker, 1).await;
    let (last, _) = wait_for(broker, MESSAGES).await;
    app.halt().await;
    (MESSAGES - delivered) as f64 / last.duration_since(first).as_secs_f64()
}

async fn fill(broker: &TestBroker, users: &[TestUser]) {
    let mut confirms = Vec::new();
    for n in 0..MESSAGES {
        let body = json!({"notification_type": "push", "user_id": users[n % users.len()].id, "template_code": "WELCOME",
            "variables": {"link": "https://example.com"}, "request_id": uuid::Uuid::now_v7().to_string()});
        let (exchange, key) = (broker.names.exchange.as_str().into(), broker.names.push_key.as_str().into());
        let properties = BasicProperties::default().with_delivery_mode(2);
        confirms.push(
            broker
                .channel
                .basic_publish(exchange, key, BasicPublishOptions::default(), body.to_string().as_bytes(), properties)
                .await
                .unwrap(),
        );
    }
    assert!(join_all(confirms).await.into_iter().all(|confirm| confirm.unwrap() == Confirmation::Ack(None)));
}

async fn bare_relay(broker: &TestBroker) -> Duration {
    let channel = broker.connection.create_channel().await.unwrap();
    channel.basic_qos(256, BasicQosOptions::default()).await.unwrap();
    let (queue, exchange, key) = (&broker.names.push_queue, &broker.names.exchange, &broker.names.deliver_key);
    let mut consumer =
        channel.basic_consume(queue.as_str().into(), "bare".into(), BasicConsumeOptions::default(), FieldTable::default()).await.unwrap();
    let started = Instant::now();
    let (mut done, mut seen) = (0, HashSet::new());
    while done < MESSAGES {
        let mut batch = vec![consumer.next().await.unwrap().unwrap()];
        while let Some(Some(delivery)) = consumer.next().now_or_never() {
            batch.push(delivery.unwrap());
        }
        let mut confirms = Vec::with_capacity(batch.len());
        for delivery in &batch {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let properties = BasicProperties::default().with_delivery_mode(2);
            confirms.push(
                broker
                    .channel
                    .basic_publish(exchange.as_str().into(), key.as_str().into(), options, &delivery.data, properties)
                    .await
                    .unwrap(),
            );
        }
        assert!(join_all(confirms).await.into_iter().all(|confirm| confirm.unwrap() == Confirmation::Ack(None)));
        let last = batch.last().unwrap().delivery_tag;
        channel.basic_ack(last, BasicAckOptions { multiple: true }).await.unwrap();
        seen.extend(batch.iter().map(|delivery| delivery.delivery_tag));
        done += batch.len();
    }
    assert_eq!(seen.len(), MESSAGES);
    let elapsed = started.elapsed();
    channel.close(200, "done".into()).await.unwrap();
    elapsed
}

/// When at least so many had been delivered, and how many it were.
async fn wait_for(broker: &TestBroker, count: usize) -> (Instant, usize) {
    // Seldom, and on one channel: the asking must not be what is measured.
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let queue = broker.names.deliver_queue.as_str();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let answer = broker.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
        let delivered = answer.message_count() as usize;
        if delivered >= count {
            return (Instant::now(), delivered);
        }
        assert!(Instant::now() < deadline, "not {count} deliveries within two minutes");
        tick.tick().await;
    }
}
