//! Dead letters replayed on every broker: in order, never lost, and what may have come twice is named,
//! whatever is killed.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(clippy::print_stdout, reason = "how many came twice is worth knowing, not a condition")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use nexus::broker::QueueType;
use nexus::message::{FieldTable, FieldValue, Message, Properties};

use support::letters::*;
use support::program::{OwnNode, Place, depth, kills, signal};

fn all_go_in_order_and_what_is_not_wanted_stays(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-order") else { return };
    queues(&place, queue_type);
    put(&place, "dead", (0..500).map(letter));
    let dry = place.run(&["dlq", "replay", "dead", "--dry-run"]).is(0);
    dry.says(&["500 letters", "nothing was changed"]);
    place.run(&["dlq", "replay", "dead"]).is(4).says(&["--yes"]);
    assert_eq!(place.waiting("dead"), 500);
    let some = ["dlq", "replay", "dead", "--where", "int(body) % 3 == 0", "--run", "a", "--yes"];
    let ran = place.run(&[&some[..], &["-o", "json"]].concat()).is(0);
    assert_eq!(
        (json(&ran)["replayed"].clone(), json(&ran)["notWanted"].clone()),
        (167.into(), 333.into())
    );
    let went = take(&place, "jobs");
    assert_eq!(numbers(&went), (0..500).filter(|n| n % 3 == 0).collect::<Vec<_>>());
    let first = place.run(&["dlq", "replay", "dead", "--first", "10", "--yes"]).is(0);
    first.says(&["10 letters"]);
    let rest: Vec<u64> = (0..500).filter(|n| n % 3 != 0).collect();
    assert_eq!(numbers(&take(&place, "jobs")), rest[..10]);
    place.run(&["dlq", "replay", "dead", "--run", "b", "--yes"]).is(0);
    assert_eq!(numbers(&take(&place, "jobs")), rest[10..]);
    assert_eq!(place.waiting("dead"), 0);
    place.run(&["dlq", "run", "show", "b"]).is(0).says(&["(done)", "no letter came twice"]);
    place.run(&["dlq", "resume", "b"]).is(0).says(&["done already"]);
    place.run(&["dlq", "runs"]).is(0).says(&["a", "b"]);
    place.run(&["dlq", "run", "show", "c"]).is(1).says(&["there is no run"]);
}

fn what_cannot_go_stays_and_is_said(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-refused") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..4).map(letter));
    let mut lost = letter(9);
    lost.properties.headers_mut().insert("x-nexus-origin-queue", "gone");
    put(&place, "dead", [lost]);
    put(&place, "dead", (5..7).map(letter));
    let ran =
        place.run(&["dlq", "replay", "dead", "--yes", "--run", "a", "--order", "strict"]).is(3);
    ran.says(&["1 letter left: returned", "312"]);
    assert_eq!(numbers(&take(&place, "jobs")), [0, 1, 2, 3]);
    place.run(&["dlq", "replay", "dead", "--yes", "--order", "none"]).is(3);
    assert_eq!(numbers(&take(&place, "jobs")), [5, 6]);
    assert_eq!(numbers(&take(&place, "dead")), [9]);
    // A queue that is full.
    let full = FieldTable::new().with("x-max-length", 2_i64).with("x-overflow", "reject-publish");
    declare(&place, "full", QueueType::Classic, &full);
    put(&place, "dead", (0..5).map(letter));
    let args = ["dlq", "replay", "dead", "--to", "full", "--yes", "--order", "strict"];
    place.run(&args).is(3).says(&["the copy was refused"]);
    let there = numbers(&take(&place, "full"));
    assert_eq!(numbers(&take(&place, "dead")), (there.len() as u64..5).collect::<Vec<_>>());
    // A queue that would drop what it has, one that is not there, and a second operator.
    put(&place, "dead", (0..5).map(letter));
    let drops = FieldTable::new().with("x-max-length", 2_i64);
    declare(&place, "drops", QueueType::Classic, &drops);
    place.run(&["dlq", "replay", "dead", "--to", "drops", "--yes"]).is(4).says(&["--allow-loss"]);
    place
        .run(&["dlq", "replay", "dead", "--to", "nowhere", "--yes"])
        .is(1)
        .says(&["does not exist"]);
    place.run(&["dlq", "replay", "dead", "--to", "dead", "--yes"]).is(64);
    assert_eq!(place.waiting("dead"), 5);
}

