//! What a queue or exchange really does: arguments, policies, operator policies and defaults folded
//! into one value per setting, each with where it comes from.
//!
//! RabbitMQ resolves argument against policy differently for each key and queue type; the rules here
//! are those measured by effect on 3.10.8 and 4.0.5. Pure.
//!
//! Patterns of policies are PCRE in RabbitMQ and are read by the `regex` crate here, byte by byte and
//! unanchored like there. Look-around and back references do not exist here: such a pattern matches
//! nothing and is reported by [`Policies::problems`].

use std::collections::BTreeMap;
use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::base::id::PolicyName;
use crate::message::FieldValue;

use super::arguments::{
    KeyEffect, QUEUE_ARGUMENTS, describe_value, field_of_json, policy_key_effect,
};
use super::definition::{
    ApplyTo, ExchangeDefinition, PolicyDefinition, QueueDefinition, QueueType,
};
use super::version::{Capabilities, Version};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An argument of the object.
    Argument,
    /// The policy of this name.
    Policy(PolicyName),
    /// The operator policy of this name.
    OperatorPolicy(PolicyName),
    /// The vhost's setting.
    VhostDefault,
    /// Nobody said anything: what the broker does then.
    BrokerDefault,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Argument => f.write_str("argument"),
            Source::Policy(name) => write!(f, "policy `{name}`"),
            Source::OperatorPolicy(name) => write!(f, "operator policy `{name}`"),
            Source::VhostDefault => f.write_str("vhost default"),
            Source::BrokerDefault => f.write_str("broker default"),
        }
    }
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// The value.
    pub value: FieldValue,
    /// Where it comes from.
    pub source: Source,
}

/// What applies, and what lost against it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The value.
    pub value: FieldValue,
    /// Where it comes from.
    pub source: Source,
    /// Values of the same setting that do not apply, with their sources.
    pub overrides: Vec<Sourced>,
}

impl Setting {
    fn of(winner: Sourced, losers: Vec<Sourced>) -> Self {
        Setting { value: winner.value, source: winner.source, overrides: losers }
    }
}

/// `5 (argument), over 10 (policy "x")`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", describe_value(&self.value), self.source)?;
        for loser in &self.overrides {
            write!(f, ", over {} ({})", describe_value(&loser.value), loser.source)?;
        }
        Ok(())
    }
}

/// A policy that matches by name and type and still does not apply, because one of its keys is
/// unknown to queues of this type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedPolicy {
    /// Its name.
    pub name: PolicyName,
    /// Whether it is an operator policy.
    pub operator: bool,
    /// The keys that are in its way.
    pub keys: Vec<String>,
}

/// Several policies of the highest priority match: which one applies is not defined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ambiguity {
    /// Whether these are operator policies.
    pub operator: bool,
    /// The priority they share.
    pub priority: i64,
    /// Their names, sorted. The first is taken here, as 3.10 does; 4.0 takes any.
    pub names: Vec<PolicyName>,
}

/// Policies with their patterns compiled once, for many objects.
#[derive(Debug)]
pub struct Policies {
    policies: Vec<Compiled>,
    operator_policies: Vec<Compiled>,
}

#[derive(Debug)]
struct Compiled {
    definition: PolicyDefinition,
    pattern: Result<Pattern, String>,
}

/// A policy's pattern, read.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: Regex,
    /// The only name that it matches, when it spells out one: comparing is much quicker, and a policy
    /// for each queue asks for every policy whether it is for every queue.
    only: Option<Vec<u8>>,
}

impl Pattern {
    /// Whether it is for this name.
    pub fn is_match(&self, name: &[u8]) -> bool {
        match &self.only {
            Some(only) => only == name,
            None => self.regex.is_match(name),
        }
    }
}

/// The name that `^name$` spells out.
fn only_name(pattern: &str) -> Option<Vec<u8>> {
    let mut letters = pattern.strip_prefix('^')?.strip_suffix('$')?.chars();
    let mut name = String::new();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => name.push(letters.next().filter(char::is_ascii_punctuation)?),
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '|' | '^' | '$' => {
                return None;
            }
            plain => name.push(plain),
        }
    }
    Some(name.into_bytes())
}

