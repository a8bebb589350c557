//! Where messages to publish come from: one body, lines, records. Reading is synchronous and happens
//! on a thread of its own, so that it overlaps sending.
//!
//! Nothing here keeps more than one line. A line ends at LF; a CR in front of it belongs to the line
//! end and not to the message. The last line needs no LF. An empty line is a message with an empty
//! body; among records a blank line is nothing.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use serde_json::Value;

use crate::base::expression::{Context, Template};
use crate::base::id::{ExchangeName, RoutingKey};
use crate::base::time::{Clock, Timestamp};
use crate::broker::Publish;
use crate::message::argument::{check_user_id, parse_expiration};
use crate::message::envelope::message_id;
use crate::message::{FieldTable, FieldValue, Message, parse_record};
use crate::topology::model::MessageType;

use super::compose::{Composer, apply_defaults};

/// One message to send.
#[derive(Debug)]
pub struct Item {
    /// Its line, or its number when there are no lines; from 1.
    pub line: u64,
    /// What goes where.
    pub publish: Publish,
}

/// One line that is no message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its line, from 1.
    pub line: u64,
    /// What is wrong with it; several problems on several lines.
    pub reason: String,
    /// The line itself, without its end.
    pub raw: Vec<u8>,
}

/// What a source gives.
pub type Read1 = Result<Item, BadLine>;

/// Gives messages one after the other.
pub trait Source: Send {
    /// The next message or bad line; `None` at the end. An error ends the reading.
    fn next(&mut self) -> io::Result<Option<Read1>>;

    /// Whether [`Source::next`] would return without waiting for input.
    fn is_ready(&self) -> bool;
}

/// What the broker would refuse by closing the channel, which puts every message in flight in doubt:
/// so it is checked before.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The login, which the property `user_id` must equal.
    pub login: Option<String>,
    /// The largest body the broker takes, in bytes.
    pub largest_body: Option<usize>,
    /// Whether headers may only hold finite numbers: RabbitMQ ends the connection (541) at the others.
    pub finite_numbers: bool,
}

fn is_finite(value: &FieldValue) -> bool {
    match value {
        FieldValue::Float(n) => n.is_finite(),
        FieldValue::Double(n) => n.is_finite(),
        FieldValue::Array(values) => values.iter().all(is_finite),
        FieldValue::Table(table) => table.iter().all(|(_, value)| is_finite(value)),
        _ => true,
    }
}

