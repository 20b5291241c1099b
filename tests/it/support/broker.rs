//! RabbitMQ as a producer and a push service speak it.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use user_service::config::Broker;

pub struct TestBroker {
    pub names: Broker,
    pub connection: Connection,
    pub channel: Channel,
}

/// A message that came out.
#[derive(Debug)]
pub struct Received {
    pub properties: BasicProperties,
    pub data: Vec<u8>,
}

impl Received {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.data).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers().as_ref()?.inner().get(name)? {
            AMQPValue::LongString(text) => Some(text.to_string()),
            other => Some(format!("{other:?}")),
        }
    }

    /// The token in a mail's link.
    pub fn token(&self) -> String {
        let link = self.json()["variables"]["link"].as_str().expect("the mail has no link").to_owned();
        link.split_once("?token=").unwrap().1.to_owned()
    }

    pub fn message_id(&self) -> Option<String> {
        self.properties.message_id().as_ref().map(|id| id.as_str().to_owned())
    }
}

impl From<Delivery> for Received {
    fn from(delivery: Delivery) -> Self {
        Self { properties: delivery.properties, data: delivery.data }
    }
}

impl TestBroker {
    pub async fn connect(names: Broker) -> Self {
        let connection =
            Connection::connect(names.url.as_ref().expect("no broker for --role api").expose_secret(), ConnectionProperties::default())
                .await
                .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { names, connection, channel }
    }

    /// A push request for a user, confirmed by the broker.
    pub async fn request_push(&self, user_id: &str, request_id: &str) {
        assert!(self.try_request_push(user_id, request_id).await, "the broker did not take the request");
    }

    /// Whether there was a queue that took it.
    pub async fn try_request_push(&self, user_id: &str, request_id: &str) -> bool {
        let body = json!({"notification_type": "push", "user_id": user_id, "template_code": "WELCOME", "variables": {"link": "https://x"}, "request_id": request_id});
        self.try_publish(body.to_string().as_bytes(), BasicProperties::default()).await
    }

    pub async fn publish(&self, body: &[u8], properties: BasicProperties) {
        assert!(self.try_publish(body, properties).await, "the broker did not take the message");
    }

    async fn try_publish(&self, body: &[u8], properties: BasicProperties) -> bool {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, key) = (self.names.exchange.as_str().into(), self.names.push_key.as_str().into());
        let publishing = self.channel.basic_publish(exchange, key, options, body, properties.with_delivery_mode(2)).await.unwrap();
        publishing.await.unwrap() == Confirmation::Ack(None)
    }

    /// The next `count` messages of a queue; panics when they do not come.
    pub async fn receive(&self, queue: &str, count: usize) -> Vec<Received> {
        let tag = format!("test-{}", uuid::Uuid::new_v4());
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let mut consumer = self.channel.basic_consume(queue.into(), tag.as_str().into(), options, FieldTable::default()).await.unwrap();
        let mut received = Vec::with_capacity(count);
        let deadline = Instant::now() + Duration::from_secs(60);
        while received.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let next = tokio::time::timeout(left, consumer.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{} of {count} messages came on {queue}", received.len()));
            received.push(next.unwrap().unwrap().into());
        }
        self.channel.basic_cancel(tag.into(), BasicCancelOptions::default()).await.unwrap();
        received
    }

    pub async fn delivered(&self) -> Received {
        self.receive(&self.names.deliver_queue, 1).await.remove(0)
    }

    /// The next mail of a template; what comes before it is passed over, what comes after it stays in the queue.
    pub async fn mail(&self, template: &str) -> Received {
        let found = tokio::sync::Mutex::new(None);
        super::eventually(&format!("the mail {template}"), async || {
            let options = BasicGetOptions { no_ack: true };
            while let Some(message) = self.channel.basic_get(self.names.email_queue.as_str().into(), options).await.unwrap() {
                let mail = Received::from(message.delivery);
                if mail.json()["template_code"] == template {
                    *found.lock().await = Some(mail);
                    return true;
                }
            }
            false
        })
        .await;
        found.into_inner().unwrap()
    }

    /// Messages that wait in a queue.
    pub async fn waiting(&self, queue: &str) -> u32 {
        self.find_queue(queue).await.expect("there is no such queue").message_count()
    }

    /// A queue with its counts.
    pub async fn find_queue(&self, queue: &str) -> Option<lapin::Queue> {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        // A refusal closes it.
        let channel = self.connection.create_channel().await.unwrap();
        let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
        channel.close(200, "seen".into()).await.unwrap();
        Some(found)
    }

    /// A queue of the test's own, bound to the events.
    pub async fn subscribe_events(&self, key: &str) -> String {
        let name = format!("{}.test", self.names.events_exchange);
        let options = QueueDeclareOptions { auto_delete: false, exclusive: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
        let exchange = self.names.events_exchange.as_str().into();
        self.channel
            .queue_bind(name.as_str().into(), exchange, key.into(), QueueBindOptions::default(), FieldTable::default())
            .await
            .unwrap();
        name
    }

    pub async fn delete_all(&self) {
        let names = &self.names;
        for queue in [&names.push_queue, &names.deliver_queue, &names.email_queue, &names.failed_queue] {
            let _ = self.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await;
        }
        for exchange in [&names.exchange, &names.dlx_exchange, &names.events_exchange] {
            let _ = self.channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await;
        }
        let _ = self.connection.close(200, "done".into()).await;
    }
}
