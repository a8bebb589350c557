//! Topologies from YAML for the tests of this room.

use crate::base::diagnostic::{Findings, Source};
use crate::base::document;
use crate::topology::model::Topology;

use super::load;

/// The topology of `yaml` (without its first two lines), or what is wrong with it.
pub(crate) fn read(yaml: &str) -> Result<Topology, Findings> {
    read_with(&[yaml], &[])
}

pub(crate) fn read_with(files: &[&str], set: &[(&str, &str)]) -> Result<Topology, Findings> {
    let mut documents = Vec::new();
    for (index, yaml) in files.iter().enumerate() {
        let name = if index == 0 { "t.yaml".to_owned() } else { format!("t{index}.yaml") };
        let text = format!("apiVersion: nexus/v1\nkind: Topology\n{yaml}");
        documents.extend(document::read_documents(&Source::new(name, text))?);
    }
    let set = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    load(&documents, &set)
}

#[track_caller]
pub(crate) fn topology(yaml: &str) -> Topology {
    read(yaml).unwrap_or_else(|findings| {
        panic!("{}", findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

/// Findings as `line code: message`.
pub(crate) fn brief(findings: &Findings) -> Vec<String> {
    findings
        .iter()
        .map(|f| {
            let line = f.span.as_ref().map_or(String::new(), |s| format!("{} ", s.line));
            format!("{line}{}: {}", f.code, f.message)
        })
        .collect()
}
