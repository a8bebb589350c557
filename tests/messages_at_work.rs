//! Asking, tapping, recording and playing through the real brokers: the embedded one and both RabbitMQ
//! versions.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::base::time::SystemClock;
use nexus::broker::{
    BindingDefinition, Broker, BrokerError, BrokerIdentity, Change, Changed, Consumer,
    ConsumerOptions, Delivery, DeliveryTag, Destination, ErrorKind, ExchangeDefinition,
    ExchangeKind, Lock, LockError, LockHolder, Outcome, Product, Publish, Publisher,
    PublisherOptions, QueueDefinition, QueueDepth, QueueType, Settled, Settlement, Snapshot,
};
use nexus::delivery::consume::{ConsumeEnd, ConsumeOptions};
use nexus::delivery::filter::Filter;
use nexus::delivery::publish::PublishEnd;
use nexus::delivery::request::{
    Answer, Fate, Ids, Listener, RequestOptions, RequestReport, RequestVerdict, Stray, Until, Via,
    request,
};
use nexus::delivery::sink::{Format, Sink, Target as SinkTarget};
use nexus::delivery::source::{BadLine, Item, Read1, Source};
use nexus::delivery::stop::{Stop, Wish};
use nexus::delivery::tap::{TapPlan, TapQueue, TapReport, TapTarget, plan, tap};
use nexus::delivery::worker::handler::builtin::{Builtin, Reply};
use nexus::delivery::worker::{Signer, WorkEnd, WorkOptions, WorkReport, Worker, work};
use nexus::message::reply::{ErrorAnswer, mark_error};
use nexus::message::{FieldTable, Message, Properties, Record, parse_record};
use nexus::topology::view::TopologyView;
use support::fixture::{Fixture, Kind};
use support::responder::{Responder, answer_to};

const KINDS: [Kind; 3] = [Kind::EmbeddedLike40, Kind::RabbitMq310, Kind::RabbitMq40];

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

async fn declare(broker: &dyn Broker, name: &str) {
    let definition = QueueDefinition::durable(queue(name), QueueType::Classic);
    broker.change(&Change::DeclareQueue(definition)).await.unwrap();
}

/// Bodies that go to one queue.
struct Bodies {
    queue: &'static str,
    bodies: std::vec::IntoIter<String>,
    line: u64,
}

fn bodies<T: Into<String>>(
    queue: &'static str,
    bodies: impl IntoIterator<Item = T>,
) -> Box<Bodies> {
    let bodies: Vec<String> = bodies.into_iter().map(Into::into).collect();
    Box::new(Bodies { queue, bodies: bodies.into_iter(), line: 0 })
}

impl Source for Bodies {
    fn next(&mut self) -> io::Result<Option<Read1>> {
        let Some(body) = self.bodies.next() else { return Ok(None) };
        self.line += 1;
        let line = self.line;
        if body == "bad" {
            let reason = "told so".to_owned();
            return Ok(Some(Err(BadLine { line, reason, raw: Vec::new() })));
        }
        let publish = Publish {
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new(self.queue).unwrap(),
            message: Message { properties: Properties::default(), body: body.into_bytes() },
        };
        Ok(Some(Ok(Item { line, publish })))
    }
    fn is_ready(&self) -> bool {
        true
    }
}

/// Keeps what came.
#[derive(Default)]
struct Heard {
    answers: Vec<(u64, String)>,
    ids: Vec<Option<String>>,
    strays: Vec<bool>,
    fail: bool,
}

