use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use user_service::config::Role;
use user_service::infra::one_time_token::Purpose;

use crate::support::client::Answer;
use crate::support::{PASSWORD, TestApp};

const NEW: &str = "another-Pass-77";

fn reset(token: &str, password: &str) -> Value {
    json!({"token": token, "password": password, "password_confirm": password})
}

async fn ask(app: &TestApp, email: &str) -> Answer {
    app.client.post("/api/v1/auth/password-reset/", json!({"email": email})).await
}

async fn confirm(app: &TestApp, token: &str, password: &str) -> Answer {
    app.client.post("/api/v1/auth/password-reset/confirm/", reset(token, password)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailed_link_sets_a_new_password_once_and_ends_every_session() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    assert_eq!(ask(&app, &user.email.to_uppercase()).await.status, 200);
    let mail = broker.mail("password_reset").await;
    let body = mail.json();
    assert!(body["variables"]["link"].as_str().unwrap().starts_with("https://accounts.example.com/reset-password?token=v1."));
    assert_eq!((&body["variables"]["email"], &body["variables"]["expires_in_minutes"]), (&json!(user.email), &json!(30)));
    let token = mail.token();
    for weak in ["12345678", "short", &user.email] {
        assert_eq!(confirm(&app, &token, weak).await.refusal(), (400, "validation_failed".to_owned()), "{weak}");
    }
    assert_eq!(confirm(&app, &token, NEW).await.status, 200, "a rejected password used the link up");
    assert_eq!(confirm(&app, &token, "a-third-Pass-88").await.refusal(), (400, "invalid_token".to_owned()));
    assert_eq!(app.client.as_user(&user).get("/api/v1/auth/validate").await.status, 401, "a session outlived the reset");
    let sign_in = async |password: &str| app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": password})).await;
    assert_eq!(sign_in(PASSWORD).await.status, 401);
    let data = sign_in(NEW).await.data();
    // Whoever had the account before may have left a phone in it; and the link proved the address.
    assert_eq!((&data["user"]["push_token"], &data["user"]["email_verified"]), (&Value::Null, &json!(true)));
    let notice = broker.mail("password_changed").await.json();
    assert_eq!(notice["variables"]["email"], json!(user.email));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_resets_with_one_link_at_once_one_succeeds() {
    let app = TestApp::start_with(Role::Api, |config| config.database.pool_size = 40).await;
    for _ in 0..10 {
        let user = app.client.register("Ada").await;
        ask(&app, &user.email).await;
        let token = app.newest_link(&user.id, Purpose::PasswordReset).await;
        let tries =
            join_all((0..64).map(|n| app.client.post("/api/v1/auth/password-reset/confirm", reset(&token, &format!("{NEW}-{n}"))))).await;
        let won: Vec<usize> = tries.iter().enumerate().filter(|(_, answer)| answer.status == 200).map(|(n, _)| n).collect();
        assert_eq!(won.len(), 1, "{tries:?}");
        assert!(tries.iter().all(|answer| [200, 400, 503].contains(&answer.status)), "{tries:?}");
        let sign_in = json!({"email": user.email, "password": format!("{NEW}-{}", won[0])});
        assert_eq!(app.client.post("/api/v1/auth/login", sign_in).await.status, 200, "another's password was stored");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_links_live_and_all_die_with_a_change_of_password() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let mut links = Vec::new();
    for _ in 0..4 {
        ask(&app, &user.email).await;
        links.push(app.newest_link(&user.id, Purpose::PasswordReset).await);
    }
    assert_eq!(confirm(&app, &links[0], NEW).await.refusal().1, "invalid_token", "a fourth link makes the first void");
    let change = json!({"current_password": PASSWORD, "password": NEW, "password_confirm": NEW});
    assert_eq!(app.client.as_user(&user).post("/api/v1/auth/password", change).await.status, 200);
    for link in &links[1..] {
        assert_eq!(confirm(&app, link, "a-third-Pass-88").await.refusal().1, "invalid_token");
    }
    ask(&app, &user.email).await;
    let link = app.newest_link(&user.id, Purpose::PasswordReset).await;
    app.clock.advance(Duration::from_secs(30 * 60 + 1));
    assert_eq!(confirm(&app, &link, "a-third-Pass-88").await.refusal().1, "invalid_token", "a second too late");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_throws_out_whoever_registered_the_address_first() {
    let app = TestApp::api().await;
    // Eve registers Ada's address, keeps her session, and asks for a change of the address.
    let eve = app.client.register("Ada").await;
    let change = json!({"email": "eve@example.com", "current_password": PASSWORD});
    assert_eq!(app.client.as_user(&eve).post("/api/v1/users/email", change).await.status, 200);
    let eves_link = app.newest_link(&eve.id, Purpose::EmailChange).await;
    ask(&app, &eve.email).await;
    assert_eq!(confirm(&app, &app.newest_link(&eve.id, Purpose::PasswordReset).await, NEW).await.status, 200);
    assert_eq!(app.client.as_user(&eve).get("/api/v1/users/profile").await.status, 401);
    assert_eq!(app.client.post("/api/v1/users/email/confirm", json!({"token": eves_link})).await.refusal().1, "invalid_token");
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE retired_at IS NULL").await, 0, "her phone would get Ada's pushes");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_behind_the_links_work_without_script_and_use_nothing_up_when_opened() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let form = app.client.with("content-type", "application/x-www-form-urlencoded");
    let verify = app.newest_link(&user.id, Purpose::EmailVerification).await;
    ask(&app, &user.email).await;
    let for_reset = app.newest_link(&user.id, Purpose::PasswordReset).await;
    for (path, token) in [("/verify-email", &verify), ("/reset-password", &for_reset)] {
        for _ in 0..3 {
            let page = app.client.get(&format!("{path}?token={token}")).await;
            assert_eq!(page.status, 200);
            let policy = page.header("content-security-policy").unwrap();
            assert!(policy.starts_with("default-src 'none'; style-src 'self'; form-action 'self'"), "{policy}");
            assert_eq!((page.header("referrer-policy"), page.header("cache-control")), (Some("no-referrer"), Some("no-store")));
            assert!(page.text.contains(token.as_str()) && !page.text.contains("<script") && !page.text.contains("://"), "{}", page.text);
        }
        let page = app.client.get(&format!("{path}?token=%22%3E%3Cscript%3Ealert(1)%3C/script%3E")).await;
        assert!(!page.text.contains("<script"), "{}", page.text);
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM one_time_tokens WHERE used_at IS NULL").await, 2);
    let post = async |path: &str, body: String| form.send("POST", path, Some(&body)).await;
    let verified = post("/verify-email", format!("token={verify}")).await;
    assert!(verified.status == 200 && verified.text.contains("Your address is confirmed"), "{}", verified.text);
    let again = post("/verify-email", format!("token={verify}")).await;
    assert!(again.status == 400 && again.text.contains("This link does not work"), "{}", again.text);
    let weak = post("/reset-password", format!("token={for_reset}&password=12345678&password_confirm=x")).await;
    assert!(weak.status == 400 && weak.text.contains("must not be digits only") && weak.text.contains("must be the same"), "{}", weak.text);
    assert!(!weak.text.contains("12345678"), "a password is shown");
    let set = post("/reset-password", format!("token={for_reset}&password={NEW}&password_confirm={NEW}")).await;
    assert_eq!(set.status, 200, "{}", set.text);
    assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": NEW})).await.status, 200);
    assert_eq!(app.client.send("POST", "/verify-email", Some("{}")).await.status, 415);
    assert_eq!(app.client.get("/pages.css").await.header("content-type"), Some("text/css; charset=utf-8"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_and_a_deactivation_end_every_session_at_once() {
    let app = TestApp::api().await;
    for round in 0..100 {
        let user = app.client.register("Ada").await;
        let login = json!({"email": user.email, "password": PASSWORD});
        let sessions = join_all((0..5).map(|_| app.client.post("/api/v1/auth/login", login.clone()))).await;
        let sessions: Vec<_> = sessions.iter().map(Answer::data).collect();
        for session in &sessions {
            // Known as alive to the cache.
            assert_eq!(app.client.bearer(session["access_token"].as_str().unwrap()).get("/api/v1/auth/validate").await.status, 200);
        }
        if round % 2 == 0 {
            assert_eq!(app.client.as_user(&user).delete("/api/v1/users/profile").await.status, 200);
        } else {
            ask(&app, &user.email).await;
            assert_eq!(confirm(&app, &app.newest_link(&user.id, Purpose::PasswordReset).await, NEW).await.status, 200);
        }
        for session in &sessions {
            let access = app.client.bearer(session["access_token"].as_str().unwrap()).get("/api/v1/auth/validate").await;
            let refresh = app.client.post("/api/v1/auth/refresh", json!({"refresh_token": session["refresh_token"]})).await;
            assert_eq!((access.status, refresh.status), (401, 401), "a session outlived round {round}");
        }
    }
    app.stop().await.unwrap();
}
