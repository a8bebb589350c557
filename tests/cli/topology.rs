//! Topology from the command line, on the embedded broker.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nexus::cli::signals::Signal;

use crate::harness::Machine;
use crate::process::{command, finish, signal};

const FILE: &str = "apiVersion: nexus/v1
kind: Topology
metadata: {name: shop}
exchanges:
  events: {type: topic}
queues:
  orders:
    bind: [{from: events, key: order.*}]
    deadLetter: true
    maxLength: 100
";

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write("topology.yaml", FILE);
    machine
}

#[test]
fn a_plan_shows_what_comes_and_a_second_apply_has_nothing_to_do() {
    let machine = machine();
    assert_eq!(
        machine.run("topology plan --exit-code").shown(),
        "  + create exchange `events`\n  \
         + create exchange `dead_letter`  (deadLetter of queue orders)\n  \
         + create queue `orders`\n  \
         + create queue `dead.orders`  (deadLetter of queue orders)\n  \
         + create binding `events -> queue orders by order.*`\n  \
         + create binding `dead_letter -> queue dead.orders by orders`  (deadLetter of queue orders)\n\
         \nthe embedded broker: 6 to create\n[exit status: 2]\n"
    );
    let applied = machine.run("topology apply -o json").json();
    assert_eq!((&applied["complete"], &applied["changed"]), (&true.into(), &6.into()));
    assert_eq!(machine.run("topology apply").ok(), "the embedded broker: nothing to change\n");
    assert_eq!(
        machine.run("topology diff").ok(),
        "the embedded broker: 0 changed, 0 missing, 0 extra\n"
    );
    let applied = machine.run("topology apply -o json").json();
    assert_eq!(applied["requests"], 0);
}

#[test]
fn a_saved_plan_runs_and_a_stale_one_is_refused_naming_the_object() {
    let machine = machine();
    machine.run("topology plan --out plan.json").ok();
    machine.run("topology apply plan.json").ok();
    let stale = machine.run("topology apply plan.json");
    assert_eq!(stale.status, 4, "{}", stale.shown());
    assert!(stale.stderr.contains("exchange `events`"), "{}", stale.stderr);
    let text = machine.read("plan.json").replace("orders", "others");
    machine.write("plan.json", &text);
    let edited = machine.run("topology apply plan.json");
    assert_eq!(edited.status, 65, "{}", edited.shown());
}

#[test]
fn without_a_terminal_nothing_is_lost_unless_agreed() {
    let machine = machine();
    machine.run("topology apply").ok();
    machine.run("publish events order.new hello").ok();
    let refused = machine.run("topology destroy --lose-messages");
    assert_eq!(refused.status, 4, "{}", refused.shown());
    assert!(refused.stderr.contains("queue `orders`: "), "{}", refused.stderr);
    assert!(refused.stderr.contains("add `--yes` to agree"), "{}", refused.stderr);
    assert_eq!(machine.run("topology diff").status, 0);
    let blocked = machine.run("topology destroy --yes");
    assert_eq!(blocked.status, 4, "{}", blocked.shown());
    machine.run("topology destroy --lose-messages --yes").ok();
    assert_eq!(machine.run("topology diff").status, 2);
}

#[test]
fn a_run_that_is_asked_to_stop_changes_nothing_and_says_so() {
    let mut machine = machine();
    machine.run("topology apply").ok();
    machine.write("topology.yaml", &FILE.replace("orders:", "others:"));
    machine.stop.ask(Signal::Terminate);
    for line in ["topology apply", "topology plan", "consume orders --dry-run"] {
        assert_eq!(
            machine.run(line).shown(),
            "------- stderr -------\nerror: stopped before anything was changed\n\
             [exit status: 143]\n",
            "{line}"
        );
    }
    machine.stop = Default::default();
    assert_eq!(machine.run("topology diff").status, 2);
    machine.run("topology apply").ok();
    assert_eq!(machine.run("topology diff").status, 0);
}

