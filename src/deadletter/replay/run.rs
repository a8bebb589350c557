//! Carries a replay out: one consumer, one publisher, one journal, and the machine that decides.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::base::id::QueueName;
use crate::base::time::{Clock, Timestamp};
use crate::broker::carry::stream_offset;
use crate::broker::{
    Broker, BrokerError, Consumer, ConsumerOptions, Delivery, DeliveryTag, LockError, LockHolder,
    Outcome, Publish, Publisher, PublisherOptions, Settled, Settlement, Ticket,
};
use crate::deadletter::Lanes;
use crate::deadletter::letter::LetterId;
use crate::delivery::consume::Lives;
use crate::delivery::pace::Pace;
use crate::delivery::peek::{Hold, returns_of};
use crate::delivery::stop::{Stop, Wish};
use crate::message::{FieldTable, FieldValue, Message};
use crate::storage::StorageError;

use super::address::{Address, Dress, REPLAY_KEY, RUN, Sender, Target, is_edited, replays};
use super::caution::MostBack;
use super::edit::{Edited, Editor};
use super::machine::{
    Counts, Effect, End, Entry, Event, Fate, Known, Machine, Order, Position, Rules, Seen, State,
    Way,
};
use super::recall::{is_gone, recall};
use super::rest;
use super::stage::Staged;
use super::store::{Detail, Journal, Phase, StoredRun};
use super::stream::{self, FromStream, Reach};

/// Which letters are wanted, by their place, name and message. An error is for example a header that
/// one does not have; such a letter stays.
pub type Wants<'a> = dyn FnMut(Position, &LetterId, &Delivery) -> Result<bool, String> + Send + 'a;

/// What to replay, and how.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The run, as the journal names it.
    pub run: String,
    /// The queue that the letters are in.
    pub queue: QueueName,
    /// Where to.
    pub target: Target,
    /// Where those are put aside that were replayed too often.
    pub park: Option<QueueName>,
    /// Where letters wait that stay, when there is such a queue.
    pub rest: Option<QueueName>,
    /// Where the letters of `queue` lay before, and lie again afterwards, as they did.
    pub home: Option<QueueName>,
    /// Which letters must not overtake which, where the order goes by a key.
    pub lanes: Option<Lanes>,
    /// Send no more, and only bring back what waits elsewhere.
    pub bring_back: bool,
    /// The rules.
    pub rules: Rules,
    /// Whether it is a quorum queue, where what comes back waits in a line of its own.
    pub is_quorum: bool,
    /// Whether a resumed run looks along the queue first.
    pub looks: bool,
    /// Whether what letters come from numbers them, the same on every attempt: a bundle does.
    pub numbered: bool,
    /// Our login.
    pub login: Option<String>,
    /// As what they go.
    pub dress: Dress,
    /// What becomes different in letters.
    pub editor: Option<Editor>,
    /// Whether the copies go to another broker or vhost.
    pub elsewhere: bool,
    /// Messages a second, at most.
    pub rate: Option<f64>,
    /// How the stream is read, when it is one.
    pub stream: Option<FromStream>,
    /// How long letters are held, at most.
    pub longest: Option<Duration>,
    /// How long it takes until that rate is reached.
    pub ramp: Duration,
    /// When to hold no more letters that come back often.
    pub lives: Lives,
    /// How long letters are waited for that the queue counts and does not hand out.
    pub patience: Duration,
    /// How long nothing may come before the broker is asked.
    pub poll: Duration,
    /// Who replays.
    pub holder: LockHolder,
    /// Whether others consume the queue beside, and may keep what they take.
    pub alongside: bool,
    /// Whether this is only the beginning of the run, and the rest comes later.
    pub is_part: bool,
    /// When so many have come back that the run stops.
    pub most_back: MostBack,
}

/// What became of the letters in this attempt.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// Why it ended.
    pub ended: End,
    /// How many letters became what.
    pub counts: Counts,
    /// Letters recalled from an earlier attempt.
    pub recalled: u64,
    /// Of those that stay, those that have nowhere to go.
    pub nowhere: u64,
    /// Why the first of them has nowhere to go.
    pub first_nowhere: Option<String>,
    /// Of those that stay, those that cannot be edited so.
    pub not_edited: u64,
    /// Why the first of them cannot.
    pub first_not_edited: Option<String>,
    /// Letters whose body was edited: what they had is in the journal.
    pub bodies_edited: u64,
    /// Letters for which the condition failed.
    pub filter_errors: u64,
    /// What the first of these failures was.
    pub first_filter_error: Option<String>,
    /// Letters that could not go as they were.
    pub altered: u64,
    /// What the first refusal was.
    pub refusal: Option<String>,
    /// What failed.
    pub failure: Option<String>,
    /// A letter that stays has few lives left.
    pub lives_at_risk: bool,
    /// The queue counts letters that it does not hand out.
    pub stalled: bool,
    /// Letters were held for as long as they may be.
    pub held_too_long: bool,
    /// Letters that a stream let go of before they were read.
    pub gone: u64,
    /// More letters came back than may.
    pub too_many_back: Option<u64>,
    /// Whether it is certain that what stayed is where it was.
    pub order_kept: bool,
    /// Letters that wait afterwards; `None` when the broker could not be asked.
    pub left: Option<u64>,
    /// What became of letters that wait elsewhere meanwhile.
    pub staged: Option<Staged>,
}

