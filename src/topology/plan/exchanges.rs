//! Exchanges: made, or made anew with their bindings.

use std::collections::BTreeMap;

use crate::broker::{Change, ExchangeDefinition};
use crate::topology::fingerprint::canonical_exchange;
use crate::topology::model::Desired;
use crate::topology::object::{ObjectKind, ObjectRef};
use crate::topology::observed::Aspect;
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{Action, LossKind, Phase, PlannedChange};
use super::fields::exchange_fields;

impl<'a> Planner<'a> {
    /// Exchanges, those first that are named as alternates by others.
    pub(super) fn exchanges(&mut self) {
        let desired = self.desired;
        for exchange in alternates_first(&desired.exchanges) {
            let definition = &exchange.definition;
            if definition.name.is_predeclared() {
                continue;
            }
            let object = ObjectRef::exchange(&definition.name);
            let Some(is) = self.view.exchange(definition.name.as_str()) else {
                self.see(&object, Aspect::Definition);
                self.step(Phase::Exchanges, Change::DeclareExchange(definition.clone()));
                self.claim(Owned::Named(ObjectKind::Exchange, definition.name.as_str()));
                self.changes
                    .push(PlannedChange::new(object, Action::Create).origin(&exchange.origin));
                continue;
            };
            if canonical_exchange(is) == canonical_exchange(definition) {
                continue;
            }
            let mut change =
                PlannedChange::new(object.clone(), Action::Replace).origin(&exchange.origin);
            change.owner = self.owner_of(Owned::Named(ObjectKind::Exchange, is.name.as_str()));
            change.fields = exchange_fields(is, definition);
            self.guard_change(&mut change, exchange.protect, true);
            let bindings =
                self.restorable(self.view.bindings_of_exchange(is.name.as_str()), &mut change);
            change.lose(
                LossKind::Gap,
                None,
                "who publishes to it while it is away gets its channel closed with 404, and what is in flight there is in doubt",
            );
            if change.blockers.is_empty() {
                self.see(&object, Aspect::Definition);
                self.see(&object, Aspect::Bindings);
                let unit = Some(format!("replace {object}"));
                let loses = change.loses.clone();
                let step = self.step(
                    Phase::Exchanges,
                    Change::DeleteExchange { name: is.name.clone(), if_unused: false },
                );
                step.unit.clone_from(&unit);
                step.loses = loses;
                self.step(Phase::Exchanges, Change::DeclareExchange(definition.clone()))
                    .unit
                    .clone_from(&unit);
                self.bind_again(Phase::Exchanges, bindings, &unit);
                self.claim(Owned::Named(ObjectKind::Exchange, definition.name.as_str()));
            }
            self.changes.push(change);
        }
    }
}

/// Exchanges in an order in which each comes after the one it names as alternate; a cycle keeps the
/// order of the file.
fn alternates_first(
    exchanges: &[Desired<ExchangeDefinition>],
) -> Vec<&Desired<ExchangeDefinition>> {
    let by_name: BTreeMap<&str, usize> =
        exchanges.iter().enumerate().map(|(i, e)| (e.definition.name.as_str(), i)).collect();
    let mut placed = vec![false; exchanges.len()];
    let mut order = Vec::with_capacity(exchanges.len());
    for start in 0..exchanges.len() {
        let mut chain = Vec::new();
        let mut at = Some(start);
        while let Some(index) = at {
            if placed[index] || chain.contains(&index) {
                break;
            }
            chain.push(index);
            at = exchanges[index]
                .definition
                .alternate_exchange()
                .and_then(|name| by_name.get(name).copied());
        }
        for index in chain.into_iter().rev() {
            placed[index] = true;
            order.push(&exchanges[index]);
        }
    }
    order
}
