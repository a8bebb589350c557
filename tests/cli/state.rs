//! `circuit`, `limit` and `sequence`: the state that the processes of a host share.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nexus::base::time::{Clock, SystemClock, Timestamp};
use nexus::resilience::circuit::CircuitSettings;
use nexus::resilience::sequence::Start;
use nexus::resilience::store::{Ended, Ending};
use nexus::resilience::{SequenceSettings, SharedState};

use crate::harness::Machine;
use crate::process;

const PROJECT: &str = "apiVersion: nexus/v1
kind: Project
name: shop
limits:
  api: {capacity: 10, perSecond: 0.1}
  closed: {capacity: 2, perSecond: 0, reserve: {high: 0, normal: 0, low: 0}}
circuits:
  payments: {threshold: 2, recovery: 1m}
  search: {window: 1m}
";

fn shop() -> Machine {
    let machine = Machine::new();
    machine.write("nexus.yaml", PROJECT);
    machine
}

/// Runs `work` on the shared state of the machine's project, as a worker would.
fn as_worker<T>(machine: &Machine, work: impl AsyncFnOnce(SharedState) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let path = machine.path(".nexus/state.db");
        work(SharedState::open(path, Duration::from_secs(20)).await.unwrap()).await
    })
}

/// When the machine's clock stands.
fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_700_000_000_000)
}

/// Two requests through `payments` fail.
fn fail_payments(machine: &Machine) {
    as_worker(machine, async |state| {
        let settings = CircuitSettings { threshold: 2, ..CircuitSettings::default() };
        let (permits, refused) = state.permits("payments", &settings, 2, now()).await.unwrap();
        assert_eq!(refused, None);
        let failed = |permit| Ended { permit, ending: Ending::Failed, at: now() };
        let ended = permits.into_iter().map(failed).collect();
        state.record("payments", &settings, ended, now()).await.unwrap();
    });
}

#[test]
fn looking_at_what_nobody_has_used_makes_no_file() {
    let machine = shop();
    let circuits = machine.run("circuit list").ok();
    assert_eq!(circuits, "CIRCUIT   STATE   UNTIL  CAUSE\npayments  closed\nsearch    closed\n");
    assert_eq!(machine.run("sequence list").ok(), "no workflows\n");
    let limits = machine.run("limit list -o json").json();
    assert_eq!(limits["limits"][0]["tokens"], 10);
    assert_eq!(machine.run("limit try api --dry-run").status, 0);
    assert_eq!(machine.run("circuit open search --reason x --dry-run").status, 0);
    assert!(!machine.path(".nexus").exists());
}

#[test]
fn a_circuit_that_failures_opened_is_shown_with_cause_and_end() {
    let machine = shop();
    fail_payments(&machine);
    let shown = machine.run("circuit show payments").ok();
    assert_eq!(
        shown,
        "circuit payments: open\n  because 2 requests failed in a row\n  \
         since 2023-11-14T22:13:20.000Z\n  until 2023-11-14T22:14:20.000Z\n  \
         last written 2023-11-14T22:13:20.000Z\n\nsettings of nexus.yaml:\n  \
         opens after 2 failures in a row\n  stays open for 1m, later up to 1m\n  \
         then needs 1 to succeed, each lost after 1m\n"
    );
    let list = machine.run("circuit list -o json").json();
    assert_eq!(list["circuits"][0]["state"], "open");
    assert_eq!(list["circuits"][1]["window"]["requests"], 0);
    let closed = machine.run("circuit close payments").ok();
    assert_eq!(closed, "circuit payments: open -> closed\n");
    assert_eq!(machine.run("circuit show payments -o json").json()["state"], "closed");
}

#[test]
fn an_operator_opens_disables_closes_and_resets() {
    let machine = shop();
    let dry = machine.run("circuit open payments --reason audit --for 2h --dry-run").ok();
    let opened = machine.run("circuit open payments --reason audit --for 2h").ok();
    let expected =
        "circuit payments: closed -> forced-open until 2023-11-15T00:13:20.000Z: audit\n";
    assert_eq!((dry, opened.as_str()), (format!("{expected}nothing was changed\n"), expected));
    let refused = as_worker(&machine, async |state| {
        state.permit("payments", &CircuitSettings::default(), now()).await.unwrap().unwrap_err()
    });
    assert_eq!(refused.wait, Some(Duration::from_secs(7200)));
    let disabled = machine.run("circuit disable payments --reason drill").ok();
    assert_eq!(disabled, "circuit payments: forced-open -> disabled: drill\n");
    let kept = machine.run("circuit reset --all");
    assert_eq!(kept.status, 4, "{}", kept.shown());
    assert!(kept.stderr.contains("the order on `payments` (disabled): drill"), "{}", kept.stderr);
    assert_eq!(machine.run("circuit show payments -o json").json()["state"], "disabled");
    let reset = machine.run("circuit reset payments --yes").ok();
    assert_eq!(reset, "circuit payments: disabled -> closed\n");
    let again = machine.run("circuit reset --all").ok();
    assert_eq!(again, "no circuit was used yet\n");
}

