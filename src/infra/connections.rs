//! Connections that keep a socket and ask for nothing.
//!
//! actix gives the first head of a connection five seconds and an idle one fifteen, but has no limit for a later head that comes byte
//! by byte, nor for an answer that its client does not read. Such a connection is shut down from outside.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// From an answer, sending it included, to the end of the next head. Longer than keep-alive and a head may take together, and long
/// enough for the largest asset over a slow line.
const LIMIT: Duration = Duration::from_secs(60);

/// While a request is being answered other deadlines hold.
const ANSWERING: u64 = u64::MAX;

/// All connections of the process. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections {
    started: Instant,
    open: Arc<Mutex<Vec<Weak<Connection>>>>,
}

/// One of them, for as long as actix has it.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    started: Instant,
    /// Milliseconds after `started` since which nothing was asked.
    idle_since: AtomicU64,
}

impl Default for Connections {
    fn default() -> Self {
        Self { started: Instant::now(), open: Arc::default() }
    }
}

impl Connections {
    /// Watches a connection that was just accepted. Where descriptors run out, which it needs one of, it is served all the same.
    pub fn watch(&self, socket: impl AsFd) -> Option<Arc<Connection>> {
        let socket = socket.as_fd().try_clone_to_owned().inspect_err(|error| {
            metrics::counter!("http_connections_unwatched_total").increment(1);
            tracing::warn!(%error, "a connection is served that will not be shut when it asks for nothing");
        });
        let socket = TcpStream::from(socket.ok()?);
        let connection = Arc::new(Connection { socket, started: self.started, idle_since: AtomicU64::new(millis(self.started)) });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&connection));
        Some(connection)
    }

    /// Shuts down those that have asked for nothing for too long.
    pub fn sweep(&self) {
        let now = millis(self.started);
        let mut shut = 0;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            let since = connection.idle_since.load(Ordering::Relaxed);
            let is_over = since != ANSWERING && u128::from(now.saturating_sub(since)) > LIMIT.as_millis();
            if is_over && connection.socket.shutdown(Shutdown::Both).is_ok() {
                shut += 1;
            }
            !is_over
        });
        if shut > 0 {
            metrics::counter!("http_connections_shut_total").increment(shut);
            tracing::debug!(shut, "connections that asked for nothing were shut down");
        }
    }
}

impl Connection {
    /// A request is being answered until what is returned is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.idle_since.store(ANSWERING, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }
}

/// See [`Connection::answering`].
#[derive(Debug)]
pub struct Answering(Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.idle_since.store(millis(self.0.started), Ordering::Relaxed);
    }
}

fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(ANSWERING - 1)
}
