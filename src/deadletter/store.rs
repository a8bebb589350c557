//! Scans in the state file: what lay in a queue when it was read, so that every later question is asked
//! of the file and not of the queue.
//!
//! A letter keeps its properties and headers without loss, and of its body as much as was asked for.
//! Groups are counted while the scan is written. A scan can be made again, so it is kept against the
//! death of this process, not against a power cut.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::Value as Sql;
use rusqlite::{
    Connection, OptionalExtension, Result as SqlResult, Row as SqlRow, params_from_iter,
};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::base::time::Timestamp;
use crate::broker::{Delivery, DeliveryTag};
use crate::message::record::{RecordRef, parse_record, write_record};
use crate::storage::{Durability, Options, Room, StateFile, StorageError, rusqlite};

use super::fingerprint::{Fingerprint, Traits};
use super::letter::LetterId;
use super::letter_set::LetterSet;
use super::select::{Known, SelectError, Selection, Selector};
use super::sighting::Sighting;
use super::trail::{self, NewEntry};

/// What this room keeps in a state file.
pub const ROOM: Room = Room {
    name: "deadletter",
    migrations: &["
CREATE TABLE deadletter_scan(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster TEXT NOT NULL,
    vhost TEXT NOT NULL,
    queue TEXT NOT NULL,
    began INTEGER NOT NULL,
    ended INTEGER,
    depth INTEGER,
    letters INTEGER NOT NULL DEFAULT 0,
    twins INTEGER NOT NULL DEFAULT 0,
    cut INTEGER NOT NULL DEFAULT 0,
    oldest INTEGER,
    newest INTEGER,
    complete INTEGER NOT NULL DEFAULT 0,
    remark TEXT,
    forgotten INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX deadletter_scan_queue ON deadletter_scan(cluster, vhost, queue);
CREATE TABLE deadletter_letter(
    key INTEGER PRIMARY KEY,
    scan INTEGER NOT NULL,
    id TEXT NOT NULL,
    grp INTEGER NOT NULL,
    died INTEGER,
    size INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX deadletter_letter_id ON deadletter_letter(scan, id);
CREATE INDEX deadletter_letter_group ON deadletter_letter(scan, grp, died);
CREATE TABLE deadletter_group(
    scan INTEGER NOT NULL,
    grp INTEGER NOT NULL,
    letters INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    oldest INTEGER,
    newest INTEGER,
    first INTEGER NOT NULL,
    traits TEXT NOT NULL,
    PRIMARY KEY(scan, grp)
) STRICT, WITHOUT ROWID;
"],
};

/// What is written into: the scans, and the trail.
const ROOMS: [Room; 2] = [ROOM, trail::store::ROOM];

/// Bits of a letter's key that are its position.
const POSITION_BITS: u32 = 40;
/// Rows that are deleted in one transaction: others wait for it.
const DELETED_AT_ONCE: u64 = 10_000;
/// A scan that has not ended by then was cut off: none holds letters for so long.
const SURELY_CUT_OFF: Duration = Duration::from_secs(24 * 60 * 60);

/// Number of a scan within its state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScanId(pub i64);

impl ScanId {
    fn key(self, position: u64) -> i64 {
        self.0 << POSITION_BITS | i64::try_from(position).unwrap_or(0)
    }
}

/// Which queue was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The cluster's name, or the embedded broker's id.
    pub cluster: String,
    /// The virtual host.
    pub vhost: String,
    /// The queue.
    pub queue: QueueName,
}

/// A scan as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// Its number.
    pub id: ScanId,
    /// What was read.
    pub of: Scanned,
    /// When it began.
    pub began: Timestamp,
    /// When it ended; `None` when it was cut off, or goes on.
    pub ended: Option<Timestamp>,
    /// Messages that were ready when it began; `None` in a stream.
    pub depth: Option<u64>,
    /// Letters that were seen.
    pub letters: u64,
    /// Of these, how many share their name with another.
    pub twins: u64,
    /// Of these, how many bodies are not kept whole.
    pub cut: u64,
    /// The oldest death.
    pub oldest: Option<Timestamp>,
    /// The newest death.
    pub newest: Option<Timestamp>,
    /// Whether everything that was ready has been seen.
    pub complete: bool,
    /// What else to know.
    pub remark: Option<String>,
}

/// A group of letters in a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub group: Fingerprint,
    /// What its letters have in common.
    pub traits: Traits,
    /// How many there are.
    pub letters: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// The oldest death.
    pub oldest: Option<Timestamp>,
    /// The newest death.
    pub newest: Option<Timestamp>,
    /// The place of the first of them.
    pub first: u64,
}

