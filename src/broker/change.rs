//! One mutation of a broker, as a value: planned, printed, journalled, counted and executed.

use std::fmt;

use crate::base::id::{ExchangeName, PolicyName, QueueName};

use super::definition::{BindingDefinition, ExchangeDefinition, PolicyDefinition, QueueDefinition};

/// A mutation. Each is idempotent: declaring what is there and deleting what is absent succeed.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Declare an exchange; fails with a precondition when another of that name differs.
    DeclareExchange(ExchangeDefinition),
    /// Delete an exchange and all bindings from and to it.
    DeleteExchange {
        /// Which.
        name: ExchangeName,
        /// Refuse while it is the source of a binding.
        if_unused: bool,
    },
    /// Declare a queue; fails with a precondition when another of that name differs.
    DeclareQueue(QueueDefinition),
    /// Delete a queue, its bindings and its messages.
    DeleteQueue {
        /// Which.
        name: QueueName,
        /// Refuse while it holds messages. Checked by the broker where it can (classic), else by
        /// reading just before.
        if_empty: bool,
        /// Refuse while it has consumers; checked likewise.
        if_unused: bool,
    },
    /// Remove all ready messages of a queue.
    PurgeQueue(QueueName),
    /// Bind.
    Bind(BindingDefinition),
    /// Unbind.
    Unbind(BindingDefinition),
    /// Create or replace a policy.
    PutPolicy(PolicyDefinition),
    /// Delete a policy.
    DeletePolicy(PolicyName),
    /// Create or replace an operator policy.
    PutOperatorPolicy(PolicyDefinition),
    /// Delete an operator policy.
    DeleteOperatorPolicy(PolicyName),
    /// Set a vhost limit such as `max-queues`; `None` clears it.
    SetVhostLimit {
        /// `max-queues` or `max-connections`.
        name: String,
        /// The limit.
        value: Option<i64>,
    },
    /// Set the vhost's default queue type (3.11 and later, needs an administrator).
    SetDefaultQueueType(super::QueueType),
}

/// What a change did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Done, or already so.
    Done,
    /// Done; so many messages went with it (purge, delete).
    WithMessages(u64),
}

/// `declare queue "orders"`: what is attempted, for plans, journals and errors.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::DeclareExchange(exchange) => {
                write!(f, "declare {}", exchange.name.in_words())
            }
            Change::DeleteExchange { name, .. } => write!(f, "delete {}", name.in_words()),
            Change::DeclareQueue(queue) => write!(f, "declare queue `{}`", queue.name),
            Change::DeleteQueue { name, .. } => write!(f, "delete queue `{name}`"),
            Change::PurgeQueue(name) => write!(f, "purge queue `{name}`"),
            Change::Bind(b) => {
                write!(
                    f,
                    "bind {} to {} by `{}`",
                    b.destination,
                    b.source.in_words(),
                    b.routing_key
                )
            }
            Change::Unbind(b) => write!(
                f,
                "unbind {} from {} by `{}`",
                b.destination,
                b.source.in_words(),
                b.routing_key
            ),
            Change::PutPolicy(policy) => write!(f, "set policy `{}`", policy.name),
            Change::DeletePolicy(name) => write!(f, "delete policy `{name}`"),
            Change::PutOperatorPolicy(policy) => write!(f, "set operator policy `{}`", policy.name),
            Change::DeleteOperatorPolicy(name) => write!(f, "delete operator policy `{name}`"),
            Change::SetVhostLimit { name, .. } => write!(f, "set vhost limit `{name}`"),
            Change::SetDefaultQueueType(kind) => {
                write!(f, "set the vhost's default queue type to {kind}")
            }
        }
    }
}
