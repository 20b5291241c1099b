//! The outbox table: what must follow a commit is a row of that commit. The relay (`amqp::relay`) sends it.

use chrono::{DateTime, Duration, Utc};
use diesel::dsl::now as server_now;
use diesel::prelude::*;
use diesel::sql_types::{Binary, Interval, Nullable, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::cache::CacheEntry;
use super::schema::outbox;

/// What a relay holds in memory at a time.
const MAX_BATCH_BYTES: i64 = 16 * 1024 * 1024;

#[diesel::declare_sql_function]
extern "SQL" {
    fn octet_length(value: Nullable<Binary>) -> Nullable<Integer>;
    fn greatest(one: Timestamptz, other: Timestamptz) -> Timestamptz;
}

/// Where a row goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Amqp,
    /// Mails that we deliver ourselves.
    Smtp,
    Cache,
}

impl Lane {
    pub fn as_str(self) -> &'static str {
        match self {
            Lane::Amqp => "amqp",
            Lane::Smtp => "smtp",
            Lane::Cache => "cache",
        }
    }
}

/// A message to be published once the transaction is committed.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub user_id: Option<Uuid>,
    /// `None`: the exchange of the events, which the relay knows.
    pub exchange: Option<String>,
    pub routing_key: String,
    /// The `type` property.
    pub message_type: Option<String>,
    pub priority: Option<u8>,
    pub message_id: String,
    pub correlation_id: String,
    /// String values by name; nothing else travels as a header.
    pub headers: serde_json::Map<String, serde_json::Value>,
    pub payload: Vec<u8>,
    /// The token that the relay writes into a mail's link as it sends.
    pub one_time_token_id: Option<Uuid>,
}

/// A row that waits.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = outbox)]
pub struct Row {
    pub id: Uuid,
    pub exchange: Option<String>,
    pub routing_key: Option<String>,
    pub message_type: Option<String>,
    pub priority: Option<i16>,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub headers: serde_json::Value,
    pub payload: Vec<u8>,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    pub one_time_token_id: Option<Uuid>,
}

#[derive(Insertable)]
#[diesel(table_name = outbox)]
struct NewRow<'a> {
    id: Uuid,
    lane: &'static str,
    user_id: Option<Uuid>,
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
    message_type: Option<&'a str>,
    priority: Option<i16>,
    message_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
    headers: serde_json::Value,
    payload: &'a [u8],
    one_time_token_id: Option<Uuid>,
    created_at: DateTime<Utc>,
}

/// Queues messages in the caller's transaction.
pub async fn insert_messages(conn: &mut AsyncPgConnection, lane: Lane, messages: &[NewMessage], now: DateTime<Utc>) -> QueryResult<()> {
    // PostgreSQL takes 65,535 parameters a statement; a row has fourteen.
    for chunk in messages.chunks(1_000) {
        let rows: Vec<_> = chunk
            .iter()
            .map(|message| NewRow {
                id: Uuid::now_v7(),
                lane: lane.as_str(),
                user_id: message.user_id,
                exchange: message.exchange.as_deref(),
                routing_key: Some(&message.routing_key),
                message_type: message.message_type.as_deref(),
                priority: message.priority.map(i16::from),
                message_id: Some(&message.message_id),
                correlation_id: Some(&message.correlation_id),
                headers: message.headers.clone().into(),
                payload: &message.payload,
                one_time_token_id: message.one_time_token_id,
                created_at: now,
            })
            .collect();
        diesel::insert_into(outbox::table).values(rows).execute(conn).await?;
    }
    Ok(())
}

