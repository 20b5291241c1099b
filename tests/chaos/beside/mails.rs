//! Mails, while relay and mail server fail.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;
use user_service::config::{MailTransport, Role, Smtp};
use uuid::Uuid;

use crate::only_on_a_set_of_its_own;
use crate::support::smtp::{MailServer, Mood};
use crate::support::wait::within;
use crate::support::{PASSWORD, TestApp};
use crate::worker::Worker;

/// A worker that sends mails by SMTP.
fn mail_worker(app: &TestApp, server: &MailServer) -> Worker {
    let url = format!("smtp://{}", server.address);
    Worker::start(app, &[("MAIL_TRANSPORT", "smtp"), ("SMTP_URL", &url), ("MAIL_FROM", "no-reply@example.com")])
}

/// As a client does who is told to come back.
async fn register(app: &TestApp) {
    let body = json!({"name": "Ada", "email": format!("{}@example.com", Uuid::new_v4().simple()), "password": PASSWORD});
    loop {
        let answer = app.client.post("/api/v1/users/", body.clone()).await;
        match answer.status {
            // Taken: by the attempt before, whose answer said "busy".
            201 | 400 => return,
            status => assert_eq!(status, 503, "{}", answer.text),
        }
        let after = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
        tokio::time::sleep(Duration::from_secs(after)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_5000_registrations_each_gets_its_mail_whatever_happens_to_relay_and_mail_server() {
    const KILLS: usize = 3;
    const REGISTRATIONS: usize = 5_000;
    only_on_a_set_of_its_own();
    let server = MailServer::start(Mood::Accept).await;
    let address = server.address;
    let app = TestApp::start_with(Role::Api, |config| {
        // The API only writes the rows; whether the server is there it does not know.
        config.mail.transport = MailTransport::Smtp(Smtp { url: format!("smtp://{address}").into(), from: "no-reply@example.com".into() });
    })
    .await;
    let mut worker = mail_worker(&app, &server);
    let registering = async {
        for _ in 0..REGISTRATIONS / 50 {
            futures_util::future::join_all((0..50).map(|_| register(&app))).await;
        }
    };
    let disturbing = async {
        for kill in 1..=KILLS {
            let sent = REGISTRATIONS / 5 * kill;
            within(Duration::from_secs(180), "mails flow", async || server.mails().len() >= sent).await;
            worker.kill().await;
            worker = mail_worker(&app, &server);
            // And in between the server is unwell.
            let before = server.refused();
            server.set(Mood::Away);
            within(Duration::from_secs(60), "the server turns the relay away", async || server.refused() > before).await;
            server.set(Mood::Accept);
        }
    };
    tokio::join!(registering, disturbing);
    let waiting = "SELECT count(*) AS n FROM outbox WHERE lane = 'smtp' AND done_at IS NULL";
    within(Duration::from_secs(180), "every mail is sent", async || app.count(waiting).await == 0).await;
    let mails = server.mails();
    let ids: HashSet<_> = mails.iter().map(|mail| mail.header("Message-ID").unwrap().to_owned()).collect();
    let recipients: HashSet<_> = mails.iter().map(|mail| mail.recipients.clone()).collect();
    println!("mails: {REGISTRATIONS} registered, {} got one, {} twice, {KILLS} kills", recipients.len(), mails.len() - ids.len());
    assert_eq!((recipients.len(), ids.len()), (REGISTRATIONS, REGISTRATIONS));
    assert!(mails.len() - ids.len() <= KILLS * 8, "more than a relay's batch a kill came twice");
    assert_eq!(app.count("SELECT count(*) AS n FROM outbox WHERE failed_at IS NOT NULL OR attempts > 1").await, 0);
    worker.kill().await;
    app.stop().await.unwrap();
}
