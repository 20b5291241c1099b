//! Where the outbox's rows go, and what comes of each.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::message::Outgoing;
use super::publisher::{PublishError, Publisher};
use crate::error::Error;
use crate::infra::backoff::Delays;
use crate::infra::cache::Cache;
use crate::infra::mailer;
use crate::infra::outbox::{self, Lane, Row};
use crate::infra::smtp::{SendError, Smtp};

const BATCH: i64 = 200;

/// Mails that are sent at once: each holds a connection to the mail server, and a locked row.
const MAIL_BATCH: i64 = 8;

/// No longer than Redis is left alone after a failure.
const CACHE_PAUSE: Duration = Duration::from_secs(2);

/// When a mail that was put off is tried again; after the last of these never.
const MAIL_RETRIES: [TimeDelta; 5] =
    [TimeDelta::seconds(30), TimeDelta::minutes(2), TimeDelta::minutes(10), TimeDelta::hours(1), TimeDelta::hours(6)];

/// What became of a row.
pub(super) enum Sent {
    Done,
    /// Nothing gets through: the fault is not the row's.
    Down(String),
    Later(String),
    Never(String),
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

/// A row as it is sent.
pub(super) struct Ready {
    pub row: Row,
    /// When its link dies, and the mail with it.
    pub expires_in: Option<TimeDelta>,
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
    pub(super) fn lane(&self) -> Lane {
        match self {
            Sender::Amqp { .. } => Lane::Amqp,
            Sender::Smtp(_) | Sender::Log => Lane::Smtp,
            Sender::Cache(_) => Lane::Cache,
        }
    }

    pub(super) fn batch(&self) -> i64 {
        if matches!(self, Sender::Smtp(_)) { MAIL_BATCH } else { BATCH }
    }

    /// Whether after a failure one row tries for all: each mail has a connection of its own, the others share one.
    pub(super) fn one_tries_for_all(&self) -> bool {
        self.lane() == Lane::Smtp
    }

    /// From a failure to the next try. What Redis is not told to forget may be read from it once it is back.
    pub(super) fn longest_pause(&self) -> Duration {
        if matches!(self, Sender::Cache(_)) { CACHE_PAUSE } else { Duration::MAX }
    }

    /// One result for each row, in order.
    pub(super) async fn send(&self, rows: &[Ready]) -> Vec<Sent> {
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

    /// How long a row waits that was put off; `None`: it is not tried again.
    pub(super) fn next_delay(&self, attempts: i32) -> Option<TimeDelta> {
        if self.lane() == Lane::Smtp {
            return MAIL_RETRIES.get(usize::try_from(attempts).unwrap_or_default()).copied();
        }
        let mut delays = Delays::default();
        let delay = (0..=attempts.clamp(0, 8)).map(|_| delays.next_delay()).last().unwrap_or_default();
        Some(TimeDelta::from_std(delay).unwrap_or_default())
    }
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
