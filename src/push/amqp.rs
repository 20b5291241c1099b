//! The door on `push.queue`: parses a batch, has it decided, publishes the deliveries, records the rest, all in one
//! transaction that is committed before anything is acknowledged.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::decision::Decision;
use super::message::parse;
use super::{Outcome, PushRequest, delivery, process};
use crate::amqp::consumer::Consumer;
use crate::amqp::disposition::{Dead, DeadReason, Disposition};
use crate::amqp::message::{Incoming, Outgoing};
use crate::amqp::publisher::Publisher;
use crate::app::App;
use crate::config;
use crate::error::{Kind, Result};
use crate::infra::cache::Cache;
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::outbox::{self, Lane, NewMessage};

/// Settles push requests.
#[derive(Clone, Debug)]
pub struct PushRequests {
    app: App,
    broker: Arc<config::Broker>,
    publisher: Publisher,
}

impl PushRequests {
    pub fn new(app: App, broker: config::Broker, publisher: Publisher) -> Self {
        Self { app, broker: Arc::new(broker), publisher }
    }

    async fn settle_batch(&self, batch: Arc<[Incoming]>) -> Result<Vec<Disposition>> {
        let (cache, broker, publisher, now) =
            (self.app.cache.clone(), Arc::clone(&self.broker), self.publisher.clone(), self.app.clock.now());
        let settling = self.app.worker_db.write(move |tx| {
            async move {
                let parsed = batch.iter().map(parse).collect();
                let plan = Plan::make(tx, &cache, &batch, parsed, &broker, now).await?;
                plan.carry_out(tx, &publisher, batch.len(), now).await
            }
            .boxed()
        });
        settling.await
    }

    /// A fault of ours on one message must neither block the queue nor lose the message.
    async fn settle_alone(&self, message: &Incoming) -> Disposition {
        let settled = match self.settle_batch(Arc::from([message.clone()])).await {
            Err(error) if error.kind() != Kind::Unavailable => {
                tracing::error!(correlation_id = message.correlation_id, error = error.chain(), "a push request cannot be settled");
                self.bury_alone(message.clone()).await
            }
            settled => settled,
        };
        match settled {
            Ok(mut dispositions) => dispositions.pop().unwrap_or_else(|| Disposition::Hold("no disposition".to_owned())),
            Err(error) => Disposition::Hold(error.chain()),
        }
    }

    async fn bury_alone(&self, message: Incoming) -> Result<Vec<Disposition>> {
        let (broker, now) = (Arc::clone(&self.broker), self.app.clock.now());
        let burying = self.app.worker_db.write(move |tx| {
            async move {
                let copy = bury(&message, &Dead::new(DeadReason::RetriesExhausted, "settling it failed"), &broker, now);
                outbox::insert_messages(tx, Lane::Amqp, &[copy], now).await?;
                Ok(vec![Disposition::Done])
            }
            .boxed()
        });
        burying.await
    }
}

impl Consumer for PushRequests {
    async fn settle(&self, batch: Arc<[Incoming]>) -> Vec<Disposition> {
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
}

/// What is to be done about a batch.
#[derive(Default)]
struct Plan {
    /// With the place of the message in its batch.
    deliveries: Vec<(usize, Outgoing)>,
    /// Announcements of skips and copies of dead letters.
    rows: Vec<NewMessage>,
}

impl Plan {
    async fn make(
        tx: &mut Tx,
        cache: &Cache,
        batch: &[Incoming],
        parsed: Vec<Result<PushRequest, Dead>>,
        broker: &config::Broker,
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let requests: Vec<&PushRequest> = parsed.iter().filter_map(|parsed| parsed.as_ref().ok()).collect();
        let mut outcomes = process(tx, cache, &requests, now).await?.into_iter();
        let mut plan = Self::default();
        for (place, (message, parsed)) in batch.iter().zip(&parsed).enumerate() {
            let dead = match parsed {
                Err(dead) => Some(dead.clone()),
                Ok(request) => match outcomes.next() {
                    None | Some(Outcome::UnknownUser) => Some(Dead::new(DeadReason::UnknownUser, "user_id names no user")),
                    Some(Outcome::Decided(Decision::Deliver, card)) => {
                        let outgoing = delivery::outgoing(request, &card, &message.correlation_id, broker, now);
                        outgoing.map(|outgoing| plan.deliveries.push((place, outgoing))).err()
                    }
                    Some(Outcome::Decided(Decision::Skip(reason), card)) => {
                        tracing::info!(correlation_id = message.correlation_id, user_id = %card.user_id, notification_id = request.notification_id, reason = reason.as_str(), "push skipped");
                        metrics::counter!("push_decisions_total", "decision" => "skip", "reason" => reason.as_str()).increment(1);
                        plan.rows.push(delivery::skipped(request, &card, reason, &cause(message, now))?);
                        None
                    }
                },
            };
            if let Some(dead) = dead {
                plan.rows.push(bury(message, &dead, broker, now));
            }
        }
        Ok(plan)
    }

    /// Publishes, awaits the confirms together, and records the rest; what was not confirmed is held.
    async fn carry_out(self, tx: &mut Tx, publisher: &Publisher, batch_len: usize, now: DateTime<Utc>) -> Result<Vec<Disposition>> {
        let (places, messages): (Vec<_>, Vec<_>) = self.deliveries.into_iter().unzip();
        let published = publisher.publish_all(&messages).await;
        outbox::insert_messages(tx, Lane::Amqp, &self.rows, now).await?;
        let mut dispositions = vec![Disposition::Done; batch_len];
        for ((place, message), result) in places.into_iter().zip(&messages).zip(published) {
            match result {
                Ok(()) => {
                    tracing::debug!(correlation_id = message.correlation_id, notification_id = message.message_id, "push handed on");
                    metrics::counter!("push_decisions_total", "decision" => "deliver", "reason" => "").increment(1);
                }
                Err(error) => dispositions[place] = Disposition::Hold(error.to_string()),
            }
        }
        Ok(dispositions)
    }
}

fn bury(message: &Incoming, dead: &Dead, broker: &config::Broker, now: DateTime<Utc>) -> NewMessage {
    let reason = dead.reason.as_str();
    tracing::warn!(
        correlation_id = message.correlation_id,
        message_id = message.message_id,
        reason,
        detail = dead.detail,
        "push request is dead"
    );
    metrics::counter!("push_decisions_total", "decision" => "dead", "reason" => reason).increment(1);
    dead.copy_of(message, broker, now)
}

fn cause(message: &Incoming, now: DateTime<Utc>) -> Cause {
    Cause { correlation_id: message.correlation_id.clone(), ..Cause::without_request(Actor::System, now) }
}
