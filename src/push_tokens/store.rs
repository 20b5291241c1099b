//! The push_tokens table.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::advisory_lock;
use crate::infra::schema::push_tokens;

/// What stands in the place of a token that is of no use any more; its hash stays, to tell which it was.
const RETIRED: &str = "(retired)";

/// Held until the transaction ends.
pub async fn lock_token(conn: &mut AsyncPgConnection, sha256: &[u8; 32]) -> QueryResult<()> {
    let hash: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    advisory_lock::lock(conn, &format!("push token {hash}")).await
}

pub async fn find_live_owner(conn: &mut AsyncPgConnection, sha256: &[u8; 32]) -> QueryResult<Option<Uuid>> {
    push_tokens::table
        .filter(push_tokens::token_sha256.eq(sha256.as_slice()))
        .filter(push_tokens::retired_at.is_null())
        .select(push_tokens::user_id)
        .first(conn)
        .await
        .optional()
}

pub async fn update_seen(conn: &mut AsyncPgConnection, sha256: &[u8; 32], now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(push_tokens::table.filter(push_tokens::token_sha256.eq(sha256.as_slice())).filter(push_tokens::retired_at.is_null()))
        .set(push_tokens::last_seen_at.eq(now))
        .execute(conn)
        .await
}

pub async fn update_retired(conn: &mut AsyncPgConnection, user_id: Uuid, reason: &str, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(push_tokens::table.filter(push_tokens::user_id.eq(user_id)).filter(push_tokens::retired_at.is_null()))
        .set((push_tokens::retired_at.eq(now), push_tokens::reason.eq(reason), push_tokens::token.eq(RETIRED)))
        .execute(conn)
        .await
}

pub async fn update_retired_token(
    conn: &mut AsyncPgConnection,
    user_id: Uuid,
    sha256: &[u8; 32],
    reason: &str,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    let current = push_tokens::token_sha256.eq(sha256.as_slice()).and(push_tokens::retired_at.is_null());
    diesel::update(push_tokens::table.filter(push_tokens::user_id.eq(user_id)).filter(current))
        .set((push_tokens::retired_at.eq(now), push_tokens::reason.eq(reason), push_tokens::token.eq(RETIRED)))
        .execute(conn)
        .await
}

pub async fn insert_token(
    conn: &mut AsyncPgConnection,
    user_id: Uuid,
    token: &str,
    sha256: &[u8; 32],
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    diesel::insert_into(push_tokens::table)
        .values((
            push_tokens::id.eq(Uuid::now_v7()),
            push_tokens::user_id.eq(user_id),
            push_tokens::token.eq(token),
            push_tokens::token_sha256.eq(sha256.as_slice()),
            push_tokens::last_seen_at.eq(now),
        ))
        .execute(conn)
        .await
}

pub async fn delete_retired(conn: &mut AsyncPgConnection, before: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = push_tokens::table.filter(push_tokens::retired_at.lt(before)).select(push_tokens::id);
    let old = old.limit(limit).load::<Uuid>(conn).await?;
    diesel::delete(push_tokens::table.filter(push_tokens::id.eq_any(old))).execute(conn).await
}
