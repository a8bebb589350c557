//! `quickstart`: the main job once, from nothing to dead letters and back to nothing.
//!
//! A project is made, its topology planned and applied; messages are published, the bad ones among
//! them rejected, the others consumed, the dead letters looked at. Then a worker handles more of them
//! by a command that fails for some at first and for some always. What died is read once and grouped by
//! why; when the command is mended, it goes back to where it is worked on, and nothing is left over. At
//! the end everything is removed again. Each step carries the command that a person would type for it. On a shared broker all names begin
//! with the project's, and only objects of this run are removed.

mod letters;
mod work;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::diagnostic::Findings;
use crate::base::expression::Template;
use crate::base::id::{ExchangeName, NameError, QueueName, RoutingKey};
use crate::base::time::Clock;
use crate::broker::{Broker, BrokerError, LockHolder, PublisherOptions};
use crate::delivery::compose::Composer;
use crate::delivery::consume::{AckMode, ConsumeOptions, ConsumeReport, ConsumeVerdict, consume};
use crate::delivery::filter::Filter;
use crate::delivery::publish::{PublishOptions, PublishReport, PublishVerdict, publish};
use crate::delivery::sink::{Format, Sink, Stream};
use crate::delivery::source::{Body, Limits, RepeatSource, Source, TEMPLATE_VARIABLES};
use crate::delivery::stop::{Stop, Wish};
use crate::delivery::worker::handler::guard::Guard;
use crate::message::Properties;
use crate::topology::Topology;
use crate::topology::apply::{ApplyError, ApplyOptions, Silent, apply};
use crate::topology::destroy::destroy;
use crate::topology::migrate::Timing;
use crate::topology::plan::{Options as PlanOptions, Plan, plan};

use super::files::FileError;
use super::init::{HANDLER_FILE, InitError, NewFile, write_all};
use super::spec::{PROJECT_FILE, TOPOLOGY_FILE};
use super::topology::{NamedFile, load_topology};

pub use letters::Commands;
pub use work::{Death, Worked};

/// How many messages are published.
pub const MESSAGES: u64 = 1000;
/// One in so many is an order that nobody can work on.
const ONE_IN: u64 = 100;

/// What to do and with what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The project's name; all objects begin with it.
    pub name: String,
    /// Where the project is made.
    pub dir: PathBuf,
    /// The same as it stands in commands: as it was given, quoted where a shell needs it.
    pub dir_shown: String,
    /// What commands need to reach the same broker and project, such as `--project /tmp/x`.
    pub flags: String,
    /// Leave everything as it is at the end.
    pub keep: bool,
    /// How long the whole may take.
    pub deadline: Duration,
    /// Who runs it, for the lock.
    pub holder: LockHolder,
    /// This host, as dead letters name it.
    pub host: String,
    /// Our login at the broker.
    pub login: Option<String>,
    /// Ends the worker's commands when this process is killed.
    pub guard: Arc<Guard>,
    /// For ids and values.
    pub seed: u64,
}

/// One step that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub title: &'static str,
    /// The command that does it.
    pub command: String,
    /// What came of it.
    pub result: String,
}

