//! `consume --dry-run`: what would be taken, how it would be settled, and what that would cost.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::{Broker, BrokerError, ErrorKind, QueueDepth, QueueType};
use crate::delivery::consume::{AckMode, ConsumeOptions};
use crate::topology::view::TopologyView;

use crate::cli::output::{Page, View, count};

/// What is known about a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    ready: u64,
    consumers: u64,
    /// What only listing tells, or why it cannot be listed.
    known: Result<Known, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    queue_type: QueueType,
    delivery_limit: Option<u32>,
    dead_letter_exchange: Option<String>,
    single_active_consumer: bool,
}

/// Looks at `queue` without consuming from it.
async fn look(broker: &dyn Broker, queue: &QueueName) -> Result<Facts, BrokerError> {
    let Some(QueueDepth { ready, consumers }) = broker.depth(queue).await? else {
        let attempted = format!("consume from queue `{queue}`");
        let cause =
            format!("queue `{queue}` does not exist in vhost `{}`", broker.identity().vhost);
        return Err(BrokerError::new(ErrorKind::NotFound, attempted, cause));
    };
    let known = match broker.inspect().await {
        Ok(snapshot) => {
            let view = TopologyView::of_snapshot(&snapshot);
            view.queues.get(queue.as_str()).map_or_else(
                || Err("it is not in the broker's list".to_owned()),
                |found| {
                    Ok(Known {
                        queue_type: found.queue_type,
                        delivery_limit: found.effective.delivery_limit(),
                        dead_letter_exchange: found
                            .effective
                            .dead_letter_exchange()
                            .map(str::to_owned),
                        single_active_consumer: found.effective.single_active_consumer(),
                    })
                },
            )
        }
        Err(error) => Err(error.to_string()),
    };
    Ok(Facts { ready, consumers, known })
}

/// What consuming would do.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumePlanView {
    /// The queue.
    queue: String,
    /// `classic`, `quorum` or `stream`; null when the broker cannot be listed.
    queue_type: Option<&'static str>,
    /// Messages that wait in it.
    ready: u64,
    /// Consumers that are attached to it already.
    consumers: u64,
    /// What would happen to a message once it is written.
    ack: &'static str,
    /// When the run would end.
    ends: Vec<String>,
    /// How many unsettled messages would be here at once.
    prefetch: u16,
    /// How often a message may come back to the queue; null when there is no limit or it is not known.
    delivery_limit: Option<u32>,
    /// Where rejected messages go; null when nowhere or not known.
    dead_letter_exchange: Option<String>,
    /// What to know before running it.
    warnings: Vec<String>,
}

impl ConsumePlanView {
    /// Looks at `queue` and says what `options` would do to it.
    pub(super) async fn of(
        broker: &dyn Broker,
        queue: &QueueName,
        options: &ConsumeOptions,
    ) -> Result<Self, BrokerError> {
        let facts = look(broker, queue).await?;
        let prefetch = options.choose_prefetch().map_err(|why| {
            let attempted = format!("consume from queue `{queue}`");
            BrokerError::new(ErrorKind::Invalid, attempted, why)
        })?;
        Ok(Self::new(queue.as_str(), &facts, options, prefetch))
    }

    fn new(queue: &str, facts: &Facts, options: &ConsumeOptions, prefetch: u16) -> Self {
        let known = facts.known.as_ref().ok();
        ConsumePlanView {
            queue: queue.to_owned(),
            queue_type: known.map(|known| known.queue_type.as_str()),
            ready: facts.ready,
            consumers: facts.consumers,
            ack: match options.ack {
                AckMode::AfterWrite => "acked once the output has it",
                AckMode::Never | AckMode::Requeue => "left in the queue",
                AckMode::Reject => "rejected once the output has it",
            },
            ends: ends(options),
            prefetch,
            delivery_limit: known.and_then(|known| known.delivery_limit),
            dead_letter_exchange: known.and_then(|known| known.dead_letter_exchange.clone()),
            warnings: warnings(facts, options),
        }
    }
}

fn ends(options: &ConsumeOptions) -> Vec<String> {
    let mut ends = Vec::new();
    if let Some(most) = options.count {
        ends.push(format!("after {}", count(most, "message")));
    }
    if options.until_empty {
        ends.push("when the queue is empty".to_owned());
    }
    if let Some(idle) = options.idle {
        ends.push(format!("when nothing has come for {}", HumanDuration(idle)));
    }
    if let Some(deadline) = options.deadline {
        ends.push(format!("after {}", HumanDuration(deadline)));
    }
    if ends.is_empty() {
        ends.push("on a signal".to_owned());
    }
    ends
}

