//! The users table, as far as accounts and profiles write it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::card::email_address::EmailAddress;
use crate::infra::schema::users;

#[derive(Insertable)]
#[diesel(table_name = users)]
struct NewUser<'a> {
    id: Uuid,
    email: &'a str,
    email_key: String,
    name: &'a str,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// `false`: the address is taken.
pub async fn insert_user(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    email: &EmailAddress,
    name: &str,
    now: DateTime<Utc>,
) -> QueryResult<bool> {
    let user = NewUser { id, email: email.as_str(), email_key: email.key(), name, created_at: now, updated_at: now };
    let inserted = diesel::insert_into(users::table).values(user).on_conflict(users::email_key).do_nothing().execute(conn).await?;
    Ok(inserted == 1)
}

/// Held until the transaction ends; taken in the order of the ids, so that no two wait for each other.
pub async fn lock_users(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<usize> {
    let locked = users::table.filter(users::id.eq_any(ids)).order(users::id).select(users::id).for_no_key_update();
    Ok(locked.load::<Uuid>(conn).await?.len())
}

/// `false`: there is no such user, or he is not active.
pub async fn lock_active_user(conn: &mut AsyncPgConnection, id: Uuid) -> QueryResult<bool> {
    let locked =
        users::table.find(id).filter(users::is_active).select(users::id).for_no_key_update().first::<Uuid>(conn).await.optional()?;
    Ok(locked.is_some())
}

pub async fn update_name(conn: &mut AsyncPgConnection, id: Uuid, name: &str) -> QueryResult<usize> {
    diesel::update(users::table.find(id)).set(users::name.eq(name)).execute(conn).await
}

pub async fn update_deactivated(conn: &mut AsyncPgConnection, id: Uuid, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::update(users::table.find(id)).set((users::is_active.eq(false), users::deactivated_at.eq(now))).execute(conn).await
}
