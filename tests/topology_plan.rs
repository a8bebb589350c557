//! Every class of change, by tables and properties; no broker is asked but one in memory.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper that fails should fail its test, and a measurement says what it found"
)]

#[path = "support/fake.rs"]
mod fake;

use std::collections::BTreeSet;

use fake::{Fake, binding, exchange, queue};
use nexus::base::id::PolicyName;
use nexus::broker::{
    ApplyTo, BindingDefinition, Change, ExchangeDefinition, PolicyDefinition, QueueDefinition,
    QueueState, QueueType, Snapshot, Version,
};
use nexus::message::{FieldTable, FieldValue, Message};
use nexus::topology::destroy::destroy;
use nexus::topology::diff::diff;
use nexus::topology::export::export;
use nexus::topology::keep;
use nexus::topology::model::{Desired, Origin, Topology};
use nexus::topology::object::{ObjectKind, ObjectRef};
use nexus::topology::observed::Observed;
use nexus::topology::ownership::{self, Owned, Owner};
use nexus::topology::plan::{Action, DriftClass, Options, Phase, StepAction, ValueSource, plan};
use nexus::topology::saved_plan::{self, SavedPlanError};
use proptest::prelude::*;

const V3_10: Version = Version::new(3, 10, 8);
const V4_0: Version = Version::new(4, 0, 5);

fn desired<T>(definition: T) -> Desired<T> {
    Desired { definition, protect: false, origin: Origin { span: None, expanded_from: None } }
}

fn topology(
    exchanges: Vec<ExchangeDefinition>,
    queues: Vec<QueueDefinition>,
    bindings: Vec<BindingDefinition>,
) -> Topology {
    Topology {
        owner: "me".to_owned(),
        exchanges: exchanges.into_iter().map(desired).collect(),
        queues: queues.into_iter().map(desired).collect(),
        bindings: bindings.into_iter().map(desired).collect(),
        ..Topology::default()
    }
}

fn policy(
    name: &str,
    pattern: &str,
    priority: i64,
    definition: serde_json::Value,
) -> PolicyDefinition {
    let serde_json::Value::Object(definition) = definition else {
        panic!("no table: {definition}")
    };
    PolicyDefinition {
        name: PolicyName::new(name).unwrap(),
        pattern: pattern.to_owned(),
        apply_to: ApplyTo::Queues,
        priority,
        definition,
    }
}

/// A broker with queue `q` (with `arguments`), bound to exchange `x`, holding `messages`.
fn with_queue(version: Version, arguments: FieldTable, messages: usize) -> Fake {
    let broker = Fake::new(version);
    broker.make(&Change::DeclareExchange(exchange("x", "direct")));
    broker.make(&Change::DeclareQueue(queue("q", arguments)));
    broker.make(&Change::Bind(binding("x", "q", "k")));
    broker.make(&Change::Bind(binding("x", "q", "foreign")));
    for _ in 0..messages {
        broker.put("q", Message::default());
    }
    broker
}

