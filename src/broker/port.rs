//! The contract every broker keeps. `tests/broker_contract.rs` checks it on all of them.
//!
//! All waits are bounded by the time-out the connection was made with; a request that runs out of it
//! fails with [`ErrorKind::TimedOut`](super::ErrorKind::TimedOut).

use std::fmt;

use async_trait::async_trait;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::Timestamp;
use crate::message::{FieldTable, Message};

use super::change::{Change, Changed};
use super::error::{BrokerError, ErrorKind};
use super::snapshot::{QueueDetails, Snapshot};
use super::version::{BrokerIdentity, Capabilities};

/// A broker that has been reached.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug {
    /// Which broker this is.
    fn identity(&self) -> &BrokerIdentity;

    /// What its version can do.
    fn capabilities(&self) -> Capabilities {
        Capabilities::of(self.identity().version)
    }

    /// Opens a way to publish with confirms.
    async fn publisher(&self, options: PublisherOptions)
    -> Result<Box<dyn Publisher>, BrokerError>;

    /// Subscribes to `queue`.
    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError>;

    /// Lists everything in the vhost. Only reads. Fails with `Unsupported` when the broker cannot
    /// be listed (RabbitMQ without its management API).
    async fn inspect(&self) -> Result<Snapshot, BrokerError>;

    /// Lists the queues, sorted by name. Only reads. With `statistics` also what a broker has to gather
    /// first: bytes, memory, policies; that is slow where there are many queues.
    async fn list_queues(&self, statistics: bool) -> Result<Vec<QueueDetails>, BrokerError> {
        let _ = statistics;
        Ok(self.inspect().await?.queues.into_iter().map(QueueDetails::of).collect())
    }

    /// Everything the broker tells about one queue; `None` when it does not exist. Only reads.
    async fn queue_details(&self, queue: &QueueName) -> Result<Option<QueueDetails>, BrokerError> {
        let mut queues = self.inspect().await?.queues.into_iter();
        Ok(queues.find(|state| state.definition.name == *queue).map(QueueDetails::of))
    }

    /// How full one queue is; `None` when it does not exist. Works without the management API.
    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError>;

    /// Whether an exchange exists. Works without the management API.
    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError>;

    /// Carries out one change; returns when the broker has said that it is so.
    async fn change(&self, change: &Change) -> Result<Changed, BrokerError>;

    /// Takes the lock `name` for as long as the returned value and this process live.
    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError>;

    /// Ends every connection after what is in flight has been answered.
    async fn close(&self) -> Result<(), BrokerError>;
}

/// How to publish.
#[derive(Clone, Copy, Debug)]
pub struct PublisherOptions {
    /// How many messages may be unconfirmed at once, at least 1.
    pub window: usize,
    /// Whether to connect again after the connection is lost. What was in flight is
    /// [`Outcome::Unknown`] either way.
    pub reconnect: bool,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        PublisherOptions { window: 512, reconnect: true }
    }
}

/// The `reply_to` that makes the broker hand answers straight to the publisher.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// One message on its way out. Every message is published as mandatory.
#[derive(Clone, Debug, PartialEq)]
pub struct Publish {
    /// Where to; the default exchange takes the queue's name as key.
    pub exchange: ExchangeName,
    /// The routing key.
    pub routing_key: RoutingKey,
    /// What.
    pub message: Message,
}

/// Number of a publish within its publisher, from 0 upward in the order of `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What became of a publish. Exactly one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it and answers for it.
    Confirmed,
    /// No queue took it; the broker gave it back.
    Returned {
        /// AMQP reply code, 312 for no route.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker refused it; other queues of the same publish may have kept it.
    Nacked,
    /// The broker cannot take anything any more, this one included: it is certainly not there, and
    /// neither is any that this publisher sent after it. Only a new publisher may try again.
    Failed(Box<BrokerError>),
    /// It may be there or not: the connection was lost, or no answer came in time.
    Unknown {
        /// What happened.
        why: String,
    },
}

/// A pipelined way out: up to `window` messages in flight, outcomes in any order.
#[async_trait]
pub trait Publisher: Send + fmt::Debug {
    /// Hands one message over. Waits while the window is full; outcomes that arrive meanwhile are
    /// kept for [`Publisher::outcome`]. An error means that this message was **not** sent.
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError>;

    /// The next outcome, or `None` when nothing is in flight and nothing is kept. Never waits longer
    /// than the time-out: what has no answer by then is [`Outcome::Unknown`]. Cancel-safe.
    async fn outcome(&mut self) -> Option<(Ticket, Outcome)>;

