//! A fixed number of gates: who comes for the same goes through the same gate, one at a time.
//!
//! So many requests for one thing that is not cached read it once and find it cached then; and however many things are asked
//! for, no more are read at once than there are gates.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::error::{Error, Result};

/// So that what is read behind the gate is still answered, or refused, within the 2.5 s of a slow database.
const PATIENCE: Duration = Duration::from_millis(500);

/// Clones share the gates.
#[derive(Clone, Debug)]
pub struct Gates(Arc<[Mutex<()>]>);

/// Being through, until dropped.
#[derive(Debug)]
pub struct Passage<'a> {
    _gate: MutexGuard<'a, ()>,
    /// Whether somebody was before: what is wanted may be there by now.
    pub has_waited: bool,
}

impl Gates {
    pub fn new(count: usize) -> Self {
        Self((0..count).map(|_| Mutex::default()).collect())
    }

    /// Goes through the gate of `id`, or gives up after half a second.
    pub async fn pass(&self, id: Uuid) -> Result<Passage<'_>> {
        let gate = &self.0[(id.as_u128() % self.0.len() as u128) as usize];
        if let Ok(gate) = gate.try_lock() {
            return Ok(Passage { _gate: gate, has_waited: false });
        }
        let gate = tokio::time::timeout(PATIENCE, gate.lock()).await.map_err(Error::unavailable)?;
        Ok(Passage { _gate: gate, has_waited: true })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::error::Code;

    #[tokio::test]
    async fn one_of_many_who_want_the_same_reads_it_and_the_others_find_it() {
        let (gates, cached, reads) = (Gates::new(20), AtomicUsize::new(0), AtomicUsize::new(0));
        join_all((0..64).map(|_| async {
            let passage = gates.pass(Uuid::max()).await.unwrap();
            if !passage.has_waited || cached.load(Ordering::SeqCst) == 0 {
                reads.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                cached.store(1, Ordering::SeqCst);
            }
        }))
        .await;
        assert_eq!(reads.into_inner(), 1);
    }

    #[tokio::test]
    async fn no_more_are_through_at_once_than_there_are_gates_and_nobody_waits_for_ever() {
        let gates = Gates::new(20);
        let through = join_all((0..20).map(|id| gates.pass(Uuid::from_u128(id)))).await;
        assert!(through.iter().all(|passage| passage.as_ref().is_ok_and(|passage| !passage.has_waited)));
        assert_eq!(gates.pass(Uuid::from_u128(20)).await.unwrap_err().code, Code::Unavailable);
        drop(through);
        assert!(gates.pass(Uuid::from_u128(20)).await.is_ok());
    }
}
