//! What would have to change: desired against observed, every change classified, in a safe order.
//!
//! Pure: no broker is asked and nothing is changed. The plan is data: it is shown, saved, compared
//! and run, and what is run is what was shown.
//!
//! Order: vhost settings, exchanges (alternates first), policies that new objects need, queues,
//! bindings (new ones before old ones go), other policies, removals in reverse, owner records. A
//! queue or exchange that has to be made anew takes its bindings along, foreign ones too: these steps
//! are one unit, and whoever starts a unit finishes it.

mod bindings;
mod contents;
mod exchanges;
mod fields;
mod policies;
mod queues;
mod removals;
mod stand_ins;
mod vhost;

pub use contents::{
    Action, Blocker, DriftClass, Expectation, Extra, FieldChange, Loss, LossKind, Phase, Plan,
    PlannedChange, Seen, Step, StepAction, ValueSource, Warning,
};
pub use stand_ins::{instead_policy_name, policy_value};

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::broker::{BindingDefinition, Capabilities, Change, QueueType, Snapshot, Version};
use crate::topology::fingerprint::{Fingerprint, canonical_binding};
use crate::topology::keep;
use crate::topology::model::Topology;
use crate::topology::object::{ObjectKind, ObjectRef};
use crate::topology::observed::{Aspect, Fit, Observed, binding_id};
use crate::topology::ownership::{self, Owned, Owner, Owners};

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

/// The plan that makes `observed` into `desired`, as far as `options` allow.
pub fn plan(desired: &Topology, observed: &Snapshot, options: &Options) -> Plan {
    let view = Observed::new(observed);
    let mut planner = Planner::new(desired, &view, options);
    if planner.guard() {
        planner.vhost();
        planner.exchanges();
        planner.queues();
        planner.bindings();
        planner.put_back();
        planner.policies();
        planner.extra();
        planner.adopt();
        planner.forget_the_gone();
        planner.warn_about_policies();
        planner.warn_about_shadows();
    }
    planner.finish()
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
    /// Owners to be recorded first.
    claims: Vec<Change>,
    /// Owners to be forgotten last.
    releases: Vec<Change>,
    /// Bindings of others that an interrupted run wrote down, by their identity.
    kept: BTreeMap<String, BindingDefinition>,
    /// Whether there is something to write such bindings down in.
    keeper: bool,
    /// The file's policies with their patterns read, once somebody asks.
    declared_fits: OnceCell<Vec<Fit<'a>>>,
    /// Identities of the bindings that the file declares.
    declared_bindings: HashSet<String>,
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
            releases: Vec::new(),
            kept: keep::kept(view.snapshot),
            keeper: keep::exists(view.snapshot),
            declared_fits: OnceCell::new(),
            declared_bindings: desired.bindings.iter().map(|b| binding_id(&b.definition)).collect(),
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
        let fingerprint = there.then(|| Fingerprint::of(&canonical_binding(binding)));
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

    fn declared_fits(&self) -> &[Fit<'a>] {
        let desired = self.desired;
        self.declared_fits.get_or_init(|| {
            desired.policies.iter().map(|policy| Fit::new(&policy.definition)).collect()
        })
    }

    fn version(&self) -> Version {
        self.view.snapshot.identity.version
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

    /// Owner records of objects that are gone.
    fn forget_the_gone(&mut self) {
        let (desired, snapshot) = (self.desired, self.view.snapshot);
        let known: BTreeSet<(ObjectKind, &str)> = desired
            .exchanges
            .iter()
            .map(|e| &e.definition)
            .chain(&snapshot.exchanges)
            .map(|e| (ObjectKind::Exchange, e.name.as_str()))
            .chain(
                desired
                    .queues
                    .iter()
                    .map(|q| &q.definition)
                    .chain(snapshot.queues.iter().map(|q| &q.definition))
                    .map(|q| (ObjectKind::Queue, q.name.as_str())),
            )
            .chain(
                desired
                    .policies
                    .iter()
                    .map(|p| &p.definition)
                    .chain(&snapshot.policies)
                    .map(|p| (ObjectKind::Policy, p.name.as_str())),
            )
            .chain(
                desired
                    .operator_policies
                    .iter()
                    .map(|p| &p.definition)
                    .chain(&snapshot.operator_policies)
                    .map(|p| (ObjectKind::OperatorPolicy, p.name.as_str())),
            )
            .collect();
        self.releases.extend(self.owners.forgotten(&desired.owner, &known));
    }

    pub(super) fn finish(mut self) -> Plan {
        if !self.claims.is_empty() && !self.owners.exists {
            self.step(Phase::Claims, ownership::declaration()).optional = true;
        }
        for claim in std::mem::take(&mut self.claims) {
            self.step(Phase::Claims, claim).optional = true;
        }
        for release in std::mem::take(&mut self.releases) {
            self.step(Phase::Records, release).optional = true;
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
}
