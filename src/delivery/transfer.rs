//! Moving and copying messages from a queue to another place.
//!
//! A message leaves its queue only after its copy is confirmed, so a kill at any point loses none and
//! leaves at most [`WINDOW`] of them in both places. Whatever is not wanted or not accepted is held and
//! back at its place in the end. A copy holds everything it copies, for only that leaves the source as it
//! was: so it copies 65535 messages at most.
//!
//! A copy goes to the place that is named and to no other: the `CC` and `BCC` headers, which would
//! route it on, become headers of our own.

use std::ops::ControlFlow;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::carry::{
    Afterwards, Carried, Carrier, CarryOptions, Load, carry, make_fit, stream_offset,
};
use crate::broker::routing::RoutingTable;
use crate::broker::{
    Broker, BrokerError, ConsumerOptions, Delivery, ErrorKind, Outcome, Publish, PublisherOptions,
    QueueType,
};
use crate::message::{FieldTable, FieldValue, Message};

use super::consume::Lives;
use super::filter::Filter;
use super::peek::{Hold, returns_of};
use super::stop::{Stop, Wish};
use super::stream::last_offset;

/// The most messages that a kill can leave in both places.
pub const WINDOW: u16 = 256;

/// The most messages that can be held.
pub const MOST_HELD: u64 = u16::MAX as u64;

/// Bodies that may wait here while messages are held.
const ROOM: u64 = 512 * 1024 * 1024;

/// Where the message came from, when that is asked for; written once.
pub const MOVED_FROM: &str = "x-nexus-moved-from";

/// What the headers `CC` and `BCC` become.
pub const COPIES: [(&str, &str); 2] = [("CC", "x-nexus-cc"), ("BCC", "x-nexus-bcc")];

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Messages leave their queue.
    Move,
    /// Messages stay in their queue.
    Copy,
}

/// Where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The exchange; the default one leads to the queue that `key` names.
    pub exchange: ExchangeName,
    /// The key; each message's own when `None`.
    pub key: Option<RoutingKey>,
}

/// What to transfer, and what is known of the source.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// Move or copy.
    pub deed: Deed,
    /// Where to.
    pub to: Address,
    /// How many at most; all that wait when it begins when `None`.
    pub count: Option<u64>,
    /// Which; the others stay.
    pub filter: Option<Filter>,
    /// How many wait now; of no use with a stream.
    pub ready: u64,
    /// Bytes of them, when known.
    pub bytes: Option<u64>,
    /// The type of the source.
    pub queue_type: QueueType,
    /// Whether only one consumer of the source gets messages.
    pub single_active_consumer: bool,
    /// What holding costs, and when to refuse it.
    pub lives: Lives,
    /// Where in a stream to begin.
    pub offset: Option<FieldValue>,
    /// Our login: the only one that a message may carry.
    pub login: Option<String>,
    /// Whether to write into each message where it came from.
    pub mark: bool,
    /// Go on past a message that is returned or refused.
    pub skip_refused: bool,
    /// To see whether a message would come back to where it was.
    pub routing: Option<RoutingTable>,
    /// How long messages are waited for that the queue counts and does not hand out.
    pub patience: Duration,
    /// How long nothing may come before the broker is asked, and how long a stream may be silent.
    pub poll: Duration,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEnd {
    /// As many as were wanted went.
    Count,
    /// All that were there have been looked at.
    All,
    /// The source is empty: others took some.
    Empty,
    /// The queue counts messages and hands none out.
    Stalled,
    /// Every place is taken by a message that stays.
    Full,
    /// A copy was not accepted, or would have come back.
    Refused,
    /// A message that stays has few lives left.
    LivesAtRisk,
    /// Somebody asked to stop.
    Stopped,
    /// The broker failed.
    Failed,
}

