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
