//! Reads the books of a run: nothing lost, invented, corrupt; each id with one end.
//!
//! A are the ids attempted, K those confirmed to the producer, D what arrived, L the dead letters, S the skipped. A run
//! passes when K ⊆ D∪L∪S ⊆ A, each id has one end that fits its request, and every delivery equals the enrichment worked
//! out anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::ledger::{Cast, Ledger};

/// Headers that a delivery may have; there are no others.
const ALLOWED_HEADERS: [&str; 2] = ["traceparent", "tracestate"];

/// What is wrong with a run, by id.
#[derive(Debug, Default)]
pub struct Findings {
    pub lost: BTreeSet<String>,
    pub invented: BTreeSet<String>,
    /// A delivery that says something else than it must, or that must not be.
    pub corrupt: BTreeSet<String>,
    /// An end that does not fit the request, or the delivery.
    pub contradicted: BTreeSet<String>,
    /// Retries spent where nothing of ours failed, or more than three.
    pub spent: BTreeSet<String>,
    /// One of the corrupt, and what it should be.
    pub example: Option<String>,
    /// Deliveries beyond the first of an id.
    pub duplicated: usize,
    confirmed: usize,
    delivered: usize,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "confirmed {}, delivered {}, lost {}, invented {}, corrupt {}, contradicted {}, spent {}, raw duplicates {}",
            self.confirmed,
            self.delivered,
            self.lost.len(),
            self.invented.len(),
            self.corrupt.len(),
            self.contradicted.len(),
            self.spent.len(),
            self.duplicated
        )
    }
}

impl Findings {
    /// Only raw duplicates may be left, and of them no more than `duplicates`.
    pub fn assert_clean(&self, what: &str, duplicates: usize) {
        println!("{what}: {self}");
        let wrong = [&self.lost, &self.invented, &self.corrupt, &self.contradicted, &self.spent];
        assert!(wrong.iter().all(|ids| ids.is_empty()), "{what}: {self:#?}");
        assert!(self.duplicated <= duplicates, "{what}: {} raw duplicates, {duplicates} are allowed", self.duplicated);
    }
}

/// `retries`: how many the run's own bugs may cost a request.
pub fn check(ledger: &Ledger, cast: &Cast, retries: i32) -> Findings {
    let mut findings = Findings { confirmed: ledger.confirmed.len(), ..Findings::default() };
    let mut arrived: BTreeMap<&str, usize> = BTreeMap::new();
    for delivery in &ledger.delivered {
        *arrived.entry(&delivery.id).or_default() += 1;
        let headers_fit = delivery.headers.iter().all(|name| ALLOWED_HEADERS.contains(&name.as_str()));
        let expected = cast.enriched(&delivery.id);
        if !headers_fit || delivery.body != expected {
            findings.example.get_or_insert(format!("{:?} {} instead of {expected}", delivery.headers, delivery.body));
            findings.corrupt.insert(delivery.id.clone());
        }
    }
    findings.delivered = arrived.len();
    findings.duplicated = ledger.delivered.len() - arrived.len();
    let mut ends: BTreeMap<&str, (&str, Option<&str>)> = BTreeMap::new();
    for row in &ledger.rows {
        if row.attempts > retries.min(3) {
            findings.spent.insert(row.message_id.clone());
        }
        if row.outcome != "retry" && ends.insert(&row.message_id, (&row.outcome, row.reason.as_deref())).is_some() {
            findings.contradicted.insert(row.message_id.clone());
        }
    }
    for id in &ledger.confirmed {
        let has_ended = match ends.get(id.as_str()) {
            // An end is to be seen: the delivery on its queue, the dead letter's copy on the other.
            Some(("delivered", _)) => arrived.contains_key(id.as_str()),
            Some(("dead", _)) => ledger.dead_copies.contains(id),
            Some(_) => true,
            None => arrived.contains_key(id.as_str()),
        };
        if !has_ended {
            findings.lost.insert(id.clone());
        }
    }
    for id in arrived.keys().chain(ends.keys()).map(|id| (*id).to_owned()).chain(ledger.dead_copies.iter().cloned()) {
        let Some(kind) = ledger.attempted.get(&id) else {
            findings.invented.insert(id);
            continue;
        };
        let (outcome, reason) = kind.outcome();
        let fits = ends.get(id.as_str()).is_none_or(|end| *end == (outcome, reason));
        if !fits || (arrived.contains_key(id.as_str()) && outcome != "delivered") {
            findings.contradicted.insert(id);
        }
    }
    findings
}
