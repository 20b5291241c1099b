//! What operators do: at the command line (take over the Django service's accounts, hand over everything about a person,
//! erase one) and at their [pages], which a second factor guards.

mod accounts;
mod django;
mod dump;
mod erase;
mod export;
pub mod http;
mod import;
pub mod overview;
mod overview_store;
pub mod pages;
pub mod staff;
mod staff_store;
mod store;
mod totp;

pub use accounts::{AccountAction, act, end_session, grant_staff};
pub use erase::erase;
pub use export::export;
pub use import::{Report, Source, import};

use uuid::Uuid;

use crate::card;
use crate::card::email_address::EmailAddress;
use crate::error::{Code, Error, Result};
use crate::infra::db::Connection;

/// The user that an operator names: by id or by address.
pub async fn find(conn: &mut Connection, name: &str) -> Result<card::Card> {
    let user_id = match (name.parse::<Uuid>(), EmailAddress::parse(name)) {
        (Ok(id), _) => Some(id),
        (_, Ok(email)) => card::find_id_by_email_key(conn, &email.key()).await?,
        _ => None,
    };
    let found = card::find(conn, user_id.unwrap_or_default()).await?;
    found.ok_or_else(|| Error::new(Code::UserNotFound, format!("There is no user '{name}'.")))
}
