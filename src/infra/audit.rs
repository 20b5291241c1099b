//! The audit log: append-only (a trigger sees to it), written in the transaction of what it tells.
//!
//! It names people by their ids and holds no secret, so that it can outlive a person's erasure.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::cause::Cause;
use super::schema::audit_log;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Registered,
    RegistrationOfTakenAddress,
    SignedIn,
    SignInFailed,
    SignedOut,
    SessionRevoked,
    RefreshTokenReused,
    PasswordChanged,
    PasswordResetRequested,
    PasswordReset,
    EmailVerified,
    EmailChangeRequested,
    EmailChanged,
    ProfileChanged,
    PreferencesChanged,
    PushTokenSet,
    PushTokenCleared,
    PushTokenMoved,
    Deactivated,
    Reactivated,
    StaffGranted,
    StaffWithdrawn,
    SessionsEnded,
    SecondFactorEnrolled,
    SecondFactorReset,
    SecondFactorAccepted,
    SecondFactorRefused,
    VerificationResent,
    DeadLettersRedriven,
    OutboxRetried,
    Imported,
    Exported,
    Erased,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Registered => "registered",
            Action::RegistrationOfTakenAddress => "registration_of_taken_address",
            Action::SignedIn => "signed_in",
            Action::SignInFailed => "sign_in_failed",
            Action::SignedOut => "signed_out",
            Action::SessionRevoked => "session_revoked",
            Action::RefreshTokenReused => "refresh_token_reused",
            Action::PasswordChanged => "password_changed",
            Action::PasswordResetRequested => "password_reset_requested",
            Action::PasswordReset => "password_reset",
            Action::EmailVerified => "email_verified",
            Action::EmailChangeRequested => "email_change_requested",
            Action::EmailChanged => "email_changed",
            Action::ProfileChanged => "profile_changed",
            Action::PreferencesChanged => "preferences_changed",
            Action::PushTokenSet => "push_token_set",
            Action::PushTokenCleared => "push_token_cleared",
            Action::PushTokenMoved => "push_token_moved",
            Action::Deactivated => "deactivated",
            Action::Reactivated => "reactivated",
            Action::StaffGranted => "staff_granted",
            Action::StaffWithdrawn => "staff_withdrawn",
            Action::SessionsEnded => "sessions_ended",
            Action::SecondFactorEnrolled => "second_factor_enrolled",
            Action::SecondFactorReset => "second_factor_reset",
            Action::SecondFactorAccepted => "second_factor_accepted",
            Action::SecondFactorRefused => "second_factor_refused",
            Action::VerificationResent => "verification_resent",
            Action::DeadLettersRedriven => "dead_letters_redriven",
            Action::OutboxRetried => "outbox_retried",
            Action::Imported => "imported",
            Action::Exported => "exported",
            Action::Erased => "erased",
        }
    }
}

#[derive(Insertable)]
#[diesel(table_name = audit_log)]
struct NewEntry<'a> {
    id: Uuid,
    at: DateTime<Utc>,
    actor_kind: &'static str,
    actor_id: Option<String>,
    subject_id: Option<Uuid>,
    action: &'static str,
    reason: Option<&'a str>,
    ip: Option<String>,
    correlation_id: &'a str,
    detail: Value,
}

/// Records what happens to a user, in the caller's transaction.
pub async fn record(conn: &mut AsyncPgConnection, cause: &Cause, action: Action, subject_id: Uuid) -> QueryResult<()> {
    insert(conn, cause, action, Some(subject_id), None, Map::new()).await
}

/// The same with a word on why, and what else is worth knowing; `subject_id` is absent where the user is not known.
pub async fn record_with(
    conn: &mut AsyncPgConnection,
    cause: &Cause,
    action: Action,
    subject_id: Option<Uuid>,
    reason: &str,
    detail: Map<String, Value>,
) -> QueryResult<()> {
    insert(conn, cause, action, subject_id, Some(reason), detail).await
}

async fn insert(
    conn: &mut AsyncPgConnection,
    cause: &Cause,
    action: Action,
    subject_id: Option<Uuid>,
    reason: Option<&str>,
    detail: Map<String, Value>,
) -> QueryResult<()> {
    let entry = NewEntry {
        id: Uuid::now_v7(),
        at: cause.at,
        actor_kind: cause.actor.kind(),
        actor_id: cause.actor.id(),
        subject_id,
        action: action.as_str(),
        reason,
        ip: cause.ip.map(|ip| ip.to_string()),
        correlation_id: &cause.correlation_id,
        detail: Value::Object(detail),
    };
    diesel::insert_into(audit_log::table).values(entry).execute(conn).await?;
    Ok(())
}

/// An entry, as it is shown.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = audit_log)]
pub struct Entry {
    pub at: DateTime<Utc>,
    pub actor_kind: String,
    pub actor_id: Option<String>,
    pub action: String,
    pub reason: Option<String>,
    pub ip: Option<String>,
    pub correlation_id: Option<String>,
}

/// The newest entries about a user.
pub async fn list_about(conn: &mut AsyncPgConnection, subject_id: Uuid, limit: i64) -> QueryResult<Vec<Entry>> {
    let about = audit_log::table.filter(audit_log::subject_id.eq(subject_id));
    about.order(audit_log::at.desc()).limit(limit).select(Entry::as_select()).load(conn).await
}

/// Takes the addresses of origin from everything about a user, and from what he did to others; what happened, and the id, stay.
pub async fn update_pseudonymised(conn: &mut AsyncPgConnection, subject_id: Uuid) -> QueryResult<usize> {
    let his = audit_log::subject_id.eq(subject_id).or(audit_log::actor_id.eq(subject_id.to_string()));
    let entries = audit_log::table.filter(his).filter(audit_log::ip.is_not_null());
    diesel::update(entries).set(audit_log::ip.eq(None::<String>)).execute(conn).await
}

/// Deletes entries older than 400 days, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = audit_log::table.filter(audit_log::at.lt(now - TimeDelta::days(400))).select(audit_log::id).limit(limit);
    let ids = old.load::<Uuid>(conn).await?;
    diesel::delete(audit_log::table.filter(audit_log::id.eq_any(ids))).execute(conn).await
}
