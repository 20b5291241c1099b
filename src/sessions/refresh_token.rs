//! Refresh tokens: `v1.<session>.<counter>.<HMAC>`, opaque to clients.
//!
//! The HMAC's key derives from the server's and the session's id, so that a dump of the database mints none.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use crate::infra::keys::ServerKeys;

const PURPOSE: &str = "refresh-token";

/// Which session, and which of its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshToken {
    pub session_id: Uuid,
    pub counter: i64,
}

impl RefreshToken {
    /// The token as the client holds it.
    pub fn seal(self, keys: &ServerKeys) -> String {
        let tag = keys.derive(PURPOSE, self.session_id.as_bytes()).authenticate(&[&self.counter.to_be_bytes()]);
        format!("v1.{}.{}.{}", URL_SAFE_NO_PAD.encode(self.session_id.as_bytes()), self.counter, URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a token says, if we sealed it; no database is asked.
    pub fn open(text: &str, keys: &ServerKeys) -> Option<Self> {
        let mut parts = text.split('.');
        let (Some("v1"), Some(session), Some(counter), Some(tag), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return None;
        };
        let session_id = Uuid::from_slice(&URL_SAFE_NO_PAD.decode(session).ok()?).ok()?;
        let token = Self { session_id, counter: counter.parse().ok().filter(|counter| *counter >= 0)? };
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        let genuine = keys.derive(PURPOSE, session_id.as_bytes()).verify(&[&token.counter.to_be_bytes()], &tag);
        // Numbers have more than one spelling ("+1", "01"); a token has one.
        (genuine && token.counter.to_string() == counter).then_some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_and_its_neighbours_do_not() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let token = RefreshToken { session_id: Uuid::now_v7(), counter: 7 };
        let sealed = token.seal(&keys);
        assert_eq!(RefreshToken::open(&sealed, &keys), Some(token));
        assert_eq!(RefreshToken::open(&sealed, &ServerKeys::new(b"another secret of at least 32 by", None)), None);
        let parts: Vec<_> = sealed.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes());
        for forged in [
            format!("v1.{}.8.{}", parts[1], parts[3]),
            format!("v1.{}.07.{}", parts[1], parts[3]),
            format!("v1.{}.-7.{}", parts[1], parts[3]),
            format!("v1.{}.99999999999999999999.{}", parts[1], parts[3]),
            format!("v1.{other}.7.{}", parts[3]),
            format!("v2.{}.7.{}", parts[1], parts[3]),
            format!("{sealed}."),
            format!("{sealed}="),
            sealed[..sealed.len() - 1].to_owned(),
            String::new(),
        ] {
            assert_eq!(RefreshToken::open(&forged, &keys), None, "{forged}");
        }
    }
}
