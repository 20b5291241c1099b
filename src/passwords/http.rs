//! `/auth/password` and `/auth/password-reset`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Password, Typed};
use crate::card::email_address::EmailAddress;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::Body;
use crate::http::origin::Origin;

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
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn change_password(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    Body(body): Body<ChangePassword>,
) -> Result<Reply<Nothing>> {
    let cause = origin.of(session);
    let checked = super::check_current(&app, session, Password::typed(&body.current_password), cause.at).await?;
    let new = checked.choose(&app, Typed { password: body.password, confirm: body.password_confirm }).await?;
    let config = app.config.clone();
    app.db.write(move |tx| async move { super::change(tx, session, new, &config, &cause).await }.boxed()).await?;
    Ok(Reply::new("Password changed", Nothing {}))
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
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn request_password_reset(app: State, origin: Origin, Body(body): Body<RequestReset>) -> Result<Reply<Nothing>> {
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    super::request_reset(&app, &email, origin.of_anyone()).await?;
    Ok(Reply::new("If there is an account with this address, a mail is on its way", Nothing {}))
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
