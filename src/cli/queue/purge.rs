//! `queue purge`: takes out what is in a queue, after saying what that is, and keeps it when asked to.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::size::ByteSize;
use crate::broker::{Broker, Change, Changed, QueueDepth, QueueType};
use crate::delivery::consume::{ConsumeEnd, ConsumeOptions, ConsumeReport, consume};
use crate::delivery::sink::{DurableFile, Format, Sink};

use crate::cli::connect::Connector;
use crate::cli::consent::{self, Deed};
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

/// Arguments of `queue purge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Wants the queue's name: typed, or --confirm QUEUE; in a protected context the \
    context's name instead. The broker empties the queue at once and says how many messages went, those \
    included that came since it was asked; what consumers hold stays. With --backup as many as were \
    there when it began are taken one by one, each in the file and synced before it leaves the queue; \
    `publish --records -f FILE` sends them again. Nothing is dead-lettered.\n\n\
    Examples:\n  nexusctl queue purge agent.worker --dry-run\n  \
    nexusctl queue purge agent.worker --backup purged.ndjson --confirm agent.worker"
)]
pub(super) struct PurgeArgs {
    /// The queue
    queue: QueueName,
    /// Append every message to this file as a record before it goes
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Say what would go, and take nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was, or would be, taken out.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PurgeView {
    /// The queue.
    queue: String,
    /// Messages that waited.
    ready: u64,
    /// Bytes of the bodies in the queue; null when the broker does not tell.
    bytes: Option<u64>,
    /// Consumers attached.
    consumers: u64,
    /// Messages taken out.
    removed: u64,
    /// Messages in the backup; null without one.
    backed_up: Option<u64>,
    /// Whether nothing was to be changed.
    dry_run: bool,
    /// Why it ended before all were taken out; null when it did not.
    stopped: Option<String>,
}

impl View for PurgeView {
    const KIND: &'static str = "Purge";
    fn text(&self, page: &mut Page) {
        let name = page.style.strong(&self.queue);
        let what = contents(self.ready, self.bytes);
        if self.dry_run {
            page.line(format!("queue {name}: {what} would go"));
            if self.consumers > 0 {
                page.line(format!(
                    "{} may take some of them first",
                    count(self.consumers, "consumer")
                ));
            }
            page.line("nothing was changed");
            return;
        }
        page.line(format!("queue {name}: {} of {what} removed", self.removed));
        if let Some(backed_up) = self.backed_up {
            page.line(format!("{} in the backup", count(backed_up, "message")));
        }
        if let Some(why) = &self.stopped {
            page.line(format!("{} {why}", page.style.attention("stopped:")));
        }
    }
}

fn contents(ready: u64, bytes: Option<u64>) -> String {
    let messages = count(ready, "message");
    match bytes {
        Some(bytes) => format!("{messages} ({})", ByteSize(bytes)),
        None => format!("{messages} (bytes not known)"),
    }
}

/// The queue's name is wanted, for a yes is said too quickly.
fn ask(session: &mut Session, queue: &QueueName, deed: &Deed) -> Result<(), CliError> {
    let settings = session.settings()?;
    if settings.protected.value {
        return consent::ask(session, &settings, deed);
    }
    let refused = |given: &str| {
        let message = format!("cannot {}: `{given}` was confirmed, not `{queue}`", deed.what);
        Err(CliError::consent(message).object(queue.as_str()).hint("nothing was changed"))
    };
    match session.global.confirm.clone() {
        Some(given) if given == queue.as_str() => return Ok(()),
        Some(given) => return refused(&given),
        None => {}
    }
    if !session.can_ask() {
        let message = format!("cannot {} without the queue's name", deed.what);
        return Err(CliError::consent(message)
            .object(queue.as_str())
            .hint(format!("nothing was changed; add `--confirm {queue}` to agree")));
    }
    session.ui.say(&format!("About to {}:", deed.what));
    for loss in &deed.losses {
        session.ui.say(&format!("  {loss}"));
    }
    session.ui.prompt(&format!("Type the queue's name ({queue}) to go on: "));
    let given = session.read_line()?;
    if given.trim() == queue.as_str() { Ok(()) } else { refused(given.trim()) }
}

/// What is in the queue; bytes and type as far as the broker tells.
async fn weigh(
    broker: &dyn Broker,
    queue: &QueueName,
) -> Result<Option<(QueueDepth, Option<u64>, Option<QueueType>)>, CliError> {
    let Some(depth) = broker.depth(queue).await? else { return Ok(None) };
    // Without the management API a queue can be emptied all the same.
    let details = broker.queue_details(queue).await.ok().flatten();
    let bytes = details.as_ref().and_then(|details| details.bytes);
    let kind = details.and_then(|details| details.state.definition.queue_type());
    Ok(Some((depth, bytes, kind)))
}

/// Why fewer were removed than were there.
fn why_stopped(report: &ConsumeReport) -> Option<String> {
    match report.ended {
        // Consumers of the queue took the others.
        ConsumeEnd::Count | ConsumeEnd::Empty => report.error.clone(),
        ConsumeEnd::Stalled => Some(
            "the queue counts messages that it does not hand out: another consumer has it to itself, or \
             they have expired"
                .to_owned(),
        ),
        ConsumeEnd::Stopped => Some("somebody asked to stop".to_owned()),
        _ => Some(report.error.clone().unwrap_or_else(|| "the run ended early".to_owned())),
    }
}

pub(super) fn run(args: PurgeArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PurgeArgs { queue, backup, dry_run } = args;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let (depth, bytes) = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let Some((depth, bytes, kind)) = weigh(&*broker, &queue).await? else {
            return Err(super::no_such_queue("purge it", &queue, &*broker, &settings).await);
        };
        let _ = broker.close().await;
        if kind == Some(QueueType::Stream) {
            let message = format!("cannot purge queue `{queue}`: a stream keeps what it has");
            return Err(CliError::failed(message)
                .object(queue.as_str())
                .hint("bound it by `max-age` or `max-length-bytes`, or delete it"));
        }
        Ok((depth, bytes))
    }))?;
    let mut view = PurgeView {
        queue: queue.to_string(),
        ready: depth.ready,
        bytes,
        consumers: depth.consumers,
        removed: 0,
        backed_up: backup.as_ref().map(|_| 0),
        dry_run,
        stopped: None,
    };
    if dry_run || depth.ready == 0 {
        session.ui.report(&view)?;
        return Ok(ExitStatus::Done);
    }
    let what = contents(depth.ready, bytes);
    let fate = match &backup {
        Some(path) => format!("{what}, after they are in {}", path.display()),
        None => format!("{what}, without a backup"),
    };
    ask(session, &queue, &Deed { what: format!("purge queue `{queue}`"), losses: vec![fate] })?;
    let Some(path) = backup else {
        let purged = session.drive(async {
            let broker = target.connect().await?;
            let purged = broker.change(&Change::PurgeQueue(queue)).await?;
            let _ = broker.close().await;
            Ok(purged)
        })?;
        view.removed = match purged {
            Changed::WithMessages(number) => number,
            Changed::Done => depth.ready,
        };
        session.ui.report(&view)?;
        return Ok(ExitStatus::Done);
    };
    let failed = |error: io::Error| CliError::unwritable(&path, &error);
    let place = session.resolve(&path);
    let file = OpenOptions::new().append(true).create(true).open(place).map_err(failed)?;
    let sink = Sink::new(Format::Ndjson, Box::new(DurableFile::new(file).map_err(failed)?));
    let options = ConsumeOptions {
        count: Some(depth.ready),
        until_empty: true,
        grace: settings.timeout(),
        patience: settings.timeout().min(ConsumeOptions::default().patience),
        ..ConsumeOptions::default()
    };
    let bar = Progress::new(&session.ui, Some(depth.ready), "messages");
    let stop = session.stop.clone();
    let result = session.drive(async {
        let broker = target.connect().await?;
        let mut progress = |written| bar.at(written);
        let report = consume(&*broker, &queue, options, sink, stop.job(), &mut progress).await?;
        let _ = broker.close().await;
        Ok(report)
    });
    bar.clear();
    let report = result?;
    view.removed = report.acked;
    view.backed_up = Some(report.written);
    view.stopped = why_stopped(&report);
    session.ui.report(&view)?;
    if report.repeats_possible > 0 {
        let number = count(report.repeats_possible, "message");
        session.ui.warning(format!("{number} may still be in the queue as well"));
    }
    Ok(match (report.ended, &view.stopped) {
        (ConsumeEnd::Stopped, _) => session.stop.status(),
        (_, None) => ExitStatus::Done,
        (_, Some(_)) if view.removed > 0 => ExitStatus::Partly,
        (_, Some(why)) => {
            let message = format!("cannot purge queue `{queue}`: {why}");
            return Err(CliError::new(code::FAILED, ExitStatus::Failed, message)
                .object(queue.as_str())
                .hint("nothing was removed"));
        }
    })
}
