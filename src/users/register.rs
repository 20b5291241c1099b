//! Registration: the account, its credentials, preferences, push token and first session in one transaction, with the mail
//! that proves the address.

use serde_json::Map;
use uuid::Uuid;

use super::store;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card, Preferences};
use crate::config::{Config, RegistrationPrivacy};
use crate::error::{Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};
use crate::infra::keys::ServerKeys;
use crate::infra::mailer::{self, Template};
use crate::infra::throttle;
use crate::push_tokens::PushToken;
use crate::sessions::{self, Lifetime, Opened};
use crate::{addresses, passwords, preferences, push_tokens};

/// A registration that was checked, its password hashed.
#[derive(Clone, Debug)]
pub struct Registration {
    pub name: String,
    pub email: EmailAddress,
    pub password_hash: String,
    pub push_token: Option<PushToken>,
    pub preferences: Preferences,
}

/// What became of it, as far as the caller may know.
#[derive(Debug, Default)]
pub struct Registered {
    /// Nothing where registration is private: whether there was an account or is one now, the owner of the address learns by mail.
    pub card: Option<Card>,
    /// Nothing where signing in waits for the verification of the address.
    pub session: Option<Opened>,
}

/// Creates the account, and signs it in where the installation's rules allow.
pub async fn register(tx: &mut Tx, registration: Registration, keys: &ServerKeys, config: &Config, cause: &Cause) -> Result<Registered> {
    let strict = config.identity.registration_privacy == RegistrationPrivacy::Strict;
    let email = registration.email.clone();
    // A phone changes hands only for somebody who is known to be there: whether it did would tell if the address was free.
    let push_token = registration.push_token.clone().filter(|_| !strict);
    let registration = Registration { push_token, ..registration };
    let Some(card) = create(tx, registration, cause).await? else {
        if strict {
            return tell_owner(tx, &email, keys, config, cause).await;
        }
        return Err(Error::field("email", "is already registered"));
    };
    let cause = cause.clone().by(Actor::User(card.user_id));
    audit::record(tx, &cause, Action::Registered, card.user_id).await?;
    events::announce(tx, &cause, [Event::new(EventType::UserRegistered, card.user_id, card.version)]).await?;
    addresses::send_verification(tx, &card, config, &cause).await?;
    if strict {
        return Ok(Registered::default());
    }
    let session = match config.identity.require_verified_email {
        true => None,
        false => Some(sessions::open(tx, card.user_id, card.session_epoch, Lifetime::from(&config.identity), &cause).await?),
    };
    Ok(Registered { card: Some(card), session })
}

/// Only the account, which nobody hears of. `None`: the address is taken, also by an account that was deactivated.
pub async fn create(tx: &mut Tx, registration: Registration, cause: &Cause) -> Result<Option<Card>> {
    let (user_id, now) = (Uuid::now_v7(), cause.at);
    if let Some(token) = &registration.push_token {
        let users = push_tokens::lock(tx, user_id, token).await?;
        store::lock_users(tx, &users).await?;
    }
    if !store::insert_user(tx, user_id, &registration.email, &registration.name, now).await? {
        return Ok(None);
    }
    passwords::store_hash(tx, user_id, &registration.password_hash, now).await?;
    preferences::store_all(tx, user_id, registration.preferences, now).await?;
    if let Some(token) = &registration.push_token {
        push_tokens::set(tx, user_id, token, cause).await?;
    }
    Ok(Some(card::find(tx, user_id).await?.ok_or_else(|| Error::internal("a user vanished inside a transaction"))?))
}

/// Mails the owner of a taken address, though not for each of a flood of attempts.
async fn tell_owner(tx: &mut Tx, email: &EmailAddress, keys: &ServerKeys, config: &Config, cause: &Cause) -> Result<Registered> {
    let owner = card::find_id_by_email_key(tx, &email.key()).await?.unwrap_or_default();
    let within = throttle::is_within(tx, keys, "REGISTRATION_ATTEMPTED", &email.key(), config.limits.resend, cause.at).await?;
    if let Some(card) = card::find(tx, owner).await?.filter(|card| within && card.is_active) {
        let detail = Map::new();
        audit::record_with(tx, cause, Action::RegistrationOfTakenAddress, Some(card.user_id), "address_taken", detail).await?;
        // Never the link that verifies: the account's password may be that of somebody who registered this address first.
        mailer::notify(tx, Template::RegistrationAttempted, card.recipient(), config, cause).await?;
    }
    Ok(Registered::default())
}
