//! The commands that need no broker.

use std::path::PathBuf;

use clap::Args;

use crate::base::diagnostic::{Diagnostic, Findings};
use crate::base::document::Limits;
use crate::base::size::ByteSize;
use crate::broker::Version;
use crate::project::directory::is_name;
use crate::project::files::{FileError, open, read_stream_within};
use crate::topology::Topology;
use crate::topology::expand::to_spec;
use crate::topology::import as definitions;
use crate::topology::lint;

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Format, count};
use crate::cli::session::Session;

use super::files::{self, FileArgs, rejected};
use super::live::inspect;
use super::view::FindingsView;

/// Arguments of `topology validate`.
#[derive(Debug, Args)]
#[command(after_help = "Status 2 when the files are invalid; all findings at once.\n\n\
    Examples:\n  nexusctl topology validate\n  \
    nexusctl topology validate topology.yaml --target 3.10 -o json")]
pub(super) struct ValidateArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Let warnings count as errors
    #[arg(long)]
    strict: bool,
    /// Follow the rules of this RabbitMQ version, such as 3.10, 3.13, 4.0 or 4.3
    #[arg(long, value_name = "VERSION", default_value = "4.0", conflicts_with = "live")]
    target: Version,
    /// Ask the broker for its version and for the permissions of the login
    #[arg(long)]
    live: bool,
}

pub(super) fn validate(args: ValidateArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ValidateArgs { files, strict, target, live } = args;
    let findings = match files::read(files, session)? {
        Ok(topology) if live => {
            let snapshot = inspect(session)?;
            let mut findings = lint::validate(&topology, snapshot.identity.version);
            if let Some(permissions) = &snapshot.permissions {
                let needs = lint::permissions_needed(&topology);
                findings.extend(lint::check_permissions(&needs, permissions));
            }
            findings
        }
        Ok(topology) => lint::validate(&topology, target),
        Err(FileError::Wrong(findings)) => findings,
        Err(error) => return Err(rejected(error, "")),
    };
    let view =
        FindingsView::new("topology".to_owned(), &findings, strict, session.global.verbose > 0);
    session.ui.report(&view)?;
    Ok(if view.is_valid() { ExitStatus::Done } else { ExitStatus::Negative })
}

/// Arguments of `topology render`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl topology render\n  \
    nexusctl topology render topology.yaml -o json")]
pub(super) struct RenderArgs {
    #[command(flatten)]
    files: FileArgs,
}

pub(super) fn render(args: RenderArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RenderArgs { files } = args;
    let topology = files::load(files, session)?;
    print(&topology, session)?;
    Ok(ExitStatus::Done)
}

/// Prints a topology as the file it would be: YAML, or JSON when a program reads.
/// Says so when none of our commands would read it back.
pub(super) fn print(topology: &Topology, session: &mut Session) -> Result<(), CliError> {
    let text = match session.ui.format {
        Format::Table | Format::Yaml => crate::topology::expand::render(topology),
        Format::Json | Format::Ndjson => {
            let document = serde_json::to_value(to_spec(topology))
                .map_err(|error| CliError::failed(format!("cannot print the topology: {error}")))?;
            match session.ui.format {
                Format::Json => format!("{document:#}\n"),
                _ => format!("{document}\n"),
            }
        }
    };
    session.ui.data(text.as_bytes())?;
    let limit = Limits::default().bytes;
    if text.len() > limit {
        let (size, limit) = (ByteSize(text.len() as u64), ByteSize(limit as u64));
        session.ui.warning(format!(
            "the topology has {size}, and a topology file may have {limit}: split it into several, \
             which `nexusctl topology plan FILE FILE` reads as one"
        ));
    }
    Ok(())
}

/// Arguments of `topology import`.
#[derive(Debug, Args)]
#[command(after_help = "The file is what the management page or `rabbitmqctl export_definitions` \
    writes.\n\nExamples:\n  nexusctl topology import definitions.json\n  \
    nexusctl topology import definitions.json --owner shop -o json")]
pub(super) struct ImportArgs {
    /// The definitions file; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Make the topology belong to this owner
    #[arg(long, value_name = "NAME", default_value = "imported")]
    owner: String,
}

/// A cluster with a hundred thousand queues exports some 50 MB, which take 13 times as much memory here.
const LARGEST_DEFINITIONS: usize = 64 << 20;

pub(super) fn import(args: ImportArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ImportArgs { file, owner } = args;
    if !is_name(&owner) {
        return Err(CliError::usage(format!("`{owner}` is no name for an owner")));
    }
    let name = file.display().to_string();
    let limits = Limits { bytes: LARGEST_DEFINITIONS, ..Limits::default() };
    let source = if name == "-" {
        read_stream_within(session.take_stdin(), "-", &limits)
    } else {
        open(&session.resolve(&file), &name)
            .and_then(|file| read_stream_within(file, &name, &limits))
    };
    let source = source.map_err(|error| rejected(error, "the definitions cannot be used"))?;
    let vhost = session.global.vhost.clone();
    let imported = definitions::import(&source.text, vhost.as_deref(), &owner)
        .map_err(|found| CliError::findings(format!("cannot import {name}"), Findings(found)))?;
    tell(&imported.findings, session);
    print(&imported.topology, session)?;
    Ok(ExitStatus::Done)
}

/// Findings that do not stop the command, on stderr.
pub(super) fn tell(findings: &[Diagnostic], session: &mut Session) {
    for finding in findings {
        session.ui.status(finding.to_string());
    }
    if !findings.is_empty() {
        session.ui.status(count(findings.len() as u64, "finding"));
    }
}
