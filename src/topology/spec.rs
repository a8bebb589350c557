//! What a topology file says, before anything in it is expanded.
//!
//! Every doc comment here is what an editor shows beside the key. `expand` turns these values into
//! the [`Topology`](super::model::Topology) and back; nothing here knows what a key leads to.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use crate::base::diagnostic::Findings;
use crate::base::document::decode::wrong_type;
use crate::base::document::{
    Decode, Entries, Node, Spanned, Value, document_enum, document_struct,
};
use crate::base::id::{ExchangeName, QueueName, RoutingKey, VhostName};
use crate::base::size::ByteSize;
use crate::base::time::HumanDuration;

document_struct! {
    /// Exchanges, queues, bindings and policies of one vhost, under version control.
    ///
    /// `nexusctl topology plan` shows what would have to change, `apply` changes it, `render` shows
    /// what presets and sugar expand to. Several documents together are one topology.
    #[derive(Default)]
    pub struct TopologySpec: Topology {
        /// Who this topology belongs to.
        pub metadata: Option<MetadataSpec>,
        /// The broker this file is for; any other is refused.
        pub cluster: Option<ClusterSpec>,
        /// Values for `${ name }` anywhere in this file; `--set name=value` overrides them. A
        /// variable without a value must be set on the command line.
        pub variables: Entries<Json>,
        /// A ready-made topology to start from: `agents`, or `agents:` with its parameters.
        pub preset: Option<PresetSpec>,
        /// What queues are when they do not say.
        pub defaults: Option<DefaultsSpec>,
        /// Settings of the vhost itself.
        pub vhost: Option<VhostSpec>,
        /// Regular expressions that names must match as a whole.
        pub naming: Option<NamingSpec>,
        /// Exchanges by name.
        pub exchanges: Entries<ExchangeSpec>,
        /// Queues by name.
        pub queues: Entries<QueueSpec>,
        /// Bindings; those of a queue may also stand in its `bind`.
        pub bindings: Vec<Spanned<BindingSpec>>,
        /// Policies by name.
        pub policies: Entries<PolicySpec>,
        /// Operator policies by name: limits that nobody in the vhost can loosen.
        pub operator_policies: Entries<PolicySpec>,
        /// A stream that keeps a copy of what the exchanges take, for `nexusctl journal`: `true`, or
        /// how much it keeps and of which exchanges.
        pub journal: Option<Spanned<JournalSpec>>,
        /// What messages carry by their type, unless the publisher says otherwise.
        pub message_types: Entries<MessageTypeSpec>,
    }
}

document_struct! {
    /// Who a topology belongs to.
    #[derive(Default)]
    pub struct MetadataSpec {
        /// The topology's name.
        pub name: Option<Spanned<String>>,
        /// The owner; only objects that this owner created are ever pruned. The name when absent.
        pub owner: Option<Spanned<String>>,
    }
}

document_struct! {
    /// The broker a file is for.
    #[derive(Default)]
    pub struct ClusterSpec {
        /// The cluster's name, as `rabbitmqctl cluster_status` shows it.
        pub name: Option<Spanned<String>>,
        /// The vhost; the connection's when absent.
        pub vhost: Option<Spanned<VhostName>>,
    }
}

document_struct! {
    /// Exchanges and queues of agents that talk to each other: `nexus.agents`, `nexus.commands`,
    /// `nexus.events`, `nexus.tools`, and for each agent, command and tool a queue with its
    /// dead-letter queue.
    #[derive(Default)]
    pub struct AgentsSpec {
        /// Agents: each gets the queue `agent.<id>`, bound to `nexus.agents` by its id.
        pub ids: Vec<Spanned<String>>,
        /// Categories of commands: each gets the queue `command.<category>`, bound to
        /// `nexus.commands` by `<category>.#`.
        pub commands: Vec<Spanned<String>>,
        /// Types of tools: each gets the queue `tool.<type>`, bound to `nexus.tools` by `<type>.#`.
        pub tools: Vec<Spanned<String>>,
        /// Time to live by message type, over the preset's own (command 1h, event 1d, request 5m,
        /// response 5m).
        pub ttl: Entries<HumanDuration>,
    }
}

/// A ready-made topology.
#[derive(Clone, Debug, PartialEq)]
pub enum PresetSpec {
    /// The topology of agents.
    Agents(AgentsSpec),
}

