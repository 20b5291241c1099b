//! How the document describes the headers that make a request repeatable.

use apistos::ApiComponent;
use apistos::paths::{Parameter, ParameterDefinition, ParameterIn};
use apistos::reference_or::ReferenceOr;
use schemars::schema::{InstanceType, Schema, SchemaObject, StringValidation};

use super::idempotency::{Idempotency, KEY_PATTERN};

impl ApiComponent for Idempotency {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        Vec::new()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        None
    }

    fn parameters() -> Vec<Parameter> {
        let header = |name: &str, pattern: Option<&str>, description: &str| {
            let syntax = StringValidation { pattern: pattern.map(str::to_owned), ..StringValidation::default() };
            let schema = SchemaObject {
                instance_type: Some(InstanceType::String.into()),
                string: Some(Box::new(syntax)),
                ..SchemaObject::default()
            };
            Parameter {
                name: name.to_owned(),
                _in: ParameterIn::Header,
                description: Some(description.to_owned()),
                required: Some(false),
                definition: Some(ParameterDefinition::Schema(Box::new(Schema::Object(schema).into()))),
                ..Parameter::default()
            }
        };
        vec![
            header(
                "Idempotency-Key",
                Some(KEY_PATTERN),
                "For 24 hours the same request under it has one effect and gets the same answer; another body is a 422",
            ),
            header("X-Request-ID", None, "The same, but another body under it is another request, and what is no key is ignored"),
        ]
    }
}
