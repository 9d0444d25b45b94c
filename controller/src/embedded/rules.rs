//! The rules that a schema carries as CEL text (`x-kubernetes-validations`), evaluated by the text itself. A rule
//! that speaks of `oldSelf` is one on transitions and holds only for updates. A rule that cannot be evaluated is
//! violated: in doubt nothing is written.

use cel::{Context, Program, Value as CelValue};
use serde_json::Value;
use std::sync::Arc;

use super::refusal::Cause;

/// One compiled rule.
pub(crate) struct Rule {
    text: String,
    message: Option<String>,
    program: Program,
    transition: bool,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Rule").field(&self.text).finish()
    }
}

impl Rule {
    /// Compiles the list under `x-kubernetes-validations`.
    pub(crate) fn compile_all(list: &Value) -> Result<Vec<Self>, String> {
        list.as_array()
            .ok_or("x-kubernetes-validations is no list")?
            .iter()
            .map(Self::compile)
            .collect()
    }

    fn compile(source: &Value) -> Result<Self, String> {
        let Value::Object(fields) = source else {
            return Err("a rule is no object".to_owned());
        };
        let unknown = fields
            .keys()
            .find(|key| !matches!(key.as_str(), "rule" | "message"));
        if let Some(unknown) = unknown {
            return Err(format!("a rule's {unknown} is not understood"));
        }
        let text = fields
            .get("rule")
            .and_then(Value::as_str)
            .ok_or("a rule without text")?;
        let program = Program::compile(text).map_err(|error| format!("rule {text:?}: {error}"))?;
        let transition = program.references().has_variable("oldSelf");
        Ok(Self {
            text: text.to_owned(),
            message: fields
                .get("message")
                .and_then(Value::as_str)
                .map(str::to_owned),
            program,
            transition,
        })
    }

    /// What is wrong, if the rule does not hold for `value` in place of `old`.
    pub(crate) fn violation(
        &self,
        form: &str,
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) -> Option<Cause> {
        if self.transition && old.is_none() {
            return None;
        }
        let mut context = Context::default();
        context.add_variable_from_value("self", translate(value, path.is_empty()));
        if let Some(old) = old {
            context.add_variable_from_value("oldSelf", translate(old, path.is_empty()));
        }
        let message = match self.program.execute(&context) {
            Ok(CelValue::Bool(true)) => return None,
            Ok(CelValue::Bool(false)) => self
                .message
                .clone()
                .unwrap_or_else(|| format!("failed rule: {}", self.text)),
            Ok(other) => format!("rule {}: gives {other:?}, no yes or no", self.text),
            Err(error) => format!("rule {}: cannot be evaluated: {error}", self.text),
        };
        // A kube-apiserver prints the path of the object itself like this.
        let path = if path.is_empty() { "<nil>" } else { path };
        Some(Cause::invalid(path, &format!("{form:?}"), &message))
    }
}

/// JSON as CEL sees it under a schema: all whole numbers are `int`. Of an object's metadata a rule sees the name.
fn translate(value: &Value, is_object: bool) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(yes) => CelValue::Bool(*yes),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => CelValue::Int(signed),
            (None, Some(unsigned)) => CelValue::UInt(unsigned),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(items) => CelValue::List(Arc::new(
            items.iter().map(|item| translate(item, false)).collect(),
        )),
        Value::Object(fields) => CelValue::Map(cel::objects::Map {
            map: Arc::new(
                fields
                    .iter()
                    .map(|(name, child)| {
                        let child = if is_object && name == "metadata" {
                            named(child)
                        } else {
                            translate(child, false)
                        };
                        (name.clone().into(), child)
                    })
                    .collect(),
            ),
        }),
    }
}

fn named(metadata: &Value) -> CelValue {
    let visible = ["name", "generateName"]
        .into_iter()
        .filter_map(|field| Some((field.to_owned(), metadata.get(field)?.clone())));
    translate(&Value::Object(visible.collect()), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rule: &str, value: Value, old: Option<Value>, expected: Option<&str>) {
        let rules = Rule::compile_all(&json!([{"rule": rule, "message": "no"}])).unwrap();
        let said = rules[0].violation("object", &value, old.as_ref(), "");
        assert_eq!(
            said.map(|cause| cause.message).as_deref(),
            expected,
            "{rule}"
        );
    }

    const NO: Option<&str> = Some("Invalid value: \"object\": no");

    #[test]
    fn rules_hold_or_say_their_message() {
        check("self.a > 0", json!({"a": 1}), None, None);
        check("self.a > 0", json!({"a": 0}), None, NO);
        check("self.a >= oldSelf.a", json!({"a": 0}), None, None);
        check(
            "self.a >= oldSelf.a",
            json!({"a": 0}),
            Some(json!({"a": 1})),
            NO,
        );
        check(
            "self.a >= oldSelf.a",
            json!({"a": 1}),
            Some(json!({"a": 1})),
            None,
        );
        check(
            "has(self.b) || !has(oldSelf.b)",
            json!({}),
            Some(json!({"b": 1})),
            NO,
        );
        check(
            "self.metadata.name.matches('^[a-z]+$')",
            json!({"metadata": {"name": "ab1"}}),
            None,
            NO,
        );
        check(
            "self == oldSelf",
            json!({"a": [1, {"b": 2}]}),
            Some(json!({"a": [1, {"b": 2}]})),
            None,
        );
    }

    #[test]
    fn of_metadata_only_the_name_is_seen() {
        check(
            "!has(self.metadata.labels)",
            json!({"metadata": {"name": "a", "labels": {}}}),
            None,
            None,
        );
    }

    #[test]
    fn a_rule_that_cannot_be_evaluated_is_violated() {
        let rules = Rule::compile_all(&json!([{"rule": "self.missing == 1"}])).unwrap();
        assert!(rules[0].violation("object", &json!({}), None, "").is_some());
    }

    #[test]
    fn a_rule_that_does_not_parse_is_refused_at_the_start() {
        assert!(Rule::compile_all(&json!([{"rule": "self.("}])).is_err());
    }
}
