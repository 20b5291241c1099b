//! What is known of a batch's messages: each is new, a copy of one that has its outcome, or another request under a used id.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::PushRequest;
use super::message::parse;
use super::store::{self, Entry, Key};
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::Incoming;
use crate::error::{Error, Result};
use crate::infra::db::Tx;
use crate::infra::fail_point;

/// A message as it was understood.
#[derive(Clone, Debug)]
pub struct Read {
    pub parsed: Result<PushRequest, Dead>,
    pub key: Key,
    fingerprint: [u8; 32],
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    New,
    /// It has its outcome, or waits for it.
    Copy,
    /// Its id is another request's.
    Conflict,
    /// Another worker is at it.
    Busy,
}

impl Read {
    /// Never panics: a bug of ours in reading would be one each time, so the message is put aside at once.
    pub fn of(message: &Incoming) -> Self {
        let reading = AssertUnwindSafe(|| {
            fail_point::reach_with("reading", &message.body);
            parse(message)
        });
        let parsed = catch_unwind(reading).unwrap_or_else(|panic| {
            tracing::error!(
                correlation_id = message.correlation_id,
                error = Error::panicked(&*panic).chain(),
                "a push request cannot be read"
            );
            Err(Dead::new(DeadReason::RetriesExhausted, "we failed on reading it"))
        });
        match &parsed {
            Ok(request) => Self {
                key: Key { message_id: request.notification_id.clone(), user_id: request.user_id },
                // Sorted by name: white space and the order of fields make no other request.
                fingerprint: Sha256::digest(serde_json::to_vec(&request.fields).unwrap_or_default()).into(),
                parsed,
            },
            Err(dead) => Self::unread(message, dead.clone()),
        }
    }

    /// One that cannot be read, or must not be.
    pub fn unread(message: &Incoming, dead: Dead) -> Self {
        Self {
            key: Key { message_id: usable_id(message), user_id: Uuid::nil() },
            fingerprint: Sha256::digest(&message.body).into(),
            parsed: Err(dead),
        }
    }

    /// The same under a name of its own, for one whose id is another's. The name follows from the body, so that its copies
    /// are known as copies.
    #[must_use]
    pub fn renamed(mut self) -> Self {
        self.key = self.key.told_apart_by(&self.fingerprint);
        self
    }

    /// Its row, to be completed by what became of it.
    pub fn entry(&self, message: &Incoming, outcome: &'static str) -> Entry {
        Entry {
            key: self.key.clone(),
            fingerprint: self.fingerprint,
            source: "queue",
            outcome,
            reason: None,
            detail: None,
            attempts: 0,
            next_attempt_at: None,
            body: None,
            properties: json!({
                "message_id": storable(&message.message_id),
                "content_type": storable(&message.content_type),
                "content_encoding": storable(&message.content_encoding),
                "type": storable(&message.kind),
                "headers": message.trace.headers(),
            }),
            correlation_id: message.correlation_id.clone(),
        }
    }
}

/// PostgreSQL's text holds no NUL.
fn storable(text: &Option<String>) -> Option<String> {
    text.as_ref().map(|text| text.replace('\0', "\u{fffd}"))
}

/// What a message that cannot be read is filed under: its own id, if PostgreSQL can hold it.
fn usable_id(message: &Incoming) -> String {
    let usable = message.message_id.clone().filter(|id| !id.is_empty() && !id.contains('\0'));
    usable.or_else(|| message.made_up_id.clone()).unwrap_or_else(|| Uuid::now_v7().to_string())
}

/// Where each message of a batch stands; those that are new are locked until the transaction ends.
pub async fn look_up(tx: &mut Tx, batch: &[Read]) -> Result<Vec<Standing>> {
    let keys: Vec<&Key> = batch.iter().map(|read| &read.key).collect();
    let locked = store::try_lock(tx, &keys).await?;
    // Of copies in one batch the first counts.
    let mut seen: HashMap<Key, Vec<u8>> = store::list_seen(tx, &keys).await?.into_iter().collect();
    let mut standings = Vec::with_capacity(batch.len());
    for (read, locked) in batch.iter().zip(locked) {
        standings.push(match seen.get(&read.key) {
            Some(fingerprint) if fingerprint == &read.fingerprint => Standing::Copy,
            Some(_) => Standing::Conflict,
            None if locked => {
                seen.insert(read.key.clone(), read.fingerprint.to_vec());
                Standing::New
            }
            None => Standing::Busy,
        });
    }
    Ok(standings)
}
