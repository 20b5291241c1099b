//! The credentials table.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::schema::{credentials, users};

pub async fn upsert_hash(conn: &mut AsyncPgConnection, user_id: Uuid, hash: &str, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::insert_into(credentials::table)
        .values((credentials::user_id.eq(user_id), credentials::password_hash.eq(hash), credentials::changed_at.eq(now)))
        .on_conflict(credentials::user_id)
        .do_update()
        .set((credentials::password_hash.eq(hash), credentials::changed_at.eq(now)))
        .execute(conn)
        .await
}

/// Replaces exactly this hash; returns whether (1) or not (0).
pub async fn update_hash(conn: &mut AsyncPgConnection, user_id: Uuid, old: &str, new: &str, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(credentials::table.find(user_id).filter(credentials::password_hash.eq(old)))
        .set((credentials::password_hash.eq(new), credentials::changed_at.eq(now)))
        .execute(conn)
        .await
}

pub async fn find_hash(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Option<String>> {
    credentials::table.find(user_id).select(credentials::password_hash).first(conn).await.optional()
}

/// `true`: the address was not verified before.
pub async fn update_verified(conn: &mut AsyncPgConnection, user_id: Uuid, address: &str, now: DateTime<Utc>) -> QueryResult<bool> {
    let unverified = users::table.find(user_id).filter(users::email.eq(address)).filter(users::email_verified_at.is_null());
    Ok(diesel::update(unverified).set(users::email_verified_at.eq(now)).execute(conn).await? == 1)
}
