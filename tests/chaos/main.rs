//! The service while what it depends on is killed. It has a set of services of its own: `make chaos-short`.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the figures are worth seeing")]

#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "shared with tests/it, which uses more of it")]
mod support;

use std::collections::HashSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use secrecy::ExposeSecret as _;
use serde_json::json;
use support::smtp::{MailServer, Mood};
use support::wait::within;
use support::{SERVICE_KEY, TestApp, eventually};
use tokio::process::Command;
use user_service::config::{Broker, MailTransport, Role, Smtp};

/// Kills or starts one service of this set.
async fn services(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let done = Command::new(script).args(arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).status().await.unwrap();
    assert!(done.success(), "scripts/services {arguments:?}");
}

/// Refuses to run against the set that developers use.
#[expect(clippy::disallowed_methods, reason = "tests are told where the services are")]
fn only_on_a_set_of_its_own() {
    assert_eq!(std::env::var("SERVICES_SET").as_deref(), Ok("chaos"), "these tests kill services: run `make chaos-short`");
}

/// Publishes with confirms, over any number of connections, until every id is confirmed.
struct Producer {
    names: Broker,
    user_id: String,
    confirmed: HashSet<usize>,
    line: Option<(Connection, lapin::Channel)>,
}

impl Producer {
    fn new(names: Broker, user_id: &str) -> Self {
        Self { names, user_id: user_id.to_owned(), confirmed: HashSet::new(), line: None }
    }

