//! Who is calling, as extractors; each documents its operation as secured.

use std::future::Future;
use std::pin::Pin;

use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload};
use apistos::ApiSecurity;

use super::doors::{Door, nothing_here};
use super::staff;
use crate::access::staff::StaffSession;
use crate::access::{self, Authenticated, Caller, Service, Session};
use crate::app::App;
use crate::card::{self, Card};
use crate::error::{Code, Error, Result};

const SERVICE_KEY: &str = "x-internal-api-key";

/// A signed-in user.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct SignedIn(pub Session);

/// A signed-in user and his card.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct Me(pub Card);

/// A signed-in user, or a sibling service. What was read of the user on the way comes along.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct AnyCaller(pub Caller, pub Option<Card>);

/// The same, and at the internal port also somebody without a key, where `SERVICE_AUTH=off` says so.
#[derive(Debug, ApiSecurity)]
#[openapi_security(name = "bearerAuth", scheme(security_type(http(scheme = "bearer", bearer_format = "JWT"))))]
pub struct AnyReader(pub Caller, pub Option<Card>);

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

/// For the document only: whoever may ask beside a user. Each extractor tells one way, and several are alternatives.
#[derive(Debug, ApiSecurity)]
#[openapi_security(
    name = "serviceKey",
    scheme(
        description = "A key made by `user-service keys service`; also accepted as a bearer token",
        security_type(api_key(name = "X-Internal-API-Key", api_key_in = "header"))
    )
)]
pub struct OrService;

/// A sibling service, or an operator.
#[derive(Debug, ApiSecurity)]
#[openapi_security(
    name = "serviceKey",
    scheme(
        description = "A key made by `user-service keys service`; also accepted as a bearer token",
        security_type(api_key(name = "X-Internal-API-Key", api_key_in = "header"))
    )
)]
pub struct FromLister(pub Caller);

/// The same as [`AnyReader`], but no user.
#[derive(Debug, ApiSecurity)]
#[openapi_security(
    name = "serviceKey",
    scheme(
        description = "A key made by `user-service keys service`; also accepted as a bearer token",
        security_type(api_key(name = "X-Internal-API-Key", api_key_in = "header"))
    )
)]
pub struct FromReader(pub Service);

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T>>>>;

/// An extractor that asks who is calling, and makes of it what it takes.
macro_rules! extracts {
    ($extractor:ident, $identify:ident, |$app:ident, $identified:ident| $made:expr) => {
        impl FromRequest for $extractor {
            type Error = Error;
            type Future = Extracting<Self>;

            fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move {
                    let $app = state(&request)?;
                    let $identified = $identify(&request, $app).await?;
                    $app.hasher.note_caller();
                    $made
                })
            }
        }
    };
}

extracts!(SignedIn, identify_user, |_app, identified| identified.user().map(|(session, _card)| SignedIn(session)));
extracts!(Me, identify_user, |app, identified| {
    let (session, card) = identified.user()?;
    Ok(Me(card::known_or_cached(app, card, session.user_id).await?))
});
extracts!(AnyCaller, identify, |_app, identified| Ok(AnyCaller(identified.caller, identified.card)));
extracts!(AnyReader, identify_reader, |_app, identified| Ok(AnyReader(identified.caller, identified.card)));
extracts!(FromService, identify_inside, |_app, identified| identified.service().map(FromService));
extracts!(FromLister, identify_inside, |_app, identified| match identified.caller {
    Caller::User(_) => Err(Error::new(Code::Forbidden, "This is for services and admins; a user's token does not open it.")),
    caller => Ok(FromLister(caller)),
});
extracts!(FromReader, identify_reader_inside, |_app, identified| identified.service().map(FromReader));

impl FromRequest for OrService {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(_request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(Ok(Self))
    }
}

/// Who is calling, and his card if it was read on the way.
struct Identified {
    caller: Caller,
    card: Option<Card>,
}

impl Identified {
    fn of_service(service: Service) -> Self {
        Self { caller: Caller::Service(service), card: None }
    }

    fn user(self) -> Result<(Session, Option<Card>)> {
        match self.caller {
            Caller::User(session) => Ok((session, self.card)),
            Caller::Service(_) => Err(Error::new(Code::Forbidden, "This is for users; a service key does not open it.")),
            Caller::Admin(_) => Err(Error::new(Code::Forbidden, "This is for users; sign in to the API for it.")),
        }
    }

    fn service(self) -> Result<Service> {
        match self.caller {
            Caller::Service(service) => Ok(service),
            Caller::User(_) | Caller::Admin(_) => {
                Err(Error::new(Code::Forbidden, "This is for services; a user's token does not open it."))
            }
        }
    }
}

