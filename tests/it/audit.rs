use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use serde_json::json;
use user_service::infra::one_time_token::Purpose;

use crate::support::{PASSWORD, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_an_account_is_recorded_with_who_and_from_where() {
    let app = TestApp::api().await;
    let from = app.client.with("x-forwarded-for", "203.0.113.7").with("x-correlation-id", "c-42");
    let user = from.register("Ada").await;
    let me = from.as_user(&user);
    let login = json!({"email": user.email, "password": PASSWORD});
    from.post("/api/v1/auth/login", json!({"email": user.email, "password": "wrong"})).await;
    let tokens = from.post("/api/v1/auth/login", login.clone()).await.data();
    let refresh = async |token: &serde_json::Value| from.post("/api/v1/auth/refresh", json!({"refresh_token": token})).await.data();
    let second = refresh(&tokens["refresh_token"]).await;
    let third = refresh(&second["refresh_token"]).await;
    assert!(third["refresh_token"].is_string());
    assert!(refresh(&tokens["refresh_token"]).await.is_null(), "a reuse was accepted");
    me.patch("/api/v1/users/profile", json!({"name": "Countess", "push_token": "another-device"})).await;
    me.patch("/api/v1/users/profile", json!({"push_token": null})).await;
    me.patch("/api/v1/users/preferences", json!({"push": false})).await;
    let link = app.newest_link(&user.id, Purpose::EmailVerification).await;
    from.post("/api/v1/auth/verify-email", json!({"token": link})).await;
    me.post(
        "/api/v1/auth/password",
        json!({"current_password": PASSWORD, "password": "another-Pass-77", "password_confirm": "another-Pass-77"}),
    )
    .await;
    from.post("/api/v1/auth/password-reset", json!({"email": user.email})).await;
    me.post("/api/v1/users/email", json!({"email": "new@example.com", "current_password": "another-Pass-77"})).await;
    me.delete("/api/v1/users/profile").await;
    from.post("/api/v1/auth/login", json!({"email": "nobody@example.com", "password": "x"})).await;

    let recorded = async |filter: &str| app.count(&format!("SELECT count(*) AS n FROM audit_log WHERE {filter}")).await;
    for action in [
        "registered",
        "signed_in",
        "refresh_token_reused",
        "profile_changed",
        "preferences_changed",
        "email_verified",
        "password_changed",
        "password_reset_requested",
        "email_change_requested",
        "deactivated",
    ] {
        let filter = format!("action = '{action}' AND subject_id = '{}' AND ip = '203.0.113.7' AND correlation_id = 'c-42'", user.id);
        assert_eq!(recorded(&filter).await, 1, "{action}");
    }
    assert_eq!(recorded("action = 'push_token_set'").await, 2);
    assert_eq!(recorded("action = 'push_token_cleared' AND reason = 'cleared'").await, 1);
    assert_eq!(recorded("action = 'sign_in_failed' AND reason = 'wrong_password'").await, 1);
    assert_eq!(recorded("action = 'sign_in_failed' AND reason = 'unknown_account' AND subject_id IS NULL").await, 1);
    assert_eq!(recorded(&format!("action = 'deactivated' AND actor_kind = 'user' AND actor_id = '{}'", user.id)).await, 1);
    let secrets = [PASSWORD, "another-Pass-77", user.email.as_str(), "new@example.com", "nobody@example.com", "another-device", &link];
    for secret in secrets {
        assert_eq!(recorded(&format!("audit_log::text LIKE '%{secret}%'")).await, 0, "{secret} is in the audit log");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_can_only_be_added_to() {
    let app = TestApp::api().await;
    app.client.register("Ada").await;
    let mut conn = AsyncPgConnection::establish(&app.database_url).await.unwrap();
    for statement in [
        "UPDATE audit_log SET action = 'x'",
        "UPDATE audit_log SET ip = '1.1.1.1'",
        "UPDATE audit_log SET ip = NULL, reason = 'x'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
    ] {
        let refused = conn.batch_execute(statement).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{statement}: {refused}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_changed_and_never_a_secret() {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let queue = broker.subscribe_events("#").await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let second = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data();
    me.patch("/api/v1/users/profile", json!({"name": "Countess"})).await;
    me.patch("/api/v1/users/preferences", json!({"email": false})).await;
    app.client.bearer(second["access_token"].as_str().unwrap()).send("POST", "/api/v1/auth/logout", None).await;
    me.delete("/api/v1/users/profile").await;
    let events: Vec<_> = broker.receive(&queue, 6).await;
    let bodies: Vec<_> = events.iter().map(crate::support::broker::Received::json).collect();
    let types: Vec<_> = bodies.iter().map(|body| body["event_type"].as_str().unwrap()).collect();
    let expected = ["user.registered", "user.updated", "preferences.changed", "session.revoked", "session.revoked", "user.deactivated"];
    assert_eq!(types, expected);
    assert_eq!(bodies[1]["changed"], json!(["name"]));
    assert_eq!((&bodies[2]["email"], &bodies[2]["push"]), (&json!(false), &json!(true)));
    let mut versions = Vec::new();
    for (event, body) in events.iter().zip(&bodies) {
        assert_eq!(body["user_id"], json!(user.id));
        assert_eq!(event.message_id().as_deref(), body["event_id"].as_str());
        for field in ["occurred_at", "correlation_id"] {
            assert!(body[field].is_string(), "{field} in {body}");
        }
        versions.push(body["version"].as_i64().unwrap());
        let text = body.to_string();
        for secret in [PASSWORD, &user.push_token, &user.email, &user.access_token, "$2b$"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    assert!(versions.is_sorted(), "{versions:?}");
    app.stop().await.unwrap();
}
