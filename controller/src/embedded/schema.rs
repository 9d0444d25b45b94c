//! Validation by the custom resource definitions' own schemas. A structural schema is compiled once; then, in the
//! order of a kube-apiserver: unknown fields are dropped, nulls where none may be are dropped, defaults are filled
//! in, and what is left is held to the schema and to its rules.
//!
//! A keyword that this file does not know is an error when the server starts, never a check silently not done.

use regex::Regex;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::rules::Rule;

/// A compiled structural schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(super) form: Form,
    pub(super) nullable: bool,
    pub(super) default: Option<Value>,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Option<Box<Schema>>,
    pub(super) items: Option<Box<Schema>>,
    pub(super) required: Vec<String>,
    pub(super) words: Vec<Value>,
    pub(super) minimum: Option<f64>,
    pub(super) maximum: Option<f64>,
    pub(super) length_min: Option<usize>,
    pub(super) length_max: Option<usize>,
    pub(super) items_min: Option<usize>,
    pub(super) items_max: Option<usize>,
    pub(super) pattern: Option<Regex>,
    pub(super) date_time: bool,
    pub(super) keep_unknown: bool,
    pub(super) rules: Vec<Rule>,
}

/// What JSON a value must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Form {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Object, "object"),
        (Self::Array, "array"),
        (Self::String, "string"),
        (Self::Integer, "integer"),
        (Self::Number, "number"),
        (Self::Boolean, "boolean"),
    ];

    fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == word)
            .map(|(form, _)| *form)
    }

    pub(super) fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(form, _)| *form == self)
            .map_or("any", |(_, name)| name)
    }

    pub(super) fn fits(self, value: &Value) -> bool {
        match self {
            Self::Any => true,
            Self::Object => value.is_object(),
            Self::Array => value.is_array(),
            Self::String => value.is_string(),
            Self::Integer => {
                value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
            }
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

/// A schema that this server cannot hold objects to.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("schema at {path:?}: {what}")]
pub(crate) struct BadSchema {
    /// Where.
    pub(crate) path: String,
    /// What about it.
    pub(crate) what: String,
}

impl Schema {
    /// Compiles `openAPIV3Schema`.
    pub(crate) fn compile(source: &Value) -> Result<Self, BadSchema> {
        Self::compile_at(source, "")
    }

    fn compile_at(source: &Value, path: &str) -> Result<Self, BadSchema> {
        let bad = |what: String| BadSchema {
            path: path.to_owned(),
            what,
        };
        let Value::Object(keywords) = source else {
            return Err(bad("is no object".to_owned()));
        };
        let mut schema = Self::default();
        for (keyword, value) in keywords {
            schema
                .keyword(keyword, value, path)?
                .ok_or_else(|| bad(format!("keyword {keyword}: {value} is not understood")))?;
        }
        Ok(schema)
    }

    /// Takes in one keyword; `None` when its value, or the keyword itself, is not understood.
    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        path: &str,
    ) -> Result<Option<()>, BadSchema> {
        let count = || value.as_u64().and_then(|n| usize::try_from(n).ok());
        let understood = match keyword {
            "description" | "title" => Some(()),
            "type" => value
                .as_str()
                .and_then(Form::parse)
                .map(|form| self.form = form),
            "format" => value
                .as_str()
                .map(|format| self.date_time = format == "date-time"),
            "nullable" => value.as_bool().map(|nullable| self.nullable = nullable),
            "default" => {
                self.default = Some(value.clone());
                Some(())
            }
            "enum" => value.as_array().map(|words| self.words.clone_from(words)),
            "minimum" => value.as_f64().map(|bound| self.minimum = Some(bound)),
            "maximum" => value.as_f64().map(|bound| self.maximum = Some(bound)),
            "minLength" => count().map(|bound| self.length_min = Some(bound)),
            "maxLength" => count().map(|bound| self.length_max = Some(bound)),
            "minItems" => count().map(|bound| self.items_min = Some(bound)),
            "maxItems" => count().map(|bound| self.items_max = Some(bound)),
            "pattern" => value
                .as_str()
                .and_then(|text| Regex::new(text).ok())
                .map(|pattern| self.pattern = Some(pattern)),
            "required" => value.as_array().and_then(|names| {
                self.required = names
                    .iter()
                    .map(|name| name.as_str().map(str::to_owned))
                    .collect::<Option<_>>()?;
                Some(())
            }),
            "x-kubernetes-preserve-unknown-fields" => {
                value.as_bool().map(|keep| self.keep_unknown = keep)
            }
            "x-kubernetes-validations" => {
                self.rules = Rule::compile_all(value).map_err(|what| BadSchema {
                    path: path.to_owned(),
                    what,
                })?;
                Some(())
            }
            "properties" | "additionalProperties" | "items" => {
                self.children(keyword, value, path)?
            }
            _ => None,
        };
        Ok(understood)
    }

    fn children(
        &mut self,
        keyword: &str,
        value: &Value,
        path: &str,
    ) -> Result<Option<()>, BadSchema> {
        match (keyword, value) {
            ("properties", Value::Object(properties)) => {
                for (name, source) in properties {
                    let child = Self::compile_at(source, &join(path, name))?;
                    self.properties.insert(name.clone(), child);
                }
            }
            ("items", Value::Object(_)) => {
                self.items = Some(Box::new(Self::compile_at(value, &format!("{path}[]"))?));
            }
            ("additionalProperties", Value::Object(_)) => {
                let child = Self::compile_at(value, &join(path, "*"))?;
                self.additional = Some(Box::new(child));
            }
            ("additionalProperties", Value::Bool(true)) => self.keep_unknown = true,
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    /// The schema of the property at a path, to check that what selectors and columns name exists.
    #[cfg(test)]
    pub(crate) fn property(&self, path: &[String]) -> Option<&Self> {
        path.iter()
            .try_fold(self, |schema, name| schema.properties.get(name))
    }

    /// Drops what the schema does not know and nulls where none may be; names the unknown in `dropped`.
    pub(crate) fn prune(&self, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
        match value {
            Value::Object(object) => self.prune_object(object, path, dropped),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        schema.prune(item, &format!("{path}[{index}]"), dropped);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    fn prune_object(&self, object: &mut Map<String, Value>, path: &str, dropped: &mut Vec<String>) {
        object.retain(|name, child| {
            let at = join(path, name);
            let Some(schema) = self.child(name) else {
                if !self.keep_unknown {
                    dropped.push(at);
                }
                return self.keep_unknown;
            };
            if child.is_null() && !schema.nullable {
                return false;
            }
            schema.prune(child, &at, dropped);
            true
        });
    }

    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    /// Fills in defaults.
    pub(crate) fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(object) => {
                for (name, schema) in &self.properties {
                    if let (false, Some(default)) = (object.contains_key(name), &schema.default) {
                        object.insert(name.clone(), default.clone());
                    }
                }
                for (name, child) in object.iter_mut() {
                    if let Some(schema) = self.child(name) {
                        schema.fill(child);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.fill(item));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn schema() -> Schema {
        Schema::compile(&json!({
            "type": "object",
            "required": ["spec"],
            "properties": {
                "spec": {
                    "type": "object",
                    "required": ["node"],
                    "properties": {
                        "node": {"type": "string", "minLength": 1},
                        "tier": {"type": "string", "enum": ["Hot", "Cold"], "default": "Hot"},
                        "bytes": {"type": "integer", "format": "uint64", "minimum": 0},
                        "gate": {"type": "object", "nullable": true, "properties": {"a": {"type": "integer"}}},
                        "erase": {"type": "object", "default": {}, "properties": {
                            "method": {"type": "string", "default": "Auto"}}},
                        "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
                        "since": {"type": "string", "format": "date-time"},
                        "list": {"type": "array", "maxItems": 2, "items": {"type": "string", "pattern": "^a"}},
                    }
                }
            }
        }))
        .unwrap()
    }

    #[test]
    fn the_unknown_and_forbidden_nulls_are_dropped_and_defaults_filled_in() {
        let mut value = json!({"spec": {"node": "a", "colour": 1, "bytes": null, "gate": null, "tier": null,
            "labels": {"any": "x"}, "erase": {"how": "x"}}, "extra": {}});
        let mut dropped = Vec::new();
        schema().prune(&mut value, "", &mut dropped);
        schema().fill(&mut value);
        assert_eq!(dropped, ["extra", "spec.colour", "spec.erase.how"]);
        assert_eq!(
            value,
            json!({"spec": {"node": "a", "tier": "Hot", "gate": null, "labels": {"any": "x"},
                "erase": {"method": "Auto"}}})
        );
    }

    #[test]
    fn an_unknown_keyword_is_refused_at_the_start() {
        let refused = Schema::compile(&json!({"properties": {"a": {"oneOf": []}}})).unwrap_err();
        assert_eq!(refused.path, "a");
    }
}
