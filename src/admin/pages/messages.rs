//! How messages fare: outcomes over the day, what is stuck, what died; and having it tried again.

use askama::Template;
use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use futures_util::FutureExt as _;
use serde::Deserialize;
use serde_json::Map;
use uuid::Uuid;

use super::forms::{Empty, OwnForm};
use super::guard::Admin;
use super::health::configured_keys;
use super::{Ask, Frame, Shown, see_other, show, when, when_known};
use crate::admin::overview::{self, Messages, Outcomes, masked};
use crate::error::{Code, Result};
use crate::http::State;
use crate::http::extract::{PathId, Query};
use crate::http::origin::Origin;
use crate::infra::audit::{self, Action};
use crate::infra::outbox;
use crate::push::dead_letters::{self, Filter};

/// Dead letters that one answer has decided anew.
const REDRIVEN: i64 = 1_000;

/// Which dead letters; empty: all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Chosen {
    reason: String,
    user_id: String,
    message_id: String,
    done: String,
}

/// A bar of the chart.
struct Bar {
    x: u32,
    y: u32,
    height: u32,
    outcome: &'static str,
    told: String,
}

#[derive(Template)]
#[template(path = "admin/pages/html/messages.html")]
struct MessagesPage {
    frame: Frame,
    chosen: Chosen,
    messages: Messages,
    bars: Vec<Bar>,
    most: i64,
    /// Outcome, reason, and how many in the last day.
    totals: Vec<(String, String, i64)>,
    done: &'static str,
}

pub async fn show_messages(app: State, admin: Admin, Query(chosen): Query<Chosen>) -> Shown {
    let (filter, keys, now) = (chosen.filter()?, configured_keys(&app), app.clock.now());
    let reading = app.db.read(move |conn| async move { overview::read_messages(conn, &filter, &keys, now).await }.boxed());
    let messages = reading.await?;
    let (bars, most) = chart(&messages.outcomes, now);
    let done = match chosen.done.as_str() {
        "redrive" => "The worker decides them anew.",
        "retry" => "It is tried again.",
        _ => "",
    };
    let totals = totals(&messages.outcomes);
    Ok(show(&MessagesPage { frame: admin.frame("messages"), chosen, messages, bars, most, totals, done }))
}

impl Chosen {
    fn filter(&self) -> Result<Filter> {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        let user_id = given(&self.user_id).map(|id| Uuid::try_parse(&id).map_err(|_no_id| Code::UserNotFound)).transpose()?;
        Ok(Filter { reason: given(&self.reason), user_id, message_id: given(&self.message_id), before: None })
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![("reason", self.reason.clone()), ("user_id", self.user_id.clone()), ("message_id", self.message_id.clone())]
    }
}

const OUTCOMES: [&str; 4] = ["delivered", "skipped", "retry", "dead"];

/// Stacked bars, one an hour, in a box of 480 by 120; and how many the highest one stands for.
fn chart(outcomes: &[Outcomes], now: DateTime<Utc>) -> (Vec<Bar>, i64) {
    let hours = (0..24).map(|back| now - TimeDelta::hours(23 - back));
    let of_hour = |hour: DateTime<Utc>| {
        outcomes.iter().filter(move |row| (row.hour.date_naive(), row.hour.hour()) == (hour.date_naive(), hour.hour()))
    };
    let most = hours.clone().map(|hour| of_hour(hour).map(|row| row.count).sum::<i64>()).max().unwrap_or_default();
    let mut bars = Vec::new();
    for (place, hour) in hours.enumerate() {
        let mut top = 120;
        for outcome in OUTCOMES {
            let count: i64 = of_hour(hour).filter(|row| row.outcome == outcome).map(|row| row.count).sum();
            if count == 0 {
                continue;
            }
            let height = u32::try_from(count * 118 / most.max(1)).unwrap_or_default().max(1);
            top -= height.min(top);
            let told = format!("{:02}:00 UTC: {count} {outcome}", hour.hour());
            bars.push(Bar { x: u32::try_from(place).unwrap_or_default() * 20 + 2, y: top, height, outcome, told });
        }
    }
    (bars, most)
}

