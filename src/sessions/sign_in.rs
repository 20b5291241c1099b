//! Signing in with address and password.
//!
//! Wrong, unknown and inactive are one answer, in one time. What is counted is counted before anything is hashed, and never
//! where it would lock an owner out: per address that an account is tried from, and, over all addresses that it never
//! signed in from, per account.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::FutureExt as _;
use serde_json::Map;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Lifetime, Opened, open, store};
use crate::access;
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card};
use crate::config::{Config, RegistrationPrivacy};
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::even_time;
use crate::infra::keys::ServerKeys;
use crate::infra::mailer::{self, Template};
use crate::infra::password_hash::{Fit, MAX_BYTES};
use crate::infra::throttle;
use crate::passwords::{self, Password};

const ACCOUNT_LIMIT: &str = "LOGIN_ACCOUNT";
const FAILURES: &str = "LOGIN_FAILURES";

/// At this many wrong passwords in a row, within a day, the owner hears of it.
const FAILURES_TOLD: i64 = 100;
const FAILURES_WINDOW: Duration = Duration::from_secs(86_400);

/// Where an account signed in from within this time it is not limited by what others try elsewhere.
const KNOWN_FOR: TimeDelta = TimeDelta::days(30);

/// Somebody who knew the password.
#[derive(Clone, Debug)]
pub struct Verified {
    card: Card,
    /// What was counted, to be forgotten now that it was right.
    account_key: String,
    /// The hash of before and a newer one, where it should be replaced.
    rehashed: Option<(String, String)>,
}

/// Whom an attempt is about.
#[derive(Clone)]
struct Attempt {
    email_key: String,
    /// An account is limited per address it is tried from, so that nobody can lock its owner out from elsewhere.
    account_key: String,
    card: Option<Card>,
    hash: Option<String>,
}

/// Checks address and password.
pub async fn verify(app: &App, email: &str, password: Password, cause: &Cause) -> Result<Verified> {
    let arrived = Instant::now();
    let admitted = app.hasher.admit()?;
    let attempt = count_and_find(app, email, cause).await?;
    drop(admitted);
    let fit = app.hasher.verify(password.clone().into_secret(), attempt.hash.clone()).await?;
    let refused = match (&attempt.card, fit) {
        (None, _) => "unknown_account",
        (Some(_), Fit::No) => "wrong_password",
        (Some(card), _) if !card.is_active => "inactive",
        (Some(card), _) if !card.email_verified && app.config.identity.registration_privacy == RegistrationPrivacy::Strict => {
            "not_verified"
        }
        (Some(card), _) if !card.email_verified && app.config.identity.require_verified_email => {
            return Err(Error::new(Code::EmailNotVerified, "Please verify your address first; the link was mailed to you."));
        }
        (Some(card), _) => {
            let (card, account_key) = (card.clone(), attempt.account_key);
            let rehashed = rehash(app, fit, password, attempt.hash).await?;
            return Ok(Verified { card, account_key, rehashed });
        }
    };
    let recorded = record_failure(app, attempt, refused, cause).await;
    even_time::wait(arrived, app.config.identity.even_answer).await;
    recorded?;
    Err(Code::InvalidCredentials.into())
}

/// A newer hash, where the one of before is of an older scheme or a lower cost.
async fn rehash(app: &App, fit: Fit, password: Password, old: Option<String>) -> Result<Option<(String, String)>> {
    let secret = password.into_secret();
    // bcrypt cannot read a longer one whole: it stays with its Django hash.
    let fits_bcrypt = secrecy::ExposeSecret::expose_secret(&secret).len() <= MAX_BYTES;
    match old.filter(|_| fit == Fit::Outdated && fits_bcrypt) {
        Some(old) => Ok(Some((old, app.hasher.hash(secret).await?))),
        None => Ok(None),
    }
}

impl Verified {
    /// Whose password it was.
    pub fn card(&self) -> &Card {
        &self.card
    }
}

