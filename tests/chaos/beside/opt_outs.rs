//! An opt-out that was answered with 200 binds, whatever the cache does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use user_service::config::Role;

use crate::ledger::{Cast, Kind, Ledger, Producer};
use crate::only_on_a_set_of_its_own;
use crate::proxy::{Fault, FaultProxy};
use crate::support::client::TestUser;
use crate::support::wait::within;
use crate::support::{Services, TestApp};
use crate::worker::Worker;

const USERS: usize = 50;

/// Each user opts in and out so often in each weather.
const TURNS: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Healthy,
    Gone,
    /// Up and down by the third of a second: shorter than a bypass, so that hits, misses and failures mix.
    Flapping,
}

#[tokio::test(flavor = "multi_thread")]
async fn of_1050_opt_outs_none_is_passed_over_whether_redis_is_there_gone_or_flapping() {
    opt_outs_bind(Role::Both).await;
}

/// Then the worker's cache is well, and nobody tells it of a change.
#[tokio::test(flavor = "multi_thread")]
async fn of_1050_opt_outs_none_is_passed_over_where_only_the_api_is_cut_off_from_redis() {
    opt_outs_bind(Role::Api).await;
}

/// What `role` does not do is another process's, which reaches Redis whatever happens.
async fn opt_outs_bind(role: Role) {
    only_on_a_set_of_its_own();
    let services = Services::from_env();
    let address = url::Url::parse(&services.redis_url).unwrap();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", address.port().unwrap())).await;
    let redis_url = proxy.url(&services.redis_url);
    let broker_url = services.rabbitmq_url.clone();
    let app = TestApp::start_with(role, |config| {
        config.redis_url = redis_url.into();
        config.broker.url = Some(broker_url.into());
    })
    .await;
    let worker = (!role.has_worker()).then(|| Worker::start(&app, &[]));
    let registering = futures_util::future::join_all((0..USERS).map(|_| app.client.register("Ada")));
    let users: Vec<TestUser> = registering.await;
    let done = AtomicBool::new(false);
    let opting_out = async {
        for weather in [Weather::Healthy, Weather::Gone, Weather::Flapping] {
            proxy.set(if weather == Weather::Gone { Fault::Reset } else { Fault::None });
            let changing = opt_out_all(&app, &users, weather);
            let flapping = async {
                let mut up = tokio::time::interval(Duration::from_millis(330));
                loop {
                    up.tick().await;
                    proxy.set(Fault::Reset);
                    up.tick().await;
                    proxy.set(Fault::None);
                }
            };
            if weather == Weather::Flapping {
                tokio::select! { () = changing => {}, () = flapping => {} }
            } else {
                changing.await;
            }
        }
        proxy.set(Fault::None);
        done.store(true, Ordering::Relaxed);
    };
    // Readers fill the cache all the while, also with what they read just before a change.
    let reading = async {
        while !done.load(Ordering::Relaxed) {
            for user in &users {
                app.client.as_user(user).get("/api/v1/users/preferences/").await;
            }
        }
    };
    tokio::join!(opting_out, reading);
    let opted_out = (3 * USERS * TURNS) as i64;
    expect_decided(&app, "out-%", opted_out).await;
    let skipped = "SELECT count(*) AS n FROM push_inbox WHERE outcome = 'skipped' AND reason = 'push_disabled' AND message_id LIKE 'out-%'";
    let delivered = "SELECT count(*) AS n FROM push_inbox WHERE outcome = 'delivered' AND message_id LIKE 'in-%'";
    let broker = app.broker().await;
    let all_the_same = i64::from(broker.waiting(&broker.names.deliver_queue).await) - opted_out;
    println!("opt-outs: {opted_out} answered, {all_the_same} delivered all the same");
    assert_eq!((app.count(skipped).await, app.count(delivered).await, all_the_same), (opted_out, opted_out, 0));
    if let Some(worker) = worker {
        worker.stop().await;
    }
    app.stop().await.unwrap();
}

async fn opt_out_all(app: &TestApp, users: &[TestUser], weather: Weather) {
    let (mut ledger, mut producer) = (Ledger::default(), Producer::new(app.config.broker.clone()));
    for turn in 0..TURNS {
        // Whoever is in gets it, and his card, which says so, is cached by the one that decides.
        for (wanted, name, kind) in [(true, "in", Kind::Good), (false, "out", Kind::OptedOut)] {
            let id = format!("{name}-{weather:?}-{turn}");
            for user in users {
                set_push(app, user, wanted).await;
                let cast = Cast { ada: user.clone(), bob: user.clone() };
                producer.publish(&mut ledger, &cast, &id, kind).await;
            }
            expect_decided(app, &id, users.len() as i64).await;
        }
    }
}

/// Waits until so many requests with ids like this are decided.
async fn expect_decided(app: &TestApp, id: &str, count: i64) {
    let decided = format!("SELECT count(*) AS n FROM push_inbox WHERE message_id LIKE '{id}'");
    within(Duration::from_secs(60), "every request is decided", async || app.count(&decided).await == count).await;
}

/// Until it is answered with 200, as an app would that is told to come back.
async fn set_push(app: &TestApp, user: &TestUser, wanted: bool) {
    within(Duration::from_secs(30), "the change is taken", async || {
        app.client.as_user(user).patch("/api/v1/users/preferences/", json!({"push": wanted})).await.status == 200
    })
    .await;
}
