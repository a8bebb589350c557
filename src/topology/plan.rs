//! What would have to change: desired against observed, every change classified, in a safe order.
//!
//! Pure: no broker is asked and nothing is changed. The plan is data: it is shown, saved, compared
//! and run, and what is run is what was shown.
//!
//! Order: vhost settings, exchanges (alternates first), policies that new objects need, queues,
//! bindings (new ones before old ones go), other policies, removals in reverse, owner records. A
//! queue or exchange that has to be made anew takes its bindings along, foreign ones too: these steps
//! are one unit, and whoever starts a unit finishes it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::base::id::{PolicyName, QueueName};
use crate::broker::{
    ApplyTo, BindingDefinition, BrokerIdentity, Capabilities, Change, ExchangeDefinition,
    PolicyDefinition, Product, QueueDefinition, QueueState, QueueType, Snapshot, Version,
};

use super::fingerprint::{
    Fingerprint, canonical_exchange, canonical_policy, canonical_queue, resolved_type,
};
use super::migrate::{self, Migration};
use super::model::{Desired, Origin, Topology};
use super::object::{ObjectKind, ObjectRef, is_own_binding, is_own_exchange, is_own_queue};
use super::observed::{Aspect, Fit, Observed, binding_id};
use super::ownership::{self, Owned, Owner, Owners};
use super::wire;

