//! What files mean, and that reading brings back what is rendered.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::base::document;
use crate::base::id::{ExchangeName, PolicyName, QueueName, RoutingKey};
use crate::base::time::HumanDuration;
use crate::broker::definition::{
    ApplyTo, BindingDefinition, Destination, ExchangeDefinition, ExchangeKind, PolicyDefinition,
    QueueDefinition, QueueType,
};
use crate::message::{FieldTable, FieldValue};
use crate::topology::model::{Desired, Origin, Topology};
use crate::topology::spec::QueueSpec;

use super::render::render;
use super::{DUPLICATE, load};

use proptest::prelude::*;

use super::testing::{brief, read, read_with, topology};

fn names<T>(list: &[Desired<T>], name: impl Fn(&T) -> String) -> Vec<String> {
    list.iter().map(|item| name(&item.definition)).collect()
}

fn bindings(topology: &Topology) -> Vec<String> {
    names(&topology.bindings, |b| {
        let to = match &b.destination {
            Destination::Queue(q) => q.as_str(),
            Destination::Exchange(e) => e.as_str(),
        };
        format!("{} -{}-> {to}", b.source, b.routing_key)
    })
}

#[test]
fn the_preset_of_agents_is_what_the_design_says() {
    let t = topology(
        "preset:\n  agents:\n    ids: [planner]\n    commands: [build]\n    tools: [search]\n    ttl: {event: 2h}\n",
    );
    assert_eq!(
        names(&t.exchanges, |e| format!("{} {}", e.name, e.kind)),
        [
            "nexus.agents direct",
            "nexus.commands topic",
            "nexus.events topic",
            "nexus.tools topic",
            "dead_letter direct"
        ]
    );
    assert_eq!(
        names(&t.queues, |q| format!("{} {:?}", q.name, q.queue_type())),
        [
            "agent.planner Some(Quorum)",
            "dead.agent.planner Some(Quorum)",
            "command.build Some(Quorum)",
            "dead.command.build Some(Quorum)",
            "tool.search Some(Quorum)",
            "dead.tool.search Some(Quorum)"
        ]
    );
    assert_eq!(
        bindings(&t),
        [
            "nexus.agents -planner-> agent.planner",
            "dead_letter -agent.planner-> dead.agent.planner",
            "nexus.commands -build.#-> command.build",
            "dead_letter -command.build-> dead.command.build",
            "nexus.tools -search.#-> tool.search",
            "dead_letter -tool.search-> dead.tool.search"
        ]
    );
    assert_eq!(t.message_types["event"].ttl, Some(HumanDuration::from_ms(7_200_000)));
    assert_eq!(t.message_types["command"].persistent, Some(true));
    let origin = &t.queues[0].origin;
    assert_eq!(origin.expanded_from.as_deref(), Some("preset agents"));
    assert_eq!(origin.span.as_ref().map(|s| s.line), Some(5));
    assert_eq!(topology("preset: agents\n").exchanges.len(), 5);
}

#[test]
fn what_is_written_out_wins_over_the_preset() {
    let t = topology(
        "preset: {agents: {ids: [a]}}\nqueues:\n  agent.a: {type: classic}\nexchanges:\n  nexus.events: {type: fanout}\n",
    );
    let queue = t.queues.iter().find(|q| q.definition.name.as_str() == "agent.a").unwrap();
    assert_eq!(queue.definition.queue_type(), Some(QueueType::Classic));
    assert_eq!(queue.origin.expanded_from, None);
    assert_eq!(t.exchanges.len(), 5);
    assert!(t.queues.iter().all(|q| !q.definition.name.as_str().starts_with("dead.")));
}

