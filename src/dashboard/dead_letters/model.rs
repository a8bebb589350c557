//! What the view of dead letters knows: the screens, what of them was read, and the marks.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::time::Timestamp;
use crate::deadletter::sighting::Told;
use crate::deadletter::store::{Group, Matches, Scan, StoredLetter};
use crate::deadletter::{Fingerprint, LetterSet};

use super::lines::{Line, Side, Tone, clean};

/// Columns and rows below which nothing can be shown.
pub const SMALLEST: (u16, u16) = (50, 10);
/// Rows above the list: title, where this is, filter, headings.
pub const ABOVE: u16 = 4;
/// Rows below it: what is said, and the keys.
pub const BELOW: u16 = 2;

/// Where `p` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandOver {
    /// Whoever started the view prints the selection.
    Print,
    /// Into this file.
    File(String),
    /// Into a file that is asked for.
    Ask,
}

/// A screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Screen {
    /// All groups.
    Groups,
    /// The letters of a group.
    Letters,
    /// One letter.
    Letter,
    /// Two letters.
    Pair,
}

/// A list of which a part is on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The row that keys are about.
    pub cursor: u64,
    /// The first row on the screen.
    pub top: u64,
}

impl List {
    /// Puts the cursor on a row of `len`, and the list so that it is on the screen.
    pub fn go(&mut self, row: u64, len: u64, height: u64) {
        self.cursor = row.min(len.saturating_sub(1));
        self.top = self.top.min(self.cursor).min(len.saturating_sub(height));
        if self.cursor >= self.top + height {
            self.top = self.cursor + 1 - height.max(1);
        }
    }
}

/// Rows of a list that were read, and those that are on their way. `None` is a row that was looked for
/// and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows<T> {
    /// By their number in the list.
    pub read: BTreeMap<u64, Option<T>>,
    /// From where to where rows were asked for.
    pub asked: Option<(u64, u64)>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Rows { read: BTreeMap::new(), asked: None }
    }
}

impl<T> Rows<T> {
    /// A row, when it was read and is there.
    pub fn get(&self, row: u64) -> Option<&T> {
        self.read.get(&row).and_then(Option::as_ref)
    }

    /// From where to where rows are to be read now: what is on the screen, and as much before and
    /// behind it.
    pub fn wanted(&self, list: List, len: u64, height: u64) -> Option<(u64, u64)> {
        let end = (list.top + height).min(len);
        let is_missing = (list.top..end).any(|row| !self.read.contains_key(&row));
        if !is_missing || self.asked.is_some() {
            return None;
        }
        Some((list.top.saturating_sub(height), (end + height).min(len)))
    }

    /// Takes rows that were asked for, and lets go of those that are far from the screen.
    pub fn take(&mut self, rows: Vec<T>, list: List, height: u64) {
        let Some((from, to)) = self.asked.take() else { return };
        let mut rows = rows.into_iter();
        for row in from..to {
            self.read.insert(row, rows.next());
        }
        let near = list.top.saturating_sub(3 * height)..list.top + 4 * height;
        self.read.retain(|row, _| near.contains(row));
    }
}

/// A letter in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterRow {
    /// Its place.
    pub position: u64,
    /// Its name.
    pub id: String,
    /// When it died.
    pub died_at: Option<Timestamp>,
    /// Why, and what its worker said.
    pub why: String,
    /// Its message id; empty when it has none.
    pub message: String,
    /// By which key it came where it died.
    pub key: String,
    /// Bytes of its body.
    pub size: u64,
}

/// Characters of a header that a row keeps.
const KEPT: usize = 200;

impl LetterRow {
    /// What a list shows of a letter; its body is not needed.
    pub fn of(letter: &StoredLetter) -> LetterRow {
        let told = Told::of(&letter.delivery);
        let short = |text: &str| clean(&text.chars().take(KEPT).collect::<String>());
        let code = told.verdict.as_ref().and_then(|verdict| verdict.code.as_deref());
        let why = match code {
            Some(code) => format!("{} ({code})", told.reason()),
            None => told.reason().to_owned(),
        };
        let key = told.origin.as_ref().map(|origin| origin.routing_key.as_str());
        LetterRow {
            position: letter.position,
            id: letter.id.to_string(),
            died_at: letter.died_at,
            why: short(&why),
            message: short(letter.delivery.message.properties.message_id.as_deref().unwrap_or("")),
            key: short(key.unwrap_or_else(|| letter.delivery.routing_key.as_str())),
            size: letter.size,
        }
    }
}

