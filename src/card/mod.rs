//! The one cached card of a user: profile, preferences, push token and flags under one key, in one shape.
//!
//! It is read across tables and cached with the user's version. A reader that must not be wrong compares the version with
//! the database's ([`read_current`]); the others trust the cache, which every change of a user empties twice: at
//! once after its commit, and by an outbox row of that commit.

pub mod email_address;
pub mod list;
mod store;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::app::App;
use crate::error::{Code, Error, Result};
use crate::infra::cache::{Cache, CacheEntry, CacheValue};
use crate::infra::db::Tx;
use crate::infra::events::{Event, EventType};
use crate::infra::mailer::Recipient;

const TTL_SECONDS: u64 = 3600;

/// What is known of a user, except secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    pub user_id: Uuid,
    pub version: i64,
    pub session_epoch: i32,
    pub name: String,
    pub email: String,
    pub email_verified: bool,
    pub push_token: Option<String>,
    pub preferences: Preferences,
    pub is_active: bool,
    pub is_staff: bool,
    pub locale: Option<String>,
    pub time_zone: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Card {
    /// The stored address, for a mail.
    pub fn recipient(&self) -> Recipient {
        Recipient { user_id: self.user_id, name: self.name.clone(), address: self.email.clone() }
    }
}

/// Which channels a user wants to hear on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preferences {
    pub email: bool,
    pub push: bool,
}

/// The card that was read along with something else, or [`find_cached`].
pub async fn known_or_cached(app: &App, known: Option<Card>, user_id: Uuid) -> Result<Card> {
    let card = match known.filter(|card| card.user_id == user_id) {
        Some(card) => {
            count_reads("cache", 1);
            Some(card)
        }
        None => find_cached(app, user_id).await?,
    };
    card.ok_or_else(|| Code::UserNotFound.into())
}

/// A user's card, from the cache if it is there; without Redis from PostgreSQL, without both unavailable.
///
/// Of many at once who miss the same card one reads it; the others wait for that and look again.
pub async fn find_cached(app: &App, user_id: Uuid) -> Result<Option<Card>> {
    if let Some(card) = read_one_cached(app, user_id).await {
        return Ok(Some(card));
    }
    let passage = app.card_gates.pass(user_id).await?;
    if passage.has_waited
        && let Some(card) = read_one_cached(app, user_id).await
    {
        return Ok(Some(card));
    }
    count_reads("database", 1);
    let found = app.db.read(move |conn| async move { Ok(store::list_cards(conn, &[user_id]).await?) }.boxed()).await?;
    keep(&app.cache, &found).await;
    Ok(found.into_iter().next())
}

/// Cards that are as new as the database is now; unknown users are missing in the answer.
///
/// One query for the versions, one read of the cache, one query for what it lacks.
pub async fn read_current(conn: &mut AsyncPgConnection, cache: &Cache, user_ids: &[Uuid]) -> Result<HashMap<Uuid, Card>> {
    let versions: HashMap<Uuid, i64> = store::list_versions(conn, user_ids).await?.into_iter().collect();
    let known: Vec<Uuid> = versions.keys().copied().collect();
    let mut cards = read_cached(cache, &known).await;
    cards.retain(|user_id, card| versions.get(user_id) == Some(&card.version));
    let missing: Vec<Uuid> = known.into_iter().filter(|user_id| !cards.contains_key(user_id)).collect();
    count_reads("cache", cards.len());
    count_reads("database", missing.len());
    if !missing.is_empty() {
        let loaded = store::list_cards(conn, &missing).await?;
        keep(cache, &loaded).await;
        cards.extend(loaded.into_iter().map(|card| (card.user_id, card)));
    }
    Ok(cards)
}

async fn read_one_cached(app: &App, user_id: Uuid) -> Option<Card> {
    let card = read_cached(&app.cache, &[user_id]).await.remove(&user_id)?;
    count_reads("cache", 1);
    Some(card)
}

fn count_reads(from: &'static str, count: usize) {
    metrics::counter!("card_reads_total", "from" => from).increment(count as u64);
}

async fn read_cached(cache: &Cache, user_ids: &[Uuid]) -> HashMap<Uuid, Card> {
    let keys: Vec<String> = user_ids.iter().map(|user_id| key(*user_id)).collect();
    let found = cache.get_many(&keys).await.unwrap_or_default();
    found.into_iter().zip(user_ids).filter_map(|(value, user_id)| Some((*user_id, read_value(value?, *user_id)?))).collect()
}

/// A card as the cache has it under [`key`], if it is this user's.
pub fn read_value((version, payload): (i64, String), user_id: Uuid) -> Option<Card> {
    let card: Card = serde_json::from_str(&payload).ok()?;
    (card.user_id == user_id && card.version == version).then_some(card)
}

async fn keep(cache: &Cache, cards: &[Card]) {
    let values = cards.iter().filter_map(|card| {
        // Up to a tenth less than an hour, so that what was filled together does not expire together.
        let spread = u64::from(card.user_id.as_bytes()[15]) * (TTL_SECONDS / 10) / 255;
        let payload = serde_json::to_string(card).ok()?;
        Some(CacheValue { key: key(card.user_id), version: card.version, payload, ttl: Duration::from_secs(TTL_SECONDS - spread) })
    });
    // A card that is not kept is read again.
    let _ = cache.put_many(&values.collect::<Vec<_>>()).await;
}

/// Raises the user's version in the caller's transaction and has the cached card forgotten after it.
///
/// Every operation that changes what a card shows ends with this; it returns the card as it now is.
pub async fn changed(tx: &mut Tx, user_id: Uuid, now: DateTime<Utc>) -> Result<Card> {
    let version = store::update_version(tx, user_id, now).await?;
    // Every version up to the one before is old; the new one may be cached at once.
    tx.forget(CacheEntry { key: key(user_id), version: version - 1 }, now).await?;
    find(tx, user_id).await?.ok_or_else(|| Error::internal("a user vanished inside a transaction"))
}

/// The announcement that these fields of a user are others now.
pub fn updated(card: &Card, fields: &[&str]) -> Event {
    Event::new(EventType::UserUpdated, card.user_id, card.version).with("changed", fields.to_vec())
}

/// Locks the user's row, which comes before all rows of his; `false`: there is no such user.
pub async fn lock(conn: &mut AsyncPgConnection, user_id: Uuid) -> Result<bool> {
    Ok(store::lock(conn, user_id).await?)
}

/// Keeps the user's sessions from being ended until the caller's transaction ends; `false`: they were, since the card was read.
pub async fn hold_sessions(conn: &mut AsyncPgConnection, card: &Card) -> Result<bool> {
    Ok(store::lock_epoch(conn, card.user_id).await? == Some((card.session_epoch, true)))
}

/// The card as the caller's transaction sees it.
pub async fn find(conn: &mut AsyncPgConnection, user_id: Uuid) -> Result<Option<Card>> {
    Ok(store::list_cards(conn, &[user_id]).await?.pop())
}

/// Who has this address, given as its case-folded key.
pub async fn find_id_by_email_key(conn: &mut AsyncPgConnection, email_key: &str) -> Result<Option<Uuid>> {
    Ok(store::find_id_by_email_key(conn, email_key).await?)
}

/// Where the cache has it.
pub fn key(user_id: Uuid) -> String {
    format!("user:{user_id}")
}
