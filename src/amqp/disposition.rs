//! What becomes of a message, and the closed list of reasons why one dies.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::message::Incoming;
use crate::config;
use crate::infra::outbox::NewMessage;

/// What the consumer loop does with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Its outcome is committed: acknowledge it.
    Done,
    /// Another transaction has a copy of it: to be looked at again in a moment.
    Busy,
    /// Something it needs is down: keep it unacknowledged and try again, spending no attempt.
    Hold(String),
}

/// Why a message died. Nothing else stands in `x-dead-reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum DeadReason {
    MalformedJson,
    SchemaViolation,
    UnsupportedType,
    UnsupportedEncoding,
    TooLarge,
    InvalidId,
    MessageIdConflict,
    UnknownUser,
    RetriesExhausted,
}

impl DeadReason {
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::MalformedJson => "malformed_json",
            DeadReason::SchemaViolation => "schema_violation",
            DeadReason::UnsupportedType => "unsupported_type",
            DeadReason::UnsupportedEncoding => "unsupported_encoding",
            DeadReason::TooLarge => "too_large",
            DeadReason::InvalidId => "invalid_id",
            DeadReason::MessageIdConflict => "message_id_conflict",
            DeadReason::UnknownUser => "unknown_user",
            DeadReason::RetriesExhausted => "retries_exhausted",
        }
    }
}

/// A message's death: the reason, and a detail with field names but no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub reason: DeadReason,
    pub detail: String,
}

impl Dead {
    pub fn new(reason: DeadReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The copy for `failed.queue`, to be queued in the transaction that settles the message.
    ///
    /// Body and message id are the original's; of its headers none.
    pub fn copy_of(&self, message: &Incoming, broker: &config::Broker, now: DateTime<Utc>) -> NewMessage {
        let mut detail = self.detail.clone();
        while detail.len() > 256 {
            detail.pop();
        }
        let headers = [
            ("x-dead-reason", self.reason.as_str().to_owned()),
            ("x-dead-detail", detail),
            ("x-dead-at", now.to_rfc3339_opts(SecondsFormat::Millis, true)),
            ("x-original-queue", broker.push_queue.clone()),
        ];
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), Value::String(value)));
        NewMessage {
            user_id: None,
            exchange: Some(broker.dlx_exchange.clone()),
            routing_key: broker.failed_key.clone(),
            message_type: None,
            priority: None,
            // A NUL can stand in a property, but not in a PostgreSQL text.
            message_id: message.message_id.clone().filter(|id| !id.contains('\0')).unwrap_or_else(|| uuid::Uuid::now_v7().to_string()),
            correlation_id: message.correlation_id.clone(),
            headers: headers.chain(message.trace.headers()).collect(),
            payload: message.body.clone(),
            one_time_token_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_keeps_body_and_id_and_no_header_of_the_sender() {
        let broker = crate::config::Config::from_map(
            crate::config::Role::Both,
            &std::collections::BTreeMap::from([
                ("DATABASE_URL", "postgres://h/d"),
                ("REDIS_URL", "redis://h"),
                ("RABBITMQ_URL", "amqp://h"),
                ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e"),
            ]),
        );
        let broker = broker.unwrap().broker;
        let message = Incoming { body: b"\xff{".to_vec(), message_id: Some("m-1".into()), ..Incoming::default() };
        let dead = Dead::new(DeadReason::MalformedJson, "é".repeat(200));
        let copy = dead.copy_of(&message, &broker, DateTime::UNIX_EPOCH);
        assert_eq!((copy.payload.as_slice(), copy.message_id.as_str()), (b"\xff{".as_slice(), "m-1"));
        let names: Vec<_> = copy.headers.keys().map(String::as_str).collect();
        assert_eq!(names, ["x-dead-at", "x-dead-detail", "x-dead-reason", "x-original-queue"]);
        assert_eq!(copy.headers["x-dead-detail"].as_str().unwrap().len(), 256);
        assert_eq!((&copy.headers["x-dead-reason"], &copy.headers["x-original-queue"]), (&"malformed_json".into(), &"push.queue".into()));
        let unstorable = Incoming { message_id: Some("m\0".into()), ..message };
        assert!(!dead.copy_of(&unstorable, &broker, DateTime::UNIX_EPOCH).message_id.contains('\0'));
    }
}
