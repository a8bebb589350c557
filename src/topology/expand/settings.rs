//! Settings of queues and policies: our words and units on one side, RabbitMQ's on the other.

use serde_json::Value as Json;

use crate::base::diagnostic::Span;
use crate::base::document::Spanned;
use crate::base::size::ByteSize;
use crate::base::time::HumanDuration;
use crate::broker::arguments::{
    MAX_MILLISECONDS, ValueKind, by_friendly_name, by_policy_key, field_of_json, is_age,
};
use crate::broker::definition::ApplyTo;
use crate::message::{FieldTable, FieldValue};
use crate::topology::spec::{DelayedRetry, Locator, OverflowKind, QueueSpec, Strategy, Target};
use crate::topology::wire::{field_from_json, field_to_json};

/// A value that a key of ours takes, as the argument of a queue; and back, where the argument is one
/// that the key can say.
trait Setting: Sized {
    fn to_field(&self) -> FieldValue;
    fn from_field(field: &FieldValue) -> Option<Self>;
}

fn whole_number(number: impl TryInto<i64>) -> FieldValue {
    FieldValue::Int64(number.try_into().unwrap_or(i64::MAX))
}

impl Setting for HumanDuration {
    fn to_field(&self) -> FieldValue {
        whole_number(self.as_ms())
    }

    fn from_field(field: &FieldValue) -> Option<Self> {
        let ms = field.as_i64().filter(|ms| (0..=MAX_MILLISECONDS).contains(ms))?;
        u64::try_from(ms).ok().map(HumanDuration::from_ms)
    }
}

impl Setting for ByteSize {
    fn to_field(&self) -> FieldValue {
        whole_number(self.0)
    }

    fn from_field(field: &FieldValue) -> Option<Self> {
        u64::try_from(field.as_i64()?).ok().map(ByteSize)
    }
}

impl Setting for bool {
    fn to_field(&self) -> FieldValue {
        FieldValue::Bool(*self)
    }

    fn from_field(field: &FieldValue) -> Option<Self> {
        match field {
            FieldValue::Bool(flag) => Some(*flag),
            _ => None,
        }
    }
}

macro_rules! number_settings {
    ($($number:ty),*) => {
        $(impl Setting for $number {
            fn to_field(&self) -> FieldValue {
                whole_number(*self)
            }

            fn from_field(field: &FieldValue) -> Option<Self> {
                Self::try_from(field.as_i64()?).ok()
            }
        })*
    };
}
number_settings!(u8, u32, u64, i64);

macro_rules! word_settings {
    ($($word:ty),*) => {
        $(impl Setting for $word {
            fn to_field(&self) -> FieldValue {
                FieldValue::from(self.to_string())
            }

            fn from_field(field: &FieldValue) -> Option<Self> {
                field.as_text()?.parse().ok()
            }
        })*
    };
}
word_settings!(String, Strategy, OverflowKind, Locator, DelayedRetry);

/// Says once which argument each key of a queue means, for both directions.
macro_rules! queue_settings {
    ($($key:ident = $argument:literal,)*) => {
        /// The arguments that the keys of a queue mean, each with its place; but for its type and
        /// its dead letters.
        pub(super) fn settings_of(
            said: &QueueSpec,
        ) -> Vec<(&'static str, FieldValue, Option<&Span>)> {
            let mut settings = Vec::new();
            $(if let Some(value) = &said.$key {
                settings.push(($argument, value.to_field(), value.span.as_ref()));
            })*
            if let Some(text) = &said.max_age {
                settings.push(("x-max-age", FieldValue::from(age(text)), text.span.as_ref()));
            }
            settings
        }

        /// Takes out of `arguments` what keys of a queue can say.
        pub(super) fn take_settings(arguments: &mut FieldTable, spec: &mut QueueSpec) {
            $(spec.$key = take(arguments, $argument, Setting::from_field);)*
            spec.max_age = take(arguments, "x-max-age", |value| {
                value.as_text().filter(|text| age(text) == *text).map(str::to_owned)
            });
        }
    };
}

queue_settings! {
    dead_letter_strategy = "x-dead-letter-strategy",
    message_ttl = "x-message-ttl",
    expires = "x-expires",
    max_length = "x-max-length",
    max_length_bytes = "x-max-length-bytes",
    overflow = "x-overflow",
    delivery_limit = "x-delivery-limit",
    max_priority = "x-max-priority",
    single_active_consumer = "x-single-active-consumer",
    leader_locator = "x-queue-leader-locator",
    initial_group_size = "x-quorum-initial-group-size",
    max_segment_size = "x-stream-max-segment-size-bytes",
    filter_size = "x-stream-filter-size-bytes",
    initial_cluster_size = "x-initial-cluster-size",
    consumer_timeout = "x-consumer-timeout",
    consumer_disconnected_timeout = "x-consumer-disconnected-timeout",
    delayed_retry_type = "x-delayed-retry-type",
    delayed_retry_min = "x-delayed-retry-min",
    delayed_retry_max = "x-delayed-retry-max",
    member_placement_tag = "x-member-placement-tag",
    queue_version = "x-queue-version",
}

