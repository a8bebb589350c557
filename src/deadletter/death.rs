//! What a dead letter's headers tell of its deaths and of where it belongs.
//!
//! Pure. Two kinds of headers are read: the broker's `x-death`, one entry for each pair of queue and
//! reason, newest first; and our own, `x-nexus-origin-*` and `x-nexus-death-*`, which survive any number
//! of journeys. Brokers before 4.0 go on counting in an `x-death` that is published again, later ones
//! ignore it, so our own come first. Anybody may have written these headers: what does not look as it
//! should is left out, never an error.

use std::fmt;

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::delivery::worker::letter::{
    DEATH_ATTEMPTS, DEATH_CODE, DEATH_ERROR, DEATH_HOST, DEATH_REASON, DEATH_TIME, ORIGIN_EXCHANGE,
    ORIGIN_KEY, ORIGIN_QUEUE,
};
use crate::message::{FieldTable, FieldValue, Properties};

/// Why the broker took a message out of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DeathReason {
    /// A consumer rejected it.
    Rejected,
    /// Its time to live ran out.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It was handed out too often.
    DeliveryLimit,
    /// A reason of another broker.
    Other(String),
}

impl DeathReason {
    /// Reads the broker's word.
    pub fn parse(word: &str) -> DeathReason {
        match word {
            "rejected" => DeathReason::Rejected,
            "expired" => DeathReason::Expired,
            "maxlen" => DeathReason::MaxLength,
            "delivery_limit" => DeathReason::DeliveryLimit,
            other => DeathReason::Other(other.to_owned()),
        }
    }

    /// The broker's word.
    pub fn as_str(&self) -> &str {
        match self {
            DeathReason::Rejected => "rejected",
            DeathReason::Expired => "expired",
            DeathReason::MaxLength => "maxlen",
            DeathReason::DeliveryLimit => "delivery_limit",
            DeathReason::Other(word) => word,
        }
    }
}

impl fmt::Display for DeathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// All deaths of one message in one queue for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Where it died.
    pub queue: String,
    /// Why.
    pub reason: DeathReason,
    /// How often, at least 1.
    pub count: u64,
    /// When for the first time, in whole seconds.
    pub first_at: Option<Timestamp>,
    /// The exchange it had been published to before it came to that queue.
    pub exchange: String,
    /// The keys it had been published with, `CC` included.
    pub routing_keys: Vec<String>,
    /// The time to live that it lost by dying, in milliseconds as text.
    pub original_expiration: Option<String>,
}

fn text<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    table.get(name).and_then(FieldValue::as_text)
}

fn time(value: Option<&FieldValue>) -> Option<Timestamp> {
    match value? {
        FieldValue::Timestamp(seconds) => {
            let ms = i64::try_from(*seconds).ok()?.checked_mul(1000)?;
            Some(Timestamp::from_unix_ms(ms))
        }
        FieldValue::Text(_) => value?.as_text()?.parse().ok(),
        _ => None,
    }
}

