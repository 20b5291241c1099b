//! Keeps the parts of the process running, and ends them in order.
//!
//! A background part that fails or panics is started again with exponential backoff. The server's end ends the process.
//! The first signal stops and drains; a second one, or the end of the grace period, aborts.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::status::{PartState, Status};

/// A part that ran this long had recovered: its next failure starts with a short delay.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// After a panic, which is a bug and no outage: nothing is spared by waiting longer.
const LONGEST_AFTER_PANIC: Duration = Duration::from_secs(4);

/// The named parts of one process.
#[derive(Debug)]
pub struct Supervisor {
    status: Status,
    stop: CancellationToken,
    delay: Duration,
    grace: Duration,
    /// Open once the first part is done: what is kept running waits for it.
    gate: CancellationToken,
    /// The first part failed: nothing behind the gate would ever run.
    shut: CancellationToken,
    parts: JoinSet<()>,
}

impl Supervisor {
    pub fn new(status: Status, stop: CancellationToken, config: &Config) -> Self {
        let (delay, grace) = (config.shutdown_delay, config.shutdown_grace);
        Self { status, stop, delay, grace, gate: CancellationToken::new(), shut: CancellationToken::new(), parts: JoinSet::new() }
    }

    /// A part that everything kept running waits for, and that is done when it ends.
    pub fn first(&mut self, name: &'static str, part: impl Future<Output = Result<()>> + Send + 'static) {
        let (status, stop, gate, shut) = (self.status.clone(), self.stop.clone(), self.gate.clone(), self.shut.clone());
        status.set_part(name, PartState::Running);
        self.parts.spawn(async move {
            match AssertUnwindSafe(part).catch_unwind().await.unwrap_or_else(|panic| Err(Error::panicked(&*panic))) {
                Ok(()) => {
                    gate.cancel();
                    status.set_part(name, PartState::Done);
                }
                Err(_stopped) if stop.is_cancelled() => status.set_part(name, PartState::Stopped),
                Err(error) => {
                    tracing::error!(part = name, error = error.chain(), "the part failed, and everything waits for it");
                    status.set_part(name, PartState::Stopped);
                    shut.cancel();
                }
            }
        });
    }

    /// A part that is started again whenever it ends before the process does. It gets the stop token each time.
    pub fn keep<F>(&mut self, name: &'static str, start: impl Fn(CancellationToken) -> F + Send + Sync + 'static)
    where
        F: Future<Output = Result<()>> + Send,
    {
        let (status, stop, gate) = (self.status.clone(), self.stop.clone(), self.gate.clone());
        status.set_part(name, PartState::Starting);
        self.parts.spawn(async move {
            tokio::select! {
                () = gate.cancelled() => {}
                () = stop.cancelled() => return status.set_part(name, PartState::Stopped),
            }
            let mut delays = Delays::default();
            loop {
                status.set_part(name, PartState::Running);
                let started = Instant::now();
                // The part is made inside, so that a panic in making it is caught as well.
                let ended = AssertUnwindSafe(async { start(stop.clone()).await }).catch_unwind().await;
                if stop.is_cancelled() {
                    break status.set_part(name, PartState::Stopped);
                }
                if started.elapsed() >= HEALTHY_AFTER {
                    delays.reset();
                }
                let delay = delays.next_delay();
                let (error, delay) = match ended {
                    Ok(Ok(())) => ("it ended by itself".to_owned(), delay),
                    Ok(Err(error)) => (error.chain(), delay),
                    Err(_panic) => ("it panicked".to_owned(), delay.min(LONGEST_AFTER_PANIC)),
                };
                tracing::warn!(part = name, error, delay_ms = delay.as_millis() as u64, "the part ended and will be started again");
                status.set_part(name, PartState::Restarting);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = stop.cancelled() => break status.set_part(name, PartState::Stopped),
                }
            }
        });
    }

    /// Serves until told to stop, then waits for every part; an error means that something did not end well.
    pub async fn run(mut self, server: Server) -> Result<()> {
        let handle = server.handle();
        let mut server = std::pin::pin!(server);
        let ended_early = tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            ended = &mut server => Some(ended.map_or_else(Error::internal, |()| Error::internal("the HTTP server ended by itself"))),
            () = self.shut.cancelled() => Some(Error::internal("the part that everything waits for failed")),
        };
        self.status.set_stopping();
        self.stop.cancel();
        if let Some(error) = ended_early {
            self.parts.shutdown().await;
            return Err(error);
        }
        tracing::info!("stopping");
        let parts = &mut self.parts;
        let draining = async {
            // Accepted requests finish while the workers drain.
            let stopping = async {
                // Readiness says 503 by now; whoever is sent here before that is seen is still answered.
                tokio::time::sleep(self.delay).await;
                handle.stop(true).await;
            };
            let drained = async { while parts.join_next().await.is_some() {} };
            let (_, _, ended) = tokio::join!(stopping, drained, server);
            ended
        };
        match tokio::time::timeout(self.grace, draining).await {
            Ok(ended) => {
                tracing::info!("stopped");
                ended.map_err(Error::internal)
            }
            Err(late) => {
                self.parts.shutdown().await;
                Err(Error::internal(late))
            }
        }
    }
}

/// Cancels `stop` at the first SIGTERM or SIGINT; at the second the process ends at once.
pub async fn watch_signals(stop: CancellationToken) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    // Waited for before anything is logged: what is below the log's level is not even evaluated.
    let first = next().await;
    tracing::info!(signal = first, "asked to stop");
    stop.cancel();
    let second = next().await;
    tracing::error!(signal = second, "asked to stop at once");
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Role;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_part_that_panics_is_back_within_five_seconds_each_time_and_the_others_run_on() {
        const PANICS: usize = 8;
        let variables = [
            ("DATABASE_URL", "postgres://h/d"),
            ("REDIS_URL", "redis://h"),
            ("RABBITMQ_URL", "amqp://h"),
            ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e"),
        ];
        let config = Config::from_map(Role::Both, &BTreeMap::from(variables)).unwrap();
        let (status, stop, starts) = (Status::default(), CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let (started, mut next_start) = tokio::sync::mpsc::unbounded_channel();
        let mut supervisor = Supervisor::new(status.clone(), stop.clone(), &config);
        supervisor.first("gate", async { Ok(()) });
        supervisor.keep("steady", |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        let noted = Arc::clone(&starts);
        supervisor.keep("panicking", move |stop| {
            let (noted, started) = (Arc::clone(&noted), started.clone());
            async move {
                let count = {
                    let mut starts = noted.lock().unwrap();
                    starts.push(Instant::now());
                    starts.len()
                };
                started.send(()).unwrap();
                assert!(count > PANICS, "a bug");
                stop.cancelled().await;
                Ok(())
            }
        });
        for _ in 0..=PANICS {
            next_start.recv().await.unwrap();
            assert_eq!(status.parts().get("steady").map(|(_, restarts)| *restarts), Some(0));
        }
        let starts = starts.lock().unwrap().clone();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] < Duration::from_secs(5)), "{starts:?}");
        assert_eq!(status.parts()["panicking"], (PartState::Running, PANICS as u32));
        stop.cancel();
        while supervisor.parts.join_next().await.is_some() {}
    }
}
