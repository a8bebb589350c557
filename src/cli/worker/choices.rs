//! What can be chosen about work, and what it means for the run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::size::ByteSize;
use crate::base::suggest::nearest;
use crate::base::time::HumanDuration;
use crate::broker::{Broker, BrokerError, ErrorKind};
use crate::delivery::filter::{MessageKey, MessageTemplate};
use crate::delivery::pace::Pace;
use crate::delivery::worker::handler::process::{CommandSpec, Listener};
use crate::delivery::worker::{
    Address, DeadLetters, Journal, Order, Remember, ResultTo, WorkOptions,
};
use crate::project::Project;
use crate::resilience::circuit::CircuitSettings;
use crate::resilience::dedup::DedupSettings;
use crate::resilience::limiter::Priority;
use crate::resilience::reorder::{GapPolicy, ReorderSettings};
use crate::resilience::retry::{BudgetSettings, Treatment};
use crate::resilience::store::{LimitSettings, SequenceSettings};
use crate::topology::view::TopologyView;

use crate::cli::ending::LimitArgs;
use crate::cli::error::CliError;
use crate::cli::missing::{self, Missing};
use crate::cli::output::Format as OutputFormat;
use crate::cli::session::Session;
use crate::cli::settings::Settings;
use crate::cli::state;

/// How the command runs.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The command")]
pub(super) struct HandlerArgs {
    /// Run so many at once
    #[arg(short, long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Start it once; it reads messages and writes answers as lines of JSON
    #[arg(long)]
    ndjson: bool,
    /// With --ndjson: hand it so many messages before it has to answer
    #[arg(long, value_name = "N", default_value_t = 64, requires = "ndjson",
          value_parser = clap::value_parser!(u16).range(1..))]
    window: u16,
    /// Kill it, and all it has started, when it takes longer for one message
    #[arg(long, value_name = "DURATION", default_value = "10m")]
    attempt_timeout: HumanDuration,
    /// Give it so long to end after SIGTERM before SIGKILL
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    kill_after: HumanDuration,
    /// Hand it the message as a JSON record on this descriptor, also named by NEXUS_RECORD_FD
    #[arg(long, value_name = "N", conflicts_with = "ndjson",
          value_parser = clap::value_parser!(i32).range(3..=255))]
    record_fd: Option<i32>,
    /// Kill it when it gives back more for one message
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    max_output: ByteSize,
    /// When stopping, let running work finish for so long
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    grace: HumanDuration,
}

impl HandlerArgs {
    pub(super) fn lives_on(&self) -> bool {
        self.ndjson
    }

    pub(super) fn window(&self) -> usize {
        usize::from(self.window)
    }

    pub(super) fn grace(&self) -> Duration {
        self.grace.0
    }

    /// Messages in the command at once.
    pub(super) fn window_in_all(&self) -> usize {
        usize::from(self.jobs) * if self.ndjson { self.window() } else { 1 }
    }

    pub(super) fn spec(
        &self,
        command: &[OsString],
        queue: &QueueName,
        keep_output: bool,
        listener: Listener,
        session: &Session,
    ) -> CommandSpec {
        let (program, arguments) = match command.split_first() {
            Some((program, arguments)) => (program.clone(), arguments.to_vec()),
            None => (OsString::new(), Vec::new()),
        };
        CommandSpec {
            program,
            arguments,
            // Nothing to change in a process that is there.
            directory: (!session.is_process).then(|| session.cwd.clone()),
            jobs: usize::from(self.jobs),
            timeout: Some(self.attempt_timeout.0).filter(|limit| *limit > Duration::ZERO),
            kill_after: self.kill_after.0,
            keep_output,
            max_output: usize::try_from(self.max_output.0).unwrap_or(usize::MAX),
            record_fd: self.record_fd,
            queue: queue.as_str().to_owned(),
            listener,
        }
    }
}

/// Whether and when to try again.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Failures")]
pub(super) struct RetryArgs {
    /// Try each message so often at most
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// Wait up to so long before the second attempt, then twice as long each time
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    backoff: HumanDuration,
    /// Wait no longer than this between attempts
    #[arg(long, value_name = "DURATION", default_value = "1m")]
    max_backoff: HumanDuration,
    /// Begin no attempt later than this after the first
    #[arg(long, value_name = "DURATION")]
    max_elapsed: Option<HumanDuration>,
    /// Allow so many retries for a hundred messages, over all of them; the rest is dead-lettered
    #[arg(long, value_name = "PERCENT")]
    retry_budget: Option<u32>,
    /// Let messages wait in the delay queues of this queue (retry.QUEUE.DURATION), not here; later
    /// messages then overtake them
    #[arg(long)]
    delay: bool,
    /// Let messages wait in this queue for so long: QUEUE=DURATION; may be given several times
    #[arg(long = "delay-queue", value_name = "QUEUE=DURATION", value_parser = parse_delay_queue)]
    delay_queues: Vec<(QueueName, HumanDuration)>,
}

