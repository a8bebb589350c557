//! A finding about something a person wrote: code, severity, message, place, hint.
//!
//! Diagnostics are values. Who shows them, in which colour and on which stream, is not known here.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// How bad a finding is. Only [`Severity::Error`] makes a file unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing to do.
    Note,
    /// Legal but unwise.
    Warning,
    /// The file cannot be used as it is.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// A stable name such as `topology/unknown-dead-letter-exchange`; `nexusctl explain CODE` knows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Code(pub &'static str);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The text of one file, kept so that a finding can show the line it is about.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name as the person gave it, such as `topology.yaml` or `-` for standard input.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// Keeps `text` under `name`, ready to be shared by many spans.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Source { name: name.into(), text: text.into() })
    }

    /// The text of line `line` (from 1), without its line break.
    pub fn line(&self, line: u32) -> Option<&str> {
        let index = usize::try_from(line).ok()?.checked_sub(1)?;
        self.text.lines().nth(index)
    }
}

/// A place in a [`Source`]. Lines and columns count from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The file the place is in.
    pub source: Arc<Source>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// How many characters to mark, at least 1.
    pub width: u32,
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.source.name, self.line, self.column)
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable name of the rule.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, on which object: a lower-case sentence without a full stop.
    pub message: String,
    /// Where, when it came from a file.
    pub span: Option<Span>,
    /// What to do next.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, message)
    }

    /// A warning without a place yet.
    pub fn warning(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message)
    }

    /// A note without a place yet.
    pub fn note(code: Code, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Note, message)
    }

    fn new(code: Code, severity: Severity, message: impl Into<String>) -> Self {
        Diagnostic { code, severity, message: message.into(), span: None, hint: None }
    }

    /// The same finding at `span`.
    #[must_use]
    pub fn at(mut self, span: impl Into<Option<Span>>) -> Self {
        self.span = span.into();
        self
    }

    /// The same finding with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this finding makes the file unusable.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// `error[code]: message`, then place, the line with a marker, and the hint; several lines, no colour.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]: {}", self.severity, self.code, self.message)?;
        if let Some(span) = &self.span {
            write!(f, "\n  --> {span}")?;
            if let Some(line) = span.source.line(span.line) {
                let line = &without_password(line);
                let number = span.line.to_string();
                let blank = " ".repeat(number.len());
                let (shown, column) = excerpt(line, span.column);
                let room = shown.chars().count().saturating_sub(column - 1).max(1);
                let width = usize::try_from(span.width).unwrap_or(1).clamp(1, room);
                write!(
                    f,
                    "\n {blank} |\n {number} | {shown}\n {blank} | {}{}",
                    " ".repeat(column - 1),
                    "^".repeat(width)
                )?;
            }
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// The part of a long or hostile line that is worth showing: at most 120 characters around `column`,
/// control characters replaced, with the column inside the excerpt (from 1).
fn excerpt(line: &str, column: u32) -> (String, usize) {
    const SHOWN: usize = 120;
    const BEFORE: usize = 60;
    let column = usize::try_from(column).unwrap_or(1).max(1);
    let start = if column > SHOWN { column - BEFORE } else { 0 };
    let shown = line
        .chars()
        .skip(start)
        .take(SHOWN)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    (shown, column - start)
}

/// The line with the password of a URL in it (`://user:password@`) covered, character for character so
/// that columns stay where they are.
fn without_password(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "\"'/".contains(c));
        let (authority, others) = after.split_at(end.unwrap_or(after.len()));
        match authority.rfind('@').and_then(|at| Some((authority[..at].find(':')?, at))) {
            Some((colon, at)) => {
                shown.push_str(&authority[..=colon]);
                shown.extend(authority[colon + 1..at].chars().map(|_| '*'));
                shown.push_str(&authority[at..]);
            }
            None => shown.push_str(authority),
        }
        rest = others;
    }
    shown.push_str(rest);
    shown
}

/// The findings of one reading, and whether they allow to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Diagnostic>);

impl Findings {
    /// Adds one finding.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Adds all findings of `other`.
    pub fn extend(&mut self, other: Findings) {
        self.0.extend(other.0);
    }

    /// Whether any finding is an error.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(Diagnostic::is_error)
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the findings in the order they were made.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.0.iter()
    }

    /// Orders by file, line and column, so that a person reads from top to bottom.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| {
            let place =
                |d: &Diagnostic| d.span.as_ref().map(|s| (s.source.name.clone(), s.line, s.column));
            place(a).cmp(&place(b)).then_with(|| b.severity.cmp(&a.severity))
        });
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl IntoIterator for Findings {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_shows_its_line_with_a_marker() {
        let source = Source::new("topology.yaml", "queues:\n  orders: {durabel: true}\n");
        let finding = Diagnostic::error(Code("document/unknown-key"), "unknown key `durabel`")
            .at(Span { source, line: 2, column: 12, width: 7 })
            .hint("did you mean `durable`?");
        assert_eq!(
            finding.to_string(),
            "error[document/unknown-key]: unknown key `durabel`\n  \
             --> topology.yaml:2:12\n   |\n 2 |   orders: {durabel: true}\n   |            ^^^^^^^\n  \
             hint: did you mean `durable`?"
        );
    }

    #[test]
    fn the_password_in_a_shown_line_is_covered() {
        for (line, shown) in [
            ("amqp_url: amqp://u:hunter2@h/v # x", "amqp_url: amqp://u:*******@h/v # x"),
            ("a://u:p@q@h b://h:1 c://x:y@z", "a://u:***@h b://h:1 c://x:*@z"),
            ("no url: a@b", "no url: a@b"),
        ] {
            assert_eq!(without_password(line), shown);
        }
    }

    #[test]
    fn a_line_of_a_megabyte_is_cut_around_the_place() {
        let source = Source::new("x", "y".repeat(1_000_000));
        let finding = Diagnostic::error(Code("x/y"), "z").at(Span {
            source,
            line: 1,
            column: 500_000,
            width: 3,
        });
        assert!(finding.to_string().len() < 600);
    }
}
