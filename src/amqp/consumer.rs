//! The one consumer loop: takes what is waiting as a batch, has it settled, acknowledges.
//!
//! A message is acknowledged only after its outcome is committed. What cannot be settled now is held, unacknowledged,
//! and nothing more is pulled meanwhile: a requeue would count towards the queue's delivery limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::message::Delivery;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::disposition::Disposition;
use super::message::{Incoming, is_suspect};
use super::settler::Settler;
use super::topology;
use crate::config;
use crate::error::{Error, Result};
use crate::infra::broker::{self, step};
use crate::infra::fail_point;
use crate::infra::status::Status;

/// The most that one transaction settles.
const MAX_BATCH: usize = 256;

/// And the most bytes, so that a few hundred oversized messages do not meet in one transaction.
const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// Counts in a row without a message, after which a subscription is taken anew.
const RENEW_AFTER: u32 = 6;

/// The same where the queue has messages, or does not know us.
const RENEW_EARLY_AFTER: u32 = 2;

/// Batches that are settled at a time.
const MAX_IN_FLIGHT: usize = 2;

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
    let result = consume_over(&connection, config, consumer, status, stop).await;
    drop(connected);
    broker::close(None, &connection).await;
    result
}

async fn consume_over(
    connection: &Connection,
    config: &config::Broker,
    consumer: &impl Consumer,
    status: &Status,
    stop: &CancellationToken,
) -> Result<()> {
    let opening = async {
        topology::ensure(connection, config, status).await?;
        Subscription::open(connection, config).await
    };
    let mut subscription = tokio::select! {
        subscription = opening => subscription?,
        () = stop.cancelled() => return Ok(()),
    };
    status.set_broker_connected(true);
    tracing::info!(queue = config.push_queue, prefetch = config.prefetch, "consuming");
    while matches!(subscription.run(config, consumer, status, stop).await?, Ended::Quiet) {
        // A queue that is gone refuses it, and everything begins again.
        subscription = Subscription::open(connection, config).await?;
    }
    Ok(())
}

/// Takes the "connected" back, however the consumer ends.
struct Connected<'a>(&'a Status);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.set_broker_connected(false);
        self.0.set_held(0);
    }
}

/// Why a subscription ended in order.
enum Ended {
    Stopped,
    /// A queue that is deleted and at once made anew may take the subscription with it, and say nothing
    /// (docs/decisions/quorum-queues.md): what hears nothing is not trusted for long.
    Quiet,
}

struct Subscription {
    channel: Channel,
    /// For counting: a passive declaration of a queue that vanished closes its channel.
    counting: Channel,
    deliveries: lapin::Consumer,
}

impl Subscription {
    async fn open(connection: &Connection, config: &config::Broker) -> Result<Self> {
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

    async fn run(self, config: &config::Broker, consumer: &impl Consumer, status: &Status, stop: &CancellationToken) -> Result<Ended> {
        let Self { channel, counting, mut deliveries } = self;
        let settler = Settler::new(&channel, consumer, status, stop);
        // While one awaits its confirms another is looked up.
        let max_batch = usize::from(config.prefetch).div_ceil(MAX_IN_FLIGHT).min(MAX_BATCH);
        let mut in_flight = FuturesOrdered::new();
        let mut count = tokio::time::interval(COUNT_INTERVAL);
        count.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut quiet, mut odd, mut received, listening) = (0, 0, false, AtomicBool::new(false));
        let ended = loop {
            let takes_more = in_flight.len() < MAX_IN_FLIGHT && !settler.is_holding();
            tokio::select! {
                biased;
                () = stop.cancelled() => break Ended::Stopped,
                // Before the deliveries, which are always ready under load.
                _ = count.tick() => {
                    let counts = topology::count(&counting, &config.push_queue).await?;
                    status.set_queue(&config.push_queue, counts);
                    status.set_queue(&config.deliver_queue, topology::count(&counting, &config.deliver_queue).await?);
                    let heard_nothing = in_flight.is_empty() && listening.load(Ordering::Relaxed) && !received;
                    let is_odd = heard_nothing && (counts.messages > 0 || counts.consumers == 0);
                    (quiet, odd, received) = (if heard_nothing { quiet + 1 } else { 0 }, if is_odd { odd + 1 } else { 0 }, false);
                    if odd == RENEW_EARLY_AFTER {
                        tracing::warn!(?counts, "the queue gives nothing: the subscription is taken anew");
                        break Ended::Quiet;
                    }
                    if quiet == RENEW_AFTER {
                        break Ended::Quiet;
                    }
                }
                Some(settled) = in_flight.next() => settler.acknowledge(settled?).await?,
                delivery = async {
                    listening.store(false, Ordering::Relaxed);
                    consumer.ready().await;
                    listening.store(true, Ordering::Relaxed);
                    deliveries.next().await
                }, if takes_more => {
                    received = true;
                    let Some(first) = delivery else { return Err(Error::unavailable("the broker cancelled the subscription")) };
                    let batch = take_waiting(&mut deliveries, first.map_err(Error::unavailable)?, max_batch)?;
                    fail_point::reach("delivered").await?;
                    let (suspects, others): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_suspect);
                    if !suspects.is_empty() {
                        settler.acknowledge_all(&mut in_flight).await?;
                        settler.settle_apart(suspects).await?;
                    }
                    if !others.is_empty() {
                        in_flight.push_back(settler.settle(others));
                    }
                }
            }
        };
        settler.acknowledge_all(&mut in_flight).await?;
        drain(&channel, &deliveries).await?;
        step(counting.close(200, "done".into())).await?;
        Ok(ended)
    }
}

/// The message that came and whatever else is here already; nobody waits for a batch to fill.
fn take_waiting(deliveries: &mut lapin::Consumer, first: Delivery, max_batch: usize) -> Result<Vec<Delivery>> {
    let (mut bytes, mut batch) = (first.data.len(), vec![first]);
    while batch.len() < max_batch
        && bytes < MAX_BATCH_BYTES
        && let Some(Some(delivery)) = deliveries.next().now_or_never()
    {
        let delivery = delivery.map_err(Error::unavailable)?;
        bytes += delivery.data.len();
        batch.push(delivery);
    }
    Ok(batch)
}

/// Takes no more, and gives back what was prefetched; what was in hand is settled by now.
async fn drain(channel: &Channel, deliveries: &lapin::Consumer) -> Result<()> {
    fail_point::reach("draining").await?;
    step(channel.basic_cancel(deliveries.tag(), BasicCancelOptions::default())).await?;
    // Tag 0 with `multiple` is everything unacknowledged on this channel (AMQP 0-9-1, basic.nack).
    step(channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true })).await?;
    step(channel.close(200, "drained".into())).await
}
