//! The modes of a replay beside the plain one: streams, letters that wait in a queue of their own, order
//! by key, and what is looked at and held. Whatever is killed, nothing is lost.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(clippy::print_stdout, reason = "how many came twice is worth knowing, not a condition")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use nexus::base::id::PolicyName;
use nexus::broker::{ApplyTo, Change, Delivery, PolicyDefinition, QueueType};
use nexus::message::{FieldTable, FieldValue, Message};

use support::letters::{
    account, declare, json, letter, numbers, put, queues, start_and_await, take,
};
use support::program::{OwnNode, Place, Running, depth, kills, pause, queue, signal};

// ------------------------------------------------------------------ streams

fn a_stream_is_replayed_and_keeps_what_it_has(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-stream") else { return };
    queues(&place, QueueType::Stream);
    let mut twin = letter(9);
    twin.properties.message_id = None;
    put(&place, "dead", (0..1200).map(letter));
    put(&place, "dead", [twin.clone(), twin]);
    let dry = place.run(&["dlq", "replay", "dead", "--dry-run"]).is(0);
    dry.says(&["nothing is taken from the stream", "keeps what it has"]);
    let some = ["dlq", "replay", "dead", "--where", "int(body) % 3 == 0", "--run", "a", "--yes"];
    let view = json(&place.run(&[&some[..], &["-o", "json"]].concat()).is(0));
    assert_eq!((&view["mode"], &view["replayed"]), (&"stream".into(), &402.into()), "{view:#}");
    let mut expected: Vec<u64> = (0..1200).filter(|n| n % 3 == 0).collect();
    expected.extend([9, 9]);
    assert_eq!(numbers(&take(&place, "jobs")), expected);
    // Nothing is gone, and each can be named by where it stands.
    place.run(&["dlq", "replay", "dead", "--from", "1190", "--yes"]).is(0);
    let mut expected: Vec<u64> = (1190..1200).collect();
    expected.extend([9, 9]);
    assert_eq!(numbers(&take(&place, "jobs")), expected);
    place.run(&["dlq", "replay", "dead", "--from", "7", "--within", "5", "--yes"]).is(0);
    assert_eq!(numbers(&take(&place, "jobs")), (7..12).collect::<Vec<_>>());
    place.run(&["dlq", "replay", "dead", "--first", "4", "--yes"]).is(0);
    assert_eq!(numbers(&take(&place, "jobs")), (0..4).collect::<Vec<_>>());
    place.run(&["dlq", "run", "show", "a"]).is(0).says(&["(done)"]);
    place.run(&["dlq", "replay", "jobs", "--from", "7", "--dry-run"]).is(2).says(&["for streams"]);
}

fn a_refusal_in_a_stream_is_gone_on_from(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-stream-refused") else { return };
    queues(&place, QueueType::Stream);
    put(&place, "dead", (0..4).map(letter));
    let mut lost = letter(4);
    lost.properties.headers_mut().insert("x-nexus-origin-queue", "gone");
    put(&place, "dead", [lost]);
    put(&place, "dead", (5..9).map(letter));
    let args = ["dlq", "replay", "dead", "--run", "r", "--yes", "--order", "strict"];
    place.run(&args).is(3).says(&["returned", "dlq resume r"]);
    assert_eq!(numbers(&take(&place, "jobs")), [0, 1, 2, 3]);
    declare(&place, "gone", QueueType::Classic, &FieldTable::new());
    // What comes later is not the run's.
    put(&place, "dead", [letter(99)]);
    place.run(&["dlq", "resume", "r"]).is(0);
    assert_eq!(numbers(&take(&place, "gone")), [4]);
    assert_eq!(numbers(&take(&place, "jobs")), [5, 6, 7, 8]);
    place.run(&["dlq", "run", "show", "r"]).is(0).says(&["(done)", "9 confirmed"]);
}

