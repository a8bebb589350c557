//! `queue show`: one queue in full, its rates from two samples, and what will surprise you.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::{HumanDuration, Timestamp};
use crate::broker::{Product, QueueDetails, QueueType, Subscriber};
use crate::topology::explain::{QueueExplanation, explain_queue};
use crate::topology::view::{TopologyView, ViewQueue};

use crate::cli::connect::Connector;
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

/// Arguments of `queue show`.
#[derive(Debug, Args)]
#[command(
    after_help = "RabbitMQ counts what goes in and out every 5 s, so rates need a sample of at \
    least 6s; whether the queue grows is told by any sample.\n\nExamples:\n  \
    nexusctl queue show agent.worker\n  nexusctl queue show agent.worker --sample 0s -o json"
)]
pub(super) struct ShowArgs {
    /// The queue
    queue: QueueName,
    /// Look twice, so long apart, and tell rates; 0s looks once
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    sample: HumanDuration,
}

/// One look: the queue, and when.
struct Sample {
    details: QueueDetails,
    ready: Option<u64>,
    at: tokio::time::Instant,
}

/// Shorter than the broker's own counting, a sample shows nothing or everything at once.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// What happens each second.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Rates {
    /// Seconds between the two looks.
    seconds: f64,
    /// By how many messages a second the queue grows; negative when it shrinks.
    growth: Option<f64>,
    /// Published a second.
    published: Option<f64>,
    /// Handed out a second.
    delivered: Option<f64>,
    /// Acked a second.
    acked: Option<f64>,
    /// Why some are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<&'static str>,
}

impl Rates {
    fn between(first: &Sample, second: &Sample) -> Rates {
        let elapsed = second.at - first.at;
        let seconds = elapsed.as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
        let rate = |before: u64, after: u64| {
            ((after as f64 - before as f64) / seconds * 100.0).round() / 100.0
        };
        let both = first.details.counters.zip(second.details.counters);
        let long = elapsed >= COUNTED_EVERY;
        // A broker that restarted counts from 0 again.
        let counted =
            both.filter(|(a, b)| long && b.published >= a.published && b.acked >= a.acked);
        Rates {
            seconds: (seconds * 100.0).round() / 100.0,
            growth: first.ready.zip(second.ready).map(|(a, b)| rate(a, b)),
            published: counted.map(|(a, b)| rate(a.published, b.published)),
            delivered: counted.map(|(a, b)| rate(a.delivered, b.delivered)),
            acked: counted.map(|(a, b)| rate(a.acked, b.acked)),
            unknown: match (both, counted) {
                (_, Some(_)) => None,
                (None, _) => Some("the broker does not count what goes through a queue"),
                _ if !long => Some("RabbitMQ counts every 5 s: use --sample 6s"),
                _ => Some("the broker began to count anew meanwhile"),
            },
        }
    }
}

/// How old the oldest message is.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Oldest {
    /// Seconds since the timestamp that its publisher gave it.
    seconds: Option<i64>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<&'static str>,
}

fn oldest(details: &QueueDetails, kind: QueueType, product: Product, now: Timestamp) -> Oldest {
    let head = details.head_timestamp.and_then(|seconds| i64::try_from(seconds).ok());
    let unknown = |why| Oldest { seconds: None, unknown: Some(why) };
    match (head, details.state.messages(), kind) {
        (Some(head), _, _) => Oldest { seconds: Some((now.unix_s() - head).max(0)), unknown: None },
        (_, Some(0), _) => unknown("the queue is empty"),
        _ if product == Product::Embedded => unknown("the embedded broker does not tell"),
        (_, _, QueueType::Classic) => {
            unknown("the oldest message has no timestamp property, or is held by a consumer")
        }
        (_, _, QueueType::Quorum | QueueType::Stream) => unknown(
            "RabbitMQ tells it of classic queues only; `queue peek --count 1` shows the message",
        ),
    }
}

