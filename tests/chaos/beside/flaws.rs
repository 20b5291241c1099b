//! The checker is checked: eight flaws that workers really have are each found, and a worker without them is not blamed.
//!
//! The worker here is a plain one of some dozens of lines. With no flaw it keeps the promises; each flaw is one decision
//! taken wrongly, put where the fault that exposes it happens.

use std::collections::HashMap;
use std::time::Duration;

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use user_service::config::Broker;

use crate::api_with_queues;
use crate::checker::{Findings, check};
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::proxy::{Fault, FaultProxy};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    AckBeforePublish,
    CopiedHeaders,
    ReturnedTakenForSuccess,
    CheckThenAct,
    RequeueInOutage,
    RetryCountedInOutage,
    StaleCardBelieved,
    DropOnShutdown,
}

const FLAWS: [Flaw; 8] = [
    Flaw::AckBeforePublish,
    Flaw::CopiedHeaders,
    Flaw::ReturnedTakenForSuccess,
    Flaw::CheckThenAct,
    Flaw::RequeueInOutage,
    Flaw::RetryCountedInOutage,
    Flaw::StaleCardBelieved,
    Flaw::DropOnShutdown,
];

const MESSAGES: usize = 20;

/// Beyond this the queue drops what is redelivered, as many a sibling's does.
const DELIVERY_LIMIT: i64 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn each_of_eight_flaws_is_found_and_a_worker_without_them_is_not_blamed() {
    futures_util::future::join_all(FLAWS.map(async |scene| {
        let clean = play(scene, None).await;
        clean.assert_clean(&format!("no flaw, where {scene:?} would show"), if scene == Flaw::AckBeforePublish { 1 } else { 0 });
        let flawed = play(scene, Some(scene)).await;
        println!("{scene:?}: {flawed}");
        let found = match scene {
            Flaw::AckBeforePublish | Flaw::ReturnedTakenForSuccess | Flaw::RequeueInOutage | Flaw::DropOnShutdown => {
                !flawed.lost.is_empty()
            }
            Flaw::CopiedHeaders => flawed.corrupt.len() == MESSAGES,
            Flaw::CheckThenAct => flawed.duplicated > 0,
            Flaw::RetryCountedInOutage => !flawed.spent.is_empty(),
            Flaw::StaleCardBelieved => !flawed.contradicted.is_empty(),
        };
        assert!(found, "{scene:?} was not found: {flawed:#?}");
    }))
    .await;
}

/// The faults that expose `scene`, with a worker that has `flaw`.
async fn play(scene: Flaw, flaw: Option<Flaw>) -> Findings {
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let names = &app.config.broker;
    declare(names).await;
    let address = url::Url::parse(&app.database_url).unwrap();
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", address.port().unwrap())).await;
    let worker = PlainWorker { names: names.clone(), database_url: proxy.url(&app.database_url), flaw };
    let (mut ledger, mut producer) = (Ledger::default(), Producer::new(names.clone()));
    let kind = if scene == Flaw::StaleCardBelieved { Kind::OptedOut } else { Kind::Good };
    let mut cards = cards(&app.database_url).await;
    if scene == Flaw::StaleCardBelieved {
        // As they were before Bob changed his mind.
        cards.values_mut().for_each(|wants_push| *wants_push = true);
    }
    if scene == Flaw::ReturnedTakenForSuccess {
        bind(names, false).await;
    }
    for number in 0..MESSAGES {
        producer.publish(&mut ledger, &cast, &format!("x-{number}"), kind).await;
        if scene == Flaw::CheckThenAct {
            producer.publish(&mut ledger, &cast, &format!("x-{number}"), kind).await;
        }
    }
    if matches!(scene, Flaw::RequeueInOutage | Flaw::RetryCountedInOutage) {
        proxy.set(Fault::Reset);
    }
    let loses = matches!(flaw, Some(Flaw::AckBeforePublish | Flaw::ReturnedTakenForSuccess | Flaw::RequeueInOutage | Flaw::DropOnShutdown));
    let stop = CancellationToken::new();
    let crash_at = (scene == Flaw::AckBeforePublish).then_some("x-5");
    let stop_at = (scene == Flaw::DropOnShutdown).then_some("x-5");
    let run = || worker.run(&cards, crash_at, stop_at, &stop);
    // To use up the queue's patience takes many a requeue.
    let outage = Duration::from_millis(if flaw == Some(Flaw::RequeueInOutage) { 6_000 } else { 1_500 });
    let mending = async {
        tokio::time::sleep(outage).await;
        proxy.set(Fault::None);
        bind(names, true).await;
        if crash_at.is_some() || stop_at.is_some() {
            // The next process has no fault to meet.
            worker.run(&cards, None, None, &stop).await;
        }
    };
    let watching = async {
        tokio::time::sleep(outage).await;
        // What a flaw lost is waited for in vain.
        observe(&app, &mut ledger, Duration::from_secs(if loses { 8 } else { 60 })).await;
        stop.cancel();
    };
    if scene == Flaw::CheckThenAct {
        tokio::join!(run(), run(), mending, watching);
    } else {
        tokio::join!(run(), mending, watching);
    }
    // A second look: what came after the last end was written.
    observe(&app, &mut ledger, Duration::ZERO).await;
    let findings = check(&ledger, &cast, 0);
    app.stop().await.unwrap();
    findings
}

