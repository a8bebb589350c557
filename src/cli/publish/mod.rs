//! `nexusctl publish`: every message confirmed, returned, nacked or unknown, and said so.

mod view;

use std::path::PathBuf;

use clap::Args;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{Broker, BrokerError, ErrorKind, PublisherOptions};
use crate::delivery::pace::Pace;
use crate::delivery::publish::{
    PublishEnd, PublishOptions, PublishReport, PublishVerdict, publish,
};

use super::compose::{EnvelopeArgs, Input, OnErrorArg, PropertyArgs, Shape, create, show};
use super::connect::Connector;
use super::consent::{self, Deed};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::{self, Missing, shell_word};
use super::progress::Progress;
use super::session::Session;
use super::settings::Settings;

pub use view::PublishView;

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every message is mandatory and confirmed. Status 5 when one was returned or nacked, \
    6 when an outcome is unknown.\n\nExamples:\n  \
    nexusctl publish nexus.agents worker '{\"task\": 7}' --type task.created --sender planner\n  \
    nexusctl publish nexus.events order.created 'hello' -H region=eu -H attempt:=1\n  \
    nexusctl publish nexus.agents worker 'job ${ seq } of ${ uuid }' --template --count 10 --seed 1\n  \
    nexusctl publish nexus.agents worker --lines -f bodies.txt --rate 100\n  \
    nexusctl publish --records -f messages.ndjson --on-error skip"
)]
pub struct PublishArgs {
    /// The exchange; empty for the default exchange, whose keys are queue names
    #[arg(required_unless_present = "records")]
    exchange: Option<ExchangeName>,
    /// The routing key
    #[arg(required_unless_present = "records")]
    key: Option<RoutingKey>,
    /// The body
    #[arg(conflicts_with_all = ["file", "lines", "records"])]
    body: Option<String>,
    /// Read the body from this file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take each line of the file as a message
    #[arg(long, conflicts_with = "records")]
    lines: bool,
    /// Take each line of the file as a record (NDJSON, as `consume` writes it)
    #[arg(long, conflicts_with_all = ["message_type", "template"])]
    records: bool,
    #[command(flatten)]
    envelope: EnvelopeArgs,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    pace: PaceArgs,
    /// With a bad line: send nothing more, leave it out, or write it to a file: stop, skip, file=PATH
    #[arg(long, value_name = "HOW", default_value = "stop")]
    on_error: OnErrorArg,
    /// Write what became of each message into this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the records that would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

/// How many, how fast, how varied.
#[derive(Debug, Args)]
#[command(next_help_heading = "Amount")]
struct PaceArgs {
    /// Publish the body so many times
    #[arg(long, value_name = "N", conflicts_with_all = ["lines", "records"])]
    count: Option<u64>,
    /// Publish at most so many messages a second
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Fill `${ … }` in body and key anew for each message: seq, uuid, now, random and CEL of them
    #[arg(long, conflicts_with = "lines")]
    template: bool,
    /// Draw random values and ids from this seed, so that a run can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Leave at most so many messages unconfirmed at once
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..=65_535))]
    window: u32,
}

