//! `/users/profile`.

use apistos::{ApiComponent, api_operation};
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ProfileChange;
use crate::card::Card;
use crate::error::{Problems, Result};
use crate::http::State;
use crate::http::auth::{Me, SignedIn};
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::{Body, NoBody, present};
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::http::user_body::UserBody;
use crate::push_tokens::PushToken;
use crate::users::parse_name;

#[api_operation(
    tag = "users",
    operation_id = "get_profile",
    summary = "The caller's profile",
    error_code = 401,
    error_code = 403,
    error_code = 503
)]
pub async fn get_profile(Me(card): Me) -> Result<Reply<UserBody>> {
    Ok(Reply::new("Profile", card.into()))
}

/// What to change. The read-only fields of a profile may come back as they were, so that a client can send the whole.
#[derive(Clone, Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct UpdateProfile {
    #[schemars(length(min = 1, max = 255))]
    pub name: Option<String>,
    /// `""` or `null` clears it
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Option<String>", length(max = 4096))]
    pub push_token: Option<Option<String>>,
    pub user_id: Option<Uuid>,
    pub id: Option<Uuid>,
    pub email: Option<String>,
    pub preferences: Option<UnchangedPreferences>,
    pub email_verified: Option<bool>,
    pub created_at: Option<DateTime<Utc>>,
    pub updated_at: Option<DateTime<Utc>>,
}

/// As the profile shows them; they are changed at `/users/preferences`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct UnchangedPreferences {
    pub email: bool,
    pub push: bool,
}

#[api_operation(
    tag = "users",
    operation_id = "update_profile",
    summary = "Change name or push token",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn update_profile(
    app: State,
    signed_in: SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    body: Body<UpdateProfile>,
) -> Result<Answer<Reply<UserBody>>> {
    apply_profile(app, signed_in, origin, idempotency, body).await
}

#[api_operation(
    tag = "users",
    operation_id = "replace_profile",
    summary = "The same as PATCH",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn replace_profile(
    app: State,
    signed_in: SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    body: Body<UpdateProfile>,
) -> Result<Answer<Reply<UserBody>>> {
    apply_profile(app, signed_in, origin, idempotency, body).await
}

async fn apply_profile(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<UpdateProfile>,
) -> Result<Answer<Reply<UserBody>>> {
    let change = check_profile(&body)?;
    let writing = idempotency.write(&app, origin.of(session), move |tx, cause| {
        async move {
            let unchanged = move |card: &Card| check_unchanged(&body, card);
            let card = super::change_profile(tx, session.user_id, change, unchanged, cause).await?;
            Ok(Reply::new("Profile updated", card.into()))
        }
        .boxed()
    });
    writing.await
}

fn check_profile(body: &UpdateProfile) -> Result<ProfileChange> {
    let mut problems = Problems::default();
    let name = problems.check("name", body.name.as_deref().map(parse_name).transpose()).flatten();
    let push_token = match &body.push_token {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) if text.is_empty() => Some(None),
        Some(Some(text)) => problems.check("push_token", PushToken::parse(text)).map(Some),
    };
    problems.finish()?;
    Ok(ProfileChange { name, push_token })
}

fn check_unchanged(body: &UpdateProfile, card: &Card) -> Result<()> {
    let mut problems = Problems::default();
    let mut check = |field, differs: bool, where_else| {
        if differs {
            problems.add(field, where_else);
        }
    };
    let preferences = UnchangedPreferences { email: card.preferences.email, push: card.preferences.push };
    check("user_id", body.user_id.is_some_and(|id| id != card.user_id), "cannot be changed");
    check("id", body.id.is_some_and(|id| id != card.user_id), "cannot be changed");
    check("email", body.email.as_ref().is_some_and(|email| *email != card.email), "cannot be changed here");
    check("preferences", body.preferences.as_ref().is_some_and(|given| *given != preferences), "is changed at /api/v1/users/preferences");
    check("email_verified", body.email_verified.is_some_and(|given| given != card.email_verified), "cannot be changed");
    check("created_at", body.created_at.is_some_and(|at| at != card.created_at), "cannot be changed");
    check("updated_at", body.updated_at.is_some_and(|at| at != card.updated_at), "is another: the profile has changed since");
    problems.finish()
}

#[api_operation(
    tag = "users",
    operation_id = "deactivate_user",
    summary = "Deactivate the account; every session ends",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn deactivate_user(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    _body: NoBody,
) -> Result<Answer<Reply<Nothing>>> {
    let writing = idempotency.write(&app, origin.of(session), move |tx, cause| {
        async move {
            super::deactivate(tx, session.user_id, None, cause).await?;
            Ok(Reply::new("Deactivated", Nothing {}))
        }
        .boxed()
    });
    writing.await
}
