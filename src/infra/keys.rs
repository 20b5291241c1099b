//! The server's own keys: one for each purpose, all derived from one secret (HKDF-SHA-256, RFC 5869).

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Makes keys that differ by label, so that a value made for one purpose proves nothing for another.
#[derive(Clone)]
pub struct ServerKeys(Hkdf<Sha256>);

impl std::fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKeys(..)")
    }
}

impl ServerKeys {
    pub fn new(root_secret: &[u8]) -> Self {
        Self(Hkdf::new(Some(b"user-service"), root_secret))
    }

    /// The key of a purpose; `context` makes one of its own for each row or user.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> Key {
        let mut key = [0; 32];
        let expanded = self.0.expand_multi_info(&[purpose.as_bytes(), &[0], context], &mut key);
        debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's 255 blocks");
        Key(key)
    }
}

/// A derived key.
pub struct Key([u8; 32]);

impl Key {
    /// HMAC-SHA-256 over the parts, each preceded by its length so that they cannot be shifted into one another.
    pub fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac(parts).finalize().into_bytes().into()
    }

    /// Whether `tag` was made by [`Key::authenticate`] over the same parts, in constant time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac(parts).verify_slice(tag).is_ok()
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        // HMAC pads a key shorter than its block with zeros (RFC 2104, 2).
        let mut block = [0; 64];
        block[..self.0.len()].copy_from_slice(&self.0);
        let mut mac = Hmac::<Sha256>::new(&block.into());
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purpose_context_and_parts_all_matter() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes");
        let tag = keys.derive("refresh", b"1").authenticate(&[b"ab", b"c"]);
        assert!(keys.derive("refresh", b"1").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("refresh", b"2").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("reset", b"1").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("refresh", b"1").verify(&[b"a", b"bc"], &tag));
        assert!(!keys.derive("refresh", b"1").verify(&[b"ab", b"c"], &tag[..31]));
    }
}
