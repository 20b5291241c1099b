//! The connection to Redis: one a runtime, shared by all its requests, and left alone for a moment after a failure.
//!
//! A refusal is a failure too (a full Redis, or one that became a replica, refuses writes): what cannot be told to forget must
//! not be read from. So after a failure nothing is read before something was written. What it was not told meanwhile the relay
//! tells it within two seconds of that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, Pool, RecycleError, RecycleResult};
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{self, AsyncConnectionConfig, Client, RedisError};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(100);
const BYPASS: Duration = Duration::from_secs(2);

/// Redis was not asked, or did not answer well.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("redis is left alone for a moment after a failure")]
    Bypassed,
    #[error("redis did not answer within {OPERATION_TIMEOUT:?}")]
    Slow,
    #[error("redis: {0}")]
    Redis(#[from] RedisError),
    #[error("redis pool: {0}")]
    Pool(String),
}

/// Clones share the connection, and what is known of the server.
#[derive(Clone)]
pub struct RedisConnection {
    pool: Pool<RedisManager>,
    known: Arc<Known>,
    /// Written to see whether anything can be.
    probe: Arc<str>,
}

/// What the process knows of the server.
struct Known {
    started: Instant,
    /// Milliseconds after `started`; zero: never.
    failed_at: AtomicU64,
    /// Nothing was written since the last failure.
    unproven: AtomicBool,
    /// Whose turn it is to see whether anything can be.
    turn: Arc<Mutex<()>>,
}

impl Known {
    fn failed_a_moment_ago(&self) -> bool {
        self.since_failure().is_some_and(|since| since < BYPASS)
    }

    fn since_failure(&self) -> Option<Duration> {
        let failed_at = self.failed_at.load(Ordering::Relaxed);
        (failed_at > 0).then(|| self.started.elapsed().saturating_sub(Duration::from_millis(failed_at)))
    }

    fn note_failure(&self, error: &CacheError) {
        metrics::counter!("cache_failures_total").increment(1);
        tracing::warn!(%error, "Redis failed; it is bypassed for {BYPASS:?}");
        self.unproven.store(true, Ordering::Relaxed);
        self.failed_at.store((self.started.elapsed().as_millis() as u64).max(1), Ordering::Relaxed);
    }
}

impl RedisConnection {
    /// Connects on demand, on the current runtime; `probe` is a key of its own.
    pub fn new(url: &SecretString, probe: &str) -> crate::error::Result<Self> {
        let client = Client::open(url.expose_secret()).map_err(crate::error::Error::internal)?;
        let known = Arc::new(Known {
            started: Instant::now(),
            failed_at: AtomicU64::new(0),
            unproven: AtomicBool::new(false),
            turn: Arc::default(),
        });
        Ok(Self { pool: pool(client, &known)?, known, probe: probe.into() })
    }

    /// The same over a connection of the current runtime's own: a request that is served on its thread wakes no other one.
    pub fn on_this_runtime(&self) -> crate::error::Result<Self> {
        Ok(Self { pool: pool(self.pool.manager().client.clone(), &self.known)?, ..self.clone() })
    }

    /// Asks, unless it failed and has not proved itself since.
    pub async fn run<T>(&self, call: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>) -> Result<T, CacheError> {
        if self.known.failed_a_moment_ago() {
            return Err(CacheError::Bypassed);
        }
        if self.known.unproven.load(Ordering::Relaxed) {
            self.prove();
            return Err(CacheError::Bypassed);
        }
        let result = self.attempt(call).await;
        if let Err(error) = &result {
            self.known.note_failure(error);
        }
        result
    }

    /// Sees whether it takes a write again, for all and while nobody waits.
    fn prove(&self) {
        let Ok(turn) = Arc::clone(&self.known.turn).try_lock_owned() else { return };
        let this = self.clone();
        self.pool.manager().runtime.spawn(async move {
            let _turn = turn;
            let mut probe = redis::cmd("SET");
            probe.arg(&*this.probe).arg(1).arg("EX").arg(1);
            match this.attempt(async |connection| probe.exec_async(connection).await).await {
                Ok(()) => this.known.unproven.store(false, Ordering::Relaxed),
                Err(error) => this.known.note_failure(&error),
            }
        });
    }

    /// Asks, however it has behaved before.
    pub async fn attempt<T>(&self, call: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>) -> Result<T, CacheError> {
        // The place in the pool is given back at once: many requests share the connection, and travel together.
        let mut connection = tokio::time::timeout(CONNECT_TIMEOUT, self.pool.get())
            .await
            .map_err(|_elapsed| CacheError::Slow)?
            .map_err(|error| CacheError::Pool(error.to_string()))?
            .clone();
        let result = match tokio::time::timeout(OPERATION_TIMEOUT, call(&mut connection)).await {
            Ok(result) => result.map_err(CacheError::Redis),
            Err(_elapsed) => Err(CacheError::Slow),
        };
        if result.is_err() {
            self.pool.retain(|_, _| false);
        }
        result
    }
}

fn pool(client: Client, known: &Arc<Known>) -> crate::error::Result<Pool<RedisManager>> {
    // One, which all requests of a runtime share: two would carry half as many each.
    let manager = RedisManager { client, runtime: Handle::current(), known: Arc::clone(known) };
    Pool::builder(manager).max_size(1).build().map_err(crate::error::Error::internal)
}

/// deadpool-redis' own manager would tie each connection to the actix worker that first asked for it.
struct RedisManager {
    client: Client,
    runtime: Handle,
    known: Arc<Known>,
}

impl Manager for RedisManager {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<Self::Type, Self::Error> {
        if self.known.failed_a_moment_ago() {
            return Err(RedisError::from(std::io::Error::other("the last attempt failed a moment ago")));
        }
        let client = self.client.clone();
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(OPERATION_TIMEOUT));
        let connecting = self.runtime.spawn(async move { client.get_multiplexed_async_connection_with_config(&config).await });
        connecting.await.map_err(|error| RedisError::from(std::io::Error::other(error)))?
    }

    /// No PING, which would double every look-up: a broken connection is dropped where it fails, and what stood before a failure
    /// that another runtime met is not tried.
    async fn recycle(&self, _connection: &mut Self::Type, metrics: &Metrics) -> RecycleResult<Self::Error> {
        match self.known.since_failure() {
            Some(since) if metrics.age() > since => Err(RecycleError::message("it is older than the last failure")),
            _ => Ok(()),
        }
    }
}
