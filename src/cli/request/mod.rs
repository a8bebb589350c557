//! `nexusctl request`: a message out, its answers back, and which of the many ways of getting none it
//! was.

mod view;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::HumanDuration;
use crate::broker::{Broker, ErrorKind};
use crate::delivery::publish::PublishEnd;
use crate::delivery::request::{
    Answer, Entry, Fate, Ids, Listener, RequestOptions, RequestReport, RequestVerdict, Stray,
    Until, Via, request,
};
use crate::delivery::sink::Sink;

use super::compose::{EnvelopeArgs, Input, OnErrorArg, PropertyArgs, Shape, create, show};
use super::connect::Connector;
use super::consent::{self, Deed};
use super::consume::{Outlet, ShapeArgs, format_of};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::{self, Missing, shell_word};
use super::output::Format as OutputFormat;
use super::session::Session;
use super::settings::Settings;

use view::AnswerView;
pub use view::RequestView;

/// Arguments of `request`.
#[derive(Debug, Args)]
#[command(
    override_usage = "nexusctl request [OPTIONS] <EXCHANGE> <KEY> [BODY]\n       \
    nexusctl request [OPTIONS] --queue <QUEUE> [BODY]\n       \
    nexusctl request [OPTIONS] --records [EXCHANGE] [KEY]",
    after_help = "Answers are written as records, one a line; --timeout is how long they are waited \
    for. A request that nobody has taken by then expires. Status 7 when none came in time, 8 when \
    nobody can answer, 9 when the answer is an error (header x-nexus-error), 6 when it is unknown \
    whether the request arrived.\n\nExamples:\n  \
    nexusctl request --queue agent.worker '{\"task\": 7}' --type task.asked --sender planner\n  \
    nexusctl request nexus.agents worker 'are you there?' --raw --timeout 5s\n  \
    nexusctl request nexus.agents worker 'who is there?' --gather --idle 300ms\n  \
    nexusctl request nexus.agents worker --lines -f bodies.txt --window 8 --report asked.ndjson\n  \
    nexusctl request --queue agent.worker 'job' --via queue --retry 2"
)]
pub struct RequestArgs {
    /// The exchange; empty for the default exchange, whose keys are queue names
    #[arg(required_unless_present_any = ["records", "queue"])]
    exchange: Option<String>,
    /// The routing key
    #[arg(required_unless_present_any = ["records", "queue"])]
    key: Option<RoutingKey>,
    /// The body
    #[arg(conflicts_with_all = ["file", "lines", "records"])]
    body: Option<String>,
    /// Ask whoever consumes this queue; then the body is the only other word
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Read the body from this file; `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take each line of the file as a request
    #[arg(long, conflicts_with = "records")]
    lines: bool,
    /// Take each line of the file as a record (NDJSON)
    #[arg(long, conflicts_with_all = ["message_type", "template"])]
    records: bool,
    #[command(flatten)]
    answers: AnswerArgs,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Append answers to this file and sync it, instead of writing to standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    envelope: EnvelopeArgs,
    #[command(flatten)]
    properties: PropertyArgs,
    #[command(flatten)]
    amount: AmountArgs,
    /// With a bad line: ask nothing more, leave it out, or write it to a file: stop, skip, file=PATH
    #[arg(long, value_name = "HOW", default_value = "stop")]
    on_error: OnErrorArg,
    /// Write what became of each request into this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the records that would be sent, and send nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which answers, how, and for how long.
#[derive(Debug, Args)]
#[command(next_help_heading = "Answers")]
struct AnswerArgs {
    /// Wait for so many answers to each request
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "gather",
          value_parser = clap::value_parser!(u64).range(1..))]
    replies: u64,
    /// Take all answers, until none comes any more or the time is up
    #[arg(long)]
    gather: bool,
    /// With --gather: end when none has come for so long after another
    #[arg(long, value_name = "DURATION", default_value = "500ms", requires = "gather")]
    idle: HumanDuration,
    /// Let answers come so
    #[arg(long, value_enum, default_value_t)]
    via: ViaArg,
    /// Ask although nobody consumes the queue now
    #[arg(long)]
    wait: bool,
    /// Leave a request in its queue when its time is up
    #[arg(long)]
    no_expire: bool,
    /// Send again, with the same ids, up to so often when the connection was lost
    #[arg(long, value_name = "N", default_value_t = 0)]
    retry: u32,
}

/// How answers come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ViaArg {
    /// Directly where the broker can, else to a queue
    #[default]
    Best,
    /// Directly (RabbitMQ): fastest, and gone when the connection is
    Direct,
    /// To a queue of one's own, which outlives a lost connection
    Queue,
}

impl From<ViaArg> for Via {
    fn from(via: ViaArg) -> Self {
        match via {
            ViaArg::Best => Via::Best,
            ViaArg::Direct => Via::Direct,
            ViaArg::Queue => Via::Queue,
        }
    }
}

/// How many, how varied.
#[derive(Debug, Args)]
#[command(next_help_heading = "Amount")]
struct AmountArgs {
    /// Ask with the body so many times
    #[arg(long, value_name = "N", conflicts_with_all = ["lines", "records"])]
    count: Option<u64>,
    /// Fill `${ … }` in body and key anew for each request: seq, uuid, now, random and CEL of them
    #[arg(long, conflicts_with = "lines")]
    template: bool,
    /// Draw random values and ids from this seed, so that a run can be repeated
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Have at most so many requests without an answer at once; 1 unless there are many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    window: Option<u16>,
}

/// Requests at once when there are many and nobody says how many.
const USUAL_WINDOW: u16 = 32;
/// How long the broker's own answers may take at least, however short the wait for the other side is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Strays that are named one by one.
const STRAYS_NAMED: usize = 5;

/// Asks.
pub(super) fn run(args: RequestArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RequestArgs {
        exchange,
        key,
        body,
        queue,
        file,
        lines,
        records,
        answers,
        shape,
        out,
        envelope,
        properties,
        amount,
        on_error,
        report,
        dry_run,
    } = args;
    let AnswerArgs { replies, gather, idle, via, wait, no_expire, retry } = answers;
    let AmountArgs { count, template, seed, window } = amount;
    if properties.reply_to.is_some() {
        return Err(CliError::usage("a request says itself where its answer goes")
            .hint("leave --reply-to out, or send it with `nexusctl publish`"));
    }
    let (exchange, key, body) = place(exchange, key, body, queue)?;
    let cut = Shape::of(lines, records);
    let settings = session.settings()?;
    let target = Connector::of(session)?.with_patience(PATIENCE);
    let is_document = session.ui.format == OutputFormat::Json;
    let format = format_of(&shape, session.ui.format)?;
    let input = Input { exchange, key, body, file, count, template, shape: cut };
    let is_many = input.total() != Some(1);
    let source = input.source(envelope, properties, seed, target.login(), session)?;
    if dry_run {
        return show(source, &on_error, session);
    }
    let what = if is_many { "send requests" } else { "send a request" };
    consent::ask(session, &settings, &Deed { what: what.to_owned(), losses: Vec::new() })?;
    let window = window.unwrap_or(if is_many { USUAL_WINDOW } else { 1 });
    let options = RequestOptions {
        timeout: settings.timeout(),
        until: if gather { Until::Idle(idle.0) } else { Until::Answers(replies) },
        via: via.into(),
        expire: !no_expire,
        retries: retry,
        window: usize::from(window),
        wait,
        patience: settings.timeout().max(PATIENCE),
        on_error: on_error.open(session)?,
        full_report: report.map(|path| create(&path, session)).transpose()?,
        ..RequestOptions::default()
    };
    let mut random = fastrand::Rng::with_seed(seed.unwrap_or(session.seed));
    let ids = Ids { clock: std::sync::Arc::clone(&session.clock), random: random.fork() };
    let mut written = if is_document && out.is_none() {
        Written { sink: None, answers: Vec::new(), strays: Vec::new() }
    } else {
        let (sink, _) = Outlet::open(out.as_deref(), format, false, session)?;
        Written { sink: Some(sink), answers: Vec::new(), strays: Vec::new() }
    };
    let result = session.drive(async {
        let broker = target.connect().await?;
        let stop = session.stop.job();
        let report = request(broker.as_ref(), source, options, ids, &mut written, stop).await?;
        let hint = advise(&report, broker.as_ref(), &settings).await;
        // Every request is accounted for; a connection that does not close well changes nothing.
        let _ = broker.close().await;
        Ok((report, hint))
    });
    let Written { sink, answers, strays } = written;
    let (report, hint) = result?;
    if let Some(mut sink) = sink
        && report.error.is_none()
    {
        sink.finish().map_err(|error| CliError::stdout(&error))?;
    }
    for stray in strays.iter().take(STRAYS_NAMED) {
        session.ui.warning(stray);
    }
    if let Some(left) = &report.left_behind {
        session.ui.warning(left);
    }
    let view = RequestView::new(&report, answers, hint.clone());
    if is_document {
        session.ui.report(&view)?;
    }
    end(&report, &view, is_many, hint, session)
}

/// Where to: an exchange and a key, or a queue, beside which the first word is the body.
#[expect(clippy::type_complexity, reason = "three words, sorted")]
fn place(
    exchange: Option<String>,
    key: Option<RoutingKey>,
    body: Option<String>,
    queue: Option<QueueName>,
) -> Result<(Option<ExchangeName>, Option<RoutingKey>, Option<String>), CliError> {
    let Some(queue) = queue else {
        let exchange = exchange
            .map(ExchangeName::new)
            .transpose()
            .map_err(|error| CliError::usage(error.to_string()))?;
        return Ok((exchange, key, body));
    };
    if key.is_some() {
        return Err(CliError::usage("with --queue there is neither exchange nor key")
            .hint("write `nexusctl request --queue QUEUE BODY`"));
    }
    Ok((Some(ExchangeName::default_exchange()), Some(queue.as_routing_key()), exchange))
}

/// Writes answers, or gathers them for a document.
struct Written {
    sink: Option<Sink>,
    answers: Vec<AnswerView>,
    strays: Vec<String>,
}

impl Listener for Written {
    fn answer(&mut self, answer: &Answer<'_>) -> io::Result<()> {
        match &mut self.sink {
            Some(sink) => sink.write(answer.delivery, answer.queue),
            None => {
                self.answers.push(AnswerView::new(answer)?);
                Ok(())
            }
        }
    }

    fn commit(&mut self) -> io::Result<()> {
        self.sink.as_mut().map_or(Ok(()), Sink::commit)
    }

    fn stray(&mut self, stray: &Stray<'_>) {
        if self.strays.len() < STRAYS_NAMED {
            let message = &stray.delivery.message;
            let id = match &message.properties.correlation_id {
                Some(id) => format!("with the correlation id `{id}`"),
                None => "without a correlation id".to_owned(),
            };
            let what = match stray.late {
                true => "an answer came that was not waited for any more",
                false => "an answer came to nothing that was asked here",
            };
            let bytes = message.body.len();
            self.strays.push(format!("{what}: {bytes} bytes {id}; it does not count"));
        }
    }
}

/// What to do about the first request that nobody could answer.
async fn advise(
    report: &RequestReport,
    broker: &dyn Broker,
    settings: &Settings,
) -> Option<String> {
    let first = report.entries.iter().find(|entry| entry.fate == Fate::Nobody)?;
    let (exchange, key) = (first.exchange.as_deref()?, first.routing_key.as_deref()?);
    if exchange.is_empty() {
        let queue = QueueName::new(key).ok()?;
        if let Ok(None) = broker.depth(&queue).await {
            return Some(missing::look(Missing::Queue, key, broker, settings).await);
        }
    } else {
        let name = ExchangeName::new(exchange).ok()?;
        if let Ok(false) = broker.has_exchange(&name).await {
            return Some(missing::look(Missing::Exchange, exchange, broker, settings).await);
        }
    }
    Some(match first.code {
        Some(_) => format!(
            "`nexusctl topology route {} {} --live` shows where such a message would go",
            shell_word(exchange),
            shell_word(key)
        ),
        None if first.was_sent => "start whoever answers there, and ask again".into(),
        None => "start whoever answers there; `--wait` asks all the same and waits for them".into(),
    })
}

/// Says what happened, and with which status the run ends.
fn end(
    report: &RequestReport,
    view: &RequestView,
    is_many: bool,
    hint: Option<String>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    use RequestVerdict as V;
    let verdict = report.verdict();
    let (name, status) = match verdict {
        V::Answered => ("", ExitStatus::Done),
        V::Partly => ("", ExitStatus::Partly),
        V::TimedOut => (code::REQUEST_TIMED_OUT, ExitStatus::RequestTimedOut),
        V::Nobody => (code::REQUEST_NOBODY, ExitStatus::NoResponder),
        V::Error => (code::REQUEST_ERROR, ExitStatus::AnsweredWithError),
        V::Refused => (code::REQUEST_REFUSED, ExitStatus::NotAccepted),
        V::Unknown => (code::REQUEST_UNKNOWN, ExitStatus::OutcomeUnknown),
        V::BadInput => (code::INPUT, ExitStatus::BadInput),
        V::Stopped => ("", session.stop.status()),
        V::Failed if report.pipe_closed => ("", ExitStatus::Done),
        V::Failed => match &report.broker_error {
            Some(error) => {
                session.ui.status(view.words());
                return Err(error.into());
            }
            None => (code::OUTPUT, ExitStatus::Failed),
        },
    };
    session.ui.status(view.words());
    if let (V::Refused, Some(error)) = (verdict, &report.broker_error)
        && error.kind == ErrorKind::AccessRefused
    {
        return Err(error.into());
    }
    if report.ended == PublishEnd::BadLine && status == ExitStatus::Done {
        return Ok(ExitStatus::Partly);
    }
    if name.is_empty() {
        if let Some(hint) = hint {
            session.ui.hint(hint);
        }
        return Ok(status);
    }
    let error = CliError::new(name, status, message(report, verdict, is_many));
    let next = hint.unwrap_or_else(|| next_step(verdict).to_owned());
    Err(if next.is_empty() { error } else { error.hint(next) })
}

/// The first request that went the way of the verdict.
fn message(report: &RequestReport, verdict: RequestVerdict, is_many: bool) -> String {
    use RequestVerdict as V;
    let wanted = match verdict {
        V::TimedOut => Fate::TimedOut,
        V::Nobody => Fate::Nobody,
        V::Error => Fate::Error,
        V::Refused => Fate::Refused,
        V::Unknown => Fate::Unknown,
        V::BadInput => Fate::Skipped,
        _ => return report.error.clone().unwrap_or_else(|| "asking failed".to_owned()),
    };
    let first = report.entries.iter().find(|entry| entry.fate == wanted);
    let Some(Entry { line, reason, message_id, .. }) = first else {
        return "asking failed".to_owned();
    };
    let which = match (is_many, message_id) {
        (true, _) => format!("request {line}"),
        (false, Some(id)) => format!("the request `{id}`"),
        (false, None) => "the request".to_owned(),
    };
    let reason = reason.as_deref().unwrap_or("it is not known why");
    match verdict {
        V::TimedOut => format!("{which} was not answered: {reason}"),
        V::Nobody => format!("{which} found nobody to answer: {reason}"),
        V::Error => format!("{which} was answered with an error: {reason}"),
        V::Refused => format!("{which} was not accepted: {reason}"),
        V::Unknown => format!("{which} is in doubt: {reason}"),
        _ => format!("line {line}: {reason}"),
    }
}

fn next_step(verdict: RequestVerdict) -> &'static str {
    match verdict {
        RequestVerdict::TimedOut => {
            "look whether the other side is slow or stuck, or allow more with `--timeout`"
        }
        RequestVerdict::Error => "the answer itself is on standard output",
        RequestVerdict::Unknown => {
            "ask again with the same `--message-id` if the other side tells repeats apart, as \
             `--retry` does"
        }
        RequestVerdict::Refused => "`nexusctl queue show` tells how full a queue is",
        _ => "",
    }
}
