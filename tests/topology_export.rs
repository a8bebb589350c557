//! A topology of two hundred objects with random arguments of every kind that the broker takes is
//! applied to a real broker; what is exported afterwards needs no change, and neither does the file.
//! The seed is printed, and `NEXUSCTL_TEST_SEED` repeats it.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and a run with a seed says which"
)]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;
use nexus::base::diagnostic::Severity;
use nexus::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use nexus::base::time::{SystemClock, Timestamp};
use nexus::broker::arguments::{
    QUEUE_ARGUMENTS, ValueKind, check_binding, check_policy, check_queue_arguments, json_of_field,
};
use nexus::broker::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, LockHolder,
    PolicyDefinition, Product, QueueDefinition, QueueType, Version,
};
use nexus::message::{FieldTable, FieldValue};
use nexus::topology::apply::{ApplyOptions, Silent, apply};
use nexus::topology::expand::render;
use nexus::topology::export::export;
use nexus::topology::migrate::Timing;
use nexus::topology::model::{Desired, Origin, Topology};
use nexus::topology::plan::{Options, plan};
use support::fixture::{Fixture, Kind};

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

fn pick<T: Clone>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())].clone()
}

/// A value that an argument takes: the edges of its range as often as its middle.
fn value(argument: &str, kind: ValueKind, rng: &mut Rng) -> FieldValue {
    // On one node only one member fits, and each priority is a queue of its own.
    if matches!(
        argument,
        "x-quorum-initial-group-size" | "x-initial-cluster-size" | "x-max-priority"
    ) {
        return FieldValue::Int64(rng.i64(1..6));
    }

    let within = |rng: &mut Rng, min: i64, max: i64| {
        let number = match rng.u8(..4) {
            0 => min,
            1 => max,
            _ => rng.i64(min..=min.saturating_add(1_000_000).min(max)),
        };
        // The broker keeps the width that it was given, and compares without it.
        match i32::try_from(number) {
            Ok(number) if rng.bool() => FieldValue::Int32(number),
            _ => FieldValue::Int64(number),
        }
    };
    match kind {
        ValueKind::Count { min, max } => within(rng, min, max),
        ValueKind::Milliseconds { min } => {
            // A queue must not go away, nor its messages, while it is looked at.
            within(rng, min.max(600_000), nexus::broker::arguments::MAX_MILLISECONDS)
        }
        ValueKind::Bytes { max } => within(rng, 0, max),
        ValueKind::Text => FieldValue::from(text(rng).as_str()),
        ValueKind::Choice(words) => FieldValue::from(pick(rng, words)),
        ValueKind::Flag => FieldValue::Bool(rng.bool()),
        ValueKind::Age => {
            let unit = pick(rng, &["Y", "M", "D", "h", "m", "s"]);
            FieldValue::from(format!("{}{unit}", rng.u32(1..1000)).as_str())
        }
        ValueKind::Any => any_value(rng, 2),
    }
}

/// A value of any type that an argument of a client can have.
fn any_value(rng: &mut Rng, depth: usize) -> FieldValue {
    match rng.u8(..if depth == 0 { 8 } else { 10 }) {
        0 => FieldValue::Bool(rng.bool()),
        1 => FieldValue::Int32(rng.i32(..)),
        2 => FieldValue::Int64(rng.i64(..)),
        3 => FieldValue::Int16(rng.i16(..)),
        4 => FieldValue::Int8(rng.i8(..)),
        5 => FieldValue::from(text(rng).as_str()),
        6 => FieldValue::Double(f64::from(rng.i32(..)) / 64.0),
        7 => FieldValue::from(""),
        8 => FieldValue::Array((0..rng.usize(..3)).map(|_| any_value(rng, depth - 1)).collect()),
        _ => FieldValue::Table(
            (0..rng.usize(..3)).map(|n| (format!("k{n}"), any_value(rng, depth - 1))).collect(),
        ),
    }
}

fn text(rng: &mut Rng) -> String {
    let letters: Vec<char> = "abcxyz019.-_:/~%+ #*$^|()[]{}'\"\\äß€😀".chars().collect();
    (0..rng.usize(1..12)).map(|_| letters[rng.usize(..letters.len())]).collect()
}

/// Names that no rule keeps for the broker or for us, each once.
fn name(rng: &mut Rng, used: &mut BTreeSet<String>) -> String {
    loop {
        let name = text(rng);
        // In the path of a request these two are the directory, so a policy cannot have them.
        if !name.starts_with("amq.") && name != "." && name != ".." && used.insert(name.clone()) {
            return name;
        }
    }
}

/// What the broker would refuse, or take and not do.
fn refused(queue: &QueueDefinition, kind: QueueType, version: Version) -> bool {
    check_queue_arguments(queue, kind, version).iter().any(|problem| problem.refused)
}