/// What became of the messages. Those looked at are the sum of the groups.
#[derive(Clone, Debug)]
pub struct TransferReport {
    /// Why it ended.
    pub ended: TransferEnd,
    /// Messages looked at.
    pub looked: u64,
    /// Copies confirmed.
    pub transferred: u64,
    /// Left because the filter does not want them.
    pub not_wanted: u64,
    /// Of these, those for which the filter failed.
    pub filter_errors: u64,
    /// What the first of these failures was.
    pub first_filter_error: Option<String>,
    /// Left because they would have come back to the same queue.
    pub circular: u64,
    /// Left because no queue took the copy.
    pub returned: u64,
    /// Left because the broker refused the copy.
    pub nacked: u64,
    /// Left, and the copy may be there or not.
    pub in_doubt: u64,
    /// Left because the broker took nothing any more.
    pub not_sent: u64,
    /// Of the moved ones, those that may still be in the source as well.
    pub in_both: u64,
    /// The most returns of a message that went back, this one included.
    pub returns: u64,
    /// Whether it is certain that what stayed is where it was.
    pub order_kept: bool,
    /// What the first refusal was.
    pub refusal: Option<String>,
    /// What failed.
    pub failure: Option<BrokerError>,
}

impl TransferOptions {
    /// How many messages are looked at, at most.
    fn look(&self) -> Option<u64> {
        match (self.queue_type, &self.filter, self.count) {
            (QueueType::Stream, ..) => None,
            (_, None, Some(count)) => Some(count.min(self.ready)),
            _ => Some(self.ready),
        }
    }

    /// Whether messages are held to the end.
    pub fn holds(&self) -> bool {
        self.queue_type != QueueType::Stream && (self.deed == Deed::Copy || self.filter.is_some())
    }

    /// How many may be unsettled at once.
    ///
    /// # Errors
    /// When more would have to be held than can be.
    pub fn prefetch(&self) -> Result<u16, String> {
        let look = self.look().unwrap_or(u64::from(WINDOW)).max(1);
        let usual = u16::try_from(look).unwrap_or(WINDOW).min(WINDOW);
        if !self.holds() {
            return Ok(usual);
        }
        if self.deed == Deed::Copy {
            return u16::try_from(look).map_err(|_| {
                format!(
                    "a copy holds what it copies, {MOST_HELD} messages at most, and {look} wait"
                )
            });
        }
        let average = self.bytes.map_or(1, |bytes| bytes / self.ready.max(1)).max(1);
        let room = look.min(MOST_HELD).min(ROOM / average).max(u64::from(usual));
        Ok(u16::try_from(room).unwrap_or(u16::MAX))
    }
}

/// The message as it goes out: the same but for what would act, or be refused, on the way.
fn address(delivery: Delivery, from: &QueueName, options: &TransferOptions) -> Publish {
    let mut message = delivery.message;
    let routing_key = options.to.key.clone().unwrap_or_else(|| delivery.routing_key.clone());
    if options.mark && message.properties.header(MOVED_FROM).is_none() {
        let origin = FieldTable::new()
            .with("queue", from.as_str())
            .with("exchange", delivery.exchange.as_str())
            .with("routing-key", delivery.routing_key.as_str());
        message.properties.headers_mut().insert(MOVED_FROM, origin);
    }
    keep_to_one_place(&mut message);
    make_fit(&mut message, options.login.as_deref());
    Publish { exchange: options.to.exchange.clone(), routing_key, message }
}

/// Renames the headers that would route a message to further places.
pub(super) fn keep_to_one_place(message: &mut Message) {
    let Some(headers) = &mut message.properties.headers else { return };
    for (name, kept) in COPIES {
        if let Some(keys) = headers.remove(name) {
            headers.insert(kept, keys);
        }
    }
}

