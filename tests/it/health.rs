use serde_json::json;
use user_service::config::Role;

use crate::support::{TestApp, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_each_dependency_and_both_readers_find_their_fields() {
    let app = TestApp::start().await;
    for path in ["/health", "/health/", "/api/v1/health", "/api/v1/health/"] {
        let answer = app.client.get(path).await;
        assert_eq!(answer.status, 200, "{path}");
        let body = answer.json();
        assert_eq!(body["checks"], json!({"database": "healthy", "cache": "healthy", "broker": "healthy"}), "{body}");
        assert_eq!((body["service"].as_str(), body["status"].as_str()), (Some("user-service"), Some("healthy")), "{body}");
        for field in ["service", "status", "timestamp", "version", "checks"] {
            assert_eq!(body["data"][field], body[field], "{path} {field}");
        }
    }
    assert_eq!(app.client.get("/health/live").await.status, 200);
    assert_eq!(app.client.get("/health/ready/").await.status, 200);
    let queue = app.config.broker.push_queue.clone();
    eventually("the queue's consumers are counted", async || {
        app.client.get("/health").await.json()["queues"][&queue]["consumers"] == json!(1)
    })
    .await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_process_needs_no_broker_and_says_so() {
    let app = TestApp::api().await;
    assert!(app.config.broker.url.is_none());
    assert_eq!(app.client.get("/health").await.json()["checks"]["broker"], json!("unused"));
    app.client.register("Ada").await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_process_serves_health_and_metrics_only() {
    let app = TestApp::start_with(Role::Worker, |_| {}).await;
    for path in ["/health", "/api/v1/health/", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(app.client.get(path).await.status, 200, "{path}");
    }
    for path in ["/api/v1/users/profile", "/openapi.json", "/swagger/", "/redoc/"] {
        assert_eq!(app.client.get(path).await.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(app.client.post("/api/v1/auth/login", json!({})).await.status, 404);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_requests_by_route_and_name_no_user() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    app.client.as_user(&user).get(&format!("/api/v1/users/{}", user.id)).await;
    app.client.get("/nowhere/at/all").await;
    let text = app.client.get("/metrics").await.text;
    assert!(text.contains(r#"http_requests_total{method="GET",route="/api/v1/users/{id}",status="200"}"#), "{text}");
    assert!(text.contains(r#"route="unmatched""#), "{text}");
    assert!(text.contains("outbox_waiting"), "{text}");
    assert!(!text.contains(&user.id) && !text.contains("nowhere"), "a path became a label");
    app.stop().await.unwrap();
}
