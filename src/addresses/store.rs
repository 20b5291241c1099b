//! The address of a user, as far as links prove or change it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::card::email_address::EmailAddress;
use crate::infra::schema::users;

/// `false`: the user is not active, or has another address by now, or this one was proven before.
pub async fn update_verified(conn: &mut AsyncPgConnection, id: Uuid, address: &str, now: DateTime<Utc>) -> QueryResult<bool> {
    let user = users::table.find(id).filter(users::is_active).filter(users::email.eq(address));
    let user = user.filter(users::email_verified_at.is_null());
    Ok(diesel::update(user).set(users::email_verified_at.eq(now)).execute(conn).await? == 1)
}

/// `false`: the address is another's.
pub async fn update_email(conn: &mut AsyncPgConnection, id: Uuid, email: &EmailAddress, now: DateTime<Utc>) -> QueryResult<bool> {
    let change = (users::email.eq(email.as_str()), users::email_key.eq(email.key()), users::email_verified_at.eq(now));
    match diesel::update(users::table.find(id)).set(change).execute(conn).await {
        Ok(changed) => Ok(changed == 1),
        Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, information))
            if information.constraint_name() == Some("users_email_key_unique") =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
