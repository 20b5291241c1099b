//! Requests on which we failed: they wait in the inbox, acknowledged, and are decided anew when their time comes.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;

use super::amqp::PushRequests;
use super::inbox::Read;
use super::process;
use super::store::{self, Entry, Kept};
use super::suspects::Leave;
use super::verdict::{Verdict, bury, count, judge};
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::Incoming;
use crate::error::{Error, Kind, Result};
use crate::infra::correlation;
use crate::infra::db::Tx;
use crate::infra::fail_point;
use crate::infra::outbox::{self, Lane};
use crate::infra::trace::Trace;

/// When a request is tried again; after the last of these never.
const RETRIES: [TimeDelta; 3] = [TimeDelta::seconds(1), TimeDelta::seconds(5), TimeDelta::seconds(25)];

/// So long a worker has a request for itself before it holds its row: time for a commit. A crash costs as much.
const CLAIM: TimeDelta = TimeDelta::seconds(10);

/// The row of a request on which we failed for the first time.
pub fn first(message: &Incoming, now: DateTime<Utc>) -> Entry {
    waiting(message, 1, now + RETRIES[0])
}

fn waiting(message: &Incoming, attempts: i32, next_attempt_at: DateTime<Utc>) -> Entry {
    let body = Some(message.body.clone());
    Entry { attempts, next_attempt_at: Some(next_attempt_at), body, ..Read::of(message).entry(message, "retry") }
}

impl PushRequests {
    /// Tries the next request again whose time has come; `false`: there is none.
    pub async fn retry_next(&self) -> Result<bool> {
        let now = self.app.clock.now();
        let claiming = self.app.worker_db.write(move |tx| async move { Ok(store::claim_due(tx, now, now + CLAIM).await?) }.boxed());
        let Some(kept) = claiming.await? else { return Ok(false) };
        let message = kept.message();
        let retried = match self.leave_to_run(&message).await? {
            Leave::Run => self.retry(kept.clone(), now).await,
            Leave::Bury(verdict) => self.refile(kept.clone(), *verdict, now).await,
        };
        self.outlived(&message, matches!(retried, Ok(true))).await;
        match retried {
            Err(error) if error.kind() != Kind::Unavailable => {
                let (message_id, attempts) = (&kept.message_id, kept.attempts + 1);
                tracing::error!(message_id, attempts, error = error.chain(), "a push request failed again");
                self.count_failure(kept, now).await?;
            }
            retried => {
                retried?;
            }
        }
        Ok(true)
    }

    /// Decides it anew, in one transaction with what follows; `false`: it is another worker's by now.
    async fn retry(&self, kept: Kept, now: DateTime<Utc>) -> Result<bool> {
        let (cache, broker, publisher) = (self.app.cache.clone(), Arc::clone(&self.broker), self.publisher.clone());
        let retrying = self.app.worker_db.write_once(move |tx| {
            async move {
                if !store::lock_claimed(tx, &kept).await? {
                    return Ok(None);
                }
                let message = kept.message();
                let read = Read::of(&message);
                let outcome = match &read.parsed {
                    Ok(request) => process(tx, &cache, &[request], now).await?.pop(),
                    Err(_dead) => None,
                };
                let mut verdict = judge(&message, &read, outcome, &broker, now)?;
                if let Some(outgoing) = verdict.outgoing.take() {
                    let published = publisher.publish_all(std::slice::from_ref(&outgoing)).await;
                    published.into_iter().collect::<Result<Vec<()>, _>>().map_err(Error::unavailable)?;
                    fail_point::reach("retry-confirmed").await?;
                }
                file(tx, &kept, Verdict { entry: Entry { attempts: kept.attempts, ..verdict.entry }, ..verdict }, now).await
            }
            .boxed()
        });
        Ok(retrying.await?.inspect(count).is_some())
    }

    async fn refile(&self, kept: Kept, verdict: Verdict, now: DateTime<Utc>) -> Result<bool> {
        let verdict = Verdict { entry: Entry { attempts: kept.attempts, ..verdict.entry }, ..verdict };
        let filing = self.app.worker_db.write(move |tx| async move { file(tx, &kept, verdict, now).await }.boxed());
        Ok(filing.await?.inspect(count).is_some())
    }

    async fn count_failure(&self, kept: Kept, now: DateTime<Utc>) -> Result<()> {
        let (message, attempts) = (kept.message(), kept.attempts + 1);
        let verdict = match usize::try_from(kept.attempts).ok().and_then(|used| RETRIES.get(used)) {
            Some(delay) => Verdict { outgoing: None, rows: Vec::new(), entry: waiting(&message, attempts, now + *delay) },
            None => {
                let dead = Dead::new(DeadReason::RetriesExhausted, "we failed on it each time");
                let verdict = bury(&message, Read::of(&message).entry(&message, "dead"), &dead, &self.broker, now)?;
                Verdict { entry: Entry { attempts, ..verdict.entry }, ..verdict }
            }
        };
        let filing = self.app.worker_db.write(move |tx| async move { file(tx, &kept, verdict, now).await }.boxed());
        filing.await?.iter().for_each(count);
        Ok(())
    }
}

/// Files what became of one that is claimed, with what follows from it; `None`: it is another worker's by now.
async fn file(tx: &mut Tx, kept: &Kept, verdict: Verdict, now: DateTime<Utc>) -> Result<Option<Entry>> {
    if !store::update_claimed(tx, kept, &verdict.entry, now).await? {
        return Ok(None);
    }
    outbox::insert_messages(tx, Lane::Amqp, &verdict.rows, now).await?;
    Ok(Some(verdict.entry))
}

impl Kept {
    /// The message as it came.
    fn message(&self) -> Incoming {
        let property = |name: &str| self.properties.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        Incoming {
            body: self.body.clone().unwrap_or_default(),
            message_id: property("message_id"),
            // What it was filed under, if it brought none.
            made_up_id: Some(self.message_id.clone()),
            correlation_id: correlation::accept(self.correlation_id.as_deref()),
            content_type: property("content_type"),
            content_encoding: property("content_encoding"),
            kind: property("type"),
            trace: Trace::read(|name| self.properties.get("headers")?.get(name)?.as_str()),
            ..Incoming::default()
        }
    }
}
