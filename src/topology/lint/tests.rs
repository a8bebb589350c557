//! Each rule once, and what must not trigger it.

use std::collections::BTreeSet;

use crate::base::diagnostic::{Code, Severity};
use crate::broker::snapshot::Permissions;
use crate::broker::version::Version;

use super::codes::{
    ALTERNATE_CYCLE, ARGUMENT_OF_OTHER_TYPE, ARGUMENT_RANGE, ARGUMENT_TYPE, AT_LEAST_ONCE,
    DEAD_END, DEAD_LETTERS_EXPIRE, DEAD_LETTERS_OVERFLOW, DEFAULT_EXCHANGE_BINDING,
    DELIVERY_LIMIT_DROPS, ENDLESS_LOOP, EXPIRING_QUEUE, JOURNAL_BLIND, JOURNAL_TAKES_UNROUTED,
    LOST_DEAD_LETTERS, MANY_PRIORITIES, MAX_LENGTH_ZERO, NAMING, NEEDS_ANOTHER, NO_EFFECT, NOT_YET,
    PATTERN, PERMISSION, POLICY_OVERLAP, POLICY_SKIPPED, POLICY_UNUSED, PROPERTY, REMOVED,
    RESERVED_NAME, RULES, STREAM_DEAD_LETTERS, TRANSIENT_EXCHANGE, TREACHEROUS, TTL_LOOP_DROPS,
    UNANCHORED_PATTERN, UNBOUND_QUEUE, UNKNOWN, UNKNOWN_ALTERNATE, UNKNOWN_DEAD_LETTER_EXCHANGE,
    UNKNOWN_EXCHANGE, UNKNOWN_QUEUE, UNREACHABLE_EXCHANGE, VHOST_LIMIT,
};
use super::permissions::{check_permissions, permissions_needed};
use super::{TARGETS, validate};

use super::super::expand::testing::topology;

const V3_10: Version = TARGETS[0];
const V3_13: Version = TARGETS[1];
const V4_0: Version = TARGETS[2];
const V4_3: Version = TARGETS[3];

fn found(yaml: &str, target: Version) -> Vec<(&'static str, Severity)> {
    validate(&topology(yaml), target).iter().map(|f| (f.code.0, f.severity)).collect()
}

/// A topology that no rule has anything to say about, in every version.
const GOOD: &str = "exchanges:\n  events: {type: topic}\nqueues:\n  orders:\n    deadLetter: true\n    deliveryLimit: 5\n    bind: [{from: events, key: order.#}]\n  dead.orders: {type: classic}\npolicies:\n  ttl: {pattern: ^orders$, applyTo: queues, definition: {messageTtl: 1h}}\n";

#[test]
fn a_sound_topology_has_no_findings() {
    for target in TARGETS {
        assert_eq!(found(GOOD, *target), [], "{target}");
    }
}

