//! Ending sessions: this one, another of one's own, or all.

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use serde_json::Map;
use uuid::Uuid;

use super::store;
use crate::access::{self, Session};
use crate::card;
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events;
use crate::push_tokens::{self, PushToken};

/// A session as its user sees it.
#[derive(Clone, Debug)]
pub struct Summary {
    pub session_id: Uuid,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// How much ends when a user signs out.
#[derive(Clone, Debug, Default)]
pub struct SignOut {
    pub everywhere: bool,
    /// Silences this phone, if it is the user's.
    pub push_token: Option<PushToken>,
}

/// Ends this session, or all.
pub async fn sign_out(tx: &mut Tx, session: Session, how: SignOut, cause: &Cause) -> Result<()> {
    if let Some(token) = &how.push_token
        && card::lock(tx, session.user_id).await?
        && push_tokens::retire(tx, session.user_id, token, "signed_out", cause).await?
    {
        let card = card::changed(tx, session.user_id, cause.at).await?;
        events::announce(tx, cause, [card::updated(&card, &["push_token"])]).await?;
    }
    if how.everywhere {
        audit::record_with(tx, cause, Action::SignedOut, Some(session.user_id), "everywhere", Map::new()).await?;
        access::end_sessions(tx, session.user_id, "signed_out_everywhere", cause).await?;
    } else if end_one(tx, session.user_id, session.session_id, "signed_out", cause).await? {
        audit::record(tx, cause, Action::SignedOut, session.user_id).await?;
    }
    Ok(())
}

/// Ends one session of a user; another's is as unknown as none.
pub async fn revoke(tx: &mut Tx, user_id: Uuid, session_id: Uuid, cause: &Cause) -> Result<()> {
    if !end_one(tx, user_id, session_id, "revoked", cause).await? {
        return Err(Error::new(Code::SessionNotFound, "There is no such session of yours."));
    }
    Ok(audit::record(tx, cause, Action::SessionRevoked, user_id).await?)
}

/// The live sessions of a user, the one used last first.
pub async fn list(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> Result<Vec<Summary>> {
    Ok(store::list_live(conn, user_id, now).await?)
}

async fn end_one(tx: &mut Tx, user_id: Uuid, session_id: Uuid, reason: &str, cause: &Cause) -> Result<bool> {
    let ended = store::update_ended_one(tx, session_id, user_id, reason, cause.at).await? == 1;
    if ended {
        announce(tx, user_id, &[session_id], reason, cause).await?;
    }
    Ok(ended)
}

/// Tells cache and listeners of sessions that ended in the caller's transaction.
pub(super) async fn announce(tx: &mut Tx, user_id: Uuid, ended: &[Uuid], reason: &str, cause: &Cause) -> Result<()> {
    if ended.is_empty() {
        return Ok(());
    }
    for session_id in ended {
        access::forget_session(tx, *session_id, cause.at).await?;
    }
    let card = card::find(tx, user_id).await?.ok_or_else(|| Error::internal("a user vanished inside a transaction"))?;
    events::announce(tx, cause, ended.iter().map(|session_id| access::revoked(&card, *session_id, reason))).await
}
