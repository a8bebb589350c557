//! `explain`, `version`, help, usage errors.

use crate::harness::Machine;

#[test]
fn a_code_is_explained_and_an_unknown_one_names_the_nearest() {
    let machine = Machine::new();
    assert_eq!(
        machine.run("explain 6").ok(),
        "6: publish outcome unknown\n\nNo confirm came in time, or the connection was lost while \
         messages were in flight. They may have arrived or not.\n\nPublish the listed ids again \
         where the receiver tells duplicates apart by message id.\n"
    );
    assert_eq!(machine.run("explain 406 -o json").json()["title"], "AMQP precondition failed");
    assert_eq!(
        machine.run("explain broker/unreachabel").shown(),
        "------- stderr -------\nerror: there is nothing called `broker/unreachabel` to explain\n\n\
         hint: did you mean `broker/unreachable`?\n[exit status: 64]\n"
    );
}

#[test]
fn what_is_tried_again_is_told_from_the_table_that_decides_it() {
    let machine = Machine::new();
    let table = machine.run("explain retry -o json").json();
    let rows = table["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), nexus::resilience::classification::TABLE.len());
    let poison = rows.iter().find(|row| row["source"] == "exit status" && row["first"] == 65);
    assert_eq!(poison.expect("status 65")["class"], "poison");
    let text = machine.run("explain retry").ok();
    assert!(text.contains("BECAUSE") && text.contains("too many requests"), "{text}");
    assert!(machine.run("explain").ok().contains("which failures are tried again"));
    assert!(machine.run("explain 404").ok().ends_with(
        "For a message that fails so: permanent. The queue or exchange has to be declared.\n"
    ));
    assert_eq!(machine.run("explain 320 -o json").json()["retry"]["class"], "retriable");
    assert!(machine.run("explain 6 -o json").json()["retry"].is_null());
}

#[test]
fn help_and_version_go_to_stdout_and_usage_errors_to_stderr_with_status_64() {
    let machine = Machine::new();
    assert_eq!(machine.run("--version").ok(), "nexusctl 0.1.0\n");
    assert!(machine.run("--help").ok().contains("Commands:"));
    assert!(machine.run("context --help").ok().contains("add"));
    let ran = machine.run("explain --colour");
    assert_eq!(
        ran.shown(),
        "------- stderr -------\nerror: unexpected argument '--colour' found\n\n\
         hint: a similar argument exists: '--color'\n[exit status: 64]\n"
    );
    let ran = machine.run("");
    assert_eq!((ran.status, ran.stdout.as_str()), (64, ""));
}

#[test]
fn an_error_is_one_json_document_when_json_is_asked_for() {
    let machine = Machine::new();
    for line in ["explain nothing -o json", "-o json explain nothing", "explain --nix -ojson"] {
        let ran = machine.run(line);
        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["apiVersion"], "nexus/v1");
        assert_eq!(error["kind"], "Error");
        assert_eq!(error["status"], 64, "{line}");
        assert_eq!(ran.status, 64);
    }
}
