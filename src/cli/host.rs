//! The machine around a run, as one value: streams, environment, directories, clock, stop handle.
//!
//! Commands see nothing of the process but this, so a test runs them with its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::time::{Clock, SystemClock};

use super::signals::Stop;

/// Where bytes come from.
pub struct Input {
    /// The stream.
    pub reader: Box<dyn Read + Send>,
    /// Whether a person types there.
    pub is_terminal: bool,
}

/// Where bytes go.
pub struct Output {
    /// The stream; what it has taken is with the operating system.
    pub writer: Box<dyn Write + Send>,
    /// The same stream when it is a regular file, which can be synced.
    pub file: Option<File>,
    /// Whether a person reads there.
    pub is_terminal: bool,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("is_terminal", &self.is_terminal).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("is_terminal", &self.is_terminal).finish_non_exhaustive()
    }
}

/// Environment variables that are UTF-8; others are none of ours.
#[derive(Clone, Debug, Default)]
pub struct Environment(pub BTreeMap<String, String>);

impl Environment {
    /// The variable called `name`, unless it is unset or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The person's home directory.
    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }

    /// Where contexts live: `$XDG_CONFIG_HOME/nexusctl`.
    pub fn config_dir(&self) -> Option<PathBuf> {
        self.xdg("XDG_CONFIG_HOME", ".config")
    }

    /// Where state outside a project lives: `$XDG_STATE_HOME/nexusctl`.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.xdg("XDG_STATE_HOME", ".local/state")
    }

    /// A relative XDG directory is to be ignored, says its specification.
    fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        self.get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(self.home()?.join(below_home)))
            .map(|path| path.join("nexusctl"))
    }
}

/// Everything a run can see of the machine.
pub struct Host {
    /// Standard input.
    pub stdin: Input,
    /// Standard output: data, nothing else.
    pub stdout: Output,
    /// Standard error: everything that is not data.
    pub stderr: Output,
    /// The environment.
    pub environment: Environment,
    /// The directory that relative paths start from.
    pub cwd: PathBuf,
    /// Columns of the terminal, when there is one.
    pub columns: Option<usize>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Seed of all randomness of the run, unless a flag gives one.
    pub seed: u64,
    /// By which the run is asked to end.
    pub stop: Stop,
    /// Whether this is the real process, whose signals and log subscriber the run may take.
    pub is_process: bool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("cwd", &self.cwd).finish_non_exhaustive()
    }
}

impl Host {
    /// The real process.
    pub fn process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        Host {
            stdin: Input { is_terminal: stdin.is_terminal(), reader: Box::new(stdin) },
            stdout: Output {
                is_terminal: stdout.is_terminal(),
                file: regular_file(&stdout),
                writer: Box::new(stdout),
            },
            stderr: Output {
                is_terminal: stderr.is_terminal(),
                file: None,
                writer: Box::new(stderr),
            },
            environment: Environment(environment),
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            columns: None,
            clock: Arc::new(SystemClock),
            seed: fastrand::u64(..),
            stop: Stop::default(),
            is_process: true,
        }
    }

    /// `path` as seen from the working directory.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.cwd.join(path)
    }

    /// `user@host, process 42`: who holds a lock.
    pub fn who(&self) -> String {
        let user = ["USER", "LOGNAME"].iter().find_map(|name| self.environment.get(name));
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let machine = match machine.trim() {
            "" => self.environment.get("HOSTNAME").unwrap_or("this machine"),
            name => name,
        };
        let process = std::process::id();
        format!("{}@{machine}, process {process}", user.unwrap_or("somebody"))
    }
}

/// A second handle to `stream`, when it leads to a regular file.
fn regular_file(stream: &impl AsFd) -> Option<File> {
    let file = File::from(stream.as_fd().try_clone_to_owned().ok()?);
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_follow_xdg_and_ignore_relative_ones() {
        let environment = |pairs: &[(&str, &str)]| {
            Environment(pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect())
        };
        let home = environment(&[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]);
        assert_eq!(home.config_dir(), Some(PathBuf::from("/h/.config/nexusctl")));
        assert_eq!(home.state_dir(), Some(PathBuf::from("/h/.local/state/nexusctl")));
        let xdg = environment(&[("XDG_CONFIG_HOME", "/c"), ("HOME", "/h")]);
        assert_eq!(xdg.config_dir(), Some(PathBuf::from("/c/nexusctl")));
        assert_eq!(environment(&[]).config_dir(), None);
    }
}