/// The screen of groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Groups {
    /// How many there are without a filter.
    pub all: u64,
    /// What is on the screen.
    pub list: List,
    /// Those that were read.
    pub rows: Rows<Group>,
}

/// The screen of a group's letters.
#[derive(Clone, Debug, PartialEq)]
pub struct Letters {
    /// The group.
    pub group: Group,
    /// All of its letters; `None` until that was read.
    pub places: Option<LetterSet>,
    /// Of these, the ones that the filter lets through.
    pub shown: LetterSet,
    /// What is on the screen.
    pub list: List,
    /// Those that were read.
    pub rows: Rows<LetterRow>,
}

/// The screen of one letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Which letter.
    pub position: u64,
    /// What there is to read; `None` until it was read.
    pub text: Option<Vec<Line>>,
    /// The same as wide as the screen.
    pub wrapped: Vec<Line>,
    /// The first line on the screen.
    pub top: usize,
}

/// The screen of two letters.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The places of both.
    pub places: (u64, u64),
    /// What they differ in; `None` until that was read.
    pub found: Option<Compared>,
    /// The same as wide as the screen.
    pub rows: Vec<Side>,
    /// The first row on the screen.
    pub top: usize,
}

/// What two letters differ in.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// Their names.
    pub ids: (String, String),
    /// Whether they are of one group.
    pub same_group: bool,
    /// Where they differ.
    pub differences: Vec<crate::deadletter::compare::Difference>,
}

/// The filter: the condition of `--where`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// As it was typed; empty when there is none.
    pub text: String,
    /// How many letters were looked at while it is asked.
    pub looked: Option<u64>,
    /// What it lets through.
    pub found: Option<Filtered>,
}

/// What a filter lets through.
#[derive(Clone, Debug, PartialEq)]
pub struct Filtered {
    /// The letters.
    pub places: LetterSet,
    /// Groups that have any, and how many; the largest first.
    pub groups: Vec<(Fingerprint, u64)>,
    /// For how many letters it could not be decided, and why for the first.
    pub undecided: (u64, Option<String>),
}

impl From<Matches> for Filtered {
    fn from(matches: Matches) -> Filtered {
        let Matches { places, groups, undecided, why_undecided } = matches;
        let mut groups: Vec<(Fingerprint, u64)> = groups.into_iter().collect();
        groups.sort_by_key(|(group, letters)| (std::cmp::Reverse(*letters), *group));
        Filtered { places, groups, undecided: (undecided, why_undecided) }
    }
}

/// The marked letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Their places.
    pub places: LetterSet,
    /// How many of a group are marked, for those groups of which that is known.
    pub in_group: BTreeMap<Fingerprint, u64>,
}

/// What a line at the bottom asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A condition.
    Filter,
    /// Where to write the marked letters; then, whether to leave.
    Path {
        /// Whether to leave once it is written.
        leave: bool,
    },
}

/// A line that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// What for.
    pub ask: Ask,
    /// What was typed before the cursor.
    pub before: String,
    /// And behind it.
    pub after: String,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// Something to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How it is meant.
    pub tone: Tone,
    /// What it says.
    pub text: String,
}

/// How often each list was made up anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) groups: u64,
    pub(super) letters: u64,
    pub(super) filter: u64,
}

