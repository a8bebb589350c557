//! Looks around before a run touches anything.

use crate::base::id::QueueName;
use crate::broker::effective::{EffectiveQueue, Overflow};
use crate::broker::{Broker, BrokerError, ErrorKind, QueueType};
use crate::topology::view::TopologyView;

use super::address::Target;
use super::plan::{Facts, TargetFacts};
use super::spec::{RunSpec, Verb};

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Something that is named is not there.
    #[error("{} `{name}` does not exist", noun.as_str())]
    Missing {
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

fn missing_queue(queue: &QueueName) -> PreflightError {
    PreflightError::Missing { noun: Noun::Queue, name: queue.to_string() }
}

/// What is known of `queue` and of where its letters are to go.
///
/// # Errors
/// When one of them does not exist, or the broker fails.
pub async fn facts(
    queue: &QueueName,
    spec: &RunSpec,
    target: &Target,
    broker: &dyn Broker,
) -> Result<Facts, PreflightError> {
    let depth = broker.depth(queue).await?.ok_or_else(|| missing_queue(queue))?;
    let mut facts = Facts { ready: depth.ready, consumers: depth.consumers, ..Facts::default() };
    let view = look_ahead(spec, target, broker, &mut facts).await?;
    if let Some(known) = view.as_ref().and_then(|view| view.queues.get(queue.as_str())) {
        let known = &known.effective;
        facts.queue_type = Some(known.queue_type);
        facts.single_active_consumer = known.single_active_consumer();
        facts.delivery_limit = known.delivery_limit().map(u64::from);
        facts.ttl_ms = known.message_ttl_ms();
        facts.has_priorities = known.max_priority().is_some();
    }
    Ok(facts)
}

/// The same for so many letters of a bundle: there is no queue that they come from.
///
/// # Errors
/// When where they are to go does not exist, or the broker fails.
pub async fn facts_of_bundle(
    letters: u64,
    spec: &RunSpec,
    target: &Target,
    broker: &dyn Broker,
) -> Result<Facts, PreflightError> {
    // A file has the one order, keeps what it hands out, and nobody else takes from it.
    let mut facts =
        Facts { queue_type: Some(QueueType::Classic), ready: letters, ..Facts::default() };
    look_ahead(spec, target, broker, &mut facts).await?;
    Ok(facts)
}

/// Looks at where letters are to go.
async fn look_ahead(
    spec: &RunSpec,
    target: &Target,
    broker: &dyn Broker,
    facts: &mut Facts,
) -> Result<Option<TopologyView>, PreflightError> {
    if let Some(park) = &spec.park
        && broker.depth(park).await?.is_none()
    {
        return Err(missing_queue(park));
    }
    let mut known_target = None;
    match target {
        Target::Queue(to) => match broker.depth(to).await? {
            Some(depth) => known_target = Some((to, depth)),
            None if spec.verb == Verb::Park => facts.declares = Some(to.clone()),
            None => return Err(missing_queue(to)),
        },
        Target::Exchange(exchange, _) if !broker.has_exchange(exchange).await? => {
            let name = exchange.to_string();
            return Err(PreflightError::Missing { noun: Noun::Exchange, name });
        }
        _ => {}
    }
    let view = match broker.inspect().await {
        Ok(snapshot) => Some(TopologyView::of_snapshot(&snapshot)),
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => return Err(error.into()),
    };
    facts.target = known_target.map(|(to, depth)| {
        let known = view.as_ref().and_then(|view| view.queues.get(to.as_str()));
        let known = known.map(|known| &known.effective);
        TargetFacts {
            name: to.to_string(),
            ready: depth.ready,
            consumers: depth.consumers,
            drops_beyond: known
                .filter(|known| known.overflow() == Overflow::DropHead)
                .and_then(EffectiveQueue::max_length),
            ttl_ms: known.and_then(EffectiveQueue::message_ttl_ms),
        }
    });
    Ok(view)
}