/// Publishes.
pub(super) fn run(args: PublishArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PublishArgs {
        exchange,
        key,
        body,
        file,
        lines,
        records,
        envelope,
        properties,
        pace,
        on_error,
        report,
        dry_run,
    } = args;
    let PaceArgs { count, rate, template, seed, window } = pace;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let rate = match rate {
        Some(rate) => Some(
            Pace::new(rate)
                .ok_or_else(|| CliError::usage(format!("there is no rate of {rate}")))?,
        ),
        None => None,
    };
    let shape = Shape::of(lines, records);
    let input = Input { exchange, key, body, file, count, template, shape };
    let total = input.total();
    let source = input.source(envelope, properties, seed, target.login(), session)?;
    if dry_run {
        return show(source, &on_error, session);
    }
    let what = match total {
        Some(1) => "publish a message".to_owned(),
        Some(total) => format!("publish {total} messages"),
        None => "publish messages".to_owned(),
    };
    consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
    let options = PublishOptions {
        on_error: on_error.open(session)?,
        pace: rate,
        full_report: report.map(|path| create(&path, session)).transpose()?,
        ..PublishOptions::default()
    };
    let bar = Progress::new(&session.ui, total, "messages");
    let result = session.drive(async {
        let broker = target.connect().await?;
        let window = usize::try_from(window).unwrap_or(512);
        let publisher =
            broker.publisher(PublisherOptions { window, ..PublisherOptions::default() }).await?;
        let mut progress = |now: crate::delivery::publish::Progress| {
            bar.at(now.settled);
            if now.refused > 0 {
                bar.message(format!("{} not accepted", now.refused));
            }
        };
        let report = publish(publisher, source, options, session.stop.job(), &mut progress).await;
        let hint = advise(&report, broker.as_ref(), &settings).await;
        // Everything has its outcome; a connection that does not close well changes nothing.
        let _ = broker.close().await;
        Ok((report, hint))
    });
    bar.clear();
    let (report, hint) = result?;
    session.ui.report(&PublishView::new(&report, hint.clone()))?;
    if let Some(hint) = hint.filter(|_| !session.ui.format.is_machine()) {
        session.ui.hint(hint);
    }
    if let Some(error) = &report.broker_error {
        session.ui.error(&CliError::from(error));
    }
    status_of(&report, session)
}

/// What to do about the first message that came back.
pub(in crate::cli) async fn advise(
    report: &PublishReport,
    broker: &dyn Broker,
    settings: &Settings,
) -> Option<String> {
    let (exchange, key, code) = report.entries.iter().find_map(|entry| {
        Some((entry.exchange.as_deref()?, entry.routing_key.as_deref()?, entry.code?))
    })?;
    let (missing, name) = match (code, exchange) {
        (NOT_FOUND, name) => (Missing::Exchange, name),
        (NO_ROUTE, "") => (Missing::Queue, key),
        (NO_ROUTE, name) => {
            return Some(format!(
                "`nexusctl topology route {} {} --live` shows where such a message would go",
                shell_word(name),
                shell_word(key)
            ));
        }
        _ => return None,
    };
    Some(missing::look(missing, name, broker, settings).await)
}

/// AMQP's reply codes.
const NO_ROUTE: u16 = 312;
const NOT_FOUND: u16 = 404;

pub(in crate::cli) fn status_of(
    report: &PublishReport,
    session: &Session,
) -> Result<ExitStatus, CliError> {
    Ok(match report.verdict() {
        PublishVerdict::Accepted => ExitStatus::Done,
        PublishVerdict::Partly => ExitStatus::Partly,
        PublishVerdict::Refused if report.confirmed == 0 && is_forbidden(report) => {
            ExitStatus::AccessRefused
        }
        PublishVerdict::Refused => ExitStatus::NotAccepted,
        PublishVerdict::Unknown if is_missing_exchange(report) => ExitStatus::NotAccepted,
        PublishVerdict::Unknown => ExitStatus::OutcomeUnknown,
        PublishVerdict::BadInput => ExitStatus::BadInput,
        PublishVerdict::Stopped => session.stop.status(),
        PublishVerdict::Failed => match &report.broker_error {
            Some(error) => CliError::from(error).status,
            None if report.ended == PublishEnd::BadLine => ExitStatus::BadInput,
            None => {
                let why = report.error.clone().unwrap_or_default();
                return Err(CliError::new(code::FAILED, ExitStatus::Failed, why));
            }
        },
    })
}

fn is_forbidden(report: &PublishReport) -> bool {
    report.broker_error.as_ref().is_some_and(|error| error.kind == ErrorKind::AccessRefused)
}

/// The broker closes the channel on a missing exchange, so outcomes look unknown; but when nothing was
/// confirmed before, nothing can have arrived.
fn is_missing_exchange(report: &PublishReport) -> bool {
    let missing = |error: &BrokerError| error.kind == ErrorKind::NotFound;
    report.confirmed == 0 && report.broker_error.as_ref().is_some_and(missing)
}
