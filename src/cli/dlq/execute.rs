//! Beginning a run and going on with one: preflight, plan, consent, and the run itself.

use std::sync::Arc;
use std::time::Duration;

use crate::base::id::QueueName;
use crate::broker::calm::await_calm;
use crate::broker::{Broker, Delivery, LockError, LockHolder, QueueType};
use crate::deadletter::replay::caution::{Caution, Watched, run_with_caution};
use crate::deadletter::replay::plan::{Facts, Mode, Plan, plan};
use crate::deadletter::replay::preflight::{self, Noun, PreflightError};
use crate::deadletter::replay::run::{Begin, CANARY, ReplayError, ReplayOptions, Scene, ToBroker};
use crate::deadletter::replay::spec::{OrderSpec, RunSpec};
use crate::deadletter::replay::stage::staged;
use crate::deadletter::replay::store::{Journal, Phase, Stage, StoredRun};
use crate::deadletter::replay::stream::FromStream;
use crate::deadletter::{Lanes, LetterId, Selector};
use crate::delivery::consume::{ConsumeOptions, Lives};

use crate::cli::connect::Connector;
use crate::cli::consent;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::missing::{self, Missing};
use crate::cli::output::count;
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::replay::RunArgs;
use super::report::{in_words, status, view_of};
use super::resume::ResumeArgs;

/// A run that is to begin.
#[derive(Debug)]
pub(super) struct NewRun {
    /// The queue that the letters are in.
    pub(super) queue: QueueName,
    /// What to do to them; checked.
    pub(super) spec: RunSpec,
    /// Its name and reason.
    pub(super) named: RunArgs,
}

/// A run, new or begun before, with what is known of its queue.
struct Job {
    queue: QueueName,
    spec: RunSpec,
    stored: StoredRun,
    is_new: bool,
    bring_back: bool,
    facts: Facts,
    plan: Plan,
    caution: Caution,
}

/// Looks around without touching anything.
async fn facts(
    queue: &QueueName,
    spec: &RunSpec,
    broker: &dyn Broker,
    settings: &Settings,
) -> Result<Facts, CliError> {
    let error = match preflight::facts(queue, spec, &spec.target()?, broker).await {
        Ok(facts) => return Ok(facts),
        Err(error) => error,
    };
    let (noun, name) = match error {
        PreflightError::Missing { noun, name } => (noun, name),
        PreflightError::Broker(error) => return Err(error.into()),
    };
    let vhost = &broker.identity().vhost;
    let verb = spec.verb.as_str();
    let message = format!(
        "cannot {verb} queue `{queue}`: {} `{name}` does not exist in vhost `{vhost}`",
        noun.as_str()
    );
    let what = match noun {
        Noun::Queue => Missing::Queue,
        Noun::Exchange => Missing::Exchange,
    };
    let next = missing::look(what, &name, broker, settings).await;
    Err(CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).object(name).hint(next))
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Lock(error @ LockError::Held { .. }) => {
                let message = format!("cannot replay: {error}");
                CliError::new(code::LOCKED, ExitStatus::TryLater, message)
                    .hint("nothing was touched; wait until that replay has ended")
            }
            ReplayError::Lock(error) => error.into(),
            ReplayError::Broker(error) => error.into(),
            ReplayError::Journal(error) => error.into(),
            error @ ReplayError::Rest { .. } => CliError::failed(format!("cannot replay: {error}"))
                .hint(
                    "no letter was moved; a policy for that queue alone, or a shorter --run, helps",
                ),
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

