//! `nexusctl sequence …`: which messages of a workflow were processed, and which are missing.

mod view;

use clap::{Args, Subcommand};

use crate::resilience::store::StoredSequence;

use super::error::CliError;
use super::exit::ExitStatus;
use super::runtime::unless_stopped;
use super::session::Session;
use super::state;

pub use view::{SequenceListView, SequenceView};

use view::{GapsView, SequenceRow};

/// Arguments of `sequence`.
#[derive(Debug, Args)]
pub struct SequenceArgs {
    /// What to do.
    #[command(subcommand)]
    command: SequenceCommand,
}

#[derive(Debug, Subcommand)]
enum SequenceCommand {
    /// List workflows and how much of them is missing
    List(ListArgs),
    /// Show the gaps of one workflow
    Show(ShowArgs),
}

/// Arguments of `sequence list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Workflows that a worker of this host follows, by queue and name.\n\nExamples:\n  \
    nexusctl sequence list\n  nexusctl sequence list --queue agent.worker --gaps"
)]
struct ListArgs {
    /// Only workflows of this queue, or of the scope that the worker was given
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only workflows of which something is missing
    #[arg(long)]
    gaps: bool,
    /// List no more than this
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Arguments of `sequence show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Missing are numbers below the highest that was processed. Written off are those that \
    were given up because too many gaps were open.\n\nExamples:\n  \
    nexusctl sequence show order-17\n  \
    nexusctl sequence show order-17 --queue agent.worker -o json"
)]
struct ShowArgs {
    /// The workflow
    workflow: String,
    /// Only in this queue, or in the scope that the worker was given
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
}

/// Runs one of the commands.
pub(super) fn run(args: SequenceArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let SequenceArgs { command } = args;
    match command {
        SequenceCommand::List(args) => list(args, session),
        SequenceCommand::Show(args) => show(&args, session),
    }
}

/// Hands the workflows to `see` until it says `false`.
fn each(
    session: &mut Session,
    queue: Option<&str>,
    workflow: Option<&str>,
    see: impl FnMut(StoredSequence) -> bool,
) -> Result<(), CliError> {
    let settings = session.settings()?;
    session.drive(unless_stopped(&session.stop, async {
        match state::look(&settings).await? {
            Some(state) => Ok(state.sequences(queue, workflow, see)?),
            None => Ok(()),
        }
    }))
}

fn list(args: ListArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ListArgs { queue, gaps, limit } = args;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut sequences = Vec::new();
    let mut more = false;
    each(session, queue.as_deref(), None, |stored| {
        let row = SequenceRow::new(&stored);
        if gaps && !row.has_gaps() {
            return true;
        }
        more = sequences.len() == limit;
        if !more {
            sequences.push(row);
        }
        !more
    })?;
    if more {
        session.ui.warning(format!("there are more than {limit}; `--limit` shows more"));
    }
    session.ui.report(&SequenceListView { sequences, more })?;
    Ok(ExitStatus::Done)
}

fn show(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    /// Names to compare with a slip.
    const COMPARED: usize = 10_000;
    let ShowArgs { workflow, queue } = args;
    let mut queues = Vec::new();
    each(session, queue.as_deref(), Some(workflow), |stored| {
        queues.push(GapsView::new(&stored));
        true
    })?;
    if queues.is_empty() {
        let mut known = Vec::new();
        each(session, queue.as_deref(), None, |stored| {
            known.push(stored.workflow);
            known.len() < COMPARED
        })?;
        known.dedup();
        let error = state::unknown("workflow", workflow, &known);
        return Err(match known.is_empty() {
            true => error.hint("no worker has followed a workflow on this host yet"),
            false => error,
        });
    }
    session.ui.report(&SequenceView { workflow: workflow.clone(), queues })?;
    Ok(ExitStatus::Done)
}
