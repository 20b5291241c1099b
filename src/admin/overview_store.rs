//! Reads across tables for the operators' pages.

use chrono::{DateTime, Timelike as _, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
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

/// The last 24 hours, this one among them; hours without messages are absent.
pub async fn list_outcomes(conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> QueryResult<Vec<Outcomes>> {
    let this_hour = now.with_minute(0).and_then(|now| now.with_second(0)).and_then(|now| now.with_nanosecond(0)).unwrap_or(now);
    // Each outcome by name, so that the index over outcome and time serves.
    let query = "SELECT date_trunc('hour', decided_at) AS hour, outcome, reason, count(*) AS count FROM push_inbox
         WHERE outcome IN ('delivered', 'skipped', 'dead', 'retry') AND decided_at >= $1
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
    diesel::sql_query(query).bind::<Timestamptz, _>(this_hour - chrono::TimeDelta::hours(23)).load(conn).await
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
