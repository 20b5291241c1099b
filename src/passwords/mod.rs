//! Passwords: what is accepted, and whose hash is whose.

mod change;
pub mod http;
pub mod policy;
mod store;

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use crate::error::Result;
use crate::infra::password_hash::PasswordHasher;

pub use change::{Change, change, check_current};
pub use policy::Password;

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
