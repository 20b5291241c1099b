//! Messages that take the process with them.

use std::time::Duration;

use crate::api_with_queues;
use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::worker::Worker;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_the_process_dies_alone_and_drags_no_neighbour_along() {
    const POISON: [usize; 5] = [3, 4, 300, 650, 999];
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let (mut ledger, mut producer) = (Ledger::named("poison"), Producer::new(app.config.broker.clone()));
    // The first one declares the queues.
    let arm = [("FAILPOINTS", "reading=return(abort-on:poison)"), ("WORKER_PREFETCH", "32")];
    let mut worker = Worker::start(&app, &arm);
    for number in 0..1_005 {
        let id = if POISON.contains(&number) { format!("poison-{number}") } else { format!("good-{number}") };
        producer.publish(&mut ledger, &cast, &id, Kind::Good).await;
    }
    let dead =
        "SELECT count(*) AS n FROM push_inbox WHERE outcome = 'dead' AND reason = 'retries_exhausted' AND message_id LIKE 'poison-%'";
    let settled = "SELECT count(*) AS n FROM push_inbox WHERE outcome <> 'retry'";
    let (mut crashes, poison) = (0, POISON.len() as i64);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(240);
    while app.count(settled).await < 1_005 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{crashes} crashes, {} dead, {} settled",
            app.count(dead).await,
            app.count(settled).await
        );
        tokio::select! {
            _ = worker.ended() => {
                crashes += 1;
                worker = Worker::start(&app, &arm);
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    // To write down its end a message is not read again.
    assert_eq!(app.count(dead).await, poison, "not each poison is dead");
    // The last copy may still be in the outbox: the worker ends once it is on its queue.
    observe(&app, &mut ledger, Duration::from_secs(30)).await;
    worker.stop().await;
    println!("poison: {crashes} crashes for {poison} messages");
    let findings = check(&ledger, &cast, 0);
    println!("poison: {findings}");
    assert_eq!(findings.contradicted.len(), POISON.len(), "{:#?}", findings.contradicted);
    assert!(findings.contradicted.iter().all(|id| id.starts_with("poison-")));
    assert!(
        findings.lost.is_empty() && findings.corrupt.is_empty() && findings.invented.is_empty() && findings.spent.is_empty(),
        "{findings:#?}"
    );
    assert!(crashes <= 6 * POISON.len(), "{crashes} crashes");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_we_panic_on_is_put_aside_and_blocks_nobody() {
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let (mut ledger, mut producer) = (Ledger::named("panic"), Producer::new(app.config.broker.clone()));
    let worker = Worker::start(&app, &[("FAILPOINTS", "reading=return(panic-on:poison)")]);
    for number in 0..200 {
        let id = if number % 50 == 7 { format!("poison-{number}") } else { format!("good-{number}") };
        producer.publish(&mut ledger, &cast, &id, Kind::Good).await;
    }
    observe(&app, &mut ledger, Duration::from_secs(30)).await;
    worker.stop().await;
    let findings = check(&ledger, &cast, 0);
    println!("panic: {findings}");
    assert!(findings.lost.is_empty() && findings.corrupt.is_empty() && findings.spent.is_empty(), "{findings:#?}");
    assert_eq!(findings.contradicted.len(), 4, "{findings:#?}");
    let dead = "SELECT count(*) AS n FROM push_inbox WHERE outcome = 'dead' AND reason = 'retries_exhausted' AND body IS NOT NULL";
    assert_eq!(app.count(dead).await, 4);
    app.stop().await.unwrap();
}