/// The lock is held by a process that waits for its output to be read: far longer than this test.
#[test]
fn one_signal_ends_the_wait_for_somebody_elses_lock_at_once() {
    let machine = machine();
    let holder = machine.hold_the_lock();
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        let mut child = command(&machine, &["topology", "apply", "--lock-timeout", "1h"])
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Once it says that it waits, the handler is in.
        let mut line = String::new();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
        assert!(line.starts_with("waiting for the test, since "), "{line}");
        let asked = Instant::now();
        signal(&child, name);
        let output = finish(child);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(output.status.code(), Some(status));
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
        let last = "error: stopped while waiting for the lock; nothing was changed\n";
        assert!(rest.ends_with(last), "{rest}");
    }
    drop(holder);
    machine.run("topology apply").ok();
}

#[test]
fn a_broker_that_never_answers_is_given_up_after_the_timeout() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let machine = machine();
    let started = Instant::now();
    let ran = machine.run(&format!("topology plan --timeout 500ms --broker amqp://{address}"));
    assert_eq!(ran.status, 69, "{}", ran.shown());
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[test]
fn a_person_is_asked_and_may_say_no() {
    let mut machine = machine();
    machine.run("topology apply").ok();
    machine.run("publish events order.new hello").ok();
    machine.terminal = true;
    machine.set("NO_COLOR", "1");
    let refused = machine.run_with("topology destroy --lose-messages --no-progress", b"n\n");
    assert_eq!(refused.status, 4);
    assert!(refused.stderr.contains("Go on? [y/N] "), "{}", refused.stderr);
    let agreed = machine.run_with("topology destroy --lose-messages --no-progress", b"yes\n");
    assert_eq!(agreed.status, 0, "{}", agreed.shown());
}

#[test]
fn a_protected_context_wants_its_name_and_yes_is_not_enough() {
    let machine = machine();
    machine.run("context add prod --broker embedded: --protected --use").ok();
    machine.run("topology plan").ok();
    let refused = machine.run("topology apply --yes");
    assert_eq!(refused.status, 4);
    assert!(refused.stderr.contains("add `--confirm prod` to agree"), "{}", refused.stderr);
    assert_eq!(machine.run("topology apply --confirm staging").status, 4);
    machine.run("topology apply --confirm prod").ok();
}

#[test]
fn a_read_only_context_refuses_every_change() {
    let machine = machine();
    machine.run("topology apply").ok();
    machine.run("publish events order.new hello").ok();
    machine.run("topology plan --read-only").ok();
    machine.write("topology.yaml", &FILE.replace("orders:", "others:"));
    for line in [
        "topology apply --read-only",
        "publish events order.new hello --read-only",
        "consume orders --until-empty --read-only",
    ] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 77, "{line}: {}", ran.shown());
    }
    assert_eq!(machine.run("consume orders --until-empty -q").ok().lines().count(), 1);
}

#[test]
fn a_wrong_file_shows_all_findings_with_their_lines() {
    let machine = machine();
    machine
        .write("topology.yaml", &FILE.replace("maxLength", "maxLenght").replace("topic", "tropic"));
    let ran = machine.run("topology validate");
    assert_eq!(ran.status, 2);
    assert!(ran.stdout.contains("topology.yaml:10:5"), "{}", ran.stdout);
    assert!(ran.stdout.contains("did you mean `maxLength`?"), "{}", ran.stdout);
    let ran = machine.run("topology plan");
    assert_eq!((ran.status, ran.stdout.as_str()), (65, ""));
    assert!(ran.stderr.contains("topology.yaml:10:5"), "{}", ran.stderr);
    let ran = machine.run("topology plan nowhere.yaml");
    assert_eq!(ran.status, 65, "{}", ran.shown());
}

#[test]
fn what_is_exported_plans_to_nothing() {
    let machine = machine();
    machine.run("topology apply").ok();
    let exported = machine.run("topology export -q --owner shop").ok();
    machine.write("exported.yaml", &exported);
    let plan = machine.run("topology plan exported.yaml --exit-code");
    assert_eq!(plan.status, 0, "{}", plan.shown());
}

#[test]
fn variables_are_set_on_the_command_line_and_unknown_ones_are_errors() {
    let machine = machine();
    machine.write(
        "topology.yaml",
        &FILE
            .replace("maxLength: 100", "maxLength: ${ limit }")
            .replace("exchanges:", "variables: {limit: 5}\nexchanges:"),
    );
    assert!(machine.run("topology render").ok().contains("maxLength: 5"));
    assert!(machine.run("topology render --set limit=7").ok().contains("maxLength: 7"));
    assert_eq!(machine.run("topology render --set limt=7").status, 65);
    assert_eq!(machine.run("topology render --set limit").status, 64);
}

