//! Dead letters moved, parked, put into bundles and taken back, on every broker: the same bytes, types and
//! order, never lost, and what may have come twice is named, whatever is killed or full.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(
    clippy::print_stdout,
    reason = "how many came twice is worth knowing, and what was skipped has to be said"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nexus::broker::QueueType;
use nexus::message::{FieldTable, FieldValue, Message, Properties};
use serde_json::Value;

use support::letters::*;
use support::program::{
    Place, Running, SmallDisk, await_bytes, depth, kills, number_before, whole_lines,
};

/// A letter with every type of header, and with a death that tells where it is from.
fn typed(n: u64) -> Message {
    let mut message = letter(n);
    let table = FieldTable::new().with("deep", FieldValue::Timestamp(1_700_000_000));
    let death = FieldTable::new()
        .with("queue", "jobs")
        .with("reason", "rejected")
        .with("count", 1_i64)
        .with("exchange", "")
        .with("routing-keys", FieldValue::Array(vec!["jobs".into()]))
        .with("time", FieldValue::Timestamp(1_700_000_000));
    let own = FieldTable::new()
        .with("x-death", FieldValue::Array(vec![death.into()]))
        .with("x-first-death-queue", "jobs")
        .with("bool", true)
        .with("i8", FieldValue::Int8(-3))
        .with("i16", FieldValue::Int16(-300))
        .with("i32", FieldValue::Int32(70_000))
        .with("i64", FieldValue::Int64(1 << 40))
        .with("float", FieldValue::Float(0.5))
        .with("double", FieldValue::Double(0.25))
        .with("decimal", FieldValue::Decimal { scale: 2, unscaled: 314 })
        .with("bytes", FieldValue::Bytes(vec![0, 255]))
        .with("text", FieldValue::Text(vec![0xff, 0x00]))
        .with("void", FieldValue::Void)
        .with("time", FieldValue::Timestamp(1_700_000_000))
        .with("list", FieldValue::Array(vec!["a".into(), FieldValue::Int32(1)]))
        .with("table", table);
    for (name, value) in own.iter() {
        message.properties.headers_mut().insert(name, value.clone());
    }
    message.properties.priority = Some(3);
    message.properties.correlation_id = Some("c".to_owned());
    message.properties.timestamp = Some(1_700_000_000);
    message.properties.kind = Some("order".to_owned());
    message
}

/// Letters of every kind, in their order.
fn letters(count: u64) -> Vec<Message> {
    let mut all: Vec<Message> = (0..count).map(typed).collect();
    // Twins, one without anything, and one whose body is no text.
    let mut twin = letter(count);
    twin.properties.message_id = None;
    all.extend([twin.clone(), twin]);
    all.push(Message { properties: Properties::default(), body: Vec::new() });
    let mut binary = letter(count + 1);
    binary.body = vec![0, 1, 254, 255];
    binary.properties.delivery_mode = Some(1);
    all.push(binary);
    all
}

/// Everything in a queue, taken out, without what that queue wrote on it.
fn messages(place: &Place, name: &str) -> Vec<Message> {
    let own = |mut message: Message| {
        if let Some(headers) = &mut message.properties.headers {
            let counted = headers.remove("x-delivery-count").is_some();
            if counted && headers.is_empty() {
                message.properties.headers = None;
            }
        }
        message
    };
    take(place, name).into_iter().map(|delivery| own(delivery.message)).collect()
}