impl Limits {
    /// Everything about `publish` that the broker would refuse.
    pub fn check(&self, publish: &Publish) -> Result<(), String> {
        let mut wrong = Vec::new();
        let properties = &publish.message.properties;
        if let Some(expiration) = &properties.expiration {
            let digits = !expiration.is_empty() && expiration.bytes().all(|b| b.is_ascii_digit());
            if !digits || parse_expiration(expiration).is_err() {
                wrong.push(format!(
                    "expiration `{expiration}` is no number of milliseconds in digits"
                ));
            }
        }
        if let (Some(user_id), Some(login)) = (&properties.user_id, &self.login) {
            wrong.extend(check_user_id(user_id, login).err());
        }
        for name in ["CC", "BCC"] {
            let header = properties.header(name);
            if header.is_some_and(|value| !matches!(value, FieldValue::Array(_))) {
                wrong.push(format!("header `{name}` takes an array of routing keys"));
            }
        }
        for (name, value) in properties.headers.iter().flat_map(FieldTable::iter) {
            if self.finite_numbers && !is_finite(value) {
                wrong.push(format!(
                    "header `{name}` holds NaN or an infinity, which RabbitMQ cannot read"
                ));
            }
        }
        let size = publish.message.body.len();
        if let Some(most) = self.largest_body.filter(|most| size > *most) {
            wrong.push(format!("the body is {size} bytes long; this broker takes {most}"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}

/// The longest line that is read; a longer one is a bad line, read over without being kept.
pub const LONGEST_LINE: usize = 512 * 1024 * 1024;

struct Lines {
    input: BufReader<Box<dyn Read + Send>>,
    number: u64,
    longest: usize,
}

enum Line {
    Whole(Vec<u8>),
    TooLong(usize),
}

impl Lines {
    fn new(input: Box<dyn Read + Send>) -> Self {
        Lines {
            input: BufReader::with_capacity(256 * 1024, input),
            number: 0,
            longest: LONGEST_LINE,
        }
    }

    /// The next line without its end.
    fn next(&mut self) -> io::Result<Option<Line>> {
        let mut line = Vec::new();
        let mut length = 0;
        loop {
            let chunk = match self.input.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                if length == 0 {
                    return Ok(None);
                }
                break;
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len();
            if length <= self.longest {
                line.extend_from_slice(part);
            } else {
                line = Vec::new();
            }
            let used = part.len() + usize::from(end.is_some());
            self.input.consume(used);
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        if length > self.longest {
            return Ok(Some(Line::TooLong(length)));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(Line::Whole(line)))
    }

    fn is_ready(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }

    fn too_long(&self, length: usize) -> BadLine {
        let reason = format!(
            "the line is {length} bytes long; the longest that is read is {}",
            self.longest
        );
        BadLine { line: self.number, reason, raw: Vec::new() }
    }
}

/// Each line is a body.
pub struct LineSource {
    lines: Lines,
    exchange: ExchangeName,
    routing_key: RoutingKey,
    composer: Composer,
    limits: Limits,
}

impl std::fmt::Debug for LineSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineSource").field("line", &self.lines.number).finish_non_exhaustive()
    }
}

impl LineSource {
    /// Reads bodies from `input`; all go to one exchange with one key.
    pub fn new(
        input: Box<dyn Read + Send>,
        exchange: ExchangeName,
        routing_key: RoutingKey,
        composer: Composer,
        limits: Limits,
    ) -> Self {
        LineSource { lines: Lines::new(input), exchange, routing_key, composer, limits }
    }
}

impl Source for LineSource {
    fn next(&mut self) -> io::Result<Option<Read1>> {
        let body = match self.lines.next()? {
            None => return Ok(None),
            Some(Line::TooLong(length)) => return Ok(Some(Err(self.lines.too_long(length)))),
            Some(Line::Whole(body)) => body,
        };
        let line = self.lines.number;
        // Only an envelope can refuse a body, and only then the body is needed again.
        let kept = self.composer.can_refuse().then(|| body.clone());
        let publish = self.composer.compose(line - 1, body).map(|message| Publish {
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            message,
        });
        Ok(Some(match publish {
            Ok(publish) => match self.limits.check(&publish) {
                Ok(()) => Ok(Item { line, publish }),
                Err(reason) => {
                    Err(BadLine { line, reason, raw: kept.unwrap_or(publish.message.body) })
                }
            },
            Err(reason) => Err(BadLine { line, reason, raw: kept.unwrap_or_default() }),
        }))
    }

    fn is_ready(&self) -> bool {
        self.lines.is_ready()
    }
}

/// Each line is a record.
pub struct RecordSource {
    lines: Lines,
    exchange: Option<ExchangeName>,
    routing_key: Option<RoutingKey>,
    defaults: std::collections::BTreeMap<String, MessageType>,
    limits: Limits,
}

impl std::fmt::Debug for RecordSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordSource").field("line", &self.lines.number).finish_non_exhaustive()
    }
}

impl RecordSource {
    /// Reads records from `input`. An exchange or key that is given here wins over the record's.
    pub fn new(
        input: Box<dyn Read + Send>,
        exchange: Option<ExchangeName>,
        routing_key: Option<RoutingKey>,
        limits: Limits,
    ) -> Self {
        let lines = Lines::new(input);
        RecordSource { lines, exchange, routing_key, defaults: Default::default(), limits }
    }

    /// Time to live, priority and persistence by message type, where the record does not say.
    #[must_use]
    pub fn with_defaults(
        mut self,
        defaults: std::collections::BTreeMap<String, MessageType>,
    ) -> Self {
        self.defaults = defaults;
        self
    }

    fn read(&self, line: &[u8]) -> Result<(Option<Timestamp>, Publish), String> {
        let record = parse_record(line).map_err(|problems| problems.to_string())?;
        let received_at = record.received_at;
        let exchange = self.exchange.clone().or(record.exchange);
        let routing_key = self.routing_key.clone().or(record.routing_key);
        let missing = |key: &str| format!("the record has no `{key}`, and none was given");
        match (exchange, routing_key) {
            (Some(exchange), Some(routing_key)) => {
                let mut message = record.message;
                apply_defaults(&mut message.properties, &self.defaults);
                let publish = Publish { exchange, routing_key, message };
                self.limits.check(&publish)?;
                Ok((received_at, publish))
            }
            (None, None) => Err(format!("{}\n{}", missing("exchange"), missing("routingKey"))),
            (None, _) => Err(missing("exchange")),
            (_, None) => Err(missing("routingKey")),
        }
    }
}

impl RecordSource {
    /// The next record, and when it was received, if it says so.
    pub(super) fn next_recorded(&mut self) -> io::Result<Option<(Option<Timestamp>, Read1)>> {
        loop {
            let raw = match self.lines.next()? {
                None => return Ok(None),
                Some(Line::TooLong(length)) => {
                    return Ok(Some((None, Err(self.lines.too_long(length)))));
                }
                Some(Line::Whole(raw)) => raw,
            };
            if raw.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let line = self.lines.number;
            return Ok(Some(match self.read(&raw) {
                Ok((at, publish)) => (at, Ok(Item { line, publish })),
                Err(reason) => (None, Err(BadLine { line, reason, raw })),
            }));
        }
    }
}

impl Source for RecordSource {
    fn next(&mut self) -> io::Result<Option<Read1>> {
        Ok(self.next_recorded()?.map(|(_, read)| read))
    }

