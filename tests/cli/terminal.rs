//! The binary on a real terminal, and inside real shells: bars, the view of dead letters, and what a
//! Tab offers.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::harness::Machine;
use crate::process::{self, finish};
use crate::support::eventually;

const PROGRAM: &str = env!("CARGO_BIN_EXE_nexusctl");

fn machine() -> Machine {
    let machine = Machine::new();
    machine.run("init . --name shop -q").ok();
    machine.run("topology apply -q").ok();
    machine
}

/// Whether `program` can be run here; says so when not.
fn is_here(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

// ------------------------------------------------------------------ terminals

/// `line` in a shell on a terminal of its own, as `script` makes one.
fn on_terminal(machine: &Machine, line: &str) -> Command {
    let mut command = Command::new("script");
    command
        .args(["-qec", line, "/dev/null"])
        .env_clear()
        .envs(&machine.environment)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("TERM", "xterm")
        .current_dir(&machine.cwd)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A bar that was drawn: its counter of all messages.
const BAR: &str = "/200 messages";
/// What takes the cursor away, and what gives it back.
const HIDDEN: &str = "\u{1b}[?25l";
const SHOWN: &str = "\u{1b}[?25h";

#[test]
fn a_bar_is_drawn_on_a_terminal_only_and_only_on_stderr() {
    if !is_here("script") {
        return;
    }
    let machine = machine();
    // Slow enough that it is drawn more than once.
    let publish = format!("{PROGRAM} publish nexus.agents worker x --count 200 --rate 400");
    let run = |line: &str| {
        let output = finish(on_terminal(&machine, line).spawn().unwrap());
        assert!(output.status.success(), "{line}: {}", text(&output));
        text(&output)
    };
    let shown = run(&publish);
    assert!(shown.contains(BAR) && shown.contains("200 messages confirmed"), "{shown:?}");
    // With stderr elsewhere nothing is left of it, and the other way about it goes to stderr.
    let hidden = run(&format!("{publish} 2>stderr"));
    assert!(!hidden.contains(BAR), "{hidden:?}");
    assert_eq!(machine.read("stderr"), "");
    let bar_only = run(&format!("{publish} >stdout"));
    assert!(bar_only.contains(BAR), "{bar_only:?}");
    assert_eq!(machine.read("stdout"), "200 messages confirmed\n");
    for hushed in ["-q", "--no-progress"] {
        let shown = run(&format!("{publish} {hushed}"));
        assert!(!shown.contains(BAR), "{hushed}: {shown:?}");
    }
    let shown = run(&format!("NEXUSCTL_NO_PROGRESS=1 {publish}"));
    assert!(!shown.contains(BAR), "{shown:?}");
    let dumb = run(&format!("TERM=dumb {publish}"));
    assert!(!dumb.contains(BAR), "{dumb:?}");
}

#[test]
fn an_interrupt_leaves_the_terminal_as_it_was() {
    if !is_here("script") {
        return;
    }
    let machine = machine();
    let pid = machine.path("pid");
    // The shell becomes the program, so that the signal reaches it and its status is seen.
    let line = format!(
        "echo $$ >pid; exec {PROGRAM} publish nexus.agents worker x --count 100000 --rate 100"
    );
    let child = on_terminal(&machine, &line).spawn().unwrap();
    // Ends when ten are there.
    machine.run("consume agent.worker --ack never --count 10 --deadline 30s --raw -q").ok();
    let number = std::fs::read_to_string(pid).unwrap();
    let sent = Command::new("kill").args(["-INT", number.trim()]).status().unwrap();
    assert!(sent.success());
    let output = finish(child);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(130), "{shown:?}");
    let (drawn, after) = shown.rsplit_once("/100000 messages").expect("a bar");
    assert!(after.contains("\u{1b}[2K"), "the bar is not taken away: {after:?}");
    assert!(after.contains("messages confirmed"), "{after:?}");
    let cursor = format!("{drawn}{after}");
    assert!(
        cursor.rfind(HIDDEN).is_none_or(|hidden| cursor.rfind(SHOWN) > Some(hidden)),
        "the cursor stays hidden: {shown:?}"
    );
}

/// A person at a terminal: reads what is drawn, and types.
struct Person {
    child: Child,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Person {
    /// In a shell on a terminal of 80 columns and 24 rows.
    fn at(machine: &Machine, line: &str) -> Person {
        let line = format!("stty rows 24 cols 80; {line}");
        let mut child = on_terminal(machine, &line).stdin(Stdio::piped()).spawn().unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (child.stdout.take().unwrap(), Arc::clone(&shown));
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(many @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..many]);
            }
        });
        Person { child, shown, reader }
    }

    fn sees(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits until the word `what` is drawn after all that was drawn before: blanks are not drawn.
    #[track_caller]
    fn waits_for(&self, after: usize, what: &str) -> usize {
        eventually(&format!("{what:?} is drawn"), || {
            let seen = self.sees();
            seen.get(after..)?.find(what).map(|at| after + at + what.len())
        })
    }

    fn types(&mut self, keys: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(keys.as_bytes()).and_then(|()| stdin.flush()).unwrap();
    }

    /// Its status, and all that was shown.
    fn end(self) -> (Option<i32>, String) {
        // An end of input would end `script` before the program.
        let Person { child, shown, reader } = self;
        let output = finish(child);
        reader.join().unwrap();
        let text = String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
        (output.status.code(), text)
    }
}

