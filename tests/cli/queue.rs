//! `queue …` on the embedded broker and on both RabbitMQ versions.

use std::time::Duration;

use nexus::broker::ConsumerOptions;
use serde_json::Value;

use crate::harness::Machine;
use crate::support::{self, Node, Vhost, eventually};

/// A machine whose settings lead to one broker.
pub(crate) struct Place {
    pub(crate) machine: Machine,
    pub(crate) label: String,
    vhost: Option<Vhost>,
}

impl Place {
    pub(crate) fn json(&self, line: &str) -> Value {
        let ran = self.machine.run(&format!("{line} -o json"));
        assert_eq!(ran.status, 0, "{}: {line}\n{}", self.label, ran.shown());
        ran.json()
    }

    fn send(&self, queue: &str, numbers: std::ops::Range<u32>) {
        let lines: String = numbers.map(|n| format!("{n}\n")).collect();
        let line = format!("publish '' {queue} --lines -f -");
        let ran = self.machine.run_with(&line, lines.as_bytes());
        assert_eq!(ran.status, 0, "{}: {}", self.label, ran.shown());
    }

    pub(crate) fn is_embedded(&self) -> bool {
        self.vhost.is_none()
    }

    /// Where its broker is, and the management API.
    pub(crate) fn connection(&self) -> (String, Option<String>) {
        match &self.vhost {
            Some(vhost) => (vhost.amqp_url(), Some(vhost.management_url())),
            None => {
                let state = self.machine.root().join("home/.local/state/nexusctl/state.db");
                (format!("embedded:{}", state.display()), None)
            }
        }
    }
}

