//! The commands that read a broker, and those that change it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::base::diagnostic::Diagnostic;
use crate::base::time::HumanDuration;
use crate::broker::{Broker, BrokerIdentity, LockHolder, Snapshot};
use crate::topology::apply::{
    self, ApplyError, ApplyOptions, ApplyReport, Event, Observer, StepOutcome,
};
use crate::topology::destroy::destroy as plan_destroy;
use crate::topology::diff::diff as compare;
use crate::topology::export::export as topology_of;
use crate::topology::fingerprint::Fingerprint;
use crate::topology::lint::validate;
use crate::topology::migrate::Timing;
use crate::topology::object::ObjectKind;
use crate::topology::plan::{Options, Plan, plan as make_plan};
use crate::topology::{Topology, saved_plan};

use crate::cli::connect::Connector;
use crate::cli::consent::{self, Deed};
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::count;
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::files::{self, FileArgs, SetArgs};
use super::offline::print;
use super::plan_view::{ApplyView, DiffView, PlanView};

/// What a plan may do.
#[derive(Debug, Args)]
struct AllowArgs {
    /// Remove what is no longer declared, of these kinds: exchanges, queues, bindings, policies,
    /// operator-policies
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    prune: Vec<ObjectKind>,
    /// Refuse the whole plan, its additions too, when it removes more objects than this: that many
    /// removals most often come of a wrong file. With --skip-blocked everything but the removals is run
    #[arg(long, value_name = "N", default_value_t = 10)]
    max_deletes: usize,
    /// Replace queues together with their messages
    #[arg(long)]
    migrate: bool,
    /// Replace and remove queues although consumers are attached
    #[arg(long)]
    while_consumed: bool,
    /// Remove queues with the messages in them
    #[arg(long)]
    lose_messages: bool,
    /// Change a queue's limits by a policy where its arguments cannot be changed
    #[arg(long)]
    policy_instead: bool,
    /// Record this owner for declared objects that exist already and are nobody's
    #[arg(long)]
    adopt: bool,
}

impl From<AllowArgs> for Options {
    fn from(args: AllowArgs) -> Self {
        let AllowArgs {
            prune,
            max_deletes,
            migrate,
            while_consumed,
            lose_messages,
            policy_instead,
            adopt,
        } = args;
        Options {
            prune: prune.into_iter().collect::<BTreeSet<_>>(),
            max_deletes,
            migrate,
            while_consumed,
            lose_messages,
            policy_instead,
            adopt,
        }
    }
}

