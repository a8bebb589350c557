//! `dlq resume`: a run that was stopped or killed goes on, by what its journal has.

use clap::Args;

use crate::deadletter::replay::store::{Journal, Phase, StoredRun};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::state;

/// Arguments of `dlq resume`.
#[derive(Debug, Args)]
#[command(
    after_help = "What was confirmed and came back is acked without another copy where that can be \
    proved: on a classic queue that nobody else consumes. Elsewhere it comes twice, and is listed by \
    `dlq run show`. A run of the same queue that began later supersedes this one.\n\nExamples:\n  \
    nexusctl dlq resume night-1 --dry-run\n  \
    nexusctl dlq resume night-1"
)]
pub(super) struct ResumeArgs {
    /// The run, as `dlq runs` lists it
    run: String,
    /// Send no more, and only bring back the letters that wait elsewhere: for a run with --staged
    #[arg(long)]
    pub(super) bring_back: bool,
    /// Say what would be done and what stands in the way, and touch nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Go on although too many of those that --canary sent first came back
    #[arg(long)]
    pub(super) despite_canary: bool,
}

/// Opens the journal and finds a run in it.
pub(super) async fn find(id: &str, settings: &Settings) -> Result<(Journal, StoredRun), CliError> {
    let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
    match journal.run(id)? {
        Some(run) => Ok((journal, run)),
        None => {
            let known: Vec<String> = journal.runs(100)?.into_iter().map(|run| run.id).collect();
            let hint = if known.is_empty() { "nothing was replayed yet" } else { "" };
            let error = state::unknown("run", id, &known);
            Err(if hint.is_empty() { error } else { error.hint(hint) })
        }
    }
}

pub(super) fn run(args: &ResumeArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let (_, stored) = session.drive(find(&args.run, &settings))?;
    if args.bring_back && stored.stage.is_none() {
        let message = format!("run `{}` has put no letters elsewhere", stored.id);
        return Err(CliError::usage(message).object(&stored.id));
    }
    match stored.phase {
        Phase::Superseded => {
            let message = format!(
                "cannot resume run `{}`: another run of queue `{}` began after it",
                stored.id, stored.queue
            );
            Err(CliError::failed(message)
                .object(&stored.id)
                .hint("resume that one, or begin a new run for what is left"))
        }
        Phase::Done => {
            session.ui.status(format!("run {} is done already", stored.id));
            super::run::show(&stored.id, session)
        }
        Phase::Open | Phase::Stopped => super::execute::again(stored, args, session),
    }
}
