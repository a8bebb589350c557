//! Consuming without losing a message.
//!
//! ```text
//! consumer ── batch ──▶ sink thread: format, write, commit ──▶ ack
//! ```
//!
//! A message is settled only after the sink has committed it, so a kill at any point loses nothing;
//! what was written and not yet acked comes again. Messages that a filter does not want are never
//! settled: they are held, and go back to their place in the queue when the channel closes. They are
//! not given back one by one, because a live consumer would get them again at once. While any is held,
//! acks are sent singly: an ack of "everything up to here" would take the held ones with it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::id::QueueName;
use crate::base::time::{Clock, Timestamp};
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, Delivery, DeliveryTag, ErrorKind, QueueDepth,
    Settled, Settlement,
};
use crate::message::{FieldTable, FieldValue};

use super::filter::Filter;
use super::sink::Sink;
use super::stop::{Stop, Wish};

/// What happens to a message after it has been written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AckMode {
    /// It is acked once the sink has it for good.
    #[default]
    AfterWrite,
    /// It is not settled: it goes back to its place when the run ends.
    Never,
    /// It goes back to the queue when the run ends. The same as `Never`, because giving it back
    /// earlier would only fetch it again.
    Requeue,
    /// It is rejected once the sink has it for good: dead-lettered, or dropped without a dead-letter
    /// exchange.
    Reject,
}

/// When to refuse to hold a message because holding costs it one of its lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// The queue's delivery limit; `None` when messages live for ever.
    pub limit: Option<u64>,
    /// Refuse below so many lives; 0 never refuses, 3 is prudent.
    pub keep: u64,
}

/// How to consume.
#[derive(Clone, Debug)]
pub struct ConsumeOptions {
    /// End after so many written messages.
    pub count: Option<u64>,
    /// End when nothing has come for so long.
    pub idle: Option<Duration>,
    /// End when the queue is empty.
    pub until_empty: bool,
    /// End after so long.
    pub deadline: Option<Duration>,
    /// The verdict is no when fewer were written.
    pub expect: Option<u64>,
    /// The verdict is no when none was written.
    pub fail_empty: bool,
    /// Which messages are wanted; the others stay in the queue.
    pub filter: Option<Filter>,
    /// What happens to written messages.
    pub ack: AckMode,
    /// How many unsettled messages may be here; chosen from the rest when `None`.
    pub prefetch: Option<u16>,
    /// The queue is a stream, or holds copies for this run alone: reading takes nothing away from
    /// anybody, and acks only ask for more.
    pub is_stream: bool,
    /// Protects messages of quorum queues that have been handed out often.
    pub lives: Lives,
    /// How long `until_empty` waits for messages that the queue counts but does not hand out.
    pub patience: Duration,
    /// How long the sink may take to finish when the run ends.
    pub grace: Duration,
    /// Arguments of the subscription.
    pub arguments: FieldTable,
    /// Refuse other consumers.
    pub exclusive: bool,
    /// Subscribe again after a lost connection.
    pub reconnect: bool,
    /// Notes in each record when the message came.
    pub timed: Option<Arc<dyn Clock>>,
}

impl Default for ConsumeOptions {
    fn default() -> Self {
        ConsumeOptions {
            count: None,
            idle: None,
            until_empty: false,
            deadline: None,
            expect: None,
            fail_empty: false,
            filter: None,
            ack: AckMode::AfterWrite,
            prefetch: None,
            is_stream: false,
            lives: Lives::default(),
            patience: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            arguments: FieldTable::new(),
            exclusive: false,
            reconnect: true,
            timed: None,
        }
    }
}

/// Enough that the broker never waits for us, and little enough to go back quickly.
const USUAL_PREFETCH: u16 = 1000;
/// Held messages count against the prefetch, so there must be room for them.
const HOLDING_PREFETCH: u16 = 2000;
/// Messages handed to the sink at once.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the first message of a batch waits for company. Handing each over as it comes would cost
/// three changes of thread, a commit and an ack per message.
const COMPANY: Duration = Duration::from_millis(2);

impl ConsumeOptions {
    /// Whether written messages stay unsettled.
    fn keeps_written(&self) -> bool {
        !self.is_stream && matches!(self.ack, AckMode::Never | AckMode::Requeue)
    }

