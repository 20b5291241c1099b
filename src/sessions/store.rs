//! The sessions table.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::ending::Summary;
use crate::infra::cause::Cause;
use crate::infra::schema::{sessions, users};

#[derive(Insertable)]
#[diesel(table_name = sessions)]
struct NewSession<'a> {
    id: Uuid,
    user_id: Uuid,
    epoch: i32,
    ip: Option<String>,
    ip_bucket: String,
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
    cause: &Cause,
    expires_at: DateTime<Utc>,
) -> QueryResult<usize> {
    let session = NewSession {
        id,
        user_id,
        epoch,
        ip: cause.ip.map(|ip| ip.to_string()),
        ip_bucket: cause.ip_bucket(),
        user_agent: cause.user_agent.as_deref(),
        created_at: cause.at,
        last_used_at: cause.at,
        expires_at,
    };
    diesel::insert_into(sessions::table).values(session).execute(conn).await
}

/// Whether the user signed in from there since.
pub async fn exists_from(conn: &mut AsyncPgConnection, user_id: Uuid, ip_bucket: &str, since: DateTime<Utc>) -> QueryResult<bool> {
    let sessions = sessions::table.filter(sessions::user_id.eq(user_id)).filter(sessions::ip_bucket.eq(ip_bucket));
    diesel::select(diesel::dsl::exists(sessions.filter(sessions::last_used_at.gt(since)))).get_result(conn).await
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
    // Every session expires, also one that ended before.
    let old = sessions::table.filter(sessions::expires_at.lt(before));
    let ids = old.select(sessions::id).limit(limit).load::<Uuid>(conn).await?;
    diesel::delete(sessions::table.filter(sessions::id.eq_any(ids))).execute(conn).await
}

/// Compare-and-set on the counter: of any number at once exactly one succeeds, and the family goes on.
pub async fn update_rotated(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    counter: i64,
    now: DateTime<Utc>,
    idle_until: DateTime<Utc>,
    absolute: TimeDelta,
) -> QueryResult<bool> {
    let rotating = diesel::sql_query(
        "UPDATE sessions s SET counter = s.counter + 1, rotated_at = $3, last_used_at = $3,
           expires_at = least($4, s.created_at + $5 * interval '1 second')
         FROM users u
         WHERE s.id = $1 AND s.counter = $2 AND s.ended_at IS NULL AND s.expires_at > $3
           AND u.id = s.user_id AND u.is_active AND u.session_epoch = s.epoch",
    )
    .bind::<SqlUuid, _>(id)
    .bind::<BigInt, _>(counter)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(idle_until)
    .bind::<BigInt, _>(absolute.num_seconds());
    Ok(rotating.execute(conn).await? == 1)
}

/// What a replay is judged by.
#[derive(Queryable)]
pub struct Family {
    pub counter: i64,
    pub rotated_at: Option<DateTime<Utc>>,
}

/// Whose session this is or was. What is said of the user's sessions as a whole stays as it is until the transaction ends.
pub async fn hold_user(conn: &mut AsyncPgConnection, id: Uuid) -> QueryResult<Option<Uuid>> {
    let owner = sessions::table.find(id).select(sessions::user_id).single_value();
    users::table.filter(users::id.nullable().eq(owner)).select(users::id).for_share().first(conn).await.optional()
}

/// A session that is alive, locked until the transaction ends. A join would lock the user's row too, and after the session's.
pub async fn lock_live_session(conn: &mut AsyncPgConnection, id: Uuid, now: DateTime<Utc>) -> QueryResult<Option<Family>> {
    let of_active_user =
        users::table.filter(users::id.eq(sessions::user_id)).filter(users::session_epoch.eq(sessions::epoch)).filter(users::is_active);
    sessions::table
        .find(id)
        .filter(sessions::ended_at.is_null())
        .filter(sessions::expires_at.gt(now))
        .filter(exists(of_active_user))
        .select((sessions::counter, sessions::rotated_at))
        .for_no_key_update()
        .first(conn)
        .await
        .optional()
}

/// Ends one session of this user; returns how many that were.
pub async fn update_ended_one(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    user_id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    diesel::update(sessions::table.find(id).filter(sessions::user_id.eq(user_id)).filter(sessions::ended_at.is_null()))
        .set((sessions::ended_at.eq(now), sessions::end_reason.eq(reason)))
        .execute(conn)
        .await
}

/// The live sessions of a user, the one used last first.
pub async fn list_live(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> QueryResult<Vec<Summary>> {
    type Row = (Uuid, Option<String>, Option<String>, DateTime<Utc>, DateTime<Utc>, DateTime<Utc>);
    let rows: Vec<Row> = sessions::table
        .inner_join(users::table)
        .filter(sessions::user_id.eq(user_id))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::expires_at.gt(now))
        .filter(sessions::epoch.eq(users::session_epoch))
        .order((sessions::last_used_at.desc(), sessions::id.desc()))
        .select((sessions::id, sessions::ip, sessions::user_agent, sessions::created_at, sessions::last_used_at, sessions::expires_at))
        .load(conn)
        .await?;
    let summary = |(session_id, ip, user_agent, created_at, last_used_at, expires_at)| Summary {
        session_id,
        ip,
        user_agent,
        created_at,
        last_used_at,
        expires_at,
    };
    Ok(rows.into_iter().map(summary).collect())
}
