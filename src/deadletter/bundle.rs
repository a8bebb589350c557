//! The bundle: dead letters in a file, byte for byte, in their order.
//!
//! Pure. A bundle is NDJSON: a head that says whose letters these are, one line for each letter, and an
//! end. A letter is the product's record ([`crate::message::record`]), which loses nothing. Every line
//! closes with a seal: a checksum over the line and the seal before it. So a byte that was changed, and a
//! line that was lost, doubled or swapped, is found, and its number is known. The seal guards against
//! damage, not against somebody who wants to deceive: anybody can compute it.

use std::fmt;
use std::io::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::message::{Record, RecordRef, parse_record, write_record};

use super::letter::LetterId;

/// The version of all documents that we write.
const API_VERSION: &str = "nexus/v1";
/// What a bundle is called in its head.
const KIND: &str = "DeadLetterBundle";

/// A checksum over everything up to and with its line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seal([u8; 16]);

impl Seal {
    /// Before the first line.
    pub const NONE: Seal = Seal([0; 16]);

    fn over(self, line: &[u8]) -> Seal {
        let digest = Sha256::new().chain_update(self.0).chain_update(line).finalize();
        let mut seal = Seal::NONE;
        for (to, from) in seal.0.iter_mut().zip(digest) {
            *to = from;
        }
        seal
    }

    fn read(text: &[u8]) -> Option<Seal> {
        let mut seal = Seal::NONE;
        if text.len() != 2 * seal.0.len() || text.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        for (byte, digits) in seal.0.iter_mut().zip(text.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(seal)
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seal({self})")
    }
}

/// What stands at the end of each line: `,"seal":"…"}`.
const SEAL_KEY: &[u8] = b",\"seal\":\"";
const SEAL_LENGTH: usize = SEAL_KEY.len() + 32 + 2;

/// Whose letters these are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    api_version: String,
    kind: String,
    /// The run that wrote the bundle.
    pub run: String,
    /// The queue that the letters lay in.
    pub queue: QueueName,
    /// Its vhost.
    pub vhost: String,
    /// The broker.
    pub broker: String,
    /// When the run began.
    pub began: Timestamp,
    /// Who began it.
    pub who: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Head {
    /// The head of the bundle that `run` writes of `queue`.
    pub fn new(run: String, queue: QueueName, began: Timestamp) -> Head {
        Head {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            run,
            queue,
            vhost: String::new(),
            broker: String::new(),
            began,
            who: String::new(),
            reason: None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    letters: u64,
}

/// A letter of a bundle.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its place in the bundle, from 1.
    pub number: u64,
    /// Its name.
    pub id: LetterId,
    /// The message, and how it came to the queue.
    pub record: Record,
}

/// Closes the line that `out` has since `from`, and breaks it.
fn seal_up(out: &mut Vec<u8>, from: usize, before: Seal) -> Seal {
    let seal = before.over(out.get(from..).unwrap_or_default());
    out.extend_from_slice(SEAL_KEY);
    // Writing to memory cannot fail.
    let _ = writeln!(out, "{seal}\"}}");
    seal
}

/// JSON without the brace that closes it: the seal follows.
fn open_json(out: &mut Vec<u8>, value: &impl Serialize) {
    // What is written has string keys only, and memory cannot fail.
    let _ = serde_json::to_writer(&mut *out, value);
    out.pop();
}

/// Appends the head as a line.
pub fn write_head(out: &mut Vec<u8>, head: &Head) -> Seal {
    let from = out.len();
    open_json(out, head);
    seal_up(out, from, Seal::NONE)
}

/// Appends a letter as a line.
pub fn write_letter(
    out: &mut Vec<u8>,
    before: Seal,
    number: u64,
    id: &LetterId,
    record: &RecordRef<'_>,
) -> Seal {
    let from = out.len();
    let _ = write!(out, "{{\"letter\":{number},\"id\":\"{id}\",\"record\":");
    write_record(out, record);
    seal_up(out, from, before)
}

/// Appends the end as a line.
pub fn write_end(out: &mut Vec<u8>, before: Seal, letters: u64) -> Seal {
    let from = out.len();
    open_json(out, &Tail { end: End { letters } });
    seal_up(out, from, before)
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The file is something else.
    #[error("this is no bundle of dead letters: {0}")]
    NoBundle(String),
    /// Of a version that this program does not know.
    #[error("the bundle is of version `{0}`, and this program reads `{API_VERSION}`")]
    Version(String),
    /// It is not what was written.
    #[error("it is damaged: its seal does not fit it and the lines before it")]
    Damaged,
    /// It was written so, and cannot be used.
    #[error("{0}")]
    Wrong(String),
    /// After the end.
    #[error("it follows the end of the bundle")]
    AfterEnd,
}

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {flaw}")]
pub struct BundleError {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// A line that is what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The head; [`Reader::head`] has it.
    Head,
    /// A letter.
    Letter(Sealed<'a>),
    /// The end.
    End,
}

/// A letter whose seal is good; what is in it was not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    line: u64,
    /// Its place in the bundle, from 1.
    pub number: u64,
    text: &'a [u8],
}

impl Sealed<'_> {
    /// Reads the letter.
    ///
    /// # Errors
    /// When it was written wrongly.
    pub fn read(&self) -> Result<Item, BundleError> {
        let wrong = |why: String| BundleError { line: self.line, flaw: Flaw::Wrong(why) };
        let begin = format!("{{\"letter\":{},\"id\":\"", self.number);
        let parts = self.text.strip_prefix(begin.as_bytes()).and_then(|rest| {
            let (id, rest) = rest.split_at_checked(26)?;
            let id = LetterId::parse(std::str::from_utf8(id).ok()?)?;
            Some((id, rest.strip_prefix(b"\",\"record\":")?))
        });
        let Some((id, record)) = parts else {
            return Err(wrong(format!("it is not letter {}", self.number)));
        };
        let record = parse_record(record).map_err(|problems| {
            let first = problems.0.first().map(|problem| problem.message.clone());
            wrong(first.unwrap_or_default())
        })?;
        Ok(Item { number: self.number, id, record })
    }
}

/// Reads a bundle line by line.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    head: Option<Head>,
    seal: Option<Seal>,
    lines: u64,
    letters: u64,
    ended: bool,
}

