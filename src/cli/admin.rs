//! `user-service admin`: the first admin, and one who lost the phone or the password.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use futures_util::FutureExt as _;
use serde_json::json;

use super::Misused;
use super::output::Output;
use crate::admin::{self, staff};
use crate::app::App;
use crate::card::Card;
use crate::card::email_address::EmailAddress;
use crate::config::{Config, Role};
use crate::error::Error;
use crate::infra::clock::Clock;
use crate::users;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an admin, and print the link that enrols the second factor
    #[command(after_help = "The password is asked for, or read from standard input; it is never an argument.\n\nExamples:\n  \
        user-service admin create --email ada@example.com --name 'Ada Lovelace'\n  \
        pass show admin | user-service admin create --email ada@example.com --password-stdin")]
    Create {
        /// The new account's address
        #[arg(long, value_parser = EmailAddress::parse)]
        email: EmailAddress,
        /// The address's first part, unless told
        #[arg(long, value_parser = users::parse_name)]
        name: Option<String>,
        /// Read the password from standard input; one newline at its end is cut
        #[arg(long)]
        password_stdin: bool,
    },
    /// Make an admin of somebody who has an account, and print the link that enrols the second factor
    #[command(after_help = "Example:\n  user-service admin grant --email ada@example.com")]
    Grant {
        /// The account's address
        #[arg(long)]
        email: String,
    },
    /// Forget an admin's second factor and sign him out of the pages; print the link that enrols anew
    #[command(after_help = "Examples:\n  user-service admin reset --email ada@example.com\n  \
        user-service admin reset --email ada@example.com --password")]
    Reset {
        /// The admin's address
        #[arg(long)]
        email: String,
        /// Set a new password as well, and ask for it
        #[arg(long)]
        password: bool,
        /// Set a new password as well, and read it from standard input
        #[arg(long, conflicts_with = "password")]
        password_stdin: bool,
    },
}

pub async fn run(command: Command, output: Output) -> anyhow::Result<()> {
    let app = App::new(Config::from_env(Role::Api)?, Role::Api, Clock::default())?;
    let done = match command {
        Command::Create { email, name, password_stdin } => create(&app, email, name, password_stdin, output).await,
        Command::Grant { email } => grant(&app, &email, output).await,
        Command::Reset { email, password, password_stdin } => {
            let password = if password || password_stdin { Some(read_password(password_stdin)?) } else { None };
            reset(&app, &email, password, output).await
        }
    };
    app.close().await;
    done
}

async fn create(app: &App, email: EmailAddress, name: Option<String>, password_stdin: bool, output: Output) -> anyhow::Result<()> {
    let name = name.unwrap_or_else(|| email.local_part().to_owned());
    let password = read_password(password_stdin)?;
    let link = staff::create(app, email.clone(), name, password).await.map_err(|error| told(&error))?;
    let email = email.as_str();
    invite(email, &format!("Made the admin {email}."), &link, output)
}

async fn grant(app: &App, email: &str, output: Output) -> anyhow::Result<()> {
    let link = staff::grant(app, find(app, email).await?).await.map_err(|error| told(&error))?;
    invite(email, &format!("{email} is an admin now."), &link, output)
}

async fn find(app: &App, email: &str) -> anyhow::Result<Card> {
    let name = email.to_owned();
    let found = app.worker_db.read(move |conn| async move { admin::find(conn, &name).await }.boxed()).await;
    found.map_err(|error| told(&error))
}

async fn reset(app: &App, email: &str, password: Option<String>, output: Output) -> anyhow::Result<()> {
    let user = find(app, email).await?;
    let link = staff::reset(app, user, password).await.map_err(|error| told(&error))?;
    invite(email, &format!("{email} is signed out, and needs a second factor."), &link, output)
}

fn invite(email: &str, done: &str, link: &str, output: Output) -> anyhow::Result<()> {
    let text = || format!("{done}\nOpen this link to enrol a second factor. It works once, for an hour:\n  {link}");
    output.say(text, || json!({"email": email, "enrol_url": link, "expires_in_minutes": 60}))
}

/// From standard input, with one newline cut off; or typed twice at the terminal.
fn read_password(from_stdin: bool) -> anyhow::Result<String> {
    if from_stdin {
        let mut text = String::new();
        std::io::stdin().lock().take(64 * 1024).read_to_string(&mut text).context("cannot read the password")?;
        let cut = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text));
        return Ok(cut.map(str::to_owned).unwrap_or(text));
    }
    if !std::io::stdin().is_terminal() {
        bail!(Misused("there is no terminal to ask at: say --password-stdin"));
    }
    let typed = rpassword::prompt_password("Password: ").context("cannot read the password")?;
    let again = rpassword::prompt_password("The same again: ").context("cannot read the password")?;
    if typed == again { Ok(typed) } else { bail!("these are not the same") }
}

/// What is wrong with which option, in one line.
fn told(error: &Error) -> anyhow::Error {
    let fields: Vec<String> = error.fields.iter().map(|(field, problems)| format!("{field} {}", problems.join(", "))).collect();
    if fields.is_empty() { anyhow::anyhow!(error.chain()) } else { anyhow::anyhow!(fields.join("; ")) }
}
