//! Publishes with confirms, over one connection of its own: a broker's alarm blocks publishers, never our consumers.
//!
//! Only `Ack(None)` is a success. An unroutable mandatory message is acknowledged too, with the message returned.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::Mutex;

use super::message::Outgoing;
use super::topology;
use crate::config;
use crate::error::{Error, Result};
use crate::infra::breaker::Breaker;
use crate::infra::broker;
use crate::infra::fail_point;
use crate::infra::status::Status;

/// For a whole batch, and for connecting where that is due: PostgreSQL ends a transaction that does nothing for 15 seconds.
/// Without an answer the outcome is unknown: the same message is published again.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// No more than one attempt to connect in this time, whoever asks.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Why a message was not taken.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    #[error("not connected: {0}")]
    Disconnected(String),
    #[error("no queue takes it: {0}")]
    Unroutable(String),
    #[error("the broker refused it (nack)")]
    Refused,
    #[error("no confirmation within {CONFIRM_DEADLINE:?}")]
    Unconfirmed,
}

/// Clones share the connection.
#[derive(Clone)]
pub struct Publisher {
    config: Arc<config::Broker>,
    status: Status,
    line: Arc<Mutex<Line>>,
    breaker: Option<Breaker>,
}

#[derive(Default)]
struct Line {
    open: Option<(Arc<Connection>, Channel)>,
    tried: Option<Instant>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher(..)")
    }
}

impl Publisher {
    /// Connects on first use.
    pub fn new(config: config::Broker, status: Status) -> Self {
        Self { config: Arc::new(config), status, line: Arc::default(), breaker: None }
    }

    /// The same, but after repeated failures the broker is left alone.
    #[must_use]
    pub fn guarded_by(&self, breaker: Breaker) -> Self {
        Self { breaker: Some(breaker), ..self.clone() }
    }

    /// Waits while the broker is left alone; `false`: it was not.
    pub async fn ready(&self) -> bool {
        match &self.breaker {
            Some(breaker) => breaker.ready().await,
            None => false,
        }
    }

    /// Publishes all, then awaits the confirms together; one result for each message, in order.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        if messages.is_empty() {
            return Vec::new();
        }
        let permit = match self.breaker.as_ref().map(Breaker::admit).transpose() {
            Ok(permit) => permit,
            Err(refused) => return vec![Err(PublishError::Disconnected(refused.to_string())); messages.len()],
        };
        let results = self.publish_now(messages).await;
        if let Some(permit) = permit {
            // One queue that is full, or one key without a queue, does not stop the others.
            permit.note(results.iter().any(Result::is_ok));
        }
        metrics::counter!("amqp_published_total").increment(results.iter().filter(|result| result.is_ok()).count() as u64);
        metrics::counter!("amqp_publish_failures_total").increment(results.iter().filter(|result| result.is_err()).count() as u64);
        results
    }

    async fn publish_now(&self, messages: &[Outgoing]) -> Vec<Result<(), PublishError>> {
        let deadline = Instant::now() + CONFIRM_DEADLINE;
        let opening = tokio::time::timeout_at(deadline.into(), self.channel()).await;
        let (connection, channel) = match opening.map_err(Error::unavailable).flatten() {
            Ok(open) => open,
            Err(error) => return vec![Err(PublishError::Disconnected(error.chain())); messages.len()],
        };
        let publishing = async {
            let mut confirms = Vec::with_capacity(messages.len());
            for message in messages {
                confirms.push(publish(&channel, message).await);
            }
            if fail_point::reach("published-unconfirmed").await.is_err() {
                return messages.iter().map(|_| Err(PublishError::Unconfirmed)).collect();
            }
            join_all(confirms.into_iter().map(settle)).await
        };
        let results = tokio::time::timeout_at(deadline.into(), publishing).await;
        let results = results.unwrap_or_else(|_elapsed| messages.iter().map(|_| Err(PublishError::Unconfirmed)).collect());
        if results.iter().any(|result| matches!(result, Err(PublishError::Disconnected(_) | PublishError::Unconfirmed))) {
            self.discard(&connection).await;
        }
        results
    }

    /// Closes the connection, if there is one.
    pub async fn close(&self) {
        if let Some((connection, channel)) = self.line.lock().await.open.take() {
            broker::close(Some(&channel), &connection).await;
        }
    }

    async fn channel(&self) -> Result<(Arc<Connection>, Channel)> {
        let mut line = self.line.lock().await;
        if let Some((connection, channel)) = &line.open
            && channel.status().connected()
        {
            return Ok((Arc::clone(connection), channel.clone()));
        }
        if line.tried.is_some_and(|tried| tried.elapsed() < RECONNECT_PAUSE) {
            return Err(Error::unavailable("the last attempt to connect was a moment ago"));
        }
        // At both ends: an attempt may be given up, and those who waited for it are not to make one each.
        line.tried = Some(Instant::now());
        line.open = None;
        let opened = self.open().await;
        line.tried = Some(Instant::now());
        let (connection, channel) = opened?;
        line.open = Some((Arc::clone(&connection), channel.clone()));
        Ok((connection, channel))
    }

    async fn open(&self) -> Result<(Arc<Connection>, Channel)> {
        let connection = broker::connect(&self.config, "publisher").await?;
        topology::ensure(&connection, &self.config, &self.status).await?;
        let channel = broker::step(connection.create_channel()).await?;
        broker::step(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok((Arc::new(connection), channel))
    }

    /// The next publish opens a new connection, and with it sees to the topology again.
    async fn discard(&self, failed: &Arc<Connection>) {
        let mut line = self.line.lock().await;
        // Another caller may have opened a new one already; that one is well.
        if let Some((connection, channel)) = line.open.take_if(|(connection, _)| Arc::ptr_eq(connection, failed)) {
            drop(line);
            broker::close(Some(&channel), &connection).await;
        }
    }
}

async fn publish(channel: &Channel, message: &Outgoing) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: message.mandatory, ..BasicPublishOptions::default() };
    let (exchange, key) = (message.exchange.as_str().into(), message.routing_key.as_str().into());
    channel.basic_publish(exchange, key, options, &message.body, message.properties()).await
}

async fn settle(published: lapin::Result<PublisherConfirm>) -> Result<(), PublishError> {
    let disconnected = |error: lapin::Error| PublishError::Disconnected(error.to_string());
    match published.map_err(disconnected)?.await.map_err(disconnected)? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => Err(PublishError::Unroutable(format!("{} {}", returned.reply_code, returned.reply_text))),
        Confirmation::Nack(_) => Err(PublishError::Refused),
        // The channel is in confirm mode; anything else would be silence, which is no success.
        Confirmation::NotRequested => Err(PublishError::Unconfirmed),
    }
}
