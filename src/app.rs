//! What everything shares: built once, cheap to clone.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Role};
use crate::error::Result;
use crate::infra::access_token::AccessTokens;
use crate::infra::breaker::Breaker;
use crate::infra::cache::Cache;
use crate::infra::clock::Clock;
use crate::infra::connections::Connections;
use crate::infra::db::Database;
use crate::infra::gates::Gates;
use crate::infra::key_sighting::KeySightings;
use crate::infra::keys::ServerKeys;
use crate::infra::password_hash::PasswordHasher;
use crate::infra::rate_limit::RateLimiter;
use crate::infra::status::Status;
use crate::infra::telemetry;

/// Without Redis at most so many connections read cards, which leaves some to those who write.
const CARD_GATES: usize = 20;

/// For transactions in flight, at the very end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(4);

/// The service's parts, connected on demand.
#[derive(Clone, Debug)]
pub struct App {
    pub config: Arc<Config>,
    /// The API's share of the pool.
    pub db: Database,
    /// The background's share.
    pub worker_db: Database,
    pub cache: Cache,
    /// For reading a card that is not cached.
    pub card_gates: Gates,
    pub access_tokens: AccessTokens,
    pub keys: ServerKeys,
    pub key_sightings: KeySightings,
    pub hasher: PasswordHasher,
    pub user_limiter: RateLimiter,
    pub ip_limiter: RateLimiter,
    pub clock: Clock,
    pub status: Status,
    pub connections: Connections,
}

impl App {
    /// Builds everything on the current runtime, which must be the main one; connects to nothing yet.
    pub fn new(config: Config, role: Role, clock: Clock) -> Result<Self> {
        // Before anything is counted: what was counted before is lost.
        telemetry::metrics();
        let cache = Cache::new(&config.redis_url, &config.redis_prefix)?;
        let pool = Database::new(&config.database, cache.clone())?;
        let status = Status::default();
        // So that neither part starves the other: 30 and 15 of the usual 50, the rest to spare. A part that runs alone
        // gets all, but for what health asks of a worker.
        let size = config.database.pool_size;
        let (api, worker) = match role {
            Role::Api => (size, 1),
            Role::Worker => ((size / 5).max(1), size - size / 5),
            Role::Both => ((size * 3 / 5).max(1), (size * 3 / 10).max(1)),
        };
        let breaker = role.has_worker().then(|| Breaker::new("database", config.breaker_open, status.clone()));
        Ok(Self {
            db: pool.api_share(api),
            worker_db: pool.worker_share(worker, breaker),
            cache,
            card_gates: Gates::new(CARD_GATES),
            access_tokens: AccessTokens::new(&config.identity)?,
            keys: {
                let (current, previous) = config.identity.root_secrets();
                ServerKeys::new(current, previous)
            },
            key_sightings: KeySightings::default(),
            hasher: PasswordHasher::new(config.identity.bcrypt_cost)?,
            user_limiter: RateLimiter::new("default_user", config.limits.default_user),
            ip_limiter: RateLimiter::new("default_ip", config.limits.default_ip),
            clock,
            status,
            connections: Connections::default(),
            config: Arc::new(config),
        })
    }

    /// The same for an HTTP worker's thread, with its own connections to Redis.
    pub fn on_this_runtime(&self) -> Result<Self> {
        Ok(Self { cache: self.cache.on_this_runtime()?, ..self.clone() })
    }

    /// Lets transactions in flight finish and closes the pool; the last thing before the process ends.
    pub async fn close(&self) {
        if tokio::time::timeout(CLOSE_DEADLINE, self.db.close()).await.is_err() {
            tracing::warn!("transactions in flight were cut; PostgreSQL rolls them back");
        }
    }
}
