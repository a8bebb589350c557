//! Contexts and settings.

use crate::harness::Machine;

const CONFIG: &str = "home/.config/nexusctl/config.yaml";

#[test]
fn a_context_is_added_used_shown_and_removed() {
    let machine = Machine::new();
    let added = machine.run(
        "context add prod --broker amqps://nexus@rabbit.example --vhost shop --protected \
         --password-file secret.txt --timeout 5s --use",
    );
    assert_eq!(
        added.shown(),
        "prod (in use)\n  broker: amqps://nexus@rabbit.example\n  vhost: shop\n  \
         password: file [root]/work/secret.txt\n  protected: yes\n  timeout: 5s\n\
         ------- stderr -------\ncontext `prod` is in [root]/home/.config/nexusctl/config.yaml\n"
    );
    machine.run("context add local --broker amqp://guest:guest@localhost").ok();
    assert_eq!(
        machine.run("context list").shown(),
        "   NAME   BROKER                        VHOST  NOTES\n\
         *  prod   amqps://nexus@rabbit.example  shop   protected\n   \
         local  amqp://guest:****@localhost\n"
    );
    assert_eq!(machine.run("context current").ok(), "prod\n");
    assert_eq!(machine.run("context use local").ok(), "local\n");
    assert_eq!(
        machine.run("context remove prod").shown(),
        "------- stderr -------\nerror: the context `prod` is protected\n\n\
         hint: nothing was changed; add `--confirm prod` to agree\n[exit status: 4]\n"
    );
    machine.run("context rm prod --confirm prod").ok();
    machine.run("context use --none").ok();
    assert_eq!(machine.run("context current").status, 2);
}

