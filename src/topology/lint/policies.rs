//! Policies that overlap, are skipped, match too much or nothing.

use std::collections::BTreeMap;

use crate::base::diagnostic::Diagnostic;
use crate::broker::effective::{applies_to, compile_pattern};
use crate::topology::expand::{exchange_object, policy_object, queue_object};
use crate::topology::model::Desired;

use super::codes::{POLICY_OVERLAP, POLICY_SKIPPED, POLICY_UNUSED, UNANCHORED_PATTERN};
use super::{Lint, at, quoted};

impl Lint<'_> {
    pub(super) fn policies(&mut self) {
        let topology = self.topology;
        let mut overlaps: BTreeMap<(bool, Vec<String>), Vec<String>> = BTreeMap::new();
        let mut skips: BTreeMap<(bool, String), (Vec<String>, Vec<String>)> = BTreeMap::new();
        for (name, queue) in &self.view.queues {
            for ambiguity in &queue.effective.ambiguities {
                let names = ambiguity.names.iter().map(|n| n.as_str().to_owned()).collect();
                overlaps.entry((ambiguity.operator, names)).or_default().push(queue_object(name));
            }
            for skipped in &queue.effective.skipped {
                let entry =
                    skips.entry((skipped.operator, skipped.name.as_str().to_owned())).or_default();
                entry.0.push(name.clone());
                entry.1.extend(skipped.keys.iter().cloned());
            }
        }
        for (name, exchange) in &self.view.exchanges {
            if let Some(ambiguity) = &exchange.effective.ambiguity {
                let names = ambiguity.names.iter().map(|n| n.as_str().to_owned()).collect();
                overlaps.entry((false, names)).or_default().push(exchange_object(name));
            }
        }
        let find = |operator: bool, name: &str| {
            let list = if operator { &topology.operator_policies } else { &topology.policies };
            list.iter().find(|p| p.definition.name.as_str() == name)
        };
        for ((operator, names), objects) in overlaps {
            let Some(policy) = names.last().and_then(|name| find(operator, name)) else { continue };
            let what = if operator { "operator policies" } else { "policies" };
            self.push(at(
                &policy.origin,
                None,
                Diagnostic::error(
                    POLICY_OVERLAP,
                    format!(
                        "{what} {} have the same priority and all match {}: which one applies is chance",
                        quoted(names.iter().map(String::as_str)),
                        few(&objects)
                    ),
                )
                .hint("give them different priorities, or patterns that do not overlap"),
            ));
        }
        for ((operator, name), (queues, mut keys)) in skips {
            let Some(policy) = find(operator, &name) else { continue };
            keys.sort();
            keys.dedup();
            let queues: Vec<String> = queues.iter().map(|name| queue_object(name)).collect();
            self.push(at(
                &policy.origin,
                None,
                Diagnostic::warning(
                    POLICY_SKIPPED,
                    format!(
                        "{} does not apply to {} at all: queues of that type do not know {}",
                        policy_object(&name, operator),
                        few(&queues),
                        quoted(keys.iter().map(String::as_str))
                    ),
                )
                .hint("split it by queue type"),
            ));
        }
        for (policies, operator) in
            [(&topology.policies, false), (&topology.operator_policies, true)]
        {
            for policy in policies {
                self.pattern(policy, operator);
            }
        }
    }

    pub(super) fn pattern(
        &mut self,
        policy: &Desired<crate::broker::definition::PolicyDefinition>,
        operator: bool,
    ) {
        let definition = &policy.definition;
        let object = policy_object(definition.name.as_str(), operator);
        let place = self.topology.places.get(&object, "pattern").cloned();
        let Ok(pattern) = compile_pattern(&definition.pattern) else { return };
        let text = definition.pattern.as_str();
        if !matches!(text, "" | ".*" | ".+") {
            if !text.starts_with('^') && !text.starts_with("(?") && !text.starts_with(".*") {
                self.push(at(
                    &policy.origin,
                    place.as_ref(),
                    Diagnostic::warning(
                        UNANCHORED_PATTERN,
                        format!("{object}: `{text}` matches anywhere in a name"),
                    )
                    .hint(format!("write `^{text}$`, or `.*` in front when that is meant")),
                ));
            } else if text.starts_with('^') && !text.ends_with('$') && !ends_open(text) {
                self.push(at(
                    &policy.origin,
                    place.as_ref(),
                    Diagnostic::note(
                        UNANCHORED_PATTERN,
                        format!("{object}: `{text}` matches every name that begins so"),
                    )
                    .hint(format!("write `{text}$` when only that name is meant")),
                ));
            }
        }
        let queues = self.view.queues.iter().any(|(name, queue)| {
            applies_to(definition.apply_to, Some(queue.queue_type))
                && pattern.is_match(name.as_bytes())
        });
        let exchanges =
            self.view.exchanges.keys().any(|name| {
                applies_to(definition.apply_to, None) && pattern.is_match(name.as_bytes())
            });
        if !queues && !exchanges {
            self.push(at(
                &policy.origin,
                place.as_ref(),
                Diagnostic::note(
                    POLICY_UNUSED,
                    format!("{object} matches nothing that this topology declares"),
                ),
            ));
        }
    }
}

/// Whether a pattern ends in a way that says "and so on".
fn ends_open(text: &str) -> bool {
    text.ends_with(".*") || text.ends_with("\\.") || text.ends_with(".+") || text.ends_with(')')
}

fn few(objects: &[String]) -> String {
    match objects {
        [] => "nothing".to_owned(),
        [one] => one.clone(),
        [one, two] => format!("{one} and {two}"),
        [one, rest @ ..] => format!("{one} and {} others", rest.len()),
    }
}
