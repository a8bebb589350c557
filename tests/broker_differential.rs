//! The differential test: random topologies and random messages go to the embedded broker and to
//! RabbitMQ, and who got what, in which order, with which headers must agree.
//!
//! `NEXUSCTL_TEST_SCENARIOS` sets how many scenarios run per version, `NEXUSCTL_TEST_SEED` the first
//! seed; a failure prints the seed and the whole scenario.
//!
//! What is left out, because RabbitMQ itself does not promise it: the order in which dead letters of
//! *different* queues meet in one queue (compared per source queue), and the exact bound of a quorum
//! queue with `reject-publish` (measured: 400 kept of 3000 with a limit of 2).

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::broker::{
    BindingDefinition, Broker, Change, ConsumerOptions, Destination, ExchangeDefinition,
    ExchangeKind, Outcome, Publish, PublisherOptions, QueueDefinition, QueueType, Settlement,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use support::fixture::{Fixture, Kind};

const SOON: Duration = Duration::from_secs(20);

/// A topology and what is done with it.
#[derive(Clone, Debug)]
struct Scenario {
    exchanges: Vec<ExchangeDefinition>,
    queues: Vec<QueueDefinition>,
    bindings: Vec<BindingDefinition>,
    messages: Vec<Publish>,
    /// Queues whose messages are all rejected once, in this order, before the queues are read.
    rejected: Vec<QueueName>,
}

/// Draws scenarios; the same seed draws the same one.
struct Draw(fastrand::Rng);

impl Draw {
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.usize(..from.len())]
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.0.u32(..n) == 0
    }

    fn words(&mut self, from: &[&str]) -> String {
        let count = self.0.usize(0..4);
        (0..count).map(|_| *self.pick(from)).collect::<Vec<_>>().join(".")
    }

    fn scenario(&mut self, quorum: bool) -> Scenario {
        let n_exchanges = self.0.usize(1..5);
        let n_queues = self.0.usize(1..5);
        let exchanges = (0..n_exchanges).map(|n| self.exchange(n, n_exchanges)).collect::<Vec<_>>();
        let queues =
            (0..n_queues).map(|n| self.queue(n, n_queues, n_exchanges, quorum)).collect::<Vec<_>>();
        let bindings = (0..self.0.usize(1..12))
            .map(|_| self.binding(&exchanges, n_queues))
            .collect::<Vec<_>>();
        let messages =
            (0..self.0.usize(1..25)).map(|n| self.message(n, n_exchanges, n_queues)).collect();
        let rejected = queues.iter().filter(|_| self.0.bool()).map(|q| q.name.clone()).collect();
        Scenario { exchanges, queues, bindings, messages, rejected }
    }

    fn exchange(&mut self, n: usize, of: usize) -> ExchangeDefinition {
        let kinds = [
            ExchangeKind::Direct,
            ExchangeKind::Fanout,
            ExchangeKind::Topic,
            ExchangeKind::Headers,
        ];
        let mut exchange = ExchangeDefinition::durable(name(n), self.pick(&kinds).clone());
        if self.one_in(3) {
            let alternate = format!("e{}", self.0.usize(..=of));
            exchange.arguments.insert("alternate-exchange", alternate);
        }
        exchange
    }

    fn queue(&mut self, n: usize, of: usize, n_exchanges: usize, quorum: bool) -> QueueDefinition {
        let kind = if quorum && self.0.bool() { QueueType::Quorum } else { QueueType::Classic };
        let mut queue = QueueDefinition::durable(queue_name(n), kind);
        let arguments = &mut queue.arguments;
        if self.one_in(2) {
            if self.0.bool() {
                // Onward only, so that no cycle keeps a scenario from coming to rest.
                arguments.insert("x-dead-letter-exchange", "");
                let target = if n + 1 < of { format!("q{}", n + 1) } else { "nowhere".to_owned() };
                arguments.insert("x-dead-letter-routing-key", target);
            } else {
                let exchange = format!("e{}", self.0.usize(..=n_exchanges));
                arguments.insert("x-dead-letter-exchange", exchange);
                if self.0.bool() {
                    let key = self.words(&["a", "b", "c"]);
                    arguments.insert("x-dead-letter-routing-key", key);
                }
            }
        }
        if self.one_in(4) {
            arguments.insert("x-message-ttl", i64::from(self.0.u32(20..150)));
        }
        if self.one_in(3) {
            arguments.insert("x-max-length", i64::from(self.0.u32(1..6)));
            if kind == QueueType::Classic {
                let overflow = *self.pick(&["drop-head", "reject-publish", "reject-publish-dlx"]);
                queue.arguments.insert("x-overflow", overflow);
            }
        }
        if kind == QueueType::Classic && self.one_in(4) {
            queue.arguments.insert("x-max-priority", i64::from(self.0.u32(1..6)));
        }
        queue
    }

    fn binding(&mut self, exchanges: &[ExchangeDefinition], n_queues: usize) -> BindingDefinition {
        let source = self.pick(exchanges).clone();
        let destination = if self.one_in(4) {
            Destination::Exchange(self.pick(exchanges).name.clone())
        } else {
            Destination::Queue(queue_name(self.0.usize(..n_queues)))
        };
        let mut arguments = FieldTable::new();
        let words: &[&str] = match source.kind {
            ExchangeKind::Topic => &["a", "b", "c", "*", "#"],
            _ => &["a", "b", "c"],
        };
        let routing_key = RoutingKey::new(self.words(words)).unwrap();
        if source.kind == ExchangeKind::Headers {
            if self.0.bool() {
                let how = *self.pick(&["all", "any", "all-with-x", "any-with-x"]);
                arguments.insert("x-match", how);
            }
            for header in ["h1", "h2", "x-h3"] {
                if self.0.bool() {
                    arguments.insert(header, self.header_value());
                }
            }
        }
        BindingDefinition { source: source.name, destination, routing_key, arguments }
    }

    fn header_value(&mut self) -> FieldValue {
        match self.0.u32(..6) {
            0 => FieldValue::Int64(1),
            1 => FieldValue::Int32(1),
            2 => "1".into(),
            3 => FieldValue::Bool(true),
            4 => "true".into(),
            _ => FieldValue::Void,
        }
    }

    fn message(&mut self, n: usize, n_exchanges: usize, n_queues: usize) -> Publish {
        let (exchange, routing_key) = if self.one_in(6) {
            (ExchangeName::default_exchange(), format!("q{}", self.0.usize(..=n_queues)))
        } else {
            (name(self.0.usize(..n_exchanges)), self.words(&["a", "b", "c"]))
        };
        let mut properties = Properties {
            message_id: Some(format!("m{n}")),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        if self.one_in(3) {
            properties.priority = Some(self.0.u8(0..8));
        }
        if self.one_in(8) {
            properties.expiration = Some(self.0.u32(20..150).to_string());
        }
        if self.0.bool() {
            for header in ["h1", "h2", "x-h3"] {
                if self.0.bool() {
                    let value = self.header_value();
                    properties.headers_mut().insert(header, value);
                }
            }
        }
        if self.one_in(10) {
            let copies = vec![FieldValue::from(self.words(&["a", "b", "c"]))];
            properties.headers_mut().insert("CC", FieldValue::Array(copies));
        }
        let message = Message { properties, body: format!("body {n}").into_bytes() };
        let routing_key = RoutingKey::new(routing_key).unwrap();
        Publish { exchange, routing_key, message }
    }
}

