//! Label selectors as kubectl writes them, equality and sets: `zone=a,disk in (fast, faster),!broken`. Terms are joined
//! by AND; the empty selector takes all.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Which labels are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

/// Text that is no label selector.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a label selector; write for example disk=fast,rack in (a, b),!broken")]
pub struct MalformedSelector(pub String);

impl LabelSelector {
    /// Whether it takes all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `labels` are wanted.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|term| match term {
            Term::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Term::NotIn(key, values) => !labels.get(key).is_some_and(|v| values.contains(v)),
            Term::Exists(key) => labels.contains_key(key),
            Term::Absent(key) => !labels.contains_key(key),
        })
    }
}

impl FromStr for LabelSelector {
    type Err = MalformedSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || MalformedSelector(text.to_owned());
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let terms = split_outside_parentheses(text).map(|term| parse_term(term.trim()));
        let terms = terms.collect::<Option<_>>().ok_or_else(malformed)?;
        Ok(Self(terms))
    }
}

fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |letter| {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ',' && depth == 0
    })
}

fn parse_term(term: &str) -> Option<Term> {
    if let Some(key) = term.strip_prefix('!') {
        return Some(Term::Absent(key_of(key)?));
    }
    if let Some(open) = term.strip_suffix(')') {
        let (head, values) = open.split_once('(')?;
        let (key, verb) = head.trim().split_once(char::is_whitespace)?;
        let values = values.split(',').map(value_of).collect::<Option<_>>()?;
        return match verb.trim() {
            "in" => Some(Term::In(key_of(key)?, values)),
            "notin" => Some(Term::NotIn(key_of(key)?, values)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return Some(Term::NotIn(key_of(key)?, vec![value_of(value)?]));
    }
    match term.split_once("==").or_else(|| term.split_once('=')) {
        Some((key, value)) => Some(Term::In(key_of(key)?, vec![value_of(value)?])),
        None => Some(Term::Exists(key_of(term)?)),
    }
}

/// A key: an optional prefix with dots and a slash, then a name.
fn key_of(text: &str) -> Option<String> {
    let key = text.trim();
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    let fine = !name.is_empty() && is_plain(name) && is_plain(prefix);
    (fine && key.starts_with(|c: char| c.is_ascii_alphanumeric())).then(|| key.to_owned())
}

/// A value: as a name, or empty.
fn value_of(text: &str) -> Option<String> {
    let value = text.trim();
    is_plain(value).then(|| value.to_owned())
}

fn is_plain(text: &str) -> bool {
    text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects() {
        let labels = BTreeMap::from(
            [("disk", "fast"), ("rack", "b"), ("ringpv.io/node", "n1")]
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        for (text, wanted) in [
            ("", true),
            ("disk=fast", true),
            ("disk == fast", true),
            ("disk=slow", false),
            ("disk!=slow", true),
            ("absent!=slow", true),
            ("disk", true),
            ("!disk", false),
            ("! absent", true),
            ("rack in (a, b)", true),
            ("rack in (a)", false),
            ("rack notin (a,c)", true),
            ("absent in (a)", false),
            ("absent notin (a)", true),
            ("disk=fast,rack in (a,b),!broken", true),
            ("disk=fast,rack=c", false),
            ("ringpv.io/node=n1", true),
            ("disk=", false),
        ] {
            let selector: LabelSelector = text.parse().unwrap();
            assert_eq!(selector.matches(&labels), wanted, "{text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for text in [
            ",",
            "disk=fast,",
            "rack in a",
            "rack within (a)",
            "=x",
            "a b",
            "!",
            "a=b=c",
            "a in (b",
            "a=(b)",
            "/x",
        ] {
            assert_eq!(
                text.parse::<LabelSelector>(),
                Err(MalformedSelector(text.to_owned())),
                "{text}"
            );
        }
    }
}
