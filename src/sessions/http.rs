//! `/auth/login`, and how tokens are given.

use actix_web::HttpRequest;
use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Device, Lifetime, Tokens};
use crate::card::Card;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::envelope::Reply;
use crate::http::extract::Body;
use crate::http::origin;
use crate::http::user_body::SignedInBody;
use crate::passwords::Password;

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
    description = "Wrong, unknown and inactive are the same answer.",
    error_code = 400,
    error_code = 401,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503,
    skip_args = "request"
)]
pub async fn login(app: State, request: HttpRequest, Body(body): Body<Login>) -> Result<Reply<SignedInBody>> {
    if body.password.is_empty() {
        return Err(Error::field("password", "must not be empty"));
    }
    let now = app.clock.now();
    let ip = origin::client_ip(&request, app.config.http.trusted_proxy_count);
    let device = Device { ip, user_agent: origin::user_agent(&request) };
    let verified = super::verify(&app, &body.email, Password::typed(&body.password), origin::bucket(ip)).await?;
    let (keys, lifetime) = (app.keys.clone(), Lifetime::from(&app.config.identity));
    let (card, opened) =
        app.db.write(move |tx| async move { super::sign_in(tx, &keys, verified, device, lifetime, now).await }.boxed()).await?;
    Ok(Reply::new("Signed in", super::issue_tokens(&app, opened, now)?.with_user(card)))
}

impl Tokens {
    /// As every door gives them.
    pub fn with_user(self, card: Card) -> SignedInBody {
        let Self { access_token, refresh_token, expires_in_seconds } = self;
        SignedInBody { user: card.into(), access_token, refresh_token, token_type: "Bearer", expires_in: expires_in_seconds }
    }
}
