//! What sibling services may ask about a user, answered from the cached card.

pub mod http;

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

/// A user's card, for those who may read it.
pub async fn find_user(app: &App, caller: &Caller, user_id: Uuid) -> Result<Card> {
    caller.may_read(user_id)?;
    card::find_cached(app, user_id).await?.ok_or_else(|| Error::new(Code::UserNotFound, "There is no such user."))
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
