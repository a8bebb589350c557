//! The labels of dead letters in a project: reading them, and learning one more.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::deadletter::labels::learn::{LearnError, learned, read};
use crate::deadletter::labels::{LabelSpec, Labels};

use super::files::{FileError, read_source};

/// Where a project keeps them, below its directory.
pub const LABELS_FILE: &str = "rules/dead-letters.yaml";

/// The labels in the file at `path`, called `name` in findings.
///
/// # Errors
/// When it cannot be read or is wrong.
pub fn labels_of(path: &Path, name: &str) -> Result<Labels, FileError> {
    let source = read_source(path, name)?;
    let file = read(name, &source.text).map_err(FileError::Wrong)?;
    Labels::of(&file).map_err(FileError::Wrong)
}

/// Why a label was not learned.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be added to the file.
    #[error(transparent)]
    Learn(#[from] LearnError),
    /// The file cannot be written.
    #[error("cannot write {name}: {error}")]
    Unwritable {
        /// The file, as the person named it.
        name: String,
        /// The words of the operating system.
        error: io::Error,
    },
}

/// Adds a label to the file at `path`, which is made when it is not there. The file is replaced as a
/// whole or not at all, and of two that learn at once both are learned. With `dry` nothing is written;
/// the new text either way.
///
/// # Errors
/// When the file cannot be read or written, is wrong, or has a label for the group.
pub fn learn(path: &Path, name: &str, rule: &LabelSpec, dry: bool) -> Result<String, LabelError> {
    let failed = |error| LabelError::Unwritable { name: name.to_owned(), error };
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut lock = None;
    if !dry {
        std::fs::create_dir_all(directory).map_err(failed)?;
        let held = File::open(directory).map_err(failed)?;
        held.lock().map_err(failed)?;
        lock = Some(held);
    }
    let old = match read_source(path, name) {
        Ok(source) => Some(source),
        Err(FileError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let text = learned(name, old.as_ref().map(|source| source.text.as_str()), rule)?;
    let file = read(name, &text).map_err(FileError::Wrong)?;
    // A label that would make the file wrong is not written.
    Labels::of(&file).map_err(FileError::Wrong)?;
    if let Some(lock) = lock {
        replace(path, text.as_bytes()).and_then(|()| lock.sync_all()).map_err(failed)?;
    }
    Ok(text)
}

/// Replaces the file at `path` as a whole; it may be read by whom it could be read before.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mode = std::fs::metadata(path).map_or(0o644, |known| known.permissions().mode() & 0o777);
    let fresh = path.with_extension(format!("tmp{}", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::rename(&fresh, path));
    if written.is_err() {
        // The old file is still there; what is left of the new one is of no use to anybody.
        let _ = std::fs::remove_file(&fresh);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(n: u8) -> LabelSpec {
        LabelSpec {
            label: format!("label {n}").into(),
            group: Some(
                format!("g-aaaaaaaa{}{}", char::from(b'a' + n / 26), char::from(b'a' + n % 26))
                    .into(),
            ),
            when: None,
            note: None,
            runbook: None,
            owner: None,
        }
    }

    #[test]
    fn of_many_that_learn_at_once_all_are_learned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules/dead-letters.yaml");
        std::thread::scope(|scope| {
            for part in 0..4u8 {
                let path = &path;
                scope.spawn(move || {
                    for n in 0..10 {
                        learn(path, "l.yaml", &rule(part * 10 + n), false).unwrap();
                    }
                });
            }
        });
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read("l.yaml", &text).unwrap().labels.len(), 40);
        let left: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing else is left");
    }

    #[test]
    fn a_dry_run_and_a_refusal_write_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules/dead-letters.yaml");
        assert!(learn(&path, "l.yaml", &rule(1), true).unwrap().contains("label 1"));
        assert!(!folder.path().join("rules").exists());
        let wrong = LabelSpec { label: String::new().into(), ..rule(1) };
        assert!(matches!(learn(&path, "l.yaml", &wrong, false), Err(LabelError::File(_))));
        assert!(!path.exists());
    }
}
