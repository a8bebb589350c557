//! Policies of both kinds, and what they do to what is there already.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::broker::{Change, PolicyDefinition, QueueState, QueueType};
use crate::topology::fingerprint::{canonical_policy, resolved_type};
use crate::topology::migrate;
use crate::topology::model::Desired;
use crate::topology::object::{ObjectKind, ObjectRef};
use crate::topology::observed::{Aspect, Fit};
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{Action, Phase, PlannedChange, Warning};
use super::fields::policy_fields;
use super::stand_ins::instead_policy_name;

impl<'a> Planner<'a> {
    pub(super) fn policies(&mut self) {
        let desired = self.desired;
        for policy in &desired.policies {
            self.policy(policy, false);
        }
        for policy in &desired.operator_policies {
            self.policy(policy, true);
        }
    }

    pub(super) fn policy(&mut self, policy: &Desired<PolicyDefinition>, operator: bool) {
        let definition = &policy.definition;
        let name = definition.name.as_str();
        let (kind, is) = if operator {
            (ObjectKind::OperatorPolicy, self.view.operator_policy(name))
        } else {
            (ObjectKind::Policy, self.view.policy(name))
        };
        if is.is_some_and(|is| canonical_policy(is) == canonical_policy(definition)) {
            return;
        }
        let object = ObjectRef::new(kind, name);
        let action = if is.is_some() { Action::Update } else { Action::Create };
        let mut change = PlannedChange::new(object.clone(), action).origin(&policy.origin);
        if let Some(is) = is {
            change.owner = self.owner_of(Owned::Named(kind, name));
            change.fields = policy_fields(is, definition);
            self.guard_change(&mut change, policy.protect, false);
        }
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            let step = if operator {
                Change::PutOperatorPolicy(definition.clone())
            } else {
                Change::PutPolicy(definition.clone())
            };
            let phase =
                if self.precedes(definition) { Phase::EarlyPolicies } else { Phase::Policies };
            self.step(phase, step);
            self.claim(Owned::Named(kind, name));
            let snapshot = self.view.snapshot;
            let fit = Fit::new(definition);
            for queue in &snapshot.queues {
                let kind = resolved_type(&queue.definition, None);
                if fit.queue(queue.definition.name.as_str(), kind, self.version()) {
                    self.warn_backlog(queue, &definition.definition);
                }
            }
        }
        self.changes.push(change);
    }

    /// Whether an object that this plan makes would be without its policy for a while.
    fn precedes(&self, policy: &PolicyDefinition) -> bool {
        let fit = Fit::new(policy);
        self.desired.queues.iter().any(|queue| {
            let name = queue.definition.name.as_str();
            self.view.queue(name).is_none()
                && fit.queue(
                    name,
                    resolved_type(&queue.definition, self.default_type),
                    self.version(),
                )
        })
    }

    /// What a policy's new limits do to the messages that are there.
    pub(super) fn warn_backlog(&mut self, is: &QueueState, definition: &Map<String, Value>) {
        let messages = is.messages();
        if messages == Some(0) {
            return;
        }
        let object = ObjectRef::queue(&is.definition.name);
        let held = messages.map_or("its messages".to_owned(), |n| format!("its {n} messages"));
        let effective = |key: &str| {
            let argument = is
                .definition
                .arguments
                .get(&format!("x-{key}"))
                .and_then(crate::message::FieldValue::as_i64);
            let policy =
                self.view.policy_of(is).and_then(|policy| policy.definition.get(key)?.as_i64());
            match (argument, policy) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            }
        };
        let mut found = Vec::new();
        if let Some(limit) = definition.get("delivery-limit").and_then(Value::as_i64)
            && resolved_type(&is.definition, None) == QueueType::Quorum
            && limit >= 0
            && effective("delivery-limit")
                .or(self.capabilities.default_delivery_limit.map(i64::from))
                .is_none_or(|old| old < 0 || limit < old)
        {
            found.push((
                "delivery-limit-lowered",
                format!("{held} may have been returned more than {limit} times already: such a message is gone at its next return"),
            ));
        }
        if let Some(ttl) = definition.get("message-ttl").and_then(Value::as_i64)
            && effective("message-ttl").is_none_or(|old| ttl < old)
        {
            found.push(("ttl-lowered", format!("{held} expire once they are older than {ttl} ms")));
        }
        if let Some(length) = definition.get("max-length").and_then(Value::as_i64)
            && effective("max-length").is_none_or(|old| length < old)
            && messages.is_none_or(|n| i64::try_from(n).unwrap_or(i64::MAX) > length)
        {
            found.push((
                "length-lowered",
                format!("of {held} only {length} fit: the oldest are dropped or dead-lettered"),
            ));
        }
        if let Some(expires) = definition.get("expires").and_then(Value::as_i64) {
            found.push((
                "expires",
                format!("the queue goes away with {held} after {expires} ms without a consumer"),
            ));
        }
        for (code, text) in found {
            self.warnings.push(Warning { code: code.to_owned(), object: object.clone(), text });
        }
    }

    /// A declared policy that another one, which the file does not declare, outranks: it is put and
    /// does nothing where both fit.
    pub(super) fn warn_about_shadows(&mut self) {
        let declared: BTreeSet<&str> =
            self.desired.policies.iter().map(|policy| policy.definition.name.as_str()).collect();
        let foreign: Vec<&Fit<'a>> = self
            .view
            .fits(false)
            .iter()
            .filter(|fit| !declared.contains(fit.policy.name.as_str()))
            .filter(|fit| fit.policy.name.as_str() != migrate::SHADOW_POLICY)
            .collect();
        if foreign.is_empty() {
            return;
        }
        let version = self.version();
        let queues: Vec<_> = self
            .desired
            .queues
            .iter()
            .map(|queue| {
                let kind = resolved_type(&queue.definition, self.default_type);
                (&queue.definition.name, kind, instead_policy_name(&queue.definition.name))
            })
            .collect();
        let mut warnings = Vec::new();
        for fit in self.declared_fits() {
            let above = foreign.iter().filter(|f| f.policy.priority > fit.policy.priority);
            for other in above {
                // What stands in for a queue's own arguments carries on what it displaces.
                let mut shadowed = queues.iter().filter(|(name, kind, stand_in)| {
                    other.policy.name != *stand_in
                        && fit.queue(name.as_str(), *kind, version)
                        && other.queue(name.as_str(), *kind, version)
                });
                let Some((first, ..)) = shadowed.next() else { continue };
                let more = match shadowed.count() {
                    0 => String::new(),
                    more => format!(" and {more} more"),
                };
                warnings.push(Warning {
                    code: "policy-shadowed".to_owned(),
                    object: ObjectRef::new(ObjectKind::Policy, fit.policy.name.as_str()),
                    text: format!(
                        "it does nothing for queue `{first}`{more}: policy `{}`, which this file does not declare, has priority {} and applies instead",
                        other.policy.name, other.policy.priority
                    ),
                });
            }
        }
        self.warnings.extend(warnings);
    }

    /// Two policies of one priority that fit one object: which of them applies is undefined.
    pub(super) fn warn_about_policies(&mut self) {
        let mut policies: BTreeMap<&str, &PolicyDefinition> = self
            .view
            .snapshot
            .policies
            .iter()
            .map(|policy| (policy.name.as_str(), policy))
            .collect();
        for policy in &self.desired.policies {
            policies.insert(policy.definition.name.as_str(), &policy.definition);
        }
        let mut by_priority: BTreeMap<i64, Vec<&PolicyDefinition>> = BTreeMap::new();
        for policy in policies.values() {
            by_priority.entry(policy.priority).or_default().push(policy);
        }
        for group in by_priority.values().filter(|group| group.len() > 1) {
            let fits: Vec<Fit<'_>> = group.iter().map(|policy| Fit::new(policy)).collect();
            let queues = self.desired.queues.iter().map(|queue| {
                let kind = resolved_type(&queue.definition, self.default_type);
                (ObjectRef::queue(&queue.definition.name), Some(kind))
            });
            let exchanges = self
                .desired
                .exchanges
                .iter()
                .map(|e| (ObjectRef::exchange(&e.definition.name), None));
            let mut told = BTreeSet::new();
            for (object, kind) in queues.chain(exchanges) {
                let fitting: Vec<&str> = fits
                    .iter()
                    .filter(|fit| match kind {
                        Some(kind) => fit.queue(&object.name, kind, self.version()),
                        None => fit.exchange(&object.name),
                    })
                    .map(|fit| fit.policy.name.as_str())
                    .collect();
                if fitting.len() > 1 && told.insert(fitting.clone()) {
                    self.warnings.push(Warning {
                        code: "equal-priority".to_owned(),
                        text: format!(
                            "policies {} have the same priority, and which of them applies is undefined",
                            fitting.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ")
                        ),
                        object,
                    });
                }
            }
        }
    }
}