pub(super) fn state(request: &HttpRequest) -> Result<&App> {
    let app = request.app_data::<Data<App>>().ok_or_else(|| Error::internal("the application state is missing"))?;
    Ok(app.get_ref())
}

async fn identify(request: &HttpRequest, app: &App) -> Result<Identified> {
    if let Some(shown) = service_of(request, app) {
        let service = shown.ok_or_else(|| Error::new(Code::Unauthenticated, "The service key is not valid."))?;
        access::note_key(app, &service, app.clock.now()).await;
        return Ok(Identified::of_service(service));
    }
    if let Some(admin) = admin_of(request, app).await? {
        return Ok(Identified { caller: Caller::Admin(admin), card: None });
    }
    authenticate(request, app, bearer(request)?).await
}

/// The same where only a user may be: a gateway that shows its own key beside his token (for `forward`) does not stand in for him.
async fn identify_user(request: &HttpRequest, app: &App) -> Result<Identified> {
    match bearer(request).ok().filter(|token| is_token(token)) {
        Some(token) => authenticate(request, app, token).await,
        None => identify(request, app).await,
    }
}

async fn authenticate(request: &HttpRequest, app: &App, token: &str) -> Result<Identified> {
    let Authenticated { session, card, allowance } = access::authenticate(app, token).await?;
    if let Some(allowance) = allowance {
        request.extensions_mut().insert(allowance);
    }
    Ok(Identified { caller: Caller::User(session), card })
}

/// The operator whose cookie comes without any other credentials, where operators are, once his second factor was seen.
async fn admin_of(request: &HttpRequest, app: &App) -> Result<Option<StaffSession>> {
    if request.headers().contains_key(AUTHORIZATION) || !Door::of(request).is_inner() {
        return Ok(None);
    }
    // Not for a script of an origin that CORS lets read the API: that is let in for users, by their tokens.
    if staff::is_cross_site(request, app) {
        return Ok(None);
    }
    let Some(token) = staff::token_of(request, app) else { return Ok(None) };
    Ok(access::staff::find(app, &token, app.clock.now()).await?.filter(|session| session.has_second_factor))
}

/// Where services are: at the public door such a path does not exist.
async fn identify_inside(request: &HttpRequest, app: &App) -> Result<Identified> {
    if !Door::of(request).is_inner() {
        return Err(nothing_here());
    }
    identify(request, app).await.map_err(|error| ask_for_key(request, error))
}

/// Whoever shows nothing where services are is told what would open the door.
fn ask_for_key(request: &HttpRequest, error: Error) -> Error {
    let shows_nothing = !request.headers().contains_key(AUTHORIZATION) && !request.headers().contains_key(SERVICE_KEY);
    if error.code != Code::Unauthenticated || !shows_nothing {
        return error;
    }
    Error::new(Code::Unauthenticated, "Send a service key: X-Internal-API-Key: usk_….")
}

async fn identify_reader(request: &HttpRequest, app: &App) -> Result<Identified> {
    let shows_nothing = !request.headers().contains_key(AUTHORIZATION) && !request.headers().contains_key(SERVICE_KEY);
    if shows_nothing && !app.config.http.service_auth && Door::of(request) == Door::Internal {
        return Ok(Identified::of_service(Service::unnamed()));
    }
    identify(request, app).await
}

async fn identify_reader_inside(request: &HttpRequest, app: &App) -> Result<Identified> {
    if !Door::of(request).is_inner() {
        return Err(nothing_here());
    }
    identify_reader(request, app).await.map_err(|error| ask_for_key(request, error))
}

/// The service that shows a key where services are; `Some(None)` if the key is nobody's.
pub(super) fn service_of(request: &HttpRequest, app: &App) -> Option<Option<Service>> {
    if !Door::of(request).is_inner() {
        return None;
    }
    let find = |key: &str| access::find_service(&app.config.service_keys, key);
    if let Some(key) = request.headers().get(SERVICE_KEY) {
        return Some(key.to_str().ok().and_then(|key| find(key.trim())));
    }
    // What is certainly no key is not hashed.
    let key = bearer(request).ok().filter(|key| !is_token(key))?;
    find(key).map(Some)
}

/// An access token has dots in it, a service key has none.
fn is_token(credential: &str) -> bool {
    credential.contains('.')
}

/// The one bearer token of a request; its scheme's case does not matter (RFC 9110, 11.1).
fn bearer(request: &HttpRequest) -> Result<&str> {
    let missing = || Error::new(Code::Unauthenticated, "Send an access token: Authorization: Bearer ….");
    let mut values = request.headers().get_all(AUTHORIZATION);
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() { Ok(token) } else { Err(missing()) }
}
