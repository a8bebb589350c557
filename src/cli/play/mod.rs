//! `nexusctl play`: a recording, published again at its own pace.

mod view;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;

use crate::base::id::{ExchangeName, RoutingKey};
use crate::broker::PublisherOptions;
use crate::delivery::play::{
    Choice, Journal, JournalError, JournalHead, PlaySource, Point, Position, Speed, Timing,
    print_of,
};
use crate::delivery::publish::{Fate, OnError, PublishEnd, PublishOptions, publish};
use crate::delivery::source::{Limits, RecordSource};

use super::compose::{OnErrorArg, create, show};
use super::connect::Connector;
use super::consent::{self, Deed};
use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::output::API_VERSION;
use super::progress::Progress;
use super::publish::{advise, status_of};
use super::session::Session;

pub use view::PlayView;
use view::Played;

/// Arguments of `play`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every message is mandatory and confirmed, as with publish. Beside the recording \
    stands FILE.journal while it is played; it is written after each confirm, and gone when all is \
    done. A run that was killed goes on with --resume: nothing is left out, and no more than the window \
    is sent twice.\n\nExamples:\n  \
    nexusctl play recording.ndjson\n  \
    nexusctl play recording.ndjson --speed 10x --from 50ms --to 10m\n  \
    nexusctl play recording.ndjson --speed max --exchange nexus.agents --key planner\n  \
    nexusctl play recording.ndjson --speed max --restart --window 64"
)]
pub struct PlayArgs {
    /// The recording: records, one a line, with `receivedAt`
    file: PathBuf,
    /// Play so many times as fast as it was recorded, or as fast as the broker takes it: 2x, 0.5x, max
    #[arg(long, value_name = "SPEED", default_value = "1x")]
    speed: Speed,
    /// Begin here: a time, or how long after the first message
    #[arg(long, value_name = "POINT")]
    from: Option<Point>,
    /// End before this: a time, or how long after the first message
    #[arg(long, value_name = "POINT")]
    to: Option<Point>,
    /// Send everything to this exchange instead
    #[arg(long, value_name = "EXCHANGE")]
    exchange: Option<ExchangeName>,
    /// Send everything with this key instead
    #[arg(long, value_name = "KEY")]
    key: Option<RoutingKey>,
    /// Go on where an earlier run was cut off
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Forget an earlier run and begin anew
    #[arg(long)]
    restart: bool,
    /// Keep the journal here instead of beside the recording
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Send at most so many messages twice after a kill
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(2..=65_535))]
    window: u32,
    /// With a bad line: send nothing more, leave it out, or write it to a file: stop, skip, file=PATH
    #[arg(long, value_name = "HOW", default_value = "stop")]
    on_error: OnErrorArg,
    /// Write what became of each message into this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print the records that would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
}

