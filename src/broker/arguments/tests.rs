//! What both versions were measured to take and to refuse.

use serde_json::Value;

use crate::base::diagnostic::Severity;
use crate::broker::definition::{
    ApplyTo, BindingDefinition, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::broker::version::Version;
use crate::message::{FieldTable, FieldValue};

use super::exchange::{check_binding, check_exchange};
use super::policy::check_policy;
use super::problem::{ArgumentProblem, ProblemKind};
use super::queue::check_queue_arguments;
use super::support::{V4_3, V4_3_5};
use super::table::{QUEUE_ARGUMENTS, QueueArgument, by_policy_key, queue_argument};
use super::value::{ValueKind, json_of_field};

use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::broker::definition::Destination;

const V3_10_8: Version = Version::new(3, 10, 8);
const V4_0_5: Version = Version::new(4, 0, 5);

fn queue(queue_type: QueueType, arguments: &[(&str, FieldValue)]) -> QueueDefinition {
    let mut queue = QueueDefinition::durable(QueueName::new("q").unwrap(), queue_type);
    for (name, value) in arguments {
        queue.arguments.insert(*name, value.clone());
    }
    queue
}

fn sample(kind: ValueKind) -> FieldValue {
    match kind {
        ValueKind::Count { min, .. } => FieldValue::Int64(min.max(1)),
        ValueKind::Milliseconds { .. } => FieldValue::Int64(60_000),
        ValueKind::Bytes { .. } => FieldValue::Int64(500_000),
        ValueKind::Text | ValueKind::Any => FieldValue::from("d"),
        ValueKind::Choice(words) => FieldValue::from(words[0]),
        ValueKind::Flag => FieldValue::Bool(true),
        ValueKind::Age => FieldValue::from("7D"),
    }
}

/// `c`, `q`, `s`: taken by classic, quorum, stream on a fresh declaration; measured.
#[test]
fn arguments_are_refused_by_type_as_measured() {
    let table = [
        ("x-expires", "cq", "cq"),
        ("x-message-ttl", "cq", "cq"),
        ("x-dead-letter-exchange", "cq", "cq"),
        ("x-max-length", "cq", "cq"),
        ("x-max-length-bytes", "cqs", "cqs"),
        ("x-max-in-memory-length", "q", "q"),
        ("x-max-priority", "c", "c"),
        ("x-overflow", "cq", "cq"),
        ("x-queue-mode", "c", "c"),
        ("x-queue-version", "c", "c"),
        ("x-single-active-consumer", "cq", "cq"),
        ("x-queue-master-locator", "c", "c"),
        ("x-queue-leader-locator", "qs", "cqs"),
        ("x-dead-letter-strategy", "q", "q"),
        ("x-quorum-initial-group-size", "q", "q"),
        ("x-delivery-limit", "q", "q"),
        ("x-consumer-timeout", "cqs", "cqs"),
        ("x-max-age", "s", "s"),
        ("x-stream-max-segment-size-bytes", "s", "s"),
        ("x-stream-filter-size-bytes", "cqs", "cqs"),
        ("x-initial-cluster-size", "s", "s"),
        ("x-member-placement-tag", "cqs", "cqs"),
        ("x-delayed-retry-type", "cqs", "cqs"),
        ("x-nobody-knows", "cqs", "cqs"),
    ];
    for (name, in_3_10, in_4_0) in table {
        for (version, taken) in [(V3_10_8, in_3_10), (V4_0_5, in_4_0)] {
            for (letter, queue_type) in
                [('c', QueueType::Classic), ('q', QueueType::Quorum), ('s', QueueType::Stream)]
            {
                let value = queue_argument(name)
                    .map_or(FieldValue::from("x"), |argument| sample(argument.value));
                let problems = check_queue_arguments(
                    &queue(queue_type, &[(name, value)]),
                    queue_type,
                    version,
                );
                let refused = problems.iter().any(|p| p.refused);
                assert_eq!(
                    refused,
                    !taken.contains(letter),
                    "{name} on {queue_type} of {version}: {problems:?}"
                );
            }
        }
    }
}

#[test]
fn values_are_checked_by_type_and_range_as_measured() {
    use FieldValue::{Bool, Double, Int64};
    let text = |t: &str| FieldValue::from(t);
    let table = [
        (QueueType::Classic, "x-expires", Int64(0), true),
        (QueueType::Classic, "x-expires", Int64(1), false),
        (QueueType::Classic, "x-expires", Int64(4_294_967_296), false),
        (QueueType::Classic, "x-expires", Int64(4_294_967_295_000), true),
        (QueueType::Classic, "x-message-ttl", Int64(0), false),
        (QueueType::Classic, "x-message-ttl", Double(1.0), true),
        (QueueType::Classic, "x-max-priority", Int64(256), true),
        (QueueType::Classic, "x-max-priority", Int64(0), false),
        (QueueType::Quorum, "x-max-length", Int64(-1), true),
        (QueueType::Quorum, "x-max-length", text("5"), true),
        (QueueType::Classic, "x-overflow", text("nope"), true),
        (QueueType::Classic, "x-queue-mode", text("nope"), true),
        (QueueType::Classic, "x-queue-version", Int64(3), true),
        (QueueType::Classic, "x-single-active-consumer", text("true"), true),
        (QueueType::Quorum, "x-single-active-consumer", Bool(true), false),
        (QueueType::Quorum, "x-quorum-initial-group-size", Int64(0), true),
        (QueueType::Quorum, "x-quorum-initial-group-size", Int64(4), false),
        (QueueType::Quorum, "x-dead-letter-strategy", text("nope"), true),
        (QueueType::Quorum, "x-queue-leader-locator", text("nope"), true),
        (QueueType::Stream, "x-max-age", text("7"), true),
        (QueueType::Stream, "x-max-age", text("0D"), true),
        (QueueType::Stream, "x-max-age", text("7d"), true),
        (QueueType::Stream, "x-max-age", Int64(7), true),
        (QueueType::Stream, "x-stream-max-segment-size-bytes", Int64(3_000_000_001), true),
        (QueueType::Stream, "x-stream-filter-size-bytes", Int64(15), true),
        (QueueType::Stream, "x-initial-cluster-size", Int64(0), true),
        (QueueType::Classic, "x-dead-letter-exchange", Int64(5), true),
        (QueueType::Classic, "x-dead-letter-routing-key", text("k"), true),
        (QueueType::Quorum, "x-delivery-limit", Int64(0), false),
        (QueueType::Quorum, "x-delivery-limit", text("a"), false),
    ];
    for (queue_type, name, value, refused) in table {
        let problems =
            check_queue_arguments(&queue(queue_type, &[(name, value.clone())]), queue_type, V4_0_5);
        assert_eq!(problems.iter().any(|p| p.refused), refused, "{name}: {value:?} {problems:?}");
    }
}

#[test]
fn what_is_taken_and_does_harm_is_an_error_all_the_same() {
    let unlimited = queue(QueueType::Quorum, &[("x-delivery-limit", FieldValue::Int64(-1))]);
    let problems = check_queue_arguments(&unlimited, QueueType::Quorum, V3_10_8);
    assert!(matches!(
        problems.as_slice(),
        [ArgumentProblem { refused: false, severity: Severity::Error, .. }]
    ));
    assert_eq!(check_queue_arguments(&unlimited, QueueType::Quorum, V4_0_5), []);

    let dlx = queue(QueueType::Quorum, &[("x-overflow", "reject-publish-dlx".into())]);
    let problems = check_queue_arguments(&dlx, QueueType::Quorum, V4_0_5);
    assert_eq!(problems[0].kind, ProblemKind::Treacherous);
    let text = queue(QueueType::Quorum, &[("x-delivery-limit", "5".into())]);
    assert!(
        check_queue_arguments(&text, QueueType::Quorum, V4_0_5)
            .iter()
            .any(|p| !p.refused && p.severity == Severity::Error)
    );
}

#[test]
fn a_locator_of_4_0_is_refused_before() {
    let q = queue(QueueType::Classic, &[("x-queue-master-locator", "balanced".into())]);
    for (version, is_refused) in [(V3_10_8, true), (V4_0_5, false)] {
        let by_queue = check_queue_arguments(&q, QueueType::Classic, version);
        assert_eq!(by_queue.iter().any(|p| p.refused), is_refused, "{version}");
        let by_policy = check_policy(
            &policy(ApplyTo::Queues, "queue-master-locator", "balanced".into()),
            false,
            version,
        );
        assert_eq!(by_policy.iter().any(|p| p.refused), is_refused, "{version}");
    }
}

#[test]
fn a_slip_in_an_argument_name_is_found() {
    for (slip, meant) in [
        ("x-max-lenght", "x-max-length"),
        ("x-dead-leter-exchange", "x-dead-letter-exchange"),
        ("message-ttl", "x-message-ttl"),
    ] {
        let problems = check_queue_arguments(
            &queue(QueueType::Classic, &[(slip, FieldValue::Int64(1))]),
            QueueType::Classic,
            V4_0_5,
        );
        assert_eq!(problems[0].hint.as_deref(), Some(format!("did you mean `{meant}`?").as_str()));
        assert!(!problems[0].refused);
    }
}

#[test]
fn properties_must_go_with_the_type_and_the_version() {
    let mut transient = queue(QueueType::Classic, &[]);
    transient.durable = false;
    let refused = |queue: &QueueDefinition, queue_type, version| {
        check_queue_arguments(queue, queue_type, version).iter().any(|p| p.refused)
    };
    assert!(!refused(&transient, QueueType::Classic, V4_0_5));
    assert!(refused(&transient, QueueType::Classic, V4_3));
    assert!(refused(&transient, QueueType::Quorum, V4_0_5));
    transient.exclusive = true;
    assert!(!refused(&transient, QueueType::Classic, V4_3));
    for change in [
        |q: &mut QueueDefinition| q.exclusive = true,
        |q: &mut QueueDefinition| q.auto_delete = true,
    ] {
        let mut changed = queue(QueueType::Stream, &[]);
        change(&mut changed);
        assert!(refused(&changed, QueueType::Stream, V4_0_5));
    }
}

#[test]
fn version_4_3_refuses_what_was_removed() {
    for (name, value) in [
        ("x-queue-mode", FieldValue::from("lazy")),
        ("x-queue-version", FieldValue::Int64(1)),
        ("x-queue-master-locator", FieldValue::from("min-masters")),
    ] {
        let q = queue(QueueType::Classic, &[(name, value)]);
        let refused = |version| {
            check_queue_arguments(&q, QueueType::Classic, version).iter().any(|p| p.refused)
        };
        assert!(!refused(V4_0_5), "{name}");
        assert!(refused(V4_3), "{name}");
    }
}

fn policy(apply_to: ApplyTo, key: &str, value: Value) -> PolicyDefinition {
    PolicyDefinition {
        name: PolicyName::new("p").unwrap(),
        pattern: "^q$".into(),
        apply_to,
        priority: 0,
        definition: [(key.to_owned(), value)].into_iter().collect(),
    }
}

/// Whether 3.10.8 and 4.0.5 take the key in a policy and in an operator policy; measured.
#[test]
fn policy_keys_are_refused_as_measured() {
    let table = [
        ("expires", [true, true], [true, true]),
        ("message-ttl", [true, true], [true, true]),
        ("dead-letter-exchange", [true, true], [false, false]),
        ("max-length", [true, true], [true, true]),
        ("max-priority", [false, false], [false, false]),
        ("overflow", [true, true], [false, true]),
        ("queue-mode", [true, true], [false, false]),
        ("queue-version", [true, true], [false, true]),
        ("single-active-consumer", [false, false], [false, false]),
        ("queue-master-locator", [true, true], [false, true]),
        ("queue-leader-locator", [true, true], [false, false]),
        ("quorum-initial-group-size", [false, false], [false, false]),
        ("delivery-limit", [true, true], [true, true]),
        ("consumer-timeout", [false, true], [false, false]),
        ("max-age", [true, true], [false, false]),
        ("stream-filter-size-bytes", [false, true], [false, false]),
        ("target-group-size", [false, true], [false, true]),
        ("delayed-retry-min", [false, false], [false, false]),
        ("ha-mode", [true, false], [false, false]),
        ("alternate-exchange", [true, true], [false, false]),
    ];
    for (key, user, operator) in table {
        let value =
            by_policy_key(key).map_or(Value::from("d"), |a| json_of_field(&sample(a.value)));
        for (index, version) in [V3_10_8, V4_0_5].into_iter().enumerate() {
            for (is_operator, taken) in [(false, user[index]), (true, operator[index])] {
                let problems =
                    check_policy(&policy(ApplyTo::All, key, value.clone()), is_operator, version);
                assert_eq!(
                    !problems.iter().any(|p| p.refused),
                    taken,
                    "{key} operator={is_operator} {version}: {problems:?}"
                );
            }
        }
    }
}

#[test]
fn policy_values_and_targets_are_checked() {
    let refused = |apply_to, key: &str, value: Value, version| {
        check_policy(&policy(apply_to, key, value), false, version).iter().any(|p| p.refused)
    };
    assert!(refused(ApplyTo::Queues, "max-length", "5".into(), V4_0_5));
    assert!(refused(ApplyTo::Queues, "max-length", (-1).into(), V4_0_5));
    assert!(refused(ApplyTo::Queues, "overflow", "nope".into(), V4_0_5));
    assert!(refused(ApplyTo::QuorumQueues, "max-length", 5.into(), V3_10_8));
    assert!(!refused(ApplyTo::QuorumQueues, "max-length", 5.into(), V4_0_5));
    assert!(refused(ApplyTo::Queues, "delivery-limit", (-1).into(), V3_10_8));
    assert!(!refused(ApplyTo::Queues, "delivery-limit", (-1).into(), V4_0_5));
    let mut empty = policy(ApplyTo::Queues, "max-length", 5.into());
    empty.definition.clear();
    assert!(check_policy(&empty, false, V4_0_5).iter().any(|p| p.refused));
    let slip = check_policy(&policy(ApplyTo::Queues, "messageTtl", 5.into()), false, V4_0_5);
    assert_eq!(slip[0].hint.as_deref(), Some("did you mean `message-ttl`?"));
    let mut wrong = policy(ApplyTo::Queues, "max-length", 5.into());
    for (name, is_refused) in [(".", true), ("..", true), ("...", false), (".a", false)] {
        let mut named = policy(ApplyTo::Queues, "max-length", 5.into());
        named.name = PolicyName::new(name).unwrap();
        assert_eq!(!check_policy(&named, false, V4_0_5).is_empty(), is_refused, "{name}");
    }
    wrong.pattern = "(".into();
    assert_eq!(check_policy(&wrong, false, V4_0_5)[0].kind, ProblemKind::Pattern);
    let idle = check_policy(&policy(ApplyTo::Streams, "message-ttl", 5.into()), false, V4_0_5);
    assert_eq!(idle[0].kind, ProblemKind::NoEffect);
}

#[test]
fn bindings_are_checked_by_the_type_of_their_exchange() {
    let binding = |key: &str, arguments: &[(&str, &str)]| BindingDefinition {
        source: ExchangeName::new("x").unwrap(),
        destination: Destination::Queue(QueueName::new("q").unwrap()),
        routing_key: RoutingKey::new(key).unwrap(),
        arguments: arguments.iter().map(|(n, v)| ((*n).to_owned(), FieldValue::from(*v))).collect(),
    };
    let kinds = |binding: &BindingDefinition, kind: ExchangeKind, version| {
        check_binding(binding, &kind, version)
            .into_iter()
            .map(|p| (p.kind, p.refused))
            .collect::<Vec<_>>()
    };
    use ExchangeKind::{Direct, Fanout, Headers, Topic};
    use ProblemKind::{NoEffect, OutOfRange, Treacherous};
    let good = binding("", &[("x-match", "any"), ("tenant", "a")]);
    assert_eq!(kinds(&good, Headers, V4_0_5), []);
    assert_eq!(kinds(&binding("", &[("x-match", "some")]), Headers, V4_0_5), [(OutOfRange, true)]);
    assert_eq!(kinds(&binding("", &[]), Headers, V4_0_5), [(Treacherous, false)]);
    assert_eq!(kinds(&binding("", &[("x-a", "1")]), Headers, V4_0_5), [(Treacherous, false)]);
    assert_eq!(kinds(&binding("#.a.#", &[]), Topic, V4_3_5), []);
    assert_eq!(kinds(&binding("#.a.#.#", &[]), Topic, V4_3_5), [(OutOfRange, true)]);
    assert_eq!(kinds(&binding("#.a.#.#", &[]), Topic, V4_0_5), [(OutOfRange, false)]);
    assert_eq!(kinds(&binding("a.b*", &[]), Topic, V4_0_5), [(Treacherous, false)]);
    assert_eq!(kinds(&binding("a.#", &[]), Direct, V4_0_5), [(Treacherous, false)]);
    assert_eq!(kinds(&binding("a", &[]), Fanout, V4_0_5), [(NoEffect, false)]);
    for (key, arguments, harm) in [
        ("a~b", &[("x-match", "any"), ("t", "1")][..], true),
        ("~b", &[("x-match", "any"), ("t", "1")], true),
        ("b~", &[("x-match", "any"), ("t", "1")], false),
        ("a~b", &[], false),
    ] {
        let found = kinds(&binding(key, arguments), Headers, V4_0_5);
        let listed = found.contains(&(Treacherous, false)) && !arguments.is_empty();
        assert_eq!(listed, harm, "{key} {arguments:?}");
    }
    assert_eq!(kinds(&binding("a", &[("t", "1")]), Direct, V4_0_5), [(NoEffect, false)]);
}

#[test]
fn exchange_arguments_are_checked() {
    let mut exchange =
        ExchangeDefinition::durable(ExchangeName::new("x").unwrap(), ExchangeKind::Topic);
    exchange.arguments.insert("alternate-exchange", "other");
    assert_eq!(check_exchange(&exchange), []);
    exchange.arguments.insert("alternate-exchange", 5);
    assert!(check_exchange(&exchange)[0].refused);
    exchange.arguments = FieldTable::new().with("x-alternate-exchange", "other");
    assert_eq!(
        check_exchange(&exchange)[0].hint.as_deref(),
        Some("did you mean `alternate-exchange`?")
    );
    exchange.arguments = FieldTable::new().with("hash-header", "h");
    assert_eq!(check_exchange(&exchange)[0].kind, ProblemKind::NoEffect);
    exchange.arguments = FieldTable::new();
    exchange.kind = ExchangeKind::Other("topci".into());
    assert!(check_exchange(&exchange)[0].refused);
}

#[test]
fn friendly_names_and_policy_keys_are_each_said_once() {
    for pick in [
        |a: &QueueArgument| a.friendly.to_owned(),
        |a: &QueueArgument| a.name.to_owned(),
        |a: &QueueArgument| a.policy.map_or(String::new(), |p| p.key.to_owned()),
    ] {
        let mut names: Vec<String> =
            QUEUE_ARGUMENTS.iter().map(pick).filter(|n| !n.is_empty()).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
