//! Writes under an idempotency key: however many at once, wherever the process dies, one effect and one answer.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;
use user_service::infra::fail_point::KEYED_WRITE;

use crate::support::TestApp;
use crate::support::client::TestUser;
use crate::worker::Server;
use crate::{api_with_queues, by_form};

const EFFECTS: &str = "SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed'";

/// Status, whether it was given before, and the body.
type Answered = Option<(u16, bool, String)>;

async fn start(app: &TestApp, fail_points: &str) -> Server {
    Server::start("api", app, &[("FAILPOINTS", fail_points), ("LIMIT_DEFAULT_USER", "1000000/60")]).ready().await
}

/// `None`: the connection was cut.
async fn change(server: &Server, user: &TestUser, key: &str, name: &str) -> Answered {
    let me = server.client.as_user(user).with("idempotency-key", key);
    let answer = me.try_send("PATCH", "/api/v1/users/profile", Some(&json!({"name": name}).to_string())).await.ok()?;
    Some((answer.status, answer.header("idempotency-replayed").is_some(), answer.text))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_write_leaves_its_key_free_or_its_answer_stored() {
    let app = api_with_queues().await;
    let user = app.client.register("Ada").await;
    for (before, point) in (0..).zip(KEYED_WRITE) {
        let (key, name) = (format!("crash-at-{point}"), format!("Ada {before}"));
        let mut armed = start(&app, &format!("{point}=1*return(abort)")).await;
        assert_eq!(change(&armed, &user, &key, &name).await, None, "{point}: it was answered");
        assert!(!armed.process.ended().await.success(), "{point}: it did not crash there");
        let is_stored = point == "answer-committed";
        assert_eq!(app.count(EFFECTS).await, before + i64::from(is_stored), "{point}");
        let whole = start(&app, "").await;
        let first = change(&whole, &user, &key, &name).await.unwrap();
        assert_eq!((first.0, first.1), (200, is_stored), "{point}: {}", first.2);
        assert_eq!(change(&whole, &user, &key, &name).await, Some((200, true, first.2)), "{point}");
        assert_eq!(change(&whole, &user, &key, "Somebody").await.unwrap().0, 422, "{point}: another body");
        assert_eq!(app.count(EFFECTS).await, before + 1, "{point}");
        whole.process.stop().await;
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_under_each_key_with_two_bodies_one_has_the_effect() {
    let keys = by_form(25, 500);
    let app = api_with_queues().await;
    let running = start(&app, "").await;
    for key in 0..keys {
        let user = app.client.register("Ada").await;
        let name = |n: usize| if n.is_multiple_of(2) { "Even" } else { "Odd" };
        let answers = join_all((0..64).map(async |n| {
            // Whoever is told to come back does.
            loop {
                let answer = change(&running, &user, &format!("at-once-{key}-abc"), name(n)).await.unwrap();
                if !matches!(answer.0, 409 | 503) {
                    return (n, answer);
                }
            }
        }))
        .await;
        let fresh: Vec<_> = answers.iter().filter(|(_, answer)| answer.0 == 200 && !answer.1).collect();
        assert_eq!(fresh.len(), 1, "key {key}: {answers:#?}");
        let winner = name(fresh[0].0);
        for (n, (status, _, _)) in &answers {
            assert_eq!(*status, if name(*n) == winner { 200 } else { 422 }, "key {key}");
        }
        let texts: BTreeSet<&String> = answers.iter().filter(|(_, answer)| answer.0 == 200).map(|(_, answer)| &answer.2).collect();
        assert_eq!(texts.len(), 1, "key {key}: {texts:#?}");
    }
    println!("{keys} keys × 64 at once, two bodies: each one effect");
    assert_eq!(app.count(EFFECTS).await, keys);
    assert_eq!(app.count("SELECT count(*) AS n FROM idempotency_keys").await, keys);
    running.process.stop().await;
    app.stop().await.unwrap();
}
