//! `init`, `check` and `quickstart`.

use crate::harness::Machine;
use crate::support::Node;

#[test]
fn a_new_project_is_ready_to_apply_and_is_never_overwritten() {
    let machine = Machine::new();
    assert_eq!(
        machine.run("init shop").ok(),
        "wrote shop/nexus.yaml\nwrote shop/topology.yaml\nwrote shop/.gitignore\n\nnext:\n  \
         nexusctl topology plan --project shop\n  nexusctl topology apply --project shop\n"
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
    assert_eq!(report["cleanedUp"], true);
    assert!(report["elapsedMs"].as_u64().unwrap() < 10_000);
    assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0);
}

#[test]
fn each_command_that_the_quickstart_shows_can_be_typed() {
    let mut machine = Machine::new();
    machine.real_time = true;
    let kept = machine.run("quickstart --dir demo --keep -o json").json();
    machine.run("topology destroy --lose-messages --yes --project demo").ok();
    for step in kept["steps"].as_array().unwrap() {
        let line = step["command"].as_str().unwrap().strip_prefix("nexusctl ").unwrap();
        let ran = machine.run(line);
        assert_eq!(ran.status, 0, "{line}\n{}", ran.shown());
    }
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