fn own(broker: &Fake, owner: &str, objects: &[Owned<'_>]) {
    broker.make(&ownership::declaration());
    for object in objects {
        broker.make(&ownership::claim(*object, owner));
    }
}

fn wanted(arguments: FieldTable) -> Topology {
    topology(
        vec![exchange("x", "direct")],
        vec![queue("q", arguments)],
        vec![binding("x", "q", "k")],
    )
}

#[test]
fn what_is_missing_is_made_in_a_safe_order() {
    let broker = Fake::new(V4_0);
    let mut first = exchange("first", "topic");
    first.arguments.insert("alternate-exchange", "second");
    let mut topology = topology(
        vec![first, exchange("second", "fanout")],
        vec![queue("q", FieldTable::new())],
        vec![binding("first", "q", "k")],
    );
    topology.policies.push(desired(policy("p", "^q$", 0, serde_json::json!({"max-length": 5}))));
    let plan = plan(&topology, &broker.snapshot(), &Options::default());
    let steps: Vec<String> = plan
        .steps
        .iter()
        .map(|step| match &step.action {
            StepAction::Change(change) => change.to_string(),
            StepAction::Migrate(_) => "migrate".to_owned(),
        })
        .collect();
    assert_eq!(steps.len(), 1 + 5 + 5, "the owners exchange and five records: {steps:?}");
    assert!(
        steps[..6].iter().all(|step| step.contains("nexusctl.owners")),
        "whose it is stands there before it does: {steps:?}"
    );
    assert_eq!(
        &steps[6..],
        [
            "declare exchange `second`",
            "declare exchange `first`",
            "set policy `p`",
            "declare queue `q`",
            "bind queue `q` to exchange `first` by `k`"
        ]
    );
    assert_eq!(plan.count(DriftClass::Missing), 5);
}

#[test]
fn classic_and_no_type_and_other_widths_are_no_change() {
    for version in [V3_10, V4_0] {
        let broker =
            with_queue(version, FieldTable::new().with("x-max-length", FieldValue::Int32(5)), 0);
        let same =
            wanted(FieldTable::new().with("x-queue-type", "classic").with("x-max-length", 5));
        assert!(plan(&same, &broker.snapshot(), &Options::default()).is_empty());
    }
    let broker = Fake::new(V4_0);
    broker.default_queue_type(Some(QueueType::Quorum));
    broker.make(&Change::DeclareQueue(queue("q", FieldTable::new())));
    let topology = topology(vec![], vec![queue("q", FieldTable::new())], vec![]);
    assert!(plan(&topology, &broker.snapshot(), &Options::default()).is_empty());
}

#[test]
fn an_argument_the_broker_ignores_on_redeclare_is_drift_all_the_same() {
    let broker = with_queue(V4_0, FieldTable::new().with("x-foo", "a"), 0);
    let plan = plan(
        &wanted(FieldTable::new().with("x-foo", "b")),
        &broker.snapshot(),
        &Options::default(),
    );
    let fields = &plan.changes[0].fields;
    assert_eq!(fields.len(), 1);
    assert_eq!(fields[0].field, "arguments.x-foo");
    assert_eq!(
        (fields[0].old.clone(), fields[0].new.clone()),
        (Some("a".into()), Some("b".into()))
    );
    assert_eq!(fields[0].old_source, ValueSource::Argument);
}

#[test]
fn the_old_value_says_where_it_comes_from() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    broker.make(&Change::PutPolicy(policy(
        "limits",
        "^q",
        0,
        serde_json::json!({"max-length": 100}),
    )));
    let mut topology = wanted(FieldTable::new().with("x-max-length", 50));
    topology.policies.push(desired(policy(
        "limits",
        "^q",
        0,
        serde_json::json!({"max-length": 100}),
    )));
    let plan = plan(&topology, &broker.snapshot(), &Options::default());
    let field = &plan.changes[0].fields[0];
    assert_eq!(
        (field.old.clone(), field.old_source.clone()),
        (Some(100.into()), ValueSource::Policy("limits".to_owned()))
    );
}

