//! `nexusctl publish`: every message confirmed, returned, nacked or unknown, and said so.

mod view;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::base::expression::Template;
use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::{Broker, BrokerError, ErrorKind, PublisherOptions};
use crate::delivery::compose::{Composer, EnvelopeParts};
use crate::delivery::pace::Pace;
use crate::delivery::publish::{
    OnError, PublishEnd, PublishOptions, PublishReport, PublishVerdict, publish,
};
use crate::delivery::source::{
    Body, Limits, LineSource, RecordSource, RepeatSource, Source, TEMPLATE_VARIABLES,
};
use crate::message::argument::{
    check_short, parse_delivery_mode, parse_expiration, parse_headers, parse_priority,
    parse_timestamp,
};
use crate::message::record::{RecordRef, write_record};
use crate::message::{Properties, TraceContext};
use crate::topology::model::MessageType;

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

/// What an envelope says.
#[derive(Debug, Args)]
#[command(next_help_heading = "Envelope")]
struct EnvelopeArgs {
    /// Wrap the body (JSON) in an envelope of this message type
    #[arg(long = "type", value_name = "TYPE", requires = "sender")]
    message_type: Option<String>,
    /// Name the agent that sends
    #[arg(long, value_name = "AGENT", requires = "message_type")]
    sender: Option<String>,
    /// Name the agent it is for
    #[arg(long, value_name = "AGENT", requires = "message_type")]
    recipient: Option<String>,
    /// Name the workflow it belongs to
    #[arg(long, value_name = "ID", requires = "message_type")]
    workflow: Option<String>,
    /// Number the first message so, and those after it onward
    #[arg(long, value_name = "N", requires = "message_type")]
    sequence: Option<u64>,
    /// Make it part of this trace (W3C traceparent); `new` begins one
    #[arg(long, value_name = "TRACEPARENT", requires = "message_type")]
    traceparent: Option<String>,
}

/// AMQP's properties.
#[derive(Debug, Args)]
#[command(next_help_heading = "Properties")]
struct PropertyArgs {
    /// Add a header: NAME=TEXT, or NAME:=JSON for other types
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Set the MIME type of the body
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Set the MIME encoding of the body
    #[arg(long, value_name = "ENCODING")]
    content_encoding: Option<String>,
    /// Set the delivery mode: persistent or transient; persistent unless the message type says else
    #[arg(long, value_name = "MODE", value_parser = parse_delivery_mode)]
    delivery_mode: Option<u8>,
    /// Set the priority, 0 to 255
    #[arg(long, value_name = "N", value_parser = parse_priority)]
    priority: Option<u8>,
    /// Set the correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Set where an answer goes
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// Let the message expire after this time: milliseconds or 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_expiration)]
    expiration: Option<String>,
    /// Set the message id
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Set the timestamp: RFC 3339, seconds since 1970 or `now`
    #[arg(long, value_name = "TIME")]
    timestamp: Option<String>,
    /// Set AMQP's own type property, without an envelope
    #[arg(long, value_name = "TYPE")]
    amqp_type: Option<String>,
    /// Set the user id, which must be the login
    #[arg(long, value_name = "USER")]
    user_id: Option<String>,
    /// Set the application id
    #[arg(long, value_name = "APP")]
    app_id: Option<String>,
    /// Set the cluster id
    #[arg(long, value_name = "ID")]
    cluster_id: Option<String>,
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

/// What a bad line leads to.
#[derive(Clone, Debug)]
enum OnErrorArg {
    Stop,
    Skip,
    File(PathBuf),
}

impl FromStr for OnErrorArg {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stop" => Ok(OnErrorArg::Stop),
            "skip" => Ok(OnErrorArg::Skip),
            _ => match text.strip_prefix("file=") {
                Some(path) if !path.is_empty() => Ok(OnErrorArg::File(path.into())),
                _ => Err("write stop, skip or file=PATH".to_owned()),
            },
        }
    }
}

