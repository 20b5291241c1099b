//! The user as every REST answer shows one.

use apistos::ApiComponent;
use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use crate::card::{Card, Preferences};

/// A user.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct UserBody {
    pub user_id: Uuid,
    /// The same as `user_id`; callers read either.
    pub id: Uuid,
    pub name: String,
    pub email: String,
    pub push_token: Option<String>,
    pub preferences: PreferencesBody,
    pub email_verified: bool,
    /// Only services and admins see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_active: Option<bool>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A user and the tokens of a new session.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct SignedInBody {
    pub user: UserBody,
    #[serde(flatten)]
    pub tokens: TokensBody,
}

/// What a client holds a session by.
#[derive(Debug, Serialize, JsonSchema, ApiComponent)]
pub struct TokensBody {
    pub access_token: String,
    pub refresh_token: String,
    /// Always `Bearer`
    pub token_type: &'static str,
    /// Seconds until the access token expires
    pub expires_in: u64,
}

/// Which channels the user wants to hear on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema, ApiComponent)]
pub struct PreferencesBody {
    pub email: bool,
    pub push: bool,
}

impl From<Card> for UserBody {
    fn from(card: Card) -> Self {
        Self {
            user_id: card.user_id,
            id: card.user_id,
            name: card.name,
            email: card.email,
            push_token: card.push_token,
            preferences: card.preferences.into(),
            email_verified: card.email_verified,
            is_active: None,
            created_at: card.created_at,
            updated_at: card.updated_at,
        }
    }
}

impl UserBody {
    /// As services and admins see a user.
    pub fn with_activity(card: Card) -> Self {
        let is_active = Some(card.is_active);
        Self { is_active, ..Self::from(card) }
    }
}

impl From<Preferences> for PreferencesBody {
    fn from(preferences: Preferences) -> Self {
        Self { email: preferences.email, push: preferences.push }
    }
}
