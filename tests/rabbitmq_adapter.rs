//! The RabbitMQ adapter against real nodes of both supported versions.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails has to fail its test, and a skipped test says so"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nexus::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use nexus::base::time::Timestamp;
use nexus::broker::rabbitmq::{ConnectOptions, RabbitBroker, TlsOptions};
use nexus::broker::{
    ApplyTo, BindingDefinition, Broker, BrokerError, Change, Changed, Consumer, ConsumerOptions,
    Delivery, Destination, ErrorKind, ExchangeDefinition, ExchangeKind, LockError, LockHolder,
    Outcome, PolicyDefinition, Publish, PublisherOptions, QueueDefinition, QueueType, Settled,
    Settlement, Ticket,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use nexus::resilience::CircuitSettings;
use support::certificate::{Authority, tls_before};
use support::{Node, Vhost, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(10);

fn options(url: &str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.parse().unwrap());
    options.timeout = PATIENCE;
    options
}

async fn connect(vhost: &Vhost) -> Arc<dyn Broker> {
    let mut options = options(&vhost.amqp_url());
    options.management = Some(vhost.management_url().parse().unwrap());
    RabbitBroker::connect(options).await.unwrap()
}

async fn refused(options: ConnectOptions) -> BrokerError {
    match RabbitBroker::connect(options).await {
        Ok(_) => panic!("connected"),
        Err(error) => {
            assert!(!format!("{error} {error:?}").contains("guest:guest"), "{error:?}");
            error
        }
    }
}

fn queue(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::new(name).unwrap()
}

fn to_queue(name: &str, body: impl Into<Vec<u8>>) -> Publish {
    Publish {
        exchange: ExchangeName::default_exchange(),
        routing_key: RoutingKey::new(name).unwrap(),
        message: Message {
            properties: Properties { delivery_mode: Some(2), ..Properties::default() },
            body: body.into(),
        },
    }
}

fn to_exchange(name: &str, key: &str, body: impl Into<Vec<u8>>) -> Publish {
    Publish { exchange: exchange(name), ..to_queue(key, body) }
}

async fn declare(broker: &dyn Broker, definition: QueueDefinition) {
    broker.change(&Change::DeclareQueue(definition)).await.unwrap();
}

fn classic(name: &str) -> QueueDefinition {
    QueueDefinition::durable(queue(name), QueueType::Classic)
}

fn quorum(name: &str) -> QueueDefinition {
    QueueDefinition::durable(queue(name), QueueType::Quorum)
}

/// Publishes all and gives every outcome, by ticket.
async fn publish_all(
    broker: &dyn Broker,
    messages: impl IntoIterator<Item = Publish>,
) -> BTreeMap<Ticket, Outcome> {
    let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
    for message in messages {
        publisher.send(message).await.unwrap();
    }
    let mut outcomes = BTreeMap::new();
    while let Some((ticket, outcome)) = publisher.outcome().await {
        assert!(outcomes.insert(ticket, outcome).is_none(), "{ticket:?} has two outcomes");
    }
    publisher.close().await.unwrap();
    outcomes
}

async fn take(consumer: &mut dyn Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().unwrap());
    }
    taken
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < end, "never seen: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Between a client and a node: hands everything on until it is told to stop.
struct Proxy {
    port: u16,
    stopped: Arc<AtomicBool>,
    wake: Arc<tokio::sync::Notify>,
}

