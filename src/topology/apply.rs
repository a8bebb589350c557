//! Runs a plan: under a lock, step by step, each verified by reading, on record before and after.
//!
//! An empty plan does nothing at all: no lock is taken and nothing is sent that could change
//! anything. A run that was killed is gone on with by running again with the same journal.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::base::time::Clock;
use crate::broker::{
    Broker, BrokerError, BrokerIdentity, Change, ErrorKind, Lock, LockError, LockHolder, Snapshot,
};

use super::journal::{self, Journal, JournalError};
use super::migrate::{self, MigrateError, Moved, Timing};
use super::model::Topology;
use super::object::ObjectRef;
use super::observed::{Observed, same_queue};
use super::ownership;
use super::plan::{self, Blocker, Plan, PlannedChange, Step, StepAction};
use super::saved_plan::{self, Stale};

/// How to run.
#[derive(Clone, Debug)]
pub struct ApplyOptions {
    /// Who runs it, for whoever finds the lock taken.
    pub holder: LockHolder,
    /// How long to wait for the lock.
    pub lock_timeout: Duration,
    /// Go on with the other steps after one has failed.
    pub continue_on_error: bool,
    /// Run what is not blocked of a plan of which something is.
    pub skip_blocked: bool,
    /// Where the run is written down.
    pub journal: Option<PathBuf>,
    /// How long a migration waits for things.
    pub timing: Timing,
}

