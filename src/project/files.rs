//! Reading files that people wrote: bounded, and named in findings as the person named them.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use crate::base::diagnostic::{Findings, Source};
use crate::base::document::{Limits, source_from_bytes};

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
    let unreadable = |error| FileError::Unreadable { name: name.to_owned(), error };
    let file = File::open(path).map_err(unreadable)?;
    read_stream(file, name)
}

/// [`read_source`] from a stream that is open already.
///
/// # Errors
/// As [`read_source`].
pub fn read_stream(stream: impl Read, name: &str) -> Result<Arc<Source>, FileError> {
    // One byte more than allowed is enough to see that it is too large.
    let limit = Limits::default().bytes as u64 + 1;
    let mut bytes = Vec::new();
    stream
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| FileError::Unreadable { name: name.to_owned(), error })?;
    source_from_bytes(name, &bytes).map_err(FileError::Wrong)
}
