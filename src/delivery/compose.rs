//! From a body to a message: properties as given, or an envelope around a payload.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::time::Clock;
use crate::message::envelope::Envelope;
use crate::message::{Message, Properties, TraceContext};
use crate::topology::model::MessageType;

/// What an envelope says beside its payload.
#[derive(Clone, Debug, Default)]
pub struct EnvelopeParts {
    /// What kind of message.
    pub message_type: String,
    /// The agent that sends it.
    pub sender: String,
    /// The agent it is for.
    pub recipient: Option<String>,
    /// The workflow it belongs to.
    pub workflow_id: Option<String>,
    /// The number of the first message; those after it count on.
    pub sequence: Option<u64>,
    /// The trace it belongs to; each message is a span of its own.
    pub trace: Option<TraceContext>,
    /// `tracestate`, handed on as it is.
    pub trace_state: Option<String>,
}

/// Makes messages of bodies.
#[derive(Debug)]
pub struct Composer {
    properties: Properties,
    envelope: Option<EnvelopeParts>,
    defaults: BTreeMap<String, MessageType>,
    clock: Arc<dyn Clock>,
    random: fastrand::Rng,
}

impl Composer {
    /// Bodies go as they are, with `properties`.
    pub fn new(properties: Properties, clock: Arc<dyn Clock>, random: fastrand::Rng) -> Self {
        Composer { properties, envelope: None, defaults: BTreeMap::new(), clock, random }
    }

    /// Bodies are payloads (JSON) of envelopes. Properties that are set win over the envelope's.
    #[must_use]
    pub fn enveloped(mut self, parts: EnvelopeParts) -> Self {
        self.envelope = Some(parts);
        self
    }

    /// Time to live, priority and persistence by message type, where nobody says otherwise.
    #[must_use]
    pub fn with_defaults(mut self, defaults: BTreeMap<String, MessageType>) -> Self {
        self.defaults = defaults;
        self
    }

    /// Whether [`Composer::compose`] can refuse a body.
    pub fn can_refuse(&self) -> bool {
        self.envelope.is_some()
    }

    /// The message number `seq` (from 0) with `body`.
    pub fn compose(&mut self, seq: u64, body: Vec<u8>) -> Result<Message, String> {
        let mut message = match &self.envelope {
            None => Message { properties: self.properties.clone(), body },
            Some(parts) => {
                let payload = serde_json::from_slice(&body).map_err(|error| {
                    format!("the payload of an envelope is JSON, but this is not: {error}")
                })?;
                let now = self.clock.now();
                let envelope = Envelope {
                    recipient: parts.recipient.clone(),
                    workflow_id: parts.workflow_id.clone(),
                    sequence: parts.sequence.map(|first| first.saturating_add(seq)),
                    ..Envelope::new(
                        &parts.message_type,
                        &parts.sender,
                        payload,
                        now,
                        &mut self.random,
                    )
                };
                let wrong = envelope.check();
                if !wrong.is_empty() {
                    return Err(format!("the envelope is invalid: {}", wrong.join("; ")));
                }
                let trace = parts.trace.as_ref().map(|trace| trace.child(&mut self.random));
                let mut message = envelope.to_message(trace.as_ref(), parts.trace_state.as_deref());
                overlay(&mut message.properties, &self.properties);
                message
            }
        };
        if !self.defaults.is_empty() {
            apply_defaults(&mut message.properties, &self.defaults);
        }
        Ok(message)
    }
}

/// Sets in `properties` whatever is set in `over`.
fn overlay(properties: &mut Properties, over: &Properties) {
    macro_rules! set {
        ($($field:ident),*) => {
            $(if over.$field.is_some() { properties.$field.clone_from(&over.$field); })*
        };
    }
    set!(content_type, content_encoding, delivery_mode, priority, correlation_id, reply_to);
    set!(expiration, message_id, timestamp, kind, user_id, app_id, cluster_id);
    if let Some(headers) = &over.headers {
        for (name, value) in headers.iter() {
            properties.headers_mut().insert(name, value.clone());
        }
    }
}

/// Fills time to live, priority and persistence from the message type's defaults where they are unset.
pub fn apply_defaults(properties: &mut Properties, defaults: &BTreeMap<String, MessageType>) {
    let Some(known) = properties.kind.as_ref().and_then(|kind| defaults.get(kind)) else { return };
    if let (None, Some(ttl)) = (&properties.expiration, known.ttl) {
        properties.expiration = Some(ttl.as_ms().to_string());
    }
    properties.priority = properties.priority.or(known.priority);
    if let (None, Some(persistent)) = (properties.delivery_mode, known.persistent) {
        properties.delivery_mode = Some(if persistent { 2 } else { 1 });
    }
}

#[cfg(test)]
mod tests {
    use crate::base::time::{FixedClock, HumanDuration, Timestamp};

    use super::*;

    fn composer(properties: Properties) -> Composer {
        let clock = Arc::new(FixedClock::at(Timestamp::from_unix_ms(1_700_000_000_000)));
        Composer::new(properties, clock, fastrand::Rng::with_seed(1))
    }

    #[test]
    fn an_envelope_counts_on_and_properties_win() {
        let properties = Properties { message_id: Some("mine".into()), ..Properties::default() };
        let mut composer = composer(properties).enveloped(EnvelopeParts {
            message_type: "t".into(),
            sender: "me".into(),
            sequence: Some(10),
            ..EnvelopeParts::default()
        });
        let message = composer.compose(3, b"{\"a\":1}".to_vec()).unwrap();
        assert_eq!(message.properties.message_id.as_deref(), Some("mine"));
        let envelope = Envelope::parse(&message.body).unwrap();
        assert_eq!(envelope.sequence, Some(13));
        assert!(composer.compose(4, b"not json".to_vec()).is_err());
    }

    #[test]
    fn defaults_of_the_type_fill_what_is_unset() {
        let defaults = BTreeMap::from([(
            "t".to_owned(),
            MessageType {
                ttl: Some(HumanDuration::from_ms(5000)),
                priority: Some(4),
                persistent: Some(false),
            },
        )]);
        let given =
            Properties { kind: Some("t".into()), priority: Some(9), ..Properties::default() };
        let message = composer(given).with_defaults(defaults).compose(0, Vec::new()).unwrap();
        assert_eq!(message.properties.expiration.as_deref(), Some("5000"));
        assert_eq!(message.properties.priority, Some(9));
        assert_eq!(message.properties.delivery_mode, Some(1));
    }
}
