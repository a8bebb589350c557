//! `check`: everything that is wrong in the files of a project, and in what they say about each other.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::diagnostic::{Code, Diagnostic, Findings};
use crate::broker::Version;
use crate::topology::lint;

use super::directory::Project;
use super::files::FileError;
use super::labels::{LABELS_FILE, labels_of};
use super::spec::PROJECT_FILE;
use super::topology::of_project;

const UNREADABLE: Code = Code("project/unreadable");
const OWNER: Code = Code("project/owner-differs");
const VHOST: Code = Code("project/vhost-differs");

/// What was looked at, and what was found.
#[derive(Debug)]
pub struct Checked {
    /// The files, by their path below the project.
    pub files: Vec<String>,
    /// All findings, in the order of the files.
    pub findings: Findings,
}

/// Checks the project in `root` against the rules of RabbitMQ `target`, with `set` over the variables
/// of its topology. Only reads.
pub fn check(root: &Path, set: &BTreeMap<String, String>, target: Version) -> Checked {
    let mut files = vec![PROJECT_FILE.to_owned()];
    let mut findings = Findings::default();
    match Project::read(root, PROJECT_FILE) {
        Err(error) => findings.extend(found(error)),
        Ok(project) => {
            files.extend(project.topology_files());
            if root.join(LABELS_FILE).is_file() {
                files.push(LABELS_FILE.to_owned());
                if let Err(error) = labels_of(&root.join(LABELS_FILE), LABELS_FILE) {
                    findings.extend(found(error));
                }
            }
            match of_project(&project, set) {
                Err(error) => findings.extend(found(error)),
                Ok(topology) => {
                    findings.extend(lint::validate(&topology, target));
                    if topology.owner != project.name() {
                        let message = format!(
                            "the topology belongs to `{}` and the project is called `{}`",
                            topology.owner,
                            project.name()
                        );
                        findings.push(
                            Diagnostic::note(OWNER, message)
                                .at(project.file.name.span.clone())
                                .hint("what is declared is recorded for the topology's owner"),
                        );
                    }
                    if let (Some(ours), Some(theirs)) = (&project.file.vhost, &topology.vhost)
                        && ours.as_str() != theirs
                    {
                        let message = format!(
                            "the topology is for vhost `{theirs}`, the project uses `{ours}`"
                        );
                        findings.push(
                            Diagnostic::error(VHOST, message)
                                .hint("name the same vhost in both, or in one of them only"),
                        );
                    }
                }
            }
        }
    }
    Checked { files, findings }
}

fn found(error: FileError) -> Findings {
    match error {
        FileError::Wrong(findings) => findings,
        error @ FileError::Unreadable { .. } => {
            Findings(vec![Diagnostic::error(UNREADABLE, error.to_string())])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::init::{Preset, init};

    #[test]
    fn a_new_project_has_no_findings() {
        for preset in [Preset::Agents, Preset::Plain] {
            let dir = tempfile::tempdir().unwrap();
            init(dir.path(), "shop", preset).unwrap();
            for target in lint::TARGETS {
                let checked = check(dir.path(), &BTreeMap::new(), *target);
                let shown: Vec<String> = checked.findings.iter().map(ToString::to_string).collect();
                assert_eq!(shown, Vec::<String>::new(), "{preset:?} on {target}");
            }
        }
    }

    #[test]
    fn findings_of_all_files_come_at_once_and_missing_ones_too() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "shop", Preset::Plain).unwrap();
        let project = dir.path().join(PROJECT_FILE);
        let text = std::fs::read_to_string(&project).unwrap();
        std::fs::write(&project, text.replace("topology.yaml", "nowhere.yaml")).unwrap();
        let checked = check(dir.path(), &BTreeMap::new(), Version::new(4, 0, 0));
        assert_eq!(checked.files, [PROJECT_FILE, "nowhere.yaml"]);
        assert_eq!(checked.findings.0.len(), 1);
        assert_eq!(checked.findings.0[0].code, UNREADABLE);
    }
}
