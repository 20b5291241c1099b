//! `/users/{id}…` and `/auth/validate`, in the shapes that sibling services already read.

use std::collections::HashSet;

use apistos::{ApiComponent, api_operation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Channel;
use crate::access::Caller;
use crate::card::{Card, Preferences};
use crate::config::Scope;
use crate::error::{Code, Error, Result};
use crate::http::State;
use crate::http::auth::{AnyCaller, AnyReader, FromReader, FromService, Me, OrService};
use crate::http::doors::Inner;
use crate::http::envelope::{Bare, Reply};
use crate::http::extract::{Body, PathId, Query};
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
pub async fn get_user(app: State, AnyCaller(caller, known): AnyCaller, _: OrService, PathId(id): PathId) -> Result<Reply<UserBody>> {
    let card = super::find_user(&app, &caller, known, id).await?;
    Ok(Reply::new("User", if caller.sees_activity() { UserBody::with_activity(card) } else { card.into() }))
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
pub async fn get_user_preferences(
    app: State,
    AnyReader(caller, known): AnyReader,
    _: OrService,
    PathId(id): PathId,
) -> Result<Reply<UserPreferences>> {
    let wanted = super::find_user(&app, &caller, known, id).await?.preferences;
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
    AnyReader(caller, known): AnyReader,
    _: OrService,
    PathId(id): PathId,
    Query(query): Query<ContactQuery>,
) -> Result<Reply<ContactBody>> {
    let channel = match query.channel {
        ContactType::Email => Channel::Email,
        ContactType::Push => Channel::Push,
    };
    let card = super::find_user(&app, &caller, known, id).await?;
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
pub async fn get_user_push_token(app: State, FromReader(service): FromReader, PathId(id): PathId) -> Result<Reply<PushTokenBody>> {
    service.require(Scope::UsersRead)?;
    let card = super::find_user(&app, &Caller::Service(service), None, id).await?;
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
pub async fn validate_token(Me(card): Me) -> Result<Reply<UserBody>> {
    Ok(Reply::new("Valid", active(card)?.into()))
}

fn active(card: Card) -> Result<Card> {
    if card.is_active { Ok(card) } else { Err(Error::new(Code::Unauthenticated, "The account is not active.")) }
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct LookUpUsers {
    /// At most 500
    #[schemars(length(max = 500))]
    pub user_ids: Vec<Uuid>,
}

#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct UsersBody {
    /// In the order in which they were asked for, each once
    pub users: Vec<UserBody>,
    /// Whom nobody knows
    pub missing: Vec<Uuid>,
}

#[api_operation(
    tag = "directory",
    operation_id = "look_up_users",
    summary = "Many users at once",
    description = "For services with the scope users:read. It changes nothing, so it needs no idempotency key.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 408,
    error_code = 413,
    error_code = 415,
    error_code = 503
)]
pub async fn look_up_users(app: State, FromService(service): FromService, Body(body): Body<LookUpUsers>) -> Result<Reply<UsersBody>> {
    service.require(Scope::UsersRead)?;
    if body.user_ids.len() > super::MAX_LOOKUP {
        return Err(Error::field("user_ids", format!("must be at most {} ids", super::MAX_LOOKUP)));
    }
    let users = super::find_users(&app, body.user_ids.clone()).await?;
    let mut unknown: HashSet<Uuid> = body.user_ids.iter().copied().collect();
    for card in &users {
        unknown.remove(&card.user_id);
    }
    let missing = body.user_ids.into_iter().filter(|user_id| unknown.remove(user_id)).collect();
    Ok(Reply::new("Users", UsersBody { users: users.into_iter().map(UserBody::with_activity).collect(), missing }))
}

/// What gateways read that ask without a version, and want no envelope around it.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct BarePreferences {
    pub email_enabled: bool,
    pub push_enabled: bool,
    /// The address
    pub email: String,
    pub push_tokens: Vec<String>,
}

#[api_operation(
    tag = "directory",
    operation_id = "get_bare_user",
    summary = "A user, without an envelope",
    description = "For gateways that ask without a version; not at the public port of an installation that has another.",
    skip_args = "_inner",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_bare_user(
    app: State,
    _inner: Inner,
    AnyCaller(caller, known): AnyCaller,
    _: OrService,
    PathId(id): PathId,
) -> Result<Bare<UserBody>> {
    let card = super::find_user(&app, &caller, known, id).await?;
    Ok(Bare(if caller.sees_activity() { UserBody::with_activity(card) } else { card.into() }))
}

#[api_operation(
    tag = "directory",
    operation_id = "get_bare_preferences",
    summary = "Preferences, address and push tokens, without an envelope",
    description = "For gateways that ask without a version; not at the public port of an installation that has another.",
    skip_args = "_inner",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn get_bare_preferences(
    app: State,
    _inner: Inner,
    AnyReader(caller, known): AnyReader,
    _: OrService,
    PathId(id): PathId,
) -> Result<Bare<BarePreferences>> {
    let card = super::find_user(&app, &caller, known, id).await?;
    let Preferences { email: email_enabled, push: push_enabled } = card.preferences;
    let push_tokens = card.push_token.filter(|_| card.is_active).into_iter().collect();
    Ok(Bare(BarePreferences { email_enabled, push_enabled, email: card.email, push_tokens }))
}

#[api_operation(
    tag = "directory",
    operation_id = "validate_bare_token",
    summary = "Whose access token this is, without an envelope",
    description = "For gateways that ask without a version; not at the public port of an installation that has another.",
    skip_args = "_inner",
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn validate_bare_token(_inner: Inner, Me(card): Me) -> Result<Bare<UserBody>> {
    Ok(Bare(active(card)?.into()))
}