/// Moves or copies from `from`. `progress` hears how many copies are confirmed.
///
/// # Errors
/// When nothing could be begun.
pub async fn transfer(
    broker: &dyn Broker,
    from: &QueueName,
    options: &TransferOptions,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<TransferReport, BrokerError> {
    let attempted = || match options.deed {
        Deed::Move => format!("move from queue `{from}`"),
        Deed::Copy => format!("copy from queue `{from}`"),
    };
    let prefetch =
        options.prefetch().map_err(|why| BrokerError::new(ErrorKind::Invalid, attempted(), why))?;
    let is_stream = options.queue_type == QueueType::Stream;
    let mut run = Run {
        broker,
        from,
        options,
        stop,
        progress,
        last_of_stream: None,
        sent: 0,
        not_wanted: 0,
        filter_errors: 0,
        first_filter_error: None,
        circular: 0,
        returns: None,
        refusal: None,
        ended: None,
        empty_looks: 0,
        quiet_since: Instant::now(),
    };
    if is_stream {
        run.last_of_stream = last_offset(broker, from, options.poll).await?;
    }
    let nothing = if is_stream { run.last_of_stream.is_none() } else { options.ready == 0 };
    if nothing || options.count == Some(0) {
        return Ok(run.report(&Carried::default(), true, None));
    }
    let (window, unflushed) = if options.holds() && options.deed == Deed::Move {
        (WINDOW / 2, WINDOW / 4)
    } else {
        (WINDOW, WINDOW)
    };
    let way_out = PublisherOptions { window: usize::from(window), reconnect: false };
    let mut publisher = broker.publisher(way_out).await?;
    let mut subscription = ConsumerOptions { prefetch, reconnect: false, ..Default::default() };
    if let Some(offset) = options.offset.clone().filter(|_| is_stream) {
        subscription.arguments.insert("x-stream-offset", offset);
    }
    let mut consumer = broker.consumer(from, subscription).await?;
    let how = CarryOptions {
        prefetch,
        look: options.look(),
        afterwards: match (is_stream, options.deed) {
            (true, _) => Afterwards::Read,
            (false, Deed::Move) => Afterwards::Gone,
            (false, Deed::Copy) => Afterwards::Stays,
        },
        unflushed: u64::from(unflushed),
        poll: options.poll,
    };
    let carried = carry(consumer.as_mut(), publisher.as_mut(), how, &mut run).await;
    // Every outcome is known; a way out that does not close well changes nothing.
    let _ = publisher.close().await;
    let mut hold = Hold::new(broker, from, options.poll);
    hold.adopt(consumer, carried.held);
    // Failing in this changes no message, only what is known of their order.
    let (kept, returns) = run.rest(&mut hold, &carried).await.unwrap_or_default();
    let back = hold.let_go().await;
    let order_kept = kept && (*back.as_ref().unwrap_or(&false) || carried.held == 0);
    run.returns = run.returns.max(returns);
    let closing = back.err().filter(|_| carried.failure.is_none());
    Ok(run.report(&carried, order_kept, closing))
}

struct Run<'a> {
    broker: &'a dyn Broker,
    from: &'a QueueName,
    options: &'a TransferOptions,
    stop: &'a Stop,
    progress: &'a mut (dyn FnMut(u64) + Send),
    last_of_stream: Option<u64>,
    sent: u64,
    not_wanted: u64,
    filter_errors: u64,
    first_filter_error: Option<String>,
    circular: u64,
    /// The most returns before this one of any message that goes back.
    returns: Option<u64>,
    refusal: Option<String>,
    ended: Option<TransferEnd>,
    empty_looks: u8,
    quiet_since: Instant,
}

