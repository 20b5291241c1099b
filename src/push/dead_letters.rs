//! Dead letters, for operators: looked at, decided anew, or thrown away.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::store::{self, Kept};
use crate::error::Result;
use crate::infra::db::{Connection, Tx};

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub reason: Option<String>,
    pub user_id: Option<Uuid>,
    pub message_id: Option<String>,
    /// Those that died before.
    pub before: Option<DateTime<Utc>>,
}

/// A request that died.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub message_id: String,
    /// Absent where no user could be read.
    pub user_id: Option<Uuid>,
    pub reason: String,
    /// Field names, no values.
    pub detail: String,
    pub attempts: i32,
    pub correlation_id: String,
    pub died_at: DateTime<Utc>,
    /// As it came.
    pub body: Vec<u8>,
}

impl From<Kept> for DeadLetter {
    fn from(kept: Kept) -> Self {
        Self {
            message_id: kept.message_id,
            user_id: Some(kept.user_id).filter(|id| !id.is_nil()),
            reason: kept.reason.unwrap_or_default(),
            detail: kept.detail.unwrap_or_default(),
            attempts: kept.attempts,
            correlation_id: kept.correlation_id.unwrap_or_default(),
            died_at: kept.decided_at,
            body: kept.body.unwrap_or_default(),
        }
    }
}

/// At most `limit`, the newest first.
pub async fn list_dead(conn: &mut Connection, filter: &Filter, limit: i64) -> Result<Vec<DeadLetter>> {
    Ok(store::list_dead(conn, filter, limit).await?.into_iter().map(DeadLetter::from).collect())
}

/// How many there are.
pub async fn count(conn: &mut Connection, filter: &Filter) -> Result<u64> {
    Ok(store::count_dead(conn, filter).await?.unsigned_abs())
}

/// Has at most `limit` decided anew by the worker, against preferences and tokens as they are then; returns how many. Safe to
/// repeat: one that waits already is dead no more.
pub async fn redrive(tx: &mut Tx, filter: &Filter, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    Ok(store::update_dead_due(tx, filter, now, limit).await?)
}

/// Throws at most `limit` away; returns how many.
pub async fn purge(tx: &mut Tx, filter: &Filter, limit: i64) -> Result<usize> {
    Ok(store::delete_dead(tx, filter, limit).await?)
}
