//! The way of one letter, as far as its headers tell: where it was published, where it died and why,
//! where it lies. Pure.
//!
//! The broker counts deaths of the same queue and reason together and keeps the time of the first, so a
//! journey is an order of places, not of events; what that hides is said.

use std::fmt;

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::broker::Delivery;
use crate::message::{FieldTable, FieldValue, Properties};

use super::death::{DeathReason, WorkerVerdict, deaths, origin, worker_verdict};
use super::letter::REPLAY_COUNT;

/// One place on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was published.
    Published {
        /// To this exchange; the empty name is the default one.
        exchange: String,
        /// With these keys.
        keys: Vec<String>,
        /// When, as its timestamp says.
        at: Option<Timestamp>,
    },
    /// It died in a queue.
    Died {
        /// Which one.
        queue: String,
        /// Why.
        reason: DeathReason,
        /// How often.
        count: u64,
        /// When for the first time.
        first_at: Option<Timestamp>,
        /// Its time to live, in milliseconds as text.
        time_to_live: Option<String>,
    },
    /// A worker gave it up.
    GivenUp {
        /// While it worked on this queue.
        queue: Option<String>,
        /// What it said.
        verdict: WorkerVerdict,
    },
    /// It was sent back to work.
    Replayed {
        /// How often.
        count: u64,
    },
    /// It lies here now.
    Lies {
        /// In this queue.
        queue: String,
    },
}

/// The way of one letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journey {
    /// From the first place to the last.
    pub steps: Vec<Step>,
    /// What its headers do not tell, or contradict.
    pub gaps: Vec<String>,
}

fn said<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    properties.header(name).and_then(FieldValue::as_text)
}

/// The way of a letter that lies in `queue`.
pub fn journey(delivery: &Delivery, queue: &QueueName) -> Journey {
    let properties = &delivery.message.properties;
    let mut gaps = Vec::new();
    let mut found = deaths(properties);
    // Newest first in the header.
    found.reverse();
    match properties.header("x-death") {
        Some(FieldValue::Array(entries)) if entries.len() > found.len() => {
            let odd = entries.len() - found.len();
            gaps.push(format!(
                "{odd} of the {} entries of x-death cannot be read and are left out",
                entries.len()
            ));
        }
        Some(FieldValue::Array(_)) => {}
        Some(_) => {
            gaps.push("x-death is no list, so it tells nothing of earlier deaths".to_owned());
        }
        None => {}
    }
    let verdict = worker_verdict(properties);
    let home = origin(properties);
    let published_at = properties
        .timestamp
        .and_then(|s| i64::try_from(s).ok()?.checked_mul(1000))
        .map(Timestamp::from_unix_ms);
    let mut steps = Vec::new();
    let first = found.first();
    let (exchange, keys) = match (first, &home) {
        (Some(death), _) => (Some(death.exchange.clone()), death.routing_keys.clone()),
        (None, Some(home)) => (Some(home.exchange.clone()), vec![home.routing_key.clone()]),
        (None, None) => (None, Vec::new()),
    };
    match exchange {
        Some(exchange) => steps.push(Step::Published { exchange, keys, at: published_at }),
        None => {
            gaps.push(
                "no header tells of a death: it was published to this queue, or came through something \
                 that takes such headers off"
                    .to_owned(),
            );
            steps.push(Step::Published {
                exchange: delivery.exchange.as_str().to_owned(),
                keys: vec![delivery.routing_key.as_str().to_owned()],
                at: published_at,
            });
        }
    }
    if let (Some(first), Some(named)) = (first, said(properties, "x-first-death-queue"))
        && named != first.queue
    {
        gaps.push(format!(
            "x-first-death-queue says `{named}`, and the oldest death that is listed is of `{}`: earlier \
             deaths are missing, or the headers were published again",
            first.queue
        ));
    }
    if found.iter().any(|death| death.count > 1) && found.len() > 1 {
        gaps.push(
            "deaths in one queue for one reason are counted together, so the order among them is not known"
                .to_owned(),
        );
    }
    if found.iter().any(|death| death.queue == queue.as_str()) {
        gaps.push(format!("it died in `{queue}` before and has come back to it"));
    }
    let last = found.last().map(|death| death.queue.clone());
    steps.extend(found.into_iter().map(|death| Step::Died {
        queue: death.queue,
        reason: death.reason,
        count: death.count,
        first_at: death.first_at,
        time_to_live: death.original_expiration,
    }));
    if let Some(verdict) = verdict {
        let written = home.as_ref().filter(|home| home.is_written);
        let worked_on = written.map(|home| home.queue.as_str().to_owned());
        if let (Some(worked_on), Some(last)) = (&worked_on, &last)
            && worked_on != last
        {
            gaps.push(
                "no time orders a worker's verdict among the broker's deaths; it is shown last"
                    .to_owned(),
            );
        }
        steps.push(Step::GivenUp { queue: worked_on, verdict });
    }
    let replays = properties.header(REPLAY_COUNT).and_then(FieldValue::as_i64).unwrap_or(0);
    if let Ok(count @ 1..) = u64::try_from(replays) {
        steps.insert(1, Step::Replayed { count });
    }
    steps.push(Step::Lies { queue: queue.as_str().to_owned() });
    Journey { steps, gaps }
}

