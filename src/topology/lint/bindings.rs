//! Where bindings and alternate exchanges lead, and what nothing leads to.

use std::collections::BTreeSet;

use crate::base::diagnostic::Diagnostic;
use crate::base::suggest::nearest;
use crate::broker::arguments::check_binding;
use crate::broker::definition::Destination;
use crate::topology::expand::{exchange_object, queue_object};
use crate::topology::model::Origin;

use super::codes::{
    ALTERNATE_CYCLE, DEAD_END, DEFAULT_EXCHANGE_BINDING, TRANSIENT_EXCHANGE, UNBOUND_QUEUE,
    UNKNOWN_ALTERNATE, UNKNOWN_EXCHANGE, UNKNOWN_QUEUE, UNREACHABLE_EXCHANGE,
};
use super::{Lint, at};

impl Lint<'_> {
    pub(super) fn bindings(&mut self) {
        let topology = self.topology;
        for binding in &topology.bindings {
            let definition = &binding.definition;
            let to_default =
                matches!(&definition.destination, Destination::Exchange(e) if e.is_default());
            if definition.source.is_default() || to_default {
                self.push(at(
                    &binding.origin,
                    None,
                    Diagnostic::error(
                        DEFAULT_EXCHANGE_BINDING,
                        "the default exchange cannot be bound: it leads to every queue by its name",
                    )
                    .hint("publish to it with the queue's name as key, or bind another exchange"),
                ));
                continue;
            }
            let source = definition.source.as_str();
            self.known_exchange(source, &binding.origin);
            match &definition.destination {
                Destination::Exchange(exchange) => {
                    self.known_exchange(exchange.as_str(), &binding.origin);
                }
                Destination::Queue(queue) if self.queue(queue.as_str()).is_none() => {
                    let known = self.view.queues.keys().map(String::as_str);
                    let hint = match nearest(queue.as_str(), known) {
                        Some(meant) => format!("did you mean `{meant}`?"),
                        None => {
                            "declare it; with `external: true` when it is somebody else's".into()
                        }
                    };
                    self.push(at(
                        &binding.origin,
                        None,
                        Diagnostic::error(
                            UNKNOWN_QUEUE,
                            format!("a binding leads to queue `{queue}`, which is not declared"),
                        )
                        .hint(hint),
                    ));
                }
                Destination::Queue(_) => {}
            }
            let Some(exchange) = self.view.exchanges.get(source) else { continue };
            let kind = exchange.definition.kind.clone();
            let object = format!("binding of {} to `{source}`", definition.destination);
            for problem in check_binding(definition, &kind, self.target) {
                self.problem(&object, &binding.origin, problem);
            }
        }
    }

    fn known_exchange(&mut self, name: &str, origin: &Origin) {
        if self.view.has_exchange(name) {
            return;
        }
        let hint = match nearest(name, self.view.exchanges.keys().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "declare it; with `external: true` when it is somebody else's".to_owned(),
        };
        self.push(at(
            origin,
            None,
            Diagnostic::error(
                UNKNOWN_EXCHANGE,
                format!("a binding refers to exchange `{name}`, which is not declared"),
            )
            .hint(hint),
        ));
    }

    pub(super) fn alternates(&mut self) {
        let topology = self.topology;
        for exchange in &topology.exchanges {
            let name = exchange.definition.name.as_str();
            let object = exchange_object(name);
            let place = topology.places.get(&object, "alternate-exchange");
            let alternate_of =
                |name: &str| self.view.exchanges.get(name).and_then(|e| e.effective.alternate());
            let Some(first) = alternate_of(name) else { continue };
            if !self.view.has_exchange(first) {
                let hint = nearest(first, self.view.exchanges.keys().map(String::as_str))
                    .map_or_else(
                        || {
                            "declare it; with `external: true` when it is somebody else's"
                                .to_owned()
                        },
                        |meant| format!("did you mean `{meant}`?"),
                    );
                let finding = Diagnostic::warning(
                    UNKNOWN_ALTERNATE,
                    format!("{object}: its alternate exchange `{first}` is not declared"),
                )
                .hint(hint);
                self.push(at(&exchange.origin, place, finding));
                continue;
            }
            let mut path = vec![name];
            let mut next = Some(first);
            while let Some(current) = next {
                if current == name {
                    path.push(current);
                    let finding = Diagnostic::warning(
                        ALTERNATE_CYCLE,
                        format!("alternate exchanges lead in a circle: {}", path.join(" → ")),
                    )
                    .hint("a message that none of them takes is unroutable; end the chain in a fanout with a queue");
                    self.push(at(&exchange.origin, place, finding));
                    break;
                }
                if path.contains(&current) {
                    break;
                }
                path.push(current);
                next = alternate_of(current);
            }
        }
    }

    pub(super) fn reach(&mut self) {
        let topology = self.topology;
        let reached: BTreeSet<String> = self
            .view
            .bindings
            .iter()
            .map(|b| match &b.destination {
                Destination::Queue(queue) => queue_object(queue.as_str()),
                Destination::Exchange(exchange) => exchange_object(exchange.as_str()),
            })
            .chain(
                self.view
                    .exchanges
                    .values()
                    .filter_map(|e| e.effective.alternate().map(exchange_object)),
            )
            .chain(
                self.view
                    .queues
                    .values()
                    .filter_map(|q| q.effective.dead_letter_exchange().map(exchange_object)),
            )
            .chain(self.dead_letters.values().flatten().map(|queue| queue_object(queue)))
            .collect();
        for exchange in &topology.exchanges {
            let name = exchange.definition.name.as_str();
            let object = exchange_object(name);
            let Some(view) = self.view.exchanges.get(name) else { continue };
            let alternate = view.effective.alternate().is_some();
            if !self.leads.contains(name) && !alternate {
                self.push(at(
                    &exchange.origin,
                    None,
                    Diagnostic::note(
                        DEAD_END,
                        format!(
                            "{object} hands messages to nobody: each comes back to its publisher"
                        ),
                    )
                    .hint("bind a queue to it"),
                ));
            }
            if exchange.definition.internal && !reached.contains(&object) {
                self.push(at(
                    &exchange.origin,
                    None,
                    Diagnostic::warning(
                        UNREACHABLE_EXCHANGE,
                        format!("{object} is internal and nothing leads to it"),
                    ),
                ));
            }
            if !exchange.definition.durable && self.leads.contains(name) {
                self.push(at(
                    &exchange.origin,
                    topology.places.get(&object, "durable"),
                    Diagnostic::warning(
                        TRANSIENT_EXCHANGE,
                        format!("{object} and its bindings do not survive a restart of the broker"),
                    )
                    .hint("make it durable"),
                ));
            }
        }
        for queue in &topology.queues {
            let object = queue_object(queue.definition.name.as_str());
            if !reached.contains(&object) {
                self.push(at(
                    &queue.origin,
                    None,
                    Diagnostic::note(
                        UNBOUND_QUEUE,
                        format!("{object} is bound to no exchange: only the default exchange leads to it"),
                    ),
                ));
            }
        }
    }
}
