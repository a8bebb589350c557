//! Publishing and consuming through the real brokers: the embedded one and both RabbitMQ versions.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]

mod support;

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus::base::id::{ExchangeName, QueueName, RoutingKey, VhostName};
use nexus::base::time::SystemClock;
use nexus::broker::embedded::{EmbeddedBroker, EmbeddedOptions};
use nexus::broker::rabbitmq::{ConnectOptions, RabbitBroker};
use nexus::broker::{Broker, Change, PublisherOptions, QueueDefinition, QueueType, Version};
use nexus::delivery::consume::{ConsumeEnd, ConsumeReport, ConsumeVerdict};
use nexus::delivery::publish::{Fate, PublishReport, PublishVerdict};
use nexus::delivery::source::Limits;
use nexus::delivery::{
    Composer, ConsumeOptions, DurableFile, Filter, Format, LineSource, PublishOptions,
    RecordSource, Sink, Source, Stop, Stream, consume, publish,
};
use nexus::message::{
    FieldTable, FieldValue, Message, Properties, Record, parse_record, write_record,
};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use support::{Node, Vhost};

#[path = "../src/message/arbitrary.rs"]
mod arbitrary;

/// A broker with a place of its own.
struct Place {
    label: String,
    broker: Arc<dyn Broker>,
    again: Option<Vhost>,
    _directory: Option<tempfile::TempDir>,
}

impl Place {
    /// Another connection, for looking at what the first has left behind.
    async fn reconnect(&mut self) {
        if let Some(vhost) = &self.again {
            self.broker = connect(vhost).await;
        }
    }
}

async fn connect(vhost: &Vhost) -> Arc<dyn Broker> {
    RabbitBroker::connect(ConnectOptions::new(vhost.amqp_url().parse().unwrap())).await.unwrap()
}

async fn places(purpose: &str) -> Vec<Place> {
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        like: Version { major: 4, minor: 0, patch: 5 },
        vhost: VhostName::new("/").unwrap(),
        timeout: Duration::from_secs(30),
    };
    let file = directory.path().join("state.db");
    let embedded = EmbeddedBroker::open(file, options, Arc::new(SystemClock)).await.unwrap();
    let mut places = vec![Place {
        label: "embedded".to_owned(),
        broker: embedded,
        again: None,
        _directory: Some(directory),
    }];
    for node in Node::all() {
        let vhost = node.vhost(purpose);
        let broker = connect(&vhost).await;
        let label = format!("RabbitMQ {}", node.version);
        places.push(Place { label, broker, again: Some(vhost), _directory: None });
    }
    places
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

async fn declare(broker: &dyn Broker, name: &str) {
    let definition = QueueDefinition::durable(queue(name), QueueType::Classic);
    broker.change(&Change::DeclareQueue(definition)).await.unwrap();
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn send(broker: &dyn Broker, source: impl Source + 'static) -> PublishReport {
    let publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
    let options = PublishOptions::default();
    publish(publisher, Box::new(source), options, &Stop::new(), &mut |_| {}).await
}

fn records(input: Vec<u8>, to: &str) -> RecordSource {
    let exchange = Some(ExchangeName::default_exchange());
    let key = Some(RoutingKey::new(to).unwrap());
    RecordSource::new(Box::new(Cursor::new(input)), exchange, key, Limits::default())
}

fn lines(input: Vec<u8>, to: &str) -> LineSource {
    let composer =
        Composer::new(Properties::default(), Arc::new(SystemClock), fastrand::Rng::with_seed(1));
    LineSource::new(
        Box::new(Cursor::new(input)),
        ExchangeName::default_exchange(),
        RoutingKey::new(to).unwrap(),
        composer,
        Limits::default(),
    )
}

async fn take(
    broker: &dyn Broker,
    from: &str,
    options: ConsumeOptions,
) -> (ConsumeReport, Vec<u8>) {
    let shared = Shared::default();
    let sink = Sink::new(Format::Ndjson, Box::new(Stream(shared.clone())));
    let name = queue(from);
    let report = consume(broker, &name, options, sink, &Stop::new(), &mut |_| {}).await.unwrap();
    (report, shared.take())
}

fn until_empty() -> ConsumeOptions {
    ConsumeOptions { until_empty: true, ..ConsumeOptions::default() }
}

async fn take_all(broker: &dyn Broker, from: &str) -> Vec<Record> {
    let (report, bytes) = take(broker, from, until_empty()).await;
    assert_eq!(report.ended, ConsumeEnd::Empty, "{report:?}");
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Vec<Record> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse_record(line).unwrap()).collect()
}

