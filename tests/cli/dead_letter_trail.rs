//! `dlq audit`, `watch`, `label`, `incident`: what was done stays known, what is too much is told once,
//! and what is known can be handed on; on the embedded broker and on both RabbitMQ versions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use nexus::broker::Settlement;
use rusqlite::Connection;
use serde_json::Value;

use crate::dead_letters::{send, take, wait_for_depth, with_topology};
use crate::harness::Machine;
use crate::process::{command, finish, signal};
use crate::queue::Place;
use crate::support::eventually;

/// So many letters die into `dead`.
fn die(place: &Place, bodies: &[&str], then: u64) {
    send(place, "rejects", bodies);
    take(place, "rejects", bodies.len(), Some(Settlement::Reject));
    wait_for_depth(place, "dead", then);
}

fn audit(place: &Place, options: &str) -> Vec<(String, String)> {
    let list = place.json(&format!("dlq audit {options}"));
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = list["entries"].as_array().unwrap();
    entries.iter().map(|entry| (text(entry, "what"), text(entry, "object"))).collect()
}

fn pair(what: &str, object: &str) -> (String, String) {
    (what.to_owned(), object.to_owned())
}

#[test]
fn whatever_is_done_is_in_the_trail() {
    for place in with_topology("trail") {
        let label = &place.label;
        let head = place.json("dlq audit head");
        assert_eq!((&head["sequence"], audit(&place, "list").len()), (&0.into(), 0), "{label}");
        die(&place, &["{\"n\":1}", "{\"n\":2,\"password\":\"p\"}", "{\"n\":3}"], 3);
        place.json("dlq scan dead");
        place.json("dlq show @2");
        assert_eq!(audit(&place, "list"), [], "{label}: looking masked is nothing to tell");
        place.json("dlq show @2 --unmask --reason 'ticket 7'");
        place.json("dlq replay dead --first 1 --run a --yes --reason 'handler mended'");
        place.json("dlq replay dead --to work.classic --run b --yes");
        place.machine.run("dlq scans --forget 1 --reason 'old'").ok();
        let letter = place.json("dlq audit list --first 1000")["entries"][5]["object"].clone();
        assert_eq!(
            audit(&place, ""),
            [
                pair("scan forgotten", "1"),
                pair("replay ended", "b"),
                pair("replay begun", "b"),
                pair("replay ended", "a"),
                pair("replay begun", "a"),
                pair("secrets shown", letter.as_str().unwrap()),
            ],
            "{label}"
        );
        assert_eq!(audit(&place, "list --run a").len(), 2, "{label}");
        assert_eq!(audit(&place, "--queue dead --first 2").len(), 2, "{label}");
        assert_eq!(audit(&place, "list --who tester --since 1h").len(), 6, "{label}");
        assert_eq!(audit(&place, "list --who nobody").len(), 0, "{label}");
        let entries = place.json("dlq audit list --run a");
        let (ended, begun) = (&entries["entries"][0], &entries["entries"][1]);
        assert_eq!(begun["reason"], "handler mended", "{label}");
        assert_eq!(begun["details"]["request"]["selection"]["first"], 1, "{label}: {begun:#}");
        assert_eq!(begun["details"]["waiting"], 3, "{label}");
        assert_eq!(ended["details"]["letters"]["confirmed"], 1, "{label}: {ended:#}");
        assert_eq!(ended["previous"], begun["hash"], "{label}");
        let verdict = place.json("dlq audit verify");
        assert_eq!((&verdict["whole"], &verdict["entries"]), (&true.into(), &6.into()), "{label}");
        let text = place.machine.run("dlq audit").ok();
        assert!(text.contains("tester@") && text.contains("handler mended"), "{label}: {text}");
    }
}

