//! The operators' sessions, and how many admins there are.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::cause::Cause;
use crate::infra::schema::{staff_origins, staff_sessions, totp, users};

/// User, second factor, last use, and whether a second factor is enrolled.
type Live = (Uuid, Option<DateTime<Utc>>, DateTime<Utc>, bool);

pub async fn find_live(
    conn: &mut AsyncPgConnection,
    token_sha256: &[u8],
    idle_since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> QueryResult<Option<Live>> {
    let enrolled = diesel::dsl::exists(totp::table.filter(totp::user_id.eq(users::id)));
    staff_sessions::table
        .inner_join(users::table)
        .filter(staff_sessions::token_sha256.eq(token_sha256))
        .filter(staff_sessions::expires_at.gt(now))
        .filter(staff_sessions::last_used_at.gt(idle_since))
        .filter(staff_sessions::epoch.eq(users::session_epoch))
        .filter(users::is_active.and(users::is_staff))
        .select((users::id, staff_sessions::second_factor_at, staff_sessions::last_used_at, enrolled))
        .first(conn)
        .await
        .optional()
}

pub async fn update_used(conn: &mut AsyncPgConnection, token_sha256: &[u8], now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(staff_sessions::table.find(token_sha256)).set(staff_sessions::last_used_at.eq(now)).execute(conn).await
}

pub async fn insert(
    conn: &mut AsyncPgConnection,
    token_sha256: &[u8],
    user_id: Uuid,
    epoch: i32,
    cause: &Cause,
    expires_at: DateTime<Utc>,
    second_factor_at: Option<DateTime<Utc>>,
) -> QueryResult<usize> {
    diesel::insert_into(staff_sessions::table)
        .values((
            staff_sessions::token_sha256.eq(token_sha256),
            staff_sessions::user_id.eq(user_id),
            staff_sessions::epoch.eq(epoch),
            staff_sessions::ip.eq(cause.ip.map(|ip| ip.to_string())),
            staff_sessions::user_agent.eq(cause.user_agent.as_deref()),
            staff_sessions::created_at.eq(cause.at),
            staff_sessions::last_used_at.eq(cause.at),
            staff_sessions::expires_at.eq(expires_at),
            staff_sessions::second_factor_at.eq(second_factor_at),
        ))
        .execute(conn)
        .await
}

/// The epoch that it was opened in; of any number at once exactly one gets it.
pub async fn delete_one(conn: &mut AsyncPgConnection, token_sha256: &[u8]) -> QueryResult<Option<i32>> {
    diesel::delete(staff_sessions::table.find(token_sha256)).returning(staff_sessions::epoch).get_result(conn).await.optional()
}

pub async fn delete_of_user(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<usize> {
    diesel::delete(staff_sessions::table.filter(staff_sessions::user_id.eq(user_id))).execute(conn).await
}

pub async fn upsert_origin(conn: &mut AsyncPgConnection, user_id: Uuid, ip_bucket: &str, now: DateTime<Utc>) -> QueryResult<usize> {
    let seen = staff_origins::last_seen_at.eq(now);
    diesel::insert_into(staff_origins::table)
        .values((staff_origins::user_id.eq(user_id), staff_origins::ip_bucket.eq(ip_bucket), seen))
        .on_conflict((staff_origins::user_id, staff_origins::ip_bucket))
        .do_update()
        .set(seen)
        .execute(conn)
        .await
}

pub async fn exists_origin(conn: &mut AsyncPgConnection, user_id: Uuid, ip_bucket: &str, since: DateTime<Utc>) -> QueryResult<bool> {
    let seen = staff_origins::table.find((user_id, ip_bucket)).filter(staff_origins::last_seen_at.gt(since));
    diesel::select(diesel::dsl::exists(seen)).get_result(conn).await
}

/// Unbounded: an admin has few, and there are few admins.
pub async fn delete_old_origins(conn: &mut AsyncPgConnection, before: DateTime<Utc>) -> QueryResult<usize> {
    diesel::delete(staff_origins::table.filter(staff_origins::last_seen_at.lt(before))).execute(conn).await
}

pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = staff_sessions::table.filter(staff_sessions::expires_at.lt(now)).select(staff_sessions::token_sha256);
    let old = old.limit(limit).load::<Vec<u8>>(conn).await?;
    diesel::delete(staff_sessions::table.filter(staff_sessions::token_sha256.eq_any(old))).execute(conn).await
}

/// Whether this user is an active admin, and no other one is who can sign in: who has no second factor yet cannot.
pub async fn is_last_admin(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<bool> {
    let admins = users::table.filter(users::is_staff.and(users::is_active)).filter(users::erased_at.is_null());
    let others = admins.filter(users::id.ne(user_id)).inner_join(totp::table);
    let is_admin = diesel::select(diesel::dsl::exists(admins.filter(users::id.eq(user_id)))).get_result::<bool>(conn).await?;
    Ok(is_admin && !diesel::select(diesel::dsl::exists(others)).get_result::<bool>(conn).await?)
}
