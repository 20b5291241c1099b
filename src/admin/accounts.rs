//! What an admin does to an account. Each is in the audit log with the admin as its actor, and is announced as any change is.

use serde_json::Map;
use uuid::Uuid;

use super::staff_store as store;
use crate::access::{self, staff};
use crate::card::{self, Card};
use crate::config::Config;
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::Cause;
use crate::infra::db::Tx;
use crate::infra::events;
use crate::{addresses, passwords, sessions, users};

/// What can be done; its name is part of the page's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountAction {
    Verify,
    Deactivate,
    Reactivate,
    ResendVerification,
    ResetPassword,
    GrantStaff,
    WithdrawStaff,
    EndSessions,
}

impl AccountAction {
    pub const ALL: [Self; 8] = [
        Self::Verify,
        Self::ResendVerification,
        Self::ResetPassword,
        Self::EndSessions,
        Self::GrantStaff,
        Self::WithdrawStaff,
        Self::Deactivate,
        Self::Reactivate,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Deactivate => "deactivate",
            Self::Reactivate => "reactivate",
            Self::ResendVerification => "resend-verification",
            Self::ResetPassword => "reset-password",
            Self::GrantStaff => "grant-staff",
            Self::WithdrawStaff => "withdraw-staff",
            Self::EndSessions => "end-sessions",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }

    /// Whether it makes sense for this account.
    pub fn fits(self, card: &Card) -> bool {
        match self {
            Self::Verify | Self::ResendVerification => card.is_active && !card.email_verified,
            Self::Deactivate | Self::EndSessions | Self::ResetPassword => card.is_active,
            Self::Reactivate => !card.is_active,
            Self::GrantStaff => card.is_active && !card.is_staff,
            Self::WithdrawStaff => card.is_staff,
        }
    }

    /// Whether a reason must be given, which the audit log keeps.
    pub fn needs_reason(self) -> bool {
        matches!(self, Self::Deactivate | Self::Reactivate | Self::GrantStaff | Self::WithdrawStaff)
    }
}

/// Does it, in the caller's transaction.
pub async fn act(tx: &mut Tx, action: AccountAction, user_id: Uuid, reason: &str, config: &Config, cause: &Cause) -> Result<()> {
    // What fits is judged as it is now.
    card::lock(tx, user_id).await?;
    let card = card::find(tx, user_id).await?.ok_or(Code::UserNotFound)?;
    if !action.fits(&card) {
        return Err(Error::field("action", "is not for this account as it is now: somebody was faster"));
    }
    match action {
        AccountAction::Verify => addresses::mark_verified(tx, user_id, &card.email, cause).await.map(|_newly| ()),
        AccountAction::Deactivate => users::deactivate(tx, user_id, Some(reason), cause).await,
        AccountAction::Reactivate => reactivate(tx, user_id, reason, cause).await,
        AccountAction::ResendVerification => {
            audit::record(tx, cause, Action::VerificationResent, user_id).await?;
            addresses::send_verification(tx, &card, config, cause).await
        }
        AccountAction::ResetPassword => passwords::send_reset_link(tx, &card, config, cause).await,
        AccountAction::GrantStaff => {
            grant_staff(tx, user_id, cause).await?;
            Ok(audit::record_with(tx, cause, Action::StaffGranted, Some(user_id), reason, Map::new()).await?)
        }
        AccountAction::WithdrawStaff => withdraw_staff(tx, user_id, reason, cause).await,
        AccountAction::EndSessions => {
            staff::end_all(tx, user_id).await?;
            access::end_sessions(tx, user_id, "ended_by_admin", cause).await?;
            Ok(audit::record(tx, cause, Action::SessionsEnded, user_id).await?)
        }
    }
}

/// Ends one session of a user.
pub async fn end_session(tx: &mut Tx, user_id: Uuid, session_id: Uuid, cause: &Cause) -> Result<()> {
    sessions::revoke(tx, user_id, session_id, cause).await
}

async fn reactivate(tx: &mut Tx, user_id: Uuid, reason: &str, cause: &Cause) -> Result<()> {
    if !store::update_reactivated(tx, user_id).await? {
        return Err(Error::field("action", "is not for this account: it was erased"));
    }
    let card = card::changed(tx, user_id, cause.at).await?;
    audit::record_with(tx, cause, Action::Reactivated, Some(user_id), reason, Map::new()).await?;
    events::announce(tx, cause, [card::updated(&card, &["is_active"])]).await
}

/// Makes somebody staff; what says so in the audit log is the caller's.
pub async fn grant_staff(tx: &mut Tx, user_id: Uuid, cause: &Cause) -> Result<()> {
    store::update_staff(tx, user_id, true).await?;
    card::changed(tx, user_id, cause.at).await?;
    Ok(())
}

async fn withdraw_staff(tx: &mut Tx, user_id: Uuid, reason: &str, cause: &Cause) -> Result<()> {
    staff::keep_an_admin(tx, user_id).await?;
    store::update_staff(tx, user_id, false).await?;
    store::delete_second_factor(tx, user_id).await?;
    staff::end_all(tx, user_id).await?;
    card::changed(tx, user_id, cause.at).await?;
    Ok(audit::record_with(tx, cause, Action::StaffWithdrawn, Some(user_id), reason, Map::new()).await?)
}
