//! The preset of agents.

use std::collections::BTreeMap;

use crate::base::diagnostic::{Diagnostic, Span};
use crate::base::document::Spanned;
use crate::base::id::{ExchangeName, NameError, QueueName, RoutingKey};
use crate::base::time::HumanDuration;
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, QueueDefinition, QueueType,
};
use crate::message::FieldTable;
use crate::topology::model::{MessageType, Origin};
use crate::topology::spec::{AgentsSpec, QueueKind};

use super::builder::Builder;
use super::{DEAD_LETTER_EXCHANGE, DUPLICATE, INVALID_NAME, queue_object};

impl Builder {
    pub(super) fn agents(&mut self, agents: &AgentsSpec) {
        let origin = |span: Option<&Span>| Origin {
            span: span.cloned(),
            expanded_from: Some("preset agents".to_owned()),
        };
        let nowhere = origin(None);
        let exchanges = [
            ("nexus.agents", ExchangeKind::Direct),
            ("nexus.commands", ExchangeKind::Topic),
            ("nexus.events", ExchangeKind::Topic),
            ("nexus.tools", ExchangeKind::Topic),
            (DEAD_LETTER_EXCHANGE, ExchangeKind::Direct),
        ];
        for (name, kind) in exchanges {
            if let Ok(name) = ExchangeName::new(name) {
                self.made(ExchangeDefinition::durable(name, kind), &nowhere);
            }
        }
        for (prefix, exchange, suffix, ids) in [
            ("agent", "nexus.agents", "", &agents.ids),
            ("command", "nexus.commands", ".#", &agents.commands),
            ("tool", "nexus.tools", ".#", &agents.tools),
        ] {
            for (index, id) in ids.iter().enumerate() {
                let origin = origin(id.span.as_ref());
                if ids[..index].contains(id) {
                    self.findings.push(
                        Diagnostic::error(DUPLICATE, format!("`{id}` stands here twice"))
                            .at(id.span.clone()),
                    );
                    continue;
                }
                self.agent_queue(prefix, exchange, suffix, id, &origin);
            }
        }
        let minutes = |n: u64| HumanDuration::from_ms(n * 60_000);
        let own = [
            ("command", minutes(60)),
            ("event", minutes(24 * 60)),
            ("request", minutes(5)),
            ("response", minutes(5)),
        ];
        let said = agents.ttl.iter().map(|(name, ttl)| (name.value.as_str(), *ttl));
        let mut ttls: BTreeMap<&str, HumanDuration> = own.into_iter().collect();
        ttls.extend(said);
        for (name, ttl) in ttls {
            self.topology.message_types.entry(name.to_owned()).or_insert(MessageType {
                ttl: Some(ttl),
                priority: None,
                persistent: Some(true),
            });
        }
    }

    fn agent_queue(
        &mut self,
        prefix: &str,
        exchange: &str,
        suffix: &str,
        id: &Spanned<String>,
        origin: &Origin,
    ) {
        if id.value.is_empty() || (!suffix.is_empty() && id.value.contains(['#', '*'])) {
            self.findings.push(
                Diagnostic::error(INVALID_NAME, format!("`{}` cannot name {prefix}s", id.value))
                    .at(id.span.clone())
                    .hint("use letters, digits, `-`, `_` and dots"),
            );
            return;
        }
        let made = || {
            let queue = QueueName::new(format!("{prefix}.{}", id.value))?;
            let key = RoutingKey::new(format!("{}{suffix}", id.value))?;
            Ok::<_, NameError>((queue, ExchangeName::new(exchange)?, key))
        };
        let (queue, source, routing_key) = match made() {
            Ok(made) => made,
            Err(error) => {
                self.findings
                    .push(Diagnostic::error(INVALID_NAME, error.to_string()).at(id.span.clone()));
                return;
            }
        };
        let written = self.seen.contains_key(&queue_object(queue.as_str()));
        let mut definition = QueueDefinition::durable(queue.clone(), QueueType::Quorum);
        definition.arguments.insert("x-dead-letter-exchange", DEAD_LETTER_EXCHANGE);
        definition.arguments.insert("x-dead-letter-routing-key", queue.as_str());
        self.made(definition, origin);
        self.made(
            BindingDefinition {
                source,
                destination: Destination::Queue(queue.clone()),
                routing_key,
                arguments: FieldTable::new(),
            },
            origin,
        );
        if !written {
            self.own_dead_letters(&queue, QueueKind::Quorum, None, origin);
        }
    }
}
