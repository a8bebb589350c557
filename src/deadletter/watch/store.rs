//! The last looks at each queue, and what was told of them, in the state file. They can be had again, so
//! they are kept against the death of this process, not against a power cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, Result as SqlResult};

use crate::base::time::Timestamp;
use crate::deadletter::store::Scanned;
use crate::storage::{Durability, Options, Room, StateFile, StorageError, rusqlite};

use super::machine::{Look, Measure};

/// What this room keeps in a state file.
pub const ROOM: Room = Room {
    name: "watch",
    migrations: &["
CREATE TABLE watch_look(
    cluster TEXT NOT NULL,
    vhost TEXT NOT NULL,
    queue TEXT NOT NULL,
    at INTEGER NOT NULL,
    ready INTEGER NOT NULL,
    everything INTEGER,
    PRIMARY KEY(cluster, vhost, queue, at)
) STRICT, WITHOUT ROWID;
CREATE TABLE watch_told(
    cluster TEXT NOT NULL,
    vhost TEXT NOT NULL,
    queue TEXT NOT NULL,
    measure TEXT NOT NULL,
    threshold TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY(cluster, vhost, queue, measure, threshold)
) STRICT, WITHOUT ROWID;
"],
};

/// Looks that are kept of each queue.
const KEPT: i64 = 32;

/// Looks kept in one state file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Looks {
    file: Arc<StateFile>,
}

