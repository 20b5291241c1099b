//! Opens RabbitMQ connections, each step with a deadline, on the main runtime.
//!
//! lapin's own recovery stays off: the supervisor starts a part again from its connection on, so that topology,
//! prefetch and consumer are always set up the same way.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use async_rs::{Runtime, Tokio};
use futures_util::io::{AsyncRead, AsyncWrite};
use lapin::tcp::{AMQPUriTcpExt as _, AsyncTcpStream};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use secrecy::ExposeSecret as _;

use super::amqp_mender::Mended;

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
    let uri: AMQPUri = url.as_str().parse().map_err(Error::internal)?;
    let runtime = Runtime::new(RuntimeParts::new(Tokio::current(), MendingReactor(Tokio::current())));
    let open = async |uri: AMQPUri, _runtime| {
        let stream = uri.connect_async(&Runtime::new(Tokio::current())).await?;
        Ok(AsyncTcpStream::Plain(Mended::new(stream)))
    };
    let connecting = Connection::connector(uri, runtime, open, properties);
    tokio::time::timeout(CONNECT_DEADLINE, connecting).await.map_err(Error::unavailable)?.map_err(Error::unavailable)
}

/// A stream of lapin's, plain or over TLS.
type Stream = AsyncTcpStream<<Tokio as Reactor>::TcpStream>;

/// Tokio, but for the connections: those are mended.
#[derive(Clone, Debug)]
struct MendingReactor(Tokio);

impl Reactor for MendingReactor {
    type TcpStream = Mended<Stream>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        async { Ok(Mended::new(AsyncTcpStream::Plain(connecting.await?))) }
    }
}

/// One step of setting a channel up, or of using it.
pub async fn step<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    answer(call).await?.map_err(Error::unavailable)
}

/// The same where a refusal says something: a peer that does not answer at all is the only error.
pub async fn answer<T>(call: impl Future<Output = lapin::Result<T>>) -> Result<lapin::Result<T>> {
    tokio::time::timeout(STEP_DEADLINE, call).await.map_err(Error::unavailable)
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
