use futures_util::future::join_all;
use serde_json::json;

use crate::support::{PASSWORD, TestApp};

const NEW: &str = "another-Pass-77";

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_ends_every_other_session_at_once_and_keeps_this_one() {
    let app = TestApp::api().await;
    for _ in 0..100 {
        let user = app.client.register("Ada").await;
        let login = json!({"email": user.email, "password": PASSWORD});
        let others = join_all((0..5).map(|_| app.client.post("/api/v1/auth/login", login.clone()))).await;
        let others: Vec<_> = others.iter().map(|answer| answer.data()).collect();
        for other in &others {
            // Known as alive to the cache.
            assert_eq!(app.client.bearer(other["access_token"].as_str().unwrap()).get("/api/v1/auth/validate").await.status, 200);
        }
        let me = app.client.as_user(&user);
        let change = json!({"current_password": PASSWORD, "password": NEW, "password_confirm": NEW});
        assert_eq!(me.post("/api/v1/auth/password/", change).await.status, 200);
        for other in &others {
            let access = app.client.bearer(other["access_token"].as_str().unwrap()).get("/api/v1/auth/validate").await;
            let refresh = app.client.post("/api/v1/auth/refresh", json!({"refresh_token": other["refresh_token"]})).await;
            assert_eq!((access.status, refresh.status), (401, 401), "a session outlived the password");
        }
        assert_eq!(me.get("/api/v1/auth/validate").await.status, 200);
        assert_eq!(app.client.post("/api/v1/auth/login", login).await.status, 401);
        assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": NEW})).await.status, 200);
    }
    app.stop().await.unwrap();
}

/// Hashing takes a while: a sign-in that read the old password before the change may want its session after it.
#[tokio::test(flavor = "multi_thread")]
async fn of_sign_ins_beside_a_change_of_password_none_leaves_a_session_of_the_old_one() {
    let app = TestApp::api().await;
    let mut user = app.client.register("Ada").await;
    let mut password = PASSWORD.to_owned();
    for round in 0..12 {
        let next = format!("{NEW}-{round}");
        let me = app.client.as_user(&user);
        let change = json!({"current_password": password, "password": next, "password_confirm": next});
        let sign_in = json!({"email": user.email, "password": password});
        let signing_in = join_all((0..8).map(|_| app.client.post("/api/v1/auth/login", sign_in.clone())));
        let (changed, signed_in) = tokio::join!(me.post("/api/v1/auth/password", change), signing_in);
        assert_eq!(changed.status, 200, "{}", changed.text);
        for answer in signed_in {
            match answer.status {
                200 => {
                    let token = answer.data()["access_token"].as_str().unwrap().to_owned();
                    assert_eq!(app.client.bearer(&token).get("/api/v1/auth/validate").await.status, 401, "round {round}");
                }
                status => assert_eq!(status, 401, "{}", answer.text),
            }
        }
        // Each was announced as ended, for those who verify tokens by themselves.
        let forgotten =
            "SELECT count(*) AS n FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.ended_at IS NULL AND s.epoch <> u.session_epoch";
        assert_eq!(app.count(forgotten).await, 0, "round {round}");
        password = next;
        let again = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": password})).await.data();
        user.access_token = again["access_token"].as_str().unwrap().to_owned();
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_told_by_a_mail_to_the_stored_address() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let change = json!({"current_password": PASSWORD, "password": NEW, "password_confirm": NEW});
    let me = app.client.as_user(&user).with("x-correlation-id", "c-77");
    assert_eq!(me.post("/api/v1/auth/password", change).await.status, 200);
    let mail = broker.mail("password_changed").await;
    let body = mail.json();
    assert_eq!((body["template_code"].as_str(), body["notification_type"].as_str()), (Some("password_changed"), Some("email")));
    assert_eq!(body["variables"], json!({"name": "Ada", "email": user.email, "app_name": "Test Service"}));
    assert_eq!(body["user_id"], json!(user.id));
    for field in ["notification_id", "request_id", "created_at"] {
        assert!(body[field].is_string(), "{field}");
    }
    assert_eq!(mail.properties.correlation_id().as_ref().map(|id| id.as_str()), Some("c-77"));
    let text = String::from_utf8(mail.data).unwrap();
    assert!(!text.contains(PASSWORD) && !text.contains(NEW), "a password is in the mail");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_current_or_weak_new_password_changes_nothing() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let change =
        |current: &str, new: &str, confirm: &str| json!({"current_password": current, "password": new, "password_confirm": confirm});
    assert_eq!(me.post("/api/v1/auth/password", change("wrong", NEW, NEW)).await.refusal(), (403, "wrong_password".to_owned()));
    let differs = me.post("/api/v1/auth/password", change(PASSWORD, NEW, "other")).await;
    assert_eq!(differs.refusal(), (400, "validation_failed".to_owned()));
    assert!(differs.json()["errors"]["password_confirm"].is_array());
    for weak in ["12345678", "password1", &user.email, &"x".repeat(72)] {
        assert!(me.post("/api/v1/auth/password", change(PASSWORD, weak, weak)).await.json()["errors"]["password"].is_array(), "{weak}");
    }
    assert_eq!(app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.status, 200);
    assert_eq!(app.count("SELECT count(*) AS n FROM outbox WHERE routing_key = 'email'").await, 1, "a notice of no change");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_16_changes_at_once_one_wins() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let changes = (0..16).map(|n| {
        let new = format!("{NEW}-{n}");
        me.post("/api/v1/auth/password", json!({"current_password": PASSWORD, "password": new, "password_confirm": new}))
    });
    let statuses: Vec<u16> = join_all(changes).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert!(statuses.iter().all(|status| [200, 403, 503].contains(status)), "{statuses:?}");
    app.stop().await.unwrap();
}
