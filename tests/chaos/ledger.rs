//! Who asked for what, what the broker confirmed, what came out: the books that the checker reads.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant};

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _};
use futures_util::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Confirmation, Connection, ConnectionProperties};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use user_service::config::Broker;

use crate::support::TestApp;
use crate::support::client::TestUser;

/// After which a queue counts as empty.
const QUIET: Duration = Duration::from_millis(200);

/// Longer than thousands of messages take.
const TAKING: Duration = Duration::from_secs(30);

/// A request by what must become of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// Its user wants no pushes.
    OptedOut,
    NoSuchUser,
    /// No JSON.
    Malformed,
}

impl Kind {
    /// Seventeen good ones, and one of each other.
    pub fn nth(number: usize) -> Self {
        match number % 20 {
            5 => Kind::OptedOut,
            10 => Kind::NoSuchUser,
            15 => Kind::Malformed,
            _ => Kind::Good,
        }
    }

    /// The outcome that the inbox must show.
    pub fn outcome(self) -> (&'static str, Option<&'static str>) {
        match self {
            Kind::Good => ("delivered", None),
            Kind::OptedOut => ("skipped", Some("push_disabled")),
            Kind::NoSuchUser => ("dead", Some("unknown_user")),
            Kind::Malformed => ("dead", Some("malformed_json")),
        }
    }
}

/// The users of a run, as they registered.
pub struct Cast {
    pub ada: TestUser,
    /// Wants no pushes.
    pub bob: TestUser,
}

impl Cast {
    pub async fn register(app: &TestApp) -> Self {
        let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
        assert_eq!(app.client.as_user(&bob).patch("/api/v1/users/preferences", json!({"push": false})).await.status, 200);
        Self { ada, bob }
    }

    /// People who are yet to come.
    pub fn absent() -> Self {
        let user = |name: &str| TestUser {
            id: uuid::Uuid::now_v7().to_string(),
            email: format!("{name}@example.com"),
            access_token: String::new(),
            push_token: format!("token-of-{name}"),
        };
        Self { ada: user("ada"), bob: user("bob") }
    }

    pub async fn arrive(&self, app: &TestApp) {
        for (user, name, push) in [(&self.ada, "Ada", true), (&self.bob, "Bob", false)] {
            let TestUser { id, email, push_token, .. } = user;
            app.sql(&format!(
                "INSERT INTO users (id, email, email_key, name, created_at, updated_at) VALUES ('{id}', '{email}', '{email}', '{name}', now(), now());
                 INSERT INTO push_tokens (id, user_id, token, token_sha256, last_seen_at) VALUES (gen_random_uuid(), '{id}', '{push_token}', sha256('{push_token}'), now());
                 INSERT INTO preferences (user_id, channel, enabled, updated_at) VALUES ('{id}', 'push', {push}, now())"
            ))
            .await;
        }
    }

    pub fn body(&self, id: &str, kind: Kind) -> Vec<u8> {
        let user_id = match kind {
            Kind::Good => self.ada.id.as_str(),
            Kind::OptedOut => self.bob.id.as_str(),
            Kind::NoSuchUser => "0190a6c8-7f2e-7c11-9b1a-00000000dead",
            Kind::Malformed => return format!("{{\"request_id\": \"{id}\",").into_bytes(),
        };
        self.fields(id, user_id).to_string().into_bytes()
    }

    fn fields(&self, id: &str, user_id: &str) -> Value {
        json!({"notification_type": "push", "user_id": user_id, "template_code": "WELCOME", "variables": {"link": "https://x"},
            "request_id": id, "campaign": {"text": "Grüße \u{1f600} {{7*7}}"}})
    }

    /// What the push service must get, worked out from what was registered.
    pub fn enriched(&self, id: &str) -> Value {
        let ada = &self.ada;
        let mut body = self.fields(id, &ada.id);
        body["notification_id"] = json!(id);
        body["variables"]["name"] = json!("Ada");
        body["push_token"] = json!(ada.push_token);
        body["push_tokens"] = json!([ada.push_token]);
        body["user_data"] = json!({"user_id": ada.id, "name": "Ada", "email": ada.email, "push_token": ada.push_token,
            "preferences": {"email": true, "push": true}, "email_verified": false});
        body
    }
}

/// A message on the delivery queue.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub id: String,
    pub body: Value,
    pub headers: Vec<String>,
}

/// A row of the inbox.
#[derive(Clone, Debug, diesel::QueryableByName)]
pub struct Row {
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub message_id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    pub outcome: String,
    #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = diesel::sql_types::Integer)]
    pub attempts: i32,
}

/// The books of a run.
#[derive(Default)]
pub struct Ledger {
    pub attempted: BTreeMap<String, Kind>,
    pub confirmed: BTreeSet<String>,
    /// In the order in which they came, every one.
    pub delivered: Vec<Delivery>,
    /// Ids of the copies on `failed.queue`.
    pub dead_copies: Vec<String>,
    pub rows: Vec<Row>,
    history: Option<std::fs::File>,
}

impl Ledger {
    /// Keeps a history under `target/chaos`, a JSON line an event.
    pub fn named(name: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/target/chaos");
        std::fs::create_dir_all(folder).unwrap();
        Self { history: Some(std::fs::File::create(format!("{folder}/{name}.jsonl")).unwrap()), ..Self::default() }
    }

    pub fn note(&mut self, event: &str, what: Value) {
        if let Some(history) = &mut self.history {
            let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
            writeln!(history, "{}", json!({"at_ms": at as u64, "event": event, "what": what})).unwrap();
        }
    }
}

/// Publishes with confirms, over any number of connections.
pub struct Producer {
    names: Broker,
    line: Option<(Connection, lapin::Channel)>,
}