/// Reads a policy's pattern: unanchored, byte by byte.
///
/// # Errors
/// What the pattern does that cannot be read here.
pub fn compile_pattern(pattern: &str) -> Result<Pattern, String> {
    let build = |unicode: bool| {
        RegexBuilder::new(pattern)
            .unicode(unicode)
            .size_limit(1 << 20)
            .nest_limit(100)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                other => other.to_string().lines().last().unwrap_or_default().to_owned(),
            })
    };
    let regex = build(false).or_else(|_| build(true))?;
    Ok(Pattern { regex, only: only_name(pattern) })
}

/// Which policy applies to an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PolicyMatch<'a> {
    /// The one that applies.
    pub policy: Option<&'a PolicyDefinition>,
    /// Those that match by name and are skipped for one of their keys.
    pub skipped: Vec<SkippedPolicy>,
    /// More than one of the same priority would apply.
    pub ambiguity: Option<Ambiguity>,
    /// Names of those that match and lose by priority, highest first.
    pub outranked: Vec<PolicyName>,
}

impl Policies {
    /// Compiles the patterns of both kinds.
    pub fn compile(policies: &[PolicyDefinition], operator_policies: &[PolicyDefinition]) -> Self {
        let compile = |list: &[PolicyDefinition]| {
            let mut compiled: Vec<Compiled> = list
                .iter()
                .map(|definition| Compiled {
                    pattern: compile_pattern(&definition.pattern),
                    definition: definition.clone(),
                })
                .collect();
            compiled.sort_by(|a, b| {
                b.definition
                    .priority
                    .cmp(&a.definition.priority)
                    .then_with(|| a.definition.name.cmp(&b.definition.name))
            });
            compiled
        };
        Policies { policies: compile(policies), operator_policies: compile(operator_policies) }
    }

    /// Policies whose patterns cannot be judged here, each with the reason.
    pub fn problems(&self) -> impl Iterator<Item = (&PolicyName, &str)> {
        self.policies
            .iter()
            .chain(&self.operator_policies)
            .filter_map(|p| Some((&p.definition.name, p.pattern.as_ref().err()?.as_str())))
    }

    /// The policy for a queue.
    pub fn for_queue(
        &self,
        name: &str,
        queue_type: QueueType,
        version: Version,
    ) -> PolicyMatch<'_> {
        pick(&self.policies, name, false, Some((queue_type, version)))
    }

    /// The operator policy for a queue.
    pub fn operator_for_queue(
        &self,
        name: &str,
        queue_type: QueueType,
        version: Version,
    ) -> PolicyMatch<'_> {
        pick(&self.operator_policies, name, true, Some((queue_type, version)))
    }

    /// The policy for an exchange.
    pub fn for_exchange(&self, name: &str) -> PolicyMatch<'_> {
        pick(&self.policies, name, false, None)
    }
}

/// Whether policies that say `apply_to` are for queues of this type (`None`: for exchanges).
pub fn applies_to(apply_to: ApplyTo, queue_type: Option<QueueType>) -> bool {
    match (apply_to, queue_type) {
        (ApplyTo::All, _)
        | (ApplyTo::Exchanges, None)
        | (ApplyTo::Queues, Some(_))
        | (ApplyTo::ClassicQueues, Some(QueueType::Classic))
        | (ApplyTo::QuorumQueues, Some(QueueType::Quorum))
        | (ApplyTo::Streams, Some(QueueType::Stream)) => true,
        (
            ApplyTo::Exchanges
            | ApplyTo::Queues
            | ApplyTo::ClassicQueues
            | ApplyTo::QuorumQueues
            | ApplyTo::Streams,
            _,
        ) => false,
    }
}

/// `compiled` is sorted by priority downward, then by name.
fn pick<'a>(
    compiled: &'a [Compiled],
    name: &str,
    operator: bool,
    queue: Option<(QueueType, Version)>,
) -> PolicyMatch<'a> {
    let mut found = PolicyMatch::default();
    let mut rivals: Vec<&PolicyDefinition> = Vec::new();
    for candidate in compiled {
        let policy = &candidate.definition;
        let matches =
            candidate.pattern.as_ref().is_ok_and(|pattern| pattern.is_match(name.as_bytes()));
        if !matches || !applies_to(policy.apply_to, queue.map(|(t, _)| t)) {
            continue;
        }
        if let Some((queue_type, version)) = queue {
            let keys = blocking_keys(policy, queue_type, version);
            if !keys.is_empty() {
                found.skipped.push(SkippedPolicy { name: policy.name.clone(), operator, keys });
                continue;
            }
        }
        match found.policy {
            None => {
                found.policy = Some(policy);
                rivals.push(policy);
            }
            Some(winner) if winner.priority == policy.priority => rivals.push(policy),
            Some(_) => found.outranked.push(policy.name.clone()),
        }
    }
    if let [first, _, ..] = rivals.as_slice() {
        found.ambiguity = Some(Ambiguity {
            operator,
            priority: first.priority,
            names: rivals.iter().map(|policy| policy.name.clone()).collect(),
        });
    }
    found
}

