//! Bundles on a disk: read and verified, and written so that a letter which is confirmed stays.
//!
//! A letter is confirmed when its line is on the disk, many with one flush. When a line cannot be written,
//! the file is cut back to the last that was confirmed. A run that is resumed opens the bundle it had,
//! verifies it, cuts off what a kill left of a line, and goes on.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use async_trait::async_trait;
use tokio::sync::{mpsc as outcomes, oneshot};

use crate::broker::{BrokerError, ErrorKind, Outcome, Publish, Publisher, Ticket};
use crate::message::RecordRef;

use super::bundle::{
    BundleError, Head, Item, Line, Reader, Seal, write_end, write_head, write_letter,
};
use super::letter::LetterId;
use super::replay::run::TakesCopies;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleFileError {
    /// The file cannot be opened, read or written.
    #[error("cannot {what} {}: {error}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A line is wrong.
    #[error("{}, {error}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong.
        error: BundleError,
    },
    /// It is another run's.
    #[error("{} is the bundle of run `{run}`", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        run: String,
    },
    /// Not even the head is there.
    #[error("{} is no bundle of dead letters: it has no whole line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

impl BundleFileError {
    fn file(what: &'static str, path: &Path, error: io::Error) -> Self {
        BundleFileError::File { what, path: path.to_owned(), error }
    }
}

impl From<BundleFileError> for BrokerError {
    fn from(error: BundleFileError) -> Self {
        BrokerError::new(ErrorKind::Storage, "write the bundle", error.to_string())
    }
}

/// Reads the letters of a bundle, one after the other, each verified.
#[derive(Debug)]
pub struct BundleReader {
    path: PathBuf,
    file: BufReader<File>,
    reader: Reader,
    line: Vec<u8>,
    /// Where the last whole line that is no end ends.
    good: u64,
    /// Bytes behind the last whole line.
    torn: u64,
}

impl BundleReader {
    /// Opens a bundle and reads its head.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<BundleReader, BundleFileError> {
        let file = File::open(path).map_err(|error| BundleFileError::file("read", path, error))?;
        BundleReader::of(path, file)
    }

    fn of(path: &Path, file: File) -> Result<BundleReader, BundleFileError> {
        let mut reader = BundleReader {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 18, file),
            reader: Reader::new(),
            line: Vec::new(),
            good: 0,
            torn: 0,
        };
        reader.advance(|_| ())?;
        if reader.reader.head().is_none() {
            return Err(BundleFileError::Empty { path: path.to_owned() });
        }
        Ok(reader)
    }

    /// Whose letters these are.
    pub fn head(&self) -> Option<&Head> {
        self.reader.head()
    }

    /// Letters so far.
    pub fn letters(&self) -> u64 {
        self.reader.letters()
    }

    /// The seal of the last letter so far.
    pub fn seal(&self) -> Seal {
        self.reader.seal()
    }

    /// Whether the end was there, so that nothing can be missing.
    pub fn is_whole(&self) -> bool {
        self.reader.has_ended() && self.torn == 0
    }

    /// Takes the next line; `None` at the end of what is whole.
    fn advance<T>(
        &mut self,
        take: impl FnOnce(Line<'_>) -> T,
    ) -> Result<Option<T>, BundleFileError> {
        self.line.clear();
        // One huge letter must not hold its memory for the rest of the file.
        self.line.shrink_to(1 << 20);
        let read = self.file.read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| BundleFileError::file("read", &self.path, error))? as u64;
        let Some(line) = self.line.strip_suffix(b"\n") else {
            self.torn = read;
            return Ok(None);
        };
        let wrong = |error| BundleFileError::Line { path: self.path.clone(), error };
        let line = self.reader.line(line).map_err(wrong)?;
        if line != Line::End {
            self.good += read;
        }
        Ok(Some(take(line)))
    }

    /// The next letter and the bytes of its line; `None` after the last.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is wrong.
    pub fn next_letter(&mut self) -> Result<Option<(Item, u64)>, BundleFileError> {
        loop {
            let item = self.advance(|line| match line {
                Line::Letter(letter) => Some(letter.read()),
                Line::Head | Line::End => None,
            })?;
            match item {
                None => return Ok(None),
                Some(None) => {}
                Some(Some(Ok(item))) => return Ok(Some((item, self.line.len() as u64))),
                Some(Some(Err(error))) => {
                    return Err(BundleFileError::Line { path: self.path.clone(), error });
                }
            }
        }
    }

    /// Goes to the end, and verifies the seals of what lies before it.
    ///
    /// # Errors
    /// When the file cannot be read, or a line is wrong.
    pub fn verify(&mut self) -> Result<(), BundleFileError> {
        while self.advance(|_| ())?.is_some() {}
        Ok(())
    }
}

