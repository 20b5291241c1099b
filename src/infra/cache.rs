//! Versioned values in Redis: never needed for truth, never older than what was forgotten.
//!
//! A value is kept as `<version>|<payload>`. Forgetting leaves `<version>|` behind, so that a reader who fetched an older
//! version before the change cannot write it back afterwards. Every failure reads as a miss; after one, Redis is left
//! alone for a moment so that a dead server costs each request nothing.

mod connection;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::{self, Script};
use secrecy::SecretString;

pub use connection::CacheError;
use connection::RedisConnection;

/// How long the watermark of a forgotten entry stays: longer than any reader may hold an old version.
const WATERMARK_SECONDS: u64 = 120;

/// Writes unless a newer version, or its watermark, stands there. KEYS: entries; ARGV: ttl, value, ttl, value …
const PUT_IF_NEWER: &str = r"
for i, key in ipairs(KEYS) do
  local value = ARGV[2 * i]
  local current = redis.pcall('GET', key)
  if type(current) == 'table' then redis.call('DEL', key); current = false end
  local stands = current and tonumber(string.match(current, '^(%d+)|')) or -1
  local comes = tonumber(string.match(value, '^(%d+)|'))
  local watermark = string.sub(value, -1) == '|'
  if comes > stands or (comes == stands and (watermark or string.sub(current, -1) ~= '|')) then
    redis.call('SET', key, value, 'EX', ARGV[2 * i - 1])
  end
end
return #KEYS";

/// A key and the version up to which its value is known to be old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    pub key: String,
    pub version: i64,
}

/// A value to keep.
#[derive(Clone, Debug)]
pub struct CacheValue {
    pub key: String,
    pub version: i64,
    pub payload: String,
    pub ttl: Duration,
}

/// Something to be counted, for as long as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub key: String,
    pub ttl: Duration,
}

/// What is kept in Redis under one key prefix. Clones share the connection.
#[derive(Clone)]
pub struct Cache {
    redis: RedisConnection,
    put: Arc<Script>,
    prefix: Arc<str>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Cache {
    /// Connects on demand, on the current runtime.
    pub fn new(url: &SecretString, prefix: &str) -> crate::error::Result<Self> {
        let redis = RedisConnection::new(url, &format!("{prefix}:v1:probe"))?;
        Ok(Self { redis, put: Arc::new(Script::new(PUT_IF_NEWER)), prefix: prefix.into() })
    }

    /// The same over a connection of the current runtime's own.
    pub fn on_this_runtime(&self) -> crate::error::Result<Self> {
        Ok(Self { redis: self.redis.on_this_runtime()?, ..self.clone() })
    }

    /// The values of `keys`, in order; `None` where there is none, or one that cannot be read.
    pub async fn get_many(&self, keys: &[String]) -> Result<Vec<Option<(i64, String)>>, CacheError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let command = self.get_command(keys);
        let found = self.redis.run(async |connection| command.query_async(connection).await).await?;
        Ok(read_values(found))
    }

    /// The same, and the count of a counter with this once, in one round trip.
    pub async fn get_many_counting(&self, keys: &[String], counter: &Counter) -> Result<(Vec<Option<(i64, String)>>, u64), CacheError> {
        let mut both = redis::pipe();
        both.add_command(self.get_command(keys));
        self.count_into(&mut both, counter);
        let (found, counted) = self.redis.run(async |connection| both.query_async(connection).await).await?;
        Ok((read_values(found), counted))
    }

    /// The count of a counter with this once.
    pub async fn count(&self, counter: &Counter) -> Result<u64, CacheError> {
        let mut counting = redis::pipe();
        self.count_into(&mut counting, counter);
        let (counted,): (u64,) = self.redis.run(async |connection| counting.query_async(connection).await).await?;
        Ok(counted)
    }

    /// Takes one back that was counted; where that fails it stays counted.
    pub async fn uncount(&self, counter: &Counter) {
        let (key, mut taking_back) = (self.full(&counter.key), redis::pipe());
        // A window that has just ended must not come back for ever.
        taking_back.cmd("DECR").arg(&key).ignore().cmd("EXPIRE").arg(&key).arg(counter.ttl.as_secs().max(1)).ignore();
        let _ = self.redis.run(async |connection| taking_back.exec_async(connection).await).await;
    }

    fn get_command(&self, keys: &[String]) -> redis::Cmd {
        let mut command = redis::cmd("MGET");
        for key in keys {
            command.arg(self.full(key));
        }
        command
    }

    /// Counters expire with their window, which is part of their name.
    fn count_into(&self, pipeline: &mut redis::Pipeline, counter: &Counter) {
        let key = self.full(&counter.key);
        pipeline.cmd("INCR").arg(&key).cmd("EXPIRE").arg(&key).arg(counter.ttl.as_secs().max(1)).ignore();
    }

    /// Keeps the values that are newer than what stands there.
    pub async fn put_many(&self, values: &[CacheValue]) -> Result<(), CacheError> {
        let entries = values.iter().map(|value| (&value.key, value.ttl.as_secs(), format!("{}|{}", value.version, value.payload)));
        self.put(entries.collect()).await
    }

    /// Drops what is cached up to these versions, and keeps it from coming back.
    pub async fn forget(&self, entries: &[CacheEntry]) -> Result<(), CacheError> {
        let mut newest: HashMap<&String, i64> = HashMap::new();
        for entry in entries {
            let version = newest.entry(&entry.key).or_insert(entry.version);
            *version = entry.version.max(*version);
        }
        self.put(newest.into_iter().map(|(key, version)| (key, WATERMARK_SECONDS, format!("{version}|"))).collect()).await
    }

    async fn put(&self, entries: Vec<(&String, u64, String)>) -> Result<(), CacheError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut call = self.put.prepare_invoke();
        for (key, ttl_seconds, value) in entries {
            call.key(self.full(key)).arg(ttl_seconds).arg(value);
        }
        self.redis.run(async |connection| call.invoke_async::<i64>(connection).await).await.map(drop)
    }

    /// Whether Redis is used: not for a moment after a failure.
    pub async fn ping(&self) -> Result<(), CacheError> {
        self.redis.run(async |connection| redis::cmd("PING").query_async::<()>(connection).await).await
    }

    /// What Redis says of itself, as `name:value` lines, however it has behaved before.
    pub async fn info(&self) -> Result<String, CacheError> {
        self.redis.attempt(async |connection| redis::cmd("INFO").query_async::<String>(connection).await).await
    }

    fn full(&self, key: &str) -> String {
        format!("{}:v1:{key}", self.prefix)
    }
}

fn read_values(found: Vec<Option<Vec<u8>>>) -> Vec<Option<(i64, String)>> {
    found.into_iter().map(|value| value.as_deref().and_then(read_value)).collect()
}

fn read_value(bytes: &[u8]) -> Option<(i64, String)> {
    let (version, payload) = std::str::from_utf8(bytes).ok()?.split_once('|')?;
    (!payload.is_empty()).then_some(())?;
    Some((version.parse().ok()?, payload.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watermark_and_garbage_are_misses() {
        assert_eq!(read_value(b"7|{}"), Some((7, "{}".to_owned())));
        for miss in [b"7|".as_slice(), b"", b"|x", b"x|y", b"7", b"\xff|x"] {
            assert_eq!(read_value(miss), None);
        }
    }
}
