//! `nexusctl circuit …`: circuit breakers that the processes of this host share.

mod ask;
mod order;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};

use crate::base::time::Timestamp;
use crate::project::Project;
use crate::resilience::circuit::{CircuitBreaker, CircuitSettings};
use crate::resilience::store::StoredCircuit;

use super::error::CliError;
use super::exit::ExitStatus;
use super::runtime::unless_stopped;
use super::session::Session;
use super::settings::Settings;
use super::state;

pub use view::{CircuitChangesView, CircuitListView, CircuitTryView, CircuitView};

use view::{CircuitRow, SettingsView};

/// Arguments of `circuit`.
#[derive(Debug, Args)]
pub struct CircuitArgs {
    /// What to do.
    #[command(subcommand)]
    command: CircuitCommand,
}

#[derive(Debug, Subcommand)]
enum CircuitCommand {
    /// List circuits and their states
    List(ListArgs),
    /// Show one circuit: its state, why, until when, and its settings
    Show(ShowArgs),
    /// Ask for a permit, or end with status 75
    Try(ask::TryArgs),
    /// Tell how something ended that had a permit
    Record(ask::RecordArgs),
    /// Let nothing out, until it is closed or the time is over
    Open(order::OrderArgs),
    /// Let everything out and judge nothing, until it is closed or the time is over
    Disable(order::DisableArgs),
    /// End an order, forget failures and let everything out
    Close(order::CloseArgs),
    /// Forget circuits, orders included, as if they had never been used
    Reset(order::ResetArgs),
}

/// Arguments of `circuit list`.
#[derive(Debug, Args)]
#[command(after_help = "Those of nexus.yaml, and those that a process of this host has used.\n\n\
    States: closed (everything is let out), open (nothing is), half-open (probes are), forced-open and \
    disabled (an operator decides).\n\nExamples:\n  nexusctl circuit list\n  \
    nexusctl circuit list -o ndjson")]
struct ListArgs {}

/// Arguments of `circuit show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl circuit show payments\n  \
    nexusctl circuit show payments -o json")]
struct ShowArgs {
    /// The circuit
    name: String,
}

/// Runs one of the commands.
pub(super) fn run(args: CircuitArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CircuitArgs { command } = args;
    match command {
        CircuitCommand::List(ListArgs {}) => list(session),
        CircuitCommand::Show(args) => show(&args, session),
        CircuitCommand::Try(args) => ask::try_now(args, session),
        CircuitCommand::Record(args) => ask::record(args, session),
        CircuitCommand::Open(args) => order::open(args, session),
        CircuitCommand::Disable(args) => order::disable(args, session),
        CircuitCommand::Close(args) => order::close(args, session),
        CircuitCommand::Reset(args) => order::reset(args, session),
    }
}

/// The circuits that nexus.yaml names and those that were used.
struct Circuits {
    configured: BTreeMap<String, CircuitSettings>,
    stored: BTreeMap<String, StoredCircuit>,
}

impl Circuits {
    async fn read(settings: &Settings) -> Result<Circuits, CliError> {
        let configured = settings.project.as_ref().map(Project::circuits).unwrap_or_default();
        let stored = match state::look(settings).await? {
            Some(state) => state.circuits()?,
            None => Vec::new(),
        };
        let stored = stored.into_iter().map(|circuit| (circuit.name.clone(), circuit)).collect();
        Ok(Circuits { configured, stored })
    }

    fn of(session: &mut Session) -> Result<Circuits, CliError> {
        let settings = session.settings()?;
        session.drive(unless_stopped(&session.stop, Circuits::read(&settings)))
    }

    fn names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.configured.keys().chain(self.stored.keys()).collect();
        names.into_iter().cloned().collect()
    }

    fn has(&self, name: &str) -> bool {
        self.configured.contains_key(name) || self.stored.contains_key(name)
    }

    /// Fails unless there is such a circuit.
    fn expect(&self, name: &str) -> Result<(), CliError> {
        if self.has(name) { Ok(()) } else { Err(state::unknown("circuit", name, &self.names())) }
    }

    /// The circuit as the next process finds it.
    fn breaker(&self, name: &str) -> CircuitBreaker {
        let stored = self.stored.get(name);
        let settings = self.configured.get(name).copied();
        let settings = settings.or(stored.map(|stored| stored.settings)).unwrap_or_default();
        let memory = stored.map(|stored| stored.breaker.memory().clone()).unwrap_or_default();
        CircuitBreaker::resume(settings, memory)
    }

    fn row(&self, name: &str, now: Timestamp) -> CircuitRow {
        let used = self.stored.get(name).map(|stored| stored.changed);
        CircuitRow::new(name, &self.breaker(name), self.configured.contains_key(name), used, now)
    }
}

fn list(session: &mut Session) -> Result<ExitStatus, CliError> {
    let circuits = Circuits::of(session)?;
    let now = session.clock.now();
    let rows = circuits.names().iter().map(|name| circuits.row(name, now)).collect();
    session.ui.report(&CircuitListView { circuits: rows })?;
    Ok(ExitStatus::Done)
}

fn show(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ShowArgs { name } = args;
    let circuits = Circuits::of(session)?;
    circuits.expect(name)?;
    let view = CircuitView {
        circuit: circuits.row(name, session.clock.now()),
        settings: SettingsView::new(circuits.breaker(name).settings()),
    };
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