fn a_replay_of_a_stream_is_killed(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-stream-killed") else { return };
    queues(&place, QueueType::Stream);
    let (count, window) = (4000, 128);
    put(&place, "dead", (0..count).map(letter));
    let begin = ["dlq", "replay", "dead", "--yes", "--run", "k", "--window", "128"];
    let mut random = fastrand::Rng::with_seed(count + kills());
    let mut killed = 0;
    for round in 0..kills() {
        let args: &[&str] = if round == 0 { &begin } else { &["dlq", "resume", "k"] };
        let at = round * count / kills() + random.u64(1..count / kills());
        let mut running = start_and_await(&place, args, at);
        if running.has_ended() {
            running.end().is(0);
            break;
        }
        running.kill();
        killed += 1;
    }
    assert!(killed > 0, "nothing was killed");
    place.run(&["dlq", "resume", "k"]).is(0);
    let more = account(&place, "k", count, window * killed);
    println!("{kind} stream: {killed} kills, {more} duplicates");
    let all = place.ask(async |broker| depth(broker, "dead").await.ready);
    assert!(all == count || all == 0, "the stream has {all}");
}

// --------------------------------------------------- how far, and how long

fn no_more_is_looked_at_than_was_asked_for(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-within") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..60).map(letter));
    let odd = ["dlq", "replay", "dead", "--where", "int(body) % 2 == 1", "--yes"];
    let refused = place.run(&[&odd[..], &["--most-held", "20"]].concat()).is(4);
    refused.says(&["--staged"]);
    place.run(&[&odd[..], &["--most-held", "20", "--within", "20"]].concat()).is(0);
    assert_eq!(numbers(&take(&place, "jobs")), (0..20).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    place.run(&["dlq", "replay", "dead", "--within", "12", "--yes"]).is(0);
    let expected: Vec<u64> = (0..20).filter(|n| n % 2 == 0).chain([20, 21]).collect();
    assert_eq!(numbers(&take(&place, "jobs")), expected);
    assert_eq!(numbers(&take(&place, "dead")), (22..60).collect::<Vec<_>>());
}

fn what_is_held_for_too_long_is_let_go(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-hold") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..60).map(letter));
    let slow = ["--rate", "4", "--max-hold", "2s", "--run", "h", "--yes"];
    let odd = ["dlq", "replay", "dead", "--where", "int(body) % 2 == 1"];
    let ran = place.run(&[&odd[..], &slow].concat()).is(3);
    ran.says(&["held for as long as is safe", "dlq resume h"]);
    let went = numbers(&take(&place, "jobs"));
    assert!(!went.is_empty() && went.len() < 30, "{went:?}");
    let odd: Vec<u64> = (0..60).filter(|n| n % 2 == 1).collect();
    assert_eq!(went, odd[..went.len()]);
    let stay: Vec<u64> = (0..60).filter(|n| !went.contains(n)).collect();
    assert_eq!(numbers(&take(&place, "dead")), stay);
}

// ------------------------------------------------------------------- stages

/// Letters as various as can be. Every third one is meant.
fn various(n: u64) -> Message {
    let mut message = letter(n);
    let properties = &mut message.properties;
    let death = FieldTable::new()
        .with("queue", "jobs")
        .with("reason", "rejected")
        .with("count", 2_i64)
        .with("exchange", "")
        .with("time", FieldValue::Timestamp(1_700_000_000))
        .with("routing-keys", FieldValue::Array(vec!["jobs".into()]));
    let headers = properties.headers_mut();
    headers.insert("x-death", FieldValue::Array(vec![FieldValue::Table(death)]));
    headers.insert("x-first-death-queue", "jobs");
    headers.insert("x-nexus-replay-count", 2_i64);
    headers.insert("table", FieldValue::Table(FieldTable::new().with("i", FieldValue::Int32(7))));
    properties.delivery_mode = Some(if n.is_multiple_of(2) { 2 } else { 1 });
    properties.priority = (n % 5 == 1).then_some(3);
    properties.expiration = (n % 7 == 1).then(|| "86400000".to_owned());
    properties.correlation_id = Some("c".to_owned());
    message
}

fn is_there(place: &Place, name: &str) -> bool {
    place.ask(async |broker| broker.depth(&queue(name)).await.unwrap().is_some())
}

const THIRD: &str = "int(body) % 3 == 0";

fn what_stays_waits_elsewhere_and_comes_back_as_it_was(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-staged") else { return };
    queues(&place, queue_type);
    let given: Vec<Message> = (0..300).map(various).collect();
    put(&place, "dead", given.clone());
    let some =
        ["dlq", "replay", "dead", "--where", THIRD, "--most-held", "50", "--run", "a", "--yes"];
    place.run(&some).is(4).says(&["--staged"]);
    let staged = [&some[..], &["--staged", "-o", "json"]].concat();
    let dry = place.run(&[&some[..9], &["--staged", "--dry-run"]].concat()).is(0);
    dry.says(&["is brought back", "written twice", "overtakes"]);
    let view = json(&place.run(&staged).is(0));
    for (name, value) in [("replayed", 100), ("rested", 200), ("broughtBack", 200), ("left", 200)] {
        assert_eq!(view[name], value, "{name}: {view:#}");
    }
    assert_eq!((&view["mode"], &view["stage"]), (&"staged".into(), &"whole".into()));
    let thirds = |n: &u64| n.is_multiple_of(3);
    assert_eq!(numbers(&take(&place, "jobs")), (0..300).filter(thirds).collect::<Vec<_>>());
    let stayed = take(&place, "dead");
    assert_eq!(numbers(&stayed), (0..300).filter(|n| !thirds(n)).collect::<Vec<_>>());
    for (there, n) in stayed.iter().zip((0..300).filter(|n| !thirds(n))) {
        let given = &given[usize::try_from(n).unwrap()];
        assert_eq!(&there.message, given, "letter {n}");
    }
    assert!(!is_there(&place, "nexusctl.rest.a"));
    place.run(&["dlq", "run", "show", "a"]).is(0).says(&["(done)", "no letter came twice"]);
    let runs = json(&place.run(&["dlq", "runs", "-o", "json"]).is(0));
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs:#}");
    assert_eq!(runs["runs"][0]["stage"], "whole");
}

fn what_comes_meanwhile_is_behind(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-staged-new") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..200).map(letter));
    let args = [
        "dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "n", "--yes", "--rate",
        "100",
    ];
    let running = start_and_await(&place, &args, 5);
    put(&place, "dead", (0..40).map(|n| letter(1000 + n)));
    let ran = running.ends_within(Duration::from_secs(60)).is(0);
    ran.says(&["173 letters put aside", "173 letters brought back"]);
    assert_eq!(numbers(&take(&place, "jobs")), (0..200).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    let stayed: Vec<u64> = (0..200).filter(|n| n % 3 != 0).chain(1000..1040).collect();
    assert_eq!(numbers(&take(&place, "dead")), stayed);
}

fn what_is_refused_stays_and_so_does_what_is_behind(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-staged-refused") else { return };
    queues(&place, QueueType::Quorum);
    put(&place, "dead", (0..12).map(letter));
    let mut lost = letter(12);
    lost.properties.headers_mut().insert("x-nexus-origin-queue", "gone");
    put(&place, "dead", [lost]);
    put(&place, "dead", (13..30).map(letter));
    let args = [
        "dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "r", "--yes", "--order",
        "strict",
    ];
    let ran = place.run(&args).is(3);
    ran.says(&["1 letter left: returned", "what is left is where it was"]);
    assert_eq!(numbers(&take(&place, "jobs")), [0, 3, 6, 9]);
    let stayed: Vec<u64> = (0..30).filter(|n| n % 3 != 0 || *n >= 12).collect();
    assert_eq!(numbers(&take(&place, "dead")), stayed);
    assert!(!is_there(&place, "nexusctl.rest.r"));
    // Nothing is moved to where it would end.
    put(&place, "dead", (0..9).map(letter));
    let ends = PolicyDefinition {
        name: PolicyName::new("ends").unwrap(),
        pattern: "^nexusctl".to_owned(),
        apply_to: ApplyTo::Queues,
        priority: 1,
        definition: [("message-ttl".to_owned(), 5000.into())].into_iter().collect(),
    };
    place.ask(async |broker| broker.change(&Change::PutPolicy(ends)).await.unwrap());
    let args = ["dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "e", "--yes"];
    place.run(&args).is(1).says(&["message-ttl", "`ends`", "no letter was moved"]);
    assert_eq!(place.waiting("dead"), 9);
    assert!(!is_there(&place, "nexusctl.rest.e"));
}

/// How full `jobs`, the queue in which letters wait, and `dead` are.
type Full = (u64, u64, u64);

/// Waits until the queues are so full, or it has ended.
fn await_full(place: &Place, running: &mut Running, mut is_so: impl FnMut(Full) -> bool) {
    place.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let ready = async |name| {
                broker.depth(&queue(name)).await.unwrap().map_or(0, |depth| depth.ready)
            };
            let full = (ready("jobs").await, ready("nexusctl.rest.k").await, ready("dead").await);
            if is_so(full) || running.has_ended() {
                return;
            }
            assert!(Instant::now() < end, "it never comes so far: {full:?}");
            pause();
        }
    });
}

