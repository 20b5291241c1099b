//! Taking over the Django service's accounts: ids, hashes, flags, preferences and tokens. Safe to repeat: who is here
//! already stays as he is.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use anyhow::Context as _;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use futures_util::FutureExt as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::django::{self, DjangoUser};
use super::dump::{self, Row};
use super::store::{self, DjangoTable, ImportedUser};
use crate::app::App;
use crate::error::Result;
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::{passwords, preferences, push_tokens};

/// How many accounts a transaction takes.
const BATCH: usize = 100;

/// Where the Django service's tables are.
#[derive(Debug)]
pub enum Source {
    Database(SecretString),
    /// A dump that `pg_dump` wrote as text.
    Dump(PathBuf),
}

/// What became of the rows.
#[derive(Debug, Default)]
pub struct Report {
    pub found: usize,
    pub imported: usize,
    /// Id or address are here already.
    pub already_here: usize,
    /// Rows that cannot be taken over, and why.
    pub refused: Vec<String>,
    /// Addresses that differ only in case, each with the ids that share it. None of them is taken over: which one is the
    /// person's, only a person can tell.
    pub shared_addresses: Vec<(String, Vec<String>)>,
    /// Accounts whose hash is of a scheme that is not read; they set a new password by mail.
    pub without_password: usize,
    pub staff_in_django: Vec<String>,
    pub staff_granted: Vec<String>,
}

/// Reads the source, and takes over what can be, telling `progress` how many of how many are through. With `dry_run` nothing is
/// written.
pub async fn import(app: &App, source: Source, staff: &[String], dry_run: bool, progress: impl Fn(u64, u64)) -> anyhow::Result<Report> {
    let mut tables = match source {
        Source::Dump(file) => {
            let opened = std::fs::File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
            dump::read(std::io::BufReader::new(opened), &["users", "user_preferences"])?
        }
        Source::Database(url) => read_database(&url).await?,
    };
    let rows = tables.remove("users").context("there is no table users in the source")?;
    let preferences: HashMap<String, Row> = tables
        .remove("user_preferences")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|row| Some((row.get("user_id").or_else(|| row.get("user"))?.clone()?, row)))
        .collect();
    let mut report = Report { found: rows.len(), ..Report::default() };
    let users = judge(app, &rows, &preferences, &mut report);
    report.without_password = users.iter().filter(|user| user.password_hash.is_none()).count();
    let staff: Vec<String> = staff.iter().map(|address| address.to_ascii_lowercase()).collect();
    for address in &staff {
        // Before anything is written: a slip of the pen would leave nobody in charge.
        let found = users.iter().find(|user| user.email.key() == *address);
        let user = found.with_context(|| format!("--staff {address}: no account that is taken over has this address"))?;
        if dry_run {
            report.staff_granted.push(user.email.to_string());
        }
    }
    if dry_run {
        return Ok(report);
    }
    let total = users.len();
    let mut waiting = users.into_iter().peekable();
    while waiting.peek().is_some() {
        let batch: Vec<DjangoUser> = waiting.by_ref().take(BATCH).collect();
        let (staff, now, count) = (staff.clone(), app.clock.now(), batch.len());
        let writing = app.worker_db.write(move |tx| {
            async move {
                let cause = Cause::without_request(Actor::Operator, now);
                let mut outcome = (0, Vec::new());
                for user in batch {
                    let is_staff = staff.contains(&user.email.key());
                    if write(tx, &user, is_staff, &cause).await? {
                        outcome.0 += 1;
                        outcome.1.extend(is_staff.then(|| user.email.to_string()));
                    }
                }
                Ok(outcome)
            }
            .boxed()
        });
        let (imported, granted) = writing.await.map_err(|error| anyhow::anyhow!(error.chain()))?;
        report.imported += imported;
        report.already_here += count - imported;
        report.staff_granted.extend(granted);
        progress((report.imported + report.already_here) as u64, total as u64);
    }
    Ok(report)
}

/// What can be taken over, those who changed last at the end: of two who hold one push token, the later keeps it.
fn judge(app: &App, rows: &[Row], preferences: &HashMap<String, Row>, report: &mut Report) -> Vec<DjangoUser> {
    let mut by_address: BTreeMap<String, Vec<DjangoUser>> = BTreeMap::new();
    for row in rows {
        let own = row.get("id").and_then(|id| preferences.get(id.as_deref()?));
        match django::user(row, own, app.clock.now()) {
            Ok(user) => {
                if django::is_staff(row) {
                    report.staff_in_django.push(user.email.to_string());
                }
                by_address.entry(user.email.key()).or_default().push(user);
            }
            Err(problem) => report.refused.push(problem),
        }
    }
    let mut users = Vec::with_capacity(by_address.len());
    for (address, mut sharing) in by_address {
        if sharing.len() > 1 {
            report.shared_addresses.push((address, sharing.iter().map(|user| user.id.to_string()).collect()));
        } else {
            users.append(&mut sharing);
        }
    }
    users.sort_by_key(|user| user.updated_at);
    users
}

async fn write(tx: &mut Tx, user: &DjangoUser, is_staff: bool, cause: &Cause) -> Result<bool> {
    let imported = ImportedUser {
        id: user.id,
        email: user.email.as_str(),
        email_key: user.email.key(),
        email_verified_at: user.email_verified.then_some(user.updated_at),
        name: &user.name,
        is_active: user.is_active,
        is_staff,
        created_at: user.created_at,
        updated_at: user.updated_at,
        deactivated_at: (!user.is_active).then_some(user.updated_at),
    };
    if !store::insert_imported(tx, imported).await? {
        return Ok(false);
    }
    if let Some(hash) = &user.password_hash {
        passwords::store_hash(tx, user.id, hash, cause.at).await?;
    }
    preferences::store_all(tx, user.id, user.preferences, cause.at).await?;
    if let Some(token) = user.push_token.as_ref().filter(|_| user.is_active) {
        push_tokens::lock(tx, user.id, token).await?;
        push_tokens::set(tx, user.id, token, cause).await?;
    }
    audit::record(tx, cause, Action::Imported, user.id).await?;
    Ok(true)
}

/// Rows as a dump would give them.
async fn read_database(url: &SecretString) -> anyhow::Result<BTreeMap<String, Vec<Row>>> {
    // The address stays out of the error: it may hold a password.
    let connecting = AsyncPgConnection::establish(url.expose_secret()).await;
    let mut conn =
        connecting.map_err(|_error| anyhow::anyhow!("the Django service's database cannot be reached at DJANGO_DATABASE_URL"))?;
    let users = store::list_django_rows(&mut conn, DjangoTable::Users).await.context("cannot read the table users")?;
    // Some kept preferences in a column of users.
    let preferences = store::list_django_rows(&mut conn, DjangoTable::UserPreferences).await.unwrap_or_default();
    let rows = |values: Vec<Value>| values.into_iter().map(row).collect();
    Ok([("users".to_owned(), rows(users)), ("user_preferences".to_owned(), rows(preferences))].into())
}

fn row(value: Value) -> Row {
    let Value::Object(columns) = value else { return Row::new() };
    let text = |value| match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    };
    columns.into_iter().map(|(name, value)| (name, text(value))).collect()
}
