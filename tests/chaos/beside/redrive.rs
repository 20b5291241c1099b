//! A thousand dead letters are given back to a worker that is killed meanwhile.

use std::time::Duration;

use tokio::process::Command;

use crate::api_with_queues;
use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::TestApp;
use crate::support::wait::within;
use crate::worker::Worker;

/// Ten seconds are enough where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(60);

async fn redrive(app: &TestApp) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
    let run =
        command.env_clear().envs(app.variables()).args(["dead-letters", "redrive", "--reason", "unknown_user"]).output().await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_dead_letters_redriven_twice_through_kills_are_delivered_and_decided_anew() {
    const LETTERS: i64 = 1_000;
    let app = api_with_queues().await;
    // Nobody is there yet.
    let cast = Cast::absent();
    let (mut ledger, mut producer) = (Ledger::named("redrive"), Producer::new(app.config.broker.clone()));
    let mut worker = Worker::start(&app, &[]);
    let ended = async |outcome: &str| app.count(&format!("SELECT count(*) AS n FROM push_inbox WHERE outcome = '{outcome}'")).await;
    for number in 0..LETTERS {
        let kind = if number % 10 == 0 { Kind::OptedOut } else { Kind::Good };
        producer.publish(&mut ledger, &cast, &format!("r-{number}"), kind).await;
    }
    within(PATIENCE, "all are dead", async || ended("dead").await == LETTERS).await;
    cast.arrive(&app).await;
    redrive(&app).await;
    for share in [1, 2] {
        within(PATIENCE, "some are delivered", async || ended("delivered").await > share * LETTERS / 5).await;
        worker.kill().await;
        redrive(&app).await;
        worker = Worker::start(&app, &[]);
    }
    within(PATIENCE, "all are decided", async || ended("delivered").await + ended("skipped").await == LETTERS).await;
    // What was dead left a copy of its death, whatever it is now.
    observe(&app, &mut ledger, Duration::from_secs(30)).await;
    ledger.dead_copies.clear();
    check(&ledger, &cast, 0).assert_clean("1,000 dead letters redriven", 2);
    worker.stop().await;
    app.stop().await.unwrap();
}