/// Plays.
pub(super) fn run(args: PlayArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let PlayArgs {
        file,
        speed,
        from,
        to,
        exchange,
        key,
        resume,
        restart,
        journal,
        window,
        on_error,
        report,
        dry_run,
    } = args;
    let settings = session.settings()?;
    let target = Connector::of(session)?;
    let path = session.resolve(&file);
    let unreadable = |error: &io::Error| CliError::file(format!("read {}", file.display()), error);
    let mut recording = File::open(&path).map_err(|error| unreadable(&error))?;
    let choice_text = format!(
        "from {}, to {}, exchange {}, key {}",
        shown(from.map(|point| format!("{point:?}"))),
        shown(to.map(|point| format!("{point:?}"))),
        shown(exchange.as_ref().map(ToString::to_string)),
        shown(key.as_ref().map(ToString::to_string)),
    );
    let head = JournalHead {
        api_version: API_VERSION.to_owned(),
        kind: "PlayJournal".to_owned(),
        recording: print_of(&mut recording).map_err(|error| unreadable(&error))?,
        choice: choice_text,
        window: u64::from(window),
    };
    io::Seek::rewind(&mut recording).map_err(|error| unreadable(&error))?;
    let limits = Limits { login: target.login().map(str::to_owned), ..Limits::default() };
    let source = RecordSource::new(Box::new(recording), exchange, key, limits);
    let timing = Timing::default();
    let journal_path = journal.map_or_else(|| beside(&path), |path| session.resolve(&path));
    if dry_run {
        let choice = Choice { speed: Speed::Max, from, to, position: Position::default() };
        let source = PlaySource::new(source, choice, None, timing);
        return show(Box::new(source), &on_error, session);
    }
    let what = format!("play {}", file.display());
    consent::ask(session, &settings, &Deed { what, losses: Vec::new() })?;
    let (journal, position) = Journal::open(&journal_path, &head, resume, restart)
        .map_err(|error| unusable(&error, &journal_path))?;
    let resumed = (position != Position { window: position.window, ..Position::default() })
        .then(|| position.clone());
    if let Some(position) = &resumed {
        session.ui.status(going_on(position));
    } else if resume {
        session.ui.status("there is no earlier run to go on with; playing from the start");
    }
    let choice = Choice { speed, from, to, position };
    let source = PlaySource::new(source, choice, Some(&journal), timing.clone());
    let journal = Arc::new(Mutex::new(journal));
    let noting = Arc::clone(&journal);
    let on_error = on_error.open(session)?;
    // A bad line that ends a run is looked at again by the next; one that is left out is done with.
    let stops = matches!(on_error, OnError::Stop);
    let options = PublishOptions {
        on_error,
        full_report: report.map(|path| create(&path, session)).transpose()?,
        on_entry: Some(Box::new(move |entry| {
            if stops && entry.fate == Fate::Skipped {
                return Ok(());
            }
            let mut journal = noting.lock().unwrap_or_else(PoisonError::into_inner);
            journal.note(entry).map_err(|error| io::Error::other(format!("the journal: {error}")))
        })),
        ..PublishOptions::default()
    };
    let bar = Progress::new(&session.ui, None, "messages");
    let result = session.drive(async {
        let broker = target.connect().await?;
        let window = Journal::in_flight(window);
        let publisher =
            broker.publisher(PublisherOptions { window, ..PublisherOptions::default() }).await?;
        let mut progress = |now: crate::delivery::publish::Progress| bar.at(now.settled);
        let stop = session.stop.job();
        let report = publish(publisher, Box::new(source), options, stop, &mut progress).await;
        let hint = advise(&report, broker.as_ref(), &settings).await;
        // Everything has its outcome; a connection that does not close well changes nothing.
        let _ = broker.close().await;
        Ok((report, hint))
    });
    bar.clear();
    let closed = journal.lock().unwrap_or_else(PoisonError::into_inner).close();
    let nothing_began = result.is_err() && resumed.is_none();
    let is_done = closed.map_err(|error| CliError::unwritable(&journal_path, &error))?
        && result.as_ref().is_ok_and(|(report, _)| report.ended == PublishEnd::Complete);
    if is_done || nothing_began {
        // What is left of it says only that all is done, or that nothing was.
        let _ = std::fs::remove_file(&journal_path);
    }
    let (report, hint) = result?;
    let view = PlayView::new(Played {
        file: &file,
        journal: (!is_done).then_some(journal_path.as_path()),
        speed,
        resumed: resumed.as_ref(),
        timing: &timing,
        report: &report,
        hint: hint.clone(),
    });
    session.ui.report(&view)?;
    if let Some(hint) = hint.filter(|_| !session.ui.format.is_machine()) {
        session.ui.hint(hint);
    }
    if timing.without_time() > 0 && speed != Speed::Max {
        let lines = super::output::count(timing.without_time(), "line");
        session.ui.warning(format!("{lines} without `receivedAt` went out without a pause"));
    }
    if !is_done && !session.ui.format.is_machine() {
        session.ui.hint(format!(
            "`nexusctl play {} --resume` goes on with the same options",
            super::missing::shell_word(&file.display().to_string())
        ));
    }
    if let Some(error) = &report.broker_error {
        session.ui.error(&CliError::from(error));
    }
    status_of(&report, session)
}

fn shown(text: Option<String>) -> String {
    text.map_or_else(|| "as recorded".to_owned(), |text| format!("`{text}`"))
}

fn beside(recording: &Path) -> PathBuf {
    let mut name = recording.as_os_str().to_owned();
    name.push(".journal");
    PathBuf::from(name)
}

/// Where a run goes on, and what it may repeat.
fn going_on(position: &Position) -> String {
    let Position { up_to, refused, window, .. } = position;
    let mut text = format!(
        "going on after line {up_to}; of the messages behind it up to {window} may have been sent \
         before, and are sent again"
    );
    if !refused.is_empty() {
        const NAMED: usize = 10;
        let lines: Vec<String> = refused.iter().take(NAMED).map(u64::to_string).collect();
        let more = if refused.len() > NAMED { " and others" } else { "" };
        text.push_str(&match refused.len() {
            1 => format!("\nline {} was not accepted, and is sent again", lines.join("")),
            _ => {
                format!("\nlines {}{more} were not accepted, and are sent again", lines.join(", "))
            }
        });
    }
    text
}

fn unusable(error: &JournalError, path: &Path) -> CliError {
    let name = path.display();
    match error {
        JournalError::Unfinished(_) => CliError::new(
            code::PLAY_UNFINISHED,
            ExitStatus::Blocked,
            format!("{error}, says {name}; nothing was sent"),
        )
        .hint("`--resume` goes on there, `--restart` begins anew"),
        JournalError::Other(why) => CliError::new(
            code::PLAY_JOURNAL,
            ExitStatus::BadInput,
            format!("cannot use the journal {name}: {why}"),
        )
        .hint("give the options of the first run, or begin anew with `--restart`"),
        JournalError::InUse => CliError::new(
            code::PLAY_JOURNAL,
            ExitStatus::TryLater,
            format!("cannot use the journal {name}: {error}"),
        )
        .hint("wait for it to end"),
        JournalError::Io(error) => CliError::new(
            code::PLAY_JOURNAL,
            ExitStatus::Failed,
            format!("cannot use the journal {name}: {error}"),
        )
        .hint("name a place that can be written with `--journal`"),
    }
}
