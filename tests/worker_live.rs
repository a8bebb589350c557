//! Working on a queue as a user does: the real program, real commands, on the embedded broker and both
//! RabbitMQ versions; tool, commands and broker are killed at random points, and then it is counted.
//!
//! `NEXUSCTL_TEST_KILLS` says how often something is killed (3 when it is not set).

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(clippy::print_stdout, reason = "how often it was killed is worth knowing")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nexus::base::id::QueueName;
use nexus::broker::{Change, QueueDefinition, QueueType};
use nexus::message::FieldTable;
use support::program::{
    OwnNode, Place, Ran, Running, as_numbers, kills, pause, queue, signal, whole_lines,
};

/// Messages are of so many workflows.
const WORKFLOWS: u64 = 5;

/// The queue `jobs` and where its dead letters go.
fn declare(place: &Place) {
    let dead = QueueDefinition::durable(queue("dead"), QueueType::Quorum);
    let mut jobs = QueueDefinition::durable(queue("jobs"), QueueType::Quorum);
    jobs.arguments = FieldTable::new()
        .with("x-queue-type", "quorum")
        .with("x-dead-letter-exchange", "")
        .with("x-dead-letter-routing-key", "dead")
        // Every kill gives back what was here; this is not what is tested.
        .with("x-delivery-limit", 1000);
    let mut dead = dead;
    dead.arguments.insert("x-queue-type", "quorum");
    place.ask(async |broker| {
        for definition in [dead, jobs] {
            broker.change(&Change::DeclareQueue(definition)).await.unwrap();
        }
    });
}

/// The messages `numbers`, each of the workflow that its number says, in order.
fn publish(place: &Place, numbers: std::ops::Range<u64>) {
    let records: String = numbers
        .map(|n| {
            let (workflow, sequence) = (n % WORKFLOWS, n / WORKFLOWS);
            format!(
                "{{\"routingKey\":\"jobs\",\"exchange\":\"\",\"properties\":{{\"messageId\":\"m{n}\",\
                 \"deliveryMode\":2,\"headers\":{{\"x-nexus-workflow\":\"w{workflow}\",\
                 \"x-nexus-sequence\":{sequence}}}}},\"body\":{n}}}\n"
            )
        })
        .collect();
    place.run_with(&["publish", "--records"], records.as_bytes()).is(0);
}

/// How a command gets its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// One process a message.
    Process,
    /// Processes that live on.
    Ndjson,
}

/// What is done with a message, in shell, given `$n`, `$again` and `$attempt`.
fn handler(place: &Place, mode: Mode, work: &str, done: &str, failed: &str) -> String {
    let log = place.path("log");
    let log = log.display();
    let work = format!(
        "echo \"start $n $again $$\" >> {log}\n{work}\n\
         case $n in *7) {failed};; *) echo \"done $n\" >> {log}; {done};; esac"
    );
    let script = match mode {
        Mode::Process => format!(
            "#!/bin/sh\nread -r n\nagain=$NEXUS_REDELIVERED attempt=$NEXUS_ATTEMPT\n{work}\n"
        ),
        Mode::Ndjson => format!(
            "#!/bin/sh\nwhile read -r line; do\n\
             id=${{line#*:}}; id=${{id%%,*}}\n\
             n=${{line##*\\\"body\\\":}}; n=${{n%\\}}}}\n\
             attempt=${{line#*\\\"attempt\\\":}}; attempt=${{attempt%%,*}}\n\
             case \"$line\" in *'\"redelivered\":true'*) again=1;; *) again=0;; esac\n\
             {work}\ndone\n"
        ),
    };
    let path = place.file(&format!("handle-{mode:?}.sh"), script);
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A handler that does each message and finds those that end in 7 poisonous.
fn usual(place: &Place, mode: Mode) -> String {
    match mode {
        Mode::Process => handler(place, mode, "", ":", "echo poison >&2; exit 65"),
        Mode::Ndjson => handler(
            place,
            mode,
            "",
            "echo \"{\\\"id\\\":$id}\"",
            "echo \"{\\\"id\\\":$id,\\\"status\\\":65,\\\"error\\\":\\\"poison\\\"}\"",
        ),
    }
}

/// What the handlers wrote down.
struct Log {
    /// Number, whether it was marked as redelivered, process.
    starts: Vec<(u64, bool, u32)>,
    done: Vec<u64>,
}

impl Log {
    fn path(place: &Place) -> PathBuf {
        place.path("log")
    }

    fn read(place: &Place) -> Log {
        let mut log = Log { starts: Vec::new(), done: Vec::new() };
        for line in whole_lines(&Log::path(place)) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["start", n, again, pid] => {
                    log.starts.push((n.parse().unwrap(), *again == "1", pid.parse().unwrap()));
                }
                ["done", n] => log.done.push(n.parse().unwrap()),
                other => panic!("{other:?}"),
            }
        }
        log
    }

    /// Waits until `more` messages more were begun than `before`.
    #[track_caller]
    fn await_starts(place: &Place, count: usize, worker: &mut Running) {
        let end = Instant::now() + Duration::from_secs(60);
        while Log::read(place).starts.len() < count {
            if worker.has_ended() {
                return;
            }
            assert!(Instant::now() < end, "nothing is begun any more");
            pause();
        }
    }
}

