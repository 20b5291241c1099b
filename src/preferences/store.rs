//! The preferences table.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::schema::preferences;

#[derive(Insertable)]
#[diesel(table_name = preferences)]
struct NewPreference<'a> {
    user_id: Uuid,
    channel: &'a str,
    enabled: bool,
    updated_at: DateTime<Utc>,
}

pub async fn upsert(conn: &mut AsyncPgConnection, user_id: Uuid, changes: &[(&str, bool)], now: DateTime<Utc>) -> QueryResult<usize> {
    if changes.is_empty() {
        return Ok(0);
    }
    let rows: Vec<_> =
        changes.iter().map(|(channel, enabled)| NewPreference { user_id, channel, enabled: *enabled, updated_at: now }).collect();
    diesel::insert_into(preferences::table)
        .values(rows)
        .on_conflict((preferences::user_id, preferences::category, preferences::channel))
        .do_update()
        .set((preferences::enabled.eq(excluded(preferences::enabled)), preferences::updated_at.eq(excluded(preferences::updated_at))))
        .execute(conn)
        .await
}
