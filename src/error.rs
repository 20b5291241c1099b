//! One error type: a public code, words for the client, and a source that never leaves the process.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

/// What went wrong, as every door may tell it.
///
/// `Display` prints `detail` only; the log walks [`std::error::Error::source`] once, at the door.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct Error {
    pub code: Code,
    /// Written for the client.
    pub detail: Cow<'static, str>,
    /// Problems by field, for [`Code::ValidationFailed`].
    pub fields: BTreeMap<String, Vec<String>>,
    /// When to come back, for [`Kind::RateLimited`] and [`Kind::Unavailable`].
    pub retry_after: Option<Duration>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Shorthand for what every operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act: the caller, time, or us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Malformed,
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    RateLimited,
    Unavailable,
    Internal,
}

/// The public vocabulary of failures; clients branch on it. What each means stands in [`Code::meaning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    MalformedJson,
    MalformedRequest,
    UnsupportedMediaType,
    BodyTooLarge,
    BodyTimeout,
    MethodNotAllowed,
    ValidationFailed,
    Unauthenticated,
    InvalidCredentials,
    InvalidRefreshToken,
    RefreshTokenReused,
    InvalidToken,
    EmailNotVerified,
    WrongPassword,
    Forbidden,
    NotFound,
    UserNotFound,
    SessionNotFound,
    NoContact,
    MessageIdConflict,
    RateLimited,
    Unavailable,
    Internal,
}

impl Code {
    /// Every code, in the order of the documented table.
    pub const ALL: &[Code] = &[
        Code::MalformedJson,
        Code::MalformedRequest,
        Code::UnsupportedMediaType,
        Code::BodyTooLarge,
        Code::BodyTimeout,
        Code::MethodNotAllowed,
        Code::ValidationFailed,
        Code::Unauthenticated,
        Code::InvalidCredentials,
        Code::InvalidRefreshToken,
        Code::RefreshTokenReused,
        Code::InvalidToken,
        Code::EmailNotVerified,
        Code::WrongPassword,
        Code::Forbidden,
        Code::NotFound,
        Code::UserNotFound,
        Code::SessionNotFound,
        Code::NoContact,
        Code::MessageIdConflict,
        Code::RateLimited,
        Code::Unavailable,
        Code::Internal,
    ];

    /// As it stands in the `error` field of an answer.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Who must act on it.
    pub fn kind(self) -> Kind {
        self.row().1
    }

    /// What it means, for the table of codes.
    pub fn meaning(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, Kind, &'static str) {
        match self {
            Code::MalformedJson => ("malformed_json", Kind::Malformed, "The body is not JSON."),
            Code::MalformedRequest => ("malformed_request", Kind::Malformed, "The request line, a header or a parameter cannot be read."),
            Code::UnsupportedMediaType => {
                ("unsupported_media_type", Kind::Malformed, "The body's Content-Type is not application/json, or it is compressed.")
            }
            Code::BodyTooLarge => ("body_too_large", Kind::Malformed, "The body is larger than 64 KiB."),
            Code::BodyTimeout => ("body_timeout", Kind::Malformed, "The body did not arrive within 15 seconds."),
            Code::MethodNotAllowed => ("method_not_allowed", Kind::Malformed, "The path exists, the method does not; see Allow."),
            Code::ValidationFailed => ("validation_failed", Kind::Invalid, "One or more fields are wrong; see errors."),
            Code::Unauthenticated => ("unauthenticated", Kind::Unauthenticated, "No valid access token or service key was sent."),
            Code::InvalidCredentials => {
                ("invalid_credentials", Kind::Unauthenticated, "Address or password are wrong, or the account is not active.")
            }
            Code::InvalidRefreshToken => ("invalid_refresh_token", Kind::Unauthenticated, "The refresh token is not, or no longer, valid."),
            Code::RefreshTokenReused => {
                ("refresh_token_reused", Kind::Unauthenticated, "The refresh token was used before; its session has ended.")
            }
            Code::InvalidToken => ("invalid_token", Kind::Invalid, "The link was used, replaced, has expired, or is not for this."),
            Code::EmailNotVerified => {
                ("email_not_verified", Kind::Forbidden, "The password is right; the address must be verified before signing in.")
            }
            Code::WrongPassword => ("wrong_password", Kind::Forbidden, "The current password is wrong."),
            Code::Forbidden => ("forbidden", Kind::Forbidden, "The caller is known and may not do this."),
            Code::NotFound => ("not_found", Kind::NotFound, "There is nothing at this path."),
            Code::UserNotFound => ("user_not_found", Kind::NotFound, "There is no such user."),
            Code::SessionNotFound => ("session_not_found", Kind::NotFound, "The user has no such session."),
            Code::NoContact => ("no_contact", Kind::NotFound, "The user has no contact for this channel."),
            Code::MessageIdConflict => {
                ("message_id_conflict", Kind::Conflict, "The id was used by another push request for this user, or by one that died.")
            }
            Code::RateLimited => ("rate_limited", Kind::RateLimited, "Too many requests; see Retry-After."),
            Code::Unavailable => ("unavailable", Kind::Unavailable, "Something this needs is down or busy; see Retry-After."),
            Code::Internal => ("internal_error", Kind::Internal, "A bug of ours; quote the correlation id."),
        }
    }
}

