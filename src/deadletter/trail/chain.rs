//! Entries of the trail, their seals, and whether a chain of them is whole. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::base::time::Timestamp;

/// The seal that the first entry follows.
pub const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Noun {
    /// A queue.
    Queue,
    /// A run.
    Run,
    /// A plan.
    Plan,
    /// A scan.
    Scan,
    /// A letter.
    Letter,
    /// A file.
    File,
}

impl Noun {
    /// The noun as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Noun::Queue => "queue",
            Noun::Run => "run",
            Noun::Plan => "plan",
            Noun::Scan => "scan",
            Noun::Letter => "letter",
            Noun::File => "file",
        }
    }
}

/// What is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEntry {
    /// When it was done.
    pub at: Timestamp,
    /// Who did it.
    pub who: String,
    /// What was done: `replay begun`, `scan forgotten`.
    pub what: String,
    /// What kind of thing it was done to.
    pub noun: Noun,
    /// The name of that thing.
    pub object: String,
    /// The queue it concerns.
    pub queue: Option<String>,
    /// The run it belongs to.
    pub run: Option<String>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
    /// What else to know.
    pub details: Value,
}

/// An entry as it stands in the trail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub sequence: u64,
    /// When it was done.
    pub at: Timestamp,
    /// Who did it.
    pub who: String,
    /// What was done.
    pub what: String,
    /// What kind of thing it was done to.
    pub noun: Noun,
    /// The name of that thing.
    pub object: String,
    /// The queue it concerns.
    pub queue: Option<String>,
    /// The run it belongs to.
    pub run: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// What else to know.
    pub details: Value,
    /// The seal of the entry before.
    pub previous: String,
}

/// An entry as it is written: its canonical text, and the seal of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its number.
    pub sequence: u64,
    /// Its canonical JSON, the seal before it included.
    pub text: String,
    /// Its seal: the SHA-256 of the text, in hexadecimal digits.
    pub hash: String,
}

/// JSON in one spelling only: keys sorted, no blanks.
fn canonical(value: &Value, into: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(&String, &Value)> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            into.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                into.push_str(&Value::from(key.as_str()).to_string());
                into.push(':');
                canonical(value, into);
            }
            into.push('}');
        }
        Value::Array(items) => {
            into.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    into.push(',');
                }
                canonical(item, into);
            }
            into.push(']');
        }
        plain => into.push_str(&plain.to_string()),
    }
}

/// The seal of a text.
pub fn seal_of(text: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Whether `text` can be a seal.
pub fn is_seal(text: &str) -> bool {
    text.len() == GENESIS.len() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

impl NewEntry {
    /// The entry as number `sequence` behind the one whose seal is `previous`.
    pub fn seal(&self, sequence: u64, previous: &str) -> Sealed {
        let NewEntry { at, who, what, noun, object, queue, run, reason, details } = self;
        let entry = serde_json::json!({
            "sequence": sequence,
            "at": at.to_string(),
            "who": who,
            "what": what,
            "noun": noun.as_str(),
            "object": object,
            "queue": queue,
            "run": run,
            "reason": reason,
            "details": details,
            "previous": previous,
        });
        let mut text = String::new();
        canonical(&entry, &mut text);
        Sealed { sequence, hash: seal_of(&text), text }
    }
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The entry or its seal is not what was written.
    Changed,
    /// Entries are not there, up to this number.
    Missing {
        /// The last of them.
        to: u64,
    },
    /// The entry is whole, and was written with another number.
    Moved {
        /// This one.
        written_as: u64,
    },
    /// The entry is whole, and follows another than the one before it: that one was sealed anew, or put
    /// in the place of another.
    Rewritten,
    /// Entries from here on were taken away: so many were written, or somebody noted a seal that is not
    /// there.
    CutOff {
        /// The last that is known to have been written; `None` when only the noted seal tells.
        to: Option<u64>,
    },
}

impl Damage {
    /// The damage as a word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Damage::Changed => "changed",
            Damage::Missing { .. } => "missing",
            Damage::Moved { .. } => "reordered",
            Damage::Rewritten => "rewritten",
            Damage::CutOff { .. } => "cut off",
        }
    }
}

