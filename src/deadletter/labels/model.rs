//! Labels that cannot be wrong, and which of them a group has. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::base::expression::{Context, Expression};
use crate::deadletter::fingerprint::{Fingerprint, Traits};
use crate::deadletter::store::Group;

use super::spec::{LabelSpec, LabelsFile};

/// A label is for one group or for a condition.
pub const TARGET: Code = Code("labels/target");
/// The name of a group is none.
pub const GROUP: Code = Code("labels/group");
/// A group has two labels.
pub const TWICE: Code = Code("labels/twice");
/// A label without a name, or with one that fits no table.
pub const NAME: Code = Code("labels/name");

/// Characters that a label has at most.
const LONGEST: usize = 80;

/// What a condition may ask.
const VARIABLES: [&str; 7] =
    ["reason", "code", "queue", "routingKey", "exception", "error", "shape"];

/// What a group is called.
#[derive(
    Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct Label {
    /// Its name.
    pub name: String,
    /// What is known about it.
    pub note: Option<String>,
    /// Where it is written what to do.
    pub runbook: Option<String>,
    /// Whom to ask.
    pub owner: Option<String>,
}

/// All labels of a file.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    by_group: BTreeMap<Fingerprint, Label>,
    by_condition: Vec<(Expression, Label)>,
}

