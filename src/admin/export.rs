//! Everything stored about one person (GDPR, articles 15 and 20).

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::store;
use crate::error::{Code, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;

/// One JSON object, without hashes; that it was handed over is recorded.
pub async fn export(tx: &mut Tx, user_id: Uuid, now: DateTime<Utc>) -> Result<Value> {
    let found = store::find_everything(tx, user_id, now).await?;
    let everything = found.ok_or(Code::UserNotFound)?;
    audit::record(tx, &Cause::without_request(Actor::Operator, now), Action::Exported, user_id).await?;
    Ok(everything)
}
