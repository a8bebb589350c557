//! The terminal: arguments → settings → request → one call into a room → report → view → exit status.
//!
//! The only room that prints, prompts, reads the environment or installs a signal handler. It knows no
//! SQL and no AMQP.
//!
//! [`run`] takes the arguments and a [`Host`], so that a test runs a command in process with streams,
//! environment and clock of its own. A command is a folder: `mod.rs` has its arguments and `run`,
//! `view.rs` the report it prints.

pub mod args;
pub mod check;
pub mod circuit;
pub mod completions;
pub mod compose;
pub mod connect;
pub mod consent;
pub mod consume;
pub mod context;
pub mod credentials;
pub mod dlq;
pub mod ending;
pub mod error;
pub mod exit;
pub mod explain;
pub mod host;
pub mod init;
pub mod limit;
pub mod journal;
pub mod man;
pub mod missing;
pub mod output;
pub mod play;
pub mod progress;
pub mod publish;
pub mod queue;
pub mod quickstart;
pub mod record;
pub mod request;
pub mod runtime;
pub mod schemas;
pub mod sequence;
pub mod session;
pub mod settings;
pub mod signals;
mod state;
pub mod tap;
pub mod topology;
pub mod version;
pub mod worker;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

use crate::telemetry::logs::{self, LogFormat};

pub use exit::ExitStatus;
pub use host::Host;

use args::{Cli, Command};
use error::{CliError, code};
use output::{Format, Verbosity};
use session::Session;

/// Runs the real process: its arguments, its streams, its environment.
pub fn process() -> ExitStatus {
    let run = || run(std::env::args_os(), Host::process());
    match std::panic::catch_unwind(run) {
        Ok(status) => status,
        // The panic hook has said what and where.
        Err(_) => ExitStatus::Internal,
    }
}

/// Runs one command. The first argument is the name of the program.
pub fn run(args: impl IntoIterator<Item = OsString>, host: Host) -> ExitStatus {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut session = Session::new(host);
    if let [_, only] = args.as_slice()
        && (only == "--version" || only == "-V")
    {
        // The most frequent question of scripts needs no command tree.
        return end(&mut session, version::short);
    }
    if session.is_process
        && let [_, only] = args.as_slice()
        && only == worker::GUARD
    {
        worker::guard_handlers(session.take_stdin());
        return ExitStatus::Done;
    }
    if let Some(shell) = session.environment.get(completions::VARIABLE).map(str::to_owned) {
        return end(&mut session, |session| completions::complete(&shell, args, session));
    }
    session.ui.format = format_of(&args, &session);
    end(&mut session, |session| {
        let cli = parse(&args, session)?;
        session.configure(cli.global)?;
        log(session)?;
        dispatch(cli.command, session)
    })
}

fn end(
    session: &mut Session,
    work: impl FnOnce(&mut Session) -> Result<ExitStatus, CliError>,
) -> ExitStatus {
    match work(session) {
        Ok(status) => status,
        Err(error) => {
            if !error.silent {
                session.ui.error(&error);
            }
            error.status
        }
    }
}

/// Begins logging on stderr when it is asked for. Only the process has a subscriber to set.
fn log(session: &Session) -> Result<(), CliError> {
    let asked = match session.ui.verbosity {
        Verbosity::Debug => Some("nexus=trace"),
        Verbosity::Verbose => Some("nexus=debug"),
        Verbosity::Normal | Verbosity::Quiet => None,
    };
    let variable = session.environment.get("NEXUSCTL_LOG");
    let Some(filter) = variable.or(asked).filter(|_| session.is_process) else { return Ok(()) };
    let format = if session.ui.format.is_machine() {
        LogFormat::Json
    } else {
        LogFormat::Text { color: session.ui.stderr_style.color }
    };
    let subscriber = logs::subscriber(filter, format, Box::new(std::io::stderr()))
        .map_err(|error| CliError::settings(format!("environment NEXUSCTL_LOG: {error}")))?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|error| CliError::new(code::INTERNAL, ExitStatus::Internal, error.to_string()))
}

