//! A broker that grants less than is needed.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::support::TestApp;
use crate::{only_on_a_set_of_its_own, services};

/// What the doctor finds about queues and rights as this user: `(what was found, whether it is well)`.
async fn found(app: &TestApp, user: &str) -> Vec<(String, bool)> {
    let mut variables = app.variables();
    let mut url = url::Url::parse(&variables.iter().find(|(name, _)| *name == "RABBITMQ_URL").unwrap().1).unwrap();
    url.set_username(user).unwrap();
    url.set_password(Some(user)).unwrap();
    variables.push(("RABBITMQ_URL", url.into()));
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_user-service"));
    doctor.env_clear().args(["doctor", "--json"]).envs(variables).stdout(Stdio::piped()).stderr(Stdio::null());
    let told: Vec<Value> = serde_json::from_slice(&doctor.output().await.unwrap().stdout).unwrap();
    let about = told.iter().filter(|finding| ["queue", "rights"].contains(&finding["check"].as_str().unwrap()));
    about.map(|finding| (finding["found"].as_str().unwrap().to_owned(), finding["state"] != "failure")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_names_each_right_that_is_missing_and_moves_no_message() {
    only_on_a_set_of_its_own();
    let app = TestApp::start().await;
    let names = app.config.broker.clone();
    let app = app.halt().await;
    let broker = app.broker().await;
    broker.request_push("0190a6c8-7f2e-7c11-9b1a-00000000dead", "waiting").await;
    let user = format!("doctor-{}", uuid::Uuid::new_v4().simple());
    services(&["rabbitmqctl", "add_user", &user, &user]).await;
    services(&["rabbitmqctl", "set_permissions", &user, ".*", ".*", ".*"]).await;
    let all = found(&app, &user).await;
    assert!(all.len() == 8 && all.iter().all(|(_, is_well)| *is_well), "{all:#?}");
    services(&["rabbitmqctl", "set_permissions", &user, "^$", "^$", "^$"]).await;
    let wrong: Vec<String> = found(&app, &user).await.into_iter().filter(|(_, is_well)| !is_well).map(|(found, _)| found).collect();
    let expected = [
        format!("{}: this user may not publish to it", names.exchange),
        format!("{}: this user may not publish to it", names.dlx_exchange),
        format!("{}: this user may not publish to it", names.events_exchange),
        format!("{}: this user may not consume it", names.push_queue),
    ];
    assert_eq!(wrong, expected);
    broker.channel.queue_delete(names.deliver_queue.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    let missing = found(&app, &user).await;
    assert!(missing.contains(&(format!("{}: this user may not make it", names.deliver_queue), false)), "{missing:#?}");
    let message = broker.receive(&names.push_queue, 1).await.remove(0);
    assert_eq!(message.properties.headers().as_ref().and_then(|headers| headers.inner().get("x-delivery-count")), None, "it was taken");
    services(&["rabbitmqctl", "delete_user", &user]).await;
    app.stop().await.unwrap();
}
