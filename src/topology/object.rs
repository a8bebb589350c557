//! Names one broker object the same way in plans, reports, fingerprints, journals and errors.
//!
//! Knows nothing of plans.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::{BindingDefinition, Change, Destination};

use super::wire;

/// What kind of object.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectKind {
    /// A setting of the vhost: `default-queue-type` or `limit NAME`.
    Vhost,
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// A binding.
    Binding,
    /// A policy.
    Policy,
    /// An operator policy.
    OperatorPolicy,
}

impl ObjectKind {
    /// The word used in texts.
    pub const fn as_str(self) -> &'static str {
        match self {
            ObjectKind::Vhost => "vhost setting",
            ObjectKind::Exchange => "exchange",
            ObjectKind::Queue => "queue",
            ObjectKind::Binding => "binding",
            ObjectKind::Policy => "policy",
            ObjectKind::OperatorPolicy => "operator policy",
        }
    }
}

/// Reads the words of `--prune`: `queues`, `exchanges`, `bindings`, `policies`, `operator-policies`.
impl std::str::FromStr for ObjectKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "exchange" | "exchanges" => Ok(ObjectKind::Exchange),
            "queue" | "queues" => Ok(ObjectKind::Queue),
            "binding" | "bindings" => Ok(ObjectKind::Binding),
            "policy" | "policies" => Ok(ObjectKind::Policy),
            "operator-policy" | "operator-policies" => Ok(ObjectKind::OperatorPolicy),
            other => Err(format!(
                "`{other}` is no kind of object; there are exchanges, queues, bindings, policies and operator-policies"
            )),
        }
    }
}

/// One object of a vhost. A binding's name spells out its four parts.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// What kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// The object of `kind` called `name`.
    pub fn new(kind: ObjectKind, name: impl Into<String>) -> Self {
        ObjectRef { kind, name: name.into() }
    }

    /// A queue.
    pub fn queue(name: &QueueName) -> Self {
        Self::new(ObjectKind::Queue, name.as_str())
    }

    /// An exchange.
    pub fn exchange(name: &ExchangeName) -> Self {
        Self::new(ObjectKind::Exchange, name.as_str())
    }

    /// A binding.
    pub fn binding(binding: &BindingDefinition) -> Self {
        let (kind, destination) = match &binding.destination {
            Destination::Queue(name) => ("queue", name.as_str()),
            Destination::Exchange(name) => ("exchange", name.as_str()),
        };
        let mut name =
            format!("{} -> {kind} {}", quoted(binding.source.as_str()), quoted(destination));
        if !binding.routing_key.as_str().is_empty() || binding.arguments.is_empty() {
            name.push_str(" by ");
            name.push_str(&quoted(binding.routing_key.as_str()));
        }
        if !binding.arguments.is_empty() {
            name.push_str(" with ");
            name.push_str(&wire::table_to_json(&binding.arguments).to_string());
        }
        Self::new(ObjectKind::Binding, name)
    }

    /// What `change` is about.
    pub fn of(change: &Change) -> Self {
        match change {
            Change::DeclareExchange(exchange) => Self::exchange(&exchange.name),
            Change::DeleteExchange { name, .. } => Self::exchange(name),
            Change::DeclareQueue(queue) => Self::queue(&queue.name),
            Change::DeleteQueue { name, .. } | Change::PurgeQueue(name) => Self::queue(name),
            Change::Bind(binding) | Change::Unbind(binding) => Self::binding(binding),
            Change::PutPolicy(policy) => Self::new(ObjectKind::Policy, policy.name.as_str()),
            Change::DeletePolicy(name) => Self::new(ObjectKind::Policy, name.as_str()),
            Change::PutOperatorPolicy(policy) => {
                Self::new(ObjectKind::OperatorPolicy, policy.name.as_str())
            }
            Change::DeleteOperatorPolicy(name) => {
                Self::new(ObjectKind::OperatorPolicy, name.as_str())
            }
            Change::SetVhostLimit { name, .. } => Self::limit(name),
            Change::SetDefaultQueueType(_) => Self::default_queue_type(),
        }
    }

    /// The vhost's limit `name`.
    pub fn limit(name: &str) -> Self {
        Self::new(ObjectKind::Vhost, format!("limit {name}"))
    }

    /// The vhost's default queue type.
    pub fn default_queue_type() -> Self {
        Self::new(ObjectKind::Vhost, "default-queue-type")
    }
}

/// A name as it stands when nothing in it could be mistaken, else in quotation marks.
fn quoted(name: &str) -> String {
    let plain = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '#' | '*' | ':' | '/'));
    if plain { name.to_owned() } else { format!("{name:?}") }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.as_str(), self.name)
    }
}

/// Whether nexusctl keeps this exchange for itself (owner records, kept bindings, migrations): such objects are in
/// no diff, no export and no prune.
pub fn is_own_exchange(name: &ExchangeName) -> bool {
    name.as_str() == super::ownership::OWNERS_EXCHANGE
        || name.as_str() == super::keep::KEPT_EXCHANGE
        || name.as_str().starts_with(super::migrate::PREFIX)
}

/// Whether nexusctl keeps this queue for itself (locks, migrations).
pub fn is_own_queue(name: &QueueName) -> bool {
    name.as_str().starts_with("nexusctl.lock") || name.as_str().starts_with(super::migrate::PREFIX)
}

/// Whether a binding leads from or to something nexusctl keeps for itself.
pub fn is_own_binding(binding: &BindingDefinition) -> bool {
    is_own_exchange(&binding.source)
        || match &binding.destination {
            Destination::Queue(name) => is_own_queue(name),
            Destination::Exchange(name) => is_own_exchange(name),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::ExchangeKind;
    use crate::message::FieldTable;

    #[test]
    fn bindings_that_differ_have_names_that_differ() {
        let binding = |key: &str, arguments: FieldTable| BindingDefinition {
            source: ExchangeName::new("x").unwrap(),
            destination: Destination::Queue(QueueName::new("q").unwrap()),
            routing_key: crate::base::id::RoutingKey::new(key).unwrap(),
            arguments,
        };
        let names: std::collections::BTreeSet<_> = [
            binding("", FieldTable::new()),
            binding("a", FieldTable::new()),
            binding("a b", FieldTable::new()),
            binding("a", FieldTable::new().with("k", "v")),
            binding("", FieldTable::new().with("k", "v")),
            binding("", FieldTable::new().with("k", 5)),
        ]
        .iter()
        .map(|binding| ObjectRef::binding(binding).name)
        .collect();
        assert_eq!(names.len(), 6, "{names:?}");
        assert!(names.contains("x -> queue q by a"), "{names:?}");
        let _ = ExchangeKind::Direct;
    }
}