#[test]
fn dead_letter_and_retry_expand_visibly() {
    let t = topology(
        "queues:\n  orders:\n    deadLetter: true\n    retry: {delays: [10s, 1m]}\n    bind:\n      - {from: amq.topic, keys: [a.#, b]}\n  other:\n    type: classic\n    deadLetter: {queue: parked}\n",
    );
    assert_eq!(
        render(&t),
        "apiVersion: nexus/v1\nkind: Topology\nmetadata:\n  owner: topology\nexchanges:\n  dead_letter:\n    type: direct\n  retry:\n    type: direct\nqueues:\n  orders:\n    type: quorum\n    deadLetter:\n      exchange: dead_letter\n      routingKey: orders\n  other:\n    type: classic\n    deadLetter:\n      exchange: dead_letter\n      routingKey: other\n  dead.orders:\n    type: quorum\n    deliveryLimit: 1000000\n  retry.orders.10s:\n    type: quorum\n    deadLetter:\n      exchange: \"\"\n      routingKey: orders\n    messageTtl: 10s\n  retry.orders.1m:\n    type: quorum\n    deadLetter:\n      exchange: \"\"\n      routingKey: orders\n    messageTtl: 1m\n  parked:\n    type: classic\nbindings:\n- from: amq.topic\n  queue: orders\n  key: a.#\n- from: amq.topic\n  queue: orders\n  key: b\n- from: dead_letter\n  queue: dead.orders\n  key: orders\n- from: retry\n  queue: retry.orders.10s\n  key: orders.1\n- from: retry\n  queue: retry.orders.1m\n  key: orders.2\n- from: dead_letter\n  queue: parked\n  key: other\n"
    );
    assert_eq!(t.queues[2].origin.expanded_from.as_deref(), Some("deadLetter of queue orders"));
}

#[test]
fn friendly_names_become_typed_arguments() {
    let t = topology(
        "queues:\n  q:\n    type: classic\n    messageTtl: 1m\n    maxLengthBytes: 1MiB\n    overflow: reject-publish\n    maxPriority: 5\n    singleActiveConsumer: true\n    arguments: {x-mine: 1.5, x-when: {$type: timestamp, value: 7}}\n  s: {type: stream, maxAge: 7d, maxSegmentSize: 64MiB}\n  d: {type: default}\n",
    );
    let q = &t.queues[0].definition.arguments;
    assert_eq!(q.get("x-message-ttl"), Some(&FieldValue::Int64(60_000)));
    assert_eq!(q.get("x-max-length-bytes"), Some(&FieldValue::Int64(1 << 20)));
    assert_eq!(q.get("x-overflow"), Some(&FieldValue::from("reject-publish")));
    assert_eq!(q.get("x-max-priority"), Some(&FieldValue::Int64(5)));
    assert_eq!(q.get("x-single-active-consumer"), Some(&FieldValue::Bool(true)));
    assert_eq!(q.get("x-mine"), Some(&FieldValue::Double(1.5)));
    assert_eq!(q.get("x-when"), Some(&FieldValue::Timestamp(7)));
    let s = &t.queues[1].definition.arguments;
    assert_eq!(s.get("x-max-age"), Some(&FieldValue::from("604800s")));
    assert!(t.queues[2].definition.arguments.is_empty());
    assert_eq!(t.places.get("queue `q`", "x-message-ttl").map(|s| s.line), Some(6));
}

#[test]
fn policies_take_friendly_and_raw_names() {
    let t = topology(
        "policies:\n  p:\n    pattern: ^q\n    applyTo: queues\n    priority: 3\n    definition: {messageTtl: 10s, max-length: 5, maxLengthBytes: 1KiB}\n",
    );
    let policy = &t.policies[0].definition;
    assert_eq!(
        Json::Object(policy.definition.clone()),
        serde_json::json!({"message-ttl": 10_000, "max-length": 5, "max-length-bytes": 1024})
    );
    let wrong = read("policies:\n  p: {pattern: a, definition: {messageTtl: 10, expires: x}}\n");
    assert_eq!(wrong.unwrap_err().0.len(), 2);
}

