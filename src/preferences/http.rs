//! `/users/preferences`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::PreferencesChange;
use crate::error::Result;
use crate::http::State;
use crate::http::auth::{Me, SignedIn};
use crate::http::envelope::Reply;
use crate::http::extract::Body;
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::http::user_body::PreferencesBody;

/// What to change; a channel that is left out stays as it is.
#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct UpdatePreferences {
    pub email: Option<bool>,
    pub push: Option<bool>,
}

#[api_operation(
    tag = "preferences",
    operation_id = "get_preferences",
    summary = "The caller's preferences",
    error_code = 401,
    error_code = 403,
    error_code = 503
)]
pub async fn get_preferences(Me(card): Me) -> Result<Reply<PreferencesBody>> {
    Ok(Reply::new("Preferences", card.preferences.into()))
}

#[api_operation(
    tag = "preferences",
    operation_id = "update_preferences",
    summary = "Switch channels on or off; binding at once",
    skip_args = "origin",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503
)]
pub async fn update_preferences(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<UpdatePreferences>,
) -> Result<Answer<Reply<PreferencesBody>>> {
    let change = PreferencesChange { email: body.email, push: body.push };
    let cause = origin.of(session);
    let writing = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            let card = super::change(tx, session.user_id, change, cause).await?;
            Ok(Reply::new("Preferences updated", card.preferences.into()))
        }
        .boxed()
    });
    writing.await
}
