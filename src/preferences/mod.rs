//! Which channels a user wants to hear on; read from the card, written to the table.
//!
//! The table is per category, of which there is one today: `''`.

pub mod http;
mod store;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::card::{self, Card, Preferences};
use crate::error::Result;
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

/// Applies the change; binding for every decision from the commit on.
pub async fn change(tx: &mut Tx, user_id: Uuid, change: PreferencesChange, cause: &Cause) -> Result<Card> {
    let channels = [("email", change.email), ("push", change.push)];
    let changes: Vec<_> = channels.into_iter().filter_map(|(channel, enabled)| Some((channel, enabled?))).collect();
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
