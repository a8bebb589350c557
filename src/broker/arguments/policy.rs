//! What RabbitMQ says to a policy.

use serde_json::Value;

use crate::base::diagnostic::Severity;
use crate::base::suggest::nearest;
use crate::broker::definition::{ApplyTo, PolicyDefinition, QueueType};
use crate::broker::effective::compile_pattern;
use crate::broker::version::Version;

use super::problem::{ArgumentProblem, ProblemKind};
use super::support::{V3_12, V4_0};
use super::table::{
    EXCHANGE_POLICY_KEYS, KeyEffect, PLUGIN_POLICY_KEYS, by_friendly_name, by_policy_key,
    policy_keys, queue_argument,
};
use super::value::{ValueFault, field_of_json};

/// Checks a policy, or an operator policy, as RabbitMQ `version` would.
pub fn check_policy(
    policy: &PolicyDefinition,
    operator: bool,
    version: Version,
) -> Vec<ArgumentProblem> {
    let mut problems = Vec::new();
    if matches!(policy.name.as_str(), "." | "..") {
        problems.push(ArgumentProblem::refused(
            "name",
            ProblemKind::OutOfRange,
            "`.` and `..` name no policy: in the path of a request they are the directory"
                .to_owned(),
        ));
    }
    if let Err(error) = compile_pattern(&policy.pattern) {
        problems.push(
            ArgumentProblem::taken(
                "pattern",
                ProblemKind::Pattern,
                Severity::Error,
                format!("the pattern `{}` cannot be read: {error}", policy.pattern),
            )
            .hint("RabbitMQ reads PCRE; what goes beyond plain regular expressions (look-around, back references) cannot be judged here"),
        );
    }
    let by_type = matches!(
        policy.apply_to,
        ApplyTo::ClassicQueues | ApplyTo::QuorumQueues | ApplyTo::Streams
    );
    if by_type && version < V3_12 {
        problems.push(
            ArgumentProblem::refused(
                "apply-to",
                ProblemKind::NotYet,
                format!("`{}` is refused before 3.12", policy.apply_to),
            )
            .hint("use `queues` and a pattern that matches only those"),
        );
    }
    if policy.definition.is_empty() {
        problems.push(ArgumentProblem::refused(
            "definition",
            ProblemKind::Incomplete,
            "a policy without any key is refused".to_owned(),
        ));
    }
    if let Some(key) = policy.definition.keys().find(|key| key.starts_with("ha-"))
        && !policy.definition.contains_key("ha-mode")
        && version < V4_0
    {
        problems.push(ArgumentProblem::refused(
            key,
            ProblemKind::Incomplete,
            format!("`{key}` without `ha-mode` is refused"),
        ));
    }
    for (key, value) in &policy.definition {
        check_policy_key(key, value, policy.apply_to, operator, version, &mut problems);
    }
    problems
}

