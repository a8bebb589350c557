//! Tapping from the command line: what it says, and that nothing of it stays.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::harness::Machine;
use crate::process::{command, finish, signal};
use crate::support::{Node, eventually};

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.real_time = true;
    prepare(&machine);
    machine
}

fn prepare(machine: &Machine) {
    machine.write(
        "topology.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {name: t}\n\
         exchanges:\n  events: {type: topic}\n  jobs: {type: direct}\n  \
         main: {type: topic, alternateExchange: rest}\n  rest: {type: fanout}\n\
         queues:\n  q: {bind: [{from: jobs, key: one}, {from: main, key: a}, {from: rest}]}\n",
    );
    machine.run("topology apply -q").ok();
}

/// The queues of taps.
fn taps(machine: &Machine) -> Vec<String> {
    let listed = machine.run("queue list -o json").json();
    let queues = listed["queues"].as_array().unwrap().iter();
    let names = queues.map(|queue| queue["name"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("nexus.tap.")).collect()
}

/// Starts a tap of `events` and waits until it is bound: nobody else takes what goes there.
fn start(machine: &Machine, args: &[&str], stdout: Stdio) -> Child {
    let child = command(machine, &[&["tap", "events", "--raw"], args].concat())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("a tap that is bound", || {
        (machine.run("publish events a hello -q").status == 0).then_some(())
    });
    child
}

#[test]
fn before_anything_is_bound_it_is_said_what_would_be() {
    let machine = machine();
    let shown = machine.run("tap events jobs:one main --buffer 5 --dry-run").ok();
    let (first, rest) = shown.split_once('\n').unwrap();
    assert!(first.starts_with("would make the queue nexus.tap.tester@"), "{first}");
    assert!(first.ends_with("at most 5 messages, gone by itself 1m after its reader"), "{first}");
    assert_eq!(
        rest,
        "  bound to exchange `events` by `#`\n  \
           bound to exchange `jobs` by `one`\n  \
           bound to exchange `main` by `a`\n  \
           bound to exchange `rest` by ``\n\
         warning: exchange `events`: while the tap is there, a message that only the tap takes is not \
         returned to its publisher; `--mirror` takes no more than what is bound already\n\
         warning: exchange `main` has the alternate exchange `rest`: the tap takes what is bound now, \
         and the alternate, so that nothing is kept from it; bindings that come later are not followed\n\
         nothing was bound\n"
    );
    assert_eq!(taps(&machine), Vec::<String>::new());
}

#[test]
fn what_cannot_be_tapped_is_refused_with_another_way() {
    let machine = machine();
    for (line, status, says) in [
        ("tap ''", 64, "queue peek"),
        ("tap jobs", 64, "`jobs:one`; `--mirror` takes all that are bound"),
        ("tap event", 1, "did you mean `events`?"),
        ("tap events -H a=b", 64, "`--filter`"),
        ("tap main:# --deadline 1s", 4, "do not reach its alternate exchange `rest`"),
        ("tap events --filter 'bodi == 1'", 64, "bodi"),
    ] {
        let ran = machine.run(line);
        assert_eq!(ran.status, status, "{line}: {}", ran.shown());
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
    }
    assert_eq!(taps(&machine), Vec::<String>::new());
}

#[test]
fn a_signal_ends_a_tap_and_takes_it_away() {
    let machine = machine();
    let mut child = start(&machine, &[], Stdio::piped());
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    assert_eq!(taps(&machine).len(), 1);
    signal(&child, "-INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.ends_with("stopped; the tap is gone\n"), "{stderr}");
    assert_eq!(taps(&machine), Vec::<String>::new());
}

#[test]
fn a_full_disk_ends_a_tap_with_status_1_and_takes_it_away() {
    let machine = machine();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = start(&machine, &[], full.into());
    let output = finish(child);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("No space left"), "{stderr}");
    assert!(stderr.contains("0 messages written"), "{stderr}");
    assert_eq!(taps(&machine), Vec::<String>::new());
}

#[test]
fn after_a_kill_the_tap_goes_by_itself() {
    let killed = |machine: &Machine| {
        let mut child = start(machine, &["--expires", "1s"], Stdio::piped());
        assert_eq!(taps(machine).len(), 1);
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("no tap any more", || taps(machine).is_empty().then_some(()));
        // Nobody takes it now.
        assert_eq!(machine.run("publish events a hello -q").status, 5);
    };
    killed(&machine());
    for node in Node::all() {
        let vhost = node.vhost("tap");
        let mut machine = Machine::new();
        machine.real_time = true;
        machine.set("NEXUSCTL_BROKER", &vhost.amqp_url());
        machine.set("NEXUSCTL_MANAGEMENT_URL", &vhost.management_url());
        prepare(&machine);
        killed(&machine);
    }
}

#[test]
fn the_report_counts_what_was_seen() {
    let machine = machine();
    let child = start(
        &machine,
        &["--filter", "routingKey == 'b'", "--count", "1", "--report", "tap.json"],
        Stdio::piped(),
    );
    machine.run("publish events b wanted -q").ok();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "wanted\n");
    let report: serde_json::Value = serde_json::from_str(&machine.read("tap.json")).unwrap();
    assert_eq!(report["kind"], "Tapped");
    assert_eq!((&report["written"], &report["ended"]), (&1.into(), &"count".into()));
    assert!(report["seen"].as_u64().unwrap() >= 2, "{report}");
    assert_eq!(report["leftBehind"], serde_json::Value::Null);
}
