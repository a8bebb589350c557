//! How a broker differs from a file, without a word on what to do about it.
//!
//! Pure.

use serde::Serialize;

use crate::broker::{BrokerIdentity, Snapshot};

use super::model::Topology;
use super::object::ObjectRef;
use super::ownership::Owner;
use super::plan::{self, Blocker, DriftClass, Extra, FieldChange, Options};

/// Three classes of difference.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftReport {
    /// The broker that was read.
    pub broker: BrokerIdentity,
    /// Objects that are there and different.
    pub changed: Vec<Drifted>,
    /// Objects that are declared and not there.
    pub missing: Vec<Drifted>,
    /// Objects that are there and not declared, with their owners.
    pub extra: Vec<Extra>,
    /// Why nothing could be compared (another cluster); empty when it was.
    pub refusals: Vec<Blocker>,
}

/// One object that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drifted {
    /// Which.
    pub object: ObjectRef,
    /// Whose.
    pub owner: Owner,
    /// Old and new values.
    pub fields: Vec<FieldChange>,
    /// `FILE:LINE:COLUMN`.
    pub declared_at: Option<String>,
}

impl DriftReport {
    /// Whether declared objects are all there and equal; extra ones do not count.
    pub fn agrees(&self) -> bool {
        self.changed.is_empty() && self.missing.is_empty() && self.refusals.is_empty()
    }
}

/// Compares `observed` with `desired`.
pub fn diff(desired: &Topology, observed: &Snapshot) -> DriftReport {
    let plan = plan::plan(desired, observed, &Options::default());
    let of = |class: DriftClass| {
        plan.changes
            .iter()
            .filter(|change| change.drift() == Some(class))
            .map(|change| Drifted {
                object: change.object.clone(),
                owner: change.owner.clone(),
                fields: change.fields.clone(),
                declared_at: change.declared_at.clone(),
            })
            .collect()
    };
    DriftReport {
        changed: of(DriftClass::Changed),
        missing: of(DriftClass::Missing),
        broker: plan.broker.clone(),
        extra: plan.extra,
        refusals: plan.refusals,
    }
}
