//! `user-service dead-letters`: look at push requests that died, have them decided anew, or throw them away.

use anyhow::bail;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{ArgGroup, Args, Subcommand};
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::output::Output;
use crate::amqp::disposition::DeadReason;
use crate::app::App;
use crate::config::{Config, Role};
use crate::infra::clock::Clock;
use crate::push::dead_letters::{self, DeadLetter, Filter};

/// What a transaction takes.
const BATCH: i64 = 500;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// One line each, the newest first
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: u16,
    },
    /// Everything about one, with its body
    Show { message_id: String },
    /// Have the worker decide them anew, against preferences and tokens as they are then; safe to repeat
    #[command(after_help = "Example:\n  user-service dead-letters redrive --reason unknown_user", group = said_which())]
    Redrive {
        #[command(flatten)]
        which: Which,
        /// Whatever the reason, whoever the user
        #[arg(long)]
        all: bool,
    },
    /// Throw them away
    #[command(after_help = "Example:\n  user-service dead-letters purge --older-than 720", group = said_which())]
    Purge {
        #[command(flatten)]
        which: Which,
        /// Whatever the reason, whoever the user
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub struct Which {
    /// Of this reason
    #[arg(long, value_enum)]
    reason: Option<DeadReason>,
    /// Of this user
    #[arg(long)]
    user: Option<Uuid>,
    /// With this id
    #[arg(long)]
    id: Option<String>,
    /// That died at least so many hours ago
    #[arg(long, value_name = "HOURS")]
    older_than: Option<u16>,
}

impl Which {
    fn filter(self, now: DateTime<Utc>) -> Filter {
        let before = self.older_than.map(|hours| now - TimeDelta::hours(hours.into()));
        let reason = self.reason.map(|reason| reason.as_str().to_owned());
        Filter { reason, user_id: self.user, message_id: self.id, before }
    }
}

/// What changes many at once is not begun by leaving something out.
fn said_which() -> ArgGroup {
    ArgGroup::new("said-which").args(["reason", "user", "id", "older_than", "all"]).multiple(true).required(true)
}

pub async fn run(command: Command, output: Output) -> anyhow::Result<()> {
    let app = App::new(Config::from_env(Role::Api)?, Role::Api, Clock::default())?;
    let now = app.clock.now();
    let done = match command {
        Command::List { which, limit } => list(&app, which.filter(now), limit.into(), output).await,
        Command::Show { message_id } => show(&app, message_id, output).await,
        Command::Redrive { which, all: _ } => repeat(&app, which.filter(now), true, output).await,
        Command::Purge { which, all: _ } => repeat(&app, which.filter(now), false, output).await,
    };
    app.close().await;
    done
}

async fn find(app: &App, filter: Filter, limit: i64) -> anyhow::Result<Vec<DeadLetter>> {
    let reading = app.worker_db.read(move |conn| async move { dead_letters::list_dead(conn, &filter, limit).await }.boxed()).await;
    reading.map_err(|error| anyhow::anyhow!(error.chain()))
}

async fn list(app: &App, filter: Filter, limit: i64, output: Output) -> anyhow::Result<()> {
    let letters = find(app, filter, limit).await?;
    let line = |letter: &DeadLetter| {
        let user = letter.user_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let at = letter.died_at.format("%Y-%m-%dT%H:%M:%SZ");
        format!("{at}  {:<20}  {user}  {}  {}", letter.reason, letter.message_id, letter.detail)
    };
    let text = || match letters.is_empty() {
        true => "There are none.".to_owned(),
        false => letters.iter().map(line).collect::<Vec<_>>().join("\n"),
    };
    output.say(text, || letters.iter().map(value).collect())
}

async fn show(app: &App, message_id: String, output: Output) -> anyhow::Result<()> {
    let letters = find(app, Filter { message_id: Some(message_id.clone()), ..Filter::default() }, BATCH).await?;
    if letters.is_empty() {
        bail!("there is no dead letter '{message_id}'");
    }
    let text = |letter: &DeadLetter| {
        let user = letter.user_id.map_or_else(|| "none that can be read".to_owned(), |id| id.to_string());
        format!(
            "id           {}\nuser         {user}\nreason       {}\ndetail       {}\nattempts     {}\ndied         {}\ncorrelation  {}\n\n{}",
            letter.message_id,
            letter.reason,
            letter.detail,
            letter.attempts,
            letter.died_at.to_rfc3339(),
            letter.correlation_id,
            String::from_utf8_lossy(&letter.body)
        )
    };
    output.say(|| letters.iter().map(text).collect::<Vec<_>>().join("\n\n"), || letters.iter().map(value_with_body).collect())
}

fn value(letter: &DeadLetter) -> Value {
    json!({"message_id": letter.message_id, "user_id": letter.user_id, "reason": letter.reason, "detail": letter.detail,
        "attempts": letter.attempts, "died_at": letter.died_at, "correlation_id": letter.correlation_id})
}

fn value_with_body(letter: &DeadLetter) -> Value {
    let mut value = value(letter);
    value["body"] = String::from_utf8_lossy(&letter.body).into();
    value
}

/// In small transactions. What dies again meanwhile is not taken again: only what died before the command began.
async fn repeat(app: &App, mut filter: Filter, redrive: bool, output: Output) -> anyhow::Result<()> {
    let now = app.clock.now();
    filter.before = Some(filter.before.unwrap_or(now));
    let counted = filter.clone();
    let counting = app.worker_db.read(move |conn| async move { dead_letters::count(conn, &counted).await }.boxed()).await;
    let waiting = counting.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let bar = output.bar(if redrive { "redriving" } else { "purging" }, waiting)?;
    let mut total = 0;
    loop {
        let filter = filter.clone();
        let writing = app.worker_db.write(move |tx| {
            async move {
                match redrive {
                    true => dead_letters::redrive(tx, &filter, now, BATCH).await,
                    false => dead_letters::purge(tx, &filter, BATCH).await,
                }
            }
            .boxed()
        });
        match writing.await.map_err(|error| anyhow::anyhow!(error.chain()))? {
            0 => break,
            count => total += count,
        }
        bar.set_position(total as u64);
    }
    bar.finish_and_clear();
    match redrive {
        true => output.say(|| format!("{total} given to the worker again."), || json!({"redriven": total})),
        false => output.say(|| format!("{total} thrown away."), || json!({"purged": total})),
    }
}
