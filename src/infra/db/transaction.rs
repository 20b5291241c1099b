//! Write transactions: committed whole or not at all, begun again where the server took them back, and finished whoever hangs up.

use std::sync::PoisonError;
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager as _};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::{Database, noted};
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::cache::CacheEntry;
use crate::infra::outbox;

/// How often a transaction that the server took back is begun again.
const RETRIES: u32 = 3;

/// Before the first of them; jittered and growing, so that two that met do not meet again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// From one time that the connections to a read-only server are dropped to the next.
const READ_ONLY_PAUSE: Duration = Duration::from_secs(5);

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

impl Database {
    /// Runs `run` in a transaction and commits it if it returns `Ok`; then forgets the cache entries it named.
    ///
    /// The transaction is a task of its own: a caller that hangs up neither cuts it short nor leaves a connection in a
    /// state that the next one would inherit (diesel-async #198). What it captured is cloned for each attempt.
    pub async fn write<T, F>(&self, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
    {
        let this = self.clone();
        self.detach(async move { this.repeat(run).await }).await
    }

    /// The same for what also acts outside, by publishing: whoever has it in hand tries it again, in his own time.
    pub async fn write_once<T, F>(&self, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let this = self.clone();
        let once = async move {
            let result = this.attempt(run, Instant::now() + this.deadline).await;
            if result.as_ref().is_err_and(is_read_only) {
                this.drop_idle();
            }
            result
        };
        self.detach(once).await
    }

    async fn detach<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let permit = self.admit()?;
        let task = async move { noted(permit, work.await) };
        let task = self.tasks.spawn_on(tracing::Instrument::in_current_span(task), &self.runtime);
        task.await.map_err(Error::internal)?
    }

    /// Again where the server took it back: nothing of it was done.
    async fn repeat<T, F>(&self, run: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Clone,
    {
        let (deadline, mut pauses) = (Instant::now() + self.deadline, Delays::from(FIRST_PAUSE));
        for _ in 0..RETRIES {
            let error = match self.attempt(run.clone(), deadline).await {
                Err(error) if is_taken_back(&error) || (is_read_only(&error) && self.drop_idle()) => error,
                settled => return settled,
            };
            tokio::time::sleep(pauses.next_delay()).await;
            if Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(error = error.chain(), "the transaction is begun again");
            metrics::counter!("database_retries_total").increment(1);
        }
        self.attempt(run, deadline).await
    }

    async fn attempt<T, F>(&self, run: F, deadline: Instant) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>>,
    {
        let (_share, connection) = self.acquire(deadline).await?;
        let mut tx = Tx { connection, forgotten: Vec::new() };
        let result = match tokio::time::timeout_at(deadline, self.transact(&mut tx, run)).await {
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

    /// Drops the connections to a server that was primary and is no more; `false`: that was done a moment ago, so it is the server
    /// that one gets, and another new connection would find the same.
    fn drop_idle(&self) -> bool {
        let mut dropped = self.idle_dropped.lock().unwrap_or_else(PoisonError::into_inner);
        if dropped.is_some_and(|dropped| dropped.elapsed() < READ_ONLY_PAUSE) {
            return false;
        }
        *dropped = Some(Instant::now());
        self.pool.retain(|_, _| false);
        true
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
}

/// Whether the server rolled it back for the sake of another (40001, 40P01).
fn is_taken_back(error: &Error) -> bool {
    match cause(error) {
        Some(DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
        // Diesel gives no SQLSTATE.
        Some(DieselError::DatabaseError(DatabaseErrorKind::Unknown, said)) => said.message().contains("deadlock detected"),
        _ => false,
    }
}

/// Whether it is no primary (25006).
fn is_read_only(error: &Error) -> bool {
    matches!(cause(error), Some(DieselError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _)))
}

fn cause(error: &Error) -> Option<&DieselError> {
    std::error::Error::source(error)?.downcast_ref()
}
