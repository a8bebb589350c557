//! Envelope v1: the JSON body that agents exchange, and the AMQP properties that repeat it.
//!
//! An envelope is made from a clock and randomness that are handed in, and read with every problem
//! at once. Keys that the envelope does not know are refused, so that a misspelt one is not lost.

use serde_json::{Map, Value};

use crate::base::suggest::nearest;
use crate::base::time::Timestamp;

use super::properties::{Message, Properties};
use super::trace::TraceContext;
use super::value::FieldTable;

/// The version that is written.
pub const SCHEMA_VERSION: &str = "1.0";

/// One message between agents.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Id of the message, a UUID; version 7 when made here.
    pub message_id: String,
    /// What kind of message, such as `task.created`.
    pub message_type: String,
    /// The agent that sends it.
    pub sender: String,
    /// The agent it is for.
    pub recipient: Option<String>,
    /// The workflow it belongs to.
    pub workflow_id: Option<String>,
    /// Its number within the workflow.
    pub sequence: Option<u64>,
    /// When it was made.
    pub timestamp: Timestamp,
    /// What it says.
    pub payload: Value,
    /// What else belongs to it.
    pub metadata: Option<Map<String, Value>>,
    /// The old way of signing: the signature in the body.
    pub signature: Option<String>,
    /// The old way of signing: how it was made.
    pub signature_metadata: Option<Map<String, Value>>,
}