    fn is_ready(&self) -> bool {
        self.lines.is_ready()
    }
}

/// The names that a template of a body or a routing key may use.
pub const TEMPLATE_VARIABLES: [&str; 4] = ["seq", "uuid", "now", "random"];

/// A body that is the same each time, or made anew from a template.
#[derive(Debug)]
pub enum Body {
    /// The same bytes.
    Fixed(Vec<u8>),
    /// `${ seq }` (from 0), `${ uuid }` (version 7), `${ now }` (RFC 3339), `${ random }` (from 0 up
    /// to 1), and what CEL makes of them: `${ int(random * 90.0) + 10 }`.
    Template(Template),
}

/// One body, a number of times.
#[derive(Debug)]
pub struct RepeatSource {
    exchange: ExchangeName,
    routing_key: RoutingKey,
    key_template: Option<Template>,
    body: Body,
    composer: Composer,
    count: u64,
    next: u64,
    clock: Arc<dyn Clock>,
    random: fastrand::Rng,
    limits: Limits,
}

impl RepeatSource {
    /// `count` messages with `body`. The same `random` and `clock` give the same messages.
    #[expect(clippy::too_many_arguments, reason = "each is another thing, and all are needed")]
    pub fn new(
        exchange: ExchangeName,
        routing_key: RoutingKey,
        body: Body,
        count: u64,
        composer: Composer,
        clock: Arc<dyn Clock>,
        random: fastrand::Rng,
        limits: Limits,
    ) -> Self {
        let key_template = None;
        RepeatSource {
            exchange,
            routing_key,
            key_template,
            body,
            composer,
            count,
            next: 0,
            clock,
            random,
            limits,
        }
    }

    /// Makes the routing key from a template too.
    #[must_use]
    pub fn with_key_template(mut self, template: Template) -> Self {
        self.key_template = Some(template);
        self
    }

    fn make(&mut self, seq: u64) -> Result<Publish, String> {
        let mut routing_key = self.routing_key.clone();
        let body = match (&self.body, &self.key_template) {
            (Body::Fixed(bytes), None) => bytes.clone(),
            (body, key_template) => {
                // Drawn in the same order whatever the template uses, so that a seed stays a seed.
                let now = self.clock.now();
                let uuid = message_id(now, &mut self.random);
                let random = self.random.f64();
                let context = Context::new()
                    .with_owned("seq", seq.into())
                    .with_owned("uuid", uuid.into())
                    .with_owned("now", now.to_string().into())
                    .with_owned("random", Value::from(random));
                if let Some(template) = key_template {
                    let text =
                        template.evaluate_text(&context).map_err(|error| error.to_string())?;
                    routing_key = RoutingKey::new(text).map_err(|error| error.to_string())?;
                }
                match body {
                    Body::Fixed(bytes) => bytes.clone(),
                    Body::Template(template) => template
                        .evaluate_text(&context)
                        .map_err(|error| error.to_string())?
                        .into_bytes(),
                }
            }
        };
        let message: Message = self.composer.compose(seq, body)?;
        let publish = Publish { exchange: self.exchange.clone(), routing_key, message };
        self.limits.check(&publish)?;
        Ok(publish)
    }
}

impl Source for RepeatSource {
    fn next(&mut self) -> io::Result<Option<Read1>> {
        if self.next >= self.count {
            return Ok(None);
        }
        let seq = self.next;
        self.next += 1;
        Ok(Some(match self.make(seq) {
            Ok(publish) => Ok(Item { line: seq + 1, publish }),
            Err(reason) => Err(BadLine { line: seq + 1, reason, raw: Vec::new() }),
        }))
    }

    fn is_ready(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::base::time::FixedClock;
    use crate::message::{FieldTable, Properties};

    use super::*;

    fn composer() -> Composer {
        Composer::new(Properties::default(), clock(), fastrand::Rng::with_seed(1))
    }

    fn clock() -> Arc<FixedClock> {
        Arc::new(FixedClock::at(Timestamp::from_unix_ms(1_700_000_000_000)))
    }

    fn lines(input: &'static [u8]) -> LineSource {
        let key = RoutingKey::new("k").unwrap();
        let exchange = ExchangeName::default_exchange();
        LineSource::new(Box::new(input), exchange, key, composer(), Limits::default())
    }

    fn bodies(mut source: impl Source) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        while let Some(item) = source.next().unwrap() {
            bodies.push(item.unwrap().publish.message.body);
        }
        bodies
    }

