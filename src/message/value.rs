//! Header and argument values with their AMQP 0-9-1 types.

use std::collections::BTreeMap;

/// A value in a header or argument table. The letter is RabbitMQ's type octet.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// `V`
    Void,
    /// `t`
    Bool(bool),
    /// `b`
    Int8(i8),
    /// `B`
    UInt8(u8),
    /// `s`
    Int16(i16),
    /// `u`
    UInt16(u16),
    /// `I`
    Int32(i32),
    /// `i`
    UInt32(u32),
    /// `l`
    Int64(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `unscaled * 10^-scale`
    Decimal {
        /// Digits after the point.
        scale: u8,
        /// The number without its point.
        unscaled: u32,
    },
    /// `S`: text by convention, any bytes by the protocol.
    Text(Vec<u8>),
    /// `x`
    Bytes(Vec<u8>),
    /// `T`: whole seconds since 1970.
    Timestamp(u64),
    /// `A`
    Array(Vec<FieldValue>),
    /// `F`
    Table(FieldTable),
}

/// A table of named values, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldTable(pub BTreeMap<String, FieldValue>);

impl FieldTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value called `name`.
    pub fn get(&self, name: &str) -> Option<&FieldValue> {
        self.0.get(name)
    }

    /// Sets `name` to `value` and returns what it was.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<FieldValue>,
    ) -> Option<FieldValue> {
        self.0.insert(name.into(), value.into())
    }

    /// The table with `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<FieldValue>) -> Self {
        self.insert(name, value);
        self
    }

    /// Takes `name` out.
    pub fn remove(&mut self, name: &str) -> Option<FieldValue> {
        self.0.remove(name)
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Names and values, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &FieldValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl FieldValue {
    /// The text, when this is a long string of UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            FieldValue::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number, when this is an integer of any width.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            FieldValue::Int8(n) => Some(i64::from(*n)),
            FieldValue::UInt8(n) => Some(i64::from(*n)),
            FieldValue::Int16(n) => Some(i64::from(*n)),
            FieldValue::UInt16(n) => Some(i64::from(*n)),
            FieldValue::Int32(n) => Some(i64::from(*n)),
            FieldValue::UInt32(n) => Some(i64::from(*n)),
            FieldValue::Int64(n) => Some(*n),
            _ => None,
        }
    }

    /// Whether the broker would call the two equal: integers compare by number, whatever their width.
    pub fn is_equivalent(&self, other: &FieldValue) -> bool {
        match (self.as_i64(), other.as_i64()) {
            (Some(a), Some(b)) => a == b,
            _ => self == other,
        }
    }
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        FieldValue::Text(text.as_bytes().to_vec())
    }
}

impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        FieldValue::Text(text.into_bytes())
    }
}

impl From<i64> for FieldValue {
    fn from(number: i64) -> Self {
        FieldValue::Int64(number)
    }
}

impl From<bool> for FieldValue {
    fn from(flag: bool) -> Self {
        FieldValue::Bool(flag)
    }
}

impl From<FieldTable> for FieldValue {
    fn from(table: FieldTable) -> Self {
        FieldValue::Table(table)
    }
}

impl FromIterator<(String, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (String, FieldValue)>>(iter: I) -> Self {
        FieldTable(iter.into_iter().collect())
    }
}
