//! Direct answers: a consumer of RabbitMQ's pseudo-queue on the channel of the publisher that asks.
//!
//! The broker wants both on one channel, and the subscription before the first message. There is
//! nothing to settle, and no prefetch: what comes is bounded by what was asked.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use futures_util::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable as AmqpTable;

use crate::broker::error::{BrokerError, ErrorKind};
use crate::broker::port::{Consumer, DIRECT_REPLY_TO, Delivery, DeliveryTag, Settled, Settlement};

use super::consumer::received;
use super::fault::fault;
use super::link::{Link, OpenChannel};

const ATTEMPTED: &str = "receive direct answers";

pub(super) struct DirectAnswers {
    link: Arc<Link>,
    // Kept open for as long as answers are wanted.
    _channel: Arc<OpenChannel>,
    deliveries: lapin::Consumer,
    ended: Option<BrokerError>,
}

impl std::fmt::Debug for DirectAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DirectAnswers").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl DirectAnswers {
    pub(super) async fn subscribe(
        link: Arc<Link>,
        channel: Arc<OpenChannel>,
    ) -> Result<DirectAnswers, BrokerError> {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume =
            channel.basic_consume(DIRECT_REPLY_TO.into(), "".into(), options, AmqpTable::default());
        let deliveries = link.ask("subscribe to direct answers", consume).await?;
        Ok(DirectAnswers { link, _channel: channel, deliveries, ended: None })
    }

    fn end(&self, error: Option<&lapin::Error>) -> BrokerError {
        match error {
            Some(error) => fault(ATTEMPTED, error),
            None if self.link.is_alive() => BrokerError::new(
                ErrorKind::ConsumerCancelled,
                ATTEMPTED,
                "the broker closed the channel that they come on",
            ),
            None => BrokerError::new(
                ErrorKind::ConnectionLost,
                ATTEMPTED,
                "the connection to the broker was lost",
            ),
        }
    }
}

#[async_trait]
impl Consumer for DirectAnswers {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        let error = match self.deliveries.next().await {
            Some(Ok(delivery)) => return Ok(received(0, delivery)),
            Some(Err(error)) => self.end(Some(&error)),
            None => self.end(None),
        };
        Err(self.ended.insert(error).clone())
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.ended.is_some() {
            return None;
        }
        let mut cx = Context::from_waker(Waker::noop());
        match self.deliveries.poll_next_unpin(&mut cx) {
            Poll::Ready(Some(Ok(delivery))) => Some(received(0, delivery)),
            Poll::Ready(Some(Err(error))) => {
                self.ended = Some(self.end(Some(&error)));
                None
            }
            Poll::Ready(None) => {
                self.ended = Some(self.end(None));
                None
            }
            Poll::Pending => None,
        }
    }

    async fn settle(&mut self, _: DeliveryTag, _: Settlement) -> Result<Settled, BrokerError> {
        Ok(Settled::Sent)
    }

    async fn flush(&mut self) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        Ok(())
    }
}
