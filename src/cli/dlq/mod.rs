//! `nexusctl dlq …`: dead letters, replayed without losing one.

mod replay;
mod resume;
mod run;
mod runs;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

pub use replay::ReplayView;
pub use run::ReplayRunView;
pub use runs::ReplayRunsView;

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Send letters back to where they are worked on, each acked only after it is confirmed there
    Replay(Box<replay::ReplayArgs>),
    /// Go on with a replay that was stopped or killed
    Resume(resume::ResumeArgs),
    /// List replays
    Runs(runs::RunsArgs),
    /// Look at one replay
    Run(run::RunArgs),
}

/// Runs one of the commands.
pub(super) fn run(args: DlqArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DlqArgs { command } = args;
    match command {
        DlqCommand::Replay(args) => replay::run(*args, session),
        DlqCommand::Resume(args) => resume::run(&args, session),
        DlqCommand::Runs(args) => runs::run(&args, session),
        DlqCommand::Run(args) => run::run(args, session),
    }
}