/// What follows from a right password: failures are forgotten, and an outdated hash is replaced.
pub async fn settle(tx: &mut Tx, keys: &ServerKeys, verified: Verified, cause: &Cause) -> Result<Card> {
    let Verified { card, account_key, rehashed } = verified;
    throttle::delete_count(tx, keys, ACCOUNT_LIMIT, &account_key).await?;
    throttle::delete_count(tx, keys, FAILURES, &card.user_id.to_string()).await?;
    if let Some((old, new)) = rehashed {
        passwords::replace_hash(tx, card.user_id, &old, &new, cause.at).await?;
    }
    Ok(card)
}

/// Opens a session for somebody who was verified.
pub async fn sign_in(tx: &mut Tx, keys: &ServerKeys, verified: Verified, lifetime: Lifetime, cause: Cause) -> Result<(Card, Opened)> {
    let cause = cause.by(Actor::User(verified.card.user_id));
    // Hashing took a while, in which the password may have been changed, or the account deactivated. What ends sessions now waits
    // for this one, and ends it as well.
    if !card::hold_sessions(tx, &verified.card).await? {
        return Err(Code::InvalidCredentials.into());
    }
    let card = settle(tx, keys, verified, &cause).await?;
    audit::record(tx, &cause, Action::SignedIn, card.user_id).await?;
    let opened = open(tx, card.user_id, card.session_epoch, lifetime, &cause).await?;
    Ok((card, opened))
}

/// Counts the attempt before anything is hashed, and reads the account.
async fn count_and_find(app: &App, email: &str, cause: &Cause) -> Result<Attempt> {
    // What is no address has no account; it is counted and answered like any unknown one.
    let email_key = EmailAddress::parse(email).map(|address| address.key()).unwrap_or_default();
    let (keys, limits, now, bucket) = (app.keys.clone(), app.config.limits.clone(), cause.at, cause.ip_bucket());
    let reading = app.db.read(move |conn| {
        async move {
            let account_key = format!("{bucket} {email_key}");
            throttle::count(conn, &keys, "LOGIN_IP", &bucket, limits.login_ip, now).await?;
            throttle::count(conn, &keys, ACCOUNT_LIMIT, &account_key, limits.login_account, now).await?;
            // The same queries for an unknown address as for a known one.
            let user_id = card::find_id_by_email_key(conn, &email_key).await?.unwrap_or_default();
            let since = now - KNOWN_FOR;
            let is_known = store::exists_from(conn, user_id, &bucket, since).await?
                || access::staff::is_known_from(conn, user_id, &bucket, since).await?;
            if !is_known {
                throttle::count(conn, &keys, "LOGIN_ACCOUNT_NEW", &email_key, limits.login_account_new, now).await?;
            }
            let (card, hash) = (card::find(conn, user_id).await?, passwords::find_hash(conn, user_id).await?);
            Ok(Attempt { email_key, account_key, card, hash })
        }
        .boxed()
    });
    reading.await
}

/// Leaves a trace of a failure, and tells the owner when there were very many.
async fn record_failure(app: &App, attempt: Attempt, reason: &'static str, cause: &Cause) -> Result<()> {
    let (keys, config, cause) = (app.keys.clone(), app.config.clone(), cause.clone());
    app.db.write(move |tx| async move { write_failure(tx, &keys, attempt, reason, &config, &cause).await }.boxed()).await
}

async fn write_failure(tx: &mut Tx, keys: &ServerKeys, attempt: Attempt, reason: &str, config: &Config, cause: &Cause) -> Result<()> {
    let subject: Option<Uuid> = attempt.card.as_ref().map(|card| card.user_id);
    // An unknown account is counted like a known one: the work must not tell them apart.
    let key = subject.map_or(attempt.email_key, |user_id| user_id.to_string());
    let failures = throttle::tally(tx, keys, FAILURES, &key, FAILURES_WINDOW, cause.at).await?;
    audit::record_with(tx, cause, Action::SignInFailed, subject, reason, Map::new()).await?;
    match attempt.card {
        Some(card) if failures == FAILURES_TOLD && card.is_active => {
            mailer::notify(tx, Template::SignInFailures, card.recipient(), config, cause).await
        }
        _ => Ok(()),
    }
}
