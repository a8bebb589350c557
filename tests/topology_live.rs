//! Plans run against real brokers of both versions: nothing twice, nothing lost, kills included.
//!
//! `NEXUSCTL_TEST_KILLS` says how often each migration is killed (3 when it is not set).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and a kill run says what it found"
)]

#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use faulty::Faulty;
use nexus::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey, VhostName};
use nexus::base::time::{SystemClock, Timestamp};
use nexus::broker::embedded::{EmbeddedBroker, EmbeddedOptions};
use nexus::broker::rabbitmq::{ConnectOptions, RabbitBroker};
use nexus::broker::{
    ApplyTo, BindingDefinition, Broker, Change, ConsumerOptions, Destination, ExchangeDefinition,
    ExchangeKind, LockHolder, Outcome, PolicyDefinition, Publish, PublisherOptions,
    QueueDefinition, Settlement, Version,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use nexus::topology::apply::{
    ApplyError, ApplyOptions, ApplyReport, Event, Observer, Silent, apply,
};
use nexus::topology::export::export;
use nexus::topology::migrate::{Timing, WINDOW};
use nexus::topology::model::{Desired, Origin, Topology};
use nexus::topology::object::ObjectKind;
use nexus::topology::plan::{Action, Options, plan};
use support::{Node, Vhost};

async fn connect(amqp: &str, management: &str) -> Arc<dyn Broker> {
    let mut options = ConnectOptions::new(amqp.parse().unwrap());
    options.management = Some(management.parse().unwrap());
    options.timeout = Duration::from_secs(20);
    RabbitBroker::connect(options).await.unwrap()
}

async fn broker(vhost: &Vhost) -> Arc<dyn Broker> {
    connect(&vhost.amqp_url(), &vhost.management_url()).await
}

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

fn queue(name: &str, arguments: FieldTable) -> QueueDefinition {
    QueueDefinition {
        name: QueueName::new(name).unwrap(),
        durable: true,
        exclusive: false,
        auto_delete: false,
        arguments,
    }
}

fn exchange(name: &str, kind: &str) -> ExchangeDefinition {
    ExchangeDefinition::durable(ExchangeName::new(name).unwrap(), ExchangeKind::from(kind))
}

fn binding(source: &str, queue: &str, key: &str) -> BindingDefinition {
    BindingDefinition {
        source: ExchangeName::new(source).unwrap(),
        destination: Destination::Queue(QueueName::new(queue).unwrap()),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: FieldTable::new(),
    }
}

fn options(journal: Option<PathBuf>) -> ApplyOptions {
    ApplyOptions {
        holder: LockHolder { who: "test".to_owned(), since: Timestamp::from_unix_ms(0) },
        lock_timeout: Duration::from_secs(20),
        continue_on_error: false,
        skip_blocked: false,
        journal,
        timing: Timing::default(),
    }
}

async fn run(
    broker: &dyn Broker,
    topology: &Topology,
    planning: &Options,
    journal: Option<&Path>,
) -> Result<ApplyReport, ApplyError> {
    let plan = plan(topology, &broker.inspect().await?, planning);
    let options = options(journal.map(Path::to_owned));
    apply(broker, &plan, Some((topology, planning)), &options, &SystemClock, &mut Silent).await
}

#[track_caller]
fn complete(report: &ApplyReport) {
    assert!(
        report.is_complete() && report.owners_not_recorded.is_none(),
        "{:?}\n{:?}\n{:?}",
        report.failed().collect::<Vec<_>>(),
        report.residue,
        report.owners_not_recorded
    );
}

fn numbered(number: u64) -> Message {
    Message {
        properties: Properties {
            delivery_mode: Some(2),
            headers: Some(
                FieldTable::new()
                    .with("CC", FieldValue::Array(vec!["elsewhere".into()]))
                    .with("number", FieldValue::Int32(i32::try_from(number).unwrap())),
            ),
            priority: Some(u8::try_from(number % 10).unwrap()),
            expiration: number.is_multiple_of(3).then(|| "86400000".to_owned()),
            user_id: number.is_multiple_of(7).then(|| "guest".to_owned()),
            message_id: Some(format!("m{number}")),
            ..Properties::default()
        },
        body: number.to_string().into_bytes(),
    }
}

async fn publish(broker: &dyn Broker, exchange: &str, key: &str, numbers: std::ops::Range<u64>) {
    let mut publisher =
        broker.publisher(PublisherOptions { window: 500, reconnect: false }).await.unwrap();
    for number in numbers {
        let publish = Publish {
            exchange: ExchangeName::new(exchange).unwrap(),
            routing_key: RoutingKey::new(key).unwrap(),
            message: numbered(number),
        };
        publisher.send(publish).await.unwrap();
        while let Some((_, outcome)) = publisher.ready_outcome() {
            assert_eq!(outcome, Outcome::Confirmed);
        }
    }
    while let Some((_, outcome)) = publisher.outcome().await {
        assert_eq!(outcome, Outcome::Confirmed);
    }
    publisher.close().await.unwrap();
}

/// Takes everything out of a queue.
async fn take(broker: &dyn Broker, name: &str) -> Vec<(String, Message)> {
    let name = QueueName::new(name).unwrap();
    let mut consumer = broker
        .consumer(&name, ConsumerOptions { prefetch: 1000, ..ConsumerOptions::default() })
        .await
        .unwrap();
    let mut taken = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(1), consumer.next()).await {
            Ok(delivery) => {
                let delivery = delivery.unwrap();
                consumer.settle(delivery.tag, Settlement::Ack).await.unwrap();
                taken.push((delivery.routing_key.to_string(), delivery.message));
            }
            Err(_) => {
                if broker.depth(&name).await.unwrap().unwrap().ready == 0 {
                    break;
                }
            }
        }
    }
    consumer.close().await.unwrap();
    taken
}

