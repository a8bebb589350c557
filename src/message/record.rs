//! The record: one NDJSON line for one message, the same wherever messages are written or read.
//!
//! `{"exchange":…,"routingKey":…,"queue":…,"redelivered":…,"properties":{…},"body":…}`. Writing and
//! reading lose nothing: properties that are absent stay absent, headers keep their AMQP types (see
//! [`notation`](super::notation)), and the body keeps its bytes. It is written as `body` only when it
//! is JSON that any parser gives back byte for byte, else as `bodyText` (UTF-8), else as
//! `bodyBase64`. `body` is read as it stands in the line. No body key means an empty body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;

use crate::base::diagnostic::Code;
use crate::base::id::{ExchangeName, NameError, QueueName, RoutingKey};
use crate::base::suggest::nearest;
use crate::base::time::Timestamp;

use super::json::{Broken, Problem, Problems, Reader, is_canonical, write_string};
use super::notation::{parse_time, put, read_table, write_base64, write_table, write_time};
use super::properties::{Message, Properties};

/// One message and where it goes or comes from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// The exchange it was or will be published to.
    pub exchange: Option<ExchangeName>,
    /// The routing key.
    pub routing_key: Option<RoutingKey>,
    /// The queue it was taken from; publishing ignores it.
    pub queue: Option<QueueName>,
    /// Whether the broker had handed it out before; publishing ignores it.
    pub redelivered: Option<bool>,
    /// The broker's number of the delivery; publishing ignores it.
    pub delivery_tag: Option<u64>,
    /// When it came to whoever recorded it; publishing ignores it, playing keeps its pace.
    pub received_at: Option<Timestamp>,
    /// Properties and body.
    pub message: Message,
}

/// A record that is only looked at, so that writing copies nothing.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// The exchange it was published to.
    pub exchange: Option<&'a str>,
    /// The routing key.
    pub routing_key: Option<&'a str>,
    /// The queue it was taken from.
    pub queue: Option<&'a str>,
    /// Whether the broker had handed it out before.
    pub redelivered: Option<bool>,
    /// The broker's number of the delivery.
    pub delivery_tag: Option<u64>,
    /// When it came.
    pub received_at: Option<Timestamp>,
    /// Properties and body.
    pub message: &'a Message,
}

impl Record {
    /// The record without owning it.
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef {
            exchange: self.exchange.as_ref().map(ExchangeName::as_str),
            routing_key: self.routing_key.as_ref().map(RoutingKey::as_str),
            queue: self.queue.as_ref().map(QueueName::as_str),
            redelivered: self.redelivered,
            delivery_tag: self.delivery_tag,
            received_at: self.received_at,
            message: &self.message,
        }
    }
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyForm<'a> {
    Json(&'a str),
    Text(&'a str),
    Base64,
}

fn form_of(body: &[u8]) -> BodyForm<'_> {
    match std::str::from_utf8(body) {
        Ok(text) if is_canonical(text) => BodyForm::Json(text),
        Ok(text) => BodyForm::Text(text),
        Err(_) => BodyForm::Base64,
    }
}

/// Appends `record` as one line of JSON, without the line break.
pub fn write_record(out: &mut Vec<u8>, record: &RecordRef<'_>) {
    out.reserve(record.message.body.len() + 256);
    out.push(b'{');
    let mut keys = Keys { out, first: true };
    keys.text("exchange", record.exchange);
    keys.text("routingKey", record.routing_key);
    keys.text("queue", record.queue);
    if let Some(redelivered) = record.redelivered {
        put(keys.key("redelivered"), format_args!("{redelivered}"));
    }
    if let Some(tag) = record.delivery_tag {
        put(keys.key("deliveryTag"), format_args!("{tag}"));
    }
    if let Some(time) = record.received_at {
        put(keys.key("receivedAt"), format_args!("\"{time}\""));
    }
    write_properties(keys.key("properties"), &record.message.properties);
    write_body(&mut keys, &record.message.body);
    out.push(b'}');
}

