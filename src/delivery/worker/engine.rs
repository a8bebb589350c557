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

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::base::id::{QueueName, RoutingKey};
use crate::base::time::{HumanDuration, Timestamp};
use crate::broker::{
    Broker, BrokerError, Consumer, DIRECT_REPLY_TO, Delivery, ErrorKind, Publish, QueueDepth,
    Settled, Settlement,
};
use crate::delivery::stop::{Stop, Wish};
use crate::message::{Envelope, FieldValue, Message};
use crate::resilience::circuit::Permit;
use crate::resilience::classification::Class;
use crate::resilience::dedup::NotClaimed;
use crate::resilience::reorder::{Feed, Release, ReorderBuffer};
use crate::resilience::retry::{Attempt, Decision, RetryBudget};
use crate::resilience::store::{Ended, Ending as CircuitEnding};

use super::desk::{Booking, Claim, Desk, News};
use super::handler::{Answer, Ending, Fault, Handler, Job, Output};
use super::lanes::{JobId, LaneKey, Lanes};
use super::letter::attempts_before;
use super::outbox::{Outbox, Parcel, Posted, Purpose};
use super::report::{Fate, WorkEnd, WorkReport, write_entry};
use super::scribe::{Scribe, Written};
use super::settle::Unsettled;
use super::{DeadLetters, Order, ResultTo, WorkOptions, Worker};

/// Where a message stands.
#[derive(Debug)]
enum Stage {
    /// Held until those before it in its sequence have come, or until its lane is free.
    Waiting,
    /// Asked for its key.
    Claiming,
    /// Ready to begin.
    Ready,
    /// In the handler.
    Running,
    /// Waits for its next attempt or claim.
    Delayed,
    /// Results, copies or dead letters are on their way: so many, then this.
    Posting(u8, Fate),
    /// Being remembered.
    Booking,
}

/// A message that is here.
#[derive(Debug)]
struct Work {
    delivery: Arc<Delivery>,
    lane: Option<LaneKey>,
    number: Option<(String, u64)>,
    stage: Stage,
    /// The attempt under way, or the next one; from 1.
    attempt: u32,
    began: Option<Timestamp>,
    alone: bool,
    claim: Option<Claim>,
    permit: Option<Permit>,
    fault: Option<Fault>,
    /// The connection it came by is lost: it comes again.
    void: bool,
}

/// All messages that are here, by number.
#[derive(Debug, Default)]
struct Works {
    first: u64,
    works: VecDeque<Option<Work>>,
    count: usize,
}

impl Works {
    fn add(&mut self, work: Work) -> JobId {
        self.works.push_back(Some(work));
        self.count += 1;
        JobId(self.first + self.works.len() as u64 - 1)
    }

    fn at(&mut self, id: JobId) -> Option<&mut Option<Work>> {
        self.works.get_mut(usize::try_from(id.0.checked_sub(self.first)?).ok()?)
    }

    fn get(&mut self, id: JobId) -> Option<&mut Work> {
        self.at(id)?.as_mut()
    }

    fn take(&mut self, id: JobId) -> Option<Work> {
        let work = self.at(id)?.take()?;
        self.count -= 1;
        while self.works.front().is_some_and(Option::is_none) {
            self.works.pop_front();
            self.first += 1;
        }
        Some(work)
    }

    fn iter(&mut self) -> impl Iterator<Item = (JobId, &mut Work)> {
        let first = self.first;
        self.works
            .iter_mut()
            .enumerate()
            .filter_map(move |(at, work)| Some((JobId(first + at as u64), work.as_mut()?)))
    }
}

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

pub(super) struct Engine<'a> {
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

fn identity(message: &Message, delivery: &Delivery) -> Option<u64> {
    let id = message.properties.message_id.as_ref()?;
    let mut hasher = DefaultHasher::new();
    (id, delivery.exchange.as_str(), delivery.routing_key.as_str()).hash(&mut hasher);
    message.body.hash(&mut hasher);
    Some(hasher.finish())
}

