//! `queue peek`: looks at messages without harm, and not at all where a look would do harm.

use std::time::Duration;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::effective::EffectiveQueue;
use crate::broker::{Broker, QueueType};
use crate::delivery::peek::{Cost, PeekFacts, PeekOptions, cost, peek};
use crate::delivery::sink::{Sink, Stream};
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::consume::{Offset, ShapeArgs, format_of, json_frame, parse_offset};
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Format as OutputFormat, Page, View, count as counted};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::ledger::Ledger;

/// Arguments of `queue peek`.
#[derive(Debug, Args)]
#[command(
    after_help = "Messages are back at their places when this ends. On a quorum queue with a \
    delivery limit (on RabbitMQ 4 every one has: 20 unless set) each look costs each message seen one \
    of its lives; what looks have seen is noted beside the state file, and a look is refused with \
    status 4 before any message has fewer than --min-lives left. --min-lives 0 looks nonetheless and \
    corrects the note. Status 75: another consumer has the queue to itself.\n\nExamples:\n  \
    nexusctl queue peek agent.worker\n  nexusctl queue peek agent.worker --count 3 --raw\n  \
    nexusctl queue peek agent.worker --dry-run"
)]
pub(super) struct PeekArgs {
    /// The queue
    queue: QueueName,
    /// Look at so many messages
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    count: u16,
    /// Refuse when a message has fewer lives left than this
    #[arg(long, value_name = "N", default_value_t = 3)]
    min_lives: u64,
    /// Wait so long for a message that the queue counts and does not hand out
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    wait: HumanDuration,
    /// Read a stream from here: first, last, next, a number, a time or a duration back
    #[arg(long, value_name = "OFFSET", value_parser = parse_offset)]
    from: Option<Offset>,
    #[command(flatten)]
    shape: ShapeArgs,
    /// Say what a look would cost, and do not look
    #[arg(long)]
    dry_run: bool,
}

/// What a look would cost.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeekPlanView {
    /// The queue.
    queue: String,
    /// `classic`, `quorum` or `stream`.
    queue_type: &'static str,
    /// Messages that wait.
    ready: u64,
    /// Consumers attached.
    consumers: u64,
    /// How often a message may come back; null when always.
    delivery_limit: Option<u64>,
    /// How many lives the worst known message has left; null when any number.
    lives_left: Option<u64>,
    /// Why a look would be refused; null when it would not.
    refused: Option<String>,
    /// What else to know.
    warnings: Vec<String>,
}

impl PeekPlanView {
    /// What a look at `queue` would meet.
    pub(in crate::cli) fn new(queue: &QueueName, facts: &PeekFacts, cost: Cost) -> Self {
        PeekPlanView {
            queue: queue.to_string(),
            queue_type: facts.queue_type.as_str(),
            ready: facts.ready,
            consumers: facts.consumers,
            delivery_limit: cost.lives.and(facts.delivery_limit),
            lives_left: cost.lives,
            refused: cost.danger.or(cost.barred),
            warnings: cost.warnings,
        }
    }
}

impl PeekPlanView {
    /// The last line of its text.
    pub(in crate::cli) const NOTHING_DONE: &'static str = "nothing was looked at";
}

impl View for PeekPlanView {
    const KIND: &'static str = "PeekPlan";
    fn text(&self, page: &mut Page) {
        let name = page.style.strong(&self.queue);
        page.line(format!(
            "queue {name} ({}): {}, {}",
            self.queue_type,
            counted(self.ready, "message"),
            counted(self.consumers, "consumer")
        ));
        if let (Some(limit), Some(lives)) = (self.delivery_limit, self.lives_left) {
            page.line(format!("lives left as far as is known: {lives} of {limit}"));
        }
        if let Some(why) = &self.refused {
            let word = page.style.bad("refused:");
            page.line(format!("{word} {why}"));
        }
        for warning in &self.warnings {
            let word = page.style.attention("warning:");
            page.line(format!("{word} {warning}"));
        }
        page.line(PeekPlanView::NOTHING_DONE);
    }
}

/// What looking meets, but for what is in the queue now.
pub(super) fn facts(
    effective: &EffectiveQueue,
    exclusive_consumer: bool,
    returns: u64,
) -> PeekFacts {
    let bounded = effective.max_length().is_some() || effective.max_length_bytes().is_some();
    PeekFacts {
        queue_type: effective.queue_type,
        delivery_limit: effective.delivery_limit().map(u64::from),
        returns,
        ttl_ms: effective.message_ttl_ms(),
        overflow: bounded.then(|| effective.overflow()),
        single_active_consumer: effective.single_active_consumer(),
        exclusive_consumer,
        consumers: 0,
        ready: 0,
        dead_letters: effective.dead_letter_exchange().is_some(),
    }
}