/// Appends the properties as a JSON object, only those that are there.
pub(crate) fn write_properties(out: &mut Vec<u8>, properties: &Properties) {
    out.push(b'{');
    let mut keys = Keys { out, first: true };
    keys.text("contentType", properties.content_type.as_deref());
    keys.text("contentEncoding", properties.content_encoding.as_deref());
    if let Some(headers) = &properties.headers {
        write_table(keys.key("headers"), headers);
    }
    if let Some(mode) = properties.delivery_mode {
        put(keys.key("deliveryMode"), format_args!("{mode}"));
    }
    if let Some(priority) = properties.priority {
        put(keys.key("priority"), format_args!("{priority}"));
    }
    keys.text("correlationId", properties.correlation_id.as_deref());
    keys.text("replyTo", properties.reply_to.as_deref());
    keys.text("expiration", properties.expiration.as_deref());
    keys.text("messageId", properties.message_id.as_deref());
    if let Some(seconds) = properties.timestamp {
        write_time(keys.key("timestamp"), seconds);
    }
    keys.text("type", properties.kind.as_deref());
    keys.text("userId", properties.user_id.as_deref());
    keys.text("appId", properties.app_id.as_deref());
    keys.text("clusterId", properties.cluster_id.as_deref());
    out.push(b'}');
}

/// The properties as a record has them.
pub fn properties_json(properties: &Properties) -> serde_json::Value {
    let mut out = Vec::new();
    write_properties(&mut out, properties);
    serde_json::from_slice(&out).unwrap_or_default()
}

fn write_body(keys: &mut Keys<'_>, body: &[u8]) {
    match form_of(body) {
        BodyForm::Json(json) => keys.key("body").extend_from_slice(json.as_bytes()),
        BodyForm::Text(text) => write_string(keys.key("bodyText"), text),
        BodyForm::Base64 => write_base64(keys.key("bodyBase64"), body),
    }
}

struct Keys<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Keys<'_> {
    fn key(&mut self, name: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn text(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            write_string(self.key(name), text);
        }
    }
}

const KEYS: [&str; 10] = [
    "exchange",
    "routingKey",
    "queue",
    "redelivered",
    "deliveryTag",
    "receivedAt",
    "properties",
    "body",
    "bodyText",
    "bodyBase64",
];

const PROPERTIES: [&str; 14] = [
    "contentType",
    "contentEncoding",
    "headers",
    "deliveryMode",
    "priority",
    "correlationId",
    "replyTo",
    "expiration",
    "messageId",
    "timestamp",
    "type",
    "userId",
    "appId",
    "clusterId",
];

const TYPE: Code = Code("record/type");
const VALUE: Code = Code("record/value");

/// Reads one line, without its line break. All problems of the line are reported at once.
pub fn parse_record(line: &[u8]) -> Result<Record, Problems> {
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        Err(error) => {
            let offset = error.valid_up_to();
            let column = String::from_utf8_lossy(&line[..offset]).chars().count() + 1;
            return Err(Problems(vec![Problem {
                code: Code("record/utf8"),
                offset,
                column,
                message: format!("byte 0x{:02x} is no UTF-8", line[offset]),
                hint: Some("a body of any bytes goes into \"bodyBase64\"".to_owned()),
            }]));
        }
    };
    let mut reader = Reader::new(text);
    let record = read_record(&mut reader);
    reader.finish(record)
}

