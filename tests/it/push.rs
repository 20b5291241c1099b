use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::{AMQPValue, FieldTable};
use secrecy::ExposeSecret as _;
use serde_json::json;
use user_service::config::Broker;

use crate::support::broker::Received;
use crate::support::mangler::mangler;
use crate::support::{TestApp, TestBroker, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_request_comes_out_with_the_users_data() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let body = json!({"notification_type": "push", "user_id": user.id, "template_code": "WELCOME", "variables": {"link": "https://x"},
        "request_id": "r-1", "priority": 1, "metadata": {"a": 1}});
    broker.publish(body.to_string().as_bytes(), BasicProperties::default().with_correlation_id("c-1".into())).await;
    let delivery = broker.delivered().await;
    assert_eq!(
        delivery.json(),
        json!({"notification_type": "push", "notification_id": "r-1", "request_id": "r-1", "user_id": user.id, "template_code": "WELCOME",
            "variables": {"name": "Ada", "link": "https://x"}, "priority": 1, "metadata": {"a": 1},
            "push_token": user.push_token, "push_tokens": [user.push_token],
            "user_data": {"user_id": user.id, "name": "Ada", "email": user.email, "push_token": user.push_token,
                "preferences": {"email": true, "push": true}, "email_verified": false}})
    );
    let properties = &delivery.properties;
    assert_eq!((delivery.message_id().as_deref(), *properties.priority(), *properties.delivery_mode()), (Some("r-1"), Some(1), Some(2)));
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
    assert_eq!(text(properties.correlation_id()).as_deref(), Some("c-1"));
    assert_eq!(text(properties.content_type()).as_deref(), Some("application/json"));
    assert_eq!(text(properties.app_id()).as_deref(), Some("user-service"));
    assert_eq!(text(properties.kind()).as_deref(), Some("push.deliver.v1"));
    assert!(properties.timestamp().is_some());
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_is_announced_with_its_reason_and_delivered_nowhere() {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let events = broker.subscribe_events("push.skipped").await;
    let (out, bare, gone, on) = (
        app.client.register("Out").await,
        app.client.register("Bare").await,
        app.client.register("Gone").await,
        app.client.register("On").await,
    );
    assert_eq!(app.client.as_user(&out).patch("/api/v1/users/preferences", json!({"push": false})).await.status, 200);
    assert_eq!(app.client.as_user(&bare).patch("/api/v1/users/profile", json!({"push_token": null})).await.status, 200);
    assert_eq!(app.client.as_user(&gone).delete("/api/v1/users/profile").await.status, 200);
    for (user, id) in [(&out, "push_disabled"), (&bare, "no_push_token"), (&gone, "user_inactive")] {
        broker.request_push(&user.id, id).await;
    }
    let expired = json!({"user_id": on.id, "template_code": "X", "request_id": "expired", "expires_at": "2020-01-01T00:00:00Z"});
    broker.publish(expired.to_string().as_bytes(), BasicProperties::default()).await;
    let mut announced = broker.receive(&events, 4).await;
    announced.sort_by_key(|event| event.json()["reason"].as_str().unwrap().to_owned());
    for (event, reason) in announced.iter().zip(["expired", "no_push_token", "push_disabled", "user_inactive"]) {
        let event = event.json();
        assert_eq!(
            (event["reason"].as_str(), event["notification_id"].as_str(), event["event_type"].as_str()),
            (Some(reason), Some(reason), Some("push.skipped"))
        );
        for field in ["event_id", "occurred_at", "correlation_id", "user_id"] {
            assert!(event[field].is_string(), "{field}");
        }
        assert!(event["version"].is_i64());
    }
    broker.request_push(&on.id, "last").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("last"), "a skipped request was delivered");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_dead_lettered_with_a_reason_and_holds_nobody_up() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let unknown = uuid::Uuid::now_v7().to_string();
    let large = json!({"user_id": user.id, "template_code": "X", "text": "x".repeat(300_000)}).to_string();
    let cases: Vec<(&str, String, &str)> = vec![
        ("m-1", "{not json".to_owned(), "malformed_json"),
        ("m-2", json!({"template_code": "X"}).to_string(), "schema_violation"),
        ("m-3", json!({"user_id": unknown, "template_code": "X"}).to_string(), "unknown_user"),
        ("m-4", json!({"notification_type": "email", "user_id": user.id, "template_code": "X"}).to_string(), "unsupported_type"),
        ("m-5", large, "too_large"),
        ("m-6", json!({"user_id": user.id, "template_code": "X", "request_id": ""}).to_string(), "invalid_id"),
    ];
    for (id, body, _) in &cases {
        let mut forged = FieldTable::default();
        forged.insert("x-death".into(), AMQPValue::LongString("forged".into()));
        let properties = BasicProperties::default().with_message_id((*id).into()).with_expiration("60000".into());
        broker.publish(body.as_bytes(), properties.with_headers(forged)).await;
    }
    broker.request_push(&user.id, "good").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("good"));
    let mut dead = broker.receive(&broker.names.failed_queue, cases.len()).await;
    dead.sort_by_key(crate::support::broker::Received::message_id);
    for (letter, (id, body, reason)) in dead.iter().zip(&cases) {
        assert_eq!((letter.message_id().as_deref(), letter.header("x-dead-reason").as_deref()), (Some(*id), Some(*reason)));
        assert!(letter.data == body.as_bytes(), "{id}: the body is another");
        assert_eq!(letter.header("x-original-queue").as_deref(), Some(broker.names.push_queue.as_str()));
        assert!(letter.header("x-dead-at").is_some() && letter.header("x-dead-detail").is_some());
        assert!(letter.header("x-death").is_none(), "a forged header was passed on");
        assert!(letter.properties.expiration().is_none());
    }
    app.stop().await.unwrap();
}