#[test]
fn variables_keep_their_type_and_set_wins() {
    let yaml = "variables: {prefix: dev, limit: 5, region: null}\nqueues:\n  ${ prefix }.${region}.orders: {maxLength: \"${ limit }\", type: \"${ 'quorum' }\"}\n";
    let t = read_with(&[yaml], &[("region", "eu"), ("limit", "7")]).unwrap();
    assert_eq!(t.queues[0].definition.name.as_str(), "dev.eu.orders");
    assert_eq!(t.queues[0].definition.arguments.get("x-max-length"), Some(&FieldValue::Int64(7)));
    let findings = read_with(&[yaml], &[("prefxi", "a")]).unwrap_err();
    assert_eq!(
        brief(&findings),
        [
            "topology/variable: `--set prefxi=…`: no file declares the variable `prefxi`",
            "3 topology/variable: the variable `region` has no value"
        ]
    );
    assert_eq!(findings.0[0].hint.as_deref(), Some("did you mean `prefix`?"));
    let unknown = read("variables: {prefix: a}\nqueues: {\"${ prefxi }\": {}}\n").unwrap_err();
    assert!(unknown.0[0].hint.as_deref().is_some_and(|hint| hint.contains("prefix")));
    let twice = read("variables: {p: a}\nqueues: {\"${p}\": {}, a: {}}\n").unwrap_err();
    assert_eq!(twice.0[0].code, DUPLICATE);
    let literal = topology("queues: {\"$${p}\": {}}\n");
    assert_eq!(literal.queues[0].definition.name.as_str(), "${p}");
}

#[test]
fn documents_merge_and_what_is_said_twice_names_both_places() {
    let t = read_with(&["queues: {a: {}}\n", "queues: {b: {}}\n"], &[]).unwrap();
    assert_eq!(t.queues.len(), 2);
    let findings = read_with(
        &["metadata: {owner: x}\nqueues: {a: {}}\n", "metadata: {owner: y}\nqueues: {a: {}}\n"],
        &[],
    )
    .unwrap_err();
    let messages: Vec<&str> = findings.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "the owner is `y` here and `x` at t.yaml:3:19",
            "queue `a` is said twice, first at t.yaml:4:10"
        ]
    );
}

#[test]
fn what_does_not_go_together_is_refused_all_at_once() {
    let findings = read(
        "exchanges:\n  e: {}\nqueues:\n  q:\n    maxLength: 1\n    arguments: {x-max-length: 2}\n    deadLetter: {}\n    retry: {delays: []}\n  s: {type: stream, retry: {delays: [1s]}}\n  \"a\\nb\": {}\nbindings:\n  - {from: e}\n  - {from: e, queue: q, key: a, keys: [b]}\n  - {from: e, queue: q}\n  - {from: e, queue: q}\n",
    )
    .unwrap_err();
    assert_eq!(
        brief(&findings),
        [
            "4 topology/incomplete: exchange `e` has no `type`",
            "6 topology/incomplete: `deadLetter` names no place",
            "7 topology/duplicate: queue `q` says `x-max-length` twice",
            "10 topology/incomplete: `retry` needs at least one delay",
            "11 topology/incomplete: queue `s` is a stream and cannot retry",
            "12 topology/invalid-name: queue name contains a line break, which RabbitMQ would strip silently",
            "14 topology/incomplete: a binding leads to one `queue` or one `exchange`",
            "15 topology/incomplete: a binding has either `key` or `keys`",
            "17 topology/duplicate: the binding of queue `q` to exchange `e` by `` is said twice, first at t.yaml:16:5"
        ]
    );
}

#[test]
fn every_argument_with_a_friendly_name_is_a_key_of_queues() {
    use crate::broker::arguments::QUEUE_ARGUMENTS;
    let schema = serde_json::to_value(schemars::schema_for!(QueueSpec)).unwrap();
    for argument in QUEUE_ARGUMENTS {
        let composed = ["deadLetterExchange", "deadLetterRoutingKey", "queueMode"]
            .contains(&argument.friendly);
        if argument.name.is_empty() || argument.friendly.is_empty() || composed {
            continue;
        }
        assert!(!schema["properties"][argument.friendly].is_null(), "{}", argument.friendly);
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9._-]{0,8}",
        "[ -~]{1,12}",
        Just("true".to_owned()),
        Just("007".to_owned()),
        Just("a: b #c".to_owned()),
        Just("${x}".to_owned()),
        Just("ü$${".to_owned()),
    ]
}

