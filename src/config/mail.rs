//! How mails leave, and where their links lead.

use secrecy::{ExposeSecret as _, SecretString};

use super::reader::Reader;

#[derive(Clone, Debug)]
pub struct Mail {
    pub transport: MailTransport,
    /// Without a slash at its end.
    pub public_base_url: String,
}

#[derive(Clone, Debug)]
pub enum MailTransport {
    /// To the email service, through RabbitMQ.
    Queue,
    Smtp(Smtp),
    /// Into the log, with links that work; only where nobody else can follow them.
    Log,
}

#[derive(Clone, Debug)]
pub struct Smtp {
    pub url: SecretString,
    /// `Name <address>`, or the address.
    pub from: String,
}

#[derive(Clone, Copy)]
enum Choice {
    Queue,
    Smtp,
    Log,
}

impl Mail {
    pub(super) fn read(env: &mut Reader<'_>, port: u16) -> Self {
        let public_base_url = public_base_url(env, port);
        let choices = [("queue", Choice::Queue), ("smtp", Choice::Smtp), ("log", Choice::Log)];
        let transport = match env.choice("MAIL_TRANSPORT", &choices, Choice::Queue) {
            Choice::Queue => MailTransport::Queue,
            Choice::Smtp => MailTransport::Smtp(Smtp::read(env)),
            Choice::Log => {
                if !url::Url::parse(&public_base_url).is_ok_and(|url| is_loopback(&url)) {
                    env.problem("MAIL_TRANSPORT", "is log, which is for development: PUBLIC_BASE_URL is not this machine", "queue or smtp");
                }
                MailTransport::Log
            }
        };
        Self { transport, public_base_url }
    }

    /// Whether links go out that others than this machine follow, in the clear or to nowhere.
    pub fn is_unprotected(&self, host: &str) -> bool {
        let served_to_others = !matches!(host, "127.0.0.1" | "::1" | "localhost");
        served_to_others && self.public_base_url.starts_with("http://")
    }
}

impl Smtp {
    fn read(env: &mut Reader<'_>) -> Self {
        const EXAMPLE: &str = "smtp://user:password@mail.example.com:587?tls=required, or smtps://… for TLS from the first byte";
        let url = env.url("SMTP_URL", &["smtp", "smtps"], EXAMPLE);
        if let Ok(parsed) = url::Url::parse(url.expose_secret()) {
            let tls = parsed.scheme() == "smtps" || parsed.query_pairs().any(|(name, value)| name == "tls" && value == "required");
            // Opportunistic TLS is none, as soon as somebody in between says so.
            if !tls && parsed.password().is_some() && !is_loopback(&parsed) {
                env.problem("SMTP_URL", "would send its password in the clear", EXAMPLE);
            }
        }
        let from = env.text("MAIL_FROM", "");
        if from.parse::<lettre::message::Mailbox>().is_err() {
            env.problem("MAIL_FROM", "is no sender", "User Service <no-reply@example.com>");
        }
        Self { url, from }
    }
}

fn public_base_url(env: &mut Reader<'_>, port: u16) -> String {
    let value = env.optional_text("PUBLIC_BASE_URL").unwrap_or_else(|| format!("http://localhost:{port}"));
    let usable = url::Url::parse(&value).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host().is_some()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    });
    if !usable {
        env.problem("PUBLIC_BASE_URL", "is no address that links can begin with", "https://accounts.example.com");
    }
    value.trim_end_matches('/').to_owned()
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}