#[test]
fn an_immutable_change_is_classified_by_what_the_queue_holds() {
    let options =
        |migrate, policy_instead| Options { migrate, policy_instead, ..Options::default() };
    let quorum = FieldTable::new().with("x-queue-type", "quorum");
    let limited = FieldTable::new().with("x-max-length", 5);
    let table: [(FieldTable, usize, Options, Action, &[&str]); 6] = [
        (quorum.clone(), 0, options(false, false), Action::ReplaceWhileEmpty, &[]),
        (quorum.clone(), 3, options(false, false), Action::ReplaceWhileEmpty, &["has-messages"]),
        (quorum.clone(), 3, options(true, false), Action::Migrate, &[]),
        (limited.clone(), 3, options(false, true), Action::PolicyInstead, &[]),
        (quorum, 3, options(false, true), Action::ReplaceWhileEmpty, &["has-messages"]),
        (
            FieldTable::new().with("x-queue-type", "stream"),
            3,
            options(true, false),
            Action::Migrate,
            &["stream"],
        ),
    ];
    for (arguments, messages, options, action, blockers) in table {
        let broker = with_queue(V4_0, FieldTable::new(), messages);
        let plan = plan(&wanted(arguments.clone()), &broker.snapshot(), &options);
        let change = &plan.changes[0];
        let codes: Vec<&str> =
            change.blockers.iter().map(|blocker| blocker.code.as_str()).collect();
        assert_eq!(
            (change.action, codes.as_slice()),
            (action, blockers),
            "{arguments:?} {options:?}"
        );
        assert_eq!(change.messages, Some(messages as u64));
        assert_eq!(plan.steps.is_empty(), !blockers.is_empty(), "{arguments:?}: {:?}", plan.steps);
    }
}

#[test]
fn replacing_puts_every_binding_back_in_one_unit() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    let plan = plan(
        &wanted(FieldTable::new().with("x-queue-type", "quorum")),
        &broker.snapshot(),
        &Options::default(),
    );
    let unit: Vec<String> = plan
        .steps
        .iter()
        .filter(|step| step.unit.is_some())
        .map(|step| match &step.action {
            StepAction::Change(change) => change.to_string(),
            StepAction::Migrate(_) => unreachable!(),
        })
        .collect();
    assert_eq!(
        unit,
        [
            keep::keep(&binding("x", "q", "foreign")).to_string().as_str(),
            "delete queue `q`",
            "declare queue `q`",
            "bind queue `q` to exchange `x` by `k`",
            "bind queue `q` to exchange `x` by `foreign`",
            keep::forget(&binding("x", "q", "foreign")).to_string().as_str(),
        ],
        "what the file does not declare is written down first, and forgotten last"
    );
    assert_eq!(plan.changes[0].bindings, 2);
    assert!(plan.warnings.iter().any(|warning| warning.code == "quorum-recreated"));
}

#[test]
fn an_exchange_that_is_made_anew_keeps_bindings_from_and_to_it() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    broker.make(&Change::DeclareExchange(exchange("up", "fanout")));
    let mut upstream = binding("up", "q", "");
    upstream.destination = nexus::broker::Destination::Exchange("x".parse().unwrap());
    broker.make(&Change::Bind(upstream));
    let mut topology = wanted(FieldTable::new());
    topology.exchanges = vec![desired(exchange("x", "topic"))];
    let plan = plan(&topology, &broker.snapshot(), &Options::default());
    assert_eq!(plan.changes[0].action, Action::Replace);
    assert_eq!(plan.changes[0].bindings, 3);
    let steps = |phase: Phase| {
        plan.steps.iter().filter(|step| step.unit.is_some() && step.phase == phase).count()
    };
    assert_eq!(steps(Phase::Exchanges), 5);
    assert_eq!((steps(Phase::Keep), steps(Phase::Forget)), (2, 2), "one of three is declared");
}

