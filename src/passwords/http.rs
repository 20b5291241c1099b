//! `/auth/password`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Change, Password};
use crate::error::{Problems, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::{Nothing, Reply};
use crate::http::extract::Body;
use crate::http::middleware::CorrelationId;

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
    skip_args = "correlation_id",
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
    correlation_id: CorrelationId,
    Body(body): Body<ChangePassword>,
) -> Result<Reply<Nothing>> {
    let now = app.clock.now();
    let (old_hash, personal) = super::check_current(&app, session, Password::typed(&body.current_password), now).await?;
    let mut problems = Problems::default();
    if body.password_confirm != body.password {
        problems.add("password_confirm", "must be the same as password");
    }
    let password = problems.check("password", super::choose(&app.hasher, body.password, personal).await?);
    problems.finish()?;
    let Some(password) = password else { return Err(crate::error::Error::internal("a checked password is missing")) };
    let change = Change { old_hash, new_hash: app.hasher.hash(password.into_secret()).await?, correlation_id: correlation_id.0 };
    let config = app.config.clone();
    app.db.write(move |tx| async move { super::change(tx, session, change, &config, now).await }.boxed()).await?;
    Ok(Reply::new("Password changed", Nothing {}))
}
