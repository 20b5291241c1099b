//! What surrounds the process: a name that leads nowhere, a broker that does not know us (any more), a log without room.

use std::time::Duration;

use serde_json::json;

use crate::support::Services;
use crate::support::wait::within;
use crate::worker::Server;
use crate::{api_with_queues, services};

/// Within which the worker is back once the broker takes it: a delay of 30 s, and the time to connect.
const RETURN: Duration = Duration::from_secs(35);

fn broker_url(change: impl FnOnce(&mut url::Url)) -> String {
    let mut url = url::Url::parse(&Services::from_env().rabbitmq_url).unwrap();
    change(&mut url);
    url.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_be_had_leaves_the_api_alive_and_the_worker_waiting() {
    let app = api_with_queues().await;
    let nowhere = broker_url(|url| url.set_host(Some("nowhere.invalid")).unwrap());
    let no_vhost = broker_url(|url| url.set_path("no-such-vhost"));
    let stranger = broker_url(|url| url.set_password(Some("wrong")).unwrap());
    for url in [nowhere, no_vhost, stranger] {
        let changes = [("RABBITMQ_URL", url.as_str())];
        let (worker, both) = (Server::start("worker", &app, &changes), Server::start("both", &app, &changes));
        within(Duration::from_secs(10), "the API is ready", async || both.readiness().await == 200).await;
        within(Duration::from_secs(10), "the worker answers", async || worker.readiness().await == 503).await;
        assert_eq!(worker.client.get("/health/live").await.status, 200, "{url}");
        both.client.register("Ada").await;
        let restarted = async || worker.client.get("/health").await.json()["parts"]["consumer"]["restarts"].as_u64() >= Some(2);
        within(Duration::from_secs(30), "it tries again", restarted).await;
        let told = both.client.get("/health").await.json();
        assert_eq!((&told["status"], &told["checks"]["broker"]), (&json!("degraded"), &json!("unhealthy")), "{url}");
        assert!(!told.to_string().contains("wrong") && !told.to_string().contains("nowhere"), "health tells the address");
        both.process.stop().await;
        worker.process.stop().await;
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_credentials_are_revoked_comes_back_when_they_are_given_again() {
    let app = api_with_queues().await;
    let name = format!("worker-{}", uuid::Uuid::new_v4().simple());
    services(&["rabbitmqctl", "add_user", &name, "first"]).await;
    services(&["rabbitmqctl", "set_permissions", &name, ".*", ".*", ".*"]).await;
    let url = broker_url(|url| {
        url.set_username(&name).unwrap();
        url.set_password(Some("first")).unwrap();
    });
    let worker = Server::start("worker", &app, &[("RABBITMQ_URL", &url)]);
    within(RETURN, "it is ready", async || worker.readiness().await == 200).await;
    services(&["rabbitmqctl", "change_password", &name, "second"]).await;
    services(&["rabbitmqctl", "close_all_user_connections", &name, "revoked"]).await;
    within(Duration::from_secs(10), "it is not ready", async || worker.readiness().await == 503).await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    broker.request_push(&user.id, "meanwhile").await;
    services(&["rabbitmqctl", "change_password", &name, "first"]).await;
    within(RETURN, "it is ready again", async || worker.readiness().await == 200).await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("meanwhile"));
    worker.process.stop().await;
    services(&["rabbitmqctl", "delete_user", &name]).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_room_stops_nothing() {
    let app = api_with_queues().await;
    let unlogged = Server::start_without_a_log("both", &app).ready().await;
    let (user, broker) = (unlogged.client.register("Ada").await, app.broker().await);
    broker.request_push(&user.id, "unlogged").await;
    broker.publish(b"no json", lapin::BasicProperties::default()).await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("unlogged"));
    assert_eq!(broker.receive(&broker.names.failed_queue, 1).await[0].header("x-dead-reason").as_deref(), Some("malformed_json"));
    unlogged.process.stop().await;
    app.stop().await.unwrap();
}

/// Otherwise an app in a browser would learn of no answer at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_answer_that_an_allowed_origin_may_read() {
    let app = api_with_queues().await;
    let user = app.client.register("Ada").await;
    let origin = "https://app.example.com";
    let changes = [("FAILPOINTS", "answer-committed=return(panic)"), ("CORS_ALLOWED_ORIGINS", origin)];
    let server = Server::start("api", &app, &changes).ready().await;
    for (key, sent, allowed) in [("panics-here", origin, Some(origin)), ("panics-there", "https://app.example.com.evil.io", None)] {
        let me = server.client.as_user(&user).with("origin", sent).with("idempotency-key", key);
        let answer = me.patch("/api/v1/users/profile/", json!({"name": format!("Of {sent}")})).await;
        assert_eq!(answer.refusal(), (500, "internal_error".to_owned()));
        assert_eq!(answer.header("access-control-allow-origin"), allowed);
        assert_eq!(answer.header("access-control-expose-headers").is_some(), allowed.is_some());
        assert!(answer.header("vary").is_some_and(|vary| vary.to_lowercase().contains("origin")), "a cache would mix them up");
    }
    server.process.stop().await;
    app.stop().await.unwrap();
}
