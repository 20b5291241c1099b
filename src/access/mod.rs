//! Who is calling, and what for: a live session of a user, a sibling service's key with its scopes, or an operator.
//!
//! A session is alive if its row is, its user is active, and its epoch is the user's. The answer is cached for half a
//! minute and forgotten when it changes; PostgreSQL stands behind it.

pub mod staff;
mod staff_store;
mod store;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::app::App;
use crate::card::{self, Card};
use crate::config::{Scope, ServiceKey};
use crate::error::{Allowance, Code, Error, Result};
use crate::infra::cache::{CacheEntry, CacheValue, Counter};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events::{self, Event, EventType};
use crate::infra::key_sighting;
use staff::StaffSession;

/// The only version of a session: once it is forgotten it does not come back to life.
const ALIVE: i64 = 0;

const SESSION_TTL: Duration = Duration::from_secs(30);

/// What a request waits at most for a note that it can do without.
const NOTING: Duration = Duration::from_millis(50);

/// A live session and its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub session_id: Uuid,
    pub user_id: Uuid,
}

/// A sibling service that showed its key.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    scopes: Vec<Scope>,
    /// Absent where it has no key.
    key_sha256: Option<[u8; 32]>,
}

/// One of those who may ask.
#[derive(Clone, Debug)]
pub enum Caller {
    User(Session),
    /// Somebody at the operators' pages, second factor and all.
    Admin(StaffSession),
    Service(Service),
}

impl Service {
    /// Who asks without a key where `SERVICE_AUTH=off` lets him.
    pub fn unnamed() -> Self {
        Self { name: "unnamed".to_owned(), scopes: vec![Scope::UsersRead], key_sha256: None }
    }

    /// Whether its key carries the scope.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, format!("The service key lacks the scope {}.", scope.as_str())))
    }
}

impl Caller {
    /// A user may read himself, an admin anybody, and so may a service with `users:read`.
    pub fn may_read(&self, user_id: Uuid) -> Result<()> {
        match self {
            Caller::User(session) if session.user_id == user_id => Ok(()),
            Caller::User(_) => Err(Error::new(Code::Forbidden, "This is another user's.")),
            Caller::Admin(_) => Ok(()),
            Caller::Service(service) => service.require(Scope::UsersRead),
        }
    }

    /// Whether it is shown what a user does not see of himself.
    pub fn sees_activity(&self) -> bool {
        matches!(self, Caller::Service(_) | Caller::Admin(_))
    }
}

/// A live session, and what was learned on the way.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub session: Session,
    /// The user's card, if it was cached.
    pub card: Option<Card>,
    pub allowance: Option<Allowance>,
}

/// The session of an access token, if both are alive, and its user within his limit.
///
/// One round trip to Redis reads session and card and counts the request.
pub async fn authenticate(app: &App, token: &str) -> Result<Authenticated> {
    let now = app.clock.now();
    let claims = app.access_tokens.verify(token, now)?;
    let session = Session { session_id: claims.sid, user_id: claims.sub };
    let caller = session.user_id.to_string();
    let counter = app.user_limiter.counter(&caller, now);
    let (cached, card, counted) = read_cached(app, session, counter.as_ref()).await;
    if cached != Some(session)
        && let Err(refused) = confirm(app, session, now).await
    {
        // Who holds a token of a session that has ended must not use up what belongs to those that live.
        if let (Some(counter), Some(_)) = (counter, counted) {
            app.cache.uncount(&counter).await;
        }
        return Err(refused);
    }
    let allowance = app.user_limiter.judge(&caller, counted, now)?;
    Ok(Authenticated { session, card, allowance })
}

async fn read_cached(app: &App, session: Session, counter: Option<&Counter>) -> (Option<Session>, Option<Card>, Option<u64>) {
    let keys = [session_key(session.session_id), card::key(session.user_id)];
    let found = match counter {
        Some(counter) => app.cache.get_many_counting(&keys, counter).await.map(|(found, counted)| (found, Some(counted))),
        None => app.cache.get_many(&keys).await.map(|found| (found, None)),
    };
    let Ok((found, counted)) = found else { return (None, None, None) };
    let mut found = found.into_iter();
    let cached = found.next().flatten().and_then(|(_, payload)| serde_json::from_str(&payload).ok());
    (cached, found.next().flatten().and_then(|value| card::read_value(value, session.user_id)), counted)
}

