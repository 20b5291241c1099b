//! `user-service doctor`: looks at everything the service needs from where it will run, and says how to mend what is wrong.

use std::time::{Duration, Instant};

use serde_json::json;

use super::output::Output;
use crate::amqp::topology;
use crate::app::App;
use crate::config::{Config, Declare, MailTransport, Role};
use crate::error::Result;
use crate::infra::clock::Clock;
use crate::infra::postgres::Server;
use crate::infra::smtp::Smtp;
use crate::infra::{broker, migrations};

/// What hashing a password should take (OWASP Password Storage Cheat Sheet: as much as the machine can bear, below a second).
const HASH_TIME: std::ops::Range<Duration> = Duration::from_millis(50)..Duration::from_millis(1_000);

const PERMIT: &str = "rabbitmqctl set_permissions -p VHOST USER '.*' '.*' '.*', or narrower with configure, write and read on these names";

/// Tokens are good from when they were made; clocks further apart than this make trouble.
const CLOCKS_APART: chrono::TimeDelta = chrono::TimeDelta::seconds(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    /// It works, and will not when it matters.
    Warning,
    Failure,
}

/// What was looked at, what was found, and what to do about it.
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    mend: String,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failure => "failure",
        }
    }

    /// Green, yellow, red; anstream takes them out where nobody sees colours.
    fn colour(self) -> &'static str {
        match self {
            State::Ok => "\x1b[32m",
            State::Warning => "\x1b[33m",
            State::Failure => "\x1b[1;31m",
        }
    }
}

fn ok(check: &'static str, found: impl Into<String>) -> Finding {
    Finding { check, state: State::Ok, found: found.into(), mend: String::new() }
}

fn warning(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check, state: State::Warning, found: found.into(), mend: mend.into() }
}

fn failure(check: &'static str, found: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check, state: State::Failure, found: found.into(), mend: mend.into() }
}

pub async fn run(role: Role, output: Output) -> anyhow::Result<()> {
    let app = App::new(Config::from_env(role)?, role, Clock::default()).map_err(|error| anyhow::anyhow!(error.chain()))?;
    let mut findings = vec![ok("configuration", "every variable can be read")];
    findings.extend(database(&app).await);
    findings.push(redis(&app).await);
    if role.has_worker() {
        findings.extend(rabbitmq(&app.config.broker).await);
    }
    findings.push(mail(&app, role).await);
    findings.push(hashing(&app).await);
    findings.push(proxy(&app));
    app.close().await;
    tell(&findings, output)?;
    let failures = findings.iter().filter(|finding| finding.state == State::Failure).count();
    if failures == 0 { Ok(()) } else { anyhow::bail!("{failures} of {} checks failed", findings.len()) }
}

fn tell(findings: &[Finding], output: Output) -> anyhow::Result<()> {
    let text = || {
        let mut lines = Vec::new();
        for Finding { check, state, found, mend } in findings {
            lines.push(format!("{}{:<8}\x1b[0m {check:<13} {found}", state.colour(), state.name()));
            if !mend.is_empty() {
                lines.push(format!("{:22} mend: {mend}", ""));
            }
        }
        lines.join("\n")
    };
    let row =
        |Finding { check, state, found, mend }: &Finding| json!({"check": check, "state": state.name(), "found": found, "mend": mend});
    output.say(text, || findings.iter().map(row).collect())
}

async fn database(app: &App) -> Vec<Finding> {
    let Server { version, now, lc_messages } = match app.worker_db.server().await {
        Ok(server) => server,
        Err(error) => {
            let mend = "is PostgreSQL running, and do DATABASE_URL's host, port, user, password and database fit? psql \"$DATABASE_URL\" says more";
            return vec![failure("database", error.chain(), mend)];
        }
    };
    let major: u32 = version.split(['.', ' ']).next().and_then(|major| major.parse().ok()).unwrap_or_default();
    let mut findings = vec![if major >= 15 {
        ok("database", format!("PostgreSQL {version}"))
    } else {
        failure("database", format!("PostgreSQL {version}"), "version 15 or newer is needed")
    }];
    if !["C", "POSIX", "en"].iter().any(|english| lc_messages.starts_with(english)) {
        let mend = "ALTER SYSTEM SET lc_messages = 'C': PostgreSQL's errors are told apart by their English texts";
        findings.push(warning("database", format!("it speaks {lc_messages}"), mend));
    }
    findings.push(match app.worker_db.schema_is_current().await {
        Ok(true) => ok("schema", format!("migration {} is applied", migrations::newest())),
        _ => failure("schema", format!("migration {} is missing", migrations::newest()), "user-service migrate"),
    });
    let apart = (app.clock.now() - now).abs();
    findings.push(if apart <= CLOCKS_APART {
        ok("clock", format!("{} ms from PostgreSQL's", apart.num_milliseconds()))
    } else {
        let mend = "set both machines' clocks by NTP: tokens and throttles are judged by them";
        failure("clock", format!("{} s from PostgreSQL's", apart.num_seconds()), mend)
    });
    findings
}

