//! Mails: a row of the outbox for the email service, in the transaction of what they tell about.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::outbox::{self, NewMessage};
use crate::config;
use crate::error::{Error, Result};

/// A mail to a stored address, never to one that a request names.
#[derive(Clone, Debug)]
pub struct Mail {
    pub template_code: &'static str,
    pub user_id: Uuid,
    pub name: String,
    pub address: String,
    pub correlation_id: String,
}

/// The message as the email service reads it.
#[derive(Serialize)]
struct Message<'a> {
    notification_id: Uuid,
    notification_type: &'static str,
    user_id: Uuid,
    template_code: &'a str,
    variables: Variables<'a>,
    request_id: Uuid,
    priority: u8,
    created_at: DateTime<Utc>,
    metadata: Map<String, Value>,
}

#[derive(Serialize)]
struct Variables<'a> {
    name: &'a str,
    email: &'a str,
    app_name: &'a str,
}

/// `normal`, as push requests spell it.
const PRIORITY: u8 = 5;

/// Queues a mail in the caller's transaction.
pub async fn queue(tx: &mut super::db::Connection, mail: &Mail, config: &config::Config, now: DateTime<Utc>) -> Result<()> {
    let id = Uuid::now_v7();
    let message = Message {
        notification_id: id,
        notification_type: "email",
        user_id: mail.user_id,
        template_code: mail.template_code,
        variables: Variables { name: &mail.name, email: &mail.address, app_name: &config.app_name },
        request_id: id,
        priority: PRIORITY,
        created_at: now,
        metadata: Map::new(),
    };
    let message = NewMessage {
        user_id: Some(mail.user_id),
        exchange: config.broker.exchange.clone(),
        routing_key: config.broker.email_key.clone(),
        message_id: id.to_string(),
        correlation_id: mail.correlation_id.clone(),
        headers: Map::new(),
        payload: serde_json::to_vec(&message).map_err(Error::internal)?,
    };
    Ok(outbox::insert_messages(tx, &[message], now).await?)
}
