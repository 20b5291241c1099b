//! Access tokens: JWT (RFC 7519) signed with HS256, exactly one algorithm accepted.

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::Identity;
use crate::error::{Code, Error, Result};

/// How far clocks may differ.
const LEEWAY_SECONDS: u64 = 30;

/// What a token says. `user_id` repeats `sub`, because siblings read either.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    pub iss: String,
    pub sub: Uuid,
    pub user_id: Uuid,
    /// The session it was made for.
    pub sid: Uuid,
    pub jti: Uuid,
    pub token_type: TokenType,
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
}

/// The only type there is; another one does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenType {
    Access,
}

/// Signs and verifies access tokens.
#[derive(Clone)]
pub struct AccessTokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    issuer: String,
    ttl: std::time::Duration,
}

impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessTokens(..)")
    }
}

impl AccessTokens {
    pub fn new(config: &Identity) -> Self {
        let secret = config.jwt_secret.expose_secret().as_bytes();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        // Times are checked below, against the service's own clock.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        validation.set_issuer(&[&config.issuer]);
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            issuer: config.issuer.clone(),
            ttl: config.access_token_ttl,
        }
    }

    /// How long a new token lives.
    pub fn ttl(&self) -> std::time::Duration {
        self.ttl
    }

    /// A token for a session.
    pub fn issue(&self, user_id: Uuid, session_id: Uuid, now: DateTime<Utc>) -> Result<String> {
        let iat = now.timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: user_id,
            user_id,
            sid: session_id,
            jti: Uuid::new_v4(),
            token_type: TokenType::Access,
            iat,
            nbf: iat,
            exp: iat + self.ttl.as_secs() as i64,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding).map_err(Error::internal)
    }

    /// The claims of a token that we signed and that is valid now.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims> {
        let refused = || Error::new(Code::Unauthenticated, "The access token is not valid.");
        let claims =
            jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).map_err(|error| refused().with_source(error))?.claims;
        let (now, leeway) = (now.timestamp(), LEEWAY_SECONDS as i64);
        if claims.exp.saturating_add(leeway) <= now {
            return Err(Error::new(Code::Unauthenticated, "The access token has expired."));
        }
        if claims.nbf.saturating_sub(leeway) > now || claims.iat.saturating_sub(leeway) > now || claims.sub != claims.user_id {
            return Err(refused());
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn tokens() -> AccessTokens {
        AccessTokens::new(&Identity {
            jwt_secret: "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e".into(),
            app_secret: None,
            issuer: "user-service".into(),
            access_token_ttl: Duration::from_secs(3600),
            refresh_token_idle: Duration::from_secs(1),
            refresh_token_absolute: Duration::from_secs(1),
            refresh_grace: Duration::ZERO,
            bcrypt_cost: 4,
        })
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn a_token_is_valid_for_its_time() {
        let tokens = tokens();
        let (user, session) = (Uuid::now_v7(), Uuid::now_v7());
        let token = tokens.issue(user, session, at(1_000_000)).unwrap();
        let claims = tokens.verify(&token, at(1_000_000)).unwrap();
        assert_eq!((claims.sub, claims.user_id, claims.sid), (user, user, session));
        assert!(tokens.verify(&token, at(1_003_629)).is_ok());
        assert!(tokens.verify(&token, at(1_003_630)).is_err());
        assert!(tokens.verify(&token, at(999_000)).is_err());
    }

    #[test]
    fn forgeries_are_refused() {
        use base64::Engine as _;
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let tokens = tokens();
        let good = tokens.issue(Uuid::now_v7(), Uuid::now_v7(), at(1_000_000)).unwrap();
        let parts: Vec<_> = good.split('.').collect();
        let none = engine.encode(json!({"alg": "none", "typ": "JWT"}).to_string());
        let hs512 = engine.encode(json!({"alg": "HS512", "typ": "JWT"}).to_string());
        for forged in [
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{hs512}.{}.{}", parts[1], parts[2]),
            format!("{good}="),
            format!("{good}.x"),
            format!(" {good}"),
            parts[..2].join("."),
            String::new(),
        ] {
            assert!(tokens.verify(&forged, at(1_000_000)).is_err(), "{forged}");
        }
    }
}
