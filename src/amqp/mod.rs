//! Floor 3: what every AMQP door needs, and nothing of any feature.

pub mod consumer;
pub mod disposition;
pub mod message;
pub mod publisher;
pub mod relay;
pub mod sender;
mod settler;
pub mod topology;