/// What will surprise you beyond what the definition alone tells.
fn surprises(queue: &ViewQueue, details: &QueueDetails) -> Vec<String> {
    let mut notes = Vec::new();
    let effective = &queue.effective;
    let subscribers = details.subscribers.as_deref().unwrap_or_default();
    if effective.single_active_consumer() {
        notes.push(
            "only one consumer gets messages at a time; the others wait until it goes".to_owned(),
        );
    }
    if subscribers.iter().any(|subscriber| subscriber.exclusive) {
        notes.push(match queue.queue_type {
            QueueType::Quorum => {
                "a consumer asked to be alone, which a quorum queue does not keep".to_owned()
            }
            _ => "a consumer has the queue to itself: every other is refused".to_owned(),
        });
    }
    if subscribers.iter().any(|subscriber| subscriber.prefetch == Some(0)) {
        notes.push("a consumer has no prefetch limit and may hold everything at once".to_owned());
    }
    if effective.message_ttl_ms().is_some() && effective.dead_letter_exchange().is_none() {
        notes.push("expired messages are gone: there is no dead-letter exchange".to_owned());
    }
    if queue.definition.auto_delete {
        notes.push("it goes away with its last consumer, messages included".to_owned());
    }
    if queue.definition.exclusive {
        notes.push("it belongs to one connection and goes away with it".to_owned());
    }
    if details.online.len() < details.members.len() {
        notes.push(format!(
            "{} of its {} members are up",
            details.online.len(),
            details.members.len()
        ));
    }
    if details.state.ready.is_some_and(|ready| ready > 0) && details.state.consumers == Some(0) {
        notes.push("messages wait and nobody consumes".to_owned());
    }
    notes
}

/// One queue in full.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueView {
    #[serde(flatten)]
    explanation: QueueExplanation,
    /// The broker's word for how it is: `running`, `idle`, `minority`.
    state: Option<String>,
    /// The node of its leader.
    leader: Option<String>,
    /// The nodes with a replica.
    members: Vec<String>,
    /// Of these, the nodes that are up.
    online: Vec<String>,
    /// Messages that wait.
    ready: Option<u64>,
    /// Messages that consumers hold.
    unacked: Option<u64>,
    /// Bytes of the bodies in it.
    bytes: Option<u64>,
    /// Bytes of memory it takes.
    memory: Option<u64>,
    /// The oldest message.
    oldest: Oldest,
    /// What happens each second; null when it was looked at once.
    rates: Option<Rates>,
    /// How many consume.
    consumers: Option<u64>,
    /// Who consumes; null when the broker does not tell.
    subscribers: Option<Vec<Subscriber>>,
}

impl View for QueueView {
    const KIND: &'static str = "Queue";
    fn text(&self, page: &mut Page) {
        self.explanation.text(page);
        page.gap();
        let known = |number: Option<u64>| number.map_or("-".to_owned(), |n| n.to_string());
        let mut facts = vec![
            ["ready".to_owned(), known(self.ready)],
            ["unacked".to_owned(), known(self.unacked)],
            ["bytes".to_owned(), known(self.bytes)],
            ["memory".to_owned(), known(self.memory)],
            ["consumers".to_owned(), known(self.consumers)],
        ];
        if let Some(state) = &self.state {
            facts.push(["state".to_owned(), state.clone()]);
        }
        if let Some(leader) = &self.leader {
            facts.push(["leader".to_owned(), leader.clone()]);
        }
        if !self.members.is_empty() {
            let online = self.online.len();
            let members = self.members.join(", ");
            facts.push(["members".to_owned(), format!("{members} ({online} up)")]);
        }
        facts.push([
            "oldest".to_owned(),
            match (self.oldest.seconds, self.oldest.unknown) {
                (Some(seconds), _) => format!("{} old", count(seconds.unsigned_abs(), "second")),
                (None, why) => format!("not known: {}", why.unwrap_or_default()),
            },
        ]);
        if let Some(rates) = &self.rates {
            for (name, rate) in [
                ("growth", rates.growth),
                ("published", rates.published),
                ("delivered", rates.delivered),
                ("acked", rates.acked),
            ] {
                if let Some(rate) = rate {
                    facts.push([format!("{name}/s"), rate.to_string()]);
                }
            }
            if let Some(why) = rates.unknown {
                facts.push(["rates".to_owned(), format!("not known: {why}")]);
            }
        }
        page.table(["NOW", ""], facts);
        let subscribers = self.subscribers.as_deref().unwrap_or_default();
        if !subscribers.is_empty() {
            page.gap();
        }
        let rows = subscribers.iter().map(|s| {
            [
                s.tag.clone(),
                known(s.channel),
                known(s.prefetch),
                s.user.clone().unwrap_or_default(),
                s.host.clone().unwrap_or_default(),
                s.connection.clone().unwrap_or_default(),
            ]
        });
        page.table(
            ["CONSUMER", "CHANNEL", "PREFETCH", "USER", "HOST", "CONNECTION"],
            rows.collect(),
        );
    }
}

