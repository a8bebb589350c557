//! Publish and consume from the command line, on the embedded broker.

use crate::harness::Machine;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.write(
        "topology.yaml",
        "apiVersion: nexus/v1\nkind: Topology\nmetadata: {name: t}\n\
         exchanges: {events: {type: topic}}\n\
         queues:\n  q: {bind: [{from: events, key: \"#\"}], deadLetter: true}\n",
    );
    machine.run("topology apply -q").ok();
    machine
}

fn depth(machine: &Machine, queue: &str) -> usize {
    let line = format!("consume {queue} --ack never --until-empty --raw -q");
    machine.run(&line).ok().lines().count()
}

#[test]
fn a_message_goes_in_and_comes_out_with_all_its_properties() {
    let machine = machine();
    let published = machine.run(
        "publish events a.b hello --content-type text/plain --priority 3 --correlation-id c \
         --reply-to r --expiration 1h --message-id m --timestamp 2023-11-14T22:13:20Z \
         --amqp-type kind --app-id app --cluster-id cl --content-encoding identity \
         -H text=x -H number:=5 -H flag:=true",
    );
    assert_eq!(published.shown(), "1 message confirmed\n");
    let record: serde_json::Value =
        serde_json::from_str(&machine.run("consume q --count 1 -q").ok()).unwrap();
    assert_eq!(record["exchange"], "events");
    assert_eq!(record["routingKey"], "a.b");
    let properties = &record["properties"];
    for (name, value) in [
        ("contentType", "text/plain"),
        ("contentEncoding", "identity"),
        ("correlationId", "c"),
        ("replyTo", "r"),
        ("expiration", "3600000"),
        ("messageId", "m"),
        ("type", "kind"),
        ("appId", "app"),
        ("clusterId", "cl"),
    ] {
        assert_eq!(properties[name], value, "{name}");
    }
    assert_eq!(properties["deliveryMode"], 2);
    assert_eq!(properties["priority"], 3);
    assert_eq!(properties["headers"]["text"], "x");
}

#[test]
fn what_consume_writes_publish_takes_back_byte_for_byte() {
    let machine = machine();
    machine
        .run_args(&["publish", "events", "k", "-f", "-", "-H", "n:={\"$int16\":7}"], &[0, 255, 10])
        .ok();
    let first = machine.run("consume q --count 1 -q").ok();
    machine.run_with("publish --records -q", first.as_bytes()).ok();
    assert_eq!(machine.run("consume q --count 1 -q").ok(), first);
}

#[test]
fn an_unroutable_message_is_status_5_and_named() {
    let machine = machine();
    machine.write("t2.yaml", "apiVersion: nexus/v1\nkind: Topology\nmetadata: {name: u}\nexchanges: {lonely: {type: direct}}\n");
    machine.run("topology apply t2.yaml").ok();
    assert_eq!(
        machine.run("publish lonely key hello --message-id m1").shown(),
        "returned 1 (m1) to exchange `lonely` by `key`: 312 NO_ROUTE\n0 messages confirmed, 1 returned\n\
         ------- stderr -------\n\
         hint: `nexusctl topology route lonely key --live` shows where such a message would go\n\
         [exit status: 5]\n"
    );
    let missing = machine.run("publish nowhere key hello");
    assert_eq!(missing.status, 5, "{}", missing.shown());
    assert_eq!(machine.run("publish '' q hello").status, 0);
}

#[test]
fn a_bad_line_is_named_and_the_rest_goes_where_on_error_says() {
    let machine = machine();
    let good = r#"{"exchange":"events","routingKey":"k","body":"x"}"#;
    machine.write("in.ndjson", &format!("{good}\n{{\"bdy\":1}}\n{good}\n"));
    let stopped = machine.run("publish --records -f in.ndjson");
    assert_eq!(stopped.status, 3, "{}", stopped.shown());
    assert!(stopped.stdout.contains("skipped 2"), "{}", stopped.stdout);
    assert_eq!(depth(&machine, "q"), 1);
    let skipped = machine.run("publish --records -f in.ndjson --on-error skip -o json");
    assert_eq!((skipped.status, &skipped.json()["confirmed"]), (3, &2.into()));
    let filed = machine.run("publish --records -f in.ndjson --on-error file=bad.ndjson");
    assert_eq!(filed.status, 3);
    assert_eq!(machine.read("bad.ndjson"), "{\"bdy\":1}\n");
    let none = machine.run_with("publish --records", b"{\n");
    assert_eq!(none.status, 65, "{}", none.shown());
}

#[test]
fn a_line_of_five_megabytes_is_one_message() {
    let machine = machine();
    let mut line = vec![b'y'; 5 << 20];
    line.push(b'\n');
    machine.run_args(&["publish", "events", "k", "--lines"], &line).ok();
    let ran = machine.run("consume q --until-empty --raw -q");
    assert_eq!(ran.stdout_bytes, line);
}

