//! The messages that a worker sends: dead letters, copies for a delay queue, results and answers.
//!
//! Pure. A dead letter and a delayed copy are the message as it came, with headers of ours beside its
//! own; what would act on the way (time to live, `CC`) is kept in a header instead.

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::Timestamp;
use crate::broker::carry::make_fit;
use crate::broker::{Delivery, Publish};
use crate::delivery::transfer::keep_to_one_place;
use crate::message::reply::{ErrorAnswer, mark_error};
use crate::message::{FieldValue, Message, Properties};
use crate::resilience::classification::Class;

use super::handler::{Fault, Output};

/// How often the message was tried, by a worker that sent it through a delay queue.
pub const ATTEMPTS: &str = "x-nexus-attempts";
/// When the first attempt began, in milliseconds since 1970; beside [`ATTEMPTS`].
pub const FIRST_ATTEMPT: &str = "x-nexus-first-attempt";
/// Why the message is dead: a class of failure, or `gap`.
pub const DEATH_REASON: &str = "x-nexus-death-reason";
/// What ended it: `exit 65`, `signal 9`, `timeout`.
pub const DEATH_CODE: &str = "x-nexus-death-code";
/// The last words of its handler.
pub const DEATH_ERROR: &str = "x-nexus-death-error";
/// How many attempts were made.
pub const DEATH_ATTEMPTS: &str = "x-nexus-death-attempts";
/// On which host.
pub const DEATH_HOST: &str = "x-nexus-death-host";
/// When.
pub const DEATH_TIME: &str = "x-nexus-death-time";
/// The queue it died in; this and the next three are written once and then kept.
pub const ORIGIN_QUEUE: &str = "x-nexus-origin-queue";
/// The exchange it was published to.
pub const ORIGIN_EXCHANGE: &str = "x-nexus-origin-exchange";
/// The key it was published with.
pub const ORIGIN_KEY: &str = "x-nexus-origin-routing-key";
/// The time to live it was published with.
pub const ORIGIN_EXPIRATION: &str = "x-nexus-origin-expiration";

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The exchange; the default one leads to the queue that `key` names.
    pub exchange: ExchangeName,
    /// The key; each message's own when `None`.
    pub key: Option<RoutingKey>,
}

/// Who and where we are, as messages tell.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The queue that is worked on.
    pub queue: QueueName,
    /// This host.
    pub host: String,
    /// Our login: the only one that a message may carry.
    pub login: Option<String>,
}

/// Attempts that were made before this delivery, and when the first began.
pub fn attempts_before(properties: &Properties) -> (u32, Option<Timestamp>) {
    let number = |name| properties.header(name).and_then(FieldValue::as_i64);
    let made = number(ATTEMPTS).and_then(|made| u32::try_from(made).ok()).unwrap_or(0);
    (made, number(FIRST_ATTEMPT).filter(|_| made > 0).map(Timestamp::from_unix_ms))
}

impl Signer {
    fn copy(&self, delivery: &Delivery) -> Message {
        let mut message = delivery.message.clone();
        keep_to_one_place(&mut message);
        make_fit(&mut message, self.login.as_deref());
        message
    }

    /// The dead letter of a message that failed by `fault` at `now`, after `attempts`.
    pub fn dead_letter(
        &self,
        to: &Address,
        delivery: &Delivery,
        fault: &Fault,
        attempts: u32,
        now: Timestamp,
    ) -> Publish {
        let mut message = self.copy(delivery);
        // It would be gone before anybody has looked.
        let expiration = message.properties.expiration.take();
        let headers = message.properties.headers_mut();
        headers.remove(ATTEMPTS);
        headers.remove(FIRST_ATTEMPT);
        headers.insert(DEATH_REASON, reason_name(fault));
        headers.insert(DEATH_CODE, fault.code.as_str());
        headers.insert(DEATH_ERROR, fault.reason.as_str());
        headers.insert(DEATH_ATTEMPTS, i64::from(attempts));
        headers.insert(DEATH_HOST, self.host.as_str());
        headers.insert(DEATH_TIME, now.to_string());
        if headers.get(ORIGIN_QUEUE).is_none() {
            headers.insert(ORIGIN_QUEUE, self.queue.as_str());
            headers.insert(ORIGIN_EXCHANGE, delivery.exchange.as_str());
            headers.insert(ORIGIN_KEY, delivery.routing_key.as_str());
            if let Some(expiration) = expiration {
                headers.insert(ORIGIN_EXPIRATION, expiration);
            }
        }
        let routing_key = to.key.clone().unwrap_or_else(|| delivery.routing_key.clone());
        Publish { exchange: to.exchange.clone(), routing_key, message }
    }

