//! Sees a batch through to its acknowledgement, and holds what cannot be settled now.
//!
//! Batches are settled side by side and acknowledged in the order in which they came. What is held stays unacknowledged: a
//! requeue would count towards the queue's delivery limit.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::FuturesOrdered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::BasicAckOptions;
use lapin::types::DeliveryTag;
use tokio_util::sync::CancellationToken;

use super::consumer::Consumer;
use super::disposition::Disposition;
use super::message::Incoming;
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::broker::step;
use crate::infra::fail_point;
use crate::infra::status::Status;

/// Until another transaction is through with a copy.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const CHANNEL_CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The last message of a batch of which all are settled; `None`: the process stops while some are held.
pub(super) type Settled = Option<DeliveryTag>;

pub(super) struct Settler<'a, C> {
    channel: &'a Channel,
    consumer: &'a C,
    status: &'a Status,
    stop: &'a CancellationToken,
    /// Messages that wait for something that is down.
    held: AtomicUsize,
    /// The process stops and gave up on some: nothing behind them is acknowledged any more.
    gave_up: AtomicBool,
}

impl<'a, C: Consumer> Settler<'a, C> {
    pub fn new(channel: &'a Channel, consumer: &'a C, status: &'a Status, stop: &'a CancellationToken) -> Self {
        Self { channel, consumer, status, stop, held: AtomicUsize::new(0), gave_up: AtomicBool::new(false) }
    }

    /// Whether something it needs is down: then nothing more is to be pulled.
    pub fn is_holding(&self) -> bool {
        self.held.load(Ordering::Relaxed) > 0
    }

    /// All up to the last one: batches are acknowledged in the order in which they came.
    pub async fn acknowledge(&self, settled: Settled) -> Result<()> {
        self.acknowledge_as(settled, BasicAckOptions { multiple: true }).await?;
        fail_point::reach("acked-unflushed").await
    }

    /// What comes behind something given up comes again, as copies: to acknowledge it would acknowledge the other too.
    async fn acknowledge_as(&self, settled: Settled, options: BasicAckOptions) -> Result<()> {
        match settled {
            None => self.gave_up.store(true, Ordering::Relaxed),
            Some(last) if !self.gave_up.load(Ordering::Relaxed) => step(self.channel.basic_ack(last, options)).await?,
            Some(_) => {}
        }
        Ok(())
    }

    pub async fn acknowledge_all<F: Future<Output = Result<Settled>>>(&self, in_flight: &mut FuturesOrdered<F>) -> Result<()> {
        while let Some(settled) = in_flight.next().await {
            self.acknowledge(settled?).await?;
        }
        Ok(())
    }

    /// Each suspect for itself, acknowledged before the next one runs.
    pub async fn settle_apart(&self, suspects: Vec<Delivery>) -> Result<()> {
        for suspect in suspects {
            let settled = self.settle(vec![suspect]).await?;
            self.acknowledge_as(settled, BasicAckOptions::default()).await?;
        }
        Ok(())
    }

    /// Until every message of the batch is settled, or the connection is gone, or the process stops.
    pub async fn settle(&self, mut deliveries: Vec<Delivery>) -> Result<Settled> {
        metrics::histogram!("consumer_batch_size").record(deliveries.len() as f64);
        let Some(last) = deliveries.last().map(|delivery| delivery.delivery_tag) else { return Ok(None) };
        let mut messages: Vec<Incoming> = deliveries.iter_mut().map(Incoming::from).collect();
        let mut delays = Delays::default();
        let mut holding = Holding { settler: self, count: 0 };
        loop {
            let batch: Arc<[Incoming]> = messages.into();
            let dispositions = settle_guarded(self.consumer, &batch).await;
            let mut reason = None;
            messages = Vec::new();
            for (message, disposition) in batch.iter().zip(dispositions) {
                match disposition {
                    Disposition::Done => continue,
                    Disposition::Busy => {}
                    Disposition::Hold(why) => reason = Some(why),
                }
                messages.push(message.clone());
            }
            if messages.is_empty() {
                return Ok(Some(last));
            }
            let pause = async {
                match reason {
                    None => tokio::time::sleep(BUSY_PAUSE).await,
                    Some(reason) => {
                        holding.set(messages.len());
                        tracing::warn!(held = messages.len(), reason, "holding messages");
                        // An open breaker paces better than a guess.
                        if !self.consumer.ready().await {
                            tokio::time::sleep(delays.next_delay()).await;
                        }
                    }
                }
            };
            tokio::select! {
                () = pause => {}
                () = self.closed() => return Err(Error::unavailable("the channel closed while messages were held")),
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }

    /// Returns once the channel is gone.
    async fn closed(&self) {
        while self.channel.status().connected() {
            tokio::time::sleep(CHANNEL_CHECK_INTERVAL).await;
        }
    }
}

/// What one batch holds, as long as it does.
struct Holding<'a, C> {
    settler: &'a Settler<'a, C>,
    count: usize,
}

impl<C> Holding<'_, C> {
    fn set(&mut self, count: usize) {
        let Settler { held, status, .. } = self.settler;
        held.fetch_add(count, Ordering::Relaxed);
        let now = held.fetch_sub(self.count, Ordering::Relaxed) - self.count;
        self.count = count;
        status.set_held(now);
    }
}

impl<C> Drop for Holding<'_, C> {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// A panic costs the batch a pause, not the process its consumer.
async fn settle_guarded(consumer: &impl Consumer, batch: &Arc<[Incoming]>) -> Vec<Disposition> {
    match AssertUnwindSafe(consumer.settle(Arc::clone(batch))).catch_unwind().await {
        Ok(dispositions) => dispositions,
        Err(_panic) => {
            tracing::error!("settling a batch panicked");
            batch.iter().map(|_| Disposition::Hold("settling panicked".to_owned())).collect()
        }
    }
}
