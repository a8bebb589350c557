//! Why the state file did not do what was asked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::ErrorCode;

/// A failure of the state file. Cloned to everybody whose request it ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The file or its directory could not be made or opened.
    #[error("cannot open the state file {}: {cause}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The file is something else.
    #[error("{} is no state file of nexusctl: {cause}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is.
        cause: String,
    },
    /// Its content is not what this program writes: nothing more is written by this process.
    #[error("the state file {} is damaged: {cause}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        cause: String,
    },
    /// A newer program wrote it.
    #[error(
        "the state file {} is newer than this program: its part `{part}` has format {found}, \
         this program knows up to {known}",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        part: String,
        /// The format found.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// No space left: nothing of the request was done, and it may be tried again.
    #[error("no space left for the state file {}; nothing of the request was done", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// Other processes held the file for longer than the time-out.
    #[error("the state file {} was busy for {} ms", path.display(), waited.as_millis())]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long.
        waited: Duration,
    },
    /// A read or write failed: nothing more is written by this process.
    #[error(
        "the state file {} failed and is not written any more by this process: {cause}",
        path.display()
    )]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// A statement failed, which is a fault of this program.
    #[error("a statement on the state file {} failed: {cause}", path.display())]
    Statement {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The file was closed before the request was carried out.
    #[error("the state file {} is closed", path.display())]
    Closed {
        /// The file.
        path: PathBuf,
    },
}

impl StorageError {
    pub(super) fn from_sqlite(path: &Path, error: &rusqlite::Error) -> StorageError {
        let path = path.to_owned();
        let cause = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StorageError::Full { path },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                StorageError::Busy { path, waited: Duration::ZERO }
            }
            Some(ErrorCode::NotADatabase) => StorageError::Foreign { path, cause },
            Some(ErrorCode::DatabaseCorrupt) => StorageError::Damaged { path, cause },
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                StorageError::Failed { path, cause }
            }
            _ if is_about_content(error) => StorageError::Damaged { path, cause },
            _ => StorageError::Statement { path, cause },
        }
    }

    pub(super) fn open(path: &Path, cause: &dyn std::fmt::Display) -> StorageError {
        StorageError::Open { path: path.to_owned(), cause: cause.to_string() }
    }

    /// Whether nothing more may be written after it.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            StorageError::Failed { .. } | StorageError::Damaged { .. } | StorageError::Newer { .. }
        )
    }

    /// What to do next, when something can be done.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            StorageError::Newer { .. } => Some("use the newer nexusctl, or another state file"),
            StorageError::Full { .. } => Some("free some space and try again"),
            StorageError::Busy { .. } => Some("try again, or give a longer --timeout"),
            StorageError::Foreign { .. } => Some("give the path of another file"),
            StorageError::Failed { .. } => {
                Some("look at the disk; what was confirmed before is in the file")
            }
            StorageError::Damaged { .. } => Some(
                "move it away, with the files beside it, and go on with a copy or a new one; \
                 `sqlite3 FILE .recover` gets out of it what can be read",
            ),
            StorageError::Open { .. } => {
                Some("make the path usable for this user, or give another state file")
            }
            StorageError::Statement { .. } | StorageError::Closed { .. } => None,
        }
    }
}

/// Whether a row did not hold what the tables of this program hold.
fn is_about_content(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    matches!(
        error,
        Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..)
            | Error::QueryReturnedNoRows
            // A table or a column is missing that its format has.
            | Error::SqlInputError { .. }
    )
}
