//! Key files for access tokens: ES256 or EdDSA, the current one with its successor and predecessor beside it.
//!
//! `FILE` signs; `FILE.next` is published before it signs, so that gateways know it by then; `FILE.previous` is published
//! until what it signed has expired. Every process reads them at its start: rotate, then restart one after the other, and
//! each accepts what the others sign.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine as _;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

/// What a key signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KeyAlgorithm {
    /// ECDSA on P-256: what every client library speaks
    Es256,
    /// Ed25519
    Eddsa,
}

/// A private key, and its public half as gateways read it.
#[derive(Clone)]
pub struct SigningKey {
    pub algorithm: Algorithm,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
    /// Its `kid` is the key's thumbprint (RFC 7638): the same key has the same name everywhere.
    pub jwk: Jwk,
    pub kid: String,
}

/// The keys beside a file, the current one first.
pub fn load(file: &Path) -> anyhow::Result<Vec<SigningKey>> {
    let mut keys = vec![read(file)?];
    for other in [next(file), previous(file)] {
        if other.exists() {
            let key = read(&other)?;
            if keys.iter().all(|known| known.kid != key.kid) {
                keys.push(key);
            }
        }
    }
    Ok(keys)
}

/// Makes a key and its successor; never over one that is there.
pub fn generate(file: &Path, algorithm: KeyAlgorithm) -> anyhow::Result<()> {
    write_new(file, &pem(algorithm)?)?;
    write_new(&next(file), &pem(algorithm)?)
}

/// What a rotation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotated {
    /// The successor signs from the next start on.
    Rotated,
    /// There was no successor: it is made now, to be published before it signs.
    SuccessorMade,
}

/// The successor becomes the current key, and gets a successor. There is a current key at every instant.
pub fn rotate(file: &Path) -> anyhow::Result<Rotated> {
    let current = read(file)?;
    let algorithm = if current.algorithm == Algorithm::EdDSA { KeyAlgorithm::Eddsa } else { KeyAlgorithm::Es256 };
    if !next(file).exists() {
        write_new(&next(file), &pem(algorithm)?)?;
        return Ok(Rotated::SuccessorMade);
    }
    read(&next(file))?;
    // What a rotation that was interrupted left behind.
    let copy = beside(file, "copy");
    match fs::remove_file(&copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(|| copy.display().to_string()),
        _ => {}
    }
    write_new(&copy, &fs::read_to_string(file)?)?;
    let rename =
        |from: &Path, to: &Path| fs::rename(from, to).with_context(|| format!("cannot rename {} to {}", from.display(), to.display()));
    rename(&copy, &previous(file))?;
    rename(&next(file), file)?;
    write_new(&next(file), &pem(algorithm)?)?;
    Ok(Rotated::Rotated)
}

fn next(file: &Path) -> PathBuf {
    beside(file, "next")
}

fn previous(file: &Path) -> PathBuf {
    beside(file, "previous")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

fn read(file: &Path) -> anyhow::Result<SigningKey> {
    let text = fs::read(file).with_context(|| format!("cannot read the key file {}", file.display()))?;
    let es256 = EncodingKey::from_ec_pem(&text).map(|key| (key, Algorithm::ES256));
    let (encoding, algorithm) =
        es256.or_else(|_not_ec| EncodingKey::from_ed_pem(&text).map(|key| (key, Algorithm::EdDSA))).with_context(|| {
            format!("{} holds no private P-256 or Ed25519 key in PEM (PKCS #8), as `user-service keys generate` makes one", file.display())
        })?;
    let unusable = || format!("the key in {} cannot be used", file.display());
    let mut jwk = Jwk::from_encoding_key(&encoding, algorithm).with_context(unusable)?;
    let kid = jwk.thumbprint(ThumbprintHash::SHA256).with_context(unusable)?;
    jwk.common.key_id = Some(kid.clone());
    jwk.common.public_key_use = Some(PublicKeyUse::Signature);
    let decoding = DecodingKey::from_jwk(&jwk).with_context(unusable)?;
    Ok(SigningKey { algorithm, encoding, decoding, jwk, kid })
}

fn pem(algorithm: KeyAlgorithm) -> anyhow::Result<String> {
    let random = SystemRandom::new();
    let der = match algorithm {
        KeyAlgorithm::Es256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map(|der| der.as_ref().to_vec()),
        // Version 1, without the public key: what every reader takes.
        KeyAlgorithm::Eddsa => Ed25519KeyPair::generate_pkcs8v1(&random).map(|der| der.as_ref().to_vec()),
    };
    let Ok(der) = der else { bail!("no key could be made") };
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for (at, character) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    Ok(pem)
}

fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut opened = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot make {}; a key that is there is never overwritten", file.display()))?;
    opened.write_all(text.as_bytes())?;
    opened.sync_all().with_context(|| format!("cannot write {}", file.display()))
}
