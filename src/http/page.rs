//! What the hosted pages share: small, without script, and nothing from elsewhere.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError as _};
use askama::Template;

use crate::error::{Code, Error};

/// No script, nothing inline, and forms go back to where they came from.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Where the pages' style is served.
pub const STYLE_PATH: &str = "/pages.css";

/// A page with a status.
pub fn show(status: StatusCode, page: &impl Template) -> HttpResponse {
    match page.render() {
        Ok(html) => HttpResponse::build(status)
            .content_type("text/html; charset=utf-8")
            .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
            .body(html),
        Err(error) => Error::internal(error).error_response(),
    }
}

/// Says in a few words how it ended.
#[derive(Template)]
#[template(path = "http/page_message.html")]
pub struct Message<'a> {
    pub app_name: &'a str,
    pub title: &'a str,
    pub text: &'a str,
}

/// How a form's failure looks: what the caller can mend is told, the rest is kept short.
pub fn failure(app_name: &str, error: &Error) -> HttpResponse {
    let title = match error.code {
        Code::InvalidToken => "This link does not work",
        Code::RateLimited => "Too many attempts",
        _ => "That did not work",
    };
    // The same status, log line and Retry-After as an answer of the API.
    let answer = error.error_response();
    let mut page = show(answer.status(), &Message { app_name, title, text: &error.detail });
    if let Some(after) = answer.headers().get(header::RETRY_AFTER) {
        page.headers_mut().insert(header::RETRY_AFTER, after.clone());
    }
    page
}

/// The pages' style.
pub async fn style() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .body(include_str!("assets/pages.css"))
}
