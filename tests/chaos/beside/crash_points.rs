//! The crash matrix: at each point between delivery and acknowledgement the process crashes, panics, fails or hangs.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use user_service::infra::fail_point::POINTS;

use crate::api_with_queues;
use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::TestApp;
use crate::worker::Worker;

const MESSAGES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What an abort's exit status tells.
const SIGABRT: i32 = 6;

/// One request a cell meets a bug of ours twice, so that it is tried again.
const BUG: &str = "CREATE SEQUENCE bugs;
    CREATE FUNCTION bug() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      IF NEW.message_id LIKE '%-7' AND NEW.outcome = 'delivered' AND nextval('bugs') % 3 <> 0 THEN RAISE 'a bug'; END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER bug BEFORE INSERT OR UPDATE ON push_inbox FOR EACH ROW EXECUTE FUNCTION bug();";

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_point_loses_nothing() {
    lane("abort").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_at_any_point_loses_nothing() {
    lane("panic").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_point_loses_nothing() {
    lane("error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_at_any_point_loses_nothing() {
    lane("hang").await;
}

async fn lane(action: &str) {
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    app.sql(BUG).await;
    let mut ledger = Ledger::named(&format!("crash-points-{action}"));
    for point in POINTS {
        cell(&app, &cast, &mut ledger, point, action).await;
        // The bug costs a batch its transaction after it was published; the rest is what a crash lets come twice.
        check(&ledger, &cast, 3).assert_clean(&format!("{action} at {point}"), usize::MAX);
    }
    app.stop().await.unwrap();
}

async fn cell(app: &TestApp, cast: &Cast, ledger: &mut Ledger, point: &str, action: &str) {
    let mut worker = Worker::start(app, &[("FAILPOINTS", &format!("{point}=1*return({action})"))]);
    let mut producer = Producer::new(app.config.broker.clone());
    for number in 0..MESSAGES {
        if point == "draining" && number == MESSAGES / 2 {
            // Only a worker that consumes has something to drain.
            observe(app, ledger, PATIENCE).await;
            worker.terminate().await;
        }
        producer.publish(ledger, cast, &format!("{point}-{number}"), Kind::nth(number)).await;
    }
    match (point, action) {
        (_, "abort") => assert_eq!(worker.ended().await.signal(), Some(SIGABRT), "{point}: it did not crash there"),
        ("draining", _) => assert_eq!(worker.ended().await.code(), Some(0), "{point}: it did not end in order"),
        _ => {
            observe(app, ledger, PATIENCE).await;
            return worker.stop().await;
        }
    }
    let worker = Worker::start(app, &[]);
    observe(app, ledger, PATIENCE).await;
    worker.stop().await;
}
