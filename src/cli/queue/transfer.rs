//! `queue move` and `queue copy`: messages go somewhere else, each confirmed there before it leaves.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::HumanDuration;
use crate::broker::calm::await_calm;
use crate::broker::effective::{EffectiveQueue, Overflow};
use crate::broker::{Broker, ErrorKind, Product, QueueType};
use crate::delivery::consume::{ConsumeOptions, Lives};
use crate::delivery::filter::Filter;
use crate::delivery::peek::{Cost, PeekFacts, cost};
use crate::delivery::transfer::{
    Address, Deed, MOST_HELD, TransferEnd, TransferOptions, TransferReport, WINDOW, transfer,
};
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::consent;
use crate::cli::consume::{Offset, parse_offset};
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::missing::{self, Missing};
use crate::cli::output::{Page, View, count as counted};
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::ledger::Ledger;
use super::peek::facts;

/// Arguments of `queue move`.
#[derive(Debug, Args)]
#[command(
    after_help = "A message leaves FROM only after the broker has confirmed its copy: a kill at any \
    point loses none, and leaves at most 256 in both places. Without --count it moves as many as wait \
    when it begins. What the filter does not want, and what is returned or refused, is back at its place \
    in the end. Properties, headers and time to live stay as they were; CC and BCC, which would route \
    the copy further, become x-nexus-cc and x-nexus-bcc. Status 3: partly done, the report says \
    what.\n\nExamples:\n  \
    nexusctl queue move agent.worker dead.agent.worker --dry-run\n  \
    nexusctl queue move agent.worker dead.agent.worker --count 2\n  \
    nexusctl queue move agent.worker dead.agent.worker --filter 'size > 100'\n  \
    nexusctl queue move dead.agent.worker --exchange nexus.agents --key worker"
)]
pub(super) struct MoveArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Arguments of `queue copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "Everything that is copied is held until the end and then goes back to its place, in \
    order: so one run copies 65535 messages at most, and on a quorum queue with a delivery limit each \
    message loses one of its lives, as with peek. A run that is killed leaves FROM as it was, and \
    what it had copied is there. Of a stream any number is copied, and costs nothing.\n\n\
    Examples:\n  \
    nexusctl queue copy agent.worker dead.agent.worker --dry-run\n  \
    nexusctl queue copy agent.worker dead.agent.worker --count 2 --mark"
)]
pub(super) struct CopyArgs {
    #[command(flatten)]
    which: WhichArgs,
    /// Read a stream from here: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset)]
    from_offset: Option<Offset>,
}

#[derive(Debug, Args)]
struct WhichArgs {
    /// The queue that the messages are in
    #[arg(value_name = "FROM")]
    from: QueueName,
    /// The queue that they go to
    #[arg(value_name = "TO", required_unless_present = "exchange", conflicts_with = "exchange")]
    to: Option<QueueName>,
    /// Publish them to this exchange instead, each with its own routing key
    #[arg(long, value_name = "EXCHANGE")]
    exchange: Option<ExchangeName>,
    /// Publish all of them with this routing key
    #[arg(long, value_name = "KEY", requires = "exchange")]
    key: Option<RoutingKey>,
    /// So many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only those for which this CEL expression is true
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Write the queue, exchange and key that a message comes from into its header x-nexus-moved-from
    #[arg(long)]
    mark: bool,
    /// Go on past messages that are returned, refused or would come back to FROM
    #[arg(long)]
    skip_refused: bool,
    /// Refuse to hold a message that has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    min_lives: u64,
    /// Say what would be done and what it would cost, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

/// What was, or would be, moved or copied.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferView {
    /// `move` or `copy`.
    deed: &'static str,
    /// The queue that the messages are in.
    from: String,
    /// The exchange that they go to; empty when they go straight to a queue.
    exchange: String,
    /// The key they go with: the name of a queue, or null when each keeps its own.
    key: Option<String>,
    /// Messages that waited in the source; null when a stream does not tell.
    ready: Option<u64>,
    /// Consumers of the source.
    consumers: u64,
    /// How many would go at most; null when all of a stream.
    at_most: Option<u64>,
    /// How many lives the worst known message of the source has left; null when any number.
    lives_left: Option<u64>,
    /// Messages looked at.
    looked_at: u64,
    /// Messages confirmed at their new place.
    transferred: u64,
    /// Left: the filter does not want them.
    not_wanted: u64,
    /// Of these, those for which the filter failed.
    filter_errors: u64,
    /// Left: they would have come back.
    circular: u64,
    /// Left: no queue took the copy.
    returned: u64,
    /// Left: the broker refused the copy.
    nacked: u64,
    /// Left, and the copy may have arrived or not.
    in_doubt: u64,
    /// Left: the broker took nothing any more.
    not_sent: u64,
    /// Of the moved ones, those that may be in the source as well.
    in_both: u64,
    /// Why it would be refused, or ended before all were done; null when neither.
    stopped: Option<String>,
    /// What else to know.
    warnings: Vec<String>,
    /// Whether nothing was to be changed.
    dry_run: bool,
}

impl View for TransferView {
    const KIND: &'static str = "Transfer";
    fn text(&self, page: &mut Page) {
        let from = page.style.strong(&self.from);
        let to = match (self.exchange.as_str(), &self.key) {
            ("", key) => format!("queue {}", key.as_deref().unwrap_or_default()),
            (exchange, None) => format!("exchange {exchange}"),
            (exchange, Some(key)) => format!("exchange {exchange} with key {key}"),
        };
        let done = if self.deed == "move" { "moved" } else { "copied" };
        let messages = |number: u64| counted(number, "message");
        if self.dry_run {
            let ready = self.ready.map_or_else(|| "a stream".to_owned(), &messages);
            let consumers = counted(self.consumers, "consumer");
            page.line(format!("queue {from}: {ready}, {consumers}"));
            let most = self.at_most.map_or("everything in it".to_owned(), |most| {
                format!("{} at most", messages(most))
            });
            page.line(format!("{most} would be {done} to {to}"));
            if let Some(lives) = self.lives_left {
                page.line(format!("lives left as far as is known: {lives}"));
            }
        } else {
            page.line(format!("queue {from}: {} {done} to {to}", messages(self.transferred)));
        }
        for (number, what) in [
            (self.not_wanted, "left: not wanted by the filter"),
            (self.circular, "left: would have come back"),
            (self.returned, "left: returned, no queue took the copy"),
            (self.nacked, "left: the copy was refused"),
            (self.not_sent, "left: not sent any more"),
            (self.in_doubt, "left, and the copy may have arrived"),
            (self.in_both, "may still be in the source as well"),
        ] {
            if number > 0 {
                page.line(format!("{} {what}", messages(number)));
            }
        }
        if let Some(why) = &self.stopped {
            let word = if self.dry_run { "refused:" } else { "stopped:" };
            page.line(format!("{} {why}", page.style.attention(word)));
        }
        for warning in &self.warnings {
            page.line(format!("{} {warning}", page.style.attention("warning:")));
        }
        if self.dry_run {
            page.line("nothing was changed");
        }
    }
}

/// What is known before anything is touched.
struct Before {
    options: TransferOptions,
    source: Option<PeekFacts>,
    consumers: u64,
    cost: Cost,
    /// What would be lost at the target.
    losses: Vec<String>,
    warnings: Vec<String>,
}

/// How long a quorum queue without consumers is waited for to stand still.
const CALM_PATIENCE: Duration = Duration::from_secs(5);

/// Words of the deed.
const fn verb(deed: Deed) -> &'static str {
    match deed {
        Deed::Move => "move",
        Deed::Copy => "copy",
    }
}

/// What the target does with messages: what is lost there for certain, and what may be.
fn at_target(
    name: &str,
    to: &EffectiveQueue,
    ready: u64,
    coming: u64,
) -> (Vec<String>, Vec<String>) {
    let (mut losses, mut warnings) = (Vec::new(), Vec::new());
    if let Some(most) = to.max_length() {
        let over = (ready + coming).saturating_sub(most);
        match to.overflow() {
            Overflow::DropHead if over > 0 => losses.push(format!(
                "queue `{name}` keeps {most} messages: up to {over} of its oldest go when it is full"
            )),
            _ if over > 0 => {
                warnings.push(format!("queue `{name}` takes no more than {most} messages"));
            }
            _ => {}
        }
    } else if to.max_length_bytes().is_some() && to.overflow() == Overflow::DropHead {
        warnings.push(format!("queue `{name}` drops its oldest messages when it is full"));
    }
    if let Some(ttl) = to.message_ttl_ms() {
        let ttl = HumanDuration(Duration::from_millis(ttl));
        warnings.push(format!("queue `{name}` ends messages after {ttl}"));
    }
    if to.queue_type == QueueType::Stream {
        warnings.push(format!("`{name}` is a stream: it keeps no time to live and no priority"));
    }
    (losses, warnings)
}

struct Wanted {
    deed: Deed,
    which: WhichArgs,
    filter: Option<Filter>,
    offset: Option<Offset>,
    login: Option<String>,
}

impl Wanted {
    fn words(&self) -> String {
        format!("{} messages of queue `{}`", verb(self.deed), self.which.from)
    }

    /// Looks around without touching anything.
    async fn before(
        &self,
        broker: &dyn Broker,
        ledger: &Ledger,
        settings: &Settings,
    ) -> Result<Before, CliError> {
        let WhichArgs { from, to, exchange, key, count, min_lives, .. } = &self.which;
        let words = self.words();
        let Some(depth) = broker.depth(from).await? else {
            return Err(super::no_such_queue(&words, from, broker, settings).await);
        };
        let mut target_depth = None;
        if let Some(to) = to {
            target_depth = broker.depth(to).await?;
            if target_depth.is_none() {
                return Err(super::no_such_queue(&words, to, broker, settings).await);
            }
        }
        if let Some(exchange) = exchange
            && !broker.has_exchange(exchange).await?
        {
            let vhost = &broker.identity().vhost;
            let message =
                format!("cannot {words}: exchange `{exchange}` does not exist in vhost `{vhost}`");
            let next = missing::look(Missing::Exchange, exchange.as_str(), broker, settings).await;
            return Err(CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message)
                .object(exchange.as_str())
                .hint(next));
        }
        let mut warnings = Vec::new();
        let view = match broker.inspect().await {
            Ok(snapshot) => Some(TopologyView::of_snapshot(&snapshot)),
            Err(error) if error.kind == ErrorKind::Unsupported => {
                warnings.push(format!(
                    "what the queues are, and what holding their messages costs, is not known: {}",
                    error.cause
                ));
                None
            }
            Err(error) => return Err(error.into()),
        };
        let details = match &view {
            Some(_) => broker.queue_details(from).await?,
            None => None,
        };
        let source = view.as_ref().and_then(|view| view.queues.get(from.as_str())).map(|known| {
            let subscribers = details.as_ref().and_then(|details| details.subscribers.as_ref());
            let exclusive = subscribers.into_iter().flatten().any(|consumer| consumer.exclusive);
            PeekFacts {
                consumers: depth.consumers,
                ready: depth.ready,
                ..facts(&known.effective, exclusive, ledger.returns())
            }
        });
        let queue_type = source.as_ref().map_or(QueueType::Classic, |facts| facts.queue_type);
        let is_stream = queue_type == QueueType::Stream;
        let refused = |why: &str, next: &str| {
            Err(CliError::failed(format!("cannot {words}: {why}")).object(from.as_str()).hint(next))
        };
        if is_stream && self.deed == Deed::Move {
            return refused(
                "it is a stream, which keeps what it has",
                "copy them with `nexusctl queue copy`; a stream is bounded by `max-age` or \
                 `max-length-bytes`",
            );
        }
        if self.offset.is_some() && !is_stream {
            return Err(CliError::usage(format!(
                "--from-offset is for streams, and `{from}` is a {queue_type} queue"
            )));
        }
        let options = TransferOptions {
            deed: self.deed,
            to: match (to, exchange) {
                (Some(to), _) => Address {
                    exchange: ExchangeName::default_exchange(),
                    key: Some(to.as_routing_key()),
                },
                (None, exchange) => Address {
                    exchange: exchange.clone().unwrap_or_else(ExchangeName::default_exchange),
                    key: key.clone(),
                },
            },
            count: *count,
            filter: self.filter.clone(),
            ready: depth.ready,
            bytes: details.and_then(|details| details.bytes),
            queue_type,
            single_active_consumer: source.as_ref().is_some_and(|s| s.single_active_consumer),
            lives: Lives {
                limit: source.as_ref().and_then(|source| source.delivery_limit),
                keep: *min_lives,
            },
            offset: is_stream.then(|| match &self.offset {
                Some(Offset(offset)) => offset.clone(),
                None => "first".into(),
            }),
            login: self.login.clone(),
            mark: self.which.mark,
            skip_refused: self.which.skip_refused,
            routing: view.as_ref().filter(|_| exchange.is_some()).map(TopologyView::routing),
            patience: settings.timeout().min(ConsumeOptions::default().patience),
            poll: Duration::from_millis(200),
        };
        if let Err(why) = options.prefetch() {
            let next = format!("copy the first of them with `--count {MOST_HELD}`, or move them");
            return refused(&why, &next);
        }
        let mut cost = source.as_ref().map(|facts| cost(facts, *min_lives)).unwrap_or_default();
        if !options.holds() {
            // What goes is delivered once and is gone.
            cost = Cost { barred: cost.barred, ..Cost::default() };
        }
        if !options.holds() && !is_stream && depth.consumers > 0 && cost.barred.is_none() {
            warnings.push(format!(
                "others consume ({}): what they hold is not moved",
                counted(depth.consumers, "consumer")
            ));
        }
        warnings.append(&mut cost.warnings);
        let mut losses = Vec::new();
        let target = to.as_ref().zip(view.as_ref());
        let target = target.and_then(|(to, view)| Some((to, view.queues.get(to.as_str())?)));
        if let Some((to, known)) = target {
            let coming = count.map_or(depth.ready, |count| count.min(depth.ready));
            let ready = target_depth.map_or(0, |depth| depth.ready);
            let (lost, said) = at_target(to.as_str(), &known.effective, ready, coming);
            losses = lost;
            warnings.extend(said);
        }
        Ok(Before { options, source, consumers: depth.consumers, cost, losses, warnings })
    }

    fn view(&self, before: &Before) -> TransferView {
        let options = &before.options;
        let is_stream = options.queue_type == QueueType::Stream;
        let ready = (!is_stream).then_some(options.ready);
        TransferView {
            deed: verb(self.deed),
            from: self.which.from.to_string(),
            exchange: options.to.exchange.to_string(),
            key: options.to.key.as_ref().map(ToString::to_string),
            ready,
            consumers: before.consumers,
            at_most: match (options.count, ready) {
                (Some(count), Some(ready)) => Some(count.min(ready)),
                (count, ready) => count.or(ready),
            },
            lives_left: before.cost.lives,
            looked_at: 0,
            transferred: 0,
            not_wanted: 0,
            filter_errors: 0,
            circular: 0,
            returned: 0,
            nacked: 0,
            in_doubt: 0,
            not_sent: 0,
            in_both: 0,
            stopped: None,
            warnings: Vec::new(),
            dry_run: self.which.dry_run,
        }
    }

    fn refusal(&self, cost: &Cost) -> Option<CliError> {
        let from = &self.which.from;
        let cannot = |why: &str| format!("cannot {}: {why}", self.words());
        if let Some(why) = &cost.danger {
            return Some(
                CliError::new(code::CONSENT, ExitStatus::Blocked, cannot(why))
                    .object(from.as_str())
                    .hint(
                        "nothing was touched; raise the delivery limit by policy, move all of them \
                         without a filter, or go on with a lower `--min-lives`",
                    ),
            );
        }
        let why = cost.barred.as_ref()?;
        let error = CliError::new(code::LOCKED, ExitStatus::TryLater, cannot(why));
        Some(
            error.object(from.as_str()).hint("nothing was touched; try when that consumer is gone"),
        )
    }
}

fn why_stopped(report: &TransferReport) -> Option<String> {
    let refusal = || report.refusal.clone().unwrap_or_else(|| "it was refused".to_owned());
    match report.ended {
        TransferEnd::Count | TransferEnd::All | TransferEnd::Empty => {
            (report.returned + report.nacked + report.in_doubt + report.circular > 0).then(refusal)
        }
        TransferEnd::Refused => Some(refusal()),
        TransferEnd::Stalled => Some(
            "the queue counts messages that it does not hand out: another consumer has it to itself, or \
             they have expired"
                .to_owned(),
        ),
        TransferEnd::Full => Some(
            "every place is taken by a message that stays; what lies behind was not looked at"
                .to_owned(),
        ),
        TransferEnd::LivesAtRisk => Some(
            "a message that stays has few lives left; raise the delivery limit, or move it too"
                .to_owned(),
        ),
        TransferEnd::Stopped => Some("somebody asked to stop".to_owned()),
        TransferEnd::Failed => Some(
            report.failure.as_ref().map_or_else(|| "the broker failed".to_owned(), ToString::to_string),
        ),
    }
}

/// What the run means.
fn status(report: &TransferReport, stopped: ExitStatus) -> ExitStatus {
    match why_stopped(report) {
        None => ExitStatus::Done,
        Some(_) if report.ended == TransferEnd::Stopped => stopped,
        Some(_) if report.transferred > 0 => ExitStatus::Partly,
        Some(_) if report.in_doubt > 0 => ExitStatus::OutcomeUnknown,
        Some(_) if report.failure.is_some() => {
            report.failure.as_ref().map_or(ExitStatus::Failed, |f| CliError::from(f).status)
        }
        Some(_) if report.returned + report.nacked + report.circular > 0 => ExitStatus::NotAccepted,
        Some(_) => ExitStatus::Failed,
    }
}

pub(super) fn run_move(args: MoveArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    run(Deed::Move, args.which, None, session)
}

pub(super) fn run_copy(args: CopyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    run(Deed::Copy, args.which, args.from_offset, session)
}

fn run(
    deed: Deed,
    which: WhichArgs,
    offset: Option<Offset>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    if which.to.as_ref() == Some(&which.from) {
        return Err(CliError::usage(format!(
            "`{}` is both where the messages are and where they are to go",
            which.from
        )));
    }
    let filter = which
        .filter
        .as_deref()
        .map(Filter::parse)
        .transpose()
        .map_err(|error| CliError::usage(format!("--filter: {error}")))?;
    let target = Connector::of(session)?;
    let login = target.login().map(str::to_owned);
    let now = session.clock.now().unix_s();
    let wanted = Wanted { deed, which, filter, offset, login };
    let from = wanted.which.from.clone();
    let ledger_of = |broker: &dyn Broker| {
        Ledger::of(&settings.state.value, broker.identity(), &target.shown(), from.as_str())
    };
    let before = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let before = wanted.before(&*broker, &ledger_of(&*broker), &settings).await?;
        let _ = broker.close().await;
        Ok(before)
    }))?;
    let mut view = wanted.view(&before);
    let refusal = wanted.refusal(&before.cost);
    if wanted.which.dry_run {
        view.stopped = before.cost.danger.clone().or(before.cost.barred.clone());
        view.warnings = before.losses.into_iter().chain(before.warnings).collect();
        session.ui.report(&view)?;
        return Ok(if refusal.is_some() { ExitStatus::Negative } else { ExitStatus::Done });
    }
    if let Some(error) = refusal {
        return Err(error);
    }
    let what = wanted.words();
    consent::ask(session, &settings, &consent::Deed { what: what.clone(), losses: before.losses })?;
    for warning in &before.warnings {
        session.ui.warning(warning);
    }
    let bar = Progress::new(&session.ui, view.at_most, "messages");
    let stop = session.stop.clone();
    let (report, noted) = session.drive(async {
        let broker = target.connect().await?;
        let mut progress = |done| bar.at(done);
        let is_quorum = before.source.as_ref().is_some_and(|s| s.queue_type == QueueType::Quorum);
        let is_rabbitmq = broker.identity().product == Product::RabbitMq;
        if is_quorum && is_rabbitmq && before.consumers == 0 && before.options.ready > 0 {
            // One that is being recovered hands out first what lies behind a former consumer's messages.
            await_calm(&*broker, &from, settings.timeout().min(CALM_PATIENCE)).await?;
        }
        let report = transfer(&*broker, &from, &before.options, stop.job(), &mut progress).await?;
        // Without returns of its own a run has seen nothing of what stayed.
        let noted = if is_quorum && report.returns > 0 {
            let ledger = ledger_of(&*broker);
            ledger.note(report.returns.max(ledger.returns()), now)
        } else {
            Ok(())
        };
        let _ = broker.close().await;
        Ok((report, noted))
    })?;
    bar.clear();
    view.looked_at = report.looked;
    view.transferred = report.transferred;
    view.not_wanted = report.not_wanted;
    view.filter_errors = report.filter_errors;
    view.circular = report.circular;
    view.returned = report.returned;
    view.nacked = report.nacked;
    view.in_doubt = report.in_doubt;
    view.not_sent = report.not_sent;
    view.in_both = report.in_both;
    view.stopped = why_stopped(&report);
    if let Err(error) = noted {
        view.warnings.push(format!("the next look will not know what this one cost: {error}"));
    }
    if let Some(error) = &report.first_filter_error {
        view.warnings.push(format!(
            "the filter failed for {}: {error}",
            counted(report.filter_errors, "message")
        ));
    }
    if !report.order_kept {
        view.warnings.push(
            "the queue has messages that came back to it before: what stayed may now be behind those"
                .to_owned(),
        );
    }
    session.ui.report(&view)?;
    let status = status(&report, session.stop.status());
    if !matches!(status, ExitStatus::Done | ExitStatus::Interrupted | ExitStatus::Terminated) {
        session.ui.hint(next_step(&report));
    }
    Ok(status)
}

fn next_step(report: &TransferReport) -> String {
    match report.ended {
        TransferEnd::Failed => format!(
            "nothing is lost; run it again when the broker answers, and at most {WINDOW} messages come twice"
        ),
        TransferEnd::Refused if report.in_doubt > 0 => {
            "nothing is lost; look for those in doubt at the target before you run it again"
                .to_owned()
        }
        TransferEnd::Refused | TransferEnd::Count | TransferEnd::All | TransferEnd::Empty => {
            "what was refused is still in its queue; mend the target, or leave such messages with \
             `--skip-refused`"
                .to_owned()
        }
        _ => "what was not done is still in its queue; run it again for the rest".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ended: TransferEnd) -> TransferReport {
        TransferReport {
            ended,
            looked: 0,
            transferred: 0,
            not_wanted: 0,
            filter_errors: 0,
            first_filter_error: None,
            circular: 0,
            returned: 0,
            nacked: 0,
            in_doubt: 0,
            not_sent: 0,
            in_both: 0,
            returns: 0,
            order_kept: true,
            refusal: None,
            failure: None,
        }
    }

    #[test]
    fn the_status_says_whether_all_some_or_none_went() {
        use TransferEnd as E;
        let stop = ExitStatus::Interrupted;
        let lost = crate::broker::BrokerError::new(ErrorKind::ConnectionLost, "x", "y");
        for (report, expected) in [
            (report(E::All), ExitStatus::Done),
            (TransferReport { transferred: 3, not_wanted: 2, ..report(E::All) }, ExitStatus::Done),
            (TransferReport { transferred: 3, nacked: 2, ..report(E::All) }, ExitStatus::Partly),
            (TransferReport { nacked: 2, ..report(E::Refused) }, ExitStatus::NotAccepted),
            (TransferReport { in_doubt: 1, ..report(E::Refused) }, ExitStatus::OutcomeUnknown),
            (TransferReport { transferred: 1, ..report(E::Full) }, ExitStatus::Partly),
            (TransferReport { transferred: 1, ..report(E::Stopped) }, stop),
            (TransferReport { failure: Some(lost), ..report(E::Failed) }, ExitStatus::Unavailable),
            (report(E::Stalled), ExitStatus::Failed),
        ] {
            assert_eq!(status(&report, stop), expected, "{report:?}");
        }
    }
}
