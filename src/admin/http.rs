//! `GET /users`: the list of users.

use apistos::{ApiComponent, api_operation};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::DateTime;
use futures_util::FutureExt as _;
use schemars::JsonSchema;
use serde::Deserialize;
use uuid::Uuid;

use crate::access::Caller;
use crate::card::list::{Column, From, Listing, MAX_DEPTH, MAX_LIMIT, Order, Page, Position, Value, list};
use crate::config::Scope;
use crate::error::{Error, Problems, Result};
use crate::http::State;
use crate::http::auth::FromLister;
use crate::http::envelope::{Meta, Reply};
use crate::http::extract::Query;
use crate::http::user_body::UserBody;
use crate::infra::keys::{Key, ServerKeys};

const DEFAULT_LIMIT: u64 = 20;

const ORDERINGS: [(&str, Order); 6] = [
    ("created_at", Order { by: Column::CreatedAt, descending: false }),
    ("-created_at", Order { by: Column::CreatedAt, descending: true }),
    ("email", Order { by: Column::Email, descending: false }),
    ("-email", Order { by: Column::Email, descending: true }),
    ("name", Order { by: Column::Name, descending: false }),
    ("-name", Order { by: Column::Name, descending: true }),
];

#[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
#[serde(deny_unknown_fields)]
pub struct ListUsers {
    #[schemars(range(min = 1))]
    pub page: Option<u64>,
    /// 20 unless told, at most 100
    #[schemars(range(min = 1, max = 100))]
    pub limit: Option<u64>,
    /// What the address, the name or its last word begins with
    #[schemars(length(max = 254))]
    pub search: Option<String>,
    pub is_active: Option<bool>,
    pub email_verified: Option<bool>,
    /// created_at, email or name, with - before it for the other way round; -created_at unless told
    pub ordering: Option<String>,
    /// `meta.next_cursor` of the page before
    pub cursor: Option<String>,
}

#[api_operation(
    tag = "directory",
    operation_id = "list_users",
    summary = "All users, page by page",
    description = "For services with the scope users:list, and for admins who are signed in at /admin/. Page numbers reach 10,000 users deep, cursors to the end.",
    error_code = 400,
    error_code = 401,
    error_code = 403,
    error_code = 404,
    error_code = 503
)]
pub async fn list_users(app: State, FromLister(caller): FromLister, Query(query): Query<ListUsers>) -> Result<Reply<Vec<UserBody>>> {
    if let Caller::Service(service) = &caller {
        service.require(Scope::UsersList)?;
    }
    let (listing, page) = (check(&query, &app.keys)?, query.page.unwrap_or(1));
    let asked = listing.clone();
    let found = app.db.read(move |conn| async move { list(conn, &asked).await }.boxed()).await?;
    let meta = meta(&found, &listing, page, &app.keys);
    Ok(Reply::new("Users", found.cards.into_iter().map(UserBody::with_activity).collect()).with_meta(meta))
}

fn check(query: &ListUsers, keys: &ServerKeys) -> Result<Listing> {
    let mut problems = Problems::default();
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        problems.add("limit", format!("must be 1 to {MAX_LIMIT}"));
    }
    let order = problems.check("ordering", order(query.ordering.as_deref().unwrap_or("-created_at")));
    let search = query.search.as_deref().map(str::trim).filter(|search| !search.is_empty()).map(str::to_owned);
    if search.as_deref().is_some_and(|search| search.chars().count() > 254 || search.contains('\0')) {
        problems.add("search", "must be at most 254 characters long, and none of them NUL");
    }
    let from = match (&query.cursor, query.page) {
        (Some(_), Some(_)) => Err("goes without page".to_owned()),
        (Some(cursor), None) => {
            let position = order.and_then(|order| read_cursor(cursor, order, keys));
            position.map(From::After).ok_or_else(|| "is no meta.next_cursor of this ordering".to_owned())
        }
        (None, page) => {
            let offset = page.unwrap_or(1).checked_sub(1).and_then(|before| before.checked_mul(limit));
            match offset.filter(|offset| offset.saturating_add(limit) <= MAX_DEPTH) {
                Some(offset) => Ok(From::Offset(offset)),
                None => Err(format!("must be at least 1, and not deeper than {MAX_DEPTH} users: follow meta.next_cursor instead")),
            }
        }
    };
    let from = problems.check(if query.cursor.is_some() { "cursor" } else { "page" }, from);
    problems.finish()?;
    let (is_active, email_verified) = (query.is_active, query.email_verified);
    match (order, from) {
        (Some(order), Some(from)) => Ok(Listing { search, is_active, email_verified, order, limit, from, ..Listing::default() }),
        _ => Err(Error::internal("a checked listing lacks a part")),
    }
}

/// An order by its name.
pub fn order(text: &str) -> Result<Order, &'static str> {
    let found = ORDERINGS.iter().find(|(name, _)| *name == text);
    found.map(|(_, order)| *order).ok_or("must be created_at, email or name, or one of these after a -")
}

fn meta(found: &Page, listing: &Listing, page: u64, keys: &ServerKeys) -> Meta {
    Meta {
        total: found.total,
        total_is_estimate: found.total_is_estimate,
        limit: listing.limit,
        page,
        total_pages: found.total.div_ceil(listing.limit).max(1),
        has_next: found.next.is_some(),
        has_previous: listing.from != From::Offset(0),
        next_cursor: found.next.as_ref().map(|position| write_cursor(position, listing.order, keys)),
    }
}

fn cursor_key(order: Order, keys: &ServerKeys) -> Key {
    let name = ORDERINGS.iter().find(|(_, known)| *known == order).map_or("", |(name, _)| name);
    keys.derive("cursor", name.as_bytes())
}

/// A position under an HMAC: nobody else writes one, and one of another ordering is none.
fn write_cursor(position: &Position, order: Order, keys: &ServerKeys) -> String {
    let value = match &position.value {
        Value::Time(time) => time.timestamp_micros().to_string(),
        Value::Text(text) => text.clone(),
    };
    let text = format!("{} {value}", position.user_id);
    let tag = cursor_key(order, keys).authenticate(&[text.as_bytes()]);
    BASE64_URL_SAFE_NO_PAD.encode([&tag[..16], text.as_bytes()].concat())
}

fn read_cursor(cursor: &str, order: Order, keys: &ServerKeys) -> Option<Position> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (tag, text) = bytes.split_at_checked(16)?;
    let made = cursor_key(order, keys).authenticate(&[text]);
    bool::from(subtle::ConstantTimeEq::ct_eq(&made[..16], tag)).then_some(())?;
    let (user_id, value) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    let value = match order.by {
        Column::CreatedAt => Value::Time(DateTime::from_timestamp_micros(value.parse().ok()?)?),
        Column::Email | Column::Name => Value::Text(value.to_owned()),
    };
    Some(Position { value, user_id: Uuid::try_parse(user_id).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_no_other_way() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let order = order("-created_at").unwrap();
        let position =
            Position { value: Value::Time(DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap()), user_id: Uuid::now_v7() };
        let cursor = write_cursor(&position, order, &keys);
        assert_eq!(read_cursor(&cursor, order, &keys), Some(position));
        assert_eq!(read_cursor(&cursor, super::order("created_at").unwrap(), &keys), None);
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(read_cursor(std::str::from_utf8(&forged).unwrap(), order, &keys), None, "byte {at}");
        }
        assert_eq!(read_cursor("", order, &keys), None);
    }
}
