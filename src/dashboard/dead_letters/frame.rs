//! Draws the view of dead letters. Pure: the same state gives the same frame.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier, Style};

use crate::base::time::{Timestamp, ago};
use crate::deadletter::store::Group;

use super::lines::{Line, Side, Tone, clean, cut, width};
use super::machine::letters;
use super::model::{ABOVE, Ask, BELOW, Browse, LetterRow, List, SMALLEST, Screen};

/// All keys.
pub const HELP: [&str; 37] = [
    "moving",
    "  up, down, j, k        to the next letter or group, or line",
    "  page up, page down    a screen at once",
    "  home, end, g, G       to the first, to the last",
    "  enter, right, l       open the group or the letter",
    "  esc, left, h          back",
    "  tab                   the next group's letters, the next part of a letter,",
    "                        the other way round when two are compared",
    "  n, N                  the next letter, the one before",
    "",
    "marking",
    "  space                 mark the letter or the whole group, or not any more",
    "  a                     mark all that is shown here, or none of it",
    "  i                     invert the marks of what is shown here",
    "  x                     clear all marks",
    "                        * marked, + some of the group, . not counted yet",
    "",
    "looking",
    "  /                     show only letters for which a CEL condition is true, as",
    "                        in --where: reason, origin.queue, deaths[0].count,",
    "                        headers, body, routingKey, size, position, diedAt;",
    "                        an empty one shows all; marks stay as they are",
    "  c                     compare: on one letter, then on another",
    "  u                     show or mask secrets, if begun with --unmask",
    "  r                     read again what is on the screen",
    "",
    "leaving",
    "  p                     hand the marked letters on to a plan, and leave",
    "  w                     write the marked letters to a file, and stay",
    "  q                     leave",
    "  ctrl-c                leave at once, with status 130",
    "",
    "The file that p and w write is what --selection reads. It names letters one by",
    "one: what died after the scan is not meant by it.",
    "",
    "Everything here is read from the stored scan. The queue is not touched.",
    "esc leads back",
];

/// Whether colours are used. Without them, what is bold or turned round still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Palette {
    /// Whether colours are used.
    pub color: bool,
}

impl Palette {
    fn of(self, tone: Tone) -> Style {
        let (color, modifier) = match tone {
            Tone::Plain => return Style::new(),
            Tone::Strong => (None, Modifier::BOLD),
            Tone::Dim => (None, Modifier::DIM),
            Tone::Good => (Some(Color::Green), Modifier::empty()),
            Tone::Bad => (Some(Color::Red), Modifier::empty()),
            Tone::Attention => (Some(Color::Yellow), Modifier::empty()),
        };
        let style = Style::new().add_modifier(modifier);
        color.filter(|_| self.color).map_or(style, |color| style.fg(color))
    }
}

/// A place of the frame and how to write there.
struct Canvas<'a, 'b> {
    frame: &'a mut Frame<'b>,
    palette: Palette,
    area: Rect,
}

impl Canvas<'_, '_> {
    fn put(&mut self, x: u16, y: u16, columns: usize, tone: Tone, text: &str) {
        if x >= self.area.width || y >= self.area.height {
            return;
        }
        let columns = columns.min(usize::from(self.area.width - x));
        let style = self.palette.of(tone);
        // Whoever wrote it has cleaned it; once more costs little, and nothing raw gets by.
        let text = clean(&cut(text, columns));
        self.frame.buffer_mut().set_stringn(x, y, text, columns, style);
    }

    fn line(&mut self, y: u16, tone: Tone, text: &str) {
        self.put(0, y, usize::MAX, tone, text);
    }

    /// One text from the left and one, which is whole, from the right.
    fn ends(&mut self, y: u16, left: (Tone, &str), right: (Tone, &str)) {
        let all = usize::from(self.area.width);
        let wide = width(right.1).min(all);
        self.put(0, y, all.saturating_sub(wide + 2), left.0, left.1);
        let x = u16::try_from(all - wide).unwrap_or(0);
        self.put(x, y, wide, right.0, right.1);
    }

    fn columns(&mut self, y: u16, tone: Tone, cells: &[(usize, bool, &str)]) {
        let mut x = 0;
        for (columns, is_number, text) in cells {
            let text = cut(text, *columns);
            let room = columns.saturating_sub(width(&text));
            let shift = if *is_number { room } else { 0 };
            let at = u16::try_from(x + shift).unwrap_or(u16::MAX);
            self.put(at, y, *columns, tone, &text);
            x += columns + 1;
        }
    }

