//! A network that misbehaves between the worker and each of its dependencies.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::proxy::{Fault, FaultProxy};
use crate::support::wait::within;
use crate::support::{Services, TestApp};
use crate::worker::Worker;
use crate::{api_with_queues, by_form};

const FAULTS: [Fault; 5] = [Fault::Latency(Duration::from_millis(50)), Fault::BlackHole, Fault::Reset, Fault::Slice, Fault::HalfOpen];

/// A worker that reaches its dependencies through proxies: PostgreSQL, Redis, RabbitMQ.
struct Wired {
    app: TestApp,
    cast: Cast,
    worker: Worker,
    proxies: [(&'static str, FaultProxy); 3],
}

impl Wired {
    async fn start() -> Self {
        let app = api_with_queues().await;
        let cast = Cast::register(&app).await;
        let services = Services::from_env();
        let proxy = async |url: &str| {
            let address = url::Url::parse(url).unwrap();
            FaultProxy::start(&format!("127.0.0.1:{}", address.port().unwrap())).await
        };
        let (database, cache, broker) =
            (proxy(&app.database_url).await, proxy(&services.redis_url).await, proxy(&services.rabbitmq_url).await);
        let changes = [
            ("DATABASE_URL", database.url(&app.database_url)),
            ("REDIS_URL", cache.url(&services.redis_url)),
            ("RABBITMQ_URL", broker.url(&services.rabbitmq_url)),
        ];
        let worker = Worker::start(&app, &changes.each_ref().map(|(name, url)| (*name, url.as_str())));
        Self { app, cast, worker, proxies: [("database", database), ("cache", cache), ("broker", broker)] }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_network_does_to_a_dependency_nothing_is_lost_and_no_retry_is_spent() {
    let Wired { app, cast, worker, proxies } = Wired::start().await;
    let (mut ledger, done) = (Ledger::named("network"), AtomicBool::new(false));
    let disturbing = async {
        for fault in FAULTS {
            for (name, proxy) in &proxies {
                last(Duration::from_millis(1_500)).await;
                println!("network: {fault:?} of the {name}");
                proxy.set(fault);
                last(by_form(Duration::from_secs(2), Duration::from_secs(12))).await;
                proxy.set(Fault::None);
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    let producing = async {
        let mut producer = Producer::new(app.config.broker.clone());
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        for number in 0.. {
            if done.load(Ordering::Relaxed) {
                return;
            }
            pace.tick().await;
            producer.publish(&mut ledger, &cast, &format!("n-{number}"), Kind::nth(number)).await;
        }
    };
    tokio::join!(disturbing, producing);
    observe(&app, &mut ledger, Duration::from_secs(60)).await;
    check(&ledger, &cast, 0).assert_clean("15 network faults", 15 * 256);
    worker.stop().await;
    app.stop().await.unwrap();
}

/// How long a fault lasts is what is tested here.
async fn last(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_flaps_and_one_that_is_long_away_are_found_again_within_35_seconds() {
    let Wired { app, cast, worker, proxies } = Wired::start().await;
    let (mut ledger, mut producer) = (Ledger::named("flaps"), Producer::new(app.config.broker.clone()));
    let broker = &proxies[2].1;
    let mut number = 0;
    for away in [vec![Duration::from_secs(1); by_form(10, 100)], vec![by_form(Duration::from_secs(60), Duration::from_secs(600))]].concat()
    {
        broker.set(Fault::Reset);
        last(away).await;
        broker.set(Fault::None);
        producer.publish(&mut ledger, &cast, &format!("f-{number}"), Kind::Good).await;
        number += 1;
        last(Duration::from_secs(1)).await;
    }
    let settled = "SELECT count(*) AS n FROM push_inbox WHERE outcome = 'delivered'";
    within(Duration::from_secs(35), "everything is delivered", async || app.count(settled).await == number).await;
    // One consumes, one publishes.
    within(Duration::from_secs(35), "no connection is left over", async || broker.open() == 2).await;
    observe(&app, &mut ledger, Duration::from_secs(10)).await;
    check(&ledger, &cast, 0).assert_clean("a flapping broker", number as usize);
    worker.stop().await;
    app.stop().await.unwrap();
}
