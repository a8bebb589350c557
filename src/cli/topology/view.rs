//! What the offline commands print.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::diagnostic::{Findings, Severity};

use crate::cli::error::FindingView;
use crate::cli::output::{Page, View, count};

/// Everything that was found in files.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FindingsView {
    /// Whether the files can be used.
    valid: bool,
    /// How many errors.
    errors: usize,
    /// How many warnings.
    warnings: usize,
    /// How many notes.
    notes: usize,
    /// What was looked at, in a few words.
    subject: String,
    /// One item for each finding, in the order of the files.
    findings: Vec<FindingView>,
    #[serde(skip)]
    hidden: usize,
    #[serde(skip)]
    shown: Vec<(Severity, String)>,
}

impl FindingsView {
    /// The findings about `subject`, such as `2 files`; `strict` makes warnings count as errors. The
    /// text shows notes only when asked to.
    pub fn new(subject: String, findings: &Findings, strict: bool, show_notes: bool) -> Self {
        let number =
            |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (number(Severity::Error), number(Severity::Warning));
        let notes = number(Severity::Note);
        FindingsView {
            valid: errors == 0 && !(strict && warnings > 0),
            errors,
            warnings,
            notes,
            subject,
            findings: findings.iter().map(FindingView::from).collect(),
            shown: findings
                .iter()
                .filter(|f| show_notes || f.severity != Severity::Note)
                .map(|f| (f.severity, f.to_string()))
                .collect(),
            hidden: if show_notes { 0 } else { notes },
        }
    }

    /// Whether the files can be used.
    pub fn is_valid(&self) -> bool {
        self.valid
    }
}

impl View for FindingsView {
    const KIND: &'static str = "Findings";
    const ITEMS: Option<&'static str> = Some("findings");
    fn text(&self, page: &mut Page) {
        for (severity, text) in &self.shown {
            let word = severity.to_string();
            let rest = text.strip_prefix(&word).unwrap_or(text);
            let word = match severity {
                Severity::Error => page.style.bad(&word),
                Severity::Warning => page.style.attention(&word),
                Severity::Note => page.style.dim(&word),
            };
            page.line(format!("{word}{rest}"));
            page.line("");
        }
        let parts: Vec<String> =
            [(self.errors, "error"), (self.warnings, "warning"), (self.notes, "note")]
                .into_iter()
                .filter(|(number, _)| *number > 0)
                .map(|(number, what)| count(number as u64, what))
                .collect();
        let mut verdict =
            if parts.is_empty() { "no findings".to_owned() } else { parts.join(", ") };
        if self.hidden > 0 {
            verdict.push_str(" (-v shows notes)");
        }
        let word = if self.valid { page.style.good("valid") } else { page.style.bad("invalid") };
        page.line(format!("{}: {word}, {verdict}", self.subject));
    }
}
