//! Who is calling, as extractors; each documents its operation as secured.

use std::future::Future;
use std::pin::Pin;

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpRequest, dev::Payload};
use apistos::ApiSecurity;

use crate::access::{self, Caller, Service, Session};
use crate::app::App;
use crate::error::{Code, Error, Result};

/// A signed-in user.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct SignedIn(pub Session);

/// A signed-in user, or a sibling service.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct AnyCaller(pub Caller);

/// A sibling service.
#[derive(Debug, ApiSecurity)]
#[openapi_security(
    name = "serviceKey",
    scheme(
        description = "A key made by `user-service keys service`; also accepted as a bearer token",
        security_type(api_key(name = "X-Internal-API-Key", api_key_in = "header"))
    )
)]
pub struct FromService(pub Service);

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

impl FromRequest for AnyCaller {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { identify(&request).await.map(AnyCaller) })
    }
}

impl FromRequest for SignedIn {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            match identify(&request).await? {
                Caller::User(session) => Ok(SignedIn(session)),
                Caller::Service(_) => Err(Error::new(Code::Forbidden, "This is for users; a service key does not open it.")),
            }
        })
    }
}

impl FromRequest for FromService {
    type Error = Error;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            match identify(&request).await? {
                Caller::Service(service) => Ok(FromService(service)),
                Caller::User(_) => Err(Error::new(Code::Forbidden, "This is for services; a user's token does not open it.")),
            }
        })
    }
}

async fn identify(request: &HttpRequest) -> Result<Caller> {
    let app = request.app_data::<Data<App>>().ok_or_else(|| Error::internal("the application state is missing"))?;
    if let Some(key) = request.headers().get("x-internal-api-key") {
        let service = key.to_str().ok().and_then(|key| access::find_service(&app.config.service_keys, key.trim()));
        return service.map(Caller::Service).ok_or_else(|| Error::new(Code::Unauthenticated, "The service key is not valid."));
    }
    let token = bearer(request)?;
    if let Some(service) = access::find_service(&app.config.service_keys, token) {
        return Ok(Caller::Service(service));
    }
    access::authenticate(app, token).await.map(Caller::User)
}

/// The one bearer token of a request; its scheme's case does not matter (RFC 9110, 11.1).
fn bearer(request: &HttpRequest) -> Result<&str> {
    let missing = || Error::new(Code::Unauthenticated, "Send an access token: Authorization: Bearer ….");
    let mut values = request.headers().get_all(AUTHORIZATION);
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() { Ok(token) } else { Err(missing()) }
}