fn name(n: usize) -> ExchangeName {
    ExchangeName::new(format!("e{n}")).unwrap()
}

fn queue_name(n: usize) -> QueueName {
    QueueName::new(format!("q{n}")).unwrap()
}

/// What a broker made of a scenario, in a form that two brokers can be compared by.
#[derive(Debug, PartialEq)]
struct Result {
    outcomes: Vec<String>,
    /// For each queue: for each queue that the messages died in last (empty: none), what was read,
    /// in order.
    queues: BTreeMap<String, BTreeMap<String, Vec<String>>>,
}

async fn run(scenario: &Scenario, broker: &dyn Broker) -> Result {
    for exchange in &scenario.exchanges {
        broker.change(&Change::DeclareExchange(exchange.clone())).await.unwrap();
    }
    for queue in &scenario.queues {
        broker.change(&Change::DeclareQueue(queue.clone())).await.unwrap();
    }
    for binding in &scenario.bindings {
        broker.change(&Change::Bind(binding.clone())).await.unwrap();
    }
    let options = PublisherOptions { window: 1, reconnect: false };
    let mut publisher = broker.publisher(options).await.unwrap();
    let mut outcomes = Vec::new();
    for message in &scenario.messages {
        publisher.send(message.clone()).await.unwrap();
        let (_, outcome) = publisher.outcome().await.unwrap();
        outcomes.push(match outcome {
            Outcome::Confirmed => "confirmed".to_owned(),
            Outcome::Returned { code, .. } => format!("returned {code}"),
            Outcome::Nacked => "nacked".to_owned(),
            Outcome::Unknown { why } => format!("unknown: {why}"),
        });
    }
    publisher.close().await.unwrap();
    comes_to_rest(scenario, broker).await;
    for queue in &scenario.rejected {
        drain(broker, queue, Settlement::Reject).await;
        comes_to_rest(scenario, broker).await;
    }
    let mut queues = BTreeMap::new();
    for queue in &scenario.queues {
        let read = drain(broker, &queue.name, Settlement::Ack).await;
        queues.insert(queue.name.to_string(), read);
    }
    Result { outcomes, queues }
}

