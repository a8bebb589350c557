//! One run: the host, the streams, the global options.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::time::Clock;

use super::args::GlobalArgs;
use super::error::CliError;
use super::host::{Environment, Host, Input};
use super::output::{ColorChoice, Format, Ui};
use super::runtime;
use super::settings::{Origin, Settings, Surroundings, config_path};
use super::signals::Stop;

/// What every command is handed.
#[derive(Debug)]
pub struct Session {
    /// Where reports and messages go.
    pub ui: Ui,
    /// The options that every command takes.
    pub global: GlobalArgs,
    /// The environment.
    pub environment: Environment,
    /// The directory that relative paths start from.
    pub cwd: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Seed of all randomness, unless a flag gives one.
    pub seed: u64,
    /// By which the run is asked to end.
    pub stop: Stop,
    /// Whether signals and the log subscriber of the process may be taken.
    pub is_process: bool,
    /// Who this is, to others.
    pub who: String,
    stdin: Option<Input>,
    settings: Option<Arc<Settings>>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("is_terminal", &self.is_terminal).finish_non_exhaustive()
    }
}

impl Session {
    /// A run on `host` whose command line has not been read yet.
    pub fn new(host: Host) -> Self {
        let who = host.who();
        let Host {
            stdin,
            stdout,
            stderr,
            environment,
            cwd,
            columns,
            clock,
            seed,
            stop,
            is_process,
        } = host;
        Session {
            ui: Ui::new(stdout, stderr, columns),
            global: GlobalArgs::default(),
            environment,
            cwd,
            clock,
            seed,
            stop,
            is_process,
            who,
            stdin: Some(stdin),
            settings: None,
        }
    }

    /// Takes the global options, as far as they and the environment decide alone.
    ///
    /// # Errors
    /// When an environment variable has no such value.
    pub fn configure(&mut self, global: GlobalArgs) -> Result<(), CliError> {
        let wrong = |name: &str, error: String| CliError::settings(format!("{name}: {error}"));
        let format = match (global.output, self.environment.get("NEXUSCTL_OUTPUT")) {
            (Some(format), _) => format,
            (None, Some(text)) => text.parse().map_err(|e| wrong("NEXUSCTL_OUTPUT", e))?,
            (None, None) => Format::Table,
        };
        let color = match (global.color, self.environment.get("NEXUSCTL_COLOR")) {
            (Some(color), _) => color,
            (None, Some(text)) => {
                <ColorChoice as clap::ValueEnum>::from_str(text, false).map_err(|_| {
                    wrong("NEXUSCTL_COLOR", format!("`{text}` is not auto, always or never"))
                })?
            }
            (None, None) => ColorChoice::Auto,
        };
        let no_progress =
            global.no_progress || self.environment.get("NEXUSCTL_NO_PROGRESS").is_some();
        self.ui.configure(&self.environment, format, color, global.verbosity(), no_progress);
        self.global = global;
        Ok(())
    }

    /// The settings, read when they are first asked for. Their warnings are said, and their output
    /// format is taken.
    ///
    /// # Errors
    /// When any layer is wrong.
    pub fn settings(&mut self) -> Result<Arc<Settings>, CliError> {
        if let Some(settings) = &self.settings {
            return Ok(Arc::clone(settings));
        }
        let around = Surroundings { environment: &self.environment, cwd: &self.cwd };
        let settings = Arc::new(Settings::resolve(&self.global, around)?);
        for warning in &settings.warnings {
            self.ui.warning(warning);
        }
        if matches!(settings.output.origin, Origin::Context(_) | Origin::Project) {
            self.ui.format = settings.output.value;
        }
        self.settings = Some(Arc::clone(&settings));
        Ok(settings)
    }

    /// Where contexts are kept.
    ///
    /// # Errors
    /// When nothing tells.
    pub fn config_path(&self) -> Result<PathBuf, CliError> {
        let around = Surroundings { environment: &self.environment, cwd: &self.cwd };
        config_path(&self.global, around)
    }

    /// Whether a person can be asked: they see the question and can type the answer.
    pub fn can_ask(&self) -> bool {
        self.ui.stderr_is_terminal() && self.stdin.as_ref().is_some_and(|stdin| stdin.is_terminal)
    }

    /// Whether standard input is a terminal.
    pub fn stdin_is_terminal(&self) -> bool {
        self.stdin.as_ref().is_some_and(|stdin| stdin.is_terminal)
    }

    /// Takes standard input away from the run; the second taker gets an empty one.
    pub fn take_stdin(&mut self) -> Box<dyn Read + Send> {
        match self.stdin.take() {
            Some(stdin) => stdin.reader,
            None => Box::new(std::io::empty()),
        }
    }

    /// Reads one line of standard input, byte by byte so that nothing after it is lost.
    ///
    /// # Errors
    /// When it cannot be read, or is longer than 64 KiB.
    pub fn read_line(&mut self) -> Result<String, CliError> {
        const LONGEST: usize = 64 * 1024;
        let mut line = Vec::new();
        let mut byte = [0u8];
        if let Some(stdin) = &mut self.stdin {
            loop {
                match stdin.reader.read(&mut byte) {
                    Ok(0) => break,
                    Ok(_) if byte[0] == b'\n' => break,
                    Ok(_) if line.len() == LONGEST => {
                        return Err(CliError::input("a line of standard input is too long"));
                    }
                    Ok(_) => line.push(byte[0]),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(CliError::file("read standard input", &error)),
                }
            }
        }
        let line = String::from_utf8_lossy(&line);
        Ok(line.strip_suffix('\r').unwrap_or(&line).to_owned())
    }

    /// `path` as seen from the working directory.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.cwd.join(path)
    }

    /// Runs asynchronous work to its end.
    ///
    /// # Errors
    /// What the work fails with.
    pub fn drive<T>(&self, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        runtime::drive(&self.stop, self.is_process, work)
    }
}