impl Run<'_> {
    /// Holds what has to be held so that what is held can go back to its place.
    async fn rest(
        &mut self,
        hold: &mut Hold<'_>,
        carried: &Carried,
    ) -> Result<(bool, Option<u64>), BrokerError> {
        let left = self.options.ready.saturating_sub(carried.settled);
        let matters = self.options.queue_type == QueueType::Quorum
            && carried.held > 0
            && carried.last_redelivered
            && carried.held < left;
        if !matters {
            return Ok((true, None));
        }
        if self.options.single_active_consumer || self.stop.wish() == Wish::Now {
            return Ok((false, None));
        }
        let line = hold.rest_of_line(left, carried.held).await?;
        Ok((line.whole, line.returns))
    }

    fn report(
        self,
        carried: &Carried,
        order_kept: bool,
        closing: Option<BrokerError>,
    ) -> TransferReport {
        let failure = carried.failure.clone().or(closing);
        let ended = match self.ended {
            _ if failure.is_some() => TransferEnd::Failed,
            Some(ended) => ended,
            None if carried.full => TransferEnd::Full,
            None => TransferEnd::All,
        };
        let moves = self.options.deed == Deed::Move;
        TransferReport {
            ended,
            looked: carried.looked,
            transferred: carried.confirmed,
            not_wanted: self.not_wanted,
            filter_errors: self.filter_errors,
            first_filter_error: self.first_filter_error,
            circular: self.circular,
            returned: carried.returned,
            nacked: carried.nacked,
            in_doubt: carried.unknown,
            not_sent: carried.failed,
            in_both: if moves { carried.unflushed + carried.unsettled } else { 0 },
            returns: match self.returns {
                Some(returns) if carried.held > 0 => returns + 1,
                _ => 0,
            },
            order_kept,
            refusal: self.refusal,
            failure,
        }
    }

    /// Whether one that stays has so few lives left that no more may be looked at.
    fn is_at_risk(&mut self, delivery: &Delivery) -> bool {
        let returns = returns_of(delivery);
        self.returns = self.returns.max(Some(returns));
        let Lives { limit: Some(limit), keep } = self.options.lives else { return false };
        limit.saturating_sub(returns) < keep
    }

    fn would_come_back(&self, publish: &Publish) -> bool {
        let Some(routing) = &self.options.routing else { return false };
        let none = FieldTable::new();
        let headers = publish.message.properties.headers.as_ref().unwrap_or(&none);
        routing
            .targets(&publish.exchange, publish.routing_key.as_str(), headers, &[])
            .into_iter()
            .any(|index| routing.queue(index) == Some(self.from))
    }
}

