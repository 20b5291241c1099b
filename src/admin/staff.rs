//! How operators come in: a password, then a code; and how they get there, by the command line's link.

use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Map;
use tokio::time::Instant;
use uuid::Uuid;

use super::{staff_store as store, totp};
use crate::access::staff::{self, StaffSession, StaffToken};
use crate::app::App;
use crate::card::email_address::EmailAddress;
use crate::card::{self, Card, Preferences};
use crate::config::{Config, Rate};
use crate::error::{Code, Error, Result};
use crate::infra::audit::{self, Action};
use crate::infra::cause::{Actor, Cause};
use crate::infra::db::Tx;
use crate::infra::keys::ServerKeys;
use crate::infra::mailer::{self, Template};
use crate::infra::one_time_token::{self, Purpose, Token};
use crate::infra::{even_time, throttle};
use crate::passwords::{self, Password, Typed};
use crate::users::Registration;
use crate::{addresses, sessions, users};

/// A code has a million values and three are right at a time. Thirty tries a day find one in a thousand within eleven days, and
/// the owner hears of it on the first.
const CODE_LIMIT: Rate = Rate { count: 5, window: Duration::from_secs(300) };
const CODE_LIMIT_A_DAY: Rate = Rate { count: 30, window: DAY };
const DAY: Duration = Duration::from_secs(86_400);
const REFUSALS_TOLD: i64 = 10;

/// How an entry of the audit log tells a sign-in here from one at the API.
const HERE: &str = "operators_pages";

/// Where wrong codes are tallied.
const REFUSALS: &str = "SECOND_FACTOR_REFUSED";

/// Checks address and password as the API does, and opens a session that still lacks its second factor.
///
/// Who is no staff gets the answer of a wrong password.
pub async fn sign_in(app: &App, email: &str, password: &str, before: StaffToken, cause: Cause) -> Result<StaffToken> {
    let arrived = Instant::now();
    let verified = sessions::verify(app, email, Password::typed(password), &cause).await?;
    if !verified.card().is_staff {
        let subject = Some(verified.card().user_id);
        let noting = app.db.write(move |tx| {
            async move { Ok(audit::record_with(tx, &cause, Action::SignInFailed, subject, "not_staff", Map::new()).await?) }.boxed()
        });
        noting.await?;
        even_time::wait(arrived, app.config.identity.even_answer).await;
        return Err(Code::InvalidCredentials.into());
    }
    let cause = cause.by(Actor::Admin(verified.card().user_id));
    let keys = app.keys.clone();
    let writing = app.db.write(move |tx| {
        async move {
            let card = sessions::settle(tx, &keys, verified, &cause).await?;
            audit::record_with(tx, &cause, Action::SignedIn, Some(card.user_id), HERE, Map::new()).await?;
            staff::open(tx, &card, &before, &cause).await
        }
        .boxed()
    });
    writing.await
}

/// Ends this session.
pub async fn sign_out(tx: &mut Tx, session: &StaffSession, token: &StaffToken, cause: &Cause) -> Result<()> {
    staff::end(tx, token).await?;
    Ok(audit::record_with(tx, cause, Action::SignedOut, Some(session.user_id), HERE, Map::new()).await?)
}

/// Checks a code, or a recovery code, and opens the session that has its second factor.
pub async fn prove(app: &App, session: StaffSession, code: &str, before: StaffToken, cause: Cause) -> Result<StaffToken> {
    let (keys, user_id, code) = (app.keys.clone(), session.user_id, code.to_owned());
    let counting = {
        let (keys, at) = (keys.clone(), cause.at);
        let user = user_id.to_string();
        app.db.read(move |conn| {
            async move {
                throttle::count(conn, &keys, "SECOND_FACTOR", &user, Some(CODE_LIMIT), at).await?;
                throttle::count(conn, &keys, "SECOND_FACTOR_DAY", &user, Some(CODE_LIMIT_A_DAY), at).await
            }
            .boxed()
        })
    };
    counting.await?;
    let config = app.config.clone();
    let writing = app.db.write(move |tx| {
        async move {
            let Some(way) = accept(tx, &keys, user_id, &code, &cause).await? else {
                refuse(tx, &keys, user_id, &config, &cause).await?;
                return Ok(None);
            };
            audit::record_with(tx, &cause, Action::SecondFactorAccepted, Some(user_id), way, Map::new()).await?;
            for counted in ["SECOND_FACTOR", "SECOND_FACTOR_DAY", REFUSALS] {
                throttle::delete_count(tx, &keys, counted, &user_id.to_string()).await?;
            }
            let promoted = staff::promote(tx, user_id, &before, &cause).await?;
            promoted.map(Some).ok_or_else(|| Code::Unauthenticated.into())
        }
        .boxed()
    });
    writing.await?.ok_or_else(|| Error::field("code", "is not the one that is due, or was used before"))
}

