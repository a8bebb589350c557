//! Bindings that are missing, and those that come back after an end of theirs was made anew.

use std::collections::HashSet;

use crate::broker::{BindingDefinition, Change};
use crate::topology::object::{ObjectRef, is_own_binding};
use crate::topology::observed::binding_id;
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{Action, LossKind, Phase, PlannedChange};

impl<'a> Planner<'a> {
    pub(super) fn bindings(&mut self) {
        let desired = self.desired;
        let mut done = HashSet::new();
        for to_queue in [true, false] {
            for binding in &desired.bindings {
                let definition = &binding.definition;
                let is_queue =
                    matches!(definition.destination, crate::broker::Destination::Queue(_));
                if is_queue != to_queue
                    || definition.source.is_default()
                    || !done.insert(binding_id(definition))
                    || self.view.has_binding(definition)
                {
                    continue;
                }
                self.see_binding(definition, false);
                self.step(Phase::Bindings, Change::Bind(definition.clone()));
                self.claim(Owned::Binding(definition));
                self.changes.push(
                    PlannedChange::new(ObjectRef::binding(definition), Action::Create)
                        .origin(&binding.origin),
                );
            }
        }
    }

    /// The bindings that are put back after an end of theirs was made anew.
    pub(super) fn restorable(
        &self,
        bindings: &[&'a BindingDefinition],
        change: &mut PlannedChange,
    ) -> Vec<BindingDefinition> {
        let (lost, kept): (Vec<&BindingDefinition>, Vec<&BindingDefinition>) = bindings
            .iter()
            .copied()
            .filter(|binding| !is_own_binding(binding))
            .partition(|binding| {
                matches!(&binding.destination, crate::broker::Destination::Queue(name) if self.exclusive.contains(name.as_str()))
            });
        if !lost.is_empty() {
            change.lose(
                LossKind::Bindings,
                Some(lost.len() as u64),
                format!(
                    "{} bindings of exclusive queues, which only their own connections can put back",
                    lost.len()
                ),
            );
        }
        change.bindings = kept.len();
        kept.into_iter().cloned().collect()
    }
}
