//! Sessions: signing in and out, and the pair of tokens that a session is held by.
//!
//! A session is a family of refresh tokens: each use makes the next one, and an old one that comes back ends them all.

mod ending;
pub mod http;
mod refresh;
pub mod refresh_token;
mod store;

pub use ending::{SignOut, Summary, list, revoke, sign_out};
pub use refresh::{Refreshed, refresh};

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel_async::AsyncPgConnection;
use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::access;
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card};
use crate::config::Identity;
use crate::error::{Code, Error, Result};
use crate::infra::db::Tx;
use crate::infra::keys::ServerKeys;
use crate::infra::throttle;
use crate::passwords::{self, Password};
use refresh_token::RefreshToken;

/// Beyond this the session that was used longest ago ends.
const MAX_PER_USER: i64 = 20;

const ACCOUNT_LIMIT: &str = "LOGIN_ACCOUNT";

/// Where a session is used from.
#[derive(Clone, Debug, Default)]
pub struct Device {
    pub ip: Option<std::net::IpAddr>,
    pub user_agent: Option<String>,
}

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

/// Somebody who knew the password.
#[derive(Debug)]
pub struct Verified {
    card: Card,
    /// What was counted, to be forgotten now that it was right.
    account_key: String,
}

/// Checks address and password. Wrong, unknown and inactive are one answer, after the same work.
pub async fn verify(app: &App, email: &str, password: Password, bucket: String) -> Result<Verified> {
    // What is no address has no account; it is counted and answered like any unknown one.
    let email_key = EmailAddress::parse(email).map(|address| address.key()).unwrap_or_default();
    let account_key = account_key(&email_key, &bucket);
    let found = count_and_find(app, email_key, account_key.clone(), bucket).await?;
    let (card, hash) = found.map_or((None, None), |(card, hash)| (Some(card), hash));
    let fits = app.hasher.verify(password.into_secret(), hash).await?;
    let card = card.filter(|card| fits && card.is_active);
    let refused = || Error::new(Code::InvalidCredentials, "Address or password are wrong, or the account is not active.");
    Ok(Verified { card: card.ok_or_else(refused)?, account_key })
}

/// Opens a session for somebody who was verified.
pub async fn sign_in(
    tx: &mut Tx,
    keys: &ServerKeys,
    verified: Verified,
    device: Device,
    lifetime: Lifetime,
    now: DateTime<Utc>,
) -> Result<(Card, Opened)> {
    let Verified { card, account_key } = verified;
    throttle::delete_count(tx, keys, ACCOUNT_LIMIT, &account_key).await?;
    // Under the epoch that the password was read in: a change in between leaves this session dead.
    let opened = open(tx, card.user_id, card.session_epoch, device, lifetime, now).await?;
    Ok((card, opened))
}

/// Counts the attempt before anything is hashed, and reads the account.
async fn count_and_find(app: &App, email_key: String, account_key: String, bucket: String) -> Result<Option<(Card, Option<String>)>> {
    let (keys, limits, now) = (app.keys.clone(), app.config.limits.clone(), app.clock.now());
    let reading = app.db.read(move |conn| {
        async move {
            throttle::count(conn, &keys, "LOGIN_IP", &bucket, limits.login_ip, now).await?;
            throttle::count(conn, &keys, ACCOUNT_LIMIT, &account_key, limits.login_account, now).await?;
            // The same queries for an unknown address as for a known one.
            let user_id = card::find_id_by_email_key(conn, &email_key).await?.unwrap_or_default();
            let (card, hash) = (card::find(conn, user_id).await?, passwords::find_hash(conn, user_id).await?);
            Ok(card.map(|card| (card, hash)))
        }
        .boxed()
    });
    reading.await
}

/// An account is limited per address it is tried from, so that nobody can lock its owner out from elsewhere.
fn account_key(email_key: &str, bucket: &str) -> String {
    format!("{bucket} {email_key}")
}

/// Opens a session in the caller's transaction.
pub async fn open(tx: &mut Tx, user_id: Uuid, epoch: i32, device: Device, lifetime: Lifetime, now: DateTime<Utc>) -> Result<Opened> {
    let session_id = Uuid::now_v7();
    let expires_at = now + TimeDelta::from_std(lifetime.idle.min(lifetime.absolute)).map_err(Error::internal)?;
    store::insert_session(tx, session_id, user_id, epoch, &device, now, expires_at).await?;
    for ended in store::update_ended_beyond(tx, user_id, MAX_PER_USER, "too_many", now).await? {
        access::forget_session(tx, ended, now).await?;
    }
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
