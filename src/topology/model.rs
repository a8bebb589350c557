//! The validated topology: values that cannot be wrong by themselves.

use std::collections::BTreeMap;

use crate::base::diagnostic::Span;
use crate::base::time::HumanDuration;
use crate::broker::definition::{
    BindingDefinition, ExchangeDefinition, PolicyDefinition, QueueDefinition, QueueType,
};

/// What the files say should be there, every preset and every sugar expanded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Who owns what is declared: only objects that this owner made are ever pruned.
    pub owner: String,
    /// The cluster this file is for; anything else is refused.
    pub cluster_name: Option<String>,
    /// The vhost this file is for; `None` takes the connection's.
    pub vhost: Option<String>,
    /// The vhost's default queue type, when the file sets it.
    pub default_queue_type: Option<Desired<QueueType>>,
    /// The vhost's limits (`max-queues`, `max-connections`) that the file sets.
    pub limits: BTreeMap<String, Desired<i64>>,
    /// Exchanges.
    pub exchanges: Vec<Desired<ExchangeDefinition>>,
    /// Queues.
    pub queues: Vec<Desired<QueueDefinition>>,
    /// Bindings.
    pub bindings: Vec<Desired<BindingDefinition>>,
    /// Policies.
    pub policies: Vec<Desired<PolicyDefinition>>,
    /// Operator policies.
    pub operator_policies: Vec<Desired<PolicyDefinition>>,
    /// Defaults of messages by their type.
    pub message_types: BTreeMap<String, MessageType>,
    /// What exists already and belongs to somebody else: referred to, never touched.
    pub external: External,
    /// What names must look like.
    pub naming: Naming,
    /// Where single settings were said, for findings more exact than the object's own place.
    pub places: Places,
}

/// Places of settings by object and setting. Any two are equal: where a thing was said is no part of
/// what was said.
#[derive(Clone, Debug, Default)]
pub struct Places(BTreeMap<(String, String), Span>);

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Places {
    /// Remembers where `setting` (`x-max-length`, `durable`) of `object` (``queue `orders` ``) was said.
    pub fn insert(&mut self, object: impl Into<String>, setting: impl Into<String>, span: Span) {
        self.0.insert((object.into(), setting.into()), span);
    }

    /// Where `setting` of `object` was said.
    pub fn get(&self, object: &str, setting: &str) -> Option<&Span> {
        self.0.get(&(object.to_owned(), setting.to_owned()))
    }
}

/// Objects that somebody else declares. Their definitions say only what the file knows of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct External {
    /// Exchanges; the type is a guess when the file does not say it.
    pub exchanges: Vec<Desired<ExchangeDefinition>>,
    /// Queues.
    pub queues: Vec<Desired<QueueDefinition>>,
}

/// Regular expressions that names must match as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Naming {
    /// For exchanges.
    pub exchanges: Option<Desired<String>>,
    /// For queues.
    pub queues: Option<Desired<String>>,
    /// For policies.
    pub policies: Option<Desired<String>>,
}

/// One desired object and where it was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired<T> {
    /// The object.
    pub definition: T,
    /// Never deleted or replaced, whatever is asked.
    pub protect: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where a desired object was said.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The place in the file; objects that sugar makes point at the sugar.
    pub span: Option<Span>,
    /// What made it, when nobody wrote it out: `preset agents`, `retry of queue orders`.
    pub expanded_from: Option<String>,
}

/// What messages of one type carry unless the publisher says otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MessageType {
    /// Time to live.
    pub ttl: Option<HumanDuration>,
    /// Priority.
    pub priority: Option<u8>,
    /// Whether it outlives a restart of the broker.
    pub persistent: Option<bool>,
}
