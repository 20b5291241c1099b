//! The migrations in the binary, applied by one process at a time.

use std::time::Duration;

use diesel::connection::SimpleConnection as _;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::runtime::Handle;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

/// Any fixed number does, as long as all processes take the same one; it is held until the session ends. The wait is short,
/// because it blocks a thread that the process's end would wait for.
const LOCK: &str = "SET lock_timeout = '1s'; SELECT pg_advisory_lock(7523419871); SET statement_timeout = 0; SET lock_timeout = '5s'";
const ATTEMPTS: u32 = 60;

/// Applies what is missing, when no other process does; returns the names of what was applied.
pub async fn apply(url: &str) -> anyhow::Result<Vec<String>> {
    let mut attempt = 1;
    loop {
        match apply_once(url).await {
            Err(error) if attempt < ATTEMPTS && error.to_string().contains("lock timeout") => {
                tracing::info!(attempt, "another process is migrating");
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            applied => return applied,
        }
    }
}

async fn apply_once(url: &str) -> anyhow::Result<Vec<String>> {
    let url = url.to_owned();
    let runtime = Handle::current();
    let connection = runtime.spawn(async move { super::postgres::connect(&url).await }).await??;
    // The harness is synchronous and blocks on the connection, which a LocalSet's thread must not do.
    let applying = tokio::task::spawn_blocking(move || -> anyhow::Result<Vec<String>> {
        let mut connection = AsyncConnectionWrapper::<AsyncPgConnection>::from(connection);
        connection.batch_execute("SET statement_timeout = '3s'")?;
        connection.batch_execute(LOCK)?;
        let applied = connection.run_pending_migrations(MIGRATIONS).map_err(|error| anyhow::anyhow!(error))?;
        Ok(applied.iter().map(ToString::to_string).collect())
    });
    applying.await?
}

/// The version of the newest migration in this binary.
pub fn newest() -> String {
    let migrations = diesel::migration::MigrationSource::<diesel::pg::Pg>::migrations(&MIGRATIONS).unwrap_or_default();
    migrations.iter().map(|migration| migration.name().version().to_string()).max().unwrap_or_default()
}
