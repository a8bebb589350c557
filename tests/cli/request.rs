//! Asking from the command line, on the embedded broker.

use std::process::Stdio;

use crate::harness::Machine;
use crate::process::{command, finish, signal};
use crate::support::eventually;

fn machine() -> Machine {
    let mut machine = Machine::new();
    // An answer is waited for in real time, and a request expires by the broker's clock.
    machine.real_time = true;
    machine.write(
        "topology.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {name: t}\n\
         exchanges: {jobs: {type: direct}}\n\
         queues:\n  q: {bind: [{from: jobs, key: k}]}\n",
    );
    machine.run("topology apply -q").ok();
    machine
}

#[test]
fn the_answer_is_on_stdout_and_all_else_on_stderr() {
    let machine = machine();
    let _responder = machine.respond("q", "hello yourself");
    let ran = machine.run("request jobs k hello --raw");
    assert_eq!(ran.stdout, "hello yourself\n");
    assert!(ran.stderr.starts_with("1 request answered in "), "{}", ran.shown());
    let record: serde_json::Value =
        serde_json::from_str(&machine.run("request --queue q hello -q").ok()).unwrap();
    assert_eq!(record["bodyText"], "hello yourself");
    let ran = machine.run("request --queue q hello --correlation-id mine -o json");
    let document = ran.json();
    assert_eq!(document["kind"], "Requested");
    assert_eq!(document["answers"][0]["record"]["properties"]["correlationId"], "mine");
    assert_eq!(document["requests"][0]["correlationId"], "mine");
}

#[test]
fn an_error_answer_is_written_and_is_status_9() {
    let machine = machine();
    let _responder = machine.respond("q", "!disk full");
    let ran = machine.run("request --queue q hello --raw --message-id m1");
    assert_eq!(ran.status, 9, "{}", ran.shown());
    assert_eq!(ran.stdout, "disk full\n");
    assert!(
        ran.stderr.contains("error: the request `m1` was answered with an error: disk full"),
        "{}",
        ran.stderr
    );
}

#[test]
fn nobody_to_answer_is_said_before_anything_is_sent() {
    let machine = machine();
    let ran = machine.run("request --queue q hello --message-id m1");
    assert_eq!(
        ran.shown(),
        "------- stderr -------\n\
         1 request with nobody to answer\n\
         error: the request `m1` found nobody to answer: queue `q` has no consumer; nothing was sent\n\n\
         hint: start whoever answers there; `--wait` asks all the same and waits for them\n\
         [exit status: 8]\n"
    );
    let ran = machine.run("request --queue w hello");
    assert_eq!(ran.status, 8);
    assert!(ran.stderr.contains("queue `w` does not exist"), "{}", ran.stderr);
    let ran = machine.run("request job k hello");
    assert!(ran.stderr.contains("hint: did you mean `jobs`?"), "{}", ran.stderr);
    let ran = machine.run("request jobs other hello");
    assert_eq!(ran.status, 8);
    assert!(ran.stderr.contains("no queue takes it: 312"), "{}", ran.stderr);
    assert!(ran.stderr.contains("topology route jobs other --live"), "{}", ran.stderr);
    assert_eq!(machine.run("consume q --until-empty -q").ok(), "");
}

#[test]
fn time_runs_out_with_status_7_and_the_request_with_it() {
    let machine = machine();
    // Takes requests and holds them.
    let deaf = machine.respond("q", "late");
    drop(deaf);
    let ran = machine.run("request jobs k hello --timeout 300ms --message-id m1");
    assert_eq!(ran.status, 8, "{}", ran.shown());
    assert!(ran.stderr.contains("reached the queue `q`, which has no consumer"), "{}", ran.stderr);
    assert_eq!(machine.run("consume q --until-empty -q").ok(), "");
    let ran = machine.run("request jobs k hello --timeout 300ms --no-expire");
    assert_eq!(ran.status, 8, "{}", ran.shown());
    assert_eq!(machine.run("consume q --until-empty -q").ok().lines().count(), 1);
}

#[test]
fn many_requests_are_each_accounted_for() {
    let machine = machine();
    let _responder = machine.respond("q", "yes");
    let input = concat!(
        "{\"exchange\":\"\",\"routingKey\":\"q\",\"properties\":{\"correlationId\":\"one\"},\"bodyText\":\"a\"}\n",
        "{\"bodyText\":\"b\"}\n",
        "{\"exchange\":\"\",\"routingKey\":\"nowhere\",\"bodyText\":\"c\"}\n",
    );
    let line = "request --records --on-error skip --report asked.ndjson";
    let ran = machine.run_with(line, input.as_bytes());
    assert_eq!(ran.status, 3, "{}", ran.shown());
    assert_eq!(ran.stdout.lines().count(), 1);
    assert!(ran.stdout.contains("\"correlationId\":\"one\""), "{}", ran.stdout);
    let report = machine.read("asked.ndjson");
    let mut fates: Vec<(u64, String)> = report
        .lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            (entry["line"].as_u64().unwrap(), entry["fate"].as_str().unwrap().to_owned())
        })
        .collect();
    fates.sort();
    let fates: Vec<&str> = fates.iter().map(|(_, fate)| fate.as_str()).collect();
    assert_eq!(fates, ["answered", "skipped", "nobody"]);
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_sent() {
    let machine = machine();
    for (line, says) in [
        ("request --queue q hello --reply-to mine", "says itself where its answer goes"),
        ("request --queue q jobs k", "neither exchange nor key"),
        ("request --queue q hello --idle 1s", "--gather"),
        ("request --queue q hello --gather --replies 2", "cannot be used with"),
        ("request --queue q hello -o yaml", "YAML"),
    ] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 64, "{line}: {}", ran.shown());
        assert!(ran.stderr.contains(says), "{line}: {}", ran.stderr);
    }
    let shown = machine.run("request --queue q hello --dry-run").ok();
    assert!(shown.contains("\"routingKey\":\"q\""), "{shown}");
}

#[test]
fn a_signal_ends_the_waiting_and_leaves_no_queue_of_answers() {
    let machine = machine();
    let replies = || {
        let listed = machine.run("queue list -o json").json();
        let queues = listed["queues"].as_array().unwrap().iter();
        let names = queues.map(|queue| queue["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("nexus.reply.")).count()
    };
    let child = command(&machine, &["request", "--queue", "q", "hello", "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("a request in its queue", || {
        (machine.run("queue show q -o json").json()["ready"] == 1).then_some(())
    });
    assert_eq!(replies(), 1);
    signal(&child, "-INT");
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "1 request not waited for\n");
    assert_eq!(replies(), 0);
}
