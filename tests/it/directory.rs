use serde_json::json;

use crate::support::{SERVICE_KEY, TestApp, WEAK_SERVICE_KEY};

#[tokio::test(flavor = "multi_thread")]
async fn siblings_read_the_shapes_they_know_with_and_without_slash() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    for slash in ["", "/"] {
        let get = async |path: &str| {
            let answer = service.get(&format!("/api/v1/users/{}{path}", user.id).replace("?", &format!("{slash}?")).to_owned()).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
            answer.data()
        };
        let shown = get(slash).await;
        assert_eq!(
            (shown["id"].as_str(), shown["user_id"].as_str(), shown["is_active"].as_bool()),
            (Some(user.id.as_str()), Some(user.id.as_str()), Some(true))
        );
        assert_eq!(
            get(&format!("/preferences{slash}")).await,
            json!({"user_id": user.id, "email": true, "push": true, "email_enabled": true, "push_enabled": true})
        );
        assert_eq!(
            get("/contact?type=email").await,
            json!({"user_id": user.id, "contact": user.email, "notification_type": "email", "preferences_enabled": true})
        );
        assert_eq!(
            get("/contact?type=push").await,
            json!({"user_id": user.id, "contact": user.push_token, "notification_type": "push", "preferences_enabled": true})
        );
        assert_eq!(
            get(&format!("/push-token{slash}")).await,
            json!({"user_id": user.id, "push_token": user.push_token, "token": user.push_token, "push_tokens": [user.push_token]})
        );
    }
    let bearer = app.client.bearer(SERVICE_KEY).get(&format!("/api/v1/users/{}", user.id)).await;
    assert_eq!(bearer.status, 200, "a key is accepted as a bearer token too");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_reads_himself_a_service_what_its_scopes_say_and_nobody_else_anything() {
    let app = TestApp::api().await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let (as_ada, as_bob) = (app.client.as_user(&ada), app.client.as_user(&bob));
    let (weak, wrong) = (app.client.with("x-internal-api-key", WEAK_SERVICE_KEY), app.client.with("x-internal-api-key", "usk_wrong"));
    for path in ["", "/preferences", "/contact?type=email", "/push-token"] {
        let path = format!("/api/v1/users/{}{path}", ada.id);
        let own = as_ada.get(&path).await;
        if path.ends_with("push-token") {
            assert_eq!(own.refusal(), (403, "forbidden".to_owned()));
        } else {
            assert_eq!(own.status, 200, "{path}");
            assert!(own.data()["is_active"].is_null(), "is_active is not for users");
        }
        assert_eq!(as_bob.get(&path).await.refusal(), (403, "forbidden".to_owned()), "{path}");
        assert_eq!(weak.get(&path).await.refusal(), (403, "forbidden".to_owned()), "{path}");
        assert_eq!(wrong.get(&path).await.refusal(), (401, "unauthenticated".to_owned()), "{path}");
        assert_eq!(app.client.get(&path).await.refusal(), (401, "unauthenticated".to_owned()), "{path}");
    }
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    for path in ["/api/v1/users/profile", "/api/v1/users/preferences", "/api/v1/auth/validate"] {
        assert_eq!(service.get(path).await.refusal(), (403, "forbidden".to_owned()), "{path}: a service key never opens a user route");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_says_what_is_missing() {
    let app = TestApp::api().await;
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    let user = app.client.register("Ada").await;
    app.client.as_user(&user).patch("/api/v1/users/profile", json!({"push_token": null})).await;
    let path = |rest: &str| format!("/api/v1/users/{}{rest}", user.id);
    assert_eq!(service.get(&path("/push-token")).await.refusal(), (404, "no_contact".to_owned()));
    assert_eq!(service.get(&path("/contact?type=push")).await.refusal(), (404, "no_contact".to_owned()));
    assert_eq!(service.get(&path("/contact")).await.refusal(), (400, "validation_failed".to_owned()));
    assert_eq!(service.get(&path("/contact?type=sms")).await.status, 400);
    assert_eq!(service.get(&format!("/api/v1/users/{}", uuid::Uuid::now_v7())).await.refusal(), (404, "user_not_found".to_owned()));
    let no_id = service.get("/api/v1/users/42").await;
    assert_eq!(no_id.refusal(), (400, "validation_failed".to_owned()));
    assert!(no_id.json()["errors"]["id"].is_array());
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deactivated_user_has_no_contact_at_once() {
    let app = TestApp::api().await;
    let service = app.client.with("x-internal-api-key", SERVICE_KEY);
    let user = app.client.register("Ada").await;
    let path = format!("/api/v1/users/{}/contact?type=push", user.id);
    assert_eq!(service.get(&path).await.status, 200);
    app.client.as_user(&user).delete("/api/v1/users/profile").await;
    assert_eq!(service.get(&path).await.refusal(), (404, "no_contact".to_owned()));
    assert_eq!(service.get(&format!("/api/v1/users/{}", user.id)).await.data()["is_active"], json!(false));
    app.stop().await.unwrap();
}
