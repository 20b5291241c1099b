//! A service of its own for each test: a fresh database, a Redis prefix, queue names, a port.

pub mod broker;
pub mod browser;
pub mod client;
pub mod mangler;
pub mod smtp;
pub mod wait;

use std::net::TcpListener;
use std::pin::Pin;
use std::time::Duration;

use diesel_async::{AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use user_service::app::App;
use user_service::config::{self, Config, Declare, LogFormat, MailTransport, QueueType, RegistrationPrivacy, Role, Scope};
use user_service::infra::clock::Clock;
use user_service::infra::migrations;
use user_service::infra::one_time_token::{self, Purpose};
use user_service::role::api::Listeners;
use uuid::Uuid;

pub use broker::TestBroker;
pub use client::Client;
pub use wait::eventually;

pub const SERVICE_KEY: &str = "usk_test_reader";
pub const WEAK_SERVICE_KEY: &str = "usk_test_writer_only";
pub const FULL_SERVICE_KEY: &str = "usk_test_reader_and_writer";
pub const PASSWORD: &str = "TestPass123!";
pub const SECRET: &str = "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e";

/// Addresses of the real services.
pub struct Services {
    pub database_url: String,
    pub redis_url: String,
    pub rabbitmq_url: String,
}

impl Services {
    #[expect(clippy::disallowed_methods, reason = "tests are told where the services are")]
    pub fn from_env() -> Self {
        let get = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!("{name} is not set: run `make test`, or eval \"$(scripts/services up && scripts/services env)\" and export it")
            })
        };
        Self { database_url: get("DATABASE_URL"), redis_url: get("REDIS_URL"), rabbitmq_url: get("RABBITMQ_URL") }
    }
}

impl Services {
    /// `TEST_LOG=1` shows the services' logs, for looking into a failure.
    #[expect(clippy::disallowed_methods, reason = "tests are told whether to log")]
    fn wants_logs() -> bool {
        std::env::var_os("TEST_LOG").is_some()
    }
}

/// A running service.
pub struct TestApp {
    pub app: App,
    pub client: Client,
    /// Clients at the other ports, where there are any.
    pub internal: Option<Client>,
    pub metrics: Option<Client>,
    pub clock: Clock,
    pub database_url: String,
    pub config: Config,
    services: Services,
    stop: CancellationToken,
    ended: Option<std::thread::JoinHandle<Result<(), String>>>,
    result: Option<Result<(), String>>,
}

impl TestApp {
    /// Both roles.
    pub async fn start() -> Self {
        Self::start_with(Role::Both, |_| {}).await
    }

    /// The API only: quicker, where no message matters.
    pub async fn api() -> Self {
        Self::start_with(Role::Api, |_| {}).await
    }

    pub async fn start_with(role: Role, change: impl FnOnce(&mut Config)) -> Self {
        let services = Services::from_env();
        let database_url = fresh_database(&services).await;
        Self::start_on(services, database_url, role, change).await
    }

    /// On a database that exists already.
    pub async fn start_on(services: Services, database_url: String, role: Role, change: impl FnOnce(&mut Config)) -> Self {
        let test = Self::launch(services, database_url, role, change).await;
        if role.has_worker() {
            eventually("the worker consumes", async || test.app.status.broker_connected()).await;
        }
        test
    }

    /// The same without waiting for the worker.
    pub async fn launch(services: Services, database_url: String, role: Role, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = config(&services, &database_url, role);
        change(&mut config);
        if Services::wants_logs() {
            let _spans = user_service::infra::telemetry::start(&config.log);
        }
        let listeners = Listeners::bind(&config.http).unwrap();
        let at = |listener: &TcpListener| Client::new(format!("http://{}", listener.local_addr().unwrap()));
        let client = at(&listeners.public);
        let (internal, metrics) = (listeners.internal.as_ref().map(at), listeners.metrics.as_ref().map(at));
        let (clock, stop) = (Clock::default(), CancellationToken::new());
        let (give, take) = tokio::sync::oneshot::channel();
        let ended = std::thread::spawn({
            let (config, clock, stop) = (config.clone(), clock.clone(), stop.clone());
            move || {
                let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
                actix_rt::System::with_tokio_rt(runtime).block_on(async move {
                    let app = App::new(config, role, clock).map_err(|error| error.chain())?;
                    let _ = give.send(app.clone());
                    user_service::role::run(app, role, listeners, stop).await.map_err(|error| error.chain())
                })
            }
        });
        let app = take.await.expect("the service did not start");
        let test = Self { app, client, internal, metrics, clock, database_url, config, services, stop, ended: Some(ended), result: None };
        eventually("the service is ready", async || test.client.get("/health/ready").await.status == 200).await;
        test
    }