/// How a plan is run.
#[derive(Debug, Args)]
struct RunArgs {
    /// Wait this long for somebody else's lock
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    lock_timeout: HumanDuration,
    /// Go on with the other steps after one has failed
    #[arg(long)]
    continue_on_error: bool,
    /// Write the run down in this file, so that it can be resumed; beside the state file when left out
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Show the plan and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `topology plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "Only reads. Status 0, or with --exit-code 2 when something would change.\n\n\
    Examples:\n  nexusctl topology plan\n  \
    nexusctl topology plan topology.yaml --prune queues,bindings --exit-code\n  \
    nexusctl topology plan --out plan.json"
)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    allow: AllowArgs,
    /// End with status 2 when something would change
    #[arg(long)]
    exit_code: bool,
    /// Save the plan, so that `apply` runs exactly this
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn plan(args: PlanArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PlanArgs { files, allow, exit_code, out } = args;
    let topology = files::load(files, session)?;
    let options = Options::from(allow);
    let target = Connector::of(session)?;
    let snapshot = read(&target, session)?;
    lint(&topology, &snapshot)?;
    let plan = make_plan(&topology, &snapshot, &options);
    session.ui.report(&PlanView::from(&plan))?;
    if let Some(out) = out {
        let text = saved_plan::save(&plan, env!("CARGO_PKG_VERSION"))
            .map_err(|error| CliError::failed(error.to_string()))?;
        let path = session.resolve(&out);
        std::fs::write(&path, text).map_err(|error| CliError::unwritable(&out, &error))?;
        session.ui.status(format!("saved; `nexusctl topology apply {}` runs it", out.display()));
    }
    Ok(if !plan.refusals.is_empty() {
        ExitStatus::Blocked
    } else if exit_code && !plan.is_empty() {
        ExitStatus::Negative
    } else {
        ExitStatus::Done
    })
}

/// Arguments of `topology apply`.
#[derive(Debug, Args)]
#[command(after_help = "Asks before anything is lost. A run that was killed goes on when it is \
    started again.\n\nExamples:\n  nexusctl topology apply\n  \
    nexusctl topology apply topology.yaml --dry-run\n  \
    nexusctl topology apply --prune queues --yes")]
pub(super) struct ApplyArgs {
    /// Topology files, or one saved plan; the project's topology when left out
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    set: SetArgs,
    #[command(flatten)]
    allow: AllowArgs,
    #[command(flatten)]
    run: RunArgs,
    /// Run what is not blocked of a plan of which something is; without it such a plan changes nothing
    #[arg(long)]
    skip_blocked: bool,
}

/// What is applied: files, planned now; or a plan that was made before.
enum Wanted {
    Topology(Box<Topology>, Options),
    Saved(Box<Plan>),
}

pub(super) fn apply(args: ApplyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ApplyArgs { files, set, allow, run, skip_blocked } = args;
    let wanted = match saved(&files, session)? {
        Some(plan) => Wanted::Saved(Box::new(plan)),
        None => {
            Wanted::Topology(Box::new(files::load(FileArgs { files, set }, session)?), allow.into())
        }
    };
    execute(&wanted, Task::Apply, run, skip_blocked, session)
}

/// The plan, when the only file given is one.
fn saved(files: &[PathBuf], session: &Session) -> Result<Option<Plan>, CliError> {
    let [file] = files else { return Ok(None) };
    if file.extension().is_none_or(|extension| extension != "json") {
        return Ok(None);
    }
    let shown = file.display();
    let text = std::fs::read_to_string(session.resolve(file))
        .map_err(|error| CliError::file(format!("read {shown}"), &error))?;
    let is_plan = serde_json::from_str::<serde_json::Value>(&text)
        .is_ok_and(|value| value.get("kind").and_then(|kind| kind.as_str()) == Some("Plan"));
    if !is_plan {
        return Ok(None);
    }
    saved_plan::load(&text).map(Some).map_err(|error| {
        CliError::input(format!("cannot use {shown}: {error}"))
            .object(shown.to_string())
            .hint("make it again with `nexusctl topology plan --out FILE`")
    })
}

/// Arguments of `topology destroy`.
#[derive(Debug, Args)]
#[command(after_help = "Removes only what this owner made. Queues with messages stay, unless \
    --lose-messages.\n\nExamples:\n  nexusctl topology destroy --dry-run\n  \
    nexusctl topology destroy --yes")]
pub(super) struct DestroyArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Remove queues with the messages in them
    #[arg(long)]
    lose_messages: bool,
    /// Remove queues although consumers are attached
    #[arg(long)]
    while_consumed: bool,
    /// Remove what is not blocked when something is
    #[arg(long)]
    skip_blocked: bool,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn destroy(args: DestroyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DestroyArgs { files, lose_messages, while_consumed, skip_blocked, run } = args;
    let topology = files::load(files, session)?;
    let options = Options { lose_messages, while_consumed, ..Options::default() };
    let wanted = Wanted::Topology(Box::new(topology), options);
    execute(&wanted, Task::Destroy, run, skip_blocked, session)
}

/// Which plan is made of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Apply,
    Destroy,
}

impl Task {
    fn what(self) -> &'static str {
        match self {
            Task::Apply => "apply the topology",
            Task::Destroy => "destroy the topology",
        }
    }

    fn plan(
        self,
        topology: &Topology,
        snapshot: &Snapshot,
        options: &Options,
    ) -> Result<Plan, CliError> {
        match self {
            Task::Apply => {
                lint(topology, snapshot)?;
                Ok(make_plan(topology, snapshot, options))
            }
            Task::Destroy => Ok(plan_destroy(topology, snapshot, options)),
        }
    }
}

/// Plans, asks, runs, reports.
fn execute(
    wanted: &Wanted,
    task: Task,
    run: RunArgs,
    skip_blocked: bool,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let RunArgs { lock_timeout, continue_on_error, journal, dry_run } = run;
    let what = task.what();
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let stop = session.stop.clone();
    let listen = session.is_process;
    let clock = Arc::clone(&session.clock);
    let holder = LockHolder {
        who: format!("{}, `nexusctl {what}`", session.who),
        since: session.clock.now(),
    };
    super::super::runtime::drive(&stop, listen, async {
        let broker = target.connect().await?;
        let plan = match wanted {
            Wanted::Saved(plan) => plan.as_ref().clone(),
            Wanted::Topology(topology, options) => {
                let look = async { Ok(broker.inspect().await?) };
                task.plan(topology, &unless_stopped(&stop, look).await?, options)?
            }
        };
        let view = PlanView::from(&plan);
        if dry_run {
            session.ui.report(&view)?;
            return Ok(if plan.blocked().next().is_some() {
                ExitStatus::Blocked
            } else {
                ExitStatus::Done
            });
        }
        if plan.blocked().next().is_none() || skip_blocked {
            let mut deed = deed(what, &plan, &view);
            if task == Task::Destroy && deed.losses.is_empty() && !plan.is_empty() {
                // Removing is a loss by itself: consumers, publishers and bindings of others.
                deed.losses = plan.changes.iter().map(|change| change.object.to_string()).collect();
            }
            consent::ask(session, &settings, &deed)?;
        }
        let journal = match journal {
            Some(path) => session.resolve(&path),
            None => default_journal(&settings.state.value, broker.identity(), &plan.owner),
        };
        let options = ApplyOptions {
            holder,
            lock_timeout: lock_timeout.0,
            continue_on_error,
            skip_blocked,
            journal: Some(journal),
            timing: Timing::default(),
        };
        let desired = match wanted {
            // What is left after a removal is not what the files say.
            Wanted::Topology(topology, options) if task == Task::Apply => {
                Some((topology.as_ref(), options))
            }
            _ => None,
        };
        let bar = Progress::new(&session.ui, Some(plan.steps.len() as u64), "steps");
        let mut teller = Teller { session, bar, done: 0 };
        let result =
            apply::apply(broker.as_ref(), &plan, desired, &options, clock.as_ref(), &mut teller)
                .await;
        teller.bar.clear();
        let report = match result {
            Ok(report) => report,
            Err(error @ ApplyError::Blocked(_)) => {
                session.ui.report(&view)?;
                return Err(error.into());
            }
            Err(error @ ApplyError::Stopped) => {
                return Err(CliError::from(error).with_status(stop.status()));
            }
            Err(error) => return Err(error.into()),
        };
        broker.close().await?;
        session.ui.report(&ApplyView::from(&report))?;
        let left_out = report.steps.iter().any(|step| step.outcome == StepOutcome::Skipped);
        Ok(if left_out && session.stop.signal().is_some() {
            session.stop.status()
        } else {
            status_of(&report)
        })
    })
}

/// Refuses what this broker's version would refuse, or what loses messages.
fn lint(topology: &Topology, snapshot: &Snapshot) -> Result<(), CliError> {
    let mut findings = validate(topology, snapshot.identity.version);
    if !findings.has_errors() {
        return Ok(());
    }
    findings.0.retain(Diagnostic::is_error);
    Err(CliError::findings("the topology cannot be used on this broker", findings)
        .hint("`nexusctl topology validate --live` also shows warnings"))
}

fn deed(what: &str, plan: &Plan, view: &PlanView) -> Deed {
    let losses = plan.losses().map(|(object, loss)| format!("{object}: {}", loss.text)).collect();
    let what = if plan.is_empty() {
        what.to_owned()
    } else {
        format!("{what} ({})", view.summary_words())
    };
    Deed { what, losses }
}

fn default_journal(state: &std::path::Path, broker: &BrokerIdentity, owner: &str) -> PathBuf {
    let id = serde_json::json!([broker.cluster_name, broker.vhost.as_str(), owner]);
    state.with_file_name(format!("apply-{}.ndjson", Fingerprint::of(&id).short()))
}

fn status_of(report: &ApplyReport) -> ExitStatus {
    if report.is_complete() {
        ExitStatus::Done
    } else if report.changes() > report.failed().count() {
        ExitStatus::Partly
    } else if report.failed().next().is_some() {
        ExitStatus::Failed
    } else {
        ExitStatus::Partly
    }
}

/// Says on stderr what happens while it happens.
struct Teller<'a> {
    session: &'a mut Session,
    bar: Progress,
    done: u64,
}

impl Observer for Teller<'_> {
    fn wants_stop(&self) -> bool {
        self.session.stop.signal().is_some()
    }

    fn event(&mut self, event: &Event<'_>) {
        let ui = &mut self.session.ui;
        match event {
            Event::Waiting(Some(holder)) => {
                ui.status(format!("waiting for {}, since {}", holder.who, holder.since));
            }
            Event::Waiting(None) => ui.status("waiting for somebody else to finish"),
            Event::Resuming { done, of } => {
                ui.status(format!(
                    "going on with an interrupted run: {done} of {of} steps are done"
                ));
            }
            Event::Started(step) => {
                tracing::debug!(step = %step.id, object = %step.object, "start");
            }
            Event::Moved(step, moved) => tracing::info!(
                object = %step.object, out = moved.out, back = moved.back, "moved"
            ),
            Event::Finished(report) => {
                self.done += 1;
                self.bar.at(self.done);
                tracing::info!(step = %report.id, outcome = ?report.outcome, "{}", report.what);
            }
        }
    }
}

impl From<ApplyError> for CliError {
    fn from(error: ApplyError) -> Self {
        let text = error.to_string();
        match error {
            ApplyError::Broker(error) => error.into(),
            ApplyError::Stopped => CliError::new(code::STOPPED, ExitStatus::Interrupted, text),
            ApplyError::Locked(_) => CliError::new(code::LOCKED, ExitStatus::TryLater, text)
                .hint("wait for it to finish, or allow longer with `--lock-timeout`"),
            ApplyError::Blocked(blocked) => {
                let mut error = CliError::new(code::BLOCKED, ExitStatus::Blocked, text);
                for (object, blocker) in &blocked {
                    let object = object.as_ref().map(|o| format!("{o}: ")).unwrap_or_default();
                    error = error.because(format!("{object}{} [{}]", blocker.why, blocker.code));
                }
                match blocked.first() {
                    Some((_, blocker)) => error.hint(blocker.next.clone()),
                    None => error,
                }
            }
            ApplyError::OtherBroker { .. } => {
                CliError::new(code::WRONG_CLUSTER, ExitStatus::Blocked, text)
                    .hint("nothing was changed; make the plan again for this broker")
            }
            ApplyError::Stale(stale) => {
                let mut error = CliError::new(code::STALE, ExitStatus::Blocked, text)
                    .hint("nothing was changed; make the plan again and read it");
                error.object = stale.first().map(|stale| stale.object.name.clone());
                error
            }
            ApplyError::Journal(error) => CliError::new(code::FILE, ExitStatus::Unavailable, text)
                .object(error.path.display().to_string())
                .hint("name another file with `--journal`"),
        }
    }
}

/// Arguments of `topology diff`.
#[derive(Debug, Args)]
#[command(after_help = "Status 2 when something declared is missing or different.\n\n\
    Examples:\n  nexusctl topology diff\n  nexusctl topology diff topology.yaml -o json")]
pub(super) struct DiffArgs {
    #[command(flatten)]
    files: FileArgs,
}

pub(super) fn diff(args: DiffArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DiffArgs { files } = args;
    let topology = files::load(files, session)?;
    let snapshot = inspect(session)?;
    let report = compare(&topology, &snapshot);
    session.ui.report(&DiffView::from(&report))?;
    Ok(if !report.refusals.is_empty() {
        ExitStatus::Blocked
    } else if report.agrees() {
        ExitStatus::Done
    } else {
        ExitStatus::Negative
    })
}

/// Arguments of `topology export`.
#[derive(Debug, Args)]
#[command(after_help = "Needs a login that may see the vhost, no administrator.\n\n\
    Examples:\n  nexusctl topology export\n  nexusctl topology export --owner shop -o json")]
pub(super) struct ExportArgs {
    /// Make the topology belong to this owner
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
}

pub(super) fn export(args: ExportArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ExportArgs { owner } = args;
    let settings = session.settings()?;
    let owner = owner
        .or_else(|| settings.project.as_ref().map(|project| project.name().to_owned()))
        .unwrap_or_else(|| "exported".to_owned());
    let snapshot = inspect(session)?;
    let topology = topology_of(&snapshot, &owner);
    let objects = topology.exchanges.len() + topology.queues.len() + topology.bindings.len();
    print(&topology, session)?;
    session.ui.status(count(objects as u64, "object"));
    Ok(ExitStatus::Done)
}

/// Everything the broker holds.
pub(super) fn inspect(session: &mut Session) -> Result<Snapshot, CliError> {
    let target = Connector::of(session)?;
    read(&target, session)
}

/// The same of one particular broker. The first signal ends it.
fn read(target: &Connector, session: &Session) -> Result<Snapshot, CliError> {
    session.drive(unless_stopped(&session.stop, async {
        let broker: Arc<dyn Broker> = target.connect().await?;
        let snapshot = broker.inspect().await?;
        broker.close().await?;
        Ok(snapshot)
    }))
}
