//! `dlq replay`: what it would do, what stands in its way, and then doing it.

use clap::Args;

use crate::base::id::QueueName;
use crate::deadletter::replay::spec::Verb;

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::execute::{self, NewRun};
use super::how::HowArgs;

/// Arguments of `dlq replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each letter goes back to the queue it died in, unless --to, --via-exchange or \
    --to-exchange says otherwise, and is acked only after the broker has confirmed it. Letters that are \
    not wanted, returned or refused are back at their places in the end. What is intended is written \
    into the journal first: after a kill at any point `dlq resume RUN` goes on, no more letters than \
    --window come twice for each kill, and `dlq run show RUN` names them. Every copy of a letter has the \
    same header x-nexus-replay-key.\n\nStatus 3: partly done, the report says what; 4: something \
    stands in the way, or consent is missing; 75: somebody else replays the queue.\n\nExamples:\n  \
    nexusctl dlq replay dead.agent.worker --to agent.worker --dry-run\n  \
    nexusctl dlq replay dead.agent.worker --yes --reason 'handler mended'\n  \
    nexusctl dlq replay dead.agent.worker --where 'size > 100' --first 10 --yes\n  \
    nexusctl dlq replay dead.agent.worker --where 'size > 100' --staged --dry-run\n  \
    nexusctl dlq replay dead.agent.worker --order key:headers.order --dry-run"
)]
pub(super) struct ReplayArgs {
    /// The queue that the letters are in
    queue: QueueName,
    #[command(flatten)]
    how: HowArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// What a run is called, and why it is.
#[derive(Clone, Debug, Args)]
pub(super) struct RunArgs {
    /// Name the run, for `dlq resume` and `dlq run show`
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(super) run: Option<String>,
    /// Why: kept with the run
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Say what would be done and what stands in the way, and touch nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

pub(super) fn run(args: &ReplayArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ReplayArgs { queue, how, run } = args;
    let spec = how.spec(Verb::Replay, queue, session)?;
    execute::begin(NewRun { queue: queue.clone(), spec, named: run.clone() }, session)
}