/// Queues the forgetting of a cache entry in the caller's transaction.
pub async fn insert_forgotten(conn: &mut AsyncPgConnection, entry: &CacheEntry, now: DateTime<Utc>) -> QueryResult<()> {
    let payload = format!("{}|{}", entry.version, entry.key);
    let row = NewRow {
        id: Uuid::now_v7(),
        lane: Lane::Cache.as_str(),
        user_id: None,
        exchange: None,
        routing_key: None,
        message_type: None,
        priority: None,
        message_id: None,
        correlation_id: None,
        headers: serde_json::Value::Object(serde_json::Map::new()),
        payload: payload.as_bytes(),
        one_time_token_id: None,
        created_at: now,
    };
    diesel::insert_into(outbox::table).values(row).execute(conn).await?;
    Ok(())
}

/// The cache entry that a row of [`Lane::Cache`] names.
pub fn forgotten_entry(row: &Row) -> Option<CacheEntry> {
    let (version, key) = std::str::from_utf8(&row.payload).ok()?.split_once('|')?;
    Some(CacheEntry { key: key.to_owned(), version: version.parse().ok()? })
}

/// Due rows, locked until the transaction ends; rows another relay holds are passed over. At most `limit`, and no more
/// than 16 MiB together, but one at least.
///
/// Never "id greater than the last seen": transactions commit out of order, and the late one would be lost.
pub async fn list_due(conn: &mut AsyncPgConnection, lane: Lane, now: DateTime<Utc>, limit: i64) -> QueryResult<Vec<Row>> {
    let due: Vec<(Uuid, Option<i32>)> = outbox::table
        .filter(outbox::lane.eq(lane.as_str()))
        .filter(outbox::done_at.is_null())
        .filter(outbox::failed_at.is_null())
        // A process whose clock is slow must not keep waiting what is due.
        .filter(outbox::next_attempt_at.le(greatest(now.into_sql::<Timestamptz>(), server_now.into_sql::<Timestamptz>())))
        .order((outbox::next_attempt_at, outbox::id))
        .limit(limit)
        .for_update()
        .skip_locked()
        .select((outbox::id, octet_length(outbox::payload.nullable())))
        .load(conn)
        .await?;
    let mut bytes = 0;
    let fits = due.into_iter().take_while(|(_, length)| {
        let before = bytes;
        bytes += i64::from(length.unwrap_or_default());
        before == 0 || bytes <= MAX_BATCH_BYTES
    });
    let ids: Vec<Uuid> = fits.map(|(id, _)| id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = outbox::table.filter(outbox::id.eq_any(ids)).order((outbox::next_attempt_at, outbox::id));
    rows.select(Row::as_select()).load(conn).await
}

/// The rows are sent.
pub async fn update_done(conn: &mut AsyncPgConnection, ids: &[Uuid], now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(outbox::table.filter(outbox::id.eq_any(ids)).filter(outbox::done_at.is_null()))
        .set((outbox::done_at.eq(now), outbox::attempts.eq(outbox::attempts + 1)))
        .execute(conn)
        .await
}

/// The row could not be sent and is tried again later; `attempts`: how many of its own that cost.
pub async fn update_put_off(conn: &mut AsyncPgConnection, id: Uuid, attempts: i32, delay: Duration, error: &str) -> QueryResult<usize> {
    let next = server_now.into_sql::<Timestamptz>() + delay.into_sql::<Interval>();
    diesel::update(outbox::table.find(id))
        .set((outbox::attempts.eq(outbox::attempts + attempts), outbox::next_attempt_at.eq(next), outbox::last_error.eq(error)))
        .execute(conn)
        .await
}

/// The row will never be sent; it stays, for operators to see.
pub async fn update_given_up(conn: &mut AsyncPgConnection, id: Uuid, now: DateTime<Utc>, error: &str) -> QueryResult<usize> {
    diesel::update(outbox::table.find(id))
        .set((outbox::attempts.eq(outbox::attempts + 1), outbox::failed_at.eq(now), outbox::last_error.eq(error)))
        .execute(conn)
        .await
}

/// A row that is late or was given up, for operators; its payload stays where it is.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = outbox)]
pub struct Stuck {
    pub id: Uuid,
    pub lane: String,
    pub routing_key: Option<String>,
    pub user_id: Option<Uuid>,
    pub attempts: i32,
    pub created_at: DateTime<Utc>,
    pub next_attempt_at: DateTime<Utc>,
    pub failed_at: Option<DateTime<Utc>>,
    pub last_error: Option<String>,
}

/// Rows that were given up, the newest first, and then those that wait though they were tried.
pub async fn list_stuck(conn: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<Stuck>> {
    let failed = outbox::table.filter(outbox::failed_at.is_not_null()).order(outbox::failed_at.desc()).limit(limit);
    let mut stuck = failed.select(Stuck::as_select()).load(conn).await?;
    for lane in [Lane::Amqp, Lane::Smtp, Lane::Cache] {
        let waiting =
            outbox::table.filter(outbox::lane.eq(lane.as_str())).filter(outbox::done_at.is_null().and(outbox::failed_at.is_null()));
        let tried = waiting.filter(outbox::attempts.gt(0)).order(outbox::next_attempt_at).limit(limit);
        stuck.extend(tried.select(Stuck::as_select()).load(conn).await?);
    }
    stuck.truncate(usize::try_from(limit).unwrap_or_default());
    Ok(stuck)
}

/// How many rows were given up.
pub async fn count_failed(conn: &mut AsyncPgConnection) -> QueryResult<i64> {
    outbox::table.filter(outbox::failed_at.is_not_null()).count().get_result(conn).await
}

/// Has a row that is not sent tried again now.
pub async fn update_due(conn: &mut AsyncPgConnection, id: Uuid) -> QueryResult<usize> {
    diesel::update(outbox::table.find(id).filter(outbox::done_at.is_null()))
        .set((outbox::failed_at.eq(None::<DateTime<Utc>>), outbox::next_attempt_at.eq(server_now)))
        .execute(conn)
        .await
}

/// A mail of a user, sent or not.
#[derive(Debug, Queryable)]
pub struct Mail {
    pub payload: Vec<u8>,
    pub created_at: DateTime<Utc>,
    pub done_at: Option<DateTime<Utc>>,
    pub failed_at: Option<DateTime<Utc>>,
    pub attempts: i32,
    pub last_error: Option<String>,
    pub one_time_token_id: Option<Uuid>,
}

/// The newest mails: to one user, or to all. What was sent longer than a day ago is gone.
pub async fn list_mails(conn: &mut AsyncPgConnection, user_id: Option<Uuid>, email_key: &str, limit: i64) -> QueryResult<Vec<Mail>> {
    let mut mails = outbox::table.filter(outbox::routing_key.eq(email_key)).into_boxed();
    if let Some(user_id) = user_id {
        mails = mails.filter(outbox::user_id.eq(user_id));
    }
    let columns = (
        outbox::payload,
        outbox::created_at,
        outbox::done_at,
        outbox::failed_at,
        outbox::attempts,
        outbox::last_error,
        outbox::one_time_token_id,
    );
    mails.order(outbox::created_at.desc()).limit(limit).select(columns).load(conn).await
}

/// Deletes rows that were sent longer than a day ago, at most `limit`; returns how many.
pub async fn delete_done(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = outbox::table.filter(outbox::done_at.lt(now - Duration::days(1))).select(outbox::id).limit(limit).load::<Uuid>(conn).await?;
    diesel::delete(outbox::table.filter(outbox::id.eq_any(old))).execute(conn).await
}

/// How many rows of a lane wait, and since when the oldest does.
pub async fn count_waiting(conn: &mut AsyncPgConnection, lane: Lane) -> QueryResult<(i64, Option<DateTime<Utc>>)> {
    outbox::table
        .filter(outbox::lane.eq(lane.as_str()))
        .filter(outbox::done_at.is_null())
        .filter(outbox::failed_at.is_null())
        .select((diesel::dsl::count_star(), diesel::dsl::min(outbox::created_at)))
        .first(conn)
        .await
}
