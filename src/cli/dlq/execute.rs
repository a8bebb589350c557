//! Beginning a run and going on with one: preflight, plan, consent, and the run itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::base::id::QueueName;
use crate::broker::calm::await_calm;
use crate::broker::{
    Broker, Change, Delivery, LockError, LockHolder, Product, QueueDefinition, QueueType,
};
use crate::deadletter::bundle_source::{BundleSource, Contents};
use crate::deadletter::replay::address::RUN;
use crate::deadletter::replay::audience::Heard;
use crate::deadletter::replay::caution::{Caution, Watched, run_with_caution};
use crate::deadletter::replay::machine::End;
use crate::deadletter::replay::plan::{Facts, Mode, Plan, declared_type, plan};
use crate::deadletter::replay::planned::objection_in_words;
use crate::deadletter::replay::preflight::{self, Around, Noun, PreflightError};
use crate::deadletter::replay::run::{
    Begin, ReplayError, ReplayOptions, ReplayReport, Scene, ToBroker,
};
use crate::deadletter::replay::spec::{OrderSpec, RunSpec, Verb};
use crate::deadletter::replay::stage::{YOUTH, staged};
use crate::deadletter::replay::store::{Journal, Phase, Stage, StoredRun};
use crate::deadletter::replay::stream::FromStream;
use crate::deadletter::{Lanes, LetterId, Selector};
use crate::delivery::consume::{ConsumeOptions, Lives};
use crate::message::FieldValue;

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
use super::bundles;
use super::elsewhere;
use super::replay::RunArgs;
use super::report::{in_words, meant, status, view_of};
use super::resume::ResumeArgs;

/// A run that is to begin.
#[derive(Debug)]
pub(super) struct NewRun {
    /// The queue that the letters are in, or lay in.
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
    /// The bundle that the letters come from.
    contents: Option<Contents>,
    facts: Facts,
    plan: Plan,
    /// The other broker or vhost that the copies go to.
    there: Option<Connector>,
    caution: Caution,
}

/// What is done, in a few words.
fn deed(queue: &QueueName, spec: &RunSpec) -> String {
    let verb = spec.verb.as_str();
    match (spec.verb, &spec.undoes) {
        (Verb::Replay, _) => format!("{verb} queue `{queue}`"),
        (_, Some(run)) => format!("undo run `{run}`"),
        (Verb::Import, _) => format!("{verb} the bundle of queue `{queue}`"),
        _ => format!("{verb} letters of queue `{queue}`"),
    }
}

/// Looks around without touching anything.
pub(super) async fn look(
    queue: &QueueName,
    spec: &RunSpec,
    broker: &dyn Broker,
    there: Option<&dyn Broker>,
    settings: &Settings,
) -> Result<Around, CliError> {
    look_from(None, queue, spec, broker, there, settings).await
}

/// The same when the letters may come from a bundle.
async fn look_from(
    contents: Option<&Contents>,
    queue: &QueueName,
    spec: &RunSpec,
    broker: &dyn Broker,
    there: Option<&dyn Broker>,
    settings: &Settings,
) -> Result<Around, CliError> {
    let target = spec.target()?;
    let found = match contents {
        Some(contents) => preflight::look_from_bundle(contents.wanted, spec, &target, broker).await,
        None => preflight::look(queue, spec, &target, broker, there).await,
    };
    let (noun, name, is_target) = match found {
        Ok(around) => return Ok(around),
        Err(PreflightError::Missing { noun, name, is_target }) => (noun, name, is_target),
        Err(PreflightError::Broker(error)) => return Err(error.into()),
    };
    let broker = there.filter(|_| is_target).unwrap_or(broker);
    let vhost = &broker.identity().vhost;
    let message = format!(
        "cannot {}: {} `{name}` does not exist in vhost `{vhost}`",
        deed(queue, spec),
        noun.as_str()
    );
    let what = match noun {
        Noun::Queue => Missing::Queue,
        Noun::Exchange => Missing::Exchange,
    };
    let next = missing::look(what, &name, broker, settings).await;
    Err(CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message).object(name).hint(next))
}

