//! Somebody who answers, on the broker's port alone.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::allow_attributes,
    reason = "each test file compiles this module for itself and uses another part of it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::broker::{Broker, ConsumerOptions, Delivery, Publish, PublisherOptions, Settlement};
use nexus::message::{Message, Properties};

/// Takes requests from a queue until it is dropped.
#[derive(Debug)]
pub struct Responder {
    /// Requests taken so far.
    pub taken: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

/// An answer to `request` with this body.
pub fn answer_to(request: &Delivery, body: impl Into<Vec<u8>>) -> Message {
    let properties = Properties {
        correlation_id: request.message.properties.correlation_id.clone(),
        ..Properties::default()
    };
    Message { properties, body: body.into() }
}

impl Responder {
    /// Answers each request with the messages that `answer` gives, each confirmed before the request is
    /// acked. Returns when it consumes.
    pub async fn start(
        broker: Arc<dyn Broker>,
        queue: &str,
        answer: impl Fn(&Delivery) -> Vec<Message> + Send + Sync + 'static,
    ) -> Responder {
        let queue = QueueName::new(queue).unwrap();
        let mut consumer = broker.consumer(&queue, ConsumerOptions::default()).await.unwrap();
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        let taken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            while let Ok(request) = consumer.next().await {
                counter.fetch_add(1, Ordering::SeqCst);
                if let Some(reply_to) = &request.message.properties.reply_to {
                    for message in answer(&request) {
                        let publish = Publish {
                            exchange: ExchangeName::default_exchange(),
                            routing_key: RoutingKey::new(reply_to.as_str()).unwrap(),
                            message,
                        };
                        if publisher.send(publish).await.is_err() {
                            return;
                        }
                    }
                    while publisher.outcome().await.is_some() {}
                }
                let _ = consumer.settle(request.tag, Settlement::Ack).await;
            }
        });
        Responder { taken, task }
    }

    /// Requests taken so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
