//! Which channels a user wants to hear on; read from the card, written to the table.
//!
//! The table is per category, of which there is one today: `''`.

pub mod http;
mod store;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::card::{self, Card, Preferences};
use crate::error::Result;
use crate::infra::db::Tx;

/// What to change; `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreferencesChange {
    pub email: Option<bool>,
    pub push: Option<bool>,
}

/// Applies the change; binding for every decision from the commit on.
pub async fn change(tx: &mut Tx, user_id: Uuid, change: PreferencesChange, now: DateTime<Utc>) -> Result<Card> {
    let channels = [("email", change.email), ("push", change.push)];
    let changes: Vec<_> = channels.into_iter().filter_map(|(channel, enabled)| Some((channel, enabled?))).collect();
    store::upsert(tx, user_id, &changes, now).await?;
    card::changed(tx, user_id, now).await
}

/// The first preferences of a new account, in the caller's transaction.
pub async fn store_all(tx: &mut Tx, user_id: Uuid, preferences: Preferences, now: DateTime<Utc>) -> Result<()> {
    store::upsert(tx, user_id, &[("email", preferences.email), ("push", preferences.push)], now).await?;
    Ok(())
}