#[track_caller]
fn same(there: &[Message], expected: &[Message]) {
    assert_eq!(there.len(), expected.len());
    for (at, (there, expected)) in there.iter().zip(expected).enumerate() {
        assert_eq!(there, expected, "letter {at}");
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value:#}"))
}

fn dropped_letters_come_back_as_they_lay(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-drop") else { return };
    queues(&place, queue_type);
    let given = letters(200);
    put(&place, "dead", given.clone());
    let args = ["dlq", "drop", "dead", "--run", "d", "--bundle", "b.ndjson"];
    let dry = place.run(&[&args[..], &["--dry-run"]].concat()).is(0);
    dry.says(&["204 letters", "b.ndjson", "nothing was changed"]);
    place.run(&args).is(4).says(&["--yes", "b.ndjson"]);
    assert!(!place.path("b.ndjson").exists());
    assert_eq!(place.waiting("dead"), 204);
    place.run(&[&args[..], &["--yes", "--reason", "poison"]].concat()).is(0).says(&["204 letters"]);
    assert_eq!(place.waiting("dead"), 0);
    assert_eq!(whole_lines(&place.path("b.ndjson")).len(), 206);
    place.run(&["dlq", "run", "show", "d"]).is(0).says(&["drop of queue dead", "b.ndjson"]);
    place.run(&["dlq", "resume", "d"]).is(0).says(&["done already"]);
    // The same file is nobody's again.
    put(&place, "dead", [letter(1)]);
    let again = ["dlq", "drop", "dead", "--bundle", "b.ndjson", "--yes"];
    place.run(&again).is(1).says(&["already", "--bundle"]);
    assert_eq!(numbers(&take(&place, "dead")), [1]);
    place.run(&["dlq", "undo", "d"]).is(4).says(&["--yes"]);
    let undone = place.run(&["dlq", "undo", "d", "--run", "u", "--yes", "-o", "json"]).is(0);
    assert_eq!(number(&json(&undone), "replayed"), 204);
    assert_eq!(number(&json(&undone), "altered"), 0);
    same(&messages(&place, "dead"), &given);
    place.run(&["dlq", "undo", "d", "--yes"]).is(1).says(&["run `u` has undone it"]);
    assert_eq!(place.waiting("dead"), 0);
    place.run(&["dlq", "undo", "u", "--yes"]).is(1).says(&["dlq drop"]);
    place.run(&["dlq", "runs"]).is(0).says(&["drop", "import"]);
}

fn some_letters_are_dropped_and_imported(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-some") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..100).map(letter));
    let some = ["dlq", "drop", "dead", "--where", "int(body) % 2 == 0", "--run", "d", "--yes"];
    place.run(&some).is(0).says(&["50 letters", "50 letters left: not selected"]);
    assert_eq!(numbers(&take(&place, "dead")), (0..100).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    let bundle = "dead-d.bundle.ndjson";
    let import = ["dlq", "import", bundle, "--yes", "--where", "int(body) % 4 == 0"];
    let last = place.run(&[&import[..], &["--last", "3", "--to", "jobs"]].concat()).is(0);
    last.says(&["3 letters of bundle"]);
    assert_eq!(numbers(&take(&place, "jobs")), [88, 92, 96]);
    place.run(&[&import[..], &["--first", "2"]].concat()).is(0);
    let back = take(&place, "dead");
    assert_eq!(numbers(&back), [0, 4]);
    assert_eq!(back[0].message, letter(0));
    place.run(&["dlq", "import", bundle, "--replay", "--yes"]).is(0).says(&["50 letters"]);
    let replayed = take(&place, "jobs");
    assert_eq!(numbers(&replayed), (0..100).filter(|n| n % 2 == 0).collect::<Vec<_>>());
    assert!(replayed[0].message.properties.header("x-nexus-replay-key").is_some());
    // Where nothing takes it, an import stops and sends nothing.
    place.run(&["dlq", "import", bundle, "--to", "gone", "--yes"]).is(1).says(&["gone"]);
}

fn no_letter_goes_to_further_queues_when_it_comes_back(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-copies") else { return };
    queues(&place, QueueType::Classic);
    let mut given = letter(1);
    let copy = FieldValue::Array(vec!["jobs".into()]);
    given.properties.headers_mut().insert("x-nexus-seen", copy.clone());
    put(&place, "dead", [given.clone()]);
    place.run(&["dlq", "drop", "dead", "--run", "d", "--bundle", "b", "--yes"]).is(0);
    // No broker leaves a CC on what was published with one to two queues, so the bundle gets it here.
    let text = fs::read_to_string(place.path("b")).unwrap().replace("x-nexus-seen", "CC");
    place.file("c", reseal(&text));
    let ran = place.run(&["dlq", "import", "c", "--yes", "-o", "json"]).is(0);
    assert_eq!(number(&json(&ran), "altered"), 1);
    let back = take(&place, "dead").remove(0).message;
    assert_eq!(back.properties.header("x-nexus-orig-cc"), Some(&copy));
    assert_eq!(back.properties.header("CC"), None);
    assert_eq!(place.waiting("jobs"), 0);
}

/// A bundle with the seals that its lines ought to have.
fn reseal(text: &str) -> String {
    use sha2::{Digest, Sha256};
    let mut before = vec![0; 16];
    let mut out = String::new();
    for line in text.lines() {
        let (body, _) = line.rsplit_once(",\"seal\":\"").unwrap();
        let digest = Sha256::new().chain_update(&before).chain_update(body).finalize();
        let seal = digest[..16].to_vec();
        let digits: String = seal.iter().map(|byte| format!("{byte:02x}")).collect();
        out.push_str(&format!("{body},\"seal\":\"{digits}\"}}\n"));
        if !body.starts_with("{\"end\"") {
            before = seal;
        }
    }
    out
}

fn moved_letters_are_dead_and_come_back(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-move") else { return };
    queues(&place, queue_type);
    declare(&place, "other", queue_type, &FieldTable::new());
    let given = letters(50);
    put(&place, "dead", given.clone());
    put(&place, "other", [letter(1000)]);
    place.run(&["dlq", "move", "dead", "--to", "dead", "--yes"]).is(64);
    let args = ["dlq", "move", "dead", "--to", "other", "--run", "m"];
    place.run(&args).is(4);
    place.run(&[&args[..], &["--yes"]].concat()).is(0).says(&["54 letters"]);
    assert_eq!((place.waiting("dead"), place.waiting("other")), (0, 55));
    // What a worker takes is gone; what it is, is said.
    let worked = place.run(&["consume", "other", "--count", "11"]);
    assert_eq!(worked.status, Some(0), "{worked:?}");
    let undone = place.run(&["dlq", "undo", "m", "--yes", "-o", "json"]).is(0);
    let undone = json(&undone);
    assert_eq!((number(&undone, "replayed"), number(&undone, "gone")), (44, 10), "{undone:#}");
    same(&messages(&place, "dead"), &given[10..]);
    assert_eq!(place.waiting("other"), 0);
    let twice = json(&place.run(&["dlq", "undo", "m", "--yes", "-o", "json"]).is(0));
    assert_eq!((number(&twice, "replayed"), number(&twice, "gone")), (0, 10));
    // While it is there it is a dead letter, and its count is what it was.
    put(&place, "dead", given[..1].to_vec());
    place.run(&["dlq", "move", "dead", "--to", "other", "--yes"]).is(0);
    place.run(&["dlq", "scan", "other"]).is(0);
    place.run(&["dlq", "show", "@1"]).is(0).says(&["jobs", "rejected"]);
    let moved = messages(&place, "other").remove(0).properties;
    assert_eq!(moved.header("x-death"), given[0].properties.header("x-death"));
    assert_eq!(moved.header("x-nexus-replay-count"), None);
}

fn parked_letters_wait_in_a_queue_of_their_own(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-park") else { return };
    queues(&place, queue_type);
    put(&place, "dead", (0..20).map(letter));
    let dry = place.run(&["dlq", "park", "dead", "--dry-run"]).is(0);
    dry.says(&["queue `dead.parked` does not exist: it is declared, durable"]);
    place.run(&["dlq", "park", "dead", "--first", "5", "--run", "p", "--yes"]).is(0);
    let shown = json(&place.run(&["queue", "show", "dead.parked", "-o", "json"]).is(0));
    assert!(shown.to_string().contains(queue_type.as_str()), "{shown:#}");
    place.run(&["dlq", "park", "dead", "--first", "5", "--yes"]).is(0);
    assert_eq!((place.waiting("dead"), place.waiting("dead.parked")), (10, 10));
    place.run(&["dlq", "undo", "p", "--yes"]).is(0).says(&["5 letters"]);
    let order: Vec<u64> = (10..20).chain(0..5).collect();
    assert_eq!(numbers(&take(&place, "dead")), order);
    assert_eq!(numbers(&take(&place, "dead.parked")), [5, 6, 7, 8, 9]);
}

fn an_undone_replay_leaves_the_letters_as_they_lay(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-undo") else { return };
    queues(&place, queue_type);
    let given: Vec<Message> = (0..60).map(typed).collect();
    put(&place, "dead", given.clone());
    put(&place, "jobs", (500..503).map(letter));
    place.run(&["dlq", "replay", "dead", "--run", "r", "--yes"]).is(0);
    put(&place, "jobs", (503..506).map(letter));
    assert_eq!((place.waiting("dead"), place.waiting("jobs")), (0, 66));
    place.run(&["dlq", "undo", "r", "--dry-run"]).is(0).says(&["what stays is held"]);
    let undone = json(&place.run(&["dlq", "undo", "r", "--yes", "-o", "json"]).is(0));
    assert_eq!((number(&undone, "replayed"), number(&undone, "gone")), (60, 0));
    same(&messages(&place, "dead"), &given);
    assert_eq!(numbers(&take(&place, "jobs")), (500..506).collect::<Vec<_>>());
    place.run(&["dlq", "undo", "nothing", "--yes"]).is(1).says(&["there is no run"]);
}

fn copies_leave_the_queue_as_it_was(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-copy") else { return };
    queues(&place, queue_type);
    declare(&place, "other", queue_type, &FieldTable::new());
    let given = letters(100);
    put(&place, "dead", given.clone());
    // Looking only needs no consent.
    let ran = place.run(&["dlq", "export", "dead", "--run", "e", "--bundle", "b", "-o", "json"]);
    assert_eq!(number(&json(&ran.is(0)), "replayed"), 104);
    assert_eq!(place.waiting("dead"), 104);
    place.run(&["dlq", "undo", "e", "--yes"]).is(1).says(&["it changed nothing"]);
    place.run(&["dlq", "copy", "dead", "--to", "other"]).is(4);
    let copy = ["dlq", "copy", "dead", "--to", "other", "--first", "10", "--run", "c", "--yes"];
    place.run(&copy).is(0).says(&["10 letters"]);
    let headers = "headers['x-nexus-run'] == 'c'";
    place.run(&["dlq", "undo", "c", "--yes"]).is(1).says(&["dlq drop other", headers]);
    assert_eq!(place.waiting("other"), 10);
    place.run(&["dlq", "drop", "other", "--where", headers, "--yes"]).is(0).says(&["10 letters"]);
    same(&messages(&place, "dead"), &given);
    place.run(&["dlq", "import", "b", "--yes"]).is(0);
    same(&messages(&place, "dead"), &given);
}

fn a_killed_export_loses_nothing(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-killed-export") else { return };
    queues(&place, queue_type);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    let bundle = place.path("b.ndjson");
    let begin = ["dlq", "export", "dead", "--run", "k", "--bundle", "b.ndjson", "--window", "64"];
    let killed = kill_again_and_again(&place, &begin, count, |args, at| {
        let mut running = Running::start(&mut place.command(args));
        await_bytes(&bundle, at * 200, &mut running);
        running
    });
    assert_eq!(numbers(&take(&place, "dead")), (0..count).collect::<Vec<_>>());
    place.run(&["dlq", "import", "b.ndjson", "--to", "jobs", "--yes"]).is(0);
    let more = account(&place, "k", count, window * killed);
    println!("{kind} {queue_type:?} export: {killed} kills, {more} lines twice");
}

fn large_letters_go_through_a_bundle(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-large") else { return };
    queues(&place, QueueType::Classic);
    let large = |n: u8| Message { properties: Properties::default(), body: vec![n; 15 << 20] };
    put(&place, "dead", (250..254).map(large));
    let window = ["--window", "2", "--yes"];
    place.run(&[&["dlq", "drop", "dead", "--run", "d"][..], &window].concat()).is(0);
    assert_eq!(place.waiting("dead"), 0);
    place.run(&[&["dlq", "undo", "d"][..], &window].concat()).is(0).says(&["4 letters"]);
    let back = take(&place, "dead");
    assert_eq!(back.len(), 4);
    for (n, delivery) in (250..254).zip(back) {
        assert!(delivery.message.body == large(n).body, "letter {n} is another");
    }
}

/// Kills `begin` and then every `resume k`, once `ready` says that so much is done; ends the run.
fn kill_again_and_again(
    place: &Place,
    begin: &[&str],
    count: u64,
    mut start: impl FnMut(&[&str], u64) -> Running,
) -> u64 {
    let mut random = fastrand::Rng::with_seed(count + kills());
    let mut killed = 0;
    for round in 0..kills() {
        let args: &[&str] = if round == 0 { begin } else { &["dlq", "resume", "k"] };
        let at = round * count / kills() + random.u64(1..count / kills());
        let mut running = start(args, at);
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
    killed
}

fn a_killed_drop_loses_nothing(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-killed-drop") else { return };
    queues(&place, queue_type);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    let bundle = place.path("b.ndjson");
    let begin =
        ["dlq", "drop", "dead", "--run", "k", "--bundle", "b.ndjson", "--window", "64", "--yes"];
    let killed = kill_again_and_again(&place, &begin, count, |args, at| {
        let mut running = Running::start(&mut place.command(args));
        // A line has more than 200 bytes.
        await_bytes(&bundle, at * 200, &mut running);
        running
    });
    assert_eq!(place.waiting("dead"), 0);
    place.run(&["dlq", "import", "b.ndjson", "--to", "jobs", "--yes"]).is(0);
    let more = account(&place, "k", count, window * killed);
    println!("{kind} {queue_type:?} drop: {killed} kills, {more} lines twice");
}

fn a_killed_move_loses_nothing(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-killed-move") else { return };
    queues(&place, queue_type);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    let begin = ["dlq", "move", "dead", "--to", "jobs", "--run", "k", "--window", "64", "--yes"];
    let killed =
        kill_again_and_again(&place, &begin, count, |args, at| start_and_await(&place, args, at));
    assert_eq!(place.waiting("dead"), 0);
    let more = account(&place, "k", count, window * killed);
    println!("{kind} {queue_type:?} move: {killed} kills, {more} duplicates");
}

fn a_killed_import_loses_nothing(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-killed-import") else { return };
    queues(&place, QueueType::Classic);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    place.run(&["dlq", "drop", "dead", "--run", "d", "--bundle", "b", "--yes"]).is(0);
    let begin = ["dlq", "import", "b", "--to", "jobs", "--run", "k", "--window", "64", "--yes"];
    let killed =
        kill_again_and_again(&place, &begin, count, |args, at| start_and_await(&place, args, at));
    let more = account(&place, "k", count, window * killed);
    println!("{kind} import: {killed} kills, {more} duplicates");
    // Another bundle is not taken for the one that a run began with.
    put(&place, "dead", (0..50).map(letter));
    place.run(&["dlq", "drop", "dead", "--run", "e", "--bundle", "c", "--yes"]).is(0);
    let slow = ["dlq", "import", "c", "--to", "jobs", "--run", "s", "--yes", "--rate", "20"];
    start_and_await(&place, &slow, 2).kill();
    fs::copy(place.path("b"), place.path("c")).unwrap();
    place.run(&["dlq", "resume", "s"]).is(65).says(&["is not the bundle that it began with"]);
}

/// Drops 60 letters of 100 kB where 4 MB have room.
fn a_full_disk_under_a_bundle_loses_nothing(kind: &str) {
    let Some(disk) = SmallDisk::mount() else {
        println!("skipped: a tmpfs cannot be mounted here (it needs root)");
        return;
    };
    let Some(place) = Place::open(kind, "dlq-full") else { return };
    queues(&place, QueueType::Classic);
    let large = |n: u64| {
        let mut message = letter(n);
        message.properties.headers_mut().insert("fill", "x".repeat(100_000));
        message
    };
    put(&place, "dead", (0..60).map(large));
    let bundle = disk.0.path().join("b.ndjson").display().to_string();
    let args = ["dlq", "drop", "dead", "--run", "k", "--bundle", &bundle, "--window", "4", "--yes"];
    let ran = place.run(&args).is(3);
    ran.says(&["cannot write", "dlq resume k"]);
    assert!(!ran.stderr.contains("panic"), "{ran:?}");
    let confirmed = number_before(&ran.out(), " letters of queue dead to").unwrap();
    assert!(confirmed > 0 && confirmed < 60, "{ran:?}");
    assert_eq!(place.waiting("dead"), 60 - confirmed);
    // What was confirmed can be read, although the bundle goes on.
    let lines = whole_lines(Path::new(&bundle));
    let letters = lines.iter().filter(|line| line.starts_with("{\"letter\":")).count() as u64;
    assert_eq!(letters, confirmed);
    // Where four letters had no room, one may have some.
    let again = place.run(&["dlq", "resume", "k"]);
    assert!(matches!(again.status, Some(3 | 69)), "{again:?}");
    again.says(&["cannot write"]);
    disk.enlarge();
    place.run(&["dlq", "resume", "k"]).is(0);
    assert_eq!(place.waiting("dead"), 0);
    place.run(&["dlq", "import", &bundle, "--to", "jobs", "--yes"]).is(0);
    let there: BTreeSet<u64> = numbers(&take(&place, "jobs")).into_iter().collect();
    assert_eq!(there.len(), 60);
}

macro_rules! on_every_broker {
    ($($kind:ident)*) => {$(
        mod $kind {
            use super::*;
            const KIND: &str = stringify!($kind);

            #[test]
            fn dropped_letters_come_back() {
                dropped_letters_come_back_as_they_lay(KIND, QueueType::Classic);
                dropped_letters_come_back_as_they_lay(KIND, QueueType::Quorum);
            }

            #[test]
            fn a_bundle_is_taken_in_parts() {
                some_letters_are_dropped_and_imported(KIND);
            }

            #[test]
            fn copies_are_not_routed_again() {
                no_letter_goes_to_further_queues_when_it_comes_back(KIND);
            }

            #[test]
            fn moved_letters() {
                moved_letters_are_dead_and_come_back(KIND, QueueType::Classic);
                moved_letters_are_dead_and_come_back(KIND, QueueType::Quorum);
            }

            #[test]
            fn parked_letters() {
                parked_letters_wait_in_a_queue_of_their_own(KIND, QueueType::Classic);
                parked_letters_wait_in_a_queue_of_their_own(KIND, QueueType::Quorum);
            }

            #[test]
            fn an_undone_replay() {
                an_undone_replay_leaves_the_letters_as_they_lay(KIND, QueueType::Classic);
                an_undone_replay_leaves_the_letters_as_they_lay(KIND, QueueType::Quorum);
            }

            #[test]
            fn large_letters() {
                large_letters_go_through_a_bundle(KIND);
            }

            #[test]
            fn a_killed_drop() {
                a_killed_drop_loses_nothing(KIND, QueueType::Classic);
                a_killed_drop_loses_nothing(KIND, QueueType::Quorum);
            }

            #[test]
            fn copied_letters() {
                copies_leave_the_queue_as_it_was(KIND, QueueType::Classic);
                copies_leave_the_queue_as_it_was(KIND, QueueType::Quorum);
            }

            #[test]
            fn a_killed_export() {
                a_killed_export_loses_nothing(KIND, QueueType::Classic);
                a_killed_export_loses_nothing(KIND, QueueType::Quorum);
            }

            #[test]
            fn a_killed_move() {
                a_killed_move_loses_nothing(KIND, QueueType::Classic);
                a_killed_move_loses_nothing(KIND, QueueType::Quorum);
            }

            #[test]
            fn a_killed_import() {
                a_killed_import_loses_nothing(KIND);
            }

            #[test]
            fn a_full_disk() {
                a_full_disk_under_a_bundle_loses_nothing(KIND);
            }
        }
    )*};
}

on_every_broker!(embedded rabbitmq_3_10 rabbitmq_4_0);
