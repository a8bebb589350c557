//! Dead letters replayed by a plan, edited, by a map, and to another broker: on every broker, and
//! whatever is killed.

#![expect(clippy::unwrap_used, reason = "a step that fails should fail its test")]
#![expect(clippy::print_stdout, reason = "how many came twice is worth knowing, not a condition")]

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nexus::broker::{Change, Delivery, QueueType};
use nexus::deadletter::replay::address::{as_it_lay, is_edited};
use nexus::deadletter::replay::store::Journal;
use nexus::message::{FieldTable, FieldValue, Message};
use serde_json::{Value, json};

use support::letters::{
    account_of, declare, json, letter, numbers, put, queues, start_and_await_at, take,
};
use support::program::{Place, Running, depth, kills, pause, queue};

fn header(message: &Message, name: &str) -> Option<String> {
    message.properties.header(name).and_then(FieldValue::as_text).map(str::to_owned)
}

fn read(place: &Place, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(place.path(name)).unwrap()).unwrap()
}

/// The body that the letter at `position` had before run `run` edited it.
fn original(place: &Place, run: &str, position: u64) -> Option<Vec<u8>> {
    let path = place.path(".local/state/nexusctl/state.db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let journal = Journal::open(path, Duration::from_secs(30)).await.unwrap();
        journal.original(run, position).unwrap()
    })
}

fn a_plan_is_applied(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-plan") else { return };
    queues(&place, queue_type);
    put(&place, "dead", (0..20).map(letter));
    let how = ["--where", "int(body) % 2 == 0", "--out", "plan.json", "--exit-code"];
    let ran = place.run(&[&["dlq", "plan", "dead"][..], &how].concat()).is(2);
    ran.says(&["10 letters to queue jobs", "10 letters stay: not selected", "dlq apply plan.json"]);
    let plan = read(&place, "plan.json");
    assert_eq!((&plan["meant"], &plan["ready"]), (&10.into(), &20.into()));
    assert_eq!(plan["letters"][1]["position"], 3);
    assert_eq!(plan["letters"][1]["why"], "it died there");
    put(&place, "dead", (20..30).map(letter));
    place.run(&["dlq", "apply", "plan.json"]).is(4).says(&["--yes", "10 letters"]);
    place.run(&["dlq", "apply", "plan.json", "--dry-run"]).is(0).says(&["nothing was changed"]);
    assert_eq!(place.waiting("dead"), 30);
    let apply = ["dlq", "apply", "plan.json", "--yes", "--run", "p", "--reason", "agreed"];
    let ran = place.run(&[&apply[..], &["-o", "json"]].concat()).is(0);
    assert_eq!((&json(&ran)["replayed"], &json(&ran)["notMet"]), (&10.into(), &0.into()));
    let evens: Vec<u64> = (0..20).filter(|n| n % 2 == 0).collect();
    assert_eq!(numbers(&take(&place, "jobs")), evens, "what came since is not planned");
    // Once more: the letters are gone, as many others wait, and none of those goes.
    let ran = place.run(&["dlq", "apply", "plan.json", "--yes", "--run", "again"]).is(3);
    ran.says(&["10 letters planned, and not met"]);
    assert_eq!(place.waiting("jobs"), 0);
    let rest: Vec<u64> = (0..20).filter(|n| n % 2 == 1).chain(20..30).collect();
    assert_eq!(numbers(&take(&place, "dead")), rest);
}

fn twins_go_as_often_as_they_were_planned(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-plan-twins") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", [letter(1), letter(2), letter(1)]);
    place.run(&["dlq", "plan", "dead", "--out", "plan.json"]).is(0).says(&["told apart"]);
    put(&place, "dead", [letter(1)]);
    place.run(&["dlq", "apply", "plan.json", "--yes"]).is(0);
    assert_eq!(numbers(&take(&place, "jobs")), [1, 2, 1]);
    assert_eq!(numbers(&take(&place, "dead")), [1]);
    // A plan for nothing does nothing.
    put(&place, "dead", [letter(3)]);
    place.run(&["dlq", "plan", "dead", "--where", "false", "--out", "none.json"]).is(0);
    place.run(&["dlq", "apply", "none.json", "--yes"]).is(0);
    assert_eq!(place.waiting("dead"), 1);
}

