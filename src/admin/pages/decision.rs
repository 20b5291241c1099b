//! Why was it sent, or not? The worker's own decision, asked here with every rule.

use askama::Template;
use chrono::{DateTime, NaiveDateTime, Utc};
use futures_util::FutureExt as _;
use serde::Deserialize;

use super::guard::Admin;
use super::{Frame, Shown, problem, show};
use crate::admin;
use crate::card::Card;
use crate::error::{Error, Kind, Result};
use crate::http::State;
use crate::http::extract::Query;
use crate::push::decision::{Decision, SkipReason, decide, rules};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// Id or address.
    user: String,
    /// As a browser's field for a time sends it, in UTC; empty: never.
    expires_at: String,
}

/// A rule, as it is explained.
struct Explained {
    reason: &'static str,
    question: &'static str,
    answer: String,
    forbids: bool,
    decides: bool,
}

#[derive(Template)]
#[template(path = "admin/pages/html/decision.html")]
struct Explanation {
    frame: Frame,
    asked: Asked,
    verdict: Option<(Card, String, Vec<Explained>)>,
    problem: String,
}

pub async fn explain_decision(app: State, admin: Admin, Query(asked): Query<Asked>) -> Shown {
    let frame = admin.frame("decision");
    if asked.user.trim().is_empty() {
        return Ok(show(&Explanation { frame, asked, verdict: None, problem: String::new() }));
    }
    let found = match time(&asked.expires_at) {
        Ok(expires_at) => find(&app, asked.user.trim()).await.map(|card| (card, expires_at)),
        Err(error) => Err(error),
    };
    match found {
        Ok((card, expires_at)) => {
            let verdict = explain(card, expires_at, app.clock.now());
            Ok(show(&Explanation { frame, asked, verdict: Some(verdict), problem: String::new() }))
        }
        Err(error) if matches!(error.kind(), Kind::Invalid | Kind::NotFound) => {
            Ok(show(&Explanation { frame, asked, verdict: None, problem: problem(&error) }))
        }
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &State, name: &str) -> Result<Card> {
    let name = name.to_owned();
    app.db.read(move |conn| async move { admin::find(conn, &name).await }.boxed()).await
}

fn explain(card: Card, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> (Card, String, Vec<Explained>) {
    let decision = decide(&card, expires_at, now);
    let said = match decision {
        Decision::Deliver => "It would be delivered.".to_owned(),
        Decision::Skip(reason) => format!("It would be skipped: {}.", reason.as_str()),
    };
    let explained = rules(&card, expires_at, now).map(|(reason, forbids)| {
        let (question, answer) = match reason {
            SkipReason::UserInactive => ("Is the account active?", if card.is_active { "yes" } else { "no" }.to_owned()),
            SkipReason::Expired => {
                ("Has the request expired?", expires_at.map_or("it never does".to_owned(), |at| format!("at {}", super::when(at))))
            }
            SkipReason::PushDisabled => ("Does the user want push?", if card.preferences.push { "yes" } else { "no" }.to_owned()),
            SkipReason::NoPushToken => ("Is there a push token?", if card.push_token.is_some() { "yes" } else { "no" }.to_owned()),
        };
        Explained { reason: reason.as_str(), question, answer, forbids, decides: decision == Decision::Skip(reason) }
    });
    (card, said, explained.into())
}

fn time(text: &str) -> Result<Option<DateTime<Utc>>> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"].iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    parsed.map(|time| Some(time.and_utc())).ok_or_else(|| Error::field("expires_at", "must be a time, like 2026-01-31T12:00"))
}
