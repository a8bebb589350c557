//! Looking at messages without taking them: what a look costs, and the look itself.
//!
//! A look is one consumer with no more prefetch than asked for, whose channel is then closed: all other
//! ways disturb the order. Only where a quorum queue has messages that came back before, those are held
//! to the last of them. Every look costs each message of a quorum queue one of its lives, and no
//! broker tells beforehand how many are left; so whoever looks notes the most returns it has seen
//! ([`Look::returns`]) and hands that to the next [`cost`].

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};

use crate::base::id::QueueName;
use crate::broker::effective::Overflow;
use crate::broker::{Broker, BrokerError, Consumer, ConsumerOptions, Delivery, QueueType};
use crate::message::{FieldTable, FieldValue};

/// What is known of the queue before a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeekFacts {
    /// Its type.
    pub queue_type: QueueType,
    /// After how many returns a message is dropped or dead-lettered; `None` is never.
    pub delivery_limit: Option<u64>,
    /// The most returns of one message that earlier looks saw, theirs included.
    pub returns: u64,
    /// How long messages live, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// What happens when it is full; `None` when it has no bound.
    pub overflow: Option<Overflow>,
    /// Whether only one consumer gets messages.
    pub single_active_consumer: bool,
    /// Whether a consumer is there that wants to be alone.
    pub exclusive_consumer: bool,
    /// Consumers attached.
    pub consumers: u64,
    /// Messages that wait.
    pub ready: u64,
    /// Whether dropped messages go somewhere.
    pub dead_letters: bool,
}

/// With so many lives left, losing one is nothing to warn of.
pub const MANY_LIVES: u64 = 1000;

/// What a look would cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// How many returns the worst known message survives now; `None` is any number.
    pub lives: Option<u64>,
    /// Why not to look: it would bring messages near their end.
    pub danger: Option<String>,
    /// Why a look would see nothing now.
    pub barred: Option<String>,
    /// What else to know.
    pub warnings: Vec<String>,
}

/// What a look at a queue costs, when a message has to keep `keep` lives.
pub fn cost(facts: &PeekFacts, keep: u64) -> Cost {
    if facts.queue_type == QueueType::Stream {
        return Cost::default();
    }
    let mut cost = Cost::default();
    let fate = if facts.dead_letters { "dead-lettered" } else { "dropped" };
    if let (QueueType::Quorum, Some(limit)) = (facts.queue_type, facts.delivery_limit) {
        let lives = limit.saturating_sub(facts.returns);
        cost.lives = Some(lives);
        if lives < keep {
            cost.danger = Some(format!(
                "a message has {lives} of its {limit} lives left as far as is known, fewer than {keep}; \
                 a look takes one, and without any it is {fate}"
            ));
        } else if lives < MANY_LIVES {
            cost.warnings.push(format!(
                "a look takes one of the lives of each message: {lives} of {limit} are left as far as \
                 is known"
            ));
        }
    }
    if facts.exclusive_consumer && facts.queue_type == QueueType::Classic {
        cost.barred = Some("a consumer has the queue to itself".to_owned());
    } else if facts.single_active_consumer && facts.consumers > 0 {
        cost.barred = Some("a single active consumer gets every message".to_owned());
    }
    if facts.ttl_ms.is_some() {
        cost.warnings.push(
            "a message whose time runs out while it is looked at is dropped, not dead-lettered"
                .to_owned(),
        );
    }
    if facts.overflow == Some(Overflow::DropHead) {
        cost.warnings.push(
            "if the queue overflows during the look, the messages looked at go first".to_owned(),
        );
    }
    if facts.consumers > 0 && cost.barred.is_none() {
        cost.warnings.push(
            "others consume: what they hold is not seen, and what is looked at reaches them a little \
             later, marked as redelivered"
                .to_owned(),
        );
    }
    cost
}

/// How to look.
#[derive(Clone, Debug)]
pub struct PeekOptions {
    /// At how many messages, at most.
    pub count: u16,
    /// How many wait in the queue; `None` is not known, as in a stream.
    pub ready: Option<u64>,
    /// How long a message is waited for.
    pub wait: Duration,
    /// Whether what comes back waits in a line of its own.
    pub is_quorum: bool,
    /// Whether only one consumer gets messages.
    pub single_active_consumer: bool,
    /// Where in a stream to begin.
    pub offset: Option<FieldValue>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The messages, in the order of the queue.
    pub deliveries: Vec<Delivery>,
    /// The most returns of any message held, this one included.
    pub returns: u64,
    /// How many were held, so that these could come back to their places.
    pub held: u64,
    /// Whether it is certain that they did.
    pub order_kept: bool,
}

