//! How often something may happen, counted in PostgreSQL: an attacker cannot flush it, and a restart keeps it.
//!
//! One statement counts and answers, so that any number at once still get exactly the limit.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use futures_util::FutureExt as _;

use super::cause::Cause;
use super::db::Database;
use super::keys::ServerKeys;
use super::prepared::Prepared;
use super::schema::throttles;
use crate::config::{Limit, Rate};
use crate::error::{Allowance, Code, Result};

#[derive(QueryableByName)]
struct Window {
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Timestamptz)]
    window_start: DateTime<Utc>,
}

/// Counts one event of `name` for `key`; beyond the limit it is [`Code::RateLimited`].
pub async fn count(
    conn: &mut AsyncPgConnection,
    keys: &ServerKeys,
    name: &'static str,
    key: &str,
    limit: Limit,
    now: DateTime<Utc>,
) -> Result<()> {
    let Some(rate) = limit else { return Ok(()) };
    let key_hmac = keys.derive("throttle", name.as_bytes()).authenticate(&[key.as_bytes()]);
    let window = upsert_count(conn, name, &key_hmac, rate, now).await?;
    if window.count <= i64::from(rate.count) {
        return Ok(());
    }
    let reset = (window.window_start + rate.window - now).to_std().unwrap_or(Duration::ZERO);
    Err(Allowance { name, rate, remaining: 0, reset }.exceeded())
}

/// Counts one event of an address, on a connection of its own: before anybody is looked up, or anything hashed, for it.
pub async fn count_ip(db: &Database, keys: &ServerKeys, name: &'static str, limit: Limit, cause: &Cause) -> Result<()> {
    let (keys, bucket, now) = (keys.clone(), cause.ip_bucket(), cause.at);
    db.read(move |conn| async move { count(conn, &keys, name, &bucket, limit, now).await }.boxed()).await
}

/// Counts one event, and tells whether it is within the limit, for what must not be seen from outside.
pub async fn is_within(
    conn: &mut AsyncPgConnection,
    keys: &ServerKeys,
    name: &'static str,
    key: &str,
    limit: Limit,
    now: DateTime<Utc>,
) -> Result<bool> {
    match count(conn, keys, name, key, limit, now).await {
        Ok(()) => Ok(true),
        Err(error) if error.code == Code::RateLimited => Ok(false),
        Err(error) => Err(error),
    }
}

/// Counts one event without a limit; tells how many there were within the window.
pub async fn tally(
    conn: &mut AsyncPgConnection,
    keys: &ServerKeys,
    name: &str,
    key: &str,
    window: Duration,
    now: DateTime<Utc>,
) -> Result<i64> {
    let key_hmac = keys.derive("throttle", name.as_bytes()).authenticate(&[key.as_bytes()]);
    Ok(upsert_count(conn, name, &key_hmac, Rate { count: u32::MAX, window }, now).await?.count)
}

/// Forgets what was counted, after a success.
pub async fn delete_count(conn: &mut AsyncPgConnection, keys: &ServerKeys, name: &str, key: &str) -> Result<()> {
    let key_hmac = keys.derive("throttle", name.as_bytes()).authenticate(&[key.as_bytes()]);
    diesel::delete(throttles::table.find((name, key_hmac.as_slice()))).execute(conn).await?;
    Ok(())
}

async fn upsert_count(conn: &mut AsyncPgConnection, name: &str, key_hmac: &[u8], rate: Rate, now: DateTime<Utc>) -> QueryResult<Window> {
    let expired = now - TimeDelta::from_std(rate.window).unwrap_or(TimeDelta::MAX);
    let counting = diesel::sql_query(
        "INSERT INTO throttles AS t (name, key_hmac, window_start, count) VALUES ($1, $2, $3, 1)
         ON CONFLICT (name, key_hmac) DO UPDATE SET
           count = CASE WHEN t.window_start <= $4 THEN 1 ELSE t.count + 1 END,
           window_start = CASE WHEN t.window_start <= $4 THEN excluded.window_start ELSE t.window_start END
         RETURNING count, window_start",
    )
    .bind::<Text, _>(name)
    .bind::<Binary, _>(key_hmac)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(expired);
    Prepared(counting).get_result(conn).await
}

/// Deletes windows that ended longer than a day ago, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    diesel::sql_query(
        "DELETE FROM throttles WHERE (name, key_hmac) IN (SELECT name, key_hmac FROM throttles WHERE window_start < $1 LIMIT $2)",
    )
    // The longest window is a day (config), and it may have begun just before the count.
    .bind::<Timestamptz, _>(now - TimeDelta::days(2))
    .bind::<BigInt, _>(limit)
    .execute(conn)
    .await
}
