//! `/verify-email`: the page behind the mailed links. Opening it uses nothing up, because mail scanners open links too.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use askama::Template;
use futures_util::FutureExt as _;
use serde::Deserialize;

use super::Confirmed;
use crate::app::App;
use crate::error::Result;
use crate::http::State;
use crate::http::extract::Query;
use crate::http::form::Form;
use crate::http::origin::Origin;
use crate::http::page;
use crate::infra::cause::Cause;
use crate::infra::one_time_token::Purpose;

/// The link's parameter, and the form's field.
#[derive(Debug, Deserialize)]
pub struct Link {
    token: String,
}

#[derive(Template)]
#[template(path = "addresses/verify_email.html")]
struct VerifyEmail<'a> {
    app_name: &'a str,
    token: &'a str,
}

pub async fn show_verify_email(app: State, Query(link): Query<Link>) -> HttpResponse {
    page::show(StatusCode::OK, &VerifyEmail { app_name: &app.config.app_name, token: &link.token })
}

pub async fn submit_verify_email(app: State, origin: Origin, Form(link): Form<Link>) -> HttpResponse {
    let app_name = &app.config.app_name;
    let text = match follow(&app, link.token, origin.of_anyone()).await {
        Ok(Confirmed::Verified) => "Your address is confirmed. You can close this page.",
        Ok(Confirmed::Changed) => "Your account uses this address from now on. You can close this page.",
        Err(error) => return page::failure(app_name, &error),
    };
    page::show(StatusCode::OK, &page::Message { app_name, title: "Thank you", text })
}

async fn follow(app: &App, text: String, cause: Cause) -> Result<Confirmed> {
    let token = super::open_link(app, text, &[Purpose::EmailVerification, Purpose::EmailChange], &cause).await?;
    let config = app.config.clone();
    app.db.write(move |tx| async move { super::confirm(tx, &token, &config, &cause).await }.boxed()).await
}
