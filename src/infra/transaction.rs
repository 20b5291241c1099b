//! Write transactions: committed whole or not at all, begun again where the server took them back, and finished whoever hangs up.

use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel_async::pooled_connection::deadpool::Object;
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, SimpleAsyncConnection as _, TransactionManager as _};
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::backoff::Delays;
use super::cache::CacheEntry;
use super::db::Database;
use super::outbox;
use crate::error::{Error, Result};

/// How often a transaction that the server took back is begun again.
const RETRIES: u32 = 3;

/// Before the first of them; jittered and growing, so that two that met do not meet again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

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
        let permit = self.admit()?;
        let task = async move { super::db::noted(permit, this.write_until_settled(run).await) };
        let task = self.writes.spawn_on(tracing::Instrument::in_current_span(task), &self.runtime);
        task.await.map_err(Error::internal)?
    }

    /// Again where the server took it back: nothing of it was done.
    async fn write_until_settled<T, F>(&self, run: F) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>> + Clone,
    {
        let (deadline, mut pauses) = (Instant::now() + self.deadline, Delays::from(FIRST_PAUSE));
        for _ in 0..RETRIES {
            match self.write_once(run.clone(), deadline).await {
                Err(error) if is_taken_back(&error) && Instant::now() < deadline => {
                    tracing::debug!(error = error.chain(), "the transaction is begun again");
                    metrics::counter!("database_retries_total").increment(1);
                    tokio::time::sleep(pauses.next_delay()).await;
                }
                settled => return settled,
            }
        }
        self.write_once(run, deadline).await
    }

    async fn write_once<T, F>(&self, run: F, deadline: Instant) -> Result<T>
    where
        F: for<'c> FnOnce(&'c mut Tx) -> BoxFuture<'c, Result<T>>,
    {
        let (_share, connection) = self.acquire().await?;
        let mut tx = Tx { connection, forgotten: Vec::new() };
        let result = match tokio::time::timeout_at(deadline, self.transact(&mut tx, run)).await {
            Ok(result) => result,
            Err(late) => {
                drop(Object::take(tx.connection));
                return Err(Error::unavailable(late));
            }
        };
        let Tx { connection, forgotten } = tx;
        match &result {
            Ok(_) => {
                drop(connection);
                // The outbox rows make sure of it; doing it now makes it prompt. A failure is the relay's to repeat.
                let _ = self.cache.forget(&forgotten).await;
            }
            // Of a server that was primary and is no more; all that lead there are of no use.
            Err(error) if is_read_only(error) => {
                drop(Object::take(connection));
                self.pool.retain(|_, _| false);
            }
            Err(_) => drop(connection),
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
}

/// Whether the server rolled it back for the sake of another (40001, 40P01), or could not have begun it (25006).
fn is_taken_back(error: &Error) -> bool {
    match cause(error) {
        Some(DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
        // Diesel gives no SQLSTATE.
        Some(DieselError::DatabaseError(DatabaseErrorKind::Unknown, said)) => said.message().contains("deadlock detected"),
        _ => is_read_only(error),
    }
}

fn is_read_only(error: &Error) -> bool {
    matches!(cause(error), Some(DieselError::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _)))
}

fn cause(error: &Error) -> Option<&DieselError> {
    std::error::Error::source(error)?.downcast_ref()
}
