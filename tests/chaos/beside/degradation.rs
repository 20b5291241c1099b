//! What the API answers while a dependency is down, slow or flapping: one table, one window of the fault for all functions.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use user_service::config::{self, MailTransport, Role};
use user_service::infra::one_time_token::Purpose;
use uuid::Uuid;

use crate::only_on_a_set_of_its_own;
use crate::proxy::{Fault, FaultProxy};
use crate::support::client::{Answer, TestUser};
use crate::support::smtp::{MailServer, Mood};
use crate::support::wait::within;
use crate::support::{Client, FULL_SERVICE_KEY, PASSWORD, Services, TestApp};

/// What a function answers when it can, without PostgreSQL, and without Redis. Without RabbitMQ or the mail server each answers as ever:
/// what it would say there waits in the outbox.
struct Row {
    name: &'static str,
    well: u16,
    no_database: u16,
    no_cache: u16,
    ask: Request,
}

struct Request {
    client: Client,
    method: &'static str,
    path: String,
    body: Option<Value>,
}

impl Request {
    fn new(client: &Client, method: &'static str, path: &str, body: Option<Value>) -> Self {
        Self { client: client.clone(), method, path: path.to_owned(), body }
    }

    async fn send(&self) -> (Answer, Duration) {
        let (asked, body) = (Instant::now(), self.body.as_ref().map(Value::to_string));
        let answer = self.client.send(self.method, &self.path, body.as_deref()).await;
        (answer, asked.elapsed())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    Down,
    Slow,
    Flapping,
}

impl Weather {
    /// Until then everything is asked again and again.
    fn lasts(self) -> Duration {
        match self {
            Weather::Down => Duration::ZERO,
            Weather::Slow => 2 * FLAP,
            Weather::Flapping => 3 * FLAP + FLAP / 2,
        }
    }

    /// Within which a 503 must come.
    fn patience(self) -> Duration {
        if self == Weather::Down { Duration::from_millis(1_200) } else { Duration::from_millis(2_500) }
    }
}

/// The service with a proxy before each dependency, and people to ask for.
struct Edge {
    app: TestApp,
    database: FaultProxy,
    cache: FaultProxy,
    broker: FaultProxy,
    mail: FaultProxy,
    mails: MailServer,
}

impl Edge {
    async fn start() -> Self {
        only_on_a_set_of_its_own();
        let services = Services::from_env();
        let proxy = async |url: &str| {
            let port = url::Url::parse(url).unwrap().port().unwrap();
            FaultProxy::start(&format!("127.0.0.1:{port}")).await
        };
        let (database, cache) = (proxy(&services.database_url).await, proxy(&services.redis_url).await);
        let broker = proxy(&services.rabbitmq_url).await;
        let mails = MailServer::start(Mood::Accept).await;
        let mail = FaultProxy::start(&mails.address.to_string()).await;
        let smtp = config::Smtp { url: format!("smtp://{}", mail.address).into(), from: "App <app@example.com>".to_owned() };
        let (redis_url, broker_url) = (cache.url(&services.redis_url), broker.url(&services.rabbitmq_url));
        let through = database.address.port();
        let app = TestApp::start_with(Role::Both, |config| {
            config.redis_url = redis_url.into();
            config.broker.url = Some(broker_url.into());
            let mut url = url::Url::parse(secrecy::ExposeSecret::expose_secret(&config.database.url)).unwrap();
            url.set_port(Some(through)).unwrap();
            config.database.url = String::from(url).into();
            config.mail.transport = MailTransport::Smtp(smtp);
        })
        .await;
        Self { app, database, cache, broker, mail, mails }
    }