/// Asks PostgreSQL, and has the answer cached.
async fn confirm(app: &App, session: Session, now: DateTime<Utc>) -> Result<()> {
    let alive = app.db.read(move |conn| async move { Ok(store::find_live_session(conn, session.session_id, now).await?) }.boxed()).await?;
    if alive != Some(session.user_id) {
        return Err(Error::new(Code::Unauthenticated, "The session has ended."));
    }
    if let Ok(payload) = serde_json::to_string(&session) {
        // Not kept means asked again.
        let value = CacheValue { key: session_key(session.session_id), version: ALIVE, payload, ttl: SESSION_TTL };
        let _ = app.cache.put_many(&[value]).await;
    }
    Ok(())
}

/// Whose key this is.
pub fn find_service(keys: &[ServiceKey], shown: &str) -> Option<Service> {
    let sha256: [u8; 32] = Sha256::digest(shown.as_bytes()).into();
    let key = keys.iter().find(|key| bool::from(key.sha256.ct_eq(&sha256)))?;
    Some(Service { name: key.name.clone(), scopes: key.scopes.clone(), key_sha256: Some(key.sha256) })
}

/// Notes, about once a minute, that a service showed its key. Nothing depends on it: where it cannot be noted, it is not.
pub async fn note_key(app: &App, service: &Service, now: DateTime<Utc>) {
    let Some(sha256) = service.key_sha256.filter(|sha256| app.key_sightings.is_due(*sha256, now)) else { return };
    let name = service.name.clone();
    let noting = app.db.read(move |conn| async move { Ok(key_sighting::upsert_used(conn, &sha256, &name, now).await?) }.boxed());
    if tokio::time::timeout(NOTING, noting).await.is_err() {
        tracing::debug!("the use of a service key was not noted");
    }
}

/// Ends every session of a user in the caller's transaction, by a new epoch.
pub async fn end_sessions(tx: &mut Tx, user_id: Uuid, reason: &str, cause: &Cause) -> Result<Card> {
    store::update_epoch(tx, user_id).await?;
    let ended = store::update_ended(tx, user_id, None, reason, cause.at).await?;
    announce_ended(tx, user_id, &ended, reason, cause).await
}

/// Ends every session of a user but this one, which moves to the new epoch.
pub async fn end_other_sessions(tx: &mut Tx, kept: Session, reason: &str, cause: &Cause) -> Result<Card> {
    let epoch = store::update_epoch(tx, kept.user_id).await?;
    store::update_session_epoch(tx, kept.session_id, epoch).await?;
    let ended = store::update_ended(tx, kept.user_id, Some(kept.session_id), reason, cause.at).await?;
    announce_ended(tx, kept.user_id, &ended, reason, cause).await
}

async fn announce_ended(tx: &mut Tx, user_id: Uuid, ended: &[Uuid], reason: &str, cause: &Cause) -> Result<Card> {
    for session_id in ended {
        forget_session(tx, *session_id, cause.at).await?;
    }
    let card = card::changed(tx, user_id, cause.at).await?;
    events::announce(tx, cause, ended.iter().map(|session_id| revoked(&card, *session_id, reason))).await?;
    Ok(card)
}

/// For gateways that verify tokens by themselves: this session's are good for nothing any more.
pub fn revoked(card: &Card, session_id: Uuid, reason: &str) -> Event {
    Event::new(EventType::SessionRevoked, card.user_id, card.version).with("session_id", session_id.to_string()).with("reason", reason)
}

/// Has a session's cached state forgotten after the caller's transaction.
pub async fn forget_session(tx: &mut Tx, session_id: Uuid, now: DateTime<Utc>) -> Result<()> {
    tx.forget(CacheEntry { key: session_key(session_id), version: ALIVE }, now).await
}

fn session_key(session_id: Uuid) -> String {
    format!("session:{session_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str, scopes: &[Scope]) -> ServiceKey {
        ServiceKey { name: name.into(), sha256: Sha256::digest(secret.as_bytes()).into(), scopes: scopes.to_vec() }
    }

    #[test]
    fn a_key_opens_what_its_scopes_say() {
        let keys = [key("gateway", "k1", &[Scope::UsersRead]), key("push", "k2", &[Scope::PushWrite])];
        let service = find_service(&keys, "k1").unwrap();
        assert_eq!(service.name, "gateway");
        assert!(service.require(Scope::UsersRead).is_ok());
        assert_eq!(service.require(Scope::PushWrite).unwrap_err().code, Code::Forbidden);
        assert!(find_service(&keys, "k3").is_none());
        assert!(Caller::Service(find_service(&keys, "k2").unwrap()).may_read(Uuid::nil()).is_err());
    }

    #[test]
    fn a_user_reads_only_himself() {
        let me = Uuid::now_v7();
        let caller = Caller::User(Session { session_id: Uuid::now_v7(), user_id: me });
        assert!(caller.may_read(me).is_ok());
        assert_eq!(caller.may_read(Uuid::now_v7()).unwrap_err().code, Code::Forbidden);
    }
}
