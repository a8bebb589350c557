//! `dlq audit`: who did what to dead letters, when and why, and whether nobody has changed that since.

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::base::id::QueueName;
use crate::deadletter::trail::chain::{GENESIS, is_seal};
use crate::deadletter::trail::{Broken, Entry, Filter, Head, NewEntry, Noun, Trail, Verdict};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::session::Session;
use crate::cli::settings::Settings;

use super::selection::{When, parse_when};

/// Arguments of `dlq audit`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct AuditArgs {
    #[command(subcommand)]
    command: Option<AuditCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List what was done, the newest first
    List(ListArgs),
    /// Check that nothing of it was changed, taken out or moved
    Verify(VerifyArgs),
    /// Print the newest seal, to be noted elsewhere
    Head(HeadArgs),
}

#[derive(Debug, Args)]
#[command(
    after_help = "Runs that begin, are resumed and end, scans that are forgotten, and looks at secrets. \
    Each entry is in the same commit as what it tells of.\n\nExamples:\n  nexusctl dlq audit list\n  \
    nexusctl dlq audit list --queue dead.agent.worker --since 8h\n  \
    nexusctl dlq audit list --run night-1 -o json"
)]
struct ListArgs {
    /// Only what concerns this queue
    #[arg(long, value_name = "QUEUE")]
    queue: Option<QueueName>,
    /// Only what belongs to this run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Only what was done by those of whom this is a part of the name
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// Only what was done then or later: a time, or a duration back
    #[arg(long, value_name = "TIME", value_parser = parse_when)]
    since: Option<When>,
    /// So many at most, the newest first
    #[arg(long, value_name = "N", default_value_t = 100)]
    first: usize,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Walks along the whole chain. Status 2: it is broken; the first place is named. That the \
    newest entries were taken away with every trace shows only against a seal that `dlq audit head` \
    printed before and that was kept elsewhere.\n\nExamples:\n  nexusctl dlq audit verify\n  \
    nexusctl dlq audit verify --head 0000000000000000000000000000000000000000000000000000000000000000"
)]
struct VerifyArgs {
    /// The seal of an entry, as noted elsewhere: that entry has to be there still
    #[arg(long, value_name = "SEAL", value_parser = parse_seal)]
    head: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Keep it where whoever can write the state file cannot: a ticket, a log of another \
    machine.\n\nExamples:\n  nexusctl dlq audit head\n  nexusctl dlq audit head -o json"
)]
struct HeadArgs {}

fn parse_seal(text: &str) -> Result<String, String> {
    let seal = text.to_ascii_lowercase();
    if is_seal(&seal) { Ok(seal) } else { Err("a seal has 64 hexadecimal digits".to_owned()) }
}

/// An entry of the trail.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntryRow {
    /// Its number, from 1.
    sequence: i64,
    /// When it was done; null when the entry cannot be read any more.
    at: Option<String>,
    /// Who did it.
    who: Option<String>,
    /// What was done.
    what: Option<String>,
    /// What kind of thing it was done to.
    noun: Option<Noun>,
    /// The name of that thing.
    object: Option<String>,
    /// The queue it concerns.
    queue: Option<String>,
    /// The run it belongs to.
    run: Option<String>,
    /// Why.
    reason: Option<String>,
    /// What else is known; the text itself when the entry cannot be read any more.
    details: Value,
    /// The seal of the entry before.
    previous: Option<String>,
    /// Its seal.
    hash: String,
}

impl EntryRow {
    pub(super) fn new(number: i64, entry: Result<Entry, String>, hash: String) -> EntryRow {
        match entry {
            Ok(entry) => EntryRow {
                sequence: number,
                at: Some(entry.at.to_string()),
                who: Some(entry.who),
                what: Some(entry.what),
                noun: Some(entry.noun),
                object: Some(entry.object),
                queue: entry.queue,
                run: entry.run,
                reason: entry.reason,
                details: entry.details,
                previous: Some(entry.previous),
                hash,
            },
            Err(text) => EntryRow {
                sequence: number,
                at: None,
                who: None,
                what: None,
                noun: None,
                object: None,
                queue: None,
                run: None,
                reason: None,
                details: text.into(),
                previous: None,
                hash,
            },
        }
    }
}

/// What was done to dead letters.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditTrailView {
    /// The newest first.
    entries: Vec<EntryRow>,
    /// Whether there are more.
    more: bool,
}

impl View for AuditTrailView {
    const KIND: &'static str = "AuditTrail";
    const ITEMS: Option<&'static str> = Some("entries");
    fn text(&self, page: &mut Page) {
        if self.entries.is_empty() {
            page.line("nothing was done");
            return;
        }
        let rows = self.entries.iter().map(|row| {
            let object = row.object.clone().unwrap_or_default();
            let noun = row.noun.map(Noun::as_str).unwrap_or_default();
            [
                row.sequence.to_string(),
                row.at.clone().unwrap_or_else(|| "unreadable".to_owned()),
                row.who.clone().unwrap_or_default(),
                row.what.clone().unwrap_or_default(),
                format!("{noun} {object}"),
                row.queue.clone().unwrap_or_default(),
                row.reason.clone().unwrap_or_default(),
            ]
        });
        page.table(["#", "AT", "WHO", "WHAT", "TO", "QUEUE", "REASON"], rows.collect());
        if self.more {
            page.line("and more; `--first` shows them");
        }
    }
}

