//! Sessions: what a process holds in the file ends with the process.
//!
//! A session is a number in the file and a lock of the operating system on a small file beside it.
//! The lock goes away with the process, however it dies, and others see that at once.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use super::error::StorageError;

/// A session of this process; ends when it is dropped.
#[derive(Debug)]
pub struct Session {
    id: i64,
    path: PathBuf,
    // Held for its lock.
    _lock: File,
}

impl Session {
    /// Its number in the file.
    pub fn id(&self) -> i64 {
        self.id
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // What is left of it in the file is cleaned up by whoever finds it dead.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn directory(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push("-sessions");
    PathBuf::from(name)
}

fn lock_path(state: &Path, id: i64) -> PathBuf {
    directory(state).join(format!("{id:x}"))
}

/// Takes the lock of the session `id`, which nobody else may use yet.
pub(super) fn begin(state: &Path, id: i64) -> Result<Session, StorageError> {
    super::file::create_private_directory(&directory(state))?;
    let path = lock_path(state, id);
    let fault = |error: std::io::Error| StorageError::open(&path, &error);
    let lock =
        OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(fault)?;
    lock.lock().map_err(fault)?;
    Ok(Session { id, path, _lock: lock })
}

/// Whether the session `id` lives. When in doubt it does.
pub(super) fn is_alive(state: &Path, id: i64) -> bool {
    let Ok(file) = File::open(lock_path(state, id)) else {
        return false;
    };
    // Shared, so that two who ask at once do not take each other for the holder.
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock | TryLockError::Error(_)))
}

/// Removes what a dead session left on the disk.
pub(super) fn forget(state: &Path, id: i64) {
    let _ = std::fs::remove_file(lock_path(state, id));
}
