//! `dlq apply`: runs a plan, and nothing but it.

use std::path::PathBuf;

use clap::Args;

use crate::base::id::QueueName;
use crate::broker::Broker;
use crate::deadletter::replay::planned::{
    BrokerSeen, DeadLetterPlan, Differences, Input, Now, PlanFileError, SeenNoun, differences,
};
use crate::deadletter::replay::preflight::{topology, topology_there};

use crate::cli::connect::Connector;
use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::elsewhere;
use super::execute::{self, NewRun};
use super::planning::seen;
use super::replay::RunArgs;

/// Arguments of `dlq apply`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exactly the letters that the plan names go; what came since stays. It is refused, with \
    every difference, when the plan was edited, is for another cluster or vhost, when the queue or a \
    target is gone or its type, limits or bindings are others, when fewer letters wait than planned, or \
    when a file that it was made from was changed. A planned letter that is not met is named.\n\n\
    Status 3: partly done, the report says what; 4: refused, or consent is missing.\n\n\
    Examples:\n  \
    nexusctl dlq apply plan.json --dry-run\n  \
    nexusctl dlq apply plan.json --yes --run night-2 --reason 'ticket 4711'"
)]
pub(super) struct ApplyArgs {
    /// The plan, as `dlq plan --out` wrote it
    plan: PathBuf,
    /// The URL that the copies go to, when it had a password: that is not written down
    #[arg(long, value_name = "URL")]
    to_broker: Option<String>,
    #[command(flatten)]
    run: RunArgs,
}

pub(super) fn run(args: &ApplyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let shown = args.plan.display().to_string();
    let text = std::fs::read_to_string(session.resolve(&args.plan))
        .map_err(|error| CliError::file(format!("read {shown}"), &error))?;
    let plan = DeadLetterPlan::read(&text).map_err(|error| {
        let message = format!("cannot apply {shown}: {error}");
        match error {
            PlanFileError::Edited => {
                CliError::new(code::PLAN_EDITED, ExitStatus::BadInput, message)
            }
            PlanFileError::Malformed(_) | PlanFileError::Foreign { .. } => CliError::input(message),
        }
        .object(&shown)
        .hint("nothing was touched; make it again with `nexusctl dlq plan QUEUE … --out FILE`")
    })?;
    let wrong = |error: &dyn std::fmt::Display| {
        CliError::input(format!("cannot apply {shown}: {error}")).object(&shown)
    };
    let queue = QueueName::new(&plan.queue.name).map_err(|error| wrong(&error))?;
    let mut spec = plan.run().map_err(|error| wrong(&error))?;
    elsewhere::given_again(&mut spec, args.to_broker.as_deref(), session)?;
    spec.check(&queue)?;
    let inputs = plan.inputs.iter().map(|input| read_again(input, session)).collect();
    let own = Connector::of(session)?;
    let there = elsewhere::connector(&spec, &own, session)?;
    let now = session
        .drive(unless_stopped(&session.stop, look(&plan, &queue, inputs, &own, there.as_ref())))?;
    refuse(&shown, &plan, &differences(&plan, &now))?;
    for risk in &plan.risks {
        session.ui.warning(risk);
    }
    execute::begin(NewRun { queue, spec, named: args.run.clone() }, session)
}

/// A file that the plan was made from, as it is now. One that is not here is no difference: what it
/// said is in the plan.
fn read_again(input: &Input, session: &Session) -> Option<Input> {
    let path = session.resolve(std::path::Path::new(&input.file));
    let text = std::fs::read_to_string(path).ok()?;
    Some(Input::new(&input.option, &input.file, &text))
}

async fn look(
    plan: &DeadLetterPlan,
    queue: &QueueName,
    inputs: Vec<Option<Input>>,
    own: &Connector,
    there: Option<&Connector>,
) -> Result<Now, CliError> {
    let broker = own.connect().await?;
    let other = elsewhere::connect(there).await?;
    let view = topology(&*broker).await?;
    let view_there = match &other {
        Some(other) => topology_there(&**other).await,
        None => None,
    };
    let found = seen(SeenNoun::Queue, queue.as_str(), view.as_ref(), &*broker).await?;
    let ready = broker.depth(queue).await?.map(|depth| depth.ready);
    let to: &dyn Broker = other.as_deref().unwrap_or(&*broker);
    let view_to = if other.is_some() { view_there.as_ref() } else { view.as_ref() };
    let mut targets = Vec::new();
    for target in &plan.targets {
        targets.push(seen(target.noun, &target.name, view_to, to).await?);
    }
    let now = Now {
        broker: BrokerSeen::new(broker.identity(), own.shown()),
        elsewhere: other
            .as_ref()
            .zip(there)
            .map(|(other, there)| BrokerSeen::new(other.identity(), there.shown())),
        queue: found.zip(ready),
        targets,
        inputs,
    };
    if let Some(other) = other {
        let _ = other.close().await;
    }
    let _ = broker.close().await;
    Ok(now)
}

fn refuse(shown: &str, plan: &DeadLetterPlan, found: &Differences) -> Result<(), CliError> {
    if found.is_empty() {
        return Ok(());
    }
    let queue = &plan.queue.name;
    let mut error = if found.place.is_empty() {
        let message = format!("cannot apply {shown}: queue `{queue}` is not as it was planned");
        CliError::new(code::PLAN_STALE, ExitStatus::Blocked, message).hint(format!(
            "nothing was touched; make the plan again with `nexusctl dlq plan {queue}`"
        ))
    } else {
        let message = format!("cannot apply {shown}: it was made for another place");
        CliError::new(code::WRONG_CLUSTER, ExitStatus::BadSettings, message)
            .hint("nothing was touched; check the URL, the vhost and the context")
    };
    error = error.object(shown);
    for difference in found.all() {
        error = error.because(difference);
    }
    Err(error)
}
