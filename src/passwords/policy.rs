//! What a new password must be: long enough to resist guessing, short enough for bcrypt to read whole.

use secrecy::SecretString;
use unicode_normalization::UnicodeNormalization as _;

use crate::infra::password_hash::MAX_BYTES;

const MIN_CHARACTERS: usize = 8;

/// zxcvbn reads at most this much. Its time grows with the square of the length, and again with each character that may
/// stand for a letter: 64 of those take 280 ms, 32 take 60 ms, half a hash's time.
const JUDGED_CHARACTERS: usize = 32;

/// A password as it is hashed and compared: NFC, otherwise byte for byte.
#[derive(Clone, Debug)]
pub struct Password(SecretString);

impl Password {
    /// As typed at a login: normalised, not judged.
    pub fn typed(text: &str) -> Self {
        Self(text.nfc().collect::<String>().into())
    }

    /// A new password, judged; `personal` is what must not be in it: the name and the address. Not for an event loop: see
    /// [`super::choose`].
    pub fn choose(text: &str, personal: &[&str]) -> Result<Self, &'static str> {
        let password: String = text.nfc().collect();
        if password.chars().count() < MIN_CHARACTERS {
            return Err("must be at least 8 characters long");
        }
        if password.len() > MAX_BYTES {
            return Err("must be at most 71 bytes long");
        }
        if password.contains('\0') {
            return Err("must not contain NUL");
        }
        if password.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("must not be digits only");
        }
        if personal.iter().chain(&["user-service"]).any(|part| !bare(part).is_empty() && bare(part) == bare(&password)) {
            return Err("must not be your name or address");
        }
        let judged: String = password.chars().take(JUDGED_CHARACTERS).collect();
        if zxcvbn::zxcvbn(&judged, personal).score() < zxcvbn::Score::Two {
            return Err("is too common or too easy to guess");
        }
        Ok(Self(password.into()))
    }

    /// For hashing only.
    pub fn into_secret(self) -> SecretString {
        self.0
    }
}

/// Letters and digits only: a name without its space is the name.
fn bare(text: &str) -> String {
    text.to_lowercase().chars().filter(|character| character.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn choose(text: &str) -> Result<Password, &'static str> {
        Password::choose(text, &["Ada Lovelace", "ada.lovelace@example.com", "ada.lovelace"])
    }

    #[test]
    fn the_contracts_examples() {
        for good in
            ["TestPass123!", "correct horse battery staple", "tr0ub4dor&3x", "  spaces kept  ", "пароль-длинный-7", &"aB3$xyz".repeat(10)]
        {
            assert!(choose(good).is_ok(), "{good}: {:?}", choose(good).err());
        }
        for bad in [
            "123",
            "12345678",
            "password1",
            "AdaLovelace",
            "ada_lovelace!",
            "1234567",
            "98237498237498",
            "qwertyuiop",
            "ada.lovelace",
            "Ada Lovelace",
            "user-service",
            "a\0bcdefgh",
        ] {
            assert!(choose(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn seventy_one_bytes_are_the_end() {
        let text = |bytes: usize| format!("aB3$xyz-{}", "k9".repeat(40))[..bytes].to_owned();
        assert!(choose(&text(71)).is_ok());
        assert_eq!(choose(&text(72)).unwrap_err(), "must be at most 71 bytes long");
    }

    #[test]
    fn composed_and_decomposed_typing_are_the_same_password() {
        let composed = Password::typed("caf\u{e9}-au-lait").into_secret();
        let decomposed = Password::typed("cafe\u{301}-au-lait").into_secret();
        assert_eq!(composed.expose_secret(), decomposed.expose_secret());
    }
}
