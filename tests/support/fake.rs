//! A broker in memory, strict where RabbitMQ is: what differs is refused, what is missing is not
//! found, deleting a queue takes its bindings along. Routes direct, fanout and the default exchange.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::allow_attributes,
    reason = "each test file compiles this module for itself and uses another part of it"
)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use nexus::base::id::{ExchangeName, QueueName, RoutingKey, VhostName};
use nexus::broker::{
    BindingDefinition, Broker, BrokerError, BrokerIdentity, Change, Changed, Consumer,
    ConsumerOptions, Delivery, DeliveryTag, Destination, ErrorKind, ExchangeDefinition,
    ExchangeKind, Lock, LockError, LockHolder, Outcome, PolicyDefinition, Product, Publish,
    Publisher, PublisherOptions, QueueDefinition, QueueDepth, QueueState, QueueType, Settled,
    Settlement, Snapshot, Ticket, Version, VhostState,
};
use nexus::message::{FieldTable, Message};
use nexus::topology::fingerprint::{canonical_binding, canonical_exchange, canonical_queue};

/// A message where it waits.
#[derive(Clone, Debug)]
struct Stored {
    place: u64,
    exchange: ExchangeName,
    routing_key: RoutingKey,
    redelivered: bool,
    message: Message,
}

#[derive(Debug)]
struct Queue {
    definition: QueueDefinition,
    ready: VecDeque<Stored>,
    unacked: u64,
    consumers: u64,
    next_place: u64,
}

#[derive(Debug, Default)]
struct State {
    exchanges: BTreeMap<String, ExchangeDefinition>,
    queues: BTreeMap<String, Queue>,
    bindings: Vec<BindingDefinition>,
    policies: Vec<PolicyDefinition>,
    operator_policies: Vec<PolicyDefinition>,
    vhost: VhostState,
    locks: BTreeMap<String, LockHolder>,
}

/// The broker.
#[derive(Clone, Debug)]
pub struct Fake {
    identity: BrokerIdentity,
    state: Arc<Mutex<State>>,
    arrived: Arc<tokio::sync::Notify>,
}

