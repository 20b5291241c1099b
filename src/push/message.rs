//! A push request as it stands on the queue: read tolerantly, because no two teams agree.
//!
//! What cannot be understood dies with a reason and the names of the fields at fault, never their values.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::PushRequest;
use crate::amqp::disposition::{Dead, DeadReason};
use crate::amqp::message::Incoming;
use crate::infra::unique_json::UniqueJson;

/// The largest body that is read, and the largest that is handed on.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// We vouch for these, so a producer's are never carried through.
const VOUCHED_FOR: [&str; 9] =
    ["push_token", "push_tokens", "device_token", "device_tokens", "recipient", "user", "user_data", "delivery", "to"];

/// Reads a message.
pub fn parse(message: &Incoming) -> Result<PushRequest, Dead> {
    check_properties(message)?;
    let mut fields = unwrap(&message.body)?;
    check_type(&fields)?;
    let user_id = user_id(&fields)?;
    let notification_id = notification_id(&fields, message)?;
    let priority = priority(&fields)?;
    let expires_at = expires_at(&fields)?;
    check_content(&mut fields)?;
    for name in VOUCHED_FOR {
        fields.remove(name);
    }
    fields.insert("notification_type".to_owned(), "push".into());
    fields.insert("notification_id".to_owned(), notification_id.clone().into());
    fields.insert("user_id".to_owned(), user_id.to_string().into());
    if let Some(priority) = priority {
        fields.insert("priority".to_owned(), priority.into());
    }
    Ok(PushRequest { notification_id, user_id, expires_at, priority, fields })
}

fn violation(detail: impl Into<String>) -> Dead {
    Dead::new(DeadReason::SchemaViolation, detail)
}

fn check_properties(message: &Incoming) -> Result<(), Dead> {
    if message.body.len() > MAX_BODY_BYTES {
        return Err(Dead::new(DeadReason::TooLarge, "the body is larger than 256 KiB"));
    }
    let encoding = message.content_encoding.as_deref().unwrap_or_default().to_ascii_lowercase();
    if !matches!(encoding.as_str(), "" | "identity" | "utf-8" | "utf8") {
        return Err(Dead::new(DeadReason::UnsupportedEncoding, "content_encoding must be absent or utf-8"));
    }
    let essence = message.content_type.as_deref().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !matches!(essence.as_str(), "" | "application/json" | "text/json" | "text/plain" | "application/octet-stream") {
        return Err(Dead::new(DeadReason::UnsupportedType, "content_type must be absent or application/json"));
    }
    // A version we do not know may mean something else by the same names.
    let version = message.kind.as_deref().and_then(|kind| kind.rsplit_once(".v")).map(|(_, version)| version);
    if version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()) && version != "1") {
        return Err(Dead::new(DeadReason::UnsupportedType, "the type property names a version other than v1"));
    }
    Ok(())
}

/// The JSON object, out of NestJS' `{"pattern": …, "data": {…}}` where it is wrapped.
fn unwrap(body: &[u8]) -> Result<Map<String, Value>, Dead> {
    let malformed = |detail: &str| Dead::new(DeadReason::MalformedJson, detail);
    let UniqueJson(value) = serde_json::from_slice(body).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            return violation(format!("a field is given twice, at line {line}, column {column}"));
        }
        malformed(&format!("no JSON at line {line}, column {column}"))
    })?;
    let Value::Object(mut fields) = value else { return Err(malformed("no JSON object")) };
    if fields.contains_key("pattern")
        && let Some(Value::Object(inner)) = fields.get_mut("data")
    {
        return Ok(std::mem::take(inner));
    }
    Ok(fields)
}

/// A field that is absent or `null` is not there.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

fn check_type(fields: &Map<String, Value>) -> Result<(), Dead> {
    for name in ["notification_type", "type"] {
        match field(fields, name) {
            None => {}
            Some(Value::String(kind)) if matches!(kind.to_ascii_lowercase().as_str(), "push" | "push_notification") => {}
            Some(Value::String(_)) => return Err(Dead::new(DeadReason::UnsupportedType, format!("{name} is not push"))),
            Some(_) => return Err(violation(format!("{name} must be a string"))),
        }
    }
    Ok(())
}