fn parse_delay_queue(text: &str) -> Result<(QueueName, HumanDuration), String> {
    let (queue, delay) = text.rsplit_once('=').ok_or("write it as QUEUE=DURATION")?;
    Ok((QueueName::new(queue).map_err(|error| error.to_string())?, delay.parse()?))
}

/// Where messages wait for their next attempt.
pub(super) struct Delays {
    named: Vec<(Duration, QueueName)>,
    find: bool,
}

impl Delays {
    /// None: they wait here.
    pub(super) fn none() -> Self {
        Delays { named: Vec::new(), find: false }
    }

    /// Looks for the delay queues, or for those that were named.
    pub(super) async fn find(
        &self,
        options: &mut WorkOptions,
        broker: &dyn Broker,
        queue: &QueueName,
    ) -> Result<(), CliError> {
        let mut found = self.named.clone();
        for (_, name) in &found {
            if broker.depth(name).await?.is_none() {
                let error = format!("there is no delay queue `{name}`");
                return Err(CliError::usage(error).hint(
                    "a queue with `retry: {delays: [10s, 1m]}` in the topology gets delay queues",
                ));
            }
        }
        if self.find {
            let prefix = format!("retry.{queue}.");
            for queue in broker.list_queues(false).await? {
                let name = queue.state.definition.name;
                let delay = name.as_str().strip_prefix(&prefix);
                if let Some(delay) = delay.and_then(|delay| delay.parse::<HumanDuration>().ok()) {
                    found.push((delay.0, name));
                }
            }
            if found.is_empty() {
                let error = format!("the queue `{queue}` has no delay queues `{prefix}DURATION`");
                return Err(CliError::usage(error).hint(
                    "`retry: {delays: [10s, 1m]}` at the queue in the topology makes them; without \
                     --delay messages wait in the worker",
                ));
            }
        }
        found.sort();
        options.delay_queues = found;
        Ok(())
    }
}

impl RetryArgs {
    pub(super) fn choose(&self, options: &mut WorkOptions) {
        let wait = Treatment::Retry { base: self.backoff.0, cap: self.max_backoff.0 };
        let retry = &mut options.retry;
        retry.max_attempts = self.attempts;
        (retry.retriable, retry.cancelled) = (wait, wait);
        retry.throttled = Treatment::Retry {
            base: self.backoff.0.saturating_mul(4),
            cap: self.max_backoff.0.saturating_mul(4),
        };
        match self.max_elapsed {
            Some(limit) => retry.max_elapsed = Some(limit.0),
            // The broker's patience matters only for who waits here.
            None if self.delay || !self.delay_queues.is_empty() => retry.max_elapsed = None,
            None => {}
        }
        options.budget = self
            .retry_budget
            .map(|percent| BudgetSettings { percent, ..BudgetSettings::default() });
    }

    pub(super) fn delays(&self) -> Result<Delays, CliError> {
        let named = self.delay_queues.iter().map(|(queue, delay)| (delay.0, queue.clone()));
        Ok(Delays { named: named.collect(), find: self.delay })
    }
}

/// Where messages go that failed for good.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Failures")]
pub(super) struct DeadLetterArgs {
    /// Send dead letters to this queue; without it to the dead-letter exchange of the queue
    #[arg(long, value_name = "QUEUE")]
    dead_letter_queue: Option<QueueName>,
    /// Reject messages that failed: the broker dead-letters them, without the reason
    #[arg(long, conflicts_with = "dead_letter_queue")]
    reject: bool,
    /// End at the first message that failed for good, and leave it in the queue
    #[arg(long, conflicts_with_all = ["dead_letter_queue", "reject"])]
    stop_on_failure: bool,
}

/// Why there is no place for dead letters.
pub(super) enum NoPlace {
    Queue,
    None,
    Error(BrokerError),
}