/// Everything that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuickstartReport {
    /// The steps.
    pub steps: Vec<Step>,
    /// Messages confirmed.
    pub published: u64,
    /// Messages rejected, and so dead-lettered.
    pub rejected: u64,
    /// Messages consumed and acked.
    pub consumed: u64,
    /// Messages found among the dead letters then.
    pub dead_lettered: u64,
    /// What the worker made of more messages.
    pub worked: Worked,
    /// Dead letters that went back to where they are worked on.
    pub replayed: u64,
    /// Of these, those whose work the mended worker did.
    pub mended: u64,
    /// Whether everything was removed again.
    pub cleaned_up: bool,
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum QuickstartError {
    /// The project could not be made.
    #[error(transparent)]
    Init(#[from] InitError),
    /// The name does not fit into names of objects.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The project's own files are wrong: a defect of this program.
    #[error("the files of the quickstart are wrong")]
    Files(Findings),
    /// The topology was not applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The broker failed.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// A step did something else than it should.
    #[error("{step}: {why}")]
    Unexpected {
        /// Which step.
        step: &'static str,
        /// What came of it.
        why: String,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
}

/// Hears of each step when it is done.
pub type OnStep<'a> = dyn FnMut(&Step) + Send + 'a;

/// Runs all steps on `broker`. However it ends, what was made is removed again, unless it is to be
/// kept; the directory is the caller's.
///
/// # Errors
/// The first thing that went wrong.
pub async fn quickstart(
    broker: &dyn Broker,
    request: &Request,
    commands: &dyn Commands,
    clock: Arc<dyn Clock>,
    stop: &Stop,
    on_step: &mut OnStep<'_>,
) -> Result<QuickstartReport, QuickstartError> {
    let report = QuickstartReport::default();
    let mut run = Run { broker, request, commands, clock, stop, report, on_step };
    let topology = run.init()?;
    let result = run.all(&topology).await;
    if !request.keep {
        let cleaned = run.clean_up(&topology).await;
        result?;
        cleaned?;
    } else {
        result?;
    }
    Ok(run.report)
}

struct Run<'a, 'b> {
    broker: &'a dyn Broker,
    request: &'a Request,
    commands: &'a dyn Commands,
    clock: Arc<dyn Clock>,
    stop: &'a Stop,
    report: QuickstartReport,
    on_step: &'a mut OnStep<'b>,
}

impl Run<'_, '_> {
    fn done(&mut self, title: &'static str, command: impl AsRef<str>, result: String) {
        let flags = &self.request.flags;
        let space = if flags.is_empty() { "" } else { " " };
        // What comes after `--` belongs to another command.
        let (command, other) = match command.as_ref().split_once(" -- ") {
            Some((command, other)) => (command, format!(" -- {other}")),
            None => (command.as_ref(), String::new()),
        };
        let command = format!("nexusctl {command}{space}{flags}{other}");
        let step = Step { title, command, result };
        (self.on_step)(&step);
        self.report.steps.push(step);
    }

    fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.request.name)
    }

    fn init(&mut self) -> Result<Topology, QuickstartError> {
        let Request { name, dir, .. } = self.request;
        let named = |path, text: &str| NewFile::new(path, text.replace("NAME", name));
        let files = [
            named(PROJECT_FILE, include_str!("../templates/nexus.yaml")),
            named(TOPOLOGY_FILE, include_str!("../templates/quickstart.yaml")),
            NewFile::new(work::ORDERS_FILE, work::orders(name)),
            NewFile::new(HANDLER_FILE, include_str!("../templates/pack.sh").to_owned())
                .executable(),
        ];
        write_all(dir, &files)?;
        let file = NamedFile { path: dir.join(TOPOLOGY_FILE), name: TOPOLOGY_FILE.to_owned() };
        let topology = load_topology(&[file], &Default::default(), Some(name)).map_err(
            |error| match error {
                FileError::Wrong(findings) => QuickstartError::Files(findings),
                FileError::Unreadable { name, error } => {
                    QuickstartError::Init(InitError::Unwritable { path: name.into(), error })
                }
            },
        )?;
        let queues = topology.queues.len();
        let result = format!(
            "{TOPOLOGY_FILE} declares {} exchanges, {queues} queues, {} bindings",
            topology.exchanges.len(),
            topology.bindings.len()
        );
        self.done("make a project", "topology validate", result);
        Ok(topology)
    }

    async fn all(&mut self, topology: &Topology) -> Result<(), QuickstartError> {
        self.apply(topology).await?;
        self.go_on()?;
        self.publish().await?;
        self.go_on()?;
        self.reject().await?;
        self.go_on()?;
        self.consume().await?;
        self.go_on()?;
        self.publish_more().await?;
        self.go_on()?;
        self.work().await?;
        self.go_on()?;
        self.ask_why().await?;
        self.go_on()?;
        self.dead_letter_commands().await?;
        self.go_on()?;
        self.work_again().await?;
        self.count().await
    }

    fn go_on(&self) -> Result<(), QuickstartError> {
        if self.stop.wish() == Wish::Run { Ok(()) } else { Err(QuickstartError::Stopped) }
    }

    async fn run_plan(&self, plan: &Plan) -> Result<(), QuickstartError> {
        let options = ApplyOptions {
            holder: self.request.holder.clone(),
            lock_timeout: self.request.deadline,
            continue_on_error: false,
            skip_blocked: true,
            journal: None,
            timing: Timing::default(),
        };
        let report =
            apply(self.broker, plan, None, &options, self.clock.as_ref(), &mut Silent).await?;
        if let Some(step) = report.failed().next() {
            let why = step.error.clone().unwrap_or_else(|| format!("{:?}", step.outcome));
            return Err(QuickstartError::Unexpected {
                step: "apply",
                why: format!("{}: {why}", step.what),
            });
        }
        Ok(())
    }

    async fn apply(&mut self, topology: &Topology) -> Result<(), QuickstartError> {
        let made = plan(topology, &self.broker.inspect().await?, &PlanOptions::default());
        if let Some((object, blocker)) = made.blocked().next() {
            let object = object.map(|object| format!("{object}: ")).unwrap_or_default();
            let why = format!("{object}{}", blocker.why);
            return Err(QuickstartError::Unexpected { step: "plan", why });
        }
        let result = format!("{} objects to create", made.changes.len());
        self.done("see what would change", "topology plan", result);
        self.run_plan(&made).await?;
        let result = format!("{} objects created", made.changes.len());
        self.done("apply the topology", "topology apply", result);
        Ok(())
    }

    async fn publish(&mut self) -> Result<(), QuickstartError> {
        let (exchange, key) = (self.name("shop"), "order.created");
        let body = format!(
            "{{\"order\": ${{ seq }}, \"state\": \"${{ seq % {ONE_IN} == 7 ? \"broken\" : \"fine\" }}\"}}"
        );
        let template = Template::parse_with(&body, &TEMPLATE_VARIABLES).map_err(|error| {
            QuickstartError::Unexpected { step: "publish", why: error.to_string() }
        })?;
        let mut random = fastrand::Rng::with_seed(self.request.seed);
        let properties = Properties {
            content_type: Some("application/json".to_owned()),
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let composer = Composer::new(properties, Arc::clone(&self.clock), random.fork());
        let source = RepeatSource::new(
            ExchangeName::new(&exchange)?,
            RoutingKey::new(key)?,
            Body::Template(template),
            MESSAGES,
            composer,
            Arc::clone(&self.clock),
            random,
            Limits::default(),
        );
        let report = self.send(Box::new(source), MESSAGES).await?;
        self.report.published = report.confirmed;
        let command = format!(
            "publish {exchange} {key} '{body}' --template --count {MESSAGES} \
             --content-type application/json"
        );
        let result = format!("{} messages confirmed in {} ms", report.confirmed, report.elapsed_ms);
        self.done("publish a thousand orders", command, result);
        Ok(())
    }

    /// Publishes all `expected` messages of `source`.
    async fn send(
        &self,
        source: Box<dyn Source>,
        expected: u64,
    ) -> Result<PublishReport, QuickstartError> {
        let publisher = self.broker.publisher(PublisherOptions::default()).await?;
        let options = PublishOptions::default();
        let report = publish(publisher, source, options, self.stop, &mut |_| {}).await;
        if report.verdict() == PublishVerdict::Accepted && report.confirmed == expected {
            return Ok(report);
        }
        Err(match report.broker_error {
            Some(error) => error.into(),
            None => QuickstartError::Unexpected {
                step: "publish",
                why: format!("{} of {expected} confirmed", report.confirmed),
            },
        })
    }

    /// Consumes until the queue is empty and gives back what was written.
    async fn take(
        &mut self,
        step: &'static str,
        queue: &str,
        options: ConsumeOptions,
        format: Format,
    ) -> Result<(ConsumeReport, String), QuickstartError> {
        let options = ConsumeOptions { deadline: Some(self.request.deadline), ..options };
        let kept = Kept::default();
        let sink = Sink::new(format, Box::new(Stream(kept.clone())));
        let queue = QueueName::new(queue)?;
        let mut report =
            consume(self.broker, &queue, options, sink, self.stop, &mut |_| {}).await?;
        if report.verdict() == ConsumeVerdict::Failed {
            return Err(match report.broker_error.take() {
                Some(error) => error.into(),
                None => QuickstartError::Unexpected {
                    step,
                    why: report.error.take().unwrap_or_else(|| format!("{:?}", report.ended)),
                },
            });
        }
        let bytes = kept.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok((report, String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn reject(&mut self) -> Result<(), QuickstartError> {
        let queue = self.name("orders");
        let filter = "body.state == \"broken\"";
        let options = ConsumeOptions {
            until_empty: true,
            filter: Some(Filter::parse(filter).map_err(|error| QuickstartError::Unexpected {
                step: "reject",
                why: error.to_string(),
            })?),
            ack: AckMode::Reject,
            ..ConsumeOptions::default()
        };
        let (report, _) = self.take("reject", &queue, options, raw()).await?;
        self.report.rejected = report.rejected;
        let dead = QueueName::new(self.name("rejected"))?;
        self.report.dead_lettered = self.dead_letters(&dead, report.rejected).await?;
        let command =
            format!("consume {queue} --until-empty --filter '{filter}' --ack reject --raw");
        let result = format!(
            "{} broken orders rejected, {} others left in the queue",
            report.rejected, report.held
        );
        self.done("reject the broken ones", command, result);
        Ok(())
    }

    async fn consume(&mut self) -> Result<(), QuickstartError> {
        let queue = self.name("orders");
        let expected = self.report.published - self.report.rejected;
        let options = ConsumeOptions { until_empty: true, ..ConsumeOptions::default() };
        let (report, _) = self.take("consume", &queue, options, raw()).await?;
        self.report.consumed = report.acked;
        if report.acked != expected {
            return Err(QuickstartError::Unexpected {
                step: "consume",
                why: format!("{} messages came and {expected} were published", report.acked),
            });
        }
        let command = format!("consume {queue} --until-empty --expect {expected} --raw");
        let result = format!("{} orders consumed, each acked after it was written", report.acked);
        self.done("consume the others", command, result);
        Ok(())
    }

    /// How many dead letters there are, once all that are `expected` have arrived: a broker moves what
    /// was rejected, and puts back what was looked at, after it has answered.
    async fn dead_letters(&self, queue: &QueueName, expected: u64) -> Result<u64, QuickstartError> {
        let end = tokio::time::Instant::now() + self.request.deadline;
        loop {
            let depth = self.broker.depth(queue).await?.map_or(0, |depth| depth.ready);
            if depth == expected {
                return Ok(depth);
            }
            if tokio::time::Instant::now() >= end {
                return Err(QuickstartError::Unexpected {
                    step: "look at dead letters",
                    why: format!("{depth} dead letters are there, and not {expected}"),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn clean_up(&mut self, topology: &Topology) -> Result<(), QuickstartError> {
        let options =
            PlanOptions { lose_messages: true, while_consumed: true, ..PlanOptions::default() };
        let made = destroy(topology, &self.broker.inspect().await?, &options);
        self.run_plan(&made).await?;
        self.report.cleaned_up = true;
        self.done(
            "remove everything again",
            "topology destroy --lose-messages --yes",
            format!("{} objects removed", made.changes.len()),
        );
        Ok(())
    }
}

/// Bodies, each on a line of its own.
fn raw() -> Format {
    Format::Raw(b"\n".to_vec())
}

/// Keeps what is written, to be shown.
#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
