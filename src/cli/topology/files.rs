//! Which topology files a command is about, and reading them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::project::Project;
use crate::project::files::{FileError, read_source, read_stream};
use crate::project::spec::TOPOLOGY_FILE;
use crate::project::topology::topology_of;
use crate::topology::Topology;

use crate::cli::error::CliError;
use crate::cli::session::Session;

/// The files, when a command takes nothing else by its place.
#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// Topology files, read as one; `-` is standard input; the project's when left out
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Variables and their values.
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

/// The files, when a command takes names by their place.
#[derive(Debug, Args)]
pub(crate) struct FileOptions {
    /// Read this topology file, `-` for standard input; the project's when left out
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Variables and their values.
    #[command(flatten)]
    pub(crate) set: SetArgs,
}

impl From<FileOptions> for FileArgs {
    fn from(options: FileOptions) -> Self {
        let FileOptions { files, set } = options;
        FileArgs { files, set }
    }
}

/// Values for variables.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SetArgs {
    /// Set a variable of the files
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
}

impl SetArgs {
    /// The last value of each name.
    pub(crate) fn values(self) -> BTreeMap<String, String> {
        self.set.into_iter().collect()
    }
}

fn parse_set(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Reads the files that `args` or the project name.
///
/// # Errors
/// When there is none, or any is wrong: all findings.
pub(crate) fn load(args: FileArgs, session: &mut Session) -> Result<Topology, CliError> {
    read(args, session)?.map_err(|error| rejected(error, "the topology cannot be used"))
}

/// The same, with what is wrong in the files as a value of its own.
///
/// # Errors
/// When it is not clear which files are meant, or the project is wrong.
pub(crate) fn read(
    args: FileArgs,
    session: &mut Session,
) -> Result<Result<Topology, FileError>, CliError> {
    let FileArgs { files, set } = args;
    let set = set.values();
    let settings = session.settings()?;
    let project = settings.project.as_ref();
    let files: Vec<(PathBuf, String)> = match (files.is_empty(), project) {
        (false, _) => files
            .into_iter()
            .map(|file| (session.resolve(&file), file.display().to_string()))
            .collect(),
        (true, Some(project)) => project
            .topology_files()
            .into_iter()
            .map(|file| {
                let path = project.root.join(&file);
                let shown = shown(&path, &session.cwd);
                (path, shown)
            })
            .collect(),
        (true, None) => vec![(session.cwd.join(TOPOLOGY_FILE), TOPOLOGY_FILE.to_owned())],
    };
    let mut sources = Vec::new();
    for (path, name) in &files {
        let source = if name == "-" {
            read_stream(session.take_stdin(), "-")
        } else {
            read_source(path, name)
        };
        match source {
            Ok(source) => sources.push(source),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(topology_of(&sources, &set, project.map(Project::name)))
}

/// `path` as a person in `cwd` would name it.
pub(crate) fn shown(path: &Path, cwd: &Path) -> String {
    path.strip_prefix(cwd).unwrap_or(path).display().to_string()
}

/// An error about files that cannot be used.
pub(crate) fn rejected(error: FileError, message: &str) -> CliError {
    match error {
        FileError::Unreadable { name, error } => {
            let failure = CliError::file(format!("read {name}"), &error).object(&name);
            if error.kind() == std::io::ErrorKind::NotFound {
                failure.hint("name the topology files, or make a project with `nexusctl init`")
            } else {
                failure
            }
        }
        FileError::Wrong(findings) => CliError::findings(message, findings),
    }
}
