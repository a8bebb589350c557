//! Which arguments each queue type of each version knows, what values they take, which policy keys
//! say the same, and what RabbitMQ does with everything else.
//!
//! Pure data and checks on it. The tables were measured on 3.10.8 and 4.0.5 (every argument on every
//! type, every policy key on every type, the edges of every range); what other versions change is
//! taken from their release notes.

use std::fmt;

use serde_json::{Number, Value};

use crate::base::diagnostic::Severity;
use crate::base::suggest::nearest;
use crate::message::{FieldTable, FieldValue};

use super::definition::{
    ApplyTo, BindingDefinition, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use super::effective::compile_pattern;
use super::version::Version;

/// RabbitMQ's ceiling for every span of time: ten years of milliseconds.
pub const MAX_MILLISECONDS: i64 = 315_360_000_000;

const V3_12: Version = Version::new(3, 12, 0);
const V3_13: Version = Version::new(3, 13, 0);
const V4_0: Version = Version::new(4, 0, 0);
const V4_3: Version = Version::new(4, 3, 0);
const V4_3_1: Version = Version::new(4, 3, 1);
const V4_3_5: Version = Version::new(4, 3, 5);

/// The versions in which something exists: from `since` up to, not including, `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Support {
    since: Option<Version>,
    until: Option<Version>,
}

impl Support {
    const ALWAYS: Support = Support { since: Some(Version::new(0, 0, 0)), until: None };
    const NEVER: Support = Support { since: None, until: None };

    const fn since(version: Version) -> Support {
        Support { since: Some(version), until: None }
    }

    const fn until(version: Version) -> Support {
        Support { since: Some(Version::new(0, 0, 0)), until: Some(version) }
    }

    const fn between(since: Version, until: Version) -> Support {
        Support { since: Some(since), until: Some(until) }
    }

    /// Whether it exists in `version`.
    pub fn includes(self, version: Version) -> bool {
        self.since.is_some_and(|since| since <= version)
            && self.until.is_none_or(|until| version < until)
    }

    /// Whether it existed before `version` and no longer does.
    fn ended_by(self, version: Version) -> Option<Version> {
        self.until.filter(|until| *until <= version)
    }

    /// The first version that has it, when that lies ahead of `version`.
    fn begins_after(self, version: Version) -> Option<Version> {
        self.since.filter(|since| *since > version)
    }
}

/// What values an argument or policy key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A whole number within both bounds.
    Count {
        /// Smallest allowed.
        min: i64,
        /// Largest allowed.
        max: i64,
    },
    /// A span of time in milliseconds, at least `min`; in YAML `10s`.
    Milliseconds {
        /// Smallest allowed.
        min: i64,
    },
    /// A size in bytes up to `max`; in YAML `64MiB`.
    Bytes {
        /// Largest allowed.
        max: i64,
    },
    /// Any text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A span of time as RabbitMQ's streams write it: a number and one of `Y M D h m s`.
    Age,
    /// A list or anything else that is not looked into.
    Any,
}

impl ValueKind {
    /// What a person is told to write: `a whole number of at least 0`.
    pub fn describe(self) -> String {
        match self {
            ValueKind::Count { min, max: i64::MAX } => {
                format!("a whole number of at least {min}")
            }
            ValueKind::Count { min, max } => format!("a whole number from {min} to {max}"),
            ValueKind::Milliseconds { min } => {
                format!("milliseconds, a whole number from {min} to {MAX_MILLISECONDS} (ten years)")
            }
            ValueKind::Bytes { max: i64::MAX } => "a whole number of bytes".to_owned(),
            ValueKind::Bytes { max } => format!("a whole number of bytes up to {max}"),
            ValueKind::Text => "text".to_owned(),
            ValueKind::Choice(words) => format!("one of {}", words.join(", ")),
            ValueKind::Flag => "true or false".to_owned(),
            ValueKind::Age => "a number and one of Y, M, D, h, m, s, such as 7D".to_owned(),
            ValueKind::Any => "anything".to_owned(),
        }
    }

    fn check(self, value: &FieldValue) -> Result<(), ValueFault> {
        let within = |min: i64, max: i64| match value.as_i64() {
            None => Err(ValueFault::Type),
            Some(n) if n < min || n > max => Err(ValueFault::Range),
            Some(_) => Ok(()),
        };
        match self {
            ValueKind::Count { min, max } => within(min, max),
            ValueKind::Milliseconds { min } => within(min, MAX_MILLISECONDS),
            ValueKind::Bytes { max } => within(0, max),
            ValueKind::Text => value.as_text().map(|_| ()).ok_or(ValueFault::Type),
            ValueKind::Choice(words) => match value.as_text() {
                None => Err(ValueFault::Type),
                Some(word) if words.contains(&word) => Ok(()),
                Some(_) => Err(ValueFault::Range),
            },
            ValueKind::Flag => match value {
                FieldValue::Bool(_) => Ok(()),
                _ => Err(ValueFault::Type),
            },
            ValueKind::Age => match value.as_text() {
                None => Err(ValueFault::Type),
                Some(text) if is_age(text) => Ok(()),
                Some(_) => Err(ValueFault::Range),
            },
            ValueKind::Any => Ok(()),
        }
    }
}

enum ValueFault {
    Type,
    Range,
}

/// Whether `text` is a span of time as streams take it: `7D`.
pub fn is_age(text: &str) -> bool {
    let Some(unit) = text.chars().last() else { return false };
    let digits = &text[..text.len() - unit.len_utf8()];
    "YMDhms".contains(unit)
        && !digits.is_empty()
        && digits.bytes().all(|b| b.is_ascii_digit())
        && digits.parse::<u64>().is_ok_and(|n| n > 0)
}

/// How a policy may say what an argument says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyKey {
    /// The key, such as `message-ttl`.
    pub key: &'static str,
    /// The versions that recognise it in a policy; others refuse the policy.
    pub policy: Support,
    /// The versions that recognise it in an operator policy.
    pub operator: Support,
    /// Queue types that do not know the key but do not mind it: the other keys of the policy still
    /// apply. To every other type that does not know the key, the **whole** policy does not apply.
    harmless: &'static [(QueueType, Support)],
}

/// A queue argument that some version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueArgument {
    /// The name, such as `x-message-ttl`; empty when only a policy can say it.
    pub name: &'static str,
    /// The key in our YAML, such as `messageTtl`; empty when there is none.
    pub friendly: &'static str,
    /// What values it takes.
    pub value: ValueKind,
    /// Versions whose classic queues know it.
    pub classic: Support,
    /// Versions whose quorum queues know it.
    pub quorum: Support,
    /// Versions whose streams know it.
    pub stream: Support,
    /// How a policy says it; `None` when only the argument can.
    pub policy: Option<PolicyKey>,
    /// What it does, for documentation and completion.
    pub summary: &'static str,
}

