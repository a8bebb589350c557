//! [`Node`]s to types. What is wrong goes into [`Findings`]; the return value says only whether there
//! is something to go on with, so that one wrong value never hides the next.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{Node, Spanned, Value, did_you_mean, quoted};
use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey, VhostName};
use crate::base::size::ByteSize;
use crate::base::time::HumanDuration;

const WRONG_TYPE: Code = Code("document/wrong-type");
const INVALID_VALUE: Code = Code("document/invalid-value");
const UNKNOWN_KEY: Code = Code("document/unknown-key");
const MISSING_KEY: Code = Code("document/missing-key");

/// What can be read from a document.
pub trait Decode: Sized {
    /// Reads it from `node`. `None` means that an error was added to `findings`; an error may also
    /// have been added beside a value, so ask [`Findings::has_errors`] before trusting the whole.
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self>;

    /// What it is when its key is left out; `None` when the key may not be left out.
    fn absent() -> Option<Self> {
        None
    }

    /// Whether writing may leave its key out, because reading would bring the same value back.
    fn is_absent(&self) -> bool {
        false
    }
}

/// Decodes a whole document: the value, or all findings in the order of the file when any of them is
/// an error. A finding inside an anchored value is made once, however many aliases repeat it.
pub fn decode<T: Decode>(node: &Node) -> Result<T, Findings> {
    let mut findings = Findings::default();
    let value = T::decode(node, &mut findings);
    let mut seen = HashSet::new();
    findings.0.retain(|finding| {
        let place = finding.span.as_ref().map(|span| (span.line, span.column));
        seen.insert((finding.code, place, finding.message.clone()))
    });
    findings.sort();
    match value {
        Some(value) if !findings.has_errors() => Ok(value),
        _ => Err(findings),
    }
}

/// Reads a mapping key by key and then refuses the keys that nobody asked for.
///
/// ```ignore
/// let mut fields = Fields::new(node, findings)?;
/// let queue = fields.field::<QueueName>("queue");
/// let limit = fields.field::<Option<u64>>("limit");
/// fields.finish();
/// Some(Limit { queue: queue?, limit: limit? })
/// ```
#[derive(Debug)]
pub struct Fields<'n, 'f> {
    node: &'n Node,
    entries: &'n [(Spanned<String>, Node)],
    known: Vec<&'static str>,
    findings: &'f mut Findings,
}

impl<'n, 'f> Fields<'n, 'f> {
    /// The keys of `node`, which must be a mapping.
    pub fn new(node: &'n Node, findings: &'f mut Findings) -> Option<Self> {
        match &node.value {
            Value::Mapping(entries) => Some(Fields { node, entries, known: Vec::new(), findings }),
            _ => {
                findings.push(wrong_type(node, "a mapping"));
                None
            }
        }
    }

    /// The value under `key`. When the key is left out: what `T` is then, or an error at the mapping.
    pub fn field<T: Decode>(&mut self, key: &'static str) -> Option<T> {
        self.field_or(key, T::absent)
    }

    /// The value under `key`, or `default` when the key is left out.
    pub fn field_or<T: Decode>(
        &mut self,
        key: &'static str,
        default: impl FnOnce() -> Option<T>,
    ) -> Option<T> {
        if let Some(node) = self.node(key) {
            return T::decode(node, self.findings);
        }
        let value = default();
        if value.is_none() {
            let message = format!("the key `{key}` is missing");
            self.findings.push(Diagnostic::error(MISSING_KEY, message).at(self.node.span.clone()));
        }
        value
    }

