//! Playing a recording: its messages go out again at the pace at which they came, and a run that is cut
//! off goes on where it was.
//!
//! Beside the recording stands a journal. It says how far everything is confirmed, and is written only
//! after the confirm: what it says is done, is done. A killed run repeats at most what was in flight and
//! what was confirmed and not yet noted, together no more than the window; nothing is left out.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::base::time::{HumanDuration, Timestamp};

use super::publish::{Entry, Fate};
use super::source::{Read1, RecordSource, Source};

/// How fast to play.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Speed {
    /// So many times as fast as it was recorded.
    Times(f64),
    /// As fast as the broker takes it.
    Max,
}

impl FromStr for Speed {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Speed::Max);
        }
        let times = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
        match times {
            Ok(times) if times.is_finite() && times > 0.0 => Ok(Speed::Times(times)),
            _ => Err("write `max`, or how many times as fast: 1x, 2x, 0.5x".to_owned()),
        }
    }
}

impl std::fmt::Display for Speed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Speed::Times(times) => write!(f, "{times}x"),
            Speed::Max => f.write_str("max"),
        }
    }
}

/// A point in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// So long after its first message.
    After(Duration),
    /// At this time.
    At(Timestamp),
}

impl FromStr for Point {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Point::At(time));
        }
        text.parse::<HumanDuration>()
            .map(|after| Point::After(after.0))
            .map_err(|_| "write an RFC 3339 time, or how long after the first message: 90s".into())
    }
}

impl Point {
    fn is_reached(self, at: Timestamp, first: Timestamp) -> bool {
        match self {
            Point::After(after) => at.since(first) >= after,
            Point::At(time) => at >= time,
        }
    }
}

/// How far an earlier run came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Every line up to here is confirmed, but for the next field.
    pub up_to: u64,
    /// Lines up to there that were not accepted: they are sent again.
    pub refused: BTreeSet<u64>,
    /// Lines beyond that are confirmed.
    pub beyond: BTreeSet<u64>,
    /// How many lines behind `up_to` may have been sent and are sent again, at most.
    pub window: u64,
}

impl Position {
    /// `1200, of which 2 were not accepted`.
    fn in_words(&self) -> String {
        match self.refused.len() {
            0 => self.up_to.to_string(),
            1 => format!("{}, of which 1 was not accepted", self.up_to),
            many => format!("{}, of which {many} were not accepted", self.up_to),
        }
    }

    /// Whether this line is still to be sent.
    fn wants(&self, line: u64) -> bool {
        if line <= self.up_to {
            return self.refused.contains(&line);
        }
        !self.beyond.contains(&line)
    }
}

/// What a journal is about; a run goes on only with the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JournalHead {
    /// `nexus/v1`.
    pub api_version: String,
    /// `PlayJournal`.
    pub kind: String,
    /// A print of the beginning of the recording.
    pub recording: String,
    /// What of it is played, and where to.
    pub choice: String,
    /// The window.
    pub window: u64,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is one already, of a run that is not done.
    #[error("an earlier run got to line {}", .0.in_words())]
    Unfinished(Position),
    /// It is about something else.
    #[error("{0}")]
    Other(String),
    /// Another run uses it.
    #[error("another run is playing this recording")]
    InUse,
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Notes what is confirmed.
#[derive(Debug)]
pub struct Journal {
    file: File,
    order: Order,
    /// Lines that were refused before.
    refused: BTreeSet<u64>,
    /// Confirmed, while one before them is not.
    early: BTreeSet<u64>,
    /// Written as done up to there.
    noted: u64,
    done: u64,
    /// Confirmed and not yet noted.
    unnoted: u64,
    every: u64,
}

/// The lines on their way, in the order in which they were handed out.
#[derive(Clone, Debug, Default)]
struct Order(Arc<Mutex<VecDeque<u64>>>);

