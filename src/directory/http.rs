//! `/users/{id}…` and `/auth/validate`, in the shapes that sibling services already read.

use apistos::{ApiComponent, api_operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Channel;
use crate::access::Caller;
use crate::card;
use crate::config::Scope;
use crate::error::{Code, Error, Result};
use crate::http::State;
use crate::http::auth::{AnyCaller, FromService, SignedIn};
use crate::http::envelope::Reply;
use crate::http::extract::{PathId, Query};
use crate::http::user_body::UserBody;

#[api_operation(
    tag = "directory",
    operation_id = "get_user",
    summary = "A user with preferences",
    description = "For the user, and for services with the scope users:read.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_user(app: State, AnyCaller(caller): AnyCaller, PathId(id): PathId) -> Result<Reply<UserBody>> {
    let card = super::find_user(&app, &caller, id).await?;
    Ok(Reply::new("User", if caller.is_service() { UserBody::with_activity(card) } else { card.into() }))
}

/// Both spellings, because siblings read either.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct UserPreferences {
    pub user_id: Uuid,
    pub email: bool,
    pub push: bool,
    pub email_enabled: bool,
    pub push_enabled: bool,
}

#[api_operation(
    tag = "directory",
    operation_id = "get_user_preferences",
    summary = "Which channels a user wants to hear on",
    description = "For the user, and for services with the scope users:read.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_user_preferences(app: State, AnyCaller(caller): AnyCaller, PathId(id): PathId) -> Result<Reply<UserPreferences>> {
    let wanted = super::find_user(&app, &caller, id).await?.preferences;
    let data =
        UserPreferences { user_id: id, email: wanted.email, push: wanted.push, email_enabled: wanted.email, push_enabled: wanted.push };
    Ok(Reply::new("Preferences", data))
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContactType {
    Email,
    Push,
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
pub struct ContactQuery {
    #[serde(rename = "type")]
    pub channel: ContactType,
}

#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct ContactBody {
    pub user_id: Uuid,
    /// The address or the push token.
    pub contact: String,
    pub notification_type: ContactType,
    pub preferences_enabled: bool,
}

#[api_operation(
    tag = "directory",
    operation_id = "get_user_contact",
    summary = "Where a user is reached on a channel",
    description = "For the user, and for services with the scope users:read.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_user_contact(
    app: State,
    AnyCaller(caller): AnyCaller,
    PathId(id): PathId,
    Query(query): Query<ContactQuery>,
) -> Result<Reply<ContactBody>> {
    let channel = match query.channel {
        ContactType::Email => Channel::Email,
        ContactType::Push => Channel::Push,
    };
    let card = super::find_user(&app, &caller, id).await?;
    let contact = super::contact(&card, channel)?;
    let data =
        ContactBody { user_id: id, contact: contact.contact, notification_type: query.channel, preferences_enabled: contact.enabled };
    Ok(Reply::new("Contact", data))
}

/// One token under every name that siblings read.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct PushTokenBody {
    pub user_id: Uuid,
    pub push_token: String,
    pub token: String,
    pub push_tokens: Vec<String>,
}

#[api_operation(
    tag = "directory",
    operation_id = "get_user_push_token",
    summary = "A user's push token",
    description = "For services with the scope users:read.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_user_push_token(app: State, FromService(service): FromService, PathId(id): PathId) -> Result<Reply<PushTokenBody>> {
    service.require(Scope::UsersRead)?;
    let card = super::find_user(&app, &Caller::Service(service), id).await?;
    let token = super::contact(&card, Channel::Push)?.contact;
    let data = PushTokenBody { user_id: id, push_token: token.clone(), push_tokens: vec![token.clone()], token };
    Ok(Reply::new("Push token", data))
}

#[api_operation(
    tag = "directory",
    operation_id = "validate_token",
    summary = "Whose access token this is",
    description = "For gateways: the bearer's user, or 401.",
    error_code = 401,
    error_code = 403,
    error_code = 503
)]
pub async fn validate_token(app: State, SignedIn(session): SignedIn) -> Result<Reply<UserBody>> {
    let card = card::find_cached(&app, session.user_id).await?;
    let card = card.filter(|card| card.is_active).ok_or_else(|| Error::new(Code::Unauthenticated, "The account is not active."))?;
    Ok(Reply::new("Valid", card.into()))
}