fn check_policy_key(
    key: &str,
    value: &Value,
    apply_to: ApplyTo,
    operator: bool,
    version: Version,
    problems: &mut Vec<ArgumentProblem>,
) {
    let role = if operator { "an operator policy" } else { "a policy" };
    if EXCHANGE_POLICY_KEYS.contains(&key) {
        if operator {
            problems.push(ArgumentProblem::refused(
                key,
                ProblemKind::OtherType,
                format!("an operator policy cannot say `{key}`"),
            ));
        } else if !value.is_string() {
            problems.push(ArgumentProblem::refused(
                key,
                ProblemKind::WrongType,
                format!("`{key}` takes the name of an exchange, not {value}"),
            ));
        } else if !matches!(apply_to, ApplyTo::All | ApplyTo::Exchanges) {
            problems.push(ArgumentProblem::taken(
                key,
                ProblemKind::NoEffect,
                Severity::Warning,
                format!("`{key}` is for exchanges; a policy on {apply_to} does nothing with it"),
            ));
        }
        return;
    }
    if let Some((_, plugin)) = PLUGIN_POLICY_KEYS.iter().find(|(name, _)| *name == key) {
        problems.push(ArgumentProblem::taken(
            key,
            ProblemKind::Unknown,
            Severity::Note,
            format!("`{key}` is refused unless the plugin {plugin} is enabled"),
        ));
        return;
    }
    let Some((argument, policy)) = by_policy_key(key).and_then(|a| Some((a, a.policy?))) else {
        let mut problem = ArgumentProblem::refused(
            key,
            ProblemKind::Unknown,
            format!("{role} cannot say `{key}`"),
        );
        let friendly = by_friendly_name(key).or_else(|| queue_argument(key));
        let only_argument = queue_argument(&format!("x-{key}")).is_some();
        if only_argument {
            problem = problem.hint(format!("only the argument `x-{key}` of a queue can"));
        } else if let Some(meant) = friendly.and_then(|a| a.policy) {
            problem = problem.hint(format!("did you mean `{}`?", meant.key));
        } else if let Some(meant) = nearest(key, policy_keys()) {
            problem = problem.hint(format!("did you mean `{meant}`?"));
        }
        problems.push(problem);
        return;
    };
    let support = if operator { policy.operator } else { policy.policy };
    if !support.includes(version) {
        let message = match (support.begins_after(version), support.ended_by(version)) {
            (Some(since), _) => {
                format!("{role} cannot say `{key}` before {}.{}", since.major, since.minor)
            }
            (_, Some(until)) => {
                format!("{role} cannot say `{key}` from {}.{} on", until.major, until.minor)
            }
            _ => format!("{role} cannot say `{key}`"),
        };
        problems.push(ArgumentProblem::refused(key, ProblemKind::NotYet, message));
        return;
    }
    let field = field_of_json(value);
    if key == "delivery-limit" && version >= V4_0 && field.as_i64().is_some_and(|n| n < -1) {
        problems.push(
            ArgumentProblem::taken(
                key,
                ProblemKind::OutOfRange,
                Severity::Warning,
                format!("`delivery-limit: {value}` means unlimited, like any negative number"),
            )
            .hint("write -1"),
        );
        return;
    }
    if let Err(fault) = argument.value.check(&field) {
        let kind = match fault {
            ValueFault::Type => ProblemKind::WrongType,
            ValueFault::Range => ProblemKind::OutOfRange,
        };
        problems.push(ArgumentProblem::refused(
            key,
            kind,
            format!("`{key}` takes {}, not {value}", argument.value.describe()),
        ));
        return;
    }
    if key == "delivery-limit" && field.as_i64() == Some(-1) && version < V4_0 {
        problems.push(
            ArgumentProblem::refused(
                key,
                ProblemKind::OutOfRange,
                "`delivery-limit: -1` is refused before 4.0".to_owned(),
            )
            .hint("leave it out: before 4.0 no limit is the default"),
        );
    }
    if key == "queue-master-locator" && field.as_text() == Some("balanced") && version < V4_0 {
        problems.push(
            ArgumentProblem::refused(
                key,
                ProblemKind::OutOfRange,
                format!("`queue-master-locator: balanced` is refused by {version}"),
            )
            .hint("use queue-leader-locator"),
        );
    }
    let types: &[QueueType] = match apply_to {
        ApplyTo::All | ApplyTo::Queues => {
            &[QueueType::Classic, QueueType::Quorum, QueueType::Stream]
        }
        ApplyTo::ClassicQueues => &[QueueType::Classic],
        ApplyTo::QuorumQueues => &[QueueType::Quorum],
        ApplyTo::Streams => &[QueueType::Stream],
        ApplyTo::Exchanges => &[],
    };
    if !types.iter().any(|t| argument.effect(*t, version) == KeyEffect::Applies) {
        problems.push(ArgumentProblem::taken(
            key,
            ProblemKind::NoEffect,
            Severity::Warning,
            format!("`{key}` has no effect on {apply_to}"),
        ));
    }
}
