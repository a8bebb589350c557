//! Files that people write: YAML or JSON, read into a tree that knows the place of every value, then
//! decoded into Rust types with all errors at once.
//!
//! ```text
//! bytes ── source_from_bytes ─▶ Source ── read_documents ─▶ Node ── header / decode ─▶ your type
//! ```
//!
//! - [`read`]: text to [`Node`]s. Bounded in size, depth and what aliases may expand to; duplicate keys
//!   are errors.
//! - [`decode`]: [`Node`]s to types. Every wrong value, missing and unknown key becomes a finding, and
//!   one of them never hides the next.
//! - `declare`: `document_struct!` and `document_enum!`, which declare a type once and yield its
//!   decoding, its JSON Schema and its writing.
//! - [`header`]: `apiVersion` and `kind`.
//! - [`write`]: types back to YAML.
//!
//! The YAML is 1.2 with its core schema, less what surprises: `yes`, `on` and `012` are text, merge
//! keys (`<<`), tags of one's own and numbers that are not finite are refused.
//!
//! Nothing here opens a file, and nothing here knows what any document means.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use super::diagnostic::Span;

pub(crate) mod declare;
pub mod decode;
pub mod header;
pub mod read;
pub mod write;

pub(crate) use declare::{document_enum, document_struct};
pub use decode::{Decode, Entries, Fields, decode, decode_from_str};
pub use header::{Header, Kind, header};
pub use read::{
    Limits, read_documents, read_documents_within, source_from_bytes, source_from_bytes_within,
};
pub use write::to_yaml;

/// A value of a document, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it begins. For a value reached through an alias: where it was written.
    pub span: Span,
    /// What it is.
    pub value: Value,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: `null`, `~`, or an empty place.
    Null,
    /// `true` or `false`, in no other spelling than YAML 1.2's.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number above [`i64::MAX`].
    UInt(u64),
    /// A number with a fraction or an exponent; always finite.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    Sequence(Vec<Node>),
    /// A mapping, in the order of the file, each key once.
    Mapping(Vec<(Spanned<String>, Node)>),
}

impl Node {
    /// The value as JSON, its places forgotten.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::UInt(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Value::Mapping(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, node)| (key.value.clone(), node.to_json())).collect(),
            ),
        }
    }

    /// What it is, with its article: `a mapping`, `a list`, `text`, `a number`, `true or false`,
    /// `nothing`.
    pub fn kind_name(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// Whether it is `null`, `~` or an empty place.
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// The text, when it is text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value under `key`, when it is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Mapping(entries) => {
                entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }
}

/// A value and where it was written. Two of them are equal when their values are.
#[derive(Clone, Debug, Default)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written, when it came from a file.
    pub span: Option<Span>,
}

impl<T> Spanned<T> {
    /// A value written at `span`.
    pub fn at(value: T, span: Span) -> Self {
        Spanned { value, span: Some(span) }
    }

    /// A value that came from no file.
    pub fn nowhere(value: T) -> Self {
        Spanned { value, span: None }
    }

    /// Another value at the same place.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: f(self.value), span: self.span }
    }
}

impl<T> From<T> for Spanned<T> {
    fn from(value: T) -> Self {
        Spanned::nowhere(value)
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: PartialOrd> PartialOrd for Spanned<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.value.partial_cmp(&other.value)
    }
}

impl<T: Ord> Ord for Spanned<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.value.cmp(&other.value)
    }
}

impl<T: Hash> Hash for Spanned<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T: fmt::Display> fmt::Display for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// `text` between backquotes, fit to stand in a message: cut when long, control characters replaced.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String =
        text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// [`super::suggest::nearest`], as advice. Nobody misspells a key of a kilobyte, so long ones are not
/// compared; and one or two letters are near to anything of that length.
pub(crate) fn did_you_mean<'a>(
    given: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    if given.len() > 256 || given.chars().nth(2).is_none() {
        return None;
    }
    super::suggest::nearest(given, known).map(|name| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests;