/// The value with NaN and infinities replaced: RabbitMQ ends the connection when it reads them.
fn finite(value: &mut FieldValue) {
    match value {
        FieldValue::Float(n) if !n.is_finite() => *n = -0.0,
        FieldValue::Double(n) if !n.is_finite() => *n = -0.0,
        FieldValue::Array(values) => values.iter_mut().for_each(finite),
        FieldValue::Table(table) => table.0.values_mut().for_each(finite),
        _ => {}
    }
}

/// Any message that RabbitMQ takes.
fn acceptable(mut message: Message) -> Message {
    if let Some(headers) = &mut message.properties.headers {
        headers.0.values_mut().for_each(finite);
    }
    let properties = &mut message.properties;
    if properties.expiration.is_some() {
        properties.expiration = Some("86400000".to_owned());
    }
    properties.user_id = None;
    properties.delivery_mode = properties.delivery_mode.map(|mode| 1 + mode % 2);
    message
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_random_messages_keep_bytes_and_types_through_consume_and_publish() {
    let strategy = arbitrary::message();
    let mut runner = TestRunner::default();
    let messages: Vec<Message> = (0..10_000)
        .map(|_| acceptable(strategy.new_tree(&mut runner).unwrap().current()))
        .collect();
    let mut input = Vec::new();
    for message in &messages {
        let record = Record { message: message.clone(), ..Record::default() };
        write_record(&mut input, &record.as_ref());
        input.push(b'\n');
    }
    for place in places("roundtrip").await {
        let broker = &*place.broker;
        let label = &place.label;
        declare(broker, "first").await;
        declare(broker, "second").await;
        let report = send(broker, records(input.clone(), "first")).await;
        assert_eq!(report.confirmed, 10_000, "{label}: {:?} {:?}", report.error, report.entries);
        let (report, bytes) = take(broker, "first", until_empty()).await;
        assert_eq!((report.written, report.acked), (10_000, 10_000), "{label}: {report:?}");
        let report = send(broker, records(bytes, "second")).await;
        assert_eq!(report.confirmed, 10_000, "{label}: {:?} {:?}", report.error, report.entries);
        let back = take_all(broker, "second").await;
        assert_eq!(back.len(), 10_000, "{label}");
        for (record, message) in back.iter().zip(&messages) {
            assert!(
                arbitrary::same(&record.message, message),
                "{label}\nsent {message:?}\ngot  {:?}",
                record.message
            );
        }
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_what_the_filter_does_not_want_is_still_there_in_order() {
    for mut place in places("filter").await {
        let label = place.label.clone();
        declare(&*place.broker, "q").await;
        let input: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(send(&*place.broker, lines(input.into_bytes(), "q")).await.confirmed, 1000);

        // No end is given: it goes on until it is killed.
        let broker = place.broker.clone();
        let written = Arc::new(Mutex::new(0));
        let seen = written.clone();
        let running = tokio::spawn(async move {
            let options = ConsumeOptions {
                filter: Some(Filter::parse("body % 2 == 0").unwrap()),
                ..ConsumeOptions::default()
            };
            let sink = Sink::new(Format::Ndjson, Box::new(Stream(Shared::default())));
            let stop = Stop::new();
            let mut progress = move |count| *seen.lock().unwrap() = count;
            consume(&*broker, &queue("q"), options, sink, &stop, &mut progress).await
        });
        let waiting = tokio::time::timeout(Duration::from_secs(30), async {
            while *written.lock().unwrap() < 500 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waiting.await.unwrap_or_else(|_| panic!("{label}: written {}", written.lock().unwrap()));
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        place.reconnect().await;

        let mut left: Vec<u32> = Vec::new();
        // The dead consumer's messages come back when the broker has noticed.
        let waiting = tokio::time::timeout(Duration::from_secs(30), async {
            while left.len() < 500 {
                let options = ConsumeOptions {
                    idle: Some(Duration::from_millis(300)),
                    ..ConsumeOptions::default()
                };
                let (_, bytes) = take(&*place.broker, "q", options).await;
                left.extend(parse(&bytes).iter().map(|record| {
                    std::str::from_utf8(&record.message.body).unwrap().parse::<u32>().unwrap()
                }));
            }
        });
        waiting.await.unwrap_or_else(|_| panic!("{label}"));
        let odd: Vec<u32> = left.iter().copied().filter(|n| n % 2 == 1).collect();
        assert_eq!(odd, (0..1000).filter(|n| n % 2 == 1).collect::<Vec<_>>(), "{label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_acks_nothing() {
    for place in places("full").await {
        let broker = &*place.broker;
        declare(broker, "q").await;
        let input: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(send(broker, lines(input.into_bytes(), "q")).await.confirmed, 100);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let sink = Sink::new(Format::Ndjson, Box::new(DurableFile::new(full).unwrap()));
        let name = queue("q");
        let report =
            consume(broker, &name, until_empty(), sink, &Stop::new(), &mut |_| {}).await.unwrap();
        assert_eq!((report.ended, report.acked), (ConsumeEnd::SinkFailed, 0), "{}", place.label);
        assert_eq!(report.verdict(), ConsumeVerdict::Failed);
        let left = take_all(broker, "q").await;
        let bodies: Vec<String> = left
            .iter()
            .map(|record| String::from_utf8_lossy(&record.message.body).into_owned())
            .collect();
        let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(bodies, all, "{}", place.label);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_five_megabytes_is_one_message() {
    for place in places("long").await {
        let broker = &*place.broker;
        declare(broker, "q").await;
        let mut input = vec![b'x'; 5_000_000];
        input.extend_from_slice(b"\nshort");
        assert_eq!(send(broker, lines(input, "q")).await.confirmed, 2, "{}", place.label);
        let back = take_all(broker, "q").await;
        let sizes: Vec<usize> = back.iter().map(|record| record.message.body.len()).collect();
        assert_eq!(sizes, [5_000_000, 5], "{}", place.label);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unroutable_message_is_returned_and_never_taken_for_confirmed() {
    for place in places("nowhere").await {
        let broker = &*place.broker;
        declare(broker, "q").await;
        let record =
            |key: &str| format!("{{\"exchange\":\"\",\"routingKey\":\"{key}\",\"body\":1}}\n");
        let input = [record("q"), record("nowhere"), record("q")].concat().into_bytes();
        let source = RecordSource::new(Box::new(Cursor::new(input)), None, None, Limits::default());
        let report = send(broker, source).await;
        assert_eq!((report.confirmed, report.returned), (2, 1), "{}", place.label);
        assert_eq!(report.verdict(), PublishVerdict::Refused);
        assert_eq!((report.entries[0].line, report.entries[0].fate), (2, Fate::Returned));
        assert!(report.entries[0].reason.as_ref().unwrap().starts_with("312"), "{}", place.label);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_takes_exactly_as_many_and_leaves_the_rest_in_order() {
    for place in places("count").await {
        let broker = &*place.broker;
        declare(broker, "q").await;
        let input: String = (0..2000).map(|n| format!("{n}\n")).collect();
        assert_eq!(send(broker, lines(input.into_bytes(), "q")).await.confirmed, 2000);
        let mut bodies = Vec::new();
        for count in [1, 7, 600] {
            let options = ConsumeOptions { count: Some(count), ..ConsumeOptions::default() };
            let (report, bytes) = take(broker, "q", options).await;
            assert_eq!(
                (report.ended, report.written),
                (ConsumeEnd::Count, count),
                "{}",
                place.label
            );
            bodies.extend(parse(&bytes));
        }
        bodies.extend(take_all(broker, "q").await);
        let numbers: BTreeMap<usize, String> = bodies
            .iter()
            .map(|record| String::from_utf8_lossy(&record.message.body).into_owned())
            .enumerate()
            .collect();
        assert_eq!(numbers.len(), 2000, "{}", place.label);
        assert!(numbers.iter().all(|(n, body)| n.to_string() == *body), "{}", place.label);
        broker.close().await.unwrap();
    }
}
