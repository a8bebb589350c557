//! Consuming: a subscription that outlives its connection, and settlements that never reach the wrong
//! delivery.
//!
//! - Every connection of a consumer is a generation. A delivery of an older one is void: the broker
//!   has put it back, and its tag may by now name another message.
//! - The client library ends its stream without an error when the broker cancels the consumer, and
//!   keeps deliveries without bound when there is no prefetch. So there is always a prefetch, and the
//!   end of the stream is an error.
//! - Closing settles nothing: what is not settled goes back to its place in the queue when the
//!   channel closes, in order.
//! - A quorum queue's channel keeps settlements back once 32 of them are on their way to the queue's
//!   leader, and forgets them when it is closed: of 250 single acks, 217 were lost on both versions,
//!   though the channel had answered a later request. Cancelling the consumer goes through the same
//!   leader, so when its answer is here the others have been applied and what was kept back is on its
//!   way. `AckUpTo` needs none of this: it is one settlement.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use tokio::time::{Instant, timeout};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Consumer, ConsumerOptions, Delivery, DeliveryTag, Settled, Settlement};
use crate::message::Message;
use crate::resilience::Backoff;

use super::convert::{name, properties_in, table_out};
use super::core::{Core, FIRST_WAIT, LONGEST_WAIT, Purpose};
use super::fault::fault;
use super::link::{Link, OpenChannel, start};

/// A consumer of [`super::RabbitBroker`].
pub(super) struct RabbitConsumer {
    core: Arc<Core>,
    queue: QueueName,
    options: ConsumerOptions,
    generation: u32,
    subscription: Option<Subscription>,
    // Connecting again goes on where it was when the wait for it is cancelled.
    again: Option<Resubscribing>,
    unflushed: bool,
    lost_settlements: bool,
    // Settlements sent on this connection.
    settlements: u64,
}

/// How long one attempt to subscribe again may take.
const PATIENCE_AGAIN: Duration = Duration::from_secs(5);
/// How long a consumer may seem to be there that is not.
const FORMER_PATIENCE: Duration = Duration::from_secs(2);
const FORMER_LOOK: Duration = Duration::from_millis(100);
const LOOKS_ALIKE: u32 = 3;

/// From here on a quorum queue's channel may keep settlements back.
const KEPT_BACK: u64 = 16;

type Resubscribing = Pin<Box<dyn Future<Output = Result<Subscription, BrokerError>> + Send>>;

struct Subscription {
    link: Arc<Link>,
    channel: OpenChannel,
    deliveries: lapin::Consumer,
}

impl std::fmt::Debug for RabbitConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RabbitConsumer")
            .field("queue", &self.queue)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

fn attempted(queue: &QueueName) -> String {
    format!("consume from queue `{queue}`")
}

async fn subscribe(
    link: Arc<Link>,
    queue: &QueueName,
    options: &ConsumerOptions,
) -> Result<Subscription, BrokerError> {
    let attempted = attempted(queue);
    let arguments = table_out(&options.arguments).map_err(|long| {
        let cause = format!("{} has {} bytes; AMQP allows 255", long.what, long.bytes);
        BrokerError::new(ErrorKind::Invalid, &attempted, cause)
    })?;
    let channel = link.channel(&attempted).await?;
    let flags = BasicConsumeOptions { exclusive: options.exclusive, ..Default::default() };
    // Both at once: one round trip. The broker handles them in this order.
    let both = async {
        let qos = channel.basic_qos(options.prefetch, BasicQosOptions { global: false });
        let consume = channel.basic_consume(name(queue), "".into(), flags, arguments);
        let (qos, consumer) = futures_util::future::join(qos, consume).await;
        let consumer = consumer?;
        qos.map(|()| consumer)
    };
    let deliveries = link.ask(&attempted, both).await?;
    Ok(Subscription { link, channel, deliveries })
}

/// Subscribes after the connection was lost: tries until the time-out. A queue whose leader is not
/// back yet answers 541 (3.10.8) or not at all (4.0.5).
async fn subscribe_again(
    core: Arc<Core>,
    queue: QueueName,
    options: ConsumerOptions,
) -> Result<Subscription, BrokerError> {
    let deadline = Instant::now() + core.timeout();
    let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
    loop {
        let link = core.link_again(Purpose::Consume).await?;
        await_former_consumer(&link, &queue).await;
        let attempt = subscribe(Arc::clone(&link), &queue, &options);
        let error = match timeout(PATIENCE_AGAIN, attempt).await {
            Ok(Ok(subscription)) => return Ok(subscription),
            Ok(Err(error)) => error,
            Err(_) => link.timed_out(&attempted(&queue)),
        };
        let is_leaderless = error.reply.as_ref().is_some_and(|reply| reply.code == 541);
        let wait = backoff.next_wait(core.dice());
        if !(error.is_transient() || is_leaderless) || Instant::now() + wait >= deadline {
            return Err(error);
        }
        tracing::info!(%queue, %error, "not subscribed again yet");
        tokio::time::sleep(wait).await;
    }
}

