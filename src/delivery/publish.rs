//! Publishing with every outcome accounted for.
//!
//! A source is read on a thread of its own; messages go out in a pipelined window, always mandatory
//! and confirmed. What is kept is the window and bounded lists, so memory does not grow with the input.
//! However the run ends, everything in flight is awaited and reported. Sending the same message again
//! after a failure, and dropping duplicates, is not decided here.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::base::id::exchange_in_words;
use crate::broker::{BrokerError, ErrorKind, Outcome, Publish, Publisher, Ticket};
use crate::message::record::{RecordRef, write_record};

use super::pace::Pace;
use super::source::{BadLine, Item, Read1, Source};
use super::stop::{Stop, Wish};

/// What to do with a line that is no message, or that the broker would not even look at.
pub enum OnError {
    /// Send nothing more.
    Stop,
    /// Name it and go on.
    Skip,
    /// Name it, write the line there and go on.
    File(Box<dyn Write + Send>),
}

impl std::fmt::Debug for OnError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            OnError::Stop => "Stop",
            OnError::Skip => "Skip",
            OnError::File(_) => "File",
        })
    }
}

/// How to publish.
pub struct PublishOptions {
    /// What to do with bad lines.
    pub on_error: OnError,
    /// How fast.
    pub pace: Option<Pace>,
    /// How many entries a report keeps in memory of each kind.
    pub listed: usize,
    /// Takes every entry as one line of JSON, confirmed ones included.
    pub full_report: Option<Box<dyn Write + Send>>,
    /// Is told of every entry before anything more is sent; its failure ends the run.
    pub on_entry: Option<OnEntry>,
}

/// Is told what became of a line.
pub type OnEntry = Box<dyn FnMut(&Entry) -> io::Result<()> + Send>;

impl std::fmt::Debug for PublishOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishOptions").field("on_error", &self.on_error).finish_non_exhaustive()
    }
}

impl Default for PublishOptions {
    fn default() -> Self {
        PublishOptions {
            on_error: OnError::Stop,
            pace: None,
            listed: 100,
            full_report: None,
            on_entry: None,
        }
    }
}

/// What became of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// The broker has it.
    Confirmed,
    /// No queue took it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// It may be there or not.
    Unknown,
    /// It was never sent: the line is bad.
    Skipped,
}

/// One line and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its line, or its number when there are no lines; from 1.
    pub line: u64,
    /// What became of it.
    pub fate: Fate,
    /// The property `message_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Where it was to go; `None` for a line that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Under which key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    /// Why, unless it is confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reply code with which it came back.
    #[serde(skip)]
    pub code: Option<u16>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PublishEnd {
    /// The input was used up.
    Complete,
    /// A bad line, and the wish to stop there.
    BadLine,
    /// Somebody asked to stop.
    Stopped,
    /// The input, the broker or a file failed; `error` says which and why.
    Failed,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishReport {
    /// Why it ended.
    pub ended: PublishEnd,
    /// The broker has them.
    pub confirmed: u64,
    /// No queue took them.
    pub returned: u64,
    /// The broker refused them.
    pub nacked: u64,
    /// They may be there or not.
    pub unknown: u64,
    /// Bad lines, never sent.
    pub skipped: u64,
    /// Body bytes of the confirmed messages.
    pub confirmed_bytes: u64,
    /// The first line that was not sent although it may be good; `None` when the input was used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_not_sent: Option<u64>,
    /// The first line whose outcome is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_unknown: Option<u64>,
    /// The first confirmed messages, up to the bound of the list.
    pub confirmed_entries: Vec<Entry>,
    /// All others in the order of their outcomes, up to the bound of the list for each fate.
    pub entries: Vec<Entry>,
    /// Whether the two lists hold everything.
    pub listed_all: bool,
    /// What failed, when `ended` is `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The broker's part of the failure, or the missing permission that refused messages; for the exit
    /// status.
    #[serde(skip)]
    pub broker_error: Option<BrokerError>,
    /// Milliseconds from the first reading to the last outcome.
    pub elapsed_ms: u64,
}

/// What a run means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PublishVerdict {
    /// Everything is confirmed: status 0.
    Accepted,
    /// Something was confirmed, and bad lines were left out: status 3.
    Partly,
    /// Something was returned or nacked: status 5.
    Refused,
    /// Something is unknown: status 6.
    Unknown,
    /// Nothing was confirmed, because of bad input: status 65.
    BadInput,
    /// The broker, the input or a file failed: status 69 or 1.
    Failed,
    /// Stopped by a signal, everything in flight accounted for: status 130 or 143.
    Stopped,
}

