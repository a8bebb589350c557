//! Seeing what passes an exchange, without touching who consumes it.
//!
//! One queue of this run's own is bound beside the others: bounded, dropping its oldest message when it
//! is full, expiring when nobody is left. It is durable and belongs to no connection, so it goes on
//! collecting while a lost connection is made again. Should it be gone by then, it is declared again,
//! and the time between is said. At the end it is deleted, and looked for.

pub mod plan;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::{Clock, Timestamp};
use crate::broker::{
    BindingDefinition, Broker, BrokerError, Change, Changed, Consumer, ConsumerOptions, Delivery,
    DeliveryTag, Destination, ErrorKind, QueueDefinition, QueueType, Settled, Settlement,
};
use crate::message::FieldTable;

use super::consume::{ConsumeOptions, ConsumeReport, consume_from};
use super::sink::Sink;
use super::stop::{Stop, Wish};

pub use plan::{TapBinding, TapPlan, TapRefusal, TapTarget, plan};

/// The queue of a tap.
#[derive(Clone, Debug)]
pub struct TapQueue {
    /// Its name.
    pub name: QueueName,
    /// How many messages wait in it at most.
    pub length: u64,
    /// How many bytes of bodies wait in it at most.
    pub bytes: u64,
    /// After how long without anybody it goes away.
    pub expires: Duration,
}

impl TapQueue {
    /// `nexus.tap.WHO.RANDOM`, so that whoever sees it knows what it is.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn named(
        who: &str,
        random: u32,
        length: u64,
        expires: Duration,
    ) -> Result<Self, crate::base::id::NameError> {
        let who: String = who
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "@._-".contains(c) { c } else { '-' })
            .take(80)
            .collect();
        let name = QueueName::new(format!("nexus.tap.{who}.{random:08x}"))?;
        Ok(TapQueue { name, length, bytes: 128 << 20, expires })
    }

    fn definition(&self) -> QueueDefinition {
        let integer = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let expires = u64::try_from(self.expires.as_millis()).unwrap_or(u64::MAX);
        QueueDefinition {
            arguments: FieldTable::new()
                .with("x-queue-type", "classic")
                .with("x-max-length", integer(self.length))
                .with("x-max-length-bytes", integer(self.bytes))
                .with("x-overflow", "drop-head")
                .with("x-expires", integer(expires)),
            ..QueueDefinition::durable(self.name.clone(), QueueType::Classic)
        }
    }
}

/// A time in which the tap was not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// When it is last known to have been there.
    #[schemars(with = "String")]
    pub from: Timestamp,
    /// When it was bound again.
    #[schemars(with = "String")]
    pub until: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub struct TapReport {
    /// To the messages.
    pub consumed: ConsumeReport,
    /// Messages that came to the tap, those that were not wanted included.
    pub seen: u64,
    /// Times in which it was not bound.
    pub gaps: Vec<Gap>,
    /// Whether the tap was seen full: then the oldest messages in it were dropped.
    pub was_full: bool,
    /// How many were dropped at least, as far as the broker counts.
    pub dropped: Option<u64>,
    /// Why the queue of the tap may still be there; `None` when it is gone.
    pub left_behind: Option<String>,
}

/// What the consumer of a tap notices.
#[derive(Debug, Default)]
struct Log {
    gaps: Vec<Gap>,
    alive_at: Option<Timestamp>,
    seen: u64,
}