/// The plan, fit to the bundle that the letters come from.
fn plan_of(facts: &Facts, spec: &RunSpec, contents: Option<&Contents>) -> Plan {
    let mut request = spec.request();
    let Some(contents) = contents else { return plan(facts, &request) };
    request.window = contents.window(request.window);
    let mut plan = plan(facts, &request);
    plan.rules.prefetch = contents.prefetch(plan.rules.intents());
    // Its letters have numbers.
    plan.looks = false;
    if !contents.is_whole {
        plan.warnings.push(format!(
            "the bundle has no end: the run that wrote it, `{}`, was cut off or goes on",
            contents.head.run
        ));
    }
    plan
}

impl From<ReplayError> for CliError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Lock(error @ LockError::Held { .. }) => {
                let message = format!("cannot begin: {error}");
                CliError::new(code::LOCKED, ExitStatus::TryLater, message)
                    .hint("nothing was touched; wait until that run has ended")
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

/// Fails when a run is of another broker than this one.
pub(super) fn same_broker(
    what: &str,
    stored: &StoredRun,
    connector: &Connector,
) -> Result<(), CliError> {
    let here = place(connector);
    if stored.broker == here {
        return Ok(());
    }
    let message = format!(
        "cannot {what} run `{}`: it is of {}, and this is {here}",
        stored.id, stored.broker
    );
    Err(CliError::new(code::WRONG_CLUSTER, ExitStatus::BadSettings, message)
        .object(&stored.id)
        .hint("use the broker that it began on"))
}

/// A name for a run that nobody has named.
fn name_of(session: &Session) -> String {
    let at = session.clock.now().to_string();
    let digits: String = at.chars().filter(char::is_ascii_digit).take(14).collect();
    format!("r{digits}-{:06x}", session.seed & 0xff_ffff)
}

/// What leaves the queue, or comes to it, in a line for whoever has to agree.
fn losses(spec: &RunSpec, facts: &Facts) -> Result<Vec<String>, CliError> {
    let letters = meant(spec, facts);
    let to = in_words(spec)?;
    Ok(match spec.verb {
        Verb::Export => Vec::new(),
        Verb::Drop => {
            vec![format!("{letters} leave it for {to}; each is acked when it is on the disk")]
        }
        Verb::Copy => vec![format!("{letters} are copied to {to}, and stay as well")],
        Verb::Import => vec![format!("{letters} go to {to}, behind what waits there")],
        Verb::Undo => vec![format!(
            "those of its letters that still are among {} go to {to}, behind what waits there",
            count(facts.ready, "message")
        )],
        Verb::Replay | Verb::Move | Verb::Park => {
            vec![format!("{letters} leave it for {to}; each is acked when it is confirmed there")]
        }
    })
}

/// Begins a run, once whoever asked for it has agreed to its plan.
pub(super) fn begin(new: NewRun, session: &mut Session) -> Result<ExitStatus, CliError> {
    begin_from(new, None, session)
}

/// The same for a run whose letters come from a bundle.
pub(super) fn begin_from(
    new: NewRun,
    contents: Option<Contents>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let NewRun { queue, mut spec, named: RunArgs { run, reason, dry_run } } = new;
    let id = run.unwrap_or_else(|| name_of(session));
    if spec.verb.writes_bundle() {
        spec.bundle = Some(bundles::place_for(spec.bundle.take(), &queue, &id, session)?);
    }
    let settings = session.settings()?;
    let connector = Connector::of(session)?;
    let there = elsewhere::connector(&spec, &connector, session)?;
    let (spec, around, heard) = session.drive(unless_stopped(&session.stop, async {
        let mut spec = spec;
        let broker = connector.connect().await?;
        let other = elsewhere::connect(there.as_ref()).await?;
        elsewhere::settle(&mut spec, &queue, &*broker, other.as_deref())?;
        let around =
            look_from(contents.as_ref(), &queue, &spec, &*broker, other.as_deref(), &settings)
                .await?;
        let another = elsewhere::is_another(&*broker, other.as_deref());
        let heard = audience::hear(&queue, &spec, &around, another, &*broker, &settings).await?;
        if let Some(other) = other {
            let _ = other.close().await;
        }
        let _ = broker.close().await;
        Ok((spec, around, heard))
    }))?;
    let facts = around.facts;
    let mut plan = plan_of(&facts, &spec, contents.as_ref());
    plan.warnings.extend(heard.warnings);
    if dry_run {
        return show_plan(&queue, &spec, &facts, &plan, heard.heard, session);
    }
    refuse(&queue, &spec, &plan)?;
    let mut losses = losses(&spec, &facts)?;
    losses.extend(heard.heard.iter().flatten().map(Heard::in_words));
    let deed = consent::Deed { what: deed(&queue, &spec), losses };
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
        watermark: plan.rules.watermark.min(facts.ready),
        attempts: 1,
        phase: Phase::Open,
        why: None,
        stage: None,
    };
    let caution = spec.caution(around.waiting);
    let job = Job {
        queue,
        spec,
        stored,
        is_new: true,
        bring_back: false,
        contents,
        facts,
        plan,
        there,
        caution,
    };
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
    let mut view = view_of(queue, spec, facts, plan)?;
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
    let message = format!("cannot {}: {}", deed(queue, spec), first.why);
    let error = match first.by {
        Some(option) => CliError::new(code::CONSENT, ExitStatus::Blocked, message)
            .hint(format!("nothing was touched; go on nonetheless with `{option}`")),
        None => CliError::failed(message).hint("nothing was touched"),
    };
    Err(error.object(queue.as_str()))
}