/// The bug of the service this one replaces: reading preferences over HTTP filled the cache in another shape.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_reads_his_preferences_still_gets_the_push() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    for path in ["/api/v1/users/preferences", "/api/v1/users/profile", "/api/v1/auth/validate"] {
        assert_eq!(app.client.as_user(&user).get(path).await.status, 200);
    }
    broker.request_push(&user.id, "after-reading").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("after-reading"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opt_out_binds_from_its_answer_on_however_warm_the_cache() {
    let app = TestApp::start().await;
    let (user, other, broker) = (app.client.register("Ada").await, app.client.register("Bob").await, app.broker().await);
    let events = broker.subscribe_events("push.skipped").await;
    let me = app.client.as_user(&user);
    for round in 0..50 {
        assert_eq!(me.patch("/api/v1/users/preferences", json!({"push": true})).await.status, 200);
        broker.request_push(&user.id, &format!("on-{round}")).await;
        assert_eq!(broker.delivered().await.message_id(), Some(format!("on-{round}")));
        assert_eq!(me.patch("/api/v1/users/preferences", json!({"push": false})).await.status, 200);
        broker.request_push(&user.id, &format!("off-{round}")).await;
        assert_eq!(broker.receive(&events, 1).await[0].json()["notification_id"], json!(format!("off-{round}")));
    }
    broker.request_push(&other.id, "last").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("last"), "an opted-out request was delivered");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_card_is_not_believed() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    broker.request_push(&user.id, "warm").await;
    broker.delivered().await;
    // The database moves on and nobody tells the cache.
    app.sql(&format!(
        "UPDATE push_tokens SET token = 'other' WHERE user_id = '{0}'; UPDATE users SET version = version + 1 WHERE id = '{0}'",
        user.id
    ))
    .await;
    broker.request_push(&user.id, "cold").await;
    assert_eq!(broker.delivered().await.json()["push_token"], json!("other"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_no_queue_takes_is_held_and_arrives_when_one_does() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let (queue, exchange, key) = (&broker.names.deliver_queue, &broker.names.exchange, &broker.names.deliver_key);
    // The publisher sees to the topology when it connects; after this it has.
    broker.request_push(&user.id, "warm").await;
    broker.delivered().await;
    broker.channel.queue_unbind(queue.as_str().into(), exchange.as_str().into(), key.as_str().into(), FieldTable::default()).await.unwrap();
    broker.request_push(&user.id, "held").await;
    eventually("the message is held", async || app.app.status.held() == 1).await;
    assert_eq!((broker.waiting(queue).await, broker.waiting(&broker.names.failed_queue).await), (0, 0));
    broker
        .channel
        .queue_bind(
            queue.as_str().into(),
            exchange.as_str().into(),
            key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("held"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_request_queue_is_made_again_and_consumed() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    // The relay has seen to the topology by then. Where it does so only now, RabbitMQ may not tell the consumer
    // (docs/decisions/quorum-queues.md), which then takes up to a minute to notice.
    broker.mail("email_verification").await;
    broker.channel.queue_delete(broker.names.push_queue.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    eventually("the consumer notices", async || app.app.status.parts()["consumer"].1 > 0).await;
    eventually("the consumer is back", async || app.app.status.broker_connected()).await;
    broker.request_push(&user.id, "again").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("again"));
    app.stop().await.unwrap();
}

/// PostgreSQL's text cannot hold what an AMQP property can.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_that_the_database_cannot_hold_blocks_nothing() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    for body in ["x".to_owned(), json!({"user_id": user.id, "template_code": "X"}).to_string()] {
        broker.publish(body.as_bytes(), BasicProperties::default().with_message_id("a\0b".into())).await;
    }
    broker.request_push(&user.id, "good").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("good"));
    let mut reasons: Vec<_> =
        broker.receive(&broker.names.failed_queue, 2).await.iter().map(|letter| letter.header("x-dead-reason").unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["invalid_id", "malformed_json"]);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_oversized_messages_is_dead_lettered_whole_and_blocks_nothing() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let body = vec![b'x'; 1024 * 1024];
    for _ in 0..40 {
        broker.publish(&body, BasicProperties::default()).await;
    }
    broker.request_push(&user.id, "good").await;
    assert_eq!(broker.delivered().await.message_id().as_deref(), Some("good"));
    let dead = broker.receive(&broker.names.failed_queue, 40).await;
    assert!(dead.iter().all(|letter| letter.data == body && letter.header("x-dead-reason").as_deref() == Some("too_large")));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_that_is_no_text_blocks_nothing() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let through = mangler(app.config.broker.url.as_ref().unwrap().expose_secret()).await;
    let rude = TestBroker::connect(Broker { url: Some(through.url.clone().into()), ..broker.names.clone() }).await;
    let mut headers = FieldTable::default();
    headers.insert("na@me".into(), AMQPValue::LongString("x".into()));
    let everywhere = BasicProperties::default()
        .with_message_id("id@".into())
        .with_correlation_id("@@".into())
        .with_type("push@".into())
        .with_app_id("@".into())
        .with_reply_to("@".into())
        .with_headers(headers);
    let body = json!({"user_id": user.id, "template_code": "X"}).to_string();
    rude.publish(body.as_bytes(), everywhere).await;
    rude.publish(b"{\"text\": \"@\"", BasicProperties::default().with_message_id("bro@ken".into())).await;
    broker.request_push(&user.id, "good").await;
    let delivered = broker.receive(&broker.names.deliver_queue, 2).await;
    let mut ids: Vec<_> = delivered.iter().filter_map(Received::message_id).collect();
    ids.sort();
    assert_eq!(ids, ["good", "id?"]);
    let letter = broker.receive(&broker.names.failed_queue, 1).await.remove(0);
    assert_eq!((letter.message_id().as_deref(), letter.data.as_slice()), (Some("bro?ken"), b"{\"text\": \"\xe9\"".as_slice()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_and_properties_change_nothing() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let mut nested = FieldTable::default();
    nested.insert("text".into(), AMQPValue::LongString("x".repeat(90_000).into()));
    for _ in 0..300 {
        let mut outer = FieldTable::default();
        outer.insert("a".into(), AMQPValue::FieldTable(nested));
        nested = outer;
    }
    let mut death = FieldTable::default();
    death.insert("count".into(), AMQPValue::LongLongInt(99));
    death.insert("reason".into(), AMQPValue::LongString("rejected".into()));
    let keys = || AMQPValue::FieldArray(vec![AMQPValue::LongString(broker.names.deliver_key.as_str().into())].into());
    let forged = [
        ("x-death", AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into())),
        ("CC", keys()),
        ("BCC", keys()),
        ("x-attempt", AMQPValue::LongInt(99)),
        ("x-attempt", AMQPValue::LongInt(-1)),
        ("x-attempt", AMQPValue::LongString("x".into())),
        ("x-delivery-count", AMQPValue::LongLongInt(1_000)),
        ("x-dead-reason", AMQPValue::LongString("forged".into())),
        ("nested", AMQPValue::FieldTable(nested)),
    ];
    let count = forged.len();
    for (place, (name, value)) in forged.into_iter().enumerate() {
        let mut headers = FieldTable::default();
        headers.insert(name.into(), value);
        let properties = BasicProperties::default().with_headers(headers).with_priority(255).with_expiration("60000".into());
        let properties = properties.with_reply_to("elsewhere".into()).with_cluster_id("c".into());
        let body = json!({"user_id": user.id, "template_code": "X", "request_id": format!("f-{place}")}).to_string();
        broker.publish(body.as_bytes(), properties).await;
    }
    // CC and BCC are the broker's to obey: it routes a second copy of the *request*, as it came, past us.
    let delivered = broker.receive(&broker.names.deliver_queue, count + 2).await;
    let ours: Vec<_> = delivered.iter().filter(|message| message.json().get("user_data").is_some()).collect();
    let mut ids: Vec<_> = ours.iter().filter_map(|message| message.message_id()).collect();
    ids.sort();
    assert_eq!(ids, (0..count).map(|place| format!("f-{place}")).collect::<Vec<_>>());
    for message in ours {
        let names: Vec<_> = message.properties.headers().iter().flat_map(|table| table.inner().keys().map(ToString::to_string)).collect();
        assert!(names.iter().all(|name| name == "x-delivery-count"), "{names:?} are passed on");
        assert!(message.properties.expiration().is_none() && message.properties.reply_to().is_none());
        assert_eq!(message.properties.priority(), &None);
    }
    assert_eq!((broker.waiting(&broker.names.deliver_queue).await, broker.waiting(&broker.names.failed_queue).await), (0, 0));
    app.stop().await.unwrap();
}
