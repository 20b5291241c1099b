//! Silence, and other answers that are no success: a full queue, no queue, no exchange, no answer.

use std::time::Duration;

use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};

use crate::api_with_queues;
use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::proxy::{Fault, FaultProxy};
use crate::support::{Services, TestApp, TestBroker, eventually};
use crate::worker::Worker;

const MESSAGES: usize = 40;
const PATIENCE: Duration = Duration::from_secs(60);

struct Scene {
    app: TestApp,
    cast: Cast,
    broker: TestBroker,
    ledger: Ledger,
}

impl Scene {
    async fn set(name: &str) -> Self {
        let app = api_with_queues().await;
        let (cast, broker) = (Cast::register(&app).await, app.broker().await);
        Self { app, cast, broker, ledger: Ledger::named(name) }
    }

    async fn publish(&mut self) {
        let mut producer = Producer::new(self.app.config.broker.clone());
        for number in 0..MESSAGES {
            producer.publish(&mut self.ledger, &self.cast, &format!("s-{number}"), Kind::Good).await;
        }
    }

    /// Everything arrives, and nothing twice but what the worker could not know of.
    async fn end(mut self, what: &str, worker: Worker, duplicates: usize) {
        observe(&self.app, &mut self.ledger, PATIENCE).await;
        check(&self.ledger, &self.cast, 0).assert_clean(what, duplicates);
        worker.stop().await;
        self.app.stop().await.unwrap();
    }

    async fn settled(&self) -> i64 {
        self.app.count("SELECT count(*) AS n FROM push_inbox").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_waited_for() {
    let mut scene = Scene::set("full-queue").await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(10));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = scene.broker.names.deliver_queue.clone();
    scene.broker.channel.queue_declare(queue.as_str().into(), durable, arguments).await.unwrap();
    let worker = Worker::start(&scene.app, &[]);
    scene.publish().await;
    eventually("the queue is full", async || scene.settled().await >= 10).await;
    assert!(scene.settled().await < MESSAGES as i64, "a refused delivery was taken for one");
    scene.end("a full delivery queue", worker, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_no_queue_takes_is_kept() {
    let mut scene = Scene::set("unbound").await;
    let worker = Worker::start(&scene.app, &[]);
    scene.publish().await;
    eventually("they flow", async || scene.settled().await == MESSAGES as i64).await;
    let names = scene.broker.names.clone();
    let (queue, exchange, key) = (names.deliver_queue.as_str().into(), names.exchange.as_str().into(), names.deliver_key.as_str().into());
    let channel = scene.broker.connection.create_channel().await.unwrap();
    channel.queue_unbind(queue, exchange, key, FieldTable::default()).await.unwrap();
    let mut producer = Producer::new(names.clone());
    for number in 0..MESSAGES {
        producer.publish(&mut scene.ledger, &scene.cast, &format!("u-{number}"), Kind::Good).await;
    }
    // How long nobody takes them is what is tested here: longer than the breaker is open.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scene.settled().await, MESSAGES as i64, "an unroutable delivery was taken for one");
    let (queue, exchange, key) = (names.deliver_queue.as_str().into(), names.exchange.as_str().into(), names.deliver_key.as_str().into());
    channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await.unwrap();
    scene.end("a delivery queue without its binding", worker, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_vanished_is_made_again() {
    let mut scene = Scene::set("missing-exchange").await;
    let worker = Worker::start(&scene.app, &[]);
    scene.publish().await;
    eventually("they flow", async || scene.settled().await == MESSAGES as i64).await;
    // The worker has them on their way to it, and the exchange is gone when it publishes.
    worker.pause().await;
    let mut producer = Producer::new(scene.app.config.broker.clone());
    for number in 0..MESSAGES {
        producer.publish(&mut scene.ledger, &scene.cast, &format!("e-{number}"), Kind::Good).await;
    }
    scene.broker.channel.exchange_delete(scene.broker.names.exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    worker.resume().await;
    scene.end("an exchange that vanished", worker, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirm_that_never_comes_is_no_confirm() {
    let mut scene = Scene::set("lost-confirms").await;
    let url = Services::from_env().rabbitmq_url;
    let address = url::Url::parse(&url).unwrap();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", address.port().unwrap())).await;
    let worker = Worker::start(&scene.app, &[("RABBITMQ_URL", &proxy.url(&url))]);
    scene.publish().await;
    eventually("they flow", async || scene.settled().await > 0).await;
    let mut producer = Producer::new(scene.app.config.broker.clone());
    for number in 0..MESSAGES {
        if number == MESSAGES / 2 {
            proxy.set(Fault::BlackHole);
        }
        producer.publish(&mut scene.ledger, &scene.cast, &format!("c-{number}"), Kind::Good).await;
    }
    // Longer than a confirm is waited for.
    tokio::time::sleep(Duration::from_secs(14)).await;
    proxy.set(Fault::None);
    scene.end("confirms that never came", worker, 2 * MESSAGES).await;
}
