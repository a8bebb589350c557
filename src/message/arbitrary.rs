//! Random messages for tests: every combination of properties, every header type, any bytes.

use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::{FieldTable, FieldValue, Message, Properties};

fn short() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9._/-]{0,20}",
        1 => "\\PC{0,40}",
        1 => any::<String>().prop_map(|text| text.chars().take(60).collect()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z][a-z0-9-]{0,12}",
        1 => "\\$[a-z0-9]{0,6}",
        1 => "\\PC{0,20}",
    ]
}

/// Any header value.
pub(crate) fn value() -> impl Strategy<Value = FieldValue> {
    let leaf = prop_oneof![
        Just(FieldValue::Void),
        any::<bool>().prop_map(FieldValue::Bool),
        any::<i8>().prop_map(FieldValue::Int8),
        any::<u8>().prop_map(FieldValue::UInt8),
        any::<i16>().prop_map(FieldValue::Int16),
        any::<u16>().prop_map(FieldValue::UInt16),
        any::<i32>().prop_map(FieldValue::Int32),
        any::<u32>().prop_map(FieldValue::UInt32),
        any::<i64>().prop_map(FieldValue::Int64),
        any::<u32>().prop_map(|bits| FieldValue::Float(f32::from_bits(bits))),
        any::<f32>().prop_map(FieldValue::Float),
        any::<u64>().prop_map(|bits| FieldValue::Double(f64::from_bits(bits))),
        any::<f64>().prop_map(FieldValue::Double),
        prop::sample::select(vec![
            FieldValue::Double(f64::NAN),
            FieldValue::Double(f64::INFINITY),
            FieldValue::Double(f64::NEG_INFINITY),
            FieldValue::Double(-0.0),
            FieldValue::Float(f32::NAN),
            FieldValue::Float(f32::NEG_INFINITY),
            FieldValue::Timestamp(253_402_207_200),
            FieldValue::Timestamp(253_402_207_201),
        ]),
        (any::<u8>(), any::<u32>())
            .prop_map(|(scale, unscaled)| FieldValue::Decimal { scale, unscaled }),
        short().prop_map(FieldValue::from),
        vec(any::<u8>(), 0..20).prop_map(FieldValue::Text),
        vec(any::<u8>(), 0..20).prop_map(FieldValue::Bytes),
        any::<u64>().prop_map(FieldValue::Timestamp),
        (0u64..4_000_000_000).prop_map(FieldValue::Timestamp),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(FieldValue::Array),
            btree_map(name(), inner, 0..4).prop_map(|table| FieldValue::Table(FieldTable(table))),
        ]
    })
}

/// Any header table.
pub(crate) fn table() -> impl Strategy<Value = FieldTable> {
    btree_map(name(), value(), 0..5).prop_map(FieldTable)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        vec(any::<u8>(), 0..100),
        any::<String>().prop_map(String::into_bytes),
        "\\{\"[a-z]{1,5}\": ?[0-9]{1,25}(\\.[0-9]{1,3})?\\}".prop_map(String::into_bytes),
        "-?[0-9]{1,22}(\\.[0-9]{1,20})?(e[0-9])?".prop_map(String::into_bytes),
        "\\[\"(\\\\n|\\\\u00[0-9a-fA-F]{2}|é|x){0,5}\",(true|false|null)\\]"
            .prop_map(String::into_bytes),
    ]
}

/// Any message. `expiration` and `user_id` are any text here; a broker wants more of them.
pub(crate) fn message() -> impl Strategy<Value = Message> {
    let first = (
        of(short()),
        of(short()),
        of(table()),
        of(any::<u8>()),
        of(any::<u8>()),
        of(short()),
        of(short()),
    );
    let second = (
        of(prop_oneof!["[0-9]{1,8}".boxed(), short().boxed()]),
        of(short()),
        of(prop_oneof![any::<u64>().boxed(), (0u64..4_000_000_000).boxed()]),
        of(short()),
        of(short()),
        of(short()),
        of(short()),
    );
    (first, second, body()).prop_map(|(first, second, body)| {
        let (
            content_type,
            content_encoding,
            headers,
            delivery_mode,
            priority,
            correlation_id,
            reply_to,
        ) = first;
        let (expiration, message_id, timestamp, kind, user_id, app_id, cluster_id) = second;
        Message {
            properties: Properties {
                content_type,
                content_encoding,
                headers,
                delivery_mode,
                priority,
                correlation_id,
                reply_to,
                expiration,
                message_id,
                timestamp,
                kind,
                user_id,
                app_id,
                cluster_id,
            },
            body,
        }
    })
}

/// Whether two messages are the same to the last bit, which `==` cannot say of NaN.
pub(crate) fn same(a: &Message, b: &Message) -> bool {
    let bare = |message: &Message| {
        let mut message = message.clone();
        message.properties.headers = None;
        message
    };
    bare(a) == bare(b)
        && match (&a.properties.headers, &b.properties.headers) {
            (None, None) => true,
            (Some(a), Some(b)) => same_table(a, b),
            _ => false,
        }
}

fn same_table(a: &FieldTable, b: &FieldTable) -> bool {
    a.len() == b.len() && a.iter().zip(b.iter()).all(|((a, x), (b, y))| a == b && same_value(x, y))
}

fn same_value(a: &FieldValue, b: &FieldValue) -> bool {
    match (a, b) {
        (FieldValue::Float(a), FieldValue::Float(b)) => a.to_bits() == b.to_bits(),
        (FieldValue::Double(a), FieldValue::Double(b)) => a.to_bits() == b.to_bits(),
        (FieldValue::Array(a), FieldValue::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_value(a, b))
        }
        (FieldValue::Table(a), FieldValue::Table(b)) => same_table(a, b),
        _ => a == b,
    }
}
