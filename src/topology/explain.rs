//! `explain queue NAME`: every effective value with its source, and what will surprise you. Pure.

use serde::Serialize;
use serde_json::Value as Json;

use crate::base::suggest::nearest;
use crate::broker::arguments::{
    QUEUE_ARGUMENTS, check_queue_arguments, json_of_field, queue_argument,
};
use crate::broker::definition::{Destination, QueueType};
use crate::broker::effective::{DeadLetterStrategy, Overflow, Setting, Source};
use crate::broker::version::{Product, Version};

use super::view::{TopologyView, ViewQueue};

/// Everything about one queue.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueExplanation {
    /// Its name.
    pub queue: String,
    /// The version whose rules these are; of the embedded broker, the RabbitMQ that it imitates.
    pub version: Version,
    /// The broker that was looked at, `rabbitmq` or `embedded`; null for files.
    pub broker: Option<Product>,
    /// Its type and who says so.
    pub queue_type: ExplainedSetting,
    /// Whether it survives a restart of the broker.
    pub durable: bool,
    /// Whether it belongs to one connection.
    pub exclusive: bool,
    /// Whether it goes away with its last consumer.
    pub auto_delete: bool,
    /// The policy that applies.
    pub policy: Option<String>,
    /// The operator policy that applies.
    pub operator_policy: Option<String>,
    /// Every setting that has a value, by name.
    pub settings: Vec<ExplainedSetting>,
    /// Arguments that the broker stores and never looks at.
    pub unused_arguments: Vec<ExplainedSetting>,
    /// Policies that match and do not apply, each with the reason.
    pub losing_policies: Vec<String>,
    /// What leads to it.
    pub bindings: Vec<String>,
    /// Queues whose dead letters it collects.
    pub collects_from: Vec<String>,
    /// Messages in it, when counted.
    pub messages: Option<u64>,
    /// What will surprise you.
    pub notes: Vec<String>,
}

/// One value and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedSetting {
    /// Its name without `x-`: `message-ttl`.
    pub name: String,
    /// The value.
    pub value: Json,
    /// ``argument``, ``policy `limits` ``, ``broker default``.
    pub source: String,
    /// What lost against it, `5 (argument)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<String>,
    /// What the setting does.
    pub summary: &'static str,
}

/// There is no such queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no queue `{name}`")]
pub struct NoSuchQueue {
    /// The name that was asked for.
    pub name: String,
    /// The nearest that exists.
    pub meant: Option<String>,
}

fn explained(name: &str, setting: &Setting) -> ExplainedSetting {
    ExplainedSetting {
        name: name.to_owned(),
        value: json_of_field(&setting.value),
        source: setting.source.to_string(),
        over: setting
            .overrides
            .iter()
            .map(|loser| format!("{} ({})", json_of_field(&loser.value), loser.source))
            .collect(),
        summary: QUEUE_ARGUMENTS
            .iter()
            .find(|argument| argument.setting() == name)
            .map_or("", |argument| argument.summary),
    }
}