/// The keys for which `policy` does not apply to queues of `queue_type` at all.
pub fn blocking_keys(
    policy: &PolicyDefinition,
    queue_type: QueueType,
    version: Version,
) -> Vec<String> {
    policy
        .definition
        .keys()
        .filter(|key| policy_key_effect(key, queue_type, version) == KeyEffect::SkipsPolicy)
        .cloned()
        .collect()
}

/// The type of a queue: its argument, else the vhost's default when the queue can be of that type,
/// else classic.
pub fn resolve_queue_type(
    queue: &QueueDefinition,
    vhost_default: Option<QueueType>,
) -> (QueueType, Source) {
    if let Some(queue_type) = queue.queue_type() {
        return (queue_type, Source::Argument);
    }
    let replicable = queue.durable && !queue.exclusive && !queue.auto_delete;
    match vhost_default {
        Some(default) if default == QueueType::Classic || replicable => {
            (default, Source::VhostDefault)
        }
        _ => (QueueType::Classic, Source::BrokerDefault),
    }
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// Drops (or dead-letters) the oldest message.
    DropHead,
    /// Nacks the new message.
    RejectPublish,
    /// Nacks the new message and dead-letters a copy of it.
    RejectPublishDlx,
}

/// How sure a dead letter arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadLetterStrategy {
    /// It may be lost between the queues.
    AtMostOnce,
    /// It stays in the source until its target has confirmed it.
    AtLeastOnce,
}

/// Everything a queue does, with reasons.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveQueue {
    /// Its type.
    pub queue_type: QueueType,
    /// The version these rules are of.
    pub version: Version,
    /// Settings by their name without `x-` (`message-ttl`); those nobody set are absent.
    pub settings: BTreeMap<&'static str, Setting>,
    /// The policy that applies.
    pub policy: Option<PolicyName>,
    /// The operator policy that applies.
    pub operator_policy: Option<PolicyName>,
    /// Policies that match and are skipped for one of their keys.
    pub skipped: Vec<SkippedPolicy>,
    /// Policies of equal priority: the result is a guess.
    pub ambiguities: Vec<Ambiguity>,
    /// Policies that match and lose by priority.
    pub outranked: Vec<PolicyName>,
}

/// How an argument and a policy for the same setting become one value.
#[derive(Clone, Copy)]
enum Resolve {
    ArgumentWins,
    PolicyWins,
    Smaller,
    /// Smaller; of a negative (unlimited) and another the other.
    SmallerLimit,
}

fn resolve_rule(setting: &str, queue_type: QueueType, version: Version) -> Resolve {
    let v4 = version.major >= 4;
    match (setting, queue_type) {
        (_, QueueType::Stream) => Resolve::PolicyWins,
        // Measured: 3.10.8 takes the policy, 4.0.5 the smaller.
        ("expires", QueueType::Quorum) if !v4 => Resolve::PolicyWins,
        ("expires" | "message-ttl" | "max-length" | "max-length-bytes", _) => Resolve::Smaller,
        ("max-in-memory-length" | "max-in-memory-bytes", _) => Resolve::Smaller,
        ("delayed-retry-min" | "delayed-retry-max", _) => Resolve::Smaller,
        // Measured: on 3.10.8 an argument of -1 is simply the smaller one.
        ("delivery-limit", _) if v4 => Resolve::SmallerLimit,
        ("delivery-limit", _) => Resolve::Smaller,
        ("overflow" | "delayed-retry-type", QueueType::Quorum) => Resolve::PolicyWins,
        _ => Resolve::ArgumentWins,
    }
}

