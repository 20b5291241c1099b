//! `/users` and `/users/profile`.

use apistos::{ApiComponent, api_operation};
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ProfileChange, Registered, Registration};
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card, Preferences};
use crate::error::{Code, Error, Problems, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Accepted, Created, Either, Nothing, Reply};
use crate::http::extract::{Body, present};
use crate::http::origin::Origin;
use crate::http::user_body::{TokensBody, UserBody};
use crate::infra::even_time;
use crate::passwords::{self, Password};
use crate::push_tokens::PushToken;
use crate::sessions;

/// A new account.
#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct Register {
    #[schemars(length(min = 1, max = 255), example = "example_name")]
    pub name: String,
    #[schemars(length(max = 254), example = "example_email")]
    pub email: String,
    /// 8 characters to 71 bytes, neither common nor digits only
    #[schemars(length(min = 8, max = 71), example = "example_password")]
    pub password: String,
    #[schemars(length(max = 4096))]
    pub push_token: Option<String>,
    pub preferences: Option<RegisterPreferences>,
}

/// What is left out is on.
#[derive(Debug, Default, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct RegisterPreferences {
    pub email: Option<bool>,
    pub push: Option<bool>,
}

fn example_name() -> &'static str {
    "Ada Lovelace"
}

fn example_email() -> &'static str {
    "ada@example.com"
}

fn example_password() -> &'static str {
    "TestPass123!"
}

/// The new user. The tokens of a first session come with it, unless sign-in waits for the verification of the address
/// (`REQUIRE_VERIFIED_EMAIL`).
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct RegisteredBody {
    pub user: UserBody,
    #[serde(flatten)]
    pub tokens: Option<TokensBody>,
}

#[api_operation(
    tag = "users",
    operation_id = "register_user",
    summary = "Register and sign in",
    description = "A link to verify the address is mailed. With REGISTRATION_PRIVACY=strict every answer is the same 202 without a user.",
    error_code = 400,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn register_user(
    app: State,
    origin: Origin,
    Body(body): Body<Register>,
) -> Result<Either<Created<RegisteredBody>, Accepted<Nothing>>> {
    let (arrived, cause) = (Instant::now(), origin.of_anyone());
    let now = cause.at;
    let admitted = app.hasher.admit()?;
    // Before anything is judged or hashed for it.
    super::count_attempt(&app, &cause).await?;
    drop(admitted);
    let checked = check(&app, body).await?;
    let registration = hash(&app, checked).await?;
    let (config, keys) = (app.config.clone(), app.keys.clone());
    let writing = app.db.write(move |tx| async move { super::register(tx, registration, &keys, &config, &cause).await }.boxed());
    let registered = writing.await?;
    match registered {
        Registered::SignedIn(card, opened) => {
            let tokens = sessions::issue_tokens(&app, opened, now)?.into_body();
            Ok(Either::First(Reply::new("Registered", RegisteredBody { user: card.into(), tokens: Some(tokens) })))
        }
        Registered::Unverified(card) => {
            Ok(Either::First(Reply::new("Registered; please follow the mailed link", RegisteredBody { user: card.into(), tokens: None })))
        }
        Registered::Private => {
            even_time::wait(arrived, app.config.identity.even_answer).await;
            Ok(Either::Second(Reply::new("Please follow the link that was mailed to the address", Nothing {})))
        }
    }
}

struct Checked {
    name: String,
    email: EmailAddress,
    password: Password,
    push_token: Option<PushToken>,
    preferences: Preferences,
}

async fn check(app: &App, body: Register) -> Result<Checked> {
    let mut problems = Problems::default();
    let name = problems.check("name", super::parse_name(&body.name));
    let email = problems.check("email", EmailAddress::parse(&body.email));
    let local_part = email.as_ref().map_or("", EmailAddress::local_part);
    let personal = [body.name.trim(), body.email.trim(), local_part].map(str::to_owned).to_vec();
    let password = problems.check("password", passwords::choose(&app.hasher, body.password, personal).await?);
    let given = body.push_token.filter(|token| !token.is_empty());
    let push_token = problems.check("push_token", given.as_deref().map(PushToken::parse).transpose());
    problems.finish()?;
    let chosen = body.preferences.unwrap_or_default();
    let preferences = Preferences { email: chosen.email.unwrap_or(true), push: chosen.push.unwrap_or(true) };
    match (name, email, password, push_token) {
        (Some(name), Some(email), Some(password), Some(push_token)) => Ok(Checked { name, email, password, push_token, preferences }),
        _ => Err(Error::internal("a checked registration lacks a field")),
    }
}

/// Before the transaction: a hash takes a tenth of a second, which no connection should wait for.
async fn hash(app: &App, checked: Checked) -> Result<Registration> {
    let Checked { name, email, password, push_token, preferences } = checked;
    let password_hash = app.hasher.hash(password.into_secret()).await?;
    Ok(Registration { name, email, password_hash, push_token, preferences })
}

#[api_operation(
    tag = "users",
    operation_id = "get_profile",
    summary = "The caller's profile",
    error_code = 401,
    error_code = 403,
    error_code = 503
)]
pub async fn get_profile(app: State, SignedIn(session): SignedIn) -> Result<Reply<UserBody>> {
    let found = app.db.read(move |conn| card::find(conn, session.user_id).boxed()).await?;
    let card = found.ok_or_else(|| Error::new(Code::UserNotFound, "There is no such user."))?;
    Ok(Reply::new("Profile", card.into()))
}

/// What to change. The read-only fields of a profile may come back as they were, so that a client can send the whole.
#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
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
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema, ApiComponent)]
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
    error_code = 413,
    error_code = 415,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn update_profile(app: State, signed_in: SignedIn, origin: Origin, body: Body<UpdateProfile>) -> Result<Reply<UserBody>> {
    apply_profile(app, signed_in, origin, body).await
}

#[api_operation(
    tag = "users",
    operation_id = "replace_profile",
    summary = "The same as PATCH",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn replace_profile(app: State, signed_in: SignedIn, origin: Origin, body: Body<UpdateProfile>) -> Result<Reply<UserBody>> {
    apply_profile(app, signed_in, origin, body).await
}

async fn apply_profile(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    Body(body): Body<UpdateProfile>,
) -> Result<Reply<UserBody>> {
    let (change, cause) = (check_profile(&body)?, origin.of(session));
    let writing = app.db.write(move |tx| {
        let unchanged = move |card: &Card| check_unchanged(&body, card);
        async move { super::change_profile(tx, session.user_id, change, unchanged, &cause).await }.boxed()
    });
    Ok(Reply::new("Profile updated", writing.await?.into()))
}

fn check_profile(body: &UpdateProfile) -> Result<ProfileChange> {
    let mut problems = Problems::default();
    let name = problems.check("name", body.name.as_deref().map(super::parse_name).transpose()).flatten();
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
    error_code = 401,
    error_code = 403,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn deactivate_user(app: State, SignedIn(session): SignedIn, origin: Origin) -> Result<Reply<Nothing>> {
    let cause = origin.of(session);
    app.db.write(move |tx| async move { super::deactivate(tx, session.user_id, &cause).await }.boxed()).await?;
    Ok(Reply::new("Deactivated", Nothing {}))
}
