//! The embedded broker's semantics, as measured on RabbitMQ 3.10.8 and 4.0.5.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::base::id::{PolicyName, RoutingKey};
use crate::base::time::{FixedClock, Timestamp};
use crate::broker::definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition,
};
use crate::broker::port::{Delivery, Outcome, Publish, Settlement};
use crate::message::{FieldTable, FieldValue, Message, Properties};

const V3: Version = Version::new(3, 10, 8);
const V4: Version = Version::new(4, 0, 5);
const BOTH: [Version; 2] = [V3, V4];

/// A broker on a file of its own, with a clock that stands until it is moved.
struct Bench {
    broker: Arc<EmbeddedBroker>,
    clock: Arc<FixedClock>,
    directory: tempfile::TempDir,
}

fn options(like: Version) -> EmbeddedOptions {
    EmbeddedOptions {
        like,
        vhost: VhostName::new("/").unwrap(),
        timeout: Duration::from_secs(20),
    }
}

async fn open(path: &Path, like: Version, clock: Arc<FixedClock>) -> Arc<EmbeddedBroker> {
    EmbeddedBroker::open(path, options(like), clock).await.unwrap()
}

async fn bench(like: Version) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_ms(1_700_000_000_000)));
    let broker = open(&directory.path().join("state.db"), like, Arc::clone(&clock)).await;
    Bench { broker, clock, directory }
}

fn q(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn x(name: &str) -> ExchangeName {
    ExchangeName::new(name).unwrap()
}

fn classic(name: &str) -> QueueDefinition {
    QueueDefinition {
        name: q(name),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments: FieldTable::new(),
    }
}

fn quorum(name: &str) -> QueueDefinition {
    QueueDefinition::durable(q(name), QueueType::Quorum)
}

fn with(mut queue: QueueDefinition, name: &str, value: impl Into<FieldValue>) -> QueueDefinition {
    queue.arguments.insert(name, value);
    queue
}

fn text(body: &str) -> Message {
    Message {
        properties: Properties { delivery_mode: Some(2), ..Properties::default() },
        body: body.as_bytes().to_vec(),
    }
}

fn binding(source: &str, queue: &str, key: &str) -> Change {
    Change::Bind(BindingDefinition {
        source: x(source),
        destination: Destination::Queue(q(queue)),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: FieldTable::new(),
    })
}

fn policy(name: &str, pattern: &str, definition: serde_json::Value) -> Change {
    Change::PutPolicy(PolicyDefinition {
        name: PolicyName::new(name).unwrap(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: definition.as_object().unwrap().clone(),
    })
}

impl Bench {
    async fn declare(&self, queue: QueueDefinition) {
        self.change(Change::DeclareQueue(queue)).await;
    }

    async fn change(&self, change: Change) -> Changed {
        self.broker.change(&change).await.unwrap()
    }

    async fn refused(&self, change: Change) -> (u16, String) {
        let error = self.broker.change(&change).await.unwrap_err();
        let reply = error.reply.unwrap_or_else(|| panic!("no reply: {}", error.cause));
        (reply.code, reply.text)
    }

    async fn publish_to(&self, exchange: &str, key: &str, message: Message) -> Outcome {
        let mut publisher = self.broker.publisher(PublisherOptions::default()).await.unwrap();
        publisher
            .send(Publish {
                exchange: x(exchange),
                routing_key: RoutingKey::new(key).unwrap(),
                message,
            })
            .await
            .unwrap();
        publisher.outcome().await.unwrap().1
    }

    async fn publish(&self, queue: &str, bodies: &[&str]) {
        for body in bodies {
            assert_eq!(self.publish_to("", queue, text(body)).await, Outcome::Confirmed);
        }
    }

    async fn consume(&self, queue: &str, prefetch: u16) -> Box<dyn Consumer> {
        let options = ConsumerOptions { prefetch, ..ConsumerOptions::default() };
        self.broker.consumer(&q(queue), options).await.unwrap()
    }

    async fn depth(&self, queue: &str) -> u64 {
        self.broker.depth(&q(queue)).await.unwrap().unwrap().ready
    }

    async fn unacked(&self, queue: &str) -> u64 {
        let snapshot = self.broker.inspect().await.unwrap();
        let queue = snapshot.queues.iter().find(|s| s.definition.name.as_str() == queue).unwrap();
        queue.unacked.unwrap()
    }

    /// Takes everything that is there, acknowledges it, and returns the bodies.
    async fn drain(&self, queue: &str) -> Vec<String> {
        let mut bodies = Vec::new();
        for delivery in self.drain_deliveries(queue).await {
            bodies.push(String::from_utf8(delivery.message.body).unwrap());
        }
        bodies
    }

    async fn drain_deliveries(&self, queue: &str) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while self.depth(queue).await > 0 {
            let mut consumer = self.consume(queue, 1000).await;
            while let Ok(delivery) = within(consumer.next()).await {
                let tag = delivery.tag;
                deliveries.push(delivery);
                consumer.settle(tag, Settlement::Ack).await.unwrap();
                if self.depth(queue).await == 0 && self.unacked(queue).await == 0 {
                    break;
                }
            }
            consumer.close().await.unwrap();
        }
        deliveries
    }

    async fn wait(&self, ms: u64) {
        self.clock.advance(Duration::from_millis(ms));
    }
}

/// What comes at once; an error when nothing does.
async fn within<T>(
    next: impl Future<Output = Result<T, BrokerError>>,
) -> Result<T, Option<BrokerError>> {
    match tokio::time::timeout(Duration::from_secs(10), next).await {
        Ok(result) => result.map_err(Some),
        Err(_) => Err(None),
    }
}

async fn hold(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<Delivery> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(within(consumer.next()).await.unwrap());
    }
    held
}

fn bodies(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8_lossy(&d.message.body).into_owned()).collect()
}

fn death(delivery: &Delivery) -> FieldTable {
    match delivery.message.properties.header("x-death") {
        Some(FieldValue::Array(entries)) => match &entries[0] {
            FieldValue::Table(table) => table.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

const TEN: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

#[tokio::test]
async fn a_message_goes_in_and_comes_out_and_is_gone() {
    for like in BOTH {
        let b = bench(like).await;
        b.declare(classic("q")).await;
        b.publish("q", &["a", "b"]).await;
        assert_eq!(b.depth("q").await, 2);
        let mut consumer = b.consume("q", 10).await;
        let held = hold(&mut consumer, 2).await;
        assert_eq!(bodies(&held), ["a", "b"]);
        assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 2));
        consumer.settle(held[1].tag, Settlement::AckUpTo).await.unwrap();
        consumer.flush().await.unwrap();
        assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 0));
        consumer.close().await.unwrap();
    }
}

#[tokio::test]
async fn unroutable_and_missing_exchanges_come_back() {
    let b = bench(V4).await;
    assert_eq!(
        b.publish_to("", "nobody", text("x")).await,
        Outcome::Returned { code: 312, text: "NO_ROUTE".into() }
    );
    assert_eq!(
        b.publish_to("nowhere", "k", text("x")).await,
        Outcome::Returned {
            code: 404,
            text: "NOT_FOUND - no exchange 'nowhere' in vhost '/'".into()
        }
    );
}
