//! Bindings that are missing, and those that come back after an end of theirs was made anew.

use std::collections::{BTreeSet, HashSet};

use crate::broker::{BindingDefinition, Change, Destination};
use crate::topology::keep;
use crate::topology::object::{ObjectRef, is_own_binding};
use crate::topology::observed::binding_id;
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{Action, LossKind, Phase, PlannedChange, Warning};

impl<'a> Planner<'a> {
    pub(super) fn bindings(&mut self) {
        let desired = self.desired;
        let mut done = HashSet::new();
        for to_queue in [true, false] {
            for binding in &desired.bindings {
                let definition = &binding.definition;
                let is_queue = matches!(definition.destination, Destination::Queue(_));
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
                matches!(&binding.destination, Destination::Queue(name) if self.exclusive.contains(name.as_str()))
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

    /// Binds an object again that its unit makes anew. What the file does not declare is written
    /// down on the broker before, since nobody else could tell a later run of it.
    pub(super) fn bind_again(
        &mut self,
        phase: Phase,
        bindings: Vec<BindingDefinition>,
        unit: &Option<String>,
    ) {
        for binding in bindings {
            if !self.declares(&binding) {
                self.keep(&binding, unit);
            }
            self.step(phase, Change::Bind(binding)).unit.clone_from(unit);
        }
    }

    fn declares(&self, binding: &BindingDefinition) -> bool {
        self.declared_bindings.contains(&binding_id(binding))
    }

    fn keep(&mut self, binding: &BindingDefinition, unit: &Option<String>) {
        if !self.keeper {
            self.keeper = true;
            self.step(Phase::Keep, keep::declaration());
        }
        self.step(Phase::Keep, keep::keep(binding)).unit.clone_from(unit);
        self.step(Phase::Forget, keep::forget(binding)).unit.clone_from(unit);
        // It is in hand: not one that an earlier run has left.
        self.kept.remove(&binding_id(binding));
    }

    /// Bindings of others that a run wrote down and did not get to put back.
    pub(super) fn put_back(&mut self) {
        let declared: BTreeSet<ObjectRef> = self
            .desired
            .queues
            .iter()
            .map(|queue| ObjectRef::queue(&queue.definition.name))
            .chain(self.desired.exchanges.iter().map(|e| ObjectRef::exchange(&e.definition.name)))
            .collect();
        for binding in std::mem::take(&mut self.kept).into_values() {
            let source = ObjectRef::exchange(&binding.source);
            let end = match &binding.destination {
                Destination::Queue(name) => ObjectRef::queue(name),
                Destination::Exchange(name) => ObjectRef::exchange(name),
            };
            // Somebody else's run, who will finish it.
            if !declared.contains(&source) && !declared.contains(&end) {
                continue;
            }
            let object = ObjectRef::binding(&binding);
            let unit = Some(format!("put back {object}"));
            let gone = [source, end]
                .into_iter()
                .find(|end| !declared.contains(end) && self.view.canonical(end).is_none());
            if let Some(gone) = gone {
                self.warnings.push(Warning {
                    code: "binding-lost".to_owned(),
                    text: format!(
                        "an interrupted run was to put it back, and {gone} is gone since"
                    ),
                    object,
                });
            } else if !self.view.has_binding(&binding) && !self.declares(&binding) {
                self.see_binding(&binding, false);
                self.step(Phase::Bindings, Change::Bind(binding.clone())).unit.clone_from(&unit);
                let mut change = PlannedChange::new(object.clone(), Action::Create);
                change.owner = self.owner_of(Owned::Binding(&binding));
                self.changes.push(change);
                self.warnings.push(Warning {
                    code: "binding-put-back".to_owned(),
                    object,
                    text: "this file does not declare it: an interrupted run was to put it back"
                        .to_owned(),
                });
            }
            self.step(Phase::Forget, keep::forget(&binding)).unit.clone_from(&unit);
        }
    }
}
