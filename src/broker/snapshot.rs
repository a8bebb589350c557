//! What a broker holds at one moment, as far as it lets itself be read.

use std::collections::BTreeMap;

use super::definition::{
    BindingDefinition, ExchangeDefinition, PolicyDefinition, QueueDefinition, QueueType,
};
use super::version::BrokerIdentity;

/// Everything that can be listed in one vhost. Bindings of the default exchange are left out:
/// they follow from the queues.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Which broker.
    pub identity: BrokerIdentity,
    /// The vhost's own settings.
    pub vhost: VhostState,
    /// Exchanges, the predeclared ones included.
    pub exchanges: Vec<ExchangeDefinition>,
    /// Queues with what is in them.
    pub queues: Vec<QueueState>,
    /// Bindings.
    pub bindings: Vec<BindingDefinition>,
    /// Policies.
    pub policies: Vec<PolicyDefinition>,
    /// Operator policies.
    pub operator_policies: Vec<PolicyDefinition>,
    /// What the caller may do here; `None` when the broker does not tell.
    pub permissions: Option<Permissions>,
}

/// A vhost's own settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VhostState {
    /// The type of queues that name none; `None` when the broker has no such setting.
    pub default_queue_type: Option<QueueType>,
    /// `max-queues`, `max-connections`; absent is unlimited.
    pub limits: BTreeMap<String, i64>,
}

/// A queue and what is in it. Counts are `None` when the broker has not counted yet.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueState {
    /// The queue as declared.
    pub definition: QueueDefinition,
    /// Messages waiting.
    pub ready: Option<u64>,
    /// Messages delivered and not settled.
    pub unacked: Option<u64>,
    /// Consumers attached.
    pub consumers: Option<u64>,
    /// The policy that applies, as the broker says.
    pub policy: Option<String>,
    /// The operator policy that applies, as the broker says.
    pub operator_policy: Option<String>,
}

impl QueueState {
    /// Waiting and delivered messages together, when both are known.
    pub fn messages(&self) -> Option<u64> {
        Some(self.ready? + self.unacked?)
    }
}

/// A queue with what only its broker knows of it. What a broker does not tell is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueDetails {
    /// The queue and its counts.
    pub state: QueueState,
    /// `running`, `idle`, `minority` and the like, in the broker's words.
    pub status: Option<String>,
    /// The node that it lives on, or its leader.
    pub leader: Option<String>,
    /// The nodes that have a replica.
    pub members: Vec<String>,
    /// Of these, the nodes that are up.
    pub online: Vec<String>,
    /// Bytes of the bodies in it.
    pub bytes: Option<u64>,
    /// Bytes of memory it takes.
    pub memory: Option<u64>,
    /// The timestamp property of the oldest message, in seconds.
    pub head_timestamp: Option<u64>,
    /// What went in and out since the broker began to count.
    pub counters: Option<QueueCounters>,
    /// Who consumes; `None` when it was not asked for or is not told.
    pub subscribers: Option<Vec<Subscriber>>,
}

impl QueueDetails {
    /// Nothing but the counts.
    pub fn of(state: QueueState) -> Self {
        QueueDetails {
            state,
            status: None,
            leader: None,
            members: Vec::new(),
            online: Vec::new(),
            bytes: None,
            memory: None,
            head_timestamp: None,
            counters: None,
            subscribers: None,
        }
    }
}

/// Messages since the broker began to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Published into the queue.
    pub published: u64,
    /// Handed out.
    pub delivered: u64,
    /// Acked.
    pub acked: u64,
    /// Handed out again.
    pub redelivered: u64,
}

/// One consumer of a queue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Subscriber {
    /// Its tag.
    pub tag: String,
    /// Its channel's number.
    pub channel: Option<u64>,
    /// How many unsettled messages it may hold; 0 is without limit.
    pub prefetch: Option<u64>,
    /// Whether it acks.
    pub acks: Option<bool>,
    /// Whether it wants to be alone.
    pub exclusive: bool,
    /// Whether messages go to it now; false for those who wait at a single active consumer.
    pub active: Option<bool>,
    /// The connection, as the broker names it.
    pub connection: Option<String>,
    /// The host it comes from.
    pub host: Option<String>,
    /// The login.
    pub user: Option<String>,
}

/// What a login may do in the vhost: three regular expressions, as RabbitMQ keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The login.
    pub user: String,
    /// Names it may declare and delete.
    pub configure: String,
    /// Names it may publish and bind to.
    pub write: String,
    /// Names it may consume and bind from.
    pub read: String,
}
