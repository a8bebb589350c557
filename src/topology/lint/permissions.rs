//! What a login needs before anything is declared.

use super::codes::{PATTERN, PERMISSION};
use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::diagnostic::{Diagnostic, Findings};
use crate::broker::definition::Destination;
use crate::broker::effective::compile_pattern;
use crate::broker::snapshot::Permissions;
use crate::topology::expand::{exchange_object, queue_object};
use crate::topology::model::Topology;

/// What a login needs on one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PermissionNeed {
    /// ``queue `orders` ``.
    pub object: String,
    /// The name that the regular expressions of a permission are matched with.
    pub name: String,
    /// To declare or delete it.
    pub configure: bool,
    /// To publish to it or bind it.
    pub write: bool,
    /// To consume from it, purge it or bind from it.
    pub read: bool,
    /// What for, once each.
    pub why: Vec<String>,
}

/// What a login needs to apply `topology`, by object. Policies and limits need a user tag
/// (`policymaker`, `administrator`) and stand for themselves.
pub fn permissions_needed(topology: &Topology) -> Vec<PermissionNeed> {
    let mut needs: BTreeMap<String, PermissionNeed> = BTreeMap::new();
    let mut need = |object: String, name: &str, access: [bool; 3], why: String| {
        let name = if name.is_empty() { "amq.default" } else { name };
        let entry = needs.entry(object.clone()).or_insert_with(|| PermissionNeed {
            object,
            name: name.to_owned(),
            configure: false,
            write: false,
            read: false,
            why: Vec::new(),
        });
        entry.configure |= access[0];
        entry.write |= access[1];
        entry.read |= access[2];
        if !entry.why.contains(&why) {
            entry.why.push(why);
        }
    };
    const CONFIGURE: [bool; 3] = [true, false, false];
    const WRITE: [bool; 3] = [false, true, false];
    const READ: [bool; 3] = [false, false, true];
    for exchange in &topology.exchanges {
        let name = exchange.definition.name.as_str();
        need(exchange_object(name), name, CONFIGURE, "declare it".to_owned());
        if let Some(alternate) = exchange.definition.alternate_exchange() {
            need(exchange_object(name), name, READ, "give it an alternate exchange".to_owned());
            let why = format!("be the alternate of {}", exchange_object(name));
            need(exchange_object(alternate), alternate, WRITE, why);
        }
    }
    for queue in &topology.queues {
        let name = queue.definition.name.as_str();
        need(queue_object(name), name, CONFIGURE, "declare it".to_owned());
        let dlx = queue.definition.arguments.get("x-dead-letter-exchange");
        if let Some(dlx) = dlx.and_then(|value| value.as_text()) {
            need(queue_object(name), name, READ, "give it a dead-letter exchange".to_owned());
            let why = format!("take the dead letters of {}", queue_object(name));
            need(exchange_object(dlx), dlx, WRITE, why);
        }
    }
    for binding in &topology.bindings {
        let source = binding.definition.source.as_str();
        let (object, name) = match &binding.definition.destination {
            Destination::Queue(queue) => (queue_object(queue.as_str()), queue.as_str()),
            Destination::Exchange(exchange) => {
                (exchange_object(exchange.as_str()), exchange.as_str())
            }
        };
        need(object, name, WRITE, "bind it".to_owned());
        need(exchange_object(source), source, READ, "bind from it".to_owned());
    }
    needs.into_values().collect()
}

/// What of `needs` the login lacks, one error for each object.
pub fn check_permissions(needs: &[PermissionNeed], permissions: &Permissions) -> Findings {
    let mut findings = Findings::default();
    // An empty expression allows nothing, not everything.
    let compile = |text: &str| compile_pattern(if text.is_empty() { "^$" } else { text });
    let patterns = [
        ("configure", compile(&permissions.configure)),
        ("write", compile(&permissions.write)),
        ("read", compile(&permissions.read)),
    ];
    for (which, pattern) in &patterns {
        if let Err(error) = pattern {
            findings.push(Diagnostic::warning(
                PATTERN,
                format!(
                    "the {which} permission of `{}` cannot be judged here: {error}",
                    permissions.user
                ),
            ));
        }
    }
    for need in needs {
        let lacking: Vec<&str> = patterns
            .iter()
            .zip([need.configure, need.write, need.read])
            .filter(|((_, pattern), needed)| {
                *needed && pattern.as_ref().is_ok_and(|p| !p.is_match(need.name.as_bytes()))
            })
            .map(|((which, _), _)| *which)
            .collect();
        if !lacking.is_empty() {
            findings.push(
                Diagnostic::error(
                    PERMISSION,
                    format!(
                        "user `{}` may not {} on {}, needed to {}",
                        permissions.user,
                        lacking.join(" and "),
                        need.object,
                        need.why.join(", ")
                    ),
                )
                .hint(format!(
                    "an administrator can widen the {} expression to match `{}`",
                    lacking.join(" and "),
                    need.name
                )),
            );
        }
    }
    findings
}