    /// Another process of this service: on its database, its queues and its cache.
    pub async fn beside(&self, role: Role) -> Self {
        let (names, prefix) = (self.config.broker.clone(), self.config.redis_prefix.clone());
        Self::start_on(Services::from_env(), self.database_url.clone(), role, |config| {
            config.broker = config::Broker { url: config.broker.url.clone(), ..names };
            config.redis_prefix = prefix;
        })
        .await
    }

    /// A broker client on this service's names.
    pub async fn broker(&self) -> TestBroker {
        TestBroker::connect(self.config.broker.clone()).await
    }

    /// Runs SQL on this service's database.
    pub async fn sql(&self, statement: &str) {
        let mut conn = AsyncPgConnection::establish(&self.database_url).await.unwrap();
        conn.batch_execute(statement).await.unwrap();
    }

    /// The name of this service's database.
    pub fn database(&self) -> &str {
        self.database_url.rsplit_once('/').unwrap().1
    }

    /// Runs a query in a transaction that stays open, with what it locked, until it is released.
    pub async fn hold(&self, query: &str) -> Held {
        let mut conn = AsyncPgConnection::establish(&self.database_url).await.unwrap();
        conn.batch_execute(&format!("BEGIN; {query};")).await.unwrap();
        Held(conn)
    }

    /// Until the request waits for a lock; or its answer, if it does not.
    pub async fn until_it_waits(&self, request: Pin<&mut impl Future<Output = client::Answer>>) -> Option<client::Answer> {
        const WAITING: &str = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waits = async { while self.count(WAITING).await == 0 {} };
        tokio::select! {
            answer = request => Some(answer),
            () = waits => None,
        }
    }

    /// Ends every connection of the service to its database; the next are made with what the database says by then.
    pub async fn end_connections(&self) {
        self.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
            .await;
    }

    /// The one number that a query gives, named `n`.
    pub async fn count(&self, query: &str) -> i64 {
        #[derive(diesel::QueryableByName)]
        struct Count {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            n: i64,
        }
        let mut conn = AsyncPgConnection::establish(&self.database_url).await.unwrap();
        diesel::sql_query(query).get_result::<Count>(&mut conn).await.unwrap().n
    }

    /// The token of the newest link of a purpose for a user, as the relay would write it.
    pub async fn newest_link(&self, user_id: &str, purpose: Purpose) -> String {
        #[derive(diesel::QueryableByName)]
        struct Newest {
            #[diesel(sql_type = diesel::sql_types::Uuid)]
            id: Uuid,
        }
        let mut conn = AsyncPgConnection::establish(&self.database_url).await.unwrap();
        let query = "SELECT id FROM one_time_tokens WHERE user_id = $1 AND purpose = $2 ORDER BY id DESC LIMIT 1";
        let newest: Newest = diesel::sql_query(query)
            .bind::<diesel::sql_types::Uuid, _>(user_id.parse::<Uuid>().unwrap())
            .bind::<diesel::sql_types::Text, _>(purpose.as_str())
            .get_result(&mut conn)
            .await
            .expect("there is no link");
        one_time_token::list(&mut conn, &[newest.id]).await.unwrap().remove(0).seal(&self.app.keys)
    }

    /// Asks the service to stop and waits for its end; what it used stays for the next.
    pub async fn halt(mut self) -> Self {
        self.stop.cancel();
        if let Some(ended) = self.ended.take() {
            let result = tokio::task::spawn_blocking(move || ended.join().expect("the service panicked")).await.unwrap();
            self.result = Some(result);
        }
        self
    }

    /// Asks the service to stop, waits for its end, and clears away what it used.
    pub async fn stop(self) -> Result<(), String> {
        let mut stopped = self.halt().await;
        stopped.clear_away().await;
        stopped.result.take().unwrap()
    }

