//! What `init` prints.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::output::{Page, View};

/// A new project.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitView {
    /// Its name.
    pub name: String,
    /// Its files.
    pub files: Vec<String>,
    /// Whether they were written; false in a dry run.
    pub written: bool,
    /// Commands to go on with.
    pub next: Vec<String>,
}

impl View for InitView {
    const KIND: &'static str = "ProjectCreated";
    fn text(&self, page: &mut Page) {
        let verb = if self.written { "wrote" } else { "would write" };
        for file in &self.files {
            page.line(format!("{verb} {file}"));
        }
        page.gap();
        page.line("next:");
        for command in &self.next {
            page.line(format!("  {command}"));
        }
    }
}
