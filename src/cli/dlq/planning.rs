//! `dlq plan`: what a run would do to each letter, written down for `dlq apply` to do.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::base::id::QueueName;
use crate::broker::Broker;
use crate::deadletter::Scans;
use crate::deadletter::replay::audience::warnings;
use crate::deadletter::replay::plan::plan as weigh;
pub use crate::deadletter::replay::planned::DeadLetterPlan;
use crate::deadletter::replay::planned::{
    BrokerSeen, FORMAT, KIND, MOST_LETTERS, Seen, SeenNoun, Total, cost, objection_in_words,
    order_in_words, overridden, seen_exchange, seen_queue,
};
use crate::deadletter::replay::preflight::Around;
use crate::deadletter::replay::spec::Verb;
use crate::deadletter::replay::survey::{Survey, Targets, survey};
use crate::deadletter::store::{Scan, ScanId};
use crate::topology::view::TopologyView;

use crate::cli::connect::Connector;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count, document};
use crate::cli::progress::Progress;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::how::{Asked, HowArgs};
use super::report::in_words;
use super::scan::{Done, ScanArgs, Scene, read};
use super::{audience, elsewhere, execute};

/// Arguments of `dlq plan`.
#[derive(Debug, Args)]
#[command(
    after_help = "The queue is read once, as `dlq scan` reads it, or a stored scan is asked; nothing is \
    sent. The plan names every letter that would go, where to and why, what becomes different in it, who \
    else would get it, what it costs and risks, and what the queue and its targets are. `dlq apply FILE` \
    runs it on exactly these letters, and refuses when anything that matters is different then. Above \
    100000 letters a plan of all letters, or of a condition, only counts them.\n\n\
    Status 0, or with --exit-code 2 when there is something to do; 4: something stands in the way.\n\n\
    Examples:\n  \
    nexusctl dlq plan dead.agent.worker --to agent.worker --out plan.json\n  \
    nexusctl dlq plan dead.agent.worker --via-exchange --stored\n  \
    nexusctl dlq plan dead.agent.worker --to agent.worker --set-header mended=yes --body '{\"id\": id}'"
)]
pub(super) struct PlanArgs {
    /// The queue that the letters are in
    queue: QueueName,
    #[command(flatten)]
    how: HowArgs,
    /// Ask the newest scan of the queue, and do not read it again
    #[arg(long)]
    stored: bool,
    /// Ask the scan of this number
    #[arg(long, value_name = "NUMBER", conflicts_with = "stored")]
    scan: Option<i64>,
    /// Keep so many bytes of each body: edits and conditions need all of it
    #[arg(long, value_name = "BYTES", default_value_t = 1_048_576)]
    keep_body: usize,
    /// End with status 2 when there is something to do
    #[arg(long)]
    exit_code: bool,
    /// Write the plan into this file, for `dlq apply`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl View for DeadLetterPlan {
    const KIND: &'static str = KIND;
    fn text(&self, page: &mut Page) {
        const SHOWN: usize = 20;
        let style = page.style;
        let queue = style.strong(&self.queue.name);
        page.line(format!(
            "plan: {} {} of {} in queue {queue} (vhost {} of {})",
            self.run.verb.as_str(),
            count(self.meant, "letter"),
            self.ready,
            self.broker.vhost,
            self.broker.url
        ));
        page.line(format!("made by {} at {}", self.made_by, self.made_at));
        if let Some(there) = &self.elsewhere {
            page.line(format!("the copies go to vhost {} of {}", there.vhost, there.url));
        }
        for Total { what, letters } in &self.totals {
            page.line(format!("{} to {what}", count(*letters, "letter")));
        }
        for Total { what, letters } in &self.stay {
            let stay = if *letters == 1 { "stays" } else { "stay" };
            page.line(format!("{} {stay}: {what}", count(*letters, "letter")));
        }
        for edit in &self.edits {
            page.line(format!("edit: {edit}"));
        }
        for heard in self.audience.iter().flatten() {
            page.line(format!("who gets it: {}", heard.in_words()));
        }
        page.line(format!("order: {}", self.order));
        for cost in &self.cost {
            page.line(format!("cost: {cost}"));
        }
        for why in &self.in_the_way {
            page.line(format!("{} {why}", style.attention("in the way:")));
        }
        for risk in &self.risks {
            page.line(format!("{} {risk}", style.attention("risk:")));
        }
        let Some(letters) = &self.letters else {
            page.line("the letters are too many to be named, and only counted");
            return;
        };
        if !letters.is_empty() {
            page.gap();
        }
        for letter in letters.iter().take(SHOWN) {
            page.line(format!(
                "{} @{} to {} ({})",
                letter.id, letter.position, letter.to, letter.why
            ));
        }
        if letters.len() > SHOWN {
            page.line(format!("… and {} more, in the file", letters.len() - SHOWN));
        }
    }
}