fn fold(first: Sourced, second: Sourced, rule: Resolve) -> (Sourced, Sourced) {
    let numbers = (first.value.as_i64(), second.value.as_i64());
    let first_wins = match (rule, numbers) {
        (Resolve::PolicyWins, _) => false,
        (Resolve::Smaller, (Some(a), Some(b))) => a <= b,
        (Resolve::SmallerLimit, (Some(a), Some(b))) if a < 0 || b < 0 => a >= b,
        (Resolve::SmallerLimit, (Some(a), Some(b))) => a <= b,
        (Resolve::ArgumentWins | Resolve::Smaller | Resolve::SmallerLimit, _) => true,
    };
    if first_wins { (first, second) } else { (second, first) }
}

/// How RabbitMQ merges an operator policy into the policy: the stricter number, else the operator's.
fn operator_rule(setting: &str, version: Version) -> Resolve {
    match setting {
        "delivery-limit" if version.major >= 4 => Resolve::SmallerLimit,
        "message-ttl"
        | "expires"
        | "max-length"
        | "max-length-bytes"
        | "delivery-limit"
        | "max-in-memory-length"
        | "max-in-memory-bytes" => Resolve::Smaller,
        _ => Resolve::PolicyWins,
    }
}

/// Folds everything that is said about `queue`. `queue_type` is what [`resolve_queue_type`] says.
pub fn effective_queue(
    queue: &QueueDefinition,
    queue_type: QueueType,
    policies: &Policies,
    version: Version,
) -> EffectiveQueue {
    let name = queue.name.as_str();
    let user = policies.for_queue(name, queue_type, version);
    let operator = policies.operator_for_queue(name, queue_type, version);
    let mut effective = EffectiveQueue {
        queue_type,
        version,
        settings: BTreeMap::new(),
        policy: user.policy.map(|policy| policy.name.clone()),
        operator_policy: operator.policy.map(|policy| policy.name.clone()),
        skipped: user.skipped.into_iter().chain(operator.skipped).collect(),
        ambiguities: user.ambiguity.into_iter().chain(operator.ambiguity).collect(),
        outranked: user.outranked.into_iter().chain(operator.outranked).collect(),
    };
    let said = |policy: Option<&PolicyDefinition>, key: &str| {
        policy.and_then(|policy| {
            Some((field_of_json(policy.definition.get(key)?), policy.name.clone()))
        })
    };
    for argument in QUEUE_ARGUMENTS {
        let setting = argument.setting();
        if setting == "queue-type" || !argument.support(queue_type).includes(version) {
            continue;
        }
        let mut losers = Vec::new();
        let by_policy = argument.policy.and_then(|key| {
            let user = said(user.policy, key.key)
                .map(|(value, name)| Sourced { value, source: Source::Policy(name) });
            let operator = said(operator.policy, key.key)
                .map(|(value, name)| Sourced { value, source: Source::OperatorPolicy(name) });
            match (user, operator) {
                (Some(user), Some(operator)) => {
                    let (winner, loser) = fold(user, operator, operator_rule(setting, version));
                    losers.push(loser);
                    Some(winner)
                }
                (user, operator) => user.or(operator),
            }
        });
        let by_argument = queue
            .arguments
            .get(argument.name)
            .filter(|_| !argument.name.is_empty())
            .map(|value| Sourced { value: value.clone(), source: Source::Argument });
        let winner = match (by_argument, by_policy) {
            (Some(argument), Some(policy)) => {
                let rule = resolve_rule(setting, queue_type, version);
                let (winner, loser) = fold(argument, policy, rule);
                losers.insert(0, loser);
                Some(winner)
            }
            (argument, policy) => argument.or(policy),
        };
        let default = (setting == "delivery-limit")
            .then(|| Capabilities::of(version).default_delivery_limit)
            .flatten()
            .map(|limit| Sourced {
                value: FieldValue::Int64(i64::from(limit)),
                source: Source::BrokerDefault,
            });
        if let Some(winner) = winner.or(default) {
            effective.settings.insert(setting, Setting::of(winner, losers));
        }
    }
    effective
}

