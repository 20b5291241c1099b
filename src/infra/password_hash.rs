//! bcrypt, and Django's PBKDF2 to be replaced by it: one hash a core at a time, behind a short queue and on threads that
//! everything else goes before: a login storm cannot take the cores from other requests. Where many of these are served, one
//! core is left to them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::django_password::{DjangoFit, DjangoHash};
use super::footfall::Footfall;
use crate::error::{Error, Result};

/// Waiting beyond this answers "busy" at once.
const QUEUE: usize = 64;

/// Requests that may be on their way to each free place of the queue: they are counted against their limits and their account
/// is looked up, which sends most of a guesser's away.
const ADMITTED_A_PLACE: usize = 5;

/// Callers served in a second that a core is left to. A core makes some ten hashes meanwhile: with fewer callers it is the
/// sign-ins that are many.
const CROWD: NonZeroU32 = NonZeroU32::new(250).unwrap();

/// The longest password bcrypt reads whole; longer ones would be cut silently.
pub const MAX_BYTES: usize = 71;

/// What an unknown user's password is compared with after `$2b$` and the cost, so that it takes as long as a known one's: a salt
/// and, for the hash, chance.
const DUMMY: &str = "y1Y9yzwkpEzokgMAudhvVOnHIClej8ZK6yMkrlrHfCumFKh8YKksO";

/// Hashes and verifies passwords. Clones share the queue.
#[derive(Clone, Debug)]
pub struct PasswordHasher {
    cost: u32,
    permits: Arc<Semaphore>,
    /// All cores but one.
    permits_in_a_crowd: Arc<Semaphore>,
    callers: Footfall,
    waiting: Arc<AtomicUsize>,
    admitted: Arc<AtomicUsize>,
    dummy: Arc<str>,
    threads: Arc<Threads>,
}

impl PasswordHasher {
    pub fn new(cost: u32) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            cost,
            permits: Arc::new(Semaphore::new(cores)),
            permits_in_a_crowd: Arc::new(Semaphore::new((cores - 1).max(1))),
            callers: Footfall::new(CROWD),
            waiting: Arc::default(),
            admitted: Arc::default(),
            dummy: format!("$2b${cost:02}${DUMMY}").into(),
            threads: Arc::new(Threads::new(cores)?),
        })
    }

    /// Lets a request begin that will need a hash, or says "busy" at once: to be asked before any other work is done for a
    /// password, so that a storm of logins costs nothing else either. Held until the hash is asked for.
    pub fn admit(&self) -> Result<Place> {
        let free = QUEUE.saturating_sub(self.waiting.load(Ordering::Acquire));
        Place::take(&self.admitted, free * ADMITTED_A_PLACE).ok_or_else(full)
    }

    /// A caller is being served who is known already: such a request needs no hash.
    pub fn note_caller(&self) {
        self.callers.count();
    }

    /// Requests that wait for a core.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub async fn hash(&self, password: SecretString) -> Result<String> {
        let cost = self.cost;
        self.run(move || bcrypt::non_truncating_hash(password.expose_secret(), cost)).await?.map_err(Error::internal)
    }

    /// Whether the password fits the hash; without a hash it does not, after the same work.
    pub async fn verify(&self, password: SecretString, hash: Option<String>) -> Result<Fit> {
        let (dummy, cost) = (Arc::clone(&self.dummy), self.cost);
        self.run(move || match hash {
            Some(hash) => fit(password.expose_secret(), &hash, cost).unwrap_or_else(|| {
                // Of a scheme that nobody reads, or unusable: as if there were none.
                let _ = fit(password.expose_secret(), &dummy, cost);
                Fit::No
            }),
            None => {
                let _ = fit(password.expose_secret(), &dummy, cost);
                Fit::No
            }
        })
        .await
    }

    /// Runs work that takes about as long as a hash, in the same queue.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let place = Place::take(&self.waiting, QUEUE).ok_or_else(full)?;
        let mut permits = vec![Arc::clone(&self.permits).acquire_owned().await.map_err(Error::internal)?];
        // Asked now: those in front may have begun to wait when there was room.
        if self.callers.is_crowded() {
            permits.push(Arc::clone(&self.permits_in_a_crowd).acquire_owned().await.map_err(Error::internal)?);
        }
        drop(place);
        let result = self.threads.spawn(move || {
            let result = work();
            drop(permits);
            result
        });
        result.await
    }
}

/// Threads that run when nothing else wants to: the blocking threads of a runtime that does nothing else.
#[derive(Debug)]
struct Threads(Option<Runtime>);

impl Threads {
    fn new(count: usize) -> Result<Self> {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.max_blocking_threads(count).thread_name("password-hash").on_thread_start(step_back);
        Ok(Self(Some(runtime.build().map_err(Error::internal)?)))
    }

    async fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let runtime = self.0.as_ref().ok_or_else(|| Error::internal("the hashing threads have ended"))?;
        runtime.handle().spawn_blocking(work).await.map_err(Error::internal)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The last owner may be on a runtime's thread, where waiting for another runtime's end would panic.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whatever else wants to run goes first, at once: a nice level lets a thread finish its time slice before it gives way, which
/// a read that wakes four threads in turn pays four times (docs/decisions/edge.md).
fn step_back() {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy};
        let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
        let stepped = set_thread_priority_and_policy(thread_priority::thread_native_id(), ThreadPriority::Min, idle);
        if let Err(error) = stepped {
            tracing::debug!(?error, "password hashing runs at the usual priority");
        }
    }
}