/// Each rule once: what triggers it, and for which version; then what does not.
#[test]
fn every_rule_finds_what_it_is_for() {
    use Severity::{Error, Note, Warning};
    let q = |settings: &str| format!("queues:\n  q: {{type: classic, {settings}}}\n");
    let quorum = |settings: &str| format!("queues:\n  q: {{type: quorum, {settings}}}\n");
    let policy = |settings: &str| {
        format!("queues: {{q: {{type: classic}}}}\npolicies:\n  p: {{{settings}}}\n")
    };
    let dlx = |exchange: &str, queue: &str| {
        format!(
            "exchanges: {{d: {{{exchange}}}}}\nqueues:\n  q: {{deadLetter: {{exchange: d{queue}}}}}\n  other: {{type: classic}}\n"
        )
    };
    let journal = "journal: true\nexchanges: {e: {type: topic}}\n";
    let table: Vec<(Code, Severity, Version, String)> = vec![
        (JOURNAL_BLIND, Note, V4_0, journal.to_owned()),
        (JOURNAL_BLIND, Warning, V4_0, "journal: true\nexchanges: {e: {type: direct}}\nqueues: {q: {bind: [{from: e, key: k}]}}\n".to_owned()),
        (JOURNAL_TAKES_UNROUTED, Note, V4_0, journal.to_owned()),
        (ARGUMENT_OF_OTHER_TYPE, Error, V4_0, quorum("maxPriority: 5")),
        (ARGUMENT_TYPE, Error, V4_0, q("arguments: {x-max-length: \"5\"}")),
        (ARGUMENT_RANGE, Error, V4_0, q("expires: 0s")),
        (REMOVED, Error, V4_3, q("durable: false")),
        (REMOVED, Error, V4_3, q("arguments: {x-queue-mode: lazy}")),
        (NOT_YET, Warning, V3_10, q("consumerTimeout: 1h")),
        (NOT_YET, Error, V3_10, policy("pattern: ^q$, applyTo: classic_queues, definition: {maxLength: 5}")),
        (NOT_YET, Error, V4_0, policy("pattern: ^q$, applyTo: queues, definition: {ha-mode: all}")),
        (NOT_YET, Error, V3_10, "vhost: {defaultQueueType: quorum}\n".into()),
        (UNKNOWN, Warning, V4_0, q("arguments: {x-max-lenght: 5}")),
        (UNKNOWN, Error, V4_0, policy("pattern: ^q$, definition: {max-lenght: 5}")),
        (NEEDS_ANOTHER, Error, V4_0, q("deadLetter: {routingKey: a}")),
        (PROPERTY, Error, V4_0, quorum("durable: false")),
        (PROPERTY, Warning, V3_13, q("durable: false")),
        (NO_EFFECT, Warning, V4_0, q("arguments: {x-queue-mode: lazy}")),
        (TREACHEROUS, Error, V3_10, quorum("deliveryLimit: -1")),
        (TREACHEROUS, Error, V4_0, quorum("overflow: reject-publish-dlx, deadLetter: true")),
        (PATTERN, Error, V4_0, policy("pattern: (, definition: {maxLength: 5}")),
        (PATTERN, Error, V4_0, "naming: {queues: \"(\"}\n".into()),
        (RESERVED_NAME, Error, V4_0, "queues: {amq.q: {}}\n".into()),
        (RESERVED_NAME, Error, V4_0, "exchanges: {\"\": {type: direct}}\n".into()),
        (NAMING, Error, V4_0, "naming: {queues: \"[a-z]+\"}\nqueues: {Q1: {}}\n".into()),
        (UNKNOWN_EXCHANGE, Error, V4_0, "queues: {q: {bind: [{from: evnts}]}}\n".into()),
        (UNKNOWN_QUEUE, Error, V4_0, "bindings: [{from: amq.topic, queue: q}]\n".into()),
        (DEFAULT_EXCHANGE_BINDING, Error, V4_0, "queues: {q: {bind: [{from: \"\"}]}}\n".into()),
        (UNKNOWN_DEAD_LETTER_EXCHANGE, Error, V4_0, q("deadLetter: {exchange: nope}")),
        (LOST_DEAD_LETTERS, Error, V4_0, dlx("type: direct", ", routingKey: k")),
        (LOST_DEAD_LETTERS, Error, V4_0, dlx("type: fanout", "")),
        (LOST_DEAD_LETTERS, Error, V4_0, q("deadLetter: {exchange: \"\", routingKey: nope}")),
        (
            LOST_DEAD_LETTERS,
            Warning,
            V4_0,
            dlx("type: direct", "") + "bindings: [{from: d, queue: other, key: k}]\n",
        ),
        (UNKNOWN_ALTERNATE, Warning, V4_0, "exchanges: {e: {type: topic, alternateExchange: nope}}\n".into()),
        (
            ALTERNATE_CYCLE,
            Warning,
            V4_0,
            "exchanges:\n  a: {type: topic, alternateExchange: b}\n  b: {type: topic, alternateExchange: a}\n".into(),
        ),
        (TTL_LOOP_DROPS, Error, V4_0, q("messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: q}")),
        (
            TTL_LOOP_DROPS,
            Error,
            V4_0,
            "queues:\n  a: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: b}}\n  b: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n".into(),
        ),
        (
            ENDLESS_LOOP,
            Warning,
            V4_0,
            "queues:\n  a: {deadLetter: {exchange: \"\", routingKey: b}}\n  b: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n".into(),
        ),
        (DEAD_END, Note, V4_0, "exchanges: {e: {type: topic}}\n".into()),
        (UNREACHABLE_EXCHANGE, Warning, V4_0, "exchanges: {e: {type: topic, internal: true}}\n".into()),
        (UNBOUND_QUEUE, Note, V4_0, q("")),
        (
            STREAM_DEAD_LETTERS,
            Error,
            V3_10,
            "queues:\n  q: {deadLetter: {exchange: \"\", routingKey: s}}\n  s: {type: stream}\n".into(),
        ),
        (AT_LEAST_ONCE, Warning, V4_0, quorum("deadLetterStrategy: at-least-once, deadLetter: true")),
        (MAX_LENGTH_ZERO, Warning, V4_0, q("maxLength: 0")),
        (
            POLICY_OVERLAP,
            Error,
            V4_0,
            policy("pattern: ^q$, definition: {maxLength: 5}") + "  p2: {pattern: ^q, definition: {expires: 1h}}\n",
        ),
        (POLICY_SKIPPED, Warning, V4_0, policy("pattern: ^q$, definition: {deliveryLimit: 5, maxLength: 5}")),
        (POLICY_UNUSED, Note, V4_0, policy("pattern: ^nobody$, definition: {maxLength: 5}")),
        (UNANCHORED_PATTERN, Warning, V4_0, policy("pattern: q, definition: {maxLength: 5}")),
        (UNANCHORED_PATTERN, Note, V4_0, policy("pattern: ^q, definition: {maxLength: 5}")),
        (
            DEAD_LETTERS_EXPIRE,
            Warning,
            V4_0,
            "queues:\n  q: {deadLetter: true}\n  dead.q: {messageTtl: 1h}\n".into(),
        ),
        (
            DEAD_LETTERS_OVERFLOW,
            Warning,
            V4_0,
            "queues:\n  q: {deadLetter: true}\n  dead.q: {maxLength: 10}\n".into(),
        ),
        (DELIVERY_LIMIT_DROPS, Warning, V3_10, quorum("deliveryLimit: 5")),
        (DELIVERY_LIMIT_DROPS, Note, V4_0, quorum("")),
        (VHOST_LIMIT, Error, V4_0, "vhost: {limits: {maxQueues: 1}}\nqueues: {a: {}, b: {}}\n".into()),
        (VHOST_LIMIT, Error, V4_0, "vhost: {limits: {maxConnections: -2}}\n".into()),
        (
            TRANSIENT_EXCHANGE,
            Warning,
            V4_0,
            "exchanges: {e: {type: topic, durable: false}}\nqueues: {q: {bind: [{from: e}]}}\n".into(),
        ),
        (EXPIRING_QUEUE, Note, V4_0, q("expires: 1h")),
        (MANY_PRIORITIES, Note, V4_0, q("maxPriority: 200")),
    ];
    for (code, severity, target, yaml) in &table {
        let all = found(yaml, *target);
        assert!(all.contains(&(code.0, *severity)), "{code} {target}\n{yaml}\n{all:?}");
    }
    let tried: BTreeSet<&str> = table.iter().map(|(code, ..)| code.0).collect();
    for (code, _) in RULES {
        assert!(tried.contains(code.0) || *code == PERMISSION, "{code} has no test");
    }
}

