//! JSON whose objects name each field once, at any depth: of two values under one name one reader takes the first and another
//! the last, and what was checked is not what is used (RFC 8259, 4).

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Any JSON value without a name that is given twice; the error is serde's own for a struct: ``duplicate field `name` ``.
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueJson(pub Value);

/// An object like that.
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueObject(pub Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(Self)
    }
}

impl<'de> Deserialize<'de> for UniqueObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_map(AnyValue)? {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(D::Error::custom("invalid type: expected an object")),
        }
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(UniqueJson(item)) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
            }
            let UniqueJson(value) = entries.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_each_field_once_is_read_as_it_is() {
        for text in
            ["null", "true", "-7", "18446744073709551615", "1.5", r#""a\u00e9""#, "[1,[],{}]", r#"{"a":{"b":[{"a":1},{"a":2}]},"b":null}"#]
        {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::from_str::<UniqueJson>(text).unwrap().0, expected, "{text}");
        }
        assert!(serde_json::from_str::<UniqueObject>("[]").is_err());
    }

    #[test]
    fn a_name_given_twice_is_refused_wherever_it_stands() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"b":{"a":1,"c":2,"a":3}}"#, r#"[{"a":null,"\u0061":null}]"#] {
            let error = serde_json::from_str::<UniqueJson>(text).unwrap_err();
            assert!(error.is_data() && error.to_string().starts_with("duplicate field `a`"), "{error}");
        }
    }

    #[test]
    fn depth_has_an_end() {
        assert!(serde_json::from_str::<UniqueJson>(&"[".repeat(10_000)).is_err());
    }
}
