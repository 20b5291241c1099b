//! Keys come from the environment, which tells nothing of their age: here is kept since when each is seen, and its last use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::upsert::excluded;
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::schema::key_sightings;

/// A use is written down so often by each process.
const NOTED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Which uses this process wrote down lately.
#[derive(Clone, Debug, Default)]
pub struct KeySightings(Arc<Mutex<HashMap<[u8; 32], DateTime<Utc>>>>);

impl KeySightings {
    /// Whether this use is to be written down; said once a minute.
    pub fn is_due(&self, fingerprint: [u8; 32], now: DateTime<Utc>) -> bool {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = noted.get(&fingerprint).is_none_or(|last| now - last >= NOTED_EVERY);
        if is_due {
            noted.insert(fingerprint, now);
        }
        is_due
    }
}

/// A key as it is configured.
#[derive(Clone, Debug)]
pub struct Configured {
    /// A hash of it; nothing that could be used.
    pub fingerprint: [u8; 32],
    /// `service`, `signing` or `secret`.
    pub kind: &'static str,
    pub name: String,
}

/// A key that was seen.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = key_sightings)]
pub struct Sighting {
    pub fingerprint: Vec<u8>,
    pub kind: String,
    pub name: String,
    pub first_seen_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

/// A service showed its key.
pub async fn upsert_used(conn: &mut AsyncPgConnection, fingerprint: &[u8], name: &str, now: DateTime<Utc>) -> QueryResult<usize> {
    diesel::insert_into(key_sightings::table)
        .values((
            key_sightings::fingerprint.eq(fingerprint),
            key_sightings::kind.eq("service"),
            key_sightings::name.eq(name),
            key_sightings::first_seen_at.eq(now),
            key_sightings::last_used_at.eq(now),
        ))
        .on_conflict(key_sightings::fingerprint)
        .do_update()
        .set((key_sightings::last_used_at.eq(excluded(key_sightings::last_used_at)), key_sightings::name.eq(name)))
        .execute(conn)
        .await
}

/// Notes which keys are configured, and lists what is known of them, the oldest first.
pub async fn list_configured(conn: &mut AsyncPgConnection, keys: &[Configured], now: DateTime<Utc>) -> QueryResult<Vec<Sighting>> {
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            (
                key_sightings::fingerprint.eq(key.fingerprint.as_slice()),
                key_sightings::kind.eq(key.kind),
                key_sightings::name.eq(&key.name),
                key_sightings::first_seen_at.eq(now),
            )
        })
        .collect();
    diesel::insert_into(key_sightings::table).values(rows).on_conflict_do_nothing().execute(conn).await?;
    let fingerprints: Vec<&[u8]> = keys.iter().map(|key| key.fingerprint.as_slice()).collect();
    let known = key_sightings::table.filter(key_sightings::fingerprint.eq_any(fingerprints));
    known.order((key_sightings::first_seen_at, key_sightings::name)).select(Sighting::as_select()).load(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_is_noted_once_a_minute_for_each_key() {
        let (sightings, now) = (KeySightings::default(), DateTime::UNIX_EPOCH);
        assert!(sightings.is_due([1; 32], now));
        assert!(!sightings.is_due([1; 32], now + TimeDelta::seconds(59)));
        assert!(sightings.is_due([2; 32], now));
        assert!(sightings.is_due([1; 32], now + TimeDelta::seconds(60)));
    }
}