const ALTERNATE: &str = "\u{1b}[?1049h";
const MAIN: &str = "\u{1b}[?1049l";

/// Two dead letters, scanned.
fn with_letters() -> Machine {
    let machine = machine();
    for order in [1, 2] {
        machine.run(&format!("publish nexus.agents worker 'order {order}' -q")).ok();
    }
    let failed = machine.run("worker agent.worker --until-empty --reject -- sh -c 'exit 65'");
    assert!(matches!(failed.status, 0 | 3), "{}", failed.shown());
    machine.run("dlq scan dead.agent.worker").ok();
    machine
}

/// What is shown after the view has given the terminal back, and whether it did.
#[track_caller]
fn given_back(shown: &str) -> &str {
    let (drawn, after) = shown.rsplit_once(MAIN).unwrap_or_else(|| panic!("{shown:?}"));
    assert!(drawn.contains(ALTERNATE), "{drawn:?}");
    assert!(shown.rfind(SHOWN) > shown.rfind(HIDDEN), "the cursor stays hidden: {shown:?}");
    // The terminal reads lines and echoes them again.
    assert!(after.contains("icanon echo"), "{after:?}");
    after
}

/// Says at the end whether the terminal reads lines and echoes them.
const THEN_STATE: &str = "; status=$?; stty -a | tr ' ;' '\\n\\n' | grep -Ex -- '-?(icanon|echo)' | \
    tr '\\n' ' '; exit $status";

#[test]
fn letters_are_browsed_marked_and_handed_on() {
    if !is_here("script") {
        return;
    }
    let machine = with_letters();
    let line = format!("{PROGRAM} dlq browse --out marked.json{THEN_STATE}");
    let mut person = Person::at(&machine, &line);
    let at = person.waits_for(0, "100%");
    person.types("\r");
    let at = person.waits_for(at, "@2");
    // Down, by the arrow's own sequence: the row is drawn again, turned round.
    person.types("\u{1b}[B");
    let at = person.waits_for(at, "@2");
    person.types(" ");
    let at = person.waits_for(at, "*");
    person.types("\r");
    let at = person.waits_for(at, "journey");
    person.types("p");
    person.waits_for(at, MAIN);
    let (status, shown) = person.end();
    assert_eq!(status, Some(0), "{shown:?}");
    let after = given_back(&shown);
    assert!(after.contains("1 letter written to marked.json"), "{after:?}");
    assert!(
        after.contains("nexusctl dlq plan dead.agent.worker --selection marked.json"),
        "{after:?}"
    );
    let marked: serde_json::Value = serde_json::from_str(&machine.read("marked.json")).unwrap();
    let listed = machine.run("dlq letters --selection marked.json -o json");
    assert_eq!(listed.json(), marked, "it is what `dlq letters` prints, and what it reads");
    assert_eq!(marked["letters"][0]["position"], 2);
    assert_eq!(marked["letters"].as_array().unwrap().len(), 1);
}

