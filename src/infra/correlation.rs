//! The id that ties a request or message to its log lines and to what follows from it.

use uuid::Uuid;

/// What the sender gave, if it can stand in a log line, a header and a property as it is; otherwise a new one.
pub fn accept(sent: Option<&str>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    match sent {
        Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(plain) => id.to_owned(),
        _ => Uuid::new_v4().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_a_log_line_is_replaced() {
        assert_eq!(accept(Some("a.B_9~-")), "a.B_9~-");
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            assert_ne!(accept(Some(bad)), bad);
        }
        assert_ne!(accept(None), accept(None));
    }
}
