//! `/auth/verify-email` and `/users/email`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::Body;
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::infra::one_time_token::Purpose;
use crate::infra::{even_time, throttle};
use crate::passwords::{self, Password};

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct FollowLink {
    /// From the link of the mail
    pub token: String,
}

#[api_operation(
    tag = "users",
    operation_id = "verify_email",
    summary = "Prove the address by the mailed link",
    description = "400 invalid_token if the link was used, replaced, or has expired.",
    skip_args = "origin",
    error_code = 400,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 429,
    error_code = 503
)]
pub async fn verify_email(
    app: State,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<FollowLink>,
) -> Result<Answer<Reply<Nothing>>> {
    follow(&app, body, &[Purpose::EmailVerification], origin, idempotency, "Address verified").await
}

async fn follow(
    app: &App,
    body: FollowLink,
    purposes: &'static [Purpose],
    origin: Origin,
    idempotency: Idempotency,
    message: &'static str,
) -> Result<Answer<Reply<Nothing>>> {
    let cause = origin.of_anyone();
    if let Some(answer) = idempotency.find(app, &cause).await? {
        return Ok(answer);
    }
    let token = super::open_link(app, body.token, purposes, &cause).await?;
    let config = app.config.clone();
    let writing = idempotency.write(app, cause, move |tx, cause| {
        async move {
            super::confirm(tx, &token, &config, cause).await?;
            Ok(Reply::new(message, Nothing {}))
        }
        .boxed()
    });
    writing.await
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct ResendVerification {
    pub email: String,
}

#[api_operation(
    tag = "users",
    operation_id = "resend_verification",
    summary = "Mail the link that proves the address again",
    description = "The answer is the same whether there is such an account or not.",
    skip_args = "origin",
    error_code = 400,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 429,
    error_code = 503
)]
pub async fn resend_verification(
    app: State,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<ResendVerification>,
) -> Result<Answer<Reply<Nothing>>> {
    let arrived = Instant::now();
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    let cause = origin.of_anyone();
    throttle::count_ip(&app.db, &app.keys, "RESEND_IP", app.config.limits.reset_ip, &cause).await?;
    let (keys, config) = (app.keys.clone(), app.config.clone());
    let writing = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            super::resend_verification(tx, &email, &keys, &config, cause).await?;
            Ok(Reply::new("If the address waits to be verified, a mail is on its way", Nothing {}))
        }
        .boxed()
    });
    let written = writing.await;
    even_time::wait(arrived, app.config.identity.even_answer).await;
    written
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct RequestEmailChange {
    /// The new address
    #[schemars(length(max = 254))]
    pub email: String,
    pub current_password: String,
}

#[api_operation(
    tag = "users",
    operation_id = "request_email_change",
    summary = "Mail a link to a new address, which makes the change",
    description = "The old address is told. The answer is the same if the new one belongs to somebody else; then no link is mailed. 403 wrong_password if the current password is wrong.",
    skip_args = "origin",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 429,
    error_code = 503
)]
pub async fn request_email_change(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<RequestEmailChange>,
) -> Result<Answer<Reply<Nothing>>> {
    let arrived = Instant::now();
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    let cause = origin.of(session);
    if let Some(answer) = idempotency.find(&app, &cause).await? {
        return Ok(answer);
    }
    let card = passwords::check_current(&app, session, Password::typed(&body.current_password), cause.at).await?.card;
    let (keys, config) = (app.keys.clone(), app.config.clone());
    let writing = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            super::request_change(tx, &card, &email, &keys, &config, cause).await?;
            Ok(Reply::new("Please follow the link that was mailed to the new address", Nothing {}))
        }
        .boxed()
    });
    let even_answer = app.config.identity.even_answer;
    let written = writing.await;
    even_time::wait(arrived, even_answer).await;
    written
}

#[api_operation(
    tag = "users",
    operation_id = "confirm_email_change",
    summary = "Move to the new address by the mailed link",
    description = "400 invalid_token if the link was used, replaced, or has expired.",
    skip_args = "origin",
    error_code = 400,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 429,
    error_code = 503
)]
pub async fn confirm_email_change(
    app: State,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<FollowLink>,
) -> Result<Answer<Reply<Nothing>>> {
    follow(&app, body, &[Purpose::EmailChange], origin, idempotency, "Address changed").await
}