/// Explains the queue called `name`.
///
/// # Errors
/// There is none; says which name is near.
pub fn explain_queue(view: &TopologyView, name: &str) -> Result<QueueExplanation, NoSuchQueue> {
    let Some(queue) = view.queues.get(name) else {
        return Err(NoSuchQueue {
            name: name.to_owned(),
            meant: nearest(name, view.queues.keys().map(String::as_str)).map(str::to_owned),
        });
    };
    let definition = &queue.definition;
    let effective = &queue.effective;
    let routing = view.routing();
    let collects_from: Vec<String> = view
        .queues
        .iter()
        .filter(|(other, from)| {
            other.as_str() != name
                && view
                    .dead_letter_targets(&routing, from, &[other.as_str()])
                    .is_some_and(|targets| targets.iter().any(|target| target.as_str() == name))
        })
        .map(|(other, _)| other.clone())
        .collect();
    let unused_arguments = definition
        .arguments
        .iter()
        .filter(|(argument, _)| {
            queue_argument(argument)
                .is_none_or(|known| !known.support(queue.queue_type).includes(view.version))
        })
        .map(|(argument, value)| ExplainedSetting {
            name: argument.to_owned(),
            value: json_of_field(value),
            source: Source::Argument.to_string(),
            over: Vec::new(),
            summary: "stored, and never looked at",
        })
        .collect();
    let skipped = effective.skipped.iter().map(|skipped| {
        let kind = if skipped.operator { "operator policy" } else { "policy" };
        format!(
            "{kind} `{}` is skipped: {} queues do not know {}",
            skipped.name,
            queue.queue_type,
            skipped.keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
        )
    });
    let outranked = effective
        .outranked
        .iter()
        .map(|loser| format!("policy `{loser}` has a lower priority, and only one applies"));
    Ok(QueueExplanation {
        queue: name.to_owned(),
        version: view.version,
        broker: view.product,
        queue_type: ExplainedSetting {
            name: "type".to_owned(),
            value: queue.queue_type.as_str().into(),
            source: queue.type_source.to_string(),
            over: Vec::new(),
            summary: "how the queue stores and replicates",
        },
        durable: definition.durable,
        exclusive: definition.exclusive,
        auto_delete: definition.auto_delete,
        policy: effective.policy.as_ref().map(ToString::to_string),
        operator_policy: effective.operator_policy.as_ref().map(ToString::to_string),
        settings: effective
            .settings
            .iter()
            .map(|(name, setting)| explained(name, setting))
            .collect(),
        unused_arguments,
        losing_policies: skipped.chain(outranked).collect(),
        bindings: view
            .bindings
            .iter()
            .filter(|binding| binding.destination == Destination::Queue(definition.name.clone()))
            .map(|binding| format!("{} by `{}`", binding.source.in_words(), binding.routing_key))
            .collect(),
        messages: queue.messages,
        notes: notes(view, queue, &collects_from),
        collects_from,
    })
}

