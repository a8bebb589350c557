//! `dlq drop` and `dlq export`: letters go into a bundle; and finding the bundle of a run again.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::base::id::QueueName;
use crate::deadletter::bundle::Head;
use crate::deadletter::bundle_file::{BundleFileError, BundleReader, IntoBundle};
use crate::deadletter::bundle_source::{Contents, ExamineError, examine};
use crate::deadletter::replay::spec::{RunSpec, Verb};
use crate::deadletter::replay::store::{Journal, StoredRun};

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::execute::{self, NewRun};
use super::how::MeansArgs;
use super::replay::RunArgs;

/// Arguments of `dlq drop`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each letter is on the disk, in a bundle, before it is acked; `dlq undo RUN` puts them all \
    back, and `dlq import` some of them. A bundle is NDJSON: a head, a letter a line with its bytes, \
    properties and typed headers, and an end; every line is sealed with a checksum over it and the line \
    before. Only its owner may read it.\n\nExamples:\n  \
    nexusctl dlq drop dead.agent.worker --where \"reason == 'expired'\" --dry-run\n  \
    nexusctl dlq drop dead.agent.worker --select g-abcdefgh23 --bundle poison.ndjson --yes"
)]
pub(super) struct DropArgs {
    /// The queue that the letters are in
    queue: QueueName,
    /// The file, which must not be there yet; QUEUE-RUN.bundle.ndjson here when left out
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    run: RunArgs,
}

/// Arguments of `dlq export`.
#[derive(Debug, Args)]
#[command(
    after_help = "The letters are held while they are written, and are back at their places in the end. \
    The bundle is as that of `dlq drop`, and `dlq import` takes it.\n\nExamples:\n  \
    nexusctl dlq export dead.agent.worker --bundle evidence.ndjson\n  \
    nexusctl dlq export dead.agent.worker --first 100"
)]
pub(super) struct ExportArgs {
    /// The queue that the letters are in
    queue: QueueName,
    /// The file, which must not be there yet; QUEUE-RUN.bundle.ndjson here when left out
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    #[command(flatten)]
    means: MeansArgs,
    #[command(flatten)]
    run: RunArgs,
}

fn go(
    verb: Verb,
    queue: &QueueName,
    bundle: Option<PathBuf>,
    means: &MeansArgs,
    run: &RunArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let spec = RunSpec { verb, bundle, ..RunSpec::default() };
    let spec = means.spec(spec, queue, session)?;
    execute::begin(NewRun { queue: queue.clone(), spec, named: run.clone() }, session)
}

pub(super) fn run_drop(args: &DropArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DropArgs { queue, bundle, means, run } = args;
    go(Verb::Drop, queue, bundle.clone(), means, run, session)
}

pub(super) fn run_export(args: &ExportArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ExportArgs { queue, bundle, means, run } = args;
    go(Verb::Export, queue, bundle.clone(), means, run, session)
}

/// Where the bundle of a new run is to be, seen from anywhere.
pub(super) fn place_for(
    asked: Option<PathBuf>,
    queue: &QueueName,
    run: &str,
    session: &Session,
) -> Result<PathBuf, CliError> {
    let path = asked.unwrap_or_else(|| {
        let fits = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let name: String = format!("{queue}-{run}").chars().map(fits).collect();
        // Longer names than 255 bytes no disk takes.
        let end = name.floor_char_boundary(200);
        PathBuf::from(format!("{}.bundle.ndjson", name.get(..end).unwrap_or_default()))
    });
    let path = session.resolve(&path);
    let refused = |why: String| {
        let message = format!("cannot write the bundle {}: {why}", path.display());
        CliError::new(code::FILE, ExitStatus::Failed, message)
    };
    if path.to_str().is_none() {
        return Err(refused("its name is no UTF-8".to_owned()));
    }
    if path.try_exists().unwrap_or(false) {
        return Err(refused("there is such a file already".to_owned())
            .hint("nothing was touched; name another with `--bundle`"));
    }
    match path.parent() {
        Some(folder) if !folder.is_dir() => {
            Err(refused(format!("there is no directory {}", folder.display()))
                .hint("nothing was touched; make it first"))
        }
        _ => Ok(path),
    }
}

/// The bundle that a run writes.
pub(super) fn into(path: &Path, queue: &QueueName, stored: &StoredRun, is_new: bool) -> IntoBundle {
    let mut head = Head::new(stored.id.clone(), queue.clone(), stored.started);
    head.vhost.clone_from(&stored.vhost);
    head.broker.clone_from(&stored.broker);
    head.who.clone_from(&stored.who);
    head.reason.clone_from(&stored.reason);
    IntoBundle { path: path.to_owned(), head, goes_on: !is_new }
}

impl From<ExamineError> for CliError {
    fn from(error: ExamineError) -> Self {
        match error {
            ExamineError::File(error) => error.into(),
            ExamineError::Select(error) => error.into(),
        }
    }
}

impl From<BundleFileError> for CliError {
    fn from(error: BundleFileError) -> Self {
        match error {
            BundleFileError::File { what, path, error } => {
                CliError::file(format!("{what} {}", path.display()), &error)
            }
            error @ BundleFileError::Line { .. } => CliError::input(error.to_string())
                .hint("nothing was touched; what is before that line is good"),
            error => CliError::input(error.to_string()),
        }
    }
}

/// Finds the bundle of a run again, before it goes on: that which its letters come from, or that which
/// has to have all that was acked.
pub(super) fn contents_again(
    stored: &StoredRun,
    spec: &RunSpec,
    session: &mut Session,
) -> Result<Option<Contents>, CliError> {
    let Some(path) = &spec.bundle else { return Ok(None) };
    if spec.verb.reads_bundle() {
        let contents = examine(path, &spec.selection)?;
        if spec.bundle_seal.as_deref() != Some(contents.seal.to_string().as_str()) {
            let message = format!(
                "cannot resume run `{}`: {} is not the bundle that it began with",
                stored.id,
                path.display()
            );
            return Err(CliError::input(message).object(path.display().to_string()));
        }
        return Ok(Some(contents));
    }
    let settings = session.settings()?;
    let written = session.drive(async {
        let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
        let tally = journal.tally(&stored.id)?;
        Ok(tally.confirmed + tally.skipped + tally.copied)
    })?;
    if written > 0 {
        has_all(path, stored, written, "resume")?;
    }
    Ok(None)
}

/// Fails when a bundle has fewer letters than its run has confirmed.
pub(super) fn has_all(
    path: &Path,
    stored: &StoredRun,
    confirmed: u64,
    what: &str,
) -> Result<(), CliError> {
    let mut reader = BundleReader::open(path)?;
    reader.verify()?;
    let there = reader.letters();
    if there >= confirmed {
        return Ok(());
    }
    let message = format!(
        "cannot {what} run `{}`: its bundle {} has {there} letters, and {confirmed} were written",
        stored.id,
        path.display()
    );
    Err(CliError::input(message).object(path.display().to_string()))
}