    #[test]
    fn a_line_is_a_message_whatever_its_end() {
        assert_eq!(bodies(lines(b"a\r\nb\n\nc\rd\r")), [&b"a"[..], b"b", b"", b"c\rd"]);
        assert_eq!(bodies(lines(b"")), Vec::<Vec<u8>>::new());
        assert_eq!(bodies(lines(b"\n")), [b""]);
    }

    #[test]
    fn five_megabytes_without_a_break_are_one_message() {
        let line: Vec<u8> = vec![b'x'; 5_000_000];
        let input = io::Cursor::new([&line[..], b"\n", b"next"].concat());
        let key = RoutingKey::new("k").unwrap();
        let exchange = ExchangeName::default_exchange();
        let limits = Limits::default();
        let source = LineSource::new(Box::new(input), exchange, key, composer(), limits);
        assert_eq!(bodies(source), [line, b"next".to_vec()]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_named_and_read_over() {
        let mut source = lines(b"abc\nabcdef\nab");
        source.lines.longest = 3;
        assert!(source.next().unwrap().unwrap().is_ok());
        let bad = source.next().unwrap().unwrap().unwrap_err();
        assert_eq!(
            (bad.line, bad.reason.as_str()),
            (2, "the line is 6 bytes long; the longest that is read is 3")
        );
        assert_eq!(source.next().unwrap().unwrap().unwrap().line, 3);
    }

    #[test]
    fn records_say_where_they_go_unless_told_otherwise() {
        let input = br#"
{"exchange":"a","routingKey":"b","bodyText":"1"}

{"bodyText":"2"}
{"exchange":"a","routingKey":"b","properties":{"expiration":"soon","userId":"root","headers":{"CC":"x"}}}"#;
        let limits = Limits { login: Some("guest".into()), ..Limits::default() };
        let mut source = RecordSource::new(Box::new(&input[..]), None, None, limits);
        let first = source.next().unwrap().unwrap().unwrap();
        assert_eq!((first.line, first.publish.exchange.as_str()), (2, "a"));
        let bad = source.next().unwrap().unwrap().unwrap_err();
        assert_eq!(bad.line, 4);
        assert_eq!(bad.reason.lines().count(), 2, "{}", bad.reason);
        assert_eq!(bad.raw, br#"{"bodyText":"2"}"#);
        let bad = source.next().unwrap().unwrap().unwrap_err();
        assert_eq!(bad.reason.lines().count(), 3, "{}", bad.reason);

        let exchange = Some(ExchangeName::new("over").unwrap());
        let key = Some(RoutingKey::new("ride").unwrap());
        let mut source = RecordSource::new(Box::new(&input[..]), exchange, key, Limits::default());
        let first = source.next().unwrap().unwrap().unwrap();
        assert_eq!(first.publish.exchange.as_str(), "over");
        assert!(source.next().unwrap().unwrap().is_ok());
    }

    #[test]
    fn a_seed_gives_the_same_messages_again() {
        let made = |seed| {
            let template = "${ seq } ${ uuid } ${ now } ${ int(random * 90.0) + 10 }";
            let template = Template::parse_with(template, &TEMPLATE_VARIABLES).unwrap();
            let source = RepeatSource::new(
                ExchangeName::default_exchange(),
                RoutingKey::new("k").unwrap(),
                Body::Template(template),
                3,
                composer(),
                clock(),
                fastrand::Rng::with_seed(seed),
                Limits::default(),
            )
            .with_key_template(Template::parse("key.${ seq % 2 }").unwrap());
            bodies(source)
        };
        assert_eq!(made(7), made(7));
        assert_ne!(made(7), made(8));
        let text = String::from_utf8(made(7)[2].clone()).unwrap();
        assert!(
            text.starts_with("2 018bcfe5-") && text.contains("2023-11-14T22:13:20.000Z"),
            "{text}"
        );
    }

    #[test]
    fn limits_name_all_that_the_broker_would_refuse() {
        let headers = FieldTable::new().with("CC", FieldValue::Array(vec!["x".into()]));
        let mut publish = Publish {
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new("k").unwrap(),
            message: Message {
                properties: Properties { headers: Some(headers), ..Properties::default() },
                body: vec![0; 10],
            },
        };
        let limits =
            Limits { login: Some("guest".into()), largest_body: Some(10), finite_numbers: true };
        assert_eq!(limits.check(&publish), Ok(()));
        publish.message.body.push(0);
        let nested = FieldTable::new().with("n", FieldValue::Double(f64::NAN));
        publish.message.properties.headers_mut().insert("deep", nested);
        assert_eq!(
            limits.check(&publish),
            Err("header `deep` holds NaN or an infinity, which RabbitMQ cannot read\n\
                 the body is 11 bytes long; this broker takes 10"
                .into())
        );
    }
}
