//! `dlq scan`: reads a dead-letter queue once, without harm, into the state file.

use std::time::Duration;

use clap::{Args, FromArgMatches};
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::QueueType;
use crate::deadletter::Scans;
use crate::deadletter::scan::{Keep, Reach, ScanError, scan};
use crate::deadletter::store::{Ending, Scanned};
use crate::delivery::peek::{ThroughOptions, cost};

use crate::cli::connect::Connector;
use crate::cli::consent::{self, Deed};
use crate::cli::consume::{Offset, parse_offset};
use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::progress::Progress;
use crate::cli::queue::{Ledger, PeekPlanView, look_around, no_such_queue, refusal};
use crate::cli::session::Session;

use super::groups::GroupRow;
use super::stored::ScanRow;

/// Arguments of `dlq scan`.
#[derive(Debug, Args)]
#[command(
    after_help = "The queue is read from its head and left as it was: what is read is held until the end \
    and comes back in order. It is the look of `queue peek`: on a quorum queue with a delivery limit it \
    costs each letter one of its lives, and it is refused with status 4 before any letter has fewer \
    than --min-lives left. What was read is kept in the state file with its properties and headers, and \
    bodies up to --keep-body; `dlq groups`, `letters`, `show` and `diff` ask that, and not the queue.\n\n\
    Status 3: not all of the queue was read, and the report says why.\n\nExamples:\n  \
    nexusctl dlq scan dead.agent.worker\n  \
    nexusctl dlq scan dead.agent.worker --first 1000 --min-lives 10\n  \
    nexusctl dlq scan dead.agent.worker --dry-run"
)]
pub(super) struct ScanArgs {
    /// The queue
    queue: QueueName,
    /// Read only so many letters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    first: Option<u64>,
    /// Refuse when a letter has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    min_lives: u64,
    /// Keep so many bytes of each body
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    keep_body: usize,
    /// Keep so many scans of this queue; older ones are forgotten
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    keep_scans: u16,
    /// Hold letters no longer than this
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    hold: HumanDuration,
    /// Wait so long for a message that the queue counts and does not hand out
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    wait: HumanDuration,
    /// Read a stream from here: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset)]
    from: Option<Offset>,
    /// Say what a scan would cost, and do not look
    #[arg(long)]
    dry_run: bool,
}

/// What a scan came to.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterScanView {
    /// The scan.
    #[serde(flatten)]
    scan: ScanRow,
    /// `classic`, `quorum` or `stream`.
    queue_type: &'static str,
    /// Whether it is certain that every letter is back at its place.
    order_kept: bool,
    /// Groups of letters.
    groups: u64,
    /// The largest groups, at most five.
    largest: Vec<GroupRow>,
    /// What else to know.
    warnings: Vec<String>,
}

impl View for DeadLetterScanView {
    const KIND: &'static str = "DeadLetterScan";
    fn text(&self, page: &mut Page) {
        page.line(self.scan.line(page.style));
        if let (Some(oldest), Some(newest)) = (&self.scan.oldest, &self.scan.newest) {
            page.line(format!("died from {oldest} to {newest}"));
        }
        if self.scan.twins > 0 {
            page.line(format!(
                "{} cannot be told apart from another",
                count(self.scan.twins, "letter")
            ));
        }
        if self.scan.cut > 0 {
            page.line(format!("of {} only a part is kept", count(self.scan.cut, "body")));
        }
        if !self.largest.is_empty() {
            page.gap();
            page.line(count(self.groups, "group"));
            GroupRow::table(&self.largest, page);
        }
    }
}

/// What became of the wish to scan.
enum Done {
    Planned(PeekPlanView, bool),
    Scanned(Box<DeadLetterScanView>),
}

impl ScanArgs {
    /// What `dlq scan QUEUE` means, with these options.
    fn of(queue: &QueueName, options: &[&str]) -> Result<ScanArgs, CliError> {
        let command = ScanArgs::augment_args(clap::Command::new("scan"));
        let words = ["scan"].iter().chain(options).chain(&["--"]).copied();
        let words = words.chain([queue.as_str()]);
        command
            .try_get_matches_from(words)
            .and_then(|matches| ScanArgs::from_arg_matches(&matches))
            .map_err(|error| CliError::usage(error.to_string()))
    }
}

/// Scans a queue for a command that needs a scan, once whoever runs it has agreed to what that costs.
pub(super) fn ask_and_scan(queue: &QueueName, session: &mut Session) -> Result<(), CliError> {
    let wanted = ScanArgs::of(queue, &[])?;
    let planned = work(&ScanArgs::of(queue, &["--dry-run"])?, session)?;
    if let Done::Planned(plan, false) = planned {
        let mut page = Page::default();
        plan.text(&mut page);
        let text = page.into_text();
        // Its last line says that nothing was looked at, and that is about to change.
        let lines = text.lines().filter(|line| *line != PeekPlanView::NOTHING_DONE);
        let what = format!("scan queue `{queue}`, of which there is no scan");
        let deed = Deed { what, losses: lines.map(str::to_owned).collect() };
        let settings = session.settings()?;
        consent::ask(session, &settings, &deed)?;
    }
    // One that is refused says why by itself.
    if let Done::Scanned(view) = work(&wanted, session)? {
        let line = view.scan.line(session.ui.stderr_style);
        session.ui.status(line);
        for warning in &view.warnings {
            session.ui.warning(warning);
        }
    }
    Ok(())
}

