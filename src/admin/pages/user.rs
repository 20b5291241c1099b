//! One user, and what can be done about him.

use actix_web::web::Path;
use askama::Template;
use futures_util::FutureExt as _;
use serde::Deserialize;
use uuid::Uuid;

use super::forms::{Empty, OwnForm, Reason};
use super::guard::Admin;
use super::{Ask, Frame, Shown, problem, see_other, show, show_as, when, when_known};
use crate::admin::overview::{self, Whole};
use crate::admin::{AccountAction, act, end_session};
use crate::card::{self, Card};
use crate::error::{Code, Kind, Result};
use crate::http::State;
use crate::http::extract::Query;
use crate::http::origin::Origin;

#[derive(Template)]
#[template(path = "admin/pages/html/user.html")]
struct User {
    frame: Frame,
    whole: Whole,
    actions: Vec<(&'static str, &'static str)>,
    done: &'static str,
}

#[derive(Debug, Deserialize)]
pub struct Done {
    #[serde(default)]
    done: String,
}

pub async fn show_user(app: State, admin: Admin, id: Path<String>, Query(done): Query<Done>) -> Shown {
    let user_id = user_id(&id)?;
    let (email_key, now) = (app.config.broker.email_key.clone(), app.clock.now());
    let reading = app.db.read(move |conn| async move { overview::find_whole(conn, user_id, &email_key, now).await }.boxed());
    let whole = reading.await?;
    let possible = AccountAction::ALL.into_iter().filter(|action| whole.account.erased_at.is_none() && action.fits(&whole.card));
    let done = match AccountAction::parse(&done.done) {
        Some(action) => wording(action).2,
        None if done.done == "session" => "The session has ended.",
        None => "",
    };
    let actions = possible.map(|action| (action.name(), wording(action).0)).collect();
    Ok(show(&User { frame: admin.frame("users"), whole, actions, done }))
}

/// What the link says, what is asked, and what is said when it is done.
fn wording(action: AccountAction) -> (&'static str, &'static str, &'static str) {
    match action {
        AccountAction::Verify => (
            "Verify the address",
            "The address will count as proven, although its owner did not follow the link.",
            "The address is verified.",
        ),
        AccountAction::Deactivate => (
            "Deactivate",
            "Every session ends at once, the push token is retired, and nothing is delivered any more. It can be undone.",
            "The account is deactivated, and its sessions have ended.",
        ),
        AccountAction::Reactivate => ("Reactivate", "The account can be signed in to again.", "The account is active again."),
        AccountAction::ResendVerification => {
            ("Send the verification mail again", "A new link is mailed to the address.", "The mail is on its way.")
        }
        AccountAction::ResetPassword => (
            "Start a password reset",
            "A link to set a new password is mailed to the address. The password stays as it is until it is followed.",
            "The mail is on its way.",
        ),
        AccountAction::GrantStaff => (
            "Grant staff",
            "This person can sign in here, once a second factor is enrolled: print the link with user-service admin reset.",
            "The account is staff now.",
        ),
        AccountAction::WithdrawStaff => {
            ("Withdraw staff", "This person is signed out here, and cannot come back.", "The account is staff no more.")
        }
        AccountAction::EndSessions => ("End all sessions", "Every device is signed out at once.", "All sessions have ended."),
    }
}

fn ask(admin: &Admin, card: &Card, action: AccountAction, problem: String) -> Ask {
    let back = format!("/admin/users/{}", card.user_id);
    Ask {
        frame: admin.frame("users"),
        title: format!("{}: {}", wording(action).0, card.email),
        text: wording(action).1.to_owned(),
        action: format!("{back}/{}", action.name()),
        back,
        fields: Vec::new(),
        needs_reason: action.needs_reason(),
        button: wording(action).0,
        problem,
    }
}

pub async fn ask_action(app: State, admin: Admin, path: Path<(String, String)>) -> Shown {
    let (card, action) = find(&app, &path).await?;
    Ok(show(&ask(&admin, &card, action, String::new())))
}

pub async fn submit_action(
    app: State,
    admin: Admin,
    origin: Origin,
    path: Path<(String, String)>,
    OwnForm(form): OwnForm<Reason>,
) -> Shown {
    let (card, action) = find(&app, &path).await?;
    let (user_id, cause, config) = (card.user_id, origin.of_admin(&admin.session), app.config.clone());
    let done = match form.checked(action.needs_reason()) {
        Ok(reason) => app.db.write(move |tx| async move { act(tx, action, user_id, &reason, &config, &cause).await }.boxed()).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => Ok(see_other(&format!("/admin/users/{user_id}?done={}", action.name()))),
        Err(error) if matches!(error.kind(), Kind::Invalid | Kind::Conflict) => {
            let status = actix_web::ResponseError::status_code(&error);
            Ok(show_as(status, &ask(&admin, &card, action, problem(&error))))
        }
        Err(error) => Err(error.into()),
    }
}

async fn find(app: &State, path: &(String, String)) -> Result<(Card, AccountAction)> {
    let action = AccountAction::parse(&path.1).ok_or(Code::NotFound)?;
    Ok((find_card(app, &path.0).await?, action))
}

async fn find_card(app: &State, id: &str) -> Result<Card> {
    let user_id = user_id(id)?;
    let card = app.db.read(move |conn| async move { card::find(conn, user_id).await }.boxed()).await?;
    card.ok_or_else(|| Code::UserNotFound.into())
}

fn user_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_no_id| Code::UserNotFound.into())
}

fn session_id(text: &str) -> Result<Uuid> {
    Uuid::try_parse(text).map_err(|_no_id| Code::SessionNotFound.into())
}

pub async fn ask_end_session(app: State, admin: Admin, path: Path<(String, String)>) -> Shown {
    let (card, session_id) = (find_card(&app, &path.0).await?, session_id(&path.1)?);
    let back = format!("/admin/users/{}", card.user_id);
    Ok(show(&Ask {
        frame: admin.frame("users"),
        title: format!("End a session: {}", card.email),
        text: "The device is signed out at once; the others stay.".to_owned(),
        action: format!("{back}/sessions/{session_id}"),
        back,
        fields: Vec::new(),
        needs_reason: false,
        button: "End the session",
        problem: String::new(),
    }))
}

pub async fn submit_end_session(
    app: State,
    admin: Admin,
    origin: Origin,
    path: Path<(String, String)>,
    OwnForm(_form): OwnForm<Empty>,
) -> Shown {
    let (user_id, session_id) = (user_id(&path.0)?, session_id(&path.1)?);
    let cause = origin.of_admin(&admin.session);
    app.db.write(move |tx| async move { end_session(tx, user_id, session_id, &cause).await }.boxed()).await?;
    Ok(see_other(&format!("/admin/users/{user_id}?done=session")))
}

/// A push token that can be told from another, and not be used.
fn masked(token: &str) -> String {
    let shown: String = token.chars().take(6).collect();
    format!("{shown}… ({} characters)", token.chars().count())
}