impl Order {
    fn with<T>(&self, work: impl FnOnce(&mut VecDeque<u64>) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A print of the beginning of a recording, so that a journal is not used for another one.
///
/// # Errors
/// When it cannot be read.
pub fn print_of(recording: &mut dyn Read) -> io::Result<String> {
    use std::hash::Hasher;
    const ENOUGH: u64 = 64 * 1024;
    let mut line = Vec::new();
    BufReader::new(recording.take(ENOUGH)).read_until(b'\n', &mut line)?;
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    hasher.write(&line);
    Ok(format!("{:016x}-{}", hasher.finish(), line.len()))
}

/// A hash that is the same in every version of this program.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Journal {
    /// Opens the journal at `path`, which is made when it is not there. With `resume` goes on where an
    /// earlier run was; with `restart` forgets it.
    ///
    /// # Errors
    /// When there is one of another run, and neither is wished.
    pub fn open(
        path: &Path,
        head: &JournalHead,
        resume: bool,
        restart: bool,
    ) -> Result<(Journal, Position), JournalError> {
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(JournalError::InUse),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        if restart {
            text.clear();
        }
        let position = match text.is_empty() {
            true => Position { window: head.window, ..Position::default() },
            false => read_journal(&text, head)?,
        };
        if text.is_empty() {
            file.set_len(0)?;
            io::Seek::rewind(&mut file)?;
            let mut line = serde_json::to_string(head).map_err(io::Error::from)?;
            line.push('\n');
            file.write_all(line.as_bytes())?;
            file.sync_all()?;
        } else if !resume {
            return Err(JournalError::Unfinished(position));
        } else if text.last() != Some(&b'\n') {
            // Half a number, cut off by a kill: what follows must not be read together with it.
            file.write_all(b"\n")?;
        }
        let journal = Journal {
            file,
            order: Order::default(),
            refused: position.refused.clone(),
            early: BTreeSet::new(),
            noted: position.up_to,
            done: position.up_to,
            unnoted: 0,
            every: (head.window / 2).max(1),
        };
        Ok((journal, position))
    }

    /// How many messages may be in flight, so that a kill repeats no more than the window.
    pub fn in_flight(window: u32) -> usize {
        usize::try_from(window / 2).unwrap_or(1).max(1)
    }

    /// What became of a line.
    ///
    /// # Errors
    /// When it cannot be noted.
    pub fn note(&mut self, entry: &Entry) -> io::Result<()> {
        let line = entry.line;
        match entry.fate {
            Fate::Confirmed => {
                if self.refused.remove(&line) {
                    self.order.with(|order| order.retain(|other| *other != line));
                    return self.write(&format!("+{line}\n"));
                }
            }
            // A bad line stays bad: the report names it, and a next run does not look at it again.
            Fate::Skipped => {}
            Fate::Returned | Fate::Nacked | Fate::Unknown => {
                if !self.refused.insert(line) {
                    self.order.with(|order| order.retain(|other| *other != line));
                    return Ok(());
                }
                self.write(&format!("!{line}\n"))?;
            }
        }
        self.early.insert(line);
        self.unnoted += 1;
        let early = &mut self.early;
        let done = &mut self.done;
        self.order.with(|order| {
            while let Some(first) = order.front().filter(|first| early.remove(first)) {
                *done = (*done).max(*first);
                order.pop_front();
            }
        });
        if self.early.len() as u64 >= self.every {
            // Something before them has no outcome for long: they are noted one by one.
            let lines = std::mem::take(&mut self.early);
            self.write_each(&lines)?;
            self.order.with(|order| order.retain(|line| !lines.contains(line)));
            self.unnoted = 0;
        }
        if self.unnoted >= self.every { self.save() } else { Ok(()) }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.file.write_all(text.as_bytes())
    }

    fn write_each(&mut self, lines: &BTreeSet<u64>) -> io::Result<()> {
        let text: String = lines.iter().map(|line| format!("+{line}\n")).collect();
        self.write(&text)
    }

    /// Notes how far everything is done.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self) -> io::Result<()> {
        self.unnoted = 0;
        if self.done > self.noted {
            self.write(&format!("{}\n", self.done))?;
            self.noted = self.done;
        }
        Ok(())
    }

