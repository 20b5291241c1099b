//! The public vocabulary of failures, and who must act on each.

/// Who must act: the caller, time, or us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Malformed,
    Invalid,
    Unauthenticated,
    Forbidden,
    NotFound,
    Conflict,
    RateLimited,
    Unavailable,
    Internal,
}

/// The public vocabulary of failures; clients branch on it. What each means stands in [`Code::meaning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    MalformedJson,
    MalformedRequest,
    UnsupportedMediaType,
    BodyTooLarge,
    BodyTimeout,
    MethodNotAllowed,
    ValidationFailed,
    Unauthenticated,
    InvalidCredentials,
    InvalidRefreshToken,
    RefreshTokenReused,
    InvalidToken,
    EmailNotVerified,
    WrongPassword,
    Forbidden,
    NotFound,
    UserNotFound,
    SessionNotFound,
    NoContact,
    MessageIdConflict,
    LastAdmin,
    RequestInProgress,
    IdempotencyKeyReused,
    RateLimited,
    Unavailable,
    Internal,
}

impl Code {
    /// Every code, in the order of the documented table.
    pub const ALL: &[Code] = &[
        Code::MalformedJson,
        Code::MalformedRequest,
        Code::UnsupportedMediaType,
        Code::BodyTooLarge,
        Code::BodyTimeout,
        Code::MethodNotAllowed,
        Code::ValidationFailed,
        Code::Unauthenticated,
        Code::InvalidCredentials,
        Code::InvalidRefreshToken,
        Code::RefreshTokenReused,
        Code::InvalidToken,
        Code::EmailNotVerified,
        Code::WrongPassword,
        Code::Forbidden,
        Code::NotFound,
        Code::UserNotFound,
        Code::SessionNotFound,
        Code::NoContact,
        Code::MessageIdConflict,
        Code::LastAdmin,
        Code::RequestInProgress,
        Code::IdempotencyKeyReused,
        Code::RateLimited,
        Code::Unavailable,
        Code::Internal,
    ];

    /// As it stands in the `error` field of an answer.
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// Who must act on it.
    pub fn kind(self) -> Kind {
        self.row().1
    }

    /// What it means, for the table of codes.
    pub fn meaning(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, Kind, &'static str) {
        match self {
            Code::MalformedJson => ("malformed_json", Kind::Malformed, "The body is not JSON."),
            Code::MalformedRequest => ("malformed_request", Kind::Malformed, "The request line, a header or a parameter cannot be read."),
            Code::UnsupportedMediaType => {
                ("unsupported_media_type", Kind::Malformed, "The body's Content-Type is not application/json, or it is compressed.")
            }
            Code::BodyTooLarge => ("body_too_large", Kind::Malformed, "The body is larger than 64 KiB."),
            Code::BodyTimeout => ("body_timeout", Kind::Malformed, "The body did not arrive within 15 seconds."),
            Code::MethodNotAllowed => ("method_not_allowed", Kind::Malformed, "The path exists, the method does not; see Allow."),
            Code::ValidationFailed => ("validation_failed", Kind::Invalid, "One or more fields are wrong; see errors."),
            Code::Unauthenticated => ("unauthenticated", Kind::Unauthenticated, "No valid access token or service key was sent."),
            Code::InvalidCredentials => {
                ("invalid_credentials", Kind::Unauthenticated, "Address or password are wrong, or the account is not active.")
            }
            Code::InvalidRefreshToken => ("invalid_refresh_token", Kind::Unauthenticated, "The refresh token is not, or no longer, valid."),
            Code::RefreshTokenReused => {
                ("refresh_token_reused", Kind::Unauthenticated, "The refresh token was used before; its session has ended.")
            }
            Code::InvalidToken => ("invalid_token", Kind::Invalid, "The link was used, replaced, has expired, or is not for this."),
            Code::EmailNotVerified => {
                ("email_not_verified", Kind::Forbidden, "The password is right; the address must be verified before signing in.")
            }
            Code::WrongPassword => ("wrong_password", Kind::Forbidden, "The current password is wrong."),
            Code::Forbidden => ("forbidden", Kind::Forbidden, "The caller is known and may not do this."),
            Code::NotFound => ("not_found", Kind::NotFound, "There is nothing at this path."),
            Code::UserNotFound => ("user_not_found", Kind::NotFound, "There is no such user."),
            Code::SessionNotFound => ("session_not_found", Kind::NotFound, "The user has no such session."),
            Code::NoContact => ("no_contact", Kind::NotFound, "The user has no contact for this channel."),
            Code::MessageIdConflict => {
                ("message_id_conflict", Kind::Conflict, "The id was used by another push request for this user, or by one that died.")
            }
            Code::LastAdmin => ("last_admin", Kind::Conflict, "The last active admin cannot be demoted, deactivated or deleted."),
            Code::RequestInProgress => {
                ("request_in_progress", Kind::Conflict, "The same request, by its idempotency key, is still being worked on.")
            }
            Code::IdempotencyKeyReused => {
                ("idempotency_key_reused", Kind::Conflict, "The Idempotency-Key was used within 24 hours with another body.")
            }
            Code::RateLimited => ("rate_limited", Kind::RateLimited, "Too many requests; see Retry-After."),
            Code::Unavailable => ("unavailable", Kind::Unavailable, "Something this needs is down or busy; see Retry-After."),
            Code::Internal => ("internal_error", Kind::Internal, "A bug of ours; quote the correlation id."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_snake_case() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(seen.insert(code.as_str()), "{} twice", code.as_str());
            assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
    }
}