#[async_trait]
impl Carrier for Run<'_> {
    fn load(&mut self, delivery: Delivery) -> Load {
        self.empty_looks = 0;
        self.quiet_since = Instant::now();
        let offset = stream_offset(&delivery).filter(|_| self.last_of_stream.is_some());
        if offset > self.last_of_stream {
            self.not_wanted += 1;
            return Load { publish: None, last: true };
        }
        let mut last = offset.is_some() && offset == self.last_of_stream;
        let wanted = match &self.options.filter {
            None => true,
            Some(filter) => filter.wants(&delivery, self.from.as_str()).unwrap_or_else(|why| {
                self.filter_errors += 1;
                self.first_filter_error.get_or_insert(why);
                false
            }),
        };
        if self.options.holds()
            && (!wanted || self.options.deed == Deed::Copy)
            && self.is_at_risk(&delivery)
        {
            self.ended.get_or_insert(TransferEnd::LivesAtRisk);
            last = true;
        }
        if !wanted {
            self.not_wanted += 1;
            return Load { publish: None, last };
        }
        let publish = address(delivery, self.from, self.options);
        if self.would_come_back(&publish) {
            self.circular += 1;
            if !self.options.skip_refused {
                self.refusal.get_or_insert_with(|| {
                    format!(
                        "{} routes it back to queue `{}` by the key `{}`",
                        publish.exchange.in_words(),
                        self.from,
                        publish.routing_key
                    )
                });
                self.ended.get_or_insert(TransferEnd::Refused);
                last = true;
            }
            return Load { publish: None, last };
        }
        self.sent += 1;
        if self.options.count.is_some_and(|count| self.sent >= count) {
            self.ended.get_or_insert(TransferEnd::Count);
            last = true;
        }
        Load { publish: Some(publish), last }
    }

    fn refused(&mut self, outcome: Outcome) -> ControlFlow<()> {
        let (why, may_skip) = match outcome {
            Outcome::Returned { code, text } => (format!("{code} {text}"), true),
            Outcome::Nacked => ("the broker refused it: a target is full".to_owned(), true),
            Outcome::Unknown { why } => (why, false),
            Outcome::Failed(_) | Outcome::Confirmed => return ControlFlow::Break(()),
        };
        self.refusal.get_or_insert(why);
        if may_skip && self.options.skip_refused {
            return ControlFlow::Continue(());
        }
        // A count that was reached in sending was not reached in arriving.
        if matches!(self.ended, None | Some(TransferEnd::Count)) {
            self.ended = Some(TransferEnd::Refused);
        }
        ControlFlow::Break(())
    }

    async fn checkpoint(&mut self, so_far: &Carried) -> Result<ControlFlow<()>, BrokerError> {
        (self.progress)(so_far.confirmed);
        if self.stop.wish() > Wish::Run && self.ended.is_none() {
            self.ended = Some(TransferEnd::Stopped);
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn quiet(&mut self) -> Result<ControlFlow<()>, BrokerError> {
        let waited = self.quiet_since.elapsed();
        if self.last_of_stream.is_some() {
            // There is more, for the last message has not come.
            let give_up = waited >= self.options.patience;
            if give_up {
                self.ended.get_or_insert(TransferEnd::Stalled);
            }
            return Ok(if give_up { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
        }
        let ready = self.broker.depth(self.from).await?.map_or(0, |depth| depth.ready);
        // One look is not enough: a message may be on its way to us, counted nowhere.
        self.empty_looks = if ready == 0 { self.empty_looks + 1 } else { 0 };
        let end = if self.empty_looks >= 2 {
            TransferEnd::Empty
        } else if ready > 0 && waited >= self.options.patience {
            TransferEnd::Stalled
        } else {
            return Ok(ControlFlow::Continue(()));
        };
        self.ended.get_or_insert(end);
        Ok(ControlFlow::Break(()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::fake::{Answer, FakePublisher, FakeQueue, delivery};
    use super::*;

    fn options(deed: Deed) -> TransferOptions {
        TransferOptions {
            deed,
            to: Address {
                exchange: ExchangeName::default_exchange(),
                key: Some(RoutingKey::new("to").unwrap()),
            },
            count: None,
            filter: None,
            ready: 1000,
            bytes: None,
            queue_type: QueueType::Quorum,
            single_active_consumer: false,
            lives: Lives::default(),
            offset: None,
            login: None,
            mark: false,
            skip_refused: false,
            routing: None,
            patience: Duration::from_secs(1),
            poll: Duration::from_millis(1),
        }
    }

    #[test]
    fn no_more_is_asked_for_than_can_be_held_or_is_wanted() {
        let filter = Some(Filter::parse("true").unwrap());
        let moves = options(Deed::Move);
        let copies = options(Deed::Copy);
        let filtered = TransferOptions { filter, ..moves.clone() };
        for (options, expected) in [
            (moves.clone(), Some(256)),
            (TransferOptions { count: Some(9), ..moves.clone() }, Some(9)),
            (TransferOptions { count: Some(9), ..copies.clone() }, Some(9)),
            (copies.clone(), Some(1000)),
            (TransferOptions { ready: 65_536, ..copies.clone() }, None),
            (TransferOptions { ready: 65_536, count: Some(65_535), ..copies }, Some(65_535)),
            (TransferOptions { count: Some(9), ..filtered.clone() }, Some(1000)),
            (TransferOptions { ready: 100_000, ..filtered.clone() }, Some(65_535)),
            (TransferOptions { bytes: Some(1000 << 20), ..filtered }, Some(512)),
        ] {
            assert_eq!(options.prefetch().ok(), expected, "{options:?}");
        }
    }

    #[test]
    fn a_copy_goes_to_one_place_only_and_says_where_it_came_from_when_asked() {
        let mut given = delivery(1, "x");
        let cc = FieldValue::Array(vec!["elsewhere".into()]);
        given.message.properties.headers_mut().insert("CC", cc.clone());
        given.message.properties.expiration = Some("500".to_owned());
        let from = QueueName::new("from").unwrap();
        let marked = TransferOptions { mark: true, ..options(Deed::Move) };
        let publish = address(given.clone(), &from, &marked);
        let properties = &publish.message.properties;
        assert_eq!(properties.header("CC"), None);
        assert_eq!(properties.header("x-nexus-cc"), Some(&cc));
        assert_eq!(properties.expiration.as_deref(), Some("500"));
        let Some(FieldValue::Table(origin)) = properties.header(MOVED_FROM) else {
            panic!("{properties:?}");
        };
        assert_eq!(origin.get("routing-key").and_then(FieldValue::as_text), Some("key"));
        let unmarked = address(given, &from, &options(Deed::Move));
        assert_eq!(unmarked.message.properties.header(MOVED_FROM), None);
    }

    /// Takes everything, and leaves every third when told to.
    struct Simple {
        leaves: bool,
        taken: u64,
    }

    #[async_trait]
    impl Carrier for Simple {
        fn load(&mut self, delivery: Delivery) -> Load {
            self.taken += 1;
            let publish = Publish {
                exchange: delivery.exchange,
                routing_key: delivery.routing_key,
                message: delivery.message,
            };
            let goes = !(self.leaves && self.taken.is_multiple_of(3));
            Load { publish: goes.then_some(publish), last: false }
        }
        fn refused(&mut self, _: Outcome) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
        async fn checkpoint(&mut self, _: &Carried) -> Result<ControlFlow<()>, BrokerError> {
            Ok(ControlFlow::Continue(()))
        }
        async fn quiet(&mut self) -> Result<ControlFlow<()>, BrokerError> {
            Ok(ControlFlow::Break(()))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_fails_at_any_call_no_message_is_in_no_place_and_the_rest_keeps_its_order() {
        const NUMBER: u64 = 40;
        let answers = [
            Answer::Return,
            Answer::Nack,
            Answer::Unknown,
            Answer::Fail(ErrorKind::ConnectionLost),
            Answer::Refuse(ErrorKind::ConnectionLost),
        ];
        for leaves in [false, true] {
            for afterwards in [Afterwards::Gone, Afterwards::Stays] {
                for (answer, at) in answers.iter().flat_map(|a| (0..NUMBER).map(move |n| (a, n))) {
                    let queue = FakeQueue::with((0..NUMBER).map(|n| format!("{n:02}")));
                    let mut publisher = FakePublisher::new(5, [(at, answer.clone())]);
                    let log = std::sync::Arc::clone(&publisher.log);
                    let prefetch = if leaves || afterwards == Afterwards::Stays { 40 } else { 8 };
                    let how = CarryOptions {
                        prefetch,
                        look: Some(NUMBER),
                        afterwards,
                        unflushed: 8,
                        poll: Duration::from_millis(1),
                    };
                    let mut consumer = queue.subscribe(prefetch);
                    let mut simple = Simple { leaves, taken: 0 };
                    let carried = carry(consumer.as_mut(), &mut publisher, how, &mut simple).await;
                    consumer.close().await.unwrap();
                    let left = queue.after_kill();
                    let case = format!("{answer:?} at {at}, {leaves}, {afterwards:?}: {carried:?}");
                    assert!(left.is_sorted(), "{case}");
                    assert_eq!(carried.settled, NUMBER - left.len() as u64, "{case}");
                    let gone = queue.0.lock().unwrap().acked.len() as u64;
                    let expected =
                        if afterwards == Afterwards::Stays { 0 } else { carried.confirmed };
                    assert_eq!((gone, carried.unsettled), (expected, 0), "{case}");
                    let there: BTreeSet<String> = log
                        .lock()
                        .unwrap()
                        .messages
                        .iter()
                        .map(|publish| String::from_utf8_lossy(&publish.message.body).into_owned())
                        .chain(left)
                        .collect();
                    assert_eq!(there.len() as u64, NUMBER, "{case}");
                    let went_wrong = log.lock().unwrap().messages.len() as u64 > at
                        || matches!(answer, Answer::Refuse(_)) && carried.failed > 0;
                    let wrong =
                        carried.returned + carried.nacked + carried.unknown + carried.failed;
                    assert_eq!(wrong, u64::from(went_wrong), "{case}");
                }
            }
        }
    }
}