    fn turn_round(&mut self, y: u16) {
        let row = Rect { x: 0, y, width: self.area.width, height: 1 }.intersection(self.area);
        self.frame.buffer_mut().set_style(row, Style::new().add_modifier(Modifier::REVERSED));
    }
}

/// Draws the view.
pub fn draw(view: &Browse, palette: Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    let mut canvas = Canvas { frame, palette, area };
    let (columns, rows) = SMALLEST;
    if area.width < columns || area.height < rows {
        let words = format!("the terminal has {}x{},", area.width, area.height);
        canvas.line(0, Tone::Attention, &words);
        canvas.line(1, Tone::Attention, &format!("{columns}x{rows} are needed"));
        return;
    }
    title(view, &mut canvas);
    if let Some(top) = view.help {
        help(top, &mut canvas);
        return;
    }
    filter_line(view, &mut canvas);
    match view.screen() {
        Screen::Groups => groups(view, &mut canvas),
        Screen::Letters => letters_of_group(view, &mut canvas),
        Screen::Letter => one_letter(view, &mut canvas),
        Screen::Pair => two_letters(view, &mut canvas),
    }
    bottom(view, &mut canvas);
}

fn title(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let scan = &view.scan;
    let part = if scan.complete { "" } else { ", not the whole queue" };
    let text = format!(
        "{}  scan {}, {}: {}{part}",
        clean(scan.of.queue.as_str()),
        scan.id.0,
        ago(scan.began, view.now),
        letters(scan.letters)
    );
    let marked = format!("{} marked", view.marks.places.len());
    let tone = if view.marks.places.is_empty() { Tone::Dim } else { Tone::Attention };
    canvas.ends(0, (Tone::Strong, &text), (tone, &marked));
}

fn help(top: usize, canvas: &mut Canvas<'_, '_>) {
    let rows = canvas.area.height.saturating_sub(2);
    for (line, y) in HELP.iter().skip(top).zip(1..=rows) {
        let tone =
            if line.is_empty() || line.starts_with(' ') { Tone::Plain } else { Tone::Strong };
        canvas.line(y, tone, line);
    }
    let last = canvas.area.height - 1;
    canvas.line(last, Tone::Dim, "up, down: more   esc: back");
}

fn filter_line(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let filter = &view.filter;
    if let Some(looked) = filter.looked {
        let done = format!("{looked} of {} looked at, esc gives up", view.scan.letters);
        let text = format!("filter: {}", clean(&filter.text));
        canvas.ends(2, (Tone::Attention, &text), (Tone::Attention, &done));
        return;
    }
    let Some(found) = &filter.found else {
        canvas.line(2, Tone::Dim, "no filter");
        return;
    };
    let mut count = format!("{} of {}", found.places.len(), letters(view.scan.letters));
    if found.undecided.0 > 0 {
        count = format!("{count}, {} not decided", found.undecided.0);
    }
    let text = format!("filter: {}", clean(&filter.text));
    canvas.ends(2, (Tone::Attention, &text), (Tone::Attention, &count));
}

/// `3 of 12`.
fn place(list: List, len: u64, noun: &str) -> String {
    if len == 0 { format!("no {noun}") } else { format!("{noun} {} of {len}", list.cursor + 1) }
}

/// How the marks of a group are shown.
fn group_mark(view: &Browse, group: &Group) -> &'static str {
    match view.marked_in(group) {
        None => ".",
        Some(0) => " ",
        Some(marked) if marked >= group.letters => "*",
        Some(_) => "+",
    }
}

fn share(part: u64, all: u64) -> String {
    match part.saturating_mul(100).checked_div(all) {
        None | Some(0) if part == 0 => "0%".to_owned(),
        None | Some(0) => "<1%".to_owned(),
        Some(percent) => format!("{percent}%"),
    }
}

fn age(time: Option<Timestamp>, now: Timestamp) -> String {
    time.map_or_else(|| "?".to_owned(), |time| ago(time, now))
}

fn known(text: &str) -> String {
    if text.is_empty() { "?".to_owned() } else { clean(text) }
}

fn reason_of(group: &Group) -> String {
    match &group.traits.code {
        Some(code) => format!("{} ({})", known(&group.traits.reason), clean(code)),
        None => known(&group.traits.reason),
    }
}

fn said_by(group: &Group) -> String {
    let traits = &group.traits;
    clean(traits.error.as_ref().or(traits.exception.as_ref()).unwrap_or(&traits.shape))
}

