//! What is wrong with a topology before any broker sees it: RabbitMQ's own rules for a version, and
//! what is legal and loses messages all the same.
//!
//! One function per rule; each code is explained by `nexusctl explain CODE`. Pure.

mod bindings;
mod codes;
mod dead_letters;
mod definitions;
mod journal;
mod names;
mod permissions;
mod policies;
mod queues;
#[cfg(test)]
mod tests;

pub use codes::*;
pub use permissions::{PermissionNeed, check_permissions, permissions_needed};

use std::collections::{BTreeMap, BTreeSet};

use crate::base::diagnostic::{Code, Diagnostic, Findings, Severity, Span};
use crate::broker::arguments::{ArgumentProblem, ProblemKind};
use crate::broker::definition::Destination;
use crate::broker::routing::RoutingTable;
use crate::broker::version::Version;
use crate::topology::model::{Origin, Topology};
use crate::topology::view::{TopologyView, ViewQueue};

/// The versions that `--target` knows by name.
pub const TARGETS: &[Version] =
    &[Version::new(3, 10, 0), Version::new(3, 13, 0), Version::new(4, 0, 0), Version::new(4, 3, 0)];

/// Everything that is wrong or unwise about `topology` on RabbitMQ `target`, in the order of the file.
pub fn validate(topology: &Topology, target: Version) -> Findings {
    let view = TopologyView::of_topology(topology, target);
    let routing = view.routing();
    let mut lint = Lint {
        topology,
        view: &view,
        routing: &routing,
        target,
        findings: Findings::default(),
        dead_letters: BTreeMap::new(),
        keys: BTreeMap::new(),
        collects: BTreeMap::new(),
        leads: view.bindings.iter().map(|binding| binding.source.as_str()).collect(),
    };
    lint.find_dead_letters();
    lint.names();
    lint.definitions();
    lint.bindings();
    lint.alternates();
    lint.dead_letter_places();
    lint.loops();
    lint.reach();
    lint.queues();
    lint.journal();
    lint.policies();
    lint.vhost();
    let mut findings = lint.findings;
    findings.sort();
    findings
}

struct Lint<'a> {
    topology: &'a Topology,
    view: &'a TopologyView,
    routing: &'a RoutingTable,
    target: Version,
    findings: Findings,
    /// Where each queue's dead letters certainly or possibly go.
    dead_letters: BTreeMap<String, Vec<String>>,
    /// Keys without wildcards by which each queue is bound.
    keys: BTreeMap<String, BTreeSet<String>>,
    /// Queues whose dead letters end in another, by that other.
    collects: BTreeMap<String, Vec<String>>,
    /// Exchanges that something is bound to.
    leads: BTreeSet<&'a str>,
}

fn code_of(kind: &ProblemKind) -> Code {
    match kind {
        ProblemKind::OtherType => ARGUMENT_OF_OTHER_TYPE,
        ProblemKind::WrongType => ARGUMENT_TYPE,
        ProblemKind::OutOfRange => ARGUMENT_RANGE,
        ProblemKind::Removed => REMOVED,
        ProblemKind::NotYet => NOT_YET,
        ProblemKind::Unknown => UNKNOWN,
        ProblemKind::Incomplete => NEEDS_ANOTHER,
        ProblemKind::Property => PROPERTY,
        ProblemKind::NoEffect => NO_EFFECT,
        ProblemKind::Treacherous => TREACHEROUS,
        ProblemKind::Pattern => PATTERN,
    }
}

/// A finding with the object's own place, and what made the object when nobody wrote it.
fn at(origin: &Origin, span: Option<&Span>, mut finding: Diagnostic) -> Diagnostic {
    if let Some(sugar) = &origin.expanded_from {
        finding.message.push_str(&format!(" (made by {sugar})"));
    }
    finding.at(span.or(origin.span.as_ref()).cloned())
}

fn hinted(finding: Diagnostic, hint: Option<String>) -> Diagnostic {
    match hint {
        Some(hint) => finding.hint(hint),
        None => finding,
    }
}

fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Lint<'_> {
    fn push(&mut self, finding: Diagnostic) {
        self.findings.push(finding);
    }

    fn problem(&mut self, object: &str, origin: &Origin, problem: ArgumentProblem) {
        let make = match problem.severity {
            Severity::Error => Diagnostic::error,
            Severity::Warning => Diagnostic::warning,
            Severity::Note => Diagnostic::note,
        };
        let finding = make(code_of(&problem.kind), format!("{object}: {}", problem.message));
        let span = self.topology.places.get(object, &problem.argument);
        self.push(at(origin, span, hinted(finding, problem.hint)));
    }

    fn queue(&self, name: &str) -> Option<&ViewQueue> {
        self.view.queues.get(name)
    }

    /// Keys that messages in `queue` can carry: its own name, and those of its plain bindings.
    fn keys_of(&self, queue: &str) -> Vec<String> {
        let mut keys = vec![queue.to_owned()];
        keys.extend(self.keys.get(queue).cloned().unwrap_or_default());
        keys
    }

    fn find_dead_letters(&mut self) {
        for binding in &self.view.bindings {
            let key = binding.routing_key.as_str();
            let Destination::Queue(queue) = &binding.destination else { continue };
            if !key.split('.').any(|word| word == "#" || word == "*") {
                self.keys.entry(queue.as_str().to_owned()).or_default().insert(key.to_owned());
            }
        }
        for (name, queue) in &self.view.queues {
            let keys = self.keys_of(name);
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            if let Some(targets) = self.view.dead_letter_targets(self.routing, queue, &keys) {
                let targets: Vec<String> =
                    targets.iter().map(|target| target.as_str().to_owned()).collect();
                for target in targets.iter().filter(|target| *target != name) {
                    self.collects.entry(target.clone()).or_default().push(name.clone());
                }
                self.dead_letters.insert(name.clone(), targets);
            }
        }
    }
}
