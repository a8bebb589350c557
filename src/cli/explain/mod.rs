//! `nexusctl explain CODE`: what a number or a name means and what to do about it.

pub mod catalogue;
mod view;

use clap::Args;

use crate::base::suggest::nearest;
use crate::resilience::classification::TABLE;

use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::session::Session;

use catalogue::Entry;
pub use view::{ExplainListView, ExplainView, RetryTableView};

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  nexusctl explain\n  nexusctl explain 5\n  \
                        nexusctl explain 406\n  nexusctl explain retry\n  nexusctl explain document/unknown-key")]
pub struct ExplainArgs {
    /// An exit status, an AMQP reply code, or a code such as `broker/unreachable`; `retry` prints which
    /// failures are tried again; all codes when left out
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// Prints one entry, or the names of all.
pub(super) fn run(args: ExplainArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let ExplainArgs { code } = args;
    let Some(asked) = code else {
        session.ui.report(&ExplainListView::new(catalogue::all()))?;
        return Ok(ExitStatus::Done);
    };
    let asked = asked.trim().trim_start_matches("error[").trim_end_matches(']').to_lowercase();
    if asked == catalogue::RETRY {
        session.ui.report(&RetryTableView::new(TABLE))?;
        return Ok(ExitStatus::Done);
    }
    match find(&asked) {
        Some(entry) => {
            session.ui.report(&ExplainView::from(entry))?;
            Ok(ExitStatus::Done)
        }
        None => Err(unknown(&asked)),
    }
}

/// The entry called `asked`; the part after the `/` alone will do.
fn find(asked: &str) -> Option<&'static Entry> {
    catalogue::all()
        .find(|entry| entry.code == asked)
        .or_else(|| catalogue::all().find(|entry| entry.code.split('/').nth(1) == Some(asked)))
}

fn unknown(asked: &str) -> CliError {
    let error = CliError::new(
        code::UNKNOWN_NAME,
        ExitStatus::Usage,
        format!("there is nothing called `{asked}` to explain"),
    );
    match nearest(asked, catalogue::all().map(|entry| entry.code)) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error.hint("`nexusctl explain` lists all codes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_status_is_explained() {
        for status in ExitStatus::ALL {
            assert!(find(&status.number().to_string()).is_some(), "{status:?}");
        }
    }

    #[test]
    fn no_code_is_explained_twice_and_none_lacks_words() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in catalogue::all() {
            assert!(seen.insert(entry.code), "{} twice", entry.code);
            assert!(entry.meaning.ends_with('.') && entry.action.ends_with('.'), "{}", entry.code);
            assert!(!entry.title.ends_with('.'), "{}", entry.code);
        }
    }

    #[test]
    fn the_part_after_the_slash_finds_its_entry() {
        assert_eq!(find("unreachable").map(|entry| entry.code), Some("broker/unreachable"));
    }
}
