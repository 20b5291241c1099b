//! The mails that we send ourselves, in plain text: there is no markup to escape, and nothing to load.

use super::mailer::Message;

/// Subject and text.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    pub subject: String,
    pub body: String,
}

/// What a message says.
pub fn of(message: &Message) -> Text {
    let variables = &message.variables;
    let app = variables.app_name.as_str();
    let (subject, paragraphs): (&str, &[&str]) = match message.template_code.as_str() {
        "email_verification" => ("Please confirm your address", &["Please confirm that this is your address:", LINK, UNEXPECTED]),
        "password_reset" => (
            "Set a new password",
            &[
                "Somebody, we hope you, asked to set a new password for your account:",
                LINK,
                "If it was not you, do nothing: your password stays as it is.",
            ],
        ),
        "password_changed" => (
            "Your password was changed",
            &[
                "The password of your account was changed, and every other session was ended.",
                "If it was not you, set a new password at once.",
            ],
        ),
        "email_change" => {
            ("Please confirm your new address", &["Please confirm that your account is to use this address:", LINK, UNEXPECTED])
        }
        "email_change_requested" => (
            "Your address is about to change",
            &[
                "Somebody who knows your password asked to use another address for your account.",
                "If it was not you, change your password at once: that stops it.",
            ],
        ),
        "email_changed" => (
            "Your address was changed",
            &["Your account uses another address now; this one gets no more mails.", "If it was not you, please contact us."],
        ),
        "registration_attempted" => (
            "You have an account already",
            &[
                "Somebody, perhaps you, tried to register with this address, which has an account already.",
                "If you forgot your password, ask for a new one. If it was not you, do nothing.",
            ],
        ),
        "second_factor_failures" => (
            "Wrong codes for your account",
            &[
                "Your password was right, and ten wrong codes in a day were tried after it at the operators' pages.",
                "If that was not you, somebody knows your password: change it now.",
            ],
        ),
        "sign_in_failures" => (
            "Many wrong passwords for your account",
            &[
                "A hundred wrong passwords in a row were tried for your account. It is protected: where you signed in from lately you still can.",
                "If your password is used elsewhere too, please change it.",
            ],
        ),
        _ => ("A message about your account", &[]),
    };
    let mut body = format!("Hello {},\r\n\r\n", variables.name);
    for paragraph in paragraphs {
        match (*paragraph, &variables.link, variables.expires_in_minutes) {
            (LINK, Some(link), Some(minutes)) => {
                body.push_str(&format!("{link}\r\n\r\nThe link works once, within {}.", duration(minutes)))
            }
            (LINK, Some(link), None) => body.push_str(link),
            (text, _, _) => body.push_str(text),
        }
        body.push_str("\r\n\r\n");
    }
    body.push_str(app);
    body.push_str("\r\n");
    Text { subject: format!("{app}: {subject}"), body: with_mail_line_ends(&body) }
}

const LINK: &str = "";
const UNEXPECTED: &str = "If you did not expect this mail, do nothing.";

fn duration(minutes: i64) -> String {
    if minutes % 60 == 0 && minutes >= 120 { format!("{} hours", minutes / 60) } else { format!("{minutes} minutes") }
}

/// Every line ends with CRLF: a bare CR or LF before a dot would end the mail early (RUSTSEC-2026-0561 in lettre 0.11.23).
fn with_mail_line_ends(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn message(code: &str, name: &str) -> Message {
        let nil = uuid::Uuid::nil();
        serde_json::from_value(json!({
            "notification_id": nil, "notification_type": "email", "user_id": nil, "template_code": code,
            "variables": {"name": name, "email": "a@b.c", "link": "https://x/y?token=T", "app_name": "Acme", "expires_in_minutes": 30},
            "request_id": nil, "priority": 5, "created_at": "2026-01-01T00:00:00Z", "metadata": {},
        }))
        .unwrap()
    }

    #[test]
    fn every_template_has_a_text_and_links_where_there_is_one_to_follow() {
        use super::super::mailer::Template as T;
        let all = [
            (T::EmailVerification, true),
            (T::PasswordReset, true),
            (T::PasswordChanged, false),
            (T::EmailChange, true),
            (T::EmailChangeRequested, false),
            (T::EmailChanged, false),
            (T::RegistrationAttempted, false),
            (T::SignInFailures, false),
            (T::SecondFactorFailures, false),
        ];
        for (template, linked) in all {
            let text = of(&message(template.code(), "Ada"));
            assert_ne!(text.subject, "Acme: A message about your account", "{template:?}");
            assert_eq!(text.body.contains("https://x/y?token=T\r\n\r\nThe link works once, within 30 minutes."), linked, "{template:?}");
        }
    }

    #[test]
    fn no_line_ends_but_with_crlf() {
        let body = of(&message("password_changed", "a\n.\nMAIL FROM:<evil>\r.\r\n.\r\n")).body;
        for (at, byte) in body.bytes().enumerate() {
            match byte {
                b'\n' => assert_eq!(body.as_bytes()[at - 1], b'\r'),
                b'\r' => assert_eq!(body.as_bytes()[at + 1], b'\n'),
                _ => {}
            }
        }
    }
}