/// A bundle that takes letters; each is confirmed when it is on the disk.
#[derive(Clone, Debug)]
pub struct IntoBundle {
    /// The file.
    pub path: PathBuf,
    /// Whose letters come.
    pub head: Head,
    /// Whether the run goes on, so that the file may be there.
    pub goes_on: bool,
}

/// The end of the file, where the next line goes.
#[derive(Debug)]
struct Writer {
    path: PathBuf,
    file: File,
    head: Head,
    /// Up to here it is on the disk.
    committed: u64,
    letters: u64,
    seal: Seal,
}

/// Makes the name of a new file last.
fn keep_name(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // Letters are nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl IntoBundle {
    fn open_file(&self) -> Result<Writer, BundleFileError> {
        let fail = |what| move |error| BundleFileError::file(what, &self.path, error);
        let mut head = Vec::new();
        let seal = write_head(&mut head, &self.head);
        let mut writer = Writer {
            path: self.path.clone(),
            file: match options().create_new(true).open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == IoKind::AlreadyExists && self.goes_on => {
                    if let Some(writer) = self.reopen(&head)? {
                        return Ok(writer);
                    }
                    // A kill has left a part of the head.
                    options().open(&self.path).map_err(fail("open"))?
                }
                Err(error) => return Err(fail("make")(error)),
            },
            head: self.head.clone(),
            committed: 0,
            letters: 0,
            seal,
        };
        let end = head.len() as u64;
        writer
            .file
            .set_len(0)
            .and_then(|()| writer.file.write_all(&head))
            .and_then(|()| writer.file.sync_all())
            .and_then(|()| keep_name(&self.path))
            .map_err(fail("write"))?;
        writer.committed = end;
        Ok(writer)
    }

    /// Opens the bundle that this run has; `None` when there is no more of it than a part of `head`.
    fn reopen(&self, head: &[u8]) -> Result<Option<Writer>, BundleFileError> {
        let fail = |what| move |error| BundleFileError::file(what, &self.path, error);
        let mut file = options().open(&self.path).map_err(fail("open"))?;
        let mut begin = Vec::new();
        let most = head.len() as u64;
        (&file).take(most).read_to_end(&mut begin).map_err(fail("read"))?;
        if (begin.len() as u64) < most && head.starts_with(&begin) {
            return Ok(None);
        }
        file.rewind().map_err(fail("read"))?;
        let again = file.try_clone().map_err(fail("read"))?;
        let mut reader = BundleReader::of(&self.path, again)?;
        if begin != head {
            let run = reader.head().map(|head| head.run.clone()).unwrap_or_default();
            return Err(BundleFileError::Foreign { path: self.path.clone(), run });
        }
        reader.verify()?;
        let (committed, letters, seal) = (reader.good, reader.letters(), reader.seal());
        drop(reader);
        file.set_len(committed)
            .and_then(|()| file.seek(SeekFrom::Start(committed)))
            .and_then(|_| file.sync_all())
            .map_err(fail("write"))?;
        let (path, head) = (self.path.clone(), self.head.clone());
        Ok(Some(Writer { path, file, head, committed, letters, seal }))
    }
}

/// Bytes that are written before what waits is confirmed.
const BATCH: usize = 8 << 20;

#[expect(
    clippy::large_enum_variant,
    reason = "a box would be one allocation per letter, for one end"
)]
enum Job {
    Letter(Ticket, Publish),
    End(oneshot::Sender<Result<(), BrokerError>>),
}

type Answers = outcomes::UnboundedSender<(Ticket, Outcome)>;

impl Writer {
    /// Works until nobody sends any more.
    fn work(mut self, jobs: &mpsc::Receiver<Job>, answers: &Answers) {
        let mut failed: Option<BrokerError> = None;
        while let Ok(first) = jobs.recv() {
            let mut next = Some(first);
            let (mut lines, mut tickets, mut bytes, mut end) = (Vec::new(), Vec::new(), 0, None);
            let (mut letters, mut seal) = (self.letters, self.seal);
            let mut written = Ok(());
            while let Some(job) = next {
                match job {
                    Job::Letter(ticket, publish) => {
                        letters += 1;
                        lines.clear();
                        seal = self.line(&mut lines, seal, letters, &publish);
                        tickets.push(ticket);
                        bytes += lines.len();
                        if written.is_ok() && failed.is_none() {
                            written = self.file.write_all(&lines);
                        }
                    }
                    Job::End(done) => end = Some(done),
                }
                let more = end.is_none() && bytes < BATCH;
                next = if more { jobs.try_recv().ok() } else { None };
            }
            if !tickets.is_empty() && failed.is_none() {
                match written.and_then(|()| self.file.sync_data()) {
                    Ok(()) => {
                        self.committed += bytes as u64;
                        (self.letters, self.seal) = (letters, seal);
                    }
                    Err(error) => {
                        let certain = self.cut_back().is_ok();
                        let error = self.fault(error);
                        for ticket in tickets.drain(..) {
                            let outcome = if certain {
                                Outcome::Failed(Box::new(error.clone()))
                            } else {
                                Outcome::Unknown { why: error.to_string() }
                            };
                            let _ = answers.send((ticket, outcome));
                        }
                        failed = Some(error);
                    }
                }
            }
            for ticket in tickets {
                let outcome = match &failed {
                    Some(error) => Outcome::Failed(Box::new(error.clone())),
                    None => Outcome::Confirmed,
                };
                let _ = answers.send((ticket, outcome));
            }
            if let Some(done) = end {
                let _ = done.send(failed.map_or_else(|| self.end(), Err));
                return;
            }
        }
    }