impl NoPlace {
    pub(super) async fn named(
        self,
        broker: &dyn Broker,
        queue: &QueueName,
        settings: &Settings,
    ) -> CliError {
        match self {
            NoPlace::Queue => {
                let attempted = format!("work on queue `{queue}`");
                let error =
                    BrokerError::new(ErrorKind::NotFound, attempted, "there is no such queue");
                let next = missing::look(Missing::Queue, queue.as_str(), broker, settings).await;
                CliError::from(error).hint(next)
            }
            NoPlace::None => CliError::usage(format!(
                "the queue `{queue}` has no dead-letter exchange: messages that fail for good would \
                 be lost"
            ))
            .hint(
                "name a queue with --dead-letter-queue, end at the first with --stop-on-failure, or \
                 write `deadLetter: true` at the queue in the topology",
            ),
            NoPlace::Error(error) if error.kind == ErrorKind::Unsupported => {
                CliError::from(error).hint(
                    "without the management API nobody can tell where the queue dead-letters: name \
                     it with --dead-letter-queue, or let the broker do it with --reject",
                )
            }
            NoPlace::Error(error) => error.into(),
        }
    }
}

impl DeadLetterArgs {
    pub(super) async fn find(
        &self,
        broker: &dyn Broker,
        queue: &QueueName,
    ) -> Result<DeadLetters, NoPlace> {
        if self.stop_on_failure {
            return Ok(DeadLetters::Stop);
        }
        if self.reject {
            return Ok(DeadLetters::Reject);
        }
        if let Some(to) = &self.dead_letter_queue {
            let key = Some(to.as_routing_key());
            return Ok(DeadLetters::To(Address {
                exchange: ExchangeName::default_exchange(),
                key,
            }));
        }
        let snapshot = broker.inspect().await.map_err(NoPlace::Error)?;
        let view = TopologyView::of_snapshot(&snapshot);
        let effective = &view.queues.get(queue.as_str()).ok_or(NoPlace::Queue)?.effective;
        let exchange = effective.dead_letter_exchange().ok_or(NoPlace::None)?;
        let key = effective.dead_letter_routing_key().map(RoutingKey::new);
        let invalid = |error: crate::base::id::NameError| {
            let attempted = format!("find the dead-letter exchange of queue `{queue}`");
            NoPlace::Error(BrokerError::new(ErrorKind::Invalid, attempted, error.to_string()))
        };
        Ok(DeadLetters::To(Address {
            exchange: ExchangeName::received(exchange.to_owned()),
            key: key.transpose().map_err(invalid)?,
        }))
    }
}

/// What becomes of results.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Results")]
pub(super) struct ResultArgs {
    /// Publish what the command writes, confirmed before its message is acked; the key may hold
    /// `${ CEL }` over the message
    #[arg(long, value_names = ["EXCHANGE", "KEY"], num_args = 2)]
    publish: Option<Vec<String>>,
    /// Append what the command writes to this file and sync it, before the message is acked
    #[arg(long, value_name = "FILE", conflicts_with = "publish")]
    out: Option<PathBuf>,
    /// Do not answer messages that have a reply address
    #[arg(long)]
    no_answer: bool,
}

impl ResultArgs {
    pub(super) fn choose(
        &self,
        options: &mut WorkOptions,
        session: &Session,
    ) -> Result<(), CliError> {
        options.answer = !self.no_answer;
        let is_text = matches!(session.ui.format, OutputFormat::Table | OutputFormat::Ndjson);
        options.result = match self.publish.as_deref() {
            Some([exchange, key]) => {
                let exchange = ExchangeName::new(exchange.clone())
                    .map_err(|error| CliError::usage(format!("--publish: {error}")))?;
                let key = MessageTemplate::parse(key)
                    .map_err(|error| CliError::usage(format!("--publish, the key: {error}")))?;
                ResultTo::Publish { exchange, key }
            }
            // A document on standard output has no room for results.
            _ if self.out.is_some() || is_text => ResultTo::Output,
            _ => ResultTo::Nowhere,
        };
        Ok(())
    }

