//! `dlq replay`: what it would do, what stands in its way, and then doing it.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::calm::await_calm;
use crate::broker::effective::{EffectiveQueue, Overflow};
use crate::broker::{Broker, Delivery, ErrorKind, LockHolder, QueueType};
use crate::deadletter::replay::address::Target;
use crate::deadletter::replay::machine::{End, Order};
use crate::deadletter::replay::plan::{Facts, Mode, Plan, Request, TargetFacts, WINDOW, plan};
use crate::deadletter::replay::run::{
    Begin, ReplayError, ReplayOptions, ReplayReport, run as replay,
};
use crate::deadletter::replay::store::{Journal, Phase, StoredRun};
use crate::deadletter::{LetterId, Selection, Selector};
use crate::delivery::consume::{ConsumeOptions, Lives};
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::consent;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::missing::{self, Missing};
use crate::cli::output::{Page, View, count};
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::selection::SelectionArgs;

/// Arguments of `dlq replay`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each letter goes back to the queue it died in, unless --to, --via-exchange or \
    --to-exchange says otherwise, and is acked only after the broker has confirmed it. Letters that are \
    not wanted, returned or refused are back at their places in the end. What is intended is written \
    into the journal first: after a kill at any point `dlq resume RUN` goes on, no more letters than \
    --window come twice for each kill, and `dlq run show RUN` names them. Every copy of a letter has the \
    same header x-nexus-replay-key.\n\nStatus 3: partly done, the report says what; 4: something \
    stands in the way, or consent is missing; 75: somebody else replays the queue.\n\nExamples:\n  \
    nexusctl dlq replay dead.agent.worker --to agent.worker --dry-run\n  \
    nexusctl dlq replay dead.agent.worker --yes --reason 'handler mended'\n  \
    nexusctl dlq replay dead.agent.worker --where 'size > 100' --first 10 --yes"
)]
pub(super) struct ReplayArgs {
    /// The queue that the letters are in
    queue: QueueName,
    #[command(flatten)]
    choice: Choice,
    /// Name the run, for `dlq resume` and `dlq run show`
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
    /// Why: kept with the run
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Say what would be done and what stands in the way, and touch nothing
    #[arg(long)]
    dry_run: bool,
}

/// How far the order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OrderChoice {
    /// Stop at the first letter that cannot go
    Queue,
    /// Go on past letters that cannot go
    None,
    /// Stop, and send no letter before the one ahead of it is confirmed
    Strict,
}

/// Which letters, where to and how; kept in the journal, so that a run can be resumed.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Choice {
    #[command(flatten)]
    #[serde(skip)]
    letters: SelectionArgs,
    /// Which letters, once the options were read.
    #[arg(skip)]
    selection: Selection,
    /// All of them to this queue
    #[arg(long, value_name = "QUEUE", conflicts_with_all = ["via_exchange", "to_exchange"])]
    to: Option<QueueName>,
    /// Each to the exchange it had been published to; other queues may get it too
    #[arg(long, conflicts_with = "to_exchange")]
    via_exchange: bool,
    /// All of them to this exchange, with this key or each with its own
    #[arg(long, value_name = "EXCHANGE[:KEY]")]
    to_exchange: Option<String>,
    /// Do not send a letter that was replayed so often already
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_replays: u64,
    /// Put such letters into this queue; without it they stay
    #[arg(long, value_name = "QUEUE")]
    park: Option<QueueName>,
    /// What a letter that cannot go means for those behind it
    #[arg(long, value_name = "ORDER", value_enum, default_value = "queue")]
    order: OrderChoice,
    /// So many letters unconfirmed at once: the most that one kill can double
    #[arg(long, value_name = "N", default_value_t = WINDOW,
        value_parser = clap::value_parser!(u64).range(1..=4096))]
    window: u64,
    /// So many a second at most
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// Give letters the time to live back that they had before they died
    #[arg(long)]
    restore_ttl: bool,
    /// Replay beside other consumers of the queue; what they hold is not replayed
    #[arg(long)]
    alongside: bool,
    /// Hold letters that stay although their time to live may end meanwhile
    #[arg(long)]
    allow_expiry: bool,
    /// Send to a queue that will drop its oldest messages
    #[arg(long)]
    allow_loss: bool,
    /// Hold no letter that has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    min_lives: u64,
}