impl Fake {
    /// An empty one that calls itself RabbitMQ of this version.
    pub fn new(version: Version) -> Self {
        let mut state = State::default();
        for (name, kind) in [
            ("", ExchangeKind::Direct),
            ("amq.direct", ExchangeKind::Direct),
            ("amq.fanout", ExchangeKind::Fanout),
            ("amq.topic", ExchangeKind::Topic),
            ("amq.headers", ExchangeKind::Headers),
        ] {
            let exchange = ExchangeDefinition::durable(ExchangeName::new(name).unwrap(), kind);
            state.exchanges.insert(name.to_owned(), exchange);
        }
        Fake {
            identity: BrokerIdentity {
                product: Product::RabbitMq,
                version,
                cluster_name: "fake".to_owned(),
                vhost: VhostName::new("v").unwrap(),
            },
            state: Arc::new(Mutex::new(state)),
            arrived: Arc::new(tokio::sync::Notify::new()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Carries out `change` outside of any runtime.
    #[track_caller]
    pub fn make(&self, change: &Change) {
        self.execute(change).unwrap();
    }

    /// Puts a message into a queue.
    #[track_caller]
    pub fn put(&self, queue: &str, message: Message) {
        let taken = self.route("", queue, message);
        assert_eq!(taken, 1, "no queue {queue}");
    }

    /// Publishes; returns how many queues took it.
    pub fn route(&self, exchange: &str, key: &str, message: Message) -> usize {
        let mut state = self.state();
        let targets = targets(&state, exchange, key);
        for name in &targets {
            let queue = state.queues.get_mut(name).unwrap();
            let stored = Stored {
                place: queue.next_place,
                exchange: ExchangeName::new(exchange).unwrap(),
                routing_key: RoutingKey::new(key).unwrap(),
                redelivered: false,
                message: message.clone(),
            };
            queue.next_place += 1;
            queue.ready.push_back(stored);
        }
        drop(state);
        self.arrived.notify_waiters();
        targets.len()
    }

    /// What waits in a queue, with the keys it was published by.
    pub fn messages(&self, queue: &str) -> Vec<(String, Message)> {
        self.state().queues.get(queue).map_or_else(Vec::new, |queue| {
            queue.ready.iter().map(|m| (m.routing_key.to_string(), m.message.clone())).collect()
        })
    }

    /// Pretends that so many consumers are attached to a queue.
    pub fn attach(&self, queue: &str, consumers: u64) {
        self.state().queues.get_mut(queue).unwrap().consumers += consumers;
    }

    /// Sets the vhost's default queue type.
    pub fn default_queue_type(&self, kind: Option<QueueType>) {
        self.state().vhost.default_queue_type = kind;
    }

    /// What is there.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot {
            identity: self.identity.clone(),
            vhost: state.vhost.clone(),
            exchanges: state.exchanges.values().cloned().collect(),
            queues: state
                .queues
                .values()
                .map(|queue| QueueState {
                    definition: queue.definition.clone(),
                    ready: Some(queue.ready.len() as u64),
                    unacked: Some(queue.unacked),
                    consumers: Some(queue.consumers),
                    policy: None,
                    operator_policy: None,
                })
                .collect(),
            bindings: state.bindings.clone(),
            policies: state.policies.clone(),
            operator_policies: state.operator_policies.clone(),
            permissions: None,
        }
    }

    fn execute(&self, change: &Change) -> Result<Changed, BrokerError> {
        let mut state = self.state();
        let fail = |kind, why: &str| Err(BrokerError::new(kind, change.to_string(), why));
        match change {
            Change::DeclareExchange(exchange) => {
                match state.exchanges.get(exchange.name.as_str()) {
                    Some(is) if canonical_exchange(is) == canonical_exchange(exchange) => {}
                    Some(_) => return fail(ErrorKind::PreconditionFailed, "inequivalent arg"),
                    None if exchange.name.is_predeclared() => {
                        return fail(ErrorKind::AccessRefused, "reserved");
                    }
                    None => {
                        state.exchanges.insert(exchange.name.to_string(), exchange.clone());
                    }
                }
            }
            Change::DeleteExchange { name, if_unused } => {
                if name.is_predeclared() {
                    return fail(ErrorKind::AccessRefused, "reserved");
                }
                if *if_unused && state.bindings.iter().any(|b| b.source == *name) {
                    return fail(ErrorKind::PreconditionFailed, "in use");
                }
                state.exchanges.remove(name.as_str());
                state.bindings.retain(|b| {
                    b.source != *name && b.destination != Destination::Exchange(name.clone())
                });
            }
            Change::DeclareQueue(queue) => {
                let default = state.vhost.default_queue_type;
                match state.queues.get(queue.name.as_str()) {
                    Some(is)
                        if canonical_queue(&is.definition, None)
                            == canonical_queue(queue, default) => {}
                    Some(_) => return fail(ErrorKind::PreconditionFailed, "inequivalent arg"),
                    None => {
                        let mut definition = queue.clone();
                        if let Some(kind) = default
                            && definition.queue_type().is_none()
                        {
                            definition.arguments.insert("x-queue-type", kind.as_str());
                        }
                        let queue = Queue {
                            definition,
                            ready: VecDeque::new(),
                            unacked: 0,
                            consumers: 0,
                            next_place: 0,
                        };
                        state.queues.insert(queue.definition.name.to_string(), queue);
                    }
                }
            }
            Change::DeleteQueue { name, if_empty, if_unused } => {
                let Some(queue) = state.queues.get(name.as_str()) else { return Ok(Changed::Done) };
                if *if_empty && !queue.ready.is_empty() {
                    return fail(ErrorKind::PreconditionFailed, "not empty");
                }
                if *if_unused && queue.consumers > 0 {
                    return fail(ErrorKind::PreconditionFailed, "in use");
                }
                let messages = queue.ready.len() as u64;
                state.queues.remove(name.as_str());
                state.bindings.retain(|b| b.destination != Destination::Queue(name.clone()));
                return Ok(Changed::WithMessages(messages));
            }
            Change::PurgeQueue(name) => {
                if let Some(queue) = state.queues.get_mut(name.as_str()) {
                    queue.ready.clear();
                }
            }
            Change::Bind(binding) => {
                let end = match &binding.destination {
                    Destination::Queue(name) => state.queues.contains_key(name.as_str()),
                    Destination::Exchange(name) => state.exchanges.contains_key(name.as_str()),
                };
                if !end || !state.exchanges.contains_key(binding.source.as_str()) {
                    return fail(ErrorKind::NotFound, "no such exchange or queue");
                }
                if binding.source.is_default() {
                    return fail(ErrorKind::AccessRefused, "the default exchange");
                }
                let id = canonical_binding(binding);
                if !state.bindings.iter().any(|b| canonical_binding(b) == id) {
                    state.bindings.push(binding.clone());
                }
            }
            Change::Unbind(binding) => {
                let id = canonical_binding(binding);
                state.bindings.retain(|b| canonical_binding(b) != id);
            }
            Change::PutPolicy(policy) => put(&mut state.policies, policy),
            Change::DeletePolicy(name) => state.policies.retain(|p| p.name != *name),
            Change::PutOperatorPolicy(policy) => put(&mut state.operator_policies, policy),
            Change::DeleteOperatorPolicy(name) => {
                state.operator_policies.retain(|p| p.name != *name);
            }
            Change::SetVhostLimit { name, value } => match value {
                Some(value) => {
                    state.vhost.limits.insert(name.clone(), *value);
                }
                None => {
                    state.vhost.limits.remove(name);
                }
            },
            Change::SetDefaultQueueType(kind) => state.vhost.default_queue_type = Some(*kind),
        }
        Ok(Changed::Done)
    }
}

fn put(policies: &mut Vec<PolicyDefinition>, policy: &PolicyDefinition) {
    policies.retain(|p| p.name != policy.name);
    policies.push(policy.clone());
}

fn targets(state: &State, exchange: &str, key: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if exchange.is_empty() {
        if state.queues.contains_key(key) {
            found.insert(key.to_owned());
        }
        return found;
    }
    let mut open = vec![exchange.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let kind = state.exchanges.get(&name).map(|exchange| exchange.kind.clone());
        for binding in state.bindings.iter().filter(|b| b.source.as_str() == name) {
            let matches = match kind {
                Some(ExchangeKind::Fanout) => true,
                _ => binding.routing_key.as_str() == key,
            };
            if !matches {
                continue;
            }
            match &binding.destination {
                Destination::Queue(queue) => {
                    found.insert(queue.to_string());
                }
                Destination::Exchange(exchange) => open.push(exchange.to_string()),
            }
        }
    }
    found
}

#[async_trait]
impl Broker for Fake {
    fn identity(&self) -> &BrokerIdentity {
        &self.identity
    }

    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        assert!(options.window > 0);
        Ok(Box::new(FakePublisher { broker: self.clone(), next: 0, outcomes: VecDeque::new() }))
    }

    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        let mut state = self.state();
        let Some(is) = state.queues.get_mut(queue.as_str()) else {
            return Err(BrokerError::new(
                ErrorKind::NotFound,
                format!("consume queue `{queue}`"),
                "no such queue",
            ));
        };
        is.consumers += 1;
        Ok(Box::new(FakeConsumer {
            broker: self.clone(),
            queue: queue.clone(),
            prefetch: usize::from(options.prefetch),
            next: 1,
            held: BTreeMap::new(),
        }))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        Ok(self.snapshot())
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        Ok(self.state().queues.get(queue.as_str()).map(|queue| QueueDepth {
            ready: queue.ready.len() as u64,
            consumers: queue.consumers,
        }))
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        Ok(self.state().exchanges.contains_key(exchange.as_str()))
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        self.execute(change)
    }

    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.state();
        if let Some(holder) = state.locks.get(name) {
            return Err(LockError::Held { holder: Some(holder.clone()) });
        }
        state.locks.insert(name.to_owned(), holder.clone());
        Ok(Box::new(FakeLock { broker: self.clone(), name: name.to_owned() }))
    }

    async fn close(&self) -> Result<(), BrokerError> {
        Ok(())
    }
}