fn what_differs_is_refused_and_nothing_is_touched(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-drift") else { return };
    queues(&place, QueueType::Classic);
    declare(&place, "repaired", QueueType::Classic, &FieldTable::new());
    put(&place, "dead", (0..6).map(letter));
    let map = "apiVersion: nexus/v1\nkind: ReplayMap\notherwise: {to: repaired}\n";
    place.file("map.yaml", map);
    let plan = ["dlq", "plan", "dead", "--map", "map.yaml", "--out", "plan.json"];
    place.run(&plan).is(0).says(&["6 letters to queue repaired"]);
    let apply = ["dlq", "apply", "plan.json", "--yes"];
    let untouched = |why: &str| {
        assert_eq!(place.waiting("dead"), 6, "{why}");
        assert_eq!(place.waiting("jobs"), 0, "{why}");
    };
    // Edited by hand.
    let text = std::fs::read_to_string(place.path("plan.json")).unwrap();
    place.file("edited.json", text.replace("queue repaired", "queue jobs"));
    place.run(&["dlq", "apply", "edited.json", "--yes"]).is(65).says(&["edited.json", "checksum"]);
    untouched("edited");
    // An input, and a limit of the queue itself through a policy or not at all.
    place.file("map.yaml", format!("{map}# changed\n"));
    place.run(&apply).is(4).says(&["--map map.yaml was changed"]);
    place.file("map.yaml", map);
    // The target has other limits, is of another type, is gone.
    let remove = |name: &str| {
        place.ask(async |broker| {
            let change =
                Change::DeleteQueue { name: queue(name), if_empty: false, if_unused: false };
            broker.change(&change).await.unwrap();
        });
    };
    remove("repaired");
    place.run(&apply).is(4).says(&["queue `repaired` is gone", "dlq plan dead"]);
    let limit = FieldTable::new().with("x-max-length", 5_i64);
    declare(&place, "repaired", QueueType::Quorum, &limit);
    let ran = place.run(&apply).is(4);
    ran.says(&["max-length is 5, and was nothing", "type is quorum, and was classic"]);
    untouched("target");
    remove("repaired");
    declare(&place, "repaired", QueueType::Classic, &FieldTable::new());
    place.run(&[&apply[..], &["--dry-run"]].concat()).is(0);
    // Another broker.
    if let Some(other) = Place::open(kind, "dlq-drift-other") {
        queues(&other, QueueType::Classic);
        let file = place.path("plan.json").display().to_string();
        other.run(&["dlq", "apply", &file, "--yes"]).is(78).says(&["for another place"]);
    }
    // Somebody else took some, and all at once.
    let taken = take(&place, "dead");
    put(&place, "dead", taken.into_iter().take(2).map(|delivery| delivery.message));
    place.file("map.yaml", format!("{map}# changed\n"));
    remove("repaired");
    let ran = place.run(&apply).is(4);
    ran.says(&[
        "has 2 letters, and 6 are planned",
        "is gone",
        "was changed",
        "nothing was touched",
    ]);
    assert_eq!(place.waiting("dead"), 2);
    remove("dead");
    place.run(&apply).is(4).says(&["queue `dead` is gone"]);
}

fn order(n: u64) -> Message {
    let body = json!({"n": n, "total": "12"}).to_string();
    let mut message = Message { body: body.into_bytes(), ..letter(n) };
    message.properties.headers_mut().insert("gone", "soon");
    message
}