/// What was, or would be, replayed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayView {
    /// The run; empty when nothing was to be changed.
    run: String,
    /// The queue that the letters are in.
    queue: String,
    /// Where they go, in words.
    target: String,
    /// Letters that waited when it began.
    ready: u64,
    /// `drain` when none stays, `hold` when letters that stay are held to the end.
    mode: &'static str,
    /// How many may be out at once.
    window: u64,
    /// Letters looked at.
    looked_at: u64,
    /// Letters confirmed at their target.
    replayed: u64,
    /// Letters confirmed where worn out ones are put.
    parked: u64,
    /// Letters that came back after a crash and were acked without another copy.
    skipped: u64,
    /// Left: not selected, or nowhere to go.
    not_wanted: u64,
    /// Of these, those of which nothing tells where they belong.
    nowhere: u64,
    /// Of these, those for which the condition failed.
    filter_errors: u64,
    /// Left: replayed too often.
    worn_out: u64,
    /// Left: no queue took the copy.
    returned: u64,
    /// Left: the broker refused the copy.
    nacked: u64,
    /// Left: not sent any more.
    not_sent: u64,
    /// Left, and the copy may have arrived or not.
    in_doubt: u64,
    /// Of the replayed ones, those that may still be in the queue as well.
    in_both: u64,
    /// Letters that wait now; null when it is not known.
    left: Option<u64>,
    /// What stands in the way, or why it ended before all were done; empty when nothing.
    stopped: Vec<String>,
    /// What else to know.
    warnings: Vec<String>,
    /// Whether nothing was to be changed.
    dry_run: bool,
}

impl View for ReplayView {
    const KIND: &'static str = "Replay";
    fn text(&self, page: &mut Page) {
        let queue = page.style.strong(&self.queue);
        let letters = |number: u64| count(number, "letter");
        if self.dry_run {
            let what = if self.mode == "drain" { "all go" } else { "what stays is held" };
            page.line(format!(
                "queue {queue}: {} would go to {}",
                letters(self.ready),
                self.target
            ));
            page.line(format!("{what}; at most {} would come twice after a kill", self.window));
        } else {
            let went = letters(self.replayed);
            page.line(format!("run {}: {went} of queue {queue} to {}", self.run, self.target));
        }
        for (number, what) in [
            (self.parked, "put aside: replayed too often"),
            (self.skipped, "acked without another copy: confirmed before the crash"),
            (self.not_wanted - self.nowhere.min(self.not_wanted), "left: not selected"),
            (self.nowhere, "left: nothing tells where else it belongs"),
            (self.worn_out, "left: replayed too often"),
            (self.returned, "left: returned, no queue took the copy"),
            (self.nacked, "left: the copy was refused"),
            (self.not_sent, "left: not sent any more"),
            (self.in_doubt, "left, and the copy may have arrived"),
            (self.in_both, "replayed, and may still be in the queue as well"),
        ] {
            if number > 0 {
                page.line(format!("{} {what}", letters(number)));
            }
        }
        for why in &self.stopped {
            let word = if self.dry_run { "in the way:" } else { "stopped:" };
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

impl Choice {
    fn target(&self) -> Result<Target, CliError> {
        if let Some(queue) = &self.to {
            return Ok(Target::Queue(queue.clone()));
        }
        if self.via_exchange {
            return Ok(Target::OriginExchange);
        }
        let Some(text) = &self.to_exchange else { return Ok(Target::Origin) };
        let wrong =
            |error: &dyn std::fmt::Display| CliError::usage(format!("--to-exchange: {error}"));
        let (exchange, key) = match text.split_once(':') {
            Some((exchange, key)) => (exchange, Some(key)),
            None => (text.as_str(), None),
        };
        let exchange = ExchangeName::new(exchange).map_err(|error| wrong(&error))?;
        let key = key.map(RoutingKey::new).transpose().map_err(|error| wrong(&error))?;
        Ok(Target::Exchange(exchange, key))
    }

    fn request(&self) -> Request {
        Request {
            selects: !Selection { first: None, ..self.selection.clone() }.is_all(),
            first: self.selection.first,
            window: match self.rate {
                // A batch is sent as a whole: with a rate no more than a quarter of a second.
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 1 and the window"
                )]
                Some(rate) => self.window.min((rate / 4.0).clamp(1.0, 4096.0) as u64),
                None => self.window,
            },
            order: match self.order {
                OrderChoice::Queue => Order::Queue,
                OrderChoice::None => Order::None,
                OrderChoice::Strict => Order::Strict,
            },
            max_replays: self.max_replays,
            parks: self.park.is_some(),
            alongside: self.alongside,
            min_lives: self.min_lives,
            allow_expiry: self.allow_expiry,
            allow_loss: self.allow_loss,
        }
    }

    /// Which letters are wanted, however many. What a letter is called has to be written out here: that
    /// two begin alike would show only after the first is gone.
    fn selector(&self, vhost: &str, queue: &QueueName) -> Result<Selector, CliError> {
        let to_scan = "`nexusctl dlq letters` takes it; hand what it prints with `-o json` on to \
                       `--selection -`";
        if self.selection.last.is_some() {
            return Err(CliError::usage(
                "which letters are the last is not known before all were looked at",
            )
            .hint(to_scan));
        }
        if let Some(short) = self.selection.ids.iter().find(|id| !id.is_whole()) {
            let short = short.as_str();
            return Err(CliError::usage(format!(
                "`{short}` is only the beginning of a letter's id, and may mean several"
            ))
            .hint(to_scan));
        }
        // How many is the run's own to count: of those that did not go, more may be looked at.
        let selection = Selection { first: None, ..self.selection.clone() };
        Ok(Selector::new(&selection, vhost, queue)?)
    }
}

fn in_words(target: &Target) -> String {
    match target {
        Target::Origin => "the queue each died in".to_owned(),
        Target::Queue(queue) => format!("queue {queue}"),
        Target::OriginExchange => "the exchange each was published to".to_owned(),
        Target::Exchange(exchange, None) => format!("exchange {exchange}"),
        Target::Exchange(exchange, Some(key)) => format!("exchange {exchange} with key {key}"),
    }
}

async fn unknown(
    what: Missing,
    name: &str,
    queue: &QueueName,
    broker: &dyn Broker,
    settings: &Settings,
) -> CliError {
    let vhost = &broker.identity().vhost;
    let noun = if matches!(what, Missing::Exchange) { "exchange" } else { "queue" };
    let message =
        format!("cannot replay queue `{queue}`: {noun} `{name}` does not exist in vhost `{vhost}`");
    let next = missing::look(what, name, broker, settings).await;
    CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).object(name).hint(next)
}

