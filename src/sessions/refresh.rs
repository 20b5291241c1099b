//! Refreshing: rotation by compare-and-set on the counter, a short grace for a lost answer, and reuse detection, which
//! ends the whole family before its refusal is answered.

use chrono::TimeDelta;
use uuid::Uuid;

use super::refresh_token::RefreshToken;
use super::{Lifetime, ending, store};
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;

const REUSED: &str = "refresh_token_reused";

/// What became of a refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The family goes on with this token.
    Rotated { token: RefreshToken, user_id: Uuid },
    /// An older token came back: the family has ended.
    Reused { user_id: Uuid },
    /// The family had ended before, or never was.
    Ended,
}

/// Rotates a token in the caller's transaction. The transaction is to be committed in every case: a reuse ends the
/// family in it.
pub async fn refresh(tx: &mut Tx, token: RefreshToken, lifetime: Lifetime, grace: TimeDelta, cause: &Cause) -> Result<Refreshed> {
    let now = cause.at;
    let idle = TimeDelta::from_std(lifetime.idle).map_err(Error::internal)?;
    let absolute = TimeDelta::from_std(lifetime.absolute).map_err(Error::internal)?;
    // The user first, as everywhere: a change of password holds him and waits for his sessions.
    let Some(user_id) = store::hold_user(tx, token.session_id).await? else { return Ok(Refreshed::Ended) };
    if store::update_rotated(tx, token.session_id, token.counter, now, now + idle, absolute).await? {
        return Ok(Refreshed::Rotated { token: RefreshToken { counter: token.counter + 1, ..token }, user_id });
    }
    // Locked, so that of a replay and a rotation at once one sees the other's outcome.
    let Some(session) = store::lock_live_session(tx, token.session_id, now).await? else { return Ok(Refreshed::Ended) };
    let parent = session.counter == token.counter + 1;
    if parent && session.rotated_at.is_some_and(|at| now < at + grace) {
        // The answer that carried the successor was lost, or two tabs refreshed at once: the same successor again.
        return Ok(Refreshed::Rotated { token: RefreshToken { counter: session.counter, ..token }, user_id });
    }
    if token.counter >= session.counter {
        // Genuine, yet newer than the row: the database was restored from a backup. Nobody is blamed for that.
        return Ok(Refreshed::Ended);
    }
    store::update_ended_one(tx, token.session_id, user_id, REUSED, now).await?;
    ending::announce(tx, user_id, &[token.session_id], REUSED, cause).await?;
    audit::record(tx, cause, Action::RefreshTokenReused, user_id).await?;
    Ok(Refreshed::Reused { user_id })
}

impl Refreshed {
    /// The token that goes on, or the refusal, to be asked after the commit.
    pub fn into_token(self) -> Result<(RefreshToken, Uuid)> {
        match self {
            Refreshed::Rotated { token, user_id } => Ok((token, user_id)),
            Refreshed::Reused { user_id } => {
                metrics::counter!("refresh_token_reuse_total").increment(1);
                tracing::warn!(%user_id, "a refresh token was used again; its session has ended");
                Err(Error::new(Code::RefreshTokenReused, "This refresh token was used before; the session has ended, please sign in."))
            }
            Refreshed::Ended => Err(refused()),
        }
    }
}

/// What is no live refresh token of ours.
pub fn refused() -> Error {
    Error::new(Code::InvalidRefreshToken, "The refresh token is not valid; please sign in.")
}
