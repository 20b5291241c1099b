//! Who changes what belongs to a user holds the user's row first: so no two changes wait for each other.

use serde_json::json;
use user_service::infra::one_time_token::Purpose;

use crate::support::{FULL_SERVICE_KEY, PASSWORD, TestApp};

/// Where the rows are that belong to a user.
const TABLES: [&str; 5] = ["sessions", "credentials", "push_tokens", "preferences", "one_time_tokens"];

/// Of this user's rows, those that somebody holds.
async fn held_rows(app: &TestApp, user_id: &str) -> Vec<&'static str> {
    let mut held = Vec::new();
    for table in TABLES {
        let rows = format!("SELECT 1 FROM {table} WHERE user_id = '{user_id}'");
        let count = async |rows: String| app.count(&format!("SELECT count(*) AS n FROM ({rows}) AS rows")).await;
        if count(format!("{rows} FOR NO KEY UPDATE SKIP LOCKED")).await < count(rows).await {
            held.push(table);
        }
    }
    held
}

/// Every request that changes rows of a user, by name: {email} and its like are filled in.
const CHANGES: [(&str, &str, &str); 17] = [
    ("PATCH", "/api/v1/users/profile/", r#"{"name": "Later", "push_token": "another-phone"}"#),
    ("DELETE", "/api/v1/users/profile/", ""),
    ("PATCH", "/api/v1/users/preferences/", r#"{"push": false}"#),
    ("POST", "/api/v1/users/email/", r#"{"email": "later@example.com", "current_password": "{password}"}"#),
    ("POST", "/api/v1/users/email/confirm/", r#"{"token": "{email_change}"}"#),
    ("POST", "/api/v1/auth/verify-email/", r#"{"token": "{email_verification}"}"#),
    ("POST", "/api/v1/auth/verify-email/resend/", r#"{"email": "{email}"}"#),
    ("POST", "/api/v1/auth/password-reset/", r#"{"email": "{email}"}"#),
    (
        "POST",
        "/api/v1/auth/password-reset/confirm/",
        r#"{"token": "{password_reset}", "password": "Another-Pass-77", "password_confirm": "Another-Pass-77"}"#,
    ),
    (
        "POST",
        "/api/v1/auth/password/",
        r#"{"current_password": "{password}", "password": "Another-Pass-77", "password_confirm": "Another-Pass-77"}"#,
    ),
    ("POST", "/api/v1/auth/login/", r#"{"email": "{email}", "password": "{password}"}"#),
    ("POST", "/api/v1/auth/refresh/", r#"{"refresh_token": "{refresh}"}"#),
    ("POST", "/api/v1/auth/logout/", r#"{"push_token": "{phone}"}"#),
    ("POST", "/api/v1/auth/logout/", r#"{"everywhere": true}"#),
    ("DELETE", "/api/v1/auth/sessions/{session}/", ""),
    ("POST", "/api/v1/users/{id}/push-token/retire/", r#"{"push_token": "{phone}"}"#),
    ("DELETE", "/api/v1/users/{id}/push-token/", r#"{"push_token": "{phone}"}"#),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_its_user_with_nothing_else_in_hand() {
    let app = TestApp::api().await;
    let (mut waited, mut wrong) = (0, Vec::new());
    for (method, path, body) in CHANGES {
        let user = app.client.register("Ada").await;
        let me = app.client.as_user(&user);
        let signed_in = app.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await.data();
        let asked = me.post("/api/v1/users/email/", json!({"email": format!("new-{}", user.email), "current_password": PASSWORD})).await;
        assert_eq!((asked.status, app.client.post("/api/v1/auth/password-reset/", json!({"email": user.email})).await.status), (200, 200));
        let session = me.get("/api/v1/auth/sessions/").await.data()[0]["id"].as_str().unwrap().to_owned();
        let fill = async |text: &str| {
            let mut text = text.replace("{email}", &user.email).replace("{password}", PASSWORD).replace("{phone}", &user.push_token);
            text = text.replace("{id}", &user.id).replace("{session}", &session);
            text = text.replace("{refresh}", signed_in["refresh_token"].as_str().unwrap());
            for purpose in [Purpose::EmailVerification, Purpose::EmailChange, Purpose::PasswordReset] {
                text = text.replace(&format!("{{{}}}", purpose.as_str()), &app.newest_link(&user.id, purpose).await);
            }
            text
        };
        let (path, body) = (fill(path).await, fill(body).await);
        let is_services = path.contains(&user.id);
        let client = if is_services { app.client.with("x-internal-api-key", FULL_SERVICE_KEY) } else { me };

        let held = app.hold(&format!("SELECT 1 FROM users WHERE id = '{}' FOR NO KEY UPDATE", user.id)).await;
        let body = (!body.is_empty()).then_some(body.as_str());
        let mut request = Box::pin(client.send(method, &path, body));
        let early = app.until_it_waits(request.as_mut()).await;
        let in_hand = held_rows(&app, &user.id).await;
        if !in_hand.is_empty() {
            wrong.push(format!("{method} {path} waits for the user's row with these in hand: {in_hand:?}"));
        }
        held.release().await;
        let answer = match early {
            Some(answer) => answer,
            None => {
                waited += 1;
                request.await
            }
        };
        assert!(answer.status < 300, "{method} {path}: {} {}", answer.status, answer.text);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The others change one row, and nothing that others see of the user.
    assert_eq!(waited, 13);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_beside_a_change_of_password_goes_on_in_the_session_that_is_kept() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let signed_in = app.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await.data();
    // As the change does it to the session that asked for it.
    let change = format!(
        "UPDATE users SET session_epoch = session_epoch + 1 WHERE id = '{id}'; UPDATE sessions SET epoch = epoch + 1 WHERE user_id = '{id}'",
        id = user.id
    );
    let held = app.hold(&change).await;
    let mut request = Box::pin(app.client.post("/api/v1/auth/refresh/", json!({"refresh_token": signed_in["refresh_token"]})));
    assert!(app.until_it_waits(request.as_mut()).await.is_none(), "it did not wait");
    held.commit().await;
    assert_eq!(request.await.status, 200);
    app.stop().await.unwrap();
}