fn argument() -> impl Strategy<Value = FieldValue> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(FieldValue::Int64),
        any::<i32>().prop_map(FieldValue::Int32),
        any::<bool>().prop_map(FieldValue::Bool),
        name().prop_map(FieldValue::from),
        (-1000i32..1000).prop_map(|n| FieldValue::Double(f64::from(n) / 8.0)),
        any::<u64>().prop_map(FieldValue::Timestamp),
        Just(FieldValue::Void),
    ];
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(FieldValue::Array),
            prop::collection::btree_map("[a-z$]{1,5}", inner, 0..3)
                .prop_map(|map| FieldValue::Table(FieldTable(map))),
        ]
    })
}

fn arguments() -> impl Strategy<Value = FieldTable> {
    let known: Vec<&str> = crate::broker::arguments::QUEUE_ARGUMENTS
        .iter()
        .map(|a| a.name)
        .filter(|n| !n.is_empty())
        .collect();
    let key = prop_oneof![prop::sample::select(known).prop_map(str::to_owned), "x-[a-z]{1,5}"];
    let value = prop_oneof![
        argument(),
        (0i64..400).prop_map(FieldValue::Int64),
        prop::sample::select(vec!["drop-head", "quorum", "stream", "default", "7D", "7d", ""])
            .prop_map(FieldValue::from),
    ];
    prop::collection::btree_map(key, value, 0..5).prop_map(FieldTable)
}

fn desired<T>(definition: T, protect: bool) -> Desired<T> {
    Desired { definition, protect, origin: Origin { span: None, expanded_from: None } }
}

fn any_topology() -> impl Strategy<Value = Topology> {
    let exchange = (
        name(),
        prop_oneof![Just("topic"), Just("headers"), Just("x-odd")],
        any::<[bool; 4]>(),
        arguments(),
    );
    let queue = (name(), any::<[bool; 3]>(), arguments());
    let binding = (name(), name(), any::<bool>(), name(), arguments());
    let policy = (
        name(),
        name(),
        -3i64..3,
        prop::collection::btree_map(
            "[a-z-]{1,6}|message-ttl|max-length-bytes|dead-letter-exchange|max-age",
            prop_oneof![
                (-5i64..100_000).prop_map(Json::from),
                name().prop_map(Json::from),
                Just(Json::from(i64::MAX)),
            ],
            0..3,
        ),
    );
    (
        prop::collection::vec(exchange, 0..3),
        prop::collection::vec(queue, 0..4),
        prop::collection::vec(binding, 0..3),
        prop::collection::vec(policy, 0..2),
        name(),
        prop::option::of(-1i64..9),
    )
        .prop_map(|(exchanges, queues, bindings, policies, owner, limit)| {
            let mut t = Topology { owner, ..Topology::default() };
            let mut seen = std::collections::BTreeSet::new();
            for (name, kind, [durable, auto_delete, internal, protect], arguments) in exchanges {
                if !seen.insert(("e", name.clone())) {
                    continue;
                }
                t.exchanges.push(desired(
                    ExchangeDefinition {
                        name: ExchangeName::new(name).unwrap(),
                        kind: ExchangeKind::from(kind),
                        durable,
                        auto_delete,
                        internal,
                        arguments,
                    },
                    protect,
                ));
            }
            for (name, [durable, auto_delete, protect], arguments) in queues {
                if !seen.insert(("q", name.clone())) {
                    continue;
                }
                t.queues.push(desired(
                    QueueDefinition {
                        name: QueueName::new(name).unwrap(),
                        durable,
                        exclusive: false,
                        auto_delete,
                        arguments,
                    },
                    protect,
                ));
            }
            for (source, to, queue, key, mut arguments) in bindings {
                if !seen.insert(("b", source.clone())) {
                    continue;
                }
                arguments.insert("x-match", "any");
                let destination = if queue {
                    Destination::Queue(QueueName::new(to).unwrap())
                } else {
                    Destination::Exchange(ExchangeName::new(to).unwrap())
                };
                t.bindings.push(desired(
                    BindingDefinition {
                        source: ExchangeName::new(source).unwrap(),
                        destination,
                        routing_key: RoutingKey::new(key).unwrap(),
                        arguments,
                    },
                    false,
                ));
            }
            for (name, pattern, priority, definition) in policies {
                if !seen.insert(("p", name.clone())) {
                    continue;
                }
                t.policies.push(desired(
                    PolicyDefinition {
                        name: PolicyName::new(name).unwrap(),
                        pattern,
                        apply_to: ApplyTo::Queues,
                        priority,
                        definition: definition.into_iter().collect(),
                    },
                    false,
                ));
            }
            if let Some(limit) = limit {
                t.limits.insert("max-queues".to_owned(), desired(limit, false));
            }
            t
        })
}