    /// How many unsettled messages to allow: never more than are needed. Refuses what cannot work.
    pub fn choose_prefetch(&self) -> Result<u16, String> {
        if self.is_stream && self.until_empty {
            return Err(
                "a stream never becomes empty; end by count, idle time or deadline".to_owned()
            );
        }
        if let Some(prefetch) = self.prefetch {
            return Ok(prefetch.max(1));
        }
        let count = self.count.unwrap_or(u64::MAX).max(1);
        if self.keeps_written() {
            return match self.count {
                None => Ok(HOLDING_PREFETCH),
                Some(_) => u16::try_from(count).map_err(|_| {
                    format!(
                        "{count} messages cannot be held at once; without acks the most is 65535"
                    )
                }),
            };
        }
        if self.filter.is_some() && !self.is_stream {
            return Ok(HOLDING_PREFETCH);
        }
        Ok(u16::try_from(count.min(u64::from(USUAL_PREFETCH))).unwrap_or(USUAL_PREFETCH))
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ConsumeEnd {
    /// As many were written as were wanted.
    Count,
    /// Nothing came for as long as was allowed.
    Idle,
    /// The queue is empty.
    Empty,
    /// The queue counts messages but handed none out for the whole patience: another consumer has the
    /// queue to itself, or the messages have expired behind one that has not.
    Stalled,
    /// The time was up.
    Deadline,
    /// Somebody asked to stop.
    Stopped,
    /// The broker ended the subscription: the queue was deleted or moved.
    Cancelled,
    /// Every place is taken by a message that is held; what lies behind them was not looked at.
    Held,
    /// A message to be held has few lives left.
    LivesAtRisk,
    /// The sink failed; what it had not committed goes back.
    SinkFailed,
    /// The broker failed.
    Failed,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumeReport {
    /// Why it ended.
    pub ended: ConsumeEnd,
    /// Messages that the sink has for good.
    pub written: u64,
    /// Of these, acked.
    pub acked: u64,
    /// Of these, rejected.
    pub rejected: u64,
    /// Messages that go back to the queue: not wanted, or written and not to be settled.
    pub held: u64,
    /// Messages for which the filter failed; they are among the held.
    pub filter_errors: u64,
    /// What the first of these failures was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_filter_error: Option<String>,
    /// Written messages that will come again, because they could not be settled.
    pub repeats_possible: u64,
    /// Written messages that the broker said it had handed out before.
    pub redelivered: u64,
    /// How often the connection was lost and made again.
    pub reconnects: u32,
    /// Bytes written.
    pub bytes: u64,
    /// How many were expected at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    /// What failed or stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reader of the output went away; nothing for the user to repair.
    pub pipe_closed: bool,
    /// The broker's part of the failure, for the exit status.
    #[serde(skip)]
    pub broker_error: Option<BrokerError>,
    /// Whether none is as bad as too few.
    #[serde(skip)]
    pub fail_empty: bool,
    /// Milliseconds from subscription to end.
    pub elapsed_ms: u64,
}

/// What a run means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ConsumeVerdict {
    /// Done: status 0.
    Done,
    /// Fewer than expected: status 2.
    TooFew,
    /// Part of the queue could not be looked at: status 3.
    Partly,
    /// The broker, the queue or the sink failed: status 69 or 1.
    Failed,
    /// Stopped by a signal after a clean end: status 130 or 143.
    Stopped,
}

impl ConsumeReport {
    /// What it means.
    pub fn verdict(&self) -> ConsumeVerdict {
        match self.ended {
            ConsumeEnd::SinkFailed
            | ConsumeEnd::Cancelled
            | ConsumeEnd::LivesAtRisk
            | ConsumeEnd::Failed => ConsumeVerdict::Failed,
            ConsumeEnd::Stopped => ConsumeVerdict::Stopped,
            _ if self.error.is_some() => ConsumeVerdict::Failed,
            _ if self.expected.is_some_and(|expected| self.written < expected)
                || (self.fail_empty && self.written == 0) =>
            {
                ConsumeVerdict::TooFew
            }
            ConsumeEnd::Held | ConsumeEnd::Stalled => ConsumeVerdict::Partly,
            _ => ConsumeVerdict::Done,
        }
    }
}

enum Work {
    /// Deliveries, and when each came, when that is wanted.
    Write(Vec<Delivery>, Vec<Timestamp>),
    Finish,
}

enum Done {
    /// So many batches more are committed; bytes written in all.
    Committed(usize, u64),
    Finished(u64),
    Failed(io::Error),
}

/// Writes what comes and says when it is committed. Runs on a thread of its own, because a pipe may
/// block for as long as its reader likes.
fn run_sink(
    mut sink: Sink,
    queue: &str,
    mut work: mpsc::Receiver<Work>,
    done: &mpsc::UnboundedSender<Done>,
) {
    let mut next = work.blocking_recv();
    while let Some(work_now) = next.take() {
        let mut batches = 0;
        let mut finish = false;
        let mut result = Ok(());
        let mut current = Some(work_now);
        // Batches that wait already share one commit.
        while let Some(work_now) = current.take() {
            match work_now {
                Work::Write(batch, times) => {
                    let mut times = times.into_iter();
                    result = batch
                        .iter()
                        .try_for_each(|delivery| sink.write_at(delivery, queue, times.next()));
                    batches += 1;
                }
                Work::Finish => finish = true,
            }
            if result.is_ok() && !finish {
                current = work.try_recv().ok();
            }
        }
        let result = match result {
            Ok(()) if finish => sink.finish(),
            Ok(()) => sink.commit(),
            Err(error) => {
                sink.undo();
                Err(error)
            }
        };
        let said = match result {
            Ok(()) if finish => {
                let _ = done.send(Done::Committed(batches, sink.bytes()));
                done.send(Done::Finished(sink.bytes()))
            }
            Ok(()) => done.send(Done::Committed(batches, sink.bytes())),
            Err(error) => {
                let _ = done.send(Done::Failed(error));
                return;
            }
        };
        if said.is_err() || finish {
            return;
        }
        next = work.blocking_recv();
    }
}

/// Tells how full the queue is.
#[derive(Clone, Copy)]
enum Gauge<'a> {
    Broker(&'a dyn Broker),
    #[cfg(test)]
    Fake(&'a super::fake::FakeQueue),
}

impl Gauge<'_> {
    async fn read(self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        match self {
            Gauge::Broker(broker) => broker.depth(queue).await,
            #[cfg(test)]
            Gauge::Fake(fake) => Ok(Some(QueueDepth { ready: fake.depth(), consumers: 1 })),
        }
    }
}

/// Takes messages from `queue` and writes them to `sink` until one of the ends is reached. `progress`
/// is called with the number of written messages after every commit.
pub async fn consume(
    broker: &dyn Broker,
    queue: &QueueName,
    options: ConsumeOptions,
    sink: Sink,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<ConsumeReport, BrokerError> {
    let attempted = || format!("consume from queue `{queue}`");
    let prefetch = options
        .choose_prefetch()
        .map_err(|why| BrokerError::new(ErrorKind::Invalid, attempted(), why))?;
    let subscription = ConsumerOptions {
        prefetch,
        exclusive: options.exclusive,
        arguments: options.arguments.clone(),
        reconnect: options.reconnect,
    };
    let consumer = broker.consumer(queue, subscription).await?;
    Ok(consume_from(consumer, broker, queue, options, prefetch, sink, stop, progress).await)
}

/// The same with a subscription that is there already, with room for `prefetch` deliveries.
#[expect(clippy::too_many_arguments, reason = "one call, made by `consume` and by `tap`")]
pub(super) async fn consume_from(
    consumer: Box<dyn Consumer>,
    broker: &dyn Broker,
    queue: &QueueName,
    options: ConsumeOptions,
    prefetch: u16,
    sink: Sink,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> ConsumeReport {
    let gauge = Gauge::Broker(broker);
    drain(consumer, gauge, queue, options, prefetch, sink, stop, progress).await
}

#[expect(clippy::too_many_arguments, reason = "one call, made by `consume` and by tests")]
async fn drain(
    consumer: Box<dyn Consumer>,
    gauge: Gauge<'_>,
    queue: &QueueName,
    options: ConsumeOptions,
    prefetch: u16,
    sink: Sink,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> ConsumeReport {
    let started = Instant::now();
    let (work, work_out) = mpsc::channel(4);
    let (done_in, done) = mpsc::unbounded_channel();
    let name = queue.as_str().to_owned();
    let spawned = std::thread::Builder::new()
        .name("consume-sink".to_owned())
        .spawn(move || run_sink(sink, &name, work_out, &done_in));
    let mut run = Run {
        consumer,
        gauge,
        queue,
        prefetch,
        work,
        done,
        batch: Vec::new(),
        batch_times: Vec::new(),
        batch_bytes: 0,
        batch_since: started,
        at_sink: VecDeque::new(),
        to_settle: VecDeque::new(),
        passed: Vec::new(),
        settled: 0,
        unflushed: 0,
        lost_with_connection: None,
        flushed_at: started,
        wanted: 0,
        held_now: 0,
        generation: 0,
        quiet_since: started,
        report: ConsumeReport {
            ended: ConsumeEnd::Failed,
            written: 0,
            acked: 0,
            rejected: 0,
            held: 0,
            filter_errors: 0,
            first_filter_error: None,
            repeats_possible: 0,
            redelivered: 0,
            reconnects: 0,
            bytes: 0,
            expected: options.expect,
            error: None,
            pipe_closed: false,
            broker_error: None,
            fail_empty: options.fail_empty,
            elapsed_ms: 0,
        },
        options,
    };
    run.report.ended = match spawned {
        Ok(_) => run.take_messages(started, stop, progress).await,
        Err(error) => {
            run.report.error = Some(format!("cannot start a thread to write the output: {error}"));
            ConsumeEnd::SinkFailed
        }
    };
    run.wind_up(stop, progress).await;
    let Run { consumer, report, .. } = run;
    tokio::select! {
        biased;
        // Everything is settled and flushed; a connection that does not close well gives the rest back too.
        _ = consumer.close() => {}
        () = stop.until(Wish::Now) => {}
    }
    let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    ConsumeReport { elapsed_ms: elapsed, ..report }
}

/// Deliveries of one batch at the sink, of one generation.
struct AtSink {
    tags: Vec<DeliveryTag>,
    redelivered: u64,
}

struct Run<'a> {
    consumer: Box<dyn Consumer>,
    gauge: Gauge<'a>,
    queue: &'a QueueName,
    options: ConsumeOptions,
    prefetch: u16,
    work: mpsc::Sender<Work>,
    done: mpsc::UnboundedReceiver<Done>,
    /// Wanted and not yet at the sink.
    batch: Vec<Delivery>,
    /// When each came, when that is wanted.
    batch_times: Vec<Timestamp>,
    batch_bytes: usize,
    /// When the first of the batch came.
    batch_since: Instant,
    at_sink: VecDeque<AtSink>,
    /// Committed and not yet settled.
    to_settle: VecDeque<DeliveryTag>,
    /// Not wanted from a stream: settled to get more.
    passed: Vec<DeliveryTag>,
    settled: u64,
    /// Settled since the broker last said that it has all settlements.
    unflushed: u64,
    /// The same of a connection that is gone; `None` when that has been accounted for.
    lost_with_connection: Option<u64>,
    /// When the broker last said so.
    flushed_at: Instant,
    /// Taken for writing, whether written yet or not.
    wanted: u64,
    /// Unsettled on this connection until the end.
    held_now: u64,
    generation: u32,
    /// Since when nothing has come and nothing is being written.
    quiet_since: Instant,
    report: ConsumeReport,
}

/// How long the second look at an empty queue comes after the first.
const SECOND_LOOK: Duration = Duration::from_millis(50);

impl Run<'_> {
    fn has_all(&self) -> bool {
        self.options.count.is_some_and(|count| self.wanted >= count)
    }

    fn batch_is_full(&self) -> bool {
        let most = usize::from(self.prefetch / 2).clamp(1, BATCH);
        self.batch.len() >= most || self.batch_bytes >= BATCH_BYTES
    }

    /// Whether another delivery may be taken: the sink must keep up.
    fn has_room(&self) -> bool {
        !(self.has_all() || self.batch_is_full() && self.at_sink.len() >= 2)
    }

    /// Whether the batch waits for company while the sink has nothing to do.
    fn is_gathering(&self) -> bool {
        !self.batch.is_empty() && self.at_sink.is_empty()
    }

    fn batch_is_ready(&self) -> bool {
        match self.batch_is_full() {
            true => self.at_sink.len() < 2,
            false => self.is_gathering() && self.batch_since.elapsed() >= COMPANY,
        }
    }

    fn is_quiet(&self) -> bool {
        self.batch.is_empty() && self.at_sink.is_empty()
    }

    /// Takes messages until there is a reason to end.
    async fn take_messages(
        &mut self,
        started: Instant,
        stop: &Stop,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> ConsumeEnd {
        let finish = stop.until(Wish::Finish);
        tokio::pin!(finish);
        let far = started + Duration::from_secs(86_400 * 365 * 30);
        let deadline = self.options.deadline.map_or(far, |deadline| started + deadline);
        let at_deadline = sleep_until(deadline);
        tokio::pin!(at_deadline);
        let mut pause = Duration::from_millis(20);
        let mut next_look = started;
        loop {
            let mut came = false;
            while self.has_room() {
                let Some(delivery) = self.consumer.ready() else { break };
                came = true;
                if let Some(end) = self.take(delivery) {
                    return end;
                }
                if self.batch_is_ready() {
                    self.hand_over().await;
                }
            }
            if came {
                pause = Duration::from_millis(20);
            }
            if let Err(end) = self.account_for_lost().await {
                return end;
            }
            if self.batch_is_ready() {
                self.hand_over().await;
            }
            if let Err(end) = self.settle_passed().await {
                return end;
            }
            if self.has_all() {
                return ConsumeEnd::Count;
            }
            let is_held = self.held_now >= u64::from(self.prefetch);
            if is_held && self.is_quiet() && !self.options.until_empty {
                return ConsumeEnd::Held;
            }
            let quiet = self.is_quiet();
            let gathering = self.is_gathering();
            let idle_at = self.options.idle.map_or(far, |idle| self.quiet_since + idle);
            tokio::select! {
                biased;
                () = &mut finish => return ConsumeEnd::Stopped,
                done = self.done.recv() => {
                    if let Err(end) = self.on_done(done, progress).await {
                        return end;
                    }
                }
                () = &mut at_deadline => return ConsumeEnd::Deadline,
                // Without asking for the next meanwhile: each one would wake us.
                () = sleep_until(self.batch_since + COMPANY), if gathering => {}
                next = self.consumer.next(), if self.has_room() && !gathering => match next {
                    Ok(delivery) => {
                        pause = Duration::from_millis(20);
                        if let Some(end) = self.take(delivery) {
                            return end;
                        }
                    }
                    Err(error) => return self.failed(error),
                },
                () = sleep_until(idle_at), if quiet && self.options.idle.is_some() => {
                    return ConsumeEnd::Idle;
                }
                () = sleep_until(next_look), if quiet && self.options.until_empty => {
                    match self.look(is_held).await {
                        Ok(Some(end)) => return end,
                        Ok(None) => {}
                        Err(error) => return self.failed(error),
                    }
                    next_look = Instant::now() + pause;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
    }

    /// Whether the queue is empty. One look is not enough: a message may be on its way to us, counted
    /// neither there nor here. So: nothing ready, then a round trip on our own channel, a short wait
    /// for what it may have pushed, and again nothing ready.
    async fn look(&mut self, is_held: bool) -> Result<Option<ConsumeEnd>, BrokerError> {
        for second in [false, true] {
            match self.gauge.read(self.queue).await {
                // A quorum queue that has lost its leader counts nothing at all, not even us.
                Ok(Some(depth)) if depth.ready > 0 || depth.consumers == 0 => {
                    let stalled = self.quiet_since.elapsed() >= self.options.patience;
                    return Ok(match is_held {
                        true => Some(ConsumeEnd::Held),
                        false => stalled.then_some(ConsumeEnd::Stalled),
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    let attempted = format!("consume from queue `{}`", self.queue);
                    let cause = "the queue is gone";
                    return Err(BrokerError::new(ErrorKind::ConsumerCancelled, attempted, cause));
                }
                Err(error) => {
                    let patient = self.quiet_since.elapsed() < self.options.patience;
                    if error.is_transient() && self.options.reconnect && patient {
                        return Ok(None);
                    }
                    return Err(error);
                }
            }
            if second {
                return Ok(Some(ConsumeEnd::Empty));
            }
            if let Err(error) = self.consumer.flush().await {
                // Acks were lost with the connection: what they were for comes again.
                if !(error.is_transient() && self.options.reconnect) {
                    return Err(error);
                }
                self.report.repeats_possible += std::mem::take(&mut self.unflushed);
                return Ok(None);
            }
            self.unflushed = 0;
            if is_held {
                continue;
            }
            match timeout(SECOND_LOOK, self.consumer.next()).await {
                Err(_) => {}
                Ok(Ok(delivery)) => return Ok(self.take(delivery)),
                Ok(Err(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    fn failed(&mut self, error: BrokerError) -> ConsumeEnd {
        let end = match error.kind {
            ErrorKind::ConsumerCancelled => ConsumeEnd::Cancelled,
            _ => ConsumeEnd::Failed,
        };
        self.report.error.get_or_insert_with(|| error.to_string());
        self.report.broker_error = Some(error);
        end
    }

    /// Decides on one delivery.
    fn take(&mut self, delivery: Delivery) -> Option<ConsumeEnd> {
        self.quiet_since = Instant::now();
        if delivery.tag.generation != self.generation {
            self.begin_generation(delivery.tag.generation);
        }
        if let Some(filter) = &self.options.filter {
            let wanted = filter.wants(&delivery, self.queue.as_str()).unwrap_or_else(|why| {
                self.report.filter_errors += 1;
                self.report.first_filter_error.get_or_insert(why);
                false
            });
            if !wanted {
                if self.options.is_stream {
                    self.passed.push(delivery.tag);
                    return None;
                }
                self.held_now += 1;
                return self.check_lives(&delivery);
            }
        }
        self.wanted += 1;
        if self.batch.is_empty() {
            self.batch_since = Instant::now();
        }
        self.batch_bytes += delivery.message.body.len();
        let end = if self.options.keeps_written() {
            self.held_now += 1;
            self.check_lives(&delivery)
        } else {
            None
        };
        self.batch_times.extend(self.options.timed.as_ref().map(|clock| clock.now()));
        self.batch.push(delivery);
        end
    }

    /// Everything unsettled from before has gone back to the queue and will come again.
    fn begin_generation(&mut self, generation: u32) {
        self.generation = generation;
        self.report.reconnects += 1;
        *self.lost_with_connection.get_or_insert(0) += std::mem::take(&mut self.unflushed);
        self.held_now = 0;
        self.passed.clear();
        self.wanted -= self.batch.len() as u64;
        self.batch.clear();
        self.batch_times.clear();
        self.batch_bytes = 0;
    }

    /// Settlements that the broker may not have taken before the connection was lost. The consumer tells
    /// of that once; from then on its answers are about the connection there is now.
    async fn account_for_lost(&mut self) -> Result<(), ConsumeEnd> {
        let Some(lost) = self.lost_with_connection.take() else { return Ok(()) };
        match self.consumer.flush().await {
            Ok(()) => Ok(()),
            Err(error) if error.is_transient() && self.options.reconnect => {
                self.report.repeats_possible += lost;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Asks the broker now and then whether it has the acks so far, so that only the last few are in
    /// doubt when the connection is lost.
    async fn flush_sometimes(&mut self) -> Result<(), ConsumeEnd> {
        const EVERY: Duration = Duration::from_secs(1);
        if self.unflushed == 0 || self.flushed_at.elapsed() < EVERY {
            return Ok(());
        }
        self.flushed_at = Instant::now();
        match self.consumer.flush().await {
            Ok(()) => {
                self.unflushed = 0;
                Ok(())
            }
            Err(error) if error.is_transient() && self.options.reconnect => {
                self.report.repeats_possible += std::mem::take(&mut self.unflushed);
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Holding a message of a quorum queue costs it a life when it goes back.
    fn check_lives(&mut self, delivery: &Delivery) -> Option<ConsumeEnd> {
        let Lives { limit: Some(limit), keep } = self.options.lives else { return None };
        // On a first delivery the header may be what a client sent, or left from another queue.
        let header = delivery.message.properties.header("x-delivery-count");
        let count = header.filter(|_| delivery.redelivered).and_then(FieldValue::as_i64);
        let used = u64::try_from(count.unwrap_or(0)).unwrap_or(0);
        let left = limit.saturating_sub(used);
        if left >= keep {
            return None;
        }
        let id = delivery.message.properties.message_id.as_deref();
        let which = id.map_or_else(String::new, |id| format!(" `{id}`"));
        self.report.error = Some(format!(
            "message{which} would be given back to queue `{}`, and has {left} of its {limit} deliveries \
             left; raise the delivery limit or consume the message",
            self.queue
        ));
        Some(ConsumeEnd::LivesAtRisk)
    }

    /// Gives the batch to the sink.
    async fn hand_over(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let times = std::mem::take(&mut self.batch_times);
        self.batch_bytes = 0;
        self.at_sink.push_back(AtSink {
            tags: batch.iter().map(|delivery| delivery.tag).collect(),
            redelivered: batch.iter().filter(|delivery| delivery.redelivered).count() as u64,
        });
        // The channel has more places than there are batches under way. A sink that is gone has said why.
        let _ = self.work.send(Work::Write(batch, times)).await;
    }

    async fn on_done(
        &mut self,
        done: Option<Done>,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<bool, ConsumeEnd> {
        self.quiet_since = Instant::now();
        match done {
            Some(Done::Committed(batches, bytes)) => {
                for batch in self.at_sink.drain(..batches.min(self.at_sink.len())) {
                    self.report.written += batch.tags.len() as u64;
                    self.report.redelivered += batch.redelivered;
                    if !self.options.keeps_written() {
                        self.to_settle.extend(batch.tags);
                    }
                }
                self.report.bytes = bytes;
                progress(self.report.written);
                self.settle(false).await?;
                if self.settles_up_to() {
                    self.flush_sometimes().await?;
                }
                Ok(false)
            }
            Some(Done::Finished(bytes)) => {
                self.report.bytes = bytes;
                Ok(true)
            }
            Some(Done::Failed(error)) => {
                self.report.pipe_closed = error.kind() == io::ErrorKind::BrokenPipe;
                self.report.error = Some(format!("cannot write the output: {error}"));
                Err(ConsumeEnd::SinkFailed)
            }
            None => {
                self.report.error.get_or_insert_with(|| "the output ended unexpectedly".to_owned());
                Err(ConsumeEnd::SinkFailed)
            }
        }
    }

    /// Whether one settlement stands for all messages before it. Single ones a quorum queue may keep
    /// back although it has answered a later request.
    fn settles_up_to(&self) -> bool {
        self.options.filter.is_none()
            && (self.options.is_stream || self.options.ack != AckMode::Reject)
    }

    /// Settles what is committed. Every settled message makes room for another, so with a count the
    /// last ones wait for the end (`all`): nothing is fetched that is not needed.
    async fn settle(&mut self, all: bool) -> Result<(), ConsumeEnd> {
        let allowed = match self.options.count {
            Some(count) if !all && self.options.filter.is_none() => {
                count.saturating_sub(u64::from(self.prefetch)).saturating_sub(self.settled)
            }
            _ => u64::MAX,
        };
        let number = self.to_settle.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
        let mut tags = self.to_settle.drain(..number).collect::<Vec<_>>().into_iter().peekable();
        let how = match self.options.ack {
            AckMode::Reject if !self.options.is_stream => Settlement::Reject,
            _ if !self.settles_up_to() => Settlement::Ack,
            _ => Settlement::AckUpTo,
        };
        let mut group = 0;
        while let Some(tag) = tags.next() {
            group += 1;
            let goes_on = tags.peek().is_some_and(|next| next.generation == tag.generation);
            if how == Settlement::AckUpTo && goes_on {
                continue;
            }
            let settled = std::mem::take(&mut group);
            self.settled += settled;
            match self.consumer.settle(tag, how).await {
                Ok(Settled::Sent) => {
                    self.unflushed += settled;
                    if how == Settlement::Reject {
                        self.report.rejected += settled;
                    } else {
                        self.report.acked += settled;
                    }
                }
                Ok(Settled::Void) => self.report.repeats_possible += settled,
                Err(error) => {
                    self.report.repeats_possible += settled + tags.count() as u64;
                    return Err(self.failed(error));
                }
            }
        }
        Ok(())
    }

    async fn settle_passed(&mut self) -> Result<(), ConsumeEnd> {
        for tag in std::mem::take(&mut self.passed) {
            if let Err(error) = self.consumer.settle(tag, Settlement::Ack).await {
                return Err(self.failed(error));
            }
        }
        Ok(())
    }

    /// Ends the flow, lets the sink finish, settles what it has committed, and lets the rest go back.
    async fn wind_up(&mut self, stop: &Stop, progress: &mut (dyn FnMut(u64) + Send)) {
        let sink_is_gone = self.report.ended == ConsumeEnd::SinkFailed;
        let broker_is_gone = self.report.ended == ConsumeEnd::Failed;
        let settles_more = !self.is_quiet() || !self.to_settle.is_empty();
        if settles_more && !broker_is_gone && self.settles_up_to() {
            // A consumer that cannot pause fetches a few more, which go back.
            let _ = self.consumer.pause().await;
        }
        if !sink_is_gone {
            self.hand_over().await;
            let _ = self.work.send(Work::Finish).await;
            let grace = tokio::time::sleep(self.options.grace);
            tokio::pin!(grace);
            loop {
                let done = tokio::select! {
                    biased;
                    done = self.done.recv() => done,
                    () = stop.until(Wish::Now) => break,
                    () = &mut grace => {
                        let waited = self.options.grace.as_secs();
                        self.report.error.get_or_insert_with(|| {
                            format!("the output took nothing for {waited} s; what it had not taken goes back")
                        });
                        self.report.ended = ConsumeEnd::SinkFailed;
                        break;
                    }
                };
                match self.on_done(done, progress).await {
                    Ok(false) => {}
                    Ok(true) => break,
                    Err(end) => {
                        self.report.ended = end;
                        if end == ConsumeEnd::SinkFailed {
                            break;
                        }
                    }
                }
            }
        }
        if let Err(end) = self.settle(true).await {
            self.report.ended = end;
        }
        self.report.held = self.held_now;
        if let Err(error) = self.consumer.flush().await {
            self.not_settled(&error);
        }
    }

    fn not_settled(&mut self, error: &BrokerError) {
        self.report.repeats_possible += std::mem::take(&mut self.unflushed);
        if !matches!(self.report.ended, ConsumeEnd::Cancelled | ConsumeEnd::Failed) {
            self.report.error.get_or_insert_with(|| {
                format!("the last acks may not have reached the broker, so messages may come again: {error}")
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::message::FieldValue;

    use super::super::fake::FakeQueue;
    use super::super::sink::{Format, Target};
    use super::*;

    /// What has reached the target, and when the target fails.
    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<SharedInner>>);

    #[derive(Default)]
    struct SharedInner {
        put: Vec<u8>,
        committed: usize,
        commits: u64,
        fail_commit: Option<u64>,
        fail_put: bool,
    }

    impl Target for Shared {
        fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            if inner.fail_put {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            inner.put.extend_from_slice(bytes);
            Ok(())
        }
        fn commit(&mut self) -> io::Result<()> {
            let mut inner = self.0.lock().unwrap();
            inner.commits += 1;
            if inner.fail_commit == Some(inner.commits) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            inner.committed = inner.put.len();
            Ok(())
        }
        fn undo(&mut self) {
            let mut inner = self.0.lock().unwrap();
            let committed = inner.committed;
            inner.put.truncate(committed);
        }
    }

    impl Shared {
        fn lines(&self) -> Vec<String> {
            let inner = self.0.lock().unwrap();
            let text = String::from_utf8(inner.put[..inner.committed].to_vec()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
        range.map(|n| n.to_string()).collect()
    }

    async fn run(queue: &FakeQueue, options: ConsumeOptions, target: &Shared) -> ConsumeReport {
        run_until(queue, options, target, &Stop::new()).await
    }

    async fn run_until(
        queue: &FakeQueue,
        options: ConsumeOptions,
        target: &Shared,
        stop: &Stop,
    ) -> ConsumeReport {
        let prefetch = options.choose_prefetch().unwrap();
        let consumer = queue.subscribe(prefetch);
        let sink = Sink::new(Format::Raw(b"\n".to_vec()), Box::new(target.clone()));
        let name = QueueName::new("q").unwrap();
        let gauge = Gauge::Fake(queue);
        let mut progress = |_| {};
        let bounded = drain(consumer, gauge, &name, options, prefetch, sink, stop, &mut progress);
        timeout(Duration::from_secs(60), bounded).await.expect("the run ends")
    }

    fn acked(queue: &FakeQueue) -> Vec<String> {
        queue.0.lock().unwrap().acked.clone()
    }

    #[tokio::test]
    async fn until_empty_writes_and_acks_everything_in_order() {
        let queue = FakeQueue::with(numbers(1..=5000));
        let target = Shared::default();
        let options = ConsumeOptions { until_empty: true, ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!((report.ended, report.verdict()), (ConsumeEnd::Empty, ConsumeVerdict::Done));
        assert_eq!((report.written, report.acked, report.held), (5000, 5000, 0));
        assert_eq!(target.lines(), numbers(1..=5000));
        assert_eq!(acked(&queue), numbers(1..=5000));
        assert!(queue.after_kill().is_empty());
    }

    #[tokio::test]
    async fn a_count_fetches_nothing_that_is_not_needed() {
        for count in [1, 2, 7, 511, 512, 513, 1000, 1300] {
            let queue = FakeQueue::with(numbers(1..=2000));
            let target = Shared::default();
            let options = ConsumeOptions { count: Some(count), ..Default::default() };
            let report = run(&queue, options, &target).await;
            assert_eq!(report.ended, ConsumeEnd::Count);
            assert_eq!((report.written, report.acked), (count, count));
            assert_eq!(target.lines(), numbers(1..=u32::try_from(count).unwrap()));
            assert_eq!(queue.0.lock().unwrap().delivered, count, "delivered with count {count}");
            assert_eq!(queue.after_kill().len() as u64, 2000 - count);
        }
    }

    #[tokio::test]
    async fn what_a_filter_does_not_want_stays_in_its_place() {
        let queue = FakeQueue::with(numbers(1..=1000));
        let target = Shared::default();
        let filter = Some(Filter::parse("body % 2 == 0").unwrap());
        let options = ConsumeOptions { until_empty: true, filter, ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!(report.ended, ConsumeEnd::Empty);
        assert_eq!((report.written, report.acked, report.held), (500, 500, 500));
        let odd: Vec<String> = (1..=1000).step_by(2).map(|n| n.to_string()).collect();
        assert_eq!(queue.after_kill(), odd);
    }

    #[tokio::test]
    async fn messages_the_filter_fails_on_stay_too() {
        let queue = FakeQueue::with(["1", "text", "2"]);
        let target = Shared::default();
        let filter = Some(Filter::parse("body > 0").unwrap());
        let options = ConsumeOptions { until_empty: true, filter, ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!((report.written, report.held, report.filter_errors), (2, 1, 1));
        assert!(report.first_filter_error.is_some());
        assert_eq!(queue.after_kill(), ["text"]);
    }

    #[tokio::test]
    async fn a_full_hold_ends_the_run_and_says_so() {
        let queue = FakeQueue::with(numbers(1..=30));
        let target = Shared::default();
        let filter = Some(Filter::parse("body > 25").unwrap());
        let options = ConsumeOptions { filter, prefetch: Some(10), ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!((report.ended, report.verdict()), (ConsumeEnd::Held, ConsumeVerdict::Partly));
        assert_eq!((report.written, report.held), (0, 10));
        assert_eq!(queue.after_kill(), numbers(1..=30));
    }

    #[tokio::test]
    async fn without_acks_everything_goes_back_in_order() {
        for ack in [AckMode::Never, AckMode::Requeue] {
            let queue = FakeQueue::with(numbers(1..=100));
            let target = Shared::default();
            let options = ConsumeOptions { ack, until_empty: true, ..Default::default() };
            let report = run(&queue, options, &target).await;
            assert_eq!((report.written, report.acked, report.held), (100, 0, 100));
            assert_eq!(target.lines(), numbers(1..=100));
            assert_eq!(queue.after_kill(), numbers(1..=100));
            assert_eq!(queue.0.lock().unwrap().delivered, 100);
        }
    }

    #[tokio::test]
    async fn rejected_messages_are_rejected_after_they_are_written() {
        let queue = FakeQueue::with(numbers(1..=10));
        let target = Shared::default();
        let options =
            ConsumeOptions { ack: AckMode::Reject, until_empty: true, ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!((report.rejected, report.acked), (10, 0));
        assert_eq!(queue.0.lock().unwrap().rejected, numbers(1..=10));
    }

    #[tokio::test]
    async fn a_sink_that_fails_at_commit_n_acks_nothing_it_has_not_committed() {
        for fail in 1..=8 {
            let queue = FakeQueue::with(numbers(1..=64));
            let target = Shared::default();
            target.0.lock().unwrap().fail_commit = Some(fail);
            let options =
                ConsumeOptions { prefetch: Some(8), until_empty: true, ..Default::default() };
            let report = run(&queue, options, &target).await;
            assert_eq!(
                (report.ended, report.verdict()),
                (ConsumeEnd::SinkFailed, ConsumeVerdict::Failed)
            );
            let written = target.lines();
            assert_eq!(acked(&queue), written);
            assert_eq!(report.written as usize, written.len());
            let all: Vec<String> = written.into_iter().chain(queue.after_kill()).collect();
            assert_eq!(all, numbers(1..=64), "failing at commit {fail}");
        }
    }

    #[tokio::test]
    async fn a_full_disk_acks_nothing() {
        let queue = FakeQueue::with(numbers(1..=10));
        let target = Shared::default();
        target.0.lock().unwrap().fail_put = true;
        let report = run(&queue, ConsumeOptions::default(), &target).await;
        assert_eq!(report.ended, ConsumeEnd::SinkFailed);
        assert!(acked(&queue).is_empty());
        assert_eq!(queue.after_kill(), numbers(1..=10));
    }

    #[tokio::test]
    async fn an_ack_that_fails_at_call_n_loses_nothing() {
        for call in 1.. {
            let queue = FakeQueue::with(numbers(1..=40));
            queue.0.lock().unwrap().fail_settlement = Some(call);
            let target = Shared::default();
            let options =
                ConsumeOptions { prefetch: Some(8), until_empty: true, ..Default::default() };
            let report = run(&queue, options, &target).await;
            if report.ended == ConsumeEnd::Empty {
                assert!(call > 2, "the work needs more than one settlement");
                return;
            }
            assert_eq!(report.ended, ConsumeEnd::Failed, "call {call}");
            let left = queue.after_kill();
            let acked = acked(&queue);
            let all: Vec<String> = acked.iter().cloned().chain(left).collect();
            assert_eq!(all, numbers(1..=40));
            assert!(acked.iter().all(|body| target.lines().contains(body)));
        }
    }

    #[tokio::test]
    async fn after_a_reconnection_repeats_are_reported_and_nothing_is_lost() {
        let queue = FakeQueue::with(numbers(1..=100));
        let target = Shared::default();
        let other = queue.clone();
        // Between a commit and its ack the connection is lost.
        let mut reconnected = false;
        let mut progress = |_| {
            if !std::mem::replace(&mut reconnected, true) {
                other.reconnect();
            }
        };
        let options =
            ConsumeOptions { prefetch: Some(10), until_empty: true, ..Default::default() };
        let sink = Sink::new(Format::Raw(b"\n".to_vec()), Box::new(target.clone()));
        let name = QueueName::new("q").unwrap();
        let consumer = queue.subscribe(10);
        let stop = Stop::new();
        let report =
            drain(consumer, Gauge::Fake(&queue), &name, options, 10, sink, &stop, &mut progress)
                .await;
        assert_eq!((report.ended, report.reconnects), (ConsumeEnd::Empty, 1));
        assert!(report.repeats_possible > 0);
        assert!(queue.after_kill().is_empty());
        let mut lines = target.lines();
        assert_eq!(lines.len() as u64, report.written);
        lines.sort_by_key(|line| line.parse::<u32>().unwrap());
        lines.dedup();
        assert_eq!(lines, numbers(1..=100));
    }

    #[tokio::test]
    async fn idle_and_deadline_end_a_run_that_waits() {
        let target = Shared::default();
        let queue = FakeQueue::with(["a"]);
        let options =
            ConsumeOptions { idle: Some(Duration::from_millis(100)), ..Default::default() };
        let report = run(&queue, options, &target).await;
        assert_eq!((report.ended, report.written), (ConsumeEnd::Idle, 1));
        assert!(report.elapsed_ms >= 100, "{}", report.elapsed_ms);

        // Somebody keeps it from being idle.
        let queue = FakeQueue::with(["a"]);
        let other = queue.clone();
        let feeding = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                other.add("more");
            }
        });
        let options = ConsumeOptions {
            deadline: Some(Duration::from_millis(300)),
            idle: Some(Duration::from_secs(30)),
            expect: Some(1_000_000),
            ..Default::default()
        };
        let report = run(&queue, options, &target).await;
        feeding.abort();
        assert_eq!(report.ended, ConsumeEnd::Deadline);
        assert!(report.written > 1 && report.written == report.acked, "{report:?}");
        assert_eq!(report.verdict(), ConsumeVerdict::TooFew);
    }

    #[tokio::test]
    async fn a_stop_settles_what_is_written_and_gives_the_rest_back() {
        let queue = FakeQueue::with(numbers(1..=3));
        let target = Shared::default();
        let stop = Stop::new();
        let asker = stop.clone();
        let watched = target.clone();
        tokio::spawn(async move {
            while watched.lines().len() < 3 {
                tokio::task::yield_now().await;
            }
            asker.ask(Wish::Finish);
        });
        let report = run_until(&queue, ConsumeOptions::default(), &target, &stop).await;
        assert_eq!(
            (report.ended, report.verdict()),
            (ConsumeEnd::Stopped, ConsumeVerdict::Stopped)
        );
        assert_eq!((report.written, report.acked), (3, 3));
        assert!(queue.after_kill().is_empty());
    }

    #[tokio::test]
    async fn a_deleted_queue_is_an_error() {
        let queue = FakeQueue::with(["a"]);
        queue.cancel();
        let report = run(&queue, ConsumeOptions::default(), &Shared::default()).await;
        assert_eq!(
            (report.ended, report.verdict()),
            (ConsumeEnd::Cancelled, ConsumeVerdict::Failed)
        );
        assert_eq!(report.written, 1);
    }

    #[tokio::test]
    async fn a_message_with_few_lives_is_not_held_again_and_again() {
        let queue = FakeQueue::with(["1", "2", "3"]);
        {
            let mut inner = queue.0.lock().unwrap();
            inner.ready[1].redelivered = true;
            let count = FieldValue::Int64(18);
            inner.ready[1].message.properties.headers_mut().insert("x-delivery-count", count);
        }
        let filter = Some(Filter::parse("body == 3").unwrap());
        let lives = Lives { limit: Some(20), keep: 3 };
        let options = ConsumeOptions { until_empty: true, filter, lives, ..Default::default() };
        let report = run(&queue, options.clone(), &Shared::default()).await;
        assert_eq!(report.ended, ConsumeEnd::LivesAtRisk);
        assert!(report.error.unwrap().contains("has 2 of its 20 deliveries left"));
        let lives = Lives { keep: 0, ..lives };
        let report = run(&queue, ConsumeOptions { lives, ..options }, &Shared::default()).await;
        assert_eq!((report.ended, report.written), (ConsumeEnd::Empty, 1));
    }

    #[tokio::test]
    async fn an_empty_queue_is_found_empty_at_once() {
        let queue = FakeQueue::default();
        let options = ConsumeOptions { until_empty: true, fail_empty: true, ..Default::default() };
        let report = run(&queue, options, &Shared::default()).await;
        assert_eq!((report.ended, report.verdict()), (ConsumeEnd::Empty, ConsumeVerdict::TooFew));
        assert!(report.elapsed_ms < 5000);
    }

    #[test]
    fn the_prefetch_is_what_is_needed_and_no_more() {
        let prefetch = |options: ConsumeOptions| options.choose_prefetch();
        let plain = ConsumeOptions::default;
        assert_eq!(prefetch(plain()), Ok(1000));
        assert_eq!(prefetch(ConsumeOptions { count: Some(1), ..plain() }), Ok(1));
        assert_eq!(prefetch(ConsumeOptions { count: Some(9999), ..plain() }), Ok(1000));
        let never = ConsumeOptions { ack: AckMode::Never, ..plain() };
        assert_eq!(prefetch(ConsumeOptions { count: Some(9999), ..never.clone() }), Ok(9999));
        assert!(prefetch(ConsumeOptions { count: Some(99_999), ..never }).is_err());
        let filter = Some(Filter::parse("true").unwrap());
        assert_eq!(prefetch(ConsumeOptions { count: Some(1), filter, ..plain() }), Ok(2000));
        assert!(
            prefetch(ConsumeOptions { is_stream: true, until_empty: true, ..plain() }).is_err()
        );
    }
}