    fn line(&self, out: &mut Vec<u8>, before: Seal, number: u64, publish: &Publish) -> Seal {
        let Head { queue, vhost, .. } = &self.head;
        let record = RecordRef {
            exchange: Some(publish.exchange.as_str()),
            routing_key: Some(publish.routing_key.as_str()),
            queue: Some(queue.as_str()),
            redelivered: None,
            delivery_tag: None,
            received_at: None,
            message: &publish.message,
        };
        let id = LetterId::of(vhost, queue, &publish.message);
        write_letter(out, before, number, &id, &record)
    }

    fn fault(&self, error: io::Error) -> BrokerError {
        let full = error.kind() == IoKind::StorageFull;
        let error = BrokerError::from(BundleFileError::file("write", &self.path, error));
        if full { error.hint("free some space") } else { error }
    }

    /// Takes back what is not confirmed.
    fn cut_back(&mut self) -> io::Result<()> {
        self.file.set_len(self.committed)?;
        self.file.seek(SeekFrom::Start(self.committed))?;
        self.file.sync_all()
    }

    /// Writes the end: all that was to come is there.
    fn end(&mut self) -> Result<(), BrokerError> {
        let mut line = Vec::new();
        write_end(&mut line, self.seal, self.letters);
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_all());
        written.map_err(|error| {
            // Without an end it can still be read.
            let _ = self.cut_back();
            self.fault(error)
        })
    }
}

#[async_trait]
impl TakesCopies for IntoBundle {
    async fn open(&self, window: usize) -> Result<Box<dyn Publisher>, BrokerError> {
        let lost = |error: &dyn std::fmt::Display| {
            BrokerError::new(ErrorKind::Storage, "write the bundle", error.to_string())
        };
        let bundle = self.clone();
        let writer = tokio::task::spawn_blocking(move || bundle.open_file())
            .await
            .map_err(|error| lost(&error))??;
        let (jobs, to_do) = mpsc::channel();
        let (answers, outcomes) = outcomes::unbounded_channel();
        std::thread::Builder::new()
            .name("bundle".to_owned())
            .spawn(move || writer.work(&to_do, &answers))
            .map_err(|error| lost(&error))?;
        let kept = VecDeque::new();
        let window = window.max(1);
        Ok(Box::new(ToFile { jobs, outcomes, kept, out: BTreeSet::new(), next: 0, window }))
    }
}

/// The way into a bundle.
#[derive(Debug)]
struct ToFile {
    jobs: mpsc::Sender<Job>,
    outcomes: outcomes::UnboundedReceiver<(Ticket, Outcome)>,
    kept: VecDeque<(Ticket, Outcome)>,
    out: BTreeSet<Ticket>,
    next: u64,
    window: usize,
}

fn gone() -> BrokerError {
    BrokerError::new(ErrorKind::Storage, "write the bundle", "its writer has ended")
}

impl ToFile {
    async fn arrive(&mut self) -> Option<(Ticket, Outcome)> {
        let first = *self.out.first()?;
        let (ticket, outcome) = self.outcomes.recv().await.unwrap_or_else(|| {
            // Nobody can say what it had written.
            (first, Outcome::Unknown { why: gone().to_string() })
        });
        self.out.remove(&ticket);
        Some((ticket, outcome))
    }
}

#[async_trait]
impl Publisher for ToFile {
    async fn send(&mut self, publish: Publish) -> Result<Ticket, BrokerError> {
        while self.out.len() >= self.window {
            let Some(outcome) = self.arrive().await else { break };
            self.kept.push_back(outcome);
        }
        let ticket = Ticket(self.next);
        self.jobs.send(Job::Letter(ticket, publish)).map_err(|_| gone())?;
        self.next += 1;
        self.out.insert(ticket);
        Ok(ticket)
    }