fn twins_both_go_and_worn_out_letters_are_put_aside(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-twins") else { return };
    queues(&place, QueueType::Classic);
    declare(&place, "parked", QueueType::Classic, &FieldTable::new());
    let mut twin = letter(7);
    twin.properties.message_id = None;
    put(&place, "dead", [twin.clone(), letter(1), twin]);
    place.run(&["dlq", "replay", "dead", "--yes"]).is(0);
    let went = take(&place, "jobs");
    assert_eq!(numbers(&went), [7, 1, 7]);
    // Each journey counts; after three a letter is put aside.
    let mut messages: Vec<Message> = went.into_iter().map(|delivery| delivery.message).collect();
    for journey in 2..=3_i64 {
        put(&place, "dead", messages);
        place.run(&["dlq", "replay", "dead", "--yes"]).is(0);
        messages = take(&place, "jobs").into_iter().map(|delivery| delivery.message).collect();
        let count = messages[1].properties.header("x-nexus-replay-count");
        assert_eq!(count.and_then(FieldValue::as_i64), Some(journey));
    }
    put(&place, "dead", messages);
    place
        .run(&["dlq", "replay", "dead", "--yes"])
        .is(0)
        .says(&["3 letters left: replayed too often"]);
    assert_eq!(place.waiting("dead"), 3);
    place
        .run(&["dlq", "replay", "dead", "--yes", "--park", "parked"])
        .is(0)
        .says(&["3 letters put aside"]);
    assert_eq!(numbers(&take(&place, "parked")), [7, 1, 7]);
    assert_eq!((place.waiting("dead"), place.waiting("jobs")), (0, 0));
}

fn a_run_does_not_chase_what_comes_back_at_once(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-echo") else { return };
    declare(&place, "dead", QueueType::Classic, &FieldTable::new());
    // Whatever comes here is dead at once.
    let back = FieldTable::new()
        .with("x-message-ttl", 0_i64)
        .with("x-dead-letter-exchange", "")
        .with("x-dead-letter-routing-key", "dead");
    declare(&place, "jobs", QueueType::Classic, &back);
    put(&place, "dead", (0..20).map(letter));
    let ran = place.run(&["dlq", "replay", "dead", "--yes", "--window", "2", "-o", "json"]);
    let looked = json(&ran)["replayed"].as_u64().unwrap();
    assert_eq!(looked, 20, "{ran:?}");
    let all: BTreeSet<u64> = support::eventually("all letters are back", || {
        (place.waiting("dead") == 20).then(|| numbers(&take(&place, "dead")).into_iter().collect())
    });
    assert_eq!(all.len(), 20);
}

fn the_message_is_what_it_was(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-same") else { return };
    queues(&place, QueueType::Classic);
    let mut given = letter(1);
    let table = FieldTable::new().with("deep", FieldValue::Timestamp(1_700_000_000));
    let own = FieldTable::new()
        .with("bool", true)
        .with("i8", FieldValue::Int8(-3))
        .with("i16", FieldValue::Int16(-300))
        .with("i32", FieldValue::Int32(70_000))
        .with("i64", FieldValue::Int64(1 << 40))
        .with("float", FieldValue::Float(0.5))
        .with("double", FieldValue::Double(0.25))
        .with("decimal", FieldValue::Decimal { scale: 2, unscaled: 314 })
        .with("bytes", FieldValue::Bytes(vec![0, 255]))
        .with("void", FieldValue::Void)
        .with("time", FieldValue::Timestamp(1_700_000_000))
        .with("list", FieldValue::Array(vec!["a".into(), FieldValue::Int32(1)]))
        .with("table", table);
    for (name, value) in own.iter() {
        given.properties.headers_mut().insert(name, value.clone());
    }
    given.properties.priority = Some(3);
    given.properties.correlation_id = Some("c".to_owned());
    given.properties.timestamp = Some(1_700_000_000);
    given.properties.kind = Some("order".to_owned());
    given.body = vec![0, 1, 254, 255];
    put(&place, "dead", [given.clone()]);
    place.run(&["dlq", "replay", "dead", "--yes"]).is(0);
    let there = take(&place, "jobs").remove(0).message;
    assert_eq!(there.body, given.body);
    for (name, value) in own.iter() {
        assert_eq!(there.properties.header(name), Some(value), "{name}");
    }
    let bare = |message: &Message| Properties { headers: None, ..message.properties.clone() };
    assert_eq!(bare(&there), bare(&given));
    assert!(there.properties.header("x-nexus-replay-key").is_some());
}

