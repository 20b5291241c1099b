//! The only reader of the environment.
//!
//! [`Config::from_env`] reads everything once and reports every problem in one message, before anything connects.
//! The parts are plain structs, so that a test builds one by literal.

mod broker;
mod identity;
mod mail;
mod reader;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;

pub use broker::{Broker, Declare, QueueType};
pub use identity::{Identity, RegistrationPrivacy};
pub use mail::{Mail, MailTransport, Smtp};
use reader::Reader;
pub use reader::{Problem, Problems};

/// Which parts a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Answers HTTP; never needs the broker.
    Api,
    /// Consumes push requests and relays the outbox; serves only health and metrics.
    Worker,
    Both,
}

impl Role {
    pub fn has_api(self) -> bool {
        self != Role::Worker
    }

    pub fn has_worker(self) -> bool {
        self != Role::Api
    }
}

/// Everything that can be set from outside.
#[derive(Clone, Debug)]
pub struct Config {
    pub database: Database,
    pub redis_url: SecretString,
    /// Prefix of every Redis key, so that several installations share one Redis.
    pub redis_prefix: String,
    pub broker: Broker,
    pub http: Http,
    pub identity: Identity,
    pub service_keys: Vec<ServiceKey>,
    pub limits: Limits,
    /// How long the inbox knows a push request again.
    pub inbox_retention: TimeDelta,
    /// How long the worker leaves a dependency alone that failed five times in a row.
    pub breaker_open: Duration,
    pub mail: Mail,
    /// How mails call this installation.
    pub app_name: String,
    /// Between "not ready" and the closing of the door, so that balancers look elsewhere first.
    pub shutdown_delay: Duration,
    pub shutdown_grace: Duration,
    /// Where `users import` finds the Django service's tables.
    pub django_database_url: Option<SecretString>,
    pub log: Log,
}

#[derive(Clone, Debug)]
pub struct Database {
    pub url: SecretString,
    pub pool_size: usize,
}

#[derive(Clone, Debug)]
pub struct Http {
    pub host: String,
    pub port: u16,
    /// `None`: one a core.
    pub workers: Option<usize>,
    pub cors_allowed_origins: Vec<String>,
    /// Whether /swagger/, /redoc/ and /openapi.json are served.
    /// Whether users may send pushes to themselves.
    pub test_notifications: bool,
    pub docs: bool,
    /// How many proxies in front of us append to `X-Forwarded-For`.
    pub trusted_proxy_count: usize,
    /// Where services, aliases, metrics and admin pages are then, and only there.
    pub internal_port: Option<u16>,
    /// Where metrics are then, and only there.
    pub metrics_port: Option<u16>,
    /// Whether preferences, contact and push-token reads need a service key on the internal port.
    pub service_auth: bool,
}

/// A sibling service's key: its hash, never the key.
#[derive(Clone, Debug)]
pub struct ServiceKey {
    pub name: String,
    pub sha256: [u8; 32],
    pub scopes: Vec<Scope>,
}

/// What a service key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    UsersRead,
    UsersList,
    PushWrite,
    PushTokenWrite,
    Forward,
}

impl Scope {
    pub const ALL: &[Scope] = &[Scope::UsersRead, Scope::UsersList, Scope::PushWrite, Scope::PushTokenWrite, Scope::Forward];

    pub fn as_str(self) -> &'static str {
        match self {
            Scope::UsersRead => "users:read",
            Scope::UsersList => "users:list",
            Scope::PushWrite => "push:write",
            Scope::PushTokenWrite => "push-token:write",
            Scope::Forward => "forward",
        }
    }
}

/// `count` times in `window`; `None` is off.
pub type Limit = Option<Rate>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub window: Duration,
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub register_ip: Limit,
    pub login_ip: Limit,
    pub login_account: Limit,
    /// Over all addresses that the account never signed in from.
    pub login_account_new: Limit,
    pub reset_ip: Limit,
    pub reset_account: Limit,
    pub resend: Limit,
    pub token_ip: Limit,
    pub refresh_session: Limit,
    pub password_change: Limit,
    /// Of a signed-in user, over everything.
    pub default_user: Limit,
    pub default_ip: Limit,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// Where spans are sent, by OTLP over HTTP.
    pub otlp_endpoint: Option<SecretString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Pretty,
}

const DEFAULT_PORT: u16 = 8000;

