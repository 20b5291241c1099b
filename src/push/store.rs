//! The inbox: what became of each push request.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, Binary, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::dead_letters::Filter;
use crate::infra::advisory_lock;
use crate::infra::prepared::Prepared;
use crate::infra::schema::{push_inbox, push_suspects};

/// A request as the inbox files it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub message_id: String,
    /// The nil UUID where no user could be read.
    pub user_id: Uuid,
}

/// Bytes of a fingerprint that tell two requests under one id apart.
const TOLD_APART_BY: usize = 16;

impl Key {
    /// Of another request under the same id.
    #[must_use]
    pub fn told_apart_by(&self, fingerprint: &[u8; 32]) -> Self {
        let suffix: String = fingerprint[..TOLD_APART_BY].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { message_id: format!("{}#{suffix}", self.message_id), ..self.clone() }
    }

    /// The id that the producer gave, by which he looks for it.
    pub fn given_id(&self) -> &str {
        match self.message_id.rsplit_once('#') {
            Some((given, suffix)) if suffix.len() == 2 * TOLD_APART_BY && suffix.bytes().all(|byte| byte.is_ascii_hexdigit()) => given,
            _ => &self.message_id,
        }
    }
}

/// What became of one.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub fingerprint: [u8; 32],
    /// `queue` or `rest`.
    pub source: &'static str,
    pub outcome: &'static str,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub attempts: i32,
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Only while it waits or is dead.
    pub body: Option<Vec<u8>>,
    pub properties: Value,
    pub correlation_id: String,
}

/// A request that waits, or has died.
#[derive(Clone, Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = push_inbox)]
pub struct Kept {
    pub message_id: String,
    pub user_id: Uuid,
    pub reason: Option<String>,
    pub detail: Option<String>,
    pub attempts: i32,
    /// When it is tried again; of one that is claimed, until when.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub body: Option<Vec<u8>>,
    pub properties: Value,
    pub correlation_id: Option<String>,
    pub decided_at: DateTime<Utc>,
}

/// Locks each key until the transaction ends, unless another transaction has it; one answer a key, in order.
pub async fn try_lock(conn: &mut AsyncPgConnection, keys: &[&Key]) -> QueryResult<Vec<bool>> {
    let names: Vec<String> = keys.iter().map(|key| format!("push {} {}", key.user_id, key.message_id)).collect();
    advisory_lock::try_lock(conn, &names).await
}

/// The fingerprints of those that were seen before. A statement of its own, after the locks: the locks' would see a snapshot from
/// before they were got.
pub async fn list_seen(conn: &mut AsyncPgConnection, keys: &[&Key]) -> QueryResult<Vec<(Key, Vec<u8>)>> {
    #[derive(QueryableByName)]
    struct Seen {
        #[diesel(sql_type = Text)]
        message_id: String,
        #[diesel(sql_type = SqlUuid)]
        user_id: Uuid,
        #[diesel(sql_type = Binary)]
        fingerprint: Vec<u8>,
    }
    let (message_ids, user_ids): (Vec<&str>, Vec<Uuid>) = keys.iter().map(|key| (key.message_id.as_str(), key.user_id)).unzip();
    let looking = diesel::sql_query(
        "SELECT i.message_id, i.user_id, i.fingerprint FROM push_inbox i
           JOIN unnest($1, $2) AS k(message_id, user_id) ON i.message_id = k.message_id AND i.user_id = k.user_id",
    );
    let looking = looking.bind::<Array<Text>, _>(message_ids).bind::<Array<SqlUuid>, _>(user_ids);
    let rows: Vec<Seen> = Prepared(looking).load(conn).await?;
    Ok(rows.into_iter().map(|row| (Key { message_id: row.message_id, user_id: row.user_id }, row.fingerprint)).collect())
}

/// What became of a request: the outcome and its reason.
pub async fn find_outcome(conn: &mut AsyncPgConnection, key: &Key) -> QueryResult<(String, Option<String>)> {
    push_inbox::table.find((&key.message_id, key.user_id)).select((push_inbox::outcome, push_inbox::reason)).first(conn).await
}