/// Waits until the broker has noticed that a consumer whose connection was lost is gone. Until then
/// what it had not settled stays with it, and a new consumer would get what comes behind: out of
/// order. Consumers of others look the same, and so does a queue without messages one whose leader is
/// not back (it counts nothing at all): so the wait is short.
async fn await_former_consumer(link: &Link, queue: &QueueName) {
    let attempted = attempted(queue);
    let look = async {
        let channel = link.channel(&attempted).await.ok()?;
        // A queue that has just got its leader may count what was true some time before it was lost,
        // so one look is not enough.
        let (mut looks_alike, mut ready) = (0, 0);
        loop {
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let declare = channel.queue_declare(name(queue), passive, FieldTable::default());
            let seen = link.ask(&attempted, declare).await.ok()?;
            let is_alike = seen.message_count() == ready;
            ready = seen.message_count();
            if seen.consumer_count() > 0 || ready == 0 {
                looks_alike = 0;
            } else {
                looks_alike = if is_alike { looks_alike + 1 } else { 1 };
            }
            if looks_alike == LOOKS_ALIKE {
                return Some(());
            }
            tokio::time::sleep(FORMER_LOOK).await;
        }
    };
    // Why it could not look is told by subscribing.
    let _ = timeout(FORMER_PATIENCE, look).await;
}