fn death(entry: &FieldTable) -> Option<Death> {
    let routing_keys = match entry.get("routing-keys") {
        Some(FieldValue::Array(keys)) => {
            keys.iter().filter_map(FieldValue::as_text).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let count = entry.get("count").and_then(FieldValue::as_i64);
    Some(Death {
        queue: text(entry, "queue")?.to_owned(),
        reason: DeathReason::parse(text(entry, "reason")?),
        count: count.and_then(|count| u64::try_from(count).ok()).unwrap_or(1).max(1),
        first_at: time(entry.get("time")),
        exchange: text(entry, "exchange").unwrap_or_default().to_owned(),
        routing_keys,
        original_expiration: text(entry, "original-expiration").map(str::to_owned),
    })
}

/// The entries of `x-death`, newest first.
pub fn deaths(properties: &Properties) -> Vec<Death> {
    match properties.header("x-death") {
        Some(FieldValue::Array(entries)) => entries
            .iter()
            .filter_map(|entry| match entry {
                FieldValue::Table(entry) => death(entry),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What a worker wrote on a letter when it gave the message up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerVerdict {
    /// The class of the failure, such as `poison` or `exhausted`.
    pub reason: String,
    /// What ended it: `exit 65`, `signal 9`, `timeout`.
    pub code: Option<String>,
    /// The last words of its handler.
    pub error: Option<String>,
    /// How many attempts were made.
    pub attempts: Option<u64>,
    /// On which host.
    pub host: Option<String>,
    /// When.
    pub at: Option<Timestamp>,
}

/// What a worker wrote, if it was one that gave up.
pub fn worker_verdict(properties: &Properties) -> Option<WorkerVerdict> {
    let said = |name| properties.header(name).and_then(FieldValue::as_text).map(str::to_owned);
    let attempts = properties.header(DEATH_ATTEMPTS).and_then(FieldValue::as_i64);
    Some(WorkerVerdict {
        reason: said(DEATH_REASON)?,
        code: said(DEATH_CODE),
        error: said(DEATH_ERROR),
        attempts: attempts.and_then(|made| u64::try_from(made).ok()),
        host: said(DEATH_HOST),
        at: time(properties.header(DEATH_TIME)),
    })
}

/// Where a letter belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The queue it could not be worked on in.
    pub queue: QueueName,
    /// The exchange that had taken it there.
    pub exchange: String,
    /// The key that it had.
    pub routing_key: String,
    /// Whether our own headers say so. Else it is the newest entry of `x-death`, which after a journey
    /// through a delay queue names that queue.
    pub is_written: bool,
}

/// Where a letter belongs: our own headers first, then its newest death. `None` when nothing tells.
pub fn origin(properties: &Properties) -> Option<Origin> {
    let said = |name| properties.header(name).and_then(FieldValue::as_text);
    if let Some(queue) = said(ORIGIN_QUEUE).and_then(|queue| QueueName::new(queue).ok()) {
        return Some(Origin {
            queue,
            exchange: said(ORIGIN_EXCHANGE).unwrap_or_default().to_owned(),
            routing_key: said(ORIGIN_KEY).unwrap_or_default().to_owned(),
            is_written: true,
        });
    }
    let newest = deaths(properties).into_iter().next()?;
    Some(Origin {
        queue: QueueName::new(newest.queue).ok()?,
        exchange: newest.exchange,
        routing_key: newest.routing_keys.into_iter().next().unwrap_or_default(),
        is_written: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(queue: &str, reason: &str, count: i64) -> FieldValue {
        let keys = FieldValue::Array(vec!["key".into(), "copy".into()]);
        FieldValue::Table(
            FieldTable::new()
                .with("queue", queue)
                .with("reason", reason)
                .with("count", count)
                .with("exchange", "from")
                .with("routing-keys", keys)
                .with("time", FieldValue::Timestamp(1_700_000_000)),
        )
    }

    fn properties(headers: FieldTable) -> Properties {
        Properties { headers: Some(headers), ..Properties::default() }
    }

    #[test]
    fn deaths_are_read_newest_first_and_what_is_no_death_is_left_out() {
        let odd = FieldValue::Table(FieldTable::new().with("queue", "no reason"));
        let entries = vec![entry("jobs", "rejected", 3), "no table".into(), odd];
        let found =
            deaths(&properties(FieldTable::new().with("x-death", FieldValue::Array(entries))));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].queue.as_str(), found[0].count), ("jobs", 3));
        assert_eq!(found[0].reason, DeathReason::Rejected);
        assert_eq!(found[0].routing_keys, ["key", "copy"]);
        assert_eq!(found[0].first_at, Some(Timestamp::from_unix_ms(1_700_000_000_000)));
        assert!(deaths(&properties(FieldTable::new().with("x-death", "text"))).is_empty());
        assert!(deaths(&Properties::default()).is_empty());
    }

    #[test]
    fn our_own_headers_tell_the_origin_before_the_newest_death_does() {
        let entries = vec![entry("retry.30s", "expired", 1), entry("jobs", "rejected", 1)];
        let headers = FieldTable::new().with("x-death", FieldValue::Array(entries));
        let by_death = origin(&properties(headers.clone())).unwrap();
        assert_eq!((by_death.queue.as_str(), by_death.is_written), ("retry.30s", false));
        assert_eq!((by_death.exchange.as_str(), by_death.routing_key.as_str()), ("from", "key"));
        let written = headers.with(ORIGIN_QUEUE, "jobs").with(ORIGIN_EXCHANGE, "agents");
        let written = origin(&properties(written)).unwrap();
        assert_eq!((written.queue.as_str(), written.exchange.as_str()), ("jobs", "agents"));
        assert!(written.is_written);
        assert_eq!(origin(&Properties::default()), None);
    }

    #[test]
    fn a_workers_verdict_needs_its_reason() {
        let headers = FieldTable::new()
            .with(DEATH_REASON, "poison")
            .with(DEATH_ATTEMPTS, 3_i64)
            .with(DEATH_TIME, "2026-11-23T10:00:00Z");
        let verdict = worker_verdict(&properties(headers.clone())).unwrap();
        assert_eq!((verdict.reason.as_str(), verdict.attempts), ("poison", Some(3)));
        assert!(verdict.at.is_some());
        let mut without = headers;
        without.remove(DEATH_REASON);
        assert_eq!(worker_verdict(&properties(without)), None);
    }
}