/// A letter as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredLetter {
    /// Its place in the queue, from 1.
    pub position: u64,
    /// Its name.
    pub id: LetterId,
    /// Its group.
    pub group: Fingerprint,
    /// When it died.
    pub died_at: Option<Timestamp>,
    /// Bytes of its body.
    pub size: u64,
    /// The message, with as much of its body as was kept. Its tag is void.
    pub delivery: Delivery,
}

impl StoredLetter {
    /// Whether the whole body is there.
    pub fn is_whole(&self) -> bool {
        self.delivery.message.body.len() as u64 == self.size
    }
}

/// A letter ready to be written.
#[derive(Clone, Debug)]
pub struct Row {
    position: u64,
    id: LetterId,
    group: Fingerprint,
    traits: Traits,
    died_at: Option<Timestamp>,
    size: usize,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Row {
    /// The letter with the first `keep` bytes of its body.
    pub fn of(sighting: Sighting, keep: usize) -> Row {
        let Sighting { position, id, group, traits, died_at, delivery } = sighting;
        let mut message = delivery.message;
        let mut body = std::mem::take(&mut message.body);
        let size = body.len();
        if body.len() > keep {
            body.truncate(keep);
            body.shrink_to_fit();
        }
        let record = RecordRef {
            exchange: Some(delivery.exchange.as_str()),
            routing_key: Some(delivery.routing_key.as_str()),
            queue: None,
            redelivered: Some(delivery.redelivered),
            delivery_tag: None,
            received_at: None,
            message: &message,
        };
        let mut head = Vec::new();
        write_record(&mut head, &record);
        Row { position, id, group, traits, died_at, size, head, body }
    }

    /// Bytes that it takes, about.
    pub fn kept(&self) -> usize {
        self.body.len()
    }
}

/// How a scan ended.
#[derive(Clone, Debug, Default)]
pub struct Ending {
    /// Whether everything that was ready has been seen.
    pub complete: bool,
    /// What else to know.
    pub remark: Option<String>,
}

/// What was found in a scan.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The letters, in the order of the queue.
    pub letters: Vec<StoredLetter>,
    /// How many are meant in all, those beyond the limit included.
    pub matched: u64,
    /// For how many the condition could not be decided, with the first reason.
    pub undecided: u64,
    /// Why, for the first of these.
    pub why_undecided: Option<String>,
}

/// The letters of a scan for which a condition is true.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Their places.
    pub places: LetterSet,
    /// How many of each group.
    pub groups: BTreeMap<Fingerprint, u64>,
    /// For how many the condition could not be decided.
    pub undecided: u64,
    /// Why, for the first of these.
    pub why_undecided: Option<String>,
}

/// Why a scan was not searched.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The state file failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The selection is wrong.
    #[error(transparent)]
    Select(#[from] SelectError),
}

/// The scans in one state file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scans {
    file: Arc<StateFile>,
}

