//! Who is staff, and their second factors.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::schema::{recovery_codes, totp, users};

/// `false`: he was that already, or there is no such user.
pub async fn update_staff(conn: &mut AsyncPgConnection, user_id: Uuid, is_staff: bool) -> QueryResult<bool> {
    let user = users::table.find(user_id).filter(users::is_staff.ne(is_staff)).filter(users::erased_at.is_null());
    Ok(diesel::update(user).set(users::is_staff.eq(is_staff)).execute(conn).await? == 1)
}

/// `false`: he is active, or was erased.
pub async fn update_reactivated(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<bool> {
    let user = users::table.find(user_id).filter(users::is_active.eq(false)).filter(users::erased_at.is_null());
    Ok(diesel::update(user).set((users::is_active.eq(true), users::deactivated_at.eq(None::<DateTime<Utc>>))).execute(conn).await? == 1)
}

pub async fn find_totp(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Option<Vec<u8>>> {
    totp::table.find(user_id).select(totp::secret_sealed).first(conn).await.optional()
}

pub async fn upsert_totp(conn: &mut AsyncPgConnection, user_id: Uuid, sealed: &[u8], step: i64, now: DateTime<Utc>) -> QueryResult<usize> {
    let row = (totp::secret_sealed.eq(sealed), totp::last_step.eq(step), totp::enrolled_at.eq(now));
    diesel::insert_into(totp::table)
        .values((totp::user_id.eq(user_id), row))
        .on_conflict(totp::user_id)
        .do_update()
        .set(row)
        .execute(conn)
        .await
}

/// Of any number at once who show the code of a step exactly one gets `true`; a step before it is as bad as used.
pub async fn update_step(conn: &mut AsyncPgConnection, user_id: Uuid, step: i64) -> QueryResult<bool> {
    let unused = totp::table.find(user_id).filter(totp::last_step.lt(step));
    Ok(diesel::update(unused).set(totp::last_step.eq(step)).execute(conn).await? == 1)
}

pub async fn insert_recovery_codes(conn: &mut AsyncPgConnection, user_id: Uuid, hmacs: &[[u8; 32]]) -> QueryResult<usize> {
    let row = |hmac: &[u8; 32]| (recovery_codes::user_id.eq(user_id), recovery_codes::code_hmac.eq(hmac.to_vec()));
    diesel::insert_into(recovery_codes::table).values(hmacs.iter().map(row).collect::<Vec<_>>()).execute(conn).await
}

pub async fn list_unused_codes(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Vec<Vec<u8>>> {
    let unused = recovery_codes::table.filter(recovery_codes::user_id.eq(user_id)).filter(recovery_codes::used_at.is_null());
    unused.select(recovery_codes::code_hmac).load(conn).await
}

/// Of any number at once who show a code exactly one gets `true`.
pub async fn update_code_used(conn: &mut AsyncPgConnection, user_id: Uuid, hmac: &[u8], now: DateTime<Utc>) -> QueryResult<bool> {
    let unused = recovery_codes::table.find((user_id, hmac)).filter(recovery_codes::used_at.is_null());
    Ok(diesel::update(unused).set(recovery_codes::used_at.eq(now)).execute(conn).await? == 1)
}

/// Forgets the second factor and its recovery codes.
pub async fn delete_second_factor(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<()> {
    diesel::delete(totp::table.find(user_id)).execute(conn).await?;
    diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user_id))).execute(conn).await?;
    Ok(())
}
