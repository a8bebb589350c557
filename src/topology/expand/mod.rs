//! From what the files say to the topology, and back: variables, defaults, presets and sugar go in,
//! plain exchanges, queues, bindings and policies come out, each with its origin.
//!
//! What is written out wins over what a preset or sugar would make under the same name. Pure.
//! Invariant: reading what [`render`] writes gives the same topology but for origins.

mod agents;
mod builder;
mod journal;
mod render;
mod settings;
mod sugar;
mod variables;
mod written;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use render::{render, to_spec};
pub use variables::substitute;

use std::collections::BTreeMap;

use crate::base::diagnostic::{Code, Findings};
use crate::base::document::{self, Node};
use crate::broker::arguments::json_of_field;
use crate::broker::definition::BindingDefinition;
use crate::message::FieldValue;
use crate::topology::model::Topology;
use crate::topology::spec::{PresetSpec, TopologySpec};

use self::builder::Builder;

/// A name that cannot be one.
pub const INVALID_NAME: Code = Code("topology/invalid-name");

/// The same thing said twice.
pub const DUPLICATE: Code = Code("topology/duplicate");

/// Two documents say different things about the whole.
pub const CONFLICT: Code = Code("topology/conflict");

/// A key is needed or does not go with another.
pub const INCOMPLETE: Code = Code("topology/incomplete");

/// A variable that nobody declared, or that has no value.
pub const VARIABLE: Code = Code("topology/variable");

/// A setting that its policy cannot take.
pub const INVALID_SETTING: Code = Code("topology/invalid-setting");

/// The exchange behind which `deadLetter: true` collects.
pub const DEAD_LETTER_EXCHANGE: &str = "dead_letter";

/// The exchange in front of delay queues.
pub const RETRY_EXCHANGE: &str = "retry";

/// The stream that keeps a copy of messages, so that they can be sent again.
pub const JOURNAL: &str = "nexus.journal";

/// What made the journal and its bindings.
pub const MADE_BY_JOURNAL: &str = "journal";

/// The delivery limit of dead-letter queues made here. Every look at a message costs a quorum queue one
/// of its deliveries, and 4.0 drops it after 20; `-1` would mean no limit there, and gone at the
/// first look on 3.10. This many means the same on all of them.
pub const LOOKS_WITHOUT_LOSS: i64 = 1_000_000;

/// Reads documents of kind Topology as one topology: puts in variables (`set` over the files'),
/// decodes and expands.
///
/// # Errors
/// Everything that is wrong in any of them. What is legal but unwise is `lint`'s.
pub fn load(documents: &[Node], set: &BTreeMap<String, String>) -> Result<Topology, Findings> {
    let mut findings = Findings::default();
    let documents = substitute(documents, set)?;
    let mut specs = Vec::new();
    for node in &documents {
        match document::decode::<TopologySpec>(node) {
            Ok(spec) => specs.push(spec),
            Err(found) => findings.extend(found),
        }
    }
    if findings.has_errors() {
        return Err(findings);
    }
    expand(&specs)
}

/// Expands several documents into one topology.
///
/// # Errors
/// Names that cannot be, things said twice (both places are named), keys that do not go together.
pub fn expand(specs: &[TopologySpec]) -> Result<Topology, Findings> {
    let mut builder = Builder::default();
    for spec in specs {
        builder.whole(spec);
    }
    for spec in specs {
        builder.written(spec);
    }
    for spec in specs {
        if let Some(PresetSpec::Agents(agents)) = &spec.preset {
            builder.agents(agents);
        }
    }
    for spec in specs {
        builder.sugar(spec);
    }
    // Last: it copies what all the others have made.
    for spec in specs {
        if let Some(said) = &spec.journal {
            builder.journal(said);
        }
    }
    builder.finish()
}

/// Object names in findings and in [`super::model::Places`].
pub(super) fn queue_object(name: &str) -> String {
    format!("queue `{name}`")
}

pub(super) fn exchange_object(name: &str) -> String {
    format!("exchange `{name}`")
}

pub(super) fn policy_object(name: &str, operator: bool) -> String {
    if operator { format!("operator policy `{name}`") } else { format!("policy `{name}`") }
}

/// What identifies a binding, in words.
pub(super) fn binding_object(binding: &BindingDefinition) -> String {
    let mut text = format!(
        "the binding of {} to {} by `{}`",
        binding.destination,
        binding.source.in_words(),
        binding.routing_key
    );
    if !binding.arguments.is_empty() {
        let arguments = json_of_field(&FieldValue::Table(binding.arguments.clone()));
        text.push_str(&format!(" and {arguments}"));
    }
    text
}
