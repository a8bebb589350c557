//! Makes a queue anew without losing what is in it, and without losing what arrives meanwhile.
//!
//! A queue's arguments cannot be changed, and nothing on a broker can be renamed. So:
//!
//! 1. Two temporary queues are made: `hold` for the messages that are there, `new` for those that
//!    arrive. Messages are moved from the queue to `hold`, in order, each acked only after its copy
//!    is confirmed; publishers go on publishing.
//! 2. `new` gets every binding, the queue loses its own, and the rest is moved to `hold`.
//! 3. The empty queue is removed and declared with its new definition.
//! 4. What `hold` has is moved back, then what `new` has; the queue gets every binding, `new` loses
//!    them, its rest is moved, and the temporaries are removed.
//!
//! Where a run stands is read from the broker alone: which queues exist, and whether the queue has
//! its old or its new definition. Every step can be repeated, so a run that was killed anywhere is
//! gone on with by running it again. A message is at any time in at least one queue; a kill can leave
//! as many of them twice as were in flight, never in another order.
//!
//! Messages travel through fanout exchanges with one queue each, not through the default exchange:
//! that keeps their routing key, and their `CC` header routes nowhere.
//!
//! While bindings are switched, a message that is published at that very moment may be routed twice.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::carry::{Afterwards, Carried, Carrier, CarryOptions, Load, carry, make_fit};
use crate::broker::{
    ApplyTo, BindingDefinition, Broker, BrokerError, Change, ConsumerOptions, Delivery,
    Destination, ErrorKind, ExchangeDefinition, ExchangeKind, Lock, Outcome, PolicyDefinition,
    Product, Publish, PublisherOptions, QueueDefinition, QueueType, Snapshot,
};
use crate::message::{FieldTable, FieldValue, Message};

use super::fingerprint::Fingerprint;
use super::observed::{Observed, same_queue};
use super::wire;

/// What the names of all temporary objects begin with.
pub const PREFIX: &str = "nexusctl.migrate.";

/// The policy that shields temporary queues from the limits of others.
pub const SHADOW_POLICY: &str = "nexusctl.migrate";

/// In flight at once; also the most that a kill can leave twice.
pub const WINDOW: u16 = 256;

/// What a moved message could not carry where it waits.
const CARRIED: &str = "x-nexus-migrate";

/// A queue to be made anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Migration {
    /// Which.
    pub queue: QueueName,
    /// How it shall be.
    #[serde(with = "wire::queue")]
    pub definition: QueueDefinition,
    /// Every binding that leads to it.
    #[serde(with = "wire::bindings")]
    pub bindings: Vec<BindingDefinition>,
    /// How many messages it held when this was planned.
    pub messages: Option<u64>,
    /// The type of the temporary queues: quorum when the old or the new queue is.
    #[serde(with = "queue_type")]
    pub hold_type: QueueType,
    /// Set for as long as it takes, when a policy would limit the temporary queues.
    #[serde(with = "wire::maybe_policy", default)]
    pub shadow_policy: Option<PolicyDefinition>,
    /// Whether consumers may be attached.
    pub while_consumed: bool,
}

mod queue_type {
    use super::QueueType;
    use serde::Deserialize as _;

    pub(super) fn serialize<S: serde::Serializer>(
        kind: &QueueType,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.serialize_str(kind.as_str())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        d: D,
    ) -> Result<QueueType, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The temporary objects of one migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Holds what was in the queue.
    pub hold: QueueName,
    /// Takes what arrives meanwhile.
    pub new: QueueName,
    /// Leads to `hold`.
    pub into_hold: ExchangeName,
    /// Leads to the queue.
    pub back: ExchangeName,
}

impl Names {
    /// The names for `queue`; the same in every run.
    #[expect(
        clippy::expect_used,
        reason = "queue names hold no line break, and long ones are hashed"
    )]
    pub fn of(queue: &QueueName) -> Self {
        let longest = format!("{PREFIX}hold.").len() + queue.as_str().len();
        let base = if longest <= 255 {
            queue.as_str().to_owned()
        } else {
            Fingerprint::of(&serde_json::json!(queue.as_str())).to_string()
        };
        let queue =
            |part: &str| QueueName::new(format!("{PREFIX}{part}.{base}")).expect("a valid name");
        let exchange =
            |part: &str| ExchangeName::new(format!("{PREFIX}{part}.{base}")).expect("a valid name");
        Names {
            hold: queue("hold"),
            new: queue("new"),
            into_hold: exchange("hold"),
            back: exchange("back"),
        }
    }
}