fn user_id(fields: &Map<String, Value>) -> Result<Uuid, Dead> {
    let inner = |object: &str, name: &str| field(fields, object).and_then(Value::as_object).and_then(|object| field(object, name));
    let places = [
        ("user_id", field(fields, "user_id")),
        ("metadata.user_id", inner("metadata", "user_id")),
        ("user.id", inner("user", "id")),
        ("recipient_id", field(fields, "recipient_id")),
    ];
    let mut found: Option<(&str, Uuid)> = None;
    for (place, value) in places {
        let Some(value) = value else { continue };
        let id = value.as_str().and_then(|text| Uuid::try_parse(text).ok()).ok_or_else(|| violation(format!("{place} must be a UUID")))?;
        match found {
            Some((first, other)) if other != id => return Err(violation(format!("{first} and {place} name two users"))),
            _ => found = found.or(Some((place, id))),
        }
    }
    found.map(|(_, id)| id).ok_or_else(|| violation("user_id is missing"))
}

fn notification_id(fields: &Map<String, Value>, message: &Incoming) -> Result<String, Dead> {
    let given = ["notification_id", "request_id"].into_iter().find_map(|name| Some((name, field(fields, name)?)));
    let (name, id) = match (given, &message.message_id) {
        (Some((name, Value::String(id))), _) => (name, id.clone()),
        (Some((name, Value::Number(id))), _) if id.is_u64() => (name, id.to_string()),
        (Some((name, _)), _) => return Err(Dead::new(DeadReason::InvalidId, format!("{name} must be a string"))),
        (None, Some(id)) => ("message_id", id.clone()),
        (None, None) => {
            metrics::counter!("push_requests_without_id_total").increment(1);
            return Ok(message.made_up_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string()));
        }
    };
    if (1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Ok(id);
    }
    Err(Dead::new(DeadReason::InvalidId, format!("{name} must be 1 to 255 printable ASCII characters")))
}

fn priority(fields: &Map<String, Value>) -> Result<Option<u8>, Dead> {
    let wrong = || violation("priority must be 0 to 10, or low, normal or high");
    match field(fields, "priority") {
        None => Ok(None),
        Some(Value::Number(number)) => {
            number.as_u64().and_then(|number| u8::try_from(number).ok()).filter(|number| *number <= 10).map(Some).ok_or_else(wrong)
        }
        Some(Value::String(word)) => match word.to_ascii_lowercase().as_str() {
            "low" => Ok(Some(1)),
            "normal" => Ok(Some(5)),
            "high" => Ok(Some(9)),
            _ => Err(wrong()),
        },
        Some(_) => Err(wrong()),
    }
}

fn expires_at(fields: &Map<String, Value>) -> Result<Option<DateTime<Utc>>, Dead> {
    let Some(value) = field(fields, "expires_at") else { return Ok(None) };
    let parsed = value.as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
    parsed.map(|at| Some(at.to_utc())).ok_or_else(|| violation("expires_at must be a time like 2026-01-31T12:00:00Z"))
}