fn read_record(reader: &mut Reader<'_>) -> Result<Record, Broken> {
    if reader.peek() != Some(b'{') {
        let at = reader.offset();
        return Err(reader.broken(at, "a record is a JSON object, so it begins with `{`"));
    }
    let mut record = Record::default();
    let mut seen = Seen::default();
    let mut body: Option<&'static str> = None;
    reader.object(|reader, key, at| {
        let Some(key) = seen.known(reader, &key, at, &KEYS) else {
            return reader.raw().map(|_| ());
        };
        if key.starts_with("body") {
            match body {
                Some(other) if other != key => reader.note(
                    VALUE,
                    at,
                    format!("a message has one body, and `{other}` is there already"),
                ),
                _ => body = Some(key),
            }
        }
        match key {
            "exchange" => record.exchange = read_name(reader, key, ExchangeName::new)?,
            "routingKey" => record.routing_key = read_name(reader, key, RoutingKey::new)?,
            "queue" => record.queue = read_name(reader, key, QueueName::new)?,
            "redelivered" => record.redelivered = read_flag(reader, key)?,
            "deliveryTag" => record.delivery_tag = read_integer(reader, key, u64::MAX)?,
            "receivedAt" => {
                let at = reader.offset();
                if let Some(text) = read_text(reader, key)? {
                    match text.parse() {
                        Ok(time) => record.received_at = Some(time),
                        Err(error) => reader.note(VALUE, at, format!("`{key}`: {error}")),
                    }
                }
            }
            "properties" => record.message.properties = read_properties(reader)?,
            "body" => record.message.body = reader.raw()?.as_bytes().to_vec(),
            "bodyText" => {
                if let Some(text) = read_text(reader, key)? {
                    record.message.body = text.into_bytes();
                }
            }
            _ => {
                let at = reader.offset();
                if let Some(text) = read_text(reader, key)? {
                    match BASE64.decode(&text) {
                        Ok(bytes) => record.message.body = bytes,
                        Err(error) => {
                            reader.note(VALUE, at, format!("`{key}` is no base64: {error}"));
                        }
                    }
                }
            }
        }
        Ok(())
    })?;
    reader.end()?;
    Ok(record)
}

fn read_properties(reader: &mut Reader<'_>) -> Result<Properties, Broken> {
    let mut found = Properties::default();
    if !wants(reader, b'{', "properties", "an object")? {
        return Ok(found);
    }
    let mut seen = Seen::default();
    reader.object(|reader, key, at| {
        let Some(key) = seen.known(reader, &key, at, &PROPERTIES) else {
            return reader.raw().map(|_| ());
        };
        match key {
            "contentType" => found.content_type = read_short(reader, key)?,
            "contentEncoding" => found.content_encoding = read_short(reader, key)?,
            "headers" => {
                if wants(reader, b'{', key, "an object")? {
                    found.headers = Some(read_table(reader, 0)?);
                }
            }
            "deliveryMode" => found.delivery_mode = read_integer(reader, key, 255)?.map(narrow),
            "priority" => found.priority = read_integer(reader, key, 255)?.map(narrow),
            "correlationId" => found.correlation_id = read_short(reader, key)?,
            "replyTo" => found.reply_to = read_short(reader, key)?,
            "expiration" => found.expiration = read_short(reader, key)?,
            "messageId" => found.message_id = read_short(reader, key)?,
            "timestamp" if reader.peek() == Some(b'"') => {
                let at = reader.offset();
                let text = reader.string()?;
                match parse_time(&text) {
                    Ok(seconds) => found.timestamp = Some(seconds),
                    Err(why) => reader.note(VALUE, at, format!("`timestamp`: {why}")),
                }
            }
            "timestamp" => found.timestamp = read_integer(reader, key, u64::MAX)?,
            "type" => found.kind = read_short(reader, key)?,
            "userId" => found.user_id = read_short(reader, key)?,
            "appId" => found.app_id = read_short(reader, key)?,
            _ => found.cluster_id = read_short(reader, key)?,
        }
        Ok(())
    })?;
    Ok(found)
}

/// Which of up to 16 known keys have been there.
#[derive(Default)]
struct Seen(u16);