/// Whether an earlier migration of `queue` has left something to be finished.
pub fn leftovers(view: &Observed<'_>, queue: &QueueName) -> bool {
    let names = Names::of(queue);
    view.queue(names.hold.as_str()).is_some()
        || view.queue(names.new.as_str()).is_some()
        || view.exchange(names.into_hold.as_str()).is_some()
        || view.exchange(names.back.as_str()).is_some()
}

/// Whether a policy key could take messages from a temporary queue.
pub fn limits(key: &str) -> bool {
    matches!(
        key,
        "message-ttl"
            | "expires"
            | "max-length"
            | "max-length-bytes"
            | "overflow"
            | "delivery-limit"
            | "dead-letter-exchange"
            | "dead-letter-routing-key"
            | "dead-letter-strategy"
            | "max-in-memory-length"
    )
}

/// A policy that wins over others on the temporary queues and limits nothing.
#[expect(clippy::expect_used, reason = "a constant without a line break is a name")]
pub fn shadow_policy(priority: i64) -> PolicyDefinition {
    PolicyDefinition {
        name: PolicyName::new(SHADOW_POLICY).expect("a valid name"),
        pattern: r"^nexusctl\.migrate\.".to_owned(),
        apply_to: ApplyTo::Queues,
        priority,
        definition: [("max-length".to_owned(), serde_json::json!(4_294_967_295_u64))]
            .into_iter()
            .collect(),
    }
}

/// How long things are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a quorum queue on RabbitMQ stays unsafe after it was made: nothing is given up to it
    /// before.
    pub settle: Duration,
    /// How often the broker is asked again.
    pub poll: Duration,
    /// How long messages that others hold unacked are waited for.
    pub unacked: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            settle: Duration::from_secs(5),
            poll: Duration::from_millis(250),
            unacked: Duration::from_secs(30),
        }
    }
}

/// What a migration did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moved {
    /// Messages moved out of the old queue in this run.
    pub out: u64,
    /// Messages moved into the new queue in this run.
    pub back: u64,
}

/// Why a migration stopped. Nothing is lost: running it again goes on.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Something stands in the way.
    #[error("cannot migrate queue `{queue}`: {why}")]
    Refused {
        /// Which queue.
        queue: QueueName,
        /// Why.
        why: String,
        /// What to do.
        hint: String,
    },
}

/// Runs or goes on with `migration`. `progress` hears of every few hundred messages.
pub async fn run(
    broker: &dyn Broker,
    migration: &Migration,
    timing: Timing,
    lock: &dyn Lock,
    progress: &mut (dyn FnMut(Moved) + Send),
) -> Result<Moved, MigrateError> {
    let mut run = Run {
        broker,
        migration,
        names: Names::of(&migration.queue),
        timing,
        lock,
        progress,
        moved: Moved::default(),
        user: None,
    };
    run.all().await?;
    Ok(run.moved)
}

struct Run<'a> {
    broker: &'a dyn Broker,
    migration: &'a Migration,
    names: Names,
    timing: Timing,
    lock: &'a dyn Lock,
    progress: &'a mut (dyn FnMut(Moved) + Send),
    moved: Moved,
    user: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

