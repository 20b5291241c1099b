//! Links that work once: for one purpose, one user and one address, within their time.
//!
//! A token is an HMAC under a server key over its row (purpose, id, user, address), written as the mail is sent. A dump of
//! the database mints none, and what is made for one purpose proves nothing for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::keys::{Key, ServerKeys};
use super::schema::one_time_tokens;

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    EmailVerification,
    PasswordReset,
    EmailChange,
    /// A second factor for the operators' pages.
    TotpEnrolment,
}

impl Purpose {
    const ALL: [Purpose; 4] = [Purpose::EmailVerification, Purpose::PasswordReset, Purpose::EmailChange, Purpose::TotpEnrolment];

    pub fn as_str(self) -> &'static str {
        match self {
            Purpose::EmailVerification => "email_verification",
            Purpose::PasswordReset => "password_reset",
            Purpose::EmailChange => "email_change",
            Purpose::TotpEnrolment => "totp_enrolment",
        }
    }

    /// RELIABILITY's parameters: a day to find a mail, half an hour for what opens an account.
    pub fn lifetime(self) -> TimeDelta {
        match self {
            Purpose::EmailVerification | Purpose::EmailChange => TimeDelta::hours(24),
            Purpose::PasswordReset => TimeDelta::minutes(30),
            Purpose::TotpEnrolment => TimeDelta::hours(1),
        }
    }

    /// How many of a user may live at once; a further one makes the oldest void.
    fn live(self) -> i64 {
        match self {
            Purpose::EmailVerification | Purpose::PasswordReset => 3,
            Purpose::EmailChange | Purpose::TotpEnrolment => 1,
        }
    }
}

/// A token's row.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = one_time_tokens)]
pub struct Token {
    pub id: Uuid,
    purpose: String,
    pub user_id: Uuid,
    pub address: String,
    pub expires_at: DateTime<Utc>,
    used_at: Option<DateTime<Utc>>,
}

#[derive(Insertable)]
#[diesel(table_name = one_time_tokens)]
struct NewToken<'a> {
    id: Uuid,
    purpose: &'static str,
    user_id: Uuid,
    address: &'a str,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
}

impl Token {
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.used_at.is_none() && now < self.expires_at
    }

    /// The text that goes into the link.
    pub fn seal(&self, keys: &ServerKeys) -> String {
        let tag = self.key(keys).authenticate(&self.parts());
        format!("v1.{}.{}", URL_SAFE_NO_PAD.encode(self.id), URL_SAFE_NO_PAD.encode(tag))
    }

    fn key(&self, keys: &ServerKeys) -> Key {
        keys.derive("one-time-token", self.purpose.as_bytes())
    }

    fn parts(&self) -> [&[u8]; 4] {
        [self.purpose.as_bytes(), self.id.as_bytes(), self.user_id.as_bytes(), self.address.as_bytes()]
    }
}

/// Makes a token in the caller's transaction, and the oldest beyond the number that may live void; returns its id.
pub async fn insert(conn: &mut AsyncPgConnection, purpose: Purpose, user_id: Uuid, address: &str, now: DateTime<Utc>) -> QueryResult<Uuid> {
    let id = Uuid::now_v7();
    let expires_at = now + purpose.lifetime();
    let token = NewToken { id, purpose: purpose.as_str(), user_id, address, created_at: now, expires_at };
    diesel::insert_into(one_time_tokens::table).values(token).execute(conn).await?;
    let live = live(user_id, purpose).order((one_time_tokens::created_at.desc(), one_time_tokens::id.desc()));
    let beyond = live.offset(purpose.live()).select(one_time_tokens::id).load::<Uuid>(conn).await?;
    diesel::update(one_time_tokens::table.filter(one_time_tokens::id.eq_any(beyond)))
        .set(one_time_tokens::used_at.eq(now))
        .execute(conn)
        .await?;
    Ok(id)
}

#[diesel::dsl::auto_type]
fn live(user_id: Uuid, purpose: Purpose) -> _ {
    let purpose: &'static str = purpose.as_str();
    one_time_tokens::table
        .filter(one_time_tokens::user_id.eq(user_id))
        .filter(one_time_tokens::purpose.eq(purpose))
        .filter(one_time_tokens::used_at.is_null())
}

/// Whether a link of this purpose is out that still works.
pub async fn exists_live(conn: &mut AsyncPgConnection, user_id: Uuid, purpose: Purpose, now: DateTime<Utc>) -> QueryResult<bool> {
    diesel::select(diesel::dsl::exists(live(user_id, purpose).filter(one_time_tokens::expires_at.gt(now)))).get_result(conn).await
}