#[test]
fn a_script_asks_for_a_permit_and_tells_how_it_ended() {
    let machine = shop();
    let permit = machine.run("circuit try payments").ok();
    let tell = |permit: &str, result: &str| {
        machine.run(&format!("circuit record payments {} {result}", permit.trim())).ok()
    };
    assert_eq!(tell(&permit, "failed"), "circuit payments: closed -> closed\n");
    let dry = tell(&permit, "failed --dry-run");
    assert_eq!(dry, "circuit payments: closed -> open\nnothing was changed\n");
    assert_eq!(tell(&permit, "failed"), "circuit payments: closed -> open\n");
    let refused = machine.run("circuit try payments");
    assert_eq!(refused.status, 75, "{}", refused.shown());
    let expected = "circuit payments is open for 1m: 2 requests failed in a row\n";
    assert_eq!(refused.stdout, expected);
    let report = machine.run("circuit try payments --dry-run -o json").json();
    assert_eq!((&report["letOut"], &report["retryAfterMs"]), (&false.into(), &60_000.into()));
    // A permit from before decides nothing any more.
    assert_eq!(tell(&permit, "succeeded"), "circuit payments: open -> open\n");
    machine.run("circuit open payments --reason audit").ok();
    let forced = machine.run("circuit try payments");
    assert_eq!(forced.stdout, "circuit payments is forced-open: audit\n");
    machine.run("circuit try another").ok();
    for line in ["circuit record payments x failed", "circuit record payments 0-1 fell"] {
        assert_eq!(machine.run(line).status, 64, "{line}");
    }
}

#[test]
fn names_that_are_not_there_are_refused_or_warned_of() {
    let machine = shop();
    for line in ["circuit show paymets", "circuit close paymets", "circuit reset paymets"] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 1, "{line}");
        assert!(ran.stderr.contains("did you mean `payments`?"), "{line}: {}", ran.stderr);
    }
    let warned = machine.run("circuit open paymets --reason x");
    assert_eq!(warned.status, 0);
    assert!(warned.stderr.contains("did you mean `payments`?"), "{}", warned.stderr);
    assert_eq!(machine.run("circuit open payments").status, 64);
    assert_eq!(machine.run("circuit open payments --reason ' '").status, 64);
    assert_eq!(machine.run("circuit reset").status, 64);
    for line in ["limit show apo", "limit try apo", "limit wait apo"] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 1, "{line}");
        assert!(ran.stderr.contains("did you mean `api`?"), "{line}: {}", ran.stderr);
    }
    let none = machine.run("sequence show w");
    assert_eq!(none.status, 1);
    assert!(none.stderr.contains("no worker has followed"), "{}", none.stderr);
    let nothing = Machine::new().run("limit try api");
    assert!(nothing.stderr.contains("`limits` in nexus.yaml"), "{}", nothing.stderr);
}

#[test]
fn a_script_takes_tokens_until_there_are_none_for_it() {
    let machine = shop();
    // Low leaves four of ten to the others.
    let low = machine.run("limit try api --tokens 6 --priority low").ok();
    assert_eq!(low, "6 tokens of api taken with priority low\n");
    let refused = machine.run("limit try api --priority low -o json");
    assert_eq!(refused.status, 75);
    let report = refused.json();
    assert_eq!((&report["taken"], &report["retryAfterMs"]), (&false.into(), &10_000.into()));
    let list = machine.run("limit list").ok();
    assert_eq!(
        list,
        "LIMIT   CAPACITY  PER SECOND  LEFT  CRITICAL  HIGH  NORMAL  LOW\n\
         api     10        0.1         4     4         3     2       0\n\
         closed  2         0           2     2         2     2       2\n"
    );
    let shown = machine.run("limit show api").ok();
    assert!(shown.starts_with("limit api: 4 of 10 left, 0.1 per second\n"), "{shown}");
    let late = machine.run("limit wait api --tokens 4 --deadline 5s");
    assert_eq!(late.status, 75);
    assert_eq!(late.stdout, "4 tokens of api not taken: priority normal has to wait for 20s\n");
    assert_eq!(machine.run("limit wait api --tokens 4 --dry-run").status, 75);
    let all = "--tokens 4 --priority critical";
    let dry = machine.run(&format!("limit try api {all} --dry-run")).ok();
    assert!(dry.ends_with("would be taken with priority critical\nnothing was changed\n"), "{dry}");
    machine.run(&format!("limit wait api {all} --deadline 0")).ok();
    let never = machine.run("limit try api --tokens 11");
    assert_eq!(never.status, 64, "{}", never.shown());
    machine.run("limit try closed --tokens 2").ok();
    let stopped = machine.run("limit wait closed");
    assert_eq!(stopped.status, 75);
    assert!(stopped.stdout.contains("the rate of this limit is 0"), "{}", stopped.stdout);
}

