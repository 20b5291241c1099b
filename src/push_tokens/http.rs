//! `/users/{id}/push-token/retire`: a push service reports a token that is dead.

use apistos::{ApiComponent, api_operation};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PushToken;
use crate::config::Scope;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::FromService;
use crate::http::envelope::Reply;
use crate::http::extract::{Body, OptionalBody, PathId};
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct RetirePushToken {
    #[schemars(length(min = 1, max = 4096))]
    pub push_token: String,
}

#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct RetiredBody {
    /// `false`: it was not, or no longer, the user's token
    pub retired: bool,
}

#[api_operation(
    tag = "push",
    operation_id = "retire_push_token",
    summary = "Report a dead push token",
    description = "For services with the scope push-token:write. It is retired only if it is still the user's current one.",
    skip_args = "origin",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503
)]
pub async fn retire_push_token(
    app: State,
    service: FromService,
    origin: Origin,
    idempotency: Idempotency,
    id: PathId,
    body: Body<RetirePushToken>,
) -> Result<Answer<Reply<RetiredBody>>> {
    retire(app, service, origin, idempotency, id, body).await
}

#[api_operation(
    tag = "push",
    operation_id = "delete_push_token",
    summary = "The same as POST on …/retire, with the same body",
    skip_args = "origin",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 408,
    error_code = 409,
    error_code = 413,
    error_code = 415,
    error_code = 422,
    error_code = 503
)]
pub async fn delete_push_token(
    app: State,
    service: FromService,
    origin: Origin,
    idempotency: Idempotency,
    id: PathId,
    body: OptionalBody<RetirePushToken>,
) -> Result<Answer<Reply<RetiredBody>>> {
    let body = body.0.ok_or_else(|| Error::field("push_token", "is required: it says which token is dead"))?;
    retire(app, service, origin, idempotency, id, Body(body)).await
}

async fn retire(
    app: State,
    FromService(service): FromService,
    origin: Origin,
    idempotency: Idempotency,
    PathId(user_id): PathId,
    Body(body): Body<RetirePushToken>,
) -> Result<Answer<Reply<RetiredBody>>> {
    service.require(Scope::PushTokenWrite)?;
    let token = PushToken::parse(&body.push_token).map_err(|problem| Error::field("push_token", problem))?;
    let writing = idempotency.write(&app, origin.of_service(&service), move |tx, cause| {
        async move {
            let retired = super::report_dead(tx, user_id, &token, cause).await?;
            Ok(Reply::new(if retired { "Push token retired" } else { "Not the current push token" }, RetiredBody { retired }))
        }
        .boxed()
    });
    writing.await
}
