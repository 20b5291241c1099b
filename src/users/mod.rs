//! Accounts: registration, the profile, and deactivation, which keeps the row.

pub mod http;
pub mod profile;
mod register;
mod store;

pub use profile::{ProfileChange, change_profile, deactivate};
pub use register::{Registered, Registration, create, register};

use unicode_normalization::UnicodeNormalization as _;

/// A person's name: NFC, trimmed, 1 to 255 characters, none of them a control or an invisible direction mark.
pub fn parse_name(text: &str) -> Result<String, &'static str> {
    let name: String = text.trim().nfc().collect();
    let length = name.chars().count();
    if length == 0 {
        return Err("must not be empty");
    }
    if length > 255 || name.len() > 1020 {
        return Err("must be at most 255 characters long");
    }
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    if name.chars().any(hidden) {
        return Err("must not contain control characters");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_bounded_and_visible() {
        assert_eq!(parse_name("  Ada Lovelace ").unwrap(), "Ada Lovelace");
        assert!(parse_name(&"é".repeat(255)).is_ok());
        assert!(parse_name("<script>{{7*7}}").is_ok());
        for wrong in ["", "   ", "a\u{202e}b", "a\nb", "a\u{0}b", &"a".repeat(256)] {
            assert!(parse_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
