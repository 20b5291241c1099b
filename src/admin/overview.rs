//! What the pages show: an account from every side, and how messages fare.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::overview_store as store;
pub use super::overview_store::{Account, Decided, Outcomes};
use crate::card::{self, Card};
use crate::error::{Code, Result};
use crate::infra::audit;
use crate::infra::db::Connection;
use crate::infra::key_sighting::{self, Configured, Sighting};
use crate::infra::keys::ServerKeys;
use crate::infra::mailer;
use crate::infra::one_time_token;
use crate::infra::outbox::{self, Lane};
use crate::push::dead_letters::{self, DeadLetter, Filter};
use crate::sessions;

/// Rows of each list on a page.
const ROWS: i64 = 50;

/// How far idempotency keys are counted.
pub const MOST_KEYS: i64 = 10_000;

/// An account from every side.
pub struct Whole {
    pub card: Card,
    pub account: Account,
    pub sessions: Vec<sessions::Summary>,
    pub audit: Vec<audit::Entry>,
    pub decisions: Vec<Decided>,
    pub mails: Vec<Mail>,
}

/// A mail, without its link.
pub struct Mail {
    pub template: String,
    pub address: String,
    pub created_at: DateTime<Utc>,
    pub state: &'static str,
    pub attempts: i32,
    pub last_error: String,
}

impl From<outbox::Mail> for Mail {
    fn from(mail: outbox::Mail) -> Self {
        let message: Value = serde_json::from_slice(&mail.payload).unwrap_or_default();
        let text = |path: &str| message.pointer(path).and_then(Value::as_str).unwrap_or("?").to_owned();
        let state = match (mail.done_at, mail.failed_at) {
            (Some(_), _) => "sent",
            (None, Some(_)) => "given up",
            (None, None) => "waiting",
        };
        Self {
            template: text("/template_code"),
            address: text("/variables/email"),
            created_at: mail.created_at,
            state,
            attempts: mail.attempts,
            last_error: mail.last_error.unwrap_or_default(),
        }
    }
}

pub async fn find_whole(conn: &mut Connection, user_id: Uuid, email_key: &str, now: DateTime<Utc>) -> Result<Whole> {
    let card = card::find(conn, user_id).await?.ok_or(Code::UserNotFound)?;
    let account = store::find_account(conn, user_id).await?.ok_or(Code::UserNotFound)?;
    Ok(Whole {
        card,
        account,
        sessions: sessions::list(conn, user_id, now).await?,
        audit: audit::list_about(conn, user_id, ROWS).await?,
        decisions: store::list_decided(conn, user_id, ROWS).await?,
        mails: list_mails(conn, Some(user_id), email_key).await?,
    })
}

/// The newest mails, to one user or to all.
pub async fn list_mails(conn: &mut Connection, user_id: Option<Uuid>, email_key: &str) -> Result<Vec<Mail>> {
    Ok(outbox::list_mails(conn, user_id, email_key, ROWS).await?.into_iter().map(Mail::from).collect())
}

/// The same with the links that are in them, as long as they work: for development, where mails go into the log only.
pub async fn list_mails_with_links(
    conn: &mut Connection,
    keys: &ServerKeys,
    email_key: &str,
    now: DateTime<Utc>,
) -> Result<Vec<(Mail, Option<String>)>> {
    let mails = outbox::list_mails(conn, None, email_key, ROWS).await?;
    let ids: Vec<Uuid> = mails.iter().filter_map(|mail| mail.one_time_token_id).collect();
    let tokens = one_time_token::list(conn, &ids).await?;
    let link = |mail: &outbox::Mail| {
        let token = tokens.iter().find(|token| Some(token.id) == mail.one_time_token_id && token.is_live(now))?;
        mailer::link(&mail.payload, &token.seal(keys))
    };
    Ok(mails.into_iter().map(|mail| (link(&mail), mail)).map(|(link, mail)| (mail.into(), link)).collect())
}

/// How messages fare.
pub struct Messages {
    /// Each hour of the last day.
    pub outcomes: Vec<Outcomes>,
    pub outcomes_are_estimates: bool,
    pub lanes: Vec<LaneDepth>,
    pub failed: i64,
    pub stuck: Vec<outbox::Stuck>,
    pub dead: Vec<DeadLetter>,
    pub idempotency_keys: i64,
    pub keys: Vec<Sighting>,
}

/// What waits in a lane of the outbox.
pub struct LaneDepth {
    pub lane: &'static str,
    pub waiting: i64,
    pub oldest: Option<DateTime<Utc>>,
}

pub async fn read_messages(conn: &mut Connection, filter: &Filter, keys: &[Configured], now: DateTime<Utc>) -> Result<Messages> {
    let mut lanes = Vec::new();
    for lane in [Lane::Amqp, Lane::Smtp, Lane::Cache] {
        let (waiting, oldest) = outbox::count_waiting(conn, lane).await?;
        lanes.push(LaneDepth { lane: lane.as_str(), waiting, oldest });
    }
    let (outcomes, outcomes_are_estimates) = store::list_outcomes(conn, now).await?;
    Ok(Messages {
        outcomes,
        outcomes_are_estimates,
        lanes,
        failed: outbox::count_failed(conn).await?,
        stuck: outbox::list_stuck(conn, ROWS).await?,
        dead: dead_letters::list_dead(conn, filter, ROWS).await?,
        idempotency_keys: store::count_idempotency_keys(conn, MOST_KEYS).await?,
        keys: key_sighting::list_configured(conn, keys, now).await?,
    })
}

/// A body whose shape is seen and whose words are not: what a message says to a user is nobody else's.
pub fn masked(body: &[u8]) -> String {
    /// Names of things, which tell nothing that was said.
    const SHOWN: [&str; 6] = ["user_id", "notification_id", "message_id", "notification_type", "priority", "created_at"];
    fn mask(value: &mut Value) {
        match value {
            Value::String(text) => *text = format!("({} characters)", text.chars().count()),
            Value::Array(items) => items.iter_mut().for_each(mask),
            Value::Object(fields) => {
                fields.iter_mut().filter(|(name, _)| !SHOWN.contains(&name.as_str())).for_each(|(_, value)| mask(value))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(mut value) => {
            mask(&mut value);
            format!("{value:#}")
        }
        Err(_) => format!("{} bytes, which are no JSON", body.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_body_keeps_its_shape_and_none_of_its_words() {
        let body = br#"{"user_id":"u-1","title":"Your balance","data":{"amount":"12.50","urgent":true,"parts":["a","bc"]}}"#;
        let masked = masked(body);
        assert!(
            masked.contains("u-1") && masked.contains("\"title\": \"(12 characters)\"") && masked.contains("\"urgent\": true"),
            "{masked}"
        );
        for said in ["balance", "12.50", "bc"] {
            assert!(!masked.contains(said), "{masked}");
        }
        assert_eq!(super::masked(b"\xff\xfe"), "2 bytes, which are no JSON");
    }
}
