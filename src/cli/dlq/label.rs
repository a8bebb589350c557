//! `dlq label`: what a group of dead letters is called, so that the next incident shows the name.

use std::path::PathBuf;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;

use crate::deadletter::Fingerprint;
use crate::deadletter::labels::learn::LearnError;
use crate::deadletter::labels::{Label, LabelSpec, Labels};
use crate::project::files::FileError;
use crate::project::labels::{LABELS_FILE, LabelError, labels_of, learn};

use crate::cli::error::{CliError, code};
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View};
use crate::cli::session::Session;
use crate::cli::topology::files::shown;

/// Arguments of `dlq label`.
#[derive(Debug, Args)]
#[command(
    after_help = "Adds a label to rules/dead-letters.yaml of the project, or to --labels, and leaves what \
    stands there as it is. `dlq groups`, `letters` and `show` show it from then on.\n\nExamples:\n  \
    nexusctl dlq label g-aaaaaaaaaa 'payment provider is down' --dry-run\n  \
    nexusctl dlq label g-aaaaaaaaaa 'orders without a customer' --owner shop"
)]
pub(super) struct LabelArgs {
    /// The group, as `dlq groups` lists it
    #[arg(value_parser = parse_group)]
    group: Fingerprint,
    /// What it is called, in a few words
    #[arg(value_name = "TEXT")]
    text: String,
    /// What is known about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Where it is written what to do
    #[arg(long, value_name = "URL")]
    runbook: Option<String>,
    /// Whom to ask
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    #[command(flatten)]
    file: LabelFileArgs,
    /// Say what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Which file has the labels.
#[derive(Clone, Debug, Default, Args)]
pub(in crate::cli) struct LabelFileArgs {
    /// The file with the names of groups; rules/dead-letters.yaml of the project when left out
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
}

fn parse_group(text: &str) -> Result<Fingerprint, String> {
    Fingerprint::parse(text).ok_or_else(|| {
        format!("`{text}` is no group: `dlq groups` lists them, g- and ten letters and digits")
    })
}

impl LabelFileArgs {
    /// Where the file is, and how it is shown; `None` when none is named and there is no project.
    fn place(&self, session: &mut Session) -> Result<Option<(PathBuf, String)>, CliError> {
        if let Some(path) = &self.labels {
            return Ok(Some((session.resolve(path), path.display().to_string())));
        }
        let settings = session.settings()?;
        let path = settings.project.as_ref().map(|project| project.root.join(LABELS_FILE));
        Ok(path.map(|path| {
            let name = shown(&path, &session.cwd);
            (path, name)
        }))
    }

    /// The labels; none when no file is named and the project has none.
    ///
    /// # Errors
    /// When the file is wrong, or is named and not there.
    pub(in crate::cli) fn read(&self, session: &mut Session) -> Result<Labels, CliError> {
        let Some((path, name)) = self.place(session)? else { return Ok(Labels::default()) };
        if self.labels.is_none() && path.try_exists().is_ok_and(|exists| !exists) {
            return Ok(Labels::default());
        }
        labels_of(&path, &name).map_err(unusable)
    }
}

/// A label that was learned.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterLabelView {
    /// The file.
    file: String,
    /// The group.
    group: String,
    /// What it is called.
    label: Label,
    /// Whether it was written; false when it was only tried.
    written: bool,
}

impl View for DeadLetterLabelView {
    const KIND: &'static str = "DeadLetterLabel";
    fn text(&self, page: &mut Page) {
        let is = if self.written { "is" } else { "would be" };
        let name = page.style.strong(&self.label.name);
        page.line(format!("group {} {is} called {name} in {}", self.group, self.file));
    }
}

/// A file of labels that cannot be used.
fn unusable(error: FileError) -> CliError {
    match error {
        FileError::Unreadable { name, error } => {
            CliError::file(format!("read {name}"), &error).object(&name)
        }
        FileError::Wrong(findings) => CliError::findings("the labels cannot be used", findings),
    }
}

fn refused(error: LabelError, name: &str) -> CliError {
    match error {
        LabelError::File(error) => unusable(error),
        LabelError::Learn(LearnError::Wrong(findings)) => {
            CliError::findings("the labels cannot be used", findings)
        }
        LabelError::Learn(error @ LearnError::Known { .. }) => {
            CliError::failed(format!("cannot learn the label: {error}"))
                .object(name)
                .hint("change it in the file")
        }
        LabelError::Learn(LearnError::NoPlace(item)) => CliError::failed(format!(
            "cannot add the label to {name}: its list is written in a way that has no place for a line"
        ))
        .object(name)
        .hint(format!("add this to `labels` by hand:\n{}", item.trim_end())),
        LabelError::Unwritable { name, error } => {
            CliError::file(format!("write {name}"), &error).object(&name)
        }
    }
}

pub(super) fn run(args: &LabelArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let LabelArgs { group, text, note, runbook, owner, file, dry_run } = args;
    let Some((path, name)) = file.place(session)? else {
        return Err(CliError::new(
            code::USAGE,
            ExitStatus::Usage,
            "there is no project here that could keep the label",
        )
        .hint("name a file with `--labels`, or make a project with `nexusctl init`"));
    };
    let rule = LabelSpec {
        label: text.clone().into(),
        group: Some(group.to_string().into()),
        when: None,
        note: note.clone(),
        runbook: runbook.clone(),
        owner: owner.clone(),
    };
    learn(&path, &name, &rule, *dry_run).map_err(|error| refused(error, &name))?;
    session.ui.report(&DeadLetterLabelView {
        file: name,
        group: group.to_string(),
        label: Label {
            name: text.clone(),
            note: note.clone(),
            runbook: runbook.clone(),
            owner: owner.clone(),
        },
        written: !dry_run,
    })?;
    Ok(ExitStatus::Done)
}
