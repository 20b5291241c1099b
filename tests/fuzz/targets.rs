//! What is asked of each parser, whatever it is given: the fuzz targets beside this file, and tests/corpus.rs, which replays
//! what they found.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use chrono::DateTime;
use user_service::amqp::message::Incoming;
use user_service::card::email_address::EmailAddress;
use user_service::config::{Config, Role};
use user_service::infra::access_token::AccessTokens;
use user_service::infra::amqp_mender::Mender;
use user_service::infra::keys::ServerKeys;
use user_service::infra::trace::Trace;
use user_service::infra::{correlation, one_time_token};
use user_service::push::message;
use user_service::sessions::refresh_token::RefreshToken;

pub type Target = fn(&[u8]);

/// Each by the name of its corpus.
#[allow(dead_code, reason = "each fuzz target takes one of them")]
pub const ALL: [(&str, Target); 4] =
    [("message", read_message), ("token", open_token), ("header", read_header), ("address", parse_address)];

struct Tokens {
    keys: ServerKeys,
    access: AccessTokens,
}

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let variables = [("DATABASE_URL", "postgres://h/d"), ("REDIS_URL", "redis://h"), ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e")];
    let identity = Config::from_map(Role::Api, &BTreeMap::from(variables)).expect("a complete configuration").identity;
    let (root, previous) = identity.root_secrets();
    Tokens { keys: ServerKeys::new(root, previous), access: AccessTokens::new(&identity).expect("a good secret") }
});

/// A message is read, with an id that fits everywhere, or dies with a reason that repeats none of its control characters.
pub fn read_message(data: &[u8]) {
    let message = Incoming { body: data.to_vec(), ..Incoming::default() };
    match message::parse(&message) {
        Ok(request) => {
            assert!((1..=255).contains(&request.notification_id.len()), "{:?}", request.notification_id);
            assert!(request.priority.is_none_or(|priority| priority <= 10));
            assert!(!request.fields.contains_key("push_tokens") && !request.fields.contains_key("user_data"));
        }
        Err(dead) => assert!(!dead.detail.is_empty() && !dead.detail.contains(char::is_control), "{}", dead.detail),
    }
}

/// No text is a token of ours but the one that we wrote: one spelling each, and none without the key.
pub fn open_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(token) = RefreshToken::open(text, &TOKENS.keys) {
        assert_eq!(token.seal(&TOKENS.keys), text);
    }
    let _ = one_time_token::parse(text);
    assert!(TOKENS.access.verify(text, DateTime::UNIX_EPOCH).is_err(), "{text}");
}

/// What is taken over from a header can stand in a log line and in a header; a stream of frames is mended the same in
/// whatever pieces it comes.
pub fn read_header(data: &[u8]) {
    let text = std::str::from_utf8(data).ok();
    assert!(correlation::accept(text).bytes().all(|byte| byte.is_ascii_graphic()));
    for value in Trace::read(|_name| text).headers().values() {
        assert!(value.as_str().is_some_and(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte))), "{value}");
    }
    let mend = |piece: usize| {
        let (mut mender, mut mended) = (Mender::default(), Vec::new());
        data.chunks(piece).for_each(|piece| mender.feed(piece, &mut mended));
        mended
    };
    assert_eq!(mend(data.len().max(1)), mend(3));
}

/// An address that is accepted is its own normal form, and fits where it is stored and written.
pub fn parse_address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(address) = EmailAddress::parse(text) else { return };
    assert_eq!(EmailAddress::parse(address.as_str()).as_ref(), Ok(&address));
    assert_eq!(address.key(), address.key().to_ascii_lowercase());
    assert!(address.as_str().len() <= 254 && !address.as_str().contains(|c: char| c.is_control() || c.is_whitespace()));
}
