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
    if name.chars().any(is_hidden) {
        return Err("must not contain control characters, or ones that cannot be seen");
    }
    // Joiners and variation selectors belong to letters and pictures, and alone are nothing.
    if name.chars().all(|c| matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe00}'..='\u{fe0f}') || c.is_whitespace()) {
        return Err("must have something that can be seen");
    }
    Ok(name)
}

/// Controls, what turns the direction of writing, and what Unicode has nothing be shown for (Default_Ignorable_Code_Point), except
/// what is written within words.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}' | '\u{200b}'
            | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_trimmed_bounded_and_visible() {
        assert_eq!(parse_name("  Ada Lovelace ").unwrap(), "Ada Lovelace");
        assert!(parse_name(&"é".repeat(255)).is_ok());
        assert!(parse_name("<script>{{7*7}}").is_ok());
        for wrong in ["", "   ", "a\u{202e}b", "a\nb", "a\u{0}b", "a\u{2060}b", "\u{3164}", "a\u{e0001}", "\u{200d}", &"a".repeat(256)] {
            assert!(parse_name(wrong).is_err(), "{wrong:?}");
        }
    }
}