/// How often the broker has had this message back. On a first delivery the header may be what a client
/// sent, or left from another queue.
pub fn returns_of(delivery: &Delivery) -> u64 {
    let header = delivery.message.properties.header("x-delivery-count");
    let count = header.filter(|_| delivery.redelivered).and_then(FieldValue::as_i64);
    u64::try_from(count.unwrap_or(0)).unwrap_or(0)
}

/// Looks at the first messages of `queue`. They are back at their places when this returns.
///
/// # Errors
/// When the broker fails; the messages are back then too.
pub async fn peek(
    broker: &dyn Broker,
    queue: &QueueName,
    options: PeekOptions,
) -> Result<Look, BrokerError> {
    let mut arguments = FieldTable::new();
    if let Some(offset) = options.offset.clone() {
        arguments.insert("x-stream-offset", offset);
    }
    let most = u64::from(options.count).min(options.ready.unwrap_or(u64::MAX));
    if most == 0 {
        return Ok(Look { order_kept: true, ..Look::default() });
    }
    let mut hold = Hold { arguments, ..Hold::new(broker, queue, options.wait) };
    let seen = hold.see(&options, most).await;
    let back = hold.let_go().await?;
    seen.map(|look| Look { order_kept: look.order_kept && back, ..look })
}

/// How to look through a whole queue.
#[derive(Clone, Debug)]
pub struct ThroughOptions {
    /// At how many messages, at most.
    pub most: u64,
    /// How many wait in the queue.
    pub ready: u64,
    /// How long a message is waited for.
    pub wait: Duration,
    /// How long messages are held, at most: a broker takes them back by itself from who holds them for
    /// half an hour.
    pub longest: Duration,
    /// Whether what comes back waits in a line of its own.
    pub is_quorum: bool,
    /// Whether only one consumer gets messages.
    pub single_active_consumer: bool,
}

/// Who looks through a queue.
#[async_trait]
pub trait Onlooker: Send {
    /// Takes the next messages, in the order of the queue. Breaks when it has seen enough.
    async fn see(&mut self, deliveries: Vec<Delivery>) -> ControlFlow<()>;
}

/// Why a look through a queue ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// As many as were asked for have been seen.
    Enough,
    /// A message that was counted did not come.
    Silent,
    /// It took as long as it may.
    TooLong,
    /// One consumer gets every message, and can hold no more.
    Alone,
    /// Whoever looks asked to stop.
    Stopped,
}

/// What a look through a queue came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// How many messages were seen.
    pub seen: u64,
    /// The most returns of any message held, this one included.
    pub returns: u64,
    /// Whether it is certain that all are back at their places.
    pub order_kept: bool,
    /// Why there may be more; `None` when all that waited were seen.
    pub short: Option<Short>,
}

/// Bytes of messages that are here at once, about.
const AT_HAND: u64 = 32 << 20;
/// Messages of the first consumer, when nobody knows yet how large they are.
const FIRST_STEP: u64 = 64;
/// Messages of one consumer at most.
const LARGEST_STEP: u64 = 10_000;

/// Looks through `queue` from its head, holding everything that was seen until the end, so that it
/// comes back in order. Each part is held by one more consumer; memory is bounded by what one of them
/// has. They are back when this returns.
///
/// # Errors
/// When the broker fails; the messages are back then too.
pub async fn look_through(
    broker: &dyn Broker,
    queue: &QueueName,
    options: &ThroughOptions,
    onlooker: &mut dyn Onlooker,
) -> Result<Through, BrokerError> {
    let most = options.most.min(options.ready);
    let mut hold = Hold::new(broker, queue, options.wait);
    let seen = hold.go_through(options, most, onlooker).await;
    let back = hold.let_go().await?;
    seen.map(|through| Through { order_kept: through.order_kept && back, ..through })
}

/// Consumers that hold what is looked at.
pub(crate) struct Hold<'a> {
    broker: &'a dyn Broker,
    queue: &'a QueueName,
    arguments: FieldTable,
    wait: Duration,
    /// Each with how many it holds.
    consumers: Vec<(Box<dyn Consumer>, u64)>,
}

/// What was held beyond what was looked at.
pub(crate) struct RestOfLine {
    /// How many.
    pub(crate) held: u64,
    /// The most returns among them before this one.
    pub(crate) returns: Option<u64>,
    /// Whether that is all of the line.
    pub(crate) whole: bool,
}

/// The most messages that one more consumer holds.
const MORE: u64 = 2000;

impl<'a> Hold<'a> {
    /// Nothing is held yet; `wait` is how long a message is waited for.
    pub(crate) fn new(broker: &'a dyn Broker, queue: &'a QueueName, wait: Duration) -> Self {
        Hold { broker, queue, arguments: FieldTable::new(), wait, consumers: Vec::new() }
    }