/// Begins a run, once whoever asked for it has agreed to its plan.
pub(super) fn begin(new: NewRun, session: &mut Session) -> Result<ExitStatus, CliError> {
    let NewRun { queue, spec, named: RunArgs { run, reason, dry_run } } = new;
    let settings = session.settings()?;
    let connector = Connector::of(session)?;
    let facts = session.drive(unless_stopped(&session.stop, async {
        let broker = connector.connect().await?;
        let facts = facts(&queue, &spec, &*broker, &settings).await?;
        let _ = broker.close().await;
        Ok(facts)
    }))?;
    let plan = plan(&facts, &spec.request());
    if dry_run {
        return show_plan(&queue, &spec, &facts, &plan, session);
    }
    refuse(&queue, &spec, &plan)?;
    let most = spec.selection.first.map_or(facts.ready, |first| first.min(facts.ready));
    let what = if spec.request().selects { "the selected of " } else { "" };
    consent::ask(
        session,
        &settings,
        &consent::Deed {
            what: format!("{} queue `{queue}`", spec.verb.as_str()),
            losses: vec![format!(
                "{what}{} leave it for {}; each is acked when it is confirmed there",
                count(most, "letter"),
                in_words(&spec.target()?)
            )],
        },
    )?;
    let request = serde_json::to_string(&spec)
        .map_err(|error| CliError::new(code::INTERNAL, ExitStatus::Internal, error.to_string()))?;
    let stored = StoredRun {
        id: run.unwrap_or_else(|| name_of(session)),
        broker: place(&connector),
        // Filled in once the broker has said where this is.
        vhost: String::new(),
        queue: queue.to_string(),
        request,
        who: session.who.clone(),
        reason,
        started: session.clock.now(),
        ended: None,
        watermark: plan.rules.watermark.min(facts.ready),
        attempts: 1,
        phase: Phase::Open,
        why: None,
        stage: None,
    };
    let caution = spec.caution(stored.watermark);
    let job = Job { queue, spec, stored, is_new: true, bring_back: false, facts, plan, caution };
    execute(job, &connector, session)
}

fn show_plan(
    queue: &QueueName,
    spec: &RunSpec,
    facts: &Facts,
    plan: &Plan,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let mut view = view_of(queue, &spec.target()?, facts, plan);
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

fn refuse(queue: &QueueName, spec: &RunSpec, plan: &Plan) -> Result<(), CliError> {
    let Some(first) = plan.objections.first() else { return Ok(()) };
    let message = format!("cannot {} queue `{queue}`: {}", spec.verb.as_str(), first.why);
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
    ResumeArgs { dry_run, despite_canary, bring_back, .. }: &ResumeArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("cannot resume run `{}`: its journal says {error}", stored.id))
    };
    let mut spec: RunSpec = serde_json::from_str(&stored.request).map_err(|error| wrong(&error))?;
    if *bring_back {
        // Where nothing is sent any more need not be there.
        (spec.to, spec.to_exchange, spec.park) = (None, None, None);
    }
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
    let facts = session.drive(unless_stopped(&session.stop, async {
        let broker = connector.connect().await?;
        if !spec.alongside {
            // Objections follow from what is counted then.
            await_calm(&*broker, &queue, settings.timeout().min(CALM_PATIENCE)).await?;
        }
        let facts = facts(&queue, &spec, &*broker, &settings).await?;
        let _ = broker.close().await;
        Ok(facts)
    }))?;
    let mut plan = plan(&facts, &spec.request());
    if *dry_run {
        return show_plan(&queue, &spec, &facts, &plan, session);
    }
    refuse(&queue, &spec, &plan)?;
    // Never more than waited when it began: what came since is not the run's.
    if plan.mode != Mode::Stream {
        plan.rules.watermark = plan.rules.watermark.min(stored.watermark);
    }
    if spec.within.is_some() && plan.mode != Mode::Stream {
        let gone = session.drive(async {
            let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
            let tally = journal.tally(&stored.id)?;
            Ok(tally.confirmed + tally.parked + tally.skipped + tally.rested + tally.turned)
        })?;
        let left = stored.watermark.saturating_sub(gone);
        plan.rules.watermark = plan.rules.watermark.min(left);
    }
    // Whoever resumes a run that stopped at its canary sees it judged again; one that went on was judged.
    let is_judged = *despite_canary || stored.why.as_deref() != Some(CANARY);
    let caution = Caution { is_judged, ..spec.caution(stored.watermark) };
    let bring_back = *bring_back;
    let job = Job { queue, spec, stored, is_new: false, bring_back, facts, plan, caution };
    execute(job, &connector, session)
}

/// How long a stream is silent once its last letter was seen.
const STREAM_SILENCE: Duration = Duration::from_secs(1);

