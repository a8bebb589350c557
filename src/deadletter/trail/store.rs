//! The trail in the state file: append-only by the schema itself.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult, Row};

use crate::base::time::Timestamp;
use crate::storage::{Durability, Options, Room, StateFile, StorageError, rusqlite};

use super::chain::{Entry, GENESIS, NewEntry, Verdict, Walk};

/// What this room keeps in a state file. Whoever calls [`append`] opens the file with it.
///
/// The columns to search by are made from the entry itself, so they cannot be changed apart from it.
pub const ROOM: Room = Room {
    name: "trail",
    migrations: &["
CREATE TABLE trail_entry(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    entry TEXT NOT NULL,
    hash TEXT NOT NULL,
    queue TEXT GENERATED ALWAYS AS (json_extract(entry, '$.queue')) VIRTUAL,
    run TEXT GENERATED ALWAYS AS (json_extract(entry, '$.run')) VIRTUAL
) STRICT;
CREATE INDEX trail_entry_queue ON trail_entry(queue);
CREATE INDEX trail_entry_run ON trail_entry(run);
CREATE TRIGGER trail_entry_stays BEFORE UPDATE ON trail_entry
BEGIN SELECT RAISE(ABORT, 'the trail is append-only: no entry may be changed'); END;
CREATE TRIGGER trail_entry_remains BEFORE DELETE ON trail_entry
BEGIN SELECT RAISE(ABORT, 'the trail is append-only: no entry may be deleted'); END;
CREATE TRIGGER trail_entry_follows BEFORE INSERT ON trail_entry
WHEN NEW.number <= (SELECT coalesce(max(number), 0) FROM trail_entry)
BEGIN SELECT RAISE(ABORT, 'the trail is append-only: no entry may be replaced'); END;
"],
};

/// The newest entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 when there is none.
    pub sequence: u64,
    /// Its seal.
    pub hash: String,
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those that concern this queue.
    pub queue: Option<String>,
    /// Those of this run.
    pub run: Option<String>,
    /// Those of whom this is a part of the name.
    pub who: Option<String>,
    /// Those from then on.
    pub since: Option<Timestamp>,
}

fn head(connection: &Connection) -> SqlResult<Head> {
    let found = connection
        .prepare_cached("SELECT number, hash FROM trail_entry ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| {
            Ok(Head { sequence: row.get::<_, i64>(0)?.unsigned_abs(), hash: row.get(1)? })
        })
        .optional()?;
    Ok(found.unwrap_or_else(|| Head { sequence: 0, hash: GENESIS.to_owned() }))
}

/// The highest number that was ever given; SQLite keeps it apart from the entries.
fn written(connection: &Connection) -> SqlResult<u64> {
    let found: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'trail_entry'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(found.map_or(0, i64::unsigned_abs))
}

/// Writes an entry within a transaction, so that it is there exactly when the rest of it is.
///
/// # Errors
/// When the file fails.
pub fn append(connection: &Connection, entry: &NewEntry) -> SqlResult<Head> {
    let before = head(connection)?;
    // Behind a gap the gap stays visible: numbers are given once.
    let sequence = before.sequence.max(written(connection)?) + 1;
    let sealed = entry.seal(sequence, &before.hash);
    connection
        .prepare_cached("INSERT INTO trail_entry(number, entry, hash) VALUES(?, ?, ?)")?
        .execute((i64::try_from(sequence).unwrap_or(i64::MAX), &sealed.text, &sealed.hash))?;
    Ok(Head { sequence, hash: sealed.hash })
}

/// The trail in one state file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trail {
    file: Arc<StateFile>,
}

/// A row as it is kept: its number, its text, its seal.
type Kept = (i64, String, String);

