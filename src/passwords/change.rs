//! Changing a password: who knows the current one sets another, and every other session ends at once.

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::{Password, store};
use crate::access::{self, Session};
use crate::app::App;
use crate::card;
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::infra::db::Tx;
use crate::infra::mailer::{self, Mail};
use crate::infra::throttle;

/// A change that was checked, the new password hashed.
#[derive(Debug)]
pub struct Change {
    /// The hash that the current password was checked against.
    pub old_hash: String,
    pub new_hash: String,
    pub correlation_id: String,
}

/// Counts the attempt and checks the current password; gives its hash, and what must not be in a new one.
pub async fn check_current(app: &App, session: Session, current: Password, now: DateTime<Utc>) -> Result<(String, Vec<String>)> {
    let (keys, limit) = (app.keys.clone(), app.config.limits.password_change);
    let reading = app.db.read(move |conn| {
        async move {
            throttle::count(conn, &keys, "PASSWORD_CHANGE", &session.user_id.to_string(), limit, now).await?;
            Ok((card::find(conn, session.user_id).await?, store::find_hash(conn, session.user_id).await?))
        }
        .boxed()
    });
    let (card, hash) = reading.await?;
    let fits = app.hasher.verify(current.into_secret(), hash.clone()).await?;
    match (card, hash) {
        (Some(card), Some(hash)) if fits => Ok((hash, vec![card.name, card.email])),
        _ => Err(Error::new(Code::WrongPassword, "The current password is wrong.")),
    }
}

/// Sets the new hash in place of the checked one, ends every other session, and tells the owner by mail.
pub async fn change(tx: &mut Tx, session: Session, change: Change, config: &Config, now: DateTime<Utc>) -> Result<()> {
    if store::update_hash(tx, session.user_id, &change.old_hash, &change.new_hash, now).await? == 0 {
        // Another change came first; what was checked is the current password no more.
        return Err(Error::new(Code::WrongPassword, "The current password is wrong."));
    }
    access::end_other_sessions(tx, session, "password_changed", now).await?;
    let card = card::find(tx, session.user_id).await?.ok_or_else(|| Error::internal("a user vanished inside a transaction"))?;
    let Change { correlation_id, .. } = change;
    let mail = Mail { template_code: "password_changed", user_id: card.user_id, name: card.name, address: card.email, correlation_id };
    mailer::queue(tx, &mail, config, now).await
}
