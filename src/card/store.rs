//! Reads across the tables of a user; the only write is the version.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

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
