//! Who may see a page: nobody from another site, nobody without a session, and nobody without his second factor.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::middleware::Next;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _};
use askama::Template;

use super::{Fault, Frame, see_other, show};
use crate::access::staff::{self, StaffSession, StaffToken};
use crate::app::App;
use crate::card;
use crate::error::{Code, Error, Result};
use crate::http::doors::{Door, nothing_here};
use crate::http::staff::{is_cross_site, is_followed_from_elsewhere, is_of_other_origin, token_of};

/// Pages that are shown to whoever comes.
const OPEN: [&str; 3] = ["/admin/login", "/admin/enrol", "/admin/style.css"];
/// And those that need no second factor.
const HALFWAY: [&str; 2] = ["/admin/code", "/admin/logout"];

/// Who visits.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    pub token: Option<StaffToken>,
    pub session: Option<StaffSession>,
    email: String,
}

/// An admin whose second factor was seen.
#[derive(Clone, Debug)]
pub struct Admin {
    pub session: StaffSession,
    email: String,
    csrf: String,
    app_name: String,
}

impl Admin {
    pub fn frame(&self, part: &'static str) -> Frame {
        Frame { app_name: self.app_name.clone(), email: self.email.clone(), csrf: self.csrf.clone(), part }
    }
}

#[derive(Template)]
#[template(path = "admin/pages/html/not_enrolled.html")]
struct NotEnrolled<'a> {
    app_name: &'a str,
    email: &'a str,
    csrf: String,
}

#[derive(Template)]
#[template(path = "admin/pages/html/again.html")]
struct Again<'a> {
    app_name: &'a str,
    to: &'a str,
}

pub async fn guard(request: ServiceRequest, next: Next<impl MessageBody + 'static>) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    // At the public door it is as if there were no such pages.
    if !Door::of(request.request()).is_inner() {
        return Ok(request.into_response(nothing_here().error_response()));
    }
    match admit(request.request()).await {
        Ok(None) => Ok(next.call(request).await?.map_into_boxed_body()),
        Ok(Some(elsewhere)) => Ok(request.into_response(elsewhere)),
        Err(error) => Ok(request.into_response(Fault(error).error_response())),
    }
}

/// Lets a request pass, or says where it goes instead.
async fn admit(request: &HttpRequest) -> Result<Option<HttpResponse>> {
    let app = request.app_data::<Data<App>>().ok_or_else(|| Error::internal("the application state is missing"))?;
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_of_other_origin(request, app) || (!reads && is_cross_site(request, app)) {
        return Err(Error::new(Code::Forbidden, "This was sent from another site."));
    }
    if reads && is_followed_from_elsewhere(request) {
        // Asked for once more by a page of ours it comes with the cookie. Without, a sign-in page would take the cookie's place.
        let to = request.uri().path_and_query().map_or("/admin", |uri| uri.as_str());
        return Ok(Some(show(&Again { app_name: &app.config.app_name, to })));
    }
    if request.path() == "/admin/style.css" {
        return Ok(None);
    }
    let mut visit = Visit { token: token_of(request, app), ..Visit::default() };
    if let Some(token) = &visit.token {
        visit.session = staff::find(app, token, app.clock.now()).await?;
    }
    if let Some(session) = visit.session {
        visit.email = card::find_cached(app, session.user_id).await?.map(|card| card.email).unwrap_or_default();
    }
    let path = request.path();
    let elsewhere = match (visit.session, &visit.token) {
        _ if OPEN.contains(&path) => None,
        // Whoever has a cookie without a session had one.
        (None, Some(_)) => Some(see_other("/admin/login?ended=yes")),
        (None, None) | (_, None) => Some(see_other("/admin/login")),
        (Some(session), _) if session.has_second_factor => None,
        (Some(_), _) if path == "/admin/logout" => None,
        (Some(session), Some(token)) if !session.is_enrolled => {
            Some(show(&NotEnrolled { app_name: &app.config.app_name, email: &visit.email, csrf: token.csrf(&app.keys) }))
        }
        (Some(_), _) if HALFWAY.contains(&path) => None,
        (Some(_), _) => Some(see_other("/admin/code")),
    };
    request.extensions_mut().insert(visit);
    Ok(elsewhere)
}

impl FromRequest for Visit {
    type Error = Fault;
    type Future = std::future::Ready<Result<Self, Fault>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(Ok(request.extensions().get::<Visit>().cloned().unwrap_or_default()))
    }
}

impl FromRequest for Admin {
    type Error = Fault;
    type Future = std::future::Ready<Result<Self, Fault>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let visit = request.extensions().get::<Visit>().cloned().unwrap_or_default();
        let app = request.app_data::<Data<App>>();
        // Nobody else gets past the guard; this is the second lock of the same door.
        let admin = match (visit.session.filter(|session| session.has_second_factor), visit.token, app) {
            (Some(session), Some(token), Some(app)) => {
                let (csrf, app_name) = (token.csrf(&app.keys), app.config.app_name.clone());
                Ok(Self { session, email: visit.email, csrf, app_name })
            }
            _ => Err(Fault(Code::Unauthenticated.into())),
        };
        std::future::ready(admin)
    }
}
