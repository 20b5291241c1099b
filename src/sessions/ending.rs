//! Ending sessions: this one, another of one's own, or all.

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use super::store;
use crate::access::{self, Session};
use crate::card;
use crate::error::{Code, Error, Result};
use crate::infra::db::Tx;
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
pub async fn sign_out(tx: &mut Tx, session: Session, how: SignOut, now: DateTime<Utc>) -> Result<()> {
    if let Some(token) = &how.push_token
        && push_tokens::retire(tx, session.user_id, token, "signed_out", now).await?
    {
        card::changed(tx, session.user_id, now).await?;
    }
    if how.everywhere {
        return access::end_sessions(tx, session.user_id, "signed_out_everywhere", now).await;
    }
    end_one(tx, session.user_id, session.session_id, "signed_out", now).await.map(drop)
}

/// Ends one session of a user; another's is as unknown as none.
pub async fn revoke(tx: &mut Tx, user_id: Uuid, session_id: Uuid, now: DateTime<Utc>) -> Result<()> {
    if end_one(tx, user_id, session_id, "revoked", now).await? {
        return Ok(());
    }
    Err(Error::new(Code::SessionNotFound, "There is no such session of yours."))
}

/// The live sessions of a user, the one used last first.
pub async fn list(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> Result<Vec<Summary>> {
    Ok(store::list_live(conn, user_id, now).await?)
}

async fn end_one(tx: &mut Tx, user_id: Uuid, session_id: Uuid, reason: &str, now: DateTime<Utc>) -> Result<bool> {
    let ended = store::update_ended_one(tx, session_id, user_id, reason, now).await? == 1;
    if ended {
        access::forget_session(tx, session_id, now).await?;
    }
    Ok(ended)
}