    /// The copy that waits in the delay queue `queue` after `attempts`, the first of which began at
    /// `first`.
    pub fn delayed(
        &self,
        queue: &QueueName,
        delivery: &Delivery,
        attempts: u32,
        first: Timestamp,
    ) -> Publish {
        let mut message = self.copy(delivery);
        let headers = message.properties.headers_mut();
        headers.insert(ATTEMPTS, i64::from(attempts));
        headers.insert(FIRST_ATTEMPT, first.unix_ms());
        let exchange = ExchangeName::default_exchange();
        Publish { exchange, routing_key: queue.as_routing_key(), message }
    }

    /// The result of a message: what the handler gave back, in the same workflow. Its id is that of
    /// the message and a suffix, so that a receiver tells the second from the first when the work had
    /// to be done twice.
    pub fn result(&self, delivery: &Delivery, output: Output, now: Timestamp) -> Message {
        let given = &delivery.message.properties;
        let mut message = match output {
            Output::Nothing => Message::default(),
            Output::Bytes(body) => {
                let kind = match std::str::from_utf8(&body) {
                    Ok(text) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                        "application/json"
                    }
                    Ok(_) => "text/plain",
                    Err(_) => "application/octet-stream",
                };
                let content_type = Some(kind.to_owned());
                Message { properties: Properties { content_type, ..Properties::default() }, body }
            }
            Output::Record(record) => record.message,
        };
        let properties = &mut message.properties;
        properties.timestamp.get_or_insert(u64::try_from(now.unix_s()).unwrap_or(0));
        properties.delivery_mode.get_or_insert(2);
        if properties.message_id.is_none() {
            properties.message_id = given.message_id.as_ref().map(|id| format!("{id}.result"));
        }
        for name in ["x-nexus-workflow", "traceparent", "tracestate"] {
            if let Some(value) = given.header(name)
                && properties.header(name).is_none()
            {
                let value = value.clone();
                properties.headers_mut().insert(name, value);
            }
        }
        make_fit(&mut message, self.login.as_deref());
        message
    }

    /// The answer to who asked; `None` when nobody did.
    pub fn answer(&self, delivery: &Delivery, result: Message) -> Option<Publish> {
        let given = &delivery.message.properties;
        let to = given.reply_to.as_ref().filter(|to| !to.is_empty())?;
        let routing_key = RoutingKey::new(to.clone()).ok()?;
        let mut message = result;
        let asked = given.correlation_id.as_ref().or(given.message_id.as_ref());
        message.properties.correlation_id = asked.cloned();
        // Who asked is gone when it would be read after a restart.
        message.properties.delivery_mode = Some(1);
        Some(Publish { exchange: ExchangeName::default_exchange(), routing_key, message })
    }

    /// The error answer to who asked; `None` when nobody did.
    pub fn error_answer(
        &self,
        delivery: &Delivery,
        fault: &Fault,
        now: Timestamp,
    ) -> Option<Publish> {
        let mut message = self.result(delivery, Output::Bytes(fault.reason.clone().into()), now);
        let reason = fault.reason.lines().next_back().unwrap_or_default();
        let reason: String = reason.chars().take(200).collect();
        let error = ErrorAnswer { reason, code: Some(fault.code.clone()) };
        mark_error(&mut message.properties, &error);
        self.answer(delivery, message)
    }
}

/// The reason as a word.
fn reason_name(fault: &Fault) -> &str {
    match &*fault.code {
        "gap" => "gap",
        _ if fault.class == Class::Retriable || fault.class == Class::Throttled => "exhausted",
        _ => fault.class.name(),
    }
}
