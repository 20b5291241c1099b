//! What sibling services may ask about a user, answered from the cached card.

pub mod http;

use futures_util::FutureExt as _;
use uuid::Uuid;

use crate::access::Caller;
use crate::app::App;
use crate::card::{self, Card};
use crate::error::{Code, Error, Result};

/// How a user can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Email,
    Push,
}

/// Where a user is reached on a channel, and whether he wants to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Contact {
    pub contact: String,
    pub enabled: bool,
}

/// Users that may be asked for at once.
pub const MAX_LOOKUP: usize = 500;

/// A user's card, for those who may read it; `known` is what was read of the caller on the way.
pub async fn find_user(app: &App, caller: &Caller, known: Option<Card>, user_id: Uuid) -> Result<Card> {
    caller.may_read(user_id)?;
    card::known_or_cached(app, known, user_id).await
}

/// The cards of those of these users that there are, in the order in which they were asked for.
pub async fn find_users(app: &App, user_ids: Vec<Uuid>) -> Result<Vec<Card>> {
    let (cache, asked) = (app.cache.clone(), user_ids.clone());
    let reading = app.db.read(move |conn| async move { card::read_current(conn, &cache, &asked).await }.boxed());
    let mut found = reading.await?;
    Ok(user_ids.iter().filter_map(|user_id| found.remove(user_id)).collect())
}

/// The address or the push token; without one [`Code::NoContact`].
pub fn contact(card: &Card, channel: Channel) -> Result<Contact> {
    let (contact, enabled) = match channel {
        Channel::Email => (Some(card.email.clone()), card.preferences.email),
        Channel::Push => (card.push_token.clone(), card.preferences.push),
    };
    let contact =
        contact.filter(|_| card.is_active).ok_or_else(|| Error::new(Code::NoContact, "The user has no contact for this channel."))?;
    Ok(Contact { contact, enabled })
}