/// Starts it, and waits until the queues are so full, or it has ended.
fn start_until(place: &Place, args: &[&str], is_so: impl FnMut(Full) -> bool) -> Running {
    let mut running = Running::start(&mut place.command(args));
    await_full(place, &mut running, is_so);
    running
}

/// First copies in the order they came, and who came more than once.
fn firsts(all: &[Delivery]) -> (Vec<u64>, BTreeSet<String>) {
    let (mut first, mut seen, mut twice) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for (n, delivery) in numbers(all).into_iter().zip(all) {
        if seen.insert(n) {
            first.push(n);
        } else {
            twice.insert(delivery.message.properties.message_id.clone().unwrap());
        }
    }
    (first, twice)
}

fn it_is_killed_in_every_stage(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-staged-killed") else { return };
    queues(&place, queue_type);
    let (count, window) = (1500, 16);
    put(&place, "dead", (0..count).map(letter));
    let begin = [
        "dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "k", "--yes", "--window",
        "16", "--rate", "400",
    ];
    let resume = ["dlq", "resume", "k"];
    let mut random = fastrand::Rng::with_seed(count + kills());
    let (mut killed, mut in_stage) = (0, BTreeMap::<String, u64>::new());
    let mut kill = |running: &mut Running, place: &Place| {
        if running.has_ended() {
            return false;
        }
        running.child().kill().unwrap();
        running.child().wait().unwrap();
        killed += 1;
        let shown = json(&place.run(&["dlq", "run", "show", "k", "-o", "json"]).is(0));
        *in_stage.entry(shown["stage"].as_str().unwrap().to_owned()).or_default() += 1;
        true
    };
    // In the first half of choosing letters.
    for round in 0..kills() {
        let args: &[&str] = if round == 0 { &begin } else { &resume };
        let part = count / 6 / kills();
        let at = round * part + random.u64(1..part);
        kill(&mut start_until(&place, args, |(jobs, ..)| jobs >= at), &place);
    }
    // More come while the first stage is at its end, so that the second has work.
    let (stay, come) = (count / 3 * 2, 900);
    let newcomer = |n: u64| 10_000 + n * 3;
    let mut running = start_until(&place, &resume, |(_, rest, _)| rest >= stay * 2 / 3);
    put(&place, "dead", (0..come).map(|n| letter(newcomer(n))));
    for round in 0..kills() {
        // What was doubled so far may wait there too.
        let part = (come - 200) / kills();
        let at = stay + 200 + round * part + random.u64(1..part);
        await_full(&place, &mut running, |(_, rest, _)| rest >= at);
        kill(&mut running, &place);
        if round + 1 < kills() {
            running = Running::start(&mut place.command(&resume));
        }
    }
    for round in 0..kills() {
        let part = (stay + come) / kills();
        let left = (stay + come) - round * part - random.u64(1..part);
        let mut most = 0;
        let goes_down = |(_, rest, _): Full| {
            most = most.max(rest);
            rest < most.min(left) && most > stay
        };
        if !kill(&mut start_until(&place, &resume, goes_down), &place) {
            break;
        }
        if round == 0 {
            let again = place.run(&["dlq", "replay", "dead", "--yes"]);
            again.is(1).says(&["dlq resume k"]);
        }
    }
    let ran = place.run(&resume).is(0);
    let shown = json(&place.run(&["dlq", "run", "show", "k", "-o", "json"]).is(0));
    assert_eq!((&shown["phase"], &shown["stage"]), (&"done".into(), &"whole".into()), "{ran:?}");
    assert!(!is_there(&place, "nexusctl.rest.k"));
    let (went, stayed) = (take(&place, "jobs"), take(&place, "dead"));
    let (first, mut twice) = firsts(&went);
    assert_eq!(
        first,
        (0..count).filter(|n| n % 3 == 0).collect::<Vec<_>>(),
        "lost or out of order"
    );
    let (first, stayed_twice) = firsts(&stayed);
    let expected =
        (0..count).filter(|n| n % 3 != 0).chain((0..come).map(newcomer)).collect::<Vec<_>>();
    assert_eq!(first, expected, "lost or out of order");
    twice.extend(stayed_twice);
    let listed: BTreeSet<&str> = shown["inDoubt"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|doubt| doubt["messageId"].as_str())
        .collect();
    for id in &twice {
        assert!(listed.contains(id.as_str()), "{id} came twice and is not named: {shown:#}");
    }
    let more = (went.len() + stayed.len()) as u64 - count - come;
    assert!(more <= window * killed, "{more} duplicates after {killed} kills");
    println!("{kind} {queue_type:?} staged: kills {in_stage:?}, {more} duplicates");
    for stage in ["select", "newcomers", "back"] {
        assert!(in_stage.contains_key(stage), "nothing was killed in {stage}: {in_stage:?}");
    }
}

