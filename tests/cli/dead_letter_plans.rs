//! `dlq plan`, `dlq apply` and what they share with `dlq replay`, on the embedded broker.

use serde_json::Value;

use crate::harness::{Machine, Ran};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write(
        "topology.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nexchanges: {work: {type: fanout}}\nqueues:\n  \
         dead: {type: classic}\n  jobs: {type: classic, bind: [{from: work}]}\n  \
         other: {type: classic, bind: [{from: work}]}\n",
    );
    machine.run("topology apply topology.yaml --yes").ok();
    let bodies = "{\"a\":1}\n{\"a\":2}\nplain\n";
    let publish = "publish '' dead --lines -f - -H x-nexus-origin-queue=jobs";
    machine.run_with(publish, bodies.as_bytes()).ok();
    machine
}

fn says(ran: &Ran, status: u8, words: &[&str]) {
    let shown = ran.shown();
    assert_eq!(ran.status, status, "{shown}");
    for word in words {
        assert!(shown.contains(word), "`{word}` is not said in:\n{shown}");
    }
}

#[test]
fn a_plan_is_the_same_document_wherever_it_is_written() {
    let machine = machine();
    let line = "dlq plan dead --out plan.json";
    let shown = machine.run(&format!("{line} -o json")).json();
    let written: Value = serde_json::from_str(&machine.redact(&machine.read("plan.json"))).unwrap();
    assert_eq!(shown, written);
    assert_eq!(shown["kind"], "DeadLetterPlan");
    assert_eq!(shown["letters"].as_array().unwrap().len(), 3);
    let table = machine.run("dlq plan dead --stored --exit-code");
    says(
        &table,
        2,
        &[
            "3 letters to queue jobs",
            "order: as they lie",
            "at most 256 letters come twice",
            "@3 to",
        ],
    );
    says(&machine.run("dlq plan dead --last 1 --stored"), 0, &["1 letter to", "2 letters stay"]);
    let id = shown["letters"][1]["id"].as_str().unwrap();
    let short = machine.run(&format!("dlq plan dead --select {} --stored", &id[..10]));
    says(&short, 0, &["1 letter to queue jobs", id]);
}

#[test]
fn who_else_gets_it_is_told() {
    let machine = machine();
    says(
        &machine.run("dlq plan dead --to-exchange work"),
        0,
        &["3 letters by exchange work", "to queue jobs (meant), and also other"],
    );
    says(
        &machine.run("dlq replay dead --to-exchange work --dry-run"),
        0,
        &["to queue jobs (meant), and also other", "told by scan 1"],
    );
    machine.write(
        "back.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nexchanges: {back: {type: fanout}, deaf: {type: fanout}}\n\
         queues: {dead: {type: classic, bind: [{from: back}]}}\n",
    );
    machine.run("topology apply back.yaml --yes").ok();
    says(&machine.run("dlq plan dead --to-exchange back"), 0, &["comes back into the dead-letter"]);
    says(&machine.run("dlq plan dead --to-exchange deaf"), 0, &["to nobody", "are returned"]);
    says(&machine.run("dlq replay dead --to-exchange deaf --dry-run"), 0, &["to nobody"]);
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let machine = machine();
    machine.write(
        "bad.yaml",
        "apiVersion: nexus/v1\nkind: ReplayMap\nrules:\n  - {when: reasn, to: q}\n",
    );
    machine.write("gone.yaml", "apiVersion: nexus/v1\nkind: ReplayMap\notherwise: {to: nowhere}\n");
    machine.write("patch.json", "{\"op\": \"add\"}");
    machine.write("broken.json", "{\n  x");
    for (line, status, words) in [
        ("--map bad.yaml", 65, &["bad.yaml:4:", "did you mean `reason`"][..]),
        ("--map none.yaml", 65, &["none.yaml"]),
        ("--map gone.yaml", 1, &["`nowhere` does not exist"]),
        ("--set-header x-nexus-run=mine", 64, &["cannot be edited"]),
        ("--remove-header x-death", 64, &["cannot be edited"]),
        ("--set-header 'a=${headers.}'", 64, &["header `a`"]),
        ("--body-patch patch.json", 65, &["no JSON Patch"]),
        ("--body-patch broken.json", 65, &["broken.json:2:3"]),
        ("--schema patch.json", 64, &["neither --body nor --body-patch"]),
        ("--to-context nobody", 78, &["nobody"]),
        ("--to-broker nonsense", 64, &["--to-broker"]),
        ("--to-exchange nothing", 1, &["exchange `nothing` does not exist"]),
    ] {
        says(&machine.run(&format!("dlq plan dead {line}")), status, words);
        says(&machine.run(&format!("dlq replay dead --yes {line}")), status, words);
    }
    says(&machine.run("dlq plan dead --stored"), 1, &["was not scanned"]);
    says(&machine.run("dlq plan dead --scan 7"), 1, &["there is no scan 7"]);
    says(&machine.run("dlq plan none"), 1, &["queue `none` does not exist"]);
    says(&machine.run("dlq apply topology.yaml"), 65, &["no plan of dead letters"]);
    machine.write("other.json", "{\"apiVersion\":\"nexus/v1\",\"kind\":\"Plan\",\"format\":1}");
    says(&machine.run("dlq apply other.json"), 65, &["it has kind `Plan`"]);
    assert_eq!(machine.run("dlq plan dead -o json").json()["meant"], 3, "nothing was touched");
}

#[test]
fn an_edit_that_is_not_possible_leaves_the_letter() {
    let machine = machine();
    let plan = machine.run("dlq plan dead --body '{\"b\": body.a}' --out plan.json -o json").json();
    assert_eq!(plan["meant"], 2, "{plan:#}");
    assert_eq!(plan["stay"][0]["letters"], 1);
    assert!(plan["stay"][0]["what"].as_str().unwrap().starts_with("it cannot be edited so"));
    let ran = machine.run("dlq apply plan.json --yes --run e -o json");
    assert_eq!(ran.status, 0, "{}", ran.shown());
    assert_eq!(ran.json()["bodiesEdited"], 2);
    let bodies = machine.run("consume jobs --until-empty --format '{body}\\n'");
    says(&bodies, 0, &["{\"b\":1}", "{\"b\":2}"]);
    says(
        &machine.run("dlq replay dead --body 'body.a' --yes"),
        3,
        &["1 letter left: cannot be edited"],
    );
}
