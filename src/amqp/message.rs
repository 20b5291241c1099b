//! Messages as they come in and go out, without lapin's types.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde_json::{Map, Value};
use tracing::Span;
use uuid::Uuid;

use crate::infra::correlation;
use crate::infra::telemetry::MESSAGE_SPAN;
use crate::infra::trace::Trace;

/// A message as it was consumed. Headers stay behind: none of them is believed, and none is passed on but the place in a
/// trace.
#[derive(Clone, Debug, Default)]
pub struct Incoming {
    pub body: Vec<u8>,
    pub message_id: Option<String>,
    /// What it goes by if it brings no id: made up once, so that what is published again has the same.
    pub made_up_id: Option<String>,
    /// Always fit for a log line and a property; made up where the sender's is not.
    pub correlation_id: String,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    /// The `type` property.
    pub kind: Option<String>,
    pub trace: Trace,
    /// Recorded until the message is settled.
    pub span: Option<Span>,
    /// The process, or its connection, ended twice while it had it; it comes as a batch of its own.
    pub is_suspect: bool,
}

/// Whether it was redelivered twice. Where the broker does not count, once is enough.
pub(super) fn is_suspect(delivery: &Delivery) -> bool {
    delivery.redelivered && delivery_count(delivery.properties.headers().as_ref()).is_none_or(|count| count >= 2)
}

impl From<&mut Delivery> for Incoming {
    /// Takes the body out of the delivery.
    fn from(delivery: &mut Delivery) -> Self {
        let is_suspect = is_suspect(delivery);
        let properties = &delivery.properties;
        let text = |value: &Option<ShortString>| value.as_ref().map(|value| value.as_str().to_owned());
        let correlation_id = correlation::accept(properties.correlation_id().as_ref().map(ShortString::as_str));
        let span = tracing::info_span!(MESSAGE_SPAN, correlation_id);
        Self {
            body: std::mem::take(&mut delivery.data),
            message_id: text(properties.message_id()),
            made_up_id: Some(Uuid::now_v7().to_string()),
            correlation_id,
            trace: Trace::read(|name| header_text(properties.headers().as_ref()?, name)).within(&span),
            span: Some(span),
            content_type: text(properties.content_type()),
            content_encoding: text(properties.content_encoding()),
            kind: text(properties.kind()),
            is_suspect,
        }
    }
}

fn header_text<'a>(headers: &'a FieldTable, name: &str) -> Option<&'a str> {
    match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        _ => None,
    }
}

/// How often a quorum queue redelivered it; it writes this header itself then, whatever the producer wrote.
fn delivery_count(headers: Option<&FieldTable>) -> Option<i64> {
    match headers?.inner().get("x-delivery-count")? {
        AMQPValue::LongLongInt(count) => Some(*count),
        AMQPValue::LongInt(count) => Some(i64::from(*count)),
        AMQPValue::LongUInt(count) => Some(i64::from(*count)),
        AMQPValue::ShortShortUInt(count) => Some(i64::from(*count)),
        _ => None,
    }
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub exchange: String,
    pub routing_key: String,
    /// Whether a message that no queue takes is a failure.
    pub mandatory: bool,
    pub message_id: String,
    pub correlation_id: Option<String>,
    pub priority: Option<u8>,
    /// The `type` property.
    pub kind: Option<String>,
    /// Strings by name, only those that we made.
    pub headers: Map<String, Value>,
    pub timestamp_seconds: u64,
    /// When the broker may throw it away.
    pub expires_in: Option<chrono::TimeDelta>,
    pub body: Vec<u8>,
}

impl Outgoing {
    pub(super) fn properties(&self) -> BasicProperties {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_app_id("user-service".into())
            .with_timestamp(self.timestamp_seconds);
        if let Ok(id) = ShortString::try_new(self.message_id.as_str()) {
            properties = properties.with_message_id(id);
        }
        if let Some(Ok(id)) = self.correlation_id.as_deref().map(ShortString::try_new) {
            properties = properties.with_correlation_id(id);
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        if let Some(expires_in) = self.expires_in {
            properties = properties.with_expiration(expires_in.num_milliseconds().max(0).to_string().into());
        }
        if let Some(Ok(kind)) = self.kind.as_deref().map(ShortString::try_new) {
            properties = properties.with_type(kind);
        }
        if !self.headers.is_empty() {
            let mut table = FieldTable::default();
            for (name, value) in &self.headers {
                if let (Ok(name), Some(text)) = (ShortString::try_new(name.as_str()), value.as_str()) {
                    table.insert(name, AMQPValue::LongString(LongString::from(text)));
                }
            }
            properties = properties.with_headers(table);
        }
        properties
    }
}