fn groups(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let len = view.group_count();
    let list = view.groups.list;
    let what = "groups, the largest first";
    canvas.ends(1, (Tone::Plain, what), (Tone::Plain, &place(list, len, "group")));
    let all = usize::from(canvas.area.width);
    let reason = (all / 6).clamp(10, 24);
    let queue = (all / 5).clamp(10, 30);
    let said = all.saturating_sub(1 + 8 + 5 + reason + queue + 9 + 6);
    canvas.columns(
        3,
        Tone::Strong,
        &[
            (1, false, ""),
            (8, true, "LETTERS"),
            (5, true, "SHARE"),
            (reason, false, "REASON"),
            (queue, false, "QUEUE"),
            (9, false, "NEWEST"),
            (said, false, "ERROR OR SHAPE"),
        ],
    );
    for y in 0..u16::try_from(view.height()).unwrap_or(0) {
        let row = list.top + u64::from(y);
        if row >= len {
            break;
        }
        let y = y + ABOVE;
        if let Some(group) = view.groups.rows.get(row) {
            let shown = view.shown_of(row, group);
            canvas.columns(
                y,
                Tone::Plain,
                &[
                    (1, false, group_mark(view, group)),
                    (8, true, &shown.to_string()),
                    (5, true, &share(shown, view.shown())),
                    (reason, false, &reason_of(group)),
                    (queue, false, &known(&group.traits.queue)),
                    (9, false, &age(group.newest, view.now)),
                    (said, false, &said_by(group)),
                ],
            );
        } else {
            unread(y, view.groups.rows.read.contains_key(&row), canvas);
        }
        if row == list.cursor {
            canvas.turn_round(y);
        }
    }
    if len == 0 {
        let words = match &view.filter.found {
            Some(_) => "no letter passes the filter",
            None => "there are no letters in this scan",
        };
        canvas.line(ABOVE, Tone::Dim, words);
    }
}

fn unread(y: u16, is_gone: bool, canvas: &mut Canvas<'_, '_>) {
    let words = if is_gone { "  gone: the scan was forgotten" } else { "  …" };
    canvas.line(y, Tone::Dim, words);
}

fn letters_of_group(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let Some(screen) = &view.letters else { return };
    let (group, list, len) = (&screen.group, screen.list, screen.shown.len());
    let what = format!(
        "{}: {}, {}, {}",
        group.group,
        reason_of(group),
        known(&group.traits.queue),
        said_by(group)
    );
    canvas.ends(1, (Tone::Plain, &what), (Tone::Plain, &place(list, len, "letter")));
    let all = usize::from(canvas.area.width);
    let why = (all / 6).clamp(10, 24);
    let key = (all / 5).clamp(8, 30);
    let message = all.saturating_sub(1 + 9 + 9 + why + key + 8 + 6);
    canvas.columns(
        3,
        Tone::Strong,
        &[
            (1, false, ""),
            (9, false, "PLACE"),
            (9, false, "DIED"),
            (why, false, "REASON"),
            (key, false, "KEY"),
            (message, false, "MESSAGE OR LETTER"),
            (8, true, "BYTES"),
        ],
    );
    let places = screen.shown.from(list.top);
    for (y, position) in (0..u16::try_from(view.height()).unwrap_or(0)).zip(places) {
        let row = list.top + u64::from(y);
        let y = y + ABOVE;
        match screen.rows.get(row) {
            Some(letter) => letter_row(view, letter, y, (why, key, message), canvas),
            None => unread(y, screen.rows.read.contains_key(&row), canvas),
        }
        if view.anchor == Some(position) {
            canvas.put(0, y, 1, Tone::Attention, "=");
        }
        if row == list.cursor {
            canvas.turn_round(y);
        }
    }
    if len == 0 {
        let words = match &screen.places {
            None => "reading …",
            Some(_) => "no letter of this group passes the filter",
        };
        canvas.line(ABOVE, Tone::Dim, words);
    }
}

fn letter_row(
    view: &Browse,
    letter: &LetterRow,
    y: u16,
    (why, key, message): (usize, usize, usize),
    canvas: &mut Canvas<'_, '_>,
) {
    let is_marked = view.marks.places.contains(letter.position);
    let name = if letter.message.is_empty() { &letter.id } else { &letter.message };
    canvas.columns(
        y,
        Tone::Plain,
        &[
            (1, false, if is_marked { "*" } else { " " }),
            (9, false, &format!("@{}", letter.position)),
            (9, false, &age(letter.died_at, view.now)),
            (why, false, &known(&letter.why)),
            (key, false, &letter.key),
            (message, false, name),
            (8, true, &letter.size.to_string()),
        ],
    );
}

/// Which lines of how many are on the screen.
fn part(top: usize, lines: usize, height: u64) -> String {
    let end = (top + usize::try_from(height).unwrap_or(0)).min(lines);
    if lines == 0 { String::new() } else { format!("lines {}-{end} of {lines}", top + 1) }
}