/// What happens, as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// Somebody else has the lock.
    Waiting(Option<&'a LockHolder>),
    /// An interrupted run is gone on with; so many of its steps are done already.
    Resuming {
        /// Steps done.
        done: usize,
        /// All steps.
        of: usize,
    },
    /// A step begins.
    Started(&'a Step),
    /// A migration has moved so many messages.
    Moved(&'a Step, Moved),
    /// A step is over.
    Finished(&'a StepReport),
}

/// Hears of events.
pub trait Observer: Send {
    /// Something happened.
    fn event(&mut self, event: &Event<'_>);

    /// Whether to begin nothing new. Asked before each step and while waiting for the lock; a unit that
    /// has begun is finished.
    fn wants_stop(&self) -> bool {
        false
    }
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _: &Event<'_>) {}
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StepOutcome {
    /// Done, and read back so.
    Done,
    /// It was so already.
    AlreadySo,
    /// The broker refused.
    Failed,
    /// The broker said yes, and reading shows otherwise.
    NotVerified,
    /// Not tried, because an earlier step failed.
    Skipped,
}

/// One step and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StepReport {
    /// The step's id in its plan.
    pub id: String,
    /// What it was about.
    pub object: ObjectRef,
    /// What was done, as a sentence: ``declare queue `orders` ``.
    pub what: String,
    /// What became of it.
    pub outcome: StepOutcome,
    /// Why not.
    pub error: Option<String>,
    /// What to do about that.
    pub hint: Option<String>,
    /// Messages moved by a migration.
    pub moved: Option<MovedMessages>,
}

/// Messages moved by a migration, out of the old queue and into the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MovedMessages {
    /// Out of the old queue.
    pub out: u64,
    /// Into the new queue.
    pub back: u64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReport {
    /// The broker.
    pub broker: BrokerIdentity,
    /// Every step that was tried or skipped.
    pub steps: Vec<StepReport>,
    /// How many of them belonged to a run that was interrupted before.
    pub resumed: usize,
    /// What still differs; empty when broker and file agree.
    pub residue: Vec<PlannedChange>,
    /// Why owners could not be recorded. Then `--prune` will not know these objects as ours.
    pub owners_not_recorded: Option<String>,
}

impl ApplyReport {
    /// Whether everything is as it should be.
    pub fn is_complete(&self) -> bool {
        self.residue.is_empty() && self.failed().next().is_none()
    }

    /// Steps that did not come true and had to.
    pub fn failed(&self) -> impl Iterator<Item = &StepReport> {
        self.steps.iter().filter(|step| {
            !matches!(step.outcome, StepOutcome::Done | StepOutcome::AlreadySo)
                && !is_record(&step.object)
        })
    }

    /// Requests that changed something.
    pub fn changes(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| {
                step.outcome != StepOutcome::AlreadySo && step.outcome != StepOutcome::Skipped
            })
            .count()
    }
}

fn is_record(object: &ObjectRef) -> bool {
    object.name.starts_with(ownership::OWNERS_EXCHANGE)
}

/// Why a run did not take place, or stopped for good.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The plan is for another broker.
    #[error("the plan was made for {}, and this is {}", name(.planned), name(.actual))]
    OtherBroker {
        /// The plan's.
        planned: Box<BrokerIdentity>,
        /// The one that was reached.
        actual: Box<BrokerIdentity>,
    },
    /// Something stands in the way; nothing was changed.
    #[error("nothing was changed: {} of the changes are blocked", .0.len())]
    Blocked(Vec<(Option<ObjectRef>, Blocker)>),
    /// The broker is not what it was when the plan was made; nothing was changed.
    #[error("nothing was changed: {}", stale_text(.0))]
    Stale(Vec<Stale>),
    /// Somebody else applies.
    #[error("somebody else applies a topology to this vhost{}", .0.as_ref().map(|h| format!(": {} since {}", h.who, h.since)).unwrap_or_default())]
    Locked(Option<LockHolder>),
    /// The observer wanted a stop before the lock was there.
    #[error("stopped while waiting for the lock; nothing was changed")]
    Stopped,
    /// The broker failed outside a step, or the lock was lost.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn name(identity: &BrokerIdentity) -> String {
    format!("vhost `{}` of `{}`", identity.vhost, identity.cluster_name)
}

fn stale_text(stale: &[Stale]) -> String {
    let parts: Vec<String> =
        stale.iter().map(|stale| format!("{}: {}", stale.object, stale.how)).collect();
    format!("since the plan was made, {}", parts.join("; "))
}

/// Runs `plan`. With `desired` (the topology it was made of, and the options), what is left to do
/// afterwards is planned again and reported as residue.
pub async fn apply(
    broker: &dyn Broker,
    plan: &Plan,
    desired: Option<(&Topology, &plan::Options)>,
    options: &ApplyOptions,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
) -> Result<ApplyReport, ApplyError> {
    let actual = broker.identity();
    if !same_broker(&plan.broker, actual) {
        return Err(ApplyError::OtherBroker {
            planned: Box::new(plan.broker.clone()),
            actual: Box::new(actual.clone()),
        });
    }
    let blocked: Vec<_> =
        plan.blocked().map(|(object, blocker)| (object.cloned(), blocker.clone())).collect();
    if !plan.refusals.is_empty() || (!blocked.is_empty() && !options.skip_blocked) {
        return Err(ApplyError::Blocked(blocked));
    }
    let unfinished = match &options.journal {
        Some(path) => journal::unfinished(path)?,
        None => None,
    };
    let mut report = ApplyReport {
        broker: actual.clone(),
        steps: Vec::new(),
        resumed: 0,
        residue: Vec::new(),
        owners_not_recorded: None,
    };
    if plan.steps.is_empty() && unfinished.is_none() {
        report.residue = blocked_changes(plan);
        return Ok(report);
    }

    let lock = take_lock(broker, options, observer).await?;
    let result = locked(
        broker,
        plan,
        desired,
        options,
        clock,
        observer,
        lock.as_ref(),
        unfinished,
        &mut report,
    )
    .await;
    // The lock dies with the connection anyway; what counts is what the run says.
    let released = lock.release().await;
    result?;
    released?;
    Ok(report)
}

fn same_broker(a: &BrokerIdentity, b: &BrokerIdentity) -> bool {
    a.product == b.product && a.cluster_name == b.cluster_name && a.vhost == b.vhost
}

fn blocked_changes(plan: &Plan) -> Vec<PlannedChange> {
    plan.changes.iter().filter(|change| !change.blockers.is_empty()).cloned().collect()
}

async fn take_lock(
    broker: &dyn Broker,
    options: &ApplyOptions,
    observer: &mut dyn Observer,
) -> Result<Box<dyn Lock>, ApplyError> {
    let name = format!("topology.{}", broker.identity().vhost);
    let started = tokio::time::Instant::now();
    loop {
        // A request that is dropped holds nothing: its connection, or its process, ends with it.
        match unless_stopped(observer, broker.lock(&name, &options.holder)).await? {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held { holder }) => {
                if started.elapsed() >= options.lock_timeout {
                    return Err(ApplyError::Locked(holder));
                }
                observer.event(&Event::Waiting(holder.as_ref()));
                let left = options.lock_timeout.saturating_sub(started.elapsed());
                let pause = tokio::time::sleep(left.min(Duration::from_millis(250)));
                unless_stopped(observer, pause).await?;
            }
            Err(LockError::Broker(error)) => return Err(error.into()),
        }
    }
}

/// Waits for `work`, which may be dropped at any time, for as long as nobody wants a stop.
async fn unless_stopped<T>(
    observer: &mut dyn Observer,
    work: impl Future<Output = T>,
) -> Result<T, ApplyError> {
    // Short enough that a person sees no delay.
    const BETWEEN_QUESTIONS: Duration = Duration::from_millis(20);
    tokio::pin!(work);
    loop {
        if observer.wants_stop() {
            return Err(ApplyError::Stopped);
        }
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(BETWEEN_QUESTIONS) => {}
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "the second half of `apply`, split so that the lock is always let go"
)]
async fn locked(
    broker: &dyn Broker,
    plan: &Plan,
    desired: Option<(&Topology, &plan::Options)>,
    options: &ApplyOptions,
    clock: &dyn Clock,
    observer: &mut dyn Observer,
    lock: &dyn Lock,
    unfinished: Option<journal::Unfinished>,
    report: &mut ApplyReport,
) -> Result<(), ApplyError> {
    let mut touched: BTreeSet<ObjectRef> = BTreeSet::new();
    if let Some(run) = unfinished {
        if !same_broker(&run.plan.broker, broker.identity()) {
            return Err(ApplyError::OtherBroker {
                planned: Box::new(run.plan.broker),
                actual: Box::new(broker.identity().clone()),
            });
        }
        observer.event(&Event::Resuming { done: run.done.len(), of: run.plan.steps.len() });
        let path = options.journal.as_deref().unwrap_or_else(|| std::path::Path::new(""));
        let mut runner =
            Runner { broker, options, lock, observer, report, journal: Journal::resume(path)? };
        let mut snapshot = broker.inspect().await?;
        let left: Vec<&Step> =
            run.plan.steps.iter().filter(|step| !run.done.contains(&step.id)).collect();
        for step in &run.plan.steps {
            touched.insert(step.object.clone());
            if let StepAction::Migrate(migration) = &step.action {
                touched.extend(migration.bindings.iter().map(ObjectRef::binding));
            }
        }
        runner.steps(&left, &mut snapshot).await?;
        runner.journal.end(clock.now())?;
        report.resumed = report.steps.len();
    }

    let mut snapshot = broker.inspect().await?;
    if !plan.steps.is_empty() {
        let view = Observed::new(&snapshot);
        let stale: Vec<Stale> = saved_plan::stale(plan, &view)
            .into_iter()
            .filter(|stale| !touched.contains(&stale.object))
            // What is planned anew below has nothing that could be stale.
            .filter(|_| touched.is_empty() || desired.is_none())
            .collect();
        if !stale.is_empty() {
            return Err(ApplyError::Stale(stale));
        }
        // After an interrupted run was finished, the plan in hand is of a time in the middle of it: of
        // what is left to do now, only what it shows as well is done.
        let mut now = match desired {
            Some((topology, options)) if !touched.is_empty() => {
                let mut now = plan::plan(topology, &snapshot, options);
                now.steps.retain(|step| plan.steps.iter().any(|shown| shown.action == step.action));
                now
            }
            _ => plan.clone(),
        };
        now.steps.retain(|step| touched.is_empty() || !is_so(step, plan.steps.iter(), &view));
        if !now.steps.is_empty() {
            let left: Vec<&Step> = now.steps.iter().collect();
            let journal = Journal::begin(options.journal.as_deref(), &now, clock.now())?;
            let mut runner = Runner { broker, options, lock, observer, report, journal };
            runner.steps(&left, &mut snapshot).await?;
            runner.journal.end(clock.now())?;
        }
    }
    if let Some((topology, options)) = desired {
        report.residue = plan::plan(topology, &snapshot, options).changes;
    } else {
        report.residue = blocked_changes(plan);
    }
    Ok(())
}

/// Whether a step has come true already. The removal that begins a unit has, once what the unit
/// declares is there.
fn is_so<'s>(step: &Step, mut all: impl Iterator<Item = &'s Step>, view: &Observed<'_>) -> bool {
    match &step.action {
        StepAction::Migrate(migration) => {
            !migrate::leftovers(view, &migration.queue)
                && view.queue(migration.queue.as_str()).is_some_and(|is| {
                    same_queue(
                        &is.definition,
                        &migration.definition,
                        view.snapshot.vhost.default_queue_type,
                    )
                })
        }
        StepAction::Change(
            change @ (Change::DeleteQueue { .. } | Change::DeleteExchange { .. }),
        ) if step.unit.is_some() => {
            let declared = all.find(|other| {
                other.unit == step.unit
                    && matches!(
                        other.action,
                        StepAction::Change(Change::DeclareQueue(_) | Change::DeclareExchange(_))
                    )
            });
            view.holds(change).is_ok()
                || declared.is_some_and(|declared| match &declared.action {
                    StepAction::Change(change) => view.holds(change).is_ok(),
                    StepAction::Migrate(_) => false,
                })
        }
        StepAction::Change(change) => view.holds(change).is_ok(),
    }
}