/// The tree of all commands.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line. Help and version print themselves and end the run.
fn parse(args: &[OsString], session: &mut Session) -> Result<Cli, CliError> {
    let mut command = command();
    if let Some(columns) = session.ui.columns {
        command = command.term_width(columns.clamp(40, 100));
    }
    command
        .try_get_matches_from_mut(args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| match usage(&error, session) {
            Ok(error) | Err(error) => error,
        })
}

fn usage(error: &clap::Error, session: &mut Session) -> Result<CliError, CliError> {
    use clap::error::ErrorKind as K;
    let text = error.render().to_string();
    match error.kind() {
        K::DisplayHelp | K::DisplayVersion => {
            session.ui.data(text.as_bytes())?;
            Ok(CliError::quietly(ExitStatus::Done))
        }
        K::DisplayHelpOnMissingArgumentOrSubcommand => {
            session.ui.say(text.trim_end());
            Ok(CliError::quietly(ExitStatus::Usage))
        }
        _ => {
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
            let error = CliError::new(code::USAGE, ExitStatus::Usage, message.trim_end());
            Ok(error.hint(advice(rest)))
        }
    }
}

/// What the parser advises: the name that was meant, or how the command is written.
fn advice(paragraphs: &str) -> String {
    let paragraphs: Vec<&str> = paragraphs.split("\n\n").map(str::trim).collect();
    let tips: Vec<&str> = paragraphs.iter().filter_map(|text| text.strip_prefix("tip: ")).collect();
    let usage = paragraphs.iter().find_map(|text| text.strip_prefix("Usage: "));
    match (tips.is_empty(), usage) {
        (false, _) => tips.join("\n"),
        (true, Some(usage)) => format!("write `{usage}`; `--help` explains it"),
        (true, None) => "`--help` explains it".to_owned(),
    }
}

/// The output format as far as it can be seen before the command line is understood: for its errors.
fn format_of(args: &[OsString], session: &Session) -> Format {
    let mut given = None;
    let mut args = args.iter().filter_map(|arg| arg.to_str());
    while let Some(arg) = args.next() {
        match arg {
            "--" => break,
            "-o" | "--output" => given = args.next(),
            _ => {
                let value = arg.strip_prefix("--output=").or_else(|| {
                    arg.strip_prefix("-o").map(|value| value.strip_prefix('=').unwrap_or(value))
                });
                given = value.or(given);
            }
        }
    }
    given
        .or_else(|| session.environment.get("NEXUSCTL_OUTPUT"))
        .and_then(|format| format.parse().ok())
        .unwrap_or_default()
}

fn dispatch(command: Command, session: &mut Session) -> Result<ExitStatus, CliError> {
    match command {
        Command::Context(args) => context::run(args, session),
        Command::Explain(args) => explain::run(args, session),
        Command::Completions(args) => completions::run(args, session),
        Command::Man(args) => man::run(args, session),
        Command::Quickstart(args) => quickstart::run(args, session),
        Command::Check(args) => check::run(args, session),
        Command::Init(args) => init::run(args, session),
        Command::Consume(args) => consume::run(args, session),
        Command::Publish(args) => publish::run(*args, session),
        Command::Circuit(args) => circuit::run(args, session),
        Command::Limit(args) => limit::run(args, session),
        Command::Sequence(args) => sequence::run(args, session),
        Command::Request(args) => request::run(*args, session),
        Command::Worker(args) => worker::run(*args, session),
        Command::Respond(args) => worker::respond(*args, session),
        Command::Queue(args) => queue::run(args, session),
        Command::Dlq(args) => dlq::run(args, session),
        Command::Record(args) => record::run(*args, session),
        Command::Play(args) => play::run(*args, session),
        Command::Tap(args) => tap::run(*args, session),
        Command::Journal(args) => journal::run(args, session),
        Command::Topology(args) => topology::run(args, session),
        Command::Version(args) => version::run(args, session),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        command().debug_assert();
    }
}
