//! `nexusctl consume`: a message leaves its queue only after the output has it.

mod out;
mod preview;
mod view;

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::base::id::QueueName;
use crate::base::time::{HumanDuration, Timestamp};
use crate::broker::{Broker, QueueType};
use crate::delivery::consume::{
    AckMode, ConsumeOptions, ConsumeReport, ConsumeVerdict, Lives, consume,
};
use crate::delivery::filter::Filter;
use crate::delivery::format::FormatString;
use crate::delivery::sink::Format;
use crate::delivery::stop::Wish;
use crate::message::{FieldTable, FieldValue};
use crate::topology::view::TopologyView;

use super::connect::Connector;
use super::consent::{self, Deed};
use super::ending::EndArgs;
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing;
use super::output::{Format as OutputFormat, document};
use super::progress::Progress;
use super::runtime::unless_stopped;
use super::session::Session;

pub(in crate::cli) use out::{Outlet, json_frame, target};
pub use preview::ConsumePlanView;
pub(in crate::cli) use view::record_schema_in;
pub use view::{ConsumeView, MessagesView};

/// Arguments of `consume`.
#[derive(Debug, Args)]
#[command(after_help = "Writes one record a line (NDJSON), or one JSON document with -o json. \
    `consume | publish --records` gives back the same bytes and types. A message is acked only after \
    the output has it; with a full disk or a closed pipe nothing more is acked.\n\nExamples:\n  \
    nexusctl consume agent.worker --count 10\n  \
    nexusctl consume agent.worker --until-empty --out messages.ndjson\n  \
    nexusctl consume agent.worker --ack never --until-empty --raw\n  \
    nexusctl consume agent.worker --until-empty --filter 'routingKey == \"worker\"'\n  \
    nexusctl consume agent.worker --idle 1s --format '{routingKey}\\t{body}\\n'")]
pub struct ConsumeArgs {
    /// The queue
    queue: QueueName,
    #[command(flatten)]
    end: ConsumeEndArgs,
    /// Take only messages for which this CEL expression is true; the others stay in the queue
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Settle written messages so
    #[arg(long, value_enum, default_value_t)]
    ack: AckArg,
    /// Refuse to hold a message of a quorum queue that has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep_lives: u64,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Append to this file and sync it, instead of writing to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the counts as a JSON document into this file when done
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Have at most so many unsettled messages here at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: Option<u16>,
    /// Refuse other consumers of the queue
    #[arg(long)]
    exclusive: bool,
    /// Read a stream from here: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset)]
    offset: Option<Offset>,
    /// Show what would be consumed and what it would cost, and consume nothing
    #[arg(long)]
    dry_run: bool,
}

/// When to end. Without any of these: on a signal.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "When to end")]
struct ConsumeEndArgs {
    #[command(flatten)]
    end: EndArgs,
    /// End when the queue is empty
    #[arg(long)]
    until_empty: bool,
    /// End with status 2 when no message came
    #[arg(long)]
    fail_empty: bool,
}