impl Reader {
    /// At the beginning of a bundle.
    pub fn new() -> Reader {
        Reader::default()
    }

    /// The head, once it was read.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The seal of the last line; that of the last letter when the end was read.
    pub fn seal(&self) -> Seal {
        self.seal.unwrap_or(Seal::NONE)
    }

    /// Letters so far.
    pub fn letters(&self) -> u64 {
        self.letters
    }

    /// Whether the end was read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the next line, without its line break.
    ///
    /// # Errors
    /// What is wrong with it; nothing after it can be read then.
    pub fn line<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, BundleError> {
        self.lines += 1;
        let number = self.lines;
        self.take(line).map_err(|flaw| BundleError { line: number, flaw })
    }

    fn take<'a>(&mut self, line: &'a [u8]) -> Result<Line<'a>, Flaw> {
        if self.ended {
            return Err(Flaw::AfterEnd);
        }
        let before = self.seal.unwrap_or(Seal::NONE);
        let opened = open(line, before);
        if self.head.is_none() {
            self.head = Some(head(line, opened)?);
            self.seal = opened.map(|(_, seal)| seal);
            return Ok(Line::Head);
        }
        let Some((text, seal)) = opened else { return Err(Flaw::Damaged) };
        if text.starts_with(b"{\"end\":") {
            let tail: Tail = closed(text).map_err(|error| Flaw::Wrong(error.to_string()))?;
            if tail.end.letters != self.letters {
                return Err(Flaw::Wrong(format!(
                    "it counts {} letters, and there are {}",
                    tail.end.letters, self.letters
                )));
            }
            self.ended = true;
            return Ok(Line::End);
        }
        self.seal = Some(seal);
        self.letters += 1;
        Ok(Line::Letter(Sealed { line: self.lines, number: self.letters, text }))
    }
}

/// The line without its seal, and the seal, when it fits.
fn open(line: &[u8], before: Seal) -> Option<(&[u8], Seal)> {
    let (text, end) = line.split_at_checked(line.len().checked_sub(SEAL_LENGTH)?)?;
    let written = end.strip_prefix(SEAL_KEY)?.strip_suffix(b"\"}")?;
    let seal = before.over(text);
    (Seal::read(written)? == seal).then_some((text, seal))
}

fn closed<T: for<'a> Deserialize<'a>>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&[text, b"}"].concat())
}

