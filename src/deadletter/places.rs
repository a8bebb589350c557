//! Where dead letters gather: the queues that dead-letter exchanges of other queues lead to. Pure.

use std::collections::BTreeMap;

use crate::base::id::QueueName;
use crate::broker::definition::Destination;
use crate::topology::view::{TopologyView, ViewQueue};

/// What a queue that gets dead letters is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Dead letters stay until somebody looks after them.
    DeadLetters,
    /// They wait here for some time, then go on.
    Delay,
    /// They come back here to be worked on again.
    Work,
}

/// A queue whose dead letters lead somewhere.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Feeder {
    /// Its name.
    pub queue: String,
    /// Its dead-letter exchange; the empty name is the default one.
    pub exchange: String,
    /// Its dead-letter routing key; null when letters keep their own.
    pub routing_key: Option<String>,
}

/// A queue that gets dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub queue: QueueName,
    /// What it is for.
    pub purpose: Purpose,
    /// Who sends letters there.
    pub feeders: Vec<Feeder>,
}

/// The keys by which messages are known to come to a queue. Those that come by a wildcard are not.
pub fn known_keys(view: &TopologyView, queue: &str) -> Vec<String> {
    let bound = view.bindings.iter().filter_map(|binding| match &binding.destination {
        Destination::Queue(name) if name.as_str() == queue => Some(binding.routing_key.as_str()),
        _ => None,
    });
    let plain = bound.filter(|key| !key.split('.').any(|word| word == "#" || word == "*"));
    std::iter::once(queue).chain(plain).map(str::to_owned).collect()
}

/// Where the dead letters of each queue go that has a dead-letter exchange, as far as its keys are known.
pub fn ways(view: &TopologyView) -> BTreeMap<&str, Vec<QueueName>> {
    let routing = view.routing();
    let dead_lettering =
        view.queues.iter().filter(|(_, queue)| queue.effective.dead_letter_exchange().is_some());
    dead_lettering
        .filter_map(|(name, queue)| {
            let keys = known_keys(view, name);
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            Some((name.as_str(), view.dead_letter_targets(&routing, queue, &keys)?))
        })
        .collect()
}

fn delays(queue: &ViewQueue) -> bool {
    queue.effective.message_ttl_ms().is_some() && queue.effective.dead_letter_exchange().is_some()
}

/// Every queue that gets dead letters of others, by name.
pub fn places(view: &TopologyView) -> Vec<Place> {
    let mut feeders: BTreeMap<QueueName, Vec<&ViewQueue>> = BTreeMap::new();
    for (from, targets) in ways(view) {
        let Some(source) = view.queues.get(from) else { continue };
        for target in targets.into_iter().filter(|target| target.as_str() != from) {
            feeders.entry(target).or_default().push(source);
        }
    }
    feeders
        .into_iter()
        .map(|(queue, sources)| {
            let own = view.queues.get(queue.as_str());
            let purpose = match own {
                Some(own) if delays(own) => Purpose::Delay,
                _ if sources.iter().all(|source| delays(source)) => Purpose::Work,
                _ => Purpose::DeadLetters,
            };
            let feeders = sources
                .into_iter()
                .map(|source| Feeder {
                    queue: source.definition.name.as_str().to_owned(),
                    exchange: source
                        .effective
                        .dead_letter_exchange()
                        .unwrap_or_default()
                        .to_owned(),
                    routing_key: source.effective.dead_letter_routing_key().map(str::to_owned),
                })
                .collect();
            Place { queue, purpose, feeders }
        })
        .collect()
}