#[test]
fn a_changed_trail_is_found_with_status_2() {
    let machine = Machine::new();
    machine.run("init . --name shop").ok();
    machine.run("topology apply").ok();
    for run in ["a", "b", "c"] {
        machine
            .run(&format!("dlq replay dead.agent.worker --to agent.worker --run {run} --yes"))
            .ok();
    }
    let head = machine.run("dlq audit head").ok();
    let (number, seal) = head.trim().split_once(' ').unwrap();
    assert_eq!(number, "6");
    machine.run("dlq replay dead.agent.worker --to agent.worker --run d --yes").ok();
    let kept = machine.run(&format!("dlq audit verify --head {seal}")).ok();
    assert!(kept.contains("that of entry 6; 2 came since"), "{kept}");
    let state = Connection::open(machine.path(".nexus/state.db")).unwrap();
    let forbidden = state.execute("UPDATE trail_entry SET hash = 'x' WHERE number = 3", []);
    assert!(forbidden.unwrap_err().to_string().contains("append-only"));
    state
        .execute_batch("DROP TRIGGER trail_entry_stays; DROP TRIGGER trail_entry_remains")
        .unwrap();
    let cut = "DELETE FROM trail_entry WHERE number > 5;
               UPDATE sqlite_sequence SET seq = 5 WHERE name = 'trail_entry'";
    state.execute_batch(cut).unwrap();
    machine.run("dlq audit verify").ok();
    let cut = machine.run(&format!("dlq audit verify --head {seal}")).verdict_no();
    assert!(cut.contains("no entry has the seal that was noted"), "{cut}");
    let change = "UPDATE trail_entry SET entry = replace(entry, 'replay ended', 'replay begun')
                  WHERE number = 4";
    state.execute_batch(change).unwrap();
    let changed = machine.run("dlq audit verify -o json");
    assert_eq!((changed.status, &changed.json()["broken"]["at"]), (2, &4.into()));
    assert_eq!(changed.json()["broken"]["damage"], "changed");
    state.execute_batch("DELETE FROM trail_entry WHERE number IN (2, 3)").unwrap();
    let gone = machine.run("dlq audit verify").verdict_no();
    assert!(gone.contains("entries 2 to 3 are missing"), "{gone}");
    let wrong = machine.run("dlq audit verify --head 1234");
    assert_eq!(wrong.status, 64, "{}", wrong.shown());
}

fn alerts(place: &Place) -> Vec<Value> {
    let path = place.machine.path("alerts.ndjson");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut alerts = Vec::new();
    for part in text.split('\n').filter(|line| line.starts_with('{')) {
        alerts.push(serde_json::from_str(part).unwrap());
    }
    alerts
}

#[test]
fn too_much_is_told_once_and_once_more_when_it_is_quiet() {
    for place in with_topology("watch") {
        let label = &place.label;
        let file = place.machine.path("alerts.ndjson");
        let hook = format!("(cat; echo; echo $NEXUSCTL_ALERT_CHANGE) >> {}", file.display());
        let watch = |more: &str| {
            let args = ["dlq", "watch", "--once", "--max-depth", "2", "-o", "json"];
            let mut args = args.to_vec();
            args.extend(["--alert-command", &hook]);
            args.extend(more.split(' ').filter(|word| !word.is_empty()));
            place.machine.run_args(&args, b"")
        };
        die(&place, &["1", "2"], 2);
        let quiet = watch("");
        assert_eq!(quiet.status, 0, "{label}: {}", quiet.shown());
        let looks = quiet.json()["looks"].clone();
        let dead = looks.as_array().unwrap().iter().find(|look| look["queue"] == "dead").unwrap();
        assert_eq!((&dead["depth"], &dead["ready"]), (&2.into(), &2.into()), "{label}: {dead}");
        assert_eq!(alerts(&place).len(), 0, "{label}");
        die(&place, &["3"], 3);
        let loud = watch("dead");
        assert_eq!(loud.status, 2, "{label}: {}", loud.shown());
        assert_eq!(loud.json()["looks"][0]["exceeded"][0], "depth", "{label}");
        assert_eq!(watch("dead").status, 2, "{label}");
        let told = alerts(&place);
        assert_eq!(told.len(), 1, "{label}: one alert a crossing");
        assert_eq!(told[0]["kind"], "DeadLetterAlert", "{label}");
        assert_eq!((&told[0]["value"], &told[0]["limit"]), (&3.0.into(), &2.0.into()), "{label}");
        let told = std::fs::read_to_string(&file).unwrap();
        assert!(told.ends_with("\nexceeded\n"), "{label}: {told}");
        take(&place, "dead", 3, Some(Settlement::Ack));
        wait_for_depth(&place, "dead", 0);
        // The statistics of RabbitMQ are some seconds old.
        eventually("it is quiet", || (watch("dead").status == 0).then_some(()));
        let told = alerts(&place);
        assert_eq!(told.len(), 2, "{label}");
        assert_eq!(told[1]["change"], "quiet", "{label}");
        if !place.is_embedded() {
            // Less is known without the management API, and what is known is the same.
            let alone = "--management-url http://127.0.0.1:1 -o json";
            let ran = place.machine.run(&format!("dlq watch dead --once {alone}"));
            assert_eq!((ran.status, &ran.json()["looks"][0]["depth"]), (0, &0.into()), "{label}");
            let list = place.machine.run(&format!("dlq list dead {alone}"));
            assert_eq!(
                (list.status, &list.json()["queues"][0]["ready"]),
                (0, &0.into()),
                "{label}"
            );
            let unknown = list.json()["unknown"].to_string();
            assert!(unknown.contains("cannot be listed"), "{label}: {unknown}");
            let nothing = place.machine.run(&format!("dlq watch --once {alone}"));
            assert_eq!(nothing.status, 1, "{label}: {}", nothing.shown());
        }
        let missing = place.machine.run("dlq watch nothing --once");
        assert_eq!(missing.status, 1, "{label}: {}", missing.shown());
    }
}