impl Scans {
    /// Opens the scans in the state file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn open(path: impl Into<PathBuf>, timeout: Duration) -> Result<Scans, StorageError> {
        let path = path.into();
        let name = path.clone();
        let options = Options { timeout, ..Options::default() };
        let file = tokio::task::spawn_blocking(move || StateFile::open(&path, &ROOMS, options))
            .await
            .unwrap_or_else(|error| {
                Err(StorageError::Open { path: name, cause: error.to_string() })
            })?;
        Ok(Scans { file })
    }

    /// The state file.
    pub fn file(&self) -> &Arc<StateFile> {
        &self.file
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> SqlResult<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let file = Arc::clone(&self.file);
        let work = move |connection: &Connection| work(connection).map_err(|e| file.fault(&e));
        self.file.write(Durability::Process, work).await
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> SqlResult<T>) -> Result<T, StorageError> {
        self.file.read(|connection| work(connection).map_err(|error| self.file.fault(&error)))
    }

    /// Begins a scan of a queue in which so many messages are ready.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn begin(
        &self,
        of: &Scanned,
        began: Timestamp,
        depth: Option<u64>,
    ) -> Result<ScanId, StorageError> {
        let Scanned { cluster, vhost, queue } = of.clone();
        self.write(move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO deadletter_scan(cluster, vhost, queue, began, depth)
                     VALUES(?, ?, ?, ?, ?)",
                )?
                .insert((cluster, vhost, queue.as_str(), began.unix_ms(), depth.map(sql_count)))
                .map(ScanId)
        })
        .await
    }

    /// Writes letters of a scan, in one transaction.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn append(&self, scan: ScanId, rows: Vec<Row>) -> Result<(), StorageError> {
        self.write(move |connection| append(connection, scan, &rows)).await
    }

    /// [`Scans::append`] for callers that are not async; blocks the thread.
    ///
    /// # Errors
    /// When the file fails.
    pub fn append_blocking(&self, scan: ScanId, rows: Vec<Row>) -> Result<(), StorageError> {
        let file = Arc::clone(&self.file);
        self.file.write_blocking(Durability::Process, move |connection| {
            append(connection, scan, &rows).map_err(|error| file.fault(&error))
        })
    }

    /// Ends a scan, and forgets those of the same queue beyond the newest `keep`, and those that a kill
    /// cut off once they are of no use any more.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn finish(
        &self,
        scan: ScanId,
        ending: Ending,
        now: Timestamp,
        keep: usize,
    ) -> Result<Scan, StorageError> {
        let twins: i64 = self.read(|connection| {
            connection.query_row(
                "SELECT coalesce(sum(many), 0) FROM (SELECT count(*) AS many FROM deadletter_letter
                 WHERE scan = ? GROUP BY id HAVING count(*) > 1)",
                [scan.0],
                |row| row.get(0),
            )
        })?;
        let Ending { complete, remark } = ending;
        self.write(move |connection| {
            connection
                .prepare_cached(
                    "UPDATE deadletter_scan SET ended = ?, complete = ?, remark = ?, twins = ?
                     WHERE id = ?",
                )?
                .execute((now.unix_ms(), complete, remark, twins, scan.0))
        })
        .await?;
        let missing = || StorageError::Statement {
            path: self.file.path().to_owned(),
            cause: format!("scan {} was forgotten while it was written", scan.0),
        };
        let kept = self.scan(scan)?.ok_or_else(missing)?;
        let same = self.scans(Some(&kept.of))?;
        for old in expendable(&same, keep, now) {
            self.forget(old, None).await?;
        }
        Ok(kept)
    }

    /// Forgets a scan, and tells the trail when somebody wished so. Whether there was one.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn forget(&self, scan: ScanId, told: Option<NewEntry>) -> Result<bool, StorageError> {
        // Marked first, so that what a kill leaves is taken up by the next.
        let mark = "UPDATE deadletter_scan SET forgotten = 1 WHERE id = ? AND forgotten = 0";
        let there = self
            .write(move |connection| {
                let there = connection.execute(mark, [scan.0])? > 0;
                if let Some(entry) = told.filter(|_| there) {
                    trail::append(connection, &entry)?;
                }
                Ok(there)
            })
            .await?;
        let marked: Vec<i64> = self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT id FROM deadletter_scan WHERE forgotten = 1")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            ids.collect()
        })?;
        for id in marked {
            loop {
                let gone = self
                    .write(move |connection| {
                        let gone = connection
                            .prepare_cached(
                                "DELETE FROM deadletter_letter WHERE key IN (
                                 SELECT key FROM deadletter_letter WHERE scan = ? LIMIT ?)",
                            )?
                            .execute((id, sql_count(DELETED_AT_ONCE)))?;
                        if gone == 0 {
                            connection
                                .execute("DELETE FROM deadletter_group WHERE scan = ?", [id])?;
                            connection.execute("DELETE FROM deadletter_scan WHERE id = ?", [id])?;
                        }
                        Ok(gone)
                    })
                    .await?;
                if gone == 0 {
                    break;
                }
            }
        }
        Ok(there)
    }

    /// The scans, or those of one queue, newest first.
    ///
    /// # Errors
    /// When the file fails.
    pub fn scans(&self, of: Option<&Scanned>) -> Result<Vec<Scan>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT id, cluster, vhost, queue, began, ended, depth, letters, twins, cut, oldest,
                 newest, complete, remark FROM deadletter_scan WHERE forgotten = 0 ORDER BY id DESC",
            )?;
            let scans = statement.query_map([], scan_of)?;
            let wanted = |scan: &SqlResult<Scan>| {
                scan.as_ref().map_or(true, |scan| of.is_none_or(|of| scan.of == *of))
            };
            scans.filter(wanted).collect()
        })
    }

    /// One scan.
    ///
    /// # Errors
    /// When the file fails.
    pub fn scan(&self, id: ScanId) -> Result<Option<Scan>, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT id, cluster, vhost, queue, began, ended, depth, letters, twins, cut, oldest,
                     newest, complete, remark FROM deadletter_scan WHERE forgotten = 0 AND id = ?",
                )?
                .query_row([id.0], scan_of)
                .optional()
        })
    }

    /// The groups of a scan, the largest first.
    ///
    /// # Errors
    /// When the file fails.
    pub fn groups(&self, scan: ScanId) -> Result<Vec<Group>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT grp, letters, bytes, oldest, newest, first, traits FROM deadletter_group
                 WHERE scan = ? ORDER BY letters DESC, first",
            )?;
            let groups = statement.query_map([scan.0], group_of)?;
            groups.collect()
        })
    }

    /// How many groups a scan has.
    ///
    /// # Errors
    /// When the file fails.
    pub fn group_count(&self, scan: ScanId) -> Result<u64, StorageError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT count(*) FROM deadletter_group WHERE scan = ?")?
                .query_row([scan.0], |row| count_at(row, 0))
        })
    }

    /// Some of the groups of a scan in the order of [`Scans::groups`].
    ///
    /// # Errors
    /// When the file fails.
    pub fn groups_from(
        &self,
        scan: ScanId,
        skip: u64,
        most: u64,
    ) -> Result<Vec<Group>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT grp, letters, bytes, oldest, newest, first, traits FROM deadletter_group
                 WHERE scan = ? ORDER BY letters DESC, first LIMIT ? OFFSET ?",
            )?;
            let window = (scan.0, sql_count(most), sql_count(skip));
            let groups = statement.query_map(window, group_of)?;
            groups.collect()
        })
    }

    /// These groups, in this order; one that is not there is left out.
    ///
    /// # Errors
    /// When the file fails.
    pub fn groups_named(
        &self,
        scan: ScanId,
        names: &[Fingerprint],
    ) -> Result<Vec<Group>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT grp, letters, bytes, oldest, newest, first, traits FROM deadletter_group
                 WHERE scan = ? AND grp = ?",
            )?;
            let mut groups = Vec::with_capacity(names.len());
            for name in names {
                let key = (scan.0, sql_count(name.bits()));
                groups.extend(statement.query_row(key, group_of).optional()?);
            }
            Ok(groups)
        })
    }

    /// The places of a group's letters. Only an index is read.
    ///
    /// # Errors
    /// When the file fails.
    pub fn places_of(&self, scan: ScanId, group: Fingerprint) -> Result<LetterSet, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key FROM deadletter_letter INDEXED BY deadletter_letter_group
                 WHERE scan = ? AND grp = ?",
            )?;
            let keys = statement
                .query_map((scan.0, sql_count(group.bits())), |row| row.get::<_, i64>(0))?;
            keys.map(|key| key.map(position_of)).collect()
        })
    }

    /// The letters at these places without their bodies, which are not read.
    ///
    /// # Errors
    /// When the file fails.
    pub fn heads(&self, scan: ScanId, places: &[u64]) -> Result<Vec<StoredLetter>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key, id, grp, died, size, head, x'' FROM deadletter_letter WHERE key = ?",
            )?;
            let mut letters = Vec::with_capacity(places.len());
            for place in places {
                let letter = statement.query_row([scan.key(*place)], letter_of).optional()?;
                letters.extend(letter);
            }
            Ok(letters)
        })
    }

    /// Which letters of a scan a condition is true for. `looked` hears how many were looked at, now and
    /// then, and may end it.
    ///
    /// # Errors
    /// When the file fails, or the condition is wrong.
    pub fn matches(
        &self,
        scan: &Scan,
        condition: &str,
        looked: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Matches, FindError> {
        /// Letters between two calls of `looked`.
        const STEP: u64 = 2000;
        let selection = Selection { condition: Some(condition.to_owned()), ..Selection::default() };
        let mut selector = Selector::new(&selection, &scan.of.vhost, &scan.of.queue)?;
        let mut found = Matches::default();
        let mut seen = 0;
        self.each(scan.id, &Selection::default(), &mut |letter| {
            let known = Known { id: &letter.id, group: letter.group, whole: letter.is_whole() };
            match selector.decide(letter.position, &letter.delivery, Some(&known)) {
                Ok(true) => {
                    found.places.insert(letter.position);
                    *found.groups.entry(letter.group).or_default() += 1;
                }
                Ok(false) => {}
                Err(error) => {
                    found.undecided += 1;
                    found.why_undecided.get_or_insert_with(|| error.to_string());
                }
            }
            seen += 1;
            if seen % STEP == 0 { looked(seen) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }

    /// The letter at a position.
    ///
    /// # Errors
    /// When the file fails.
    pub fn at(&self, scan: ScanId, position: u64) -> Result<Option<StoredLetter>, StorageError> {
        self.read(|connection| letter_by_key(connection, scan.key(position)))
    }

    /// Other places of a letter's name in the scan, its own included, in order.
    ///
    /// # Errors
    /// When the file fails.
    pub fn places(&self, scan: ScanId, id: &LetterId) -> Result<Vec<u64>, StorageError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT key FROM deadletter_letter WHERE scan = ? AND id = ? ORDER BY key",
            )?;
            let keys = statement.query_map((scan.0, id.as_str()), |row| row.get(0))?;
            keys.map(|key| key.map(position_of)).collect()
        })
    }

    /// The letters of a scan that a selection means; at most `limit` of them, in the order of the
    /// queue. Reads bodies only when the condition asks for something.
    ///
    /// # Errors
    /// When the file fails, or the selection is wrong or ambiguous.
    pub fn find(
        &self,
        scan: &Scan,
        selection: &Selection,
        limit: usize,
    ) -> Result<Found, FindError> {
        let mut selector = Selector::new(selection, &scan.of.vhost, &scan.of.queue)?;
        self.check_names(scan.id, selection)?;
        if selection.condition.is_none() {
            return Ok(
                self.read(|connection| find_by_index(connection, scan.id, selection, limit))?
            );
        }
        let mut found = Found::default();
        if selector.is_done() {
            return Ok(found);
        }
        let mut tail: std::collections::VecDeque<StoredLetter> = std::collections::VecDeque::new();
        let keeps_tail = selection.last.and_then(|last| usize::try_from(last).ok());
        self.each(scan.id, selection, &mut |letter| {
            let known = Known { id: &letter.id, group: letter.group, whole: letter.is_whole() };
            match selector.decide(letter.position, &letter.delivery, Some(&known)) {
                Ok(true) => {}
                Ok(false) => return ControlFlow::Continue(()),
                Err(error) => {
                    found.undecided += 1;
                    found.why_undecided.get_or_insert_with(|| error.to_string());
                    return ControlFlow::Continue(());
                }
            }
            match (keeps_tail, selection.first) {
                (Some(last), _) => {
                    tail.push_back(letter);
                    if tail.len() > last {
                        tail.pop_front();
                    }
                }
                (None, first) => {
                    found.matched += 1;
                    if found.letters.len() < limit {
                        found.letters.push(letter);
                    }
                    if first.is_some_and(|first| found.matched >= first) {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        if keeps_tail.is_some() {
            found.matched = tail.len() as u64;
            found.letters = tail.into_iter().take(limit).collect();
        }
        Ok(found)
    }

    /// Fails when a short name fits several letters or none.
    fn check_names(&self, scan: ScanId, selection: &Selection) -> Result<(), FindError> {
        for prefix in &selection.ids {
            let ids: Vec<String> = self.read(|connection| {
                let mut statement = connection.prepare_cached(
                    "SELECT DISTINCT id FROM deadletter_letter
                     WHERE scan = ? AND id >= ? AND id < ? LIMIT 2",
                )?;
                let (from, to) = prefix_range(prefix.as_str());
                let ids = statement.query_map((scan.0, from, to), |row| row.get(0))?;
                ids.collect()
            })?;
            let ids: Vec<LetterId> = ids.iter().filter_map(|id| LetterId::parse(id)).collect();
            if let [first, second] = &ids[..] {
                return Err(FindError::Select(SelectError::Ambiguous {
                    prefix: prefix.as_str().to_owned(),
                    first: first.clone(),
                    second: second.clone(),
                }));
            }
        }
        Ok(())
    }

    /// Hands over the letters of a scan, in order; those that the names and times of the selection
    /// leave out are not read.
    ///
    /// # Errors
    /// When the file fails.
    pub fn each(
        &self,
        scan: ScanId,
        selection: &Selection,
        each: &mut dyn FnMut(StoredLetter) -> ControlFlow<()>,
    ) -> Result<(), StorageError> {
        self.read(|connection| {
            let narrow = Narrow::of(scan, selection);
            if narrow.is_all {
                let mut statement = connection.prepare_cached(
                    "SELECT key, id, grp, died, size, head, body FROM deadletter_letter
                     WHERE key > ? AND key < ? ORDER BY key",
                )?;
                let mut rows = statement.query((scan.key(0), ScanId(scan.0 + 1).key(0)))?;
                while let Some(row) = rows.next()? {
                    if each(letter_of(row)?).is_break() {
                        break;
                    }
                }
                return Ok(());
            }
            for key in narrow.keys(connection, "key", None)? {
                if let Some(letter) = letter_by_key(connection, key)?
                    && each(letter).is_break()
                {
                    break;
                }
            }
            Ok(())
        })
    }
}

/// What of a selection the indexes can answer.
struct Narrow {
    clause: String,
    values: Vec<Sql>,
    is_all: bool,
    /// The index to go by, where it has to be said.
    index: &'static str,
}

impl Narrow {
    fn of(scan: ScanId, selection: &Selection) -> Narrow {
        let mut clause = "scan = ?".to_owned();
        let mut values = vec![Sql::Integer(scan.0)];
        let mut names = Vec::new();
        for prefix in &selection.ids {
            let (from, to) = prefix_range(prefix.as_str());
            names.push(
                "key IN (SELECT key FROM deadletter_letter WHERE scan = ? AND id >= ? AND id < ?)",
            );
            values.extend([Sql::Integer(scan.0), Sql::Text(from), Sql::Text(to)]);
        }
        for group in &selection.groups {
            names.push("grp = ?");
            values.push(Sql::Integer(sql_count(group.bits())));
        }
        if !names.is_empty() {
            clause.push_str(&format!(" AND ({})", names.join(" OR ")));
        }
        for (at, compare) in [(selection.since, ">="), (selection.until, "<")] {
            if let Some(at) = at {
                clause.push_str(&format!(" AND died {compare} ?"));
                values.push(Sql::Integer(at.unix_ms()));
            }
        }
        let is_all = values.len() == 1;
        // Short names find their letters by themselves.
        let by_group = selection.ids.is_empty();
        let index = if by_group { "INDEXED BY deadletter_letter_group" } else { "" };
        Narrow { clause, values, is_all, index }
    }

    /// The keys that fit, in this order; only the index is read, never a body.
    fn keys(
        &self,
        connection: &Connection,
        order: &str,
        limit: Option<u64>,
    ) -> SqlResult<Vec<i64>> {
        let limit = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
        let sql = format!(
            "SELECT key FROM deadletter_letter {} WHERE {} ORDER BY {order}{limit}",
            self.index, self.clause
        );
        let mut statement = connection.prepare(&sql)?;
        let keys = statement.query_map(params_from_iter(&self.values), |row| row.get(0))?;
        keys.collect()
    }

    fn count(&self, connection: &Connection) -> SqlResult<u64> {
        let sql =
            format!("SELECT count(*) FROM deadletter_letter {} WHERE {}", self.index, self.clause);
        connection.query_row(&sql, params_from_iter(&self.values), |row| count_at(row, 0))
    }
}

fn find_by_index(
    connection: &Connection,
    scan: ScanId,
    selection: &Selection,
    limit: usize,
) -> SqlResult<Found> {
    let narrow = Narrow::of(scan, selection);
    let all = if narrow.is_all {
        let sql = "SELECT letters FROM deadletter_scan WHERE id = ?";
        connection.query_row(sql, [scan.0], |row| count_at(row, 0))?
    } else {
        narrow.count(connection)?
    };
    let most = limit as u64;
    let (matched, keys) = match (selection.first, selection.last) {
        (_, Some(last)) if narrow.is_all => {
            let matched = last.min(all);
            (matched, range(scan, all - matched, matched.min(most)))
        }
        (_, Some(last)) => {
            let mut keys = narrow.keys(connection, "key DESC", Some(last))?;
            keys.reverse();
            (keys.len() as u64, keys)
        }
        (first, None) => {
            let matched = first.unwrap_or(all).min(all);
            if narrow.is_all {
                (matched, range(scan, 0, matched.min(most)))
            } else {
                (matched, narrow.keys(connection, "key", Some(matched.min(most)))?)
            }
        }
    };
    let letters = keys
        .into_iter()
        .take(limit)
        .filter_map(|key| letter_by_key(connection, key).transpose())
        .collect::<SqlResult<_>>()?;
    Ok(Found { letters, matched, ..Found::default() })
}

fn range(scan: ScanId, skip: u64, many: u64) -> Vec<i64> {
    (skip + 1..=skip + many).map(|position| scan.key(position)).collect()
}

/// Which scans of one queue, the newest first, need not be kept: those that ended, beyond the newest
/// `keep`; and those that a kill cut off more than a day ago, when a later one saw all of the queue. One
/// that has not ended may be another process at work.
fn expendable(same: &[Scan], keep: usize, now: Timestamp) -> Vec<ScanId> {
    let ended = same.iter().filter(|scan| scan.ended.is_some()).skip(keep.max(1));
    let newest_whole = same.iter().find(|scan| scan.ended.is_some() && scan.complete);
    let cut_off = same.iter().filter(|scan| {
        scan.ended.is_none()
            && now.since(scan.began) > SURELY_CUT_OFF
            && newest_whole.is_some_and(|whole| whole.id > scan.id)
    });
    ended.chain(cut_off).map(|scan| scan.id).collect()
}

/// From where to where ids begin so.
fn prefix_range(prefix: &str) -> (String, String) {
    // `~` is behind every letter and digit.
    (prefix.to_owned(), format!("{prefix}~"))
}

/// What a batch adds to a group.
struct Share<'a> {
    letters: i64,
    bytes: i64,
    oldest: Option<i64>,
    newest: Option<i64>,
    first: i64,
    traits: &'a Traits,
}

fn append(connection: &Connection, scan: ScanId, rows: &[Row]) -> SqlResult<()> {
    let mut shares: BTreeMap<Fingerprint, Share<'_>> = BTreeMap::new();
    let mut insert = connection.prepare_cached(
        "INSERT INTO deadletter_letter(key, scan, id, grp, died, size, head, body)
         VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let mut cut = 0;
    for row in rows {
        let died = row.died_at.map(Timestamp::unix_ms);
        let size = sql_count(row.size as u64);
        insert.execute((
            scan.key(row.position),
            scan.0,
            row.id.as_str(),
            sql_count(row.group.bits()),
            died,
            size,
            &row.head,
            &row.body,
        ))?;
        cut += i64::from(row.body.len() < row.size);
        let share = shares.entry(row.group).or_insert_with(|| Share {
            letters: 0,
            bytes: 0,
            oldest: None,
            newest: None,
            first: sql_count(row.position),
            traits: &row.traits,
        });
        share.letters += 1;
        share.bytes += size;
        share.oldest = share.oldest.into_iter().chain(died).min();
        share.newest = share.newest.max(died);
    }
    let mut upsert = connection.prepare_cached(
        "INSERT INTO deadletter_group(scan, grp, letters, bytes, oldest, newest, first, traits)
         VALUES(?, ?, ?, ?, ?, ?, ?, ?)
         ON CONFLICT(scan, grp) DO UPDATE SET letters = letters + excluded.letters,
         bytes = bytes + excluded.bytes,
         oldest = min(coalesce(oldest, excluded.oldest), coalesce(excluded.oldest, oldest)),
         newest = max(coalesce(newest, excluded.newest), coalesce(excluded.newest, newest))",
    )?;
    let (mut oldest, mut newest) = (None, None);
    for (group, share) in shares {
        let traits = serde_json::to_string(share.traits)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        upsert.execute((
            scan.0,
            sql_count(group.bits()),
            share.letters,
            share.bytes,
            share.oldest,
            share.newest,
            share.first,
            traits,
        ))?;
        oldest = oldest.into_iter().chain(share.oldest).min();
        newest = newest.max(share.newest);
    }
    connection
        .prepare_cached(
            "UPDATE deadletter_scan SET letters = letters + ?1, cut = cut + ?2,
             oldest = min(coalesce(oldest, ?3), coalesce(?3, oldest)),
             newest = max(coalesce(newest, ?4), coalesce(?4, newest)) WHERE id = ?5",
        )?
        .execute((sql_count(rows.len() as u64), cut, oldest, newest, scan.0))?;
    Ok(())
}

fn sql_count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count_at(row: &SqlRow<'_>, column: usize) -> SqlResult<u64> {
    let count: i64 = row.get(column)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

fn time_at(row: &SqlRow<'_>, column: usize) -> SqlResult<Option<Timestamp>> {
    let ms: Option<i64> = row.get(column)?;
    Ok(ms.map(Timestamp::from_unix_ms))
}

fn position_of(key: i64) -> u64 {
    u64::try_from(key & ((1 << POSITION_BITS) - 1)).unwrap_or(0)
}

fn broken(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    let kind = rusqlite::types::Type::Text;
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}

fn scan_of(row: &SqlRow<'_>) -> SqlResult<Scan> {
    let queue: String = row.get(3)?;
    let depth: Option<i64> = row.get(6)?;
    Ok(Scan {
        id: ScanId(row.get(0)?),
        of: Scanned {
            cluster: row.get(1)?,
            vhost: row.get(2)?,
            queue: QueueName::new(queue).map_err(|error| broken(3, error.to_string()))?,
        },
        began: Timestamp::from_unix_ms(row.get(4)?),
        ended: time_at(row, 5)?,
        depth: depth.and_then(|depth| u64::try_from(depth).ok()),
        letters: count_at(row, 7)?,
        twins: count_at(row, 8)?,
        cut: count_at(row, 9)?,
        oldest: time_at(row, 10)?,
        newest: time_at(row, 11)?,
        complete: row.get(12)?,
        remark: row.get(13)?,
    })
}

fn group_of(row: &SqlRow<'_>) -> SqlResult<Group> {
    let traits: String = row.get(6)?;
    Ok(Group {
        group: Fingerprint::from_bits(count_at(row, 0)?),
        traits: serde_json::from_str(&traits).map_err(|error| broken(6, error))?,
        letters: count_at(row, 1)?,
        bytes: count_at(row, 2)?,
        oldest: time_at(row, 3)?,
        newest: time_at(row, 4)?,
        first: count_at(row, 5)?,
    })
}

fn letter_by_key(connection: &Connection, key: i64) -> SqlResult<Option<StoredLetter>> {
    connection
        .prepare_cached(
            "SELECT key, id, grp, died, size, head, body FROM deadletter_letter WHERE key = ?",
        )?
        .query_row([key], letter_of)
        .optional()
}

fn letter_of(row: &SqlRow<'_>) -> SqlResult<StoredLetter> {
    let id: String = row.get(1)?;
    let head: Vec<u8> = row.get(5)?;
    let record = parse_record(&head).map_err(|problems| {
        let first = problems.0.first().map(|problem| problem.message.clone());
        broken(5, first.unwrap_or_default())
    })?;
    let mut message = record.message;
    message.body = row.get(6)?;
    Ok(StoredLetter {
        position: position_of(row.get(0)?),
        id: LetterId::parse(&id).ok_or_else(|| broken(1, "no letter's name"))?,
        group: Fingerprint::from_bits(count_at(row, 2)?),
        died_at: time_at(row, 3)?,
        size: count_at(row, 4)?,
        delivery: Delivery {
            tag: DeliveryTag { generation: 0, tag: 0 },
            exchange: record.exchange.unwrap_or_else(ExchangeName::default_exchange),
            routing_key: record.routing_key.unwrap_or_else(|| RoutingKey::received(String::new())),
            redelivered: record.redelivered.unwrap_or(false),
            message,
        },
    })
}

#[cfg(test)]
mod tests;