impl Looks {
    /// Opens the looks in the state file at `path`, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub async fn open(path: impl Into<PathBuf>, timeout: Duration) -> Result<Looks, StorageError> {
        let path = path.into();
        let name = path.clone();
        let options = Options { timeout, ..Options::default() };
        let opened = tokio::task::spawn_blocking(move || StateFile::open(&path, &[ROOM], options));
        let file = opened.await.unwrap_or_else(|error| {
            Err(StorageError::Open { path: name, cause: error.to_string() })
        })?;
        Ok(Looks { file })
    }

    async fn write(
        &self,
        work: impl FnOnce(&Connection) -> SqlResult<()> + Send + 'static,
    ) -> Result<(), StorageError> {
        let file = Arc::clone(&self.file);
        let work = move |connection: &Connection| work(connection).map_err(|e| file.fault(&e));
        self.file.write(Durability::Process, work).await
    }

    /// Keeps a look, and forgets the oldest of those at the same queue.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn keep(&self, of: &Scanned, look: &Look) -> Result<(), StorageError> {
        let (of, look) = (of.clone(), *look);
        self.write(move |connection| {
            let queue = of.queue.as_str();
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO watch_look(cluster, vhost, queue, at, ready, everything)
                     VALUES(?, ?, ?, ?, ?, ?)",
                )?
                .execute((
                    &of.cluster,
                    &of.vhost,
                    queue,
                    look.at.unix_ms(),
                    look.ready.cast_signed(),
                    look.all.map(u64::cast_signed),
                ))?;
            connection
                .prepare_cached(
                    "DELETE FROM watch_look WHERE cluster = ?1 AND vhost = ?2 AND queue = ?3
                     AND at <= (SELECT at FROM watch_look
                         WHERE cluster = ?1 AND vhost = ?2 AND queue = ?3
                         ORDER BY at DESC LIMIT 1 OFFSET ?4)",
                )?
                .execute((&of.cluster, &of.vhost, queue, KEPT))?;
            Ok(())
        })
        .await
    }

    /// The looks at a queue, oldest first. What it knew of deaths is not kept.
    ///
    /// # Errors
    /// When the file fails.
    pub fn kept(&self, of: &Scanned) -> Result<Vec<Look>, StorageError> {
        self.file.read(|connection| {
            let read = || -> SqlResult<Vec<Look>> {
                connection
                    .prepare_cached(
                        "SELECT at, ready, everything FROM watch_look
                         WHERE cluster = ? AND vhost = ? AND queue = ? ORDER BY at",
                    )?
                    .query_map((&of.cluster, &of.vhost, of.queue.as_str()), |row| {
                        Ok(Look {
                            at: Timestamp::from_unix_ms(row.get(0)?),
                            ready: row.get::<_, i64>(1)?.cast_unsigned(),
                            all: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
                            oldest: None,
                        })
                    })?
                    .collect()
            };
            read().map_err(|error| self.file.fault(&error))
        })
    }

    /// Notes that somebody was told that a measure exceeds this limit, or that it does not any more.
    ///
    /// # Errors
    /// When the file fails.
    pub async fn told(
        &self,
        of: &Scanned,
        measure: Measure,
        limit: f64,
        since: Option<Timestamp>,
    ) -> Result<(), StorageError> {
        let of = of.clone();
        self.write(move |connection| {
            let queue = of.queue.as_str();
            let limit = limit.to_string();
            let key = (&of.cluster, &of.vhost, queue, measure.as_str(), &limit);
            match since {
                Some(at) => connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO
                         watch_told(cluster, vhost, queue, measure, threshold, since)
                         VALUES(?, ?, ?, ?, ?, ?)",
                    )?
                    .execute((key.0, key.1, key.2, key.3, key.4, at.unix_ms()))?,
                None => connection
                    .prepare_cached(
                        "DELETE FROM watch_told WHERE cluster = ? AND vhost = ? AND queue = ?
                         AND measure = ? AND threshold = ?",
                    )?
                    .execute(key)?,
            };
            Ok(())
        })
        .await
    }

    /// Whether somebody was told that a measure exceeds this limit.
    ///
    /// # Errors
    /// When the file fails.
    pub fn is_told(
        &self,
        of: &Scanned,
        measure: Measure,
        limit: f64,
    ) -> Result<bool, StorageError> {
        self.file.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS(SELECT 1 FROM watch_told WHERE cluster = ? AND vhost = ?
                     AND queue = ? AND measure = ? AND threshold = ?)",
                )
                .and_then(|mut statement| {
                    statement.query_row(
                        (
                            &of.cluster,
                            &of.vhost,
                            of.queue.as_str(),
                            measure.as_str(),
                            limit.to_string(),
                        ),
                        |row| row.get(0),
                    )
                })
                .map_err(|error| self.file.fault(&error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::QueueName;

    #[tokio::test]
    async fn the_newest_looks_are_kept_and_what_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let looks = Looks::open(&path, Duration::from_secs(5)).await.unwrap();
        let of = |queue: &str| Scanned {
            cluster: "c".to_owned(),
            vhost: "/".to_owned(),
            queue: QueueName::new(queue).unwrap(),
        };
        let look = |n: i64| Look {
            at: Timestamp::from_unix_ms(n),
            ready: n.unsigned_abs(),
            all: (n % 2 == 0).then_some(u64::MAX),
            oldest: None,
        };
        for n in 1..=40 {
            looks.keep(&of("a"), &look(n)).await.unwrap();
        }
        looks.keep(&of("b"), &look(1)).await.unwrap();
        let expected: Vec<Look> = (9..=40).map(look).collect();
        assert_eq!(looks.kept(&of("a")).unwrap(), expected);
        assert_eq!(looks.kept(&of("b")).unwrap().len(), 1);
        let since = Some(Timestamp::from_unix_ms(3));
        looks.told(&of("a"), Measure::Rate, 2.5, since).await.unwrap();
        assert!(looks.is_told(&of("a"), Measure::Rate, 2.5).unwrap());
        assert!(!looks.is_told(&of("a"), Measure::Rate, 3.0).unwrap());
        assert!(!looks.is_told(&of("b"), Measure::Rate, 2.5).unwrap());
        looks.told(&of("a"), Measure::Rate, 2.5, None).await.unwrap();
        assert!(!looks.is_told(&of("a"), Measure::Rate, 2.5).unwrap());
    }
}
