//! Looks around before a run touches anything.

use crate::base::id::QueueName;
use crate::broker::effective::compile_pattern;
use crate::broker::effective::{EffectiveQueue, Overflow};
use crate::broker::snapshot::{Permissions, Snapshot};
use crate::broker::{Broker, BrokerError, ErrorKind, Product, QueueType};
use crate::deadletter::places::known_keys;
use crate::topology::view::TopologyView;

use super::address::Target;
use super::plan::{DeadLettersOf, Facts, TargetFacts};
use super::rest;
use super::run::lock_name;
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
    let identity = broker.identity();
    let mut facts = Facts {
        ready: depth.ready,
        consumers: depth.consumers,
        takes_back: identity.product == Product::RabbitMq,
        ..Facts::default()
    };
    let snapshot = look_ahead(spec, target, Some(queue), broker, &mut facts).await?;
    if let Some((snapshot, view)) = &snapshot {
        let mut states = snapshot.queues.iter();
        let state = states.find(|state| state.definition.name == *queue);
        facts.held_by_others = state.and_then(|state| state.unacked);
        if let Some(permissions) = &snapshot.permissions {
            let lock = lock_name(identity.vhost.as_str(), queue);
            facts.forbidden = forbidden(permissions, queue, spec, target, &lock);
        }
        if let Some(known) = view.queues.get(queue.as_str()) {
            let known = &known.effective;
            facts.queue_type = Some(known.queue_type);
            facts.single_active_consumer = known.single_active_consumer();
            facts.delivery_limit = known.delivery_limit().map(u64::from);
            facts.ttl_ms = known.message_ttl_ms();
            let drops = known.overflow() == Overflow::DropHead;
            facts.drops_beyond = known.max_length().filter(|_| drops);
            facts.has_priorities = known.max_priority().is_some();
        }
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
    look_ahead(spec, target, None, broker, &mut facts).await?;
    Ok(facts)
}

/// Looks at where letters are to go, seen from the queue that they lie in.
async fn look_ahead(
    spec: &RunSpec,
    target: &Target,
    lie_in: Option<&QueueName>,
    broker: &dyn Broker,
    facts: &mut Facts,
) -> Result<Option<(Snapshot, TopologyView)>, PreflightError> {
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
    let around = match broker.inspect().await {
        Ok(snapshot) => {
            let view = TopologyView::of_snapshot(&snapshot);
            Some((snapshot, view))
        }
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => return Err(error.into()),
    };
    let view = around.as_ref().map(|(_, view)| view);
    facts.target = known_target.map(|(to, depth)| {
        let known = view.and_then(|view| view.queues.get(to.as_str()));
        let known = known.map(|known| &known.effective);
        TargetFacts {
            name: to.to_string(),
            ready: depth.ready,
            consumers: depth.consumers,
            drops_beyond: known
                .filter(|known| known.overflow() == Overflow::DropHead)
                .and_then(EffectiveQueue::max_length),
            ttl_ms: known.and_then(EffectiveQueue::message_ttl_ms),
            dead_letters: lie_in.and_then(|queue| dead_letters_of(view?, to, queue)),
        }
    });
    Ok(around)
}

/// Where what dies in `target` goes, seen from the queue that is replayed.
fn dead_letters_of(
    view: &TopologyView,
    target: &QueueName,
    replayed: &QueueName,
) -> Option<DeadLettersOf> {
    let queue = view.queues.get(target.as_str())?;
    let keys = known_keys(view, target.as_str());
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let Some(found) = view.dead_letter_targets(&view.routing(), queue, &keys) else {
        return Some(DeadLettersOf::Dropped);
    };
    if found.contains(replayed) {
        return Some(DeadLettersOf::Here);
    }
    if !found.is_empty() {
        return Some(DeadLettersOf::Elsewhere(found.iter().map(ToString::to_string).collect()));
    }
    // By keys that are not known something may arrive somewhere.
    let exchange = queue.effective.dead_letter_exchange()?;
    let may_arrive = queue.effective.dead_letter_routing_key().is_none()
        && view.bindings.iter().any(|binding| binding.source.as_str() == exchange);
    (!may_arrive).then_some(DeadLettersOf::Nowhere)
}

/// What the login may not do that the run would have to.
fn forbidden(
    permissions: &Permissions,
    queue: &QueueName,
    spec: &RunSpec,
    target: &Target,
    lock: &str,
) -> Vec<String> {
    // The default exchange goes by this name.
    let default = "amq.default";
    let exchange = match target {
        Target::Queue(_) | Target::Origin => default,
        Target::Exchange(exchange, _) if exchange.as_str().is_empty() => default,
        Target::Exchange(exchange, _) => exchange.as_str(),
        // Each letter has its own, or none is sent to a broker.
        Target::OriginExchange | Target::Bundle => "",
    };
    let Permissions { user, configure, write, read } = permissions;
    let lock = format!("nexusctl.lock.{lock}");
    let mut wanted = vec![
        ("read from", read, "queue", queue.as_str()),
        ("configure", configure, "queue", &lock),
    ];
    if !exchange.is_empty() {
        wanted.push(("write to", write, "exchange", exchange));
    }
    if spec.park.is_some() && exchange != default {
        wanted.push(("write to", write, "exchange", default));
    }
    if spec.staged {
        wanted.push(("configure", configure, "queue", rest::PREFIX));
        wanted.push(("read from", read, "queue", rest::PREFIX));
    }
    wanted
        .into_iter()
        .filter(|(_, pattern, _, name)| !allows(pattern, name))
        .map(|(what, pattern, noun, name)| {
            format!("`{user}` may not {what} {noun} `{name}`: its permission is `{pattern}`")
        })
        .collect()
}

/// Whether a permission's pattern allows something of this name. What cannot be read here is for the
/// broker to say.
fn allows(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return false;
    }
    compile_pattern(pattern).map_or(true, |pattern| pattern.is_match(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_login_may_not_do_is_told_beforehand() {
        let queue = QueueName::new("dead").unwrap();
        let spec = RunSpec { staged: true, ..RunSpec::default() };
        let told = |configure: &str, write: &str, read: &str| {
            let permissions = Permissions {
                user: "u".to_owned(),
                configure: configure.to_owned(),
                write: write.to_owned(),
                read: read.to_owned(),
            };
            forbidden(&permissions, &queue, &spec, &Target::Origin, "dlq.a").join("; ")
        };
        assert_eq!(told(".*", ".*", ".*"), "");
        assert_eq!(told("^nexusctl", "^amq.default$", "^(dead|nexusctl)"), "");
        assert!(told("", ".*", ".*").contains("may not configure queue `nexusctl.lock.dlq.a`"));
        assert!(told(".*", "^jobs$", ".*").contains("may not write to exchange `amq.default`"));
        assert!(told(".*", ".*", "^dead$").contains("may not read from queue `nexusctl.rest.`"));
        // What no pattern here can be is left to the broker.
        assert_eq!(told(".*", ".*", "(?!x)y"), "");
    }
}
