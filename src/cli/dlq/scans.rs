//! `dlq scans`: the scans that are kept.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use crate::base::id::QueueName;
use crate::deadletter::store::{Scan, ScanId};
use crate::deadletter::trail::{NewEntry, Noun};

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::stored::{ScanRow, look};

/// Arguments of `dlq scans`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  nexusctl dlq scans\n  nexusctl dlq scans dead.agent.worker -o json\n  \
    nexusctl dlq scans --forget 1 --dry-run\n  nexusctl dlq scans --forget 1"
)]
pub(super) struct ScansArgs {
    /// Only those of this queue
    queue: Option<QueueName>,
    /// Forget this scan; the queue is not touched
    #[arg(long, value_name = "NUMBER", conflicts_with = "queue")]
    forget: Option<i64>,
    /// Why: kept in the trail
    #[arg(long, value_name = "TEXT", requires = "forget")]
    reason: Option<String>,
    /// Say whether there is such a scan, and keep it
    #[arg(long, requires = "forget")]
    dry_run: bool,
}

/// All scans.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterScansView {
    /// The newest first.
    scans: Vec<ScanRow>,
}

impl View for DeadLetterScansView {
    const KIND: &'static str = "DeadLetterScans";
    const ITEMS: Option<&'static str> = Some("scans");
    fn text(&self, page: &mut Page) {
        if self.scans.is_empty() {
            page.line("no scans");
        }
        let rows = self.scans.iter().map(|scan| {
            [
                scan.scan.to_string(),
                scan.queue.clone(),
                scan.vhost.clone(),
                scan.began.clone(),
                scan.letters.to_string(),
                match (&scan.ended, scan.complete) {
                    (None, _) => "cut off, or goes on".to_owned(),
                    (_, true) => "whole".to_owned(),
                    (_, false) => "not whole".to_owned(),
                },
            ]
        });
        page.table(["SCAN", "QUEUE", "VHOST", "BEGAN", "LETTERS", "STATE"], rows.collect());
    }
}

/// What the trail is told.
fn told(scan: &Scan, reason: Option<String>, session: &Session) -> NewEntry {
    NewEntry {
        at: session.clock.now(),
        who: session.who.clone(),
        what: "scan forgotten".to_owned(),
        noun: Noun::Scan,
        object: scan.id.0.to_string(),
        queue: Some(scan.of.queue.to_string()),
        run: None,
        reason,
        details: json!({
            "cluster": scan.of.cluster,
            "vhost": scan.of.vhost,
            "began": scan.began,
            "letters": scan.letters,
        }),
    }
}

pub(super) fn run(args: &ScansArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let scans = session.drive(unless_stopped(&session.stop, async {
        let Some(scans) = look(&settings).await? else { return Ok(Vec::new()) };
        let Some(number) = args.forget else { return Ok(scans.scans(None)?) };
        let known = scans.scans(None)?.into_iter().find(|scan| scan.id == ScanId(number));
        let is_there = match &known {
            Some(scan) if !args.dry_run => {
                scans.forget(scan.id, Some(told(scan, args.reason.clone(), session))).await?
            }
            known => known.is_some(),
        };
        if !is_there {
            let message = format!("cannot forget scan {number}: there is none");
            return Err(CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message)
                .hint("`nexusctl dlq scans` lists them"));
        }
        Ok(scans.scans(None)?)
    }))?;
    if let Some(number) = args.forget {
        let is = if args.dry_run { "would be" } else { "is" };
        session.ui.status(format!("scan {number} {is} forgotten"));
    }
    let wanted = |queue: &QueueName| args.queue.as_ref().is_none_or(|wanted| wanted == queue);
    let rows = scans.iter().filter(|scan| wanted(&scan.of.queue)).map(ScanRow::new).collect();
    session.ui.report(&DeadLetterScansView { scans: rows })?;
    Ok(ExitStatus::Done)
}
