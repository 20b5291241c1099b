//! Floor 5: which parts this process runs.

pub mod api;
pub mod supervisor;
mod worker;

use std::time::Duration;

use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Role;
use crate::error::{Error, Result};
use crate::infra::backoff::Delays;
use crate::infra::connections::Connections;
use crate::infra::migrations;
use api::Listeners;
use supervisor::Supervisor;

const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the chosen parts until `stop`, then drains them within the grace period.
///
/// `Err` means that something did not end well; the process then exits with 1.
pub async fn run(app: App, role: Role, listeners: Listeners, stop: CancellationToken) -> Result<()> {
    let mut supervisor = Supervisor::new(app.status.clone(), stop.clone(), &app.config);
    {
        let (app, stop) = (app.clone(), stop.clone());
        supervisor.first("migrations", async move { migrate(&app, &stop).await });
    }
    let publisher = role.has_worker().then(|| worker::start(&app, &mut supervisor)).transpose()?;
    let connections = app.connections.clone();
    supervisor.keep("connections", move |stop| sweep(connections.clone(), stop));
    let server = api::server(app.clone(), role, listeners)?;
    let ended = supervisor.run(server).await;
    if let Some(publisher) = publisher {
        publisher.close().await;
    }
    app.close().await;
    ended
}

/// Has connections that ask for nothing ended.
async fn sweep(connections: Connections, stop: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP_INTERVAL) => connections.sweep(),
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Waits for the database as long as it takes: readiness says 503 meanwhile, and nothing crash-loops. The worker's parts
/// wait for it, so that no message meets a schema older than this binary.
async fn migrate(app: &App, stop: &CancellationToken) -> Result<()> {
    let mut delays = Delays::default();
    loop {
        let applied = tokio::select! {
            applied = migrations::apply(app.config.database.url.expose_secret()) => applied,
            () = stop.cancelled() => return Err(Error::unavailable("stopped before the schema was current")),
        };
        match applied {
            Ok(applied) => {
                for name in applied {
                    tracing::info!(migration = name, "applied");
                }
                return Ok(());
            }
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the database cannot be migrated yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(delays.next_delay()) => {}
            () = stop.cancelled() => return Err(Error::unavailable("stopped before the database answered")),
        }
    }
}
