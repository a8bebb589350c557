//! `queue …` on the embedded broker and on both RabbitMQ versions.

use serde_json::Value;

use crate::harness::Machine;
use crate::support::{Node, Vhost, eventually};

/// A machine whose settings lead to one broker.
struct Place {
    machine: Machine,
    label: String,
    vhost: Option<Vhost>,
}

impl Place {
    fn json(&self, line: &str) -> Value {
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

    fn is_embedded(&self) -> bool {
        self.vhost.is_none()
    }
}

const TOPOLOGY: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  \
    work.quorum: {type: quorum, deliveryLimit: 20}\n  \
    work.classic: {type: classic, bind: [{from: amq.topic, key: a.#}]}\n  \
    other.small: {type: classic, maxLength: 5, messageTtl: 1h}\n  \
    other.target: {type: classic}\n\
    policies:\n  cap: {pattern: ^other, applyTo: queues, definition: {maxLength: 1000}}\n";

fn places(purpose: &str) -> Vec<Place> {
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
        let Some(vhost) = &place.vhost else { continue };
        let stream = r#"{"durable":true,"arguments":{"x-queue-type":"stream"}}"#;
        vhost.api("PUT", "queues", "history", Some(stream)).ok();
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
