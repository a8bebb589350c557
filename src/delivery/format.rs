//! The format string of `consume`: `{routingKey}\t{body}\n`.
//!
//! A field in braces is replaced by what the message has there; a field that is unset becomes nothing.
//! Fields are named as in the record; `{headers.NAME}` is one header, `{record}` the whole record.
//! Escapes: `\t \n \r \0 \\ \{ \}`. Nothing is added, so a line needs its `\n`.

use std::fmt;

use crate::base::suggest::nearest;
use crate::broker::Delivery;
use crate::message::notation::format_value;
use crate::message::record::write_record;
use crate::message::{FieldValue, Properties};

use super::sink::record_of;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Exchange,
    RoutingKey,
    Queue,
    Redelivered,
    DeliveryTag,
    ContentType,
    ContentEncoding,
    Headers,
    DeliveryMode,
    Priority,
    CorrelationId,
    ReplyTo,
    Expiration,
    MessageId,
    Timestamp,
    Type,
    UserId,
    AppId,
    ClusterId,
    Body,
    Size,
    Record,
}

const FIELDS: [(&str, Field); 22] = [
    ("exchange", Field::Exchange),
    ("routingKey", Field::RoutingKey),
    ("queue", Field::Queue),
    ("redelivered", Field::Redelivered),
    ("deliveryTag", Field::DeliveryTag),
    ("contentType", Field::ContentType),
    ("contentEncoding", Field::ContentEncoding),
    ("headers", Field::Headers),
    ("deliveryMode", Field::DeliveryMode),
    ("priority", Field::Priority),
    ("correlationId", Field::CorrelationId),
    ("replyTo", Field::ReplyTo),
    ("expiration", Field::Expiration),
    ("messageId", Field::MessageId),
    ("timestamp", Field::Timestamp),
    ("type", Field::Type),
    ("userId", Field::UserId),
    ("appId", Field::AppId),
    ("clusterId", Field::ClusterId),
    ("body", Field::Body),
    ("size", Field::Size),
    ("record", Field::Record),
];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
    Header(String),
}

/// A format string that has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatString(Vec<Part>);

/// Why a text is no format string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("format, column {column}: {message}")]
pub struct FormatError {
    /// Where, in characters from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

impl std::str::FromStr for FormatString {
    type Err = FormatError;

    fn from_str(source: &str) -> Result<Self, FormatError> {
        let wrong = |column: usize, message: String| FormatError { column: column + 1, message };
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut chars = source.chars().enumerate();
        while let Some((column, c)) = chars.next() {
            match c {
                '\\' => text.push(match chars.next().map(|(_, c)| c) {
                    Some('t') => '\t',
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('0') => '\0',
                    Some(c @ ('\\' | '{' | '}')) => c,
                    other => {
                        let found = other.map_or_else(|| "the end".to_owned(), |c| format!("`{c}`"));
                        return Err(wrong(
                            column,
                            format!("`\\` is followed by {found}; escapes are \\t \\n \\r \\0 \\\\ \\{{ \\}}"),
                        ));
                    }
                }),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match chars.next() {
                            Some((_, '}')) => break,
                            Some((_, c)) => name.push(c),
                            None => {
                                let message = "this `{` is not closed; a brace itself is written `\\{`";
                                return Err(wrong(column, message.to_owned()));
                            }
                        }
                    }
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    parts.push(part(&name).map_err(|message| wrong(column, message))?);
                }
                '}' => {
                    let message = "this `}` closes nothing; a brace itself is written `\\}`";
                    return Err(wrong(column, message.to_owned()));
                }
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(FormatString(parts))
    }
}

fn part(name: &str) -> Result<Part, String> {
    if let Some(header) = name.strip_prefix("headers.").filter(|header| !header.is_empty()) {
        return Ok(Part::Header(header.to_owned()));
    }
    if let Some((_, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
        return Ok(Part::Field(*field));
    }
    let names = FIELDS.iter().map(|(known, _)| *known);
    Err(match nearest(name, names.clone()) {
        Some(known) => format!("no field `{name}`; did you mean `{known}`?"),
        None => format!(
            "no field `{name}`; there are {} and headers.NAME",
            names.collect::<Vec<_>>().join(", ")
        ),
    })
}

impl FormatString {
    /// Appends `delivery`, taken from `queue`, in this format.
    pub fn write(&self, out: &mut Vec<u8>, delivery: &Delivery, queue: &str) {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Header(name) => match delivery.message.properties.header(name) {
                    None => {}
                    Some(FieldValue::Text(bytes) | FieldValue::Bytes(bytes)) => {
                        out.extend_from_slice(bytes);
                    }
                    Some(value) => out.extend_from_slice(format_value(value).as_bytes()),
                },
                Part::Field(field) => write_field(out, *field, delivery, queue),
            }
        }
    }
}