impl RabbitConsumer {
    /// Subscribes.
    pub(super) async fn open(
        core: Arc<Core>,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<RabbitConsumer, BrokerError> {
        let options = ConsumerOptions { prefetch: options.prefetch.max(1), ..options };
        let link = core.link(Purpose::Consume).await?;
        let subscription = subscribe(link, queue, &options).await?;
        Ok(RabbitConsumer {
            core,
            queue: queue.clone(),
            options,
            generation: 0,
            subscription: Some(subscription),
            again: None,
            unflushed: false,
            lost_settlements: false,
            settlements: 0,
        })
    }

    /// The subscription has ended. Starts to connect again when the connection is the reason and
    /// the caller wants it; else tells why it ended.
    fn ended(&mut self, error: Option<&lapin::Error>) -> Result<(), BrokerError> {
        let Some(subscription) = self.subscription.take() else { return Ok(()) };
        self.lost_settlements |= std::mem::take(&mut self.unflushed);
        let attempted = attempted(&self.queue);
        let connection_lost = !subscription.link.is_alive();
        if !connection_lost {
            return Err(match error {
                Some(error) => fault(attempted, error),
                None => BrokerError::new(
                    ErrorKind::ConsumerCancelled,
                    attempted,
                    "the broker ended the consumer",
                )
                .hint("its queue was deleted, or its node went away"),
            });
        }
        if !self.options.reconnect {
            return Err(match error {
                Some(error) => fault(attempted, error),
                None => BrokerError::new(
                    ErrorKind::ConnectionLost,
                    attempted,
                    "the connection to the broker was lost",
                ),
            });
        }
        let (core, queue, options) =
            (Arc::clone(&self.core), self.queue.clone(), self.options.clone());
        self.again = Some(Box::pin(subscribe_again(core, queue, options)));
        Ok(())
    }
}

pub(super) fn received(generation: u32, delivery: lapin::message::Delivery) -> Delivery {
    Delivery {
        tag: DeliveryTag { generation, tag: delivery.delivery_tag },
        exchange: ExchangeName::received(String::from(delivery.exchange)),
        routing_key: RoutingKey::received(String::from(delivery.routing_key)),
        redelivered: delivery.redelivered,
        message: Message { properties: properties_in(&delivery.properties), body: delivery.data },
    }
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(again) = &mut self.again {
                let result = again.await;
                self.again = None;
                self.subscription = Some(result?);
                self.generation += 1;
                self.settlements = 0;
            }
            let Some(subscription) = &mut self.subscription else {
                return Err(BrokerError::new(
                    ErrorKind::ConsumerCancelled,
                    attempted(&self.queue),
                    "the consumer has ended",
                ));
            };
            match subscription.deliveries.next().await {
                Some(Ok(delivery)) => return Ok(received(self.generation, delivery)),
                Some(Err(error)) => self.ended(Some(&error))?,
                None => self.ended(None)?,
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        let subscription = self.subscription.as_mut()?;
        let mut cx = Context::from_waker(Waker::noop());
        match subscription.deliveries.poll_next_unpin(&mut cx) {
            Poll::Ready(Some(Ok(delivery))) => Some(received(self.generation, delivery)),
            Poll::Ready(Some(Err(error))) => {
                if let Err(error) = self.ended(Some(&error)) {
                    self.again = Some(Box::pin(std::future::ready(Err(error))));
                }
                None
            }
            Poll::Ready(None) => {
                if let Err(error) = self.ended(None) {
                    self.again = Some(Box::pin(std::future::ready(Err(error))));
                }
                None
            }
            Poll::Pending => None,
        }
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        let Some(subscription) = &self.subscription else { return Ok(Settled::Void) };
        if tag.generation != self.generation || !subscription.link.is_alive() {
            return Ok(Settled::Void);
        }
        let channel = &subscription.channel;
        // Handed over without waiting until it is written: `flush` is what waits.
        let sent = match how {
            Settlement::Ack => start(channel.basic_ack(tag.tag, BasicAckOptions::default())),
            Settlement::AckUpTo => {
                start(channel.basic_ack(tag.tag, BasicAckOptions { multiple: true }))
            }
            Settlement::Requeue => start(
                channel.basic_nack(tag.tag, BasicNackOptions { requeue: true, multiple: false }),
            ),
            Settlement::Reject => {
                start(channel.basic_reject(tag.tag, BasicRejectOptions { requeue: false }))
            }
        };
        match sent {
            Some(Err(_)) if !subscription.link.is_alive() => Ok(Settled::Void),
            Some(Err(error)) => {
                Err(fault(format!("settle a delivery of queue `{}`", self.queue), &error))
            }
            Some(Ok(())) | None => {
                self.unflushed = true;
                self.settlements += 1;
                Ok(Settled::Sent)
            }
        }
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        let attempted = format!("settle deliveries of queue `{}`", self.queue);
        if std::mem::take(&mut self.lost_settlements) {
            return Err(BrokerError::new(
                ErrorKind::ConnectionLost,
                attempted,
                "the connection was lost before the broker said that it had taken the settlements",
            )
            .hint("those it did not take come again"));
        }
        let Some(subscription) = &self.subscription else { return Ok(()) };
        // Any request that the broker answers will do: it handles a channel's requests in order, and
        // what it had delivered before is here before its answer.
        let qos = subscription
            .channel
            .basic_qos(self.options.prefetch, BasicQosOptions { global: false });
        subscription.link.ask(&attempted, qos).await?;
        self.unflushed = false;
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), BrokerError> {
        let Some(subscription) = &self.subscription else { return Ok(()) };
        let attempted = format!("pause the consumer of queue `{}`", self.queue);
        let tag = subscription.deliveries.tag();
        let cancel = subscription.channel.basic_cancel(tag, BasicCancelOptions::default());
        subscription.link.ask(&attempted, cancel).await?;
        Ok(())
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        let flushed =
            if self.unflushed || self.lost_settlements { self.flush().await } else { Ok(()) };
        let Some(subscription) = self.subscription.take() else { return flushed };
        if !subscription.channel.status().connected() {
            return flushed;
        }
        if subscription.link.is_silent() {
            // The goodbye is handed over; nobody would answer it.
            let _ = start(subscription.channel.close(200, "OK".into()));
            return flushed;
        }
        let attempted = format!("end the consumer of queue `{}`", self.queue);
        // Only when it may be needed: with a single active consumer the next one starts at once, and
        // would see what is given back here after what is behind it.
        if self.settlements >= KEPT_BACK {
            let tag = subscription.deliveries.tag();
            let cancel = subscription.channel.basic_cancel(tag, BasicCancelOptions::default());
            subscription.link.ask(&attempted, cancel).await?;
            // The channel handles what the leader told it before it answers this.
            let qos = subscription
                .channel
                .basic_qos(self.options.prefetch, BasicQosOptions { global: false });
            subscription.link.ask(&attempted, qos).await?;
        }
        let closing = subscription.channel.close(200, "OK".into());
        let closed = subscription.link.ask(&attempted, closing).await;
        flushed.and(closed)
    }
}
