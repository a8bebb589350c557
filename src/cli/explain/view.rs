//! What `explain` prints.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::output::{Page, View};

use super::catalogue::Entry;

/// One explanation.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// The number or name.
    code: String,
    /// In a few words.
    title: String,
    /// What it means.
    meaning: String,
    /// What to do.
    action: String,
}

impl From<&Entry> for ExplainView {
    fn from(entry: &Entry) -> Self {
        ExplainView {
            code: entry.code.into(),
            title: entry.title.into(),
            meaning: entry.meaning.into(),
            action: entry.action.into(),
        }
    }
}

impl View for ExplainView {
    const KIND: &'static str = "Explanation";
    fn text(&self, page: &mut Page) {
        let title = page.style.strong(&self.code);
        page.line(format!("{title}: {}", self.title));
        page.gap();
        page.line(&self.meaning);
        page.gap();
        page.line(&self.action);
    }
}

/// All explanations.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainListView {
    /// One item for each code.
    explanations: Vec<ExplainView>,
}

impl ExplainListView {
    /// The list of `entries`.
    pub fn new<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        ExplainListView { explanations: entries.map(ExplainView::from).collect() }
    }
}

impl View for ExplainListView {
    const KIND: &'static str = "ExplanationList";
    const ITEMS: Option<&'static str> = Some("explanations");
    fn text(&self, page: &mut Page) {
        let rows = self.explanations.iter().map(|e| [e.code.clone(), e.title.clone()]).collect();
        page.table(["CODE", "MEANING"], rows);
    }
}
