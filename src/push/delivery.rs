//! What is handed on: the request with the user's data, and the announcement of a skip.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::PushRequest;
use super::decision::SkipReason;
use super::message::MAX_BODY_BYTES;
use super::store::Key;
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::{Incoming, Outgoing};
use crate::card::Card;
use crate::config;
use crate::error::Result;
use crate::infra::cause::Cause;
use crate::infra::events::{Event, EventType};
use crate::infra::outbox::NewMessage;

/// The user as the push service reads one.
#[derive(Serialize)]
struct UserData<'a> {
    user_id: Uuid,
    name: &'a str,
    email: &'a str,
    push_token: &'a str,
    preferences: PreferenceData,
    email_verified: bool,
}

#[derive(Serialize)]
struct PreferenceData {
    email: bool,
    push: bool,
}

/// The enriched message; too large a one is dead.
pub fn outgoing(
    message: &Incoming,
    request: &PushRequest,
    card: &Card,
    broker: &config::Broker,
    now: DateTime<Utc>,
) -> Result<Outgoing, Dead> {
    let token = card.push_token.as_deref().unwrap_or_default();
    let mut fields = request.fields.clone();
    let variables = fields.entry("variables").or_insert(Value::Null);
    if variables.is_null() {
        *variables = Value::Object(Map::new());
    }
    if let Some(variables) = variables.as_object_mut() {
        let name = variables.entry("name").or_insert(Value::Null);
        if name.is_null() {
            *name = card.name.clone().into();
        }
    }
    let user_data = UserData {
        user_id: card.user_id,
        name: &card.name,
        email: &card.email,
        push_token: token,
        preferences: PreferenceData { email: card.preferences.email, push: card.preferences.push },
        email_verified: card.email_verified,
    };
    fields.insert("push_token".to_owned(), token.into());
    fields.insert("push_tokens".to_owned(), Value::Array(vec![token.into()]));
    let body = serde_json::to_value(user_data).and_then(|user_data| {
        fields.insert("user_data".to_owned(), user_data);
        serde_json::to_vec(&fields)
    });
    let body = body.map_err(|error| Dead::new(DeadReason::SchemaViolation, format!("cannot be written as JSON: {error}")))?;
    if body.len() > MAX_BODY_BYTES {
        return Err(Dead::new(DeadReason::TooLarge, "with the user's data the body is larger than 256 KiB"));
    }
    Ok(Outgoing {
        exchange: broker.exchange.clone(),
        routing_key: broker.deliver_key.clone(),
        mandatory: true,
        message_id: request.notification_id.clone(),
        correlation_id: Some(message.correlation_id.clone()),
        priority: request.priority,
        kind: Some("push.deliver.v1".to_owned()),
        headers: message.trace.headers(),
        timestamp_seconds: u64::try_from(now.timestamp()).unwrap_or_default(),
        expires_in: None,
        body,
    })
}

/// Announces a skip.
pub fn skipped(request: &PushRequest, card: &Card, reason: SkipReason, cause: &Cause) -> Result<NewMessage> {
    Event::new(EventType::PushSkipped, card.user_id, card.version)
        .with("notification_id", request.notification_id.as_str())
        .with("reason", reason.as_str())
        .message(cause)
}

/// Announces a death that is nobody's but the request's, or ours.
pub fn failed(key: &Key, reason: DeadReason, cause: &Cause) -> Result<NewMessage> {
    let event = Event::new(EventType::PushFailed, key.user_id, None);
    event.with("notification_id", key.given_id()).with("reason", reason.as_str()).message(cause)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::push::tests::card;

    fn broker() -> config::Broker {
        let variables = [
            ("DATABASE_URL", "postgres://h/d"),
            ("REDIS_URL", "redis://h"),
            ("RABBITMQ_URL", "amqp://h"),
            ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e"),
        ];
        config::Config::from_map(config::Role::Both, &variables.into()).unwrap().broker
    }

    #[test]
    fn a_delivery_is_the_request_with_the_users_data() {
        let body = json!({"user_id": card().user_id, "template_code": "X", "request_id": "r-1", "priority": "high", "push_token": "forged", "campaign": 7});
        let asked = Incoming { body: body.to_string().into_bytes(), ..Incoming::default() };
        let request = super::super::message::parse(&asked).unwrap();
        let message = outgoing(&asked, &request, &card(), &broker(), DateTime::UNIX_EPOCH).unwrap();
        let sent: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(
            sent,
            json!({
                "notification_type": "push", "notification_id": "r-1", "request_id": "r-1", "user_id": card().user_id, "template_code": "X",
                "priority": 9, "campaign": 7, "variables": {"name": "Ada Lovelace"}, "push_token": "token-1", "push_tokens": ["token-1"],
                "user_data": {"user_id": card().user_id, "name": "Ada Lovelace", "email": "ada@example.com", "push_token": "token-1",
                    "preferences": {"email": true, "push": true}, "email_verified": true}
            })
        );
        assert_eq!(
            (message.message_id.as_str(), message.priority, message.kind.as_deref(), message.mandatory),
            ("r-1", Some(9), Some("push.deliver.v1"), true)
        );
    }

    #[test]
    fn a_name_that_was_given_stays_and_a_body_that_grew_too_large_dies() {
        let request = |variables: Value| PushRequest {
            notification_id: "r".into(),
            user_id: card().user_id,
            expires_at: None,
            priority: None,
            fields: Map::from_iter([("variables".to_owned(), variables)]),
        };
        let sent = outgoing(&Incoming::default(), &request(json!({"name": "Countess"})), &card(), &broker(), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap()["variables"]["name"], "Countess");
        let sent = outgoing(&Incoming::default(), &request(json!({"name": null})), &card(), &broker(), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap()["variables"]["name"], "Ada Lovelace");
        let large = outgoing(
            &Incoming::default(),
            &request(json!({"text": "x".repeat(MAX_BODY_BYTES - 100)})),
            &card(),
            &broker(),
            DateTime::UNIX_EPOCH,
        );
        assert_eq!(large.unwrap_err().reason, DeadReason::TooLarge);
    }
}
