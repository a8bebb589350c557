//! `nexusctl journal …`: what was published, and sending it again to the queue that misses it.

mod view;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::{Broker, Delivery, QueueType};
use crate::delivery::journal::{
    Found, MOST_MESSAGES, Numbers, Reading, ReplayOptions, find, replay, summarise,
};
use crate::delivery::stream::ReadEnd;
use crate::message::FieldTable;
use crate::topology::expand::JOURNAL;
use crate::topology::view::TopologyView;

use super::connect::Connector;
use super::consent::{self, Deed};
use super::consume::{Offset, ShapeArgs, format_of, parse_offset};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::{self, Missing};
use super::output::{Format as OutputFormat, count};
use super::progress::Progress;
use super::queue::written;
use super::runtime::unless_stopped;
use super::session::Session;
use super::settings::Settings;

pub use view::{JournalReplayView, JournalView};

/// Arguments of `journal`.
#[derive(Debug, Args)]
pub struct JournalArgs {
    /// What to do.
    #[command(subcommand)]
    command: JournalCommand,
}

#[derive(Debug, Subcommand)]
enum JournalCommand {
    /// List the workflows in the journal, with the numbers that are missing
    List(ListArgs),
    /// Show the messages of a workflow
    Show(ShowArgs),
    /// Send messages of a workflow again, to the queue that misses them
    Replay(ReplayArgs),
}

/// Where the journal is.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// The stream that is the journal
    #[arg(long, value_name = "QUEUE", default_value = JOURNAL)]
    journal: QueueName,
    /// Read it from here on: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", default_value = "first", value_parser = parse_offset)]
    since: Offset,
    /// Take it for read when it is silent for so long
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    wait: HumanDuration,
}

impl PlaceArgs {
    fn reading(&self) -> Reading {
        Reading {
            journal: self.journal.clone(),
            from: self.since.0.clone(),
            wait: self.wait.0.max(Duration::from_millis(50)),
        }
    }
}