/// A stream's age as RabbitMQ writes it: `7D` stays, `7d` and `1h30m` become seconds. What is
/// neither stays, for `lint` to report.
pub(super) fn age(text: &str) -> String {
    if is_age(text) {
        return text.to_owned();
    }
    match text.parse::<HumanDuration>() {
        Ok(duration) if duration.as_ms() > 0 && duration.as_ms().is_multiple_of(1000) => {
            format!("{}s", duration.as_ms() / 1000)
        }
        _ => text.to_owned(),
    }
}

pub(super) fn apply_to(target: Target) -> ApplyTo {
    match target {
        Target::All => ApplyTo::All,
        Target::Exchanges => ApplyTo::Exchanges,
        Target::Queues => ApplyTo::Queues,
        Target::ClassicQueues => ApplyTo::ClassicQueues,
        Target::QuorumQueues => ApplyTo::QuorumQueues,
        Target::Streams => ApplyTo::Streams,
    }
}

/// A key of a policy as RabbitMQ takes it: friendly names are translated with their values, others
/// stay as they are.
pub(super) fn policy_setting(key: &str, value: &Json) -> Result<(String, Json), String> {
    if key == "alternateExchange" {
        return Ok(("alternate-exchange".to_owned(), value.clone()));
    }
    let Some((argument, policy)) = by_friendly_name(key).and_then(|a| Some((a, a.policy?))) else {
        return Ok((key.to_owned(), value.clone()));
    };
    let text = value.as_str();
    let value = match argument.value {
        // `expires` is RabbitMQ's own word too: a number is its milliseconds.
        ValueKind::Milliseconds { .. } if policy.key == key && text.is_none() => value.clone(),
        ValueKind::Milliseconds { .. } => match text {
            Some(text) => Json::from(text.parse::<HumanDuration>()?.as_ms()),
            None if value.as_i64() == Some(0) => value.clone(),
            None => {
                return Err(format!("`{key}` takes a duration such as 10s, not {value}"));
            }
        },
        ValueKind::Bytes { .. } => match text {
            Some(text) => Json::from(text.parse::<ByteSize>()?.0),
            None => value.clone(),
        },
        ValueKind::Age => text.map_or_else(|| value.clone(), |text| Json::from(age(text))),
        _ => value.clone(),
    };
    Ok((policy.key.to_owned(), value))
}

/// A key of a policy as our files say it.
pub(super) fn friendly_setting(key: &str, value: &Json) -> (String, Json) {
    let raw = || (key.to_owned(), value.clone());
    if key == "alternate-exchange" {
        return ("alternateExchange".to_owned(), value.clone());
    }
    let Some(argument) = by_policy_key(key).filter(|argument| !argument.friendly.is_empty()) else {
        return raw();
    };
    let friendly = match argument.value {
        ValueKind::Milliseconds { .. } => match value.as_u64() {
            Some(ms) if i64::try_from(ms).is_ok_and(|ms| ms <= MAX_MILLISECONDS) => {
                Json::from(HumanDuration::from_ms(ms).to_string())
            }
            _ => return raw(),
        },
        ValueKind::Bytes { .. } => match value.as_u64() {
            Some(bytes) => Json::from(ByteSize(bytes).to_string()),
            None => return raw(),
        },
        _ => value.clone(),
    };
    // Whatever reading would not bring back stays as RabbitMQ says it.
    match policy_setting(argument.friendly, &friendly) {
        Ok((again, same)) if again == key && same == *value => {
            (argument.friendly.to_owned(), friendly)
        }
        _ => raw(),
    }
}

/// A typed value as it is written: plain where YAML has the type (whole numbers are 64-bit ones,
/// others doubles), else `{$type: timestamp, value: …}`.
pub(super) fn typed_field(value: &Json) -> Result<FieldValue, String> {
    Ok(match value {
        Json::Object(map) if map.contains_key("$type") => field_from_json(value)?,
        Json::Object(map) => FieldValue::Table(
            map.iter()
                .map(|(name, value)| Ok((name.clone(), typed_field(value)?)))
                .collect::<Result<FieldTable, String>>()?,
        ),
        Json::Array(items) => {
            FieldValue::Array(items.iter().map(typed_field).collect::<Result<_, _>>()?)
        }
        other => field_of_json(other),
    })
}

pub(super) fn typed_json(value: &FieldValue) -> Json {
    match value {
        FieldValue::Double(number) if number.is_finite() => Json::from(*number),
        FieldValue::Array(items) => items.iter().map(typed_json).collect(),
        FieldValue::Table(table) if table.get("$type").is_none() => Json::Object(
            table.iter().map(|(name, value)| (name.to_owned(), typed_json(value))).collect(),
        ),
        other => field_to_json(other),
    }
}

/// Takes an argument out when a key of ours can say it.
pub(super) fn take<T>(
    arguments: &mut FieldTable,
    name: &str,
    read: impl FnOnce(&FieldValue) -> Option<T>,
) -> Option<Spanned<T>> {
    let value = read(arguments.get(name)?)?;
    arguments.remove(name);
    Some(Spanned::nowhere(value))
}