fn worker<'a>(mode: Mode, script: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["worker", "jobs", "--jobs", "3", "--until-empty", "--backoff", "10ms"];
    if mode == Mode::Ndjson {
        args.extend(["--ndjson", "--window", "4"]);
    }
    args.extend(more);
    args.extend(["--", script]);
    args
}

impl Log {
    /// Checks what is promised: all was done, each workflow in order, and what was done twice was
    /// marked the second time and had been under way when something was killed.
    fn check(&self, place: &Place, count: u64, kills: u64, window: u64) {
        let good = (0..count).filter(|n| n % 10 != 7).collect::<BTreeSet<_>>();
        assert_eq!(self.done.iter().copied().collect::<BTreeSet<_>>(), good, "lost or invented");
        let mut dead = as_numbers(&place.drain("dead"));
        dead.sort_unstable();
        let twice_dead = dead.len();
        dead.dedup();
        assert!(dead.iter().copied().eq((0..count).filter(|n| n % 10 == 7)), "{dead:?}");
        let twice = (self.done.len() - good.len() + twice_dead - dead.len()) as u64;
        assert!(twice <= kills * window, "{twice} were done twice by {kills} kills");
        println!("{}: {kills} kills, {twice} done twice", place.url);
        let mut first: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for n in &self.done {
            if seen.insert(*n) {
                first.entry(n % WORKFLOWS).or_default().push(*n);
            }
        }
        for (workflow, numbers) in first {
            assert!(numbers.is_sorted(), "workflow {workflow} out of order: {numbers:?}");
        }
    }

    /// Whatever was begun a second time says so, unless the first time failed in the same worker.
    fn repeats_are_marked(&self) {
        let mut seen = BTreeSet::new();
        for (n, again, _) in &self.starts {
            assert!(seen.insert(*n) || *again, "{n} came again without a mark");
        }
    }

    /// Waits until none of the processes of these handlers lives any more.
    #[track_caller]
    fn all_have_ended(&self) {
        support::eventually("the handlers end with their worker", || {
            self.starts.iter().all(|(_, _, pid)| !is_alive(*pid)).then_some(())
        });
    }
}

fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|command| command.contains("handle-"))
}

fn random(seed: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed)
}

/// The worker is killed, again and again.
fn the_tool_is_killed(kind: &str, mode: Mode) {
    let Some(place) = Place::open(kind, "worker-killed") else { return };
    declare(&place);
    let kills = kills();
    let count = 40 * (kills + 1);
    publish(&place, 0..count);
    let script = usual(&place, mode);
    let mut random = random(kills);
    let mut killed = 0;
    for _ in 0..kills {
        let begun = Log::read(&place).starts.len();
        let mut running = Running::start(&mut place.command(&worker(mode, &script, &[])));
        Log::await_starts(&place, begun + random.usize(3..35), &mut running);
        if running.has_ended() {
            break;
        }
        running.kill();
        killed += 1;
        Log::read(&place).all_have_ended();
    }
    let ran = place.run(&worker(mode, &script, &["-o", "json"]));
    assert!(matches!(ran.status, Some(0 | 3)), "{ran:?}");
    let log = Log::read(&place);
    log.check(&place, count, killed, 16);
    log.repeats_are_marked();
    assert!(killed >= kills.div_ceil(2), "killed only {killed} times");
}

