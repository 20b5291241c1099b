//! Who somebody is: secrets, keys, lifetimes, and how much an account must prove.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::reader::Reader;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug)]
pub struct Identity {
    /// Signs access tokens with HS256, unless there is a key file.
    pub jwt_secret: Option<SecretString>,
    /// A private key in PEM; its successor and predecessor lie beside it (`infra::signing_keys`).
    pub jwt_private_key_file: Option<PathBuf>,
    /// What the server's other keys derive from; without it they derive from `jwt_secret`.
    pub app_secret: Option<SecretString>,
    /// The one before; what it made is still accepted.
    pub app_secret_previous: Option<SecretString>,
    pub issuer: String,
    pub access_token_ttl: Duration,
    pub refresh_token_idle: Duration,
    pub refresh_token_absolute: Duration,
    /// How long the token before the newest one may come back and gets the same successor.
    pub refresh_grace: Duration,
    pub bcrypt_cost: u32,
    pub require_verified_email: bool,
    pub registration_privacy: RegistrationPrivacy,
    /// Answers that must not tell whether an account exists leave at multiples of this after their arrival.
    pub even_answer: Duration,
}

/// What a registration tells about the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationPrivacy {
    /// A taken address is a field problem.
    Open,
    /// Every answer is the same 202; what is so, the address's owner learns by mail.
    Strict,
}

impl Identity {
    pub(super) fn read(env: &mut Reader<'_>) -> Self {
        let identity = Self {
            jwt_secret: env.optional_secret("JWT_SECRET"),
            jwt_private_key_file: env.optional_text("JWT_PRIVATE_KEY_FILE").map(PathBuf::from),
            app_secret: env.optional_secret("APP_SECRET"),
            app_secret_previous: env.optional_secret("APP_SECRET_PREVIOUS"),
            issuer: env.text("JWT_ISSUER", "user-service"),
            access_token_ttl: env.seconds("ACCESS_TOKEN_TTL_SECONDS", HOUR, 60..=86_400),
            refresh_token_idle: env.seconds("REFRESH_TOKEN_IDLE_SECONDS", 24 * HOUR, 3600..=2_592_000),
            refresh_token_absolute: env.seconds("REFRESH_TOKEN_ABSOLUTE_SECONDS", 720 * HOUR, 3600..=31_536_000),
            refresh_grace: env.seconds("REFRESH_GRACE_SECONDS", Duration::from_secs(10), 0..=60),
            bcrypt_cost: env.number("BCRYPT_COST", 11, 10..=15),
            require_verified_email: env.choice("REQUIRE_VERIFIED_EMAIL", &[("true", true), ("false", false)], false),
            registration_privacy: env.choice(
                "REGISTRATION_PRIVACY",
                &[("open", RegistrationPrivacy::Open), ("strict", RegistrationPrivacy::Strict)],
                RegistrationPrivacy::Open,
            ),
            even_answer: Duration::from_millis(env.number("EVEN_ANSWER_MILLISECONDS", 1000, 10..=5000)),
        };
        if let Some(file) = &identity.jwt_private_key_file
            && let Err(error) = std::fs::read(file)
        {
            env.problem("JWT_PRIVATE_KEY_FILE", format!("cannot be read: {error}"), "a file made by `user-service keys generate`");
        }
        match (&identity.jwt_secret, &identity.jwt_private_key_file, &identity.app_secret) {
            (None, None, _) => {
                env.not_set("JWT_SECRET", "32 or more random bytes (openssl rand -base64 48), or JWT_PRIVATE_KEY_FILE with APP_SECRET")
            }
            (None, Some(_), None) => env.not_set("APP_SECRET", "it is what every key but the access tokens' derives from"),
            _ => {}
        }
        identity
    }

    /// What every key of the server derives from, and what it derived from before.
    pub fn root_secrets(&self) -> (&[u8], Option<&[u8]>) {
        let current = self.app_secret.as_ref().or(self.jwt_secret.as_ref());
        // `read` saw to it that there is one.
        (current.map(bytes).unwrap_or_default(), self.app_secret_previous.as_ref().map(bytes))
    }
}

fn bytes(secret: &SecretString) -> &[u8] {
    secret.expose_secret().as_bytes()
}
