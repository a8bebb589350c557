//! The binary on a real terminal, and inside real shells: bars, and what a Tab offers.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::Machine;
use crate::process::finish;

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
