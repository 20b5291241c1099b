//! A write that the server takes back is begun again; one that it cannot take now is refused, and later taken.

use futures_util::future::join_all;
use serde_json::json;
use user_service::config::Role;

use crate::support::client::TestUser;
use crate::support::{Client, PASSWORD, Services, TestApp, eventually};

/// The next `times` changes of a user fail as a lost race does.
async fn lose_races(app: &TestApp, times: u32) {
    fail_changes(app, times, "40001", "could not serialize access due to concurrent update").await;
}

/// The same by another error of the server; a sequence counts, because no rollback takes it back.
async fn fail_changes(app: &TestApp, times: u32, sqlstate: &str, message: &str) {
    app.sql(&format!(
        "DROP SEQUENCE IF EXISTS races; CREATE SEQUENCE races;
        CREATE OR REPLACE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('races') <= {times} THEN
                RAISE EXCEPTION '{message}' USING ERRCODE = '{sqlstate}';
            END IF;
            RETURN NEW;
        END $$;
        CREATE OR REPLACE TRIGGER lose BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION lose()"
    ))
    .await;
}

async fn changes_of_name(app: &TestApp, user: &TestUser) -> i64 {
    app.count(&format!("SELECT count(*) AS n FROM audit_log WHERE action = 'profile_changed' AND subject_id = '{}'", user.id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_lost_a_race_is_begun_again_three_times_and_done_once() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    lose_races(&app, 3).await;
    let answer = me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await;
    assert_eq!((answer.status, answer.data()["name"].clone()), (200, json!("Grace")));
    assert_eq!(changes_of_name(&app, &user).await, 1);
    // Under a key as well: the key and its answer are of the same transaction.
    lose_races(&app, 3).await;
    let keyed = me.with("idempotency-key", "lost-and-won");
    assert_eq!(keyed.patch("/api/v1/users/profile/", json!({"name": "Hedy"})).await.status, 200);
    assert_eq!(keyed.patch("/api/v1/users/profile/", json!({"name": "Hedy"})).await.header("idempotency-replayed"), Some("true"));
    assert_eq!(changes_of_name(&app, &user).await, 2);
    // A race that is lost for ever is refused, and nothing of it stays.
    lose_races(&app, 1_000).await;
    let refused = me.patch("/api/v1/users/profile/", json!({"name": "Nobody"})).await;
    assert_eq!(refused.refusal(), (503, "unavailable".to_owned()));
    assert_eq!(app.count("SELECT last_value AS n FROM races").await, 4, "once, and three times again");
    assert_eq!((changes_of_name(&app, &user).await, me.get("/api/v1/users/profile/").await.data()["name"].clone()), (2, json!("Hedy")));
    app.stop().await.unwrap();
}

/// In the server's own words: Diesel gives no SQLSTATE.
const PASSING: [(&str, &str); 8] = [
    ("53100", r#"could not extend file "base/1/2": No space left on device"#),
    ("53200", "out of memory"),
    ("53200", "out of shared memory"),
    ("53300", "remaining connection slots are reserved for non-replication superuser connections"),
    ("55P03", r#"could not obtain lock on row in relation "users""#),
    ("57014", "canceling statement due to conflict with recovery"),
    ("57P01", "terminating connection due to administrator command"),
    ("57P03", "the database system is starting up"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_state_of_the_server_that_passes_is_a_503_and_a_bug_of_ours_is_none() {
    let app = TestApp::api().await;
    let me = app.client.as_user(&app.client.register("Ada").await);
    for (sqlstate, message) in PASSING {
        fail_changes(&app, 1, sqlstate, message).await;
        let refused = me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await;
        assert_eq!(refused.refusal(), (503, "unavailable".to_owned()), "{sqlstate} {message}");
        assert!(refused.header("retry-after").is_some() && !refused.text.contains(message), "{}", refused.text);
        assert_eq!(me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await.status, 200, "{sqlstate} {message}");
    }
    fail_changes(&app, 1, "22012", "division by zero").await;
    assert_eq!(me.patch("/api/v1/users/profile/", json!({"name": "Hedy"})).await.refusal(), (500, "internal_error".to_owned()));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_victim_of_a_deadlock_is_begun_again() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    // So that it is ours that looks, and is rolled back, before anybody's patience ends.
    app.sql(&format!("ALTER DATABASE \"{}\" SET deadlock_timeout = '400ms'", app.database())).await;
    app.end_connections().await;
    eventually("it is connected again", async || app.client.get("/health/ready").await.status == 200).await;
    let deadlocks = "SELECT deadlocks AS n FROM pg_stat_database WHERE datname = current_database()";
    let sessions = format!("SELECT 1 FROM sessions WHERE user_id = '{}' FOR UPDATE", user.id);
    let mut other = app.hold(&format!("SET LOCAL deadlock_timeout = '10s'; {sessions}")).await;
    let me = app.client.as_user(&user);
    let passwords = json!({"current_password": PASSWORD, "password": "Another-Pass-77", "password_confirm": "Another-Pass-77"});
    let mut change = std::pin::pin!(me.post("/api/v1/auth/password/", passwords));
    // It has the user and waits for the sessions; whoever has those asks for the user.
    assert!(app.until_it_waits(change.as_mut()).await.is_none(), "it did not wait");
    let crossing = async {
        other.then(&format!("SELECT 1 FROM users WHERE id = '{}' FOR UPDATE", user.id)).await;
        other.commit().await;
    };
    let (answer, ()) = tokio::join!(change, crossing);
    assert_eq!(answer.status, 200, "{}", answer.text);
    // A session tells its counts when it is used again.
    let used_and_counted = async || app.client.get("/health/ready").await.status == 200 && app.count(deadlocks).await == 1;
    eventually("the server counted a deadlock", used_and_counted).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_server_that_became_read_only_are_left_for_new_ones() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let read_only = async |on: &str| {
        let change = format!("ALTER DATABASE \"{}\" SET default_transaction_read_only = {on}", app.database());
        app.sql(&format!("BEGIN READ WRITE; {change}; COMMIT")).await;
    };
    read_only("on").await;
    app.end_connections().await;
    eventually("it is connected again", async || app.client.get("/health/ready").await.status == 200).await;
    let asked = join_all((0..20).map(|n| me.patch("/api/v1/users/profile/", json!({"name": format!("Ada {n}")})))).await;
    assert!(asked.iter().all(|answer| answer.refusal() == (503, "unavailable".to_owned())));
    assert_eq!(me.get("/api/v1/users/profile/").await.status, 200, "it can be read");
    // So that a connection that is made from here on is known by its age.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    // Nor is it asked for new connections again and again: those that it gave a moment ago will do.
    let new = "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'user-service'
        AND datname = current_database() AND backend_start > now() - interval '100 ms'";
    for _ in 0..20 {
        assert_eq!(me.patch("/api/v1/users/profile/", json!({"name": "Ada"})).await.status, 503);
        assert_eq!(app.count(new).await, 0, "another connection");
    }
    // Those that it has now will never write. After a while new ones are tried, and nothing has to be restarted.
    read_only("off").await;
    let writes = async || me.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await.status == 200;
    eventually("it can be written", writes).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_connections_to_spare_is_shared() {
    let owner = TestApp::api().await;
    let role = format!("few_{}", owner.database());
    owner.sql(&format!("CREATE ROLE \"{role}\" LOGIN CONNECTION LIMIT 3; GRANT ALL ON ALL TABLES IN SCHEMA public TO \"{role}\"")).await;
    let app = TestApp::start_on(Services::from_env(), owner.database_url.clone(), Role::Api, |config| {
        let mut url = url::Url::parse(secrecy::ExposeSecret::expose_secret(&config.database.url)).unwrap();
        url.set_username(&role).unwrap();
        config.database.url = String::from(url).into();
    })
    .await;
    let people: Vec<Client> =
        join_all((0..8).map(|_| app.client.register("Ada"))).await.iter().map(|user| app.client.as_user(user)).collect();
    let asking = (0..200).map(|n| {
        let me = &people[n % people.len()];
        async move { me.patch("/api/v1/users/preferences/", json!({"email": n % 2 == 0})).await.status }
    });
    let statuses = join_all(asking).await;
    assert_eq!(statuses.iter().filter(|status| **status != 200).count(), 0, "{statuses:?}");
    let connections = format!("SELECT count(*) AS n FROM pg_stat_activity WHERE usename = '{role}'");
    assert_eq!(owner.count(&connections).await, 3, "the limit was not met");
    app.halt().await;
    owner.sql(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
    owner.stop().await.unwrap();
}
