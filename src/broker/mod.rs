//! The broker port: one contract, kept by RabbitMQ (`rabbitmq/`) and by the embedded broker (`embedded/`).
//!
//! This room speaks of exchanges, queues, bindings, policies and deliveries. It knows nothing of
//! topology files, sagas or the terminal. Only `rabbitmq/` names the AMQP client library.

pub mod arguments;
pub mod calm;
pub mod carry;
pub mod change;
pub mod definition;
pub mod effective;
pub mod error;
pub mod port;
pub mod read_only;
pub mod routing;
pub mod snapshot;
pub mod version;

pub mod embedded;
pub mod rabbitmq;
pub mod connect;

pub use change::{Change, Changed};
pub use definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
pub use error::{BrokerError, ErrorKind, Reply};
pub use port::{
    Broker, Consumer, ConsumerOptions, DIRECT_REPLY_TO, Delivery, DeliveryTag, Lock, LockError,
    LockHolder, Outcome, Publish, Publisher, PublisherOptions, QueueDepth, Settled, Settlement,
    Ticket,
};
pub use read_only::ReadOnly;
pub use snapshot::{
    Permissions, QueueCounters, QueueDetails, QueueState, Snapshot, Subscriber, VhostState,
};
pub use version::{BrokerIdentity, Capabilities, Product, Version};
