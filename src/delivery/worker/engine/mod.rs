//! The run: one task that owns the subscription and knows of every message here where it stands.
//!
//! ```text
//! consumer ─▶ reorder ─▶ lane ─▶ claim ─▶ leave ─▶ handler ─▶ results out ─▶ remembered ─▶ ack
//!                          ▲                          │ failed
//!                          └── wait, in its place ◀───┼─▶ copy in a delay queue ─▶ ack
//!                                                     └─▶ dead letter ──────────▶ ack
//! ```
//!
//! A message is acked when everything that takes its place is confirmed or on the disk, and not before.
//! Whatever is here when the run ends was not acked and goes back.

mod admission;
mod outcome;
mod works;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::broker::{Broker, BrokerError, Consumer, ErrorKind, QueueDepth, Settled, Settlement};
use crate::delivery::stop::{Stop, Wish};
use crate::delivery::worker::desk::{Claim, Desk, News};
use crate::delivery::worker::handler::{Answer, Ending, Handler};
use crate::delivery::worker::lanes::{JobId, Lanes};
use crate::delivery::worker::outbox::{Outbox, Parcel, Posted};
use crate::delivery::worker::report::{Fate, WorkEnd, WorkReport};
use crate::delivery::worker::scribe::{Scribe, Written};
use crate::delivery::worker::settle::Unsettled;
use crate::delivery::worker::{WorkOptions, Worker};
use crate::resilience::circuit::Permit;
use crate::resilience::reorder::{Feed, Release, ReorderBuffer};
use crate::resilience::retry::RetryBudget;
use crate::resilience::store::Ending as CircuitEnding;

use works::{Stage, Works};

/// So many messages in a quick handler are a crowd.
const CROWD: usize = 16;
/// How long to wait for more of them.
const COMPANY: Duration = Duration::from_millis(1);
/// How long the second look at an empty queue comes after the first.
const SECOND_LOOK: Duration = Duration::from_millis(50);
/// How long a claim of another is left alone before it is asked for again.
const CLAIM_AGAIN: Duration = Duration::from_millis(500);
/// Messages whose claim may be asked for before the handler has room for them.
const CLAIMED_AHEAD: usize = 64;
/// Answered and then lost: so many are remembered.
const REMEMBERED: usize = 65_536;

pub(in crate::delivery::worker) struct Engine<'a> {
    pub broker: &'a dyn Broker,
    pub queue: &'a QueueName,
    pub options: WorkOptions,
    pub worker: Worker,
    pub consumer: Box<dyn Consumer>,
    pub report: WorkReport,
    desk: Desk,
    scribe: Option<Scribe>,
    outbox: Outbox<'a>,
    works: Works,
    lanes: Lanes,
    reorder: Option<ReorderBuffer<JobId>>,
    unsettled: Unsettled,
    budget: Option<RetryBudget>,
    /// First of their lane, not yet asked for.
    runnable: VecDeque<JobId>,
    /// May begin as far as their key goes.
    ready: VecDeque<JobId>,
    delayed: BinaryHeap<Reverse<(Instant, JobId)>>,
    /// Leave that was given and not used.
    passes: VecDeque<Option<Permit>>,
    ask_again: Option<Instant>,
    /// Why messages wait that could run.
    held_back: Option<String>,
    next_start: Option<Instant>,
    running: usize,
    generation: u32,
    /// Done, but the broker could not be told; by what they are.
    done_unacked: HashMap<u64, u32>,
    to_book: Vec<JobId>,
    claims_to_release: Vec<Claim>,
    began: Instant,
    quiet_since: Instant,
    answers: Vec<(JobId, Answer)>,
    posted: Vec<(Parcel, Posted)>,
    released: Vec<Release<JobId>>,
    stalled_since: Option<Instant>,
}

