//! The embedded broker when its processes are killed.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::id::RoutingKey;
use crate::base::time::SystemClock;
use crate::broker::definition::QueueDefinition;
use crate::broker::port::{Delivery, Outcome, Publish, Settlement};
use crate::message::{FieldValue, Message, Properties};

const ROLE: &str = "NEXUS_EMBEDDED_CHILD";

fn queue() -> QueueName {
    QueueName::new("q").unwrap()
}

async fn open(path: &Path) -> Arc<EmbeddedBroker> {
    let options = EmbeddedOptions {
        like: Version::new(4, 0, 5),
        vhost: VhostName::new("/").unwrap(),
        timeout: Duration::from_secs(30),
    };
    EmbeddedBroker::open(path, options, Arc::new(SystemClock)).await.unwrap()
}

async fn declare(broker: &EmbeddedBroker, kind: QueueType) {
    let change = Change::DeclareQueue(QueueDefinition::durable(queue(), kind));
    broker.change(&change).await.unwrap();
}

fn numbered(n: u64) -> Publish {
    Publish {
        exchange: ExchangeName::default_exchange(),
        routing_key: RoutingKey::new("q").unwrap(),
        message: Message {
            properties: Properties { delivery_mode: Some(2), ..Properties::default() },
            body: format!("{n:<2000}").into_bytes(),
        },
    }
}

fn number_of(delivery: &Delivery) -> u64 {
    String::from_utf8_lossy(&delivery.message.body).trim().parse().unwrap()
}

fn say(n: u64) {
    writeln!(std::io::stdout(), "\nsaid {n}").unwrap();
}

async fn publish_all(broker: &EmbeddedBroker, count: u64, said: impl Fn(u64)) {
    let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
    for n in 0..count {
        publisher.send(numbered(n)).await.unwrap();
        while let Some((ticket, outcome)) = publisher.ready_outcome() {
            assert_eq!(outcome, Outcome::Confirmed);
            said(ticket.0);
        }
    }
    while let Some((ticket, outcome)) = publisher.outcome().await {
        assert_eq!(outcome, Outcome::Confirmed);
        said(ticket.0);
    }
}

/// Takes what comes until nothing has come for a while.
async fn take_all(broker: &EmbeddedBroker, prefetch: u16, said: impl Fn(u64)) -> Vec<Delivery> {
    let options = ConsumerOptions { prefetch, ..ConsumerOptions::default() };
    let mut consumer = broker.consumer(&queue(), options).await.unwrap();
    let mut taken = Vec::new();
    while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
        let delivery = delivery.unwrap();
        said(number_of(&delivery));
        consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
        taken.push(delivery);
    }
    consumer.flush().await.unwrap();
    consumer.close().await.unwrap();
    taken
}

/// Not a test by itself: what the children of the tests below do.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a child of a test is told its role by environment")]
async fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let broker = open(Path::new(&std::env::var("NEXUS_EMBEDDED_PATH").unwrap())).await;
    match role.as_str() {
        "publish" => publish_all(&broker, 1_000_000, say).await,
        "hold" => {
            let options = ConsumerOptions { prefetch: 50, ..ConsumerOptions::default() };
            let mut consumer = broker.consumer(&queue(), options).await.unwrap();
            let mut held = Vec::new();
            for _ in 0..50 {
                held.push(consumer.next().await.unwrap());
            }
            for delivery in held.iter().step_by(2) {
                consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
            }
            consumer.flush().await.unwrap();
            say(0);
            consumer.next().await.unwrap();
            std::future::pending::<()>().await;
        }
        "take" => {
            take_all(&broker, 20, say).await;
        }
        "lock" => {
            let holder = LockHolder { who: "child".into(), since: SystemClock.now() };
            let _lock = broker.lock("l", &holder).await.unwrap();
            say(0);
            std::future::pending::<()>().await;
        }
        other => panic!("{other}"),
    }
}

