//! A snapshot made ready to be asked: by name, and in canonical form.
//!
//! Pure: knows what is there and whether a change holds, nothing of what is wanted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::broker::effective::Policies;
use crate::broker::{
    BindingDefinition, Change, Destination, ExchangeDefinition, PolicyDefinition, QueueDefinition,
    QueueState, QueueType, Snapshot, Version, effective,
};

use super::fingerprint::{
    Fingerprint, canonical_binding, canonical_exchange, canonical_policy, canonical_queue,
    resolved_type,
};
use super::object::{ObjectKind, ObjectRef};

/// What of an object was read.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum Aspect {
    /// The object itself.
    Definition,
    /// Every binding from or to it.
    Bindings,
}

/// A snapshot with its objects by name.
#[derive(Debug)]
pub struct Observed<'a> {
    /// What it was made of.
    pub snapshot: &'a Snapshot,
    exchanges: BTreeMap<&'a str, &'a ExchangeDefinition>,
    queues: BTreeMap<&'a str, &'a QueueState>,
    bindings: HashMap<String, &'a BindingDefinition>,
    by_end: HashMap<(ObjectKind, String), Vec<&'a BindingDefinition>>,
    policies: BTreeMap<&'a str, &'a PolicyDefinition>,
    operator_policies: BTreeMap<&'a str, &'a PolicyDefinition>,
    /// Patterns are read once, and only when somebody asks.
    fits: OnceLock<Fits<'a>>,
}

#[derive(Debug)]
struct Fits<'a> {
    policies: Vec<Fit<'a>>,
    operator_policies: Vec<Fit<'a>>,
    ranked: Policies,
}

/// The identity of a binding as text.
pub(crate) fn binding_id(binding: &BindingDefinition) -> String {
    canonical_binding(binding).to_string()
}

