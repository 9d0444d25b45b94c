//! The report that suites written with Ginkgo leave: what became of each case.

use std::collections::BTreeMap;

use serde_json::Value;

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// In Ginkgo's words: `passed`, `skipped`, `failed`, `timedout`, ...
    pub state: String,
    /// What it said when it failed, or why it skipped itself; empty of one that was not selected.
    pub said: String,
}

/// Every case of a report, by its full name.
#[must_use]
pub fn cases(report: &Value) -> BTreeMap<String, Case> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut cases = BTreeMap::new();
    let all = report.pointer("/0/SpecReports").and_then(Value::as_array);
    for spec in all.into_iter().flatten() {
        let of = |key: &str| spec.get(key).cloned().unwrap_or_default();
        if of("LeafNodeType") != "It" {
            continue;
        }
        let containers = of("ContainerHierarchyTexts");
        let containers = containers.as_array().into_iter().flatten();
        let mut words: Vec<String> = containers.map(text).collect();
        words.push(text(&of("LeafNodeText")));
        let said = spec.pointer("/Failure/Message").map(text);
        let case = Case {
            state: text(&of("State")),
            said: said.unwrap_or_default(),
        };
        cases.insert(words.join(" "), case);
    }
    cases
}
