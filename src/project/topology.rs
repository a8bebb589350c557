//! The topology that several files say together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::diagnostic::{Code, Diagnostic, Findings, Source};
use crate::base::document::{Kind, Node, header, read_documents};
use crate::topology::Topology;
use crate::topology::expand;

use super::files::{FileError, read_source};

const NO_DOCUMENT: Code = Code("project/no-document");
const OTHER_KIND: Code = Code("project/other-kind");

/// A file to read: where it is, and what findings call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Where.
    pub path: PathBuf,
    /// As the person named it.
    pub name: String,
}

/// Reads `files` as one topology, with `set` over their variables. A file that names no owner belongs
/// to `owner`, when one is given.
///
/// # Errors
/// A file that cannot be read, or all findings of all files.
pub fn load_topology(
    files: &[NamedFile],
    set: &BTreeMap<String, String>,
    owner: Option<&str>,
) -> Result<Topology, FileError> {
    let sources = files
        .iter()
        .map(|file| read_source(&file.path, &file.name))
        .collect::<Result<Vec<_>, _>>()?;
    topology_of(&sources, set, owner)
}

/// [`load_topology`] of what has been read already.
///
/// # Errors
/// All findings of all sources.
pub fn topology_of(
    sources: &[Arc<Source>],
    set: &BTreeMap<String, String>,
    owner: Option<&str>,
) -> Result<Topology, FileError> {
    let mut findings = Findings::default();
    let mut documents = Vec::new();
    for source in sources {
        match read_documents(source) {
            Ok(found) if found.is_empty() => findings.push(
                Diagnostic::error(NO_DOCUMENT, format!("{} holds no document", source.name))
                    .hint("it should begin with `apiVersion: nexus/v1` and `kind: Topology`"),
            ),
            Ok(found) => documents.extend(found),
            Err(found) => findings.extend(found),
        }
    }
    documents.retain(|node| is_topology(node, &mut findings));
    if findings.has_errors() {
        findings.sort();
        return Err(FileError::Wrong(findings));
    }
    let named = documents.iter().any(|node| {
        node.get("metadata")
            .is_some_and(|meta| meta.get("owner").or_else(|| meta.get("name")).is_some())
    });
    let mut topology = expand::load(&documents, set).map_err(FileError::Wrong)?;
    if let (false, Some(owner)) = (named, owner) {
        topology.owner = owner.to_owned();
    }
    Ok(topology)
}

/// Whether a document is a topology; what else it may be is said in `findings`.
fn is_topology(node: &Node, findings: &mut Findings) -> bool {
    let Some(header) = header(node, findings) else { return false };
    if *header.kind != Kind::Topology {
        let message = format!("a document of kind {} is no topology", header.kind);
        findings.push(Diagnostic::error(OTHER_KIND, message).at(header.kind.span));
        return false;
    }
    true
}