/// Waits until nothing moves any more: every time to live has run out, every depth stands still.
async fn comes_to_rest(scenario: &Scenario, broker: &dyn Broker) {
    // Expiry is the one thing that only time brings: the longest is 150 ms, and a chain of dead
    // letters may add one for each queue.
    let mut last = Vec::new();
    let mut same = 0;
    let deadline = tokio::time::Instant::now() + SOON;
    while same < 4 {
        assert!(tokio::time::Instant::now() < deadline, "the scenario does not come to rest");
        let mut depths = Vec::new();
        for queue in &scenario.queues {
            depths.push(broker.depth(&queue.name).await.unwrap().map(|depth| depth.ready));
        }
        same = if depths == last { same + 1 } else { 0 };
        last = depths;
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
}

/// Reads a queue until it is empty, settling each message; what was read, by the queue it died in.
async fn drain(
    broker: &dyn Broker,
    queue: &QueueName,
    how: Settlement,
) -> BTreeMap<String, Vec<String>> {
    let options = ConsumerOptions { prefetch: 1, reconnect: false, ..ConsumerOptions::default() };
    let mut consumer = broker.consumer(queue, options).await.unwrap();
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut left = broker.depth(queue).await.unwrap().unwrap().ready;
    loop {
        // What was counted comes soon; after that, only what nobody counted could come.
        let patience = Duration::from_millis(if left > 0 { 2000 } else { 100 });
        let Ok(delivery) = tokio::time::timeout(patience, consumer.next()).await else { break };
        let delivery = delivery.unwrap();
        left = left.saturating_sub(1);
        let headers = delivery.message.properties.headers.clone().unwrap_or_default();
        let died_in = headers.get("x-death").and_then(last_death).unwrap_or_default();
        read.entry(died_in).or_default().push(format!(
            "{} from {:?} by {:?}: {}",
            String::from_utf8_lossy(&delivery.message.body),
            delivery.exchange.as_str(),
            delivery.routing_key.as_str(),
            properties(&delivery.message.properties),
        ));
        consumer.settle(delivery.tag, how).await.unwrap();
    }
    consumer.close().await.unwrap();
    read
}

fn last_death(deaths: &FieldValue) -> Option<String> {
    let FieldValue::Array(deaths) = deaths else { return None };
    let FieldValue::Table(last) = deaths.first()? else { return None };
    last.get("queue")?.as_text().map(str::to_owned)
}

/// Properties as text, with the time of death taken out.
fn properties(properties: &Properties) -> String {
    let mut shown = properties.clone();
    if let Some(FieldValue::Array(deaths)) =
        shown.headers.as_mut().and_then(|headers| headers.0.get_mut("x-death"))
    {
        for death in deaths {
            if let FieldValue::Table(death) = death {
                assert!(death.remove("time").is_some(), "a death has a time");
            }
        }
    }
    format!("{shown:?}")
}

#[expect(clippy::disallowed_methods, reason = "how many scenarios is asked of the environment")]
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs one scenario on both brokers at once; `None` when one of them is not there.
async fn differs(seed: u64, embedded: Kind, rabbitmq: Kind) -> Option<Option<String>> {
    let scenario = Draw(fastrand::Rng::with_seed(seed)).scenario(true);
    let result_on = async |kind: Kind| {
        let fixture = Fixture::start(kind).await?;
        let result = run(&scenario, &*fixture.broker()).await;
        fixture.stop().await;
        Some(result)
    };
    let (ours, theirs) = tokio::join!(result_on(embedded), result_on(rabbitmq));
    let (ours, theirs) = (ours?, theirs?);
    Some((ours != theirs).then(|| {
        format!("seed {seed}\nembedded: {ours:#?}\nRabbitMQ: {theirs:#?}\nof {scenario:#?}")
    }))
}

/// Most of a scenario is waiting for a time to live, so several run at a time.
async fn compare(embedded: Kind, rabbitmq: Kind) {
    const AT_ONCE: u64 = 6;
    let first = number("NEXUSCTL_TEST_SEED", 1);
    let end = first + number("NEXUSCTL_TEST_SCENARIOS", 30);
    let mut runs = tokio::task::JoinSet::new();
    let mut found = Vec::new();
    for seed in first..end {
        if seed - first >= AT_ONCE {
            match runs.join_next().await {
                Some(Ok(Some(difference))) => found.extend(difference),
                Some(Ok(None)) | None => return,
                Some(Err(failure)) => std::panic::resume_unwind(failure.into_panic()),
            }
        }
        runs.spawn(differs(seed, embedded, rabbitmq));
    }
    while let Some(run) = runs.join_next().await {
        match run {
            Ok(difference) => found.extend(difference.flatten()),
            Err(failure) => std::panic::resume_unwind(failure.into_panic()),
        }
    }
    assert!(
        found.is_empty(),
        "{} of {} scenarios differ; the first:\n{}",
        found.len(),
        end - first,
        found.iter().min_by_key(|text| text.len()).map_or("", String::as_str)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_does_as_rabbitmq_3_10_does() {
    compare(Kind::EmbeddedLike310, Kind::RabbitMq310).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_does_as_rabbitmq_4_0_does() {
    compare(Kind::EmbeddedLike40, Kind::RabbitMq40).await;
}