struct PlainWorker {
    names: Broker,
    database_url: String,
    flaw: Option<Flaw>,
}

impl PlainWorker {
    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Until `stop`; or it crashes, or is told to stop, when it has the message in hand that bears the id.
    async fn run(&self, cards: &HashMap<String, bool>, crash_at: Option<&str>, stop_at: Option<&str>, stop: &CancellationToken) {
        let connection = connect(&self.names).await;
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        // One at a time, so that copies, which lie side by side, are in two hands at once.
        let prefetch = if self.has(Flaw::CheckThenAct) { 1 } else { 10 };
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.unwrap();
        let tag = uuid::Uuid::new_v4().to_string();
        let consuming =
            channel.basic_consume(self.names.push_queue.as_str().into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default());
        let mut deliveries = consuming.await.unwrap();
        loop {
            let delivery = tokio::select! {
                delivery = deliveries.next() => delivery.unwrap().unwrap(),
                () = stop.cancelled() => break,
            };
            let id = delivery.properties.message_id().as_ref().unwrap().as_str().to_owned();
            if self.has(Flaw::AckBeforePublish) {
                delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
            }
            if crash_at == Some(&id) {
                break;
            }
            if stop_at == Some(&id) {
                if self.has(Flaw::DropOnShutdown) {
                    let all = BasicAckOptions { multiple: true };
                    // Everything that was prefetched: the queue is to be left empty.
                    channel.basic_ack(0, all).await.unwrap();
                }
                break;
            }
            self.settle(&channel, &delivery, &id, cards, stop).await;
        }
        let _ = connection.close(200, "ended".into()).await;
    }

