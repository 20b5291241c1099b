//! What the background parts last said of themselves; health reads it, nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// How a background part is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    Starting,
    Running,
    /// What it needs is down.
    Waiting,
    /// It failed and will be started again.
    Restarting,
    Stopped,
    /// It had one thing to do, and did it.
    Done,
}

/// Counts of a queue, as the broker last told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    pub messages: u32,
    pub consumers: u32,
}

/// How a dependency's circuit breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    Closed,
    Open,
    /// One is let through to see.
    HalfOpen,
}

impl BreakerState {
    pub fn as_str(self) -> &'static str {
        match self {
            BreakerState::Closed => "closed",
            BreakerState::Open => "open",
            BreakerState::HalfOpen => "half_open",
        }
    }
}

/// Shared by everything in the process.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<Mutex<Board>>);

#[derive(Debug, Default)]
struct Board {
    parts: BTreeMap<String, (PartState, u32)>,
    broker_connected: bool,
    queues: BTreeMap<String, QueueCounts>,
    held: usize,
    breakers: BTreeMap<&'static str, BreakerState>,
    stopping: bool,
    said: BTreeSet<&'static str>,
}

impl Status {
    fn with<T>(&self, look: impl FnOnce(&mut Board) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether this has not been said before, for what is worth one line in the log and no more.
    pub fn is_first(&self, what: &'static str) -> bool {
        self.with(|board| board.said.insert(what))
    }

    /// Notes a part's state; each [`PartState::Restarting`] counts as a restart.
    pub fn set_part(&self, name: &str, state: PartState) {
        self.with(|board| {
            let entry = board.parts.entry(name.to_owned()).or_insert((PartState::Starting, 0));
            if state == PartState::Restarting {
                entry.1 += 1;
                metrics::counter!("part_restarts_total", "part" => name.to_owned()).increment(1);
            }
            entry.0 = state;
        });
    }

    /// Every part, its state, and how often it was restarted.
    pub fn parts(&self) -> BTreeMap<String, (PartState, u32)> {
        self.with(|board| board.parts.clone())
    }

    /// Whether the consuming connection stands.
    pub fn set_broker_connected(&self, connected: bool) {
        self.with(|board| board.broker_connected = connected);
        metrics::gauge!("broker_connected").set(f64::from(u8::from(connected)));
    }

    pub fn broker_connected(&self) -> bool {
        self.with(|board| board.broker_connected)
    }

    pub fn set_queue(&self, name: &str, counts: QueueCounts) {
        self.with(|board| board.queues.insert(name.to_owned(), counts));
    }

    pub fn queues(&self) -> BTreeMap<String, QueueCounts> {
        self.with(|board| board.queues.clone())
    }

    /// Messages that wait, unacknowledged, for something that is down.
    pub fn set_held(&self, count: usize) {
        self.with(|board| board.held = count);
        metrics::gauge!("consumer_held_messages").set(count as f64);
    }

    pub fn held(&self) -> usize {
        self.with(|board| board.held)
    }

    /// How the breaker of a dependency stands.
    pub fn set_breaker(&self, dependency: &'static str, state: BreakerState) {
        self.with(|board| board.breakers.insert(dependency, state));
        let number = match state {
            BreakerState::Closed => 0.0,
            BreakerState::HalfOpen => 1.0,
            BreakerState::Open => 2.0,
        };
        metrics::gauge!("breaker_state", "dependency" => dependency).set(number);
    }

    pub fn breakers(&self) -> BTreeMap<&'static str, BreakerState> {
        self.with(|board| board.breakers.clone())
    }

    /// From now on readiness answers 503, so that load balancers look elsewhere.
    pub fn set_stopping(&self) {
        self.with(|board| board.stopping = true);
    }

    pub fn stopping(&self) -> bool {
        self.with(|board| board.stopping)
    }
}