#[test]
fn what_a_version_takes_is_not_reported_for_it() {
    let silent: Vec<(Code, Version, &str)> = vec![
        (TREACHEROUS, V4_0, "queues: {q: {deliveryLimit: -1}}\n"),
        (DELIVERY_LIMIT_DROPS, V3_10, "queues: {q: {}}\n"),
        (
            STREAM_DEAD_LETTERS,
            V4_0,
            "queues:\n  q: {deadLetter: {exchange: \"\", routingKey: s}}\n  s: {type: stream}\n",
        ),
        (NOT_YET, V3_13, "queues: {q: {consumerTimeout: 1h}}\n"),
        (LOST_DEAD_LETTERS, V4_0, "queues: {q: {deadLetter: true}}\n"),
        (ENDLESS_LOOP, V4_0, "queues: {q: {deadLetter: true, retry: {delays: [1s, 1m]}}}\n"),
        (TTL_LOOP_DROPS, V4_0, "queues: {q: {deadLetter: true, retry: {delays: [1s, 1m]}}}\n"),
        (
            UNKNOWN_EXCHANGE,
            V4_0,
            "exchanges: {e: {external: true}}\nqueues: {q: {bind: [{from: e}]}}\n",
        ),
        (
            UNKNOWN_QUEUE,
            V4_0,
            "queues: {q: {external: true}}\nbindings: [{from: amq.topic, queue: q}]\n",
        ),
        (
            POLICY_OVERLAP,
            V4_0,
            "queues: {q: {}}\npolicies:\n  a: {pattern: ^q$, priority: 1, definition: {maxLength: 5}}\n  b: {pattern: ^q$, definition: {maxLength: 6}}\n",
        ),
        (
            UNANCHORED_PATTERN,
            V4_0,
            "queues: {q: {}}\npolicies: {a: {pattern: .*, definition: {maxLength: 5}}}\n",
        ),
        (
            DEAD_LETTERS_EXPIRE,
            V4_0,
            "queues:\n  a: {deadLetter: {exchange: \"\", routingKey: wait}}\n  wait: {messageTtl: 1s, deadLetter: {exchange: \"\", routingKey: a}}\n",
        ),
    ];
    for (code, target, yaml) in silent {
        let all = found(yaml, target);
        assert!(all.iter().all(|(found, _)| *found != code.0), "{code} {yaml} {all:?}");
    }
}

