//! The operators' cookie, and the forms that only their own pages can send.

use actix_web::cookie::{Cookie, SameSite};
use actix_web::{HttpRequest, http::header};

use crate::access::staff::StaffToken;
use crate::app::App;

/// With the prefix a browser takes it over TLS only, for this host only, and for every path (RFC 6265bis, 4.1.3.2).
const SECURE_NAME: &str = "__Host-admin";
const PLAIN_NAME: &str = "admin";

/// Whether the browser's side of the connection is TLS; the process itself speaks plain HTTP. A trusted proxy says so, or people
/// were told this address with https.
pub fn is_tls(request: &HttpRequest, app: &App) -> bool {
    let forwarded = header_of(request, "x-forwarded-proto").unwrap_or_default();
    let told = forwarded.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("https"));
    let is_public = |host| app.config.mail.public_base_url.strip_prefix("https://").and_then(|rest| rest.split('/').next()) == Some(host);
    (app.config.http.trusted_proxy_count > 0 && told) || header_of(request, header::HOST.as_str()).is_some_and(is_public)
}

fn header_of<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().unwrap_or("unreadable"))
}

/// What the request's cookie holds, if there is one.
pub fn token_of(request: &HttpRequest, app: &App) -> Option<StaffToken> {
    let name = if is_tls(request, app) { SECURE_NAME } else { PLAIN_NAME };
    request.cookie(name).map(|cookie| StaffToken::of(cookie.value()))
}

/// The cookie that holds a token until the browser closes; the server counts the time.
pub fn cookie(token: &StaffToken, is_tls: bool) -> Cookie<'static> {
    let name = if is_tls { SECURE_NAME } else { PLAIN_NAME };
    Cookie::build(name, token.text().to_owned()).path("/").secure(is_tls).http_only(true).same_site(SameSite::Strict).finish()
}

/// The cookie that takes it away.
pub fn no_cookie(is_tls: bool) -> Cookie<'static> {
    let mut cookie = cookie(&StaffToken::of(""), is_tls);
    cookie.make_removal();
    cookie
}

/// Whether a browser says that something elsewhere made it send this (OWASP CSRF Cheat Sheet: Fetch Metadata, then Origin).
pub fn is_cross_site(request: &HttpRequest, app: &App) -> bool {
    header_of(request, "sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) || is_of_other_origin(request, app)
}

/// Whether a script of another origin asks, to which CORS might show the answer. Who follows a link sends no Origin.
pub fn is_of_other_origin(request: &HttpRequest, app: &App) -> bool {
    let scheme = if is_tls(request, app) { "https" } else { "http" };
    let own = header_of(request, header::HOST.as_str()).map(|host| format!("{scheme}://{host}"));
    header_of(request, "origin").is_some_and(|origin| own.as_deref() != Some(origin) && origin != app.config.mail.public_base_url)
}

/// Whether somebody follows a link of another site: then the browser keeps the cookie back (RFC 6265bis, SameSite=Strict).
pub fn is_followed_from_elsewhere(request: &HttpRequest) -> bool {
    header_of(request, "sec-fetch-mode") == Some("navigate")
        && header_of(request, "sec-fetch-site").is_some_and(|site| matches!(site, "cross-site" | "same-site"))
}
