//! Opening the state file, and the connections that only read.

use std::fmt;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::error::StorageError;
use super::migration::{self, Room};
use super::session::{self, Session};
use super::writer::{Durability, Job, Writer};

/// How to open the file.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a request waits for other processes at most.
    pub timeout: Duration,
    /// Refuse to let the file grow beyond so many pages of 8 KiB; `None` is up to the disk.
    pub max_pages: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Options { timeout: Duration::from_secs(10), max_pages: None }
    }
}

/// An open state file, shared by all parts of the process that store something.
pub struct StateFile {
    path: PathBuf,
    id: String,
    options: Options,
    writer: Writer,
    readers: Mutex<Vec<Connection>>,
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateFile").field("path", &self.path).field("id", &self.id).finish()
    }
}

/// Tells whether anybody has written since it was asked the last time. Cheap enough to be asked
/// every few milliseconds.
pub struct Watch {
    path: PathBuf,
    connection: Connection,
    seen: Option<i64>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Watch {
    /// Whether anybody, this process included, has committed since the last call; true at first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn has_changed(&mut self) -> Result<bool, StorageError> {
        let version: i64 = self
            .connection
            .prepare_cached("PRAGMA data_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(|error| StorageError::from_sqlite(&self.path, &error))?;
        Ok(self.seen.replace(version) != Some(version))
    }
}

/// Makes a file that only its owner can read, unless it is there.
pub(super) fn create_private(path: &Path) -> Result<(), StorageError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StorageError::open(path, &error))
        }
        _ => Ok(()),
    }
}

/// Makes a directory, and its parents, that only its owner can enter, unless it is there.
pub(super) fn create_private_directory(path: &Path) -> Result<(), StorageError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => StorageError::open(path, &"it is no directory"),
        _ => StorageError::open(path, &error),
    })
}

/// Why SQLite could not open the file, in the words of the operating system where it has some.
fn opening_fault(path: &Path, error: &rusqlite::Error) -> StorageError {
    let cause = match StorageError::from_sqlite(path, error) {
        StorageError::Failed { cause, .. } => cause,
        other => return other,
    };
    if path.is_dir() {
        return StorageError::open(path, &"it is a directory");
    }
    // Not before SQLite has failed: closing the file takes away the locks that SQLite has on it.
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(reason) => StorageError::open(path, &reason),
        Ok(_) => StorageError::open(path, &cause),
    }
}

fn connect(path: &Path, options: Options) -> Result<Connection, StorageError> {
    let sql = |error: rusqlite::Error| opening_fault(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql)?;
    connection.busy_timeout(options.timeout).map_err(sql)?;
    connection.set_prepared_statement_cache_capacity(128);
    connection
        .execute_batch(
            "PRAGMA page_size = 8192; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -16384; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;",
        )
        .map_err(sql)?;
    if let Some(pages) = options.max_pages {
        connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
            .map_err(sql)?;
    }
    Ok(connection)
}

/// Keeps other openers out while the file is made or migrated.
fn lock_opening(path: &Path, timeout: Duration) -> Result<std::fs::File, StorageError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-opening");
    let lock_path = PathBuf::from(name);
    create_private(&lock_path)?;
    let file = OpenOptions::new()
        .write(true)
        .open(&lock_path)
        .map_err(|error| StorageError::open(&lock_path, &error))?;
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if started.elapsed() < timeout => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(StorageError::Busy { path: path.to_owned(), waited: timeout });
            }
            Err(std::fs::TryLockError::Error(error)) => {
                return Err(StorageError::open(&lock_path, &error));
            }
        }
    }
}

