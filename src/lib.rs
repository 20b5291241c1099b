//! The user service of a distributed notification system: the source of truth for people.
//!
//! It answers a REST API for apps and sibling services (accounts, sign-in, preferences, look-ups), and it takes push
//! requests from RabbitMQ, decides whether the user wants and can get them, adds the user's data, and hands them on. One
//! binary plays both parts: `--role api|worker|both`. PostgreSQL holds the truth, Redis a cache that is never needed for
//! it, RabbitMQ is never needed by the API.
//!
//! # Floors
//!
//! Imports go down only; `tests/architecture.rs` holds the source to it.
//!
//! | floor | module | what |
//! |---|---|---|
//! | 8 | [`cli`] | the command line |
//! | 7 | [`role`] | which parts a process runs: [routes](role::api), workers, [supervision](role::supervisor) |
//! | 6 | [`directory`], [`preferences`], [`push_tokens`], [`passwords`], [`sessions`], [`addresses`], [`users`], [`push`], [`admin`] | features |
//! | 5 | [`http`], [`amqp`] | what every REST door, what every AMQP door needs |
//! | 4 | [`access`] | who is calling: a live session, or a service key and its scopes |
//! | 3 | [`card`] | the one cached card of a user, and [mail addresses](card::email_address) |
//! | 2 | [`app`] | what everything shares |
//! | 1 | [`infra`] | the outside world: [pool](infra::db), [cache](infra::cache), [outbox](infra::outbox), … |
//! | 0 | [`config`], [`error`] | the environment; failures and who must act on them |
//!
//! A feature is a folder with at most four kinds of file: `mod.rs` what it does, `store.rs` its SQL, `http.rs` its REST
//! door, `amqp.rs` its AMQP door; an operation that outgrows `mod.rs` has a file of its name, or a folder of the same kind.
//!
//! # Four walks through the code
//!
//! **Registering.** [`users::http::register_user`] parses the body ([`http::extract`]), checks every field
//! ([`users::parse_name`], [`card::email_address`], [`passwords::policy`]), counts the attempt, hashes the password
//! ([`infra::password_hash`]) and only then opens a transaction ([`infra::db::Database::write`]), in which
//! [`users::register`] writes account, credentials, preferences, push token and session, an entry of the
//! [audit log](infra::audit), an [event](infra::events), and the [mail](infra::mailer) that proves the address. If the request
//! brought a key, its answer is stored in the same transaction, for the same request to get again ([`http::idempotency`]). The
//! answer is the [user](http::user_body) with tokens ([`sessions::issue_tokens`]).
//!
//! **Following a mailed link.** The mail's row names a [one-time token](infra::one_time_token)'s row; the [relay](amqp::relay)
//! computes the token as it sends. [`addresses::http`] or the page beside it ([`addresses::pages`]) hands the text to
//! [`addresses::open_link`], which finds the row and checks the HMAC, and then to [`addresses::confirm`], which uses the row up
//! in the transaction of its effect.
//!
//! **Changing preferences.** [`preferences::change`] writes the rows; [`card::changed`] raises the user's version and
//! leaves an [outbox] row in the same commit; after the commit the cached card is forgotten at once, and the
//! [relay](amqp::relay) does it again whatever happened. The cache keeps the forgotten version as a watermark, so that a
//! reader who fetched the old card cannot put it back ([`infra::cache`]).
//!
//! **A push request from queue to queue.** The [consumer loop](amqp::consumer) takes what is waiting as a batch.
//! [`push::amqp`] parses it and looks it up in the inbox: a copy has its outcome already. For the rest [`push::process`]
//! reads every user's card, believed only if its version is the database's ([`card::read_current`]), and asks the pure
//! function [`push::decision::decide`]. Deliveries are [published](amqp::publisher) and their confirms awaited together; skips
//! are announced and dead letters copied by outbox rows; what became of each is filed in the inbox; the transaction is
//! committed; then the messages are acknowledged. What cannot be settled now is held; what we failed on waits in its row, and
//! [dead letters](push::dead_letters) can be decided anew. What was asked in a [trace](infra::trace) stays in it: the place goes from
//! the request, or the message's header, into the outbox row and the delivery.
//!
//! # Deliberately absent
//!
//! A second database dialect, mocks of PostgreSQL, Redis or RabbitMQ, lapin's auto-recovery, repository traits, global
//! state besides logs, traces and metrics. `docs/decisions/` says why.
//!
//! [outbox]: infra::outbox

pub mod access;
pub mod addresses;
pub mod admin;
pub mod amqp;
pub mod app;
pub mod card;
pub mod cli;
pub mod config;
pub mod directory;
pub mod error;
pub mod http;
pub mod infra;
pub mod passwords;
pub mod preferences;
pub mod push;
pub mod push_tokens;
pub mod role;
pub mod sessions;
pub mod users;
