//! A circuit breaker: a dependency that failed five times in a row is left alone for a while, and then asked once.
//!
//! `Circuit` is the rule alone, on a clock that it is given; [`Breaker`] shares one between tasks.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::status::{BreakerState, Status};
use crate::error::Error;

/// Consecutive failures that open it.
const MAX_FAILURES: u32 = 5;

/// The rule, on a clock that is given.
#[derive(Clone, Debug)]
struct Circuit {
    open_for: Duration,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
    },
    /// One caller asks for all.
    Probing,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admission {
    Free,
    /// It is the one that asks for all.
    Probe,
    Refused,
}

/// What a caller found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    Up,
    Down,
    /// It ended before it could tell.
    Unknown,
}

impl Circuit {
    fn new(open_for: Duration) -> Self {
        Self { open_for, phase: Phase::Closed { failures: 0 } }
    }

    fn admit(&mut self, now: Instant) -> Admission {
        match self.phase {
            Phase::Closed { .. } => Admission::Free,
            Phase::Open { until } if until <= now => {
                self.phase = Phase::Probing;
                Admission::Probe
            }
            Phase::Open { .. } | Phase::Probing => Admission::Refused,
        }
    }

    /// What was found by one that was admitted. Once it is open, only the probe's finding counts: whoever began earlier
    /// tells of a time that is past.
    fn note(&mut self, admission: Admission, finding: Finding, now: Instant) {
        self.phase = match (self.phase, admission, finding) {
            (Phase::Closed { failures }, _, Finding::Down) if failures + 1 < MAX_FAILURES => Phase::Closed { failures: failures + 1 },
            (Phase::Closed { .. }, _, Finding::Down) | (Phase::Probing, Admission::Probe, Finding::Down) => {
                Phase::Open { until: now + self.open_for }
            }
            (Phase::Closed { .. }, _, Finding::Up) | (Phase::Probing, Admission::Probe, Finding::Up) => Phase::Closed { failures: 0 },
            // The next one probes instead.
            (Phase::Probing, Admission::Probe, Finding::Unknown) => Phase::Open { until: now },
            (unchanged, _, _) => unchanged,
        };
    }

    fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed { .. } => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Probing => BreakerState::HalfOpen,
        }
    }
}

/// One dependency's breaker. Clones share it.
#[derive(Clone, Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dependency: &'static str,
    circuit: Mutex<Circuit>,
    changed: Notify,
    status: Status,
}

/// The breaker is open.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0} failed repeatedly and is left alone for now")]
pub struct Refused(&'static str);

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::unavailable(refused)
    }
}

impl Breaker {
    /// Closed; `status` tells its state from now on.
    pub fn new(dependency: &'static str, open_for: Duration, status: Status) -> Self {
        status.set_breaker(dependency, BreakerState::Closed);
        Self(Arc::new(Shared { dependency, circuit: Mutex::new(Circuit::new(open_for)), changed: Notify::new(), status }))
    }

    /// Leave to ask the dependency; what is found is to be told to the permit.
    pub fn admit(&self) -> Result<Permit, Refused> {
        match self.change(|circuit| circuit.admit(Instant::now())) {
            Admission::Refused => Err(Refused(self.0.dependency)),
            admission => Ok(Permit { breaker: self.clone(), admission, finding: Finding::Unknown }),
        }
    }

    /// Waits until it would admit; `false`: there was nothing to wait for.
    pub async fn ready(&self) -> bool {
        let mut waited = false;
        loop {
            // Made before the look, so that no change in between is missed.
            let changed = self.0.changed.notified();
            match self.look(|circuit| circuit.phase) {
                Phase::Closed { .. } => return waited,
                Phase::Open { until } if until <= Instant::now() => return waited,
                Phase::Open { until } => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until.into()) => {}
                        () = changed => {}
                    }
                }
                Phase::Probing => changed.await,
            }
            waited = true;
        }
    }

    fn look<T>(&self, look: impl FnOnce(&mut Circuit) -> T) -> T {
        look(&mut self.0.circuit.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Circuit) -> T) -> T {
        let (before, result, after) = self.look(|circuit| {
            let before = circuit.state();
            let result = change(circuit);
            (before, result, circuit.state())
        });
        if before != after {
            self.0.status.set_breaker(self.0.dependency, after);
            self.0.changed.notify_waiters();
            match after {
                BreakerState::Open => tracing::warn!(dependency = self.0.dependency, "the breaker is open"),
                BreakerState::HalfOpen => tracing::info!(dependency = self.0.dependency, "the breaker lets one through"),
                BreakerState::Closed => tracing::info!(dependency = self.0.dependency, "the breaker is closed again"),
            }
        }
        result
    }
}