/// Who does not want to go on has the letters brought back, wherever they were to go.
fn what_waits_elsewhere_can_be_brought_back(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-staged-back") else { return };
    queues(&place, QueueType::Classic);
    declare(&place, "other", QueueType::Classic, &FieldTable::new());
    put(&place, "dead", (0..300).map(letter));
    let args = [
        "dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "k", "--yes", "--rate",
        "50", "--to", "other",
    ];
    let mut running = start_until(&place, &args, |(_, rest, _)| rest >= 20);
    running.signal("-INT");
    running.ends_within(Duration::from_secs(30)).is(130);
    place.run(&["dlq", "run", "show", "k"]).is(0).says(&["nexusctl.rest.k", "dlq resume k"]);
    let went = numbers(&take(&place, "other"));
    let gone = Change::DeleteQueue { name: queue("other"), if_empty: true, if_unused: true };
    place.ask(async |broker| broker.change(&gone).await.unwrap());
    place.run(&["dlq", "resume", "k"]).is(1).says(&["`other` does not exist"]);
    place.run(&["dlq", "resume", "k", "--bring-back"]).is(0);
    let stayed: Vec<u64> = (0..300).filter(|n| !went.contains(n)).collect();
    assert_eq!(numbers(&take(&place, "dead")), stayed);
    assert!(!is_there(&place, "nexusctl.rest.k"));
}

