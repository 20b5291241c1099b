//! The whole table of what a worker does: consumers, relays and periodic work.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::supervisor::Supervisor;
use crate::access::staff;
use crate::amqp::consumer::{Consumer as _, consume};
use crate::amqp::publisher::Publisher;
use crate::amqp::relay::relay;
use crate::amqp::sender::Sender;
use crate::app::App;
use crate::config::MailTransport;
use crate::error::Result;
use crate::http::idempotency;
use crate::infra::breaker::Breaker;
use crate::infra::smtp::Smtp;
use crate::infra::{audit, one_time_token, outbox, throttle};
use crate::push::amqp::PushRequests;
use crate::{push, push_tokens, sessions};

const PURGE_INTERVAL: Duration = Duration::from_secs(60);
const PURGE_BATCH: i64 = 1_000;

/// A retry comes at most a second after its time.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Starts every part; returns the publisher, which is to be closed after them.
pub fn start(app: &App, supervisor: &mut Supervisor) -> Result<Publisher> {
    let broker = app.config.broker.clone();
    let publisher = Publisher::new(broker.clone(), app.status.clone());
    {
        let (app, broker) = (app.clone(), broker.clone());
        // The relay needs no breaker: its rows wait each for itself.
        let guarded = publisher.guarded_by(Breaker::new("publishing", app.config.breaker_open, app.status.clone()));
        let requests = PushRequests::new(app.clone(), broker.clone(), guarded);
        {
            let requests = requests.clone();
            supervisor.keep("push-retries", move |stop| retry_pushes(requests.clone(), stop));
        }
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

/// Brings back push requests on which we failed, when their time comes.
async fn retry_pushes(requests: PushRequests, stop: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _waited = requests.ready() => {}
        }
        if requests.retry_next().await? {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// Deletes what has expired, in small batches so that no lock is held long.
async fn purge(app: App, stop: CancellationToken) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _waited = app.worker_db.ready() => {}
        }
        let mut deleted = 0;
        for what in Expiring::ALL {
            // Each by itself: one that fails must not keep the others from being deleted.
            match purge_one(&app, what).await {
                Ok(count) => deleted = deleted.max(count),
                Err(error) => tracing::warn!(?what, error = error.chain(), "what has expired could not be deleted"),
            }
        }
        if deleted >= PURGE_BATCH as usize {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(PURGE_INTERVAL) => {}
            () = stop.cancelled() => return Ok(()),
        }
    }
}

/// What is deleted when its time is over.
#[derive(Clone, Copy, Debug)]
enum Expiring {
    SentMessages,
    Throttles,
    Sessions,
    MailedLinks,
    AuditEntries,
    PushRequests,
    StaffSessions,
    StoredAnswers,
    PushTokens,
}

impl Expiring {
    const ALL: [Self; 9] = [
        Self::SentMessages,
        Self::Throttles,
        Self::Sessions,
        Self::MailedLinks,
        Self::AuditEntries,
        Self::PushRequests,
        Self::StaffSessions,
        Self::StoredAnswers,
        Self::PushTokens,
    ];
}

async fn purge_one(app: &App, what: Expiring) -> Result<usize> {
    let (now, retention) = (app.clock.now(), app.config.inbox_retention);
    let deleting = app.worker_db.write(move |conn| {
        async move {
            Ok(match what {
                Expiring::SentMessages => outbox::delete_done(conn, now, PURGE_BATCH).await?,
                Expiring::Throttles => throttle::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::Sessions => sessions::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::MailedLinks => one_time_token::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::AuditEntries => audit::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::PushRequests => push::delete_old(conn, retention, now, PURGE_BATCH).await?,
                Expiring::StaffSessions => staff::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::StoredAnswers => idempotency::delete_old(conn, now, PURGE_BATCH).await?,
                Expiring::PushTokens => push_tokens::delete_old(conn, now, PURGE_BATCH).await?,
            })
        }
        .boxed()
    });
    deleting.await
}
