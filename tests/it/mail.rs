use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use user_service::config::{MailTransport, Role, Smtp};

use crate::support::smtp::{MailServer, Mood};
use crate::support::{TestApp, eventually};

async fn start(address: std::net::SocketAddr) -> TestApp {
    TestApp::start_with(Role::Both, |config| {
        let url = format!("smtp://{address}").into();
        config.mail.transport = MailTransport::Smtp(Smtp { url, from: "Test Service <no-reply@example.com>".into() });
    })
    .await
}

async fn failed(app: &TestApp) -> i64 {
    app.count("SELECT count(*) AS n FROM outbox WHERE lane = 'smtp' AND failed_at IS NOT NULL").await
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_leave_by_smtp_to_the_one_stored_address_with_a_link_that_works() {
    let server = MailServer::start(Mood::Accept).await;
    let app = start(server.address).await;
    let user = app.client.register("Zoë Müller").await;
    eventually("the mail arrives", async || !server.mails().is_empty()).await;
    let mail = server.mails().remove(0);
    assert_eq!(mail.recipients, [format!("RCPT TO:<{}>", user.email)]);
    assert_eq!(mail.header("From"), Some("\"Test Service\" <no-reply@example.com>"));
    assert_eq!(mail.header("Subject"), Some("Test Service: Please confirm your address"));
    assert_eq!(mail.header("Auto-Submitted"), Some("auto-generated"));
    let body = mail.body();
    let token = body.split_once("/verify-email?token=").unwrap().1.split_whitespace().next().unwrap();
    assert_eq!(app.client.post("/api/v1/auth/verify-email", json!({"token": token})).await.status, 200, "{body}");
    assert_eq!(app.client.get("/health").await.json()["status"], "healthy");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_the_worst_kind_is_one_mail_to_one_address() {
    let server = MailServer::start(Mood::Accept).await;
    let app = start(server.address).await;
    let user = app.client.register("Ada").await;
    eventually("the first mail arrives", async || server.mails().len() == 1).await;
    // As an import may have brought it: registration refuses such a name.
    app.sql("UPDATE users SET name = E'x\\r\\nBcc: evil@example.com\\r\\n\\r\\n.\\r\\nMAIL FROM:<evil@example.com>\\n.\\nRCPT TO:<evil@example.com>'").await;
    assert_eq!(app.client.post("/api/v1/auth/verify-email/resend", json!({"email": user.email})).await.status, 200);
    eventually("the second mail arrives", async || server.mails().len() >= 2 || failed(&app).await > 0).await;
    let mails = server.mails();
    assert_eq!(mails.len(), 2, "{mails:#?}");
    assert_eq!(mails[1].recipients, [format!("RCPT TO:<{}>", user.email)]);
    assert_eq!(mails[1].header("Bcc"), None, "{}", mails[1].text);
    assert_eq!(mails[1].header("Subject"), mails[0].header("Subject"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_is_put_off_comes_later_with_the_same_id_and_one_that_is_refused_is_given_up() {
    let server = MailServer::start(Mood::Drop).await;
    let app = start(server.address).await;
    let user = app.client.register("Ada").await;
    eventually("the server has taken it and said nothing", async || !server.mails().is_empty()).await;
    server.set(Mood::Defer);
    let attempts = async || app.count("SELECT max(attempts)::bigint AS n FROM outbox WHERE lane = 'smtp'").await;
    eventually("it is put off", async || attempts().await == 1).await;
    server.set(Mood::Accept);
    let before = server.mails();
    app.clock.advance(Duration::from_secs(31));
    eventually("it comes", async || server.mails().len() > before.len()).await;
    let ids: Vec<_> = server.mails().iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");

    server.set(Mood::Refuse);
    assert_eq!(app.client.post("/api/v1/auth/verify-email/resend", json!({"email": user.email})).await.status, 200);
    eventually("it is given up at once", async || failed(&app).await == 1).await;
    assert_eq!(attempts().await, 2, "a refusal is final");

    server.set(Mood::Defer);
    assert_eq!(app.client.post("/api/v1/auth/verify-email/resend", json!({"email": user.email})).await.status, 200);
    for (attempt, wait) in [(1, 31), (2, 121), (3, 601), (4, 3601), (5, 6 * 3600 + 1)] {
        let waiting = format!("SELECT count(*) AS n FROM outbox WHERE done_at IS NULL AND failed_at IS NULL AND attempts = {attempt}");
        eventually(&format!("attempt {attempt}"), async || app.count(&waiting).await == 1).await;
        app.clock.advance(Duration::from_secs(wait));
    }
    eventually("it is given up after the last", async || failed(&app).await == 2).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_server_that_is_down_delays_no_registration_and_loses_no_mail() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let app = start(address).await;
    let mut users = Vec::new();
    for _ in 0..20 {
        users.push(app.client.register("Ada").await);
    }
    assert_eq!(app.client.post("/api/v1/auth/password-reset", json!({"email": users[0].email})).await.status, 200);
    let degraded = async || app.client.get("/health").await.json()["status"] == "degraded";
    eventually("health says so", degraded).await;
    let server = MailServer::listen(TcpListener::bind(address).await.unwrap(), Mood::Accept);
    eventually("every mail arrives", async || server.mails().len() >= 21).await;
    let recipients: std::collections::HashSet<_> = server.mails().iter().flat_map(|mail| mail.recipients.clone()).collect();
    assert_eq!(recipients.len(), 20);
    server.set(Mood::Away);
    app.client.register("Bob").await;
    eventually("the server turns the relay away", async || server.refused() > 0).await;
    server.set(Mood::Accept);
    eventually("that mail arrives too", async || server.mails().len() >= 22).await;
    let used_up = "SELECT count(*) AS n FROM outbox WHERE attempts > 1 OR failed_at IS NOT NULL";
    assert_eq!(app.count(used_up).await, 0, "an outage used attempts up");
    eventually("health recovers", async || app.client.get("/health").await.json()["status"] == "healthy").await;
    app.stop().await.unwrap();
}

/// As an address may whose server lets ours wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn one_mail_that_always_breaks_off_holds_back_no_other() {
    let server = MailServer::start(Mood::Away).await;
    let app = start(server.address).await;
    let trapped = app.client.register("Eve").await;
    server.trap(&trapped.email);
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(app.client.register("Ada").await.email);
    }
    // The relay knows that nothing gets through, and tries with one.
    eventually("the server turns it away", async || server.refused() > 0).await;
    server.set(Mood::Accept);
    let is_sent = |email: &String| server.mails().iter().any(|mail| mail.recipients.iter().any(|to| to.contains(email)));
    eventually("all others have their mail", async || others.iter().all(is_sent)).await;
    let waiting = "SELECT count(*) AS n FROM outbox WHERE lane = 'smtp' AND done_at IS NULL AND attempts = 0 AND failed_at IS NULL";
    assert_eq!(app.count(waiting).await, 1, "its own waits");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_worker_or_broker_the_whole_flow_answers_and_the_mails_leave_once_there_is_one() {
    // An API process has no broker at all.
    let api = TestApp::api().await;
    api.client.register("Bob").await;
    // A row that cannot be read holds back no other.
    api.sql("UPDATE outbox SET payload = 'junk' WHERE routing_key = 'email'").await;
    let user = api.client.register("Ada").await;
    assert_eq!(api.client.post("/api/v1/auth/password-reset", json!({"email": user.email})).await.status, 200);
    let stopped = api.halt().await;
    let worker = stopped.beside(Role::Worker).await;
    let broker = worker.broker().await;
    assert_eq!(broker.mail("email_verification").await.json()["variables"]["email"], json!(user.email));
    assert_eq!(broker.mail("password_reset").await.json()["variables"]["email"], json!(user.email));
    assert_eq!(worker.count("SELECT count(*) AS n FROM outbox WHERE failed_at IS NOT NULL").await, 1);
    worker.stop().await.unwrap();
}
