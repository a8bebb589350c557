//! Which letters a command is about: the same options for every verb.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::base::time::{HumanDuration, Timestamp};
use crate::deadletter::Selection;
use crate::deadletter::select::SelectError;

use crate::cli::error::CliError;
use crate::cli::session::Session;

/// A point in time, or so long ago.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum When {
    /// Then.
    At(Timestamp),
    /// So long before now.
    Ago(HumanDuration),
}

impl When {
    /// The point, seen from `now`.
    pub(in crate::cli) fn at(self, now: Timestamp) -> Timestamp {
        match self {
            When::At(at) => at,
            When::Ago(ago) => {
                let ms = i64::try_from(ago.as_ms()).unwrap_or(i64::MAX);
                Timestamp::from_unix_ms(now.unix_ms().saturating_sub(ms))
            }
        }
    }
}

/// Reads it from the command line.
pub(in crate::cli) fn parse_when(text: &str) -> Result<When, String> {
    text.parse().map(When::Ago).or_else(|_| text.parse().map(When::At)).map_err(|_| {
        format!(
            "`{text}` is neither a duration back such as 2h nor a time such as 2026-11-23T10:00:00Z"
        )
    })
}

/// Which letters are meant. Every letter when nothing is said.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Which letters")]
pub(in crate::cli) struct SelectionArgs {
    /// These letters, by their ids or the first letters of them, and all of these groups
    #[arg(long = "select", value_name = "ID|GROUP", value_delimiter = ',')]
    names: Vec<String>,
    /// Those for which this CEL condition is true: `reason`, `origin.queue`, `deaths[0].count`,
    /// `headers`, `body`, `routingKey`, `position`, `diedAt` and the like
    #[arg(long = "where", value_name = "CEL")]
    condition: Option<String>,
    /// Those that died then or later: a time, or a duration back
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    since: Option<When>,
    /// Those that died before: a time, or a duration back
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    until: Option<When>,
    /// Of these, so many from the head of the queue
    #[arg(long, value_name = "N", conflicts_with = "last")]
    first: Option<u64>,
    /// Of these, so many from its tail
    #[arg(long, value_name = "N")]
    last: Option<u64>,
    /// Those named in this file, which `dlq groups`, `letters` or `show` wrote with `-o json`; `-` is
    /// standard input
    #[arg(long, value_name = "FILE")]
    selection: Option<PathBuf>,
}

impl SelectionArgs {
    /// What was asked for.
    ///
    /// # Errors
    /// When a name can be none, or the file cannot be used.
    pub(in crate::cli) fn selection(&self, session: &mut Session) -> Result<Selection, CliError> {
        let now = session.clock.now();
        let mut selection = Selection {
            condition: self.condition.clone(),
            since: self.since.map(|when| when.at(now)),
            until: self.until.map(|when| when.at(now)),
            first: self.first,
            last: self.last,
            ..Selection::default()
        };
        for name in &self.names {
            selection.add(name)?;
        }
        if let Some(path) = &self.selection {
            let text = if path == Path::new("-") {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut session.take_stdin(), &mut text)
                    .map_err(|error| CliError::file("read the selection", &error))?;
                text
            } else {
                std::fs::read_to_string(session.resolve(path)).map_err(|error| {
                    CliError::file(format!("read the selection {}", path.display()), &error)
                })?
            };
            selection
                .add_file(&text)
                .map_err(|error| CliError::input(format!("{}: {error}", path.display())))?;
        }
        Ok(selection)
    }
}

impl From<SelectError> for CliError {
    fn from(error: SelectError) -> Self {
        let shown = CliError::usage(error.to_string());
        match error {
            SelectError::Ambiguous { .. } => shown.hint("write more of the letter's id"),
            SelectError::NeedsTotal => shown.hint("scan the queue first"),
            SelectError::Invalid(_) | SelectError::Undecided(_) => shown,
        }
    }
}
