//! Recording and playing from the command line, and a play that is killed.

use std::process::Stdio;

use crate::harness::Machine;
use crate::process::{command, finish, signal};
use crate::support::program::kills;
use crate::support::{Node, eventually};

const TOPOLOGY: &str = "apiVersion: nexus/v1\nkind: Topology\nmetadata: {name: t}\n\
     exchanges: {events: {type: topic}, lonely: {type: direct}}\n\
     queues:\n  q: {type: classic, bind: [{from: events, key: \"#\"}]}\n";

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.real_time = true;
    machine.write("topology.yaml", TOPOLOGY);
    machine.run("topology apply -q").ok();
    machine
}

/// A machine for the embedded broker, and one for each RabbitMQ.
fn machines(purpose: &str) -> Vec<(Machine, Option<crate::support::Vhost>)> {
    let mut machines = vec![(machine(), None)];
    for node in Node::all() {
        let vhost = node.vhost(purpose);
        let mut machine = Machine::new();
        machine.real_time = true;
        machine.set("NEXUSCTL_BROKER", &vhost.amqp_url());
        machine.set("NEXUSCTL_MANAGEMENT_URL", &vhost.management_url());
        machine.write("topology.yaml", TOPOLOGY);
        machine.run("topology apply -q").ok();
        machines.push((machine, Some(vhost)));
    }
    machines
}

fn line(number: u64, ms: u64) -> String {
    let (s, ms) = (20 + ms / 1000, ms % 1000);
    format!(
        "{{\"receivedAt\":\"2023-11-14T22:13:{s:02}.{ms:03}Z\",\"exchange\":\"events\",\
         \"routingKey\":\"k\",\"bodyText\":\"{number}\"}}\n"
    )
}

fn recording(machine: &Machine, count: u64) {
    let lines: String = (0..count).map(|number| line(number, 0)).collect();
    machine.write("r.ndjson", &lines);
}

fn taken(machine: &Machine) -> Vec<u64> {
    let text = machine.run("consume q --until-empty --raw -q").ok();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
fn what_is_recorded_is_played_as_it_was() {
    for (machine, _vhost) in machines("record") {
        machine.run("publish events a.b hello -H n:=5 --priority 3 --count 3 -q").ok();
        let ran = machine.run("record r.ndjson --queue q --until-empty --keep -o json");
        assert_eq!(ran.json()["written"], 3, "{}", ran.shown());
        assert_eq!(machine.run("record r.ndjson --queue q --until-empty").status, 64);
        let first = machine.run("consume q --until-empty -q").ok();
        let recorded = machine.read("r.ndjson");
        for line in recorded.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(record["receivedAt"].as_str().unwrap().ends_with('Z'), "{line}");
        }
        let played = machine.run("play r.ndjson --speed 2x");
        assert_eq!(played.shown(), "3 messages confirmed\n");
        assert!(!machine.path("r.ndjson.journal").exists());
        let flags = |text: &str| text.replace("\"redelivered\":true", "\"redelivered\":false");
        let again = machine.run("consume q --until-empty -q").ok();
        assert_eq!(flags(&again), flags(&first));
        // What does not play takes it as it is.
        machine.run("publish --records -f r.ndjson -q").ok();
        assert_eq!(taken_text(&machine), ["hello"; 3]);
    }
}

