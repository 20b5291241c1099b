//! Requests on which we failed: they wait in the inbox, acknowledged, and are decided anew when their time comes.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;

use super::amqp::PushRequests;
use super::inbox::Read;
use super::process;
use super::store::{self, Entry, Kept, Key};
use super::suspects::Leave;
use super::verdict::{Verdict, bury, judge};
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::Incoming;
use crate::error::{Error, Kind, Result};
use crate::infra::correlation;
use crate::infra::fail_point;
use crate::infra::outbox::{self, Lane};
use crate::infra::trace::Trace;

/// When a request is tried again; after the last of these never.
const RETRIES: [TimeDelta; 3] = [TimeDelta::seconds(1), TimeDelta::seconds(5), TimeDelta::seconds(25)];

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
        let due = self.app.worker_db.read(move |conn| async move { Ok(store::find_due(conn, now).await?) }.boxed()).await?;
        let Some(due) = due else { return Ok(false) };
        let message = due.message();
        let retried = match self.leave_to_run(&message).await? {
            Leave::Run => self.retry(due.key(), now).await,
            Leave::Bury(verdict) => self.refile(&due, *verdict, now).await,
        };
        self.outlived(&message, retried.is_ok()).await;
        match retried {
            Err(error) if error.kind() != Kind::Unavailable => {
                tracing::error!(
                    message_id = due.message_id,
                    attempts = due.attempts + 1,
                    error = error.chain(),
                    "a push request failed again"
                );
                self.count_failure(due, now).await?;
            }
            retried => retried?,
        }
        Ok(true)
    }

    /// Decides it anew, in one transaction with what follows.
    async fn retry(&self, key: Key, now: DateTime<Utc>) -> Result<()> {
        let (cache, broker, publisher) = (self.app.cache.clone(), Arc::clone(&self.broker), self.publisher.clone());
        let retrying = self.app.worker_db.write(move |tx| {
            async move {
                // Another worker may have been quicker.
                let Some(kept) = store::lock_due(tx, &key, now).await? else { return Ok(()) };
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
                outbox::insert_messages(tx, Lane::Amqp, &verdict.rows, now).await?;
                store::update_entry(tx, &key, &Entry { attempts: kept.attempts, ..verdict.entry }, now).await?;
                Ok(())
            }
            .boxed()
        });
        retrying.await
    }

    async fn refile(&self, due: &Kept, verdict: Verdict, now: DateTime<Utc>) -> Result<()> {
        let (key, attempts) = (due.key(), due.attempts);
        let filing = self.app.worker_db.write(move |tx| {
            async move {
                outbox::insert_messages(tx, Lane::Amqp, &verdict.rows, now).await?;
                store::update_entry(tx, &key, &Entry { attempts, ..verdict.entry }, now).await?;
                Ok(())
            }
            .boxed()
        });
        filing.await
    }

    async fn count_failure(&self, due: Kept, now: DateTime<Utc>) -> Result<()> {
        let broker = Arc::clone(&self.broker);
        let counting = self.app.worker_db.write(move |tx| {
            async move {
                let (key, message, attempts) = (due.key(), due.message(), due.attempts + 1);
                let next = usize::try_from(due.attempts).ok().and_then(|used| RETRIES.get(used));
                let entry = match next {
                    Some(delay) => waiting(&message, attempts, now + *delay),
                    None => {
                        let verdict = bury(
                            &message,
                            Read::of(&message).entry(&message, "dead"),
                            &Dead::new(DeadReason::RetriesExhausted, "we failed on it each time"),
                            &broker,
                            now,
                        )?;
                        outbox::insert_messages(tx, Lane::Amqp, &verdict.rows, now).await?;
                        Entry { attempts, ..verdict.entry }
                    }
                };
                store::update_entry(tx, &key, &entry, now).await?;
                Ok(())
            }
            .boxed()
        });
        counting.await
    }
}

impl Kept {
    fn key(&self) -> Key {
        Key { message_id: self.message_id.clone(), user_id: self.user_id }
    }

    /// The message as it came.
    fn message(&self) -> Incoming {
        let property = |name: &str| self.properties.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        Incoming {
            body: self.body.clone().unwrap_or_default(),
            message_id: property("message_id"),
            correlation_id: correlation::accept(self.correlation_id.as_deref()),
            content_type: property("content_type"),
            content_encoding: property("content_encoding"),
            kind: property("type"),
            trace: Trace::read(|name| self.properties.get("headers")?.get(name)?.as_str()),
            ..Incoming::default()
        }
    }
}
