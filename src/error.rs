//! One error type: a public code, words for the client, and a source that never leaves the process.

mod code;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Rate;

pub use code::{Code, Kind};

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
    /// The limit that was met, for [`Kind::RateLimited`].
    pub allowance: Option<Box<Allowance>>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A limit, and what it leaves to a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    pub name: &'static str,
    pub rate: Rate,
    pub remaining: u32,
    /// Until there is more.
    pub reset: Duration,
}

impl Allowance {
    /// That there is nothing left.
    pub fn exceeded(self) -> Error {
        metrics::counter!("throttled_total", "limit" => self.name).increment(1);
        let error =
            Error::new(Code::RateLimited, "Too many requests; please wait.").with_retry_after(self.reset.max(Duration::from_secs(1)));
        Error { allowance: Some(Box::new(self)), ..error }
    }
}

/// Shorthand for what every operation returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with words for the client.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), fields: BTreeMap::new(), retry_after: None, allowance: None, source: None }
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

    /// A panic that was caught.
    pub fn panicked(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
        Self::internal(format!("panic: {}", text.unwrap_or_else(|| "without a text".to_owned())))
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

    pub fn into_error(self) -> Error {
        let names: Vec<_> = self.0.keys().cloned().collect();
        Error { fields: self.0, ..Error::new(Code::ValidationFailed, format!("Please check: {}.", names.join(", "))) }
    }
}

/// In the words of the table of codes, where there is no more to say.
impl From<Code> for Error {
    fn from(code: Code) -> Self {
        Self::new(code, code.meaning())
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
    fn problems_are_reported_together() {
        let mut problems = Problems::default();
        problems.add("name", "is required");
        assert_eq!(problems.check("email", Err::<(), _>("is no address")), None);
        let error = problems.finish().unwrap_err();
        assert_eq!(error.fields.len(), 2);
        assert_eq!(error.detail, "Please check: email, name.");
    }
}
