//! Exchanges, queues and bindings: what exists is accepted as it is, what is missing is declared or waited for.
//!
//! Siblings may have declared `push.queue` with arguments of their own; declaring it with ours would be refused (406) or
//! would refuse them. So every name is looked up passively first.

use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ErrorKind, ExchangeKind, Queue};

use crate::config::{Broker, Declare, QueueType};
use crate::error::{Error, Result};
use crate::infra::broker::{answer, step};
use crate::infra::status::{QueueCounts, Status};

/// Beyond this a quorum queue drops what is redelivered; without broker-side dead-lettering it must be out of reach
/// (RabbitMQ 4 would take 20).
const DELIVERY_LIMIT: i64 = 1_000_000;

/// Makes sure that everything exists, and notes the counts of the request and delivery queues.
pub async fn ensure(connection: &Connection, broker: &Broker, status: &Status) -> Result<()> {
    for (exchange, kind) in [
        (&broker.exchange, ExchangeKind::Direct),
        (&broker.dlx_exchange, ExchangeKind::Direct),
        (&broker.events_exchange, ExchangeKind::Topic),
    ] {
        ensure_exchange(connection, broker, exchange, kind).await?;
    }
    for (queue, exchange, key, ours) in [
        (&broker.push_queue, &broker.exchange, &broker.push_key, true),
        (&broker.deliver_queue, &broker.exchange, &broker.deliver_key, true),
        (&broker.email_queue, &broker.exchange, &broker.email_key, false),
        (&broker.failed_queue, &broker.dlx_exchange, &broker.failed_key, false),
    ] {
        let counts = ensure_queue(connection, broker, queue, ours).await?;
        if ours {
            tracing::info!(queue, messages = counts.messages, consumers = counts.consumers, "queue is there");
            status.set_queue(queue, counts);
        }
        if broker.declare == Declare::Create {
            let channel = step(connection.create_channel()).await?;
            let bound = channel.queue_bind(
                queue.as_str().into(),
                exchange.as_str().into(),
                key.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            step(bound).await?;
            close(channel).await;
        }
    }
    Ok(())
}

/// Counts of a queue that exists.
pub async fn count(channel: &Channel, queue: &str) -> Result<QueueCounts> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    Ok(counts(&step(channel.queue_declare(queue.into(), options, FieldTable::default())).await?))
}

/// Counts of a queue, if it exists; declares nothing.
pub async fn find_queue(connection: &Connection, queue: &str) -> Result<Option<QueueCounts>> {
    let channel = step(connection.create_channel()).await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let found = answer(channel.queue_declare(queue.into(), options, FieldTable::default())).await?;
    match close_after(channel, found).await {
        Ok(found) => Ok(Some(counts(&found))),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(Error::unavailable(error)),
    }
}

/// Whether an exchange exists; declares nothing.
pub async fn has_exchange(connection: &Connection, exchange: &str) -> Result<bool> {
    let channel = step(connection.create_channel()).await?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let found = answer(channel.exchange_declare(exchange.into(), ExchangeKind::Direct, passive, FieldTable::default())).await?;
    match close_after(channel, found).await {
        Ok(()) => Ok(true),
        Err(error) if is_missing(&error) => Ok(false),
        Err(error) => Err(Error::unavailable(error)),
    }
}

/// Whether this user may publish to an exchange. Asked by a message under another user's name: it is refused before it is routed,
/// and before that if the right is missing.
pub async fn may_publish(connection: &Connection, exchange: &str) -> Result<bool> {
    let channel = step(connection.create_channel()).await?;
    step(channel.confirm_select(ConfirmSelectOptions::default())).await?;
    let properties = BasicProperties::default().with_user_id("nobody of this name".into()).with_expiration("1".into());
    let asked =
        async { channel.basic_publish(exchange.into(), "doctor".into(), BasicPublishOptions::default(), &[], properties).await?.await };
    judged(answer(asked).await?)
}

/// Whether this user may make a queue. Asked by one that cannot be.
pub async fn may_make(connection: &Connection, queue: &str) -> Result<bool> {
    let channel = step(connection.create_channel()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongString("none".into()));
    judged(answer(channel.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)).await?)
}

/// Whether this user may consume a queue. Asked by a consumer of an impossible priority: none is made of it, and no message moves.
pub async fn may_consume(connection: &Connection, queue: &str) -> Result<bool> {
    let channel = step(connection.create_channel()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
    judged(answer(channel.basic_consume(queue.into(), "doctor".into(), BasicConsumeOptions::default(), arguments)).await?.map(drop))
}

/// What a question tells that is refused either way: for want of the right, or for what is wrong with it.
fn judged<T>(asked: lapin::Result<T>) -> Result<bool> {
    match asked {
        Ok(_) => Ok(true),
        Err(error) if is_different(&error) => Ok(true),
        Err(error) if protocol_code(&error) == Some(403) => Ok(false),
        Err(error) => Err(Error::unavailable(error)),
    }
}

async fn ensure_exchange(connection: &Connection, broker: &Broker, name: &str, kind: ExchangeKind) -> Result<()> {
    if has_exchange(connection, name).await? {
        return Ok(());
    }
    refuse_in_wait(broker, name)?;
    tracing::info!(exchange = name, "declaring a missing exchange");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    let channel = step(connection.create_channel()).await?;
    let declared = answer(channel.exchange_declare(name.into(), kind, durable, FieldTable::default())).await?;
    match close_after(channel, declared).await {
        Err(error) if !is_different(&error) => Err(Error::unavailable(error)),
        _ => Ok(()),
    }
}

async fn ensure_queue(connection: &Connection, broker: &Broker, name: &str, ours: bool) -> Result<QueueCounts> {
    if let Some(counts) = find_queue(connection, name).await? {
        return Ok(counts);
    }
    refuse_in_wait(broker, name)?;
    tracing::info!(queue = name, "declaring a missing queue");
    let channel = step(connection.create_channel()).await?;
    let declared = answer(channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments(broker, ours))).await?;
    match close_after(channel, declared).await {
        Ok(queue) => Ok(counts(&queue)),
        // Somebody else declared it in between: it exists now, as it is.
        Err(error) if is_different(&error) => {
            find_queue(connection, name).await?.ok_or_else(|| Error::unavailable(format!("'{name}' came and went")))
        }
        Err(error) => Err(Error::unavailable(error)),
    }
}

fn arguments(broker: &Broker, ours: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    if ours && broker.queue_type == QueueType::Quorum {
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(DELIVERY_LIMIT));
    }
    arguments
}

fn refuse_in_wait(broker: &Broker, name: &str) -> Result<()> {
    match broker.declare {
        Declare::Create => Ok(()),
        Declare::Wait => Err(Error::unavailable(format!("waiting for '{name}' to be declared (RABBITMQ_DECLARE=wait)"))),
    }
}

/// A refused declaration has closed its channel already.
async fn close_after<T>(channel: Channel, declared: lapin::Result<T>) -> lapin::Result<T> {
    if declared.is_ok() {
        close(channel).await;
    }
    declared
}

async fn close(channel: Channel) {
    let _ = answer(channel.close(200, "done".into())).await;
}

fn counts(queue: &Queue) -> QueueCounts {
    QueueCounts { messages: queue.message_count(), consumers: queue.consumer_count() }
}

fn is_missing(error: &lapin::Error) -> bool {
    protocol_code(error) == Some(404)
}

fn is_different(error: &lapin::Error) -> bool {
    protocol_code(error) == Some(406)
}

fn protocol_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}