#[test]
fn what_stands_in_the_way_is_named_with_the_next_step() {
    let quorum = || FieldTable::new().with("x-queue-type", "quorum");
    // protect
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    let mut protected = wanted(quorum());
    protected.queues[0].protect = true;
    // another owner
    let foreign = with_queue(V4_0, FieldTable::new(), 0);
    own(&foreign, "them", &[Owned::Named(ObjectKind::Queue, "q")]);
    // consumers
    let consumed = with_queue(V4_0, FieldTable::new(), 0);
    consumed.attach("q", 2);
    // an operator policy on everything, and messages to move
    let operated = with_queue(V4_0, FieldTable::new(), 1);
    operated.make(&Change::PutOperatorPolicy(policy(
        "all",
        ".*",
        0,
        serde_json::json!({"max-length": 1}),
    )));
    let migrate = Options { migrate: true, ..Options::default() };
    for (broker, topology, options, code) in [
        (&broker, &protected, &Options::default(), "protected"),
        (&foreign, &wanted(quorum()), &Options::default(), "foreign-owner"),
        (&consumed, &wanted(quorum()), &Options::default(), "has-consumers"),
        (&operated, &wanted(quorum()), &migrate, "operator-policy"),
    ] {
        let plan = plan(topology, &broker.snapshot(), options);
        let blocker = &plan.changes[0].blockers[0];
        assert_eq!(blocker.code, code);
        assert!(!blocker.next.is_empty() && !blocker.why.is_empty());
        assert_eq!(plan.steps, [], "{code}");
    }
    let mut elsewhere = wanted(FieldTable::new());
    elsewhere.cluster_name = Some("production".to_owned());
    let plan = plan(&elsewhere, &broker.snapshot(), &Options::default());
    assert_eq!((plan.refusals[0].code.as_str(), plan.steps.len()), ("wrong-cluster", 0));
}

#[test]
fn a_stand_in_policy_wins_and_carries_on_what_it_displaces() {
    let broker = with_queue(V4_0, FieldTable::new().with("x-max-length", 100), 7);
    let present =
        policy("all", ".*", 4, serde_json::json!({"message-ttl": 9000, "overflow": "drop-head"}));
    broker.make(&Change::PutPolicy(present.clone()));
    let mut topology = wanted(FieldTable::new().with("x-max-length", 5));
    topology.policies.push(desired(present));
    let options = Options { policy_instead: true, ..Options::default() };
    let first = plan(&topology, &broker.snapshot(), &options);
    let policy = first.changes[0].policy.clone().unwrap();
    assert_eq!(policy.pattern, "^q$");
    assert_eq!(policy.priority, 5);
    assert_eq!(
        serde_json::Value::Object(policy.definition.clone()),
        serde_json::json!({"message-ttl": 9000, "overflow": "drop-head", "max-length": 5})
    );
    assert!(
        first.warnings.iter().any(|warning| warning.code == "length-lowered"),
        "{:?}",
        first.warnings
    );
    broker.make(&Change::PutPolicy(policy));
    let second = plan(&topology, &broker.snapshot(), &options);
    assert!(second.is_empty(), "{:?}", second.changes);
    assert_eq!(
        second.extra.iter().filter(|extra| extra.object.kind == ObjectKind::Policy).count(),
        0
    );
}

#[test]
fn an_argument_cannot_be_raised_by_a_policy() {
    let broker = with_queue(V4_0, FieldTable::new().with("x-max-length", 5), 1);
    let options = Options { policy_instead: true, ..Options::default() };
    let plan =
        plan(&wanted(FieldTable::new().with("x-max-length", 100)), &broker.snapshot(), &options);
    assert_eq!(plan.changes[0].policy, None);
    assert_eq!(plan.changes[0].blockers[0].code, "has-messages");
}

#[test]
fn lowering_a_delivery_limit_or_a_time_to_live_over_a_backlog_is_warned_of() {
    let broker = with_queue(V4_0, FieldTable::new().with("x-queue-type", "quorum"), 3);
    let mut topology = wanted(FieldTable::new().with("x-queue-type", "quorum"));
    topology.policies.push(desired(policy(
        "p",
        "^q$",
        0,
        serde_json::json!({"delivery-limit": 2, "message-ttl": 1000}),
    )));
    let plan = plan(&topology, &broker.snapshot(), &Options::default());
    let codes: BTreeSet<&str> = plan.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(codes, BTreeSet::from(["delivery-limit-lowered", "ttl-lowered"]));
}

