//! `/reset-password`: the page behind the mailed link. Opening it uses nothing up, because mail scanners open links too.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use askama::Template;
use serde::Deserialize;

use super::Typed;
use crate::error::{Code, Error};
use crate::http::State;
use crate::http::extract::Query;
use crate::http::form::Form;
use crate::http::origin::Origin;
use crate::http::page;

#[derive(Debug, Deserialize)]
pub struct Link {
    token: String,
}

#[derive(Deserialize)]
pub struct NewPasswordForm {
    token: String,
    password: String,
    password_confirm: String,
}

#[derive(Template)]
#[template(path = "passwords/reset_password.html")]
struct ResetPassword<'a> {
    app_name: &'a str,
    token: &'a str,
    password_problem: &'a str,
    confirm_problem: &'a str,
}

pub async fn show_reset_password(app: State, Query(link): Query<Link>) -> HttpResponse {
    let form = ResetPassword { app_name: &app.config.app_name, token: &link.token, password_problem: "", confirm_problem: "" };
    page::show(StatusCode::OK, &form)
}

pub async fn submit_reset_password(app: State, origin: Origin, Form(form): Form<NewPasswordForm>) -> HttpResponse {
    let app_name = &app.config.app_name;
    let new = Typed { password: form.password, confirm: form.password_confirm };
    match super::confirm_reset(&app, form.token.clone(), new, origin.of_anyone()).await {
        Ok(()) => {
            let text = "Your new password is set, and you were signed out everywhere. You can sign in with it now.";
            page::show(StatusCode::OK, &page::Message { app_name, title: "Thank you", text })
        }
        Err(error) if error.code == Code::ValidationFailed => {
            let problem = |field| first_problem(&error, field);
            let (password_problem, confirm_problem) = (problem("password"), problem("password_confirm"));
            // The link is still good: the same form again, with what is wrong.
            page::show(StatusCode::BAD_REQUEST, &ResetPassword { app_name, token: &form.token, password_problem, confirm_problem })
        }
        Err(error) => page::failure(app_name, &error),
    }
}

fn first_problem<'a>(error: &'a Error, field: &str) -> &'a str {
    error.fields.get(field).and_then(|problems| problems.first()).map(String::as_str).unwrap_or_default()
}