/// The commands are killed, the worker goes on.
fn the_commands_are_killed(kind: &str, mode: Mode) {
    let Some(place) = Place::open(kind, "commands-killed") else { return };
    declare(&place);
    let kills = kills();
    let count = 40 * (kills + 1);
    publish(&place, 0..count);
    let script = match mode {
        // Long enough that there is something to kill.
        Mode::Process => handler(&place, mode, "sleep 0.05", ":", "echo poison >&2; exit 65"),
        Mode::Ndjson => usual(&place, mode),
    };
    let more = ["--attempts", "50", "--report", "fates.ndjson"];
    let mut running = Running::start(&mut place.command(&worker(mode, &script, &more)));
    let mut random = random(kills);
    let mut killed = 0;
    let mut begun = 0;
    while killed < kills && !running.has_ended() {
        begun += random.usize(3..25);
        Log::await_starts(&place, begun, &mut running);
        let Some((_, _, pid)) = Log::read(&place).starts.last().copied() else { break };
        // It may have ended by itself just now.
        if is_alive(pid) {
            let sent = std::process::Command::new("kill").args(["-9", &pid.to_string()]).output();
            killed += u64::from(sent.unwrap().status.success());
        }
        begun = begun.max(Log::read(&place).starts.len());
    }
    let ran = running.ends_within(Duration::from_secs(120)).is(3);
    Log::read(&place).check(&place, count, killed, 4);
    assert!(killed >= kills.div_ceil(2), "only {killed} were killed");
    // Every message has its line, and no fate is missing.
    let fates = whole_lines(&place.path("fates.ndjson"));
    assert_eq!(fates.len() as u64, count, "{ran:?}");
}

/// The broker is killed, and comes back.
fn the_broker_is_killed(version: &str, mode: Mode) {
    let Some(mut own) = OwnNode::start(version) else { return };
    let place = Place::on(&own.node, "worker-broker-killed");
    declare(&place);
    // Each further kill of a node needs a queue that has been up for a while; only --full has the time.
    let kills = if kills() > 3 { kills() } else { 1 };
    let count = 60 * kills;
    let script = usual(&place, mode);
    let more = ["--timeout", "20s", "--attempts", "50"];
    let mut killed = 0;
    let mut random = random(kills);
    for round in 0..kills {
        // A quorum queue that was just declared, or has just come back, is lost with its node.
        std::thread::sleep(Duration::from_secs(4));
        publish(&place, round * 60..(round + 1) * 60);
        let begun = Log::read(&place).starts.len();
        let mut running = Running::start(&mut place.command(&worker(mode, &script, &more)));
        Log::await_starts(&place, begun + random.usize(3..50), &mut running);
        signal(own.node.pid, "-KILL");
        killed += 1;
        own.restart();
        // It goes on by itself, or has said why not.
        let ran = running.ends_within(Duration::from_secs(120));
        assert!(matches!(ran.status, Some(0 | 1 | 3 | 69)), "{ran:?}");
    }
    let before = place.run(&worker(mode, &script, &more));
    let ran = place.run(&worker(mode, &script, &more));
    assert_eq!(ran.status, Some(0), "{ran:?}");
    assert_eq!(place.waiting("jobs"), 0, "before: {before:?}\nat last: {ran:?}");
    Log::read(&place).check(&place, count, killed, 64);
}

