//! Text that is fit for a terminal: without anything that steers it, and as wide as its place.

use ratatui::style::Style;
use ratatui::text::Span;
use serde_json::Value;

use crate::base::time::{Timestamp, ago};
use crate::deadletter::compare::Difference;
use crate::deadletter::journey::{Step, journey, links};
use crate::deadletter::mask::mask_text;
use crate::deadletter::plain::{body_of, body_value, properties_of};
use crate::deadletter::store::{Scan, StoredLetter};

/// How a line is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// A heading or a name.
    Strong,
    /// What matters least.
    Dim,
    /// Something went well, or is added.
    Good,
    /// Something failed, or is gone.
    Bad,
    /// Something deserves attention.
    Attention,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How it is meant.
    pub tone: Tone,
    /// What it says; clean.
    pub text: String,
}

/// Two lines beside each other, or one across.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where the values below stand.
    Path(String),
    /// A line of the left value and one of the right.
    Both(String, String),
}

/// What a character is shown as that a terminal would take for an order, or that turns or hides text.
fn harmless(c: char) -> Option<char> {
    match c {
        '\u{7f}' => Some('\u{2421}'),
        // Pictures of the control characters stand in their own order.
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(c)),
        '\u{80}'..='\u{9f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => Some('\u{fffd}'),
        _ => None,
    }
}

/// The text on one line, with a picture for each character that steers a terminal.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match harmless(c) {
            _ if c == '\t' => out.push_str("    "),
            Some(shown) => out.push(shown),
            None => out.push(c),
        }
    }
    out
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The beginning of a text, with `…` where something is left out.
pub fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let mut out = first_columns(text, room).0.to_owned();
    out.push('…');
    out
}

/// What of a text fits, and the rest. At least one character is taken, so that whoever goes on comes
/// to an end.
fn first_columns(text: &str, columns: usize) -> (&str, &str) {
    // Most text is narrow: what has no more bytes than columns fits.
    if text.len() <= columns {
        return (text, "");
    }
    let mut used = 0;
    let mut end = 0;
    let span = Span::raw(text);
    for grapheme in span.styled_graphemes(Style::default()) {
        let wide = width(grapheme.symbol);
        if used + wide > columns && end > 0 {
            break;
        }
        used += wide;
        end += grapheme.symbol.len();
        if used >= columns {
            break;
        }
    }
    text.split_at_checked(end).unwrap_or((text, ""))
}

fn pieces(text: &str, columns: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (piece, left) = first_columns(rest?, columns.max(1));
        rest = (!left.is_empty()).then_some(left);
        Some(piece)
    })
}

/// Lines broken where they are wider than `columns`.
pub fn wrap(lines: &[Line], columns: usize) -> Vec<Line> {
    lines
        .iter()
        .flat_map(|line| {
            pieces(&line.text, columns)
                .map(|piece| Line { tone: line.tone, text: piece.to_owned() })
        })
        .collect()
}

#[derive(Default)]
struct Text(Vec<Line>);

impl Text {
    fn say(&mut self, tone: Tone, text: &str) {
        self.0.extend(text.lines().map(|line| Line { tone, text: clean(line) }));
    }

    fn gap(&mut self) {
        self.0.push(Line { tone: Tone::Plain, text: String::new() });
    }

    /// A value as a person reads it.
    fn value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.say(Tone::Plain, text),
            value => self.say(Tone::Plain, &format!("{value:#}")),
        }
    }
}

