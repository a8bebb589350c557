//! Changes and arguments as JSON, for saved plans, journals and reports.
//!
//! What is written is read back equal, argument types included: plain JSON where that is unambiguous
//! (true, text, 64-bit integers), else `{"$type": …, "value": …}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::{
    BindingDefinition, Change, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition,
};
use crate::message::{FieldTable, FieldValue};

/// An argument value as JSON that [`field_from_json`] reads back equal.
pub fn field_to_json(value: &FieldValue) -> Value {
    let typed = |kind: &str, value: Value| json!({ "$type": kind, "value": value });
    match value {
        FieldValue::Void => Value::Null,
        FieldValue::Bool(flag) => Value::Bool(*flag),
        FieldValue::Int64(n) => json!(n),
        FieldValue::Int8(n) => typed("int8", json!(n)),
        FieldValue::UInt8(n) => typed("uint8", json!(n)),
        FieldValue::Int16(n) => typed("int16", json!(n)),
        FieldValue::UInt16(n) => typed("uint16", json!(n)),
        FieldValue::Int32(n) => typed("int32", json!(n)),
        FieldValue::UInt32(n) => typed("uint32", json!(n)),
        FieldValue::Float(n) if n.is_finite() => typed("float", json!(n)),
        FieldValue::Float(n) => typed("floatBits", json!(n.to_bits())),
        FieldValue::Double(n) if n.is_finite() => typed("double", json!(n)),
        FieldValue::Double(n) => typed("doubleBits", json!(n.to_bits())),
        FieldValue::Decimal { scale, unscaled } => typed("decimal", json!([scale, unscaled])),
        FieldValue::Text(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => typed("text", Value::String(BASE64.encode(bytes))),
        },
        FieldValue::Bytes(bytes) => typed("bytes", Value::String(BASE64.encode(bytes))),
        FieldValue::Timestamp(seconds) => typed("timestamp", json!(seconds)),
        FieldValue::Array(values) => Value::Array(values.iter().map(field_to_json).collect()),
        FieldValue::Table(table) => typed("table", table_to_json(table)),
    }
}

/// Reads what [`field_to_json`] wrote.
pub fn field_from_json(value: &Value) -> Result<FieldValue, String> {
    let wrong = || format!("`{value}` is no argument value");
    Ok(match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::Number(n) => FieldValue::Int64(n.as_i64().ok_or_else(wrong)?),
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Array(values) => {
            FieldValue::Array(values.iter().map(field_from_json).collect::<Result<_, _>>()?)
        }
        Value::Object(object) => {
            let kind = object.get("$type").and_then(Value::as_str).ok_or_else(wrong)?;
            let inner = object.get("value").ok_or_else(wrong)?;
            fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, String> {
                T::deserialize(value).map_err(|error| format!("`{value}`: {error}"))
            }
            let bytes = || BASE64.decode(read::<String>(inner)?).map_err(|error| error.to_string());
            match kind {
                "int8" => FieldValue::Int8(read(inner)?),
                "uint8" => FieldValue::UInt8(read(inner)?),
                "int16" => FieldValue::Int16(read(inner)?),
                "uint16" => FieldValue::UInt16(read(inner)?),
                "int32" => FieldValue::Int32(read(inner)?),
                "uint32" => FieldValue::UInt32(read(inner)?),
                "float" => FieldValue::Float(read(inner)?),
                "floatBits" => FieldValue::Float(f32::from_bits(read(inner)?)),
                "double" => FieldValue::Double(read(inner)?),
                "doubleBits" => FieldValue::Double(f64::from_bits(read(inner)?)),
                "decimal" => {
                    let (scale, unscaled) = read(inner)?;
                    FieldValue::Decimal { scale, unscaled }
                }
                "text" => FieldValue::Text(bytes()?),
                "bytes" => FieldValue::Bytes(bytes()?),
                "timestamp" => FieldValue::Timestamp(read(inner)?),
                "table" => FieldValue::Table(table_from_json(inner)?),
                _ => return Err(wrong()),
            }
        }
    })
}

