//! Error → HTTP, the one translation of this door.

use std::collections::BTreeMap;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use apistos::paths::Response;
use apistos::reference_or::ReferenceOr;
use apistos::{ApiComponent as _, ApiErrorComponent};

use super::envelope::{Failure, json_response};
use crate::error::{Allowance, Code, Error, Kind};

impl Code {
    /// What an answer with this code has for a status.
    pub(super) fn status(self) -> StatusCode {
        match (self, self.kind()) {
            (Code::UnsupportedMediaType, _) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            (Code::BodyTooLarge, _) => StatusCode::PAYLOAD_TOO_LARGE,
            (Code::BodyTimeout, _) => StatusCode::REQUEST_TIMEOUT,
            (Code::IdempotencyKeyReused, _) => StatusCode::UNPROCESSABLE_ENTITY,
            (Code::MethodNotAllowed, _) => StatusCode::METHOD_NOT_ALLOWED,
            (_, Kind::Malformed | Kind::Invalid) => StatusCode::BAD_REQUEST,
            (_, Kind::Unauthenticated) => StatusCode::UNAUTHORIZED,
            (_, Kind::Forbidden) => StatusCode::FORBIDDEN,
            (_, Kind::NotFound) => StatusCode::NOT_FOUND,
            (_, Kind::Conflict) => StatusCode::CONFLICT,
            (_, Kind::RateLimited) => StatusCode::TOO_MANY_REQUESTS,
            (_, Kind::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
            (_, Kind::Internal) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl ResponseError for Error {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    fn error_response(&self) -> HttpResponse {
        let status = self.status_code();
        match self.kind() {
            Kind::Internal => tracing::error!(code = self.code.as_str(), error = self.chain(), "the request failed"),
            Kind::Unavailable => tracing::warn!(code = self.code.as_str(), error = self.chain(), "the request cannot be served now"),
            _ => tracing::debug!(code = self.code.as_str(), error = self.chain(), "the request is refused"),
        }
        let mut response = HttpResponse::build(status);
        if status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"user-service\""));
        }
        if let Some(after) = self.retry_after {
            // Rounded up: a client that comes back exactly then must find the time passed.
            response.insert_header((header::RETRY_AFTER, after.as_millis().div_ceil(1000).max(1).to_string()));
        }
        if let Some(allowance) = &self.allowance {
            for (name, value) in rate_limit_headers(allowance) {
                response.insert_header((name, value));
            }
        }
        response.json(Failure {
            success: false,
            message: self.detail.to_string(),
            error: self.code.as_str().to_owned(),
            errors: self.fields.clone(),
        })
    }
}

/// draft-ietf-httpapi-ratelimit-headers: the limit, and what is left of it.
pub(super) fn rate_limit_headers(allowance: &Allowance) -> [(&'static str, String); 2] {
    let Allowance { name, rate, remaining, reset } = allowance;
    let name = name.to_ascii_lowercase();
    [
        ("ratelimit-policy", format!("\"{name}\";q={};w={}", rate.count, rate.window.as_secs())),
        ("ratelimit", format!("\"{name}\";r={remaining};t={}", reset.as_millis().div_ceil(1000))),
    ]
}

/// Every status a documented operation may name, with what it means here.
const DOCUMENTED: [(u16, &str); 13] = [
    (400, "Malformed, or one or more fields are wrong"),
    (401, "No valid credentials"),
    (403, "Not for this caller"),
    (404, "Not found"),
    (405, "No such method here; see Allow"),
    (408, "The body did not arrive in time"),
    (409, "Conflict"),
    (413, "The body is larger than 64 KiB"),
    (415, "The body is not application/json"),
    (422, "The Idempotency-Key was used with another body"),
    (429, "Too many requests; see Retry-After"),
    (500, "A bug of ours"),
    (503, "Busy, or something this needs is down; see Retry-After"),
];

impl ApiErrorComponent for Error {
    fn schemas_by_status_code() -> BTreeMap<String, (String, ReferenceOr<apistos::Schema>)> {
        let Some(schema) = Failure::schema() else { return BTreeMap::new() };
        DOCUMENTED.iter().map(|(status, _)| (status.to_string(), schema.clone())).collect()
    }

    fn error_responses() -> Vec<(String, Response)> {
        DOCUMENTED.iter().map(|(status, meaning)| (status.to_string(), json_response(meaning, "Failure"))).collect()
    }
}

/// What actix itself refuses, in our words.
pub fn malformed(detail: impl std::fmt::Display) -> Error {
    Error::new(Code::MalformedRequest, detail.to_string())
}