impl PublishReport {
    /// What it means. Doubt outweighs refusal, refusal outweighs an early end.
    pub fn verdict(&self) -> PublishVerdict {
        if self.unknown > 0 {
            PublishVerdict::Unknown
        } else if self.returned + self.nacked > 0 {
            PublishVerdict::Refused
        } else if self.ended == PublishEnd::Failed {
            PublishVerdict::Failed
        } else if self.ended == PublishEnd::Stopped {
            PublishVerdict::Stopped
        } else if self.skipped == 0 {
            PublishVerdict::Accepted
        } else if self.confirmed > 0 {
            PublishVerdict::Partly
        } else {
            PublishVerdict::BadInput
        }
    }

    /// Where a next run goes on without leaving a line out; `None` when there is nothing left to send.
    pub fn resume_at(&self) -> Option<u64> {
        [self.first_unknown, self.first_not_sent].into_iter().flatten().min()
    }

    /// `41 lines were confirmed; line 44 is the first that was not sent`, for whoever goes on by hand.
    pub fn resume_statement(&self) -> Option<String> {
        let resume = self.resume_at()?;
        let lines = if self.confirmed == 1 { "line was" } else { "lines were" };
        let mut text = format!("{} {lines} confirmed", self.confirmed);
        if let Some(first) = self.first_unknown {
            let number = self.unknown;
            text += &format!("; {number} from line {first} on may be there or not");
        }
        match self.first_not_sent {
            Some(line) => text += &format!("; line {line} is the first that was not sent"),
            None => text += "; every line was sent",
        }
        if self.first_unknown.is_some() {
            text += &format!("; going on at line {resume} loses nothing and may repeat messages");
        }
        Some(text)
    }
}

/// A message on its way.
#[derive(Debug)]
struct Sent {
    line: u64,
    bytes: usize,
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

/// Keeps account. Every ticket gets exactly one fate, unless it turns out not to be sent after all.
struct Ledger {
    report: PublishReport,
    listed: usize,
    full_report: Option<Box<dyn Write + Send>>,
    on_entry: Option<OnEntry>,
    /// Messages on their way; the first has the ticket `base`.
    waiting: VecDeque<Option<Sent>>,
    base: u64,
    in_flight: usize,
}

impl Ledger {
    fn new(
        listed: usize,
        full_report: Option<Box<dyn Write + Send>>,
        on_entry: Option<OnEntry>,
    ) -> Self {
        Ledger {
            report: PublishReport {
                ended: PublishEnd::Complete,
                confirmed: 0,
                returned: 0,
                nacked: 0,
                unknown: 0,
                skipped: 0,
                confirmed_bytes: 0,
                first_not_sent: None,
                first_unknown: None,
                confirmed_entries: Vec::new(),
                entries: Vec::new(),
                listed_all: true,
                error: None,
                broker_error: None,
                elapsed_ms: 0,
            },
            listed,
            full_report,
            on_entry,
            waiting: VecDeque::new(),
            base: 0,
            in_flight: 0,
        }
    }