/// The head, or what the file is instead.
fn head(line: &[u8], opened: Option<(&[u8], Seal)>) -> Result<Head, Flaw> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Any {
        api_version: Option<String>,
        kind: Option<String>,
    }
    // First what it says it is, which a later version may seal otherwise.
    let any: Any = serde_json::from_slice(line)
        .map_err(|_| Flaw::NoBundle("its first line is no JSON object".to_owned()))?;
    if any.kind.as_deref() != Some(KIND) {
        let kind = any.kind.map_or("says no kind".to_owned(), |kind| format!("says `{kind}`"));
        return Err(Flaw::NoBundle(format!("its first line {kind}")));
    }
    match any.api_version {
        Some(version) if version == API_VERSION => {}
        version => return Err(Flaw::Version(version.unwrap_or_default())),
    }
    let Some((text, _)) = opened else { return Err(Flaw::Damaged) };
    closed(text).map_err(|error| Flaw::Wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::message::Message;
    use crate::message::arbitrary::{message, same};

    fn head() -> Head {
        Head {
            vhost: "/".to_owned(),
            broker: "amqp://b".to_owned(),
            who: "me".to_owned(),
            reason: Some("a \"reason\"\n".to_owned()),
            ..Head::new(
                "r1".to_owned(),
                QueueName::new("dead").unwrap(),
                Timestamp::from_unix_ms(5),
            )
        }
    }

    fn id() -> LetterId {
        LetterId::parse(&"a".repeat(26)).unwrap()
    }

    fn record(message: Message) -> Record {
        Record {
            exchange: Some(ExchangeName::new("dlx").unwrap()),
            routing_key: Some(RoutingKey::new("a.key").unwrap()),
            queue: Some(QueueName::new("dead").unwrap()),
            message,
            ..Record::default()
        }
    }

    fn bundle(messages: &[Message]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut seal = write_head(&mut out, &head());
        for (number, message) in (1..).zip(messages) {
            let record = record(message.clone());
            seal = write_letter(&mut out, seal, number, &id(), &record.as_ref());
        }
        write_end(&mut out, seal, messages.len() as u64);
        out
    }

    fn three() -> Vec<u8> {
        let message = |body: &str| Message { body: body.into(), ..Message::default() };
        bundle(&[message("one"), message("{\"two\":2}"), message("three")])
    }

    /// Reads the whole lines.
    fn read(bytes: &[u8]) -> Result<(Reader, Vec<Item>), BundleError> {
        let mut reader = Reader::new();
        let mut items = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else { break };
            if let Line::Letter(letter) = reader.line(line)? {
                items.push(letter.read()?);
            }
        }
        Ok((reader, items))
    }

    proptest! {
        #[test]
        fn nothing_of_a_letter_is_lost(messages in vec(message(), 0..4)) {
            let (reader, items) = read(&bundle(&messages)).unwrap();
            prop_assert!(reader.has_ended());
            prop_assert_eq!(reader.head(), Some(&head()));
            prop_assert_eq!(items.len(), messages.len());
            for (item, given) in items.iter().zip(&messages) {
                prop_assert!(same(&item.record.message, given));
                prop_assert_eq!(&item.id, &id());
                let bare = Record { message: Message::default(), ..item.record.clone() };
                prop_assert_eq!(bare, record(Message::default()));
            }
        }
    }

    #[test]
    fn cut_off_anywhere_the_whole_lines_are_good_and_the_end_is_missing() {
        let whole = three();
        for at in 0..whole.len() {
            let cut = &whole[..at];
            let lines = cut.iter().filter(|byte| **byte == b'\n').count();
            let (reader, items) = read(cut).unwrap();
            assert!(!reader.has_ended());
            assert_eq!(items.len(), lines.saturating_sub(1));
        }
        assert!(read(&whole).unwrap().0.has_ended());
    }

    #[test]
    fn any_flipped_bit_is_found_in_its_line() {
        let whole = three();
        let mut line = 1;
        for (at, byte) in whole.iter().enumerate() {
            if *byte == b'\n' {
                line += 1;
                continue;
            }
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let error = read(&changed).map(|(reader, _)| reader.lines).unwrap_err();
                assert_eq!(error.line, line, "bit {bit} of byte {at}: {error}");
            }
        }
    }

    #[test]
    fn lines_that_are_swapped_doubled_or_left_out_are_found() {
        let whole = three();
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for (order, line) in [
            (&[0, 2, 1, 3, 4][..], 2),
            (&[0, 1, 1, 2, 3, 4], 3),
            (&[0, 1, 3, 4], 3),
            (&[0, 1, 2, 4], 4),
            (&[1, 2, 3, 4], 1),
            (&[0, 1, 2, 3, 4, 4], 6),
        ] {
            let bytes: Vec<u8> = order.iter().flat_map(|at| lines[*at].to_vec()).collect();
            assert_eq!(read(&bytes).map(|_| ()).unwrap_err().line, line, "{order:?}");
        }
    }

    #[test]
    fn what_is_no_bundle_is_said_to_be_none() {
        for (text, expected) in [
            ("", "no JSON"),
            ("hello", "no JSON"),
            ("{\"a\":1}", "says no kind"),
            ("{\"apiVersion\":\"nexus/v1\",\"kind\":\"Topology\"}", "says `Topology`"),
            ("{\"apiVersion\":\"nexus/v9\",\"kind\":\"DeadLetterBundle\"}", "version `nexus/v9`"),
            ("{\"apiVersion\":\"nexus/v1\",\"kind\":\"DeadLetterBundle\"}", "damaged"),
        ] {
            let error = Reader::new().line(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }
}
