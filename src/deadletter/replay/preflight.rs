//! Looks around before a run touches anything.

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::effective::{EffectiveQueue, Overflow};
use crate::broker::{Broker, BrokerError, ErrorKind};
use crate::topology::view::TopologyView;

use super::address::Target;
use super::mapping::Place;
use super::plan::{Facts, TargetFacts};
use super::spec::RunSpec;

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Something that is named is not there.
    #[error("{} `{name}` does not exist", noun.as_str())]
    Missing {
        /// Whether it would be where the copies go.
        is_target: bool,
        /// What it would be.
        noun: Noun,
        /// Its name.
        name: String,
    },
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl Noun {
    /// As a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Noun::Queue => "queue",
            Noun::Exchange => "exchange",
        }
    }
}

fn missing(noun: Noun, name: &str, is_target: bool) -> PreflightError {
    PreflightError::Missing { is_target, noun, name: name.to_owned() }
}

/// The topology of a broker; `None` when it cannot be listed.
///
/// # Errors
/// When the broker fails.
pub async fn topology(broker: &dyn Broker) -> Result<Option<TopologyView>, BrokerError> {
    match broker.inspect().await {
        Ok(snapshot) => Ok(Some(TopologyView::of_snapshot(&snapshot))),
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

/// The same of another broker, of which often only the URL for messages is known: what its management
/// API would tell is not known then, and nothing else.
pub async fn topology_there(broker: &dyn Broker) -> Option<TopologyView> {
    topology(broker).await.ok().flatten()
}

/// What was seen of both sides.
#[derive(Debug)]
pub struct Around {
    /// What matters for a plan.
    pub facts: Facts,
    /// Letters that wait, those included that came after a plan was made.
    pub waiting: u64,
    /// Where the letters are; `None` when the broker cannot be listed.
    pub view: Option<TopologyView>,
    /// Where the copies go, when that is elsewhere and can be listed.
    pub there: Option<TopologyView>,
}

impl Around {
    /// The topology that the copies go into.
    pub fn of_targets(&self, elsewhere: bool) -> Option<&TopologyView> {
        if elsewhere { self.there.as_ref() } else { self.view.as_ref() }
    }
}

/// What is known of `queue` on `broker` and of where its letters are to go, which may be on another one.
///
/// # Errors
/// When one of them does not exist, or a broker fails.
pub async fn look(
    queue: &QueueName,
    spec: &RunSpec,
    target: &Target,
    broker: &dyn Broker,
    elsewhere: Option<&dyn Broker>,
) -> Result<Around, PreflightError> {
    let there = elsewhere.unwrap_or(broker);
    let depth =
        broker.depth(queue).await?.ok_or_else(|| missing(Noun::Queue, queue.as_str(), false))?;
    let (mut queues, mut exchanges): (Vec<&QueueName>, Vec<&ExchangeName>) =
        (spec.park.iter().collect(), Vec::new());
    match target {
        Target::Exchange(exchange, _) => exchanges.push(exchange),
        Target::Mapped(map) => {
            for place in map.places() {
                match place {
                    Place::Queue(queue) => queues.push(queue),
                    Place::Exchange(exchange, _) => exchanges.push(exchange),
                }
            }
        }
        Target::Queue(_) | Target::Origin | Target::OriginExchange => {}
    }
    let mut known_target = None;
    if let Target::Queue(to) = target {
        let missing = || missing(Noun::Queue, to.as_str(), true);
        known_target = Some((to, there.depth(to).await?.ok_or_else(missing)?));
    }
    for to in queues {
        if there.depth(to).await?.is_none() {
            return Err(missing(Noun::Queue, to.as_str(), true));
        }
    }
    for exchange in exchanges {
        if !there.has_exchange(exchange).await? {
            return Err(missing(Noun::Exchange, exchange.as_str(), true));
        }
    }
    let view = topology(broker).await?;
    let other = match elsewhere {
        Some(there) => topology_there(there).await,
        None => None,
    };
    let mut facts = Facts { ready: depth.ready, consumers: depth.consumers, ..Facts::default() };
    let effective = |view: &Option<TopologyView>, name: &str| {
        Some(view.as_ref()?.queues.get(name)?.effective.clone())
    };
    if let Some(known) = effective(&view, queue.as_str()) {
        facts.queue_type = Some(known.queue_type);
        facts.single_active_consumer = known.single_active_consumer();
        facts.delivery_limit = known.delivery_limit().map(u64::from);
        facts.ttl_ms = known.message_ttl_ms();
        facts.has_priorities = known.max_priority().is_some();
    }
    facts.target = known_target.map(|(to, depth)| {
        let known = effective(if elsewhere.is_some() { &other } else { &view }, to.as_str());
        TargetFacts {
            name: to.to_string(),
            ready: depth.ready,
            consumers: depth.consumers,
            drops_beyond: known
                .as_ref()
                .filter(|known| known.overflow() == Overflow::DropHead)
                .and_then(EffectiveQueue::max_length),
            ttl_ms: known.as_ref().and_then(EffectiveQueue::message_ttl_ms),
        }
    });
    if let Some(planned) = spec.planned
        && !facts.has_priorities
    {
        // What came since the plan was made lies behind.
        facts.ready = facts.ready.min(planned.within);
    }
    Ok(Around { facts, waiting: depth.ready, view, there: other })
}
