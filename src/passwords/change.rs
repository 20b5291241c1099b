//! Changing a password: who knows the current one sets another, and every other session ends at once.

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::{Password, Typed, store};
use crate::access::{self, Session};
use crate::app::App;
use crate::card::{self, Card};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::mailer::{self, Template};
use crate::infra::password_hash::Fit;
use crate::infra::throttle;

/// Somebody who knew the current password.
#[derive(Debug)]
pub struct Checked {
    pub card: Card,
    /// What the password was checked against.
    hash: String,
}

/// A change that may be made: the new password is judged and hashed.
#[derive(Clone, Debug)]
pub struct NewPassword {
    old_hash: String,
    new_hash: String,
}

/// Counts the attempt and checks the current password.
pub async fn check_current(app: &App, session: Session, current: Password, now: DateTime<Utc>) -> Result<Checked> {
    let admitted = app.hasher.admit()?;
    let (keys, limit) = (app.keys.clone(), app.config.limits.password_change);
    let reading = app.db.read(move |conn| {
        async move {
            throttle::count(conn, &keys, "PASSWORD_CHANGE", &session.user_id.to_string(), limit, now).await?;
            Ok((card::find(conn, session.user_id).await?, store::find_hash(conn, session.user_id).await?))
        }
        .boxed()
    });
    let (card, hash) = reading.await?;
    drop(admitted);
    let fit = app.hasher.verify(current.into_secret(), hash.clone()).await?;
    match (card, hash) {
        (Some(card), Some(hash)) if fit != Fit::No => Ok(Checked { card, hash }),
        _ => Err(wrong()),
    }
}

impl Checked {
    /// Judges and hashes the new password.
    pub async fn choose(self, app: &App, new: Typed) -> Result<NewPassword> {
        let new_hash = new.hash(&app.hasher, vec![self.card.name, self.card.email]).await?;
        Ok(NewPassword { old_hash: self.hash, new_hash })
    }
}

/// Sets the new password in place of the checked one, ends every other session, and tells the owner by mail.
pub async fn change(tx: &mut Tx, session: Session, new: NewPassword, config: &Config, cause: &Cause) -> Result<()> {
    card::lock(tx, session.user_id).await?;
    if store::update_hash(tx, session.user_id, &new.old_hash, &new.new_hash, cause.at).await? == 0 {
        // Another change came first; what was checked is the current password no more.
        return Err(wrong());
    }
    super::reset::void_links(tx, session.user_id, cause).await?;
    let card = access::end_other_sessions(tx, session, "password_changed", cause).await?;
    audit::record(tx, cause, Action::PasswordChanged, session.user_id).await?;
    mailer::notify(tx, Template::PasswordChanged, card.recipient(), config, cause).await
}

fn wrong() -> Error {
    Error::new(Code::WrongPassword, "The current password is wrong.")
}