fn edited_letters_arrive_edited_and_are_kept_as_they_were(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-edit") else { return };
    queues(&place, QueueType::Classic);
    let mut packed = order(1);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &packed.body).unwrap();
    packed.body = gzip.finish().unwrap();
    packed.properties.content_encoding = Some("gzip".to_owned());
    let text = Message { body: b"no JSON".to_vec(), ..letter(2) };
    let given = [order(0), packed, text, order(3)];
    put(&place, "dead", given.clone());
    place.file("patch.json", r#"[{"op": "replace", "path": "/total", "value": 12}]"#);
    place.file("schema.json", r#"{"properties": {"n": {"maximum": 2}}}"#);
    let edits = [
        "--body-patch",
        "patch.json",
        "--schema",
        "schema.json",
        "--set-header",
        "mended=${headers.n + 1}",
        "--remove-header",
        "gone",
    ];
    let plan = ["dlq", "plan", "dead", "-o", "json"];
    let planned = json(&place.run(&[&plan[..], &edits].concat()).is(0));
    assert_eq!(planned["meant"], 2, "{planned:#}");
    assert_eq!(planned["stay"][0]["letters"], 2, "{planned:#}");
    assert_eq!(planned["edits"][2], "body patched in 1 step");
    let replay = ["dlq", "replay", "dead", "--yes", "--run", "e"];
    let ran = place.run(&[&replay[..], &edits].concat()).is(3);
    ran.says(&["2 letters left: cannot be edited so", "no JSON", "bodies from before are kept"]);
    let went = take(&place, "jobs");
    assert_eq!(went.len(), 2);
    for (delivery, (position, lay)) in went.iter().zip([(1, &given[0]), (2, &given[1])]) {
        let message = &delivery.message;
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(body, json!({"n": position - 1, "total": 12}));
        let properties = &message.properties;
        assert_eq!(properties.content_encoding, None);
        let mended = properties.header("mended").and_then(FieldValue::as_i64);
        assert_eq!(mended, i64::try_from(position).ok());
        assert_eq!(header(message, "gone"), None);
        // What is kept gives it back as it lay.
        assert!(is_edited(message));
        let mut back = as_it_lay(message).unwrap();
        back.body = original(&place, "e", position).unwrap();
        assert_eq!(&back, lay);
    }
    let stayed = take(&place, "dead");
    let bodies: Vec<&[u8]> = stayed.iter().map(|d| d.message.body.as_slice()).collect();
    assert_eq!(bodies, [&given[2].body[..], &given[3].body[..]]);
    assert_eq!(original(&place, "e", 3), None);
    // And undoing does so.
    put(&place, "dead", given[..2].to_vec());
    let again = ["dlq", "replay", "dead", "--yes", "--run", "f"];
    place.run(&[&again[..], &edits].concat()).is(0);
    place.run(&["dlq", "undo", "f", "--yes"]).is(0);
    let back: Vec<Message> = take(&place, "dead").into_iter().map(|d| d.message).collect();
    assert_eq!(back, given[..2]);
}

fn letters_go_where_a_map_says(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-map") else { return };
    queues(&place, QueueType::Classic);
    declare(&place, "few", QueueType::Classic, &FieldTable::new());
    let topology = "apiVersion: nexus/v1\nkind: Topology\nexchanges: {work: {type: topic}}\n\
        queues:\n  a: {type: classic, bind: [{from: work, key: 'k.#'}]}\n  \
        b: {type: classic, bind: [{from: work, key: k.1}]}\n";
    place.file("work.yaml", topology);
    place.run(&["topology", "apply", "work.yaml", "--yes"]).is(0);
    put(&place, "dead", (0..9).map(letter));
    place.file(
        "map.yaml",
        "apiVersion: nexus/v1\nkind: ReplayMap\nrules:\n  - {when: headers.n < 3, to: few}\n  \
         - {when: 'int(body) < 6', exchange: work, key: k.1}\n",
    );
    let how = ["--map", "map.yaml", "--yes"];
    let not_known = place.run(&[&["dlq", "replay", "dead", "--dry-run"][..], &how].concat()).is(0);
    not_known.says(&["who else gets the copies is not known", "was not scanned"]);
    let planned = place.run(&[&["dlq", "plan", "dead", "-o", "json"][..], &how].concat()).is(0);
    let planned = json(&planned);
    assert_eq!(planned["letters"][3]["to"], "exchange work key k.1", "{planned:#}");
    assert_eq!(planned["letters"][3]["why"], "map.yaml:5: int(body) < 6");
    assert_eq!(planned["stay"][0], json!({"what": "no rule of the map fits", "letters": 3}));
    let heard = planned["audience"].as_array().unwrap();
    let work = heard.iter().find(|heard| heard["exchange"] == "work").unwrap();
    assert_eq!(work["queues"], json!(["a", "b"]), "{work}");
    // Meant is the queue each died in, and the exchange does not lead there.
    assert_eq!(work["meant"], "jobs");
    let known = place.run(&[&["dlq", "replay", "dead", "--dry-run"][..], &how].concat()).is(0);
    known.says(&["3 letters by exchange work with key k.1 not to queue jobs", "also a, b"]);
    place.run(&[&["dlq", "replay", "dead"][..], &how].concat()).is(0).says(&["nothing tells"]);
    assert_eq!(numbers(&take(&place, "few")), [0, 1, 2]);
    assert_eq!(numbers(&take(&place, "a")), [3, 4, 5]);
    assert_eq!(numbers(&take(&place, "b")), [3, 4, 5]);
    assert_eq!(numbers(&take(&place, "dead")), [6, 7, 8]);
}

/// Another broker or vhost, and the options that lead there.
fn elsewhere(place: &Place, kind: &str) -> (Place, Vec<String>) {
    let other = Place::open(kind, "dlq-there").unwrap();
    let options = match &other.vhost {
        Some(vhost) => vec!["--to-vhost".to_owned(), vhost.name.clone()],
        None => vec!["--to-broker".to_owned(), other.url.clone()],
    };
    assert_ne!(place.url, other.url);
    (other, options)
}

fn letters_go_to_another_broker(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-here") else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..5).map(letter));
    let (other, options) = elsewhere(&place, kind);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let run = |verb: &[&str]| place.run(&[&["dlq"], verb, &options[..]].concat());
    run(&["replay", "dead", "--to", "inbox", "--yes"]).is(1).says(&["`inbox` does not exist"]);
    // The same name there is another queue.
    declare(&other, "dead", QueueType::Classic, &FieldTable::new());
    run(&["replay", "dead", "--to", "dead", "--first", "2", "--yes", "--run", "o"]).is(0);
    assert_eq!(numbers(&take(&other, "dead")), [0, 1]);
    run(&["plan", "dead", "--to", "dead", "--out", "plan.json"]).is(0).says(&["the copies go to"]);
    place.run(&["dlq", "apply", "plan.json", "--yes", "--run", "p"]).is(0);
    assert_eq!(numbers(&take(&other, "dead")), [2, 3, 4]);
    assert_eq!(place.waiting("dead"), 0);
    // Where it is is no other place.
    let own = match &place.vhost {
        Some(vhost) => ["--to-vhost", &vhost.name].map(str::to_owned),
        None => ["--to-broker", &place.url].map(str::to_owned),
    };
    let own = ["dlq", "replay", "dead", "--to", "dead", "--yes", &own[0], &own[1]];
    place.run(&own).is(64).says(&["both where"]);
}

fn a_password_is_not_written_down(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-secret") else { return };
    let Some(vhost) = &place.vhost else { return };
    queues(&place, QueueType::Classic);
    put(&place, "dead", (0..400).map(letter));
    let other = Place::open(kind, "dlq-secret-there").unwrap();
    declare(&other, "inbox", QueueType::Classic, &FieldTable::new());
    // By another name of this machine: it is not known to be the same server.
    let url = other.url.replace("127.0.0.1", "localhost");
    assert_ne!(url, other.url);
    let args = ["dlq", "replay", "dead", "--to", "inbox", "--rate", "50", "--yes", "--run", "s"];
    let args = [&args[..], &["--to-broker", &url]].concat();
    let mut running = Running::start(&mut place.command(&args));
    await_depth(&other, "inbox", 6, &mut running);
    running.signal("-INT");
    running.ends_within(Duration::from_secs(60)).is(130).says(&["can be seen by others"]);
    let state = place.path(".local/state/nexusctl/state.db");
    for file in [state.clone(), state.with_extension("db-wal")] {
        let bytes = std::fs::read(file).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("guest:guest"));
    }
    place.run(&["dlq", "resume", "s"]).is(78).says(&["give the URL again"]);
    let wrong = vhost.amqp_url();
    place.run(&["dlq", "resume", "s", "--to-broker", &wrong]).is(64).says(&["the copies go to"]);
    let slow = place.run(&["dlq", "resume", "s", "--to-broker", &url]);
    slow.is(0);
    assert_eq!(numbers(&take(&other, "inbox")), (0..400).collect::<Vec<_>>());
}