struct Runner<'a> {
    broker: &'a dyn Broker,
    options: &'a ApplyOptions,
    lock: &'a dyn Lock,
    observer: &'a mut dyn Observer,
    report: &'a mut ApplyReport,
    journal: Journal,
}

impl Runner<'_> {
    /// Whether `step` is left out, because an earlier one failed or somebody asked to stop.
    fn holds_back(&self, step: &Step, failed: bool, begun_units: &BTreeSet<&str>) -> bool {
        let begun = step.unit.as_deref().is_some_and(|unit| begun_units.contains(unit));
        (failed && !self.options.continue_on_error) || (self.observer.wants_stop() && !begun)
    }

    /// Runs `steps` phase by phase; `snapshot` is what the broker looks like before, and after.
    async fn steps(&mut self, steps: &[&Step], snapshot: &mut Snapshot) -> Result<(), ApplyError> {
        let mut failed = false;
        let mut broken_units: BTreeSet<&str> = BTreeSet::new();
        let mut begun_units: BTreeSet<&str> = BTreeSet::new();
        let mut rest = steps;
        while let Some(first) = rest.first() {
            let end = rest.iter().position(|step| step.phase != first.phase).unwrap_or(rest.len());
            let (batch, after) = rest.split_at(end);
            rest = after;
            if batch.iter().all(|step| self.holds_back(step, failed, &begun_units)) {
                for step in batch {
                    self.skip(step);
                }
                continue;
            }
            self.lock.check().await?;
            self.journal.start(&ids(batch))?;
            let begun = Observed::new(snapshot);
            let mut pending: Vec<(&Step, StepReport)> = Vec::with_capacity(batch.len());
            let mut since_check = 0;
            for step in batch {
                if broken_units.contains(step.unit.as_deref().unwrap_or(""))
                    || self.holds_back(step, failed, &begun_units)
                {
                    pending.push((step, skipped(step)));
                    continue;
                }
                // A restored binding is lost with its queue although this reading still has it.
                let trust = step.unit.is_none()
                    || !matches!(step.verifies, plan::Expectation::Present)
                    || !unit_removes(step, batch, &begun);
                if trust && is_so(step, batch.iter().copied(), &begun) {
                    let mut report = describe(step);
                    report.outcome = StepOutcome::AlreadySo;
                    pending.push((step, report));
                    continue;
                }
                since_check += 1;
                if since_check % 200 == 0 {
                    self.lock.check().await?;
                }
                self.observer.event(&Event::Started(step));
                begun_units.extend(step.unit.as_deref());
                let report = self.step(step).await?;
                if report.outcome == StepOutcome::Failed {
                    self.journal.failed(&step.id, report.error.as_deref().unwrap_or(""))?;
                    if let Some(unit) = &step.unit {
                        broken_units.insert(unit);
                    }
                    failed |= !step.optional;
                    if is_record(&step.object) {
                        self.report.owners_not_recorded.clone_from(&report.error);
                    }
                }
                pending.push((step, report));
                // Without the exchange, or the right to use it, every other record fails alike.
                if is_record(&step.object) && self.report.owners_not_recorded.is_some() {
                    break;
                }
            }
            *snapshot = self.broker.inspect().await?;
            let now = Observed::new(snapshot);
            let mut done = Vec::with_capacity(pending.len());
            for (step, mut report) in pending {
                if report.outcome == StepOutcome::Done
                    && let Err(difference) = verified(step, &now)
                {
                    report.outcome = StepOutcome::NotVerified;
                    report.error =
                        Some(format!("the broker accepted it, and reading shows: {difference}"));
                    failed |= !step.optional;
                }
                if matches!(report.outcome, StepOutcome::Done | StepOutcome::AlreadySo) {
                    done.push(step.id.clone());
                }
                self.observer.event(&Event::Finished(&report));
                self.report.steps.push(report);
            }
            self.journal.done(&done)?;
        }
        Ok(())
    }

    fn skip(&mut self, step: &Step) {
        let report = skipped(step);
        self.observer.event(&Event::Finished(&report));
        self.report.steps.push(report);
    }

    /// Tries one step. An error that ends the connection ends the run: the journal has it.
    async fn step(&mut self, step: &Step) -> Result<StepReport, ApplyError> {
        let mut report = describe(step);
        let error = match &step.action {
            StepAction::Change(change) => match self.broker.change(change).await {
                Ok(_) => return Ok(report),
                Err(error) => error,
            },
            StepAction::Migrate(migration) => {
                let observer = &mut *self.observer;
                let mut progress = |moved: Moved| observer.event(&Event::Moved(step, moved));
                match migrate::run(
                    self.broker,
                    migration,
                    self.options.timing,
                    self.lock,
                    &mut progress,
                )
                .await
                {
                    Ok(moved) => {
                        report.moved = Some(MovedMessages { out: moved.out, back: moved.back });
                        return Ok(report);
                    }
                    Err(MigrateError::Broker(error)) => error,
                    Err(error @ MigrateError::Refused { .. }) => {
                        report.error = Some(error.to_string());
                        let MigrateError::Refused { hint, .. } = error else { return Ok(report) };
                        report.hint = Some(hint);
                        report.outcome = StepOutcome::Failed;
                        return Ok(report);
                    }
                }
            }
        };
        if matches!(
            error.kind,
            ErrorKind::Unreachable
                | ErrorKind::ConnectionLost
                | ErrorKind::TimedOut
                | ErrorKind::CircuitOpen
                | ErrorKind::Storage
                | ErrorKind::ReadOnly
        ) {
            return Err(error.into());
        }
        report.error = Some(error.to_string());
        report.hint.clone_from(&error.hint);
        report.outcome = StepOutcome::Failed;
        Ok(report)
    }
}

