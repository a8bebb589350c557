//! Running plans against a broker in memory that dies at the n-th request, for every n.
#![expect(clippy::unwrap_used, reason = "a helper that fails should fail its test")]

#[path = "support/fake.rs"]
mod fake;
#[path = "support/faulty.rs"]
mod faulty;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, binding, exchange, queue};
use faulty::Faulty;
use nexus::base::time::{FixedClock, Timestamp};
use nexus::broker::{
    ApplyTo, Broker, Change, Destination, ErrorKind, LockHolder, PolicyDefinition, QueueType,
    ReadOnly, Snapshot, Version,
};
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use nexus::topology::apply::{ApplyError, ApplyOptions, ApplyReport, Silent, StepOutcome, apply};
use nexus::topology::migrate::Timing;
use nexus::topology::model::{Desired, Origin, Topology};
use nexus::topology::object::ObjectKind;
use nexus::topology::ownership;
use nexus::topology::plan::{Options, Plan, plan};

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

fn options(journal: Option<&Path>) -> ApplyOptions {
    ApplyOptions {
        holder: LockHolder {
            who: "me@here, process 1".to_owned(),
            since: Timestamp::from_unix_ms(0),
        },
        lock_timeout: Duration::ZERO,
        continue_on_error: false,
        skip_blocked: false,
        journal: journal.map(Path::to_owned),
        timing: Timing::default(),
    }
}

async fn run(
    broker: &dyn Broker,
    topology: &Topology,
    planning: &Options,
    journal: Option<&Path>,
) -> Result<ApplyReport, ApplyError> {
    let snapshot = match broker.inspect().await {
        Ok(snapshot) => snapshot,
        Err(error) => return Err(error.into()),
    };
    let plan = plan(topology, &snapshot, planning);
    run_plan(broker, &plan, Some((topology, planning)), journal).await
}

async fn run_plan(
    broker: &dyn Broker,
    plan: &Plan,
    desired: Option<(&Topology, &Options)>,
    journal: Option<&Path>,
) -> Result<ApplyReport, ApplyError> {
    let clock = FixedClock::at(Timestamp::from_unix_ms(0));
    apply(broker, plan, desired, &options(journal), &clock, &mut Silent).await
}

/// A topology that differs from [`before`] in every way there is.
fn after() -> Topology {
    let mut with_alternate = exchange("events", "topic");
    with_alternate.arguments.insert("alternate-exchange", "lost");
    Topology {
        owner: "me".to_owned(),
        exchanges: vec![
            desired(with_alternate),
            desired(exchange("lost", "fanout")),
            desired(exchange("retyped", "direct")),
        ],
        queues: vec![
            desired(queue("made", FieldTable::new())),
            desired(queue("empty", FieldTable::new().with("x-max-length", 5))),
            desired(queue("full", FieldTable::new().with("x-max-priority", 5))),
        ],
        bindings: vec![
            desired(binding("events", "made", "a")),
            desired(binding("retyped", "full", "k")),
            desired(binding("retyped", "full", "k2")),
        ],
        ..Topology::default()
    }
}

fn before() -> Fake {
    let broker = Fake::new(Version::new(4, 0, 5));
    for change in [
        Change::DeclareExchange(exchange("retyped", "fanout")),
        Change::DeclareQueue(queue("empty", FieldTable::new())),
        Change::DeclareQueue(queue("full", FieldTable::new())),
        Change::DeclareQueue(queue("old", FieldTable::new())),
        Change::Bind(binding("retyped", "empty", "foreign")),
        Change::Bind(binding("retyped", "full", "k")),
        Change::Bind(binding("retyped", "full", "foreign")),
        Change::Bind(binding("amq.direct", "old", "k")),
        ownership::declaration(),
        ownership::claim(ownership::Owned::Named(ObjectKind::Queue, "old"), "me"),
    ] {
        broker.make(&change);
    }
    for number in 0..5 {
        broker.put("full", message(number));
    }
    broker
}

fn message(number: u64) -> Message {
    Message {
        properties: Properties {
            headers: Some(FieldTable::new().with("CC", FieldValue::Array(vec!["old".into()]))),
            priority: Some(3),
            expiration: number.is_multiple_of(2).then(|| "60000".to_owned()),
            ..Properties::default()
        },
        body: number.to_string().into_bytes(),
    }
}

fn numbers(broker: &Fake, queue: &str) -> Vec<u64> {
    broker
        .messages(queue)
        .iter()
        .map(|(_, message)| String::from_utf8(message.body.clone()).unwrap().parse().unwrap())
        .collect()
}

fn everything() -> Options {
    Options { migrate: true, prune: [ObjectKind::Queue].into(), ..Options::default() }
}