/// How long a resumed run waits for what its former consumer held to be back.
const CALM_PATIENCE: Duration = Duration::from_secs(10);

/// What a run was asked to do, as its journal has it.
pub(super) fn asked_of(stored: &StoredRun) -> Result<(QueueName, RunSpec), CliError> {
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::failed(format!("cannot use run `{}`: its journal says {error}", stored.id))
    };
    let spec: RunSpec = serde_json::from_str(&stored.request).map_err(|error| wrong(&error))?;
    let queue = QueueName::new(stored.queue.clone()).map_err(|error| wrong(&error))?;
    Ok((queue, spec))
}

/// Goes on with a run.
pub(super) fn again(
    stored: StoredRun,
    ResumeArgs { dry_run, despite_canary, bring_back, to_broker, .. }: &ResumeArgs,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let (queue, mut spec) = asked_of(&stored)?;
    if *bring_back {
        // Where nothing is sent any more need not be there.
        (spec.to, spec.to_exchange, spec.map, spec.park) = (None, None, None, None);
    }
    let connector = Connector::of(session)?;
    same_broker("resume", &stored, &connector)?;
    let contents = bundles::contents_again(&stored, &spec, session)?;
    elsewhere::given_again(&mut spec, to_broker.as_deref(), session)?;
    let there = elsewhere::connector(&spec, &connector, session)?;
    let (spec, facts) = session.drive(unless_stopped(&session.stop, async {
        let mut spec = spec;
        let broker = connector.connect().await?;
        let other = elsewhere::connect(there.as_ref()).await?;
        elsewhere::settle(&mut spec, &queue, &*broker, other.as_deref())?;
        if !spec.alongside && contents.is_none() {
            // Objections follow from what is counted then.
            await_calm(&*broker, &queue, settings.timeout().min(CALM_PATIENCE)).await?;
        }
        let around =
            look_from(contents.as_ref(), &queue, &spec, &*broker, other.as_deref(), &settings)
                .await?;
        if let Some(other) = other {
            let _ = other.close().await;
        }
        let _ = broker.close().await;
        Ok((spec, around.facts))
    }))?;
    let mut plan = plan_of(&facts, &spec, contents.as_ref());
    if *dry_run {
        return show_plan(&queue, &spec, &facts, &plan, None, session);
    }
    refuse(&queue, &spec, &plan)?;
    if settings.protected.value {
        let what = format!("resume run `{}`", stored.id);
        let losses = losses(&spec, &facts)?;
        consent::ask(session, &settings, &consent::Deed { what, losses })?;
    }
    // Never more than waited when it began: what came since is not the run's.
    if plan.mode != Mode::Stream {
        plan.rules.watermark = plan.rules.watermark.min(stored.watermark);
    }
    if spec.within.is_some() && plan.mode != Mode::Stream {
        let gone = session.drive(async {
            let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
            let tally = journal.tally(&stored.id)?;
            Ok(tally.confirmed + tally.parked + tally.skipped + tally.rested)
        })?;
        let left = stored.watermark.saturating_sub(gone);
        plan.rules.watermark = plan.rules.watermark.min(left);
    }
    if spec.selection.asks_for_places()
        && contents.is_none()
        && !plan.looks
        && plan.mode != Mode::Stream
    {
        let message = format!(
            "cannot resume run `{}`: its condition asks for `position`, and places are others now",
            stored.id
        );
        return Err(CliError::failed(message)
            .object(&stored.id)
            .hint("replay what is left with a condition on something else"));
    }
    // Whoever resumes a run that got no further than its canary sees it judged again.
    let gone = session.drive(async {
        let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
        Ok(journal.gone(&stored.id)?)
    })?;
    let is_judged = *despite_canary || spec.canary.is_none_or(|canary| gone > canary.letters);
    let caution = Caution { is_judged, ..spec.caution(stored.watermark) };
    let bring_back = *bring_back;
    let job = Job {
        queue,
        spec,
        stored,
        is_new: false,
        bring_back,
        contents,
        facts,
        plan,
        there,
        caution,
    };
    execute(job, &connector, None, session)
}

