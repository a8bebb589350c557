//! `route EXCHANGE KEY`: who would get this message, on which way, and what becomes of it when a
//! queue gives it up. Offline from a file, or on what was read from a broker. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value as Json;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::arguments::json_of_field;
use crate::broker::definition::{BindingDefinition, QueueType};
use crate::broker::effective::{DeadLetterStrategy, Overflow};
use crate::broker::routing::{Routed, RoutingTable, Step, sender_keys};
use crate::message::{FieldTable, FieldValue};

use super::view::{TopologyView, ViewQueue};

/// How far dead letters are followed.
const MAX_DEPTH: usize = 16;

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteReport {
    /// The exchange it is published to; empty is the default exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
    /// The queues that get it, each once.
    pub queues: Vec<QueueRoute>,
    /// What happens on the way, in order.
    pub steps: Vec<RouteStep>,
    /// Whether a mandatory message comes back: no queue takes it.
    pub unroutable: bool,
    /// Why the publish itself is refused: the exchange is missing or internal, or `CC` is no list.
    pub refused: Option<String>,
    /// What will surprise: an alternate exchange that hides the unroutable, a plugin's exchange.
    pub notes: Vec<String>,
}

/// One step of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(tag = "step", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum RouteStep {
    /// A binding matches.
    Binding {
        /// The exchange that routes.
        source: String,
        /// ``queue `orders` `` or ``exchange `audit` ``.
        destination: String,
        /// Its key or pattern.
        routing_key: String,
        /// Its arguments, when it has any.
        #[serde(skip_serializing_if = "Option::is_none")]
        arguments: Option<Json>,
    },
    /// The default exchange hands it to the queue of that name.
    DefaultExchange {
        /// The queue.
        queue: String,
    },
    /// No binding of `exchange` matches: its alternate takes over.
    Alternate {
        /// The exchange.
        exchange: String,
        /// Its alternate.
        alternate: String,
        /// Who says so: an argument or a policy.
        source: String,
    },
    /// No binding matches and there is no alternate.
    NoMatch {
        /// The exchange.
        exchange: String,
    },
    /// The exchange does not exist.
    MissingExchange {
        /// Its name.
        exchange: String,
    },
    /// The exchange takes messages from other exchanges only.
    InternalExchange {
        /// Its name.
        exchange: String,
    },
    /// The message has been there.
    AlreadyPassed {
        /// The exchange.
        exchange: String,
    },
    /// A plugin's exchange, or one that somebody else declares: what it does is not known here.
    UnknownKind {
        /// The exchange.
        exchange: String,
        /// Its type.
        kind: String,
    },
}

/// A queue that gets the message.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueRoute {
    /// Its name.
    pub queue: String,
    /// Its type.
    pub queue_type: String,
    /// After how many milliseconds the message expires in it.
    pub message_ttl_ms: Option<u64>,
    /// What becomes of the message when the queue gives it up, by reason.
    pub gives_up: Vec<GivesUp>,
}

/// One reason for which a queue gives a message up.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GivesUp {
    /// `rejected`, `expired`, `maxlen` or `delivery_limit`, as in `x-death`.
    pub reason: &'static str,
    /// When: `after 10000 ms`, `when a consumer rejects it`.
    pub when: String,
    /// What then.
    pub fate: Fate,
}

/// What becomes of a message that a queue gave up.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(tag = "fate", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fate {
    /// It is gone: there is no dead-letter exchange.
    Dropped,
    /// It is gone: the dead-letter exchange is missing or hands it to nobody.
    Lost {
        /// The exchange.
        exchange: String,
        /// The key it goes by.
        routing_key: String,
    },
    /// It is gone: it came back to a queue it had left, and nobody rejected it on the way.
    DroppedInLoop {
        /// That queue.
        queue: String,
    },
    /// It goes round again and again.
    GoesRound {
        /// The queue it comes back to.
        queue: String,
    },
    /// It is dead-lettered.
    DeadLettered {
        /// The exchange.
        exchange: String,
        /// The key it goes by.
        routing_key: String,
        /// The queues that get it.
        queues: Vec<QueueRoute>,
        /// What happens on the way.
        steps: Vec<RouteStep>,
        /// Whether it may be lost on the way.
        at_least_once: bool,
    },
    /// Too deep to follow.
    NotFollowed,
}

