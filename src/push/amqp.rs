//! The door on `push.queue`: parses a batch, looks it up in the inbox, has it decided, publishes the deliveries, records
//! what became of each, all in one transaction that is committed before anything is acknowledged.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::inbox::{self, Read, Standing};
use super::retries;
use super::store::{self, Entry};
use super::suspects::Counted;
use super::verdict::{bury, count, judge};
use super::{PushRequest, process};
use crate::amqp::consumer::Consumer;
use crate::amqp::disposition::{Dead, DeadReason, Disposition};
use crate::amqp::message::{Incoming, Outgoing};
use crate::amqp::publisher::Publisher;
use crate::app::App;
use crate::config;
use crate::error::{Kind, Result};
use crate::infra::cache::Cache;
use crate::infra::db::Tx;
use crate::infra::fail_point;
use crate::infra::outbox::{self, Lane, NewMessage};

/// Settles push requests.
#[derive(Clone, Debug)]
pub struct PushRequests {
    pub(super) app: App,
    pub(super) broker: Arc<config::Broker>,
    pub(super) publisher: Publisher,
    pub(super) counted: Arc<Counted>,
}

impl PushRequests {
    pub fn new(app: App, broker: config::Broker, publisher: Publisher) -> Self {
        Self { app, broker: Arc::new(broker), publisher, counted: Arc::default() }
    }

    async fn settle_batch(&self, batch: Arc<[Incoming]>) -> Result<Vec<Disposition>> {
        let (cache, broker, publisher, now) =
            (self.app.cache.clone(), Arc::clone(&self.broker), self.publisher.clone(), self.app.clock.now());
        let settling = self.app.worker_db.write_once(move |tx| {
            async move {
                let reads = batch.iter().map(Read::of).collect();
                fail_point::reach("parsed").await?;
                let plan = Plan::make(tx, &cache, &batch, reads, &broker, now).await?;
                plan.carry_out(tx, &publisher, now).await
            }
            .boxed()
        });
        let settled = settling.await?;
        settled.entries.iter().for_each(count);
        fail_point::reach("inbox-committed").await?;
        Ok(settled.dispositions)
    }

    async fn settle_together(&self, batch: Arc<[Incoming]>) -> Vec<Disposition> {
        match self.settle_batch(Arc::clone(&batch)).await {
            Ok(dispositions) => dispositions,
            Err(error) if error.kind() == Kind::Unavailable => vec![Disposition::Hold(error.chain()); batch.len()],
            Err(error) => {
                tracing::error!(error = error.chain(), "a batch cannot be settled; its messages are taken one by one");
                let mut dispositions = Vec::with_capacity(batch.len());
                for message in batch.iter() {
                    dispositions.push(self.settle_alone(message).await);
                }
                dispositions
            }
        }
    }

    /// A fault of ours on one message must neither block the queue nor lose the message: it waits in the inbox.
    pub(super) async fn settle_alone(&self, message: &Incoming) -> Disposition {
        let settled = match self.settle_batch(Arc::from([message.clone()])).await {
            Err(error) if error.kind() != Kind::Unavailable => {
                tracing::error!(correlation_id = message.correlation_id, error = error.chain(), "a push request cannot be settled");
                self.put_off(message.clone()).await
            }
            settled => settled,
        };
        match settled {
            Ok(mut dispositions) => dispositions.pop().unwrap_or_else(|| Disposition::Hold("no disposition".to_owned())),
            Err(error) => Disposition::Hold(error.chain()),
        }
    }

    async fn put_off(&self, message: Incoming) -> Result<Vec<Disposition>> {
        let now = self.app.clock.now();
        let writing = self.app.worker_db.write(move |tx| {
            async move {
                store::insert_entries(tx, &[retries::first(&message, now)], now).await?;
                Ok(vec![Disposition::Done])
            }
            .boxed()
        });
        writing.await
    }
}

impl Consumer for PushRequests {
    async fn settle(&self, batch: Arc<[Incoming]>) -> Vec<Disposition> {
        match &*batch {
            [message] if message.is_suspect => vec![self.settle_suspect(message).await],
            _ => self.settle_together(batch).await,
        }
    }

    async fn ready(&self) -> bool {
        let waited = self.app.worker_db.ready().await;
        self.publisher.ready().await || waited
    }
}