    /// Notes everything and puts it on the disk. `true` when nothing is left to be sent again.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn close(&mut self) -> io::Result<bool> {
        let lines = std::mem::take(&mut self.early);
        self.save()?;
        self.write_each(&lines)?;
        self.file.sync_all()?;
        Ok(self.refused.is_empty() && self.order.with(|order| order.is_empty()))
    }
}

fn read_journal(text: &[u8], head: &JournalHead) -> Result<Position, JournalError> {
    let other = |why: &str| JournalError::Other(why.to_owned());
    let text = std::str::from_utf8(text).map_err(|_| other("it is no journal of a play"))?;
    let (first, rest) = text.split_once('\n').ok_or_else(|| other("it is no journal of a play"))?;
    let found: JournalHead =
        serde_json::from_str(first).map_err(|_| other("it is no journal of a play"))?;
    if found.kind != head.kind {
        return Err(other("it is no journal of a play"));
    }
    if found.recording != head.recording {
        return Err(other("it belongs to another recording"));
    }
    if found.choice != head.choice {
        return Err(JournalError::Other(format!(
            "it belongs to a run with other options: {}",
            found.choice
        )));
    }
    let mut position = Position { window: found.window, ..Position::default() };
    // The last line may be cut off: it counts only with its end.
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    for line in whole.lines() {
        let (mark, number) = match line.as_bytes().first() {
            Some(mark @ (b'!' | b'+')) => (*mark, &line[1..]),
            _ => (b' ', line),
        };
        // Half a number that a later run ended is no number of ours: what it said is said again.
        let Ok(number) = number.parse::<u64>() else { continue };
        match mark {
            b'!' => {
                position.refused.insert(number);
            }
            b'+' => {
                if !position.refused.remove(&number) {
                    position.beyond.insert(number);
                }
            }
            _ => position.up_to = position.up_to.max(number),
        }
    }
    let up_to = position.up_to;
    position.beyond.retain(|line| *line > up_to);
    // A refused line beyond has been noted before all lines up to it were done: it is not done either
    // way, and comes in its turn.
    Ok(position)
}

/// How a play is going.
#[derive(Clone, Debug, Default)]
pub struct Timing(Arc<Mutex<Timed>>);

#[derive(Clone, Copy, Debug, Default)]
struct Timed {
    without_time: u64,
    skipped: u64,
    latest: Duration,
}

impl Timing {
    fn with<T>(&self, work: impl FnOnce(&mut Timed) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Messages that say no time; they went out at once.
    pub fn without_time(&self) -> u64 {
        self.with(|timed| timed.without_time)
    }

    /// Messages that were left out: outside of what was chosen, or done before.
    pub fn skipped(&self) -> u64 {
        self.with(|timed| timed.skipped)
    }

    /// How late a message was handed over at worst.
    pub fn latest(&self) -> Duration {
        self.with(|timed| timed.latest)
    }
}

/// What of a recording is played, and how.
#[derive(Clone, Debug)]
pub struct Choice {
    /// How fast.
    pub speed: Speed,
    /// From here on.
    pub from: Option<Point>,
    /// Up to here.
    pub to: Option<Point>,
    /// What an earlier run did.
    pub position: Position,
}

/// Gives the messages of a recording when their time has come. It sleeps in between, so it wants a
/// thread of its own.
#[derive(Debug)]
pub struct PlaySource {
    inner: RecordSource,
    choice: Choice,
    order: Order,
    timing: Timing,
    first: Option<Timestamp>,
    /// The time of the first message that goes out, and when it did.
    began: Option<(Timestamp, Instant)>,
}

impl PlaySource {
    /// Plays `inner` as chosen, and tells `journal` what goes out.
    pub fn new(
        inner: RecordSource,
        choice: Choice,
        journal: Option<&Journal>,
        timing: Timing,
    ) -> Self {
        let order = journal.map(|journal| journal.order.clone()).unwrap_or_default();
        PlaySource { inner, choice, order, timing, first: None, began: None }
    }