fn spawn(role: &str, path: &Path) -> (Child, impl Iterator<Item = u64> + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broker::embedded::crash_tests::child", "--nocapture"])
        .env(ROLE, role)
        .env("NEXUS_EMBEDDED_PATH", path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stdout: ChildStdout = child.stdout.take().unwrap();
    let said = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("said ")?.parse().ok());
    (child, said)
}

#[tokio::test]
async fn a_killed_publisher_loses_nothing_that_was_confirmed() {
    for (kind, kill_after) in [(QueueType::Classic, 10), (QueueType::Quorum, 2000)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        declare(&*open(&path).await, kind).await;
        let (mut child, said) = spawn("publish", &path);
        let mut confirmed = Vec::new();
        for n in said {
            confirmed.push(n);
            if confirmed.len() == kill_after {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let broker = open(&path).await;
        let numbers: Vec<u64> =
            take_all(&broker, 1000, |_| ()).await.iter().map(number_of).collect();
        assert!(numbers.is_sorted(), "in order, each once");
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
        let found: BTreeSet<u64> = numbers.into_iter().collect();
        assert!(confirmed.iter().all(|n| found.contains(n)));
    }
}

#[tokio::test]
async fn what_a_killed_consumer_held_comes_to_one_that_waits_in_order_and_marked() {
    for kind in [QueueType::Classic, QueueType::Quorum] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let broker = open(&path).await;
        declare(&broker, kind).await;
        publish_all(&broker, 50, |_| ()).await;
        let (mut child, mut said) = spawn("hold", &path);
        assert_eq!(said.next(), Some(0));
        let mut waiting = broker.consumer(&queue(), ConsumerOptions::default()).await.unwrap();
        assert!(waiting.ready().is_none());
        assert_eq!(broker.depth(&queue()).await.unwrap().unwrap().consumers, 2);
        child.kill().unwrap();
        child.wait().unwrap();
        for n in (1..50).step_by(2) {
            let next = tokio::time::timeout(Duration::from_secs(10), waiting.next());
            let delivery = next.await.unwrap().unwrap();
            assert_eq!((number_of(&delivery), delivery.redelivered), (n, true));
            let count = delivery.message.properties.header("x-delivery-count");
            let expected = FieldValue::Int64(1);
            assert_eq!(count, (kind == QueueType::Quorum).then_some(&expected));
        }
        assert_eq!(broker.depth(&queue()).await.unwrap().unwrap().consumers, 1);
    }
}

#[tokio::test]
async fn no_message_goes_to_two_living_consumers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let broker = open(&path).await;
    declare(&broker, QueueType::Classic).await;
    publish_all(&broker, 3000, |_| ()).await;
    let (mut killed, mut said_by_killed) = spawn("take", &path);
    let (mut first, said_by_first) = spawn("take", &path);
    let (mut second, said_by_second) = spawn("take", &path);
    let readers = [
        std::thread::spawn(move || said_by_first.collect::<Vec<u64>>()),
        std::thread::spawn(move || said_by_second.collect::<Vec<u64>>()),
    ];
    let mut taken: BTreeSet<u64> = said_by_killed.by_ref().take(100).collect();
    killed.kill().unwrap();
    killed.wait().unwrap();
    taken.extend(said_by_killed);
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    let living: Vec<u64> = readers.into_iter().flat_map(|r| r.join().unwrap()).collect();
    let distinct: BTreeSet<u64> = living.iter().copied().collect();
    assert_eq!(distinct.len(), living.len(), "each at most once among the living");
    taken.extend(distinct);
    assert_eq!(taken.len(), 3000);
    assert_eq!(broker.depth(&queue()).await.unwrap().unwrap().ready, 0);
}

#[tokio::test]
async fn a_lock_dies_with_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.db");
    let broker = open(&path).await;
    let (mut child, mut said) = spawn("lock", &path);
    assert_eq!(said.next(), Some(0));
    let holder = LockHolder { who: "parent".into(), since: SystemClock.now() };
    match broker.lock("l", &holder).await {
        Err(LockError::Held { holder: Some(by) }) => assert_eq!(by.who, "child"),
        result => panic!("{result:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    broker.lock("l", &holder).await.unwrap().release().await.unwrap();
}
