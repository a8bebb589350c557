//! What is there and not declared, and what of it is removed.

use std::collections::BTreeSet;

use crate::base::id::PolicyName;
use crate::broker::{BindingDefinition, Change, ExchangeDefinition, PolicyDefinition, QueueState};
use crate::topology::migrate;
use crate::topology::model::Origin;
use crate::topology::object::{ObjectKind, is_own_binding, is_own_exchange, is_own_queue};
use crate::topology::observed::{Aspect, binding_id};
use crate::topology::ownership::{self, Owned, Owner};

use super::Planner;
use super::contents::{Action, Extra, LossKind, Phase, PlannedChange};
use super::stand_ins::instead_policy_name;

impl<'a> Planner<'a> {
    /// Everything that is there and not declared.
    pub(super) fn extra(&mut self) {
        let desired = self.desired;
        let declared = |kind: ObjectKind| -> BTreeSet<&str> {
            match kind {
                // What the file refers to and somebody else declares is no surprise either.
                ObjectKind::Exchange => desired
                    .exchanges
                    .iter()
                    .chain(&desired.external.exchanges)
                    .map(|e| e.definition.name.as_str())
                    .collect(),
                ObjectKind::Queue => desired
                    .queues
                    .iter()
                    .chain(&desired.external.queues)
                    .map(|q| q.definition.name.as_str())
                    .collect(),
                ObjectKind::Policy => {
                    desired.policies.iter().map(|p| p.definition.name.as_str()).collect()
                }
                _ => desired.operator_policies.iter().map(|p| p.definition.name.as_str()).collect(),
            }
        };
        let stand_ins: BTreeSet<PolicyName> = desired
            .queues
            .iter()
            .map(|queue| instead_policy_name(&queue.definition.name))
            .collect();
        let snapshot = self.view.snapshot;
        let mut candidates: Vec<Candidate<'a>> = Vec::new();

        for binding in &snapshot.bindings {
            let to_exclusive = matches!(&binding.destination, crate::broker::Destination::Queue(name) if self.exclusive.contains(name.as_str()));
            if binding.source.is_default()
                || is_own_binding(binding)
                || to_exclusive
                || self.declared_bindings.contains(&binding_id(binding))
            {
                continue;
            }
            candidates.push(Candidate::Binding(binding));
        }
        let names = declared(ObjectKind::Queue);
        for queue in &snapshot.queues {
            let name = &queue.definition.name;
            if !queue.definition.exclusive && !is_own_queue(name) && !names.contains(name.as_str())
            {
                candidates.push(Candidate::Queue(queue));
            }
        }
        let names = declared(ObjectKind::Policy);
        for policy in &snapshot.policies {
            if !names.contains(policy.name.as_str())
                && !stand_ins.contains(&policy.name)
                && policy.name.as_str() != migrate::SHADOW_POLICY
            {
                candidates.push(Candidate::Policy(policy, false));
            }
        }
        let names = declared(ObjectKind::OperatorPolicy);
        for policy in &snapshot.operator_policies {
            if !names.contains(policy.name.as_str()) {
                candidates.push(Candidate::Policy(policy, true));
            }
        }
        let names = declared(ObjectKind::Exchange);
        for exchange in &snapshot.exchanges {
            let name = &exchange.name;
            if !name.is_predeclared() && !is_own_exchange(name) && !names.contains(name.as_str()) {
                candidates.push(Candidate::Exchange(exchange));
            }
        }

        let owned: Vec<_> = candidates
            .into_iter()
            .map(|candidate| {
                let owner = self.owner_of(candidate.owned());
                let prune = owner == Owner::Ours && self.options.prune.contains(&candidate.kind());
                (candidate, owner, prune)
            })
            .collect();
        let removals = owned.iter().filter(|(_, _, prune)| *prune).count();
        for (candidate, owner, prune) in owned {
            let pruned = prune && self.remove(&candidate, removals);
            self.extra.push(Extra { object: candidate.owned().object(), owner, pruned });
        }
    }

    /// Plans one removal; false when something stands in the way.
    pub(super) fn remove(&mut self, candidate: &Candidate<'a>, removals: usize) -> bool {
        let object = candidate.owned().object();
        let mut change = PlannedChange::new(object.clone(), Action::Delete);
        change.owner = Owner::Ours;
        if removals > self.options.max_deletes {
            change.block(
                "max-deletes",
                format!(
                    "{removals} objects would be removed, and at most {} may be",
                    self.options.max_deletes
                ),
                "look at the list, then raise --max-deletes",
            );
        }
        let (phase, step) = match candidate {
            Candidate::Binding(binding) => {
                self.see_binding(binding, true);
                (Phase::RemoveBindings, Change::Unbind((*binding).clone()))
            }
            Candidate::Queue(queue) => {
                change.messages = queue.messages();
                self.guard_removal(&mut change, queue);
                let foreign = self
                    .foreign_bindings(self.view.bindings_of_queue(queue.definition.name.as_str()));
                if foreign > 0 {
                    change.lose(
                        LossKind::Bindings,
                        Some(foreign),
                        format!("{foreign} bindings that this topology did not make"),
                    );
                }
                self.see(&object, Aspect::Definition);
                self.see(&object, Aspect::Bindings);
                let change = Change::DeleteQueue {
                    name: queue.definition.name.clone(),
                    if_empty: !self.options.lose_messages,
                    if_unused: !self.options.while_consumed,
                };
                (Phase::RemoveQueues, change)
            }
            Candidate::Policy(policy, operator) => {
                self.see(&object, Aspect::Definition);
                let name = policy.name.clone();
                (
                    Phase::RemovePolicies,
                    if *operator {
                        Change::DeleteOperatorPolicy(name)
                    } else {
                        Change::DeletePolicy(name)
                    },
                )
            }
            Candidate::Exchange(exchange) => {
                let foreign =
                    self.foreign_bindings(self.view.bindings_of_exchange(exchange.name.as_str()));
                if foreign > 0 {
                    change.lose(
                        LossKind::Bindings,
                        Some(foreign),
                        format!("{foreign} bindings that this topology did not make"),
                    );
                }
                self.see(&object, Aspect::Definition);
                self.see(&object, Aspect::Bindings);
                (
                    Phase::RemoveExchanges,
                    Change::DeleteExchange { name: exchange.name.clone(), if_unused: false },
                )
            }
        };
        let clear = change.blockers.is_empty();
        if clear {
            if let Candidate::Binding(binding) = candidate {
                self.removed_bindings.insert(binding_id(binding));
            }
            let loses = change.loses.clone();
            self.step(phase, step).loses = loses;
            self.releases.push(ownership::release(candidate.owned(), &self.desired.owner));
        }
        self.changes.push(change);
        clear
    }

