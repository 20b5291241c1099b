//! What surrounds every request: correlation id, deadline, panic guard, security headers, metrics and one log line.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::error::InternalError;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, ResponseError};
use futures_util::FutureExt as _;
use metrics::Label;
use tracing::Instrument as _;

use super::auth;
use super::doors::{Door, nothing_here};
use super::error::rate_limit_headers;
use super::origin;
use crate::app::App;
use crate::error::{Allowance, Code, Error};
use crate::infra::cause::ip_bucket;
use crate::infra::connections::Connection;
use crate::infra::correlation;
use crate::infra::telemetry::REQUEST_SPAN;
use crate::infra::trace::{self, Trace};

/// For the handler.
const DEADLINE: Duration = Duration::from_secs(10);

/// The same, after the 15 seconds in which a body may arrive.
const DEADLINE_WITH_BODY: Duration = Duration::from_secs(25);

static CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// What ties together in its place: proxies set it, and where a request can be repeated it names the request.
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a page of an allowed origin may read of an answer, besides what every page may.
pub const EXPOSED_HEADERS: [&str; 5] = ["x-correlation-id", "retry-after", "ratelimit", "ratelimit-policy", "idempotency-replayed"];

/// The request's id, for what follows from it.
#[derive(Clone, Debug)]
pub struct CorrelationId(pub String);

/// Around everything but what trims the path and holds the body back.
pub async fn every_request(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let _answering = request.conn_data::<Arc<Connection>>().map(Connection::answering);
    let sent = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let id = correlation::accept([sent(&CORRELATION_ID), sent(&REQUEST_ID)].into_iter().flatten());
    request.extensions_mut().insert(CorrelationId(id.clone()));
    let (method, allowed_origin) = (request.method().clone(), allowed_origin(request.request()));
    let path = request.path().to_owned();
    let span = tracing::info_span!(REQUEST_SPAN, correlation_id = id, method = method.as_str(), path);
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let trace = Trace::read(header).within(&span);
    request.extensions_mut().insert(trace);
    if Door::of(request.request()) == Door::Metrics && !is_watched(request.path()) {
        let failed = Failed { error: nothing_here(), correlation_id: id, allowed_origin: None };
        span.in_scope(|| observe(&method, "refused", failed.status_code(), started));
        return Err(failed.into());
    }
    let deadline = if has_body(request.request()) { DEADLINE_WITH_BODY } else { DEADLINE };
    let outcome = tokio::time::timeout(deadline, AssertUnwindSafe(next.call(request)).catch_unwind()).instrument(span.clone()).await;
    let error = match outcome {
        Ok(Ok(Ok(response))) => {
            let mut response = explain_refusal(response.map_into_boxed_body());
            let allowance = response.request().extensions().get::<Allowance>().copied();
            add_headers(response.headers_mut(), &id, allowance);
            let route = response.request().match_pattern().unwrap_or_else(|| "unmatched".to_owned());
            span.in_scope(|| observe(&method, &route, response.status(), started));
            return Ok(response);
        }
        // Of a layer that answers by an error.
        Ok(Ok(Err(error))) => {
            let mut response = error.error_response();
            add_headers(response.headers_mut(), &id, None);
            span.in_scope(|| observe(&method, "unmatched", response.status(), started));
            return Err(InternalError::from_response(error, response).into());
        }
        Ok(Err(panic)) => Error::panicked(panic.as_ref()),
        Err(late) => Error::unavailable(late),
    };
    let failed = Failed { error, correlation_id: id, allowed_origin };
    span.in_scope(|| observe(&method, "unmatched", failed.status_code(), started));
    Err(failed.into())
}

