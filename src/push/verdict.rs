//! What follows from a message: a delivery, the announcement of a skip, or the copy of a dead letter; and its row in the inbox.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::decision::Decision;
use super::inbox::Read;
use super::store::Entry;
use super::{Outcome, delivery};
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::{Incoming, Outgoing};
use crate::config;
use crate::error::Result;
use crate::infra::cause::{Actor, Cause};
use crate::infra::outbox::NewMessage;

/// What follows from a message.
#[derive(Clone)]
pub struct Verdict {
    /// What is handed on; the entry counts once it is confirmed.
    pub outgoing: Option<Outgoing>,
    /// The announcement of a skip, or the copy of a dead letter.
    pub rows: Vec<NewMessage>,
    pub entry: Entry,
}

/// `outcome` is absent where the message cannot be read.
pub fn judge(message: &Incoming, read: &Read, outcome: Option<Outcome>, broker: &config::Broker, now: DateTime<Utc>) -> Result<Verdict> {
    let dead = match (&read.parsed, outcome) {
        (Err(dead), _) => dead.clone(),
        (Ok(_), None | Some(Outcome::UnknownUser)) => Dead::new(DeadReason::UnknownUser, "user_id names no user"),
        (Ok(request), Some(Outcome::Decided(Decision::Deliver, card))) => match delivery::outgoing(message, request, &card, broker, now) {
            Ok(outgoing) => {
                let entry = read.entry(message, "delivered");
                return Ok(Verdict { outgoing: Some(outgoing), rows: Vec::new(), entry });
            }
            Err(dead) => dead,
        },
        (Ok(request), Some(Outcome::Decided(Decision::Skip(reason), card))) => {
            tracing::info!(correlation_id = message.correlation_id, user_id = %card.user_id, notification_id = request.notification_id, reason = reason.as_str(), "push skipped");
            let announcement = delivery::skipped(request, &card, reason, &cause(message, now))?;
            let entry = Entry { reason: Some(reason.as_str().to_owned()), ..read.entry(message, "skipped") };
            return Ok(Verdict { outgoing: None, rows: vec![announcement], entry });
        }
    };
    bury(message, read.entry(message, "dead"), &dead, broker, now)
}

/// A message's death: its row keeps the body, and a copy goes to `failed.queue`.
pub fn bury(message: &Incoming, entry: Entry, dead: &Dead, broker: &config::Broker, now: DateTime<Utc>) -> Result<Verdict> {
    let reason = dead.reason.as_str();
    tracing::warn!(
        correlation_id = message.correlation_id,
        message_id = message.message_id,
        reason,
        detail = dead.detail,
        "push request is dead"
    );
    let mut copy = dead.copy_of(message, broker, now);
    copy.user_id = Some(entry.key.user_id).filter(|id| *id != Uuid::nil());
    if message.message_id.is_none() {
        // The id that stood in its body, or the one it was given: so that copy and row are found by the same name.
        entry.key.given_id().clone_into(&mut copy.message_id);
    }
    let mut rows = vec![copy];
    if !entry.key.user_id.is_nil() && dead.reason != DeadReason::UnknownUser {
        rows.push(delivery::failed(&entry.key, dead.reason, &cause(message, now))?);
    }
    let (reason, detail, body) = (Some(reason.to_owned()), Some(dead.detail.clone()), Some(message.body.clone()));
    Ok(Verdict { outgoing: None, rows, entry: Entry { outcome: "dead", reason, detail, body, next_attempt_at: None, ..entry } })
}

/// Counts what was decided, once it is committed.
pub fn count(entry: &Entry) {
    let decision = match entry.outcome {
        "delivered" => "deliver",
        "skipped" => "skip",
        "dead" => "dead",
        _ => return,
    };
    let reason = entry.reason.clone().unwrap_or_default();
    metrics::counter!("push_decisions_total", "decision" => decision, "reason" => reason).increment(1);
}

fn cause(message: &Incoming, now: DateTime<Utc>) -> Cause {
    Cause { correlation_id: message.correlation_id.clone(), trace: message.trace.clone(), ..Cause::without_request(Actor::System, now) }
}
