//! The binary itself: signals, pipes, full disks, exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::harness::Machine;

pub(crate) fn command(machine: &Machine, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nexusctl"));
    command.env_clear().envs(&machine.environment).current_dir(&machine.cwd).args(args);
    command
}

fn machine() -> Machine {
    let machine = Machine::new();
    machine.run("init . --name shop -q").ok();
    machine.run("topology apply -q").ok();
    machine
}

pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

/// Waits for the end, for as long as a busy machine may need.
pub(crate) fn finish(child: Child) -> Output {
    let id = child.id();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(child.wait_with_output()));
    match receive.recv_timeout(Duration::from_secs(60)) {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = Command::new("kill").args(["-KILL", &id.to_string()]).status();
            panic!("did not end");
        }
    }
}

fn left(machine: &Machine, queue: &str) -> usize {
    let line = format!("consume {queue} --ack never --until-empty --raw -q");
    machine.run(&line).ok().lines().count()
}

#[test]
fn the_first_signal_ends_a_consumer_cleanly_with_its_status() {
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        let machine = machine();
        machine.run("publish nexus.agents worker hello -q").ok();
        let mut child = command(&machine, &["consume", "agent.worker", "--raw"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Once a message is out, the handler is in.
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
        signal(&child, name);
        let output = finish(child);
        assert_eq!(output.status.code(), Some(status));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "1 message written, 1 acked: stopped\n");
        assert_eq!(left(&machine, "agent.worker"), 0);
    }
}

#[test]
fn a_second_signal_ends_at_once_although_nobody_reads_the_output() {
    let machine = machine();
    let body = "x".repeat(4096);
    machine.run(&format!("publish nexus.agents worker {body} --count 400 -q")).ok();
    let mut child = command(&machine, &["consume", "agent.worker", "--raw"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    // The pipe is full now, or soon: 1.6 MB against 64 KiB.
    signal(&child, "-INT");
    let started = Instant::now();
    // Held open, so that the writer stays stuck.
    let _stdout = child.stdout.take();
    // Two that come at once are one to the process, so the second is sent until it has been heard.
    while child.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(50));
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).output();
    }
    let output = finish(child);
    assert_eq!(output.status.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(left(&machine, "agent.worker") > 0);
}

#[test]
fn a_full_disk_acks_nothing() {
    let machine = machine();
    machine.run("publish nexus.agents worker hello --count 5 -q").ok();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&machine, &["consume", "agent.worker", "--until-empty"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("No space left"), "{stderr}");
    assert_eq!(left(&machine, "agent.worker"), 5);

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = command(&machine, &["topology", "render"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_closed_pipe_is_a_quiet_end_and_acks_nothing_more() {
    let machine = machine();
    let body = "x".repeat(4096);
    machine.run(&format!("publish nexus.agents worker {body} --count 400 -q")).ok();
    let mut child = command(&machine, &["consume", "agent.worker", "--until-empty"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    let output = finish(child);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("the reader went away") && !stderr.contains("panic"), "{stderr}");
    assert!(left(&machine, "agent.worker") > 0);

    let mut child = command(&machine, &["explain"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(finish(child).status.code(), Some(0));
}

#[test]
fn a_publisher_that_is_stopped_accounts_for_every_line() {
    let machine = machine();
    let mut child =
        command(&machine, &["publish", "nexus.agents", "worker", "--lines", "-o", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").unwrap();
    stdin.flush().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while left(&machine, "agent.worker") < 2 {
        assert!(Instant::now() < deadline, "the messages did not arrive");
        std::thread::yield_now();
    }
    signal(&child, "-INT");
    let output = finish(child);
    drop(stdin);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{report}");
    assert_eq!((&report["confirmed"], &report["unknown"]), (&2.into(), &0.into()));
}

#[test]
fn logs_go_to_stderr_without_passwords_and_stdout_stays_data() {
    let machine = machine();
    let output = command(
        &machine,
        &["-vv", "topology", "plan", "-o", "json", "--broker", "amqp://guest:hunter2@127.0.0.1:1"],
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(output.stdout.is_empty());
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hunter2"));
}
