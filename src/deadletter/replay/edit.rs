//! What becomes different in a letter before it goes: headers, and its body.
//!
//! Pure. An edit that is not possible for one letter leaves that letter where it is. What is replaced is
//! not forgotten: headers and the encoding go into the newest journey of the letter's history, the body
//! into the state file, before the copy is published.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use jsonschema::Validator;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::expression::{Expression, ExpressionError, Template};
use crate::base::id::QueueName;
use crate::broker::Delivery;
use crate::broker::arguments::field_of_json;
use crate::deadletter::body::plain;
use crate::deadletter::letter::LetterId;
use crate::message::FieldValue;

use super::subject;

/// The longest header that is set, in bytes: all headers together have to fit into one frame.
const LONGEST_HEADER: usize = 16 * 1024;

/// A header and what it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetHeader {
    /// Its name.
    pub name: String,
    /// Text; one `${ … }` and nothing else keeps the type of its value.
    pub value: String,
}

impl FromStr for SetHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<SetHeader, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(SetHeader { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err("write NAME=VALUE".to_owned()),
        }
    }
}

/// What is to become different, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EditSpec {
    /// Headers that are set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set_headers: Vec<SetHeader>,
    /// Headers that are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove_headers: Vec<String>,
    /// A JSON Patch (RFC 6902) of the body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_patch: Option<Value>,
    /// An expression whose value is the new body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A JSON Schema that every new body satisfies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
}

impl EditSpec {
    /// Whether nothing becomes different.
    pub fn is_empty(&self) -> bool {
        *self == EditSpec::default()
    }

    /// Whether bodies become different.
    pub fn changes_bodies(&self) -> bool {
        self.body.is_some() || self.body_patch.is_some()
    }

    /// What becomes different, in words.
    pub fn in_words(&self) -> Vec<String> {
        let set = self.set_headers.iter().map(|set| format!("header {} = {}", set.name, set.value));
        let removed = self.remove_headers.iter().map(|name| format!("header {name} removed"));
        let patch = self.body_patch.as_ref().map(|patch| {
            let steps = patch.as_array().map_or(0, Vec::len);
            format!("body patched in {steps} {}", if steps == 1 { "step" } else { "steps" })
        });
        let body = self.body.as_ref().map(|body| format!("body = {body}"));
        set.chain(removed).chain(patch).chain(body).collect()
    }
}

/// Why nothing can be edited so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A header that tells what became of the letter.
    #[error("header `{0}` tells what became of the letter, and cannot be edited")]
    Reserved(String),
    /// Named more than once.
    #[error("header `{0}` is edited twice")]
    Twice(String),
    /// A name that no header can have.
    #[error("`{0}` is no name of a header: it has 1 to 255 bytes")]
    Name(String),
    /// The value of a header cannot be read.
    #[error("header `{name}`: {error}")]
    Header {
        /// The header.
        name: String,
        /// What is wrong.
        error: ExpressionError,
    },
    /// The expression of the body cannot be read.
    #[error("--body: {0}")]
    Body(ExpressionError),
    /// Both.
    #[error("--body and --body-patch exclude each other")]
    BothBodies,
    /// No JSON Patch.
    #[error("--body-patch: this is no JSON Patch: {0}")]
    Patch(String),
    /// No JSON Schema.
    #[error("--schema: this is no JSON Schema: {0}")]
    Schema(String),
    /// A schema for nothing.
    #[error("--schema is for new bodies, and neither --body nor --body-patch is given")]
    SchemaAlone,
}

/// Whether a header tells what became of the letter, or makes more copies of it.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let begins = ["x-nexus-", "x-death", "x-first-death-", "x-last-death-"];
    begins.iter().any(|begin| name.starts_with(begin))
        || ["x-delivery-count", "x-acquired-count", "x-stream-offset", "cc", "bcc"]
            .contains(&name.as_str())
}

/// What becomes different in one letter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edited {
    /// Headers that are set.
    pub set: Vec<(String, FieldValue)>,
    /// Headers that are removed.
    pub removed: Vec<String>,
    /// The new body, which is not packed.
    pub body: Option<Vec<u8>>,
}

/// Edits letters.
#[derive(Clone)]
pub struct Editor {
    set: Vec<(String, Template)>,
    removed: Vec<String>,
    body: Option<NewBody>,
    schema: Option<Arc<Validator>>,
    uses: Vec<&'static str>,
}

