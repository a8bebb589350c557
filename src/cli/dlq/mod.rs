//! `nexusctl dlq …`: dead letters, seen without harm, understood, and replayed, moved or put into files
//! without losing one.

mod audit;
mod browse;
mod diff;
mod doctor;
mod groups;
mod incident;
mod label;
mod letters;
mod list;
mod bundles;
mod import;
mod moves;
mod scan;
mod scans;
pub(in crate::cli) mod selection;
mod show;
pub(in crate::cli) mod stored;
mod execute;
mod how;
mod replay;
mod report;
mod resume;
mod run;
mod runs;
mod undo;
mod watch;

use clap::{Args, Subcommand};

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

pub use audit::{AuditHeadView, AuditTrailView, AuditVerificationView};
pub use diff::DeadLetterDiffView;
pub use doctor::DeadLetterAuditView;
pub use groups::DeadLetterGroupsView;
pub use incident::{IncidentExportView, IncidentView};
pub use label::DeadLetterLabelView;
pub use letters::DeadLettersView;
pub use list::DeadLetterQueuesView;
pub use report::ReplayView;
pub use run::ReplayRunView;
pub use runs::ReplayRunsView;
pub use scan::DeadLetterScanView;
pub use scans::DeadLetterScansView;
pub use show::DeadLetterView;
pub use watch::{DeadLetterAlertView, DeadLetterWatchView};

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// What to do.
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// Find the queues that gather dead letters, and say what is in them
    List(list::ListArgs),
    /// Read a dead-letter queue once, without harm, for every later question
    Scan(scan::ScanArgs),
    /// List the scans that are kept, or forget one
    Scans(scans::ScansArgs),
    /// Show what died for the same reason, the most frequent first
    Groups(groups::GroupsArgs),
    /// Give a group a name, for the next time
    Label(label::LabelArgs),
    /// List letters of a scan
    Letters(letters::LettersArgs),
    /// Explain one letter: its journey, its properties, its body
    Show(show::ShowArgs),
    /// Walk through groups and letters on the terminal, and mark some for a plan
    Browse(browse::BrowseArgs),
    /// Show what two letters differ in
    Diff(diff::DiffArgs),
    /// Find where this topology loses dead letters, and the traps of this broker's version
    Doctor(doctor::DoctorArgs),
    /// Send letters back to where they are worked on, each acked only after it is confirmed there
    Replay(Box<replay::ReplayArgs>),
    /// Move letters to another queue, dead as they are
    Move(Box<moves::MoveArgs>),
    /// Copy letters to another queue; they stay as well
    Copy(Box<moves::CopyArgs>),
    /// Put letters aside, into a queue that is declared when it is not there
    Park(Box<moves::ParkArgs>),
    /// Take letters off the queue, each into a file first
    Drop(Box<bundles::DropArgs>),
    /// Write letters into a file; they stay as well
    Export(Box<bundles::ExportArgs>),
    /// Put letters of a file back into their queue, or to where they are worked on
    Import(Box<import::ImportArgs>),
    /// Take back what a replay, a move, a park or a drop did
    Undo(Box<undo::UndoArgs>),
    /// Go on with a run that was stopped or killed
    Resume(resume::ResumeArgs),
    /// List runs: replays, moves, drops and the like
    Runs(runs::RunsArgs),
    /// Look at one run
    Run(run::RunArgs),
    /// Watch depth, deaths a minute and age, and tell others when it is too much
    Watch(Box<watch::WatchArgs>),
    /// Keep everything that is known about an incident in one file, or look at such a file
    Incident(incident::IncidentArgs),
    /// See who did what to dead letters, and that nobody has changed it since
    Audit(audit::AuditArgs),
}

/// Runs one of the commands.
pub(super) fn run(args: DlqArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DlqArgs { command } = args;
    match command {
        DlqCommand::List(args) => list::run(args, session),
        DlqCommand::Scan(args) => scan::run(&args, session),
        DlqCommand::Scans(args) => scans::run(&args, session),
        DlqCommand::Groups(args) => groups::run(&args, session),
        DlqCommand::Label(args) => label::run(&args, session),
        DlqCommand::Letters(args) => letters::run(args, session),
        DlqCommand::Show(args) => show::run(&args, session),
        DlqCommand::Browse(args) => browse::run(&args, session),
        DlqCommand::Diff(args) => diff::run(&args, session),
        DlqCommand::Doctor(args) => doctor::run(&args, session),
        DlqCommand::Replay(args) => replay::run(&args, session),
        DlqCommand::Move(args) => moves::run_move(&args, session),
        DlqCommand::Copy(args) => moves::run_copy(&args, session),
        DlqCommand::Park(args) => moves::run_park(&args, session),
        DlqCommand::Drop(args) => bundles::run_drop(&args, session),
        DlqCommand::Export(args) => bundles::run_export(&args, session),
        DlqCommand::Import(args) => import::run(&args, session),
        DlqCommand::Undo(args) => undo::run(&args, session),
        DlqCommand::Resume(args) => resume::run(&args, session),
        DlqCommand::Runs(args) => runs::run(&args, session),
        DlqCommand::Run(args) => run::run(args, session),
        DlqCommand::Watch(args) => watch::run(&args, session),
        DlqCommand::Incident(args) => incident::run(args, session),
        DlqCommand::Audit(args) => audit::run(args, session),
    }
}