/// What will surprise you.
fn notes(view: &TopologyView, queue: &ViewQueue, collects_from: &[String]) -> Vec<String> {
    let effective = &queue.effective;
    let mut notes = Vec::new();
    for ambiguity in &effective.ambiguities {
        let names: Vec<String> = ambiguity.names.iter().map(|name| format!("`{name}`")).collect();
        notes.push(format!(
            "policies {} share the priority {}: which one applies is chance, and the values here are a guess",
            names.join(", "),
            ambiguity.priority
        ));
    }
    if effective.dead_letter_exchange().is_none() && queue.queue_type != QueueType::Stream {
        notes.push("there is no dead-letter exchange: a rejected message is gone".to_owned());
    }
    if let Some(exchange) = effective.dead_letter_exchange()
        && !view.has_exchange(exchange)
    {
        notes.push(format!(
            "the dead-letter exchange `{exchange}` does not exist: dead letters vanish"
        ));
    }
    match (queue.queue_type, effective.delivery_limit()) {
        (QueueType::Quorum, Some(limit)) => {
            let fate = if effective.dead_letter_exchange().is_some() {
                "dead-lettered"
            } else {
                "dropped"
            };
            notes.push(format!(
                "a message is {fate} after {limit} returns; looking at it without acknowledging costs one"
            ));
        }
        (QueueType::Quorum, None) if view.version.major >= 4 => notes.push(
            "without a delivery limit a returned message goes to the end of the queue".to_owned(),
        ),
        _ => {}
    }
    if effective.setting("dead-letter-strategy").and_then(|s| s.value.as_text())
        == Some("at-least-once")
        && effective.dead_letter_strategy() == DeadLetterStrategy::AtMostOnce
    {
        notes.push(
            "at-least-once is asked for and not given: it needs a dead-letter exchange and `overflow: reject-publish`".to_owned(),
        );
    }
    let bounded = effective.max_length().is_some() || effective.max_length_bytes().is_some();
    if bounded && queue.queue_type != QueueType::Stream {
        match effective.overflow() {
            Overflow::DropHead => notes.push(
                "when it is full the oldest message goes; messages held by a consumer are the first to go when they come back".to_owned(),
            ),
            Overflow::RejectPublish if queue.queue_type == QueueType::Quorum => notes.push(
                "a quorum queue keeps to its maximum only roughly: a burst may be taken far beyond it".to_owned(),
            ),
            Overflow::RejectPublish | Overflow::RejectPublishDlx => notes.push(
                "when it is full, a publish to several queues is nacked although the others keep the message".to_owned(),
            ),
        }
    }
    if effective.message_ttl_ms().is_some() {
        notes.push(
            "an expired message stays counted until it reaches the head; one that expires while a consumer holds it is gone when it comes back".to_owned(),
        );
    }
    if effective.expires_ms().is_some() {
        notes.push(
            "when nobody uses it the queue goes away with its messages; they are not dead-lettered"
                .to_owned(),
        );
    }
    if !collects_from.is_empty() {
        let from: Vec<String> = collects_from.iter().map(|name| format!("`{name}`")).collect();
        notes.push(format!("it collects the dead letters of {}", from.join(", ")));
    }
    let problems = check_queue_arguments(&queue.definition, queue.queue_type, view.version);
    notes.extend(problems.into_iter().map(|problem| problem.message));
    if !queue.definition.durable {
        notes.push("it does not survive a restart of the broker".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::expand::testing::topology;
    use super::*;

    const FILE: &str = "queues:\n  q:\n    type: quorum\n    maxLength: 9\n    deadLetter: true\n    arguments: {x-odd: 1}\n    bind: [{from: amq.topic, key: a.#}]\npolicies:\n  limits: {pattern: ^q$, applyTo: queues, priority: 2, definition: {maxLength: 5, messageTtl: 1m}}\n  wrong: {pattern: ^q$, applyTo: queues, priority: 9, definition: {max-age: 1D}}\n  low: {pattern: ^q$, applyTo: queues, definition: {expires: 1h}}\noperatorPolicies:\n  cap: {pattern: .*, applyTo: queues, definition: {maxLength: 3}}\n";

    #[test]
    fn every_value_has_its_source_and_what_lost() {
        let view = TopologyView::of_topology(&topology(FILE), Version::new(4, 0, 5));
        let explained = explain_queue(&view, "q").unwrap();
        let shown: Vec<String> = explained
            .settings
            .iter()
            .map(|s| format!("{} = {} ({}) over {:?}", s.name, s.value, s.source, s.over))
            .collect();
        assert_eq!(
            shown,
            [
                "dead-letter-exchange = \"dead_letter\" (argument) over []",
                "dead-letter-routing-key = \"q\" (argument) over []",
                "delivery-limit = 20 (broker default) over []",
                "max-length = 3 (operator policy `cap`) over [\"9 (argument)\", \"5 (policy `limits`)\"]",
                "message-ttl = 60000 (policy `limits`) over []",
            ]
        );
        assert_eq!(explained.unused_arguments[0].name, "x-odd");
        assert_eq!(
            explained.losing_policies,
            [
                "policy `wrong` is skipped: quorum queues do not know `max-age`",
                "policy `low` has a lower priority, and only one applies"
            ]
        );
        assert_eq!(explained.bindings, ["exchange `amq.topic` by `a.#`"]);
        assert!(explained.notes.iter().any(|n| n.contains("dead-lettered after 20 returns")));
        assert!(explained.notes.iter().any(|n| n.contains("the oldest message goes")));
        let dead = explain_queue(&view, "dead.q").unwrap();
        assert_eq!(dead.collects_from, ["q"]);
        assert!(dead.notes.iter().any(|n| n.contains("dropped after 1000000 returns")));
    }

    #[test]
    fn a_queue_that_is_not_there_has_a_near_name() {
        let view =
            TopologyView::of_topology(&topology("queues: {orders: {}}\n"), Version::new(4, 0, 5));
        let error = explain_queue(&view, "ordres").unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.meant.as_deref()),
            ("there is no queue `ordres`", Some("orders"))
        );
    }
}