    /// An outcome that is already here; never waits.
    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)>;

    /// How many messages wait for their outcome, the kept ones not counted.
    fn in_flight(&self) -> usize;

    /// Subscribes to direct answers: those to messages that are sent from now on with
    /// [`DIRECT_REPLY_TO`] as `reply_to`. They need no settling and exist only here: what was not
    /// taken when the connection ends is gone. The subscription ends with the publisher's channel and
    /// is not made again, so this wants a publisher that does not reconnect. `Unsupported` where the
    /// broker has no such thing.
    async fn direct_answers(&mut self) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::new(
            ErrorKind::Unsupported,
            "subscribe to direct answers",
            "this broker hands no answers to a publisher",
        )
        .hint("let the answers come to a queue of their own"))
    }

    /// Closes the way out. Outcomes not taken yet are lost to the caller, so take them first.
    async fn close(self: Box<Self>) -> Result<(), BrokerError>;
}

/// How to consume.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// How many unsettled deliveries may be here at once, at least 1.
    pub prefetch: u16,
    /// Refuse other consumers (classic queues keep this, quorum queues do not).
    pub exclusive: bool,
    /// `x-priority`, `x-stream-offset` and the like.
    pub arguments: FieldTable,
    /// Whether to subscribe again after the connection is lost.
    pub reconnect: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        ConsumerOptions {
            prefetch: 256,
            exclusive: false,
            arguments: FieldTable::new(),
            reconnect: true,
        }
    }
}

/// Names one delivery of one consumer. A delivery from before a reconnection is void: settling it
/// does nothing and says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryTag {
    /// Which connection of the consumer, from 0.
    pub generation: u32,
    /// The broker's tag on it, from 1.
    pub tag: u64,
}

/// One message handed to a consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// To settle it by.
    pub tag: DeliveryTag,
    /// The exchange it was published to.
    pub exchange: ExchangeName,
    /// The key it was published with.
    pub routing_key: RoutingKey,
    /// Whether the broker says that it was handed out before.
    pub redelivered: bool,
    /// The message.
    pub message: Message,
}

/// What to do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is done: the broker may forget it.
    Ack,
    /// Ack this and every unsettled delivery before it on the same consumer.
    AckUpTo,
    /// Back to the queue. Costs a quorum queue's message one of its lives.
    Requeue,
    /// Not wanted: dead-lettered when the queue has a dead-letter exchange, else dropped.
    Reject,
}

/// What settling did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Handed to the broker; [`Consumer::flush`] waits until the broker has taken it.
    Sent,
    /// The delivery belongs to a lost connection; the broker has put it back already.
    Void,
}

/// A subscription.
#[async_trait]
pub trait Consumer: Send + fmt::Debug {
    /// The next delivery. Waits without end, so the caller bounds it; cancel-safe. A server-side
    /// cancel is an error of kind `ConsumerCancelled`.
    async fn next(&mut self) -> Result<Delivery, BrokerError>;

    /// A delivery that is already here; never waits.
    fn ready(&mut self) -> Option<Delivery>;

    /// Settles one delivery.
    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError>;

    /// Returns when the broker has taken every settlement sent so far. Whatever it had handed to this
    /// consumer before is then [`ready`](Consumer::ready).
    async fn flush(&mut self) -> Result<(), BrokerError>;

    /// Ends the flow and keeps the channel: nothing new is delivered, what was delivered can still be
    /// settled. For who has what it wants, so that settling does not fetch more. A consumer that
    /// cannot pause goes on, which costs the messages fetched a redelivery. Of single acks that are
    /// sent after it to a quorum queue, some may be lost when it closes; `AckUpTo` never is.
    async fn pause(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    /// Flushes, then ends the subscription. Unsettled deliveries go back to their place in the
    /// queue, in order.
    async fn close(self: Box<Self>) -> Result<(), BrokerError>;
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages waiting.
    pub ready: u64,
    /// Consumers attached.
    pub consumers: u64,
}

/// Who takes a lock, for the message to whoever comes second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// `user@host`, process id and command.
    pub who: String,
    /// Since when.
    pub since: Timestamp,
}

/// A lock that is let go by dropping it, or by the death of its process.
#[async_trait]
pub trait Lock: Send + Sync + fmt::Debug {
    /// Fails once the lock has been lost, so that its holder stops.
    async fn check(&self) -> Result<(), BrokerError>;

    /// Lets go and waits until the broker knows.
    async fn release(self: Box<Self>) -> Result<(), BrokerError>;
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("the lock is held{}", .holder.as_ref().map(|h| format!(" by {} since {}", h.who, h.since)).unwrap_or_default())]
    Held {
        /// Who, when the broker tells.
        holder: Option<LockHolder>,
    },
    /// The broker could not be asked.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}
