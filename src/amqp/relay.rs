//! The outbox relay: sends what transactions left behind, one lane a loop, several workers side by side.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::sender::{Ready, Sender, Sent};
use crate::app::App;
use crate::error::Result;
use crate::infra::backoff::Delays;
use crate::infra::db::Tx;
use crate::infra::fail_point;
use crate::infra::mailer;
use crate::infra::one_time_token::{self, Token};
use crate::infra::outbox::{self, Row};
use crate::infra::status::PartState;

/// Well within the 500 ms in which what the outbox holds must leave.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// What did not get through, for the others to be tried first.
const PASSED_OVER_FOR: TimeDelta = TimeDelta::seconds(5);

/// Relays one lane until `stop`; `name` is the part's, under which health tells when what it needs is down.
pub async fn relay(app: &App, name: &str, sender: Sender, stop: &CancellationToken) -> Result<()> {
    let (mut delays, mut is_down) = (Delays::default(), false);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            _waited = app.worker_db.ready() => {}
        }
        let limit = if is_down && sender.one_tries_for_all() { 1 } else { sender.batch() };
        let relayed = relay_batch(app, &sender, limit).await?;
        // Where nothing was sent, nothing was learned.
        if relayed.tried > 0 {
            is_down = relayed.failed;
        }
        if !is_down {
            delays.reset();
        }
        app.status.set_part(name, if is_down { PartState::Waiting } else { PartState::Running });
        let pause = if relayed.failed {
            delays.next_delay().min(sender.longest_pause())
        } else if relayed.taken as i64 == limit {
            // More may be waiting.
            Duration::ZERO
        } else {
            POLL_INTERVAL
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What became of a batch.
struct Relayed {
    taken: usize,
    /// Without those that were given up unsent.
    tried: usize,
    failed: bool,
}

/// The rows stay locked until they are marked, so that no other relay sends them too.
async fn relay_batch(app: &App, sender: &Sender, limit: i64) -> Result<Relayed> {
    let (sender, now, app) = (sender.clone(), app.clock.now(), app.clone());
    let worker_db = app.worker_db.clone();
    let relaying = worker_db.write_once(move |tx| {
        async move {
            let rows = outbox::list_due(tx, sender.lane(), now, limit).await?;
            let taken = rows.len();
            let rows = make_ready(tx, &app, rows, sender.lane().as_str(), now).await?;
            let results = sender.send(&rows).await;
            if !rows.is_empty() {
                fail_point::reach("outbox-confirmed").await?;
            }
            let failed = settle(tx, &sender, &rows, results, now).await?;
            Ok(Relayed { taken, tried: rows.len(), failed })
        }
        .boxed()
    });
    relaying.await
}

/// Writes the tokens into the links. A mail whose link is dead by now is given up.
async fn make_ready(tx: &mut Tx, app: &App, rows: Vec<Row>, lane: &'static str, now: DateTime<Utc>) -> Result<Vec<Ready>> {
    let ids: Vec<Uuid> = rows.iter().filter_map(|row| row.one_time_token_id).collect();
    let found = if ids.is_empty() { Vec::new() } else { one_time_token::list(tx, &ids).await? };
    let tokens: HashMap<Uuid, Token> = found.into_iter().map(|token| (token.id, token)).collect();
    let mut ready = Vec::with_capacity(rows.len());
    for mut row in rows {
        let Some(id) = row.one_time_token_id else {
            ready.push(Ready { row, expires_in: None });
            continue;
        };
        let Some(token) = tokens.get(&id).filter(|token| token.is_live(now)) else {
            tracing::info!(row = %row.id, "a mail is not sent: its link was used, replaced or has expired");
            outbox::update_given_up(tx, row.id, now, "the link was used, replaced or has expired").await?;
            continue;
        };
        match mailer::complete(&row.payload, &token.seal(&app.keys)) {
            Ok(payload) => {
                row.payload = payload;
                ready.push(Ready { row, expires_in: Some(token.expires_at - now) });
            }
            // One row that cannot be read must not hold back all others.
            Err(error) => give_up(tx, &row, lane, &error.chain(), now).await?,
        }
    }
    Ok(ready)
}

/// Marks what became of each row; returns whether the lane should pause.
async fn settle(tx: &mut Tx, sender: &Sender, rows: &[Ready], results: Vec<Sent>, now: DateTime<Utc>) -> Result<bool> {
    let lane = sender.lane().as_str();
    let (mut done, mut failed) = (Vec::with_capacity(rows.len()), None);
    for (Ready { row, .. }, result) in rows.iter().zip(results) {
        match result {
            Sent::Done => done.push(row.id),
            // An outage uses up no attempt.
            Sent::Down(error) => {
                // But it may be this one alone that does not get through.
                if sender.one_tries_for_all() {
                    outbox::update_put_off(tx, row.id, 0, PASSED_OVER_FOR, &error).await?;
                }
                failed = Some(error);
            }
            Sent::Later(error) => match sender.next_delay(row.attempts) {
                Some(delay) => {
                    tracing::warn!(row = %row.id, correlation_id = row.correlation_id, lane, attempts = row.attempts + 1, error, "the outbox row waits");
                    outbox::update_put_off(tx, row.id, 1, delay, &error).await?;
                }
                None => give_up(tx, row, lane, &error, now).await?,
            },
            Sent::Never(error) => give_up(tx, row, lane, &error, now).await?,
        }
    }
    outbox::update_done(tx, &done, now).await?;
    metrics::counter!("outbox_sent_total", "lane" => lane).increment(done.len() as u64);
    if let Some(error) = &failed {
        tracing::warn!(lane, waiting = rows.len() - done.len(), error, "the outbox waits");
    }
    Ok(failed.is_some())
}

async fn give_up(tx: &mut Tx, row: &Row, lane: &'static str, error: &str, now: DateTime<Utc>) -> Result<()> {
    tracing::error!(row = %row.id, correlation_id = row.correlation_id, lane, attempts = row.attempts + 1, error, "the outbox row is given up");
    metrics::counter!("outbox_given_up_total", "lane" => lane).increment(1);
    outbox::update_given_up(tx, row.id, now, error).await?;
    Ok(())
}