/// What its headers say that ties a letter to other things: name and value.
pub fn links(properties: &Properties) -> Vec<(&'static str, String)> {
    const HEADERS: [(&str, &str); 6] = [
        ("workflow", "x-nexus-workflow"),
        ("sequence", "x-nexus-sequence"),
        ("saga", "x-nexus-saga"),
        ("trace", "traceparent"),
        ("run", "x-nexus-run"),
        ("replayKey", "x-nexus-replay-key"),
    ];
    let none = FieldTable::new();
    let headers = properties.headers.as_ref().unwrap_or(&none);
    let own = HEADERS.into_iter().filter_map(|(name, header)| {
        let value = headers.get(header)?;
        let text = value.as_text().map(str::to_owned);
        Some((name, text.or_else(|| value.as_i64().map(|n| n.to_string()))?))
    });
    let plain = [
        ("message", &properties.message_id),
        ("correlation", &properties.correlation_id),
        ("replyTo", &properties.reply_to),
    ];
    plain.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).chain(own).collect()
}

fn times(count: u64) -> String {
    if count > 1 { format!(" ×{count}") } else { String::new() }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Published { exchange, keys, .. } => {
                let key = keys.first().map_or("", String::as_str);
                let more = if keys.len() > 1 { " and copies" } else { "" };
                if exchange.is_empty() {
                    write!(f, "published to {key}{more}")
                } else {
                    write!(f, "published {exchange}/{key}{more}")
                }
            }
            Step::Died { queue, reason, count, .. } => {
                write!(f, "{queue} ({reason}{})", times(*count))
            }
            Step::GivenUp { queue, verdict } => {
                let what =
                    verdict.code.as_ref().map(|code| format!(", {code}")).unwrap_or_default();
                let made = times(verdict.attempts.unwrap_or(1));
                write!(f, "{} ({}{what}{made})", queue.as_deref().unwrap_or("?"), verdict.reason)
            }
            Step::Replayed { count } => write!(f, "replayed{}", times(*count)),
            Step::Lies { queue } => f.write_str(queue),
        }
    }
}

impl fmt::Display for Journey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.steps.iter().enumerate() {
            if at > 0 {
                f.write_str(" → ")?;
            }
            step.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::broker::DeliveryTag;
    use crate::delivery::worker::letter::{
        DEATH_ATTEMPTS, DEATH_CODE, DEATH_REASON, ORIGIN_EXCHANGE, ORIGIN_KEY, ORIGIN_QUEUE,
    };
    use crate::message::Message;

    fn entry(queue: &str, reason: &str, count: i64, exchange: &str, key: &str) -> FieldValue {
        FieldValue::Table(
            FieldTable::new()
                .with("queue", queue)
                .with("reason", reason)
                .with("count", count)
                .with("exchange", exchange)
                .with("routing-keys", FieldValue::Array(vec![key.into()]))
                .with("time", FieldValue::Timestamp(1_700_000_000)),
        )
    }

    fn way(headers: FieldTable) -> Journey {
        let properties = Properties { headers: Some(headers), ..Properties::default() };
        let delivery = Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new("dead").unwrap(),
            redelivered: false,
            message: Message { properties, body: Vec::new() },
        };
        journey(&delivery, &QueueName::new("dead").unwrap())
    }

    #[test]
    fn a_journey_reads_from_the_publish_to_where_it_lies() {
        let entries = vec![
            entry("retry.30s", "expired", 3, "", "retry.30s"),
            entry("jobs", "rejected", 3, "events", "order.created"),
        ];
        let way = way(FieldTable::new().with("x-death", FieldValue::Array(entries)));
        assert_eq!(
            way.to_string(),
            "published events/order.created → jobs (rejected ×3) → retry.30s (expired ×3) → dead"
        );
        assert_eq!(way.gaps.len(), 1, "{:?}", way.gaps);
    }

    #[test]
    fn a_workers_verdict_is_part_of_it() {
        let headers = FieldTable::new()
            .with(DEATH_REASON, "exhausted")
            .with(DEATH_CODE, "exit 1")
            .with(DEATH_ATTEMPTS, 3)
            .with(ORIGIN_QUEUE, "jobs")
            .with(ORIGIN_EXCHANGE, "agents")
            .with(ORIGIN_KEY, "work")
            .with(REPLAY_COUNT, 1);
        let way = way(headers);
        assert_eq!(
            way.to_string(),
            "published agents/work → replayed → jobs (exhausted, exit 1 ×3) → dead"
        );
        assert_eq!(way.gaps, Vec::<String>::new());
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(way(FieldTable::new()).gaps[0].contains("no header tells"));
        let text = way(FieldTable::new().with("x-death", "garbage"));
        assert!(text.gaps[0].contains("no list"), "{:?}", text.gaps);
        let entries: Vec<FieldValue> =
            (0..50).map(|n| entry(&format!("q{n}"), "expired", 1, "", "k")).collect();
        let many = FieldTable::new()
            .with("x-death", FieldValue::Array(entries))
            .with("x-first-death-queue", "elsewhere");
        let way = way(many);
        assert_eq!(way.steps.len(), 52);
        assert!(way.gaps[0].contains("elsewhere"), "{:?}", way.gaps);
    }
}