/// Leave to ask once. Dropped untold, it says nothing of the dependency.
#[derive(Debug)]
pub struct Permit {
    breaker: Breaker,
    admission: Admission,
    finding: Finding,
}

impl Permit {
    /// Tells what was found.
    pub fn note(mut self, is_up: bool) {
        self.finding = if is_up { Finding::Up } else { Finding::Down };
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.breaker.change(|circuit| circuit.note(self.admission, self.finding, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(60);

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Pass(u64),
        Admit,
        /// The n-th of those that are out ends.
        End(usize, Finding),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let finding = prop_oneof![1 => Just(Finding::Up), 4 => Just(Finding::Down), 1 => Just(Finding::Unknown)];
        let step = prop_oneof![
            1 => (0..40_u64).prop_map(Step::Pass),
            4 => Just(Step::Admit),
            4 => (0..8_usize, finding).prop_map(|(which, finding)| Step::End(which, finding)),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// The same rule told another way: a list of what counted, looked through from its end each time.
    #[derive(Default)]
    struct Model {
        counted: Vec<(u64, Finding)>,
        probe: Option<usize>,
        /// When it may be probed: since then five failures, or a failed probe.
        opened_until: Option<u64>,
    }

    impl Model {
        fn admit(&mut self, caller: usize, now: u64) -> Admission {
            match self.opened_until {
                None => Admission::Free,
                Some(until) if now >= until && self.probe.is_none() => {
                    self.probe = Some(caller);
                    Admission::Probe
                }
                Some(_) => Admission::Refused,
            }
        }

        fn end(&mut self, caller: usize, finding: Finding, now: u64) {
            if self.opened_until.is_some() {
                if self.probe != Some(caller) {
                    return;
                }
                self.probe = None;
                match finding {
                    Finding::Up => {
                        self.opened_until = None;
                        self.counted.clear();
                    }
                    Finding::Down => self.opened_until = Some(now + OPEN_FOR.as_secs()),
                    Finding::Unknown => self.opened_until = Some(now),
                }
                return;
            }
            if finding != Finding::Unknown {
                self.counted.push((now, finding));
            }
            let in_a_row = self.counted.iter().rev().take_while(|(_, finding)| *finding == Finding::Down).count();
            if in_a_row >= 5 {
                self.opened_until = Some(now + OPEN_FOR.as_secs());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn it_does_what_the_model_says(steps in steps()) {
            let start = Instant::now();
            let (mut circuit, mut model) = (Circuit::new(OPEN_FOR), Model::default());
            let (mut now, mut callers, mut out) = (0, 0, Vec::new());
            for step in steps {
                let at = start + Duration::from_secs(now);
                match step {
                    Step::Pass(seconds) => now += seconds,
                    Step::Admit => {
                        callers += 1;
                        let admission = circuit.admit(at);
                        prop_assert_eq!(admission, model.admit(callers, now));
                        if admission != Admission::Refused {
                            out.push((callers, admission));
                        }
                    }
                    Step::End(which, finding) if !out.is_empty() => {
                        let (caller, admission) = out.remove(which % out.len());
                        circuit.note(admission, finding, at);
                        model.end(caller, finding, now);
                    }
                    Step::End(..) => {}
                }
                prop_assert_eq!(circuit.state() == BreakerState::Closed, model.opened_until.is_none());
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_sixteen_tasks_one_probes_and_the_others_wait_for_it() {
        let status = Status::default();
        let breaker = Breaker::new("database", Duration::from_millis(50), status.clone());
        for _ in 0..5 {
            breaker.admit().unwrap().note(false);
        }
        assert!(breaker.admit().is_err());
        assert_eq!(status.breakers()["database"], BreakerState::Open);
        let probes = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (breaker, probes) = (breaker.clone(), Arc::clone(&probes));
            tasks.spawn(async move {
                assert!(breaker.ready().await, "it was open");
                let permit = loop {
                    match breaker.admit() {
                        Ok(permit) => break permit,
                        Err(_refused) => breaker.ready().await,
                    };
                };
                if permit.admission == Admission::Probe {
                    probes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                // Longer than the others need to come to the breaker while the probe is out.
                for _ in 0..1_000 {
                    tokio::task::yield_now().await;
                }
                permit.note(true);
            });
        }
        tasks.join_all().await;
        assert_eq!(probes.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(status.breakers()["database"], BreakerState::Closed);
        assert!(!breaker.ready().await);
    }
}
