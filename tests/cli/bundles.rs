//! `dlq drop`, `import`, `undo` and the like with input that is wrong: what is said, with which status, and
//! that nothing was touched.

use crate::harness::Machine;

const TOPOLOGY: &str = "apiVersion: nexus/v1\nkind: Topology\nqueues:\n  \
    dead: {type: classic}\n  other: {type: classic}\n";

/// A machine with five letters in `dead`.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("t.yaml", TOPOLOGY);
    machine.run("topology apply t.yaml --yes").ok();
    machine.run_with("publish '' dead --lines -f -", b"0\n1\n2\n3\n4\n").ok();
    machine
}

fn waiting(machine: &Machine, queue: &str) -> u64 {
    let shown = machine.run(&format!("queue show {queue} -o json")).json();
    shown["ready"].as_u64().unwrap_or_else(|| panic!("{shown:#}"))
}

#[track_caller]
fn fails(machine: &Machine, line: &str, status: u8, words: &[&str]) -> String {
    let ran = machine.run(line);
    assert_eq!(ran.status, status, "{line}: {}", ran.shown());
    for word in words {
        assert!(ran.stderr.contains(word), "{line}: `{word}` is not said: {}", ran.shown());
    }
    ran.stderr
}

#[test]
fn without_consent_nothing_is_touched() {
    let machine = machine();
    for line in [
        "dlq drop dead --bundle b.ndjson",
        "dlq move dead --to other",
        "dlq park dead",
        "dlq copy dead --to other",
    ] {
        fails(&machine, line, 4, &["--yes"]);
        let dry = machine.run(&format!("{line} --dry-run -o json"));
        assert_eq!((dry.status, &dry.json()["dryRun"]), (0, &true.into()), "{line}");
    }
    let asked = fails(&machine, "dlq drop dead --bundle b.ndjson", 4, &["5 letters leave it"]);
    assert!(asked.contains("b.ndjson; each is acked when it is on the disk"));
    assert!(!machine.path("b.ndjson").exists());
    assert_eq!((waiting(&machine, "dead"), waiting(&machine, "other")), (5, 0));
    fails(&machine, "queue show dead.parked", 1, &["dead.parked"]);
}

#[test]
fn a_bundle_has_to_have_a_place() {
    let machine = machine();
    machine.write("there.ndjson", "mine\n");
    fails(&machine, "dlq drop dead --bundle there.ndjson --yes", 1, &["already", "--bundle"]);
    assert_eq!(machine.read("there.ndjson"), "mine\n");
    fails(&machine, "dlq drop dead --bundle no/b.ndjson --yes", 1, &["there is no directory"]);
    fails(&machine, "dlq drop gone --yes", 1, &["gone", "does not exist"]);
    fails(&machine, "dlq move dead --to gone --yes", 1, &["gone", "does not exist"]);
    fails(&machine, "dlq move dead --to dead --yes", 64, &["both where"]);
    fails(&machine, "dlq drop dead --last 2 --yes", 64, &["the last"]);
    assert_eq!(waiting(&machine, "dead"), 5);
}

#[test]
fn a_bundle_that_is_wrong_is_not_imported() {
    let machine = machine();
    machine.run("dlq drop dead --bundle b.ndjson --run d --yes").ok();
    let whole = machine.read("b.ndjson");
    let lines: Vec<&str> = whole.lines().collect();
    assert_eq!(lines.len(), 7);
    fails(&machine, "dlq import gone.ndjson --yes", 65, &["gone.ndjson"]);
    let damaged = whole.replacen("\"letter\":3", "\"letter\":4", 1);
    let swapped = [lines[0], lines[2], lines[1], lines[3], ""].join("\n");
    let cut = &whole[..whole.len() - 10];
    for (text, words) in [
        ("", &["no whole line"][..]),
        ("hello\n", &["line 1", "no bundle"]),
        (TOPOLOGY, &["line 1", "no bundle"]),
        (&whole.replacen("nexus/v1", "nexus/v2", 1), &["nexus/v2", "nexus/v1"]),
        (&damaged, &["line 4", "damaged"]),
        (&swapped, &["line 2", "damaged"]),
        (cut, &["no end after 5 letters", "--incomplete", "resume d"]),
    ] {
        machine.write("x.ndjson", text);
        fails(&machine, "dlq import x.ndjson --yes", 65, words);
        fails(&machine, "dlq import x.ndjson --dry-run", 65, words);
    }
    assert_eq!(waiting(&machine, "dead"), 0);
    fails(&machine, "dlq import b.ndjson", 4, &["--yes", "5 letters go to queue dead"]);
    fails(&machine, "dlq import b.ndjson --to gone --yes", 1, &["gone"]);
    fails(&machine, "dlq import b.ndjson --to other --replay --yes", 64, &["--replay"]);
    fails(&machine, "dlq import b.ndjson --where 'nonsense =' --yes", 64, &[]);
    assert_eq!((waiting(&machine, "dead"), waiting(&machine, "other")), (0, 0));
    let taken = machine.run("dlq import x.ndjson --incomplete --yes");
    assert_eq!(taken.status, 0, "{}", taken.shown());
    assert!(taken.stderr.contains("has no end"), "{}", taken.shown());
    assert_eq!(waiting(&machine, "dead"), 5);
}

#[test]
fn what_cannot_be_undone_says_what_can_be_done() {
    let machine = machine();
    fails(&machine, "dlq undo nothing --yes", 1, &["there is no run"]);
    machine.run("dlq drop dead --first 2 --bundle b.ndjson --run d --yes").ok();
    machine.run("dlq import b.ndjson --run i --yes").ok();
    fails(&machine, "dlq undo i --yes", 1, &["dlq drop"]);
    machine.write("b.ndjson", "");
    fails(&machine, "dlq undo d --yes", 65, &["no whole line"]);
    let shown = machine.run("dlq runs -o json").json();
    let runs = shown["runs"].as_array().map(Vec::len);
    assert_eq!((runs, &shown["runs"][1]["verb"]), (Some(2), &"drop".into()), "{shown:#}");
    let bundle = shown["runs"][1]["bundle"].as_str().unwrap_or_default().to_owned();
    assert!(bundle.ends_with("/b.ndjson"), "{shown:#}");
    assert_eq!(waiting(&machine, "dead"), 5);
}