    /// The table, with people and links of its own, so that what one function does is no other's business.
    #[expect(clippy::too_many_lines, reason = "a table")]
    async fn rows(&self) -> Vec<Row> {
        let (app, client) = (&self.app, &self.app.client);
        let people: Vec<TestUser> = join_all((0..10).map(|_| client.register("Ada"))).await;
        let [reader, writer, leaver, asker, forgetful, careful, mover, ender, repeater, visitor] =
            <[TestUser; 10]>::try_from(people).unwrap();
        let (as_careful, as_mover, as_ender) = (client.as_user(&careful), client.as_user(&mover), client.as_user(&ender));
        let (as_reader, as_writer) = (client.as_user(&reader), client.as_user(&writer));
        let service = client.with("x-internal-api-key", FULL_SERVICE_KEY);
        let login =
            async |user: &TestUser| client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await.data();
        // Of two users: a refresh token that comes again after its grace ends its session.
        let (refresh, cold) = (login(&asker).await["refresh_token"].clone(), login(&reader).await["access_token"].clone());
        let cold = cold.as_str().unwrap();
        let link = app.newest_link(&asker.id, Purpose::EmailVerification).await;
        assert_eq!(client.post("/api/v1/auth/password-reset/", json!({"email": forgetful.email})).await.status, 200);
        let reset = app.newest_link(&forgetful.id, Purpose::PasswordReset).await;
        let under_a_key = client.as_user(&repeater).with("idempotency-key", &format!("degraded-{}", Uuid::new_v4()));
        for known in [&as_reader, &as_writer, &client.as_user(&leaver), &as_careful, &as_mover, &as_ender, &under_a_key] {
            assert_eq!(known.get("/api/v1/users/profile/").await.status, 200);
        }
        let (v1, fresh) = ("/api/v1", format!("{}@example.com", Uuid::new_v4().simple()));
        let row = |name, well, no_database, no_cache, client: &Client, method, path: &str, body| Row {
            name,
            well,
            no_database,
            no_cache,
            ask: Request::new(client, method, &if path.starts_with("/health") { path.to_owned() } else { format!("{v1}{path}") }, body),
        };
        let register = json!({"name": "Eve", "email": fresh, "password": PASSWORD});
        let (contact, one) = (format!("/users/{}/contact/?type=email", reader.id), format!("/users/{}/", reader.id));
        let new_password = json!({"password": "Another-Pass-77", "password_confirm": "Another-Pass-77"});
        let with = |name: &str, value: &str| {
            let mut body = new_password.clone();
            body[name] = json!(value);
            body
        };
        let move_to = json!({"email": format!("new-{fresh}"), "current_password": PASSWORD});
        vec![
            row("register", 201, 503, 201, client, "POST", "/users/", Some(register)),
            row("login", 200, 503, 200, client, "POST", "/auth/login/", Some(json!({"email": visitor.email, "password": PASSWORD}))),
            row("refresh", 200, 503, 200, client, "POST", "/auth/refresh/", Some(json!({"refresh_token": refresh}))),
            row("verify", 200, 503, 200, client, "POST", "/auth/verify-email/", Some(json!({"token": link}))),
            row("ask for a reset", 200, 503, 200, client, "POST", "/auth/password-reset/", Some(json!({"email": writer.email}))),
            row("the same of nobody", 200, 503, 200, client, "POST", "/auth/password-reset/", Some(json!({"email": "no@example.com"}))),
            row("ask for a link again", 200, 503, 200, client, "POST", "/auth/verify-email/resend/", Some(json!({"email": writer.email}))),
            row("set a new password", 200, 503, 200, client, "POST", "/auth/password-reset/confirm/", Some(with("token", &reset))),
            row("change the password", 200, 503, 200, &as_careful, "POST", "/auth/password/", Some(with("current_password", PASSWORD))),
            row("change the address", 200, 503, 200, &as_mover, "POST", "/users/email/", Some(move_to)),
            row("leave", 200, 503, 200, &as_ender, "DELETE", "/users/profile/", None),
            row("change under a key", 200, 503, 200, &under_a_key, "PATCH", "/users/profile/", Some(json!({"name": "Keyed"}))),
            row("read a user", 200, 200, 200, &service, "GET", &one, None),
            row("look users up", 200, 503, 200, &service, "POST", "/users/lookup/", Some(json!({"user_ids": [reader.id, writer.id]}))),
            row("read the profile", 200, 200, 200, &as_reader, "GET", "/users/profile/", None),
            row("read preferences", 200, 200, 200, &as_reader, "GET", "/users/preferences/", None),
            row("read a contact", 200, 200, 200, &service, "GET", &contact, None),
            row("a session not seen before", 200, 503, 200, &client.bearer(cold), "GET", "/users/profile/", None),
            row("change the profile", 200, 503, 200, &as_writer, "PATCH", "/users/profile/", Some(json!({"name": "Grace"}))),
            row("change preferences", 200, 503, 200, &as_writer, "PATCH", "/users/preferences/", Some(json!({"email": false}))),
            row("sign out", 200, 503, 200, &client.as_user(&leaver), "POST", "/auth/logout/", None),
            row(
                "ask for a push",
                202,
                503,
                202,
                &service,
                "POST",
                "/push-requests/",
                Some(json!({"user_id": reader.id, "template_code": "X"})),
            ),
            row("list users", 200, 503, 200, &service, "GET", "/users/", None),
            row("liveness", 200, 200, 200, client, "GET", "/health/live", None),
            row("readiness", 200, 503, 200, client, "GET", "/health/ready", None),
            row("health", 200, 503, 200, client, "GET", "/health", None),
        ]
    }

