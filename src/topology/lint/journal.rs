//! What a journal cannot see, and what it changes for publishers.

use crate::base::diagnostic::Diagnostic;
use crate::broker::definition::{Destination, ExchangeKind};
use crate::topology::expand::{JOURNAL, MADE_BY_JOURNAL};

use super::codes::{JOURNAL_BLIND, JOURNAL_TAKES_UNROUTED};
use super::{Lint, at, quoted};

impl Lint<'_> {
    pub(super) fn journal(&mut self) {
        let topology = self.topology;
        let made = topology.queues.iter().find(|queue| {
            queue.definition.name.as_str() == JOURNAL
                && queue.origin.expanded_from.as_deref() == Some(MADE_BY_JOURNAL)
        });
        let Some(journal) = made else { return };
        let (mut by_key, mut whole) = (Vec::new(), Vec::new());
        for (name, exchange) in &self.view.exchanges {
            let is_bound = topology.bindings.iter().any(|binding| {
                binding.definition.source.as_str() == name
                    && matches!(&binding.definition.destination, Destination::Queue(queue) if queue.as_str() == JOURNAL)
            });
            match exchange.definition.kind {
                ExchangeKind::Direct if is_bound => by_key.push(name.as_str()),
                _ if is_bound => whole.push(name.as_str()),
                _ => {}
            }
        }
        let straight = "what is published straight to a queue, by the default exchange";
        let (make, blind): (fn(_, _) -> _, _) = match by_key.is_empty() {
            true => (Diagnostic::note, straight.to_owned()),
            false => {
                let also = format!(
                    "{straight}, and of the direct exchanges {} what goes by a key that nothing here binds",
                    quoted(by_key)
                );
                (Diagnostic::warning, also)
            }
        };
        self.push(at(
            &journal.origin,
            None,
            make(JOURNAL_BLIND, format!("the journal does not see {blind}"))
                .hint("publish to a topic exchange what may have to be sent again"),
        ));
        if !whole.is_empty() {
            self.push(at(
                &journal.origin,
                None,
                Diagnostic::note(
                    JOURNAL_TAKES_UNROUTED,
                    format!(
                        "the journal takes everything that {} get, so a message that no other queue takes \
                         is not returned to its publisher any more",
                        quoted(whole)
                    ),
                )
                .hint("watch `nexusctl journal list` for what nobody else got"),
            ));
        }
    }
}
