//! Finding the scan, and the letter in it, that a command is about.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::deadletter::select::{IdPrefix, SHORTEST_PREFIX};
use crate::deadletter::store::{FindError, Scan, ScanId, StoredLetter};
use crate::deadletter::{Scans, Selection};

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Style, count};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

/// Which scan is asked.
#[derive(Clone, Debug, Args)]
pub(in crate::cli) struct ScanOf {
    /// Ask the newest scan of this queue; the newest of all when left out
    #[arg(long, value_name = "QUEUE")]
    pub(in crate::cli) queue: Option<QueueName>,
    /// Ask the scan of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "queue")]
    pub(in crate::cli) scan: Option<i64>,
}

/// Opens the scans; `None` when nothing was ever kept, since looking makes no file.
pub(in crate::cli) async fn look(settings: &Settings) -> Result<Option<Scans>, CliError> {
    if settings.state.value.try_exists().is_ok_and(|exists| !exists) {
        return Ok(None);
    }
    Ok(Some(Scans::open(&settings.state.value, settings.timeout()).await?))
}

fn no_scan(of: &ScanOf, known: &[Scan]) -> CliError {
    let message = match (&of.queue, of.scan) {
        (Some(queue), _) => format!("queue `{queue}` was not scanned"),
        (None, Some(number)) => format!("there is no scan {number}"),
        (None, None) => "no queue was scanned".to_owned(),
    };
    let mut names: Vec<String> = known.iter().map(|s| s.of.queue.as_str().to_owned()).collect();
    names.dedup();
    names.truncate(6);
    let hint = match &of.queue {
        Some(queue) => format!("run `nexusctl dlq scan {queue}`"),
        None if names.is_empty() => {
            "`nexusctl dlq list` finds the queues, `nexusctl dlq scan QUEUE` reads one".to_owned()
        }
        None => format!("`nexusctl dlq scans` lists them: {}", names.join(", ")),
    };
    CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).hint(hint)
}

/// The scans and the one of them that is asked. Says so when that one is not the whole queue.
pub(in crate::cli) fn pick(of: &ScanOf, session: &mut Session) -> Result<(Scans, Scan), CliError> {
    let settings = session.settings()?;
    let found = session.drive(unless_stopped(&session.stop, look(&settings)))?;
    let Some(scans) = found else { return Err(no_scan(of, &[])) };
    let known = scans.scans(None)?;
    let wanted = |scan: &&Scan| match (&of.queue, of.scan) {
        (Some(queue), _) => scan.of.queue == *queue,
        (None, Some(number)) => scan.id == ScanId(number),
        (None, None) => true,
    };
    // One that was cut off only when there is no other.
    let mut fitting = known.iter().filter(wanted);
    let newest = fitting.clone().next();
    let ended = fitting.find(|scan| scan.ended.is_some());
    let Some(scan) = ended.or(newest).cloned() else { return Err(no_scan(of, &known)) };
    if scan.ended.is_none() {
        session.ui.warning(format!("scan {} was cut off, or goes on", scan.id.0));
    } else if !scan.complete {
        let why = scan.remark.as_deref().unwrap_or("it did not reach the end of the queue");
        session.ui.warning(format!("scan {} is not the whole queue: {why}", scan.id.0));
    }
    Ok((scans, scan))
}

/// The letter that a word means: its id or the beginning of it, or `@` and its place.
pub(in crate::cli) fn letter(
    scans: &Scans,
    scan: &Scan,
    word: &str,
) -> Result<StoredLetter, CliError> {
    let missing = |what: String| {
        let message = format!("{what} in scan {} of queue `{}`", scan.id.0, scan.of.queue);
        CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message)
            .object(word)
            .hint("`nexusctl dlq letters` lists them")
    };
    if let Some(place) = word.strip_prefix('@') {
        let position: u64 = place.parse().map_err(|_| {
            CliError::usage(format!("`{word}` is no place; write @1 for the first"))
        })?;
        let found = scans.at(scan.id, position)?;
        return found.ok_or_else(|| missing(format!("there is no letter {position}")));
    }
    let Some(prefix) = IdPrefix::parse(word) else {
        return Err(CliError::usage(format!(
            "`{word}` is no letter: write its id, at least the first {SHORTEST_PREFIX} letters of it, or @ \
             and its place"
        )));
    };
    let selection = Selection { ids: vec![prefix], ..Selection::default() };
    let mut found = scans.find(scan, &selection, 1)?;
    found.letters.pop().ok_or_else(|| missing(format!("there is no letter `{word}`")))
}

impl From<FindError> for CliError {
    fn from(error: FindError) -> Self {
        match error {
            FindError::Storage(error) => error.into(),
            FindError::Select(error) => error.into(),
        }
    }
}

/// A scan as it is shown.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScanRow {
    /// Its number.
    pub(super) scan: i64,
    /// The queue that was read.
    pub(super) queue: String,
    /// Its vhost.
    pub(super) vhost: String,
    /// The cluster's name, or the embedded broker's id.
    pub(super) cluster: String,
    /// When it began.
    pub(super) began: String,
    /// When it ended; null when it was cut off, or goes on.
    pub(super) ended: Option<String>,
    /// Messages that were ready when it began; null in a stream.
    pub(super) depth: Option<u64>,
    /// Letters that were seen.
    pub(super) letters: u64,
    /// Of these, how many share their name with another.
    pub(super) twins: u64,
    /// Of these, how many bodies are not kept whole.
    pub(super) cut: u64,
    /// The oldest death.
    pub(super) oldest: Option<String>,
    /// The newest death.
    pub(super) newest: Option<String>,
    /// Whether everything that was ready was seen.
    pub(super) complete: bool,
    /// What else to know.
    pub(super) remark: Option<String>,
}

/// A time as text.
pub(super) fn shown(time: Option<Timestamp>) -> Option<String> {
    time.map(|time| time.to_string())
}

impl ScanRow {
    pub(super) fn new(scan: &Scan) -> ScanRow {
        ScanRow {
            scan: scan.id.0,
            queue: scan.of.queue.to_string(),
            vhost: scan.of.vhost.clone(),
            cluster: scan.of.cluster.clone(),
            began: scan.began.to_string(),
            ended: shown(scan.ended),
            depth: scan.depth,
            letters: scan.letters,
            twins: scan.twins,
            cut: scan.cut,
            oldest: shown(scan.oldest),
            newest: shown(scan.newest),
            complete: scan.complete,
            remark: scan.remark.clone(),
        }
    }

    /// The scan in one line.
    pub(super) fn line(&self, style: Style) -> String {
        let name = style.strong(&self.queue);
        let part = if self.complete { "" } else { ", not the whole queue" };
        let letters = count(self.letters, "letter");
        format!("{name}, scan {} of {}: {letters}{part}", self.scan, self.began)
    }
}
