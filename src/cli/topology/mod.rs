//! `nexusctl topology …`: what is under version control, and what a broker holds.

pub mod files;
mod live;
mod offline;
mod plan_view;
mod view;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

pub use plan_view::{ApplyView, DiffView, PlanView};
pub use view::FindingsView;

/// Arguments of `topology`.
#[derive(Debug, Args)]
pub struct TopologyArgs {
    /// What to do.
    #[command(subcommand)]
    command: TopologyCommand,
}

#[derive(Debug, Subcommand)]
enum TopologyCommand {
    /// Look for mistakes in topology files, without a broker
    Validate(offline::ValidateArgs),
    /// Print what presets, shorthand and variables expand to
    Render(offline::RenderArgs),
    /// Show what would have to change on the broker, and change nothing
    Plan(live::PlanArgs),
    /// Change the broker into what the files say
    Apply(live::ApplyArgs),
    /// Show how the broker differs from the files
    Diff(live::DiffArgs),
    /// Print what the broker holds as a topology file
    Export(live::ExportArgs),
    /// Print RabbitMQ's definitions JSON as a topology file
    Import(offline::ImportArgs),
    /// Remove what the files declare and this owner made
    Destroy(live::DestroyArgs),
}

/// Runs one of the commands.
pub(super) fn run(args: TopologyArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let TopologyArgs { command } = args;
    match command {
        TopologyCommand::Validate(args) => offline::validate(args, session),
        TopologyCommand::Render(args) => offline::render(args, session),
        TopologyCommand::Plan(args) => live::plan(args, session),
        TopologyCommand::Apply(args) => live::apply(args, session),
        TopologyCommand::Diff(args) => live::diff(args, session),
        TopologyCommand::Export(args) => live::export(args, session),
        TopologyCommand::Import(args) => offline::import(args, session),
        TopologyCommand::Destroy(args) => live::destroy(args, session),
    }
}
