//! SQL across the tables of a person, and on the Django service's.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Jsonb, Nullable, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use crate::infra::schema::{
    credentials, one_time_tokens, outbox, preferences, push_inbox, push_tokens, recovery_codes, sessions, staff_origins, staff_sessions,
    totp, users,
};

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = Nullable<Jsonb>)]
    found: Option<Value>,
}

/// A table of the Django service.
#[derive(Clone, Copy, Debug)]
pub enum DjangoTable {
    Users,
    UserPreferences,
}

/// Every row, its columns by name.
pub async fn list_django_rows(conn: &mut AsyncPgConnection, table: DjangoTable) -> QueryResult<Vec<Value>> {
    let query = match table {
        DjangoTable::Users => "SELECT to_jsonb(t) AS found FROM users t",
        DjangoTable::UserPreferences => "SELECT to_jsonb(t) AS found FROM user_preferences t",
    };
    let rows: Vec<Found> = diesel::sql_query(query).load(conn).await?;
    Ok(rows.into_iter().filter_map(|row| row.found).collect())
}

#[derive(Insertable)]
#[diesel(table_name = users)]
pub struct ImportedUser<'a> {
    pub id: Uuid,
    pub email: &'a str,
    pub email_key: String,
    pub email_verified_at: Option<DateTime<Utc>>,
    pub name: &'a str,
    pub is_active: bool,
    pub is_staff: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deactivated_at: Option<DateTime<Utc>>,
}

/// `false`: id or address are there already.
pub async fn insert_imported(conn: &mut AsyncPgConnection, user: ImportedUser<'_>) -> QueryResult<bool> {
    Ok(diesel::insert_into(users::table).values(user).on_conflict_do_nothing().execute(conn).await? == 1)
}

/// Locks the user; `None`: erased before.
pub async fn lock_unerased(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<Option<Uuid>> {
    let user = users::table.find(user_id).filter(users::erased_at.is_null()).select(users::id);
    user.for_no_key_update().first(conn).await.optional()
}

/// Empties the user's row; only the id and the times stay.
pub async fn update_erased(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> QueryResult<usize> {
    // .invalid is reserved (RFC 2606): no mail can ever go there.
    let address = format!("erased-{user_id}@erased.invalid");
    diesel::update(users::table.find(user_id))
        .set((
            users::email.eq(&address),
            users::email_key.eq(&address),
            users::email_verified_at.eq(None::<DateTime<Utc>>),
            users::name.eq("erased"),
            users::locale.eq(None::<String>),
            users::time_zone.eq(None::<String>),
            users::is_active.eq(false),
            users::is_staff.eq(false),
            users::deactivated_at.eq(now),
            users::erased_at.eq(now),
        ))
        .execute(conn)
        .await
}

/// Deletes what hangs on the user.
pub async fn delete_belongings(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<()> {
    diesel::delete(credentials::table.find(user_id)).execute(conn).await?;
    diesel::delete(preferences::table.filter(preferences::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(push_tokens::table.filter(push_tokens::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(sessions::table.filter(sessions::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(one_time_tokens::table.filter(one_time_tokens::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(staff_sessions::table.filter(staff_sessions::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(staff_origins::table.filter(staff_origins::user_id.eq(user_id))).execute(conn).await?;
    diesel::delete(totp::table.find(user_id)).execute(conn).await?;
    diesel::delete(recovery_codes::table.filter(recovery_codes::user_id.eq(user_id))).execute(conn).await?;
    Ok(())
}

/// Deletes messages about the user, sent or not, also copies of dead letters that only name the id in their body.
pub async fn delete_messages(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<usize> {
    let about = diesel::delete(outbox::table.filter(outbox::user_id.eq(user_id))).execute(conn).await?;
    let asked = diesel::delete(push_inbox::table.filter(push_inbox::user_id.eq(user_id))).execute(conn).await?;
    // Only these have a body, and an index.
    let unread = "DELETE FROM push_inbox WHERE outcome IN ('dead', 'retry') AND position(convert_to($1::text, 'UTF8') IN body) > 0";
    let unread = diesel::sql_query(unread).bind::<SqlUuid, _>(user_id).execute(conn).await?;
    let naming = "DELETE FROM outbox WHERE lane <> 'cache' AND position(convert_to($1::text, 'UTF8') IN payload) > 0";
    Ok(about + asked + unread + diesel::sql_query(naming).bind::<SqlUuid, _>(user_id).execute(conn).await?)
}

/// Everything that is stored about a user, except what could be used in their place: hashes.
pub async fn find_everything(conn: &mut AsyncPgConnection, user_id: Uuid, now: DateTime<Utc>) -> QueryResult<Option<Value>> {
    let query = "SELECT jsonb_build_object(
        'exported_at', $2,
        'user', to_jsonb(u),
        'password_changed_at', (SELECT changed_at FROM credentials WHERE user_id = u.id),
        'preferences', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id'), '[]') FROM preferences t WHERE user_id = u.id),
        'push_tokens', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id' - 'token_sha256'), '[]') FROM push_tokens t WHERE user_id = u.id),
        'sessions', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id'), '[]') FROM sessions t WHERE user_id = u.id),
        'links', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id' - 'id'), '[]') FROM one_time_tokens t WHERE user_id = u.id),
        'messages', (SELECT coalesce(jsonb_agg(jsonb_build_object('created_at', created_at, 'sent_at', done_at, 'routing_key', routing_key,
            'body', convert_from(payload, 'UTF8'))), '[]') FROM outbox WHERE user_id = u.id AND lane <> 'cache'),
        'push_requests', (SELECT coalesce(jsonb_agg(to_jsonb(t) - 'user_id' - 'fingerprint' - 'body'
            || jsonb_build_object('body', encode(body, 'escape'))), '[]') FROM push_inbox t WHERE user_id = u.id),
        'audit_log', (SELECT coalesce(jsonb_agg(to_jsonb(t) ORDER BY at), '[]') FROM audit_log t
            WHERE subject_id = u.id OR actor_id = u.id::text)) AS found
      FROM users u WHERE u.id = $1";
    let found: Option<Found> =
        diesel::sql_query(query).bind::<SqlUuid, _>(user_id).bind::<Timestamptz, _>(now).get_result(conn).await.optional()?;
    Ok(found.and_then(|row| row.found))
}
