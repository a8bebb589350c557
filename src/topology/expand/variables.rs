//! Variables: `${ name }` in texts and keys, and where their values come from.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value as Json;

use crate::base::diagnostic::{Diagnostic, Findings, Span};
use crate::base::document::{Node, Spanned, Value};
use crate::base::expression::{Context, Template};
use crate::base::suggest::nearest;

use super::{DUPLICATE, VARIABLE};

/// Puts values in the place of `${ name }` in every text and key of `documents`, but for their
/// `variables`. A text that is nothing but one variable takes the variable's type.
///
/// # Errors
/// Variables that are unknown, without a value, or declared twice with different values.
pub fn substitute(
    documents: &[Node],
    set: &BTreeMap<String, String>,
) -> Result<Vec<Node>, Findings> {
    let mut findings = Findings::default();
    let mut variables: BTreeMap<String, (Json, Span)> = BTreeMap::new();
    for node in documents {
        let Some(Value::Mapping(entries)) = node.get("variables").map(|n| &n.value) else {
            continue;
        };
        for (name, value) in entries {
            let span = name.span.clone().unwrap_or_else(|| value.span.clone());
            let json = value.to_json();
            if !is_identifier(name) {
                findings.push(
                    Diagnostic::error(
                        VARIABLE,
                        format!("`{}` is no name for a variable", name.value),
                    )
                    .at(span.clone())
                    .hint("use letters, digits and `_`"),
                );
            }
            match variables.get(&name.value) {
                Some((known, place)) if *known != json => findings.push(
                    Diagnostic::error(
                        VARIABLE,
                        format!("the variable `{}` has another value at {place}", name.value),
                    )
                    .at(span),
                ),
                Some(_) => {}
                None => {
                    variables.insert(name.value.clone(), (json, span));
                }
            }
        }
    }
    for (name, text) in set {
        match variables.get_mut(name) {
            Some((value, _)) => *value = scalar(text),
            None => {
                let mut finding = Diagnostic::error(
                    VARIABLE,
                    format!("`--set {name}=…`: no file declares the variable `{name}`"),
                );
                finding.hint = Some(match nearest(name, variables.keys().map(String::as_str)) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("declare it: `variables: {{{name}: …}}`"),
                });
                findings.push(finding);
            }
        }
    }
    for (name, (value, span)) in &variables {
        if value.is_null() {
            findings.push(
                Diagnostic::error(VARIABLE, format!("the variable `{name}` has no value"))
                    .at(span.clone())
                    .hint(format!("give it one here, or with --set {name}=…")),
            );
        }
    }
    if findings.has_errors() {
        return Err(findings);
    }
    let values: BTreeMap<String, Json> =
        variables.into_iter().map(|(name, (value, _))| (name, value)).collect();
    let substituted = documents
        .iter()
        .map(|node| {
            let Value::Mapping(entries) = &node.value else { return node.clone() };
            let entries = entries
                .iter()
                .map(|(key, value)| {
                    if key.value == "variables" {
                        (key.clone(), value.clone())
                    } else {
                        (key.clone(), put_in(value, &values, &mut findings))
                    }
                })
                .collect();
            Node { span: node.span.clone(), value: Value::Mapping(entries) }
        })
        .collect();
    if findings.has_errors() { Err(findings) } else { Ok(substituted) }
}

fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

/// What `--set name=TEXT` means: a number, true, false, or text.
fn scalar(text: &str) -> Json {
    match serde_json::from_str::<Json>(text) {
        Ok(value @ (Json::Bool(_) | Json::Number(_))) => value,
        _ => Json::String(text.to_owned()),
    }
}

fn put_in(node: &Node, values: &BTreeMap<String, Json>, findings: &mut Findings) -> Node {
    let value = match &node.value {
        Value::Text(text) => return put_in_text(text, node, values, findings),
        Value::Sequence(items) => {
            Value::Sequence(items.iter().map(|item| put_in(item, values, findings)).collect())
        }
        Value::Mapping(entries) => {
            let mut seen: HashMap<String, Option<Span>> = HashMap::new();
            let mut replaced = Vec::with_capacity(entries.len());
            for (key, value) in entries {
                let place = Node {
                    span: key.span.clone().unwrap_or_else(|| node.span.clone()),
                    value: Value::Null,
                };
                let put = put_in_text(&key.value, &place, values, findings);
                let name = match &put.value {
                    Value::Text(text) => text.clone(),
                    _ => put.to_json().to_string(),
                };
                if seen.insert(name.clone(), key.span.clone()).is_some() {
                    findings.push(
                        Diagnostic::error(
                            DUPLICATE,
                            format!("the key `{name}` stands here twice once variables are put in"),
                        )
                        .at(key.span.clone()),
                    );
                }
                replaced.push((
                    Spanned { value: name, span: key.span.clone() },
                    put_in(value, values, findings),
                ));
            }
            Value::Mapping(replaced)
        }
        other => other.clone(),
    };
    Node { span: node.span.clone(), value }
}

fn put_in_text(
    text: &str,
    node: &Node,
    values: &BTreeMap<String, Json>,
    findings: &mut Findings,
) -> Node {
    let text_node = |text: String| Node { span: node.span.clone(), value: Value::Text(text) };
    if !text.contains("${") {
        return text_node(text.to_owned());
    }
    let names: Vec<&str> = values.keys().map(String::as_str).collect();
    let template = match Template::parse_with(text, &names) {
        Ok(template) => template,
        Err(error) => {
            let mut finding = error.at(Some(&node.span));
            if values.is_empty() && finding.hint.is_none() {
                finding.hint = Some("declare it under `variables`".to_owned());
            }
            findings.push(finding);
            return text_node(text.to_owned());
        }
    };
    let context =
        values.iter().fold(Context::new(), |context, (name, value)| context.with(name, value));
    match template.evaluate(&context) {
        Ok(value) => node_of_json(&value, &node.span),
        Err(error) => {
            findings.push(Diagnostic::error(VARIABLE, error.to_string()).at(node.span.clone()));
            text_node(text.to_owned())
        }
    }
}

fn node_of_json(json: &Json, span: &Span) -> Node {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::UInt(n),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => {
            Value::Sequence(items.iter().map(|item| node_of_json(item, span)).collect())
        }
        Json::Object(map) => Value::Mapping(
            map.iter()
                .map(|(key, value)| {
                    (Spanned::at(key.clone(), span.clone()), node_of_json(value, span))
                })
                .collect(),
        ),
    };
    Node { span: span.clone(), value }
}
