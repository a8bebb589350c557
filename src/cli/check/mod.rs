//! `nexusctl check`: all files of a project.

use std::path::PathBuf;

use clap::Args;

use crate::broker::Version;
use crate::project::Project;
use crate::project::check::check;

use super::error::CliError;
use super::exit::ExitStatus;
use super::output::count;
use super::session::Session;
use super::topology::FindingsView;
use super::topology::files::SetArgs;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Needs no broker. Status 2 when something is wrong; all findings at once.\n\n\
    Examples:\n  nexusctl check\n  nexusctl check --strict --target 3.10 -o json"
)]
pub struct CheckArgs {
    /// Let warnings count as errors
    #[arg(long)]
    strict: bool,
    /// Follow the rules of this RabbitMQ version
    #[arg(long, value_name = "VERSION", default_value = "4.0")]
    target: Version,
    /// Values for variables.
    #[command(flatten)]
    set: SetArgs,
}

/// Checks the project.
pub(super) fn run(args: CheckArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let CheckArgs { strict, target, set } = args;
    // Not by the settings: a wrong nexus.yaml is a finding here, and no reason to stop.
    let root = match (&session.global.project, session.environment.get("NEXUSCTL_PROJECT")) {
        (Some(dir), _) => Some(session.resolve(dir)),
        (None, Some(dir)) => Some(session.resolve(&PathBuf::from(dir))),
        (None, None) => Project::root_around(&session.cwd),
    };
    let Some(root) = root else {
        return Err(CliError::input(
            "there is no project here: no nexus.yaml in this directory or above",
        )
        .hint(
            "`nexusctl init` makes one; `nexusctl topology validate FILE` checks a single file",
        ));
    };
    let checked = check(&root, &set.values(), target);
    let subject = count(checked.files.len() as u64, "file");
    let view = FindingsView::new(subject, &checked.findings, strict, session.global.verbose > 0);
    session.ui.report(&view)?;
    Ok(if view.is_valid() { ExitStatus::Done } else { ExitStatus::Negative })
}
