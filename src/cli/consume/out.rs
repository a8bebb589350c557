//! Where messages are written: a file, or standard output as lines or as one document.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::delivery::sink::{DurableFile, Format, Sink, Stream, Target};

use crate::cli::error::CliError;
use crate::cli::output::API_VERSION;
use crate::cli::session::Session;

/// What is left of standard output while a sink writes to it.
pub(in crate::cli) struct Outlet {
    stdout: Option<Shared>,
    is_document: bool,
}

impl Outlet {
    /// A sink that appends to the file `out` and syncs it, or writes to standard output: as a document
    /// of messages when `is_document`.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(in crate::cli) fn open(
        out: Option<&Path>,
        format: Format,
        is_document: bool,
        session: &mut Session,
    ) -> Result<(Sink, Outlet), CliError> {
        let Some(path) = out else {
            let shared = Shared::new(session);
            let before = is_document.then(json_frame);
            let sink = Sink::new(format, Box::new(Framed { inner: shared.clone(), before }));
            return Ok((sink, Outlet { stdout: Some(shared), is_document }));
        };
        let is_ndjson = matches!(format, Format::Ndjson);
        let sink = Sink::new(format, Box::new(appended(path, is_ndjson, session)?));
        Ok((sink, Outlet { stdout: None, is_document: false }))
    }

    /// Whether messages go to standard output.
    pub(in crate::cli) fn is_stdout(&self) -> bool {
        self.stdout.is_some()
    }

    /// Ends the document, when it is one and the sink has written all of it.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub(in crate::cli) fn finish(&self, complete: bool) -> Result<(), CliError> {
        match &self.stdout {
            // The array ends with a line break; the document closes after it.
            Some(shared) if self.is_document => shared.finish(complete),
            _ => Ok(()),
        }
    }
}

/// Appends to the file `out` and syncs it, or writes to standard output.
///
/// # Errors
/// When the file cannot be opened.
pub(in crate::cli) fn target(
    out: Option<&Path>,
    session: &mut Session,
) -> Result<Box<dyn Target>, CliError> {
    let Some(path) = out else {
        return Ok(Box::new(Framed { inner: Shared::new(session), before: None }));
    };
    Ok(Box::new(appended(path, false, session)?))
}

/// The file `path`, to be appended to; on a line of its own where lines are `whole`.
fn appended(path: &Path, whole: bool, session: &Session) -> Result<DurableFile, CliError> {
    let failed = |error| CliError::unwritable(path, &error);
    let place = session.resolve(path);
    let mut file = OpenOptions::new().append(true).create(true).open(&place).map_err(failed)?;
    if whole {
        end_last_line(&mut file, &place).map_err(failed)?;
    }
    DurableFile::new(file).map_err(failed)
}

/// A killed run may have left half a record, whose message comes again: what is appended must not be
/// read together with it.
fn end_last_line(file: &mut File, path: &Path) -> io::Result<()> {
    // Opened once more to read: a pipe that is opened both ways would be its own reader.
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    let mut reading = File::open(path)?;
    reading.seek(SeekFrom::End(-1))?;
    reading.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

/// Standard output, kept so that the document can be closed after the sink is done.
#[derive(Clone)]
struct Shared(Arc<Mutex<Out>>);

/// Where stdout leads: a stream, or a regular file, which is synced.
enum Out {
    Stream(Stream<Box<dyn Write + Send>>),
    File(DurableFile),
}

impl Shared {
    fn new(session: &mut Session) -> Self {
        let file = session.ui.stdout_file().and_then(|file| DurableFile::new(file).ok());
        Shared(Arc::new(Mutex::new(match file {
            Some(file) => Out::File(file),
            None => Out::Stream(Stream(session.ui.take_stdout())),
        })))
    }

    fn with<T>(&self, work: impl FnOnce(&mut dyn Target) -> T) -> T {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Out::Stream(stream) => work(stream),
            Out::File(file) => work(file),
        }
    }

    fn finish(&self, complete: bool) -> Result<(), CliError> {
        let end: &[u8] = if complete { b"}\n" } else { b"" };
        self.with(|out| out.put(end).and_then(|()| out.commit()))
            .map_err(|error| CliError::stdout(&error))
    }
}

/// What stands before the array in a JSON document.
pub(in crate::cli) fn json_frame() -> Vec<u8> {
    format!("{{\"apiVersion\":\"{API_VERSION}\",\"kind\":\"Messages\",\"messages\":").into_bytes()
}

/// Puts something before the first byte.
struct Framed {
    inner: Shared,
    before: Option<Vec<u8>>,
}

impl Target for Framed {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(before) = self.before.take() {
            self.inner.with(|out| out.put(&before))?;
        }
        self.inner.with(|out| out.put(bytes))
    }

    fn commit(&mut self) -> io::Result<()> {
        self.inner.with(|out| out.commit())
    }

    fn undo(&mut self) {
        self.inner.with(|out| out.undo());
    }
}
