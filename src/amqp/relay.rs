//! The outbox relay: sends what transactions left behind, one lane a loop, several workers side by side.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::message::Outgoing;
use super::publisher::{PublishError, Publisher};
use crate::app::App;
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::cache::Cache;
use crate::infra::fail_point;
use crate::infra::mailer;
use crate::infra::one_time_token::{self, Token};
use crate::infra::outbox::{self, Lane, Row};
use crate::infra::smtp::{SendError, Smtp};
use crate::infra::status::PartState;
use crate::infra::transaction::Tx;

/// Well within the 500 ms in which what the outbox holds must leave.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const BATCH: i64 = 200;

/// Mails that are sent at once: each holds a connection to the mail server, and a locked row.
const MAIL_BATCH: i64 = 8;

/// When a mail that was put off is tried again; after the last of these never.
const MAIL_RETRIES: [TimeDelta; 5] =
    [TimeDelta::seconds(30), TimeDelta::minutes(2), TimeDelta::minutes(10), TimeDelta::hours(1), TimeDelta::hours(6)];

/// Relays one lane until `stop`; `name` is the part's, under which health tells when what it needs is down.
pub async fn relay(app: &App, name: &str, sender: Sender, stop: &CancellationToken) -> Result<()> {
    let (mut delays, mut limit) = (Delays::default(), sender.batch());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _waited = app.worker_db.ready() => {}
        }
        let relayed = relay_batch(app, &sender, limit).await?;
        // After a failure one tries for all.
        limit = if relayed.failed { 1 } else { sender.batch() };
        app.status.set_part(name, if relayed.failed { PartState::Waiting } else { PartState::Running });
        let pause = match relayed {
            // More may be waiting.
            Relayed { full: true, failed: false } => Duration::ZERO,
            Relayed { failed: false, .. } => {
                delays.reset();
                POLL_INTERVAL
            }
            Relayed { failed: true, .. } => delays.next_delay(),
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What became of a batch.
struct Relayed {
    /// As many as it may be.
    full: bool,
    failed: bool,
}

/// What became of a row.
enum Sent {
    Done,
    /// Nothing gets through: the fault is not the row's.
    Down(String),
    Later(String),
    Never(String),
}

/// Where a lane's rows go.
#[derive(Clone, Debug)]
pub enum Sender {
    Amqp {
        publisher: Publisher,
        events_exchange: String,
    },
    Smtp(Smtp),
    /// The log, for development.
    Log,
    Cache(Cache),
}

impl Sender {
    fn lane(&self) -> Lane {
        match self {
            Sender::Amqp { .. } => Lane::Amqp,
            Sender::Smtp(_) | Sender::Log => Lane::Smtp,
            Sender::Cache(_) => Lane::Cache,
        }
    }

    fn batch(&self) -> i64 {
        if matches!(self, Sender::Smtp(_)) { MAIL_BATCH } else { BATCH }
    }

    /// One result for each row, in order.
    async fn send(&self, rows: &[Ready]) -> Vec<Sent> {
        match self {
            Sender::Amqp { publisher, events_exchange } => {
                let messages: Vec<_> = rows.iter().map(|ready| ready.outgoing(events_exchange)).collect();
                publisher.publish_all(&messages).await.into_iter().map(Sent::from).collect()
            }
            Sender::Smtp(smtp) => join_all(rows.iter().map(|ready| mail(smtp, &ready.row))).await,
            Sender::Log => rows.iter().map(|ready| log(&ready.row)).collect(),
            Sender::Cache(cache) => {
                let entries: Vec<_> = rows.iter().filter_map(|ready| outbox::forgotten_entry(&ready.row)).collect();
                let forgotten = cache.forget(&entries).await.map_err(|error| error.to_string());
                rows.iter().map(|_| forgotten.clone().map_or_else(Sent::Down, |_| Sent::Done)).collect()
            }
        }
    }

    /// When a row is tried again that was put off, if ever.
    fn next_attempt_at(&self, attempts: i32, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.lane() == Lane::Smtp {
            return MAIL_RETRIES.get(usize::try_from(attempts).unwrap_or_default()).map(|delay| now + *delay);
        }
        let mut delays = Delays::default();
        let delay = (0..=attempts.clamp(0, 8)).map(|_| delays.next_delay()).last().unwrap_or(POLL_INTERVAL);
        Some(now + TimeDelta::from_std(delay).unwrap_or_default())
    }
}

impl From<Result<(), PublishError>> for Sent {
    fn from(published: Result<(), PublishError>) -> Self {
        match published {
            Ok(()) => Sent::Done,
            Err(error @ (PublishError::Disconnected(_) | PublishError::Unconfirmed)) => Sent::Down(error.to_string()),
            Err(error @ (PublishError::Unroutable(_) | PublishError::Refused)) => Sent::Later(error.to_string()),
        }
    }
}

/// The rows stay locked until they are marked, so that no other relay sends them too.
async fn relay_batch(app: &App, sender: &Sender, limit: i64) -> Result<Relayed> {
    let (sender, now, app) = (sender.clone(), app.clock.now(), app.clone());
    let worker_db = app.worker_db.clone();
    let relaying = worker_db.write(move |tx| {
        async move {
            let rows = outbox::list_due(tx, sender.lane(), now, limit).await?;
            let full = rows.len() as i64 == limit;
            let rows = make_ready(tx, &app, rows, sender.lane().as_str(), now).await?;
            let results = sender.send(&rows).await;
            if !rows.is_empty() {
                fail_point::reach("outbox-confirmed").await?;
            }
            let failed = settle(tx, &sender, &rows, results, now).await?;
            Ok(Relayed { full, failed })
        }
        .boxed()
    });
    relaying.await
}

/// A row as it is sent.
struct Ready {
    row: Row,
    /// When its link dies, and the mail with it.
    expires_in: Option<TimeDelta>,
}

/// Writes the tokens into the links. A mail whose link is dead by now is given up.
async fn make_ready(tx: &mut Tx, app: &App, rows: Vec<Row>, lane: &'static str, now: DateTime<Utc>) -> Result<Vec<Ready>> {
    let ids: Vec<Uuid> = rows.iter().filter_map(|row| row.one_time_token_id).collect();
    let found = if ids.is_empty() { Vec::new() } else { one_time_token::list(tx, &ids).await? };
    let tokens: HashMap<Uuid, Token> = found.into_iter().map(|token| (token.id, token)).collect();
    let mut ready = Vec::with_capacity(rows.len());
    for mut row in rows {
        let Some(id) = row.one_time_token_id else {
            ready.push(Ready { row, expires_in: None });
            continue;
        };
        let Some(token) = tokens.get(&id).filter(|token| token.is_live(now)) else {
            tracing::info!(row = %row.id, "a mail is not sent: its link was used, replaced or has expired");
            outbox::update_given_up(tx, row.id, now, "the link was used, replaced or has expired").await?;
            continue;
        };
        match mailer::complete(&row.payload, &token.seal(&app.keys)) {
            Ok(payload) => {
                row.payload = payload;
                ready.push(Ready { row, expires_in: Some(token.expires_at - now) });
            }
            // One row that cannot be read must not hold back all others.
            Err(error) => give_up(tx, &row, lane, &error.chain(), now).await?,
        }
    }
    Ok(ready)
}

/// Marks what became of each row; returns whether the lane should pause.
async fn settle(tx: &mut Tx, sender: &Sender, rows: &[Ready], results: Vec<Sent>, now: DateTime<Utc>) -> Result<bool> {
    let lane = sender.lane().as_str();
    let (mut done, mut failed) = (Vec::with_capacity(rows.len()), None);
    for (Ready { row, .. }, result) in rows.iter().zip(results) {
        match result {
            Sent::Done => done.push(row.id),
            // Left as it is: an outage uses up no attempt.
            Sent::Down(error) => failed = Some(error),
            Sent::Later(error) => match sender.next_attempt_at(row.attempts, now) {
                Some(next) => {
                    tracing::warn!(row = %row.id, correlation_id = row.correlation_id, lane, attempts = row.attempts + 1, error, "the outbox row waits");
                    outbox::update_failed_attempt(tx, row.id, next, &error).await?;
                }
                None => give_up(tx, row, lane, &error, now).await?,
            },
            Sent::Never(error) => give_up(tx, row, lane, &error, now).await?,
        }
    }
    outbox::update_done(tx, &done, now).await?;
    metrics::counter!("outbox_sent_total", "lane" => lane).increment(done.len() as u64);
    if let Some(error) = &failed {
        tracing::warn!(lane, waiting = rows.len() - done.len(), error, "the outbox waits");
    }
    Ok(failed.is_some())
}

async fn give_up(tx: &mut Tx, row: &Row, lane: &'static str, error: &str, now: DateTime<Utc>) -> Result<()> {
    tracing::error!(row = %row.id, correlation_id = row.correlation_id, lane, attempts = row.attempts + 1, error, "the outbox row is given up");
    metrics::counter!("outbox_given_up_total", "lane" => lane).increment(1);
    outbox::update_given_up(tx, row.id, now, error).await?;
    Ok(())
}

async fn mail(smtp: &Smtp, row: &Row) -> Sent {
    let message = match serde_json::from_slice(&row.payload).map_err(Error::internal) {
        Ok(message) => message,
        Err(error) => return Sent::Never(error.chain()),
    };
    match AssertUnwindSafe(smtp.send(&message)).catch_unwind().await {
        Ok(Ok(())) => Sent::Done,
        Ok(Err(error @ SendError::Down(_))) => Sent::Down(error.to_string()),
        Ok(Err(error @ SendError::Later(_))) => Sent::Later(error.to_string()),
        Ok(Err(error @ SendError::Never(_))) => Sent::Never(error.to_string()),
        // One mail that cannot be written must not hold back all others.
        Err(_panic) => Sent::Later("a bug of ours: writing the mail panicked".to_owned()),
    }
}

/// For development only; the configuration refuses it where the links lead anywhere else.
fn log(row: &Row) -> Sent {
    match serde_json::from_slice::<mailer::Message>(&row.payload) {
        Ok(message) => {
            let link = message.variables.link.as_deref().unwrap_or("-");
            tracing::info!(
                correlation_id = row.correlation_id,
                template = message.template_code,
                to = message.variables.email,
                link,
                "mail"
            );
            Sent::Done
        }
        Err(error) => Sent::Never(error.to_string()),
    }
}

impl Ready {
    fn outgoing(&self, events_exchange: &str) -> Outgoing {
        let row = &self.row;
        Outgoing {
            // Nobody bound to an event is no error.
            mandatory: row.exchange.is_some(),
            exchange: row.exchange.clone().unwrap_or_else(|| events_exchange.to_owned()),
            routing_key: row.routing_key.clone().unwrap_or_default(),
            message_id: row.message_id.clone().unwrap_or_else(|| row.id.to_string()),
            correlation_id: row.correlation_id.clone(),
            priority: row.priority.and_then(|priority| u8::try_from(priority).ok()),
            kind: row.message_type.clone(),
            headers: row.headers.as_object().cloned().unwrap_or_default(),
            timestamp_seconds: u64::try_from(row.created_at.timestamp()).unwrap_or_default(),
            expires_in: self.expires_in,
            body: row.payload.clone(),
        }
    }
}
