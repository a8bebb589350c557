//! `route`, `explain` and `graph`: of files, or of a broker with `--live`.

use clap::{Args, ValueEnum};

use crate::base::id::{ExchangeName, RoutingKey};
use crate::base::suggest::nearest;
use crate::broker::{Change, Version};
use crate::message::argument::parse_headers;
use crate::topology::explain::explain_queue;
use crate::topology::graph::{Mark, Marks, graph as draw};
use crate::topology::object::ObjectKind;
use crate::topology::plan::{Action, Options, Plan, StepAction, plan as make_plan};
use crate::topology::route::route as find_route;
use crate::topology::view::TopologyView;

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::session::Session;

use super::files::{self, FileArgs, FileOptions};
use super::live::inspect;
use super::reports::{GraphView, Language};

/// What is looked at.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Where {
    /// Look at the broker instead of files
    #[arg(long)]
    live: bool,
    /// Follow the rules of this RabbitMQ version
    #[arg(long, value_name = "VERSION", default_value = "4.0", conflicts_with = "live")]
    target: Version,
}

fn look(at: Where, files: FileArgs, session: &mut Session) -> Result<TopologyView, CliError> {
    let Where { live, target } = at;
    if live {
        Ok(TopologyView::of_snapshot(&inspect(session)?))
    } else {
        Ok(TopologyView::of_topology(&files::load(files, session)?, target))
    }
}

/// Arguments of `topology route`.
#[derive(Debug, Args)]
#[command(after_help = "Status 2 when no queue gets it. Nothing is published.\n\n\
    Examples:\n  nexusctl topology route nexus.agents worker\n  \
    nexusctl topology route nexus.events order.created -H region=eu -H priority:=3\n  \
    nexusctl topology route nexus.agents worker --live -o json")]
pub(super) struct RouteArgs {
    /// The exchange; empty for the default exchange
    exchange: ExchangeName,
    /// The routing key
    key: RoutingKey,
    /// Add a header: NAME=TEXT, or NAME:=JSON for other types
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    files: FileOptions,
}

pub(super) fn route(args: RouteArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RouteArgs { exchange, key, headers, at, files } = args;
    let headers = parse_headers(headers.iter().map(String::as_str))
        .map_err(|error| CliError::usage(error.join("; ")))?;
    let view = look(at, files.into(), session)?;
    let report = find_route(&view, &exchange, &key, &headers);
    session.ui.report(&report)?;
    if !view.has_exchange(exchange.as_str()) {
        let known = view.exchanges.keys().map(String::as_str);
        if let Some(meant) = nearest(exchange.as_str(), known) {
            session.ui.hint(format!("did you mean `{meant}`?"));
        }
    }
    let reached = !report.unroutable && report.refused.is_none();
    Ok(if reached { ExitStatus::Done } else { ExitStatus::Negative })
}

/// Arguments of `topology explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl topology explain queue agent.worker\n  \
    nexusctl topology explain queue agent.worker --live -o json")]
pub(super) struct ExplainArgs {
    /// What kind of object
    #[arg(value_enum)]
    kind: ExplainKind,
    /// Its name
    #[arg(value_name = "QUEUE")]
    name: String,
    #[command(flatten)]
    at: Where,
    #[command(flatten)]
    files: FileOptions,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExplainKind {
    /// A queue: every effective value and where it comes from
    Queue,
}

pub(super) fn explain(args: ExplainArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ExplainArgs { kind: ExplainKind::Queue, name, at, files } = args;
    let view = look(at, files.into(), session)?;
    let explanation = explain_queue(&view, &name).map_err(|missing| {
        let error = CliError::new(code::UNKNOWN_NAME, ExitStatus::Failed, missing.to_string())
            .object(&missing.name);
        match missing.meant {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error,
        }
    })?;
    session.ui.report(&explanation)?;
    Ok(ExitStatus::Done)
}

/// Arguments of `topology graph`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl topology graph\n  \
    nexusctl topology graph --language mermaid\n  nexusctl topology graph --plan --live")]
pub(super) struct GraphArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Draw in this language
    #[arg(long, value_enum, default_value_t)]
    language: Language,
    /// Mark what a plan would do: what comes, what changes, what goes
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    at: Where,
}

pub(super) fn graph(args: GraphArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let GraphArgs { files, language, plan, at } = args;
    let (view, marks) = if plan {
        let topology = files::load(files, session)?;
        let snapshot = inspect(session)?;
        // With removals, so that what is no longer declared shows as going.
        let every = [ObjectKind::Exchange, ObjectKind::Queue, ObjectKind::Binding];
        let options =
            Options { prune: every.into(), max_deletes: usize::MAX, ..Options::default() };
        let plan = make_plan(&topology, &snapshot, &options);
        let view = TopologyView::of_topology(&topology, snapshot.identity.version);
        (view, marks_of(&plan))
    } else {
        (look(at, files, session)?, Marks::default())
    };
    session.ui.report(&GraphView::new(draw(&view, &marks), language))?;
    Ok(ExitStatus::Done)
}

fn marks_of(plan: &Plan) -> Marks {
    let mut marks = Marks::default();
    for change in &plan.changes {
        let mark = match change.action {
            Action::Create => Mark::Create,
            Action::Update | Action::PolicyInstead => Mark::Change,
            Action::ReplaceWhileEmpty | Action::Replace | Action::Migrate => Mark::Replace,
            Action::Delete => Mark::Delete,
            Action::Adopt => continue,
        };
        let names = match change.object.kind {
            ObjectKind::Exchange => &mut marks.exchanges,
            ObjectKind::Queue => &mut marks.queues,
            _ => continue,
        };
        names.insert(change.object.name.clone(), mark);
    }
    for step in &plan.steps {
        match &step.action {
            StepAction::Change(Change::Bind(binding)) => {
                marks.bindings.push((binding.clone(), Mark::Create));
            }
            StepAction::Change(Change::Unbind(binding)) => {
                marks.bindings.push((binding.clone(), Mark::Delete));
            }
            _ => {}
        }
    }
    marks
}
