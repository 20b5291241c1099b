//! The id that ties a request or message to its log lines and to what follows from it.

use uuid::Uuid;

/// The first of what the sender gave that can stand in a log line, a header and a property as it is; otherwise a new one.
pub fn accept<'a>(sent: impl IntoIterator<Item = &'a str>) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte);
    let usable = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(plain);
    sent.into_iter().find(usable).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_a_log_line_is_replaced() {
        assert_eq!(accept(["a.B_9~-", "b"]), "a.B_9~-");
        for bad in ["", "a b", "a\nb", "é", &"x".repeat(129)] {
            assert_ne!(accept([bad]), bad);
            assert_eq!(accept([bad, "b"]), "b");
        }
        assert_ne!(accept([]), accept([]));
    }
}