/// What to know before running it, the costly things first.
fn warnings(facts: &Facts, options: &ConsumeOptions) -> Vec<String> {
    let mut warnings = Vec::new();
    let keeps = matches!(options.ack, AckMode::Never | AckMode::Requeue);
    let holds = keeps || options.filter.is_some();
    match &facts.known {
        Err(why) => warnings.push(format!(
            "type and limits of the queue are not known, so neither is what a look costs: {why}"
        )),
        Ok(known) => {
            let stream = known.queue_type == QueueType::Stream;
            if stream && !options.is_stream {
                warnings.push(
                    "this is a stream: without `--offset` only what comes from now on is read"
                        .to_owned(),
                );
            }
            match (known.queue_type, known.delivery_limit) {
                (QueueType::Quorum, Some(limit)) if holds => warnings.push(format!(
                    "each message that is left in the queue loses one of its {limit} lives by the \
                     look; one with fewer than {} left ends the run",
                    options.lives.keep
                )),
                _ => {}
            }
            if options.ack == AckMode::Reject && known.dead_letter_exchange.is_none() && !stream {
                warnings.push(
                    "the queue has no dead-letter exchange: rejected messages are gone".to_owned(),
                );
            }
            if known.single_active_consumer && facts.consumers > 0 {
                warnings.push(
                    "another consumer has the queue to itself: nothing comes until it goes"
                        .to_owned(),
                );
            }
        }
    }
    if facts.consumers > 0 {
        let others = count(facts.consumers, "consumer");
        warnings.push(match facts.consumers {
            1 => format!("{others} is attached and takes its share of the messages"),
            _ => format!("{others} are attached and take their share of the messages"),
        });
    }
    if facts.ready == 0 {
        warnings.push("no message waits".to_owned());
    }
    warnings
}

impl View for ConsumePlanView {
    const KIND: &'static str = "ConsumePlan";
    fn text(&self, page: &mut Page) {
        let kind = self.queue_type.map(|kind| format!(" ({kind})")).unwrap_or_default();
        let name = page.style.strong(&self.queue);
        page.line(format!(
            "queue {name}{kind}: {}, {}",
            count(self.ready, "message"),
            count(self.consumers, "consumer")
        ));
        page.line(format!("each message would be written, then {}", self.ack));
        page.line(format!("ends {}", self.ends.join(", or ")));
        for warning in &self.warnings {
            let word = page.style.attention("warning:");
            page.line(format!("{word} {warning}"));
        }
        page.line("nothing was consumed");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::delivery::consume::Lives;
    use crate::delivery::filter::Filter;

    use super::*;

    fn quorum() -> Facts {
        Facts {
            ready: 3,
            consumers: 0,
            known: Ok(Known {
                queue_type: QueueType::Quorum,
                delivery_limit: Some(20),
                dead_letter_exchange: None,
                single_active_consumer: false,
            }),
        }
    }

    fn with(change: impl FnOnce(&mut Facts, &mut Known)) -> Facts {
        let mut facts = quorum();
        let mut known = facts.known.clone().unwrap();
        change(&mut facts, &mut known);
        facts.known = facts.known.and(Ok(known));
        facts
    }

    #[test]
    fn what_costs_something_is_said_and_what_costs_nothing_is_not() {
        let plain = ConsumeOptions::default();
        let never = ConsumeOptions {
            ack: AckMode::Never,
            lives: Lives { limit: None, keep: 3 },
            ..plain.clone()
        };
        let filter = Some(Filter::parse("true").unwrap());
        let filtered = ConsumeOptions { filter, ..plain.clone() };
        let reject = ConsumeOptions { ack: AckMode::Reject, ..plain.clone() };
        let dead = with(|_, known| known.dead_letter_exchange = Some(String::new()));
        let classic = with(|_, known| {
            known.queue_type = QueueType::Classic;
            known.delivery_limit = None;
        });
        let shared = with(|facts, known| {
            facts.consumers = 2;
            known.single_active_consumer = true;
        });
        let stream = with(|_, known| known.queue_type = QueueType::Stream);
        let empty = with(|facts, _| facts.ready = 0);
        let unlisted = Facts { known: Err("no API".to_owned()), ..quorum() };
        for (facts, options, said) in [
            (&quorum(), &plain, &[][..]),
            (&quorum(), &never, &["one of its 20 lives", "fewer than 3 left"]),
            (&quorum(), &filtered, &["one of its 20 lives"]),
            (&classic, &never, &[]),
            (&quorum(), &reject, &["rejected messages are gone"]),
            (&dead, &reject, &[]),
            (&shared, &plain, &["to itself", "2 consumers are attached"]),
            (&stream, &plain, &["without `--offset`"]),
            (&empty, &plain, &["no message waits"]),
            (&unlisted, &plain, &["no API"]),
        ] {
            let warnings = warnings(facts, options).join("; ");
            assert_eq!(warnings.is_empty(), said.is_empty(), "{warnings}");
            for words in said {
                assert!(warnings.contains(words), "`{words}` is not in: {warnings}");
            }
        }
    }

    #[test]
    fn every_end_is_named() {
        let options = ConsumeOptions {
            count: Some(1),
            until_empty: true,
            idle: Some(Duration::from_secs(5)),
            deadline: Some(Duration::from_secs(60)),
            ..ConsumeOptions::default()
        };
        assert_eq!(
            ends(&options),
            [
                "after 1 message",
                "when the queue is empty",
                "when nothing has come for 5s",
                "after 1m"
            ]
        );
        assert_eq!(ends(&ConsumeOptions::default()), ["on a signal"]);
    }
}
