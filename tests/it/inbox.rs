use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use serde_json::json;
use tokio::process::Command;
use user_service::amqp::publisher::Publisher;
use user_service::config::Role;
use user_service::infra::status::Status;
use user_service::push::amqp::PushRequests;

use crate::support::broker::Received;
use crate::support::{Services, TestApp, TestBroker, eventually};

async fn outcomes(app: &TestApp, outcome: &str) -> i64 {
    app.count(&format!("SELECT count(*) AS n FROM push_inbox WHERE outcome = '{outcome}'")).await
}

/// Every message of the delivery queue, once nothing more comes.
async fn drain(app: &TestApp, broker: &TestBroker) -> HashMap<(String, String), usize> {
    eventually("the queue is empty", async || broker.waiting(&broker.names.push_queue).await == 0 && app.app.status.held() == 0).await;
    let waiting = broker.waiting(&broker.names.deliver_queue).await as usize;
    let mut counts = HashMap::new();
    for message in broker.receive(&broker.names.deliver_queue, waiting).await {
        let user = message.json()["user_id"].as_str().unwrap().to_owned();
        *counts.entry((message.message_id().unwrap(), user)).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_ids_with_50_copies_each_over_4_channels_and_2_processes_200_have_an_effect() {
    let app = TestApp::start().await;
    let names = app.config.broker.clone();
    let second = TestApp::start_on(Services::from_env(), app.database_url.clone(), Role::Worker, |config| {
        config.broker = names.clone();
        config.redis_prefix = app.config.redis_prefix.clone();
    })
    .await;
    let user = app.client.register("Ada").await;
    let producers = join_all((0..4).map(|_| TestBroker::connect(names.clone()))).await;
    join_all(producers.iter().enumerate().map(async |(channel, producer)| {
        for copy in 0..50 {
            // Each channel sends each copy of its quarter in turn, so that copies meet in batches and across processes.
            let ids: Vec<String> = (0..50).map(|id| format!("r-{}", (id * 4 + channel + copy) % 200)).collect();
            join_all(ids.iter().map(|id| producer.request_push(&user.id, id))).await;
        }
    }))
    .await;
    eventually("each has its outcome", async || outcomes(&app, "delivered").await == 200).await;
    let delivered = drain(&app, &app.broker().await).await;
    assert_eq!((delivered.len(), delivered.values().sum::<usize>()), (200, 200), "a copy had an effect");
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox").await, 200);
    second.halt().await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_request_under_a_used_id_dies_and_a_broadcast_shares_one() {
    let app = TestApp::start().await;
    let (ada, bob, broker) = (app.client.register("Ada").await, app.client.register("Bob").await, app.broker().await);
    let events = broker.subscribe_events("push.failed").await;
    let request = |user: &str, template: &str| json!({"user_id": user, "template_code": template, "request_id": "news-1"}).to_string();
    for _ in 0..3 {
        broker.publish(request(&ada.id, "A").as_bytes(), BasicProperties::default()).await;
        broker.publish(request(&bob.id, "A").as_bytes(), BasicProperties::default()).await;
        broker.publish(request(&ada.id, "B").as_bytes(), BasicProperties::default()).await;
        // The same, said otherwise.
        let spaced = format!(r#"{{ "request_id": "news-1",  "template_code": "A", "user_id": "{}" }}"#, ada.id);
        broker.publish(spaced.as_bytes(), BasicProperties::default()).await;
    }
    eventually("all have their outcome", async || app.count("SELECT count(*) AS n FROM push_inbox").await == 3).await;
    let delivered = drain(&app, &broker).await;
    assert_eq!(delivered, HashMap::from([(("news-1".into(), ada.id.clone()), 1), (("news-1".into(), bob.id.clone()), 1)]));
    let letter = broker.receive(&broker.names.failed_queue, 1).await.remove(0);
    assert_eq!(letter.header("x-dead-reason").as_deref(), Some("message_id_conflict"));
    assert_eq!(letter.json()["template_code"], "B");
    let told = broker.receive(&events, 1).await.remove(0);
    assert_eq!(
        (letter.message_id().as_deref(), &told.json()["notification_id"]),
        (Some("news-1"), &json!("news-1")),
        "as the producer named it"
    );
    assert_eq!(broker.waiting(&broker.names.failed_queue).await, 0, "a copy of the conflict died again");
    app.stop().await.unwrap();
}

/// Has the database fail, as a bug of ours would, the first `times` that a request with this id is filed as delivered.
async fn break_for(app: &TestApp, id: &str, times: u32) {
    app.sql(&format!(
        "CREATE SEQUENCE bugs;
         CREATE FUNCTION bug() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.message_id = '{id}' AND NEW.outcome = 'delivered' AND nextval('bugs') <= {times} THEN
             RAISE EXCEPTION 'a bug of ours';
           END IF;
           RETURN NEW;
         END $$;
         CREATE TRIGGER bug BEFORE INSERT OR UPDATE ON push_inbox FOR EACH ROW EXECUTE FUNCTION bug();"
    ))
    .await;
}

async fn attempts(app: &TestApp) -> i64 {
    app.count("SELECT coalesce(max(attempts), 0)::bigint AS n FROM push_inbox").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_fail_on_is_tried_after_1_5_and_25_seconds_and_then_dies() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    let events = broker.subscribe_events("push.failed").await;
    // The batch, the message alone, and three retries.
    break_for(&app, "bad", 5).await;
    for id in ["good-1", "bad", "good-2"] {
        broker.request_push(&user.id, id).await;
    }
    eventually("its neighbours are delivered", async || outcomes(&app, "delivered").await == 2).await;
    for (attempt, wait) in [(1, 1), (2, 5), (3, 25)] {
        eventually("it waits", async || outcomes(&app, "retry").await == 1 && attempts(&app).await == attempt).await;
        let gap = "SELECT extract(epoch FROM next_attempt_at - decided_at)::bigint AS n FROM push_inbox WHERE outcome = 'retry'";
        assert_eq!(app.count(gap).await.max(1), wait, "after attempt {attempt}");
        app.clock.advance(Duration::from_secs(wait.unsigned_abs()));
    }
    eventually("it is dead", async || outcomes(&app, "dead").await == 1).await;
    let letter = broker.receive(&broker.names.failed_queue, 1).await.remove(0);
    assert_eq!((letter.header("x-dead-reason").as_deref(), letter.message_id().as_deref()), (Some("retries_exhausted"), Some("bad")));
    let failed = broker.receive(&events, 1).await[0].json();
    assert_eq!(
        (&failed["user_id"], &failed["notification_id"], &failed["reason"]),
        (&json!(user.id), &json!("bad"), &json!("retries_exhausted"))
    );
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_survives_a_restart_and_is_delivered_once_it_can_be() {
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    break_for(&app, "late", 3).await;
    broker.request_push(&user.id, "late").await;
    eventually("it waits", async || outcomes(&app, "retry").await == 1).await;
    // A copy that comes meanwhile changes nothing.
    broker.request_push(&user.id, "late").await;
    eventually("the copy is settled", async || broker.waiting(&broker.names.push_queue).await == 0).await;
    let names = app.config.broker.clone();
    let stopped = app.halt().await;
    let app = TestApp::start_on(Services::from_env(), stopped.database_url.clone(), Role::Both, |config| config.broker = names).await;
    app.clock.advance(Duration::from_secs(10));
    eventually("it failed once more", async || attempts(&app).await == 2).await;
    app.clock.advance(Duration::from_secs(10));
    eventually("it is delivered", async || outcomes(&app, "delivered").await == 1).await;
    assert!(drain(&app, &broker).await.contains_key(&("late".into(), user.id.clone())));
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox WHERE body IS NOT NULL").await, 0, "a settled request keeps its body");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_workers_at_the_same_retries_deliver_each_once_and_bury_none() {
    let app = TestApp::start().await.halt().await;
    // As many connections as eight processes would have.
    let running =
        TestApp::start_on(Services::from_env(), app.database_url.clone(), Role::Api, |config| config.database.pool_size = 80).await;
    let user = running.client.register("Ada").await;
    let body = json!({"user_id": user.id, "template_code": "WELCOME"});
    app.sql(&format!(
        "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, next_attempt_at, body, received_at, decided_at)
         SELECT 'r-' || n, '{}', sha256(n::text::bytea), 'queue', 'retry', now(), convert_to(jsonb_set('{body}', '{{request_id}}', to_jsonb('r-' || n))::text, 'UTF8'), now(), now()
         FROM generate_series(1, 300) n",
        user.id
    ))
    .await;
    let names = app.config.broker.clone();
    let workers = (0..8).map(|_| {
        let publisher = Publisher::new(names.clone(), Status::default());
        PushRequests::new(running.app.clone(), names.clone(), publisher)
    });
    join_all(workers.map(|worker| async move { while worker.retry_next().await.unwrap() {} })).await;
    let broker = app.broker().await;
    let delivered = broker.receive(&broker.names.deliver_queue, 300).await;
    let ids: HashSet<_> = delivered.iter().filter_map(Received::message_id).collect();
    assert_eq!((outcomes(&app, "delivered").await, outcomes(&app, "dead").await, ids.len()), (300, 0, 300));
    assert_eq!(broker.waiting(&broker.names.deliver_queue).await, 0, "one was delivered twice");
    assert_eq!(app.count("SELECT count(*) AS n FROM push_suspects").await, 0);
    running.halt().await;
    app.stop().await.unwrap();
}

async fn dead_letters(app: &TestApp, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
    let run = command.env_clear().envs(app.variables()).arg("dead-letters").args(arguments).output().await.unwrap();
    (run.status.code(), String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_looked_at_decided_anew_and_thrown_away_on_the_command_line() {
    let app = TestApp::start().await;
    let broker = app.broker().await;
    let late = uuid::Uuid::now_v7().to_string();
    broker.request_push(&late, "early-bird").await;
    broker.publish(b"{", BasicProperties::default().with_message_id("broken".into())).await;
    eventually("both are dead", async || outcomes(&app, "dead").await == 2).await;
    let (code, listed) = dead_letters(&app, &["list"]).await;
    assert!(code == Some(0) && listed.lines().count() == 2, "{listed}");
    assert!(
        listed.contains("unknown_user") && listed.contains("early-bird") && listed.contains(&late) && listed.contains("malformed_json")
    );
    assert!(!dead_letters(&app, &["list", "--reason", "malformed_json"]).await.1.contains("early-bird"));
    let (_, shown) = dead_letters(&app, &["show", "early-bird"]).await;
    assert!(shown.contains("\"template_code\":\"WELCOME\"") && shown.contains("user_id names no user"), "{shown}");

    // The user arrives after all, with a phone.
    app.sql(&format!(
        "INSERT INTO users (id, email, email_key, name, created_at, updated_at) VALUES ('{late}', 'l@example.com', 'l@example.com', 'Late', now(), now());
         INSERT INTO push_tokens (id, user_id, token, token_sha256, last_seen_at) VALUES (gen_random_uuid(), '{late}', 't', sha256('t'), now());"
    ))
    .await;
    assert_eq!(dead_letters(&app, &["redrive"]).await.0, Some(2), "everything, without being told so");
    for expected in ["1 given to the worker again.", "0 given to the worker again."] {
        let (code, told) = dead_letters(&app, &["redrive", "--reason", "unknown_user"]).await;
        assert_eq!((code, told.trim()), (Some(0), expected));
        eventually("it is delivered", async || outcomes(&app, "delivered").await == 1).await;
    }
    assert_eq!(drain(&app, &broker).await, HashMap::from([(("early-bird".into(), late), 1)]));
    // What is still broken dies again, once.
    assert_eq!(dead_letters(&app, &["redrive", "--all"]).await.1.trim(), "1 given to the worker again.");
    eventually("it died again", async || outcomes(&app, "dead").await == 1).await;
    assert_eq!(dead_letters(&app, &["purge", "--older-than", "1"]).await.1.trim(), "0 thrown away.");
    assert_eq!(dead_letters(&app, &["purge", "--all"]).await.1.trim(), "1 thrown away.");
    assert_eq!(dead_letters(&app, &["list"]).await.1.trim(), "There are none.");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_forgets_what_was_settled_and_keeps_the_dead_longer() {
    use futures_util::FutureExt as _;
    let app = TestApp::start().await;
    let (user, broker) = (app.client.register("Ada").await, app.broker().await);
    broker.request_push(&user.id, "good").await;
    broker.publish(b"{", BasicProperties::default()).await;
    eventually("both are settled", async || app.count("SELECT count(*) AS n FROM push_inbox").await == 2).await;
    let purge = async |days: i64| {
        let now = app.app.clock.now() + chrono::TimeDelta::days(days);
        let deleting =
            app.app.worker_db.write(move |tx| user_service::push::delete_old(tx, chrono::TimeDelta::hours(24), now, 1_000).boxed());
        deleting.await.unwrap();
        (outcomes(&app, "delivered").await, outcomes(&app, "dead").await)
    };
    assert_eq!(purge(0).await, (1, 1));
    assert_eq!(purge(2).await, (0, 1));
    assert_eq!(purge(31).await, (0, 0));
    app.stop().await.unwrap();
}
