//! Asking: a message out, its answers in, and what became of every request.
//!
//! Answers come straight to the publisher's channel where the broker can do that (RabbitMQ's direct
//! reply-to: fast, and gone with the connection), else to a queue of this run's own: it is bounded,
//! outlives a lost connection, expires when nobody is left, and an answer is acked only after it is
//! written. Only an answer with the correlation id of a request that waits counts; others are counted
//! apart.
//!
//! A request expires on the broker when its time is up, so that nobody works for nobody. Nothing is
//! sent twice unless it is asked for, and then with the same ids, so that the other side can tell.

mod account;

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::Clock;
use crate::broker::{
    Broker, BrokerError, Change, Consumer, ConsumerOptions, DIRECT_REPLY_TO, Delivery, ErrorKind,
    Outcome, Publish, Publisher, PublisherOptions, QueueDefinition, QueueType, Settlement, Ticket,
};
use crate::message::envelope::message_id;
use crate::message::reply::ErrorAnswer;
use crate::message::{FieldTable, Message};
use crate::resilience::Backoff;
use crate::topology::route::route;
use crate::topology::view::TopologyView;

use super::publish::{Input, OnError, PublishEnd, read_ahead};
use super::source::{BadLine, Item, Read1, Source};
use super::stop::{Stop, Wish};

use account::{Account, After, Heard};
pub use account::{Entry, Fate, RequestReport, RequestVerdict, RoundTrips, Until};

/// Where answers come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Directly where the broker can, else to a queue.
    #[default]
    Best,
    /// Directly, or not at all.
    Direct,
    /// To a queue of this run's own.
    Queue,
}

/// How to ask.
pub struct RequestOptions {
    /// How long answers are waited for.
    pub timeout: Duration,
    /// When a request has all its answers.
    pub until: Until,
    /// Where answers come.
    pub via: Via,
    /// Whether the broker drops a request that nobody has taken when its time is up.
    pub expire: bool,
    /// How often a request may be sent again when it is unknown whether it arrived.
    pub retries: u32,
    /// How many requests may wait at once, at least 1.
    pub window: usize,
    /// Whether to ask although nobody consumes the queue.
    pub wait: bool,
    /// How long to try to connect again.
    pub patience: Duration,
    /// What to do with bad lines.
    pub on_error: OnError,
    /// How many entries of each fate a report keeps in memory.
    pub listed: usize,
    /// Takes every entry as one line of JSON.
    pub full_report: Option<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for RequestOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestOptions").field("until", &self.until).finish_non_exhaustive()
    }
}

impl Default for RequestOptions {
    fn default() -> Self {
        RequestOptions {
            timeout: Duration::from_secs(30),
            until: Until::Answers(1),
            via: Via::Best,
            expire: true,
            retries: 0,
            window: 1,
            wait: false,
            patience: Duration::from_secs(30),
            on_error: OnError::Stop,
            listed: 100,
            full_report: None,
        }
    }
}

/// Where new ids come from.
#[derive(Debug)]
pub struct Ids {
    /// The time in them.
    pub clock: Arc<dyn Clock>,
    /// The rest of them.
    pub random: fastrand::Rng,
}

impl Ids {
    fn next(&mut self) -> String {
        message_id(self.clock.now(), &mut self.random)
    }
}

/// One answer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The line of its request, from 1.
    pub line: u64,
    /// After how long it came.
    pub after: Duration,
    /// What it says, when it is an error.
    pub error: Option<ErrorAnswer>,
    /// The answer.
    pub delivery: &'a Delivery,
    /// The queue that it came to.
    pub queue: &'a str,
}

/// What came and is no answer.
#[derive(Debug)]
pub struct Stray<'a> {
    /// It belongs to a request that is not waited for any more; else to none of this run.
    pub late: bool,
    /// It.
    pub delivery: &'a Delivery,
}

