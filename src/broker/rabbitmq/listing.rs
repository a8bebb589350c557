//! Reading what the management API lists, leniently and without any I/O.
//!
//! What has no value comes, by version and by endpoint, as `{}`, `[]`, `""`, `null` or not at all.
//! Only an object's name (and a binding's two ends) are asked for; an entry without them is passed
//! over.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value};

use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::broker::snapshot::{
    Permissions, QueueCounters, QueueDetails, QueueState, Subscriber, VhostState,
};
use crate::message::{FieldTable, FieldValue};

/// The entries of a list, or of one page of it.
pub(super) fn entries(answer: Value) -> Vec<Value> {
    match answer {
        Value::Array(entries) => entries,
        Value::Object(mut page) => match page.remove("items") {
            Some(Value::Array(entries)) => entries,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Number of pages and of all entries, when the answer is a page.
pub(super) fn pages(answer: &Value) -> Option<(u64, u64)> {
    Some((answer.get("page_count")?.as_u64()?, answer.get("total_count")?.as_u64()?))
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key)?.as_str().filter(|text| !text.is_empty())
}

fn flag(value: &Value, key: &str) -> bool {
    value.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn count(value: &Value, key: &str) -> Option<u64> {
    value.get(key)?.as_u64()
}

fn arguments(value: &Value) -> FieldTable {
    match value.get("arguments") {
        Some(Value::Object(map)) => table(map),
        _ => FieldTable::new(),
    }
}

/// JSON as field values: whole numbers are int64, other numbers double.
fn table(map: &Map<String, Value>) -> FieldTable {
    map.iter().map(|(key, value)| (key.clone(), field(value))).collect()
}

fn field(value: &Value) -> FieldValue {
    match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(number) => FieldValue::Int64(number),
            None => FieldValue::Double(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Array(values) => FieldValue::Array(values.iter().map(field).collect()),
        Value::Object(map) => FieldValue::Table(table(map)),
    }
}

pub(super) fn exchange(value: &Value) -> Option<ExchangeDefinition> {
    // The default exchange is the one object whose name is empty.
    let name = ExchangeName::new(value.get("name")?.as_str()?).ok()?;
    Some(ExchangeDefinition {
        name,
        kind: text(value, "type").map_or(ExchangeKind::Direct, ExchangeKind::from),
        durable: flag(value, "durable"),
        auto_delete: flag(value, "auto_delete"),
        internal: flag(value, "internal"),
        arguments: arguments(value),
    })
}

pub(super) fn queue(value: &Value) -> Option<QueueState> {
    let name = QueueName::new(text(value, "name")?).ok()?;
    let mut arguments = arguments(value);
    // The type by itself tells more than the arguments when a default made it.
    if let Some(kind @ ("quorum" | "stream")) = text(value, "type")
        && arguments.get("x-queue-type").is_none()
    {
        arguments.insert("x-queue-type", kind);
    }
    Some(QueueState {
        definition: QueueDefinition {
            name,
            durable: flag(value, "durable"),
            exclusive: flag(value, "exclusive"),
            auto_delete: flag(value, "auto_delete"),
            arguments,
        },
        ready: count(value, "messages_ready"),
        unacked: count(value, "messages_unacknowledged"),
        consumers: count(value, "consumers"),
        policy: text(value, "policy").map(str::to_owned),
        operator_policy: text(value, "operator_policy").map(str::to_owned),
    })
}

fn words(value: &Value, key: &str) -> Vec<String> {
    let words = value.get(key).and_then(Value::as_array).into_iter().flatten();
    words.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A queue with everything that is told about it.
pub(super) fn queue_details(value: &Value) -> Option<QueueDetails> {
    let stats = value.get("message_stats").and_then(Value::as_object);
    let counter = |key: &str| stats.and_then(|stats| stats.get(key)?.as_u64()).unwrap_or(0);
    // A queue that nothing has gone through yet has no `message_stats`; `memory` tells that it was
    // asked for.
    let counted = stats.is_some() || value.get("memory").is_some();
    Some(QueueDetails {
        state: queue(value)?,
        status: text(value, "state").map(str::to_owned),
        leader: text(value, "leader").or_else(|| text(value, "node")).map(str::to_owned),
        members: words(value, "members"),
        online: words(value, "online"),
        bytes: count(value, "message_bytes"),
        memory: count(value, "memory"),
        head_timestamp: count(value, "head_message_timestamp"),
        counters: counted.then(|| QueueCounters {
            published: counter("publish"),
            delivered: counter("deliver_get"),
            acked: counter("ack"),
            redelivered: counter("redeliver"),
        }),
        subscribers: value
            .get("consumer_details")
            .and_then(Value::as_array)
            .map(|entries| entries.iter().filter_map(subscriber).collect()),
    })
}

fn subscriber(value: &Value) -> Option<Subscriber> {
    let channel = value.get("channel_details");
    let of_channel = |key: &str| Some(text(channel?, key)?.to_owned());
    Some(Subscriber {
        tag: text(value, "consumer_tag")?.to_owned(),
        channel: channel.and_then(|channel| count(channel, "number")),
        prefetch: count(value, "prefetch_count"),
        acks: value.get("ack_required").and_then(Value::as_bool),
        exclusive: flag(value, "exclusive"),
        active: value.get("active").and_then(Value::as_bool),
        connection: of_channel("connection_name"),
        host: of_channel("peer_host"),
        user: of_channel("user"),
    })
}

/// A binding, unless it is one of the default exchange's own.
pub(super) fn binding(value: &Value) -> Option<BindingDefinition> {
    let source = ExchangeName::new(text(value, "source")?).ok()?;
    let destination = text(value, "destination")?;
    let destination = match text(value, "destination_type") {
        Some("exchange") => Destination::Exchange(ExchangeName::new(destination).ok()?),
        _ => Destination::Queue(QueueName::new(destination).ok()?),
    };
    Some(BindingDefinition {
        source,
        destination,
        routing_key: RoutingKey::received(
            text(value, "routing_key").unwrap_or_default().to_owned(),
        ),
        arguments: arguments(value),
    })
}

pub(super) fn policy(value: &Value) -> Option<PolicyDefinition> {
    Some(PolicyDefinition {
        name: PolicyName::new(text(value, "name")?).ok()?,
        pattern: text(value, "pattern").unwrap_or_default().to_owned(),
        apply_to: text(value, "apply-to")
            .and_then(|apply_to| apply_to.parse().ok())
            .unwrap_or(ApplyTo::All),
        priority: value.get("priority").and_then(Value::as_i64).unwrap_or(0),
        definition: match value.get("definition") {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::new(),
        },
    })
}

/// The settings of one vhost out of the list of all.
pub(super) fn vhost(value: &Value) -> VhostState {
    // `undefined` stands for a version or vhost without the setting.
    let default_queue_type: Option<QueueType> =
        text(value, "default_queue_type").and_then(|kind| kind.parse().ok());
    VhostState { default_queue_type, limits: BTreeMap::new() }
}

pub(super) fn limits(entries: &[Value], vhost: &str) -> BTreeMap<String, i64> {
    entries
        .iter()
        .filter(|entry| text(entry, "vhost").is_none_or(|name| name == vhost))
        .filter_map(|entry| entry.get("value")?.as_object())
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_i64()?)))
        .collect()
}

pub(super) fn permissions(value: &Value, user: &str) -> Option<Permissions> {
    let text = |key: &str| Some(value.get(key)?.as_str()?.to_owned());
    Some(Permissions {
        user: user.to_owned(),
        configure: text("configure")?,
        write: text("write")?,
        read: text("read")?,
    })
}

/// How many consumers each queue has.
pub(super) fn consumers(entries: &[Value]) -> HashMap<String, u64> {
    let mut counts = HashMap::new();
    for entry in entries {
        if let Some(name) = entry.get("queue").and_then(|queue| text(queue, "name")) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn samples() -> Vec<Value> {
        vec![
            json!({"name": "q", "type": "quorum", "durable": true, "auto_delete": false,
                "exclusive": null, "arguments": {"x-max-length": 5, "x-queue-type": "quorum"},
                "messages": 3, "messages_ready": 2, "messages_unacknowledged": 1, "consumers": 1,
                "policy": "p", "operator_policy": "o", "vhost": "v", "node": "n",
                "effective_policy_definition": {"max-length": 1}}),
            json!({"name": "e", "type": "topic", "durable": true, "auto_delete": false,
                "internal": false, "arguments": {"alternate-exchange": "a"}, "vhost": "v"}),
            json!({"source": "e", "destination": "q", "destination_type": "queue",
                "routing_key": "k", "arguments": {"x-match": "all", "n": 1}, "vhost": "v"}),
            json!({"name": "p", "pattern": "^q", "apply-to": "queues", "priority": 3,
                "definition": {"max-length": 10}, "vhost": "v"}),
            json!({"vhost": "v", "value": {"max-queues": 5}}),
            json!({"user": "u", "configure": "", "write": ".*", "read": "^a"}),
            json!({"name": "v", "default_queue_type": "quorum", "tags": [], "metadata": {}}),
            json!({"queue": {"name": "q", "vhost": "v"}, "consumer_tag": "c"}),
            json!({"items": [{"name": "q"}], "page_count": 1, "total_count": 1}),
            json!({"name": "d", "type": "quorum", "state": "running", "leader": "n1",
                "members": ["n1", "n2"], "online": ["n1"], "memory": 9, "message_bytes": 4,
                "head_message_timestamp": 7, "message_stats": {"publish": 3, "ack": 2},
                "consumer_details": [{"consumer_tag": "c", "prefetch_count": 5,
                    "ack_required": true, "exclusive": true, "active": false,
                    "channel_details": {"number": 2, "connection_name": "a -> b",
                        "peer_host": "h", "user": "u"}}]}),
        ]
    }

    fn read_all(value: &Value) {
        let _ = queue_details(value);
        let _ = (exchange(value), queue(value), binding(value), policy(value), vhost(value));
        let list = std::slice::from_ref(value);
        let _ = (limits(list, "v"), consumers(list), permissions(value, "u"), pages(value));
        let _ = entries(value.clone());
    }

    /// Every value with any one of its parts replaced by each of the ways to say nothing.
    fn hollowed(value: &Value) -> Vec<Value> {
        let nothings = [json!({}), json!([]), json!(""), json!(null), json!(7), json!("undefined")];
        let mut all: Vec<Value> = nothings.to_vec();
        match value {
            Value::Object(map) => {
                for (key, part) in map {
                    let mut without = map.clone();
                    without.remove(key);
                    all.push(Value::Object(without));
                    for hollow in hollowed(part) {
                        let mut changed = map.clone();
                        changed.insert(key.clone(), hollow);
                        all.push(Value::Object(changed));
                    }
                }
            }
            Value::Array(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    for hollow in hollowed(part) {
                        let mut changed = parts.clone();
                        changed[index] = hollow;
                        all.push(Value::Array(changed));
                    }
                }
            }
            _ => {}
        }
        all
    }

    #[test]
    fn every_way_to_say_nothing_is_read() {
        for sample in samples() {
            for hollow in hollowed(&sample) {
                read_all(&hollow);
            }
        }
        // What is optional does not take its object with it.
        let sample = samples().remove(0);
        for key in ["arguments", "exclusive", "policy", "messages_ready", "type", "consumers"] {
            for nothing in [json!({}), json!([]), json!(""), json!(null)] {
                let mut changed = sample.clone();
                changed[key] = nothing.clone();
                assert!(queue(&changed).is_some(), "{key} = {nothing}");
            }
        }
    }

    #[test]
    fn objects_are_read_with_their_types() {
        let samples = samples();
        let queue = queue(&samples[0]).expect("a queue");
        assert_eq!(queue.definition.arguments.get("x-max-length"), Some(&FieldValue::Int64(5)));
        assert_eq!((queue.ready, queue.unacked, queue.messages()), (Some(2), Some(1), Some(3)));
        let binding = binding(&samples[2]).expect("a binding");
        assert_eq!(binding.arguments.get("x-match"), Some(&FieldValue::from("all")));
        let policy = policy(&samples[3]).expect("a policy");
        assert_eq!((policy.apply_to, policy.priority), (ApplyTo::Queues, 3));
        assert_eq!(limits(&samples[4..5], "v").get("max-queues"), Some(&5));
        assert_eq!(vhost(&samples[6]).default_queue_type, Some(QueueType::Quorum));
        assert_eq!(consumers(&samples[7..8]).get("q"), Some(&1));
    }

    #[test]
    fn details_are_read_and_absent_ones_stay_unknown() {
        let samples = samples();
        let details = queue_details(&samples[9]).expect("a queue");
        assert_eq!(details.leader.as_deref(), Some("n1"));
        assert_eq!((details.members.len(), details.online.len()), (2, 1));
        assert_eq!(
            (details.bytes, details.memory, details.head_timestamp),
            (Some(4), Some(9), Some(7))
        );
        let counters = details.counters.expect("counters");
        assert_eq!((counters.published, counters.delivered, counters.acked), (3, 0, 2));
        let subscriber = &details.subscribers.expect("subscribers")[0];
        assert_eq!((subscriber.prefetch, subscriber.channel), (Some(5), Some(2)));
        assert_eq!((subscriber.exclusive, subscriber.active), (true, Some(false)));
        let bare = queue_details(&samples[0]).expect("a queue");
        assert_eq!((bare.counters, bare.subscribers, bare.bytes), (None, None, None));
    }

    #[test]
    fn bindings_of_the_default_exchange_are_left_out() {
        let own = json!({"source": "", "destination": "q", "destination_type": "queue",
            "routing_key": "q", "arguments": {}});
        assert_eq!(binding(&own), None);
    }

    #[test]
    fn a_quorum_queue_made_by_a_default_is_still_one() {
        let made = json!({"name": "q", "type": "quorum", "durable": true, "arguments": []});
        assert_eq!(
            queue(&made).and_then(|queue| queue.definition.queue_type()),
            Some(QueueType::Quorum)
        );
    }
}
