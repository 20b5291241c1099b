//! Opens RabbitMQ connections, each step with a deadline, on the main runtime.
//!
//! lapin's own recovery stays off: the supervisor starts a part again from its connection on, so that topology,
//! prefetch and consumer are always set up the same way.

use std::time::Duration;

use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::ExposeSecret as _;

use crate::config;
use crate::error::{Error, Result};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const STEP_DEADLINE: Duration = Duration::from_secs(10);
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// Connects; `name` is what the broker's management shows.
pub async fn connect(config: &config::Broker, name: &str) -> Result<Connection> {
    let url = config.url.as_ref().ok_or_else(|| Error::internal("RABBITMQ_URL is not set"))?;
    let mut url = url::Url::parse(url.expose_secret()).map_err(Error::internal)?;
    if !url.query_pairs().any(|(name, _)| name == "heartbeat") {
        url.query_pairs_mut().append_pair("heartbeat", "20");
    }
    let properties = ConnectionProperties::default().with_connection_name(format!("user-service {name}").into());
    let connecting = Connection::connect(url.as_str(), properties);
    tokio::time::timeout(CONNECT_DEADLINE, connecting).await.map_err(Error::unavailable)?.map_err(Error::unavailable)
}

/// One step of setting a channel up, or of using it.
pub async fn step<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    tokio::time::timeout(STEP_DEADLINE, call).await.map_err(Error::unavailable)?.map_err(Error::unavailable)
}

/// Closes the channel before its connection, as lapin wants it, and gives up on a peer that does not answer.
pub async fn close(channel: Option<&Channel>, connection: &Connection) {
    let closing = async {
        if let Some(channel) = channel {
            let _ = channel.close(200, "bye".into()).await;
        }
        let _ = connection.close(200, "bye".into()).await;
    };
    let _ = tokio::time::timeout(CLOSE_DEADLINE, closing).await;
}