/// A node of its own is killed while letters wait in the other queue.
fn the_broker_is_killed_between(version: &str, queue_type: QueueType) {
    let Some(mut own) = OwnNode::start(version) else { return };
    let place = Place::on(&own.node, "dlq-staged-broker");
    queues(&place, queue_type);
    let count = 3000;
    put(&place, "dead", (0..count).map(letter));
    let args = [
        "dlq", "replay", "dead", "--where", THIRD, "--staged", "--run", "k", "--yes", "--window",
        "32",
    ];
    let running = start_until(&place, &args, |(_, rest, _)| rest >= 500);
    signal(own.node.pid, "-KILL");
    own.restart();
    let ran = running.ends_within(Duration::from_secs(120));
    assert!(matches!(ran.status, Some(3 | 6 | 69)), "{ran:?}");
    let mut most = 0;
    let running = start_until(&place, &["dlq", "resume", "k"], |(_, rest, _)| {
        most = most.max(rest);
        most >= 2000 && rest < 1500
    });
    signal(own.node.pid, "-KILL");
    own.restart();
    let ran = running.ends_within(Duration::from_secs(120));
    assert!(matches!(ran.status, Some(0 | 1 | 3 | 6 | 69)), "{ran:?}");
    place.run(&["dlq", "resume", "k"]).is(0);
    let (went, stayed) = (take(&place, "jobs"), take(&place, "dead"));
    assert_eq!(firsts(&went).0, (0..count).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    assert_eq!(firsts(&stayed).0, (0..count).filter(|n| n % 3 != 0).collect::<Vec<_>>());
    let more = (went.len() + stayed.len()) as u64 - count;
    println!("{version} {queue_type:?} staged: {more} duplicates");
    // A classic queue may forget acks when its node is killed; then the journal has them.
    assert!(more <= 2 * 32, "{more} duplicates after two kills");
}

// ------------------------------------------------------------- order by key

fn in_lane(n: u64, lane: u64) -> Message {
    let mut message = letter(n);
    message.properties.headers_mut().insert("order", format!("o{lane}"));
    message
}

fn one_lane_stays_behind_its_refused_letter(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-lanes") else { return };
    queues(&place, QueueType::Classic);
    let mut letters: Vec<Message> = (0..40).map(|n| in_lane(n, n % 4)).collect();
    letters[6].properties.headers_mut().insert("x-nexus-origin-queue", "gone");
    // Nothing tells which others it must not overtake.
    letters[9].properties.headers_mut().remove("order");
    put(&place, "dead", letters);
    let args = ["dlq", "replay", "dead", "--order", "key:headers.order", "--run", "l", "--yes"];
    place.run(&["dlq", "replay", "dead", "--order", "key:nothing", "--yes"]).is(64);
    let view = json(&place.run(&[&args[..], &["-o", "json"]].concat()).is(3));
    assert_eq!((&view["returned"], &view["filterErrors"]), (&1.into(), &1.into()), "{view:#}");
    let stays = |n: &u64| *n == 9 || *n >= 6 && n % 4 == 2;
    let went = numbers(&take(&place, "jobs"));
    for lane in 0..4 {
        let expected = (0..40).filter(|n| !stays(n) && n % 4 == lane).collect::<Vec<_>>();
        let of_lane: Vec<u64> = went.iter().copied().filter(|n| n % 4 == lane).collect();
        assert_eq!(of_lane, expected, "{went:?}");
    }
    declare(&place, "gone", QueueType::Classic, &FieldTable::new());
    place.run(&["dlq", "resume", "l"]).is(0);
    assert_eq!(numbers(&take(&place, "gone")), [6]);
    let rest: Vec<u64> = (7..40).filter(|n| n % 4 == 2).collect();
    assert_eq!(numbers(&take(&place, "jobs")), rest);
    assert_eq!(numbers(&take(&place, "dead")), [9]);
}

fn lanes_keep_their_order_whatever_is_killed(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-lanes-killed") else { return };
    queues(&place, queue_type);
    let (count, window, lanes) = (2000, 64, 40);
    put(&place, "dead", (0..count).map(|n| in_lane(n, n % lanes)));
    let begin = [
        "dlq",
        "replay",
        "dead",
        "--order",
        "key:headers.order",
        "--window",
        "64",
        "--run",
        "k",
        "--yes",
    ];
    let mut random = fastrand::Rng::with_seed(count + kills());
    let mut killed = 0;
    for round in 0..kills() {
        let args: &[&str] = if round == 0 { &begin } else { &["dlq", "resume", "k"] };
        let part = count / kills();
        let running = start_and_await(&place, args, round * part + random.u64(1..part));
        running.kill();
        killed += 1;
    }
    place.run(&["dlq", "resume", "k"]).is(0);
    let went = take(&place, "jobs");
    let (first, _) = firsts(&went);
    for lane in 0..lanes {
        let of_lane: Vec<u64> = first.iter().copied().filter(|n| n % lanes == lane).collect();
        let expected: Vec<u64> = (0..count).filter(|n| n % lanes == lane).collect();
        assert_eq!(of_lane, expected, "lane {lane}");
    }
    let more = went.len() as u64 - count;
    assert!(more <= window * killed, "{more} duplicates after {killed} kills");
    assert_eq!(place.waiting("dead"), 0);
    println!("{kind} {queue_type:?} by key: {killed} kills, {more} duplicates");
}

macro_rules! on_every_broker {
    ($($kind:ident)*) => {$(
        mod $kind {
            use super::*;
            const KIND: &str = stringify!($kind);

            #[test]
            fn streams() {
                a_stream_is_replayed_and_keeps_what_it_has(KIND);
            }

            #[test]
            fn refused_letters_of_a_stream() {
                a_refusal_in_a_stream_is_gone_on_from(KIND);
            }

            #[test]
            fn a_killed_replay_of_a_stream_sends_all_of_it() {
                a_replay_of_a_stream_is_killed(KIND);
            }

            #[test]
            fn stages_of_a_classic_queue() {
                what_stays_waits_elsewhere_and_comes_back_as_it_was(KIND, QueueType::Classic);
            }

            #[test]
            fn stages_of_a_quorum_queue() {
                what_stays_waits_elsewhere_and_comes_back_as_it_was(KIND, QueueType::Quorum);
            }

            #[test]
            fn newcomers() {
                what_comes_meanwhile_is_behind(KIND);
            }

            #[test]
            fn refusals_between_stages() {
                what_is_refused_stays_and_so_does_what_is_behind(KIND);
            }

            #[test]
            fn killed_stages_of_a_classic_queue_lose_nothing() {
                it_is_killed_in_every_stage(KIND, QueueType::Classic);
            }

            #[test]
            fn killed_stages_of_a_quorum_queue_lose_nothing() {
                it_is_killed_in_every_stage(KIND, QueueType::Quorum);
            }

            #[test]
            fn what_waits_can_be_brought_back() {
                what_waits_elsewhere_can_be_brought_back(KIND);
            }

            #[test]
            fn a_lane_waits_for_its_refused_letter() {
                one_lane_stays_behind_its_refused_letter(KIND);
            }

            #[test]
            fn killed_lanes_keep_their_order() {
                lanes_keep_their_order_whatever_is_killed(KIND, QueueType::Classic);
                lanes_keep_their_order_whatever_is_killed(KIND, QueueType::Quorum);
            }

            #[test]
            fn within() {
                no_more_is_looked_at_than_was_asked_for(KIND);
            }

            #[test]
            fn max_hold() {
                what_is_held_for_too_long_is_let_go(KIND);
            }
        }
    )*};
}

on_every_broker!(embedded rabbitmq_3_10 rabbitmq_4_0);

#[test]
fn a_killed_broker_loses_nothing_between_stages_on_3_10() {
    the_broker_is_killed_between("3.10", QueueType::Classic);
    the_broker_is_killed_between("3.10", QueueType::Quorum);
}

#[test]
fn a_killed_broker_loses_nothing_between_stages_on_4_0() {
    the_broker_is_killed_between("4.0", QueueType::Classic);
    the_broker_is_killed_between("4.0", QueueType::Quorum);
}
