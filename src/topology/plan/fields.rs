//! Field by field: what is and what shall be.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::broker::{ExchangeDefinition, PolicyDefinition, QueueDefinition, QueueState};
use crate::topology::fingerprint::{
    canonical_exchange, canonical_policy, canonical_queue, resolved_type,
};

use super::Planner;
use super::contents::{FieldChange, ValueSource};
use super::stand_ins::{instead_policy_name, policy_value};

impl<'a> Planner<'a> {
    /// Old and new fields of a queue, without those that a policy of ours already sets right.
    pub(super) fn queue_fields(
        &self,
        is: &QueueState,
        wanted: &QueueDefinition,
    ) -> Vec<FieldChange> {
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

pub(super) fn exchange_fields(
    is: &ExchangeDefinition,
    wanted: &ExchangeDefinition,
) -> Vec<FieldChange> {
    let old = canonical_exchange(is);
    let new = canonical_exchange(wanted);
    let mut fields = changed_properties(&old, &new, &["type", "durable", "autoDelete", "internal"]);
    fields.extend(changed_entries(&old, &new, "arguments", ValueSource::Argument));
    fields
}

pub(super) fn policy_fields(is: &PolicyDefinition, wanted: &PolicyDefinition) -> Vec<FieldChange> {
    let old = canonical_policy(is);
    let new = canonical_policy(wanted);
    let mut fields = changed_properties(&old, &new, &["pattern", "applyTo", "priority"]);
    fields.extend(changed_entries(&old, &new, "definition", ValueSource::Property));
    fields
}

fn changed_properties(old: &Value, new: &Value, names: &[&str]) -> Vec<FieldChange> {
    let changed = names.iter().filter(|name| old[**name] != new[**name]);
    changed
        .map(|name| FieldChange {
            field: (*name).to_owned(),
            old: Some(old[*name].clone()),
            old_source: ValueSource::Property,
            new: Some(new[*name].clone()),
        })
        .collect()
}

/// What changes inside `table`; a value that is there now comes from `source`.
fn changed_entries(
    old: &Value,
    new: &Value,
    table: &str,
    source: ValueSource,
) -> impl Iterator<Item = FieldChange> {
    table_changes(&old[table], &new[table]).into_iter().map(move |(name, before, after)| {
        FieldChange {
            field: format!("{table}.{name}"),
            old_source: if before.is_some() { source.clone() } else { ValueSource::Unset },
            old: before,
            new: after,
        }
    })
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
