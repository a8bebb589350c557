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
use crate::broker::port::{Delivery, DeliveryTag, Outcome, Publish, Settled, Settlement, Ticket};
use crate::message::{FieldTable, FieldValue, Message, Properties};
use crate::storage::rusqlite;

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
    EmbeddedOptions { like, vhost: VhostName::new("/").unwrap(), timeout: Duration::from_secs(20) }
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

fn policy(name: &str, pattern: &str, definition: &serde_json::Value) -> Change {
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

#[tokio::test]
async fn a_hold_that_ends_puts_everything_back_in_order() {
    for like in BOTH {
        for queue in [classic("q"), quorum("q"), with(quorum("q"), "x-delivery-limit", 50)] {
            let b = bench(like).await;
            b.declare(queue).await;
            b.publish("q", &TEN).await;
            let mut consumer = b.consume("q", 10).await;
            let held = hold(&mut consumer, 10).await;
            assert!(held.iter().all(|delivery| !delivery.redelivered));
            for delivery in held.iter().step_by(2) {
                consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
            }
            b.publish("q", &["new"]).await;
            consumer.close().await.unwrap();
            let back = b.drain_deliveries("q").await;
            assert_eq!(bodies(&back), ["1", "3", "5", "7", "9", "new"]);
            // The newcomer took the room that the acknowledged ones left, and was held too.
            assert!(back.iter().all(|delivery| delivery.redelivered));
        }
    }
}

#[tokio::test]
async fn where_a_nack_puts_a_message_depends_on_queue_and_limit() {
    const FRONT: &str = "0123456789";
    const TAIL: &str = "5678901234";
    for (like, queue, descending, expected) in [
        (V3, classic("q"), false, FRONT),
        (V3, classic("q"), true, FRONT),
        (V4, classic("q"), true, FRONT),
        (V3, quorum("q"), false, TAIL),
        (V3, quorum("q"), true, "5678943210"),
        (V3, with(quorum("q"), "x-delivery-limit", 50), false, FRONT),
        (V4, quorum("q"), false, FRONT),
        (V4, quorum("q"), true, "4321056789"),
        (V4, with(quorum("q"), "x-delivery-limit", -1), false, TAIL),
    ] {
        let b = bench(like).await;
        b.declare(queue).await;
        b.publish("q", &TEN).await;
        let mut consumer = b.consume("q", 5).await;
        let mut held = hold(&mut consumer, 5).await;
        if descending {
            held.reverse();
        }
        // As after basic.cancel: what it holds is still its own, more does not come.
        b.broker.shared.tell(|engine, _| {
            engine.take_no_more();
            Ok(())
        });
        for delivery in &held {
            consumer.settle(delivery.tag, Settlement::Requeue).await.unwrap();
        }
        consumer.close().await.unwrap();
        assert_eq!(b.drain("q").await.concat(), expected, "{like} descending: {descending}");
    }
}

#[tokio::test]
async fn two_holders_come_back_by_queue_type() {
    for (queue, expected) in [(classic("q"), "0123456789"), (quorum("q"), "5678901234")] {
        let b = bench(V4).await;
        b.declare(queue).await;
        b.publish("q", &TEN).await;
        let mut first = b.consume("q", 5).await;
        hold(&mut first, 5).await;
        let mut second = b.consume("q", 5).await;
        hold(&mut second, 5).await;
        second.close().await.unwrap();
        b.broker.shared.tell(|engine, _| {
            engine.take_no_more();
            Ok(())
        });
        first.close().await.unwrap();
        assert_eq!(b.drain("q").await.concat(), expected);
    }
}

/// How often a message is delivered when every delivery is returned, and the counts that are shown.
async fn lives(b: &Bench, by_closing: bool) -> (usize, Vec<Option<i64>>) {
    let mut counts = Vec::new();
    while b.depth("q").await > 0 && counts.len() < 40 {
        let mut consumer = b.consume("q", 1).await;
        let delivery = within(consumer.next()).await.unwrap();
        counts.push(
            delivery.message.properties.header("x-delivery-count").and_then(FieldValue::as_i64),
        );
        if !by_closing {
            b.broker.shared.tell(|engine, _| {
                engine.take_no_more();
                Ok(())
            });
            consumer.settle(delivery.tag, Settlement::Requeue).await.unwrap();
        }
        consumer.close().await.unwrap();
    }
    (counts.len(), counts)
}

#[tokio::test]
async fn a_quorum_queue_gives_a_message_its_limit_plus_one_lives() {
    for (like, limit, expected) in [
        (V3, None, 40),
        (V4, None, 21),
        (V3, Some(3), 4),
        (V4, Some(3), 4),
        (V4, Some(0), 1),
        (V4, Some(-1), 40),
        (V3, Some(-1), 1),
    ] {
        for by_closing in [true, false] {
            let b = bench(like).await;
            b.declare(match limit {
                Some(limit) => with(quorum("q"), "x-delivery-limit", limit),
                None => quorum("q"),
            })
            .await;
            b.publish("q", &["m"]).await;
            let (count, shown) = lives(&b, by_closing).await;
            assert_eq!(count, expected, "{like} {limit:?} closing: {by_closing}");
            assert_eq!(shown[0], None);
            assert!(shown.iter().skip(1).zip(1..).all(|(shown, n)| *shown == Some(n)));
        }
    }
}

#[tokio::test]
async fn a_message_out_of_lives_is_dead_lettered() {
    let b = bench(V4).await;
    b.declare(quorum("dead")).await;
    b.declare(with(
        with(with(quorum("q"), "x-delivery-limit", 1), "x-dead-letter-exchange", ""),
        "x-dead-letter-routing-key",
        "dead",
    ))
    .await;
    b.publish("q", &["m"]).await;
    assert_eq!(lives(&b, false).await.0, 2);
    let dead = b.drain_deliveries("dead").await;
    assert_eq!(death(&dead[0]).get("reason"), Some(&"delivery_limit".into()));
    assert_eq!(dead[0].message.properties.header("x-delivery-count"), None);
}

/// What `x-delivery-count` says on the next `looks` deliveries, each settled in this way.
async fn counts(b: &Bench, queue: &str, looks: usize, how: Option<Settlement>) -> Vec<i64> {
    let mut seen = Vec::new();
    for _ in 0..looks {
        let mut consumer = b.consume(queue, 1).await;
        let delivery = hold(&mut consumer, 1).await.remove(0);
        let count = delivery.message.properties.header("x-delivery-count");
        let count = count.and_then(FieldValue::as_i64).unwrap_or(0);
        assert_eq!(delivery.redelivered, count > 0, "{queue}");
        seen.push(count);
        if let Some(how) = how {
            // What it gives back must not come to it again.
            b.broker.shared.tell(|engine, _| {
                engine.take_no_more();
                Ok(())
            });
            consumer.settle(delivery.tag, how).await.unwrap();
        }
        consumer.close().await.unwrap();
    }
    seen
}

#[tokio::test]
async fn failures_go_along_from_quorum_queue_to_quorum_queue_on_4_0() {
    use Settlement::{Reject, Requeue};
    let chained = |queue: QueueDefinition, next: &str| {
        let queue = with(queue, "x-dead-letter-exchange", "");
        with(queue, "x-dead-letter-routing-key", next)
    };
    for (like, carries) in [(V3, 0), (V4, 1)] {
        let first = async |limit: i64| {
            let b = bench(like).await;
            let queue = with(quorum("a"), "x-delivery-limit", limit);
            b.declare(with(chained(queue, "b"), "x-message-ttl", 1000)).await;
            b.declare(chained(quorum("b"), "c")).await;
            b.declare(with(chained(classic("c"), "d"), "x-message-ttl", 10)).await;
            b.declare(quorum("d")).await;
            b.publish("a", &["m"]).await;
            b
        };
        let b = first(9).await;
        // Given back does not count, rejected does, and what lies between does not matter.
        counts(&b, "a", 2, Some(Requeue)).await;
        counts(&b, "a", 1, Some(Reject)).await;
        assert_eq!(counts(&b, "b", 2, Some(Requeue)).await, [carries, 1]);
        counts(&b, "b", 1, Some(Reject)).await;
        b.wait(20).await;
        assert_eq!(counts(&b, "d", 3, Some(Requeue)).await, [2 * carries, 1, 2]);
        // Lost in a consumer's hands counts, also when another reason ends it.
        let b = first(9).await;
        counts(&b, "a", 3, None).await;
        counts(&b, "a", 1, Some(Requeue)).await;
        b.wait(2000).await;
        assert_eq!(counts(&b, "b", 1, Some(Requeue)).await, [3 * carries]);
        let b = first(2).await;
        counts(&b, "a", 3, None).await;
        assert_eq!(counts(&b, "b", 2, Some(Requeue)).await, [3 * carries, 1]);
        let b = first(2).await;
        counts(&b, "a", 3, Some(Requeue)).await;
        assert_eq!(counts(&b, "b", 2, Some(Requeue)).await, [0, 1]);
    }
}

#[tokio::test]
async fn a_normal_message_has_its_turn_only_before_those_of_high_priority_that_came_later() {
    let b = bench(V4).await;
    b.declare(with(quorum("q"), "x-max-length", 4)).await;
    // The third to go is at its turn and younger than the one of high priority beside it.
    for (body, priority) in
        [("1", 8), ("2", 8), ("3", 5), ("4", 5), ("5", 2), ("6", 2), ("7", 6), ("8", 6)]
    {
        let mut message = text(body);
        message.properties.priority = Some(priority);
        b.publish_to("", "q", message).await;
    }
    assert_eq!(b.drain("q").await, ["7", "5", "8", "6"]);
}

#[tokio::test]
async fn a_policy_limit_takes_effect_on_what_is_there() {
    let b = bench(V4).await;
    b.declare(quorum("q")).await;
    b.publish("q", &["m"]).await;
    for _ in 0..5 {
        let mut consumer = b.consume("q", 1).await;
        hold(&mut consumer, 1).await;
        consumer.close().await.unwrap();
    }
    b.change(policy("p", "^q$", &json!({"delivery-limit": 2}))).await;
    assert_eq!(lives(&b, true).await.0, 1);
}

fn prioritised(priorities: &[Option<u8>]) -> Vec<Message> {
    priorities
        .iter()
        .zip(TEN)
        .map(|(priority, body)| {
            let mut message = text(body);
            message.properties.priority = *priority;
            message
        })
        .collect()
}

#[tokio::test]
async fn priorities_order_classic_queues_and_make_two_lanes_in_quorum_queues_of_4() {
    // Bodies are positions: none, 1, 5, 9, 3, 0, 9.
    let classic_order = [None, Some(1), Some(5), Some(9), Some(3), Some(0), Some(9)];
    let b = bench(V3).await;
    b.declare(with(classic("q"), "x-max-priority", 5)).await;
    for message in prioritised(&classic_order) {
        b.publish_to("", "q", message).await;
    }
    let mut consumer = b.consume("q", 3).await;
    hold(&mut consumer, 3).await;
    consumer.close().await.unwrap();
    assert_eq!(b.drain("q").await.concat(), "2364105");

    let lanes: Vec<Option<u8>> = (0..10).map(Some).collect();
    for (like, expected) in [(V3, "0123456789"), (V4, "5607819234")] {
        for hold_first in [false, true] {
            let b = bench(like).await;
            b.declare(quorum("q")).await;
            for message in prioritised(&lanes) {
                b.publish_to("", "q", message).await;
            }
            if hold_first {
                let mut consumer = b.consume("q", 10).await;
                hold(&mut consumer, 10).await;
                consumer.close().await.unwrap();
            }
            assert_eq!(b.drain("q").await.concat(), expected, "{like} held: {hold_first}");
        }
    }
}

#[tokio::test]
async fn a_message_of_a_quorum_queue_expires_when_its_turn_comes_and_uses_it_up() {
    let message = |body: &str, priority: u8, expiration: Option<&str>| {
        let mut message = text(body);
        message.properties.priority = Some(priority);
        message.properties.expiration = expiration.map(str::to_owned);
        message
    };
    for (like, left) in [(V3, 1), (V4, 2)] {
        let b = bench(like).await;
        b.declare(quorum("q")).await;
        b.publish_to("", "q", message("goes", 0, Some("100"))).await;
        b.publish_to("", "q", message("stays", 9, None)).await;
        b.wait(200).await;
        assert_eq!(b.depth("q").await, left, "{like}: two lanes have one head");
        assert_eq!(b.drain("q").await, ["stays"]);
        assert_eq!(b.depth("q").await, 0);
    }
    for (like, expected) in [(V3, "abc"), (V4, "bac")] {
        let b = bench(like).await;
        b.declare(quorum("q")).await;
        b.publish_to("", "q", message("goes", 9, Some("100"))).await;
        b.wait(200).await;
        assert_eq!(b.depth("q").await, 0);
        for (body, priority) in [("a", 0), ("b", 9), ("c", 9)] {
            b.publish_to("", "q", message(body, priority, None)).await;
        }
        assert_eq!(b.drain("q").await.concat(), expected, "{like}");
    }
}

#[tokio::test]
async fn a_classic_queue_does_not_see_the_expiry_of_a_message_that_overtakes() {
    let message = |body: &str, priority: u8, expiration: Option<&str>| {
        let mut message = text(body);
        message.properties.priority = Some(priority);
        message.properties.expiration = expiration.map(str::to_owned);
        message
    };
    for like in BOTH {
        let b = bench(like).await;
        b.declare(with(classic("q"), "x-max-priority", 5)).await;
        // It becomes the head unseen, and what the next look sees is the one behind it.
        b.publish("q", &["n"]).await;
        for (body, ttl) in [("0", "0"), ("1", "10"), ("2", "10")] {
            b.publish_to("", "q", message(body, 5, Some(ttl))).await;
        }
        b.wait(100).await;
        assert_eq!(b.depth("q").await, 4);
        assert_eq!(b.drain("q").await, ["0", "n"]);
        // A timer that runs already finds it.
        b.publish_to("", "q", message("n", 0, Some("200"))).await;
        b.publish_to("", "q", message("hi", 5, Some("50"))).await;
        b.wait(100).await;
        assert_eq!(b.depth("q").await, 2);
        b.wait(150).await;
        assert_eq!(b.depth("q").await, 0);
        // Behind one that stays, nothing expires until its turn comes.
        b.publish_to("", "q", message("hi", 5, None)).await;
        b.publish_to("", "q", message("n", 0, Some("50"))).await;
        b.wait(100).await;
        assert_eq!(b.depth("q").await, 2);
        assert_eq!(b.drain("q").await, ["hi"]);
    }
}

#[tokio::test]
async fn a_rejected_message_carries_its_history() {
    for like in BOTH {
        let b = bench(like).await;
        b.change(Change::DeclareExchange(ExchangeDefinition::durable(
            x("dlx"),
            ExchangeKind::Fanout,
        )))
        .await;
        b.declare(with(classic("q"), "x-dead-letter-exchange", "dlx")).await;
        b.declare(classic("dead")).await;
        b.change(binding("dlx", "dead", "")).await;
        let mut message = text("m");
        message.properties.expiration = Some("60000".into());
        b.publish_to("", "q", message).await;
        let mut consumer = b.consume("q", 1).await;
        let delivery = within(consumer.next()).await.unwrap();
        consumer.settle(delivery.tag, Settlement::Reject).await.unwrap();
        consumer.close().await.unwrap();
        let dead = b.drain_deliveries("dead").await;
        let properties = &dead[0].message.properties;
        assert_eq!((dead[0].exchange.as_str(), dead[0].routing_key.as_str()), ("dlx", "q"));
        assert!(!dead[0].redelivered);
        assert_eq!(properties.expiration, None);
        let expected = FieldTable::new()
            .with("count", 1)
            .with("reason", "rejected")
            .with("queue", "q")
            .with("time", FieldValue::Timestamp(1_700_000_000))
            .with("exchange", "")
            .with("routing-keys", FieldValue::Array(vec!["q".into()]))
            .with("original-expiration", "60000");
        assert_eq!(death(&dead[0]), expected);
        assert_eq!(properties.header("x-last-death-reason").is_some(), like == V4);
    }
}

#[tokio::test]
async fn messages_expire_at_the_head_when_they_are_due_and_not_before() {
    for like in BOTH {
        let b = bench(like).await;
        b.declare(with(
            with(with(classic("q"), "x-message-ttl", 1000), "x-dead-letter-exchange", ""),
            "x-dead-letter-routing-key",
            "dead",
        ))
        .await;
        b.declare(with(classic("dead"), "x-message-ttl", 5000)).await;
        b.publish("q", &["a"]).await;
        b.wait(500).await;
        b.publish("q", &["b"]).await;
        b.wait(499).await;
        assert_eq!((b.depth("q").await, b.depth("dead").await), (2, 0));
        b.wait(1).await;
        assert_eq!((b.depth("q").await, b.depth("dead").await), (1, 1));
        b.wait(500).await;
        assert_eq!((b.depth("q").await, b.depth("dead").await), (0, 2));
        // The time of the second queue counts from the moment of the death, not of our look.
        b.wait(4499).await;
        assert_eq!(b.depth("dead").await, 2);
        b.wait(1).await;
        assert_eq!(b.depth("dead").await, 1);
        b.wait(500).await;
        assert_eq!(b.depth("dead").await, 0);
    }
}

#[tokio::test]
async fn what_lies_behind_a_head_that_stays_is_counted_until_it_gets_there() {
    for queue in [classic("q"), quorum("q")] {
        let b = bench(V4).await;
        b.declare(queue).await;
        b.publish("q", &["stays"]).await;
        let mut message = text("goes");
        message.properties.expiration = Some("100".into());
        b.publish_to("", "q", message).await;
        b.wait(200).await;
        assert_eq!(b.depth("q").await, 2);
        assert_eq!(b.drain("q").await, ["stays"]);
        assert_eq!(b.depth("q").await, 0);
    }
}

#[tokio::test]
async fn what_expires_while_it_is_held_goes_when_it_comes_back() {
    let b = bench(V4).await;
    b.declare(with(classic("q"), "x-message-ttl", 100)).await;
    b.publish("q", &["a", "b"]).await;
    let mut consumer = b.consume("q", 2).await;
    let held = hold(&mut consumer, 2).await;
    b.wait(200).await;
    consumer.settle(held[0].tag, Settlement::Ack).await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 0));
}

