//! Finding somebody among all users.

use askama::Template;
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use futures_util::FutureExt as _;
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::guard::Admin;
use super::{Frame, Shown, see_other, show, when};
use crate::admin::http::order;
use crate::card::Card;
use crate::card::list::{From, Listing, MAX_DEPTH, list};
use crate::error::{Problems, Result};
use crate::http::State;
use crate::http::extract::Query;

const PER_PAGE: u64 = 25;

pub const SORTS: [(&str, &str); 6] = [
    ("-created_at", "newest first"),
    ("created_at", "oldest first"),
    ("name", "name"),
    ("-name", "name, backwards"),
    ("email", "address"),
    ("-email", "address, backwards"),
];

/// As the form sends it: what was left open is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    search: String,
    /// `yes`, `no`, or empty for both; so with the next two.
    active: String,
    verified: String,
    staff: String,
    /// Days, the last one included.
    created_from: String,
    created_to: String,
    sort: String,
    page: String,
}

#[derive(Template)]
#[template(path = "admin/pages/html/users.html")]
struct Users {
    frame: Frame,
    asked: Asked,
    /// Name, label and what was chosen, of the filters that are yes or no.
    choices: [(&'static str, &'static str, String); 3],
    cards: Vec<Card>,
    total: String,
    page: u64,
    pages: u64,
    previous: Option<String>,
    next: Option<String>,
    problem: String,
}

pub async fn show_start(_admin: Admin) -> Shown {
    Ok(see_other("/admin/users"))
}

pub async fn list_users(app: State, admin: Admin, Query(asked): Query<Asked>) -> Shown {
    let page = asked.page.parse().unwrap_or(1).clamp(1, MAX_DEPTH / PER_PAGE);
    let (listing, problem) = match asked.listing(page) {
        Ok(listing) => (listing, String::new()),
        Err(error) => (Listing { limit: PER_PAGE, ..Listing::default() }, super::problem(&error)),
    };
    let found = app.db.read(move |conn| async move { list(conn, &listing).await }.boxed()).await?;
    let pages = found.total.div_ceil(PER_PAGE).clamp(1, MAX_DEPTH / PER_PAGE);
    let total = if found.total_is_estimate { format!("about {}", found.total) } else { found.total.to_string() };
    Ok(show(&Users {
        frame: admin.frame("users"),
        previous: (page > 1).then(|| asked.link(page - 1)),
        next: (found.next.is_some() && page < pages).then(|| asked.link(page + 1)),
        choices: [
            ("active", "Active", asked.active.clone()),
            ("verified", "Verified", asked.verified.clone()),
            ("staff", "Staff", asked.staff.clone()),
        ],
        asked,
        cards: found.cards,
        total,
        page,
        pages,
        problem,
    }))
}

impl Asked {
    fn listing(&self, page: u64) -> Result<Listing> {
        let mut problems = Problems::default();
        let sort = if self.sort.is_empty() { "-created_at" } else { &self.sort };
        let order = problems.check("sort", order(sort));
        let is_active = problems.check("active", yes_or_no(&self.active));
        let email_verified = problems.check("verified", yes_or_no(&self.verified));
        let is_staff = problems.check("staff", yes_or_no(&self.staff));
        let from = problems.check("created_from", day(&self.created_from));
        let to = problems.check("created_to", day(&self.created_to));
        let search = Some(self.search.trim().to_owned()).filter(|search| !search.is_empty());
        if search.as_deref().is_some_and(|search| search.chars().count() > 254 || search.contains('\0')) {
            problems.add("search", "must be at most 254 characters long");
        }
        problems.finish()?;
        let default = Listing::default();
        Ok(Listing {
            search,
            is_active: is_active.flatten(),
            email_verified: email_verified.flatten(),
            is_staff: is_staff.flatten(),
            created: (from.flatten(), to.flatten().map(|day| day + TimeDelta::days(1))),
            order: order.unwrap_or(default.order),
            limit: PER_PAGE,
            from: From::Offset((page - 1) * PER_PAGE),
        })
    }

    /// The same on another page.
    fn link(&self, page: u64) -> String {
        let mut query = Serializer::new(String::from("/admin/users?"));
        let fields = [
            ("search", &self.search),
            ("active", &self.active),
            ("verified", &self.verified),
            ("staff", &self.staff),
            ("created_from", &self.created_from),
            ("created_to", &self.created_to),
            ("sort", &self.sort),
        ];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            query.append_pair(name, value);
        }
        query.append_pair("page", &page.to_string()).finish()
    }
}

fn yes_or_no(text: &str) -> Result<Option<bool>, &'static str> {
    match text {
        "" => Ok(None),
        "yes" => Ok(Some(true)),
        "no" => Ok(Some(false)),
        _ => Err("must be yes, no, or empty"),
    }
}

fn day(text: &str) -> Result<Option<DateTime<Utc>>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    let day = text
        .parse::<NaiveDate>()
        .ok()
        .and_then(|day| day.and_hms_opt(0, 0, 0))
        .filter(|day| (1970..=2999).contains(&chrono::Datelike::year(day)));
    day.map(|day| Some(day.and_utc())).ok_or("must be a day, like 2026-01-31")
}