/// How long a stream is silent once its last letter was seen.
const STREAM_SILENCE: Duration = Duration::from_secs(1);

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
    let mut view = view_of(&job.queue, &job.spec, &job.facts, &job.plan)?;
    view.audience = heard;
    let id = job.stored.id.clone();
    if let Some(contents) = &job.contents {
        view.not_selected(contents);
    }
    let most = job.plan.rules.watermark.min(job.facts.ready);
    let bar = Progress::new(&session.ui, Some(most), "letters");
    let result = session.drive(carry_out(job, connector, &settings, session, &bar));
    bar.clear();
    let Done { watched, gone, not_met, is_done } = result?;
    view.run.clone_from(&id);
    view.gone = gone;
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
        let is_whole = watched.report.staged.is_some_and(|staged| staged.stage == Stage::Whole);
        let next = if is_whole || is_done {
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

/// What a run did.
struct Done {
    watched: Watched,
    /// How many of the letters it was to take back were not there any more.
    gone: Option<u64>,
    /// Planned letters that it did not meet.
    not_met: Vec<String>,
    /// Whether there is nothing to go on with.
    is_done: bool,
}

async fn carry_out(
    job: Job,
    connector: &Connector,
    settings: &Settings,
    session: &Session,
    bar: &Progress,
) -> Result<Done, CliError> {
    let Job { queue, spec, mut stored, is_new, bring_back, contents, facts, plan, there, caution } =
        job;
    let broker = connector.connect().await?;
    let other = elsewhere::connect(there.as_ref()).await?;
    let journal = Journal::open(&settings.state.value, settings.timeout()).await?;
    let clock = Arc::clone(&session.clock);
    let vhost = broker.identity().vhost.to_string();
    let run = stored.id.clone();
    if is_new {
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
    }
    if let Some(queue) = &facts.declares {
        let definition = QueueDefinition::durable(queue.clone(), declared_type(&facts));
        broker.change(&Change::DeclareQueue(definition)).await?;
        if broker.identity().product == Product::RabbitMq {
            tokio::time::sleep(YOUTH).await;
        }
    }
    let options = ReplayOptions {
        run: run.clone(),
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
        is_quorum: contents.is_none() && facts.queue_type == Some(QueueType::Quorum),
        looks: plan.looks,
        numbered: contents.is_some(),
        login: there.as_ref().unwrap_or(connector).login().map(str::to_owned),
        dress: spec.dress(),
        editor: spec.editor()?,
        elsewhere: elsewhere::is_another(&*broker, other.as_deref()),
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
        alongside: spec.alongside,
        is_part: false,
        most_back: caution.most_back,
    };
    let mut selector = Selector::new(&spec.selection(), &vhost, &queue)?;
    let mut budget = Budget::of(&spec);
    let undone = spec.undoes.as_deref().filter(|_| spec.verb == Verb::Undo);
    let mut wants = |position, id: &LetterId, delivery: &Delivery| {
        if spec.verb.reads_bundle() {
            // Only what is selected comes.
            return Ok(true);
        }
        if undone.is_some() {
            let sent_by = delivery.message.properties.header(RUN).and_then(FieldValue::as_text);
            return Ok(sent_by == undone);
        }
        let wanted = selector.wants(position, delivery).map_err(|error| error.to_string())?;
        Ok(wanted && budget.takes(id))
    };
    let mut progress = |looked, _| bar.at(looked);
    let into = spec.bundle.as_deref().filter(|_| spec.verb.writes_bundle());
    let into = into.map(|path| bundles::into(path, &queue, &stored, is_new));
    let begin = if is_new { Begin::New(Box::new(stored)) } else { Begin::Again };
    let to_broker = ToBroker(other.as_deref().unwrap_or(&*broker));
    let from_bundle = contents.map(|contents| BundleSource::new(&*broker, contents));
    let scene = Scene {
        broker: match &from_bundle {
            Some(bundle) => bundle,
            None => &*broker,
        },
        copies_to: match &into {
            Some(bundle) => bundle,
            None => &to_broker,
        },
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
    if let Some(other) = &other {
        let _ = other.close().await;
    }
    let _ = broker.close().await;
    let gone = match undone {
        Some(undone) if watched.report.ended == End::All => {
            not_there(&journal, undone, &queue, &watched.report)?
        }
        _ => None,
    };
    let canary_is_good = watched.canary.is_none_or(|canary| canary.is_good);
    let looked_at_all = matches!(watched.report.ended, End::All | End::First | End::Dry);
    let not_met = match Budget::of(&spec).0 {
        Some(planned) if looked_at_all && canary_is_good => {
            not_met(planned, &journal.met(&options.run)?)
        }
        _ => Vec::new(),
    };
    let is_done = journal.run(&options.run)?.is_some_and(|run| run.phase == Phase::Done);
    Ok(Done { watched, gone, not_met, is_done })
}

/// How many letters that `undone` sent to `queue` are not there any more, nor taken back before.
fn not_there(
    journal: &Journal,
    undone: &str,
    queue: &QueueName,
    report: &ReplayReport,
) -> Result<Option<u64>, CliError> {
    let sent = journal.went_to(undone, &format!("queue {queue}"))?;
    let mut found = report.counts.returned + report.counts.nacked + report.counts.not_sent;
    for run in journal.runs(u32::MAX)? {
        let spec: Option<RunSpec> = serde_json::from_str(&run.request).ok();
        let undoes = spec.is_some_and(|spec| spec.undoes.as_deref() == Some(undone));
        if undoes && run.queue == queue.as_str() {
            let tally = journal.tally(&run.id)?;
            found += tally.confirmed + tally.skipped;
        }
    }
    Ok(Some(sent.saturating_sub(found)))
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
