//! The journal of replays in the state file: each run, and each letter that it decided about.
//!
//! What a run intends is on the disk before it is published, one commit for a whole batch; so after any
//! crash the journal names every letter that may have come twice. A letter is a row of some hundred
//! bytes, and nothing of it is kept in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row};
use serde_json::{Value, json};

use crate::base::time::Timestamp;
use crate::broker::LockHolder;
use crate::deadletter::letter::LetterId;
use crate::deadletter::trail::{self, NewEntry, Noun};
use crate::storage::{Durability, Options, Room, StateFile, StorageError, rusqlite};

use super::machine::{Entry, Position, State, Way};
use super::spec::Verb;

/// What this room keeps in a state file.
pub const ROOM: Room = Room {
    name: "replay",
    migrations: &[
        "
CREATE TABLE replay_run(
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    broker TEXT NOT NULL,
    vhost TEXT NOT NULL,
    queue TEXT NOT NULL,
    request TEXT NOT NULL,
    who TEXT NOT NULL,
    reason TEXT,
    started INTEGER NOT NULL,
    ended INTEGER,
    watermark INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    phase INTEGER NOT NULL,
    why TEXT
) STRICT;
CREATE INDEX replay_run_queue ON replay_run(broker, vhost, queue, phase);
CREATE TABLE replay_item(
    run INTEGER NOT NULL,
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    state INTEGER NOT NULL,
    copies INTEGER NOT NULL,
    message_id TEXT,
    target TEXT,
    at INTEGER NOT NULL,
    PRIMARY KEY(run, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX replay_item_key ON replay_item(run, key);
",
        "
ALTER TABLE replay_run ADD COLUMN parent TEXT;
ALTER TABLE replay_run ADD COLUMN stage INTEGER;
ALTER TABLE replay_run ADD COLUMN stream_end INTEGER;
ALTER TABLE replay_item ADD COLUMN place INTEGER;
CREATE INDEX replay_run_parent ON replay_run(parent) WHERE parent IS NOT NULL;
CREATE INDEX replay_item_place ON replay_item(run, place) WHERE place IS NOT NULL;
",
        "
CREATE TABLE replay_body(
    run INTEGER NOT NULL,
    position INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX replay_body_item ON replay_body(run, position);
",
    ],
};

/// What a run writes into: its journal, and the trail.
const ROOMS: [Room; 2] = [ROOM, trail::store::ROOM];

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At work, or killed.
    Open,
    /// Ended before all was done: can be resumed.
    Stopped,
    /// Done.
    Done,
    /// Another run of the same queue began after it: cannot be resumed.
    Superseded,
}

impl Phase {
    /// The phase as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Open => "open",
            Phase::Stopped => "stopped",
            Phase::Done => "done",
            Phase::Superseded => "superseded",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Phase::Open => 0,
            Phase::Stopped => 1,
            Phase::Done => 2,
            Phase::Superseded => 3,
        }
    }

    fn of(number: i64) -> Phase {
        match number {
            0 => Phase::Open,
            1 => Phase::Stopped,
            2 => Phase::Done,
            _ => Phase::Superseded,
        }
    }
}

/// How far a run is that puts letters which stay into a queue of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// What is wanted goes to its target, and the others into that queue.
    Select,
    /// What came meanwhile goes there too, behind them.
    Newcomers,
    /// All of them are brought back.
    Back,
    /// They are back, and the queue in which they waited is gone.
    Whole,
}

impl Stage {
    /// The stage as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Select => "select",
            Stage::Newcomers => "newcomers",
            Stage::Back => "back",
            Stage::Whole => "whole",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Stage::Select => 0,
            Stage::Newcomers => 1,
            Stage::Back => 2,
            Stage::Whole => 3,
        }
    }

    fn of(number: i64) -> Stage {
        match number {
            0 => Stage::Select,
            1 => Stage::Newcomers,
            2 => Stage::Back,
            _ => Stage::Whole,
        }
    }
}

/// How far a run through a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPlace {
    /// The offset at which it ends, once that is known.
    pub end: Option<u64>,
    /// The first offset in the journal whose letter is not confirmed.
    pub first_open: Option<u64>,
    /// The last offset in the journal.
    pub last: Option<u64>,
    /// Letters in the journal before the first that is not confirmed.
    pub before: u64,
}

/// A run as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// Its name.
    pub id: String,
    /// The broker.
    pub broker: String,
    /// The vhost.
    pub vhost: String,
    /// The queue that the letters are in.
    pub queue: String,
    /// What was asked for, as whoever began it wrote it: by this it is resumed.
    pub request: String,
    /// Who began it.
    pub who: String,
    /// Why.
    pub reason: Option<String>,
    /// When it began.
    pub started: Timestamp,
    /// When it ended for the last time.
    pub ended: Option<Timestamp>,
    /// How many letters waited.
    pub watermark: u64,
    /// How often it was begun.
    pub attempts: u64,
    /// How far it is.
    pub phase: Phase,
    /// Why it ended.
    pub why: Option<String>,
    /// How far it is, when it puts letters which stay into a queue of their own.
    pub stage: Option<Stage>,
}