pub(super) fn run(args: ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ShowArgs { queue, sample } = args;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let now = session.clock.now();
    let view = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let look = || async {
            let ready = broker.depth(&queue).await?.map(|depth| depth.ready);
            let details = broker.queue_details(&queue).await?;
            let at = tokio::time::Instant::now();
            Ok::<_, CliError>(details.map(|details| Sample { details, ready, at }))
        };
        let missing = || super::no_such_queue("show it", &queue, &*broker, &settings);
        let Some(first) = look().await? else { return Err(missing().await) };
        let topology = TopologyView::of_snapshot(&broker.inspect().await?);
        let second = if sample.0.is_zero() {
            None
        } else {
            tokio::time::sleep(sample.0).await;
            look().await?
        };
        let explained = explain_queue(&topology, queue.as_str()).ok();
        let found = explained.zip(topology.queues.get(queue.as_str()));
        let Some((mut explanation, known)) = found else { return Err(missing().await) };
        let rates = second.as_ref().map(|second| Rates::between(&first, second));
        let details = second.map_or(first.details, |second| second.details);
        explanation.notes.extend(surprises(known, &details));
        let product = broker.identity().product;
        let oldest = oldest(&details, known.queue_type, product, now);
        let _ = broker.close().await;
        explanation.messages = details.state.messages();
        Ok(QueueView {
            explanation,
            oldest,
            rates,
            state: details.status,
            leader: details.leader,
            members: details.members,
            online: details.online,
            ready: details.state.ready,
            unacked: details.state.unacked,
            bytes: details.bytes,
            memory: details.memory,
            consumers: details.state.consumers,
            subscribers: details.subscribers,
        })
    }))?;
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}

#[cfg(test)]
mod tests {
    use crate::broker::{QueueCounters, QueueDefinition, QueueState};

    use super::*;

    fn details(published: u64) -> QueueDetails {
        QueueDetails {
            counters: Some(QueueCounters { published, ..QueueCounters::default() }),
            ..QueueDetails::of(QueueState {
                definition: QueueDefinition::durable(
                    QueueName::new("q").unwrap(),
                    QueueType::Classic,
                ),
                ready: Some(1),
                unacked: Some(0),
                consumers: Some(0),
                policy: None,
                operator_policy: None,
            })
        }
    }

    #[test]
    fn rates_are_of_two_looks_and_never_invented() {
        let start = tokio::time::Instant::now();
        let look = |seconds: u64, published: u64, ready: u64| Sample {
            details: details(published),
            ready: Some(ready),
            at: start + Duration::from_secs(seconds),
        };
        let long = Rates::between(&look(0, 10, 9), &look(10, 30, 4));
        assert_eq!((long.published, long.growth, long.unknown), (Some(2.0), Some(-0.5), None));
        let short = Rates::between(&look(0, 10, 4), &look(2, 10, 8));
        assert_eq!((short.published, short.growth), (None, Some(2.0)));
        assert!(short.unknown.unwrap().contains("--sample 6s"));
        let anew = Rates::between(&look(0, 10, 0), &look(10, 3, 0));
        assert_eq!(anew.published, None);
        assert!(anew.unknown.unwrap().contains("anew"));
    }

    #[test]
    fn the_age_of_the_oldest_message_is_known_or_says_why_not() {
        let now = Timestamp::from_unix_ms(1_700_000_100_000);
        let old = |head: Option<u64>, kind| {
            let details = QueueDetails { head_timestamp: head, ..details(1) };
            oldest(&details, kind, Product::RabbitMq, now)
        };
        assert_eq!(old(Some(1_700_000_000), QueueType::Classic).seconds, Some(100));
        assert!(old(None, QueueType::Classic).unknown.unwrap().contains("timestamp property"));
        assert!(old(None, QueueType::Quorum).unknown.unwrap().contains("classic queues only"));
    }
}