fn execute(job: Job, connector: &Connector, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    for warning in &job.plan.warnings {
        session.ui.warning(warning);
    }
    let mut view = view_of(&job.queue, &job.spec.target()?, &job.facts, &job.plan);
    let id = job.stored.id.clone();
    let most = job.plan.rules.watermark.min(job.facts.ready);
    let bar = Progress::new(&session.ui, Some(most), "letters");
    let result = session.drive(carry_out(job, connector, &settings, session, &bar));
    bar.clear();
    let watched = result?;
    view.run.clone_from(&id);
    view.take(&watched);
    session.ui.report(&view)?;
    let status = status(&watched, session.stop.status());
    if status != ExitStatus::Done {
        let is_whole = watched.report.staged.is_some_and(|staged| staged.stage == Stage::Whole);
        let next = if is_whole {
            "what is left is where it was".to_owned()
        } else {
            format!("`nexusctl dlq resume {id}` goes on")
        };
        session.ui.hint(format!(
            "nothing is lost; {next}, `nexusctl dlq run show {id}` names what may have come twice"
        ));
    }
    Ok(status)
}

async fn carry_out(
    job: Job,
    connector: &Connector,
    settings: &Settings,
    session: &Session,
    bar: &Progress,
) -> Result<Watched, CliError> {
    let Job { queue, spec, mut stored, is_new, bring_back, facts, plan, caution } = job;
    let broker = connector.connect().await?;
    let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
    let clock = Arc::clone(&session.clock);
    let vhost = broker.identity().vhost.to_string();
    let run = stored.id.clone();
    let begin = if is_new {
        if [".newcomers", ".back"].iter().any(|part| run.ends_with(part)) {
            let message =
                format!("a run cannot be called `{run}`: that is the name of a part of one");
            return Err(CliError::usage(message).object(&run));
        }
        if journal.run(&run)?.is_some() {
            let message = format!("there is a run `{run}` already");
            return Err(CliError::usage(message).object(&run));
        }
        if let Some(other) = journal.apart(&stored.broker, &vhost, &stored.queue)? {
            let message = format!(
                "cannot {} queue `{queue}`: run `{other}` has letters of it elsewhere",
                spec.verb.as_str()
            );
            return Err(CliError::failed(message)
                .object(queue.as_str())
                .hint(format!("`nexusctl dlq resume {other}` brings them back")));
        }
        stored.vhost.clone_from(&vhost);
        Begin::New(Box::new(stored))
    } else {
        Begin::Again
    };
    let options = ReplayOptions {
        run,
        queue: queue.clone(),
        target: spec.target()?,
        park: spec.park.clone(),
        rest: None,
        home: None,
        bring_back,
        lanes: match &spec.order {
            OrderSpec::Key(key) => Some(Lanes::new(key, &vhost, &queue)?),
            OrderSpec::Queue | OrderSpec::None | OrderSpec::Strict => None,
        },
        rules: plan.rules,
        is_quorum: facts.queue_type == Some(QueueType::Quorum),
        looks: plan.looks,
        login: connector.login().map(str::to_owned),
        restore_ttl: spec.restore_ttl,
        rate: spec.rate,
        stream: (plan.mode == Mode::Stream)
            .then_some(FromStream { from: spec.from, wait: STREAM_SILENCE }),
        longest: plan.longest,
        ramp: Duration::from_millis(spec.ramp_ms),
        lives: Lives {
            limit: facts.delivery_limit.filter(|_| plan.mode == Mode::Hold),
            keep: spec.min_lives,
        },
        patience: settings.timeout().min(ConsumeOptions::default().patience),
        poll: Duration::from_millis(200),
        holder: LockHolder { who: session.who.clone(), since: clock.now() },
        is_part: false,
        most_back: caution.most_back,
    };
    let mut selector = Selector::new(&spec.selection(), &vhost, &queue)?;
    let mut wants = |position, _: &LetterId, delivery: &Delivery| {
        selector.wants(position, delivery).map_err(|error| error.to_string())
    };
    let mut progress = |looked, _| bar.at(looked);
    let scene = Scene {
        broker: &*broker,
        copies_to: &ToBroker(&*broker),
        journal: &journal,
        clock: &clock,
        stop: session.stop.job(),
    };
    let watched = match (plan.mode, facts.queue_type) {
        (Mode::Staged, Some(kind)) => {
            let report = staged(&scene, begin, &options, kind, &mut wants, &mut progress).await?;
            Watched { report, canary: None, outcome: None }
        }
        _ => run_with_caution(&scene, begin, &options, &caution, &mut wants, &mut progress).await?,
    };
    let _ = broker.close().await;
    Ok(watched)
}
