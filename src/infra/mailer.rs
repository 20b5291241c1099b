//! Mails: a row of the outbox, in the transaction of what they tell about. The relay hands them to the email service, or
//! sends them itself (`smtp`).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::cause::Cause;
use super::one_time_token::{self, Purpose};
use super::outbox::{self, Lane, NewMessage};
use crate::config::{self, MailTransport};
use crate::error::{Error, Result};

/// Where the relay writes the token. Only the link is looked at, so that a name like this stays a name.
const TOKEN_PLACE: &str = "{token}";

/// What a mail says; the email service has a template for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    EmailVerification,
    PasswordReset,
    PasswordChanged,
    /// To the new address: the link makes the change.
    EmailChange,
    /// To the old address: somebody who knows the password asked for it.
    EmailChangeRequested,
    /// To the old address: it was made.
    EmailChanged,
    /// To the owner of an address that somebody tried to register again (`REGISTRATION_PRIVACY=strict`).
    RegistrationAttempted,
    /// A hundred wrong passwords in a row.
    SignInFailures,
    /// Ten wrong codes in a day, after a right password.
    SecondFactorFailures,
}

impl Template {
    pub fn code(self) -> &'static str {
        match self {
            Template::EmailVerification => "email_verification",
            Template::PasswordReset => "password_reset",
            Template::PasswordChanged => "password_changed",
            Template::EmailChange => "email_change",
            Template::EmailChangeRequested => "email_change_requested",
            Template::EmailChanged => "email_changed",
            Template::RegistrationAttempted => "registration_attempted",
            Template::SignInFailures => "sign_in_failures",
            Template::SecondFactorFailures => "second_factor_failures",
        }
    }
}

/// Who gets a mail: a stored address, or the new one that is to be confirmed.
#[derive(Clone, Debug)]
pub struct Recipient {
    pub user_id: Uuid,
    pub name: String,
    pub address: String,
}

/// The message as the email service reads it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    pub notification_id: Uuid,
    notification_type: String,
    user_id: Uuid,
    pub template_code: String,
    pub variables: Variables,
    request_id: Uuid,
    priority: u8,
    created_at: DateTime<Utc>,
    metadata: Map<String, Value>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Variables {
    pub name: String,
    pub email: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    pub app_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_minutes: Option<i64>,
}

/// `normal`, as push requests spell it.
const PRIORITY: u8 = 5;

/// Queues a notice in the caller's transaction.
pub async fn notify(
    tx: &mut super::db::Connection,
    template: Template,
    to: Recipient,
    config: &config::Config,
    cause: &Cause,
) -> Result<()> {
    insert(tx, template, to, None, config, cause).await
}

/// Makes a one-time token for the recipient's address, and queues the mail with its link, in the caller's transaction.
pub async fn send_link(
    tx: &mut super::db::Connection,
    template: Template,
    purpose: Purpose,
    to: Recipient,
    config: &config::Config,
    cause: &Cause,
) -> Result<()> {
    let id = one_time_token::insert(tx, purpose, to.user_id, &to.address, cause.at).await?;
    insert(tx, template, to, Some((purpose, id)), config, cause).await
}

async fn insert(
    tx: &mut super::db::Connection,
    template: Template,
    to: Recipient,
    token: Option<(Purpose, Uuid)>,
    config: &config::Config,
    cause: &Cause,
) -> Result<()> {
    let id = Uuid::now_v7();
    // Never from a request's Host: whoever sends it would choose where the victim's token goes.
    let link = token.map(|(purpose, _)| format!("{}{}?token={TOKEN_PLACE}", config.mail.public_base_url, page(purpose)));
    let message = Message {
        notification_id: id,
        notification_type: "email".to_owned(),
        user_id: to.user_id,
        template_code: template.code().to_owned(),
        variables: Variables {
            name: to.name,
            email: to.address,
            link,
            app_name: config.app_name.clone(),
            expires_in_minutes: token.map(|(purpose, _)| purpose.lifetime().num_minutes()),
        },
        request_id: id,
        priority: PRIORITY,
        created_at: cause.at,
        metadata: Map::new(),
    };
    let row = NewMessage {
        user_id: Some(to.user_id),
        exchange: Some(config.broker.exchange.clone()),
        routing_key: config.broker.email_key.clone(),
        message_type: None,
        priority: None,
        message_id: id.to_string(),
        correlation_id: cause.correlation_id.clone(),
        headers: cause.trace.headers(),
        payload: serde_json::to_vec(&message).map_err(Error::internal)?,
        one_time_token_id: token.map(|(_, id)| id),
    };
    let lane = if matches!(config.mail.transport, MailTransport::Queue) { Lane::Amqp } else { Lane::Smtp };
    Ok(outbox::insert_messages(tx, lane, &[row], cause.at).await?)
}

/// The hosted page behind a link.
fn page(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::PasswordReset => "/reset-password",
        Purpose::EmailVerification | Purpose::EmailChange => "/verify-email",
        Purpose::TotpEnrolment => "/admin/enrol",
    }
}

/// The message with the token in its link.
pub fn complete(payload: &[u8], token: &str) -> Result<Vec<u8>> {
    let mut message: Message = serde_json::from_slice(payload).map_err(Error::internal)?;
    message.variables.link = message.variables.link.map(|link| link.replace(TOKEN_PLACE, token));
    serde_json::to_vec(&message).map_err(Error::internal)
}

/// The link alone; none in a notice.
pub fn link(payload: &[u8], token: &str) -> Option<String> {
    let message: Message = serde_json::from_slice(payload).ok()?;
    message.variables.link.map(|link| link.replace(TOKEN_PLACE, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_into_the_link_and_nowhere_else() {
        let message = serde_json::json!({
            "notification_id": Uuid::nil(), "notification_type": "email", "user_id": Uuid::nil(), "template_code": "password_reset",
            "variables": {"name": "{token}", "email": "a@b.c", "link": "https://x/reset-password?token={token}", "app_name": "{token}"},
            "request_id": Uuid::nil(), "priority": 5, "created_at": "2026-01-01T00:00:00Z", "metadata": {},
        });
        let completed = complete(message.to_string().as_bytes(), "SECRET").unwrap();
        let completed: Value = serde_json::from_slice(&completed).unwrap();
        assert_eq!(completed["variables"]["link"], "https://x/reset-password?token=SECRET");
        assert_eq!((&completed["variables"]["name"], &completed["variables"]["app_name"]), (&"{token}".into(), &"{token}".into()));
    }
}