    /// Asks everything at once while `proxy` behaves like that; then what could not be done is done.
    async fn weather(&self, dependency: &str, proxy: &FaultProxy, weather: Weather) {
        let rows = self.rows().await;
        proxy.set(match weather {
            Weather::Slow => Fault::Latency(Duration::from_secs(5)),
            Weather::Down | Weather::Flapping => Fault::Reset,
        });
        let (began, mut done, mut refused) = (Instant::now(), 0, 0);
        let asking = async {
            let mut pace = tokio::time::interval(PACE);
            for round in 0.. {
                pace.tick().await;
                for (row, (answer, took)) in rows.iter().zip(join_all(rows.iter().map(|row| row.ask.send())).await) {
                    let at = format!("{} with the {dependency} {weather:?}: {} after {took:.1?}: {}", row.name, answer.status, answer.text);
                    let unable = match dependency {
                        "database" => row.no_database,
                        "cache" => row.no_cache,
                        _ => row.well,
                    };
                    let is_back = weather == Weather::Flapping && answer.status == row.well;
                    // A link or token works once, and a name is taken once: the second time it is refused in order.
                    let may_be_done = round > 0 && (weather == Weather::Flapping || unable != 503) && ONCE.contains(&row.name);
                    let done_before = may_be_done && matches!(answer.status, 400 | 401 | 403);
                    assert!(answer.status == unable || is_back || done_before, "{at}");
                    if answer.status == 503 {
                        let after: u64 = answer.header("retry-after").unwrap_or_else(|| panic!("{at}: no Retry-After")).parse().unwrap();
                        assert!((1..=5).contains(&after), "{at}");
                        assert!(row.ask.path.contains("health") || answer.refusal() == (503, "unavailable".to_owned()), "{at}");
                        refused += 1;
                    } else {
                        done += 1;
                    }
                    let patience = if row.ask.path.starts_with("/health") { PROBE_PATIENCE } else { weather.patience() };
                    assert!(took <= patience, "{at}");
                }
                if began.elapsed() >= weather.lasts() {
                    break;
                }
            }
        };
        match weather {
            Weather::Down => asking.await,
            Weather::Slow => {
                // By then what stood has been given up, and what was begun instead as well.
                let counting = async {
                    tokio::time::sleep(FLAP).await;
                    count_attempts(dependency, proxy).await;
                };
                tokio::join!(asking, counting);
            }
            Weather::Flapping => tokio::select! { () = asking => {}, () = flap(dependency, proxy) => {} },
        }
        if weather == Weather::Down && dependency != "database" {
            let degraded = async || self.app.client.get("/health").await.json()["status"] == "degraded";
            within(Duration::from_secs(10), "health says that something is down", degraded).await;
        }
        proxy.set(Fault::None);
        // Otherwise nothing was tested: it must have been away, and there again.
        assert!(dependency != "database" || (refused > 0 && done > 0), "{dependency} {weather:?}: {done} done, {refused} refused");
        within(Duration::from_secs(10), "it is ready again", async || self.app.client.get("/health/ready").await.status == 200).await;
        // After a failure Redis is left alone for a moment; the next window begins with what it serves.
        let served = async || self.app.app.cache.get_many(&["nothing".to_owned()]).await.is_ok();
        within(Duration::from_secs(10), "the cache is used again", served).await;
        if (dependency, weather) == ("database", Weather::Flapping) {
            self.expect_single_effects(&rows).await;
        } else if dependency == "database" {
            // What was refused was not done, not even by half: it can be done now.
            for row in rows.iter().filter(|row| row.no_database == 503) {
                let (answer, _) = row.ask.send().await;
                assert_eq!(answer.status, row.well, "{} after the {dependency} was {weather:?}: {}", row.name, answer.text);
            }
        }
        self.expect_mail_to(&rows[0]).await;
    }
}

/// Away and back, again and again.
async fn flap(dependency: &str, proxy: &FaultProxy) {
    loop {
        proxy.set(Fault::Reset);
        // What was in hand is tried again at once.
        tokio::time::sleep(FLAP / 6).await;
        count_attempts(dependency, proxy).await;
        proxy.set(Fault::None);
        tokio::time::sleep(FLAP).await;
    }
}

/// What does not answer is not asked for a connection more than once a second.
async fn count_attempts(dependency: &str, proxy: &FaultProxy) {
    let (since, connected) = (Instant::now(), proxy.accepted());
    tokio::time::sleep(FLAP - FLAP / 6).await;
    let (attempts, away) = (proxy.accepted() - connected, since.elapsed());
    println!("degradation: {attempts} attempts to connect to the {dependency} in {away:.1?}");
    assert!(attempts as f64 <= 2.0 + away.as_secs_f64(), "{dependency}: {attempts} attempts to connect in {away:.1?}");
}

impl Edge {
    /// Whoever registered, whatever was the matter, is sent the link.
    async fn expect_mail_to(&self, register: &Row) {
        let email = register.ask.body.as_ref().unwrap()["email"].as_str().unwrap();
        let arrived = async || self.mails.mails().iter().any(|mail| mail.recipients.iter().any(|recipient| recipient.contains(email)));
        within(Duration::from_secs(60), "the mail arrives", arrived).await;
    }

