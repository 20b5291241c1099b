//! The server's own keys: one for each purpose, all derived from one secret (HKDF-SHA-256, RFC 5869).

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::error::{Error, Result};

/// Makes keys that differ by label, so that a value made for one purpose proves nothing for another.
#[derive(Clone)]
pub struct ServerKeys {
    current: Hkdf<Sha256>,
    /// Of the secret before this one: accepted, never used.
    previous: Option<Hkdf<Sha256>>,
}

impl std::fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKeys(..)")
    }
}

impl ServerKeys {
    pub fn new(root_secret: &[u8], previous: Option<&[u8]>) -> Self {
        let extract = |secret| Hkdf::new(Some(b"user-service"), secret);
        Self { current: extract(root_secret), previous: previous.map(extract) }
    }

    /// The key of a purpose; `context` makes one of its own for each row or user.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> Key {
        let expand = |root: &Hkdf<Sha256>| {
            let mut key = [0; 32];
            let expanded = root.expand_multi_info(&[purpose.as_bytes(), &[0], context], &mut key);
            debug_assert!(expanded.is_ok(), "32 bytes are within HKDF's 255 blocks");
            key
        };
        Key { current: expand(&self.current), previous: self.previous.as_ref().map(expand) }
    }
}

/// A derived key.
pub struct Key {
    current: [u8; 32],
    previous: Option<[u8; 32]>,
}

impl Key {
    /// HMAC-SHA-256 over the parts, each preceded by its length so that they cannot be shifted into one another.
    pub fn authenticate(&self, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.current, parts).finalize().into_bytes().into()
    }

    /// Whether `tag` was made by [`Key::authenticate`] over the same parts, with this or the previous secret; in constant
    /// time.
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let fits = |key| mac(key, parts).verify_slice(tag).is_ok();
        fits(&self.current) || self.previous.as_ref().is_some_and(fits)
    }

    /// Encrypts what has to rest in the database: a nonce, and AES-256-GCM under this key.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let key = RandomizedNonceKey::new(&AES_256_GCM, &self.current).map_err(Error::internal)?;
        let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut sealed).map_err(Error::internal)?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// What [`Key::seal`] made, with this or the previous secret.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let open = |key: &[u8; 32]| {
            let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
            let mut text = text.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
            Some(key.open_in_place(nonce, Aad::empty(), &mut text).ok()?.to_vec())
        };
        open(&self.current).or_else(|| self.previous.as_ref().and_then(open))
    }
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> Hmac<Sha256> {
    // HMAC pads a key shorter than its block with zeros (RFC 2104, 2).
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purpose_context_and_parts_all_matter() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let tag = keys.derive("refresh", b"1").authenticate(&[b"ab", b"c"]);
        assert!(keys.derive("refresh", b"1").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("refresh", b"2").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("reset", b"1").verify(&[b"ab", b"c"], &tag));
        assert!(!keys.derive("refresh", b"1").verify(&[b"a", b"bc"], &tag));
        assert!(!keys.derive("refresh", b"1").verify(&[b"ab", b"c"], &tag[..31]));
    }

    #[test]
    fn what_is_sealed_is_opened_by_its_key_only() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let sealed = keys.derive("totp", b"1").seal(b"secret").unwrap();
        assert_eq!(keys.derive("totp", b"1").open(&sealed).as_deref(), Some(b"secret".as_slice()));
        assert_ne!(sealed, keys.derive("totp", b"1").seal(b"secret").unwrap(), "the nonce is never the same");
        assert_eq!(keys.derive("totp", b"2").open(&sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(keys.derive("totp", b"1").open(&changed), None, "byte {at}");
        }
        assert_eq!(keys.derive("totp", b"1").open(&sealed[..10]), None);
        let rotated = ServerKeys::new(b"another root secret, 32 bytes long", Some(b"a root secret of at least 32 bytes"));
        assert_eq!(rotated.derive("totp", b"1").open(&sealed).as_deref(), Some(b"secret".as_slice()));
    }

    #[test]
    fn what_the_previous_secret_made_is_accepted_and_nothing_new_is_made_with_it() {
        let (old, new) = (b"the old root secret of 32 bytes..", b"the new root secret of 32 bytes..");
        let tag = ServerKeys::new(old, None).derive("refresh", b"1").authenticate(&[b"x"]);
        let rotated = ServerKeys::new(new, Some(old)).derive("refresh", b"1");
        assert!(rotated.verify(&[b"x"], &tag));
        assert_eq!(rotated.authenticate(&[b"x"]), ServerKeys::new(new, None).derive("refresh", b"1").authenticate(&[b"x"]));
        assert!(!ServerKeys::new(new, None).derive("refresh", b"1").verify(&[b"x"], &tag));
    }
}
