//! `/users/preferences`.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;

use super::PreferencesChange;
use crate::card;
use crate::error::{Code, Error, Result};
use crate::http::State;
use crate::http::auth::SignedIn;
use crate::http::envelope::Reply;
use crate::http::extract::Body;
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
pub async fn get_preferences(app: State, SignedIn(session): SignedIn) -> Result<Reply<PreferencesBody>> {
    let card = card::find_cached(&app, session.user_id).await?.ok_or_else(|| Error::new(Code::UserNotFound, "There is no such user."))?;
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
    error_code = 413,
    error_code = 415,
    error_code = 503
)]
pub async fn update_preferences(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    Body(body): Body<UpdatePreferences>,
) -> Result<Reply<PreferencesBody>> {
    let change = PreferencesChange { email: body.email, push: body.push };
    let cause = origin.of(session);
    let card = app.db.write(move |tx| async move { super::change(tx, session.user_id, change, &cause).await }.boxed()).await?;
    Ok(Reply::new("Preferences updated", card.preferences.into()))
}
