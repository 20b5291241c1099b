//! `user-service keys`: keys for siblings, and keys that sign access tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use clap::Subcommand;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::output::Output;
use crate::config::{Config, Role, Scope};
use crate::infra::signing_keys::{self, KeyAlgorithm, Rotated};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a key for a sibling service
    #[command(after_help = "Example:\n  user-service keys service gateway --scope users:read --scope push:write")]
    Service {
        /// The sibling's name
        #[arg(value_parser = parse_name)]
        name: String,
        /// What it may do; repeat for more
        #[arg(long = "scope", required = true, value_parser = parse_scope)]
        scopes: Vec<Scope>,
    },
    /// Make a key file that signs access tokens, and its successor beside it
    #[command(
        after_help = "Example:\n  user-service keys generate /etc/user-service/jwt.pem\n  JWT_PRIVATE_KEY_FILE=/etc/user-service/jwt.pem"
    )]
    Generate {
        /// What JWT_PRIVATE_KEY_FILE will name
        file: PathBuf,
        #[arg(long, value_enum, default_value = "es256")]
        algorithm: KeyAlgorithm,
    },
    /// Let the successor sign, and make another; then restart the processes one after the other
    #[command(after_help = "Run it at any time; a key that leaked is out after the second rotation, or once FILE.previous is deleted.")]
    Rotate {
        /// What JWT_PRIVATE_KEY_FILE names
        file: PathBuf,
    },
}

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Service { name, scopes } => make_service_key(&name, &scopes, output),
        Command::Generate { file, algorithm } => {
            signing_keys::generate(&file, algorithm)?;
            let shown = file.display();
            let text = || {
                format!(
                    "Made {shown}, and {shown}.next, which is published before it signs.\nSet JWT_PRIVATE_KEY_FILE={shown}, and APP_SECRET."
                )
            };
            output.say(text, || json!({"file": file, "next": format!("{shown}.next")}))
        }
        Command::Rotate { file } => rotate(&file, output),
    }
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let known = || Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
    Scope::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| format!("no such scope; there are {}", known()))
}

/// Reads it as the service will, so that a bad name is refused here and not at its start.
fn parse_name(name: &str) -> Result<String, &'static str> {
    let entry = format!("{name}:{}:{}", "0".repeat(64), Scope::ALL[0].as_str());
    match Config::from_map(Role::Api, &BTreeMap::from([("SERVICE_API_KEYS", entry.as_str())])) {
        Err(problems) if problems.concern("SERVICE_API_KEYS") => Err("use 1 to 64 letters, digits, '-', '_' or '.'"),
        _ => Ok(name.to_owned()),
    }
}

fn rotate(file: &Path, output: Output) -> anyhow::Result<()> {
    let shown = file.display();
    let (rotated, text) = match signing_keys::rotate(file)? {
        Rotated::Rotated => (
            true,
            format!(
                "{shown} signs from the next start on; what {shown}.previous signed is still accepted.\nRestart the processes one after the other."
            ),
        ),
        Rotated::SuccessorMade => (
            false,
            format!(
                "{shown} had no successor: {shown}.next is made, and nothing else has changed.\nRestart the processes, so that it is published; \
                 rotate again when gateways have fetched it."
            ),
        ),
    };
    output.say(|| text, || json!({"file": file, "rotated": rotated}))
}

fn make_service_key(name: &str, scopes: &[Scope], output: Output) -> anyhow::Result<()> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let key = format!("usk_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret));
    let sha256: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    let entry = format!("{name}:{sha256}:{}", scopes.join("+"));
    let text =
        || format!("Key for '{name}', shown once:\n  {key}\n\nAdd this to SERVICE_API_KEYS (entries are separated by commas):\n  {entry}");
    output.say(text, || json!({"name": name, "key": key, "entry": entry}))
}
