//! `/.well-known/jwks.json`: the public keys (RFC 7517), for gateways that verify access tokens by themselves.

use actix_web::HttpResponse;
use actix_web::http::header;

use super::State;

/// Empty while a shared secret signs. Gateways may keep it for some minutes: a key is published long before it signs.
pub async fn get_jwks(app: State) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "public, max-age=300")).json(app.access_tokens.published())
}