/// What is there of a target; `None` when there is nothing.
pub(super) async fn seen(
    noun: SeenNoun,
    name: &str,
    view: Option<&TopologyView>,
    broker: &dyn Broker,
) -> Result<Option<Seen>, CliError> {
    let unknown = || Seen { noun, name: name.to_owned(), settings: None };
    Ok(match (noun, view) {
        (SeenNoun::Queue, Some(view)) => seen_queue(view, name),
        (SeenNoun::Exchange, Some(view)) => seen_exchange(view, name),
        (SeenNoun::Queue, None) => match QueueName::new(name) {
            Ok(queue) => broker.depth(&queue).await?.map(|_| unknown()),
            Err(_) => None,
        },
        (SeenNoun::Exchange, None) => match crate::base::id::ExchangeName::new(name) {
            Ok(exchange) => broker.has_exchange(&exchange).await?.then(unknown),
            Err(_) => None,
        },
    })
}

/// Everything that a plan is made of.
struct Looked {
    asked: Asked,
    around: Around,
    scan: Scan,
    survey: Survey,
    broker: BrokerSeen,
    elsewhere: Option<BrokerSeen>,
    queue: Seen,
    targets: Vec<Seen>,
    risks: Vec<String>,
}

pub(super) fn run(args: &PlanArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PlanArgs { queue, how, .. } = args;
    let settings = session.settings()?;
    let asked = how.asked(Verb::Replay, queue, session)?;
    let own = Connector::of(session)?;
    let there = elsewhere::connector(&asked.spec, &own, session)?;
    let bar = Progress::new(&session.ui, None, "letters");
    let looked = session.drive(unless_stopped(
        &session.stop,
        look(args, asked, &own, there.as_ref(), &settings, session, &bar),
    ));
    bar.clear();
    let plan = document_of(looked?, session)?;
    session.ui.report(&plan)?;
    if let Some(out) = &args.out {
        let text = serde_json::to_string_pretty(&document(&plan))
            .map_err(|error| CliError::failed(error.to_string()))?;
        std::fs::write(session.resolve(out), text + "\n")
            .map_err(|error| CliError::unwritable(out, &error))?;
        session.ui.status(format!("saved; `nexusctl dlq apply {}` runs it", out.display()));
    }
    Ok(if !plan.in_the_way.is_empty() {
        ExitStatus::Blocked
    } else if args.exit_code && plan.meant > 0 {
        ExitStatus::Negative
    } else {
        ExitStatus::Done
    })
}

/// The scan that is asked: a stored one, or one that is made now.
async fn scan_of(
    args: &PlanArgs,
    min_lives: u64,
    own: &Connector,
    broker: &dyn Broker,
    settings: &Settings,
    session: &Session,
    bar: &Progress,
) -> Result<(Scans, Scan), CliError> {
    let queue = &args.queue;
    let none = |message: String| {
        CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, message)
            .object(queue.as_str())
            .hint("leave `--stored` and `--scan` out, and the queue is read")
    };
    if let Some(number) = args.scan {
        let missing = || none(format!("there is no scan {number} of queue `{queue}` here"));
        let scans = super::stored::look(settings).await?.ok_or_else(missing)?;
        let scan = scans.scan(ScanId(number))?.ok_or_else(missing)?;
        let identity = broker.identity();
        let fits = scan.of.cluster == identity.cluster_name
            && scan.of.vhost == identity.vhost.as_str()
            && scan.of.queue == *queue;
        return if fits { Ok((scans, scan)) } else { Err(missing()) };
    }
    if args.stored {
        let newest = audience::newest(queue, broker, settings).await?;
        return newest.ok_or_else(|| none(format!("queue `{queue}` was not scanned")));
    }
    let scene = Scene {
        broker,
        shown: &own.shown(),
        settings,
        clock: &*session.clock,
        stop: session.stop.job(),
        bar,
    };
    match read(&ScanArgs::whole(queue.clone(), min_lives, args.keep_body), scene).await? {
        Done::Scanned(_, scan) => {
            Ok((Scans::open(&settings.state.value, settings.timeout()).await?, scan))
        }
        Done::Planned(..) => Err(CliError::failed("the queue was not read")),
    }
}

