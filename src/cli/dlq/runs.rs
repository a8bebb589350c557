//! `dlq runs`: runs over dead letters that the journal has.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::deadletter::replay::spec::RunSpec;
use crate::deadletter::replay::store::{Journal, Stage, StoredRun};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::session::Session;

/// Arguments of `dlq runs`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl dlq runs\n  nexusctl dlq runs --most 5")]
pub(super) struct RunsArgs {
    /// So many at most, the newest first
    #[arg(long, value_name = "N", default_value_t = 20)]
    most: u32,
}

/// One run.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunRow {
    /// Its name.
    pub(super) run: String,
    /// What became of the letters: `replay`, `move`, `drop` and so on.
    pub(super) verb: &'static str,
    /// The bundle that they went into or came from.
    pub(super) bundle: Option<String>,
    /// The run that was undone.
    pub(super) undoes: Option<String>,
    /// The queue that the letters were in.
    pub(super) queue: String,
    /// The vhost.
    pub(super) vhost: String,
    /// The broker.
    pub(super) broker: String,
    /// When it began.
    pub(super) started: String,
    /// When it ended; null while it is open.
    pub(super) ended: Option<String>,
    /// `open` (at work, or killed), `stopped`, `done` or `superseded`.
    pub(super) phase: &'static str,
    /// How far it is when it puts letters elsewhere meanwhile: `select`, `newcomers`, `back` or `whole`;
    /// null for others.
    pub(super) stage: Option<&'static str>,
    /// How often it was begun.
    pub(super) attempts: u64,
    /// Letters that waited when it began.
    pub(super) ready: u64,
    /// Who began it.
    pub(super) who: String,
    /// Why it was begun.
    pub(super) reason: Option<String>,
}

impl From<&StoredRun> for RunRow {
    fn from(run: &StoredRun) -> Self {
        // What cannot be read was written by a later version; the rest is shown all the same.
        let spec: RunSpec = serde_json::from_str(&run.request).unwrap_or_default();
        RunRow {
            run: run.id.clone(),
            verb: spec.verb.as_str(),
            bundle: spec.bundle.map(|path| path.display().to_string()),
            undoes: spec.undoes,
            queue: run.queue.clone(),
            vhost: run.vhost.clone(),
            broker: run.broker.clone(),
            started: run.started.to_string(),
            ended: run.ended.map(|at| at.to_string()),
            phase: run.phase.as_str(),
            stage: run.stage.map(Stage::as_str),
            attempts: run.attempts,
            ready: run.watermark,
            who: run.who.clone(),
            reason: run.reason.clone(),
        }
    }
}

/// The newest runs.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayRunsView {
    /// The newest first.
    runs: Vec<RunRow>,
}

impl View for ReplayRunsView {
    const KIND: &'static str = "ReplayRuns";
    const ITEMS: Option<&'static str> = Some("runs");
    fn text(&self, page: &mut Page) {
        if self.runs.is_empty() {
            page.line("nothing was replayed yet");
            return;
        }
        let rows = self.runs.iter().map(|row| {
            [
                row.run.clone(),
                row.verb.to_owned(),
                row.queue.clone(),
                row.phase.to_owned(),
                row.ready.to_string(),
                row.started.clone(),
                row.reason.clone().unwrap_or_default(),
            ]
        });
        page.table(
            ["RUN", "VERB", "QUEUE", "PHASE", "LETTERS", "STARTED", "REASON"],
            rows.collect(),
        );
    }
}

pub(super) fn run(args: &RunsArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let runs = session.drive(async {
        // Looking makes no file.
        if settings.state.value.try_exists().is_ok_and(|exists| !exists) {
            return Ok(Vec::new());
        }
        let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
        Ok(journal.runs(args.most)?)
    })?;
    session.ui.report(&ReplayRunsView { runs: runs.iter().map(RunRow::from).collect() })?;
    Ok(ExitStatus::Done)
}
