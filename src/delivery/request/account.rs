//! The account of what was asked: which answer belongs to which request, when the waiting ends, and
//! what became of each. Knows neither broker nor output; it is handed the time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::base::time::HumanDuration;
use crate::broker::{BrokerError, Delivery, Outcome, Publish, Ticket};
use crate::message::reply::{ErrorAnswer, error_of};

use super::super::publish::{ACCESS_REFUSED, PublishEnd, no_permission};
use super::super::source::BadLine;

/// When a request has all its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// So many have come, at least 1.
    Answers(u64),
    /// None has come for so long after another.
    Idle(Duration),
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// Every answer that was wanted came, and none is an error.
    Answered,
    /// Answers came, and at least one says that it failed.
    Error,
    /// The time was up before all answers had come.
    TimedOut,
    /// Nobody can answer: no queue takes the request, or nobody consumes from it.
    Nobody,
    /// The broker refused the request.
    Refused,
    /// The request may have been delivered or not, and no answer came.
    Unknown,
    /// The run was stopped while it waited.
    Stopped,
    /// It was never sent: the line is bad.
    Skipped,
}

impl Fate {
    /// The word in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fate::Answered => "answered",
            Fate::Error => "error",
            Fate::TimedOut => "timedOut",
            Fate::Nobody => "nobody",
            Fate::Refused => "refused",
            Fate::Unknown => "unknown",
            Fate::Stopped => "stopped",
            Fate::Skipped => "skipped",
        }
    }
}

/// One request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its line, or its number when there are no lines; from 1.
    pub line: u64,
    /// What became of it.
    pub fate: Fate,
    /// What its answers carry as `correlation_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// Its `message_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Where it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<String>,
    /// Under which key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_key: Option<String>,
    /// How many answers came.
    pub answers: u64,
    /// Milliseconds until the first answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_after_ms: Option<u64>,
    /// Why, unless it is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which error, when an error answer names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// The reply code with which it came back.
    #[serde(skip)]
    pub code: Option<u16>,
    /// Whether it was handed to the broker.
    #[serde(skip)]
    pub was_sent: bool,
}

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundTrips {
    /// The quickest first answer.
    pub min: f64,
    /// All first answers together, divided by their number.
    pub mean: f64,
    /// The slowest first answer.
    pub max: f64,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestReport {
    /// Why it ended.
    pub ended: PublishEnd,
    /// Requests by what became of them.
    pub answered: u64,
    /// See [`Fate::Error`].
    pub errors: u64,
    /// See [`Fate::TimedOut`].
    pub timed_out: u64,
    /// See [`Fate::Nobody`].
    pub nobody: u64,
    /// See [`Fate::Refused`].
    pub refused: u64,
    /// See [`Fate::Unknown`].
    pub unknown: u64,
    /// See [`Fate::Stopped`].
    pub stopped: u64,
    /// See [`Fate::Skipped`].
    pub skipped: u64,
    /// Answers that were written.
    pub answers: u64,
    /// Answers to nothing that was asked here.
    pub foreign: u64,
    /// Answers to a request that was not waited for any more.
    pub late: u64,
    /// How often a request was sent again.
    pub retried: u64,
    /// How often the connection was lost and made again.
    pub reconnects: u32,
    /// How long the first answers took.
    pub round_trip_ms: Option<RoundTrips>,
    /// The first line that was not sent although it may be good; `None` when the input was used up.
    pub first_not_sent: Option<u64>,
    /// The first of each fate, up to the bound of the list.
    pub entries: Vec<Entry>,
    /// Whether the list holds everything.
    pub listed_all: bool,
    /// `direct`, or `queue` when the answers came to a queue of their own.
    pub via: &'static str,
    /// What is left on the broker, and why.
    pub left_behind: Option<String>,
    /// What failed, when `ended` is `failed`.
    pub error: Option<String>,
    /// The reader of the output went away; nothing for the user to repair.
    pub pipe_closed: bool,
    /// The broker's part of the failure, for the exit status.
    #[serde(skip)]
    pub broker_error: Option<BrokerError>,
    /// Milliseconds from the first reading to the end.
    pub elapsed_ms: u64,
}

/// What a run means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestVerdict {
    /// Every request was answered: status 0.
    Answered,
    /// Some were answered and some not: status 3.
    Partly,
    /// Status 7.
    TimedOut,
    /// Status 8.
    Nobody,
    /// Status 9.
    Error,
    /// Status 5.
    Refused,
    /// Status 6.
    Unknown,
    /// Nothing was sent, because of bad input: status 65.
    BadInput,
    /// The broker, the input or the output failed.
    Failed,
    /// Status 130 or 143.
    Stopped,
}

