//! The binary itself.

use std::process::{Output, Stdio};
use std::time::Duration;

use lapin::BasicProperties;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::support::browser::Browser;
use crate::support::{Client, PASSWORD, SECRET, Services, TestApp, eventually};

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// With something at its standard input.
async fn run_fed(arguments: &[&str], variables: &[(&'static str, String)], input: &str) -> (Option<i32>, String, String) {
    let mut command = binary();
    command.args(arguments).envs(variables.iter().cloned()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let Output { status, stdout, stderr } = process.wait_with_output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = binary().args(arguments).envs(variables.iter().copied()).output().await.unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_one_message_exit_code_2_and_no_connection() {
    let variables = [("JWT_SECRET", "hunter2hunter2"), ("PORT", "http"), ("DATABASE_URL", "mysql://h/d"), ("BCRYPT_COST", "99")];
    for arguments in [["config", "check"].as_slice(), &[], &["serve", "--role", "worker"]] {
        let (code, stdout, stderr) = run(arguments, &variables).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        for name in ["JWT_SECRET", "PORT", "DATABASE_URL", "REDIS_URL", "RABBITMQ_URL", "BCRYPT_COST"] {
            assert!(stderr.contains(name), "{arguments:?}: {name} is missing in\n{stderr}");
        }
        assert!(!stderr.contains("hunter2"), "a secret is shown");
    }
    let good = [("JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://nowhere.invalid/d"), ("REDIS_URL", "redis://nowhere.invalid")];
    assert_eq!(run(&["config", "check", "--role", "api"], &good).await.0, Some(0));
    assert_eq!(run(&["config", "check"], &good).await.0, Some(2), "a worker needs the broker");
    let (code, stdout, _) = run(&["config", "check", "--json"], &good).await;
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &told["complete"], &told["problems"][0]["variable"]), (Some(2), &json!(false), &json!("RABBITMQ_URL")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_line_that_cannot_work_says_why_and_exits_with_2() {
    let complete = [("JWT_SECRET", SECRET), ("DATABASE_URL", "postgres://nowhere.invalid/d"), ("REDIS_URL", "redis://nowhere.invalid")];
    for (arguments, told) in [
        (["dead-letters", "redrive"].as_slice(), "--all"),
        (&["dead-letters", "purge"], "--all"),
        (&["dead-letters", "list", "--reason", "bad_luck"], "message_id_conflict"),
        (&["keys", "service", "a:b", "--scope", "users:read"], "letters, digits"),
        (&["keys", "service", "gateway", "--scope", "root"], "users:read"),
        (&["admin", "create", "--email", "grace"], "address"),
        (&["admin", "create", "--email", "grace@example.com", "--name", " "], "must not be empty"),
        (&["admin", "create", "--email", "grace@example.com"], "--password-stdin"),
        (&["users", "import", "--from-django"], "DJANGO_DATABASE_URL"),
        (&["--role", "cook"], "worker"),
    ] {
        let (code, stdout, stderr) = run(arguments, &complete).await;
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {told} is missing in {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_is_made_by_a_password_from_standard_input_and_reset_by_a_link() {
    let app = TestApp::api().await;
    let variables = app.variables();
    let create = ["admin", "create", "--email", "grace@example.com", "--password-stdin"];
    for (input, told) in [("short\n", "password must be at least 8 characters"), ("12345678901\n", "password must not be digits only")] {
        let (code, stdout, stderr) = run_fed(&create, &variables, input).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains(told), "{stderr}");
    }
    // One newline is the terminal's; the second belongs to the password.
    let (code, stdout, stderr) = run_fed(&create, &variables, "Correct Horse 7\n\n").await;
    assert!(code == Some(0) && stdout.contains("/admin/enrol?token=v1."), "{stdout}{stderr}");
    assert!(!stdout.contains("Correct Horse") && !stderr.contains("Correct Horse"));
    let login = async |password: &str| {
        let body = json!({"email": "grace@example.com", "password": password});
        app.client.post("/api/v1/auth/login/", body).await.status
    };
    assert_eq!((login("Correct Horse 7").await, login("Correct Horse 7\n").await), (401, 200));
    let (code, _, stderr) = run_fed(&create, &variables, "Correct Horse 7\n").await;
    assert!(code == Some(1) && stderr.contains("email is an account's already"), "{stderr}");

    // Somebody who has an account becomes one without a new password.
    let ada = app.client.register("Ada").await;
    let grant = ["admin", "grant", "--email", &ada.email];
    let (code, stdout_of_grant, stderr) = run_fed(&grant, &variables, "").await;
    assert!(code == Some(0) && stdout_of_grant.contains("/admin/enrol?token=v1."), "{stderr}");
    assert_eq!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'staff_granted'").await, 1);
    let (code, _, stderr) = run_fed(&grant, &variables, "").await;
    assert!(code == Some(1) && stderr.contains("admin reset"), "{stderr}");
    app.sql(&format!("UPDATE users SET is_staff = false WHERE id = '{}'", ada.id)).await;

    let link = |stdout: &str| stdout.lines().find(|line| line.contains("/admin/enrol")).unwrap().trim().to_owned();
    let mut browser = Browser::new(&app.client.base);
    browser.enrol(&app, &link(&stdout)).await;
    let reset = ["admin", "reset", "--email", "grace@example.com"];
    let (code, stdout, stderr) = run_fed(&reset, &variables, "").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(app.count("SELECT count(*) AS n FROM totp").await + app.count("SELECT count(*) AS n FROM recovery_codes").await, 0);
    browser.enrol(&app, &link(&stdout)).await;
    let with_password = ["admin", "reset", "--email", "grace@example.com", "--password-stdin"];
    assert_eq!(run_fed(&with_password, &variables, "Another Horse 8\n").await.0, Some(0));
    assert_eq!((login("Correct Horse 7\n").await, login("Another Horse 8").await), (401, 200));

    let user = app.client.register("Ada").await;
    let (code, _, stderr) = run_fed(&["admin", "reset", "--email", &user.email], &variables, "").await;
    assert!(code == Some(1) && stderr.contains("is no admin's"), "{stderr}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_is_wrong_and_how_to_mend_it() {
    let app = TestApp::start().await;
    let mut variables = app.variables();
    variables.push(("BCRYPT_COST", "10".to_owned()));
    let (code, stdout, stderr) = run_fed(&["doctor", "--json"], &variables, "").await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let found: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let checks: Vec<&str> = found.as_array().unwrap().iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    for check in ["database", "schema", "clock", "redis", "rabbitmq", "queue", "mail", "hashing", "proxy"] {
        assert!(checks.contains(&check), "{check}: {stdout}");
    }
    assert!(found.as_array().unwrap().iter().all(|finding| finding["state"] != "failure"), "{stdout}");

    app.sql("DELETE FROM __diesel_schema_migrations WHERE version = (SELECT max(version) FROM __diesel_schema_migrations)").await;
    let broken = [
        ("REDIS_URL", "redis://:hunter2@127.0.0.1:1"),
        ("RABBITMQ_URL", "amqp://guest:hunter2@127.0.0.1:1"),
        ("PUBLIC_BASE_URL", "https://accounts.example.com"),
    ];
    variables.extend(broken.map(|(name, value)| (name, value.to_owned())));
    let (code, stdout, stderr) = run_fed(&["doctor"], &variables, "").await;
    assert_eq!(code, Some(1));
    for told in
        ["failure  schema", "mend: user-service migrate", "warning  redis", "failure  rabbitmq", "warning  proxy", "TRUSTED_PROXY_COUNT=1"]
    {
        assert!(stdout.contains(told), "{told}: {stdout}");
    }
    assert!(stderr.contains("2 of 9 checks failed"), "{stderr}");
    assert!(!stdout.contains("hunter2") && !stderr.contains("hunter2"), "a secret is shown: {stdout}{stderr}");
    assert!(!stdout.contains('\x1b'), "no colours where nobody sees them");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_service_key_is_shown_once_and_opens_the_service() {
    let (code, stdout, _) = run(&["keys", "service", "gateway", "--scope", "users:read"], &[]).await;
    assert_eq!(code, Some(0));
    let words: Vec<_> = stdout.split_whitespace().collect();
    let key = words.iter().find(|word| word.starts_with("usk_")).unwrap();
    let entry = words.iter().find(|word| word.starts_with("gateway:")).unwrap();
    assert!(!entry.contains(key));
    let variables = std::collections::BTreeMap::from([
        ("DATABASE_URL", "postgres://h/d"),
        ("REDIS_URL", "redis://h"),
        ("JWT_SECRET", SECRET),
        ("SERVICE_API_KEYS", *entry),
    ]);
    let keys = user_service::config::Config::from_map(user_service::config::Role::Api, &variables).unwrap().service_keys;
    let app = TestApp::start_with(user_service::config::Role::Api, |config| config.service_keys = keys).await;
    let user = app.client.register("Ada").await;
    assert_eq!(app.client.with("x-internal-api-key", key).get(&format!("/api/v1/users/{}", user.id)).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_processes_migrate_one_empty_database_at_once() {
    let services = Services::from_env();
    let (server, _) = services.database_url.rsplit_once('/').unwrap();
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let app = TestApp::api().await;
    app.sql(&format!("CREATE DATABASE \"{name}\"")).await;
    let url = format!("{server}/{name}");
    let variables = [("DATABASE_URL", url.as_str()), ("REDIS_URL", services.redis_url.as_str()), ("JWT_SECRET", SECRET)];
    let outcomes = futures_util::future::join_all((0..8).map(|_| run(&["migrate"], &variables))).await;
    assert!(outcomes.iter().all(|(code, _, _)| *code == Some(0)), "{outcomes:#?}");
    let applied = outcomes.iter().filter(|(_, stdout, _)| stdout.contains("applied")).count();
    assert_eq!(applied, 1, "{outcomes:#?}");
    app.sql(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    app.stop().await.unwrap();
}

/// The binary itself, running in both roles.
pub struct Serving {
    pid: u32,
    pub client: Client,
    port: String,
    output: tokio::task::JoinSet<std::io::Result<Output>>,
}

impl Serving {
    /// Asks it to stop, and gives what it logged.
    pub async fn terminate(self) -> Output {
        assert!(Command::new("kill").args(["-TERM", &self.pid.to_string()]).status().await.unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(30), self.output.join_all()).await;
        ended.expect("it did not end within 30 s").remove(0).unwrap()
    }
}

/// On this test's database and queues, ready.
pub async fn serve(names: &TestApp, variables: &[(&str, &str)]) -> Serving {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let mut command = binary();
    command.envs(names.variables()).env("PORT", &port);
    let process = command.envs(variables.iter().copied()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = process.id().unwrap();
    // Read from the beginning: a full pipe would stop the process.
    let output = tokio::task::JoinSet::from_iter([process.wait_with_output()]);
    let client = Client::new(format!("http://127.0.0.1:{port}"));
    let http = reqwest::Client::new();
    let ready = format!("{}/health/ready", client.base);
    eventually("the process is ready", async || http.get(&ready).send().await.is_ok_and(|answer| answer.status() == 200)).await;
    Serving { pid, client, port, output }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_was_accepted_and_exits_0() {
    let names = TestApp::start().await;
    let broker = names.config.broker.clone();
    let (user, test_broker) = (names.client.register("Ada").await, names.broker().await);
    let serving = serve(&names, &[]).await;
    // A container's health check knows the port and no secret.
    let healthcheck = run(&["healthcheck"], &[("PORT", &serving.port)]).await;
    assert_eq!(healthcheck.0, Some(0), "{healthcheck:?}");
    assert_eq!(run(&["healthcheck"], &[("PORT", "1")]).await.0, Some(1), "nobody listens there");
    for n in 0..500 {
        test_broker
            .publish(
                json!({"user_id": user.id, "template_code": "X", "request_id": n.to_string()}).to_string().as_bytes(),
                BasicProperties::default(),
            )
            .await;
    }
    assert_eq!(serving.terminate().await.status.code(), Some(0));
    let delivered = test_broker.receive(&broker.deliver_queue, 500).await;
    let ids: std::collections::HashSet<_> = delivered.iter().filter_map(crate::support::broker::Received::message_id).collect();
    assert_eq!(ids.len(), 500, "a confirmed request was lost or doubled");
    names.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_log_changes_nothing_but_the_log() {
    let names = TestApp::api().await.halt().await;
    let serving = serve(&names, &[("RUST_LOG", "error")]).await;
    serving.client.register("Ada").await;
    let Output { status, stderr, .. } = serving.terminate().await;
    assert_eq!((status.code(), String::from_utf8_lossy(&stderr).as_ref()), (Some(0), ""));
    names.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stand_in_no_log_line_metric_error_or_row_however_much_is_logged() {
    const CANARY: &str = "Canary-Pass-99";
    // Only its names: the binary alone works on them.
    let names = TestApp::api().await.halt().await;
    let mut broker_names = names.config.broker.clone();
    broker_names.url = Some(Services::from_env().rabbitmq_url.into());
    let broker = crate::support::TestBroker::connect(broker_names).await;
    let serving = serve(&names, &[("RUST_LOG", "trace")]).await;
    let client = serving.client.clone();

    let user = client.register("Ada").await;
    let login = client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data();
    let next = client.post("/api/v1/auth/refresh", json!({"refresh_token": login["refresh_token"]})).await.data();
    let me = client.as_user(&user);
    let change = json!({"current_password": PASSWORD, "password": CANARY, "password_confirm": CANARY});
    assert_eq!(me.with("idempotency-key", "canary-change").post("/api/v1/auth/password", change).await.status, 200);
    let refused = me.patch("/api/v1/users/profile", json!({"push_token": "canary-device", "name": 7})).await;
    assert_eq!((refused.status, refused.text.contains("canary")), (400, false));
    assert_eq!(client.with("x-internal-api-key", "usk_canary").get("/api/v1/users/profile").await.status, 401);
    let verification = broker.mail("email_verification").await.token();
    assert_eq!(client.get(&format!("/verify-email?token={verification}")).await.status, 200);
    assert_eq!(client.post("/api/v1/auth/verify-email", json!({"token": verification})).await.status, 200);
    assert_eq!(client.post("/api/v1/auth/password-reset", json!({"email": user.email})).await.status, 200);
    let reset = broker.mail("password_reset").await.token();
    let weak =
        client.post("/api/v1/auth/password-reset/confirm", json!({"token": reset, "password": "canary-1", "password_confirm": "x"})).await;
    assert_eq!((weak.status, weak.text.contains("canary")), (400, false));
    let metrics = client.get("/metrics").await.text;

    let output = serving.terminate().await;
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.lines().count() > 20, "nothing was logged:\n{log}");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let secrets = [
        SECRET.to_owned(),
        PASSWORD.to_owned(),
        CANARY.to_owned(),
        "canary-1".to_owned(),
        user.access_token.clone(),
        user.push_token.clone(),
        "canary-device".to_owned(),
        "usk_canary".to_owned(),
        text(&login["access_token"]),
        text(&login["refresh_token"]),
        text(&next["refresh_token"]),
        verification.clone(),
        reset.clone(),
        "$2b$".to_owned(),
        // The same hash's beginning, as a driver that prints its parameters' bytes would show it.
        "36, 50, 98, 36".to_owned(),
    ];
    for secret in &secrets {
        let shown = log.lines().find(|line| line.contains(secret));
        assert!(shown.is_none(), "{secret} stands in: {}", &shown.unwrap_or_default()[..shown.unwrap_or_default().len().min(300)]);
        assert!(!metrics.contains(secret), "{secret} stands in a metric");
    }
    // The database holds the push token, which is data, and hashes of the rest: every row of every table, bytes too.
    let rows = "SELECT table_name, query_to_xml(format('SELECT t::text FROM %I t', table_name), true, false, '')::text AS rows
        FROM information_schema.tables WHERE table_schema = 'public' AND table_type = 'BASE TABLE'";
    let holding = async |text: &str| names.count(&format!("SELECT count(*) AS n FROM ({rows}) t WHERE rows LIKE '%{text}%'")).await;
    let hex = |text: &str| text.bytes().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    assert!(holding(&user.email).await > 0 && holding(&hex(&user.email)).await > 0, "nothing was looked at");
    for secret in secrets.iter().filter(|secret| !["$2b$", "36, 50, 98, 36", user.push_token.as_str()].contains(&secret.as_str())) {
        assert_eq!(holding(secret).await + holding(&hex(secret)).await, 0, "{secret} rests in the database");
    }
    broker.delete_all().await;
    names.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_json_a_command_prints_one_document_and_nothing_else() {
    let app = TestApp::api().await;
    let variables = app.variables();
    let key_file = format!("{}/{}.pem", env!("CARGO_TARGET_TMPDIR"), uuid::Uuid::new_v4());
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/django/users.sql");
    let user = app.client.register("Ada").await;
    for (arguments, field, expected) in [
        (["migrate"].as_slice(), "/applied", json!([])),
        (&["config", "check", "--role", "api"], "/complete", json!(true)),
        (&["keys", "service", "gateway", "--scope", "users:read"], "/name", json!("gateway")),
        (&["keys", "generate", &key_file], "/file", json!(key_file)),
        (&["keys", "rotate", &key_file], "/rotated", json!(true)),
        (&["dead-letters", "list"], "", json!([])),
        (&["dead-letters", "redrive", "--all"], "/redriven", json!(0)),
        (&["dead-letters", "purge", "--all"], "/purged", json!(0)),
        (&["users", "import", "--from-django", dump, "--dry-run"], "/kept_out", json!(3)),
        (&["users", "import", "--from-django", dump], "/imported", json!(9)),
        (&["users", "export", &user.email], "/user/name", json!("Ada")),
        (&["users", "erase", &user.email, "--yes"], "/erased", json!(true)),
        (&["doctor", "--role", "api"], "/0/state", json!("ok")),
    ] {
        let arguments = [arguments, &["--json"]].concat();
        let (code, stdout, stderr) = run_fed(&arguments, &variables, "").await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        let document: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {stdout}"));
        assert_eq!(document.pointer(field), Some(&expected), "{arguments:?}: {stdout}");
    }
    app.stop().await.unwrap();
}
