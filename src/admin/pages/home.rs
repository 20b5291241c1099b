//! `/`: where to go; and in development the mails that were sent, which go into the log only.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use askama::Template;
use futures_util::FutureExt as _;

use super::when;
use crate::admin::overview::{self, Mail};
use crate::config::MailTransport;
use crate::http::State;
use crate::http::doors::Door;
use crate::http::page;

#[derive(Template)]
#[template(path = "admin/pages/html/home.html")]
struct Home<'a> {
    app_name: &'a str,
    with_docs: bool,
    with_admin: bool,
    /// Absent where mails really leave.
    mails: Option<Vec<Mail>>,
}

pub async fn show_home(app: State, request: HttpRequest) -> HttpResponse {
    let mails = if matches!(app.config.mail.transport, MailTransport::Log) {
        let email_key = app.config.broker.email_key.clone();
        app.db.read(move |conn| async move { overview::list_mails(conn, None, &email_key).await }.boxed()).await.ok()
    } else {
        None
    };
    let (with_docs, with_admin) = (app.config.http.docs, Door::of(&request).is_inner());
    page::show(StatusCode::OK, &Home { app_name: &app.config.app_name, with_docs, with_admin, mails })
}
