//! Dead letters for tests: queues with letters in them, what is in a queue afterwards, and commands that
//! are killed in their work.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nexus::base::id::{ExchangeName, RoutingKey};
use nexus::broker::{
    Broker, Change, ConsumerOptions, Delivery, Outcome, Publish, PublisherOptions, QueueDefinition,
    QueueType, Settlement,
};
use nexus::message::{FieldTable, Message, Properties};
use serde_json::Value;

use super::program::{Place, Ran, Running, depth, pause, queue, quiet_depth};

pub fn declare(place: &Place, name: &str, kind: QueueType, arguments: &FieldTable) {
    let mut definition = QueueDefinition::durable(queue(name), kind);
    for (name, value) in arguments.iter() {
        definition.arguments.insert(name, value.clone());
    }
    place.ask(async |broker| {
        broker.change(&Change::DeclareQueue(definition)).await.unwrap();
    });
}

/// The queue `dead`, and `jobs` that its letters are from.
pub fn queues(place: &Place, kind: QueueType) {
    declare(place, "dead", kind, &FieldTable::new());
    declare(place, "jobs", QueueType::Classic, &FieldTable::new());
}

pub fn letter(n: u64) -> Message {
    let headers = FieldTable::new().with("x-nexus-origin-queue", "jobs").with("n", n.cast_signed());
    let properties = Properties {
        message_id: Some(format!("m{n}")),
        delivery_mode: Some(2),
        headers: Some(headers),
        ..Properties::default()
    };
    Message { properties, body: n.to_string().into_bytes() }
}

pub async fn publish(broker: &dyn Broker, to: &str, messages: impl IntoIterator<Item = Message>) {
    let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
    for message in messages {
        let publish = Publish {
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new(to).unwrap(),
            message,
        };
        publisher.send(publish).await.unwrap();
    }
    while let Some((_, outcome)) = publisher.outcome().await {
        assert_eq!(outcome, Outcome::Confirmed);
    }
    publisher.close().await.unwrap();
}

pub fn put(place: &Place, to: &str, messages: impl IntoIterator<Item = Message>) {
    place.ask(async |broker| publish(broker, to, messages).await);
}

/// Everything in a queue, taken out.
pub fn take(place: &Place, name: &str) -> Vec<Delivery> {
    place.ask(async |broker| {
        let expected = quiet_depth(broker, name).await;
        let mut consumer = broker.consumer(&queue(name), ConsumerOptions::default()).await.unwrap();
        let mut all = Vec::new();
        for _ in 0..expected {
            let next = tokio::time::timeout(Duration::from_secs(30), consumer.next()).await;
            let delivery = next.expect("a message that the queue counts").unwrap();
            consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
            all.push(delivery);
        }
        consumer.close().await.unwrap();
        all
    })
}

pub fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    let body = |d: &Delivery| String::from_utf8_lossy(&d.message.body).parse().unwrap();
    deliveries.iter().map(body).collect()
}

pub fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.out()).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// Checks what arrived in `jobs`: all of it, first copies in order, no more copies than the bound allows,
/// and each of them named.
pub fn account(place: &Place, run: &str, count: u64, most: u64) -> u64 {
    account_of(place, run, &take(place, "jobs"), count, most)
}

/// The same for what was taken elsewhere.
pub fn account_of(place: &Place, run: &str, went: &[Delivery], count: u64, most: u64) -> u64 {
    let mut first = Vec::new();
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for (n, delivery) in numbers(went).into_iter().zip(went) {
        if seen.insert(n) {
            first.push(n);
        } else {
            twice.insert(delivery.message.properties.message_id.clone().unwrap());
        }
    }
    assert_eq!(first, (0..count).collect::<Vec<_>>(), "lost or out of order");
    let shown = json(&place.run(&["dlq", "run", "show", run, "-o", "json"]).is(0));
    let listed: BTreeSet<&str> = shown["inDoubt"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|doubt| doubt["messageId"].as_str())
        .collect();
    for id in &twice {
        assert!(listed.contains(id.as_str()), "{id} came twice and is not named: {shown:#}");
    }
    let more = went.len() as u64 - count;
    assert!(more <= most, "{more} duplicates, {most} allowed");
    more
}

/// Starts it, and waits until so many have arrived in `jobs`.
pub fn start_and_await(place: &Place, args: &[&str], arrived: u64) -> Running {
    start_and_await_at(place, args, "jobs", arrived)
}

/// Starts it, and waits until so many have arrived.
pub fn start_and_await_at(place: &Place, args: &[&str], target: &str, arrived: u64) -> Running {
    let mut running = Running::start(&mut place.command(args));
    place.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(60);
        while depth(broker, target).await.ready < arrived && !running.has_ended() {
            assert!(Instant::now() < end, "never so many at the target: {arrived}");
            pause();
        }
    });
    running
}
