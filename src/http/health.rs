//! Liveness, readiness, health and metrics; what a part says of itself comes from [`Status`](crate::infra::status).

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder, dev::Payload};
use apistos::paths::Responses;
use apistos::reference_or::ReferenceOr;
use apistos::{ApiComponent, api_operation};
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;

use super::envelope::json_response;
use super::origin;
use super::{State, auth};
use crate::app::App;
use crate::config::Role;
use crate::error::{Code, Error};
use crate::infra::status::BreakerState;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    Healthy,
    Degraded,
    Unhealthy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckStatus {
    Healthy,
    Unhealthy,
    /// This role does not need it.
    Unused,
}

impl HealthStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl CheckStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Unused => "unused",
        }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Checks {
    pub database: CheckStatus,
    pub cache: CheckStatus,
    pub broker: CheckStatus,
}

/// How the service is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct HealthData {
    pub service: String,
    pub status: HealthStatus,
    pub timestamp: DateTime<Utc>,
    pub version: String,
    pub checks: Checks,
    /// Background parts by name: their state and how often they were restarted.
    pub parts: BTreeMap<String, PartBody>,
    /// Messages and consumers of the queues, as the broker last told them.
    pub queues: BTreeMap<String, QueueBody>,
    /// The worker's circuit breakers by what they guard: closed, open or half_open.
    pub breakers: BTreeMap<String, String>,
    /// Whom the service takes the asking client for: what its limits count by.
    pub client: ClientBody,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ClientBody {
    pub address: Option<String>,
    /// Who says so: peer, trusted_proxy, or service (a key with the scope forward).
    pub told_by: String,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct PartBody {
    pub state: String,
    pub restarts: u32,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct QueueBody {
    pub messages: u32,
    pub consumers: u32,
}

/// The envelope, and its data once more beside it: monitors of the service this one replaces read the bare fields.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct Health {
    pub success: bool,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub data: HealthData,
    #[serde(flatten)]
    pub bare: HealthData,
}

impl Health {
    fn of(data: HealthData) -> Self {
        let success = data.status != HealthStatus::Unhealthy;
        let error = (!success).then(|| Code::Unavailable.as_str().to_owned());
        let message = match data.status {
            HealthStatus::Healthy => "Everything is well.",
            HealthStatus::Degraded => "It works, with something down.",
            HealthStatus::Unhealthy => "It cannot work.",
        };
        Self { success, message: message.to_owned(), error, bare: data.clone(), data }
    }
}

/// Health and its status code.
#[derive(Debug)]
pub struct HealthReply(Health);

impl Responder for HealthReply {
    type Body = actix_web::body::BoxBody;

    fn respond_to(self, _request: &HttpRequest) -> HttpResponse {
        if self.0.success {
            HttpResponse::Ok().json(self.0)
        } else {
            HttpResponse::ServiceUnavailable().insert_header(("Retry-After", "2")).json(self.0)
        }
    }
}

impl ApiComponent for HealthReply {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        Health::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        Health::schema()
    }

    fn responses(_content_type: Option<String>) -> Option<Responses> {
        let answers = [("200", "Healthy or degraded"), ("503", "Unhealthy")];
        let responses = answers
            .into_iter()
            .map(|(status, meaning)| (status.to_owned(), ReferenceOr::Object(json_response(meaning, "Health"))))
            .collect();
        Some(Responses { responses, ..Responses::default() })
    }
}

#[api_operation(tag = "health", operation_id = "get_health", summary = "How the service and what it needs are", skip_args = "asked")]
pub async fn get_health(app: State, role: actix_web::web::Data<Role>, asked: Asked) -> HealthReply {
    HealthReply(Health::of(look(&app, **role, asked).await))
}

/// Asks what this role needs, and reads what the parts last said.
pub async fn look(app: &App, role: Role, asked: Asked) -> HealthData {
    let (database, cache) = tokio::join!(app.db.answers(), app.cache.ping());
    let status = |well| if well { CheckStatus::Healthy } else { CheckStatus::Unhealthy };
    let checks = Checks {
        database: status(database),
        cache: status(cache.is_ok()),
        broker: if role.has_worker() { status(app.status.broker_connected()) } else { CheckStatus::Unused },
    };
    let parts: BTreeMap<_, _> = app
        .status
        .parts()
        .into_iter()
        .map(|(name, (state, restarts))| (name, PartBody { state: format!("{state:?}").to_lowercase(), restarts }))
        .collect();
    let breakers: BTreeMap<_, _> =
        app.status.breakers().into_iter().map(|(name, state)| (name.to_owned(), state.as_str().to_owned())).collect();
    // What the broker last said is of no use while it says nothing.
    let queues = if checks.broker == CheckStatus::Unhealthy { Default::default() } else { app.status.queues() };
    let status = if checks.database == CheckStatus::Unhealthy {
        HealthStatus::Unhealthy
    } else if checks.cache == CheckStatus::Unhealthy
        || checks.broker == CheckStatus::Unhealthy
        || parts.values().any(|part| ["restarting", "waiting"].contains(&part.state.as_str()))
        || breakers.values().any(|state| state != BreakerState::Closed.as_str())
    {
        HealthStatus::Degraded
    } else {
        HealthStatus::Healthy
    };
    HealthData {
        service: "user-service".to_owned(),
        status,
        timestamp: app.clock.now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        checks,
        parts,
        queues: queues
            .into_iter()
            .map(|(name, counts)| (name, QueueBody { messages: counts.messages, consumers: counts.consumers }))
            .collect(),
        breakers,
        client: asked.0,
    }
}

/// The client of a request, as an operator may want to see it.
#[derive(Debug)]
pub struct Asked(ClientBody);

impl FromRequest for Asked {
    type Error = Error;
    type Future = std::future::Ready<Result<Self, Error>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(auth::state(request).map(|app| {
            let client = origin::client(request, app);
            let address = client.address.map(|address| address.to_string());
            Self(ClientBody { address, told_by: client.told_by.as_str().to_owned() })
        }))
    }
}

/// Liveness depends on nothing: a restart would mend nothing that is down elsewhere.
pub async fn get_liveness() -> HttpResponse {
    plain(StatusCode::OK, "alive")
}

/// Whether to send this process work: the schema must be ours, and a worker must be connected.
pub async fn get_readiness(app: State, role: actix_web::web::Data<Role>) -> HttpResponse {
    let refusal = if app.status.stopping() {
        Some("stopping")
    } else if !app.db.answers_with_our_schema().await {
        Some("the database does not answer, or its schema is older than this version")
    } else if **role == Role::Worker && !app.status.broker_connected() {
        Some("not connected to RabbitMQ")
    } else {
        None
    };
    match refusal {
        None => plain(StatusCode::OK, "ready"),
        Some(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn plain(status: StatusCode, text: &'static str) -> HttpResponse {
    let success = status.is_success();
    let mut response = HttpResponse::build(status);
    if success {
        return response.json(serde_json::json!({"success": true, "message": text, "data": {}}));
    }
    response.insert_header(("Retry-After", "2"));
    response.json(serde_json::json!({"success": false, "message": text, "error": Code::Unavailable.as_str()}))
}