#[tokio::test]
async fn expiration_zero_reaches_only_who_waits() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    let mut message = text("now");
    message.properties.expiration = Some("0".into());
    b.publish_to("", "q", message.clone()).await;
    assert_eq!(b.depth("q").await, 0);
    let mut consumer = b.consume("q", 1).await;
    b.publish_to("", "q", message).await;
    assert_eq!(bodies(&hold(&mut consumer, 1).await), ["now"]);
}

#[tokio::test]
async fn full_queues_drop_reject_or_bury() {
    let five = ["0", "1", "2", "3", "4"];
    for (queue, nacked, kept, dead) in [
        (classic("q"), 0, "34", "012"),
        (quorum("q"), 0, "34", "012"),
        (with(classic("q"), "x-overflow", "reject-publish"), 3, "01", ""),
        (with(quorum("q"), "x-overflow", "reject-publish"), 2, "012", ""),
        (with(classic("q"), "x-overflow", "reject-publish-dlx"), 3, "01", "234"),
    ] {
        let b = bench(V4).await;
        let queue = with(with(queue, "x-max-length", 2), "x-dead-letter-exchange", "");
        b.declare(with(queue.clone(), "x-dead-letter-routing-key", "dead")).await;
        b.declare(classic("dead")).await;
        let mut nacks = 0;
        for body in five {
            nacks += usize::from(b.publish_to("", "q", text(body)).await == Outcome::Nacked);
        }
        assert_eq!(nacks, nacked, "{queue:?}");
        assert_eq!(b.drain("q").await.concat(), kept, "{queue:?}");
        let buried = b.drain_deliveries("dead").await;
        assert_eq!(bodies(&buried).concat(), dead, "{queue:?}");
        assert!(buried.iter().all(|d| death(d).get("reason") == Some(&"maxlen".into())));
    }
}