/// Files what became of requests; one that is filed already stays as it is.
pub async fn insert_entries(conn: &mut AsyncPgConnection, entries: &[Entry], now: DateTime<Utc>) -> QueryResult<usize> {
    if entries.is_empty() {
        return Ok(0);
    }
    // Arrays, so that it is one prepared statement however many there are.
    let filing = diesel::sql_query(
        "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, detail, attempts, next_attempt_at, body,
           properties, correlation_id, received_at, decided_at)
         SELECT message_id, user_id, fingerprint, source, outcome, reason, detail, attempts, next_attempt_at, body, properties,
           correlation_id, $11, $11
         FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12, $13)
           AS t(message_id, user_id, fingerprint, outcome, reason, detail, attempts, next_attempt_at, body, properties, correlation_id, source)
         ON CONFLICT (message_id, user_id) DO NOTHING",
    )
    .bind::<Array<Text>, _>(entries.iter().map(|entry| entry.key.message_id.as_str()).collect::<Vec<_>>())
    .bind::<Array<SqlUuid>, _>(entries.iter().map(|entry| entry.key.user_id).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(entries.iter().map(|entry| entry.fingerprint.as_slice()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(entries.iter().map(|entry| entry.outcome).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(entries.iter().map(|entry| entry.reason.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(entries.iter().map(|entry| entry.detail.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(entries.iter().map(|entry| entry.attempts).collect::<Vec<_>>())
    .bind::<Array<Nullable<Timestamptz>>, _>(entries.iter().map(|entry| entry.next_attempt_at).collect::<Vec<_>>())
    .bind::<Array<Nullable<Binary>>, _>(entries.iter().map(|entry| entry.body.as_deref()).collect::<Vec<_>>())
    .bind::<Array<Jsonb>, _>(entries.iter().map(|entry| entry.properties.clone()).collect::<Vec<_>>())
    .bind::<Timestamptz, _>(now)
    .bind::<Array<Text>, _>(entries.iter().map(|entry| entry.correlation_id.as_str()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(entries.iter().map(|entry| entry.source).collect::<Vec<_>>());
    Prepared(filing).execute(conn).await
}

/// Claims the next request whose time has come: until then no other worker does.
pub async fn claim_due(conn: &mut AsyncPgConnection, now: DateTime<Utc>, until: DateTime<Utc>) -> QueryResult<Option<Kept>> {
    diesel::sql_query(
        "UPDATE push_inbox SET next_attempt_at = $2 WHERE (message_id, user_id) = (
           SELECT message_id, user_id FROM push_inbox WHERE outcome = 'retry' AND next_attempt_at <= $1
           ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING message_id, user_id, reason, detail, attempts, next_attempt_at, body, properties, correlation_id, decided_at",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(until)
    .get_result(conn)
    .await
    .optional()
}

#[diesel::dsl::auto_type]
fn claimed(kept: &Kept) -> _ {
    let (message_id, user_id, until): (String, Uuid, Option<DateTime<Utc>>) = (kept.message_id.clone(), kept.user_id, kept.next_attempt_at);
    push_inbox::table
        .filter(push_inbox::message_id.eq(message_id))
        .filter(push_inbox::user_id.eq(user_id))
        .filter(push_inbox::outcome.eq("retry"))
        .filter(push_inbox::next_attempt_at.is_not_distinct_from(until))
}

/// Locks it until the transaction ends; `false`: the claim ran out, and another worker has it or had it.
pub async fn lock_claimed(conn: &mut AsyncPgConnection, kept: &Kept) -> QueryResult<bool> {
    let found = claimed(kept).select(push_inbox::user_id).for_no_key_update().first::<Uuid>(conn).await.optional()?;
    Ok(found.is_some())
}

/// Files the outcome of one that is claimed; `false`: the claim ran out.
pub async fn update_claimed(conn: &mut AsyncPgConnection, kept: &Kept, entry: &Entry, now: DateTime<Utc>) -> QueryResult<bool> {
    let filing = diesel::update(claimed(kept)).set((
        push_inbox::outcome.eq(entry.outcome),
        push_inbox::reason.eq(&entry.reason),
        push_inbox::detail.eq(&entry.detail),
        push_inbox::attempts.eq(entry.attempts),
        push_inbox::next_attempt_at.eq(entry.next_attempt_at),
        push_inbox::body.eq(&entry.body),
        push_inbox::decided_at.eq(now),
    ));
    Ok(filing.execute(conn).await? == 1)
}

type Dead<'a> = push_inbox::BoxedQuery<'a, diesel::pg::Pg>;

fn dead(filter: &Filter) -> Dead<'_> {
    let mut dead = push_inbox::table.filter(push_inbox::outcome.eq("dead")).into_boxed();
    if let Some(reason) = &filter.reason {
        dead = dead.filter(push_inbox::reason.eq(reason));
    }
    if let Some(user_id) = filter.user_id {
        dead = dead.filter(push_inbox::user_id.eq(user_id));
    }
    if let Some(message_id) = &filter.message_id {
        dead = dead.filter(push_inbox::message_id.eq(message_id));
    }
    if let Some(before) = filter.before {
        dead = dead.filter(push_inbox::decided_at.lt(before));
    }
    dead
}

/// Dead letters, the newest first.
pub async fn list_dead(conn: &mut AsyncPgConnection, filter: &Filter, limit: i64) -> QueryResult<Vec<Kept>> {
    let newest = (push_inbox::decided_at.desc(), push_inbox::message_id);
    dead(filter).order(newest).limit(limit).select(Kept::as_select()).load(conn).await
}

pub async fn count_dead(conn: &mut AsyncPgConnection, filter: &Filter) -> QueryResult<i64> {
    dead(filter).count().get_result(conn).await
}

async fn list_dead_keys(conn: &mut AsyncPgConnection, filter: &Filter, limit: i64) -> QueryResult<Vec<(String, Uuid)>> {
    let oldest = (push_inbox::decided_at, push_inbox::message_id);
    dead(filter).order(oldest).limit(limit).select((push_inbox::message_id, push_inbox::user_id)).load(conn).await
}

/// Lets dead letters be decided anew, at most `limit`; returns how many.
pub async fn update_dead_due(conn: &mut AsyncPgConnection, filter: &Filter, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let (message_ids, user_ids): (Vec<String>, Vec<Uuid>) = list_dead_keys(conn, filter, limit).await?.into_iter().unzip();
    diesel::sql_query(
        "UPDATE push_inbox i SET outcome = 'retry', attempts = 0, next_attempt_at = $3 FROM unnest($1, $2) AS k(message_id, user_id)
         WHERE i.message_id = k.message_id AND i.user_id = k.user_id AND i.outcome = 'dead'",
    )
    .bind::<Array<Text>, _>(message_ids)
    .bind::<Array<SqlUuid>, _>(user_ids)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await
}

/// Deletes dead letters, at most `limit`; returns how many.
pub async fn delete_dead(conn: &mut AsyncPgConnection, filter: &Filter, limit: i64) -> QueryResult<usize> {
    let (message_ids, user_ids): (Vec<String>, Vec<Uuid>) = list_dead_keys(conn, filter, limit).await?.into_iter().unzip();
    diesel::sql_query(
        "DELETE FROM push_inbox i USING unnest($1, $2) AS k(message_id, user_id)
         WHERE i.message_id = k.message_id AND i.user_id = k.user_id AND i.outcome = 'dead'",
    )
    .bind::<Array<Text>, _>(message_ids)
    .bind::<Array<SqlUuid>, _>(user_ids)
    .execute(conn)
    .await
}

/// Counts a run that is about to begin; returns which one it is.
pub async fn count_run(conn: &mut AsyncPgConnection, fingerprint: &[u8], now: DateTime<Utc>) -> QueryResult<i32> {
    diesel::insert_into(push_suspects::table)
        .values((push_suspects::fingerprint.eq(fingerprint), push_suspects::runs.eq(1), push_suspects::updated_at.eq(now)))
        .on_conflict(push_suspects::fingerprint)
        .do_update()
        .set((push_suspects::runs.eq(push_suspects::runs + 1), push_suspects::updated_at.eq(now)))
        .returning(push_suspects::runs)
        .get_result(conn)
        .await
}

/// The process outlived a run that changed nothing: it does not count.
pub async fn take_back_run(conn: &mut AsyncPgConnection, fingerprint: &[u8]) -> QueryResult<usize> {
    diesel::update(push_suspects::table.find(fingerprint)).set(push_suspects::runs.eq(push_suspects::runs - 1)).execute(conn).await
}

/// It has its outcome.
pub async fn delete_runs(conn: &mut AsyncPgConnection, fingerprint: &[u8]) -> QueryResult<usize> {
    diesel::delete(push_suspects::table.find(fingerprint)).execute(conn).await
}

/// Deletes what was settled longer ago than `retention`, and dead letters after 30 days, at most `limit` of each.
pub async fn delete_old(conn: &mut AsyncPgConnection, retention: TimeDelta, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let settled = "DELETE FROM push_inbox WHERE (message_id, user_id) IN (SELECT message_id, user_id FROM push_inbox
        WHERE outcome IN ('delivered', 'skipped') AND decided_at < $1 LIMIT $2)";
    let settled = diesel::sql_query(settled).bind::<Timestamptz, _>(now - retention).bind::<diesel::sql_types::BigInt, _>(limit);
    let settled = settled.execute(conn).await?;
    let suspects = push_suspects::table.filter(push_suspects::updated_at.lt(now - retention)).select(push_suspects::fingerprint);
    let suspects: Vec<Vec<u8>> = suspects.limit(limit).load(conn).await?;
    diesel::delete(push_suspects::table.filter(push_suspects::fingerprint.eq_any(suspects))).execute(conn).await?;
    let forgotten = Filter { before: Some(now - TimeDelta::days(30)), ..Filter::default() };
    Ok(settled.max(delete_dead(conn, &forgotten, limit).await?))
}
