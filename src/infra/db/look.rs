//! Whether PostgreSQL answers, for probes: said within a second, and not by one connection alone.

use std::time::Duration;

use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};

use super::Database;
use crate::error::Result;
use crate::infra::migrations;
use crate::infra::postgres::Server;

/// For all looks of one question. What a look began goes on behind it, within its own deadlines.
const DEADLINE: Duration = Duration::from_millis(900);

impl Database {
    /// Whether PostgreSQL answers, by two looks out of three, or by the first if that was good: a connection that died says nothing
    /// of the server. A new one that was refused does, and for a second no other is tried.
    pub async fn answers(&self) -> bool {
        self.two_of_three(|db| async move {
            db.read(|conn| Box::pin(async move { Ok(conn.batch_execute("SELECT 1").await?) })).await?;
            Ok(true)
        })
        .await
    }

    /// The same, with every migration of this binary applied.
    pub async fn answers_with_our_schema(&self) -> bool {
        self.two_of_three(|db| async move { db.schema_is_current().await }).await
    }

    async fn two_of_three<F>(&self, look: impl Fn(Self) -> F) -> bool
    where
        F: Future<Output = Result<bool>> + Send + 'static,
    {
        let looking = async {
            // A task: whoever stops waiting for it does not leave a query behind on a connection of the pool.
            let look = async || matches!(self.tasks.spawn_on(look(self.clone()), &self.runtime).await, Ok(Ok(true)));
            look().await || (look().await && look().await)
        };
        tokio::time::timeout(DEADLINE, looking).await.unwrap_or(false)
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
}