    /// Whether this line is wanted, and how long to wait for its time.
    fn place(&mut self, line: u64, at: Option<Timestamp>) -> Option<Duration> {
        let Choice { speed, from, to, position } = &self.choice;
        if let Some(at) = at {
            let first = *self.first.get_or_insert(at);
            let before = from.is_some_and(|from| !from.is_reached(at, first));
            if before || to.is_some_and(|to| to.is_reached(at, first)) {
                return None;
            }
        } else if from.is_some() || to.is_some() {
            return None;
        }
        if !position.wants(line) {
            return None;
        }
        let (Speed::Times(times), Some(at)) = (*speed, at) else { return Some(Duration::ZERO) };
        let now = Instant::now();
        let (began_at, began) = *self.began.get_or_insert((at, now));
        let due = began + at.since(began_at).div_f64(times);
        self.timing.with(|timed| {
            timed.latest = timed.latest.max(now.saturating_duration_since(due));
        });
        Some(due.saturating_duration_since(now))
    }
}

impl Source for PlaySource {
    fn next(&mut self) -> io::Result<Option<Read1>> {
        loop {
            let Some((at, read)) = self.inner.next_recorded()? else { return Ok(None) };
            let line = match &read {
                Ok(item) => item.line,
                Err(bad) => bad.line,
            };
            if at.is_none() && read.is_ok() {
                self.timing.with(|timed| timed.without_time += 1);
            }
            let wait = match &read {
                Ok(_) => self.place(line, at),
                Err(_) => self.choice.position.wants(line).then_some(Duration::ZERO),
            };
            let Some(wait) = wait else {
                self.timing.with(|timed| timed.skipped += 1);
                continue;
            };
            self.order.with(|order| order.push_back(line));
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            return Ok(Some(read));
        }
    }

    fn is_ready(&self) -> bool {
        // The next may have to wait for its time; what is here must not wait with it.
        self.choice.speed == Speed::Max && self.inner.is_ready()
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::Limits;
    use super::*;

    fn head() -> JournalHead {
        JournalHead {
            api_version: "nexus/v1".into(),
            kind: "PlayJournal".into(),
            recording: "print".into(),
            choice: "all".into(),
            window: 4,
        }
    }

    fn entry(line: u64, fate: Fate) -> Entry {
        Entry {
            line,
            fate,
            message_id: None,
            exchange: None,
            routing_key: None,
            reason: None,
            code: None,
        }
    }

    fn recording(times: &[u64]) -> String {
        let line = |ms: &u64| {
            let at = Timestamp::from_unix_ms(1_700_000_000_000).after(Duration::from_millis(*ms));
            format!(
                "{{\"receivedAt\":\"{at}\",\"exchange\":\"\",\"routingKey\":\"q\",\"bodyText\":\"{ms}\"}}\n"
            )
        };
        times.iter().map(line).collect()
    }

    /// Plays; `kill` ends the run without a word after so many outcomes.
    fn played(path: &Path, text: &str, kill: Option<usize>, resume: bool) -> (Position, Vec<u64>) {
        let (mut journal, position) = Journal::open(path, &head(), resume, false).unwrap();
        let choice = Choice { speed: Speed::Max, from: None, to: None, position: position.clone() };
        let inner = RecordSource::new(
            Box::new(io::Cursor::new(text.as_bytes().to_vec())),
            None,
            None,
            Limits::default(),
        );
        let mut source = PlaySource::new(inner, choice, Some(&journal), Timing::default());
        let mut sent = Vec::new();
        let mut in_flight = VecDeque::new();
        let mut outcomes = 0;
        loop {
            let next = source.next().unwrap();
            let ended = next.is_none();
            if let Some(read) = next {
                let line = read.unwrap().line;
                sent.push(line);
                in_flight.push_back(line);
            }
            while in_flight.len() >= Journal::in_flight(4) || (ended && !in_flight.is_empty()) {
                if kill == Some(outcomes) {
                    return (position, sent);
                }
                // The youngest first: nobody may rely on an order.
                let line = in_flight.pop_back().unwrap();
                journal.note(&entry(line, Fate::Confirmed)).unwrap();
                outcomes += 1;
            }
            if ended {
                assert!(journal.close().unwrap());
                return (position, sent);
            }
        }
    }

    #[test]
    fn a_killed_run_goes_on_without_a_hole_and_repeats_no_more_than_the_window() {
        let times: Vec<u64> = (0..40).collect();
        let text = recording(&times);
        for kill in 0..40 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            let (_, first) = played(&path, &text, Some(kill), false);
            assert!(matches!(
                Journal::open(&path, &head(), false, false),
                Err(JournalError::Unfinished(_))
            ));
            let (position, second) = played(&path, &text, None, true);
            let all: BTreeSet<u64> = first.iter().chain(&second).copied().collect();
            assert_eq!(all.len(), 40, "killed after {kill}");
            let repeated = first.len() + second.len() - 40;
            assert!(repeated <= 4, "killed after {kill}: {repeated} repeated, {position:?}");
        }
    }