impl Default for ReplayReport {
    fn default() -> Self {
        ReplayReport {
            ended: End::All,
            counts: Counts::default(),
            recalled: 0,
            nowhere: 0,
            first_nowhere: None,
            not_edited: 0,
            first_not_edited: None,
            bodies_edited: 0,
            filter_errors: 0,
            first_filter_error: None,
            altered: 0,
            refusal: None,
            failure: None,
            lives_at_risk: false,
            stalled: false,
            held_too_long: false,
            gone: 0,
            too_many_back: None,
            order_kept: true,
            left: None,
            staged: None,
        }
    }
}

impl ReplayOptions {
    /// The queue by which the letters are named.
    fn home(&self) -> &QueueName {
        self.home.as_ref().unwrap_or(&self.queue)
    }
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Somebody else replays the queue, or the broker failed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] StorageError),
    /// The queue in which letters are to wait is not safe for them.
    #[error("letters cannot wait in queue `{queue}`: {why}")]
    Rest {
        /// Its name.
        queue: String,
        /// Why not.
        why: String,
    },
}

/// The name of the lock on a queue.
pub fn lock_name(vhost: &str, queue: &QueueName) -> String {
    let digest = Sha256::new().chain_update(vhost).chain_update([0]).chain_update(queue.as_str());
    digest
        .finalize()
        .iter()
        .take(12)
        .fold("dlq.".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

/// How a run begins.
#[derive(Debug)]
pub enum Begin {
    /// For the first time: as the journal is to keep it.
    New(Box<StoredRun>),
    /// Once more.
    Again,
}

/// What a run works with.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Where the letters are.
    pub broker: &'a dyn Broker,
    /// Who takes the copies: mostly the same.
    pub copies_to: &'a dyn TakesCopies,
    /// Where it is noted.
    pub journal: &'a Journal,
    /// What time it is.
    pub clock: &'a Arc<dyn Clock>,
    /// Whether somebody asks to stop.
    pub stop: &'a Stop,
}

/// Somebody who takes copies and answers for each: a broker, or what keeps them otherwise. A confirm has
/// to mean that the copy survives a kill of everything, for the letter is acked on the strength of it.
#[async_trait]
pub trait TakesCopies: Send + Sync + fmt::Debug {
    /// Opens a way to send copies to it, `window` of them unconfirmed at once.
    async fn open(&self, window: usize) -> Result<Box<dyn Publisher>, BrokerError>;
}

/// Copies go to a broker.
#[derive(Clone, Copy, Debug)]
pub struct ToBroker<'a>(pub &'a dyn Broker);

#[async_trait]
impl TakesCopies for ToBroker<'_> {
    async fn open(&self, window: usize) -> Result<Box<dyn Publisher>, BrokerError> {
        self.0.publisher(PublisherOptions { window, reconnect: false }).await
    }
}

