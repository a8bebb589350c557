//! Sequences as they are shown.

use schemars::JsonSchema;
use serde::Serialize;

use crate::resilience::sequence::SequenceTracker;
use crate::resilience::store::StoredSequence;

use crate::cli::output::{Page, View, count};

/// A range of numbers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Range {
    first: u64,
    last: u64,
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}..{}", self.first, self.last)
        }
    }
}

fn gaps(tracker: &SequenceTracker) -> Vec<Range> {
    let ranges = tracker.missing();
    ranges.map(|range| Range { first: *range.start(), last: *range.end() }).collect()
}

fn missing(gaps: &[Range]) -> u64 {
    let lengths = gaps.iter().map(|gap| (gap.last - gap.first).saturating_add(1));
    lengths.fold(0, u64::saturating_add)
}

/// One workflow in one queue.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SequenceRow {
    /// The queue, or the scope that the worker was given.
    queue: String,
    /// The workflow.
    workflow: String,
    /// The highest number that was processed.
    highest: Option<u64>,
    /// How many ranges are missing below it.
    gaps: usize,
    /// How many numbers are missing below it.
    missing: u64,
    /// How many numbers were given up.
    written_off: u64,
    /// When a number was noted last.
    changed: String,
}

impl SequenceRow {
    pub(super) fn new(stored: &StoredSequence) -> SequenceRow {
        let gaps = gaps(&stored.tracker);
        SequenceRow {
            queue: stored.scope.clone(),
            workflow: stored.workflow.clone(),
            highest: stored.tracker.highest(),
            missing: missing(&gaps),
            gaps: gaps.len(),
            written_off: stored.tracker.written_off(),
            changed: stored.changed.to_string(),
        }
    }

    pub(super) fn has_gaps(&self) -> bool {
        self.gaps > 0 || self.written_off > 0
    }
}

/// Workflows.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SequenceListView {
    /// By queue and name.
    pub(super) sequences: Vec<SequenceRow>,
    /// Whether there are more than these.
    pub(super) more: bool,
}

impl View for SequenceListView {
    const KIND: &'static str = "SequenceList";
    const ITEMS: Option<&'static str> = Some("sequences");
    fn text(&self, page: &mut Page) {
        if self.sequences.is_empty() {
            page.line("no workflows");
        }
        let rows = self.sequences.iter().map(|row| {
            [
                row.queue.clone(),
                row.workflow.clone(),
                row.highest.map(|number| number.to_string()).unwrap_or_default(),
                row.missing.to_string(),
                row.written_off.to_string(),
                row.changed.clone(),
            ]
        });
        page.table(
            ["QUEUE", "WORKFLOW", "HIGHEST", "MISSING", "WRITTEN OFF", "LAST SEEN"],
            rows.collect(),
        );
    }
}

/// One workflow, wherever it is followed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SequenceView {
    /// The workflow.
    pub(super) workflow: String,
    /// By queue.
    pub(super) queues: Vec<GapsView>,
}

/// What is missing of a workflow in one queue.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GapsView {
    /// The queue, or the scope that the worker was given.
    queue: String,
    /// The highest number that was processed.
    highest: Option<u64>,
    /// The ranges that are missing below it.
    missing: Vec<Range>,
    /// How many numbers that is.
    missing_count: u64,
    /// How many numbers were given up.
    written_off: u64,
    /// When a number was noted last.
    changed: String,
}

impl GapsView {
    pub(super) fn new(stored: &StoredSequence) -> GapsView {
        let gaps = gaps(&stored.tracker);
        GapsView {
            queue: stored.scope.clone(),
            highest: stored.tracker.highest(),
            missing_count: missing(&gaps),
            missing: gaps,
            written_off: stored.tracker.written_off(),
            changed: stored.changed.to_string(),
        }
    }
}

impl View for SequenceView {
    const KIND: &'static str = "Sequence";
    fn text(&self, page: &mut Page) {
        let style = page.style;
        page.line(format!("workflow {}", style.strong(&self.workflow)));
        for GapsView { queue, highest, missing, missing_count, written_off, changed } in
            &self.queues
        {
            page.gap();
            page.line(format!("in {queue}, last seen {changed}"));
            let highest = highest.map_or("none".to_owned(), |number| number.to_string());
            page.line(format!("  highest processed: {highest}"));
            if missing.is_empty() {
                page.line(style.good("  nothing is missing"));
            } else {
                let number = count(*missing_count, "number");
                let ranges = count(missing.len() as u64, "range");
                page.line(style.attention(&format!("  missing: {number} in {ranges}")));
                for range in missing {
                    page.line(format!("    {range}"));
                }
            }
            if *written_off > 0 {
                page.line(format!("  written off: {}", count(*written_off, "number")));
            }
        }
    }
}