fn kept(row: &Row<'_>) -> SqlResult<Kept> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

impl Trail {
    /// Opens the trail in the state file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn open(path: impl Into<PathBuf>, timeout: Duration) -> Result<Trail, StorageError> {
        let path = path.into();
        let name = path.clone();
        let options = Options { timeout, ..Options::default() };
        let opened = tokio::task::spawn_blocking(move || StateFile::open(&path, &[ROOM], options));
        let file = opened.await.unwrap_or_else(|error| {
            Err(StorageError::Open { path: name, cause: error.to_string() })
        })?;
        Ok(Trail { file })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> SqlResult<T>) -> Result<T, StorageError> {
        self.file.read(|connection| work(connection).map_err(|error| self.file.fault(&error)))
    }

    /// Writes an entry of its own: on the disk when this returns.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn append(&self, entry: NewEntry) -> Result<Head, StorageError> {
        let file = Arc::clone(&self.file);
        self.file
            .write(Durability::Disk, move |connection| {
                append(connection, &entry).map_err(|error| file.fault(&error))
            })
            .await
    }

    /// The newest entry.
    ///
    /// # Errors
    /// When the file fails.
    pub fn head(&self) -> Result<Head, StorageError> {
        self.read(head)
    }

    /// Hands over the entries that are wanted, the newest first, each with its seal, until `each` says
    /// that it is enough. One that cannot be read any more is handed over as its text.
    ///
    /// # Errors
    /// When the file fails.
    pub fn each(
        &self,
        filter: &Filter,
        each: &mut dyn FnMut(i64, Result<Entry, String>, String) -> bool,
    ) -> Result<(), StorageError> {
        let since = filter.since.map(|at| at.to_string());
        self.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT number, entry, hash FROM trail_entry
                 WHERE (?1 IS NULL OR queue = ?1) AND (?2 IS NULL OR run = ?2)
                     AND (?3 IS NULL OR instr(json_extract(entry, '$.who'), ?3) > 0)
                     AND (?4 IS NULL OR json_extract(entry, '$.at') >= ?4)
                 ORDER BY number DESC",
            )?;
            let mut rows = statement.query((&filter.queue, &filter.run, &filter.who, &since))?;
            while let Some(row) = rows.next()? {
                let (number, text, hash) = kept(row)?;
                let entry = serde_json::from_str(&text).map_err(|_| text);
                if !each(number, entry, hash) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Walks along the whole chain, of which one entry at a time is in memory. `noted` is a seal that
    /// somebody kept elsewhere.
    ///
    /// # Errors
    /// When the file fails.
    pub fn verify(&self, noted: Option<&str>) -> Result<Verdict, StorageError> {
        self.read(|connection| {
            let mut walk = Walk::new(noted);
            // Before the entries: what others add meanwhile is no damage.
            let written = written(connection)?;
            let mut statement = connection
                .prepare_cached("SELECT number, entry, hash FROM trail_entry ORDER BY number")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                // What is no text any more is no entry.
                let (number, text, hash) = kept(row).unwrap_or_default();
                if !walk.step(number, &text, &hash) {
                    break;
                }
            }
            Ok(walk.end(written))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::chain::{Damage, Noun};
    use super::*;

    fn entry(n: i64) -> NewEntry {
        NewEntry {
            at: Timestamp::from_unix_ms(1_700_000_000_000 + n),
            who: format!("person{}@host", n % 2),
            what: "replay begun".to_owned(),
            noun: Noun::Run,
            object: format!("r{n}"),
            queue: Some(if n < 3 { "dead" } else { "other" }.to_owned()),
            run: Some(format!("r{n}")),
            reason: (n == 2).then(|| "mended".to_owned()),
            details: json!({"n": n}),
        }
    }

    async fn trail(entries: i64) -> (tempfile::TempDir, Trail) {
        let folder = tempfile::tempdir().unwrap();
        let trail = Trail::open(folder.path().join("s.db"), Duration::from_secs(9)).await.unwrap();
        for n in 1..=entries {
            trail.append(entry(n)).await.unwrap();
        }
        (folder, trail)
    }

    /// As somebody does it who may write the file.
    fn meddle(folder: &tempfile::TempDir, sql: &str) -> SqlResult<()> {
        let connection = Connection::open(folder.path().join("s.db")).unwrap();
        connection.execute_batch(sql)
    }

    const DISARM: &str = "DROP TRIGGER trail_entry_stays; DROP TRIGGER trail_entry_remains;
                          DROP TRIGGER trail_entry_follows;";

    #[tokio::test]
    async fn entries_are_found_again_the_newest_first() {
        let (_folder, trail) = trail(5).await;
        let found = |filter: Filter| {
            let mut numbers = Vec::new();
            trail
                .each(&filter, &mut |number, entry, _| {
                    assert_eq!(entry.unwrap().sequence, number.unsigned_abs());
                    numbers.push(number);
                    true
                })
                .unwrap();
            numbers
        };
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(found(Filter::default()), [5, 4, 3, 2, 1]);
        assert_eq!(found(Filter { queue: text("dead"), ..Filter::default() }), [2, 1]);
        assert_eq!(found(Filter { run: text("r4"), ..Filter::default() }), [4]);
        assert_eq!(found(Filter { who: text("person1"), ..Filter::default() }), [5, 3, 1]);
        let since = Some(Timestamp::from_unix_ms(1_700_000_000_004));
        assert_eq!(found(Filter { since, ..Filter::default() }), [5, 4]);
        let verdict = trail.verify(None).unwrap();
        assert_eq!((verdict.entries, &verdict.head), (5, &trail.head().unwrap().hash));
        assert_eq!(verdict.broken, None);
    }

    #[tokio::test]
    async fn the_schema_itself_lets_nothing_be_changed() {
        let (folder, trail) = trail(3).await;
        for sql in [
            "UPDATE trail_entry SET hash = 'x' WHERE number = 2",
            "DELETE FROM trail_entry WHERE number = 2",
            "DELETE FROM trail_entry",
            "INSERT OR REPLACE INTO trail_entry(number, entry, hash) VALUES(2, '{}', 'x')",
            "INSERT INTO trail_entry(number, entry, hash) VALUES(-1, '{}', 'x')",
        ] {
            let error = meddle(&folder, sql).unwrap_err().to_string();
            assert!(error.contains("append-only"), "{sql}: {error}");
        }
        assert_eq!(trail.verify(None).unwrap().entries, 3);
    }

    #[tokio::test]
    async fn every_kind_of_damage_is_found() {
        for (sql, at, damage) in [
            (
                "UPDATE trail_entry SET entry = replace(entry, 'mended', 'broken') WHERE number = 2",
                2,
                Damage::Changed,
            ),
            ("UPDATE trail_entry SET hash = 'ff' WHERE number = 3", 3, Damage::Changed),
            ("UPDATE trail_entry SET entry = '{}' WHERE number = 1", 1, Damage::Changed),
            ("DELETE FROM trail_entry WHERE number IN (2, 3)", 2, Damage::Missing { to: 3 }),
            ("DELETE FROM trail_entry WHERE number = 1", 1, Damage::Missing { to: 1 }),
            (
                "UPDATE trail_entry SET number = 99 WHERE number = 2;
                 UPDATE trail_entry SET number = 2 WHERE number = 3;
                 UPDATE trail_entry SET number = 3 WHERE number = 99;",
                2,
                Damage::Moved { written_as: 3 },
            ),
            (
                "DELETE FROM trail_entry WHERE number = 2;
                 UPDATE trail_entry SET number = number - 1 WHERE number > 2;",
                2,
                Damage::Moved { written_as: 3 },
            ),
            ("DELETE FROM trail_entry WHERE number > 3", 4, Damage::CutOff { to: Some(5) }),
            ("DELETE FROM trail_entry", 1, Damage::CutOff { to: Some(5) }),
        ] {
            let (folder, trail) = trail(5).await;
            meddle(&folder, &format!("{DISARM}{sql}")).unwrap();
            let broken = trail.verify(None).unwrap().broken;
            let broken = broken.map(|broken| (broken.at, broken.damage));
            assert_eq!(broken, Some((at, damage)), "{sql}");
        }
    }

    #[tokio::test]
    async fn a_head_noted_elsewhere_shows_what_the_file_cannot() {
        let (folder, trail) = trail(5).await;
        let noted = trail.head().unwrap().hash;
        trail.append(entry(6)).await.unwrap();
        let verdict = trail.verify(Some(&noted)).unwrap();
        assert_eq!((verdict.broken, verdict.noted_at), (None, Some(5)));
        let cut = "DELETE FROM trail_entry WHERE number > 4;
                   UPDATE sqlite_sequence SET seq = 4 WHERE name = 'trail_entry';";
        meddle(&folder, &format!("{DISARM}{cut}")).unwrap();
        assert_eq!(trail.verify(None).unwrap().broken, None, "nothing else tells");
        let broken = trail.verify(Some(&noted)).unwrap().broken.unwrap();
        assert_eq!((broken.at, broken.damage), (5, Damage::CutOff { to: None }));
    }

    #[tokio::test]
    async fn what_is_written_after_a_cut_does_not_hide_it() {
        let (folder, trail) = trail(5).await;
        meddle(&folder, &format!("{DISARM}DELETE FROM trail_entry WHERE number > 3")).unwrap();
        trail.append(entry(6)).await.unwrap();
        let broken = trail.verify(None).unwrap().broken.unwrap();
        assert_eq!((broken.at, broken.damage), (4, Damage::Missing { to: 5 }));
    }
}
