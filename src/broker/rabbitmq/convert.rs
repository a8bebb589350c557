//! Between our values and the client library's. Nothing is lost either way except the order and
//! repetition of table keys, which the library does not keep.

use lapin::BasicProperties;
use lapin::types::{
    AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable as AmqpTable, ShortString,
};

use crate::message::{FieldTable, FieldValue, Properties};

/// A text that does not fit into AMQP's 255 bytes: what it was to be, and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TooLong {
    pub(super) what: String,
    pub(super) bytes: usize,
}

/// `text` as a short string.
pub(super) fn short(text: &str, what: &str) -> Result<ShortString, TooLong> {
    ShortString::try_new(text).map_err(|_| TooLong { what: what.to_owned(), bytes: text.len() })
}

/// A name that was checked when it was made.
pub(super) fn name(checked: impl AsRef<str>) -> ShortString {
    // Every name type holds at most 255 bytes, so the cut is never taken.
    let text = checked.as_ref();
    ShortString::try_new(text).unwrap_or_default()
}

pub(super) fn table_out(table: &FieldTable) -> Result<AmqpTable, TooLong> {
    let mut out = AmqpTable::default();
    for (key, value) in table.iter() {
        out.insert(short(key, "table key")?, value_out(value)?);
    }
    Ok(out)
}

fn value_out(value: &FieldValue) -> Result<AMQPValue, TooLong> {
    Ok(match value {
        FieldValue::Void => AMQPValue::Void,
        FieldValue::Bool(v) => AMQPValue::Boolean(*v),
        FieldValue::Int8(v) => AMQPValue::ShortShortInt(*v),
        FieldValue::UInt8(v) => AMQPValue::ShortShortUInt(*v),
        FieldValue::Int16(v) => AMQPValue::ShortInt(*v),
        FieldValue::UInt16(v) => AMQPValue::ShortUInt(*v),
        FieldValue::Int32(v) => AMQPValue::LongInt(*v),
        FieldValue::UInt32(v) => AMQPValue::LongUInt(*v),
        FieldValue::Int64(v) => AMQPValue::LongLongInt(*v),
        FieldValue::Float(v) => AMQPValue::Float(*v),
        FieldValue::Double(v) => AMQPValue::Double(*v),
        FieldValue::Decimal { scale, unscaled } => {
            AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *unscaled })
        }
        FieldValue::Text(bytes) => AMQPValue::LongString(bytes.clone().into()),
        FieldValue::Bytes(bytes) => AMQPValue::ByteArray(bytes.clone().into()),
        FieldValue::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        FieldValue::Array(values) => {
            let values: Result<Vec<_>, _> = values.iter().map(value_out).collect();
            AMQPValue::FieldArray(FieldArray::from(values?))
        }
        FieldValue::Table(table) => AMQPValue::FieldTable(table_out(table)?),
    })
}

pub(super) fn table_in(table: &AmqpTable) -> FieldTable {
    table.into_iter().map(|(key, value)| (key.as_str().to_owned(), value_in(value))).collect()
}

fn value_in(value: &AMQPValue) -> FieldValue {
    match value {
        AMQPValue::Void => FieldValue::Void,
        AMQPValue::Boolean(v) => FieldValue::Bool(*v),
        AMQPValue::ShortShortInt(v) => FieldValue::Int8(*v),
        AMQPValue::ShortShortUInt(v) => FieldValue::UInt8(*v),
        AMQPValue::ShortInt(v) => FieldValue::Int16(*v),
        AMQPValue::ShortUInt(v) => FieldValue::UInt16(*v),
        AMQPValue::LongInt(v) => FieldValue::Int32(*v),
        AMQPValue::LongUInt(v) => FieldValue::UInt32(*v),
        AMQPValue::LongLongInt(v) => FieldValue::Int64(*v),
        AMQPValue::Float(v) => FieldValue::Float(*v),
        AMQPValue::Double(v) => FieldValue::Double(*v),
        AMQPValue::DecimalValue(v) => FieldValue::Decimal { scale: v.scale, unscaled: v.value },
        AMQPValue::ShortString(text) => FieldValue::Text(text.as_str().as_bytes().to_vec()),
        AMQPValue::LongString(text) => FieldValue::Text(text.as_bytes().to_vec()),
        AMQPValue::ByteArray(bytes) => FieldValue::Bytes(ByteArray::as_slice(bytes).to_vec()),
        AMQPValue::Timestamp(seconds) => FieldValue::Timestamp(*seconds),
        AMQPValue::FieldArray(values) => {
            FieldValue::Array(values.as_slice().iter().map(value_in).collect())
        }
        AMQPValue::FieldTable(table) => FieldValue::Table(table_in(table)),
    }
}

