//! Texts with `${ … }` in them, and trees of such texts.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use super::context::kind_name;
use super::{Context, EvaluationError, Expression, ExpressionError};

/// A text with expressions in it: `orders.${ region }.${ int(size / 10) }`.
///
/// A text that is one expression and nothing else keeps the type of its value; in all others the
/// values must be text, numbers, `true` or `false`. `$${` stands for `${`. A `$` before anything else is
/// just that.
#[derive(Clone)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    Expression(Expression),
}

impl Template {
    /// Reads a template whose variables are not known yet.
    pub fn parse(source: &str) -> Result<Self, ExpressionError> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(dollar) = rest.find('$') {
            let (before, after) = rest.split_at(dollar);
            text.push_str(before);
            if let Some(after) = after.strip_prefix("$${") {
                text.push_str("${");
                rest = after;
            } else if let Some(inside) = after.strip_prefix("${") {
                let begin = source.len() - inside.len();
                let Some(end) = end_of_expression(inside) else {
                    let offset = source[..begin].chars().count() - 2;
                    return Err(ExpressionError::new(source, offset, "the `${` is not closed")
                        .hint("close it with `}`; where `${` itself is meant, write `$${`"));
                };
                let expression = Expression::parse(&inside[..end]).map_err(|error| {
                    let offset = source[..begin].chars().count() + error.offset;
                    let moved = ExpressionError::new(source, offset, error.message);
                    ExpressionError { hint: error.hint, ..moved }
                })?;
                if !text.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut text)));
                }
                parts.push(Part::Expression(expression));
                rest = &inside[end + 1..];
            } else {
                text.push('$');
                rest = &after[1..];
            }
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Template { source: source.to_owned(), parts })
    }

    /// Reads a template that may use `variables` and no others.
    pub fn parse_with(source: &str, variables: &[&str]) -> Result<Self, ExpressionError> {
        let template = Self::parse(source)?;
        template.check_variables(variables)?;
        Ok(template)
    }

    /// Refuses a variable that is not among `variables`, with the nearest that is.
    pub fn check_variables(&self, variables: &[&str]) -> Result<(), ExpressionError> {
        let mut begin = 0;
        for expression in self.expressions() {
            // The parts are in the order of the source, and each is written out in it.
            begin += self.source[begin..].find(expression.source()).unwrap_or(0);
            expression.check_variables(variables).map_err(|error| {
                let offset = self.source[..begin].chars().count() + error.offset;
                let moved = ExpressionError::new(&self.source, offset, error.message);
                ExpressionError { hint: error.hint, ..moved }
            })?;
            begin += expression.source().len();
        }
        Ok(())
    }

    /// The expressions in it, in order.
    pub fn expressions(&self) -> impl Iterator<Item = &Expression> {
        self.parts.iter().filter_map(|part| match part {
            Part::Expression(expression) => Some(expression),
            Part::Text(_) => None,
        })
    }

    /// The text, when there is no expression in it.
    pub fn as_constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// As it was written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Its value: of any type when it is one expression, text otherwise.
    pub fn evaluate(&self, context: &Context<'_>) -> Result<Json, EvaluationError> {
        match self.parts.as_slice() {
            [Part::Expression(expression)] => expression.evaluate(context),
            _ => self.evaluate_text(context).map(Json::String),
        }
    }

    /// Its value as text.
    pub fn evaluate_text(&self, context: &Context<'_>) -> Result<String, EvaluationError> {
        let mut text = String::with_capacity(self.source.len());
        for part in &self.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Expression(expression) => match expression.evaluate(context)? {
                    Json::String(value) => text.push_str(&value),
                    value @ (Json::Number(_) | Json::Bool(_)) => text.push_str(&value.to_string()),
                    other => {
                        let found = kind_name(&other);
                        return Err(EvaluationError::WrongType {
                            message: format!("`${{{expression}}}` is {found}, and text is needed"),
                        });
                    }
                },
            }
        }
        Ok(text)
    }
}

/// Where the `}` stands that closes an expression. Braces of maps and those in texts do not count.
fn end_of_expression(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut i, mut depth) = (0, 0_usize);
    while i < bytes.len() {
        match bytes[i] {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(i),
            b'}' => depth -= 1,
            b'/' if bytes[i + 1..].starts_with(b"/") => {
                i += bytes[i..].iter().position(|byte| *byte == b'\n')?;
            }
            quote @ (b'"' | b'\'') => {
                let is_prefix = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
                let mut word = i;
                while word > 0 && is_prefix(bytes[word - 1]) {
                    word -= 1;
                }
                let raw = matches!(
                    &text[word..i],
                    "r" | "R" | "br" | "bR" | "Br" | "BR" | "rb" | "Rb" | "rB" | "RB"
                );
                i = end_of_text(bytes, i, quote, raw)?;
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// The last byte of the text in quotes that begins at `start`.
fn end_of_text(bytes: &[u8], start: usize, quote: u8, raw: bool) -> Option<usize> {
    let triple = bytes[start..].starts_with(&[quote; 3]);
    let width = if triple { 3 } else { 1 };
    let mut i = start + width;
    while i < bytes.len() {
        if bytes[i] == b'\\' && !raw {
            i += 2;
        } else if bytes[i..].starts_with(&[quote; 3][..width]) {
            return Some(i + width - 1);
        } else {
            i += 1;
        }
    }
    None
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.source).finish()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.source)
    }
}

/// Two templates are equal when they are written alike.
impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Template {}

impl std::str::FromStr for Template {
    type Err = ExpressionError;
    fn from_str(source: &str) -> Result<Self, ExpressionError> {
        Self::parse(source)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// Any value of a document, each text in it a [`Template`]. Keys are not.
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateTree {
    /// A value without expressions.
    Constant(Json),
    /// A text with expressions.
    Template(Template),
    /// A list.
    List(Vec<TemplateTree>),
    /// A mapping.
    Map(Vec<(String, TemplateTree)>),
}

impl TemplateTree {
    /// Its value, of the same shape.
    pub fn evaluate(&self, context: &Context<'_>) -> Result<Json, EvaluationError> {
        match self {
            TemplateTree::Constant(value) => Ok(value.clone()),
            TemplateTree::Template(template) => template.evaluate(context),
            TemplateTree::List(items) => items.iter().map(|item| item.evaluate(context)).collect(),
            TemplateTree::Map(entries) => entries
                .iter()
                .map(|(key, value)| Ok((key.clone(), value.evaluate(context)?)))
                .collect::<Result<serde_json::Map<_, _>, _>>()
                .map(Json::Object),
        }
    }

    /// The expressions in it, in order.
    pub fn expressions(&self) -> Vec<&Expression> {
        match self {
            TemplateTree::Constant(_) => Vec::new(),
            TemplateTree::Template(template) => template.expressions().collect(),
            TemplateTree::List(items) => items.iter().flat_map(TemplateTree::expressions).collect(),
            TemplateTree::Map(entries) => {
                entries.iter().flat_map(|(_, value)| value.expressions()).collect()
            }
        }
    }
}

impl Serialize for TemplateTree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            TemplateTree::Constant(value) => value.serialize(serializer),
            TemplateTree::Template(template) => template.serialize(serializer),
            TemplateTree::List(items) => serializer.collect_seq(items),
            TemplateTree::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}