/// Waits until so many are there, or `running` has ended.
fn await_depth(there: &Place, name: &str, least: u64, running: &mut Running) {
    there.ask(async |broker| {
        let end = Instant::now() + Duration::from_secs(60);
        while depth(broker, name).await.ready < least && !running.has_ended() {
            assert!(Instant::now() < end, "never so many in {name}: {least}");
            pause();
        }
    });
}

/// Kills the run `k` again and again, each time after more letters have arrived.
fn killed_and_resumed(
    place: &Place,
    other: &Place,
    target: &str,
    begin: &[&str],
    count: u64,
) -> u64 {
    let mut random = fastrand::Rng::with_seed(count + kills());
    let mut killed = 0;
    for round in 0..kills() {
        let args: &[&str] = if round == 0 { begin } else { &["dlq", "resume", "k"] };
        let at = round * count / kills() + random.u64(1..count / kills());
        let mut running = Running::start(&mut place.command(args));
        await_depth(other, target, at, &mut running);
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
    killed
}

fn a_killed_edited_run_loses_nothing(kind: &str, queue_type: QueueType) {
    let Some(place) = Place::open(kind, "dlq-edit-killed") else { return };
    queues(&place, queue_type);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    let begin = ["dlq", "replay", "dead", "--yes", "--run", "k", "--window", "64"];
    let begin = [&begin[..], &["--body", "{'was': body}", "--set-header", "by=${id}"]].concat();
    let killed = killed_and_resumed(&place, &place, "jobs", &begin, count);
    let went: Vec<Delivery> = take(&place, "jobs")
        .into_iter()
        .map(|mut delivery| {
            let key = header(&delivery.message, "x-nexus-replay-key");
            assert_eq!(header(&delivery.message, "by"), key);
            let body: Value = serde_json::from_slice(&delivery.message.body).unwrap();
            delivery.message.body = body["was"].to_string().into_bytes();
            delivery
        })
        .collect();
    let more = account_of(&place, "k", &went, count, window * killed);
    let kept: BTreeSet<u64> = (1..=count * (killed + 1))
        .filter_map(|position| original(&place, "k", position))
        .map(|body| String::from_utf8(body).unwrap().parse().unwrap())
        .collect();
    assert_eq!(kept.len() as u64, count, "every body from before is kept");
    println!("{kind} {queue_type:?} edited: {killed} kills, {more} duplicates");
}

fn a_killed_run_to_another_broker_loses_nothing(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-there-killed") else { return };
    queues(&place, QueueType::Classic);
    let (count, window) = (3000, 64);
    put(&place, "dead", (0..count).map(letter));
    let (other, options) = elsewhere(&place, kind);
    declare(&other, "inbox", QueueType::Classic, &FieldTable::new());
    let begin = ["dlq", "replay", "dead", "--to", "inbox", "--yes", "--run", "k", "--window", "64"];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let begin = [&begin[..], &options].concat();
    let killed = killed_and_resumed(&place, &other, "inbox", &begin, count);
    let more = account_of(&place, "k", &take(&other, "inbox"), count, window * killed);
    println!("{kind} elsewhere: {killed} kills, {more} duplicates");
}

fn a_killed_plan_goes_on(kind: &str) {
    let Some(place) = Place::open(kind, "dlq-plan-killed") else { return };
    queues(&place, QueueType::Classic);
    let count = 1500;
    put(&place, "dead", (0..count).map(letter));
    place.run(&["dlq", "plan", "dead", "--out", "plan.json"]).is(0);
    put(&place, "dead", (count..count + 7).map(letter));
    let begin = ["dlq", "apply", "plan.json", "--yes", "--run", "k"];
    let running = start_and_await_at(&place, &begin, "jobs", count / 3);
    running.kill();
    support::eventually("the queue is let go", || {
        place.ask(async |broker| (depth(broker, "dead").await.consumers == 0).then_some(()))
    });
    place.run(&["dlq", "resume", "k"]).is(0);
    let more = account_of(&place, "k", &take(&place, "jobs"), count, 256);
    assert_eq!(numbers(&take(&place, "dead")), (count..count + 7).collect::<Vec<_>>());
    println!("{kind} planned: {more} duplicates");
}

macro_rules! on_every_broker {
    ($($kind:ident)*) => {$(
        mod $kind {
            use super::*;
            const KIND: &str = stringify!($kind);

            #[test]
            fn a_plan_of_a_classic_queue_is_applied() {
                a_plan_is_applied(KIND, QueueType::Classic);
            }

            #[test]
            fn a_plan_of_a_quorum_queue_is_applied() {
                a_plan_is_applied(KIND, QueueType::Quorum);
            }

            #[test]
            fn twins_are_counted() {
                twins_go_as_often_as_they_were_planned(KIND);
            }

            #[test]
            fn drift_is_refused() {
                what_differs_is_refused_and_nothing_is_touched(KIND);
            }

            #[test]
            fn edits_are_made_and_undone() {
                edited_letters_arrive_edited_and_are_kept_as_they_were(KIND);
            }

            #[test]
            fn a_map_is_followed() {
                letters_go_where_a_map_says(KIND);
            }

            #[test]
            fn another_broker_gets_letters() {
                letters_go_to_another_broker(KIND);
            }

            #[test]
            fn passwords_are_given_again() {
                a_password_is_not_written_down(KIND);
            }

            #[test]
            fn a_killed_edited_run_of_a_classic_queue() {
                a_killed_edited_run_loses_nothing(KIND, QueueType::Classic);
            }

            #[test]
            fn a_killed_edited_run_of_a_quorum_queue() {
                a_killed_edited_run_loses_nothing(KIND, QueueType::Quorum);
            }

            #[test]
            fn a_killed_run_to_another_broker() {
                a_killed_run_to_another_broker_loses_nothing(KIND);
            }

            #[test]
            fn a_killed_plan() {
                a_killed_plan_goes_on(KIND);
            }
        }
    )*};
}

on_every_broker!(embedded rabbitmq_3_10 rabbitmq_4_0);