impl<'a> Observed<'a> {
    /// Sorts `snapshot` by name.
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let mut by_end: HashMap<_, Vec<_>> = HashMap::new();
        for binding in snapshot.bindings.iter().filter(|binding| !binding.source.is_default()) {
            let source = (ObjectKind::Exchange, binding.source.as_str().to_owned());
            let end = match &binding.destination {
                Destination::Queue(name) => (ObjectKind::Queue, name.as_str().to_owned()),
                Destination::Exchange(name) => (ObjectKind::Exchange, name.as_str().to_owned()),
            };
            if end != source {
                by_end.entry(end).or_default().push(binding);
            }
            by_end.entry(source).or_default().push(binding);
        }
        Observed {
            snapshot,
            exchanges: snapshot.exchanges.iter().map(|e| (e.name.as_str(), e)).collect(),
            queues: snapshot.queues.iter().map(|q| (q.definition.name.as_str(), q)).collect(),
            bindings: snapshot
                .bindings
                .iter()
                .filter(|binding| !binding.source.is_default())
                .map(|binding| (binding_id(binding), binding))
                .collect(),
            by_end,
            policies: snapshot.policies.iter().map(|p| (p.name.as_str(), p)).collect(),
            operator_policies: snapshot
                .operator_policies
                .iter()
                .map(|p| (p.name.as_str(), p))
                .collect(),
            fits: OnceLock::new(),
        }
    }

    fn patterns(&self) -> &Fits<'a> {
        let snapshot = self.snapshot;
        self.fits.get_or_init(|| Fits {
            policies: snapshot.policies.iter().map(Fit::new).collect(),
            operator_policies: snapshot.operator_policies.iter().map(Fit::new).collect(),
            ranked: Policies::compile(&snapshot.policies, &[]),
        })
    }

    /// Every policy, or every operator policy, with its pattern read.
    pub fn fits(&self, operator: bool) -> &[Fit<'a>] {
        let fits = self.patterns();
        if operator { &fits.operator_policies } else { &fits.policies }
    }

    /// The exchange `name`.
    pub fn exchange(&self, name: &str) -> Option<&'a ExchangeDefinition> {
        self.exchanges.get(name).copied()
    }

    /// The queue `name`.
    pub fn queue(&self, name: &str) -> Option<&'a QueueState> {
        self.queues.get(name).copied()
    }

    /// The policy `name`.
    pub fn policy(&self, name: &str) -> Option<&'a PolicyDefinition> {
        self.policies.get(name).copied()
    }

    /// The operator policy `name`.
    pub fn operator_policy(&self, name: &str) -> Option<&'a PolicyDefinition> {
        self.operator_policies.get(name).copied()
    }

    /// Whether exactly this binding exists.
    pub fn has_binding(&self, binding: &BindingDefinition) -> bool {
        self.bindings.contains_key(&binding_id(binding))
    }

    /// This binding as it exists.
    pub fn binding(&self, binding: &BindingDefinition) -> Option<&'a BindingDefinition> {
        self.bindings.get(&binding_id(binding)).copied()
    }

    /// The bindings to queue `name`.
    pub fn bindings_of_queue(&self, name: &str) -> &[&'a BindingDefinition] {
        self.by_end.get(&(ObjectKind::Queue, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The bindings from and to exchange `name`.
    pub fn bindings_of_exchange(&self, name: &str) -> &[&'a BindingDefinition] {
        self.by_end.get(&(ObjectKind::Exchange, name.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// The policy that applies to a queue: the one the broker names, else the matching one of the
    /// highest priority.
    pub fn policy_of(&self, queue: &QueueState) -> Option<&'a PolicyDefinition> {
        if let Some(policy) = queue.policy.as_deref().and_then(|name| self.policy(name)) {
            return Some(policy);
        }
        let kind = resolved_type(&queue.definition, None);
        let version = self.snapshot.identity.version;
        let name = queue.definition.name.as_str();
        let policy = self.patterns().ranked.for_queue(name, kind, version).policy?;
        self.policy(policy.name.as_str())
    }

    /// The fingerprint of one aspect of `object`; `None` when it is not there.
    pub fn fingerprint(&self, object: &ObjectRef, aspect: Aspect) -> Option<Fingerprint> {
        let name = object.name.as_str();
        if aspect == Aspect::Bindings {
            let bindings = match object.kind {
                ObjectKind::Queue => self.bindings_of_queue(name),
                _ => self.bindings_of_exchange(name),
            };
            let mut ids: Vec<String> = bindings.iter().map(|b| binding_id(b)).collect();
            ids.sort_unstable();
            return Some(Fingerprint::of(&json!(ids)));
        }
        Some(Fingerprint::of(&self.canonical(object)?))
    }

    /// The canonical form of `object`; `None` when it is not there.
    pub fn canonical(&self, object: &ObjectRef) -> Option<Value> {
        let name = object.name.as_str();
        match object.kind {
            ObjectKind::Exchange => self.exchange(name).map(canonical_exchange),
            ObjectKind::Queue => self.queue(name).map(|q| canonical_queue(&q.definition, None)),
            ObjectKind::Binding => self
                .bindings
                .values()
                .find(|binding| ObjectRef::binding(binding).name == name)
                .map(|binding| canonical_binding(binding)),
            ObjectKind::Policy => self.policy(name).map(canonical_policy),
            ObjectKind::OperatorPolicy => self.operator_policy(name).map(canonical_policy),
            ObjectKind::Vhost => match name.strip_prefix("limit ") {
                Some(limit) => self.snapshot.vhost.limits.get(limit).map(|value| json!(value)),
                None => self.snapshot.vhost.default_queue_type.map(|kind| json!(kind.as_str())),
            },
        }
    }

    /// Whether `change` has come true: `Err` says how the broker differs.
    pub fn holds(&self, change: &Change) -> Result<(), String> {
        let same = |is: Option<Value>, should: Value| match is {
            None => Err("it is not there".to_owned()),
            Some(is) if is == should => Ok(()),
            Some(is) => Err(format!("it is {is}, not {should}")),
        };
        let gone = |there: bool| if there { Err("it is still there".to_owned()) } else { Ok(()) };
        match change {
            Change::DeclareExchange(exchange) => same(
                self.exchange(exchange.name.as_str()).map(canonical_exchange),
                canonical_exchange(exchange),
            ),
            Change::DeclareQueue(queue) => same(
                self.queue(queue.name.as_str()).map(|q| canonical_queue(&q.definition, None)),
                canonical_queue(queue, self.snapshot.vhost.default_queue_type),
            ),
            Change::Bind(binding) => {
                if self.has_binding(binding) {
                    Ok(())
                } else {
                    Err("it is not there".to_owned())
                }
            }
            Change::PutPolicy(policy) => same(
                self.policy(policy.name.as_str()).map(canonical_policy),
                canonical_policy(policy),
            ),
            Change::PutOperatorPolicy(policy) => same(
                self.operator_policy(policy.name.as_str()).map(canonical_policy),
                canonical_policy(policy),
            ),
            Change::DeleteExchange { name, .. } => gone(self.exchange(name.as_str()).is_some()),
            Change::DeleteQueue { name, .. } => gone(self.queue(name.as_str()).is_some()),
            Change::Unbind(binding) => gone(self.has_binding(binding)),
            Change::DeletePolicy(name) => gone(self.policy(name.as_str()).is_some()),
            Change::DeleteOperatorPolicy(name) => {
                gone(self.operator_policy(name.as_str()).is_some())
            }
            Change::PurgeQueue(_) => Ok(()),
            Change::SetVhostLimit { name, value } => {
                let is = self.snapshot.vhost.limits.get(name).copied();
                if is == *value { Ok(()) } else { Err(format!("it is {is:?}, not {value:?}")) }
            }
            Change::SetDefaultQueueType(kind) => same(
                self.snapshot.vhost.default_queue_type.map(|kind| json!(kind.as_str())),
                json!(kind.as_str()),
            ),
        }
    }

    /// Names of all exclusive queues: they belong to a connection and are nobody else's business.
    pub fn exclusive_queues(&self) -> BTreeSet<&'a str> {
        self.queues
            .values()
            .filter(|q| q.definition.exclusive)
            .map(|q| q.definition.name.as_str())
            .collect()
    }
}

/// A policy with its pattern read once. A pattern that cannot be read here (the broker's dialect
/// knows look-around) fits nothing.
#[derive(Debug)]
pub struct Fit<'p> {
    /// The policy.
    pub policy: &'p PolicyDefinition,
    pattern: Option<effective::Pattern>,
}

impl<'p> Fit<'p> {
    /// Reads the pattern of `policy`.
    pub fn new(policy: &'p PolicyDefinition) -> Self {
        Fit { policy, pattern: effective::compile_pattern(&policy.pattern).ok() }
    }

    fn name(&self, name: &str) -> bool {
        self.pattern.as_ref().is_some_and(|pattern| pattern.is_match(name.as_bytes()))
    }

    /// Whether it is for queues of that name and type, and would not be skipped for one of its keys.
    pub fn queue(&self, name: &str, kind: QueueType, version: Version) -> bool {
        effective::applies_to(self.policy.apply_to, Some(kind))
            && self.name(name)
            && effective::blocking_keys(self.policy, kind, version).is_empty()
    }

    /// Whether it is for exchanges of that name.
    pub fn exchange(&self, name: &str) -> bool {
        effective::applies_to(self.policy.apply_to, None) && self.name(name)
    }
}

/// Whether two queues are equal to the broker, the wanted one's type resolved against `default`.
pub fn same_queue(
    is: &QueueDefinition,
    wanted: &QueueDefinition,
    default: Option<QueueType>,
) -> bool {
    canonical_queue(is, None) == canonical_queue(wanted, default)
}