fn work(args: &ScanArgs, session: &mut Session) -> Result<Done, CliError> {
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let clock = std::sync::Arc::clone(&session.clock);
    let stop = session.stop.clone();
    let bar = Progress::new(&session.ui, args.first, "letters");
    let queue = &args.queue;
    let done = session.drive(async {
        let broker = target.connect().await?;
        let identity = broker.identity().clone();
        let ledger = Ledger::of(&settings.state.value, &identity, &target.shown(), queue.as_str());
        let found = look_around(&*broker, queue, ledger.returns()).await?;
        let Some(facts) = found else {
            return Err(no_such_queue("scan", queue, &*broker, &settings).await);
        };
        let is_stream = facts.queue_type == QueueType::Stream;
        if args.from.is_some() && !is_stream {
            return Err(CliError::usage(format!(
                "--from is for streams, and `{queue}` is a {} queue",
                facts.queue_type
            )));
        }
        let cost = cost(&facts, args.min_lives);
        let refusal = refusal(queue, &cost, &facts);
        if args.dry_run {
            return Ok(Done::Planned(PeekPlanView::new(queue, &facts, cost), refusal.is_some()));
        }
        if let Some(error) = refusal {
            return Err(error);
        }
        let wait = args.wait.0.max(Duration::from_millis(50));
        let reach = if is_stream {
            let from = args.from.as_ref().map_or("first".into(), |Offset(offset)| offset.clone());
            Reach::Stream { from, wait }
        } else {
            Reach::Queue(ThroughOptions {
                most: args.first.unwrap_or(u64::MAX),
                ready: facts.ready,
                wait,
                longest: args.hold.0,
                is_quorum: facts.queue_type == QueueType::Quorum,
                single_active_consumer: facts.single_active_consumer,
            })
        };
        let scans = Scans::open(&settings.state.value, settings.timeout()).await?;
        let of = Scanned {
            cluster: identity.cluster_name.clone(),
            vhost: identity.vhost.as_str().to_owned(),
            queue: queue.clone(),
        };
        let depth = (!is_stream).then_some(facts.ready);
        let id = scans.begin(&of, clock.now(), depth).await?;
        let keep = Keep { each: args.keep_body, ..Keep::default() };
        let mut progress = |seen| bar.at(seen);
        let read =
            scan(&*broker, &scans, id, queue, reach, keep, stop.job(), &mut progress).await;
        let report = match read {
            Ok(report) => report,
            Err(ScanError::Broker(error)) => {
                let remark = Some(format!("the broker failed: {error}"));
                scans.finish(id, Ending { complete: false, remark }, clock.now(), usize::MAX).await?;
                return Err(error.into());
            }
            Err(ScanError::Storage(error)) => return Err(error.into()),
        };
        let mut warnings = cost.warnings;
        if facts.queue_type == QueueType::Quorum
            && let Err(error) = ledger.note(report.returns, clock.now().unix_s())
        {
            warnings.push(format!("the next look will not know what this one cost: {error}"));
        }
        if !report.order_kept {
            warnings.push(
                "it is not certain that every letter is back at its place: the queue has messages that \
                 came back to it before"
                    .to_owned(),
            );
        }
        let _ = broker.close().await;
        let remark = report.short.map(str::to_owned);
        let ending = Ending { complete: remark.is_none(), remark };
        let kept = scans.finish(id, ending, clock.now(), usize::from(args.keep_scans)).await?;
        let groups = scans.groups(id)?;
        Ok(Done::Scanned(Box::new(DeadLetterScanView {
            scan: ScanRow::new(&kept),
            queue_type: facts.queue_type.as_str(),
            order_kept: report.order_kept,
            groups: groups.len() as u64,
            largest: groups.iter().take(5).map(GroupRow::new).collect(),
            warnings,
        })))
    })?;
    bar.clear();
    Ok(done)
}

pub(super) fn run(args: &ScanArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    match work(args, session)? {
        Done::Planned(view, no) => {
            session.ui.report(&view)?;
            Ok(if no { ExitStatus::Negative } else { ExitStatus::Done })
        }
        Done::Scanned(view) => {
            session.ui.report(&*view)?;
            for warning in &view.warnings {
                session.ui.warning(warning);
            }
            let enough = args.first.is_some_and(|first| view.scan.letters >= first);
            if let Some(why) = view.scan.remark.as_ref().filter(|_| !enough) {
                session.ui.warning(format!("not all of the queue was read: {why}"));
            }
            Ok(if view.scan.complete || enough { ExitStatus::Done } else { ExitStatus::Partly })
        }
    }
}
