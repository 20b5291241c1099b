//! `/`: where to go; and in development the mails that were sent, which go into the log only. Their links are shown on this
//! machine alone.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::http::{StatusCode, header};
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
    mails: Option<Vec<(Mail, Option<String>)>>,
}

pub async fn show_home(app: State, request: HttpRequest) -> HttpResponse {
    let mails = if matches!(app.config.mail.transport, MailTransport::Log) {
        let (email_key, keys, now) = (app.config.broker.email_key.clone(), app.keys.clone(), app.clock.now());
        let reading = app.db.read(move |conn| async move { overview::list_mails_with_links(conn, &keys, &email_key, now).await }.boxed());
        let shows_links = is_here(&request);
        let mails = reading.await.ok();
        mails.map(|mails| mails.into_iter().map(|(mail, link)| (mail, link.filter(|_| shows_links))).collect())
    } else {
        None
    };
    let (with_docs, with_admin) = (app.config.http.docs, Door::of(&request).is_inner());
    page::show(StatusCode::OK, &Home { app_name: &app.config.app_name, with_docs, with_admin, mails })
}

/// Whether the browser is on this machine, and looks at it by a name that only this machine has: what lets a page of another
/// origin read this one is a name of its own that leads here.
fn is_here(request: &HttpRequest) -> bool {
    let header = |name: header::HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = header(header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
    let is_forwarded = request.headers().contains_key(header::X_FORWARDED_FOR) || request.headers().contains_key(header::FORWARDED);
    request.peer_addr().is_some_and(|peer| peer.ip().is_loopback()) && !is_forwarded && ["localhost", "127.0.0.1", "[::1]"].contains(&name)
}