impl Error {
    /// An error with words for the client.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), fields: BTreeMap::new(), retry_after: None, source: None }
    }

    /// Who must act on it.
    pub fn kind(&self) -> Kind {
        self.code.kind()
    }

    /// Something below did not answer in time or at all. Callers are told to come back after 1 to 5 seconds, spread so that
    /// they do not come back together.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Unavailable, "The service is busy or one of its parts is down; please try again.")
            .with_source(source)
            .with_retry_after(Duration::from_secs(u64::from(uuid::Uuid::new_v4().as_bytes()[0] % 5) + 1))
    }

    /// A bug of ours.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "Something went wrong on our side.").with_source(source)
    }

    /// One wrong field.
    pub fn field(name: impl Into<String>, problem: impl Into<String>) -> Self {
        let mut problems = Problems::default();
        problems.add(name, problem);
        problems.into_error()
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The error and all its sources in one line, for the log only.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }
}

/// Collects what is wrong with each field, so that the caller hears everything at once.
#[derive(Debug, Default)]
pub struct Problems(BTreeMap<String, Vec<String>>);

impl Problems {
    pub fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.entry(field.into()).or_default().push(problem.into());
    }

    /// Keeps the value, or the problem under the field's name.
    pub fn check<T>(&mut self, field: &str, result: std::result::Result<T, impl Into<String>>) -> Option<T> {
        result.map_err(|problem| self.add(field, problem)).ok()
    }

    /// `Err` with all problems if there are any.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into_error()) }
    }

    fn into_error(self) -> Error {
        let names: Vec<_> = self.0.keys().cloned().collect();
        Error { fields: self.0, ..Error::new(Code::ValidationFailed, format!("Please check: {}.", names.join(", "))) }
    }
}

/// A query that found nothing is no error (stores return `Option`); what is left is the database's state or our bug.
impl From<diesel::result::Error> for Error {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind as D, Error as E};
        match &error {
            // Besides a closed connection: serialisation failures and deadlocks, a statement cut by its timeout,
            // a server that shuts down, is out of connections or disk, or has become read-only.
            E::DatabaseError(D::ClosedConnection | D::SerializationFailure | D::ReadOnlyTransaction | D::UnableToSendCommand, _)
            | E::BrokenTransactionManager => Self::unavailable(error),
            E::DatabaseError(D::Unknown, information) if is_transient(information.message()) => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

/// Diesel gives no SQLSTATE; these are the server's own messages for states that pass
/// (57014, 57P01, 57P02, 57P03, 53100, 53200, 53300, 55P03, 40P01).
fn is_transient(message: &str) -> bool {
    [
        "canceling statement due to",
        "terminating connection due to",
        "the database system is",
        "could not extend file",
        "No space left",
        "out of memory",
        "out of shared memory",
        "too many clients",
        "remaining connection slots",
        "could not obtain lock",
        "deadlock detected",
        "connection closed",
        "error communicating with the server",
        "server closed the connection",
    ]
    .iter()
    .any(|state| message.contains(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_keeps_the_source_inside_and_chain_tells_it() {
        let error = Error::internal(std::io::Error::other("password=hunter2"));
        assert_eq!(error.to_string(), "Something went wrong on our side.");
        assert_eq!(error.chain(), "Something went wrong on our side.: password=hunter2");
    }

    #[test]
    fn codes_are_unique_and_snake_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }

    #[test]
    fn problems_are_reported_together() {
        let mut problems = Problems::default();
        problems.add("name", "is required");
        assert_eq!(problems.check("email", Err::<(), _>("is no address")), None);
        let error = problems.finish().unwrap_err();
        assert_eq!(error.fields.len(), 2);
        assert_eq!(error.detail, "Please check: email, name.");
    }
}
