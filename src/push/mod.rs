//! Push requests: who asked for what, the decision, and what is handed on.
//!
//! A batch is decided against cards that are as new as the database ([`card::read_current`]), so an opt-out
//! binds from its commit on, whatever Redis does. Deciding twice is safe: the answer depends on its inputs only.

pub mod amqp;
pub mod dead_letters;
pub mod decision;
mod delivery;
pub mod http;
mod inbox;
pub mod message;
mod retries;
mod store;
mod submit;
mod suspects;
mod verdict;

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::card::{self, Card};
use crate::error::Result;
use crate::infra::cache::Cache;
use decision::Decision;

/// A request to push something to a user, whichever door it came through.
#[derive(Clone, Debug, PartialEq)]
pub struct PushRequest {
    /// Given by the producer, or made up where it gave none.
    pub notification_id: String,
    pub user_id: Uuid,
    /// After this it is not delivered any more.
    pub expires_at: Option<DateTime<Utc>>,
    /// 0 to 10.
    pub priority: Option<u8>,
    /// The producer's fields, under the contract's names, without those that we vouch for.
    pub fields: Map<String, Value>,
}

/// What is to be done about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Decided(Decision, Box<Card>),
    UnknownUser,
}

/// Decides a batch; one outcome for each request, in order.
pub async fn process(conn: &mut AsyncPgConnection, cache: &Cache, requests: &[&PushRequest], now: DateTime<Utc>) -> Result<Vec<Outcome>> {
    let mut user_ids: Vec<Uuid> = requests.iter().map(|request| request.user_id).collect();
    user_ids.sort_unstable();
    user_ids.dedup();
    let cards: HashMap<Uuid, Card> = card::read_current(conn, cache, &user_ids).await?;
    let outcomes = requests.iter().map(|request| match cards.get(&request.user_id) {
        None => Outcome::UnknownUser,
        Some(card) => Outcome::Decided(decision::decide(card, request.expires_at, now), Box::new(card.clone())),
    });
    Ok(outcomes.collect())
}

/// Deletes what was settled longer ago than `retention`, and dead letters after 30 days, at most `limit` of each.
pub async fn delete_old(conn: &mut AsyncPgConnection, retention: TimeDelta, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    Ok(store::delete_old(conn, retention, now, limit).await?)
}

#[cfg(test)]
mod tests {
    use crate::card::{Card, Preferences};

    /// A user to whom everything may be delivered.
    pub fn card() -> Card {
        Card {
            user_id: uuid::Uuid::from_u128(7),
            version: 3,
            session_epoch: 0,
            name: "Ada Lovelace".into(),
            email: "ada@example.com".into(),
            email_verified: true,
            push_token: Some("token-1".into()),
            preferences: Preferences { email: true, push: true },
            is_active: true,
            is_staff: false,
            locale: None,
            time_zone: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        }
    }
}
