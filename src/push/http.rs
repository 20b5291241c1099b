//! `/push-requests`.

use apistos::{ApiComponent, api_operation};
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::decision::SkipReason;
use super::submit::{self, Decided, Explained};
use crate::amqp::message::Incoming;
use crate::config::Scope;
use crate::error::{Error, Result};
use crate::http::State;
use crate::http::auth::{FromService, SignedIn};
use crate::http::envelope::{Accepted, Either, Reply};
use crate::http::extract::{Body, NoBody, Query};
use crate::http::idempotency::{Answer, Idempotency};
use crate::http::origin::Origin;
use crate::infra::cause::Cause;
use crate::infra::unique_json::UniqueObject;

/// A push request, read as tolerantly as one from RabbitMQ: other spellings of these fields are understood, further fields
/// are carried through.
#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
pub struct NewPushRequest {
    #[serde(flatten)]
    #[schemars(with = "PushRequestFields")]
    pub fields: UniqueObject,
}

/// The fields by their usual names.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only documents")]
struct PushRequestFields {
    user_id: Uuid,
    /// The same id and body again have no second effect. Made up where it is left out.
    notification_id: Option<String>,
    /// What is to be sent, unless `title`, `body` or `message` say it.
    template_code: Option<String>,
    variables: Option<Map<String, Value>>,
    /// 0 to 10, or low, normal, high.
    priority: Option<Value>,
    /// After this it is not delivered any more.
    expires_at: Option<DateTime<Utc>>,
    metadata: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct SubmitQuery {
    /// Only decide and explain.
    #[serde(default)]
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionBody {
    Deliver,
    Skip,
}

#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct PushDecision {
    pub notification_id: String,
    pub decision: DecisionBody,
    /// Why it is skipped: user_inactive, expired, push_disabled or no_push_token.
    pub reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct PushExplanation {
    pub notification_id: String,
    pub decision: DecisionBody,
    pub reason: Option<String>,
    /// Each rule in the order in which they are looked at; the first that forbids the delivery decides.
    pub rules: Vec<RuleBody>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct RuleBody {
    /// The reason it would give.
    pub rule: String,
    /// What it asks.
    pub question: String,
    pub forbids: bool,
    /// Whether it is the one that decided.
    pub decides: bool,
}

impl From<Decided> for PushDecision {
    fn from(decided: Decided) -> Self {
        let decision = DecisionBody::of(&decided);
        Self { notification_id: decided.notification_id, decision, reason: decided.skipped_for }
    }
}

impl DecisionBody {
    fn of(decided: &Decided) -> Self {
        if decided.skipped_for.is_none() { Self::Deliver } else { Self::Skip }
    }
}

impl From<Explained> for PushExplanation {
    fn from(explained: Explained) -> Self {
        let decision = DecisionBody::of(&explained.decided);
        let Decided { notification_id, skipped_for: reason } = explained.decided;
        let rules = explained.rules.into_iter().map(|(rule, forbids)| RuleBody {
            rule: rule.as_str().to_owned(),
            question: question(rule).to_owned(),
            forbids,
            decides: reason.as_deref() == Some(rule.as_str()),
        });
        Self { rules: rules.collect(), notification_id, decision, reason }
    }
}

fn question(rule: SkipReason) -> &'static str {
    match rule {
        SkipReason::UserInactive => "Is the account deactivated?",
        SkipReason::Expired => "Has expires_at passed?",
        SkipReason::PushDisabled => "Has the user switched pushes off?",
        SkipReason::NoPushToken => "Is there no push token?",
    }
}

#[api_operation(
    tag = "push",
    operation_id = "submit_push_request",
    summary = "Ask for a push to a user",
    description = "For services with the scope push:write. With `dry_run=true`, which needs users:read too, nothing is sent: \
                   the answer explains the decision rule by rule.",
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
pub async fn submit_push_request(
    app: State,
    FromService(service): FromService,
    Query(query): Query<SubmitQuery>,
    origin: Origin,
    idempotency: Idempotency,
    Body(body): Body<NewPushRequest>,
) -> Result<Answer<Either<Accepted<PushDecision>, Reply<PushExplanation>>>> {
    service.require(Scope::PushWrite)?;
    let cause = origin.of_service(&service);
    let message = incoming(&body.fields.0, &cause)?;
    if query.dry_run {
        service.require(Scope::UsersRead)?;
        let explained = submit::explain(&app, message, cause).await?;
        return Ok(Answer::Fresh(Either::Second(Reply::new("Nothing was sent", explained.into()))));
    }
    let (cache, config) = (app.cache.clone(), app.config.clone());
    let submitting = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            let decided = submit::submit(tx, &cache, &message, &config.broker, cause).await?;
            Ok(Either::First(Reply::new("Push request taken", decided.into())))
        }
        .boxed()
    });
    submitting.await
}

#[api_operation(
    tag = "push",
    operation_id = "send_test_notification",
    summary = "Send myself a push",
    description = "Only where ALLOW_TEST_NOTIFICATIONS=true. It is decided as any other: who switched pushes off gets none.",
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
pub async fn send_test_notification(
    app: State,
    SignedIn(session): SignedIn,
    origin: Origin,
    idempotency: Idempotency,
    _body: NoBody,
) -> Result<Answer<Accepted<PushDecision>>> {
    let cause = origin.of(session);
    let fields = json!({"user_id": session.user_id, "template_code": "TEST", "variables": {}});
    let message = incoming(&fields, &cause)?;
    let (cache, config) = (app.cache.clone(), app.config.clone());
    let submitting = idempotency.write(&app, cause, move |tx, cause| {
        async move {
            let decided = submit::submit(tx, &cache, &message, &config.broker, cause).await?;
            Ok(Reply::new("Test push taken", decided.into()))
        }
        .boxed()
    });
    submitting.await
}

/// The request as it would have come from the queue.
fn incoming(fields: &impl Serialize, cause: &Cause) -> Result<Incoming> {
    Ok(Incoming {
        body: serde_json::to_vec(fields).map_err(Error::internal)?,
        correlation_id: cause.correlation_id.clone(),
        trace: cause.trace.clone(),
        ..Incoming::default()
    })
}