document_struct! {
    /// A preset with its parameters.
    struct PresetParameters {
        /// The topology of agents.
        agents: Spanned<AgentsSpec>,
    }
}

impl Decode for PresetSpec {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Text(_) => PresetName::decode(node, findings)
                .map(|PresetName::Agents| PresetSpec::Agents(AgentsSpec::default())),
            Value::Mapping(_) => PresetParameters::decode(node, findings)
                .map(|parameters| PresetSpec::Agents(parameters.agents.value)),
            _ => {
                findings.push(wrong_type(node, "`agents` or a mapping"));
                None
            }
        }
    }
}

document_enum! {
    /// A preset's name.
    enum PresetName {
        /// The topology of agents.
        Agents,
    }
}

impl Serialize for PresetSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let PresetSpec::Agents(agents) = self;
        PresetParameters { agents: agents.clone().into() }.serialize(serializer)
    }
}

impl JsonSchema for PresetSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Preset".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                generator.subschema_for::<PresetName>(),
                generator.subschema_for::<PresetParameters>(),
            ],
        })
    }
}

document_struct! {
    /// What queues are when they do not say.
    pub struct DefaultsSpec {
        /// Their type.
        pub r#type: QueueKind = QueueKind::Quorum,
        /// Whether they survive a restart of the broker.
        pub durable: bool = true,
        /// Whether each gets a dead-letter queue, as `deadLetter: true` does.
        pub dead_letter: bool = false,
        /// Whether every object is protected from being deleted or replaced.
        pub protect: bool = false,
    }
}

impl Default for DefaultsSpec {
    fn default() -> Self {
        DefaultsSpec {
            r#type: QueueKind::Quorum,
            durable: true,
            dead_letter: false,
            protect: false,
        }
    }
}

document_enum! {
    /// How a queue stores and replicates.
    pub enum QueueKind {
        /// One node, any feature.
        Classic,
        /// Replicated and always durable; what agents should use.
        Quorum,
        /// A log that is read by offset and never emptied by reading.
        Stream,
        /// Whatever the vhost's default queue type is when the queue is made.
        Default,
    }
}

document_struct! {
    /// Settings of the vhost itself.
    #[derive(Default)]
    pub struct VhostSpec {
        /// The type of queues that name none. Needs RabbitMQ 3.11 and an administrator.
        pub default_queue_type: Option<Spanned<VhostQueueType>>,
        /// How much the vhost may hold.
        pub limits: Option<LimitsSpec>,
    }
}

document_enum! {
    /// A vhost's default queue type.
    pub enum VhostQueueType {
        /// One node, any feature.
        Classic,
        /// Replicated and always durable.
        Quorum,
        /// A log that is read by offset.
        Stream,
    }
}

document_struct! {
    /// How much a vhost may hold.
    #[derive(Default)]
    pub struct LimitsSpec {
        /// How many queues; -1 lifts the limit.
        pub max_queues: Option<Spanned<i64>>,
        /// How many connections; -1 lifts the limit.
        pub max_connections: Option<Spanned<i64>>,
    }
}

document_struct! {
    /// Regular expressions that names must match as a whole.
    #[derive(Default)]
    pub struct NamingSpec {
        /// For exchanges, such as `[a-z.]+`.
        pub exchanges: Option<Spanned<String>>,
        /// For queues.
        pub queues: Option<Spanned<String>>,
        /// For policies.
        pub policies: Option<Spanned<String>>,
    }
}

document_struct! {
    /// An exchange: takes messages and hands them to the queues and exchanges bound to it.
    #[derive(Default)]
    pub struct ExchangeSpec {
        /// How it routes: `direct` by equal key, `topic` by words and wildcards, `fanout` to every
        /// binding, `headers` by header values, or a plugin's type.
        pub r#type: Option<Spanned<String>>,
        /// Whether it survives a restart of the broker. Yes, unless said otherwise.
        pub durable: Option<bool>,
        /// Whether it goes away with its last binding.
        pub auto_delete: bool = false,
        /// Whether only other exchanges may hand it messages.
        pub internal: bool = false,
        /// The exchange that takes what no binding takes. Messages that it routes are not returned
        /// to the publisher.
        pub alternate_exchange: Option<Spanned<ExchangeName>>,
        /// Any other argument, such as a plugin's.
        pub arguments: Entries<Spanned<Json>>,
        /// Never delete or replace it, whatever is asked.
        pub protect: Option<bool>,
        /// It exists already and belongs to somebody else: it is never touched, only referred to.
        pub external: bool = false,
    }
}

