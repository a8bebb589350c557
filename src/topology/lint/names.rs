//! Names: the broker's own, and the file's rule for them.

use std::collections::HashMap;

use regex::Regex;

use crate::base::diagnostic::Diagnostic;
use crate::topology::expand::{exchange_object, policy_object, queue_object};
use crate::topology::model::{Desired, Origin};

use super::codes::{NAMING, PATTERN, RESERVED_NAME};
use super::{Lint, at};

impl Lint<'_> {
    pub(super) fn names(&mut self) {
        let topology = self.topology;
        let named: Vec<(String, String, &Origin, Option<&Desired<String>>)> = topology
            .exchanges
            .iter()
            .map(|e| {
                let name = e.definition.name.as_str();
                (
                    exchange_object(name),
                    name.to_owned(),
                    &e.origin,
                    topology.naming.exchanges.as_ref(),
                )
            })
            .chain(topology.queues.iter().map(|q| {
                let name = q.definition.name.as_str();
                (queue_object(name), name.to_owned(), &q.origin, topology.naming.queues.as_ref())
            }))
            .chain(
                [(&topology.policies, false), (&topology.operator_policies, true)]
                    .into_iter()
                    .flat_map(|(policies, operator)| {
                        policies.iter().map(move |p| {
                            let name = p.definition.name.as_str();
                            (
                                policy_object(name, operator),
                                name.to_owned(),
                                &p.origin,
                                topology.naming.policies.as_ref(),
                            )
                        })
                    }),
            )
            .collect();
        let naming = &topology.naming;
        let rules: Vec<&Desired<String>> =
            [&naming.exchanges, &naming.queues, &naming.policies].into_iter().flatten().collect();
        let patterns: HashMap<&str, Result<Regex, regex::Error>> = rules
            .iter()
            .map(|rule| {
                let text = rule.definition.as_str();
                (text, Regex::new(&format!("^(?:{text})$")))
            })
            .collect();
        for (object, name, origin, rule) in named {
            let policy = object.contains("policy `");
            if !policy && (name.is_empty() || name.starts_with("amq.")) {
                let message = if name.is_empty() {
                    "the default exchange cannot be declared".to_owned()
                } else {
                    format!("{object}: names that begin with `amq.` belong to the broker")
                };
                self.push(at(
                    origin,
                    None,
                    Diagnostic::error(RESERVED_NAME, message)
                        .hint("bindings may refer to it without its being declared"),
                ));
            }
            let Some(rule) = rule else { continue };
            let Some(Ok(pattern)) = patterns.get(rule.definition.as_str()) else { continue };
            if !pattern.is_match(&name) {
                self.push(at(
                    origin,
                    None,
                    Diagnostic::error(
                        NAMING,
                        format!("{object} does not match the naming rule `{}`", rule.definition),
                    ),
                ));
            }
        }
        for rule in rules {
            if let Some(Err(error)) = patterns.get(rule.definition.as_str()) {
                let why = error.to_string().lines().last().unwrap_or_default().to_owned();
                self.push(at(
                    &rule.origin,
                    None,
                    Diagnostic::error(
                        PATTERN,
                        format!("the naming rule `{}` cannot be read: {why}", rule.definition),
                    ),
                ));
            }
        }
    }
}