macro_rules! on_every_broker {
    ($($kind:ident)*) => {$(
        mod $kind {
            use super::*;
            const KIND: &str = stringify!($kind);

            #[test]
            fn a_killed_worker_with_a_process_a_message_loses_nothing() {
                the_tool_is_killed(KIND, Mode::Process);
            }

            #[test]
            fn a_killed_worker_with_commands_that_live_on_loses_nothing() {
                the_tool_is_killed(KIND, Mode::Ndjson);
            }

            #[test]
            fn killed_processes_are_tried_again_in_their_place() {
                the_commands_are_killed(KIND, Mode::Process);
            }

            #[test]
            fn killed_commands_that_live_on_are_started_again() {
                the_commands_are_killed(KIND, Mode::Ndjson);
            }

            #[test]
            fn a_failure_is_tried_again_then_dead_with_its_reason() {
                failures_are_dead_letters_with_reasons(KIND);
            }

            #[test]
            fn results_are_confirmed_before_the_message_is_acked() {
                results_go_on(KIND);
            }

            #[test]
            fn a_full_output_acks_nothing() {
                nothing_is_acked_that_was_not_written(KIND);
            }

            #[test]
            fn a_stop_finishes_what_runs_and_gives_back_the_rest() {
                a_stop_is_clean(KIND);
            }

            #[test]
            fn a_message_that_was_done_is_not_done_again() {
                duplicates_are_known(KIND);
            }

            #[test]
            fn a_large_message_with_headers_of_every_type_goes_through_whole() {
                the_largest_and_oddest_goes_through(KIND);
            }

            #[test]
            fn two_workers_share_a_queue_and_its_keys() {
                workers_share_a_queue(KIND);
            }

            #[test]
            fn messages_out_of_order_are_put_into_order() {
                sequences_are_put_into_order(KIND);
            }

            #[test]
            fn failures_wait_in_delay_queues() {
                delay_queues_hold_what_failed(KIND);
            }

            #[test]
            fn requests_are_answered_by_commands() {
                commands_answer_requests(KIND);
            }
        }
    )*};
}

on_every_broker!(embedded rabbitmq_3_10 rabbitmq_4_0);

#[test]
fn a_worker_goes_on_after_its_broker_was_killed_on_3_10() {
    the_broker_is_killed("3.10", Mode::Process);
}

#[test]
fn a_worker_goes_on_after_its_broker_was_killed_on_4_0() {
    the_broker_is_killed("4.0", Mode::Ndjson);
}

fn one_script(place: &Place, text: &str) -> String {
    place.file("one.sh", text)
}

/// Records of all that waits, taken out.
fn take_records(place: &Place, name: &str) -> Vec<serde_json::Value> {
    place.waiting(name);
    let ran = place.run(&["consume", name, "--until-empty"]).is(0);
    ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn failures_are_dead_letters_with_reasons(kind: &str) {
    let Some(place) = Place::open(kind, "worker-failures") else { return };
    declare(&place);
    place.put("jobs", "busy\npoison\nslow\ngood\n");
    let script = one_script(
        &place,
        "read -r what\necho \"$what $NEXUS_ATTEMPT\" >> tries\ncase $what in\n\
         busy) echo one >&2; echo \"still busy\" >&2; exit 75;;\npoison) exit 65;;\n\
         slow) sleep 100;;\nesac\n",
    );
    let args = [
        "worker",
        "jobs",
        "--until-empty",
        "--attempts",
        "3",
        "--backoff",
        "5ms",
        "--attempt-timeout",
        "300ms",
        "-o",
        "json",
        "--",
        "sh",
        &script,
    ];
    let ran = place.run(&args).is(3);
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&report["done"], &report["deadLettered"]), (&1.into(), &3.into()), "{report}");
    assert_eq!((&report["timeouts"], &report["retries"]), (&3.into(), &4.into()), "{report}");
    let mut tries: Vec<String> = whole_lines(&place.path("tries"));
    tries.sort();
    let expected =
        ["busy 1", "busy 2", "busy 3", "good 1", "poison 1", "slow 1", "slow 2", "slow 3"];
    assert_eq!(tries, expected);
    let mut dead = BTreeMap::new();
    for record in take_records(&place, "dead") {
        let headers = record["properties"]["headers"].clone();
        dead.insert(record["bodyText"].as_str().unwrap().to_owned(), headers);
    }
    let said = |what: &str, header: &str| dead[what][header].clone();
    assert_eq!(said("busy", "x-nexus-death-reason"), "exhausted");
    assert_eq!(said("busy", "x-nexus-death-error"), "one\nstill busy");
    assert_eq!(said("busy", "x-nexus-death-code"), "exit 75");
    assert_eq!(said("busy", "x-nexus-death-attempts"), 3);
    assert_eq!(said("poison", "x-nexus-death-reason"), "poison");
    assert_eq!(said("poison", "x-nexus-death-attempts"), 1);
    assert_eq!(said("slow", "x-nexus-death-code"), "timeout");
    assert_eq!(said("slow", "x-nexus-origin-queue"), "jobs");
    assert_eq!(said("slow", "x-nexus-origin-routing-key"), "jobs");
    // And with nowhere to go, nothing is taken.
    place.declare("plain");
    place.put("plain", "x\n");
    place.run(&["worker", "plain", "--", "true"]).is(64).says(&["no dead-letter exchange"]);
    assert_eq!(place.waiting("plain"), 1);
    let args = ["worker", "plain", "--stop-on-failure", "--", "sh", "-c", "exit 65"];
    place.run(&args).is(1).says(&["failed (exit 65)", "back in the queue"]);
    assert_eq!(place.waiting("plain"), 1);
    let args = ["worker", "plain", "--stop-on-failure", "--", "/no/such/command"];
    place.run(&args).is(1).says(&["start the command `/no/such/command`", "No such file"]);
    assert_eq!(place.waiting("plain"), 1);
}

