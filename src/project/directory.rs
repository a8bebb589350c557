//! Finding the project around a directory, and its `nexus.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::base::document::{decode, read_documents};
use crate::resilience::{CircuitSettings, LimitSettings};

use super::files::{FileError, read_source};
use super::protection;
use super::spec::{PROJECT_FILE, ProjectFile, STATE_FILE, TOPOLOGY_FILE};

const NOT_ONE: Code = Code("project/not-one-document");
const BAD_NAME: Code = Code("project/name");
const OUTSIDE: Code = Code("project/path-outside");

/// A project that was found and read.
#[derive(Clone, Debug, PartialEq)]
pub struct Project {
    /// Its directory.
    pub root: PathBuf,
    /// What its `nexus.yaml` says.
    pub file: ProjectFile,
}

impl Project {
    /// The nearest directory from `start` upward that has a `nexus.yaml`.
    pub fn root_around(start: &Path) -> Option<PathBuf> {
        start.ancestors().find(|dir| dir.join(PROJECT_FILE).is_file()).map(Path::to_path_buf)
    }

    /// Reads the project in `root`; `shown` is how findings name its `nexus.yaml`.
    ///
    /// # Errors
    /// When `nexus.yaml` cannot be read or is wrong.
    pub fn read(root: &Path, shown: &str) -> Result<Project, FileError> {
        let source = read_source(&root.join(PROJECT_FILE), shown)?;
        let documents = read_documents(&source).map_err(FileError::Wrong)?;
        let [node] = documents.as_slice() else {
            let message = format!("{shown} must be one document, it has {}", documents.len());
            let finding = Diagnostic::error(NOT_ONE, message)
                .at(documents.get(1).map(|node| node.span.clone()));
            return Err(FileError::Wrong(Findings(vec![finding])));
        };
        let file: ProjectFile = decode(node).map_err(FileError::Wrong)?;
        let mut findings = check(&file);
        findings.extend(protection::check(&file));
        if findings.has_errors() {
            return Err(FileError::Wrong(findings));
        }
        Ok(Project { root: root.to_owned(), file })
    }

    /// Its name: the owner of what it declares.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Its topology files, as `nexus.yaml` names them.
    pub fn topology_files(&self) -> Vec<String> {
        match &self.file.topology {
            Some(files) => files.iter().map(|file| file.value.clone()).collect(),
            None => vec![TOPOLOGY_FILE.to_owned()],
        }
    }

    /// Its rate limits, by name.
    pub fn limits(&self) -> BTreeMap<String, LimitSettings> {
        protection::limits(&self.file)
    }

    /// Its circuits, by name.
    pub fn circuits(&self) -> BTreeMap<String, CircuitSettings> {
        protection::circuits(&self.file)
    }

    /// Its state file.
    pub fn state_file(&self) -> PathBuf {
        self.root.join(self.file.state.as_deref().unwrap_or(STATE_FILE))
    }
}

/// Whether `name` may name a project: it becomes part of object names and of lock names.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn check(file: &ProjectFile) -> Findings {
    let mut findings = Findings::default();
    if !is_name(&file.name) {
        findings.push(
            Diagnostic::error(BAD_NAME, "the name of a project has letters, digits, `-`, `_`, `.`")
                .at(file.name.span.clone())
                .hint("at most 64 characters, a letter or digit first"),
        );
    }
    for path in file.topology.iter().flatten() {
        let outside = Path::new(&path.value).components().any(|part| {
            !matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir)
        });
        if outside || path.value.is_empty() {
            findings.push(
                Diagnostic::error(OUTSIDE, format!("`{}` is outside the project", path.value))
                    .at(path.span.clone())
                    .hint("name files by their path below the directory of nexus.yaml"),
            );
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(text: &str) -> Result<Project, FileError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PROJECT_FILE), text).unwrap();
        Project::read(dir.path(), PROJECT_FILE)
    }

    #[test]
    fn a_project_is_found_from_below() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(Project::root_around(&deep), None);
        std::fs::write(dir.path().join(PROJECT_FILE), "x").unwrap();
        assert_eq!(Project::root_around(&deep), Some(dir.path().to_path_buf()));
    }

    #[test]
    fn a_project_file_with_only_a_name_has_the_defaults() {
        let project = project("apiVersion: nexus/v1\nkind: Project\nname: shop\n").unwrap();
        assert_eq!(project.topology_files(), ["topology.yaml"]);
        assert_eq!(project.state_file(), project.root.join(".nexus/state.db"));
    }

    #[test]
    fn all_errors_of_a_project_file_come_at_once() {
        let text = "apiVersion: nexus/v1\nkind: Project\nname: a b\ntopology: [../x, /etc/y]\n";
        let Err(FileError::Wrong(findings)) = project(text) else { panic!("accepted") };
        let codes: Vec<_> = findings.iter().map(|finding| finding.code.0).collect();
        assert_eq!(codes, ["project/name", "project/path-outside", "project/path-outside"]);
    }
}