/// The first place at which a chain is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The number there.
    pub at: u64,
    /// What is wrong.
    pub damage: Damage,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.at;
        match &self.damage {
            Damage::Changed => write!(f, "entry {at} is not what was written"),
            Damage::Missing { to } if *to == at => write!(f, "entry {at} is missing"),
            Damage::Missing { to } => write!(f, "entries {at} to {to} are missing"),
            Damage::Moved { written_as } => write!(
                f,
                "entry {written_as} stands at place {at}: entries were put in another order, or one \
                 before it was taken out"
            ),
            Damage::Rewritten => write!(
                f,
                "entry {at} does not follow the one before it: that one was written anew, or put in \
                 the place of another"
            ),
            Damage::CutOff { to: Some(to) } if *to == at => {
                write!(f, "the end is cut off: entry {at} was written and is gone")
            }
            Damage::CutOff { to: Some(to) } => {
                write!(f, "the end is cut off: entries {at} to {to} were written and are gone")
            }
            Damage::CutOff { to: None } => write!(
                f,
                "no entry has the seal that was noted: the end was cut off before entry {at}, or all \
                 was written anew"
            ),
        }
    }
}

/// What a walk along a chain came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Entries that are in order.
    pub entries: u64,
    /// The seal of the last of them; [`GENESIS`] when there is none.
    pub head: String,
    /// The number of the entry with the noted seal; 0 when it is that of an empty chain.
    pub noted_at: Option<u64>,
    /// The first thing that is wrong.
    pub broken: Option<Broken>,
}

/// Walks along a chain, entry by entry, and keeps no entry.
#[derive(Clone, Debug)]
pub struct Walk {
    verdict: Verdict,
    noted: Option<String>,
}

impl Walk {
    /// At the beginning; `noted` is a seal that somebody kept elsewhere.
    pub fn new(noted: Option<&str>) -> Walk {
        let noted_at = (noted == Some(GENESIS)).then_some(0);
        let head = GENESIS.to_owned();
        Walk {
            verdict: Verdict { entries: 0, head, noted_at, broken: None },
            noted: noted.map(str::to_owned),
        }
    }

    /// Takes the entry that is kept next, by its number. Whether it is in order; after one that is not
    /// the walk is over.
    pub fn step(&mut self, number: i64, text: &str, hash: &str) -> bool {
        if self.verdict.broken.is_some() {
            return false;
        }
        let next = self.verdict.entries + 1;
        let damage = self.damage(next, u64::try_from(number).unwrap_or(0), text, hash);
        if let Some(damage) = damage {
            self.verdict.broken = Some(Broken { at: next, damage });
            return false;
        }
        self.verdict.entries = next;
        hash.clone_into(&mut self.verdict.head);
        if self.noted.as_deref() == Some(hash) {
            self.verdict.noted_at = Some(next);
        }
        true
    }

    fn damage(&self, next: u64, number: u64, text: &str, hash: &str) -> Option<Damage> {
        if number > next {
            return Some(Damage::Missing { to: number - 1 });
        }
        let entry = serde_json::from_str::<Entry>(text).ok().filter(|_| seal_of(text) == hash);
        let Some(entry) = entry.filter(|_| number == next) else { return Some(Damage::Changed) };
        if entry.sequence != next {
            return Some(Damage::Moved { written_as: entry.sequence });
        }
        (entry.previous != self.verdict.head).then_some(Damage::Rewritten)
    }

