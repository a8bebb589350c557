//! What `deadLetter` and `retry` stand for.

use crate::base::diagnostic::Diagnostic;
use crate::base::document::Spanned;
use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, QueueDefinition, QueueType,
};
use crate::message::FieldTable;
use crate::topology::model::Origin;
use crate::topology::spec::{
    DeadLetterRoute, DeadLetterSpec, QueueKind, QueueSpec, RetrySpec, TopologySpec,
};

use super::builder::Builder;
use super::{
    DEAD_LETTER_EXCHANGE, DUPLICATE, INCOMPLETE, INVALID_NAME, LOOKS_WITHOUT_LOSS, RETRY_EXCHANGE,
    queue_object,
};

impl Builder {
    /// What sugar stands for, after everything that is written out.
    pub(super) fn sugar(&mut self, spec: &TopologySpec) {
        let defaults = spec.defaults.clone().unwrap_or_default();
        for (name, said) in &spec.queues {
            let Ok(queue) = QueueName::new(name.value.clone()) else { continue };
            if said.external {
                continue;
            }
            let kind = said.r#type.as_ref().map_or(defaults.r#type, |kind| kind.value);
            let dead_letter = said.dead_letter.as_ref();
            let from = Origin {
                span: dead_letter.and_then(|d| d.span.clone()).or_else(|| name.span.clone()),
                expanded_from: Some(format!("deadLetter of queue {name}")),
            };
            match dead_letter.map(|d| &d.value) {
                Some(DeadLetterSpec::Own(true)) => self.own_dead_letters(&queue, kind, None, &from),
                Some(DeadLetterSpec::To(route)) if route.queue.is_some() => {
                    self.own_dead_letters(&queue, kind, Some(route), &from);
                }
                None if defaults.dead_letter
                    && kind != QueueKind::Stream
                    && said.arguments.get("x-dead-letter-exchange").is_none() =>
                {
                    self.own_dead_letters(&queue, kind, None, &from);
                }
                _ => {}
            }
            if let Some(retry) = &said.retry {
                self.retry(&queue, said, kind, retry);
            }
        }
    }

    pub(super) fn own_dead_letters(
        &mut self,
        queue: &QueueName,
        kind: QueueKind,
        route: Option<&DeadLetterRoute>,
        origin: &Origin,
    ) {
        let exchange = route
            .and_then(|r| r.exchange.as_ref())
            .map_or_else(dead_letter_exchange, |exchange| exchange.value.clone());
        let target = match route.and_then(|r| r.queue.as_ref()) {
            Some(target) => target.value.clone(),
            None => match QueueName::new(format!("dead.{queue}")) {
                Ok(target) => target,
                Err(error) => {
                    self.findings.push(
                        Diagnostic::error(INVALID_NAME, format!("`dead.{queue}`: {error}"))
                            .at(origin.span.clone())
                            .hint("name the dead-letter queue: deadLetter: {queue: …}"),
                    );
                    return;
                }
            },
        };
        let key = route
            .and_then(|r| r.routing_key.as_ref())
            .map_or_else(|| queue.as_routing_key(), |key| key.value.clone());
        if exchange.as_str() == DEAD_LETTER_EXCHANGE {
            self.made(ExchangeDefinition::durable(exchange.clone(), ExchangeKind::Direct), origin);
        }
        let queue_type =
            if kind == QueueKind::Classic { QueueType::Classic } else { QueueType::Quorum };
        let mut collector = QueueDefinition::durable(target.clone(), queue_type);
        if queue_type == QueueType::Quorum {
            collector.arguments.insert("x-delivery-limit", LOOKS_WITHOUT_LOSS);
        }
        self.made(collector, origin);
        if !exchange.is_default() {
            self.made(
                BindingDefinition {
                    source: exchange,
                    destination: Destination::Queue(target),
                    routing_key: key,
                    arguments: FieldTable::new(),
                },
                origin,
            );
        }
    }

    pub(super) fn retry(
        &mut self,
        queue: &QueueName,
        said: &QueueSpec,
        kind: QueueKind,
        retry: &Spanned<RetrySpec>,
    ) {
        let origin = Origin {
            span: retry.span.clone(),
            expanded_from: Some(format!("retry of queue {queue}")),
        };
        if kind == QueueKind::Stream {
            self.findings.push(
                Diagnostic::error(
                    INCOMPLETE,
                    format!("{} is a stream and cannot retry", queue_object(queue.as_str())),
                )
                .at(retry.span.clone())
                .hint("a stream keeps its messages: read them again by offset"),
            );
            return;
        }
        if retry.delays.is_empty() {
            self.findings.push(
                Diagnostic::error(INCOMPLETE, "`retry` needs at least one delay")
                    .at(retry.span.clone())
                    .hint("such as `delays: [10s, 1m, 10m]`"),
            );
        }
        let exchange = match &retry.exchange {
            Some(exchange) => exchange.value.clone(),
            None => retry_exchange(),
        };
        self.made(ExchangeDefinition::durable(exchange.clone(), ExchangeKind::Direct), &origin);
        for (index, delay) in retry.delays.iter().enumerate() {
            let origin = Origin {
                span: delay.span.clone().or_else(|| origin.span.clone()),
                ..origin.clone()
            };
            if retry.delays[..index].contains(delay) {
                self.findings.push(
                    Diagnostic::error(DUPLICATE, format!("the delay {delay} stands here twice"))
                        .at(delay.span.clone()),
                );
                continue;
            }
            let names = QueueName::new(format!("retry.{queue}.{delay}"))
                .and_then(|name| Ok((name, RoutingKey::new(format!("{queue}.{}", index + 1))?)));
            let (name, routing_key) = match names {
                Ok(names) => names,
                Err(error) => {
                    self.findings.push(
                        Diagnostic::error(
                            INVALID_NAME,
                            format!("`retry.{queue}.{delay}`: {error}"),
                        )
                        .at(origin.span.clone()),
                    );
                    continue;
                }
            };
            let mut definition = QueueDefinition {
                name: name.clone(),
                durable: said.durable.unwrap_or(true),
                exclusive: false,
                auto_delete: false,
                arguments: FieldTable::new()
                    .with("x-message-ttl", i64::try_from(delay.as_ms()).unwrap_or(i64::MAX))
                    .with("x-dead-letter-exchange", "")
                    .with("x-dead-letter-routing-key", queue.as_str()),
            };
            if kind != QueueKind::Default {
                definition.arguments.insert("x-queue-type", kind.as_str());
            }
            self.made(definition, &origin);
            self.made(
                BindingDefinition {
                    source: exchange.clone(),
                    destination: Destination::Queue(name),
                    routing_key,
                    arguments: FieldTable::new(),
                },
                &origin,
            );
        }
    }
}

fn dead_letter_exchange() -> ExchangeName {
    ExchangeName::new(DEAD_LETTER_EXCHANGE).expect("a short text without line breaks is a name")
}

fn retry_exchange() -> ExchangeName {
    ExchangeName::new(RETRY_EXCHANGE).expect("a short text without line breaks is a name")
}
