//! The one PostgreSQL pool, its shares, and the two ways to use a connection: [`Database::read`] and [`Database::write`].
//!
//! Every connection is made on the main runtime. An actix worker has a runtime of its own, and a connection lives and
//! dies with the runtime that made it.

use std::sync::Arc;
use std::time::Duration;

use diesel::ConnectionError;
use diesel_async::pooled_connection::deadpool::{Object, Pool, PoolError};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _, TransactionManager as _};
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio_util::task::TaskTracker;

use super::breaker::{Breaker, Permit};
use super::cache::{Cache, CacheEntry};
use super::postgres::Server;
use super::{migrations, outbox};
use crate::config;
use crate::error::{Error, Kind, Result};

pub use diesel_async::AsyncPgConnection as Connection;

/// Waiting for a share and a connection together.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(1);

/// The API's whole use of a connection: two statements cut at their own second.
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
    /// Write transactions in flight; they end by themselves when their caller hangs up.
    writes: TaskTracker,
    cache: Cache,
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
        let handle = runtime.clone();
        manager.custom_setup = Box::new(move |url| {
            let (handle, url) = (handle.clone(), url.to_owned());
            Box::pin(async move {
                let connecting = handle.spawn(async move { super::postgres::connect(&url).await });
                connecting.await.map_err(|error| ConnectionError::BadConnection(error.to_string()))?
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
            writes: TaskTracker::new(),
            cache,
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
            let (_share, mut connection) = self.acquire().await?;
            match tokio::time::timeout(self.deadline, run(&mut connection)).await {
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

    /// Runs `run` in a transaction and commits it if it returns `Ok`; then forgets the cache entries it named.
    ///
    /// The transaction is a task of its own: a caller that hangs up neither cuts it short nor leaves a connection in a
    /// state that the next one would inherit (diesel-async #198).
    pub async fn write<T, F>(&self, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let this = self.clone();
        let span = tracing::Span::current();
        let permit = self.admit()?;
        let task = async move { noted(permit, this.write_now(run).await) };
        let task = self.writes.spawn_on(tracing::Instrument::instrument(task, span), &self.runtime);
        task.await.map_err(Error::internal)?
    }

    async fn write_now<T, F>(&self, run: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>>,
    {
        let (_share, connection) = self.acquire().await?;
        let mut tx = Tx { connection, forgotten: Vec::new() };
        let result = match tokio::time::timeout(self.deadline, self.transact(&mut tx, run)).await {
            Ok(result) => result,
            Err(late) => {
                drop(Object::take(tx.connection));
                return Err(Error::unavailable(late));
            }
        };
        let Tx { connection, forgotten } = tx;
        drop(connection);
        if result.is_ok() {
            // The outbox rows make sure of it; doing it now makes it prompt. A failure is the relay's to repeat.
            let _ = self.cache.forget(&forgotten).await;
        }
        result
    }

    async fn transact<T, F>(&self, tx: &mut Tx, run: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>>,
    {
        AnsiTransactionManager::begin_transaction(&mut *tx.connection).await?;
        if let Some(limit) = self.statement_timeout {
            tx.connection.batch_execute(limit).await?;
        }
        match run(tx).await {
            Ok(value) => {
                AnsiTransactionManager::commit_transaction(&mut *tx.connection).await?;
                Ok(value)
            }
            Err(error) => {
                if AnsiTransactionManager::rollback_transaction(&mut *tx.connection).await.is_err() {
                    tracing::debug!("the rollback failed; the connection is discarded");
                }
                Err(error)
            }
        }
    }

    async fn acquire(&self) -> Result<(tokio::sync::OwnedSemaphorePermit, Object<AsyncPgConnection>)> {
        let acquiring = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?;
            let connection = self.pool.get().await.map_err(Error::unavailable)?;
            Ok((permit, connection))
        };
        tokio::time::timeout(ACQUIRE_TIMEOUT, acquiring).await.unwrap_or_else(|late| Err(Error::unavailable(late)))
    }

    /// Whether PostgreSQL answers.
    pub async fn ping(&self) -> Result<()> {
        self.read(|conn| Box::pin(async move { Ok(conn.batch_execute("SELECT 1").await?) })).await
    }

    /// Whether every migration of this binary is applied.
    pub async fn schema_is_current(&self) -> Result<bool> {
        #[derive(diesel::QueryableByName)]
        struct Found {
            #[diesel(sql_type = diesel::sql_types::Bool)]
            found: bool,
        }
        let newest = diesel::sql_query("SELECT EXISTS (SELECT FROM __diesel_schema_migrations WHERE version = $1) AS found")
            .bind::<diesel::sql_types::Text, _>(migrations::newest());
        self.read(|conn| Box::pin(async move { Ok(newest.get_result::<Found>(conn).await?.found) })).await
    }

    pub async fn server(&self) -> Result<Server> {
        const SERVER: &str = "SELECT current_setting('server_version') AS version, clock_timestamp() AS now,
            current_setting('lc_messages') AS lc_messages";
        self.read(|conn| Box::pin(async move { Ok(diesel::sql_query(SERVER).get_result(conn).await?) })).await
    }

    /// (connections in use, connections open, the most there may be)
    pub fn usage(&self) -> (usize, usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.size, status.max_size)
    }

    /// Waits for transactions in flight, then closes every connection.
    pub async fn close(&self) {
        self.writes.close();
        self.writes.wait().await;
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

/// A transaction: a connection, and what is to be forgotten once it is committed.
pub struct Tx {
    connection: Object<AsyncPgConnection>,
    forgotten: Vec<CacheEntry>,
}

impl Tx {
    /// Forgets a cache entry after the commit; a row of the same commit makes sure of it.
    pub async fn forget(&mut self, entry: CacheEntry, now: chrono::DateTime<chrono::Utc>) -> Result<()> {
        outbox::insert_forgotten(&mut self.connection, &entry, now).await?;
        self.forgotten.push(entry);
        Ok(())
    }
}

impl std::ops::Deref for Tx {
    type Target = AsyncPgConnection;
    fn deref(&self) -> &Self::Target {
        &self.connection
    }
}

impl std::ops::DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.connection
    }
}
