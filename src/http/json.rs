//! Strict JSON, whose mistakes name the field.

use apistos::ApiComponent;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Code, Error, Problems, Result};

const IS_REQUIRED: &str = "is required";

/// Parses a wire type; syntax is [`Code::MalformedJson`], the rest names its field.
pub fn parse<T: DeserializeOwned + ApiComponent>(bytes: &[u8]) -> Result<T> {
    if bytes.is_empty() {
        return Err(Error::new(Code::MalformedJson, "The body is empty; send a JSON object."));
    }
    if bytes.contains(&0) || contains_escaped_nul(bytes) {
        return Err(Error::new(Code::MalformedJson, "The body contains a NUL character."));
    }
    // Types are never deserialised from arrays, although serde would take a struct's fields by position.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Error::new(Code::MalformedJson, "The body is an array; send a JSON object."));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data => data_error::<T>(bytes, &path, &error),
            _ => syntax_error(error),
        }
    })?;
    deserializer.end().map_err(syntax_error)?;
    Ok(value)
}

/// `\u0000` in a string: PostgreSQL's text cannot hold it.
fn contains_escaped_nul(bytes: &[u8]) -> bool {
    let mut backslashes = 0;
    bytes.iter().enumerate().any(|(at, byte)| {
        let escaped = backslashes % 2 == 1;
        backslashes = if *byte == b'\\' { backslashes + 1 } else { 0 };
        escaped && *byte == b'u' && bytes.get(at + 1..at + 5) == Some(b"0000")
    })
}

fn syntax_error(error: serde_json::Error) -> Error {
    Error::new(Code::MalformedJson, format!("The body is not JSON (line {}, column {}).", error.line(), error.column())).with_source(error)
}

/// The mistake that serde found, and with it every field that is missing: whoever corrects one would rather hear of all.
fn data_error<T: ApiComponent>(bytes: &[u8], path: &str, error: &serde_json::Error) -> Error {
    let Some((field, problem)) = mistake(path, error) else { return Error::new(Code::MalformedJson, "Send a JSON object.") };
    let mut problems = Problems::default();
    for name in missing::<T>(bytes).into_iter().filter(|name| *name != field) {
        problems.add(name, IS_REQUIRED);
    }
    problems.add(field, problem);
    problems.into_error()
}

/// serde tells a missing or repeated field in words and puts its name between backticks; the path ends at its parent. `None`:
/// it is no object.
fn mistake(path: &str, error: &serde_json::Error) -> Option<(String, String)> {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let quoted = text.split('`').nth(1).unwrap_or_default();
    let child = |name: &str| if path == "." || path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if text.starts_with("missing field") {
        return Some((child(quoted), IS_REQUIRED.to_owned()));
    }
    if text.starts_with("duplicate field") {
        return Some((child(quoted), "is given twice".to_owned()));
    }
    if text.starts_with("unknown field") {
        let field = if path.rsplit('.').next() == Some(quoted) { path.to_owned() } else { child(quoted) };
        return Some((field, "is not a field here".to_owned()));
    }
    if path == "." || path.is_empty() {
        return None;
    }
    // "invalid type: integer `1`, expected a string": the value stays out, it may be a secret.
    let expected = text.rsplit("expected ").next().filter(|_| text.contains("expected ")).unwrap_or("another value");
    Some((path.to_owned(), format!("must be {expected}")))
}

/// Required fields of the type that the object lacks.
fn missing<T: ApiComponent>(bytes: &[u8]) -> Vec<String> {
    let given: serde_json::Map<String, Value> = serde_json::from_slice(bytes).unwrap_or_default();
    let schema = T::schema().and_then(|(_name, schema)| schema.get_object()).and_then(|schema| schema.into_object().object);
    let required = schema.map(|object| object.required).unwrap_or_default();
    required.into_iter().filter(|name| !given.contains_key(name)).collect()
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing matters")]
    struct Wire {
        name: String,
        nested: Option<Nested>,
    }

    #[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing matters")]
    struct Nested {
        push: bool,
    }

    fn refused(body: &str) -> (Code, String) {
        let error = parse::<Wire>(body.as_bytes()).unwrap_err();
        let field = error.fields.iter().next().map(|(name, problems)| format!("{name} {}", problems[0])).unwrap_or_default();
        (error.code, field)
    }

    #[test]
    fn mistakes_name_their_field() {
        for (body, field) in [
            ("{}", "name is required"),
            (r#"{"name":1}"#, "name must be a string"),
            (r#"{"name":"a","name":"b"}"#, "name is given twice"),
            (r#"{"name":"a","nmae":"b"}"#, "nmae is not a field here"),
            (r#"{"name":"a","nested":{"push":"true"}}"#, "nested.push must be a boolean"),
            (r#"{"name":"a","nested":{}}"#, "nested.push is required"),
            (r#"{"name":"a","nested":{"push":true,"pull":1}}"#, "nested.pull is not a field here"),
        ] {
            assert_eq!(refused(body), (Code::ValidationFailed, field.to_owned()), "{body}");
        }
    }

    #[test]
    fn every_missing_field_is_named() {
        #[derive(Debug, Deserialize, JsonSchema, ApiComponent)]
        #[expect(dead_code, reason = "only its parsing matters")]
        struct Three {
            one: String,
            two: String,
            three: Option<String>,
            four: String,
        }
        let named = |body: &str| parse::<Three>(body.as_bytes()).unwrap_err().fields.into_keys().collect::<Vec<_>>();
        assert_eq!(named("{}"), ["four", "one", "two"]);
        assert_eq!(named(r#"{"two":1}"#), ["four", "one", "two"]);
        assert_eq!(named(r#"{"one":"1","two":"2"}"#), ["four"]);
    }

    #[test]
    fn what_is_no_json_object_is_malformed() {
        let deep = "[".repeat(10_000);
        for body in [
            "",
            "null",
            "1",
            "\"x\"",
            "[]",
            "[\"a\",null]",
            "{",
            "{\"name\":\"a\",}",
            "{\"name\":\"a\"} x",
            "\u{feff}{\"name\":\"a\"}",
            "{\"name\":NaN}",
            "{\"name\":\"\\ud800\"}",
            "{\"name\":\"a\\u0000\"}",
            &deep,
        ] {
            assert_eq!(refused(body).0, Code::MalformedJson, "{body}");
        }
        assert!(parse::<Wire>(br#"{"name":"\\u0000 is text"}"#).is_ok());
        assert_eq!(parse::<Wire>(b"{\"name\":\"\xff\"}").unwrap_err().code, Code::MalformedJson);
    }

    #[test]
    fn values_stay_out_of_messages() {
        let error = parse::<Wire>(br#"{"name":{"secret":"hunter2"}}"#).unwrap_err();
        assert!(!format!("{:?}", error.fields).contains("hunter2"));
    }
}