impl<'a> Engine<'a> {
    pub(super) async fn new(
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
    pub(super) async fn run(
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

    /// Takes one delivery in.
    fn take(&mut self, delivery: Delivery) {
        self.stalled_since = None;
        if delivery.tag.generation != self.generation {
            self.begin_generation(delivery.tag.generation);
        }
        self.report.received += 1;
        self.report.redelivered += u64::from(delivery.redelivered);
        self.unsettled.arrive(delivery.tag);
        let properties = &delivery.message.properties;
        let (made, began) = attempts_before(properties);
        let workflow = properties.header("x-nexus-workflow").and_then(FieldValue::as_text);
        let number = properties.header("x-nexus-sequence").and_then(FieldValue::as_i64);
        let number = number.and_then(|number| u64::try_from(number).ok());
        let bytes = delivery.message.body.len();
        let number = workflow.map(str::to_owned).zip(number);
        let lane = match &self.options.order {
            Order::None => None,
            Order::Strict => Some("".into()),
            Order::Workflow => workflow.map(LaneKey::from),
            Order::Key(key) => {
                key.of(&delivery, self.queue.as_str()).ok().flatten().map(LaneKey::from)
            }
        };
        // Without a lane, one that comes again could run beside its first delivery.
        let lane = lane.or_else(|| {
            let again = delivery.redelivered && self.generation > 0;
            let key = again.then(|| identity(&delivery.message, &delivery)).flatten()?;
            Some(format!("again {key}").into())
        });
        let id = self.works.add(Work {
            delivery: Arc::new(delivery),
            lane,
            number: number.clone(),
            stage: Stage::Waiting,
            attempt: made + 1,
            began,
            alone: false,
            claim: None,
            permit: None,
            fault: None,
            void: false,
        });
        let now = self.now();
        match (&mut self.reorder, number) {
            (Some(buffer), Some((workflow, number))) => {
                buffer.push(&workflow, number, id, bytes, now, &mut self.released);
                self.let_out();
            }
            _ => self.join(id),
        }
    }

    /// Does what the reorder buffer has decided.
    fn let_out(&mut self) {
        for release in std::mem::take(&mut self.released) {
            match release {
                Release::InOrder(id) | Release::Late(id) | Release::Duplicate(id) => self.join(id),
                // It was the last to come, so it waits where it is, for the next place.
                Release::NoRoom(id) => self.join(id),
                Release::Parked { item, missing } => {
                    let fault = Fault {
                        class: Class::Poison,
                        code: "gap".to_owned(),
                        reason: format!(
                            "the messages {} to {} of its workflow did not come in time",
                            missing.start(),
                            missing.end()
                        ),
                        asked_to_wait: None,
                    };
                    self.bury(item, fault);
                }
                Release::GapReleased { workflow, missing, .. }
                | Release::GapParked { workflow, missing, .. } => {
                    self.report.gaps += 1;
                    tracing::warn!(
                        workflow = &*workflow,
                        from = missing.start(),
                        to = missing.end(),
                        "a gap did not close in time"
                    );
                }
                Release::Forgotten { workflow, next } => {
                    tracing::warn!(workflow = &*workflow, next, "too many workflows at once");
                }
            }
        }
    }

    /// Puts a message into its lane.
    fn join(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        let is_first = match &work.lane {
            None => true,
            Some(lane) => self.lanes.join(lane, id),
        };
        if is_first {
            self.runnable.push_back(id);
        }
    }

    /// The connection was lost: what has not begun comes again; what runs goes on.
    fn begin_generation(&mut self, generation: u32) {
        tracing::warn!(queue = %self.queue, "connected again after the connection was lost");
        self.generation = generation;
        self.report.reconnects += 1;
        if let Some(buffer) = &mut self.reorder {
            buffer.take_held();
        }
        let mut not_begun = Vec::new();
        let mut to_join = Vec::new();
        for (id, work) in self.works.iter() {
            if std::mem::replace(&mut work.void, true) {
                continue;
            }
            match work.stage {
                Stage::Running | Stage::Posting(..) | Stage::Booking | Stage::Claiming => {
                    if work.lane.is_none()
                        && let Some(key) = identity(&work.delivery.message, &work.delivery)
                    {
                        let lane: LaneKey = format!("again {key}").into();
                        work.lane = Some(Arc::clone(&lane));
                        to_join.push((lane, id));
                    }
                }
                _ => not_begun.push(id),
            }
        }
        for (lane, id) in to_join {
            self.lanes.join(&lane, id);
        }
        for id in not_begun {
            self.finish(id, Fate::Void);
        }
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

    fn wake_delayed(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.delayed.peek().copied()
            && at <= now
        {
            self.delayed.pop();
            let Some(work) = self.works.get(id) else { continue };
            match work.claim {
                None if self.desk.claims() => self.runnable.push_back(id),
                _ => {
                    work.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
            }
        }
    }

    /// Asks for what messages need before they may begin.
    fn ask(&mut self) {
        if self.desk.claims() {
            if self.desk.claiming || self.ready.len() > CLAIMED_AHEAD {
                return;
            }
            let mut jobs = Vec::new();
            while let Some(id) = self.runnable.pop_front() {
                let Some(work) = self.works.get(id) else { continue };
                let key = match &self.options.dedup_key {
                    Some(key) => key.of(&work.delivery, self.queue.as_str()).ok().flatten(),
                    None => work.delivery.message.properties.message_id.clone(),
                };
                match key {
                    Some(key) => {
                        work.stage = Stage::Claiming;
                        jobs.push((id, key));
                    }
                    // Nothing to tell it by.
                    None => {
                        work.stage = Stage::Ready;
                        self.ready.push_back(id);
                    }
                }
            }
            if !jobs.is_empty() {
                self.desk.claim(jobs);
            }
        } else {
            while let Some(id) = self.runnable.pop_front() {
                if let Some(work) = self.works.get(id) {
                    work.stage = Stage::Ready;
                    self.ready.push_back(id);
                }
            }
        }
    }

    /// Begins as many as there is room and leave for.
    fn start(&mut self, handler: &mut dyn Handler) -> Result<(), WorkEnd> {
        while !self.ready.is_empty() {
            let room = handler.room();
            if room == 0 {
                break;
            }
            if self.desk.admits() && self.passes.is_empty() {
                let now = Instant::now();
                if !self.desk.admitting && self.ask_again.is_none_or(|again| again <= now) {
                    self.ask_again = None;
                    let most = room.min(self.ready.len());
                    self.desk.admit(u32::try_from(most).unwrap_or(u32::MAX));
                }
                break;
            }
            if self.next_start.is_some_and(|at| at > Instant::now()) {
                break;
            }
            let Some(id) = self.ready.pop_front() else { break };
            self.begin(id, handler)?;
        }
        Ok(())
    }

    fn begin(&mut self, id: JobId, handler: &mut dyn Handler) -> Result<(), WorkEnd> {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if !self.done_unacked.is_empty()
            && work.delivery.redelivered
            && let Some(key) = identity(&work.delivery.message, &work.delivery)
            && let Some(count) = self.done_unacked.get_mut(&key)
        {
            *count -= 1;
            if *count == 0 {
                self.done_unacked.remove(&key);
            }
            self.finish(id, Fate::Duplicate);
            return Ok(());
        }
        if self.options.check_envelope
            && let Err(reason) = check_envelope(&work.delivery.message)
        {
            let fault = Fault {
                class: Class::Poison,
                code: "envelope".to_owned(),
                reason,
                asked_to_wait: None,
            };
            return self.fail(id, fault);
        }
        work.permit = if self.desk.admits() { self.passes.pop_front().flatten() } else { None };
        work.stage = Stage::Running;
        work.began.get_or_insert(now);
        let job = Job {
            id,
            attempt: work.attempt,
            delivery: Arc::clone(&work.delivery),
            alone: work.alone,
        };
        if work.attempt == 1 {
            self.budget.iter_mut().for_each(RetryBudget::first_attempt);
        }
        self.running += 1;
        self.report.attempts += 1;
        handler.start(job);
        if let Some(pace) = &mut self.options.pace {
            let wait = pace.wait(self.began.elapsed());
            self.next_start = (wait > Duration::ZERO).then(|| Instant::now() + wait);
        }
        Ok(())
    }

    fn tell_circuit(&mut self, permit: Option<Permit>, ending: CircuitEnding) {
        if let Some(permit) = permit.filter(|_| self.desk.has_circuit()) {
            let at = self.now();
            self.desk.ended(Ended { permit, ending, at });
        }
    }

    /// What an answer means.
    fn answered(&mut self, id: JobId, answer: Answer) -> Result<(), WorkEnd> {
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if !matches!(work.stage, Stage::Running) {
            return Ok(());
        }
        self.running -= 1;
        let permit = work.permit.take();
        match answer {
            Answer::Done(output) => {
                self.tell_circuit(permit, CircuitEnding::Succeeded);
                self.done(id, output);
                Ok(())
            }
            Answer::Failed(fault) => {
                self.tell_circuit(
                    permit,
                    match fault.class.speaks_against_the_other_side() {
                        true => CircuitEnding::Failed,
                        false => CircuitEnding::Abandoned,
                    },
                );
                self.fail(id, fault)
            }
            Answer::Displaced => {
                work.stage = Stage::Ready;
                work.alone = true;
                let is_void = work.void;
                self.report.attempts -= 1;
                self.tell_circuit(permit, CircuitEnding::Abandoned);
                if is_void {
                    self.finish(id, Fate::Void);
                } else {
                    self.ready.push_back(id);
                }
                Ok(())
            }
        }
    }

    /// The work is done: its results go out, then it is remembered, then acked.
    fn done(&mut self, id: JobId, output: Output) {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return };
        let delivery = Arc::clone(&work.delivery);
        let signer = &self.worker.signer;
        let mut parcels = Vec::new();
        let mut written = None;
        let answers = self.options.answer && delivery.message.properties.reply_to.is_some();
        match &self.options.result {
            ResultTo::Publish { exchange, key } if output != Output::Nothing => {
                let routing_key = match key.text(&delivery, self.queue.as_str()) {
                    Ok(key) => RoutingKey::new(key).map_err(|e| e.to_string()),
                    Err(why) => Err(why),
                };
                match routing_key {
                    Ok(routing_key) => {
                        let message = signer.result(&delivery, output.clone(), now);
                        let exchange = exchange.clone();
                        parcels.push((Purpose::Result, Publish { exchange, routing_key, message }));
                    }
                    Err(reason) => {
                        let code = "key".to_owned();
                        let class = Class::Poison;
                        return self.bury(id, Fault { class, code, reason, asked_to_wait: None });
                    }
                }
            }
            ResultTo::Output if !answers => {
                written = match &output {
                    Output::Nothing => None,
                    Output::Bytes(bytes) => Some(bytes.clone()),
                    Output::Record(record) => {
                        let mut line = record.message.body.clone();
                        line.push(b'\n');
                        Some(line)
                    }
                }
                .filter(|bytes| !bytes.is_empty());
            }
            _ => {}
        }
        if answers {
            let result = signer.result(&delivery, output, now);
            let answer = signer.answer(&delivery, result);
            parcels.extend(answer.map(|publish| (Purpose::Answer, publish)));
        }
        let left = parcels.len() + usize::from(written.is_some());
        work.stage = Stage::Posting(u8::try_from(left).unwrap_or(u8::MAX), Fate::Done);
        for (purpose, publish) in parcels {
            self.outbox.post(Parcel { job: id, purpose, publish });
        }
        if let (Some(bytes), Some(scribe)) = (written, &mut self.scribe) {
            scribe.write(id, bytes);
        }
        if left == 0 {
            self.posted_all(id);
        }
    }

    /// An attempt has failed: again, or never.
    fn fail(&mut self, id: JobId, fault: Fault) -> Result<(), WorkEnd> {
        let (now, dice) = (self.now(), self.dice());
        self.report.failures += 1;
        self.report.timeouts += u64::from(fault.code == "timeout");
        let Some(work) = self.works.get(id) else { return Ok(()) };
        if work.void {
            self.finish(id, Fate::Void);
            return Ok(());
        }
        self.report.last_failure = Some(format!("{}: {}", fault.code, fault.reason));
        let began = *work.began.get_or_insert(now);
        let attempt = Attempt {
            number: work.attempt,
            class: fault.class,
            elapsed: now.since(began),
            asked_to_wait: fault.asked_to_wait,
            dice,
        };
        match self.options.retry.decide(&attempt, now, self.budget.as_mut()) {
            Decision::RetryAfter(wait) => {
                self.report.retries += 1;
                tracing::info!(
                    code = fault.code,
                    reason = fault.reason,
                    attempt = work.attempt,
                    wait = %HumanDuration(wait),
                    "an attempt failed"
                );
                match self.options.delay_queue(wait) {
                    Some(queue) => {
                        let publish =
                            self.worker.signer.delayed(queue, &work.delivery, work.attempt, began);
                        work.stage = Stage::Posting(1, Fate::Delayed);
                        work.fault = Some(fault);
                        self.outbox.post(Parcel { job: id, purpose: Purpose::Delay, publish });
                    }
                    None => {
                        work.attempt += 1;
                        work.stage = Stage::Delayed;
                        self.delayed.push(Reverse((Instant::now() + wait, id)));
                    }
                }
                Ok(())
            }
            Decision::GiveUp(why) => {
                tracing::warn!(
                    code = fault.code,
                    reason = fault.reason,
                    attempts = work.attempt,
                    %why,
                    "a message failed for good"
                );
                if self.options.dead_letters == DeadLetters::Stop {
                    let id = work.delivery.message.properties.message_id.as_deref();
                    self.report.error = Some(format!(
                        "the message {} failed ({}): {}; {why}",
                        id.map_or_else(|| "without an id".to_owned(), |id| format!("`{id}`")),
                        fault.code,
                        fault.reason
                    ));
                    self.report.hint = Some(
                        "it is back in the queue; repair its cause, or name a dead-letter queue"
                            .to_owned(),
                    );
                    return Err(WorkEnd::Failure);
                }
                self.bury(id, fault);
                Ok(())
            }
        }
    }

    /// Makes a dead letter of a message.
    fn bury(&mut self, id: JobId, fault: Fault) {
        let now = self.now();
        let Some(work) = self.works.get(id) else { return };
        if work.void {
            return self.finish(id, Fate::Void);
        }
        let delivery = Arc::clone(&work.delivery);
        let attempts = work.attempt;
        let answer = match self.options.answer {
            true => self.worker.signer.error_answer(&delivery, &fault, now),
            false => None,
        };
        let letter = match &self.options.dead_letters {
            DeadLetters::To(address) => {
                Some(self.worker.signer.dead_letter(address, &delivery, &fault, attempts, now))
            }
            DeadLetters::Reject | DeadLetters::Stop | DeadLetters::Answered => None,
        };
        let fate = match (&letter, &answer, &self.options.dead_letters) {
            (Some(_), ..) => Fate::DeadLettered,
            (None, Some(_), DeadLetters::Answered) => Fate::Refused,
            (None, ..) => Fate::Rejected,
        };
        let parcels = [
            letter.map(|publish| (Purpose::DeadLetter, publish)),
            answer.map(|publish| (Purpose::Answer, publish)),
        ];
        let mut left = 0;
        for (purpose, publish) in parcels.into_iter().flatten() {
            self.outbox.post(Parcel { job: id, purpose, publish });
            left += 1;
        }
        work.fault = Some(fault);
        work.stage = Stage::Posting(left, fate);
        if left == 0 {
            self.posted_all(id);
        }
    }

    /// What became of a parcel.
    fn delivered(&mut self, parcel: &Parcel, posted: Posted) -> Result<(), WorkEnd> {
        let id = parcel.job;
        if let Posted::Returned { code, text } = posted {
            match parcel.purpose {
                // The broker returns answers that it delivers directly as well.
                Purpose::Answer
                    if parcel.publish.routing_key.as_str().starts_with(DIRECT_REPLY_TO) =>
                {
                    self.report.published += 1;
                }
                // Who asked has gone.
                Purpose::Answer => self.report.unanswered += 1,
                Purpose::Result => {
                    let fault = Fault {
                        class: Class::Permanent,
                        code: format!("returned {code}"),
                        reason: format!("no queue takes its result ({text})"),
                        asked_to_wait: None,
                    };
                    if let Some(work) = self.works.get(id) {
                        work.fault = Some(fault);
                    }
                }
                Purpose::Delay => {
                    // The queue for the wait is gone; it waits here instead.
                    if let Some(work) = self.works.get(id) {
                        work.attempt += 1;
                        work.stage = Stage::Delayed;
                        let wait = Duration::from_secs(5);
                        self.delayed.push(Reverse((Instant::now() + wait, id)));
                    }
                    return Ok(());
                }
                Purpose::DeadLetter => {
                    let to = &parcel.publish;
                    self.report.error = Some(format!(
                        "no queue takes the dead letter sent to {} with the key `{}` ({code} {text})",
                        to.exchange.in_words(),
                        to.routing_key
                    ));
                    self.report.hint = Some(
                        "bind a queue there, or name one with --dead-letter-queue; the message is \
                         back in its queue"
                            .to_owned(),
                    );
                    return Err(WorkEnd::NoWayOut);
                }
            }
        } else if matches!(parcel.purpose, Purpose::Answer | Purpose::Result) {
            self.report.published += 1;
        }
        self.one_less(id);
        Ok(())
    }

    fn one_less(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        if let Stage::Posting(left, _) = &mut work.stage {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.posted_all(id);
            }
        }
    }

    /// Everything that takes a message's place is where it belongs.
    fn posted_all(&mut self, id: JobId) {
        let Some(work) = self.works.get(id) else { return };
        let Stage::Posting(_, fate) = work.stage else { return };
        if fate == Fate::Done {
            if let Some(fault) = work.fault.take() {
                return self.bury(id, fault);
            }
            let numbered = work.number.is_some() && self.desk.numbers();
            if work.claim.is_some() || numbered {
                work.stage = Stage::Booking;
                self.to_book.push(id);
                return;
            }
        }
        self.finish(id, fate);
    }

    fn book(&mut self) {
        if self.desk.booking || self.to_book.is_empty() {
            return;
        }
        let mut bookings = Vec::with_capacity(self.to_book.len());
        for id in std::mem::take(&mut self.to_book) {
            if let Some(work) = self.works.get(id) {
                let number = work.number.clone().filter(|_| self.desk.numbers());
                bookings.push(Booking { job: id, claim: work.claim.take(), number });
            }
        }
        self.desk.book(bookings);
    }

    fn hear(&mut self, news: News) -> Result<(), WorkEnd> {
        match news {
            News::Claimed(claimed) => {
                for (id, answer) in claimed {
                    let Some(work) = self.works.get(id) else {
                        self.claims_to_release.extend(answer.ok());
                        continue;
                    };
                    let is_void = work.void;
                    match answer {
                        Ok(claim) => {
                            work.claim = Some(claim);
                            work.stage = Stage::Ready;
                            if is_void {
                                self.finish(id, Fate::Void);
                            } else {
                                self.ready.push_back(id);
                            }
                        }
                        Err(_) if is_void => self.finish(id, Fate::Void),
                        Err(NotClaimed::Duplicate) => self.finish(id, Fate::Duplicate),
                        Err(NotClaimed::InWork { .. } | NotClaimed::Full) => {
                            work.stage = Stage::Delayed;
                            self.delayed.push(Reverse((Instant::now() + CLAIM_AGAIN, id)));
                        }
                    }
                }
            }
            News::Admitted(count, permits, again) => {
                let has_circuit = self.desk.has_circuit();
                if has_circuit {
                    self.passes.extend(permits.into_iter().map(Some));
                } else {
                    self.passes.extend((0..count).map(|_| None));
                }
                let (wait, why) = again.unzip();
                self.ask_again = wait.map(|wait| Instant::now() + wait);
                if why.is_some() && why != self.held_back {
                    tracing::warn!(why = why.as_deref(), "messages wait");
                }
                self.held_back = why;
            }
            News::Booked(jobs) => {
                for id in jobs {
                    self.finish(id, Fate::Done);
                }
            }
            News::Recorded => {}
            News::Failed(error) => {
                self.report.error.get_or_insert_with(|| error.to_string());
                return Err(WorkEnd::Failed);
            }
        }
        Ok(())
    }

    fn written(&mut self, written: Written) -> Result<(), WorkEnd> {
        match written {
            Written::Committed(jobs) => {
                for id in jobs {
                    self.one_less(id);
                }
                Ok(())
            }
            Written::Failed(error) => {
                self.scribe = None;
                self.report.pipe_closed = error.kind() == io::ErrorKind::BrokenPipe;
                self.report
                    .error
                    .get_or_insert_with(|| format!("cannot write the output: {error}"));
                Err(WorkEnd::Output)
            }
        }
    }

    /// A message has found its end here.
    fn finish(&mut self, id: JobId, fate: Fate) {
        let Some(mut work) = self.works.take(id) else { return };
        if let Some(claim) = work.claim.take() {
            self.claims_to_release.push(claim);
        }
        if let Some(lane) = &work.lane
            && let Some(next) = self.lanes.leave(lane, id)
        {
            self.runnable.push_back(next);
        }
        let is_settled = !matches!(fate, Fate::Returned | Fate::Void);
        let mut shown = fate;
        if work.void && is_settled {
            // What was done stays done; the message comes again and is known then.
            shown = Fate::Void;
            self.report.repeats_possible += 1;
            if matches!(fate, Fate::Done | Fate::DeadLettered | Fate::Delayed)
                && self.done_unacked.len() < REMEMBERED
                && let Some(key) = identity(&work.delivery.message, &work.delivery)
            {
                *self.done_unacked.entry(key).or_default() += 1;
            }
        } else if fate == Fate::Rejected {
            self.reject(&work);
        } else if is_settled {
            self.unsettled.done(work.delivery.tag);
        }
        self.report.count(shown);
        if let Some(journal) = &mut self.worker.journal {
            let attempts = match fate {
                Fate::Returned | Fate::Void | Fate::Duplicate => work.attempt.saturating_sub(1),
                _ => work.attempt,
            };
            let now = self.worker.clock.now();
            let fault = work.fault.as_ref();
            if let Err(error) = write_entry(journal, now, &work.delivery, shown, attempts, fault) {
                self.worker.journal = None;
                tracing::warn!(%error, "the report of messages cannot be written any more");
            }
        }
    }

    fn reject(&mut self, work: &Work) {
        self.unsettled.settled(work.delivery.tag);
        self.worker.rejections.push(work.delivery.tag);
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

fn check_envelope(message: &Message) -> Result<(), String> {
    let envelope = Envelope::parse(&message.body).map_err(|wrong| wrong.join("; "))?;
    let mut wrong = envelope.check();
    wrong.extend(envelope.contradictions(&message.properties));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}
