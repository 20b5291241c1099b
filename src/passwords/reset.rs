//! Resetting a password: a link to the stored address, and a new password from whoever holds it.

use futures_util::FutureExt as _;

use super::{Typed, store};
use crate::access;
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};
use crate::infra::keys::ServerKeys;
use crate::infra::mailer::{self, Template};
use crate::infra::one_time_token::{self, Purpose, Token};
use crate::infra::throttle;
use crate::push_tokens;

/// Mails a link, if there is somebody to mail it to. Known or not, the answer is the same; its time is the door's to even out.
pub async fn request_reset(tx: &mut Tx, email: &EmailAddress, keys: &ServerKeys, config: &Config, cause: &Cause) -> Result<()> {
    let email_key = email.key();
    let within = throttle::is_within(tx, keys, "RESET_ACCOUNT", &email_key, config.limits.reset_account, cause.at).await?;
    let user_id = card::find_id_by_email_key(tx, &email_key).await?.unwrap_or_default();
    // Beyond the limit a mail of before is there to be used. Where none is any more somebody else asked, to keep the owner out.
    let is_due = within || !one_time_token::exists_live(tx, user_id, Purpose::PasswordReset, cause.at).await?;
    match card::find(tx, user_id).await? {
        Some(card) if is_due && card.is_active => send_reset_link(tx, &card, config, cause).await,
        _ => Ok(()),
    }
}

/// Mails the link, in the caller's transaction.
pub async fn send_reset_link(tx: &mut Tx, card: &Card, config: &Config, cause: &Cause) -> Result<()> {
    audit::record(tx, cause, Action::PasswordResetRequested, card.user_id).await?;
    mailer::send_link(tx, Template::PasswordReset, Purpose::PasswordReset, card.recipient(), config, cause).await
}

/// Sets a new password for whoever holds the link, as [`set_anew`] does. Holding the link proves the address as well.
pub async fn confirm_reset(app: &App, text: String, new: Typed, cause: Cause) -> Result<()> {
    let (keys, limit, bucket, now) = (app.keys.clone(), app.config.limits.token_ip, cause.ip_bucket(), cause.at);
    let reading = app.db.read(move |conn| {
        async move {
            throttle::count(conn, &keys, "TOKEN_IP", &bucket, limit, now).await?;
            let token = one_time_token::find(conn, &keys, &text, &[Purpose::PasswordReset], now).await?.ok_or_else(invalid)?;
            let card = card::find(conn, token.user_id).await?.ok_or_else(invalid)?;
            Ok((token, card))
        }
        .boxed()
    });
    let (token, card) = reading.await?;
    // A password that will not do leaves the link as it is.
    let new_hash = new.hash(&app.hasher, vec![card.name, card.email]).await?;
    let (config, cause) = (app.config.clone(), cause.by(Actor::User(token.user_id)));
    app.db.write(move |tx| async move { reset(tx, token, &new_hash, &config, &cause).await }.boxed()).await
}

async fn reset(tx: &mut Tx, token: Token, new_hash: &str, config: &Config, cause: &Cause) -> Result<()> {
    card::lock(tx, token.user_id).await?;
    if !one_time_token::update_used(tx, token.id, cause.at).await? {
        return Err(invalid());
    }
    let newly_verified = store::update_verified(tx, token.user_id, &token.address, cause.at).await?;
    let card = set_anew(tx, token.user_id, new_hash, cause).await?;
    if !card.is_active || card.email != token.address {
        return Err(invalid());
    }
    audit::record(tx, cause, Action::PasswordReset, card.user_id).await?;
    if newly_verified {
        audit::record(tx, cause, Action::EmailVerified, card.user_id).await?;
        events::announce(tx, cause, [Event::new(EventType::UserVerified, card.user_id, card.version)]).await?;
    }
    mailer::notify(tx, Template::PasswordChanged, card.recipient(), config, cause).await
}

/// Sets a password without the old one. It ends every session, and whatever an intruder may have left: links, a pending change of
/// address, a phone. The caller has locked the account.
pub async fn set_anew(tx: &mut Tx, user_id: uuid::Uuid, new_hash: &str, cause: &Cause) -> Result<Card> {
    store::upsert_hash(tx, user_id, new_hash, cause.at).await?;
    void_links(tx, user_id, cause).await?;
    let card = access::end_sessions(tx, user_id, "password_reset", cause).await?;
    push_tokens::clear(tx, user_id, "password_reset", cause).await?;
    Ok(card)
}

/// Links that somebody who knew the old password may have asked for.
pub(super) async fn void_links(tx: &mut Tx, user_id: uuid::Uuid, cause: &Cause) -> Result<()> {
    one_time_token::update_void(tx, user_id, &[Purpose::PasswordReset, Purpose::EmailChange], cause.at).await?;
    Ok(())
}

fn invalid() -> Error {
    Error::new(Code::InvalidToken, "The link is not valid: it was used, replaced, or has expired. Please ask for a new one.")
}