/// A queue of `kind` with each argument that this type knows in this version, one time in three; every
/// value is one that the broker takes.
fn queue(
    rng: &mut Rng,
    name: String,
    kind: QueueType,
    version: Version,
    told: &mut BTreeSet<(&'static str, &'static str)>,
) -> QueueDefinition {
    let mut queue = QueueDefinition {
        name: QueueName::new(name).unwrap(),
        durable: kind != QueueType::Classic || rng.u8(..5) > 0,
        exclusive: false,
        auto_delete: kind == QueueType::Classic && rng.u8(..5) == 0,
        arguments: FieldTable::new(),
    };
    if kind != QueueType::Classic || rng.bool() {
        queue.arguments.insert("x-queue-type", kind.as_str());
    }
    for argument in QUEUE_ARGUMENTS {
        if argument.name.is_empty() || argument.name == "x-queue-type" || rng.u8(..3) > 0 {
            continue;
        }
        let mut with = queue.clone();
        with.arguments.insert(argument.name, value(argument.name, argument.value, rng));
        if argument.name == "x-dead-letter-routing-key" {
            with.arguments.insert("x-dead-letter-exchange", text(rng).as_str());
        }
        if refused(&with, kind, version) {
            continue;
        }
        told.insert((kind.as_str(), argument.name));
        queue = with;
    }
    for n in 0..rng.usize(..3) {
        queue.arguments.insert(format!("x-own-{n}"), any_value(rng, 2));
    }
    queue
}

fn policy(rng: &mut Rng, name: &str, version: Version, operator: bool) -> PolicyDefinition {
    loop {
        let mut policy = PolicyDefinition {
            name: PolicyName::new(name).unwrap(),
            pattern: pick(rng, &["^a", "b$", ".*x.*", "[0-9]+", "^(a|b)\\.", "ä"]).to_owned(),
            apply_to: pick(
                rng,
                &[
                    ApplyTo::All,
                    ApplyTo::Queues,
                    ApplyTo::Exchanges,
                    ApplyTo::ClassicQueues,
                    ApplyTo::QuorumQueues,
                    ApplyTo::Streams,
                ],
            ),
            priority: rng.i64(-5..1000),
            definition: serde_json::Map::new(),
        };
        for argument in QUEUE_ARGUMENTS {
            let Some(key) = argument.policy else { continue };
            if rng.u8(..6) > 0 || key.key.starts_with("ha-") {
                continue;
            }
            let mut with = policy.clone();
            let said = json_of_field(&value(argument.name, argument.value, rng));
            with.definition.insert(key.key.to_owned(), said);
            if !check_policy(&with, operator, version).iter().any(|problem| problem.refused) {
                policy = with;
            }
        }
        if !operator && matches!(policy.apply_to, ApplyTo::All | ApplyTo::Exchanges) && rng.bool() {
            policy.definition.insert("alternate-exchange".to_owned(), text(rng).into());
        }
        if !policy.definition.is_empty()
            && !check_policy(&policy, operator, version).iter().any(|problem| problem.refused)
        {
            return policy;
        }
    }
}

fn generated(rng: &mut Rng, version: Version, streams: bool) -> Topology {
    let mut used = BTreeSet::new();
    let mut told = BTreeSet::new();
    let mut t = Topology { owner: "me".to_owned(), ..Topology::default() };
    let kinds =
        [ExchangeKind::Direct, ExchangeKind::Fanout, ExchangeKind::Topic, ExchangeKind::Headers];
    for _ in 0..30 {
        let mut arguments = FieldTable::new();
        if rng.bool() {
            arguments.insert("alternate-exchange", text(rng).as_str());
        }
        for n in 0..rng.usize(..3) {
            arguments.insert(format!("x-own-{n}"), any_value(rng, 2));
        }
        t.exchanges.push(desired(ExchangeDefinition {
            name: ExchangeName::new(name(rng, &mut used)).unwrap(),
            kind: pick(rng, &kinds),
            durable: rng.u8(..4) > 0,
            auto_delete: rng.u8(..4) == 0,
            internal: rng.u8(..4) == 0,
            arguments,
        }));
    }
    let kinds = [QueueType::Classic, QueueType::Quorum, QueueType::Stream];
    for n in 0..60 {
        let kind = kinds[if streams { n % 3 } else { n % 2 }];
        let name = name(rng, &mut used);
        t.queues.push(desired(queue(rng, name, kind, version, &mut told)));
    }
    let mut seen = BTreeSet::new();
    while t.bindings.len() < 95 {
        let source = &t.exchanges[rng.usize(..t.exchanges.len())].definition;
        let (source, kind) = (source.name.clone(), source.kind.clone());
        let destination = if rng.u8(..4) == 0 {
            let to = &t.exchanges[rng.usize(..t.exchanges.len())].definition;
            Destination::Exchange(to.name.clone())
        } else {
            let to = &t.queues[rng.usize(..t.queues.len())].definition;
            Destination::Queue(to.name.clone())
        };
        let mut arguments = FieldTable::new();
        if kind == ExchangeKind::Headers {
            arguments.insert("x-match", pick(rng, &["all", "any", "all-with-x", "any-with-x"]));
        }
        for n in 0..rng.usize(..4) {
            arguments.insert(format!("h{n}"), any_value(rng, 1));
        }
        let routing_key = if rng.u8(..4) == 0 { String::new() } else { text(rng) };
        let binding = BindingDefinition {
            source,
            destination,
            routing_key: RoutingKey::new(routing_key).unwrap(),
            arguments,
        };
        // What makes the management API fail is no object of a topology.
        let harmful = check_binding(&binding, &kind, version)
            .into_iter()
            .any(|problem| problem.severity == Severity::Error);
        // Two that the broker takes for the same are one.
        if !harmful
            && seen.insert(nexus::topology::fingerprint::canonical_binding(&binding).to_string())
        {
            t.bindings.push(desired(binding));
        }
    }
    for operator in [false, true] {
        for _ in 0..if operator { 5 } else { 10 } {
            let name = name(rng, &mut used);
            let policy = desired(policy(rng, &name, version, operator));
            if operator { t.operator_policies.push(policy) } else { t.policies.push(policy) }
        }
    }
    // Every argument that any type of this version takes is in it, or the check says nothing of it.
    for kind in kinds.into_iter().filter(|kind| streams || *kind != QueueType::Stream) {
        for argument in QUEUE_ARGUMENTS.iter().filter(|a| !a.name.is_empty()) {
            let known = argument.support(kind).includes(version) && argument.name != "x-queue-type";
            assert!(
                !known || told.contains(&(kind.as_str(), argument.name)),
                "{} is on no {kind} queue",
                argument.name
            );
        }
    }
    t
}