    /// Until it has its end; what is down is waited for.
    async fn settle(&self, channel: &Channel, delivery: &Delivery, id: &str, cards: &HashMap<String, bool>, stop: &CancellationToken) {
        let mut attempts = 0;
        loop {
            match self.try_settle(channel, delivery, id, cards, attempts).await {
                Ok(true) => {
                    if !self.has(Flaw::AckBeforePublish) {
                        delivery.acker.ack(BasicAckOptions::default()).await.unwrap();
                    }
                    return;
                }
                Ok(false) => {}
                Err(_down) if self.has(Flaw::RequeueInOutage) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    return delivery.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await.map(drop).unwrap();
                }
                Err(_down) if self.has(Flaw::RetryCountedInOutage) => attempts += 1,
                Err(_down) => {}
            }
            if stop.is_cancelled() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn try_settle(
        &self,
        channel: &Channel,
        delivery: &Delivery,
        id: &str,
        cards: &HashMap<String, bool>,
        attempts: i32,
    ) -> Result<bool, Box<dyn std::error::Error>> {
        let mut conn = AsyncPgConnection::establish(&self.database_url).await?;
        conn.batch_execute("BEGIN").await?;
        if !self.has(Flaw::CheckThenAct) {
            conn.batch_execute(&format!("SELECT pg_advisory_xact_lock(hashtext('{id}'))")).await?;
        }
        if count(&mut conn, &format!("SELECT count(*) AS n FROM push_inbox WHERE message_id = '{id}'")).await? > 0 {
            return Ok(true);
        }
        // The time in which another one asks the same.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let request: Value = serde_json::from_slice(&delivery.data)?;
        let user_id = request["user_id"].as_str().unwrap();
        let user = find_user(&mut conn, user_id).await?;
        let wants_push = if self.has(Flaw::StaleCardBelieved) { cards[user_id] } else { user.push };
        if wants_push && !self.publish(channel, delivery, id, enriched(&user, request.clone())).await? {
            return Ok(false);
        }
        let (outcome, reason) = if wants_push { ("delivered", "NULL") } else { ("skipped", "'push_disabled'") };
        conn.batch_execute(&format!(
            "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, attempts, received_at, decided_at)
             VALUES ('{id}', '{user_id}', sha256('x'), 'queue', '{outcome}', {reason}, {attempts}, now(), now()) ON CONFLICT DO NOTHING; COMMIT"
        ))
        .await?;
        Ok(true)
    }

    async fn publish(&self, channel: &Channel, delivery: &Delivery, id: &str, body: Value) -> lapin::Result<bool> {
        let mut properties = BasicProperties::default().with_message_id(id.into()).with_delivery_mode(2);
        if self.has(Flaw::CopiedHeaders)
            && let Some(headers) = delivery.properties.headers()
        {
            properties = properties.with_headers(headers.clone());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.names.exchange.as_str().into(), self.names.deliver_key.as_str().into());
        let confirmation = channel.basic_publish(exchange, key, options, body.to_string().as_bytes(), properties).await?.await?;
        Ok(match confirmation {
            Confirmation::Ack(None) => true,
            Confirmation::Ack(Some(_returned)) => self.has(Flaw::ReturnedTakenForSuccess),
            _ => false,
        })
    }
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    n: i64,
}

async fn count(conn: &mut AsyncPgConnection, query: &str) -> diesel::QueryResult<i64> {
    Ok(diesel::sql_query(query).get_result::<Count>(conn).await?.n)
}

#[derive(diesel::QueryableByName)]
struct UserRow {
    #[diesel(sql_type = diesel::sql_types::Text)]
    id: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    name: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    email: String,
    #[diesel(sql_type = diesel::sql_types::Text)]
    token: String,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    push: bool,
}

const USERS: &str = "SELECT u.id::text AS id, u.name, u.email, t.token, NOT EXISTS (SELECT FROM preferences p
    WHERE p.user_id = u.id AND p.channel = 'push' AND NOT p.enabled) AS push FROM users u JOIN push_tokens t ON t.user_id = u.id";

async fn cards(database_url: &str) -> HashMap<String, bool> {
    let mut conn = AsyncPgConnection::establish(database_url).await.unwrap();
    let users: Vec<UserRow> = diesel::sql_query(USERS).load(&mut conn).await.unwrap();
    users.into_iter().map(|user| (user.id, user.push)).collect()
}

async fn find_user(conn: &mut AsyncPgConnection, user_id: &str) -> diesel::QueryResult<UserRow> {
    diesel::sql_query(format!("{USERS} WHERE u.id = '{user_id}'")).get_result(conn).await
}

fn enriched(user: &UserRow, mut request: Value) -> Value {
    request["notification_id"] = request["request_id"].clone();
    request["variables"]["name"] = json!(user.name);
    request["push_token"] = json!(user.token);
    request["push_tokens"] = json!([user.token]);
    request["user_data"] = json!({"user_id": user.id, "name": user.name, "email": user.email, "push_token": user.token,
        "preferences": {"email": true, "push": user.push}, "email_verified": false});
    request
}

async fn connect(names: &Broker) -> Connection {
    Connection::connect(names.url.as_ref().unwrap().expose_secret(), ConnectionProperties::default()).await.unwrap()
}

async fn declare(names: &Broker) {
    let channel = connect(names).await.create_channel().await.unwrap();
    for exchange in [&names.exchange, &names.dlx_exchange] {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(exchange.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default()).await.unwrap();
    }
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    for (queue, key, exchange) in [
        (&names.push_queue, &names.push_key, &names.exchange),
        (&names.deliver_queue, &names.deliver_key, &names.exchange),
        (&names.failed_queue, &names.failed_key, &names.dlx_exchange),
    ] {
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), durable, arguments.clone()).await.unwrap();
        let (queue, exchange, key) = (queue.as_str().into(), exchange.as_str().into(), key.as_str().into());
        channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await.unwrap();
    }
}

/// Whether anything takes the deliveries.
async fn bind(names: &Broker, is_bound: bool) {
    let channel = connect(names).await.create_channel().await.unwrap();
    let (queue, exchange, key) = (names.deliver_queue.as_str().into(), names.exchange.as_str().into(), names.deliver_key.as_str().into());
    if is_bound {
        channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await.unwrap();
    } else {
        channel.queue_unbind(queue, exchange, key, FieldTable::default()).await.unwrap();
    }
}
