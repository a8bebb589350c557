//! `nexusctl tap`: copies of what passes an exchange, taken beside its consumers.

mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::base::time::HumanDuration;
use crate::broker::{Broker, BrokerError, ErrorKind};
use crate::delivery::consume::{ConsumeOptions, ConsumeVerdict};
use crate::delivery::filter::Filter;
use crate::delivery::sink::Format;
use crate::delivery::tap::{TapPlan, TapQueue, TapRefusal, TapReport, TapTarget, plan, tap};
use crate::message::FieldTable;
use crate::message::argument::parse_headers;
use crate::topology::view::TopologyView;

use super::connect::Connector;
use super::consent::{self, Deed};
use super::consume::{self, Outlet, ShapeArgs, format_of};
use super::ending::EndArgs;
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::{self, Missing};
use super::output::{Format as OutputFormat, document};
use super::progress::Progress;
use super::runtime::unless_stopped;
use super::session::Session;
use super::settings::Settings;

pub use view::{TapPlanView, TapView};

/// Arguments of `tap`.
#[derive(Debug, Args)]
#[command(
    after_help = "A queue of its own (nexus.tap.*) is bound beside the others: bounded, expiring, \
    deleted at the end. Consumers lose nothing by it. A topic, fanout or headers exchange is tapped \
    whole unless a key is written; a direct one wants keys.\n\nExamples:\n  \
    nexusctl tap nexus.events --count 10 --deadline 300ms\n  \
    nexusctl tap 'nexus.events:task.#' nexus.agents:worker --idle 300ms --raw\n  \
    nexusctl tap nexus.agents --mirror --deadline 300ms --filter 'properties.priority > 4'\n  \
    nexusctl tap amq.headers -H region=eu -H tier=gold --match any --deadline 300ms --out tapped.ndjson\n  \
    nexusctl tap nexus.events --dry-run"
)]
pub struct TapArgs {
    /// What to tap: EXCHANGE or EXCHANGE:KEY
    #[arg(required = true, value_name = "EXCHANGE[:KEY]")]
    targets: Vec<String>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Take only messages for which this CEL expression is true
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Append to this file and sync it, instead of writing to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the counts as a JSON document into this file when done
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Show what would be bound and what it would change, and bind nothing
    #[arg(long)]
    dry_run: bool,
}

/// How the tap is bound, and its queue.
#[derive(Debug, Args)]
#[command(next_help_heading = "The tap")]
pub(in crate::cli) struct PlaceArgs {
    /// Take only what is bound already, each key once: nothing changes for publishers
    #[arg(long)]
    mirror: bool,
    /// At headers exchanges, take messages with this header: NAME=TEXT, or NAME:=JSON
    #[arg(short = 'H', long = "header", value_name = "HEADER", conflicts_with = "mirror")]
    headers: Vec<String>,
    /// Whether all these headers are wanted or any of them
    #[arg(long = "match", value_enum, default_value_t, requires = "headers")]
    how: MatchArg,
    /// Keep at most so many messages that are not read yet; the oldest are dropped then
    #[arg(long, value_name = "N", default_value_t = 10_000,
          value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    buffer: u64,
    /// Let the tap go away by itself so long after its reader is gone
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    expires: HumanDuration,
}

/// Which headers are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum MatchArg {
    /// Every one of them
    #[default]
    All,
    /// At least one of them
    Any,
}

/// What is tapped, and what becomes of the messages.
pub(in crate::cli) struct Tapping {
    pub(in crate::cli) targets: Vec<String>,
    pub(in crate::cli) place: PlaceArgs,
    pub(in crate::cli) end: EndArgs,
    pub(in crate::cli) filter: Option<Filter>,
    pub(in crate::cli) format: Format,
    pub(in crate::cli) is_document: bool,
    pub(in crate::cli) out: Option<PathBuf>,
    pub(in crate::cli) report: Option<PathBuf>,
    /// Whether each record says when its message came.
    pub(in crate::cli) timed: bool,
    pub(in crate::cli) dry_run: bool,
}

/// Taps.
pub(super) fn run(args: TapArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let TapArgs { targets, place, end, filter, shape, out, report, dry_run } = args;
    // A context may say how reports are printed.
    session.settings()?;
    let is_document = session.ui.format == OutputFormat::Json && shape.is_plain();
    let format = format_of(&shape, session.ui.format)?;
    let filter = read_filter(filter)?;
    let tapping = Tapping {
        targets,
        place,
        end,
        filter,
        format,
        is_document,
        out,
        report,
        timed: false,
        dry_run,
    };
    run_tapping(tapping, session)
}

pub(in crate::cli) fn read_filter(filter: Option<String>) -> Result<Option<Filter>, CliError> {
    filter
        .map(|text| Filter::parse(&text))
        .transpose()
        .map_err(|error| CliError::usage(format!("--filter: {error}")))
}

fn header_table(headers: &[String], how: MatchArg) -> Result<FieldTable, CliError> {
    let table = parse_headers(headers.iter().map(String::as_str))
        .map_err(|wrong| CliError::usage(wrong.join("\n")))?;
    Ok(if table.is_empty() {
        table
    } else {
        table.with("x-match", if how == MatchArg::Any { "any" } else { "all" })
    })
}

