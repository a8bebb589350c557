//! The journal: a stream with a copy of messages, from which those that somebody misses are sent again.
//!
//! A message's workflow and its number in it stand in its headers. What is sent again goes to one queue
//! only, keeps its message id, so that a receiver that had it knows it, and says that it is a
//! retransmission.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{ControlFlow, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use crate::base::id::{ExchangeName, QueueName};
use crate::broker::carry::{make_fit, stream_offset};
use crate::broker::{
    Broker, BrokerError, Delivery, Outcome, Publish, Publisher, PublisherOptions, Ticket,
};
use crate::message::{FieldTable, FieldValue, Message};
use crate::resilience::sequence::RangeSet;

use super::stop::{Stop, Wish};
use super::stream::{ReadEnd, read};
use super::transfer::{MOVED_FROM, keep_to_one_place};

/// The header with the name of a message's workflow.
pub const WORKFLOW: &str = "x-nexus-workflow";

/// The header with its number there.
pub const SEQUENCE: &str = "x-nexus-sequence";

/// The header that says of a message that it was sent again, and by which run.
pub const RETRANSMISSION: &str = "x-nexus-retransmission";

/// Workflows that are told apart in one reading.
pub const MOST_WORKFLOWS: usize = 100_000;

/// Messages that are sent again in one run, and their bytes.
pub const MOST_MESSAGES: usize = 10_000;
const MOST_BYTES: usize = 256 << 20;

/// The workflow of a message and its number there.
pub fn place_of(message: &Message) -> Option<(&str, u64)> {
    let workflow = message.properties.header(WORKFLOW)?.as_text()?;
    let sequence = message.properties.header(SEQUENCE)?;
    let number = match sequence.as_text() {
        Some(text) => text.parse().ok()?,
        None => u64::try_from(sequence.as_i64()?).ok()?,
    };
    Some((workflow, number))
}

/// Numbers that are asked for: `5..9,12,20..`, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(Vec<(Option<u64>, Option<u64>)>);

impl Numbers {
    /// Every number.
    pub fn all() -> Self {
        Numbers(vec![(None, None)])
    }

    /// Whether it is asked for.
    pub fn contains(&self, number: u64) -> bool {
        self.0.iter().any(|(first, last)| {
            first.is_none_or(|first| first <= number) && last.is_none_or(|last| number <= last)
        })
    }

    /// What is asked for and not among `found`. An open end ends with what was found.
    pub fn missing(&self, found: &RangeSet) -> Vec<RangeInclusive<u64>> {
        let lowest = found.ranges().next().map(|range| *range.start());
        let mut gaps = RangeSet::default();
        for (first, last) in &self.0 {
            let (Some(mut next), Some(last)) = (first.or(lowest), last.or(found.last())) else {
                continue;
            };
            for range in found.ranges() {
                if *range.end() < next {
                    continue;
                }
                if *range.start() > last {
                    break;
                }
                if next < *range.start() {
                    gaps.insert_range(next..=*range.start() - 1);
                }
                next = range.end().saturating_add(1);
            }
            if next <= last && !found.contains(last) {
                gaps.insert_range(next..=last);
            }
        }
        gaps.ranges().collect()
    }
}

impl FromStr for Numbers {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |part: &str| format!("`{part}` is no range of numbers; write 7, 5..9, 5.. or ..9");
        let number = |part: &str| part.trim().parse::<u64>().map_err(|_| wrong(text));
        let end = |part: &str| match part.trim() {
            "" => Ok(None),
            part => number(part).map(Some),
        };
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let range = match part.split_once("..") {
                Some((first, last)) => (end(first)?, end(last.trim_start_matches('='))?),
                None => {
                    let only = number(part)?;
                    (Some(only), Some(only))
                }
            };
            if matches!(range, (Some(first), Some(last)) if first > last) {
                return Err(format!("`{part}` begins after its end"));
            }
            ranges.push(range);
        }
        Ok(Numbers(ranges))
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match (first, last) {
                (Some(first), Some(last)) if first == last => write!(f, "{comma}{first}")?,
                (first, last) => {
                    let end = |end: &Option<u64>| end.map(|n| n.to_string()).unwrap_or_default();
                    write!(f, "{comma}{}..{}", end(first), end(last))?;
                }
            }
        }
        Ok(())
    }
}

/// Where a journal is, and what of it is read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The stream.
    pub journal: QueueName,
    /// Where to begin, as `x-stream-offset`.
    pub from: FieldValue,
    /// How long the stream may be silent before it counts as read.
    pub wait: Duration,
}