/// What is there, without the order of bindings.
fn state(broker: &Fake) -> Snapshot {
    let mut snapshot = broker.snapshot();
    snapshot.bindings.sort_by_key(|binding| format!("{binding:?}"));
    for queue in &mut snapshot.queues {
        queue.ready = None;
    }
    snapshot
}

#[tokio::test(start_paused = true)]
async fn everything_is_changed_and_a_second_run_sends_nothing_that_changes() {
    let broker = before();
    let journal = tempfile::tempdir().unwrap();
    let path = journal.path().join("deep/journal.ndjson");
    let report = run(&broker, &after(), &everything(), Some(&path)).await.unwrap();
    assert!(report.is_complete(), "{:?} {:?}", report.failed().collect::<Vec<_>>(), report.residue);
    assert_eq!(report.owners_not_recorded, None);
    assert_eq!(numbers(&broker, "full"), [0, 1, 2, 3, 4]);
    assert_eq!(broker.messages("full")[0].1, message(0), "properties and headers are kept");
    assert_eq!(broker.messages("full")[0].0, "full", "the routing key is kept");
    let snapshot = broker.snapshot();
    assert!(
        !snapshot.queues.iter().any(|queue| queue.definition.name.as_str().contains("migrate"))
    );
    assert!(!snapshot.queues.iter().any(|queue| queue.definition.name.as_str() == "old"));
    for (queue, key) in [("empty", "foreign"), ("full", "foreign"), ("full", "k"), ("full", "k2")] {
        assert!(snapshot.bindings.contains(&binding("retyped", queue, key)), "{queue} {key}");
    }

    let counting = Faulty::counting(Arc::new(broker));
    let second = run(&counting, &after(), &everything(), Some(&path)).await.unwrap();
    assert!(second.is_complete());
    assert_eq!((counting.mutations(), second.steps.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_dies_at_any_request_is_finished_by_the_next() {
    let goal = before();
    assert!(run(&goal, &after(), &everything(), None).await.unwrap().is_complete());
    // Without a journal it is another machine that goes on.
    for (takes_effect, with_journal) in [(false, true), (true, true), (false, false), (true, false)]
    {
        let mut died = 0;
        for n in 1.. {
            let broker = before();
            let directory = tempfile::tempdir().unwrap();
            let journal = directory.path().join("journal.ndjson");
            let journal = with_journal.then_some(journal.as_path());
            let faulty = Faulty::fail_at(Arc::new(broker.clone()), n, takes_effect);
            let first = run(&faulty, &after(), &everything(), journal).await;
            if !faulty.has_failed() {
                assert!(first.unwrap().is_complete());
                break;
            }
            died += 1;
            // A second death at another place, then the end.
            let faulty = Faulty::fail_at(Arc::new(broker.clone()), 3 + n % 17, takes_effect);
            let _ = run(&faulty, &after(), &everything(), journal).await;
            let last = run(&broker, &after(), &everything(), journal)
                .await
                .unwrap_or_else(|error| panic!("request {n}, effect {takes_effect}: {error}"));
            assert!(last.is_complete(), "request {n}: {last:?}");
            let (mut is, should) = (state(&broker), state(&goal));
            if !with_journal {
                // A declared binding that was nobody's, and that the first run took away with its
                // exchange, was made by the second: so it is recorded as ours.
                let k = binding("retyped", "full", "k");
                let made = ownership::claim(ownership::Owned::Binding(&k), "me");
                is.bindings.retain(|binding| made != Change::Bind(binding.clone()));
            }
            let place = format!("request {n}, effect {takes_effect}, journal {with_journal}");
            assert_eq!(is.exchanges, should.exchanges, "{place}");
            assert_eq!(is.bindings, should.bindings, "{place}");
            assert_eq!(is, should, "{place}");
            let mut left = numbers(&broker, "full");
            let first_seen: Vec<u64> = {
                let mut seen = Vec::new();
                left.retain(|number| {
                    let new = !seen.contains(number);
                    if new {
                        seen.push(*number);
                    }
                    !new
                });
                seen
            };
            assert_eq!(first_seen, [0, 1, 2, 3, 4], "request {n}, effect {takes_effect}");
            assert!(
                left.len() <= 10,
                "two deaths leave at most what was in flight twice: {left:?}"
            );
        }
        assert!(died > 60, "{died} requests were enough?");
    }
}

#[tokio::test(start_paused = true)]
async fn a_migration_goes_on_without_a_journal() {
    let topology = Topology {
        owner: "me".to_owned(),
        exchanges: vec![desired(exchange("retyped", "fanout"))],
        queues: vec![desired(queue("full", FieldTable::new().with("x-max-priority", 5)))],
        bindings: vec![desired(binding("retyped", "full", "k"))],
        ..Topology::default()
    };
    let planning = Options { migrate: true, ..Options::default() };
    for n in 1.. {
        let broker = before();
        let faulty = Faulty::fail_at(Arc::new(broker.clone()), n, n % 2 == 0);
        let first = run(&faulty, &topology, &planning, None).await;
        if !faulty.has_failed() {
            assert!(first.unwrap().is_complete());
            break;
        }
        let last = run(&broker, &topology, &planning, None).await.unwrap();
        assert!(last.is_complete(), "request {n}: {:?}", last.residue);
        let snapshot = broker.snapshot();
        for key in ["k", "foreign"] {
            assert!(
                snapshot.bindings.contains(&binding("retyped", "full", key)),
                "request {n}: {key}"
            );
        }
        assert!(
            !snapshot.queues.iter().any(|q| q.definition.name.as_str().contains("migrate")),
            "request {n}"
        );
        let mut seen = numbers(&broker, "full");
        seen.dedup();
        let mut unique = seen.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique, [0, 1, 2, 3, 4], "request {n}: {seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_migration_comes_after_what_was_there() {
    let broker = before();
    let topology = Topology {
        owner: "me".to_owned(),
        queues: vec![desired(queue("full", FieldTable::new().with("x-max-priority", 5)))],
        ..Topology::default()
    };
    let publisher = {
        let broker = broker.clone();
        tokio::spawn(async move {
            let mut taken = 0;
            for number in 100..160 {
                taken += broker.route("retyped", "k", message(number)).min(1);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            taken
        })
    };
    let planning = Options { migrate: true, ..Options::default() };
    let report = run(&broker, &topology, &planning, None).await.unwrap();
    assert!(report.is_complete());
    assert_eq!(publisher.await.unwrap(), 60, "each found a queue");
    let mut seen = numbers(&broker, "full");
    seen.dedup();
    assert_eq!(seen[..5], [0, 1, 2, 3, 4]);
    let expected: Vec<u64> = (0..5).chain(100..160).collect();
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn messages_that_others_hold_stop_a_migration_and_nothing_is_lost() {
    let broker = before();
    let name = "full".parse().unwrap();
    let mut holder = broker
        .consumer(&name, nexus::broker::ConsumerOptions { prefetch: 2, ..Default::default() })
        .await
        .unwrap();
    holder.next().await.unwrap();
    let topology = Topology {
        owner: "me".to_owned(),
        queues: vec![desired(queue("full", FieldTable::new().with("x-max-priority", 5)))],
        ..Topology::default()
    };
    let planning = Options { migrate: true, while_consumed: true, ..Options::default() };
    let report = run(&broker, &topology, &planning, None).await.unwrap();
    let failed: Vec<_> = report.failed().collect();
    assert!(failed[0].error.as_ref().unwrap().contains("held unacked"), "{failed:?}");
    drop(holder);
    let report = run(&broker, &topology, &planning, None).await.unwrap();
    assert!(report.is_complete());
    let mut seen = numbers(&broker, "full");
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn the_lock_is_taken_for_work_only_and_its_holder_is_named() {
    let broker = before();
    let other = LockHolder { who: "them@there".to_owned(), since: Timestamp::from_unix_ms(0) };
    let lock = broker.lock("topology.v", &other).await.unwrap();
    let error = run(&broker, &after(), &everything(), None).await.unwrap_err();
    assert!(matches!(&error, ApplyError::Locked(Some(holder)) if holder.who == "them@there"));
    assert!(error.to_string().contains("them@there"), "{error}");
    drop(lock);
    assert!(run(&broker, &after(), &everything(), None).await.unwrap().is_complete());
    let _lock = broker.lock("topology.v", &other).await.unwrap();
    assert!(run(&broker, &after(), &everything(), None).await.unwrap().is_complete());
}

#[tokio::test(start_paused = true)]
async fn a_plan_for_what_was_is_refused_and_nothing_is_changed() {
    let broker = before();
    let plan = plan(&after(), &broker.snapshot(), &everything());
    broker.make(&Change::Bind(binding("amq.direct", "full", "new")));
    let counting = Faulty::counting(Arc::new(broker));
    let error = run_plan(&counting, &plan, None, None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing was changed: since the plan was made, queue `full`: its bindings were changed"
    );
    assert_eq!(counting.mutations(), 1, "the lock");

    let mut elsewhere = plan.clone();
    elsewhere.broker.cluster_name = "production".to_owned();
    let error = run_plan(&counting, &elsewhere, None, None).await.unwrap_err();
    assert!(error.to_string().contains("production"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_plan_changes_nothing_unless_told_to_leave_it_out() {
    let broker = before();
    let planning = Options { migrate: false, ..Options::default() };
    let error = run(&broker, &after(), &planning, None).await.unwrap_err();
    assert!(matches!(error, ApplyError::Blocked(ref blocked) if blocked.len() == 1), "{error}");
    let plan = plan(&after(), &broker.snapshot(), &planning);
    let clock = FixedClock::at(Timestamp::from_unix_ms(0));
    let told = ApplyOptions { skip_blocked: true, ..options(None) };
    let report = apply(&broker, &plan, Some((&after(), &planning)), &told, &clock, &mut Silent)
        .await
        .unwrap();
    assert_eq!(report.failed().count(), 0);
    assert_eq!(report.residue.len(), 1, "{:?}", report.residue);
    assert_eq!(numbers(&broker, "full"), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_reported_and_the_rest_goes_on_where_told() {
    for continue_on_error in [false, true] {
        let broker = Fake::new(Version::new(4, 0, 5));
        let mut topology = after();
        // Nobody may declare this one.
        topology.exchanges.insert(0, desired(exchange("fine", "fanout")));
        topology.bindings.push(desired(nexus::broker::BindingDefinition {
            destination: Destination::Exchange("missing".parse().unwrap()),
            ..binding("fine", "made", "")
        }));
        topology.policies.push(desired(PolicyDefinition {
            name: "last".parse().unwrap(),
            pattern: "^exists-later$".to_owned(),
            apply_to: ApplyTo::Queues,
            priority: 0,
            definition: [("max-length".to_owned(), 5.into())].into_iter().collect(),
        }));
        let plan = plan(&topology, &broker.snapshot(), &Options::default());
        let clock = FixedClock::at(Timestamp::from_unix_ms(0));
        let told = ApplyOptions { continue_on_error, ..options(None) };
        let report = apply(
            &broker,
            &plan,
            Some((&topology, &Options::default())),
            &told,
            &clock,
            &mut Silent,
        )
        .await
        .unwrap();
        let failed: Vec<_> = report.failed().map(|step| step.outcome).collect();
        let skipped = (!continue_on_error).then_some(StepOutcome::Skipped);
        let expected: Vec<_> = [StepOutcome::Failed].into_iter().chain(skipped).collect();
        assert_eq!(failed, expected);
        let records = report
            .steps
            .iter()
            .filter(|step| step.object.name.contains("owners"))
            .map(|step| step.outcome);
        assert!(records.clone().count() > 3, "whose it shall be stands there first");
        assert!(records.clone().all(|outcome| outcome == StepOutcome::Done));
        let expected = if continue_on_error { StepOutcome::Done } else { StepOutcome::Skipped };
        let put = report.steps.iter().find(|step| step.what == "set policy `last`").unwrap();
        assert_eq!(put.outcome, expected);
        assert_eq!(report.residue.len(), if continue_on_error { 1 } else { 2 });
        assert!(!report.is_complete());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_only_reads_refuses_everything_else() {
    let broker = before();
    let reading = ReadOnly(Arc::new(broker.clone()));
    let before = state(&broker);
    let error = run(&reading, &after(), &everything(), None).await.unwrap_err();
    assert!(
        matches!(&error, ApplyError::Broker(error) if error.kind == ErrorKind::ReadOnly),
        "{error}"
    );
    assert!(reading.publisher(Default::default()).await.is_err());
    let mut consumer =
        reading.consumer(&"full".parse().unwrap(), Default::default()).await.unwrap();
    let delivery = consumer.next().await.unwrap();
    for how in [nexus::broker::Settlement::Ack, nexus::broker::Settlement::Reject] {
        assert_eq!(consumer.settle(delivery.tag, how).await.unwrap_err().kind, ErrorKind::ReadOnly);
    }
    consumer.close().await.unwrap();
    assert_eq!(state(&broker), before);
    assert_eq!(numbers(&broker, "full"), [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_move_in_order() {
    let broker = before();
    for number in 5..10_000 {
        broker.put("full", message(number));
    }
    let topology = Topology {
        owner: "me".to_owned(),
        queues: vec![desired(queue(
            "full",
            FieldTable::new().with("x-queue-type", QueueType::Quorum.as_str()),
        ))],
        ..Topology::default()
    };
    let planning = Options { migrate: true, ..Options::default() };
    assert!(run(&broker, &topology, &planning, None).await.unwrap().is_complete());
    assert_eq!(numbers(&broker, "full"), (0..10_000).collect::<Vec<_>>());
}
