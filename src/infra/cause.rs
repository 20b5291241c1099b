//! Why something happens: who asked, from where, in which request, and when.

use std::net::{IpAddr, Ipv6Addr};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::trace::Trace;

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Nobody who was identified.
    Anyone,
    User(Uuid),
    /// Somebody at the operators' pages.
    Admin(Uuid),
    /// A sibling, by the name of its key.
    Service(String),
    /// Somebody at the command line.
    Operator,
    /// The service by itself.
    System,
}

impl Actor {
    pub fn kind(&self) -> &'static str {
        match self {
            Actor::Anyone => "anyone",
            Actor::User(_) => "user",
            Actor::Admin(_) => "admin",
            Actor::Service(_) => "service",
            Actor::Operator => "operator",
            Actor::System => "system",
        }
    }

    /// Which one of its kind.
    pub fn id(&self) -> Option<String> {
        match self {
            Actor::User(id) | Actor::Admin(id) => Some(id.to_string()),
            Actor::Service(name) => Some(name.clone()),
            Actor::Anyone | Actor::Operator | Actor::System => None,
        }
    }
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.id() {
            Some(id) => write!(f, "{} {id}", self.kind()),
            None => f.write_str(self.kind()),
        }
    }
}

/// Goes with every change, into the audit log, the events and the mails that it leaves behind.
#[derive(Clone, Debug)]
pub struct Cause {
    pub actor: Actor,
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
    pub correlation_id: String,
    pub trace: Trace,
    pub at: DateTime<Utc>,
}

impl Cause {
    /// Something that no request asked for.
    pub fn without_request(actor: Actor, at: DateTime<Utc>) -> Self {
        Self { actor, ip: None, user_agent: None, correlation_id: super::correlation::accept(None), trace: Trace::default(), at }
    }

    /// The same, now that it is known who asks.
    #[must_use]
    pub fn by(self, actor: Actor) -> Self {
        Self { actor, ..self }
    }

    /// The bucket of the address, for limits.
    pub fn ip_bucket(&self) -> String {
        ip_bucket(self.ip)
    }
}

/// The bucket of an address: itself for IPv4, its /64 for IPv6, which is what one customer gets.
pub fn ip_bucket(ip: Option<IpAddr>) -> String {
    match ip.map(|ip| ip.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotating_ipv6_customer_is_one_bucket() {
        let at = |text: &str| {
            Cause { ip: Some(text.parse().unwrap()), ..Cause::without_request(Actor::Anyone, DateTime::UNIX_EPOCH) }.ip_bucket()
        };
        assert_eq!(at("2001:db8:1:2:3::4"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:1.2.3.4"), "1.2.3.4");
    }
}
