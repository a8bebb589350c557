//! Who made what, recorded on the broker itself without touching the objects.
//!
//! A durable, internal headers exchange is bound to itself once for each owned object; the routing
//! key names the object, an argument the owner. Nobody can publish to an internal exchange and no
//! other exchange leads to it, so these bindings never carry a message. They come with every
//! snapshot, outlive restarts, and need no file on the operator's machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{
    BindingDefinition, Change, Destination, ExchangeDefinition, ExchangeKind, Snapshot,
};
use crate::message::{FieldTable, FieldValue};

use super::fingerprint::{Fingerprint, canonical_binding};
use super::object::{ObjectKind, ObjectRef};

/// The exchange that holds the records.
pub const OWNERS_EXCHANGE: &str = "nexusctl.owners";

const OWNER: &str = "x-nexus-owner";

/// Whose an object is, seen from one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", tag = "owner", content = "name")]
pub enum Owner {
    /// Made by the owner of the topology at hand.
    Ours,
    /// Made by another owner, whose name this is.
    Other(String),
    /// Nobody said.
    Nobody,
}

/// The records of one broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Owners {
    /// Owner by the key of the object. Two owners of one object: the record that sorts first counts,
    /// so that two runs see the same.
    by_key: BTreeMap<String, String>,
    /// Whether the exchange exists.
    pub exists: bool,
}

/// The key under which `object` is recorded: `kind/name`, or a hash where that is too long for a
/// routing key. Names with `~` are hashed too: while a binding has arguments and such a key, RabbitMQ
/// 3.10.8 and 4.0.5 answer 500 to whoever lists the bindings of the vhost.
fn key(kind: ObjectKind, name: &str) -> String {
    let word = match kind {
        ObjectKind::Vhost => "vhost",
        ObjectKind::Exchange => "exchange",
        ObjectKind::Queue => "queue",
        ObjectKind::Binding => "binding",
        ObjectKind::Policy => "policy",
        ObjectKind::OperatorPolicy => "operator-policy",
    };
    let plain = format!("{word}/{name}");
    if plain.len() <= 255 && !name.starts_with("sha256:") && !name.contains('~') {
        plain
    } else {
        format!("{word}/{}", Fingerprint::of(&Value::String(name.to_owned())))
    }
}

/// The key of a binding: its parts together are too long, so they are hashed.
fn binding_key(binding: &BindingDefinition) -> String {
    format!("binding/{}", Fingerprint::of(&canonical_binding(binding)))
}

/// What is recorded: an object that has a name, or a binding.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// An object with a name.
    Named(ObjectKind, &'a str),
    /// A binding.
    Binding(&'a BindingDefinition),
}

impl Owned<'_> {
    fn key(self) -> String {
        match self {
            Owned::Named(kind, name) => key(kind, name),
            Owned::Binding(binding) => binding_key(binding),
        }
    }

    /// Names it.
    pub fn object(self) -> ObjectRef {
        match self {
            Owned::Named(kind, name) => ObjectRef::new(kind, name),
            Owned::Binding(binding) => ObjectRef::binding(binding),
        }
    }
}

impl Owners {
    /// Reads the records out of a snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut by_key: BTreeMap<String, String> = BTreeMap::new();
        for binding in snapshot.bindings.iter().filter(|binding| is_record(binding)) {
            let Some(owner) = binding.arguments.get(OWNER).and_then(FieldValue::as_text) else {
                continue;
            };
            by_key
                .entry(binding.routing_key.as_str().to_owned())
                .and_modify(|first| {
                    if owner < first.as_str() {
                        owner.clone_into(first);
                    }
                })
                .or_insert_with(|| owner.to_owned());
        }
        let exists =
            snapshot.exchanges.iter().any(|exchange| exchange.name.as_str() == OWNERS_EXCHANGE);
        Owners { by_key, exists }
    }

    /// Whose `object` is, seen from `owner`.
    pub fn owner(&self, object: Owned<'_>, owner: &str) -> Owner {
        match self.by_key.get(&object.key()) {
            Some(name) if name == owner => Owner::Ours,
            Some(name) => Owner::Other(name.clone()),
            None => Owner::Nobody,
        }
    }

    /// Forgets what of `owner`'s is neither there nor wanted: the run that removed it was interrupted
    /// before it could. Whoever makes such an object later would find it pruned. Only objects with
    /// names: a binding that is gone and made again by others is no loss that prune could cause alone.
    pub fn forgotten(&self, owner: &str, known: &BTreeSet<(ObjectKind, &str)>) -> Vec<Change> {
        let known: BTreeSet<String> = known.iter().map(|(kind, name)| key(*kind, name)).collect();
        self.by_key
            .iter()
            .filter(|(key, name)| *name == owner && !key.starts_with("binding/"))
            .filter(|(key, _)| !known.contains(*key))
            .map(|(key, _)| Change::Unbind(record(key.clone(), owner)))
            .collect()
    }

    /// How many objects are recorded for `owner`.
    pub fn count(&self, owner: &str) -> usize {
        self.by_key.values().filter(|name| *name == owner).count()
    }
}

/// Whether a binding is an owner record.
pub fn is_record(binding: &BindingDefinition) -> bool {
    binding.source.as_str() == OWNERS_EXCHANGE
        && matches!(&binding.destination, Destination::Exchange(name) if name.as_str() == OWNERS_EXCHANGE)
}

fn exchange_name() -> ExchangeName {
    #[expect(
        clippy::expect_used,
        reason = "a constant of 15 letters without a line break is a name"
    )]
    ExchangeName::new(OWNERS_EXCHANGE).expect("a valid name")
}

/// The exchange itself.
pub fn declaration() -> Change {
    Change::DeclareExchange(ExchangeDefinition {
        internal: true,
        ..ExchangeDefinition::durable(exchange_name(), ExchangeKind::Headers)
    })
}

fn record(key: String, owner: &str) -> BindingDefinition {
    BindingDefinition {
        source: exchange_name(),
        destination: Destination::Exchange(exchange_name()),
        #[expect(
            clippy::expect_used,
            reason = "keys over 255 bytes are hashed, and names hold no line break"
        )]
        routing_key: RoutingKey::new(key).expect("a valid key"),
        arguments: FieldTable::new().with("x-match", "all").with(OWNER, owner),
    }
}

/// Records that `owner` made `object`.
pub fn claim(object: Owned<'_>, owner: &str) -> Change {
    Change::Bind(record(object.key(), owner))
}

/// Forgets that `owner` made `object`.
pub fn release(object: Owned<'_>, owner: &str) -> Change {
    Change::Unbind(record(object.key(), owner))
}