#[tokio::test]
async fn held_messages_do_not_count_until_they_come_back() {
    let b = bench(V4).await;
    b.declare(with(classic("q"), "x-max-length", 2)).await;
    b.publish("q", &["0", "1"]).await;
    let mut consumer = b.consume("q", 2).await;
    hold(&mut consumer, 2).await;
    b.publish("q", &["2", "3", "4"]).await;
    assert_eq!(b.depth("q").await, 2);
    consumer.close().await.unwrap();
    assert_eq!(b.drain("q").await, ["3", "4"]);
}

#[tokio::test]
async fn a_full_target_nacks_though_the_others_keep_it() {
    let b = bench(V4).await;
    b.declare(with(with(classic("full"), "x-max-length", 0), "x-overflow", "reject-publish")).await;
    b.declare(classic("free")).await;
    b.change(binding("amq.fanout", "full", "")).await;
    b.change(binding("amq.fanout", "free", "")).await;
    assert_eq!(b.publish_to("amq.fanout", "", text("m")).await, Outcome::Nacked);
    assert_eq!(b.drain("free").await, ["m"]);
}

#[tokio::test]
async fn max_length_bytes_counts_bodies() {
    let b = bench(V4).await;
    b.declare(with(classic("q"), "x-max-length-bytes", 5)).await;
    b.publish("q", &["aa", "bb", "cc"]).await;
    assert_eq!(b.drain("q").await, ["bb", "cc"]);
}

