//! From the command line to messages: properties, envelopes, and where bodies come from. What
//! `publish` and `request` have in common.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::base::expression::Template;
use crate::base::id::{ExchangeName, RoutingKey};
use crate::delivery::compose::{Composer, EnvelopeParts};
use crate::delivery::publish::{OnError, as_line};
use crate::delivery::source::{
    Body, Limits, LineSource, RecordSource, RepeatSource, Source, TEMPLATE_VARIABLES,
};
use crate::message::argument::{
    check_short, parse_delivery_mode, parse_expiration, parse_headers, parse_priority,
    parse_timestamp,
};
use crate::message::{Properties, TraceContext};
use crate::topology::model::MessageType;

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

/// What an envelope says.
#[derive(Debug, Args)]
#[command(next_help_heading = "Envelope")]
pub(in crate::cli) struct EnvelopeArgs {
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
pub(in crate::cli) struct PropertyArgs {
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
    pub(in crate::cli) reply_to: Option<String>,
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

/// What a bad line leads to.
#[derive(Clone, Debug)]
pub(in crate::cli) enum OnErrorArg {
    Stop,
    Skip,
    File(PathBuf),
}

impl OnErrorArg {
    /// What it asks for, its file made.
    pub(in crate::cli) fn open(self, session: &Session) -> Result<OnError, CliError> {
        Ok(match self {
            OnErrorArg::Stop => OnError::Stop,
            OnErrorArg::Skip => OnError::Skip,
            OnErrorArg::File(path) => OnError::File(create(&path, session)?),
        })
    }
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
pub(in crate::cli) enum Shape {
    One,
    Lines,
    Records,
}

pub(in crate::cli) fn create(
    path: &Path,
    session: &Session,
) -> Result<Box<dyn Write + Send>, CliError> {
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
pub(in crate::cli) struct Input {
    pub(in crate::cli) exchange: Option<ExchangeName>,
    pub(in crate::cli) key: Option<RoutingKey>,
    pub(in crate::cli) body: Option<String>,
    pub(in crate::cli) file: Option<PathBuf>,
    pub(in crate::cli) count: Option<u64>,
    pub(in crate::cli) template: bool,
    pub(in crate::cli) shape: Shape,
}

impl Shape {
    /// What the flags `--lines` and `--records` ask for.
    pub(in crate::cli) fn of(lines: bool, records: bool) -> Self {
        match (lines, records) {
            (true, _) => Shape::Lines,
            (_, true) => Shape::Records,
            _ => Shape::One,
        }
    }
}

impl Input {
    /// How many messages it will be, when that is known.
    pub(in crate::cli) fn total(&self) -> Option<u64> {
        (self.shape == Shape::One).then(|| self.count.unwrap_or(1))
    }

    /// Where the messages come from.
    ///
    /// # Errors
    /// When an argument is wrong, or the input cannot be opened.
    pub(in crate::cli) fn source(
        self,
        envelope: EnvelopeArgs,
        properties: PropertyArgs,
        seed: Option<u64>,
        login: Option<&str>,
        session: &mut Session,
    ) -> Result<Box<dyn Source>, CliError> {
        let defaults = message_types(session);
        let properties = properties_of(properties, &envelope, &defaults, session)?;
        let mut random = fastrand::Rng::with_seed(seed.unwrap_or(session.seed));
        let envelope = envelope_of(envelope, &mut random)?;
        let limits = Limits { login: login.map(str::to_owned), ..Limits::default() };
        let composer = Composer::new(properties, Arc::clone(&session.clock), random.fork());
        let composer = match envelope {
            Some(parts) => composer.enveloped(parts),
            None => composer,
        };
        self.read(composer, defaults, random, limits, session)
    }

    fn read(
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
pub(in crate::cli) fn show(
    mut source: Box<dyn Source>,
    on_error: &OnErrorArg,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let mut bad = 0u64;
    loop {
        let next = source.next().map_err(|error| CliError::file("read the input", &error))?;
        match next {
            None => break,
            Some(Ok(item)) => {
                let mut text = as_line(&item.publish);
                if text.last() != Some(&b'\n') {
                    text.push(b'\n');
                }
                session.ui.data(&text)?;
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
