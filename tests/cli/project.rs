//! `init`, `check` and `quickstart`.

use crate::harness::Machine;
use crate::support::Node;

#[test]
fn a_new_project_is_ready_to_apply_and_is_never_overwritten() {
    let machine = Machine::new();
    assert_eq!(
        machine.run("init shop").ok(),
        "wrote shop/nexus.yaml\nwrote shop/topology.yaml\nwrote shop/workers/handle.sh\n\
         wrote shop/.gitignore\n\nnext:\n  \
         nexusctl topology plan --project shop\n  nexusctl topology apply --project shop\n  \
         nexusctl publish nexus.agents worker ok --project shop\n  \
         nexusctl worker agent.worker --project shop -- shop/workers/handle.sh\n"
    );
    assert_eq!(machine.run("check --project shop --strict").status, 0);
    machine.run("topology apply --project shop").ok();
    assert!(machine.path("shop/.nexus/state.db").exists());
    let again = machine.run("init shop");
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("shop/nexus.yaml"), "{}", again.stderr);
    assert_eq!(machine.run("init plain --preset plain --dry-run").status, 0);
    assert!(!machine.path("plain").exists());
}

/// The next steps as they are told, and then one message of each kind: done, retried, poison.
#[test]
fn a_new_project_has_a_worker_that_retries_and_dead_letters() {
    for (preset, dir, to, dead) in [
        ("agents", "shop", "nexus.agents worker", "dead.agent.worker"),
        ("plain", "'my shop'", "shop.events hello", "dead.shop.inbox"),
    ] {
        let mut machine = Machine::new();
        machine.real_time = true;
        let made = machine.run(&format!("init {dir} --name shop --preset {preset} -o json")).json();
        let next = made["next"].as_array().unwrap();
        let next: Vec<&str> = next.iter().map(|line| line.as_str().unwrap()).collect();
        let (worker, before) = next.split_last().unwrap();
        for line in before {
            machine.run(line.strip_prefix("nexusctl ").unwrap()).ok();
        }
        for body in ["later", "poison"] {
            machine.run(&format!("publish {to} {body} --project {dir}")).ok();
        }
        let worker = worker.replace("nexusctl worker", "worker --until-empty --backoff 1ms");
        let ran = machine.run(&worker);
        assert_eq!(ran.status, 3, "{}", ran.shown());
        assert_eq!(ran.stdout, "handled ok\nhandled later\n");
        assert!(ran.stderr.contains("2 messages done, 1 dead-lettered"), "{}", ran.stderr);
        assert!(ran.stderr.contains("2 attempts of 4 failed"), "{}", ran.stderr);
        let why = "{body}: {headers.x-nexus-death-code}: {headers.x-nexus-death-error}";
        let line =
            format!("consume {dead} --until-empty --expect 1 --format '{why}' --project {dir}");
        let dead = machine.run(&line).ok();
        assert_eq!(dead, "poison: exit 65: this message can never be handled");
    }
}

#[test]
fn a_handler_that_is_there_is_not_overwritten() {
    let machine = Machine::new();
    machine.write("shop/workers/handle.sh", "mine");
    let ran = machine.run("init shop");
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("shop/workers/handle.sh"), "{}", ran.stderr);
    assert_eq!(machine.read("shop/workers/handle.sh"), "mine");
    assert!(!machine.path("shop/nexus.yaml").exists());
}

#[test]
fn check_shows_everything_that_is_wrong_at_once() {
    let machine = Machine::new();
    assert_eq!(machine.run("check").status, 65);
    machine.run("init . --name shop").ok();
    machine.write("nexus.yaml", "apiVersion: nexus/v1\nkind: Project\nnam: x\n");
    let ran = machine.run("check -o json");
    assert_eq!(ran.status, 2);
    let findings = ran.json()["findings"].as_array().unwrap().len();
    assert_eq!(findings, 2, "{}", ran.shown());
}

#[test]
fn the_quickstart_loses_nothing_and_leaves_nothing() {
    let mut machine = Machine::new();
    machine.real_time = true;
    let tmp = machine.path("tmp");
    std::fs::create_dir(&tmp).unwrap();
    machine.set("TMPDIR", &tmp.display().to_string());
    let ran = machine.run("quickstart -o json");
    assert_eq!(ran.status, 0, "{}", ran.shown());
    let report = ran.json();
    assert_eq!(report["published"], 1000);
    assert_eq!(report["consumed"], 990);
    assert_eq!(report["rejected"], 10);
    assert_eq!(report["deadLettered"], 10);
    what_the_worker_made(&report["worker"]);
    what_became_of_the_dead_letters(&report);
    assert_eq!(report["cleanedUp"], true);
    assert!(report["elapsedMs"].as_u64().unwrap() < 10_000);
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}

#[track_caller]
fn what_the_worker_made(worker: &serde_json::Value) {
    let expected = serde_json::json!({
        "published": 20,
        "done": 18,
        "attempts": 24,
        "retried": 4,
        "deadLettered": 2,
        "firstDeath": {
            "messageId": "order-10",
            "code": "exit 65",
            "attempts": 1,
            "error": "nobody can read the address of this order",
        },
    });
    assert_eq!(*worker, expected);
}

