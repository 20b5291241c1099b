//! The migrations in the binary, applied by one process at a time.

use std::time::{Duration, Instant};

use diesel::RunQueryDsl as _;
use diesel::connection::SimpleConnection as _;
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use tokio::runtime::Handle;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();

/// Any fixed number does, as long as all processes take the same one; it is held until the session ends. Tried and not waited
/// for, because waiting would block a thread that the process's end waits for.
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock(7523419871) AS locked";

/// A change of a table waits for those who use it, and whoever comes meanwhile waits behind it. So it does not wait for longer
/// than requests do for a lock (500 ms), and is tried again.
const LIMITS: &str = "SET statement_timeout = 0; SET lock_timeout = '300ms'";

const PAUSE: Duration = Duration::from_millis(200);

/// Another process may be at a large table.
const PATIENCE: Duration = Duration::from_secs(600);

/// Applies what is missing, when no other process does; returns the names of what was applied.
pub async fn apply(url: &str) -> anyhow::Result<Vec<String>> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let waits_for = match apply_once(url).await {
            Ok(Some(applied)) => return Ok(applied),
            Ok(None) => "another process is migrating",
            Err(error) if error.to_string().contains("lock timeout") => "a table that is to be changed is in use",
            Err(error) => return Err(error),
        };
        anyhow::ensure!(started.elapsed() < PATIENCE, "{waits_for}, and has been for {PATIENCE:?}");
        if !told {
            tracing::info!(waits_for, "migrating waits");
            told = true;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[derive(diesel::QueryableByName)]
struct Tried {
    #[diesel(sql_type = diesel::sql_types::Bool)]
    locked: bool,
}

/// `None`: another process is at it.
async fn apply_once(url: &str) -> anyhow::Result<Option<Vec<String>>> {
    let url = url.to_owned();
    let runtime = Handle::current();
    let connection = runtime.spawn(async move { super::postgres::connect(&url).await }).await??;
    // The harness is synchronous and blocks on the connection, which a LocalSet's thread must not do.
    let applying = tokio::task::spawn_blocking(move || {
        let mut connection = AsyncConnectionWrapper::<AsyncPgConnection>::from(connection);
        connection.batch_execute("SET statement_timeout = '3s'")?;
        if !diesel::sql_query(TRY_LOCK).get_result::<Tried>(&mut connection)?.locked {
            return Ok(None);
        }
        connection.batch_execute(LIMITS)?;
        let applied = connection.run_pending_migrations(MIGRATIONS).map_err(|error| anyhow::anyhow!(error))?;
        Ok(Some(applied.iter().map(ToString::to_string).collect()))
    });
    applying.await?
}

/// The version of the newest migration in this binary.
pub fn newest() -> String {
    let migrations = diesel::migration::MigrationSource::<diesel::pg::Pg>::migrations(&MIGRATIONS).unwrap_or_default();
    migrations.iter().map(|migration| migration.name().version().to_string()).max().unwrap_or_default()
}
