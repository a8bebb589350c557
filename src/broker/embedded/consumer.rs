//! The way out: unpacks what the engine hands over, and settles it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::definition::QueueType;
use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Consumer, ConsumerOptions, Delivery, DeliveryTag, Settled, Settlement};
use crate::message::{FieldValue, Message};
use crate::storage::{Durability, StorageError};

use super::codec::Envelope;
use super::engine::{
    BUFFERED_MAX, Beginning, Engine, NewConsumer, Parcel, Request, bad_offset, show_place,
    storage_error,
};
use super::shared::Shared;
use super::store::Store;

/// See [`Consumer`].
#[derive(Debug)]
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    id: i64,
    queue_id: i64,
    queue: QueueName,
    buffered: Arc<AtomicUsize>,
    parcels: UnboundedReceiver<Result<Parcel, BrokerError>>,
    /// Taken by the caller and not settled.
    unsettled: BTreeSet<u64>,
    /// Whether the queue is a stream, and the imitated version takes nothing but acks for it.
    refuses_return: bool,
    /// Why the broker has ended it.
    ended: Option<BrokerError>,
    closed: bool,
}

impl EmbeddedConsumer {
    pub(super) async fn attach(
        shared: Arc<Shared>,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<EmbeddedConsumer, BrokerError> {
        let attempted = format!("consume from queue `{queue}`");
        let (sender, parcels) = unbounded_channel();
        let buffered = Arc::new(AtomicUsize::new(0));
        let name = queue.clone();
        let mut consumer = NewConsumer {
            prefetch: usize::from(options.prefetch.max(1)),
            exclusive: options.exclusive,
            priority: options.arguments.get("x-priority").and_then(FieldValue::as_i64).unwrap_or(0),
            beginning: None,
            buffered: Arc::clone(&buffered),
            sender,
        };
        let offset = options.arguments.get("x-stream-offset").cloned();
        let words = attempted.clone();
        let (id, queue_id, refuses_return) = shared
            .call(&attempted, Durability::Process, move |engine, store| {
                engine.reap(store)?;
                let info = engine.queue_for(store, &words, name.as_str())?;
                if info.is_stream() {
                    let beginning = Beginning::parse(offset.as_ref(), engine.now);
                    consumer.beginning = Some(beginning.ok_or_else(|| bad_offset(&words))?);
                } else if offset.is_some() {
                    let cause = "`x-stream-offset` is for streams";
                    return Err(
                        BrokerError::new(ErrorKind::PreconditionFailed, words, cause).into()
                    );
                }
                let (others, exclusive, _) = store.consumers(info.id)?;
                let single = info.effective.single_active_consumer();
                if info.queue_type == QueueType::Classic
                    && (exclusive || (consumer.exclusive && (others > 0 || single)))
                {
                    let text =
                        format!("queue '{name}' in vhost '{}' in exclusive use", engine.vhost);
                    return Err(BrokerError::new(ErrorKind::AccessRefused, words, text.clone())
                        .reply(403, format!("ACCESS_REFUSED - {text}"))
                        .into());
                }
                let refuses_return = info.is_stream() && engine.version.major < 4;
                let id = engine.attach(store, &info, consumer)?;
                Ok((id, info.id, refuses_return))
            })
            .await?;
        Ok(EmbeddedConsumer {
            shared,
            id,
            queue_id,
            queue: queue.clone(),
            buffered,
            parcels,
            unsettled: BTreeSet::new(),
            refuses_return,
            ended: None,
            closed: false,
        })
    }

    fn attempted(&self) -> String {
        format!("consume from queue `{}`", self.queue)
    }

    fn end_error(&self) -> BrokerError {
        match &self.ended {
            Some(error) => BrokerError { attempted: self.attempted(), ..error.clone() },
            None => super::closed(&self.attempted()),
        }
    }

    fn unpack(&mut self, parcel: Result<Parcel, BrokerError>) -> Result<Delivery, BrokerError> {
        let parcel = match parcel {
            Ok(parcel) => parcel,
            Err(error) => {
                self.ended = Some(error.clone());
                self.unsettled.clear();
                return Err(self.end_error());
            }
        };
        let size = parcel.body.len();
        let before = self.buffered.fetch_sub(size, Ordering::Relaxed);
        if before >= BUFFERED_MAX && before - size < BUFFERED_MAX {
            // It was held back for its size and has room again.
            self.shared.submit(Request::Tick);
        }
        let damaged = |what: &str| {
            let path = self.shared.file.path().to_owned();
            let cause = format!("the {what} of a message cannot be read");
            storage_error(&self.attempted(), &StorageError::Damaged { path, cause })
        };
        let mut envelope = Envelope::decode(&parcel.envelope).map_err(|_| damaged("envelope"))?;
        show_place(&mut envelope, parcel.count, parcel.offset);
        let delivery = Delivery {
            tag: DeliveryTag { generation: 0, tag: parcel.tag },
            exchange: ExchangeName::new(envelope.exchange).map_err(|_| damaged("exchange"))?,
            routing_key: RoutingKey::new(envelope.routing_key)
                .map_err(|_| damaged("routing key"))?,
            redelivered: parcel.redelivered,
            message: Message { properties: envelope.properties, body: parcel.body },
        };
        self.unsettled.insert(parcel.tag);
        Ok(delivery)
    }

    fn detach(&self) {
        let (id, queue) = (self.id, self.queue_id);
        self.shared.tell(move |engine, store| engine.detach(store, id, queue));
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        if self.ended.is_some() {
            return Err(self.end_error());
        }
        match self.parcels.recv().await {
            Some(parcel) => self.unpack(parcel),
            None => {
                // The engine let go of it: the broker was closed.
                self.ended = Some(BrokerError::new(
                    ErrorKind::ConsumerCancelled,
                    self.attempted(),
                    "the embedded broker was closed".to_owned(),
                ));
                Err(self.end_error())
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.ended.is_some() {
            return None;
        }
        match self.parcels.try_recv() {
            // An end is for `next` to tell; it stays told.
            Ok(parcel) => self.unpack(parcel).ok(),
            Err(_) => None,
        }
    }

    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        if tag.generation != 0 || self.ended.is_some() {
            return Ok(Settled::Void);
        }
        if !self.unsettled.contains(&tag.tag) {
            let text = format!("unknown delivery tag {}", tag.tag);
            return Err(BrokerError::new(
                ErrorKind::PreconditionFailed,
                format!("settle a delivery of queue `{}`", self.queue),
                text.clone(),
            )
            .reply(406, format!("PRECONDITION_FAILED - {text}")));
        }
        if self.refuses_return && matches!(how, Settlement::Requeue | Settlement::Reject) {
            let attempted = format!("give a delivery back to stream `{}`", self.queue);
            let error = BrokerError::new(
                ErrorKind::Unsupported,
                attempted,
                "a stream keeps its messages, so none can be given back",
            )
            .reply(540, "NOT_IMPLEMENTED - basic.nack not supported by stream queues");
            self.ended = Some(error.clone());
            return Err(error);
        }
        if how == Settlement::AckUpTo {
            self.unsettled = self.unsettled.split_off(&(tag.tag + 1));
        } else {
            self.unsettled.remove(&tag.tag);
        }
        self.shared.settle(self.id, tag.tag, how);
        Ok(Settled::Sent)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        let attempted = format!("settle deliveries of queue `{}`", self.queue);
        let id = self.id;
        let known = self
            .shared
            .call(&attempted, Durability::Disk, move |engine, _| Ok(engine.has_consumer(id)))
            .await?;
        if !known && self.ended.is_none() {
            // What ended it is on its way.
            return match self.parcels.recv().await {
                Some(Err(error)) => {
                    self.ended = Some(error.clone());
                    Err(error)
                }
                _ => Err(super::closed(&attempted)),
            };
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), BrokerError> {
        let id = self.id;
        let attempted = format!("pause the consumer of queue `{}`", self.queue);
        let paused = move |engine: &mut Engine, _: Store<'_>| {
            engine.pause(id);
            Ok(())
        };
        self.shared.call(&attempted, Durability::Process, paused).await
    }

    async fn close(mut self: Box<Self>) -> Result<(), BrokerError> {
        self.closed = true;
        if self.shared.is_closed() {
            // The broker has given back already what this consumer held.
            return Ok(());
        }
        let (id, queue) = (self.id, self.queue_id);
        self.shared
            .call(
                &format!("end the consumer of queue `{}`", self.queue),
                Durability::Disk,
                move |engine, store| engine.detach(store, id, queue),
            )
            .await
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        if !self.closed {
            self.detach();
        }
    }
}
