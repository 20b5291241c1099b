//! Push requests that come by REST: decided at once, and handed on through the outbox of the same transaction.

use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::{Incoming, Outgoing};
use crate::app::App;
use crate::config;
use crate::error::{Code, Error, Result};
use crate::infra::cache::Cache;
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::outbox::{self, Lane, NewMessage};

use super::decision::{self, Decision, SkipReason};
use super::inbox::{self, Read, Standing};
use super::store::{self, Entry};
use super::verdict::{count, judge};
use super::{Outcome, PushRequest, process};

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    pub notification_id: String,
    /// `None`: it is delivered.
    pub skipped_for: Option<String>,
}

/// Why: each rule in the order in which they are looked at, and whether it forbids the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    pub decided: Decided,
    pub rules: [(SkipReason, bool); 4],
}

/// Takes a request; the same one again is told what was decided then.
pub async fn submit(tx: &mut Tx, cache: &Cache, message: &Incoming, broker: &config::Broker, cause: &Cause) -> Result<Decided> {
    let read = Read::of(message);
    let request = read.parsed.as_ref().map_err(refusal)?;
    let notification_id = request.notification_id.clone();
    match inbox::look_up(tx, std::slice::from_ref(&read)).await?[..] {
        [Standing::New] => {}
        [Standing::Copy] => return decided_before(tx, &read, notification_id).await,
        [Standing::Conflict] => return Err(conflict("Another request for this user has this id.")),
        _ => return Err(Error::unavailable("another transaction is at this request")),
    }
    let outcome = decide(tx, cache, request, cause).await?;
    let verdict = judge(message, &read, Some(outcome), broker, cause.at)?;
    if verdict.entry.outcome == "dead" {
        let detail = verdict.entry.detail.unwrap_or_default();
        return Err(Error::new(Code::BodyTooLarge, detail));
    }
    let delivery = verdict.outgoing.map(|outgoing| NewMessage { user_id: Some(verdict.entry.key.user_id), ..outgoing.into() });
    let rows: Vec<NewMessage> = delivery.into_iter().chain(verdict.rows).collect();
    outbox::insert_messages(tx, Lane::Amqp, &rows, cause.at).await?;
    let entry = Entry { source: "rest", ..verdict.entry };
    let skipped_for = entry.reason.clone();
    count(&entry);
    store::insert_entries(tx, &[entry], cause.at).await?;
    Ok(Decided { notification_id, skipped_for })
}

/// Decides and explains, and does nothing.
pub async fn explain(app: &App, message: Incoming, cause: Cause) -> Result<Explained> {
    let read = Read::of(&message);
    let request = read.parsed.map_err(|dead| refusal(&dead))?;
    let cache = app.cache.clone();
    let explaining = app.db.read(move |conn| {
        Box::pin(async move {
            let Some(Outcome::Decided(decision, card)) = process(conn, &cache, &[&request], cause.at).await?.pop() else {
                return Err(Code::UserNotFound.into());
            };
            let skipped_for = match decision {
                Decision::Deliver => None,
                Decision::Skip(reason) => Some(reason.as_str().to_owned()),
            };
            let rules = decision::rules(&card, request.expires_at, cause.at);
            Ok(Explained { decided: Decided { notification_id: request.notification_id, skipped_for }, rules })
        })
    });
    explaining.await
}

async fn decide(tx: &mut Tx, cache: &Cache, request: &PushRequest, cause: &Cause) -> Result<Outcome> {
    match process(tx, cache, &[request], cause.at).await?.pop() {
        None | Some(Outcome::UnknownUser) => Err(Code::UserNotFound.into()),
        Some(outcome) => Ok(outcome),
    }
}

async fn decided_before(tx: &mut Tx, read: &Read, notification_id: String) -> Result<Decided> {
    match store::find_outcome(tx, &read.key).await? {
        (outcome, _) if outcome == "delivered" => Ok(Decided { notification_id, skipped_for: None }),
        (outcome, reason) if outcome == "skipped" => Ok(Decided { notification_id, skipped_for: reason }),
        (outcome, _) if outcome == "retry" => Err(Error::unavailable("the request waits to be tried again")),
        _ => Err(conflict("The request with this id died; an operator can let it be decided anew.")),
    }
}

fn conflict(detail: &'static str) -> Error {
    Error::new(Code::MessageIdConflict, detail)
}

/// What would die on the queue is refused here; each detail begins with the name of the field.
fn refusal(dead: &Dead) -> Error {
    match (dead.reason, dead.detail.split_once(' ')) {
        (DeadReason::TooLarge, _) => Error::new(Code::BodyTooLarge, dead.detail.clone()),
        (_, Some((field, problem))) => Error::field(field, problem),
        (_, None) => Error::field("body", dead.detail.clone()),
    }
}

impl From<Outgoing> for NewMessage {
    fn from(outgoing: Outgoing) -> Self {
        Self {
            user_id: None,
            exchange: Some(outgoing.exchange),
            routing_key: outgoing.routing_key,
            message_type: outgoing.kind,
            priority: outgoing.priority,
            message_id: outgoing.message_id,
            correlation_id: outgoing.correlation_id.unwrap_or_default(),
            headers: outgoing.headers,
            payload: outgoing.body,
            one_time_token_id: None,
        }
    }
}
