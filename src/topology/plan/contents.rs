//! What a plan holds: changes with their reasons and losses, and the steps that are run.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::broker::{BrokerIdentity, Change, PolicyDefinition};
use crate::topology::fingerprint::Fingerprint;
use crate::topology::migrate::Migration;
use crate::topology::model::Origin;
use crate::topology::object::ObjectRef;
use crate::topology::observed::Aspect;
use crate::topology::ownership::Owner;
use crate::topology::wire;

/// What would be done, and everything worth knowing before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The broker it was made for.
    pub broker: BrokerIdentity,
    /// Whose topology it is.
    pub owner: String,
    /// One entry for each object that changes or should change.
    pub changes: Vec<PlannedChange>,
    /// Objects that are there and not declared, and what becomes of them.
    pub extra: Vec<Extra>,
    /// What is legal but may surprise.
    pub warnings: Vec<Warning>,
    /// Reasons why nothing of this plan may run (another cluster).
    pub refusals: Vec<Blocker>,
    /// What is run, in this order.
    pub steps: Vec<Step>,
    /// What was read and must not have changed since.
    pub seen: Vec<Seen>,
}

impl Plan {
    /// Whether broker and file agree.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refusals.is_empty()
    }

    /// Everything that stands in the way, with the object it is about.
    pub fn blocked(&self) -> impl Iterator<Item = (Option<&ObjectRef>, &Blocker)> {
        self.refusals.iter().map(|blocker| (None, blocker)).chain(self.changes.iter().flat_map(
            |change| change.blockers.iter().map(move |blocker| (Some(&change.object), blocker)),
        ))
    }

    /// Everything that is lost when it runs, with the object it is about.
    pub fn losses(&self) -> impl Iterator<Item = (&ObjectRef, &Loss)> {
        self.changes
            .iter()
            .filter(|change| change.blockers.is_empty())
            .flat_map(|change| change.loses.iter().map(move |loss| (&change.object, loss)))
    }

    /// Changed, missing and extra objects by number.
    pub fn count(&self, class: DriftClass) -> usize {
        match class {
            DriftClass::Extra => self.extra.len(),
            _ => self.changes.iter().filter(|change| change.drift() == Some(class)).count(),
        }
    }
}

/// How an object differs from what is declared.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum DriftClass {
    /// There, and different.
    Changed,
    /// Declared, and not there.
    Missing,
    /// There, and not declared.
    Extra,
}

/// What is done about one object.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It is made.
    Create,
    /// It is changed where it stands.
    Update,
    /// A policy gives it the new values; the object itself is not touched.
    PolicyInstead,
    /// It holds nothing: removed, made anew, bound again.
    ReplaceWhileEmpty,
    /// An exchange: removed, made anew, bound again.
    Replace,
    /// A queue: made anew while its messages wait in a temporary one.
    Migrate,
    /// It is removed.
    Delete,
    /// Its owner is recorded; the object is not touched.
    Adopt,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", tag = "from", content = "name")]
pub enum ValueSource {
    /// A property of the object, such as `durable`.
    Property,
    /// An argument it was declared with.
    Argument,
    /// The policy of this name.
    Policy(String),
    /// The operator policy of this name.
    OperatorPolicy(String),
    /// The vhost's default queue type.
    VhostDefault,
    /// What the broker does when nobody says anything.
    BrokerDefault,
    /// There is no value.
    Unset,
}

/// One field, old and new.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// `durable`, `type`, `arguments.x-max-length`, `definition.max-length`.
    pub field: String,
    /// What it is; `None` when it is not set.
    pub old: Option<Value>,
    /// Where that comes from.
    pub old_source: ValueSource,
    /// What it shall be; `None` when it shall not be set.
    pub new: Option<Value>,
}

/// What kind of thing is lost.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum LossKind {
    /// Messages in a queue.
    Messages,
    /// Bindings that are not put back.
    Bindings,
    /// Consumers that are cut off.
    Consumers,
    /// Messages published while the object is away.
    Gap,
}

/// What a change costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Loss {
    /// What kind.
    pub kind: LossKind,
    /// How many, where that is known.
    pub count: Option<u64>,
    /// One sentence.
    pub text: String,
}

/// Why something is not done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Blocker {
    /// Stable name of the reason, such as `protected`.
    pub code: String,
    /// Why.
    pub why: String,
    /// What to do.
    pub next: String,
}

/// What may surprise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    /// Stable name, such as `delivery-limit-lowered`.
    pub code: String,
    /// The object it is about.
    pub object: ObjectRef,
    /// One sentence.
    pub text: String,
}