#[test]
fn a_rate_is_known_from_the_looks_that_are_kept() {
    for place in with_topology("rate") {
        let label = &place.label;
        // With nothing to compare with, two looks are taken.
        let two =
            place.machine.run("dlq watch dead --once --max-rate 1/min --every 1100ms -o json");
        assert_eq!(two.status, 0, "{label}: {}", two.shown());
        assert_eq!(two.json()["looks"][0]["perMinute"], 0.0, "{label}: {}", two.shown());
        assert!(two.stderr.contains("no look is kept"), "{label}: {}", two.shown());
        die(&place, &["1", "2", "3"], 3);
        let loud = eventually("the rate", || {
            let ran = place.machine.run("dlq watch dead --once --max-rate 1/min -o json");
            (ran.status == 2).then_some(ran)
        });
        assert!(!loud.stderr.contains("no look is kept"), "{label}: {}", loud.shown());
        let rate = loud.json()["looks"][0]["perMinute"].as_f64().unwrap();
        assert!(rate > 1.0 && rate <= 180.0, "{label}: {rate}");
        let list = place.json("dlq list dead");
        assert!(list["queues"][0]["perMinute"].as_f64().unwrap() > 0.0, "{label}: {list:#}");
    }
}

#[test]
fn the_age_is_what_the_newest_scan_saw_or_a_look_or_unknown() {
    for place in with_topology("age") {
        let label = &place.label;
        die(&place, &["1"], 1);
        let age = |options: &str| {
            let ran = place.machine.run(&format!("dlq watch dead --once {options} -o json"));
            (ran.status, ran.json()["looks"][0].clone())
        };
        let (status, unknown) = age("--max-age 0s");
        assert_eq!((status, &unknown["ageSeconds"]), (0, &Value::Null), "{label}: {unknown}");
        let line = place.machine.run("dlq watch dead --once").ok();
        assert!(line.contains("age unknown"), "{label}: {line}");
        let (_, looked) = age("--look");
        assert_eq!(looked["ageFrom"], "look", "{label}: {looked}");
        place.json("dlq scan dead");
        let (_, scanned) = age("");
        assert_eq!(scanned["ageFrom"], "scan", "{label}: {scanned}");
        assert_eq!(scanned["oldest"], looked["oldest"], "{label}");
        assert!(scanned["scanAt"].is_string(), "{label}: {scanned}");
        // The broker keeps the time of a death in seconds.
        let old = eventually("a second has passed", || {
            let (status, row) = age("--max-age 0s");
            (status == 2).then_some(row)
        });
        assert_eq!(old["exceeded"][0], "age", "{label}: {old}");
        let list = place.machine.run("dlq list dead").ok();
        assert!(list.contains("SCANNED") && list.contains("ago"), "{label}: {list}");
    }
}

/// Answers one request after the other with these statuses, and hands on what was posted.
fn listener(statuses: &'static [&'static str]) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?token=s3cret", listener.local_addr().unwrap());
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).unwrap() > 2 {
                let line = head.lines().last().unwrap().to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .unwrap();
            send.send(format!("{head}\n{}", String::from_utf8(body).unwrap())).unwrap();
        }
    });
    (url, receive)
}