fn one_letter(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let Some(reader) = &view.reader else { return };
    let mark = if view.marks.places.contains(reader.position) { "* " } else { "" };
    let masked = if view.unmask { "secrets are shown" } else { "secrets are masked" };
    let what = format!("{mark}letter @{}, {masked}", reader.position);
    let part = part(reader.top, reader.wrapped.len(), view.height());
    canvas.ends(1, (Tone::Plain, &what), (Tone::Plain, &part));
    if reader.text.is_none() {
        canvas.line(ABOVE, Tone::Dim, "reading …");
    }
    let lines = reader.wrapped.iter().skip(reader.top);
    for (y, Line { tone, text }) in (0..u16::try_from(view.height()).unwrap_or(0)).zip(lines) {
        canvas.line(y + ABOVE, *tone, text);
    }
}

fn two_letters(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let Some(pair) = &view.pair else { return };
    let Some(found) = &pair.found else {
        canvas.line(ABOVE, Tone::Dim, "reading …");
        return;
    };
    let group = if found.same_group { "of one group" } else { "of different groups" };
    let what = match found.differences.len() {
        0 => format!("no difference, {group}"),
        1 => format!("1 difference, {group}"),
        many => format!("{many} differences, {group}"),
    };
    let part = part(pair.top, pair.rows.len(), view.height());
    canvas.ends(1, (Tone::Plain, &what), (Tone::Plain, &part));
    let half = view.half();
    let right = u16::try_from(half + 3).unwrap_or(u16::MAX);
    let beside = |canvas: &mut Canvas<'_, '_>, y, tones: (Tone, Tone), texts: (&str, &str)| {
        canvas.put(0, y, half, tones.0, texts.0);
        canvas.put(right - 2, y, 1, Tone::Dim, "|");
        canvas.put(right, y, half, tones.1, texts.1);
    };
    let name = |place, id: &str| format!("@{place} {id}");
    let names = (name(pair.places.0, &found.ids.0), name(pair.places.1, &found.ids.1));
    beside(canvas, 3, (Tone::Strong, Tone::Strong), (&names.0, &names.1));
    let rows = pair.rows.iter().skip(pair.top);
    for (y, row) in (0..u16::try_from(view.height()).unwrap_or(0)).zip(rows) {
        match row {
            Side::Path(path) => canvas.line(y + ABOVE, Tone::Strong, path),
            Side::Both(one, other) => {
                beside(canvas, y + ABOVE, (Tone::Bad, Tone::Good), (one, other));
            }
        }
    }
}

fn keys(screen: Screen) -> &'static str {
    match screen {
        Screen::Groups => {
            "enter opens  space marks  a all  / filters  p hands on  ? help  q leaves"
        }
        Screen::Letters => {
            "enter reads  space marks  a all  c compares  esc back  p hands on  ? help"
        }
        Screen::Letter => "n next  N before  tab part  space marks  c compares  esc back  ? help",
        Screen::Pair => "tab other way round  esc back  ? help",
    }
}

fn bottom(view: &Browse, canvas: &mut Canvas<'_, '_>) {
    let y = canvas.area.height - BELOW;
    let Some(input) = &view.input else {
        if let Some(note) = &view.note {
            canvas.line(y, note.tone, &note.text);
        }
        canvas.line(y + 1, Tone::Dim, keys(view.screen()));
        return;
    };
    let (prompt, advice) = match input.ask {
        Ask::Filter => ("filter: ", "enter asks, esc leaves it; such as: reason == 'rejected'"),
        Ask::Path { leave: true } => ("write the marked letters to: ", "enter writes and leaves"),
        Ask::Path { leave: false } => ("write the marked letters to: ", "enter writes"),
    };
    // Of a long line, the end before the cursor is seen.
    let room = usize::from(canvas.area.width).saturating_sub(width(prompt) + 1);
    let before = clean(&input.before);
    let mut shown = before.as_str();
    while width(shown) > room {
        let mut chars = shown.chars();
        chars.next();
        shown = chars.as_str();
    }
    canvas.line(y, Tone::Strong, prompt);
    let x = u16::try_from(width(prompt)).unwrap_or(0);
    let text = format!("{shown}{}", clean(&input.after));
    canvas.put(x, y, usize::MAX, Tone::Plain, &text);
    let cursor = u16::try_from(width(prompt) + width(shown)).unwrap_or(0);
    canvas.frame.set_cursor_position(Position { x: cursor.min(canvas.area.width - 1), y });
    match &input.error {
        Some(error) => canvas.line(y + 1, Tone::Bad, error),
        None => canvas.line(y + 1, Tone::Dim, advice),
    }
}