async fn look(
    args: &PlanArgs,
    mut asked: Asked,
    own: &Connector,
    there: Option<&Connector>,
    settings: &Settings,
    session: &Session,
    bar: &Progress,
) -> Result<Looked, CliError> {
    let queue = &args.queue;
    let broker = own.connect().await?;
    let other = elsewhere::connect(there).await?;
    elsewhere::settle(&mut asked.spec, queue, &*broker, other.as_deref())?;
    let spec = &asked.spec;
    // What is missing is said before the queue is read.
    execute::look(queue, spec, &*broker, other.as_deref(), settings).await?;
    let (scans, scan) =
        scan_of(args, spec.min_lives, own, &*broker, settings, session, bar).await?;
    let around = execute::look(queue, spec, &*broker, other.as_deref(), settings).await?;
    let another = elsewhere::is_another(&*broker, other.as_deref());
    let view = around.of_targets(other.is_some());
    let survey = survey(&scans, &scan, spec, Targets { view, elsewhere: another })?;
    let mut risks = Vec::new();
    if !scan.complete {
        let why = scan.remark.as_deref().unwrap_or("it was cut off");
        risks.push(format!("scan {} is not the whole queue: {why}", scan.id.0));
    }
    if args.stored || args.scan.is_some() {
        risks.push(format!("the letters are those of scan {} of {}", scan.id.0, scan.began));
    }
    if scan.twins > 0 {
        let twins = count(scan.twins, "letter");
        risks
            .push(format!("{twins} cannot be told apart from another: of such, the first ones go"));
    }
    match &survey.heard {
        Some(heard) => risks.extend(warnings(heard, (!another).then_some(queue))),
        None if view.is_none() => risks.push(
            "who else gets the copies is not known: the broker cannot be listed without its management \
             API"
            .to_owned(),
        ),
        None => {}
    }
    let target_broker: &Arc<dyn Broker> = other.as_ref().unwrap_or(&broker);
    let mut targets = Vec::new();
    for (noun, name) in &survey.targets {
        match seen(*noun, name, view, &**target_broker).await? {
            Some(seen) => targets.push(seen),
            None => risks.push(format!(
                "{} `{name}` does not exist: the letters for it stay",
                noun.as_str()
            )),
        }
    }
    let seen_here = seen(SeenNoun::Queue, queue.as_str(), around.view.as_ref(), &*broker).await?;
    let gone = || CliError::failed(format!("queue `{queue}` went away while it was looked at"));
    let looked = Looked {
        queue: seen_here.ok_or_else(gone)?,
        broker: BrokerSeen::new(broker.identity(), own.shown()),
        elsewhere: other
            .as_ref()
            .zip(there)
            .map(|(other, there)| BrokerSeen::new(other.identity(), there.shown())),
        asked,
        around,
        scan,
        survey,
        targets,
        risks,
    };
    if let Some(other) = other {
        let _ = other.close().await;
    }
    let _ = broker.close().await;
    Ok(looked)
}

fn document_of(looked: Looked, session: &Session) -> Result<DeadLetterPlan, CliError> {
    let Looked { asked, around, scan, survey, broker, elsewhere, queue, targets, mut risks } =
        looked;
    let spec = asked.spec;
    let selection = &spec.selection;
    let counted = !survey.all_named;
    let by_name =
        !selection.ids.is_empty() || selection.first.is_some() || selection.last.is_some();
    if counted && by_name {
        let message = format!(
            "cannot plan {} one by one: a plan names {MOST_LETTERS} at most",
            count(survey.meant, "letter")
        );
        return Err(CliError::failed(message).object(&queue.name).hint(
            "make several plans of `--first 100000`, one after the other is applied, or select by \
             a condition",
        ));
    }
    let mut plan = DeadLetterPlan {
        format: FORMAT,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        made_at: session.clock.now().to_string(),
        made_by: session.who.clone(),
        broker,
        queue,
        ready: around.facts.ready.max(scan.letters),
        elsewhere,
        targets,
        meant: survey.meant,
        letters: survey.all_named.then_some(survey.letters),
        totals: survey.totals,
        stay: survey.stay,
        edits: spec.edit.in_words(),
        in_the_way: Vec::new(),
        risks: Vec::new(),
        cost: Vec::new(),
        order: String::new(),
        audience: survey.heard,
        inputs: asked.inputs,
        checksum: None,
        run: spec,
    };
    let run = plan.run()?;
    let request = run.request();
    let weighed = weigh(&around.facts, &request);
    plan.in_the_way = weighed.objections.iter().map(objection_in_words).collect();
    plan.cost = cost(&around.facts, &weighed, &plan.run, plan.meant);
    order_in_words(request.order).clone_into(&mut plan.order);
    risks.extend(overridden(&around.facts, &request));
    risks.extend(weighed.warnings);
    if let Some(elsewhere) = &plan.run.elsewhere
        && elsewhere.had_password
    {
        risks.push(
            "whoever runs it has to give `--to-broker` again: its password is not kept".to_owned(),
        );
    }
    plan.risks = risks;
    tracing::debug!(target: "nexus::dlq", to = in_words(&plan.run)?, "planned");
    Ok(plan.sealed())
}