/// What became of a batch.
struct Settled {
    entries: Vec<Entry>,
    dispositions: Vec<Disposition>,
}

/// What is to be done about a batch.
struct Plan {
    /// With the place of the message in its batch.
    deliveries: Vec<(usize, Outgoing, Entry)>,
    rows: Vec<NewMessage>,
    entries: Vec<Entry>,
    dispositions: Vec<Disposition>,
}

impl Plan {
    async fn make(
        tx: &mut Tx,
        cache: &Cache,
        batch: &[Incoming],
        mut reads: Vec<Read>,
        broker: &config::Broker,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut standings = inbox::look_up(tx, &reads).await?;
        fail_point::reach("inbox-read").await?;
        let new = |standing: &Standing| *standing == Standing::New;
        let requests: Vec<&PushRequest> =
            reads.iter().zip(&standings).filter(|(_, standing)| new(standing)).filter_map(|(read, _)| read.parsed.as_ref().ok()).collect();
        let mut outcomes = process(tx, cache, &requests, now).await?.into_iter();
        fail_point::reach("resolved").await?;
        rename_conflicts(tx, &mut reads, &mut standings).await?;
        let dispositions = vec![Disposition::Done; batch.len()];
        let mut plan = Self { deliveries: Vec::new(), rows: Vec::new(), entries: Vec::new(), dispositions };
        for (place, ((message, read), standing)) in batch.iter().zip(&reads).zip(standings).enumerate() {
            let verdict = match standing {
                Standing::Copy => {
                    metrics::counter!("push_requests_seen_before_total").increment(1);
                    continue;
                }
                Standing::Busy => {
                    plan.dispositions[place] = Disposition::Busy;
                    continue;
                }
                Standing::Conflict => {
                    let dead = Dead::new(DeadReason::MessageIdConflict, "the id was used by another request for this user");
                    bury(message, read.entry(message, "dead"), &dead, broker, now)?
                }
                Standing::New => {
                    let outcome = if read.parsed.is_ok() { outcomes.next() } else { None };
                    judge(message, read, outcome, broker, now)?
                }
            };
            plan.rows.extend(verdict.rows);
            match verdict.outgoing {
                Some(outgoing) => plan.deliveries.push((place, outgoing, verdict.entry)),
                None => plan.entries.push(verdict.entry),
            }
        }
        Ok(plan)
    }

    /// Publishes, awaits the confirms together, and records what became of all; what was not confirmed is held.
    async fn carry_out(mut self, tx: &mut Tx, publisher: &Publisher, now: DateTime<Utc>) -> Result<Settled> {
        let mut messages = Vec::with_capacity(self.deliveries.len());
        let mut delivered = Vec::with_capacity(self.deliveries.len());
        for (place, outgoing, entry) in self.deliveries {
            messages.push(outgoing);
            delivered.push((place, entry));
        }
        let published = publisher.publish_all(&messages).await;
        fail_point::reach("confirmed").await?;
        for ((place, entry), result) in delivered.into_iter().zip(published) {
            match result {
                Ok(()) => {
                    tracing::debug!(correlation_id = entry.correlation_id, notification_id = entry.key.message_id, "push handed on");
                    self.entries.push(entry);
                }
                Err(error) => self.dispositions[place] = Disposition::Hold(error.to_string()),
            }
        }
        store::insert_entries(tx, &self.entries, now).await?;
        outbox::insert_messages(tx, Lane::Amqp, &self.rows, now).await?;
        Ok(Settled { entries: self.entries, dispositions: self.dispositions })
    }
}

/// Another request under a used id dies under a name of its own; its copies are known by it.
async fn rename_conflicts(tx: &mut Tx, reads: &mut [Read], standings: &mut [Standing]) -> Result<()> {
    let places: Vec<usize> = (0..reads.len()).filter(|place| standings[*place] == Standing::Conflict).collect();
    if places.is_empty() {
        return Ok(());
    }
    let renamed: Vec<Read> = places.iter().map(|place| reads[*place].clone().renamed()).collect();
    let found = inbox::look_up(tx, &renamed).await?;
    for ((place, read), standing) in places.into_iter().zip(renamed).zip(found) {
        reads[place] = read;
        standings[place] = if standing == Standing::New { Standing::Conflict } else { standing };
    }
    Ok(())
}