fn results_go_on(kind: &str) {
    let Some(place) = Place::open(kind, "worker-results") else { return };
    declare(&place);
    place.declare("results");
    place.put("jobs", "1\n2\n3\n");
    let args = [
        "worker",
        "jobs",
        "--until-empty",
        "--publish",
        "",
        "results",
        "--",
        "sh",
        "-c",
        "read -r n; echo \"{\\\"n\\\":$n}\"",
    ];
    place.run(&args).is(0);
    let mut results: Vec<String> = place.drain("results");
    results.sort();
    assert_eq!(results, ["{\"n\":1}\n", "{\"n\":2}\n", "{\"n\":3}\n"]);
    assert_eq!(place.waiting("jobs"), 0);
    // A result that no queue takes makes a dead letter of its message.
    place.put("jobs", "4\n");
    let args =
        ["worker", "jobs", "--until-empty", "--publish", "", "nowhere", "--", "echo", "result"];
    place.run(&args).is(3).says(&["1 dead-lettered"]);
    let dead = take_records(&place, "dead");
    assert_eq!(dead[0]["properties"]["headers"]["x-nexus-death-code"], "returned 312");
}

fn nothing_is_acked_that_was_not_written(kind: &str) {
    let Some(place) = Place::open(kind, "worker-full") else { return };
    declare(&place);
    publish(&place, 0..7);
    for args in [
        vec!["worker", "jobs", "--until-empty", "--", "cat"],
        vec!["worker", "jobs", "--until-empty", "--out", "/dev/full", "--", "cat"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = place.command(&args).stdout(full).output().unwrap();
        let ran = Ran::from(output).is(1);
        ran.says(&["No space left"]);
        assert_eq!(place.waiting("jobs"), 7, "{ran:?}");
    }
}

fn a_stop_is_clean(kind: &str) {
    let Some(place) = Place::open(kind, "worker-stop") else { return };
    declare(&place);
    publish(&place, 0..7);
    let script = handler(&place, Mode::Process, "sleep 0.5", ":", "exit 65");
    let args = ["worker", "jobs", "--jobs", "2", "--", &script];
    let mut running = Running::start(&mut place.command(&args));
    Log::await_starts(&place, 2, &mut running);
    running.signal("-INT");
    let ran = running.ends_within(Duration::from_secs(30)).is(130);
    ran.says(&["back in the queue", "stopped"]);
    let log = Log::read(&place);
    assert_eq!(log.starts.len(), log.done.len(), "what ran was finished");
    assert_eq!(place.waiting("jobs"), 7 - log.done.len() as u64);
    // During a wait for the next attempt nothing holds it.
    let args = [
        "worker",
        "jobs",
        "--backoff",
        "1h",
        "--max-backoff",
        "1h",
        "--max-elapsed",
        "9h",
        "--report",
        "fates",
        "--",
        "sh",
        "-c",
        "echo x >> tried; exit 75",
    ];
    let mut running = Running::start(&mut place.command(&args));
    support::eventually("an attempt fails", || place.path("tried").exists().then_some(()));
    running.signal("-TERM");
    running.ends_within(Duration::from_secs(30)).is(143);
    assert_eq!(place.waiting("jobs"), 7 - log.done.len() as u64);
}

fn duplicates_are_known(kind: &str) {
    let Some(place) = Place::open(kind, "worker-dedup") else { return };
    declare(&place);
    // A storm: every message four times.
    (0..4).for_each(|_| publish(&place, 0..6));
    let script = handler(&place, Mode::Process, "", ":", "exit 65");
    let args =
        ["worker", "jobs", "--jobs", "3", "--until-empty", "--dedup", "--track", "--", &script];
    place.run(&args).is(0).says(&["6 messages done", "18 done before"]);
    assert_eq!(Log::read(&place).done.len(), 6);
    // Another process knows it too, and by another key as well.
    publish(&place, 0..6);
    place.run(&args).is(0).says(&["0 messages done", "6 done before"]);
    publish(&place, 0..6);
    let args = [
        "worker",
        "jobs",
        "--until-empty",
        "--dedup=here",
        "--dedup-key",
        "headers['x-nexus-workflow']",
        "--",
        &script,
    ];
    place.run(&args).is(0).says(&["5 messages done", "1 done before"]);
    let ran = place.run(&["sequence", "show", "w0"]).is(0);
    assert!(ran.out().contains('1'), "{ran:?}");
}

fn the_largest_and_oddest_goes_through(kind: &str) {
    let Some(place) = Place::open(kind, "worker-large") else { return };
    declare(&place);
    let headers = "{\"a\":[1,\"x\",null,{\"b\":true}],\"by\":{\"$bytes\":\"AP8=\"},\
         \"d\":-2.5,\"de\":{\"$decimal\":\"12.50\"},\"f\":{\"$float\":1.5},\
         \"i16\":{\"$int16\":-3},\"i32\":{\"$int32\":5},\"i64\":7,\"i8\":{\"$int8\":-1},\"n\":null,\
         \"t\":{\"$text\":\"/w==\"},\"ts\":{\"$timestamp\":\"2026-01-31T12:00:00Z\"},\
         \"u16\":{\"$uint16\":9},\"u32\":{\"$uint32\":4},\"u8\":{\"$uint8\":255},\"ü\":\"ß\"}";
    let body = "€ \\\" ".repeat(15 << 20 >> 3);
    let record = serde_json::json!({
        "exchange": "", "routingKey": "jobs", "bodyText": body,
        "properties": {"headers": serde_json::from_str::<serde_json::Value>(headers).unwrap()},
    });
    let send = || {
        place.run_with(&["publish", "--records"], format!("{record}\n").as_bytes()).is(0);
    };
    let expected = place.file("expected", &body);
    send();
    let args = ["worker", "jobs", "--until-empty", "--publish", "", "out", "--", "sh", "-c"];
    place.declare("out");
    let compares = format!("tee copy | cmp - {expected} && cat copy");
    place.run(&[&args[..], &[&compares]].concat()).is(0);
    assert!(take_records(&place, "out")[0]["bodyText"] == body.as_str(), "the result differs");
    send();
    let answer = r#"s/^\{"id":([0-9]+),.*/{"id":\1,"status":65,"error":"no"}/"#;
    let args = ["worker", "jobs", "--until-empty", "--ndjson", "--", "sed", "-u", "-E", answer];
    place.run(&args).is(3).says(&["1 dead-lettered"]);
    // As it was, with what we say of its death beside.
    let dead = take_records(&place, "dead").remove(0);
    assert!(dead["bodyText"] == body.as_str(), "the dead letter's body differs");
    let there = dead["properties"]["headers"].as_object().unwrap();
    for (name, value) in record["properties"]["headers"].as_object().unwrap() {
        assert_eq!(there[name], *value, "{name}");
    }
}

fn workers_share_a_queue(kind: &str) {
    let Some(place) = Place::open(kind, "worker-two") else { return };
    declare(&place);
    publish(&place, 0..60);
    let script = handler(&place, Mode::Process, "", "sleep 0.01", "exit 65");
    let args =
        ["worker", "jobs", "--until-empty", "--dedup", "--track", "--prefetch", "2", "--", &script];
    let start = || Running::start(&mut place.command(&args));
    let both = [start(), start()];
    for running in both {
        let ran = running.ends_within(Duration::from_secs(60));
        assert!(matches!(ran.status, Some(0 | 3)), "{ran:?}");
    }
    let log = Log::read(&place);
    assert_eq!(log.starts.len(), 60, "each once, by one of them");
    assert_eq!(as_numbers(&place.drain("dead")).len(), 6);
    assert_eq!(place.waiting("jobs"), 0);
}

fn sequences_are_put_into_order(kind: &str) {
    let Some(place) = Place::open(kind, "worker-order") else { return };
    declare(&place);
    // Of workflow 0: 0 2 1 4 (3 never comes).
    for n in [0u64, 2, 1, 4] {
        publish(&place, n * WORKFLOWS..n * WORKFLOWS + 1);
    }
    let script = handler(&place, Mode::Process, "", ":", "exit 65");
    let mut args = vec![
        "worker",
        "jobs",
        "--jobs",
        "4",
        "--idle",
        "2s",
        "--reorder",
        "--gap-timeout",
        "500ms",
        "--",
        &script,
    ];
    place.run(&args).is(0).says(&["4 messages done", "1 gap did not close in time"]);
    let sequence = |n: &u64| n / WORKFLOWS;
    let done: Vec<u64> = Log::read(&place).done.iter().map(sequence).collect();
    assert_eq!(done, [0, 1, 2, 4]);
    // Parked, what comes after the gap is a dead letter.
    for n in [5u64, 7] {
        publish(&place, n * WORKFLOWS..n * WORKFLOWS + 1);
    }
    args.splice(7..7, ["--on-gap", "park"]);
    place.run(&args).is(3).says(&["1 message done", "1 dead-lettered"]);
    let dead = take_records(&place, "dead");
    assert_eq!(dead[0]["properties"]["headers"]["x-nexus-death-reason"], "gap");
    let args = ["worker", "jobs", "--reorder", "--gap-timeout", "1h", "--", "true"];
    place.run(&args).is(64).says(&["--reorder:", "30m"]);
}

fn delay_queues_hold_what_failed(kind: &str) {
    let Some(place) = Place::open(kind, "worker-delay") else { return };
    declare(&place);
    let mut wait = QueueDefinition::durable(queue("retry.jobs.1s"), QueueType::Classic);
    wait.arguments = FieldTable::new()
        .with("x-dead-letter-exchange", "")
        .with("x-dead-letter-routing-key", "jobs")
        .with("x-message-ttl", 300);
    place.ask(async |broker| {
        broker.change(&Change::DeclareQueue(wait)).await.unwrap();
    });
    publish(&place, 0..3);
    let script = handler(
        &place,
        Mode::Process,
        "[ $attempt -ge 3 ] || exit 75",
        "echo \"$n at $attempt\"",
        "exit 65",
    );
    let args = ["worker", "jobs", "--delay", "--idle", "3s", "--", &script];
    let ran = place.run(&args).is(0);
    ran.says(&["3 messages done", "6 waiting in delay queues"]);
    let mut lines: Vec<String> = ran.out().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["0 at 3", "1 at 3", "2 at 3"]);
    let missing = QueueName::new("none").unwrap();
    let named = format!("{missing}=5s");
    let args = ["worker", "jobs", "--delay-queue", &named, "--", "true"];
    place.run(&args).is(64).says(&["there is no delay queue `none`"]);
}