fn taken_text(machine: &Machine) -> Vec<String> {
    let text = machine.run("consume q --until-empty --raw -q").ok();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_tap_is_recorded_and_a_part_of_it_played_elsewhere() {
    let machine = machine();
    let child = command(&machine, &["record", "r.ndjson", "events", "--mirror", "--count", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("a recorded message", || {
        machine.run("publish events k hello -q").ok();
        machine.path("r.ndjson").exists().then_some(())?;
        (!machine.read("r.ndjson").is_empty()).then_some(())
    });
    assert_eq!(finish(child).status.code(), Some(0));
    assert!(machine.read("r.ndjson").contains("\"receivedAt\""));
    machine.run("queue purge q --confirm q -q").ok();
    machine.write("r.ndjson", &[line(0, 0), line(1, 500), line(2, 1500)].concat());
    let shown = machine.run("play r.ndjson --from 400ms --to 1s --dry-run").ok();
    assert_eq!((shown.lines().count(), shown.contains("\"body\":1")), (1, true), "{shown}");
    assert!(!machine.path("r.ndjson.journal").exists());
    let line =
        "play r.ndjson --speed max --from 2023-11-14T22:13:20.400Z --exchange '' --key q -o json";
    let played = machine.run(line).json();
    assert_eq!((&played["confirmed"], &played["leftOut"]), (&2.into(), &1.into()), "{played}");
    assert_eq!(taken(&machine), [1, 2]);
    let missing = machine.run("play r.ndjson --exchange nowhere --speed max");
    assert_eq!(missing.status, 5, "{}", missing.shown());
}

#[test]
fn a_killed_play_loses_nothing_and_repeats_no_more_than_its_window() {
    const WINDOW: u64 = 200;
    let most = kills();
    let count = 10_000 * most;
    for (machine, vhost) in machines("play") {
        recording(&machine, count);
        let mut kills = 0;
        let mut resume = false;
        loop {
            let mut args = vec!["play", "r.ndjson", "--speed", "max", "--window", "200"];
            if resume {
                args.push("--resume");
            }
            let before = std::fs::read(machine.path("r.ndjson.journal")).map_or(0, |t| t.len());
            let mut child = command(&machine, &args)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            if kills == most {
                let output = finish(child);
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(0), "{stderr}");
                assert!(stderr.contains("up to 200 may have been sent before"), "{stderr}");
                break;
            }
            eventually("a journal that grows", || {
                let text = std::fs::read(machine.path("r.ndjson.journal")).ok()?;
                (text.len() > before + 250).then_some(())
            });
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
            resume = true;
            let again = machine.run("play r.ndjson --speed max");
            assert_eq!(again.status, 4, "{}", again.shown());
            assert!(again.stderr.contains("`--resume` goes on there"), "{}", again.stderr);
        }
        let mut numbers = taken(&machine);
        let all = numbers.len() as u64;
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len() as u64, count, "{vhost:?}");
        assert!(all - count <= most * WINDOW, "{} repeated, {vhost:?}", all - count);
        assert!(!machine.path("r.ndjson.journal").exists());
    }
}

#[test]
fn a_stopped_play_goes_on_where_it_was() {
    let machine = machine();
    machine.write("r.ndjson", &[line(0, 0), line(1, 10), line(2, 39_000)].concat());
    let child = command(&machine, &["play", "r.ndjson"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("two messages", || {
        let listed = machine.run("queue show q -o json").json();
        (listed["ready"] == 2).then_some(())
    });
    signal(&child, "-TERM");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(143));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("--resume"), "{stderr}");
    let ran = machine.run("play r.ndjson --resume --key other");
    assert_eq!(ran.status, 65, "{}", ran.shown());
    assert!(ran.stderr.contains("other options"), "{}", ran.stderr);
    let ran = machine.run("play r.ndjson --resume --speed max -o json").json();
    assert_eq!((&ran["confirmed"], &ran["resumedAfter"]), (&1.into(), &2.into()), "{ran}");
    assert_eq!(taken(&machine), [0, 1, 2]);
}

#[test]
fn what_was_refused_is_played_again() {
    let machine = machine();
    let to = |exchange: &str, number: u64| line(number, 0).replace("events", exchange);
    machine.write("r.ndjson", &[to("events", 0), to("lonely", 1), to("events", 2)].concat());
    assert_eq!(machine.run("play r.ndjson --speed max").status, 5);
    assert_eq!(taken(&machine), [0, 2]);
    let again = machine.run("play r.ndjson --speed max");
    assert!(
        again.stderr.contains("got to line 3, of which 1 was not accepted"),
        "{}",
        again.stderr
    );
    let more = format!("{TOPOLOGY}  late: {{bind: [{{from: lonely, key: k}}]}}\n");
    machine.write("topology.yaml", &more);
    machine.run("topology apply -q").ok();
    let ran = machine.run("play r.ndjson --speed max --resume");
    assert_eq!(ran.status, 0, "{}", ran.shown());
    assert!(ran.stderr.contains("line 2 was not accepted, and is sent again"), "{}", ran.stderr);
    assert_eq!(taken(&machine), Vec::<u64>::new());
    assert!(!machine.path("r.ndjson.journal").exists());
}

#[test]
fn half_a_record_of_a_killed_run_does_not_spoil_the_next() {
    let machine = machine();
    machine.run("publish events k whole -q").ok();
    machine.write("r.ndjson", &format!("{}{{\"exchange\":\"ev", line(0, 0)));
    machine.run("record r.ndjson --queue q --until-empty --append -q").ok();
    let text = machine.read("r.ndjson");
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((text.lines().count(), &last["bodyText"]), (3, &"whole".into()), "{text}");
    let played = machine.run("play r.ndjson --speed max --on-error skip");
    assert_eq!(played.status, 3, "{}", played.shown());
    assert_eq!(taken_text(&machine), ["0", "whole"]);
}
