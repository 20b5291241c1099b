//! Which channels a user wants to hear on; read from the card, written to the table.
//!
//! The table is per category, of which there is one today: `''`.

pub mod http;
mod store;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::card::{self, Card, Preferences};
use crate::error::{Code, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};

/// What to change; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreferencesChange {
    pub email: Option<bool>,
    pub push: Option<bool>,
}

/// Applies the change; binding for every decision from the commit on. What is so already is no change, and nobody hears of it.
pub async fn change(tx: &mut Tx, user_id: Uuid, change: PreferencesChange, cause: &Cause) -> Result<Card> {
    card::lock(tx, user_id).await?;
    let before = card::find(tx, user_id).await?.ok_or(Code::UserNotFound)?;
    let channels = [("email", change.email, before.preferences.email), ("push", change.push, before.preferences.push)];
    let differing = channels.into_iter().filter_map(|(channel, enabled, before)| Some((channel, enabled.filter(|new| *new != before)?)));
    let changes: Vec<_> = differing.collect();
    if changes.is_empty() {
        return Ok(before);
    }
    store::upsert(tx, user_id, &changes, cause.at).await?;
    let card = card::changed(tx, user_id, cause.at).await?;
    audit::record(tx, cause, Action::PreferencesChanged, user_id).await?;
    let Preferences { email, push } = card.preferences;
    let event = Event::new(EventType::PreferencesChanged, user_id, card.version).with("email", email).with("push", push);
    events::announce(tx, cause, [event]).await?;
    Ok(card)
}

/// The first preferences of a new account, in the caller's transaction.
pub async fn store_all(tx: &mut Tx, user_id: Uuid, preferences: Preferences, now: DateTime<Utc>) -> Result<()> {
    store::upsert(tx, user_id, &[("email", preferences.email), ("push", preferences.push)], now).await?;
    Ok(())
}
