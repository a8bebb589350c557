//! Bindings of others, written down on the broker before the object they lead to is made anew.
//!
//! Whoever is killed between removing an object and binding it again leaves a broker that no longer
//! shows what was bound, and the run may be gone on with on a machine that has no journal of it. What
//! the file declares is made again anyway; the rest is kept here: a durable, internal headers exchange
//! is bound to itself once for each binding, with the binding as text among the arguments. Like the
//! owner records these carry no message, so nothing is routed another way meanwhile. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{
    BindingDefinition, Change, Destination, ExchangeDefinition, ExchangeKind, Snapshot,
};
use crate::message::{FieldTable, FieldValue};

use super::fingerprint::{Fingerprint, canonical_binding};
use super::observed::binding_id;
use super::wire;

/// The exchange that keeps them.
pub const KEPT_EXCHANGE: &str = "nexusctl.kept";

const BINDING: &str = "x-nexus-binding";

/// What is kept of a binding, so that it comes back with the types of its arguments.
#[derive(Serialize, Deserialize)]
struct Text(#[serde(with = "wire::bindings")] Vec<BindingDefinition>);

#[expect(clippy::expect_used, reason = "a constant without a line break is a name")]
fn exchange_name() -> ExchangeName {
    ExchangeName::new(KEPT_EXCHANGE).expect("a valid name")
}

/// The exchange itself.
pub fn declaration() -> Change {
    Change::DeclareExchange(ExchangeDefinition {
        internal: true,
        ..ExchangeDefinition::durable(exchange_name(), ExchangeKind::Headers)
    })
}

fn record(binding: &BindingDefinition) -> BindingDefinition {
    let text = serde_json::to_string(&Text(vec![binding.clone()])).unwrap_or_default();
    let key = format!("binding/{}", Fingerprint::of(&canonical_binding(binding)));
    #[expect(clippy::expect_used, reason = "a word and a hash are a short key")]
    let routing_key = RoutingKey::new(key).expect("a valid key");
    BindingDefinition {
        source: exchange_name(),
        destination: Destination::Exchange(exchange_name()),
        routing_key,
        arguments: FieldTable::new().with("x-match", "all").with(BINDING, text.as_str()),
    }
}

/// Keeps `binding`.
pub fn keep(binding: &BindingDefinition) -> Change {
    Change::Bind(record(binding))
}

/// Forgets it, once it is back.
pub fn forget(binding: &BindingDefinition) -> Change {
    Change::Unbind(record(binding))
}

/// Everything that is kept, by its identity; what cannot be read is not ours.
pub fn kept(snapshot: &Snapshot) -> BTreeMap<String, BindingDefinition> {
    snapshot
        .bindings
        .iter()
        .filter(|record| record.source.as_str() == KEPT_EXCHANGE)
        .filter_map(|record| record.arguments.get(BINDING).and_then(FieldValue::as_text))
        .filter_map(|text| serde_json::from_str::<Text>(text).ok())
        .flat_map(|text| text.0)
        .map(|binding| (binding_id(&binding), binding))
        .collect()
}

/// Whether the exchange exists.
pub fn exists(snapshot: &Snapshot) -> bool {
    snapshot.exchanges.iter().any(|exchange| exchange.name.as_str() == KEPT_EXCHANGE)
}