#[test]
fn the_marked_letters_are_the_output_and_nothing_else_is() {
    if !is_here("script") {
        return;
    }
    let machine = with_letters();
    for (keys, letters) in [("aq", 2), ("q", 0)] {
        let line = format!("{PROGRAM} dlq browse -o json >marked.json{THEN_STATE}");
        let mut person = Person::at(&machine, &line);
        let at = person.waits_for(0, "100%");
        person.types(keys);
        person.waits_for(at, MAIN);
        let (status, shown) = person.end();
        assert_eq!(status, Some(0), "{shown:?}");
        given_back(&shown);
        let marked: serde_json::Value = serde_json::from_str(&machine.read("marked.json")).unwrap();
        assert_eq!(marked["kind"], "DeadLetters");
        assert_eq!(marked["letters"].as_array().unwrap().len(), letters);
        let schemas = nexus::cli::schemas::output();
        let schema = &schemas.iter().find(|(kind, _)| *kind == "DeadLetters").unwrap().1;
        assert!(jsonschema::is_valid(schema, &marked), "{marked:#}");
    }
}

#[test]
fn a_signal_or_ctrl_c_gives_the_terminal_back() {
    if !is_here("script") {
        return;
    }
    for (sent, expected) in [("-TERM", 143), ("-HUP", 143), ("-INT", 130), ("\u{3}", 130)] {
        let machine = with_letters();
        let pid = machine.path("pid");
        let line = format!("sh -c 'echo $$ >pid; exec {PROGRAM} dlq browse'{THEN_STATE}");
        let mut person = Person::at(&machine, &line);
        let at = person.waits_for(0, "100%");
        person.types(" ");
        let at = person.waits_for(at, "*");
        if sent.starts_with('-') {
            let number = std::fs::read_to_string(pid).unwrap();
            assert!(Command::new("kill").args([sent, number.trim()]).status().unwrap().success());
        } else {
            person.types(sent);
        }
        person.waits_for(at, MAIN);
        let (status, shown) = person.end();
        assert_eq!(status, Some(expected), "{sent}: {shown:?}");
        let after = given_back(&shown);
        assert!(after.contains("no letters were handed on"), "{sent}: {after:?}");
    }
}

#[test]
fn a_terminal_that_goes_away_ends_the_view() {
    if !is_here("script") {
        return;
    }
    // Whoever leads the session is told by a signal, and whoever only works in it has to see it.
    for begin in ["exec", "setsid"] {
        let machine = with_letters();
        let pid = machine.path("pid");
        let line = format!("{begin} sh -c 'echo $$ >pid; exec {PROGRAM} dlq browse'");
        let mut person = Person::at(&machine, &line);
        person.waits_for(0, "100%");
        let number = std::fs::read_to_string(pid).unwrap();
        person.child.kill().unwrap();
        person.child.wait().unwrap();
        // A process that has ended has no program, even when nobody has asked for its status.
        let program = format!("/proc/{}/exe", number.trim());
        eventually(&format!("the view ends ({begin})"), || {
            std::fs::read_link(&program).is_err().then_some(())
        });
    }
}

#[test]
fn a_queue_that_was_never_scanned_is_scanned_once_that_is_agreed_to() {
    if !is_here("script") {
        return;
    }
    let machine = machine();
    machine.run("publish '' dead.agent.worker lost -q").ok();
    let line = format!("{PROGRAM} dlq browse --queue dead.agent.worker{THEN_STATE}");
    let mut person = Person::at(&machine, &line);
    person.waits_for(0, "Go on? [y/N] ");
    person.types("n\n");
    let (status, shown) = person.end();
    assert_eq!(status, Some(4), "{shown:?}");
    assert!(shown.contains("1 message") && !shown.contains(ALTERNATE), "{shown:?}");
    let mut person = Person::at(&machine, &line);
    let at = person.waits_for(0, "Go on? [y/N] ");
    person.types("y\n");
    let at = person.waits_for(at, "100%");
    person.types("q");
    person.waits_for(at, MAIN);
    let (status, shown) = person.end();
    assert_eq!(status, Some(0), "{shown:?}");
    given_back(&shown);
}

