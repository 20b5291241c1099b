//! The whole table of what a worker does: consumers, relays and periodic work.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use crate::amqp::consumer::consume;
use crate::amqp::publisher::Publisher;
use crate::amqp::relay::{Sender, relay};
use crate::app::App;
use crate::config::MailTransport;
use crate::error::Result;
use crate::infra::smtp::Smtp;
use crate::infra::{audit, one_time_token, outbox, throttle};
use crate::push::amqp::PushRequests;
use crate::sessions;

const PURGE_INTERVAL: Duration = Duration::from_secs(60);
const PURGE_BATCH: i64 = 1_000;

/// Starts every part; returns the publisher, which is to be closed after them.
pub fn start(app: &App, supervisor: &mut Supervisor) -> Result<Publisher> {
    let broker = app.config.broker.clone();
    let publisher = Publisher::new(broker.clone(), app.status.clone());
    {
        let (app, broker) = (app.clone(), broker.clone());
        let requests = PushRequests::new(app.clone(), broker.clone(), publisher.clone());
        supervisor.keep("consumer", move |stop| {
            let (app, broker, requests) = (app.clone(), broker.clone(), requests.clone());
            async move { consume(&broker, &requests, &app.status, &stop).await }
        });
    }
    let mut lanes = vec![
        ("outbox-relay-amqp", Sender::Amqp { publisher: publisher.clone(), events_exchange: broker.events_exchange.clone() }),
        ("outbox-relay-cache", Sender::Cache(app.cache.clone())),
    ];
    match &app.config.mail.transport {
        MailTransport::Queue => {}
        MailTransport::Smtp(smtp) => lanes.push(("outbox-relay-smtp", Sender::Smtp(Smtp::new(smtp)?))),
        MailTransport::Log => lanes.push(("outbox-relay-smtp", Sender::Log)),
    }
    for (name, sender) in lanes {
        let app = app.clone();
        supervisor.keep(name, move |stop| {
            let (app, sender) = (app.clone(), sender.clone());
            async move { relay(&app, name, sender, &stop).await }
        });
    }
    let app = app.clone();
    supervisor.keep("purge", move |stop| purge(app.clone(), stop));
    Ok(publisher)
}

/// Deletes what has expired, in small batches so that no lock is held long.
async fn purge(app: App, stop: CancellationToken) -> Result<()> {
    loop {
        let now = app.clock.now();
        let deleted = app.worker_db.write(move |conn| {
            async move {
                let sent = outbox::delete_done(conn, now, PURGE_BATCH).await?;
                let windows = throttle::delete_old(conn, now, PURGE_BATCH).await?;
                let ended = sessions::delete_old(conn, now, PURGE_BATCH).await?;
                let links = one_time_token::delete_old(conn, now, PURGE_BATCH).await?;
                let entries = audit::delete_old(conn, now, PURGE_BATCH).await?;
                Ok(sent.max(windows).max(ended).max(links).max(entries))
            }
            .boxed()
        });
        if deleted.await? == PURGE_BATCH as usize && !stop.is_cancelled() {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}