impl RequestReport {
    /// What it means. Doubt outweighs everything; where nothing was answered, what keeps all requests
    /// from being answered outweighs what kept one.
    pub fn verdict(&self) -> RequestVerdict {
        use RequestVerdict as V;
        let failed = self.errors + self.timed_out + self.nobody + self.refused;
        if self.unknown > 0 {
            V::Unknown
        } else if self.ended == PublishEnd::Failed {
            V::Failed
        } else if self.ended == PublishEnd::Stopped {
            V::Stopped
        } else if self.answered > 0 {
            if failed + self.skipped > 0 { V::Partly } else { V::Answered }
        } else if self.nobody > 0 {
            V::Nobody
        } else if self.refused > 0 {
            V::Refused
        } else if self.timed_out > 0 {
            V::TimedOut
        } else if self.errors > 0 {
            V::Error
        } else if self.skipped > 0 {
            V::BadInput
        } else {
            V::Answered
        }
    }
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) line: u64,
    pub(super) correlation: String,
    pub(super) message_id: Option<String>,
    pub(super) exchange: String,
    pub(super) key: String,
    began: Instant,
    pub(super) deadline: Instant,
    due: Instant,
    answers: u64,
    first_after: Option<Duration>,
    error: Option<ErrorAnswer>,
    seen: Vec<u64>,
    pub(super) confirmed: bool,
    /// Why it may not have been delivered.
    pub(super) doubt: Option<String>,
    /// To be sent again, and how often still.
    pub(super) again: Option<(Publish, u32)>,
}

/// What an answer is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// To this request, after so long.
    Answer { number: u64, line: u64, after: Duration, error: Option<ErrorAnswer> },
    /// To a request that is not waited for any more, or the same answer once more.
    Late,
    /// To nothing that was asked here.
    Foreign,
}

/// What is to be done about a request after an outcome.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// It is unknown whether it was delivered, and it may be sent again.
    Again(u64),
    /// Nothing can be sent any more.
    End,
}

/// How many requests that are done are remembered, to tell late answers from foreign ones.
const REMEMBERED: usize = 100_000;

pub(super) struct Account {
    until: Until,
    timeout: Duration,
    pending: HashMap<u64, Pending>,
    by_correlation: HashMap<String, u64>,
    by_ticket: HashMap<Ticket, u64>,
    due: BTreeSet<(Instant, u64)>,
    done: HashSet<String>,
    done_in_order: VecDeque<String>,
    next: u64,
    listed: usize,
    full_report: Option<Box<dyn Write + Send>>,
    counts: HashMap<Fate, u64>,
    total_trip: Duration,
    trips: u32,
    pub(super) report: RequestReport,
}

