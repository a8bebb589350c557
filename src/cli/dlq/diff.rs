//! `dlq diff`: what two letters differ in.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::deadletter::compare::compare;
use crate::deadletter::plain::whole;

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::session::Session;

use super::show::unmasked;
use super::stored::{ScanOf, letter, pick};

/// Arguments of `dlq diff`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the newest scan, not the queue. Headers and JSON bodies are compared value by value. \
    Secrets are compared masked unless --unmask is given.\n\nExamples:\n  nexusctl dlq diff @1 @2\n  \
    nexusctl dlq diff @1 @3 --queue dead.agent.worker -o json"
)]
pub(super) struct DiffArgs {
    /// A letter: its id, the first letters of it, or @ and its place
    #[arg(value_name = "LETTER")]
    left: String,
    /// Another one
    #[arg(value_name = "LETTER")]
    right: String,
    #[command(flatten)]
    of: ScanOf,
    /// Show secrets as they are; the trail is told
    #[arg(long)]
    unmask: bool,
    /// Why: kept in the trail
    #[arg(long, value_name = "TEXT", requires = "unmask")]
    reason: Option<String>,
}

/// One difference.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DifferenceRow {
    /// Where: `properties.headers.tries`, `body.items[2]`.
    path: String,
    /// Whether the first has something there.
    in_left: bool,
    /// What the first has there.
    left: Value,
    /// Whether the second has something there.
    in_right: bool,
    /// What the second has there.
    right: Value,
}

/// What two letters differ in.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterDiffView {
    /// The first letter.
    left: String,
    /// The second.
    right: String,
    /// Whether they are of one group.
    same_group: bool,
    /// Every place where they differ.
    differences: Vec<DifferenceRow>,
}

impl View for DeadLetterDiffView {
    const KIND: &'static str = "DeadLetterDiff";
    const ITEMS: Option<&'static str> = Some("differences");
    fn text(&self, page: &mut Page) {
        let style = page.style;
        let group = if self.same_group { "one group" } else { "different groups" };
        page.line(format!("{} and {}, of {group}", self.left, self.right));
        if self.differences.is_empty() {
            page.line("no difference");
        }
        for row in &self.differences {
            page.line(style.strong(&row.path));
            if row.in_left {
                page.line(style.bad(&format!("- {}", row.left)));
            }
            if row.in_right {
                page.line(style.good(&format!("+ {}", row.right)));
            }
        }
    }
}

pub(super) fn run(args: &DiffArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let (scans, scan) = pick(&args.of, session)?;
    let left = letter(&scans, &scan, &args.left)?;
    let right = letter(&scans, &scan, &args.right)?;
    if args.unmask {
        unmasked(&scan, &[&left, &right], args.reason.as_deref(), session)?;
    }
    let found = compare(&whole(&left, args.unmask), &whole(&right, args.unmask));
    session.ui.report(&DeadLetterDiffView {
        left: left.id.to_string(),
        right: right.id.to_string(),
        same_group: left.group == right.group,
        differences: found
            .into_iter()
            .map(|difference| DifferenceRow {
                path: difference.path,
                in_left: difference.left.is_some(),
                left: difference.left.unwrap_or_default(),
                in_right: difference.right.is_some(),
                right: difference.right.unwrap_or_default(),
            })
            .collect(),
    })?;
    Ok(ExitStatus::Done)
}