/// Takes the answers.
pub trait Listener: Send {
    /// Takes one answer.
    fn answer(&mut self, answer: &Answer<'_>) -> io::Result<()>;

    /// Returns when every answer taken so far is where it belongs.
    fn commit(&mut self) -> io::Result<()>;

    /// Something came that is no answer.
    fn stray(&mut self, stray: &Stray<'_>) {
        let _ = stray;
    }
}

/// How many answers a queue holds; more are refused, which their senders see as a nack.
const QUEUE_LENGTH: i64 = 10_000;
/// After how long without anybody the queue of answers goes away, in milliseconds.
const QUEUE_EXPIRES_MS: i64 = 60_000;
/// How long finding out why nobody answered may take.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// Asks everything that `source` gives and hands the answers to `listener`.
///
/// # Errors
/// When the broker does not let itself be asked at all; what happens later is in the report.
pub async fn request(
    broker: &dyn Broker,
    source: Box<dyn Source>,
    options: RequestOptions,
    ids: Ids,
    listener: &mut dyn Listener,
    stop: &Stop,
) -> Result<RequestReport, BrokerError> {
    let started = Instant::now();
    let RequestOptions { until, timeout, listed, full_report, .. } = options;
    let options = RequestOptions { full_report: None, window: options.window.max(1), ..options };
    let mut ids = ids;
    let wire = Wire::open(broker, options.via, options.window, &mut ids).await?;
    let mut account = Account::new(until, timeout, listed, full_report);
    account.report.via = if wire.queue.is_some() { "queue" } else { "direct" };
    let mut run = Run {
        broker,
        wire,
        options,
        ids,
        listener,
        account,
        checked: HashMap::new(),
        diagnosed: HashMap::new(),
        waiting: VecDeque::new(),
        last_line: 0,
    };
    match read_ahead(source) {
        Ok(from) => run.ask_all(from, stop).await,
        Err(error) => run.account.fail(format!("cannot start a thread to read the input: {error}")),
    }
    Ok(run.wind_up(started, stop).await)
}

/// A way out and the way back.
struct Wire {
    publisher: Box<dyn Publisher>,
    answers: Box<dyn Consumer>,
    /// The queue of answers, unless they come directly.
    queue: Option<QueueName>,
}

impl Wire {
    async fn open(
        broker: &dyn Broker,
        via: Via,
        window: usize,
        ids: &mut Ids,
    ) -> Result<Wire, BrokerError> {
        // An answer may overtake the confirm of its request, so more may be unconfirmed than wait.
        let window = window.saturating_mul(2);
        if via != Via::Queue {
            let once = PublisherOptions { window, reconnect: false };
            let mut publisher = broker.publisher(once).await?;
            match publisher.direct_answers().await {
                Ok(answers) => return Ok(Wire { publisher, answers, queue: None }),
                Err(error) if via == Via::Best && error.kind == ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        let name = QueueName::new(format!("nexus.reply.{}", ids.next())).map_err(|error| {
            BrokerError::new(ErrorKind::Invalid, "name a queue", error.to_string())
        })?;
        let definition = QueueDefinition {
            arguments: FieldTable::new()
                .with("x-queue-type", "classic")
                .with("x-expires", QUEUE_EXPIRES_MS)
                .with("x-max-length", QUEUE_LENGTH)
                .with("x-overflow", "reject-publish"),
            ..QueueDefinition::durable(name.clone(), QueueType::Classic)
        };
        broker.change(&Change::DeclareQueue(definition)).await?;
        let answers = broker.consumer(&name, ConsumerOptions::default()).await?;
        let publisher = broker.publisher(PublisherOptions { window, reconnect: true }).await?;
        Ok(Wire { publisher, answers, queue: Some(name) })
    }

    fn reply_to(&self) -> &str {
        self.queue.as_ref().map_or(DIRECT_REPLY_TO, QueueName::as_str)
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    End,
}

struct Run<'a> {
    broker: &'a dyn Broker,
    wire: Wire,
    options: RequestOptions,
    ids: Ids,
    listener: &'a mut dyn Listener,
    account: Account,
    /// Why nobody can answer at this place; `None` when somebody may.
    checked: HashMap<(ExchangeName, RoutingKey), Option<String>>,
    /// The same after the time was up.
    diagnosed: HashMap<(ExchangeName, RoutingKey), Option<String>>,
    waiting: VecDeque<Read1>,
    last_line: u64,
}

/// Why a run ends before its input does.
enum Event {
    Stop,
    Outcome(Ticket, Outcome),
    Answer(Box<Delivery>),
    Lost(BrokerError),
    Input(Option<Input>),
    Due,
}

impl Run<'_> {
    async fn ask_all(&mut self, mut from: mpsc::Receiver<Input>, stop: &Stop) {
        let finish = stop.until(Wish::Finish);
        tokio::pin!(finish);
        let far = Instant::now() + Duration::from_secs(86_400 * 365 * 30);
        let mut is_open = true;
        loop {
            if let Next::End = self.fill(stop).await {
                return;
            }
            if !is_open && self.waiting.is_empty() && self.account.waiting() == 0 {
                return;
            }
            let due = self.account.next_due().unwrap_or(far);
            let wants_input = is_open && self.waiting.is_empty();
            let Wire { publisher, answers, .. } = &mut self.wire;
            let unconfirmed = publisher.in_flight() > 0;
            let event = tokio::select! {
                biased;
                () = &mut finish => Event::Stop,
                answer = answers.next() => match answer {
                    Ok(delivery) => Event::Answer(Box::new(delivery)),
                    Err(error) => Event::Lost(error),
                },
                Some((ticket, outcome)) = publisher.outcome(), if unconfirmed => {
                    Event::Outcome(ticket, outcome)
                }
                input = from.recv(), if wants_input => Event::Input(input),
                () = sleep_until(due), if due != far => Event::Due,
            };
            let next = match event {
                Event::Stop => {
                    self.account.report.ended = PublishEnd::Stopped;
                    if is_open || !self.waiting.is_empty() {
                        self.account.not_sent(self.last_line + 1);
                    }
                    return;
                }
                Event::Outcome(ticket, outcome) => self.settle(ticket, outcome, stop).await,
                Event::Answer(delivery) => self.take(*delivery).await,
                Event::Lost(error) => self.lost(error, stop).await,
                Event::Input(None) => {
                    is_open = false;
                    Next::Go
                }
                Event::Input(Some(Input::Batch(batch))) => {
                    self.waiting.extend(batch);
                    Next::Go
                }
                Event::Input(Some(Input::Failed(error))) => {
                    let after = self.last_line;
                    self.account.fail(format!("cannot read the input after line {after}: {error}"));
                    self.account.not_sent(after + 1);
                    is_open = false;
                    Next::Go
                }
                Event::Due => self.expire().await,
            };
            if let Next::End = next {
                if is_open || !self.waiting.is_empty() {
                    self.account.not_sent(self.last_line + 1);
                }
                return;
            }
        }
    }

    /// A report that cannot be written ends the run.
    fn entered(&mut self, result: io::Result<()>) -> Next {
        match result {
            Ok(()) => Next::Go,
            Err(error) => {
                self.account.fail(format!("cannot write the report: {error}"));
                Next::End
            }
        }
    }

    /// Sends while there is room and something to send.
    async fn fill(&mut self, stop: &Stop) -> Next {
        while self.account.waiting() < self.options.window && stop.wish() == Wish::Run {
            let Some(read) = self.waiting.pop_front() else { break };
            let next = match read {
                Ok(item) => {
                    let line = item.line;
                    let next = self.ask(item, stop).await;
                    self.last_line = line;
                    next
                }
                Err(bad) => {
                    self.last_line = bad.line;
                    self.bad_line(bad)
                }
            };
            if let Next::End = next {
                return Next::End;
            }
        }
        Next::Go
    }

    fn bad_line(&mut self, bad: BadLine) -> Next {
        let line = bad.line;
        let kept = match &mut self.options.on_error {
            OnError::File(file) => file.write_all(&bad.raw).and_then(|()| file.write_all(b"\n")),
            OnError::Stop | OnError::Skip => Ok(()),
        };
        if let Err(error) = kept {
            self.account
                .fail(format!("cannot write line {line} to the file of bad lines: {error}"));
            return Next::End;
        }
        let entered = self.account.skip(bad);
        if let Next::End = self.entered(entered) {
            return Next::End;
        }
        if let OnError::Stop = self.options.on_error {
            self.account.report.ended = PublishEnd::BadLine;
            self.waiting.clear();
            return Next::End;
        }
        Next::Go
    }

    async fn ask(&mut self, item: Item, stop: &Stop) -> Next {
        let Item { line, mut publish } = item;
        let properties = &mut publish.message.properties;
        properties.message_id.get_or_insert_with(|| self.ids.next());
        let correlation = properties.correlation_id.get_or_insert_with(|| self.ids.next()).clone();
        if self.account.is_waiting(&correlation) {
            let reason = format!(
                "the correlation id `{correlation}` belongs to a request that still waits; leave it \
                 out to get one of its own"
            );
            return self.bad_line(BadLine { line, reason, raw: Vec::new() });
        }
        if let Some(why) = self.check(&publish).await {
            let entered = self.account.nobody(line, &publish, why);
            return self.entered(entered);
        }
        let began = Instant::now();
        let keeps = self.options.retries > 0;
        loop {
            let mut out = publish.clone();
            self.address(&mut out.message, began);
            let sent = {
                let send = self.wire.publisher.send(out);
                tokio::select! {
                    biased;
                    result = send => result,
                    () = stop.until(Wish::Now) => {
                        self.account.not_sent(line);
                        self.account.report.ended = PublishEnd::Stopped;
                        return Next::End;
                    }
                }
            };
            match sent {
                Ok(ticket) => {
                    let Publish { exchange, routing_key, message } = &publish;
                    let id = message.properties.message_id.clone();
                    let (exchange, key) = (exchange.to_string(), routing_key.to_string());
                    let again = keeps.then(|| (publish.clone(), self.options.retries));
                    self.account.sent(ticket, line, correlation, id, exchange, key, began, again);
                    return Next::Go;
                }
                Err(error) if error.kind == ErrorKind::Invalid => {
                    let reason = error.to_string();
                    return self.bad_line(BadLine { line, reason, raw: Vec::new() });
                }
                // It was not sent, so it may be sent now; the others that wait are in doubt.
                Err(error) if error.is_transient() => {
                    if let Next::End = self.lost(error, stop).await {
                        self.account.not_sent(line);
                        return Next::End;
                    }
                }
                Err(error) => {
                    self.account.not_sent(line);
                    self.account.fail_with(error);
                    return Next::End;
                }
            }
        }
    }

    /// Puts in where the answer goes and how long the request is worth anything.
    fn address(&self, message: &mut Message, began: Instant) {
        let properties = &mut message.properties;
        properties.reply_to = Some(self.wire.reply_to().to_owned());
        if self.options.expire && properties.expiration.is_none() {
            let left = self.options.timeout.saturating_sub(began.elapsed());
            properties.expiration = Some(left.as_millis().max(1).to_string());
        }
    }

    /// Why nobody can answer there, as far as it shows before asking. What cannot be looked at is
    /// asked all the same.
    async fn check(&mut self, publish: &Publish) -> Option<String> {
        let place = (publish.exchange.clone(), publish.routing_key.clone());
        if let Some(known) = self.checked.get(&place) {
            return known.clone();
        }
        let (exchange, key) = &place;
        let why = match QueueName::new(key.as_str()) {
            _ if !exchange.is_default() => match self.broker.has_exchange(exchange).await {
                Ok(false) => Some(format!("exchange `{exchange}` does not exist")),
                _ => None,
            },
            Ok(queue) => match self.broker.depth(&queue).await {
                Ok(None) => Some(format!("queue `{queue}` does not exist")),
                Ok(Some(depth)) if depth.consumers == 0 && !self.options.wait => {
                    Some(format!("queue `{queue}` has no consumer; nothing was sent"))
                }
                _ => None,
            },
            Err(_) => None,
        };
        self.checked.insert(place, why.clone());
        why
    }

    async fn settle(&mut self, ticket: Ticket, outcome: Outcome, stop: &Stop) -> Next {
        let after = match self.account.settle(ticket, outcome) {
            Ok(after) => after,
            Err(error) => return self.entered(Err(error)),
        };
        match after {
            After::Nothing => Next::Go,
            After::End => Next::End,
            // Directly, the answers go with the connection: `lost` decides about all of them.
            After::Again(_) if self.wire.queue.is_none() => Next::Go,
            After::Again(number) => self.send_again(number, stop).await,
        }
    }

    /// Sends the same message once more.
    async fn send_again(&mut self, number: u64, stop: &Stop) -> Next {
        let Some(pending) = self.account.get_mut(number) else { return Next::Go };
        let began = pending.deadline - self.options.timeout;
        let Some((publish, left)) = &mut pending.again else { return Next::Go };
        *left = left.saturating_sub(1);
        let mut out = publish.clone();
        self.address(&mut out.message, began);
        let send = self.wire.publisher.send(out);
        let sent = tokio::select! {
            biased;
            sent = send => sent,
            () = stop.until(Wish::Now) => return Next::End,
        };
        match sent {
            Ok(ticket) => self.account.sent_again(number, ticket),
            // It stays in doubt; its time runs out like that of the others.
            Err(error) => {
                if let Some(pending) = self.account.get_mut(number) {
                    pending.doubt = Some(error.to_string());
                }
            }
        }
        Next::Go
    }

    /// Takes an answer, and all others that are here.
    async fn take(&mut self, first: Delivery) -> Next {
        let queue = self.wire.queue.clone();
        let queue_name = queue.as_ref().map_or(DIRECT_REPLY_TO, QueueName::as_str);
        let mut taken = Vec::new();
        let mut numbers = Vec::new();
        let mut next = Some(first);
        let mut result = Ok(());
        while let Some(delivery) = next.take() {
            let now = Instant::now();
            match self.account.hear(&delivery, now) {
                Heard::Answer { number, line, after, error } => {
                    let answer =
                        Answer { line, after, error, delivery: &delivery, queue: queue_name };
                    result = self.listener.answer(&answer);
                    numbers.push(number);
                }
                heard @ (Heard::Late | Heard::Foreign) => {
                    let late = heard == Heard::Late;
                    self.listener.stray(&Stray { late, delivery: &delivery });
                }
            }
            taken.push(delivery.tag);
            if result.is_err() {
                break;
            }
            next = self.wire.answers.ready();
        }
        if let Err(error) = result.and_then(|()| self.listener.commit()) {
            let report = &mut self.account.report;
            report.pipe_closed = error.kind() == io::ErrorKind::BrokenPipe;
            report.left_behind = queue.map(|queue| {
                format!(
                    "answers that were not written are in the queue `{queue}` for {} s",
                    QUEUE_EXPIRES_MS / 1000
                )
            });
            self.account.fail(format!("cannot write the output: {error}"));
            return Next::End;
        }
        for number in numbers {
            let written = self.account.written(number);
            if let Next::End = self.entered(written) {
                return Next::End;
            }
        }
        if queue.is_some() {
            for tag in taken {
                // An ack that does not arrive brings the answer again, and that is recognised.
                let _ = self.wire.answers.settle(tag, Settlement::Ack).await;
            }
        }
        Next::Go
    }

    /// Ends the waiting of those whose time is up. What is here already has come in time.
    async fn expire(&mut self) -> Next {
        if let Some(delivery) = self.wire.answers.ready() {
            return self.take(delivery).await;
        }
        while let Some((ticket, outcome)) = self.wire.publisher.ready_outcome() {
            if let Err(error) = self.account.settle(ticket, outcome) {
                return self.entered(Err(error));
            }
        }
        for number in self.account.overdue(Instant::now()) {
            let place = self.account.get_mut(number).and_then(|pending| {
                let exchange = ExchangeName::new(pending.exchange.as_str()).ok()?;
                Some((exchange, RoutingKey::new(pending.key.as_str()).ok()?))
            });
            let nobody = match place {
                Some(place) => self.diagnose(place).await,
                None => None,
            };
            let done = self.account.time_is_up(number, nobody);
            if let Next::End = self.entered(done) {
                return Next::End;
            }
        }
        Next::Go
    }

    /// Why nobody answered, when it is because nobody consumes.
    async fn diagnose(&mut self, place: (ExchangeName, RoutingKey)) -> Option<String> {
        if let Some(known) = self.diagnosed.get(&place) {
            return known.clone();
        }
        let why = timeout(DIAGNOSIS, who_consumes(self.broker, &place)).await.ok().flatten();
        self.diagnosed.insert(place, why.clone());
        why
    }

    /// The way back is gone, and with it perhaps answers. Sends again what may be sent again, and says
    /// of the rest what may have happened.
    async fn lost(&mut self, error: BrokerError, stop: &Stop) -> Next {
        // Everything on its way has its outcome soon: the channel has ended, or the time-out is near.
        loop {
            let outcome = tokio::select! {
                biased;
                outcome = self.wire.publisher.outcome() => outcome,
                () = stop.until(Wish::Finish) => None,
            };
            let Some((ticket, outcome)) = outcome else { break };
            match self.account.settle(ticket, outcome) {
                Ok(After::End) => return Next::End,
                Ok(_) => {}
                Err(error) => return self.entered(Err(error)),
            }
        }
        let mut again = Vec::new();
        for number in self.account.numbers() {
            let Some(pending) = self.account.get_mut(number) else { continue };
            if pending.again.as_ref().is_some_and(|(_, left)| *left > 0) {
                again.push(number);
                continue;
            }
            let doubted = self.doubt(number, &error);
            if let Next::End = doubted {
                return Next::End;
            }
        }
        self.account.forget_tickets();
        if let Err(failed) = self.connect_again(stop).await {
            for number in again {
                if let Next::End = self.doubt(number, &error) {
                    return Next::End;
                }
            }
            self.account.fail_with(failed);
            return Next::End;
        }
        self.account.report.reconnects += 1;
        for number in again {
            if let Next::End = self.send_again(number, stop).await {
                return Next::End;
            }
        }
        Next::Go
    }

    /// What may have happened to a request whose answer cannot come any more.
    fn doubt(&mut self, number: u64, error: &BrokerError) -> Next {
        let Some(pending) = self.account.get_mut(number) else { return Next::Go };
        let fate = match (pending.confirmed, &pending.doubt) {
            (true, _) => {
                "the broker had it, so somebody may have done the work; the answer is lost"
                    .to_owned()
            }
            (false, Some(why)) => format!("it may have been delivered or not ({why})"),
            (false, None) => "it may have been delivered or not".to_owned(),
        };
        let reason = format!("{}: {fate}", error.cause);
        let done = self.account.finish(number, Fate::Unknown, Some(reason), None);
        self.entered(done)
    }

    /// Opens the wire anew, trying for as long as patience lasts.
    async fn connect_again(&mut self, stop: &Stop) -> Result<(), BrokerError> {
        let end = Instant::now() + self.options.patience;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        let (via, window) = match self.wire.queue {
            Some(_) => (Via::Queue, self.options.window),
            None => (Via::Direct, self.options.window),
        };
        loop {
            let opening = Wire::open(self.broker, via, window, &mut self.ids);
            let opened = tokio::select! {
                biased;
                () = stop.until(Wish::Finish) => {
                    let cause = "stopped while the connection was being made again";
                    return Err(BrokerError::new(ErrorKind::ConnectionLost, "ask", cause));
                }
                opened = opening => opened,
            };
            match opened {
                Ok(wire) => {
                    self.wire = wire;
                    return Ok(());
                }
                Err(error) => {
                    let wait = backoff.next_wait(self.ids.random.u64(..));
                    if !error.is_transient() || Instant::now() + wait >= end {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    async fn wind_up(mut self, started: Instant, stop: &Stop) -> RequestReport {
        let stopped = self.account.report.ended == PublishEnd::Stopped;
        for number in self.account.numbers() {
            let (fate, why) = match self.account.get_mut(number) {
                Some(pending) if !stopped && !pending.confirmed => {
                    (Fate::Unknown, "it may have been delivered or not, and was not waited for")
                }
                _ => (Fate::Stopped, "it was asked, and its answer was not waited for"),
            };
            let done = self.account.finish(number, fate, Some(why.to_owned()), None);
            let _ = self.entered(done);
        }
        let flushed = self.account.flush();
        let _ = self.entered(flushed);
        let Wire { publisher, answers, queue } = self.wire;
        let closing = async {
            let _ = publisher.close().await;
            let _ = answers.close().await;
            let queue = queue.filter(|_| self.account.report.left_behind.is_none())?;
            let delete =
                Change::DeleteQueue { name: queue.clone(), if_empty: false, if_unused: false };
            let error = self.broker.change(&delete).await.err()?;
            Some(format!(
                "the queue `{queue}` could not be deleted ({error}); it goes by itself {} s after \
                 its last use",
                QUEUE_EXPIRES_MS / 1000
            ))
        };
        let left_behind = tokio::select! {
            biased;
            left_behind = closing => left_behind,
            () = stop.until(Wish::Now) => None,
        };
        let mut report = self.account.report;
        report.left_behind = report.left_behind.or(left_behind);
        report.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        report
    }
}

/// Says why nobody can answer at this place, when no queue that a request reaches has a consumer.
async fn who_consumes(
    broker: &dyn Broker,
    (exchange, key): &(ExchangeName, RoutingKey),
) -> Option<String> {
    let queues: Vec<QueueName> = if exchange.is_default() {
        vec![QueueName::new(key.as_str()).ok()?]
    } else {
        let snapshot = broker.inspect().await.ok()?;
        let view = TopologyView::of_snapshot(&snapshot);
        let routed = route(&view, exchange, key, &FieldTable::new());
        routed.queues.iter().filter_map(|route| QueueName::new(route.queue.as_str()).ok()).collect()
    };
    const LOOKED_AT: usize = 16;
    if queues.is_empty() || queues.len() > LOOKED_AT {
        return None;
    }
    for queue in &queues {
        let depth = broker.depth(queue).await.ok()?;
        if depth.is_some_and(|depth| depth.consumers > 0) {
            return None;
        }
    }
    let names: Vec<String> = queues.iter().map(|queue| format!("`{queue}`")).collect();
    Some(match names.as_slice() {
        [only] => format!("it reached the queue {only}, which has no consumer"),
        many => format!("it reached the queues {}, which have no consumer", many.join(", ")),
    })
}
