//! What values an argument takes, and arguments as JSON.

use serde_json::{Number, Value};

use crate::message::{FieldTable, FieldValue};

/// RabbitMQ's ceiling for every span of time: ten years of milliseconds.
pub const MAX_MILLISECONDS: i64 = 315_360_000_000;

/// What values an argument or policy key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A whole number within both bounds.
    Count {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// A span of time in milliseconds, at least `min`; in YAML `10s`.
    Milliseconds {
        /// Smallest allowed.
        min: i64,
    },
    /// A size in bytes up to `max`; in YAML `64MiB`.
    Bytes {
        /// Largest allowed.
        max: i64,
    },
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A span of time as RabbitMQ's streams write it: a number and one of `Y M D h m s`.
    Age,
    /// A list or anything else that is not looked into.
    Any,
}

impl ValueKind {
    /// What a person is told to write: `a whole number of at least 0`.
    pub fn describe(self) -> String {
        match self {
            ValueKind::Count { min, max: i64::MAX } => {
                format!("a whole number of at least {min}")
            }
            ValueKind::Count { min, max } => format!("a whole number from {min} to {max}"),
            ValueKind::Milliseconds { min } => {
                format!("milliseconds, a whole number from {min} to {MAX_MILLISECONDS} (ten years)")
            }
            ValueKind::Bytes { max: i64::MAX } => "a whole number of bytes".to_owned(),
            ValueKind::Bytes { max } => format!("a whole number of bytes up to {max}"),
            ValueKind::Text => "text".to_owned(),
            ValueKind::Choice(words) => format!("one of {}", words.join(", ")),
            ValueKind::Flag => "true or false".to_owned(),
            ValueKind::Age => "a number and one of Y, M, D, h, m, s, such as 7D".to_owned(),
            ValueKind::Any => "anything".to_owned(),
        }
    }

    pub(super) fn check(self, value: &FieldValue) -> Result<(), ValueFault> {
        let within = |min: i64, max: i64| match value.as_i64() {
            None => Err(ValueFault::Type),
            Some(n) if n < min || n > max => Err(ValueFault::Range),
            Some(_) => Ok(()),
        };
        match self {
            ValueKind::Count { min, max } => within(min, max),
            ValueKind::Milliseconds { min } => within(min, MAX_MILLISECONDS),
            ValueKind::Bytes { max } => within(0, max),
            ValueKind::Text => value.as_text().map(|_| ()).ok_or(ValueFault::Type),
            ValueKind::Choice(words) => match value.as_text() {
                None => Err(ValueFault::Type),
                Some(word) if words.contains(&word) => Ok(()),
                Some(_) => Err(ValueFault::Range),
            },
            ValueKind::Flag => match value {
                FieldValue::Bool(_) => Ok(()),
                _ => Err(ValueFault::Type),
            },
            ValueKind::Age => match value.as_text() {
                None => Err(ValueFault::Type),
                Some(text) if is_age(text) => Ok(()),
                Some(_) => Err(ValueFault::Range),
            },
            ValueKind::Any => Ok(()),
        }
    }
}

pub(super) enum ValueFault {
    Type,
    Range,
}

/// Whether `text` is a span of time as streams take it: `7D`.
pub fn is_age(text: &str) -> bool {
    let Some(unit) = text.chars().last() else { return false };
    let digits = &text[..text.len() - unit.len_utf8()];
    "YMDhms".contains(unit)
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.parse::<u64>().is_ok_and(|n| n > 0)
}

/// A JSON value as RabbitMQ makes it an argument.
pub fn field_of_json(value: &Value) -> FieldValue {
    match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::Number(number) => number
            .as_i64()
            .map(FieldValue::Int64)
            .or_else(|| number.as_f64().map(FieldValue::Double))
            .unwrap_or(FieldValue::Void),
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Array(items) => FieldValue::Array(items.iter().map(field_of_json).collect()),
        Value::Object(map) => FieldValue::Table(
            map.iter()
                .map(|(name, value)| (name.clone(), field_of_json(value)))
                .collect::<FieldTable>(),
        ),
    }
}

/// An argument as JSON, as the management API writes it. Types that JSON lacks lose their name:
/// bytes that are no UTF-8 become text with replacement characters.
pub fn json_of_field(value: &FieldValue) -> Value {
    match value {
        FieldValue::Void => Value::Null,
        FieldValue::Bool(flag) => Value::Bool(*flag),
        FieldValue::Float(number) => {
            Number::from_f64(f64::from(*number)).map_or(Value::Null, Value::Number)
        }
        FieldValue::Double(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        FieldValue::Decimal { scale, unscaled } => {
            Number::from_f64(f64::from(*unscaled) / 10f64.powi(i32::from(*scale)))
                .map_or(Value::Null, Value::Number)
        }
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => {
            Value::String(String::from_utf8_lossy(bytes).into_owned())
        }
        FieldValue::Timestamp(seconds) => Value::from(*seconds),
        FieldValue::Array(items) => Value::Array(items.iter().map(json_of_field).collect()),
        FieldValue::Table(table) => Value::Object(
            table.iter().map(|(name, value)| (name.to_owned(), json_of_field(value))).collect(),
        ),
        integer => integer.as_i64().map_or(Value::Null, Value::from),
    }
}

/// A value as a person is shown it: text in quotes, so that `"5"` and `5` look different.
pub fn describe_value(value: &FieldValue) -> String {
    json_of_field(value).to_string()
}
