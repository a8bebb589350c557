//! The contract of the broker port, checked on the embedded broker in both imitations and on both
//! RabbitMQ versions. A broker that is not there is named as skipped.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]

mod support;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nexus::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use nexus::base::time::Timestamp;
use nexus::broker::{
    ApplyTo, BindingDefinition, Broker, Change, Changed, Consumer, ConsumerOptions, Delivery,
    Destination, ErrorKind, ExchangeDefinition, ExchangeKind, LockError, LockHolder, Outcome,
    PolicyDefinition, Product, Publish, PublisherOptions, QueueDefinition, QueueType, Settled,
    Settlement,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use support::fixture::{Fixture, Kind, within};

/// Longest wait for something that must come.
const SOON: Duration = Duration::from_secs(15);
/// How long nothing must come for the test to believe that nothing comes.
const QUIET: Duration = Duration::from_millis(300);

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::new(name).unwrap()
}

fn key(text: &str) -> RoutingKey {
    RoutingKey::new(text).unwrap()
}

fn text(body: &str) -> Message {
    Message { properties: Properties::default(), body: body.as_bytes().to_vec() }
}

/// To queue `name` by the default exchange.
fn to_queue(name: &str, message: Message) -> Publish {
    Publish { exchange: ExchangeName::default_exchange(), routing_key: key(name), message }
}

fn to_exchange(name: &str, routing_key: &str, message: Message) -> Publish {
    Publish { exchange: exchange(name), routing_key: key(routing_key), message }
}

fn classic(name: &str) -> QueueDefinition {
    QueueDefinition::durable(queue(name), QueueType::Classic)
}

fn quorum(name: &str) -> QueueDefinition {
    QueueDefinition::durable(queue(name), QueueType::Quorum)
}

fn with(
    mut definition: QueueDefinition,
    name: &str,
    value: impl Into<FieldValue>,
) -> QueueDefinition {
    definition.arguments.insert(name, value);
    definition
}

async fn declare(broker: &dyn Broker, definition: QueueDefinition) {
    broker.change(&Change::DeclareQueue(definition)).await.unwrap();
}

async fn declare_exchange(broker: &dyn Broker, name: &str, kind: ExchangeKind) {
    let definition = ExchangeDefinition::durable(exchange(name), kind);
    broker.change(&Change::DeclareExchange(definition)).await.unwrap();
}

fn binding(source: &str, to: &str, routing_key: &str) -> BindingDefinition {
    BindingDefinition {
        source: exchange(source),
        destination: Destination::Queue(queue(to)),
        routing_key: key(routing_key),
        arguments: FieldTable::new(),
    }
}

async fn bind(broker: &dyn Broker, source: &str, to: &str, routing_key: &str) {
    broker.change(&Change::Bind(binding(source, to, routing_key))).await.unwrap();
}

/// Publishes all and returns their outcomes in the order of publishing.
async fn publish(broker: &dyn Broker, messages: Vec<Publish>) -> Vec<Outcome> {
    let options = PublisherOptions { window: 64, reconnect: false };
    let mut publisher = broker.publisher(options).await.unwrap();
    let mut outcomes = BTreeMap::new();
    for message in messages {
        let ticket = publisher.send(message).await.unwrap();
        assert!(!outcomes.contains_key(&ticket), "{ticket:?} was given twice");
        while let Some((ticket, outcome)) = publisher.ready_outcome() {
            assert_eq!(outcomes.insert(ticket, outcome), None, "{ticket:?} ended twice");
        }
    }
    while let Some((ticket, outcome)) = publisher.outcome().await {
        assert_eq!(outcomes.insert(ticket, outcome), None, "{ticket:?} ended twice");
    }
    assert_eq!(publisher.in_flight(), 0);
    publisher.close().await.unwrap();
    outcomes.into_values().collect()
}

/// Publishes `bodies` to queue `name`, all confirmed.
async fn fill(broker: &dyn Broker, name: &str, bodies: &[&str]) {
    let outcomes = publish(broker, bodies.iter().map(|b| to_queue(name, text(b))).collect()).await;
    assert_eq!(outcomes, vec![Outcome::Confirmed; bodies.len()]);
}

async fn consumer(broker: &dyn Broker, name: &str, prefetch: u16) -> Box<dyn Consumer> {
    let options = ConsumerOptions { prefetch, ..ConsumerOptions::default() };
    broker.consumer(&queue(name), options).await.unwrap()
}

fn stream(name: &str) -> QueueDefinition {
    QueueDefinition::durable(queue(name), QueueType::Stream)
}

/// A consumer of a stream.
async fn reader(
    broker: &dyn Broker,
    name: &str,
    from: impl Into<FieldValue>,
    prefetch: u16,
) -> Box<dyn Consumer> {
    let arguments = FieldTable::new().with("x-stream-offset", from);
    let options = ConsumerOptions { prefetch, arguments, ..ConsumerOptions::default() };
    broker.consumer(&queue(name), options).await.unwrap()
}

