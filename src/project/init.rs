//! `init`: a directory with everything a project needs, ready to apply.

use std::fs::OpenOptions;
use std::io::{self, Write};
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

/// The files of a new project called `name`, by their path below its directory.
pub fn files(name: &str, preset: Preset) -> Vec<(&'static str, String)> {
    let topology = match preset {
        Preset::Agents => include_str!("templates/agents.yaml"),
        Preset::Plain => include_str!("templates/plain.yaml"),
    };
    vec![
        (PROJECT_FILE, include_str!("templates/nexus.yaml").replace("NAME", name)),
        (TOPOLOGY_FILE, topology.replace("NAME", name)),
        (".gitignore", "# The embedded broker's state and journals.\n.nexus/\n".to_owned()),
    ]
}

/// Makes the project in `dir`, which is made when it is not there. A `.gitignore` that is there is
/// left alone; any other file that is there stops everything before anything is written.
///
/// # Errors
/// When files are in the way or cannot be written.
pub fn init(dir: &Path, name: &str, preset: Preset) -> Result<Vec<PathBuf>, InitError> {
    let mut files = files(name, preset);
    files.retain(|(file, _)| *file != ".gitignore" || !dir.join(file).exists());
    let there: Vec<PathBuf> =
        files.iter().map(|(file, _)| dir.join(file)).filter(|path| path.exists()).collect();
    if !there.is_empty() {
        return Err(InitError::Exists(there));
    }
    std::fs::create_dir_all(dir)
        .map_err(|error| InitError::Unwritable { path: dir.to_owned(), error })?;
    let mut written = Vec::new();
    for (file, text) in files {
        let path = dir.join(file);
        write_new(&path, &text)?;
        written.push(path);
    }
    Ok(written)
}

/// Writes a file that must not be there: `create_new` also refuses what came between looking and
/// writing.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), InitError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
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
        assert_eq!(init(dir.path(), "shop", Preset::Agents).unwrap().len(), 2);
        assert_eq!(std::fs::read_to_string(dir.path().join(".gitignore")).unwrap(), "target");
    }
}
