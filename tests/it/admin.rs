use serde_json::{Value, json};
use tokio::process::Command;
use user_service::config::Role;

use crate::support::{PASSWORD, Services, TestApp, fresh_database};

const DUMP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/django/users.sql");

/// `user-service users …` on this test's database: exit code, and what it printed.
async fn users(app: &TestApp, arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let run = Command::new(env!("CARGO_BIN_EXE_user-service"))
        .env_clear()
        .envs(app.variables())
        .envs(variables.iter().copied())
        .arg("users")
        .args(arguments)
        .output()
        .await
        .unwrap();
    (run.status.code(), String::from_utf8(run.stdout).unwrap(), String::from_utf8(run.stderr).unwrap())
}

async fn sign_in(app: &TestApp, email: &str, password: &str) -> (u16, Value) {
    let answer = app.client.post("/api/v1/auth/login", json!({"email": email, "password": password})).await;
    (answer.status, answer.json()["data"]["user"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_of_a_django_service_sign_in_with_their_passwords_and_are_hashed_anew() {
    let app = TestApp::api().await;
    let (code, told, _) = users(&app, &["import", "--from-django", DUMP, "--dry-run"], &[]).await;
    assert_eq!((code, app.count("SELECT count(*) AS n FROM users").await), (Some(0), 0), "{told}");
    assert!(told.starts_with("12 found; 9 could be taken over, 3 not"), "{told}");
    // A slip of the pen leaves nobody in charge, so nothing is done.
    let (code, told, problems) = users(&app, &["import", "--from-django", DUMP, "--staff", "bobb@example.com"], &[]).await;
    assert!(code == Some(1) && problems.contains("--staff bobb@example.com: no account"), "{told}{problems}");
    assert_eq!(app.count("SELECT count(*) AS n FROM users").await, 0);
    let (_, told, _) = users(&app, &["import", "--from-django", DUMP, "--dry-run", "--staff", "bob@example.com"], &[]).await;
    assert!(told.contains("staff would be: bob@example.com"), "{told}");
    let (code, told, problems) = users(&app, &["import", "--from-django", DUMP, "--staff", "Bob@example.com"], &[]).await;
    assert_eq!((code, problems.as_str()), (Some(0), ""), "{told}");
    for line in [
        "12 found; 9 taken over, 0 were here already, 3 kept out",
        "1 have a password that cannot be read here; they set a new one by mail",
        "2 accounts differ only in the case of dora@example.com",
        "email must be a mail address",
        "staff in Django, and not here without --staff: bob@example.com",
        "staff now: bob@example.com",
    ] {
        assert!(told.contains(line), "{line} is missing in\n{told}");
    }
    assert!(!told.contains("pbkdf2"), "{told}");
    let (_, again, _) = users(&app, &["import", "--from-django", DUMP], &[]).await;
    assert!(again.starts_with("12 found; 0 taken over, 9 were here already, 3 kept out"), "{again}");

    let (status, ada) = sign_in(&app, "ada@example.com", PASSWORD).await;
    assert_eq!(status, 200);
    assert_eq!((&ada["id"], &ada["name"]), (&json!("00000000-0000-0000-0000-000000000001"), &json!("Ada Lovelace")));
    assert_eq!((&ada["push_token"], &ada["email_verified"]), (&json!("device-ada"), &json!(true)));
    let hashed = async |kind: &str| app.count(&format!("SELECT count(*) AS n FROM credentials WHERE password_hash LIKE '{kind}%'")).await;
    assert_eq!((hashed("$2b$").await, hashed("pbkdf2").await), (1, 7));
    assert_eq!(sign_in(&app, "ada@example.com", PASSWORD).await.0, 200, "by the new hash");
    // Django's forms trimmed what was typed.
    let (status, bob) = sign_in(&app, "bob@example.com", &format!(" {PASSWORD} ")).await;
    assert_eq!((status, &bob["preferences"]), (200, &json!({"email": false, "push": true})));
    // Whichever he types next, it is still his password; and once it is typed as it was, it is hashed anew.
    assert_eq!(sign_in(&app, "bob@example.com", &format!(" {PASSWORD} ")).await.0, 200);
    assert_eq!((hashed("$2b$").await, sign_in(&app, "bob@example.com", PASSWORD).await.0, hashed("$2b$").await), (1, 200, 2));
    assert_eq!(sign_in(&app, "carol@EXAMPLE.com", PASSWORD).await.1["email"], json!("Carol@example.com"));
    // bcrypt could not read it whole: it stays what it is, and works.
    for _ in 0..2 {
        assert_eq!(sign_in(&app, "long@example.com", &format!("long-Pass-{}", "x".repeat(90))).await.0, 200);
    }
    assert_eq!(sign_in(&app, "tab@example.com", PASSWORD).await.1["name"], json!("Taband \\ backslash"));
    for (email, password) in [
        ("ada@example.com", "wrong"),
        ("bob@example.com", "wrong"),
        ("gone@example.com", PASSWORD),
        ("unusable@example.com", PASSWORD),
        ("dora@example.com", PASSWORD),
    ] {
        assert_eq!(sign_in(&app, email, password).await.0, 401, "{email}");
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE is_staff").await, 1);
    // Two held one phone: whoever used it last keeps it. Who is gone has none.
    assert_eq!(sign_in(&app, "later@example.com", PASSWORD).await.1["push_token"], json!("device-shared"));
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE retired_at IS NULL").await, 2);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_accounts_come_out_of_the_database_that_django_made() {
    let services = Services::from_env();
    let (server, _) = services.database_url.rsplit_once('/').unwrap();
    let app = TestApp::api().await;
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    app.sql(&format!("CREATE DATABASE \"{name}\"")).await;
    let url = format!("{server}/{name}");
    {
        use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
        let mut django = diesel_async::AsyncPgConnection::establish(&url).await.unwrap();
        django.batch_execute(include_str!("../fixtures/django/users-inserts.sql")).await.unwrap();
    }
    let (code, told, problems) = users(&app, &["import", "--from-django"], &[("DJANGO_DATABASE_URL", &url)]).await;
    assert_eq!(code, Some(0), "{problems}");
    assert!(told.starts_with("12 found; 9 taken over, 0 were here already, 3 kept out"), "{told}");
    let (status, ada) = sign_in(&app, "ada@example.com", PASSWORD).await;
    assert_eq!((status, &ada["push_token"], &ada["email_verified"]), (200, &json!("device-ada"), &json!(true)));
    assert_eq!(sign_in(&app, "bob@example.com", PASSWORD).await.1["preferences"], json!({"email": false, "push": true}));
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE is_staff").await, 0, "staff without --staff");
    let (code, _, problems) = users(&app, &["import", "--from-django"], &[]).await;
    assert!(code == Some(2) && problems.contains("DJANGO_DATABASE_URL"), "{problems}");
    let nowhere = [("DJANGO_DATABASE_URL", "postgres://root:hunter2@127.0.0.1:1/x")];
    let (code, _, problems) = users(&app, &["import", "--from-django"], &nowhere).await;
    assert!(code == Some(1) && !problems.contains("hunter2"), "{problems}");
    app.sql(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_everything_about_one_person_and_no_hash() {
    let app = TestApp::api().await;
    let (ada, eve) = (app.client.register("Ada Lovelace").await, app.client.register("Eve").await);
    app.client.post("/api/v1/auth/login", json!({"email": ada.email, "password": "wrong"})).await;
    let (code, printed, _) = users(&app, &["export", &ada.email.to_uppercase()], &[]).await;
    assert_eq!(code, Some(0));
    let everything: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(everything["user"]["id"], json!(ada.id));
    for (part, count) in [("preferences", 2), ("push_tokens", 1), ("sessions", 1), ("links", 1), ("messages", 2)] {
        assert_eq!(everything[part].as_array().unwrap().len(), count, "{part}");
    }
    let actions: Vec<_> = everything["audit_log"].as_array().unwrap().iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert!(actions.contains(&"registered") && actions.contains(&"sign_in_failed"), "{actions:?}");
    assert!(printed.contains(&ada.email) && printed.contains(&ada.push_token));
    for others in [eve.id.as_str(), &eve.email, &eve.push_token, "$2b$", PASSWORD] {
        assert!(!printed.contains(others), "{others} is in the export");
    }
    assert_eq!(app.count("SELECT count(*) AS n FROM audit_log WHERE action = 'exported' AND actor_kind = 'operator'").await, 1);
    let (code, _, problems) = users(&app, &["export", "nobody@example.com"], &[]).await;
    assert!(code == Some(1) && problems.contains("There is no user"), "{problems}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_person_is_nowhere_any_more_and_the_audit_trail_keeps_a_pseudonym() {
    let services = Services::from_env();
    let database = fresh_database(&services).await;
    let app = TestApp::start_on(services, database, Role::Api, |_| {}).await;
    let client = app.client.with("x-forwarded-for", "203.0.113.7").with("user-agent", "adas-phone");
    let (ada, eve) = (client.register("Ada Lovelace").await, app.client.register("Eve").await);
    let me = client.as_user(&ada);
    assert_eq!(me.get("/api/v1/users/preferences").await.status, 200, "warm: session and card are cached");
    app.client.post("/api/v1/auth/password-reset", json!({"email": ada.email})).await;
    // The copy of a dead letter that names nobody but in its body.
    let letter = format!(r#"{{"user_id": "{}", "name": "Ada Lovelace"}}"#, ada.id);
    app.sql(&format!(
        "INSERT INTO outbox (id, lane, payload, created_at, next_attempt_at) VALUES (gen_random_uuid(), 'amqp', convert_to('{letter}', 'UTF8'), now(), now())"
    ))
    .await;
    // And dead ones in the inbox, whether their user could be read or not.
    for user_id in [ada.id.as_str(), "00000000-0000-0000-0000-000000000000"] {
        app.sql(&format!(
            "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, body, received_at, decided_at)
             VALUES (gen_random_uuid()::text, '{user_id}', sha256('x'), 'queue', 'dead', 'schema_violation', convert_to('{letter}', 'UTF8'), now(), now())"
        ))
        .await;
    }
    // What she did to somebody else: her phone became his.
    app.sql(&format!(
        "INSERT INTO audit_log (id, at, actor_kind, actor_id, subject_id, action, ip)
         VALUES (gen_random_uuid(), now(), 'user', '{}', gen_random_uuid(), 'push_token_moved', '203.0.113.7')",
        ada.id
    ))
    .await;
    let (code, _, problems) = users(&app, &["erase", &ada.email], &[]).await;
    assert!(code == Some(2) && problems.contains("--yes"), "{problems}");
    assert_eq!(me.get("/api/v1/users/profile").await.status, 200);
    let (code, told, problems) = users(&app, &["erase", &ada.email, "--yes"], &[]).await;
    assert_eq!((code, told.trim()), (Some(0), format!("Erased {}.", ada.id).as_str()), "{problems}");

    assert_eq!(me.get("/api/v1/users/profile").await.status, 401, "a session outlived its user");
    let service = app.client.with("x-internal-api-key", crate::support::SERVICE_KEY);
    let shown = service.get(&format!("/api/v1/users/{}", ada.id)).await;
    for trace in [ada.email.as_str(), "Ada Lovelace", &ada.push_token, "203.0.113.7", "adas-phone"] {
        assert!(!shown.text.contains(trace), "{trace} is in the cache");
        for table in ["users", "credentials", "preferences", "push_tokens", "sessions", "one_time_tokens", "throttles", "audit_log"] {
            let query = format!("SELECT count(*) AS n FROM {table} t WHERE t::text LIKE '%{trace}%'");
            assert_eq!(app.count(&query).await, 0, "{trace} is in {table}");
        }
        let query = format!("SELECT count(*) AS n FROM outbox WHERE encode(payload, 'escape') LIKE '%{trace}%'");
        assert_eq!(app.count(&query).await, 0, "{trace} is in the outbox");
        let query = format!("SELECT count(*) AS n FROM push_inbox WHERE encode(body, 'escape') LIKE '%{trace}%'");
        assert_eq!(app.count(&query).await, 0, "{trace} is in the inbox");
    }
    let trail = format!("SELECT count(*) AS n FROM audit_log WHERE subject_id = '{}' AND action IN ('registered', 'erased')", ada.id);
    assert_eq!(app.count(&trail).await, 2);
    let event = "SELECT count(*) AS n FROM outbox WHERE routing_key = 'user.erased' AND done_at IS NULL";
    assert_eq!(app.count(event).await, 1);
    assert!(users(&app, &["erase", &ada.id, "--yes"], &[]).await.1.contains("was erased before"));
    // Nobody else is touched, and the address is free.
    assert_eq!(app.client.as_user(&eve).get("/api/v1/users/profile").await.data()["email"], json!(eve.email));
    let again = app.client.post("/api/v1/users", json!({"name": "Ada", "email": ada.email, "password": PASSWORD})).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.data()["user"]["id"], json!(ada.id));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_deactivated_account_stays_taken() {
    let app = TestApp::api().await;
    let ada = app.client.register("Ada").await;
    assert_eq!(app.client.as_user(&ada).delete("/api/v1/users/profile").await.status, 200);
    let again = app.client.post("/api/v1/users", json!({"name": "Ada", "email": ada.email, "password": PASSWORD})).await;
    assert_eq!((again.status, again.json()["errors"]["email"][0].clone()), (400, json!("is already registered")));
    assert_eq!(sign_in(&app, &ada.email, PASSWORD).await.0, 401);
    app.client.post("/api/v1/auth/password-reset", json!({"email": ada.email})).await;
    assert_eq!(app.count("SELECT count(*) AS n FROM one_time_tokens WHERE purpose = 'password_reset'").await, 0);
    app.stop().await.unwrap();
}