    pub(super) fn out(&self) -> Option<PathBuf> {
        self.out.clone()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum OrderArg {
    /// Messages of one workflow one after the other, others side by side
    #[default]
    Workflow,
    /// Any message at any time
    None,
    /// One after the other
    Strict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum GapArg {
    /// Go on without what is missing
    #[default]
    Release,
    /// Dead-letter what comes after it
    Park,
    /// Wait
    Hold,
}

/// Which messages run one after the other.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Order")]
pub(super) struct OrderArgs {
    /// Which messages run one after the other
    #[arg(long, value_enum, default_value_t)]
    order: OrderArg,
    /// Messages for which this CEL expression has the same value run one after the other
    #[arg(long, value_name = "CEL", conflicts_with = "order")]
    order_by: Option<String>,
    /// Put the messages of each workflow into the order of their numbers (x-nexus-sequence)
    #[arg(long)]
    reorder: bool,
    /// Wait so long for a missing number
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "reorder")]
    gap_timeout: HumanDuration,
    /// What to do when it does not come
    #[arg(long, value_enum, default_value_t, requires = "reorder")]
    on_gap: GapArg,
    /// Hold so many messages that came too early; at least as many as are fetched
    #[arg(long, value_name = "N", requires = "reorder")]
    buffer: Option<u32>,
    /// After how long the broker takes an unacked message back
    #[arg(long, value_name = "DURATION", default_value = "30m", requires = "reorder")]
    consumer_timeout: HumanDuration,
    /// Note which numbers of each workflow were processed, for `nexusctl sequence show`
    #[arg(long)]
    track: bool,
    /// Fetch so many messages ahead
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: Option<u16>,
}

impl OrderArgs {
    /// How many messages to have here: enough that the command never waits for the broker, and some
    /// more to find work in other lanes.
    pub(super) fn prefetch(&self, window: usize, count: Option<u64>) -> u16 {
        let usual = u16::try_from(window.saturating_mul(4).clamp(16, 2000)).unwrap_or(2000);
        let count = count.map_or(u16::MAX, |count| u16::try_from(count).unwrap_or(u16::MAX));
        self.prefetch.unwrap_or(usual).min(count.max(1))
    }

    pub(super) fn choose(&self, options: &mut WorkOptions, window: usize) -> Result<(), CliError> {
        options.order = match (&self.order_by, self.order) {
            (Some(source), _) => Order::Key(
                MessageKey::parse(source)
                    .map_err(|error| CliError::usage(format!("--order-by: {error}")))?,
            ),
            (None, OrderArg::Workflow) => Order::Workflow,
            (None, OrderArg::None) => Order::None,
            (None, OrderArg::Strict) => Order::Strict,
        };
        if self.track {
            options.sharing.sequences = Some(SequenceSettings::default());
        }
        if self.reorder {
            if self.order == OrderArg::None && self.order_by.is_none() {
                return Err(CliError::usage("--reorder puts into order what --order none lets go"));
            }
            let prefetch = usize::from(self.prefetch(window, None));
            let defaults = ReorderSettings::default();
            let settings = ReorderSettings {
                policy: match self.on_gap {
                    GapArg::Release => GapPolicy::Release,
                    GapArg::Park => GapPolicy::Park,
                    GapArg::Hold => GapPolicy::Hold,
                },
                gap_timeout: self.gap_timeout.0,
                max_messages: match self.buffer {
                    Some(buffer) => buffer as usize,
                    None => defaults.max_messages.max(prefetch),
                },
                ..defaults
            };
            let consumer_timeout =
                Some(self.consumer_timeout.0).filter(|timeout| *timeout > Duration::ZERO);
            let feed = crate::resilience::reorder::Feed { prefetch, consumer_timeout };
            let found = settings.deadlocks(feed);
            if !found.is_empty() {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                return Err(CliError::usage(format!("--reorder: {}", found.join("; "))));
            }
            options.reorder = Some(settings);
            options.consumer_timeout = consumer_timeout;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DedupArg {
    /// With all workers of this host, in the state file
    Shared,
    /// In this worker, in memory
    Here,
}

/// What is looked at before a message begins.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Before it begins")]
pub(super) struct CheckArgs {
    /// Dead-letter what is no valid envelope
    #[arg(long)]
    check_envelope: bool,
    /// Handle each message once: one that was done is acked and not handled again
    #[arg(long, value_name = "WHERE", num_args = 0..=1, default_missing_value = "shared",
          require_equals = true, value_enum)]
    dedup: Option<DedupArg>,
    /// What tells a message, as CEL; without it the message id
    #[arg(long, value_name = "CEL", requires = "dedup")]
    dedup_key: Option<String>,
    /// Remember for so long what was done
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "dedup")]
    dedup_ttl: HumanDuration,
    /// Let go only what this circuit breaker lets out (see `nexusctl circuit`)
    #[arg(long, value_name = "NAME")]
    circuit: Option<String>,
    /// Keep this rate limit of the project (see `nexusctl limit`)
    #[arg(long, value_name = "NAME")]
    limit: Option<String>,
    /// How important the work is to the limit: critical, high, normal or low
    #[arg(long, value_name = "PRIORITY", default_value = "normal", requires = "limit")]
    priority: Priority,
    /// Begin so many messages a second at most
    #[arg(long, value_name = "PER-SECOND")]
    rate: Option<f64>,
}

