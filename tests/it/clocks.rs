//! Processes whose clocks are hours apart: what one leaves waits for no other's time, and nothing is done twice.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use user_service::config::Role;

use crate::support::{PASSWORD, TestApp, eventually};

/// Each clock's error, to either side.
const ERROR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn what_an_hour_ahead_leaves_is_done_an_hour_behind_at_once() {
    let behind = TestApp::start().await;
    behind.clock.turn_back(ERROR);
    let ahead = behind.beside(Role::Api).await;
    ahead.clock.advance(ERROR);
    let (user, broker) = (ahead.client.register("Ada").await, behind.broker().await);
    assert_eq!(broker.mail("email_verification").await.json()["variables"]["email"], json!(user.email));

    // What is put off is put off by the server's clock too: nothing is tried again at once because this one is slow.
    let (email_queue, exchange) = (behind.config.broker.email_queue.clone(), behind.config.broker.exchange.clone());
    let key = behind.config.broker.email_key.clone();
    let unbinding = broker.channel.queue_unbind(email_queue.into(), exchange.into(), key.into(), lapin::types::FieldTable::default());
    unbinding.await.unwrap();
    behind.client.register("Bob").await;
    let put_off =
        "SELECT count(*) AS n FROM outbox WHERE attempts > 0 AND done_at IS NULL AND next_attempt_at > now() - interval '1 minute'";
    eventually("the mail is put off", async || behind.count(put_off).await == 1).await;

    // A token is good in its hour only, and that is judged by each; its session is known to both.
    let sign_in =
        async |at: &TestApp| at.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await.data();
    let me = |at: &TestApp, tokens: &serde_json::Value| at.client.bearer(tokens["access_token"].as_str().unwrap());
    let patch = async |at: &TestApp, tokens: &serde_json::Value| {
        let keyed = me(at, tokens).with("idempotency-key", "hours-apart");
        keyed.patch("/api/v1/users/profile/", json!({"name": "Grace"})).await
    };
    for (here, there) in [(&behind, &ahead), (&ahead, &behind)] {
        let tokens = sign_in(here).await;
        assert_eq!(me(there, &tokens).get("/api/v1/users/profile/").await.status, 401);
        let refreshed = there.client.post("/api/v1/auth/refresh/", json!({"refresh_token": tokens["refresh_token"]})).await;
        assert_eq!(refreshed.status, 200, "{}", refreshed.text);
        // What was answered under a key here is answered there.
        assert_eq!(patch(here, &tokens).await.status, 200);
        let replayed = patch(there, &refreshed.data()).await;
        assert_eq!((replayed.status, replayed.header("idempotency-replayed")), (200, Some("true")));
    }

    // Two workers, two hours apart, at one queue.
    let worker = behind.beside(Role::Worker).await;
    worker.clock.advance(ERROR);
    let asked: BTreeSet<String> = (0..60).map(|number| format!("apart-{number}")).collect();
    for id in &asked {
        broker.request_push(&user.id, id).await;
        broker.request_push(&user.id, id).await;
    }
    let delivered = broker.receive(&behind.config.broker.deliver_queue, asked.len()).await;
    assert_eq!(delivered.iter().filter_map(super::support::broker::Received::message_id).collect::<BTreeSet<_>>(), asked);
    for other in [worker, ahead] {
        other.halt().await;
    }
    assert_eq!(broker.waiting(&behind.config.broker.push_queue).await, 0);
    assert_eq!(broker.waiting(&behind.config.broker.deliver_queue).await, 0, "one was delivered twice");
    behind.stop().await.unwrap();
}