/// They are found, told apart by why they died, sent back, and none is left.
#[track_caller]
fn what_became_of_the_dead_letters(report: &serde_json::Value) {
    assert_eq!((&report["replayed"], &report["mended"]), (&12.into(), &12.into()));
    let shown = |word: &str| {
        let mut steps = report["steps"].as_array().unwrap().iter();
        let is_it = |step: &&serde_json::Value| step["command"].as_str().unwrap().contains(word);
        let step = steps.find(is_it).unwrap_or_else(|| panic!("no {word} in {report:#}"));
        step["result"].as_str().unwrap().to_owned()
    };
    assert!(shown(" dlq list ").contains(".rejected"), "{}", shown(" dlq list "));
    assert!(shown(" dlq scan ").contains("12 letters"), "{}", shown(" dlq scan "));
    let groups = shown(" dlq groups ");
    assert!(groups.contains("nobody can read the address of this order"), "{groups}");
    let has_row = |many: &str, reason: &str| {
        groups.lines().any(|line| line.contains(many) && line.contains(reason))
    };
    assert!(has_row(" 10 ", " rejected ") && has_row(" 2 ", " poison (exit 65) "), "{groups}");
    assert!(shown(" dlq plan ").contains("replay 12 letters"), "{}", shown(" dlq plan "));
    assert!(shown(" --yes ").contains("12 letters of queue"), "{}", shown(" --yes "));
    assert!(shown(" queue list ").ends_with("0 dead letters, nothing lost"));
}

#[test]
fn each_command_that_the_quickstart_shows_can_be_typed() {
    let mut machine = Machine::new();
    machine.real_time = true;
    let kept = machine.run("quickstart --dir demo --keep -o json").json();
    machine.run("topology destroy --lose-messages --yes --project demo").ok();
    let mut reasons = 0;
    for step in kept["steps"].as_array().unwrap() {
        let line = step["command"].as_str().unwrap().strip_prefix("nexusctl ").unwrap();
        let ran = machine.run(line);
        let is_worker = line.starts_with("worker ");
        let is_mended = line.ends_with(" mended") && is_worker;
        let expected = if is_worker && !is_mended { 3 } else { 0 };
        assert_eq!(ran.status, expected, "{line}\n{}", ran.shown());
        if is_mended {
            assert!(ran.stderr.contains("12 messages done"), "{}", ran.stderr);
        } else if is_worker {
            assert!(ran.stderr.contains("18 messages done, 2 dead-lettered"), "{}", ran.stderr);
        }
        if line.contains("--format") {
            assert_eq!(ran.stdout.trim_end(), step["result"], "{line}");
            assert_eq!(ran.stdout.lines().count(), 2);
            reasons += 1;
        }
    }
    assert_eq!(reasons, 1);
    assert_eq!(machine.run("quickstart --dir demo").status, 1);
}

#[test]
fn the_quickstart_runs_on_rabbitmq_and_leaves_nothing() {
    for version in ["3_10", "4_0"] {
        let Some(node) = Node::from_env(version) else { continue };
        let vhost = node.vhost("quickstart");
        let mut machine = Machine::new();
        machine.real_time = true;
        machine.set("NEXUSCTL_BROKER", &vhost.amqp_url());
        machine.set("NEXUSCTL_MANAGEMENT_URL", &vhost.management_url());
        let before = machine.run("topology export -q").ok();
        let ran = machine.run(&format!("quickstart --name quickstart-{version} -o json"));
        assert_eq!(ran.status, 0, "{}", ran.shown());
        assert_eq!(ran.json()["deadLettered"], 10);
        what_the_worker_made(&ran.json()["worker"]);
        what_became_of_the_dead_letters(&ran.json());
        let after = machine.run("topology export -q").ok();
        assert!(!after.contains(&format!("quickstart-{version}")), "{before}\n{after}");
    }
}

#[test]
fn a_dry_quickstart_makes_nothing() {
    let machine = Machine::new();
    let ran = machine.run("quickstart --dir demo --name demo --dry-run").ok();
    assert!(ran.contains("a project in demo\n") && ran.contains("begin with `demo`"), "{ran}");
    assert!(!machine.path("demo").exists());
    let far = machine.run("quickstart --dry-run --broker amqp://u:p@127.0.0.1:1 -o json").json();
    assert_eq!(far["broker"], "amqp://u:****@127.0.0.1:1");
}

#[test]
fn paths_are_shown_as_they_were_given_and_can_be_typed() {
    let machine = Machine::new();
    let made = machine.run("init 'my shop' --name shop").ok();
    assert!(made.contains("nexusctl topology plan --project 'my shop'\n"), "{made}");
    machine.run("init -q").ok();
    let again = machine.run("init");
    assert!(again.stderr.contains("already: nexus.yaml, topology.yaml"), "{}", again.stderr);
}