/// A letter as the journal has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the run.
    pub position: Position,
    /// Its name.
    pub key: LetterId,
    /// What became of it.
    pub state: State,
    /// How often it may have been published.
    pub copies: u64,
    /// The id of its message.
    pub message_id: Option<String>,
    /// Where it goes.
    pub target: Option<String>,
}

/// What a new line of the journal has beside its entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detail {
    /// The id of the message.
    pub message_id: Option<String>,
    /// Where it goes.
    pub target: Option<String>,
    /// Where it stands in its stream.
    pub place: Option<u64>,
    /// The body that it has before it is edited.
    pub body: Option<Vec<u8>>,
}

/// How many letters are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// They stay.
    pub held: u64,
    /// They may be out.
    pub intent: u64,
    /// Confirmed at their target.
    pub confirmed: u64,
    /// Confirmed where they are put aside.
    pub parked: u64,
    /// No queue took the copy.
    pub returned: u64,
    /// The copy was refused.
    pub nacked: u64,
    /// Acked when they came back after a crash, without another copy.
    pub skipped: u64,
    /// Copied, and left.
    pub copied: u64,
    /// Confirmed in the queue for the rest.
    pub rested: u64,
    /// Of those, the ones that their target had refused.
    pub turned: u64,
}

const fn number(state: State) -> i64 {
    match state {
        State::Held => 0,
        State::Intent(Way::Target) => 1,
        State::Intent(Way::Parked) => 2,
        State::Confirmed => 3,
        State::Parked => 4,
        State::Returned => 5,
        State::Nacked => 6,
        State::Skipped => 7,
        State::Copied => 8,
        State::Intent(Way::Rest) => 9,
        State::Rested => 10,
        State::Turned => 11,
    }
}

fn state_of(number: i64) -> State {
    match number {
        1 => State::Intent(Way::Target),
        2 => State::Intent(Way::Parked),
        3 => State::Confirmed,
        4 => State::Parked,
        5 => State::Returned,
        6 => State::Nacked,
        7 => State::Skipped,
        8 => State::Copied,
        9 => State::Intent(Way::Rest),
        10 => State::Rested,
        11 => State::Turned,
        _ => State::Held,
    }
}

/// The journal. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Journal {
    file: Arc<StateFile>,
}

const RUN_COLUMNS: &str = "id, broker, vhost, queue, request, who, reason, started, ended, \
                           watermark, attempts, phase, why, stage";

fn run_of(row: &Row<'_>) -> SqlResult<StoredRun> {
    let time = |ms: i64| Timestamp::from_unix_ms(ms);
    Ok(StoredRun {
        id: row.get(0)?,
        broker: row.get(1)?,
        vhost: row.get(2)?,
        queue: row.get(3)?,
        request: row.get(4)?,
        who: row.get(5)?,
        reason: row.get(6)?,
        started: time(row.get(7)?),
        ended: row.get::<_, Option<i64>>(8)?.map(time),
        watermark: row.get::<_, i64>(9)?.unsigned_abs(),
        attempts: row.get::<_, i64>(10)?.unsigned_abs(),
        phase: Phase::of(row.get(11)?),
        why: row.get(12)?,
        stage: row.get::<_, Option<i64>>(13)?.map(Stage::of),
    })
}

fn key_of(column: usize, text: &str) -> SqlResult<LetterId> {
    LetterId::parse(text).ok_or_else(|| {
        let cause = format!("`{text}` is no name of a letter");
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, cause.into())
    })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn run_called(connection: &Connection, id: &str) -> SqlResult<Option<StoredRun>> {
    connection
        .query_row(
            &format!("SELECT {RUN_COLUMNS} FROM replay_run WHERE id = ? AND parent IS NULL"),
            [id],
            run_of,
        )
        .optional()
}

/// What was asked for, as JSON where it is that.
fn request_of(run: &StoredRun) -> Value {
    serde_json::from_str(&run.request).unwrap_or_else(|_| run.request.as_str().into())
}

/// What the trail is told of a run.
fn told(run: &StoredRun, step: &str, who: &str, at: Timestamp, details: Value) -> NewEntry {
    let request = request_of(run);
    let verb = request.get("verb").and_then(Value::as_str).unwrap_or(Verb::Replay.as_str());
    NewEntry {
        at,
        who: who.to_owned(),
        what: format!("{verb} {step}"),
        noun: Noun::Run,
        object: run.id.clone(),
        queue: Some(run.queue.clone()),
        run: Some(run.id.clone()),
        reason: run.reason.clone(),
        details,
    }
}

