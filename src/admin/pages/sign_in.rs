//! Coming in and going out: password, code, and the enrolment of a phone.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use futures_util::FutureExt as _;
use serde::Deserialize;

use super::forms::{Empty, OwnForm};
use super::guard::Visit;
use super::{Shown, problem, see_other, show, show_as};
use crate::access::staff::StaffToken;
use crate::admin::staff::{enrol, open_enrolment, prove, sign_in, sign_out};
use crate::app::App;
use crate::error::{Code, Error, Kind};
use crate::http::State;
use crate::http::extract::Query;
use crate::http::origin::Origin;
use crate::http::staff::{cookie, is_tls, no_cookie};
use crate::infra::cause::Cause;

#[derive(Template)]
#[template(path = "admin/pages/html/sign_in.html")]
struct SignIn<'a> {
    app_name: &'a str,
    csrf: String,
    email: &'a str,
    problem: String,
    has_ended: bool,
    is_tls: bool,
}

#[derive(Debug, Deserialize)]
pub struct Ended {
    ended: Option<String>,
}

pub async fn show_sign_in(app: State, request: HttpRequest, visit: Visit, Query(ended): Query<Ended>) -> Shown {
    if visit.session.is_some() {
        return Ok(see_other("/admin"));
    }
    let has_ended = ended.ended.is_some();
    sign_in_form(&app, &request, StatusCode::OK, None, ("", String::new(), has_ended))
}

/// The form, with a cookie for its token where there is none yet.
fn sign_in_form(app: &App, request: &HttpRequest, status: StatusCode, visit: Option<Visit>, said: (&str, String, bool)) -> Shown {
    let token = visit.and_then(|visit| visit.token).map_or_else(StaffToken::new, Ok)?;
    let (email, problem, has_ended) = said;
    let is_tls = is_tls(request, app);
    let page = SignIn { app_name: &app.config.app_name, csrf: token.csrf(&app.keys), email, problem, has_ended, is_tls };
    let mut response = show_as(status, &page);
    response.add_cookie(&cookie(&token, is_tls)).map_err(Error::internal)?;
    Ok(response)
}

#[derive(Deserialize)]
pub struct Credentials {
    email: String,
    password: String,
}

pub async fn submit_sign_in(app: State, request: HttpRequest, visit: Visit, origin: Origin, OwnForm(form): OwnForm<Credentials>) -> Shown {
    let before = visit.token.clone().ok_or(Code::Unauthenticated)?;
    match sign_in(&app, &form.email, &form.password, before, origin.of_anyone()).await {
        Ok(token) => signed_in(&app, &request, &token, "/admin"),
        Err(error) if error.code == Code::InvalidCredentials => {
            let said = (form.email.as_str(), "Address or password are wrong, or the account is no admin's.".to_owned(), false);
            sign_in_form(&app, &request, StatusCode::UNAUTHORIZED, Some(visit), said)
        }
        Err(error) => Err(error.into()),
    }
}

fn signed_in(app: &App, request: &HttpRequest, token: &StaffToken, path: &str) -> Shown {
    let mut response = see_other(path);
    response.add_cookie(&cookie(token, is_tls(request, app))).map_err(Error::internal)?;
    Ok(response)
}

#[derive(Template)]
#[template(path = "admin/pages/html/code.html")]
struct AskCode<'a> {
    app_name: &'a str,
    csrf: String,
    problem: String,
}

pub async fn show_code(app: State, visit: Visit) -> Shown {
    if visit.session.is_some_and(|session| session.has_second_factor) {
        return Ok(see_other("/admin"));
    }
    code_form(&app, &visit, StatusCode::OK, String::new())
}

fn code_form(app: &App, visit: &Visit, status: StatusCode, problem: String) -> Shown {
    let csrf = visit.token.as_ref().map(|token| token.csrf(&app.keys)).unwrap_or_default();
    Ok(show_as(status, &AskCode { app_name: &app.config.app_name, csrf, problem }))
}

