//! Every example of every `--help` is run in a project on the embedded broker, and every document that
//! `-o json` prints is checked against its published schema.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use nexus::base::time::Timestamp;
use nexus::resilience::{SequenceSettings, SharedState};
use serde_json::Value;

use crate::harness::{Machine, Ran, split};
use crate::shell::leaves;

/// The lines below `Examples:` of each command, by its name.
fn examples() -> BTreeMap<String, Vec<String>> {
    let mut found = Vec::new();
    leaves(&nexus::cli::command(), "", &mut found);
    found
        .into_iter()
        .map(|(name, command)| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines = help.split_once("Examples:").map_or("", |(_, lines)| lines);
            let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
            (name, lines.map(str::to_owned).collect())
        })
        .collect()
}

/// A project whose topology is applied, with a few messages, and every file that examples name.
fn prepared() -> Machine {
    let machine = Machine::new();
    machine.run("init . --name shop").ok();
    let project = machine.read("nexus.yaml");
    let more = "limits:\n  api: {capacity: 60, perSecond: 1}\ncircuits:\n  payments: {}\n";
    machine.write("nexus.yaml", &format!("{project}{more}"));
    machine.run("topology apply").ok();
    machine.run("publish nexus.agents worker hello --count 12").ok();
    machine.write(
        "journal.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: billing}\njournal: true\n\
         exchanges: {orders: {type: topic}}\nqueues: {billing: {bind: [{from: orders, key: '#'}]}}\n",
    );
    machine.run("topology apply journal.yaml").ok();
    machine.write(
        "lab.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {owner: lab}\n\
         queues: {dead.poison: {}, dead.samples: {}, dead.later: {}, dead.lab: {}}\n",
    );
    machine.run("topology apply lab.yaml").ok();
    let order = "publish orders order.new '{}' --type order --sender shop --workflow checkout-7";
    machine.run(&format!("{order} --sequence 1 --count 3")).ok();
    machine.run("context add local --broker embedded:").ok();
    machine.run("context add staging --broker embedded:").ok();
    machine.run("context add scratch --broker embedded:").ok();
    machine.run("context add prod --broker embedded: --protected").ok();
    machine.run("context use --none").ok();
    let replay = "dlq replay dead.agent.worker --to agent.worker --run night-1 --yes";
    machine.run(replay).ok();
    machine.run("dlq plan dead.agent.worker --to agent.worker --out plan.json").ok();
    follow_a_workflow(&machine.path(".nexus/state.db"));
    machine.write("bodies.txt", "one\ntwo\n");
    machine.script("handle.sh", "cat >/dev/null");
    machine.script(
        "agent.sh",
        "while read -r line; do id=${line#*:}; echo \"{\\\"id\\\":${id%%,*}}\"; done",
    );
    let record = r#"{"exchange":"nexus.agents","routingKey":"worker","body":"three"}"#;
    machine.write("messages.ndjson", &format!("{record}\n{{\n"));
    let played = |ms: u32| {
        format!(
            "{{\"receivedAt\":\"2023-11-14T22:13:20.{ms:03}Z\",\"exchange\":\"nexus.agents\",\
             \"routingKey\":\"worker\",\"body\":{ms}}}\n"
        )
    };
    machine.write("recording.ndjson", &[0, 40, 90].map(played).concat());
    machine.write(
        "definitions.json",
        r#"{"queues":[{"name":"q","vhost":"/","durable":true,"auto_delete":false,
            "arguments":{"x-queue-type":"quorum"}}],"exchanges":[],"bindings":[],"policies":[]}"#,
    );
    machine
}

/// Leaves what a worker leaves that has seen a workflow with gaps.
fn follow_a_workflow(state: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let state = SharedState::open(state, Duration::from_secs(20)).await.unwrap();
        let numbers = [1, 2, 5].map(|number| ("order-17".to_owned(), number)).to_vec();
        let now = Timestamp::from_unix_ms(1_700_000_000_000);
        state.processed("agent.worker", numbers, SequenceSettings::default(), now).await.unwrap();
    });
}

/// Examples whose verdict is no, by design.
fn expected_status(line: &str) -> u8 {
    match line {
        // Changes are pending: the prepared file was changed on purpose.
        _ if line.contains("--exit-code") => 2,
        // One line of messages.ndjson is bad.
        _ if line.contains("--records -f messages.ndjson") => 3,
        // There is no terminal.
        _ if line.starts_with("nexusctl dlq browse") => 64,
        // No context is in use in the prepared project.
        _ if line.starts_with("nexusctl context current") => 2,
        _ => 0,
    }
}

