//! What the processes of one host know together: keys that were processed, circuits, buckets and
//! sequences, in the state file.
//!
//! Every step is the pure machine's own: a row is read, the machine takes one step, the row is written
//! back, within one transaction. Calls of many tasks share one commit, so whoever has many at hand
//! calls once with all of them, or many times at once.
//!
//! What survives what ([`Durability`]): results that decide whether work is done again, and orders of
//! an operator, are on the disk when a call returns. Claims, permits and tokens survive the death of a
//! process and not a power cut, which ends whoever held them: afterwards a claim is free, a bucket may
//! hold what was taken in the last moments, and a circuit may not know of the last failures.

mod circuits;
mod dedup;
mod limits;
mod sequences;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result as SqlResult};
use sha2::{Digest, Sha256};

use crate::storage::{Durability, Options, Room, Session, StateFile, StorageError, rusqlite};

pub use circuits::{Ended, Ending, StoredCircuit};
pub use dedup::Claim;
pub use limits::{LimitSettings, StoredLimit};
pub use sequences::{SequenceSettings, StoredSequence};

/// What this room keeps in a state file.
pub const ROOM: Room = Room {
    name: "resilience",
    migrations: &["
CREATE TABLE resilience_scope(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE resilience_session(id INTEGER PRIMARY KEY) STRICT;
CREATE TABLE resilience_claims(given INTEGER NOT NULL) STRICT;
INSERT INTO resilience_claims VALUES(0);
CREATE TABLE resilience_key(
    scope INTEGER NOT NULL,
    key TEXT NOT NULL,
    claim INTEGER,
    holder INTEGER,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY(scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX resilience_key_done ON resilience_key(until) WHERE claim IS NULL;
CREATE INDEX resilience_key_claimed ON resilience_key(until) WHERE claim IS NOT NULL;
CREATE TABLE resilience_circuit(
    name TEXT PRIMARY KEY,
    settings TEXT NOT NULL,
    memory TEXT NOT NULL,
    changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE resilience_limit(
    name TEXT PRIMARY KEY,
    bucket TEXT NOT NULL,
    changed INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE resilience_sequence(
    scope INTEGER NOT NULL,
    workflow TEXT NOT NULL,
    tracker TEXT NOT NULL,
    changed INTEGER NOT NULL,
    until INTEGER NOT NULL,
    PRIMARY KEY(scope, workflow)
) STRICT, WITHOUT ROWID;
CREATE INDEX resilience_sequence_until ON resilience_sequence(until);
"],
};

/// The shared state in one state file. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SharedState {
    file: Arc<StateFile>,
}

impl SharedState {
    /// Opens the shared state in the state file at `path`, which is made when it is not there. No
    /// request waits for other processes longer than `timeout`.
    ///
    /// # Errors
    /// When the file cannot be used, or others hold it for too long.
    pub async fn open(
        path: impl Into<PathBuf>,
        timeout: Duration,
    ) -> Result<SharedState, StorageError> {
        let path = path.into();
        let options = Options { timeout, ..Options::default() };
        let name = path.clone();
        let file = blocking(name, move || StateFile::open(&path, &[ROOM], options)).await?;
        Ok(SharedState { file })
    }

    /// The shared state in a file that is open already, with [`ROOM`] among its rooms: its writes then
    /// share their commits with those of the file's other users.
    ///
    /// # Errors
    /// When the file cannot be read, or has no such room.
    pub fn on(file: Arc<StateFile>) -> Result<SharedState, StorageError> {
        let found: Option<i64> = file.read(|connection| {
            connection
                .query_row("SELECT 1 FROM storage_room WHERE name = ?", [ROOM.name], |row| {
                    row.get(0)
                })
                .optional()
                .map_err(|error| file.fault(&error))
        })?;
        match found {
            Some(_) => Ok(SharedState { file }),
            None => Err(StorageError::Statement {
                path: file.path().to_owned(),
                cause: format!("it was opened without the room `{}`", ROOM.name),
            }),
        }
    }

    /// The state file.
    pub fn file(&self) -> &Arc<StateFile> {
        &self.file
    }

    /// Begins a session to hold claims: they lapse at once when it is dropped or the process dies.
    ///
    /// # Errors
    /// When the file fails or the lock cannot be taken.
    pub async fn begin_session(&self) -> Result<Session, StorageError> {
        let file = Arc::clone(&self.file);
        let session = blocking(self.file.path().to_owned(), move || file.begin_session()).await?;
        let id = session.id();
        self.write(Durability::Process, move |connection, file| {
            forget_dead_sessions(connection, file)?;
            connection.execute("INSERT INTO resilience_session VALUES(?)", [id])?;
            Ok(())
        })
        .await?;
        Ok(session)
    }

    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection, &StateFile) -> SqlResult<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let file = Arc::clone(&self.file);
        self.file
            .write(durability, move |connection| {
                work(connection, &file).map_err(|error| file.fault(&error))
            })
            .await
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> SqlResult<T>) -> Result<T, StorageError> {
        self.file.read(|connection| work(connection).map_err(|error| self.file.fault(&error)))
    }
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StorageError::Open { path, cause: error.to_string() }))
}

/// Takes out sessions of ours whose processes have ended. What they claimed is left to whoever asks
/// for it, or to the sweep.
fn forget_dead_sessions(connection: &Connection, file: &StateFile) -> SqlResult<()> {
    let mut statement = connection.prepare_cached("SELECT id FROM resilience_session")?;
    let ids: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<SqlResult<_>>()?;
    for id in ids.into_iter().filter(|id| !file.is_session_alive(*id)) {
        connection.execute("DELETE FROM resilience_session WHERE id = ?", [id])?;
        // Whoever finds a session without a row here has nothing to clean up: a fault of it is none
        // of this write's.
        let _ = file.forget_session(connection, id);
    }
    Ok(())
}

/// The number of a scope, given when it is named for the first time.
fn scope_id(connection: &Connection, name: &str) -> SqlResult<i64> {
    let name = bounded(name);
    if let Some(id) = known_scope(connection, &name)? {
        return Ok(id);
    }
    connection
        .prepare_cached("INSERT INTO resilience_scope(name) VALUES(?)")?
        .insert([name.as_ref()])
}

fn known_scope(connection: &Connection, name: &str) -> SqlResult<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM resilience_scope WHERE name = ?")?
        .query_row([bounded(name).as_ref()], |row| row.get(0))
        .optional()
}

/// The text itself, or its digest when it is so long that many of them would fill the file.
fn bounded(text: &str) -> Cow<'_, str> {
    if text.len() <= 255 {
        return Cow::Borrowed(text);
    }
    let digest = Sha256::digest(text.as_bytes());
    Cow::Owned(digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// A column that holds JSON of ours.
fn from_json<T: serde::de::DeserializeOwned>(column: usize, text: &str) -> SqlResult<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    })
}

fn to_json<T: serde::Serialize>(value: &T) -> SqlResult<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}
