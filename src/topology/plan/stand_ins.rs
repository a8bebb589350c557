//! A policy that gives a queue what its arguments cannot be changed to.

use serde_json::{Map, Value, json};

use crate::base::id::{PolicyName, QueueName};
use crate::broker::{
    ApplyTo, Capabilities, Change, PolicyDefinition, QueueDefinition, QueueState, QueueType,
};
use crate::topology::fingerprint::{Fingerprint, resolved_type};
use crate::topology::model::Desired;
use crate::topology::object::{ObjectKind, ObjectRef};
use crate::topology::observed::Aspect;
use crate::topology::ownership::Owned;

use super::Planner;
use super::contents::{Action, FieldChange, Phase, PlannedChange};

/// The name of the policy that stands in for arguments of `queue`.
pub fn instead_policy_name(queue: &QueueName) -> PolicyName {
    let long = format!("nexusctl.queue.{queue}");
    #[expect(
        clippy::expect_used,
        reason = "a queue's name holds no line break, and the length is kept"
    )]
    PolicyName::new(long)
        .or_else(|_| {
            let hash = Fingerprint::of(&json!(queue.as_str()));
            PolicyName::new(format!("nexusctl.queue.{}", hash.short()))
        })
        .expect("a valid name")
}

impl<'a> Planner<'a> {
    /// The policy that gives `is` the new values, when one can.
    pub(super) fn policy_instead(
        &self,
        is: &QueueState,
        wanted: &QueueDefinition,
        fields: &[FieldChange],
    ) -> Option<PolicyDefinition> {
        let kind = resolved_type(&is.definition, None);
        let own = instead_policy_name(&wanted.name);
        let displaced = self.view.policy_of(is);
        // Only one policy applies to a queue, so ours carries on what the present one says.
        let mut definition: Map<String, Value> =
            displaced.map(|policy| policy.definition.clone()).unwrap_or_default();
        for field in fields {
            let name = field.field.strip_prefix("arguments.")?;
            let key = name.strip_prefix("x-")?;
            let argument = is
                .definition
                .arguments
                .get(name)
                .map(crate::topology::fingerprint::canonical_field);
            let value =
                policy_value(kind, key, argument.as_ref(), field.new.as_ref(), self.capabilities)?;
            definition.insert(key.to_owned(), value);
        }
        let others = self
            .view
            .fits(false)
            .iter()
            .chain(self.declared_fits())
            .filter(|fit| fit.policy.name != own)
            .filter(|fit| fit.queue(wanted.name.as_str(), kind, self.version()));
        let top = others.map(|fit| fit.policy.priority).max();
        Some(PolicyDefinition {
            name: own,
            pattern: format!("^{}$", regex::escape(wanted.name.as_str())),
            apply_to: ApplyTo::Queues,
            priority: top.map_or(0, |top| top.saturating_add(1)),
            definition,
        })
    }

    pub(super) fn put_policy_instead(
        &mut self,
        queue: &Desired<QueueDefinition>,
        is: &QueueState,
        fields: Vec<FieldChange>,
        policy: &PolicyDefinition,
    ) {
        let object = ObjectRef::queue(&queue.definition.name);
        let mut change =
            PlannedChange::new(object.clone(), Action::PolicyInstead).origin(&queue.origin);
        change.owner =
            self.owner_of(Owned::Named(ObjectKind::Queue, queue.definition.name.as_str()));
        change.messages = is.messages();
        change.policy = Some(policy.clone());
        change.fields = fields;
        self.guard_change(&mut change, queue.protect, false);
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            self.see(&ObjectRef::new(ObjectKind::Policy, policy.name.as_str()), Aspect::Definition);
            self.warn_backlog(is, &policy.definition);
            self.step(Phase::Policies, Change::PutPolicy(policy.clone()));
            self.claim(Owned::Named(ObjectKind::Policy, policy.name.as_str()));
        }
        self.changes.push(change);
    }
}

/// The value a policy must set so that a queue with the argument `is` behaves as if declared with
/// `wanted`; `None` when no policy can. Which of argument and policy wins depends on type and key.
pub fn policy_value(
    kind: QueueType,
    key: &str,
    is: Option<&Value>,
    wanted: Option<&Value>,
    capabilities: Capabilities,
) -> Option<Value> {
    let wanted = wanted?;
    // The argument stays; a smaller one of the two is the one that counts.
    let stricter = || match (is, is.and_then(Value::as_i64), wanted.as_i64()) {
        (None, _, Some(_)) => Some(wanted.clone()),
        (_, Some(is), Some(new)) if new < is => Some(wanted.clone()),
        _ => None,
    };
    let only_without_argument = || is.is_none().then(|| wanted.clone());
    match (kind, key) {
        (
            QueueType::Classic | QueueType::Quorum,
            "expires" | "message-ttl" | "max-length" | "max-length-bytes",
        ) => stricter(),
        (
            QueueType::Classic | QueueType::Quorum,
            "dead-letter-exchange" | "dead-letter-routing-key",
        )
        | (QueueType::Quorum, "dead-letter-strategy")
        | (QueueType::Classic, "overflow") => only_without_argument(),
        (QueueType::Quorum, "delivery-limit") => {
            let negative = wanted.as_i64().is_none_or(|n| n < 0);
            if negative && !(is.is_none() && capabilities.unlimited_delivery_limit) {
                return None;
            }
            if negative { only_without_argument() } else { stricter() }
        }
        (QueueType::Quorum, "overflow")
        | (QueueType::Stream, "max-length-bytes" | "max-age" | "stream-max-segment-size-bytes") => {
            Some(wanted.clone())
        }
        _ => None,
    }
}