#[tokio::test]
async fn automatic_cycles_end_and_rejecting_ones_go_on() {
    let b = bench(V4).await;
    let to_itself =
        |queue| with(with(queue, "x-dead-letter-exchange", ""), "x-dead-letter-routing-key", "q");
    b.declare(to_itself(with(classic("q"), "x-message-ttl", 100))).await;
    b.publish("q", &["m"]).await;
    for round in 1..4 {
        let mut consumer = b.consume("q", 1).await;
        let delivery = within(consumer.next()).await.unwrap();
        b.broker.shared.tell(|engine, _| {
            engine.take_no_more();
            Ok(())
        });
        consumer.settle(delivery.tag, Settlement::Reject).await.unwrap();
        consumer.close().await.unwrap();
        assert_eq!(b.depth("q").await, 1, "round {round}");
    }
    b.wait(100).await;
    // Expired in the queue it would go to: that goes round without anybody, and is dropped.
    assert_eq!(b.depth("q").await, 0);
}

#[tokio::test]
async fn a_retry_loop_with_a_rejection_goes_on() {
    let b = bench(V4).await;
    b.declare(with(
        with(quorum("q"), "x-dead-letter-exchange", ""),
        "x-dead-letter-routing-key",
        "retry",
    ))
    .await;
    b.declare(with(
        with(with(classic("retry"), "x-message-ttl", 100), "x-dead-letter-exchange", ""),
        "x-dead-letter-routing-key",
        "q",
    ))
    .await;
    b.publish("q", &["m"]).await;
    for round in 0..30 {
        let mut consumer = b.consume("q", 1).await;
        let delivery = within(consumer.next()).await.unwrap();
        if round > 0 {
            let history = death(&delivery);
            assert_eq!(history.get("queue"), Some(&"retry".into()));
            assert_eq!(history.get("count"), Some(&FieldValue::Int64(round)));
        }
        consumer.settle(delivery.tag, Settlement::Reject).await.unwrap();
        consumer.close().await.unwrap();
        assert_eq!((b.depth("q").await, b.depth("retry").await), (0, 1), "round {round}");
        b.wait(100).await;
        assert_eq!((b.depth("q").await, b.depth("retry").await), (1, 0), "round {round}");
    }
}

#[tokio::test]
async fn a_dead_letter_that_must_arrive_waits_until_it_can() {
    let b = bench(V4).await;
    let mut source = with(quorum("q"), "x-dead-letter-strategy", "at-least-once");
    source = with(source, "x-overflow", "reject-publish");
    source = with(source, "x-dead-letter-exchange", "");
    b.declare(with(source, "x-dead-letter-routing-key", "dead")).await;
    b.publish("q", &["m"]).await;
    let mut consumer = b.consume("q", 1).await;
    let delivery = within(consumer.next()).await.unwrap();
    consumer.settle(delivery.tag, Settlement::Reject).await.unwrap();
    consumer.close().await.unwrap();
    assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 0));
    b.declare(classic("dead")).await;
    b.wait(1000).await;
    let dead = b.drain_deliveries("dead").await;
    assert_eq!(bodies(&dead), ["m"]);
    assert_eq!(death(&dead[0]).get("count"), Some(&FieldValue::Int64(1)));
}

#[tokio::test]
async fn one_consumer_at_a_time_where_the_queue_says_so() {
    for queue in [classic("q"), quorum("q")] {
        let b = bench(V4).await;
        b.declare(with(queue, "x-single-active-consumer", true)).await;
        let mut first = b.consume("q", 10).await;
        let mut second = b.consume("q", 10).await;
        b.publish("q", &["0", "1", "2"]).await;
        assert_eq!(bodies(&hold(&mut first, 3).await).concat(), "012");
        assert!(second.ready().is_none());
        first.close().await.unwrap();
        assert_eq!(bodies(&hold(&mut second, 3).await).concat(), "012");
    }
}