fn run_example(line: &str) -> (Machine, Ran) {
    let mut machine = prepared();
    if line.contains("--exit-code") {
        let text = machine.read("topology.yaml").replace("[planner, worker]", "[planner]");
        machine.write("topology.yaml", &text);
    }
    if line.contains("context remove")
        || line.contains("context use")
        || line.contains("show local")
    {
        machine.run("context use local").ok();
    }
    if line.contains("context add") {
        for name in ["local", "scratch", "prod"] {
            machine.run(&format!("context remove {name} --confirm {name}")).ok();
        }
    }
    if line.contains("nexusctl dlq") {
        let failed = machine.run("worker agent.worker --until-empty --reject -- sh -c 'exit 65'");
        assert!(matches!(failed.status, 0 | 3), "{}", failed.shown());
        machine.run("dlq scan dead.agent.worker").ok();
    }
    if line.contains("dlq undo") {
        machine.run("dlq replay dead.agent.worker --run night-2 --yes").ok();
    }
    if line.contains("dlq import") {
        machine.run("dlq drop dead.agent.worker --bundle poison.ndjson --run d --yes").ok();
    }
    if line.contains("incident show") {
        machine.run("dlq incident export night.ndjson").ok();
    }
    if line.contains("destroy") {
        machine.run("consume agent.worker --until-empty -q").ok();
    }
    // The second run of a line finds what the first one made.
    if line.contains("nexusctl record") {
        for name in ["events.ndjson", "tasks.ndjson", "worker.ndjson"] {
            let _ = std::fs::remove_file(machine.path(name));
        }
    }
    // Somebody who answers, wherever an example asks.
    let _responder = line.contains("nexusctl request").then(|| {
        machine.real_time = true;
        machine.run("consume agent.worker --until-empty -q").ok();
        machine.respond("agent.worker", "done")
    });
    let words = split(line);
    assert_eq!(words[0], "nexusctl", "{line}");
    let args: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let ran = machine.run_args(&args, b"");
    (machine, ran)
}

/// One thread for each core is enough; a project each keeps them apart.
fn for_each_example(check: impl Fn(&str, &str, Ran) -> Result<(), String> + Sync) {
    let all: Vec<(String, String)> = examples()
        .into_iter()
        .flat_map(|(name, lines)| lines.into_iter().map(move |line| (name.clone(), line)))
        .collect();
    assert!(all.len() > 40, "{}", all.len());
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for part in all.chunks(all.len().div_ceil(2)) {
            let (check, wrong) = (&check, &wrong);
            scope.spawn(move || {
                for (name, line) in part {
                    let (machine, ran) = run_example(line);
                    if let Err(why) = check(name, line, ran) {
                        wrong.lock().unwrap().push(machine.redact(&format!("{line}\n{why}")));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n======\n"));
}

#[test]
fn every_example_of_every_help_runs() {
    for_each_example(
        |_, line, ran| {
            if ran.status == expected_status(line) { Ok(()) } else { Err(ran.shown()) }
        },
    );
}

/// Commands whose stdout is not one of our documents, whatever is asked for, or is one only on a
/// terminal.
const NO_DOCUMENT: [&str; 3] = ["completions", "man", "dlq browse"];
/// Commands whose JSON is the file they are about.
const FILES: [&str; 3] = ["topology render", "topology export", "topology import"];

#[test]
fn the_json_of_every_command_keeps_its_published_schema() {
    let output: BTreeMap<_, Value> = nexus::cli::schemas::output().into_iter().collect();
    let files: BTreeMap<_, Value> = nexus::cli::schemas::files().into_iter().collect();
    let seen = std::sync::Mutex::new(BTreeSet::new());
    for_each_example(|name, line, _| {
        if NO_DOCUMENT.contains(&name) || line.contains("--raw") || line.contains("--format") {
            return Ok(());
        }
        if line.contains("--out ") {
            return Ok(());
        }
        // What follows a `--` is another program's.
        let (ours, other) = line.split_once(" -- ").unwrap_or((line, ""));
        let rest = if other.is_empty() { String::new() } else { format!(" -- {other}") };
        let (_, ran) = run_example(&format!("{ours} -o json{rest}"));
        let document: Value =
            serde_json::from_str(&ran.stdout).map_err(|e| format!("{e}\n{}", ran.shown()))?;
        let kind = document["kind"].as_str().unwrap_or_default();
        let schemas = if FILES.contains(&name) { &files } else { &output };
        let schema = schemas.get(kind).ok_or_else(|| format!("no schema of kind `{kind}`"))?;
        let validator = jsonschema::validator_for(schema).map_err(|e| e.to_string())?;
        let wrong: Vec<String> = validator
            .iter_errors(&document)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        seen.lock().unwrap().insert(name.to_owned());
        if wrong.is_empty() { Ok(()) } else { Err(format!("{}\n{document:#}", wrong.join("\n"))) }
    });
    let seen = seen.into_inner().unwrap();
    let mut all = Vec::new();
    leaves(&nexus::cli::command(), "", &mut all);
    let missed: Vec<&String> = all
        .iter()
        .map(|(name, _)| name)
        .filter(|name| !NO_DOCUMENT.contains(&name.as_str()) && !seen.contains(*name))
        .collect();
    assert!(missed.is_empty(), "no JSON of these was checked: {missed:?}");
}
