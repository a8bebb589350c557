//! What RabbitMQ says to an exchange's arguments, and to bindings of each type of exchange.

use crate::base::diagnostic::Severity;
use crate::base::suggest::nearest;
use crate::broker::definition::{BindingDefinition, ExchangeDefinition, ExchangeKind};
use crate::broker::version::Version;

use super::problem::{ArgumentProblem, ProblemKind};
use super::support::V4_3_5;
use super::table::PLUGIN_EXCHANGE_ARGUMENTS;
use super::value::describe_value;

/// Checks an exchange as RabbitMQ would, the same in every version.
pub fn check_exchange(exchange: &ExchangeDefinition) -> Vec<ArgumentProblem> {
    let mut problems = Vec::new();
    for (name, value) in exchange.arguments.iter() {
        if name == "alternate-exchange" {
            if value.as_text().is_none() {
                problems.push(ArgumentProblem::refused(
                    name,
                    ProblemKind::WrongType,
                    format!("`alternate-exchange` takes a name, not {}", describe_value(value)),
                ));
            }
            continue;
        }
        let plugin = PLUGIN_EXCHANGE_ARGUMENTS.iter().find(|(argument, _)| *argument == name);
        match plugin {
            Some((_, kind)) if exchange.kind.as_str() == *kind => {}
            Some((_, kind)) => problems.push(ArgumentProblem::taken(
                name,
                ProblemKind::NoEffect,
                Severity::Warning,
                format!("`{name}` is for exchanges of type {kind}; here it has no effect"),
            )),
            None => {
                let known = PLUGIN_EXCHANGE_ARGUMENTS
                    .iter()
                    .map(|(argument, _)| *argument)
                    .chain(["alternate-exchange"]);
                let stripped = name.strip_prefix("x-").unwrap_or(name);
                let meant = nearest(name, known.clone()).or_else(|| nearest(stripped, known));
                let message = format!(
                    "no exchange knows `{name}`; the broker stores it and never looks at it"
                );
                problems.push(match meant {
                    Some(meant) => ArgumentProblem::taken(
                        name,
                        ProblemKind::Unknown,
                        Severity::Warning,
                        message,
                    )
                    .hint(format!("did you mean `{meant}`?")),
                    None => {
                        ArgumentProblem::taken(name, ProblemKind::Unknown, Severity::Note, message)
                    }
                });
            }
        }
    }
    if let ExchangeKind::Other(kind) = &exchange.kind
        && let Some(meant) = nearest(kind, ["direct", "fanout", "topic", "headers"])
    {
        problems.push(
            ArgumentProblem::refused(
                "type",
                ProblemKind::Unknown,
                format!("`{kind}` is no exchange type"),
            )
            .hint(format!("did you mean `{meant}`?")),
        );
    }
    problems
}

/// Checks a binding from an exchange of type `kind` as RabbitMQ `version` would.
pub fn check_binding(
    binding: &BindingDefinition,
    kind: &ExchangeKind,
    version: Version,
) -> Vec<ArgumentProblem> {
    let mut problems = Vec::new();
    let key = binding.routing_key.as_str();
    if key.find('~').is_some_and(|at| at + 1 < key.len()) && !binding.arguments.is_empty() {
        // Measured on 3.10.8 and 4.0.5: what packs key and hash into one name fails on such a key.
        problems.push(
            ArgumentProblem::taken(
                "routing key",
                ProblemKind::Treacherous,
                Severity::Error,
                format!(
                    "with `~` inside its key `{key}` and with arguments, this binding makes the management API fail to list any binding of the vhost"
                ),
            )
            .hint("leave `~` out of the key; a binding without arguments may have it"),
        );
    }
    let x_match = binding.arguments.get("x-match");
    match kind {
        ExchangeKind::Headers => {
            let mode = match x_match {
                None => Some("all"),
                Some(value) => value
                    .as_text()
                    .filter(|text| ["all", "any", "all-with-x", "any-with-x"].contains(text)),
            };
            let Some(mode) = mode else {
                problems.push(ArgumentProblem::refused(
                    "x-match",
                    ProblemKind::OutOfRange,
                    format!(
                        "`x-match` takes one of all, any, all-with-x, any-with-x, not {}",
                        x_match.map_or_else(String::new, describe_value)
                    ),
                ));
                return problems;
            };
            let with_x = mode.ends_with("-with-x");
            let compared = binding
                .arguments
                .iter()
                .filter(|(name, _)| *name != "x-match" && (with_x || !name.starts_with("x-")))
                .count();
            if compared == 0 {
                let any = mode.starts_with("any");
                let effect = if any { "matches nothing" } else { "matches every message" };
                let problem = ArgumentProblem::taken(
                    "x-match",
                    ProblemKind::Treacherous,
                    Severity::Warning,
                    format!("a binding by headers that compares none {effect}"),
                );
                problems.push(
                    if binding.arguments.iter().any(|(n, _)| n.starts_with("x-") && n != "x-match")
                    {
                        problem.hint(
                            "headers that begin with `x-` count only with all-with-x or any-with-x",
                        )
                    } else {
                        problem.hint("name the headers to compare")
                    },
                );
            }
        }
        ExchangeKind::Topic => {
            let hashes =
                binding.routing_key.as_str().split('.').filter(|word| *word == "#").count();
            if hashes > 2 {
                let message = "4.3.5 and later take at most two `#` in a binding key".to_owned();
                problems.push(if version >= V4_3_5 {
                    ArgumentProblem::refused("routing key", ProblemKind::OutOfRange, message)
                } else {
                    ArgumentProblem::taken(
                        "routing key",
                        ProblemKind::OutOfRange,
                        Severity::Warning,
                        message,
                    )
                });
            }
            let inside = binding
                .routing_key
                .as_str()
                .split('.')
                .any(|word| word.len() > 1 && word.contains(['#', '*']));
            if inside {
                problems.push(
                    ArgumentProblem::taken(
                        "routing key",
                        ProblemKind::Treacherous,
                        Severity::Warning,
                        format!(
                            "`#` and `*` are wildcards only as whole words; in `{}` one is literal",
                            binding.routing_key
                        ),
                    )
                    .hint("put a dot around it"),
                );
            }
        }
        ExchangeKind::Direct => {
            let key = binding.routing_key.as_str();
            if key.split('.').any(|word| word == "#" || word == "*") {
                problems.push(
                    ArgumentProblem::taken(
                        "routing key",
                        ProblemKind::Treacherous,
                        Severity::Warning,
                        format!("a direct exchange takes `{key}` literally"),
                    )
                    .hint("wildcards need a topic exchange"),
                );
            }
        }
        ExchangeKind::Fanout => {
            if !binding.routing_key.as_str().is_empty() {
                problems.push(ArgumentProblem::taken(
                    "routing key",
                    ProblemKind::NoEffect,
                    Severity::Note,
                    "a fanout exchange does not look at keys".to_owned(),
                ));
            }
        }
        ExchangeKind::Other(_) => {}
    }
    let headers_given = binding.arguments.iter().any(|(name, _)| name != "x-match");
    if !matches!(kind, ExchangeKind::Headers | ExchangeKind::Other(_))
        && (x_match.is_some() || headers_given)
    {
        problems.push(ArgumentProblem::taken(
            "arguments",
            ProblemKind::NoEffect,
            Severity::Warning,
            format!("a {kind} exchange does not look at a binding's arguments"),
        ));
    }
    problems
}