impl Producer {
    pub fn new(names: Broker) -> Self {
        Self { names, line: None }
    }

    /// An unconfirmed publish says nothing: it is repeated under the same id until it is confirmed.
    pub async fn publish(&mut self, ledger: &mut Ledger, cast: &Cast, id: &str, kind: Kind) {
        ledger.attempted.insert(id.to_owned(), kind);
        ledger.note("attempted", json!({"id": id, "kind": format!("{kind:?}")}));
        // A header that nobody may pass on.
        let mut headers = FieldTable::default();
        headers.insert("x-attempt".into(), AMQPValue::LongInt(99));
        let properties = BasicProperties::default().with_message_id(id.into()).with_headers(headers);
        self.publish_raw(&cast.body(id, kind), properties).await;
        ledger.confirmed.insert(id.to_owned());
        ledger.note("confirmed", json!({"id": id}));
    }

    pub async fn publish_raw(&mut self, body: &[u8], properties: BasicProperties) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while !self.try_publish(body, properties.clone()).await.unwrap_or(false) {
            assert!(Instant::now() < deadline, "no confirm within 90 seconds");
            self.line = None;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn try_publish(&mut self, body: &[u8], properties: BasicProperties) -> lapin::Result<bool> {
        if self.line.is_none() {
            let connection = Connection::connect(self.names.url.as_ref().unwrap().expose_secret(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            self.line = Some((connection, channel));
        }
        let Some((_, channel)) = &self.line else { return Ok(false) };
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.names.exchange.as_str().into(), self.names.push_key.as_str().into());
        let publishing = async { channel.basic_publish(exchange, key, options, body, properties.with_delivery_mode(2)).await?.await };
        let confirmation = tokio::time::timeout(Duration::from_secs(5), publishing).await;
        Ok(matches!(confirmation, Ok(Ok(Confirmation::Ack(None)))))
    }
}

/// Waits until every confirmed id has an end, and writes down what came out.
pub async fn observe(app: &TestApp, ledger: &mut Ledger, patience: Duration) {
    let deadline = Instant::now() + patience;
    loop {
        let is_over = Instant::now() > deadline;
        // A service that is just coming back refuses; the next round asks again. What is written was published before, so
        // it is looked for after.
        if let Ok(rows) = rows(&app.database_url).await {
            ledger.rows = rows;
            // What hangs there is asked anew on another connection: what was taken and not acknowledged comes again.
            let _ = tokio::time::timeout(TAKING, take_all(&app.config.broker, ledger)).await;
            if is_settled(ledger) {
                break;
            }
        }
        if is_over {
            // The checker tells what is missing.
            ledger.note("gave up waiting", json!(null));
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rows = ledger.rows.clone();
    for row in rows {
        ledger.note("outcome", json!({"id": row.message_id, "outcome": row.outcome, "reason": row.reason, "attempts": row.attempts}));
    }
}

fn is_settled(ledger: &Ledger) -> bool {
    let ended: BTreeSet<&str> = ledger.rows.iter().filter(|row| row.outcome != "retry").map(|row| row.message_id.as_str()).collect();
    let dead = ledger.rows.iter().filter(|row| row.outcome == "dead").count();
    let copies: BTreeSet<&String> = ledger.dead_copies.iter().collect();
    let delivered: BTreeSet<&str> = ledger.delivered.iter().map(|delivery| delivery.id.as_str()).collect();
    let arrived = |row: &Row| row.outcome != "delivered" || delivered.contains(row.message_id.as_str());
    ledger.confirmed.iter().all(|id| ended.contains(id.as_str())) && copies.len() >= dead && ledger.rows.iter().all(arrived)
}

async fn rows(database_url: &str) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let mut conn = AsyncPgConnection::establish(database_url).await?;
    Ok(diesel::sql_query("SELECT message_id, outcome, reason, attempts FROM push_inbox").load(&mut conn).await?)
}

/// Takes what is there; acknowledged only once it is noted.
async fn take_all(names: &Broker, ledger: &mut Ledger) -> lapin::Result<()> {
    let connection = Connection::connect(names.url.as_ref().unwrap().expose_secret(), ConnectionProperties::default()).await?;
    for queue in [&names.deliver_queue, &names.failed_queue] {
        // Tags count by channel: on a shared one the second queue's acknowledgement would take in what came from the first
        // after its last look, unread.
        let channel = connection.create_channel().await?;
        let mut last = None;
        let consumer =
            channel.basic_consume(queue.as_str().into(), "observer".into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut consumer = consumer.await?;
        while let Ok(Some(delivery)) = tokio::time::timeout(QUIET, consumer.next()).await {
            let delivery = delivery?;
            let id = delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default();
            last = Some(delivery.delivery_tag);
            // Taken before and not acknowledged: the same message, not another one.
            let is_known = ledger.delivered.iter().any(|known| known.id == id) || ledger.dead_copies.contains(&id);
            if delivery.redelivered && is_known {
                continue;
            }
            if queue == &names.deliver_queue {
                let headers = delivery.properties.headers().iter().flat_map(|table| table.inner().keys().map(ToString::to_string));
                // A quorum queue's own.
                let headers = headers.filter(|name| name != "x-delivery-count").collect();
                let body = serde_json::from_slice(&delivery.data).unwrap_or(Value::Null);
                ledger.note("delivered", json!({"id": id}));
                ledger.delivered.push(Delivery { id, body, headers });
            } else {
                ledger.note("dead letter", json!({"id": id}));
                ledger.dead_copies.push(id);
            }
        }
        channel.basic_cancel("observer".into(), BasicCancelOptions::default()).await?;
        if let Some(tag) = last {
            channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        }
    }
    connection.close(200, "observed".into()).await
}
