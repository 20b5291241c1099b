//! The one consumer loop: takes what is waiting as a batch, has it settled, acknowledges.
//!
//! A message is acknowledged only after its outcome is committed. What cannot be settled now is held, unacknowledged,
//! and nothing more is pulled meanwhile: a requeue would count towards the queue's delivery limit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::disposition::Disposition;
use super::message::{Incoming, is_suspect};
use super::topology;
use crate::config;
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::broker::{self, step};
use crate::infra::fail_point;
use crate::infra::status::Status;

/// The most that one transaction settles.
const MAX_BATCH: usize = 256;

/// And the most bytes, so that a few hundred oversized messages do not meet in one transaction.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
const CHANNEL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Settles messages, a batch at a time.
pub trait Consumer: Send + Sync {
    /// One disposition for each message, in order. One bad message never fails its batch.
    fn settle(&self, batch: Arc<[Incoming]>) -> impl Future<Output = Vec<Disposition>> + Send;

    /// Waits while something that it needs is left alone; `false`: nothing was.
    fn ready(&self) -> impl Future<Output = bool> + Send;
}

/// Consumes the request queue until `stop`; an error means: start again from the connection on.
pub async fn consume(config: &config::Broker, consumer: &impl Consumer, status: &Status, stop: &CancellationToken) -> Result<()> {
    let connection = broker::connect(config, "consumer").await?;
    let connected = Connected(status);
    let subscription = tokio::select! {
        subscription = Subscription::open(&connection, config, status) => subscription?,
        () = stop.cancelled() => {
            broker::close(None, &connection).await;
            return Ok(());
        }
    };
    status.set_broker_connected(true);
    tracing::info!(queue = config.push_queue, prefetch = config.prefetch, "consuming");
    let result = subscription.run(config, consumer, status, stop).await;
    drop(connected);
    broker::close(None, &connection).await;
    result
}

/// Takes the "connected" back, however the consumer ends.
struct Connected<'a>(&'a Status);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.set_broker_connected(false);
        self.0.set_held(0);
    }
}

struct Subscription {
    channel: Channel,
    /// For counting: a passive declaration of a queue that vanished closes its channel.
    counting: Channel,
    deliveries: lapin::Consumer,
}

impl Subscription {
    async fn open(connection: &Connection, config: &config::Broker, status: &Status) -> Result<Self> {
        topology::ensure(connection, config, status).await?;
        let channel = step(connection.create_channel()).await?;
        step(channel.basic_qos(config.prefetch, BasicQosOptions::default())).await?;
        let counting = step(connection.create_channel()).await?;
        // A tag of its own for each subscription, so that an old one's cancellation cannot be taken for ours.
        let tag = format!("user-service-{}", Uuid::new_v4());
        let consuming =
            channel.basic_consume(config.push_queue.as_str().into(), tag.into(), BasicConsumeOptions::default(), FieldTable::default());
        let deliveries = step(consuming).await?;
        Ok(Self { channel, counting, deliveries })
    }

