//! The modes of a replay beside the plain one: streams, letters that wait in a queue of their own, order
//! by key, and what is looked at and held. Whatever is killed, nothing is lost.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(clippy::print_stdout, reason = "how many came twice is worth knowing, not a condition")]

mod support;

use nexus::broker::QueueType;
use nexus::message::FieldTable;

use support::letters::{
    account, declare, json, letter, numbers, put, queues, start_and_await, take,
};
use support::program::{Place, depth, kills};

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
    place.run(&["dlq", "run", "show", "r"]).is(0).says(&["(done)", "9 replayed"]);
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