    /// Takes over a consumer that holds so many.
    pub(crate) fn adopt(&mut self, consumer: Box<dyn Consumer>, held: u64) {
        self.consumers.push((consumer, held));
    }

    async fn see(&mut self, options: &PeekOptions, most: u64) -> Result<Look, BrokerError> {
        let ready = options.ready.unwrap_or(most);
        let alone = options.single_active_consumer && options.is_quorum;
        let first = if alone { most.max(ready.min(MORE)) } else { most };
        let mut deliveries = self.take(first).await?;
        let mut held = deliveries.len() as u64;
        let mut returns = deliveries.iter().map(returns_of).max();
        let returned = deliveries.last().is_some_and(|last| last.redelivered);
        deliveries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let mut order_kept = !(options.is_quorum && returned && held < ready);
        if options.is_quorum && !alone && returned {
            let line = self.rest_of_line(ready, held).await?;
            returns = returns.max(line.returns);
            held += line.held;
            order_kept = line.whole;
        }
        Ok(Look { deliveries, returns: returns.map_or(0, |most| most + 1), held, order_kept })
    }

    async fn go_through(
        &mut self,
        options: &ThroughOptions,
        most: u64,
        onlooker: &mut dyn Onlooker,
    ) -> Result<Through, BrokerError> {
        let deadline = Instant::now() + options.longest;
        let alone = options.single_active_consumer;
        let (mut seen, mut bytes, mut returns) = (0, 0, None);
        let mut last_returned = false;
        let mut waiting: Vec<Delivery> = Vec::new();
        let mut short = None;
        while seen < most && short.is_none() {
            let known = AT_HAND.checked_div(bytes / seen.max(1)).unwrap_or(LARGEST_STEP);
            let step = match seen {
                _ if alone => u64::from(u16::MAX),
                0 => FIRST_STEP,
                _ => known.clamp(FIRST_STEP, LARGEST_STEP),
            };
            let step = step.min(most - seen);
            let before = std::mem::take(&mut waiting);
            // What came before is looked at while the next is on its way.
            let looked = async {
                if before.is_empty() {
                    ControlFlow::Continue(())
                } else {
                    onlooker.see(before).await
                }
            };
            let (taken, flow) = futures_util::future::join(self.take(step), looked).await;
            let taken = taken?;
            seen += taken.len() as u64;
            bytes += taken.iter().map(|d| d.message.body.len() as u64).sum::<u64>();
            returns = returns.max(taken.iter().map(returns_of).max());
            last_returned = taken.last().map_or(last_returned, |last| last.redelivered);
            short = match () {
                () if flow.is_break() => Some(Short::Stopped),
                () if (taken.len() as u64) < step => Some(Short::Silent),
                () if alone && seen < most => Some(Short::Alone),
                () if Instant::now() > deadline && seen < most => Some(Short::TooLong),
                () => None,
            };
            waiting = taken;
        }
        if !waiting.is_empty() && onlooker.see(waiting).await.is_break() && seen < options.ready {
            short = Some(Short::Stopped);
        }
        if short.is_none() && most < options.ready {
            short = Some(Short::Enough);
        }
        let mut order_kept = true;
        if options.is_quorum && last_returned && seen < options.ready {
            order_kept = false;
            if !alone && short != Some(Short::Silent) {
                let line = self.rest_of_line(options.ready, seen).await?;
                returns = returns.max(line.returns);
                order_kept = line.whole;
            }
        }
        Ok(Through { seen, returns: returns.map_or(0, |most| most + 1), order_kept, short })
    }

    /// Holds the rest of those that came back before. They wait in a line of their own, and what comes
    /// back now joins the end of that line; so the whole line has to be held, or its head changes.
    /// `held` of the `ready` messages are held already, the last of them one of that line.
    pub(crate) async fn rest_of_line(
        &mut self,
        ready: u64,
        held: u64,
    ) -> Result<RestOfLine, BrokerError> {
        let mut line = RestOfLine { held: 0, returns: None, whole: false };
        while held + line.held < ready {
            let so_far = held + line.held;
            let more = self.take(so_far.clamp(64, MORE).min(ready - so_far)).await?;
            let Some(last) = more.last() else { return Ok(line) };
            line.held += more.len() as u64;
            line.returns = line.returns.max(more.iter().map(returns_of).max());
            if !last.redelivered {
                break;
            }
        }
        line.whole = true;
        Ok(line)
    }