fn the_tool_is_killed(kind: &str, queue_type: QueueType, window: u64, count: u64) {
    let Some(place) = Place::open(kind, "dlq-killed") else { return };
    queues(&place, queue_type);
    put(&place, "dead", (0..count).map(letter));
    let window_text = window.to_string();
    let begin = ["dlq", "replay", "dead", "--yes", "--run", "k", "--window", &window_text];
    let mut random = fastrand::Rng::with_seed(count + window + kills());
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
        support::eventually("the queue is let go", || {
            place.ask(async |broker| (depth(broker, "dead").await.consumers == 0).then_some(()))
        });
    }
    assert!(killed > 0, "nothing was killed");
    place.run(&["dlq", "resume", "k"]).is(0);
    assert_eq!(place.waiting("dead"), 0);
    let more = account(&place, "k", count, window * killed);
    println!("{kind} {queue_type:?} window {window}: {killed} kills, {more} duplicates");
}

fn a_stop_is_clean(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-stop") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..400).map(letter));
    let args = ["dlq", "replay", "dead", "--yes", "--run", "s", "--rate", "100"];
    let mut running = start_and_await(&place, &args, 10);
    running.signal("-INT");
    let ran = running.ends_within(Duration::from_secs(30)).is(130);
    ran.says(&["dlq resume s"]);
    place.run(&["dlq", "resume", "s"]).is(0);
    assert_eq!(account(&place, "s", 400, 0), 0);
    // Nor is the wait for the next letter waited out.
    put(&place, "dead", (0..5).map(letter));
    let args = ["dlq", "replay", "dead", "--yes", "--run", "slow", "--rate", "0.005"];
    let mut running = start_and_await(&place, &args, 1);
    running.signal("-INT");
    running.ends_within(Duration::from_secs(60)).is(130);
}

/// A node of its own is killed in the middle of a replay.
fn the_broker_is_killed(version: &str, queue_type: QueueType) {
    let Some(mut own) = OwnNode::start(version) else { return };
    let place = Place::on(&own.node, "dlq-broker-killed");
    queues(&place, queue_type);
    let count = 3000;
    put(&place, "dead", (0..count).map(letter));
    // A quorum queue that was just declared is lost with its node.
    std::thread::sleep(Duration::from_secs(4));
    let args = ["dlq", "replay", "dead", "--yes", "--run", "b", "--window", "32"];
    let running = start_and_await(&place, &args, 500);
    signal(own.node.pid, "-KILL");
    own.restart();
    let ran = running.ends_within(Duration::from_secs(120));
    assert!(matches!(ran.status, Some(3 | 6 | 69)), "{ran:?}");
    let ran = place.run(&["dlq", "resume", "b"]).is(0);
    assert_eq!(place.waiting("dead"), 0);
    let more = account(&place, "b", count, 32);
    println!("{version} {queue_type:?}: {more} duplicates\n{}", ran.out());
}

/// Where what is replayed dies again at once.
fn a_place_where_letters_die(place: &Place) {
    queues(place, QueueType::Classic);
    let back = FieldTable::new()
        .with("x-message-ttl", 0_i64)
        .with("x-dead-letter-exchange", "")
        .with("x-dead-letter-routing-key", "dead");
    declare(place, "hot", QueueType::Classic, &back);
}

fn a_canary_that_comes_back_stops_the_run(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-canary") else { return };
    a_place_where_letters_die(&place);
    put(&place, "dead", (0..50).map(letter));
    let args = ["dlq", "replay", "dead", "--yes", "--run", "r", "-o", "json"];
    let to_hot = [&args[..], &["--to", "hot", "--canary", "10", "--wait", "2m"]].concat();
    let report = json(&place.run(&to_hot).is(2));
    assert_eq!(report["replayed"], 10, "{report:#}");
    assert_eq!(report["canary"]["good"], false, "{report:#}");
    // What has not come back yet comes within the wait: the letters behind the canary are all there.
    let again = json(&place.run(&["dlq", "resume", "r", "-o", "json"]).is(2));
    assert_eq!(again["replayed"], 0, "judged again, and still not good: {again:#}");
    let left = numbers(&take(&place, "dead"));
    let expected: Vec<u64> = (10..50).chain(0..10).collect();
    assert_eq!(left, expected, "those that died again are behind the others");
}