    fn sent(&mut self, ticket: Ticket, sent: Sent) {
        if self.waiting.is_empty() {
            self.base = ticket.0;
        }
        while self.base + (self.waiting.len() as u64) < ticket.0 {
            self.waiting.push_back(None);
        }
        self.waiting.push_back(Some(sent));
        self.in_flight += 1;
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> io::Result<Next> {
        let index = ticket.0.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
        let Some(sent) = index.and_then(|index| self.waiting.get_mut(index)).and_then(Option::take)
        else {
            return Ok(Next::Go);
        };
        self.in_flight -= 1;
        while self.waiting.front().is_some_and(Option::is_none) {
            self.waiting.pop_front();
            self.base += 1;
        }
        let code = match &outcome {
            Outcome::Returned { code, .. } => Some(*code),
            _ => None,
        };
        let (fate, reason) = match outcome {
            Outcome::Confirmed => (Fate::Confirmed, None),
            Outcome::Returned { code, text } => {
                if code == ACCESS_REFUSED {
                    let error = || no_permission(&sent.exchange, &text);
                    self.report.broker_error.get_or_insert_with(error);
                }
                (Fate::Returned, Some(format!("{code} {text}")))
            }
            Outcome::Nacked => (Fate::Nacked, Some("the broker refused it".to_owned())),
            Outcome::Unknown { why } => (Fate::Unknown, Some(why)),
            Outcome::Failed(error) => {
                self.not_sent(sent.line);
                self.fail_with(*error);
                return Ok(Next::End);
            }
        };
        self.count(sent, fate, reason, code).map(|()| Next::Go)
    }

    fn count(
        &mut self,
        sent: Sent,
        fate: Fate,
        reason: Option<String>,
        code: Option<u16>,
    ) -> io::Result<()> {
        if fate == Fate::Confirmed {
            self.report.confirmed_bytes += sent.bytes as u64;
        }
        self.enter(Entry {
            line: sent.line,
            fate,
            message_id: sent.message_id,
            exchange: Some(sent.exchange),
            routing_key: Some(sent.routing_key),
            reason,
            code,
        })
    }

    fn enter(&mut self, entry: Entry) -> io::Result<()> {
        let report = &mut self.report;
        let (count, list) = match entry.fate {
            Fate::Confirmed => (&mut report.confirmed, &mut report.confirmed_entries),
            Fate::Returned => (&mut report.returned, &mut report.entries),
            Fate::Nacked => (&mut report.nacked, &mut report.entries),
            Fate::Unknown => (&mut report.unknown, &mut report.entries),
            Fate::Skipped => (&mut report.skipped, &mut report.entries),
        };
        *count += 1;
        if entry.fate == Fate::Unknown {
            let first = report.first_unknown.get_or_insert(entry.line);
            *first = entry.line.min(*first);
        }
        let written = match &mut self.full_report {
            None => Ok(()),
            Some(file) => serde_json::to_writer(&mut *file, &entry)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n")),
        };
        let told = self.on_entry.as_mut().map_or(Ok(()), |tell| tell(&entry));
        if *count <= self.listed as u64 {
            list.push(entry);
        } else {
            report.listed_all = false;
        }
        written.and(told)
    }

    /// What could not be written once is not tried again.
    fn stop_telling(&mut self) {
        self.full_report = None;
        self.on_entry = None;
    }

    fn fail(&mut self, error: String) {
        self.report.ended = PublishEnd::Failed;
        self.report.error.get_or_insert(error);
    }

    /// The broker takes nothing any more.
    fn fail_with(&mut self, error: BrokerError) {
        self.fail(error.to_string());
        self.report.broker_error.get_or_insert(error);
    }

    /// The line is still to be sent.
    fn not_sent(&mut self, line: u64) {
        let first = self.report.first_not_sent.get_or_insert(line);
        *first = line.min(*first);
    }
}

/// AMQP's reply code.
pub(super) const ACCESS_REFUSED: u16 = 403;

pub(super) fn no_permission(exchange: &str, text: &str) -> BrokerError {
    let meant = if exchange.is_empty() { "amq.default" } else { exchange };
    let attempted = format!("publish to {}", exchange_in_words(exchange));
    BrokerError::new(ErrorKind::AccessRefused, attempted, "the broker refuses access")
        .reply(ACCESS_REFUSED, text)
        .hint(format!("ask for the write permission on `{meant}`, or use another login"))
}

/// What the reading thread hands over.
#[derive(Debug)]
pub(super) enum Input {
    Batch(Vec<Read1>),
    Failed(io::Error),
}

/// Batches are small enough that four of them are little memory, and large enough that handing over
/// costs nothing.
const BATCH_ITEMS: usize = 64;
const BATCH_BYTES: usize = 256 * 1024;

/// Reads `source` on a thread of its own, a few batches ahead.
pub(super) fn read_ahead(source: Box<dyn Source>) -> io::Result<mpsc::Receiver<Input>> {
    let (to, from) = mpsc::channel(4);
    let spawned = std::thread::Builder::new().name("source".to_owned());
    spawned.spawn(move || read(source, &to))?;
    Ok(from)
}

/// Reads `source` until its end or until nobody wants more. Runs on a thread of its own, which may stay
/// in a read that never returns; it holds nothing but the source.
fn read(mut source: Box<dyn Source>, to: &mpsc::Sender<Input>) {
    let mut batch = Vec::new();
    let mut bytes = 0;
    loop {
        // What is there goes out before waiting for more: a slow input must not hold messages back.
        let full = batch.len() >= BATCH_ITEMS || bytes >= BATCH_BYTES;
        if full || (!batch.is_empty() && !source.is_ready()) {
            bytes = 0;
            if to.blocking_send(Input::Batch(std::mem::take(&mut batch))).is_err() {
                return;
            }
        }
        match source.next() {
            Ok(Some(read)) => {
                bytes += match &read {
                    Ok(item) => item.publish.message.body.len(),
                    Err(bad) => bad.raw.len(),
                };
                batch.push(read);
            }
            Ok(None) => break,
            Err(error) => {
                let _ = to.blocking_send(Input::Batch(batch));
                let _ = to.blocking_send(Input::Failed(error));
                return;
            }
        }
    }
    if !batch.is_empty() {
        let _ = to.blocking_send(Input::Batch(batch));
    }
}

/// How far a run has come, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Messages handed to the broker.
    pub sent: u64,
    /// Messages with an outcome.
    pub settled: u64,
    /// Messages not accepted so far: returned, nacked, unknown or bad.
    pub refused: u64,
}

/// Publishes everything that `source` gives. Ends after every outcome is known, except when `stop` asks
/// for [`Wish::Now`]: then what is in flight is reported as unknown. `progress` is called after
/// every batch.
pub async fn publish(
    publisher: Box<dyn Publisher>,
    source: Box<dyn Source>,
    options: PublishOptions,
    stop: &Stop,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> PublishReport {
    let started = Instant::now();
    let mut run = Run {
        publisher,
        ledger: Ledger::new(options.listed, options.full_report, options.on_entry),
        on_error: options.on_error,
        pace: options.pace,
        started,
        sent: 0,
    };
    match read_ahead(source) {
        Ok(from) => run.send_all(from, stop, progress).await,
        Err(error) => run.ledger.fail(format!("cannot start a thread to read the input: {error}")),
    }
    run.await_outcomes(stop).await;
    progress(run.progress());
    let mut ledger = run.ledger;
    if let Some(file) = &mut ledger.full_report
        && let Err(error) = file.flush()
    {
        ledger.fail(format!("cannot write the report: {error}"));
    }
    let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let close = run.publisher.close();
    tokio::select! {
        biased;
        // Every outcome is known, so a connection that does not close well changes nothing.
        _ = close => {}
        () = stop.until(Wish::Now) => {}
    }
    PublishReport { elapsed_ms: elapsed, ..ledger.report }
}

struct Run {
    publisher: Box<dyn Publisher>,
    ledger: Ledger,
    on_error: OnError,
    pace: Option<Pace>,
    started: Instant,
    sent: u64,
}

/// Whether to go on sending.
enum Next {
    Go,
    End,
}

impl Run {
    fn progress(&self) -> Progress {
        let report = &self.ledger.report;
        let refused = report.returned + report.nacked + report.unknown;
        Progress {
            sent: self.sent,
            settled: report.confirmed + refused,
            refused: refused + report.skipped,
        }
    }

    async fn send_all(
        &mut self,
        mut from: mpsc::Receiver<Input>,
        stop: &Stop,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) {
        let finish = stop.until(Wish::Finish);
        tokio::pin!(finish);
        let mut last_line = 0;
        loop {
            let input = tokio::select! {
                biased;
                () = &mut finish => {
                    self.ledger.report.ended = PublishEnd::Stopped;
                    self.ledger.report.first_not_sent = Some(last_line + 1);
                    return;
                }
                input = from.recv() => input,
                Some((ticket, outcome)) = self.publisher.outcome(), if self.ledger.in_flight > 0 => {
                    if let Next::End = self.settle(ticket, outcome) {
                        self.ledger.not_sent(last_line + 1);
                        return;
                    }
                    continue;
                }
            };
            let batch = match input {
                None => return,
                Some(Input::Batch(batch)) => batch,
                Some(Input::Failed(error)) => {
                    self.ledger
                        .fail(format!("cannot read the input after line {last_line}: {error}"));
                    self.ledger.report.first_not_sent = Some(last_line + 1);
                    return;
                }
            };
            for read in batch {
                let line = match &read {
                    Ok(item) => item.line,
                    Err(bad) => bad.line,
                };
                if stop.wish() > Wish::Run {
                    self.ledger.report.ended = PublishEnd::Stopped;
                    self.ledger.report.first_not_sent = Some(line);
                    return;
                }
                let next = match read {
                    Ok(item) => self.send(item, stop).await,
                    Err(bad) => self.bad_line(bad),
                };
                if let Next::End = next {
                    self.ledger.report.first_not_sent.get_or_insert(line + 1);
                    return;
                }
                last_line = line;
            }
            progress(self.progress());
        }
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> Next {
        match self.ledger.settle(ticket, outcome) {
            Ok(next) => next,
            Err(error) => {
                self.ledger.stop_telling();
                self.ledger.fail(format!("cannot write the report: {error}"));
                Next::End
            }
        }
    }

    fn bad_line(&mut self, bad: BadLine) -> Next {
        let kept = match &mut self.on_error {
            OnError::File(file) => file.write_all(&bad.raw).and_then(|()| file.write_all(b"\n")),
            OnError::Stop | OnError::Skip => Ok(()),
        };
        let line = bad.line;
        let entered = self.ledger.enter(Entry {
            line,
            fate: Fate::Skipped,
            message_id: None,
            exchange: None,
            routing_key: None,
            reason: Some(bad.reason),
            code: None,
        });
        if let Err(error) = kept {
            self.ledger.fail(format!("cannot write line {line} to the file of bad lines: {error}"));
            return Next::End;
        }
        if let Err(error) = entered {
            self.ledger.stop_telling();
            self.ledger.fail(format!("cannot write the report: {error}"));
            return Next::End;
        }
        if let OnError::Stop = self.on_error {
            self.ledger.report.ended = PublishEnd::BadLine;
            return Next::End;
        }
        Next::Go
    }

    /// Waits for the pace while taking outcomes.
    async fn keep_pace(&mut self, stop: &Stop) -> Next {
        let Some(pace) = &mut self.pace else { return Next::Go };
        let wait = pace.wait(self.started.elapsed());
        if wait < Duration::from_millis(1) {
            return Next::Go;
        }
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = stop.until(Wish::Finish) => return Next::End,
                () = &mut until => return Next::Go,
                Some((ticket, outcome)) = self.publisher.outcome(), if self.ledger.in_flight > 0 => {
                    if let Next::End = self.settle(ticket, outcome) {
                        return Next::End;
                    }
                }
            }
        }
    }

    async fn send(&mut self, item: Item, stop: &Stop) -> Next {
        if let Next::End = self.keep_pace(stop).await {
            if stop.wish() > Wish::Run {
                self.ledger.report.ended = PublishEnd::Stopped;
            }
            self.ledger.not_sent(item.line);
            return Next::End;
        }
        let Item { line, publish } = item;
        let sent = Sent {
            line,
            bytes: publish.message.body.len(),
            exchange: publish.exchange.as_str().to_owned(),
            routing_key: publish.routing_key.as_str().to_owned(),
            message_id: publish.message.properties.message_id.clone(),
        };
        // Only the file of bad lines needs the message after a refusal.
        let kept = matches!(self.on_error, OnError::File(_)).then(|| as_line(&publish));
        let result = {
            let send = self.publisher.send(publish);
            tokio::select! {
                biased;
                result = send => Some(result),
                () = stop.until(Wish::Now) => None,
            }
        };
        match result {
            Some(Ok(ticket)) => {
                self.sent += 1;
                self.ledger.sent(ticket, sent);
            }
            Some(Err(error)) if error.kind == ErrorKind::Invalid => {
                let raw = kept.unwrap_or_default();
                return self.bad_line(BadLine { line, reason: error.to_string(), raw });
            }
            Some(Err(error)) => {
                self.ledger.fail_with(error);
                self.ledger.not_sent(line);
                return Next::End;
            }
            None => {
                let why = "stopped while it was being sent".to_owned();
                let _ = self.ledger.count(sent, Fate::Unknown, Some(why), None);
                self.ledger.report.ended = PublishEnd::Stopped;
                return Next::End;
            }
        }
        while let Some((ticket, outcome)) = self.publisher.ready_outcome() {
            if let Next::End = self.settle(ticket, outcome) {
                return Next::End;
            }
        }
        Next::Go
    }

    async fn await_outcomes(&mut self, stop: &Stop) {
        let now = stop.until(Wish::Now);
        tokio::pin!(now);
        while self.ledger.in_flight > 0 {
            let outcome = tokio::select! {
                biased;
                outcome = self.publisher.outcome() => outcome,
                () = &mut now => None,
            };
            match outcome {
                // A report that cannot be written is no reason not to count.
                Some((ticket, outcome)) => drop(self.settle(ticket, outcome)),
                None => break,
            }
        }
        let why = if stop.wish() == Wish::Now {
            "stopped before the broker answered"
        } else {
            "the broker never answered"
        };
        for sent in std::mem::take(&mut self.ledger.waiting).into_iter().flatten() {
            let _ = self.ledger.count(sent, Fate::Unknown, Some(why.to_owned()), None);
        }
        self.ledger.in_flight = 0;
    }
}

/// The record of a publish, as one line.
pub(crate) fn as_line(publish: &Publish) -> Vec<u8> {
    let mut line = Vec::new();
    write_record(
        &mut line,
        &RecordRef {
            exchange: Some(publish.exchange.as_str()),
            routing_key: Some(publish.routing_key.as_str()),
            queue: None,
            redelivered: None,
            delivery_tag: None,
            received_at: None,
            message: &publish.message,
        },
    );
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::message::Message;

    use super::super::fake::{Answer, FakePublisher, Published};
    use super::*;

    /// Gives `count` messages; the lines in `bad` are none.
    struct Lines {
        next: u64,
        count: u64,
        bad: Vec<u64>,
        fail_at: Option<u64>,
    }

    impl Source for Lines {
        fn next(&mut self) -> io::Result<Option<Read1>> {
            self.next += 1;
            let line = self.next;
            if self.fail_at == Some(line) {
                return Err(io::Error::other("the cable is out"));
            }
            if line > self.count {
                return Ok(None);
            }
            if self.bad.contains(&line) {
                let raw = format!("raw {line}").into_bytes();
                return Ok(Some(Err(BadLine { line, reason: "no record".into(), raw })));
            }
            let message = Message { body: line.to_string().into_bytes(), ..Message::default() };
            let exchange = ExchangeName::new("x").unwrap();
            let routing_key = RoutingKey::new("k").unwrap();
            Ok(Some(Ok(Item { line, publish: Publish { exchange, routing_key, message } })))
        }
        fn is_ready(&self) -> bool {
            true
        }
    }

    fn lines(count: u64) -> Lines {
        Lines { next: 0, count, bad: Vec::new(), fail_at: None }
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    async fn run(
        source: Lines,
        answers: impl IntoIterator<Item = (u64, Answer)>,
        options: PublishOptions,
        stop: &Stop,
    ) -> (PublishReport, Arc<Mutex<Published>>) {
        let publisher = FakePublisher::new(8, answers);
        let log = publisher.log.clone();
        let report =
            publish(Box::new(publisher), Box::new(source), options, stop, &mut |_| {}).await;
        assert!(log.lock().unwrap().closed);
        (report, log)
    }

    fn counts(report: &PublishReport) -> [u64; 5] {
        [report.confirmed, report.returned, report.nacked, report.unknown, report.skipped]
    }

    #[tokio::test]
    async fn everything_confirmed_is_accepted_in_order() {
        let (report, log) = run(lines(1000), [], PublishOptions::default(), &Stop::new()).await;
        assert_eq!(counts(&report), [1000, 0, 0, 0, 0]);
        assert_eq!(report.verdict(), PublishVerdict::Accepted);
        assert_eq!(report.resume_at(), None);
        assert_eq!(report.confirmed_entries.len(), 100);
        assert!(!report.listed_all);
        let log = log.lock().unwrap();
        assert!(log.most_in_flight <= 8, "{}", log.most_in_flight);
        let bodies: Vec<String> = log
            .messages
            .iter()
            .map(|publish| String::from_utf8(publish.message.body.clone()).unwrap())
            .collect();
        assert_eq!(bodies, (1..=1000).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn each_outcome_is_counted_once_and_named() {
        let answers = [(3, Answer::Return), (5, Answer::Nack), (7, Answer::Unknown)];
        let full = Shared::default();
        let options =
            PublishOptions { full_report: Some(Box::new(full.clone())), ..Default::default() };
        let (report, _) = run(lines(20), answers, options, &Stop::new()).await;
        assert_eq!(counts(&report), [17, 1, 1, 1, 0]);
        assert_eq!(report.verdict(), PublishVerdict::Unknown);
        let mut named: Vec<(u64, Fate)> = report.entries.iter().map(|e| (e.line, e.fate)).collect();
        named.sort_by_key(|(line, _)| *line);
        assert_eq!(named, [(4, Fate::Returned), (6, Fate::Nacked), (8, Fate::Unknown)]);
        assert_eq!(full.text().lines().count(), 20);
        assert_eq!(report.resume_at(), Some(8));
        assert_eq!(
            report.resume_statement().unwrap(),
            "17 lines were confirmed; 1 from line 8 on may be there or not; every line was sent; going \
             on at line 8 loses nothing and may repeat messages"
        );
    }

    #[tokio::test]
    async fn a_broker_that_takes_nothing_any_more_ends_the_run_with_one_error() {
        for call in 0..12 {
            // What comes after the first failure in the window fails as well.
            let answers = (call..20).map(|call| (call, Answer::Fail(ErrorKind::Storage)));
            let (report, log) =
                run(lines(100), answers, PublishOptions::default(), &Stop::new()).await;
            assert_eq!(report.ended, PublishEnd::Failed);
            assert_eq!(counts(&report), [call, 0, 0, 0, 0]);
            assert_eq!(report.first_not_sent, Some(call + 1));
            assert!(report.entries.is_empty());
            assert_eq!(report.error.as_deref(), Some("cannot publish: told so"));
            assert_eq!(report.broker_error.as_ref().map(|e| e.kind), Some(ErrorKind::Storage));
            assert_eq!(report.verdict(), PublishVerdict::Failed);
            assert!(log.lock().unwrap().messages.len() <= 20);
        }
    }

    #[tokio::test]
    async fn every_failing_send_names_the_first_line_not_sent() {
        for call in 0..12 {
            let answers = [(call, Answer::Refuse(ErrorKind::ConnectionLost))];
            let (report, log) =
                run(lines(12), answers, PublishOptions::default(), &Stop::new()).await;
            assert_eq!(report.ended, PublishEnd::Failed);
            assert_eq!(report.confirmed, call);
            assert_eq!(report.first_not_sent, Some(call + 1));
            assert_eq!(log.lock().unwrap().messages.len() as u64, call);
            assert_eq!(report.verdict(), PublishVerdict::Failed);
        }
    }

    #[tokio::test]
    async fn bad_lines_stop_or_are_left_out() {
        let source = || Lines { bad: vec![3, 5], ..lines(6) };
        let (report, log) = run(source(), [], PublishOptions::default(), &Stop::new()).await;
        assert_eq!((report.ended, counts(&report)), (PublishEnd::BadLine, [2, 0, 0, 0, 1]));
        assert_eq!(report.first_not_sent, Some(4));
        assert_eq!(report.verdict(), PublishVerdict::Partly);
        assert_eq!(log.lock().unwrap().messages.len(), 2);

        let options = PublishOptions { on_error: OnError::Skip, ..Default::default() };
        let (report, _) = run(source(), [], options, &Stop::new()).await;
        assert_eq!((report.ended, counts(&report)), (PublishEnd::Complete, [4, 0, 0, 0, 2]));
        assert_eq!(report.verdict(), PublishVerdict::Partly);

        let file = Shared::default();
        let on_error = OnError::File(Box::new(file.clone()));
        let answers = [(1, Answer::Refuse(ErrorKind::Invalid))];
        let options = PublishOptions { on_error, ..Default::default() };
        let (report, _) = run(source(), answers, options, &Stop::new()).await;
        assert_eq!(counts(&report), [3, 0, 0, 0, 3]);
        assert_eq!(
            file.text(),
            "{\"exchange\":\"x\",\"routingKey\":\"k\",\"properties\":{},\"body\":2}\nraw 3\nraw 5\n"
        );

        let only_bad = Lines { bad: vec![1], ..lines(1) };
        let (report, _) = run(only_bad, [], PublishOptions::default(), &Stop::new()).await;
        assert_eq!(report.verdict(), PublishVerdict::BadInput);
    }

    #[tokio::test]
    async fn input_that_fails_is_named_and_what_was_sent_is_awaited() {
        let source = Lines { fail_at: Some(70), ..lines(100) };
        let (report, _) = run(source, [], PublishOptions::default(), &Stop::new()).await;
        assert_eq!(report.confirmed, 69);
        assert_eq!(report.first_not_sent, Some(70));
        assert_eq!(
            report.error.as_deref(),
            Some("cannot read the input after line 69: the cable is out")
        );
    }

    /// Asks for `wish` as soon as `count` messages are out.
    fn ask_after(count: usize, wish: Wish, stop: &Stop, log: &Arc<Mutex<Published>>) {
        let (stop, log) = (stop.clone(), log.clone());
        tokio::spawn(async move {
            while log.lock().unwrap().messages.len() < count {
                tokio::task::yield_now().await;
            }
            stop.ask(wish);
        });
    }

    #[tokio::test]
    async fn a_graceful_stop_sends_nothing_more_and_awaits_what_is_in_flight() {
        let stop = Stop::new();
        let publisher = FakePublisher::new(8, []);
        let log = publisher.log.clone();
        ask_after(10, Wish::Finish, &stop, &log);
        let options = PublishOptions { pace: Pace::new(200.0), ..Default::default() };
        let source = Box::new(lines(1_000_000));
        let report = publish(Box::new(publisher), source, options, &stop, &mut |_| {}).await;
        assert_eq!(report.ended, PublishEnd::Stopped);
        let sent = log.lock().unwrap().messages.len() as u64;
        assert!((10..100).contains(&sent), "{sent}");
        assert_eq!(counts(&report), [sent, 0, 0, 0, 0]);
        assert_eq!(report.first_not_sent, Some(sent + 1));
        assert_eq!(report.verdict(), PublishVerdict::Stopped);
    }

    #[tokio::test]
    async fn an_immediate_stop_reports_what_is_in_flight_as_unknown() {
        let stop = Stop::new();
        let publisher = FakePublisher::new(8, [(2, Answer::Silence)]);
        ask_after(5, Wish::Now, &stop, &publisher.log);
        let options = PublishOptions::default();
        let source = Box::new(lines(5));
        let report = publish(Box::new(publisher), source, options, &stop, &mut |_| {}).await;
        assert_eq!(counts(&report), [4, 0, 0, 1, 0]);
        assert_eq!(report.first_unknown, Some(3));
        assert_eq!(report.entries[0].reason.as_deref(), Some("stopped before the broker answered"));
        assert_eq!(report.verdict(), PublishVerdict::Unknown);
    }

    #[test]
    fn doubt_outweighs_refusal_and_refusal_an_early_end() {
        let mut ledger = Ledger::new(0, None, None);
        let mut verdict = |ended, counts: [u64; 5]| {
            let report = &mut ledger.report;
            report.ended = ended;
            let [confirmed, returned, nacked, unknown, skipped] = counts;
            (report.confirmed, report.returned, report.nacked) = (confirmed, returned, nacked);
            (report.unknown, report.skipped) = (unknown, skipped);
            report.verdict()
        };
        use PublishEnd::{Complete, Failed, Stopped};
        for (ended, counts, wanted) in [
            (Complete, [0, 0, 0, 0, 0], PublishVerdict::Accepted),
            (Complete, [1, 0, 0, 0, 0], PublishVerdict::Accepted),
            (Complete, [1, 1, 0, 0, 0], PublishVerdict::Refused),
            (Complete, [1, 0, 1, 0, 1], PublishVerdict::Refused),
            (Failed, [1, 1, 0, 1, 1], PublishVerdict::Unknown),
            (Failed, [1, 0, 0, 0, 0], PublishVerdict::Failed),
            (Stopped, [1, 0, 0, 0, 0], PublishVerdict::Stopped),
            (Stopped, [1, 0, 0, 1, 0], PublishVerdict::Unknown),
            (Complete, [1, 0, 0, 0, 1], PublishVerdict::Partly),
            (Complete, [0, 0, 0, 0, 1], PublishVerdict::BadInput),
        ] {
            assert_eq!(verdict(ended, counts), wanted, "{ended:?} {counts:?}");
        }
    }
}
