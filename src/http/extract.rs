//! Bodies, query strings and path parameters, whose mistakes name the field.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload};
use apistos::ApiComponent;
use apistos::paths::Parameter;
use apistos::reference_or::ReferenceOr;
use futures_util::StreamExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::malformed;
use super::idempotency::{self, RawBody};
use super::json;
use crate::error::{Code, Error, Result};

/// The largest body.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a body may take to arrive; actix has no such limit.
const BODY_DEADLINE: Duration = Duration::from_secs(15);

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// A JSON body of a wire type.
#[derive(Debug)]
pub struct Body<T>(pub T);

impl<T: DeserializeOwned + ApiComponent + 'static> FromRequest for Body<T> {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            check_media_type(&request)?;
            accept(&request, receive(payload).await?).map(Self)
        })
    }
}

fn accept<T: DeserializeOwned + ApiComponent>(request: &HttpRequest, body: Bytes) -> Result<T> {
    if idempotency::has_key(request) {
        request.extensions_mut().insert(RawBody(body.clone()));
    }
    json::parse(&body)
}

impl<T: ApiComponent> ApiComponent for Body<T> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        T::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        T::schema()
    }
}

/// A JSON body that may be left out, and its Content-Type with it.
#[derive(Debug)]
pub struct OptionalBody<T>(pub Option<T>);

impl<T: DeserializeOwned + ApiComponent + 'static> FromRequest for OptionalBody<T> {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let body = receive(payload).await?;
            if body.is_empty() {
                return Ok(Self(None));
            }
            check_media_type(&request)?;
            accept(&request, body).map(|body| Self(Some(body)))
        })
    }
}

impl<T: ApiComponent> ApiComponent for OptionalBody<T> {
    fn required() -> bool {
        false
    }

    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        T::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        T::schema()
    }
}

/// No body, or one that says nothing; whatever else comes is a mistake that its sender should hear of.
#[derive(Debug)]
pub struct NoBody;

#[derive(Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
struct Empty {}

impl FromRequest for NoBody {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = OptionalBody::<Empty>::from_request(request, payload);
        Box::pin(async move { body.await.map(|_nothing| Self) })
    }
}

impl ApiComponent for NoBody {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        Vec::new()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        None
    }
}

fn check_media_type(request: &HttpRequest) -> Result<()> {
    let refused = |detail| Err(Error::new(Code::UnsupportedMediaType, detail));
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return refused("Compressed bodies are not accepted.");
    }
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    refused("Send the body as Content-Type: application/json.")
}

/// A whole body, within its size and its time.
pub(super) async fn receive(payload: Payload) -> Result<Bytes> {
    let received = tokio::time::timeout(BODY_DEADLINE, read_body(payload)).await;
    received.map_err(|late| Error::new(Code::BodyTimeout, "The body did not arrive in time.").with_source(late))?
}

async fn read_body(mut payload: Payload) -> Result<Bytes> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| malformed("The body could not be read.").with_source(error))?;
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Error::new(Code::BodyTooLarge, "The body is larger than 64 KiB."));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// A query string of a wire type.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        if request.query_string().contains("%00") {
            return std::future::ready(Err(malformed("The query string contains a NUL character.")));
        }
        let parsed = actix_web::web::Query::<T>::from_query(request.query_string());
        std::future::ready(parsed.map(|query| Query(query.into_inner())).map_err(|error| {
            let text = error.to_string();
            let name = text.split('`').nth(1).map(str::to_owned);
            match name {
                Some(name) if text.contains("missing field") => Error::field(name, "is required"),
                Some(name) if text.contains("unknown field") => Error::field(name, "is no parameter here"),
                _ => malformed(text.replace("Query deserialize error: ", "The query string is wrong: ")),
            }
        }))
    }
}

impl<T: JsonSchema + ApiComponent> ApiComponent for Query<T> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        actix_web::web::Query::<T>::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        None
    }

    fn request_body() -> Option<apistos::paths::RequestBody> {
        None
    }

    fn parameters() -> Vec<Parameter> {
        actix_web::web::Query::<T>::parameters()
    }
}

/// The `{id}` of a path.
#[derive(Debug, Clone, Copy)]
pub struct PathId(pub Uuid);

impl FromRequest for PathId {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let parsed = request.match_info().get("id").unwrap_or_default();
        std::future::ready(match Uuid::try_parse(parsed) {
            Ok(id) => Ok(PathId(id)),
            Err(error) => Err(Error::field("id", "must be a UUID").with_source(error)),
        })
    }
}

impl ApiComponent for PathId {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        Vec::new()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        None
    }

    fn parameters() -> Vec<Parameter> {
        let mut parameters = actix_web::web::Path::<Uuid>::parameters();
        for parameter in &mut parameters {
            parameter.name = "id".to_owned();
            parameter.description = Some("A UUID".to_owned());
        }
        parameters
    }
}

/// Tells an absent field from `null`: `None` is absent, `Some(None)` is `null`. Use with `#[serde(default)]`.
pub fn present<'de, T: serde::Deserialize<'de>, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    <Option<T> as serde::Deserialize>::deserialize(deserializer).map(Some)
}
