use serde_json::json;

use crate::support::{FULL_SERVICE_KEY, SERVICE_KEY, TestApp, WEAK_SERVICE_KEY};

const PATH: &str = "/api/v1/push-requests/";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_by_rest_comes_out_like_one_by_rabbitmq_and_once() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let sender = app.client.with("x-internal-api-key", WEAK_SERVICE_KEY);
    let request = json!({"user_id": user.id, "template_code": "WELCOME", "variables": {"link": "https://x"}, "request_id": "r-1",
        "priority": "high", "campaign": 7});
    let taken = json!({"notification_id": "r-1", "decision": "deliver", "reason": null});
    for _ in 0..3 {
        let answer = sender.post(PATH, request.clone()).await;
        assert_eq!((answer.status, answer.data()), (202, taken.clone()), "{}", answer.text);
    }
    let by_rest = broker.delivered().await;
    let mut other = request.clone();
    other["request_id"] = json!("r-2");
    broker.publish(other.to_string().as_bytes(), lapin::BasicProperties::default()).await;
    let by_queue = broker.delivered().await;
    assert_eq!((by_rest.message_id().as_deref(), by_queue.message_id().as_deref()), (Some("r-1"), Some("r-2")));
    assert_eq!((by_rest.properties.kind(), by_rest.properties.priority()), (by_queue.properties.kind(), by_queue.properties.priority()));
    let (rest, mut queue) = (by_rest.json(), by_queue.json());
    queue["request_id"] = json!("r-1");
    queue["notification_id"] = json!("r-1");
    assert_eq!(rest, queue);
    // A copy by the other door is a copy.
    broker.publish(request.to_string().as_bytes(), lapin::BasicProperties::default()).await;
    other["campaign"] = json!(8);
    assert_eq!(sender.post(PATH, other).await.refusal(), (409, "message_id_conflict".to_owned()));
    app.client.as_user(&user).patch("/api/v1/users/preferences", json!({"push": false})).await;
    let events = broker.subscribe_events("push.skipped").await;
    let skipped = sender.post(PATH, json!({"user_id": user.id, "template_code": "X"})).await;
    assert_eq!((skipped.status, &skipped.data()["decision"], &skipped.data()["reason"]), (202, &json!("skip"), &json!("push_disabled")));
    assert_eq!(broker.receive(&events, 1).await[0].json()["notification_id"], skipped.data()["notification_id"]);
    assert_eq!(broker.waiting(&broker.names.deliver_queue).await, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_push_goes_to_oneself_where_it_is_allowed_and_is_decided_as_any_other() {
    const TEST: &str = "/api/v1/notifications/test/";
    let app = TestApp::start_with(user_service::config::Role::Both, |config| config.http.test_notifications = true).await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let me = app.client.as_user(&user);
    let sent = me.send("POST", TEST, None).await;
    assert_eq!((sent.status, &sent.data()["decision"]), (202, &json!("deliver")), "{}", sent.text);
    let delivered = broker.delivered().await.json();
    assert_eq!((&delivered["user_id"], &delivered["template_code"]), (&json!(user.id), &json!("TEST")));
    me.patch("/api/v1/users/preferences", json!({"push": false})).await;
    assert_eq!(me.send("POST", TEST, None).await.data()["reason"], "push_disabled");
    assert_eq!(app.client.send("POST", TEST, None).await.status, 401);
    app.stop().await.unwrap();

    let app = TestApp::api().await;
    let me = app.client.as_user(&app.client.register("Ada").await);
    assert_eq!(me.send("POST", TEST, None).await.refusal(), (404, "not_found".to_owned()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_explains_every_rule_and_sends_nothing() {
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let sender = app.client.with("x-internal-api-key", FULL_SERVICE_KEY);
    let ask = async |expires_at: &str| {
        let request = json!({"user_id": user.id, "template_code": "X", "notification_id": "n", "expires_at": expires_at});
        let answer = sender.post(&format!("{PATH}?dry_run=true"), request).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.data()
    };
    let explained = ask("2999-01-01T00:00:00Z").await;
    assert_eq!((&explained["decision"], &explained["reason"]), (&json!("deliver"), &json!(null)));
    assert!(explained["rules"].as_array().unwrap().iter().all(|rule| rule["forbids"] == json!(false)));
    app.client.as_user(&user).patch("/api/v1/users/preferences", json!({"push": false})).await;
    let explained = ask("2020-01-01T00:00:00Z").await;
    assert_eq!((&explained["decision"], &explained["reason"]), (&json!("skip"), &json!("expired")));
    let rules: Vec<_> =
        explained["rules"].as_array().unwrap().iter().map(|rule| json!([rule["rule"], rule["forbids"], rule["decides"]])).collect();
    assert_eq!(
        json!(rules),
        json!([["user_inactive", false, false], ["expired", true, true], ["push_disabled", true, false], ["no_push_token", false, false]])
    );
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox").await, 0);
    assert_eq!(app.broker().await.waiting(&app.config.broker.deliver_queue).await, 0);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_die_on_the_queue_is_refused_by_rest_with_the_field_and_only_services_may_ask() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let good = json!({"user_id": user.id, "template_code": "X"});
    let sender = app.client.with("x-internal-api-key", WEAK_SERVICE_KEY);
    for (change, field) in [
        (json!({"user_id": 7}), "user_id"),
        (json!({"template_code": null}), "template_code"),
        (json!({"priority": 11}), "priority"),
        (json!({"expires_at": "soon"}), "expires_at"),
        (json!({"notification_id": "é"}), "notification_id"),
        (json!({"notification_type": "email"}), "notification_type"),
        (json!({"recipient_id": uuid::Uuid::nil()}), "user_id"),
    ] {
        let mut request = good.clone();
        request.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = sender.post(PATH, request).await;
        assert_eq!(answer.refusal(), (400, "validation_failed".to_owned()), "{change}");
        assert!(answer.json()["errors"][field].is_array(), "{change}: {}", answer.text);
    }
    for (twice, field) in [
        (format!(r#"{{"user_id":"{0}","user_id":"{0}","template_code":"X"}}"#, user.id), "user_id"),
        (format!(r#"{{"user_id":"{}","template_code":"X","variables":{{"a":1,"a":2}}}}"#, user.id), "a"),
    ] {
        let answer = sender.send("POST", PATH, Some(&twice)).await;
        assert_eq!((answer.status, &answer.json()["errors"][field]), (400, &json!(["is given twice"])), "{}", answer.text);
    }
    let nobody = json!({"user_id": uuid::Uuid::now_v7(), "template_code": "X"});
    assert_eq!(sender.post(PATH, nobody).await.refusal(), (404, "user_not_found".to_owned()));
    assert_eq!(sender.post(PATH, json!([])).await.status, 400);
    assert_eq!(sender.post(&format!("{PATH}?dry_run=perhaps"), good.clone()).await.status, 400);
    assert_eq!(sender.post(&format!("{PATH}?dry_run=true"), good.clone()).await.refusal(), (403, "forbidden".to_owned()), "users:read");
    let reader = app.client.with("x-internal-api-key", SERVICE_KEY);
    assert_eq!(reader.post(PATH, good.clone()).await.refusal(), (403, "forbidden".to_owned()), "push:write");
    assert_eq!(app.client.as_user(&user).post(PATH, good.clone()).await.refusal(), (403, "forbidden".to_owned()));
    assert_eq!(app.client.post(PATH, good).await.status, 401);
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox").await, 0);
    app.stop().await.unwrap();
}
