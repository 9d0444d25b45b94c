//! Which objects are meant: label selectors (equality and sets) and field selectors (equality on the name, the
//! namespace and the fields that a kind declares selectable).

use super::kinds::Kind;
use super::object::Object;
use super::refusal::Refusal;

/// A conjunction of requirements; the empty one means every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelRequirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Selectable(usize),
}

impl Selector {
    /// Reads the two query parameters.
    pub(crate) fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, Refusal> {
        Ok(Self {
            labels: split(labels)
                .into_iter()
                .map(|term| {
                    LabelRequirement::parse(term).ok_or_else(|| {
                        Refusal::bad_request(format!(
                            "unable to parse requirement in label selector {labels:?}: {term:?}"
                        ))
                    })
                })
                .collect::<Result<_, _>>()?,
            fields: split(fields)
                .into_iter()
                .map(|term| FieldRequirement::parse(kind, term))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether `object` is meant.
    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.labels.iter().all(|label| label.holds(object))
            && self.fields.iter().all(|field| field.holds(object))
    }

    /// The one name that can match, if there is but one.
    pub(crate) fn only_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|field| field.equal && field.field == Field::Name)
            .map(|field| field.value.as_str())
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_usize;
    text.split(|letter: char| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
    .collect()
}

fn is_label_key(key: &str) -> bool {
    !key.is_empty()
        && key
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter))
}

impl LabelRequirement {
    fn parse(term: &str) -> Option<Self> {
        let requirement = if let Some(key) = term.strip_prefix('!') {
            Self::Absent(key.trim().to_owned())
        } else if let Some((key, value)) = term.split_once("!=") {
            Self::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()])
        } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
            Self::In(key.trim().to_owned(), vec![value.trim().to_owned()])
        } else if let Some((head, set)) = term.split_once('(') {
            let values = set.trim_end().strip_suffix(')')?;
            let values = values.split(',').map(|v| v.trim().to_owned()).collect();
            let mut words = head.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some(key), Some("in"), None) => Self::In(key.to_owned(), values),
                (Some(key), Some("notin"), None) => Self::NotIn(key.to_owned(), values),
                _ => return None,
            }
        } else {
            Self::Exists(term.to_owned())
        };
        is_label_key(requirement.key()).then_some(requirement)
    }

    fn key(&self) -> &str {
        match self {
            Self::In(key, _) | Self::NotIn(key, _) | Self::Exists(key) | Self::Absent(key) => key,
        }
    }

    fn holds(&self, object: &Object) -> bool {
        let value = object.labels.get(self.key());
        let listed = |values: &[String]| {
            value.is_some_and(|value| values.iter().any(|listed| **listed == **value))
        };
        match self {
            Self::In(_, values) => listed(values),
            Self::NotIn(_, values) => !listed(values),
            Self::Exists(_) => value.is_some(),
            Self::Absent(_) => value.is_none(),
        }
    }
}

impl FieldRequirement {
    fn parse(kind: &Kind, term: &str) -> Result<Self, Refusal> {
        let (label, value, equal) = if let Some((label, value)) = term.split_once("!=") {
            (label, value, false)
        } else if let Some((label, value)) = term.split_once("==").or_else(|| term.split_once('='))
        {
            (label, value, true)
        } else {
            return Err(Refusal::bad_request(format!(
                "invalid selector: {term:?}; can't understand it"
            )));
        };
        let field = match label.trim() {
            "metadata.name" => Field::Name,
            "metadata.namespace" => Field::Namespace,
            label => Field::Selectable(
                kind.selectable
                    .iter()
                    .position(|field| field.label == label)
                    .ok_or_else(|| {
                        Refusal::bad_request(format!("field label not supported: {label}"))
                    })?,
            ),
        };
        Ok(Self {
            field,
            value: value.trim().to_owned(),
            equal,
        })
    }

    fn holds(&self, object: &Object) -> bool {
        let actual = match self.field {
            Field::Name => &object.name,
            Field::Namespace => &object.namespace,
            Field::Selectable(index) => match object.fields.get(index) {
                Some(value) => value,
                None => "",
            },
        };
        (*actual == *self.value) == self.equal
    }
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Kinds;
    use super::*;
    use serde_json::json;

    fn check(labels: &str, fields: &str, expected: bool) {
        let kinds = Kinds::new(&api::crds()).unwrap();
        let kind = kinds.find("ringpv.io", "v1alpha1", "drives").unwrap();
        let object = Object::new(
            kind,
            &json!({"metadata": {"name": "a", "resourceVersion": "1", "labels": {"tier": "hot", "x/rack": "1"}},
                "spec": {"node": "n1"}}),
        );
        let selector = Selector::parse(kind, labels, fields).unwrap();
        assert_eq!(selector.matches(&object), expected, "{labels:?} {fields:?}");
    }

    #[test]
    fn labels_match_by_equality_and_by_set() {
        for (labels, expected) in [
            ("", true),
            ("tier=hot", true),
            ("tier==cold", false),
            ("tier!=cold,x/rack", true),
            ("tier in (cold, hot)", true),
            ("tier notin (cold,hot)", false),
            ("absent notin (a)", true),
            ("!tier", false),
            ("!absent", true),
            ("absent", false),
        ] {
            check(labels, "", expected);
        }
    }

    #[test]
    fn fields_match_by_equality() {
        for (fields, expected) in [
            ("metadata.name=a", true),
            ("metadata.name=b", false),
            ("metadata.namespace=", true),
            ("spec.node=n1,metadata.name!=b", true),
            ("spec.node!=n1", false),
        ] {
            check("", fields, expected);
        }
    }

    #[test]
    fn what_cannot_be_selected_by_is_refused() {
        let kinds = Kinds::new(&api::crds()).unwrap();
        let kind = kinds.find("ringpv.io", "v1alpha1", "drives").unwrap();
        let refused = Selector::parse(kind, "", "spec.cordoned=true").unwrap_err();
        assert_eq!(refused.message, "field label not supported: spec.cordoned");
        assert!(Selector::parse(kind, "tier in hot", "").is_err());
        assert!(Selector::parse(kind, "a b", "").is_err());
    }
}
