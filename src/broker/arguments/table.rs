//! Every argument of queues and exchanges, and every key of policies, as data.

use crate::broker::definition::QueueType;
use crate::broker::version::Version;

use super::support::{Support, V3_12, V3_13, V4_0, V4_3, V4_3_1};
use super::value::ValueKind::{self, Age, Any, Bytes, Choice, Count, Flag, Milliseconds, Text};

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

    pub(super) fn known_types(&self, version: Version) -> Vec<QueueType> {
        [QueueType::Classic, QueueType::Quorum, QueueType::Stream]
            .into_iter()
            .filter(|t| self.support(*t).includes(version))
            .collect()
    }
}

pub(super) const fn key(
    key: &'static str,
    policy: Support,
    operator: Support,
) -> Option<PolicyKey> {
    Some(PolicyKey { key, policy, operator, harmless: &[] })
}

/// A key of policies and operator policies of every version.
const fn anyone(name: &'static str) -> Option<PolicyKey> {
    key(name, ALWAYS, ALWAYS)
}

/// A key of policies of every version, and of no operator policy.
const fn users(name: &'static str) -> Option<PolicyKey> {
    key(name, ALWAYS, NEVER)
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

pub(super) const ALWAYS: Support = Support::ALWAYS;

pub(super) const NEVER: Support = Support::NEVER;

const ANY_COUNT: ValueKind = Count { min: 0, max: i64::MAX };

const MEMBERS: ValueKind = Count { min: 1, max: i64::MAX };
const ANY_BYTES: ValueKind = Bytes { max: i64::MAX };

const LOCATORS: ValueKind = Choice(&["client-local", "balanced"]);

/// Values of `x-overflow`.
pub const OVERFLOWS: &[&str] = &["drop-head", "reject-publish", "reject-publish-dlx"];

/// Which versions know it on classic queues, on quorum queues and on streams.
type ByType = [Support; 3];
const EVERYWHERE: ByType = [ALWAYS, ALWAYS, ALWAYS];
const QUEUES: ByType = [ALWAYS, ALWAYS, NEVER];
const CLASSIC: ByType = [ALWAYS, NEVER, NEVER];
const CLASSIC_BEFORE_4_3: ByType = [Support::until(V4_3), NEVER, NEVER];
const MIRRORED: ByType = [Support::until(V4_0), NEVER, NEVER];
const QUORUM: ByType = [NEVER, ALWAYS, NEVER];
const QUORUM_4_3: ByType = [NEVER, Support::since(V4_3), NEVER];
const STREAM: ByType = [NEVER, NEVER, ALWAYS];

/// One row is `NAME FRIENDLY: VALUES, TYPES, POLICY, SUMMARY;`, as the fields of [`QueueArgument`]
/// say; an empty name is none.
macro_rules! queue_arguments {
    ($($name:literal $friendly:literal: $value:expr, $types:expr, $policy:expr, $summary:literal;)*) => {
        /// Every queue argument and queue policy key that some version knows.
        pub const QUEUE_ARGUMENTS: &[QueueArgument] =
            &[$(row($name, $friendly, $value, $types, $policy, $summary)),*];
    };
}

const fn row(
    name: &'static str,
    friendly: &'static str,
    value: ValueKind,
    [classic, quorum, stream]: ByType,
    policy: Option<PolicyKey>,
    summary: &'static str,
) -> QueueArgument {
    QueueArgument { name, friendly, value, classic, quorum, stream, policy, summary }
}

queue_arguments! {
    "x-queue-type" "type": Choice(&["classic", "quorum", "stream"]), EVERYWHERE, None,
        "how the queue stores and replicates";
    "x-message-ttl" "messageTtl": Milliseconds { min: 0 }, QUEUES, anyone("message-ttl"),
        "how long a message waits before it expires";
    "x-expires" "expires": Milliseconds { min: 1 }, QUEUES, anyone("expires"),
        "how long the queue itself stays while nobody uses it";
    "x-max-length" "maxLength": ANY_COUNT, QUEUES, anyone("max-length"),
        "how many messages may wait";
    "x-max-length-bytes" "maxLengthBytes": ANY_BYTES, EVERYWHERE, anyone("max-length-bytes"),
        "how many bytes of messages may wait";
    "x-overflow" "overflow": Choice(OVERFLOWS), QUEUES,
        key("overflow", ALWAYS, Support::since(V3_12)),
        "what happens when the queue is full";
    "x-dead-letter-exchange" "deadLetterExchange": Text, QUEUES, users("dead-letter-exchange"),
        "where rejected, expired and surplus messages go";
    "x-dead-letter-routing-key" "deadLetterRoutingKey": Text, QUEUES,
        users("dead-letter-routing-key"),
        "the key they go by; their own when absent";
    "x-dead-letter-strategy" "deadLetterStrategy": Choice(&["at-most-once", "at-least-once"]),
        QUORUM, users("dead-letter-strategy"),
        "whether a dead letter may be lost on its way";
    "x-delivery-limit" "deliveryLimit": Count { min: -1, max: i64::MAX }, QUORUM,
        anyone("delivery-limit"),
        "how often a message may come back before it is dropped or dead-lettered";
    "x-max-priority" "maxPriority": Count { min: 0, max: 255 }, CLASSIC, None,
        "how many priorities the queue keeps apart";
    "x-single-active-consumer" "singleActiveConsumer": Flag, QUEUES, None,
        "one consumer at a time gets messages, the others wait";
    "x-queue-leader-locator" "leaderLocator": LOCATORS, [Support::since(V3_12), ALWAYS, ALWAYS],
        users("queue-leader-locator"),
        "which node leads the queue";
    "x-quorum-initial-group-size" "initialGroupSize": MEMBERS, QUORUM, None,
        "how many members the quorum queue starts with";
    "" "targetGroupSize": MEMBERS, [NEVER, Support::since(V3_13), NEVER],
        key("target-group-size", Support::since(V3_13), Support::since(V3_13)),
        "how many members the quorum queue is grown to";
    "x-max-in-memory-length" "": ANY_COUNT, QUORUM,
        lenient_key("max-in-memory-length", ALWAYS, ALWAYS, CLASSIC_BEFORE_4),
        "without effect since 3.10";
    "x-max-in-memory-bytes" "": ANY_BYTES, QUORUM,
        lenient_key("max-in-memory-bytes", ALWAYS, ALWAYS, CLASSIC_BEFORE_4),
        "without effect since 3.10";
    "x-max-age" "maxAge": Age, STREAM, users("max-age"),
        "how long a stream keeps its records";
    "x-stream-max-segment-size-bytes" "maxSegmentSize": Bytes { max: 3_000_000_000 }, STREAM,
        users("stream-max-segment-size-bytes"),
        "how large one file of a stream grows; retention works by whole files";
    "x-stream-filter-size-bytes" "filterSize": Count { min: 16, max: 255 },
        [NEVER, NEVER, Support::since(V3_13)],
        lenient_key("stream-filter-size-bytes", Support::since(V3_13), NEVER, EVERY_TYPE),
        "size of a stream's filter for each chunk";
    "x-initial-cluster-size" "initialClusterSize": MEMBERS, STREAM, users("initial-cluster-size"),
        "how many members the stream starts with";
    "x-consumer-timeout" "consumerTimeout": Milliseconds { min: 0 },
        [Support::between(V3_12, V4_3), Support::since(V3_12), Support::between(V3_12, V4_3)],
        lenient_key("consumer-timeout", Support::since(V3_12), NEVER, EVERY_TYPE),
        "how long a consumer may hold a message unsettled";
    "x-consumer-disconnected-timeout" "consumerDisconnectedTimeout": Milliseconds { min: 0 },
        QUORUM_4_3, key("consumer-disconnected-timeout", Support::since(V4_3), NEVER),
        "how long the messages of a consumer on a lost node stay assigned";
    "x-delayed-retry-type" "delayedRetryType": Choice(&["disabled", "all", "failed", "returned"]),
        QUORUM_4_3, key("delayed-retry-type", Support::since(V4_3_1), NEVER),
        "which returned messages wait before they are delivered again";
    "x-delayed-retry-min" "delayedRetryMin": Milliseconds { min: 0 }, QUORUM_4_3,
        key("delayed-retry-min", Support::since(V4_3_1), NEVER),
        "the shortest such wait";
    "x-delayed-retry-max" "delayedRetryMax": Milliseconds { min: 0 }, QUORUM_4_3,
        key("delayed-retry-max", Support::since(V4_3_1), NEVER),
        "the longest such wait";
    "x-member-placement-tag" "memberPlacementTag": Text, QUORUM_4_3, None,
        "on which nodes members are placed";
    "x-queue-mode" "queueMode": Choice(&["default", "lazy"]), CLASSIC_BEFORE_4_3,
        users("queue-mode"),
        "without effect since 3.12";
    "x-queue-version" "queueVersion": Count { min: 1, max: 2 }, CLASSIC,
        lenient_key("queue-version", ALWAYS, Support::since(V3_12), EVERY_TYPE),
        "which storage a classic queue uses";
    "x-queue-master-locator" "": Choice(&["min-masters", "client-local", "random", "balanced"]),
        CLASSIC_BEFORE_4_3,
        key("queue-master-locator", Support::until(V4_3), Support::between(V4_0, V4_3)),
        "the old name of leaderLocator";
    "" "": Choice(&["all", "exactly", "nodes"]), MIRRORED,
        key("ha-mode", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
    "" "": Any, MIRRORED, key("ha-params", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
    "" "": Choice(&["manual", "automatic"]), MIRRORED,
        key("ha-sync-mode", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
    "" "": MEMBERS, MIRRORED, key("ha-sync-batch-size", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
    "" "": Choice(&["always", "when-synced"]), MIRRORED,
        key("ha-promote-on-shutdown", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
    "" "": Choice(&["always", "when-synced"]), MIRRORED,
        key("ha-promote-on-failure", Support::until(V4_0), NEVER),
        "mirroring of classic queues, removed in 4.0";
}

/// Policy keys of exchanges. Queues do not mind them.
pub const EXCHANGE_POLICY_KEYS: &[&str] = &["alternate-exchange"];

/// Policy keys that exist while a plugin is enabled.
pub(super) const PLUGIN_POLICY_KEYS: &[(&str, &str)] = &[
    ("federation-upstream", "rabbitmq_federation"),
    ("federation-upstream-set", "rabbitmq_federation"),
    ("federation-upstream-pattern", "rabbitmq_federation"),
];

/// Exchange arguments by the plugin type that reads them.
pub(super) const PLUGIN_EXCHANGE_ARGUMENTS: &[(&str, &str)] = &[
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

/// Every policy key of queues and exchanges, whatever the version.
pub fn policy_keys() -> impl Iterator<Item = &'static str> {
    QUEUE_ARGUMENTS
        .iter()
        .filter_map(|argument| argument.policy.map(|policy| policy.key))
        .chain(EXCHANGE_POLICY_KEYS.iter().copied())
}