    /// The node under `key`, for whoever decodes it on their own. The key counts as known from now on.
    pub fn node(&mut self, key: &'static str) -> Option<&'n Node> {
        self.known.push(key);
        self.entries.iter().find(|(name, _)| name.value == key).map(|(_, node)| node)
    }

    /// Where findings go.
    pub fn findings(&mut self) -> &mut Findings {
        self.findings
    }

    /// Refuses the keys that were not asked for.
    pub fn finish(self) {
        for (key, _) in self.entries {
            if self.known.contains(&key.value.as_str()) {
                continue;
            }
            let mut finding =
                Diagnostic::error(UNKNOWN_KEY, format!("unknown key {}", quoted(key)));
            finding.span.clone_from(&key.span);
            let free: Vec<&str> = self
                .known
                .iter()
                .copied()
                .filter(|name| self.entries.iter().all(|(given, _)| given.value != *name))
                .collect();
            finding.hint = did_you_mean(key, free).or_else(|| {
                (!self.known.is_empty()).then(|| format!("known keys: {}", self.known.join(", ")))
            });
            self.findings.push(finding);
        }
    }
}

/// The finding that `node` is not what was `expected` (`a number`, `a mapping or text`).
pub fn wrong_type(node: &Node, expected: &str) -> Diagnostic {
    let finding = Diagnostic::error(
        WRONG_TYPE,
        match &node.value {
            Value::Text(text) => format!("expected {expected}, found the text {}", quoted(text)),
            _ => format!("expected {expected}, found {}", node.kind_name()),
        },
    )
    .at(node.span.clone());
    match &node.value {
        Value::Bool(_) | Value::Int(_) | Value::UInt(_) | Value::Float(_)
            if expected.contains("text") =>
        {
            match written(node) {
                Some(written) => {
                    finding.hint(format!("if it is text, put it in quotes: \"{written}\""))
                }
                None => finding,
            }
        }
        Value::Text(text) if expected.contains("true or false") => match text.as_str() {
            "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => finding.hint("write `true`"),
            "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => finding.hint("write `false`"),
            _ => finding,
        },
        _ => finding,
    }
}

/// A scalar without quotes as the person wrote it.
fn written(node: &Node) -> Option<String> {
    let line = node.span.source.line(node.span.line)?;
    let start = usize::try_from(node.span.column).ok()?.checked_sub(1)?;
    let width = usize::try_from(node.span.width).ok()?;
    Some(line.chars().skip(start).take(width.min(40)).collect())
}

/// The finding that `node` has the right type and a wrong value.
pub fn invalid_value(node: &Node, why: impl fmt::Display) -> Diagnostic {
    Diagnostic::error(INVALID_VALUE, why.to_string()).at(node.span.clone())
}

/// Decodes text by its [`FromStr`]; what that says of a wrong text becomes the finding.
pub fn decode_from_str<T>(node: &Node, findings: &mut Findings) -> Option<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    let Value::Text(text) = &node.value else {
        findings.push(wrong_type(node, "text"));
        return None;
    };
    match text.parse() {
        Ok(value) => Some(value),
        Err(error) => {
            findings.push(invalid_value(node, error));
            None
        }
    }
}

/// Decodes one word of `all`; a wrong one gets the nearest, or all of them, as advice.
pub(crate) fn decode_word<T: Copy>(
    node: &Node,
    findings: &mut Findings,
    all: &[T],
    word: impl Fn(T) -> &'static str,
) -> Option<T> {
    let Value::Text(text) = &node.value else {
        findings.push(wrong_type(node, "text"));
        return None;
    };
    let found = all.iter().copied().find(|one| word(*one) == text);
    if found.is_none() {
        let words: Vec<&str> = all.iter().map(|one| word(*one)).collect();
        let hint = did_you_mean(text, words.iter().copied())
            .unwrap_or_else(|| format!("known: {}", words.join(", ")));
        findings.push(invalid_value(node, format!("unknown value {}", quoted(text))).hint(hint));
    }
    found
}

impl Decode for bool {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                findings.push(wrong_type(node, "true or false"));
                None
            }
        }
    }
}

/// A whole number that does not fit. Bounds that only our own types have are not worth naming.
fn out_of_bounds(node: &Node, least: i128, most: i128) -> Diagnostic {
    let is_negative = matches!(node.value, Value::Int(value) if value < 0);
    if most < i128::from(i64::MAX) {
        return invalid_value(node, format!("the number must lie between {least} and {most}"));
    }
    if least == 0 && is_negative {
        let finding = invalid_value(node, "the number must be 0 or more");
        return match node.value {
            Value::Int(-1) => finding.hint("for no limit, leave the key out"),
            _ => finding,
        };
    }
    invalid_value(node, format!("the number must not be above {most}"))
}

macro_rules! whole_numbers {
    ($($type:ty),*) => {$(
        impl Decode for $type {
            fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
                let value = match node.value {
                    Value::Int(value) => value.try_into().ok(),
                    Value::UInt(value) => value.try_into().ok(),
                    _ => {
                        findings.push(wrong_type(node, "a whole number"));
                        return None;
                    }
                };
                if value.is_none() {
                    let (least, most) = (i128::from(<$type>::MIN), i128::from(<$type>::MAX));
                    findings.push(out_of_bounds(node, least, most));
                }
                value
            }
        }
    )*};
}

whole_numbers!(u8, u16, u32, u64, i32, i64);

impl Decode for f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a fraction was asked for, so rounding is meant"
    )]
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.value {
            Value::Float(value) => Some(value),
            Value::Int(value) => Some(value as f64),
            Value::UInt(value) => Some(value as f64),
            _ => {
                findings.push(wrong_type(node, "a number"));
                None
            }
        }
    }
}