impl Listener for Heard {
    fn answer(&mut self, answer: &Answer<'_>) -> io::Result<()> {
        let body = String::from_utf8_lossy(&answer.delivery.message.body).into_owned();
        self.answers.push((answer.line, body));
        self.ids.push(answer.delivery.message.properties.message_id.clone());
        Ok(())
    }
    fn commit(&mut self) -> io::Result<()> {
        if self.fail { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
    fn stray(&mut self, stray: &Stray<'_>) {
        self.strays.push(stray.late);
    }
}

fn options(via: Via) -> RequestOptions {
    RequestOptions { via, timeout: Duration::from_secs(20), ..RequestOptions::default() }
}

async fn ask(
    broker: &dyn Broker,
    source: Box<dyn Source>,
    options: RequestOptions,
) -> (RequestReport, Heard) {
    ask_until(broker, source, options, &Stop::new()).await
}

async fn ask_until(
    broker: &dyn Broker,
    source: Box<dyn Source>,
    options: RequestOptions,
    stop: &Stop,
) -> (RequestReport, Heard) {
    let mut heard = Heard::default();
    let ids = Ids { clock: Arc::new(SystemClock), random: fastrand::Rng::new() };
    let report = request(broker, source, options, ids, &mut heard, stop).await.unwrap();
    (report, heard)
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

/// Names of queues that begin so. Without the management API's help where there is none.
async fn queues(broker: &dyn Broker, prefix: &str) -> Vec<String> {
    let snapshot = broker.inspect().await.unwrap();
    let names = snapshot.queues.iter().map(|queue| queue.definition.name.to_string());
    names.filter(|name| name.starts_with(prefix)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_directly_and_through_a_queue() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        declare(broker.as_ref(), "jobs").await;
        let responder = Responder::start(fixture.broker(), "jobs", |request| {
            vec![answer_to(request, format!("did {}", text(request)))]
        })
        .await;
        for via in [Via::Best, Via::Queue] {
            let many = (0..300).map(|n| n.to_string());
            let options = RequestOptions { window: 16, ..options(via) };
            let (report, heard) = ask(broker.as_ref(), bodies("jobs", many), options).await;
            assert_eq!(report.verdict(), RequestVerdict::Answered, "{kind:?} {report:?}");
            assert_eq!((report.answered, report.foreign, report.late), (300, 0, 0));
            let direct = kind != Kind::EmbeddedLike40 && via == Via::Best;
            assert_eq!(report.via, if direct { "direct" } else { "queue" });
            // Each answer belongs to the request that it is said to belong to.
            assert!(heard.answers.iter().all(|(line, body)| *body == format!("did {}", line - 1)));
            assert_eq!(heard.answers.len(), 300);
        }
        assert_eq!(responder.taken(), 600);
        assert_eq!(queues(broker.as_ref(), "nexus.reply.").await, Vec::<String>::new());
        fixture.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_getting_no_answer_is_told_apart() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        for name in ["idle", "deaf", "sick", "odd"] {
            declare(broker.as_ref(), name).await;
        }
        // Consumed and never answered; answered with an error; answered to somebody else.
        let _deaf = Responder::start(fixture.broker(), "deaf", |_| Vec::new()).await;
        let _sick = Responder::start(fixture.broker(), "sick", |request| {
            let mut answer = answer_to(request, "no");
            let error = ErrorAnswer { reason: "disk full".into(), code: Some("E1".into()) };
            mark_error(&mut answer.properties, &error);
            vec![answer]
        })
        .await;
        let _odd = Responder::start(fixture.broker(), "odd", |request| {
            let foreign = Message {
                properties: Properties {
                    correlation_id: Some("somebody else's".into()),
                    ..Properties::default()
                },
                body: b"not yours".to_vec(),
            };
            let none = Message { properties: Properties::default(), body: Vec::new() };
            vec![foreign, none, answer_to(request, "yours"), answer_to(request, "twice")]
        })
        .await;
        let short = |via| RequestOptions { timeout: Duration::from_millis(700), ..options(via) };
        for via in [Via::Best, Via::Queue] {
            let one = |name| bodies(name, ["x"]);
            let (report, _) = ask(broker.as_ref(), one("idle"), short(via)).await;
            assert_eq!(report.verdict(), RequestVerdict::Nobody, "{kind:?} {report:?}");
            let reason = report.entries[0].reason.clone().unwrap();
            assert!(reason.contains("`idle` has no consumer; nothing was sent"), "{reason}");
            assert_eq!(broker.depth(&queue("idle")).await.unwrap().unwrap().ready, 0);

            let (report, _) = ask(broker.as_ref(), one("nowhere"), short(via)).await;
            assert_eq!(report.verdict(), RequestVerdict::Nobody, "{kind:?} {report:?}");

            let wait = RequestOptions { wait: true, ..short(via) };
            let (report, _) = ask(broker.as_ref(), one("idle"), wait).await;
            assert_eq!(report.verdict(), RequestVerdict::Nobody, "{kind:?} {report:?}");
            let reason = report.entries[0].reason.clone().unwrap();
            assert!(reason.contains("reached the queue `idle`, which has no consumer"), "{reason}");
            // It expired with its time, so that nobody works for nobody.
            let gone = || async {
                match broker.depth(&queue("idle")).await.unwrap().unwrap().ready {
                    0 => Ok(()),
                    left => Err(format!("{left} left")),
                }
            };
            support::fixture::within(Duration::from_secs(20), gone).await;

            let (report, _) = ask(broker.as_ref(), one("deaf"), short(via)).await;
            assert_eq!(report.verdict(), RequestVerdict::TimedOut, "{kind:?} {report:?}");

            let (report, heard) = ask(broker.as_ref(), one("sick"), options(via)).await;
            assert_eq!(report.verdict(), RequestVerdict::Error, "{kind:?} {report:?}");
            assert_eq!(report.entries[0].reason.as_deref(), Some("disk full (E1)"));
            assert_eq!(heard.answers, [(1, "no".to_owned())]);

            let (report, heard) = ask(broker.as_ref(), one("odd"), options(via)).await;
            assert_eq!(report.verdict(), RequestVerdict::Answered, "{kind:?} {report:?}");
            assert_eq!(heard.answers, [(1, "yours".to_owned())]);
            assert_eq!(report.foreign, 2, "{kind:?} {via:?}");
            let gather =
                RequestOptions { until: Until::Idle(Duration::from_millis(500)), ..options(via) };
            let (report, heard) = ask(broker.as_ref(), one("odd"), gather).await;
            assert_eq!(report.verdict(), RequestVerdict::Answered, "{kind:?} {report:?}");
            assert_eq!(heard.answers.len(), 2);
            let three = RequestOptions { until: Until::Answers(3), ..short(via) };
            let (report, heard) = ask(broker.as_ref(), one("odd"), three).await;
            assert_eq!(report.verdict(), RequestVerdict::TimedOut, "{kind:?} {report:?}");
            assert_eq!(heard.answers.len(), 2);
        }
        fixture.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_a_full_disk_and_a_stop_leave_nothing_uncounted() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        declare(broker.as_ref(), "jobs").await;
        declare(broker.as_ref(), "deaf").await;
        let _jobs =
            Responder::start(fixture.broker(), "jobs", |r| vec![answer_to(r, text(r))]).await;
        let _deaf = Responder::start(fixture.broker(), "deaf", |_| Vec::new()).await;
        let skip = RequestOptions {
            on_error: nexus::delivery::OnError::Skip,
            window: 4,
            ..options(Via::Best)
        };
        let (report, _) = ask(broker.as_ref(), bodies("jobs", ["a", "bad", "b"]), skip).await;
        assert_eq!((report.answered, report.skipped), (2, 1), "{kind:?}");
        assert_eq!(report.verdict(), RequestVerdict::Partly);

        // An answer that cannot be written stays in its queue for a while, and is said to be there.
        let mut full = Heard { fail: true, ..Heard::default() };
        let ids = Ids { clock: Arc::new(SystemClock), random: fastrand::Rng::new() };
        let source = bodies("jobs", ["a"]);
        let report =
            request(broker.as_ref(), source, options(Via::Queue), ids, &mut full, &Stop::new())
                .await
                .unwrap();
        assert_eq!(report.ended, PublishEnd::Failed);
        let left = queues(broker.as_ref(), "nexus.reply.").await;
        let said = report.left_behind.unwrap();
        assert!(left.len() == 1 && said.contains(&left[0]), "{kind:?} {said}");
        let back = || async {
            match broker.depth(&queue(&left[0])).await.unwrap().unwrap().ready {
                1 => Ok(()),
                other => Err(format!("{other} there")),
            }
        };
        support::fixture::within(Duration::from_secs(20), back).await;

        let stop = Stop::new();
        let asking = ask_until(broker.as_ref(), bodies("deaf", ["a"]), options(Via::Best), &stop);
        let stopping = async {
            let taken = || async {
                match _deaf.taken() {
                    0 => Err("not yet".to_owned()),
                    _ => Ok(()),
                }
            };
            support::fixture::within(Duration::from_secs(20), taken).await;
            stop.ask(Wish::Finish);
        };
        let ((report, _), ()) = tokio::join!(asking, stopping);
        assert_eq!(report.verdict(), RequestVerdict::Stopped, "{kind:?} {report:?}");
        assert_eq!(report.entries[0].fate, Fate::Stopped);
        fixture.stop().await;
    }
}

/// Asks, cuts every connection of the vhost once the request has been taken, and only then lets it be
/// answered: what the responder says to the first request goes nowhere.
async fn cut_while_asking(
    kind: Kind,
    via: Via,
    retries: u32,
) -> Option<(RequestReport, Heard, Vec<Delivery>)> {
    let fixture = Fixture::start(kind).await?;
    assert_eq!(fixture.broker().identity().product, Product::RabbitMq);
    let asker = nexus::broker::connect::connect(fixture.target.clone(), Arc::new(SystemClock), 2)
        .await
        .unwrap();
    declare(asker.as_ref(), "jobs").await;
    let requests = Arc::new(Mutex::new(Vec::<Delivery>::new()));
    let seen = Arc::clone(&requests);
    let responder = Responder::start(fixture.broker(), "jobs", move |request| {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        let again = seen.len() > 1;
        again.then(|| answer_to(request, "at last")).into_iter().collect()
    })
    .await;
    let options = RequestOptions { retries, timeout: Duration::from_secs(25), ..options(via) };
    let asking = ask(asker.as_ref(), bodies("jobs", ["x"]), options);
    let cutting = async {
        let taken = || async {
            match responder.taken() {
                0 => Err("not yet".to_owned()),
                _ => Ok(()),
            }
        };
        support::fixture::within(Duration::from_secs(20), taken).await;
        // Responder and asker: one to publish and one to consume each, unless answers come directly.
        let vhost = fixture.vhost().unwrap();
        let expected = if via == Via::Queue { 4 } else { 3 };
        let cut = tokio::task::block_in_place(|| vhost.cut_connections(expected));
        assert!(cut >= expected, "{cut}");
        if retries == 0 && via == Via::Queue {
            let request = requests.lock().unwrap()[0].clone();
            let reply_to = request.message.properties.reply_to.clone().unwrap();
            let mut publisher =
                fixture.broker().publisher(PublisherOptions::default()).await.unwrap();
            let publish = Publish {
                exchange: ExchangeName::default_exchange(),
                routing_key: RoutingKey::new(reply_to).unwrap(),
                message: answer_to(&request, "in the meantime"),
            };
            publisher.send(publish).await.unwrap();
            publisher.outcome().await.unwrap();
        }
    };
    let ((report, heard), ()) = tokio::join!(asking, cutting);
    drop(responder);
    let left = queues(asker.as_ref(), "nexus.reply.").await;
    assert_eq!(left, Vec::<String>::new());
    asker.close().await.unwrap();
    fixture.stop().await;
    let requests = requests.lock().unwrap().clone();
    Some((report, heard, requests))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_under_a_question_is_doubt_unless_it_may_be_asked_again() {
    for kind in [Kind::RabbitMq310, Kind::RabbitMq40] {
        let Some((report, heard, _)) = cut_while_asking(kind, Via::Direct, 0).await else {
            continue;
        };
        assert_eq!(report.verdict(), RequestVerdict::Unknown, "{kind:?} {report:?}");
        let reason = report.entries[0].reason.clone().unwrap();
        assert!(reason.contains("somebody may have done the work"), "{reason}");
        assert!(heard.answers.is_empty());

        let (report, heard, requests) = cut_while_asking(kind, Via::Direct, 2).await.unwrap();
        assert_eq!(report.verdict(), RequestVerdict::Answered, "{kind:?} {report:?}");
        assert_eq!(heard.answers, [(1, "at last".to_owned())]);
        assert!(requests.len() >= 2 && report.retried == 1, "{report:?}");
        // The same ids, so that whoever works can tell.
        let ids = |request: &Delivery| {
            let properties = &request.message.properties;
            (properties.message_id.clone(), properties.correlation_id.clone())
        };
        assert!(ids(&requests[0]).0.is_some());
        assert!(requests.iter().all(|request| ids(request) == ids(&requests[0])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_a_queue_outlives_the_connection() {
    for kind in [Kind::RabbitMq310, Kind::RabbitMq40] {
        let Some((report, heard, _)) = cut_while_asking(kind, Via::Queue, 0).await else {
            continue;
        };
        assert_eq!(report.verdict(), RequestVerdict::Answered, "{kind:?} {report:?}");
        let first = &heard.answers[0].1;
        assert!(first == "in the meantime" || first == "at last", "{first}");
    }
}

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::new(name).unwrap()
}

async fn declare_exchange(
    broker: &dyn Broker,
    name: &str,
    kind: ExchangeKind,
    alternate: Option<&str>,
) {
    let mut definition = ExchangeDefinition::durable(exchange(name), kind);
    if let Some(alternate) = alternate {
        definition.arguments.insert("alternate-exchange", alternate);
    }
    broker.change(&Change::DeclareExchange(definition)).await.unwrap();
}

async fn bind(broker: &dyn Broker, source: &str, to: &str, key: &str) {
    let binding = BindingDefinition {
        source: exchange(source),
        destination: Destination::Queue(queue(to)),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: FieldTable::new(),
    };
    broker.change(&Change::Bind(binding)).await.unwrap();
}

/// Publishes and gives back what the broker says.
async fn publish_to(
    broker: &dyn Broker,
    to: &str,
    key: &str,
    bodies: impl IntoIterator<Item = String>,
    headers: FieldTable,
) -> Vec<Outcome> {
    let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
    let mut outcomes = Vec::new();
    for body in bodies {
        let properties = Properties { headers: Some(headers.clone()), ..Properties::default() };
        let publish = Publish {
            exchange: exchange(to),
            routing_key: RoutingKey::new(key).unwrap(),
            message: Message { properties, body: body.into_bytes() },
        };
        publisher.send(publish).await.unwrap();
    }
    while let Some((_, outcome)) = publisher.outcome().await {
        outcomes.push(outcome);
    }
    publisher.close().await.unwrap();
    outcomes
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl SinkTarget for Buffer {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }
    fn commit(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn records(&self) -> Vec<Record> {
        let bytes = self.0.lock().unwrap().clone();
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| parse_record(line).unwrap())
            .collect()
    }

    fn bodies(&self) -> Vec<String> {
        let body = |record: Record| String::from_utf8(record.message.body).unwrap();
        self.records().into_iter().map(body).collect()
    }
}

struct Tapped {
    report: TapReport,
    written: Buffer,
}

async fn planned(broker: &dyn Broker, targets: &[&str], headers: &FieldTable) -> TapPlan {
    let snapshot = broker.inspect().await.unwrap();
    let view = TopologyView::of_snapshot(&snapshot);
    let targets: Vec<TapTarget> = targets.iter().map(|text| TapTarget::parse(text)).collect();
    plan(&targets, headers, false, Some(&view)).unwrap()
}

fn tap_queue(length: u64, expires: Duration) -> TapQueue {
    TapQueue::named("the tester@host", fastrand::u32(..), length, expires).unwrap()
}

/// Taps while `work` is done, which begins once the tap is bound.
async fn tapped(
    broker: &Arc<dyn Broker>,
    targets: &[&str],
    headers: &FieldTable,
    queue: &TapQueue,
    options: ConsumeOptions,
    work: impl Future<Output = ()>,
) -> Tapped {
    let plan = planned(broker.as_ref(), targets, headers).await;
    let written = Buffer::default();
    let sink = Sink::new(Format::Ndjson, Box::new(written.clone()));
    let stop = Stop::new();
    let clock = Arc::new(SystemClock);
    let mut progress = |_| {};
    let tapping = tap(Arc::clone(broker), &plan, queue, options, sink, clock, &stop, &mut progress);
    let working = async {
        let bound = || async {
            let snapshot = broker.inspect().await.unwrap();
            let to = Destination::Queue(queue.name.clone());
            let bound = snapshot.bindings.iter().filter(|binding| binding.destination == to);
            match bound.count() {
                many if many == plan.bindings.len() => Ok(()),
                few => Err(format!("{few} bindings of {}", plan.bindings.len())),
            }
        };
        support::fixture::within(Duration::from_secs(20), bound).await;
        work.await;
    };
    let (report, ()) = tokio::join!(tapping, working);
    Tapped { report: report.unwrap(), written }
}

fn numbered(numbers: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    numbers.map(|number| number.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_sees_copies_of_everything_and_consumers_lose_nothing() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        let b = broker.as_ref();
        for (name, kind) in [
            ("t", ExchangeKind::Topic),
            ("f", ExchangeKind::Fanout),
            ("d", ExchangeKind::Direct),
            ("h", ExchangeKind::Headers),
        ] {
            declare_exchange(b, name, kind, None).await;
        }
        declare(b, "q").await;
        bind(b, "t", "q", "a.*").await;
        let none = FieldTable::new();
        let queue_of = tap_queue(1000, Duration::from_secs(60));
        assert!(queue_of.name.as_str().starts_with("nexus.tap.the-tester@host."));
        let all = async {
            publish_to(b, "t", "a.b", numbered(0..3), FieldTable::new()).await;
            publish_to(b, "f", "", numbered(3..4), FieldTable::new()).await;
            publish_to(b, "d", "one", numbered(4..5), FieldTable::new()).await;
            publish_to(b, "h", "", numbered(5..6), FieldTable::new().with("a", 1)).await;
        };
        let options = ConsumeOptions { count: Some(6), ..ConsumeOptions::default() };
        let Tapped { report, written } =
            tapped(&broker, &["t", "f", "d:one", "h"], &none, &queue_of, options, all).await;
        assert_eq!(report.consumed.ended, ConsumeEnd::Count, "{kind:?} {report:?}");
        assert_eq!(written.bodies(), ["0", "1", "2", "3", "4", "5"], "{kind:?}");
        assert_eq!((report.left_behind.clone(), report.gaps.len()), (None, 0));
        // The queue that was there before got its own.
        assert_eq!(b.depth(&queue("q")).await.unwrap().unwrap().ready, 3);
        assert_eq!(b.depth(&queue_of.name).await.unwrap(), None);

        // By header values and by condition: what is not wanted is let go, and not held.
        for (how, wanted) in [("all", vec!["2"]), ("any", vec!["1", "2"])] {
            let headers = FieldTable::new().with("a", 1).with("b", 2).with("x-match", how);
            let queue_of = tap_queue(1000, Duration::from_secs(60));
            let work = async {
                for (body, headers) in [
                    ("0", FieldTable::new().with("a", 7)),
                    ("1", FieldTable::new().with("a", 1)),
                    ("2", FieldTable::new().with("a", 1).with("b", 2)),
                ] {
                    publish_to(b, "h", "", [body.to_owned()], headers).await;
                }
            };
            let count = Some(wanted.len() as u64);
            let options = ConsumeOptions { count, ..ConsumeOptions::default() };
            let tapped = tapped(&broker, &["h"], &headers, &queue_of, options, work).await;
            assert_eq!(tapped.written.bodies(), wanted, "{kind:?} {how}");
        }
        // An internal exchange takes nothing from clients, and can be tapped all the same.
        let mut inner = ExchangeDefinition::durable(exchange("inner"), ExchangeKind::Fanout);
        inner.internal = true;
        b.change(&Change::DeclareExchange(inner)).await.unwrap();
        let binding = BindingDefinition {
            source: exchange("d"),
            destination: Destination::Exchange(exchange("inner")),
            routing_key: RoutingKey::new("in").unwrap(),
            arguments: FieldTable::new(),
        };
        b.change(&Change::Bind(binding)).await.unwrap();
        let queue_of = tap_queue(1000, Duration::from_secs(60));
        let options = ConsumeOptions { count: Some(1), ..ConsumeOptions::default() };
        let work = async {
            publish_to(b, "d", "in", numbered(7..8), FieldTable::new()).await;
        };
        let inside = tapped(&broker, &["inner"], &none, &queue_of, options, work).await;
        assert_eq!(inside.written.bodies(), ["7"], "{kind:?}");

        let queue_of = tap_queue(5000, Duration::from_secs(60));
        let filter = Some(Filter::parse("body % 100 == 99").unwrap());
        let options = ConsumeOptions { count: Some(30), filter, ..ConsumeOptions::default() };
        let work = async {
            publish_to(b, "t", "x", numbered(0..3000), FieldTable::new()).await;
        };
        let tapped = tapped(&broker, &["t"], &none, &queue_of, options, work).await;
        assert_eq!(tapped.report.consumed.written, 30, "{kind:?} {:?}", tapped.report);
        assert_eq!(tapped.report.seen, 3000);
        fixture.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_keeps_nothing_from_an_alternate_exchange() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        let b = broker.as_ref();
        declare_exchange(b, "rest", ExchangeKind::Fanout, None).await;
        declare_exchange(b, "main", ExchangeKind::Topic, Some("rest")).await;
        for (name, from, key) in [("q", "main", "a.*"), ("unrouted", "rest", "")] {
            declare(b, name).await;
            bind(b, from, name, key).await;
        }
        let queue_of = tap_queue(1000, Duration::from_secs(60));
        let options = ConsumeOptions { count: Some(2), ..ConsumeOptions::default() };
        let work = async {
            publish_to(b, "main", "a.b", numbered(0..1), FieldTable::new()).await;
            publish_to(b, "main", "other", numbered(1..2), FieldTable::new()).await;
        };
        let none = FieldTable::new();
        let tapped = tapped(&broker, &["main"], &none, &queue_of, options, work).await;
        let mut bodies = tapped.written.bodies();
        bodies.sort();
        assert_eq!(bodies, ["0", "1"], "{kind:?}");
        for name in ["q", "unrouted"] {
            assert_eq!(b.depth(&queue(name)).await.unwrap().unwrap().ready, 1, "{kind:?} {name}");
        }
        fixture.stop().await;
    }
}

/// Takes nothing until it is let.
struct Gate(Buffer, std::sync::mpsc::Receiver<()>, bool);

impl SinkTarget for Gate {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !std::mem::replace(&mut self.2, true) {
            let _ = self.1.recv();
        }
        self.0.put(bytes)
    }
    fn commit(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tap_drops_its_oldest_and_says_so() {
    for kind in KINDS {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        let b = broker.as_ref();
        declare_exchange(b, "t", ExchangeKind::Topic, None).await;
        let plan = planned(b, &["t"], &FieldTable::new()).await;
        let queue_of = tap_queue(100, Duration::from_secs(60));
        let (open, gate) = std::sync::mpsc::channel();
        let written = Buffer::default();
        let sink = Sink::new(Format::Ndjson, Box::new(Gate(written.clone(), gate, false)));
        let options =
            ConsumeOptions { idle: Some(Duration::from_secs(3)), ..ConsumeOptions::default() };
        let (stop, clock) = (Stop::new(), Arc::new(SystemClock));
        let mut progress = |_| {};
        let tapping =
            tap(Arc::clone(&broker), &plan, &queue_of, options, sink, clock, &stop, &mut progress);
        let working = async {
            let there = || async {
                match b.depth(&queue_of.name).await.unwrap() {
                    Some(depth) if depth.consumers > 0 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            };
            support::fixture::within(Duration::from_secs(20), there).await;
            // Until the tap is bound, a message comes back.
            let bound = || async {
                match &publish_to(b, "t", "k", numbered(0..1), FieldTable::new()).await[..] {
                    [Outcome::Confirmed] => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            };
            support::fixture::within(Duration::from_secs(20), bound).await;
            publish_to(b, "t", "k", numbered(1..4000), FieldTable::new()).await;
            // Long enough for a look at the queue, which is full now and stays so; nothing tells when
            // it has been looked at.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            open.send(()).unwrap();
        };
        let (report, ()) = tokio::join!(tapping, working);
        let report = report.unwrap();
        assert!(report.was_full, "{kind:?} {report:?}");
        assert!(report.consumed.written < 4000, "{kind:?} {report:?}");
        if kind != Kind::EmbeddedLike40 {
            let dropped = report.dropped.unwrap();
            assert_eq!(dropped, 4000 - report.seen, "{kind:?} {report:?}");
        }
        assert_eq!(report.left_behind, None);
        fixture.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_goes_on_after_a_lost_connection_without_a_gap() {
    for kind in [Kind::RabbitMq310, Kind::RabbitMq40] {
        let Some(fixture) = Fixture::start(kind).await else { continue };
        let broker = fixture.broker();
        let other =
            nexus::broker::connect::connect(fixture.target.clone(), Arc::new(SystemClock), 2)
                .await
                .unwrap();
        declare_exchange(broker.as_ref(), "t", ExchangeKind::Topic, None).await;
        let queue_of = tap_queue(1000, Duration::from_secs(60));
        let options = ConsumeOptions { count: Some(200), ..ConsumeOptions::default() };
        let work = async {
            let o = other.as_ref();
            publish_to(o, "t", "k", numbered(0..100), FieldTable::new()).await;
            let vhost = fixture.vhost().unwrap();
            // The tap's connection to consume, the one it looks around with, and the other's.
            let cut = tokio::task::block_in_place(|| vhost.cut_connections(3));
            assert!(cut >= 3, "{cut}");
            // The tap collects while its reader is away.
            let outcomes = publish_to(o, "t", "k", numbered(100..200), FieldTable::new()).await;
            assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Confirmed), "{outcomes:?}");
        };
        let none = FieldTable::new();
        let Tapped { report, written } =
            tapped(&broker, &["t"], &none, &queue_of, options, work).await;
        assert_eq!(report.consumed.ended, ConsumeEnd::Count, "{kind:?} {report:?}");
        assert_eq!((report.left_behind.clone(), report.gaps.len()), (None, 0), "{report:?}");
        let mut numbers: Vec<u32> =
            written.bodies().iter().map(|body| body.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers.dedup();
        // What was written and not yet acked comes again, and counts twice.
        let twice = 200 - numbers.len() as u64;
        assert!(twice <= report.consumed.repeats_possible, "{report:?}");
        other.close().await.unwrap();
        fixture.stop().await;
    }
}

/// A broker whose consumers lose their connection after the first delivery, and find their queue gone
/// when they come back.
#[derive(Debug)]
struct Forgetful(Arc<dyn Broker>, Arc<std::sync::atomic::AtomicU32>);

#[async_trait::async_trait]
impl Broker for Forgetful {
    fn identity(&self) -> &BrokerIdentity {
        self.0.identity()
    }
    async fn publisher(
        &self,
        options: PublisherOptions,
    ) -> Result<Box<dyn Publisher>, BrokerError> {
        self.0.publisher(options).await
    }
    async fn consumer(
        &self,
        queue: &QueueName,
        options: ConsumerOptions,
    ) -> Result<Box<dyn Consumer>, BrokerError> {
        let inner = self.0.consumer(queue, options).await?;
        if self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst) > 0 {
            return Ok(inner);
        }
        let broker = Arc::clone(&self.0);
        Ok(Box::new(Forgotten { inner, broker, queue: queue.clone(), taken: false }))
    }
    async fn inspect(&self) -> Result<Snapshot, BrokerError> {
        self.0.inspect().await
    }
    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        self.0.depth(queue).await
    }
    async fn has_exchange(&self, exchange: &ExchangeName) -> Result<bool, BrokerError> {
        self.0.has_exchange(exchange).await
    }
    async fn change(&self, change: &Change) -> Result<Changed, BrokerError> {
        self.0.change(change).await
    }
    async fn lock(&self, name: &str, holder: &LockHolder) -> Result<Box<dyn Lock>, LockError> {
        self.0.lock(name, holder).await
    }
    async fn close(&self) -> Result<(), BrokerError> {
        self.0.close().await
    }
}

#[derive(Debug)]
struct Forgotten {
    inner: Box<dyn Consumer>,
    broker: Arc<dyn Broker>,
    queue: QueueName,
    taken: bool,
}

#[async_trait::async_trait]
impl Consumer for Forgotten {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        if self.taken {
            let name = self.queue.clone();
            let delete = Change::DeleteQueue { name, if_empty: false, if_unused: false };
            self.broker.change(&delete).await.unwrap();
            return Err(BrokerError::new(ErrorKind::NotFound, "consume", "the queue is gone"));
        }
        let delivery = self.inner.next().await?;
        self.taken = true;
        Ok(delivery)
    }
    fn ready(&mut self) -> Option<Delivery> {
        None
    }
    async fn settle(&mut self, tag: DeliveryTag, how: Settlement) -> Result<Settled, BrokerError> {
        self.inner.settle(tag, how).await
    }
    async fn flush(&mut self) -> Result<(), BrokerError> {
        self.inner.flush().await
    }
    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        self.inner.close().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_that_is_gone_after_a_lost_connection_is_bound_again_and_the_gap_is_said() {
    let fixture = Fixture::start(Kind::EmbeddedLike40).await.unwrap();
    let subscriptions = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let broker: Arc<dyn Broker> = Arc::new(Forgetful(fixture.broker(), Arc::clone(&subscriptions)));
    declare_exchange(broker.as_ref(), "t", ExchangeKind::Topic, None).await;
    let queue_of = tap_queue(1000, Duration::from_secs(60));
    let options = ConsumeOptions { count: Some(2), ..ConsumeOptions::default() };
    let work = async {
        for body in ["before", "after"] {
            // Confirmed means that the tap is bound, again.
            let bound = || async {
                let body = [body.to_owned()];
                match &publish_to(broker.as_ref(), "t", "k", body, FieldTable::new()).await[..] {
                    [Outcome::Confirmed] => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            };
            support::fixture::within(Duration::from_secs(20), bound).await;
            if body == "before" {
                let gone = || async {
                    match subscriptions.load(std::sync::atomic::Ordering::SeqCst) {
                        1 => Err("not yet".to_owned()),
                        _ => Ok(()),
                    }
                };
                support::fixture::within(Duration::from_secs(20), gone).await;
            }
        }
    };
    let none = FieldTable::new();
    let tapping = tapped(&broker, &["t"], &none, &queue_of, options, work);
    let Tapped { report, written } =
        tokio::time::timeout(Duration::from_secs(60), tapping).await.unwrap();
    assert_eq!(report.consumed.ended, ConsumeEnd::Count, "{report:?}");
    assert_eq!(report.gaps.len(), 1, "{report:?}");
    assert!(report.gaps[0].from <= report.gaps[0].until);
    assert_eq!(written.bodies()[0], "before");
    assert_eq!(report.left_behind, None);
    fixture.stop().await;
}

/// A handler may answer before the worker waits for anything; nothing else comes then to begin the next
/// message of the same workflow.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_a_workflow_begins_when_the_one_before_is_done_at_once() {
    let fixture = Fixture::start(Kind::EmbeddedLike40).await.unwrap();
    let broker = fixture.broker();
    declare(broker.as_ref(), "jobs").await;
    let workflow = FieldTable::new().with("x-nexus-workflow", "one");
    let bodies = (0..5).map(|n: u32| n.to_string());
    publish_to(broker.as_ref(), "", "jobs", bodies, workflow).await;
    let signer = Signer { queue: queue("jobs"), host: "here".to_owned(), login: None };
    let worker = Worker::new(signer, Arc::new(SystemClock), fastrand::Rng::with_seed(1));
    let mut handler = Builtin::new(Reply::Echo, "jobs");
    let options = WorkOptions { count: Some(5), ..WorkOptions::default() };
    let (stop, jobs) = (Stop::new(), queue("jobs"));
    let mut progress = |_: &WorkReport, _| {};
    let work = work(broker.as_ref(), &jobs, options, worker, &mut handler, &stop, &mut progress);
    let report = tokio::time::timeout(Duration::from_secs(20), work).await.unwrap().unwrap();
    assert_eq!((report.ended, report.done), (WorkEnd::Count, 5), "{report:?}");
    fixture.stop().await;
}
