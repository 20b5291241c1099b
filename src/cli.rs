//! The command line.

mod admin;
mod dead_letters;
mod doctor;
mod keys;
mod output;
mod users;

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::output::Output;
use crate::app::App;
use crate::config::{Config, Problem, Problems, Role};
use crate::infra::access_token::AccessTokens;
use crate::infra::clock::Clock;
use crate::infra::{migrations, telemetry};
use crate::role::api::Listeners;
use crate::role::{self, supervisor};

/// The source of truth for people in a distributed notification system.
///
/// Configured by environment variables; .env.example names them all.
#[derive(Debug, Parser)]
#[command(
    name = "user-service",
    version,
    about,
    long_about,
    after_help = "Exit codes: 0 done, 1 failed while running, 2 the configuration or the command line cannot work.\n\nExamples:\n  \
        user-service --role api\n  user-service doctor\n  user-service dead-letters list --reason unknown_user --json\n  \
        user-service users import --from-django users.sql --dry-run"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Which parts to run (for `serve`, the default command)
    #[arg(long, value_enum, default_value = "both", global = true)]
    role: Role,
    /// Answer with one JSON document, for programs; what fails is told at standard error all the same
    #[arg(long, global = true)]
    json: bool,
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
    /// Look at everything that the service needs, and tell how to mend what is wrong; exit with 1 if something is
    #[command(
        after_help = "Examples:\n  user-service doctor\n  user-service doctor --role api --json | jq '.[] | select(.state != \"ok\")'"
    )]
    Doctor,
    /// Make keys
    Keys {
        #[command(subcommand)]
        command: keys::Command,
    },
    /// Make admins for the operators' pages, and help those who lost their phone
    Admin {
        #[command(subcommand)]
        command: admin::Command,
    },
    /// Look at push requests that died, have them decided anew, or throw them away
    DeadLetters {
        #[command(subcommand)]
        command: dead_letters::Command,
    },
    /// Import, export and erase accounts
    Users {
        #[command(subcommand)]
        command: users::Command,
    },
    /// Print completions for a shell
    #[command(after_help = "Example:\n  user-service completions bash > /etc/bash_completion.d/user-service")]
    Completions { shell: clap_complete::Shell },
    /// Exit with 0 if the service on this machine is ready, for container health checks
    Healthcheck,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Report every problem at once; exit with 2 if there is one
    Check,
}

/// Exit code for a configuration or a command line that cannot work; 1 is a failure while running.
pub const EXIT_CONFIGURATION: u8 = 2;

/// A command line that cannot work, as is found only once it has been parsed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misused(&'static str);

/// Runs the command; the caller turns the error into an exit code.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let output = Output { json: cli.json };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(Config::from_env(cli.role)?, cli.role).await,
        Command::Migrate => migrate(&Config::from_env(Role::Api)?, output).await,
        Command::Openapi => {
            let document = role::api::openapi().await?;
            Output { json: true }.say(String::new, || json!(document))
        }
        Command::Config { command: ConfigCommand::Check } => check(cli.role, output),
        Command::Doctor => doctor::run(cli.role, output).await,
        Command::Keys { command } => keys::run(command, output),
        Command::Admin { command } => admin::run(command, output).await,
        Command::DeadLetters { command } => dead_letters::run(command, output).await,
        Command::Users { command } => users::run(command, output).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "user-service", &mut std::io::stdout());
            Ok(())
        }
        Command::Healthcheck => healthcheck(Config::port_from_env()?).await,
    }
}

/// What a failed run exits with.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<Problems>() || error.is::<Misused>() { EXIT_CONFIGURATION } else { 1 }
}

async fn serve(config: Config, role: Role) -> anyhow::Result<()> {
    let telemetry = telemetry::start(&config.log);
    #[cfg(feature = "fail-points")]
    let _armed = crate::infra::fail_point::arm();
    let listeners = Listeners::bind(&config.http)?;
    let address = format!("{}:{}", config.http.host, config.http.port);
    if !config.http.service_auth {
        tracing::warn!(
            port = config.http.internal_port,
            "SERVICE_AUTH=off: whoever reaches INTERNAL_PORT reads every user's preferences, contacts and push tokens"
        );
    }
    let app = App::new(config, role, Clock::default())?;
    let stop = CancellationToken::new();
    let signals = actix_rt::spawn(supervisor::watch_signals(stop.clone()));
    if app.config.mail.is_unprotected(&app.config.http.host) {
        tracing::warn!(
            url = app.config.mail.public_base_url,
            "mailed links lead here, without TLS: set PUBLIC_BASE_URL to where people reach this service"
        );
    }
    tracing::info!(address, ?role, version = env!("CARGO_PKG_VERSION"), "serving");
    let ended = role::run(app, role, listeners, stop).await;
    signals.abort();
    tokio::task::spawn_blocking(move || telemetry.flush()).await?;
    ended.map_err(|error| anyhow::anyhow!(error.chain()))
}

fn check(role: Role, output: Output) -> anyhow::Result<()> {
    match Config::from_env(role) {
        Ok(config) => {
            AccessTokens::new(&config.identity).map_err(|error| anyhow::anyhow!(error.chain()))?;
            output.say(|| "The configuration is complete.", || json!({"complete": true, "problems": []}))
        }
        Err(problems) => {
            if output.json {
                let value = |problem: &Problem| json!({"variable": problem.variable, "wrong": problem.wrong, "right": problem.right});
                output.say(String::new, || json!({"complete": false, "problems": problems.iter().map(value).collect::<Vec<_>>()}))?;
            }
            Err(problems.into())
        }
    }
}

async fn migrate(config: &Config, output: Output) -> anyhow::Result<()> {
    let applied = migrations::apply(config.database.url.expose_secret()).await?;
    let text = || match applied.is_empty() {
        true => "The schema is current.".to_owned(),
        false => applied.iter().map(|name| format!("applied {name}")).collect::<Vec<_>>().join("\n"),
    };
    output.say(text, || json!({"applied": applied}))
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
