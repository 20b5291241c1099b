use serde_json::json;
use user_service::infra::outbox;

use crate::support::{TestApp, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_left_out_stays_as_it_is() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    assert_eq!(me.get("/api/v1/users/preferences/").await.data(), json!({"email": true, "push": true}));
    assert_eq!(me.patch("/api/v1/users/preferences/", json!({"push": false})).await.data(), json!({"email": true, "push": false}));
    assert_eq!(me.patch("/api/v1/users/preferences", json!({"email": false})).await.data(), json!({"email": false, "push": false}));
    assert_eq!(me.get("/api/v1/users/preferences").await.data(), json!({"email": false, "push": false}));
    for wrong in [json!({"push": "true"}), json!({"push": 1}), json!({"sms": true})] {
        assert_eq!(me.patch("/api/v1/users/preferences", wrong).await.refusal(), (400, "validation_failed".to_owned()));
    }
    assert_eq!(me.get("/api/v1/users/preferences").await.data(), json!({"email": false, "push": false}));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_so_already_is_no_change_and_nobody_hears_of_it() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let told = async || app.count("SELECT count(*) AS n FROM outbox WHERE routing_key = 'preferences.changed'").await;
    for (change, events) in
        [(json!({}), 0), (json!({"push": true}), 0), (json!({"push": false}), 1), (json!({"push": false, "email": null}), 1)]
    {
        assert_eq!(me.patch("/api/v1/users/preferences", change.clone()).await.status, 200, "{change}");
        assert_eq!(told().await, events, "{change}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_never_sees_preferences_older_than_an_answered_change() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    let mut reading = tokio::task::JoinSet::new();
    reading.spawn({
        let me = me.clone();
        // Fills the cache all the time, also with what it read just before a change.
        async move {
            loop {
                me.get("/api/v1/users/preferences").await;
            }
        }
    });
    for round in 0..100 {
        let wanted = round % 2 == 0;
        assert_eq!(me.patch("/api/v1/users/preferences", json!({"push": wanted})).await.status, 200);
        assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(wanted), "round {round}");
    }
    reading.shutdown().await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relay_forgets_what_the_writer_could_not() {
    let app = TestApp::start().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(true));
    // As a writer leaves it that died between its commit and the forgetting.
    let entry = format!("user:{}", user.id);
    app.sql(&format!("UPDATE users SET version = version + 1 WHERE id = '{0}'; UPDATE preferences SET enabled = false WHERE user_id = '{0}' AND channel = 'push'", user.id)).await;
    assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(true), "the cache was not in play");
    app.sql(&format!(
        "INSERT INTO outbox (id, lane, payload, created_at, next_attempt_at) VALUES (gen_random_uuid(), '{}', convert_to('1|{entry}', 'UTF8'), now(), now())",
        outbox::Lane::Cache.as_str()
    ))
    .await;
    eventually("the change is seen", async || me.get("/api/v1/users/preferences").await.data()["push"] == json!(false)).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_cached_again_by_its_first_reader() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    assert_eq!(me.patch("/api/v1/users/preferences", json!({"push": false})).await.status, 200);
    assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(false));
    // Behind the cache's back: who still sees the old value read it from the cache.
    app.sql(&format!("UPDATE preferences SET enabled = true WHERE user_id = '{}'", user.id)).await;
    assert_eq!(me.get("/api/v1/users/preferences").await.data()["push"], json!(false), "the change was not cached");
    app.stop().await.unwrap();
}
