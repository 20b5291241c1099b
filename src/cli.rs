//! The command line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use clap::{Parser, Subcommand};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::{Config, Problems, Role, Scope};
use crate::infra::clock::Clock;
use crate::infra::{migrations, telemetry};
use crate::role::{self, supervisor};

/// The source of truth for people in a distributed notification system.
///
/// Configured by environment variables; .env.example names them all.
#[derive(Debug, Parser)]
#[command(name = "user-service", version, about, long_about)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which parts to run (for `serve`, the default command)
    #[arg(long, value_enum, default_value = "both", global = true)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve HTTP, consume push requests, or both (the default command)
    Serve,
    /// Apply the migrations that are missing, and end
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Look at the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make keys
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Exit with 0 if the service on this machine is ready, for container health checks
    Healthcheck,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem at once; exit with 2 if there is one
    Check,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key for a sibling service
    #[command(after_help = "Example:\n  user-service keys service gateway --scope users:read --scope push:write")]
    Service {
        /// The sibling's name
        name: String,
        /// What it may do; repeat for more
        #[arg(long = "scope", required = true, value_parser = parse_scope)]
        scopes: Vec<Scope>,
    },
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let known = || Scope::ALL.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ");
    Scope::ALL.iter().copied().find(|scope| scope.as_str() == text).ok_or_else(|| format!("no such scope; there are {}", known()))
}

/// Exit code for a configuration that cannot work; 1 is a failure while running.
pub const EXIT_CONFIGURATION: u8 = 2;

/// Runs the command; the caller turns the error into an exit code.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(Config::from_env(cli.role)?, cli.role).await,
        Command::Migrate => migrate(&Config::from_env(Role::Api)?).await,
        Command::Openapi => print(&format!("{:#}", role::api::openapi().await?)),
        Command::Config { command: ConfigCommand::Check } => {
            Config::from_env(cli.role)?;
            print("The configuration is complete.")
        }
        Command::Keys { command: KeysCommand::Service { name, scopes } } => make_service_key(&name, &scopes),
        Command::Healthcheck => healthcheck(Config::port_from_env()?).await,
    }
}

/// What a failed run exits with.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Problems>() { EXIT_CONFIGURATION } else { 1 }
}

async fn serve(config: Config, role: Role) -> anyhow::Result<()> {
    telemetry::start_logging(&config.log);
    let address = format!("{}:{}", config.http.host, config.http.port);
    let listener = TcpListener::bind(&address).with_context(|| format!("cannot listen on {address}; is PORT taken?"))?;
    let app = App::new(config, role, Clock::default())?;
    let stop = CancellationToken::new();
    let signals = actix_rt::spawn(supervisor::watch_signals(stop.clone()));
    tracing::info!(address, ?role, version = env!("CARGO_PKG_VERSION"), "serving");
    let ended = role::run(app, role, listener, stop).await;
    signals.abort();
    ended.map_err(|error| anyhow::anyhow!(error.chain()))
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let applied = migrations::apply(config.database.url.expose_secret()).await?;
    for name in &applied {
        print(&format!("applied {name}"))?;
    }
    if applied.is_empty() { print("The schema is current.") } else { Ok(()) }
}

fn make_service_key(name: &str, scopes: &[Scope]) -> anyhow::Result<()> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    let key = format!("usk_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret));
    let sha256: String = Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
    let entry = format!("{name}:{sha256}:{}", scopes.join("+"));
    // Read back as the service will read it, so that a bad name is refused here and not at its start.
    let variables = BTreeMap::from([("SERVICE_API_KEYS", entry.as_str())]);
    if let Err(problems) = Config::from_map(Role::Api, &variables)
        && problems.concern("SERVICE_API_KEYS")
    {
        bail!("'{name}' cannot be a name: use 1 to 64 letters, digits, '-', '_' or '.'");
    }
    print(&format!("Key for '{name}', shown once:\n  {key}\n\nAdd this to SERVICE_API_KEYS (entries are separated by commas):\n  {entry}"))
}

/// Asks this machine's own service, without an HTTP client in the binary.
async fn healthcheck(port: u16) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(16 * 1024).read_to_end(&mut answer).await?;
        anyhow::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = tokio::time::timeout(Duration::from_secs(3), asking).await.context("no answer within 3 seconds")??;
    let status = answer.split_whitespace().nth(1).unwrap_or("nothing");
    if status == "200" { Ok(()) } else { bail!("the service answered {status}") }
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
