//! The differential test: random topologies and random messages go to the embedded broker and to
//! RabbitMQ, and who got what, in which order, with which headers must agree.
//!
//! `NEXUSCTL_TEST_SCENARIOS` sets how many scenarios run per version, `NEXUSCTL_TEST_SEED` the first
//! seed; a failure prints the seed and the whole scenario.
//!
//! Where messages move by themselves (a time to live, or a limit whose excess is dead-lettered), the
//! next message is published, and the next one rejected, only after everything has come to rest: in
//! a burst, the machine's speed would decide what meets what.
//!
//! What is left out, because RabbitMQ itself does not promise it:
//! - the order in which dead letters that came different ways meet in one queue (compared per way);
//! - what RabbitMQ decides one way in one run and another way in the next, for instance which of two
//!   copies that die at once in two queues is the one too many in a third. A scenario that differs is
//!   therefore run again: it counts when RabbitMQ agrees with itself, and is the same when RabbitMQ
//!   does in one of its runs what the embedded broker did; few may stay undecided;
//! - the exact bound of a quorum queue with `reject-publish` (measured: 400 kept of 3000 with a limit
//!   of 2);
//! - rejecting what may come back to the same queue, which would never end.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a step that fails should fail its test; what could not be decided is said"
)]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nexus::base::id::{ExchangeName, QueueName, RoutingKey};
use nexus::broker::{
    BindingDefinition, Broker, Change, ConsumerOptions, Destination, ExchangeDefinition,
    ExchangeKind, Outcome, Publish, PublisherOptions, QueueDefinition, QueueType, Settlement,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use support::fixture::{Fixture, Kind};

/// How long anything may take to come to rest; a hundred times what it takes.
const SOON: Duration = Duration::from_secs(20);
/// How long one run of a scenario may take before it counts as hung.
const ONE_RUN: Duration = Duration::from_secs(60);
/// Times to live are drawn below this, in milliseconds.
const LONGEST_TTL: u32 = 40;

/// A topology and what is done with it.
#[derive(Clone, Debug)]
struct Scenario {
    exchanges: Vec<ExchangeDefinition>,
    queues: Vec<QueueDefinition>,
    bindings: Vec<BindingDefinition>,
    messages: Vec<Publish>,
    /// Queues whose messages are all rejected once, in this order, before the queues are read.
    rejected: Vec<QueueName>,
    /// How long it may stand still and yet go on, because messages expire.
    pause: Duration,
    /// Whether messages move by themselves while others are published.
    stepwise: bool,
}

impl Scenario {
    /// Whether a message rejected in `start` may come back to it; keys and arguments of bindings are
    /// taken to match.
    fn may_return(&self, start: &QueueName) -> bool {
        let mut queues = vec![start.clone()];
        let mut seen = Vec::new();
        while let Some(queue) = queues.pop() {
            let Some(definition) = self.queues.iter().find(|known| known.name == queue) else {
                continue;
            };
            let argument = |name| definition.arguments.get(name).and_then(FieldValue::as_text);
            let Some(exchange) = argument("x-dead-letter-exchange") else { continue };
            let mut exchanges = Vec::new();
            let mut found = Vec::new();
            if exchange.is_empty() {
                let key = argument("x-dead-letter-routing-key").unwrap_or(queue.as_str());
                found.extend(QueueName::new(key));
            } else {
                exchanges.push(exchange.to_owned());
            }
            let mut passed: Vec<String> = Vec::new();
            while let Some(exchange) = exchanges.pop() {
                if passed.contains(&exchange) {
                    continue;
                }
                for binding in self.bindings.iter().filter(|b| b.source.as_str() == exchange) {
                    match &binding.destination {
                        Destination::Queue(name) => found.push(name.clone()),
                        Destination::Exchange(name) => exchanges.push(name.to_string()),
                    }
                }
                let definition = self.exchanges.iter().find(|e| e.name.as_str() == exchange);
                exchanges.extend(
                    definition
                        .and_then(|e| e.arguments.get("alternate-exchange"))
                        .and_then(FieldValue::as_text)
                        .map(str::to_owned),
                );
                passed.push(exchange);
            }
            for next in found {
                if next == *start {
                    return true;
                }
                if !seen.contains(&next) {
                    seen.push(next.clone());
                    queues.push(next);
                }
            }
        }
        false
    }
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
        let timed = self.0.bool();
        let exchanges = (0..n_exchanges).map(|n| self.exchange(n, n_exchanges)).collect::<Vec<_>>();
        let queues = (0..n_queues)
            .map(|n| self.queue(n, n_queues, n_exchanges, quorum, timed))
            .collect::<Vec<_>>();
        let bindings = (0..self.0.usize(1..20))
            .map(|_| self.binding(&exchanges, n_queues))
            .collect::<Vec<_>>();
        let overflows = queues.iter().any(|queue| {
            queue.arguments.get("x-max-length").is_some()
                && queue.arguments.get("x-dead-letter-exchange").is_some()
        });
        let stepwise = timed || overflows;
        let most = if stepwise { 16 } else { 40 };
        let messages = (0..self.0.usize(1..most))
            .map(|n| self.message(n, n_exchanges, n_queues, timed))
            .collect();
        // A message may expire in one queue after the other.
        let in_a_row = u64::try_from(n_queues).unwrap_or(1) * u64::from(LONGEST_TTL);
        let pause = Duration::from_millis(if timed { in_a_row } else { 0 });
        let mut scenario =
            Scenario { exchanges, queues, bindings, messages, rejected: vec![], pause, stepwise };
        let names = scenario.queues.iter().map(|queue| queue.name.clone()).collect::<Vec<_>>();
        scenario.rejected = names
            .into_iter()
            .filter(|name| !self.one_in(3) && !scenario.may_return(name))
            .collect();
        scenario
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

    fn queue(
        &mut self,
        n: usize,
        of: usize,
        n_exchanges: usize,
        quorum: bool,
        timed: bool,
    ) -> QueueDefinition {
        let kind = if quorum && self.0.bool() { QueueType::Quorum } else { QueueType::Classic };
        let mut queue = QueueDefinition::durable(queue_name(n), kind);
        let arguments = &mut queue.arguments;
        if !self.one_in(4) {
            if self.0.bool() {
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
        if timed && self.one_in(3) {
            arguments.insert("x-message-ttl", i64::from(self.0.u32(0..LONGEST_TTL)));
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

    fn message(&mut self, n: usize, n_exchanges: usize, n_queues: usize, timed: bool) -> Publish {
        let (exchange, routing_key) = if self.one_in(3) {
            (ExchangeName::default_exchange(), format!("q{}", self.0.usize(..=n_queues)))
        } else {
            (name(self.0.usize(..n_exchanges)), self.words(&["a", "b", "c"]))
        };
        let mut properties = Properties {
            message_id: Some(format!("m{n}")),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        if self.0.bool() {
            properties.priority = Some(self.0.u8(0..10));
        }
        if timed && self.one_in(4) {
            properties.expiration = Some(self.0.u32(0..LONGEST_TTL).to_string());
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
    /// For each queue: for each way that messages came (the deaths they died), what was read, in
    /// order.
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
            Outcome::Failed(error) => format!("failed: {error}"),
            Outcome::Unknown { why } => format!("unknown: {why}"),
        });
        if scenario.stepwise {
            comes_to_rest(scenario, broker).await;
        }
    }
    publisher.close().await.unwrap();
    comes_to_rest(scenario, broker).await;
    for queue in &scenario.rejected {
        drain(scenario, broker, queue, Settlement::Reject).await;
    }
    let mut queues = BTreeMap::new();
    for queue in &scenario.queues {
        let read = drain(scenario, broker, &queue.name, Settlement::Ack).await;
        queues.insert(queue.name.to_string(), read);
    }
    Result { outcomes, queues }
}

/// Waits until nothing moves any more: every time to live has run out, every depth stands still.
async fn comes_to_rest(scenario: &Scenario, broker: &dyn Broker) {
    // A chain of dead letters may go on from queue to queue without a pause: each look at every
    // queue lets it go on by one at least, and standing still for some looks ends it.
    const LOOKS: u32 = 4;
    const BETWEEN: Duration = Duration::from_millis(15);
    let started = Instant::now();
    let mut last = Vec::new();
    let mut same = 0;
    let mut since = started;
    while same < LOOKS || since.elapsed() < scenario.pause + BETWEEN * LOOKS {
        assert!(started.elapsed() < SOON, "the scenario does not come to rest: {scenario:#?}");
        let mut depths = Vec::new();
        for queue in &scenario.queues {
            depths.push(broker.depth(&queue.name).await.unwrap().map(|depth| depth.ready));
        }
        if depths == last {
            same += 1;
        } else {
            (same, since) = (0, Instant::now());
        }
        last = depths;
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Reads a queue until it is empty, settling each message; what was read, by the way it came.
async fn drain(
    scenario: &Scenario,
    broker: &dyn Broker,
    queue: &QueueName,
    how: Settlement,
) -> BTreeMap<String, Vec<String>> {
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if broker.depth(queue).await.unwrap().unwrap().ready == 0 {
        return read;
    }
    let options = ConsumerOptions { prefetch: 1, reconnect: false, ..ConsumerOptions::default() };
    let mut consumer = broker.consumer(queue, options).await.unwrap();
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < SOON, "{queue} does not become empty: {scenario:#?}");
        let patience = Duration::from_millis(100);
        let Ok(delivery) = tokio::time::timeout(patience, consumer.next()).await else {
            // What is counted is on its way, or expires when its turn comes.
            if broker.depth(queue).await.unwrap().unwrap().ready == 0 {
                break;
            }
            continue;
        };
        let delivery = delivery.unwrap();
        let headers = delivery.message.properties.headers.clone().unwrap_or_default();
        read.entry(way(&headers)).or_default().push(format!(
            "{} from {:?} by {:?}: {}",
            String::from_utf8_lossy(&delivery.message.body),
            delivery.exchange.as_str(),
            delivery.routing_key.as_str(),
            properties(&delivery.message.properties),
        ));
        consumer.settle(delivery.tag, how).await.unwrap();
        if scenario.stepwise && how == Settlement::Reject {
            consumer.flush().await.unwrap();
            comes_to_rest(scenario, broker).await;
        }
    }
    consumer.close().await.unwrap();
    comes_to_rest(scenario, broker).await;
    read
}

/// Where a message died and why, the last death first.
fn way(headers: &FieldTable) -> String {
    let Some(FieldValue::Array(deaths)) = headers.get("x-death") else { return String::new() };
    let deaths = deaths.iter().map(|death| {
        let FieldValue::Table(death) = death else { return "?".to_owned() };
        let text = |name| death.get(name).and_then(FieldValue::as_text).unwrap_or("?");
        format!("{} in {}", text("reason"), text("queue"))
    });
    deaths.collect::<Vec<_>>().join(", ")
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

/// How two brokers compare on a scenario.
enum Verdict {
    /// One of them is not there.
    Skipped,
    Same,
    /// RabbitMQ does not agree with itself, and never did what the embedded broker did.
    Undecided,
    Different(String),
}

/// Runs one scenario on both brokers at once, and again when they differ.
async fn verdict(seed: u64, embedded: Kind, rabbitmq: Kind) -> Verdict {
    /// So often RabbitMQ has to agree with itself before a difference counts.
    const RUNS: usize = 4;
    /// So often it may try to do once what the embedded broker did, when it does not agree.
    const MOST_RUNS: usize = 12;
    let scenario = Draw(fastrand::Rng::with_seed(seed)).scenario(true);
    let result_on = async |kind: Kind| {
        let fixture = Fixture::start(kind).await?;
        let broker = fixture.broker();
        let run = tokio::time::timeout(ONE_RUN, run(&scenario, &*broker)).await;
        let Ok(result) = run else { panic!("seed {seed} hangs on {kind:?}: {scenario:#?}") };
        fixture.stop().await;
        Some(result)
    };
    let (ours, theirs) = tokio::join!(result_on(embedded), result_on(rabbitmq));
    let (Some(ours), Some(theirs)) = (ours, theirs) else { return Verdict::Skipped };
    if ours == theirs {
        return Verdict::Same;
    }
    let mut undecided = false;
    let mut runs = 1;
    while runs < if undecided { MOST_RUNS } else { RUNS } {
        runs += 1;
        let Some(again) = result_on(rabbitmq).await else { return Verdict::Skipped };
        if again == ours {
            return Verdict::Same;
        }
        undecided |= again != theirs;
    }
    if undecided {
        return Verdict::Undecided;
    }
    Verdict::Different(format!(
        "seed {seed}\nembedded: {ours:#?}\nRabbitMQ: {theirs:#?}\nof {scenario:#?}"
    ))
}

/// Most of a scenario is waiting, so several run at a time.
async fn compare(embedded: Kind, rabbitmq: Kind) {
    const AT_ONCE: usize = 6;
    let first = number("NEXUSCTL_TEST_SEED", 1);
    let end = first + number("NEXUSCTL_TEST_SCENARIOS", 30);
    let mut runs = tokio::task::JoinSet::new();
    let mut found: Vec<(u64, String)> = Vec::new();
    let mut undecided = Vec::new();
    let mut seeds = first..end;
    loop {
        while runs.len() < AT_ONCE
            && let Some(seed) = seeds.next()
        {
            runs.spawn(async move { (seed, verdict(seed, embedded, rabbitmq).await) });
        }
        match runs.join_next().await {
            Some(Ok((_, Verdict::Skipped))) => return,
            Some(Ok((_, Verdict::Same))) => {}
            Some(Ok((seed, Verdict::Undecided))) => undecided.push(seed),
            Some(Ok((seed, Verdict::Different(difference)))) => found.push((seed, difference)),
            Some(Err(failure)) => std::panic::resume_unwind(failure.into_panic()),
            None => break,
        }
    }
    println!("{rabbitmq:?} leaves undecided: seeds {undecided:?}");
    found.sort_by_key(|(_, difference)| difference.len());
    let seeds: Vec<u64> = found.iter().map(|(seed, _)| *seed).collect();
    assert!(
        found.is_empty(),
        "the scenarios of seeds {seeds:?} differ, of {first} to {end}; the shortest:\n{}",
        found[0].1
    );
    let most = 1 + (end - first) / 10;
    assert!(
        u64::try_from(undecided.len()).unwrap() <= most,
        "too little is decided: {undecided:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn the_embedded_broker_does_as_rabbitmq_3_10_does() {
    compare(Kind::EmbeddedLike310, Kind::RabbitMq310).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn the_embedded_broker_does_as_rabbitmq_4_0_does() {
    compare(Kind::EmbeddedLike40, Kind::RabbitMq40).await;
}