    /// What was asked for again and again was done once.
    async fn expect_single_effects(&self, rows: &[Row]) {
        for row in rows.iter().filter(|row| ["register", "change under a key"].contains(&row.name)) {
            row.ask.send().await;
        }
        let email = rows[0].ask.body.as_ref().unwrap()["email"].as_str().unwrap();
        for (action, whose) in [("registered", format!("email = '{email}'")), ("profile_changed", "name = 'Keyed'".to_owned())] {
            let about = format!("SELECT id FROM users WHERE {whose} ORDER BY created_at DESC LIMIT 1");
            let done = format!("SELECT count(*) AS n FROM audit_log WHERE action = '{action}' AND subject_id = ({about})");
            assert_eq!(self.app.count(&done).await, 1, "{action}");
        }
    }
}

/// Links and tokens work once, a name is taken once, a password is the old one once: the second time is refused in order.
const ONCE: [&str; 7] = ["register", "verify", "refresh", "sign out", "set a new password", "change the password", "leave"];

/// Within which probes answer, whatever is the matter.
const PROBE_PATIENCE: Duration = Duration::from_millis(1_000);

/// From one round of questions to the next: without it the test itself would keep Redis from its processor for the 100 ms after which
/// it counts as away.
const PACE: Duration = Duration::from_millis(100);

/// From one fault to the next.
const FLAP: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn every_function_degrades_as_its_row_says_whatever_is_down_slow_or_flapping() {
    let edge = Edge::start().await;
    for weather in [Weather::Down, Weather::Slow, Weather::Flapping] {
        edge.weather("database", &edge.database, weather).await;
        edge.weather("cache", &edge.cache, weather).await;
        edge.weather("broker", &edge.broker, weather).await;
        edge.weather("mail server", &edge.mail, weather).await;
        println!("degradation: 26 functions x 4 dependencies, {weather:?}");
    }
    // Both at once: nobody is told that his session ended, and the process lives.
    let user = edge.app.client.register("Ada").await;
    edge.database.set(Fault::Reset);
    edge.cache.set(Fault::Reset);
    let me = edge.app.client.as_user(&user);
    for path in ["/api/v1/users/profile/", "/api/v1/users/preferences/", "/api/v1/auth/sessions/"] {
        assert_eq!(me.get(path).await.refusal(), (503, "unavailable".to_owned()), "{path}");
    }
    assert_eq!(edge.app.client.get("/health/live").await.status, 200);
    edge.database.set(Fault::None);
    edge.cache.set(Fault::None);
    within(Duration::from_secs(10), "the profile is back", async || me.get("/api/v1/users/profile/").await.status == 200).await;
    edge.app.stop().await.unwrap();
}