    async fn run(mut self, config: &config::Broker, consumer: &impl Consumer, status: &Status, stop: &CancellationToken) -> Result<()> {
        let mut count = tokio::time::interval(COUNT_INTERVAL);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.drain().await,
                // Before the deliveries, which are always ready under load.
                _ = count.tick() => {
                    for queue in [&config.push_queue, &config.deliver_queue] {
                        status.set_queue(queue, topology::count(&self.counting, queue).await?);
                    }
                }
                delivery = async {
                    consumer.ready().await;
                    self.deliveries.next().await
                } => {
                    let Some(first) = delivery else { return Err(Error::unavailable("the broker cancelled the subscription")) };
                    let batch = self.take_waiting(first.map_err(Error::unavailable)?)?;
                    fail_point::reach("delivered").await?;
                    for part in apart(batch) {
                        self.settle(part, consumer, status, stop).await?;
                    }
                    status.set_held(0);
                }
            }
        }
    }

    /// The message that came and whatever else is here already; nobody waits for a batch to fill.
    fn take_waiting(&mut self, first: Delivery) -> Result<Vec<Delivery>> {
        let (mut bytes, mut batch) = (first.data.len(), vec![first]);
        while batch.len() < MAX_BATCH
            && bytes < MAX_BATCH_BYTES
            && let Some(Some(delivery)) = self.deliveries.next().now_or_never()
        {
            let delivery = delivery.map_err(Error::unavailable)?;
            bytes += delivery.data.len();
            batch.push(delivery);
        }
        Ok(batch)
    }

    /// Until every message of the batch is settled, or the connection is gone, or the process stops.
    async fn settle(
        &self,
        mut deliveries: Vec<Delivery>,
        consumer: &impl Consumer,
        status: &Status,
        stop: &CancellationToken,
    ) -> Result<()> {
        metrics::histogram!("consumer_batch_size").record(deliveries.len() as f64);
        let mut messages: Vec<Incoming> = deliveries.iter_mut().map(Incoming::from).collect();
        let mut delays = Delays::default();
        loop {
            let batch: Arc<[Incoming]> = messages.into();
            let dispositions = settle_guarded(consumer, &batch).await;
            let all_done = dispositions.iter().all(|disposition| *disposition == Disposition::Done);
            if all_done && let Some(last) = deliveries.last() {
                step(self.channel.basic_ack(last.delivery_tag, BasicAckOptions { multiple: true })).await?;
                return fail_point::reach("acked-unflushed").await;
            }
            let (mut held, mut kept, mut reason) = (Vec::new(), Vec::new(), String::new());
            for ((delivery, message), disposition) in deliveries.into_iter().zip(batch.iter()).zip(dispositions) {
                match disposition {
                    Disposition::Done => step(self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default())).await?,
                    Disposition::Hold(why) => {
                        held.push(delivery);
                        kept.push(message.clone());
                        reason = why;
                    }
                }
            }
            (deliveries, messages) = (held, kept);
            tracing::warn!(held = deliveries.len(), reason, "holding messages");
            status.set_held(deliveries.len());
            let pause = async {
                // An open breaker paces better than a guess.
                if !consumer.ready().await {
                    tokio::time::sleep(delays.next_delay()).await;
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.closed() => return Err(Error::unavailable("the channel closed while messages were held")),
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Returns once the channel is gone.
    async fn closed(&self) {
        while self.channel.status().connected() {
            tokio::time::sleep(CHANNEL_CHECK_INTERVAL).await;
        }
    }

    /// Takes no more, and gives back what was prefetched; what was in hand is settled by now.
    async fn drain(&self) -> Result<()> {
        fail_point::reach("draining").await?;
        step(self.channel.basic_cancel(self.deliveries.tag(), BasicCancelOptions::default())).await?;
        // Tag 0 with `multiple` is everything unacknowledged on this channel (AMQP 0-9-1, basic.nack).
        step(self.channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true })).await?;
        step(self.channel.close(200, "drained".into())).await
    }
}

/// Each suspect for itself, acknowledged before the next one runs, and then all others together.
fn apart(batch: Vec<Delivery>) -> Vec<Vec<Delivery>> {
    let (suspects, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_suspect);
    let mut parts: Vec<_> = suspects.into_iter().map(|delivery| vec![delivery]).collect();
    if !others.is_empty() {
        parts.push(others);
    }
    parts
}

/// A panic costs the batch an attempt, not the process its consumer.
async fn settle_guarded(consumer: &impl Consumer, batch: &Arc<[Incoming]>) -> Vec<Disposition> {
    match AssertUnwindSafe(consumer.settle(Arc::clone(batch))).catch_unwind().await {
        Ok(dispositions) => dispositions,
        Err(_panic) => {
            tracing::error!("settling a batch panicked");
            batch.iter().map(|_| Disposition::Hold("settling panicked".to_owned())).collect()
        }
    }
}