document_struct! {
    /// A queue: keeps messages until somebody has taken and acknowledged them.
    #[derive(Default)]
    pub struct QueueSpec {
        /// How it stores and replicates. `defaults.type` when absent, which is `quorum` when absent.
        pub r#type: Option<Spanned<QueueKind>>,
        /// Whether it survives a restart of the broker. Yes, unless said otherwise.
        pub durable: Option<bool>,
        /// Whether it goes away with its last consumer. Classic queues only.
        pub auto_delete: bool = false,
        /// Bindings of this queue.
        pub bind: Vec<Spanned<BindSpec>>,
        /// Where rejected, expired and surplus messages go. `true` makes the queue `dead.<queue>`
        /// behind the exchange `dead_letter`; without it such messages are gone.
        pub dead_letter: Option<Spanned<DeadLetterSpec>>,
        /// Whether a dead letter may be lost on its way; `at-least-once` needs a quorum queue and
        /// `overflow: reject-publish`.
        pub dead_letter_strategy: Option<Spanned<Strategy>>,
        /// Delay queues from which messages come back after a while.
        pub retry: Option<Spanned<RetrySpec>>,
        /// How long a message waits before it expires, such as `10m`.
        pub message_ttl: Option<Spanned<HumanDuration>>,
        /// How long the queue itself stays while nobody uses it, such as `7d`.
        pub expires: Option<Spanned<HumanDuration>>,
        /// How many messages may wait.
        pub max_length: Option<Spanned<u64>>,
        /// How many bytes of messages may wait, such as `1GiB`.
        pub max_length_bytes: Option<Spanned<ByteSize>>,
        /// What happens when the queue is full.
        pub overflow: Option<Spanned<OverflowKind>>,
        /// How often a message may come back before it is dead-lettered or dropped. 20 on RabbitMQ
        /// 4 when absent; -1 is unlimited there and loses messages before 4.0. Quorum queues only.
        pub delivery_limit: Option<Spanned<i64>>,
        /// The highest priority that is kept apart, up to 255; below 10 is wise. Classic queues only.
        pub max_priority: Option<Spanned<u8>>,
        /// Whether one consumer at a time gets messages while the others wait.
        pub single_active_consumer: Option<Spanned<bool>>,
        /// Which node leads the queue.
        pub leader_locator: Option<Spanned<Locator>>,
        /// How many members a quorum queue starts with.
        pub initial_group_size: Option<Spanned<u32>>,
        /// How long a stream keeps records, such as `7d`.
        pub max_age: Option<Spanned<String>>,
        /// How large one file of a stream grows. Streams forget by whole files.
        pub max_segment_size: Option<Spanned<ByteSize>>,
        /// Size of a stream's filter for each chunk, 16 to 255 bytes. From 3.13 on.
        pub filter_size: Option<Spanned<u8>>,
        /// How many members a stream starts with.
        pub initial_cluster_size: Option<Spanned<u32>>,
        /// How long a consumer may hold a message unsettled. From 3.12 on.
        pub consumer_timeout: Option<Spanned<HumanDuration>>,
        /// How long messages of a consumer on a lost node stay assigned to it. From 4.3 on.
        pub consumer_disconnected_timeout: Option<Spanned<HumanDuration>>,
        /// Which returned messages wait before they are delivered again. From 4.3 on.
        pub delayed_retry_type: Option<Spanned<DelayedRetry>>,
        /// The shortest such wait. From 4.3 on.
        pub delayed_retry_min: Option<Spanned<HumanDuration>>,
        /// The longest such wait. From 4.3 on.
        pub delayed_retry_max: Option<Spanned<HumanDuration>>,
        /// On which nodes members are placed. From 4.3 on.
        pub member_placement_tag: Option<Spanned<String>>,
        /// Which storage a classic queue uses, 1 or 2.
        pub queue_version: Option<Spanned<u8>>,
        /// Any other argument by its full name, such as `x-my-plugin`, with its type.
        pub arguments: Entries<Spanned<Json>>,
        /// Never delete or replace it, whatever is asked.
        pub protect: Option<bool>,
        /// It exists already and belongs to somebody else: it is never touched, only referred to.
        pub external: bool = false,
    }
}