    async fn clear_away(&self) {
        if self.config.broker.url.is_some() {
            TestBroker::connect(self.config.broker.clone()).await.delete_all().await;
        }
        Self::drop_database(&self.services, &self.database_url).await;
    }

    pub async fn drop_database(services: &Services, url: &str) {
        let mut conn = AsyncPgConnection::establish(&services.database_url).await.unwrap();
        let name = url.rsplit('/').next().unwrap();
        let _ = conn.batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    }
}

/// Users of every kind, with names and addresses that can be told from their number.
pub fn users(count: u32) -> String {
    format!(
        "INSERT INTO users (id, email, email_key, email_verified_at, name, is_active, created_at, updated_at)
         SELECT gen_random_uuid(), 'user' || n || '@example.com', 'user' || n || '@example.com',
                CASE WHEN n % 4 = 0 THEN now() END, 'Name' || n || ' Surname' || (n % 1000), n % 10 <> 0,
                timestamptz '2026-01-01' + n * interval '1 second', now()
         FROM generate_series(1, {count}) n; ANALYZE users;"
    )
}

/// An open transaction.
pub struct Held(AsyncPgConnection);

impl Held {
    /// Locks more.
    pub async fn then(&mut self, query: &str) {
        self.0.batch_execute(query).await.unwrap();
    }

    pub async fn release(mut self) {
        self.0.batch_execute("ROLLBACK").await.unwrap();
    }

    pub async fn commit(mut self) {
        self.0.batch_execute("COMMIT").await.unwrap();
    }
}