/// Without what a file does not say: where things stand in it, and how wide an integer is, which
/// the broker does not tell apart either.
fn without_origins(mut t: Topology) -> Topology {
    for queue in &mut t.queues {
        for value in queue.definition.arguments.0.values_mut() {
            if let Some(number) = value.as_i64() {
                *value = FieldValue::Int64(number);
            }
        }
    }
    let nowhere = || Origin { span: None, expanded_from: None };
    t.exchanges.iter_mut().for_each(|d| d.origin = nowhere());
    t.queues.iter_mut().for_each(|d| d.origin = nowhere());
    t.bindings.iter_mut().for_each(|d| d.origin = nowhere());
    t.policies.iter_mut().for_each(|d| d.origin = nowhere());
    t.limits.values_mut().for_each(|d| d.origin = nowhere());
    t
}

proptest! {
    #![proptest_config(ProptestConfig { fork: false, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rendered_reads_back_as_the_same(t in any_topology()) {
        let yaml = render(&t);
        let source = crate::base::diagnostic::Source::new("r.yaml", yaml.clone());
        let documents = document::read_documents(&source)
            .unwrap_or_else(|f| panic!("{}\n{yaml}", brief(&f).join("\n")));
        let again = load(&documents, &BTreeMap::new())
            .unwrap_or_else(|f| panic!("{}\n{yaml}", brief(&f).join("\n")));
        prop_assert_eq!(without_origins(again), without_origins(t), "{}", yaml);
    }

    #[test]
    fn no_text_makes_reading_or_linting_panic(text in "(queues|bindings|preset|policies|variables|exchanges): [a-z{}\\[\\]:, $\"0-9.#*-]{0,60}") {
        if let Ok(t) = read(&text) {
            super::super::lint::validate(&t, crate::broker::Version::new(4, 0, 0));
        }
    }
}

#[test]
fn a_journal_is_bound_to_what_can_be_copied_by_the_kind_of_the_exchange() {
    let yaml = "journal: true\n\
        exchanges:\n  t: {type: topic}\n  d: {type: direct}\n  f: {type: fanout}\n  h: {type: headers}\n  \
        inner: {type: topic, internal: true}\n  theirs: {external: true}\n\
        queues:\n  a: {deadLetter: true, retry: {delays: [1s]}, bind: [{from: d, keys: [k, l]}]}\n  \
        b: {bind: [{from: d, key: k}, {from: t, key: x.*}]}\n";
    let journal = |topology: &Topology| {
        let mut bound: Vec<String> = topology
            .bindings
            .iter()
            .filter(|b| b.definition.destination.to_string().contains(super::JOURNAL))
            .map(|b| format!("{} {}", b.definition.source, b.definition.routing_key))
            .collect();
        bound.sort();
        bound
    };
    let whole = topology(yaml);
    assert_eq!(journal(&whole), ["d k", "d l", "f ", "h ", "t #"]);
    let stream =
        whole.queues.iter().find(|q| q.definition.name.as_str() == super::JOURNAL).unwrap();
    let argument = |name: &str| stream.definition.arguments.get(name).cloned();
    assert_eq!(argument("x-queue-type"), Some("stream".into()));
    assert_eq!(argument("x-max-age"), Some("7D".into()));
    assert!(argument("x-max-length-bytes").is_some());
    let some =
        yaml.replace("journal: true", "journal: {maxAge: 2h, maxBytes: 1MiB, exchanges: [t]}");
    let some = topology(&some);
    assert_eq!(journal(&some), ["t #"]);
    let none = topology(&yaml.replace("journal: true", "journal: false"));
    assert_eq!(journal(&none), Vec::<String>::new());
}
