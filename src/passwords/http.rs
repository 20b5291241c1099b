//! `/auth/password` and `/auth/password-reset`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::time::Instant;

use super::{Password, Typed};
use crate::card::email_address::EmailAddress;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::Body;
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::infra::{even_time, throttle};

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    pub current_password: String,
    /// 8 characters to 71 bytes, neither common nor digits only
    #[schemars(length(min = 8, max = 71))]
    pub password: String,
    /// The same again
    pub password_confirm: String,
}

#[api_operation(
    tag = "sessions",
    operation_id = "change_password",
    summary = "Change the password; every other session ends",
    description = "The owner is told by mail. 403 wrong_password if the current password is wrong.",
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
pub async fn change_password(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<ChangePassword>,
) -> Result<Answer<Reply<Nothing>>> {
    let cause = origin.of(session);
    if let Some(answer) = idempotency.find(&app, &cause).await? {
        return Ok(answer);
    }
    let checked = super::check_current(&app, session, Password::typed(&body.current_password), cause.at).await?;
    let new = checked.choose(&app, Typed { password: body.password, confirm: body.password_confirm }).await?;
    let config = app.config.clone();
    let writing = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            super::change(tx, session, new, &config, cause).await?;
            Ok(Reply::new("Password changed", Nothing {}))
        }
        .boxed()
    });
    writing.await
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct RequestReset {
    pub email: String,
}

#[api_operation(
    tag = "sessions",
    operation_id = "request_password_reset",
    summary = "Mail a link to set a new password",
    description = "The answer is the same whether there is such an account or not. The link works once, for 30 minutes.",
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
pub async fn request_password_reset(
    app: State,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<RequestReset>,
) -> Result<Answer<Reply<Nothing>>> {
    let arrived = Instant::now();
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    let cause = origin.of_anyone();
    throttle::count_ip(&app.db, &app.keys, "RESET_IP", app.config.limits.reset_ip, &cause).await?;
    let (keys, config) = (app.keys.clone(), app.config.clone());
    let writing = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            super::request_reset(tx, &email, &keys, &config, cause).await?;
            Ok(Reply::new("If there is an account with this address, a mail is on its way", Nothing {}))
        }
        .boxed()
    });
    let written = writing.await;
    even_time::wait(arrived, app.config.identity.even_answer).await;
    written
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct ConfirmReset {
    /// From the link of the mail
    pub token: String,
    /// 8 characters to 71 bytes, neither common nor digits only
    #[schemars(length(min = 8, max = 71))]
    pub password: String,
    /// The same again
    pub password_confirm: String,
}

#[api_operation(
    tag = "sessions",
    operation_id = "confirm_password_reset",
    summary = "Set a new password by the mailed link; every session ends",
    description = "A password that will not do leaves the link usable. 400 invalid_token if the link is not.",
    skip_args = "origin",
    error_code = 400,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn confirm_password_reset(app: State, origin: Origin, Body(body): Body<ConfirmReset>) -> Result<Reply<Nothing>> {
    let new = Typed { password: body.password, confirm: body.password_confirm };
    super::confirm_reset(&app, body.token, new, origin.of_anyone()).await?;
    Ok(Reply::new("Password set; please sign in", Nothing {}))
}