/// What is known of the queue without touching it.
pub(in crate::cli) async fn look_around(
    broker: &dyn Broker,
    queue: &QueueName,
    returns: u64,
) -> Result<Option<PeekFacts>, CliError> {
    let Some(depth) = broker.depth(queue).await? else { return Ok(None) };
    let view = TopologyView::of_snapshot(&broker.inspect().await?);
    let Some(known) = view.queues.get(queue.as_str()) else { return Ok(None) };
    let subscribers = broker.queue_details(queue).await?.and_then(|details| details.subscribers);
    let exclusive = subscribers.iter().flatten().any(|subscriber| subscriber.exclusive);
    Ok(Some(PeekFacts {
        consumers: depth.consumers,
        ready: depth.ready,
        ..facts(&known.effective, exclusive, returns)
    }))
}

pub(in crate::cli) fn refusal(
    queue: &QueueName,
    cost: &Cost,
    facts: &PeekFacts,
) -> Option<CliError> {
    let cannot = |why: &str| format!("cannot look at queue `{queue}`: {why}");
    if let Some(why) = &cost.danger {
        let error = CliError::new(code::CONSENT, ExitStatus::Blocked, cannot(why));
        return Some(error.object(queue.as_str()).hint(if facts.returns > 0 {
            "nothing was touched; consume or move the messages, raise the delivery limit by policy, or \
             look nonetheless with `--min-lives 0`"
        } else {
            "nothing was touched; raise the delivery limit by policy, or look nonetheless with a lower \
             `--min-lives`"
        }));
    }
    let why = cost.barred.as_ref()?;
    let error = CliError::new(code::LOCKED, ExitStatus::TryLater, cannot(why));
    Some(error.object(queue.as_str()).hint("nothing was touched; look when that consumer is gone"))
}

/// What became of the look.
enum Done {
    Planned(PeekPlanView, bool),
    Seen { bytes: Vec<u8>, number: usize, ready: u64, warnings: Vec<String> },
}

pub(super) fn run(args: PeekArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PeekArgs { queue, count, min_lives, wait, from, shape, dry_run } = args;
    let settings = session.settings()?;
    let format = format_of(&shape, session.ui.format)?;
    let framed = session.ui.format == OutputFormat::Json && shape.is_plain();
    let target = Connector::of(session)?;
    let now = session.clock.now().unix_s();
    let done = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let ledger =
            Ledger::of(&settings.state.value, broker.identity(), &target.shown(), queue.as_str());
        let found = look_around(&*broker, &queue, ledger.returns()).await?;
        let Some(facts) = found else {
            return Err(super::no_such_queue("look", &queue, &*broker, &settings).await);
        };
        let is_stream = facts.queue_type == QueueType::Stream;
        if from.is_some() && !is_stream {
            return Err(CliError::usage(format!(
                "--from is for streams, and `{queue}` is a {} queue",
                facts.queue_type
            )));
        }
        let cost = cost(&facts, min_lives);
        let refusal = refusal(&queue, &cost, &facts);
        if dry_run {
            return Ok(Done::Planned(PeekPlanView::new(&queue, &facts, cost), refusal.is_some()));
        }
        if let Some(error) = refusal {
            return Err(error);
        }
        let options = PeekOptions {
            count,
            ready: (!is_stream).then_some(facts.ready),
            is_quorum: facts.queue_type == QueueType::Quorum,
            single_active_consumer: facts.single_active_consumer,
            wait: wait.0.max(Duration::from_millis(50)),
            offset: is_stream.then(|| from.map_or("first".into(), |Offset(offset)| offset)),
        };
        let look = peek(&*broker, &queue, options).await?;
        let _ = broker.close().await;
        let mut warnings = cost.warnings;
        if facts.queue_type == QueueType::Quorum
            && let Err(error) = ledger.note(look.returns, now)
        {
            warnings.push(format!("the next look will not know what this one cost: {error}"));
        }
        if !look.order_kept {
            warnings.push(
                "the queue has messages that came back to it before: the ones looked at may now be behind \
                 those"
                    .to_owned(),
            );
        }
        let bytes = written(format, framed, &look.deliveries, queue.as_str())
            .map_err(|error| CliError::stdout(&error))?;
        Ok(Done::Seen { bytes, number: look.deliveries.len(), ready: facts.ready, warnings })
    }))?;
    match done {
        Done::Planned(view, no) => {
            session.ui.report(&view)?;
            Ok(if no { ExitStatus::Negative } else { ExitStatus::Done })
        }
        Done::Seen { bytes, number, ready, warnings } => {
            session.ui.data(&bytes)?;
            for warning in warnings {
                session.ui.warning(warning);
            }
            let seen = counted(number, "message");
            session.ui.status(format!("{seen} looked at, {ready} in the queue; none was taken"));
            Ok(ExitStatus::Done)
        }
    }
}

/// The messages as they are printed.
pub(in crate::cli) fn written(
    format: crate::delivery::Format,
    framed: bool,
    deliveries: &[crate::broker::Delivery],
    queue: &str,
) -> std::io::Result<Vec<u8>> {
    let shared = crate::cli::consume::Gathered::default();
    let mut sink = Sink::new(format, Box::new(Stream(shared.clone())));
    for delivery in deliveries {
        sink.write(delivery, queue)?;
    }
    sink.finish()?;
    let bytes = shared.take();
    Ok(if framed { [json_frame(), bytes, b"}\n".to_vec()].concat() } else { bytes })
}
