//! The operators' sessions: who is at the pages, by a cookie, and whether his second factor was seen.
//!
//! They are not the app's sessions: no token opens the pages, and no cookie the API for users.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::staff_store as store;
use crate::app::App;
use crate::card::Card;
use crate::error::{Code, Error, Result};
use crate::infra::advisory_lock;
use crate::infra::cause::Cause;
use crate::infra::db::{Connection, Tx};
use crate::infra::keys::ServerKeys;

/// OWASP ASVS 7.3: half an hour without use, half a day whatever happens.
pub const IDLE: TimeDelta = TimeDelta::minutes(30);
pub const ABSOLUTE: TimeDelta = TimeDelta::hours(12);

/// How long the places of proven sign-ins are kept.
const REMEMBERED: TimeDelta = TimeDelta::days(30);

/// A use is noted once in this time, so that reading pages does not write on each of them.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// What the cookie holds: 256 random bits, of which the database has the hash.
#[derive(Clone, Debug)]
pub struct StaffToken(SecretString);

/// Somebody staff who knew his password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaffSession {
    pub user_id: Uuid,
    pub has_second_factor: bool,
    /// Whether he has one to show at all.
    pub is_enrolled: bool,
}

impl StaffToken {
    pub fn new() -> Result<Self> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| Error::internal(format!("no randomness: {error}")))?;
        Ok(Self(BASE64_URL_SAFE_NO_PAD.encode(secret).into()))
    }

    /// Any text: what is no token has no session.
    pub fn of(text: &str) -> Self {
        Self(text.into())
    }

    pub fn text(&self) -> &str {
        self.0.expose_secret()
    }

    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text().as_bytes()).into()
    }

    /// What the forms of this session carry (OWASP CSRF Cheat Sheet, HMAC-based token).
    pub fn csrf(&self, keys: &ServerKeys) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(keys.derive("admin-csrf", b"").authenticate(&[self.text().as_bytes()]))
    }

    pub fn fits_csrf(&self, keys: &ServerKeys, shown: &str) -> bool {
        let tag = BASE64_URL_SAFE_NO_PAD.decode(shown).unwrap_or_default();
        keys.derive("admin-csrf", b"").verify(&[self.text().as_bytes()], &tag)
    }
}

/// The live session of a token, whose idle time begins anew.
pub async fn find(app: &App, token: &StaffToken, now: DateTime<Utc>) -> Result<Option<StaffSession>> {
    let sha256 = token.sha256();
    let reading = app.db.read(move |conn| {
        async move {
            let Some((user_id, second_factor_at, last_used_at, is_enrolled)) = store::find_live(conn, &sha256, now - IDLE, now).await?
            else {
                return Ok(None);
            };
            if last_used_at < now - NOTED_EVERY {
                store::update_used(conn, &sha256, now).await?;
            }
            Ok(Some(StaffSession { user_id, has_second_factor: second_factor_at.is_some(), is_enrolled }))
        }
        .boxed()
    });
    reading.await
}

/// Opens a session that lacks its second factor, in place of the one that was before.
pub async fn open(tx: &mut Tx, card: &Card, before: &StaffToken, cause: &Cause) -> Result<StaffToken> {
    let token = StaffToken::new()?;
    store::delete_one(tx, &before.sha256()).await?;
    store::insert(tx, &token.sha256(), card.user_id, card.session_epoch, cause, cause.at + ABSOLUTE, None).await?;
    Ok(token)
}

/// Exchanges a session for one that has its second factor; `None`: it is gone. The epoch is that of the password: a change in
/// between leaves this session dead as well.
pub async fn promote(tx: &mut Tx, user_id: Uuid, before: &StaffToken, cause: &Cause) -> Result<Option<StaffToken>> {
    let Some(epoch) = store::delete_one(tx, &before.sha256()).await? else { return Ok(None) };
    let token = StaffToken::new()?;
    store::insert(tx, &token.sha256(), user_id, epoch, cause, cause.at + ABSOLUTE, Some(cause.at)).await?;
    store::upsert_origin(tx, user_id, &cause.ip_bucket(), cause.at).await?;
    Ok(Some(token))
}

/// Whether a sign-in at the pages was proven from there of late.
pub async fn is_known_from(conn: &mut Connection, user_id: Uuid, ip_bucket: &str, since: DateTime<Utc>) -> Result<bool> {
    Ok(store::exists_origin(conn, user_id, ip_bucket, since).await?)
}

/// Ends the session of a token.
pub async fn end(tx: &mut Tx, token: &StaffToken) -> Result<()> {
    store::delete_one(tx, &token.sha256()).await?;
    Ok(())
}

/// Ends every session of somebody at the pages.
pub async fn end_all(tx: &mut Tx, user_id: Uuid) -> Result<()> {
    store::delete_of_user(tx, user_id).await?;
    Ok(())
}

/// Refuses what would leave nobody to run the service: held until the transaction ends, so that two admins cannot demote each
/// other at once.
pub async fn keep_an_admin(tx: &mut Tx, leaving: Uuid) -> Result<()> {
    advisory_lock::lock(tx, "the last admin").await?;
    if store::is_last_admin(tx, leaving).await? {
        return Err(Error::new(Code::LastAdmin, "This is the last active admin: make somebody else staff first."));
    }
    Ok(())
}

/// Deletes sessions that are over, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut Connection, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    store::delete_old_origins(conn, now - REMEMBERED).await?;
    Ok(store::delete_old(conn, now, limit).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forms_token_belongs_to_one_session_and_one_server() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let (one, other) = (StaffToken::new().unwrap(), StaffToken::new().unwrap());
        assert!(one.fits_csrf(&keys, &one.csrf(&keys)));
        assert!(!one.fits_csrf(&keys, &other.csrf(&keys)));
        assert!(!one.fits_csrf(&keys, ""));
        let elsewhere = ServerKeys::new(b"the root secret of another server", None);
        assert!(!one.fits_csrf(&keys, &one.csrf(&elsewhere)));
    }
}
