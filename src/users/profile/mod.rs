//! The profile: what a user may change of it, and how an account ends.

pub mod http;

use serde_json::Map;
use uuid::Uuid;

use super::store;
use crate::access;
use crate::card::{self, Card};
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};
use crate::push_tokens::{self, PushToken};

/// What to change; `None` leaves it as it is.
#[derive(Clone, Debug, Default)]
pub struct ProfileChange {
    pub name: Option<String>,
    /// `Some(None)` clears it.
    pub push_token: Option<Option<PushToken>>,
}

/// Applies the change if `unchanged` accepts the profile as it is; returns the profile afterwards.
pub async fn change_profile(
    tx: &mut Tx,
    user_id: Uuid,
    change: ProfileChange,
    unchanged: impl FnOnce(&Card) -> Result<()>,
    cause: &Cause,
) -> Result<Card> {
    // Locked first, so that two changes at once follow each other and neither is lost.
    if let Some(Some(token)) = &change.push_token {
        let users = push_tokens::lock(tx, user_id, token).await?;
        store::lock_users(tx, &users).await?;
    }
    let before = find_locked(tx, user_id).await?;
    unchanged(&before)?;
    if change.name.is_none() && change.push_token.is_none() {
        return Ok(before);
    }
    if let Some(name) = &change.name {
        store::update_name(tx, user_id, name).await?;
        audit::record(tx, cause, Action::ProfileChanged, user_id).await?;
    }
    match &change.push_token {
        Some(Some(token)) => push_tokens::set(tx, user_id, token, cause).await?,
        Some(None) => push_tokens::clear(tx, user_id, "cleared", cause).await?,
        None => {}
    }
    let card = card::changed(tx, user_id, cause.at).await?;
    let changed = [("name", change.name.is_some()), ("push_token", change.push_token.is_some())];
    let fields: Vec<&str> = changed.iter().filter(|(_, changed)| *changed).map(|(field, _)| *field).collect();
    events::announce(tx, cause, [card::updated(&card, &fields)]).await?;
    Ok(card)
}

/// Ends the account softly: sessions end, the push token is retired, the row stays.
///
/// The address stays taken: who comes back is made active again by an operator, or erased first.
pub async fn deactivate(tx: &mut Tx, user_id: Uuid, reason: Option<&str>, cause: &Cause) -> Result<()> {
    let before = find_locked(tx, user_id).await?;
    if before.is_staff {
        access::staff::keep_an_admin(tx, user_id).await?;
    }
    store::update_deactivated(tx, user_id, cause.at).await?;
    push_tokens::clear(tx, user_id, "deactivated", cause).await?;
    let card = access::end_sessions(tx, user_id, "deactivated", cause).await?;
    match reason {
        Some(reason) => audit::record_with(tx, cause, Action::Deactivated, Some(user_id), reason, Map::new()).await?,
        None => audit::record(tx, cause, Action::Deactivated, user_id).await?,
    }
    events::announce(tx, cause, [Event::new(EventType::UserDeactivated, user_id, card.version)]).await
}

async fn find_locked(tx: &mut Tx, user_id: Uuid) -> Result<Card> {
    if !store::lock_active_user(tx, user_id).await? {
        return Err(Error::new(Code::Unauthenticated, "The account is not active."));
    }
    card::find(tx, user_id).await?.ok_or_else(|| Error::internal("a locked user vanished"))
}
