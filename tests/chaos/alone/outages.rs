//! One dependency away: what works goes on, what cannot is refused in time, and all recovers by itself.

use std::time::{Duration, Instant};

use serde_json::json;
use user_service::config::Role;
use user_service::infra::one_time_token::Purpose;

use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::wait::within;
use crate::support::{PASSWORD, SERVICE_KEY, Services, TestApp, eventually};
use crate::{by_form, only_on_a_set_of_its_own, services};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_is_503_never_401_and_no_push_is_lost() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let cast = Cast::register(&app).await;
    let (mut ledger, mut producer) = (Ledger::named("database-outage"), Producer::new(app.config.broker.clone()));
    let login = json!({"email": user.email, "password": PASSWORD});
    let refresh_token = app.client.post("/api/v1/auth/login", login).await.data()["refresh_token"].clone();
    let link = app.newest_link(&user.id, Purpose::EmailVerification).await;
    // Warm: the session and the card are cached.
    assert_eq!(me.get("/api/v1/users/preferences").await.status, 200);
    services(&["kill", "postgres"]).await;
    let started = Instant::now();
    for (method, path, body) in [
        ("GET", "/api/v1/auth/sessions", None),
        ("PATCH", "/api/v1/users/profile", Some(json!({"name": "x"}))),
        ("PATCH", "/api/v1/users/preferences", Some(json!({"push": false}))),
        ("DELETE", "/api/v1/users/profile", None),
        ("POST", "/api/v1/auth/login", Some(json!({"email": user.email, "password": PASSWORD}))),
        ("POST", "/api/v1/auth/refresh", Some(json!({"refresh_token": refresh_token}))),
        ("POST", "/api/v1/auth/verify-email", Some(json!({"token": link}))),
        // Known or unknown alike.
        ("POST", "/api/v1/auth/password-reset", Some(json!({"email": user.email}))),
        ("POST", "/api/v1/auth/password-reset", Some(json!({"email": "nobody@example.com"}))),
        ("POST", "/api/v1/users", Some(json!({"name": "x", "email": "x@example.com", "password": PASSWORD}))),
    ] {
        let asked = Instant::now();
        let answer = me.send(method, path, body.map(|body| body.to_string()).as_deref()).await;
        assert_eq!(answer.refusal(), (503, "unavailable".to_owned()), "{method} {path}");
        assert!((1..=5).contains(&answer.header("retry-after").unwrap().parse::<u32>().unwrap()));
        assert!(asked.elapsed() < Duration::from_millis(1_200), "{method} {path}: 503 after {:?}", asked.elapsed());
    }
    if started.elapsed() < Duration::from_secs(25) {
        for path in ["/api/v1/users/preferences", "/api/v1/users/profile"] {
            assert_eq!(me.get(path).await.status, 200, "{path} comes from the cache");
        }
    }
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    assert_eq!(service.get(&format!("/api/v1/users/{}", uuid::Uuid::now_v7())).await.status, 503);
    assert_eq!(app.client.get("/health/live").await.status, 200);
    assert_eq!(app.client.get("/health/ready").await.status, 503);
    assert_eq!(app.client.get("/health").await.json()["status"], json!("unhealthy"));
    let killed = Instant::now();
    for number in 0..5_000 {
        producer.publish(&mut ledger, &cast, &format!("o-{number}"), Kind::nth(number)).await;
    }
    eventually("the worker holds what it has", async || app.app.status.held() > 0).await;
    let broker = app.broker().await;
    assert_eq!(app.client.get("/health").await.json()["breakers"]["database"], json!("open"), "the breaker does not spare the database");
    assert_eq!((broker.waiting(&broker.names.failed_queue).await, broker.waiting(&broker.names.deliver_queue).await), (0, 0));
    // How long it lasts is what is tested here.
    tokio::time::sleep_until((killed + by_form(Duration::from_secs(60), Duration::from_secs(600))).into()).await;
    services(&["start", "postgres"]).await;
    within(Duration::from_secs(10), "the API recovers by itself", async || me.get("/api/v1/users/profile").await.status == 200).await;
    // What could not be done was not half done.
    assert_eq!(app.client.post("/api/v1/auth/refresh", json!({"refresh_token": refresh_token})).await.status, 200);
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": link})).await.status, 200);
    observe(&app, &mut ledger, Duration::from_secs(65)).await;
    check(&ledger, &cast, 0).assert_clean("5,000 queued while the database was away", 256);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_cache_is_slower_and_never_wrong() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let (me, broker) = (app.client.as_user(&user), app.broker().await);
    let events = broker.subscribe_events("push.skipped").await;
    assert_eq!(me.get("/api/v1/users/preferences").await.status, 200);
    broker.request_push(&user.id, "before").await;
    broker.delivered().await;
    services(&["kill", "redis"]).await;
    assert_eq!(me.get("/api/v1/users/preferences").await.data(), json!({"email": true, "push": true}));
    assert_eq!(me.get("/api/v1/users/profile").await.status, 200);
    assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.status, 200);
    broker.request_push(&user.id, "without").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("without"));
    // The opt-out happens while nobody can tell the cache, which still holds the old card when it comes back.
    assert_eq!(me.patch("/api/v1/users/preferences", json!({"push": false})).await.status, 200);
    broker.request_push(&user.id, "opted-out").await;
    broker.receive(&events, 1).await;
    assert_eq!(
        (app.client.get("/health").await.json()["status"].clone(), app.client.get("/health/ready").await.status),
        (json!("degraded"), 200)
    );
    services(&["start", "redis"]).await;
    broker.request_push(&user.id, "opted-out-too").await;
    broker.receive(&events, 1).await;
    eventually("health recovers", async || app.client.get("/health").await.json()["checks"]["cache"] == json!("healthy")).await;
    eventually("the outbox has told the cache", async || app.count("SELECT count(*) AS n FROM outbox WHERE done_at IS NULL").await == 0)
        .await;
    assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(false));
    assert_eq!(broker.waiting(&broker.names.deliver_queue).await, 0, "an opt-out was not honoured");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_started_before_its_dependencies_comes_up_when_they_do() {
    only_on_a_set_of_its_own();
    let healthy = TestApp::start().await;
    let (url, names) = (healthy.database_url.clone(), healthy.config.broker.clone());
    for name in ["postgres", "rabbitmq", "redis"] {
        services(&["kill", name]).await;
    }
    let starting = TestApp::launch(Services::from_env(), url, Role::Both, |config| config.broker = names);
    let mending = async {
        for name in ["redis", "rabbitmq", "postgres"] {
            services(&["start", name]).await;
        }
    };
    let (app, ()) = tokio::join!(starting, mending);
    within(Duration::from_secs(35), "it consumes", async || app.app.status.broker_connected()).await;
    let user = app.client.register("Ada").await;
    app.broker().await.request_push(&user.id, "late").await;
    assert_eq!(app.broker().await.delivered().await.message_id().as_deref(), Some("late"));
    drop(healthy);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_brokers_memory_alarm_blocks_publishers_everything_is_held() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let cast = Cast::register(&app).await;
    let (mut ledger, mut producer) = (Ledger::named("memory-alarm"), Producer::new(app.config.broker.clone()));
    producer.publish(&mut ledger, &cast, "before", Kind::Good).await;
    let settled = async || app.count("SELECT count(*) AS n FROM push_inbox").await;
    eventually("it works", async || settled().await == 1).await;
    // The worker is to have something to publish while it may not.
    app.sql("BEGIN; ALTER TABLE push_inbox RENAME TO push_inbox_away; COMMIT").await;
    for number in 0..500 {
        producer.publish(&mut ledger, &cast, &format!("a-{number}"), Kind::Good).await;
    }
    services(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.00000001"]).await;
    app.sql("ALTER TABLE push_inbox_away RENAME TO push_inbox").await;
    eventually("the worker holds what it has", async || app.app.status.held() > 0).await;
    // Longer than a confirm is waited for.
    tokio::time::sleep(Duration::from_secs(12)).await;
    // Each connection gets one publish through before the broker blocks it.
    let (during, arrived) = (settled().await, app.broker().await.waiting(&app.config.broker.deliver_queue).await);
    services(&["rabbitmqctl", "set_vm_memory_high_watermark", "0.4"]).await;
    observe(&app, &mut ledger, Duration::from_secs(65)).await;
    check(&ledger, &cast, 3).assert_clean("500 requests under a memory alarm", 256);
    assert!(during <= i64::from(arrived) && arrived < 50, "{during} were taken for delivered, {arrived} arrived");
    app.stop().await.unwrap();
}