/// Everything that the view knows.
#[derive(Clone, Debug)]
pub struct Browse {
    /// The scan.
    pub scan: Scan,
    /// What time it is taken for.
    pub now: Timestamp,
    /// Whether secrets may be shown at all.
    pub can_unmask: bool,
    /// Whether they are shown.
    pub unmask: bool,
    /// Where `p` leads.
    pub hand_over: HandOver,
    /// Whether what is marked is printed however the view is left.
    pub prints: bool,
    /// Columns and rows.
    pub size: (u16, u16),
    /// The screens, the one that is seen last; never empty.
    pub screens: Vec<Screen>,
    /// The groups.
    pub groups: Groups,
    /// The letters of one.
    pub letters: Option<Letters>,
    /// The letter that is read.
    pub reader: Option<Reader>,
    /// The letters that are compared.
    pub pair: Option<Pair>,
    /// The place of the letter that waits for another to be compared with.
    pub anchor: Option<u64>,
    /// The filter.
    pub filter: Filter,
    /// The marks.
    pub marks: Marks,
    /// What is being typed.
    pub input: Option<Input>,
    /// The first line of the help on the screen, while that is shown.
    pub help: Option<usize>,
    /// What there is to say.
    pub note: Option<Note>,
    /// Whether `q` was typed and would lose marks.
    pub(super) leaving: bool,
    /// Whether reading failed, so that nothing is asked again before the next key.
    pub(super) halted: bool,
    /// What belongs to an earlier turn comes too late.
    pub(super) turns: Turns,
    /// Groups whose places are on their way.
    pub(super) counting: BTreeSet<Fingerprint>,
    /// Groups to be marked, or not any more, once their places are there.
    pub(super) to_mark: BTreeSet<Fingerprint>,
    /// Whether a file is being written, and whether the view ends then.
    pub(super) writing: Option<bool>,
}

impl Browse {
    /// The view of a scan with so many groups.
    pub fn new(scan: Scan, groups: u64, now: Timestamp, size: (u16, u16)) -> Browse {
        Browse {
            scan,
            now,
            can_unmask: false,
            unmask: false,
            hand_over: HandOver::Ask,
            prints: false,
            size,
            screens: vec![Screen::Groups],
            groups: Groups { all: groups, ..Groups::default() },
            letters: None,
            reader: None,
            pair: None,
            anchor: None,
            filter: Filter::default(),
            marks: Marks::default(),
            input: None,
            help: None,
            note: None,
            leaving: false,
            halted: false,
            turns: Turns::default(),
            counting: BTreeSet::new(),
            to_mark: BTreeSet::new(),
            writing: None,
        }
    }

    /// The screen that is seen.
    pub fn screen(&self) -> Screen {
        self.screens.last().copied().unwrap_or(Screen::Groups)
    }

    /// Rows that a list has on the screen.
    pub fn height(&self) -> u64 {
        u64::from(self.size.1.saturating_sub(ABOVE + BELOW)).max(1)
    }

    /// Columns of one of two letters that stand beside each other.
    pub fn half(&self) -> usize {
        usize::from(self.size.0.saturating_sub(3) / 2).max(1)
    }

    /// How many groups are shown.
    pub fn group_count(&self) -> u64 {
        self.filter.found.as_ref().map_or(self.groups.all, |found| found.groups.len() as u64)
    }

    /// How many letters of a group the filter lets through, by the group's row.
    pub fn shown_of(&self, row: u64, group: &Group) -> u64 {
        let found = self.filter.found.as_ref();
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        found.map_or(group.letters, |found| found.groups.get(row).map_or(0, |(_, shown)| *shown))
    }

    /// How many letters are shown in all.
    pub fn shown(&self) -> u64 {
        self.filter.found.as_ref().map_or(self.scan.letters, |found| found.places.len())
    }

    /// How many letters of a group are marked; `None` while that is not known.
    pub fn marked_in(&self, group: &Group) -> Option<u64> {
        if self.marks.places.is_empty() {
            return Some(0);
        }
        if self.marks.places.len() == self.scan.letters {
            return Some(group.letters);
        }
        self.marks.in_group.get(&group.group).copied()
    }

    /// A name for the file of marked letters.
    pub fn file_name(&self) -> String {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let queue = self.scan.of.queue.as_str().chars();
        let name: String = queue.map(|c| if fits(c) { c } else { '-' }).take(100).collect();
        let name = name.trim_start_matches(['.', '-']);
        if name.is_empty() { "selection.json".to_owned() } else { format!("{name}.selection.json") }
    }
}
