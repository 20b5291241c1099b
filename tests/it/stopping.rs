//! What a consumer holds when it stops.

use std::sync::{Arc, Mutex};

use lapin::BasicProperties;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use tokio_util::sync::CancellationToken;
use user_service::amqp::consumer::{Consumer, consume};
use user_service::amqp::disposition::Disposition;
use user_service::amqp::message::Incoming;
use user_service::infra::status::Status;

use crate::support::{TestApp, TestBroker, eventually};

/// Holds what is called "held" as long as it lives, and settles the rest.
struct Holding<'a> {
    broker: &'a TestBroker,
    stop: CancellationToken,
    /// What was settled, and whether that was after the stop.
    settled: Arc<Mutex<Vec<(String, bool)>>>,
}

impl Consumer for Holding<'_> {
    async fn settle(&self, batch: Arc<[Incoming]>) -> Vec<Disposition> {
        let dispositions = batch.iter().map(|message| {
            let body = String::from_utf8_lossy(&message.body).into_owned();
            if body.starts_with("held") {
                self.stop.cancel();
                return Disposition::Hold("it is asked for".to_owned());
            }
            self.settled.lock().unwrap().push((body, self.stop.is_cancelled()));
            Disposition::Done
        });
        dispositions.collect()
    }

    /// Nothing is taken before everything is here, so that it comes as one batch.
    async fn ready(&self) -> bool {
        while self.broker.waiting(&self.broker.names.push_queue).await > 0 {}
        false
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_at_the_stop_comes_again_whatever_is_settled_behind_it() {
    let app = TestApp::start().await.halt().await;
    let broker = app.broker().await;
    let queue = broker.names.push_queue.clone();
    let take = async || broker.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await.unwrap();
    let mut together = 0;
    for round in 0..20 {
        let (held, fine) = (format!("held {round}"), format!("fine {round}"));
        broker.publish(held.as_bytes(), BasicProperties::default()).await;
        // Twice given back: a suspect, which is settled before what came with it.
        for _ in 0..2 {
            let delivery = take().await.expect("it is not there").delivery;
            delivery.acker.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await.unwrap();
            eventually("it is back", async || broker.waiting(&queue).await == 1).await;
        }
        broker.publish(fine.as_bytes(), BasicProperties::default()).await;
        let (stop, settled) = (CancellationToken::new(), Arc::<Mutex<Vec<_>>>::default());
        let consumer = Holding { broker: &broker, stop: stop.clone(), settled: Arc::clone(&settled) };
        consume(&broker.names, &consumer, &Status::default(), &stop).await.unwrap();
        together += usize::from(settled.lock().unwrap().contains(&(fine, true)));
        // The broker has it back when the connection is closed, which takes it a moment.
        eventually("what was held is back", async || broker.waiting(&queue).await > 0).await;
        let back = take().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&back.delivery.data), held);
        back.delivery.acker.ack(lapin::options::BasicAckOptions::default()).await.unwrap();
        while let Some(copy) = take().await {
            copy.delivery.acker.ack(lapin::options::BasicAckOptions::default()).await.unwrap();
        }
    }
    assert!(together > 0, "nothing was settled behind what was held");
    app.stop().await.unwrap();
}