    #[test]
    fn what_was_refused_is_sent_again_and_what_is_half_written_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let first = serde_json::to_string(&head()).unwrap();
        std::fs::write(&path, format!("{first}\n10\n!7\n!8\n+8\n+15\n1")).unwrap();
        let (journal, position) = Journal::open(&path, &head(), true, false).unwrap();
        let sent: Vec<u64> = (1..=17).filter(|line| position.wants(*line)).collect();
        assert_eq!(sent, [7, 11, 12, 13, 14, 16, 17]);
        drop(journal);
        let other = JournalHead { choice: "half".into(), ..head() };
        let error = Journal::open(&path, &other, true, false).unwrap_err();
        assert!(error.to_string().contains("other options"), "{error}");
        let other = JournalHead { recording: "x".into(), ..head() };
        let error = Journal::open(&path, &other, true, false).unwrap_err();
        assert!(error.to_string().contains("another recording"), "{error}");
        let (_held, position) = Journal::open(&path, &other, false, true).unwrap();
        assert_eq!(position.up_to, 0);
        assert!(matches!(Journal::open(&path, &other, true, false), Err(JournalError::InUse)));
    }

    fn lines(text: &str, from: Option<Point>, to: Option<Point>, speed: Speed) -> Vec<u64> {
        let dir = tempfile::tempdir().unwrap();
        let (journal, position) =
            Journal::open(&dir.path().join("j"), &head(), false, false).unwrap();
        let inner = RecordSource::new(
            Box::new(io::Cursor::new(text.as_bytes().to_vec())),
            None,
            None,
            Limits::default(),
        );
        let choice = Choice { speed, from, to, position };
        let mut source = PlaySource::new(inner, choice, Some(&journal), Timing::default());
        std::iter::from_fn(|| source.next().unwrap()).map(|read| read.unwrap().line).collect()
    }

    #[test]
    fn a_part_is_chosen_by_time_or_by_distance_and_the_pace_is_kept() {
        let text = recording(&[0, 1000, 2000, 3000]);
        let at = |text: &str| Some(text.parse::<Point>().unwrap());
        assert_eq!(lines(&text, at("1s"), at("3s"), Speed::Max), [2, 3]);
        assert_eq!(lines(&text, at("2023-11-14T22:13:22Z"), None, Speed::Max), [3, 4]);
        let began = Instant::now();
        assert_eq!(lines(&recording(&[0, 30, 60]), None, None, Speed::Times(0.5)), [1, 2, 3]);
        // Sleeping never takes less than asked for.
        assert!(began.elapsed() >= Duration::from_millis(120));
        for (text, speed) in
            [("2x", Some(Speed::Times(2.0))), ("max", Some(Speed::Max)), ("0", None)]
        {
            assert_eq!(text.parse::<Speed>().ok(), speed);
        }
    }
}