/// Arguments of `journal list`.
#[derive(Debug, Args)]
#[command(
    after_help = "A topology with `journal: true` keeps a copy of what its exchanges take. The journal \
    is read from --since to the message that is the last when the command begins; reading takes nothing \
    away.\n\nExamples:\n  \
    nexusctl journal list\n  \
    nexusctl journal list --since 1h -o json"
)]
struct ListArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// Arguments of `journal show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes one record a line (NDJSON), in the order of the numbers, each number once. \
    Status 2: the journal has none of them.\n\nExamples:\n  \
    nexusctl journal show --workflow checkout-7\n  \
    nexusctl journal show --workflow checkout-7 --sequence 1..2 --raw"
)]
struct ShowArgs {
    /// The workflow
    #[arg(long, value_name = "ID")]
    workflow: String,
    /// Only these numbers: 7, 5..9, 5.. or ..9, several with commas
    #[arg(long, value_name = "NUMBERS")]
    sequence: Option<Numbers>,
    #[command(flatten)]
    shape: ShapeArgs,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Arguments of `journal replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each message goes to one queue only, in the order of the numbers, mandatory and \
    confirmed. It keeps its message id, so that a receiver that had it knows it; the header \
    x-nexus-retransmission names the run, x-nexus-moved-from where the message was first published. \
    Without --to it goes to the queue that got it first, when that was one. Status 3: some were not \
    sent or are not in the journal any more, and the report names them. Status 2: none is there.\n\n\
    Examples:\n  \
    nexusctl journal replay --workflow checkout-7 --sequence 1..2 --dry-run\n  \
    nexusctl journal replay --workflow checkout-7 --sequence 2 --to billing"
)]
struct ReplayArgs {
    /// The workflow
    #[arg(long, value_name = "ID")]
    workflow: String,
    /// These numbers: 7, 5..9, 5.. or ..9, several with commas
    #[arg(long, value_name = "NUMBERS")]
    sequence: Numbers,
    /// The queue that misses them
    #[arg(long, value_name = "QUEUE")]
    to: Option<QueueName>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs one of the commands.
pub(super) fn run(args: JournalArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let JournalArgs { command } = args;
    match command {
        JournalCommand::List(args) => list(&args, session),
        JournalCommand::Show(args) => show(&args, session),
        JournalCommand::Replay(args) => send_again(&args, session),
    }
}

/// Makes sure that there is a journal.
async fn is_there(
    broker: &dyn Broker,
    journal: &QueueName,
    settings: &Settings,
) -> Result<(), CliError> {
    if broker.depth(journal).await?.is_none() {
        let vhost = &broker.identity().vhost;
        let message =
            format!("cannot read the journal: queue `{journal}` does not exist in vhost `{vhost}`");
        let error = CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message);
        let next = if journal.as_str() == JOURNAL {
            "write `journal: true` into the topology and run `nexusctl topology apply`: messages are \
             kept from then on"
                .to_owned()
        } else {
            missing::look(Missing::Queue, journal.as_str(), broker, settings).await
        };
        return Err(error.object(journal.as_str()).hint(next));
    }
    // Who cannot tell is asked by reading.
    let details = broker.queue_details(journal).await.ok().flatten();
    let kind = details.and_then(|details| details.state.definition.queue_type());
    match kind {
        Some(QueueType::Classic | QueueType::Quorum) => {
            let message = format!("cannot read the journal: queue `{journal}` is no stream");
            Err(CliError::failed(message).object(journal.as_str()).hint(
                "name the stream that `journal` of the topology makes, or leave `--journal` out",
            ))
        }
        _ => Ok(()),
    }
}

/// What to know of a reading that did not get to its end.
fn incomplete(end: ReadEnd) -> Option<&'static str> {
    match end {
        ReadEnd::Complete => None,
        ReadEnd::Enough => Some("there are more of them than can be taken at once"),
        ReadEnd::Stopped => Some("it was stopped before the end of the journal"),
        ReadEnd::Silent => Some(
            "the journal was silent before its end, so later messages were not read; wait longer with \
             `--wait`",
        ),
    }
}

fn list(args: &ListArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let reading = args.place.reading();
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let stop = session.stop.clone();
    let summary = session.drive(unless_stopped(&stop, async {
        let broker = target.connect().await?;
        is_there(&*broker, &reading.journal, &settings).await?;
        let summary = summarise(&*broker, &reading, stop.job()).await?;
        let _ = broker.close().await;
        Ok(summary)
    }))?;
    let why = incomplete(summary.end);
    session.ui.report(&JournalView::new(reading.journal.as_str(), &summary))?;
    if let Some(why) = why {
        session.ui.warning(why);
        return Ok(ExitStatus::Partly);
    }
    Ok(ExitStatus::Done)
}

fn show(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let format = format_of(&args.shape, session.ui.format)?;
    let framed = session.ui.format == OutputFormat::Json && args.shape.is_plain();
    let reading = args.place.reading();
    let wanted = args.sequence.clone().unwrap_or_else(Numbers::all);
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let stop = session.stop.clone();
    let found = session.drive(unless_stopped(&stop, async {
        let broker = target.connect().await?;
        is_there(&*broker, &reading.journal, &settings).await?;
        let found = find(&*broker, &reading, &args.workflow, &wanted, stop.job()).await?;
        let _ = broker.close().await;
        Ok(found)
    }))?;
    let Found { messages, missing, end } = found;
    let messages: Vec<Delivery> = messages.into_values().collect();
    let bytes = written(format, framed, &messages, reading.journal.as_str())
        .map_err(|error| CliError::stdout(&error))?;
    session.ui.data(&bytes)?;
    for range in &missing {
        session.ui.warning(format!(
            "{} of workflow `{}` is not in the journal",
            view::range(range),
            args.workflow
        ));
    }
    session.ui.status(format!(
        "{} of workflow `{}`",
        count(messages.len(), "message"),
        args.workflow
    ));
    if let Some(why) = incomplete(end) {
        session.ui.warning(why);
        return Ok(ExitStatus::Partly);
    }
    Ok(if messages.is_empty() { ExitStatus::Negative } else { ExitStatus::Done })
}

/// The queues that the message went to first, but for the journal.
fn went_to(view: &TopologyView, delivery: &Delivery, journal: &QueueName) -> Vec<QueueName> {
    let none = FieldTable::new();
    let headers = delivery.message.properties.headers.as_ref().unwrap_or(&none);
    let routing = view.routing();
    routing
        .targets(&delivery.exchange, delivery.routing_key.as_str(), headers, &[])
        .into_iter()
        .filter_map(|index| routing.queue(index).cloned())
        .filter(|queue| queue != journal)
        .collect()
}

/// The one queue that all of these went to.
async fn only_target(
    broker: &dyn Broker,
    found: &Found,
    journal: &QueueName,
) -> Result<QueueName, CliError> {
    let view = TopologyView::of_snapshot(&broker.inspect().await?);
    let mut targets: Vec<QueueName> = Vec::new();
    for delivery in found.messages.values() {
        for queue in went_to(&view, delivery, journal) {
            if !targets.contains(&queue) {
                targets.push(queue);
            }
        }
    }
    match <[QueueName; 1]>::try_from(targets) {
        Ok([only]) => Ok(only),
        Err(targets) if targets.is_empty() => Err(CliError::usage(
            "no queue gets these messages by the bindings that there are; say which one misses them",
        )
        .hint("add `--to QUEUE`")),
        Err(targets) => {
            let names: Vec<String> = targets.iter().map(|queue| format!("`{queue}`")).collect();
            Err(CliError::usage(format!(
                "these messages went to several queues: {}; say which one misses them",
                names.join(", ")
            ))
            .hint("add `--to QUEUE`: the others would get them twice"))
        }
    }
}

fn send_again(args: &ReplayArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let reading = args.place.reading();
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let stop = session.stop.clone();
    let journal = &reading.journal;
    let (found, to) = session.drive(unless_stopped(&stop, async {
        let broker = target.connect().await?;
        is_there(&*broker, journal, &settings).await?;
        if let Some(to) = &args.to
            && broker.depth(to).await?.is_none()
        {
            let vhost = &broker.identity().vhost;
            let message =
                format!("cannot send again: queue `{to}` does not exist in vhost `{vhost}`");
            let next = missing::look(Missing::Queue, to.as_str(), &*broker, &settings).await;
            return Err(CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message)
                .object(to.as_str())
                .hint(next));
        }
        if args.to.as_ref() == Some(journal) {
            return Err(CliError::usage("the journal itself misses nothing that is in it"));
        }
        let found = find(&*broker, &reading, &args.workflow, &args.sequence, stop.job()).await?;
        let to = match &args.to {
            Some(to) => Some(to.clone()),
            None if found.messages.is_empty() => None,
            None => Some(only_target(&*broker, &found, journal).await?),
        };
        let _ = broker.close().await;
        Ok((found, to))
    }))?;
    let Found { messages, missing, end } = found;
    if end == ReadEnd::Enough {
        let message =
            format!("cannot send more than {MOST_MESSAGES} messages again in one run, or 256 MiB");
        return Err(
            CliError::failed(message).hint("ask for fewer with `--sequence`; nothing was sent")
        );
    }
    if end != ReadEnd::Complete {
        let why = incomplete(end).unwrap_or_default();
        return Err(
            CliError::failed(format!("cannot send messages again: {why}")).hint("nothing was sent")
        );
    }
    let mut view =
        JournalReplayView::new(args.workflow.clone(), journal, to.as_ref(), &messages, &missing);
    view.dry_run = args.dry_run;
    let (Some(to), false) = (to, messages.is_empty()) else {
        session.ui.report(&view)?;
        return Ok(ExitStatus::Negative);
    };
    if args.dry_run {
        session.ui.report(&view)?;
        return Ok(if missing.is_empty() { ExitStatus::Done } else { ExitStatus::Partly });
    }
    let number = messages.len() as u64;
    let what = format!(
        "send {} of workflow `{}` to queue `{to}` again",
        count(number, "message"),
        args.workflow
    );
    consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
    let options = ReplayOptions {
        journal: journal.clone(),
        to,
        run: session.clock.now().to_string(),
        login: target.login().map(str::to_owned),
    };
    let bar = Progress::new(&session.ui, Some(number), "messages");
    let report = session.drive(async {
        let broker = target.connect().await?;
        let mut progress = |done| bar.at(done);
        let report = replay(&*broker, messages, &options, stop.job(), &mut progress).await?;
        let _ = broker.close().await;
        Ok(report)
    })?;
    bar.clear();
    view.fill(&report, options.run);
    session.ui.report(&view)?;
    let confirmed = view.confirmed();
    Ok(if confirmed == number && missing.is_empty() {
        ExitStatus::Done
    } else if confirmed > 0 {
        ExitStatus::Partly
    } else if !report.in_doubt.is_empty() {
        ExitStatus::OutcomeUnknown
    } else if !report.returned.is_empty() || !report.nacked.is_empty() {
        ExitStatus::NotAccepted
    } else if stop.signal().is_some() {
        stop.status()
    } else {
        report.failure.as_ref().map_or(ExitStatus::Failed, |error| CliError::from(error).status)
    })
}