impl Seen {
    fn known(
        &mut self,
        reader: &mut Reader<'_>,
        key: &str,
        at: usize,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let Some(index) = known.iter().position(|name| *name == key) else {
            let hint = nearest(key, known.iter().copied()).map_or_else(
                || format!("known here are {}", known.join(", ")),
                |name| format!("did you mean `{name}`?"),
            );
            reader.note_with(
                Code("record/unknown-key"),
                at,
                format!("unknown key `{key}`"),
                Some(hint),
            );
            return None;
        };
        if self.0 & (1 << index) != 0 {
            reader.note(Code("record/duplicate-key"), at, format!("`{key}` is there twice"));
        }
        self.0 |= 1 << index;
        Some(known[index])
    }
}

/// Whether a value that begins with `sign` comes next; anything else is noted and read over.
fn wants(reader: &mut Reader<'_>, sign: u8, key: &str, what: &str) -> Result<bool, Broken> {
    if reader.peek() == Some(sign) {
        return Ok(true);
    }
    let at = reader.offset();
    reader.raw()?;
    reader.note_with(
        TYPE,
        at,
        format!("`{key}` takes {what}"),
        Some("leave the key out to leave it unset".to_owned()),
    );
    Ok(false)
}

fn read_text(reader: &mut Reader<'_>, key: &str) -> Result<Option<String>, Broken> {
    if wants(reader, b'"', key, "a string")? {
        return Ok(Some(reader.string()?.into_owned()));
    }
    Ok(None)
}

fn read_short(reader: &mut Reader<'_>, key: &str) -> Result<Option<String>, Broken> {
    let at = reader.offset();
    let text = read_text(reader, key)?;
    if let Some(length) = text.as_ref().map(String::len).filter(|length| *length > 255) {
        reader.note(VALUE, at, format!("`{key}` is {length} bytes long; AMQP allows 255"));
    }
    Ok(text)
}

fn read_name<T>(
    reader: &mut Reader<'_>,
    key: &str,
    make: impl Fn(String) -> Result<T, NameError>,
) -> Result<Option<T>, Broken> {
    let at = reader.offset();
    let Some(text) = read_text(reader, key)? else { return Ok(None) };
    match make(text) {
        Ok(name) => Ok(Some(name)),
        Err(error) => {
            reader.note(VALUE, at, error.to_string());
            Ok(None)
        }
    }
}

fn read_flag(reader: &mut Reader<'_>, key: &str) -> Result<Option<bool>, Broken> {
    if let Some(b't' | b'f') = reader.peek() {
        return reader.literal();
    }
    wants(reader, b't', key, "true or false")?;
    Ok(None)
}

fn read_integer(reader: &mut Reader<'_>, key: &str, most: u64) -> Result<Option<u64>, Broken> {
    let at = reader.offset();
    let token = match reader.peek() {
        Some(b'-' | b'0'..=b'9') => reader.number()?,
        _ => reader.raw()?,
    };
    let number = token.parse().ok().filter(|number| *number <= most);
    if number.is_none() {
        reader.note(TYPE, at, format!("`{key}` takes an integer from 0 to {most}"));
    }
    Ok(number)
}

