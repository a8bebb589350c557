//! What `explain` prints.

use schemars::JsonSchema;
use serde::Serialize;

use crate::cli::output::{Page, View};
use crate::resilience::classification::{Failure, Row, classify};

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
    /// How a message that fails with this AMQP reply is treated; absent for other codes.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<RetryView>,
}

/// What is expected of another attempt.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RetryView {
    /// `retriable`, `throttled`, `permanent`, `poison` or `cancelled`.
    class: String,
    /// Why.
    reason: String,
}

/// The row about `code` if it is an AMQP reply code. Exit statuses of this program are below them.
fn retry(code: &str) -> Option<RetryView> {
    let row = classify(Failure::Reply(code.parse().ok().filter(|code| *code >= 200)?))?;
    Some(RetryView { class: row.class.name().into(), reason: row.reason.into() })
}

impl From<&Entry> for ExplainView {
    fn from(entry: &Entry) -> Self {
        ExplainView {
            code: entry.code.into(),
            title: entry.title.into(),
            meaning: entry.meaning.into(),
            action: entry.action.into(),
            retry: retry(entry.code),
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
        if let Some(retry) = &self.retry {
            page.gap();
            page.line(format!("For a message that fails so: {}. {}", retry.class, retry.reason));
        }
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

/// What is tried again and what is not.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryTableView {
    /// One item for each kind of failure; the first that fits decides.
    rows: Vec<RetryRowView>,
}

/// One kind of failure.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RetryRowView {
    /// Where it is seen: `AMQP reply`, `exit status`, ….
    source: String,
    /// First number it stands for; absent where the event has no number.
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<u16>,
    /// Last number it stands for, itself included.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<u16>,
    /// What happened.
    event: String,
    /// `retriable`, `throttled`, `permanent`, `poison` or `cancelled`.
    class: String,
    /// Why.
    reason: String,
    #[serde(skip)]
    numbers: String,
}

impl RetryTableView {
    /// The table as it is decided by.
    pub fn new(table: &[Row]) -> Self {
        let rows = table.iter().map(|row| {
            let numbers = row.numbers();
            let numbered = !numbers.is_empty();
            RetryRowView {
                source: row.source.name().into(),
                first: numbered.then_some(row.first),
                last: numbered.then_some(row.last),
                event: row.event.into(),
                class: row.class.name().into(),
                reason: row.reason.into(),
                numbers,
            }
        });
        RetryTableView { rows: rows.collect() }
    }
}

impl View for RetryTableView {
    const KIND: &'static str = "RetryTable";
    const ITEMS: Option<&'static str> = Some("rows");
    fn text(&self, page: &mut Page) {
        let rows = self.rows.iter().map(|row| {
            [
                row.source.clone(),
                row.numbers.clone(),
                row.event.clone(),
                row.class.clone(),
                row.reason.clone(),
            ]
        });
        page.table(["SEEN IN", "CODE", "EVENT", "CLASS", "BECAUSE"], rows.collect());
    }
}