#[derive(Debug)]
struct FakeLock {
    broker: Fake,
    name: String,
}

#[async_trait]
impl Lock for FakeLock {
    async fn check(&self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn release(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}

impl Drop for FakeLock {
    fn drop(&mut self) {
        self.broker.state().locks.remove(&self.name);
    }
}

#[derive(Debug)]
struct FakePublisher {
    broker: Fake,
    next: u64,
    outcomes: VecDeque<(Ticket, Outcome)>,
}

#[async_trait]
impl Publisher for FakePublisher {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        let ticket = Ticket(self.next);
        self.next += 1;
        let taken = self.broker.route(
            publish.exchange.as_str(),
            publish.routing_key.as_str(),
            publish.message,
        );
        let outcome = if taken > 0 {
            Outcome::Confirmed
        } else {
            Outcome::Returned { code: 312, text: "NO_ROUTE".to_owned() }
        };
        self.outcomes.push_back((ticket, outcome));
        Ok(ticket)
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.outcomes.pop_front()
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        self.outcomes.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.outcomes.len()
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}

#[derive(Debug)]
struct FakeConsumer {
    broker: Fake,
    queue: QueueName,
    prefetch: usize,
    next: u64,
    held: BTreeMap<u64, Stored>,
}

impl FakeConsumer {
    fn take(&mut self) -> Result<Option<Delivery>, BrokerError> {
        if self.held.len() >= self.prefetch {
            return Ok(None);
        }
        let mut state = self.broker.state();
        let Some(queue) = state.queues.get_mut(self.queue.as_str()) else {
            return Err(BrokerError::new(
                ErrorKind::ConsumerCancelled,
                format!("consume queue `{}`", self.queue),
                "the queue was deleted",
            ));
        };
        let Some(stored) = queue.ready.pop_front() else { return Ok(None) };
        queue.unacked += 1;
        let tag = DeliveryTag { generation: 0, tag: self.next };
        self.held.insert(self.next, stored.clone());
        self.next += 1;
        Ok(Some(Delivery {
            tag,
            exchange: stored.exchange,
            routing_key: stored.routing_key,
            redelivered: stored.redelivered,
            message: stored.message,
        }))
    }
}

#[async_trait]
impl Consumer for FakeConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            let arrived = Arc::clone(&self.broker.arrived);
            let waiting = arrived.notified();
            if let Some(delivery) = self.take()? {
                return Ok(delivery);
            }
            waiting.await;
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.take().ok().flatten()
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        let mut state = self.broker.state();
        let queue = state.queues.get_mut(self.queue.as_str()).unwrap();
        let tags: Vec<u64> = match how {
            Settlement::AckUpTo => self.held.range(..=tag.tag).map(|(tag, _)| *tag).collect(),
            Settlement::Ack | Settlement::Reject => vec![tag.tag],
            Settlement::Requeue => panic!("nothing here may requeue"),
        };
        for tag in tags {
            assert!(self.held.remove(&tag).is_some(), "settled twice: {tag}");
            queue.unacked -= 1;
        }
        drop(state);
        self.broker.arrived.notify_waiters();
        Ok(Settled::Sent)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}

impl Drop for FakeConsumer {
    fn drop(&mut self) {
        let held = std::mem::take(&mut self.held);
        let mut state = self.broker.state();
        if let Some(queue) = state.queues.get_mut(self.queue.as_str()) {
            queue.consumers -= 1;
            queue.unacked -= held.len() as u64;
            for (_, mut stored) in held.into_iter().rev() {
                stored.redelivered = true;
                let at = queue.ready.partition_point(|other| other.place < stored.place);
                queue.ready.insert(at, stored);
            }
        }
        drop(state);
        self.broker.arrived.notify_waiters();
    }
}

/// A queue definition in one line.
pub fn queue(name: &str, arguments: FieldTable) -> QueueDefinition {
    QueueDefinition {
        name: QueueName::new(name).unwrap(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments,
    }
}

/// An exchange definition in one line.
pub fn exchange(name: &str, kind: &str) -> ExchangeDefinition {
    ExchangeDefinition::durable(ExchangeName::new(name).unwrap(), ExchangeKind::from(kind))
}

/// A binding to a queue in one line.
pub fn binding(source: &str, queue: &str, key: &str) -> BindingDefinition {
    BindingDefinition {
        source: ExchangeName::new(source).unwrap(),
        destination: Destination::Queue(QueueName::new(queue).unwrap()),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: FieldTable::new(),
    }
}
