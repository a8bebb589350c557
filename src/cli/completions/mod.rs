//! `nexusctl completions SHELL`, and what the printed scripts ask for on every Tab.
//!
//! The scripts are small: they run `nexusctl` with [`VARIABLE`] set, which answers with candidates
//! for the words typed so far. So they never go stale, and names of contexts, queues and exchanges
//! come from where the words point to.

mod names;

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

/// Set by the scripts to the name of their shell.
pub const VARIABLE: &str = "NEXUSCTL_COMPLETE";

/// Arguments of `completions`.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "Add to your shell's start-up file:\n  \
    bash        source <(nexusctl completions bash)\n  \
    zsh         source <(nexusctl completions zsh)\n  \
    fish        nexusctl completions fish | source\n  \
    elvish      eval (nexusctl completions elvish | slurp)\n  \
    powershell  nexusctl completions powershell | Out-String | Invoke-Expression\n\n\
    Examples:\n  nexusctl completions bash\n  nexusctl completions fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell with completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
    /// Elvish
    Elvish,
    /// PowerShell
    Powershell,
}

impl Shell {
    /// Every shell.
    pub const ALL: [Shell; 5] =
        [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::Powershell];

    /// The file name of its script, as packagers install it.
    pub const fn file_name(self) -> &'static str {
        match self {
            Shell::Bash => "nexusctl.bash",
            Shell::Zsh => "_nexusctl",
            Shell::Fish => "nexusctl.fish",
            Shell::Elvish => "nexusctl.elv",
            Shell::Powershell => "nexusctl.ps1",
        }
    }

    fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Shell::Bash => &Bash,
            Shell::Zsh => &Zsh,
            Shell::Fish => &Fish,
            Shell::Elvish => &Elvish,
            Shell::Powershell => &Powershell,
        }
    }
}

/// The script of `shell`.
pub fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    // Writing to memory does not fail.
    let _ = shell.completer().write_registration(
        VARIABLE,
        "nexusctl",
        "nexusctl",
        "nexusctl",
        &mut script,
    );
    script
}

/// Prints the script.
pub(super) fn run(args: CompletionsArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CompletionsArgs { shell } = args;
    session.ui.data(&script(shell))?;
    Ok(ExitStatus::Done)
}

/// Answers a script: candidates for the last of `args`, whose words come after `--`.
pub(super) fn complete(
    shell: &str,
    args: Vec<OsString>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let known = Shell::ALL.into_iter().find(|known| known.completer().is(shell));
    let Some(known) = known else {
        return Err(CliError::usage(format!("there is no completion for the shell `{shell}`")));
    };
    let words: Vec<OsString> = args.into_iter().skip_while(|arg| arg != "--").skip(1).collect();
    let mut candidates = Vec::new();
    let mut command = names::complete_names(super::command(), &words, session);
    known
        .completer()
        .write_complete(&mut command, words, Some(&session.cwd), &mut candidates)
        .map_err(|error| CliError::file("complete the command line", &error))?;
    session.ui.data(&candidates)?;
    Ok(ExitStatus::Done)
}
