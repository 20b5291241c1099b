//! `/auth/verify-email` and `/users/email`.

use apistos::{ApiComponent, api_operation};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::card::email_address::EmailAddress;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::Body;
use crate::http::origin::Origin;
use crate::infra::one_time_token::Purpose;
use crate::passwords::Password;

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
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn verify_email(app: State, origin: Origin, Body(body): Body<FollowLink>) -> Result<Reply<Nothing>> {
    super::confirm(&app, body.token, &[Purpose::EmailVerification], origin.of_anyone()).await?;
    Ok(Reply::new("Address verified", Nothing {}))
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
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn resend_verification(app: State, origin: Origin, Body(body): Body<ResendVerification>) -> Result<Reply<Nothing>> {
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    super::resend_verification(&app, &email, origin.of_anyone()).await?;
    Ok(Reply::new("If the address waits to be verified, a mail is on its way", Nothing {}))
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
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn request_email_change(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    Body(body): Body<RequestEmailChange>,
) -> Result<Reply<Nothing>> {
    let email = EmailAddress::parse(&body.email).map_err(|problem| Error::field("email", problem))?;
    super::request_change(&app, session, email, Password::typed(&body.current_password), origin.of(session)).await?;
    Ok(Reply::new("Please follow the link that was mailed to the new address", Nothing {}))
}

#[api_operation(
    tag = "users",
    operation_id = "confirm_email_change",
    summary = "Move to the new address by the mailed link",
    description = "400 invalid_token if the link was used, replaced, or has expired.",
    skip_args = "origin",
    error_code = 400,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 429,
    error_code = 503
)]
pub async fn confirm_email_change(app: State, origin: Origin, Body(body): Body<FollowLink>) -> Result<Reply<Nothing>> {
    super::confirm(&app, body.token, &[Purpose::EmailChange], origin.of_anyone()).await?;
    Ok(Reply::new("Address changed", Nothing {}))
}