/// Looks around without touching anything.
async fn facts(
    queue: &QueueName,
    choice: &Choice,
    target: &Target,
    broker: &dyn Broker,
    settings: &Settings,
) -> Result<Facts, CliError> {
    let Some(depth) = broker.depth(queue).await? else {
        return Err(unknown(Missing::Queue, queue.as_str(), queue, broker, settings).await);
    };
    if let Some(park) = &choice.park
        && broker.depth(park).await?.is_none()
    {
        return Err(unknown(Missing::Queue, park.as_str(), queue, broker, settings).await);
    }
    let mut known_target = None;
    match target {
        Target::Queue(to) => {
            let Some(depth) = broker.depth(to).await? else {
                return Err(unknown(Missing::Queue, to.as_str(), queue, broker, settings).await);
            };
            known_target = Some((to, depth));
        }
        Target::Exchange(exchange, _) if !broker.has_exchange(exchange).await? => {
            let name = exchange.as_str();
            return Err(unknown(Missing::Exchange, name, queue, broker, settings).await);
        }
        _ => {}
    }
    let view = match broker.inspect().await {
        Ok(snapshot) => Some(TopologyView::of_snapshot(&snapshot)),
        Err(error) if error.kind == ErrorKind::Unsupported => None,
        Err(error) => return Err(error.into()),
    };
    let effective = |name: &str| Some(&view.as_ref()?.queues.get(name)?.effective);
    let mut facts = Facts { ready: depth.ready, consumers: depth.consumers, ..Facts::default() };
    if let Some(known) = effective(queue.as_str()) {
        facts.queue_type = Some(known.queue_type);
        facts.single_active_consumer = known.single_active_consumer();
        facts.delivery_limit = known.delivery_limit().map(u64::from);
        facts.ttl_ms = known.message_ttl_ms();
        facts.has_priorities = known.max_priority().is_some();
    }
    facts.target = known_target.map(|(to, depth)| {
        let known = effective(to.as_str());
        TargetFacts {
            name: to.to_string(),
            ready: depth.ready,
            consumers: depth.consumers,
            drops_beyond: known
                .filter(|known| known.overflow() == Overflow::DropHead)
                .and_then(EffectiveQueue::max_length),
            ttl_ms: known.and_then(EffectiveQueue::message_ttl_ms),
        }
    });
    Ok(facts)
}