#[derive(Clone, Debug)]
enum NewBody {
    Patch(json_patch::Patch),
    Value(Expression),
}

impl fmt::Debug for Editor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editor")
            .field("set", &self.set)
            .field("removed", &self.removed)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl Editor {
    /// Makes ready to edit; `None` when nothing is to become different.
    ///
    /// # Errors
    /// When nothing can be edited so.
    pub fn new(spec: &EditSpec) -> Result<Option<Editor>, EditError> {
        if spec.is_empty() {
            return Ok(None);
        }
        let names = subject::names();
        let mut seen: Vec<&str> = Vec::new();
        let set = spec.set_headers.iter().map(|set| set.name.as_str());
        for name in set.chain(spec.remove_headers.iter().map(String::as_str)) {
            if name.is_empty() || name.len() > 255 {
                return Err(EditError::Name(name.to_owned()));
            }
            if is_reserved(name) {
                return Err(EditError::Reserved(name.to_owned()));
            }
            if seen.contains(&name) {
                return Err(EditError::Twice(name.to_owned()));
            }
            seen.push(name);
        }
        let set = spec
            .set_headers
            .iter()
            .map(|SetHeader { name, value }| {
                Template::parse_with(value, &names)
                    .map(|template| (name.clone(), template))
                    .map_err(|error| EditError::Header { name: name.clone(), error })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let body = match (&spec.body, &spec.body_patch) {
            (Some(_), Some(_)) => return Err(EditError::BothBodies),
            (Some(source), None) => Some(NewBody::Value(
                Expression::parse_with(source, &names).map_err(EditError::Body)?,
            )),
            (None, Some(patch)) => Some(NewBody::Patch(
                json_patch::Patch::deserialize(patch)
                    .map_err(|error| EditError::Patch(error.to_string()))?,
            )),
            (None, None) => None,
        };
        let schema = match &spec.schema {
            Some(_) if body.is_none() => return Err(EditError::SchemaAlone),
            Some(schema) => Some(Arc::new(
                jsonschema::validator_for(schema)
                    .map_err(|error| EditError::Schema(error.to_string()))?,
            )),
            None => None,
        };
        let expression = match &body {
            Some(NewBody::Value(expression)) => Some(expression),
            _ => None,
        };
        let expressions: Vec<&Expression> =
            set.iter().flat_map(|(_, value)| value.expressions()).chain(expression).collect();
        let uses = subject::used(expressions);
        let removed = spec.remove_headers.clone();
        Ok(Some(Editor { set, removed, body, schema, uses }))
    }

    /// Whether a letter's body has to be there.
    pub fn needs_body(&self) -> bool {
        self.body.is_some() || self.uses.iter().any(|name| ["body", "group"].contains(name))
    }

    /// What becomes different in this letter.
    ///
    /// # Errors
    /// Why it cannot be edited so.
    pub fn edit(
        &self,
        delivery: &Delivery,
        id: &LetterId,
        queue: &QueueName,
    ) -> Result<Edited, String> {
        let packed = &delivery.message;
        let encoding = packed.properties.content_encoding.as_deref();
        let unpacked = if self.needs_body() { plain(&packed.body, encoding)? } else { None };
        let unpacked = unpacked.map(|body| {
            let mut delivery = delivery.clone();
            delivery.message.body = body;
            delivery
        });
        let delivery = unpacked.as_ref().unwrap_or(delivery);
        let context = subject::context(&self.uses, delivery, id, queue);
        let mut edited = Edited { removed: self.removed.clone(), ..Edited::default() };
        for (name, template) in &self.set {
            let failed = |why: &dyn fmt::Display| format!("header `{name}`: {why}");
            let value = template.evaluate(&context).map_err(|error| failed(&error))?;
            if value.to_string().len() > LONGEST_HEADER {
                return Err(failed(&format_args!("longer than {LONGEST_HEADER} bytes")));
            }
            if value.is_null() {
                return Err(failed(&"its value is null"));
            }
            edited.set.push((name.clone(), field_of_json(&value)));
        }
        let new = match &self.body {
            None => return Ok(edited),
            Some(NewBody::Value(expression)) => {
                expression.evaluate(&context).map_err(|error| format!("the new body: {error}"))?
            }
            Some(NewBody::Patch(patch)) => {
                let body = &delivery.message.body;
                let mut value = exact_json(body)?;
                json_patch::patch(&mut value, patch)
                    .map_err(|error| format!("the patch does not apply: {error}"))?;
                value
            }
        };
        if let Some(schema) = &self.schema
            && let Some(error) = schema.iter_errors(&new).next()
        {
            let at = error.instance_path().to_string();
            let at = if at.is_empty() { "/" } else { &at };
            return Err(format!("the new body does not satisfy the schema at {at}: {error}"));
        }
        // A body that says the same already stays as it is, to the byte.
        let same = unpacked.is_none()
            && serde_json::from_slice::<Value>(&delivery.message.body).is_ok_and(|old| old == new);
        if !same {
            let text = serde_json::to_vec(&new).map_err(|error| error.to_string())?;
            edited.body = Some(text);
        }
        Ok(edited)
    }
}

/// Reads a body of which parts will be written again: only when nothing of it would become different by
/// that alone.
fn exact_json(body: &[u8]) -> Result<Value, String> {
    let value = serde_json::from_slice(body)
        .map_err(|error| format!("its body is no JSON, so it cannot be patched: {error}"))?;
    match inexact_number(body) {
        Some(number) => Err(format!("its body has the number {number}, which would be rounded")),
        None => Ok(value),
    }
}

/// The first number in a JSON text that a double or a 64-bit integer does not hold exactly.
fn inexact_number(json: &[u8]) -> Option<String> {
    let mut bytes = json.iter().copied().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        if byte == b'"' {
            while let Some((_, byte)) = bytes.next() {
                match byte {
                    b'\\' => drop(bytes.next()),
                    b'"' => break,
                    _ => {}
                }
            }
        } else if byte == b'-' || byte.is_ascii_digit() {
            let mut end = at + 1;
            let in_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
            while bytes.next_if(|(_, byte)| in_number(*byte)).is_some() {
                end += 1;
            }
            let number = String::from_utf8_lossy(&json[at..end]).into_owned();
            let whole = number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
            let kept = number
                .parse::<f64>()
                .is_ok_and(|double| digits(&format!("{double:e}")) == digits(&number));
            if !whole && !kept {
                return Some(number);
            }
        }
    }
    None
}

/// A number as its digits, without zeros at either end, and the power of ten that goes with them.
fn digits(number: &str) -> (String, i64) {
    let number = number.to_ascii_lowercase();
    let (mantissa, exponent) = number.split_once('e').unwrap_or((&number, "0"));
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let shown = all.trim_end_matches('0');
    if shown.trim_start_matches('0').is_empty() {
        return (String::new(), 0);
    }
    let dropped = i64::try_from(all.len() - shown.len()).unwrap_or(0);
    let fraction = i64::try_from(fraction.len()).unwrap_or(0);
    (shown.trim_start_matches('0').to_owned(), exponent - fraction + dropped)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::broker::DeliveryTag;
    use crate::message::{FieldTable, Message, Properties};

    fn delivery(body: &[u8]) -> Delivery {
        let headers = FieldTable::new().with("n", 7_i64).with("x-nexus-origin-queue", "jobs");
        let properties = Properties { headers: Some(headers), ..Properties::default() };
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::new("dlx").unwrap(),
            routing_key: RoutingKey::new("jobs").unwrap(),
            redelivered: false,
            message: Message { properties, body: body.to_vec() },
        }
    }

    fn edit(spec: &EditSpec, delivery: &Delivery) -> Result<Edited, String> {
        let queue = QueueName::new("dead").unwrap();
        let id = LetterId::of("/", &queue, &delivery.message);
        Editor::new(spec).unwrap().unwrap().edit(delivery, &id, &queue)
    }

    fn header(text: &str) -> SetHeader {
        text.parse().unwrap()
    }

    #[test]
    fn a_header_keeps_the_type_of_its_one_expression() {
        let spec = EditSpec {
            set_headers: vec![
                header("text=plain = text"),
                header("number=${headers.n + 1}"),
                header("mixed=n is ${headers.n} of ${origin.queue}"),
                header("flag=${size > 1}"),
            ],
            remove_headers: vec!["gone".to_owned()],
            ..EditSpec::default()
        };
        let edited = edit(&spec, &delivery(b"12")).unwrap();
        assert_eq!(
            edited.set,
            [
                ("text".to_owned(), "plain = text".into()),
                ("number".to_owned(), FieldValue::Int64(8)),
                ("mixed".to_owned(), "n is 7 of jobs".into()),
                ("flag".to_owned(), FieldValue::Bool(true)),
            ]
        );
        assert_eq!((edited.removed, edited.body), (vec!["gone".to_owned()], None));
        let missing = EditSpec { set_headers: vec![header("a=${headers.b}")], ..spec };
        assert!(edit(&missing, &delivery(b"12")).unwrap_err().contains("header `a`"));
    }

    #[test]
    fn a_body_is_patched_or_made_anew_and_checked() {
        let patch = |steps: Value| EditSpec { body_patch: Some(steps), ..EditSpec::default() };
        let replace = patch(json!([{"op": "replace", "path": "/a", "value": 2}]));
        let body = |spec: &EditSpec, old: &[u8]| {
            edit(spec, &delivery(old))
                .map(|edited| edited.body.map(|b| String::from_utf8(b).unwrap()))
        };
        assert_eq!(body(&replace, b"{\"a\": 1}"), Ok(Some("{\"a\":2}".to_owned())));
        assert_eq!(body(&replace, b"{ \"a\": 2 }"), Ok(None), "it says so already");
        for (old, why) in [
            (&b"{}"[..], "does not apply"),
            (b"text", "no JSON"),
            (b"{\"a\":1,\"big\":12345678901234567890123}", "would be rounded"),
        ] {
            assert!(body(&replace, old).unwrap_err().contains(why), "{why}");
        }
        let made = EditSpec {
            body: Some("{'was': body, 'n': headers.n}".to_owned()),
            schema: Some(json!({"properties": {"was": {"type": "object"}}})),
            ..EditSpec::default()
        };
        assert_eq!(body(&made, b"{\"a\":1}"), Ok(Some("{\"n\":7,\"was\":{\"a\":1}}".to_owned())));
        assert!(body(&made, b"3").unwrap_err().contains("schema at /was"));
    }

    #[test]
    fn a_packed_body_is_unpacked_first() {
        use std::io::Write as _;
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"{\"a\":1}").unwrap();
        let mut given = delivery(&gzip.finish().unwrap());
        given.message.properties.content_encoding = Some("gzip".to_owned());
        let spec = EditSpec { body: Some("body.a + 1".to_owned()), ..EditSpec::default() };
        assert_eq!(edit(&spec, &given).unwrap().body, Some(b"2".to_vec()));
        given.message.properties.content_encoding = Some("br".to_owned());
        assert!(edit(&spec, &given).unwrap_err().contains("`br`"));
    }

    #[test]
    fn what_nobody_may_edit_is_refused() {
        let set = |text: &str| EditSpec { set_headers: vec![header(text)], ..EditSpec::default() };
        let remove =
            |name: &str| EditSpec { remove_headers: vec![name.to_owned()], ..EditSpec::default() };
        let schema = EditSpec { schema: Some(json!({})), ..EditSpec::default() };
        for (spec, why) in [
            (set("x-nexus-run=r"), "cannot be edited"),
            (set("X-Death=r"), "cannot be edited"),
            (remove("x-first-death-queue"), "cannot be edited"),
            (set("CC=r"), "cannot be edited"),
            (set("a=${"), "not closed"),
            (set("a=${position}"), "position"),
            (EditSpec { remove_headers: vec!["a".to_owned()], ..set("a=1") }, "twice"),
            (EditSpec { body_patch: Some(json!({})), ..EditSpec::default() }, "no JSON Patch"),
            (schema.clone(), "neither"),
            (
                EditSpec { schema: Some(json!({"type": 1})), body: Some("1".to_owned()), ..schema },
                "no JSON Schema",
            ),
        ] {
            let error = Editor::new(&spec).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn numbers_that_are_kept_are_kept(number in any::<i64>(), double in any::<f64>()) {
            prop_assert_eq!(inexact_number(number.to_string().as_bytes()), None);
            if double.is_finite() {
                let text = serde_json::to_string(&double).unwrap();
                prop_assert_eq!(inexact_number(text.as_bytes()), None, "{}", text);
            }
        }

        #[test]
        fn numbers_that_would_be_rounded_are_seen(first in 1_u32..10, rest in "[0-9]{21}[1-9]") {
            let text = format!("{{\"\\\"1\":[{first}.{rest}]}}");
            let found = inexact_number(text.as_bytes());
            prop_assert_eq!(found, Some(format!("{first}.{rest}")));
        }
    }
}