#[test]
fn templates_fill_body_and_key_and_a_seed_repeats_them() {
    let machine = machine();
    let line = "publish events 'k.${ seq }' 'n ${ seq } ${ int(random * 100.0) }' --template \
                --count 3 --seed 7 --dry-run";
    let first = machine.run(line).ok();
    assert_eq!(first, machine.run(line).ok());
    assert_eq!(first.lines().count(), 3);
    assert!(first.lines().nth(2).unwrap().contains("\"k.2\""), "{first}");
    assert_eq!(depth(&machine, "q"), 0);
    assert_eq!(machine.run("publish events k '${ nope }' --template").status, 64);
}

#[test]
fn a_filter_leaves_the_others_untouched_in_order() {
    let machine = machine();
    machine.run_with("publish events k --lines -q", b"a1\nb1\na2\nb2\n").ok();
    let ran = machine.run("consume q --until-empty --raw --filter 'body.startsWith(\"a\")'");
    assert_eq!(ran.stdout, "a1\na2\n");
    assert_eq!(
        ran.stderr,
        "2 messages written, 2 acked, 2 left in the queue: the queue is empty\n"
    );
    assert_eq!(machine.run("consume q --until-empty --raw -q").ok(), "b1\nb2\n");
    assert_eq!(machine.run("consume q --until-empty --filter 'nope >'").status, 64);
}

#[test]
fn rejected_messages_are_dead_lettered_and_looking_takes_nothing_away() {
    let machine = machine();
    machine.run("publish events k poison -q").ok();
    machine.run("consume q --count 1 --ack reject -q").ok();
    assert_eq!(depth(&machine, "q"), 0);
    for _ in 0..3 {
        assert_eq!(depth(&machine, "dead.q"), 1);
    }
}

#[test]
fn too_few_messages_are_status_2() {
    let machine = machine();
    machine.run("publish events k one -q").ok();
    let ran = machine.run("consume q --until-empty --expect 2 --raw");
    assert_eq!((ran.status, ran.stdout.as_str()), (2, "one\n"), "{}", ran.shown());
    assert_eq!(machine.run("consume q --until-empty --fail-empty").status, 2);
    assert_eq!(machine.run("consume q --until-empty").status, 0);
    let none = machine.run("consume nowhere --until-empty");
    assert_eq!(none.status, 1, "{}", none.shown());
    assert!(none.stderr.contains("nowhere"), "{}", none.stderr);
}

#[test]
fn files_formats_and_reports() {
    let machine = machine();
    machine.run_with("publish events k --lines -q", b"1\n2\n3\n").ok();
    machine.run("consume q --count 1 --out got.ndjson --raw -q").ok();
    machine.run("consume q --count 1 --out got.ndjson --raw -q --report report.json").ok();
    assert_eq!(machine.read("got.ndjson"), "1\n2\n");
    let report: serde_json::Value = serde_json::from_str(&machine.read("report.json")).unwrap();
    assert_eq!((&report["kind"], &report["acked"]), (&"Consumed".into(), &1.into()));
    let line = r"consume q --count 1 -q --format '{routingKey}\t{body}\n'";
    assert_eq!(machine.run(line).ok(), "k\t3\n");
    assert_eq!(machine.run("consume q --count 1 --format '{nope}'").status, 64);
    assert_eq!(machine.run("consume q --until-empty -o yaml").status, 64);
    let empty = machine.run("consume q --until-empty -o json");
    assert_eq!(empty.json()["messages"], serde_json::json!([]));
}

#[test]
fn an_envelope_is_built_and_bad_payloads_are_refused() {
    let machine = machine();
    let line = "publish events k '{\"task\":7}' --type task.created --sender planner --workflow w1 \
                --sequence 4 --recipient worker -q";
    machine.run(line).ok();
    let record: serde_json::Value =
        serde_json::from_str(&machine.run("consume q --count 1 -q").ok()).unwrap();
    assert_eq!(record["body"]["payload"]["task"], 7);
    assert_eq!(record["properties"]["type"], "task.created");
    assert_eq!(record["properties"]["appId"], "planner");
    let bad = machine.run("publish events k 'no json' --type t --sender s");
    assert_eq!(bad.status, 65, "{}", bad.shown());
    assert_eq!(machine.run("publish events k '{}' --type t").status, 64);
}