#[tokio::test]
async fn an_exclusive_consumer_is_alone_on_a_classic_queue_only() {
    for (queue, alone) in [(classic("q"), true), (quorum("q"), false)] {
        let b = bench(V4).await;
        b.declare(queue).await;
        let options = ConsumerOptions { exclusive: true, ..ConsumerOptions::default() };
        let _first = b.broker.consumer(&q("q"), options).await.unwrap();
        let second = b.broker.consumer(&q("q"), ConsumerOptions::default()).await;
        match second {
            Err(error) if alone => {
                assert_eq!(
                    error.reply.unwrap().text,
                    "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
                );
            }
            Ok(_) => assert!(!alone),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn deleting_a_queue_ends_its_consumers() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    b.publish("q", &["a", "b"]).await;
    let mut consumer = b.consume("q", 1).await;
    hold(&mut consumer, 1).await;
    let delete = Change::DeleteQueue { name: q("q"), if_empty: false, if_unused: false };
    assert_eq!(b.change(delete.clone()).await, Changed::WithMessages(2));
    assert_eq!(b.change(delete).await, Changed::WithMessages(0));
    let error = within(consumer.next()).await.unwrap_err().unwrap();
    assert_eq!(error.kind, ErrorKind::ConsumerCancelled);
    assert_eq!(b.broker.depth(&q("q")).await.unwrap(), None);
}

#[tokio::test]
async fn declarations_are_refused_in_the_words_of_rabbitmq() {
    let inequivalent = "PRECONDITION_FAILED - inequivalent arg";
    let b = bench(V4).await;
    b.declare(with(classic("q"), "x-max-length", FieldValue::Int32(100))).await;
    b.declare(with(classic("q"), "x-max-length", FieldValue::Int64(100))).await;
    b.declare(with(with(classic("q"), "x-max-length", 100), "x-foo", "ignored")).await;
    b.declare(with(with(classic("q"), "x-max-length", 100), "x-delivery-limit", 5)).await;
    for (queue, text) in [
        (
            with(classic("q"), "x-max-length", 200),
            format!("{inequivalent} 'x-max-length' for queue 'q' in vhost '/': received '200' but current is '100'"),
        ),
        (
            with(classic("q"), "x-max-length", "100"),
            format!("{inequivalent} 'x-max-length' for queue 'q' in vhost '/': received '100' but current is '100'"),
        ),
        (
            classic("q"),
            format!("{inequivalent} 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '100' of type 'signedint'"),
        ),
        (
            QueueDefinition { durable: false, ..with(classic("q"), "x-max-length", 100) },
            format!("{inequivalent} 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'"),
        ),
        (
            with(with(classic("q"), "x-max-length", 100), "x-expires", FieldValue::Int32(10)),
            format!("{inequivalent} 'x-expires' for queue 'q' in vhost '/': received the value '10' of type 'signedint' but current is none"),
        ),
        (
            with(quorum("q"), "x-max-length", 100),
            format!("{inequivalent} 'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current is 'classic'"),
        ),
        (
            classic("amq.mine"),
            "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'".to_owned(),
        ),
        (
            with(quorum("new"), "x-max-priority", 5),
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'new' in vhost '/' of queue type rabbit_quorum_queue".to_owned(),
        ),
        (
            QueueDefinition { auto_delete: true, ..quorum("new") },
            "PRECONDITION_FAILED - invalid property 'auto-delete' for queue 'new' in vhost '/'".to_owned(),
        ),
        (
            with(classic("new"), "x-max-length", -1),
            "PRECONDITION_FAILED - invalid arg 'x-max-length' for queue 'new' in vhost '/': {value_negative,-1}".to_owned(),
        ),
        (
            with(classic("new"), "x-max-length", "many"),
            "PRECONDITION_FAILED - invalid arg 'x-max-length' for queue 'new' in vhost '/': \"expected integer, got longstr\"".to_owned(),
        ),
        (
            with(classic("new"), "x-queue-type", "odd"),
            "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'new' in vhost '/': \"unsupported queue type 'odd'\"".to_owned(),
        ),
    ] {
        assert_eq!(b.refused(Change::DeclareQueue(queue)).await.1, text);
    }
    assert_eq!(b.broker.inspect().await.unwrap().queues.len(), 1);
}

#[tokio::test]
async fn what_a_queue_without_a_type_reads_back_as_depends_on_the_version() {
    for (like, arguments) in
        [(V3, FieldTable::new()), (V4, FieldTable::new().with("x-queue-type", "classic"))]
    {
        let b = bench(like).await;
        b.declare(classic("q")).await;
        b.declare(with(classic("q"), "x-queue-type", "classic")).await;
        let snapshot = b.broker.inspect().await.unwrap();
        assert_eq!(snapshot.queues[0].definition.arguments, arguments);
        let names: Vec<_> = snapshot.exchanges.iter().map(|e| e.name.to_string()).collect();
        assert!(names.contains(&"amq.topic".to_owned()), "{names:?}");
    }
}

#[tokio::test]
async fn exchanges_and_bindings_are_refused_in_the_words_of_rabbitmq() {
    let b = bench(V4).await;
    let direct = ExchangeDefinition::durable(x("e"), ExchangeKind::Direct);
    b.change(Change::DeclareExchange(direct.clone())).await;
    b.change(Change::DeclareExchange(direct.clone())).await;
    b.declare(classic("q")).await;
    b.change(binding("e", "q", "k")).await;
    let fanout = ExchangeDefinition { kind: ExchangeKind::Fanout, ..direct.clone() };
    let mut alternate = direct.clone();
    alternate.arguments.insert("alternate-exchange", "y");
    for (change, code, text) in [
        (
            Change::DeclareExchange(fanout),
            406,
            "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'fanout' but current is 'direct'",
        ),
        (
            Change::DeclareExchange(alternate),
            406,
            "PRECONDITION_FAILED - inequivalent arg 'alternate-exchange' for exchange 'e' in vhost '/': received the value 'y' of type 'longstr' but current is none",
        ),
        (
            Change::DeleteExchange { name: x("e"), if_unused: true },
            406,
            "PRECONDITION_FAILED - exchange 'e' in vhost '/' in use",
        ),
        (binding("e", "nope", "k"), 404, "NOT_FOUND - no queue 'nope' in vhost '/'"),
        (binding("nope", "q", "k"), 404, "NOT_FOUND - no exchange 'nope' in vhost '/'"),
        (
            binding("", "q", "k"),
            403,
            "ACCESS_REFUSED - operation not permitted on the default exchange",
        ),
    ] {
        assert_eq!(b.refused(change).await, (code, text.to_owned()));
    }
    for name in ["amq.direct", "amq.topic"] {
        let delete = Change::DeleteExchange { name: x(name), if_unused: false };
        assert_eq!(b.refused(delete).await.0, 403);
    }
}

#[tokio::test]
async fn conditions_on_deleting_a_queue_hold() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    b.publish("q", &["m"]).await;
    let consumer = b.consume("q", 1).await;
    for (if_empty, if_unused, text) in [
        (true, false, "PRECONDITION_FAILED - queue 'q' in vhost '/' not empty"),
        (false, true, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use"),
    ] {
        let delete = Change::DeleteQueue { name: q("q"), if_empty, if_unused };
        assert_eq!(b.refused(delete).await.1, text);
    }
    consumer.close().await.unwrap();
    assert_eq!(b.change(Change::PurgeQueue(q("q"))).await, Changed::WithMessages(1));
    let delete = Change::DeleteQueue { name: q("q"), if_empty: true, if_unused: true };
    assert_eq!(b.change(delete).await, Changed::WithMessages(0));
}

#[tokio::test]
async fn what_is_to_go_by_itself_goes() {
    let b = bench(V4).await;
    b.declare(QueueDefinition { auto_delete: true, ..classic("q") }).await;
    b.declare(with(classic("unused"), "x-expires", 1000)).await;
    let exchange = ExchangeDefinition {
        auto_delete: true,
        ..ExchangeDefinition::durable(x("e"), ExchangeKind::Fanout)
    };
    b.change(Change::DeclareExchange(exchange)).await;
    b.change(binding("e", "q", "")).await;
    let consumer = b.consume("q", 1).await;
    let user = b.consume("unused", 1).await;
    consumer.close().await.unwrap();
    assert_eq!(b.broker.depth(&q("q")).await.unwrap(), None);
    assert!(!b.broker.has_exchange(&x("e")).await.unwrap());
    b.wait(5000).await;
    assert!(b.broker.depth(&q("unused")).await.unwrap().is_some());
    user.close().await.unwrap();
    b.wait(999).await;
    assert!(b.broker.depth(&q("unused")).await.unwrap().is_some());
    b.wait(1).await;
    assert!(b.broker.depth(&q("unused")).await.unwrap().is_none());
}

#[tokio::test]
async fn an_exclusive_queue_belongs_to_its_session() {
    let b = bench(V4).await;
    let exclusive = QueueDefinition { exclusive: true, ..classic("mine") };
    b.declare(exclusive.clone()).await;
    b.declare(exclusive).await;
    let path = b.directory.path().join("state.db");
    let other = open(&path, V4, Arc::clone(&b.clock)).await;
    let error = other.consumer(&q("mine"), ConsumerOptions::default()).await.unwrap_err();
    assert_eq!((error.kind, error.reply.unwrap().code), (ErrorKind::Locked, 405));
    b.publish("mine", &["m"]).await;
    b.broker.close().await.unwrap();
    assert!(other.inspect().await.unwrap().queues.is_empty());
}

#[tokio::test]
async fn the_publisher_refuses_what_the_channel_would() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    let mut publisher = b.broker.publisher(PublisherOptions::default()).await.unwrap();
    let mut expiring = text("m");
    expiring.properties.expiration = Some("1.5".into());
    let mut copied = text("m");
    copied.properties.headers_mut().insert("CC", "q");
    let huge = Message { body: vec![0; (16 << 20) + 1], ..text("") };
    for (message, text) in [
        (expiring, "invalid expiration '1.5': {leftover_string,\".5\"}"),
        (copied, "invalid message: {unacceptable_type_in_header,\"CC\",longstr}"),
        (huge, "message size 16777217 is larger than configured max size 16777216"),
    ] {
        let publish =
            Publish { exchange: x(""), routing_key: RoutingKey::new("q").unwrap(), message };
        let error = publisher.send(publish).await.unwrap_err();
        assert_eq!(error.reply.unwrap().text, format!("PRECONDITION_FAILED - {text}"));
    }
    assert!(publisher.outcome().await.is_none());
}

#[tokio::test]
async fn all_properties_and_bytes_come_back_and_bcc_does_not() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    b.declare(classic("copy")).await;
    b.declare(classic("hidden")).await;
    let array = |key: &str| FieldValue::Array(vec![key.into()]);
    let headers = FieldTable::new().with("CC", array("copy")).with("n", FieldValue::Int8(1));
    let mut message = Message {
        properties: Properties {
            content_type: Some("a/b".into()),
            headers: Some(headers.clone()),
            delivery_mode: Some(1),
            priority: Some(7),
            timestamp: Some(12),
            kind: Some("k".into()),
            ..Properties::default()
        },
        body: vec![0, 1, 255],
    };
    let expected = message.clone();
    message.properties.headers_mut().insert("BCC", array("hidden"));
    assert_eq!(b.publish_to("", "q", message).await, Outcome::Confirmed);
    for queue in ["q", "copy", "hidden"] {
        assert_eq!(b.drain_deliveries(queue).await[0].message, expected, "{queue}");
    }
}