fn ids(steps: &[&Step]) -> Vec<String> {
    steps.iter().map(|step| step.id.clone()).collect()
}

/// Whether the unit of `step` begins with a removal that has still to be done.
fn unit_removes(step: &Step, batch: &[&Step], view: &Observed<'_>) -> bool {
    batch
        .iter()
        .filter(|other| other.unit == step.unit && other.verifies == plan::Expectation::Absent)
        .any(|removal| !is_so(removal, batch.iter().copied(), view))
}

fn skipped(step: &Step) -> StepReport {
    StepReport { outcome: StepOutcome::Skipped, ..describe(step) }
}

fn describe(step: &Step) -> StepReport {
    StepReport {
        id: step.id.clone(),
        object: step.object.clone(),
        what: match &step.action {
            StepAction::Change(change) => change.to_string(),
            StepAction::Migrate(migration) => format!("migrate queue `{}`", migration.queue),
        },
        outcome: StepOutcome::Done,
        error: None,
        hint: None,
        moved: None,
    }
}

/// Whether a step that was done is read so.
fn verified(step: &Step, view: &Observed<'_>) -> Result<(), String> {
    match &step.action {
        // What a unit removes is there again by the end of its batch.
        StepAction::Change(Change::DeleteQueue { .. } | Change::DeleteExchange { .. })
            if step.unit.is_some() =>
        {
            Ok(())
        }
        StepAction::Change(change) => view.holds(change),
        StepAction::Migrate(migration) => {
            view.holds(&Change::DeclareQueue(migration.definition.clone()))?;
            if migrate::leftovers(view, &migration.queue) {
                return Err("a temporary queue is still there".to_owned());
            }
            match migration.bindings.iter().find(|binding| !view.has_binding(binding)) {
                Some(binding) => Err(format!("{} is not there", ObjectRef::binding(binding))),
                None => Ok(()),
            }
        }
    }
}