#[test]
fn a_policy_of_others_that_outranks_a_declared_one_is_warned_of() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    let limit = |name: &str, pattern: &str, priority: i64| {
        policy(name, pattern, priority, serde_json::json!({"max-length": 5}))
    };
    for other in [limit("above", "^q", 7), limit("below", "^q", 1), limit("beside", "^x", 9)] {
        broker.make(&Change::PutPolicy(other));
    }
    // Outranks it too, and is skipped for a classic queue.
    let quorum = policy("skipped", "^q", 9, serde_json::json!({"delivery-limit": 5}));
    broker.make(&Change::PutPolicy(quorum));
    let mut topology = wanted(FieldTable::new());
    topology.policies.push(desired(limit("mine", "^q$", 3)));
    let shadows = |topology: &Topology| -> Vec<String> {
        plan(topology, &broker.snapshot(), &Options::default())
            .warnings
            .into_iter()
            .filter(|warning| warning.code == "policy-shadowed")
            .map(|warning| warning.text)
            .collect()
    };
    let found = shadows(&topology);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("queue `q`") && found[0].contains("`above`"), "{found:?}");
    // Whoever declares both means it.
    topology.policies.push(desired(limit("above", "^q", 7)));
    assert_eq!(shadows(&topology), [] as [&str; 0]);
}

#[test]
fn an_owner_record_without_its_object_is_forgotten_before_others_use_the_name() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    let record = |name| Owned::Named(ObjectKind::Queue, name);
    own(&broker, "me", &[record("gone"), record("q"), record("soon")]);
    own(&broker, "them", &[record("theirs")]);
    let mut topology = wanted(FieldTable::new());
    topology.queues.push(desired(queue("soon", FieldTable::new())));
    let plan = plan(&topology, &broker.snapshot(), &Options::default());
    let forgotten: Vec<_> = plan
        .steps
        .iter()
        .filter(|step| step.phase == Phase::Records)
        .map(|step| step.action.clone())
        .collect();
    let release = ownership::release(record("gone"), "me");
    assert_eq!(forgotten, [StepAction::Change(release)]);
}

#[test]
fn policies_of_one_priority_on_one_queue_are_warned_of() {
    let mut topology = wanted(FieldTable::new());
    for name in ["a", "b"] {
        topology.policies.push(desired(policy(
            name,
            "^q",
            1,
            serde_json::json!({"max-length": 5}),
        )));
    }
    let plan = plan(&topology, &Fake::new(V4_0).snapshot(), &Options::default());
    assert_eq!(plan.warnings.iter().filter(|warning| warning.code == "equal-priority").count(), 1);
}

#[test]
fn only_what_is_ours_and_asked_for_is_pruned() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    for name in ["ours", "theirs", "nobodys", "full"] {
        broker.make(&Change::DeclareQueue(queue(name, FieldTable::new())));
    }
    broker.put("full", Message::default());
    broker.make(&Change::Bind(binding("amq.direct", "ours", "a")));
    let ours = binding("amq.direct", "ours", "a");
    own(
        &broker,
        "me",
        &[
            Owned::Named(ObjectKind::Queue, "ours"),
            Owned::Named(ObjectKind::Queue, "full"),
            Owned::Binding(&ours),
        ],
    );
    own(&broker, "them", &[Owned::Named(ObjectKind::Queue, "theirs")]);
    let topology = wanted(FieldTable::new());

    let none = plan(&topology, &broker.snapshot(), &Options::default());
    assert!(none.is_empty());
    let owners: Vec<(String, Owner)> = none
        .extra
        .iter()
        .filter(|extra| extra.object.kind == ObjectKind::Queue)
        .map(|extra| (extra.object.name.clone(), extra.owner.clone()))
        .collect();
    assert_eq!(
        owners,
        [
            ("full".to_owned(), Owner::Ours),
            ("nobodys".to_owned(), Owner::Nobody),
            ("ours".to_owned(), Owner::Ours),
            ("theirs".to_owned(), Owner::Other("them".to_owned())),
        ]
    );

    let prune = |kinds: &[ObjectKind]| Options {
        prune: kinds.iter().copied().collect(),
        ..Options::default()
    };
    let queues = plan(&topology, &broker.snapshot(), &prune(&[ObjectKind::Queue]));
    let deleted: Vec<_> = queues
        .steps
        .iter()
        .filter(|step| step.phase == Phase::RemoveQueues)
        .map(|step| step.object.name.as_str())
        .collect();
    assert_eq!(deleted, ["ours"]);
    assert_eq!(
        queues.changes.iter().find(|change| change.object.name == "full").unwrap().blockers[0].code,
        "has-messages"
    );

    let few = Options { max_deletes: 1, ..prune(&[ObjectKind::Queue, ObjectKind::Binding]) };
    let refused = plan(&topology, &broker.snapshot(), &few);
    assert_eq!(refused.steps, []);
    assert!(refused.changes.iter().all(|change| change.blockers[0].code == "max-deletes"));

    let losing = Options { lose_messages: true, ..prune(&[ObjectKind::Queue]) };
    assert_eq!(plan(&topology, &broker.snapshot(), &losing).losses().count(), 1);
}

