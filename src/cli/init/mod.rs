//! `nexusctl init`: a new project.

mod view;

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::project::directory::is_name;
use crate::project::init::{FirstQueue, HANDLER_FILE, InitError, Preset, files, init};

use super::error::{CliError, code};
use super::exit::ExitStatus;
use super::missing::shell_word;
use super::session::Session;

pub use view::InitView;

/// Arguments of `init`.
#[derive(Debug, Args)]
#[command(
    after_help = "Writes nexus.yaml, a commented topology.yaml, workers/handle.sh, which handles a \
    message for `nexusctl worker`, and .gitignore; never overwrites.\n\nExamples:\n  nexusctl init shop\n  nexusctl init shop --preset plain --dry-run"
)]
pub struct InitArgs {
    /// The directory; the working directory when left out
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Call the project so; the directory's name when left out
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Begin with this topology
    #[arg(long, value_enum, default_value_t)]
    preset: PresetArg,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// What the topology begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PresetArg {
    /// Exchanges and queues of agents
    #[default]
    Agents,
    /// One exchange and one queue, written out
    Plain,
}

/// Makes the project.
pub(super) fn run(args: InitArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let InitArgs { dir, name, preset, dry_run } = args;
    let shown = dir.unwrap_or_else(|| PathBuf::from("."));
    // Without `.` in the middle.
    let dir: PathBuf = session.resolve(&shown).components().collect();
    let name = match name {
        Some(name) => name,
        None => name_of(&dir),
    };
    if !is_name(&name) {
        return Err(CliError::usage(format!("`{name}` is no name for a project"))
            .hint("choose one with `--name`: letters, digits, `-`, `_`, `.`"));
    }
    let preset = match preset {
        PresetArg::Agents => Preset::Agents,
        PresetArg::Plain => Preset::Plain,
    };
    let below = |path: &PathBuf| match path.strip_prefix(&dir) {
        Ok(file) => clean(&shown.join(file)),
        Err(_) => path.display().to_string(),
    };
    let written = if dry_run {
        files(&name, preset).iter().map(|file| dir.join(file.path)).collect()
    } else {
        init(&dir, &name, preset).map_err(|error| refused(error, below))?
    };
    let files = written.iter().map(below).collect();
    let next = next(&shown, &preset.first_queue(&name));
    session.ui.report(&InitView { name, files, written: !dry_run, next })?;
    Ok(ExitStatus::Done)
}

/// Commands that bring the first message through.
fn next(shown: &Path, FirstQueue { queue, exchange, key }: &FirstQueue) -> Vec<String> {
    let (project, handler) = if shown.as_os_str() == "." {
        (String::new(), format!("./{HANDLER_FILE}"))
    } else {
        let handler = shell_word(&clean(&shown.join(HANDLER_FILE)));
        (format!(" --project {}", shell_word(&clean(shown))), handler)
    };
    vec![
        format!("nexusctl topology plan{project}"),
        format!("nexusctl topology apply{project}"),
        format!("nexusctl publish {exchange} {key} ok{project}"),
        format!("nexusctl worker {queue}{project} -- {handler}"),
    ]
}

/// The directory's own name, made fit for a project.
fn name_of(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let name = dir
        .components()
        .rev()
        .find_map(|part| match part {
            std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .unwrap_or_default();
    let fit = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.chars().map(fit).take(64).collect();
    let name = name.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    if name.is_empty() { "project".to_owned() } else { name }
}

fn clean(path: &Path) -> String {
    let shown = path.display().to_string();
    shown.strip_prefix("./").map(str::to_owned).unwrap_or(shown)
}

fn refused(error: InitError, shown: impl Fn(&PathBuf) -> String) -> CliError {
    let error = match error {
        InitError::Exists(files) => {
            InitError::Exists(files.iter().map(|file| shown(file).into()).collect())
        }
        other @ InitError::Unwritable { .. } => other,
    };
    match error {
        InitError::Exists(_) => CliError::failed(format!("cannot make a project: {error}"))
            .hint("nothing was written; choose another directory"),
        InitError::Unwritable { .. } => {
            CliError::new(code::FILE, ExitStatus::Failed, error.to_string())
        }
    }
}
