//! `dlq move`, `dlq copy` and `dlq park`: letters go to another queue, dead as they are.

use clap::Args;

use crate::base::id::QueueName;
use crate::deadletter::replay::spec::{RunSpec, Verb};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::execute::{self, NewRun};
use super::how::MeansArgs;
use super::replay::RunArgs;

/// Arguments of `dlq move`.
#[derive(Debug, Args)]
#[command(
    after_help = "A moved letter is still dead: it keeps its x-death headers, `dlq show` explains it, and \
    how often it was replayed does not change. CC, BCC and a foreign user id are kept in headers of ours, \
    so that it goes to this queue alone. Each letter is acked only after the broker has confirmed its \
    copy; a killed move goes on with `dlq resume`, and `dlq undo` takes back what still is there.\n\n\
    Examples:\n  \
    nexusctl dlq move dead.agent.worker --to dead.poison --where \"reason == 'rejected'\" --dry-run\n  \
    nexusctl dlq move dead.agent.worker --to dead.poison --first 10 --yes --reason 'for the team'"
)]
pub(super) struct MoveArgs {
    /// The queue that the letters are in
    queue: QueueName,
    /// The queue that they go to
    #[arg(long, value_name = "QUEUE")]
    to: QueueName,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Arguments of `dlq copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "The letters are held while they are copied, and are back at their places in the end. \
    The copies are as those that `dlq move` makes.\n\nExamples:\n  \
    nexusctl dlq copy dead.agent.worker --to dead.samples --first 5 --dry-run\n  \
    nexusctl dlq copy dead.agent.worker --to dead.samples --first 5 --yes"
)]
pub(super) struct CopyArgs {
    /// The queue that the letters are in
    queue: QueueName,
    /// The queue that the copies go to
    #[arg(long, value_name = "QUEUE")]
    to: QueueName,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Arguments of `dlq park`.
#[derive(Debug, Args)]
#[command(
    after_help = "A parked letter is moved, as `dlq move` does it, to where nobody works on it. When that \
    queue is not there it is declared, durable and of the same type; the plan says so.\n\nExamples:\n  \
    nexusctl dlq park dead.agent.worker --where \"reason == 'rejected'\" --dry-run\n  \
    nexusctl dlq park dead.agent.worker --to dead.later --yes"
)]
pub(super) struct ParkArgs {
    /// The queue that the letters are in
    queue: QueueName,
    /// The queue that they go to, QUEUE.parked when left out
    #[arg(long, value_name = "QUEUE")]
    to: Option<QueueName>,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn go(
    verb: Verb,
    queue: &QueueName,
    to: QueueName,
    means: &MeansArgs,
    run: &RunArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let spec = RunSpec { verb, to: Some(to), ..RunSpec::default() };
    let spec = means.spec(spec, queue, session)?;
    execute::begin(NewRun { queue: queue.clone(), spec, named: run.clone() }, session)
}

pub(super) fn run_move(args: &MoveArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let MoveArgs { queue, to, means, run } = args;
    go(Verb::Move, queue, to.clone(), means, run, session)
}

pub(super) fn run_copy(args: &CopyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CopyArgs { queue, to, means, run } = args;
    go(Verb::Copy, queue, to.clone(), means, run, session)
}

pub(super) fn run_park(args: &ParkArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ParkArgs { queue, to, means, run } = args;
    let to = match to {
        Some(to) => to.clone(),
        None => QueueName::new(format!("{queue}.parked")).map_err(|error| {
            CliError::usage(format!("cannot name the queue to park in: {error}"))
                .hint("name one with `--to`")
        })?,
    };
    go(Verb::Park, queue, to, means, run, session)
}