impl Config {
    /// Reads the process's environment.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn from_env(role: Role) -> Result<Self, Problems> {
        Self::from_lookup(
            role,
            |name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()),
            std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned()).collect(),
        )
    }

    /// Only the port, for a health check that knows no secrets.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn port_from_env() -> Result<u16, Problems> {
        let lookup = |name: &str| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let mut env = Reader::new(&lookup);
        let port = env.number("PORT", DEFAULT_PORT, 0..=65535);
        env.finish(port)
    }

    /// Reads the same variables from a map, for tests.
    pub fn from_map(role: Role, variables: &BTreeMap<&str, &str>) -> Result<Self, Problems> {
        Self::from_lookup(
            role,
            |name| variables.get(name).map(|value| (*value).to_owned()),
            variables.keys().map(|name| (*name).to_owned()).collect(),
        )
    }

    fn from_lookup(role: Role, lookup: impl Fn(&str) -> Option<String>, names: Vec<String>) -> Result<Self, Problems> {
        let mut env = Reader::new(&lookup);
        let port = env.number("PORT", DEFAULT_PORT, 0..=65535);
        let config = Self {
            database: Database {
                url: env.url("DATABASE_URL", &["postgres", "postgresql"], "postgres://user:password@host:5432/user_service"),
                pool_size: env.number("DATABASE_POOL_SIZE", 50, 4..=1000),
            },
            redis_url: env.url("REDIS_URL", &["redis", "rediss"], "redis://host:6379"),
            redis_prefix: env.text("REDIS_KEY_PREFIX", "user-service"),
            broker: Broker::read(&mut env, role),
            http: Http {
                host: env.text("HOST", "0.0.0.0"),
                port,
                workers: env.optional_number("HTTP_WORKERS", 1..=256),
                cors_allowed_origins: env.origins("CORS_ALLOWED_ORIGINS"),
                test_notifications: env.choice("ALLOW_TEST_NOTIFICATIONS", &[("true", true), ("false", false)], false),
                docs: env.choice("DOCS", &[("on", true), ("off", false)], true),
                trusted_proxy_count: env.number("TRUSTED_PROXY_COUNT", 0, 0..=10),
                internal_port: env.optional_number("INTERNAL_PORT", 0..=65535),
                metrics_port: env.optional_number("METRICS_PORT", 0..=65535),
                service_auth: env.choice("SERVICE_AUTH", &[("on", true), ("off", false)], true),
            },
            identity: Identity::read(&mut env),
            service_keys: env.service_keys("SERVICE_API_KEYS"),
            limits: Limits {
                register_ip: env.limit("LIMIT_REGISTER_IP", 20, 60),
                login_ip: env.limit("LIMIT_LOGIN_IP", 10, 60),
                login_account: env.limit("LIMIT_LOGIN_ACCOUNT", 5, 300),
                login_account_new: env.limit("LIMIT_LOGIN_ACCOUNT_NEW", 50, 3600),
                reset_ip: env.limit("LIMIT_RESET_IP", 20, 60),
                reset_account: env.limit("LIMIT_RESET_ACCOUNT", 5, 3600),
                resend: env.limit("LIMIT_RESEND", 1, 180),
                token_ip: env.limit("LIMIT_TOKEN_IP", 30, 60),
                refresh_session: env.limit("LIMIT_REFRESH_SESSION", 30, 60),
                password_change: env.limit("LIMIT_PASSWORD_CHANGE", 5, 60),
                default_user: env.limit("LIMIT_DEFAULT_USER", 300, 60),
                default_ip: env.limit_off("LIMIT_DEFAULT_IP", 1000, 60),
            },
            inbox_retention: TimeDelta::hours(env.number("INBOX_RETENTION_HOURS", 24, 1..=720)),
            breaker_open: env.seconds("BREAKER_OPEN_SECONDS", Duration::from_secs(60), 1..=600),
            mail: Mail::read(&mut env, port),
            app_name: env.text("APP_NAME", "User Service"),
            shutdown_delay: env.seconds("SHUTDOWN_DELAY_SECONDS", Duration::from_secs(2), 0..=60),
            shutdown_grace: env.seconds("SHUTDOWN_GRACE_SECONDS", Duration::from_secs(25), 1..=600),
            django_database_url: env.optional_url(
                "DJANGO_DATABASE_URL",
                &["postgres", "postgresql"],
                "postgres://user:password@host:5432/django",
            ),
            log: Log {
                format: env.choice("LOG_FORMAT", &[("json", LogFormat::Json), ("pretty", LogFormat::Pretty)], LogFormat::Json),
                // actix tells of each of its threads; of lapin see infra::telemetry.
                filter: env.filter("RUST_LOG", "info,actix_server=warn"),
                otlp_endpoint: env.optional_url("OTEL_EXPORTER_OTLP_ENDPOINT", &["http", "https"], "http://collector:4318"),
            },
        };
        config.http.check(&mut env);
        env.refuse_unknown_limits(&names);
        env.finish(config)
    }
}