#[tokio::test]
async fn settling_twice_is_refused_and_a_void_consumer_says_so() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    b.publish("q", &["m"]).await;
    let mut consumer = b.consume("q", 1).await;
    let tag = hold(&mut consumer, 1).await[0].tag;
    assert_eq!(consumer.settle(tag, Settlement::Ack).await.unwrap(), Settled::Sent);
    let error = consumer.settle(tag, Settlement::Ack).await.unwrap_err();
    assert_eq!(error.reply.unwrap().text, "PRECONDITION_FAILED - unknown delivery tag 1");
    let old = DeliveryTag { generation: 9, tag: 1 };
    assert_eq!(consumer.settle(old, Settlement::Ack).await.unwrap(), Settled::Void);
}

#[tokio::test]
async fn a_lock_is_held_by_one_and_named_to_the_other() {
    let b = bench(V4).await;
    let holder = LockHolder { who: "me".into(), since: Timestamp::from_unix_ms(5000) };
    let held = b.broker.lock("apply", &holder).await.unwrap();
    held.check().await.unwrap();
    let other = open(&b.directory.path().join("state.db"), V4, Arc::clone(&b.clock)).await;
    match other.lock("apply", &holder).await {
        Err(LockError::Held { holder: Some(by) }) => assert_eq!(by, holder),
        result => panic!("{result:?}"),
    }
    held.release().await.unwrap();
    let second = other.lock("apply", &holder).await.unwrap();
    drop(second);
    let free = async { while b.broker.lock("apply", &holder).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test]
async fn two_brokers_on_one_file_share_queues_and_wake_each_other() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    let other = open(&b.directory.path().join("state.db"), V4, Arc::clone(&b.clock)).await;
    let mut consumer = other.consumer(&q("q"), ConsumerOptions::default()).await.unwrap();
    b.publish("q", &["a", "b"]).await;
    assert_eq!(bodies(&hold(&mut consumer, 2).await), ["a", "b"]);
    assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 2));
    // The other broker's end gives everything back at once.
    drop(consumer);
    drop(other);
    let all_back = async { while b.depth("q").await < 2 {} };
    tokio::time::timeout(Duration::from_secs(10), all_back).await.unwrap();
    assert_eq!(b.drain("q").await, ["a", "b"]);
}