#[test]
fn message_types_of_the_project_give_their_defaults() {
    let machine = machine();
    machine.run("init shop -q").ok();
    let topology =
        machine.read("shop/topology.yaml") + "\nmessageTypes: {t: {ttl: 5s, priority: 4}}\n";
    machine.write("shop/topology.yaml", &topology);
    let line = "publish nexus.agents worker '{}' --type t --sender s --project shop --dry-run";
    let record: serde_json::Value = serde_json::from_str(&machine.run(line).ok()).unwrap();
    assert_eq!(record["properties"]["expiration"], "5000");
    assert_eq!(record["properties"]["priority"], 4);
}

#[test]
fn what_is_missing_comes_with_the_next_step() {
    let machine = machine();
    assert_eq!(
        machine.run("consume dead.p --until-empty").shown(),
        "------- stderr -------\n\
         error: cannot consume from queue `dead.p`: no queue 'dead.p' in vhost '/'\n  \
         caused by: the broker says: 404 NOT_FOUND\n\nhint: did you mean `dead.q`?\n\
         [exit status: 1]\n"
    );
    assert_eq!(
        machine.run("publish event k hello").shown(),
        "returned 1 to exchange `event` by `k`: 404 NOT_FOUND - no exchange 'event' in vhost '/'\n\
         0 messages confirmed, 1 returned\n------- stderr -------\n\
         hint: did you mean `events`?\n[exit status: 5]\n"
    );
    assert_eq!(
        machine.run("publish '' nowhere hello").shown(),
        "returned 1 to the default exchange by `nowhere`: 312 NO_ROUTE\n\
         0 messages confirmed, 1 returned\n------- stderr -------\n\
         hint: the vhost has `dead.q`, `q`\n[exit status: 5]\n"
    );
    let report = machine.run("publish event k hello -o json");
    assert_eq!(report.json()["hint"], "did you mean `events`?");
    assert_eq!(report.stderr, "");
    // Declared, and not applied yet.
    machine.run("init shop -q").ok();
    let ran = machine.run("consume agent.worker --until-empty --project shop");
    assert!(ran.stderr.contains("`nexusctl topology apply` makes this queue"), "{}", ran.stderr);
    let ran = machine.run("publish nexus.agents worker hello --project shop");
    assert!(ran.stderr.contains("`nexusctl topology apply` makes this exchange"), "{}", ran.stderr);
}

#[test]
fn a_dry_run_of_consume_takes_nothing_and_says_what_it_would_cost() {
    let machine = machine();
    machine.run_with("publish events k --lines -q", b"1\n2\n").ok();
    assert_eq!(
        machine.run("consume q --until-empty --dry-run").shown(),
        "queue q (quorum): 2 messages, 0 consumers\n\
         each message would be written, then acked once the output has it\n\
         ends when the queue is empty\nnothing was consumed\n"
    );
    let out = machine.path("out");
    assert_eq!(
        machine.run("consume q --ack never --count 1 --out out --dry-run").shown(),
        "queue q (quorum): 2 messages, 0 consumers\n\
         each message would be written, then left in the queue\nends after 1 message\n\
         warning: each message that is left in the queue loses one of its 20 lives by the look; one \
         with fewer than 3 left ends the run\nnothing was consumed\n"
    );
    assert!(!out.exists());
    let rejected = machine.run("consume dead.q --ack reject --dry-run -o json").json();
    assert_eq!(rejected["kind"], "ConsumePlan");
    assert!(rejected["warnings"][0].as_str().unwrap().contains("rejected messages are gone"));
    let missing = machine.run("consume p --dry-run");
    assert_eq!(missing.status, 1);
    assert!(missing.stderr.contains("hint: "), "{}", missing.stderr);
    let stream = machine.run("consume q --offset first --until-empty --dry-run");
    assert_eq!(stream.status, 1, "{}", stream.shown());
    assert_eq!(machine.run("consume q --until-empty --raw -q").ok(), "1\n2\n");
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_anything_is_consumed() {
    let machine = machine();
    machine.run("publish events k kept -q").ok();
    for option in ["--report", "--out"] {
        let ran = machine.run(&format!("consume q --until-empty {option} nowhere/file"));
        assert_eq!(
            ran.shown(),
            "------- stderr -------\nerror: cannot write nowhere/file: No such file or directory (os \
             error 2)\n\nhint: there is no directory nowhere\n[exit status: 1]\n",
            "{option}"
        );
    }
    assert_eq!(depth(&machine, "q"), 1);
}

#[test]
fn no_body_is_not_taken_for_an_empty_one() {
    let machine = machine();
    let ran = machine.run("publish events k");
    assert_eq!(ran.status, 64, "{}", ran.shown());
    assert!(ran.stderr.contains("'' is the empty body"), "{}", ran.stderr);
    assert_eq!(depth(&machine, "q"), 0);
    machine.run("publish events k ''").ok();
    machine.run("publish events k -f -").ok();
    assert_eq!(depth(&machine, "q"), 2);
}
