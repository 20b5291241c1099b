//! Passwords: what is accepted, and whose hash is whose.

pub mod policy;
mod store;

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use crate::error::Result;

pub use policy::Password;

/// Keeps a hash in the caller's transaction, in place of an older one.
pub async fn store_hash(conn: &mut AsyncPgConnection, user_id: Uuid, password_hash: &str, now: DateTime<Utc>) -> Result<()> {
    store::upsert_hash(conn, user_id, password_hash, now).await?;
    Ok(())
}

/// The hash of a user, if there is a password at all.
pub async fn find_hash(conn: &mut AsyncPgConnection, user_id: Uuid) -> Result<Option<String>> {
    Ok(store::find_hash(conn, user_id).await?)
}
