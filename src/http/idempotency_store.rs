//! The stored answers, and the lock that lets one request of a key run at a time.

use actix_web::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::envelope::StoredAnswer;
use crate::error::{Code, Error, Result};
use crate::infra::advisory_lock;
use crate::infra::cause::Actor;
use crate::infra::schema::idempotency_keys;

/// How long an answer is given again.
const RETENTION: TimeDelta = TimeDelta::hours(24);

/// Whose key it is, what for, and what was sent under it.
#[derive(Clone, Debug)]
pub struct Key {
    pub caller: String,
    pub method: String,
    pub route: String,
    pub key: String,
    pub fingerprint: [u8; 32],
}

#[derive(Insertable, AsChangeset)]
#[diesel(table_name = idempotency_keys)]
struct NewAnswer<'a> {
    caller: &'a str,
    method: &'a str,
    route: &'a str,
    key: &'a str,
    fingerprint: &'a [u8],
    status: i16,
    body: &'a str,
    created_at: DateTime<Utc>,
}

/// Takes the key's lock until the transaction ends, if nobody has it.
pub async fn try_lock(conn: &mut AsyncPgConnection, key: &Key) -> Result<bool> {
    let name = [&key.caller, &key.method, &key.route, &key.key].map(String::as_str).join(" ");
    Ok(advisory_lock::try_lock(conn, &[name]).await? == [true])
}

/// The answer that is given again; [`Code::IdempotencyKeyReused`] if something else was sent.
pub async fn find_answer(conn: &mut AsyncPgConnection, key: &Key, now: DateTime<Utc>) -> Result<Option<StoredAnswer>> {
    let found: Option<(Vec<u8>, i16, String)> = idempotency_keys::table
        .find((&key.caller, &key.method, &key.route, &key.key))
        .filter(idempotency_keys::created_at.gt(now - RETENTION))
        .select((idempotency_keys::fingerprint, idempotency_keys::status, idempotency_keys::body))
        .first(conn)
        .await
        .optional()?;
    let Some((fingerprint, status, body)) = found else { return Ok(None) };
    if fingerprint != key.fingerprint {
        return Err(Error::new(Code::IdempotencyKeyReused, "This Idempotency-Key was used for another request; take a new one."));
    }
    let status = StatusCode::from_u16(status.unsigned_abs()).map_err(Error::internal)?;
    Ok(Some(StoredAnswer { status, body }))
}

/// Stores the answer in the transaction of what it tells; one that is older than it may be given is overwritten.
pub async fn upsert_answer(conn: &mut AsyncPgConnection, key: &Key, answer: &StoredAnswer, now: DateTime<Utc>) -> Result<()> {
    let row = NewAnswer {
        caller: &key.caller,
        method: &key.method,
        route: &key.route,
        key: &key.key,
        fingerprint: &key.fingerprint,
        status: i16::try_from(answer.status.as_u16()).map_err(Error::internal)?,
        body: &answer.body,
        created_at: now,
    };
    let key_columns = (idempotency_keys::caller, idempotency_keys::method, idempotency_keys::route, idempotency_keys::key);
    diesel::insert_into(idempotency_keys::table).values(&row).on_conflict(key_columns).do_update().set(&row).execute(conn).await?;
    Ok(())
}

/// Deletes answers that are not given any more, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    diesel::sql_query(
        "DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_keys WHERE created_at <= $1 LIMIT $2))",
    )
    .bind::<Timestamptz, _>(now - RETENTION)
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}

/// What a user asked for, and what others were told about him: answers name users by their ids.
pub async fn delete_of_user(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<usize> {
    let about = idempotency_keys::caller.eq(Actor::User(user_id).to_string()).or(idempotency_keys::body.like(format!("%{user_id}%")));
    diesel::delete(idempotency_keys::table.filter(about)).execute(conn).await
}
