use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use user_service::config::{Rate, Role};

use crate::support::{PASSWORD, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_gives_a_session_of_its_own() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let answer = app.client.post("/api/v1/auth/login", json!({"email": user.email.to_uppercase(), "password": PASSWORD})).await;
    assert_eq!(answer.status, 200);
    let data = answer.data();
    assert_eq!(
        (data["user"]["id"].as_str(), data["token_type"].as_str(), data["expires_in"].as_u64()),
        (Some(user.id.as_str()), Some("Bearer"), Some(3600))
    );
    assert!(data["refresh_token"].as_str().unwrap().starts_with("v1."));
    let whose = app.client.bearer(data["access_token"].as_str().unwrap()).get("/api/v1/auth/validate/").await;
    assert_eq!((whose.status, whose.data()["id"].as_str()), (200, Some(user.id.as_str())));
    assert_eq!(app.count("SELECT count(*) AS n FROM sessions WHERE ended_at IS NULL").await, 2);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_unknown_and_inactive_are_the_same_answer() {
    let app = TestApp::api().await;
    let (known, inactive) = (app.client.register("Ada").await, app.client.register("Bob").await);
    assert_eq!(app.client.as_user(&inactive).delete("/api/v1/users/profile").await.status, 200);
    let mut answers = Vec::new();
    for (email, password) in [
        (known.email.as_str(), "wrong-password"),
        ("nobody@example.com", PASSWORD),
        (&inactive.email, PASSWORD),
        ("no address", PASSWORD),
        (&known.email, &"x".repeat(100)),
    ] {
        let answer = app.client.post("/api/v1/auth/login", json!({"email": email, "password": password})).await;
        let mut headers: Vec<_> = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
        headers.sort();
        answers.push((answer.refusal(), answer.text.clone(), headers));
    }
    assert_eq!(answers[0].0, (401, "invalid_credentials".to_owned()));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:#?}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_wrong_passwords_at_once_only_the_limit_is_tried_and_the_owner_is_not_locked_out() {
    let limit = Some(Rate { count: 5, window: Duration::from_secs(300) });
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits.login_account = limit;
        config.database.pool_size = 40;
    })
    .await;
    let user = app.client.register("Ada").await;
    let attacker = app.client.with("x-forwarded-for", "6.6.6.6");
    let attempts = (0..64).map(|_| attacker.post("/api/v1/auth/login", json!({"email": user.email, "password": "wrong-password"})));
    let statuses: Vec<u16> = join_all(attempts).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 59, "{statuses:?}");
    // From where nobody failed, and for the attacker himself after his window.
    let right = json!({"email": user.email, "password": PASSWORD});
    assert_eq!(app.client.with("x-forwarded-for", "7.7.7.7").post("/api/v1/auth/login", right.clone()).await.status, 200);
    assert_eq!(attacker.post("/api/v1/auth/login", right.clone()).await.status, 429);
    app.clock.advance(Duration::from_secs(301));
    assert_eq!(attacker.post("/api/v1/auth/login", right).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_live_access_token_is_401_with_a_challenge() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let refresh = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data()["refresh_token"]
        .as_str()
        .unwrap()
        .to_owned();
    for header in [
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer x.y.z",
        "",
        &format!("Bearer {refresh}"),
        &format!("Bearer {}x", user.access_token),
        &format!("Token {}", user.access_token),
    ] {
        let answer = app.client.with("authorization", header).get("/api/v1/users/profile").await;
        assert_eq!(answer.refusal(), (401, "unauthenticated".to_owned()), "{header}");
        assert!(answer.header("www-authenticate").unwrap().starts_with("Bearer"));
    }
    assert_eq!(app.client.get("/api/v1/users/profile").await.status, 401);
    let twice = app.client.as_user(&user).as_user(&user).get("/api/v1/users/profile").await;
    assert_eq!(twice.status, 401);
    assert_eq!(app.client.get(&format!("/api/v1/users/profile?access_token={}", user.access_token)).await.status, 401);
    assert_eq!(app.client.with("authorization", &format!("bearer {}", user.access_token)).get("/api/v1/users/profile").await.status, 200);
    app.clock.advance(Duration::from_secs(3600 + 31));
    assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile").await.status, 401);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_twenty_first_session_ends_the_one_used_longest_ago() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    for _ in 0..20 {
        app.clock.advance(Duration::from_secs(1));
        assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.status, 200);
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM sessions WHERE ended_at IS NULL").await, 20);
    assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile").await.status, 401);
    app.stop().await.unwrap();
}
