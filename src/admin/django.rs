//! What a row of the Django service means. Its teams named columns differently, so each is looked for under its names.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::dump::Row;
use crate::card::Preferences;
use crate::card::email_address::EmailAddress;
use crate::infra::password_hash;
use crate::push_tokens::PushToken;
use crate::users;

/// An account as it is taken over.
#[derive(Clone, Debug)]
pub struct DjangoUser {
    pub id: Uuid,
    pub email: EmailAddress,
    pub name: String,
    /// `None`: of a scheme that is not read, or unusable; its owner sets a new password by mail.
    pub password_hash: Option<String>,
    pub push_token: Option<PushToken>,
    pub is_active: bool,
    pub email_verified: bool,
    pub preferences: Preferences,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A row of `users`; its preferences are a row of `user_preferences`, or a JSON column of its own.
///
/// # Errors
///
/// What is wrong with the row, without its values.
pub fn user(row: &Row, preferences: Option<&Row>, now: DateTime<Utc>) -> Result<DjangoUser, String> {
    let id = text(row, &["id", "user_id"]).ok_or("has no id")?;
    let id =
        id.parse::<Uuid>().map_err(|_number| "has an id that is no UUID, so that siblings would not know the user again".to_owned())?;
    let email = EmailAddress::parse(text(row, &["email"]).unwrap_or_default()).map_err(|problem| format!("{id}: email {problem}"))?;
    let created_at = time(row, &["created_at", "date_joined"]).unwrap_or(now);
    let own = text(row, &["preferences"]).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let wants = |names: &[&str], key: &str| {
        let stored = preferences.and_then(|row| flag(row, names));
        stored.or_else(|| own.as_ref()?.get(key)?.as_bool()).unwrap_or(true)
    };
    Ok(DjangoUser {
        id,
        name: name(row, &email),
        password_hash: text(row, &["password"]).filter(|hash| password_hash::is_readable(hash)).map(str::to_owned),
        push_token: text(row, &["push_token", "device_token", "fcm_token"]).and_then(|token| PushToken::parse(token).ok()),
        is_active: flag(row, &["is_active"]).unwrap_or(true),
        email_verified: flag(row, &["email_verified", "is_email_verified", "is_verified"])
            .unwrap_or_else(|| text(row, &["email_verified_at"]).is_some()),
        preferences: Preferences {
            email: wants(&["email", "email_enabled", "email_notifications", "enable_email", "notification_email"], "email"),
            push: wants(&["push", "push_enabled", "push_notifications", "enable_push", "notification_push"], "push"),
        },
        created_at,
        updated_at: time(row, &["updated_at", "last_login"]).unwrap_or(created_at),
        email,
    })
}

/// Whether Django took the user for staff, which is told and never taken over by itself.
pub fn is_staff(row: &Row) -> bool {
    flag(row, &["is_staff"]).unwrap_or(false) || flag(row, &["is_superuser"]).unwrap_or(false)
}

fn text<'a>(row: &'a Row, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| row.get(*name)?.as_deref()).filter(|text| !text.is_empty())
}

fn flag(row: &Row, names: &[&str]) -> Option<bool> {
    match text(row, names)? {
        "t" | "true" => Some(true),
        "f" | "false" => Some(false),
        _ => None,
    }
}

/// `2026-01-02 03:04:05.678+00` of a dump, or RFC 3339 of a JSON row.
fn time(row: &Row, names: &[&str]) -> Option<DateTime<Utc>> {
    let text = text(row, names)?;
    let with_zone = DateTime::parse_from_rfc3339(text).or_else(|_other| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z"));
    with_zone.map(|time| time.to_utc()).ok().or_else(|| {
        let naive = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
        naive.or_else(|_other| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")).map(|time| time.and_utc()).ok()
    })
}

/// A name that is fit to be one; where there is none, what stands before the `@`.
fn name(row: &Row, email: &EmailAddress) -> String {
    let whole = text(row, &["name", "full_name", "user_name", "username"]).map(str::to_owned);
    let parts = || {
        let parts: Vec<_> = ["first_name", "last_name"].iter().filter_map(|part| text(row, &[part])).collect();
        parts.join(" ")
    };
    let visible: String = whole.unwrap_or_else(parts).chars().filter(|character| !character.is_control()).take(255).collect();
    users::parse_name(&visible).unwrap_or_else(|_unfit| email.local_part().chars().take(255).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[(&str, &str)]) -> Row {
        columns.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect()
    }

    const ID: &str = "6f1a1a8e-3c5d-4a55-9d5a-0f6f5d7a2b11";

    #[test]
    fn the_seeds_columns_and_their_other_names_are_read() {
        let django = include_str!("../../tests/fixtures/django-hash.txt").trim();
        let users = row(&[
            ("id", ID),
            ("email", "Ada@Example.COM"),
            ("name", "Ada"),
            ("password", django),
            ("push_token", "device-1"),
            ("is_active", "t"),
            ("email_verified", "t"),
            ("created_at", "2025-11-10 12:00:00.5+00"),
            ("updated_at", "2025-11-11T12:00:00+00:00"),
        ]);
        let preferences = row(&[("user_id", ID), ("email_enabled", "f"), ("push", "t")]);
        let user = user(&users, Some(&preferences), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!((user.id.to_string().as_str(), user.email.as_str(), user.name.as_str()), (ID, "Ada@example.com", "Ada"));
        assert_eq!((user.password_hash.as_deref(), user.push_token.unwrap().as_str()), (Some(django), "device-1"));
        assert_eq!((user.is_active, user.email_verified, user.preferences), (true, true, Preferences { email: false, push: true }));
        assert_eq!((user.created_at.timestamp(), user.updated_at.timestamp()), (1_762_776_000, 1_762_862_400));
    }

    #[test]
    fn what_is_missing_has_a_sensible_value_and_what_is_unfit_stays_out() {
        let bare = row(&[
            ("id", ID),
            ("email", "ada@example.com"),
            ("first_name", "Ada\r\n"),
            ("last_name", "Lovelace"),
            ("password", "!unusable"),
            ("push_token", "é"),
            ("preferences", "{\"email\": false}"),
            ("is_staff", "t"),
        ]);
        assert!(is_staff(&bare));
        let user = user(&bare, None, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!((user.name.as_str(), user.password_hash, user.push_token), ("Ada Lovelace", None, None));
        assert_eq!((user.is_active, user.email_verified, user.preferences), (true, false, Preferences { email: false, push: true }));
        for (columns, problem) in [
            (vec![("id", "17"), ("email", "a@example.com")], "no UUID"),
            (vec![("id", ID), ("email", "admin@localhost")], "email must be a mail address"),
            (vec![("email", "a@example.com")], "has no id"),
        ] {
            assert!(super::user(&row(&columns), None, DateTime::UNIX_EPOCH).unwrap_err().contains(problem));
        }
    }
}
