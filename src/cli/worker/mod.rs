//! `nexusctl worker` and `nexusctl respond`: a queue, a command, and what becomes of each message.

mod choices;
mod respond;
mod view;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

use clap::Args;

use crate::base::id::QueueName;
use crate::delivery::stop::Wish;
use crate::delivery::worker::handler::Handler;
use crate::delivery::worker::handler::guard::{self, Guard};
use crate::delivery::worker::handler::lines::Lines;
use crate::delivery::worker::handler::process::{Listener, Processes};
use crate::delivery::worker::{
    ResultTo, Signer, WorkOptions, WorkReport, WorkVerdict, Worker, work,
};

use super::connect::Connector;
use super::consent::{self, Deed};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing;
use super::output::Format as OutputFormat;
use super::progress::Progress;
use super::runtime::unless_stopped;
use super::session::Session;

use choices::{CheckArgs, DeadLetterArgs, EndArgs, HandlerArgs, OrderArgs, ResultArgs, RetryArgs};

pub use respond::RespondArgs;
pub(super) use respond::run as respond;
pub use view::{WorkPlanView, WorkView};

/// Called with this as its only argument, the program guards the commands of a worker.
pub const GUARD: &str = "__guard-handlers";

/// Guards the commands of the worker at the other end of `input`; standard output is the memory in which
/// it notes them.
pub fn guard_handlers(mut input: impl Read) {
    guard::run(&mut input, std::io::stdout().as_fd());
}

/// Arguments of `worker`.
#[derive(Debug, Args)]
#[command(
    override_usage = "nexusctl worker [OPTIONS] <QUEUE> -- <COMMAND>...",
    after_help = "The command gets the body on standard input and the rest in NEXUS_* variables \
    (NEXUS_MESSAGE_ID, NEXUS_ROUTING_KEY, NEXUS_HEADER_…). Its status decides: 0 is done and acked; 65 \
    is poison and, like 64, 70, 77, 78, 126 and 127, dead-lettered at once; any other is tried again, \
    then dead-lettered (`nexusctl explain retry` has the table). A dead letter carries the status, the \
    last lines of standard error, the number of attempts and the host as headers.\n\nWith --ndjson the \
    command lives on: each message is a line {\"id\":1,…record…}, each answer a line {\"id\":1}, \
    {\"id\":1,\"status\":65,\"error\":\"why\"} or {\"id\":1,\"record\":{\"body\":…}} with a \
    result.\n\nExamples:\n  \
    nexusctl worker agent.worker --idle 1s --jobs 4 -- ./handle.sh\n  \
    nexusctl worker agent.worker --until-empty -- wc -c\n  \
    nexusctl worker agent.worker --count 12 --ndjson --publish nexus.events ready -- ./agent.sh\n  \
    nexusctl worker agent.worker --until-empty --attempts 8 --backoff 1s --dedup -- ./handle.sh\n  \
    nexusctl worker agent.worker --report fates.ndjson --dry-run -- ./handle.sh"
)]
pub struct WorkerArgs {
    /// The queue
    queue: QueueName,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    handler: HandlerArgs,
    #[command(flatten)]
    retry: RetryArgs,
    #[command(flatten)]
    dead_letters: DeadLetterArgs,
    #[command(flatten)]
    results: ResultArgs,
    #[command(flatten)]
    order: OrderArgs,
    #[command(flatten)]
    checks: CheckArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Show what would be done and what is missing, and take no message
    #[arg(long)]
    dry_run: bool,
}

/// Works.
pub(super) fn run(args: WorkerArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let WorkerArgs {
        queue,
        command,
        handler,
        retry,
        dead_letters,
        results,
        order,
        checks,
        end,
        dry_run,
    } = args;
    let settings = session.settings()?;
    let mut options = WorkOptions { grace: handler.grace(), ..WorkOptions::default() };
    retry.choose(&mut options);
    order.choose(&mut options, handler.window_in_all())?;
    checks.choose(&mut options, &queue, &settings)?;
    results.choose(&mut options, session)?;
    end.choose(&mut options, &settings);
    options.prefetch = order.prefetch(handler.window_in_all(), end.limits.count);
    let keep = !matches!(options.result, ResultTo::Nowhere) || options.answer;
    let spec = handler.spec(&command, &queue, keep, listener(session), session);
    let job = Job { queue, options, end, checks, keep_results: results.out(), dry_run };
    let steps =
        Steps { dead_letters: Some(dead_letters), delay: retry.delays()?, shown: spec.shown() };
    job.run(&steps, session, |session| {
        let guard = Arc::new(start_guard(session)?);
        Ok(match handler.lives_on() {
            true => Box::new(Lines::new(spec, handler.window(), guard)),
            false => Box::new(Processes::new(spec, guard)),
        })
    })
}

/// What has to be found out from the broker before work begins.
struct Steps {
    /// `None` when nothing is dead-lettered.
    dead_letters: Option<DeadLetterArgs>,
    delay: choices::Delays,
    /// What handles the messages.
    shown: String,
}

