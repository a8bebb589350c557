//! What `journal` stands for: one stream, bound so that it gets a copy of what the exchanges take.

use std::collections::BTreeSet;

use crate::base::diagnostic::Diagnostic;
use crate::base::document::Spanned;
use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::definition::{
    BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, QueueDefinition, QueueType,
};
use crate::message::FieldTable;
use crate::topology::model::{Desired, Origin};
use crate::topology::spec::{JournalParameters, JournalSpec};

use super::builder::Builder;
use super::settings::age;
use super::{
    DEAD_LETTER_EXCHANGE, INCOMPLETE, JOURNAL, MADE_BY_JOURNAL, RETRY_EXCHANGE, exchange_object,
};

/// Streams forget by whole files; with RabbitMQ's own 500 MB a smaller journal would forget nothing.
const SEGMENT_BYTES: i64 = 64 << 20;

impl Builder {
    /// Makes the journal and its bindings.
    pub(super) fn journal(&mut self, said: &Spanned<JournalSpec>) {
        let none = JournalParameters::default();
        let parameters = match &said.value {
            JournalSpec::On(false) => return,
            JournalSpec::On(true) => &none,
            JournalSpec::Of(parameters) => parameters,
        };
        if !self.once("the journal", said.span.as_ref()) {
            return;
        }
        let Ok(name) = QueueName::new(JOURNAL) else { return };
        let origin =
            Origin { span: said.span.clone(), expanded_from: Some(MADE_BY_JOURNAL.to_owned()) };
        let bytes = parameters.max_bytes.as_ref().map_or(1 << 30, |bytes| bytes.value.0);
        let mut stream = QueueDefinition::durable(name.clone(), QueueType::Stream);
        let kept = parameters.max_age.as_ref().map_or("7D".to_owned(), |text| age(text));
        stream.arguments.insert("x-max-age", kept);
        stream.arguments.insert("x-max-length-bytes", i64::try_from(bytes).unwrap_or(i64::MAX));
        stream.arguments.insert("x-stream-max-segment-size-bytes", SEGMENT_BYTES);
        self.made(stream, &origin);
        for binding in self.copies(&name, parameters, &origin) {
            self.made(binding, &origin);
        }
    }

    /// Bindings that lead a copy of everything to the stream, as far as there are such.
    fn copies(
        &mut self,
        stream: &QueueName,
        parameters: &JournalParameters,
        origin: &Origin,
    ) -> Vec<BindingDefinition> {
        let external = &self.topology.external.exchanges;
        let declared: Vec<&Desired<ExchangeDefinition>> = self.topology.exchanges.iter().collect();
        let find = |name: &ExchangeName| {
            let all = declared.iter().copied().chain(external);
            all.into_iter().find(|e| e.definition.name == *name).map(|e| &e.definition)
        };
        let wanted: Vec<(ExchangeName, Option<ExchangeKind>, Origin)> =
            if parameters.exchanges.is_empty() {
                let carried = |definition: &ExchangeDefinition| {
                    !definition.internal
                        && ![DEAD_LETTER_EXCHANGE, RETRY_EXCHANGE]
                            .contains(&definition.name.as_str())
                };
                declared
                    .iter()
                    .filter(|exchange| carried(&exchange.definition))
                    .map(|exchange| {
                        let ExchangeDefinition { name, kind, .. } = &exchange.definition;
                        (name.clone(), Some(kind.clone()), origin.clone())
                    })
                    .collect()
            } else {
                let place = |name: &Spanned<ExchangeName>| Origin {
                    span: name.span.clone().or_else(|| origin.span.clone()),
                    ..origin.clone()
                };
                let names = parameters.exchanges.iter();
                names
                    .map(|name| {
                        let kind = find(&name.value).map(|exchange| exchange.kind.clone());
                        (name.value.clone(), kind, place(name))
                    })
                    .collect()
            };
        let mut bindings = Vec::new();
        for (source, kind, place) in wanted {
            let keys: BTreeSet<String> = match kind {
                Some(ExchangeKind::Topic) => ["#".to_owned()].into(),
                Some(ExchangeKind::Direct) => self
                    .topology
                    .bindings
                    .iter()
                    .filter(|binding| binding.definition.source == source)
                    .map(|binding| binding.definition.routing_key.as_str().to_owned())
                    .collect(),
                // Of an exchange that nobody declares the lint speaks; without headers to compare, all
                // of them match.
                Some(ExchangeKind::Fanout | ExchangeKind::Headers) | None => [String::new()].into(),
                Some(ExchangeKind::Other(kind)) if !parameters.exchanges.is_empty() => {
                    let object = exchange_object(source.as_str());
                    let what = if kind.is_empty() {
                        "no type".to_owned()
                    } else {
                        format!("the type `{kind}`")
                    };
                    self.findings.push(
                        Diagnostic::error(
                            INCOMPLETE,
                            format!("{object} has {what}, so the journal cannot be bound to it"),
                        )
                        .at(place.span.clone())
                        .hint(
                            "say direct, topic, fanout or headers, or take it out of the journal",
                        ),
                    );
                    continue;
                }
                Some(ExchangeKind::Other(_)) => continue,
            };
            for key in keys {
                let Ok(routing_key) = RoutingKey::new(key) else { continue };
                bindings.push(BindingDefinition {
                    source: source.clone(),
                    destination: Destination::Queue(stream.clone()),
                    routing_key,
                    arguments: FieldTable::new(),
                });
            }
        }
        bindings
    }
}
