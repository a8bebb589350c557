//! Adding a label to the text of a file: what stands there, comments included, stays as it is. Pure.

use crate::base::diagnostic::Findings;
use crate::base::document::{Node, Value, decode, read_documents, source_from_bytes, to_yaml};

use super::spec::{LabelSpec, LabelsFile};

/// Why a label was not added.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The file cannot be read as it is.
    #[error("{} findings", .0.0.len())]
    Wrong(Findings),
    /// The group has a label.
    #[error("{place}: the group is called `{label}` already")]
    Known {
        /// Where.
        place: String,
        /// What it is called.
        label: String,
    },
    /// The file is written in a way in which nothing can be added without writing it anew.
    #[error("there is no place to add a line to")]
    NoPlace(String),
}

fn parse(name: &str, text: &str) -> Result<(Node, LabelsFile), Findings> {
    let source = source_from_bytes(name, text.as_bytes())?;
    let documents = read_documents(&source)?;
    let [node] = documents.as_slice() else {
        return Err(super::not_one(name, &documents));
    };
    Ok((node.clone(), decode(node)?))
}

/// What the file called `name` says.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(name: &str, text: &str) -> Result<LabelsFile, Findings> {
    parse(name, text).map(|(_, file)| file)
}

/// The rule as an item of a list that is indented so.
fn item(rule: &LabelSpec, indent: &str) -> String {
    let yaml = to_yaml(rule);
    let mut text = String::new();
    for (index, line) in yaml.lines().enumerate() {
        let lead = if index == 0 { "- " } else { "  " };
        text.push_str(indent);
        text.push_str(lead);
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Where line `line`, from 1, begins.
fn offset_of(text: &str, line: u32) -> usize {
    let before = usize::try_from(line).unwrap_or(usize::MAX).saturating_sub(1);
    text.split_inclusive('\n').take(before).map(str::len).sum()
}

/// Texts that may be the file with the rule in it, the best first. Which of them is, is found by reading.
fn candidates(text: &str, root: &Node, rule: &LabelSpec) -> Vec<String> {
    let ended = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
    let Some(labels) = root.get("labels") else {
        return vec![format!("{ended}labels:\n{}", item(rule, ""))];
    };
    let first = match &labels.value {
        Value::Sequence(items) => items.first(),
        _ => None,
    };
    if let Some(first) = first {
        let start = offset_of(&ended, first.span.line);
        let line = ended[start..].lines().next().unwrap_or_default();
        let indent = &line[..line.len() - line.trim_start().len()];
        let new = item(rule, indent);
        let (before, after) = ended.split_at(start);
        return vec![format!("{ended}{new}"), format!("{before}{new}{after}")];
    }
    // An empty list, written out.
    let start = offset_of(&ended, labels.span.line);
    let line = ended[start..].lines().next().unwrap_or_default();
    let bare = line.split_once("labels:").filter(|(before, after)| {
        before.trim().is_empty() && matches!(after.trim(), "" | "[]" | "[ ]" | "null" | "~")
    });
    let Some((indent, _)) = bare else { return Vec::new() };
    let (before, rest) = ended.split_at(start);
    let after = rest.split_once('\n').map_or("", |(_, after)| after);
    vec![format!("{before}{indent}labels:\n{}{after}", item(rule, indent))]
}

/// The text of the file called `name` with one more label; `text` is what it says now, if it is there.
///
/// # Errors
/// When the file is wrong, the group has a label, or there is no place for another.
pub fn learned(name: &str, text: Option<&str>, rule: &LabelSpec) -> Result<String, LearnError> {
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok(to_yaml(&LabelsFile { labels: vec![rule.clone()] }));
    };
    let (root, old) = parse(name, text).map_err(LearnError::Wrong)?;
    if let Some(known) =
        old.labels.iter().find(|known| known.group.is_some() && known.group == rule.group)
    {
        let place = known.label.span.as_ref().map_or_else(|| name.to_owned(), ToString::to_string);
        return Err(LearnError::Known { place, label: known.label.value.clone() });
    }
    let is_it = |candidate: &String| {
        let Ok((_, new)) = parse(name, candidate) else { return false };
        let Some(at) = new.labels.iter().position(|label| label == rule) else { return false };
        let mut rest = new.labels;
        rest.remove(at);
        rest == old.labels
    };
    candidates(text, &root, rule)
        .into_iter()
        .find(is_it)
        .ok_or_else(|| LearnError::NoPlace(item(rule, "")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(name: &str) -> LabelSpec {
        LabelSpec {
            label: name.to_owned().into(),
            group: Some("g-aaaaaaaaaa".to_owned().into()),
            when: None,
            note: None,
            runbook: Some("https://wiki/x#y".to_owned()),
            owner: None,
        }
    }

    const HEAD: &str = "# ours\napiVersion: nexus/v1\nkind: DeadLetterLabels\n";

    #[test]
    fn what_stands_in_the_file_stays_as_it_is() {
        for (body, expected) in [
            (
                "labels: # all\n  - label: a # first\n    when: 'true'\n# the end\n",
                "labels: # all\n  - label: a # first\n    when: 'true'\n# the end\n  - label: new\n    \
                 group: g-aaaaaaaaaa\n    runbook: https://wiki/x#y\n",
            ),
            (
                "labels:\n- {label: a, when: 'true'}\n\n",
                "labels:\n- {label: a, when: 'true'}\n\n- label: new\n  group: g-aaaaaaaaaa\n  \
                 runbook: https://wiki/x#y\n",
            ),
            (
                "labels: []\n",
                "labels:\n- label: new\n  group: g-aaaaaaaaaa\n  runbook: https://wiki/x#y\n",
            ),
            ("", "labels:\n- label: new\n  group: g-aaaaaaaaaa\n  runbook: https://wiki/x#y\n"),
        ] {
            let text = learned("l.yaml", Some(&format!("{HEAD}{body}")), &rule("new")).unwrap();
            assert_eq!(text, format!("{HEAD}{expected}"));
        }
        // Where the list is not the last key, the new label is its first.
        let text =
            "labels:\n- {label: a, when: 'true'}\napiVersion: nexus/v1\nkind: DeadLetterLabels\n";
        let text = learned("l.yaml", Some(text), &rule("new")).unwrap();
        assert!(text.starts_with("labels:\n- label: new\n"), "{text}");
        let fresh = learned("l.yaml", None, &rule("new")).unwrap();
        assert_eq!(read("l.yaml", &fresh).unwrap().labels, [rule("new")]);
    }

    #[test]
    fn what_cannot_be_added_is_refused() {
        let flow = format!("{HEAD}labels: [{{label: a, when: 'true'}}]\n");
        assert!(matches!(
            learned("l.yaml", Some(&flow), &rule("new")),
            Err(LearnError::NoPlace(text)) if text.starts_with("- label: new\n")
        ));
        let known = format!("{HEAD}labels:\n- {{label: a, group: g-aaaaaaaaaa}}\n");
        let error = learned("l.yaml", Some(&known), &rule("new")).unwrap_err().to_string();
        assert_eq!(error, "l.yaml:5:11: the group is called `a` already");
        assert!(matches!(
            learned("l.yaml", Some("labels: 1"), &rule("new")),
            Err(LearnError::Wrong(_))
        ));
        let two = format!("{HEAD}---\n{HEAD}");
        assert!(matches!(learned("l.yaml", Some(&two), &rule("x")), Err(LearnError::Wrong(_))));
    }

    proptest! {
        /// Whatever it is called, it is read back as it was written, and so is everything before it.
        #[test]
        fn any_name_is_read_back(names in prop::collection::vec("[ -~äß日]{1,30}", 1..6)) {
            let mut text: Option<String> = None;
            let mut expected = Vec::new();
            for (n, name) in names.into_iter().enumerate() {
                let group = format!("g-aaaaaaaaa{}", char::from(b'a' + u8::try_from(n).unwrap()));
                let rule = LabelSpec {
                    note: Some(name.clone()), group: Some(group.into()), ..rule(&name)
                };
                text = Some(learned("l.yaml", text.as_deref(), &rule).unwrap());
                expected.push(rule);
            }
            prop_assert_eq!(read("l.yaml", &text.unwrap()).unwrap().labels, expected);
        }
    }
}