fn narrow(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// The published JSON Schema of a record; `schemas/output/record.schema.json` is this.
pub fn record_schema() -> serde_json::Value {
    let text = |about: &str| json!({"type": "string", "description": about});
    let short = |about: &str| json!({"type": "string", "maxLength": 255, "description": about});
    let byte = |about: &str| json!({"type": "integer", "minimum": 0, "maximum": 255, "description": about});
    let time = || {
        json!({
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "integer", "minimum": 0, "maximum": u64::MAX}
            ]
        })
    };
    let mut timestamp = time();
    timestamp["description"] =
        json!("RFC 3339 in whole seconds; seconds since 1970 where the calendar ends");
    let integer =
        |least: i64, most: u64| json!({"type": "integer", "minimum": least, "maximum": most});
    let float = || {
        json!({
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": "^(NaN|-?Infinity|0x[0-9a-f]+)$"}
            ]
        })
    };
    let base64 = || json!({"type": "string", "contentEncoding": "base64"});
    let table = || json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/header"}});
    let tags = [
        ("$int8", integer(-128, 127)),
        ("$uint8", integer(0, 255)),
        ("$int16", integer(-32_768, 32_767)),
        ("$uint16", integer(0, 65_535)),
        ("$int32", integer(-2_147_483_648, 2_147_483_647)),
        ("$uint32", integer(0, 4_294_967_295)),
        ("$int64", integer(i64::MIN, 9_223_372_036_854_775_807)),
        ("$float", float()),
        ("$double", float()),
        ("$decimal", json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?$"})),
        ("$timestamp", time()),
        ("$bytes", base64()),
        ("$text", base64()),
        ("$table", table()),
    ];
    let tagged = tags.map(|(tag, value)| {
        json!({
            "type": "object",
            "properties": {tag: value},
            "required": [tag],
            "additionalProperties": false
        })
    });
    let mut header = vec![
        json!({"type": ["null", "boolean", "string", "number"]}),
        json!({"type": "array", "items": {"$ref": "#/$defs/header"}}),
        json!({
            "type": "object",
            "propertyNames": {"pattern": "^[^$]|^$"},
            "additionalProperties": {"$ref": "#/$defs/header"}
        }),
    ];
    header.extend(tagged);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Record",
        "description": "One message as one line: what consume writes and publish reads.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "exchange": short("The exchange; empty is the default exchange."),
            "routingKey": short("The routing key."),
            "queue": short("The queue it was taken from; publish ignores it."),
            "redelivered": {
                "type": "boolean",
                "description": "Whether it had been handed out before; publish ignores it."
            },
            "deliveryTag": {
                "type": "integer", "minimum": 0,
                "description": "The broker's number of the delivery; publish ignores it."
            },
            "receivedAt": {
                "type": "string", "format": "date-time",
                "description": "When it came to whoever recorded it; publish ignores it, play keeps its pace."
            },
            "properties": {"$ref": "#/$defs/properties"},
            "body": {"description": "The body, when it is JSON that survives parsing byte for byte."},
            "bodyText": text("The body, when it is other UTF-8 text."),
            "bodyBase64": {
                "type": "string", "contentEncoding": "base64",
                "description": "The body, when it is not UTF-8."
            }
        },
        "dependentSchemas": {
            "body": {"not": {"anyOf": [{"required": ["bodyText"]}, {"required": ["bodyBase64"]}]}},
            "bodyText": {"not": {"required": ["bodyBase64"]}}
        },
        "$defs": {
            "properties": {
                "description": "The AMQP properties that are set.",
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "contentType": short("MIME type of the body."),
                    "contentEncoding": short("MIME encoding of the body."),
                    "headers": table(),
                    "deliveryMode": byte("1 transient, 2 persistent."),
                    "priority": byte("What it means depends on the queue."),
                    "correlationId": short("Ties an answer to its request."),
                    "replyTo": short("Where an answer goes."),
                    "expiration": short("Time to live in milliseconds, as decimal digits."),
                    "messageId": short("The application's id of the message."),
                    "timestamp": timestamp,
                    "type": short("The application's name of the kind of message."),
                    "userId": short("Login of the publisher."),
                    "appId": short("Id of the publishing application."),
                    "clusterId": short("Deprecated by AMQP.")
                }
            },
            "header": {
                "description": "A header value with its AMQP type.",
                "anyOf": header
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::super::arbitrary::{message, same};
    use super::super::value::FieldTable;
    use super::*;

    fn line(record: &Record) -> String {
        let mut out = Vec::new();
        write_record(&mut out, &record.as_ref());
        String::from_utf8(out).unwrap()
    }

    fn body_key(body: &[u8]) -> String {
        let message = Message { body: body.to_vec(), ..Message::default() };
        let line = line(&Record { message, ..Record::default() });
        line.strip_prefix(r#"{"properties":{},""#).unwrap().split('"').next().unwrap().to_owned()
    }

    #[test]
    fn ten_thousand_random_messages_read_back_the_same() {
        let name = || prop::option::of("[^\\r\\n]{0,20}");
        let strategy = (
            message(),
            name(),
            name(),
            prop::option::of("[^\\r\\n]{1,20}"),
            any::<Option<bool>>(),
            any::<Option<u64>>(),
            prop::option::of(0..4_000_000_000_000i64),
        );
        let schema = jsonschema::validator_for(&record_schema()).unwrap();
        let mut validated = 0;
        let mut runner = TestRunner::new(Config::with_cases(10_000));
        let cell = std::cell::RefCell::new(&mut validated);
        runner
            .run(
                &strategy,
                |(message, exchange, key, queue, redelivered, delivery_tag, received)| {
                    let record = Record {
                        exchange: exchange.map(|text| ExchangeName::new(text).unwrap()),
                        routing_key: key.map(|text| RoutingKey::new(text).unwrap()),
                        queue: queue.map(|text| QueueName::new(text).unwrap()),
                        redelivered,
                        delivery_tag,
                        received_at: received.map(Timestamp::from_unix_ms),
                        message,
                    };
                    let line = line(&record);
                    prop_assert!(!line.contains('\n'));
                    let back = match parse_record(line.as_bytes()) {
                        Ok(back) => back,
                        Err(problems) => {
                            return Err(TestCaseError::fail(format!("{line}\n{problems}")));
                        }
                    };
                    prop_assert!(same(&back.message, &record.message), "{line}");
                    let bare =
                        |record: &Record| Record { message: Message::default(), ..record.clone() };
                    prop_assert_eq!(bare(&back), bare(&record));
                    // Whoever reads it with an ordinary JSON library and writes it again changes nothing.
                    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                    let again = parse_record(value.to_string().as_bytes()).unwrap();
                    prop_assert!(same(&again.message, &record.message), "{line}");
                    if let Err(error) = schema.validate(&value) {
                        return Err(TestCaseError::fail(format!(
                            "{line}\n{error} at {}",
                            error.instance_path()
                        )));
                    }
                    **cell.borrow_mut() += 1;
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(validated, 10_000);
    }

    #[test]
    fn the_body_takes_the_most_readable_form_that_loses_nothing() {
        for (body, key) in [
            (&b"{\"a\":1}"[..], "body"),
            (b"5", "body"),
            (b"null", "body"),
            (b"{\"a\": 1}", "bodyText"),
            (b"{\"a\":1.50}", "bodyText"),
            (b"{\"a\":1,\"a\":2}", "bodyText"),
            (b"{\"a\":1}\n", "bodyText"),
            (b"", "bodyText"),
            ("h\u{e9}".as_bytes(), "bodyText"),
            (b"\xff\x00", "bodyBase64"),
        ] {
            assert_eq!(body_key(body), key, "{body:?}");
        }
    }

    #[test]
    fn a_record_looks_like_this() {
        let record = Record {
            exchange: Some(ExchangeName::default_exchange()),
            routing_key: Some(RoutingKey::new("orders").unwrap()),
            queue: Some(QueueName::new("orders").unwrap()),
            redelivered: Some(false),
            delivery_tag: None,
            received_at: None,
            message: Message {
                properties: Properties {
                    content_type: Some("application/json".into()),
                    headers: Some(FieldTable::new().with("tries", 3)),
                    delivery_mode: Some(2),
                    timestamp: Some(1_700_000_000),
                    kind: Some("order.created".into()),
                    ..Properties::default()
                },
                body: b"{\"id\":7}".to_vec(),
            },
        };
        assert_eq!(
            line(&record),
            r#"{"exchange":"","routingKey":"orders","queue":"orders","redelivered":false,"properties":{"contentType":"application/json","headers":{"tries":3},"deliveryMode":2,"timestamp":"2023-11-14T22:13:20Z","type":"order.created"},"body":{"id":7}}"#
        );
    }

    #[test]
    fn a_body_is_sent_as_it_stands_in_the_line() {
        let record = parse_record(br#" { "body" : { "price": 1.50 } } "#).unwrap();
        assert_eq!(record.message.body, br#"{ "price": 1.50 }"#);
        assert_eq!(parse_record(b"{}").unwrap(), Record::default());
    }

    #[test]
    fn all_problems_of_a_line_come_at_once() {
        let problems = parse_record(
            r#"{"exchnage":"a","routingKey":"é\n","properties":{"priority":256,"messageId":5,"headers":{"n":{"$int8":900}},"priority":1,"timestamp":"then"},"body":1,"bodyText":"x","bodyBase64":"%"}"#
                .as_bytes(),
        )
        .unwrap_err();
        let lines: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "column 2: unknown key `exchnage`; did you mean `exchange`?",
                "column 30: routing key contains a line break, which RabbitMQ would strip silently",
                "column 61: `priority` takes an integer from 0 to 255",
                "column 77: `messageId` takes a string; leave the key out to leave it unset",
                "column 103: `$int8` takes an integer from -128 to 127",
                "column 109: `priority` is there twice",
                "column 134: `timestamp`: `then` is neither RFC 3339 (2026-01-31T12:00:00Z) nor whole \
                 seconds since 1970",
                "column 151: a message has one body, and `body` is there already",
                "column 166: a message has one body, and `body` is there already",
                "column 179: `bodyBase64` is no base64: Invalid symbol 37, offset 0.",
            ]
        );
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_place() {
        for (line, message) in [
            (&b""[..], "column 1: a record is a JSON object, so it begins with `{`"),
            (b"[1]", "column 1: a record is a JSON object, so it begins with `{`"),
            (b"{", "column 2: expected a key in quotes, found the end"),
            (b"{\"body\":1", "column 10: expected `,` or `}`, found the end"),
            (b"{\"body\":1} x", "column 12: expected the end of the line, found `x`"),
            (b"{\"bodyText\":\"a", "column 13: this string has no end"),
            (
                b"{\"bodyText\":\"\xff\"}",
                "column 14: byte 0xff is no UTF-8; a body of any bytes goes into \"bodyBase64\"",
            ),
            (
                b"{\"properties\":null}",
                "column 15: `properties` takes an object; leave the key out to leave it unset",
            ),
            (
                b"{\"redelivered\":\"yes\"}",
                "column 16: `redelivered` takes true or false; leave the key out to leave it unset",
            ),
        ] {
            assert_eq!(parse_record(line).unwrap_err().to_string(), message);
        }
        let long = format!(r#"{{"properties":{{"messageId":"{}"}}}}"#, "x".repeat(256));
        assert!(parse_record(long.as_bytes()).is_err());
    }

    #[test]
    fn the_published_schema_is_the_one_made_here() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/output/record.schema.json");
        let wanted = format!("{:#}\n", record_schema());
        if std::fs::read_to_string(path).ok().as_deref() != Some(wanted.as_str()) {
            let made = concat!(env!("CARGO_MANIFEST_DIR"), "/target/record.schema.json");
            std::fs::write(made, wanted).unwrap();
            panic!("copy target/record.schema.json to schemas/output/");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_the_reader_panic(line in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..300, with in any::<u8>()) {
            let _ = parse_record(&line);
            let mut near = br#"{"exchange":"a","properties":{"headers":{"a":{"$decimal":"1.5"},"b":["\\ud83d\\ude00"]},"timestamp":"2026-01-01T00:00:00Z"},"bodyBase64":"AAAA"}"#.to_vec();
            let at = cut.min(near.len() - 1);
            near[at] = with;
            let _ = parse_record(&near);
            near.truncate(at);
            prop_assert!(parse_record(&near).is_err());
        }
    }
}
