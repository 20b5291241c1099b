//! Which sessions are alive.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::infra::schema::{sessions, users};

/// The user of a session that is alive.
pub async fn find_live_session(conn: &mut AsyncPgConnection, session_id: Uuid, now: DateTime<Utc>) -> QueryResult<Option<Uuid>> {
    sessions::table
        .inner_join(users::table)
        .filter(sessions::id.eq(session_id))
        .filter(sessions::ended_at.is_null())
        .filter(sessions::expires_at.gt(now))
        .filter(sessions::epoch.eq(users::session_epoch))
        .filter(users::is_active)
        .select(users::id)
        .first(conn)
        .await
        .optional()
}

/// The new epoch.
pub async fn update_epoch(conn: &mut AsyncPgConnection, user_id: Uuid) -> QueryResult<i32> {
    diesel::update(users::table.find(user_id))
        .set(users::session_epoch.eq(users::session_epoch + 1))
        .returning(users::session_epoch)
        .get_result(conn)
        .await
}

pub async fn update_session_epoch(conn: &mut AsyncPgConnection, session_id: Uuid, epoch: i32) -> QueryResult<usize> {
    diesel::update(sessions::table.find(session_id)).set(sessions::epoch.eq(epoch)).execute(conn).await
}

/// Ends the sessions of a user, but one that is kept; returns which.
pub async fn update_ended(
    conn: &mut AsyncPgConnection,
    user_id: Uuid,
    kept: Option<Uuid>,
    reason: &str,
    now: DateTime<Utc>,
) -> QueryResult<Vec<Uuid>> {
    // No session has the nil id.
    let ending = sessions::table.filter(sessions::user_id.eq(user_id)).filter(sessions::id.ne(kept.unwrap_or_default()));
    diesel::update(ending.filter(sessions::ended_at.is_null()))
        .set((sessions::ended_at.eq(now), sessions::end_reason.eq(reason)))
        .returning(sessions::id)
        .get_results(conn)
        .await
}
