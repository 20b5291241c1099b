//! Registration: the account, its credentials, preferences, push token and first session in one transaction.

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use uuid::Uuid;

use super::store;
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card, Preferences};
use crate::error::{Error, Result};
use crate::infra::db::Tx;
use crate::infra::throttle;
use crate::push_tokens::PushToken;
use crate::sessions::{self, Device, Opened};
use crate::{passwords, preferences, push_tokens};

/// A registration that was checked, its password hashed.
#[derive(Debug)]
pub struct Registration {
    pub name: String,
    pub email: EmailAddress,
    pub password_hash: String,
    pub push_token: Option<PushToken>,
    pub preferences: Preferences,
    pub device: Device,
}

/// Counts an attempt from an address, before anything is hashed for it.
pub async fn count_attempt(app: &App, bucket: String, now: DateTime<Utc>) -> Result<()> {
    let (keys, limit) = (app.keys.clone(), app.config.limits.register_ip);
    app.db.read(move |conn| async move { throttle::count(conn, &keys, "REGISTER_IP", &bucket, limit, now).await }.boxed()).await
}

/// Creates the account and signs it in.
pub async fn register(tx: &mut Tx, registration: Registration, lifetime: sessions::Lifetime, now: DateTime<Utc>) -> Result<(Card, Opened)> {
    let user_id = Uuid::now_v7();
    if let Some(token) = &registration.push_token {
        let users = push_tokens::lock(tx, user_id, token).await?;
        store::lock_users(tx, &users).await?;
    }
    if !store::insert_user(tx, user_id, &registration.email, &registration.name, now).await? {
        return Err(Error::field("email", "is already registered"));
    }
    passwords::store_hash(tx, user_id, &registration.password_hash, now).await?;
    preferences::store_all(tx, user_id, registration.preferences, now).await?;
    if let Some(token) = &registration.push_token {
        push_tokens::set(tx, user_id, token, now).await?;
    }
    let opened = sessions::open(tx, user_id, 0, registration.device, lifetime, now).await?;
    let card = card::find(tx, user_id).await?.ok_or_else(|| Error::internal("a user vanished inside a transaction"))?;
    Ok((card, opened))
}