    /// Holds so many more.
    async fn take(&mut self, most: u64) -> Result<Vec<Delivery>, BrokerError> {
        let subscription = ConsumerOptions {
            prefetch: u16::try_from(most).unwrap_or(u16::MAX),
            exclusive: false,
            arguments: self.arguments.clone(),
            reconnect: false,
        };
        let mut consumer = self.broker.consumer(self.queue, subscription).await?;
        let mut deliveries = Vec::new();
        let mut end = Ok(());
        while (deliveries.len() as u64) < most {
            match timeout(self.wait, consumer.next()).await {
                Ok(Ok(delivery)) => deliveries.push(delivery),
                Ok(Err(error)) => {
                    end = Err(error);
                    break;
                }
                Err(_) => break,
            }
        }
        if (deliveries.len() as u64) < most && end.is_ok() {
            // Or it would be handed what another of us gives back.
            end = consumer.pause().await;
        }
        self.consumers.push((consumer, deliveries.len() as u64));
        end.map(|()| deliveries)
    }

    /// Gives everything back: who held first gives back first, or the order changes. Each waits until
    /// the queue has what the one before it held, for a closed channel is noticed some time later.
    /// Returns whether that was seen.
    pub(crate) async fn let_go(self) -> Result<bool, BrokerError> {
        let mut end = Ok(true);
        let mut rest = self.consumers.into_iter().peekable();
        while let Some((consumer, held)) = rest.next() {
            let before = self.broker.depth(self.queue).await.ok().flatten();
            let closed = consumer.close().await;
            let mut back = true;
            if rest.peek().is_some() {
                let ready = before.map_or(0, |depth| depth.ready) + held;
                back = is_back(self.broker, self.queue, ready).await;
            }
            end = end.and_then(|all| closed.map(|()| all && back));
        }
        end
    }
}

/// Waits until so many messages are ready.
async fn is_back(broker: &dyn Broker, queue: &QueueName, ready: u64) -> bool {
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(10);
    let waited = timeout(PATIENCE, async {
        loop {
            tokio::time::sleep(PAUSE).await;
            match broker.depth(queue).await {
                Ok(Some(depth)) if depth.ready >= ready => return true,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    });
    waited.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::super::fake::delivery;
    use super::*;

    fn quorum(limit: Option<u64>, returns: u64) -> PeekFacts {
        PeekFacts {
            queue_type: QueueType::Quorum,
            delivery_limit: limit,
            returns,
            ttl_ms: None,
            overflow: None,
            single_active_consumer: false,
            exclusive_consumer: false,
            consumers: 0,
            ready: 1,
            dead_letters: false,
        }
    }

    #[test]
    fn a_look_is_refused_before_the_floor_and_not_earlier() {
        for (limit, returns, keep, refused) in [
            (Some(20), 0, 3, false),
            (Some(20), 17, 3, false),
            (Some(20), 18, 3, true),
            (Some(20), 40, 0, false),
            (Some(2), 0, 3, true),
            (Some(0), 0, 1, true),
            (None, 1000, 3, false),
        ] {
            let cost = cost(&quorum(limit, returns), keep);
            assert_eq!(cost.danger.is_some(), refused, "{limit:?} {returns} {keep}");
            assert_eq!(cost.lives, limit.map(|limit: u64| limit.saturating_sub(returns)));
        }
        let classic = PeekFacts { queue_type: QueueType::Classic, ..quorum(Some(1), 1) };
        assert_eq!(cost(&classic, 3), Cost::default());
    }

    #[test]
    fn who_has_the_queue_alone_bars_the_look() {
        let classic = PeekFacts { queue_type: QueueType::Classic, consumers: 1, ..quorum(None, 0) };
        let exclusive = PeekFacts { exclusive_consumer: true, ..classic.clone() };
        let single = PeekFacts { single_active_consumer: true, ..classic.clone() };
        let idle = PeekFacts { consumers: 0, ..single.clone() };
        let quorum = PeekFacts { queue_type: QueueType::Quorum, ..exclusive.clone() };
        for (facts, barred) in
            [(classic, false), (exclusive, true), (single, true), (idle, false), (quorum, false)]
        {
            assert_eq!(cost(&facts, 3).barred.is_some(), barred, "{facts:?}");
        }
    }

    #[test]
    fn what_can_be_lost_meanwhile_is_said() {
        let facts =
            PeekFacts { ttl_ms: Some(5), overflow: Some(Overflow::DropHead), ..quorum(None, 0) };
        let said = cost(&facts, 3).warnings.join("; ");
        assert!(said.contains("time runs out") && said.contains("overflows"), "{said}");
    }

    #[test]
    fn a_count_on_a_first_delivery_is_not_believed() {
        let mut given = delivery(1, "x");
        given.message.properties.headers_mut().insert("x-delivery-count", 19);
        assert_eq!(returns_of(&given), 0);
        given.redelivered = true;
        assert_eq!(returns_of(&given), 19);
    }
}
