//! From the topology back to the file.

use serde_json::Value as Json;

use crate::base::document::{Entries, Spanned, to_yaml};
use crate::base::id::{ExchangeName, RoutingKey, VhostName};
use crate::broker::definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, PolicyDefinition, QueueDefinition,
    QueueType,
};
use crate::message::FieldTable;
use crate::topology::model::{Desired, MessageType, Topology};
use crate::topology::spec::{
    BindingSpec, ClusterSpec, DeadLetterRoute, DeadLetterSpec, ExchangeSpec, LimitsSpec,
    MessageTypeSpec, MetadataSpec, NamingSpec, PolicySpec, QueueKind, QueueSpec, Target,
    TopologySpec, VhostQueueType, VhostSpec,
};

use super::settings::{friendly_setting, take, take_settings, typed_json};

/// The topology as YAML in the format of our files, every preset and sugar written out.
pub fn render(topology: &Topology) -> String {
    to_yaml(&escaped(serde_json::to_value(to_spec(topology)).unwrap_or_default()))
}

/// Texts of the broker that look like our variables, so that they come back as they are.
fn escaped(value: Json) -> Json {
    let text = |text: String| text.replace("${", "$${");
    match value {
        Json::String(value) => Json::String(text(value)),
        Json::Array(items) => items.into_iter().map(escaped).collect(),
        Json::Object(map) => {
            Json::Object(map.into_iter().map(|(key, value)| (text(key), escaped(value))).collect())
        }
        other => other,
    }
}

/// The topology in the shape of our files. Origins are left out, and exclusive queues, which no file
/// can say.
pub fn to_spec(topology: &Topology) -> TopologySpec {
    let external = &topology.external;
    let said = |text: &String| Spanned::nowhere(text.clone());
    let naming = NamingSpec {
        exchanges: topology.naming.exchanges.as_ref().map(|d| said(&d.definition)),
        queues: topology.naming.queues.as_ref().map(|d| said(&d.definition)),
        policies: topology.naming.policies.as_ref().map(|d| said(&d.definition)),
    };
    let limit =
        |name: &str| topology.limits.get(name).map(|limit| Spanned::nowhere(limit.definition));
    let limits =
        LimitsSpec { max_queues: limit("max-queues"), max_connections: limit("max-connections") };
    let vhost = VhostSpec {
        default_queue_type: topology.default_queue_type.as_ref().map(|kind| {
            Spanned::nowhere(match kind.definition {
                QueueType::Classic => VhostQueueType::Classic,
                QueueType::Quorum => VhostQueueType::Quorum,
                QueueType::Stream => VhostQueueType::Stream,
            })
        }),
        limits: (limits != LimitsSpec::default()).then_some(limits),
    };
    let cluster = ClusterSpec {
        name: topology.cluster_name.as_ref().map(said),
        vhost: topology
            .vhost
            .as_ref()
            .and_then(|name| VhostName::new(name.clone()).ok())
            .map(Spanned::nowhere),
    };
    let exchanges = topology.exchanges.iter().map(|e| (e, false));
    let queues = topology.queues.iter().map(|q| (q, false));
    TopologySpec {
        metadata: Some(MetadataSpec { name: None, owner: Some(said(&topology.owner)) }),
        cluster: (cluster != ClusterSpec::default()).then_some(cluster),
        variables: Entries::default(),
        preset: None,
        defaults: None,
        vhost: (vhost != VhostSpec::default()).then_some(vhost),
        naming: (naming != NamingSpec::default()).then_some(naming),
        exchanges: exchanges
            .chain(external.exchanges.iter().map(|e| (e, true)))
            .map(|(exchange, external)| {
                (exchange.definition.name.as_str().to_owned(), exchange_spec(exchange, external))
            })
            .collect(),
        queues: queues
            .chain(external.queues.iter().map(|q| (q, true)))
            .filter(|(queue, _)| !queue.definition.exclusive)
            .map(|(queue, external)| {
                (queue.definition.name.as_str().to_owned(), queue_spec(queue, external))
            })
            .collect(),
        bindings: topology
            .bindings
            .iter()
            .map(|binding| Spanned::nowhere(binding_spec(&binding.definition)))
            .collect(),
        policies: topology.policies.iter().map(policy_spec).collect(),
        operator_policies: topology.operator_policies.iter().map(policy_spec).collect(),
        journal: None,
        message_types: topology
            .message_types
            .iter()
            .map(|(name, said)| {
                let MessageType { ttl, priority, persistent } = said.clone();
                (name.clone(), MessageTypeSpec { ttl, priority, persistent })
            })
            .collect(),
    }
}