/// What a policy with this key does to a queue of some type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEffect {
    /// The key has its effect.
    Applies,
    /// The key has no effect, the rest of the policy does.
    Ignored,
    /// The policy does not apply to such queues at all.
    SkipsPolicy,
}

impl QueueArgument {
    /// Which versions know it on queues of this type.
    pub fn support(&self, queue_type: QueueType) -> Support {
        match queue_type {
            QueueType::Classic => self.classic,
            QueueType::Quorum => self.quorum,
            QueueType::Stream => self.stream,
        }
    }

    /// The name of the setting, without the `x-`: the policy key, else the argument's.
    pub fn setting(&self) -> &'static str {
        match self.policy {
            Some(policy) => policy.key,
            None => self.name.strip_prefix("x-").unwrap_or(self.name),
        }
    }

    /// What a policy with this key does to a queue of `queue_type` in `version`.
    pub fn effect(&self, queue_type: QueueType, version: Version) -> KeyEffect {
        if self.support(queue_type).includes(version) {
            return KeyEffect::Applies;
        }
        let harmless = self.policy.is_some_and(|policy| {
            policy.harmless.iter().any(|(t, s)| *t == queue_type && s.includes(version))
        });
        if harmless { KeyEffect::Ignored } else { KeyEffect::SkipsPolicy }
    }

    fn known_types(&self, version: Version) -> Vec<QueueType> {
        [QueueType::Classic, QueueType::Quorum, QueueType::Stream]
            .into_iter()
            .filter(|t| self.support(*t).includes(version))
            .collect()
    }
}

const fn key(key: &'static str, policy: Support, operator: Support) -> Option<PolicyKey> {
    Some(PolicyKey { key, policy, operator, harmless: &[] })
}

const fn lenient_key(
    key: &'static str,
    policy: Support,
    operator: Support,
    harmless: &'static [(QueueType, Support)],
) -> Option<PolicyKey> {
    Some(PolicyKey { key, policy, operator, harmless })
}

const EVERY_TYPE: &[(QueueType, Support)] = &[
    (QueueType::Classic, Support::ALWAYS),
    (QueueType::Quorum, Support::ALWAYS),
    (QueueType::Stream, Support::ALWAYS),
];
const CLASSIC_BEFORE_4: &[(QueueType, Support)] = &[(QueueType::Classic, Support::until(V4_0))];

const ALWAYS: Support = Support::ALWAYS;
const NEVER: Support = Support::NEVER;
const ANY_COUNT: ValueKind = ValueKind::Count { min: 0, max: i64::MAX };
const ANY_BYTES: ValueKind = ValueKind::Bytes { max: i64::MAX };
const LOCATORS: ValueKind = ValueKind::Choice(&["client-local", "balanced"]);

/// Values of `x-overflow`.
pub const OVERFLOWS: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];

macro_rules! argument {
    ($name:literal, $friendly:literal, $value:expr, [$classic:expr, $quorum:expr, $stream:expr],
     $policy:expr, $summary:literal) => {
        QueueArgument {
            name: $name,
            friendly: $friendly,
            value: $value,
            classic: $classic,
            quorum: $quorum,
            stream: $stream,
            policy: $policy,
            summary: $summary,
        }
    };
}

