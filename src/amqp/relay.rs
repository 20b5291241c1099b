//! The outbox relay: sends what transactions left behind, one lane a loop, several workers side by side.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::message::Outgoing;
use super::publisher::Publisher;
use crate::app::App;
use crate::error::Result;
use crate::infra::backoff::Delays;
use crate::infra::cache::Cache;
use crate::infra::outbox::{self, Lane, Row};

/// Well within the 500 ms in which what the outbox holds must leave.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const BATCH: i64 = 200;

/// Relays one lane until `stop`.
pub async fn relay(app: &App, sender: Sender, stop: &CancellationToken) -> Result<()> {
    let mut delays = Delays::default();
    loop {
        let pause = match relay_batch(app, &sender).await? {
            // A full batch means that more is waiting.
            Relayed { sent, failed: false } if sent == BATCH as usize => Duration::ZERO,
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
    sent: usize,
    failed: bool,
}

/// Where a lane's rows go.
#[derive(Clone, Debug)]
pub enum Sender {
    Amqp { publisher: Publisher, events_exchange: String },
    Cache(Cache),
}

impl Sender {
    fn lane(&self) -> Lane {
        match self {
            Sender::Amqp { .. } => Lane::Amqp,
            Sender::Cache(_) => Lane::Cache,
        }
    }

    /// One result for each row, in order.
    async fn send(&self, rows: &[Row]) -> Vec<Result<(), String>> {
        match self {
            Sender::Amqp { publisher, events_exchange } => {
                let messages: Vec<_> = rows.iter().map(|row| outgoing(row, events_exchange)).collect();
                let published = publisher.publish_all(&messages).await;
                published.into_iter().map(|result| result.map_err(|error| error.to_string())).collect()
            }
            Sender::Cache(cache) => {
                let entries: Vec<_> = rows.iter().filter_map(outbox::forgotten_entry).collect();
                let forgotten = cache.forget(&entries).await.map_err(|error| error.to_string());
                rows.iter().map(|_| forgotten.clone()).collect()
            }
        }
    }
}

/// The rows stay locked until they are marked, so that no other relay sends them too.
async fn relay_batch(app: &App, sender: &Sender) -> Result<Relayed> {
    let (sender, now) = (sender.clone(), app.clock.now());
    let relaying = app.worker_db.write(move |tx| {
        async move {
            let rows = outbox::list_due(tx, sender.lane(), now, BATCH).await?;
            if rows.is_empty() {
                return Ok(Relayed { sent: 0, failed: false });
            }
            let results = sender.send(&rows).await;
            let lane = sender.lane().as_str();
            if let Some(Err(error)) = results.first()
                && results.iter().all(std::result::Result::is_err)
            {
                // Nothing gets through: the fault is not the rows', so they are left as they are.
                tracing::warn!(lane, waiting = rows.len(), error, "the outbox waits");
                return Ok(Relayed { sent: 0, failed: true });
            }
            let mut done = Vec::with_capacity(rows.len());
            for (row, result) in rows.iter().zip(results) {
                match result {
                    Ok(()) => done.push(row.id),
                    Err(error) => {
                        tracing::warn!(row = %row.id, lane, attempts = row.attempts + 1, error, "the outbox row waits");
                        outbox::update_failed_attempt(tx, row.id, next_attempt_at(row.attempts, now), &error).await?;
                    }
                }
            }
            outbox::update_done(tx, &done, now).await?;
            metrics::counter!("outbox_sent_total", "lane" => lane).increment(done.len() as u64);
            Ok(Relayed { sent: done.len(), failed: done.len() < rows.len() })
        }
        .boxed()
    });
    relaying.await
}

fn next_attempt_at(attempts: i32, now: DateTime<Utc>) -> DateTime<Utc> {
    let mut delays = Delays::default();
    let delay = (0..=attempts.clamp(0, 8)).map(|_| delays.next_delay()).last().unwrap_or(POLL_INTERVAL);
    now + TimeDelta::from_std(delay).unwrap_or_default()
}

fn outgoing(row: &Row, events_exchange: &str) -> Outgoing {
    let exchange = row.exchange.clone().unwrap_or_default();
    Outgoing {
        // Nobody bound to an event is no error.
        mandatory: exchange != events_exchange,
        exchange,
        routing_key: row.routing_key.clone().unwrap_or_default(),
        message_id: row.message_id.clone().unwrap_or_else(|| row.id.to_string()),
        correlation_id: row.correlation_id.clone(),
        priority: None,
        kind: None,
        headers: row.headers.as_object().cloned().unwrap_or_default(),
        timestamp_seconds: u64::try_from(row.created_at.timestamp()).unwrap_or_default(),
        body: row.payload.clone(),
    }
}
