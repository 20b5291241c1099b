//! Broker, database, cache and worker are killed in turn while requests flow.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::TestApp;
use crate::support::wait::within;
use crate::worker::Worker;
use crate::{api_with_queues, by_form, services};

/// Sooner after its start RabbitMQ 3.10 loses what it just registered: docs/decisions/quorum-queues.md.
const BETWEEN_KILLS: Duration = Duration::from_secs(6);

/// Publishes until told to stop, and at least `count`.
async fn produce(app: &TestApp, cast: &Cast, ledger: &mut Ledger, pace: Duration, count: usize, done: &std::sync::atomic::AtomicBool) {
    let mut producer = Producer::new(app.config.broker.clone());
    let mut pace = tokio::time::interval(pace);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0.. {
        if number >= count && done.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        pace.tick().await;
        producer.publish(ledger, cast, &format!("k-{number}"), Kind::nth(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_broker_database_cache_and_worker_lose_no_confirmed_request() {
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    for seed in 0..by_form(1, 3) {
        run(&app, &cast, seed).await;
        app.sql("TRUNCATE push_inbox").await;
    }
    app.stop().await.unwrap();
}

async fn run(app: &TestApp, cast: &Cast, seed: u32) {
    let (kills, count) = by_form((3, 2_000), (10, 10_000));
    let mut ledger = Ledger::named(&format!("kills-{seed}"));
    let mut worker = Worker::start(app, &[]);
    let (mut mailed, done) = (Vec::new(), std::sync::atomic::AtomicBool::new(false));
    let started = Instant::now();
    let killing = async {
        for kill in 0..kills * 4 {
            tokio::time::sleep(BETWEEN_KILLS).await;
            // Another order with each seed.
            match (kill + seed) % 4 {
                0 => {
                    services(&["kill", "rabbitmq"]).await;
                    // The API never needs the broker.
                    let bob = app.client.register("Bob").await;
                    assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": bob.email})).await.status, 200);
                    mailed.extend([("email_verification", bob.email.clone()), ("password_reset", bob.email)]);
                    assert_eq!(app.client.get("/health/ready").await.status, 200);
                    services(&["start", "rabbitmq"]).await;
                }
                1 => {
                    services(&["kill", "postgres"]).await;
                    services(&["start", "postgres"]).await;
                }
                2 => {
                    services(&["kill", "redis"]).await;
                    services(&["start", "redis"]).await;
                }
                _ => {
                    worker.kill().await;
                    worker = Worker::start(app, &[]);
                }
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let pace = Duration::from_millis(by_form(15, 3));
    tokio::join!(killing, produce(app, cast, &mut ledger, pace, count, &done));
    let produced = started.elapsed();
    observe(app, &mut ledger, Duration::from_secs(120)).await;
    let what = format!("{kills} kills each of broker, database, cache and worker in {produced:.0?}, seed {seed}");
    // What a killed worker, broker or database had in hand may come again: a batch each.
    check(&ledger, cast, 0).assert_clean(&what, kills as usize * 3 * 256);
    let broker = crate::support::TestBroker::connect(app.config.broker.clone()).await;
    let mut missing = mailed;
    within(Duration::from_secs(60), "every mail arrived", async || {
        // As many as there are: a mail may come twice, and those of who registered first are among them.
        let waiting = broker.waiting(&broker.names.email_queue).await as usize;
        for mail in broker.receive(&broker.names.email_queue, waiting).await {
            let body = mail.json();
            missing.retain(|(template, email)| !(body["template_code"] == *template && body["variables"]["email"] == *email));
        }
        missing.is_empty()
    })
    .await;
    worker.stop().await;
}