/// What the person allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Kinds of which extra objects of this owner are removed.
    pub prune: BTreeSet<ObjectKind>,
    /// More removals than this are refused altogether.
    pub max_deletes: usize,
    /// Replace queues with their messages.
    pub migrate: bool,
    /// Replace and remove queues although consumers are attached.
    pub while_consumed: bool,
    /// Remove queues with the messages in them.
    pub lose_messages: bool,
    /// Change a queue's limits by a policy of its own where its arguments cannot be changed.
    pub policy_instead: bool,
    /// Record this owner for declared objects that exist already and are nobody's.
    pub adopt: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            prune: BTreeSet::new(),
            max_deletes: 10,
            migrate: false,
            while_consumed: false,
            lose_messages: false,
            policy_instead: false,
            adopt: false,
        }
    }
}

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
    fn new(object: ObjectRef, action: Action) -> Self {
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

    fn origin(mut self, origin: &Origin) -> Self {
        self.declared_at = origin.span.as_ref().map(ToString::to_string);
        self.expanded_from.clone_from(&origin.expanded_from);
        self
    }

    fn block(&mut self, code: &str, why: impl Into<String>, next: impl Into<String>) {
        self.blockers.push(Blocker { code: code.to_owned(), why: why.into(), next: next.into() });
    }

    fn lose(&mut self, kind: LossKind, count: Option<u64>, text: impl Into<String>) {
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
    /// Owners are recorded.
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

/// The plan that makes `observed` into `desired`, as far as `options` allow.
pub fn plan(desired: &Topology, observed: &Snapshot, options: &Options) -> Plan {
    let view = Observed::new(observed);
    let mut planner = Planner::new(desired, &view, options);
    if planner.guard() {
        planner.vhost();
        planner.exchanges();
        planner.queues();
        planner.bindings();
        planner.policies();
        planner.extra();
        planner.adopt();
        planner.warn_about_policies();
    }
    planner.finish()
}

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

pub(super) struct Planner<'a> {
    pub(super) desired: &'a Topology,
    pub(super) view: &'a Observed<'a>,
    pub(super) options: &'a Options,
    owners: Owners,
    capabilities: Capabilities,
    /// The default queue type once the plan has run.
    default_type: Option<QueueType>,
    changes: Vec<PlannedChange>,
    extra: Vec<Extra>,
    warnings: Vec<Warning>,
    refusals: Vec<Blocker>,
    steps: Vec<(Phase, Step)>,
    seen: BTreeMap<(ObjectRef, Aspect), Option<Fingerprint>>,
    claims: Vec<Change>,
    /// Bindings that this plan removes: not put back when an end of theirs is made anew.
    removed_bindings: HashSet<String>,
    /// Exclusive queues: bindings to them cannot be put back by anybody else.
    exclusive: BTreeSet<&'a str>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(desired: &'a Topology, view: &'a Observed<'a>, options: &'a Options) -> Self {
        Planner {
            desired,
            view,
            options,
            owners: Owners::of(view.snapshot),
            capabilities: Capabilities::of(view.snapshot.identity.version),
            default_type: desired
                .default_queue_type
                .as_ref()
                .map(|kind| kind.definition)
                .or(view.snapshot.vhost.default_queue_type),
            changes: Vec::new(),
            extra: Vec::new(),
            warnings: Vec::new(),
            refusals: Vec::new(),
            steps: Vec::new(),
            seen: BTreeMap::new(),
            claims: Vec::new(),
            removed_bindings: HashSet::new(),
            exclusive: view.exclusive_queues(),
        }
    }

    /// Refuses another cluster or vhost than the file is for.
    pub(super) fn guard(&mut self) -> bool {
        let identity = &self.view.snapshot.identity;
        if let Some(name) = &self.desired.cluster_name
            && *name != identity.cluster_name
        {
            self.refusals.push(Blocker {
                code: "wrong-cluster".to_owned(),
                why: format!(
                    "the file is for cluster `{name}`, and this is `{}`",
                    identity.cluster_name
                ),
                next: "connect to the right cluster, or change `cluster.name` in the file"
                    .to_owned(),
            });
        }
        if let Some(name) = &self.desired.vhost
            && *name != identity.vhost.as_str()
        {
            self.refusals.push(Blocker {
                code: "wrong-vhost".to_owned(),
                why: format!("the file is for vhost `{name}`, and this is `{}`", identity.vhost),
                next: "connect to the right vhost, or change `vhost` in the file".to_owned(),
            });
        }
        self.refusals.is_empty()
    }

    fn see(&mut self, object: &ObjectRef, aspect: Aspect) {
        let fingerprint = self.view.fingerprint(object, aspect);
        self.seen.insert((object.clone(), aspect), fingerprint);
    }

    fn see_binding(&mut self, binding: &BindingDefinition, there: bool) {
        let fingerprint =
            there.then(|| Fingerprint::of(&super::fingerprint::canonical_binding(binding)));
        self.seen.insert((ObjectRef::binding(binding), Aspect::Definition), fingerprint);
    }

    fn step(&mut self, phase: Phase, change: Change) -> &mut Step {
        let object = ObjectRef::of(&change);
        let verifies = match change {
            Change::DeleteExchange { .. }
            | Change::DeleteQueue { .. }
            | Change::PurgeQueue(_)
            | Change::Unbind(_)
            | Change::DeletePolicy(_)
            | Change::DeleteOperatorPolicy(_) => Expectation::Absent,
            _ => Expectation::Present,
        };
        self.push(phase, object, StepAction::Change(change), verifies)
    }

    fn push(
        &mut self,
        phase: Phase,
        object: ObjectRef,
        action: StepAction,
        verifies: Expectation,
    ) -> &mut Step {
        let step = Step {
            id: String::new(),
            phase,
            object,
            action,
            verifies,
            unit: None,
            optional: false,
            loses: Vec::new(),
        };
        self.steps.push((phase, step));
        let last = self.steps.len() - 1;
        &mut self.steps[last].1
    }

    fn owner_of(&self, object: Owned<'_>) -> Owner {
        self.owners.owner(object, &self.desired.owner)
    }

    fn claim(&mut self, object: Owned<'_>) {
        if !self.desired.owner.is_empty() && self.owner_of(object) != Owner::Ours {
            self.claims.push(ownership::claim(object, &self.desired.owner));
        }
    }

    /// What keeps a declared object that exists from being changed, whatever the change.
    fn guard_change(&self, change: &mut PlannedChange, protect: bool, destructive: bool) {
        if let Owner::Other(name) = &change.owner {
            change.block(
                "foreign-owner",
                format!("it belongs to `{name}`"),
                format!("take it out of this file, or let `{name}` change it"),
            );
        }
        if protect && destructive {
            change.block(
                "protected",
                "the file says `protect: true`, and this change would make it anew",
                "take `protect` off for this one change, or leave the object as it is",
            );
        }
    }

    fn vhost(&mut self) {
        let desired = self.desired;
        if let Some(kind) = &desired.default_queue_type
            && self.view.snapshot.vhost.default_queue_type != Some(kind.definition)
        {
            let object = ObjectRef::default_queue_type();
            let old = self.view.snapshot.vhost.default_queue_type;
            let mut change =
                PlannedChange::new(object.clone(), Action::Update).origin(&kind.origin);
            change.fields.push(FieldChange {
                field: "defaultQueueType".to_owned(),
                old: old.map(|kind| json!(kind.as_str())),
                old_source: if old.is_some() {
                    ValueSource::Property
                } else {
                    ValueSource::BrokerDefault
                },
                new: Some(json!(kind.definition.as_str())),
            });
            if !self.capabilities.default_queue_type {
                change.block(
                    "unsupported",
                    format!("{} knows no default queue type", self.view.snapshot.identity.version),
                    "name the type of each queue, or use 3.11 or later",
                );
            } else {
                self.see(&object, Aspect::Definition);
                self.step(Phase::Vhost, Change::SetDefaultQueueType(kind.definition));
            }
            self.changes.push(change);
        }
        for (name, limit) in &desired.limits {
            let old = self.view.snapshot.vhost.limits.get(name).copied();
            if old == Some(limit.definition) {
                continue;
            }
            let object = ObjectRef::limit(name);
            let mut change =
                PlannedChange::new(object.clone(), Action::Update).origin(&limit.origin);
            change.fields.push(FieldChange {
                field: name.clone(),
                old: old.map(|n| json!(n)),
                old_source: if old.is_some() { ValueSource::Property } else { ValueSource::Unset },
                new: Some(json!(limit.definition)),
            });
            self.see(&object, Aspect::Definition);
            self.step(
                Phase::Vhost,
                Change::SetVhostLimit { name: name.clone(), value: Some(limit.definition) },
            );
            self.changes.push(change);
        }
    }

    /// Exchanges, those first that are named as alternates by others.
    fn exchanges(&mut self) {
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
                for binding in bindings {
                    self.step(Phase::Exchanges, Change::Bind(binding)).unit.clone_from(&unit);
                }
                self.claim(Owned::Named(ObjectKind::Exchange, definition.name.as_str()));
            }
            self.changes.push(change);
        }
    }

    /// The bindings that are put back after an end of theirs was made anew.
    fn restorable(
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

    fn queues(&mut self) {
        let desired = self.desired;
        for queue in &desired.queues {
            self.queue(queue);
        }
    }

    fn queue(&mut self, queue: &Desired<QueueDefinition>) {
        let wanted = &queue.definition;
        let object = ObjectRef::queue(&wanted.name);
        let interrupted = migrate::leftovers(self.view, &wanted.name);
        let Some(is) = self.view.queue(wanted.name.as_str()) else {
            if interrupted {
                self.migrate(queue, None, Vec::new());
                return;
            }
            let mut change =
                PlannedChange::new(object.clone(), Action::Create).origin(&queue.origin);
            if wanted.exclusive {
                change.block(
                    "exclusive",
                    "an exclusive queue lives and dies with its connection, so a file cannot declare it",
                    "take it out of the file and let the program that uses it declare it",
                );
            } else if self.view.snapshot.identity.product == Product::Embedded
                && resolved_type(wanted, self.default_type) == QueueType::Stream
            {
                change.block(
                    "unsupported",
                    "the embedded broker has no streams",
                    "declare a quorum or classic queue, or use a RabbitMQ",
                );
            } else {
                self.see(&object, Aspect::Definition);
                self.step(Phase::Queues, Change::DeclareQueue(wanted.clone()));
                self.claim(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
            }
            self.changes.push(change);
            return;
        };
        let fields = self.queue_fields(is, wanted);
        if fields.is_empty() {
            if interrupted {
                self.migrate(queue, Some(is), fields);
            }
            return;
        }
        if interrupted {
            self.migrate(queue, Some(is), fields);
            return;
        }
        let policy = self.policy_instead(is, wanted, &fields);
        if self.options.policy_instead
            && let Some(policy) = &policy
        {
            self.put_policy_instead(queue, is, fields, policy);
            return;
        }
        let mut change =
            PlannedChange::new(object, Action::ReplaceWhileEmpty).origin(&queue.origin);
        change.owner = self.owner_of(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
        change.messages = is.messages();
        change.policy.clone_from(&policy);
        if is.definition.exclusive {
            change.fields = fields;
            change.block(
                "exclusive",
                "the queue of that name belongs to one connection",
                "wait until that connection ends, or choose another name",
            );
            self.changes.push(change);
            return;
        }
        if change.messages == Some(0) && !self.options.migrate {
            self.replace_while_empty(queue, is, fields, change);
        } else if self.options.migrate {
            self.migrate(queue, Some(is), fields);
        } else {
            change.fields = fields;
            self.guard_change(&mut change, queue.protect, true);
            let next = match &policy {
                Some(_) => {
                    "let a policy do it (--policy-instead), which touches no message, or move the messages with --migrate"
                }
                None => "move the messages with --migrate, or empty the queue first",
            };
            match change.messages {
                Some(messages) => change.block(
                    "has-messages",
                    format!("these fields cannot be changed in place, and the queue holds {messages} messages"),
                    next,
                ),
                None => change.block(
                    "messages-unknown",
                    "these fields cannot be changed in place, and the broker has not counted the queue's messages yet",
                    format!("plan again in a few seconds; or {next}"),
                ),
            }
            self.changes.push(change);
        }
    }

    fn guard_consumers(&self, change: &mut PlannedChange, is: &QueueState) {
        let Some(consumers) = is.consumers.filter(|n| *n > 0) else { return };
        if self.options.while_consumed {
            change.lose(
                LossKind::Consumers,
                Some(consumers),
                format!("{consumers} consumers are cancelled and have to subscribe again"),
            );
        } else {
            change.block(
                "has-consumers",
                format!("{consumers} consumers are attached, and would be cancelled"),
                "stop them first, or allow it with --while-consumed",
            );
        }
    }

    fn replace_while_empty(
        &mut self,
        queue: &Desired<QueueDefinition>,
        is: &QueueState,
        fields: Vec<FieldChange>,
        mut change: PlannedChange,
    ) {
        let object = change.object.clone();
        change.fields = fields;
        self.guard_change(&mut change, queue.protect, true);
        self.guard_consumers(&mut change, is);
        let bindings =
            self.restorable(self.view.bindings_of_queue(is.definition.name.as_str()), &mut change);
        if !bindings.is_empty() {
            change.lose(
                LossKind::Gap,
                None,
                "messages routed to it while it is away have no queue to go to: --migrate leaves no such gap",
            );
        }
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            self.see(&object, Aspect::Bindings);
            let unit = Some(format!("replace {object}"));
            let loses = change.loses.clone();
            let step = self.step(
                Phase::Queues,
                Change::DeleteQueue {
                    name: is.definition.name.clone(),
                    if_empty: true,
                    if_unused: !self.options.while_consumed,
                },
            );
            step.unit.clone_from(&unit);
            step.loses = loses;
            self.step(Phase::Queues, Change::DeclareQueue(queue.definition.clone()))
                .unit
                .clone_from(&unit);
            for binding in bindings {
                self.step(Phase::Queues, Change::Bind(binding)).unit.clone_from(&unit);
            }
            self.claim(Owned::Named(ObjectKind::Queue, is.definition.name.as_str()));
            self.warn_quorum_window(&object, &queue.definition);
        }
        self.changes.push(change);
    }

    fn warn_quorum_window(&mut self, object: &ObjectRef, wanted: &QueueDefinition) {
        if resolved_type(wanted, self.default_type) == QueueType::Quorum
            && self.view.snapshot.identity.product == Product::RabbitMq
        {
            self.warnings.push(Warning {
                code: "quorum-recreated".to_owned(),
                object: object.clone(),
                text: "a quorum queue that was removed and made again under its name loses confirmed messages if the broker dies within about two seconds".to_owned(),
            });
        }
    }

    /// A queue with messages: see [`migrate`]. `is` is absent when an earlier run was interrupted
    /// after it had removed the queue.
    fn migrate(
        &mut self,
        queue: &Desired<QueueDefinition>,
        is: Option<&QueueState>,
        fields: Vec<FieldChange>,
    ) {
        let wanted = &queue.definition;
        let object = ObjectRef::queue(&wanted.name);
        let mut change = PlannedChange::new(object.clone(), Action::Migrate).origin(&queue.origin);
        change.owner = self.owner_of(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
        change.fields = fields;
        change.messages = is.and_then(QueueState::messages);
        self.guard_change(&mut change, queue.protect, true);
        if let Some(is) = is {
            self.guard_consumers(&mut change, is);
        }
        let old_type = is.map(|is| resolved_type(&is.definition, None));
        let new_type = resolved_type(wanted, self.default_type);
        if old_type == Some(QueueType::Stream) || new_type == QueueType::Stream {
            change.block(
                "stream",
                "a stream is a log: its records cannot be moved with their offsets",
                "declare the new queue under another name and let its readers change over",
            );
        }
        let quorum = old_type == Some(QueueType::Quorum) || new_type == QueueType::Quorum;
        let hold_type = if quorum { QueueType::Quorum } else { QueueType::Classic };
        let names = migrate::Names::of(&wanted.name);
        let mut shadow = None;
        for (policies, operator) in
            [(&self.view.snapshot.policies, false), (&self.view.snapshot.operator_policies, true)]
        {
            let harmful: Vec<&PolicyDefinition> = policies
                .iter()
                .filter(|policy| policy.name.as_str() != migrate::SHADOW_POLICY)
                .filter(|policy| {
                    [&names.hold, &names.new].iter().any(|name| {
                        Fit::new(policy).queue(name.as_str(), hold_type, self.version())
                    })
                })
                .filter(|policy| policy.definition.keys().any(|key| migrate::limits(key)))
                .collect();
            let Some(first) = harmful.first() else { continue };
            if operator {
                change.block(
                    "operator-policy",
                    format!(
                        "operator policy `{}` would limit the temporary queue, and messages could be dropped there",
                        first.name
                    ),
                    format!("narrow its pattern so that it does not match `{}`", names.hold),
                );
            } else {
                let top = policies.iter().map(|policy| policy.priority).max().unwrap_or(0);
                shadow = Some(migrate::shadow_policy(top.saturating_add(1)));
            }
        }
        let mut bindings = is.map_or_else(Vec::new, |is| {
            self.restorable(self.view.bindings_of_queue(is.definition.name.as_str()), &mut change)
        });
        // An interrupted run had moved the bindings to the queue for new messages: they are these.
        for binding in self.view.bindings_of_queue(names.new.as_str()) {
            let mut back = (*binding).clone();
            back.destination = crate::broker::Destination::Queue(wanted.name.clone());
            if !is_own_exchange(&back.source) && !bindings.contains(&back) {
                bindings.push(back);
            }
        }
        bindings.retain(|binding| !self.removed_bindings.contains(&binding_id(binding)));
        change.bindings = bindings.len();
        change.lose(
            LossKind::Gap,
            None,
            format!(
                "messages published straight to `{}` through the default exchange while it is made anew are returned, and those sent before the old ones are back overtake them",
                wanted.name
            ),
        );
        if change.blockers.is_empty() {
            self.see(&object, Aspect::Definition);
            self.see(&object, Aspect::Bindings);
            let migration = Migration {
                queue: wanted.name.clone(),
                definition: wanted.clone(),
                bindings,
                messages: change.messages,
                hold_type,
                shadow_policy: shadow,
                while_consumed: self.options.while_consumed,
            };
            let loses = change.loses.clone();
            let step = self.push(
                Phase::Queues,
                object.clone(),
                StepAction::Migrate(Box::new(migration)),
                Expectation::Present,
            );
            step.loses = loses;
            self.claim(Owned::Named(ObjectKind::Queue, wanted.name.as_str()));
            self.warnings.push(Warning {
                code: "migration-rewrites".to_owned(),
                object,
                text: "moved messages keep properties, headers, body and routing key; they come from another exchange, their time to live starts anew, they have all their deliveries again, and another login's `user_id` moves into a header".to_owned(),
            });
            if old_type == Some(QueueType::Quorum) {
                self.warnings.push(Warning {
                    code: "migration-deliveries".to_owned(),
                    object: ObjectRef::queue(&wanted.name),
                    text: format!(
                        "if the run is interrupted, up to {} messages are returned and lose one of the deliveries that their delivery limit allows",
                        migrate::WINDOW
                    ),
                });
            }
        }
        self.changes.push(change);
    }

    /// Old and new fields of a queue, without those that a policy of ours already sets right.
    fn queue_fields(&self, is: &QueueState, wanted: &QueueDefinition) -> Vec<FieldChange> {
        let old = canonical_queue(&is.definition, None);
        let new = canonical_queue(wanted, self.default_type);
        if old == new {
            return Vec::new();
        }
        let mut fields = Vec::new();
        for (field, key) in
            [("durable", "durable"), ("exclusive", "exclusive"), ("autoDelete", "autoDelete")]
        {
            if old[key] != new[key] {
                fields.push(FieldChange {
                    field: field.to_owned(),
                    old: Some(old[key].clone()),
                    old_source: ValueSource::Property,
                    new: Some(new[key].clone()),
                });
            }
        }
        let applied = self.view.policy_of(is);
        let operator =
            is.operator_policy.as_deref().and_then(|name| self.view.operator_policy(name));
        let own = instead_policy_name(&wanted.name);
        let kind = resolved_type(&is.definition, None);
        for (name, before, after) in table_changes(&old["arguments"], &new["arguments"]) {
            let key = name.strip_prefix("x-").unwrap_or(&name);
            if let Some(policy) = applied
                && policy.name == own
                && kind == resolved_type(wanted, self.default_type)
                && let Some(value) =
                    policy_value(kind, key, before.as_ref(), after.as_ref(), self.capabilities)
                && policy.definition.get(key) == Some(&value)
            {
                continue;
            }
            let (old, old_source) = match (&before, name.as_str()) {
                (Some(_), "x-queue-type")
                    if is.definition.arguments.get("x-queue-type").is_none() =>
                {
                    (before, ValueSource::BrokerDefault)
                }
                (Some(_), _) => (before, ValueSource::Argument),
                (None, _) => policy_source(key, applied, operator),
            };
            fields.push(FieldChange {
                field: format!("arguments.{name}"),
                old,
                old_source,
                new: after,
            });
        }
        fields
    }

    /// The policy that gives `is` the new values, when one can.
    fn policy_instead(
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
            let argument =
                is.definition.arguments.get(name).map(super::fingerprint::canonical_field);
            let value =
                policy_value(kind, key, argument.as_ref(), field.new.as_ref(), self.capabilities)?;
            definition.insert(key.to_owned(), value);
        }
        let others = self
            .view
            .snapshot
            .policies
            .iter()
            .chain(self.desired.policies.iter().map(|policy| &policy.definition))
            .filter(|policy| policy.name != own)
            .filter(|policy| Fit::new(policy).queue(wanted.name.as_str(), kind, self.version()));
        let top = others.map(|policy| policy.priority).max();
        Some(PolicyDefinition {
            name: own,
            pattern: format!("^{}$", regex::escape(wanted.name.as_str())),
            apply_to: ApplyTo::Queues,
            priority: top.map_or(0, |top| top.saturating_add(1)),
            definition,
        })
    }

    fn put_policy_instead(
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

    /// What a policy's new limits do to the messages that are there.
    fn warn_backlog(&mut self, is: &QueueState, definition: &Map<String, Value>) {
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

    fn bindings(&mut self) {
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

    fn policies(&mut self) {
        let desired = self.desired;
        for policy in &desired.policies {
            self.policy(policy, false);
        }
        for policy in &desired.operator_policies {
            self.policy(policy, true);
        }
    }

    fn policy(&mut self, policy: &Desired<PolicyDefinition>, operator: bool) {
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

    fn version(&self) -> Version {
        self.view.snapshot.identity.version
    }

    /// Everything that is there and not declared.
    fn extra(&mut self) {
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

        let names: HashSet<String> =
            desired.bindings.iter().map(|binding| binding_id(&binding.definition)).collect();
        for binding in &snapshot.bindings {
            let to_exclusive = matches!(&binding.destination, crate::broker::Destination::Queue(name) if self.exclusive.contains(name.as_str()));
            if binding.source.is_default()
                || is_own_binding(binding)
                || to_exclusive
                || names.contains(&binding_id(binding))
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
    fn remove(&mut self, candidate: &Candidate<'a>, removals: usize) -> bool {
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
            self.claims.push(ownership::release(candidate.owned(), &self.desired.owner));
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

    /// Declared objects that exist, agree, and are nobody's.
    fn adopt(&mut self) {
        if !self.options.adopt || self.desired.owner.is_empty() {
            return;
        }
        let desired = self.desired;
        let touched: HashSet<ObjectRef> =
            self.changes.iter().map(|change| change.object.clone()).collect();
        let named = desired
            .exchanges
            .iter()
            .filter(|e| !e.definition.name.is_predeclared())
            .map(|e| Owned::Named(ObjectKind::Exchange, e.definition.name.as_str()))
            .chain(
                desired
                    .queues
                    .iter()
                    .map(|q| Owned::Named(ObjectKind::Queue, q.definition.name.as_str())),
            )
            .chain(desired.bindings.iter().map(|b| Owned::Binding(&b.definition)))
            .chain(
                desired
                    .policies
                    .iter()
                    .map(|p| Owned::Named(ObjectKind::Policy, p.definition.name.as_str())),
            )
            .chain(
                desired
                    .operator_policies
                    .iter()
                    .map(|p| Owned::Named(ObjectKind::OperatorPolicy, p.definition.name.as_str())),
            );
        for object in named {
            if self.owner_of(object) == Owner::Nobody && !touched.contains(&object.object()) {
                self.claim(object);
                self.changes.push(PlannedChange::new(object.object(), Action::Adopt));
            }
        }
    }

    /// Two policies of one priority that fit one object: which of them applies is undefined.
    fn warn_about_policies(&mut self) {
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

    pub(super) fn finish(mut self) -> Plan {
        if !self.claims.is_empty() {
            if !self.owners.exists {
                self.step(Phase::Records, ownership::declaration()).optional = true;
            }
            for claim in std::mem::take(&mut self.claims) {
                self.step(Phase::Records, claim).optional = true;
            }
        }
        // What is put back after its end was made anew must not come back only to be removed.
        let removed = &self.removed_bindings;
        self.steps.retain(|(phase, step)| {
            !(*phase <= Phase::Queues
                && matches!(&step.action, StepAction::Change(Change::Bind(b)) if removed.contains(&binding_id(b))))
        });
        for (_, step) in &mut self.steps {
            if let StepAction::Migrate(migration) = &mut step.action {
                migration.bindings.retain(|binding| !removed.contains(&binding_id(binding)));
            }
        }
        self.steps.sort_by_key(|(phase, _)| *phase);
        let width = self.steps.len().to_string().len();
        let steps = self
            .steps
            .into_iter()
            .enumerate()
            .map(|(index, (_, step))| Step { id: format!("{:0width$}", index + 1), ..step })
            .collect();
        Plan {
            broker: self.view.snapshot.identity.clone(),
            owner: self.desired.owner.clone(),
            changes: self.changes,
            extra: self.extra,
            warnings: self.warnings,
            refusals: self.refusals,
            steps,
            seen: self
                .seen
                .into_iter()
                .map(|((object, aspect), fingerprint)| Seen { object, aspect, fingerprint })
                .collect(),
        }
    }

    /// Plans the removal of everything that is declared and ours; see [`super::destroy`].
    pub(super) fn destroy(&mut self) {
        let desired = self.desired;
        let mut candidates: Vec<(Candidate<'a>, &Origin, bool)> = Vec::new();
        for binding in &desired.bindings {
            if let Some(is) = self
                .view
                .snapshot
                .bindings
                .iter()
                .find(|is| binding_id(is) == binding_id(&binding.definition))
            {
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
enum Candidate<'a> {
    Binding(&'a BindingDefinition),
    Queue(&'a QueueState),
    Policy(&'a PolicyDefinition, bool),
    Exchange(&'a ExchangeDefinition),
}

impl Candidate<'_> {
    fn kind(&self) -> ObjectKind {
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

/// Names and values that differ between two JSON objects.
fn table_changes(old: &Value, new: &Value) -> Vec<(String, Option<Value>, Option<Value>)> {
    let empty = Map::new();
    let old = old.as_object().unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| (name.clone(), old.get(name).cloned(), new.get(name).cloned()))
        .collect()
}

fn exchange_fields(is: &ExchangeDefinition, wanted: &ExchangeDefinition) -> Vec<FieldChange> {
    let old = canonical_exchange(is);
    let new = canonical_exchange(wanted);
    let mut fields = Vec::new();
    for field in ["type", "durable", "autoDelete", "internal"] {
        if old[field] != new[field] {
            fields.push(FieldChange {
                field: field.to_owned(),
                old: Some(old[field].clone()),
                old_source: ValueSource::Property,
                new: Some(new[field].clone()),
            });
        }
    }
    for (name, before, after) in table_changes(&old["arguments"], &new["arguments"]) {
        fields.push(FieldChange {
            field: format!("arguments.{name}"),
            old_source: if before.is_some() { ValueSource::Argument } else { ValueSource::Unset },
            old: before,
            new: after,
        });
    }
    fields
}

fn policy_fields(is: &PolicyDefinition, wanted: &PolicyDefinition) -> Vec<FieldChange> {
    let old = canonical_policy(is);
    let new = canonical_policy(wanted);
    let mut fields = Vec::new();
    for field in ["pattern", "applyTo", "priority"] {
        if old[field] != new[field] {
            fields.push(FieldChange {
                field: field.to_owned(),
                old: Some(old[field].clone()),
                old_source: ValueSource::Property,
                new: Some(new[field].clone()),
            });
        }
    }
    for (name, before, after) in table_changes(&old["definition"], &new["definition"]) {
        fields.push(FieldChange {
            field: format!("definition.{name}"),
            old_source: if before.is_some() { ValueSource::Property } else { ValueSource::Unset },
            old: before,
            new: after,
        });
    }
    fields
}

/// The value that a queue without the argument takes from its policies.
fn policy_source(
    key: &str,
    policy: Option<&PolicyDefinition>,
    operator: Option<&PolicyDefinition>,
) -> (Option<Value>, ValueSource) {
    let of = |policy: Option<&PolicyDefinition>| {
        policy.and_then(|p| Some((p.name.to_string(), p.definition.get(key)?.clone())))
    };
    match (of(policy), of(operator)) {
        (Some((name, value)), Some((operator, limit))) => {
            if limit.as_i64() < value.as_i64() {
                (Some(limit), ValueSource::OperatorPolicy(operator))
            } else {
                (Some(value), ValueSource::Policy(name))
            }
        }
        (Some((name, value)), None) => (Some(value), ValueSource::Policy(name)),
        (None, Some((name, value))) => (Some(value), ValueSource::OperatorPolicy(name)),
        (None, None) => (None, ValueSource::Unset),
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