/// Taps as planned, until one of the ends of `options` is reached. Needs a queue that nobody else has.
///
/// # Errors
/// When the tap cannot be made; what was made of it is gone again then.
#[expect(clippy::too_many_arguments, reason = "each is another thing, and all are needed")]
pub async fn tap(
    broker: Arc<dyn Broker>,
    plan: &TapPlan,
    queue: &TapQueue,
    options: ConsumeOptions,
    sink: Sink,
    clock: Arc<dyn Clock>,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<TapReport, BrokerError> {
    // A copy: reading takes nothing away, and what is not wanted is let go.
    let options = ConsumeOptions { is_stream: true, ..options };
    let prefetch = options
        .choose_prefetch()
        .map_err(|why| BrokerError::new(ErrorKind::Invalid, "tap", why))?;
    let set_up = SetUp {
        broker: Arc::clone(&broker),
        queue: queue.clone(),
        bindings: plan.bindings.clone(),
        subscription: ConsumerOptions {
            prefetch,
            reconnect: options.reconnect,
            ..ConsumerOptions::default()
        },
    };
    let inner = match set_up.make().await {
        Ok(inner) => inner,
        Err(error) => {
            let _ = broker.change(&delete(&queue.name)).await;
            return Err(error);
        }
    };
    let log = Arc::new(Mutex::new(Log { alive_at: Some(clock.now()), ..Log::default() }));
    let consumer = TapConsumer {
        inner,
        set_up,
        base: 0,
        last: 0,
        clock: Arc::clone(&clock),
        log: Arc::clone(&log),
        again: None,
    };
    let consuming = consume_from(
        Box::new(consumer),
        broker.as_ref(),
        &queue.name,
        options,
        prefetch,
        sink,
        stop,
        progress,
    );
    let mut was_full = false;
    let watching = watch(broker.as_ref(), queue, clock.as_ref(), &log, &mut was_full);
    let consumed = tokio::select! {
        consumed = consuming => consumed,
        () = watching => return Err(BrokerError::new(ErrorKind::Refused, "tap", "the watch ended")),
    };
    let seen = lock(&log).seen;
    let dropped = count_dropped(broker.as_ref(), queue, seen, was_full, stop).await;
    let left_behind = clean_up(broker.as_ref(), queue, stop).await;
    let gaps = std::mem::take(&mut lock(&log).gaps);
    Ok(TapReport { consumed, seen, gaps, was_full, dropped, left_behind })
}

fn lock(log: &Mutex<Log>) -> std::sync::MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

fn delete(queue: &QueueName) -> Change {
    Change::DeleteQueue { name: queue.clone(), if_empty: false, if_unused: false }
}

/// Looks at the tap's queue now and then: whether it is full, and that it is there. Never returns.
async fn watch(
    broker: &dyn Broker,
    queue: &TapQueue,
    clock: &dyn Clock,
    log: &Mutex<Log>,
    was_full: &mut bool,
) {
    const EVERY: Duration = Duration::from_millis(500);
    loop {
        tokio::time::sleep(EVERY).await;
        if let Ok(Some(depth)) = broker.depth(&queue.name).await {
            // A message may leave between the drop and the look.
            *was_full |= depth.ready.saturating_mul(10) >= queue.length.saturating_mul(9);
            lock(log).alive_at = Some(clock.now());
        }
    }
}

/// How many messages came to the queue and neither left it nor are in it. Only looked for when the
/// queue was seen full: the broker's counts are seconds old.
async fn count_dropped(
    broker: &dyn Broker,
    queue: &TapQueue,
    seen: u64,
    was_full: bool,
    stop: &Stop,
) -> Option<u64> {
    const LOOKS: u32 = 14;
    const PAUSE: Duration = Duration::from_millis(500);
    if !was_full {
        return None;
    }
    let mut best = None;
    for _ in 0..LOOKS {
        let details = broker.queue_details(&queue.name).await.ok().flatten()?;
        let published = details.counters?.published;
        let ready = broker.depth(&queue.name).await.ok().flatten()?.ready;
        let dropped = published.saturating_sub(seen + ready);
        if best.is_some_and(|best| best == dropped) && dropped > 0 {
            break;
        }
        best = Some(dropped);
        tokio::select! {
            () = stop.until(Wish::Now) => break,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
    best.filter(|dropped| *dropped > 0)
}

/// Deletes the queue, and with it the bindings, and looks whether it is gone.
async fn clean_up(broker: &dyn Broker, queue: &TapQueue, stop: &Stop) -> Option<String> {
    let name = &queue.name;
    let expires = crate::base::time::HumanDuration(queue.expires);
    let cleaning = async {
        let mut last = None;
        for _ in 0..3 {
            match broker.change(&delete(name)).await {
                Ok(Changed::Done | Changed::WithMessages(_)) => match broker.depth(name).await {
                    Ok(None) => return None,
                    Ok(Some(_)) => last = Some("it is still there".to_owned()),
                    Err(error) => last = Some(error.to_string()),
                },
                Err(error) => last = Some(error.to_string()),
            }
        }
        last
    };
    let why = tokio::select! {
        biased;
        () = stop.until(Wish::Now) => Some("stopped at once".to_owned()),
        why = cleaning => why,
    };
    why.map(|why| {
        format!("the queue `{name}` may still be bound ({why}); it goes by itself after {expires}")
    })
}

/// What it takes to make the tap, and to make it again.
#[derive(Debug)]
struct SetUp {
    broker: Arc<dyn Broker>,
    queue: TapQueue,
    bindings: Vec<TapBinding>,
    subscription: ConsumerOptions,
}

impl SetUp {
    async fn make(&self) -> Result<Box<dyn Consumer>, BrokerError> {
        let refused = |error: BrokerError, what: &str| match error.kind {
            ErrorKind::AccessRefused => error.hint(format!(
                "a tap wants the permissions to {what} `nexus.tap.*` and to read from the exchange"
            )),
            _ => error,
        };
        let declare = Change::DeclareQueue(self.queue.definition());
        let declared = self.broker.change(&declare).await;
        declared.map_err(|error| refused(error, "configure and write"))?;
        // The subscription first: a queue without one expires, and nothing is lost by it.
        let consumer = self.broker.consumer(&self.queue.name, self.subscription.clone()).await?;
        for binding in &self.bindings {
            let bind = Change::Bind(BindingDefinition {
                source: binding.exchange.clone(),
                destination: Destination::Queue(self.queue.name.clone()),
                routing_key: binding.key.clone(),
                arguments: binding.arguments.clone(),
            });
            if let Err(error) = self.broker.change(&bind).await {
                let _ = consumer.close().await;
                return Err(refused(error, "write"));
            }
        }
        Ok(consumer)
    }
}

type Making =
    std::pin::Pin<Box<dyn Future<Output = Result<Box<dyn Consumer>, BrokerError>> + Send>>;

/// A consumer that makes its queue again when it is gone after a lost connection.
struct TapConsumer {
    inner: Box<dyn Consumer>,
    set_up: SetUp,
    /// Generations of the consumers before this one.
    base: u32,
    /// The last generation that was seen.
    last: u32,
    clock: Arc<dyn Clock>,
    log: Arc<Mutex<Log>>,
    /// Goes on where it was when the wait for it is cancelled.
    again: Option<Making>,
}

impl std::fmt::Debug for TapConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapConsumer").field("queue", &self.set_up.queue).finish_non_exhaustive()
    }
}

impl TapConsumer {
    fn took(&mut self, mut delivery: Delivery) -> Delivery {
        delivery.tag.generation += self.base;
        self.last = delivery.tag.generation;
        let mut log = lock(&self.log);
        log.seen += u64::from(!delivery.redelivered);
        log.alive_at = Some(self.clock.now());
        drop(log);
        delivery
    }

    fn inner_tag(&self, tag: DeliveryTag) -> Option<DeliveryTag> {
        Some(DeliveryTag { generation: tag.generation.checked_sub(self.base)?, ..tag })
    }
}

#[async_trait]
impl Consumer for TapConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(again) = &mut self.again {
                let made = again.await;
                self.again = None;
                self.inner = made?;
                self.base = self.last + 1;
                self.last = self.base;
                let mut log = lock(&self.log);
                let until = self.clock.now();
                let from = log.alive_at.unwrap_or(until);
                log.gaps.push(Gap { from, until });
            }
            match self.inner.next().await {
                Ok(delivery) => return Ok(self.took(delivery)),
                // It expired, or went with its node, while the connection was away. Whoever deletes it
                // under our eyes means it: that is another error.
                Err(error)
                    if error.kind == ErrorKind::NotFound && self.set_up.subscription.reconnect =>
                {
                    let set_up = SetUp {
                        broker: Arc::clone(&self.set_up.broker),
                        queue: self.set_up.queue.clone(),
                        bindings: self.set_up.bindings.clone(),
                        subscription: self.set_up.subscription.clone(),
                    };
                    self.again = Some(Box::pin(async move { set_up.make().await }));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.again.is_some() {
            return None;
        }
        let delivery = self.inner.ready()?;
        Some(self.took(delivery))
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        match self.inner_tag(tag) {
            Some(tag) => self.inner.settle(tag, how).await,
            None => Ok(Settled::Void),
        }
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        self.inner.flush().await
    }

    async fn pause(&mut self) -> Result<(), BrokerError> {
        self.inner.pause().await
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}
