//! `user.events`: what happened to a user, told to whoever listens, through the outbox of the transaction it happened in.
//!
//! An event names the user and the fields, never their values: who needs those asks, with the authority to. No password,
//! token or hash is in one.

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::cause::Cause;
use super::db::Connection;
use super::outbox::{self, NewMessage};
use crate::error::{Error, Result};

/// What happened; its name is the routing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    UserRegistered,
    UserVerified,
    UserUpdated,
    UserDeactivated,
    UserErased,
    PreferencesChanged,
    SessionRevoked,
    PushSkipped,
    PushFailed,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::UserRegistered => "user.registered",
            EventType::UserVerified => "user.verified",
            EventType::UserUpdated => "user.updated",
            EventType::UserDeactivated => "user.deactivated",
            EventType::UserErased => "user.erased",
            EventType::PreferencesChanged => "preferences.changed",
            EventType::SessionRevoked => "session.revoked",
            EventType::PushSkipped => "push.skipped",
            EventType::PushFailed => "push.failed",
        }
    }
}

/// An event about a user.
#[derive(Clone, Debug)]
pub struct Event {
    pub event_type: EventType,
    pub user_id: Uuid,
    /// Orders the events of a user; absent where it is not about what is known of him.
    pub version: Option<i64>,
    /// What this type says besides.
    pub details: Map<String, Value>,
}

impl Event {
    pub fn new(event_type: EventType, user_id: Uuid, version: impl Into<Option<i64>>) -> Self {
        Self { event_type, user_id, version: version.into(), details: Map::new() }
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The message for the outbox.
    pub fn message(self, cause: &Cause) -> Result<NewMessage> {
        let event_id = Uuid::now_v7();
        let mut body = json!({
            "event_id": event_id,
            "event_type": self.event_type.as_str(),
            "occurred_at": cause.at,
            "correlation_id": cause.correlation_id,
            "user_id": self.user_id,
            "version": self.version,
        });
        if let Some(fields) = body.as_object_mut() {
            fields.extend(self.details);
        }
        Ok(NewMessage {
            user_id: Some(self.user_id),
            exchange: None,
            routing_key: self.event_type.as_str().to_owned(),
            message_type: None,
            priority: None,
            message_id: event_id.to_string(),
            correlation_id: cause.correlation_id.clone(),
            headers: cause.trace.headers(),
            payload: serde_json::to_vec(&body).map_err(Error::internal)?,
            one_time_token_id: None,
        })
    }
}

/// Announces them in the caller's transaction.
pub async fn announce(conn: &mut Connection, cause: &Cause, events: impl IntoIterator<Item = Event>) -> Result<()> {
    let messages = events.into_iter().map(|event| event.message(cause)).collect::<Result<Vec<_>>>()?;
    Ok(outbox::insert_messages(conn, outbox::Lane::Amqp, &messages, cause.at).await?)
}
