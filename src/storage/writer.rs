//! The one thread that writes: takes all jobs that wait, runs them in one transaction, commits once.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::error::StorageError;
use super::migration::{self, Room};

/// What a finished write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// The death of this process; not a power cut.
    Process,
    /// A power cut: it is on the disk.
    Disk,
}

/// Work for the writer. Called in this order: `prepare`, `run`, `done`; after a failure elsewhere
/// only `done`.
pub trait Job: Send {
    /// Called right before the transaction begins: how well what follows has to be kept.
    fn prepare(&mut self) -> Durability;

    /// Does the work within the transaction. An error undoes it.
    ///
    /// # Errors
    /// Why the work was not done.
    fn run(&mut self, connection: &Connection) -> Result<(), StorageError>;

    /// Called after the commit, or with the reason why there was none.
    fn done(self: Box<Self>, result: Result<(), StorageError>);
}

/// Commit at the latest after so many jobs, so that the first does not wait for ever.
const JOBS_MAX: usize = 1024;

struct Closure<W, D, T, E> {
    durability: Durability,
    work: Option<W>,
    reply: D,
    result: Option<Result<T, E>>,
}

pub(super) fn closure<T, E>(
    durability: Durability,
    work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    reply: impl FnOnce(Result<T, E>) + Send + 'static,
) -> Box<dyn Job>
where
    T: Send + 'static,
    E: From<StorageError> + Send + 'static,
{
    Box::new(Closure { durability, work: Some(work), reply, result: None })
}

impl<W, D, T, E> Job for Closure<W, D, T, E>
where
    W: FnOnce(&Connection) -> Result<T, E> + Send,
    D: FnOnce(Result<T, E>) + Send,
    T: Send,
    E: From<StorageError> + Send,
{
    fn prepare(&mut self) -> Durability {
        self.durability
    }

    fn run(&mut self, connection: &Connection) -> Result<(), StorageError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        let result = work(connection);
        let failed = result.is_err();
        self.result = Some(result);
        // The caller gets its own error; the writer only has to know that there was one.
        if failed { Err(StorageError::Closed { path: PathBuf::new() }) } else { Ok(()) }
    }

    fn done(self: Box<Self>, result: Result<(), StorageError>) {
        let answer = match (self.result, result) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(error)) => Err(error.into()),
            (Some(Ok(value)), Ok(())) => Ok(value),
            // Not run and not failed cannot be; say the honest thing anyway.
            (None, Ok(())) => Err(StorageError::Closed { path: PathBuf::new() }.into()),
        };
        (self.reply)(answer);
    }
}

