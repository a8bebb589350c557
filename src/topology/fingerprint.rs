//! The canonical form of objects: what the broker would call equal is equal here, and hashes alike.
//!
//! Pure. Integer widths, `classic` against no type at all and key order make no difference; argument
//! names the broker does not know do.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::broker::{
    BindingDefinition, Destination, ExchangeDefinition, PolicyDefinition, QueueDefinition,
    QueueType,
};
use crate::message::{FieldTable, FieldValue};

/// SHA-256 of an object's canonical form, as `sha256:` and 64 hexadecimal digits.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of `value`; the order of keys does not matter.
    pub fn of(value: &Value) -> Self {
        let mut text = String::new();
        write_canonical(value, &mut text);
        let digest = Sha256::digest(text.as_bytes());
        Fingerprint(format!("sha256:{}", hex(&digest)))
    }

    /// The first 16 hexadecimal digits.
    pub fn short(&self) -> &str {
        self.0.get(7..23).unwrap_or(&self.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with sorted keys and no spaces.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(value, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            let mut entries: Vec<_> = object.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            out.push('{');
            for (index, (name, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// An argument value as the broker compares it: integers by number.
pub fn canonical_field(value: &FieldValue) -> Value {
    if let Some(number) = value.as_i64() {
        return json!(number);
    }
    match value {
        FieldValue::Float(n) => json!({ "double": f64::from(*n).to_string() }),
        FieldValue::Double(n) => json!({ "double": n.to_string() }),
        FieldValue::Array(values) => Value::Array(values.iter().map(canonical_field).collect()),
        FieldValue::Table(table) => json!({ "table": canonical_table(table) }),
        other => super::wire::field_to_json(other),
    }
}

/// A table in canonical form.
pub fn canonical_table(table: &FieldTable) -> Value {
    Value::Object(
        table.iter().map(|(name, value)| (name.to_owned(), canonical_field(value))).collect(),
    )
}

/// The type `queue` has when its arguments leave it to the vhost, whose default is `default`.
/// RabbitMQ gives the default only to queues that this type can be: durable, not exclusive, not
/// auto-delete.
pub fn resolved_type(queue: &QueueDefinition, default: Option<QueueType>) -> QueueType {
    match (queue.queue_type(), default) {
        (Some(kind), _) => kind,
        (None, Some(kind)) if queue.durable && !queue.exclusive && !queue.auto_delete => kind,
        (None, _) => QueueType::Classic,
    }
}

/// A queue in canonical form, its type resolved against the vhost's `default`.
pub fn canonical_queue(queue: &QueueDefinition, default: Option<QueueType>) -> Value {
    let mut arguments = canonical_table(&queue.arguments);
    if let Value::Object(arguments) = &mut arguments
        && queue.arguments.get("x-queue-type").is_none_or(|_| queue.queue_type().is_some())
    {
        arguments.insert("x-queue-type".to_owned(), json!(resolved_type(queue, default).as_str()));
    }
    json!({
        "durable": queue.durable,
        "exclusive": queue.exclusive,
        "autoDelete": queue.auto_delete,
        "arguments": arguments,
    })
}

/// An exchange in canonical form.
pub fn canonical_exchange(exchange: &ExchangeDefinition) -> Value {
    json!({
        "type": exchange.kind.as_str(),
        "durable": exchange.durable,
        "autoDelete": exchange.auto_delete,
        "internal": exchange.internal,
        "arguments": canonical_table(&exchange.arguments),
    })
}

/// A binding in canonical form: all of it is its identity.
pub fn canonical_binding(binding: &BindingDefinition) -> Value {
    let (kind, destination) = match &binding.destination {
        Destination::Queue(name) => ("queue", name.as_str()),
        Destination::Exchange(name) => ("exchange", name.as_str()),
    };
    json!([
        binding.source.as_str(),
        kind,
        destination,
        binding.routing_key.as_str(),
        canonical_table(&binding.arguments),
    ])
}

/// A policy in canonical form.
pub fn canonical_policy(policy: &PolicyDefinition) -> Value {
    json!({
        "pattern": policy.pattern,
        "applyTo": policy.apply_to.as_str(),
        "priority": policy.priority,
        "definition": sorted(&policy.definition),
    })
}

fn sorted(map: &Map<String, Value>) -> Value {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| a.0.cmp(b.0));
    Value::Object(entries.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::QueueName;

    fn queue(arguments: FieldTable) -> QueueDefinition {
        QueueDefinition {
            name: QueueName::new("q").unwrap(),
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments,
        }
    }

    #[test]
    fn what_the_broker_calls_equal_has_one_fingerprint() {
        let print =
            |arguments, default| Fingerprint::of(&canonical_queue(&queue(arguments), default));
        let empty = print(FieldTable::new(), None);
        assert_eq!(empty, print(FieldTable::new().with("x-queue-type", "classic"), None));
        assert_eq!(empty, print(FieldTable::new(), Some(QueueType::Classic)));
        assert_ne!(empty, print(FieldTable::new(), Some(QueueType::Quorum)));
        assert_eq!(
            print(FieldTable::new().with("x-max-length", FieldValue::Int32(5)), None),
            print(FieldTable::new().with("x-max-length", 5), None)
        );
        assert_ne!(
            print(FieldTable::new().with("x-max-length", "5"), None),
            print(FieldTable::new().with("x-max-length", 5), None)
        );
        assert_ne!(empty, print(FieldTable::new().with("x-foo", "a"), None));
    }

    #[test]
    fn the_order_of_keys_makes_no_difference() {
        let read = |text: &str| Fingerprint::of(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"a":1,"b":{"c":2,"d":3}}"#), read(r#"{"b":{"d":3,"c":2},"a":1}"#));
        assert_ne!(read("[1,2]"), read("[2,1]"));
        assert_eq!(read("[]").to_string().len(), 71);
    }
}