/// The live token that a text is, of one of these purposes; forged, expired and used ones are all none.
pub async fn find(
    conn: &mut AsyncPgConnection,
    keys: &ServerKeys,
    text: &str,
    purposes: &[Purpose],
    now: DateTime<Utc>,
) -> QueryResult<Option<Token>> {
    let Some((id, tag)) = parse(text) else { return Ok(None) };
    let Some(token) = list(conn, &[id]).await?.pop() else { return Ok(None) };
    let genuine = token.key(keys).verify(&token.parts(), &tag);
    let wanted = purposes.iter().any(|purpose| purpose.as_str() == token.purpose);
    Ok((genuine && wanted && token.is_live(now)).then_some(token))
}

/// The rows of tokens, in no order.
pub async fn list(conn: &mut AsyncPgConnection, ids: &[Uuid]) -> QueryResult<Vec<Token>> {
    one_time_tokens::table.filter(one_time_tokens::id.eq_any(ids)).select(Token::as_select()).load(conn).await
}

/// Uses a token: of any number at once exactly one gets `true`.
pub async fn update_used(conn: &mut AsyncPgConnection, id: Uuid, now: DateTime<Utc>) -> QueryResult<bool> {
    let live = one_time_tokens::table.find(id).filter(one_time_tokens::used_at.is_null()).filter(one_time_tokens::expires_at.gt(now));
    Ok(diesel::update(live).set(one_time_tokens::used_at.eq(now)).execute(conn).await? == 1)
}

/// Makes every live token of a user void, of these purposes.
pub async fn update_void(conn: &mut AsyncPgConnection, user_id: Uuid, purposes: &[Purpose], now: DateTime<Utc>) -> QueryResult<usize> {
    let purposes: Vec<_> = purposes.iter().map(|purpose| purpose.as_str()).collect();
    let live = one_time_tokens::table
        .filter(one_time_tokens::user_id.eq(user_id))
        .filter(one_time_tokens::purpose.eq_any(purposes))
        .filter(one_time_tokens::used_at.is_null());
    diesel::update(live).set(one_time_tokens::used_at.eq(now)).execute(conn).await
}

/// Deletes tokens that expired longer than a week ago, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut AsyncPgConnection, now: DateTime<Utc>, limit: i64) -> QueryResult<usize> {
    let old = one_time_tokens::table.filter(one_time_tokens::expires_at.lt(now - TimeDelta::days(7)));
    let ids = old.select(one_time_tokens::id).limit(limit).load::<Uuid>(conn).await?;
    diesel::delete(one_time_tokens::table.filter(one_time_tokens::id.eq_any(ids))).execute(conn).await
}

/// What a token is good for, if its form is that of one. It proves nothing.
pub fn parse(text: &str) -> Option<(Uuid, [u8; 32])> {
    let (id, tag) = text.strip_prefix("v1.")?.split_once('.')?;
    // The decoder refuses bits beyond the last byte, so that one token has one spelling.
    let id = Uuid::from_slice(&URL_SAFE_NO_PAD.decode(id).ok()?).ok()?;
    Some((id, URL_SAFE_NO_PAD.decode(tag).ok()?.try_into().ok()?))
}

impl Token {
    pub fn purpose(&self) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == self.purpose)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(purpose: Purpose) -> Token {
        Token {
            id: Uuid::from_u128(7),
            purpose: purpose.as_str().to_owned(),
            user_id: Uuid::from_u128(1),
            address: "ada@example.com".into(),
            expires_at: DateTime::UNIX_EPOCH,
            used_at: None,
        }
    }

    #[test]
    fn a_token_is_its_purpose_user_and_address() {
        let keys = ServerKeys::new(b"a root secret of at least 32 bytes", None);
        let sealed = token(Purpose::PasswordReset).seal(&keys);
        let (id, tag) = parse(&sealed).unwrap();
        assert_eq!(id, Uuid::from_u128(7));
        let fits = |token: Token| token.key(&keys).verify(&token.parts(), &tag);
        assert!(fits(token(Purpose::PasswordReset)));
        assert!(!fits(token(Purpose::EmailVerification)));
        assert!(!fits(Token { address: "eve@example.com".into(), ..token(Purpose::PasswordReset) }));
        assert!(!fits(Token { user_id: Uuid::from_u128(2), ..token(Purpose::PasswordReset) }));
    }

    #[test]
    fn only_the_exact_spelling_is_one() {
        let sealed = token(Purpose::PasswordReset).seal(&ServerKeys::new(b"a root secret of at least 32 bytes", None));
        assert!(parse(&sealed).is_some());
        for wrong in [
            "",
            "v1",
            "v1..",
            &sealed[1..],
            &sealed[..sealed.len() - 1],
            &format!("{sealed}A"),
            &format!(" {sealed}"),
            &format!("{sealed}="),
            &sealed.to_uppercase(),
            &sealed.replace('.', "%2E"),
        ] {
            assert!(parse(wrong).is_none(), "{wrong}");
        }
    }
}