/// How the input is cut into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    One,
    Lines,
    Records,
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
    let shape = match (lines, records) {
        (true, _) => Shape::Lines,
        (_, true) => Shape::Records,
        _ => Shape::One,
    };
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let rate = match rate {
        Some(rate) => Some(
            Pace::new(rate)
                .ok_or_else(|| CliError::usage(format!("there is no rate of {rate}")))?,
        ),
        None => None,
    };
    let defaults = message_types(session);
    let properties = properties_of(properties, &envelope, &defaults, session)?;
    let mut random = fastrand::Rng::with_seed(seed.unwrap_or(session.seed));
    let envelope = envelope_of(envelope, &mut random)?;
    let limits = Limits { login: target.login().map(str::to_owned), ..Limits::default() };
    let input = Input { exchange, key, body, file, count, template, shape };
    let total = input.total();
    let composer = Composer::new(properties, Arc::clone(&session.clock), random.fork());
    let composer = match envelope {
        Some(parts) => composer.enveloped(parts),
        None => composer,
    };
    let source = input.source(composer, defaults, random, limits, session)?;
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
        on_error: match on_error {
            OnErrorArg::Stop => OnError::Stop,
            OnErrorArg::Skip => OnError::Skip,
            OnErrorArg::File(path) => OnError::File(create(&path, session)?),
        },
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
async fn advise(
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

fn create(path: &Path, session: &Session) -> Result<Box<dyn Write + Send>, CliError> {
    let file =
        File::create(session.resolve(path)).map_err(|error| CliError::unwritable(path, &error))?;
    Ok(Box::new(io::BufWriter::new(file)))
}

/// What messages carry by their type, as the project's topology says; a topology that cannot be read
/// is somebody else's trouble, and named.
fn message_types(session: &mut Session) -> BTreeMap<String, MessageType> {
    let Ok(settings) = session.settings() else { return BTreeMap::new() };
    let Some(project) = &settings.project else { return BTreeMap::new() };
    match crate::project::topology::of_project(project, &BTreeMap::new()) {
        Ok(topology) => topology.message_types,
        Err(_) => {
            session.ui.warning(
                "the project's topology cannot be read, so its message types are not applied; \
                 `nexusctl check` says why",
            );
            BTreeMap::new()
        }
    }
}

fn properties_of(
    args: PropertyArgs,
    envelope: &EnvelopeArgs,
    defaults: &BTreeMap<String, MessageType>,
    session: &Session,
) -> Result<Properties, CliError> {
    let PropertyArgs {
        headers,
        content_type,
        content_encoding,
        delivery_mode,
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        amqp_type,
        user_id,
        app_id,
        cluster_id,
    } = args;
    let mut wrong = Vec::new();
    let headers = parse_headers(headers.iter().map(String::as_str)).unwrap_or_else(|found| {
        wrong.extend(found);
        crate::message::FieldTable::new()
    });
    let now = session.clock.now();
    let timestamp = match timestamp.map(|text| parse_timestamp(&text, now)) {
        None => None,
        Some(Ok(seconds)) => Some(seconds),
        Some(Err(why)) => {
            wrong.push(why);
            None
        }
    };
    for (name, text) in [
        ("--content-type", &content_type),
        ("--content-encoding", &content_encoding),
        ("--correlation-id", &correlation_id),
        ("--reply-to", &reply_to),
        ("--message-id", &message_id),
        ("--amqp-type", &amqp_type),
        ("--user-id", &user_id),
        ("--app-id", &app_id),
        ("--cluster-id", &cluster_id),
    ] {
        wrong.extend(text.as_ref().and_then(|text| check_short(name, text).err()));
    }
    if !wrong.is_empty() {
        return Err(CliError::usage(wrong.join("\n")));
    }
    let kind = envelope.message_type.as_ref().or(amqp_type.as_ref());
    let typed = kind.and_then(|kind| defaults.get(kind)).and_then(|known| known.persistent);
    Ok(Properties {
        content_type,
        content_encoding,
        headers: (!headers.is_empty()).then_some(headers),
        // Nobody wants to lose a message by default.
        delivery_mode: delivery_mode.or(if typed.is_some() { None } else { Some(2) }),
        priority,
        correlation_id,
        reply_to,
        expiration,
        message_id,
        timestamp,
        kind: amqp_type,
        user_id,
        app_id,
        cluster_id,
    })
}

fn envelope_of(
    args: EnvelopeArgs,
    random: &mut fastrand::Rng,
) -> Result<Option<EnvelopeParts>, CliError> {
    let EnvelopeArgs { message_type, sender, recipient, workflow, sequence, traceparent } = args;
    let (Some(message_type), Some(sender)) = (message_type, sender) else { return Ok(None) };
    let trace = match traceparent.as_deref() {
        None => None,
        Some("new") => Some(TraceContext::new(random)),
        Some(text) => {
            Some(text.parse().map_err(|error| CliError::usage(format!("--traceparent: {error}")))?)
        }
    };
    Ok(Some(EnvelopeParts {
        message_type,
        sender,
        recipient,
        workflow_id: workflow,
        sequence,
        trace,
        trace_state: None,
    }))
}

/// What is to be read.
struct Input {
    exchange: Option<ExchangeName>,
    key: Option<RoutingKey>,
    body: Option<String>,
    file: Option<PathBuf>,
    count: Option<u64>,
    template: bool,
    shape: Shape,
}

impl Input {
    /// How many messages it will be, when that is known.
    fn total(&self) -> Option<u64> {
        (self.shape == Shape::One).then(|| self.count.unwrap_or(1))
    }

    fn source(
        self,
        composer: Composer,
        defaults: BTreeMap<String, MessageType>,
        random: fastrand::Rng,
        limits: Limits,
        session: &mut Session,
    ) -> Result<Box<dyn Source>, CliError> {
        let Input { exchange, key, body, file, count, template, shape } = self;
        if shape == Shape::Records {
            let input = open(file.as_deref(), session)?;
            let source = RecordSource::new(input, exchange, key, limits).with_defaults(defaults);
            return Ok(Box::new(source));
        }
        let (Some(exchange), Some(key)) = (exchange, key) else {
            return Err(CliError::usage("an exchange and a routing key are needed"));
        };
        let composer = composer.with_defaults(defaults);
        if shape == Shape::Lines {
            let input = open(file.as_deref(), session)?;
            return Ok(Box::new(LineSource::new(input, exchange, key, composer, limits)));
        }
        let bytes = match body {
            Some(body) => body.into_bytes(),
            None => {
                let mut bytes = Vec::new();
                let name = file.as_deref().unwrap_or(Path::new("-")).display().to_string();
                open(file.as_deref(), session)?
                    .read_to_end(&mut bytes)
                    .map_err(|error| CliError::file(format!("read {name}"), &error))?;
                if bytes.is_empty() && file.is_none() {
                    return Err(CliError::usage("there is no body, and standard input is empty")
                        .hint("give the body as an argument, or `-f FILE`; '' is the empty body"));
                }
                bytes
            }
        };
        let parse = |text: &str, what: &str| {
            Template::parse_with(text, &TEMPLATE_VARIABLES)
                .map_err(|error| CliError::usage(format!("the template of the {what}: {error}")))
        };
        let (body, key_template) = if template {
            let text = String::from_utf8(bytes)
                .map_err(|_| CliError::input("a template is UTF-8 text, and this body is not"))?;
            let key_template = key.as_str().contains("${").then(|| parse(key.as_str(), "key"));
            (Body::Template(parse(&text, "body")?), key_template.transpose()?)
        } else {
            (Body::Fixed(bytes), None)
        };
        let count = count.unwrap_or(1);
        let clock = Arc::clone(&session.clock);
        let source = RepeatSource::new(exchange, key, body, count, composer, clock, random, limits);
        Ok(Box::new(match key_template {
            Some(template) => source.with_key_template(template),
            None => source,
        }))
    }
}

/// The input: a file, or standard input when that is a pipe or asked for.
fn open(file: Option<&Path>, session: &mut Session) -> Result<Box<dyn Read + Send>, CliError> {
    match file {
        Some(path) if path.as_os_str() != "-" => {
            let file = File::open(session.resolve(path))
                .map_err(|error| CliError::file(format!("read {}", path.display()), &error))?;
            Ok(Box::new(file))
        }
        None if session.stdin_is_terminal() => {
            Err(CliError::usage("there is no body, and standard input is a terminal")
                .hint("give the body as an argument, or `-f FILE`"))
        }
        _ => Ok(session.take_stdin()),
    }
}

/// Prints what would be published.
fn show(
    mut source: Box<dyn Source>,
    on_error: &OnErrorArg,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let mut bad = 0u64;
    let mut text = Vec::new();
    loop {
        let next = source.next().map_err(|error| CliError::file("read the input", &error))?;
        match next {
            None => break,
            Some(Ok(item)) => {
                let publish = &item.publish;
                write_record(
                    &mut text,
                    &RecordRef {
                        exchange: Some(publish.exchange.as_str()),
                        routing_key: Some(publish.routing_key.as_str()),
                        queue: None,
                        redelivered: None,
                        delivery_tag: None,
                        message: &publish.message,
                    },
                );
                if text.last() != Some(&b'\n') {
                    text.push(b'\n');
                }
                session.ui.data(&text)?;
                text.clear();
            }
            Some(Err(line)) => {
                bad += 1;
                session.ui.warning(format!("line {}: {}", line.line, line.reason));
                if matches!(on_error, OnErrorArg::Stop) {
                    break;
                }
            }
        }
    }
    Ok(if bad > 0 { ExitStatus::BadInput } else { ExitStatus::Done })
}

fn status_of(report: &PublishReport, session: &Session) -> Result<ExitStatus, CliError> {
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
