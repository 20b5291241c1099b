//! Reads across tables for the operators' pages.

use chrono::{DateTime, Timelike as _, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double, Nullable, Text, Timestamptz};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::schema::{credentials, push_inbox, totp, users};

/// What an account's card does not say.
#[derive(Clone, Debug, Queryable)]
pub struct Account {
    pub email_verified_at: Option<DateTime<Utc>>,
    pub deactivated_at: Option<DateTime<Utc>>,
    pub erased_at: Option<DateTime<Utc>>,
    pub password_changed_at: Option<DateTime<Utc>>,
    pub second_factor_since: Option<DateTime<Utc>>,
}

pub async fn find_account(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Option<Account>> {
    users::table
        .left_join(credentials::table)
        .left_join(totp::table)
        .filter(users::id.eq(user_id))
        .select((
            users::email_verified_at,
            users::deactivated_at,
            users::erased_at,
            credentials::changed_at.nullable(),
            totp::enrolled_at.nullable(),
        ))
        .first(conn)
        .await
        .optional()
}

/// What became of a push request to a user.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = push_inbox)]
pub struct Decided {
    pub message_id: String,
    pub source: String,
    pub outcome: String,
    pub reason: Option<String>,
    pub attempts: i32,
    pub correlation_id: Option<String>,
    pub decided_at: DateTime<Utc>,
}

pub async fn list_decided(conn: &mut AsyncPgConnection, user_id: Uuid, limit: i64) -> QueryResult<Vec<Decided>> {
    let about = push_inbox::table.filter(push_inbox::user_id.eq(user_id));
    about.order(push_inbox::decided_at.desc()).limit(limit).select(Decided::as_select()).load(conn).await
}

/// How many push requests had an outcome, for a reason, within an hour.
#[derive(Clone, Debug, QueryableByName)]
pub struct Outcomes {
    #[diesel(sql_type = Timestamptz)]
    pub hour: DateTime<Utc>,
    #[diesel(sql_type = Text)]
    pub outcome: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub reason: Option<String>,
    #[diesel(sql_type = BigInt)]
    pub count: i64,
}

/// Rows that are counted; of a larger inbox a sample of so many is.
const COUNTED: f64 = 100_000.0;

/// The last 24 hours, this one among them, and whether they are estimates; hours without messages are absent.
///
/// An inbox has a row for each message of a day, which may be a hundred million. Of a large one what is delivered and skipped is
/// counted in a sample of its blocks, what is dead or waits by its index, up to as many.
pub async fn list_outcomes(conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> QueryResult<(Vec<Outcomes>, bool)> {
    #[derive(QueryableByName)]
    struct Size {
        #[diesel(sql_type = Double)]
        rows: f64,
    }
    // Half a kilobyte a row, where PostgreSQL has not yet counted itself.
    let size = "SELECT CASE WHEN reltuples >= 0 THEN reltuples ELSE pg_relation_size(oid) / 500.0 END::float8 AS rows
         FROM pg_class WHERE oid = 'push_inbox'::regclass";
    let size: Size = diesel::sql_query(size).get_result(conn).await?;
    let this_hour = now.with_minute(0).and_then(|now| now.with_second(0)).and_then(|now| now.with_nanosecond(0)).unwrap_or(now);
    let is_sampled = size.rows > 2.0 * COUNTED;
    let percent = if is_sampled { 100.0 * COUNTED / size.rows } else { 100.0 };
    let sample = if is_sampled { "TABLESAMPLE SYSTEM ($2)" } else { "" };
    let query = format!(
        "SELECT hour, outcome, reason, round(sum(weight))::int8 AS count FROM (
           (SELECT date_trunc('hour', decided_at) AS hour, outcome, reason, 100 / $2 AS weight FROM push_inbox {sample}
              WHERE outcome IN ('delivered', 'skipped') AND decided_at >= $1)
           UNION ALL
           (SELECT date_trunc('hour', decided_at), outcome, reason, 1 FROM push_inbox
              WHERE outcome IN ('dead', 'retry') AND decided_at >= $1 LIMIT {COUNTED})
         ) AS counted GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
    );
    let since = this_hour - chrono::TimeDelta::hours(23);
    Ok((diesel::sql_query(query).bind::<Timestamptz, _>(since).bind::<Double, _>(percent).load(conn).await?, is_sampled))
}

/// No more than `most`.
pub async fn count_idempotency_keys(conn: &mut AsyncPgConnection, most: i64) -> QueryResult<i64> {
    #[derive(QueryableByName)]
    struct Counted {
        #[diesel(sql_type = BigInt)]
        count: i64,
    }
    let counting = diesel::sql_query("SELECT count(*) AS count FROM (SELECT FROM idempotency_keys LIMIT $1) AS counted");
    Ok(counting.bind::<BigInt, _>(most).get_result::<Counted>(conn).await?.count)
}