/// Every queue argument and queue policy key that some version knows.
pub const QUEUE_ARGUMENTS: &[QueueArgument] = &[
    argument!(
        "x-queue-type",
        "type",
        ValueKind::Choice(&["classic", "quorum", "stream"]),
        [ALWAYS, ALWAYS, ALWAYS],
        None,
        "how the queue stores and replicates"
    ),
    argument!(
        "x-message-ttl",
        "messageTtl",
        ValueKind::Milliseconds { min: 0 },
        [ALWAYS, ALWAYS, NEVER],
        key("message-ttl", ALWAYS, ALWAYS),
        "how long a message waits before it expires"
    ),
    argument!(
        "x-expires",
        "expires",
        ValueKind::Milliseconds { min: 1 },
        [ALWAYS, ALWAYS, NEVER],
        key("expires", ALWAYS, ALWAYS),
        "how long the queue itself stays while nobody uses it"
    ),
    argument!(
        "x-max-length",
        "maxLength",
        ANY_COUNT,
        [ALWAYS, ALWAYS, NEVER],
        key("max-length", ALWAYS, ALWAYS),
        "how many messages may wait"
    ),
    argument!(
        "x-max-length-bytes",
        "maxLengthBytes",
        ANY_BYTES,
        [ALWAYS, ALWAYS, ALWAYS],
        key("max-length-bytes", ALWAYS, ALWAYS),
        "how many bytes of messages may wait"
    ),
    argument!(
        "x-overflow",
        "overflow",
        ValueKind::Choice(OVERFLOWS),
        [ALWAYS, ALWAYS, NEVER],
        key("overflow", ALWAYS, Support::since(V3_12)),
        "what happens when the queue is full"
    ),
    argument!(
        "x-dead-letter-exchange",
        "deadLetterExchange",
        ValueKind::Text,
        [ALWAYS, ALWAYS, NEVER],
        key("dead-letter-exchange", ALWAYS, NEVER),
        "where rejected, expired and surplus messages go"
    ),
    argument!(
        "x-dead-letter-routing-key",
        "deadLetterRoutingKey",
        ValueKind::Text,
        [ALWAYS, ALWAYS, NEVER],
        key("dead-letter-routing-key", ALWAYS, NEVER),
        "the key they go by; their own when absent"
    ),
    argument!(
        "x-dead-letter-strategy",
        "deadLetterStrategy",
        ValueKind::Choice(&["at-most-once", "at-least-once"]),
        [NEVER, ALWAYS, NEVER],
        key("dead-letter-strategy", ALWAYS, NEVER),
        "whether a dead letter may be lost on its way"
    ),
    argument!(
        "x-delivery-limit",
        "deliveryLimit",
        ValueKind::Count { min: -1, max: i64::MAX },
        [NEVER, ALWAYS, NEVER],
        key("delivery-limit", ALWAYS, ALWAYS),
        "how often a message may come back before it is dropped or dead-lettered"
    ),
    argument!(
        "x-max-priority",
        "maxPriority",
        ValueKind::Count { min: 0, max: 255 },
        [ALWAYS, NEVER, NEVER],
        None,
        "how many priorities the queue keeps apart"
    ),
    argument!(
        "x-single-active-consumer",
        "singleActiveConsumer",
        ValueKind::Flag,
        [ALWAYS, ALWAYS, NEVER],
        None,
        "one consumer at a time gets messages, the others wait"
    ),
    argument!(
        "x-queue-leader-locator",
        "leaderLocator",
        LOCATORS,
        [Support::since(V3_12), ALWAYS, ALWAYS],
        key("queue-leader-locator", ALWAYS, NEVER),
        "which node leads the queue"
    ),
    argument!(
        "x-quorum-initial-group-size",
        "initialGroupSize",
        ValueKind::Count { min: 1, max: i64::MAX },
        [NEVER, ALWAYS, NEVER],
        None,
        "how many members the quorum queue starts with"
    ),
    argument!(
        "",
        "targetGroupSize",
        ValueKind::Count { min: 1, max: i64::MAX },
        [NEVER, Support::since(V3_13), NEVER],
        key("target-group-size", Support::since(V3_13), Support::since(V3_13)),
        "how many members the quorum queue is grown to"
    ),
    argument!(
        "x-max-in-memory-length",
        "",
        ANY_COUNT,
        [NEVER, ALWAYS, NEVER],
        lenient_key("max-in-memory-length", ALWAYS, ALWAYS, CLASSIC_BEFORE_4),
        "without effect since 3.10"
    ),
    argument!(
        "x-max-in-memory-bytes",
        "",
        ANY_BYTES,
        [NEVER, ALWAYS, NEVER],
        lenient_key("max-in-memory-bytes", ALWAYS, ALWAYS, CLASSIC_BEFORE_4),
        "without effect since 3.10"
    ),
    argument!(
        "x-max-age",
        "maxAge",
        ValueKind::Age,
        [NEVER, NEVER, ALWAYS],
        key("max-age", ALWAYS, NEVER),
        "how long a stream keeps its records"
    ),
    argument!(
        "x-stream-max-segment-size-bytes",
        "maxSegmentSize",
        ValueKind::Bytes { max: 3_000_000_000 },
        [NEVER, NEVER, ALWAYS],
        key("stream-max-segment-size-bytes", ALWAYS, NEVER),
        "how large one file of a stream grows; retention works by whole files"
    ),
    argument!(
        "x-stream-filter-size-bytes",
        "filterSize",
        ValueKind::Count { min: 16, max: 255 },
        [NEVER, NEVER, Support::since(V3_13)],
        lenient_key("stream-filter-size-bytes", Support::since(V3_13), NEVER, EVERY_TYPE),
        "size of a stream's filter for each chunk"
    ),
    argument!(
        "x-initial-cluster-size",
        "initialClusterSize",
        ValueKind::Count { min: 1, max: i64::MAX },
        [NEVER, NEVER, ALWAYS],
        key("initial-cluster-size", ALWAYS, NEVER),
        "how many members the stream starts with"
    ),
    argument!(
        "x-consumer-timeout",
        "consumerTimeout",
        ValueKind::Milliseconds { min: 0 },
        [Support::between(V3_12, V4_3), Support::since(V3_12), Support::between(V3_12, V4_3)],
        lenient_key("consumer-timeout", Support::since(V3_12), NEVER, EVERY_TYPE),
        "how long a consumer may hold a message unsettled"
    ),
    argument!(
        "x-consumer-disconnected-timeout",
        "consumerDisconnectedTimeout",
        ValueKind::Milliseconds { min: 0 },
        [NEVER, Support::since(V4_3), NEVER],
        key("consumer-disconnected-timeout", Support::since(V4_3), NEVER),
        "how long the messages of a consumer on a lost node stay assigned"
    ),
    argument!(
        "x-delayed-retry-type",
        "delayedRetryType",
        ValueKind::Choice(&["disabled", "all", "failed", "returned"]),
        [NEVER, Support::since(V4_3), NEVER],
        key("delayed-retry-type", Support::since(V4_3_1), NEVER),
        "which returned messages wait before they are delivered again"
    ),
    argument!(
        "x-delayed-retry-min",
        "delayedRetryMin",
        ValueKind::Milliseconds { min: 0 },
        [NEVER, Support::since(V4_3), NEVER],
        key("delayed-retry-min", Support::since(V4_3_1), NEVER),
        "the shortest such wait"
    ),
    argument!(
        "x-delayed-retry-max",
        "delayedRetryMax",
        ValueKind::Milliseconds { min: 0 },
        [NEVER, Support::since(V4_3), NEVER],
        key("delayed-retry-max", Support::since(V4_3_1), NEVER),
        "the longest such wait"
    ),
    argument!(
        "x-member-placement-tag",
        "memberPlacementTag",
        ValueKind::Text,
        [NEVER, Support::since(V4_3), NEVER],
        None,
        "on which nodes members are placed"
    ),
    argument!(
        "x-queue-mode",
        "queueMode",
        ValueKind::Choice(&["default", "lazy"]),
        [Support::until(V4_3), NEVER, NEVER],
        key("queue-mode", ALWAYS, NEVER),
        "without effect since 3.12"
    ),
    argument!(
        "x-queue-version",
        "queueVersion",
        ValueKind::Count { min: 1, max: 2 },
        [ALWAYS, NEVER, NEVER],
        lenient_key("queue-version", ALWAYS, Support::since(V3_12), EVERY_TYPE),
        "which storage a classic queue uses"
    ),
    argument!(
        "x-queue-master-locator",
        "",
        ValueKind::Choice(&["min-masters", "client-local", "random", "balanced"]),
        [Support::until(V4_3), NEVER, NEVER],
        key("queue-master-locator", Support::until(V4_3), Support::between(V4_0, V4_3)),
        "the old name of leaderLocator"
    ),
    argument!(
        "",
        "",
        ValueKind::Choice(&["all", "exactly", "nodes"]),
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-mode", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
    argument!(
        "",
        "",
        ValueKind::Any,
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-params", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
    argument!(
        "",
        "",
        ValueKind::Choice(&["manual", "automatic"]),
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-sync-mode", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
    argument!(
        "",
        "",
        ValueKind::Count { min: 1, max: i64::MAX },
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-sync-batch-size", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
    argument!(
        "",
        "",
        ValueKind::Choice(&["always", "when-synced"]),
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-promote-on-shutdown", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
    argument!(
        "",
        "",
        ValueKind::Choice(&["always", "when-synced"]),
        [Support::until(V4_0), NEVER, NEVER],
        key("ha-promote-on-failure", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0"
    ),
];

/// Policy keys of exchanges. Queues do not mind them.
pub const EXCHANGE_POLICY_KEYS: &[&str] = &["alternate-exchange"];

/// Policy keys that exist while a plugin is enabled.
const PLUGIN_POLICY_KEYS: &[(&str, &str)] = &[
    ("federation-upstream", "rabbitmq_federation"),
    ("federation-upstream-set", "rabbitmq_federation"),
    ("federation-upstream-pattern", "rabbitmq_federation"),
];

/// Exchange arguments by the plugin type that reads them.
const PLUGIN_EXCHANGE_ARGUMENTS: &[(&str, &str)] = &[
    ("x-delayed-type", "x-delayed-message"),
    ("hash-header", "x-consistent-hash"),
    ("hash-property", "x-consistent-hash"),
    ("x-recent-history-length", "x-recent-history"),
    ("x-recent-history-no-store", "x-recent-history"),
];

/// The argument called `name` (`x-message-ttl`).
pub fn queue_argument(name: &str) -> Option<&'static QueueArgument> {
    QUEUE_ARGUMENTS.iter().find(|argument| argument.name == name && !name.is_empty())
}

/// The argument whose YAML key is `friendly` (`messageTtl`).
pub fn by_friendly_name(friendly: &str) -> Option<&'static QueueArgument> {
    QUEUE_ARGUMENTS.iter().find(|argument| argument.friendly == friendly && !friendly.is_empty())
}

/// The argument that the policy key `key` (`message-ttl`) speaks of.
pub fn by_policy_key(key: &str) -> Option<&'static QueueArgument> {
    QUEUE_ARGUMENTS.iter().find(|argument| argument.policy.is_some_and(|policy| policy.key == key))
}

/// What a policy with `key` does to a queue of `queue_type`. Keys nobody knows are ignored: a broker
/// that has such a policy has a plugin for it.
pub fn policy_key_effect(key: &str, queue_type: QueueType, version: Version) -> KeyEffect {
    by_policy_key(key).map_or(KeyEffect::Ignored, |argument| argument.effect(queue_type, version))
}

/// What is wrong with an argument, a property or a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Queues of this type do not know the argument, others do.
    OtherType,
    /// The value is of the wrong type, such as text for a number.
    WrongType,
    /// The value is of the right type and not allowed.
    OutOfRange,
    /// This version no longer takes it.
    Removed,
    /// This version does not know it yet.
    NotYet,
    /// No version knows it.
    Unknown,
    /// It needs another argument beside it.
    Incomplete,
    /// Durable, exclusive or auto-delete does not go with the type.
    Property,
    /// Accepted, and does nothing.
    NoEffect,
    /// Accepted, and does something else than it says.
    Treacherous,
    /// A regular expression that cannot be read.
    Pattern,
}

/// One thing that is wrong with a definition, as RabbitMQ of one version sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentProblem {
    /// The argument, property or policy key: `x-max-length`, `durable`, `pattern`.
    pub argument: String,
    /// What kind of problem.
    pub kind: ProblemKind,
    /// Whether the broker refuses the declaration. When not, it takes it without a word.
    pub refused: bool,
    /// How bad it is. What is refused is always an error.
    pub severity: Severity,
    /// What is wrong: a lower-case sentence without a full stop.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl ArgumentProblem {
    fn refused(argument: &str, kind: ProblemKind, message: String) -> Self {
        ArgumentProblem {
            argument: argument.to_owned(),
            kind,
            refused: true,
            severity: Severity::Error,
            message,
            hint: None,
        }
    }

    fn taken(argument: &str, kind: ProblemKind, severity: Severity, message: String) -> Self {
        ArgumentProblem {
            argument: argument.to_owned(),
            kind,
            refused: false,
            severity,
            message,
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ArgumentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Checks a queue of `queue_type` (the effective one: the argument may be absent) as RabbitMQ
/// `version` would on a fresh declaration, and beyond that what it takes and should not.
pub fn check_queue_arguments(
    queue: &QueueDefinition,
    queue_type: QueueType,
    version: Version,
) -> Vec<ArgumentProblem> {
    let mut problems = Vec::new();
    check_queue_properties(queue, queue_type, version, &mut problems);
    for (name, value) in queue.arguments.iter() {
        check_queue_argument(name, value, queue_type, version, &mut problems);
    }
    let given = |name: &str| queue.arguments.get(name).is_some();
    if given("x-dead-letter-routing-key") && !given("x-dead-letter-exchange") {
        problems.push(
            ArgumentProblem::refused(
                "x-dead-letter-routing-key",
                ProblemKind::Incomplete,
                "`x-dead-letter-routing-key` without `x-dead-letter-exchange` is refused"
                    .to_owned(),
            )
            .hint("name the dead-letter exchange too, or give both by a policy"),
        );
    }
    problems
}

fn check_queue_properties(
    queue: &QueueDefinition,
    queue_type: QueueType,
    version: Version,
    problems: &mut Vec<ArgumentProblem>,
) {
    if queue_type != QueueType::Classic {
        for (wrong, property, must) in [
            (!queue.durable, "durable", "must be durable"),
            (queue.exclusive, "exclusive", "cannot be exclusive"),
            (queue.auto_delete, "auto-delete", "cannot be auto-delete"),
        ] {
            if wrong {
                problems.push(
                    ArgumentProblem::refused(
                        property,
                        ProblemKind::Property,
                        format!("a {queue_type} queue {must}"),
                    )
                    .hint("change it, or use a classic queue"),
                );
            }
        }
    } else if queue.exclusive {
        if queue.durable {
            problems.push(
                ArgumentProblem::taken(
                    "durable",
                    ProblemKind::Treacherous,
                    Severity::Warning,
                    "an exclusive queue is never durable, whatever is said".to_owned(),
                )
                .hint("exclusive queues end with their connection; leave them to the program"),
            );
        }
    } else if !queue.durable {
        let message = "a queue that is neither durable nor exclusive is denied from 4.3 on";
        problems.push(if version >= V4_3 {
            ArgumentProblem::refused("durable", ProblemKind::Removed, message.to_owned())
                .hint("make it durable; give it `expires` when it shall go away by itself")
        } else {
            ArgumentProblem::taken(
                "durable",
                ProblemKind::Property,
                Severity::Warning,
                message.to_owned(),
            )
            .hint("make it durable; give it `expires` when it shall go away by itself")
        });
    }
}

fn check_queue_argument(
    name: &str,
    value: &FieldValue,
    queue_type: QueueType,
    version: Version,
    problems: &mut Vec<ArgumentProblem>,
) {
    let Some(argument) = queue_argument(name) else {
        problems.push(unknown_queue_argument(name));
        return;
    };
    let support = argument.support(queue_type);
    if !support.includes(version) {
        let others = argument.known_types(version);
        if name == "x-stream-filter-size-bytes" && version < V4_3 && !others.is_empty() {
            // Measured on 4.0.5: streams read it, yet the table of the other types lacks it.
            problems.push(ArgumentProblem::taken(
                name,
                ProblemKind::NoEffect,
                Severity::Warning,
                format!("`{name}` has no effect on a {queue_type} queue"),
            ));
            return;
        }
        problems.push(if let Some(other) = others.first() {
            ArgumentProblem::refused(
                name,
                ProblemKind::OtherType,
                format!("a {queue_type} queue of {version} does not know `{name}`"),
            )
            .hint(if others.len() == 1 {
                format!("only {other} queues know it")
            } else {
                format!("{} queues know it", join(&others))
            })
        } else if let Some(ended) = support.ended_by(version) {
            ArgumentProblem::refused(
                name,
                ProblemKind::Removed,
                format!("`{name}` is refused from {}.{} on", ended.major, ended.minor),
            )
            .hint(argument.summary)
        } else {
            let since = [argument.classic, argument.quorum, argument.stream]
                .into_iter()
                .filter_map(|s| s.begins_after(version))
                .min();
            ArgumentProblem::taken(
                name,
                ProblemKind::NotYet,
                Severity::Warning,
                match since {
                    Some(since) => {
                        format!("`{name}` has no effect before {}.{}", since.major, since.minor)
                    }
                    None => format!("`{name}` has no effect in {version}"),
                },
            )
            .hint("the broker stores it and never looks at it")
        });
        return;
    }
    if let Err(fault) = argument.value.check(value) {
        problems.push(bad_value(name, argument.value, value, &fault, version));
        return;
    }
    problems.extend(treacherous_value(name, value, queue_type, version));
}

fn unknown_queue_argument(name: &str) -> ArgumentProblem {
    if name == "x-ha-policy" {
        return ArgumentProblem::taken(
            name,
            ProblemKind::NoEffect,
            Severity::Warning,
            "`x-ha-policy` has had no effect for ten years".to_owned(),
        )
        .hint("use a quorum queue to have copies");
    }
    let known = QUEUE_ARGUMENTS.iter().map(|a| a.name).filter(|n| !n.is_empty());
    match nearest(name, known.clone()).or_else(|| nearest(&format!("x-{name}"), known)) {
        Some(meant) => ArgumentProblem::taken(
            name,
            ProblemKind::Unknown,
            Severity::Warning,
            format!("no version knows `{name}`; the broker stores it and never looks at it"),
        )
        .hint(format!("did you mean `{meant}`?")),
        None => ArgumentProblem::taken(
            name,
            ProblemKind::Unknown,
            Severity::Note,
            format!("no version knows `{name}`; the broker stores it and never looks at it"),
        ),
    }
}

fn bad_value(
    name: &str,
    kind: ValueKind,
    value: &FieldValue,
    fault: &ValueFault,
    version: Version,
) -> ArgumentProblem {
    let message = format!("`{name}` takes {}, not {}", kind.describe(), describe_value(value));
    let kind = match fault {
        ValueFault::Type => ProblemKind::WrongType,
        ValueFault::Range => ProblemKind::OutOfRange,
    };
    if is_unchecked(name, version) {
        return ArgumentProblem::taken(name, kind, Severity::Error, message)
            .hint("the broker takes it without a check, and then does something else");
    }
    ArgumentProblem::refused(name, kind, message)
}

/// Arguments whose value the broker does not look at when a queue is declared; measured on 3.10.8
/// and 4.0.5.
fn is_unchecked(name: &str, version: Version) -> bool {
    match name {
        "x-delivery-limit" => true,
        "x-consumer-timeout" => version < V4_3,
        "x-queue-master-locator" => version >= V4_0,
        _ => false,
    }
}

/// Values that are taken and do not do what they say.
fn treacherous_value(
    name: &str,
    value: &FieldValue,
    queue_type: QueueType,
    version: Version,
) -> Option<ArgumentProblem> {
    match name {
        "x-delivery-limit" if value.as_i64() == Some(-1) && version < V4_0 => Some(
            ArgumentProblem::taken(
                name,
                ProblemKind::Treacherous,
                Severity::Error,
                format!(
                    "`x-delivery-limit: -1` means unlimited from 4.0 on; {version} loses the \
                     message at its first return"
                ),
            )
            .hint("leave it out: before 4.0 no limit is the default"),
        ),
        "x-overflow"
            if queue_type == QueueType::Quorum && value.as_text() == Some("reject-publish-dlx") =>
        {
            Some(
                ArgumentProblem::taken(
                    name,
                    ProblemKind::Treacherous,
                    Severity::Error,
                    "a quorum queue takes `reject-publish-dlx` and then drops from the head"
                        .to_owned(),
                )
                .hint("use reject-publish, or a classic queue"),
            )
        }
        "x-queue-mode" if version >= V3_12 => Some(ArgumentProblem::taken(
            name,
            ProblemKind::NoEffect,
            Severity::Warning,
            "`x-queue-mode` has no effect since 3.12, and 4.3 refuses it".to_owned(),
        )),
        "x-max-in-memory-length" | "x-max-in-memory-bytes" => Some(ArgumentProblem::taken(
            name,
            ProblemKind::NoEffect,
            Severity::Warning,
            format!("`{name}` has no effect since 3.10"),
        )),
        "x-queue-version" if value.as_i64() == Some(1) && version >= V4_3 => {
            Some(ArgumentProblem::refused(
                name,
                ProblemKind::Removed,
                "`x-queue-version: 1` is refused from 4.3 on".to_owned(),
            ))
        }
        "x-queue-master-locator" if version >= V3_13 => Some(
            ArgumentProblem::taken(
                name,
                ProblemKind::NoEffect,
                Severity::Warning,
                "`x-queue-master-locator` is deprecated, and 4.3 refuses it".to_owned(),
            )
            .hint("use x-queue-leader-locator"),
        ),
        _ => None,
    }
}

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

/// Checks a policy, or an operator policy, as RabbitMQ `version` would.
pub fn check_policy(
    policy: &PolicyDefinition,
    operator: bool,
    version: Version,
) -> Vec<ArgumentProblem> {
    let mut problems = Vec::new();
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

/// Every policy key of queues and exchanges, whatever the version.
pub fn policy_keys() -> impl Iterator<Item = &'static str> {
    QUEUE_ARGUMENTS
        .iter()
        .filter_map(|argument| argument.policy.map(|policy| policy.key))
        .chain(EXCHANGE_POLICY_KEYS.iter().copied())
}

/// A JSON value as RabbitMQ makes it an argument.
pub fn field_of_json(value: &Value) -> FieldValue {
    match value {
        Value::Null => FieldValue::Void,
        Value::Bool(flag) => FieldValue::Bool(*flag),
        Value::Number(number) => number
            .as_i64()
            .map(FieldValue::Int64)
            .or_else(|| number.as_f64().map(FieldValue::Double))
            .unwrap_or(FieldValue::Void),
        Value::String(text) => FieldValue::from(text.as_str()),
        Value::Array(items) => FieldValue::Array(items.iter().map(field_of_json).collect()),
        Value::Object(map) => FieldValue::Table(
            map.iter()
                .map(|(name, value)| (name.clone(), field_of_json(value)))
                .collect::<FieldTable>(),
        ),
    }
}

/// An argument as JSON, as the management API writes it. Types that JSON lacks lose their name:
/// bytes that are no UTF-8 become text with replacement characters.
pub fn json_of_field(value: &FieldValue) -> Value {
    match value {
        FieldValue::Void => Value::Null,
        FieldValue::Bool(flag) => Value::Bool(*flag),
        FieldValue::Float(number) => {
            Number::from_f64(f64::from(*number)).map_or(Value::Null, Value::Number)
        }
        FieldValue::Double(number) => Number::from_f64(*number).map_or(Value::Null, Value::Number),
        FieldValue::Decimal { scale, unscaled } => {
            Number::from_f64(f64::from(*unscaled) / 10f64.powi(i32::from(*scale)))
                .map_or(Value::Null, Value::Number)
        }
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => {
            Value::String(String::from_utf8_lossy(bytes).into_owned())
        }
        FieldValue::Timestamp(seconds) => Value::from(*seconds),
        FieldValue::Array(items) => Value::Array(items.iter().map(json_of_field).collect()),
        FieldValue::Table(table) => Value::Object(
            table.iter().map(|(name, value)| (name.to_owned(), json_of_field(value))).collect(),
        ),
        integer => integer.as_i64().map_or(Value::Null, Value::from),
    }
}

/// A value as a person is shown it: text in quotes, so that `"5"` and `5` look different.
pub fn describe_value(value: &FieldValue) -> String {
    json_of_field(value).to_string()
}

fn join(types: &[QueueType]) -> String {
    types.iter().map(|t| t.as_str()).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
    use crate::broker::definition::Destination;

    const V3_10_8: Version = Version::new(3, 10, 8);
    const V4_0_5: Version = Version::new(4, 0, 5);

    fn queue(queue_type: QueueType, arguments: &[(&str, FieldValue)]) -> QueueDefinition {
        let mut queue = QueueDefinition::durable(QueueName::new("q").unwrap(), queue_type);
        for (name, value) in arguments {
            queue.arguments.insert(*name, value.clone());
        }
        queue
    }

    fn sample(kind: ValueKind) -> FieldValue {
        match kind {
            ValueKind::Count { min, .. } => FieldValue::Int64(min.max(1)),
            ValueKind::Milliseconds { .. } => FieldValue::Int64(60_000),
            ValueKind::Bytes { .. } => FieldValue::Int64(500_000),
            ValueKind::Text | ValueKind::Any => FieldValue::from("d"),
            ValueKind::Choice(words) => FieldValue::from(words[0]),
            ValueKind::Flag => FieldValue::Bool(true),
            ValueKind::Age => FieldValue::from("7D"),
        }
    }

    /// `c`, `q`, `s`: taken by classic, quorum, stream on a fresh declaration; measured.
    #[test]
    fn arguments_are_refused_by_type_as_measured() {
        let table = [
            ("x-expires", "cq", "cq"),
            ("x-message-ttl", "cq", "cq"),
            ("x-dead-letter-exchange", "cq", "cq"),
            ("x-max-length", "cq", "cq"),
            ("x-max-length-bytes", "cqs", "cqs"),
            ("x-max-in-memory-length", "q", "q"),
            ("x-max-priority", "c", "c"),
            ("x-overflow", "cq", "cq"),
            ("x-queue-mode", "c", "c"),
            ("x-queue-version", "c", "c"),
            ("x-single-active-consumer", "cq", "cq"),
            ("x-queue-master-locator", "c", "c"),
            ("x-queue-leader-locator", "qs", "cqs"),
            ("x-dead-letter-strategy", "q", "q"),
            ("x-quorum-initial-group-size", "q", "q"),
            ("x-delivery-limit", "q", "q"),
            ("x-consumer-timeout", "cqs", "cqs"),
            ("x-max-age", "s", "s"),
            ("x-stream-max-segment-size-bytes", "s", "s"),
            ("x-stream-filter-size-bytes", "cqs", "cqs"),
            ("x-initial-cluster-size", "s", "s"),
            ("x-member-placement-tag", "cqs", "cqs"),
            ("x-delayed-retry-type", "cqs", "cqs"),
            ("x-nobody-knows", "cqs", "cqs"),
        ];
        for (name, in_3_10, in_4_0) in table {
            for (version, taken) in [(V3_10_8, in_3_10), (V4_0_5, in_4_0)] {
                for (letter, queue_type) in
                    [('c', QueueType::Classic), ('q', QueueType::Quorum), ('s', QueueType::Stream)]
                {
                    let value = queue_argument(name)
                        .map_or(FieldValue::from("x"), |argument| sample(argument.value));
                    let problems = check_queue_arguments(
                        &queue(queue_type, &[(name, value)]),
                        queue_type,
                        version,
                    );
                    let refused = problems.iter().any(|p| p.refused);
                    assert_eq!(
                        refused,
                        !taken.contains(letter),
                        "{name} on {queue_type} of {version}: {problems:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn values_are_checked_by_type_and_range_as_measured() {
        use FieldValue::{Bool, Double, Int64};
        let text = |t: &str| FieldValue::from(t);
        let table = [
            (QueueType::Classic, "x-expires", Int64(0), true),
            (QueueType::Classic, "x-expires", Int64(1), false),
            (QueueType::Classic, "x-expires", Int64(4_294_967_296), false),
            (QueueType::Classic, "x-expires", Int64(4_294_967_295_000), true),
            (QueueType::Classic, "x-message-ttl", Int64(0), false),
            (QueueType::Classic, "x-message-ttl", Double(1.0), true),
            (QueueType::Classic, "x-max-priority", Int64(256), true),
            (QueueType::Classic, "x-max-priority", Int64(0), false),
            (QueueType::Quorum, "x-max-length", Int64(-1), true),
            (QueueType::Quorum, "x-max-length", text("5"), true),
            (QueueType::Classic, "x-overflow", text("nope"), true),
            (QueueType::Classic, "x-queue-mode", text("nope"), true),
            (QueueType::Classic, "x-queue-version", Int64(3), true),
            (QueueType::Classic, "x-single-active-consumer", text("true"), true),
            (QueueType::Quorum, "x-single-active-consumer", Bool(true), false),
            (QueueType::Quorum, "x-quorum-initial-group-size", Int64(0), true),
            (QueueType::Quorum, "x-quorum-initial-group-size", Int64(4), false),
            (QueueType::Quorum, "x-dead-letter-strategy", text("nope"), true),
            (QueueType::Quorum, "x-queue-leader-locator", text("nope"), true),
            (QueueType::Stream, "x-max-age", text("7"), true),
            (QueueType::Stream, "x-max-age", text("0D"), true),
            (QueueType::Stream, "x-max-age", text("7d"), true),
            (QueueType::Stream, "x-max-age", Int64(7), true),
            (QueueType::Stream, "x-stream-max-segment-size-bytes", Int64(3_000_000_001), true),
            (QueueType::Stream, "x-stream-filter-size-bytes", Int64(15), true),
            (QueueType::Stream, "x-initial-cluster-size", Int64(0), true),
            (QueueType::Classic, "x-dead-letter-exchange", Int64(5), true),
            (QueueType::Classic, "x-dead-letter-routing-key", text("k"), true),
            (QueueType::Quorum, "x-delivery-limit", Int64(0), false),
            (QueueType::Quorum, "x-delivery-limit", text("a"), false),
        ];
        for (queue_type, name, value, refused) in table {
            let problems = check_queue_arguments(
                &queue(queue_type, &[(name, value.clone())]),
                queue_type,
                V4_0_5,
            );
            assert_eq!(
                problems.iter().any(|p| p.refused),
                refused,
                "{name}: {value:?} {problems:?}"
            );
        }
    }

    #[test]
    fn what_is_taken_and_does_harm_is_an_error_all_the_same() {
        let unlimited = queue(QueueType::Quorum, &[("x-delivery-limit", FieldValue::Int64(-1))]);
        let problems = check_queue_arguments(&unlimited, QueueType::Quorum, V3_10_8);
        assert!(matches!(
            problems.as_slice(),
            [ArgumentProblem { refused: false, severity: Severity::Error, .. }]
        ));
        assert_eq!(check_queue_arguments(&unlimited, QueueType::Quorum, V4_0_5), []);

        let dlx = queue(QueueType::Quorum, &[("x-overflow", "reject-publish-dlx".into())]);
        let problems = check_queue_arguments(&dlx, QueueType::Quorum, V4_0_5);
        assert_eq!(problems[0].kind, ProblemKind::Treacherous);
        let text = queue(QueueType::Quorum, &[("x-delivery-limit", "5".into())]);
        assert!(
            check_queue_arguments(&text, QueueType::Quorum, V4_0_5)
                .iter()
                .any(|p| !p.refused && p.severity == Severity::Error)
        );
    }

    #[test]
    fn a_slip_in_an_argument_name_is_found() {
        for (slip, meant) in [
            ("x-max-lenght", "x-max-length"),
            ("x-dead-leter-exchange", "x-dead-letter-exchange"),
            ("message-ttl", "x-message-ttl"),
        ] {
            let problems = check_queue_arguments(
                &queue(QueueType::Classic, &[(slip, FieldValue::Int64(1))]),
                QueueType::Classic,
                V4_0_5,
            );
            assert_eq!(
                problems[0].hint.as_deref(),
                Some(format!("did you mean `{meant}`?").as_str())
            );
            assert!(!problems[0].refused);
        }
    }

    #[test]
    fn properties_must_go_with_the_type_and_the_version() {
        let mut transient = queue(QueueType::Classic, &[]);
        transient.durable = false;
        let refused = |queue: &QueueDefinition, queue_type, version| {
            check_queue_arguments(queue, queue_type, version).iter().any(|p| p.refused)
        };
        assert!(!refused(&transient, QueueType::Classic, V4_0_5));
        assert!(refused(&transient, QueueType::Classic, V4_3));
        assert!(refused(&transient, QueueType::Quorum, V4_0_5));
        transient.exclusive = true;
        assert!(!refused(&transient, QueueType::Classic, V4_3));
        for change in [
            |q: &mut QueueDefinition| q.exclusive = true,
            |q: &mut QueueDefinition| q.auto_delete = true,
        ] {
            let mut changed = queue(QueueType::Stream, &[]);
            change(&mut changed);
            assert!(refused(&changed, QueueType::Stream, V4_0_5));
        }
    }

    #[test]
    fn version_4_3_refuses_what_was_removed() {
        for (name, value) in [
            ("x-queue-mode", FieldValue::from("lazy")),
            ("x-queue-version", FieldValue::Int64(1)),
            ("x-queue-master-locator", FieldValue::from("min-masters")),
        ] {
            let q = queue(QueueType::Classic, &[(name, value)]);
            let refused = |version| {
                check_queue_arguments(&q, QueueType::Classic, version).iter().any(|p| p.refused)
            };
            assert!(!refused(V4_0_5), "{name}");
            assert!(refused(V4_3), "{name}");
        }
    }

    fn policy(apply_to: ApplyTo, key: &str, value: Value) -> PolicyDefinition {
        PolicyDefinition {
            name: PolicyName::new("p").unwrap(),
            pattern: "^q$".into(),
            apply_to,
            priority: 0,
            definition: [(key.to_owned(), value)].into_iter().collect(),
        }
    }

    /// Whether 3.10.8 and 4.0.5 take the key in a policy and in an operator policy; measured.
    #[test]
    fn policy_keys_are_refused_as_measured() {
        let table = [
            ("expires", [true, true], [true, true]),
            ("message-ttl", [true, true], [true, true]),
            ("dead-letter-exchange", [true, true], [false, false]),
            ("max-length", [true, true], [true, true]),
            ("max-priority", [false, false], [false, false]),
            ("overflow", [true, true], [false, true]),
            ("queue-mode", [true, true], [false, false]),
            ("queue-version", [true, true], [false, true]),
            ("single-active-consumer", [false, false], [false, false]),
            ("queue-master-locator", [true, true], [false, true]),
            ("queue-leader-locator", [true, true], [false, false]),
            ("quorum-initial-group-size", [false, false], [false, false]),
            ("delivery-limit", [true, true], [true, true]),
            ("consumer-timeout", [false, true], [false, false]),
            ("max-age", [true, true], [false, false]),
            ("stream-filter-size-bytes", [false, true], [false, false]),
            ("target-group-size", [false, true], [false, true]),
            ("delayed-retry-min", [false, false], [false, false]),
            ("ha-mode", [true, false], [false, false]),
            ("alternate-exchange", [true, true], [false, false]),
        ];
        for (key, user, operator) in table {
            let value =
                by_policy_key(key).map_or(Value::from("d"), |a| json_of_field(&sample(a.value)));
            for (index, version) in [V3_10_8, V4_0_5].into_iter().enumerate() {
                for (is_operator, taken) in [(false, user[index]), (true, operator[index])] {
                    let problems = check_policy(
                        &policy(ApplyTo::All, key, value.clone()),
                        is_operator,
                        version,
                    );
                    assert_eq!(
                        !problems.iter().any(|p| p.refused),
                        taken,
                        "{key} operator={is_operator} {version}: {problems:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn policy_values_and_targets_are_checked() {
        let refused = |apply_to, key: &str, value: Value, version| {
            check_policy(&policy(apply_to, key, value), false, version).iter().any(|p| p.refused)
        };
        assert!(refused(ApplyTo::Queues, "max-length", "5".into(), V4_0_5));
        assert!(refused(ApplyTo::Queues, "max-length", (-1).into(), V4_0_5));
        assert!(refused(ApplyTo::Queues, "overflow", "nope".into(), V4_0_5));
        assert!(refused(ApplyTo::QuorumQueues, "max-length", 5.into(), V3_10_8));
        assert!(!refused(ApplyTo::QuorumQueues, "max-length", 5.into(), V4_0_5));
        assert!(refused(ApplyTo::Queues, "delivery-limit", (-1).into(), V3_10_8));
        assert!(!refused(ApplyTo::Queues, "delivery-limit", (-1).into(), V4_0_5));
        let mut empty = policy(ApplyTo::Queues, "max-length", 5.into());
        empty.definition.clear();
        assert!(check_policy(&empty, false, V4_0_5).iter().any(|p| p.refused));
        let slip = check_policy(&policy(ApplyTo::Queues, "messageTtl", 5.into()), false, V4_0_5);
        assert_eq!(slip[0].hint.as_deref(), Some("did you mean `message-ttl`?"));
        let mut wrong = policy(ApplyTo::Queues, "max-length", 5.into());
        wrong.pattern = "(".into();
        assert_eq!(check_policy(&wrong, false, V4_0_5)[0].kind, ProblemKind::Pattern);
        let idle = check_policy(&policy(ApplyTo::Streams, "message-ttl", 5.into()), false, V4_0_5);
        assert_eq!(idle[0].kind, ProblemKind::NoEffect);
    }

    #[test]
    fn bindings_are_checked_by_the_type_of_their_exchange() {
        let binding = |key: &str, arguments: &[(&str, &str)]| BindingDefinition {
            source: ExchangeName::new("x").unwrap(),
            destination: Destination::Queue(QueueName::new("q").unwrap()),
            routing_key: RoutingKey::new(key).unwrap(),
            arguments: arguments
                .iter()
                .map(|(n, v)| ((*n).to_owned(), FieldValue::from(*v)))
                .collect(),
        };
        let kinds = |binding: &BindingDefinition, kind: ExchangeKind, version| {
            check_binding(binding, &kind, version)
                .into_iter()
                .map(|p| (p.kind, p.refused))
                .collect::<Vec<_>>()
        };
        use ExchangeKind::{Direct, Fanout, Headers, Topic};
        use ProblemKind::{NoEffect, OutOfRange, Treacherous};
        let good = binding("", &[("x-match", "any"), ("tenant", "a")]);
        assert_eq!(kinds(&good, Headers, V4_0_5), []);
        assert_eq!(
            kinds(&binding("", &[("x-match", "some")]), Headers, V4_0_5),
            [(OutOfRange, true)]
        );
        assert_eq!(kinds(&binding("", &[]), Headers, V4_0_5), [(Treacherous, false)]);
        assert_eq!(kinds(&binding("", &[("x-a", "1")]), Headers, V4_0_5), [(Treacherous, false)]);
        assert_eq!(kinds(&binding("#.a.#", &[]), Topic, V4_3_5), []);
        assert_eq!(kinds(&binding("#.a.#.#", &[]), Topic, V4_3_5), [(OutOfRange, true)]);
        assert_eq!(kinds(&binding("#.a.#.#", &[]), Topic, V4_0_5), [(OutOfRange, false)]);
        assert_eq!(kinds(&binding("a.b*", &[]), Topic, V4_0_5), [(Treacherous, false)]);
        assert_eq!(kinds(&binding("a.#", &[]), Direct, V4_0_5), [(Treacherous, false)]);
        assert_eq!(kinds(&binding("a", &[]), Fanout, V4_0_5), [(NoEffect, false)]);
        assert_eq!(kinds(&binding("a", &[("t", "1")]), Direct, V4_0_5), [(NoEffect, false)]);
    }

    #[test]
    fn exchange_arguments_are_checked() {
        let mut exchange =
            ExchangeDefinition::durable(ExchangeName::new("x").unwrap(), ExchangeKind::Topic);
        exchange.arguments.insert("alternate-exchange", "other");
        assert_eq!(check_exchange(&exchange), []);
        exchange.arguments.insert("alternate-exchange", 5);
        assert!(check_exchange(&exchange)[0].refused);
        exchange.arguments = FieldTable::new().with("x-alternate-exchange", "other");
        assert_eq!(
            check_exchange(&exchange)[0].hint.as_deref(),
            Some("did you mean `alternate-exchange`?")
        );
        exchange.arguments = FieldTable::new().with("hash-header", "h");
        assert_eq!(check_exchange(&exchange)[0].kind, ProblemKind::NoEffect);
        exchange.arguments = FieldTable::new();
        exchange.kind = ExchangeKind::Other("topci".into());
        assert!(check_exchange(&exchange)[0].refused);
    }

    #[test]
    fn friendly_names_and_policy_keys_are_each_said_once() {
        for pick in [
            |a: &QueueArgument| a.friendly.to_owned(),
            |a: &QueueArgument| a.name.to_owned(),
            |a: &QueueArgument| a.policy.map_or(String::new(), |p| p.key.to_owned()),
        ] {
            let mut names: Vec<String> =
                QUEUE_ARGUMENTS.iter().map(pick).filter(|n| !n.is_empty()).collect();
            let all = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), all);
        }
    }
}
