//! Reading files that people wrote: bounded, and named in findings as the person named them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::base::diagnostic::{Findings, Source};
use crate::base::document::{Limits, source_from_bytes_within};

/// Why a file could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot read {name}: {error}")]
    Unreadable {
        /// The file, as the person named it.
        name: String,
        /// Its words.
        error: io::Error,
    },
    /// It was read, and is wrong.
    #[error("{} findings", .0.0.len())]
    Wrong(Findings),
}

/// The text of the file at `path`, called `name` in findings.
///
/// # Errors
/// When it cannot be read, is too large or is no UTF-8.
pub fn read_source(path: &Path, name: &str) -> Result<Arc<Source>, FileError> {
    read_stream(open(path, name)?, name)
}

/// Opens the file at `path`, called `name` in the error.
///
/// # Errors
/// When the operating system refuses.
pub fn open(path: &Path, name: &str) -> Result<File, FileError> {
    File::open(path).map_err(|error| FileError::Unreadable { name: name.to_owned(), error })
}

/// [`read_source`] from a stream that is open already.
///
/// # Errors
/// As [`read_source`].
pub fn read_stream(stream: impl Read, name: &str) -> Result<Arc<Source>, FileError> {
    read_stream_within(stream, name, &Limits::default())
}

/// [`read_stream`] with another limit of its size.
///
/// # Errors
/// As [`read_source`].
pub fn read_stream_within(
    stream: impl Read,
    name: &str,
    limits: &Limits,
) -> Result<Arc<Source>, FileError> {
    // One byte more than allowed is enough to see that it is too large.
    let limit = limits.bytes as u64 + 1;
    let mut bytes = Vec::new();
    stream
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::Unreadable { name: name.to_owned(), error })?;
    source_from_bytes_within(name, &bytes, limits).map_err(FileError::Wrong)
}
