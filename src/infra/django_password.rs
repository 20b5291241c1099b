//! Django's password hashes (`pbkdf2_sha256$iterations$salt$hash`), as imported accounts bring them.

use std::num::NonZeroU32;

use aws_lc_rs::pbkdf2;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Django 5 computes 870,000; above this a row could hold a core for seconds.
const MAX_ITERATIONS: u32 = 2_000_000;

/// A hash of the one scheme that is read.
pub struct DjangoHash<'a> {
    iterations: NonZeroU32,
    salt: &'a str,
    hash: [u8; 32],
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DjangoFit {
    No,
    AsTyped,
    Trimmed,
}

impl<'a> DjangoHash<'a> {
    /// `None`: it is of another scheme, or unusable.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.strip_prefix("pbkdf2_sha256$")?.split('$');
        let (iterations, salt, hash, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        let iterations = iterations.parse::<NonZeroU32>().ok().filter(|number| number.get() <= MAX_ITERATIONS)?;
        let hash = STANDARD.decode(hash).ok()?.try_into().ok()?;
        (!salt.is_empty()).then_some(Self { iterations, salt, hash })
    }

    /// Django's forms trimmed passwords, its API did not: either fits.
    pub fn compare(&self, password: &str) -> DjangoFit {
        let fits = |password: &str| {
            pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, self.iterations, self.salt.as_bytes(), password.as_bytes(), &self.hash).is_ok()
        };
        let trimmed = password.trim();
        if fits(password) {
            DjangoFit::AsTyped
        } else if trimmed != password && fits(trimmed) {
            DjangoFit::Trimmed
        } else {
            DjangoFit::No
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make_password("TestPass123!", "seasalt", "pbkdf2_sha256")` of Django 4.1 with 1,000 iterations.
    const MADE_BY_DJANGO: &str = include_str!("../../tests/fixtures/django-hash.txt");

    #[test]
    fn what_django_made_is_read() {
        let hash = DjangoHash::parse(MADE_BY_DJANGO.trim()).unwrap();
        let found = ["TestPass123!", " TestPass123! ", "TestPass123", ""].map(|password| hash.compare(password));
        assert_eq!(found, [DjangoFit::AsTyped, DjangoFit::Trimmed, DjangoFit::No, DjangoFit::No]);
    }

    #[test]
    fn other_schemes_and_unreasonable_numbers_are_not() {
        for text in [
            "",
            "!unusable",
            "argon2$argon2id$v=19$m=102400,t=2,p=8$x$y",
            "pbkdf2_sha256$0$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "pbkdf2_sha256$2000001$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "pbkdf2_sha256$1000$$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "pbkdf2_sha256$1000$salt$AAAA",
            "pbkdf2_sha256$1000$salt$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=$x",
        ] {
            assert!(DjangoHash::parse(text).is_none(), "{text}");
        }
    }
}
