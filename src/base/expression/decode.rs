//! Expressions and templates in documents, with the place inside the text when a line shows it.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Expression, ExpressionError, Template, TemplateTree};
use crate::base::diagnostic::{Code, Diagnostic, Findings, Span};
use crate::base::document::decode::wrong_type;
use crate::base::document::{Decode, Node, Value};

const INVALID: Code = Code("expression/invalid");

impl ExpressionError {
    /// The finding about an expression that was written at `span`.
    pub fn at(self, span: Option<&Span>) -> Diagnostic {
        let mut finding = Diagnostic::error(INVALID, self.message);
        finding.span = span.map(|span| inside(span, self.offset));
        finding.hint = self.hint;
        finding
    }
}

/// The place `offset` characters into the text at `span`, when that text stands on one line without
/// escapes, as its width then tells; the whole text otherwise.
fn inside(span: &Span, offset: usize) -> Span {
    let whole = span.clone();
    let (Some(line), Ok(offset)) = (span.source.line(span.line), u32::try_from(offset)) else {
        return whole;
    };
    let skipped = usize::try_from(span.column).unwrap_or(1).saturating_sub(1);
    let first = line.chars().nth(skipped);
    let quotes = u32::from(matches!(first, Some('"' | '\'')));
    let written = line.chars().skip(skipped).take(usize::try_from(span.width).unwrap_or(1));
    let has_escapes = match first {
        Some('"') => written.skip(1).any(|c| c == '\\'),
        Some('\'') => written.filter(|c| *c == '\'').count() > 2,
        _ => false,
    };
    if has_escapes || offset.saturating_add(2 * quotes) >= span.width {
        return whole;
    }
    Span { column: span.column + quotes + offset, width: 1, ..whole }
}

fn decode<T>(
    node: &Node,
    findings: &mut Findings,
    parse: impl Fn(&str) -> Result<T, ExpressionError>,
) -> Option<T> {
    let text = match &node.value {
        Value::Text(text) => Cow::Borrowed(text.as_str()),
        // `true` and `1` are expressions too.
        Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_) => {
            Cow::Owned(node.to_json().to_string())
        }
        _ => {
            findings.push(wrong_type(node, "text with an expression"));
            return None;
        }
    };
    parse(&text).map_err(|error| findings.push(error.at(Some(&node.span)))).ok()
}

impl Decode for Expression {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        decode(node, findings, Expression::parse)
    }
}

impl Decode for Template {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        decode(node, findings, Template::parse)
    }
}

impl Decode for TemplateTree {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Text(_) => {
                let template = Template::decode(node, findings)?;
                Some(match template.as_constant() {
                    Some(text) => TemplateTree::Constant(text.into()),
                    None => TemplateTree::Template(template),
                })
            }
            Value::Sequence(items) => {
                let items: Vec<Option<Self>> =
                    items.iter().map(|item| Self::decode(item, findings)).collect();
                items.into_iter().collect::<Option<_>>().map(TemplateTree::List)
            }
            Value::Mapping(entries) => {
                let entries: Vec<Option<(String, Self)>> = entries
                    .iter()
                    .map(|(key, node)| Some((key.value.clone(), Self::decode(node, findings)?)))
                    .collect();
                entries.into_iter().collect::<Option<_>>().map(TemplateTree::Map)
            }
            _ => Some(TemplateTree::Constant(node.to_json())),
        }
    }
}

macro_rules! schemas {
    ($($type:ident { $($rule:tt)* })*) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ $($rule)* })
            }
        }
    )*};
}

schemas! {
    Expression { "type": ["string", "boolean", "number"] }
    Template { "type": ["string", "boolean", "number"] }
    TemplateTree {}
}