/// Routes a message as a publisher's through `view`.
pub fn route(
    view: &TopologyView,
    exchange: &ExchangeName,
    routing_key: &RoutingKey,
    headers: &FieldTable,
) -> RouteReport {
    let routing = view.routing();
    let mut report = RouteReport {
        exchange: exchange.as_str().to_owned(),
        routing_key: routing_key.as_str().to_owned(),
        queues: Vec::new(),
        steps: Vec::new(),
        unroutable: true,
        refused: None,
        notes: Vec::new(),
    };
    let copies = match sender_keys(Some(headers)) {
        Ok(copies) => copies.all(),
        Err((header, kind)) => {
            report.refused = Some(format!("the header `{header}` must be a list, not {kind}"));
            return report;
        }
    };
    let routed = routing.route(exchange, routing_key, headers, &copies);
    report.steps = steps(view, &routed);
    report.refused = report.steps.first().and_then(|step| match step {
        RouteStep::MissingExchange { exchange } => Some(format!(
            "exchange `{exchange}` does not exist: the broker closes the channel with 404"
        )),
        RouteStep::InternalExchange { exchange } => Some(format!(
            "exchange `{exchange}` is internal: the broker closes the channel with 403"
        )),
        _ => None,
    });
    report.unroutable = routed.is_unroutable();
    let walk = Walk { view, routing: &routing, headers };
    report.queues = routed
        .queues
        .iter()
        .filter_map(|queue| walk.queue(queue, routing_key.as_str(), &[]))
        .collect();
    for step in &report.steps {
        match step {
            RouteStep::Alternate { exchange, .. } if !report.unroutable => {
                report.notes.push(format!(
                    "an alternate exchange takes it: the publisher is not told that no binding of `{exchange}` matched"
                ));
            }
            RouteStep::UnknownKind { exchange, kind } => report.notes.push(if kind.is_empty() {
                format!("exchange `{exchange}` is somebody else's and its type is not declared here: where it sends the message is not known")
            } else {
                format!("exchange `{exchange}` is of type {kind}, a plugin's: where it sends the message is not known")
            }),
            _ => {}
        }
    }
    report.notes.dedup();
    report
}

fn binding_step(binding: &BindingDefinition) -> RouteStep {
    RouteStep::Binding {
        source: binding.source.as_str().to_owned(),
        destination: binding.destination.to_string(),
        routing_key: binding.routing_key.as_str().to_owned(),
        arguments: (!binding.arguments.is_empty())
            .then(|| json_of_field(&FieldValue::Table(binding.arguments.clone()))),
    }
}

fn steps(view: &TopologyView, routed: &Routed) -> Vec<RouteStep> {
    let text = |name: &ExchangeName| name.as_str().to_owned();
    routed
        .steps
        .iter()
        .map(|step| match step {
            Step::Binding(binding) => binding_step(binding),
            Step::DefaultExchange { queue } => {
                RouteStep::DefaultExchange { queue: queue.as_str().to_owned() }
            }
            Step::Alternate { exchange, alternate } => RouteStep::Alternate {
                exchange: text(exchange),
                alternate: text(alternate),
                source: view
                    .exchanges
                    .get(exchange.as_str())
                    .and_then(|e| e.effective.alternate_exchange.as_ref())
                    .map_or_else(String::new, |setting| setting.source.to_string()),
            },
            Step::NoMatch { exchange } => RouteStep::NoMatch { exchange: text(exchange) },
            Step::MissingExchange { exchange } => {
                RouteStep::MissingExchange { exchange: text(exchange) }
            }
            Step::InternalExchange { exchange } => {
                RouteStep::InternalExchange { exchange: text(exchange) }
            }
            Step::AlreadyPassed { exchange } => {
                RouteStep::AlreadyPassed { exchange: text(exchange) }
            }
            Step::UnknownKind { exchange, kind } => {
                RouteStep::UnknownKind { exchange: text(exchange), kind: kind.clone() }
            }
        })
        .collect()
}

/// One death on the way of a message, the last one last.
#[derive(Clone)]
struct Death {
    queue: String,
    reason: &'static str,
}

struct Walk<'a> {
    view: &'a TopologyView,
    routing: &'a RoutingTable,
    headers: &'a FieldTable,
}