pub(super) fn properties_out(properties: &Properties) -> Result<BasicProperties, TooLong> {
    let mut out = BasicProperties::default();
    macro_rules! text {
        ($($field:ident, $name:literal, $set:ident;)*) => {
            $(if let Some(text) = &properties.$field {
                out = out.$set(short(text, $name)?);
            })*
        };
    }
    text! {
        content_type, "content_type", with_content_type;
        content_encoding, "content_encoding", with_content_encoding;
        correlation_id, "correlation_id", with_correlation_id;
        reply_to, "reply_to", with_reply_to;
        expiration, "expiration", with_expiration;
        message_id, "message_id", with_message_id;
        kind, "type", with_type;
        user_id, "user_id", with_user_id;
        app_id, "app_id", with_app_id;
        cluster_id, "cluster_id", with_cluster_id;
    }
    if let Some(headers) = &properties.headers {
        out = out.with_headers(table_out(headers)?);
    }
    if let Some(mode) = properties.delivery_mode {
        out = out.with_delivery_mode(mode);
    }
    if let Some(priority) = properties.priority {
        out = out.with_priority(priority);
    }
    if let Some(timestamp) = properties.timestamp {
        out = out.with_timestamp(timestamp);
    }
    Ok(out)
}

pub(super) fn properties_in(properties: &BasicProperties) -> Properties {
    let text = |text: &Option<ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
    Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        headers: properties.headers().as_ref().map(table_in),
        delivery_mode: *properties.delivery_mode(),
        priority: *properties.priority(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        expiration: text(properties.expiration()),
        message_id: text(properties.message_id()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        user_id: text(properties.user_id()),
        app_id: text(properties.app_id()),
        cluster_id: text(properties.cluster_id()),
    }
}

/// The name of a value in which a number is infinite or none. The broker's language has no such floats:
/// the process that reads them crashes, and nothing is ever answered.
pub(super) fn endless_number(table: &FieldTable) -> Option<&str> {
    fn is_endless(value: &FieldValue) -> bool {
        match value {
            FieldValue::Float(number) => !number.is_finite(),
            FieldValue::Double(number) => !number.is_finite(),
            FieldValue::Array(values) => values.iter().any(is_endless),
            FieldValue::Table(table) => endless_number(table).is_some(),
            _ => false,
        }
    }
    table.iter().find(|(_, value)| is_endless(value)).map(|(name, _)| name)
}

/// How many bytes `table` takes on the wire.
pub(super) fn table_bytes(table: &FieldTable) -> usize {
    4 + table.iter().map(|(key, value)| 1 + key.len() + value_bytes(value)).sum::<usize>()
}

fn value_bytes(value: &FieldValue) -> usize {
    1 + match value {
        FieldValue::Void => 0,
        FieldValue::Bool(_) | FieldValue::Int8(_) | FieldValue::UInt8(_) => 1,
        FieldValue::Int16(_) | FieldValue::UInt16(_) => 2,
        FieldValue::Int32(_) | FieldValue::UInt32(_) | FieldValue::Float(_) => 4,
        FieldValue::Decimal { .. } => 5,
        FieldValue::Int64(_) | FieldValue::Double(_) | FieldValue::Timestamp(_) => 8,
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => 4 + bytes.len(),
        FieldValue::Array(values) => 4 + values.iter().map(value_bytes).sum::<usize>(),
        FieldValue::Table(table) => table_bytes(table),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, arbitrary};

    proptest! {
        #[test]
        fn a_table_comes_back_as_it_went_out(table in arbitrary::table()) {
            let out = table_out(&table).expect("keys are short");
            let with = |table| Message {
                properties: Properties { headers: Some(table), ..Properties::default() },
                body: Vec::new(),
            };
            prop_assert!(arbitrary::same(&with(table_in(&out)), &with(table)));
        }
    }

    #[test]
    fn properties_come_back_as_they_went_out() {
        let text = |text: &str| Some(text.to_owned());
        let full = Properties {
            content_type: text("application/json"),
            content_encoding: text("gzip"),
            headers: Some(FieldTable::new().with("a", 1i64)),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: text("c"),
            reply_to: text("r"),
            expiration: text("1000"),
            message_id: text("m"),
            timestamp: Some(1_700_000_000),
            kind: text("t"),
            user_id: text("u"),
            app_id: text("a"),
            cluster_id: text(""),
        };
        for properties in [full, Properties::default()] {
            let out = properties_out(&properties).expect("everything is short");
            assert_eq!(properties_in(&out), properties);
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let properties = Properties { reply_to: Some("x".repeat(256)), ..Properties::default() };
        assert_eq!(
            properties_out(&properties),
            Err(TooLong { what: "reply_to".to_owned(), bytes: 256 })
        );
    }

    #[test]
    fn the_size_on_the_wire_is_counted() {
        // Length (4), then key length, key, type and value of each.
        let table = FieldTable::new().with("ab", 1i64).with("c", "xyz").with("d", true);
        assert_eq!(
            table_bytes(&table),
            4 + (1 + 2 + 1 + 8) + (1 + 1 + 1 + 4 + 3) + (1 + 1 + 1 + 1)
        );
    }
}
