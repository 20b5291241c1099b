//! All routes in one list, what surrounds them, and the server.

use std::net::TcpListener;
use std::time::Duration;

use actix_cors::Cors;
use actix_rt::net::TcpStream;
use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::middleware::{Condition, NormalizePath, TrailingSlash, from_fn};
use actix_web::web::{Data, ServiceConfig};
use actix_web::{App as ActixApp, HttpServer};
use apistos::app::{BuildConfig, OpenApiWrapper as _};
use apistos::web::{delete, get, patch, post, put, resource, scope};

use crate::app::App;
use crate::config::{self, Role};
use crate::error::{Error, Result};
use crate::http::doors::{Doors, nothing_here};
use crate::http::middleware::{EXPOSED_HEADERS, every_request, limit_address};
use crate::http::unread::hold_body;
use crate::http::{docs, health, jwks, metrics, page};
use crate::{addresses, admin, directory, passwords, preferences, push, push_tokens, sessions, users};

const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Of each worker; further ones wait in the kernel until one ends. Each has two descriptors (`infra::connections`).
const MAX_CONNECTIONS: usize = 4_096;

/// actix counts whole seconds; requests accepted before the stop have this long to finish.
const DRAIN_SECONDS: u64 = 20;

/// Sockets that listen already.
#[derive(Debug)]
pub struct Listeners {
    pub public: TcpListener,
    pub internal: Option<TcpListener>,
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration asks for; the error names the variable.
    pub fn bind(http: &config::Http) -> std::io::Result<Self> {
        let bind = |port: u16, variable: &str| {
            TcpListener::bind((http.host.as_str(), port))
                .map_err(|error| std::io::Error::new(error.kind(), format!("cannot listen on {}:{port} ({variable}): {error}", http.host)))
        };
        Ok(Self {
            public: bind(http.port, "PORT")?,
            internal: http.internal_port.map(|port| bind(port, "INTERNAL_PORT")).transpose()?,
            metrics: http.metrics_port.map(|port| bind(port, "METRICS_PORT")).transpose()?,
        })
    }

    fn doors(&self) -> Result<Doors> {
        let port = |listener: &Option<TcpListener>| {
            listener.as_ref().map(|listener| listener.local_addr().map(|address| address.port())).transpose().map_err(Error::internal)
        };
        Ok(Doors { internal: port(&self.internal)?, metrics: port(&self.metrics)? })
    }
}

