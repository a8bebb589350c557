//! A live broker as a topology, for `topology export`.
//!
//! Pure. Leaves out what nobody declared (predeclared exchanges, the default exchange's bindings),
//! what belongs to one connection (exclusive queues) and what nexusctl keeps for itself. The plan of
//! an export against the snapshot it was made of is empty.

use std::collections::BTreeSet;

use crate::broker::{Destination, Snapshot};

use super::migrate;
use super::model::{Desired, Origin, Topology};
use super::object::{is_own_binding, is_own_exchange, is_own_queue};

/// The topology that `snapshot` shows, owned by `owner`.
pub fn export(snapshot: &Snapshot, owner: &str) -> Topology {
    let exclusive: BTreeSet<&str> = snapshot
        .queues
        .iter()
        .filter(|queue| queue.definition.exclusive)
        .map(|queue| queue.definition.name.as_str())
        .collect();
    Topology {
        owner: owner.to_owned(),
        cluster_name: Some(snapshot.identity.cluster_name.clone()),
        vhost: Some(snapshot.identity.vhost.to_string()),
        default_queue_type: snapshot.vhost.default_queue_type.map(desired),
        limits: snapshot.vhost.limits.iter().map(|(name, limit)| (name.clone(), desired(*limit))).collect(),
        exchanges: sorted(
            snapshot
                .exchanges
                .iter()
                .filter(|exchange| !exchange.name.is_predeclared() && !is_own_exchange(&exchange.name)),
            |exchange| exchange.name.to_string(),
        ),
        queues: sorted(
            snapshot
                .queues
                .iter()
                .map(|queue| &queue.definition)
                .filter(|queue| !queue.exclusive && !is_own_queue(&queue.name)),
            |queue| queue.name.to_string(),
        ),
        bindings: sorted(
            snapshot.bindings.iter().filter(|binding| {
                !binding.source.is_default()
                    && !is_own_binding(binding)
                    && !matches!(&binding.destination, Destination::Queue(name) if exclusive.contains(name.as_str()))
            }),
            super::observed::binding_id,
        ),
        policies: sorted(
            snapshot.policies.iter().filter(|policy| policy.name.as_str() != migrate::SHADOW_POLICY),
            |policy| policy.name.to_string(),
        ),
        operator_policies: sorted(snapshot.operator_policies.iter(), |policy| policy.name.to_string()),
        ..Topology::default()
    }
}

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

/// In an order that stays the same from one export to the next.
fn sorted<'a, T: Clone + 'a>(
    objects: impl Iterator<Item = &'a T>,
    key: impl Fn(&T) -> String,
) -> Vec<Desired<T>> {
    let mut objects: Vec<(String, &T)> = objects.map(|object| (key(object), object)).collect();
    objects.sort_by(|a, b| a.0.cmp(&b.0));
    objects.into_iter().map(|(_, object)| desired(object.clone())).collect()
}