impl<'a> Engine<'a> {
    pub(in crate::delivery::worker) async fn new(
        broker: &'a dyn Broker,
        queue: &'a QueueName,
        consumer: Box<dyn Consumer>,
        mut options: WorkOptions,
        mut worker: Worker,
    ) -> Result<Engine<'a>, String> {
        let clock = Arc::clone(&worker.clock);
        let desk = Desk::open(std::mem::take(&mut options.sharing), Arc::clone(&clock))
            .await
            .map_err(|error| error.to_string())?;
        let scribe = match worker.output.take() {
            Some(target) => Some(Scribe::start(target).map_err(|error| error.to_string())?),
            None => None,
        };
        let reorder = match options.reorder {
            Some(settings) => {
                let feed = Feed {
                    prefetch: usize::from(options.prefetch),
                    consumer_timeout: options.consumer_timeout,
                };
                Some(ReorderBuffer::new(settings, feed).map_err(|found| {
                    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
                })?)
            }
            None => None,
        };
        let now = Instant::now();
        Ok(Engine {
            broker,
            queue,
            budget: options.budget.map(|settings| RetryBudget::new(settings, clock.now())),
            options,
            worker,
            consumer,
            report: WorkReport::new(),
            desk,
            scribe,
            outbox: Outbox::new(broker),
            works: Works::default(),
            lanes: Lanes::default(),
            reorder,
            unsettled: Unsettled::default(),
            runnable: VecDeque::new(),
            ready: VecDeque::new(),
            delayed: BinaryHeap::new(),
            passes: VecDeque::new(),
            ask_again: None,
            held_back: None,
            next_start: None,
            running: 0,
            generation: 0,
            done_unacked: HashMap::new(),
            to_book: Vec::new(),
            claims_to_release: Vec::new(),
            began: now,
            quiet_since: now,
            answers: Vec::new(),
            posted: Vec::new(),
            released: Vec::new(),
            stalled_since: None,
        })
    }

    fn now(&self) -> Timestamp {
        self.worker.clock.now()
    }

    fn dice(&mut self) -> u64 {
        self.worker.random.u64(..)
    }

    fn has_all(&self) -> bool {
        let under_way = self.report.finished() + self.works.count as u64;
        self.options.count.is_some_and(|count| under_way >= count)
    }

    /// Runs to the end.
    pub(in crate::delivery::worker) async fn run(
        &mut self,
        handler: &mut dyn Handler,
        stop: &Stop,
        progress: &mut (dyn FnMut(&WorkReport, usize) + Send),
    ) {
        let far = self.began + Duration::from_secs(86_400 * 365 * 30);
        let deadline = self.options.deadline.map_or(far, |limit| self.began + limit);
        let mut next_look = self.began;
        let mut pause = Duration::from_millis(20);
        let mut ending: Option<(WorkEnd, Instant)> = None;
        let (finish, kill) = (stop.until(Wish::Finish), stop.until(Wish::Now));
        tokio::pin!(finish, kill);
        let mut ends = None;
        let mut was_at = (0, 0, 0);
        loop {
            while ending.is_none() && !self.has_all() {
                let Some(delivery) = self.consumer.ready() else { break };
                pause = Duration::from_millis(20);
                self.take(delivery);
            }
            if let Err(end) = self.advance(handler, ending.is_none()).await {
                ends.get_or_insert(end);
            }
            progress(&self.report, self.running);
            if ends.is_none() && self.has_all() && self.works.count == 0 {
                ends = Some(WorkEnd::Count);
            }
            if let Some(end) = ends.take()
                && ending.is_none()
            {
                ending = Some((end, Instant::now() + self.options.grace));
                // What it had fetched goes back when it closes.
                let _ = self.consumer.pause().await;
                if end == WorkEnd::Handler {
                    handler.end(Ending::Kill).await;
                    self.running = 0;
                }
                self.give_back(end == WorkEnd::Handler);
                continue;
            }
            if let Some((end, until)) = ending
                && (self.is_quiet() || Instant::now() >= until || stop.wish() == Wish::Now)
            {
                self.report.ended = end;
                break;
            }
            let is_idle = self.works.count == 0 && ending.is_none();
            if !is_idle {
                self.quiet_since = Instant::now();
            }
            let idle_at = self.options.idle.map_or(far, |idle| self.quiet_since + idle);
            let wake_at = self.wake_at().unwrap_or(far);
            let dice = self.dice();
            // With many under way and something new in every turn, the next is here soon, and each
            // alone would cost as much as all of a moment together.
            let now_at = (self.report.received, self.report.attempts, self.report.finished());
            let has_moved = std::mem::replace(&mut was_at, now_at) != now_at;
            if has_moved && self.running >= CROWD && handler.is_quick() && ending.is_none() {
                tokio::select! {
                    () = &mut finish => ends = Some(WorkEnd::Stopped),
                    () = sleep_until(deadline) => ends = Some(WorkEnd::Deadline),
                    () = tokio::time::sleep(COMPANY) => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                () = &mut kill, if stop.wish() != Wish::Now || ending.is_none() => {
                    ends = Some(WorkEnd::Stopped);
                    if ending.is_some() { continue }
                }
                () = &mut finish, if ending.is_none() => ends = Some(WorkEnd::Stopped),
                result = handler.answers(&mut self.answers), if self.running > 0 => {
                    if let Err(error) = result {
                        ends = Some(self.report.handler_failed(&error));
                    }
                }
                result = self.outbox.next(dice, &mut self.posted) => {
                    if let Err(error) = result {
                        ends = Some(self.failed(error));
                    }
                }
                news = self.desk.next() => {
                    if let Err(end) = self.hear(news) {
                        ends = Some(end);
                    }
                }
                written = next_written(&mut self.scribe) => {
                    if let Err(end) = self.written(written) {
                        ends = Some(end);
                    }
                }
                () = sleep_until(deadline), if ending.is_none() => ends = Some(WorkEnd::Deadline),
                () = sleep_until(ending.map_or(far, |(_, until)| until)) => {}
                () = sleep_until(wake_at) => {}
                next = self.consumer.next(), if ending.is_none() && !self.has_all() => match next {
                    Ok(delivery) => {
                        pause = Duration::from_millis(20);
                        self.take(delivery);
                    }
                    Err(error) => ends = Some(self.failed(error)),
                },
                () = sleep_until(idle_at), if is_idle && self.options.idle.is_some() => {
                    ends = Some(WorkEnd::Idle);
                }
                () = sleep_until(next_look), if is_idle && self.options.until_empty => {
                    match self.look().await {
                        Ok(end) => ends = end,
                        Err(error) => ends = Some(self.failed(error)),
                    }
                    next_look = Instant::now() + pause;
                    pause = (pause * 2).min(Duration::from_millis(500));
                }
            }
        }
        self.wind_up(handler, stop).await;
    }

    /// When something has to be done although nothing comes.
    fn wake_at(&self) -> Option<Instant> {
        let delayed = self.delayed.peek().map(|Reverse((at, _))| *at);
        let may_start = !self.ready.is_empty();
        let gap = self
            .reorder
            .as_ref()
            .and_then(ReorderBuffer::next_deadline)
            .map(|at| Instant::now() + at.since(self.now()).max(Duration::from_millis(1)));
        let starts = [self.ask_again, self.next_start].into_iter().flatten().filter(|_| may_start);
        starts.chain(delayed).chain(gap).min()
    }

    /// Whether everything that was begun is finished.
    fn is_quiet(&self) -> bool {
        let writes = self.scribe.as_ref().is_some_and(|scribe| scribe.open > 0);
        self.running == 0
            && self.outbox.is_empty()
            && !writes
            && !self.desk.booking
            && self.to_book.is_empty()
    }

    /// Whether the queue is empty: asked twice, with a round trip between, because a message may be on
    /// its way to us and counted nowhere.
    async fn look(&mut self) -> Result<Option<WorkEnd>, BrokerError> {
        for second in [false, true] {
            let depth = tokio::select! {
                biased;
                // Also what connects it again.
                delivery = self.consumer.next() => {
                    self.take(delivery?);
                    return Ok(None);
                }
                depth = self.broker.depth(self.queue) => depth,
            };
            match depth {
                // A queue that does not know of us cannot be asked: its leader is lost.
                Ok(Some(QueueDepth { ready: 0, consumers: 1.. })) if second => {
                    return Ok(Some(WorkEnd::Empty));
                }
                Ok(Some(QueueDepth { ready: 0, consumers: 1.. })) => {}
                Ok(Some(_)) => {
                    // They may be another's alone.
                    let since = *self.stalled_since.get_or_insert_with(Instant::now);
                    return Ok((since.elapsed() >= self.options.patience).then_some(WorkEnd::Idle));
                }
                Ok(None) => {
                    let attempted = format!("work on queue `{}`", self.queue);
                    let cause = "the queue is gone";
                    return Err(BrokerError::new(ErrorKind::ConsumerCancelled, attempted, cause));
                }
                Err(error) if error.is_transient() && self.options.reconnect => return Ok(None),
                Err(error) => return Err(error),
            }
            match self.consumer.flush().await {
                Err(error) if !(error.is_transient() && self.options.reconnect) => {
                    return Err(error);
                }
                _ => {}
            }
            match tokio::time::timeout(SECOND_LOOK, self.consumer.next()).await {
                Err(_) => {}
                Ok(delivery) => {
                    self.take(delivery?);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn failed(&mut self, error: BrokerError) -> WorkEnd {
        let end = match error.kind {
            ErrorKind::ConsumerCancelled => WorkEnd::Cancelled,
            _ => WorkEnd::Failed,
        };
        self.report.error.get_or_insert_with(|| error.to_string());
        self.report.broker_error.get_or_insert(error);
        end
    }

    /// Everything that can be done without waiting.
    async fn advance(&mut self, handler: &mut dyn Handler, may_start: bool) -> Result<(), WorkEnd> {
        self.take_answers(handler)?;
        while let Some(news) = self.desk.ready() {
            self.hear(news)?;
        }
        let dice = self.dice();
        if let Err(error) = self.outbox.ready(dice, &mut self.posted) {
            return Err(self.failed(error));
        }
        let mut ends = Ok(());
        for (parcel, posted) in std::mem::take(&mut self.posted) {
            ends = ends.and(self.delivered(&parcel, posted));
        }
        ends?;
        if may_start {
            let now = self.now();
            if let Some(buffer) = &mut self.reorder {
                buffer.expire(now, &mut self.released);
                self.let_out();
            }
            self.wake_delayed();
            // Whoever waited for what ends here begins in this turn, because nothing else may come that
            // would begin another: a handler that answers at once, a repetition that is known, an
            // envelope that is refused.
            loop {
                let here = self.works.count;
                self.ask();
                self.start(handler)?;
                handler.push();
                if !self.take_answers(handler)? && self.works.count == here {
                    break;
                }
            }
        }
        self.book();
        if let Err(error) = self.outbox.send(dice).await {
            return Err(self.failed(error));
        }
        self.settle().await
    }

    /// Deals with the answers that are here; whether there were any. One that ends the run takes none
    /// of the others with it.
    fn take_answers(&mut self, handler: &mut dyn Handler) -> Result<bool, WorkEnd> {
        let result = handler.ready(&mut self.answers);
        let answers = std::mem::take(&mut self.answers);
        let any = !answers.is_empty();
        let mut ends = Ok(any);
        for (id, answer) in answers {
            ends = self.answered(id, answer).and(ends);
        }
        if let Err(error) = result {
            return Err(self.report.handler_failed(&error));
        }
        ends
    }

    /// Tells the broker what is done.
    async fn settle(&mut self) -> Result<(), WorkEnd> {
        if !self.claims_to_release.is_empty() {
            let claims = std::mem::take(&mut self.claims_to_release);
            self.desk.release(claims);
        }
        let rejections = std::mem::take(&mut self.worker.rejections);
        let (acks, count) = self.unsettled.acks();
        let rejections = rejections.into_iter().map(|tag| (tag, Settlement::Reject));
        let mut told = 0;
        for (tag, how) in acks.into_iter().chain(rejections) {
            match self.consumer.settle(tag, how).await {
                Ok(Settled::Sent) => told += 1,
                Ok(Settled::Void) => {
                    self.report.repeats_possible += count.saturating_sub(told);
                    return Ok(());
                }
                Err(error) if error.is_transient() && self.options.reconnect => {
                    self.report.repeats_possible += count.saturating_sub(told);
                    return Ok(());
                }
                Err(error) => {
                    self.report.repeats_possible += count.saturating_sub(told);
                    return Err(self.failed(error));
                }
            }
        }
        Ok(())
    }

    /// What has not begun goes back; with `all`, what runs as well.
    fn give_back(&mut self, all: bool) {
        if let Some(buffer) = &mut self.reorder {
            buffer.take_held();
        }
        let back: Vec<JobId> = self
            .works
            .iter()
            .filter(|(_, work)| match work.stage {
                Stage::Waiting | Stage::Claiming | Stage::Ready | Stage::Delayed => true,
                Stage::Running => all,
                Stage::Posting(..) | Stage::Booking => false,
            })
            .map(|(id, _)| id)
            .collect();
        for id in back {
            self.finish(id, Fate::Returned);
        }
        self.runnable.clear();
        self.ready.clear();
        self.delayed.clear();
    }

    /// Ends everything: nothing is left running, nothing unsaid.
    async fn wind_up(&mut self, handler: &mut dyn Handler, stop: &Stop) {
        let how = if self.running > 0 { Ending::Kill } else { Ending::Idle };
        handler.end(how).await;
        let left: Vec<JobId> = self.works.iter().map(|(id, _)| id).collect();
        for id in left {
            self.finish(id, Fate::Returned);
        }
        for permit in std::mem::take(&mut self.passes) {
            self.tell_circuit(permit, CircuitEnding::Abandoned);
        }
        let grace = self.options.grace;
        let farewell = async {
            let _ = self.settle().await;
            while self.desk.is_busy() {
                if let News::Failed(_) = self.desk.next().await {
                    break;
                }
            }
            self.outbox.close().await;
        };
        tokio::select! {
            () = farewell => {}
            () = stop.until(Wish::Now) => {}
            () = tokio::time::sleep(grace) => {}
        }
        if let Some(journal) = &mut self.worker.journal
            && let Err(error) = journal.flush()
        {
            tracing::warn!(%error, "the report of messages cannot be written any more");
        }
        let elapsed = self.began.elapsed().as_millis();
        self.report.elapsed_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
    }
}

async fn next_written(scribe: &mut Option<Scribe>) -> Written {
    match scribe {
        Some(scribe) => scribe.next().await,
        None => std::future::pending().await,
    }
}
