//! Sends mails ourselves, over SMTP (RFC 5321).

use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use secrecy::ExposeSecret as _;

use super::mail_text;
use super::mailer::Message;
use crate::config;
use crate::error::{Error, Result};

/// For each step, the connection among them.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// For a whole mail; below the 15 seconds after which PostgreSQL cuts the relay's waiting transaction.
const TIMEOUT: Duration = Duration::from_secs(12);

/// Why a mail was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    #[error("the mail server cannot be reached: {0}")]
    Down(String),
    #[error("the mail server asks to wait: {0}")]
    Later(String),
    #[error("the mail server refuses it: {0}")]
    Never(String),
}

/// A mail server. Each mail has a connection of its own: they are few, and none is kept that may have died.
#[derive(Clone)]
pub struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl std::fmt::Debug for Smtp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Smtp(..)")
    }
}

impl Smtp {
    pub fn new(config: &config::Smtp) -> Result<Self> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(config.url.expose_secret()).map_err(Error::internal)?;
        let from = config.from.parse().map_err(Error::internal)?;
        Ok(Self { transport: transport.timeout(Some(STEP_TIMEOUT)).build(), from })
    }

    /// Whether the server takes the connection and the credentials.
    pub async fn test(&self) -> Result<(), SendError> {
        match tokio::time::timeout(TIMEOUT, self.transport.test_connection()).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(SendError::Down("it does not answer a NOOP".to_owned())),
            Ok(Err(error)) => Err(SendError::Down(error.to_string())),
            Err(_late) => Err(SendError::Down("it takes too long".to_owned())),
        }
    }

    /// Sends a message; repeated, it carries the same Message-ID.
    pub async fn send(&self, message: &Message) -> Result<(), SendError> {
        let never = |error: &dyn std::fmt::Display| SendError::Never(error.to_string());
        let to: Address = message.variables.email.parse().map_err(|error| never(&error))?;
        let text = mail_text::of(message);
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(Some(display_name(&message.variables.name)), to))
            .message_id(Some(format!("<{}@{}>", message.notification_id, self.from.email.domain())))
            .subject(text.subject)
            // RFC 3834: no out-of-office answers, please.
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .body(text.body)
            .map_err(|error| never(&error))?;
        match tokio::time::timeout(TIMEOUT, self.transport.send(mail)).await {
            Ok(Ok(_response)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() => Err(never(&error)),
            Ok(Err(error)) if error.is_transient() => Err(SendError::Later(error.to_string())),
            Ok(Err(error)) => Err(SendError::Down(error.to_string())),
            Err(_elapsed) => Err(SendError::Down(format!("no answer within {TIMEOUT:?}"))),
        }
    }
}

/// lettre panics at a line break in a name (0.11.23). Registration refuses such a name, an import may have brought one.
fn display_name(name: &str) -> String {
    name.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[derive(Clone)]
struct AutoSubmitted;

impl lettre::message::header::Header for AutoSubmitted {
    fn name() -> lettre::message::header::HeaderName {
        lettre::message::header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_text: &str) -> std::result::Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> lettre::message::header::HeaderValue {
        lettre::message::header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}
