//! Reads across the tables of a user, and over all users; the only write is the version.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Json, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::list::{Column, From, Listing, Value};
use super::{Card, Preferences};
use crate::infra::schema::{preferences, push_tokens, users};

diesel::alias!(preferences as by_email: ByEmail, preferences as by_push: ByPush);

#[derive(Queryable, Selectable)]
#[diesel(table_name = users)]
struct UserRow {
    id: Uuid,
    version: i64,
    session_epoch: i32,
    name: String,
    email: String,
    email_verified_at: Option<DateTime<Utc>>,
    is_active: bool,
    is_staff: bool,
    locale: Option<String>,
    time_zone: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The user, the live push token, and what was chosen for email and push.
type CardRow = (UserRow, Option<String>, Option<bool>, Option<bool>);

/// Held until the transaction ends; `false`: there is no such user.
pub async fn lock(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<bool> {
    let locked = users::table.find(user_id).select(users::id).for_no_key_update().first::<Uuid>(conn).await.optional()?;
    Ok(locked.is_some())
}

/// The same against changes only: any number may hold it at once.
pub async fn lock_epoch(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Option<(i32, bool)>> {
    users::table.find(user_id).select((users::session_epoch, users::is_active)).for_share().first(conn).await.optional()
}

pub async fn list_cards(conn: &mut AsyncPgConnection, user_ids: &[Uuid]) -> QueryResult<Vec<Card>> {
    let live_token = push_tokens::user_id.eq(users::id).and(push_tokens::retired_at.is_null());
    let email = by_email.field(preferences::user_id).eq(users::id);
    let email = email.and(by_email.field(preferences::category).eq("")).and(by_email.field(preferences::channel).eq("email"));
    let push = by_push.field(preferences::user_id).eq(users::id);
    let push = push.and(by_push.field(preferences::category).eq("")).and(by_push.field(preferences::channel).eq("push"));
    let rows: Vec<CardRow> = users::table
        .left_join(push_tokens::table.on(live_token))
        .left_join(by_email.on(email))
        .left_join(by_push.on(push))
        .filter(users::id.eq_any(user_ids))
        .select((
            UserRow::as_select(),
            push_tokens::token.nullable(),
            by_email.field(preferences::enabled).nullable(),
            by_push.field(preferences::enabled).nullable(),
        ))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(user, push_token, email, push)| user.into_card(push_token, email, push)).collect())
}

impl UserRow {
    /// What was never chosen is on.
    fn into_card(self, push_token: Option<String>, email: Option<bool>, push: Option<bool>) -> Card {
        Card {
            user_id: self.id,
            version: self.version,
            session_epoch: self.session_epoch,
            name: self.name,
            email: self.email,
            email_verified: self.email_verified_at.is_some(),
            push_token,
            preferences: Preferences { email: email.unwrap_or(true), push: push.unwrap_or(true) },
            is_active: self.is_active,
            is_staff: self.is_staff,
            locale: self.locale,
            time_zone: self.time_zone,
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

pub async fn list_versions(conn: &mut AsyncPgConnection, user_ids: &[Uuid]) -> QueryResult<Vec<(Uuid, i64)>> {
    users::table.filter(users::id.eq_any(user_ids)).select((users::id, users::version)).load(conn).await
}

pub async fn find_id_by_email_key(conn: &mut AsyncPgConnection, email_key: &str) -> QueryResult<Option<Uuid>> {
    users::table.filter(users::email_key.eq(email_key)).select(users::id).first(conn).await.optional()
}

pub async fn update_version(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> QueryResult<i64> {
    diesel::update(users::table.find(user_id))
        .set((users::version.eq(users::version + 1), users::updated_at.eq(now)))
        .returning(users::version)
        .get_result(conn)
        .await
}

/// The users of a page in their order, and one more if there is a next page.
pub async fn list_ids(conn: &mut AsyncPgConnection, listing: &Listing, way: Way) -> QueryResult<Vec<Uuid>> {
    let column = match listing.order.by {
        Column::CreatedAt => "created_at",
        Column::Email => "email_key",
        Column::Name => "name",
    };
    let (direction, comparison) = if listing.order.descending { ("DESC", "<") } else { ("ASC", ">") };
    let mut query = matching(listing, way, "SELECT u.id");
    let offset = match &listing.from {
        From::Offset(offset) => *offset,
        From::After(position) => {
            let bound = usize::from(listing.search.is_some());
            query = query.sql(format!(" AND (u.{column}, u.id) {comparison} (${}, ${})", bound + 1, bound + 2));
            query = match &position.value {
                Value::Time(time) => query.bind::<Timestamptz, _>(*time),
                Value::Text(text) => query.bind::<Text, _>(text.clone()),
            };
            query = query.bind::<SqlUuid, _>(position.user_id);
            0
        }
    };
    let query = query.sql(format!(" ORDER BY u.{column} {direction}, u.id {direction} LIMIT {} OFFSET {offset}", listing.limit + 1));
    Ok(query.load::<Found>(conn).await?.into_iter().map(|found| found.id).collect())
}

/// How many users match, if they are not more than `most`.
pub async fn count_up_to(conn: &mut AsyncPgConnection, listing: &Listing, way: Way, most: u64) -> QueryResult<u64> {
    let query = matching(listing, way, "SELECT count(*) AS count FROM (SELECT 1");
    let counted: Counted = query.sql(format!(" LIMIT {most}) AS counted")).get_result(conn).await?;
    Ok(counted.count.unsigned_abs())
}

/// The way to the users that a search names, which depends on how many they are.
pub async fn find_way(conn: &mut AsyncPgConnection, search: Option<&str>) -> QueryResult<Way> {
    let Some(search) = search else { return Ok(Way::ByOrder) };
    let counts = SEARCHED.map(|column| {
        let found = format!("SELECT 1 FROM users WHERE erased_at IS NULL AND {column} LIKE $1 LIMIT {}", MAX_FOUND + 1);
        format!("(SELECT count(*) FROM ({found}) AS found)")
    });
    let query = diesel::sql_query(format!("SELECT greatest({}) AS count", counts.join(", "))).into_boxed::<Pg>();
    let counted: Counted = bind_search(query, search).get_result(conn).await?;
    Ok(if counted.count.unsigned_abs() > MAX_FOUND { Way::ByOrder } else { Way::BySearch })
}

/// How many users match, as PostgreSQL's planner sees it.
pub async fn estimate(conn: &mut AsyncPgConnection, listing: &Listing) -> QueryResult<u64> {
    let query = format!("EXPLAIN (FORMAT JSON) SELECT id FROM users u WHERE {}", conditions(listing));
    let mut query = diesel::sql_query(query).into_boxed::<Pg>();
    if let Some(search) = &listing.search {
        query = bind_search(query.sql(is_searched()), search);
    }
    let plan: Plan = query.get_result(conn).await?;
    Ok(plan.plan.pointer("/0/Plan/Plan Rows").and_then(serde_json::Value::as_u64).unwrap_or_default())
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Plan {
    #[diesel(sql_type = Json, column_name = "QUERY PLAN")]
    plan: serde_json::Value,
}

type SqlQuery = diesel::query_builder::BoxedSqlQuery<'static, Pg, diesel::query_builder::SqlQuery>;

/// What a search looks at; each has its index.
const SEARCHED: [&str; 3] = ["email_key", "name_key", "last_name_key"];

/// Of so many at most a search reads all before it sorts them. Where more begin so, users are looked through in the order that is
/// asked for, and a page is full soon.
const MAX_FOUND: u64 = 20_000;

/// How users are come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ByOrder,
    BySearch,
}

/// `select … FROM … u WHERE` whatever the listing asks for. A search takes the parameter $1.
fn matching(listing: &Listing, way: Way, select: &str) -> SqlQuery {
    let query = diesel::sql_query(select.to_owned()).into_boxed::<Pg>();
    let conditions = conditions(listing);
    match (&listing.search, way) {
        (None, _) => query.sql(format!(" FROM users u WHERE {conditions}")),
        (Some(search), Way::ByOrder) => bind_search(query.sql(format!(" FROM users u WHERE {conditions}{}", is_searched())), search),
        (Some(search), Way::BySearch) => {
            let ways = SEARCHED.map(|column| {
                let columns = "id, created_at, email_key, name, is_active, is_staff, email_verified_at, erased_at";
                // The index's own order makes it worth while to go by it, however many there are.
                let found = format!("erased_at IS NULL AND {column} LIKE $1 ORDER BY {column} USING ~<~ LIMIT {MAX_FOUND}");
                format!("(SELECT {columns} FROM users WHERE {found})")
            });
            bind_search(query.sql(format!(" FROM ({}) u WHERE {conditions}", ways.join(" UNION "))), search)
        }
    }
}

fn is_searched() -> String {
    format!(" AND ({})", SEARCHED.map(|column| format!("u.{column} LIKE $1")).join(" OR "))
}

fn bind_search(query: SqlQuery, search: &str) -> SqlQuery {
    let begins = search.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    query.bind::<Text, _>(format!("{begins}%"))
}

fn conditions(listing: &Listing) -> String {
    let mut conditions = "u.erased_at IS NULL".to_owned();
    if let Some(is_active) = listing.is_active {
        conditions += if is_active { " AND u.is_active" } else { " AND NOT u.is_active" };
    }
    if let Some(verified) = listing.email_verified {
        conditions += if verified { " AND u.email_verified_at IS NOT NULL" } else { " AND u.email_verified_at IS NULL" };
    }
    if let Some(is_staff) = listing.is_staff {
        conditions += if is_staff { " AND u.is_staff" } else { " AND NOT u.is_staff" };
    }
    // Times as they are written here hold nothing but digits and marks.
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    if let Some(from) = listing.created.0 {
        conditions += &format!(" AND u.created_at >= '{}'", time(from));
    }
    if let Some(before) = listing.created.1 {
        conditions += &format!(" AND u.created_at < '{}'", time(before));
    }
    conditions
}
