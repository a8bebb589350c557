//! `dlq doctor`: where this topology loses dead letters. Status 2 when it certainly does.

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::Severity;
use crate::broker::{ErrorKind, Version};
use crate::deadletter::losses::{Known, Trap, losses, traps};
use crate::topology::Topology;
use crate::topology::export::export;

use crate::cli::connect::Connector;
use crate::cli::error::{CliError, FindingView};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::runtime::unless_stopped;
use crate::cli::session::Session;

use super::list::project_topology;

/// Arguments of `dlq doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Looks at the broker, or without its management API at the project's topology; nothing is \
    touched. Status 2: dead letters are certainly lost somewhere.\n\nExamples:\n  nexusctl dlq doctor\n  \
    nexusctl dlq doctor --notes -o json"
)]
pub(super) struct DoctorArgs {
    /// Also show notes: what is safe only as long as nothing fails
    #[arg(long)]
    notes: bool,
}

/// Where dead letters get lost.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterAuditView {
    /// `broker`, or `files` when the broker cannot be listed.
    source: &'static str,
    /// The broker's version.
    version: String,
    /// How many errors: dead letters are certainly lost.
    errors: usize,
    /// How many warnings.
    warnings: usize,
    /// How many notes.
    notes: usize,
    /// Every finding, by queue.
    findings: Vec<FindingView>,
    /// What surprises on this version.
    traps: Vec<Trap>,
    #[serde(skip)]
    show_notes: bool,
}

impl View for DeadLetterAuditView {
    const KIND: &'static str = "DeadLetterAudit";
    const ITEMS: Option<&'static str> = Some("findings");
    fn text(&self, page: &mut Page) {
        let style = page.style;
        for finding in &self.findings {
            let word = match finding.severity.as_str() {
                "error" => style.bad("error"),
                "warning" => style.attention("warning"),
                _ if !self.show_notes => continue,
                other => style.dim(other),
            };
            page.line(format!("{word}[{}]: {}", finding.code, finding.message));
            if let Some(hint) = &finding.hint {
                page.line(format!("  hint: {hint}"));
            }
        }
        page.line(format!(
            "{}, {}, {}",
            count(self.errors, "error"),
            count(self.warnings, "warning"),
            count(self.notes, "note")
        ));
        page.gap();
        page.line(style.strong(&format!("on RabbitMQ {}", self.version)));
        let rows = self.traps.iter().map(|trap| {
            let known = match trap.known {
                Known::Measured => "measured",
                Known::Documented => "documented",
                Known::Unknown => "",
            };
            [trap.trap.to_owned(), trap.here.to_owned(), known.to_owned()]
        });
        page.table(["TRAP", "HERE", "KNOWN BY"], rows.collect());
    }
}

/// What is found in `topology`, which comes from the `broker` or from `files`.
pub(super) fn view_of(
    source: &'static str,
    topology: &Topology,
    version: Version,
) -> DeadLetterAuditView {
    let findings = losses(topology, version, source == "broker");
    let number = |severity| findings.iter().filter(|f| f.severity == severity).count();
    DeadLetterAuditView {
        source,
        version: version.to_string(),
        errors: number(Severity::Error),
        warnings: number(Severity::Warning),
        notes: number(Severity::Note),
        findings: findings.iter().map(FindingView::from).collect(),
        traps: traps(version),
        show_notes: false,
    }
}

pub(super) fn run(args: &DoctorArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let DoctorArgs { notes } = *args;
    let target = Connector::of(session)?;
    let files = project_topology(session);
    let (source, topology, version) = session.drive(unless_stopped(&session.stop, async {
        let broker = target.connect().await?;
        let version = broker.identity().version;
        let found = match broker.inspect().await {
            Ok(snapshot) => ("broker", export(&snapshot, ""), version),
            Err(error) if error.kind == ErrorKind::Unsupported => match files {
                Some(files) => ("files", files, version),
                None => return Err(error.into()),
            },
            Err(error) => return Err(error.into()),
        };
        let _ = broker.close().await;
        Ok(found)
    }))?;
    let view = DeadLetterAuditView { show_notes: notes, ..view_of(source, &topology, version) };
    if source == "files" {
        session.ui.warning(
            "the broker cannot be listed without its management API: this is what the files say",
        );
    }
    session.ui.report(&view)?;
    Ok(if view.errors > 0 { ExitStatus::Negative } else { ExitStatus::Done })
}
