//! Clients that hang up: in the middle of a request, or before its answer, politely or by a reset.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use user_service::config::Role;

use crate::by_form;
use crate::support::client::TestUser;
use crate::support::wait::within;
use crate::support::{Client, PASSWORD, TestApp};

const AT_ONCE: usize = 16;

/// Kinds of requests, the writes first.
const KINDS: u64 = 5;
const WRITES: u64 = 3;

/// A request that is cut short, and can be made again.
struct Request {
    number: u64,
    method: &'static str,
    path: &'static str,
    token: String,
    body: Option<Value>,
}

impl Request {
    fn nth(number: u64, user: &TestUser, signing_in: &TestUser) -> Self {
        let (method, path, body) = match number % KINDS {
            0 => ("POST", "/api/v1/users", Some(json!({"name": "Eve", "email": format!("h-{number}@example.org"), "password": PASSWORD}))),
            1 => ("PATCH", "/api/v1/users/preferences", Some(json!({"push": number.is_multiple_of(2)}))),
            2 => ("PATCH", "/api/v1/users/profile", Some(json!({"name": format!("Ada {number}")}))),
            3 => ("GET", "/api/v1/users/profile", None),
            _ => ("POST", "/api/v1/auth/login", Some(json!({"email": signing_in.email, "password": PASSWORD}))),
        };
        Self { number, method, path, token: user.access_token.clone(), body }
    }

    fn headers(&self) -> [(&'static str, String); 3] {
        let id = format!("hang-up-{}", self.number);
        [("x-request-id", id.clone()), ("x-correlation-id", id), ("authorization", format!("Bearer {}", self.token))]
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\nHost: h\r\n", self.method, self.path);
        for (name, value) in self.headers() {
            text += &format!("{name}: {value}\r\n");
        }
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        text.into_bytes()
    }

    /// Sends a part or all of it, waits or not, and is gone.
    async fn cut(&self, address: &str, chance: &mut Chance) {
        let bytes = self.bytes();
        // Half of them are whole: the server is at it when its client goes.
        let length = if chance.below(2) == 0 { bytes.len() } else { 1 + chance.below(bytes.len() as u64) as usize };
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&bytes[..length]).await.unwrap();
        let patience = Duration::from_micros(chance.below(8_000));
        let _answered = tokio::time::timeout(patience, stream.read_u8()).await;
        if chance.below(2) == 0 {
            let _ = stream.set_zero_linger();
        }
    }

    /// Makes it as a client does who got no answer.
    async fn make_again(&self, client: &Client) {
        let client = self.headers().iter().fold(client.clone(), |client, (name, value)| client.with(name, value));
        let body = self.body.as_ref().map(Value::to_string);
        let answer = client.send(self.method, self.path, body.as_deref()).await;
        assert!(matches!(answer.status, 200 | 201), "{}: {} {}", self.number, answer.status, answer.text);
    }
}

/// The same numbers each time (Knuth's MMIX generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_leave_no_connection_behind_and_no_half_effect() {
    let requests = by_form(2_000, 20_000);
    let app = TestApp::start_with(Role::Api, |_| {}).await;
    let address = app.client.base.strip_prefix("http://").unwrap();
    // Whoever signs in that often loses older sessions.
    let (user, signing_in) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let each = |number| Request::nth(number, &user, &signing_in);

    futures_util::stream::iter(0..requests)
        .for_each_concurrent(AT_ONCE, async |number| {
            each(number).cut(address, &mut Chance(number)).await;
            // At the server's pace: what piles up is refused, and shows nothing.
            assert_eq!(app.client.get("/health/live").await.status, 200);
        })
        .await;
    within(Duration::from_secs(20), "every connection is given back", async || app.app.db.usage().0 == 0).await;
    let left =
        "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
    within(Duration::from_secs(5), "no transaction is left open", async || app.count(left).await == 0).await;

    let found = registered(&app).await;
    assert!(found > 0, "no request had an effect: all of them were cut too early");
    futures_util::stream::iter((0..requests).filter(|number| number % KINDS < WRITES))
        .for_each_concurrent(AT_ONCE, async |number| each(number).make_again(&app.client).await)
        .await;
    // One event tells of each effect; what was done before the client hung up was not done again.
    let told = "SELECT count(*) AS n FROM outbox WHERE routing_key IN ('user.registered', 'preferences.changed', 'user.updated') AND correlation_id LIKE 'hang-up-%'";
    let each_once = told.replace("count(*)", "count(DISTINCT correlation_id)");
    assert_eq!(app.count(told).await, app.count(&each_once).await);
    let all = requests as i64 / KINDS as i64;
    assert_eq!(registered(&app).await, all);
    println!("hang-ups: {requests} requests cut, {found} of {all} registrations were made nevertheless, each once");
    app.stop().await.unwrap();
}

async fn registered(app: &TestApp) -> i64 {
    app.count("SELECT count(*) AS n FROM users WHERE email LIKE 'h-%@example.org'").await
}
