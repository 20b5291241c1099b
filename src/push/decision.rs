//! Whether a push request is delivered: a pure function, the same behind every door.

use chrono::{DateTime, Utc};

use crate::card::Card;

/// Deliver, or skip for a reason; a skip is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Deliver,
    Skip(SkipReason),
}

/// Why a request is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    UserInactive,
    Expired,
    PushDisabled,
    NoPushToken,
}

impl SkipReason {
    pub fn as_str(self) -> &'static str {
        match self {
            SkipReason::UserInactive => "user_inactive",
            SkipReason::Expired => "expired",
            SkipReason::PushDisabled => "push_disabled",
            SkipReason::NoPushToken => "no_push_token",
        }
    }
}

/// The rules in the order in which they are looked at, each with whether it forbids the delivery.
pub fn rules(card: &Card, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> [(SkipReason, bool); 4] {
    [
        (SkipReason::UserInactive, !card.is_active),
        (SkipReason::Expired, expires_at.is_some_and(|at| at <= now)),
        (SkipReason::PushDisabled, !card.preferences.push),
        (SkipReason::NoPushToken, card.push_token.is_none()),
    ]
}

/// The first rule that forbids it decides.
pub fn decide(card: &Card, expires_at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Decision {
    let forbidden = rules(card, expires_at, now).into_iter().find(|(_, forbids)| *forbids);
    forbidden.map_or(Decision::Deliver, |(reason, _)| Decision::Skip(reason))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::push::tests::card;

    #[test]
    fn each_rule_forbids_alone_and_the_first_gives_the_reason() {
        let now = DateTime::UNIX_EPOCH;
        let good = card();
        assert_eq!(decide(&good, None, now), Decision::Deliver);
        assert_eq!(decide(&good, Some(now + TimeDelta::seconds(1)), now), Decision::Deliver);
        assert_eq!(decide(&good, Some(now), now), Decision::Skip(SkipReason::Expired));
        let mut bad = good.clone();
        bad.push_token = None;
        assert_eq!(decide(&bad, None, now), Decision::Skip(SkipReason::NoPushToken));
        bad.preferences.push = false;
        assert_eq!(decide(&bad, None, now), Decision::Skip(SkipReason::PushDisabled));
        assert_eq!(decide(&bad, Some(now), now), Decision::Skip(SkipReason::Expired));
        bad.is_active = false;
        assert_eq!(decide(&bad, Some(now), now), Decision::Skip(SkipReason::UserInactive));
    }

    #[test]
    fn each_reason_goes_by_the_name_that_the_contract_gives_it() {
        let names = rules(&card(), None, DateTime::UNIX_EPOCH).map(|(reason, _)| reason.as_str());
        assert_eq!(names, ["user_inactive", "expired", "push_disabled", "no_push_token"]);
    }

    #[test]
    fn the_email_preference_says_nothing_about_push() {
        let mut card = card();
        card.preferences.email = false;
        assert_eq!(decide(&card, None, DateTime::UNIX_EPOCH), Decision::Deliver);
    }
}
