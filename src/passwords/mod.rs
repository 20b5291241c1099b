//! Passwords: what is accepted, and whose hash is whose.

mod change;
pub mod http;
pub mod pages;
pub mod policy;
mod reset;
mod store;

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use crate::error::{Error, Problems, Result};
use crate::infra::password_hash::PasswordHasher;

pub use change::{Checked, NewPassword, change, check_current};
pub use policy::Password;
pub use reset::{confirm_reset, request_reset, send_reset_link, set_anew};

/// Judges a new password in the queue of the hashes, because a hostile one takes about as long.
pub async fn choose(hasher: &PasswordHasher, text: String, personal: Vec<String>) -> Result<Result<Password, &'static str>> {
    let judging = move || {
        let personal: Vec<&str> = personal.iter().map(String::as_str).collect();
        Password::choose(&text, &personal)
    };
    hasher.run(judging).await
}

/// Keeps a hash in the caller's transaction, in place of an older one.
pub async fn store_hash(conn: &mut AsyncPgConnection, user_id: Uuid, password_hash: &str, now: DateTime<Utc>) -> Result<()> {
    store::upsert_hash(conn, user_id, password_hash, now).await?;
    Ok(())
}

/// The hash of a user, if there is a password at all.
pub async fn find_hash(conn: &mut AsyncPgConnection, user_id: Uuid) -> Result<Option<String>> {
    Ok(store::find_hash(conn, user_id).await?)
}

/// Puts a newer hash of the same password in the place of this one, unless the password was changed meanwhile.
pub async fn replace_hash(conn: &mut AsyncPgConnection, user_id: Uuid, old: &str, new: &str, now: DateTime<Utc>) -> Result<()> {
    store::update_hash(conn, user_id, old, new, now).await?;
    Ok(())
}

/// A new password typed twice.
#[derive(Debug)]
pub struct Typed {
    pub password: String,
    pub confirm: String,
}

impl Typed {
    /// Judges it, and hashes it if it will do; `personal` is what must not be in it.
    pub async fn hash(self, hasher: &PasswordHasher, personal: Vec<String>) -> Result<String> {
        let mut problems = Problems::default();
        if self.confirm != self.password {
            problems.add("password_confirm", "must be the same as password");
        }
        let password = problems.check("password", choose(hasher, self.password, personal).await?);
        problems.finish()?;
        let password = password.ok_or_else(|| Error::internal("a checked password is missing"))?;
        hasher.hash(password.into_secret()).await
    }
}