fn policy(name: &str, pattern: &str, length: u32) -> PolicyDefinition {
    PolicyDefinition {
        name: PolicyName::new(name).unwrap(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::Queues,
        priority: 1,
        definition: [("max-length".to_owned(), length.into())].into_iter().collect(),
    }
}

fn whole() -> Topology {
    let mut events = exchange("events", "topic");
    events.arguments.insert("alternate-exchange", "lost");
    let mut matched = binding("by-headers", "orders", "");
    matched.arguments = FieldTable::new().with("x-match", "any").with("n", 5).with("s", "t");
    let mut up = binding("events", "orders", "a.#");
    up.destination = Destination::Exchange(ExchangeName::new("by-headers").unwrap());
    Topology {
        owner: "team".to_owned(),
        exchanges: vec![
            desired(events),
            desired(exchange("lost", "fanout")),
            desired(exchange("by-headers", "headers")),
        ],
        queues: vec![
            desired(queue(
                "orders",
                FieldTable::new()
                    .with("x-queue-type", "quorum")
                    .with("x-dead-letter-exchange", "lost"),
            )),
            desired(queue("plain", FieldTable::new().with("x-max-length", FieldValue::Int32(9)))),
            desired(queue(
                "typed",
                FieldTable::new().with("x-queue-type", "classic").with("x-unknown", "kept"),
            )),
            desired(queue(
                "log",
                FieldTable::new().with("x-queue-type", "stream").with("x-max-age", "1h"),
            )),
            desired(queue("dead", FieldTable::new())),
        ],
        bindings: vec![
            desired(binding("events", "orders", "orders.*")),
            desired(binding("events", "plain", "")),
            desired(binding("events", "typed", "a b/~%ü")),
            desired(binding("amq.topic", "plain", "#")),
            desired(binding("lost", "dead", "")),
            desired(matched),
            desired(up),
        ],
        policies: vec![desired(policy("limits", "^plain$", 5))],
        ..Topology::default()
    }
}

/// Applied, applied again, drifted, put right, pruned.
async fn life_of_a_topology(broker: Arc<dyn Broker>, name: &str, mut topology: Topology) {
    complete(&run(broker.as_ref(), &topology, &Options::default(), None).await.unwrap());

    let counting = Faulty::counting(Arc::clone(&broker));
    let again = run(&counting, &topology, &Options::default(), None).await.unwrap();
    complete(&again);
    assert_eq!((counting.mutations(), again.steps.len()), (0, 0), "{name}");

    // Nothing shows of what nexusctl keeps for itself, and an export is the same topology.
    let snapshot = broker.inspect().await.unwrap();
    let exported = export(&snapshot, "team");
    let replanned = plan(&exported, &snapshot, &Options::default());
    assert!(replanned.is_empty() && replanned.extra.is_empty(), "{replanned:?}");
    assert_eq!(exported.queues.len(), topology.queues.len());
    assert_eq!(exported.bindings.len(), 7);

    // Drift by other hands: a binding gone, a foreign one made, a policy changed, an argument.
    broker.change(&Change::Unbind(binding("events", "orders", "orders.*"))).await.unwrap();
    broker.change(&Change::Bind(binding("amq.direct", "plain", "foreign"))).await.unwrap();
    broker.change(&Change::PutPolicy(policy("limits", "^plain$", 7))).await.unwrap();
    topology.queues[1].definition.arguments.insert("x-max-length", 10);
    let drifted = plan(&topology, &broker.inspect().await.unwrap(), &Options::default());
    let actions: Vec<_> =
        drifted.changes.iter().map(|change| (change.object.to_string(), change.action)).collect();
    assert_eq!(
        actions,
        [
            ("queue `plain`".to_owned(), Action::ReplaceWhileEmpty),
            ("binding `events -> queue orders by orders.*`".to_owned(), Action::Create),
            ("policy `limits`".to_owned(), Action::Update),
        ],
        "{name}"
    );
    complete(&run(broker.as_ref(), &topology, &Options::default(), None).await.unwrap());
    let snapshot = broker.inspect().await.unwrap();
    assert!(
        snapshot.bindings.contains(&binding("amq.direct", "plain", "foreign")),
        "the foreign one is back"
    );

    // Out of the file: pruned when asked, with what is ours only.
    topology.queues.retain(|queue| queue.definition.name.as_str() != "typed");
    topology
        .bindings
        .retain(|b| b.definition.destination != Destination::Queue("typed".parse().unwrap()));
    broker.change(&Change::DeclareQueue(queue("nobodys", FieldTable::new()))).await.unwrap();
    assert!(plan(&topology, &broker.inspect().await.unwrap(), &Options::default()).is_empty());
    let prune =
        Options { prune: [ObjectKind::Queue, ObjectKind::Binding].into(), ..Options::default() };
    let report = run(broker.as_ref(), &topology, &prune, None).await.unwrap();
    complete(&report);
    let mut expected: Vec<String> =
        topology.queues.iter().map(|queue| queue.definition.name.to_string()).collect();
    expected.push("nobodys".to_owned());
    expected.sort();
    let names: Vec<String> = broker
        .inspect()
        .await
        .unwrap()
        .queues
        .iter()
        .map(|q| q.definition.name.to_string())
        .collect();
    assert_eq!(names, expected, "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_is_applied_once_drifts_is_put_right_and_pruned() {
    for node in Node::all() {
        let vhost = node.vhost("apply");
        life_of_a_topology(broker(&vhost).await, &node.version, whole()).await;
    }
}

async fn embedded(directory: &Path) -> Arc<dyn Broker> {
    let options = EmbeddedOptions {
        like: Version::new(4, 0, 5),
        vhost: VhostName::new("/").unwrap(),
        timeout: Duration::from_secs(20),
    };
    EmbeddedBroker::open(directory.join("state.db"), options, Arc::new(SystemClock)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_lives_through_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let broker = embedded(directory.path()).await;
    life_of_a_topology(broker, "embedded", whole()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_the_embedded_broker_is_made_anew_with_its_messages() {
    let directory = tempfile::tempdir().unwrap();
    let broker = embedded(directory.path()).await;
    complete(&run(broker.as_ref(), &migrated("classic"), &Options::default(), None).await.unwrap());
    publish(broker.as_ref(), "in", "k.1", 0..2000).await;
    let planning = Options { migrate: true, ..Options::default() };
    let report = run(broker.as_ref(), &migrated("quorum"), &planning, None).await.unwrap();
    complete(&report);
    let taken = take(broker.as_ref(), "work").await;
    let mut numbers: Vec<u64> = taken
        .iter()
        .map(|(_, message)| std::str::from_utf8(&message.body).unwrap().parse().unwrap())
        .collect();
    assert_eq!(numbers.len(), 2000);
    // A quorum queue of 4.0 has two lanes.
    numbers.sort_by_key(|number| number % 10 >= 5);
    let expected: Vec<u64> =
        (0..2000).filter(|n| n % 10 < 5).chain((0..2000).filter(|n| n % 10 >= 5)).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_exclude_each_other_and_the_second_names_the_first() {
    for node in Node::all() {
        let vhost = node.vhost("lock");
        let (first, second) = (broker(&vhost).await, broker(&vhost).await);
        let holder =
            LockHolder { who: "ann@host, process 7".to_owned(), since: Timestamp::from_unix_ms(0) };
        let lock = first.lock(&format!("topology.{}", vhost.name), &holder).await.unwrap();
        let plan = plan(&whole(), &second.inspect().await.unwrap(), &Options::default());
        let told = ApplyOptions { lock_timeout: Duration::from_millis(300), ..options(None) };
        let error = apply(second.as_ref(), &plan, None, &told, &SystemClock, &mut Silent)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("ann@host"), "{error}");
        lock.release().await.unwrap();
        complete(
            &apply(second.as_ref(), &plan, None, &options(None), &SystemClock, &mut Silent)
                .await
                .unwrap(),
        );
    }
}

/// The migration that is killed: `work` becomes another queue, with everything bound to it.
fn migrated(kind: &str) -> Topology {
    let arguments = match kind {
        "classic" => FieldTable::new(),
        "quorum" => FieldTable::new().with("x-queue-type", "quorum"),
        _ => FieldTable::new().with("x-queue-type", "quorum").with("x-max-length", 1_000_000),
    };
    Topology {
        owner: "team".to_owned(),
        exchanges: vec![desired(exchange("in", "topic"))],
        queues: vec![
            desired(queue("work", arguments)),
            desired(queue("elsewhere", FieldTable::new())),
        ],
        bindings: vec![desired(binding("in", "work", "k.#"))],
        ..Topology::default()
    }
}

fn variable(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "tests are told by their environment")]
    std::env::var(name).ok()
}

/// Says how many messages have been moved, for whoever kills this process at one of them.
struct Saying;

impl Observer for Saying {
    fn event(&mut self, event: &Event<'_>) {
        if let Event::Moved(_, moved) = event {
            use std::io::Write as _;
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "moved {}", moved.out + moved.back);
            let _ = out.flush();
        }
    }
}

/// Not a test of its own: the process that is killed.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_migrates() {
    let Some(amqp) = variable("TOPOLOGY_LIVE_AMQP") else { return };
    let management = variable("TOPOLOGY_LIVE_MANAGEMENT").unwrap();
    let topology = migrated(&variable("TOPOLOGY_LIVE_KIND").unwrap());
    let journal = variable("TOPOLOGY_LIVE_JOURNAL").map(PathBuf::from);
    let broker = connect(&amqp, &management).await;
    let planning = Options { migrate: true, ..Options::default() };
    let mut planned = plan(&topology, &broker.inspect().await.unwrap(), &planning);
    // A killed run's consumer is gone a moment after its process.
    for _ in 0..50 {
        if planned.blocked().next().is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        planned = plan(&topology, &broker.inspect().await.unwrap(), &planning);
    }
    // Only the tool is killed here, so the wait for a broker that might be is cut short.
    let timing = Timing { settle: Duration::from_millis(300), ..Timing::default() };
    let options = ApplyOptions { timing, ..options(journal) };
    let desired = Some((&topology, &planning));
    let report =
        apply(broker.as_ref(), &planned, desired, &options, &SystemClock, &mut Saying).await;
    complete(&report.unwrap());
}

/// Runs the migration in a process of its own, which is killed once it has moved `at` messages, or
/// after `at` milliseconds. Whether it was.
fn killed(vhost: &Vhost, kind: &str, journal: Option<&Path>, by_count: bool, at: u64) -> bool {
    use std::io::BufRead as _;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["child_that_migrates", "--exact", "--nocapture"])
        .env("TOPOLOGY_LIVE_AMQP", vhost.amqp_url())
        .env("TOPOLOGY_LIVE_MANAGEMENT", vhost.management_url())
        .env("TOPOLOGY_LIVE_KIND", kind)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped());
    if let Some(journal) = journal {
        command.env("TOPOLOGY_LIVE_JOURNAL", journal);
    }
    let mut process = command.spawn().unwrap();
    let out = std::io::BufReader::new(process.stdout.take().unwrap());
    let process = std::sync::Mutex::new(process);
    let dead = std::sync::atomic::AtomicBool::new(false);
    let kill = || {
        dead.store(true, std::sync::atomic::Ordering::SeqCst);
        process.lock().unwrap().kill().unwrap();
    };
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        if !by_count {
            scope.spawn(|| {
                let end = Instant::now() + Duration::from_millis(at);
                while !over.load(std::sync::atomic::Ordering::SeqCst) {
                    if Instant::now() >= end {
                        return kill();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let mut last = Vec::new();
        for line in out.lines() {
            let line = line.unwrap();
            let moved = line.strip_prefix("moved ").and_then(|n| n.parse::<u64>().ok());
            if by_count && moved.is_some_and(|n| n >= at) {
                kill();
                break;
            }
            if moved.is_none() {
                last.push(line);
            }
        }
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        let status = process.lock().unwrap().wait().unwrap();
        let dead = dead.load(std::sync::atomic::Ordering::SeqCst);
        assert!(status.success() || dead, "{}", last.join("\n"));
        !status.success()
    })
}

/// 10,000 messages move from one kind of queue to the other and back until so many kills have hit,
/// half of them at a random count of moved messages, half at a random time; then once to the end.
async fn migrate_under_kills(node: &Node, kinds: [&str; 2], with_journal: bool) {
    const MESSAGES: u64 = 10_000;
    let kills: u64 = variable("NEXUSCTL_TEST_KILLS").map_or(3, |text| text.parse().unwrap());
    let vhost = node.vhost("migrate");
    let broker = broker(&vhost).await;
    complete(&run(broker.as_ref(), &migrated(kinds[0]), &Options::default(), None).await.unwrap());
    broker.change(&Change::Bind(binding("amq.direct", "work", "foreign"))).await.unwrap();
    publish(broker.as_ref(), "in", "k.1", 0..MESSAGES).await;
    // The copies that `CC` made at the first publish are not what is looked at.
    broker.change(&Change::PurgeQueue("elsewhere".parse().unwrap())).await.unwrap();

    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal.ndjson");
    let journal = with_journal.then_some(journal.as_path());
    let seed = u64::from(std::process::id());
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut hits = 0u64;
    let mut way = 1;
    for round in 0u64.. {
        if hits == kills {
            break;
        }
        let by_count = round.is_multiple_of(2);
        let at = if by_count { dice.u64(0..2 * MESSAGES) } else { dice.u64(100..4000) };
        if killed(&vhost, kinds[way], journal, by_count, at) {
            hits += 1;
        } else {
            way = 1 - way;
        }
    }
    let kind = kinds[way];
    assert!(!killed(&vhost, kind, journal, true, u64::MAX));

    let snapshot = broker.inspect().await.unwrap();
    assert!(plan(&migrated(kind), &snapshot, &Options::default()).is_empty());
    assert!(snapshot.bindings.contains(&binding("amq.direct", "work", "foreign")));
    assert!(!snapshot.queues.iter().any(|q| q.definition.name.as_str().contains("migrate")));
    assert!(!snapshot.exchanges.iter().any(|e| e.name.as_str().contains("migrate")));
    assert_eq!(take(broker.as_ref(), "elsewhere").await, [], "CC must not fork again");

    let taken = take(broker.as_ref(), "work").await;
    let mut seen = vec![0u32; usize::try_from(MESSAGES).unwrap()];
    let mut found = 0u64;
    // From 4.0 on a quorum queue keeps two lanes, and order is order within one.
    let lanes = if broker.capabilities().quorum_priorities { 2 } else { 1 };
    let mut next = [None::<u64>; 2];
    for (key, mut message) in taken {
        let number: u64 = std::str::from_utf8(&message.body).unwrap().parse().unwrap();
        if seen[usize::try_from(number).unwrap()] == 0 {
            let lane = &mut next[usize::from(lanes == 2 && number % 10 >= 5)];
            assert!(lane.is_none_or(|last| last < number), "{number} came after {lane:?}");
            *lane = Some(number);
            found += 1;
        }
        seen[usize::try_from(number).unwrap()] += 1;
        assert_eq!(key, "k.1");
        if let Some(headers) = &mut message.properties.headers {
            headers.remove("x-delivery-count");
        }
        assert_eq!(message, numbered(number));
    }
    assert_eq!(found, MESSAGES, "lost: {:?}", seen.iter().position(|count| *count == 0));
    let twice: u64 = seen.iter().map(|count| u64::from(*count) - 1).sum();
    println!("{} {kinds:?}: seed {seed}, {hits} kills hit, {twice} duplicates", node.version);
    assert!(twice <= hits * u64::from(WINDOW), "{twice} duplicates after {hits} kills");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_to_quorum_survives_kills_on_3_10() {
    let Some(node) = Node::from_env("3_10") else { return };
    migrate_under_kills(&node, ["classic", "quorum"], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_to_quorum_survives_kills_on_4_0() {
    let Some(node) = Node::from_env("4_0") else { return };
    migrate_under_kills(&node, ["classic", "quorum"], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_a_quorum_queue_survives_kills_without_a_journal_on_3_10() {
    let Some(node) = Node::from_env("3_10") else { return };
    migrate_under_kills(&node, ["quorum", "limited"], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_of_a_quorum_queue_survives_kills_without_a_journal_on_4_0() {
    let Some(node) = Node::from_env("4_0") else { return };
    migrate_under_kills(&node, ["quorum", "limited"], false).await;
}
