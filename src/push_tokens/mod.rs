//! Push tokens: each belongs to one account, and an account has one.
//!
//! Storing a token that another account holds moves it: the phone has a new owner, and the old one must not be read on it.

pub mod http;
mod store;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use serde_json::Map;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::card;
use crate::error::{Code, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events;

/// A valid token: 1 to 4096 printable ASCII characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushToken(String);

impl PushToken {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > 4096 || !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err("must be 1 to 4096 printable ASCII characters");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

/// Who is to be locked, in this order, before a token is stored: the token first, then the accounts.
///
/// Accounts that take tokens from one another at once would otherwise wait for each other.
pub async fn lock(tx: &mut Tx, user_id: Uuid, token: &PushToken) -> Result<Vec<Uuid>> {
    store::lock_token(tx, &token.sha256()).await?;
    let mut users: Vec<Uuid> = store::find_live_owner(tx, &token.sha256()).await?.into_iter().chain([user_id]).collect();
    users.sort_unstable();
    users.dedup();
    Ok(users)
}

/// Makes this the account's token, after [`lock`]. The caller announces the change of this account's card; the former
/// owner's is announced here.
pub async fn set(tx: &mut Tx, user_id: Uuid, token: &PushToken, cause: &Cause) -> Result<()> {
    let sha256 = token.sha256();
    match store::find_live_owner(tx, &sha256).await? {
        Some(owner) if owner == user_id => {
            store::update_seen(tx, &sha256, cause.at).await?;
            return Ok(());
        }
        // Only this token: the owner may have another by now.
        Some(owner) if store::update_retired_token(tx, owner, &sha256, "moved", cause.at).await? == 1 => {
            audit::record(tx, cause, Action::PushTokenMoved, owner).await?;
            let card = card::changed(tx, owner, cause.at).await?;
            events::announce(tx, cause, [card::updated(&card, &["push_token"])]).await?;
        }
        _ => {}
    }
    store::update_retired(tx, user_id, "replaced", cause.at).await?;
    store::insert_token(tx, user_id, token.as_str(), &sha256, cause.at).await?;
    Ok(audit::record(tx, cause, Action::PushTokenSet, user_id).await?)
}

/// Retires the account's token, if it has one. The caller announces the change of the card.
pub async fn clear(tx: &mut Tx, user_id: Uuid, reason: &str, cause: &Cause) -> Result<()> {
    if store::update_retired(tx, user_id, reason, cause.at).await? > 0 {
        audit::record_with(tx, cause, Action::PushTokenCleared, Some(user_id), reason, Map::new()).await?;
    }
    Ok(())
}

/// Retires this token if it is the account's current one; `false`: it is not. The caller has locked the account, and announces
/// the change of its card.
pub async fn retire(tx: &mut Tx, user_id: Uuid, token: &PushToken, reason: &str, cause: &Cause) -> Result<bool> {
    let retired = store::update_retired_token(tx, user_id, &token.sha256(), reason, cause.at).await? == 1;
    if retired {
        audit::record_with(tx, cause, Action::PushTokenCleared, Some(user_id), reason, Map::new()).await?;
    }
    Ok(retired)
}

/// Retires a token that a push service found dead, if it is still the user's current one; whether it was.
pub async fn report_dead(tx: &mut Tx, user_id: Uuid, token: &PushToken, cause: &Cause) -> Result<bool> {
    if !card::lock(tx, user_id).await? {
        return Err(Code::UserNotFound.into());
    }
    let retired = retire(tx, user_id, token, "reported_dead", cause).await?;
    if retired {
        let card = card::changed(tx, user_id, cause.at).await?;
        events::announce(tx, cause, [card::updated(&card, &["push_token"])]).await?;
    }
    Ok(retired)
}

/// Deletes what was retired longer than 30 days ago, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    Ok(store::delete_retired(conn, now - TimeDelta::days(30), limit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_printable_and_bounded() {
        assert!(PushToken::parse(&"a".repeat(4096)).is_ok());
        for wrong in ["", "a\nb", "é", "a\0", &"a".repeat(4097)] {
            assert!(PushToken::parse(wrong).is_err());
        }
    }
}
