//! `dlq letters`: letters of a scan.

use std::collections::BTreeMap;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::document::to_yaml;
use crate::base::id::QueueName;
use crate::deadletter::Fingerprint;
use crate::deadletter::labels::Label;
use crate::deadletter::sighting::Told;
use crate::deadletter::store::{Scan, StoredLetter};
use crate::deadletter::{LetterSet, Scans};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Format, Page, View, count, document};
use crate::cli::session::Session;

use super::label::LabelFileArgs;
use super::selection::SelectionArgs;
use super::stored::{ScanOf, ScanRow, pick, shown};

/// Arguments of `dlq letters`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the newest scan, not the queue. Status 2: no letter is meant.\n\nExamples:\n  \
    nexusctl dlq letters\n  \
    nexusctl dlq letters dead.agent.worker --where \"reason == 'rejected'\" --last 20\n  \
    nexusctl dlq letters --where 'size < 1000 && position > 1' -o json"
)]
pub(super) struct LettersArgs {
    /// Ask the newest scan of this queue; the newest of all when left out
    queue: Option<QueueName>,
    /// Ask the scan of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "queue")]
    scan: Option<i64>,
    /// List no more than so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    labels: LabelFileArgs,
    #[command(flatten)]
    selection: SelectionArgs,
}

/// A letter in a list.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct LetterRow {
    /// Its id.
    id: String,
    /// Its place in the queue, from 1.
    position: u64,
    /// Its group.
    group: String,
    /// What people call that; null when nobody has named it.
    label: Option<String>,
    /// When it died.
    died_at: Option<String>,
    /// Why it died; empty when nothing tells.
    reason: String,
    /// Where it belongs.
    queue: Option<String>,
    /// By which key it came there.
    routing_key: String,
    /// Its message id.
    message_id: Option<String>,
    /// Bytes of its body.
    size: u64,
}

impl LetterRow {
    fn new(letter: &StoredLetter, labels: &BTreeMap<Fingerprint, Label>) -> LetterRow {
        let told = Told::of(&letter.delivery);
        let own = letter.delivery.routing_key.as_str();
        LetterRow {
            id: letter.id.to_string(),
            position: letter.position,
            group: letter.group.to_string(),
            label: labels.get(&letter.group).map(|label| label.name.clone()),
            died_at: shown(letter.died_at),
            reason: told.reason().to_owned(),
            queue: told.origin.as_ref().map(|origin| origin.queue.to_string()),
            routing_key: told.origin.as_ref().map_or(own, |origin| &origin.routing_key).to_owned(),
            message_id: letter.delivery.message.properties.message_id.clone(),
            size: letter.size,
        }
    }
}

/// Letters of a scan.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLettersView {
    /// Which scan.
    scan: ScanRow,
    /// How many are meant.
    matched: u64,
    /// For how many the condition could not be decided; they are not meant.
    undecided: u64,
    /// In the order of the queue.
    letters: Vec<LetterRow>,
}

impl View for DeadLettersView {
    const KIND: &'static str = "DeadLetters";
    const ITEMS: Option<&'static str> = Some("letters");
    fn text(&self, page: &mut Page) {
        page.line(self.scan.line(page.style));
        page.gap();
        let rows = self.letters.iter().map(|letter| {
            [
                format!("@{}", letter.position),
                letter.id[..12.min(letter.id.len())].to_owned(),
                letter.label.clone().unwrap_or_else(|| letter.group.clone()),
                letter.died_at.clone().unwrap_or_default(),
                letter.reason.clone(),
                letter.queue.clone().unwrap_or_default(),
                letter.message_id.clone().unwrap_or_default(),
                letter.size.to_string(),
            ]
        });
        page.table(
            ["PLACE", "LETTER", "GROUP", "DIED", "REASON", "QUEUE", "MESSAGE", "BYTES"],
            rows.collect(),
        );
        let more = self.matched.saturating_sub(self.letters.len() as u64);
        if more > 0 {
            page.line(format!("and {} more", count(more, "letter")));
        }
    }
}

/// Rows that are made at once when many are written.
const BATCH: usize = 500;

/// Hands the letters at `places` to `out` as a document that `--selection` reads, a few at a time:
/// the document of `dlq letters`, or its lines.
///
/// # Errors
/// When the scans cannot be read, or what `out` fails with.
pub(super) fn write_selection(
    scans: &Scans,
    scan: &Scan,
    places: &LetterSet,
    format: Format,
    out: &mut dyn FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<u64, CliError> {
    let mut view = DeadLettersView {
        scan: ScanRow::new(scan),
        matched: places.len(),
        undecided: 0,
        letters: Vec::new(),
    };
    // A selection names letters; what their groups are called changes nothing in it.
    let unlabelled = BTreeMap::new();
    let mut written = 0;
    let frame = match format {
        Format::Ndjson => None,
        Format::Yaml => {
            let all: Vec<u64> = places.iter().collect();
            view.letters = scans
                .heads(scan.id, &all)?
                .iter()
                .map(|letter| LetterRow::new(letter, &unlabelled))
                .collect();
            out(to_yaml(&document(&view)).as_bytes())?;
            return Ok(view.letters.len() as u64);
        }
        Format::Json | Format::Table => Some(format!("{:#}", document(&view))),
    };
    // The list is the last field of the document.
    let head = frame.as_deref().map(|frame| frame.strip_suffix("]\n}").unwrap_or(frame));
    out(head.unwrap_or_default().as_bytes())?;
    let mut places = places.iter().peekable();
    while places.peek().is_some() {
        let batch: Vec<u64> = places.by_ref().take(BATCH).collect();
        let mut text = String::new();
        for letter in scans.heads(scan.id, &batch)? {
            let row = LetterRow::new(&letter, &unlabelled);
            let row = serde_json::to_value(row)
                .map_err(|error| CliError::failed(format!("cannot write a letter: {error}")))?;
            if frame.is_some() {
                let comma = if written > 0 { "," } else { "" };
                text.push_str(comma);
                text.push_str("\n    ");
                text.push_str(&format!("{row:#}").replace('\n', "\n    "));
            } else {
                text.push_str(&format!("{row}\n"));
            }
            written += 1;
        }
        out(text.as_bytes())?;
    }
    if frame.is_some() {
        out(if written > 0 { b"\n  ]\n}\n" } else { b"]\n}\n" })?;
    }
    Ok(written)
}

pub(super) fn run(args: LettersArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let LettersArgs { queue, scan, limit, labels, selection } = args;
    let labels = labels.read(session)?;
    let selection = selection.selection(session)?;
    let (scans, scan) = pick(&ScanOf { queue, scan }, session)?;
    let labels = match labels.is_empty() {
        true => BTreeMap::new(),
        false => labels.by_group(&scans.groups(scan.id)?),
    };
    let found = scans.find(&scan, &selection, limit)?;
    session.ui.report(&DeadLettersView {
        scan: ScanRow::new(&scan),
        matched: found.matched,
        undecided: found.undecided,
        letters: found.letters.iter().map(|letter| LetterRow::new(letter, &labels)).collect(),
    })?;
    if let Some(why) = found.why_undecided {
        let letters = count(found.undecided, "letter");
        session.ui.warning(format!("{letters} not decided, and so not meant: {why}"));
    }
    Ok(if found.matched == 0 { ExitStatus::Negative } else { ExitStatus::Done })
}