impl Decode for String {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Text(value) => Some(value.clone()),
            _ => {
                findings.push(wrong_type(node, "text"));
                None
            }
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        if node.is_null() { Some(None) } else { T::decode(node, findings).map(Some) }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }

    fn is_absent(&self) -> bool {
        self.is_none()
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        T::decode(node, findings).map(Box::new)
    }

    fn absent() -> Option<Self> {
        T::absent().map(Box::new)
    }

    fn is_absent(&self) -> bool {
        T::is_absent(self)
    }
}

impl<T: Decode> Decode for Spanned<T> {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        T::decode(node, findings).map(|value| Spanned::at(value, node.span.clone()))
    }

    fn absent() -> Option<Self> {
        T::absent().map(Spanned::nowhere)
    }

    fn is_absent(&self) -> bool {
        self.value.is_absent()
    }
}

/// A list; an empty place is an empty list.
impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Vec::new()),
            Value::Sequence(items) => {
                let decoded: Vec<Option<T>> =
                    items.iter().map(|item| T::decode(item, findings)).collect();
                decoded.into_iter().collect()
            }
            _ => {
                findings.push(wrong_type(node, "a list"));
                None
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(Vec::new())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

/// A mapping whose keys are names of the writer's own, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries<T>(pub Vec<(Spanned<String>, T)>);

impl<T> Entries<T> {
    /// The value under `key`.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.iter().find(|(name, _)| name.value == key).map(|(_, value)| value)
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, (Spanned<String>, T)> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries(Vec::new())
    }
}

impl<K: Into<String>, T> FromIterator<(K, T)> for Entries<T> {
    fn from_iter<I: IntoIterator<Item = (K, T)>>(entries: I) -> Self {
        Entries(
            entries.into_iter().map(|(key, value)| (Spanned::nowhere(key.into()), value)).collect(),
        )
    }
}

impl<'a, T> IntoIterator for &'a Entries<T> {
    type Item = &'a (Spanned<String>, T);
    type IntoIter = std::slice::Iter<'a, (Spanned<String>, T)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T> IntoIterator for Entries<T> {
    type Item = (Spanned<String>, T);
    type IntoIter = std::vec::IntoIter<(Spanned<String>, T)>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// An empty place is an empty mapping.
impl<T: Decode> Decode for Entries<T> {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Null => Some(Entries::default()),
            Value::Mapping(entries) => {
                let decoded: Vec<Option<(Spanned<String>, T)>> = entries
                    .iter()
                    .map(|(key, node)| T::decode(node, findings).map(|value| (key.clone(), value)))
                    .collect();
                decoded.into_iter().collect::<Option<Vec<_>>>().map(Entries)
            }
            _ => {
                findings.push(wrong_type(node, "a mapping"));
                None
            }
        }
    }

    fn absent() -> Option<Self> {
        Some(Entries::default())
    }

    fn is_absent(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Serialize> Serialize for Entries<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_entry(&key.value, value)?;
        }
        map.end()
    }
}

impl<T: Serialize> Serialize for Spanned<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// Anything, as it was written.
impl Decode for Node {
    fn decode(node: &Node, _: &mut Findings) -> Option<Self> {
        Some(node.clone())
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// Anything, its places forgotten.
impl Decode for serde_json::Value {
    fn decode(node: &Node, _: &mut Findings) -> Option<Self> {
        Some(node.to_json())
    }
}

/// Text with a unit, or the number 0.
impl Decode for HumanDuration {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.value {
            Value::Int(0) => Some(HumanDuration::from_ms(0)),
            Value::Text(_) => decode_from_str(node, findings),
            Value::Int(_) | Value::UInt(_) | Value::Float(_) => {
                let number = written(node).unwrap_or_default();
                findings.push(invalid_value(node, "a duration needs a unit").hint(format!(
                    "write {number}ms, {number}s, {number}m, {number}h or {number}d"
                )));
                None
            }
            _ => {
                findings.push(wrong_type(node, "a duration such as 10s"));
                None
            }
        }
    }
}

/// A number of bytes, or text with a unit.
impl Decode for ByteSize {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match node.value {
            Value::Int(_) | Value::UInt(_) => u64::decode(node, findings).map(ByteSize),
            Value::Text(_) => decode_from_str(node, findings),
            _ => {
                findings.push(wrong_type(node, "a size such as 64KiB"));
                None
            }
        }
    }
}

macro_rules! names {
    ($($type:ty),*) => {$(
        impl Decode for $type {
            fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
                decode_from_str(node, findings)
            }
        }
    )*};
}

names!(ExchangeName, QueueName, RoutingKey, VhostName, PolicyName);
