use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use user_service::config::{Limits, Rate, RegistrationPrivacy, Role};
use user_service::infra::one_time_token::Purpose;

use crate::support::{PASSWORD, TestApp};

fn invalid() -> (u16, String) {
    (400, "invalid_token".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_account_is_mailed_a_link_that_verifies_it_once() {
    let app = TestApp::start().await;
    let (client, broker) = (app.client.with("host", "evil.example").with("x-forwarded-host", "evil.example"), app.broker().await);
    let events = broker.subscribe_events("user.#").await;
    let user = client.register("Ada").await;
    let mail = broker.mail("email_verification").await;
    let body = mail.json();
    let link = body["variables"]["link"].as_str().unwrap();
    assert!(link.starts_with("https://accounts.example.com/verify-email?token=v1."), "{link}");
    assert_eq!(body["variables"]["expires_in_minutes"], 24 * 60);
    assert_eq!((&body["variables"]["email"], &body["user_id"]), (&json!(user.email), &json!(user.id)));
    // Worth nothing in the queue once the link is dead.
    let expiration: u64 = mail.properties.expiration().as_ref().unwrap().as_str().parse().unwrap();
    assert!((86_000_000..=86_400_000).contains(&expiration), "{expiration}");
    let token = mail.token();
    assert_eq!(app.count(&format!("SELECT count(*) AS n FROM outbox WHERE encode(payload, 'escape') LIKE '%{token}%'")).await, 0);

    let me = app.client.as_user(&user);
    assert_eq!(me.get("/api/v1/users/profile").await.data()["email_verified"], false);
    assert_eq!(app.client.post("/api/v1/auth/verify-email/", json!({"token": token})).await.status, 200);
    assert_eq!(me.get("/api/v1/users/profile").await.data()["email_verified"], true);
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": token})).await.refusal(), invalid());
    let told = broker.receive(&events, 2).await;
    let told: Vec<_> = told.iter().map(crate::support::broker::Received::json).collect();
    assert_eq!((&told[0]["event_type"], &told[1]["event_type"]), (&json!("user.registered"), &json!("user.verified")));
    assert!(told[0]["version"].as_i64() < told[1]["version"].as_i64(), "events of a user can be ordered");
    assert_eq!(app.client.post("/api/v1/auth/verify-email/resend", json!({"email": user.email})).await.status, 200);
    assert_eq!(app.count("SELECT count(*) AS n FROM one_time_tokens").await, 1, "a verified address needs no link");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_confirms_of_one_link_at_once_one_succeeds() {
    let app = TestApp::start_with(Role::Api, |config| config.database.pool_size = 40).await;
    for _ in 0..100 {
        let user = app.client.register("Ada").await;
        let token = app.newest_link(&user.id, Purpose::EmailVerification).await;
        let tries = join_all((0..64).map(|_| app.client.post("/api/v1/auth/verify-email", json!({"token": token})))).await;
        assert_eq!(tries.iter().filter(|answer| answer.status == 200).count(), 1);
        assert!(tries.iter().all(|answer| answer.status == 200 || answer.refusal() == invalid() || answer.status == 503));
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'email_verified'").await, 100);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_of_one_purpose_or_user_or_spelling_opens_nothing_else() {
    let app = TestApp::api().await;
    let (ada, eve) = (app.client.register("Ada").await, app.client.register("Eve").await);
    let token = app.newest_link(&ada.id, Purpose::EmailVerification).await;
    let eves = app.newest_link(&eve.id, Purpose::EmailVerification).await;
    let reset = |token: &str| json!({"token": token, "password": "another-Pass-77", "password_confirm": "another-Pass-77"});
    assert_eq!(app.client.post("/api/v1/auth/password-reset/confirm", reset(&token)).await.refusal(), invalid());
    assert_eq!(app.client.post("/api/v1/users/email/confirm", json!({"token": token})).await.refusal(), invalid());
    assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": ada.email})).await.status, 200);
    let for_reset = app.newest_link(&ada.id, Purpose::PasswordReset).await;
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": for_reset})).await.refusal(), invalid());
    let (id, tag) = (token.split('.').nth(1).unwrap(), eves.split('.').nth(2).unwrap());
    let mut changed = token.clone().into_bytes();
    *changed.last_mut().unwrap() ^= 1;
    for forged in [
        format!("v1.{id}.{tag}"),
        String::from_utf8(changed).unwrap(),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        format!(" {token} "),
        token.to_uppercase(),
        token.replace('.', "%2E"),
        String::new(),
        "x".repeat(10_000),
    ] {
        assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": forged})).await.refusal(), invalid(), "{forged}");
    }
    app.clock.advance(Duration::from_secs(24 * 3600 + 1));
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": token})).await.refusal(), invalid(), "a second too late");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_changed_by_a_link_to_the_new_one_and_the_old_one_is_told() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let (me, new) = (app.client.as_user(&user), format!("new-{}", user.email));
    let ask = |email: &str, password: &str| json!({"email": email, "current_password": password});
    assert_eq!(me.post("/api/v1/users/email/", ask(&new, "wrong")).await.refusal(), (403, "wrong_password".to_owned()));
    assert_eq!(me.post("/api/v1/users/email", ask("no address", PASSWORD)).await.refusal().0, 400);
    assert_eq!(me.post("/api/v1/users/email", ask(&user.email, PASSWORD)).await.status, 200, "his own: nothing to do");
    assert_eq!(me.post("/api/v1/users/email", ask(&format!("other-{new}"), PASSWORD)).await.status, 200);
    let superseded = broker.mail("email_change").await.token();
    assert_eq!(me.post("/api/v1/users/email", ask(&new, PASSWORD)).await.status, 200);
    assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": user.email})).await.status, 200);
    let to_old_address = app.newest_link(&user.id, Purpose::PasswordReset).await;
    let link = broker.mail("email_change").await;
    assert_eq!(link.json()["variables"]["email"], json!(new));
    let notice = broker.mail("email_change_requested").await.json();
    assert_eq!(notice["variables"]["email"], json!(user.email));
    assert!(notice["variables"]["link"].is_null());

    assert_eq!(app.client.post("/api/v1/users/email/confirm", json!({"token": superseded})).await.refusal(), invalid());
    assert_eq!(me.get("/api/v1/users/profile").await.data()["email"], json!(user.email));
    assert_eq!(app.client.post("/api/v1/users/email/confirm/", json!({"token": link.token()})).await.status, 200);
    let profile = me.get("/api/v1/users/profile").await.data();
    assert_eq!((&profile["email"], &profile["email_verified"]), (&json!(new), &json!(true)));
    assert_eq!(broker.mail("email_changed").await.json()["variables"]["email"], json!(user.email));
    let reset = json!({"token": to_old_address, "password": "another-Pass-77", "password_confirm": "another-Pass-77"});
    assert_eq!(app.client.post("/api/v1/auth/password-reset/confirm", reset).await.refusal(), invalid());
    let sign_in = |email: &str| app.client.post("/api/v1/auth/login", json!({"email": email, "password": PASSWORD}));
    let (old, new) = (sign_in(&user.email), sign_in(&new));
    assert_eq!((old.await.status, new.await.status), (401, 200));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_somebody_else_is_neither_told_nor_given() {
    let app = TestApp::api().await;
    let (ada, eve) = (app.client.register("Ada").await, app.client.register("Eve").await);
    let me = app.client.as_user(&eve);
    let ask = |email: &str| me.post("/api/v1/users/email", json!({"email": email, "current_password": PASSWORD}));
    let free = format!("free-{}", eve.email);
    let (taken, untaken) = (ask(&ada.email).await, ask(&free).await);
    assert_eq!((taken.status, taken.text), (untaken.status, untaken.text));
    assert_eq!(
        app.count("SELECT count(*) AS n FROM outbox WHERE payload::text LIKE '%' || encode('\"email_change\"', 'hex') || '%'").await,
        1
    );
    // Nor by what becomes of a link of before: it is replaced either way.
    for email in [&ada.email, &format!("other-{}", eve.email)] {
        ask(&free).await;
        let before = app.newest_link(&eve.id, Purpose::EmailChange).await;
        ask(email).await;
        assert_eq!(app.client.post("/api/v1/users/email/confirm", json!({"token": before})).await.refusal(), invalid(), "{email}");
    }
    ask(&free).await;
    // Taken while the link is on its way.
    let token = app.newest_link(&eve.id, Purpose::EmailChange).await;
    let body = json!({"name": "Bob", "email": free.to_uppercase(), "password": PASSWORD});
    assert_eq!(app.client.post("/api/v1/users", body).await.status, 201);
    assert_eq!(app.client.post("/api/v1/users/email/confirm", json!({"token": token})).await.refusal(), invalid());
    assert_eq!(me.get("/api/v1/users/profile").await.data()["email"], json!(eve.email));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_verification_is_asked_for_nobody_signs_in_before_it() {
    let app = TestApp::start_with(Role::Api, |config| config.identity.require_verified_email = true).await;
    let body = json!({"name": "Ada", "email": "ada@example.com", "password": PASSWORD});
    let registered = app.client.post("/api/v1/users", body.clone()).await;
    assert_eq!((registered.status, registered.data()["access_token"].is_null()), (201, true), "{}", registered.text);
    let user_id = registered.data()["user"]["id"].as_str().unwrap().to_owned();
    let sign_in =
        async |password: &str| app.client.post("/api/v1/auth/login", json!({"email": "ada@example.com", "password": password})).await;
    assert_eq!(sign_in(PASSWORD).await.refusal(), (403, "email_not_verified".to_owned()));
    assert_eq!(sign_in("wrong").await.refusal().0, 401, "only who knows the password learns that there is an account");
    assert_eq!(app.client.post("/api/v1/users", body).await.refusal().0, 400);
    let token = app.newest_link(&user_id, Purpose::EmailVerification).await;
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": token})).await.status, 200);
    assert_eq!(sign_in(PASSWORD).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_strict_privacy_a_registration_tells_nothing_but_to_the_owner() {
    let app = TestApp::start_with(Role::Both, |config| config.identity.registration_privacy = RegistrationPrivacy::Strict).await;
    let broker = app.broker().await;
    let register = async |email: &str, password: &str| {
        app.client.post("/api/v1/users", json!({"name": "Ada", "email": email, "password": password, "push_token": "phone"})).await
    };
    let sign_in =
        async |password: &str| app.client.post("/api/v1/auth/login", json!({"email": "ada@example.com", "password": password})).await;
    let new = register("ada@example.com", PASSWORD).await;
    assert_eq!((new.status, &new.json()["data"]), (202, &json!({})));
    let token = broker.mail("email_verification").await.token();
    assert_eq!(sign_in(PASSWORD).await.refusal(), (401, "invalid_credentials".to_owned()), "as long as it is not verified");
    // Nor by a phone of one's own, which a new account would have taken.
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens").await, 0);
    let taken = register("Ada@Example.com", "another-Pass-77").await;
    let mut headers = [new.headers.clone(), taken.headers.clone()];
    for headers in &mut headers {
        headers.remove("x-correlation-id");
        headers.remove("date");
    }
    assert_eq!((new.status, &new.text, &headers[0]), (taken.status, &taken.text, &headers[1]));
    let notice = broker.mail("registration_attempted").await.json();
    assert_eq!((&notice["variables"]["email"], &notice["variables"]["link"]), (&json!("ada@example.com"), &json!(null)));
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": token})).await.status, 200);
    assert_eq!((sign_in(PASSWORD).await.status, sign_in("another-Pass-77").await.status), (200, 401));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_asked_for_and_tried_within_limits() {
    let limit = |count| Some(Rate { count, window: Duration::from_secs(60) });
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits =
            Limits { token_ip: limit(10), resend: limit(1), reset_account: limit(2), reset_ip: limit(8), ..config.limits.clone() };
    })
    .await;
    let user = app.client.register("Ada").await;
    for n in 0..12 {
        let refused = app.client.post("/api/v1/auth/verify-email", json!({"token": format!("v1.{n}.x")})).await;
        assert_eq!(refused.status, if n < 10 { 400 } else { 429 }, "try {n}");
    }
    // Beyond the account's limit nothing is mailed, and nothing tells so.
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(app.client.post("/api/v1/auth/verify-email/resend", json!({"email": user.email})).await);
        answers.push(app.client.post("/api/v1/auth/password-reset", json!({"email": user.email})).await);
    }
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let links = async |purpose: &str| app.count(&format!("SELECT count(*) AS n FROM one_time_tokens WHERE purpose = '{purpose}'")).await;
    assert_eq!((links("email_verification").await, links("password_reset").await), (2, 2));
    for _ in 0..4 {
        assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": "nobody@example.com"})).await.status, 200);
    }
    let flooded = app.client.post("/api/v1/auth/password-reset", json!({"email": "nobody@example.com"})).await;
    assert_eq!(flooded.refusal(), (429, "rate_limited".to_owned()));
    app.stop().await.unwrap();
}