/// One run, as far as it does not depend on who handles the messages.
struct Job {
    queue: QueueName,
    options: WorkOptions,
    end: EndArgs,
    checks: CheckArgs,
    keep_results: Option<std::path::PathBuf>,
    dry_run: bool,
}

impl Job {
    fn run(
        self,
        steps: &Steps,
        session: &mut Session,
        handler: impl FnOnce(&mut Session) -> Result<Box<dyn Handler>, CliError>,
    ) -> Result<ExitStatus, CliError> {
        let Job { queue, mut options, end, checks, keep_results, dry_run } = self;
        let settings = session.settings()?;
        let target = Connector::of(session)?;
        let signer = Signer {
            queue: queue.clone(),
            host: host_of(&session.who),
            login: target.login().map(str::to_owned),
        };
        let random = fastrand::Rng::with_seed(session.seed);
        let mut worker = Worker::new(signer, Arc::clone(&session.clock), random);
        if !dry_run {
            let what = format!("work on the messages of the queue `{queue}`");
            consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
            // Made first: a report that cannot be written is no reason to have begun.
            worker.journal = end.journal(session)?;
            if matches!(options.result, ResultTo::Output) {
                let target = super::consume::target(keep_results.as_deref(), session)?;
                worker.output = Some(target);
            }
        }
        let prepared = session.drive(unless_stopped(&session.stop, async {
            let broker = target.connect().await?;
            steps.delay.find(&mut options, broker.as_ref(), &queue).await?;
            if let Some(dead_letters) = &steps.dead_letters {
                let found = dead_letters.find(broker.as_ref(), &queue).await;
                options.dead_letters = match found {
                    Ok(found) => found,
                    Err(error) => {
                        return Err(error.named(broker.as_ref(), &queue, &settings).await);
                    }
                };
            }
            if !dry_run {
                checks.open(&mut options, &settings).await?;
            }
            let depth = broker.depth(&queue).await?;
            let _ = broker.close().await;
            Ok(depth)
        }))?;
        if dry_run {
            let plan = WorkPlanView::new(&queue, &steps.shown, &options, prepared);
            session.ui.report(&plan)?;
            return Ok(ExitStatus::Done);
        }
        let mut handler = handler(session)?;
        // A bar on top of results on the same terminal would hide both.
        let hushed = worker.output.is_some() && session.ui.stdout_is_terminal();
        let bar = match hushed {
            true => Progress::none(),
            false => Progress::new(&session.ui, options.count, "messages"),
        };
        let (stop, listen) = (session.stop.clone(), session.is_process);
        let result = super::runtime::drive(&stop, listen, async {
            let broker = target.connect().await?;
            let mut progress = |report: &WorkReport, running: usize| {
                bar.at(report.finished());
                bar.message(format!("{running} running, {} failed", report.failures));
            };
            let report = work(
                broker.as_ref(),
                &queue,
                options,
                worker,
                handler.as_mut(),
                stop.job(),
                &mut progress,
            )
            .await;
            let report = match report {
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
        let report = result?;
        let view = WorkView::new(&queue, &report);
        if matches!(session.ui.format, OutputFormat::Table | OutputFormat::Ndjson) {
            session.ui.status(view.words());
        } else {
            session.ui.report(&view)?;
        }
        status_of(&report, session)
    }
}

/// The name of this host alone.
pub(super) fn host_of(who: &str) -> String {
    let host = who.split_once('@').map_or(who, |(_, host)| host);
    host.split(',').next().unwrap_or(host).to_owned()
}

/// Passes on what commands write to standard error.
fn listener(session: &Session) -> Listener {
    let hears = session.is_process && !session.global.quiet;
    Arc::new(move |bytes| {
        if hears {
            // Nobody can be told when this fails.
            let _ = std::io::stderr().lock().write_all(bytes);
        }
    })
}

/// Commands end with this process, however it ends. A run within another program has no guard.
pub(super) fn start_guard(session: &Session) -> Result<Guard, CliError> {
    if !session.is_process {
        return Ok(Guard::none());
    }
    let program = std::env::current_exe();
    program
        .and_then(|program| Guard::start(&program, &[GUARD]))
        .map_err(|error| CliError::file("start the guard of the commands", &error))
}

fn status_of(report: &WorkReport, session: &mut Session) -> Result<ExitStatus, CliError> {
    Ok(match report.verdict() {
        WorkVerdict::Done => ExitStatus::Done,
        WorkVerdict::Partly => ExitStatus::Partly,
        WorkVerdict::Stopped => session.stop.status(),
        WorkVerdict::Failed if report.pipe_closed => ExitStatus::Done,
        WorkVerdict::Failed if session.stop.job().wish() == Wish::Now => session.stop.status(),
        WorkVerdict::Failed => match &report.broker_error {
            Some(error) => return Err(error.clone().into()),
            None => {
                let why = report.error.clone().unwrap_or_else(|| "the work failed".to_owned());
                let hint = report.hint.clone();
                return Err(CliError::new(code::WORKER, ExitStatus::Failed, why).hint(
                    hint.unwrap_or_else(|| "what was not done is still in the queue".to_owned()),
                ));
            }
        },
    })
}