/// A UUID of version 7, in order of time to the millisecond.
pub fn message_id(now: Timestamp, random: &mut fastrand::Rng) -> String {
    let mut bytes = [0; 10];
    random.fill(&mut bytes);
    let ms = u64::try_from(now.unix_ms()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(ms, &bytes).into_uuid().to_string()
}

const KEYS: [&str; 12] = [
    "schema_version",
    "message_id",
    "message_type",
    "sender",
    "recipient",
    "workflow_id",
    "sequence",
    "timestamp",
    "payload",
    "metadata",
    "signature",
    "signature_metadata",
];

impl Envelope {
    /// A new envelope with a fresh id.
    pub fn new(
        message_type: impl Into<String>,
        sender: impl Into<String>,
        payload: Value,
        now: Timestamp,
        random: &mut fastrand::Rng,
    ) -> Self {
        Envelope {
            message_id: message_id(now, random),
            message_type: message_type.into(),
            sender: sender.into(),
            recipient: None,
            workflow_id: None,
            sequence: None,
            timestamp: now,
            payload,
            metadata: None,
            signature: None,
            signature_metadata: None,
        }
    }

    /// The body, keys in the order of the specification.
    pub fn to_body(&self) -> Vec<u8> {
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(key.to_owned(), value);
            }
        };
        put("schema_version", Some(SCHEMA_VERSION.into()));
        put("message_id", Some(self.message_id.clone().into()));
        put("message_type", Some(self.message_type.clone().into()));
        put("sender", Some(self.sender.clone().into()));
        put("recipient", self.recipient.clone().map(Value::from));
        put("workflow_id", self.workflow_id.clone().map(Value::from));
        put("sequence", self.sequence.map(Value::from));
        put("timestamp", Some(self.timestamp.to_string().into()));
        put("payload", Some(self.payload.clone()));
        put("metadata", self.metadata.clone().map(Value::Object));
        put("signature", self.signature.clone().map(Value::from));
        put("signature_metadata", self.signature_metadata.clone().map(Value::Object));
        Value::Object(body).to_string().into_bytes()
    }

    /// The message that carries it: persistent, with the properties that repeat what the body says.
    pub fn to_message(&self, trace: Option<&TraceContext>, trace_state: Option<&str>) -> Message {
        let mut headers = FieldTable::new();
        if let Some(workflow) = &self.workflow_id {
            headers.insert("x-nexus-workflow", workflow.as_str());
        }
        if let Some(sequence) = self.sequence.and_then(|sequence| i64::try_from(sequence).ok()) {
            headers.insert("x-nexus-sequence", sequence);
        }
        if let Some(trace) = trace {
            headers.insert("traceparent", trace.to_string());
        }
        if let Some(state) = trace_state {
            headers.insert("tracestate", state);
        }
        Message {
            properties: Properties {
                content_type: Some("application/json".to_owned()),
                headers: (!headers.is_empty()).then_some(headers),
                delivery_mode: Some(2),
                message_id: Some(self.message_id.clone()),
                timestamp: u64::try_from(self.timestamp.unix_s()).ok(),
                kind: Some(self.message_type.clone()),
                app_id: Some(self.sender.clone()),
                ..Properties::default()
            },
            body: self.to_body(),
        }
    }

    /// Everything that makes this envelope invalid.
    pub fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if uuid::Uuid::try_parse(&self.message_id).is_err() {
            wrong.push(format!("`message_id`: `{}` is no UUID", self.message_id));
        }
        for (key, text) in [
            ("message_type", Some(&self.message_type)),
            ("sender", Some(&self.sender)),
            ("recipient", self.recipient.as_ref()),
            ("workflow_id", self.workflow_id.as_ref()),
        ] {
            match text.map(String::len) {
                Some(0) => wrong.push(format!("`{key}` is empty")),
                Some(length) if length > 255 => {
                    wrong.push(format!("`{key}` is {length} bytes long; AMQP allows 255"));
                }
                _ => {}
            }
        }
        if self.sequence.is_some_and(|sequence| i64::try_from(sequence).is_err()) {
            wrong.push("`sequence` does not fit 63 bits".to_owned());
        }
        wrong
    }

    /// Reads a body. All problems at once, each naming its key.
    pub fn parse(body: &[u8]) -> Result<Self, Vec<String>> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| vec![format!("the body is no JSON: {error}")])?;
        let Value::Object(mut object) = value else {
            return Err(vec!["the body is no JSON object".to_owned()]);
        };
        let mut wrong: Vec<String> = object
            .keys()
            .filter(|key| !KEYS.contains(&key.as_str()))
            .map(|key| match nearest(key, KEYS) {
                Some(known) => format!("unknown key `{key}`; did you mean `{known}`?"),
                None => format!("unknown key `{key}`; put it into `payload` or `metadata`"),
            })
            .collect();
        match object.remove("schema_version") {
            Some(Value::String(version)) if version == "1" || version.starts_with("1.") => {}
            Some(other) => {
                wrong.push(format!("`schema_version` is {other}; this program reads \"1.0\""));
            }
            None => wrong.push("`schema_version` is missing".to_owned()),
        }
        let mut read = Fields { object, wrong };
        let envelope = Envelope {
            message_id: read.required_text("message_id"),
            message_type: read.required_text("message_type"),
            sender: read.required_text("sender"),
            recipient: read.text("recipient"),
            workflow_id: read.text("workflow_id"),
            sequence: read.typed("sequence", "an integer from 0 up", Value::as_u64),
            timestamp: read.timestamp(),
            payload: read.object.remove("payload").unwrap_or_else(|| {
                read.wrong.push("`payload` is missing".to_owned());
                Value::Null
            }),
            metadata: read.typed("metadata", "an object", |value| value.as_object().cloned()),
            signature: read.text("signature"),
            signature_metadata: read
                .typed("signature_metadata", "an object", |value| value.as_object().cloned()),
        };
        let mut wrong = read.wrong;
        for problem in envelope.check() {
            let key = problem.split('`').nth(1).unwrap_or_default();
            if !wrong.iter().any(|known| known.starts_with(&format!("`{key}`"))) {
                wrong.push(problem);
            }
        }
        if wrong.is_empty() { Ok(envelope) } else { Err(wrong) }
    }

    /// Where the properties of `message` contradict this envelope. Absent properties contradict nothing.
    pub fn contradictions(&self, properties: &Properties) -> Vec<String> {
        [
            ("message id", &properties.message_id, "message_id", &self.message_id),
            ("type", &properties.kind, "message_type", &self.message_type),
            ("app id", &properties.app_id, "sender", &self.sender),
        ]
        .into_iter()
        .filter_map(|(property, outside, key, inside)| {
            let outside = outside.as_ref().filter(|outside| *outside != inside)?;
            Some(format!(
                "the property {property} is `{outside}`, but `{key}` in the body is `{inside}`"
            ))
        })
        .collect()
    }
}

struct Fields {
    object: Map<String, Value>,
    wrong: Vec<String>,
}