impl Account {
    pub(super) fn new(
        until: Until,
        timeout: Duration,
        listed: usize,
        full_report: Option<Box<dyn Write + Send>>,
    ) -> Self {
        Account {
            until,
            timeout,
            pending: HashMap::new(),
            by_correlation: HashMap::new(),
            by_ticket: HashMap::new(),
            due: BTreeSet::new(),
            done: HashSet::new(),
            done_in_order: VecDeque::new(),
            next: 0,
            listed,
            full_report,
            counts: HashMap::new(),
            total_trip: Duration::ZERO,
            trips: 0,
            report: RequestReport {
                ended: PublishEnd::Complete,
                answered: 0,
                errors: 0,
                timed_out: 0,
                nobody: 0,
                refused: 0,
                unknown: 0,
                stopped: 0,
                skipped: 0,
                answers: 0,
                foreign: 0,
                late: 0,
                retried: 0,
                reconnects: 0,
                round_trip_ms: None,
                first_not_sent: None,
                entries: Vec::new(),
                listed_all: true,
                via: "direct",
                left_behind: None,
                error: None,
                pipe_closed: false,
                broker_error: None,
                elapsed_ms: 0,
            },
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    /// Whether a request with this correlation id waits.
    pub(super) fn is_waiting(&self, correlation: &str) -> bool {
        self.by_correlation.contains_key(correlation)
    }

    /// When the next request has waited long enough.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Requests whose time is up.
    pub(super) fn overdue(&self, now: Instant) -> Vec<u64> {
        self.due.iter().take_while(|(due, _)| *due <= now).map(|(_, number)| *number).collect()
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        let mut numbers: Vec<u64> = self.pending.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Pending> {
        self.pending.get_mut(&number)
    }

    /// A request has been handed to the broker.
    #[expect(clippy::too_many_arguments, reason = "what is known of a request, said once")]
    pub(super) fn sent(
        &mut self,
        ticket: Ticket,
        line: u64,
        correlation: String,
        message_id: Option<String>,
        exchange: String,
        key: String,
        began: Instant,
        again: Option<(Publish, u32)>,
    ) {
        let number = self.next;
        self.next += 1;
        let deadline = began + self.timeout;
        self.by_correlation.insert(correlation.clone(), number);
        self.by_ticket.insert(ticket, number);
        self.due.insert((deadline, number));
        let pending = Pending {
            line,
            correlation,
            message_id,
            exchange,
            key,
            began,
            deadline,
            due: deadline,
            answers: 0,
            first_after: None,
            error: None,
            seen: Vec::new(),
            confirmed: false,
            doubt: None,
            again,
        };
        self.pending.insert(number, pending);
    }

    /// A request has been handed over once more.
    pub(super) fn sent_again(&mut self, number: u64, ticket: Ticket) {
        self.by_ticket.insert(ticket, number);
        self.report.retried += 1;
        if let Some(pending) = self.pending.get_mut(&number) {
            pending.confirmed = false;
            pending.doubt = None;
        }
    }

    /// A new publisher counts its tickets from the start.
    pub(super) fn forget_tickets(&mut self) {
        self.by_ticket.clear();
    }

    /// What an answer belongs to.
    pub(super) fn hear(&mut self, delivery: &Delivery, now: Instant) -> Heard {
        let properties = &delivery.message.properties;
        let correlation = properties.correlation_id.as_deref();
        let known = correlation.and_then(|id| self.by_correlation.get(id)).copied();
        let Some((number, pending)) =
            known.and_then(|number| Some((number, self.pending.get_mut(&number)?)))
        else {
            if correlation.is_some_and(|id| self.done.contains(id)) {
                self.report.late += 1;
                return Heard::Late;
            }
            self.report.foreign += 1;
            return Heard::Foreign;
        };
        // All may be here already, though not yet written.
        if matches!(self.until, Until::Answers(wanted) if pending.answers >= wanted) {
            self.report.late += 1;
            return Heard::Late;
        }
        // After a lost connection an answer whose ack did not arrive comes once more.
        let mut hasher = DefaultHasher::new();
        (&properties.message_id, &delivery.message.body).hash(&mut hasher);
        let print = hasher.finish();
        if delivery.redelivered && pending.seen.contains(&print) {
            self.report.late += 1;
            return Heard::Late;
        }
        pending.seen.push(print);
        let after = now.saturating_duration_since(pending.began);
        pending.answers += 1;
        pending.first_after.get_or_insert(after);
        let error = error_of(properties);
        if pending.error.is_none() {
            pending.error.clone_from(&error);
        }
        if let Until::Idle(idle) = self.until {
            self.due.remove(&(pending.due, number));
            pending.due = pending.deadline.min(now + idle);
            self.due.insert((pending.due, number));
        }
        Heard::Answer { number, line: pending.line, after, error }
    }

    /// An answer to this request has been written.
    pub(super) fn written(&mut self, number: u64) -> io::Result<()> {
        self.report.answers += 1;
        let all = match (self.pending.get(&number), self.until) {
            (Some(pending), Until::Answers(wanted)) => pending.answers >= wanted,
            _ => false,
        };
        if all { self.finish_answered(number) } else { Ok(()) }
    }

    fn finish_answered(&mut self, number: u64) -> io::Result<()> {
        let failed = self.pending.get(&number).is_some_and(|pending| pending.error.is_some());
        self.finish(number, if failed { Fate::Error } else { Fate::Answered }, None, None)
    }

    /// What the broker says of a request.
    pub(super) fn settle(&mut self, ticket: Ticket, outcome: Outcome) -> io::Result<After> {
        // It may have been answered already: then its confirm tells nothing new.
        let Some(number) = self.by_ticket.remove(&ticket) else { return Ok(After::Nothing) };
        let Some(pending) = self.pending.get_mut(&number) else { return Ok(After::Nothing) };
        match outcome {
            Outcome::Confirmed => pending.confirmed = true,
            Outcome::Returned { code, text } if code == ACCESS_REFUSED => {
                let error = no_permission(&pending.exchange, &text);
                self.report.broker_error.get_or_insert(error);
                self.finish(number, Fate::Refused, Some(format!("{code} {text}")), Some(code))?;
            }
            Outcome::Returned { code, text } => {
                let reason = format!("no queue takes it: {code} {text}");
                self.finish(number, Fate::Nobody, Some(reason), Some(code))?;
            }
            Outcome::Nacked => {
                let reason = "the broker refused it: a queue is full".to_owned();
                self.finish(number, Fate::Refused, Some(reason), None)?;
            }
            Outcome::Unknown { why } => {
                pending.doubt = Some(why);
                let again = pending.again.as_ref().is_some_and(|(_, left)| *left > 0);
                return Ok(if again { After::Again(number) } else { After::Nothing });
            }
            Outcome::Failed(error) => {
                let line = pending.line;
                self.not_sent(line);
                let why = "the broker took nothing any more".to_owned();
                self.finish(number, Fate::Refused, Some(why), None)?;
                self.fail_with(*error);
                return Ok(After::End);
            }
        }
        Ok(After::Nothing)
    }

    /// The time of this request is up. `nobody` is why nobody can answer it, when that is known.
    pub(super) fn time_is_up(&mut self, number: u64, nobody: Option<String>) -> io::Result<()> {
        let Some(pending) = self.pending.get(&number) else { return Ok(()) };
        let came = pending.answers;
        let time = HumanDuration(self.timeout);
        let (fate, reason) = match (self.until, &pending.doubt) {
            (Until::Idle(_), _) if came > 0 => return self.finish_answered(number),
            (_, Some(why)) if came == 0 => {
                (Fate::Unknown, format!("no answer within {time}, and it may not be there: {why}"))
            }
            _ if came == 0 && !pending.confirmed => (
                Fate::Unknown,
                format!("no answer within {time}, and the broker has not said that it has it"),
            ),
            (Until::Answers(wanted), _) if came > 0 => {
                (Fate::TimedOut, format!("{came} of {wanted} answers came within {time}"))
            }
            _ => match nobody {
                Some(why) => (Fate::Nobody, why),
                None => (Fate::TimedOut, format!("no answer within {time}")),
            },
        };
        self.finish(number, fate, Some(reason), None)
    }

    /// This request is done.
    pub(super) fn finish(
        &mut self,
        number: u64,
        fate: Fate,
        reason: Option<String>,
        code: Option<u16>,
    ) -> io::Result<()> {
        let Some(pending) = self.pending.remove(&number) else { return Ok(()) };
        self.due.remove(&(pending.due, number));
        self.by_correlation.remove(&pending.correlation);
        if self.done_in_order.len() >= REMEMBERED
            && let Some(oldest) = self.done_in_order.pop_front()
        {
            self.done.remove(&oldest);
        }
        self.done.insert(pending.correlation.clone());
        self.done_in_order.push_back(pending.correlation.clone());
        if let Some(after) = pending.first_after {
            self.note_trip(after);
        }
        let failed = pending.error.filter(|_| fate == Fate::Error);
        self.enter(Entry {
            line: pending.line,
            fate,
            correlation_id: Some(pending.correlation),
            message_id: pending.message_id,
            exchange: Some(pending.exchange),
            routing_key: Some(pending.key),
            answers: pending.answers,
            first_after_ms: pending.first_after.map(milliseconds),
            reason: reason.or_else(|| failed.as_ref().map(ToString::to_string)),
            error_code: failed.and_then(|error| error.code),
            code,
            was_sent: true,
        })
    }

    fn note_trip(&mut self, after: Duration) {
        self.total_trip += after;
        self.trips += 1;
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let mean = ms(self.total_trip / self.trips);
        let now = ms(after);
        self.report.round_trip_ms = Some(match self.report.round_trip_ms {
            Some(RoundTrips { min, max, .. }) => {
                RoundTrips { min: min.min(now), mean, max: max.max(now) }
            }
            None => RoundTrips { min: now, mean, max: now },
        });
    }

    /// A request that is not sent because nobody can answer it.
    pub(super) fn nobody(&mut self, line: u64, publish: &Publish, why: String) -> io::Result<()> {
        self.enter(Entry {
            line,
            fate: Fate::Nobody,
            correlation_id: publish.message.properties.correlation_id.clone(),
            message_id: publish.message.properties.message_id.clone(),
            exchange: Some(publish.exchange.as_str().to_owned()),
            routing_key: Some(publish.routing_key.as_str().to_owned()),
            answers: 0,
            first_after_ms: None,
            reason: Some(why),
            error_code: None,
            code: None,
            was_sent: false,
        })
    }

    /// A line that is no request.
    pub(super) fn skip(&mut self, bad: BadLine) -> io::Result<()> {
        self.enter(Entry {
            line: bad.line,
            fate: Fate::Skipped,
            correlation_id: None,
            message_id: None,
            exchange: None,
            routing_key: None,
            answers: 0,
            first_after_ms: None,
            reason: Some(bad.reason),
            error_code: None,
            code: None,
            was_sent: false,
        })
    }

    fn enter(&mut self, entry: Entry) -> io::Result<()> {
        let report = &mut self.report;
        *match entry.fate {
            Fate::Answered => &mut report.answered,
            Fate::Error => &mut report.errors,
            Fate::TimedOut => &mut report.timed_out,
            Fate::Nobody => &mut report.nobody,
            Fate::Refused => &mut report.refused,
            Fate::Unknown => &mut report.unknown,
            Fate::Stopped => &mut report.stopped,
            Fate::Skipped => &mut report.skipped,
        } += 1;
        let written = match &mut self.full_report {
            None => Ok(()),
            Some(file) => serde_json::to_writer(&mut *file, &entry)
                .map_err(io::Error::from)
                .and_then(|()| file.write_all(b"\n")),
        };
        let of_this_fate = self.counts.entry(entry.fate).or_default();
        *of_this_fate += 1;
        if *of_this_fate <= self.listed as u64 {
            report.entries.push(entry);
        } else {
            report.listed_all = false;
        }
        written
    }

    /// Writes out the file of all entries.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.full_report.as_mut().map_or(Ok(()), Write::flush)
    }

    pub(super) fn fail(&mut self, error: String) {
        self.report.ended = PublishEnd::Failed;
        self.report.error.get_or_insert(error);
    }

    pub(super) fn fail_with(&mut self, error: BrokerError) {
        self.fail(error.to_string());
        self.report.broker_error.get_or_insert(error);
    }

    /// The line is still to be sent.
    pub(super) fn not_sent(&mut self, line: u64) {
        let first = self.report.first_not_sent.get_or_insert(line);
        *first = line.min(*first);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::message::reply::mark_error;

    use super::super::super::fake::delivery;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn account(until: Until) -> Account {
        Account::new(until, 10 * SECOND, 10, None)
    }

    fn ask(account: &mut Account, ticket: u64, correlation: &str, at: Instant) {
        let text = || "x".to_owned();
        let correlation = correlation.to_owned();
        account.sent(Ticket(ticket), ticket + 1, correlation, None, text(), text(), at, None);
    }

    fn answer(correlation: Option<&str>) -> Delivery {
        let mut answer = delivery(1, "yes");
        answer.message.properties.correlation_id = correlation.map(str::to_owned);
        answer
    }

    fn number(heard: Heard) -> u64 {
        match heard {
            Heard::Answer { number, .. } => number,
            other => panic!("no answer: {other:?}"),
        }
    }

    #[test]
    fn an_answer_counts_only_for_the_request_that_waits_for_it() {
        let start = Instant::now();
        let mut account = account(Until::Answers(1));
        ask(&mut account, 0, "a", start);
        ask(&mut account, 1, "b", start);
        assert_eq!(account.hear(&answer(Some("c")), start), Heard::Foreign);
        assert_eq!(account.hear(&answer(None), start), Heard::Foreign);
        let second = number(account.hear(&answer(Some("b")), start + SECOND));
        account.written(second).unwrap();
        assert_eq!(account.hear(&answer(Some("b")), start + SECOND), Heard::Late);
        let entry = &account.report.entries[0];
        assert_eq!((entry.line, entry.fate, entry.first_after_ms), (2, Fate::Answered, Some(1000)));
        assert_eq!(account.waiting(), 1);
        let report = &account.report;
        assert_eq!((report.foreign, report.late, report.answered), (2, 1, 1));
    }

    #[test]
    fn time_runs_out_for_what_is_known_to_be_there_and_is_doubt_otherwise() {
        let start = Instant::now();
        let mut account = account(Until::Answers(2));
        for (ticket, name) in ["confirmed", "silent", "lost", "half", "alone"].iter().enumerate() {
            ask(&mut account, ticket as u64, name, start);
        }
        for ticket in [0, 3, 4] {
            account.settle(Ticket(ticket), Outcome::Confirmed).unwrap();
        }
        account.settle(Ticket(2), Outcome::Unknown { why: "cut".into() }).unwrap();
        let half = number(account.hear(&answer(Some("half")), start));
        account.written(half).unwrap();
        assert!(account.overdue(start + 9 * SECOND).is_empty());
        for number in account.overdue(start + 10 * SECOND) {
            let nobody = (number == 4).then(|| "queue `q` has no consumer".to_owned());
            account.time_is_up(number, nobody).unwrap();
        }
        let fates: Vec<Fate> = account.report.entries.iter().map(|entry| entry.fate).collect();
        use Fate::{Nobody, TimedOut, Unknown};
        assert_eq!(fates, [TimedOut, Unknown, Unknown, TimedOut, Nobody]);
        assert!(account.report.entries[2].reason.as_deref().unwrap().contains("cut"));
        assert!(account.report.entries[3].reason.as_deref().unwrap().contains("1 of 2"));
        assert_eq!(account.report.verdict(), RequestVerdict::Unknown);
    }

    #[test]
    fn gathering_ends_a_while_after_the_last_answer_or_at_the_deadline() {
        let start = Instant::now();
        let mut account = account(Until::Idle(2 * SECOND));
        ask(&mut account, 0, "a", start);
        assert_eq!(account.next_due(), Some(start + 10 * SECOND));
        for at in [1, 2, 9] {
            let number = number(account.hear(&answer(Some("a")), start + at * SECOND));
            account.written(number).unwrap();
            assert_eq!(account.next_due(), Some(start + (at + 2).min(10) * SECOND));
        }
        account.time_is_up(0, None).unwrap();
        assert_eq!(account.report.entries[0].answers, 3);
        assert_eq!(account.report.verdict(), RequestVerdict::Answered);
    }

    #[test]
    fn one_error_among_the_answers_is_the_verdict() {
        let start = Instant::now();
        let mut account = account(Until::Answers(2));
        ask(&mut account, 0, "a", start);
        let mut failed = answer(Some("a"));
        let error = ErrorAnswer { reason: "disk full".into(), code: Some("E1".into()) };
        mark_error(&mut failed.message.properties, &error);
        for answer in [failed, answer(Some("a"))] {
            let number = number(account.hear(&answer, start));
            account.written(number).unwrap();
        }
        let entry = &account.report.entries[0];
        assert_eq!((entry.fate, entry.answers), (Fate::Error, 2));
        assert_eq!(entry.reason.as_deref(), Some("disk full (E1)"));
        assert_eq!(account.report.verdict(), RequestVerdict::Error);
    }

    #[test]
    fn an_answer_that_comes_again_after_a_lost_ack_is_not_a_second_one() {
        let start = Instant::now();
        let mut account = account(Until::Answers(2));
        ask(&mut account, 0, "a", start);
        let first = answer(Some("a"));
        account.hear(&first, start);
        let again = Delivery { redelivered: true, ..first };
        assert_eq!(account.hear(&again, start), Heard::Late);
        assert!(matches!(account.hear(&answer(Some("a")), start), Heard::Answer { .. }));
    }

    #[test]
    fn what_became_of_all_decides_about_the_verdict() {
        use RequestVerdict as V;
        let verdict = |change: fn(&mut RequestReport)| {
            let mut account = account(Until::Answers(1));
            change(&mut account.report);
            account.report.verdict()
        };
        assert_eq!(verdict(|_| {}), V::Answered);
        assert_eq!(verdict(|r| (r.answered, r.errors) = (1, 1)), V::Partly);
        assert_eq!(verdict(|r| (r.answered, r.unknown) = (1, 1)), V::Unknown);
        assert_eq!(verdict(|r| (r.timed_out, r.nobody) = (1, 1)), V::Nobody);
        assert_eq!(verdict(|r| (r.timed_out, r.errors) = (1, 1)), V::TimedOut);
        assert_eq!(verdict(|r| r.skipped = 1), V::BadInput);
        assert_eq!(verdict(|r| (r.answered, r.skipped) = (1, 1)), V::Partly);
        assert_eq!(verdict(|r| (r.stopped, r.ended) = (1, PublishEnd::Stopped)), V::Stopped);
    }
}