/// How a message is written.
#[derive(Debug, Args)]
#[command(next_help_heading = "How to write")]
pub(in crate::cli) struct ShapeArgs {
    /// Write bodies only, each followed by the delimiter
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// Follow each raw body by this; \n \r \t \0 and \\ are understood
    #[arg(long, value_name = "TEXT", default_value = "\\n", requires = "raw")]
    delimiter: String,
    /// Write each message so: {routingKey}, {body}, {headers.NAME}, {record} and other fields
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

impl ShapeArgs {
    /// Whether records are asked for, as they are.
    pub(in crate::cli) fn is_plain(&self) -> bool {
        !self.raw && self.format.is_none()
    }
}

/// Bytes that are gathered before they are shown.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Gathered(Arc<Mutex<Vec<u8>>>);

impl Gathered {
    /// What has been gathered.
    pub(in crate::cli) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What happens to written messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AckArg {
    /// Ack once the output has it for good
    #[default]
    AfterWrite,
    /// Leave it in the queue, at its place
    Never,
    /// Give it back to the queue when the run ends
    Requeue,
    /// Reject it once the output has it: dead-letter it, or drop it without a dead-letter exchange
    Reject,
}

impl From<AckArg> for AckMode {
    fn from(ack: AckArg) -> Self {
        match ack {
            AckArg::AfterWrite => AckMode::AfterWrite,
            AckArg::Never => AckMode::Never,
            AckArg::Requeue => AckMode::Requeue,
            AckArg::Reject => AckMode::Reject,
        }
    }
}

/// Where reading of a stream begins, as `x-stream-offset` takes it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Offset(pub(in crate::cli) FieldValue);

pub(in crate::cli) fn parse_offset(text: &str) -> Result<Offset, String> {
    if matches!(text, "first" | "last" | "next") {
        return Ok(Offset(text.into()));
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(Offset(number.into()));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(Offset(FieldValue::Timestamp(u64::try_from(time.unix_s()).unwrap_or(0))));
    }
    match text.parse::<HumanDuration>() {
        // The broker's own notation has no milliseconds.
        Ok(back) => Ok(Offset(format!("{}s", back.as_ms().div_ceil(1000)).into())),
        Err(_) => Err("write first, last, next, a number, an RFC 3339 time or a duration".into()),
    }
}

impl ConsumeArgs {
    /// Takes messages from `queue` into the file `out`.
    #[expect(clippy::too_many_arguments, reason = "the arguments of `record`, handed on")]
    pub(in crate::cli) fn recording(
        queue: QueueName,
        out: PathBuf,
        end: EndArgs,
        until_empty: bool,
        filter: Option<String>,
        keep: bool,
        offset: Option<Offset>,
        report: Option<PathBuf>,
        dry_run: bool,
    ) -> Self {
        ConsumeArgs {
            queue,
            end: ConsumeEndArgs { end, until_empty, fail_empty: false },
            filter,
            ack: if keep { AckArg::Never } else { AckArg::AfterWrite },
            keep_lives: 3,
            shape: ShapeArgs { raw: false, delimiter: String::new(), format: None },
            out: Some(out),
            report,
            prefetch: None,
            exclusive: false,
            offset,
            dry_run,
        }
    }
}

/// Consumes.
pub(super) fn run(args: ConsumeArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    run_as(args, false, session)
}

/// Consumes; into a recording, which says when each message came, when it is `timed`.
pub(in crate::cli) fn run_as(
    args: ConsumeArgs,
    timed: bool,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let ConsumeArgs {
        queue,
        end,
        filter,
        ack,
        keep_lives,
        shape,
        out,
        report,
        prefetch,
        exclusive,
        offset,
        dry_run,
    } = args;
    let ConsumeEndArgs { end: EndArgs { limits, expect }, until_empty, fail_empty } = end;
    let settings = session.settings()?;
    let filter = filter
        .map(|text| Filter::parse(&text))
        .transpose()
        .map_err(|error| CliError::usage(format!("--filter: {error}")))?;
    let is_document = session.ui.format == OutputFormat::Json && shape.is_plain() && !timed;
    let format = if timed { Format::Ndjson } else { format_of(&shape, session.ui.format)? };
    let target = Connector::of(session)?;
    let mut arguments = FieldTable::new();
    if let Some(Offset(offset)) = &offset {
        arguments.insert("x-stream-offset", offset.clone());
    }
    let mut options = ConsumeOptions {
        count: limits.count,
        idle: limits.idle(),
        until_empty,
        deadline: limits.deadline(),
        expect,
        fail_empty,
        filter,
        ack: ack.into(),
        prefetch,
        is_stream: offset.is_some(),
        lives: Lives { limit: None, keep: keep_lives },
        arguments,
        exclusive,
        grace: settings.timeout(),
        patience: settings.timeout().min(ConsumeOptions::default().patience),
        timed: timed.then(|| Arc::clone(&session.clock)),
        ..ConsumeOptions::default()
    };
    if dry_run {
        let view = session.drive(unless_stopped(&session.stop, async {
            let broker = target.connect().await?;
            let view = match ConsumePlanView::of(broker.as_ref(), &queue, &options).await {
                Ok(view) => view,
                Err(error) => {
                    return Err(missing::refused(error, broker.as_ref(), &queue, &settings).await);
                }
            };
            let _ = broker.close().await;
            Ok(view)
        }))?;
        session.ui.report(&view)?;
        return Ok(ExitStatus::Done);
    }
    let changes = match ack {
        AckArg::AfterWrite => Some(format!("take messages out of the queue `{queue}`")),
        AckArg::Reject => Some(format!("reject messages of the queue `{queue}`")),
        AckArg::Never | AckArg::Requeue => None,
    };
    if let Some(what) = changes {
        consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
    }
    let holds = matches!(ack, AckArg::Never | AckArg::Requeue) || options.filter.is_some();
    // Made first: a report that cannot be written is no reason to have consumed something.
    let report = match report {
        Some(path) => match File::create(session.resolve(&path)) {
            Ok(file) => Some((path, file)),
            Err(error) => return Err(CliError::unwritable(&path, &error)),
        },
        None => None,
    };
    let (sink, outlet) = Outlet::open(out.as_deref(), format, is_document, session)?;
    // A bar on top of messages on the same terminal would hide both.
    let quiet = outlet.is_stdout() && session.ui.stdout_is_terminal();
    let bar =
        if quiet { Progress::none() } else { Progress::new(&session.ui, limits.count, "messages") };
    let stop = session.stop.clone();
    let listen = session.is_process;
    let result = super::runtime::drive(&stop, listen, async {
        let broker = target.connect().await?;
        if !options.is_stream && is_stream(broker.as_ref(), &queue).await {
            return Err(CliError::usage(format!("`{queue}` is a stream, and no `--offset` says where to begin"))
                    .object(queue.as_str())
                    .hint("add `--offset first` for all that it has, or `--offset next` for what comes from now on"));
        }
        if holds && keep_lives > 0 && !options.is_stream {
            options.lives = lives(broker.as_ref(), &queue, keep_lives, session).await;
        }
        let mut progress = |written| bar.at(written);
        let report = match consume(
            broker.as_ref(),
            &queue,
            options,
            sink,
            stop.job(),
            &mut progress,
        )
        .await
        {
            Ok(report) => report,
            Err(error) => {
                return Err(missing::refused(error, broker.as_ref(), &queue, &settings).await);
            }
        };
        // Everything is settled; a connection that does not close well changes nothing.
        let _ = broker.close().await;
        Ok(report)
    });
    bar.clear();
    let consumed = result?;
    if !consumed.pipe_closed {
        outlet.finish(consumed.error.is_none())?;
    }
    let view = ConsumeView::new(queue.as_str(), &consumed);
    if let Some((path, mut file)) = report {
        file.write_all(format!("{:#}\n", document(&view)).as_bytes())
            .map_err(|error| CliError::unwritable(&path, &error))?;
    }
    if timed && session.ui.format.is_machine() {
        // Standard output is free: the messages are in the file.
        session.ui.report(&view)?;
    }
    session.ui.status(view.words());
    status_of(&consumed, session, "consuming", "what was not written is still in the queue")
}

/// Whether the queue is known to be a stream; who cannot tell soon is not waited for.
async fn is_stream(broker: &dyn Broker, queue: &QueueName) -> bool {
    const PATIENCE: Duration = Duration::from_secs(2);
    let details = tokio::time::timeout(PATIENCE, broker.queue_details(queue)).await;
    let details = details.ok().and_then(Result::ok).flatten();
    details.and_then(|details| details.state.definition.queue_type()) == Some(QueueType::Stream)
}

pub(in crate::cli) fn format_of(
    shape: &ShapeArgs,
    output: OutputFormat,
) -> Result<Format, CliError> {
    let ShapeArgs { raw, delimiter, format } = shape;
    if let Some(text) = format {
        return text.parse::<FormatString>().map(Format::Custom).map_err(|error| {
            CliError::usage(format!("--format, character {}: {}", error.column, error.message))
        });
    }
    if *raw {
        return unescape(delimiter).map(Format::Raw).map_err(CliError::usage);
    }
    match output {
        OutputFormat::Table | OutputFormat::Ndjson => Ok(Format::Ndjson),
        OutputFormat::Json => Ok(Format::Json),
        OutputFormat::Yaml => Err(CliError::usage("messages are not written as YAML")
            .hint("use `-o ndjson` or `-o json`")),
    }
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let c = match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                _ => {
                    return Err(format!(
                        "--delimiter `{text}`: only \\n \\r \\t \\0 \\\\ are known"
                    ));
                }
            },
            c => c,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(bytes)
}

/// The delivery limit of the queue, so that holding its messages does not use up their last life.
async fn lives(broker: &dyn Broker, queue: &QueueName, keep: u64, session: &mut Session) -> Lives {
    match broker.inspect().await {
        Ok(snapshot) => {
            let view = TopologyView::of_snapshot(&snapshot);
            let limit = view
                .queues
                .get(queue.as_str())
                .and_then(|queue| queue.effective.delivery_limit())
                .map(u64::from);
            Lives { limit, keep }
        }
        Err(error) => {
            session.ui.warning(format!(
                "cannot tell the delivery limit of `{queue}`, so each look may cost its messages a \
                 life: {error}"
            ));
            Lives::default()
        }
    }
}

/// The status of a run; `named` says what failed, `hint` what became of messages that were not written.
pub(in crate::cli) fn status_of(
    report: &ConsumeReport,
    session: &Session,
    named: &str,
    hint: &str,
) -> Result<ExitStatus, CliError> {
    Ok(match report.verdict() {
        ConsumeVerdict::Done => ExitStatus::Done,
        ConsumeVerdict::TooFew => ExitStatus::Negative,
        ConsumeVerdict::Partly => ExitStatus::Partly,
        ConsumeVerdict::Stopped => session.stop.status(),
        ConsumeVerdict::Failed if report.pipe_closed => {
            // The reader had enough: a graceful end, unless more were expected.
            let few = report.expected.is_some_and(|expected| report.written < expected);
            if few { ExitStatus::Negative } else { ExitStatus::Done }
        }
        // Told to end now, while the output took nothing more: the signal is the reason.
        ConsumeVerdict::Failed if session.stop.job().wish() == Wish::Now => session.stop.status(),
        ConsumeVerdict::Failed => match &report.broker_error {
            Some(error) => return Err(error.into()),
            None => {
                let why = report.error.clone().unwrap_or_else(|| format!("{named} failed"));
                return Err(CliError::new(code::OUTPUT, ExitStatus::Failed, why).hint(hint));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_streams_are_read() {
        assert_eq!(parse_offset("first"), Ok(Offset("first".into())));
        assert_eq!(parse_offset("42"), Ok(Offset(42.into())));
        assert_eq!(parse_offset("90m"), Ok(Offset("5400s".to_owned().into())));
        assert_eq!(
            parse_offset("2023-11-14T22:13:20Z"),
            Ok(Offset(FieldValue::Timestamp(1_700_000_000)))
        );
        assert!(parse_offset("yesterday").is_err());
    }

    #[test]
    fn delimiters_are_unescaped() {
        assert_eq!(unescape("\\n\\0ä\\\\"), Ok("\n\0ä\\".as_bytes().to_vec()));
        assert!(unescape("\\x").is_err());
    }
}
