use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Client, FULL_SERVICE_KEY, PASSWORD, TestApp};

fn keyed(client: &Client, key: &str) -> Client {
    client.with("idempotency-key", key)
}

async fn register(client: &Client, email: &str) -> crate::support::client::Answer {
    client.post("/api/v1/users/", json!({"name": "Ada", "email": email, "password": PASSWORD})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_registration_is_one_user_and_its_copy_has_no_tokens() {
    let app = TestApp::api().await;
    for header in ["idempotency-key", "x-request-id"] {
        let (client, email) = (app.client.with(header, "reg-4711-abcdef"), format!("{header}@example.com"));
        let first = register(&client, &email).await;
        assert_eq!((first.status, first.header("idempotency-replayed")), (201, None), "{}", first.text);
        assert!(first.data()["access_token"].is_string());
        let again = register(&client, &email).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (201, Some("true")), "{}", again.text);
        assert_eq!(again.data()["user"], first.data()["user"]);
        assert!(!again.text.contains("token\":\"ey") && again.data()["refresh_token"].is_null(), "{}", again.text);
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM users").await, 2);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_body_is_a_mistake_under_one_header_and_another_request_under_the_other() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let client = app.client.as_user(&user);
    let explicit = keyed(&client, "pref-1-abcdefg");
    let off = explicit.patch("/api/v1/users/preferences/", json!({"push": false, "email": false})).await;
    assert_eq!(off.status, 200);
    let shuffled = explicit.send("PATCH", "/api/v1/users/preferences", Some("{ \"email\" :false,\n\"push\":false }")).await;
    assert_eq!((shuffled.status, shuffled.header("idempotency-replayed"), &shuffled.text), (200, Some("true"), &off.text));
    let other = explicit.patch("/api/v1/users/preferences/", json!({"push": true})).await;
    assert_eq!(other.refusal(), (422, "idempotency_key_reused".to_owned()));
    let proxied = client.with("x-request-id", "proxy-1-abcdefg");
    for push in [true, false, true] {
        let answer = proxied.patch("/api/v1/users/preferences/", json!({"push": push})).await;
        assert_eq!((answer.status, answer.data()["push"].as_bool()), (200, Some(push)));
    }
    for (bad, status) in [("short", 400), ("with space in it", 400), ("ümlaut-ümlaut", 400)] {
        assert_eq!(keyed(&client, bad).patch("/api/v1/users/preferences/", json!({"push": true})).await.status, status, "{bad}");
        assert_eq!(client.with("x-request-id", bad).patch("/api/v1/users/preferences/", json!({"push": true})).await.status, 200, "{bad}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_callers_and_its_routes_own_and_forgotten_after_a_day() {
    let app = TestApp::api().await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let change = json!({"name": "Somebody"});
    for user in [&ada, &bob] {
        let client = keyed(&app.client.as_user(user), "shared-key-1");
        assert_eq!(client.patch("/api/v1/users/profile/", change.clone()).await.header("idempotency-replayed"), None);
        // PUT is another method, so another request.
        assert_eq!(client.put("/api/v1/users/profile/", change.clone()).await.header("idempotency-replayed"), None);
        assert_eq!(client.put("/api/v1/users/profile/", change.clone()).await.header("idempotency-replayed"), Some("true"));
    }
    let client = keyed(&app.client.as_user(&ada), "shared-key-1");
    app.sql("UPDATE idempotency_keys SET created_at = created_at - interval '24 hours 1 second'").await;
    assert_eq!(client.patch("/api/v1/users/profile/", change.clone()).await.header("idempotency-replayed"), None);
    // What was refused is judged anew.
    let wrong = keyed(&app.client, "verify-key-1");
    for _ in 0..2 {
        let refused = wrong.post("/api/v1/auth/verify-email/", json!({"token": "nonsense"})).await;
        assert_eq!((refused.refusal().0, refused.header("idempotency-replayed")), (400, None));
    }
    // Whoever is gone gets nothing stored.
    let gone = keyed(&app.client.as_user(&bob), "delete-key-1");
    assert_eq!(gone.delete("/api/v1/users/profile/").await.status, 200);
    assert_eq!(gone.delete("/api/v1/users/profile/").await.refusal().0, 401);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_one_has_the_effect_and_all_have_its_answer() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    for round in 0..8 {
        let client = keyed(&app.client.as_user(&user), &format!("at-once-{round}-abc"));
        let body = json!({"name": format!("Ada {round}")});
        let answers = join_all((0..64).map(|_| client.patch("/api/v1/users/profile/", body.clone()))).await;
        let texts: HashSet<&String> = answers.iter().map(|answer| &answer.text).collect();
        let fresh = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count();
        assert_eq!((texts.len(), fresh), (1, 1), "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed'").await, 8);
    // Two bodies at once under one key: one effect, and the other body is told.
    let client = keyed(&app.client.as_user(&user), "two-bodies-abc");
    let change = |name: &str| client.patch("/api/v1/users/profile/", json!({"name": name}));
    let answers = join_all((0..32).map(|n| change(if n % 2 == 0 { "Even" } else { "Odd" }))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!((statuses.iter().filter(|s| **s == 200).count(), statuses.iter().filter(|s| **s == 422).count()), (16, 16), "{statuses:?}");
    assert_eq!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed'").await, 9);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_waits_for_the_one_that_runs_and_holds_no_connection_meanwhile() {
    let app = TestApp::start_with(user_service::config::Role::Api, |config| config.database.pool_size = 4).await;
    let user = app.client.register("Ada").await;
    // The profile's row is held by somebody else, so the first request waits inside its transaction.
    let held = app.hold(&format!("SELECT 1 FROM users WHERE id = '{}' FOR UPDATE", user.id)).await;
    let client = keyed(&app.client.as_user(&user), "waiting-key-1");
    let change = || client.patch("/api/v1/users/profile/", json!({"name": "Later"}));
    let copies = join_all((0..8).map(|_| change()));
    let reads = async {
        let reader = app.client.as_user(&user);
        for _ in 0..20 {
            assert_eq!(reader.get("/api/v1/auth/sessions/").await.status, 200, "a waiting copy holds a connection");
        }
        held.release().await;
    };
    let (answers, ()) = tokio::join!(copies, reads);
    for answer in answers {
        assert!(answer.status == 200 || answer.status == 503, "{}", answer.text);
    }
    assert_eq!(change().await.status, 200);
    assert!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed'").await == 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_what_still_runs_is_told_to_come_back() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let client = keyed(&app.client.as_user(&user), "running-key-1");
    assert_eq!(client.patch("/api/v1/users/profile/", json!({"name": "One"})).await.status, 200);
    app.sql("TRUNCATE idempotency_keys").await;
    // Whoever has the key's lock is at work, however long it takes.
    let held = app.hold(&lock_of(&user.id, "PATCH", "/api/v1/users/profile", "running-key-1")).await;
    let started = std::time::Instant::now();
    let told = client.patch("/api/v1/users/profile/", json!({"name": "Two"})).await;
    assert_eq!((told.refusal(), told.header("retry-after")), ((409, "request_in_progress".to_owned()), Some("1")));
    assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&started.elapsed()));
    held.release().await;
    assert_eq!(client.patch("/api/v1/users/profile/", json!({"name": "Two"})).await.status, 200);
    app.stop().await.unwrap();
}

/// The advisory lock of a key, as the service takes it.
fn lock_of(user_id: &str, method: &str, route: &str, key: &str) -> String {
    format!("SELECT pg_advisory_xact_lock(hashtextextended('user {user_id} {method} {route} {key}', 0))")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mailed_link_or_a_password_did_is_answered_again() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let token = app.newest_link(&user.id, user_service::infra::one_time_token::Purpose::EmailVerification).await;
    let verify = keyed(&app.client, "verify-key-9");
    for replayed in [None, Some("true")] {
        let answer = verify.post("/api/v1/auth/verify-email/", json!({"token": token})).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.text);
    }
    let change = json!({"current_password": PASSWORD, "password": "An0ther-secret!", "password_confirm": "An0ther-secret!"});
    let client = keyed(&app.client.as_user(&user), "password-key-9");
    for replayed in [None, Some("true")] {
        let answer = client.post("/api/v1/auth/password/", change.clone()).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.text);
    }
    let reset = keyed(&app.client, "reset-key-9");
    for replayed in [None, Some("true")] {
        let answer = reset.post("/api/v1/auth/password-reset/", json!({"email": user.email})).await;
        assert_eq!((answer.status, answer.header("idempotency-replayed")), (200, replayed), "{}", answer.text);
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM one_time_tokens WHERE purpose = 'password_reset'").await, 1);
    // Signing in gives tokens, so its key only correlates.
    let login = keyed(&app.client, "login-key-9");
    let sign_in = json!({"email": user.email, "password": "An0ther-secret!"});
    let tokens: Vec<Value> = [login.post("/api/v1/auth/login/", sign_in.clone()).await, login.post("/api/v1/auth/login/", sign_in).await]
        .map(|a| a.data()["refresh_token"].clone())
        .into();
    assert!(tokens[0].is_string() && tokens[0] != tokens[1]);
    let stored =
        app.count("SELECT count(*) AS n FROM idempotency_keys WHERE body LIKE '%eyJ%' OR body LIKE '%v1.%' OR body LIKE '%secret!%'").await;
    assert_eq!(stored, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_repeats_a_push_request_and_an_erased_user_leaves_no_answer_behind() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let service = keyed(&app.client.with("x-internal-api-key", FULL_SERVICE_KEY), "push-key-77");
    let request = json!({"user_id": user.id, "template_code": "WELCOME"});
    let first = service.post("/api/v1/push-requests/", request.clone()).await;
    let again = service.post("/api/v1/push-requests/", request).await;
    assert_eq!((first.status, again.status, again.header("idempotency-replayed")), (202, 202, Some("true")));
    assert_eq!(first.data()["notification_id"], again.data()["notification_id"]);
    assert_eq!(keyed(&app.client.as_user(&user), "mine-key-77").patch("/api/v1/users/profile/", json!({"name": "A"})).await.status, 200);
    let user_id = user.id.parse().unwrap();
    app.app.db.write(move |tx| Box::pin(user_service::admin::erase(tx, user_id, chrono::DateTime::UNIX_EPOCH))).await.unwrap();
    let about = format!("SELECT count(*) AS n FROM idempotency_keys WHERE caller LIKE '%{0}%' OR body LIKE '%{0}%'", user.id);
    assert_eq!(app.count(&about).await, 0);
    app.stop().await.unwrap();
}
