use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use user_service::config::Role;

use crate::support::client::TestUser;
use crate::support::{Client, PASSWORD, Services, TestApp};

/// (access token, refresh token) of a new session.
async fn sign_in(client: &Client, user: &TestUser) -> (String, String) {
    let data = client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data();
    (data["access_token"].as_str().unwrap().to_owned(), data["refresh_token"].as_str().unwrap().to_owned())
}

async fn refresh(client: &Client, token: &str) -> Result<(String, String), (u16, String)> {
    let answer = client.post("/api/v1/auth/refresh/", json!({"refresh_token": token})).await;
    if answer.status != 200 {
        return Err(answer.refusal());
    }
    let data = answer.data();
    assert_eq!((data["token_type"].as_str(), data["expires_in"].as_u64(), data["user"].is_null()), (Some("Bearer"), Some(3600), true));
    Ok((data["access_token"].as_str().unwrap().to_owned(), data["refresh_token"].as_str().unwrap().to_owned()))
}

fn reused() -> (u16, String) {
    (401, "refresh_token_reused".to_owned())
}

fn invalid() -> (u16, String) {
    (401, "invalid_refresh_token".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_refreshes_at_once_one_successor_comes_out_for_each_of_200_sessions() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.database.pool_size = 40;
        // What is tested is the rotation, not the patience of so many callers on this machine.
        config.identity.refresh_grace = Duration::from_secs(60);
    })
    .await;
    for _ in 0..10 {
        let user = app.client.register("Ada").await;
        for _ in 0..20 {
            let (_, token) = sign_in(&app.client, &user).await;
            let outcomes = join_all((0..64).map(|_| refresh(&app.client, &token))).await;
            let successors: HashSet<_> =
                outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().map(|(_, token)| token.clone())).collect();
            assert_eq!(successors.len(), 1, "{outcomes:#?}");
            assert!(outcomes.iter().all(|outcome| outcome.is_ok() || outcome == &Err((503, "unavailable".to_owned()))), "{outcomes:#?}");
        }
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM sessions WHERE counter > 1").await, 0);
    assert_eq!(app.count("SELECT count(*) AS n FROM sessions WHERE counter = 1").await, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reused_refresh_token_ends_the_whole_family() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let (_, first) = sign_in(&app.client, &user).await;
    let (_, second) = refresh(&app.client, &first).await.unwrap();
    let (access, third) = refresh(&app.client, &second).await.unwrap();
    assert_eq!(app.client.bearer(&access).get("/api/v1/auth/validate").await.status, 200);
    assert_eq!(refresh(&app.client, &first).await, Err(reused()));
    for descendant in [&first, &second, &third] {
        assert_eq!(refresh(&app.client, descendant).await, Err(invalid()));
    }
    assert_eq!(app.client.bearer(&access).get("/api/v1/auth/validate").await.status, 401, "the access token outlived its family");
    assert_eq!(app.client.as_user(&user).get("/api/v1/auth/validate").await.status, 200, "another session is another family");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_logs_nobody_out_within_the_grace_and_not_a_second_longer() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let (_, first) = sign_in(&app.client, &user).await;
    let (_, second) = refresh(&app.client, &first).await.unwrap();
    app.clock.advance(Duration::from_secs(8));
    assert_eq!(refresh(&app.client, &first).await.unwrap().1, second, "the same successor");
    app.clock.advance(Duration::from_secs(3));
    assert_eq!(refresh(&app.client, &first).await, Err(reused()));
    assert_eq!(refresh(&app.client, &second).await, Err(invalid()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reuse_is_still_detected_after_a_restart() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let (_, first) = sign_in(&app.client, &user).await;
    let (_, second) = refresh(&app.client, &first).await.unwrap();
    let (_, third) = refresh(&app.client, &second).await.unwrap();
    let stopped = app.halt().await;
    let app = TestApp::start_on(Services::from_env(), stopped.database_url.clone(), Role::Api, |_| {}).await;
    assert_eq!(refresh(&app.client, &first).await, Err(reused()));
    assert_eq!(refresh(&app.client, &third).await, Err(invalid()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_detected_reuse_no_descendant_is_accepted_in_10000_tries() {
    let app = TestApp::start_with(Role::Api, |config| config.database.pool_size = 40).await;
    let user = app.client.register("Ada").await;
    let mut tried = 0;
    while tried < 10_000 {
        let (_, first) = sign_in(&app.client, &user).await;
        let (_, second) = refresh(&app.client, &first).await.unwrap();
        let (_, third) = refresh(&app.client, &second).await.unwrap();
        assert_eq!(refresh(&app.client, &first).await, Err(reused()));
        // From the moment the 401 is here.
        let outcomes = join_all((0..250).map(|_| refresh(&app.client, &third))).await;
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Err((401 | 503, _)))), "{outcomes:#?}");
        tried += outcomes.iter().filter(|outcome| **outcome == Err(invalid())).count();
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_refresh_token_is_401_and_writes_nothing() {
    // With a limit, so that whatever reaches the database leaves its count there.
    let limit = Some(user_service::config::Rate { count: 100, window: Duration::from_secs(60) });
    let app = TestApp::start_with(Role::Api, |config| config.limits.refresh_session = limit).await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let (access, token) = sign_in(&app.client, &ada).await;
    let (_, other) = sign_in(&app.client, &bob).await;
    let (mine, others): (Vec<_>, Vec<_>) = (token.split('.').collect(), other.split('.').collect());
    let swapped = format!("v1.{}.{}.{}", others[1], mine[2], mine[3]);
    let next = format!("v1.{}.1.{}", mine[1], mine[3]);
    for forged in ["", "x", "v1", &access, &swapped, &next, &format!("{token}x"), &token.to_uppercase(), &"v1.".repeat(1_000)] {
        assert_eq!(refresh(&app.client, forged).await, Err(invalid()), "{forged}");
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM throttles").await, 0);
    let alias = app.client.post("/api/v1/auth/refresh", json!({"refresh": token})).await;
    assert_eq!((alias.status, app.count("SELECT count(*) AS n FROM throttles").await), (200, 1));
    assert_eq!(app.client.post("/api/v1/auth/refresh", json!({})).await.refusal(), (400, "validation_failed".to_owned()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_family_ends_after_a_day_unused_and_after_30_days_however_busy() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let (_, idle) = sign_in(&app.client, &user).await;
    let (_, mut busy) = sign_in(&app.client, &user).await;
    for _ in 0..32 {
        app.clock.advance(Duration::from_secs(22 * 3600));
        busy = refresh(&app.client, &busy).await.unwrap().1;
    }
    assert_eq!(refresh(&app.client, &idle).await, Err(invalid()));
    app.clock.advance(Duration::from_secs(17 * 3600));
    assert_eq!(refresh(&app.client, &busy).await, Err(invalid()), "30 days are over");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_out_ends_this_session_at_once_and_no_other() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let ((access, token), (other, other_token)) = (sign_in(&app.client, &user).await, sign_in(&app.client, &user).await);
    let me = app.client.bearer(&access);
    assert_eq!(me.get("/api/v1/auth/validate").await.status, 200);
    assert_eq!(me.send("POST", "/api/v1/auth/logout/", None).await.status, 200);
    assert_eq!(me.get("/api/v1/auth/validate").await.status, 401);
    assert_eq!(me.send("POST", "/api/v1/auth/logout", None).await.status, 401, "twice");
    assert_eq!(refresh(&app.client, &token).await, Err(invalid()));
    let other = app.client.bearer(&other);
    assert_eq!(other.get("/api/v1/auth/validate").await.status, 200);
    assert_eq!(other.post("/api/v1/auth/logout", json!({"everywhere": true, "push_token": user.push_token})).await.status, 200);
    for session in [&other, &app.client.as_user(&user)] {
        assert_eq!(session.get("/api/v1/auth/validate").await.status, 401);
    }
    assert_eq!(refresh(&app.client, &other_token).await, Err(invalid()));
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE retired_at IS NULL").await, 0, "the phone still rings");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sees_and_ends_his_own_sessions_only() {
    let app = TestApp::api().await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let (access, _) = sign_in(&app.client.with("user-agent", "phone/1"), &ada).await;
    let list = app.client.as_user(&ada).get("/api/v1/auth/sessions/").await;
    let sessions = list.data();
    assert_eq!((sessions.as_array().unwrap().len(), list.json()["meta"]["total"].as_u64()), (2, Some(2)));
    let phone = sessions.as_array().unwrap().iter().find(|session| session["user_agent"] == json!("phone/1")).unwrap();
    assert_eq!(phone["current"], json!(false));
    let path = format!("/api/v1/auth/sessions/{}", phone["id"].as_str().unwrap());
    assert_eq!(app.client.as_user(&bob).delete(&path).await.refusal(), (404, "session_not_found".to_owned()));
    assert_eq!(app.client.bearer(&access).get("/api/v1/auth/validate").await.status, 200, "another's session was touched");
    assert_eq!(app.client.as_user(&ada).delete(&path).await.status, 200);
    assert_eq!(app.client.bearer(&access).get("/api/v1/auth/validate").await.status, 401);
    assert_eq!(app.client.as_user(&ada).delete(&path).await.status, 404);
    app.stop().await.unwrap();
}