impl Reading {
    async fn each(
        &self,
        broker: &dyn Broker,
        stop: &Stop,
        each: &mut (dyn FnMut(Delivery) -> ControlFlow<()> + Send),
    ) -> Result<ReadEnd, BrokerError> {
        read(broker, &self.journal, self.from.clone(), self.wait, stop, each).await
    }
}

/// What the journal has of one workflow.
#[derive(Clone, Debug, Default)]
pub struct Workflow {
    /// Messages, those that came twice included.
    pub messages: u64,
    /// Numbers.
    pub numbers: RangeSet,
}

/// What the journal has.
#[derive(Clone, Debug)]
pub struct Summary {
    /// By name.
    pub workflows: BTreeMap<String, Workflow>,
    /// Messages read.
    pub messages: u64,
    /// Of these, those without workflow or number.
    pub unnumbered: u64,
    /// Of these, those of workflows beyond [`MOST_WORKFLOWS`].
    pub not_told_apart: u64,
    /// How the reading ended.
    pub end: ReadEnd,
}

/// Reads the journal once and counts.
///
/// # Errors
/// When the broker fails.
pub async fn summarise(
    broker: &dyn Broker,
    reading: &Reading,
    stop: &Stop,
) -> Result<Summary, BrokerError> {
    let mut summary = Summary {
        workflows: BTreeMap::new(),
        messages: 0,
        unnumbered: 0,
        not_told_apart: 0,
        end: ReadEnd::Complete,
    };
    let mut each = |delivery: Delivery| {
        summary.messages += 1;
        let Some((name, number)) = place_of(&delivery.message) else {
            summary.unnumbered += 1;
            return ControlFlow::Continue(());
        };
        if !summary.workflows.contains_key(name) && summary.workflows.len() >= MOST_WORKFLOWS {
            summary.not_told_apart += 1;
            return ControlFlow::Continue(());
        }
        let workflow = summary.workflows.entry(name.to_owned()).or_default();
        workflow.messages += 1;
        workflow.numbers.insert(number);
        ControlFlow::Continue(())
    };
    let end = reading.each(broker, stop, &mut each).await?;
    summary.end = end;
    Ok(summary)
}

/// Messages of one workflow.
#[derive(Clone, Debug)]
pub struct Found {
    /// By number, the first that has it.
    pub messages: BTreeMap<u64, Delivery>,
    /// Numbers asked for that the journal does not have, or not any more.
    pub missing: Vec<RangeInclusive<u64>>,
    /// How the reading ended; `Enough` when there are more than can be taken at once.
    pub end: ReadEnd,
}

/// Looks for messages of `workflow`.
///
/// # Errors
/// When the broker fails.
pub async fn find(
    broker: &dyn Broker,
    reading: &Reading,
    workflow: &str,
    wanted: &Numbers,
    stop: &Stop,
) -> Result<Found, BrokerError> {
    let mut messages = BTreeMap::new();
    let mut bytes = 0;
    let mut each = |delivery: Delivery| {
        let number = match place_of(&delivery.message) {
            Some((name, number)) if name == workflow && wanted.contains(number) => number,
            _ => return ControlFlow::Continue(()),
        };
        if messages.contains_key(&number) {
            return ControlFlow::Continue(());
        }
        bytes += delivery.message.body.len();
        if messages.len() >= MOST_MESSAGES || bytes > MOST_BYTES {
            return ControlFlow::Break(());
        }
        messages.insert(number, delivery);
        ControlFlow::Continue(())
    };
    let end = reading.each(broker, stop, &mut each).await?;
    let mut numbers = RangeSet::default();
    for number in messages.keys() {
        numbers.insert(*number);
    }
    Ok(Found { missing: wanted.missing(&numbers), messages, end })
}

/// The message as it is sent again to `to`.
fn again(
    delivery: Delivery,
    journal: &QueueName,
    to: &QueueName,
    run: &str,
    login: Option<&str>,
) -> Publish {
    let offset = stream_offset(&delivery);
    let mut message = delivery.message;
    keep_to_one_place(&mut message);
    make_fit(&mut message, login);
    let headers = message.properties.headers_mut();
    headers.insert(RETRANSMISSION, run);
    if headers.get(MOVED_FROM).is_none() {
        let mut origin = FieldTable::new()
            .with("queue", journal.as_str())
            .with("exchange", delivery.exchange.as_str())
            .with("routing-key", delivery.routing_key.as_str());
        if let Some(offset) = offset.and_then(|offset| i64::try_from(offset).ok()) {
            origin.insert("offset", offset);
        }
        headers.insert(MOVED_FROM, origin);
    }
    Publish {
        exchange: ExchangeName::default_exchange(),
        routing_key: to.as_routing_key(),
        message,
    }
}

