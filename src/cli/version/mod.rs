//! `nexusctl version`.

mod view;

use clap::Args;

use super::error::CliError;
use super::exit::ExitStatus;
use super::session::Session;

pub use view::VersionView;

/// Arguments of `version`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl version\n  nexusctl version -o json")]
pub struct VersionArgs {}

/// Prints the version with what is built in.
pub(super) fn run(args: VersionArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let VersionArgs {} = args;
    session.ui.report(&VersionView::current())?;
    Ok(ExitStatus::Done)
}

/// `--version`: name and number on one line.
pub(super) fn short(session: &mut Session) -> Result<ExitStatus, CliError> {
    session.ui.data(concat!("nexusctl ", env!("CARGO_PKG_VERSION"), "\n").as_bytes())?;
    Ok(ExitStatus::Done)
}
