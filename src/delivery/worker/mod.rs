//! Working on a queue: each message is handled by a command, and leaves the queue only when its work
//! is done and whatever came of it is safe.
//!
//! ```text
//! settle, lanes, letter: decide      handler: does the work      engine: carries out
//! desk: what is shared with others   outbox, scribe: what goes out
//! ```
//!
//! What is promised: a message is acked after its handler has said that it is done, its results are
//! confirmed or written, and its key is remembered; a failed one after its dead letter or delayed copy
//! is confirmed. Killed at any point, a worker loses nothing; what was under way comes again, marked as
//! redelivered.

mod desk;
mod engine;
pub mod handler;
pub mod lanes;
pub mod letter;
mod outbox;
mod report;
mod scribe;
mod settle;

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::{ExchangeName, QueueName};
use crate::base::time::Clock;
use crate::broker::{Broker, BrokerError, ConsumerOptions, DeliveryTag, ErrorKind};
use crate::message::FieldTable;
use crate::resilience::reorder::ReorderSettings;
use crate::resilience::retry::{BudgetSettings, RetryPolicy, Treatment};

use super::filter::{MessageKey, MessageTemplate};
use super::pace::Pace;
use super::sink::Target;
use super::stop::{Stop, Wish};

pub use desk::{Remember, Sharing};
pub use letter::{Address, Signer};
pub use report::{Fate, Journal, WorkEnd, WorkReport, WorkVerdict};

use engine::Engine;
use handler::Handler;

/// Which messages run one after the other.
#[derive(Clone, Debug, Default)]
pub enum Order {
    /// None.
    None,
    /// Those of one workflow (header `x-nexus-workflow`); those of none run side by side.
    #[default]
    Workflow,
    /// Those with the same key.
    Key(MessageKey),
    /// All.
    Strict,
}

/// Where messages go that failed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetters {
    /// There, with the reason in headers.
    To(Address),
    /// To wherever the queue dead-letters what is rejected; the broker adds no reason.
    Reject,
    /// Nowhere: the first one ends the run and stays in the queue.
    Stop,
    /// Nowhere, once who asked has an error answer; a message without a reply address is rejected.
    Answered,
}

/// Where results go when nobody asked for them.
#[derive(Clone, Debug, Default)]
pub enum ResultTo {
    /// Nowhere.
    #[default]
    Nowhere,
    /// To the output.
    Output,
    /// To an exchange.
    Publish {
        /// The exchange.
        exchange: ExchangeName,
        /// The key, made from the message.
        key: MessageTemplate,
    },
}

/// How to work.
#[derive(Clone, Debug)]
pub struct WorkOptions {
    /// End after so many messages.
    pub count: Option<u64>,
    /// End when nothing has come for so long.
    pub idle: Option<Duration>,
    /// End when the queue is empty.
    pub until_empty: bool,
    /// End after so long.
    pub deadline: Option<Duration>,
    /// How many unsettled messages may be here, at least 1.
    pub prefetch: u16,
    /// Arguments of the subscription.
    pub arguments: FieldTable,
    /// Refuse other consumers.
    pub exclusive: bool,
    /// Subscribe again after a lost connection.
    pub reconnect: bool,
    /// Whether and when to try again.
    pub retry: RetryPolicy,
    /// How many retries all messages together may have.
    pub budget: Option<BudgetSettings>,
    /// Queues in which messages wait for their next attempt, and how long, the shortest first. Without
    /// any they wait here, and their lane with them.
    pub delay_queues: Vec<(Duration, QueueName)>,
    /// Which messages run one after the other.
    pub order: Order,
    /// Puts the messages of each workflow into the order of their numbers.
    pub reorder: Option<ReorderSettings>,
    /// After how long the broker takes an unacked message back, when it is known.
    pub consumer_timeout: Option<Duration>,
    /// Handle only messages that are valid envelopes.
    pub check_envelope: bool,
    /// What tells a message; its id when `None`.
    pub dedup_key: Option<MessageKey>,
    /// What is shared with others.
    pub sharing: Sharing,
    /// How fast to begin.
    pub pace: Option<Pace>,
    /// Where messages go that failed for good.
    pub dead_letters: DeadLetters,
    /// Answer who asks.
    pub answer: bool,
    /// Where results go.
    pub result: ResultTo,
    /// How long what runs may take to finish when the run ends.
    pub grace: Duration,
    /// How long `until_empty` waits for messages that the queue counts but does not hand out.
    pub patience: Duration,
}