document_enum! {
    /// What happens when a queue is full.
    pub enum OverflowKind {
        /// The oldest message is dropped or dead-lettered.
        DropHead,
        /// The publisher is told that its message was not taken.
        RejectPublish,
        /// The publisher is told, and a copy is dead-lettered. Classic queues only.
        RejectPublishDlx,
    }
}

document_enum! {
    /// Whether a dead letter may be lost on its way.
    pub enum Strategy {
        /// It may be lost when the broker fails at the wrong moment or nobody takes it.
        AtMostOnce,
        /// It stays in its queue until the other has it.
        AtLeastOnce,
    }
}

document_enum! {
    /// Which node leads a queue.
    pub enum Locator {
        /// The one that the declaring client is connected to.
        ClientLocal,
        /// One that leads few.
        Balanced,
    }
}

document_enum! {
    /// Which returned messages wait before they are delivered again.
    pub enum DelayedRetry {
        /// None.
        Disabled,
        /// All.
        All,
        /// Those that failed.
        Failed,
        /// Those that were given back.
        Returned,
    }
}

/// Whether there is a journal, and what it keeps.
#[derive(Clone, Debug, PartialEq)]
pub enum JournalSpec {
    /// `true`: of every exchange of this file. `false`: none.
    On(bool),
    /// As these say.
    Of(JournalParameters),
}

document_struct! {
    /// What a journal keeps.
    #[derive(Default)]
    pub struct JournalParameters {
        /// How long it keeps messages, `7d` when absent.
        pub max_age: Option<Spanned<String>>,
        /// How many bytes it keeps, `1GiB` when absent.
        pub max_bytes: Option<Spanned<ByteSize>>,
        /// The exchanges it copies; when absent, all of this file but those of dead letters and
        /// retries, and those that nothing can be published to.
        pub exchanges: Vec<Spanned<ExchangeName>>,
    }
}

impl Decode for JournalSpec {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Bool(on) => Some(JournalSpec::On(*on)),
            Value::Mapping(_) => JournalParameters::decode(node, findings).map(JournalSpec::Of),
            _ => {
                findings.push(wrong_type(node, "`true` or a mapping"));
                None
            }
        }
    }
}

impl Serialize for JournalSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            JournalSpec::On(on) => on.serialize(serializer),
            JournalSpec::Of(parameters) => parameters.serialize(serializer),
        }
    }
}

impl JsonSchema for JournalSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Journal".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "boolean" }, generator.subschema_for::<JournalParameters>()],
        })
    }
}

/// Where dead letters go.
#[derive(Clone, Debug, PartialEq)]
pub enum DeadLetterSpec {
    /// `true`: to `dead.<queue>` behind the exchange `dead_letter`. `false`: nowhere, whatever
    /// `defaults` says.
    Own(bool),
    /// To a named place.
    To(DeadLetterRoute),
}

document_struct! {
    /// Where dead letters go: to a queue, which is made when it is not declared, or to an exchange.
    #[derive(Default)]
    pub struct DeadLetterRoute {
        /// The queue that collects them, behind the exchange `dead_letter`.
        pub queue: Option<Spanned<QueueName>>,
        /// The exchange they go to; the empty name is the default exchange.
        pub exchange: Option<Spanned<ExchangeName>>,
        /// The key they go by; their own when absent.
        pub routing_key: Option<Spanned<RoutingKey>>,
    }
}

impl Decode for DeadLetterSpec {
    fn decode(node: &Node, findings: &mut Findings) -> Option<Self> {
        match &node.value {
            Value::Bool(own) => Some(DeadLetterSpec::Own(*own)),
            Value::Mapping(_) => DeadLetterRoute::decode(node, findings).map(DeadLetterSpec::To),
            _ => {
                let mut finding = wrong_type(node, "`true` or a mapping");
                if let Value::Text(text) = &node.value {
                    finding.hint = Some(format!("write {{exchange: {text}}} or {{queue: {text}}}"));
                }
                findings.push(finding);
                None
            }
        }
    }
}

impl Serialize for DeadLetterSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            DeadLetterSpec::Own(own) => own.serialize(serializer),
            DeadLetterSpec::To(route) => route.serialize(serializer),
        }
    }
}