impl CheckArgs {
    /// Nothing is looked at.
    pub(super) fn none() -> Self {
        CheckArgs {
            check_envelope: false,
            dedup: None,
            dedup_key: None,
            dedup_ttl: HumanDuration(Duration::ZERO),
            circuit: None,
            limit: None,
            priority: Priority::Normal,
            rate: None,
        }
    }

    pub(super) fn choose(
        &self,
        options: &mut WorkOptions,
        queue: &QueueName,
        settings: &Settings,
    ) -> Result<(), CliError> {
        options.check_envelope = self.check_envelope;
        let sharing = &mut options.sharing;
        sharing.scope = queue.as_str().to_owned();
        sharing.dedup = self.dedup.map(|place| {
            let place = match place {
                DedupArg::Shared => Remember::Shared,
                DedupArg::Here => Remember::Here,
            };
            (place, DedupSettings { ttl: self.dedup_ttl.0, ..DedupSettings::default() })
        });
        let key = self.dedup_key.as_deref().map(MessageKey::parse).transpose();
        options.dedup_key =
            key.map_err(|error| CliError::usage(format!("--dedup-key: {error}")))?;
        let project = settings.project.as_ref();
        if let Some(name) = &self.circuit {
            let circuits = project.map(Project::circuits).unwrap_or_default();
            let known: CircuitSettings = circuits.get(name).copied().unwrap_or_default();
            sharing.circuit = Some((name.clone(), known));
        }
        if let Some(name) = &self.limit {
            let limits = project.map(Project::limits).unwrap_or_default();
            sharing.limit = Some((name.clone(), known_limit(&limits, name)?, self.priority));
        }
        if let Some(rate) = self.rate {
            let pace = Pace::new(rate);
            options.pace = Some(pace.ok_or_else(|| {
                CliError::usage(format!("--rate {rate}: a rate is above 0, such as 50 or 0.5"))
            })?);
        }
        Ok(())
    }

    /// Opens the state file when something in it is needed.
    pub(super) async fn open(
        &self,
        options: &mut WorkOptions,
        settings: &Settings,
    ) -> Result<(), CliError> {
        let sharing = &mut options.sharing;
        let shared = matches!(sharing.dedup, Some((Remember::Shared, _)));
        if shared
            || sharing.circuit.is_some()
            || sharing.limit.is_some()
            || sharing.sequences.is_some()
        {
            sharing.state = Some(state::open(settings).await?);
        }
        Ok(())
    }
}

fn known_limit(
    limits: &BTreeMap<String, LimitSettings>,
    name: &str,
) -> Result<LimitSettings, CliError> {
    limits.get(name).copied().ok_or_else(|| {
        let error = CliError::usage(format!("nexus.yaml names no limit `{name}`"));
        match nearest(name, limits.keys().map(String::as_str)) {
            Some(meant) => error.hint(format!("did you mean `{meant}`?")),
            None => error.hint(
                "write `limits: {NAME: {capacity: 10, perSecond: 5}}` there, or use --rate for this \
                 worker alone",
            ),
        }
    })
}

/// When to end. Without any of these: on a signal.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When to end")]
pub(super) struct EndArgs {
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    /// End when the queue is empty
    #[arg(long)]
    until_empty: bool,
    /// Write what became of each message into this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Refuse other consumers of the queue
    #[arg(long)]
    exclusive: bool,
}

impl EndArgs {
    pub(super) fn choose(&self, options: &mut WorkOptions, settings: &Settings) {
        options.count = self.limits.count;
        options.idle = self.limits.idle();
        options.until_empty = self.until_empty;
        options.deadline = self.limits.deadline();
        options.exclusive = self.exclusive;
        options.patience = settings.timeout().min(options.patience);
    }

    pub(super) fn journal(&self, session: &Session) -> Result<Option<Journal>, CliError> {
        let Some(path) = &self.report else { return Ok(None) };
        let file = File::create(session.resolve(path))
            .map_err(|error| CliError::unwritable(path, &error))?;
        Ok(Some(Box::new(BufWriter::new(file))))
    }
}
