//! A Redis that answers, but not as one wants: emptied, full, a replica, behind another password.

use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::process::{Child, Command};
use user_service::config::Role;

use crate::support::client::TestUser;
use crate::support::wait::within;
use crate::support::{PASSWORD, TestApp, eventually};
use crate::worker::free_port;

/// Which the service is not told.
const ANOTHER_PASSWORD: &str = "another";

/// A server of this test's own, gone with it.
struct Redis {
    port: String,
    _process: Child,
}

impl Redis {
    async fn start() -> Self {
        let port = free_port();
        let mut server = Command::new("redis-server");
        server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", &std::env::temp_dir().to_string_lossy()]);
        let process = server.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        let redis = Self { port, _process: process };
        eventually("redis answers", async || redis.ask("PING").await == "PONG").await;
        redis
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// One command in words; what it answers.
    async fn ask(&self, command: &str) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-p", &self.port]).args(command.split(' ')).env("REDISCLI_AUTH", ANOTHER_PASSWORD);
        let output = client.output().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Somebody who is signed in and well known to the cache.
async fn known(app: &TestApp) -> TestUser {
    let user = app.client.register("Ada").await;
    for path in ["/api/v1/users/profile/", "/api/v1/users/preferences/"] {
        assert_eq!(app.client.as_user(&user).get(path).await.status, 200);
    }
    user
}

/// Nothing fails, no change is answered by what was before it, and who has signed out is out.
async fn expect_the_truth(app: &TestApp, at: &str) {
    let users = join_all((0..8).map(|_| known(app))).await;
    for user in &users {
        let me = app.client.as_user(user);
        for push in [false, true, false] {
            assert_eq!(me.patch("/api/v1/users/preferences/", json!({"push": push})).await.status, 200, "{at}");
            assert_eq!(me.get("/api/v1/users/preferences/").await.data()["push"], push, "{at}");
        }
        assert_eq!(me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await.status, 200, "{at}");
        assert_eq!(me.get("/api/v1/users/profile/").await.data()["name"], "Grace", "{at}");
        let login = app.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await;
        assert_eq!(login.status, 200, "{at}");
        assert_eq!(me.post("/api/v1/auth/logout/", json!({})).await.status, 200, "{at}");
        assert_eq!(me.get("/api/v1/users/profile/").await.status, 401, "{at}: signed out, and let in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_is_as_good_as_none() {
    let redis = Redis::start().await;
    let url = redis.url();
    // With no limit that counts in Redis, reading writes nothing there: a refusal is met by who forgets something.
    let app = TestApp::start_with(Role::Both, |config| {
        config.redis_url = url.into();
        config.limits.default_user = None;
    })
    .await;
    let health = async || app.client.get("/health").await.json()["status"].clone();
    eventually("everything is well", async || health().await == "healthy").await;
    redis.ask("FLUSHALL").await;
    expect_the_truth(&app, "emptied").await;
    for (state, begin, end) in [
        ("full", "CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
        ("a replica", "REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("behind a password", &format!("CONFIG SET requirepass {ANOTHER_PASSWORD}"), ""),
    ] {
        let before = join_all((0..4).map(|_| known(&app))).await;
        assert_eq!(redis.ask(begin).await, "OK");
        if state == "behind a password" {
            assert_ne!(redis.ask("CLIENT KILL TYPE normal").await, "0");
        }
        expect_the_truth(&app, state).await;
        // Those it remembers from before: what they change now it cannot be told.
        for user in &before {
            let me = app.client.as_user(user);
            assert_eq!(me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await.status, 200, "{state}");
        }
        // It is asked again every two seconds, by whoever comes first.
        let mut glances = tokio::time::interval(Duration::from_millis(300));
        for _ in 0..20 {
            glances.tick().await;
            for user in &before {
                let name = app.client.as_user(user).get("/api/v1/users/profile/").await.data()["name"].clone();
                assert_eq!(name, "Grace", "{state}: read what it was not told to forget");
            }
        }
        within(Duration::from_secs(10), &format!("{state}: health tells"), async || health().await == "degraded").await;
        assert_eq!(app.client.get("/health/ready").await.status, 200, "{state}");
        if end.is_empty() {
            break;
        }
        assert_eq!(redis.ask(end).await, "OK");
        within(Duration::from_secs(40), &format!("{state} no more: everything is well"), async || health().await == "healthy").await;
        for user in &before {
            let me = app.client.as_user(user);
            assert_eq!(me.get("/api/v1/users/profile/").await.data()["name"], "Grace", "{state}: remembers what was before");
        }
    }
    app.stop().await.unwrap();
}