const TOPOLOGY: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  \
    work.quorum: {type: quorum, deliveryLimit: 20}\n  \
    work.classic: {type: classic, bind: [{from: amq.topic, key: a.#}]}\n  \
    other.small: {type: classic, maxLength: 5, messageTtl: 1h}\n  \
    other.target: {type: classic}\n\
    policies:\n  cap: {pattern: ^other, applyTo: queues, definition: {maxLength: 1000}}\n";

pub(crate) fn places(purpose: &str) -> Vec<Place> {
    let mut places =
        vec![Place { machine: Machine::new(), label: "embedded".to_owned(), vhost: None }];
    for node in Node::all() {
        let vhost = node.vhost(purpose);
        let mut machine = Machine::new();
        machine.set("NEXUSCTL_BROKER", &vhost.amqp_url());
        machine.set("NEXUSCTL_MANAGEMENT_URL", &vhost.node.management_url);
        let label = format!("RabbitMQ {}", node.version);
        places.push(Place { machine, label, vhost: Some(vhost) });
    }
    for place in &mut places {
        place.machine.real_time = true;
        place.machine.write("topology.yaml", TOPOLOGY);
        let ran = place.machine.run("topology apply topology.yaml --yes");
        assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
    }
    places
}

fn names(list: &Value) -> Vec<&str> {
    list["queues"].as_array().unwrap().iter().map(|q| q["name"].as_str().unwrap()).collect()
}

#[test]
fn queues_are_listed_with_the_columns_asked_for_and_found_by_what_they_are() {
    for place in places("list") {
        let label = &place.label;
        place.send("work.classic", 0..7);
        let ready = eventually("the count of messages", || {
            let list = place.json("queue list 'work.*' --sort ready:desc");
            (list["queues"][0]["ready"] == 7).then_some(list)
        });
        assert_eq!(names(&ready), ["work.classic", "work.quorum"], "{label}");
        assert_eq!(ready["queues"][1]["queueType"], "quorum", "{label}");
        assert_eq!(ready["queues"][0].as_object().unwrap().len(), 6, "{label}");
        let filtered = place.json("queue list --columns name --filter 'ready > 0'");
        assert_eq!(names(&filtered), ["work.classic"], "{label}");
        assert_eq!(filtered["queues"][0].as_object().unwrap().len(), 1, "{label}");
        let dear = eventually("statistics", || {
            let list = place.json("queue list other.* --columns name,policy,bytes");
            list["queues"][0]["bytes"].is_u64().then_some(list)
        });
        assert_eq!(dear["queues"][0]["policy"], "cap", "{label}: {dear}");
        for (traits, found) in [
            ("--bound-to amq.topic", vec!["work.classic"]),
            ("--policy cap", vec!["other.small", "other.target"]),
            ("--argument x-max-length=5", vec!["other.small"]),
            ("'work.*' --with-messages --no-consumers", vec!["work.classic"]),
            ("'work.*' --empty", vec!["work.quorum"]),
        ] {
            assert_eq!(names(&place.json(&format!("queue find {traits}"))), found, "{label}");
        }
        let none = place.machine.run("queue find nothing.*");
        assert_eq!(none.status, 2, "{label}: {}", none.shown());
        let typo = place.machine.run("queue list --columns redy");
        assert_eq!(typo.status, 64, "{label}");
        let lines = place.machine.run("queue list -o ndjson").ok();
        assert_eq!(lines.lines().count(), 4, "{label}");
    }
}

#[test]
fn a_queue_is_shown_with_its_values_and_surprises() {
    for place in places("show") {
        let label = &place.label;
        place.send("other.small", 0..3);
        let shown = place.json("queue show other.small --sample 300ms");
        assert_eq!(shown["kind"], "Queue");
        let notes = shown["notes"].to_string();
        assert!(notes.contains("no dead-letter exchange"), "{label}: {notes}");
        assert!(notes.contains("nobody consumes") || !place.is_embedded(), "{label}: {notes}");
        let settings = shown["settings"].as_array().unwrap();
        let length = settings.iter().find(|s| s["name"] == "max-length").unwrap();
        assert_eq!(
            (&length["value"], &length["source"]),
            (&5.into(), &"argument".into()),
            "{label}"
        );
        assert_eq!(length["over"][0], "1000 (policy `cap`)", "{label}");
        assert_eq!(shown["rates"]["growth"], 0.0, "{label}: {shown}");
        assert!(shown["rates"]["unknown"].is_string(), "{label}");
        assert!(shown["oldest"]["seconds"].is_null() == shown["oldest"]["unknown"].is_string());
        let once = place.json("queue show work.quorum --sample 0s");
        assert!(once["rates"].is_null(), "{label}");
        if !place.is_embedded() {
            assert_eq!(once["members"].as_array().unwrap().len(), 1, "{label}: {once}");
            assert!(once["leader"].is_string(), "{label}");
        }
        let missing = place.machine.run("queue show work.quorun");
        assert_eq!(missing.status, 1, "{label}");
        assert!(missing.stderr.contains("did you mean `work.quorum`?"), "{}", missing.shown());
    }
}

impl Place {
    /// The bodies of what a look sees; panics unless it is let.
    fn peeked(&self, queue: &str, count: u32) -> Vec<u32> {
        let ran = self.machine.run(&format!("queue peek {queue} --count {count} --raw -q"));
        assert_eq!(ran.status, 0, "{}: {}", self.label, ran.shown());
        ran.stdout.lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Everything in the queue, taken out.
    fn drained(&self, queue: &str) -> Vec<u32> {
        let ran = self.machine.run(&format!("consume {queue} --until-empty --raw -q"));
        assert_eq!(ran.status, 0, "{}: {}", self.label, ran.shown());
        ran.stdout.lines().map(|line| line.parse().unwrap()).collect()
    }
}

#[test]
fn twenty_five_looks_leave_the_messages_in_order_or_are_refused() {
    let all: Vec<u32> = (0..300).collect();
    for place in places("peek") {
        let label = &place.label;
        for queue in ["work.quorum", "work.classic"] {
            place.send(queue, 0..300);
            let mut refused = 0;
            for look in 0..25 {
                let ran = place.machine.run(&format!("queue peek {queue} --count 200 --raw -q"));
                match ran.status {
                    0 => {
                        let seen: Vec<u32> =
                            ran.stdout.lines().map(|line| line.parse().unwrap()).collect();
                        assert_eq!(seen, all[..200], "{label}: {queue}, look {look}");
                    }
                    4 => {
                        refused += 1;
                        assert!(ran.stderr.contains("lives left"), "{label}: {}", ran.shown());
                    }
                    _ => panic!("{label}: {queue}: {}", ran.shown()),
                }
            }
            // Of 20 lives 18 may go before fewer than 3 are left.
            assert_eq!(refused, if queue == "work.quorum" { 7 } else { 0 }, "{label}: {queue}");
            if queue == "work.quorum" {
                let plan = place.machine.run("queue peek work.quorum --dry-run -o json");
                assert_eq!(plan.status, 2, "{label}");
                assert_eq!(plan.json()["livesLeft"], 2, "{label}: {}", plan.shown());
                let forced =
                    place.machine.run("queue peek work.quorum --count 1 --min-lives 0 --raw -q");
                assert_eq!((forced.status, forced.stdout.as_str()), (0, "0\n"), "{label}");
            }
            assert_eq!(place.drained(queue), all, "{label}: {queue}");
        }
        place.send("work.quorum", 0..1);
        let after = place.machine.run("queue peek work.quorum --min-lives 0 --raw -q");
        assert_eq!(after.status, 0, "{label}");
        assert_eq!(place.peeked("work.quorum", 1), [0], "{label}: the note is corrected");
    }
}

#[test]
fn a_smaller_look_after_a_larger_one_keeps_the_order() {
    for place in places("smaller") {
        let label = &place.label;
        place.send("work.quorum", 0..200);
        for (count, seen) in [(150, 150), (1, 1), (40, 40), (3, 3)] {
            assert_eq!(
                place.peeked("work.quorum", count),
                (0..seen).collect::<Vec<_>>(),
                "{label}"
            );
        }
        assert_eq!(place.drained("work.quorum"), (0..200).collect::<Vec<_>>(), "{label}");
    }
}

#[test]
fn a_look_that_would_see_nothing_or_do_harm_is_refused_by_name() {
    for place in places("bars") {
        let label = &place.label;
        let missing = place.machine.run("queue peek work.quorun");
        assert_eq!(missing.status, 1, "{label}: {}", missing.shown());
        let wrong = place.machine.run("queue peek work.classic --from first");
        assert_eq!(wrong.status, 64, "{label}: {}", wrong.shown());
        assert_eq!(place.peeked("work.classic", 3), Vec::<u32>::new(), "{label}");
        place.send("work.classic", 0..2);
        let document = place.json("queue peek work.classic");
        assert_eq!(document["kind"], "Messages");
        assert_eq!(document["messages"].as_array().unwrap().len(), 2, "{label}");
        place.machine.write("stream.yaml", STREAM);
        assert_eq!(place.machine.run("topology apply stream.yaml --yes").status, 0, "{label}");
        place.send("history", 0..20);
        for (from, first) in [("", 0), ("--from first", 0), ("--from 15", 15), ("--from 1h", 0)] {
            let line = format!("queue peek history --count 3 --raw -q {from}");
            let ran = place.machine.run(&line);
            let seen: Vec<u32> = ran.stdout.lines().map(|line| line.parse().unwrap()).collect();
            assert_eq!(seen, [first, first + 1, first + 2], "{label}: {line}\n{}", ran.shown());
        }
        let next = place.machine.run("queue peek history --from next --wait 300ms --raw").ok();
        assert_eq!(next, "", "{label}");
    }
}

#[test]
fn a_purge_wants_the_name_counts_exactly_and_keeps_what_it_takes() {
    for place in places("purge") {
        let label = &place.label;
        let machine = &place.machine;
        for queue in ["work.classic", "work.quorum"] {
            place.send(queue, 0..3000);
            let plan = place.json(&format!("queue purge {queue} --dry-run"));
            assert_eq!((&plan["ready"], &plan["removed"]), (&3000.into(), &0.into()), "{label}");
            for refused in ["", "--yes", "--confirm other"] {
                let ran = machine.run(&format!("queue purge {queue} {refused}"));
                assert_eq!(ran.status, 4, "{label}: {}", ran.shown());
            }
            let unwritable = format!("queue purge {queue} --backup /dev/full --confirm {queue}");
            let ran = machine.run(&unwritable);
            assert_eq!(ran.status, 1, "{label}: {}", ran.shown());
            let line = format!("queue purge {queue} --backup {queue}.ndjson --confirm {queue}");
            let done = place.json(&line);
            assert_eq!(done["removed"], 3000, "{label}: {queue}: {done}");
            assert_eq!(done["backedUp"], 3000, "{label}: {queue}: {done}");
            assert_eq!(place.drained(queue), Vec::<u32>::new(), "{label}: {queue}");
            let back = format!("publish --records -f {queue}.ndjson -q");
            assert_eq!(machine.run(&back).status, 0, "{label}");
            assert_eq!(place.drained(queue), (0..3000).collect::<Vec<_>>(), "{label}: {queue}");
        }
        let missing = machine.run("queue purge work.quorun --confirm work.quorun");
        assert_eq!(missing.status, 1, "{label}: {}", missing.shown());
    }
}

const STREAM: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  history: {type: stream}\n";

/// What `queue move` and `queue copy` are tried on, beside the usual.
const TARGETS: &str = "apiVersion: nexus/v1\nkind: Topology\n\
    exchanges:\n  back: {type: direct}\n  on: {type: topic}\n\
    queues:\n  \
    to.quorum: {type: quorum, deliveryLimit: 20}\n  \
    to.classic: {type: classic}\n  \
    to.elsewhere: {type: classic, bind: [{from: on, key: '#'}]}\n  \
    to.full: {type: classic, maxLength: 4, overflow: reject-publish}\n  \
    to.short: {type: classic, maxLength: 4}\n  \
    work.round: {type: classic, bind: [{from: back, key: work.round}]}\n";

fn places_with_targets(purpose: &str) -> Vec<Place> {
    let places = places(purpose);
    for place in &places {
        place.machine.write("targets.yaml", TARGETS);
        let ran = place.machine.run("topology apply targets.yaml --yes");
        assert_eq!(ran.status, 0, "{}: {}", place.label, ran.shown());
    }
    places
}

#[test]
fn a_move_takes_what_is_asked_for_in_order_and_leaves_the_rest_as_it_was() {
    for place in places_with_targets("move") {
        let label = &place.label;
        for (from, to) in [("work.quorum", "to.classic"), ("work.classic", "to.quorum")] {
            place.send(from, 0..1000);
            let plan = place.json(&format!("queue move {from} {to} --count 7 --dry-run"));
            assert_eq!((&plan["ready"], &plan["atMost"]), (&1000.into(), &7.into()), "{label}");
            assert_eq!((&plan["transferred"], &plan["dryRun"]), (&0.into(), &true.into()));
            let few = place.json(&format!("queue move {from} {to} --count 300"));
            assert_eq!((&few["transferred"], &few["lookedAt"]), (&300.into(), &300.into()));
            let filtered = place.json(&format!("queue move {from} {to} --filter 'body % 2 == 0'"));
            assert_eq!(filtered["transferred"], 350, "{label}: {filtered}");
            assert_eq!(filtered["notWanted"], 350, "{label}: {filtered}");
            let odd: Vec<u32> = (300..1000).filter(|n| n % 2 == 1).collect();
            assert_eq!(place.peeked(from, 500), odd, "{label}: {from}: the rest keeps its order");
            let few =
                place.json(&format!("queue move {from} {to} --filter 'body > 500' --count 2"));
            assert_eq!(few["transferred"], 2, "{label}: {few}");
            let all = place.json(&format!("queue move {from} {to}"));
            assert_eq!(all["transferred"], 348, "{label}: {all}");
            let even = (300..1000).filter(|n| n % 2 == 0);
            let rest = odd.iter().copied().filter(|n| ![501, 503].contains(n));
            let expected: Vec<u32> = (0..300).chain(even).chain([501, 503]).chain(rest).collect();
            assert_eq!(place.drained(to), expected, "{label}: {from}");
            assert_eq!(place.drained(from), Vec::<u32>::new(), "{label}");
            let none = place.json(&format!("queue move {from} {to}"));
            assert_eq!((&none["transferred"], &none["lookedAt"]), (&0.into(), &0.into()));
        }
    }
}

#[test]
fn a_copy_leaves_its_source_in_order_and_costs_what_a_look_costs() {
    for place in places_with_targets("copy") {
        let label = &place.label;
        for (from, to) in [("work.quorum", "to.classic"), ("work.classic", "to.quorum")] {
            place.send(from, 0..400);
            for count in [300, 20] {
                let done = place.json(&format!("queue copy {from} {to} --count {count}"));
                assert_eq!(done["transferred"], count, "{label}: {done}");
                assert_eq!(place.drained(to), (0..count).collect::<Vec<_>>(), "{label}");
            }
            let odd = place.json(&format!("queue copy {from} {to} --filter 'body % 2 == 1'"));
            assert_eq!((&odd["transferred"], &odd["notWanted"]), (&200.into(), &200.into()));
            assert_eq!(place.drained(to), (0..400).filter(|n| n % 2 == 1).collect::<Vec<_>>());
            if from == "work.quorum" {
                let plan = place.json("queue copy work.quorum to.classic --dry-run");
                assert_eq!(plan["livesLeft"], 17, "{label}: {plan}");
                let line = "queue copy work.quorum to.classic --min-lives 18";
                let refused = place.machine.run(line);
                assert_eq!(refused.status, 4, "{label}: {}", refused.shown());
                let plan = place.machine.run(&format!("{line} --dry-run"));
                assert_eq!(plan.status, 2, "{label}: {}", plan.shown());
                // What goes for good needs no lives.
                let all =
                    place.json("queue move work.quorum to.elsewhere --min-lives 18 --count 1");
                assert_eq!(all["transferred"], 1, "{label}: {all}");
                assert_eq!(place.drained(from), (1..400).collect::<Vec<_>>(), "{label}");
            } else {
                assert_eq!(place.drained(from), (0..400).collect::<Vec<_>>(), "{label}");
            }
        }
    }
}

#[test]
fn what_a_target_does_not_take_stays_and_is_counted_by_its_reason() {
    for place in places_with_targets("left") {
        let label = &place.label;
        let machine = &place.machine;
        let run = |line: &str| {
            let ran = machine.run(&format!("{line} -o json"));
            let view = ran.json();
            (ran.status, view)
        };
        place.send("work.quorum", 0..10);
        let (status, view) = run("queue move work.quorum to.full");
        assert_eq!(status, 3, "{label}: {view}");
        let moved = view["transferred"].as_u64().unwrap();
        assert_eq!((moved, view["nacked"].as_u64().unwrap()), (4, 6), "{label}: {view}");
        let (status, view) = run("queue move work.quorum to.full");
        assert_eq!((status, &view["transferred"]), (5, &0.into()), "{label}: {view}");
        assert!(view["stopped"].as_str().unwrap().contains("full"), "{label}: {view}");
        assert_eq!(place.drained("work.quorum"), (4..10).collect::<Vec<_>>(), "{label}");

        place.send("work.round", 0..5);
        let (status, view) = run("queue move work.round --exchange back");
        assert_eq!((status, &view["circular"]), (5, &1.into()), "{label}: {view}");
        let (status, view) = run("queue move work.round --exchange back --key nobody");
        assert_eq!((status, &view["transferred"]), (5, &0.into()), "{label}: {view}");
        assert!(view["returned"].as_u64().unwrap() > 0, "{label}: {view}");
        let (status, view) = run("queue move work.round --exchange on --key any --count 2 --mark");
        assert_eq!((status, &view["transferred"]), (0, &2.into()), "{label}: {view}");
        let marked = place.json("queue peek to.elsewhere --count 1");
        let header =
            marked["messages"][0]["properties"]["headers"]["x-nexus-moved-from"].to_string();
        assert!(header.contains("work.round"), "{label}: {marked}");
        assert_eq!(place.drained("work.round"), [2, 3, 4], "{label}");

        // A target that drops its oldest is a loss, and wants a yes.
        place.send("work.quorum", 0..10);
        let refused = machine.run("queue move work.quorum to.short");
        assert_eq!(refused.status, 4, "{label}: {}", refused.shown());
        assert!(refused.stderr.contains("without consent"), "{}", refused.shown());
        let (status, _) = run("queue move work.quorum to.short --yes");
        assert_eq!(status, 0, "{label}");
        assert_eq!(place.drained("to.short"), [6, 7, 8, 9], "{label}");

        for (line, status, says) in [
            ("move work.quorum work.quorum", 64, "is both where"),
            ("move work.quorum to.quorun", 1, "did you mean `to.quorum`?"),
            ("copy work.quorun to.quorum", 1, "did you mean `work.quorum`?"),
            ("move work.quorum --exchange bakc", 1, "did you mean `back`?"),
            ("copy work.quorum to.quorum --from-offset first", 64, "is for streams"),
            ("move work.quorum to.quorum --filter 'bdy > 1'", 64, "--filter"),
        ] {
            let ran = machine.run(&format!("queue {line}"));
            assert_eq!(ran.status, status, "{label}: {}", ran.shown());
            assert!(ran.stderr.contains(says), "{label}: {}", ran.shown());
        }
    }
}

#[test]
fn a_message_goes_to_one_place_with_its_properties_whoever_published_it() {
    for place in places_with_targets("same") {
        let label = &place.label;
        let machine = &place.machine;
        let mut record = serde_json::json!({
            "exchange": "", "routingKey": "work.quorum", "body": "kept",
            "properties": {
                "expiration": "3600000", "priority": 3, "messageId": "m1",
                "headers": {"CC": ["to.elsewhere"], "kind": "a"},
            },
        });
        let login = if place.is_embedded() { "somebody" } else { "guest" };
        record["properties"]["userId"] = login.into();
        let ran = machine.run_with("publish --records -f - -q", format!("{record}\n").as_bytes());
        assert_eq!(ran.status, 0, "{label}: {}", ran.shown());
        assert_eq!(machine.run("consume to.elsewhere --count 1 -q").status, 0, "{label}");
        place.json("queue move work.quorum to.classic");
        let forked = machine.run("consume to.elsewhere --until-empty --raw -q").ok();
        assert_eq!(forked, "", "{label}: CC routed it again");
        let seen = place.json("queue peek to.classic");
        let message = &seen["messages"][0];
        assert_eq!(message["body"], "kept", "{label}: {seen}");
        assert_eq!(message["properties"]["expiration"], "3600000", "{label}: {seen}");
        assert_eq!(message["properties"]["messageId"], "m1", "{label}: {seen}");
        assert_eq!(message["properties"]["priority"], 3, "{label}: {seen}");
        let headers = message["properties"]["headers"].to_string();
        assert!(headers.contains("x-nexus-cc") && headers.contains("kind"), "{label}: {headers}");
        assert!(!headers.contains("x-delivery-count"), "{label}: {headers}");
    }
}

#[test]
fn streams_are_copied_from_anywhere_and_taken_to_and_never_moved_from() {
    for place in places_with_targets("streams") {
        let label = &place.label;
        place.machine.write("stream.yaml", STREAM);
        assert_eq!(place.machine.run("topology apply stream.yaml --yes").status, 0, "{label}");
        place.send("work.classic", 0..1500);
        let into = place.json("queue copy work.classic history");
        assert_eq!(into["transferred"], 1500, "{label}: {into}");
        for (from, expected) in [("", 0..1500), ("--from-offset 1400", 1400..1500)] {
            let done = place.json(&format!("queue copy history to.quorum {from}"));
            assert_eq!(done["transferred"], expected.len(), "{label}: {done}");
            assert_eq!(place.drained("to.quorum"), expected.collect::<Vec<_>>(), "{label}");
        }
        let some = place.json("queue copy history to.quorum --filter 'body == 700' --count 1");
        assert_eq!(some["transferred"], 1, "{label}: {some}");
        let refused = place.machine.run("queue move history to.quorum");
        assert_eq!(refused.status, 1, "{label}: {}", refused.shown());
        assert!(refused.stderr.contains("queue copy"), "{label}: {}", refused.shown());
        // A stream is read, and only on purpose; nothing takes from it.
        for line in ["consume history", "consume history --until-empty --filter 'body == 1'"] {
            let ran = place.machine.run(line);
            assert_eq!(ran.status, 64, "{label}: {}", ran.shown());
            assert!(ran.stderr.contains("--offset first"), "{label}: {}", ran.shown());
        }
        let purge = place.machine.run("queue purge history --confirm history");
        assert_eq!(purge.status, 1, "{label}: {}", purge.shown());
        let line = "consume history --offset 1490 --count 5 --filter 'body % 2 == 0' --raw -q";
        let read = place.machine.run(line).ok();
        assert_eq!(read, "1490\n1492\n1494\n1496\n1498\n", "{label}");
        let again = place.machine.run("consume history --offset first --count 2 --raw -q").ok();
        assert_eq!(again, "0\n1\n", "{label}");
    }
}

/// A consumer beside, for as long as `work` runs.
fn beside<T>(place: &Place, queue: &str, exclusive: bool, work: impl FnOnce() -> T) -> T {
    let (url, management) = place.connection();
    let queue = queue.parse().unwrap();
    support::fixture::ask(&url, management.as_deref(), async |broker| {
        let options = ConsumerOptions { prefetch: 1, exclusive, ..Default::default() };
        let consumer = broker.consumer(&queue, options).await.unwrap();
        // The management API knows of it a little later.
        let details = async || broker.queue_details(&queue).await.unwrap().unwrap();
        let known = async || {
            let details = details().await;
            let subscribers = details.subscribers.clone().unwrap_or_default();
            details.state.consumers == Some(1)
                && (!exclusive || place.is_embedded() || subscribers.iter().any(|s| s.exclusive))
        };
        while !known().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let result = tokio::task::block_in_place(work);
        consumer.close().await.unwrap();
        result
    })
}

#[test]
fn a_queue_that_another_has_to_itself_is_not_looked_at_nor_moved_from() {
    const ALONE: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  \
        one.quorum: {type: quorum, singleActiveConsumer: true}\n  \
        one.classic: {type: classic, singleActiveConsumer: true}\n";
    for place in places_with_targets("alone") {
        let label = &place.label;
        let machine = &place.machine;
        machine.write("alone.yaml", ALONE);
        assert_eq!(machine.run("topology apply alone.yaml --yes").status, 0, "{label}");
        for (queue, exclusive) in
            [("work.classic", true), ("one.classic", false), ("one.quorum", false)]
        {
            // Nobody there: looked at in order, and again.
            place.send(queue, 0..20);
            assert_eq!(place.peeked(queue, 5), [0, 1, 2, 3, 4], "{label}: {queue}");
            assert_eq!(place.peeked(queue, 20), (0..20).collect::<Vec<_>>(), "{label}: {queue}");
            beside(&place, queue, exclusive, || {
                for line in ["peek", "move", "copy"] {
                    let to = if line == "peek" { "" } else { "to.classic" };
                    let ran = machine.run(&format!("queue {line} {queue} {to}"));
                    assert!(
                        matches!(ran.status, 75 | 77),
                        "{label}: {queue} {line} {}",
                        ran.shown()
                    );
                    // Who cannot see that it is exclusive is told so by the broker.
                    assert!(ran.status == 75 || place.is_embedded(), "{label}: {}", ran.shown());
                }
            });
            eventually("the messages are back", || {
                let ran = machine.run(&format!("queue peek {queue} --count 20 --raw -q"));
                (ran.stdout.lines().count() == 20).then_some(())
            });
            let moved = place.json(&format!("queue move {queue} to.classic"));
            assert_eq!(moved["transferred"], 20, "{label}: {queue}: {moved}");
            // What the other held may have come back behind those that were looked at.
            let mut all = place.drained("to.classic");
            all.sort_unstable();
            assert_eq!(all, (0..20).collect::<Vec<_>>(), "{label}: {queue}");
        }
    }
}