fn json_arguments(arguments: &FieldTable) -> Entries<Spanned<Json>> {
    arguments
        .iter()
        .map(|(name, value)| (name.to_owned(), Spanned::nowhere(typed_json(value))))
        .collect()
}

fn exchange_spec(exchange: &Desired<ExchangeDefinition>, external: bool) -> ExchangeSpec {
    let definition = &exchange.definition;
    let mut arguments = definition.arguments.clone();
    let alternate_exchange = take(&mut arguments, "alternate-exchange", |value| {
        ExchangeName::new(value.as_text()?).ok()
    });
    let kind = definition.kind.as_str();
    ExchangeSpec {
        r#type: (!external || !kind.is_empty()).then(|| Spanned::nowhere(kind.to_owned())),
        durable: (!definition.durable).then_some(false),
        auto_delete: definition.auto_delete,
        internal: definition.internal,
        alternate_exchange,
        arguments: json_arguments(&arguments),
        protect: exchange.protect.then_some(true),
        external,
    }
}

fn queue_spec(queue: &Desired<QueueDefinition>, external: bool) -> QueueSpec {
    let definition = &queue.definition;
    let mut arguments = definition.arguments.clone();
    let a = &mut arguments;
    // `default` is a word of ours: as an argument it stays one.
    let kind = take(a, "x-queue-type", |value| {
        value.as_text()?.parse().ok().filter(|kind| *kind != QueueKind::Default)
    });
    let typed_by_argument = kind.is_none() && a.get("x-queue-type").is_some();
    let exchange =
        take(a, "x-dead-letter-exchange", |value| ExchangeName::new(value.as_text()?).ok());
    let routing_key =
        take(a, "x-dead-letter-routing-key", |value| RoutingKey::new(value.as_text()?).ok());
    let dead_letter = (exchange.is_some() || routing_key.is_some()).then(|| {
        Spanned::nowhere(DeadLetterSpec::To(DeadLetterRoute { queue: None, exchange, routing_key }))
    });
    let mut spec = QueueSpec {
        r#type: kind.or_else(|| (!typed_by_argument).then(|| Spanned::nowhere(QueueKind::Default))),
        durable: (!definition.durable).then_some(false),
        auto_delete: definition.auto_delete,
        dead_letter,
        protect: queue.protect.then_some(true),
        external,
        ..QueueSpec::default()
    };
    take_settings(a, &mut spec);
    spec.arguments = json_arguments(&arguments);
    spec
}

fn binding_spec(binding: &BindingDefinition) -> BindingSpec {
    let mut arguments = binding.arguments.clone();
    let matching = take(&mut arguments, "x-match", |value| value.as_text()?.parse().ok());
    // Without a word for it, `x-match` must not become a header.
    let mut rest = FieldTable::new();
    if let Some(odd) = arguments.remove("x-match") {
        rest.insert("x-match", odd);
    }
    let (queue, exchange) = match &binding.destination {
        Destination::Queue(queue) => (Some(Spanned::nowhere(queue.clone())), None),
        Destination::Exchange(exchange) => (None, Some(Spanned::nowhere(exchange.clone()))),
    };
    let key = &binding.routing_key;
    BindingSpec {
        from: Spanned::nowhere(binding.source.clone()),
        queue,
        exchange,
        key: (!key.as_str().is_empty()).then(|| Spanned::nowhere(key.clone())),
        keys: Vec::new(),
        headers: json_arguments(&arguments),
        r#match: matching,
        arguments: json_arguments(&rest),
    }
}

fn policy_spec(policy: &Desired<PolicyDefinition>) -> (String, PolicySpec) {
    let definition = &policy.definition;
    let target = match definition.apply_to {
        ApplyTo::All => Target::All,
        ApplyTo::Exchanges => Target::Exchanges,
        ApplyTo::Queues => Target::Queues,
        ApplyTo::ClassicQueues => Target::ClassicQueues,
        ApplyTo::QuorumQueues => Target::QuorumQueues,
        ApplyTo::Streams => Target::Streams,
    };
    (
        definition.name.as_str().to_owned(),
        PolicySpec {
            pattern: Spanned::nowhere(definition.pattern.clone()),
            apply_to: Spanned::nowhere(target),
            priority: definition.priority,
            definition: definition
                .definition
                .iter()
                .map(|(key, value)| {
                    let (key, value) = friendly_setting(key, value);
                    (key, Spanned::nowhere(value))
                })
                .collect(),
            protect: policy.protect.then_some(true),
        },
    )
}
