//! An upgrade as an installation with a million users has it: eight processes migrate at once while the version before
//! serves, which goes on with the new schema until the new version takes over. `make upgrade`.

use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::api_with_queues;
use crate::support::client::TestUser;
use crate::support::{Client, FULL_SERVICE_KEY, PASSWORD, TestApp, eventually, users};
use crate::worker::{Worker, free_port};

const USERS: u32 = 1_000_000;
const MIGRATING: usize = 8;
const ASKING: usize = 8;

/// How long each of the stages lasts: the version before on its own schema, on the new one, the new version.
const STAGE: Duration = Duration::from_secs(5);

/// Who is asked, by one port after the other, and what came of it.
struct Load {
    base: Mutex<String>,
    done: AtomicBool,
    answered: AtomicUsize,
    slowest: Mutex<Duration>,
}

impl Load {
    /// What apps and siblings do; each request must be answered well.
    async fn ask(&self, http: &reqwest::Client, name: usize, [user, signing_in]: &[TestUser; 2]) {
        for turn in 0.. {
            if self.done.load(Ordering::Relaxed) {
                return;
            }
            let base = self.base.lock().unwrap().clone();
            let id = format!("upgrade-{name}-{turn}");
            let request = |method: &str, path: &str, body: Option<Value>| {
                let request = http.request(method.parse().unwrap(), format!("{base}/api/v1/{path}")).header("x-request-id", &id);
                if let Some(body) = body { request.json(&body) } else { request }
            };
            let request = match turn % 6 {
                0 => request("GET", "users/profile", None).bearer_auth(&user.access_token),
                1 => request("PATCH", "users/preferences", Some(json!({"email": turn % 4 == 1}))).bearer_auth(&user.access_token),
                2 => request("POST", "users", Some(json!({"name": "Eve", "email": format!("{id}@example.org"), "password": PASSWORD}))),
                3 => request("POST", "auth/login", Some(json!({"email": signing_in.email, "password": PASSWORD}))),
                4 => request("GET", &format!("users?search=user{name}{turn}&limit=5"), None).bearer_auth(FULL_SERVICE_KEY),
                _ => {
                    let body = json!({"user_id": user.id, "template_code": "WELCOME", "notification_id": id});
                    request("POST", "push-requests", Some(body)).bearer_auth(FULL_SERVICE_KEY)
                }
            };
            let asked = Instant::now();
            let answer = request.send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert!(status.is_success(), "{id} at {base}: {status} {text}");
            self.answered.fetch_add(1, Ordering::Relaxed);
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = slowest.max(asked.elapsed());
        }
    }
}

/// One version of the service on the database to be upgraded.
struct Version<'a> {
    binary: &'a str,
    app: &'a TestApp,
    database_url: &'a str,
}

impl Version<'_> {
    async fn migrate(&self) {
        let mut command = Command::new(self.binary);
        command.env_clear().arg("migrate").envs(self.app.variables()).env("DATABASE_URL", self.database_url).stdout(Stdio::null());
        assert!(command.status().await.unwrap().success(), "{} migrate", self.binary);
    }

    /// Serves both roles; returns where, once it is ready.
    async fn start(&self, keys: &str) -> (Worker, String) {
        let port = free_port();
        let unlimited = ["LIMIT_REGISTER_IP", "LIMIT_LOGIN_IP", "LIMIT_LOGIN_ACCOUNT", "LIMIT_LOGIN_ACCOUNT_NEW"].map(|name| (name, "off"));
        let own = [("DATABASE_URL", self.database_url), ("PORT", &port), ("BCRYPT_COST", "10"), ("SERVICE_API_KEYS", keys)];
        let process = Worker::start_version(self.binary, "both", self.app, &[unlimited.as_slice(), &own].concat());
        let (http, base) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}"));
        eventually("it is ready", async || {
            http.get(format!("{base}/health/ready")).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        (process, base)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the version before is built by scripts/upgrade")]
async fn no_request_fails_while_a_million_users_are_migrated_under_the_version_before() {
    let previous = std::env::var("PREVIOUS_BINARY").expect("PREVIOUS_BINARY is not set: run `make upgrade`");
    let app = api_with_queues().await;
    let (server, _) = app.database_url.rsplit_once('/').unwrap();
    let database_url = format!("{server}/upgraded_{}", uuid::Uuid::new_v4().simple());
    let name = database_url.rsplit('/').next().unwrap();
    app.sql(&format!("CREATE DATABASE \"{name}\"")).await;
    let version = |binary| Version { binary, app: &app, database_url: &database_url };
    let (before, now) = (version(previous.as_str()), version(env!("CARGO_BIN_EXE_user-service")));

    before.migrate().await;
    let mut connection = AsyncPgConnection::establish(&database_url).await.unwrap();
    connection.batch_execute(&users(USERS)).await.unwrap();
    let keys = format!("gateway:{}:users:read+users:list+push:write", hash_of_gateways_key(&app));
    let (old_process, base) = before.start(&keys).await;
    let client = Client::new(base.clone());
    // Whoever signs in that often loses older sessions, so that is another.
    let asking = join_all((0..ASKING).map(async |_| [client.register("Ada").await, client.register("Bob").await])).await;
    let load = Load { base: Mutex::new(base), done: AtomicBool::new(false), answered: AtomicUsize::new(0), slowest: Mutex::default() };
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();

    let upgrading = async {
        tokio::time::sleep(STAGE).await;
        let started = Instant::now();
        join_all((0..MIGRATING).map(|_| now.migrate())).await;
        let migrated = started.elapsed();
        tokio::time::sleep(STAGE).await;
        let (new_process, base) = now.start(&keys).await;
        *load.base.lock().unwrap() = base;
        tokio::time::sleep(STAGE).await;
        old_process.stop().await;
        load.done.store(true, Ordering::Relaxed);
        (new_process, migrated)
    };
    let requests = join_all(asking.iter().enumerate().map(|(name, users)| load.ask(&http, name, users)));
    let ((new_process, migrated), _) = tokio::join!(upgrading, requests);
    println!(
        "upgrade: {USERS} users, {MIGRATING} processes migrated in {migrated:.1?}, {} requests answered, none failed, the slowest in {:.1?}",
        load.answered.into_inner(),
        load.slowest.into_inner().unwrap()
    );
    new_process.stop().await;
    drop(connection);
    app.sql(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    app.stop().await.unwrap();
}

fn hash_of_gateways_key(app: &TestApp) -> String {
    let key = app.config.service_keys.iter().find(|key| key.name == "gateway").unwrap();
    key.sha256.iter().map(|byte| format!("{byte:02x}")).collect()
}