fn at(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

fn step_lines(step: &Step, unmask: bool, text: &mut Text) {
    let words = step.to_string();
    let (what, when) = match step {
        Step::Published { at, .. } => ("published", *at),
        Step::Died { first_at, .. } => ("died in", *first_at),
        Step::GivenUp { verdict, .. } => ("given up in", verdict.at),
        Step::Replayed { .. } => ("replayed", None),
        Step::Lies { .. } => ("lies in", None),
    };
    let words = words.strip_prefix(what).unwrap_or(&words).trim_start();
    text.say(Tone::Plain, &format!("  {:24}  {what} {words}", at(when)));
    if let Step::GivenUp { verdict, .. } = step {
        if let Some(host) = &verdict.host {
            text.say(Tone::Dim, &format!("  {:24}    on {host}", ""));
        }
        for line in verdict.error.iter().flat_map(|error| error.lines()) {
            let line = if unmask { line.to_owned() } else { mask_text(line) };
            text.say(Tone::Bad, &format!("  {:24}    {line}", ""));
        }
    }
}

/// A letter: its journey, its properties, its body. `twins` are the places of letters of the same name.
pub fn letter_lines(
    scan: &Scan,
    letter: &StoredLetter,
    twins: &[u64],
    unmask: bool,
    now: Timestamp,
) -> Vec<Line> {
    let mut text = Text::default();
    text.say(Tone::Strong, &format!("letter {} of group {}", letter.id, letter.group));
    if let Some(died) = letter.died_at {
        text.say(Tone::Plain, &format!("died {died} ({})", ago(died, now)));
    }
    if !twins.is_empty() {
        let places: Vec<String> = twins.iter().take(10).map(|place| format!("@{place}")).collect();
        let more = if twins.len() > places.len() { ", …" } else { "" };
        let words = format!("cannot be told apart from {}{more}", places.join(", "));
        text.say(Tone::Attention, &words);
    }
    text.gap();
    text.say(Tone::Strong, "journey");
    let way = journey(&letter.delivery, &scan.of.queue);
    for step in &way.steps {
        step_lines(step, unmask, &mut text);
    }
    for gap in &way.gaps {
        text.say(Tone::Attention, &format!("  not known: {gap}"));
    }
    for (name, value) in links(&letter.delivery.message.properties) {
        text.say(Tone::Plain, &format!("  {name}: {value}"));
    }
    text.gap();
    text.say(Tone::Strong, "properties");
    text.value(&properties_of(letter, unmask));
    text.gap();
    let decoded = body_of(letter);
    let (unpacked, trouble) = (decoded.unpacked, decoded.trouble.clone());
    let (shown_as, body) = body_value(decoded.content, unmask);
    let from = unpacked.map(|name| format!(", unpacked from {name}")).unwrap_or_default();
    text.say(Tone::Strong, &format!("body ({shown_as}, bytes: {}{from})", letter.size));
    if let Some(trouble) = trouble {
        text.say(Tone::Attention, &trouble);
    }
    text.value(&body);
    text.0
}

fn value_lines(value: Option<&Value>) -> Vec<String> {
    let text = match value {
        None => return vec!["-".to_owned()],
        Some(Value::String(text)) => text.clone(),
        Some(value) => format!("{value:#}"),
    };
    let lines: Vec<String> = text.lines().map(clean).collect();
    if lines.is_empty() { vec![String::new()] } else { lines }
}

/// Differences with the left values beside the right ones, in columns of `columns`.
pub fn side_by_side(differences: &[Difference], columns: usize) -> Vec<Side> {
    let mut rows = Vec::new();
    for difference in differences {
        rows.push(Side::Path(clean(&difference.path)));
        let wrapped = |value| {
            let lines = value_lines(value);
            let pieces = lines.iter().flat_map(|line| pieces(line, columns).map(str::to_owned));
            pieces.collect::<Vec<String>>()
        };
        let left = wrapped(difference.left.as_ref());
        let right = wrapped(difference.right.as_ref());
        let most = left.len().max(right.len());
        let line = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
        rows.extend((0..most).map(|at| Side::Both(line(&left, at), line(&right, at))));
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_left() {
        assert_eq!(clean("\u{1b}[31mred\u{7}\r\n\t\u{9b}x"), "␛[31mred␇␍␊    \u{fffd}x");
        assert_eq!(clean("a\u{202e}b\u{7f}"), "a\u{fffd}b␡");
        assert_eq!(clean("grün 日本 🦀"), "grün 日本 🦀");
    }

    #[test]
    fn wide_characters_are_cut_by_their_width() {
        assert_eq!(cut("日本語", 6), "日本語");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("abc", 0), "");
    }

    proptest! {
        /// What is broken into lines is all there, and no line is wider than its place.
        #[test]
        fn broken_lines_say_the_same(text in "\\PC{0,60}", columns in 2usize..30) {
            let text = clean(&text);
            let lines = wrap(&[Line { tone: Tone::Plain, text: text.clone() }], columns);
            let all: String = lines.iter().map(|line| line.text.as_str()).collect();
            prop_assert_eq!(&all, &text);
            for line in &lines {
                let graphemes = Span::raw(line.text.as_str());
                let many = graphemes.styled_graphemes(Style::default()).count();
                prop_assert!(width(&line.text) <= columns || many == 1, "{:?}", line);
            }
        }
    }
}
