//! Writes under an idempotency key: however many at once, wherever the process dies, one effect and one answer.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::json;
use user_service::infra::fail_point::KEYED_WRITE;

use crate::support::client::TestUser;
use crate::support::{TestApp, eventually};
use crate::worker::Worker;
use crate::{api_with_queues, by_form};

const EFFECTS: &str = "SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed'";

/// A process of its own that answers on this port.
struct Process<'a> {
    app: &'a TestApp,
    base: String,
    port: String,
    http: reqwest::Client,
}

/// Status, whether it was given before, and the body.
type Answered = Option<(u16, bool, String)>;

impl<'a> Process<'a> {
    fn of(app: &'a TestApp) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(20)).build().unwrap();
        Self { app, base: format!("http://127.0.0.1:{port}"), port, http }
    }

    async fn start(&self, fail_points: &str) -> Worker {
        let unlimited = ("LIMIT_DEFAULT_USER", "1000000/60");
        let worker = Worker::start_as("api", self.app, &[("PORT", self.port.as_str()), ("FAILPOINTS", fail_points), unlimited]);
        let ready = format!("{}/health/ready", self.base);
        eventually("it is ready", async || self.http.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200)).await;
        worker
    }

    /// `None`: the connection was cut.
    async fn change(&self, user: &TestUser, key: &str, name: &str) -> Answered {
        let request = self.http.patch(format!("{}/api/v1/users/profile", self.base)).bearer_auth(&user.access_token);
        let answer = request.header("idempotency-key", key).json(&json!({"name": name})).send().await.ok()?;
        let (status, replayed) = (answer.status().as_u16(), answer.headers().contains_key("idempotency-replayed"));
        Some((status, replayed, answer.text().await.ok()?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_of_a_write_leaves_its_key_free_or_its_answer_stored() {
    let app = api_with_queues().await;
    let user = app.client.register("Ada").await;
    let process = Process::of(&app);
    for (before, point) in (0..).zip(KEYED_WRITE) {
        let (key, name) = (format!("crash-at-{point}"), format!("Ada {before}"));
        let mut armed = process.start(&format!("{point}=1*return(abort)")).await;
        assert_eq!(process.change(&user, &key, &name).await, None, "{point}: it was answered");
        assert!(!armed.ended().await.success(), "{point}: it did not crash there");
        let is_stored = point == "answer-committed";
        assert_eq!(app.count(EFFECTS).await, before + i64::from(is_stored), "{point}");
        let whole = process.start("").await;
        let first = process.change(&user, &key, &name).await.unwrap();
        assert_eq!((first.0, first.1), (200, is_stored), "{point}: {}", first.2);
        assert_eq!(process.change(&user, &key, &name).await, Some((200, true, first.2)), "{point}");
        assert_eq!(process.change(&user, &key, "Somebody").await.unwrap().0, 422, "{point}: another body");
        assert_eq!(app.count(EFFECTS).await, before + 1, "{point}");
        whole.stop().await;
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_at_once_under_each_key_with_two_bodies_one_has_the_effect() {
    let keys = by_form(25, 500);
    let app = api_with_queues().await;
    let process = Process::of(&app);
    let running = process.start("").await;
    for key in 0..keys {
        let user = app.client.register("Ada").await;
        let name = |n: usize| if n.is_multiple_of(2) { "Even" } else { "Odd" };
        let answers = join_all((0..64).map(async |n| {
            // Whoever is told to come back does.
            loop {
                let answer = process.change(&user, &format!("at-once-{key}-abc"), name(n)).await.unwrap();
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
    running.stop().await;
    app.stop().await.unwrap();
}