#[test]
fn a_route_says_which_queues_get_it_and_status_2_when_none_does() {
    let machine = machine();
    assert_eq!(
        machine.run("topology route events order.new").ok(),
        "`order.new` to exchange `events`:\n  exchange `events` → queue `orders` by `order.*`\n\n\
         queue orders (quorum)\n  \
         rejected (when a consumer rejects it without requeue): dead-lettered to exchange \
         `dead_letter` by `orders`\n    queue dead.orders (quorum)\n      \
         rejected (when a consumer rejects it without requeue): dropped\n      \
         delivery_limit (after it came back 1000000 times and once more): dropped\n  \
         maxlen (when it is the oldest and more than 100 messages wait): dead-lettered to exchange \
         `dead_letter` by `orders`\n    queue dead.orders (quorum)\n      \
         rejected (when a consumer rejects it without requeue): dropped\n      \
         delivery_limit (after it came back 1000000 times and once more): dropped\n  \
         delivery_limit (after it came back 20 times and once more): dead-lettered to exchange \
         `dead_letter` by `orders`\n    queue dead.orders (quorum)\n      \
         rejected (when a consumer rejects it without requeue): dropped\n      \
         delivery_limit (after it came back 1000000 times and once more): dropped\n\nreaches 1 queue\n"
    );
    assert_eq!(machine.run("topology route events customer.new").status, 2);
}