#[test]
fn there_is_no_browsing_without_a_terminal() {
    let machine = with_letters();
    let output = finish(
        process::command(&machine, &["dlq", "browse"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("dlq groups") && stderr.contains("dlq letters"), "{stderr}");
    if is_here("script") {
        let line = format!("TERM=dumb {PROGRAM} dlq browse");
        let output = finish(on_terminal(&machine, &line).spawn().unwrap());
        assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    }
}

// --------------------------------------------------------------------- shells

/// Runs `script` in `shell`, which finds `nexusctl` on its path, and gives its lines.
fn in_shell(machine: &Machine, shell: &[&str], script: &str) -> Vec<String> {
    let bin = Path::new(PROGRAM).parent().unwrap().display();
    let output = Command::new(shell[0])
        .args(&shell[1..])
        .arg(script)
        .env_clear()
        .envs(&machine.environment)
        .env("PATH", format!("{bin}:/usr/local/bin:/usr/bin:/bin"))
        .current_dir(&machine.cwd)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let shown = format!("{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{shown}");
    text(&output).lines().map(|line| line.trim_end().to_owned()).collect()
}

#[test]
fn bash_offers_commands_and_the_names_of_queues() {
    if !is_here("bash") {
        return;
    }
    let machine = machine();
    let offered = |words: &str| {
        // What bash does on a Tab: the words, which one it is about, then the registered function.
        let script = format!(
            "source <(nexusctl completions bash)\n\
             spec=$(complete -p nexusctl); function=${{spec##*-F }}; function=${{function%% *}}\n\
             COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             COMP_LINE=\"${{COMP_WORDS[*]}}\"; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=9\n\
             \"$function\" nexusctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        in_shell(&machine, &["bash", "--norc", "--noprofile", "-c"], &script)
    };
    assert_eq!(offered("nexusctl topo"), ["topology"]);
    assert_eq!(offered("nexusctl topology exp"), ["export", "explain"]);
    assert_eq!(offered("nexusctl consume agent."), ["agent.planner", "agent.worker"]);
    assert_eq!(offered("nexusctl publish nexus.a"), ["nexus.agents"]);
}

#[test]
fn zsh_offers_commands_and_the_names_of_queues() {
    if !is_here("zsh") {
        return;
    }
    let machine = machine();
    let offered = |words: &str| {
        // Outside its line editor zsh completes nothing, so what the script hands to the completion
        // system is printed instead.
        let script = format!(
            "autoload -Uz compinit && compinit -u -d {home}/.zcompdump\n\
             source <(nexusctl completions zsh)\n\
             _describe() {{ local array=${{argv[-1]}} value\n\
             for value in \"${{(@P)array}}\"; do print -r -- \"${{value%%:*}}\"; done }}\n\
             words=({words}); CURRENT=${{#words}}\n\
             ${{_comps[nexusctl]}}",
            home = machine.environment["HOME"],
        );
        in_shell(&machine, &["zsh", "-f", "-c"], &script)
    };
    assert_eq!(offered("nexusctl topo"), ["topology"]);
    assert_eq!(offered("nexusctl topology exp"), ["export", "explain"]);
    assert_eq!(offered("nexusctl consume agent."), ["agent.planner", "agent.worker"]);
}

#[test]
fn fish_offers_commands_and_the_names_of_queues() {
    if !is_here("fish") {
        return;
    }
    let machine = machine();
    let offered = |line: &str| {
        let script = format!("nexusctl completions fish | source; complete -C '{line}'");
        let lines = in_shell(&machine, &["fish", "--no-config", "-c"], &script);
        lines.iter().map(|line| line.split('\t').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(offered("nexusctl topo"), ["topology"]);
    assert_eq!(offered("nexusctl topology exp"), ["export", "explain"]);
    assert_eq!(offered("nexusctl consume agent."), ["agent.planner", "agent.worker"]);
}
