use std::collections::{BTreeMap, HashSet};

use lapin::BasicProperties;
use serde_json::json;

use crate::support::{TestApp, eventually};

const USERS: usize = 1_000;
const REQUESTS: usize = 5_000;

/// What must become of request `n`, for user `n % USERS`: 10 % opted out, 5 % without token, 1 % of messages malformed.
fn expected(n: usize) -> &'static str {
    match (n % 100, n % USERS % 20) {
        (99, _) => "malformed_json",
        (_, 0 | 1) => "push_disabled",
        (_, 2) => "no_push_token",
        _ => "deliver",
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_5000_requests_for_1000_users_each_ends_exactly_where_it_must() {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let events = broker.subscribe_events("push.skipped").await;
    let user_id = |n: usize| uuid::Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + n as u128);
    let users = "INSERT INTO users (id, email, email_key, name, created_at, updated_at)
        SELECT ('01900000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'u' || n || '@example.com', 'u' || n || '@example.com', 'User ' || n, now(), now() FROM generate_series(0, 999) n;
        INSERT INTO push_tokens (id, user_id, token, token_sha256, last_seen_at)
        SELECT gen_random_uuid(), id, 'token of ' || name, sha256(convert_to(name, 'UTF8')), now() FROM users WHERE split_part(name, ' ', 2)::int % 20 <> 2;
        INSERT INTO preferences (user_id, channel, enabled, updated_at)
        SELECT id, 'push', split_part(name, ' ', 2)::int % 20 > 1, now() FROM users;";
    app.sql(users).await;
    for n in 0..REQUESTS {
        let body = match expected(n) {
            "malformed_json" => format!("{{\"user_id\": \"{}\", broken", user_id(n % USERS)),
            _ => json!({"user_id": user_id(n % USERS), "template_code": "X", "request_id": n.to_string()}).to_string(),
        };
        broker.publish(body.as_bytes(), BasicProperties::default().with_message_id(n.to_string().into())).await;
    }
    let mut wanted: BTreeMap<&str, HashSet<usize>> = BTreeMap::new();
    for n in 0..REQUESTS {
        wanted.entry(expected(n)).or_default().insert(n);
    }
    let count = |outcome: &str| wanted[outcome].len();
    assert_eq!((count("malformed_json"), count("push_disabled") + count("no_push_token") + count("deliver")), (50, 4_950));

    let delivered = broker.receive(&broker.names.deliver_queue, count("deliver")).await;
    for message in &delivered {
        let n: usize = message.message_id().unwrap().parse().unwrap();
        assert_eq!(message.json()["push_token"], json!(format!("token of User {}", n % USERS)), "message {n} carries another's token");
    }
    let ids = |messages: &[crate::support::broker::Received]| -> HashSet<usize> {
        messages.iter().map(|message| message.message_id().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(ids(&delivered), wanted["deliver"]);

    let skipped = broker.receive(&events, count("push_disabled") + count("no_push_token")).await;
    let mut reasons: BTreeMap<String, HashSet<usize>> = BTreeMap::new();
    for event in &skipped {
        let event = event.json();
        reasons
            .entry(event["reason"].as_str().unwrap().to_owned())
            .or_default()
            .insert(event["notification_id"].as_str().unwrap().parse().unwrap());
    }
    assert_eq!((&reasons["push_disabled"], &reasons["no_push_token"]), (&wanted["push_disabled"], &wanted["no_push_token"]));

    let dead = broker.receive(&broker.names.failed_queue, count("malformed_json")).await;
    assert!(dead.iter().all(|letter| letter.header("x-dead-reason").as_deref() == Some("malformed_json")));
    assert_eq!(ids(&dead), wanted["malformed_json"]);

    eventually("the outbox is empty", async || app.count("SELECT count(*) AS n FROM outbox WHERE done_at IS NULL").await == 0).await;
    for queue in [&broker.names.push_queue, &broker.names.deliver_queue, &broker.names.failed_queue] {
        assert_eq!(broker.waiting(queue).await, 0, "{queue} holds more than it must");
    }
    app.stop().await.unwrap();
}