async fn agrees(kind: Kind) {
    let Some(fixture) = Fixture::start(kind).await else { return };
    let broker = fixture.broker();
    let identity = broker.identity().clone();
    #[expect(clippy::disallowed_methods, reason = "tests are told by their environment")]
    let seed = std::env::var("NEXUSCTL_TEST_SEED")
        .map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("{kind:?}: seed {seed}");
    let topology = generated(
        &mut Rng::with_seed(seed),
        identity.version,
        identity.product == Product::RabbitMq,
    );
    let objects = topology.exchanges.len()
        + topology.queues.len()
        + topology.bindings.len()
        + topology.policies.len()
        + topology.operator_policies.len();
    assert_eq!(objects, 200);
    let planned = plan(&topology, &broker.inspect().await.unwrap(), &Options::default());
    let options = ApplyOptions {
        holder: LockHolder { who: "test".to_owned(), since: Timestamp::from_unix_ms(0) },
        lock_timeout: Duration::from_secs(20),
        continue_on_error: true,
        skip_blocked: false,
        journal: None,
        timing: Timing::default(),
    };
    let report = apply(
        broker.as_ref(),
        &planned,
        Some((&topology, &Options::default())),
        &options,
        &SystemClock,
        &mut Silent,
    )
    .await
    .unwrap();
    let failed: Vec<String> = report
        .failed()
        .map(|step| format!("{}: {}", step.what, step.error.as_deref().unwrap_or("left out")))
        .collect();
    assert!(failed.is_empty(), "seed {seed}:\n{}", failed.join("\n"));
    assert!(report.is_complete(), "seed {seed}: {:#?}", report.residue);

    let snapshot = broker.inspect().await.unwrap();
    let exported = export(&snapshot, "me");
    for (from, topology) in [
        ("file", topology),
        ("export", exported),
        ("text", {
            let text = render(&export(&snapshot, "me"));
            let source = nexus::base::diagnostic::Source::new("t.yaml", text);
            let documents = nexus::base::document::read_documents(&source).unwrap();
            nexus::topology::expand::load(&documents, &Default::default()).unwrap()
        }),
    ] {
        let again = plan(&topology, &snapshot, &Options::default());
        assert!(again.is_empty(), "seed {seed}, {from}: {:#?}", again.changes);
        assert!(again.extra.is_empty(), "seed {seed}, {from}: {:#?}", again.extra);
        assert_eq!(topology.queues.len(), 60, "seed {seed}, {from}");
        assert_eq!(topology.bindings.len(), 95, "seed {seed}, {from}");
    }
    fixture.stop().await;
}

#[tokio::test]
async fn an_export_of_rabbitmq_3_10_needs_no_change() {
    agrees(Kind::RabbitMq310).await;
}

#[tokio::test]
async fn an_export_of_rabbitmq_4_0_needs_no_change() {
    agrees(Kind::RabbitMq40).await;
}

#[tokio::test]
async fn an_export_of_the_embedded_broker_needs_no_change() {
    agrees(Kind::EmbeddedLike40).await;
}