/// A table as a JSON object.
pub fn table_to_json(table: &FieldTable) -> Value {
    Value::Object(
        table.iter().map(|(name, value)| (name.to_owned(), field_to_json(value))).collect(),
    )
}

/// Reads what [`table_to_json`] wrote.
pub fn table_from_json(value: &Value) -> Result<FieldTable, String> {
    let object = value.as_object().ok_or_else(|| format!("`{value}` is no table"))?;
    object.iter().map(|(name, value)| Ok((name.clone(), field_from_json(value)?))).collect()
}

/// For `#[serde(with = …)]` on a [`FieldTable`].
mod table {
    use super::{FieldTable, Value, table_from_json, table_to_json};
    use serde::{Deserialize, Serialize};

    pub(super) fn serialize<S: serde::Serializer>(
        table: &FieldTable,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        table_to_json(table).serialize(s)
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<FieldTable, D::Error> {
        table_from_json(&Value::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExchangeWire {
    name: ExchangeName,
    #[serde(rename = "type")]
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    #[serde(with = "table")]
    arguments: FieldTable,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct QueueWire {
    name: QueueName,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    #[serde(with = "table")]
    arguments: FieldTable,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum DestinationWire {
    Queue(QueueName),
    Exchange(ExchangeName),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BindingWire {
    source: ExchangeName,
    destination: DestinationWire,
    routing_key: RoutingKey,
    #[serde(with = "table")]
    arguments: FieldTable,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyWire {
    name: PolicyName,
    pattern: String,
    apply_to: String,
    priority: i64,
    definition: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum ChangeWire {
    DeclareExchange(ExchangeWire),
    #[serde(rename_all = "camelCase")]
    DeleteExchange {
        name: ExchangeName,
        if_unused: bool,
    },
    DeclareQueue(QueueWire),
    #[serde(rename_all = "camelCase")]
    DeleteQueue {
        name: QueueName,
        if_empty: bool,
        if_unused: bool,
    },
    PurgeQueue(QueueName),
    Bind(BindingWire),
    Unbind(BindingWire),
    PutPolicy(PolicyWire),
    DeletePolicy(PolicyName),
    PutOperatorPolicy(PolicyWire),
    DeleteOperatorPolicy(PolicyName),
    SetVhostLimit {
        name: String,
        value: Option<i64>,
    },
    SetDefaultQueueType(String),
}

impl From<&ExchangeDefinition> for ExchangeWire {
    fn from(exchange: &ExchangeDefinition) -> Self {
        ExchangeWire {
            name: exchange.name.clone(),
            kind: exchange.kind.as_str().to_owned(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: exchange.arguments.clone(),
        }
    }
}

impl From<ExchangeWire> for ExchangeDefinition {
    fn from(wire: ExchangeWire) -> Self {
        ExchangeDefinition {
            name: wire.name,
            kind: ExchangeKind::from(wire.kind.as_str()),
            durable: wire.durable,
            auto_delete: wire.auto_delete,
            internal: wire.internal,
            arguments: wire.arguments,
        }
    }
}

impl From<&QueueDefinition> for QueueWire {
    fn from(queue: &QueueDefinition) -> Self {
        QueueWire {
            name: queue.name.clone(),
            durable: queue.durable,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            arguments: queue.arguments.clone(),
        }
    }
}

impl From<QueueWire> for QueueDefinition {
    fn from(wire: QueueWire) -> Self {
        QueueDefinition {
            name: wire.name,
            durable: wire.durable,
            exclusive: wire.exclusive,
            auto_delete: wire.auto_delete,
            arguments: wire.arguments,
        }
    }
}

impl From<&BindingDefinition> for BindingWire {
    fn from(binding: &BindingDefinition) -> Self {
        BindingWire {
            source: binding.source.clone(),
            destination: match &binding.destination {
                Destination::Queue(name) => DestinationWire::Queue(name.clone()),
                Destination::Exchange(name) => DestinationWire::Exchange(name.clone()),
            },
            routing_key: binding.routing_key.clone(),
            arguments: binding.arguments.clone(),
        }
    }
}

impl From<BindingWire> for BindingDefinition {
    fn from(wire: BindingWire) -> Self {
        BindingDefinition {
            source: wire.source,
            destination: match wire.destination {
                DestinationWire::Queue(name) => Destination::Queue(name),
                DestinationWire::Exchange(name) => Destination::Exchange(name),
            },
            routing_key: wire.routing_key,
            arguments: wire.arguments,
        }
    }
}

impl From<&PolicyDefinition> for PolicyWire {
    fn from(policy: &PolicyDefinition) -> Self {
        PolicyWire {
            name: policy.name.clone(),
            pattern: policy.pattern.clone(),
            apply_to: policy.apply_to.as_str().to_owned(),
            priority: policy.priority,
            definition: policy.definition.clone(),
        }
    }
}

impl TryFrom<PolicyWire> for PolicyDefinition {
    type Error = String;
    fn try_from(wire: PolicyWire) -> Result<Self, String> {
        Ok(PolicyDefinition {
            name: wire.name,
            pattern: wire.pattern,
            apply_to: wire.apply_to.parse()?,
            priority: wire.priority,
            definition: wire.definition,
        })
    }
}

impl From<&Change> for ChangeWire {
    fn from(change: &Change) -> Self {
        match change {
            Change::DeclareExchange(exchange) => ChangeWire::DeclareExchange(exchange.into()),
            Change::DeleteExchange { name, if_unused } => {
                ChangeWire::DeleteExchange { name: name.clone(), if_unused: *if_unused }
            }
            Change::DeclareQueue(queue) => ChangeWire::DeclareQueue(queue.into()),
            Change::DeleteQueue { name, if_empty, if_unused } => ChangeWire::DeleteQueue {
                name: name.clone(),
                if_empty: *if_empty,
                if_unused: *if_unused,
            },
            Change::PurgeQueue(name) => ChangeWire::PurgeQueue(name.clone()),
            Change::Bind(binding) => ChangeWire::Bind(binding.into()),
            Change::Unbind(binding) => ChangeWire::Unbind(binding.into()),
            Change::PutPolicy(policy) => ChangeWire::PutPolicy(policy.into()),
            Change::DeletePolicy(name) => ChangeWire::DeletePolicy(name.clone()),
            Change::PutOperatorPolicy(policy) => ChangeWire::PutOperatorPolicy(policy.into()),
            Change::DeleteOperatorPolicy(name) => ChangeWire::DeleteOperatorPolicy(name.clone()),
            Change::SetVhostLimit { name, value } => {
                ChangeWire::SetVhostLimit { name: name.clone(), value: *value }
            }
            Change::SetDefaultQueueType(kind) => {
                ChangeWire::SetDefaultQueueType(kind.as_str().to_owned())
            }
        }
    }
}

impl TryFrom<ChangeWire> for Change {
    type Error = String;
    fn try_from(wire: ChangeWire) -> Result<Self, String> {
        Ok(match wire {
            ChangeWire::DeclareExchange(exchange) => Change::DeclareExchange(exchange.into()),
            ChangeWire::DeleteExchange { name, if_unused } => {
                Change::DeleteExchange { name, if_unused }
            }
            ChangeWire::DeclareQueue(queue) => Change::DeclareQueue(queue.into()),
            ChangeWire::DeleteQueue { name, if_empty, if_unused } => {
                Change::DeleteQueue { name, if_empty, if_unused }
            }
            ChangeWire::PurgeQueue(name) => Change::PurgeQueue(name),
            ChangeWire::Bind(binding) => Change::Bind(binding.into()),
            ChangeWire::Unbind(binding) => Change::Unbind(binding.into()),
            ChangeWire::PutPolicy(policy) => Change::PutPolicy(policy.try_into()?),
            ChangeWire::DeletePolicy(name) => Change::DeletePolicy(name),
            ChangeWire::PutOperatorPolicy(policy) => Change::PutOperatorPolicy(policy.try_into()?),
            ChangeWire::DeleteOperatorPolicy(name) => Change::DeleteOperatorPolicy(name),
            ChangeWire::SetVhostLimit { name, value } => Change::SetVhostLimit { name, value },
            ChangeWire::SetDefaultQueueType(kind) => Change::SetDefaultQueueType(kind.parse()?),
        })
    }
}

macro_rules! with_module {
    ($(#[$doc:meta])* $module:ident, $type:ty, $wire:ty) => {
        $(#[$doc])*
        pub mod $module {
            use super::*;

            /// Writes it.
            pub fn serialize<S: serde::Serializer>(value: &$type, s: S) -> Result<S::Ok, S::Error> {
                <$wire>::from(value).serialize(s)
            }

            /// Reads it.
            pub fn deserialize<'de, D: serde::Deserializer<'de>>(d: D) -> Result<$type, D::Error> {
                <$type>::try_from(<$wire>::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

with_module!(
    /// For `#[serde(with = …)]` on a [`Change`].
    change, Change, ChangeWire
);
with_module!(
    /// For `#[serde(with = …)]` on a [`QueueDefinition`].
    queue, QueueDefinition, QueueWire
);
with_module!(
    /// For `#[serde(with = …)]` on a [`PolicyDefinition`].
    policy, PolicyDefinition, PolicyWire
);

/// For `#[serde(with = …)]` on a list of [`BindingDefinition`].
pub mod bindings {
    use super::*;

    /// Writes them.
    pub fn serialize<S: serde::Serializer>(
        values: &[BindingDefinition],
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(values.iter().map(BindingWire::from))
    }

    /// Reads them.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<BindingDefinition>, D::Error> {
        Ok(Vec::<BindingWire>::deserialize(d)?.into_iter().map(Into::into).collect())
    }
}

/// For `#[serde(with = …)]` on an optional [`PolicyDefinition`].
pub mod maybe_policy {
    use super::*;

    /// Writes it.
    pub fn serialize<S: serde::Serializer>(
        value: &Option<PolicyDefinition>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().map(PolicyWire::from).serialize(s)
    }

    /// Reads it.
    pub fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<Option<PolicyDefinition>, D::Error> {
        Option::<PolicyWire>::deserialize(d)?
            .map(PolicyDefinition::try_from)
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_field() -> impl Strategy<Value = FieldValue> {
        let leaf = prop_oneof![
            Just(FieldValue::Void),
            any::<bool>().prop_map(FieldValue::Bool),
            any::<i8>().prop_map(FieldValue::Int8),
            any::<u16>().prop_map(FieldValue::UInt16),
            any::<i32>().prop_map(FieldValue::Int32),
            any::<u32>().prop_map(FieldValue::UInt32),
            any::<i64>().prop_map(FieldValue::Int64),
            any::<f32>()
                .prop_filter("nan is not equal to itself", |n| !n.is_nan())
                .prop_map(FieldValue::Float),
            any::<f64>()
                .prop_filter("nan is not equal to itself", |n| !n.is_nan())
                .prop_map(FieldValue::Double),
            (any::<u8>(), any::<u32>())
                .prop_map(|(scale, unscaled)| FieldValue::Decimal { scale, unscaled }),
            any::<Vec<u8>>().prop_map(FieldValue::Text),
            ".*".prop_map(|text| FieldValue::from(text.as_str())),
            any::<Vec<u8>>().prop_map(FieldValue::Bytes),
            any::<u64>().prop_map(FieldValue::Timestamp),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(FieldValue::Array),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| FieldValue::Table(FieldTable(map))),
            ]
        })
    }

    proptest! {
        #[test]
        fn arguments_are_read_back_as_they_were_written(value in any_field()) {
            let text = field_to_json(&value).to_string();
            let read = field_from_json(&serde_json::from_str(&text).unwrap());
            prop_assert_eq!(read, Ok(value));
        }
    }

    #[test]
    fn what_is_no_argument_is_refused_with_what_it_was() {
        for text in
            [r#"{"a":1}"#, "1.5", r#"{"$type":"int8","value":300}"#, r#"{"$type":"x","value":1}"#]
        {
            let error = field_from_json(&serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(!error.is_empty(), "{text}");
        }
    }
}
