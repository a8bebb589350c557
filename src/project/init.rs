//! `init`: a directory with everything a project needs, ready to apply.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::spec::{PROJECT_FILE, TOPOLOGY_FILE};

/// What the new topology begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// The exchanges and queues of agents.
    Agents,
    /// One exchange and one queue, written out.
    Plain,
}

/// Why no project was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// These files are there already; nothing was written.
    #[error("{} there already: {}", if .0.len() == 1 { "this file is" } else { "these files are" }, .0.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    Exists(Vec<PathBuf>),
    /// The operating system refused.
    #[error("cannot write {}: {error}", .path.display())]
    Unwritable {
        /// What.
        path: PathBuf,
        /// Its words.
        error: io::Error,
    },
}

/// The command that handles messages in a new project.
pub const HANDLER_FILE: &str = "workers/handle.sh";
const GITIGNORE: &str = ".gitignore";

impl Preset {
    /// The queue of the project `name` to begin with, and where to publish for it.
    pub fn first_queue(self, name: &str) -> FirstQueue {
        let (queue, exchange, key) = match self {
            Preset::Agents => ("agent.worker".into(), "nexus.agents".into(), "worker"),
            Preset::Plain => (format!("{name}.inbox"), format!("{name}.events"), "hello"),
        };
        FirstQueue { queue, exchange, key }
    }
}

/// A queue that a new topology declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstQueue {
    /// Its name.
    pub queue: String,
    /// An exchange that leads to it
    pub exchange: String,
    /// by this key.
    pub key: &'static str,
}

/// A file to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// Where, below the project's directory.
    pub path: &'static str,
    /// What it says.
    pub text: String,
    /// Whether it is a command.
    pub executable: bool,
}

impl NewFile {
    /// A file that is only read.
    pub const fn new(path: &'static str, text: String) -> Self {
        NewFile { path, text, executable: false }
    }

    /// A file that can be run.
    #[must_use]
    pub const fn executable(mut self) -> Self {
        self.executable = true;
        self
    }
}

/// The files of a new project called `name`.
pub fn files(name: &str, preset: Preset) -> Vec<NewFile> {
    let topology = match preset {
        Preset::Agents => include_str!("templates/agents.yaml"),
        Preset::Plain => include_str!("templates/plain.yaml"),
    };
    let FirstQueue { queue, exchange, key } = preset.first_queue(name);
    let handler = include_str!("templates/handle.sh")
        .replace("worker QUEUE", &format!("worker {queue}"))
        .replace("EXCHANGE KEY", &format!("{exchange} {key}"));
    let ignored = "# The embedded broker's state and journals.\n.nexus/\n".to_owned();
    vec![
        NewFile::new(PROJECT_FILE, include_str!("templates/nexus.yaml").replace("NAME", name)),
        NewFile::new(TOPOLOGY_FILE, topology.replace("NAME", name)),
        NewFile::new(HANDLER_FILE, handler).executable(),
        NewFile::new(GITIGNORE, ignored),
    ]
}

/// Makes the project in `dir`, which is made when it is not there. A `.gitignore` that is there is
/// left alone; any other file that is there stops everything before anything is written.
///
/// # Errors
/// When files are in the way or cannot be written.
pub fn init(dir: &Path, name: &str, preset: Preset) -> Result<Vec<PathBuf>, InitError> {
    let mut files = files(name, preset);
    files.retain(|file| file.path != GITIGNORE || !dir.join(file.path).exists());
    let there: Vec<PathBuf> =
        files.iter().map(|file| dir.join(file.path)).filter(|path| path.exists()).collect();
    if !there.is_empty() {
        return Err(InitError::Exists(there));
    }
    write_all(dir, &files)
}

/// Writes `files` below `dir`, all of whose directories are made first.
pub(super) fn write_all(dir: &Path, files: &[NewFile]) -> Result<Vec<PathBuf>, InitError> {
    let paths: Vec<PathBuf> = files.iter().map(|file| dir.join(file.path)).collect();
    for parent in paths.iter().filter_map(|path| path.parent()) {
        std::fs::create_dir_all(parent)
            .map_err(|error| InitError::Unwritable { path: parent.to_owned(), error })?;
    }
    for (file, path) in files.iter().zip(&paths) {
        write_new(path, file)?;
    }
    Ok(paths)
}

/// Writes a file that must not be there: `create_new` also refuses what came between looking and
/// writing.
fn write_new(path: &Path, file: &NewFile) -> Result<(), InitError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(if file.executable { 0o777 } else { 0o666 })
        .open(path)
        .and_then(|mut open| open.write_all(file.text.as_bytes()))
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => InitError::Exists(vec![path.to_owned()]),
            _ => InitError::Unwritable { path: path.to_owned(), error },
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("topology.yaml"), "mine").unwrap();
        std::fs::write(dir.path().join(".gitignore"), "target").unwrap();
        let error = init(dir.path(), "shop", Preset::Agents).unwrap_err();
        assert!(matches!(error, InitError::Exists(paths) if paths.len() == 1));
        assert!(!dir.path().join("nexus.yaml").exists());
        std::fs::remove_file(dir.path().join("topology.yaml")).unwrap();
        assert_eq!(init(dir.path(), "shop", Preset::Agents).unwrap().len(), 3);
        assert_eq!(std::fs::read_to_string(dir.path().join(".gitignore")).unwrap(), "target");
    }
}
