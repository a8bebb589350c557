//! Settings of the vhost itself.

use serde_json::json;

use crate::broker::Change;
use crate::topology::object::ObjectRef;
use crate::topology::observed::Aspect;

use super::Planner;
use super::contents::{Action, FieldChange, Phase, PlannedChange, ValueSource};

impl<'a> Planner<'a> {
    pub(super) fn vhost(&mut self) {
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
}