impl Walk<'_> {
    fn queue(&self, name: &QueueName, key: &str, deaths: &[Death]) -> Option<QueueRoute> {
        let queue = self.view.queues.get(name.as_str())?;
        let gives_up = reasons(queue)
            .into_iter()
            .map(|(reason, when)| GivesUp {
                reason,
                when,
                fate: self.fate(queue, key, reason, deaths),
            })
            .collect();
        Some(QueueRoute {
            queue: name.as_str().to_owned(),
            queue_type: queue.queue_type.to_string(),
            message_ttl_ms: queue.effective.message_ttl_ms(),
            gives_up,
        })
    }

    fn fate(&self, queue: &ViewQueue, key: &str, reason: &'static str, deaths: &[Death]) -> Fate {
        let effective = &queue.effective;
        let Some(exchange) = effective.dead_letter_exchange() else { return Fate::Dropped };
        let key = effective.dead_letter_routing_key().unwrap_or(key);
        let lost = || Fate::Lost { exchange: exchange.to_owned(), routing_key: key.to_owned() };
        let (Ok(exchange_name), Ok(routing_key)) =
            (ExchangeName::new(exchange), RoutingKey::new(key))
        else {
            return lost();
        };
        if deaths.len() >= MAX_DEPTH {
            return Fate::NotFollowed;
        }
        let mut deaths = deaths.to_vec();
        deaths.push(Death { queue: queue.definition.name.as_str().to_owned(), reason });
        let targets: Vec<&ViewQueue> = self
            .routing
            .targets(&exchange_name, key, self.headers, &[])
            .into_iter()
            .filter_map(|index| self.view.queues.values().nth(index))
            .collect();
        if targets.is_empty() {
            return lost();
        }
        // RabbitMQ drops a message on its way into a queue it died in before, unless a consumer
        // rejected it since.
        let mut looping = None;
        let mut next = Vec::new();
        for target in targets {
            let name = target.definition.name.as_str();
            match deaths.iter().rposition(|death| death.queue == name) {
                Some(at) => {
                    let rejected = deaths[at..].iter().any(|death| death.reason == "rejected");
                    looping = Some(if rejected {
                        Fate::GoesRound { queue: name.to_owned() }
                    } else {
                        Fate::DroppedInLoop { queue: name.to_owned() }
                    });
                }
                None => next.push(&target.definition.name),
            }
        }
        if next.is_empty()
            && let Some(fate) = looping
        {
            return fate;
        }
        // Dead letters enter internal exchanges too, so the way is asked of the exchange itself.
        let routed = self.routing.route(&exchange_name, &routing_key, self.headers, &[]);
        Fate::DeadLettered {
            exchange: exchange.to_owned(),
            routing_key: key.to_owned(),
            queues: next.into_iter().filter_map(|name| self.queue(name, key, &deaths)).collect(),
            steps: steps(self.view, &routed)
                .into_iter()
                .filter(|step| !matches!(step, RouteStep::InternalExchange { .. }))
                .collect(),
            at_least_once: effective.dead_letter_strategy() == DeadLetterStrategy::AtLeastOnce,
        }
    }
}

/// For what reasons a queue gives messages up, and when.
fn reasons(queue: &ViewQueue) -> Vec<(&'static str, String)> {
    let effective = &queue.effective;
    if queue.queue_type == QueueType::Stream {
        return Vec::new();
    }
    let mut reasons = vec![("rejected", "when a consumer rejects it without requeue".to_owned())];
    if let Some(ms) = effective.message_ttl_ms() {
        reasons.push(("expired", format!("after {ms} ms in the queue")));
    }
    let full = match (effective.max_length(), effective.max_length_bytes()) {
        (Some(count), Some(bytes)) => Some(format!("{count} messages or {bytes} bytes")),
        (Some(count), None) => Some(format!("{count} messages")),
        (None, Some(bytes)) => Some(format!("{bytes} bytes")),
        (None, None) => None,
    };
    if let Some(full) = full {
        match effective.overflow() {
            Overflow::DropHead => {
                reasons
                    .push(("maxlen", format!("when it is the oldest and more than {full} wait")));
            }
            Overflow::RejectPublishDlx => reasons.push((
                "maxlen",
                format!("when it arrives and {full} wait; its publisher gets a nack"),
            )),
            Overflow::RejectPublish => {}
        }
    }
    if queue.queue_type == QueueType::Quorum
        && let Some(limit) = effective.delivery_limit()
    {
        reasons.push(("delivery_limit", format!("after it came back {limit} times and once more")));
    }
    reasons
}

impl RouteReport {
    /// Every queue that the message can ever reach, dead-letter paths included.
    pub fn all_queues(&self) -> BTreeSet<&str> {
        fn collect<'a>(routes: &'a [QueueRoute], into: &mut BTreeSet<&'a str>) {
            for route in routes {
                into.insert(&route.queue);
                for gives_up in &route.gives_up {
                    if let Fate::DeadLettered { queues, .. } = &gives_up.fate {
                        collect(queues, into);
                    }
                }
            }
        }
        let mut all = BTreeSet::new();
        collect(&self.queues, &mut all);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::expand::testing::topology;
    use super::*;
    use crate::broker::version::Version;

    fn through(
        yaml: &str,
        exchange: &str,
        key: &str,
        headers: &[(&str, FieldValue)],
    ) -> RouteReport {
        let view = TopologyView::of_topology(&topology(yaml), Version::new(4, 0, 5));
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect();
        route(
            &view,
            &ExchangeName::new(exchange).unwrap(),
            &RoutingKey::new(key).unwrap(),
            &headers,
        )
    }

