//! Holding an object to its schema and rules, in the words of a kube-apiserver.
//!
//! On an update, what did not change is not judged again (ratcheting): an object stored under older, laxer rules
//! can still be worked on.

use serde_json::{Map, Value};

use super::refusal::Cause;
use super::schema::{Schema, join};

impl Schema {
    /// Everything that is wrong with `value`, which is to replace `old`.
    pub(crate) fn validate(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        if old == Some(value) || (value.is_null() && self.nullable) {
            return;
        }
        if !self.form.fits(value) {
            let shown = match value {
                Value::Object(_) => "\"object\"",
                Value::Array(_) => "\"array\"",
                Value::Null => "\"null\"",
                Value::Bool(_) => "\"boolean\"",
                Value::String(_) => "\"string\"",
                Value::Number(number) if number.is_f64() => "\"number\"",
                Value::Number(_) => "\"integer\"",
            };
            let message = format!(
                "{path} in body must be of type {}: {shown}",
                self.form.name()
            );
            causes.push(Cause::invalid(path, shown, &message));
            return;
        }
        let before = causes.len();
        match value {
            Value::Object(object) => self.validate_object(object, old, path, causes),
            Value::Array(items) => self.validate_array(items, path, causes),
            Value::String(text) => self.validate_text(text, path, causes),
            Value::Number(number) => self.validate_number(number, path, causes),
            Value::Null | Value::Bool(_) => {}
        }
        self.validate_word(value, path, causes);
        if causes.len() == before {
            causes.extend(
                self.rules
                    .iter()
                    .filter_map(|rule| rule.violation(self.form.name(), value, old, path)),
            );
        }
    }

    fn validate_object(
        &self,
        object: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        causes: &mut Vec<Cause>,
    ) {
        for name in &self.required {
            if !object.contains_key(name) {
                causes.push(Cause::required(&join(path, name)));
            }
        }
        for (name, child) in object {
            if let Some(schema) = self.child(name) {
                let old = old.and_then(|old| old.get(name));
                schema.validate(child, old, &join(path, name), causes);
            }
        }
    }

    fn validate_array(&self, items: &[Value], path: &str, causes: &mut Vec<Cause>) {
        let count = items.len();
        if let Some(bound) = self.items_min.filter(|bound| count < *bound) {
            let message = format!("{path} in body should have at least {bound} items");
            causes.push(Cause::invalid(path, &count.to_string(), &message));
        }
        if let Some(bound) = self.items_max.filter(|bound| count > *bound) {
            causes.push(Cause {
                field: path.to_owned(),
                reason: "FieldValueTooMany",
                message: format!("Too many: {count}: must have at most {bound} items"),
            });
        }
        if let Some(schema) = &self.items {
            for (index, item) in items.iter().enumerate() {
                schema.validate(item, None, &format!("{path}[{index}]"), causes);
            }
        }
    }

    fn validate_text(&self, text: &str, path: &str, causes: &mut Vec<Cause>) {
        let shown = format!("{text:?}");
        let mut say = |message: String| causes.push(Cause::invalid(path, &shown, &message));
        if let Some(bound) = self.length_min.filter(|n| text.chars().count() < *n) {
            say(format!(
                "{path} in body should be at least {bound} chars long"
            ));
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|p| !p.is_match(text)) {
            say(format!("{path} in body should match '{pattern}'"));
        }
        if self.date_time && text.parse::<jiff::Timestamp>().is_err() {
            say(format!("{path} in body must be of type date-time: {shown}"));
        }
        if let Some(bound) = self.length_max.filter(|n| text.chars().count() > *n) {
            causes.push(Cause {
                field: path.to_owned(),
                reason: "FieldValueTooLong",
                message: format!("Too long: may not be more than {bound} bytes"),
            });
        }
    }

    fn validate_number(&self, number: &serde_json::Number, path: &str, causes: &mut Vec<Cause>) {
        let Some(value) = number.as_f64() else { return };
        let mut say = |message: String| {
            causes.push(Cause::invalid(path, &number.to_string(), &message));
        };
        if let Some(bound) = self.minimum.filter(|bound| value < *bound) {
            say(format!(
                "{path} in body should be greater than or equal to {bound}"
            ));
        }
        if let Some(bound) = self.maximum.filter(|bound| value > *bound) {
            say(format!(
                "{path} in body should be less than or equal to {bound}"
            ));
        }
    }

    fn validate_word(&self, value: &Value, path: &str, causes: &mut Vec<Cause>) {
        if self.words.is_empty() || self.words.contains(value) {
            return;
        }
        let known: Vec<String> = self
            .words
            .iter()
            .filter(|word| !word.is_null())
            .map(Value::to_string)
            .collect();
        causes.push(Cause {
            field: path.to_owned(),
            reason: "FieldValueNotSupported",
            message: format!(
                "Unsupported value: {value}: supported values: {}",
                known.join(", ")
            ),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::tests::schema;
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: &[&str]) {
        let mut causes = Vec::new();
        schema().validate(&value, None, "", &mut causes);
        let said: Vec<String> = causes.iter().map(Cause::to_string).collect();
        assert_eq!(said, expected, "{value}");
    }

    #[test]
    fn errors_read_like_those_of_a_kube_apiserver() {
        check(json!({"spec": {"node": "a"}}), &[]);
        check(json!({}), &["spec: Required value"]);
        check(json!({"spec": {}}), &["spec.node: Required value"]);
        check(
            json!({"spec": {"node": ""}}),
            &["spec.node: Invalid value: \"\": spec.node in body should be at least 1 chars long"],
        );
        check(
            json!({"spec": {"node": "a", "tier": "Tepid"}}),
            &["spec.tier: Unsupported value: \"Tepid\": supported values: \"Hot\", \"Cold\""],
        );
        check(
            json!({"spec": {"node": "a", "bytes": "1Gi"}}),
            &[
                "spec.bytes: Invalid value: \"string\": spec.bytes in body must be of type integer: \"string\"",
            ],
        );
        check(
            json!({"spec": {"node": "a", "bytes": -1}}),
            &[
                "spec.bytes: Invalid value: -1: spec.bytes in body should be greater than or equal to 0",
            ],
        );
        check(
            json!({"spec": {"node": "a", "bytes": u64::MAX, "gate": null}}),
            &[],
        );
        check(
            json!({"spec": {"node": "a", "labels": {"x": "long"}}}),
            &["spec.labels.x: Too long: may not be more than 3 bytes"],
        );
        check(
            json!({"spec": {"node": "a", "since": "yesterday"}}),
            &[
                "spec.since: Invalid value: \"yesterday\": spec.since in body must be of type date-time: \"yesterday\"",
            ],
        );
        check(
            json!({"spec": {"node": "a", "list": ["a", "b", "a"]}}),
            &[
                "spec.list: Too many: 3: must have at most 2 items",
                "spec.list[1]: Invalid value: \"b\": spec.list[1] in body should match '^a'",
            ],
        );
    }

    #[test]
    fn what_did_not_change_is_not_judged_again() {
        let old = json!({"spec": {"node": "", "tier": "Hot"}});
        let mut new = old.clone();
        new["spec"]["tier"] = json!("Cold");
        let mut causes = Vec::new();
        schema().validate(&new, Some(&old), "", &mut causes);
        assert_eq!(causes, []);
    }
}
