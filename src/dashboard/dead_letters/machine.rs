//! What a key, or what was read, makes of the view; and what is to be read next. Pure.

use crate::deadletter::select::{Selection, Selector};
use crate::deadletter::store::{Group, Matches};
use crate::deadletter::{Fingerprint, LetterSet};

use super::frame::HELP;
use super::lines::{Line, Tone, clean, side_by_side, wrap};
use super::model::{
    Ask, Browse, Compared, Filter, Filtered, HandOver, Input, LetterRow, Letters, List, Marks,
    Note, Pair, Reader, Rows, Screen,
};

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// An arrow.
    Up,
    /// An arrow.
    Down,
    /// An arrow.
    Left,
    /// An arrow.
    Right,
    /// A screen up.
    PageUp,
    /// A screen down.
    PageDown,
    /// To the first.
    Home,
    /// To the last.
    End,
    /// Open, or done.
    Enter,
    /// Back.
    Esc,
    /// To the next.
    Tab,
    /// Removes the character before the cursor.
    Backspace,
    /// Removes the character behind it.
    Delete,
    /// Empties the line.
    Clear,
    /// Ctrl-C.
    Interrupt,
    /// A character.
    Char(char),
}

/// What happens to the view.
#[derive(Clone, Debug)]
pub enum Event {
    /// A key was typed.
    Key(Key),
    /// The terminal has so many columns and rows.
    Size(u16, u16),
    /// Something was read or written.
    Data(Data),
}

/// Something that was asked for by an [`Effect`].
#[derive(Clone, Debug)]
pub enum Data {
    /// Groups.
    Groups {
        /// As it was asked.
        turn: u64,
        /// In order.
        rows: Vec<Group>,
    },
    /// The places of a group's letters.
    Places {
        /// The group.
        group: Fingerprint,
        /// All of them.
        places: LetterSet,
    },
    /// Letters of a group.
    Letters {
        /// As it was asked.
        turn: u64,
        /// In order.
        rows: Vec<LetterRow>,
    },
    /// One letter to be read; no lines when it is gone.
    Letter {
        /// Which.
        position: u64,
        /// What there is to read.
        text: Vec<Line>,
    },
    /// What two letters differ in.
    Pair {
        /// Their places.
        places: (u64, u64),
        /// What was found; `None` when one is gone.
        found: Option<Compared>,
    },
    /// A filter is at work.
    Looked {
        /// As it was asked.
        turn: u64,
        /// So many letters were looked at.
        letters: u64,
    },
    /// What a filter lets through, or why it cannot be asked.
    Matches {
        /// As it was asked.
        turn: u64,
        /// What came of it.
        found: Result<Matches, String>,
    },
    /// Marked letters were written, or not.
    Written {
        /// The file.
        path: String,
        /// So many, or why not.
        letters: Result<u64, String>,
    },
    /// Something could not be read.
    Failed(String),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read groups, as without a filter.
    Groups {
        /// To be given back.
        turn: u64,
        /// From this one.
        from: u64,
        /// So many at most.
        most: u64,
    },
    /// Read these groups.
    NamedGroups {
        /// To be given back.
        turn: u64,
        /// Which.
        names: Vec<Fingerprint>,
    },
    /// Read the places of a group's letters.
    Places(Fingerprint),
    /// Read letters.
    Letters {
        /// To be given back.
        turn: u64,
        /// Which.
        places: Vec<u64>,
    },
    /// Read one letter.
    Letter {
        /// Which.
        position: u64,
        /// Whether secrets are shown.
        unmask: bool,
    },
    /// Compare two letters.
    Pair {
        /// Their places.
        places: (u64, u64),
        /// Whether secrets are shown.
        unmask: bool,
    },
    /// Ask a filter, and no earlier one any more.
    Filter {
        /// To be given back.
        turn: u64,
        /// The condition; empty for none.
        condition: String,
    },
    /// Write the marked letters.
    Write {
        /// The file, as it was typed.
        path: String,
    },
    /// End.
    End(Ending),
}

/// How the view was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By `q`.
    Quit,
    /// What is marked is to be printed and planned with.
    Print,
    /// What is marked was written for a plan.
    Written {
        /// The file.
        path: String,
    },
    /// By Ctrl-C.
    Interrupted,
}