impl Default for WorkOptions {
    fn default() -> Self {
        WorkOptions {
            count: None,
            idle: None,
            until_empty: false,
            deadline: None,
            prefetch: 32,
            arguments: FieldTable::new(),
            exclusive: false,
            reconnect: true,
            retry: RetryPolicy {
                // Well before the broker's own patience with an unacked message, 30 min by default.
                max_elapsed: Some(Duration::from_secs(20 * 60)),
                // Somebody ended the command, not the message.
                cancelled: Treatment::Retry {
                    base: Duration::from_millis(500),
                    cap: Duration::from_secs(60),
                },
                ..RetryPolicy::default()
            },
            budget: None,
            delay_queues: Vec::new(),
            order: Order::Workflow,
            reorder: None,
            consumer_timeout: None,
            check_envelope: false,
            dedup_key: None,
            sharing: Sharing::default(),
            pace: None,
            dead_letters: DeadLetters::Stop,
            answer: true,
            result: ResultTo::Nowhere,
            grace: Duration::from_secs(30),
            patience: Duration::from_secs(10),
        }
    }
}

impl WorkOptions {
    /// The queue in which to wait for at least `wait`, or else the longest there is.
    fn delay_queue(&self, wait: Duration) -> Option<&QueueName> {
        let enough = self.delay_queues.iter().find(|(delay, _)| *delay >= wait);
        enough.or(self.delay_queues.last()).map(|(_, queue)| queue)
    }
}

/// What a worker has from outside: time, chance, where it writes.
pub struct Worker {
    /// Who and where we are.
    pub signer: Signer,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for the jitter of waits.
    pub random: fastrand::Rng,
    /// Where results go under [`ResultTo::Output`].
    pub output: Option<Box<dyn Target>>,
    /// Takes a line for every message.
    pub journal: Option<Journal>,
    rejections: Vec<DeliveryTag>,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("signer", &self.signer).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker without output and journal.
    pub fn new(signer: Signer, clock: Arc<dyn Clock>, random: fastrand::Rng) -> Worker {
        Worker { signer, clock, random, output: None, journal: None, rejections: Vec::new() }
    }
}

/// Works on `queue` with `handler` until one of the ends is reached. `progress` hears what was done so
/// far, and how many messages are in the handler.
///
/// # Errors
/// When nothing could be begun.
pub async fn work(
    broker: &dyn Broker,
    queue: &QueueName,
    options: WorkOptions,
    worker: Worker,
    handler: &mut dyn Handler,
    stop: &Stop,
    progress: &mut (dyn FnMut(&WorkReport, usize) + Send),
) -> Result<WorkReport, BrokerError> {
    let subscription = ConsumerOptions {
        prefetch: options.prefetch.max(1),
        exclusive: options.exclusive,
        arguments: options.arguments.clone(),
        reconnect: options.reconnect,
    };
    let consumer = broker.consumer(queue, subscription).await?;
    let mut engine =
        Engine::new(broker, queue, consumer, options, worker).await.map_err(|why| {
            BrokerError::new(ErrorKind::Invalid, format!("work on queue `{queue}`"), why)
        })?;
    engine.run(handler, stop, progress).await;
    let Engine { consumer, report, .. } = engine;
    tokio::select! {
        biased;
        // Everything is settled and flushed; a connection that does not close well gives the rest
        // back too.
        _ = consumer.close() => {}
        () = stop.until(Wish::Now) => {}
    }
    Ok(report)
}
