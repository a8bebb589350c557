//! Beginning a run and going on with one: preflight, plan, consent, and the run itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::QueueName;
use crate::broker::calm::await_calm;
use crate::broker::{Broker, Delivery, LockError, LockHolder, QueueType};
use crate::deadletter::replay::audience::Heard;
use crate::deadletter::replay::caution::{Caution, Watched, run_with_caution};
use crate::deadletter::replay::machine::End;
use crate::deadletter::replay::plan::{Facts, Mode, Plan, plan};
use crate::deadletter::replay::planned::objection_in_words;
use crate::deadletter::replay::preflight::{self, Around, Noun, PreflightError};
use crate::deadletter::replay::run::{Begin, CANARY, ReplayError, ReplayOptions, Scene, ToBroker};
use crate::deadletter::replay::spec::RunSpec;
use crate::deadletter::replay::store::{Journal, Phase, StoredRun};
use crate::deadletter::{LetterId, Selector};
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

use super::audience;
use super::elsewhere;
use super::replay::RunArgs;
use super::report::{status, view_of, whither};
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
    facts: Facts,
    plan: Plan,
    /// The other broker or vhost that the copies go to.
    there: Option<Connector>,
    caution: Caution,
}

/// Looks around without touching anything.
pub(super) async fn look(
    queue: &QueueName,
    spec: &RunSpec,
    broker: &dyn Broker,
    there: Option<&dyn Broker>,
    settings: &Settings,
) -> Result<Around, CliError> {
    let error = match preflight::look(queue, spec, &spec.target()?, broker, there).await {
        Ok(around) => return Ok(around),
        Err(error) => error,
    };
    let (noun, name, is_target) = match error {
        PreflightError::Missing { noun, name, is_target } => (noun, name, is_target),
        PreflightError::Broker(error) => return Err(error.into()),
    };
    let broker = there.filter(|_| is_target).unwrap_or(broker);
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
    let there = elsewhere::connector(&spec, &connector, session)?;
    let (spec, around, heard) = session.drive(unless_stopped(&session.stop, async {
        let mut spec = spec;
        let broker = connector.connect().await?;
        let other = elsewhere::connect(there.as_ref()).await?;
        elsewhere::settle(&mut spec, &queue, &*broker, other.as_deref())?;
        let around = look(&queue, &spec, &*broker, other.as_deref(), &settings).await?;
        let another = elsewhere::is_another(&*broker, other.as_deref());
        let heard = audience::hear(&queue, &spec, &around, another, &*broker, &settings).await?;
        if let Some(other) = other {
            let _ = other.close().await;
        }
        let _ = broker.close().await;
        Ok((spec, around, heard))
    }))?;
    let facts = around.facts;
    let mut plan = plan(&facts, &spec.request());
    plan.warnings.extend(heard.warnings);
    if dry_run {
        return show_plan(&queue, &spec, &facts, &plan, heard.heard, session);
    }
    refuse(&queue, &spec, &plan)?;
    let most = spec.selection.first.map_or(facts.ready, |first| first.min(facts.ready));
    let (what, most) = match spec.planned.and_then(|planned| planned.letters) {
        Some(planned) => ("the planned ", planned),
        None if spec.request().selects => ("the selected of ", most),
        None => ("", most),
    };
    let letters = count(most, "letter");
    let mut losses = vec![format!(
        "{what}{letters} leave it for {}; each is acked when it is confirmed there",
        whither(&spec)?
    )];
    losses.extend(heard.heard.iter().flatten().map(Heard::in_words));
    let what = format!("{} queue `{queue}`", spec.verb.as_str());
    let deed = consent::Deed { what, losses };
    consent::ask(session, &settings, &deed)?;
    if let Some(there) = there.as_ref().map(Connector::settings)
        && there.protected.value
        && there.context.is_some()
    {
        consent::ask(session, there, &deed)?;
    }
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
        watermark: plan.rules.watermark,
        attempts: 1,
        phase: Phase::Open,
        why: None,
    };
    let caution = spec.caution(around.waiting);
    let job = Job { queue, spec, stored, is_new: true, facts, plan, there, caution };
    execute(job, &connector, heard.heard, session)
}

fn show_plan(
    queue: &QueueName,
    spec: &RunSpec,
    facts: &Facts,
    plan: &Plan,
    heard: Option<Vec<Heard>>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let mut view = view_of(queue, whither(spec)?, facts, plan);
    view.audience = heard;
    view.stopped = objections(plan);
    view.warnings.clone_from(&plan.warnings);
    session.ui.report(&view)?;
    let blocked = !plan.objections.is_empty();
    Ok(if blocked { ExitStatus::Negative } else { ExitStatus::Done })
}