impl Run<'_> {
    async fn all(&mut self) -> Result<(), MigrateError> {
        let snapshot = self.broker.inspect().await?;
        self.user = snapshot.permissions.as_ref().map(|permissions| permissions.user.clone());
        let view = Observed::new(&snapshot);
        let queue = self.migration.queue.clone();
        let is = view.queue(queue.as_str());
        let is_new = is.is_some_and(|is| self.is_new(&is.definition, &snapshot));
        if is.is_some() && !is_new {
            self.move_out(&view).await?;
        }
        let remake = is.is_none() || !is_new;
        self.make_new(remake).await?;
        self.move_back().await
    }

    fn is_new(&self, is: &QueueDefinition, snapshot: &Snapshot) -> bool {
        same_queue(is, &self.migration.definition, snapshot.vhost.default_queue_type)
    }

    async fn change(&self, change: Change) -> Result<(), MigrateError> {
        self.broker.change(&change).await?;
        Ok(())
    }

    fn refused(&self, why: impl Into<String>, hint: impl Into<String>) -> MigrateError {
        MigrateError::Refused {
            queue: self.migration.queue.clone(),
            why: why.into(),
            hint: hint.into(),
        }
    }

    /// A queue without limits, to hold messages in.
    fn temporary(&self, name: &QueueName, arrivals: bool) -> QueueDefinition {
        let mut queue = QueueDefinition::durable(name.clone(), self.migration.hold_type);
        if self.migration.hold_type == QueueType::Quorum
            && self.broker.capabilities().unlimited_delivery_limit
        {
            // Every interruption returns what was in flight and costs it a delivery.
            queue.arguments.insert("x-delivery-limit", -1);
        }
        if arrivals {
            // A message with its own time to live may end here: it goes where it would have gone.
            for key in ["x-dead-letter-exchange", "x-dead-letter-routing-key"] {
                if let Some(value) = self.migration.definition.arguments.get(key) {
                    queue.arguments.insert(key, value.clone());
                }
            }
        }
        queue
    }

    fn fanout(&self, name: &ExchangeName, to: &QueueName) -> [Change; 2] {
        [
            Change::DeclareExchange(ExchangeDefinition::durable(
                name.clone(),
                ExchangeKind::Fanout,
            )),
            Change::Bind(BindingDefinition {
                source: name.clone(),
                destination: Destination::Queue(to.clone()),
                #[expect(clippy::expect_used, reason = "the empty key is a key")]
                routing_key: RoutingKey::new("").expect("a valid key"),
                arguments: FieldTable::new(),
            }),
        ]
    }

    /// Every binding the queue has, had, or shall have again, as they lead to `to`.
    fn bindings(&self, view: &Observed<'_>, to: &QueueName) -> Vec<BindingDefinition> {
        let mut all: Vec<BindingDefinition> = Vec::new();
        let live = [&self.migration.queue, &self.names.new]
            .into_iter()
            .flat_map(|name| view.bindings_of_queue(name.as_str()).iter().copied());
        for binding in live.chain(&self.migration.bindings) {
            if binding.source.as_str().starts_with(PREFIX) {
                continue;
            }
            let moved = BindingDefinition {
                destination: Destination::Queue(to.clone()),
                ..binding.clone()
            };
            if !all.contains(&moved) {
                all.push(moved);
            }
        }
        all
    }

    async fn move_out(&mut self, view: &Observed<'_>) -> Result<(), MigrateError> {
        let queue = self.migration.queue.clone();
        if let Some(policy) = &self.migration.shadow_policy
            && view.policy(SHADOW_POLICY).is_none()
        {
            self.change(Change::PutPolicy(policy.clone())).await?;
        }
        let fresh = view.queue(self.names.hold.as_str()).is_none()
            || view.queue(self.names.new.as_str()).is_none();
        let hold = self.temporary(&self.names.hold, false);
        let new = self.temporary(&self.names.new, true);
        self.change(Change::DeclareQueue(hold.clone())).await?;
        self.change(Change::DeclareQueue(new.clone())).await?;
        self.settle(fresh).await?;
        self.sound(&hold).await?;
        self.sound(&new).await?;
        for change in self.fanout(&self.names.into_hold, &self.names.hold) {
            self.change(change).await?;
        }
        let into_hold = self.names.into_hold.clone();
        // Most of it while publishers go on, so that the rest is short.
        self.drain(&queue, &into_hold, Way::Out).await?;
        let started = tokio::time::Instant::now();
        loop {
            let snapshot = self.broker.inspect().await?;
            let view = Observed::new(&snapshot);
            for binding in self.bindings(&view, &self.names.new) {
                if !view.has_binding(&binding) {
                    self.change(Change::Bind(binding)).await?;
                }
            }
            for binding in view.bindings_of_queue(queue.as_str()) {
                self.change(Change::Unbind((*binding).clone())).await?;
            }
            self.drain(&queue, &into_hold, Way::Out).await?;
            let snapshot = self.broker.inspect().await?;
            let view = Observed::new(&snapshot);
            let Some(is) = view.queue(queue.as_str()) else { return Ok(()) };
            let unbound = view.bindings_of_queue(queue.as_str()).is_empty();
            if unbound && is.messages() == Some(0) {
                let change = Change::DeleteQueue {
                    name: queue.clone(),
                    if_empty: true,
                    if_unused: !self.migration.while_consumed,
                };
                match self.broker.change(&change).await {
                    Ok(_) => return Ok(()),
                    // Somebody published or subscribed in between.
                    Err(error) if error.kind == ErrorKind::PreconditionFailed => {
                        if started.elapsed() > self.timing.unacked {
                            return Err(error.into());
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
            } else if started.elapsed() > self.timing.unacked {
                return Err(self.refused(
                    format!(
                        "{} messages are held unacked by others for {} s now",
                        is.unacked.map_or("some".to_owned(), |n| n.to_string()),
                        started.elapsed().as_secs()
                    ),
                    "stop whoever holds them, then run the same command again: it goes on from here",
                ));
            }
            self.lock.check().await?;
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// Declares the queue with its new definition. A quorum queue that was interrupted within its
    /// first seconds may be there and not work: then it is made again, which loses nothing, since
    /// nothing is given up to it before it has settled.
    async fn make_new(&mut self, remake: bool) -> Result<(), MigrateError> {
        let definition = self.migration.definition.clone();
        if remake {
            self.change(Change::DeclareQueue(definition.clone())).await?;
        }
        let snapshot = self.broker.inspect().await?;
        let view = Observed::new(&snapshot);
        let Some(is) = view.queue(self.migration.queue.as_str()) else {
            return Err(self.refused("the new queue is not there", "run the same command again"));
        };
        if !self.is_new(&is.definition, &snapshot) {
            return Err(self.refused(
                "somebody else declared a queue of that name with another definition meanwhile",
                "remove that queue, then run the same command again: the messages wait in the temporary queues",
            ));
        }
        self.settle(true).await?;
        self.sound(&definition).await
    }

    async fn settle(&self, needed: bool) -> Result<(), MigrateError> {
        if needed
            && self.migration.hold_type == QueueType::Quorum
            && self.broker.identity().product == Product::RabbitMq
        {
            tokio::time::sleep(self.timing.settle).await;
        }
        self.lock.check().await?;
        Ok(())
    }

    /// Makes sure that `queue` can be consumed, and makes it again when it is broken and empty.
    async fn sound(&self, queue: &QueueDefinition) -> Result<(), MigrateError> {
        if self.broker.identity().product != Product::RabbitMq
            || self.migration.hold_type != QueueType::Quorum
        {
            return Ok(());
        }
        let probe = || async {
            let options =
                ConsumerOptions { prefetch: 1, reconnect: false, ..ConsumerOptions::default() };
            self.broker.consumer(&queue.name, options).await?.close().await
        };
        let Err(error) = probe().await else { return Ok(()) };
        let empty = self.broker.depth(&queue.name).await?.is_none_or(|depth| depth.ready == 0);
        if !empty {
            return Err(error.into());
        }
        self.change(Change::DeleteQueue {
            name: queue.name.clone(),
            if_empty: false,
            if_unused: false,
        })
        .await?;
        self.change(Change::DeclareQueue(queue.clone())).await?;
        self.settle(true).await?;
        probe().await.map_err(MigrateError::from)
    }

    async fn move_back(&mut self) -> Result<(), MigrateError> {
        let queue = self.migration.queue.clone();
        let names = self.names.clone();
        let hold = self.broker.depth(&names.hold).await?.is_some();
        let new = self.broker.depth(&names.new).await?.is_some();
        if hold || new {
            for change in self.fanout(&names.back, &queue) {
                self.change(change).await?;
            }
        }
        if hold {
            self.drain(&names.hold, &names.back, Way::Back).await?;
            self.delete_empty(&names.hold, &names.back).await?;
        }
        if new {
            self.drain(&names.new, &names.back, Way::Back).await?;
        }
        let snapshot = self.broker.inspect().await?;
        let view = Observed::new(&snapshot);
        for binding in self.bindings(&view, &queue) {
            if !view.has_binding(&binding) {
                self.change(Change::Bind(binding)).await?;
            }
        }
        if new {
            for binding in view.bindings_of_queue(names.new.as_str()) {
                self.change(Change::Unbind((*binding).clone())).await?;
            }
            self.drain(&names.new, &names.back, Way::Back).await?;
            self.delete_empty(&names.new, &names.back).await?;
        }
        let others = view.snapshot.queues.iter().any(|q| {
            let name = &q.definition.name;
            name.as_str().starts_with(PREFIX) && *name != names.hold && *name != names.new
        });
        if view.policy(SHADOW_POLICY).is_some() && !others {
            self.change(Change::DeletePolicy(shadow_policy(0).name)).await?;
        }
        // The exchanges go last: as long as one is there, the next run knows that this one was not done.
        for name in [&names.into_hold, &names.back] {
            if view.exchange(name.as_str()).is_some() || *name == names.back {
                self.change(Change::DeleteExchange { name: name.clone(), if_unused: false })
                    .await?;
            }
        }
        Ok(())
    }

    /// Removes a temporary queue once nothing is in it.
    async fn delete_empty(
        &mut self,
        name: &QueueName,
        via: &ExchangeName,
    ) -> Result<(), MigrateError> {
        for _ in 0..10 {
            let change =
                Change::DeleteQueue { name: name.clone(), if_empty: true, if_unused: false };
            match self.broker.change(&change).await {
                Ok(_) => return Ok(()),
                Err(error) if error.kind == ErrorKind::PreconditionFailed => {
                    self.drain(name, via, Way::Back).await?;
                    tokio::time::sleep(self.timing.poll).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(self.refused(
            format!("the temporary queue `{name}` does not get empty"),
            "look who publishes to it, then run the same command again",
        ))
    }

    /// Waits until the broker has noticed that the consumer of a run that was killed is gone. Until
    /// then what it had not acked stays with it, and a new consumer would get what comes behind.
    async fn await_former_consumer(&mut self, from: &QueueName) -> Result<(), MigrateError> {
        if self.migration.while_consumed && *from == self.migration.queue {
            return Ok(());
        }
        let started = tokio::time::Instant::now();
        // A queue that is being recovered may not know of the consumer yet: one look is not enough.
        let mut looks_without = 0;
        loop {
            let consumers = self.broker.depth(from).await?.map_or(0, |depth| depth.consumers);
            looks_without = if consumers == 0 { looks_without + 1 } else { 0 };
            if looks_without == 2 {
                return Ok(());
            }
            if started.elapsed() > self.timing.unacked {
                let waited = started.elapsed().as_secs();
                return Err(self.refused(
                    format!("{consumers} consumers are attached to `{from}` for {waited} s now"),
                    "stop whoever consumes from it, then run the same command again: it goes on from here",
                ));
            }
            self.lock.check().await?;
            tokio::time::sleep(self.timing.poll).await;
        }
    }

    /// Moves everything from `from` through `via`: in order, confirmed before acked.
    async fn drain(
        &mut self,
        from: &QueueName,
        via: &ExchangeName,
        way: Way,
    ) -> Result<(), MigrateError> {
        self.await_former_consumer(from).await?;
        let mut publisher = self
            .broker
            .publisher(PublisherOptions { window: usize::from(WINDOW), reconnect: false })
            .await?;
        let options =
            ConsumerOptions { prefetch: WINDOW, reconnect: false, ..ConsumerOptions::default() };
        let mut consumer = self.broker.consumer(from, options).await?;
        let options = CarryOptions {
            prefetch: WINDOW,
            look: None,
            afterwards: Afterwards::Gone,
            unflushed: u64::from(WINDOW),
            poll: self.timing.poll,
        };
        let before = self.moved;
        let mut carrier = OneWay { run: self, from, via, way, before, checked: 0, refused: None };
        let carried = carry(consumer.as_mut(), publisher.as_mut(), options, &mut carrier).await;
        let refused = carrier.refused;
        // Closing flushes the acks, and gives what is unsettled back in its order.
        let closed = consumer.close().await;
        let gone = publisher.close().await;
        if let Some(error) = carried.failure {
            return Err(error.into());
        }
        if let Some(outcome) = refused {
            return Err(self.refused(
                format!(
                    "a copy was not accepted on its way from `{from}` through `{via}`: {outcome:?}"
                ),
                "nothing is lost; run the same command again and it goes on",
            ));
        }
        closed?;
        gone?;
        Ok(())
    }
}

/// One drain: every message goes through one exchange, and the first refusal ends it.
struct OneWay<'a, 'b> {
    run: &'a mut Run<'b>,
    from: &'a QueueName,
    via: &'a ExchangeName,
    way: Way,
    before: Moved,
    checked: u64,
    refused: Option<Outcome>,
}

#[async_trait]
impl Carrier for OneWay<'_, '_> {
    fn load(&mut self, delivery: Delivery) -> Load {
        let mut message = delivery.message;
        match self.way {
            Way::Out => pack(&mut message),
            Way::Back => unpack(&mut message, self.run.user.as_deref()),
        }
        let exchange = self.via.clone();
        let publish = Publish { exchange, routing_key: delivery.routing_key, message };
        Load { publish: Some(publish), last: false }
    }

    fn refused(&mut self, outcome: Outcome) -> ControlFlow<()> {
        self.refused.get_or_insert(outcome);
        ControlFlow::Break(())
    }

    async fn checkpoint(&mut self, so_far: &Carried) -> Result<ControlFlow<()>, BrokerError> {
        const EVERY: u64 = 2000;
        self.run.moved = self.before;
        match self.way {
            Way::Out => self.run.moved.out += so_far.settled,
            Way::Back => self.run.moved.back += so_far.settled,
        }
        (self.run.progress)(self.run.moved);
        if so_far.settled >= self.checked + EVERY {
            self.checked = so_far.settled;
            self.run.lock.check().await?;
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn quiet(&mut self) -> Result<ControlFlow<()>, BrokerError> {
        let depth = self.run.broker.depth(self.from).await?;
        Ok(match depth {
            Some(depth) if depth.ready > 0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
    }
}

/// Takes off what must not act, or is not allowed, while the message waits: its time to live, its
/// priority, its login, the broker's own count. Everything is put on again by [`unpack`].
fn pack(message: &mut Message) {
    let user = message.properties.user_id.take();
    make_fit(message, None);
    let properties = &mut message.properties;
    let mut carried = FieldTable::new();
    if let Some(expiration) = properties.expiration.take() {
        carried.insert("expiration", expiration);
    }
    if let Some(user) = user {
        carried.insert("user-id", user);
    }
    if let Some(priority) = properties.priority.take() {
        carried.insert("priority", i64::from(priority));
    }
    if carried.is_empty() {
        return;
    }
    if properties.headers.is_none() {
        carried.insert("bare", true);
    }
    properties.headers_mut().insert(CARRIED, carried);
}

/// Puts on again what [`pack`] took off. A login that is not ours is kept as a header.
fn unpack(message: &mut Message, own: Option<&str>) {
    let properties = &mut message.properties;
    let carried = match properties.headers.as_mut().and_then(|headers| headers.remove(CARRIED)) {
        Some(FieldValue::Table(table)) => table,
        Some(other) => {
            properties.headers_mut().insert(CARRIED, other);
            FieldTable::new()
        }
        None => FieldTable::new(),
    };
    let text = |key: &str| carried.get(key).and_then(FieldValue::as_text).map(str::to_owned);
    if carried.get("bare").is_some() {
        properties.headers = None;
    }
    if let Some(expiration) = text("expiration") {
        properties.expiration = Some(expiration);
    }
    if let Some(priority) = carried.get("priority").and_then(FieldValue::as_i64) {
        properties.priority = u8::try_from(priority).ok();
    }
    if let Some(user) = text("user-id") {
        properties.user_id = Some(user);
    }
    make_fit(message, own);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::carry::USER_ID;
    use crate::message::Properties;

    #[test]
    fn what_is_packed_comes_back_the_same() {
        let table = [
            None,
            Some(FieldTable::new()),
            Some(FieldTable::new().with("CC", FieldValue::Array(vec!["a".into()]))),
        ];
        for headers in table {
            for expiration in [None, Some("60000".to_owned())] {
                for priority in [None, Some(0), Some(9)] {
                    for user in [None, Some("guest".to_owned())] {
                        let message = Message {
                            properties: Properties {
                                headers: headers.clone(),
                                expiration: expiration.clone(),
                                priority,
                                user_id: user.clone(),
                                ..Properties::default()
                            },
                            body: b"x".to_vec(),
                        };
                        let mut moved = message.clone();
                        pack(&mut moved);
                        assert_eq!(moved.properties.expiration, None);
                        assert_eq!(moved.properties.user_id, None);
                        unpack(&mut moved, Some("guest"));
                        assert_eq!(moved, message);
                    }
                }
            }
        }
    }

    #[test]
    fn another_login_becomes_a_header() {
        let mut message = Message::default();
        message.properties.user_id = Some("somebody".to_owned());
        pack(&mut message);
        unpack(&mut message, Some("guest"));
        assert_eq!(message.properties.user_id, None);
        assert_eq!(
            message.properties.header(USER_ID).and_then(FieldValue::as_text),
            Some("somebody")
        );
    }

    #[test]
    fn long_names_still_give_legal_temporary_names() {
        let names = Names::of(&QueueName::new("q".repeat(255)).unwrap());
        assert!(names.hold.as_str().len() <= 255 && names.hold != names.new);
        assert_ne!(names.hold, Names::of(&QueueName::new("r".repeat(255)).unwrap()).hold);
    }
}
