//! Completions, manual pages, examples, schemas of all output.

use crate::harness::Machine;

pub(crate) fn leaves(
    command: &clap::Command,
    name: &str,
    found: &mut Vec<(String, clap::Command)>,
) {
    let mut children = command.get_subcommands().filter(|child| !child.is_hide_set()).peekable();
    if children.peek().is_none() {
        found.push((name.to_owned(), command.clone()));
        return;
    }
    for child in children {
        leaves(child, format!("{name} {}", child.get_name()).trim(), found);
    }
}

#[test]
fn every_command_has_a_help_text_in_the_imperative_and_examples() {
    let mut found = Vec::new();
    leaves(&nexus::cli::command(), "", &mut found);
    assert!(found.len() > 5);
    for (name, command) in found {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        assert!(!about.is_empty() && !about.ends_with('.'), "{name}: {about}");
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = help.matches("\n  nexusctl ").count();
        assert!(examples >= 2, "{name} has {examples} examples");
    }
}

#[test]
fn options_are_not_declared_twice_and_all_are_explained() {
    let mut found = Vec::new();
    leaves(&nexus::cli::command(), "", &mut found);
    for (name, command) in found {
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} has no help", arg.get_id());
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(!help.ends_with('.'), "{name}: {}: {help}", arg.get_id());
        }
    }
}

#[test]
fn manual_pages_exist_for_every_command() {
    let machine = Machine::new();
    assert!(machine.run("man").ok().contains(".TH"));
    assert!(machine.run("man context add").ok().contains("password"));
    assert_eq!(machine.run("man nothing").status, 64);
    machine.run("man --dir man1").ok();
    let pages = std::fs::read_dir(machine.path("man1")).unwrap().count();
    assert!(pages > 8, "{pages}");
}

#[test]
fn a_shell_is_offered_commands_and_options() {
    let mut machine = Machine::new();
    machine.set("NEXUSCTL_COMPLETE", "fish");
    let offered = machine.run("-- nexusctl con").ok();
    assert!(offered.contains("context\tManage contexts"), "{offered}");
    let offered = machine.run("-- nexusctl context add --pass").ok();
    assert!(offered.contains("--password-file"), "{offered}");
}

#[test]
fn a_shell_is_offered_names_from_where_the_words_lead() {
    let mut machine = Machine::new();
    machine.run("init shop -q").ok();
    machine.set("NEXUSCTL_COMPLETE", "");
    machine.run("topology apply --project shop -q").ok();
    machine.run("context add staging --broker embedded: -q").ok();
    machine.set("NEXUSCTL_COMPLETE", "fish");
    let offered = |line: &str| machine.run(line).ok();
    assert_eq!(offered("-- nexusctl context show sta"), "staging\n");
    assert_eq!(
        offered("-- nexusctl consume --project shop agent."),
        "agent.planner\nagent.worker\n"
    );
    assert_eq!(offered("-- nexusctl publish --project=shop nexus.a"), "nexus.agents\n");
    // A Tab makes no state file.
    assert_eq!(offered("-- nexusctl consume agent."), "");
    assert!(!machine.root().join("home/.local").exists());
}

#[test]
fn every_code_that_the_program_may_show_is_explained() {
    let mut codes = std::collections::BTreeSet::new();
    let mut files = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        // `Code("a/b")`, and `NAME = "a/b";` in the macros that declare many.
        for (at, _) in text.match_indices('"') {
            let before = text[..at].trim_end();
            let Some(code) = text[at + 1..].split('"').next() else { continue };
            let declared = before.ends_with("Code(")
                || (before.ends_with('=') && text[at + code.len() + 2..].starts_with(';'));
            let shaped = code.split_once('/').is_some_and(|(room, name)| {
                [room, name].iter().all(|part| {
                    !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '-')
                })
            });
            if declared && shaped {
                codes.insert(code.to_owned());
            }
        }
    }
    assert!(codes.len() > 60, "{}", codes.len());
    let machine = Machine::new();
    let missing: Vec<&String> =
        codes.iter().filter(|code| machine.run(&format!("explain {code}")).status != 0).collect();
    assert!(missing.is_empty(), "not explained: {missing:?}");
}

#[test]
fn wrong_usage_comes_with_what_was_meant_or_how_it_is_written() {
    let machine = Machine::new();
    for (line, hint) in [
        ("consum q", "a similar subcommand exists: 'consume'"),
        ("consume q --cuont 1", "a similar argument exists: '--count'"),
        ("consume", "write `nexusctl consume <QUEUE>`; `--help` explains it"),
        ("consume q --count x", "`--help` explains it"),
    ] {
        let ran = machine.run(line);
        assert_eq!(ran.status, 64, "{line}");
        let last = format!("\n\nhint: {hint}\n");
        assert!(ran.stderr.ends_with(&last), "{line}: {}", ran.stderr);
    }
}
