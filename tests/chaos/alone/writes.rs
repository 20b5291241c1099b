//! Acknowledged writes are there, and those whose answer was lost have one effect, however PostgreSQL and the service die.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::client::TestUser;
use crate::support::{PASSWORD, TestApp, eventually};
use crate::worker::{Worker, free_port};
use crate::{api_with_queues, by_form, services};

const WRITERS: usize = 8;

/// A write without an answer is repeated for no longer than this.
const PATIENCE: Duration = Duration::from_secs(90);

/// One kind of write a turn; each is seen in the database by its correlation id, once for each effect.
#[derive(Clone, Copy)]
enum Write {
    /// A mail, and with it a link.
    PasswordReset,
    /// The other value each time.
    Preferences {
        push: bool,
    },
    Registration,
}

impl Write {
    fn nth(number: usize) -> Self {
        match number % 8 {
            7 => Write::Registration,
            odd if odd % 2 == 1 => Write::PasswordReset,
            even => Write::Preferences { push: even % 4 != 0 },
        }
    }
}

struct Writer<'a> {
    base: &'a str,
    http: reqwest::Client,
    user: TestUser,
    name: usize,
    /// Attempts beyond the first.
    repeated: &'a AtomicUsize,
}

impl Writer<'_> {
    /// Sends a write until it is acknowledged: the same request id each time.
    async fn write(&self, number: usize) {
        let id = format!("w-{}-{number}", self.name);
        let deadline = Instant::now() + PATIENCE;
        while !self.attempt(&id, Write::nth(number)).await {
            assert!(Instant::now() < deadline, "{id} was not acknowledged within {PATIENCE:?}");
            self.repeated.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn attempt(&self, id: &str, write: Write) -> bool {
        let (method, path, body) = match write {
            Write::PasswordReset => ("POST", "auth/password-reset", json!({"email": self.user.email})),
            Write::Preferences { push } => ("PATCH", "users/preferences", json!({"push": push})),
            Write::Registration => ("POST", "users", json!({"name": "Eve", "email": format!("{id}@example.org"), "password": PASSWORD})),
        };
        let request = self.http.request(method.parse().unwrap(), format!("{}/api/v1/{path}", self.base)).json(&body);
        let request = request.header("x-request-id", format!("request-{id}")).header("x-correlation-id", id);
        let request = if let Write::Preferences { .. } = write { request.bearer_auth(&self.user.access_token) } else { request };
        match request.send().await {
            Ok(answer) if answer.status().is_success() => true,
            Ok(answer) => {
                let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap_or_default());
                assert!(matches!(status.as_u16(), 409 | 503), "{id}: {status} {body}");
                false
            }
            Err(_cut_or_refused) => false,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_and_has_happened_once_whatever_is_killed() {
    let (writes, database_kills, service_kills) = by_form((800, 3, 2), (20_000, 20, 10));
    let app = api_with_queues().await;
    let port = free_port();
    let base = format!("http://127.0.0.1:{port}");
    let start = || {
        let unlimited = ["LIMIT_REGISTER_IP", "LIMIT_RESET_IP", "LIMIT_RESET_ACCOUNT"].map(|name| (name, "off"));
        Worker::start_as("api", &app, &[unlimited.as_slice(), &[("PORT", &port), ("BCRYPT_COST", "10")]].concat())
    };
    let http = reqwest::Client::builder().timeout(Duration::from_secs(12)).build().unwrap();
    let is_ready = async || http.get(format!("{base}/health/ready")).send().await.is_ok_and(|answer| answer.status() == 200);
    let mut process = start();
    eventually("it is ready", is_ready).await;
    let (repeated, next) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut writers = Vec::new();
    for name in 0..WRITERS {
        let user = app.client.register("Ada").await;
        writers.push(Writer { base: &base, http: http.clone(), user, name, repeated: &repeated });
    }
    let writing = join_all(writers.iter().map(async |writer| {
        for number in 0..writes / WRITERS {
            writer.write(number).await;
            next.fetch_add(1, Ordering::Relaxed);
        }
    }));
    let killing = async {
        let kills = database_kills + service_kills;
        for kill in 0..kills {
            // Spread over the run by what was written, so that none comes after its end.
            while next.load(Ordering::Relaxed) < writes * (kill + 1) / (kills + 2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // As evenly among the others as they go.
            if kill * service_kills / kills < (kill + 1) * service_kills / kills {
                process.kill().await;
                process = start();
            } else {
                services(&["kill", "postgres"]).await;
                services(&["start", "postgres"]).await;
            }
        }
        process
    };
    let (_, process) = tokio::join!(writing, killing);
    eventually("it is ready after it all", is_ready).await;
    check(&app, &writers, writes).await;
    let repeated = repeated.into_inner();
    println!("{writes} writes, {database_kills} kills of PostgreSQL, {service_kills} of the service: {repeated} repeated, each once");
    assert!(repeated > 0, "nothing was in doubt: the kills met no write");
    process.stop().await;
    app.stop().await.unwrap();
}

async fn check(app: &TestApp, writers: &[Writer<'_>], writes: usize) {
    let turns = writes / WRITERS;
    let of = |kind: fn(Write) -> bool| (WRITERS * (0..turns).filter(|number| kind(Write::nth(*number))).count()) as i64;
    let mails = "FROM outbox WHERE lane IN ('amqp', 'smtp') AND one_time_token_id IS NOT NULL AND correlation_id LIKE 'w-%'";
    let changes = "FROM outbox WHERE routing_key = 'preferences.changed' AND correlation_id LIKE 'w-%'";
    let resets = of(|write| matches!(write, Write::PasswordReset));
    let registrations = of(|write| matches!(write, Write::Registration));
    let preferences = of(|write| matches!(write, Write::Preferences { .. }));
    for (what, rows, expected) in [("mails", mails, resets + registrations), ("changes", changes, preferences)] {
        let counted = app.count(&format!("SELECT count(*) AS n {rows}")).await;
        let distinct = app.count(&format!("SELECT count(DISTINCT correlation_id) AS n {rows}")).await;
        assert_eq!((counted, distinct), (expected, expected), "{what}: effects, and writes that had one");
    }
    let users = app.count("SELECT count(*) AS n FROM users WHERE email LIKE 'w-%@example.org'").await;
    assert_eq!(users, registrations);
    // The last change each writer was told of is the one that holds.
    let last = (0..turns).rev().find_map(|number| match Write::nth(number) {
        Write::Preferences { push } => Some(push),
        _ => None,
    });
    for writer in writers {
        let held = app.client.as_user(&writer.user).get("/api/v1/users/preferences").await.data();
        assert_eq!(held["push"].as_bool(), last, "{}", writer.user.email);
    }
}
