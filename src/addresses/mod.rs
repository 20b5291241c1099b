//! Mail addresses of accounts: proving one, and moving to another.
//!
//! Both are a link that works once. Asking for a link answers the same, in the same time, whether there is an account or not.

pub mod http;
pub mod pages;
mod store;

use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card};
use crate::config::{Config, Rate};
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};
use crate::infra::keys::ServerKeys;
use crate::infra::mailer::{self, Recipient, Template};
use crate::infra::one_time_token::{self, Purpose, Token};
use crate::infra::throttle;

/// Mails the link that proves the address of a new account, in the caller's transaction.
pub async fn send_verification(tx: &mut Tx, card: &Card, config: &Config, cause: &Cause) -> Result<()> {
    mailer::send_link(tx, Template::EmailVerification, Purpose::EmailVerification, card.recipient(), config, cause).await
}

/// Mails that link again, if there is somebody who needs it.
pub async fn resend_verification(tx: &mut Tx, email: &EmailAddress, keys: &ServerKeys, config: &Config, cause: &Cause) -> Result<()> {
    let email_key = email.key();
    let within = throttle::is_within(tx, keys, "RESEND", &email_key, config.limits.resend, cause.at).await?;
    let user_id = card::find_id_by_email_key(tx, &email_key).await?.unwrap_or_default();
    match card::find(tx, user_id).await? {
        Some(card) if within && card.is_active && !card.email_verified => send_verification(tx, &card, config, cause).await,
        _ => Ok(()),
    }
}

/// Mails a link to the new address of somebody who showed his password, and a notice to the old one. To whom the new
/// address belongs now is not told: if to somebody, no link is mailed.
pub async fn request_change(
    tx: &mut Tx,
    card: &Card,
    email: &EmailAddress,
    keys: &ServerKeys,
    config: &Config,
    cause: &Cause,
) -> Result<()> {
    if email.as_str() == card.email {
        return Ok(());
    }
    let owner = card::find_id_by_email_key(tx, &email.key()).await?;
    // Nobody's mailbox is filled by those who have accounts here, and nobody keeps its owner from moving there by asking first.
    let limit = config.limits.reset_account;
    let (one, all) = (format!("{} {}", card.user_id, email.key()), limit.map(|rate| Rate { count: rate.count.saturating_mul(4), ..rate }));
    let within = throttle::is_within(tx, keys, "EMAIL_CHANGE", &one, limit, cause.at).await?
        && throttle::is_within(tx, keys, "EMAIL_CHANGE_ADDRESS", &email.key(), all, cause.at).await?;
    if within && owner.is_none_or(|owner| owner == card.user_id) {
        let to = Recipient { address: email.as_str().to_owned(), ..card.recipient() };
        mailer::send_link(tx, Template::EmailChange, Purpose::EmailChange, to, config, cause).await?;
    } else {
        // A link that nobody is sent makes those of before void all the same: what becomes of them must not tell whose the address is.
        one_time_token::insert(tx, Purpose::EmailChange, card.user_id, email.as_str(), cause.at).await?;
    }
    audit::record(tx, cause, Action::EmailChangeRequested, card.user_id).await?;
    mailer::notify(tx, Template::EmailChangeRequested, card.recipient(), config, cause).await
}

/// What following a link did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    Verified,
    Changed,
}

/// Counts the attempt, and finds the link of one of these purposes.
pub async fn open_link(app: &App, text: String, purposes: &'static [Purpose], cause: &Cause) -> Result<Token> {
    let (keys, limit, bucket, now) = (app.keys.clone(), app.config.limits.token_ip, cause.ip_bucket(), cause.at);
    let reading = app.db.read(move |conn| {
        async move {
            throttle::count(conn, &keys, "TOKEN_IP", &bucket, limit, now).await?;
            one_time_token::find(conn, &keys, &text, purposes, now).await?.ok_or_else(invalid)
        }
        .boxed()
    });
    reading.await
}

/// Follows a link, once.
pub async fn confirm(tx: &mut Tx, token: &Token, config: &Config, cause: &Cause) -> Result<Confirmed> {
    let cause = cause.clone().by(Actor::User(token.user_id));
    card::lock(tx, token.user_id).await?;
    if !one_time_token::update_used(tx, token.id, cause.at).await? {
        return Err(invalid());
    }
    match token.purpose() {
        Some(Purpose::EmailVerification) => verify(tx, token, &cause).await,
        Some(Purpose::EmailChange) => change(tx, token, config, &cause).await,
        _ => Err(invalid()),
    }
}

async fn verify(tx: &mut Tx, token: &Token, cause: &Cause) -> Result<Confirmed> {
    mark_verified(tx, token.user_id, &token.address, cause).await?;
    // Proven before, by a reset or an operator, is as good.
    let card = card::find(tx, token.user_id).await?;
    let is_proven = card.is_some_and(|card| card.is_active && card.email_verified && card.email == token.address);
    if is_proven { Ok(Confirmed::Verified) } else { Err(invalid()) }
}

/// Holds a user's address for proven; `false`: it is not his, or was proven before.
pub async fn mark_verified(tx: &mut Tx, user_id: Uuid, address: &str, cause: &Cause) -> Result<bool> {
    one_time_token::update_void(tx, user_id, &[Purpose::EmailVerification], cause.at).await?;
    if !store::update_verified(tx, user_id, address, cause.at).await? {
        return Ok(false);
    }
    let card = card::changed(tx, user_id, cause.at).await?;
    audit::record(tx, cause, Action::EmailVerified, user_id).await?;
    events::announce(tx, cause, [Event::new(EventType::UserVerified, user_id, card.version)]).await?;
    Ok(true)
}

async fn change(tx: &mut Tx, token: &Token, config: &Config, cause: &Cause) -> Result<Confirmed> {
    let links = [Purpose::EmailVerification, Purpose::PasswordReset, Purpose::EmailChange];
    // What was mailed to the old address opens nothing any more.
    one_time_token::update_void(tx, token.user_id, &links, cause.at).await?;
    let before = card::find(tx, token.user_id).await?.filter(|card| card.is_active).ok_or_else(invalid)?;
    let address = EmailAddress::parse(&token.address).map_err(Error::internal)?;
    if !store::update_email(tx, token.user_id, &address, cause.at).await? {
        // Somebody else took it while the link was on its way.
        return Err(invalid());
    }
    let card = card::changed(tx, token.user_id, cause.at).await?;
    audit::record(tx, cause, Action::EmailChanged, card.user_id).await?;
    events::announce(tx, cause, [card::updated(&card, &["email"])]).await?;
    mailer::notify(tx, Template::EmailChanged, before.recipient(), config, cause).await?;
    Ok(Confirmed::Changed)
}

fn invalid() -> Error {
    Error::new(Code::InvalidToken, "The link is not valid: it was used, replaced, or has expired. Please ask for a new one.")
}
