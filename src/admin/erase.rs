//! Erasing a person for good (GDPR, article 17). The row and its id stay, so that the audit trail keeps a pseudonym.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::store;
use crate::access;
use crate::error::Result;
use crate::http::idempotency;
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};

/// Erases the user, and tells siblings by the event `user.erased` to do the same; `false`: erased before. The address is
/// free again.
pub async fn erase(tx: &mut Tx, user_id: Uuid, now: DateTime<Utc>) -> Result<bool> {
    if store::lock_unerased(tx, user_id).await?.is_none() {
        return Ok(false);
    }
    let cause = Cause::without_request(Actor::Operator, now);
    access::staff::keep_an_admin(tx, user_id).await?;
    // First the messages, then what follows: the news of the end stays.
    store::delete_messages(tx, user_id).await?;
    store::update_erased(tx, user_id, now).await?;
    let card = access::end_sessions(tx, user_id, "erased", &cause).await?;
    store::delete_belongings(tx, user_id).await?;
    idempotency::erase(tx, user_id).await?;
    audit::update_pseudonymised(tx, user_id).await?;
    audit::record(tx, &cause, Action::Erased, user_id).await?;
    events::announce(tx, &cause, [Event::new(EventType::UserErased, user_id, card.version)]).await?;
    Ok(true)
}