/// Bytes of a line that is typed.
const LONGEST: usize = 4096;

/// `1 letter`, `2 letters`.
pub(super) fn letters(number: u64) -> String {
    format!("{number} letter{}", if number == 1 { "" } else { "s" })
}

impl Browse {
    /// Takes what happened. What is to be done then, in order.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = match event {
            Event::Key(Key::Interrupt) => vec![Effect::End(Ending::Interrupted)],
            Event::Key(key) => {
                self.halted = false;
                self.key(key)
            }
            Event::Size(columns, rows) => {
                self.resize((columns, rows));
                Vec::new()
            }
            Event::Data(data) => self.take(data),
        };
        if !effects.iter().any(|effect| matches!(effect, Effect::End(_))) {
            self.read_on(&mut effects);
        }
        effects
    }

    fn say(&mut self, tone: Tone, text: impl Into<String>) {
        self.note = Some(Note { tone, text: clean(&text.into()) });
    }

    // ------------------------------------------------------------------ keys

    fn key(&mut self, key: Key) -> Vec<Effect> {
        if self.input.is_some() {
            return self.typed(key);
        }
        if self.help.is_some() {
            self.read_help(key);
            return Vec::new();
        }
        self.note = None;
        let was_leaving = std::mem::take(&mut self.leaving);
        match key {
            Key::Char('?') => self.help = Some(0),
            Key::Char('q') => return self.quit(was_leaving),
            Key::Char('p') => return self.hand_over(),
            Key::Char('w') => self.ask_path(false),
            Key::Char('/') => self.ask_filter(),
            Key::Char('u') => return self.toggle_mask(),
            Key::Char('x') => self.clear_marks(),
            Key::Char('i' | 'a') if matches!(self.screen(), Screen::Letter | Screen::Pair) => {
                self.say(Tone::Dim, "lists can be marked as a whole: esc leads back to one");
            }
            Key::Char('i') => self.invert(),
            Key::Char('a') => self.mark_shown(),
            Key::Char(' ') => self.toggle_mark(),
            Key::Char('c') => return self.compare(),
            Key::Esc | Key::Left | Key::Char('h') | Key::Backspace => return self.back(key),
            Key::Enter | Key::Right | Key::Char('l') => return self.open(),
            Key::Tab => return self.tab(),
            Key::Char('n') => return self.neighbour(true),
            Key::Char('N') => return self.neighbour(false),
            Key::Char('r') => {
                // What another process has scanned or forgotten meanwhile is seen.
                self.reread_groups();
                self.reread_letters();
            }
            key => self.go(key),
        }
        Vec::new()
    }

    fn quit(&mut self, was_leaving: bool) -> Vec<Effect> {
        let marked = self.marks.places.len();
        if marked > 0 && !self.prints && !was_leaving {
            self.leaving = true;
            let words = format!(
                "{} marked: q again leaves without them, p hands them on, w writes them",
                letters(marked)
            );
            self.say(Tone::Attention, words);
            return Vec::new();
        }
        vec![Effect::End(Ending::Quit)]
    }

    fn nothing_marked(&mut self) -> bool {
        if self.marks.places.is_empty() {
            self.say(Tone::Bad, "nothing is marked: space marks a letter or a group");
        }
        self.marks.places.is_empty()
    }

    fn hand_over(&mut self) -> Vec<Effect> {
        if self.nothing_marked() {
            return Vec::new();
        }
        match self.hand_over.clone() {
            HandOver::Print => vec![Effect::End(Ending::Print)],
            HandOver::File(path) => self.write(path, true),
            HandOver::Ask => {
                self.ask_path(true);
                Vec::new()
            }
        }
    }

    fn write(&mut self, path: String, leave: bool) -> Vec<Effect> {
        if self.writing.is_some() {
            self.say(Tone::Attention, "the last file is still being written");
            return Vec::new();
        }
        self.writing = Some(leave);
        self.say(Tone::Dim, format!("writing {path}"));
        vec![Effect::Write { path }]
    }

    fn ask_path(&mut self, leave: bool) {
        if !self.nothing_marked() {
            let before = self.file_name();
            self.ask(Ask::Path { leave }, before);
        }
    }

    fn ask_filter(&mut self) {
        if matches!(self.screen(), Screen::Groups | Screen::Letters) {
            self.ask(Ask::Filter, self.filter.text.clone());
        } else {
            self.say(Tone::Dim, "groups and letters can be filtered: esc leads back to them");
        }
    }

    fn ask(&mut self, ask: Ask, before: String) {
        self.input = Some(Input { ask, before, after: String::new(), error: None });
    }

    fn typed(&mut self, key: Key) -> Vec<Effect> {
        let Some(input) = &mut self.input else { return Vec::new() };
        if key != Key::Enter {
            input.error = None;
        }
        match key {
            Key::Esc => self.input = None,
            Key::Enter => return self.done_typing(),
            Key::Char(c) if !c.is_control() && input.before.len() < LONGEST => input.before.push(c),
            Key::Backspace => {
                // Nothing more to take away: not meant any more.
                if input.before.pop().is_none() && input.after.is_empty() {
                    self.input = None;
                }
            }
            Key::Delete => {
                let mut rest = input.after.chars();
                rest.next();
                input.after = rest.as_str().to_owned();
            }
            Key::Left => {
                if let Some(c) = input.before.pop() {
                    input.after.insert(0, c);
                }
            }
            Key::Right => {
                if let Some(c) = input.after.chars().next() {
                    input.before.push(c);
                    input.after.remove(0);
                }
            }
            Key::Home | Key::Up => {
                input.after.insert_str(0, &input.before);
                input.before.clear();
            }
            Key::End | Key::Down => input.before.push_str(&std::mem::take(&mut input.after)),
            Key::Clear => {
                input.before.clear();
                input.after.clear();
            }
            _ => {}
        }
        Vec::new()
    }

    fn done_typing(&mut self) -> Vec<Effect> {
        let Some(input) = &mut self.input else { return Vec::new() };
        let text = format!("{}{}", input.before, input.after).trim().to_owned();
        match input.ask {
            Ask::Filter if text.is_empty() => {
                self.input = None;
                self.drop_filter()
            }
            Ask::Filter => {
                let selection = Selection { condition: Some(text.clone()), ..Selection::default() };
                let of = &self.scan.of;
                match Selector::new(&selection, &of.vhost, &of.queue) {
                    Err(error) => {
                        input.error = Some(clean(&error.to_string()));
                        Vec::new()
                    }
                    Ok(_) => {
                        self.input = None;
                        self.begin_filter(text)
                    }
                }
            }
            Ask::Path { .. } if text.is_empty() => {
                input.error = Some("write the name of a file".to_owned());
                Vec::new()
            }
            Ask::Path { leave } => {
                self.input = None;
                self.write(text, leave)
            }
        }
    }

    // ---------------------------------------------------------------- filter

    fn begin_filter(&mut self, text: String) -> Vec<Effect> {
        self.turns.filter += 1;
        self.filter.text.clone_from(&text);
        self.filter.looked = Some(0);
        vec![Effect::Filter { turn: self.turns.filter, condition: text }]
    }

    fn drop_filter(&mut self) -> Vec<Effect> {
        self.turns.filter += 1;
        self.filter = Filter::default();
        self.filter_changed();
        // Tells the one at work that nobody waits for it.
        vec![Effect::Filter { turn: self.turns.filter, condition: String::new() }]
    }

    fn filter_changed(&mut self) {
        self.groups.list = List::default();
        self.reread_groups();
        self.reread_letters();
    }

    fn reread_groups(&mut self) {
        // What is on its way is of another list.
        self.turns.groups += 1;
        self.groups.rows = Rows::default();
    }

    /// Makes up anew what is shown of a group's letters; the cursor stays at its letter, if that is
    /// still shown.
    fn reread_letters(&mut self) {
        let height = self.height();
        self.turns.letters += 1;
        let Some(screen) = &mut self.letters else { return };
        let before = screen.shown.from(screen.list.cursor).next().unwrap_or(0);
        screen.rows = Rows::default();
        let Some(places) = &screen.places else { return };
        screen.shown = match &self.filter.found {
            Some(found) => places.and(&found.places),
            None => places.clone(),
        };
        let row = screen.shown.iter().take_while(|place| *place < before).count() as u64;
        screen.list.go(row, screen.shown.len(), height);
    }

    // ----------------------------------------------------------------- marks

    fn group_here(&self) -> Option<&Group> {
        self.groups.rows.get(self.groups.list.cursor)
    }

    /// The place of the letter that keys are about.
    fn letter_here(&self) -> Option<u64> {
        match self.screen() {
            Screen::Letter => self.reader.as_ref().map(|reader| reader.position),
            Screen::Letters => {
                let screen = self.letters.as_ref()?;
                screen.shown.from(screen.list.cursor).next()
            }
            Screen::Groups | Screen::Pair => None,
        }
    }

    fn toggle_mark(&mut self) {
        if self.screen() == Screen::Groups {
            if let Some(group) = self.group_here().map(|group| group.group) {
                self.to_mark.insert(group);
                self.go(Key::Down);
            }
            return;
        }
        let Some(place) = self.letter_here() else { return };
        let is_marked = self.marks.places.insert(place);
        if !is_marked {
            self.marks.places.remove(place);
        }
        let group = self.letters.as_ref().map(|screen| screen.group.group);
        if let Some(known) = group.and_then(|group| self.marks.in_group.get_mut(&group)) {
            *known = if is_marked { *known + 1 } else { known.saturating_sub(1) };
        }
        if self.screen() == Screen::Letters {
            self.go(Key::Down);
        }
    }

    /// What is shown here: all letters, those of a group, those that the filter lets through.
    fn all_here(&self) -> LetterSet {
        match (&self.letters, self.screen()) {
            (Some(screen), Screen::Letters) => screen.shown.clone(),
            _ => match &self.filter.found {
                Some(found) => found.places.clone(),
                None => LetterSet::up_to(self.scan.letters),
            },
        }
    }

    fn mark_shown(&mut self) {
        let all = self.all_here();
        let marked = self.marks.places.common(&all) == all.len();
        let places = &self.marks.places;
        self.marks.places = if marked { places.minus(&all) } else { places.or(&all) };
        self.count_again();
    }

    fn invert(&mut self) {
        self.marks.places = self.marks.places.xor(&self.all_here());
        self.count_again();
    }

    fn clear_marks(&mut self) {
        let marked = self.marks.places.len();
        self.marks = Marks::default();
        self.to_mark.clear();
        if marked > 0 {
            self.say(Tone::Dim, format!("{} not marked any more", letters(marked)));
        }
    }

    /// Forgets what was known of the groups, but for the one whose places are at hand.
    fn count_again(&mut self) {
        self.marks.in_group.clear();
        if let Some(Letters { group, places: Some(places), .. }) = &self.letters {
            self.marks.in_group.insert(group.group, self.marks.places.common(places));
        }
    }

    fn mark_group(&mut self, places: &LetterSet) {
        let shown = match &self.filter.found {
            Some(found) => places.and(&found.places),
            None => places.clone(),
        };
        let marked = &self.marks.places;
        let all = marked.common(&shown) == shown.len();
        self.marks.places = if all { marked.minus(&shown) } else { marked.or(&shown) };
    }

    // --------------------------------------------------------------- screens

    fn open(&mut self) -> Vec<Effect> {
        match self.screen() {
            Screen::Groups => {
                let Some(group) = self.group_here().cloned() else { return Vec::new() };
                self.open_group(group);
                self.screens.push(Screen::Letters);
                Vec::new()
            }
            Screen::Letters => {
                let Some(position) = self.letter_here() else { return Vec::new() };
                self.screens.push(Screen::Letter);
                self.read_letter(position)
            }
            Screen::Letter | Screen::Pair => Vec::new(),
        }
    }

    fn open_group(&mut self, group: Group) {
        self.turns.letters += 1;
        self.letters = Some(Letters {
            group,
            places: None,
            shown: LetterSet::new(),
            list: List::default(),
            rows: Rows::default(),
        });
    }

    fn read_letter(&mut self, position: u64) -> Vec<Effect> {
        self.reader = Some(Reader { position, text: None, wrapped: Vec::new(), top: 0 });
        vec![Effect::Letter { position, unmask: self.unmask }]
    }

    fn back(&mut self, key: Key) -> Vec<Effect> {
        if self.filter.looked.is_some() && key == Key::Esc {
            self.say(Tone::Dim, "the filter was given up");
            return self.drop_filter();
        }
        if self.screens.len() > 1 {
            self.screens.pop();
            // What is not seen is not kept.
            match self.screen() {
                Screen::Groups => self.letters = None,
                Screen::Letters => self.reader = None,
                Screen::Letter | Screen::Pair => {}
            }
            if self.screen() != Screen::Pair {
                self.pair = None;
            }
            return Vec::new();
        }
        if key == Key::Esc && !self.filter.text.is_empty() {
            return self.drop_filter();
        }
        self.say(Tone::Dim, "q leaves");
        Vec::new()
    }

    fn tab(&mut self) -> Vec<Effect> {
        match self.screen() {
            Screen::Groups => return self.open(),
            Screen::Letters => {
                let next = (self.groups.list.cursor + 1).checked_rem(self.group_count());
                let height = self.height();
                self.groups.list.go(next.unwrap_or(0), self.group_count(), height);
                match self.group_here().cloned() {
                    Some(group) => self.open_group(group),
                    None => self.say(Tone::Dim, "the next group is still being read"),
                }
            }
            Screen::Letter => {
                let height = self.height();
                if let Some(reader) = &mut self.reader {
                    let lines = reader.wrapped.iter().enumerate();
                    let mut headings =
                        lines.filter(|(_, line)| line.tone == Tone::Strong).map(|(at, _)| at);
                    let next = headings.find(|at| *at > reader.top).unwrap_or(0);
                    reader.top = next.min(last_top(reader.wrapped.len(), height));
                }
            }
            Screen::Pair => {
                if let Some(pair) = &self.pair {
                    let places = (pair.places.1, pair.places.0);
                    return self.show_pair(places);
                }
            }
        }
        Vec::new()
    }

    fn neighbour(&mut self, next: bool) -> Vec<Effect> {
        if self.screen() != Screen::Letter {
            return Vec::new();
        }
        let height = self.height();
        let Some(screen) = &mut self.letters else { return Vec::new() };
        let to = match next {
            true => screen.list.cursor + 1,
            false => screen.list.cursor.wrapping_sub(1),
        };
        if to >= screen.shown.len() {
            self.say(Tone::Dim, "there is no other letter that way");
            return Vec::new();
        }
        screen.list.go(to, screen.shown.len(), height);
        let place = screen.shown.from(to).next();
        place.map(|place| self.read_letter(place)).unwrap_or_default()
    }

    fn toggle_mask(&mut self) -> Vec<Effect> {
        if !self.can_unmask {
            self.say(Tone::Dim, "secrets stay masked: begin with --unmask to see them");
            return Vec::new();
        }
        self.unmask = !self.unmask;
        let words = if self.unmask { "secrets are shown" } else { "secrets are masked" };
        self.say(Tone::Attention, words);
        let mut effects = Vec::new();
        if let Some(reader) = &mut self.reader {
            // What was read before must not stay on the screen.
            reader.text = None;
            reader.wrapped.clear();
            effects.push(Effect::Letter { position: reader.position, unmask: self.unmask });
        }
        if let Some(pair) = &self.pair {
            effects.extend(self.show_pair(pair.places));
        }
        effects
    }

    fn compare(&mut self) -> Vec<Effect> {
        let Some(here) = self.letter_here() else {
            self.say(Tone::Dim, "open a group: two of the letters there can be compared");
            return Vec::new();
        };
        match self.anchor.take() {
            None => {
                self.anchor = Some(here);
                let words = format!("comparing @{here}: go to another letter and press c again");
                self.say(Tone::Attention, words);
                Vec::new()
            }
            Some(anchor) if anchor == here => {
                self.say(Tone::Dim, "not comparing any more");
                Vec::new()
            }
            Some(anchor) => {
                self.screens.push(Screen::Pair);
                self.show_pair((anchor, here))
            }
        }
    }

    fn show_pair(&mut self, places: (u64, u64)) -> Vec<Effect> {
        self.pair = Some(Pair { places, found: None, rows: Vec::new(), top: 0 });
        vec![Effect::Pair { places, unmask: self.unmask }]
    }

    // ---------------------------------------------------------------- moving

    fn go(&mut self, key: Key) {
        let height = self.height();
        match self.screen() {
            Screen::Groups => {
                let len = self.group_count();
                let to = moved(self.groups.list.cursor, key, len, height);
                self.groups.list.go(to, len, height);
            }
            Screen::Letters => {
                if let Some(screen) = &mut self.letters {
                    let len = screen.shown.len();
                    let to = moved(screen.list.cursor, key, len, height);
                    screen.list.go(to, len, height);
                }
            }
            Screen::Letter => {
                if let Some(reader) = &mut self.reader {
                    reader.top = scrolled(reader.top, key, reader.wrapped.len(), height);
                }
            }
            Screen::Pair => {
                if let Some(pair) = &mut self.pair {
                    // One row less: the names of both stand above.
                    pair.top = scrolled(pair.top, key, pair.rows.len(), height);
                }
            }
        }
    }

    fn read_help(&mut self, key: Key) {
        let height = u64::from(self.size.1.saturating_sub(2));
        match key {
            Key::Char('?' | 'q' | 'h') | Key::Esc | Key::Enter | Key::Left | Key::Backspace => {
                self.help = None;
            }
            key => {
                let top = self.help.unwrap_or(0);
                self.help = Some(scrolled(top, key, HELP.len(), height));
            }
        }
    }

    fn resize(&mut self, size: (u16, u16)) {
        self.size = size;
        let (height, len) = (self.height(), self.group_count());
        self.groups.list.go(self.groups.list.cursor, len, height);
        if let Some(screen) = &mut self.letters {
            screen.list.go(screen.list.cursor, screen.shown.len(), height);
        }
        self.lay_out_reader();
        self.lay_out_pair();
        if let Some(top) = self.help {
            let height = u64::from(size.1.saturating_sub(2));
            self.help = Some(top.min(last_top(HELP.len(), height)));
        }
    }

    fn lay_out_reader(&mut self) {
        let (columns, height) = (usize::from(self.size.0), self.height());
        let Some(reader) = &mut self.reader else { return };
        reader.wrapped = reader.text.as_ref().map(|t| wrap(t, columns)).unwrap_or_default();
        reader.top = reader.top.min(last_top(reader.wrapped.len(), height));
    }

    fn lay_out_pair(&mut self) {
        let (half, height) = (self.half(), self.height());
        let Some(pair) = &mut self.pair else { return };
        let found = pair.found.as_ref();
        pair.rows = found.map(|found| side_by_side(&found.differences, half)).unwrap_or_default();
        pair.top = pair.top.min(last_top(pair.rows.len(), height));
    }

    // ------------------------------------------------------------------ data

    fn take(&mut self, data: Data) -> Vec<Effect> {
        let height = self.height();
        match data {
            Data::Groups { turn, rows } => {
                if turn == self.turns.groups {
                    self.groups.rows.take(rows, self.groups.list, height);
                }
            }
            Data::Places { group, places } => self.take_places(group, places),
            Data::Letters { turn, rows } => {
                let is_now = turn == self.turns.letters;
                if let Some(screen) = self.letters.as_mut().filter(|_| is_now) {
                    screen.rows.take(rows, screen.list, height);
                }
            }
            Data::Letter { position, text } => {
                if let Some(reader) = self.reader.as_mut().filter(|r| r.position == position) {
                    if text.is_empty() {
                        self.say(Tone::Bad, "this letter is gone: the scan was forgotten");
                    } else {
                        reader.text = Some(text);
                        self.lay_out_reader();
                    }
                }
            }
            Data::Pair { places, found } => {
                if let Some(pair) = self.pair.as_mut().filter(|pair| pair.places == places) {
                    match found {
                        None => self.say(Tone::Bad, "one of them is gone: the scan was forgotten"),
                        found => {
                            pair.found = found;
                            self.lay_out_pair();
                        }
                    }
                }
            }
            Data::Looked { turn, letters } => {
                if turn == self.turns.filter && self.filter.looked.is_some() {
                    self.filter.looked = Some(letters);
                }
            }
            Data::Matches { turn, found } => {
                if turn == self.turns.filter && self.filter.looked.is_some() {
                    self.take_matches(found);
                }
            }
            Data::Written { path, letters } => return self.take_written(path, letters),
            Data::Failed(why) => {
                self.halted = true;
                self.groups.rows.asked = None;
                self.counting.clear();
                self.to_mark.clear();
                if let Some(screen) = &mut self.letters {
                    screen.rows.asked = None;
                }
                self.say(Tone::Bad, why);
            }
        }
        Vec::new()
    }

    fn take_matches(&mut self, found: Result<Matches, String>) {
        self.filter.looked = None;
        match found {
            Err(why) => {
                self.filter.text.clear();
                self.filter.found = None;
                self.say(Tone::Bad, why);
            }
            Ok(found) => self.filter.found = Some(Filtered::from(found)),
        }
        self.filter_changed();
    }

    fn take_places(&mut self, group: Fingerprint, places: LetterSet) {
        self.counting.remove(&group);
        if self.to_mark.remove(&group) {
            self.mark_group(&places);
        }
        self.marks.in_group.insert(group, self.marks.places.common(&places));
        let waits = |screen: &&mut Letters| screen.group.group == group && screen.places.is_none();
        if let Some(screen) = self.letters.as_mut().filter(waits) {
            screen.places = Some(places);
            self.reread_letters();
        }
    }

    fn take_written(&mut self, path: String, written: Result<u64, String>) -> Vec<Effect> {
        let leave = self.writing.take().unwrap_or(false);
        match written {
            Ok(_) if leave => return vec![Effect::End(Ending::Written { path })],
            Ok(number) => self.say(Tone::Good, format!("{} written to {path}", letters(number))),
            Err(why) => self.say(Tone::Bad, why),
        }
        Vec::new()
    }

    // --------------------------------------------------------------- reading

    /// Asks for what is on the screen and was not read.
    fn read_on(&mut self, effects: &mut Vec<Effect>) {
        if self.halted {
            return;
        }
        let height = self.height();
        let turns = self.turns;
        let groups = &mut self.groups;
        let len = self.filter.found.as_ref().map_or(groups.all, |f| f.groups.len() as u64);
        if let Some((from, to)) = groups.rows.wanted(groups.list, len, height) {
            groups.rows.asked = Some((from, to));
            effects.push(match &self.filter.found {
                None => Effect::Groups { turn: turns.groups, from, most: to - from },
                Some(found) => {
                    let at = |row: u64| usize::try_from(row).unwrap_or(usize::MAX);
                    let names = found.groups.get(at(from)..at(to)).unwrap_or_default();
                    let names = names.iter().map(|(group, _)| *group).collect();
                    Effect::NamedGroups { turn: turns.groups, names }
                }
            });
        }
        if let Some(screen) = &mut self.letters {
            let group = screen.group.group;
            if screen.places.is_none() && self.counting.insert(group) {
                effects.push(Effect::Places(group));
            }
            let len = screen.shown.len();
            if let Some((from, to)) = screen.rows.wanted(screen.list, len, height) {
                screen.rows.asked = Some((from, to));
                let many = usize::try_from(to - from).unwrap_or(usize::MAX);
                let places = screen.shown.from(from).take(many).collect();
                effects.push(Effect::Letters { turn: turns.letters, places });
            }
        }
        self.count_marks(effects);
    }

    fn count_marks(&mut self, effects: &mut Vec<Effect>) {
        let list = self.groups.list;
        let on_screen: Vec<Fingerprint> = (list.top..list.top + self.height())
            .filter_map(|row| self.groups.rows.get(row))
            .filter(|group| self.marked_in(group).is_none())
            .map(|group| group.group)
            .collect();
        for group in on_screen.into_iter().chain(self.to_mark.iter().copied()) {
            if self.counting.insert(group) {
                effects.push(Effect::Places(group));
            }
        }
    }
}

/// The last line that may be the first on the screen.
fn last_top(lines: usize, height: u64) -> usize {
    lines.saturating_sub(usize::try_from(height).unwrap_or(usize::MAX))
}

/// Where a key moves a cursor.
fn moved(at: u64, key: Key, len: u64, height: u64) -> u64 {
    match key {
        Key::Up | Key::Char('k') => at.saturating_sub(1),
        Key::Down | Key::Char('j') => at + 1,
        Key::PageUp => at.saturating_sub(height),
        Key::PageDown => at + height,
        Key::Home | Key::Char('g') => 0,
        Key::End | Key::Char('G') => len.saturating_sub(1),
        _ => at,
    }
}

/// Where a key moves text that is `height` rows high on the screen.
fn scrolled(top: usize, key: Key, lines: usize, height: u64) -> usize {
    let to = moved(top as u64, key, lines as u64, height);
    usize::try_from(to).unwrap_or(usize::MAX).min(last_top(lines, height))
}