impl Proxy {
    async fn before(url: &str) -> Proxy {
        let target = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stopped = Arc::new(AtomicBool::new(false));
        let wake = Arc::new(tokio::sync::Notify::new());
        let (flag, notify) = (Arc::clone(&stopped), Arc::clone(&wake));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&target).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                for (from, to) in [(from_client, to_server), (from_server, to_client)] {
                    tokio::spawn(forward(from, to, Arc::clone(&flag), Arc::clone(&notify)));
                }
            }
        });
        Proxy { port, stopped, wake }
    }

    /// `url` with this proxy's port.
    fn url(&self, url: &str) -> String {
        let (before, rest) = url.split_once('@').unwrap();
        let (_, path) = rest.split_once('/').unwrap();
        format!("{before}@127.0.0.1:{}/{path}", self.port)
    }

    /// From now on nothing goes either way, and no connection ends: a node that hangs.
    fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Ends every connection, and lets new ones through.
    fn cut(&self) {
        self.wake.notify_waiters();
        self.stopped.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.wake.notify_waiters();
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    stopped: Arc<AtomicBool>,
    end: Arc<tokio::sync::Notify>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let ended = end.notified();
    tokio::pin!(ended);
    loop {
        let read = tokio::select! {
            () = &mut ended => return,
            read = from.read(&mut buffer) => read,
        };
        let Ok(bytes @ 1..) = read else { return };
        if stopped.load(Ordering::SeqCst) {
            // Both halves stay open and silent.
            ended.await;
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[test]
fn a_vhost_of_ones_own_comes_and_goes() {
    for node in Node::all() {
        let vhost = node.vhost("guard");
        let path = format!("/api/vhosts/{}", vhost.name);
        assert_eq!(node.http("GET", &path, None).status, 200);
        drop(vhost);
        assert_eq!(node.http("GET", &path, None).status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_identity_comes_with_the_greeting() {
    for node in Node::all() {
        let vhost = node.vhost("identity");
        let broker = RabbitBroker::connect(options(&vhost.amqp_url())).await.unwrap();
        let identity = broker.identity();
        assert_eq!(identity.version.to_string(), node.version);
        assert!(identity.cluster_name.starts_with("nexus-"), "{identity:?}");
        assert_eq!(identity.vhost.as_str(), vhost.name);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_comes_back_byte_for_byte_with_all_properties() {
    for node in Node::all() {
        let vhost = node.vhost("roundtrip");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("q")).await;
        let text = |text: &str| Some(text.to_owned());
        let headers = FieldTable::new()
            .with("text", "ü")
            .with("number", 7i64)
            .with("flag", true)
            .with("table", FieldTable::new().with("inner", 1i64));
        let full = Message {
            properties: Properties {
                content_type: text("application/octet-stream"),
                content_encoding: text("identity"),
                headers: Some(headers),
                delivery_mode: Some(2),
                priority: Some(3),
                correlation_id: text("c"),
                reply_to: text("r"),
                expiration: text("600000"),
                message_id: text("m"),
                timestamp: Some(1_700_000_000),
                kind: text("t"),
                user_id: text("guest"),
                app_id: text("a"),
                cluster_id: text("k"),
            },
            body: (0..=255).cycle().take(300_000).collect(),
        };
        let bare = Message::default();
        for message in [full, bare] {
            let sent = Publish { message: message.clone(), ..to_queue("q", "") };
            let outcomes = publish_all(&*broker, [sent]).await;
            assert_eq!(outcomes[&Ticket(0)], Outcome::Confirmed);
            let mut consumer =
                broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
            let delivery = take(&mut *consumer, 1).await.remove(0);
            assert_eq!(delivery.message, message);
            assert_eq!(delivery.routing_key.as_str(), "q");
            assert!(delivery.exchange.is_default());
            consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
            consumer.close().await.unwrap();
        }
        assert_eq!(broker.depth(&queue("q")).await.unwrap().unwrap().ready, 0);
        broker.close().await.unwrap();
    }
}

/// Confirms, returns and nacks in one window, many times over: each message gets its own outcome.
#[tokio::test(flavor = "multi_thread")]
async fn confirms_returns_and_nacks_do_not_mix_up() {
    for node in Node::all() {
        let vhost = node.vhost("mix");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("open")).await;
        declare(&*broker, quorum("slow")).await;
        let mut full = classic("full");
        full.arguments.insert("x-max-length", 1i64);
        full.arguments.insert("x-overflow", "reject-publish");
        declare(&*broker, full).await;
        publish_all(&*broker, [to_queue("full", "fills it")]).await;
        let kinds = ["open", "nowhere", "full", "slow", "nowhere"];
        // 7 has no common factor with 5: neighbours differ, and every pair of kinds occurs.
        let kind = |n: usize| kinds[(n * 7 + n / 5) % 5];
        let messages = (0..2000).map(|n| to_queue(kind(n), format!("message {n}")));
        let outcomes = publish_all(&*broker, messages).await;
        assert_eq!(outcomes.len(), 2000);
        for (ticket, outcome) in outcomes {
            let n = usize::try_from(ticket.0).unwrap();
            match (kind(n), &outcome) {
                ("open" | "slow", Outcome::Confirmed)
                | ("nowhere", Outcome::Returned { code: 312, .. })
                | ("full", Outcome::Nacked) => {}
                (kind, outcome) => panic!("{}: {n} to {kind}: {outcome:?}", node.version),
            }
        }
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_exchange_spoils_its_window_but_not_the_publisher() {
    for node in Node::all() {
        let vhost = node.vhost("missing");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("q")).await;
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        for n in 0..100 {
            let message = match n {
                50 => to_exchange("no.such", "k", "x"),
                _ => to_queue("q", format!("{n}")),
            };
            publisher.send(message).await.unwrap();
        }
        let mut outcomes = BTreeMap::new();
        while let Some((ticket, outcome)) = publisher.outcome().await {
            outcomes.insert(ticket.0, outcome);
        }
        assert_eq!(outcomes.len(), 100);
        match &outcomes[&50] {
            Outcome::Returned { code: 404, text } => assert!(text.contains("no.such"), "{text}"),
            other => panic!("{other:?}"),
        }
        for (n, outcome) in &outcomes {
            assert!(
                *n == 50 || matches!(outcome, Outcome::Confirmed | Outcome::Unknown { .. }),
                "{n}: {outcome:?}"
            );
        }
        // What was confirmed is there, and the publisher goes on.
        let ticket = publisher.send(to_queue("q", "after")).await.unwrap();
        assert_eq!(publisher.outcome().await, Some((ticket, Outcome::Confirmed)));
        let confirmed = outcomes.values().filter(|o| **o == Outcome::Confirmed).count() as u64;
        assert!(broker.depth(&queue("q")).await.unwrap().unwrap().ready > confirmed);
        // Alone it is the one that the broker means.
        let alone = publisher.send(to_exchange("no.such", "k", "x")).await.unwrap();
        match publisher.outcome().await {
            Some((ticket, Outcome::Returned { code: 404, .. })) => assert_eq!(ticket, alone),
            other => panic!("{other:?}"),
        }
        publisher.close().await.unwrap();
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_end_the_channel_is_not_sent() {
    for node in Node::all() {
        let vhost = node.vhost("refuse");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("q")).await;
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        let first = publisher.send(to_queue("q", "before")).await.unwrap();
        let with = |change: fn(&mut Properties)| {
            let mut publish = to_queue("q", "x");
            change(&mut publish.message.properties);
            publish
        };
        let mut wrong = vec![
            with(|p| p.expiration = Some("soon".to_owned())),
            with(|p| p.expiration = Some(String::new())),
            with(|p| p.expiration = Some("99999999999999".to_owned())),
            with(|p| p.user_id = Some("somebody".to_owned())),
            with(|p| p.message_id = Some("x".repeat(256))),
            with(|p| p.headers = Some(FieldTable::new().with("CC", "one"))),
            with(|p| p.headers = Some(FieldTable::new().with("nan", FieldValue::Float(f32::NAN)))),
            with(|p| {
                let deep = FieldValue::Array(vec![FieldValue::Double(f64::INFINITY)]);
                p.headers = Some(FieldTable::new().with("deep", deep));
            }),
            with(|p| p.headers = Some(FieldTable::new().with("big", "x".repeat(200_000)))),
        ];
        let limit = usize::try_from(broker.capabilities().max_message_bytes).unwrap();
        if limit < 20 << 20 {
            wrong.push(to_queue("q", vec![0; limit + 1]));
        }
        for publish in wrong {
            let error = publisher.send(publish).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
            assert!(error.to_string().starts_with("cannot publish to queue `q`: "), "{error}");
        }
        let last = publisher.send(to_queue("q", "after")).await.unwrap();
        assert_eq!(publisher.outcome().await, Some((first, Outcome::Confirmed)));
        assert_eq!(publisher.outcome().await, Some((last, Outcome::Confirmed)));
        assert_eq!(publisher.outcome().await, None);
        publisher.close().await.unwrap();
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_survives_its_connection_and_loses_no_outcome() {
    for node in Node::all() {
        let vhost = node.vhost("cut");
        let proxy = Proxy::before(&vhost.amqp_url()).await;
        let broker = RabbitBroker::connect(options(&proxy.url(&vhost.amqp_url()))).await.unwrap();
        declare(&*broker, quorum("q")).await;
        let mut publisher =
            broker.publisher(PublisherOptions { window: 64, reconnect: true }).await.unwrap();
        let mut sent = 0u64;
        let mut outcomes = BTreeMap::new();
        for _ in 0..500 {
            publisher.send(to_queue("q", format!("{sent}"))).await.unwrap();
            sent += 1;
        }
        while let Some((ticket, outcome)) = publisher.outcome().await {
            assert_eq!(outcome, Outcome::Confirmed);
            assert!(outcomes.insert(ticket.0, outcome).is_none());
        }
        proxy.stop();
        for _ in 0..10 {
            publisher.send(to_queue("q", format!("{sent}"))).await.unwrap();
            sent += 1;
        }
        proxy.cut();
        // What is sent before the cut is noticed is lost with the connection too.
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(Instant::now() < end, "nothing is confirmed any more");
            let last = publisher.send(to_queue("q", "last")).await.unwrap();
            sent += 1;
            while let Some((ticket, outcome)) = publisher.outcome().await {
                assert!(outcomes.insert(ticket.0, outcome).is_none());
            }
            assert_eq!(outcomes.len() as u64, sent);
            if outcomes[&last.0] == Outcome::Confirmed {
                break;
            }
        }
        let confirmed = outcomes.values().filter(|o| **o == Outcome::Confirmed).count() as u64;
        let unknown = sent - confirmed;
        assert!((10..=64).contains(&unknown), "{unknown} unknown of a window of 64");
        let there = until("all confirmed messages", async || {
            let ready = broker.depth(&queue("q")).await.unwrap().unwrap().ready;
            (ready >= confirmed).then_some(ready)
        })
        .await;
        assert!(there <= sent, "nothing is sent twice: {there} of {sent}");
        publisher.close().await.unwrap();
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_by_the_broker_is_an_error() {
    for node in Node::all() {
        let vhost = node.vhost("cancel");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("q")).await;
        let mut consumer = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
        let delete = Change::DeleteQueue { name: queue("q"), if_empty: false, if_unused: false };
        broker.change(&delete).await.unwrap();
        let error = tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConsumerCancelled, "{error}");
        assert!(tokio::time::timeout(PATIENCE, consumer.next()).await.unwrap().is_err());
        consumer.close().await.unwrap();
        let missing = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound, "{missing}");
        assert_eq!(broker.depth(&queue("q")).await.unwrap(), None);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_subscribes_again_and_old_deliveries_are_void() {
    for node in Node::all() {
        let vhost = node.vhost("again");
        let broker = connect(&vhost).await;
        declare(&*broker, quorum("q")).await;
        publish_all(&*broker, (0..5).map(|n| to_queue("q", format!("{n}")))).await;
        let mut consumer = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
        let old = take(&mut *consumer, 5).await;
        assert_eq!(consumer.settle(old[0].tag, Settlement::Ack).await.unwrap(), Settled::Sent);
        consumer.flush().await.unwrap();
        let cut = tokio::task::block_in_place(|| vhost.cut_connections(2));
        assert!(cut >= 2, "both connections: {cut}");
        // The four that were not settled come again, in order, on the new connection.
        let again = take(&mut *consumer, 4).await;
        let bodies: Vec<_> = again.iter().map(|d| d.message.body.clone()).collect();
        assert_eq!(bodies, [b"1", b"2", b"3", b"4"]);
        assert!(again.iter().all(|delivery| delivery.redelivered));
        assert!(again.iter().all(|delivery| delivery.tag.generation == 1));
        for delivery in &old[1..] {
            let settled = consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
            assert_eq!(settled, Settled::Void);
        }
        consumer.settle(again[3].tag, Settlement::AckUpTo).await.unwrap();
        consumer.flush().await.unwrap();
        consumer.close().await.unwrap();
        assert_eq!(broker.depth(&queue("q")).await.unwrap().unwrap().ready, 0);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settlements_that_may_be_lost_are_told_at_the_next_flush() {
    for node in Node::all() {
        let vhost = node.vhost("lostack");
        let broker = connect(&vhost).await;
        declare(&*broker, classic("q")).await;
        publish_all(&*broker, [to_queue("q", "a")]).await;
        let mut consumer = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
        let delivery = take(&mut *consumer, 1).await.remove(0);
        tokio::task::block_in_place(|| {
            eventually("connections", || (vhost.connections().len() >= 2).then_some(()));
        });
        consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
        tokio::task::block_in_place(|| vhost.cut_connections(2));
        let end = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await;
        if let Ok(Ok(again)) = end {
            assert_eq!(again.message.body, b"a");
        }
        let error = consumer.flush().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ConnectionLost, "{error}");
        consumer.flush().await.unwrap();
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_settled_goes_back_in_order_when_the_consumer_closes() {
    for node in Node::all() {
        let vhost = node.vhost("order");
        let broker = connect(&vhost).await;
        let mut limited = quorum("l");
        limited.arguments.insert("x-delivery-limit", 50i64);
        for definition in [classic("c"), quorum("k"), limited] {
            let name = definition.name.clone();
            declare(&*broker, definition).await;
            publish_all(&*broker, (0..250).map(|n| to_queue(name.as_str(), format!("{n:03}"))))
                .await;
            let mut consumer = broker.consumer(&name, ConsumerOptions::default()).await.unwrap();
            for delivery in take(&mut *consumer, 250).await {
                let even = delivery.message.body[2] % 2 == 0;
                if even {
                    consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
                }
            }
            consumer.close().await.unwrap();
            let mut consumer = broker.consumer(&name, ConsumerOptions::default()).await.unwrap();
            let rest = take(&mut *consumer, 125).await;
            let bodies: Vec<_> = rest
                .iter()
                .map(|d| String::from_utf8_lossy(&d.message.body).into_owned())
                .collect();
            let odd: Vec<_> = (0..125).map(|n| format!("{:03}", 2 * n + 1)).collect();
            assert_eq!(bodies, odd, "{} on {}", name, node.version);
            assert_eq!(consumer.ready(), None);
            consumer.close().await.unwrap();
        }
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn declaring_says_which_argument_differs() {
    for node in Node::all() {
        let vhost = node.vhost("declare");
        let broker = connect(&vhost).await;
        let mut definition = classic("q");
        definition.arguments.insert("x-max-length", 5i64);
        declare(&*broker, definition.clone()).await;
        declare(&*broker, definition.clone()).await;
        definition.arguments.insert("x-max-length", 6i64);
        let error = broker.change(&Change::DeclareQueue(definition)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed);
        assert_eq!(
            error.cause,
            "argument `x-max-length` of queue `q` differs: ours is 6, the broker's is 5"
        );
        let unknown =
            ExchangeDefinition::durable(exchange("e"), ExchangeKind::Other("x-nonsense".into()));
        let error = broker.change(&Change::DeclareExchange(unknown)).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        let topic = ExchangeDefinition::durable(exchange("e"), ExchangeKind::Topic);
        broker.change(&Change::DeclareExchange(topic)).await.unwrap();
        assert!(broker.has_exchange(&exchange("e")).await.unwrap());
        assert!(!broker.has_exchange(&exchange("f")).await.unwrap());
        let binding = |key: &str, to: Destination| BindingDefinition {
            source: exchange("e"),
            destination: to,
            routing_key: RoutingKey::new(key).unwrap(),
            arguments: FieldTable::new(),
        };
        let there = binding("a.#", Destination::Queue(queue("q")));
        let onward = binding("b", Destination::Exchange(exchange("amq.fanout")));
        for binding in [&there, &onward] {
            broker.change(&Change::Bind(binding.clone())).await.unwrap();
        }
        let error = broker
            .change(&Change::Bind(binding("x", Destination::Queue(queue("none")))))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
        let in_use = Change::DeleteExchange { name: exchange("e"), if_unused: true };
        let error = broker.change(&in_use).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
        for binding in [&there, &onward, &there] {
            broker.change(&Change::Unbind(binding.clone())).await.unwrap();
        }
        for _ in 0..2 {
            broker.change(&in_use).await.unwrap();
        }
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_messages_is_not_deleted_when_it_has_to_be_empty() {
    for node in Node::all() {
        let vhost = node.vhost("delete");
        let with = connect(&vhost).await;
        let without = RabbitBroker::connect(options(&vhost.amqp_url())).await.unwrap();
        let stream = QueueDefinition::durable(queue("stream"), QueueType::Stream);
        for definition in [classic("classic"), quorum("quorum"), stream] {
            let name = definition.name.clone();
            declare(&*with, definition).await;
            publish_all(&*with, [to_queue(name.as_str(), "x")]).await;
            until("the message", async || {
                let depth = with.depth(&name).await.unwrap().unwrap();
                (depth.ready == 1).then_some(())
            })
            .await;
            let delete =
                |if_empty| Change::DeleteQueue { name: name.clone(), if_empty, if_unused: false };
            for broker in [&with, &without] {
                let error = broker.change(&delete(true)).await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
            }
            assert!(with.depth(&name).await.unwrap().is_some(), "{name}");
            if name.as_str() == "stream" {
                let error = with.change(&Change::PurgeQueue(name.clone())).await.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
            } else {
                let purged = with.change(&Change::PurgeQueue(name.clone())).await.unwrap();
                assert_eq!(purged, Changed::WithMessages(1));
            }
            with.change(&delete(false)).await.unwrap();
            assert_eq!(with.change(&delete(true)).await.unwrap(), Changed::WithMessages(0));
            assert_eq!(with.depth(&name).await.unwrap(), None);
        }
        let mut consumer = {
            declare(&*with, quorum("used")).await;
            with.consumer(&queue("used"), ConsumerOptions::default()).await.unwrap()
        };
        let delete = Change::DeleteQueue { name: queue("used"), if_empty: true, if_unused: true };
        let error = without.change(&delete).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
        assert_eq!(consumer.ready(), None);
        consumer.close().await.unwrap();
        // The queue learns in its own time that the consumer's channel is gone.
        until("the queue without its consumer", async || without.change(&delete).await.ok()).await;
        with.close().await.unwrap();
        without.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_vhost_is_listed() {
    for node in Node::all() {
        let vhost = node.vhost("inspect");
        let broker = connect(&vhost).await;
        let mut definition = quorum("q");
        definition.arguments.insert("x-max-length", 100i64);
        declare(&*broker, definition.clone()).await;
        let mut topic = ExchangeDefinition::durable(exchange("e"), ExchangeKind::Topic);
        topic.arguments.insert("alternate-exchange", "amq.fanout");
        broker.change(&Change::DeclareExchange(topic.clone())).await.unwrap();
        let binding = BindingDefinition {
            source: exchange("e"),
            destination: Destination::Queue(queue("q")),
            routing_key: RoutingKey::new("a.#").unwrap(),
            arguments: FieldTable::new().with("x-note", 7i64),
        };
        broker.change(&Change::Bind(binding.clone())).await.unwrap();
        let policy = PolicyDefinition {
            name: PolicyName::new("p").unwrap(),
            pattern: "^q$".to_owned(),
            apply_to: ApplyTo::Queues,
            priority: 2,
            definition: serde_json::json!({"max-length": 10}).as_object().unwrap().clone(),
        };
        broker.change(&Change::PutPolicy(policy.clone())).await.unwrap();
        broker.change(&Change::PutOperatorPolicy(policy.clone())).await.unwrap();
        let limit = |value| Change::SetVhostLimit { name: "max-queues".to_owned(), value };
        broker.change(&limit(Some(50))).await.unwrap();
        publish_all(&*broker, (0..3).map(|n| to_queue("q", format!("{n}")))).await;
        let _consumer = broker
            .consumer(&queue("q"), ConsumerOptions { prefetch: 2, ..ConsumerOptions::default() })
            .await
            .unwrap();
        let snapshot = until("the counts", async || {
            let snapshot = broker.inspect().await.unwrap();
            let state = &snapshot.queues[0];
            let counted = (state.ready, state.unacked, state.consumers);
            (counted == (Some(1), Some(2), Some(1))).then_some(snapshot)
        })
        .await;
        assert_eq!(snapshot.identity, *broker.identity());
        assert_eq!(snapshot.queues.len(), 1);
        let state = &snapshot.queues[0];
        assert_eq!(state.definition, definition);
        assert_eq!(state.policy.as_deref(), Some("p"));
        assert!(snapshot.exchanges.contains(&topic));
        assert_eq!(snapshot.bindings, [binding]);
        assert_eq!(snapshot.policies, std::slice::from_ref(&policy));
        assert_eq!(snapshot.operator_policies, std::slice::from_ref(&policy));
        assert_eq!(snapshot.vhost.limits.get("max-queues"), Some(&50));
        assert_eq!(snapshot.permissions.as_ref().map(|p| p.write.as_str()), Some(".*"));
        for _ in 0..2 {
            broker.change(&Change::DeletePolicy(policy.name.clone())).await.unwrap();
            broker.change(&Change::DeleteOperatorPolicy(policy.name.clone())).await.unwrap();
            broker.change(&limit(None)).await.unwrap();
        }
        let dqt = broker.change(&Change::SetDefaultQueueType(QueueType::Quorum)).await;
        if broker.capabilities().default_queue_type {
            dqt.unwrap();
        } else {
            assert_eq!(dqt.unwrap_err().kind, ErrorKind::Unsupported);
        }
        let snapshot = broker.inspect().await.unwrap();
        assert!(snapshot.policies.is_empty() && snapshot.operator_policies.is_empty());
        assert_eq!(snapshot.vhost.limits.get("max-queues"), None);
        let expected = broker.capabilities().default_queue_type.then_some(QueueType::Quorum);
        assert_eq!(snapshot.vhost.default_queue_type, expected);
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_queues_than_fit_on_a_page_are_all_listed() {
    let Some(node) = Node::from_env("3_10") else { return };
    let vhost = node.vhost("pages");
    let broker = connect(&vhost).await;
    for n in 0..501 {
        let mut definition = classic(&format!("q{n:04}"));
        definition.arguments = FieldTable::new();
        declare(&*broker, definition).await;
    }
    let snapshot = broker.inspect().await.unwrap();
    assert_eq!(snapshot.queues.len(), 501);
    assert!(snapshot.bindings.is_empty());
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_management_url_listing_is_not_supported() {
    for node in Node::all() {
        let vhost = node.vhost("amqponly");
        let broker = RabbitBroker::connect(options(&vhost.amqp_url())).await.unwrap();
        let error = broker.inspect().await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        assert!(error.hint.unwrap().contains("management_url"));
        broker.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_management_url_says_what_is_wrong() {
    for node in Node::all() {
        let vhost = node.vhost("mgmt");
        let amqp_port = node.amqp_url.rsplit_once(':').unwrap().1.split('/').next().unwrap();
        let login = node.http(
            "PUT",
            &format!("/api/users/{}-mgmt", vhost.name),
            Some(r#"{"password":"x","tags":"management"}"#),
        );
        login.ok();
        let good = vhost.management_url();
        let cases = [
            (
                good.replace("guest:guest", "guest:wrong"),
                ErrorKind::AccessRefused,
                "refused the login",
            ),
            (
                format!("http://guest:guest@127.0.0.1:{amqp_port}"),
                ErrorKind::Unreachable,
                "reached",
            ),
            ("http://guest:guest@127.0.0.1:1".to_owned(), ErrorKind::Unreachable, "reached"),
            (format!("{good}/prefix"), ErrorKind::Unreachable, "management API"),
            (
                good.replace("guest:guest", &format!("{}-mgmt:x", vhost.name)),
                ErrorKind::AccessRefused,
                "(tags: management) may not do this",
            ),
        ];
        for (url, kind, cause) in cases {
            let mut options = options(&vhost.amqp_url());
            options.management = Some(url.parse().unwrap());
            let broker = RabbitBroker::connect(options).await.unwrap();
            let error = broker.inspect().await.unwrap_err();
            assert_eq!(error.kind, kind, "{url}: {error}");
            assert!(error.cause.contains(cause), "{url}: {error}");
            assert!(error.hint.is_some(), "{url}: {error}");
            broker.close().await.unwrap();
        }
        node.http("DELETE", &format!("/api/users/{}-mgmt", vhost.name), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_decodes_the_slash_of_a_vhost_is_named() {
    let Some(node) = Node::from_env("4_0") else { return };
    // Hands requests on like a proxy that turns %2F into a slash.
    let target = node.management_url.trim_start_matches("http://").to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                let mut request = vec![0; 8192];
                let Ok(bytes @ 1..) = client.read(&mut request).await else { return };
                let text = String::from_utf8_lossy(&request[..bytes])
                    .replace("%2F", "/")
                    .replace("HTTP/1.1\r\n", "HTTP/1.1\r\nconnection: close\r\n");
                let mut server = TcpStream::connect(target).await.unwrap();
                server.write_all(text.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                let _ = server.read_to_end(&mut answer).await;
                let _ = client.write_all(&answer).await;
            });
        }
    });
    let mut options = options(&node.amqp_url);
    options.management = Some(format!("http://guest:guest@127.0.0.1:{port}").parse().unwrap());
    let broker = RabbitBroker::connect(options).await.unwrap();
    let error = broker.inspect().await.unwrap_err();
    assert!(error.cause.contains("%2F"), "{error}");
    broker.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_connection_names_its_step() {
    for node in Node::all() {
        let vhost = node.vhost("connect");
        let amqp = vhost.amqp_url();
        let management_port = node.management_url.rsplit_once(':').unwrap().1.to_owned();
        let amqp_port = amqp.rsplit_once(':').unwrap().1.split('/').next().unwrap().to_owned();
        let cases = [
            (
                amqp.replace("guest:guest", "guest:wrong"),
                ErrorKind::AccessRefused,
                "refused the login",
            ),
            (format!("{amqp}-missing"), ErrorKind::NoSuchVhost, "does not exist"),
            (
                amqp.replace("127.0.0.1", "no-such-host.invalid"),
                ErrorKind::Unreachable,
                "no-such-host",
            ),
            (amqp.replace(&amqp_port, "1"), ErrorKind::Unreachable, "nobody listens"),
            (amqp.replace(&amqp_port, &management_port), ErrorKind::Unreachable, "HTTP"),
            (vhost.amqps_url().replace("amqps:", "amqp:"), ErrorKind::Unreachable, "TLS"),
        ];
        for (url, kind, cause) in cases {
            let error = refused(options(&url)).await;
            assert_eq!(error.kind, kind, "{url}: {error}");
            assert!(error.cause.contains(cause), "{url}: {error}");
            assert!(error.hint.is_some(), "{url}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_takes_the_right_authority_and_name_and_nothing_else() {
    for node in Node::all() {
        let vhost = node.vhost("tls");
        let tls = |ca: Option<&str>, name: Option<&str>| TlsOptions {
            ca: ca.map(Into::into),
            server_name: name.map(str::to_owned),
            ..TlsOptions::default()
        };
        let with = |tls: TlsOptions| {
            let mut options = options(&vhost.amqps_url());
            options.tls = tls;
            options
        };
        let mutual = TlsOptions {
            cert: Some(node.client_cert.clone().into()),
            key: Some(node.client_key.clone().into()),
            ..tls(Some(&node.ca), Some("localhost"))
        };
        for good in [tls(Some(&node.ca), None), tls(Some(&node.ca), Some("localhost")), mutual] {
            let broker = RabbitBroker::connect(with(good)).await.unwrap();
            declare(&*broker, classic("q")).await;
            let big = to_queue("q", vec![7; 1 << 20]);
            assert_eq!(publish_all(&*broker, [big]).await[&Ticket(0)], Outcome::Confirmed);
            broker.close().await.unwrap();
        }
        // The client's certificate is an authority for nothing.
        let other_ca = node.client_cert.clone();
        let cases = [
            (tls(Some(&other_ca), None), ErrorKind::Unreachable, "not trusted"),
            (tls(None, None), ErrorKind::Unreachable, "not trusted"),
            (
                tls(Some(&node.ca), Some("elsewhere.example")),
                ErrorKind::Unreachable,
                "elsewhere.example",
            ),
            (tls(Some("/no/such/ca.pem"), None), ErrorKind::Invalid, "cannot be read"),
            (tls(Some(&node.client_key), None), ErrorKind::Invalid, "no certificate"),
            (
                TlsOptions {
                    cert: Some(node.client_cert.clone().into()),
                    ..tls(Some(&node.ca), None)
                },
                ErrorKind::Invalid,
                "its key is not",
            ),
        ];
        for (tls, kind, cause) in cases {
            let error = refused(with(tls)).await;
            // A machine without authorities of its own cannot even try.
            if error.cause.contains("has no certificates of authorities") {
                continue;
            }
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.cause.contains(cause), "{error}");
        }
        let mut plain = options(&vhost.amqp_url().replace("amqp:", "amqps:"));
        plain.tls = tls(Some(&node.ca), None);
        let error = refused(plain).await;
        assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("amqp://")), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_named_as_such() {
    let authority = Authority::new();
    let expired = authority.issue("localhost", true);
    // Nobody gets as far as to what is behind it.
    let port = tls_before("127.0.0.1:1", &expired).await;
    let mut options = options(&format!("amqps://guest:guest@localhost:{port}"));
    options.tls = TlsOptions { ca: Some(authority.ca()), ..TlsOptions::default() };
    let error = refused(options).await;
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    assert!(error.cause.contains("certificate has expired"), "{error}");
    assert!(error.hint.as_ref().is_some_and(|hint| hint.contains("renew it")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_name_counts_for_an_https_management_api_too() {
    for node in Node::all() {
        let vhost = node.vhost("https");
        let authority = Authority::new();
        let certificate = authority.issue("rabbit.example", false);
        let api = node.management_url.trim_start_matches("http://");
        let port = tls_before(api, &certificate).await;
        let inspected = async |name: Option<&str>| {
            let mut options = options(&vhost.amqp_url());
            options.management = Some(format!("https://127.0.0.1:{port}").parse().unwrap());
            options.tls = TlsOptions {
                ca: Some(authority.ca()),
                server_name: name.map(str::to_owned),
                ..TlsOptions::default()
            };
            let broker = RabbitBroker::connect(options).await.unwrap();
            let inspected = broker.inspect().await;
            broker.close().await.unwrap();
            inspected
        };
        assert_eq!(
            inspected(Some("rabbit.example")).await.unwrap().identity.vhost.as_str(),
            vhost.name
        );
        // The certificate is for neither of these.
        for name in [None, Some("other.example")] {
            let error = inspected(name).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unreachable, "{name:?}: {error}");
            assert!(error.cause.contains("certificate"), "{name:?}: {error}");
            assert!(
                error.hint.as_ref().is_some_and(|h| h.contains("tls.server_name")),
                "{error:?}"
            );
        }
        // What HTTPS cannot ask for is refused rather than ignored.
        let error = inspected(Some("127.0.0.2")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.cause.contains("names only") && error.hint.is_some(), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_alone_is_a_login() {
    for node in Node::all() {
        let plugins = std::fs::read_to_string(format!("{}/enabled_plugins", node.dir)).unwrap();
        if !plugins.contains("rabbitmq_auth_mechanism_ssl") {
            println!("skipped: {} was started without rabbitmq_auth_mechanism_ssl", node.dir);
            continue;
        }
        let vhost = node.vhost("external");
        let with = |cert: Option<&str>, key: Option<&str>| {
            let mut options = options(&vhost.amqps_url().replace("guest:guest@", "guest@"));
            options.tls = TlsOptions {
                ca: Some(node.ca.clone().into()),
                cert: cert.map(Into::into),
                key: key.map(Into::into),
                external_login: true,
                ..TlsOptions::default()
            };
            options
        };
        let (cert, key) = (Some(node.client_cert.as_str()), Some(node.client_key.as_str()));
        let broker = RabbitBroker::connect(with(cert, key)).await.unwrap();
        declare(&*broker, classic("q")).await;
        // The broker takes as user_id whoever the certificate names, and nobody else.
        let mut own = to_queue("q", "x");
        own.message.properties.user_id = Some("guest".to_owned());
        assert_eq!(publish_all(&*broker, [own]).await[&Ticket(0)], Outcome::Confirmed);
        broker.close().await.unwrap();
        // Without a certificate there is nobody to log in.
        let error = refused(with(None, None)).await;
        assert_eq!(error.kind, ErrorKind::AccessRefused, "{error}");
        assert!(error.hint.is_some(), "{error:?}");
    }
}

/// A broker that goes away and comes back on the same port, and counts who knocks.
struct Comes {
    port: u16,
    target: String,
    knocks: Arc<AtomicUsize>,
    door: Option<tokio::task::JoinHandle<()>>,
}

impl Comes {
    async fn before(url: &str) -> Comes {
        let target = url.split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        Comes { port, target, knocks: Arc::default(), door: None }
    }

    fn url(&self, url: &str) -> String {
        url.replace(&self.target, &format!("127.0.0.1:{}", self.port))
    }

    fn knocks(&self) -> usize {
        self.knocks.load(Ordering::SeqCst)
    }

    /// Opens the door; behind it is the node, or nobody who says a word.
    async fn open(&mut self, answers: bool) {
        self.shut().await;
        let listener =
            until("the port", async || TcpListener::bind(("127.0.0.1", self.port)).await.ok())
                .await;
        let (target, knocks) = (self.target.clone(), Arc::clone(&self.knocks));
        self.door = Some(tokio::spawn(async move {
            let mut guests = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                knocks.fetch_add(1, Ordering::SeqCst);
                if !answers {
                    continue;
                }
                let target = target.clone();
                guests.spawn(async move {
                    let mut server = TcpStream::connect(&target).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        }));
    }

    /// Cuts every connection.
    async fn shut(&mut self) {
        if let Some(door) = self.door.take() {
            door.abort();
            let _ = door.await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_circuit_opens_on_a_broker_that_is_gone_and_closes_when_it_is_back() {
    for node in Node::all() {
        let vhost = node.vhost("circuit");
        let mut broker_port = Comes::before(&vhost.amqp_url()).await;
        broker_port.open(true).await;
        let mut options = options(&broker_port.url(&vhost.amqp_url()));
        let recovery = Duration::from_millis(500);
        options.circuit = CircuitSettings {
            threshold: 3,
            recovery,
            longest_recovery: recovery,
            probes: 1,
            ..CircuitSettings::default()
        };
        let broker = RabbitBroker::connect(options).await.unwrap();
        declare(&*broker, classic("q")).await;
        // It hangs up on everybody from now on.
        broker_port.open(false).await;
        let before = broker_port.knocks();
        let mut kinds = Vec::new();
        let opened = until("an open circuit", async || {
            let error = broker.depth(&queue("q")).await.unwrap_err();
            kinds.push(error.kind);
            (error.kind == ErrorKind::CircuitOpen).then_some(Instant::now())
        })
        .await;
        let failed = kinds.len() - 1;
        assert!((2..=4).contains(&failed), "{kinds:?}");
        // While it is open nobody knocks.
        let knocks = broker_port.knocks();
        assert!(knocks > before);
        let mut asked = 0;
        while opened.elapsed() < recovery / 2 {
            let error = broker.depth(&queue("q")).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::CircuitOpen, "{error}");
            assert!(error.hint.as_ref().is_some_and(|hint| hint.starts_with("try again in ")));
            asked += 1;
        }
        assert!(asked > 0);
        assert_eq!(broker_port.knocks(), knocks);
        // The broker is back: the first probe closes the circuit, and work goes on.
        broker_port.open(true).await;
        until("a closed circuit", async || broker.depth(&queue("q")).await.ok()).await;
        let sent = publish_all(&*broker, (0..10).map(|n| to_queue("q", format!("{n}")))).await;
        assert!(sent.values().all(|outcome| *outcome == Outcome::Confirmed), "{sent:?}");
        broker.close().await.unwrap();
        broker_port.shut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_comer_learns_who_holds_the_lock() {
    for node in Node::all() {
        let vhost = node.vhost("lock");
        let (first, second) = (connect(&vhost).await, connect(&vhost).await);
        let holder = |who: &str| LockHolder {
            who: who.to_owned(),
            since: Timestamp::from_unix_ms(1_700_000_000_123),
        };
        let lock = first.lock("apply", &holder("me@here 1")).await.unwrap();
        lock.check().await.unwrap();
        match second.lock("apply", &holder("you@there 2")).await {
            Err(LockError::Held { holder: Some(held) }) => assert_eq!(held, holder("me@here 1")),
            other => panic!("{other:?}"),
        }
        let other = second.lock("other", &holder("you@there 2")).await.unwrap();
        lock.release().await.unwrap();
        let lock = second.lock("apply", &holder("you@there 2")).await.unwrap();
        // Whoever loses the connection loses the lock, and is told.
        tokio::task::block_in_place(|| vhost.cut_connections(4));
        until("the loss of the lock", async || lock.check().await.is_err().then_some(())).await;
        drop(other);
        until("the lock let go", async || first.lock("apply", &holder("x")).await.ok()).await;
        first.close().await.unwrap();
        second.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_hangs_holds_nobody_up() {
    const SHORT: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(2);
    for node in Node::all() {
        let vhost = node.vhost("hang");
        let proxy = Proxy::before(&vhost.amqp_url()).await;
        let management = Proxy::before(&format!("{}/", vhost.management_url())).await;
        let mut options = options(&proxy.url(&vhost.amqp_url()));
        options.timeout = SHORT;
        options.management =
            Some(management.url(&format!("{}/", vhost.management_url())).parse().unwrap());
        let broker = RabbitBroker::connect(options.clone()).await.unwrap();
        declare(&*broker, classic("q")).await;
        publish_all(&*broker, (0..10).map(|n| to_queue("q", format!("{n}")))).await;
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        let mut consumer = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
        let delivery = take(&mut *consumer, 1).await.remove(0);
        broker.inspect().await.unwrap();
        let holder = LockHolder { who: "me".to_owned(), since: Timestamp::from_unix_ms(0) };
        let lock = broker.lock("l", &holder).await.unwrap();
        proxy.stop();
        management.stop();

        async fn within<T>(what: &str, call: impl Future<Output = T>) -> T {
            let start = Instant::now();
            let answer = call.await;
            let took = start.elapsed();
            assert!(took < LONGEST, "{what} took {took:?}");
            answer
        }
        within("send", publisher.send(to_queue("q", "x"))).await.unwrap();
        let (_, outcome) = within("outcome", publisher.outcome()).await.unwrap();
        match outcome {
            Outcome::Unknown { why } => assert!(why.contains("no confirm within 1s"), "{why}"),
            other => panic!("{other:?}"),
        }
        within("depth", broker.depth(&queue("q"))).await.unwrap_err();
        let error =
            within("change", broker.change(&Change::PurgeQueue(queue("q")))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        within("inspect", broker.inspect()).await.unwrap_err();
        within("check", lock.check()).await.unwrap_err();
        within("settle", consumer.settle(delivery.tag, Settlement::Ack)).await.unwrap();
        let error = within("flush", consumer.flush()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        let error = within("connect", refused(options)).await;
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert!(error.cause.contains("no AMQP greeting"), "{error}");
        within("drop the lock", async { drop(lock) }).await;
        within("close the publisher", publisher.close()).await.unwrap();
        within("drop the consumer", async { drop(consumer) }).await;
        within("close", broker.close()).await.unwrap();
    }
}

/// `connection.blocked` cannot be had from the shared nodes without raising an alarm for everybody, so
/// a small broker of our own plays the opening and then blocks.
#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_that_nobody_answers_holds_nobody_up_however_long_the_timeout() {
    for node in Node::all() {
        let vhost = node.vhost("goodbye");
        let proxy = Proxy::before(&vhost.amqp_url()).await;
        let mut options = options(&proxy.url(&vhost.amqp_url()));
        options.timeout = Duration::from_secs(60);
        let broker = RabbitBroker::connect(options).await.unwrap();
        declare(&*broker, classic("q")).await;
        proxy.stop();
        let started = Instant::now();
        broker.close().await.unwrap();
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_on_the_broker_is_named_when_no_confirm_comes() {
    for node in Node::all() {
        let vhost = node.vhost("blocked");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target =
            vhost.amqp_url().split('@').nth(1).unwrap().split('/').next().unwrap().to_owned();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let (block, mut blocked) = tokio::sync::mpsc::channel::<()>(1);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(bytes @ 1..) = from_client.read(&mut buffer).await {
                    // basic.publish: class 60, method 40, in a method frame.
                    let publish = buffer[..bytes].windows(4).any(|w| w == [0, 60, 0, 40]);
                    if publish {
                        let _ = block.send(()).await;
                        continue;
                    }
                    if to_server.write_all(&buffer[..bytes]).await.is_err() {
                        return;
                    }
                }
            });
            let mut buffer = vec![0; 64 * 1024];
            loop {
                tokio::select! {
                    Some(()) = blocked.recv() => {
                        // connection.blocked: class 10, method 60, one short string.
                        let mut frame = vec![1, 0, 0, 0, 0, 0, 18, 0, 10, 0, 60, 13];
                        frame.extend(b"low on memory");
                        frame.push(0xCE);
                        to_client.write_all(&frame).await.unwrap();
                    }
                    read = from_server.read(&mut buffer) => {
                        let Ok(bytes @ 1..) = read else { return };
                        if to_client.write_all(&buffer[..bytes]).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let (before, rest) =
            vhost.amqp_url().split_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let path = rest.split_once('/').unwrap().1.to_owned();
        let mut options = options(&format!("{before}@127.0.0.1:{port}/{path}"));
        options.timeout = Duration::from_secs(1);
        let broker = RabbitBroker::connect(options).await.unwrap();
        let mut publisher = broker.publisher(PublisherOptions::default()).await.unwrap();
        publisher.send(to_queue("q", "x")).await.unwrap();
        match publisher.outcome().await {
            Some((_, Outcome::Unknown { why })) => assert!(why.contains("low on memory"), "{why}"),
            other => panic!("{other:?}"),
        }
        let start = Instant::now();
        publisher.close().await.unwrap();
        broker.close().await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_types_survive_the_broker() {
    for node in Node::all() {
        let vhost = node.vhost("types");
        let broker = connect(&vhost).await;
        declare(&*broker, quorum("q")).await;
        let values = [
            FieldValue::Void,
            FieldValue::Bool(true),
            FieldValue::Int8(-1),
            FieldValue::UInt8(200),
            FieldValue::Int16(-300),
            FieldValue::UInt16(60_000),
            FieldValue::Int32(-70_000),
            FieldValue::UInt32(4_000_000_000),
            FieldValue::Int64(i64::MIN),
            FieldValue::Float(1.5),
            FieldValue::Double(-2.25),
            FieldValue::Decimal { scale: 2, unscaled: 314 },
            FieldValue::Text(vec![0xFF, 0]),
            FieldValue::Bytes(vec![1, 2]),
            FieldValue::Timestamp(1_700_000_000),
            FieldValue::Array(vec![FieldValue::Int64(1), FieldValue::from("x")]),
        ];
        let headers: FieldTable =
            values.into_iter().enumerate().map(|(n, value)| (format!("h{n}"), value)).collect();
        let mut publish = to_queue("q", "x");
        publish.message.properties.headers = Some(headers.clone());
        publish_all(&*broker, [publish]).await;
        let mut consumer = broker.consumer(&queue("q"), ConsumerOptions::default()).await.unwrap();
        let delivery = take(&mut *consumer, 1).await.remove(0);
        assert_eq!(delivery.message.properties.headers, Some(headers), "{}", node.version);
        consumer.close().await.unwrap();
        broker.close().await.unwrap();
    }
}

/// Each connection that the node has seen end in this vhost, by its line in the log.
fn ended_connections(node: &Node, vhost: &Vhost) -> Vec<String> {
    let log = std::fs::read_to_string(format!("{}/log/rabbit.log", node.dir)).unwrap();
    let of_vhost = format!("vhost: '{}'", vhost.name);
    log.lines()
        .filter(|line| line.contains("closing AMQP connection") && line.contains(&of_vhost))
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_ends_with_a_goodbye() {
    const ROUNDS: usize = 10;
    for node in Node::all() {
        let vhost = node.vhost("goodbye");
        for _ in 0..ROUNDS {
            let broker = connect(&vhost).await;
            declare(&*broker, classic("q")).await;
            let outcomes = publish_all(&*broker, [to_queue("q", "one")]).await;
            assert!(outcomes.into_values().all(|outcome| outcome == Outcome::Confirmed));
            broker.close().await.unwrap();
        }
        eventually("the node logs the ends", || {
            (ended_connections(&node, &vhost).len() == ROUNDS).then_some(())
        });
        for line in ended_connections(&node, &vhost) {
            assert!(line.contains("[info]"), "broke off: {line}");
        }
    }
}