/// Notes a wrong code; who tries many knows the password, so the owner is told.
async fn refuse(tx: &mut Tx, keys: &ServerKeys, user_id: Uuid, config: &Config, cause: &Cause) -> Result<()> {
    audit::record(tx, cause, Action::SecondFactorRefused, user_id).await?;
    let refusals = throttle::tally(tx, keys, REFUSALS, &user_id.to_string(), DAY, cause.at).await?;
    match card::find(tx, user_id).await? {
        Some(card) if refusals == REFUSALS_TOLD => {
            mailer::notify(tx, Template::SecondFactorFailures, card.recipient(), config, cause).await
        }
        _ => Ok(()),
    }
}

/// Uses the code up, and tells what it was.
async fn accept(tx: &mut Tx, keys: &ServerKeys, user_id: Uuid, code: &str, cause: &Cause) -> Result<Option<&'static str>> {
    let Some(sealed) = store::find_totp(tx, user_id).await? else { return Ok(None) };
    let secret = keys.derive("totp", user_id.as_bytes()).open(&sealed);
    let secret = secret.ok_or_else(|| Error::internal("a second factor was sealed under a secret that is gone: admin reset mends it"))?;
    if let Some(step) = totp::find_step(&secret, code, cause.at.timestamp().unsigned_abs())? {
        return Ok(store::update_step(tx, user_id, step).await?.then_some("code"));
    }
    let (key, code) = (keys.derive("recovery-code", user_id.as_bytes()), totp::normalised(code));
    let unused = store::list_unused_codes(tx, user_id).await?;
    let Some(hmac) = unused.into_iter().find(|hmac| key.verify(&[code.as_bytes()], hmac)) else { return Ok(None) };
    let used = store::update_code_used(tx, user_id, &hmac, cause.at).await?;
    Ok(used.then_some("recovery_code"))
}

/// Somebody staff who holds the command line's link, and the secret that his phone is to have.
pub struct Enrolment {
    token: Token,
    pub user: Card,
    secret: [u8; totp::SECRET_BYTES],
}

impl Enrolment {
    /// The secret to be typed, and its picture as SVG.
    pub fn invitation(&self, issuer: &str) -> Result<(String, String)> {
        totp::invitation(&self.secret, issuer, &self.user.email)
    }
}

/// Whom a link is for; looking at it uses nothing up.
///
/// The secret is made of the link and of the browser that shows it, so that nothing is kept of who only looks, and whoever saw the
/// link before (a terminal's history, a proxy's log) does not have the secret that is enrolled.
pub async fn open_enrolment(app: &App, text: String, browser: &StaffToken, cause: &Cause) -> Result<Enrolment> {
    let token = addresses::open_link(app, text, &[Purpose::TotpEnrolment], cause).await?;
    let user_id = token.user_id;
    let user = app.db.read(move |conn| async move { card::find(conn, user_id).await }.boxed()).await?;
    let user = user.filter(|card| card.is_active && card.is_staff).ok_or(Code::InvalidToken)?;
    let made = app.keys.derive("totp-enrolment", token.id.as_bytes()).authenticate(&[user_id.as_bytes(), browser.text().as_bytes()]);
    let mut secret = [0; totp::SECRET_BYTES];
    secret.copy_from_slice(&made[..totp::SECRET_BYTES]);
    Ok(Enrolment { token, user, secret })
}

/// Takes a second factor on, proven by its first code; returns the recovery codes, which nobody sees again.
pub async fn enrol(app: &App, enrolment: Enrolment, code: &str, cause: Cause) -> Result<Vec<String>> {
    let Enrolment { token, user, secret } = enrolment;
    let step = totp::find_step(&secret, code, cause.at.timestamp().unsigned_abs())?;
    let step = step.ok_or_else(|| Error::field("code", "is not the one that is due; look at the phone's clock"))?;
    let (codes, keys, user_id) = (totp::recovery_codes()?, app.keys.clone(), user.user_id);
    let key = keys.derive("recovery-code", user_id.as_bytes());
    let hmacs: Vec<[u8; 32]> = codes.iter().map(|code| key.authenticate(&[totp::normalised(code).as_bytes()])).collect();
    let sealed = keys.derive("totp", user_id.as_bytes()).seal(&secret)?;
    let cause = cause.by(Actor::Admin(user_id));
    let writing = app.db.write(move |tx| {
        async move {
            card::lock(tx, user_id).await?;
            if !one_time_token::update_used(tx, token.id, cause.at).await? {
                return Err(Code::InvalidToken.into());
            }
            store::delete_second_factor(tx, user_id).await?;
            store::upsert_totp(tx, user_id, &sealed, step, cause.at).await?;
            store::insert_recovery_codes(tx, user_id, &hmacs).await?;
            Ok(audit::record(tx, &cause, Action::SecondFactorEnrolled, user_id).await?)
        }
        .boxed()
    });
    writing.await?;
    Ok(codes)
}