async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    tokio::time::timeout(SOON, consumer.next()).await.expect("a delivery in time").unwrap()
}

/// The bodies of the next `count` deliveries, unsettled.
async fn bodies(consumer: &mut Box<dyn Consumer>, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(body(&next(consumer).await));
    }
    found
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.clone()).unwrap()
}

async fn assert_quiet(consumer: &mut Box<dyn Consumer>) {
    if let Ok(delivery) = tokio::time::timeout(QUIET, consumer.next()).await {
        panic!("nothing was to come, but {delivery:?} came");
    }
}

/// Waits until queue `name` holds `ready` messages: counts follow with a delay on a real broker.
async fn settles_at(broker: &dyn Broker, name: &str, ready: u64) {
    within(SOON, || async {
        let depth = broker.depth(&queue(name)).await.unwrap().map(|depth| depth.ready);
        if depth == Some(ready) { Ok(()) } else { Err(format!("{name} holds {depth:?}")) }
    })
    .await;
}

/// One body for each kind of broker; a kind that is not there is named as skipped.
async fn on<F, Fut>(kind: Kind, test: F)
where
    F: FnOnce(Arc<dyn Broker>, Kind) -> Fut,
    Fut: Future<Output = ()>,
{
    let Some(fixture) = Fixture::start(kind).await else { return };
    test(fixture.broker(), kind).await;
    fixture.stop().await;
}

