//! `user-service users`: take over the Django service's accounts, hand over what is stored about one, erase one.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use futures_util::FutureExt as _;
use serde_json::{Value, json};

use super::Misused;
use super::output::Output;
use crate::admin::{self, Report, Source};
use crate::app::App;
use crate::card::Card;
use crate::config::{Config, Role};
use crate::infra::clock::Clock;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take over the accounts of the Django service: ids, password hashes, flags, preferences and push tokens
    #[command(after_help = "Safe to repeat: who is here already stays as he is. Nobody is staff without --staff.\n\nExamples:\n  \
        user-service users import --from-django users.sql --dry-run\n  DJANGO_DATABASE_URL=postgres://… user-service users import --from-django")]
    Import {
        /// A dump that pg_dump wrote as text; without one, the database at DJANGO_DATABASE_URL
        #[arg(long, value_name = "DUMP", num_args = 0..=1, required = true)]
        #[expect(clippy::option_option, reason = "absent, without a value, with one: clap's way")]
        from_django: Option<Option<PathBuf>>,
        /// Who is staff here; repeat for more
        #[arg(long = "staff", value_name = "ADDRESS")]
        staff: Vec<String>,
        /// Only tell what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Print everything that is stored about a user, as JSON
    Export {
        /// Id or address
        user: String,
    },
    /// Erase a user for good; the audit trail keeps the id
    Erase {
        /// Id or address
        user: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub async fn run(command: Command, output: Output) -> anyhow::Result<()> {
    let config = Config::from_env(Role::Api)?;
    let django_database = config.django_database_url.clone();
    let app = App::new(config, Role::Api, Clock::default())?;
    let done = match command {
        Command::Import { from_django, staff, dry_run } => {
            let source = match (from_django.flatten(), django_database) {
                (Some(dump), _) => Source::Dump(dump),
                (None, Some(url)) => Source::Database(url),
                (None, None) => bail!(Misused("name a dump, or set DJANGO_DATABASE_URL")),
            };
            let bar = output.bar("importing", 0)?;
            let report = admin::import(&app, source, &staff, dry_run, |done, total| {
                bar.set_length(total);
                bar.set_position(done);
            });
            let report = report.await?;
            bar.finish_and_clear();
            output.say(|| told(&report, dry_run), || value(&report, dry_run))
        }
        Command::Export { user } => export(&app, &user).await,
        Command::Erase { user, yes } => erase(&app, &user, yes, output).await,
    };
    app.close().await;
    done
}

async fn export(app: &App, name: &str) -> anyhow::Result<()> {
    let (user_id, now) = (find(app, name).await?.user_id, app.clock.now());
    let everything = app.worker_db.patient().write(move |tx| admin::export(tx, user_id, now).boxed()).await;
    let everything = everything.map_err(|error| anyhow::anyhow!(error.chain()))?;
    Output { json: true }.say(String::new, || everything)
}

async fn erase(app: &App, name: &str, yes: bool, output: Output) -> anyhow::Result<()> {
    let user = find(app, name).await?;
    if !yes {
        confirm(&user.email)?;
    }
    let (user_id, now) = (user.user_id, app.clock.now());
    let erased = app.worker_db.patient().write(move |tx| admin::erase(tx, user_id, now).boxed()).await;
    let erased = erased.map_err(|error| anyhow::anyhow!(error.chain()))?;
    let text = || if erased { format!("Erased {user_id}.") } else { format!("{user_id} was erased before.") };
    output.say(text, || json!({"user_id": user_id, "erased": erased}))
}

async fn find(app: &App, name: &str) -> anyhow::Result<Card> {
    let name = name.to_owned();
    let found = app.worker_db.read(move |conn| async move { admin::find(conn, &name).await }.boxed()).await;
    found.map_err(|error| anyhow::anyhow!(error.chain()))
}

fn confirm(address: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!(Misused("this cannot be undone: say --yes"));
    }
    write!(std::io::stderr(), "This cannot be undone. Type {address} to erase this person: ")?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed).context("cannot read the answer")?;
    if typed.trim() == address { Ok(()) } else { bail!("that is another address; nothing was done") }
}

fn kept_out(report: &Report) -> usize {
    report.refused.len() + report.shared_addresses.iter().map(|(_, ids)| ids.len()).sum::<usize>()
}

fn told(report: &Report, dry_run: bool) -> String {
    let Report { found, imported, already_here, .. } = report;
    let kept_out = kept_out(report);
    let mut lines = vec![match dry_run {
        true => format!("{found} found; {} could be taken over, {kept_out} not", found - kept_out),
        false => format!("{found} found; {imported} taken over, {already_here} were here already, {kept_out} kept out"),
    }];
    if report.without_password > 0 {
        lines.push(format!("{} have a password that cannot be read here; they set a new one by mail", report.without_password));
    }
    lines.extend(report.refused.iter().map(|problem| format!("kept out: {problem}")));
    lines.extend(report.shared_addresses.iter().map(|(address, ids)| {
        format!("kept out: {} accounts differ only in the case of {address}: {}; rename all but one, and repeat", ids.len(), ids.join(", "))
    }));
    if !report.staff_in_django.is_empty() {
        lines.push(format!("staff in Django, and not here without --staff: {}", report.staff_in_django.join(", ")));
    }
    if !report.staff_granted.is_empty() {
        lines.push(format!("staff {}: {}", if dry_run { "would be" } else { "now" }, report.staff_granted.join(", ")));
    }
    lines.join("\n")
}

fn value(report: &Report, dry_run: bool) -> Value {
    let shared = |(address, ids): &(String, Vec<String>)| json!({"email": address, "ids": ids});
    json!({"dry_run": dry_run, "found": report.found, "imported": report.imported, "already_here": report.already_here,
        "kept_out": kept_out(report), "refused": report.refused,
        "shared_addresses": report.shared_addresses.iter().map(shared).collect::<Vec<_>>(),
        "without_password": report.without_password, "staff_in_django": report.staff_in_django, "staff_granted": report.staff_granted})
}
