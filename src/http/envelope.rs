//! The envelope around every JSON answer.

use std::collections::BTreeMap;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, Responder};
use apistos::ApiComponent;
use apistos::paths::{MediaType, Response, Responses};
use apistos::reference_or::ReferenceOr;
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{Error, Result};

/// A success.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct Envelope<T: JsonSchema> {
    /// Always `true`.
    pub success: bool,
    /// For people.
    pub message: String,
    pub data: T,
    /// Only beside lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
}

/// Which part of a list this is.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Meta {
    pub total: u64,
    /// Whether `total` is estimated, as it may be above 10,000, of a search above 2,000.
    pub total_is_estimate: bool,
    pub limit: u64,
    pub page: u64,
    pub total_pages: u64,
    pub has_next: bool,
    pub has_previous: bool,
    /// What to send as `cursor` to get the next page, however deep it lies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

impl Meta {
    /// Of a list that is given whole.
    pub fn whole(total: usize, limit: u64) -> Self {
        Self {
            total: total as u64,
            total_is_estimate: false,
            limit,
            page: 1,
            total_pages: 1,
            has_next: false,
            has_previous: false,
            next_cursor: None,
        }
    }
}

/// A failure.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct Failure {
    /// Always `false`.
    pub success: bool,
    /// For people.
    pub message: String,
    /// For programs; the table of codes lists them all.
    pub error: String,
    /// Only for field problems: what is wrong, by field.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub errors: BTreeMap<String, Vec<String>>,
}

/// Data without a field.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct Nothing {}

/// An answer as it goes over the wire, kept to be given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    pub status: StatusCode,
    pub body: String,
}

/// An answer that can be stored in the transaction that it tells of.
pub trait Storable {
    fn stored(&self) -> Result<StoredAnswer>;
}

/// What a handler returns: an envelope and its status.
#[derive(Debug)]
pub struct Reply<T, const STATUS: u16 = 200> {
    message: &'static str,
    data: T,
    meta: Option<Meta>,
}

/// 201.
pub type Created<T> = Reply<T, 201>;

/// 202.
pub type Accepted<T> = Reply<T, 202>;

impl<T, const STATUS: u16> Reply<T, STATUS> {
    pub fn new(message: &'static str, data: T) -> Self {
        Self { message, data, meta: None }
    }

    /// The same, as a list.
    #[must_use]
    pub fn with_meta(self, meta: Meta) -> Self {
        Self { meta: Some(meta), ..self }
    }
}

impl<T: Serialize + JsonSchema, const STATUS: u16> Reply<T, STATUS> {
    fn envelope(&self) -> (StatusCode, Envelope<&T>) {
        let envelope = Envelope { success: true, message: self.message.to_owned(), data: &self.data, meta: self.meta.clone() };
        (StatusCode::from_u16(STATUS).unwrap_or(StatusCode::OK), envelope)
    }
}

impl<T: Serialize + JsonSchema, const STATUS: u16> Responder for Reply<T, STATUS> {
    type Body = BoxBody;

    fn respond_to(self, _request: &HttpRequest) -> HttpResponse {
        let (status, envelope) = self.envelope();
        HttpResponse::build(status).json(envelope)
    }
}

impl<T: Serialize + JsonSchema, const STATUS: u16> Storable for Reply<T, STATUS> {
    fn stored(&self) -> Result<StoredAnswer> {
        let (status, envelope) = self.envelope();
        Ok(StoredAnswer { status, body: serde_json::to_string(&envelope).map_err(Error::internal)? })
    }
}

impl<T: Serialize + JsonSchema, const STATUS: u16> ApiComponent for Reply<T, STATUS> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        Envelope::<T>::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        Envelope::<T>::schema()
    }

    fn responses(_content_type: Option<String>) -> Option<Responses> {
        let (name, _) = Self::schema()?;
        let description = StatusCode::from_u16(STATUS).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let response = json_response(description, &name);
        Some(Responses { responses: BTreeMap::from([(STATUS.to_string(), ReferenceOr::Object(response))]), ..Responses::default() })
    }
}

/// One of two answers, each with its status.
#[derive(Debug)]
pub enum Either<A, B> {
    First(A),
    Second(B),
}

impl<A: Responder<Body = BoxBody>, B: Responder<Body = BoxBody>> Responder for Either<A, B> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::First(reply) => reply.respond_to(request),
            Self::Second(reply) => reply.respond_to(request),
        }
    }
}

impl<A: Storable, B: Storable> Storable for Either<A, B> {
    fn stored(&self) -> Result<StoredAnswer> {
        match self {
            Self::First(reply) => reply.stored(),
            Self::Second(reply) => reply.stored(),
        }
    }
}

impl<A: ApiComponent, B: ApiComponent> ApiComponent for Either<A, B> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        A::child_schemas().into_iter().chain(B::child_schemas()).chain(B::schema()).collect()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        A::schema()
    }

    fn responses(content_type: Option<String>) -> Option<Responses> {
        let mut responses = A::responses(content_type.clone())?;
        responses.responses.extend(B::responses(content_type)?.responses);
        Some(responses)
    }
}

/// A 200 without an envelope, for callers that know none.
#[derive(Debug)]
pub struct Bare<T>(pub T);

impl<T: Serialize> Responder for Bare<T> {
    type Body = BoxBody;

    fn respond_to(self, _request: &HttpRequest) -> HttpResponse {
        HttpResponse::Ok().json(self.0)
    }
}

impl<T: ApiComponent> ApiComponent for Bare<T> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        T::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        T::schema()
    }

    fn responses(_content_type: Option<String>) -> Option<Responses> {
        let (name, _) = Self::schema()?;
        let response = json_response("OK", &name);
        Some(Responses { responses: BTreeMap::from([("200".to_owned(), ReferenceOr::Object(response))]), ..Responses::default() })
    }
}

/// A documented answer whose body is the named schema.
pub fn json_response(description: &str, schema: &str) -> Response {
    let media_type =
        MediaType { schema: Some(ReferenceOr::Reference { _ref: format!("#/components/schemas/{schema}") }), ..MediaType::default() };
    Response {
        description: description.to_owned(),
        content: BTreeMap::from([("application/json".to_owned(), media_type)]),
        ..Response::default()
    }
}
