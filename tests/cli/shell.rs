//! Completions, manual pages, examples, schemas of all output.

use std::collections::BTreeMap;

use crate::harness::Machine;

fn leaves(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
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

/// Documents by kind, made by running commands.
#[allow(dead_code, reason = "grows with the commands")]
type Documents = BTreeMap<String, serde_json::Value>;