/// One object and what becomes of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// Which object.
    pub object: ObjectRef,
    /// What is done, or would be if nothing stood in the way.
    pub action: Action,
    /// Old and new values; empty for what is made or removed as a whole.
    pub fields: Vec<FieldChange>,
    /// Whose the object is now.
    pub owner: Owner,
    /// How many messages it holds, where that matters and is known.
    pub messages: Option<u64>,
    /// Bindings that go with the object and are put back.
    pub bindings: usize,
    /// What is lost.
    pub loses: Vec<Loss>,
    /// Why nothing is done; empty when it is done.
    pub blockers: Vec<Blocker>,
    /// The policy that does it (`policyInstead`), or that could.
    #[serde(with = "wire::maybe_policy", default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyDefinition>,
    /// `FILE:LINE:COLUMN` where it is declared.
    pub declared_at: Option<String>,
    /// What made it, when nobody wrote it out.
    pub expanded_from: Option<String>,
}

impl PlannedChange {
    pub(super) fn new(object: ObjectRef, action: Action) -> Self {
        PlannedChange {
            object,
            action,
            fields: Vec::new(),
            owner: Owner::Nobody,
            messages: None,
            bindings: 0,
            loses: Vec::new(),
            blockers: Vec::new(),
            policy: None,
            declared_at: None,
            expanded_from: None,
        }
    }

    pub(super) fn origin(mut self, origin: &Origin) -> Self {
        self.declared_at = origin.span.as_ref().map(ToString::to_string);
        self.expanded_from.clone_from(&origin.expanded_from);
        self
    }

    pub(super) fn block(&mut self, code: &str, why: impl Into<String>, next: impl Into<String>) {
        self.blockers.push(Blocker { code: code.to_owned(), why: why.into(), next: next.into() });
    }

    pub(super) fn lose(&mut self, kind: LossKind, count: Option<u64>, text: impl Into<String>) {
        self.loses.push(Loss { kind, count, text: text.into() });
    }

    /// Whether the object is changed or missing; `None` for removals and adoptions.
    pub fn drift(&self) -> Option<DriftClass> {
        match self.action {
            Action::Create => Some(DriftClass::Missing),
            Action::Delete | Action::Adopt => None,
            _ => Some(DriftClass::Changed),
        }
    }
}

/// An object that is there and not declared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extra {
    /// Which.
    pub object: ObjectRef,
    /// Whose.
    pub owner: Owner,
    /// Whether this plan removes it.
    pub pruned: bool,
}

/// What a step leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Expectation {
    /// The object as declared in the step.
    Present,
    /// No such object.
    Absent,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepAction {
    /// One change.
    Change(#[serde(with = "wire::change")] Change),
    /// A queue made anew with its messages.
    Migrate(Box<Migration>),
}

/// When a step comes; steps of one phase are verified by one reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Settings of the vhost.
    Vhost,
    /// Owners are recorded: before anything is made, so that nothing is ever nobody's.
    Claims,
    /// Bindings of others are written down before an end of theirs is made anew.
    Keep,
    /// Exchanges are made.
    Exchanges,
    /// Policies that new queues need.
    EarlyPolicies,
    /// Queues are made.
    Queues,
    /// Bindings are made.
    Bindings,
    /// Policies are changed.
    Policies,
    /// Bindings are removed.
    RemoveBindings,
    /// Queues are removed.
    RemoveQueues,
    /// Policies are removed.
    RemovePolicies,
    /// Exchanges are removed.
    RemoveExchanges,
    /// Bindings that were written down are back, and forgotten.
    Forget,
    /// Owners of what is gone are forgotten.
    Records,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Unique in its plan; sorts in the order of the steps.
    pub id: String,
    /// When.
    pub phase: Phase,
    /// What it is about.
    pub object: ObjectRef,
    /// What is done.
    pub action: StepAction,
    /// What is read afterwards.
    pub verifies: Expectation,
    /// Steps of one unit run to the end once the first has run; the rest is left out if one fails.
    pub unit: Option<String>,
    /// A failure is reported and does not end the run.
    pub optional: bool,
    /// What is lost by it.
    pub loses: Vec<Loss>,
}

/// What was read of one object when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seen {
    /// Which object.
    pub object: ObjectRef,
    /// What of it.
    pub aspect: Aspect,
    /// Its fingerprint; `None` when it was not there.
    pub fingerprint: Option<Fingerprint>,
}
