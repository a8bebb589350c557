//! A broker that can be looked at and not changed: what `read_only` in a context means, kept in the
//! port and not in each command.

use std::sync::Arc;

use async_trait::async_trait;

use crate::base::id::{ExchangeName, QueueName};

use super::{
    Broker, BrokerError, BrokerIdentity, Capabilities, Change, Changed, Consumer, ConsumerOptions,
    Delivery, DeliveryTag, ErrorKind, Lock, LockError, LockHolder, Publisher, PublisherOptions,
    QueueDepth, QueueDetails, Settled, Settlement, Snapshot,
};

/// Passes reading on and refuses the rest: changes, locks, publishing, and every settlement but
/// giving a message back by closing.
#[derive(Clone, Debug)]
pub struct ReadOnly(pub Arc<dyn Broker>);

fn refused(attempted: impl Into<String>) -> BrokerError {
    BrokerError::new(ErrorKind::ReadOnly, attempted, "the context is read-only")
        .hint("use another context, or take `read_only` off this one")
}

#[async_trait]
impl Broker for ReadOnly {
    fn identity(&self) -> &BrokerIdentity {
        self.0.identity()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn publisher(&self, _: PublisherOptions) -> Result<Box<dyn Publisher>, BrokerError> {
        Err(refused("publish"))
    }

    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        // Brokers take an offset for a stream only, and there an ack takes nothing away.
        let is_stream = options.arguments.get("x-stream-offset").is_some();
        let consumer = self.0.consumer(queue, options).await?;
        Ok(Box::new(ReadOnlyConsumer { consumer, is_stream }))
    }

    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        self.0.inspect().await
    }

    async fn list_queues(&self, statistics: bool) -> Result<Vec<QueueDetails>, BrokerError> {
        self.0.list_queues(statistics).await
    }

    async fn queue_details(&self, queue: &QueueName) -> Result<Option<QueueDetails>, BrokerError> {
        self.0.queue_details(queue).await
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        self.0.depth(queue).await
    }

    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        self.0.has_exchange(exchange).await
    }

    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        Err(refused(change.to_string()))
    }

    async fn lock(&self, name: &str, _: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        Err(refused(format!("take the lock `{name}`")).into())
    }

    async fn close(&self) -> Result<(), BrokerError> {
        self.0.close().await
    }
}

#[derive(Debug)]
struct ReadOnlyConsumer {
    consumer: Box<dyn Consumer>,
    is_stream: bool,
}

#[async_trait]
impl Consumer for ReadOnlyConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.consumer.next().await
    }

    fn ready(&mut self) -> Option<Delivery> {
        self.consumer.ready()
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        if self.is_stream && matches!(how, Settlement::Ack | Settlement::AckUpTo) {
            return self.consumer.settle(tag, how).await;
        }
        Err(refused(match how {
            Settlement::Ack | Settlement::AckUpTo => "take a message off its queue",
            Settlement::Requeue => "give a message back, which costs it one of its deliveries",
            Settlement::Reject => "reject a message",
        }))
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        self.consumer.flush().await
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.consumer.close().await
    }
}