fn commands_answer_requests(kind: &str) {
    let Some(place) = Place::open(kind, "respond") else { return };
    place.declare("asked");
    let script = one_script(
        &place,
        "read -r what\ncase $what in bad) echo \"no such thing\" >&2; exit 65;; esac\n\
         echo \"you said $what\"\n",
    );
    let args = ["respond", "asked", "--count", "2", "--", "sh", &script];
    let running = Running::start(&mut place.command(&args));
    let ask = |body: &str| place.run(&["request", "--queue", "asked", body, "--raw", "--wait"]);
    assert_eq!(ask("hello").is(0).out().trim_end(), "you said hello");
    ask("bad").is(9).says(&["no such thing", "exit 65"]);
    running.ends_within(Duration::from_secs(30)).is(3);
    let args = ["respond", "asked", "--count", "1", "--template", "${ size } bytes"];
    let running = Running::start(&mut place.command(&args));
    assert_eq!(ask("12345").is(0).out().trim_end(), "5 bytes");
    running.ends_within(Duration::from_secs(30)).is(0);
    let args = ["respond", "asked", "--count", "1", "--echo"];
    let running = Running::start(&mut place.command(&args));
    assert_eq!(ask("same").is(0).out().trim_end(), "same");
    running.ends_within(Duration::from_secs(30)).is(0);
}