fn objections(plan: &Plan) -> Vec<String> {
    plan.objections.iter().map(objection_in_words).collect()
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
    ResumeArgs { dry_run, despite_canary, to_broker, .. }: &ResumeArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("cannot resume run `{}`: its journal says {error}", stored.id))
    };
    let mut spec: RunSpec = serde_json::from_str(&stored.request).map_err(|error| wrong(&error))?;
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
    elsewhere::given_again(&mut spec, to_broker.as_deref(), session)?;
    let there = elsewhere::connector(&spec, &connector, session)?;
    let (spec, facts) = session.drive(unless_stopped(&session.stop, async {
        let mut spec = spec;
        let broker = connector.connect().await?;
        let other = elsewhere::connect(there.as_ref()).await?;
        elsewhere::settle(&mut spec, &queue, &*broker, other.as_deref())?;
        if !spec.alongside {
            // Objections follow from what is counted then.
            await_calm(&*broker, &queue, settings.timeout().min(CALM_PATIENCE)).await?;
        }
        let around = look(&queue, &spec, &*broker, other.as_deref(), &settings).await?;
        if let Some(other) = other {
            let _ = other.close().await;
        }
        let _ = broker.close().await;
        Ok((spec, around.facts))
    }))?;
    let mut plan = plan(&facts, &spec.request());
    if *dry_run {
        return show_plan(&queue, &spec, &facts, &plan, None, session);
    }
    refuse(&queue, &spec, &plan)?;
    // Never more than waited when it began: what came since is not the run's.
    plan.rules.watermark = plan.rules.watermark.min(stored.watermark);
    // Whoever resumes a run that stopped at its canary sees it judged again; one that went on was judged.
    let is_judged = *despite_canary || stored.why.as_deref() != Some(CANARY);
    let caution = Caution { is_judged, ..spec.caution(stored.watermark) };
    let job = Job { queue, spec, stored, is_new: false, facts, plan, there, caution };
    execute(job, &connector, None, session)
}

fn execute(
    job: Job,
    connector: &Connector,
    heard: Option<Vec<Heard>>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    for warning in &job.plan.warnings {
        session.ui.warning(warning);
    }
    let mut view = view_of(&job.queue, whither(&job.spec)?, &job.facts, &job.plan);
    view.audience = heard;
    let id = job.stored.id.clone();
    let bar = Progress::new(&session.ui, Some(job.plan.rules.watermark), "letters");
    let result = session.drive(carry_out(job, connector, &settings, session, &bar));
    bar.clear();
    let (watched, not_met) = result?;
    view.run.clone_from(&id);
    view.take(&watched);
    let mut status = status(&watched, session.stop.status());
    if !not_met.is_empty() {
        view.not_met = not_met.len() as u64;
        let first: Vec<&str> = not_met.iter().map(String::as_str).take(NAMED).collect();
        view.warnings.push(format!(
            "planned, and not met: {}{}",
            first.join(", "),
            if not_met.len() > NAMED { " and others" } else { "" }
        ));
        if status == ExitStatus::Done {
            status = ExitStatus::Partly;
        }
    }
    session.ui.report(&view)?;
    if status != ExitStatus::Done {
        session.ui.hint(format!(
            "nothing is lost; `nexusctl dlq resume {id}` goes on, `nexusctl dlq run show {id}` names \
             what may have come twice"
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
) -> Result<(Watched, Vec<String>), CliError> {
    let Job { queue, spec, mut stored, is_new, facts, plan, there, caution } = job;
    let broker = connector.connect().await?;
    let other = elsewhere::connect(there.as_ref()).await?;
    let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
    let clock = Arc::clone(&session.clock);
    let vhost = broker.identity().vhost.to_string();
    let run = stored.id.clone();
    let begin = if is_new {
        if journal.run(&run)?.is_some() {
            let message = format!("there is a run `{run}` already");
            return Err(CliError::usage(message).object(&run));
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
        rules: plan.rules,
        is_quorum: facts.queue_type == Some(QueueType::Quorum),
        looks: plan.looks,
        login: there.as_ref().unwrap_or(connector).login().map(str::to_owned),
        restore_ttl: spec.restore_ttl,
        editor: spec.editor()?,
        elsewhere: elsewhere::is_another(&*broker, other.as_deref()),
        rate: spec.rate,
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
    let mut budget = Budget::of(&spec);
    let mut wants = |position, id: &LetterId, delivery: &Delivery| {
        let wanted = selector.wants(position, delivery).map_err(|error| error.to_string())?;
        Ok(wanted && budget.takes(id))
    };
    let mut progress = |looked, _| bar.at(looked);
    let scene = Scene {
        broker: &*broker,
        copies_to: &ToBroker(other.as_deref().unwrap_or(&*broker)),
        journal: &journal,
        clock: &clock,
        stop: session.stop.job(),
    };
    let watched =
        run_with_caution(&scene, begin, &options, &caution, &mut wants, &mut progress).await?;
    if let Some(other) = &other {
        let _ = other.close().await;
    }
    let _ = broker.close().await;
    let looked_at_all = matches!(watched.report.ended, End::All | End::First | End::Dry);
    let not_met = match Budget::of(&spec).0 {
        Some(planned) if looked_at_all => not_met(planned, &journal.met(&options.run)?),
        _ => Vec::new(),
    };
    Ok((watched, not_met))
}

/// Letters that are named at once when they were not met.
const NAMED: usize = 20;

/// How many letters of each name a plan is for: of twins, no more than it saw.
struct Budget(Option<BTreeMap<String, u64>>);

impl Budget {
    fn of(spec: &RunSpec) -> Budget {
        let named = spec.planned.is_some_and(|planned| planned.letters.is_some());
        Budget(named.then(|| {
            let mut budget = BTreeMap::new();
            for id in &spec.selection.ids {
                *budget.entry(id.as_str().to_owned()).or_default() += 1;
            }
            budget
        }))
    }

    fn takes(&mut self, id: &LetterId) -> bool {
        let Some(budget) = &mut self.0 else { return true };
        let Some(left) = budget.get_mut(id.as_str()).filter(|left| **left > 0) else {
            return false;
        };
        *left -= 1;
        true
    }
}

/// The planned letters that the journal does not have.
fn not_met(planned: BTreeMap<String, u64>, met: &BTreeMap<String, u64>) -> Vec<String> {
    planned
        .into_iter()
        .flat_map(|(id, planned)| {
            let missing = planned.saturating_sub(met.get(&id).copied().unwrap_or(0));
            (0..missing).map(move |_| id.clone())
        })
        .collect()
}
