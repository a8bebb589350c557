//! Asking, tapping, recording and playing through the real brokers: the embedded one and both RabbitMQ
//! versions.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::base::time::SystemClock;
use nexus::broker::{Broker, Change, Delivery, Product, Publish, QueueDefinition, QueueType};
use nexus::delivery::publish::PublishEnd;
use nexus::delivery::request::{
    Answer, Fate, Ids, Listener, RequestOptions, RequestReport, RequestVerdict, Stray, Until, Via,
    request,
};
use nexus::delivery::source::{BadLine, Item, Read1, Source};
use nexus::delivery::stop::{Stop, Wish};
use nexus::message::reply::{ErrorAnswer, mark_error};
use nexus::message::{Message, Properties};
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
            let publisher = || nexus::broker::PublisherOptions::default();
            let mut publisher = fixture.broker().publisher(publisher()).await.unwrap();
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
