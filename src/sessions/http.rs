//! `/auth/login`, `/auth/refresh`, `/auth/logout` and `/auth/sessions`.

use apistos::{ApiComponent, api_operation};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Lifetime, SignOut, Tokens};
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Meta, Nothing, Reply};
use crate::http::extract::{Body, NoBody, OptionalBody, PathId};
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::http::user_body::{SignedInBody, TokensBody};
use crate::passwords::Password;
use crate::push_tokens::PushToken;

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct Login {
    #[schemars(example = "example_email")]
    pub email: String,
    #[schemars(example = "example_password")]
    pub password: String,
}

fn example_email() -> &'static str {
    "ada@example.com"
}

fn example_password() -> &'static str {
    "TestPass123!"
}

#[api_operation(
    tag = "sessions",
    operation_id = "login",
    summary = "Sign in",
    description = "Wrong, unknown and inactive are the same answer, in the same time. 403 email_not_verified where the installation asks for verified addresses.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn login(app: State, origin: Origin, Body(body): Body<Login>) -> Result<Reply<SignedInBody>> {
    if body.password.is_empty() {
        return Err(Error::field("password", "must not be empty"));
    }
    let cause = origin.of_anyone();
    let now = cause.at;
    let verified = super::verify(&app, &body.email, Password::typed(&body.password), &cause).await?;
    let (keys, lifetime) = (app.keys.clone(), Lifetime::from(&app.config.identity));
    let (card, opened) = app.db.write(move |tx| async move { super::sign_in(tx, &keys, verified, lifetime, cause).await }.boxed()).await?;
    let tokens = super::issue_tokens(&app, opened, now)?.into_body();
    Ok(Reply::new("Signed in", SignedInBody { user: card.into(), tokens }))
}

/// The refresh token, under either name.
#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct Refresh {
    #[serde(alias = "refresh")]
    pub refresh_token: String,
}

#[api_operation(
    tag = "sessions",
    operation_id = "refresh_session",
    summary = "The next pair of tokens",
    description = "Each refresh token works once. The one before the newest may come back within a few seconds, for an answer that was lost; an older one ends the session.",
    error_code = 400,
    error_code = 401,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn refresh_session(app: State, origin: Origin, Body(body): Body<Refresh>) -> Result<Reply<TokensBody>> {
    let cause = origin.of_anyone();
    let now = cause.at;
    let token = super::open_token(&app, &body.refresh_token).await?;
    let identity = &app.config.identity;
    let (lifetime, grace) = (Lifetime::from(identity), TimeDelta::from_std(identity.refresh_grace).unwrap_or_default());
    let refreshed = app.db.write(move |tx| async move { super::refresh(tx, token, lifetime, grace, &cause).await }.boxed()).await?;
    let (token, user_id) = refreshed.into_token()?;
    Ok(Reply::new("Refreshed", super::give_tokens(&app, token, user_id, now)?.into_body()))
}

/// All fields may be left out, and the body with them.
#[derive(Debug, Default, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct Logout {
    /// Ends every session of the user, not only this one
    #[serde(default)]
    pub everywhere: bool,
    /// Silences this phone as well, if it is the user's
    pub push_token: Option<String>,
}

#[api_operation(
    tag = "sessions",
    operation_id = "logout",
    summary = "End this session, or all",
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
pub async fn logout(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    OptionalBody(body): OptionalBody<Logout>,
) -> Result<Answer<Reply<Nothing>>> {
    let body = body.unwrap_or_default();
    let token = body.push_token.as_deref().filter(|token| !token.is_empty()).map(PushToken::parse).transpose();
    let how = SignOut { everywhere: body.everywhere, push_token: token.map_err(|problem| Error::field("push_token", problem))? };
    let writing = idempotency.write(&app, origin.of(session), move |tx, cause| {
        async move {
            super::sign_out(tx, session, how, cause).await?;
            Ok(Reply::new("Signed out", Nothing {}))
        }
        .boxed()
    });
    writing.await
}

/// A session as its user sees it.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct SessionBody {
    pub id: Uuid,
    /// Whether it is the one that asks
    pub current: bool,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_used_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

#[api_operation(
    tag = "sessions",
    operation_id = "list_sessions",
    summary = "The caller's live sessions, the one used last first",
    error_code = 401,
    error_code = 403,
    error_code = 503
)]
pub async fn list_sessions(app: State, SignedIn(session): SignedIn) -> Result<Reply<Vec<SessionBody>>> {
    let now = app.clock.now();
    let found = app.db.read(move |conn| super::list(conn, session.user_id, now).boxed()).await?;
    let shown = found.into_iter().map(|found| SessionBody {
        id: found.session_id,
        current: found.session_id == session.session_id,
        ip: found.ip,
        user_agent: found.user_agent,
        created_at: found.created_at,
        last_used_at: found.last_used_at,
        expires_at: found.expires_at,
    });
    let shown: Vec<_> = shown.collect();
    let meta = Meta::whole(shown.len(), super::MAX_PER_USER.unsigned_abs());
    Ok(Reply::new("Sessions", shown).with_meta(meta))
}

#[api_operation(
    tag = "sessions",
    operation_id = "end_session",
    summary = "End one of the caller's sessions",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn end_session(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    PathId(id): PathId,
    _body: NoBody,
) -> Result<Answer<Reply<Nothing>>> {
    let writing = idempotency.write(&app, origin.of(session), move |tx, cause| {
        async move {
            super::revoke(tx, session.user_id, id, cause).await?;
            Ok(Reply::new("Session ended", Nothing {}))
        }
        .boxed()
    });
    writing.await
}

impl Tokens {
    /// As every door gives them.
    pub fn into_body(self) -> TokensBody {
        let Self { access_token, refresh_token, expires_in_seconds } = self;
        TokensBody { access_token, refresh_token, token_type: "Bearer", expires_in: expires_in_seconds }
    }
}