/// Replays. `progress` hears how many letters are looked at and how many confirmed.
///
/// # Errors
/// When nothing could be begun.
pub async fn run(
    scene: &Scene<'_>,
    begin: Begin,
    options: &ReplayOptions,
    wants: &mut Wants<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<ReplayReport, ReplayError> {
    let Scene { broker, journal, clock, .. } = *scene;
    let name = lock_name(broker.identity().vhost.as_str(), &options.queue);
    let lock = broker.lock(&name, &options.holder).await?;
    let is_resumed = matches!(begin, Begin::Again);
    match begin {
        Begin::New(stored) => journal.begin(*stored).await?,
        Begin::Again => journal.again(&options.run, &options.holder).await?,
    }
    let report = work(scene, is_resumed, options, wants, progress).await?;
    let all = report.ended <= End::First || report.ended == End::Dry && !report.stalled;
    let all = all && report.failure.is_none();
    let refused = report.counts.returned + report.counts.nacked;
    let phase = match all && refused == 0 {
        true if options.is_part => Phase::Stopped,
        true => Phase::Done,
        false => Phase::Stopped,
    };
    let why = if options.is_part && all { CANARY } else { why(report.ended) };
    let who = &options.holder.who;
    journal.end(&options.run, phase, why, who, clock.now()).await?;
    let _ = lock.release().await;
    Ok(report)
}

/// One attempt at a run that the journal knows, or at a part of one; whoever calls it has the lock.
pub(super) async fn work(
    scene: &Scene<'_>,
    is_resumed: bool,
    options: &ReplayOptions,
    wants: &mut Wants<'_>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<ReplayReport, ReplayError> {
    let Scene { broker, copies_to, journal, clock, stop } = *scene;
    let queue = &options.queue;
    let anchor = if is_resumed && options.looks { journal.anchor(&options.run)? } else { None };
    let next = journal.next_position(&options.run)?;
    let mut rules = options.rules;
    let mut reach = None;
    if let Some(from) = options.stream {
        let found = stream::reach(broker, journal, options, from).await?;
        rules.watermark = rules.watermark.saturating_sub(found.looked);
        if found.start.is_some_and(|start| start >= found.end) || found.end == 0 {
            rules.watermark = 0;
        }
        reach = Some(found);
    }
    if is_resumed {
        let gone = journal.gone(&options.run)?;
        rules.first = rules.first.map(|first| first.saturating_sub(gone));
        rules.is_resumed = true;
        rules.is_diverted =
            rules.rests && rules.order != Order::None && journal.tally(&options.run)?.turned > 0;
    }
    let window = usize::try_from(options.rules.window).unwrap_or(usize::MAX);
    let publisher = copies_to.open(window).await?;
    // To come to its anchor, a resumed run holds all that lies before.
    let ahead = if anchor.is_some() { options.rules.watermark } else { 0 };
    let prefetch = u16::try_from(options.rules.prefetch.max(ahead)).unwrap_or(u16::MAX);
    let mut subscription = ConsumerOptions { prefetch, reconnect: false, ..Default::default() };
    if let Some(reach) = &reach {
        subscription.prefetch = stream::PREFETCH;
        let start = reach.start.map_or_else(
            || FieldValue::from("first"),
            |offset| FieldValue::Int64(i64::try_from(offset).unwrap_or(i64::MAX)),
        );
        subscription.arguments.insert("x-stream-offset", start);
    }
    let ready = if options.most_back.breaks {
        broker.depth(queue).await?.map_or(0, |depth| depth.ready)
    } else {
        0
    };
    let consumer = broker.consumer(queue, subscription).await?;
    let sender = Sender {
        run: options.run.clone(),
        queue: queue.clone(),
        target: options.target.clone(),
        login: options.login.clone(),
        dress: options.dress,
        elsewhere: options.elsewhere,
    };
    let mut run = Run {
        broker,
        journal,
        options,
        vhost: broker.identity().vhost.to_string(),
        sender,
        machine: Machine::new(rules, next),
        reading: reach.map(Reading::new),
        counts_met: is_resumed && rules.first.is_some() && options.stream.is_none(),
        consumer,
        publisher,
        consumer_is_gone: false,
        letters: HashMap::new(),
        tickets: HashMap::new(),
        writing: None,
        pace: options.rate.and_then(|rate| Pace::rising(rate, options.ramp)),
        began: Instant::now(),
        told_to_stop: false,
        delivered: 0,
        last_redelivered: false,
        quiet_since: Instant::now(),
        empty_looks: 0,
        last_count: Instant::now(),
        ready,
        clock,
        report: ReplayReport::default(),
    };
    if let Some(anchor) = anchor {
        run.meet_again(&anchor, wants, stop).await;
    }
    run.report.ended = run.go(wants, stop, progress).await;
    let Run { consumer, publisher, machine, mut report, delivered, last_redelivered, .. } = run;
    report.counts = machine.counts();
    // Every outcome is known; a way out that does not close well changes nothing.
    let _ = publisher.close().await;
    if options.stream.is_some() {
        // Nothing of it goes back to anywhere.
        let _ = consumer.close().await;
    } else {
        put_back(broker, options, consumer, &mut report, delivered, last_redelivered).await;
    }
    report.left = broker.depth(queue).await.ok().flatten().map(|depth| depth.ready);
    Ok(report)
}

/// Lets go of what is held, so that it is back at its places.
async fn put_back(
    broker: &dyn Broker,
    options: &ReplayOptions,
    mut consumer: Box<dyn Consumer>,
    report: &mut ReplayReport,
    delivered: u64,
    mut last_redelivered: bool,
) {
    let mut held = delivered.saturating_sub(report.counts.acked);
    while let Some(delivery) = consumer.ready() {
        held += 1;
        last_redelivered = delivery.redelivered;
    }
    let left = options.rules.watermark.saturating_sub(report.counts.acked);
    let mut hold = Hold::new(broker, &options.queue, options.poll);
    hold.adopt(consumer, held);
    // On a quorum queue what comes back joins the end of the line of all that came back before: the whole
    // of that line has to be held, or its head changes.
    if options.is_quorum && held > 0 && last_redelivered && held < left {
        let line = hold.rest_of_line(left, held).await;
        report.order_kept = line.is_ok_and(|line| line.whole);
    }
    match hold.let_go().await {
        Ok(seen) => report.order_kept &= seen || held == 0,
        Err(error) => {
            report.failure.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Why a run ended of which only the first letters went so far, as a word for the journal.
pub const CANARY: &str = "canary";

/// Why a run ended, as a word for the journal.
pub fn why(end: End) -> &'static str {
    match end {
        End::All => "all",
        End::First => "first",
        End::Echo => "echo",
        End::Dry => "dry",
        End::Full => "full",
        End::Refused => "refused",
        End::Stopped => "stopped",
        End::Broken => "broken",
        End::Journal => "journal",
    }
}

/// What a run knows of the stream that it reads.
struct Reading {
    reach: Reach,
    /// The offset that comes next, once one has come.
    next: Option<u64>,
    /// Letters that are not in the journal yet.
    unwritten: usize,
    /// Deliveries taken since the broker was asked for more, and the last of them.
    uncredited: (u16, Option<DeliveryTag>),
    /// The offsets of letters that are to be written.
    offsets: HashMap<Position, u64>,
}

impl Reading {
    fn new(reach: Reach) -> Reading {
        Reading {
            reach,
            next: reach.start,
            unwritten: 0,
            uncredited: (0, None),
            offsets: HashMap::new(),
        }
    }
}

struct Letter {
    delivery: Delivery,
    key: LetterId,
    /// Where it goes, if it is meant.
    to: Option<Address>,
    edited: Edited,
}

type Writing = JoinHandle<Result<(), StorageError>>;

struct Run<'a> {
    broker: &'a dyn Broker,
    journal: &'a Journal,
    options: &'a ReplayOptions,
    vhost: String,
    sender: Sender,
    machine: Machine,
    reading: Option<Reading>,
    consumer: Box<dyn Consumer>,
    publisher: Box<dyn Publisher>,
    consumer_is_gone: bool,
    /// Those that may still have to be published.
    letters: HashMap<Position, Letter>,
    tickets: HashMap<Ticket, Position>,
    writing: Option<Writing>,
    pace: Option<Pace>,
    began: Instant,
    told_to_stop: bool,
    /// Whether it matters if a letter was met before.
    counts_met: bool,
    delivered: u64,
    last_redelivered: bool,
    quiet_since: Instant,
    empty_looks: u8,
    last_count: Instant,
    /// Letters that waited when this attempt began.
    ready: u64,
    clock: &'a Arc<dyn Clock>,
    report: ReplayReport,
}

/// Bytes of bodies that may wait here until the anchor comes.
const MEETING_ROOM: usize = 64 * 1024 * 1024;

/// How often the queue is asked how many letters came back.
const COUNT_EVERY: Duration = Duration::from_secs(1);

/// Letters that are taken in before the machine is asked what to do.
const AT_ONCE: usize = 512;

impl Run<'_> {
    /// Takes what lies before the anchor, and with it what can be known of these letters. They are held
    /// meanwhile, so that nobody takes one of them out of the order by which they are known.
    async fn meet_again(&mut self, anchor: &LetterId, wants: &mut Wants<'_>, stop: &Stop) {
        let (mut taken, mut head, mut bytes) = (Vec::new(), Vec::new(), 0);
        let most = self.options.rules.watermark.min(u64::from(u16::MAX));
        while (head.len() as u64) < most && head.last() != Some(anchor) && bytes < MEETING_ROOM {
            let next = tokio::select! {
                () = stop.until(Wish::Finish) => break,
                next = timeout(self.options.patience, self.consumer.next()) => next,
            };
            let delivery = match next {
                Ok(Ok(delivery)) => delivery,
                Ok(Err(error)) => {
                    self.lose_consumer(Some(&error));
                    return;
                }
                Err(_) => break,
            };
            bytes += delivery.message.body.len();
            head.push(LetterId::of(&self.vhost, self.options.home(), &delivery.message));
            taken.push(delivery);
        }
        let (journal, run) = (self.journal, &self.options.run);
        let mut failure = None;
        let mut known = recall(&head, anchor, |key| {
            journal.rows_of(run, key).unwrap_or_else(|error| {
                failure = Some(error);
                Vec::new()
            })
        });
        if let Some(error) = failure {
            self.fail(&error);
            self.machine.on(Event::Stop);
        }
        self.report.recalled = known.len() as u64;
        for (key, delivery) in head.iter().zip(taken) {
            let known = known.remove(key);
            self.see(delivery, known, wants);
        }
    }

    async fn go(
        &mut self,
        wants: &mut Wants<'_>,
        stop: &Stop,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> End {
        loop {
            let mut effects = VecDeque::from(self.machine.effects());
            if effects.is_empty() {
                self.count_back().await;
                let counts = self.machine.counts();
                progress(
                    counts.looked,
                    counts.replayed + counts.copied + counts.parked + counts.skipped,
                );
                self.wait(wants, stop).await;
                continue;
            }
            while let Some(effect) = effects.pop_front() {
                if let Effect::End(why) = effect {
                    return why;
                }
                self.carry_out(effect, stop).await;
            }
        }
    }

    async fn carry_out(&mut self, effect: Effect, stop: &Stop) {
        match effect {
            Effect::Write(entries) => self.write(entries),
            Effect::Publish(position, way) => self.publish(position, way, stop).await,
            Effect::Forget(position) => {
                self.letters.remove(&position);
            }
            Effect::Settle(tag, how, _) => {
                // A stream keeps it; there an ack asks for more, and that is asked for otherwise.
                if self.consumer_is_gone || self.reading.is_some() {
                    return;
                }
                match self.consumer.settle(tag, how).await {
                    Ok(Settled::Sent) => {}
                    Ok(Settled::Void) => self.lose_consumer(None),
                    Err(error) => self.lose_consumer(Some(&error)),
                }
            }
            Effect::Flush => {
                if !self.consumer_is_gone
                    && self.reading.is_none()
                    && let Err(error) = self.consumer.flush().await
                {
                    self.lose_consumer(Some(&error));
                }
                self.machine.on(Event::Flushed);
            }
            Effect::End(_) => {}
        }
    }

    fn fail(&mut self, error: &dyn fmt::Display) {
        self.report.failure.get_or_insert_with(|| error.to_string());
    }

    fn lose_consumer(&mut self, error: Option<&BrokerError>) {
        if let Some(error) = error {
            self.fail(error);
        }
        if !std::mem::replace(&mut self.consumer_is_gone, true) {
            self.machine.on(Event::ConsumerLost);
        }
    }

    fn write(&mut self, entries: Vec<Entry>) {
        let detailed = entries
            .into_iter()
            .map(|entry| {
                let mut detail = match &entry {
                    Entry::New(position, _, state)
                    | Entry::Now(position, state @ State::Intent(_)) => {
                        self.detail(*position, *state)
                    }
                    Entry::Now(..) => Detail::default(),
                };
                if let (Entry::New(position, ..), Some(reading)) = (&entry, &mut self.reading) {
                    detail.place = reading.offsets.remove(position);
                }
                (entry, detail)
            })
            .collect();
        let (journal, run) = (self.journal.clone(), self.options.run.clone());
        let now: Timestamp = self.clock.now();
        self.writing = Some(tokio::spawn(async move { journal.note(&run, detailed, now).await }));
    }

    fn detail(&self, position: Position, state: State) -> Detail {
        let Some(letter) = self.letters.get(&position) else { return Detail::default() };
        let to_queue = match state {
            State::Intent(Way::Rest) => self.options.rest.as_ref(),
            State::Intent(Way::Parked) => self.options.park.as_ref(),
            _ => self.options.home.as_ref(),
        };
        let address = || {
            if self.options.target == Target::Bundle {
                return Some("bundle".to_owned());
            }
            letter.to.as_ref().map(ToString::to_string)
        };
        let target = to_queue.map(|queue| format!("queue {queue}")).or_else(address);
        let message = &letter.delivery.message;
        let message_id = message.properties.message_id.clone();
        let is_edited = letter.edited.body.is_some() && state == State::Intent(Way::Target);
        Detail { message_id, target, place: None, body: is_edited.then(|| message.body.clone()) }
    }

    /// What is published for a letter.
    fn made(&self, position: Position, way: Way) -> Option<Publish> {
        let ReplayOptions { rest, park, home, login, .. } = self.options;
        let Letter { delivery, key, to, edited } = self.letters.get(&position)?;
        match way {
            Way::Rest => rest.as_ref().map(|rest| rest::away(delivery, rest)),
            Way::Parked => park.as_ref().map(|park| self.sender.parked(delivery, key, park)),
            Way::Target => match home {
                Some(home) => Some(rest::back(delivery, home, login.as_deref())),
                None => {
                    let to = to.clone()?;
                    Some(self.sender.letter_to(to, delivery, key, edited))
                }
            },
        }
    }

    async fn publish(&mut self, position: Position, way: Way, stop: &Stop) {
        let Some(publish) = self.made(position, way) else {
            self.machine.on(Event::Outcome(position, Fate::NotSent));
            return;
        };
        let is_edited = |letter: &Letter| letter.edited.body.is_some();
        if way == Way::Target && self.letters.get(&position).is_some_and(is_edited) {
            self.report.bodies_edited += 1;
        }
        // What its target refuses is wanted again, to be put where the others wait.
        if !self.options.rules.rests {
            self.letters.remove(&position);
        }
        if let Some(pace) = &mut self.pace {
            let wait = pace.wait(self.began.elapsed());
            // Told to stop, it sends what is intended at once, and no more of it.
            tokio::select! {
                () = stop.until(Wish::Finish) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
        match self.publisher.send(publish).await {
            Ok(ticket) => {
                self.tickets.insert(ticket, position);
            }
            Err(error) => {
                self.fail(&error);
                self.machine.on(Event::Outcome(position, Fate::NotSent));
            }
        }
    }

    fn outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(position) = self.tickets.remove(&ticket) else { return };
        let fate = match outcome {
            Outcome::Confirmed => {
                self.letters.remove(&position);
                Fate::Confirmed
            }
            Outcome::Returned { code, text } => {
                self.report.refusal.get_or_insert_with(|| format!("{code} {text}"));
                Fate::Returned
            }
            Outcome::Nacked => {
                let why = "the broker refused it: a target is full";
                self.report.refusal.get_or_insert_with(|| why.to_owned());
                Fate::Nacked
            }
            Outcome::Failed(error) => {
                self.fail(&error);
                Fate::NotSent
            }
            Outcome::Unknown { why } => {
                self.fail(&why);
                Fate::Unknown
            }
        };
        self.machine.on(Event::Outcome(position, fate));
    }

    /// What the journal has of a letter that its source numbers.
    fn known_by_number(&mut self, number: Position) -> Option<Known> {
        match self.journal.state_at(&self.options.run, number) {
            Ok(state) => state.map(|state| {
                self.report.recalled += 1;
                Known { position: number, state }
            }),
            Err(error) => {
                // Without knowing, nothing may go: it would be a second copy.
                self.fail(&error);
                self.machine.on(Event::Stop);
                None
            }
        }
    }

    /// The body that a letter had before the run that sent it edited it; counted when it is not known.
    fn original(&mut self, published: &Message) -> Option<Vec<u8>> {
        let text = |name| published.properties.header(name).and_then(FieldValue::as_text);
        let found = match (text(RUN), text(REPLAY_KEY).and_then(LetterId::parse)) {
            (Some(run), Some(key)) => self.journal.original_of(run, &key),
            _ => Ok(None),
        };
        match found {
            Ok(Some(body)) => Some(body),
            Ok(None) => {
                self.report.not_edited += 1;
                let why = "its body from before it was edited is not in this state file";
                self.report.first_not_edited.get_or_insert_with(|| why.to_owned());
                None
            }
            Err(error) => {
                self.fail(&error);
                self.machine.on(Event::Stop);
                None
            }
        }
    }

    /// Where a letter goes and what becomes different in it; counted when that cannot be.
    fn prepare(&mut self, delivery: &Delivery, key: &LetterId) -> Option<(Address, Edited)> {
        let to = match self.sender.address(delivery, key) {
            Ok(to) => to,
            Err(nowhere) => {
                self.report.nowhere += 1;
                self.report.first_nowhere.get_or_insert_with(|| nowhere.to_string());
                return None;
            }
        };
        if self.options.dress == Dress::AsItLay && is_edited(&delivery.message) {
            let body = self.original(&delivery.message)?;
            return Some((to, Edited { body: Some(body), ..Edited::default() }));
        }
        let Some(editor) = &self.options.editor else { return Some((to, Edited::default())) };
        match editor.edit(delivery, key, &self.options.queue) {
            Ok(edited) => Some((to, edited)),
            Err(why) => {
                self.report.not_edited += 1;
                self.report.first_not_edited.get_or_insert(why);
                None
            }
        }
    }

    /// Takes in a letter.
    fn take(&mut self, delivery: Delivery, wants: &mut Wants<'_>) {
        let Some(reading) = &mut self.reading else { return self.see(delivery, None, wants) };
        reading.uncredited = (reading.uncredited.0 + 1, Some(delivery.tag));
        let Some(offset) = stream_offset(&delivery) else {
            self.fail(&"a letter came from the stream without its offset");
            self.machine.on(Event::Stop);
            return;
        };
        let Reach { start, end, known, .. } = reading.reach;
        // A broker may hand out the whole chunk in which the offset lies.
        if start.is_some_and(|start| offset < start) {
            return;
        }
        if offset >= end {
            self.machine.on(Event::Dry);
            return;
        }
        if let Some(next) = reading.next {
            self.report.gone += offset.saturating_sub(next);
        }
        reading.next = Some(offset + 1);
        let mut found = None;
        if known.is_some_and(|last| offset <= last) {
            match self.journal.at_offset(&self.options.run, offset) {
                Ok(row) => found = row,
                Err(error) => {
                    self.fail(&error);
                    self.machine.on(Event::Stop);
                    return;
                }
            }
        }
        let known = found.map(|(position, state)| Known { position, state });
        match known {
            Some(_) => self.report.recalled += 1,
            None => {
                reading.offsets.insert(self.machine.next(), offset);
            }
        }
        reading.unwritten += 1;
        self.see(delivery, known, wants);
        if offset + 1 >= end {
            self.machine.on(Event::Dry);
        }
    }

    /// Whether another letter may be taken.
    fn takes(&self) -> bool {
        let room = self.reading.as_ref().is_none_or(|reading| {
            let most = usize::from(stream::PREFETCH)
                + usize::try_from(self.options.rules.intents()).unwrap_or(usize::MAX);
            self.letters.len() + reading.unwritten < most
        });
        room && self.machine.takes() && !self.consumer_is_gone
    }

    /// Asks a stream for more once half of what may be here was taken.
    async fn give_credit(&mut self) {
        let Some(reading) = &mut self.reading else { return };
        if reading.uncredited.0 < stream::PREFETCH / 2 || self.consumer_is_gone {
            return;
        }
        if let (_, Some(tag)) = std::mem::take(&mut reading.uncredited)
            && let Err(error) = self.consumer.settle(tag, Settlement::AckUpTo).await
        {
            self.lose_consumer(Some(&error));
        }
    }

    fn see(&mut self, delivery: Delivery, known: Option<Known>, wants: &mut Wants<'_>) {
        let known = match known {
            None if self.options.numbered => self.known_by_number(delivery.tag.tag),
            known => known,
        };
        self.quiet_since = Instant::now();
        self.empty_looks = 0;
        self.delivered += 1;
        self.last_redelivered = delivery.redelivered;
        let key = LetterId::of(&self.vhost, self.options.home(), &delivery.message);
        let headers = delivery.message.properties.headers.as_ref();
        // What waited is only brought back, whoever sent it.
        let comes_home = self.options.home.is_some();
        let is_echo = !comes_home
            && headers.and_then(|headers| headers.get(RUN)).and_then(FieldValue::as_text)
                == Some(self.options.run.as_str());
        let position = known.map_or(self.machine.next(), |known| known.position);
        let none = FieldTable::new();
        let replays = replays(headers.unwrap_or(&none));
        let mut wanted = wants(position, &key, &delivery).unwrap_or_else(|error| {
            self.report.filter_errors += 1;
            self.report.first_filter_error.get_or_insert(error);
            false
        });
        let mut ready = None;
        if wanted && !is_echo && !comes_home {
            ready = self.prepare(&delivery, &key);
            wanted = ready.is_some();
        }
        let mut lane = None;
        if wanted && let Some(lanes) = &self.options.lanes {
            match lanes.lane(position, &delivery) {
                Ok(found) => lane = Some(found),
                Err(error) => {
                    self.report.filter_errors += 1;
                    self.report.first_filter_error.get_or_insert_with(|| error.to_string());
                    wanted = false;
                }
            }
        }
        let Lives { limit, keep } = self.options.lives;
        let at_risk = limit.is_some_and(|limit| limit.saturating_sub(returns_of(&delivery)) < keep);
        let tag = delivery.tag;
        // What was confirmed before is acked as it is.
        let goes = (wanted || self.options.rules.rests)
            && !is_echo
            && known.is_none_or(|known| !known.state.is_confirmed());
        if goes {
            self.report.altered += u64::from(self.sender.alters(&delivery));
            let (to, edited) =
                ready.map_or_else(Default::default, |(to, edited)| (Some(to), edited));
            self.letters.insert(position, Letter { delivery, key: key.clone(), to, edited });
        }
        let is_met = self.counts_met && {
            let rows = self.journal.rows_of(&self.options.run, &key).unwrap_or_else(|error| {
                self.fail(&error);
                self.machine.on(Event::Stop);
                Vec::new()
            });
            rows.iter().any(|(_, state)| is_gone(*state))
        };
        let seen = Seen { tag, key, wanted, is_echo, replays, lane, is_met, known };
        self.machine.on(Event::Seen(seen));
        if at_risk && (!wanted || self.options.rules.keeps) {
            self.report.lives_at_risk = true;
            self.machine.on(Event::Stop);
        }
    }

    /// Stops when more of what went has come back than may, by what the queue counts beyond its rest.
    async fn count_back(&mut self) {
        let most = self.options.most_back;
        let sent = self.machine.counts().replayed;
        if !most.breaks || sent == 0 || self.last_count.elapsed() < COUNT_EVERY {
            return;
        }
        self.last_count = Instant::now();
        if let Ok(Some(depth)) = self.broker.depth(&self.options.queue).await {
            let back = (depth.ready + self.delivered).saturating_sub(self.ready);
            if most.breaks_at(sent, back) {
                self.report.too_many_back = Some(back);
                self.machine.on(Event::Stop);
            }
        }
    }

    /// Waits until something has happened, and takes in what is there then.
    async fn wait(&mut self, wants: &mut Wants<'_>, stop: &Stop) {
        #[expect(
            clippy::large_enum_variant,
            reason = "lives for one turn of the loop, and a box would be one allocation per letter"
        )]
        enum Came {
            Delivery(Delivery),
            Outcome(Ticket, Outcome),
            Written(Result<(), StorageError>),
            Gone(BrokerError),
            Stop,
            Quiet,
        }
        if self.options.longest.is_some_and(|longest| self.began.elapsed() >= longest)
            && !std::mem::replace(&mut self.report.held_too_long, true)
        {
            self.machine.on(Event::Stop);
            return;
        }
        if self.take_ready(wants) {
            self.give_credit().await;
            return;
        }
        let takes = self.takes();
        let busy = self.publisher.in_flight() > 0;
        let writing = &mut self.writing;
        let came = tokio::select! {
            biased;
            () = stop.until(Wish::Finish), if !self.told_to_stop => Came::Stop,
            written = async {
                match writing {
                    Some(writing) => writing.await.unwrap_or_else(|error| {
                        Err(StorageError::Statement {
                            path: std::path::PathBuf::new(),
                            cause: error.to_string(),
                        })
                    }),
                    None => std::future::pending().await,
                }
            } => Came::Written(written),
            outcome = self.publisher.outcome(), if busy => match outcome {
                Some((ticket, outcome)) => Came::Outcome(ticket, outcome),
                None => Came::Quiet,
            },
            delivery = self.consumer.next(), if takes => match delivery {
                Ok(delivery) => Came::Delivery(delivery),
                Err(error) => Came::Gone(error),
            },
            () = tokio::time::sleep(self.options.poll) => Came::Quiet,
        };
        match came {
            Came::Delivery(delivery) => self.take(delivery, wants),
            Came::Outcome(ticket, outcome) => self.outcome(ticket, outcome),
            Came::Written(result) => {
                self.writing = None;
                match result {
                    Ok(()) => {
                        if let Some(reading) = &mut self.reading {
                            reading.unwritten = 0;
                        }
                        self.machine.on(Event::Written);
                    }
                    Err(error) => {
                        self.fail(&error);
                        self.machine.on(Event::WriteFailed);
                    }
                }
            }
            Came::Gone(error) => self.lose_consumer(Some(&error)),
            Came::Stop => {
                self.told_to_stop = true;
                self.machine.on(Event::Stop);
            }
            Came::Quiet => self.quiet().await,
        }
        self.take_ready(wants);
        self.give_credit().await;
    }

    /// Takes in what is here without waiting; whether there was anything.
    fn take_ready(&mut self, wants: &mut Wants<'_>) -> bool {
        let mut any = false;
        while let Some((ticket, outcome)) = self.publisher.ready_outcome() {
            self.outcome(ticket, outcome);
            any = true;
        }
        for _ in 0..AT_ONCE {
            if !self.takes() {
                break;
            }
            let Some(delivery) = self.consumer.ready() else { break };
            self.take(delivery, wants);
            any = true;
        }
        any
    }

    async fn quiet(&mut self) {
        if !self.machine.takes() || !self.machine.is_idle() {
            return;
        }
        if self.reading.is_some() {
            // What it had at the beginning has not all come.
            if self.quiet_since.elapsed() >= self.options.patience {
                self.report.stalled = true;
                self.machine.on(Event::Dry);
            }
            return;
        }
        let (ready, others) = match self.broker.depth(&self.options.queue).await {
            Ok(Some(depth)) => (depth.ready, depth.consumers > 1 && !self.options.alongside),
            Ok(None) => (0, false),
            Err(error) => {
                self.fail(&error);
                self.machine.on(Event::ConsumerLost);
                self.consumer_is_gone = true;
                return;
            }
        };
        // One look is not enough: a message may be on its way to us, counted nowhere.
        // What another consumer holds, a scan for example, may come back to us.
        let is_empty = ready == 0 && !others;
        self.empty_looks = if is_empty { self.empty_looks + 1 } else { 0 };
        let stalled = !is_empty && self.quiet_since.elapsed() >= self.options.patience;
        if self.empty_looks >= 2 || stalled {
            self.report.stalled = stalled;
            self.machine.on(Event::Dry);
        }
    }
}
