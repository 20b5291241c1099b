use futures_util::future::join_all;
use serde_json::json;

use crate::support::{PASSWORD, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn name_and_push_token_change_and_the_token_can_be_cleared() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let changed = me.patch("/api/v1/users/profile/", json!({"name": "Countess", "push_token": "new"})).await;
    assert_eq!(
        (changed.status, changed.data()["name"].as_str(), changed.data()["push_token"].as_str()),
        (200, Some("Countess"), Some("new"))
    );
    assert_eq!(me.patch("/api/v1/users/profile", json!({})).await.data(), changed.data());
    for cleared in [json!(null), json!("")] {
        me.patch("/api/v1/users/profile", json!({"push_token": "again"})).await;
        assert_eq!(me.patch("/api/v1/users/profile", json!({"push_token": cleared})).await.data()["push_token"], json!(null));
    }
    for (field, value) in [
        ("name", json!("")),
        ("name", json!(null)),
        ("push_token", json!("x".repeat(4097))),
        ("push_token", json!(7)),
        ("role", json!("admin")),
    ] {
        let answer = me.patch("/api/v1/users/profile", json!({field: value})).await;
        if field == "name" && value.is_null() {
            assert_eq!(answer.status, 200, "a name that is null is left alone");
        } else {
            assert_eq!(answer.refusal(), (400, "validation_failed".to_owned()), "{field} {value}");
            assert!(answer.json()["errors"][field].is_array(), "{}", answer.text);
        }
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_profile_may_come_back_but_its_read_only_fields_unchanged() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let mut whole = me.get("/api/v1/users/profile").await.data();
    whole["name"] = json!("Countess");
    let put = me.put("/api/v1/users/profile", whole.clone()).await;
    assert_eq!((put.status, put.data()["name"].as_str()), (200, Some("Countess")));
    whole["updated_at"] = put.data()["updated_at"].clone();
    for (field, value) in [
        ("id", json!(uuid::Uuid::nil())),
        ("user_id", json!(uuid::Uuid::nil())),
        ("email", json!("other@example.com")),
        ("email_verified", json!(true)),
        ("preferences", json!({"email": false, "push": true})),
        ("created_at", json!("2020-01-01T00:00:00Z")),
        ("updated_at", json!("2020-01-01T00:00:00Z")),
    ] {
        let mut changed = whole.clone();
        changed[field] = value;
        let answer = me.put("/api/v1/users/profile", changed).await;
        assert_eq!(answer.refusal(), (400, "validation_failed".to_owned()), "{field}");
        assert!(answer.json()["errors"][field].is_array(), "{}", answer.text);
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_changes_at_once_to_different_fields_none_is_lost() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    for round in 0..8 {
        let (name, token) = (format!("Ada {round}"), format!("token {round}"));
        let changes = (0..8).map(|n| match n % 4 {
            0 => ("/api/v1/users/profile", json!({"name": name})),
            1 => ("/api/v1/users/profile", json!({"push_token": token})),
            2 => ("/api/v1/users/preferences", json!({"push": round % 2 == 0})),
            _ => ("/api/v1/users/preferences", json!({"email": round % 2 == 1})),
        });
        let answers = join_all(changes.map(|(path, body)| me.patch(path, body))).await;
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:#?}");
        let now = me.get("/api/v1/users/profile").await.data();
        assert_eq!((now["name"].as_str(), now["push_token"].as_str()), (Some(name.as_str()), Some(token.as_str())));
        assert_eq!(now["preferences"], json!({"push": round % 2 == 0, "email": round % 2 == 1}));
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_token_belongs_to_the_account_that_stored_it_last() {
    let app = TestApp::api().await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let (ada_client, bob_client) = (app.client.as_user(&ada), app.client.as_user(&bob));
    assert_eq!(bob_client.patch("/api/v1/users/profile", json!({"push_token": ada.push_token})).await.status, 200);
    assert_eq!(ada_client.get("/api/v1/users/profile").await.data()["push_token"], json!(null));
    assert_eq!(bob_client.get("/api/v1/users/profile").await.data()["push_token"], json!(ada.push_token));
    // Swapped by both at once, again and again: one owner, no deadlock.
    let swaps =
        (0..32).map(|n| if n % 2 == 0 { &ada_client } else { &bob_client }.patch("/api/v1/users/profile", json!({"push_token": "shared"})));
    assert!(join_all(swaps).await.iter().all(|answer| answer.status == 200 || answer.status == 503));
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE token = 'shared' AND retired_at IS NULL").await, 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_account_is_out_at_once_and_its_address_stays_taken() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let other = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let other = app.client.bearer(&other);
    assert_eq!(other.get("/api/v1/auth/validate").await.status, 200);
    assert_eq!(me.delete("/api/v1/users/profile/").await.status, 200);
    for session in [&me, &other] {
        assert_eq!(session.get("/api/v1/auth/validate").await.status, 401);
        assert_eq!(session.patch("/api/v1/users/profile", json!({"name": "x"})).await.status, 401);
        assert_eq!(session.delete("/api/v1/users/profile").await.status, 401);
    }
    let again = app.client.post("/api/v1/users", json!({"name": "Ada", "email": user.email, "password": PASSWORD})).await;
    assert_eq!(again.refusal(), (400, "validation_failed".to_owned()));
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE retired_at IS NULL").await, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_take_each_others_tokens_at_once_neither_deadlock_nor_lose_one() {
    let app = TestApp::start_with(user_service::config::Role::Api, |config| config.database.pool_size = 20).await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let (ada_client, bob_client) = (app.client.as_user(&ada), app.client.as_user(&bob));
    for round in 0..20 {
        let (one, other) = (format!("one {round}"), format!("other {round}"));
        ada_client.patch("/api/v1/users/profile", json!({"push_token": one})).await;
        bob_client.patch("/api/v1/users/profile", json!({"push_token": other})).await;
        let (a, b) = tokio::join!(
            ada_client.patch("/api/v1/users/profile", json!({"push_token": other})),
            bob_client.patch("/api/v1/users/profile", json!({"push_token": one}))
        );
        assert_eq!((a.status, b.status), (200, 200), "{} {}", a.text, b.text);
        let (a, b) = (ada_client.get("/api/v1/users/profile").await, bob_client.get("/api/v1/users/profile").await);
        assert_eq!((a.data()["push_token"].clone(), b.data()["push_token"].clone()), (json!(other), json!(one)));
    }
    app.stop().await.unwrap();
}
