//! Where consumed messages go: a format, and a target that says when it has them for good.
//!
//! A sink is synchronous; `consume` runs it on a thread of its own. What has been written counts only
//! after [`Sink::commit`]: that is when a message may be acked.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use crate::base::time::Timestamp;
use crate::broker::Delivery;
use crate::message::record::{RecordRef, write_record};

use super::format::FormatString;

/// Takes bytes and says when they are safe.
pub trait Target: Send {
    /// Takes all of `bytes`.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything put so far is where it belongs.
    fn commit(&mut self) -> io::Result<()>;

    /// After a failure: takes back what was put since the last commit, where that is possible.
    fn undo(&mut self) {}
}

/// A pipe, a socket, standard output: committed is flushed.
#[derive(Debug)]
pub struct Stream<W>(pub W);

impl<W: Write + Send> Target for Stream<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn commit(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file: committed is on disk. After a failed write it is cut back to what was committed, so that it
/// ends with a whole message.
#[derive(Debug)]
pub struct DurableFile {
    file: File,
    /// Where the next byte goes and where the last commit ended; `None` for what is no regular file.
    ends: Option<(u64, u64)>,
}

impl DurableFile {
    /// Goes on at the end of `file`, which is open for writing.
    pub fn new(mut file: File) -> io::Result<Self> {
        let ends = if file.metadata()?.is_file() {
            let end = file.seek(SeekFrom::End(0))?;
            Some((end, end))
        } else {
            None
        };
        Ok(DurableFile { file, ends })
    }
}

impl Target for DurableFile {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        if let Some((end, _)) = &mut self.ends {
            *end += bytes.len() as u64;
        }
        Ok(())
    }

    fn commit(&mut self) -> io::Result<()> {
        let Some((end, committed)) = &mut self.ends else { return self.file.flush() };
        if end != committed {
            self.file.sync_data()?;
            *committed = *end;
        }
        Ok(())
    }

    fn undo(&mut self) {
        if let Some((end, committed)) = &mut self.ends {
            // A disk that refuses this too leaves half a line behind, which readers name by number.
            if self.file.set_len(*committed).is_ok() {
                let _ = self.file.seek(SeekFrom::Start(*committed));
                *end = *committed;
            }
        }
    }
}

/// How a message is written.
#[derive(Clone, Debug)]
pub enum Format {
    /// One record a line.
    Ndjson,
    /// One JSON array of records.
    Json,
    /// The body, then the delimiter (may be empty).
    Raw(Vec<u8>),
    /// As the format string says.
    Custom(FormatString),
}

/// The record of a delivery taken from `queue`.
pub(crate) fn record_of<'a>(delivery: &'a Delivery, queue: &'a str) -> RecordRef<'a> {
    RecordRef {
        exchange: Some(delivery.exchange.as_str()),
        routing_key: Some(delivery.routing_key.as_str()),
        queue: Some(queue),
        redelivered: Some(delivery.redelivered),
        delivery_tag: None,
        received_at: None,
        message: &delivery.message,
    }
}

/// Bytes that are gathered before the target is asked to take them.
const GATHERED: usize = 256 * 1024;

/// A format and a target.
pub struct Sink {
    format: Format,
    target: Box<dyn Target>,
    buffer: Vec<u8>,
    begun: bool,
    written: u64,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Sink {
    /// Writes to `target` in `format`.
    pub fn new(format: Format, target: Box<dyn Target>) -> Self {
        Sink { format, target, buffer: Vec::new(), begun: false, written: 0 }
    }

    /// Writes one message; the target may get it later.
    pub fn write(&mut self, delivery: &Delivery, queue: &str) -> io::Result<()> {
        self.write_at(delivery, queue, None)
    }

    /// The same, with the time when it came in its record.
    pub fn write_at(
        &mut self,
        delivery: &Delivery,
        queue: &str,
        received_at: Option<Timestamp>,
    ) -> io::Result<()> {
        match &self.format {
            Format::Ndjson => {
                let record = RecordRef { received_at, ..record_of(delivery, queue) };
                write_record(&mut self.buffer, &record);
                self.buffer.push(b'\n');
            }
            Format::Json => {
                self.buffer.extend_from_slice(if self.begun { b",\n" } else { b"[\n" });
                let record = RecordRef { received_at, ..record_of(delivery, queue) };
                write_record(&mut self.buffer, &record);
            }
            Format::Raw(delimiter) => {
                self.buffer.extend_from_slice(&delivery.message.body);
                self.buffer.extend_from_slice(delimiter);
            }
            Format::Custom(format) => format.write(&mut self.buffer, delivery, queue),
        }
        self.begun = true;
        if self.buffer.len() >= GATHERED { self.hand_over() } else { Ok(()) }
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let done = self.target.put(&self.buffer);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        // One huge message must not hold its memory for the rest of the run.
        self.buffer.shrink_to(4 * GATHERED);
        done
    }

    /// Returns when everything written so far is safe with the target.
    pub fn commit(&mut self) -> io::Result<()> {
        self.hand_over().and_then(|()| self.target.commit()).inspect_err(|_| self.target.undo())
    }

    /// Ends the output, and commits.
    pub fn finish(&mut self) -> io::Result<()> {
        if let Format::Json = self.format {
            self.buffer.extend_from_slice(if self.begun { b"\n]\n" } else { b"[]\n" });
        }
        self.commit()
    }

    /// After a failed [`Sink::write`]: takes back what is not committed.
    pub fn undo(&mut self) {
        self.buffer.clear();
        self.target.undo();
    }

    /// Bytes handed to the target.
    pub fn bytes(&self) -> u64 {
        self.written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::fake::delivery;
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Target for Shared {
        fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(())
        }
        fn commit(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(format: Format, bodies: &[&str]) -> String {
        let shared = Shared::default();
        let mut sink = Sink::new(format, Box::new(shared.clone()));
        for (index, body) in bodies.iter().enumerate() {
            sink.write(&delivery(index as u64 + 1, body), "q").unwrap();
        }
        sink.finish().unwrap();
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_format_has_its_shape() {
        assert_eq!(written(Format::Raw(b"\0".to_vec()), &["a", "b"]), "a\0b\0");
        assert_eq!(written(Format::Raw(Vec::new()), &["a", "b"]), "ab");
        assert_eq!(written(Format::Ndjson, &["a", "b"]).lines().count(), 2);
        for count in 0..3 {
            let text = written(Format::Json, &["1", "2"][..count]);
            let array: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
            assert_eq!(array.len(), count);
        }
    }

    #[test]
    fn a_file_is_cut_back_to_its_last_whole_message() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"before\n").unwrap();
        let mut target = DurableFile::new(file.try_clone().unwrap()).unwrap();
        target.put(b"whole\n").unwrap();
        target.commit().unwrap();
        target.put(b"hal").unwrap();
        target.undo();
        target.put(b"next\n").unwrap();
        target.commit().unwrap();
        file.rewind().unwrap();
        assert_eq!(io::read_to_string(file).unwrap(), "before\nwhole\nnext\n");
    }
}