impl EffectiveQueue {
    /// The setting called `name` (`message-ttl`).
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.setting(name)?.value.as_i64()
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.number(name).and_then(|n| u64::try_from(n).ok())
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.setting(name)?.value.as_text()
    }

    /// How long a message waits before it expires, in milliseconds.
    pub fn message_ttl_ms(&self) -> Option<u64> {
        self.count("message-ttl")
    }

    /// How long the queue stays unused, in milliseconds.
    pub fn expires_ms(&self) -> Option<u64> {
        self.count("expires")
    }

    /// How many messages may wait.
    pub fn max_length(&self) -> Option<u64> {
        self.count("max-length")
    }

    /// How many bytes of bodies may wait.
    pub fn max_length_bytes(&self) -> Option<u64> {
        self.count("max-length-bytes")
    }

    /// What happens when it is full. `reject-publish-dlx` on a quorum queue drops from the head,
    /// as RabbitMQ does.
    pub fn overflow(&self) -> Overflow {
        match (self.text("overflow"), self.queue_type) {
            (Some("reject-publish"), _) => Overflow::RejectPublish,
            (Some("reject-publish-dlx"), QueueType::Classic) => Overflow::RejectPublishDlx,
            _ => Overflow::DropHead,
        }
    }

    /// Where dead letters go; the empty name is the default exchange. `None`: they are dropped.
    pub fn dead_letter_exchange(&self) -> Option<&str> {
        self.text("dead-letter-exchange")
    }

    /// The key dead letters go by; `None` keeps their own.
    pub fn dead_letter_routing_key(&self) -> Option<&str> {
        self.text("dead-letter-routing-key")
    }

    /// How sure dead letters arrive: at-least-once needs a quorum queue, a dead-letter exchange and
    /// `overflow: reject-publish`, else RabbitMQ silently falls back.
    pub fn dead_letter_strategy(&self) -> DeadLetterStrategy {
        let asked = self.text("dead-letter-strategy") == Some("at-least-once");
        if asked
            && self.queue_type == QueueType::Quorum
            && self.dead_letter_exchange().is_some()
            && self.overflow() == Overflow::RejectPublish
        {
            DeadLetterStrategy::AtLeastOnce
        } else {
            DeadLetterStrategy::AtMostOnce
        }
    }

    /// After how many returns a message is dropped or dead-lettered: with limit L it is delivered
    /// L + 1 times. `None` is unlimited. Before 4.0 a limit of -1 counts as 0, as there.
    pub fn delivery_limit(&self) -> Option<u32> {
        let limit = self.number("delivery-limit")?;
        match u32::try_from(limit) {
            Ok(limit) => Some(limit),
            Err(_) if limit < 0 && self.version.major >= 4 => None,
            Err(_) if limit < 0 => Some(0),
            Err(_) => None,
        }
    }

    /// The highest priority that a classic queue keeps apart; `None` is a queue without priorities.
    pub fn max_priority(&self) -> Option<u8> {
        self.number("max-priority").map(|n| u8::try_from(n.clamp(0, 255)).unwrap_or(u8::MAX))
    }

    /// Whether one consumer at a time gets messages.
    pub fn single_active_consumer(&self) -> bool {
        self.setting("single-active-consumer").is_some_and(|s| s.value == FieldValue::Bool(true))
    }
}

/// What an exchange really does.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveExchange {
    /// Where messages go that no binding takes.
    pub alternate_exchange: Option<Setting>,
    /// The policy that applies.
    pub policy: Option<PolicyName>,
    /// Policies of equal priority: the result is a guess.
    pub ambiguity: Option<Ambiguity>,
}

/// Folds everything that is said about `exchange`: the argument wins over the policy.
pub fn effective_exchange(exchange: &ExchangeDefinition, policies: &Policies) -> EffectiveExchange {
    let matched = policies.for_exchange(exchange.name.as_str());
    let by_argument = exchange
        .arguments
        .get("alternate-exchange")
        .map(|value| Sourced { value: value.clone(), source: Source::Argument });
    let by_policy = matched.policy.and_then(|policy| {
        Some(Sourced {
            value: field_of_json(policy.definition.get("alternate-exchange")?),
            source: Source::Policy(policy.name.clone()),
        })
    });
    let alternate_exchange = match (by_argument, by_policy) {
        (Some(argument), policy) => Some(Setting::of(argument, policy.into_iter().collect())),
        (None, Some(policy)) => Some(Setting::of(policy, Vec::new())),
        (None, None) => None,
    };
    EffectiveExchange {
        alternate_exchange,
        policy: matched.policy.map(|policy| policy.name.clone()),
        ambiguity: matched.ambiguity,
    }
}

impl EffectiveExchange {
    /// The alternate exchange's name. The default exchange cannot be one: an empty name is none.
    pub fn alternate(&self) -> Option<&str> {
        self.alternate_exchange.as_ref()?.value.as_text().filter(|name| !name.is_empty())
    }
}

