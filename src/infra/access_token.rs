//! Access tokens: JWT (RFC 7519), signed with the shared secret (HS256) or with a private key (ES256, EdDSA) whose public
//! half gateways fetch. Each key has exactly one algorithm, and only the configured kind is accepted.

use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::signing_keys;
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
    header: Header,
    accepted: Vec<Accepted>,
    published: Vec<Jwk>,
    issuer: String,
    ttl: std::time::Duration,
}

/// A key that verifies, under the only algorithm it is good for.
#[derive(Clone)]
struct Accepted {
    /// Absent for the shared secret.
    kid: Option<String>,
    decoding: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessTokens(..)")
    }
}

impl AccessTokens {
    /// Reads the key files, if there are any.
    pub fn new(config: &Identity) -> Result<Self> {
        let accept = |kid, decoding, algorithm| Accepted { kid, decoding, validation: validation(algorithm, &config.issuer) };
        let (issuer, ttl) = (config.issuer.clone(), config.access_token_ttl);
        let Some(file) = &config.jwt_private_key_file else {
            let secret = config.jwt_secret.as_ref().map(|secret| secret.expose_secret().as_bytes()).unwrap_or_default();
            return Ok(Self {
                encoding: EncodingKey::from_secret(secret),
                header: Header::new(Algorithm::HS256),
                accepted: vec![accept(None, DecodingKey::from_secret(secret), Algorithm::HS256)],
                published: Vec::new(),
                issuer,
                ttl,
            });
        };
        let keys = signing_keys::load(file).map_err(|error| Error::internal(format!("JWT_PRIVATE_KEY_FILE: {error:#}")))?;
        let current = keys.first().ok_or_else(|| Error::internal("there is no signing key"))?;
        Ok(Self {
            encoding: current.encoding.clone(),
            header: Header { kid: Some(current.kid.clone()), ..Header::new(current.algorithm) },
            published: keys.iter().map(|key| key.jwk.clone()).collect(),
            accepted: keys.iter().map(|key| accept(Some(key.kid.clone()), key.decoding.clone(), key.algorithm)).collect(),
            issuer,
            ttl,
        })
    }

    /// The public keys, for gateways that verify by themselves; none while a shared secret signs.
    pub fn published(&self) -> JwkSet {
        JwkSet { keys: self.published.clone() }
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
        jsonwebtoken::encode(&self.header, &claims, &self.encoding).map_err(Error::internal)
    }

    /// The claims of a token that we signed and that is valid now.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims> {
        let refused = || Error::new(Code::Unauthenticated, "The access token is not valid.");
        let kid = jsonwebtoken::decode_header(token).map_err(|error| refused().with_source(error))?.kid;
        // The header only names the key; the algorithm is the key's own.
        let accepted = self.accepted.iter().find(|accepted| accepted.kid.is_none() || accepted.kid == kid).ok_or_else(refused)?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &accepted.decoding, &accepted.validation);
        let claims = decoded.map_err(|error| refused().with_source(error))?.claims;
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

fn validation(algorithm: Algorithm, issuer: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    // Times are checked against the service's own clock.
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.set_required_spec_claims(&["iss", "sub", "exp"]);
    validation.set_issuer(&[issuer]);
    validation
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: (&str, &str) = ("JWT_SECRET", "kZ9vQm3xT7wB2nR5yL8pD1sF4hJ6gC0e");

    fn identity(variables: &[(&'static str, &str)]) -> Identity {
        let base = [("DATABASE_URL", "postgres://h/d"), ("REDIS_URL", "redis://h")];
        let all = base.iter().chain(variables).copied().collect();
        crate::config::Config::from_map(crate::config::Role::Api, &all).unwrap().identity
    }

    fn tokens() -> AccessTokens {
        AccessTokens::new(&identity(&[SECRET])).unwrap()
    }

    fn with_key_file(file: &std::path::Path) -> AccessTokens {
        let app_secret = ("APP_SECRET", "pD1sF4hJ6gC0ekZ9vQm3xT7wB2nR5yL8");
        AccessTokens::new(&identity(&[SECRET, app_secret, ("JWT_PRIVATE_KEY_FILE", file.to_str().unwrap())])).unwrap()
    }

    #[test]
    fn a_rotation_loses_no_token_and_the_key_before_the_last_is_retired() {
        for algorithm in [signing_keys::KeyAlgorithm::Es256, signing_keys::KeyAlgorithm::Eddsa] {
            let folder = std::env::temp_dir().join(format!("user-service-keys-{}", Uuid::new_v4()));
            std::fs::create_dir(&folder).unwrap();
            let file = folder.join("jwt.pem");
            signing_keys::generate(&file, algorithm).unwrap();
            assert!(signing_keys::generate(&file, algorithm).is_err(), "a key was overwritten");
            let (user, session) = (Uuid::now_v7(), Uuid::now_v7());
            let issue = |tokens: &AccessTokens| tokens.issue(user, session, at(1_000_000)).unwrap();
            let first = with_key_file(&file);
            let old = issue(&first);
            assert_eq!(signing_keys::rotate(&file).unwrap(), signing_keys::Rotated::Rotated);
            let second = with_key_file(&file);
            // A process that has not been restarted yet knows the successor already.
            for (verifier, token) in [(&first, &old), (&second, &old), (&first, &issue(&second)), (&second, &issue(&second))] {
                assert_eq!(verifier.verify(token, at(1_000_000)).unwrap().sub, user);
            }
            assert_eq!(second.published().keys.len(), 3);
            signing_keys::rotate(&file).unwrap();
            let third = with_key_file(&file);
            assert!(third.verify(&old, at(1_000_000)).is_err(), "a retired key is still accepted");
            assert!(third.verify(&issue(&second), at(1_000_000)).is_ok());
            // The shared secret is no key beside them, and a public key is no secret.
            assert!(third.verify(&issue(&tokens()), at(1_000_000)).is_err());
            let public = serde_json::to_string(&third.published()).unwrap();
            assert!(!public.contains("\"d\""), "{public}");
            let mut header = Header::new(Algorithm::HS256);
            header.kid = third.header.kid.clone();
            let forged = jsonwebtoken::encode(&header, &json!({"sub": user}), &EncodingKey::from_secret(public.as_bytes())).unwrap();
            assert!(third.verify(&forged, at(1_000_000)).is_err());
            std::fs::remove_dir_all(folder).unwrap();
        }
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
