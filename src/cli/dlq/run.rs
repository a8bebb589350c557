//! `dlq run show`: what one run did, and which letters may have come twice.

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::deadletter::replay::machine::State;
use crate::deadletter::replay::rest;
use crate::deadletter::replay::store::{Item, Journal, StoredRun, Tally};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::session::Session;

use super::resume::find;
use super::runs::RunRow;

/// Arguments of `dlq run`.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    /// Show what it did, and which letters may have come twice
    Show(ShowArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Letters that are the same in everything, twins, cannot be told from copies: they \
    are listed too.\n\nExamples:\n  nexusctl dlq run show night-1\n  \
    nexusctl dlq run show night-1 -o yaml"
)]
struct ShowArgs {
    /// The run, as `dlq runs` lists it
    run: String,
}

/// A letter that may have come twice.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Doubt {
    /// Its name, also in the header x-nexus-replay-key of every copy.
    id: String,
    /// The id of its message.
    message_id: Option<String>,
    /// Where it goes.
    target: Option<String>,
    /// How often it may have been sent.
    copies: u64,
    /// What became of the last copy.
    state: &'static str,
}

fn word(state: State) -> &'static str {
    match state {
        State::Held => "held",
        State::Intent(_) => "in doubt",
        State::Confirmed => "confirmed",
        State::Parked => "parked",
        State::Returned => "returned",
        State::Nacked => "refused",
        State::Skipped => "confirmed before",
        State::Copied => "copied",
        State::Rested => "put with the rest",
        State::Turned => "refused, and put with the rest",
    }
}

/// One replay.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayRunView {
    /// The run.
    #[serde(flatten)]
    run: RunRow,
    /// Why it ended for the last time, in a word; null while it is open.
    why: Option<String>,
    /// Letters confirmed at their target.
    replayed: u64,
    /// Of these, those that came back after a crash and were acked without another copy.
    skipped: u64,
    /// Letters put aside.
    parked: u64,
    /// Letters left.
    held: u64,
    /// Letters that no queue took.
    returned: u64,
    /// Letters whose copy was refused.
    nacked: u64,
    /// Letters put into the queue in which they wait while others are sent.
    rested: u64,
    /// Of these, those that are back where they were.
    brought_back: u64,
    /// Letters whose last copy may have arrived or not.
    unknown: u64,
    /// Letters that may have come twice.
    in_doubt: Vec<Doubt>,
}

impl ReplayRunView {
    /// What the journal has of a run.
    pub(super) fn of(journal: &Journal, run: &StoredRun) -> Result<ReplayRunView, CliError> {
        let (mut tally, mut doubts) = (journal.tally(&run.id)?, journal.in_doubt(&run.id)?);
        let mut moved = (tally.rested, 0);
        for part in journal.parts(&run.id)? {
            let of_part = journal.tally(&part)?;
            moved.0 += of_part.rested;
            moved.1 += of_part.confirmed + of_part.skipped;
            tally.intent += of_part.intent;
            doubts.extend(journal.in_doubt(&part)?);
        }
        Ok(ReplayRunView::new(RunRow::from(run), run.why.clone(), tally, moved, doubts))
    }

    fn new(
        run: RunRow,
        why: Option<String>,
        tally: Tally,
        moved: (u64, u64),
        doubts: Vec<Item>,
    ) -> Self {
        let in_doubt = doubts.into_iter().map(|item| Doubt {
            id: item.key.to_string(),
            message_id: item.message_id,
            target: item.target,
            copies: item.copies,
            state: word(item.state),
        });
        ReplayRunView {
            run,
            why,
            replayed: tally.confirmed + tally.skipped + tally.copied,
            skipped: tally.skipped,
            parked: tally.parked,
            held: tally.held,
            returned: tally.returned,
            nacked: tally.nacked,
            rested: moved.0,
            brought_back: moved.1,
            unknown: tally.intent,
            in_doubt: in_doubt.collect(),
        }
    }
}

impl View for ReplayRunView {
    const KIND: &'static str = "ReplayRun";
    const ITEMS: Option<&'static str> = None;
    fn text(&self, page: &mut Page) {
        let run = &self.run;
        let name = page.style.strong(&run.run);
        let waited = count(run.ready, "letter");
        page.line(format!(
            "run {name}, {} of queue {} ({}): {waited} waited",
            run.verb, run.queue, run.phase
        ));
        if let Some(bundle) = &run.bundle {
            page.line(format!("bundle {bundle}"));
        }
        if let Some(undone) = &run.undoes {
            page.line(format!("undoes run {undone}"));
        }
        page.line(format!(
            "begun {} by {}, {}",
            run.started,
            run.who,
            count(run.attempts, "attempt")
        ));
        if run.stage.is_some_and(|stage| stage != "whole") {
            page.line(format!(
                "letters that stay are in queue {}{}: `nexusctl dlq resume {}` brings them back",
                rest::PREFIX,
                run.run,
                run.run
            ));
        }
        if let Some(reason) = &run.reason {
            page.line(format!("reason: {reason}"));
        }
        for (number, what) in [
            (self.replayed, "confirmed at their target"),
            (self.skipped, "of these not sent again after a crash"),
            (self.parked, "put aside"),
            (self.held, "left"),
            (self.returned, "returned: no queue took the copy"),
            (self.nacked, "refused"),
            (self.rested, "put aside meanwhile, so that the others could be reached"),
            (self.brought_back, "brought back from there"),
            (self.unknown, "in doubt: the copy may have arrived"),
        ] {
            if number > 0 {
                page.line(format!("{number} {what}"));
            }
        }
        if self.in_doubt.is_empty() {
            page.line("no letter came twice");
            return;
        }
        page.line(format!("{} may have come twice:", count(self.in_doubt.len() as u64, "letter")));
        let rows = self.in_doubt.iter().map(|doubt| {
            [
                doubt.id.clone(),
                doubt.message_id.clone().unwrap_or_default(),
                doubt.target.clone().unwrap_or_default(),
                doubt.copies.to_string(),
                doubt.state.to_owned(),
            ]
        });
        page.table(["ID", "MESSAGE ID", "TARGET", "COPIES", "STATE"], rows.collect());
    }
}

pub(super) fn run(args: RunArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let RunCommand::Show(ShowArgs { run }) = args.command;
    show(&run, session)
}

/// Shows the run called `id`.
pub(super) fn show(id: &str, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let view = session.drive(async {
        let (journal, stored) = find(id, &settings).await?;
        ReplayRunView::of(&journal, &stored)
    })?;
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