/// The policy's keys and the operator policy's folded, as RabbitMQ shows it in
/// `effective_policy_definition`.
pub fn merged_definition(
    policy: Option<&PolicyDefinition>,
    operator: Option<&PolicyDefinition>,
    version: Version,
) -> Map<String, Value> {
    let mut merged = policy.map(|policy| policy.definition.clone()).unwrap_or_default();
    for (key, value) in operator.iter().flat_map(|policy| &policy.definition) {
        let stricter = match (merged.get(key).and_then(Value::as_i64), value.as_i64()) {
            (Some(mine), Some(theirs)) => match operator_rule(key, version) {
                Resolve::Smaller => mine > theirs,
                Resolve::SmallerLimit if mine < 0 || theirs < 0 => mine < theirs,
                Resolve::SmallerLimit => mine > theirs,
                Resolve::ArgumentWins | Resolve::PolicyWins => true,
            },
            _ => true,
        };
        if stricter {
            merged.insert(key.clone(), value.clone());
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ExchangeName, QueueName};
    use crate::broker::definition::ExchangeKind;

    const V3_10_8: Version = Version::new(3, 10, 8);
    const V4_0_5: Version = Version::new(4, 0, 5);

    #[test]
    fn a_pattern_that_spells_out_one_name_matches_as_the_expression_does() {
        for (pattern, only) in [
            (r"^a$", Some("a")),
            (r"^a\.b\$\\$", Some(r"a.b$\")),
            (r"^$", Some("")),
            (r"^ä/ß$", Some("ä/ß")),
            (r"^a.b$", None),
            (r"^\d$", None),
            (r"^a\$", None),
            (r"^a|b$", None),
            (r"^a", None),
            (r"a$", None),
        ] {
            assert_eq!(only_name(pattern), only.map(|only| only.as_bytes().to_vec()), "{pattern}");
            let read = compile_pattern(pattern).unwrap();
            for name in ["", "a", "b", "a.b", "axb", r"a.b$\", "ä/ß", "7", "a$", "ab"] {
                assert_eq!(
                    read.is_match(name.as_bytes()),
                    read.regex.is_match(name.as_bytes()),
                    "{pattern} {name}"
                );
            }
        }
    }

    fn policy(name: &str, priority: i64, definition: &[(&str, Value)]) -> PolicyDefinition {
        PolicyDefinition {
            name: PolicyName::new(name).unwrap(),
            pattern: "^q".into(),
            apply_to: ApplyTo::Queues,
            priority,
            definition: definition.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        }
    }

    fn queue(queue_type: QueueType, arguments: &[(&str, Value)]) -> QueueDefinition {
        let mut queue = QueueDefinition::durable(QueueName::new("q1").unwrap(), queue_type);
        for (name, value) in arguments {
            queue.arguments.insert(*name, field_of_json(value));
        }
        queue
    }

    /// Argument against policy: what is left, on 3.10.8 and on 4.0.5, as measured by effect.
    #[test]
    fn argument_and_policy_are_folded_as_measured() {
        use QueueType::{Classic, Quorum, Stream};
        let n = |n: i64| Value::from(n);
        let t = |t: &str| Value::from(t);
        let table: Vec<(QueueType, &str, Value, Value, Value, Value)> = vec![
            (Classic, "max-length", n(5), n(2), n(2), n(2)),
            (Quorum, "max-length", n(2), n(5), n(2), n(2)),
            (Classic, "max-length-bytes", n(5), n(2), n(2), n(2)),
            (Quorum, "message-ttl", n(100), n(50), n(50), n(50)),
            (Classic, "message-ttl", n(50), n(100), n(50), n(50)),
            (Classic, "expires", n(400), n(60_000), n(400), n(400)),
            (Quorum, "expires", n(400), n(60_000), n(60_000), n(400)),
            (
                Classic,
                "overflow",
                t("drop-head"),
                t("reject-publish"),
                t("drop-head"),
                t("drop-head"),
            ),
            (
                Quorum,
                "overflow",
                t("drop-head"),
                t("reject-publish"),
                t("reject-publish"),
                t("reject-publish"),
            ),
            (Classic, "dead-letter-exchange", t("a"), t("p"), t("a"), t("a")),
            (Quorum, "dead-letter-routing-key", t("a"), t("p"), t("a"), t("a")),
            (
                Quorum,
                "dead-letter-strategy",
                t("at-most-once"),
                t("at-least-once"),
                t("at-most-once"),
                t("at-most-once"),
            ),
            (Quorum, "delivery-limit", n(2), n(5), n(2), n(2)),
            (Quorum, "delivery-limit", n(5), n(2), n(2), n(2)),
            (Quorum, "delivery-limit", n(-1), n(2), n(-1), n(2)),
            (Stream, "max-length-bytes", n(5), n(9), n(9), n(9)),
            (Stream, "max-age", t("1D"), t("7D"), t("7D"), t("7D")),
        ];
        for (queue_type, key, argument, by_policy, in_3_10, in_4_0) in table {
            let q = queue(queue_type, &[(&format!("x-{key}"), argument.clone())]);
            let policies = Policies::compile(&[policy("p", 1, &[(key, by_policy.clone())])], &[]);
            for (version, expected) in [(V3_10_8, in_3_10), (V4_0_5, in_4_0)] {
                let effective = effective_queue(&q, queue_type, &policies, version);
                let setting = effective.setting(key).unwrap();
                let what = format!("{key} on {queue_type} of {version}");
                assert_eq!(setting.value, field_of_json(&expected), "{what}");
                let from_policy = setting.source != Source::Argument;
                assert_eq!(setting.value == field_of_json(&by_policy), from_policy, "{what}");
                let lost = if from_policy { &argument } else { &by_policy };
                assert_eq!(setting.overrides.len(), 1, "{what}");
                assert_eq!(setting.overrides[0].value, field_of_json(lost), "{what}");
            }
        }
    }

    #[test]
    fn delivery_limits_count_as_each_version_counts() {
        let limit = |arguments: &[(&str, Value)], version| {
            effective_queue(
                &queue(QueueType::Quorum, arguments),
                QueueType::Quorum,
                &Policies::compile(&[], &[]),
                version,
            )
            .delivery_limit()
        };
        assert_eq!(limit(&[], V3_10_8), None);
        assert_eq!(limit(&[], V4_0_5), Some(20));
        assert_eq!(limit(&[("x-delivery-limit", (-1).into())], V3_10_8), Some(0));
        assert_eq!(limit(&[("x-delivery-limit", (-1).into())], V4_0_5), None);
        assert_eq!(limit(&[("x-delivery-limit", 3.into())], V4_0_5), Some(3));
    }

    #[test]
    fn a_policy_key_unknown_to_the_type_skips_the_whole_policy() {
        let policies = Policies::compile(
            &[
                policy("limits", 9, &[("delivery-limit", 3.into()), ("max-length", 7.into())]),
                policy("plain", 1, &[("max-length", 5.into())]),
                policy("harmless", 0, &[("alternate-exchange", "x".into())]),
            ],
            &[],
        );
        let classic =
            effective_queue(&queue(QueueType::Classic, &[]), QueueType::Classic, &policies, V4_0_5);
        assert_eq!(classic.max_length(), Some(5));
        assert_eq!(
            classic.skipped,
            [SkippedPolicy {
                name: PolicyName::new("limits").unwrap(),
                operator: false,
                keys: vec!["delivery-limit".into()]
            }]
        );
        assert_eq!(classic.outranked, [PolicyName::new("harmless").unwrap()]);
        let quorum =
            effective_queue(&queue(QueueType::Quorum, &[]), QueueType::Quorum, &policies, V4_0_5);
        assert_eq!((quorum.max_length(), quorum.delivery_limit()), (Some(7), Some(3)));
    }

    #[test]
    fn equal_priorities_are_reported_and_the_first_name_is_taken() {
        let policies = Policies::compile(
            &[
                policy("b", 1, &[("max-length", 2.into())]),
                policy("a", 1, &[("expires", 9.into())]),
            ],
            &[],
        );
        let found = policies.for_queue("q1", QueueType::Classic, V4_0_5);
        assert_eq!(found.policy.map(|p| p.name.as_str()), Some("a"));
        let ambiguity = found.ambiguity.unwrap();
        assert_eq!((ambiguity.priority, ambiguity.names.len()), (1, 2));
        assert!(policies.for_queue("other", QueueType::Classic, V4_0_5).policy.is_none());
    }

    #[test]
    fn an_operator_policy_only_makes_stricter() {
        let policies = Policies::compile(
            &[policy("p", 1, &[("max-length", 5.into()), ("overflow", "drop-head".into())])],
            &[policy(
                "op",
                1,
                &[
                    ("max-length", 2.into()),
                    ("expires", 100.into()),
                    ("overflow", "reject-publish".into()),
                ],
            )],
        );
        let q = queue(QueueType::Classic, &[("x-max-length", 9.into())]);
        let effective = effective_queue(&q, QueueType::Classic, &policies, V4_0_5);
        let op = Source::OperatorPolicy(PolicyName::new("op").unwrap());
        assert_eq!(effective.max_length(), Some(2));
        assert_eq!(effective.setting("max-length").unwrap().source, op);
        assert_eq!(
            effective.setting("max-length").unwrap().to_string(),
            "2 (operator policy `op`), over 9 (argument), over 5 (policy `p`)"
        );
        assert_eq!(effective.expires_ms(), Some(100));
        assert_eq!(effective.overflow(), Overflow::RejectPublish);
        let merged = merged_definition(
            Some(&policy("p", 1, &[("max-length", 5.into())])),
            Some(&policy("o", 1, &[("max-length", 9.into()), ("expires", 1.into())])),
            V4_0_5,
        );
        assert_eq!(Value::Object(merged), serde_json::json!({"max-length": 5, "expires": 1}));
    }

    #[test]
    fn at_least_once_falls_back_without_its_conditions() {
        let strategy = |arguments: &[(&str, Value)]| {
            effective_queue(
                &queue(QueueType::Quorum, arguments),
                QueueType::Quorum,
                &Policies::compile(&[], &[]),
                V4_0_5,
            )
            .dead_letter_strategy()
        };
        let asked = ("x-dead-letter-strategy", Value::from("at-least-once"));
        let dlx = ("x-dead-letter-exchange", Value::from("d"));
        let reject = ("x-overflow", Value::from("reject-publish"));
        assert_eq!(strategy(&[asked.clone(), dlx.clone()]), DeadLetterStrategy::AtMostOnce);
        assert_eq!(strategy(&[asked.clone(), reject.clone()]), DeadLetterStrategy::AtMostOnce);
        assert_eq!(strategy(&[asked, dlx, reject]), DeadLetterStrategy::AtLeastOnce);
    }

    #[test]
    fn the_queue_type_is_the_default_only_when_the_queue_can_be_of_it() {
        let mut untyped = queue(QueueType::Classic, &[]);
        untyped.arguments.remove("x-queue-type");
        let resolve = |q: &QueueDefinition, default| resolve_queue_type(q, default).0;
        assert_eq!(resolve(&untyped, None), QueueType::Classic);
        assert_eq!(resolve(&untyped, Some(QueueType::Quorum)), QueueType::Quorum);
        untyped.durable = false;
        assert_eq!(resolve(&untyped, Some(QueueType::Quorum)), QueueType::Classic);
        let typed = queue(QueueType::Stream, &[]);
        assert_eq!(resolve(&typed, Some(QueueType::Quorum)), QueueType::Stream);
    }

    #[test]
    fn patterns_are_unanchored_bytes_and_bad_ones_are_named() {
        assert!(compile_pattern("rders").unwrap().is_match(b"orders.eu"));
        assert!(!compile_pattern("^rders").unwrap().is_match(b"orders"));
        assert!(!compile_pattern("^.$").unwrap().is_match("ü".as_bytes()));
        assert!(compile_pattern("^(?!x)").is_err());
        assert!(compile_pattern("(a{1000}){1000}").is_err());
        let mut bad = policy("bad", 1, &[]);
        bad.pattern = "(".into();
        let policies = Policies::compile(&[bad], &[]);
        assert_eq!(policies.problems().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["bad"]);
    }

    #[test]
    fn an_alternate_exchange_by_argument_wins() {
        let mut by_policy = policy("p", 1, &[("alternate-exchange", "p".into())]);
        by_policy.apply_to = ApplyTo::Exchanges;
        by_policy.pattern = "^e".into();
        let policies = Policies::compile(&[by_policy], &[]);
        let mut exchange =
            ExchangeDefinition::durable(ExchangeName::new("e").unwrap(), ExchangeKind::Topic);
        assert_eq!(effective_exchange(&exchange, &policies).alternate(), Some("p"));
        exchange.arguments.insert("alternate-exchange", "a");
        let effective = effective_exchange(&exchange, &policies);
        assert_eq!(effective.alternate(), Some("a"));
        assert_eq!(effective.alternate_exchange.unwrap().overrides.len(), 1);
    }
}
