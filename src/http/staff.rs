//! The operators' cookie, and the forms that only their own pages can send.

use actix_web::cookie::{Cookie, SameSite};
use actix_web::{HttpRequest, http::header};

use crate::access::staff::StaffToken;
use crate::app::App;

/// With the prefix a browser takes it over TLS only, for this host only, and for every path (RFC 6265bis, 4.1.3.2).
const SECURE_NAME: &str = "__Host-admin";
const PLAIN_NAME: &str = "admin";

/// Whether the browser's side of the connection is TLS, as a trusted proxy says; the process itself speaks plain HTTP.
pub fn is_tls(request: &HttpRequest, app: &App) -> bool {
    let forwarded = request.headers().get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    app.config.http.trusted_proxy_count > 0
        && forwarded.is_some_and(|protocols| protocols.rsplit(',').next().is_some_and(|last| last.trim().eq_ignore_ascii_case("https")))
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

/// Whether a browser says that another site made it send this (OWASP CSRF Cheat Sheet: Fetch Metadata, then Origin).
pub fn is_cross_site(request: &HttpRequest, app: &App) -> bool {
    let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let scheme = if is_tls(request, app) { "https" } else { "http" };
    let own = text(header::HOST.as_str()).map(|host| format!("{scheme}://{host}"));
    text("origin").is_some_and(|origin| own.as_deref() != Some(origin) && origin != app.config.mail.public_base_url)
}
