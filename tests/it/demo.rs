use tokio::process::Command;

use crate::support::{Services, TestApp};

/// What a newcomer sees after `make run`.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_shows_a_delivery_a_skip_and_a_dead_letter() {
    let app = TestApp::start().await;
    let broker = app.config.broker.clone();
    let demo = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/demo");
    let output = Command::new(demo)
        .env("BASE_URL", &app.client.base)
        .env("RABBITMQ_URL", Services::from_env().rabbitmq_url)
        .env("RABBITMQ_EXCHANGE", &broker.exchange)
        .env("RABBITMQ_DELIVER_QUEUE", &broker.deliver_queue)
        .env("RABBITMQ_FAILED_QUEUE", &broker.failed_queue)
        .env("RABBITMQ_EVENTS_EXCHANGE", &broker.events_exchange)
        .output()
        .await
        .expect("examples/demo is not built: run the tests by `make test` or `cargo test`");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for shown in ["delivered", "push_disabled", "malformed_json"] {
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
    }
    app.stop().await.unwrap();
}
