//! Messages that were in hand when the process ended, more than once: each runs alone, so that it drags no neighbour along,
//! and dies after the third process that it took with it.
//!
//! A run is committed before it begins and taken back if the process outlives it; so neither an outage nor a restart
//! counts against a message.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};

use super::amqp::PushRequests;
use super::inbox::Read;
use super::store;
use super::verdict::{Verdict, bury, count};
use crate::amqp::disposition::{Dead, DeadReason, Disposition};
use crate::amqp::message::Incoming;
use crate::error::Result;
use crate::infra::outbox::{self, Lane};

/// Processes that a message may take with it.
const MAX_RUNS: i32 = 3;

type Fingerprint = [u8; 32];

/// Runs that this process has counted and not yet taken back: it is alive, so they are not to be counted again.
#[derive(Debug, Default)]
pub struct Counted(Mutex<HashSet<Fingerprint>>);

impl Counted {
    fn with<T>(&self, look: impl FnOnce(&mut HashSet<Fingerprint>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whether a suspect may run.
pub enum Leave {
    Run,
    /// It has killed too often: this is its end.
    Bury(Box<Verdict>),
}

impl PushRequests {
    pub(super) async fn settle_suspect(&self, message: &Incoming) -> Disposition {
        let disposition = match self.leave_to_run(message).await {
            Err(error) => return Disposition::Hold(error.chain()),
            Ok(Leave::Run) => self.settle_alone(message).await,
            Ok(Leave::Bury(verdict)) => match self.file(*verdict).await {
                Ok(()) => Disposition::Done,
                Err(error) => Disposition::Hold(error.chain()),
            },
        };
        self.outlived(message, disposition == Disposition::Done).await;
        disposition
    }

    /// Counts the run that is about to begin.
    pub(super) async fn leave_to_run(&self, message: &Incoming) -> Result<Leave> {
        let (fingerprint, now) = (fingerprint(message), self.app.clock.now());
        if self.counted.with(|counted| counted.contains(&fingerprint)) {
            return Ok(Leave::Run);
        }
        let counting = self.app.worker_db.write(move |tx| async move { Ok(store::count_run(tx, &fingerprint, now).await?) }.boxed());
        let run = counting.await?;
        self.counted.with(|counted| counted.insert(fingerprint));
        if run <= MAX_RUNS {
            return Ok(Leave::Run);
        }
        tracing::error!(correlation_id = message.correlation_id, run, "a push request took the process with it, again and again");
        let dead = Dead::new(DeadReason::RetriesExhausted, "the process ended each time it was settled");
        // If even reading it kills, the next run does not read it.
        let read = if run == MAX_RUNS + 1 { Read::of(message) } else { Read::unread(message, dead.clone()) };
        Ok(Leave::Bury(Box::new(bury(message, read.entry(message, "dead"), &dead, &self.broker, now)?)))
    }

    /// The process outlived the run. A failure here is harmless: the run stays known as counted.
    pub(super) async fn outlived(&self, message: &Incoming, is_settled: bool) {
        let fingerprint = fingerprint(message);
        let writing = self.app.worker_db.write(move |tx| {
            async move {
                match is_settled {
                    true => store::delete_runs(tx, &fingerprint).await?,
                    false => store::take_back_run(tx, &fingerprint).await?,
                };
                Ok(())
            }
            .boxed()
        });
        if writing.await.is_ok() {
            self.counted.with(|counted| counted.remove(&fingerprint));
        }
    }

    async fn file(&self, verdict: Verdict) -> Result<()> {
        let now = self.app.clock.now();
        let filing = self.app.worker_db.write(move |tx| {
            async move {
                outbox::insert_messages(tx, Lane::Amqp, &verdict.rows, now).await?;
                store::insert_entries(tx, std::slice::from_ref(&verdict.entry), now).await?;
                Ok(verdict.entry)
            }
            .boxed()
        });
        count(&filing.await?);
        Ok(())
    }
}

fn fingerprint(message: &Incoming) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(message.message_id.as_deref().unwrap_or_default());
    hash.update([0]);
    hash.update(&message.body);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_by_its_id_and_its_body() {
        let message = |id: &str, body: &str| Incoming { message_id: Some(id.into()), body: body.into(), ..Incoming::default() };
        assert_eq!(fingerprint(&message("a", "b")), fingerprint(&message("a", "b")));
        for other in [message("a", "c"), message("b", "b"), message("ab", "")] {
            assert_ne!(fingerprint(&message("a", "b")), fingerprint(&other));
        }
    }
}