/// A template, or words of its own; and the objects are objects.
fn check_content(fields: &mut Map<String, Value>) -> Result<(), Dead> {
    for name in ["variables", "metadata"] {
        if field(fields, name).is_some_and(|value| !value.is_object()) {
            return Err(violation(format!("{name} must be an object")));
        }
    }
    let template = ["template_code", "template_id"].into_iter().find_map(|name| Some((name, field(fields, name)?.clone())));
    let code = match template {
        Some((_, Value::String(code))) if (1..=255).contains(&code.len()) => code,
        Some((_, Value::Number(code))) if code.is_u64() => code.to_string(),
        Some((name, _)) => return Err(violation(format!("{name} must be a string of 1 to 255 bytes"))),
        None if ["title", "body", "message"].iter().any(|name| field(fields, name).is_some()) => return Ok(()),
        None => return Err(violation("template_code is missing")),
    };
    fields.insert("template_code".to_owned(), code.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const USER: &str = "0190a6c8-7f2e-7c11-9b1a-000000000001";

    fn message(body: &Value) -> Incoming {
        Incoming { body: body.to_string().into_bytes(), ..Incoming::default() }
    }

    fn good(changes: Value) -> Incoming {
        let mut body = json!({"notification_type": "push", "user_id": USER, "template_code": "WELCOME", "request_id": "r-1"});
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        message(&body)
    }

    fn dead(message: &Incoming) -> (DeadReason, String) {
        let dead = parse(message).unwrap_err();
        (dead.reason, dead.detail)
    }

    #[test]
    fn the_contracts_example_is_read() {
        let body = json!({"notification_type":"push","user_id":USER,"template_code":"WELCOME","variables":{"name":"Ada","link":"https://x"},
            "request_id":"r-1","priority":1,"metadata":{}});
        let request = parse(&message(&body)).unwrap();
        assert_eq!((request.notification_id.as_str(), request.user_id.to_string().as_str(), request.priority), ("r-1", USER, Some(1)));
        assert_eq!(request.fields["notification_id"], "r-1");
        assert_eq!(request.fields["variables"]["link"], "https://x");
    }

    #[test]
    fn every_variant_names_the_same_user_template_and_type() {
        for body in [
            json!({"pattern": "push", "data": {"user_id": USER, "template_id": "WELCOME"}}),
            json!({"pattern": {"cmd": "push"}, "data": {"metadata": {"user_id": USER}, "template_code": "WELCOME"}, "id": "x"}),
            json!({"type": "PUSH", "user": {"id": USER}, "template_code": "WELCOME"}),
            json!({"recipient_id": USER.to_uppercase(), "template_code": "WELCOME", "notification_type": null}),
            json!({"user_id": USER, "metadata": {"user_id": USER}, "template_code": "WELCOME"}),
        ] {
            let request = parse(&message(&body)).unwrap();
            assert_eq!(request.user_id.to_string(), USER, "{body}");
            assert_eq!(request.fields["template_code"], "WELCOME", "{body}");
            assert_eq!(request.fields["notification_type"], "push", "{body}");
        }
        assert!(parse(&message(&json!({"user_id": USER, "title": "Hi", "body": "there"}))).is_ok());
    }

    #[test]
    fn the_id_is_the_first_of_three_or_made_up() {
        let with_property = |body: Value| Incoming { message_id: Some("m-1".into()), ..message(&body) };
        let id = |message: &Incoming| parse(message).unwrap().notification_id;
        assert_eq!(
            id(&with_property(json!({"user_id": USER, "template_code": "X", "notification_id": "n-1", "request_id": "r-1"}))),
            "n-1"
        );
        assert_eq!(id(&with_property(json!({"user_id": USER, "template_code": "X", "request_id": "r-1"}))), "r-1");
        assert_eq!(id(&with_property(json!({"user_id": USER, "template_code": "X"}))), "m-1");
        let bare = message(&json!({"user_id": USER, "template_code": "X"}));
        assert_ne!(id(&bare), id(&bare));
    }

    #[test]
    fn what_a_producer_could_forge_is_not_carried_and_the_rest_is() {
        let request = parse(&good(
            json!({"push_token": "evil", "push_tokens": ["evil"], "device_token": "evil", "device_tokens": [], "recipient": "evil",
            "user": {"id": USER, "email": "evil"}, "user_data": {}, "delivery": {}, "to": "evil", "campaign": {"id": 7}}),
        ));
        let fields = request.unwrap().fields;
        for name in VOUCHED_FOR {
            assert!(!fields.contains_key(name), "{name}");
        }
        assert_eq!(fields["campaign"]["id"], 7);
    }

    #[test]
    fn priorities_are_numbers_or_words() {
        for (given, read) in [(json!(0), 0), (json!(10), 10), (json!("low"), 1), (json!("normal"), 5), (json!("HIGH"), 9)] {
            assert_eq!(parse(&good(json!({"priority": given}))).unwrap().priority, Some(read));
        }
    }

    #[test]
    fn what_is_no_push_request_dies_with_a_reason_and_no_value() {
        use DeadReason::*;
        for (changes, reason, detail) in [
            (json!({"user_id": 7}), SchemaViolation, "user_id must be a UUID"),
            (json!({"user_id": "hunter2"}), SchemaViolation, "user_id must be a UUID"),
            (json!({"user_id": null}), SchemaViolation, "user_id is missing"),
            (json!({"recipient_id": Uuid::nil()}), SchemaViolation, "user_id and recipient_id name two users"),
            (json!({"metadata": {"user_id": "hunter2"}}), SchemaViolation, "metadata.user_id must be a UUID"),
            (json!({"notification_type": "email"}), UnsupportedType, "notification_type is not push"),
            (json!({"type": "push.v99"}), UnsupportedType, "type is not push"),
            (json!({"notification_type": 1}), SchemaViolation, "notification_type must be a string"),
            (json!({"template_code": null}), SchemaViolation, "template_code is missing"),
            (json!({"template_code": ["x"]}), SchemaViolation, "template_code must be a string of 1 to 255 bytes"),
            (json!({"variables": "x"}), SchemaViolation, "variables must be an object"),
            (json!({"metadata": []}), SchemaViolation, "metadata must be an object"),
            (json!({"priority": 11}), SchemaViolation, "priority must be 0 to 10, or low, normal or high"),
            (json!({"priority": "urgent"}), SchemaViolation, "priority must be 0 to 10, or low, normal or high"),
            (json!({"priority": 1.5}), SchemaViolation, "priority must be 0 to 10, or low, normal or high"),
            (json!({"expires_at": "tomorrow"}), SchemaViolation, "expires_at must be a time like 2026-01-31T12:00:00Z"),
            (json!({"request_id": ""}), InvalidId, "request_id must be 1 to 255 printable ASCII characters"),
            (json!({"request_id": "é"}), InvalidId, "request_id must be 1 to 255 printable ASCII characters"),
            (json!({"request_id": "x".repeat(256)}), InvalidId, "request_id must be 1 to 255 printable ASCII characters"),
            (json!({"notification_id": {"a": 1}}), InvalidId, "notification_id must be a string"),
        ] {
            assert_eq!(dead(&good(changes.clone())), (reason, detail.to_owned()), "{changes}");
        }
    }

    #[test]
    fn of_two_users_under_one_name_none_is_taken() {
        let (first, second) = (Uuid::now_v7(), Uuid::now_v7());
        for body in [
            format!(r#"{{"user_id":"{first}","user_id":"{second}","template_code":"X"}}"#),
            format!(r#"{{"user_id":"{first}","template_code":"X","variables":{{"a":1,"a":2}}}}"#),
        ] {
            let (reason, detail) = dead(&Incoming { body: body.into_bytes(), ..Incoming::default() });
            assert!(reason == DeadReason::SchemaViolation && detail.starts_with("a field is given twice"), "{detail}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_malformed() {
        let deep = "[".repeat(10_000);
        for body in ["", "x", "null", "[]", "\"push\"", "{", "{\"user_id\":", &deep] {
            let message = Incoming { body: body.as_bytes().to_vec(), ..Incoming::default() };
            assert_eq!(dead(&message).0, DeadReason::MalformedJson, "{body}");
        }
        assert_eq!(dead(&Incoming { body: b"{\"a\":\"\xff\"}".to_vec(), ..Incoming::default() }).0, DeadReason::MalformedJson);
    }

    #[test]
    fn properties_that_say_it_is_something_else_are_believed() {
        let with = |change: fn(&mut Incoming)| {
            let mut message = good(json!({}));
            change(&mut message);
            parse(&message).map_err(|dead| dead.reason)
        };
        assert_eq!(with(|m| m.content_type = Some("application/msgpack".into())), Err(DeadReason::UnsupportedType));
        assert_eq!(with(|m| m.content_encoding = Some("gzip".into())), Err(DeadReason::UnsupportedEncoding));
        assert_eq!(with(|m| m.kind = Some("push.request.v99".into())), Err(DeadReason::UnsupportedType));
        assert_eq!(with(|m| m.body.resize(MAX_BODY_BYTES + 1, b' ')), Err(DeadReason::TooLarge));
        assert!(with(|m| m.kind = Some("push.request.v1".into())).is_ok());
        assert!(with(|m| m.content_type = Some("application/json; charset=utf-8".into())).is_ok());
    }
}