impl Fields {
    fn typed<T>(
        &mut self,
        key: &str,
        wanted: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.object.remove(key).filter(|value| !value.is_null())?;
        let read = read(&value);
        if read.is_none() {
            self.wrong.push(format!("`{key}` takes {wanted}, not {value:.60}"));
        }
        read
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.typed(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn required_text(&mut self, key: &str) -> String {
        if self.object.get(key).is_none_or(Value::is_null) {
            self.wrong.push(format!("`{key}` is missing"));
        }
        self.text(key).unwrap_or_default()
    }

    fn timestamp(&mut self) -> Timestamp {
        let before = self.wrong.len();
        let text = self.required_text("timestamp");
        match text.parse() {
            Ok(time) => time,
            Err(why) => {
                if self.wrong.len() == before {
                    self.wrong.push(format!("`timestamp`: {why}"));
                }
                Timestamp::from_unix_ms(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::value::FieldValue;
    use super::*;

    fn envelope() -> Envelope {
        let now = Timestamp::from_unix_ms(1_700_000_000_123);
        let mut random = fastrand::Rng::with_seed(1);
        Envelope {
            workflow_id: Some("wf-1".into()),
            sequence: Some(4),
            ..Envelope::new("task.created", "planner", json!({"b": 1, "a": 2.5}), now, &mut random)
        }
    }

    #[test]
    fn an_envelope_reads_back_as_it_was() {
        let full = Envelope {
            recipient: Some("coder".into()),
            metadata: Some(json!({"k": "v"}).as_object().unwrap().clone()),
            signature: Some("abc".into()),
            signature_metadata: Some(Map::new()),
            ..envelope()
        };
        assert_eq!(Envelope::parse(&full.to_body()), Ok(full));
        assert_eq!(Envelope::parse(&envelope().to_body()), Ok(envelope()));
        assert!(
            envelope()
                .to_body()
                .starts_with(br#"{"schema_version":"1.0","message_id":"018bcfe5-687b-7"#)
        );
    }

    #[test]
    fn properties_repeat_what_the_body_says() {
        let trace = TraceContext { trace_id: 1, span_id: 2, flags: 1 };
        let message = envelope().to_message(Some(&trace), None);
        let properties = &message.properties;
        assert_eq!(properties.delivery_mode, Some(2));
        assert_eq!(properties.timestamp, Some(1_700_000_000));
        assert_eq!(properties.kind.as_deref(), Some("task.created"));
        assert_eq!(properties.app_id.as_deref(), Some("planner"));
        assert_eq!(properties.header("x-nexus-workflow"), Some(&FieldValue::from("wf-1")));
        assert_eq!(properties.header("x-nexus-sequence"), Some(&FieldValue::Int64(4)));
        assert_eq!(properties.header("traceparent"), Some(&FieldValue::from(trace.to_string())));
        assert_eq!(envelope().contradictions(properties), Vec::<String>::new());
        let forged = Properties { app_id: Some("mallory".into()), ..properties.clone() };
        assert_eq!(
            envelope().contradictions(&forged),
            ["the property app id is `mallory`, but `sender` in the body is `planner`"]
        );
    }

    #[test]
    fn all_that_is_wrong_comes_at_once() {
        let body = json!({
            "schema_version": "2.0", "message_id": "x", "message_type": "", "sendr": "a",
            "timestamp": "now", "sequence": -1, "metadata": []
        });
        let wrong = Envelope::parse(body.to_string().as_bytes()).unwrap_err();
        let starts = [
            "unknown key `sendr`; did you mean `sender`?",
            "`schema_version` is \"2.0\"; this program reads \"1.0\"",
            "`sender` is missing",
            "`sequence` takes an integer from 0 up, not -1",
            "`timestamp`: `now` is no RFC 3339 time",
            "`payload` is missing",
            "`metadata` takes an object, not []",
            "`message_id`: `x` is no UUID",
            "`message_type` is empty",
        ];
        assert_eq!(wrong.len(), starts.len(), "{wrong:#?}");
        for (wrong, start) in wrong.iter().zip(starts) {
            assert!(wrong.starts_with(start), "{wrong}");
        }
        assert_eq!(Envelope::parse(b"[]").unwrap_err(), ["the body is no JSON object"]);
        assert!(Envelope::parse(b"{").unwrap_err()[0].starts_with("the body is no JSON: "));
    }
}