async fn redis(app: &App) -> Finding {
    let info = match app.cache.info().await {
        Ok(info) => info,
        Err(error) => {
            let mend = "is Redis running, and does REDIS_URL fit? Without it everything works, slower: redis-cli -u \"$REDIS_URL\" ping";
            return warning("redis", error.to_string(), mend);
        }
    };
    let value = |name: &str| info.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or("?").to_owned();
    let (version, policy, limit) = (value("redis_version:"), value("maxmemory_policy:"), value("maxmemory:"));
    if limit != "0" && policy == "noeviction" {
        let mend = "maxmemory-policy allkeys-lru: it is a cache, and a full one refuses writes";
        return warning("redis", format!("Redis {version}, maxmemory {limit} with {policy}"), mend);
    }
    ok("redis", format!("Redis {version}, {policy}"))
}

async fn rabbitmq(config: &crate::config::Broker) -> Vec<Finding> {
    let connection = match broker::connect(config, "doctor").await {
        Ok(connection) => connection,
        Err(error) => {
            let mend = "is RabbitMQ running, and do RABBITMQ_URL's host, user, password and vhost (%2f is /) fit?";
            return vec![failure("rabbitmq", error.chain(), mend)];
        }
    };
    let mut findings = vec![ok("rabbitmq", "connected")];
    for (queue, consumer) in [
        (&config.push_queue, "this service"),
        (&config.deliver_queue, "the push service"),
        (&config.email_queue, "the email service"),
        (&config.failed_queue, ""),
    ] {
        findings.push(match topology::find_queue(&connection, queue).await {
            Ok(Some(counts)) if counts.consumers == 0 && counts.messages > 0 && !consumer.is_empty() => {
                let found = format!("{queue}: {} messages and nobody who consumes them", counts.messages);
                warning("queue", found, format!("start {consumer}"))
            }
            Ok(Some(counts)) => ok("queue", format!("{queue}: {} messages, {} consumers", counts.messages, counts.consumers)),
            Ok(None) if config.declare == Declare::Create => right(queue, "make it", topology::may_make(&connection, queue).await),
            Ok(None) => failure("queue", format!("{queue}: not there"), "declare it, or set RABBITMQ_DECLARE=create"),
            Err(error) => failure("queue", format!("{queue}: {}", error.chain()), PERMIT),
        });
    }
    for exchange in [&config.exchange, &config.dlx_exchange, &config.events_exchange] {
        findings.push(match topology::has_exchange(&connection, exchange).await {
            Ok(true) => right(exchange, "publish to it", topology::may_publish(&connection, exchange).await),
            Ok(false) if config.declare == Declare::Create => ok("rights", format!("{exchange}: not there yet, made at the start")),
            Ok(false) => failure("rights", format!("{exchange}: not there"), "declare it, or set RABBITMQ_DECLARE=create"),
            Err(error) => failure("rights", format!("{exchange}: {}", error.chain()), PERMIT),
        });
    }
    if let Ok(Some(_counts)) = topology::find_queue(&connection, &config.push_queue).await {
        findings.push(right(&config.push_queue, "consume it", topology::may_consume(&connection, &config.push_queue).await));
    }
    broker::close(None, &connection).await;
    findings
}

/// A right on what exists.
fn right(name: &str, what: &str, found: Result<bool>) -> Finding {
    match found {
        Ok(true) => ok("rights", format!("{name}: this user may {what}")),
        Ok(false) => failure("rights", format!("{name}: this user may not {what}"), PERMIT),
        Err(error) => failure("rights", format!("{name}: {}", error.chain()), PERMIT),
    }
}

async fn mail(app: &App, role: Role) -> Finding {
    match &app.config.mail.transport {
        MailTransport::Queue => ok("mail", format!("by the email service, through {}", app.config.broker.email_queue)),
        MailTransport::Log => warning("mail", "into the log", "MAIL_TRANSPORT=queue or smtp, for anything but development"),
        MailTransport::Smtp(_) if !role.has_worker() => ok("mail", "by SMTP; the worker sends them"),
        MailTransport::Smtp(smtp) => {
            let tested = match Smtp::new(smtp) {
                Ok(smtp) => smtp.test().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.chain()),
            };
            match tested {
                Ok(()) => ok("mail", "the SMTP server takes the connection"),
                Err(error) => failure("mail", error, "do SMTP_URL's host, port, user, password and tls fit?"),
            }
        }
    }
}

async fn hashing(app: &App) -> Finding {
    let cost = app.config.identity.bcrypt_cost;
    let begun = Instant::now();
    if let Err(error) = app.hasher.hash("a password to be measured".into()).await {
        return failure("hashing", error.chain(), "");
    }
    let taken = begun.elapsed();
    let found = format!("{} ms a password at BCRYPT_COST={cost}", taken.as_millis());
    if taken < HASH_TIME.start {
        warning("hashing", found, format!("this machine can bear BCRYPT_COST={}: each step doubles the time", cost + 1))
    } else if HASH_TIME.contains(&taken) {
        ok("hashing", found)
    } else {
        warning("hashing", found, "sign-ins will wait for one another: lower BCRYPT_COST, not below 10, or add cores")
    }
}

fn proxy(app: &App) -> Finding {
    let (count, url) = (app.config.http.trusted_proxy_count, &app.config.mail.public_base_url);
    if count == 0 && url.starts_with("https://") {
        let mend = "TRUSTED_PROXY_COUNT=1 if one proxy ends TLS: without it all people share its limits. curl …/health tells in client whom it sees";
        return warning("proxy", format!("nobody is believed about addresses, and people come by {url}"), mend);
    }
    ok("proxy", format!("{count} in front are believed about addresses"))
}
