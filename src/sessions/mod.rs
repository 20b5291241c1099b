//! Sessions: signing in and out, and the pair of tokens that a session is held by.
//!
//! A session is a family of refresh tokens: each use makes the next one, and an old one that comes back ends them all.

mod ending;
pub mod http;
mod refresh;
pub mod refresh_token;
mod sign_in;
mod store;

pub use ending::{SignOut, Summary, list, revoke, sign_out};
pub use refresh::{Refreshed, refresh};
pub use sign_in::{Verified, settle, sign_in, verify};

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::app::App;
use crate::config::Identity;
use crate::error::{Error, Result};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::throttle;
use refresh_token::RefreshToken;

/// Beyond this the session that was used longest ago ends.
const MAX_PER_USER: i64 = 20;

/// How long a session lasts.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Without use.
    pub idle: Duration,
    /// Whatever happens.
    pub absolute: Duration,
}

impl From<&Identity> for Lifetime {
    fn from(identity: &Identity) -> Self {
        Self { idle: identity.refresh_token_idle, absolute: identity.refresh_token_absolute }
    }
}

/// A session just opened.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    pub session_id: Uuid,
    pub user_id: Uuid,
}

/// What a client holds.
#[derive(Debug)]
pub struct Tokens {
    pub access_token: String,
    pub refresh_token: String,
    pub expires_in_seconds: u64,
}

/// Opens a session in the caller's transaction.
pub async fn open(tx: &mut Tx, user_id: Uuid, epoch: i32, lifetime: Lifetime, cause: &Cause) -> Result<Opened> {
    let session_id = Uuid::now_v7();
    let expires_at = cause.at + TimeDelta::from_std(lifetime.idle.min(lifetime.absolute)).map_err(Error::internal)?;
    store::insert_session(tx, session_id, user_id, epoch, cause, expires_at).await?;
    let ended = store::update_ended_beyond(tx, user_id, MAX_PER_USER, "too_many", cause.at).await?;
    ending::announce(tx, user_id, &ended, "too_many", cause).await?;
    Ok(Opened { session_id, user_id })
}

/// The tokens of a session that was just opened and committed.
pub fn issue_tokens(app: &App, opened: Opened, now: DateTime<Utc>) -> Result<Tokens> {
    give_tokens(app, RefreshToken { session_id: opened.session_id, counter: 0 }, opened.user_id, now)
}

/// An access token beside this refresh token, whose session is committed.
pub fn give_tokens(app: &App, token: RefreshToken, user_id: Uuid, now: DateTime<Utc>) -> Result<Tokens> {
    Ok(Tokens {
        access_token: app.access_tokens.issue(user_id, token.session_id, now)?,
        refresh_token: token.seal(&app.keys),
        expires_in_seconds: app.access_tokens.ttl().as_secs(),
    })
}

/// Opens a refresh token and counts its use; a forged one touches no database.
pub async fn open_token(app: &App, text: &str) -> Result<RefreshToken> {
    let token = RefreshToken::open(text, &app.keys).ok_or_else(refresh::refused)?;
    let (keys, limit, now) = (app.keys.clone(), app.config.limits.refresh_session, app.clock.now());
    let session = token.session_id.to_string();
    app.db.read(move |conn| async move { throttle::count(conn, &keys, "REFRESH_SESSION", &session, limit, now).await }.boxed()).await?;
    Ok(token)
}

/// Deletes sessions that expired longer than 30 days ago, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    Ok(store::delete_old(conn, now - TimeDelta::days(30), limit).await?)
}