/// Binds the routes of a role to its sockets.
pub fn server(app: App, role: Role, listeners: Listeners) -> Result<Server> {
    let doors = listeners.doors()?;
    let workers = app.config.http.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let connections = app.connections.clone();
    let server = HttpServer::new(move || routes(Some(app.on_this_runtime().unwrap_or_else(|_shared| app.clone())), role, doors))
        .workers(workers)
        .client_request_timeout(HEADER_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .max_connections(MAX_CONNECTIONS)
        .shutdown_timeout(DRAIN_SECONDS)
        .on_connect(move |socket, data| {
            if let Some(connection) = socket.downcast_ref::<TcpStream>().and_then(|socket| connections.watch(socket)) {
                data.insert(connection);
            }
        })
        .disable_signals();
    let listening = [Some(listeners.public), listeners.internal, listeners.metrics].into_iter().flatten();
    let server = listening.into_iter().try_fold(server, HttpServer::listen).map_err(Error::internal)?;
    Ok(server.run())
}

/// The document as it is served, for the command line.
pub async fn openapi() -> Result<serde_json::Value> {
    let app = actix_web::test::init_service(routes(None, Role::Both, Doors::default())).await;
    let request = actix_web::test::TestRequest::get().uri(docs::OPENAPI_PATH).to_request();
    Ok(actix_web::test::call_and_read_body_json(&app, request).await)
}

/// Without an [`App`] only the document can be asked for.
fn routes(
    app: Option<App>,
    role: Role,
    doors: Doors,
) -> ActixApp<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<impl MessageBody>, Error = actix_web::Error, InitError = ()>,
> {
    let with_docs = role.has_api() && app.as_ref().is_none_or(|app| app.config.http.docs);
    let with_tests = app.as_ref().is_some_and(|app| app.config.http.test_notifications);
    let limits_addresses = app.as_ref().is_some_and(|app| app.ip_limiter.is_on());
    let cors = cors(app.as_ref().map(|app| app.config.http.cors_allowed_origins.clone()).unwrap_or_default());
    let state = move |config: &mut ServiceConfig| {
        if let Some(app) = app {
            config.app_data(Data::new(app));
        }
        config.app_data(Data::new(role)).app_data(Data::new(doors));
    };
    let build = if with_docs { BuildConfig::default() } else { BuildConfig::default().disable_openapi_route() };
    ActixApp::new()
        .document(docs::spec())
        .wrap(Condition::new(limits_addresses, from_fn(limit_address)))
        .wrap(cors)
        .wrap(from_fn(every_request))
        // Each path is served with and without its slash, never by redirect: here it loses it before it is routed.
        .wrap(NormalizePath::new(TrailingSlash::Trim))
        .wrap(from_fn(hold_body))
        .configure(move |config| {
            if role.has_api() {
                config.service(api_v1(with_tests)).service(bare());
            }
        })
        .build_with(docs::OPENAPI_PATH, build)
        .configure(state)
        .configure(move |config| {
            watched(config, role);
            if with_docs {
                docs::configure(config);
            }
            if role.has_api() {
                pages(config);
                admin::pages::configure(config);
            }
        })
        .default_service(actix_web::web::to(|| async { Err::<String, _>(nothing_here()) }))
}

/// What monitors ask for. A resource each, so that another method is 405 and not 404; many ask by HEAD.
fn watched(config: &mut ServiceConfig, role: Role) {
    use actix_web::web::{get, head, resource};
    config
        .service(resource("/health").route(get().to(health::get_health)).route(head().to(health::get_health)))
        .service(resource("/health/live").route(get().to(health::get_liveness)).route(head().to(health::get_liveness)))
        .service(resource("/health/ready").route(get().to(health::get_readiness)).route(head().to(health::get_readiness)))
        .service(resource("/metrics").route(get().to(metrics::get_metrics)));
    if !role.has_api() {
        config.service(resource("/api/v1/health").route(get().to(health::get_health)));
    }
}

/// The pages behind the mailed links, and the keys that gateways fetch.
fn pages(config: &mut ServiceConfig) {
    use actix_web::web::{get, post, resource};
    config
        .service(resource("/").route(get().to(admin::pages::home::show_home)))
        .service(resource("/.well-known/jwks.json").route(get().to(jwks::get_jwks)))
        .service(resource(page::STYLE_PATH).route(get().to(page::style)))
        .service(
            resource("/verify-email")
                .route(get().to(addresses::pages::show_verify_email))
                .route(post().to(addresses::pages::submit_verify_email)),
        )
        .service(
            resource("/reset-password")
                .route(get().to(passwords::pages::show_reset_password))
                .route(post().to(passwords::pages::submit_reset_password)),
        );
}

/// What gateways ask for without a version.
fn bare() -> apistos::web::Scope {
    scope("/api/users")
        .service(resource("/validate").route(get().to(directory::http::validate_bare_token)))
        .service(resource("/{id}").route(get().to(directory::http::get_bare_user)))
        .service(resource("/{id}/preferences").route(get().to(directory::http::get_bare_preferences)))
}

/// One resource a path, fixed segments before parameters: actix takes the first that fits.
fn api_v1(with_tests: bool) -> apistos::web::Scope {
    let all = scope("/api/v1")
        .service(resource("/users").route(post().to(users::http::register_user)).route(get().to(admin::http::list_users)))
        .service(
            resource("/users/profile")
                .route(get().to(users::profile::http::get_profile))
                .route(patch().to(users::profile::http::update_profile))
                .route(put().to(users::profile::http::replace_profile))
                .route(delete().to(users::profile::http::deactivate_user)),
        )
        .service(
            resource("/users/preferences")
                .route(get().to(preferences::http::get_preferences))
                .route(patch().to(preferences::http::update_preferences)),
        )
        .service(resource("/users/email").route(post().to(addresses::http::request_email_change)))
        .service(resource("/users/email/confirm").route(post().to(addresses::http::confirm_email_change)))
        .service(resource("/users/lookup").route(post().to(directory::http::look_up_users)))
        .service(resource("/users/{id}").route(get().to(directory::http::get_user)))
        .service(resource("/users/{id}/preferences").route(get().to(directory::http::get_user_preferences)))
        .service(resource("/users/{id}/contact").route(get().to(directory::http::get_user_contact)))
        .service(
            resource("/users/{id}/push-token")
                .route(get().to(directory::http::get_user_push_token))
                .route(delete().to(push_tokens::http::delete_push_token)),
        )
        .service(resource("/users/{id}/push-token/retire").route(post().to(push_tokens::http::retire_push_token)))
        .service(resource("/push-requests").route(post().to(push::http::submit_push_request)))
        .service(resource("/auth/login").route(post().to(sessions::http::login)))
        .service(resource("/auth/refresh").route(post().to(sessions::http::refresh_session)))
        .service(resource("/auth/logout").route(post().to(sessions::http::logout)))
        .service(resource("/auth/sessions").route(get().to(sessions::http::list_sessions)))
        .service(resource("/auth/sessions/{id}").route(delete().to(sessions::http::end_session)))
        .service(resource("/auth/password").route(post().to(passwords::http::change_password)))
        .service(resource("/auth/password-reset").route(post().to(passwords::http::request_password_reset)))
        .service(resource("/auth/password-reset/confirm").route(post().to(passwords::http::confirm_password_reset)))
        .service(resource("/auth/verify-email").route(post().to(addresses::http::verify_email)))
        .service(resource("/auth/verify-email/resend").route(post().to(addresses::http::resend_verification)))
        .service(resource("/auth/validate").route(get().to(directory::http::validate_token)))
        .service(resource("/health").route(get().to(health::get_health)));
    if with_tests { all.service(resource("/notifications/test").route(post().to(push::http::send_test_notification))) } else { all }
}

/// Exact origins only; an origin that is not listed gets no header at all.
fn cors(origins: Vec<String>) -> Cors {
    let cors = origins.iter().fold(Cors::default(), |cors, origin| cors.allowed_origin(origin));
    cors.allowed_methods(["GET", "POST", "PUT", "PATCH", "DELETE"])
        .allowed_headers([
            "authorization",
            "content-type",
            "x-correlation-id",
            "x-request-id",
            "idempotency-key",
            "traceparent",
            "tracestate",
        ])
        .expose_headers(EXPOSED_HEADERS)
        .supports_credentials()
        .max_age(3600)
        // A foreign origin is the browser's to refuse; a server-side caller that sends one is served.
        .block_on_origin_mismatch(false)
}
