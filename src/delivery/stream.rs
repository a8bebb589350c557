//! Reading a stream from somewhere to its end. Reading takes nothing away; a stream has no end of its
//! own, so the end is where it ended when the reading began.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::timeout;

use crate::base::id::QueueName;
use crate::broker::carry::stream_offset;
use crate::broker::{Broker, BrokerError, Consumer, ConsumerOptions, Delivery, Settlement};
use crate::message::{FieldTable, FieldValue};

use super::stop::{Stop, Wish};

/// Deliveries that may be here at once; a broker sends a stream in chunks, and half of this is asked
/// for again when it has been read.
const PREFETCH: u16 = 1000;

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Everything that was there has been read.
    Complete,
    /// Whoever reads has enough.
    Enough,
    /// Somebody asked to stop.
    Stopped,
    /// Nothing came although there is more.
    Silent,
}

async fn subscribe(
    broker: &dyn Broker,
    stream: &QueueName,
    from: FieldValue,
) -> Result<Box<dyn Consumer>, BrokerError> {
    let mut arguments = FieldTable::new();
    arguments.insert("x-stream-offset", from);
    let options =
        ConsumerOptions { prefetch: PREFETCH, exclusive: false, arguments, reconnect: false };
    broker.consumer(stream, options).await
}

/// Where the last message of `stream` stands; `None` when there is none. `wait` is how long it may be
/// silent before it counts as read.
///
/// # Errors
/// When the broker fails.
pub async fn last_offset(
    broker: &dyn Broker,
    stream: &QueueName,
    wait: Duration,
) -> Result<Option<u64>, BrokerError> {
    // `last` begins with the last chunk, however many messages that has.
    let mut consumer = subscribe(broker, stream, "last".into()).await?;
    let mut last = None;
    let mut unread = 0;
    while let Ok(delivery) = timeout(wait, consumer.next()).await {
        let delivery = delivery?;
        last = last.max(stream_offset(&delivery));
        unread += 1;
        if unread >= u64::from(PREFETCH) / 2 {
            unread = 0;
            consumer.settle(delivery.tag, Settlement::AckUpTo).await?;
        }
    }
    consumer.close().await?;
    Ok(last)
}

/// Hands every message of `stream` from `from` on to `each`, up to the one that is the last now.
///
/// # Errors
/// When the broker fails.
pub async fn read(
    broker: &dyn Broker,
    stream: &QueueName,
    from: FieldValue,
    wait: Duration,
    stop: &Stop,
    each: &mut (dyn FnMut(Delivery) -> ControlFlow<()> + Send),
) -> Result<ReadEnd, BrokerError> {
    let Some(last) = last_offset(broker, stream, wait).await? else {
        return Ok(ReadEnd::Complete);
    };
    let mut consumer = subscribe(broker, stream, from).await?;
    let mut unread = 0;
    let end = loop {
        let delivery = tokio::select! {
            biased;
            () = stop.until(Wish::Finish) => break ReadEnd::Stopped,
            next = timeout(wait, consumer.next()) => match next {
                Ok(delivery) => delivery?,
                Err(_) => break ReadEnd::Silent,
            },
        };
        let (tag, offset) = (delivery.tag, stream_offset(&delivery));
        if offset.is_some_and(|offset| offset > last) {
            break ReadEnd::Complete;
        }
        if each(delivery).is_break() {
            break ReadEnd::Enough;
        }
        if offset == Some(last) {
            break ReadEnd::Complete;
        }
        unread += 1;
        if unread >= u64::from(PREFETCH) / 2 {
            unread = 0;
            consumer.settle(tag, Settlement::AckUpTo).await?;
        }
    };
    consumer.close().await?;
    Ok(end)
}