#[tokio::test]
async fn a_full_disk_gives_the_message_back_with_the_reason_and_harms_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(
        &directory.path().join("state.db"),
        &[ROOM],
        Options { max_pages: Some(100), ..Options::default() },
    )
    .unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_ms(1)));
    let broker = EmbeddedBroker::on(file, options(V4), Arc::<FixedClock>::clone(&clock)).await;
    let b = Bench { broker: broker.unwrap(), clock, directory };
    b.declare(classic("q")).await;
    let large = || Message { body: vec![1; 20_000], ..text("") };
    let mut kept = 0;
    let refused = loop {
        match b.publish_to("", "q", large()).await {
            Outcome::Confirmed => kept += 1,
            other => break other,
        }
    };
    match refused {
        Outcome::Failed(error) => assert!(error.cause.contains("no space left"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert!(kept > 5);
    assert_eq!(b.drain("q").await.len(), kept);
    assert_eq!(b.publish_to("", "q", large()).await, Outcome::Confirmed);
}

#[tokio::test]
async fn no_message_of_a_publisher_overtakes_one_for_which_there_was_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let file = StateFile::open(
        &directory.path().join("state.db"),
        &[ROOM],
        Options { max_pages: Some(100), ..Options::default() },
    )
    .unwrap();
    let clock = Arc::new(FixedClock::at(Timestamp::from_unix_ms(1)));
    let broker = EmbeddedBroker::on(file, options(V4), Arc::<FixedClock>::clone(&clock)).await;
    let b = Bench { broker: broker.unwrap(), clock, directory };
    b.declare(classic("q")).await;
    // Small batches: one that has no room fails as a whole.
    let options = PublisherOptions { window: 4, ..PublisherOptions::default() };
    let mut publisher = b.broker.publisher(options).await.unwrap();
    let mut taken = std::collections::BTreeMap::new();
    let mut last = None;
    let error = loop {
        // Every other one is so small that it would still fit.
        let n = last.map_or(0, |Ticket(n)| n + 1);
        let body = vec![1; if n % 2 == 0 { 20_000 } else { 1 }];
        let publish = Publish {
            exchange: x(""),
            routing_key: RoutingKey::new("q").unwrap(),
            message: Message { body, ..text("") },
        };
        match publisher.send(publish).await {
            Ok(ticket) => last = Some(ticket),
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind, ErrorKind::Storage);
    while let Some((Ticket(n), outcome)) = publisher.outcome().await {
        match outcome {
            Outcome::Confirmed => taken.insert(n, true),
            Outcome::Failed(why) => {
                assert_eq!(*why, error);
                taken.insert(n, false)
            }
            other => panic!("{other:?}"),
        };
    }
    let confirmed = taken.values().filter(|taken| **taken).count();
    assert!(confirmed > 5 && confirmed < taken.len(), "{taken:?}");
    assert!(taken.values().take(confirmed).all(|taken| *taken), "{taken:?}");
    assert_eq!(b.drain("q").await.len(), confirmed);
    assert_eq!(b.publish_to("", "q", text("again")).await, Outcome::Confirmed);
}

#[tokio::test]
async fn alternates_and_bindings_between_exchanges_lead_to_queues() {
    let b = bench(V4).await;
    let mut source = ExchangeDefinition::durable(x("source"), ExchangeKind::Direct);
    source.arguments.insert("alternate-exchange", "rest");
    b.change(Change::DeclareExchange(source)).await;
    let rest = ExchangeDefinition::durable(x("rest"), ExchangeKind::Fanout);
    b.change(Change::DeclareExchange(rest)).await;
    b.declare(classic("q")).await;
    b.declare(classic("left")).await;
    b.change(Change::Bind(BindingDefinition {
        source: x("source"),
        destination: Destination::Exchange(x("amq.topic")),
        routing_key: RoutingKey::new("a.b").unwrap(),
        arguments: FieldTable::new(),
    }))
    .await;
    b.change(binding("amq.topic", "q", "a.*")).await;
    b.change(binding("rest", "left", "")).await;
    assert_eq!(b.publish_to("source", "a.b", text("1")).await, Outcome::Confirmed);
    assert_eq!(b.publish_to("source", "other", text("2")).await, Outcome::Confirmed);
    assert_eq!((b.drain("q").await, b.drain("left").await), (vec!["1".into()], vec!["2".into()]));
    // The alternate can come from a policy too, and goes with it.
    b.change(policy("alternate", "^amq.topic$", &json!({"alternate-exchange": "rest"}))).await;
    assert_eq!(b.publish_to("amq.topic", "none", text("3")).await, Outcome::Confirmed);
    b.change(Change::DeletePolicy(PolicyName::new("alternate").unwrap())).await;
    let outcome = b.publish_to("amq.topic", "none", text("4")).await;
    assert!(matches!(outcome, Outcome::Returned { code: 312, .. }));
}

#[tokio::test]
async fn policies_limit_what_is_there_and_win_or_lose_by_the_rules() {
    let b = bench(V4).await;
    b.declare(with(classic("q"), "x-max-length", 8)).await;
    b.publish("q", &TEN).await;
    assert_eq!(b.depth("q").await, 8);
    b.change(policy("p", "^q$", &json!({"max-length": 3}))).await;
    assert_eq!(b.drain("q").await, ["7", "8", "9"]);
    let snapshot = b.broker.inspect().await.unwrap();
    assert_eq!(snapshot.queues[0].policy.as_deref(), Some("p"));
    assert_eq!(snapshot.policies.len(), 1);
}

#[tokio::test]
async fn a_large_queue_is_handed_out_within_bounds() {
    let b = bench(V4).await;
    b.declare(classic("q")).await;
    let mut publisher = b.broker.publisher(PublisherOptions::default()).await.unwrap();
    for _ in 0..40 {
        let message = Message { body: vec![7; 1 << 20], ..text("") };
        let routing_key = RoutingKey::new("q").unwrap();
        publisher.send(Publish { exchange: x(""), routing_key, message }).await.unwrap();
    }
    while let Some((_, outcome)) = publisher.outcome().await {
        assert_eq!(outcome, Outcome::Confirmed);
    }
    let mut consumer = b.consume("q", 1000).await;
    let held = b.unacked("q").await;
    assert!((1..=24).contains(&held), "{held} MiB at once");
    for _ in 0..40 {
        let delivery = within(consumer.next()).await.unwrap();
        consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
    }
    consumer.flush().await.unwrap();
    assert_eq!((b.depth("q").await, b.unacked("q").await), (0, 0));
}

#[tokio::test]
async fn a_file_of_format_1_keeps_what_its_marks_said() {
    let b = bench(V4).await;
    b.declare(quorum("q")).await;
    b.declare(classic("c")).await;
    b.publish("q", &["inherited", "new"]).await;
    b.broker.close().await.unwrap();
    drop(b.broker);
    let path = b.directory.path().join("state.db");
    let file = rusqlite::Connection::open(&path).unwrap();
    file.execute_batch(
        "UPDATE broker_message SET state = 8 + 2 WHERE id = (SELECT min(id) FROM broker_message);
         UPDATE storage_room SET format = 1 WHERE name = 'broker';",
    )
    .unwrap();
    drop(file);
    let b = Bench { broker: open(&path, V4, Arc::clone(&b.clock)).await, ..b };
    let shown: Vec<_> = b
        .drain_deliveries("q")
        .await
        .iter()
        .map(|d| (d.redelivered, d.message.properties.header("x-delivery-count").cloned()))
        .collect();
    assert_eq!(shown, [(true, Some(FieldValue::Int64(1))), (false, None)]);
    let copies = std::fs::read_dir(b.directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".before-"))
        .count();
    assert_eq!(copies, 1, "an older file is copied before it is changed");
}

fn stream(name: &str) -> QueueDefinition {
    QueueDefinition::durable(q(name), QueueType::Stream)
}

impl Bench {
    async fn read(&self, name: &str, from: impl Into<FieldValue>, count: usize) -> Vec<String> {
        let arguments = FieldTable::new().with("x-stream-offset", from);
        let options = ConsumerOptions { arguments, ..ConsumerOptions::default() };
        let mut consumer = self.broker.consumer(&q(name), options).await.unwrap();
        let held = hold(&mut consumer, count).await;
        consumer.close().await.unwrap();
        bodies(&held)
    }
}

#[tokio::test]
async fn a_stream_lets_go_of_what_is_too_old_by_itself_and_of_what_is_too_much() {
    for like in BOTH {
        let b = bench(like).await;
        b.declare(with(stream("old"), "x-max-age", "1m")).await;
        b.declare(with(stream("much"), "x-max-length-bytes", 40i64)).await;
        for round in 0..3 {
            b.publish("old", &["a", "b"]).await;
            for n in 0..50 {
                b.publish("much", &[&format!("{:03}", round * 50 + n)]).await;
            }
            b.wait(25_000).await;
        }
        // Those of the first round are 75 s old, those of the second 50 s.
        assert_eq!(b.depth("old").await, 4, "{like}");
        b.wait(11_000).await;
        assert_eq!(b.depth("old").await, 2, "{like}");
        assert_eq!(b.read("old", 0, 2).await, ["a", "b"], "{like}: what is gone is passed over");
        b.wait(60_000).await;
        assert_eq!(b.depth("old").await, 0, "{like}");
        assert_eq!(b.depth("much").await, 13, "{like}");
        assert_eq!(b.read("much", "first", 1).await, ["137"], "{like}");
        b.publish("old", &["c"]).await;
        let mut kept = b.broker.queue_details(&q("much")).await.unwrap().unwrap();
        assert_eq!(kept.bytes.take(), Some(39), "{like}");
        b.publish("much", &["a single message that is larger than all of the room there is"]).await;
        assert_eq!(b.depth("much").await, 1, "{like}: the last one is never too much");
    }
}

#[tokio::test]
async fn a_stream_is_read_from_a_time_and_keeps_its_offsets_when_it_is_opened_again() {
    let b = bench(V4).await;
    b.declare(stream("s")).await;
    for n in 0..10 {
        b.publish("s", &[&n.to_string()]).await;
        b.wait(1000).await;
    }
    let at = FieldValue::Timestamp(1_700_000_004);
    assert_eq!(b.read("s", at, 2).await, ["4", "5"]);
    assert_eq!(b.read("s", "3s", 2).await, ["7", "8"]);
    assert_eq!(b.read("s", "last", 1).await, ["9"]);
    let path = b.directory.path().join("state.db");
    b.broker.close().await.unwrap();
    let b = Bench { broker: open(&path, V4, Arc::clone(&b.clock)).await, ..b };
    b.publish("s", &["10"]).await;
    assert_eq!(b.read("s", 9, 2).await, ["9", "10"]);
    let offset = FieldTable::new().with("x-stream-offset", "middle");
    let options = ConsumerOptions { arguments: offset, ..ConsumerOptions::default() };
    let error = b.broker.consumer(&q("s"), options).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn two_processes_read_a_stream_and_a_reader_that_is_slow_gets_all_of_it() {
    let b = bench(V4).await;
    b.declare(stream("s")).await;
    let other = open(&b.directory.path().join("state.db"), V4, Arc::clone(&b.clock)).await;
    let arguments = FieldTable::new().with("x-stream-offset", "next");
    let options = ConsumerOptions { prefetch: 3, arguments, ..ConsumerOptions::default() };
    let mut theirs = other.consumer(&q("s"), options.clone()).await.unwrap();
    let mut ours = b.broker.consumer(&q("s"), options).await.unwrap();
    let all: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    b.publish("s", &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for consumer in [&mut theirs, &mut ours] {
        let mut read = Vec::new();
        while read.len() < 200 {
            let delivery = within(consumer.next()).await.unwrap();
            assert!(!delivery.redelivered);
            consumer.settle(delivery.tag, Settlement::AckUpTo).await.unwrap();
            read.push(delivery);
        }
        assert_eq!(bodies(&read), all);
    }
    assert_eq!((b.depth("s").await, b.unacked("s").await), (200, 0));
    other.close().await.unwrap();
}
