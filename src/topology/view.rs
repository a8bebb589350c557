//! A topology as it would work: of a file or of a live broker, with every effective value resolved.
//! What `lint`, `route`, `graph` and `explain` look at. Pure.

use std::collections::BTreeMap;

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::definition::{
    BindingDefinition, ExchangeDefinition, ExchangeKind, PolicyDefinition, QueueDefinition,
    QueueType,
};
use crate::broker::effective::{
    EffectiveExchange, EffectiveQueue, Policies, Source, effective_exchange, effective_queue,
    resolve_queue_type,
};
use crate::broker::routing::{RoutingExchange, RoutingTable};
use crate::broker::snapshot::Snapshot;
use crate::broker::version::{Product, Version};

use super::model::Topology;

/// Everything in a vhost, resolved for one version.
#[derive(Debug)]
pub struct TopologyView {
    /// Whose rules apply.
    pub version: Version,
    /// The broker that was looked at; `None` for files.
    pub product: Option<Product>,
    /// Exchanges by name, the predeclared ones included, but for the default exchange.
    pub exchanges: BTreeMap<String, ViewExchange>,
    /// Queues by name.
    pub queues: BTreeMap<String, ViewQueue>,
    /// Bindings but for those of the default exchange.
    pub bindings: Vec<BindingDefinition>,
    /// Policies, compiled.
    pub policies: Policies,
}

/// An exchange, resolved.
#[derive(Clone, Debug)]
pub struct ViewExchange {
    /// As declared.
    pub definition: ExchangeDefinition,
    /// With policies.
    pub effective: EffectiveExchange,
    /// Made by the broker itself or declared as somebody else's.
    pub external: bool,
}

/// A queue, resolved.
#[derive(Clone, Debug)]
pub struct ViewQueue {
    /// As declared.
    pub definition: QueueDefinition,
    /// Its type.
    pub queue_type: QueueType,
    /// Who says so.
    pub type_source: Source,
    /// With policies and defaults.
    pub effective: EffectiveQueue,
    /// Declared as somebody else's.
    pub external: bool,
    /// Messages in it, when it is a live one and they are counted.
    pub messages: Option<u64>,
}

/// The exchanges that every vhost has.
const PREDECLARED: [(&str, &str); 6] = [
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
    ("amq.rabbitmq.trace", "topic"),
];

impl TopologyView {
    /// The topology of a file, as `version` would run it.
    pub fn of_topology(topology: &Topology, version: Version) -> Self {
        let policies = |list: &[super::model::Desired<PolicyDefinition>]| {
            list.iter().map(|policy| policy.definition.clone()).collect::<Vec<_>>()
        };
        let external = &topology.external;
        Self::build(
            version,
            topology.default_queue_type.as_ref().map(|kind| kind.definition),
            &policies(&topology.policies),
            &policies(&topology.operator_policies),
            topology
                .exchanges
                .iter()
                .map(|e| (e.definition.clone(), false))
                .chain(external.exchanges.iter().map(|e| (e.definition.clone(), true))),
            topology
                .queues
                .iter()
                .map(|q| (q.definition.clone(), false, None))
                .chain(external.queues.iter().map(|q| (q.definition.clone(), true, None))),
            topology.bindings.iter().map(|b| b.definition.clone()).collect(),
        )
    }

    /// A live broker's topology.
    pub fn of_snapshot(snapshot: &Snapshot) -> Self {
        let view = Self::build(
            snapshot.identity.version,
            snapshot.vhost.default_queue_type,
            &snapshot.policies,
            &snapshot.operator_policies,
            snapshot
                .exchanges
                .iter()
                .filter(|exchange| !exchange.name.is_default())
                .map(|exchange| (exchange.clone(), exchange.name.is_predeclared())),
            snapshot.queues.iter().map(|q| (q.definition.clone(), false, q.messages())),
            snapshot.bindings.clone(),
        );
        TopologyView { product: Some(snapshot.identity.product), ..view }
    }

    fn build(
        version: Version,
        default_queue_type: Option<QueueType>,
        policies: &[PolicyDefinition],
        operator_policies: &[PolicyDefinition],
        exchanges: impl Iterator<Item = (ExchangeDefinition, bool)>,
        queues: impl Iterator<Item = (QueueDefinition, bool, Option<u64>)>,
        bindings: Vec<BindingDefinition>,
    ) -> Self {
        let policies = Policies::compile(policies, operator_policies);
        let predeclared = PREDECLARED.iter().filter_map(|(name, kind)| {
            let name = ExchangeName::new(*name).ok()?;
            Some((ExchangeDefinition::durable(name, ExchangeKind::from(*kind)), true))
        });
        let exchanges = predeclared
            .chain(exchanges)
            .map(|(definition, external)| {
                let effective = effective_exchange(&definition, &policies);
                let name = definition.name.as_str().to_owned();
                (name, ViewExchange { definition, effective, external })
            })
            .collect();
        let queues = queues
            .map(|(definition, external, messages)| {
                let (queue_type, type_source) = resolve_queue_type(&definition, default_queue_type);
                let effective = effective_queue(&definition, queue_type, &policies, version);
                let name = definition.name.as_str().to_owned();
                let queue = ViewQueue {
                    definition,
                    queue_type,
                    type_source,
                    effective,
                    external,
                    messages,
                };
                (name, queue)
            })
            .collect();
        TopologyView { version, product: None, exchanges, queues, bindings, policies }
    }

    /// Whether there is such an exchange; the default one always is.
    pub fn has_exchange(&self, name: &str) -> bool {
        name.is_empty() || self.exchanges.contains_key(name)
    }

    /// For routing messages through it.
    pub fn routing(&self) -> RoutingTable {
        RoutingTable::new(
            self.exchanges.values().map(|exchange| RoutingExchange {
                definition: exchange.definition.clone(),
                alternate: exchange
                    .effective
                    .alternate()
                    .and_then(|name| ExchangeName::new(name).ok()),
            }),
            self.queues.values().map(|queue| queue.definition.name.clone()),
            self.bindings.iter().cloned(),
        )
    }

    /// Where the dead letters of `queue` go when they carry `keys` (used when the queue names no
    /// key of its own); `None` when it dead-letters nothing.
    pub fn dead_letter_targets(
        &self,
        routing: &RoutingTable,
        queue: &ViewQueue,
        keys: &[&str],
    ) -> Option<Vec<QueueName>> {
        let exchange = ExchangeName::new(queue.effective.dead_letter_exchange()?).ok()?;
        let own = queue.effective.dead_letter_routing_key();
        let mut found: Vec<QueueName> = Vec::new();
        let keys: Vec<&str> = own.map_or_else(|| keys.to_vec(), |key| vec![key]);
        for key in keys {
            for index in routing.targets(&exchange, key, &Default::default(), &[]) {
                if let Some(target) = routing.queue(index)
                    && !found.contains(target)
                {
                    found.push(target.clone());
                }
            }
        }
        Some(found)
    }
}
