use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use user_service::config::{Limits, Rate, Role};

use crate::support::client::{Answer, TestUser};
use crate::support::{Client, PASSWORD, Services, TestApp};

/// As they are by default.
fn limits(limits: &Limits) -> Limits {
    let rate = |count, seconds| Some(Rate { count, window: Duration::from_secs(seconds) });
    Limits { login_ip: rate(10, 60), login_account: rate(5, 300), login_account_new: rate(50, 3600), ..limits.clone() }
}

async fn start() -> TestApp {
    TestApp::start_with(Role::Api, |config| config.limits = limits(&config.limits)).await
}

/// From an address, through the one trusted proxy.
fn from(client: &Client, ip: &str) -> Client {
    client.with("x-forwarded-for", ip)
}

async fn sign_in(client: &Client, user: &TestUser, password: &str) -> Answer {
    client.post("/api/v1/auth/login", json!({"email": user.email, "password": password})).await
}

/// How many wrong passwords were compared: each leaves one entry.
async fn compared(app: &TestApp) -> i64 {
    app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'sign_in_failed'").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_256_wrong_logins_at_once_five_are_hashed() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits = limits(&config.limits);
        config.database.pool_size = 40;
    })
    .await;
    let user = app.client.register("Ada").await;
    let attacker = from(&app.client, "203.0.113.7");
    let answers = join_all((0..256).map(|_| sign_in(&attacker, &user, "wrong"))).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert!(count(401) <= 5 && compared(&app).await <= 5, "{} were compared", compared(&app).await);
    assert_eq!(count(401) + count(429) + count(503), 256);
    assert!(count(429) >= 200, "{} were throttled", count(429));
    // The counter is PostgreSQL's: a restart forgets nothing.
    let stopped = app.halt().await;
    let app =
        TestApp::start_on(Services::from_env(), stopped.database_url.clone(), Role::Api, |config| config.limits = limits(&config.limits))
            .await;
    assert_eq!(sign_in(&from(&app.client, "203.0.113.7"), &user, PASSWORD).await.refusal(), (429, "rate_limited".to_owned()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spray_over_10000_names_is_stopped_and_the_victim_signs_in_from_where_he_always_did() {
    let app = start().await;
    let victim = app.client.register("Ada").await;
    let home = from(&app.client, "198.51.100.1");
    assert_eq!(sign_in(&home, &victim, PASSWORD).await.status, 200);
    let attacker = from(&app.client, "203.0.113.7");
    for chunk in 0..100 {
        let answers = join_all((0..100).map(|n| {
            let email = format!("nobody-{chunk}-{n}@example.com");
            attacker.post("/api/v1/auth/login", json!({"email": email, "password": "Password1!"}))
        }))
        .await;
        assert!(answers.iter().all(|answer| [401, 429, 503].contains(&answer.status)));
    }
    assert!(compared(&app).await <= 10, "{} were compared within a minute", compared(&app).await);
    // Then the one account, from a hundred addresses.
    let mut refused = 0;
    for n in 0..100 {
        let answer = sign_in(&from(&app.client, &format!("192.0.2.{n}")), &victim, "wrong").await;
        refused += usize::from(answer.status == 429);
    }
    // Fifty an hour over addresses that the account never signed in from; the owner's first time at home was one.
    assert_eq!(refused, 51);
    let stranger = from(&app.client, "192.0.2.200");
    assert_eq!(sign_in(&stranger, &victim, PASSWORD).await.status, 429);
    assert_eq!(sign_in(&home, &victim, PASSWORD).await.status, 200, "the owner is locked out");
    // And from anywhere by the reset, and again once the hour is over.
    assert_eq!(stranger.post("/api/v1/auth/password-reset", json!({"email": victim.email})).await.status, 200);
    app.clock.advance(Duration::from_secs(3601));
    assert_eq!(sign_in(&stranger, &victim, PASSWORD).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_resets_of_somebody_else_does_not_keep_him_from_his_own() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits = Limits { reset_account: Some(Rate { count: 5, window: Duration::from_secs(3600) }), ..config.limits.clone() };
    })
    .await;
    let user = app.client.register("Ada").await;
    let links = async || app.count("SELECT count(*) AS n FROM one_time_tokens WHERE purpose = 'password_reset'").await;
    let ask = async || assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": user.email})).await.status, 200);
    for _ in 0..8 {
        ask().await;
    }
    assert_eq!(links().await, 5, "a mailbox is not filled");
    // Half an hour later none of them works any more.
    app.clock.advance(Duration::from_secs(31 * 60));
    for _ in 0..3 {
        ask().await;
    }
    assert_eq!(links().await, 6, "one that works is enough");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_session_that_has_ended_uses_up_nothing_of_the_others() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits = Limits { default_user: Some(Rate { count: 10, window: Duration::from_secs(3600) }), ..config.limits.clone() };
    })
    .await;
    let user = app.client.register("Ada").await;
    let stolen = app.client.as_user(&user);
    let other = sign_in(&app.client, &user, PASSWORD).await.data()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(stolen.send("POST", "/api/v1/auth/logout", None).await.status, 200);
    for _ in 0..30 {
        assert_eq!(stolen.get("/api/v1/auth/validate").await.status, 401);
    }
    assert_eq!(app.client.bearer(&other).get("/api/v1/auth/validate").await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_clears_the_account_and_not_the_address() {
    let app = start().await;
    let (victim, own) = (app.client.register("Ada").await, app.client.register("Eve").await);
    let attacker = from(&app.client, "203.0.113.7");
    for _ in 0..4 {
        assert_eq!(sign_in(&attacker, &victim, "wrong").await.status, 401);
    }
    // Eve signs in to her own account, which must not give her more tries.
    for _ in 0..4 {
        assert_eq!(sign_in(&attacker, &own, PASSWORD).await.status, 200);
    }
    assert_eq!(sign_in(&attacker, &victim, "wrong").await.status, 401);
    assert_eq!(sign_in(&attacker, &victim, "wrong").await.status, 429, "the sixth for this account");
    // The eleventh from this address, for whichever account.
    assert_eq!(sign_in(&attacker, &own, PASSWORD).await.status, 429);
    let throttled = sign_in(&attacker, &victim, "wrong").await;
    let unknown = attacker.post("/api/v1/auth/login", json!({"email": "nobody@example.com", "password": "x"})).await;
    assert_eq!((throttled.status, throttled.text), (unknown.status, unknown.text), "known or unknown alike");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_hundred_wrong_passwords_in_a_row_the_owner_is_told_once() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let fail = async |count: usize| {
        for chunk in 0..count / 10 {
            let answers = join_all((0..10).map(|_| sign_in(&app.client, &user, "wrong"))).await;
            assert!(answers.iter().all(|answer| answer.status == 401), "{chunk}: {answers:?}");
        }
    };
    fail(90).await;
    assert_eq!(sign_in(&app.client, &user, PASSWORD).await.status, 200, "then it begins anew");
    fail(120).await;
    let mail = broker.mail("sign_in_failures").await.json();
    assert_eq!(mail["variables"]["email"], json!(user.email));
    assert_eq!(app.count("SELECT count(*) AS n FROM outbox WHERE encode(payload, 'escape') LIKE '%sign_in_failures%'").await, 1);
    app.stop().await.unwrap();
}