fn write_field(out: &mut Vec<u8>, field: Field, delivery: &Delivery, queue: &str) {
    let message = &delivery.message;
    let Properties {
        content_type,
        content_encoding,
        headers,
        delivery_mode,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        kind,
        user_id,
        app_id,
        cluster_id,
    } = &message.properties;
    let mut text = |text: &Option<String>| {
        out.extend_from_slice(text.as_deref().unwrap_or_default().as_bytes());
    };
    match field {
        Field::ContentType => text(content_type),
        Field::ContentEncoding => text(content_encoding),
        Field::CorrelationId => text(correlation_id),
        Field::ReplyTo => text(reply_to),
        Field::Expiration => text(expiration),
        Field::MessageId => text(message_id),
        Field::Type => text(kind),
        Field::UserId => text(user_id),
        Field::AppId => text(app_id),
        Field::ClusterId => text(cluster_id),
        Field::Exchange => out.extend_from_slice(delivery.exchange.as_str().as_bytes()),
        Field::RoutingKey => out.extend_from_slice(delivery.routing_key.as_str().as_bytes()),
        Field::Queue => out.extend_from_slice(queue.as_bytes()),
        Field::Redelivered => number(out, Some(delivery.redelivered)),
        Field::DeliveryTag => number(out, Some(delivery.tag.tag)),
        Field::DeliveryMode => number(out, *delivery_mode),
        Field::Priority => number(out, *priority),
        Field::Timestamp => number(out, *timestamp),
        Field::Size => number(out, Some(message.body.len())),
        Field::Body => out.extend_from_slice(&message.body),
        Field::Record => write_record(out, &record_of(delivery, queue)),
        Field::Headers => {
            if let Some(headers) = headers {
                out.extend_from_slice(format_value(&headers.clone().into()).as_bytes());
            }
        }
    }
}

fn number(out: &mut Vec<u8>, number: Option<impl fmt::Display>) {
    if let Some(number) = number {
        out.extend_from_slice(number.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::delivery;
    use super::*;

    fn shown(format: &str) -> String {
        let mut delivery = delivery(3, "one\ntwo");
        delivery.message.properties.message_id = Some("m-1".into());
        delivery.message.properties.headers_mut().insert("tries", 4);
        let mut out = Vec::new();
        format.parse::<FormatString>().unwrap().write(&mut out, &delivery, "q");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_and_escapes_are_replaced() {
        assert_eq!(shown(r"{routingKey}\t{body}\n"), "key\tone\ntwo\n");
        assert_eq!(shown(r"\{{size}\}\\{messageId}"), "{7}\\m-1");
        assert_eq!(shown("{queue}/{deliveryTag}/{headers.tries}/{headers.none}/{type}"), "q/3/4//");
        assert_eq!(shown("é{headers}"), "é{\"tries\":4}");
        assert_eq!(shown(""), "");
        assert!(shown("{record}").starts_with("{\"exchange\":\"\""));
    }

    #[test]
    fn every_field_of_the_list_can_be_shown() {
        for (name, _) in FIELDS {
            shown(&format!("{{{name}}}"));
        }
    }

    #[test]
    fn what_is_no_format_is_refused_with_its_place() {
        for (format, message) in [
            (
                r"ab\x",
                r"format, column 3: `\` is followed by `x`; escapes are \t \n \r \0 \\ \{ \}",
            ),
            (
                "é{routingkey}",
                "format, column 2: no field `routingkey`; did you mean `routingKey`?",
            ),
            ("{body", r"format, column 1: this `{` is not closed; a brace itself is written `\{`"),
            ("}", r"format, column 1: this `}` closes nothing; a brace itself is written `\}`"),
        ] {
            assert_eq!(format.parse::<FormatString>().unwrap_err().to_string(), message);
        }
        assert!("{nonsense-field}".parse::<FormatString>().is_err());
        assert!("{headers.}".parse::<FormatString>().is_err());
    }
}