#[test]
fn settings_fold_in_order_and_tell_where_they_came_from() {
    let mut machine = Machine::new();
    machine
        .run(
            "context add prod --broker amqp://nexus@rabbit.example --timeout 5s --output json \
             --password-file secret.txt --vhost shop --use",
        )
        .ok();
    machine.write("nexus.yaml", "apiVersion: nexus/v1\nkind: Project\nname: shop\ntimeout: 1s\n");
    machine.set("NEXUSCTL_VHOST", "other");
    let shown = machine.run("context show --effective --read-only -o json").json();
    let settings: Vec<String> = shown["settings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| format!("{}={} ({})", s["name"], s["value"], s["origin"]).replace('"', ""))
        .collect();
    assert_eq!(
        settings,
        [
            "context=prod (current context)",
            "project=[root]/work (project nexus.yaml)",
            "amqp_url=amqp://nexus@rabbit.example (context prod)",
            "vhost=other (environment NEXUSCTL_VHOST)",
            "password=the file [root]/work/secret.txt (context prod)",
            "timeout=5s (context prod)",
            "protected=false (default)",
            "read_only=true (flag --read-only)",
            "output=json (flag --output)",
            "state=[root]/work/.nexus/state.db (default)",
        ]
    );
    // The context's output format is taken when nothing stronger is said.
    assert_eq!(machine.run("context show --effective").json()["kind"], "EffectiveSettings");
}

#[test]
fn another_broker_is_never_sent_the_contexts_password() {
    let machine = Machine::new();
    machine
        .run("context add prod --broker amqp://nexus@a --password-file secret --vhost shop --use")
        .ok();
    let shown = machine.run("context show --effective --broker amqp://b").ok();
    assert!(!shown.contains("secret") && !shown.contains("shop"), "{shown}");
    assert!(shown.contains("flag --broker"), "{shown}");
}

#[test]
fn a_misspelt_variable_and_a_password_on_the_command_line_are_warned_of() {
    let mut machine = Machine::new();
    machine.set("NEXUSCTL_TIMOUT", "3s");
    let ran = machine.run("context show --effective --broker amqp://u:hunter2@h");
    assert_eq!(
        ran.stderr,
        "warning: nothing reads the variable NEXUSCTL_TIMOUT; did you mean NEXUSCTL_TIMEOUT?\n\
         warning: the password in --broker can be seen by others in the list of processes; use \
         NEXUSCTL_PASSWORD, --password-stdin or a context with password_file\n"
    );
    assert!(!ran.stdout.contains("hunter2"));
    assert_eq!(machine.run("-q context show --effective").stderr, "");
}

#[test]
fn a_context_is_validated_step_by_step() {
    let machine = Machine::new();
    machine.run("context add scratch --broker embedded: --state state.db").ok();
    let shown = machine.run("context validate scratch --connect").ok();
    assert!(shown.starts_with("ok settings: broker embedded:\nok connection: embedded"), "{shown}");
    machine.run("context add far --broker amqp://nexus@127.0.0.1:1 --password-file secret").ok();
    let shown = machine.run("context validate far --connect");
    assert_eq!(
        shown.shown(),
        "ok settings: broker amqp://nexus@127.0.0.1:1\n\
         failed password: cannot read the password file [root]/work/secret: No such file or \
         directory (os error 2)\n[exit status: 78]\n"
    );
    machine.write("secret", "hunter2\n");
    let shown = machine.run("context validate far --connect");
    assert_eq!(shown.status, 69, "{}", shown.shown());
    assert!(shown.stdout.contains("failed connection: "), "{}", shown.stdout);
    assert!(!shown.shown().contains("hunter2"));
}

#[test]
fn a_dry_run_writes_no_context() {
    let machine = Machine::new();
    let ran = machine.run("context add a --broker embedded: --dry-run");
    assert!(ran.stderr.starts_with("context `a` would be in"), "{}", ran.shown());
    assert!(!machine.root().join(CONFIG).exists());
    machine.run("context add a --broker embedded:").ok();
    machine.run("context remove a --dry-run").ok();
    machine.run("context use a --dry-run").ok();
    assert_eq!(machine.run("context show a").ok(), "a\n  broker: embedded:\n");
}

#[test]
fn an_unknown_context_names_the_nearest() {
    let machine = Machine::new();
    machine.run("context add staging --broker embedded:").ok();
    assert_eq!(
        machine.run("context show --effective --context stagin").shown(),
        "------- stderr -------\nerror: there is no context `stagin`\n\n\
         hint: did you mean `staging`?\n[exit status: 78]\n"
    );
    assert_eq!(machine.run("context use nothing-like-it").status, 78);
}

#[test]
fn a_wrong_file_of_contexts_shows_every_finding_with_its_line() {
    let machine = Machine::new();
    let path = machine.root().join(CONFIG);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "curent: a\ncontexts:\n  a: {timeout: soon}\n").unwrap();
    let ran = machine.run("context list");
    assert_eq!(ran.status, 78);
    assert!(ran.stderr.contains("config.yaml:1:1"), "{}", ran.stderr);
    assert!(ran.stderr.contains("config.yaml:3:16"), "{}", ran.stderr);
    assert!(ran.stderr.contains("did you mean `current`?"), "{}", ran.stderr);
}

#[test]
fn a_context_that_could_not_be_used_is_not_added() {
    let machine = Machine::new();
    for line in [
        "context add 'a b' --broker embedded:",
        "context add a --broker http://host:15672",
        "context add a --broker amqp://host/",
        "context add a --management-url amqp://host",
        "context add a --password-stdin",
    ] {
        let ran = machine.run(line);
        assert!(matches!(ran.status, 64 | 78), "{line}: {}", ran.shown());
        assert!(ran.stderr.contains("hint: "), "{line}: {}", ran.shown());
    }
    assert!(!machine.root().join(CONFIG).exists());
    machine.run("context add a --broker embedded:").ok();
    assert_eq!(machine.run("context add a --broker embedded:").status, 1);
    machine.run("context add a --broker embedded: --replace").ok();
}

#[test]
fn an_empty_vhost_is_a_bad_setting_wherever_it_was_said() {
    let mut machine = Machine::new();
    let flag = machine.run("topology export --broker amqp://host/");
    assert_eq!(
        flag.shown(),
        "------- stderr -------\nerror: flag --broker: the vhost is empty\n\n\
         hint: leave the slash off for /, or write %2F\n[exit status: 78]\n"
    );
    machine.set("NEXUSCTL_BROKER", "amqp://host/");
    let variable = machine.run("topology export");
    assert_eq!(variable.status, 78);
    assert!(variable.stderr.contains("environment NEXUSCTL_BROKER: the vhost is empty"));
    // What is no URL at all is still wrong usage of the flag.
    assert_eq!(machine.run("topology export --broker nonsense").status, 64);
}