    /// At the end of what is kept; `written` is the highest number that is known to have been given.
    pub fn end(self, written: u64) -> Verdict {
        let Walk { mut verdict, noted } = self;
        if verdict.broken.is_some() {
            return verdict;
        }
        let at = verdict.entries + 1;
        let to = (written > verdict.entries).then_some(written);
        if to.is_some() || noted.is_some() && verdict.noted_at.is_none() {
            verdict.broken = Some(Broken { at, damage: Damage::CutOff { to } });
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn entry(n: u64) -> NewEntry {
        NewEntry {
            at: Timestamp::from_unix_ms(1_700_000_000_000 + n.cast_signed()),
            who: "me".to_owned(),
            what: "replay begun".to_owned(),
            noun: Noun::Run,
            object: format!("r{n}"),
            queue: Some("dead".to_owned()),
            run: Some(format!("r{n}")),
            reason: None,
            details: json!({"b": n, "a": {"z": 1, "y": [1, {"q": 2, "p": null}]}}),
        }
    }

    fn chain(many: u64) -> Vec<(i64, String, String)> {
        let mut previous = GENESIS.to_owned();
        (1..=many)
            .map(|n| {
                let sealed = entry(n).seal(n, &previous);
                previous.clone_from(&sealed.hash);
                (n.cast_signed(), sealed.text, sealed.hash)
            })
            .collect()
    }

    fn walk(rows: &[(i64, String, String)], noted: Option<&str>, written: u64) -> Verdict {
        let mut walk = Walk::new(noted);
        for (number, text, hash) in rows {
            if !walk.step(*number, text, hash) {
                break;
            }
        }
        walk.end(written)
    }

    #[test]
    fn an_entry_has_one_spelling() {
        let mut other = entry(1);
        other.details = json!({"a": {"y": [1, {"p": null, "q": 2}], "z": 1}, "b": 1});
        assert_eq!(entry(1).seal(1, GENESIS), other.seal(1, GENESIS));
        let text = entry(1).seal(1, GENESIS).text;
        let begins = r#"{"at":"2023-11-14T22:13:20.001Z","details":{"a":{"y":[1,{"p":null,"q":2}],"z":1},"b":1},"noun":"run""#;
        assert!(text.starts_with(begins), "{text}");
        // Against another implementation: printf %s abc | sha256sum
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(seal_of("abc"), known);
        assert!(is_seal(known) && is_seal(GENESIS) && !is_seal("abc"));
    }

    #[test]
    fn each_kind_of_damage_is_told_from_the_others() {
        let whole = chain(5);
        let head = &whole[4].2;
        let found = |rows: &[_], noted: Option<&str>, written| {
            walk(rows, noted, written).broken.map(|b| (b.at, b.damage))
        };
        assert_eq!(found(&whole, Some(head), 5), None);
        assert_eq!(found(&[], None, 0), None);
        let mut changed = whole.clone();
        changed[2].1 = changed[2].1.replace("\"me\"", "\"you\"");
        assert_eq!(found(&changed, None, 5), Some((3, Damage::Changed)));
        // With a seal of its own it is the next that does not fit, or the head that was noted.
        changed[2].2 = seal_of(&changed[2].1);
        assert_eq!(found(&changed, None, 5), Some((4, Damage::Rewritten)));
        let mut last = whole.clone();
        last[4].1 = last[4].1.replace("\"me\"", "\"you\"");
        last[4].2 = seal_of(&last[4].1);
        assert_eq!(found(&last, None, 5), None);
        assert_eq!(found(&last, Some(head), 5), Some((6, Damage::CutOff { to: None })));
        let mut missing = whole.clone();
        missing.drain(1..3);
        assert_eq!(found(&missing, None, 5), Some((2, Damage::Missing { to: 3 })));
        let mut moved = whole.clone();
        moved[1].0 = 3;
        moved[2].0 = 2;
        moved.swap(1, 2);
        assert_eq!(found(&moved, None, 5), Some((2, Damage::Moved { written_as: 3 })));
        assert_eq!(found(&whole[..3], None, 5), Some((4, Damage::CutOff { to: Some(5) })));
        assert_eq!(found(&whole[..3], Some(head), 3), Some((4, Damage::CutOff { to: None })));
        let mut early = whole.clone();
        early[0].0 = 0;
        assert_eq!(found(&early, None, 5), Some((1, Damage::Changed)));
        assert_eq!(walk(&whole, Some(&whole[1].2), 5).noted_at, Some(2));
        assert_eq!(walk(&whole, Some(GENESIS), 5).noted_at, Some(0));
    }

    proptest! {
        /// One letter of one entry, or one digit of its seal, is never changed unseen.
        #[test]
        fn no_single_change_goes_unseen(at in 0usize..6, in_hash: bool, place: prop::sample::Index) {
            let mut rows = chain(6);
            let noted = rows[5].2.clone();
            let text = if in_hash { &mut rows[at].2 } else { &mut rows[at].1 };
            let place = place.index(text.len());
            let with = if text.as_bytes()[place] == b'7' { "8" } else { "7" };
            text.replace_range(place..=place, with);
            let verdict = walk(&rows, Some(&noted), 6);
            prop_assert_eq!(verdict.broken, Some(Broken { at: at as u64 + 1, damage: Damage::Changed }));
        }

        /// No entry goes away, and no two change places, unseen.
        #[test]
        fn no_entry_goes_or_moves_unseen(one in 0usize..6, other in 0usize..6, gone: bool) {
            prop_assume!(one != other);
            let mut rows = chain(6);
            if gone {
                rows.remove(one);
            } else {
                let (a, b) = (rows[one].clone(), rows[other].clone());
                (rows[one].1, rows[one].2) = (b.1, b.2);
                (rows[other].1, rows[other].2) = (a.1, a.2);
            }
            let verdict = walk(&rows, None, 6);
            let broken = verdict.broken.unwrap();
            let first = if gone { one } else { one.min(other) };
            prop_assert_eq!(broken.at, first as u64 + 1);
        }
    }
}