fn has_body(request: &HttpRequest) -> bool {
    let length = request.headers().get(header::CONTENT_LENGTH);
    request.headers().contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// What monitors ask for.
fn is_watched(path: &str) -> bool {
    path.starts_with("/health") || path == "/metrics"
}

/// Refuses who asks too often, before anything is looked at. Within CORS: a browser may read the refusal.
pub async fn limit_address(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    match count_address(request.request()).await {
        Ok(()) => Ok(next.call(request).await?.map_into_boxed_body()),
        Err(error) => Ok(request.into_response(error.error_response())),
    }
}

async fn count_address(request: &HttpRequest) -> Result<(), Error> {
    let Some(app) = request.app_data::<Data<App>>() else { return Ok(()) };
    if is_watched(request.path()) || auth::service_of(request, app).flatten().is_some() {
        return Ok(());
    }
    let (bucket, now) = (ip_bucket(origin::client(request, app).address), app.clock.now());
    let Some(counter) = app.ip_limiter.counter(&bucket, now) else { return Ok(()) };
    let allowance = app.ip_limiter.judge(&bucket, app.cache.count(&counter).await.ok(), now)?;
    if let Some(allowance) = allowance {
        request.extensions_mut().insert(allowance);
    }
    Ok(())
}

/// A panic, a missed deadline, or something refused at the door: there is no response to add the headers to, so it brings its own.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Failed {
    error: Error,
    correlation_id: String,
    /// Which may read it; what CORS adds is lost with the response.
    allowed_origin: Option<HeaderValue>,
}

impl ResponseError for Failed {
    fn status_code(&self) -> StatusCode {
        self.error.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = self.error.error_response();
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = &self.allowed_origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            if let Ok(exposed) = HeaderValue::try_from(EXPOSED_HEADERS.join(", ")) {
                headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
            }
        }
        add_headers(headers, &self.correlation_id, None);
        response
    }
}

fn allowed_origin(request: &HttpRequest) -> Option<HeaderValue> {
    let origin = request.headers().get(header::ORIGIN)?;
    let allowed = &request.app_data::<Data<App>>()?.config.http.cors_allowed_origins;
    allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Gives what actix refuses without a body (405, and whatever it may add) the envelope.
fn explain_refusal(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = response.status();
    if !status.is_client_error() || response.headers().contains_key(header::CONTENT_TYPE) {
        return response;
    }
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => Error::new(Code::MethodNotAllowed, "This path has no such method; see Allow."),
        StatusCode::NOT_FOUND => nothing_here(),
        _ => Error::new(Code::MalformedRequest, status.canonical_reason().unwrap_or("The request is malformed.")),
    };
    let allow = response.headers().get(header::ALLOW).cloned();
    let mut explained = error.error_response();
    *explained.status_mut() = status;
    if let Some(allow) = allow {
        explained.headers_mut().insert(header::ALLOW, allow);
    }
    response.into_response(explained)
}

fn add_headers(headers: &mut HeaderMap, id: &str, allowance: Option<Allowance>) {
    // actix-cors speaks of credentials and exposed headers to every origin; one that is not allowed hears nothing.
    if !headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        headers.remove(header::ACCESS_CONTROL_ALLOW_CREDENTIALS);
        headers.remove(header::ACCESS_CONTROL_EXPOSE_HEADERS);
    }
    let mut add = |name: HeaderName, value: HeaderValue| {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    };
    // OWASP REST Security Cheat Sheet, "Security Headers".
    add(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    add(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    add(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    add(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    add(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let told = allowance.iter().flat_map(rate_limit_headers).map(|(name, value)| (HeaderName::from_static(name), value));
    for (name, value) in [(CORRELATION_ID.clone(), id.to_owned())].into_iter().chain(told) {
        if let Ok(value) = HeaderValue::try_from(value) {
            add(name, value);
        }
    }
}

fn observe(method: &Method, route: &str, status: StatusCode, started: Instant) {
    let elapsed = started.elapsed();
    let labels = vec![
        Label::from_static_parts("method", known(method)),
        Label::new("route", route.to_owned()),
        Label::new("status", status.as_u16().to_string()),
    ];
    metrics::counter!("http_requests_total", labels.clone()).increment(1);
    metrics::histogram!("http_request_duration_seconds", labels).record(elapsed.as_secs_f64());
    trace::tell(&tracing::Span::current(), route, status.as_u16());
    let duration_ms = elapsed.as_micros() as f64 / 1000.0;
    // Probes and scrapes come every few seconds and say nothing when they succeed.
    if status.is_success() && (route.starts_with("/health") || route == "/metrics") {
        tracing::debug!(route, status = status.as_u16(), duration_ms, "request");
    } else {
        tracing::info!(route, status = status.as_u16(), duration_ms, "request");
    }
}

/// A method is the client's word: only those that are known may become a label.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
