//! `dlq import`: letters of a bundle go back to their queue, or to where they are worked on.

use std::path::PathBuf;

use clap::Args;

use crate::base::id::QueueName;
use crate::deadletter::bundle_source::{Contents, examine};
use crate::deadletter::replay::spec::{RunSpec, Verb};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::execute::{self, NewRun};
use super::how::PaceArgs;
use super::replay::RunArgs;
use super::selection::SelectionArgs;

/// Arguments of `dlq import`.
#[derive(Debug, Args)]
#[command(
    after_help = "The whole bundle is verified before anything is sent. Letters come as they lay, in their \
    order, behind what waits; only CC, BCC and a user id that is not ours are kept in headers, since \
    a broker would send them to further queues, or refuse them. A killed import goes on with `dlq resume`: \
    no more letters than --window come twice for each kill, and `dlq run show RUN` names them.\n\n\
    Examples:\n  \
    nexusctl dlq import poison.ndjson --dry-run\n  \
    nexusctl dlq import poison.ndjson --to dead.lab --first 10 --yes\n  \
    nexusctl dlq import poison.ndjson --replay --yes"
)]
pub(super) struct ImportArgs {
    /// The bundle, as `dlq drop` or `dlq export` wrote it
    bundle: PathBuf,
    /// All of them to this queue; to the one that they lay in when left out
    #[arg(long, value_name = "QUEUE", conflicts_with_all = ["via_exchange", "replay"])]
    to: Option<QueueName>,
    /// Replay them, each to the exchange it had been published to; other queues may get it too
    #[arg(long, conflicts_with = "replay")]
    via_exchange: bool,
    /// Replay them, each to the queue it died in
    #[arg(long)]
    replay: bool,
    #[command(flatten)]
    letters: SelectionArgs,
    #[command(flatten)]
    pace: PaceArgs,
    /// Send to a queue that will drop its oldest messages
    #[arg(long)]
    allow_loss: bool,
    /// Take what there is of a bundle that has no end
    #[arg(long)]
    incomplete: bool,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &ImportArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let selection = args.letters.selection(session)?;
    let path = session.resolve(&args.bundle);
    if path.to_str().is_none() {
        return Err(CliError::input(format!("the name {} is no UTF-8", path.display())));
    }
    let contents = examine(&path, &selection)?;
    if !contents.is_whole && !args.incomplete {
        let message = format!(
            "cannot import {}: it has no end after {} letters, so some may be missing",
            path.display(),
            contents.letters
        );
        return Err(CliError::input(message).object(path.display().to_string()).hint(format!(
            "nothing was touched; `nexusctl dlq resume {}` where it was written ends it, or take what there \
             is with `--incomplete`",
            contents.head.run
        )));
    }
    let begin_anew = args.replay || args.via_exchange;
    let lay_in = contents.head.queue.clone();
    let to = args.to.clone().or_else(|| (!begin_anew).then_some(lay_in));
    let mut spec = RunSpec {
        to,
        via_exchange: args.via_exchange,
        begin_anew,
        selection,
        allow_loss: args.allow_loss,
        ..of_bundle(&contents)
    };
    args.pace.apply(&mut spec);
    begin(spec, contents, &args.run, session)
}

/// What every import of this bundle asks for.
pub(super) fn of_bundle(contents: &Contents) -> RunSpec {
    RunSpec {
        verb: Verb::Import,
        bundle: Some(contents.path.clone()),
        bundle_seal: Some(contents.seal.to_string()),
        ..RunSpec::default()
    }
}

/// Begins an import.
pub(super) fn begin(
    spec: RunSpec,
    contents: Contents,
    run: &RunArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let queue = contents.head.queue.clone();
    spec.check(&queue)?;
    execute::begin_from(NewRun { queue, spec, named: run.clone() }, Some(contents), session)
}