    fn guard_removal(&self, change: &mut PlannedChange, queue: &QueueState) {
        match queue.messages() {
            Some(0) => {}
            messages if self.options.lose_messages => {
                let text =
                    messages.map_or("all its messages".to_owned(), |n| format!("{n} messages"));
                change.lose(LossKind::Messages, messages, text);
            }
            Some(messages) => change.block(
                "has-messages",
                format!("it holds {messages} messages, which would be lost"),
                "empty it first, or allow the loss with --lose-messages",
            ),
            None => change.block(
                "messages-unknown",
                "the broker has not counted its messages yet",
                "plan again in a few seconds",
            ),
        }
        self.guard_consumers(change, queue);
    }

    fn foreign_bindings(&self, bindings: &[&BindingDefinition]) -> u64 {
        bindings
            .iter()
            .filter(|binding| !is_own_binding(binding))
            .filter(|binding| self.owner_of(Owned::Binding(binding)) != Owner::Ours)
            .count() as u64
    }

    /// Plans the removal of everything that is declared and ours; see [`super::destroy`].
    pub(in crate::topology) fn destroy(&mut self) {
        let desired = self.desired;
        let mut candidates: Vec<(Candidate<'a>, &Origin, bool)> = Vec::new();
        for binding in &desired.bindings {
            if let Some(is) = self.view.binding(&binding.definition) {
                candidates.push((Candidate::Binding(is), &binding.origin, binding.protect));
            }
        }
        for queue in &desired.queues {
            if let Some(is) = self.view.queue(queue.definition.name.as_str()) {
                candidates.push((Candidate::Queue(is), &queue.origin, queue.protect));
            }
        }
        for policy in &desired.policies {
            if let Some(is) = self.view.policy(policy.definition.name.as_str()) {
                candidates.push((Candidate::Policy(is, false), &policy.origin, policy.protect));
            }
        }
        for policy in &desired.operator_policies {
            if let Some(is) = self.view.operator_policy(policy.definition.name.as_str()) {
                candidates.push((Candidate::Policy(is, true), &policy.origin, policy.protect));
            }
        }
        for exchange in &desired.exchanges {
            if let Some(is) = self.view.exchange(exchange.definition.name.as_str())
                && !is.name.is_predeclared()
            {
                candidates.push((Candidate::Exchange(is), &exchange.origin, exchange.protect));
            }
        }
        for (candidate, origin, protect) in candidates {
            let owner = self.owner_of(candidate.owned());
            if owner != Owner::Ours {
                let object = candidate.owned().object();
                self.extra.push(Extra { object, owner, pruned: false });
                continue;
            }
            if protect {
                let mut change =
                    PlannedChange::new(candidate.owned().object(), Action::Delete).origin(origin);
                change.owner = Owner::Ours;
                change.block(
                    "protected",
                    "the file says `protect: true`",
                    "take `protect` off, or take the object out of the file first",
                );
                self.changes.push(change);
                continue;
            }
            self.remove(&candidate, 0);
            if let Some(change) = self.changes.last_mut() {
                change.declared_at = origin.span.as_ref().map(ToString::to_string);
                change.expanded_from.clone_from(&origin.expanded_from);
            }
        }
    }
}

/// Something that may be removed.
pub(super) enum Candidate<'a> {
    Binding(&'a BindingDefinition),
    Queue(&'a QueueState),
    Policy(&'a PolicyDefinition, bool),
    Exchange(&'a ExchangeDefinition),
}

impl Candidate<'_> {
    pub(super) fn kind(&self) -> ObjectKind {
        match self {
            Candidate::Binding(_) => ObjectKind::Binding,
            Candidate::Queue(_) => ObjectKind::Queue,
            Candidate::Policy(_, false) => ObjectKind::Policy,
            Candidate::Policy(_, true) => ObjectKind::OperatorPolicy,
            Candidate::Exchange(_) => ObjectKind::Exchange,
        }
    }

    fn owned(&self) -> Owned<'_> {
        match self {
            Candidate::Binding(binding) => Owned::Binding(binding),
            Candidate::Queue(queue) => {
                Owned::Named(ObjectKind::Queue, queue.definition.name.as_str())
            }
            Candidate::Policy(policy, _) => Owned::Named(self.kind(), policy.name.as_str()),
            Candidate::Exchange(exchange) => {
                Owned::Named(ObjectKind::Exchange, exchange.name.as_str())
            }
        }
    }
}