impl JsonSchema for DeadLetterSpec {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "DeadLetter".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "boolean" }, generator.subschema_for::<DeadLetterRoute>()],
        })
    }
}

document_struct! {
    /// Delay queues of a queue. A worker that fails on a message for the n-th time publishes it to
    /// the exchange with the key `<queue>.<n>` and acknowledges it; after the n-th delay it is back.
    /// When there is no n-th delay it rejects the message, which then goes to the dead letters.
    pub struct RetrySpec {
        /// The waits, the first first: each makes the queue `retry.<queue>.<wait>`.
        pub delays: Vec<Spanned<HumanDuration>>,
        /// The direct exchange in front of the delay queues.
        pub exchange: Option<Spanned<ExchangeName>>,
    }
}

document_struct! {
    /// A binding of the queue it stands in.
    pub struct BindSpec {
        /// The exchange that routes.
        pub from: Spanned<ExchangeName>,
        /// The key or pattern.
        pub key: Option<Spanned<RoutingKey>>,
        /// Several keys: one binding each.
        pub keys: Vec<Spanned<RoutingKey>>,
        /// For headers exchanges: the values to compare. `null` asks only that the header is there.
        pub headers: Entries<Spanned<Json>>,
        /// For headers exchanges: whether all or any must match.
        pub r#match: Option<Spanned<HeaderMatch>>,
        /// Any other argument.
        pub arguments: Entries<Spanned<Json>>,
    }
}

document_struct! {
    /// A binding: messages that `from` takes and that match go to the queue or exchange.
    pub struct BindingSpec {
        /// The exchange that routes.
        pub from: Spanned<ExchangeName>,
        /// The queue it routes to.
        pub queue: Option<Spanned<QueueName>>,
        /// The exchange it routes to.
        pub exchange: Option<Spanned<ExchangeName>>,
        /// The key or pattern.
        pub key: Option<Spanned<RoutingKey>>,
        /// Several keys: one binding each.
        pub keys: Vec<Spanned<RoutingKey>>,
        /// For headers exchanges: the values to compare. `null` asks only that the header is there.
        pub headers: Entries<Spanned<Json>>,
        /// For headers exchanges: whether all or any must match.
        pub r#match: Option<Spanned<HeaderMatch>>,
        /// Any other argument.
        pub arguments: Entries<Spanned<Json>>,
    }
}

document_enum! {
    /// Which headers must match.
    pub enum HeaderMatch {
        /// All of them; those that begin with `x-` are not looked at.
        All,
        /// At least one; those that begin with `x-` are not looked at.
        Any,
        /// All of them.
        AllWithX,
        /// At least one.
        AnyWithX,
    }
}

document_struct! {
    /// A policy: settings for all queues or exchanges whose name matches.
    pub struct PolicySpec {
        /// A regular expression on names. It matches anywhere in the name: use `^` and `$`.
        pub pattern: Spanned<String>,
        /// What it is for.
        pub apply_to: Spanned<Target> = Spanned::nowhere(Target::All),
        /// The matching policy of the highest priority applies, alone.
        pub priority: i64 = 0,
        /// The settings, by the names that queues use here (`messageTtl: 10m`) or by RabbitMQ's own
        /// (`message-ttl: 600000`).
        pub definition: Entries<Spanned<Json>>,
        /// Never delete it, whatever is asked.
        pub protect: Option<bool>,
    }
}

document_enum! {
    /// What a policy is for.
    pub enum Target {
        /// Queues and exchanges.
        All = "all",
        /// Exchanges.
        Exchanges = "exchanges",
        /// Queues of every type.
        Queues = "queues",
        /// Classic queues. From 3.12 on.
        ClassicQueues = "classic_queues",
        /// Quorum queues. From 3.12 on.
        QuorumQueues = "quorum_queues",
        /// Streams. From 3.12 on.
        Streams = "streams",
    }
}

document_struct! {
    /// What messages of a type carry.
    #[derive(Default)]
    pub struct MessageTypeSpec {
        /// Time to live.
        pub ttl: Option<HumanDuration>,
        /// Priority, 0 to 255.
        pub priority: Option<u8>,
        /// Whether it survives a restart of the broker.
        pub persistent: Option<bool>,
    }
}