fn view_of(queue: &QueueName, target: &Target, facts: &Facts, plan: &Plan) -> ReplayView {
    ReplayView {
        run: String::new(),
        queue: queue.to_string(),
        target: in_words(target),
        ready: facts.ready,
        mode: match plan.mode {
            Mode::Drain => "drain",
            Mode::Hold => "hold",
        },
        window: plan.rules.window,
        looked_at: 0,
        replayed: 0,
        parked: 0,
        skipped: 0,
        not_wanted: 0,
        nowhere: 0,
        filter_errors: 0,
        worn_out: 0,
        returned: 0,
        nacked: 0,
        not_sent: 0,
        in_doubt: 0,
        in_both: 0,
        left: None,
        stopped: Vec::new(),
        warnings: Vec::new(),
        dry_run: true,
    }
}

impl ReplayView {
    fn take(&mut self, report: &ReplayReport) {
        let counts = report.counts;
        self.looked_at = counts.looked;
        self.replayed = counts.replayed;
        self.parked = counts.parked;
        self.skipped = counts.skipped;
        self.not_wanted = counts.not_wanted;
        self.nowhere = report.nowhere;
        self.filter_errors = report.filter_errors;
        self.worn_out = counts.worn_out;
        self.returned = counts.returned;
        self.nacked = counts.nacked;
        self.not_sent = counts.not_sent;
        self.in_doubt = counts.in_doubt;
        self.in_both = counts.in_both + counts.unflushed;
        self.left = report.left;
        self.stopped = why_stopped(report).into_iter().collect();
        self.dry_run = false;
        if !report.order_kept {
            self.warnings.push(
                "the queue has letters that came back to it before: what stayed may now be behind those"
                    .to_owned(),
            );
        }
        if let Some(error) = &report.first_filter_error {
            let number = count(report.filter_errors, "letter");
            self.warnings.push(format!("the condition failed for {number}: {error}"));
        }
    }
}

fn why_stopped(report: &ReplayReport) -> Option<String> {
    let counts = report.counts;
    let refusal = || report.refusal.clone().unwrap_or_else(|| "a letter was refused".to_owned());
    let failure = || report.failure.clone().unwrap_or_else(|| "the broker failed".to_owned());
    match report.ended {
        _ if report.lives_at_risk => Some(
            "a letter that stays has few lives left; raise the delivery limit, or replay it too"
                .to_owned(),
        ),
        End::All | End::First | End::Dry if report.failure.is_some() => Some(failure()),
        End::Dry if report.stalled => Some(
            "the queue counts letters that it does not hand out: another consumer has it to itself, \
             or they have expired"
                .to_owned(),
        ),
        // An empty queue is done, whoever took what is missing from the count.
        End::All | End::First | End::Dry => (counts.returned + counts.nacked > 0).then(refusal),
        End::Echo => Some(
            "a letter came back that this run had sent: what it died of is not mended".to_owned(),
        ),
        End::Full => Some("every place is taken by a letter that stays".to_owned()),
        End::Refused => Some(refusal()),
        End::Stopped => Some("somebody asked to stop".to_owned()),
        End::Broken | End::Journal => Some(failure()),
    }
}

fn status(report: &ReplayReport, stopped: ExitStatus) -> ExitStatus {
    let counts = report.counts;
    if why_stopped(report).is_none() {
        return ExitStatus::Done;
    }
    if report.ended == End::Stopped && !report.lives_at_risk {
        return stopped;
    }
    if counts.replayed + counts.parked + counts.skipped > 0 {
        return ExitStatus::Partly;
    }
    match report.ended {
        _ if counts.in_doubt > 0 => ExitStatus::OutcomeUnknown,
        _ if counts.returned + counts.nacked > 0 => ExitStatus::NotAccepted,
        End::Broken | End::Journal => ExitStatus::Unavailable,
        _ => ExitStatus::Failed,
    }
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Lock(error @ crate::broker::LockError::Held { .. }) => {
                let message = format!("cannot replay: {error}");
                CliError::new(code::LOCKED, ExitStatus::TryLater, message)
                    .hint("nothing was touched; wait until that replay has ended")
            }
            ReplayError::Lock(error) => error.into(),
            ReplayError::Broker(error) => error.into(),
            ReplayError::Journal(error) => error.into(),
        }
    }
}

