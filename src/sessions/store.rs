//! The sessions table.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::Device;
use crate::infra::schema::sessions;

#[derive(Insertable)]
#[diesel(table_name = sessions)]
struct NewSession<'a> {
    id: Uuid,
    user_id: Uuid,
    epoch: i32,
    ip: Option<String>,
    user_agent: Option<&'a str>,
    created_at: DateTime<Utc>,
    last_used_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

pub async fn insert_session(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    user_id: Uuid,
    epoch: i32,
    device: &Device,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> QueryResult<usize> {
    let session = NewSession {
        id,
        user_id,
        epoch,
        ip: device.ip.map(|ip| ip.to_string()),
        user_agent: device.user_agent.as_deref(),
        created_at: now,
        last_used_at: now,
        expires_at,
    };
    diesel::insert_into(sessions::table).values(session).execute(conn).await
}

#[derive(QueryableByName)]
struct Ended {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

/// Ends all but the `keep` sessions of a user that were used last; returns which.
pub async fn update_ended_beyond(
    conn: &mut AsyncPgConnection,
    user_id: Uuid,
    keep: i64,
    reason: &str,
    now: DateTime<Utc>,
) -> QueryResult<Vec<Uuid>> {
    let ended: Vec<Ended> = diesel::sql_query(
        "UPDATE sessions SET ended_at = $3, end_reason = $4 WHERE ended_at IS NULL AND id IN (
           SELECT id FROM sessions WHERE user_id = $1 AND ended_at IS NULL ORDER BY last_used_at DESC, id DESC OFFSET $2)
         RETURNING id",
    )
    .bind::<SqlUuid, _>(user_id)
    .bind::<BigInt, _>(keep)
    .bind::<Timestamptz, _>(now)
    .bind::<Text, _>(reason)
    .get_results(conn)
    .await?;
    Ok(ended.into_iter().map(|ended| ended.id).collect())
}

pub async fn delete_old(conn: &mut AsyncPgConnection, before: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = sessions::table.filter(sessions::expires_at.lt(before).or(sessions::ended_at.lt(before)));
    let ids = old.select(sessions::id).limit(limit).load::<Uuid>(conn).await?;
    diesel::delete(sessions::table.filter(sessions::id.eq_any(ids))).execute(conn).await
}