#[derive(Deserialize)]
pub struct ShownCode {
    code: String,
}

pub async fn submit_code(app: State, request: HttpRequest, visit: Visit, origin: Origin, OwnForm(form): OwnForm<ShownCode>) -> Shown {
    let (Some(session), Some(before)) = (visit.session, visit.token.clone()) else { return Err(Code::Unauthenticated.into()) };
    match prove(&app, session, &form.code, before, origin.of_admin(&session)).await {
        Ok(token) => signed_in(&app, &request, &token, "/admin/users"),
        Err(error) if error.kind() == Kind::Invalid => {
            code_form(&app, &visit, StatusCode::UNAUTHORIZED, format!("The {}.", problem(&error)))
        }
        Err(error) => Err(error.into()),
    }
}

pub async fn submit_sign_out(app: State, request: HttpRequest, visit: Visit, origin: Origin, OwnForm(_form): OwnForm<Empty>) -> Shown {
    if let (Some(token), Some(session)) = (visit.token, visit.session) {
        let cause = origin.of_admin(&session);
        app.db.write(move |tx| async move { sign_out(tx, &session, &token, &cause).await }.boxed()).await?;
    }
    let mut response = see_other("/admin/login");
    response.add_cookie(&no_cookie(is_tls(&request, &app))).map_err(Error::internal)?;
    Ok(response)
}

#[derive(Template)]
#[template(path = "admin/pages/html/enrol.html")]
struct Enrol<'a> {
    app_name: &'a str,
    csrf: String,
    token: &'a str,
    email: &'a str,
    picture: String,
    typed: String,
    problem: String,
}

#[derive(Template)]
#[template(path = "admin/pages/html/enrolled.html")]
struct Enrolled<'a> {
    app_name: &'a str,
    codes: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Link {
    #[serde(default)]
    token: String,
}

#[derive(Deserialize)]
pub struct FirstCode {
    token: String,
    code: String,
}

pub async fn show_enrolment(app: State, request: HttpRequest, visit: Visit, origin: Origin, Query(link): Query<Link>) -> Shown {
    enrolment_form(&app, &request, &visit, &origin.of_anyone(), &link.token, None).await
}

async fn enrolment_form(app: &App, request: &HttpRequest, visit: &Visit, cause: &Cause, text: &str, failed: Option<Error>) -> Shown {
    let session = visit.token.clone().map_or_else(StaffToken::new, Ok)?;
    let enrolment = open_enrolment(app, text.to_owned(), &session, cause).await?;
    let (typed, picture) = enrolment.invitation(&app.config.app_name)?;
    let page = Enrol {
        app_name: &app.config.app_name,
        csrf: session.csrf(&app.keys),
        token: text,
        email: &enrolment.user.email,
        picture,
        typed,
        problem: failed.as_ref().map(|error| format!("The {}.", problem(error))).unwrap_or_default(),
    };
    let mut response: HttpResponse = if failed.is_some() { show_as(StatusCode::BAD_REQUEST, &page) } else { show(&page) };
    response.add_cookie(&cookie(&session, is_tls(request, app))).map_err(Error::internal)?;
    Ok(response)
}

pub async fn submit_enrolment(app: State, request: HttpRequest, visit: Visit, origin: Origin, OwnForm(form): OwnForm<FirstCode>) -> Shown {
    let cause = origin.of_anyone();
    let browser = visit.token.clone().ok_or(Code::Unauthenticated)?;
    let enrolment = open_enrolment(&app, form.token.clone(), &browser, &cause).await?;
    match enrol(&app, enrolment, &form.code, cause.clone()).await {
        Ok(codes) => Ok(show(&Enrolled { app_name: &app.config.app_name, codes })),
        Err(error) if error.code == Code::ValidationFailed => {
            enrolment_form(&app, &request, &visit, &cause, &form.token, Some(error)).await
        }
        Err(error) => Err(error.into()),
    }
}