#[test]
fn findings_name_the_place_of_the_setting_and_what_made_the_object() {
    let t = topology("queues:\n  q:\n    type: classic\n    arguments:\n      x-max-lenght: 5\n");
    let findings = validate(&t, V4_0);
    let finding = findings.iter().find(|f| f.code == UNKNOWN).unwrap();
    assert_eq!(finding.span.as_ref().map(|s| (s.line, s.column)), Some((7, 7)));
    assert_eq!(finding.hint.as_deref(), Some("did you mean `x-max-length`?"));
    let preset = validate(&topology("preset: agents\n"), V4_0);
    assert!(preset.iter().all(|f| f.message.ends_with("(made by preset agents)")));
}

#[test]
fn permissions_are_simulated_before_anything_is_declared() {
    let t = topology(
        "exchanges: {e: {type: topic, alternateExchange: amq.fanout}}\nqueues: {q: {deadLetter: {exchange: e}, bind: [{from: e}]}}\n",
    );
    let needs = permissions_needed(&t);
    let shown: Vec<String> = needs
        .iter()
        .map(|n| format!("{} c{} w{} r{}", n.name, n.configure, n.write, n.read))
        .collect();
    assert_eq!(
        shown,
        ["amq.fanout cfalse wtrue rfalse", "e ctrue wtrue rtrue", "q ctrue wtrue rtrue"]
    );
    let login = |configure: &str, write: &str, read: &str| Permissions {
        user: "ci".into(),
        configure: configure.into(),
        write: write.into(),
        read: read.into(),
    };
    assert!(check_permissions(&needs, &login(".*", ".*", ".*")).is_empty());
    let lacking = check_permissions(&needs, &login("^(e|q)$", "^e$", ""));
    let messages: Vec<&str> = lacking.iter().map(|f| f.message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "user `ci` may not write on exchange `amq.fanout`, needed to be the alternate of exchange `e`",
            "user `ci` may not read on exchange `e`, needed to declare it, give it an alternate exchange, take the dead letters of queue `q`, bind from it",
            "user `ci` may not write and read on queue `q`, needed to declare it, give it a dead-letter exchange, bind it"
        ]
    );
    let odd = check_permissions(&needs, &login(".*", ".*", "(?!x)"));
    assert_eq!(odd.0[0].severity, Severity::Warning);
}