/// Makes an admin with a proven address; returns the link that enrols his second factor.
pub async fn create(app: &App, email: EmailAddress, name: String, password: String) -> Result<String> {
    let password_hash = hash(app, password, vec![name.clone(), email.as_str().to_owned()]).await?;
    let cause = Cause::without_request(Actor::Operator, app.clock.now());
    let preferences = Preferences { email: true, push: true };
    let registration = Registration { name, email: email.clone(), password_hash, push_token: None, preferences };
    let writing = app.worker_db.write(move |tx| {
        async move {
            let Some(card) = users::create(tx, registration, &cause).await? else {
                return Err(Error::field("email", "is an account's already: `user-service admin grant` makes it an admin's"));
            };
            audit::record(tx, &cause, Action::Registered, card.user_id).await?;
            addresses::mark_verified(tx, card.user_id, email.as_str(), &cause).await?;
            super::grant_staff(tx, card.user_id, &cause).await?;
            invite(tx, &card, &cause).await
        }
        .boxed()
    });
    let token = writing.await?;
    Ok(link(app, &token))
}

/// Makes an admin of somebody who has an account; returns the link that enrols his second factor.
pub async fn grant(app: &App, user: Card) -> Result<String> {
    if user.is_staff || !user.is_active {
        let problem = if user.is_staff {
            "is an admin's: `user-service admin reset` prints a new link"
        } else {
            "is of an account that is not active"
        };
        return Err(Error::field("email", problem));
    }
    let cause = Cause::without_request(Actor::Operator, app.clock.now());
    let writing = app.worker_db.write(move |tx| {
        async move {
            super::grant_staff(tx, user.user_id, &cause).await?;
            audit::record(tx, &cause, Action::StaffGranted, user.user_id).await?;
            invite(tx, &user, &cause).await
        }
        .boxed()
    });
    let token = writing.await?;
    Ok(link(app, &token))
}

/// For an admin who lost his phone, or his password as well: ends his sessions, forgets his second factor, sets the
/// password if there is one; returns the link that enrols anew.
pub async fn reset(app: &App, user: Card, password: Option<String>) -> Result<String> {
    if !user.is_staff {
        return Err(Error::field("email", "is no admin's: `user-service admin grant` makes it one's"));
    }
    let new_hash = match password {
        Some(password) => Some(hash(app, password, vec![user.name.clone(), user.email.clone()]).await?),
        None => None,
    };
    let cause = Cause::without_request(Actor::Operator, app.clock.now());
    let config = app.config.clone();
    let writing = app.worker_db.write(move |tx| {
        async move {
            card::lock(tx, user.user_id).await?;
            store::delete_second_factor(tx, user.user_id).await?;
            staff::end_all(tx, user.user_id).await?;
            if let Some(new_hash) = new_hash {
                passwords::set_anew(tx, user.user_id, &new_hash, &cause).await?;
                audit::record(tx, &cause, Action::PasswordReset, user.user_id).await?;
                mailer::notify(tx, Template::PasswordChanged, user.recipient(), &config, &cause).await?;
            }
            audit::record(tx, &cause, Action::SecondFactorReset, user.user_id).await?;
            invite(tx, &user, &cause).await
        }
        .boxed()
    });
    let token = writing.await?;
    Ok(link(app, &token))
}

async fn hash(app: &App, password: String, personal: Vec<String>) -> Result<String> {
    Typed { confirm: password.clone(), password }.hash(&app.hasher, personal).await
}

async fn invite(tx: &mut Tx, card: &Card, cause: &Cause) -> Result<Token> {
    let id = one_time_token::insert(tx, Purpose::TotpEnrolment, card.user_id, &card.email, cause.at).await?;
    one_time_token::list(tx, &[id]).await?.pop().ok_or_else(|| Error::internal("a link vanished inside a transaction"))
}

fn link(app: &App, token: &Token) -> String {
    format!("{}/admin/enrol?token={}", app.config.mail.public_base_url, token.seal(&app.keys))
}
