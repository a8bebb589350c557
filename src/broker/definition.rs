//! What a broker object is, as it is declared and as it is read back.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::message::{FieldTable, FieldValue};

/// How an exchange routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExchangeKind {
    /// By equal key.
    Direct,
    /// To every binding.
    Fanout,
    /// By words and wildcards.
    Topic,
    /// By header values.
    Headers,
    /// A plugin's type, such as `x-consistent-hash`.
    Other(String),
}

impl ExchangeKind {
    /// The protocol's name of the type.
    pub fn as_str(&self) -> &str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
            ExchangeKind::Other(name) => name,
        }
    }
}

impl fmt::Display for ExchangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&str> for ExchangeKind {
    fn from(name: &str) -> Self {
        match name {
            "direct" => ExchangeKind::Direct,
            "fanout" => ExchangeKind::Fanout,
            "topic" => ExchangeKind::Topic,
            "headers" => ExchangeKind::Headers,
            other => ExchangeKind::Other(other.to_owned()),
        }
    }
}

/// How a queue stores and replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueType {
    /// One node, any feature.
    Classic,
    /// Replicated, always durable.
    Quorum,
    /// A log that is read by offset.
    Stream,
}

impl QueueType {
    /// The value of `x-queue-type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            QueueType::Classic => "classic",
            QueueType::Quorum => "quorum",
            QueueType::Stream => "stream",
        }
    }
}

impl fmt::Display for QueueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for QueueType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "classic" => Ok(QueueType::Classic),
            "quorum" => Ok(QueueType::Quorum),
            "stream" => Ok(QueueType::Stream),
            other => {
                Err(format!("`{other}` is no queue type; there are classic, quorum and stream"))
            }
        }
    }
}

/// An exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct ExchangeDefinition {
    /// Its name.
    pub name: ExchangeName,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Goes away with its last binding.
    pub auto_delete: bool,
    /// Takes messages from other exchanges only.
    pub internal: bool,
    /// `alternate-exchange` and a plugin's own.
    pub arguments: FieldTable,
}

impl ExchangeDefinition {
    /// A durable exchange without arguments.
    pub fn durable(name: ExchangeName, kind: ExchangeKind) -> Self {
        ExchangeDefinition {
            name,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::new(),
        }
    }

    /// Where messages go that no binding takes, as the argument says (a policy may say it too).
    pub fn alternate_exchange(&self) -> Option<&str> {
        self.arguments.get("alternate-exchange").and_then(FieldValue::as_text)
    }
}

/// A queue. Its type stands in the argument `x-queue-type`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDefinition {
    /// Its name.
    pub name: QueueName,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Belongs to one connection and goes away with it.
    pub exclusive: bool,
    /// Goes away with its last consumer.
    pub auto_delete: bool,
    /// `x-…` arguments, with their types.
    pub arguments: FieldTable,
}

impl QueueDefinition {
    /// A durable queue of the given type, without other arguments.
    pub fn durable(name: QueueName, queue_type: QueueType) -> Self {
        QueueDefinition {
            name,
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: FieldTable::new().with("x-queue-type", queue_type.as_str()),
        }
    }

    /// The type the arguments name; `None` when they leave it to the vhost's default.
    pub fn queue_type(&self) -> Option<QueueType> {
        self.arguments.get("x-queue-type").and_then(FieldValue::as_text)?.parse().ok()
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// To a queue.
    Queue(QueueName),
    /// To another exchange.
    Exchange(ExchangeName),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Queue(name) => write!(f, "queue `{name}`"),
            Destination::Exchange(name) => f.write_str(&name.in_words()),
        }
    }
}

/// A binding. All four fields together are its identity: it is never changed, only made and removed.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingDefinition {
    /// The exchange that routes.
    pub source: ExchangeName,
    /// Where it routes to.
    pub destination: Destination,
    /// The key or pattern.
    pub routing_key: RoutingKey,
    /// For headers exchanges: the values, and `x-match`.
    pub arguments: FieldTable,
}

/// What kind of objects a policy is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ApplyTo {
    /// Queues and exchanges.
    All,
    /// Exchanges only.
    Exchanges,
    /// Queues of every type.
    Queues,
    /// Classic queues (from 3.12).
    ClassicQueues,
    /// Quorum queues (from 3.12).
    QuorumQueues,
    /// Streams (from 3.12).
    Streams,
}

impl ApplyTo {
    /// The word the management API uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            ApplyTo::All => "all",
            ApplyTo::Exchanges => "exchanges",
            ApplyTo::Queues => "queues",
            ApplyTo::ClassicQueues => "classic_queues",
            ApplyTo::QuorumQueues => "quorum_queues",
            ApplyTo::Streams => "streams",
        }
    }
}

impl fmt::Display for ApplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ApplyTo {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [
            ApplyTo::All,
            ApplyTo::Exchanges,
            ApplyTo::Queues,
            ApplyTo::ClassicQueues,
            ApplyTo::QuorumQueues,
            ApplyTo::Streams,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| format!("`{text}` is nothing a policy can apply to"))
    }
}

/// A policy or operator policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyDefinition {
    /// Its name.
    pub name: PolicyName,
    /// An unanchored regular expression on names.
    pub pattern: String,
    /// What it is for.
    pub apply_to: ApplyTo,
    /// The highest matching one applies, alone.
    pub priority: i64,
    /// Keys such as `max-length` without the `x-`.
    pub definition: Map<String, Value>,
}