impl StateFile {
    /// Opens the file at `path`, makes it when it is not there, and brings `rooms` to their formats.
    /// Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// When the path cannot be used, the file is another program's or a newer one's, or other
    /// processes hold it for longer than the time-out.
    pub fn open(
        path: &Path,
        rooms: &'static [Room],
        options: Options,
    ) -> Result<Arc<StateFile>, StorageError> {
        let path = std::path::absolute(path).map_err(|error| StorageError::open(path, &error))?;
        if let Some(parent) = path.parent() {
            create_private_directory(parent)?;
        }
        create_private(&path)?;
        let opening = lock_opening(&path, options.timeout)?;
        let mut connection = connect(&path, options)?;
        let sql = |error: rusqlite::Error| opening_fault(&path, &error);
        let mode: String =
            connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sql)?;
        if mode != "wal" {
            return Err(StorageError::open(
                &path,
                &"its file system has no shared memory between processes (network share?)",
            ));
        }
        migration::migrate(&mut connection, &path, rooms)?;
        drop(opening);
        let id: Vec<u8> = connection
            .query_row("SELECT value FROM storage_meta WHERE key = 'id'", [], |row| row.get(0))
            .map_err(sql)?;
        let id = <[u8; 16]>::try_from(id.as_slice())
            .map_err(|_| StorageError::Foreign {
                path: path.clone(),
                cause: "its id is damaged".to_owned(),
            })
            .map(|bytes| uuid::Builder::from_random_bytes(bytes).into_uuid().to_string())?;
        let writer = Writer::start(connection, path.clone(), rooms, options.timeout)?;
        Ok(Arc::new(StateFile { path, id, options, writer, readers: Mutex::new(Vec::new()) }))
    }

    /// Where the file is, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id the file got when it was made: a UUID.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Hands a job to the writer; the job itself hears what became of it.
    pub fn submit(&self, job: Box<dyn Job>) {
        self.writer.submit(job);
    }

    /// Runs `work` within a transaction and returns its result once it is kept as `durability` says.
    /// An error of `work` undoes what it did, and nothing else.
    ///
    /// # Errors
    /// What `work` says, or that the file failed.
    pub async fn write<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.submit(super::writer::closure(durability, work, move |result| {
            // A caller that no longer waits has been told so by its own time-out.
            let _ = reply.send(result);
        }));
        answer.await.unwrap_or_else(|_| Err(self.closed().into()))
    }

    /// [`StateFile::write`] for callers that are not async; blocks the thread.
    ///
    /// # Errors
    /// What `work` says, or that the file failed.
    pub fn write_blocking<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let (reply, answer) = std::sync::mpsc::channel();
        self.submit(super::writer::closure(durability, work, move |result| {
            let _ = reply.send(result);
        }));
        answer.recv().unwrap_or_else(|_| Err(self.closed().into()))
    }

    fn closed(&self) -> StorageError {
        StorageError::Closed { path: self.path.clone() }
    }

    /// Runs `work` on a connection that cannot write. Blocks the thread for as long as `work` takes.
    ///
    /// # Errors
    /// What `work` says, or that the file failed.
    pub fn read<T, E>(&self, work: impl FnOnce(&Connection) -> Result<T, E>) -> Result<T, E>
    where
        E: From<StorageError>,
    {
        let pooled = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match pooled {
            Some(connection) => connection,
            None => {
                let connection = connect(&self.path, self.options)?;
                connection
                    .execute_batch("PRAGMA query_only = ON")
                    .map_err(|error| StorageError::from_sqlite(&self.path, &error))?;
                connection
            }
        };
        let result = work(&connection);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < 4 {
            readers.push(connection);
        }
        drop(readers);
        result
    }

    /// Watches for writes.
    ///
    /// # Errors
    /// When the file cannot be opened once more.
    pub fn watch(&self) -> Result<Watch, StorageError> {
        let connection = connect(&self.path, self.options)?;
        Ok(Watch { path: self.path.clone(), connection, seen: None })
    }

    /// What an error of SQLite means on this file.
    pub fn fault(&self, error: &rusqlite::Error) -> StorageError {
        StorageError::from_sqlite(&self.path, error)
    }

    /// Begins a session: others see it end when it is dropped or this process dies.
    ///
    /// # Errors
    /// When the file fails or the lock cannot be taken.
    pub fn begin_session(&self) -> Result<Session, StorageError> {
        let path = self.path.clone();
        // The number is taken before the lock and stored after it: a stored session without a lock
        // is dead.
        let id: i64 = self.read(|connection| {
            connection
                .query_row("SELECT abs(random() % 4611686018427387904) + 1", [], |row| row.get(0))
                .map_err(|error| StorageError::from_sqlite(&path, &error))
        })?;
        let session = session::begin(&self.path, id)?;
        self.write_blocking(Durability::Process, move |connection| {
            connection
                .execute("INSERT INTO storage_session VALUES(?)", [id])
                .map(|_| ())
                .map_err(|error| StorageError::from_sqlite(&path, &error))
        })?;
        Ok(session)
    }

    /// Whether the process of session `id` still holds it. When in doubt it does.
    pub fn is_session_alive(&self, id: i64) -> bool {
        session::is_alive(&self.path, id)
    }

    /// The sessions in the file whose processes have ended. For use within a write.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn dead_sessions(&self, connection: &Connection) -> Result<Vec<i64>, StorageError> {
        let sql = |error: rusqlite::Error| StorageError::from_sqlite(&self.path, &error);
        let mut statement =
            connection.prepare_cached("SELECT id FROM storage_session").map_err(sql)?;
        let mut dead = Vec::new();
        let mut rows = statement.query([]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            let id = row.get(0).map_err(sql)?;
            if !self.is_session_alive(id) {
                dead.push(id);
            }
        }
        Ok(dead)
    }

    /// Takes a session out of the file, after everything that it held. For use within a write.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_session(&self, connection: &Connection, id: i64) -> Result<(), StorageError> {
        connection
            .prepare_cached("DELETE FROM storage_session WHERE id = ?")
            .and_then(|mut statement| statement.execute([id]))
            .map_err(|error| StorageError::from_sqlite(&self.path, &error))?;
        session::forget(&self.path, id);
        Ok(())
    }
}
