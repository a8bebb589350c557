//! `nexusctl limit …`: rate limits that the processes of this host share.

mod take;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};

use crate::base::time::Timestamp;
use crate::project::Project;
use crate::resilience::LimitSettings;
use crate::resilience::store::StoredLimit;

use super::error::CliError;
use super::exit::ExitStatus;
use super::runtime::unless_stopped;
use super::session::Session;
use super::settings::Settings;
use super::state;

pub use view::{LimitListView, LimitTakeView, LimitView};

use view::LimitRow;

/// Arguments of `limit`.
#[derive(Debug, Args)]
pub struct LimitArgs {
    /// What to do.
    #[command(subcommand)]
    command: LimitCommand,
}

#[derive(Debug, Subcommand)]
enum LimitCommand {
    /// List rate limits and what is left of them
    List(ListArgs),
    /// Show one limit: what is left, and who may take how much
    Show(ShowArgs),
    /// Take tokens now, or end with status 75
    Try(take::TryArgs),
    /// Take tokens as soon as they are there
    Wait(take::WaitArgs),
}

/// Arguments of `limit list`.
#[derive(Debug, Args)]
#[command(
    after_help = "Those of nexus.yaml, and those that a process of this host has used.\n\nExamples:\n  \
    nexusctl limit list\n  nexusctl limit list -o ndjson"
)]
struct ListArgs {}

/// Arguments of `limit show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl limit show api\n  nexusctl limit show api -o json")]
struct ShowArgs {
    /// The limit
    name: String,
}

/// Runs one of the commands.
pub(super) fn run(args: LimitArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let LimitArgs { command } = args;
    match command {
        LimitCommand::List(ListArgs {}) => list(session),
        LimitCommand::Show(args) => show(&args, session),
        LimitCommand::Try(args) => take::try_now(args, session),
        LimitCommand::Wait(args) => take::wait(args, session),
    }
}

/// The limits that nexus.yaml names and those that were used.
struct Limits {
    configured: BTreeMap<String, LimitSettings>,
    stored: BTreeMap<String, StoredLimit>,
}

impl Limits {
    async fn read(settings: &Settings) -> Result<Limits, CliError> {
        let configured = settings.project.as_ref().map(Project::limits).unwrap_or_default();
        let stored = match state::look(settings).await? {
            Some(state) => state.limits()?,
            None => Vec::new(),
        };
        let stored = stored.into_iter().map(|limit| (limit.name.clone(), limit)).collect();
        Ok(Limits { configured, stored })
    }

    fn of(session: &mut Session) -> Result<Limits, CliError> {
        let settings = session.settings()?;
        session.drive(unless_stopped(&session.stop, Limits::read(&settings)))
    }

    fn names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.configured.keys().chain(self.stored.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// The settings that the next process uses.
    fn settings(&self, name: &str) -> Result<LimitSettings, CliError> {
        let stored = || {
            let limiter = &self.stored.get(name)?.limiter;
            Some(LimitSettings { limit: limiter.limit(), reserve: limiter.reserve() })
        };
        self.configured
            .get(name)
            .copied()
            .or_else(stored)
            .ok_or_else(|| state::unknown("limit", name, &self.names()))
    }

    fn row(&self, name: &str, now: Timestamp) -> Result<LimitRow, CliError> {
        let settings = self.settings(name)?;
        let stored = self.stored.get(name);
        let limiter = settings.resume(stored.map(|stored| stored.limiter.clone()), now);
        let configured = self.configured.contains_key(name);
        Ok(LimitRow::new(name, &limiter, configured, stored.map(|stored| stored.changed), now))
    }
}

fn list(session: &mut Session) -> Result<ExitStatus, CliError> {
    let limits = Limits::of(session)?;
    let now = session.clock.now();
    let rows = limits.names().iter().map(|name| limits.row(name, now)).collect::<Result<_, _>>()?;
    session.ui.report(&LimitListView { limits: rows })?;
    Ok(ExitStatus::Done)
}

fn show(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let limits = Limits::of(session)?;
    let limit = limits.row(&args.name, session.clock.now())?;
    session.ui.report(&LimitView { limit })?;
    Ok(ExitStatus::Done)
}
