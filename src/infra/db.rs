//! The one PostgreSQL pool, its shares, and the two ways to use a connection: [`Database::read`] and
//! [`Database::write`].
//!
//! Every connection is made on the main runtime. An actix worker has a runtime of its own, and a connection lives and
//! dies with the runtime that made it.

mod look;
mod reconnect;
mod transaction;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolError};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tokio_util::task::TaskTracker;

use super::breaker::{Breaker, Permit};
use super::cache::Cache;
use crate::config;
use crate::error::{Error, Kind, Result};

pub use diesel_async::AsyncPgConnection as Connection;
use reconnect::Reconnects;
pub use transaction::Tx;

/// Waiting for a share and a connection together.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// For a connection that comes back while no new one is given.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The API's whole use of a connection, waiting for it included; a statement is cut at its own second.
const API_DEADLINE: Duration = Duration::from_secs(2);
const WORKER_DEADLINE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// A share of the pool. Clones share its permits.
#[derive(Clone)]
pub struct Database {
    pool: Pool<AsyncPgConnection>,
    permits: Arc<Semaphore>,
    deadline: Duration,
    statement_timeout: Option<&'static str>,
    runtime: Handle,
    /// What is in flight and ends by itself when its caller hangs up: write transactions, and looks.
    tasks: TaskTracker,
    cache: Cache,
    /// When the server was last found to be read-only, and its idle connections dropped.
    idle_dropped: Arc<Mutex<Option<Instant>>>,
    /// The worker's only: the API answers each request for itself.
    breaker: Option<Breaker>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("pool", &self.pool.status()).finish_non_exhaustive()
    }
}

impl Database {
    /// A pool that connects on demand, on the current runtime.
    pub fn new(config: &config::Database, cache: Cache) -> Result<Self> {
        let runtime = Handle::current();
        let mut manager = ManagerConfig::<AsyncPgConnection>::default();
        let (handle, reconnects) = (runtime.clone(), Reconnects::default());
        manager.custom_setup = Box::new(move |url| {
            let (handle, url, reconnects) = (handle.clone(), url.to_owned(), reconnects.clone());
            let failed = |error: String| ConnectionError::BadConnection(error);
            Box::pin(async move {
                let attempt = reconnects.begin(Instant::now()).ok_or_else(|| failed("the last attempt failed a moment ago".to_owned()))?;
                // A task ends its attempt, even if nobody waits for it any more.
                let connecting = handle.spawn(async move {
                    let connected = super::postgres::connect(&url).await;
                    attempt.end(connected.is_ok(), Instant::now());
                    connected
                });
                connecting.await.map_err(|error| failed(error.to_string()))?
            })
        });
        let manager = AsyncDieselConnectionManager::new_with_config(config.url.expose_secret(), manager);
        let pool = Pool::builder(manager)
            .max_size(config.pool_size)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .create_timeout(Some(ACQUIRE_TIMEOUT))
            .recycle_timeout(Some(ACQUIRE_TIMEOUT))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(Error::internal)?;
        Ok(Self {
            pool,
            permits: Arc::new(Semaphore::new(config.pool_size)),
            deadline: API_DEADLINE,
            statement_timeout: None,
            runtime,
            tasks: TaskTracker::new(),
            cache,
            idle_dropped: Arc::default(),
            breaker: None,
        })
    }

    /// A part of the pool for the API, with short deadlines, so that the worker is never starved by it.
    #[must_use]
    pub fn api_share(&self, connections: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(connections)), ..self.clone() }
    }

    /// A part of the pool for background work, with longer deadlines, that leaves a failing server alone.
    #[must_use]
    pub fn worker_share(&self, connections: usize, breaker: Option<Breaker>) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            deadline: WORKER_DEADLINE,
            statement_timeout: Some("SET LOCAL statement_timeout = '5s'"),
            breaker,
            ..self.clone()
        }
    }

    /// The same for an operator's work, which may look through everything.
    #[must_use]
    pub fn patient(&self) -> Self {
        Self { deadline: PATIENCE, statement_timeout: Some("SET LOCAL statement_timeout = '30min'"), ..self.clone() }
    }

    /// Runs queries on a connection, outside a transaction.
    pub async fn read<T, F>(&self, run: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut AsyncPgConnection) -> BoxFuture<'c, Result<T>>,
    {
        let permit = self.admit()?;
        let reading = async {
            let deadline = Instant::now() + self.deadline;
            let (_share, mut connection) = self.acquire(deadline).await?;
            match tokio::time::timeout_at(deadline, run(&mut connection)).await {
                Ok(result) => result,
                Err(late) => {
                    // The server may still be at it: nobody else gets this connection.
                    drop(Object::take(connection));
                    Err(Error::unavailable(late))
                }
            }
        };
        noted(permit, reading.await)
    }

    /// Waits while the server is left alone; `false`: it was not.
    pub async fn ready(&self) -> bool {
        match &self.breaker {
            Some(breaker) => breaker.ready().await,
            None => false,
        }
    }

    fn admit(&self) -> Result<Option<Permit>> {
        Ok(self.breaker.as_ref().map(Breaker::admit).transpose()?)
    }

    async fn acquire(&self, deadline: Instant) -> Result<(tokio::sync::OwnedSemaphorePermit, Object<AsyncPgConnection>)> {
        let acquiring = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?;
            loop {
                match self.pool.get().await {
                    Ok(connection) => return Ok((permit, connection)),
                    // The server gives no more (53300); one of those that are in use may come back in time.
                    Err(PoolError::Backend(_)) if self.pool.status().size > 0 => tokio::time::sleep(LOOK_AGAIN).await,
                    Err(error) => return Err(Error::unavailable(error)),
                }
            }
        };
        tokio::time::timeout_at(deadline.min(Instant::now() + ACQUIRE_TIMEOUT), acquiring)
            .await
            .unwrap_or_else(|late| Err(Error::unavailable(late)))
    }

    /// (connections in use, connections open, the most there may be)
    pub fn usage(&self) -> (usize, usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.size, status.max_size)
    }

    /// Waits for transactions in flight, then closes every connection.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.pool.close();
    }
}

/// Tells the breaker what was found. Other failures than PostgreSQL's own say that it answers.
fn noted<T>(permit: Option<Permit>, result: Result<T>) -> Result<T> {
    if let Some(permit) = permit {
        permit.note(!matches!(&result, Err(error) if is_of_the_server(error)));
    }
    result
}

/// Whether it is PostgreSQL that failed: no connection, no answer in time, or an answer that says "not now".
fn is_of_the_server(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    error.kind() == Kind::Unavailable
        && source.is_some_and(|source| source.is::<diesel::result::Error>() || source.is::<PoolError>() || source.is::<Elapsed>())
}
