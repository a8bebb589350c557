//! What `journal` prints.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::broker::Delivery;
use crate::cli::output::{Page, View, count};
use crate::delivery::journal::{ReplayReport, Summary};
use crate::resilience::sequence::RangeSet;

/// Ranges of a workflow that are listed.
const LISTED: usize = 100;

/// `7`, or `5..9` with both ends.
pub(super) fn range(range: &RangeInclusive<u64>) -> String {
    let (first, last) = (range.start(), range.end());
    if first == last { first.to_string() } else { format!("{first}..{last}") }
}

fn ranges<'a>(all: impl IntoIterator<Item = &'a RangeInclusive<u64>>) -> Vec<String> {
    all.into_iter().map(range).collect()
}

fn texts(set: &RangeSet) -> Vec<String> {
    ranges(&set.ranges().collect::<Vec<_>>())
}

fn size(set: &RangeSet) -> u64 {
    set.ranges().map(|range| range.end() - range.start() + 1).sum()
}

/// What the journal has.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalView {
    /// The stream.
    journal: String,
    /// Messages read.
    messages: u64,
    /// Of these, those without workflow or number.
    unnumbered: u64,
    /// Of these, those of workflows that were too many to tell apart.
    not_told_apart: u64,
    /// Workflows by name.
    workflows: Vec<WorkflowView>,
}

/// One workflow in the journal.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WorkflowView {
    /// Its name.
    workflow: String,
    /// Messages, those that came twice included.
    messages: u64,
    /// The lowest number.
    first: u64,
    /// The highest.
    last: u64,
    /// Numbers between these that are not there, such as `5..9`; at most 100 ranges.
    missing: Vec<String>,
}

impl JournalView {
    pub(super) fn new(journal: &str, summary: &Summary) -> Self {
        let workflows = summary
            .workflows
            .iter()
            .map(|(name, workflow)| {
                let ranges: Vec<_> = workflow.numbers.ranges().collect();
                let missing = ranges
                    .windows(2)
                    .take(LISTED)
                    .map(|two| range(&(two[0].end() + 1..=two[1].start() - 1)))
                    .collect();
                WorkflowView {
                    workflow: name.clone(),
                    messages: workflow.messages,
                    first: ranges.first().map_or(0, |range| *range.start()),
                    last: ranges.last().map_or(0, |range| *range.end()),
                    missing,
                }
            })
            .collect();
        JournalView {
            journal: journal.to_owned(),
            messages: summary.messages,
            unnumbered: summary.unnumbered,
            not_told_apart: summary.not_told_apart,
            workflows,
        }
    }
}

impl View for JournalView {
    const KIND: &'static str = "Journal";
    const ITEMS: Option<&'static str> = Some("workflows");
    fn text(&self, page: &mut Page) {
        let rows = self
            .workflows
            .iter()
            .map(|workflow| {
                let missing = if workflow.missing.is_empty() {
                    "-".to_owned()
                } else {
                    workflow.missing.join(", ")
                };
                [
                    workflow.workflow.clone(),
                    workflow.messages.to_string(),
                    format!("{}..{}", workflow.first, workflow.last),
                    missing,
                ]
            })
            .collect();
        page.table(["WORKFLOW", "MESSAGES", "NUMBERS", "MISSING"], rows);
        let name = page.style.strong(&self.journal);
        page.line(format!(
            "journal {name}: {}, {} without a number, {}",
            count(self.messages, "message"),
            self.unnumbered,
            count(self.workflows.len(), "workflow")
        ));
        if self.not_told_apart > 0 {
            page.line(format!(
                "{} of more workflows than can be told apart",
                count(self.not_told_apart, "message")
            ));
        }
    }
}

/// What was, or would be, sent again. Numbers are written `7` or `5..9`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JournalReplayView {
    /// The workflow.
    workflow: String,
    /// The stream that is the journal.
    journal: String,
    /// The queue that gets them; null when nothing was found.
    to: Option<String>,
    /// The run, as the header `x-nexus-retransmission` names it; null when nothing was sent.
    run: Option<String>,
    /// Numbers that the journal has.
    found: Vec<String>,
    /// Numbers asked for that it does not have, or not any more.
    missing: Vec<String>,
    /// How many were sent again and confirmed.
    confirmed: u64,
    /// Returned: the queue is gone.
    returned: Vec<String>,
    /// Refused: the queue is full.
    nacked: Vec<String>,
    /// May have arrived or not.
    in_doubt: Vec<String>,
    /// Not sent.
    not_sent: Vec<String>,
    /// Why it ended before all were sent; null when it did not.
    stopped: Option<String>,
    /// Whether nothing was to be sent.
    pub(super) dry_run: bool,
}

impl JournalReplayView {
    pub(super) fn new(
        workflow: String,
        journal: &QueueName,
        to: Option<&QueueName>,
        found: &BTreeMap<u64, Delivery>,
        missing: &[RangeInclusive<u64>],
    ) -> Self {
        let mut numbers = RangeSet::default();
        for number in found.keys() {
            numbers.insert(*number);
        }
        JournalReplayView {
            workflow,
            journal: journal.to_string(),
            to: to.map(ToString::to_string),
            run: None,
            found: texts(&numbers),
            missing: ranges(missing),
            confirmed: 0,
            returned: Vec::new(),
            nacked: Vec::new(),
            in_doubt: Vec::new(),
            not_sent: Vec::new(),
            stopped: None,
            dry_run: false,
        }
    }

    pub(super) fn fill(&mut self, report: &ReplayReport, run: String) {
        self.run = Some(run);
        self.confirmed = size(&report.confirmed);
        self.returned = texts(&report.returned);
        self.nacked = texts(&report.nacked);
        self.in_doubt = texts(&report.in_doubt);
        self.not_sent = texts(&report.not_sent);
        self.stopped.clone_from(&report.stopped);
    }

    /// How many were sent again and confirmed.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }
}

impl View for JournalReplayView {
    const KIND: &'static str = "JournalReplay";
    fn text(&self, page: &mut Page) {
        let workflow = page.style.strong(&self.workflow);
        match &self.to {
            None => page.line(format!("workflow {workflow}: nothing of it is in the journal")),
            Some(to) if self.dry_run => page.line(format!(
                "workflow {workflow}: {} would be sent to queue {to} again",
                self.found.join(", ")
            )),
            Some(to) => page.line(format!(
                "workflow {workflow}: {} sent to queue {to} again, of {}",
                count(self.confirmed, "message"),
                self.found.join(", ")
            )),
        }
        for (numbers, what) in [
            (&self.missing, "not in the journal"),
            (&self.returned, "returned: the queue is gone"),
            (&self.nacked, "refused: the queue is full"),
            (&self.in_doubt, "may have arrived or not"),
            (&self.not_sent, "not sent"),
        ] {
            if !numbers.is_empty() {
                page.line(format!("{what}: {}", numbers.join(", ")));
            }
        }
        if let Some(why) = &self.stopped {
            page.line(format!("{} {why}", page.style.attention("stopped:")));
        }
        if self.dry_run {
            page.line("nothing was sent");
        }
    }
}