impl TestApp {
    /// What the binary is to be told to work on the same database, cache and queues.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let (services, broker) = (Services::from_env(), &self.config.broker);
        [
            ("DATABASE_URL", &self.database_url),
            ("REDIS_URL", &services.redis_url),
            ("REDIS_KEY_PREFIX", &self.config.redis_prefix),
            ("RABBITMQ_URL", &services.rabbitmq_url),
            ("RABBITMQ_EXCHANGE", &broker.exchange),
            ("RABBITMQ_PUSH_QUEUE", &broker.push_queue),
            ("RABBITMQ_DELIVER_QUEUE", &broker.deliver_queue),
            ("RABBITMQ_FAILED_QUEUE", &broker.failed_queue),
            ("RABBITMQ_EMAIL_QUEUE", &broker.email_queue),
            ("RABBITMQ_DLX_EXCHANGE", &broker.dlx_exchange),
            ("RABBITMQ_EVENTS_EXCHANGE", &broker.events_exchange),
            ("JWT_SECRET", &SECRET.to_owned()),
            ("HOST", &"127.0.0.1".to_owned()),
            ("SHUTDOWN_DELAY_SECONDS", &"0".to_owned()),
            ("LIMIT_DEFAULT_USER", &"off".to_owned()),
        ]
        .map(|(name, value)| (name, value.clone()))
        .into()
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Names of its own on a broker that all share.
fn broker(prefix: &str, url: Option<SecretString>) -> config::Broker {
    let name = |name: &str| format!("{prefix}.{name}");
    config::Broker {
        url,
        exchange: name("notifications.direct"),
        push_queue: name("push.queue"),
        push_key: "push".into(),
        deliver_queue: name("push.deliver.queue"),
        deliver_key: "push.deliver".into(),
        email_queue: name("email.queue"),
        email_key: "email".into(),
        dlx_exchange: name("notifications.dlx"),
        failed_queue: name("failed.queue"),
        failed_key: "failed".into(),
        events_exchange: name("user.events"),
        declare: Declare::Create,
        queue_type: QueueType::Quorum,
        prefetch: 256,
    }
}

fn config(services: &Services, database_url: &str, role: Role) -> Config {
    let prefix = format!("t{}", Uuid::new_v4().simple());
    Config {
        // Small, because some dozens of these run at once on one PostgreSQL.
        database: config::Database { url: database_url.into(), pool_size: 8 },
        redis_url: services.redis_url.clone().into(),
        broker: broker(&prefix, role.has_worker().then(|| services.rabbitmq_url.clone().into())),
        redis_prefix: prefix,
        http: config::Http {
            host: "127.0.0.1".into(),
            port: 0,
            workers: Some(1),
            cors_allowed_origins: vec!["https://app.example.com".into()],
            docs: true,
            test_notifications: false,
            trusted_proxy_count: 1,
            internal_port: None,
            metrics_port: None,
            service_auth: true,
        },
        identity: config::Identity {
            jwt_secret: Some(SecretString::from(SECRET)),
            jwt_private_key_file: None,
            app_secret: None,
            app_secret_previous: None,
            issuer: "user-service".into(),
            access_token_ttl: Duration::from_secs(3600),
            refresh_token_idle: Duration::from_secs(86_400),
            refresh_token_absolute: Duration::from_secs(30 * 86_400),
            refresh_grace: Duration::from_secs(10),
            // The least that bcrypt does: what is tested here is not how slow it is.
            bcrypt_cost: 4,
            require_verified_email: false,
            registration_privacy: RegistrationPrivacy::Open,
            even_answer: Duration::from_millis(50),
        },
        service_keys: vec![
            service_key("reader", SERVICE_KEY, &[Scope::UsersRead]),
            service_key("writer", WEAK_SERVICE_KEY, &[Scope::PushWrite]),
            service_key("gateway", FULL_SERVICE_KEY, Scope::ALL),
        ],
        limits: config::Limits {
            register_ip: None,
            login_ip: None,
            login_account: None,
            login_account_new: None,
            reset_ip: None,
            reset_account: None,
            resend: None,
            token_ip: None,
            refresh_session: None,
            password_change: None,
            default_user: None,
            default_ip: None,
        },
        inbox_retention: chrono::TimeDelta::hours(24),
        breaker_open: Duration::from_secs(3),
        mail: config::Mail { transport: MailTransport::Queue, public_base_url: "https://accounts.example.com".into() },
        app_name: "Test Service".into(),
        shutdown_delay: Duration::ZERO,
        shutdown_grace: Duration::from_secs(20),
        django_database_url: None,
        log: config::Log { format: LogFormat::Pretty, filter: "info,actix_server=off".into(), otlp_endpoint: None },
    }
}

fn service_key(name: &str, key: &str, scopes: &[Scope]) -> config::ServiceKey {
    use sha2::Digest as _;
    config::ServiceKey { name: name.into(), sha256: sha2::Sha256::digest(key.as_bytes()).into(), scopes: scopes.to_vec() }
}

/// A migrated database of its own, cloned from a template that the first test makes.
pub async fn fresh_database(services: &Services) -> String {
    let (server, _) = services.database_url.rsplit_once('/').unwrap();
    let template = format!("template_{}", migrations::newest());
    let name = format!("test_{}", Uuid::new_v4().simple());
    let mut conn = AsyncPgConnection::establish(&services.database_url).await.unwrap();
    conn.batch_execute("SELECT pg_advisory_lock(7523419872)").await.unwrap();
    #[derive(diesel::QueryableByName)]
    struct Found {
        #[diesel(sql_type = diesel::sql_types::Bool)]
        found: bool,
    }
    let query = format!("SELECT EXISTS (SELECT FROM pg_database WHERE datname = '{template}') AS found");
    if !diesel::sql_query(query).get_result::<Found>(&mut conn).await.unwrap().found {
        let making = format!("{template}_new");
        let _ = conn.batch_execute(&format!("DROP DATABASE IF EXISTS \"{making}\" WITH (FORCE)")).await;
        conn.batch_execute(&format!("CREATE DATABASE \"{making}\"")).await.unwrap();
        migrations::apply(&format!("{server}/{making}")).await.unwrap();
        // Renamed only when complete, so that an interrupted run leaves no half template. The last session may linger.
        let renamed = async || {
            let mut conn = AsyncPgConnection::establish(&services.database_url).await.unwrap();
            conn.batch_execute(&format!("ALTER DATABASE \"{making}\" RENAME TO \"{template}\"")).await.is_ok()
        };
        eventually("the template is free", renamed).await;
    }
    conn.batch_execute(&format!("CREATE DATABASE \"{name}\" TEMPLATE \"{template}\"")).await.unwrap();
    conn.batch_execute("SELECT pg_advisory_unlock(7523419872)").await.unwrap();
    format!("{server}/{name}")
}
