use futures_util::future::join_all;
use serde_json::json;

use crate::support::{PASSWORD, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn registering_answers_the_user_and_tokens_that_work() {
    let app = TestApp::api().await;
    let body =
        json!({"name": " Ada ", "email": "Ada@Example.COM", "password": PASSWORD, "push_token": "t-1", "preferences": {"email": false}});
    let answer = app.client.post("/api/v1/users/", body).await;
    assert_eq!(answer.status, 201);
    insta::assert_json_snapshot!(answer.json(), {
        ".data.user.id" => "[uuid]", ".data.user.user_id" => "[uuid]", ".data.user.created_at" => "[time]", ".data.user.updated_at" => "[time]",
        ".data.access_token" => "[jwt]", ".data.refresh_token" => "[token]",
    });
    assert_eq!(answer.data()["user"]["id"], answer.data()["user"]["user_id"]);
    let profile = app.client.bearer(answer.data()["access_token"].as_str().unwrap()).get("/api/v1/users/profile/").await;
    assert_eq!((profile.status, profile.data()), (200, answer.data()["user"].clone()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_one_account_however_it_is_typed_64_at_once() {
    let app = TestApp::api().await;
    let spellings = ["ada@example.com", "ADA@example.com", " Ada@EXAMPLE.com ", "ada@example.com."];
    let attempts =
        (0..64).map(|n| app.client.post("/api/v1/users", json!({"name": "Ada", "email": spellings[n % 4], "password": PASSWORD})));
    let answers = join_all(attempts).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        // A pool of 8 may be busy for so many at once; nobody may get a second account or a 500.
        assert!([(400, "validation_failed".to_owned()), (503, "unavailable".to_owned())].contains(&refused.refusal()), "{}", refused.text);
        assert!(refused.status == 503 || refused.json()["errors"]["email"].is_array());
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM users").await, 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wrong_field_is_named_at_once() {
    let app = TestApp::api().await;
    let answer =
        app.client.post("/api/v1/users/", json!({"name": " ", "email": "a@@x.com", "password": "12345678", "push_token": "a\nb"})).await;
    assert_eq!(answer.refusal(), (400, "validation_failed".to_owned()));
    let errors = answer.json()["errors"].clone();
    assert_eq!(errors.as_object().unwrap().keys().collect::<Vec<_>>(), ["email", "name", "password", "push_token"]);
    assert_eq!(app.count("SELECT count(*) AS n FROM users").await, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_registration_are_refused_and_never_500() {
    let app = TestApp::api().await;
    let good = json!({"name": "Ada", "email": "ada@example.com", "password": PASSWORD});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    let deep = "[".repeat(10_000);
    for (body, code) in [
        ("", "malformed_json"),
        ("null", "malformed_json"),
        ("[]", "malformed_json"),
        ("{", "malformed_json"),
        (deep.as_str(), "malformed_json"),
        ("{\"name\":\"\\ud800\"}", "malformed_json"),
        ("{\"name\":\"a\\u0000b\",\"email\":\"a@b.com\",\"password\":\"TestPass123!\"}", "malformed_json"),
        ("{\"email\":\"a@b.com\",\"email\":\"c@d.com\",\"name\":\"x\",\"password\":\"TestPass123!\"}", "validation_failed"),
        (&with("is_staff", json!(true)), "validation_failed"),
        (&with("name", json!(1)), "validation_failed"),
        (&with("password", json!("x".repeat(72))), "validation_failed"),
        (&with("preferences", json!({"push": "true"})), "validation_failed"),
    ] {
        let answer = app.client.send("POST", "/api/v1/users", Some(body)).await;
        assert_eq!(answer.refusal(), (400, code.to_owned()), "{}", &body[..body.len().min(80)]);
    }
    let plain = app.client.with("content-type", "text/plain").send("POST", "/api/v1/users", Some(&good.to_string())).await;
    assert_eq!(plain.refusal(), (415, "unsupported_media_type".to_owned()));
    let gzip = app.client.with("content-encoding", "gzip").send("POST", "/api/v1/users", Some(&good.to_string())).await;
    assert_eq!(gzip.refusal(), (415, "unsupported_media_type".to_owned()));
    let large = app.client.send("POST", "/api/v1/users", Some(&with("name", json!("x".repeat(70_000))))).await;
    assert_eq!(large.refusal(), (413, "body_too_large".to_owned()));
    assert_eq!(app.count("SELECT count(*) AS n FROM users").await, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_of_one_address_are_limited_and_say_when_to_come_back() {
    let limit = Some(user_service::config::Rate { count: 3, window: std::time::Duration::from_secs(60) });
    let app = TestApp::start_with(user_service::config::Role::Api, |config| config.limits.register_ip = limit).await;
    let from = |ip: &str| app.client.with("x-forwarded-for", ip);
    for _ in 0..3 {
        from("1.2.3.4").register("Ada").await;
    }
    let body = json!({"name": "Ada", "email": "late@example.com", "password": PASSWORD});
    let refused = from("1.2.3.4").post("/api/v1/users", body.clone()).await;
    assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()));
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u32>().unwrap()));
    assert_eq!(from("1.2.3.5").post("/api/v1/users", body.clone()).await.status, 201);
    app.clock.advance(std::time::Duration::from_secs(61));
    from("1.2.3.4").register("Ada").await;
    app.stop().await.unwrap();
}
