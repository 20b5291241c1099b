//! A gateway that verifies access tokens by itself, as siblings do: it fetches the public keys once, then needs nobody.
//!
//! `gateway http://localhost:8000` reads tokens from its standard input, one a line, and prints whose each is. It uses
//! another JWT library than the service, and none of the service's code.
#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program to be watched; it has no clock to inject")]

use anyhow::{Context as _, Result, anyhow, bail};
use chrono::{TimeDelta, Utc};
use jwt_compact::alg::{Ed25519, Es256};
use jwt_compact::jwk::JsonWebKey;
use jwt_compact::{Algorithm, AlgorithmExt as _, TimeOptions, UntrustedToken};
use serde::Deserialize;

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    kid: String,
    alg: String,
    #[serde(flatten)]
    key: serde_json::Value,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    user_id: String,
    token_type: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let base = std::env::args().nth(1).context("usage: gateway BASE_URL < tokens")?;
    let Keys { keys } = reqwest::get(format!("{base}/.well-known/jwks.json")).await?.error_for_status()?.json().await?;
    println!("{} keys", keys.len());
    for token in std::io::stdin().lines() {
        match verify(&keys, token?.trim()) {
            Ok(claims) => println!("user {}", claims.user_id),
            Err(error) => println!("refused: {error:#}"),
        }
    }
    Ok(())
}

fn verify(keys: &[Key], token: &str) -> Result<Claims> {
    let token = UntrustedToken::new(token)?;
    let kid = token.header().key_id.as_deref().context("it names no key")?;
    let key = keys.iter().find(|key| key.kid == kid).with_context(|| format!("nobody published the key {kid}"))?;
    // The algorithm is the key's, whatever the token says.
    let claims = match key.alg.as_str() {
        "ES256" => verify_with(&Es256, key, &token)?,
        "EdDSA" => verify_with(&Ed25519, key, &token)?,
        other => bail!("the key is for {other}"),
    };
    if claims.iss != "user-service" || claims.token_type != "access" {
        bail!("it is no access token of this service");
    }
    Ok(claims)
}

fn verify_with<A: Algorithm>(algorithm: &A, key: &Key, token: &UntrustedToken<'_>) -> Result<Claims>
where
    for<'a> A::VerifyingKey: TryFrom<&'a JsonWebKey<'a>>,
{
    let jwk: JsonWebKey<'_> = serde_json::from_value(key.key.clone())?;
    let key = A::VerifyingKey::try_from(&jwk).map_err(|_unfit| anyhow!("the key is of another kind"))?;
    let token = algorithm.validator::<Claims>(&key).validate(token)?;
    let times = TimeOptions::new(TimeDelta::seconds(30), Utc::now);
    token.claims().validate_expiration(&times)?.validate_maturity(&times)?;
    Ok(token.into_parts().1.custom)
}