/// Whether a stored hash is of a scheme that is read here.
pub fn is_readable(hash: &str) -> bool {
    DjangoHash::parse(hash).is_some() || hash.parse::<bcrypt::HashParts>().is_ok()
}

fn full() -> Error {
    metrics::counter!("password_hash_refused_total").increment(1);
    Error::unavailable("the password hashing queue is full").with_retry_after(Duration::from_secs(1))
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    No,
    Yes,
    /// It fits, and should be hashed anew: with a higher cost, or with bcrypt at all.
    Outdated,
}

/// `None`: the hash cannot be read.
fn fit(password: &str, hash: &str, cost: u32) -> Option<Fit> {
    if let Some(django) = DjangoHash::parse(hash) {
        return Some(match django.compare(password) {
            DjangoFit::No => Fit::No,
            DjangoFit::AsTyped => Fit::Outdated,
            // bcrypt takes passwords byte for byte. A hash of what was typed would lock out who leaves the space away, a hash of
            // the rest who always types it: the old one lets both in.
            DjangoFit::Trimmed => Fit::Yes,
        });
    }
    let made_with = hash.parse::<bcrypt::HashParts>().ok()?.get_cost();
    // bcrypt refuses to read a longer one at once; the answer must take as long as any other.
    let (password, too_long) = if password.len() > MAX_BYTES { ("", true) } else { (password, false) };
    let fits = bcrypt::non_truncating_verify(password, hash).ok()? && !too_long;
    Some(match fits {
        false => Fit::No,
        true if made_with < cost => Fit::Outdated,
        true => Fit::Yes,
    })
}

/// A place in the queue, given back when dropped, also by a caller that hangs up.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let took = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < most).then_some(taken + 1));
        took.ok().map(|_| Self(Arc::clone(taken)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let hasher = PasswordHasher::new(5).unwrap();
        let hash = hasher.hash("TestPass123!".into()).await.unwrap();
        let verify = async |password: &str, hash: Option<&str>| hasher.verify(password.into(), hash.map(str::to_owned)).await.unwrap();
        assert_eq!(verify("TestPass123!", Some(&hash)).await, Fit::Yes);
        assert_eq!(verify("TestPass123", Some(&hash)).await, Fit::No);
        assert_eq!(verify(&"x".repeat(72), Some(&hash)).await, Fit::No);
        assert_eq!(verify("no password hashes to this one", None).await, Fit::No);
        assert_eq!(verify("!", Some("!")).await, Fit::No);
        let older = PasswordHasher::new(4).unwrap().hash("TestPass123!".into()).await.unwrap();
        assert_eq!(verify("TestPass123!", Some(&older)).await, Fit::Outdated);
        let django = include_str!("../../tests/fixtures/django-hash.txt").trim();
        assert_eq!((verify("TestPass123!", Some(django)).await, verify("TestPass123", Some(django)).await), (Fit::Outdated, Fit::No));
    }

    #[tokio::test]
    async fn it_takes_as_long_to_find_that_an_unknown_user_has_no_password() {
        let hasher = PasswordHasher::new(11).unwrap();
        assert_eq!(hasher.dummy.parse::<bcrypt::HashParts>().unwrap().get_cost(), 11);
        assert!(bcrypt::non_truncating_verify("no password hashes to this one", &hasher.dummy).is_ok_and(|fits| !fits));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once_and_recovers() {
        let hasher = PasswordHasher::new(4).unwrap();
        let cores = hasher.permits.available_permits();
        let held = Arc::clone(&hasher.permits).acquire_many_owned(cores as u32).await.unwrap();
        let mut waiting: Vec<_> = (0..QUEUE).map(|_| Box::pin(hasher.hash("TestPass123!".into()))).collect();
        for hash in &mut waiting {
            assert!(futures_util::poll!(hash).is_pending());
        }
        assert_eq!(hasher.hash("TestPass123!".into()).await.unwrap_err().code, crate::error::Code::Unavailable);
        waiting.truncate(1);
        drop(held);
        assert!(waiting.remove(0).await.is_ok());
        assert!(hasher.hash("TestPass123!".into()).await.is_ok());
    }

    #[tokio::test]
    async fn a_core_is_left_to_callers_where_they_are_many() {
        let hasher = PasswordHasher::new(11).unwrap();
        let cores = hasher.permits.available_permits();
        let all_cores = async |callers: u32| {
            let mut hashes: Vec<_> = (0..cores).map(|_| Box::pin(hasher.hash("TestPass123!".into()))).collect();
            for hash in &mut hashes {
                (0..callers).for_each(|_| hasher.note_caller());
                assert!(futures_util::poll!(hash).is_pending());
            }
            let waiting = hasher.waiting();
            for hash in hashes {
                hash.await.unwrap();
            }
            waiting
        };
        assert_eq!(all_cores(1).await, 0);
        assert_eq!(all_cores(CROWD.get()).await, usize::from(cores > 1));
    }
}