macro_rules! contract {
    ($($(#[$doc:meta])* async fn $name:ident($broker:ident, $kind:ident) $body:block)*) => {
        $($(#[$doc])* async fn $name($broker: Arc<dyn Broker>, $kind: Kind) $body)*
        contract!(@each embedded_like_3_10, Kind::EmbeddedLike310, $($name)*);
        contract!(@each embedded_like_4_0, Kind::EmbeddedLike40, $($name)*);
        contract!(@each rabbitmq_3_10, Kind::RabbitMq310, $($name)*);
        contract!(@each rabbitmq_4_0, Kind::RabbitMq40, $($name)*);
    };
    (@each $module:ident, $kind:expr, $($name:ident)*) => {
        mod $module {
            use super::*;
            $(#[tokio::test]
            async fn $name() {
                on($kind, super::$name).await;
            })*
        }
    };
}

contract! {
    async fn it_says_who_it_is(broker, kind) {
        let identity = broker.identity();
        let (product, version) = kind.expected();
        assert_eq!(identity.product, product);
        assert_eq!((identity.version.major, identity.version.minor), version);
        assert!(!identity.cluster_name.is_empty());
    }

    async fn what_is_declared_reads_back(broker, _kind) {
        declare_exchange(&*broker, "orders", ExchangeKind::Topic).await;
        declare(&*broker, with(with(classic("q"), "x-max-length", 10), "x-custom", "as given")).await;
        bind(&*broker, "orders", "q", "a.*.#").await;
        let snapshot = broker.inspect().await.unwrap();
        let found = snapshot.exchanges.iter().find(|e| e.name.as_str() == "orders").unwrap();
        assert_eq!((&found.kind, found.durable), (&ExchangeKind::Topic, true));
        let found = snapshot.queues.iter().find(|q| q.definition.name.as_str() == "q").unwrap();
        assert_eq!(found.definition.queue_type().unwrap_or(QueueType::Classic), QueueType::Classic);
        assert!(found.definition.arguments.get("x-max-length").unwrap().is_equivalent(&10.into()));
        assert_eq!(found.definition.arguments.get("x-custom"), Some(&"as given".into()));
        assert_eq!(snapshot.bindings, [binding("orders", "q", "a.*.#")]);
        assert!(snapshot.exchanges.iter().any(|e| e.name.as_str() == "amq.topic"));
    }

    async fn declaring_and_deleting_twice_is_no_error(broker, _kind) {
        for _ in 0..2 {
            declare_exchange(&*broker, "e", ExchangeKind::Direct).await;
            declare(&*broker, quorum("q")).await;
            bind(&*broker, "e", "q", "k").await;
        }
        for _ in 0..2 {
            broker.change(&Change::Unbind(binding("e", "q", "k"))).await.unwrap();
        }
        for _ in 0..2 {
            let gone = Change::DeleteQueue { name: queue("q"), if_empty: false, if_unused: false };
            broker.change(&gone).await.unwrap();
            let gone = Change::DeleteExchange { name: exchange("e"), if_unused: false };
            broker.change(&gone).await.unwrap();
        }
        assert_eq!(broker.depth(&queue("q")).await.unwrap(), None);
        assert!(!broker.has_exchange(&exchange("e")).await.unwrap());
    }

    async fn a_queue_that_differs_is_not_taken_over(broker, _kind) {
        declare(&*broker, with(classic("q"), "x-max-length", 100)).await;
        let other = with(classic("q"), "x-max-length", 200);
        let error = broker.change(&Change::DeclareQueue(other)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed);
        assert!(error.to_string().contains("x-max-length"), "{error}");
        assert_eq!(error.reply.map(|reply| reply.code), Some(406));
        // The broker is still there for the next request.
        declare(&*broker, with(classic("q"), "x-max-length", 100)).await;
    }

    async fn an_exchange_that_differs_is_not_taken_over(broker, _kind) {
        declare_exchange(&*broker, "e", ExchangeKind::Direct).await;
        let other = ExchangeDefinition::durable(exchange("e"), ExchangeKind::Fanout);
        let error = broker.change(&Change::DeclareExchange(other)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed);
    }

    async fn arguments_of_another_queue_type_are_refused(broker, _kind) {
        let wrong = with(quorum("q"), "x-max-priority", 5);
        let error = broker.change(&Change::DeclareQueue(wrong)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let wrong = with(classic("q"), "x-max-length", "100");
        let error = broker.change(&Change::DeclareQueue(wrong)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let wrong = QueueDefinition { durable: false, ..quorum("q") };
        let error = broker.change(&Change::DeclareQueue(wrong)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    async fn reserved_names_are_refused(broker, _kind) {
        let error = broker.change(&Change::DeclareQueue(classic("amq.mine"))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let reserved = ExchangeDefinition::durable(exchange("amq.mine"), ExchangeKind::Topic);
        let error = broker.change(&Change::DeclareExchange(reserved)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }

    async fn missing_objects_are_named(broker, _kind) {
        let error = broker.change(&Change::Bind(binding("nowhere", "q", "k"))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        let error = broker.consumer(&queue("missing"), ConsumerOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.to_string().contains("missing"), "{error}");
    }

    async fn every_property_arrives_as_it_was_sent(broker, _kind) {
        declare(&*broker, quorum("q")).await;
        let headers = FieldTable::new()
            .with("text", "ü")
            .with("flag", true)
            .with("int32", FieldValue::Int32(-5))
            .with("int64", FieldValue::Int64(1 << 40))
            .with("double", FieldValue::Double(0.5))
            .with("bytes", FieldValue::Bytes(vec![0, 255]))
            .with("when", FieldValue::Timestamp(1_700_000_000))
            .with("nothing", FieldValue::Void)
            .with("list", FieldValue::Array(vec!["a".into(), FieldValue::Int8(1)]))
            .with("table", FieldTable::new().with("inner", "x"));
        let sent = Message {
            properties: Properties {
                content_type: Some("application/json".into()),
                content_encoding: Some("identity".into()),
                headers: Some(headers),
                delivery_mode: Some(2),
                priority: Some(3),
                correlation_id: Some("c-1".into()),
                reply_to: Some("answers".into()),
                expiration: Some("60000".into()),
                message_id: Some("m-1".into()),
                timestamp: Some(1_700_000_000),
                kind: Some("order.created".into()),
                user_id: None,
                app_id: Some("shop".into()),
                cluster_id: None,
            },
            body: vec![0, 1, 2, 255],
        };
        let outcomes = publish(&*broker, vec![to_queue("q", sent.clone())]).await;
        assert_eq!(outcomes, [Outcome::Confirmed]);
        let mut from = consumer(&*broker, "q", 1).await;
        let delivery = next(&mut from).await;
        assert_eq!(delivery.message, sent);
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("", "q"));
        assert!(!delivery.redelivered);
        from.settle(delivery.tag, Settlement::Ack).await.unwrap();
        from.close().await.unwrap();
        settles_at(&*broker, "q", 0).await;
    }

    async fn what_no_queue_takes_comes_back(broker, _kind) {
        declare_exchange(&*broker, "e", ExchangeKind::Direct).await;
        declare(&*broker, classic("q")).await;
        bind(&*broker, "e", "q", "good").await;
        let keys = ["good", "bad", "good", "bad", "good"];
        let sent = keys.iter().map(|key| to_exchange("e", key, text(key))).collect();
        let outcomes = publish(&*broker, sent).await;
        for (key, outcome) in keys.iter().zip(&outcomes) {
            match (*key, outcome) {
                ("good", Outcome::Confirmed) | ("bad", Outcome::Returned { code: 312, .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        settles_at(&*broker, "q", 3).await;
    }

    async fn a_missing_exchange_leaves_nothing_called_confirmed_that_is_not_there(broker, _kind) {
        declare(&*broker, classic("q")).await;
        let options = PublisherOptions { window: 64, reconnect: true };
        let mut publisher = broker.publisher(options).await.unwrap();
        let mut sent = 0;
        for index in 0..20 {
            let publish = match index {
                10 => to_exchange("nowhere", "k", text("lost")),
                _ => to_queue("q", text("kept")),
            };
            sent += usize::from(publisher.send(publish).await.is_ok());
        }
        let mut outcomes = Vec::new();
        while let Some(outcome) = publisher.outcome().await {
            outcomes.push(outcome);
        }
        assert_eq!(outcomes.len(), sent, "each message that was sent has one outcome");
        let confirmed = outcomes.iter().filter(|(_, o)| *o == Outcome::Confirmed).count() as u64;
        let lost = outcomes.iter().find(|(ticket, _)| ticket.0 == 10).map(|(_, outcome)| outcome);
        assert!(!matches!(lost, Some(Outcome::Confirmed)), "{lost:?}");
        let depth = broker.depth(&queue("q")).await.unwrap().unwrap();
        assert!(depth.ready >= confirmed, "{} there, {confirmed} confirmed", depth.ready);
        // The publisher lives on.
        publisher.send(to_queue("q", text("after"))).await.unwrap();
        assert!(matches!(publisher.outcome().await, Some((_, Outcome::Confirmed))));
        publisher.close().await.unwrap();
    }

    async fn a_full_queue_refuses(broker, _kind) {
        let full = with(with(classic("q"), "x-max-length", 2), "x-overflow", "reject-publish");
        declare(&*broker, full).await;
        for expected in [Outcome::Confirmed, Outcome::Confirmed, Outcome::Nacked, Outcome::Nacked] {
            assert_eq!(publish(&*broker, vec![to_queue("q", text("x"))]).await, [expected]);
        }
    }

    async fn each_of_many_messages_has_one_outcome_and_arrives_in_order(broker, _kind) {
        declare(&*broker, quorum("q")).await;
        let names: Vec<String> = (0..2000).map(|n| n.to_string()).collect();
        fill(&*broker, "q", &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut from = consumer(&*broker, "q", 100).await;
        for name in &names {
            let delivery = next(&mut from).await;
            assert_eq!(&body(&delivery), name);
            if (delivery.tag.tag).is_multiple_of(50) {
                from.settle(delivery.tag, Settlement::AckUpTo).await.unwrap();
            }
        }
        from.close().await.unwrap();
        settles_at(&*broker, "q", 0).await;
    }

    async fn prefetch_bounds_what_is_handed_out(broker, _kind) {
        declare(&*broker, classic("q")).await;
        fill(&*broker, "q", &["1", "2", "3", "4"]).await;
        let mut from = consumer(&*broker, "q", 2).await;
        let first = next(&mut from).await;
        assert_eq!(bodies(&mut from, 1).await, ["2"]);
        assert_quiet(&mut from).await;
        from.settle(first.tag, Settlement::Ack).await.unwrap();
        assert_eq!(bodies(&mut from, 1).await, ["3"]);
        assert_quiet(&mut from).await;
    }

    async fn what_is_not_settled_goes_back_in_order(broker, _kind) {
        for definition in [classic("classic"), quorum("quorum")] {
            let name = definition.name.as_str().to_owned();
            declare(&*broker, definition).await;
            fill(&*broker, &name, &["1", "2", "3", "4", "5"]).await;
            let mut from = consumer(&*broker, &name, 10).await;
            let held = {
                let mut held = Vec::new();
                for _ in 0..5 {
                    held.push(next(&mut from).await);
                }
                held
            };
            from.settle(held[1].tag, Settlement::Ack).await.unwrap();
            from.close().await.unwrap();
            let mut again = consumer(&*broker, &name, 10).await;
            let delivery = next(&mut again).await;
            assert!(delivery.redelivered);
            assert_eq!(body(&delivery), "1");
            assert_eq!(bodies(&mut again, 3).await, ["3", "4", "5"]);
            again.close().await.unwrap();
        }
    }

    async fn a_rejected_message_becomes_a_dead_letter_that_tells_its_story(broker, kind) {
        declare_exchange(&*broker, "dlx", ExchangeKind::Direct).await;
        declare(&*broker, classic("dead")).await;
        bind(&*broker, "dlx", "dead", "q").await;
        let source = with(quorum("q"), "x-dead-letter-exchange", "dlx");
        declare(&*broker, with(source, "x-dead-letter-routing-key", "q")).await;
        fill(&*broker, "q", &["x"]).await;
        let mut from = consumer(&*broker, "q", 1).await;
        let delivery = next(&mut from).await;
        from.settle(delivery.tag, Settlement::Reject).await.unwrap();
        from.close().await.unwrap();
        let mut dead = consumer(&*broker, "dead", 1).await;
        let delivery = next(&mut dead).await;
        let headers = delivery.message.properties.headers.clone().unwrap();
        let Some(FieldValue::Array(deaths)) = headers.get("x-death") else { panic!("{headers:?}") };
        let [FieldValue::Table(death)] = deaths.as_slice() else { panic!("{deaths:?}") };
        assert_eq!(death.get("count"), Some(&FieldValue::Int64(1)));
        assert_eq!(death.get("reason"), Some(&"rejected".into()));
        assert_eq!(death.get("queue"), Some(&"q".into()));
        assert_eq!(death.get("exchange"), Some(&"".into()));
        assert_eq!(death.get("routing-keys"), Some(&FieldValue::Array(vec!["q".into()])));
        assert!(matches!(death.get("time"), Some(FieldValue::Timestamp(_))));
        assert_eq!(headers.get("x-first-death-queue"), Some(&"q".into()));
        assert_eq!(headers.get("x-last-death-queue").is_some(), kind.expected().1.0 >= 4);
    }

    async fn what_expires_becomes_a_dead_letter(broker, _kind) {
        declare(&*broker, classic("dead")).await;
        let source = with(classic("q"), "x-dead-letter-exchange", "");
        declare(&*broker, with(source, "x-dead-letter-routing-key", "dead")).await;
        let expiring = Message {
            properties: Properties { expiration: Some("50".into()), ..Properties::default() },
            body: b"x".to_vec(),
        };
        publish(&*broker, vec![to_queue("q", expiring)]).await;
        let mut dead = consumer(&*broker, "dead", 1).await;
        let delivery = next(&mut dead).await;
        assert_eq!(delivery.message.properties.expiration, None);
        let headers = delivery.message.properties.headers.clone().unwrap();
        let Some(FieldValue::Array(deaths)) = headers.get("x-death") else { panic!("{headers:?}") };
        let [FieldValue::Table(death)] = deaths.as_slice() else { panic!("{deaths:?}") };
        assert_eq!(death.get("reason"), Some(&"expired".into()));
        assert_eq!(death.get("original-expiration"), Some(&"50".into()));
    }

    async fn a_queue_over_its_length_gives_up_its_head(broker, _kind) {
        declare(&*broker, classic("dead")).await;
        let source = with(classic("q"), "x-dead-letter-exchange", "");
        let source = with(source, "x-dead-letter-routing-key", "dead");
        declare(&*broker, with(source, "x-max-length", 2)).await;
        fill(&*broker, "q", &["1", "2", "3", "4"]).await;
        settles_at(&*broker, "q", 2).await;
        let mut dead = consumer(&*broker, "dead", 5).await;
        assert_eq!(bodies(&mut dead, 2).await, ["1", "2"]);
        let mut rest = consumer(&*broker, "q", 5).await;
        assert_eq!(bodies(&mut rest, 2).await, ["3", "4"]);
    }

    async fn a_delivery_limit_ends_a_message_that_is_returned_again_and_again(broker, _kind) {
        declare(&*broker, classic("dead")).await;
        let source = with(quorum("q"), "x-delivery-limit", 2);
        let source = with(source, "x-dead-letter-exchange", "");
        declare(&*broker, with(source, "x-dead-letter-routing-key", "dead")).await;
        fill(&*broker, "q", &["x"]).await;
        let mut from = consumer(&*broker, "q", 1).await;
        for _ in 0..3 {
            let delivery = next(&mut from).await;
            from.settle(delivery.tag, Settlement::Requeue).await.unwrap();
        }
        let mut dead = consumer(&*broker, "dead", 1).await;
        let delivery = next(&mut dead).await;
        let headers = delivery.message.properties.headers.clone().unwrap();
        assert_eq!(headers.get("x-first-death-reason"), Some(&"delivery_limit".into()));
        assert_quiet(&mut from).await;
    }

    async fn deleting_a_queue_ends_its_consumer_with_an_error(broker, _kind) {
        declare(&*broker, classic("q")).await;
        let mut from = consumer(&*broker, "q", 1).await;
        let gone = Change::DeleteQueue { name: queue("q"), if_empty: false, if_unused: false };
        broker.change(&gone).await.unwrap();
        let error = tokio::time::timeout(SOON, from.next()).await.expect("an end").unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConsumerCancelled);
        assert!(error.to_string().contains('q'), "{error}");
    }

    async fn an_alternate_exchange_takes_what_no_binding_does(broker, _kind) {
        declare_exchange(&*broker, "rest", ExchangeKind::Fanout).await;
        declare(&*broker, classic("q")).await;
        bind(&*broker, "rest", "q", "").await;
        let mut first = ExchangeDefinition::durable(exchange("first"), ExchangeKind::Direct);
        first.arguments.insert("alternate-exchange", "rest");
        broker.change(&Change::DeclareExchange(first)).await.unwrap();
        let outcomes = publish(&*broker, vec![to_exchange("first", "any", text("x"))]).await;
        assert_eq!(outcomes, [Outcome::Confirmed]);
        settles_at(&*broker, "q", 1).await;
    }

    async fn exchanges_route_through_exchanges_once(broker, _kind) {
        declare_exchange(&*broker, "a", ExchangeKind::Topic).await;
        declare_exchange(&*broker, "b", ExchangeKind::Fanout).await;
        declare(&*broker, classic("q")).await;
        bind(&*broker, "a", "q", "x.#").await;
        bind(&*broker, "b", "q", "").await;
        for (from, to) in [("a", "b"), ("b", "a")] {
            let loop_back = BindingDefinition {
                destination: Destination::Exchange(exchange(to)),
                ..binding(from, "unused", "#")
            };
            broker.change(&Change::Bind(loop_back)).await.unwrap();
        }
        let outcomes = publish(&*broker, vec![to_exchange("a", "x.y", text("x"))]).await;
        assert_eq!(outcomes, [Outcome::Confirmed]);
        settles_at(&*broker, "q", 1).await;
    }

    async fn headers_exchanges_compare_values_with_their_types(broker, _kind) {
        declare_exchange(&*broker, "h", ExchangeKind::Headers).await;
        for (name, value) in [("number", FieldValue::Int64(1)), ("text", "1".into())] {
            declare(&*broker, classic(name)).await;
            let arguments = FieldTable::new().with("x-match", "all").with("v", value);
            let by_header = BindingDefinition { arguments, ..binding("h", name, "") };
            broker.change(&Change::Bind(by_header)).await.unwrap();
        }
        let headers = FieldTable::new().with("v", FieldValue::Int32(1));
        let properties = Properties { headers: Some(headers), ..Properties::default() };
        let message = Message { properties, body: Vec::new() };
        publish(&*broker, vec![to_exchange("h", "", message)]).await;
        settles_at(&*broker, "number", 1).await;
        settles_at(&*broker, "text", 0).await;
    }

    async fn priorities_go_first_on_a_classic_queue_that_has_them(broker, _kind) {
        declare(&*broker, with(classic("q"), "x-max-priority", 5)).await;
        let sent = [None, Some(1), Some(5), Some(9), Some(3)].into_iter().map(|priority| {
            let properties = Properties { priority, ..Properties::default() };
            let body = priority.map_or("none".to_owned(), |p| p.to_string()).into_bytes();
            to_queue("q", Message { properties, body })
        });
        publish(&*broker, sent.collect()).await;
        let mut from = consumer(&*broker, "q", 10).await;
        assert_eq!(bodies(&mut from, 5).await, ["5", "9", "3", "1", "none"]);
    }

    async fn a_single_active_consumer_hands_over_when_it_leaves(broker, _kind) {
        declare(&*broker, with(quorum("q"), "x-single-active-consumer", true)).await;
        let mut first = consumer(&*broker, "q", 10).await;
        fill(&*broker, "q", &["1"]).await;
        assert_eq!(bodies(&mut first, 1).await, ["1"]);
        let mut second = consumer(&*broker, "q", 10).await;
        fill(&*broker, "q", &["2"]).await;
        assert_quiet(&mut second).await;
        assert_eq!(bodies(&mut first, 1).await, ["2"]);
        first.close().await.unwrap();
        assert_eq!(bodies(&mut second, 2).await, ["1", "2"]);
    }

    async fn purging_and_deleting_say_how_many_went(broker, _kind) {
        declare(&*broker, classic("q")).await;
        fill(&*broker, "q", &["1", "2", "3"]).await;
        settles_at(&*broker, "q", 3).await;
        let purged = broker.change(&Change::PurgeQueue(queue("q"))).await.unwrap();
        assert_eq!(purged, Changed::WithMessages(3));
        fill(&*broker, "q", &["4", "5"]).await;
        settles_at(&*broker, "q", 2).await;
        let gone = Change::DeleteQueue { name: queue("q"), if_empty: false, if_unused: false };
        assert_eq!(broker.change(&gone).await.unwrap(), Changed::WithMessages(2));
    }

    async fn a_queue_with_messages_is_kept_when_asked_to_be_empty(broker, _kind) {
        for definition in [classic("classic"), quorum("quorum")] {
            let name = definition.name.clone();
            declare(&*broker, definition).await;
            fill(&*broker, name.as_str(), &["1"]).await;
            settles_at(&*broker, name.as_str(), 1).await;
            let gone = Change::DeleteQueue { name: name.clone(), if_empty: true, if_unused: false };
            let error = broker.change(&gone).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::PreconditionFailed);
            broker.change(&Change::PurgeQueue(name.clone())).await.unwrap();
            broker.change(&gone).await.unwrap();
            assert_eq!(broker.depth(&name).await.unwrap(), None);
        }
    }

    async fn a_policy_changes_a_queue_in_place(broker, _kind) {
        declare(&*broker, classic("dead")).await;
        declare(&*broker, classic("orders")).await;
        let definition = [("dead-letter-exchange", ""), ("dead-letter-routing-key", "dead")];
        let policy = PolicyDefinition {
            name: PolicyName::new("dead letters").unwrap(),
            pattern: "^orders$".to_owned(),
            apply_to: ApplyTo::Queues,
            priority: 1,
            definition: definition.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect(),
        };
        broker.change(&Change::PutPolicy(policy.clone())).await.unwrap();
        within(SOON, || async {
            let snapshot = broker.inspect().await.unwrap();
            let queue = snapshot.queues.iter().find(|q| q.definition.name.as_str() == "orders");
            let applied = queue.and_then(|queue| queue.policy.clone());
            if snapshot.policies == [policy.clone()] && applied.as_deref() == Some("dead letters") {
                Ok(())
            } else {
                Err(format!("{applied:?} {:?}", snapshot.policies))
            }
        })
        .await;
        fill(&*broker, "orders", &["x"]).await;
        let mut from = consumer(&*broker, "orders", 1).await;
        let delivery = next(&mut from).await;
        from.settle(delivery.tag, Settlement::Reject).await.unwrap();
        settles_at(&*broker, "dead", 1).await;
        broker.change(&Change::DeletePolicy(policy.name)).await.unwrap();
        assert!(broker.inspect().await.unwrap().policies.is_empty());
    }

    async fn a_lock_has_one_holder_and_names_it(broker, _kind) {
        let holder = LockHolder {
            who: "anna@host".to_owned(),
            since: Timestamp::from_unix_ms(1_700_000_000_000),
        };
        let lock = broker.lock("topology", &holder).await.unwrap();
        lock.check().await.unwrap();
        let second = LockHolder { who: "ben@host".to_owned(), ..holder.clone() };
        match broker.lock("topology", &second).await {
            Err(LockError::Held { holder: Some(found) }) => assert_eq!(found, holder),
            other => panic!("{other:?}"),
        }
        drop(broker.lock("another", &second).await.unwrap());
        lock.release().await.unwrap();
        within(SOON, || async {
            match broker.lock("topology", &second).await {
                Ok(lock) => lock.release().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    async fn settling_a_delivery_twice_is_refused_or_void_and_never_loses(broker, _kind) {
        declare(&*broker, classic("q")).await;
        fill(&*broker, "q", &["1", "2"]).await;
        let mut from = consumer(&*broker, "q", 10).await;
        let first = next(&mut from).await;
        assert_eq!(from.settle(first.tag, Settlement::Ack).await.unwrap(), Settled::Sent);
        let again = from.settle(first.tag, Settlement::Ack).await;
        let flushed = from.flush().await;
        assert!(!matches!((&again, &flushed), (Ok(Settled::Sent), Ok(()))), "{again:?} {flushed:?}");
        drop(from);
        settles_at(&*broker, "q", 1).await;
    }

    async fn a_stream_is_read_from_anywhere_and_keeps_what_it_has(broker, kind) {
        declare(&*broker, stream("s")).await;
        let all: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        fill(&*broker, "s", &all.iter().map(String::as_str).collect::<Vec<_>>()).await;
        for (from, first) in [
            (FieldValue::from("first"), 0),
            (FieldValue::Int64(0), 0),
            (FieldValue::Int64(117), 117),
            (FieldValue::Timestamp(1_700_000_000), 0),
            (FieldValue::from("1h"), 0),
        ] {
            let mut from = reader(&*broker, "s", from, 20).await;
            // More than the prefetch: acks fetch what comes next, and take nothing away.
            for expected in first..300 {
                let delivery = next(&mut from).await;
                assert_eq!(body(&delivery), expected.to_string());
                assert!(!delivery.redelivered);
                let offset = delivery.message.properties.header("x-stream-offset");
                assert_eq!(offset.and_then(FieldValue::as_i64), Some(expected));
                from.settle(delivery.tag, Settlement::Ack).await.unwrap();
            }
            assert_quiet(&mut from).await;
            from.close().await.unwrap();
        }
        let mut last = reader(&*broker, "s", "last", 400).await;
        let mut seen = body(&next(&mut last).await);
        while seen != "299" {
            seen = body(&next(&mut last).await);
        }
        let mut later = reader(&*broker, "s", "next", 1).await;
        assert_quiet(&mut later).await;
        fill(&*broker, "s", &["300", "301"]).await;
        let delivery = next(&mut later).await;
        assert_eq!(body(&delivery), "300");
        if kind != Kind::RabbitMq310 {
            // Only one may be unsettled; 3.10 hands out what it has read of a chunk.
            assert_quiet(&mut later).await;
        }
        later.settle(delivery.tag, Settlement::AckUpTo).await.unwrap();
        assert_eq!(body(&next(&mut later).await), "301");
    }

    async fn what_a_stream_does_not_know_is_refused(broker, _kind) {
        for wrong in [
            with(stream("s"), "x-message-ttl", 1000),
            with(stream("s"), "x-dead-letter-exchange", "dead"),
            with(stream("s"), "x-max-length", 5),
            QueueDefinition { durable: false, ..stream("s") },
        ] {
            let error = broker.change(&Change::DeclareQueue(wrong.clone())).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{wrong:?}: {error}");
        }
        declare(&*broker, with(with(stream("s"), "x-max-age", "7D"), "x-max-length-bytes", 1 << 30))
            .await;
        fill(&*broker, "s", &["kept"]).await;
        let error = broker.change(&Change::PurgeQueue(queue("s"))).await.unwrap_err();
        assert_eq!(error.reply.as_ref().map(|reply| reply.code), Some(540), "{error}");
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        for other in [classic("c"), quorum("q")] {
            declare(&*broker, other.clone()).await;
            let arguments = FieldTable::new().with("x-stream-offset", "first");
            let options = ConsumerOptions { arguments, ..ConsumerOptions::default() };
            let taken = broker.consumer(&other.name, options).await;
            assert!(taken.is_err(), "{}: no stream has no offsets", other.name);
        }
        let mut from = reader(&*broker, "s", "first", 5).await;
        assert_eq!(body(&next(&mut from).await), "kept");
    }

    async fn a_stream_takes_its_copy_of_what_others_get_and_dead_letters_by_version(broker, kind) {
        declare(&*broker, stream("s")).await;
        declare_exchange(&*broker, "e", ExchangeKind::Topic).await;
        declare(&*broker, classic("q")).await;
        declare(&*broker, with(with(classic("dying"), "x-dead-letter-exchange", ""), "x-dead-letter-routing-key", "s")).await;
        bind(&*broker, "e", "q", "a.*").await;
        bind(&*broker, "e", "s", "#").await;
        let outcomes = publish(&*broker, vec![
            to_exchange("e", "a.b", text("both")),
            to_exchange("e", "c", text("stream only")),
        ]).await;
        assert_eq!(outcomes, [Outcome::Confirmed, Outcome::Confirmed]);
        settles_at(&*broker, "q", 1).await;
        fill(&*broker, "dying", &["dead"]).await;
        let mut from = consumer(&*broker, "dying", 1).await;
        let delivery = next(&mut from).await;
        from.settle(delivery.tag, Settlement::Reject).await.unwrap();
        from.close().await.unwrap();
        settles_at(&*broker, "dying", 0).await;
        let mut reads = reader(&*broker, "s", "first", 10).await;
        assert_eq!(bodies(&mut reads, 2).await, ["both", "stream only"]);
        if broker.capabilities().stream_takes_dead_letters {
            assert_eq!(body(&next(&mut reads).await), "dead", "{kind:?}");
        } else {
            assert_quiet(&mut reads).await;
        }
    }

    async fn a_paused_consumer_keeps_what_it_has_and_gets_no_more(broker, _kind) {
        for definition in [classic("c"), quorum("q")] {
            let name = definition.name.as_str().to_owned();
            declare(&*broker, definition).await;
            fill(&*broker, &name, &["1", "2", "3", "4"]).await;
            let mut from = consumer(&*broker, &name, 2).await;
            let first = next(&mut from).await;
            from.pause().await.unwrap();
            assert_eq!(body(&next(&mut from).await), "2");
            from.settle(first.tag, Settlement::AckUpTo).await.unwrap();
            from.flush().await.unwrap();
            assert_eq!(from.ready(), None, "{name}");
            from.close().await.unwrap();
            settles_at(&*broker, &name, 3).await;
            let mut rest = consumer(&*broker, &name, 5).await;
            assert_eq!(bodies(&mut rest, 3).await, ["2", "3", "4"]);
        }
    }

    async fn a_consumer_waits_for_what_comes_later(broker, _kind) {
        declare(&*broker, quorum("q")).await;
        let mut from = consumer(&*broker, "q", 1).await;
        let (delivery, ()) = tokio::join!(next(&mut from), fill(&*broker, "q", &["late"]));
        assert_eq!(body(&delivery), "late");
    }
}

/// The kinds say of themselves what the suite relies on.
#[test]
fn kinds_know_what_they_are() {
    assert_eq!(Kind::EmbeddedLike310.expected(), (Product::Embedded, (3, 10)));
    assert_eq!(Kind::RabbitMq40.expected(), (Product::RabbitMq, (4, 0)));
}
