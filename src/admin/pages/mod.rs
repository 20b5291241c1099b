//! `/admin/`: the pages of the people who run the service. Rendered here, without script, and nothing from elsewhere.

mod decision;
mod forms;
mod guard;
mod health;
pub mod home;
mod messages;
mod sign_in;
mod user;
mod users;

use actix_web::http::{StatusCode, header};
use actix_web::middleware::from_fn;
use actix_web::web::{ServiceConfig, get, post, resource, scope, to};
use actix_web::{HttpResponse, ResponseError};
use askama::Template;
use chrono::{DateTime, Utc};

use crate::error::{Code, Error};
use crate::http::doors::nothing_here;
use crate::http::page;

/// The pages' routes.
pub fn configure(config: &mut ServiceConfig) {
    config.service(
        scope("/admin")
            .wrap(from_fn(guard::guard))
            .service(resource("/style.css").route(get().to(style)))
            .service(resource("/login").route(get().to(sign_in::show_sign_in)).route(post().to(sign_in::submit_sign_in)))
            .service(resource("/code").route(get().to(sign_in::show_code)).route(post().to(sign_in::submit_code)))
            .service(resource("/enrol").route(get().to(sign_in::show_enrolment)).route(post().to(sign_in::submit_enrolment)))
            .service(resource("/logout").route(post().to(sign_in::submit_sign_out)))
            .service(resource("").route(get().to(users::show_start)))
            .service(resource("/users").route(get().to(users::list_users)))
            .service(resource("/users/{id}").route(get().to(user::show_user)))
            .service(
                resource("/users/{id}/sessions/{session_id}")
                    .route(get().to(user::ask_end_session))
                    .route(post().to(user::submit_end_session)),
            )
            .service(resource("/users/{id}/{action}").route(get().to(user::ask_action)).route(post().to(user::submit_action)))
            .service(resource("/decision").route(get().to(decision::explain_decision)))
            .service(resource("/messages").route(get().to(messages::show_messages)))
            .service(resource("/messages/redrive").route(get().to(messages::ask_redrive)).route(post().to(messages::submit_redrive)))
            .service(resource("/messages/retry/{id}").route(get().to(messages::ask_retry)).route(post().to(messages::submit_retry)))
            .service(resource("/health").route(get().to(health::show_health)))
            .default_service(to(|| async { Err::<String, _>(Fault(nothing_here())) })),
    );
}

async fn style() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/css; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .body(include_str!("admin.css"))
}

/// What surrounds a page.
pub struct Frame {
    app_name: String,
    /// The address of who is signed in.
    email: String,
    csrf: String,
    /// Which part of the pages this is.
    part: &'static str,
}

/// A page, or what went wrong, as a page.
type Shown = Result<HttpResponse, Fault>;

fn show(page: &impl Template) -> HttpResponse {
    show_as(StatusCode::OK, page)
}

fn show_as(status: StatusCode, page: &impl Template) -> HttpResponse {
    let mut response = page::show(status, page);
    // With the API's `no-referrer` browsers send `Origin: null` with forms (Fetch, "append a request Origin header"), and it could
    // not be told who sent them. Never the path: that of the enrolment holds its token.
    response.headers_mut().insert(header::REFERRER_POLICY, header::HeaderValue::from_static("strict-origin"));
    response
}

/// Elsewhere, with a GET (RFC 9110, 15.4.4).
fn see_other(path: &str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((header::LOCATION, path)).finish()
}

/// A failure that a person sees.
#[derive(Debug)]
pub struct Fault(Error);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<Code> for Fault {
    fn from(code: Code) -> Self {
        Self(code.into())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for Fault {
    fn status_code(&self) -> StatusCode {
        self.0.status_code()
    }

    fn error_response(&self) -> HttpResponse {
        page::failure("Administration", &self.0)
    }
}

/// What is wrong, in one line.
fn problem(error: &Error) -> String {
    let fields: Vec<String> = error.fields.iter().map(|(field, problems)| format!("{field} {}", problems.join(", "))).collect();
    if fields.is_empty() { error.detail.to_string() } else { fields.join("; ") }
}

/// A time as it is read by people in more than one place.
fn when(time: impl Moment) -> String {
    time.moment().format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A time behind any number of references, which is how templates hand things on.
trait Moment {
    fn moment(&self) -> DateTime<Utc>;
}

impl Moment for DateTime<Utc> {
    fn moment(&self) -> DateTime<Utc> {
        *self
    }
}

impl<T: Moment> Moment for &T {
    fn moment(&self) -> DateTime<Utc> {
        (*self).moment()
    }
}

fn when_known(time: &Option<DateTime<Utc>>) -> String {
    time.as_ref().map_or_else(|| "never".to_owned(), when)
}

/// A question before something is done.
#[derive(Template)]
#[template(path = "admin/pages/html/ask.html")]
struct Ask {
    frame: Frame,
    title: String,
    text: String,
    /// Where the answer goes, and where somebody goes who thinks better of it.
    action: String,
    back: String,
    /// Names and values that come along.
    fields: Vec<(&'static str, String)>,
    needs_reason: bool,
    button: &'static str,
    problem: String,
}