/// What is wrong with the chain.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BrokenView {
    /// The number at which it is broken.
    at: u64,
    /// `changed`, `missing`, `reordered`, `rewritten` or `cut off`.
    damage: &'static str,
    /// The same in words.
    words: String,
}

impl From<&Broken> for BrokenView {
    fn from(broken: &Broken) -> Self {
        BrokenView { at: broken.at, damage: broken.damage.as_str(), words: broken.to_string() }
    }
}

/// Whether the trail is whole.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditVerificationView {
    /// Whether nothing is wrong.
    whole: bool,
    /// Entries that are in order, from the first.
    entries: u64,
    /// The seal of the last of these.
    head: String,
    /// The number of the entry with the noted seal; null when none was given, or none has it.
    noted_at: Option<u64>,
    /// The first thing that is wrong.
    broken: Option<BrokenView>,
}

impl From<&Verdict> for AuditVerificationView {
    fn from(verdict: &Verdict) -> Self {
        AuditVerificationView {
            whole: verdict.broken.is_none(),
            entries: verdict.entries,
            head: verdict.head.clone(),
            noted_at: verdict.noted_at,
            broken: verdict.broken.as_ref().map(BrokenView::from),
        }
    }
}

impl AuditVerificationView {
    /// The verdict in one line.
    pub(super) fn line(&self) -> String {
        match &self.broken {
            None => format!("the trail is whole: {}", count_entries(self.entries)),
            Some(broken) => format!("the trail is broken: {}", broken.words),
        }
    }
}

fn count_entries(many: u64) -> String {
    count(many, "entry")
}

impl View for AuditVerificationView {
    const KIND: &'static str = "AuditVerification";
    fn text(&self, page: &mut Page) {
        let style = page.style;
        let line = self.line();
        page.line(if self.whole { style.good(&line) } else { style.bad(&line) });
        if !self.whole {
            page.line(format!("before it {} are in order", count_entries(self.entries)));
        }
        if let Some(at) = self.noted_at.filter(|_| self.whole) {
            let since = self.entries.saturating_sub(at);
            page.line(format!("the noted seal is that of entry {at}; {since} came since"));
        }
        page.line(format!("head {}", self.head));
    }
}

/// The newest entry of the trail.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditHeadView {
    /// Its number; 0 when there is none.
    sequence: u64,
    /// Its seal.
    head: String,
}

impl View for AuditHeadView {
    const KIND: &'static str = "AuditHead";
    fn text(&self, page: &mut Page) {
        page.line(format!("{} {}", self.sequence, self.head));
    }
}

/// Opens the trail to read it; `None` when nothing was ever kept, since looking makes no file.
pub(super) async fn look(settings: &Settings) -> Result<Option<Trail>, CliError> {
    if settings.state.value.try_exists().is_ok_and(|exists| !exists) {
        return Ok(None);
    }
    Ok(Some(Trail::open(&settings.state.value, settings.timeout()).await?))
}

/// Writes an entry: on the disk when this returns.
pub(super) fn note(entry: NewEntry, session: &mut Session) -> Result<(), CliError> {
    let settings = session.settings()?;
    session.drive(async {
        let trail = Trail::open(&settings.state.value, settings.timeout()).await?;
        trail.append(entry).await?;
        Ok(())
    })
}

/// Whether nothing is wrong with the trail, of which there may be none yet.
pub(super) fn verify(trail: Option<&Trail>, noted: Option<&str>) -> Result<Verdict, CliError> {
    use crate::deadletter::trail::chain::Walk;
    match trail {
        Some(trail) => Ok(trail.verify(noted)?),
        None => Ok(Walk::new(noted).end(0)),
    }
}

pub(super) fn run(args: AuditArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let settings = session.settings()?;
    let trail = session.drive(look(&settings))?;
    match args.command.unwrap_or(AuditCommand::List(args.list)) {
        AuditCommand::List(args) => list(args, trail.as_ref(), session),
        AuditCommand::Verify(VerifyArgs { head }) => {
            let verdict = verify(trail.as_ref(), head.as_deref())?;
            session.ui.report(&AuditVerificationView::from(&verdict))?;
            let whole = verdict.broken.is_none();
            Ok(if whole { ExitStatus::Done } else { ExitStatus::Negative })
        }
        AuditCommand::Head(HeadArgs {}) => {
            let head = match &trail {
                Some(trail) => trail.head()?,
                None => Head { sequence: 0, hash: GENESIS.to_owned() },
            };
            let Head { sequence, hash } = head;
            session.ui.report(&AuditHeadView { sequence, head: hash })?;
            Ok(ExitStatus::Done)
        }
    }
}

fn list(
    args: ListArgs,
    trail: Option<&Trail>,
    session: &mut Session,
) -> Result<ExitStatus, CliError> {
    let ListArgs { queue, run, who, since, first } = args;
    let now = session.clock.now();
    let filter = Filter {
        queue: queue.map(|queue| queue.to_string()),
        run,
        who,
        since: since.map(|when| when.at(now)),
    };
    let mut view = AuditTrailView { entries: Vec::new(), more: false };
    if let Some(trail) = trail {
        trail.each(&filter, &mut |number, entry, hash| {
            view.more = view.entries.len() >= first;
            if !view.more {
                view.entries.push(EntryRow::new(number, entry, hash));
            }
            !view.more
        })?;
    }
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