    async fn outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        self.arrive().await
    }

    fn ready_outcome(&mut self) -> Option<(Ticket, Outcome)> {
        if let Some(kept) = self.kept.pop_front() {
            return Some(kept);
        }
        let (ticket, outcome) = self.outcomes.try_recv().ok()?;
        self.out.remove(&ticket);
        Some((ticket, outcome))
    }

    fn in_flight(&self) -> usize {
        self.out.len()
    }

    async fn close(self: Box<Self>) -> Result<(), BrokerError> {
        let (done, ended) = oneshot::channel();
        self.jobs.send(Job::End(done)).map_err(|_| gone())?;
        ended.await.unwrap_or_else(|_| Err(gone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{ExchangeName, QueueName, RoutingKey};
    use crate::base::time::Timestamp;
    use crate::message::Message;

    fn into(path: &Path, goes_on: bool) -> IntoBundle {
        let queue = QueueName::new("dead").unwrap();
        let head = Head::new("r1".to_owned(), queue, Timestamp::from_unix_ms(5));
        IntoBundle { path: path.to_owned(), head, goes_on }
    }

    fn letter(body: &str) -> Publish {
        Publish {
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new("dead").unwrap(),
            message: Message { body: body.into(), ..Message::default() },
        }
    }

    /// Sends the letters; what became of them.
    async fn put(to: &IntoBundle, bodies: &[String]) -> Vec<Outcome> {
        let mut publisher = to.open(4).await.unwrap();
        for body in bodies {
            publisher.send(letter(body)).await.unwrap();
        }
        let mut all = Vec::new();
        while let Some((ticket, outcome)) = publisher.outcome().await {
            assert_eq!(ticket, Ticket(all.len() as u64));
            all.push(outcome);
        }
        publisher.close().await.unwrap();
        all
    }

    fn bodies(path: &Path) -> (Vec<String>, bool) {
        let mut reader = BundleReader::open(path).unwrap();
        let mut all = Vec::new();
        while let Some((item, _)) = reader.next_letter().unwrap() {
            all.push(String::from_utf8(item.record.message.body).unwrap());
        }
        (all, reader.is_whole())
    }

    fn some(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("body {n}")).collect()
    }

    #[tokio::test]
    async fn a_bundle_is_torn_anywhere_and_the_run_goes_on_with_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.ndjson");
        let confirmed = put(&into(&path, false), &some(0..3)).await;
        assert_eq!(confirmed, vec![Outcome::Confirmed; 3]);
        assert_eq!(bodies(&path), (some(0..3), true));
        let whole = std::fs::read(&path).unwrap();
        for at in 0..=whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            let lines = whole[..at].iter().filter(|byte| **byte == b'\n').count();
            let kept = u32::try_from(lines.saturating_sub(1).min(3)).unwrap();
            let confirmed = put(&into(&path, true), &some(kept..5)).await;
            assert_eq!(confirmed.len(), 5 - kept as usize, "{at}");
            assert_eq!(bodies(&path), (some(0..5), true), "cut off at {at}");
        }
    }

    #[tokio::test]
    async fn what_is_somebody_elses_or_damaged_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.ndjson");
        put(&into(&path, false), &some(0..3)).await;
        let whole = std::fs::read(&path).unwrap();
        let said = |error: BrokerError| error.to_string();
        // A new run never goes on with a file that is there.
        let error = said(into(&path, false).open(4).await.map(|_| ()).unwrap_err());
        assert!(error.contains("exists"), "{error}");
        let mut other = into(&path, true);
        other.head.run = "r2".to_owned();
        let error = said(other.open(4).await.map(|_| ()).unwrap_err());
        assert!(error.contains("run `r1`"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let mut damaged = whole;
        let ends = damaged.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let second = ends.map(|(at, _)| at).nth(1).unwrap();
        damaged[second + 20] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let error = said(into(&path, true).open(4).await.map(|_| ()).unwrap_err());
        assert!(error.contains("line 3: it is damaged"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), damaged);
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn nobody_else_reads_a_bundle_and_what_cannot_be_written_is_not_confirmed() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.ndjson");
        put(&into(&path, false), &some(0..1)).await;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // A file that takes nothing: it was opened for reading only.
        let mut writer = into(&path, true).open_file().unwrap();
        writer.file = File::open(&path).unwrap();
        let (jobs, to_do) = mpsc::channel();
        let (answers, mut outcomes) = outcomes::unbounded_channel();
        let thread = std::thread::spawn(move || writer.work(&to_do, &answers));
        for n in 0..2 {
            jobs.send(Job::Letter(Ticket(n), letter("x"))).unwrap();
            let (ticket, outcome) = outcomes.recv().await.unwrap();
            assert_eq!(ticket, Ticket(n));
            // The first may be there, for the file could not be cut back either.
            let unknown = matches!(outcome, Outcome::Unknown { .. });
            assert!(if n == 0 { unknown } else { matches!(outcome, Outcome::Failed(_)) });
        }
        drop(jobs);
        thread.join().unwrap();
    }
}
