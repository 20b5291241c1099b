//! `/users`: registration.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Registration;
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{Card, Preferences};
use crate::config::RegistrationPrivacy;
use crate::error::{Error, Problems, Result};
use crate::http::State;
use crate::http::envelope::{Accepted, Created, Either, Nothing, Reply, Storable as _};
use crate::http::extract::Body;
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::http::user_body::{TokensBody, UserBody};
use crate::infra::{even_time, throttle};
use crate::passwords::{self, Password};
use crate::push_tokens::PushToken;
use crate::sessions::{self, Tokens};

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
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 429,
    error_code = 503,
    skip_args = "origin"
)]
pub async fn register_user(
    app: State,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<Register>,
) -> Result<Answer<RegisterReply>> {
    let (arrived, cause) = (Instant::now(), origin.of_anyone());
    if let Some(answer) = idempotency.find(&app, &cause).await? {
        return Ok(answer);
    }
    let admitted = app.hasher.admit()?;
    // Before anything is judged or hashed for it.
    throttle::count_ip(&app.db, &app.keys, "REGISTER_IP", app.config.limits.register_ip, &cause).await?;
    drop(admitted);
    let checked = check(&app, body).await?;
    let registration = hash(&app, checked).await?;
    let (config, keys, now) = (app.config.clone(), app.keys.clone(), cause.at);
    let signs_in = !config.identity.require_verified_email;
    let writing = idempotency.write_as(
        &app,
        cause,
        move |tx, cause| async move { super::register(tx, registration, &keys, &config, cause).await }.boxed(),
        // A session's tokens are given once; a copy of the request gets the user.
        move |registered| reply(registered.card.clone(), None, signs_in).stored(),
    );
    let answer = writing.await?.try_map(|registered| {
        let tokens = registered.session.map(|opened| sessions::issue_tokens(&app, opened, now)).transpose()?;
        Ok(reply(registered.card, tokens.map(Tokens::into_body), signs_in))
    })?;
    if app.config.identity.registration_privacy == RegistrationPrivacy::Strict {
        even_time::wait(arrived, app.config.identity.even_answer).await;
    }
    Ok(answer)
}

type RegisterReply = Either<Created<RegisteredBody>, Accepted<Nothing>>;

/// Without a card nothing is told; without tokens sign-in waits for the mailed link, or the caller had them before.
fn reply(card: Option<Card>, tokens: Option<TokensBody>, signs_in: bool) -> RegisterReply {
    let message = if signs_in { "Registered" } else { "Registered; please follow the mailed link" };
    match card {
        Some(card) => Either::First(Reply::new(message, RegisteredBody { user: card.into(), tokens })),
        None => Either::Second(Reply::new("Please follow the link that was mailed to the address", Nothing {})),
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
