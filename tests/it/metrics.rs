//! What a process counts, asked of a process of its own.

use serde_json::json;

use crate::command_line::serve;
use crate::support::{PASSWORD, Services, TestApp, TestBroker, eventually};

/// The value of a series, whatever the order of its labels; several that fit are added up.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let fits = |line: &&str| {
        let is_named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        is_named && labels.iter().all(|label| line.contains(label))
    };
    let values: Vec<f64> = metrics.lines().filter(fits).map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_decision_read_and_queue_is_counted() {
    let names = TestApp::api().await.halt().await;
    let serving = serve(&names, &[]).await;
    let mut broker_names = names.config.broker.clone();
    broker_names.url = Some(Services::from_env().rabbitmq_url.into());
    let broker = TestBroker::connect(broker_names).await;
    let client = serving.client.clone();
    let (ada, bob) = (client.register("Ada").await, client.register("Bob").await);
    assert_eq!(client.as_user(&bob).patch("/api/v1/users/preferences/", json!({"push": false})).await.status, 200);
    for _ in 0..3 {
        assert_eq!(client.as_user(&ada).get("/api/v1/users/profile/").await.status, 200);
    }
    assert_eq!(client.post("/api/v1/auth/login/", json!({"email": ada.email, "password": PASSWORD})).await.status, 200);
    broker.request_push(&ada.id, "delivered").await;
    broker.request_push(&ada.id, "delivered").await;
    broker.request_push(&bob.id, "skipped").await;
    broker.request_push("0190a6c8-7f2e-7c11-9b1a-00000000dead", "dead").await;
    let metrics = async || client.get("/metrics").await.text;
    let decided = async |decision: &str, reason: &str| {
        let labels = [format!("decision=\"{decision}\""), format!("reason=\"{reason}\"")];
        value(&metrics().await, "push_decisions_total", &[&labels[0], &labels[1]])
    };
    eventually("each has its decision", async || decided("dead", "unknown_user").await == Some(1.0)).await;
    eventually("the copy was known", async || value(&metrics().await, "push_requests_seen_before_total", &[]) == Some(1.0)).await;
    assert_eq!((decided("deliver", "").await, decided("skip", "push_disabled").await), (Some(1.0), Some(1.0)));
    let text = metrics().await;
    for (name, labels, least) in [
        ("http_requests_total", ["method=\"GET\"", "route=\"/api/v1/users/profile\"", "status=\"200\""].as_slice(), 3.0),
        ("http_request_duration_seconds_count", &["route=\"/api/v1/auth/login\""], 1.0),
        ("card_reads_total", &["from=\"cache\""], 3.0),
        ("card_reads_total", &["from=\"database\""], 1.0),
        ("database_connections_max", &[], 2.0),
        ("database_connections_open", &[], 1.0),
        ("database_connections_used", &[], 0.0),
        ("password_hash_waiting", &[], 0.0),
        ("outbox_waiting", &["lane=\"amqp\""], 0.0),
        ("outbox_oldest_age_seconds", &["lane=\"cache\""], 0.0),
        ("breaker_state", &["database"], 0.0),
        ("breaker_state", &["publishing"], 0.0),
        ("amqp_published_total", &[], 1.0),
    ] {
        let found = value(&text, name, labels);
        assert!(found.is_some_and(|found| found >= least), "{name} {labels:?} is {found:?}, not {least} or more, in\n{text}");
    }
    serving.terminate().await;
    broker.delete_all().await;
    names.stop().await.unwrap();
}