impl Labels {
    /// The labels that a file gives.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn of(file: &LabelsFile) -> Result<Labels, Findings> {
        let mut labels = Labels::default();
        let mut findings = Findings::default();
        let mut seen = BTreeSet::new();
        for rule in &file.labels {
            labels.add(rule, &mut seen, &mut findings);
        }
        if findings.has_errors() { Err(findings) } else { Ok(labels) }
    }

    fn add(&mut self, rule: &LabelSpec, seen: &mut BTreeSet<Fingerprint>, findings: &mut Findings) {
        let LabelSpec { label: name, group, when, note, runbook, owner } = rule;
        let long = name.chars().count() > LONGEST;
        if name.trim().is_empty() || long || name.chars().any(char::is_control) {
            let message = format!("a label is one line of 1 to {LONGEST} characters");
            findings.push(
                Diagnostic::error(NAME, message)
                    .at(name.span.clone())
                    .hint("write what else there is to say as `note`"),
            );
        }
        let label = Label {
            name: name.value.clone(),
            note: note.clone(),
            runbook: runbook.clone(),
            owner: owner.clone(),
        };
        match (group, when) {
            (Some(group), None) => match Fingerprint::parse(group) {
                None => findings.push(
                    Diagnostic::error(GROUP, format!("`{}` is no group", group.value))
                        .at(group.span.clone())
                        .hint("`nexusctl dlq groups` lists them: g- and ten letters and digits"),
                ),
                Some(print) if !seen.insert(print) => findings.push(
                    Diagnostic::error(TWICE, format!("group `{print}` has a label already"))
                        .at(group.span.clone())
                        .hint("keep one of them"),
                ),
                Some(print) => {
                    self.by_group.insert(print, label);
                }
            },
            (None, Some(when)) => match Expression::parse_with(when, &VARIABLES) {
                Ok(condition) => self.by_condition.push((condition, label)),
                Err(error) => findings.push(error.at(when.span.as_ref())),
            },
            _ => findings.push(
                Diagnostic::error(TARGET, format!("label `{}`: what it is for", name.value))
                    .at(name.span.clone())
                    .hint("write either `group` or `when`"),
            ),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_group.is_empty() && self.by_condition.is_empty()
    }

    /// What a group is called. A condition that cannot be decided is not true.
    pub fn get(&self, group: Fingerprint, traits: &Traits) -> Option<&Label> {
        if let Some(label) = self.by_group.get(&group) {
            return Some(label);
        }
        if self.by_condition.is_empty() {
            return None;
        }
        let Traits { reason, code, queue, routing_key, exception, error, shape } = traits;
        let text = |text: &Option<String>| text.clone().unwrap_or_default().into();
        let context = Context::new()
            .with_owned("reason", reason.as_str().into())
            .with_owned("code", text(code))
            .with_owned("queue", queue.as_str().into())
            .with_owned("routingKey", routing_key.as_str().into())
            .with_owned("exception", text(exception))
            .with_owned("error", text(error))
            .with_owned("shape", shape.as_str().into());
        let fits = |condition: &Expression| condition.evaluate_bool(&context) == Ok(true);
        self.by_condition.iter().find(|(condition, _)| fits(condition)).map(|(_, label)| label)
    }

    /// The labels of those groups that have one.
    pub fn by_group(&self, groups: &[Group]) -> BTreeMap<Fingerprint, Label> {
        let labelled = |group: &Group| Some((group.group, self.get(group.group, &group.traits)?));
        groups.iter().filter_map(labelled).map(|(group, label)| (group, label.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::document::{decode, read_documents, source_from_bytes};

    fn read(rules: &str) -> Result<Labels, Vec<String>> {
        let text = format!("apiVersion: nexus/v1\nkind: DeadLetterLabels\nlabels:\n{rules}");
        let shown = |findings: Findings| -> Vec<String> {
            findings
                .iter()
                .map(|f| format!("{}:{}", f.code.0, f.span.as_ref().unwrap().line))
                .collect()
        };
        let source = source_from_bytes("labels.yaml", text.as_bytes()).map_err(shown)?;
        let documents = read_documents(&source).map_err(shown)?;
        let file: LabelsFile = decode(&documents[0]).map_err(shown)?;
        Labels::of(&file).map_err(shown)
    }

    fn traits(reason: &str, error: Option<&str>) -> Traits {
        Traits { reason: reason.to_owned(), error: error.map(str::to_owned), ..Traits::default() }
    }

    #[test]
    fn a_group_by_its_name_goes_first_then_the_first_condition_that_is_true() {
        let own = traits("poison", Some("no order #"));
        let group = own.fingerprint();
        let labels = read(&format!(
            "- {{label: timeouts, when: \"error.contains('timed out')\"}}\n\
             - {{label: other orders, when: \"error.startsWith('no order')\"}}\n\
             - {{label: orders, group: {group}, note: known since May, owner: shop}}\n\
             - {{label: all poison, when: \"reason == 'poison'\"}}\n"
        ))
        .unwrap();
        let name = |traits: &Traits| {
            labels.get(traits.fingerprint(), traits).map(|label| label.name.as_str())
        };
        assert_eq!(name(&own), Some("orders"));
        assert_eq!(name(&traits("poison", Some("no order x"))), Some("other orders"));
        assert_eq!(name(&traits("rejected", Some("it timed out"))), Some("timeouts"));
        assert_eq!(name(&traits("poison", None)), Some("all poison"));
        assert_eq!(name(&traits("rejected", None)), None);
        assert!(Labels::default().is_empty() && !labels.is_empty());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_place() {
        let found = read(
            "- {label: a}\n- {label: b, group: g-aaaaaaaaaa, when: 'true'}\n- {label: c, group: x}\n\
             - {label: ' ', group: g-aaaaaaaaaa}\n- {label: d, group: g-aaaaaaaaaa}\n\
             - {label: e, when: 'nonsense =='}\n- {label: f, when: \"body == ''\"}\n",
        )
        .unwrap_err();
        let codes: Vec<&str> = found.iter().map(String::as_str).collect();
        assert_eq!(
            codes[..5],
            [
                "labels/target:4",
                "labels/target:5",
                "labels/group:6",
                "labels/name:7",
                "labels/twice:8"
            ]
        );
        assert_eq!(codes.len(), 7, "{codes:?}");
        assert_eq!(read("- {label: a, grup: b}\n").unwrap_err(), ["document/unknown-key:4"]);
    }
}