    /// An unconfirmed publish says nothing: it is repeated under the same id.
    async fn publish(&mut self, id: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.try_publish(id).await.unwrap_or(false) {
            assert!(Instant::now() < deadline, "no confirm for {id} within a minute");
            self.line = None;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.confirmed.insert(id);
    }

    async fn try_publish(&mut self, id: usize) -> lapin::Result<bool> {
        if self.line.is_none() {
            let connection = Connection::connect(self.names.url.as_ref().unwrap().expose_secret(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            self.line = Some((connection, channel));
        }
        let Some((_, channel)) = &self.line else { return Ok(false) };
        let body = json!({"user_id": self.user_id, "template_code": "X", "request_id": id.to_string()}).to_string();
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.names.exchange.as_str().into(), self.names.push_key.as_str().into());
        let publishing = async {
            let properties = BasicProperties::default().with_delivery_mode(2);
            channel.basic_publish(exchange, key, options, body.as_bytes(), properties).await?.await
        };
        let confirmation = tokio::time::timeout(Duration::from_secs(5), publishing).await;
        Ok(matches!(confirmation, Ok(Ok(Confirmation::Ack(None)))))
    }
}

/// Ids on the delivery queue until every wanted one is among them, and how many came more than once.
async fn delivered(names: &Broker, wanted: &HashSet<usize>) -> (HashSet<usize>, usize) {
    let (mut seen, mut raw) = (HashSet::new(), 0);
    let deadline = Instant::now() + Duration::from_secs(90);
    while !wanted.is_subset(&seen) {
        // A quorum queue refuses (541) while it elects a leader after the broker's start: the next round asks again.
        let _ = observe(names, &mut seen, &mut raw).await;
        assert!(Instant::now() < deadline, "lost: {:?}", wanted.difference(&seen).take(10).collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let duplicates = raw - seen.len();
    (seen, duplicates)
}

fn report(what: &str, confirmed: &HashSet<usize>, seen: &HashSet<usize>, duplicates: usize) {
    let (lost, invented) = (confirmed.difference(seen).count(), seen.difference(confirmed).count());
    println!(
        "{what}: confirmed {}, delivered {}, lost {lost}, invented {invented}, raw duplicates {duplicates}",
        confirmed.len(),
        seen.len()
    );
}

/// Takes what is there; acknowledged only once it is noted.
async fn observe(names: &Broker, seen: &mut HashSet<usize>, raw: &mut usize) -> lapin::Result<()> {
    let connection = Connection::connect(names.url.as_ref().unwrap().expose_secret(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    while let Some(message) = channel.basic_get(names.deliver_queue.as_str().into(), BasicGetOptions::default()).await? {
        let id = message.delivery.properties.message_id().as_ref().unwrap().as_str().parse().unwrap();
        // Taken before and not acknowledged: the same message, not another one.
        *raw += usize::from(!(message.delivery.redelivered && seen.contains(&id)));
        seen.insert(id);
        message.delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    connection.close(200, "observed".into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_broker_costs_no_confirmed_request() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let mut producer = Producer::new(app.config.broker.clone(), &user.id);
    let mut mailed = vec![("email_verification", user.email.clone())];
    // At a steady rate, so that each kill comes more than 5 seconds after the start before it. Sooner, RabbitMQ 3.10 loses
    // what it just registered: docs/decisions/quorum-queues.md.
    let mut pace = tokio::time::interval(Duration::from_millis(8));
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for id in 0..2_400 {
        pace.tick().await;
        if [700, 1_400, 2_100].contains(&id) {
            services(&["kill", "rabbitmq"]).await;
            // The API never needs the broker.
            assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile").await.status, 200);
            let bob = app.client.register("Bob").await;
            assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": bob.email})).await.status, 200);
            mailed.extend([("email_verification", bob.email.clone()), ("password_reset", bob.email)]);
            assert_eq!(app.client.get("/health/ready").await.status, 200);
            eventually("health says degraded", async || app.client.get("/health").await.json()["checks"]["broker"] == json!("unhealthy"))
                .await;
            services(&["start", "rabbitmq"]).await;
            let consuming = async || app.app.status.broker_connected();
            within(Duration::from_secs(35), "consuming again after the broker is back", consuming).await;
        }
        producer.publish(id).await;
    }
    let (seen, duplicates) = delivered(&producer.names, &producer.confirmed).await;
    report("broker killed 3 times", &producer.confirmed, &seen, duplicates);
    assert_eq!(seen, producer.confirmed, "something was invented");
    let broker = app.broker().await;
    for (template, email) in mailed {
        assert_eq!(broker.mail(template).await.json()["variables"]["email"], json!(email), "{template} was lost or came twice");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_database_is_503_never_401_and_no_push_is_lost() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let mut producer = Producer::new(app.config.broker.clone(), &user.id);
    let login = json!({"email": user.email, "password": support::PASSWORD});
    let refresh_token = app.client.post("/api/v1/auth/login", login).await.data()["refresh_token"].clone();
    let link = app.newest_link(&user.id, user_service::infra::one_time_token::Purpose::EmailVerification).await;
    // Warm: the session and the card are cached.
    assert_eq!(me.get("/api/v1/users/preferences").await.status, 200);
    services(&["kill", "postgres"]).await;
    let started = Instant::now();
    for (method, path, body) in [
        ("GET", "/api/v1/users/profile", None),
        ("PATCH", "/api/v1/users/profile", Some(json!({"name": "x"}))),
        ("PATCH", "/api/v1/users/preferences", Some(json!({"push": false}))),
        ("DELETE", "/api/v1/users/profile", None),
        ("POST", "/api/v1/auth/login", Some(json!({"email": user.email, "password": support::PASSWORD}))),
        ("POST", "/api/v1/auth/refresh", Some(json!({"refresh_token": refresh_token}))),
        ("POST", "/api/v1/auth/verify-email", Some(json!({"token": link}))),
        // Known or unknown alike.
        ("POST", "/api/v1/auth/password-reset", Some(json!({"email": user.email}))),
        ("POST", "/api/v1/auth/password-reset", Some(json!({"email": "nobody@example.com"}))),
        ("POST", "/api/v1/users", Some(json!({"name": "x", "email": "x@example.com", "password": support::PASSWORD}))),
    ] {
        let asked = Instant::now();
        let answer = me.send(method, path, body.map(|body| body.to_string()).as_deref()).await;
        assert_eq!(answer.refusal(), (503, "unavailable".to_owned()), "{method} {path}");
        assert!((1..=5).contains(&answer.header("retry-after").unwrap().parse::<u32>().unwrap()));
        assert!(asked.elapsed() < Duration::from_millis(1_200), "{method} {path}: 503 after {:?}", asked.elapsed());
    }
    if started.elapsed() < Duration::from_secs(25) {
        assert_eq!(me.get("/api/v1/users/preferences").await.status, 200, "preferences come from the cache");
    }
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    assert_eq!(service.get(&format!("/api/v1/users/{}", uuid::Uuid::now_v7())).await.status, 503);
    assert_eq!(app.client.get("/health/live").await.status, 200);
    assert_eq!(app.client.get("/health/ready").await.status, 503);
    assert_eq!(app.client.get("/health").await.json()["status"], json!("unhealthy"));
    for id in 0..500 {
        producer.publish(id).await;
    }
    eventually("the worker holds what it has", async || app.app.status.held() > 0).await;
    let broker = app.broker().await;
    assert_eq!((broker.waiting(&broker.names.failed_queue).await, broker.waiting(&broker.names.deliver_queue).await), (0, 0));
    services(&["start", "postgres"]).await;
    within(Duration::from_secs(10), "the API recovers by itself", async || me.get("/api/v1/users/profile").await.status == 200).await;
    // What could not be done was not half done.
    assert_eq!(app.client.post("/api/v1/auth/refresh", json!({"refresh_token": refresh_token})).await.status, 200);
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": link})).await.status, 200);
    let (seen, duplicates) = delivered(&producer.names, &producer.confirmed).await;
    report("database killed", &producer.confirmed, &seen, duplicates);
    assert_eq!((seen, broker.waiting(&broker.names.failed_queue).await), (producer.confirmed, 0));
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
    assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": support::PASSWORD})).await.status, 200);
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
    let starting = TestApp::launch(support::Services::from_env(), url, user_service::config::Role::Both, |config| config.broker = names);
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

/// The worker alone, as a process that can be killed, sending mails by SMTP.
fn mail_worker(app: &TestApp, server: &MailServer) -> tokio::process::Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
    command.env_clear().args(["--role", "worker"]).kill_on_drop(true).stderr(Stdio::null()).envs(app.variables()).envs([
        ("PORT", "0"),
        ("MAIL_TRANSPORT", "smtp"),
        ("SMTP_URL", &format!("smtp://{}", server.address)),
        ("MAIL_FROM", "no-reply@example.com"),
    ]);
    command.spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_5000_registrations_each_gets_its_mail_whatever_happens_to_relay_and_mail_server() {
    const KILLS: usize = 3;
    const REGISTRATIONS: usize = 5_000;
    only_on_a_set_of_its_own();
    let server = MailServer::start(Mood::Accept).await;
    let address = server.address;
    let app = TestApp::start_with(Role::Api, |config| {
        // The API only writes the rows; whether the server is there it does not know.
        config.mail.transport = MailTransport::Smtp(Smtp { url: format!("smtp://{address}").into(), from: "no-reply@example.com".into() });
    })
    .await;
    let mut worker = mail_worker(&app, &server);
    let registering = async {
        for _ in 0..REGISTRATIONS / 50 {
            futures_util::future::join_all((0..50).map(|_| app.client.register("Ada"))).await;
        }
    };
    let disturbing = async {
        for kill in 1..=KILLS {
            let sent = REGISTRATIONS / 5 * kill;
            within(Duration::from_secs(180), "mails flow", async || server.mails().len() >= sent).await;
            worker.kill().await.unwrap();
            worker = mail_worker(&app, &server);
            // And in between the server is unwell.
            let before = server.refused();
            server.set(Mood::Away);
            within(Duration::from_secs(60), "the server turns the relay away", async || server.refused() > before).await;
            server.set(Mood::Accept);
        }
    };
    tokio::join!(registering, disturbing);
    let waiting = "SELECT count(*) AS n FROM outbox WHERE lane = 'smtp' AND done_at IS NULL";
    within(Duration::from_secs(180), "every mail is sent", async || app.count(waiting).await == 0).await;
    let mails = server.mails();
    let ids: HashSet<_> = mails.iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
    let recipients: HashSet<_> = mails.iter().map(|mail| mail.recipients.clone()).collect();
    println!("mails: {REGISTRATIONS} registered, {} got one, {} twice, {KILLS} kills", recipients.len(), mails.len() - ids.len());
    assert_eq!((recipients.len(), ids.len()), (REGISTRATIONS, REGISTRATIONS));
    assert!(mails.len() - ids.len() <= KILLS * 8, "more than a relay's batch a kill came twice");
    assert_eq!(app.count("SELECT count(*) AS n FROM outbox WHERE failed_at IS NOT NULL OR attempts > 1").await, 0);
    worker.kill().await.unwrap();
    app.stop().await.unwrap();
}
