//! Pages of users in bounded work, whatever is asked: what lies deep is reached by a cursor, what is many is estimated.

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use super::store::Way;
use super::{Card, store};
use crate::error::Result;

/// Users on a page at most.
pub const MAX_LIMIT: u64 = 100;

/// How deep page numbers reach, and how far is counted; beyond it there are cursors and estimates.
pub const MAX_DEPTH: u64 = 10_000;

/// Which users, and in what order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// What the address, the name or its last word begins with.
    pub search: Option<String>,
    pub is_active: Option<bool>,
    pub email_verified: Option<bool>,
    pub is_staff: Option<bool>,
    /// Made at this time or later, and before that one.
    pub created: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    pub order: Order,
    pub limit: u64,
    pub from: From,
}

impl Default for Listing {
    /// The newest first.
    fn default() -> Self {
        let order = Order { by: Column::CreatedAt, descending: true };
        Self {
            search: None,
            is_active: None,
            email_verified: None,
            is_staff: None,
            created: (None, None),
            order,
            limit: 20,
            from: From::Offset(0),
        }
    }
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// After so many users.
    Offset(u64),
    /// After this one.
    After(Position),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub by: Column,
    pub descending: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    CreatedAt,
    Email,
    Name,
}

/// A user's place in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub value: Value,
    pub user_id: Uuid,
}

/// What a column has there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Time(DateTime<Utc>),
    Text(String),
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    pub cards: Vec<Card>,
    /// Where the next one begins, if there is one.
    pub next: Option<Position>,
    pub total: u64,
    pub total_is_estimate: bool,
}

impl Position {
    fn of(card: &Card, column: Column) -> Self {
        let value = match column {
            Column::CreatedAt => Value::Time(card.created_at),
            // As it is sorted: by the key, which differs from the address in case only.
            Column::Email => Value::Text(card.email.to_ascii_lowercase()),
            Column::Name => Value::Text(card.name.clone()),
        };
        Self { value, user_id: card.user_id }
    }
}

/// The page and how many users there are in all. Erased ones are nobody.
pub async fn list(conn: &mut AsyncPgConnection, listing: &Listing) -> Result<Page> {
    let way = store::find_way(conn, listing.search.as_deref()).await?;
    let mut user_ids = store::list_ids(conn, listing, way).await?;
    let has_next = user_ids.len() as u64 > listing.limit;
    user_ids.truncate(usize::try_from(listing.limit).unwrap_or(usize::MAX));
    let mut cards = store::list_cards(conn, &user_ids).await?;
    cards.sort_by_key(|card| user_ids.iter().position(|user_id| *user_id == card.user_id));
    // To count what many begin with would be to look through all.
    let counted = match (&listing.search, way) {
        (Some(_), Way::ByOrder) => None,
        _ => Some(store::count_up_to(conn, listing, way, MAX_DEPTH + 1).await?).filter(|counted| *counted <= MAX_DEPTH),
    };
    let before = if let From::Offset(offset) = listing.from { offset } else { 0 };
    let total = match counted {
        Some(counted) => counted,
        None => store::estimate(conn, listing).await?.max(before + cards.len() as u64 + u64::from(has_next)),
    };
    let total_is_estimate = counted.is_none();
    let next = cards.last().filter(|_| has_next).map(|last| Position::of(last, listing.order.by));
    Ok(Page { cards, next, total, total_is_estimate })
}