/// The way to the writing thread.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
    path: PathBuf,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("path", &self.path).finish()
    }
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        path: PathBuf,
        rooms: &'static [Room],
        timeout: Duration,
    ) -> Result<Writer, StorageError> {
        let (jobs, waiting) = mpsc::channel();
        let file = path.clone();
        let sql = |error: rusqlite::Error| StorageError::from_sqlite(&path, &error);
        // We wait for others ourselves: SQLite's own handler sleeps for whole milliseconds.
        connection.busy_timeout(Duration::ZERO).map_err(sql)?;
        connection
            .execute_batch(
                "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 4000;
             PRAGMA journal_size_limit = 67108864;",
            )
            .map_err(sql)?;
        let format: i64 =
            connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(sql)?;
        let thread = std::thread::Builder::new()
            .name("state-file".to_owned())
            .spawn(move || {
                State {
                    connection,
                    path: file,
                    rooms,
                    timeout,
                    format,
                    durability: Durability::Disk,
                    poison: None,
                }
                .serve(&waiting);
            })
            .map_err(|error| StorageError::open(&path, &error))?;
        Ok(Writer { jobs: Some(jobs), thread: Some(thread), path })
    }

    pub(super) fn submit(&self, job: Box<dyn Job>) {
        let refused = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(job) = refused {
            job.done(Err(StorageError::Closed { path: self.path.clone() }));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            // The last owner may be a job: the thread cannot wait for itself.
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

struct State {
    connection: Connection,
    path: PathBuf,
    rooms: &'static [Room],
    timeout: Duration,
    format: i64,
    durability: Durability,
    poison: Option<StorageError>,
}

impl State {
    fn serve(&mut self, waiting: &mpsc::Receiver<Box<dyn Job>>) {
        while let Ok(first) = waiting.recv() {
            let mut jobs = vec![first];
            while jobs.len() < JOBS_MAX
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
            self.batch(jobs);
        }
    }

    fn batch(&mut self, mut jobs: Vec<Box<dyn Job>>) {
        let mut results: Vec<Result<(), StorageError>> = Vec::new();
        let outcome = match &self.poison {
            Some(cause) => Err(cause.clone()),
            None => self.transact(&mut jobs, &mut results),
        };
        if let Err(error) = &outcome {
            if !self.connection.is_autocommit() {
                let _ = self.connection.execute_batch("ROLLBACK");
            }
            if error.is_fatal() && self.poison.is_none() {
                self.poison = Some(error.clone());
            }
        }
        results.resize_with(jobs.len(), || Ok(()));
        for (job, result) in jobs.into_iter().zip(results) {
            job.done(match &outcome {
                Ok(()) => result,
                Err(error) => Err(error.clone()),
            });
        }
    }

    fn transact(
        &mut self,
        jobs: &mut [Box<dyn Job>],
        results: &mut Vec<Result<(), StorageError>>,
    ) -> Result<(), StorageError> {
        let durability = jobs.iter_mut().map(|job| job.prepare()).max().unwrap_or(Durability::Disk);
        let path = self.path.clone();
        let sql = |error: rusqlite::Error| StorageError::from_sqlite(&path, &error);
        if durability != self.durability {
            let level = match durability {
                Durability::Process => "NORMAL",
                Durability::Disk => "FULL",
            };
            self.connection.execute_batch(&format!("PRAGMA synchronous = {level}")).map_err(sql)?;
            self.durability = durability;
        }
        self.begin(&path)?;
        let format: i64 = self
            .connection
            .prepare_cached("PRAGMA user_version")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(sql)?;
        if format != self.format {
            migration::check(&self.connection, &path, self.rooms)?;
            self.format = format;
        }
        let alone = jobs.len() == 1;
        for job in jobs.iter_mut() {
            if alone {
                // Nobody to protect from its failure: the whole transaction is undone.
                if let Err(error) = job.run(&self.connection) {
                    self.still_open(&path, &error)?;
                    self.connection.execute_batch("ROLLBACK").map_err(sql)?;
                    if error.is_fatal() {
                        return Err(error);
                    }
                    results.push(Err(error));
                    return Ok(());
                }
                results.push(Ok(()));
                continue;
            }
            self.run_cached("SAVEPOINT job").map_err(sql)?;
            match job.run(&self.connection) {
                Ok(()) => {
                    self.run_cached("RELEASE job").map_err(sql)?;
                    results.push(Ok(()));
                }
                Err(error) => {
                    self.still_open(&path, &error)?;
                    if error.is_fatal() {
                        return Err(error);
                    }
                    self.run_cached("ROLLBACK TO job").map_err(sql)?;
                    self.run_cached("RELEASE job").map_err(sql)?;
                    results.push(Err(error));
                }
            }
        }
        self.run_cached("COMMIT").map_err(sql)
    }

    /// A full disk makes SQLite undo the whole transaction by itself: then nobody's work is there.
    fn still_open(&self, path: &Path, error: &StorageError) -> Result<(), StorageError> {
        if !self.connection.is_autocommit() {
            return Ok(());
        }
        Err(match error {
            StorageError::Failed { .. } => error.clone(),
            _ => StorageError::Full { path: path.to_owned() },
        })
    }

    fn run_cached(&self, statement: &str) -> rusqlite::Result<()> {
        self.connection.prepare_cached(statement)?.execute([]).map(|_| ())
    }

    fn begin(&self, path: &Path) -> Result<(), StorageError> {
        let started = Instant::now();
        let mut pause = Duration::from_micros(50);
        loop {
            match self.run_cached("BEGIN IMMEDIATE") {
                Ok(()) => return Ok(()),
                Err(error) => match StorageError::from_sqlite(path, &error) {
                    StorageError::Busy { .. } => {
                        let waited = started.elapsed();
                        if waited >= self.timeout {
                            return Err(StorageError::Busy { path: path.to_owned(), waited });
                        }
                        std::thread::sleep(pause.min(self.timeout - waited));
                        pause = (pause * 2).min(Duration::from_millis(4));
                    }
                    other => return Err(other),
                },
            }
        }
    }
}
