//! `dlq groups`: what died for the same reason.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::deadletter::Traits;
use crate::deadletter::labels::{Label, Labels};
use crate::deadletter::store::Group;

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::session::Session;

use super::label::LabelFileArgs;
use super::stored::{ScanOf, ScanRow, pick, shown};

/// Arguments of `dlq groups`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the newest scan. A group has in common: the reason, the queue and key it belongs to, \
    the exception that headers name, the error text without ids, numbers, hosts and times, and the shape \
    of the body.\n\nExamples:\n  nexusctl dlq groups\n  \
    nexusctl dlq groups dead.agent.worker --top 10 -o json"
)]
pub(super) struct GroupsArgs {
    /// Ask the newest scan of this queue; the newest of all when left out
    queue: Option<QueueName>,
    /// Ask the scan of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "queue")]
    scan: Option<i64>,
    #[command(flatten)]
    labels: LabelFileArgs,
    /// Show only so many groups
    #[arg(long, value_name = "N")]
    top: Option<usize>,
}

/// A group of letters.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GroupRow {
    /// Its name.
    group: String,
    /// How many letters.
    letters: u64,
    /// Bytes of their bodies.
    bytes: u64,
    /// The oldest death.
    oldest: Option<String>,
    /// The newest death.
    newest: Option<String>,
    /// The place of the first of them.
    first: u64,
    /// What people call it; null when nobody has named it.
    label: Option<Label>,
    /// What they have in common.
    #[serde(flatten)]
    traits: Traits,
}

impl GroupRow {
    pub(super) fn new(group: &Group) -> GroupRow {
        GroupRow {
            group: group.group.to_string(),
            letters: group.letters,
            bytes: group.bytes,
            oldest: shown(group.oldest),
            newest: shown(group.newest),
            first: group.first,
            label: None,
            traits: group.traits.clone(),
        }
    }

    /// The group with its name, if it has one.
    pub(super) fn labelled(group: &Group, labels: &Labels) -> GroupRow {
        let label = labels.get(group.group, &group.traits).cloned();
        GroupRow { label, ..GroupRow::new(group) }
    }

    pub(super) fn table(rows: &[GroupRow], page: &mut Page) {
        let rows = rows.iter().map(|row| {
            let traits = &row.traits;
            let reason = match &traits.code {
                Some(code) => format!("{} ({code})", traits.reason),
                None => traits.reason.clone(),
            };
            let said = traits.error.as_ref().or(traits.exception.as_ref());
            let said = said.unwrap_or(&traits.shape);
            // A name tells more than what it stands for.
            let said = row.label.as_ref().map_or(said, |label| &label.name);
            let unknown =
                |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
            [
                row.group.clone(),
                row.letters.to_string(),
                unknown(&reason),
                unknown(&traits.queue),
                traits.routing_key.clone(),
                said.chars().take(80).collect(),
            ]
        });
        page.table(
            ["GROUP", "LETTERS", "REASON", "QUEUE", "KEY", "NAME, ERROR OR SHAPE"],
            rows.collect(),
        );
    }
}

/// The groups of a scan.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterGroupsView {
    /// Which scan.
    scan: ScanRow,
    /// How many groups there are.
    total: u64,
    /// The largest first.
    groups: Vec<GroupRow>,
}

impl View for DeadLetterGroupsView {
    const KIND: &'static str = "DeadLetterGroups";
    const ITEMS: Option<&'static str> = Some("groups");
    fn text(&self, page: &mut Page) {
        page.line(self.scan.line(page.style));
        page.gap();
        GroupRow::table(&self.groups, page);
    }
}

pub(super) fn run(args: &GroupsArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let of = ScanOf { queue: args.queue.clone(), scan: args.scan };
    let (scans, scan) = pick(&of, session)?;
    let labels = args.labels.read(session)?;
    let groups = scans.groups(scan.id)?;
    let top = args.top.unwrap_or(usize::MAX);
    session.ui.report(&DeadLetterGroupsView {
        scan: ScanRow::new(&scan),
        total: groups.len() as u64,
        groups: groups.iter().take(top).map(|group| GroupRow::labelled(group, &labels)).collect(),
    })?;
    Ok(ExitStatus::Done)
}