    fn names(report: &RouteReport) -> Vec<&str> {
        report.queues.iter().map(|q| q.queue.as_str()).collect()
    }

    const FILE: &str = "exchanges:\n  in: {type: topic, alternateExchange: rest}\n  rest: {type: fanout}\n  h: {type: headers}\n  deep: {type: direct, internal: true}\nqueues:\n  orders: {bind: [{from: in, key: order.#}, {from: in, key: '*.eu'}], deadLetter: true}\n  other: {bind: [{from: rest}]}\n  gold: {bind: [{from: h, headers: {tier: gold}}]}\n";

    #[test]
    fn a_message_is_followed_through_bindings_and_alternates() {
        let hit = through(FILE, "in", "order.eu", &[]);
        assert_eq!(names(&hit), ["orders"]);
        assert_eq!(hit.steps.len(), 2, "both bindings match: {:?}", hit.steps);
        assert!(hit.notes.is_empty());
        let rest = through(FILE, "in", "x.y", &[]);
        assert_eq!(names(&rest), ["other"]);
        assert_eq!(
            rest.steps[0],
            RouteStep::Alternate {
                exchange: "in".into(),
                alternate: "rest".into(),
                source: "argument".into()
            }
        );
        assert_eq!(rest.notes.len(), 1);
        assert_eq!(names(&through(FILE, "h", "", &[("tier", "gold".into())])), ["gold"]);
        assert!(through(FILE, "h", "", &[("tier", "tin".into())]).unroutable);
        assert_eq!(names(&through(FILE, "", "other", &[])), ["other"]);
        let copies = FieldValue::Array(vec!["order.x".into()]);
        assert_eq!(names(&through(FILE, "in", "a.eu", &[("CC", copies)])), ["orders"]);
        assert!(through(FILE, "in", "a", &[("CC", "text".into())]).refused.is_some());
    }

    #[test]
    fn a_publish_that_the_broker_refuses_says_why() {
        let missing = through(FILE, "nope", "k", &[]);
        assert!(missing.refused.is_some_and(|why| why.contains("404")));
        let internal = through(FILE, "deep", "k", &[]);
        assert!(internal.refused.is_some_and(|why| why.contains("403")));
        let unknown = through("exchanges: {e: {external: true}}\n", "e", "k", &[]);
        assert!(unknown.notes[0].contains("somebody else's"));
    }

    #[test]
    fn dead_letters_are_followed_by_reason() {
        let report = through(
            "queues:\n  q: {type: classic, messageTtl: 5s, maxLength: 3, deadLetter: true}\n",
            "",
            "q",
            &[],
        );
        let q = &report.queues[0];
        let reasons: Vec<&str> = q.gives_up.iter().map(|g| g.reason).collect();
        assert_eq!(reasons, ["rejected", "expired", "maxlen"]);
        assert_eq!(q.message_ttl_ms, Some(5000));
        let Fate::DeadLettered { exchange, routing_key, queues, .. } = &q.gives_up[0].fate else {
            panic!("{:?}", q.gives_up[0].fate)
        };
        assert_eq!((exchange.as_str(), routing_key.as_str()), ("dead_letter", "q"));
        assert_eq!(queues[0].queue, "dead.q");
        assert_eq!(queues[0].gives_up[0].fate, Fate::Dropped);
        assert_eq!(report.all_queues().into_iter().collect::<Vec<_>>(), ["dead.q", "q"]);
    }

    #[test]
    fn loops_end_as_the_broker_ends_them() {
        let lost =
            through("queues: {q: {deadLetter: {exchange: '', routingKey: no}}}\n", "", "q", &[]);
        assert_eq!(
            lost.queues[0].gives_up[0].fate,
            Fate::Lost { exchange: String::new(), routing_key: "no".into() }
        );
        let own = through(
            "queues: {q: {type: classic, messageTtl: 1s, deadLetter: {exchange: '', routingKey: q}}}\n",
            "",
            "q",
            &[],
        );
        let fates: Vec<&Fate> = own.queues[0].gives_up.iter().map(|g| &g.fate).collect();
        assert_eq!(
            fates,
            [&Fate::GoesRound { queue: "q".into() }, &Fate::DroppedInLoop { queue: "q".into() }]
        );
    }

    #[test]
    fn a_report_is_json_with_its_steps_named() {
        let json = serde_json::to_value(through(FILE, "in", "x.y", &[])).unwrap();
        assert_eq!(json["steps"][0]["step"], "alternate");
        assert_eq!(json["queues"][0]["givesUp"][0]["fate"]["fate"], "dropped");
        assert_eq!(json["routingKey"], "x.y");
    }
}