fn totals(outcomes: &[Outcomes]) -> Vec<(String, String, i64)> {
    let mut totals = std::collections::BTreeMap::new();
    for row in outcomes {
        *totals.entry((row.outcome.clone(), row.reason.clone().unwrap_or_default())).or_insert(0) += row.count;
    }
    totals.into_iter().map(|((outcome, reason), count)| (outcome, reason, count)).collect()
}

pub async fn ask_redrive(admin: Admin, Query(chosen): Query<Chosen>) -> Shown {
    chosen.filter()?;
    let which = chosen.fields().into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name} {value}"));
    let which: Vec<String> = which.collect();
    let which = if which.is_empty() { "all of them".to_owned() } else { which.join(", ") };
    Ok(show(&Ask {
        frame: admin.frame("messages"),
        title: "Have dead letters decided anew".to_owned(),
        text: format!("At most {REDRIVEN} of these: {which}. The worker judges each against preferences and tokens as they are then."),
        action: "/admin/messages/redrive".to_owned(),
        back: "/admin/messages".to_owned(),
        fields: chosen.fields(),
        needs_reason: false,
        button: "Redrive",
        problem: String::new(),
    }))
}

pub async fn submit_redrive(app: State, admin: Admin, origin: Origin, OwnForm(chosen): OwnForm<Chosen>) -> Shown {
    let (filter, cause) = (chosen.filter()?, origin.of_admin(&admin.session));
    let writing = app.db.write(move |tx| {
        async move {
            let count = dead_letters::redrive(tx, &filter, cause.at, REDRIVEN).await?;
            let detail = Map::from_iter([("count".to_owned(), count.into()), ("message_id".to_owned(), filter.message_id.clone().into())]);
            let reason = filter.reason.as_deref().unwrap_or_default();
            Ok(audit::record_with(tx, &cause, Action::DeadLettersRedriven, filter.user_id, reason, detail).await?)
        }
        .boxed()
    });
    writing.await?;
    Ok(see_other("/admin/messages?done=redrive"))
}

pub async fn ask_retry(admin: Admin, PathId(id): PathId) -> Shown {
    Ok(show(&Ask {
        frame: admin.frame("messages"),
        title: "Try a message again".to_owned(),
        text: format!("The relay sends the outbox row {id} at its next look, whatever it was told before."),
        action: format!("/admin/messages/retry/{id}"),
        back: "/admin/messages".to_owned(),
        fields: Vec::new(),
        needs_reason: false,
        button: "Try again",
        problem: String::new(),
    }))
}

pub async fn submit_retry(app: State, admin: Admin, origin: Origin, PathId(id): PathId, OwnForm(_form): OwnForm<Empty>) -> Shown {
    let cause = origin.of_admin(&admin.session);
    let writing = app.db.write(move |tx| {
        async move {
            if outbox::update_due(tx, id).await? == 0 {
                return Err(Code::NotFound.into());
            }
            let detail = Map::from_iter([("outbox_id".to_owned(), id.to_string().into())]);
            Ok(audit::record_with(tx, &cause, Action::OutboxRetried, None, "", detail).await?)
        }
        .boxed()
    });
    writing.await?;
    Ok(see_other("/admin/messages?done=retry"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_stacks_each_hour_within_its_box() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let row =
            |hours, outcome: &str, count| Outcomes { hour: now - TimeDelta::hours(hours), outcome: outcome.into(), reason: None, count };
        let (bars, most) = chart(&[row(0, "delivered", 90), row(0, "dead", 10), row(23, "skipped", 1), row(30, "dead", 500)], now);
        assert_eq!(most, 100);
        assert_eq!(bars.iter().map(|bar| (bar.x, bar.outcome)).collect::<Vec<_>>(), [(2, "skipped"), (462, "delivered"), (462, "dead")]);
        assert!(bars.iter().all(|bar| bar.height >= 1 && bar.y + bar.height <= 120));
        assert_eq!(bars[2].y + bars[2].height, bars[1].y, "one stands on the other");
        assert_eq!(chart(&[], now).1, 0);
    }
}