/// How to send again.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The journal, for the message to say.
    pub journal: QueueName,
    /// The queue that misses them.
    pub to: QueueName,
    /// Names the run in each message.
    pub run: String,
    /// Our login: the only one that a message may carry.
    pub login: Option<String>,
}

/// What became of the messages, by their numbers.
#[derive(Clone, Debug, Default)]
pub struct ReplayReport {
    /// The queue has them.
    pub confirmed: RangeSet,
    /// The queue is not there.
    pub returned: RangeSet,
    /// The queue refused them.
    pub nacked: RangeSet,
    /// The queue may have them or not.
    pub in_doubt: RangeSet,
    /// Not sent, because it ended before.
    pub not_sent: RangeSet,
    /// What ended it.
    pub stopped: Option<String>,
    /// The broker's part in it.
    pub failure: Option<BrokerError>,
}

/// Sends messages again, in the order of their numbers, each mandatory and confirmed. Ends with the first
/// that is not accepted: those behind it would overtake it.
///
/// # Errors
/// When nothing could be begun.
pub async fn replay(
    broker: &dyn Broker,
    messages: BTreeMap<u64, Delivery>,
    options: &ReplayOptions,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<ReplayReport, BrokerError> {
    let way_out = PublisherOptions { window: 128, reconnect: false };
    let mut publisher = broker.publisher(way_out).await?;
    let report = send_all(publisher.as_mut(), messages, options, stop, progress).await;
    // Every outcome is known; a way out that does not close well changes nothing.
    let _ = publisher.close().await;
    Ok(report)
}

async fn send_all(
    publisher: &mut dyn Publisher,
    messages: BTreeMap<u64, Delivery>,
    options: &ReplayOptions,
    stop: &Stop,
    progress: &mut (dyn FnMut(u64) + Send),
) -> ReplayReport {
    let mut report = ReplayReport::default();
    let mut tickets: BTreeMap<Ticket, u64> = BTreeMap::new();
    let mut confirmed = 0;
    let mut messages = messages.into_iter();
    for (number, delivery) in messages.by_ref() {
        while let Some((ticket, outcome)) = publisher.ready_outcome() {
            confirmed += u64::from(decided(&mut report, &mut tickets, ticket, outcome));
        }
        progress(confirmed);
        if stop.wish() > Wish::Run {
            report.stopped.get_or_insert_with(|| "somebody asked to stop".to_owned());
        }
        if report.stopped.is_some() {
            report.not_sent.insert(number);
            break;
        }
        let login = options.login.as_deref();
        let publish = again(delivery, &options.journal, &options.to, &options.run, login);
        match publisher.send(publish).await {
            Ok(ticket) => {
                tickets.insert(ticket, number);
            }
            Err(error) => {
                report.not_sent.insert(number);
                report.stopped.get_or_insert_with(|| error.to_string());
                report.failure.get_or_insert(error);
                break;
            }
        }
    }
    for (number, _) in messages {
        report.not_sent.insert(number);
    }
    while let Some((ticket, outcome)) = publisher.outcome().await {
        confirmed += u64::from(decided(&mut report, &mut tickets, ticket, outcome));
        progress(confirmed);
    }
    report
}

/// Enters an outcome; whether it was a confirm.
fn decided(
    report: &mut ReplayReport,
    tickets: &mut BTreeMap<Ticket, u64>,
    ticket: Ticket,
    outcome: Outcome,
) -> bool {
    let Some(number) = tickets.remove(&ticket) else { return false };
    let (numbers, why) = match outcome {
        Outcome::Confirmed => {
            report.confirmed.insert(number);
            return true;
        }
        Outcome::Returned { code, text } => (&mut report.returned, format!("{code} {text}")),
        Outcome::Nacked => (&mut report.nacked, "the queue is full".to_owned()),
        Outcome::Unknown { why } => (&mut report.in_doubt, why),
        Outcome::Failed(error) => {
            let why = error.to_string();
            report.failure.get_or_insert(*error);
            (&mut report.not_sent, why)
        }
    };
    numbers.insert(number);
    report.stopped.get_or_insert(why);
    false
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Answer, FakePublisher, delivery};
    use super::*;
    use crate::broker::ErrorKind;

    fn set(numbers: impl IntoIterator<Item = u64>) -> RangeSet {
        let mut set = RangeSet::default();
        for number in numbers {
            set.insert(number);
        }
        set
    }

    #[test]
    fn numbers_are_read_and_what_is_missing_of_them_is_told() {
        for (text, found, missing) in [
            ("5..9", vec![5, 6, 9], vec![7..=8]),
            ("5..=9", vec![], vec![5..=9]),
            ("7", vec![7], vec![]),
            ("7", vec![6], vec![7..=7]),
            ("5..", vec![5, 6, 9], vec![7..=8]),
            ("..9", vec![3, 4], vec![5..=9]),
            ("..", vec![], vec![]),
            ("1..2,8..9", vec![1, 2, 4, 8, 9], vec![]),
            ("1..2,8..9", vec![2, 9, 10], vec![1..=1, 8..=8]),
            ("3..18446744073709551615", vec![u64::MAX], vec![3..=u64::MAX - 1]),
        ] {
            let numbers: Numbers = text.parse().unwrap();
            assert_eq!(numbers.missing(&set(found)), missing, "{text}");
        }
        for wrong in ["", "a", "9..5", "1..b", "-1", "1,,2"] {
            assert!(wrong.parse::<Numbers>().is_err(), "{wrong}");
        }
        for text in ["5..9", "7", "5..", "..9", "1..2,8"] {
            assert_eq!(text.parse::<Numbers>().unwrap().to_string(), text);
        }
    }

    fn numbered(workflow: &str, sequence: impl Into<FieldValue>) -> Delivery {
        let mut given = delivery(1, "x");
        let headers = given.message.properties.headers_mut();
        headers.insert(WORKFLOW, workflow);
        headers.insert(SEQUENCE, sequence);
        given
    }

    #[test]
    fn the_place_of_a_message_is_in_its_headers_as_a_number_or_as_text() {
        assert_eq!(place_of(&numbered("w", 5).message), Some(("w", 5)));
        assert_eq!(place_of(&numbered("w", "17").message), Some(("w", 17)));
        assert_eq!(place_of(&numbered("w", -1).message), None);
        assert_eq!(place_of(&numbered("w", "many").message), None);
        assert_eq!(place_of(&delivery(1, "x").message), None);
    }

    fn options() -> ReplayOptions {
        ReplayOptions {
            journal: QueueName::new("nexus.journal").unwrap(),
            to: QueueName::new("q").unwrap(),
            run: "run".to_owned(),
            login: None,
        }
    }

    #[tokio::test]
    async fn whatever_happens_each_number_is_in_one_group_and_none_overtakes_a_refused_one() {
        for (answer, at) in [
            (Answer::Return, 0),
            (Answer::Nack, 4),
            (Answer::Unknown, 9),
            (Answer::Fail(ErrorKind::ConnectionLost), 3),
            (Answer::Refuse(ErrorKind::ConnectionLost), 5),
        ] {
            let mut publisher = FakePublisher::new(1, [(at, answer.clone())]);
            let messages = (10..20).map(|n| (n, numbered("w", n as i64))).collect();
            let report =
                send_all(&mut publisher, messages, &options(), &Stop::new(), &mut |_| {}).await;
            let groups = [
                &report.confirmed,
                &report.returned,
                &report.nacked,
                &report.in_doubt,
                &report.not_sent,
            ];
            let mut all: Vec<u64> = groups.iter().flat_map(|g| g.ranges().flatten()).collect();
            all.sort_unstable();
            assert_eq!(all, (10..20).collect::<Vec<_>>(), "{answer:?}: {report:?}");
            assert_eq!(report.confirmed.ranges().flatten().count() as u64, at, "{answer:?}");
            assert!(report.stopped.is_some());
        }
    }

    #[test]
    fn what_is_sent_again_says_so_and_keeps_its_identity() {
        let mut given = numbered("w", 5);
        given.message.properties.message_id = Some("m-5".to_owned());
        given.message.properties.headers_mut().insert("x-stream-offset", 77);
        let options = options();
        let publish = again(given, &options.journal, &options.to, &options.run, None);
        assert_eq!(publish.routing_key.as_str(), "q");
        assert!(publish.exchange.is_default());
        let properties = &publish.message.properties;
        assert_eq!(properties.message_id.as_deref(), Some("m-5"));
        assert_eq!(properties.header(RETRANSMISSION), Some(&"run".into()));
        assert_eq!(properties.header("x-stream-offset"), None);
        assert_eq!(place_of(&publish.message), Some(("w", 5)));
        let Some(FieldValue::Table(origin)) = properties.header(MOVED_FROM) else {
            panic!("{properties:?}");
        };
        assert_eq!(origin.get("offset"), Some(&FieldValue::Int64(77)));
    }
}
