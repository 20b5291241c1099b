//! Locks by name that end with the transaction, in PostgreSQL.

use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::prepared::Prepared;

#[derive(QueryableByName)]
struct Locked {
    #[diesel(sql_type = Bool)]
    locked: bool,
}

/// Takes each lock until the transaction ends, unless another transaction has it; one answer a name, in order.
///
/// Two names that share a hash by chance only wait for each other.
pub async fn try_lock(conn: &mut AsyncPgConnection, names: &[String]) -> QueryResult<Vec<bool>> {
    let locking = diesel::sql_query(
        "SELECT pg_try_advisory_xact_lock(hashtextextended(name, 0)) AS locked FROM unnest($1) WITH ORDINALITY AS t(name, place) ORDER BY place",
    );
    let rows: Vec<Locked> = Prepared(locking.bind::<Array<Text>, _>(names)).load(conn).await?;
    Ok(rows.into_iter().map(|row| row.locked).collect())
}

/// Waits for the lock and takes it until the transaction ends.
pub async fn lock(conn: &mut AsyncPgConnection, name: &str) -> QueryResult<()> {
    diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))").bind::<Text, _>(name).execute(conn).await?;
    Ok(())
}