impl Journal {
    /// Opens the journal in the state file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used, or others hold it for longer than `timeout`.
    pub async fn open(
        path: impl Into<PathBuf>,
        timeout: Duration,
    ) -> Result<Journal, StorageError> {
        let path = path.into();
        let options = Options { timeout, ..Options::default() };
        Journal::open_with(path, options).await
    }

    async fn open_with(path: PathBuf, options: Options) -> Result<Journal, StorageError> {
        let name = path.clone();
        let opened = tokio::task::spawn_blocking(move || StateFile::open(&path, &ROOMS, options));
        let file = opened
            .await
            .unwrap_or_else(|e| Err(StorageError::Open { path: name, cause: e.to_string() }))?;
        Ok(Journal { file })
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> SqlResult<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let file = Arc::clone(&self.file);
        self.file
            .write(Durability::Disk, move |connection| {
                work(connection).map_err(|error| file.fault(&error))
            })
            .await
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> SqlResult<T>) -> Result<T, StorageError> {
        self.file.read(|connection| work(connection).map_err(|error| self.file.fault(&error)))
    }

    /// Begins a run, and tells the trail. Runs of the same queue that did not end cannot be resumed from
    /// now on, but for those that have letters elsewhere.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn begin(&self, run: StoredRun) -> Result<(), StorageError> {
        self.write(move |connection| {
            // What comes from a bundle leaves alone what is known of the letters in the queue.
            let superseded: Vec<String> = connection
                .prepare(
                    "UPDATE replay_run SET phase = ?4
                     WHERE broker = ?1 AND vhost = ?2 AND queue = ?3 AND phase IN (0, 1)
                         AND (stage IS NULL OR stage = 3)
                         AND coalesce(json_extract(request, '$.verb'), '') <> 'import'
                         AND coalesce(json_extract(?5, '$.verb'), '') <> 'import'
                     RETURNING id",
                )?
                .query_map(
                    (&run.broker, &run.vhost, &run.queue, Phase::Superseded.number(), &run.request),
                    |row| row.get(0),
                )?
                .collect::<SqlResult<_>>()?;
            connection.execute(
                "INSERT INTO replay_run(id, broker, vhost, queue, request, who, reason, started,
                     watermark, attempts, phase, stage) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0, ?)",
                (
                    &run.id,
                    &run.broker,
                    &run.vhost,
                    &run.queue,
                    &run.request,
                    &run.who,
                    &run.reason,
                    run.started.unix_ms(),
                    signed(run.watermark),
                    run.stage.map(Stage::number),
                ),
            )?;
            let details = json!({
                "broker": run.broker,
                "vhost": run.vhost,
                "waiting": run.watermark,
                "request": request_of(&run),
                "superseded": superseded,
            });
            trail::append(connection, &told(&run, "begun", &run.who, run.started, details))?;
            Ok(())
        })
        .await
    }

    /// Begins, or goes on with, a part of run `id` that has a journal of its own.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn part(&self, id: &str, part: &str, now: Timestamp) -> Result<(), StorageError> {
        let (id, part) = (id.to_owned(), part.to_owned());
        self.write(move |connection| {
            connection.execute(
                "INSERT OR IGNORE INTO replay_run(id, broker, vhost, queue, request, who, reason, started,
                     watermark, attempts, phase, parent)
                 SELECT ?2, broker, vhost, queue, request, who, reason, ?3, 0, 0, 0, id
                 FROM replay_run WHERE id = ?1",
                (&id, &part, now.unix_ms()),
            )?;
            Ok(())
        })
        .await
    }

    /// Notes how far a run is, and why what it did before that ended.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn stage(
        &self,
        id: &str,
        stage: Stage,
        why: Option<String>,
    ) -> Result<(), StorageError> {
        let id = id.to_owned();
        self.write(move |connection| {
            connection.execute(
                "UPDATE replay_run SET stage = ?2, why = coalesce(?3, why) WHERE id = ?1",
                (id, stage.number(), why),
            )?;
            Ok(())
        })
        .await
    }

    /// Notes that a run is done and has no letter elsewhere any more.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn whole(
        &self,
        id: &str,
        why: &str,
        who: &str,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.close(id, Phase::Done, Some(Stage::Whole), why, who, now).await
    }

    /// Notes the offset at which a run through a stream ends.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn stream_ends(&self, id: &str, end: u64) -> Result<(), StorageError> {
        let id = id.to_owned();
        self.write(move |connection| {
            connection.execute(
                "UPDATE replay_run SET stream_end = ?2 WHERE id = ?1",
                (id, signed(end)),
            )?;
            Ok(())
        })
        .await
    }

    /// How far a run through a stream is.
    ///
    /// # Errors
    /// When the file fails.
    pub fn stream_place(&self, id: &str) -> Result<StreamPlace, StorageError> {
        let found = self.items(
            id,
            "SELECT stream_end, open, last,
                 (SELECT count(*) FROM replay_item
                  WHERE run = number AND place IS NOT NULL AND (open IS NULL OR place < open))
             FROM (SELECT number, stream_end,
                     (SELECT min(place) FROM replay_item
                      WHERE run = number AND place IS NOT NULL AND state NOT IN (3, 4, 7, 8)) AS open,
                     (SELECT max(place) FROM replay_item
                      WHERE run = number AND place IS NOT NULL) AS last
                 FROM replay_run WHERE id = ?)",
            |row| {
                let offset = |column: usize| -> SqlResult<Option<u64>> {
                    Ok(row.get::<_, Option<i64>>(column)?.map(i64::unsigned_abs))
                };
                Ok(StreamPlace {
                    end: offset(0)?,
                    first_open: offset(1)?,
                    last: offset(2)?,
                    before: offset(3)?.unwrap_or(0),
                })
            },
        )?;
        Ok(found.into_iter().next().unwrap_or_default())
    }

    /// What the run has of the letter at this offset.
    ///
    /// # Errors
    /// When the file fails.
    pub fn at_offset(
        &self,
        id: &str,
        offset: u64,
    ) -> Result<Option<(Position, State)>, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT position, state FROM replay_item
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND place = ?",
                )?
                .query_row((id, signed(offset)), |row| {
                    Ok((row.get::<_, i64>(0)?.unsigned_abs(), state_of(row.get(1)?)))
                })
                .optional()
        })
    }

    /// The run that has letters of this queue elsewhere, when there is one.
    ///
    /// # Errors
    /// When the file fails.
    pub fn apart(
        &self,
        broker: &str,
        vhost: &str,
        queue: &str,
    ) -> Result<Option<String>, StorageError> {
        self.read(|connection| {
            connection
                .query_row(
                    "SELECT id FROM replay_run WHERE broker = ? AND vhost = ? AND queue = ?
                         AND phase IN (0, 1) AND stage IN (0, 1, 2)",
                    (broker, vhost, queue),
                    |row| row.get(0),
                )
                .optional()
        })
    }

    /// The parts of a run that have a journal of their own.
    ///
    /// # Errors
    /// When the file fails.
    pub fn parts(&self, id: &str) -> Result<Vec<String>, StorageError> {
        self.items(id, "SELECT id FROM replay_run WHERE parent = ? ORDER BY number", |row| {
            row.get(0)
        })
    }

    /// Notes that a run goes on, by whom and when, and tells the trail.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn again(&self, id: &str, by: &LockHolder) -> Result<(), StorageError> {
        let (id, by) = (id.to_owned(), by.clone());
        self.write(move |connection| {
            connection.execute(
                "UPDATE replay_run SET attempts = attempts + 1, phase = 0, why = NULL WHERE id = ?",
                [&id],
            )?;
            if let Some(run) = run_called(connection, &id)? {
                let details = json!({"attempt": run.attempts, "vhost": run.vhost});
                trail::append(connection, &told(&run, "resumed", &by.who, by.since, details))?;
            }
            Ok(())
        })
        .await
    }

    /// Notes that a run has ended, and why, and tells the trail how many letters became what.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn end(
        &self,
        id: &str,
        phase: Phase,
        why: &str,
        who: &str,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        self.close(id, phase, None, why, who, now).await
    }

    async fn close(
        &self,
        id: &str,
        phase: Phase,
        stage: Option<Stage>,
        why: &str,
        who: &str,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let (id, why, who) = (id.to_owned(), why.to_owned(), who.to_owned());
        // Nobody else writes letters of this run, so they can be counted before.
        let tally = self.tally(&id)?;
        self.write(move |connection| {
            connection.execute(
                "UPDATE replay_run SET phase = ?2, why = ?3, ended = ?4, stage = coalesce(?5, stage)
                 WHERE id = ?1",
                (&id, phase.number(), &why, now.unix_ms(), stage.map(Stage::number)),
            )?;
            if let Some(run) = run_called(connection, &id)? {
                let details = json!({
                    "phase": phase.as_str(),
                    "why": why,
                    "attempt": run.attempts,
                    "vhost": run.vhost,
                    "letters": tally,
                });
                trail::append(connection, &told(&run, "ended", &who, now, details))?;
            }
            Ok(())
        })
        .await
    }

    /// Writes a batch: on the disk when this returns.
    ///
    /// # Errors
    /// When the file fails; nothing of the batch counts as written then.
    pub async fn note(
        &self,
        id: &str,
        entries: Vec<(Entry, Detail)>,
        now: Timestamp,
    ) -> Result<(), StorageError> {
        let id = id.to_owned();
        self.write(move |connection| {
            let run: i64 = connection
                .prepare_cached("SELECT number FROM replay_run WHERE id = ?")?
                .query_row([&id], |row| row.get(0))?;
            let mut add = connection.prepare_cached(
                "INSERT INTO replay_item(run, position, key, state, copies, message_id, target, at,
                     place)
                 VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            let mut change = connection.prepare_cached(
                "UPDATE replay_item SET state = ?3, copies = copies + ?4, at = ?5
                 WHERE run = ?1 AND position = ?2",
            )?;
            let mut keep =
                connection.prepare_cached("INSERT OR IGNORE INTO replay_body VALUES(?, ?, ?)")?;
            for (entry, detail) in entries {
                if let (Some(body), Entry::New(position, ..) | Entry::Now(position, _)) =
                    (&detail.body, &entry)
                {
                    keep.execute((run, signed(*position), body))?;
                }
                match entry {
                    Entry::New(position, key, state) => {
                        let copies = i64::from(matches!(state, State::Intent(_)));
                        add.execute((
                            run,
                            signed(position),
                            key.as_str(),
                            number(state),
                            copies,
                            detail.message_id,
                            detail.target,
                            now.unix_ms(),
                            detail.place.map(signed),
                        ))?;
                    }
                    Entry::Now(position, state) => {
                        let copies = i64::from(matches!(state, State::Intent(_)));
                        let at = now.unix_ms();
                        change.execute((run, signed(position), number(state), copies, at))?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// The run called `id`; parts of runs have no name of their own.
    ///
    /// # Errors
    /// When the file fails.
    pub fn run(&self, id: &str) -> Result<Option<StoredRun>, StorageError> {
        self.read(|connection| run_called(connection, id))
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// When the file fails.
    pub fn runs(&self, most: u32) -> Result<Vec<StoredRun>, StorageError> {
        self.read(|connection| {
            connection
                .prepare(&format!(
                    "SELECT {RUN_COLUMNS} FROM replay_run WHERE parent IS NULL
                     ORDER BY number DESC LIMIT ?"
                ))?
                .query_map([most], run_of)?
                .collect()
        })
    }

    fn items<T>(
        &self,
        id: &str,
        sql: &str,
        read: impl FnMut(&Row<'_>) -> SqlResult<T>,
    ) -> Result<Vec<T>, StorageError> {
        self.read(|connection| {
            connection.prepare_cached(sql)?.query_map([id], read)?.collect::<SqlResult<Vec<T>>>()
        })
    }

    /// The place for the next letter of a run.
    ///
    /// # Errors
    /// When the file fails.
    pub fn next_position(&self, id: &str) -> Result<Position, StorageError> {
        let found = self.items(
            id,
            "SELECT coalesce(max(position), 0) + 1 FROM replay_item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?)",
            |row| row.get::<_, i64>(0),
        )?;
        Ok(found.first().map_or(1, |next| next.unsigned_abs()))
    }

    /// The last letter that is certainly still in the queue and whose name the run has once.
    ///
    /// # Errors
    /// When the file fails.
    pub fn anchor(&self, id: &str) -> Result<Option<LetterId>, StorageError> {
        let found = self.items(
            id,
            "SELECT item.key FROM replay_item AS item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND state IN (0, 1, 2, 5, 6, 8, 9)
                 AND NOT EXISTS (SELECT 1 FROM replay_item AS other
                     WHERE other.run = item.run AND other.key = item.key
                         AND other.position <> item.position)
             ORDER BY position DESC LIMIT 1",
            |row| key_of(0, &row.get::<_, String>(0)?),
        )?;
        Ok(found.into_iter().next())
    }

    /// Whether the run has confirmed anything.
    ///
    /// # Errors
    /// When the file fails.
    pub fn rows_of(
        &self,
        id: &str,
        key: &LetterId,
    ) -> Result<Vec<(Position, State)>, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT position, state FROM replay_item
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND key = ?",
                )?
                .query_map((id, key.as_str()), |row| {
                    Ok((row.get::<_, i64>(0)?.unsigned_abs(), state_of(row.get(1)?)))
                })?
                .collect()
        })
    }

    /// What became of the letter at a place.
    ///
    /// # Errors
    /// When the file fails.
    pub fn state_at(&self, id: &str, position: Position) -> Result<Option<State>, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT state FROM replay_item
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND position = ?",
                )?
                .query_row((id, signed(position)), |row| Ok(state_of(row.get(0)?)))
                .optional()
        })
    }

    /// The same of the letter called `key`; `None` also when twins had different ones.
    ///
    /// # Errors
    /// When the file fails.
    pub fn original_of(&self, id: &str, key: &LetterId) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|connection| {
            let found: Vec<Vec<u8>> = connection
                .prepare_cached(
                    "SELECT DISTINCT body FROM replay_body JOIN replay_item USING(run, position)
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND key = ? LIMIT 2",
                )?
                .query_map((id, key.as_str()), |row| row.get(0))?
                .collect::<SqlResult<_>>()?;
            Ok(<[Vec<u8>; 1]>::try_from(found).ok().map(|[body]| body))
        })
    }

    /// The body that the letter at `position` had before this run edited it; `None` when it did not.
    ///
    /// # Errors
    /// When the file fails.
    pub fn original(&self, id: &str, position: Position) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT body FROM replay_body
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND position = ?",
                )?
                .query_row((id, signed(position)), |row| row.get(0))
                .optional()
        })
    }

    /// Where letters went, each place once.
    ///
    /// # Errors
    /// When the file fails.
    pub fn targets(&self, id: &str) -> Result<Vec<String>, StorageError> {
        self.items(
            id,
            "SELECT DISTINCT target FROM replay_item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND copies > 0
                 AND target IS NOT NULL ORDER BY target",
            |row| row.get(0),
        )
    }

    /// How many letters are confirmed at a place.
    ///
    /// # Errors
    /// When the file fails.
    pub fn went_to(&self, id: &str, target: &str) -> Result<u64, StorageError> {
        self.read(|connection| {
            let number: i64 = connection
                .prepare_cached(
                    "SELECT count(*) FROM replay_item
                     WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND target = ?
                         AND state IN (3, 7)",
                )?
                .query_row((id, target), |row| row.get(0))?;
            Ok(number.unsigned_abs())
        })
    }

    /// How many letters the run has met under each name.
    ///
    /// # Errors
    /// When the file fails.
    pub fn met(&self, id: &str) -> Result<BTreeMap<String, u64>, StorageError> {
        let met = self.items(
            id,
            "SELECT key, count(*) FROM replay_item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?) GROUP BY key",
            |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())),
        )?;
        Ok(met.into_iter().collect())
    }

    /// How many of the letters that were asked for are done; twins count once.
    ///
    /// # Errors
    /// When the file fails.
    pub fn gone(&self, id: &str) -> Result<u64, StorageError> {
        let found = self.items(
            id,
            "SELECT count(DISTINCT key) FROM replay_item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?) AND state IN (3, 4, 7, 8)",
            |row| row.get::<_, i64>(0),
        )?;
        Ok(found.first().map_or(0, |number| number.unsigned_abs()))
    }

    /// How many letters are in each state.
    ///
    /// # Errors
    /// When the file fails.
    pub fn tally(&self, id: &str) -> Result<Tally, StorageError> {
        let rows = self.items(
            id,
            "SELECT state, count(*) FROM replay_item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?) GROUP BY state",
            |row| Ok((state_of(row.get(0)?), row.get::<_, i64>(1)?.unsigned_abs())),
        )?;
        let mut tally = Tally::default();
        for (state, number) in rows {
            *match state {
                State::Held => &mut tally.held,
                State::Intent(_) => &mut tally.intent,
                State::Confirmed => &mut tally.confirmed,
                State::Parked => &mut tally.parked,
                State::Returned => &mut tally.returned,
                State::Nacked => &mut tally.nacked,
                State::Skipped => &mut tally.skipped,
                State::Copied => &mut tally.copied,
                State::Rested => &mut tally.rested,
                State::Turned => &mut tally.turned,
            } += number;
        }
        tally.rested += tally.turned;
        Ok(tally)
    }

    /// The letters that may have come twice: those that may be out and are still in the queue, and
    /// those of which more than one copy was sent. Twins are among them, since nobody can tell them
    /// from copies.
    ///
    /// # Errors
    /// When the file fails.
    pub fn in_doubt(&self, id: &str) -> Result<Vec<Item>, StorageError> {
        self.items(
            id,
            "SELECT position, key, state, copies, message_id, target FROM replay_item AS item
             WHERE run = (SELECT number FROM replay_run WHERE id = ?)
                 AND (state IN (1, 2, 9) OR copies > 1 OR copies > 0 AND EXISTS
                     (SELECT 1 FROM replay_item AS other
                      WHERE other.run = item.run AND other.key = item.key AND other.copies > 0
                          AND other.position <> item.position))
             ORDER BY position",
            |row| {
                Ok(Item {
                    position: row.get::<_, i64>(0)?.unsigned_abs(),
                    key: key_of(1, &row.get::<_, String>(1)?)?,
                    state: state_of(row.get(2)?),
                    copies: row.get::<_, i64>(3)?.unsigned_abs(),
                    message_id: row.get(4)?,
                    target: row.get(5)?,
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(letter: char) -> LetterId {
        LetterId::parse(&letter.to_string().repeat(26)).unwrap()
    }

    fn stored(id: &str) -> StoredRun {
        StoredRun {
            id: id.to_owned(),
            broker: "b".to_owned(),
            vhost: "/".to_owned(),
            queue: "dead".to_owned(),
            request: "{}".to_owned(),
            who: "me".to_owned(),
            reason: None,
            started: Timestamp::from_unix_ms(5),
            ended: None,
            watermark: 9,
            attempts: 1,
            phase: Phase::Open,
            why: None,
            stage: None,
        }
    }

    #[tokio::test]
    async fn a_run_and_its_letters_are_there_again_after_the_file_was_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let now = Timestamp::from_unix_ms(7);
        let journal = Journal::open(&path, Duration::from_secs(5)).await.unwrap();
        journal.begin(stored("r1")).await.unwrap();
        let intent = State::Intent(Way::Target);
        let entries = vec![
            (Entry::New(1, key('a'), intent), Detail::default()),
            (Entry::New(2, key('b'), intent), Detail::default()),
            (Entry::New(3, key('c'), State::Held), Detail::default()),
            (Entry::New(4, key('c'), intent), Detail::default()),
            (Entry::Now(1, State::Confirmed), Detail::default()),
        ];
        journal.note("r1", entries, now).await.unwrap();
        let body = |body: &[u8]| Detail { body: Some(body.to_vec()), ..Detail::default() };
        let entries = vec![
            (Entry::New(5, key('e'), State::Held), body(b"before")),
            (Entry::Now(5, State::Held), body(b"not before")),
        ];
        journal.note("r1", entries, now).await.unwrap();
        drop(journal);
        let journal = Journal::open(&path, Duration::from_secs(5)).await.unwrap();
        assert_eq!(journal.run("r1").unwrap(), Some(stored("r1")));
        assert_eq!(journal.next_position("r1").unwrap(), 6);
        assert_eq!(journal.original("r1", 5).unwrap().as_deref(), Some(&b"before"[..]));
        assert_eq!(journal.original("r1", 4).unwrap(), None);
        assert_eq!(journal.met("r1").unwrap().get(key('c').as_str()), Some(&2));
        assert_eq!(journal.anchor("r1").unwrap(), Some(key('e')));
        assert_eq!(journal.rows_of("r1", &key('a')).unwrap(), [(1, State::Confirmed)]);
        let doubts = |journal: &Journal| -> Vec<Position> {
            journal.in_doubt("r1").unwrap().iter().map(|item| item.position).collect()
        };
        assert_eq!(doubts(&journal), [2, 4]);
        let again = vec![
            (Entry::Now(2, intent), Detail::default()),
            (Entry::Now(2, State::Confirmed), Detail::default()),
            (Entry::Now(4, State::Returned), Detail::default()),
        ];
        journal.note("r1", again, now).await.unwrap();
        assert_eq!(doubts(&journal), [2], "it was sent twice");
        let tally = journal.tally("r1").unwrap();
        assert_eq!((tally.confirmed, tally.held, tally.returned), (2, 2, 1));
        let somebody = LockHolder { who: "somebody".to_owned(), since: now };
        journal.again("r1", &somebody).await.unwrap();
        journal.end("r1", Phase::Stopped, "why", "another", now).await.unwrap();
        journal.begin(stored("r2")).await.unwrap();
        assert_eq!(journal.run("r1").unwrap().unwrap().phase, Phase::Superseded);
        assert_eq!(journal.runs(9).unwrap().len(), 2);
        let trail = trail::Trail::open(&path, Duration::from_secs(5)).await.unwrap();
        let mut told = Vec::new();
        let mut take = |_, entry: Result<trail::Entry, String>, _| {
            told.push(entry.unwrap());
            true
        };
        trail.each(&trail::Filter::default(), &mut take).unwrap();
        let told: Vec<_> = told
            .iter()
            .map(|entry| (entry.what.as_str(), entry.object.as_str(), entry.who.as_str()))
            .collect();
        let expected = [
            ("replay begun", "r2", "me"),
            ("replay ended", "r1", "another"),
            ("replay resumed", "r1", "somebody"),
            ("replay begun", "r1", "me"),
        ];
        assert_eq!(told, expected);
        assert_eq!(trail.verify(None).unwrap().entries, 4);
    }

    #[tokio::test]
    async fn a_run_that_is_not_begun_is_not_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let journal = Journal::open(&path, Duration::from_secs(5)).await.unwrap();
        journal.begin(stored("r1")).await.unwrap();
        journal.begin(stored("r1")).await.unwrap_err();
        let trail = trail::Trail::open(&path, Duration::from_secs(5)).await.unwrap();
        assert_eq!(trail.head().unwrap().sequence, 1);
        assert_eq!(
            journal.run("r1").unwrap().unwrap().phase,
            Phase::Open,
            "not superseded by itself"
        );
    }

    #[tokio::test]
    async fn a_run_with_letters_elsewhere_stays_until_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let journal =
            Journal::open(folder.path().join("state.db"), Duration::from_secs(5)).await.unwrap();
        let now = Timestamp::from_unix_ms(9);
        let first = StoredRun { stage: Some(Stage::Select), ..stored("r1") };
        let StoredRun { broker, vhost, queue, .. } = first.clone();
        journal.begin(first).await.unwrap();
        let apart = |journal: &Journal| journal.apart(&broker, &vhost, &queue).unwrap();
        assert_eq!(apart(&journal).as_deref(), Some("r1"));
        journal.part("r1", "r1.back", now).await.unwrap();
        let entry = Entry::New(1, key('a'), State::Rested);
        journal.note("r1.back", vec![(entry, Detail::default())], now).await.unwrap();
        // Going on with a part begins nothing anew.
        journal.part("r1", "r1.back", now).await.unwrap();
        assert_eq!(journal.parts("r1").unwrap(), ["r1.back"]);
        assert_eq!(journal.tally("r1.back").unwrap().rested, 1);
        assert_eq!(journal.run("r1.back").unwrap(), None);
        assert_eq!(journal.runs(9).unwrap().len(), 1);
        journal.stage("r1", Stage::Back, Some("all".to_owned())).await.unwrap();
        journal.begin(stored("r2")).await.unwrap();
        let found = journal.run("r1").unwrap().unwrap();
        assert_eq!((found.phase, found.stage), (Phase::Open, Some(Stage::Back)));
        assert_eq!(found.why.as_deref(), Some("all"));
        journal.whole("r1", "all", "me", now).await.unwrap();
        assert_eq!(apart(&journal), None);
        assert_eq!(journal.run("r1").unwrap().unwrap().phase, Phase::Done);
    }

    #[tokio::test]
    async fn a_run_through_a_stream_goes_on_at_the_first_letter_that_is_not_confirmed() {
        let folder = tempfile::tempdir().unwrap();
        let journal =
            Journal::open(folder.path().join("state.db"), Duration::from_secs(5)).await.unwrap();
        journal.begin(stored("r1")).await.unwrap();
        assert_eq!(journal.stream_place("r1").unwrap(), StreamPlace::default());
        journal.stream_ends("r1", 99).await.unwrap();
        let states =
            [State::Confirmed, State::Skipped, State::Intent(Way::Target), State::Confirmed];
        let entries = (1..).zip(states).map(|(n, state)| {
            // Offsets may have gaps.
            let detail = Detail { place: Some(40 + n * 2), ..Detail::default() };
            (Entry::New(n, key('a'), state), detail)
        });
        let now = Timestamp::from_unix_ms(9);
        journal.note("r1", entries.collect(), now).await.unwrap();
        let place = StreamPlace { end: Some(99), first_open: Some(46), last: Some(48), before: 2 };
        assert_eq!(journal.stream_place("r1").unwrap(), place);
        assert_eq!(journal.at_offset("r1", 48).unwrap(), Some((4, State::Confirmed)));
        assert_eq!(journal.at_offset("r1", 47).unwrap(), None);
        journal
            .note("r1", vec![(Entry::Now(3, State::Confirmed), Detail::default())], now)
            .await
            .unwrap();
        let place = journal.stream_place("r1").unwrap();
        assert_eq!((place.first_open, place.before), (None, 4));
    }

    #[tokio::test]
    async fn a_full_disk_is_an_error_and_what_was_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let options = Options { max_pages: Some(40), ..Options::default() };
        let journal = Journal::open_with(path, options).await.unwrap();
        journal.begin(stored("r1")).await.unwrap();
        let detail = Detail { message_id: Some("m".repeat(200)), ..Detail::default() };
        let mut written = 0;
        let error = loop {
            let entries = (1..=100)
                .map(|n| (Entry::New(written + n, key('a'), State::Held), detail.clone()))
                .collect();
            match journal.note("r1", entries, Timestamp::from_unix_ms(7)).await {
                Ok(()) => written += 100,
                Err(error) => break error,
            }
            assert!(written < 100_000, "the file never becomes full");
        };
        assert!(error.to_string().contains("no space left"), "{error}");
        assert_eq!(journal.tally("r1").unwrap().held, written);
    }
}