impl Http {
    fn check(&self, env: &mut Reader<'_>) {
        if !self.service_auth && self.internal_port.is_none() {
            env.problem("SERVICE_AUTH", "is off, which would open users' data to everybody", "on, or off with INTERNAL_PORT");
        }
        let ports = [("INTERNAL_PORT", self.internal_port), ("METRICS_PORT", self.metrics_port)];
        for (at, (name, port)) in ports.into_iter().enumerate() {
            // 0 asks the system for one that is free.
            let taken = |other: Option<u16>| other == port && port.is_some_and(|port| port != 0);
            if taken(Some(self.port)) || ports[..at].iter().any(|(_, other)| taken(*other)) {
                env.problem(name, "is the port of another door", "a port of its own");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("DATABASE_URL", "postgres://u@localhost/db"),
        ("REDIS_URL", "redis://localhost"),
        ("RABBITMQ_URL", "amqp://guest:guest@localhost/%2f"),
        ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e"),
    ];

    fn with(changes: &[(&'static str, &'static str)]) -> Result<Config, Problems> {
        let mut variables = BTreeMap::from(GOOD);
        variables.extend(changes.iter().copied());
        Config::from_map(Role::Both, &variables)
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let config = with(&[]).unwrap();
        let broker = config.broker;
        assert_eq!((broker.push_queue.as_str(), broker.deliver_queue.as_str()), ("push.queue", "push.deliver.queue"));
        assert_eq!((config.http.port, config.identity.bcrypt_cost, config.database.pool_size), (8000, 11, 50));
    }

    #[test]
    fn every_problem_is_in_one_message_and_no_value_of_a_secret() {
        let problems = Config::from_map(
            Role::Both,
            &BTreeMap::from([
                ("DATABASE_URL", "mysql://root:hunter2@h/d"),
                ("JWT_SECRET", "hunter2"),
                ("PORT", "http"),
                ("BCRYPT_COST", "9"),
            ]),
        )
        .unwrap_err()
        .to_string();
        for name in ["DATABASE_URL", "REDIS_URL", "RABBITMQ_URL", "JWT_SECRET", "PORT", "BCRYPT_COST"] {
            assert!(problems.contains(name), "{name} is missing in:\n{problems}");
        }
        assert!(!problems.contains("hunter2"), "{problems}");
    }

    #[test]
    fn the_api_needs_no_broker() {
        let mut variables = BTreeMap::from(GOOD);
        variables.remove("RABBITMQ_URL");
        assert!(Config::from_map(Role::Api, &variables).unwrap().broker.url.is_none());
        assert!(Config::from_map(Role::Worker, &variables).is_err());
    }

    #[test]
    fn sample_and_weak_secrets_are_refused() {
        for secret in [
            "changeme-changeme-changeme-changeme",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "your-secret-key-at-least-32-bytes-long",
            "short",
        ] {
            assert!(with(&[("JWT_SECRET", secret)]).is_err(), "{secret}");
        }
    }

    #[test]
    fn equal_request_and_delivery_queues_are_refused() {
        assert!(with(&[("RABBITMQ_DELIVER_QUEUE", "push.queue")]).unwrap_err().to_string().contains("RABBITMQ_DELIVER_QUEUE"));
        assert!(with(&[("RABBITMQ_DELIVER_ROUTING_KEY", "push")]).is_err() && with(&[("RABBITMQ_EMAIL_ROUTING_KEY", "push")]).is_err());
        let unreadable = with(&[("JWT_PRIVATE_KEY_FILE", "/nowhere.pem"), ("PORT", "x")]).unwrap_err().to_string();
        assert!(unreadable.contains("JWT_PRIVATE_KEY_FILE") && unreadable.contains("PORT"), "{unreadable}");
        assert!(with(&[("RABBITMQ_FAILED_QUEUE", "email.queue")]).unwrap_err().to_string().contains("RABBITMQ_FAILED_QUEUE"));
    }

    #[test]
    fn limits_are_count_over_seconds_or_off_and_unknown_ones_are_named() {
        let limits = with(&[("LIMIT_LOGIN_IP", "3/10"), ("LIMIT_REGISTER_IP", "off")]).unwrap().limits;
        assert_eq!(limits.login_ip, Some(Rate { count: 3, window: Duration::from_secs(10) }));
        assert_eq!(limits.register_ip, None);
        for (name, value) in [("LIMIT_LOGIN_IP", "0/10"), ("LIMIT_LOGIN_IP", "3"), ("LIMIT_LOGIN_IPS", "3/10")] {
            assert!(with(&[(name, value)]).unwrap_err().to_string().contains(name), "{name}={value}");
        }
    }

    #[test]
    fn doors_have_ports_of_their_own_and_services_go_without_keys_only_at_an_inner_one() {
        for (changes, named) in [
            (vec![("SERVICE_AUTH", "off")], "SERVICE_AUTH"),
            (vec![("INTERNAL_PORT", "8000")], "INTERNAL_PORT"),
            (vec![("INTERNAL_PORT", "9000"), ("METRICS_PORT", "9000")], "METRICS_PORT"),
        ] {
            assert!(with(&changes).unwrap_err().to_string().contains(named), "{changes:?}");
        }
        let config = with(&[("SERVICE_AUTH", "off"), ("INTERNAL_PORT", "8001"), ("METRICS_PORT", "9000")]).unwrap();
        assert!(!config.http.service_auth && config.limits.default_ip.is_none() && config.limits.default_user.is_some());
    }

    #[test]
    fn service_keys_are_name_hash_and_scopes() {
        let hash = "a".repeat(64);
        let good: &'static str = format!("gateway:{hash}:users:read+users:list").leak();
        let keys = with(&[("SERVICE_API_KEYS", good)]).unwrap().service_keys;
        assert_eq!((keys[0].name.as_str(), keys[0].scopes.as_slice()), ("gateway", [Scope::UsersRead, Scope::UsersList].as_slice()));
        for bad in ["gateway", "gateway:zz:users:read", ":00:users:read", format!("g:{hash}:root").leak()] {
            assert!(with(&[("SERVICE_API_KEYS", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_file_needs_a_secret_for_the_rest() {
        let mut variables = BTreeMap::from(GOOD);
        variables.remove("JWT_SECRET");
        // Any file that can be read: what is in it is looked at later.
        variables.insert("JWT_PRIVATE_KEY_FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
        assert!(Config::from_map(Role::Both, &variables).unwrap_err().to_string().contains("APP_SECRET"));
        variables.insert("APP_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e");
        assert!(Config::from_map(Role::Both, &variables).is_ok());
    }

    #[test]
    fn mails_leave_as_told_and_their_links_lead_where_an_operator_said() {
        assert_eq!(with(&[("PORT", "9000")]).unwrap().mail.public_base_url, "http://localhost:9000");
        assert_eq!(with(&[("PUBLIC_BASE_URL", "https://a.example.com/x/")]).unwrap().mail.public_base_url, "https://a.example.com/x");
        assert!(matches!(with(&[("MAIL_TRANSPORT", "log")]).unwrap().mail.transport, MailTransport::Log));
        let smtp = [("MAIL_TRANSPORT", "smtp"), ("MAIL_FROM", "Acme <no-reply@example.com>"), ("SMTP_URL", "smtps://u:p@mail.example.com")];
        assert!(matches!(with(&smtp).unwrap().mail.transport, MailTransport::Smtp(_)));
        for (changes, named) in [
            (vec![("PUBLIC_BASE_URL", "https://a.example.com/?x=1")], "PUBLIC_BASE_URL"),
            (vec![("PUBLIC_BASE_URL", "javascript:alert(1)")], "PUBLIC_BASE_URL"),
            (vec![("MAIL_TRANSPORT", "log"), ("PUBLIC_BASE_URL", "https://a.example.com")], "MAIL_TRANSPORT"),
            (vec![("MAIL_TRANSPORT", "smtp"), smtp[1]], "SMTP_URL"),
            (vec![("MAIL_TRANSPORT", "smtp"), smtp[2]], "MAIL_FROM"),
            (vec![smtp[0], smtp[1], ("SMTP_URL", "smtp://u:hunter2@mail.example.com:587")], "SMTP_URL"),
        ] {
            let problems = with(&changes).unwrap_err().to_string();
            assert!(problems.contains(named) && !problems.contains("hunter2"), "{changes:?}: {problems}");
        }
    }
}
