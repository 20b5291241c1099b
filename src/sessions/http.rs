//! `/auth/login` and the shape in which tokens are given.

use actix_web::HttpRequest;
use apistos::{ApiComponent, api_operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Device, Tokens};
use crate::card::Card;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::envelope::Reply;
use crate::http::extract::Body;
use crate::http::origin;
use crate::http::user_body::UserBody;
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

/// A user and the tokens of a new session.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct SignedInUser {
    pub user: UserBody,
    pub access_token: String,
    pub refresh_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds until the access token expires.
    pub expires_in: u64,
}

impl SignedInUser {
    pub fn new(card: Card, tokens: Tokens) -> Self {
        Self {
            user: card.into(),
            access_token: tokens.access_token,
            refresh_token: tokens.refresh_token,
            token_type: "Bearer",
            expires_in: tokens.expires_in_seconds,
        }
    }
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
pub async fn login(app: State, request: HttpRequest, Body(body): Body<Login>) -> Result<Reply<SignedInUser>> {
    if body.password.is_empty() {
        return Err(Error::field("password", "must not be empty"));
    }
    let ip = origin::client_ip(&request, app.config.http.trusted_proxy_count);
    let device = Device { ip, user_agent: origin::user_agent(&request) };
    let (card, tokens) = super::sign_in(&app, &body.email, Password::typed(&body.password), device, origin::bucket(ip)).await?;
    Ok(Reply::new("Signed in", SignedInUser::new(card, tokens)))
}