#[test]
fn destroy_takes_what_is_declared_and_ours_and_nothing_else() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    broker.make(&Change::DeclareQueue(queue("other", FieldTable::new())));
    own(
        &broker,
        "me",
        &[Owned::Named(ObjectKind::Queue, "q"), Owned::Named(ObjectKind::Queue, "other")],
    );
    let topology = wanted(FieldTable::new());
    let gone = destroy(&topology, &broker.snapshot(), &Options::default());
    assert_eq!(gone.changes.len(), 1);
    assert_eq!(gone.changes[0].object, ObjectRef::new(ObjectKind::Queue, "q"));
    assert_eq!(gone.extra.len(), 2, "exchange x and its binding are nobody's");
    let mut protected = topology;
    protected.queues[0].protect = true;
    assert_eq!(destroy(&protected, &broker.snapshot(), &Options::default()).steps, []);
}

#[test]
fn drift_has_three_classes() {
    let broker = with_queue(V4_0, FieldTable::new().with("x-max-length", 5), 0);
    let mut topology = wanted(FieldTable::new().with("x-max-length", 6));
    topology.queues.push(desired(queue("new", FieldTable::new())));
    let drift = diff(&topology, &broker.snapshot());
    assert_eq!((drift.changed.len(), drift.missing.len(), drift.extra.len()), (1, 1, 1));
    assert!(!drift.agrees());
}