#[test]
fn no_limit_is_said_by_leaving_the_key_out() {
    let machine = machine();
    machine.write("topology.yaml", &FILE.replace("maxLength: 100", "maxLength: -1"));
    let ran = machine.run("topology validate");
    assert_eq!(ran.status, 2);
    assert!(ran.stdout.contains("the number must be 0 or more"), "{}", ran.stdout);
    assert!(ran.stdout.contains("for no limit, leave the key out"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("18446744073709551615"), "{}", ran.stdout);
    machine.write("topology.yaml", &FILE.replace("maxLength: 100", "maxLengthBytes: -2"));
    let ran = machine.run("topology validate");
    assert!(ran.stdout.contains("the number must be 0 or more"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("no limit"), "{}", ran.stdout);
}

#[test]
fn an_explanation_says_which_broker_it_is_about() {
    let machine = machine();
    machine.run("topology apply -q").ok();
    let first = |line: &str| machine.run(line).ok().lines().next().unwrap().to_owned();
    assert_eq!(
        first("topology explain queue orders --live"),
        "queue orders on the embedded broker, which imitates RabbitMQ 4.0"
    );
    assert_eq!(
        first("topology explain queue orders --target 3.10"),
        "queue orders by the rules of RabbitMQ 3.10"
    );
    let live = machine.run("topology explain queue orders --live -o json").json();
    assert_eq!((&live["broker"], &live["version"]), (&"embedded".into(), &"4.0.5".into()));
    let files = machine.run("topology explain queue orders -o json").json();
    assert_eq!(files["broker"], serde_json::Value::Null);
}

/// What a cluster of fifty vhosts exports, 20 MB of it.
fn definitions(vhosts: usize, queues: usize) -> String {
    let (mut all_queues, mut bindings, mut names) = (String::new(), String::new(), String::new());
    for vhost in 0..vhosts {
        write!(names, "{}{{\"name\":\"v{vhost}\"}}", if vhost == 0 { "" } else { "," }).unwrap();
        for queue in 0..queues {
            let comma = if vhost + queue == 0 { "" } else { "," };
            write!(
                all_queues,
                "{comma}{{\"name\":\"tenant.{vhost}.orders.{queue}\",\"vhost\":\"v{vhost}\",\
                 \"durable\":true,\"auto_delete\":false,\"arguments\":{{\"x-queue-type\":\"quorum\",\
                 \"x-dead-letter-exchange\":\"amq.fanout\",\"x-delivery-limit\":10}}}}"
            )
            .unwrap();
            write!(
                bindings,
                "{comma}{{\"source\":\"amq.topic\",\"vhost\":\"v{vhost}\",\
                 \"destination\":\"tenant.{vhost}.orders.{queue}\",\
                 \"destination_type\":\"queue\",\"routing_key\":\"orders.{queue}.*\",\
                 \"arguments\":{{}}}}"
            )
            .unwrap();
        }
    }
    format!("{{\"vhosts\":[{names}],\"queues\":[{all_queues}],\"bindings\":[{bindings}]}}")
}

#[test]
fn the_definitions_of_a_big_cluster_are_imported() {
    let machine = Machine::new();
    let text = definitions(50, 1300);
    assert!(text.len() > 20_000_000, "{}", text.len());
    machine.write("definitions.json", &text);
    let several = machine.run("topology import definitions.json");
    assert_eq!(several.status, 65);
    assert!(several.stderr.contains("say which with --vhost"), "{}", several.stderr);
    let yaml = machine.run("topology import definitions.json --vhost v7 -q").ok();
    machine.write("v7.yaml", &yaml);
    let rendered = machine.run("topology render v7.yaml -o json").json();
    assert_eq!(rendered["queues"].as_object().unwrap().len(), 1300);
    assert_eq!(rendered["queues"]["tenant.7.orders.1299"]["deliveryLimit"], 10);
    assert_eq!(yaml.matches("orders.1299.*").count(), 1);
}

#[test]
fn a_topology_that_no_command_would_read_back_is_warned_of() {
    let machine = Machine::new();
    machine.write("definitions.json", &definitions(1, 50_000));
    let ran = machine.run("topology import definitions.json");
    assert_eq!(ran.status, 0);
    assert!(ran.stdout.len() > 8 << 20, "{}", ran.stdout.len());
    assert!(ran.stderr.contains("may have 8MiB: split it"), "{}", ran.stderr);
}

#[test]
fn every_command_that_changes_something_can_be_tried_dry() {
    // Each asks a broker, writes files or keeps contexts; the rest only looks.
    let looks = [
        "check",
        "circuit list",
        "circuit show",
        "completions",
        "context current",
        "context list",
        "context show",
        "context validate",
        "dlq audit head",
        "dlq audit list",
        "dlq audit verify",
        // Scans only once its cost was agreed to.
        "dlq browse",
        "dlq diff",
        "dlq doctor",
        "dlq groups",
        "dlq incident export",
        "dlq incident show",
        "dlq letters",
        "dlq list",
        // What its look costs, `dlq scan --dry-run` says.
        "dlq plan",
        "dlq run show",
        "dlq runs",
        "dlq show",
        "explain",
        "limit list",
        "limit show",
        "journal list",
        "journal show",
        "man",
        "queue find",
        "queue list",
        "queue show",
        "sequence list",
        "sequence show",
        "topology diff",
        "topology explain",
        "topology export",
        "topology graph",
        "topology import",
        "topology plan",
        "topology render",
        "topology route",
        "topology validate",
        "version",
    ];
    let mut found = Vec::new();
    crate::shell::leaves(&nexus::cli::command(), "", &mut found);
    for (name, command) in found {
        let dry = command.get_arguments().any(|arg| arg.get_long() == Some("dry-run"));
        assert_eq!(dry, !looks.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn nothing_is_destroyed_without_a_yes() {
    let machine = machine();
    machine.run("topology apply -q").ok();
    let refused = machine.run("topology destroy");
    assert_eq!(refused.status, 4, "{}", refused.shown());
    assert!(refused.stderr.contains("queue `orders`"), "{}", refused.stderr);
    assert_eq!(machine.run("topology diff").status, 0);
    machine.run("topology destroy --yes").ok();
    // There is nothing left to ask about.
    machine.run("topology destroy").ok();
}

#[test]
fn a_route_that_ends_says_where_in_words() {
    let machine = machine();
    assert_eq!(
        machine.run("topology route events customer.new").verdict_no(),
        "`customer.new` to exchange `events`:\n  no binding of exchange `events` fits, and it has no \
         alternate\n\nno queue: a mandatory publish comes back\n"
    );
    let missing = machine.run("topology route evens order.new");
    assert!(missing.stdout.contains("  exchange `evens` does not exist\n"), "{}", missing.stdout);
    assert_eq!(missing.stderr, "hint: did you mean `events`?\n");
}

#[test]
fn a_topology_is_no_definitions_file() {
    let machine = machine();
    let ran = machine.run("topology import topology.yaml");
    assert_eq!(ran.status, 65);
    assert!(ran.stderr.contains("topology files are used as they are"), "{}", ran.stderr);
}