#[test]
fn who_waits_gets_a_token_when_it_has_come_back() {
    let mut machine = shop();
    machine.real_time = true;
    machine.write("nexus.yaml", &PROJECT.replace("perSecond: 0.1", "perSecond: 20"));
    machine.run("limit try api --tokens 10 --priority critical").ok();
    let began = SystemClock.now();
    machine.run("limit wait api --tokens 3 --priority critical").ok();
    assert!(SystemClock.now().since(began) >= Duration::from_millis(100));
}

#[test]
fn gaps_of_a_workflow_are_listed_as_ranges() {
    let machine = shop();
    as_worker(&machine, async |state| {
        let settings = SequenceSettings { start: Start::At(1), ..SequenceSettings::default() };
        let numbers = |workflow: &str, numbers: &[u64]| -> Vec<(String, u64)> {
            numbers.iter().map(|number| (workflow.to_owned(), *number)).collect()
        };
        let gappy = numbers("order-17", &[1, 2, 5, 9, 10]);
        state.processed("agent.worker", gappy, settings, now()).await.unwrap();
        state.processed("audit", numbers("order-17", &[1]), settings, now()).await.unwrap();
        state.processed("audit", numbers("order-18", &[1, 2]), settings, now()).await.unwrap();
    });
    let shown = machine.run("sequence show order-17").ok();
    assert_eq!(
        shown,
        "workflow order-17\n\nin agent.worker, last seen 2023-11-14T22:13:20.000Z\n  \
         highest processed: 10\n  missing: 5 numbers in 2 ranges\n    3..4\n    6..8\n\n\
         in audit, last seen 2023-11-14T22:13:20.000Z\n  highest processed: 1\n  \
         nothing is missing\n"
    );
    let json = machine.run("sequence show order-17 --queue agent.worker -o json").json();
    assert_eq!(json["queues"][0]["missing"][1]["first"], 6);
    assert_eq!(json["queues"][0]["missingCount"], 5);
    let gaps = machine.run("sequence list --gaps -o json").json();
    assert_eq!(gaps["sequences"].as_array().unwrap().len(), 1);
    let bounded = machine.run("sequence list --limit 2");
    assert_eq!(bounded.stdout.lines().count(), 3, "{}", bounded.stdout);
    assert!(bounded.stderr.contains("more than 2"), "{}", bounded.stderr);
    let slip = machine.run("sequence show order-71");
    assert!(slip.stderr.contains("did you mean `order-17`?"), "{}", slip.stderr);
}

#[test]
fn a_state_file_that_cannot_be_used_is_named() {
    let mut machine = shop();
    machine.set("NEXUSCTL_STATE", "/proc/nexus/state.db");
    for line in ["circuit open payments --reason x", "limit try api"] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 69, "{line}: {}", ran.shown());
        assert!(ran.stderr.contains("/proc/nexus"), "{line}: {}", ran.stderr);
    }
    // Somebody else's database is left alone.
    let other = machine.write("other.db", &"this is no database at all. ".repeat(100));
    machine.set("NEXUSCTL_STATE", &other.display().to_string());
    let ran = machine.run("circuit list -o json");
    assert_eq!(ran.status, 69, "{}", ran.shown());
    assert!(ran.stderr.contains("\"state/failed\""), "{}", ran.stderr);
}

#[test]
fn of_racing_scripts_as_many_get_a_token_as_there_are() {
    let machine = shop();
    let start = |args: &[&str]| {
        let mut command = process::command(&machine, args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let racing: Vec<_> = (0..12).map(|_| start(&["limit", "try", "closed"])).collect();
    let mut taken = 0;
    for child in racing {
        let output = child.wait_with_output().unwrap();
        match output.status.code() {
            Some(0) => taken += 1,
            Some(75) => {}
            other => panic!("{other:?}: {}", String::from_utf8_lossy(&output.stderr)),
        }
    }
    assert_eq!(taken, 2);
}

#[test]
fn a_state_file_that_may_not_be_written_is_refused() {
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let allowed = Command::new("setpriv").args(nobody).arg("true").output();
    if !allowed.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: setpriv cannot change the user here (it needs root)");
        return;
    }
    let machine = shop();
    fail_payments(&machine);
    let allow = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let program = machine.path("nexusctl");
    std::fs::copy(env!("CARGO_BIN_EXE_nexusctl"), &program).unwrap();
    allow(&program, 0o755);
    for (path, mode) in [
        (machine.root(), 0o755),
        (&machine.cwd, 0o755),
        (&machine.path(".nexus"), 0o777),
        (&machine.path(".nexus/state.db"), 0o444),
    ] {
        allow(path, mode);
    }
    let mut command = Command::new("setpriv");
    command.args(nobody).arg(&program).args(["circuit", "close", "payments"]);
    command.current_dir(&machine.cwd).env_clear().envs(&machine.environment);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("state.db") && said.contains("denied"), "{said}");
    assert!(said.contains("hint: "), "{said}");
}