/// The broker, as the journal knows it.
fn place(target: &Connector) -> String {
    target.shown()
}

/// A name for a run that nobody has named.
fn name_of(session: &Session) -> String {
    let at = session.clock.now().to_string();
    let digits: String = at.chars().filter(char::is_ascii_digit).take(14).collect();
    format!("r{digits}-{:06x}", session.seed & 0xff_ffff)
}

pub(super) fn run(args: ReplayArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ReplayArgs { queue, mut choice, run, reason, dry_run } = args;
    let settings = session.settings()?;
    let target = choice.target()?;
    if target == Target::Queue(queue.clone()) || choice.park.as_ref() == Some(&queue) {
        return Err(CliError::usage(format!(
            "`{queue}` is both where the letters are and where they are to go"
        )));
    }
    if let Some(rate) = choice.rate
        && crate::delivery::pace::Pace::new(rate).is_none()
    {
        return Err(CliError::usage(format!("--rate: {rate} is no rate; write a number above 0")));
    }
    choice.selection = choice.letters.selection(session)?;
    choice.selector("", &queue)?;
    let connector = Connector::of(session)?;
    let facts = session.drive(unless_stopped(&session.stop, async {
        let broker = connector.connect().await?;
        let facts = facts(&queue, &choice, &target, &*broker, &settings).await?;
        let _ = broker.close().await;
        Ok(facts)
    }))?;
    let plan = plan(&facts, &choice.request());
    let view = view_of(&queue, &target, &facts, &plan);
    if dry_run {
        return show_plan(view, &plan, session);
    }
    refuse(&queue, &plan)?;
    let most = choice.selection.first.map_or(facts.ready, |first| first.min(facts.ready));
    let what = if choice.request().selects { "the selected of " } else { "" };
    consent::ask(
        session,
        &settings,
        &consent::Deed {
            what: format!("replay queue `{queue}`"),
            losses: vec![format!(
                "{what}{} leave it for {}; each is acked when it is confirmed there",
                count(most, "letter"),
                in_words(&target)
            )],
        },
    )?;
    let id = run.unwrap_or_else(|| name_of(session));
    let request = serde_json::to_string(&choice)
        .map_err(|error| CliError::new(code::INTERNAL, ExitStatus::Internal, error.to_string()))?;
    let stored = StoredRun {
        id,
        broker: place(&connector),
        // Filled in once the broker has said where this is.
        vhost: String::new(),
        queue: queue.to_string(),
        request,
        who: session.who.clone(),
        reason,
        started: session.clock.now(),
        ended: None,
        watermark: plan.rules.watermark,
        attempts: 1,
        phase: Phase::Open,
        why: None,
    };
    execute(&queue, &choice, (plan, facts), view, &connector, session, (stored, true))
}

fn show_plan(
    mut view: ReplayView,
    plan: &Plan,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    view.stopped = objections(plan);
    view.warnings.clone_from(&plan.warnings);
    session.ui.report(&view)?;
    let blocked = !plan.objections.is_empty();
    Ok(if blocked { ExitStatus::Negative } else { ExitStatus::Done })
}

fn objections(plan: &Plan) -> Vec<String> {
    plan.objections
        .iter()
        .map(|objection| match objection.by {
            Some(option) => format!("{} ({option} goes on nonetheless)", objection.why),
            None => objection.why.clone(),
        })
        .collect()
}

fn refuse(queue: &QueueName, plan: &Plan) -> Result<(), CliError> {
    let Some(first) = plan.objections.first() else { return Ok(()) };
    let message = format!("cannot replay queue `{queue}`: {}", first.why);
    let error = match first.by {
        Some(option) => CliError::new(code::CONSENT, ExitStatus::Blocked, message)
            .hint(format!("nothing was touched; go on nonetheless with `{option}`")),
        None => CliError::failed(message).hint("nothing was touched"),
    };
    Err(error.object(queue.as_str()))
}

/// How long a resumed run waits for what its former consumer held to be back.
const CALM_PATIENCE: Duration = Duration::from_secs(10);