#[test]
fn a_saved_plan_is_refused_when_it_was_edited_or_is_of_another_format() {
    let broker = with_queue(V4_0, FieldTable::new(), 3);
    let options = Options { migrate: true, ..Options::default() };
    let plan = plan(
        &wanted(FieldTable::new().with("x-queue-type", "quorum")),
        &broker.snapshot(),
        &options,
    );
    let text = saved_plan::save(&plan, "0.1.0").unwrap();
    assert_eq!(saved_plan::load(&text).unwrap(), plan);
    let edited = text.replacen("\"owner\": \"me\"", "\"owner\": \"you\"", 1);
    assert_ne!(edited, text);
    assert_eq!(saved_plan::load(&edited), Err(SavedPlanError::Edited));
    for (from, to, what) in [
        ("nexus/v1", "nexus/v9", "apiVersion"),
        ("\"kind\": \"Plan\"", "\"kind\": \"Topology\"", "kind"),
        ("\"format\": 1", "\"format\": 2", "format"),
    ] {
        match saved_plan::load(&text.replacen(from, to, 1)) {
            Err(SavedPlanError::Foreign { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert!(matches!(saved_plan::load("{"), Err(SavedPlanError::Malformed(_))));
}

#[test]
fn what_changed_since_a_plan_was_made_is_named() {
    let broker = with_queue(V4_0, FieldTable::new(), 0);
    let plan = plan(
        &wanted(FieldTable::new().with("x-queue-type", "quorum")),
        &broker.snapshot(),
        &Options::default(),
    );
    let stale = |broker: &Fake| {
        let snapshot = broker.snapshot();
        saved_plan::stale(&plan, &Observed::new(&snapshot))
            .into_iter()
            .map(|stale| format!("{}: {}", stale.object, stale.how))
            .collect::<Vec<_>>()
    };
    assert_eq!(stale(&broker), [""; 0]);
    broker.make(&Change::Bind(binding("x", "q", "more")));
    assert_eq!(stale(&broker), ["queue `q`: its bindings were changed"]);
    broker.make(&Change::DeleteQueue {
        name: "q".parse().unwrap(),
        if_empty: false,
        if_unused: false,
    });
    assert_eq!(
        stale(&broker),
        ["queue `q`: it was removed", "queue `q`: its bindings were changed"]
    );
}

fn any_argument() -> impl Strategy<Value = (String, FieldValue)> {
    prop_oneof![
        (0i64..1 << 40).prop_map(|n| ("x-max-length".to_owned(), FieldValue::Int64(n))),
        any::<i32>().prop_map(|n| ("x-message-ttl".to_owned(), FieldValue::Int32(n))),
        "[a-z.]{0,9}".prop_map(|text| ("x-dead-letter-exchange".to_owned(), text.into())),
        any::<bool>().prop_map(|flag| ("x-single-active-consumer".to_owned(), flag.into())),
        prop_oneof!["classic", "quorum", "stream"]
            .prop_map(|kind| ("x-queue-type".to_owned(), kind.into())),
        ("[a-z]{1,4}", any::<i64>()).prop_map(|(name, n)| (format!("x-{name}"), n.into())),
        "[a-z]{1,4}"
            .prop_map(|name| (format!("x-{name}"), FieldValue::Array(vec![1.into(), "a".into()]))),
        any::<f64>()
            .prop_filter("compared by value", |n| !n.is_nan())
            .prop_map(|n| ("x-d".to_owned(), FieldValue::Double(n))),
    ]
}

fn any_table() -> impl Strategy<Value = FieldTable> {
    prop::collection::vec(any_argument(), 0..4).prop_map(|pairs| pairs.into_iter().collect())
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let exchanges = prop::collection::btree_map(
        "[a-z]{1,6}",
        (0usize..4, any::<[bool; 3]>(), any_table()),
        1..60,
    );
    let queues = prop::collection::btree_map(
        "\\PC{1,8}".prop_filter("names without line breaks", |name| !name.starts_with("nexusctl")),
        (any::<[bool; 3]>(), any_table(), any::<bool>()),
        1..140,
    );
    let bindings = prop::collection::vec(
        (
            any::<prop::sample::Index>(),
            any::<prop::sample::Index>(),
            "[a-z#*.]{0,6}",
            any_table(),
            any::<bool>(),
        ),
        0..100,
    );
    let policies =
        prop::collection::btree_map("[a-z]{1,4}", ("[a-z.*^]{1,4}", -5i64..5, 1u32..99), 0..20);
    (exchanges, queues, bindings, policies, any::<bool>()).prop_map(
        |(exchanges, queues, bindings, policies, quorum)| {
            let broker = Fake::new(V4_0);
            broker.default_queue_type(quorum.then_some(QueueType::Quorum));
            let mut snapshot = broker.snapshot();
            snapshot.exchanges.extend(exchanges.into_iter().map(
                |(name, (kind, [durable, auto_delete, internal], arguments))| ExchangeDefinition {
                    durable,
                    auto_delete,
                    internal,
                    arguments,
                    ..exchange(&name, ["direct", "fanout", "topic", "headers"][kind])
                },
            ));
            snapshot.queues.extend(queues.into_iter().map(
                |(name, ([durable, auto_delete, _], arguments, exclusive))| {
                    // What is read back names its type where the vhost has a default.
                    let arguments = if quorum && arguments.get("x-queue-type").is_none() {
                        arguments.with("x-queue-type", "classic")
                    } else {
                        arguments
                    };
                    QueueState {
                        definition: QueueDefinition {
                            durable,
                            auto_delete,
                            exclusive,
                            ..queue(&name, arguments)
                        },
                        ready: None,
                        unacked: Some(1),
                        consumers: None,
                        policy: None,
                        operator_policy: None,
                    }
                },
            ));
            for (from, to, key, arguments, to_exchange) in bindings {
                let source = from.get(&snapshot.exchanges).name.clone();
                let mut made = BindingDefinition { source, arguments, ..binding("x", "q", &key) };
                made.destination = if to_exchange {
                    nexus::broker::Destination::Exchange(to.get(&snapshot.exchanges).name.clone())
                } else {
                    nexus::broker::Destination::Queue(
                        to.get(&snapshot.queues).definition.name.clone(),
                    )
                };
                snapshot.bindings.push(made);
            }
            snapshot.policies.extend(policies.into_iter().map(
                |(name, (pattern, priority, length))| {
                    policy(&name, &pattern, priority, serde_json::json!({"max-length": length}))
                },
            ));
            snapshot
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_of_an_export_is_empty(snapshot in any_snapshot()) {
        let plan = plan(&export(&snapshot, "me"), &snapshot, &Options::default());
        prop_assert!(plan.is_empty(), "{:?}", plan.changes);
        prop_assert!(plan.extra.is_empty(), "{:?}", plan.extra);
        prop_assert!(plan.steps.is_empty());
    }

    #[test]
    fn a_plan_is_saved_and_read_back_equal(snapshot in any_snapshot(), other in any_snapshot()) {
        let options = Options {
            migrate: true,
            prune: [ObjectKind::Queue, ObjectKind::Binding].into(),
            ..Options::default()
        };
        let plan = plan(&export(&snapshot, "me"), &other, &options);
        let text = saved_plan::save(&plan, "0.1.0").unwrap();
        prop_assert_eq!(saved_plan::load(&text).unwrap(), plan);
    }
}

#[test]
fn a_thousand_queues_and_five_thousand_bindings_are_planned_in_less_than_a_second() {
    let mut queues = Vec::new();
    let mut bindings = Vec::new();
    for index in 0..1000 {
        let name = format!("queue.{index}");
        queues.push(queue(&name, FieldTable::new().with("x-max-length", index)));
        for key in 0..5 {
            bindings.push(binding("x", &name, &format!("k{key}")));
        }
    }
    let mut topology = topology(vec![exchange("x", "topic")], queues, bindings);
    topology.policies.push(desired(policy("p", "^queue", 0, serde_json::json!({"max-length": 5}))));
    let broker = Fake::new(V4_0);
    let started = std::time::Instant::now();
    let first = plan(&topology, &broker.snapshot(), &Options::default());
    let create = started.elapsed();
    assert_eq!(first.changes.len(), 6002);
    for step in &first.steps {
        let StepAction::Change(change) = &step.action else { panic!("{step:?}") };
        // The one in memory looks for each binding in all of them.
        if !matches!(change, Change::Bind(_)) {
            broker.make(change);
        }
    }
    let mut snapshot = broker.snapshot();
    snapshot.bindings =
        topology.bindings.iter().map(|binding| binding.definition.clone()).collect();
    let started = std::time::Instant::now();
    assert!(plan(&topology, &snapshot, &Options::default()).is_empty());
    let same = started.elapsed();
    println!("create {create:?}, nothing to do {same:?}");
    // Not optimised, and beside other tests: a release build takes a tenth.
    assert!(create.as_secs_f64() < 5.0 && same.as_secs_f64() < 5.0, "{create:?} {same:?}");
}