#[test]
fn a_webhook_and_a_message_carry_the_alert_and_a_failing_hook_does_not_stop_the_watch() {
    for place in with_topology("hooks") {
        let label = &place.label;
        die(&place, &["1"], 1);
        let (url, posted) = listener(&["500 Broken", "204 No Content"]);
        let watch = |more: &str| {
            place
                .machine
                .run(&format!("dlq watch dead --once --max-depth 0 --alert-webhook {url} {more}"))
        };
        let dry = watch("--dry-run --alert-message :nowhere");
        assert_eq!(dry.status, 2, "{label}: {}", dry.shown());
        assert!(!dry.stderr.contains("no queue took it"), "{label}: {}", dry.shown());
        assert!(posted.try_recv().is_err(), "{label}: told in spite of --dry-run");
        let failed = watch("--alert-command 'echo no pager >&2; exit 3' --alert-message :nowhere");
        assert_eq!(failed.status, 2, "{label}: {}", failed.shown());
        for what in ["no pager", "answers 500", "no queue took it"] {
            assert!(failed.stderr.contains(what), "{label}: {what}: {}", failed.shown());
        }
        assert!(!failed.shown().contains("s3cret"), "{label}: {}", failed.shown());
        posted.recv_timeout(Duration::from_secs(30)).unwrap();
        // Who was not told is told by the next.
        let told = watch("--alert-message :work.classic");
        assert_eq!(told.status, 2, "{label}: {}", told.shown());
        let request = posted.recv_timeout(Duration::from_secs(30)).unwrap();
        let (head, body) = request.rsplit_once('\n').unwrap();
        assert!(head.starts_with("POST /hook?token=s3cret HTTP/1.1"), "{label}: {head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&body["queue"], &body["measure"]),
            (&"dead".into(), &"depth".into()),
            "{label}"
        );
        let message = place.machine.run("consume work.classic --count 1 -o json -q");
        let message = &message.json()["messages"][0];
        assert_eq!(message["properties"]["type"], "dead-letters.alert", "{label}: {message}");
        assert_eq!(message["body"]["payload"], body, "{label}: {message}");
    }
}