/// Goes on with a run.
pub(super) fn again(
    stored: StoredRun,
    dry_run: bool,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("cannot resume run `{}`: its journal says {error}", stored.id))
    };
    let choice: Choice = serde_json::from_str(&stored.request).map_err(|error| wrong(&error))?;
    let queue = QueueName::new(stored.queue.clone()).map_err(|error| wrong(&error))?;
    let connector = Connector::of(session)?;
    if stored.broker != place(&connector) {
        let message = format!(
            "cannot resume run `{}`: it is of {}, and this is {}",
            stored.id,
            stored.broker,
            place(&connector)
        );
        return Err(CliError::new(code::WRONG_CLUSTER, ExitStatus::BadSettings, message)
            .object(&stored.id)
            .hint("resume it with the broker that it began on"));
    }
    let target = choice.target()?;
    let facts = session.drive(unless_stopped(&session.stop, async {
        let broker = connector.connect().await?;
        if !choice.alongside {
            // Objections follow from what is counted then.
            await_calm(&*broker, &queue, settings.timeout().min(CALM_PATIENCE)).await?;
        }
        let facts = facts(&queue, &choice, &target, &*broker, &settings).await?;
        let _ = broker.close().await;
        Ok(facts)
    }))?;
    let mut plan = plan(&facts, &choice.request());
    if dry_run {
        return show_plan(view_of(&queue, &target, &facts, &plan), &plan, session);
    }
    refuse(&queue, &plan)?;
    // Never more than waited when it began: what came since is not the run's.
    plan.rules.watermark = plan.rules.watermark.min(stored.watermark);
    let view = view_of(&queue, &target, &facts, &plan);
    execute(&queue, &choice, (plan, facts), view, &connector, session, (stored, false))
}

fn execute(
    queue: &QueueName,
    choice: &Choice,
    (plan, facts): (Plan, Facts),
    mut view: ReplayView,
    connector: &Connector,
    session: &mut Session,
    (mut stored, is_new): (StoredRun, bool),
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    for warning in &plan.warnings {
        session.ui.warning(warning);
    }
    let target = choice.target()?;
    let bar = Progress::new(&session.ui, Some(plan.rules.watermark), "letters");
    let stop = session.stop.clone();
    let clock = std::sync::Arc::clone(&session.clock);
    let who = session.who.clone();
    let result = session.drive(async {
        let broker = connector.connect().await?;
        let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
        let now = clock.now();
        let id = stored.id.clone();
        let begin = if is_new {
            if journal.run(&id)?.is_some() {
                let message = format!("there is a run `{id}` already");
                return Err(CliError::usage(message).object(&id));
            }
            stored.vhost = broker.identity().vhost.to_string();
            Begin::New(Box::new(stored))
        } else {
            Begin::Again
        };
        let limit = facts.delivery_limit.filter(|_| plan.mode == Mode::Hold);
        let queue_type = facts.queue_type;
        let options = ReplayOptions {
            run: id.clone(),
            queue: queue.clone(),
            target,
            park: choice.park.clone(),
            rules: plan.rules,
            is_quorum: queue_type == Some(QueueType::Quorum),
            looks: plan.looks,
            login: connector.login().map(str::to_owned),
            restore_ttl: choice.restore_ttl,
            rate: choice.rate,
            lives: Lives { limit, keep: choice.min_lives },
            patience: settings.timeout().min(ConsumeOptions::default().patience),
            poll: Duration::from_millis(200),
            holder: LockHolder { who, since: now },
        };
        let mut selector = choice.selector(broker.identity().vhost.as_str(), queue)?;
        let mut wants = |position, _: &LetterId, delivery: &Delivery| {
            selector.wants(position, delivery).map_err(|error| error.to_string())
        };
        let mut progress = |looked, _| bar.at(looked);
        let job = stop.job();
        let report =
            replay(&*broker, &journal, begin, &options, &mut wants, &clock, job, &mut progress)
                .await?;
        let _ = broker.close().await;
        Ok((id, report))
    });
    bar.clear();
    let (id, report) = result?;
    view.run.clone_from(&id);
    view.take(&report);
    session.ui.report(&view)?;
    let status = status(&report, session.stop.status());
    if status != ExitStatus::Done {
        session.ui.hint(format!(
            "nothing is lost; `nexusctl dlq resume {id}` goes on, `nexusctl dlq run show {id}` names \
             what may have come twice"
        ));
    }
    Ok(status)
}