/// Taps, for `tap` and for `record`.
pub(in crate::cli) fn run_tapping(
    tapping: Tapping,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let Tapping { targets, place, end, filter, format, is_document, out, report, timed, dry_run } =
        tapping;
    let PlaceArgs { mirror, headers, how, buffer, expires } = place;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let headers = header_table(&headers, how)?;
    let targets: Vec<TapTarget> = targets.iter().map(|text| TapTarget::parse(text)).collect();
    let mut random = fastrand::Rng::with_seed(session.seed);
    let who = session.who.split(',').next().unwrap_or("somebody").to_owned();
    let queue = TapQueue::named(&who, random.u32(..), buffer, expires.0)
        .map_err(|error| CliError::usage(error.to_string()))?;
    let options = ConsumeOptions {
        count: end.limits.count,
        idle: end.limits.idle(),
        deadline: end.limits.deadline(),
        expect: end.expect,
        filter,
        grace: settings.timeout(),
        timed: timed.then(|| Arc::clone(&session.clock)),
        ..ConsumeOptions::default()
    };
    // A connection of its own: what comes next may wait for a person.
    let planned = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let planned = look(broker.as_ref(), &targets, &headers, mirror, &settings).await?;
        let _ = broker.close().await;
        Ok(planned)
    }))?;
    if dry_run {
        session.ui.report(&TapPlanView::new(&queue, &planned))?;
        return Ok(ExitStatus::Done);
    }
    let names: Vec<&str> = targets.iter().map(|target| target.exchange.as_str()).collect();
    let what = format!("tap {}", names.join(", "));
    consent::ask(session, &settings, &Deed { what, losses: planned.losses.clone() })?;
    for warning in &planned.warnings {
        session.ui.warning(warning);
    }
    // Made first: a report that cannot be written is no reason to have tapped something.
    let report = match report {
        Some(path) => match File::create(session.resolve(&path)) {
            Ok(file) => Some((path, file)),
            Err(error) => return Err(CliError::unwritable(&path, &error)),
        },
        None => None,
    };
    let (sink, outlet) = Outlet::open(out.as_deref(), format, is_document, session)?;
    let quiet = outlet.is_stdout() && session.ui.stdout_is_terminal();
    let bar = if quiet {
        Progress::none()
    } else {
        Progress::new(&session.ui, end.limits.count, "messages")
    };
    let clock = Arc::clone(&session.clock);
    let started = format!("tapping with the queue `{}`", queue.name);
    session.ui.status(started);
    let result = session.drive(async {
        let broker = target.connect().await?;
        let mut progress = |written| bar.at(written);
        let stop = session.stop.job();
        let tapped =
            tap(Arc::clone(&broker), &planned, &queue, options, sink, clock, stop, &mut progress)
                .await?;
        // The tap is gone; a connection that does not close well changes nothing.
        let _ = broker.close().await;
        Ok(tapped)
    });
    bar.clear();
    let tapped = result?;
    if !tapped.consumed.pipe_closed {
        outlet.finish(tapped.consumed.error.is_none())?;
    }
    let view = TapView::new(&queue, &planned, &tapped);
    if let Some((path, mut file)) = report {
        file.write_all(format!("{:#}\n", document(&view)).as_bytes())
            .map_err(|error| CliError::unwritable(&path, &error))?;
    }
    for warning in view.warnings() {
        session.ui.warning(warning);
    }
    if timed && session.ui.format.is_machine() {
        // Standard output is free: the messages are in the file.
        session.ui.report(&view)?;
    }
    session.ui.status(view.words());
    status_of(&tapped, session)
}

/// Looks at what is there and decides where to bind.
async fn look(
    broker: &dyn Broker,
    targets: &[TapTarget],
    headers: &FieldTable,
    mirror: bool,
    settings: &Settings,
) -> Result<TapPlan, CliError> {
    let view = match broker.inspect().await {
        Ok(snapshot) => Some(TopologyView::of_snapshot(&snapshot)),
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => return Err(error.into()),
    };
    match plan(targets, headers, mirror, view.as_ref()) {
        Ok(planned) => Ok(planned),
        Err(TapRefusal::Missing(name)) => {
            let attempted = format!("tap exchange `{name}`");
            let cause = format!("it does not exist in vhost `{}`", broker.identity().vhost);
            let next = missing::look(Missing::Exchange, &name, broker, settings).await;
            let error = BrokerError::new(ErrorKind::NotFound, attempted, cause);
            Err(CliError::from(error).hint(next))
        }
        Err(TapRefusal::Impossible { why, instead }) => {
            Err(CliError::new(code::TAP_IMPOSSIBLE, ExitStatus::Usage, why).hint(instead))
        }
    }
}

fn status_of(report: &TapReport, session: &Session) -> Result<ExitStatus, CliError> {
    let consumed = &report.consumed;
    let gone = report.left_behind.is_none();
    match consumed.verdict() {
        ConsumeVerdict::Done | ConsumeVerdict::Partly if gone => Ok(ExitStatus::Done),
        ConsumeVerdict::Done | ConsumeVerdict::Partly => Ok(ExitStatus::Partly),
        _ => consume::status_of(
            consumed,
            session,
            "tapping",
            "copies that were not written are gone with the tap; consumers have lost nothing",
        ),
    }
}

/// Header values as text, for views.
fn shown_arguments(arguments: &FieldTable) -> BTreeMap<String, serde_json::Value> {
    arguments
        .iter()
        .map(|(name, value)| (name.to_owned(), crate::broker::arguments::json_of_field(value)))
        .collect()
}