#[test]
fn a_watch_goes_on_until_it_is_stopped_and_ends_cleanly() {
    for place in with_topology("stop") {
        let label = &place.label;
        let args = ["dlq", "watch", "--max-depth", "1", "--every", "100ms", "-o", "ndjson"];
        let mut child = command(&place.machine, &args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next =
            || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
        assert_eq!(next()["queue"], "dead", "{label}");
        die(&place, &["1", "2"], 2);
        let seen = eventually("it is seen", || {
            let look = next();
            (look["exceeded"][0] == "depth").then_some(look)
        });
        assert_eq!(seen["depth"], 2, "{label}");
        signal(&child, "-INT");
        // What it still had to say is read, so that nothing blocks it.
        for line in lines {
            line.unwrap();
        }
        let output = finish(child);
        assert_eq!(output.status.code(), Some(130), "{label}");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(stderr, "warning: dead: 2 letters, more than 1 letter\n", "{label}");
    }
}

#[test]
fn a_watch_for_some_time_ends_with_its_verdict() {
    let place = with_topology("for").remove(0);
    let line = "dlq watch dead --max-depth 1 --every 100ms --for 250ms";
    let quiet = place.machine.run(line).ok();
    assert!(quiet.contains("dead  0 letters"), "{quiet}");
    assert_eq!(quiet.lines().count(), 1, "only what changes: {quiet}");
    die(&place, &["1", "2"], 2);
    let loud = place.machine.run(line).verdict_no();
    assert!(loud.contains("too much: depth"), "{loud}");
}

#[test]
fn a_group_is_called_what_somebody_has_learned() {
    let place = with_topology("labels").remove(0);
    let machine = &place.machine;
    machine.write("nexus.yaml", "apiVersion: nexus/v1\nkind: Project\nname: shop\nstate: ../home/.local/state/nexusctl/state.db\n");
    die(&place, &["{\"n\":1}", "{\"n\":2}"], 2);
    place.json("dlq scan dead");
    let group = place.json("dlq groups")["groups"][0]["group"].as_str().unwrap().to_owned();
    let learn = format!("dlq label {group} 'orders without a customer' --runbook https://wiki/1");
    machine.run(&format!("{learn} --dry-run")).ok();
    assert!(!machine.path("rules").exists());
    machine.run(&learn).ok();
    assert!(machine.read("rules/dead-letters.yaml").contains("orders without a customer"));
    let again = machine.run(&learn);
    assert_eq!(again.status, 1, "{}", again.shown());
    assert!(again.stderr.contains("rules/dead-letters.yaml:"), "{}", again.shown());
    let row = &place.json("dlq groups")["groups"][0];
    assert_eq!(row["label"]["runbook"], "https://wiki/1", "{row}");
    assert!(machine.run("dlq groups").ok().contains("orders without a customer"));
    assert!(machine.run("dlq letters").ok().contains("orders without a customer"));
    assert!(machine.run("dlq show @1").ok().contains("runbook: https://wiki/1"));
    let other = "apiVersion: nexus/v1\nkind: DeadLetterLabels\nlabels:\n\
                 - {label: all of them, when: \"reason == 'rejected'\"}\n";
    machine.write("other.yaml", other);
    let row = &place.json("dlq groups --labels other.yaml")["groups"][0];
    assert_eq!(row["label"]["name"], "all of them", "{row}");
    machine.write("rules/dead-letters.yaml", &other.replace("when", "wenn"));
    let wrong = machine.run("dlq groups");
    assert_eq!(wrong.status, 65, "{}", wrong.shown());
    assert!(wrong.stderr.contains("unknown key `wenn`"), "{}", wrong.shown());
    let check = machine.run("check");
    assert!(check.shown().contains("rules/dead-letters.yaml:4"), "{}", check.shown());
    let nowhere = machine.run("dlq groups --labels none.yaml");
    assert_eq!(nowhere.status, 65, "{}", nowhere.shown());
}

#[test]
fn an_incident_is_one_file_that_can_be_shown_without_the_broker() {
    for place in with_topology("incident") {
        let label = &place.label;
        let machine = &place.machine;
        die(
            &place,
            &["{\"n\":1,\"password\":\"hunter2\"}", "{\"n\":2,\"password\":\"hunter2\"}"],
            2,
        );
        place.json("dlq scan dead");
        place.json("dlq replay dead --first 1 --run a --yes --reason mended");
        let done = place.json("dlq incident export night.ndjson --reason 'what happened'");
        for (part, many) in
            [("scan", 1), ("group", 1), ("letter", 1), ("run", 1), ("entry", 2), ("trail", 1)]
        {
            assert_eq!(done["parts"][part], many, "{label}: {part} in {done:#}");
        }
        assert_eq!(done["head"], place.json("dlq audit head")["head"], "{label}");
        let text = machine.read("night.ndjson");
        assert!(!text.contains("hunter2"), "{label}: secrets are masked");
        let shown = machine.run("dlq incident show night.ndjson").ok();
        for what in [
            "what happened",
            "queue dead: 1 ready",
            "2 letters: rejected rejects",
            "published to rejects → rejects (rejected) → dead",
            "run a of dead (done)",
            "replay begun a mended",
            "the trail was whole, 2 entries",
            "as it was written",
        ] {
            assert!(shown.contains(what), "{label}: {what} in\n{shown}");
        }
        let again = machine.run("dlq incident export night.ndjson");
        assert_ne!(again.status, 0, "{label}: it is not written over");
        assert_eq!(machine.read("night.ndjson"), text, "{label}");
        machine.write("cut.ndjson", &text[..text.len() / 2]);
        let cut = machine.run("dlq incident show cut.ndjson").verdict_no();
        assert!(cut.contains("cut off"), "{label}: {cut}");
        place.json("dlq incident export secret.ndjson --unmask --queue dead --examples 2");
        assert!(machine.read("secret.ndjson").contains("hunter2"), "{label}");
        assert_eq!(
            audit(&place, "list --first 1"),
            [pair("secrets exported", "secret.ndjson")],
            "{label}"
        );
        let nobody = "--broker amqp://127.0.0.1:1 --timeout 5s";
        let alone = machine.run(&format!("dlq incident export alone.ndjson {nobody}"));
        assert_eq!(alone.status, 3, "{label}: {}", alone.shown());
        let alone = machine.run("dlq incident show alone.ndjson").ok();
        assert!(
            alone.contains("could not be asked") && alone.contains("run a of dead"),
            "{label}: {alone}"
        );
        let none = machine.run("dlq incident export x.ndjson --run nothing");
        assert_eq!(none.status, 1, "{label}: {}", none.shown());
        let other = machine.run("dlq incident show dead.yaml");
        assert_eq!(other.status, 65, "{label}: {}", other.shown());
    }
}