fn a_canary_that_stays_away_lets_the_others_follow(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-good") else { return };
    queues(&place, QueueType::Quorum);
    put(&place, "dead", (0..50).map(letter));
    let args = ["dlq", "replay", "dead", "--yes", "--run", "r", "-o", "json", "--verify", "1ms"];
    let report = json(&place.run(&[&args[..], &["--canary", "10", "--wait", "1s"]].concat()).is(0));
    assert_eq!(report["replayed"], 50, "{report:#}");
    for verdict in ["canary", "outcome"] {
        assert_eq!(report[verdict]["cameBack"], 0, "{report:#}");
    }
    assert_eq!(report["canary"]["sent"], 10, "{report:#}");
    assert_eq!(numbers(&take(&place, "jobs")), (0..50).collect::<Vec<_>>());
}

fn a_run_breaks_when_too_many_come_back(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-break") else { return };
    a_place_where_letters_die(&place);
    put(&place, "dead", (0..2000).map(letter));
    let args = ["dlq", "replay", "dead", "--yes", "--to", "hot", "--rate", "300", "-o", "json"];
    let report = json(&place.run(&[&args[..], &["--max-return", "10%"]].concat()).is(2));
    let went = report["replayed"].as_u64().unwrap();
    assert!((20..2000).contains(&went), "{report:#}");
    let mut left = numbers(&take(&place, "dead"));
    left.sort_unstable();
    assert_eq!(left, (0..2000).collect::<Vec<_>>(), "none is lost, and none is doubled");
}

macro_rules! on_every_broker {
    ($($kind:ident)*) => {$(
        mod $kind {
            use super::*;
            const KIND: &str = stringify!($kind);

            #[test]
            fn all_go_in_order_from_a_classic_queue() {
                all_go_in_order_and_what_is_not_wanted_stays(KIND, QueueType::Classic);
            }

            #[test]
            fn all_go_in_order_from_a_quorum_queue() {
                all_go_in_order_and_what_is_not_wanted_stays(KIND, QueueType::Quorum);
            }

            #[test]
            fn refused_letters_stay() {
                what_cannot_go_stays_and_is_said(KIND);
            }

            #[test]
            fn twins_and_worn_out_letters() {
                twins_both_go_and_worn_out_letters_are_put_aside(KIND);
            }

            #[test]
            fn no_running_in_circles() {
                a_run_does_not_chase_what_comes_back_at_once(KIND);
            }

            #[test]
            fn a_canary_decides() {
                a_canary_that_comes_back_stops_the_run(KIND);
                a_canary_that_stays_away_lets_the_others_follow(KIND);
            }

            #[test]
            fn too_many_that_come_back_break_a_run() {
                a_run_breaks_when_too_many_come_back(KIND);
            }

            #[test]
            fn nothing_of_a_message_is_lost() {
                the_message_is_what_it_was(KIND);
            }

            #[test]
            fn a_stop_can_be_resumed() {
                a_stop_is_clean(KIND);
            }

            #[test]
            fn a_killed_replay_of_a_classic_queue_loses_nothing() {
                the_tool_is_killed(KIND, QueueType::Classic, 256, 4000);
            }

            #[test]
            fn a_killed_replay_of_a_quorum_queue_loses_nothing() {
                the_tool_is_killed(KIND, QueueType::Quorum, 256, 4000);
            }

            #[test]
            fn a_killed_replay_with_a_window_of_one_doubles_one_at_most() {
                the_tool_is_killed(KIND, QueueType::Classic, 1, 200);
                the_tool_is_killed(KIND, QueueType::Quorum, 1, 200);
            }
        }
    )*};
}

on_every_broker!(embedded rabbitmq_3_10 rabbitmq_4_0);

#[test]
fn a_killed_broker_loses_nothing_on_3_10() {
    the_broker_is_killed("3.10", QueueType::Classic);
    the_broker_is_killed("3.10", QueueType::Quorum);
}

#[test]
fn a_killed_broker_loses_nothing_on_4_0() {
    the_broker_is_killed("4.0", QueueType::Classic);
    the_broker_is_killed("4.0", QueueType::Quorum);
}
