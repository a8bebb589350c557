//! Telling a message that was processed from one that comes for the first time.
//!
//! A message is not marked when it is received but claimed, and marked when it is done:
//!
//! ```text
//!          claim                 commit                TTL over
//! unknown -------> claimed -------------------> done ----------> unknown
//!    ^                |
//!    +----------------+  released, lapsed, or its holder is dead
//! ```
//!
//! So a message whose handler died comes again and is processed. The transitions are functions of one
//! [`Entry`] ([`claim`], [`commit`], [`release`]); [`Dedup`] keeps entries in bounded memory, and a
//! store on disk can keep them elsewhere by the same rules.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::time::Timestamp;

/// Who processes a message: a process or a connection, named by whoever can tell whether it lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder(pub Arc<str>);

/// One claim. Never given twice, so that who comes back late cannot speak for another's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClaimId(pub u64);

/// What is known of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Somebody is at it.
    Claimed {
        /// The claim.
        id: ClaimId,
        /// Who.
        holder: Holder,
        /// From then on somebody else may claim it.
        lapses: Timestamp,
    },
    /// It was processed.
    Done {
        /// From then on it is forgotten.
        forgotten: Timestamp,
    },
}

/// Why a key was not claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotClaimed {
    /// It was processed: the message is a duplicate.
    Duplicate,
    /// It is being processed: ask again at `lapses` at the latest.
    InWork {
        /// By whom.
        holder: Holder,
        /// Until when at most.
        lapses: Timestamp,
    },
    /// Every place is taken by work that is not done yet.
    Full,
}

/// The claim has lapsed and the work is, or was, another's: it was done twice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the claim lapsed before the work was done, and somebody else took it over")]
pub struct ClaimLost;

/// Who asks for a key, and until when the claim holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Number of the new claim; not used before.
    pub id: ClaimId,
    /// Who asks.
    pub holder: Holder,
    /// When it is.
    pub now: Timestamp,
    /// For how long the claim holds.
    pub lapse: Duration,
}

/// The entry of a key after `ask`, given the `entry` there is. `dead` tells whether a holder is known
/// to be dead.
pub fn claim(
    entry: Option<&Entry>,
    ask: Ask,
    dead: impl FnOnce(&Holder) -> bool,
) -> Result<Entry, NotClaimed> {
    match entry {
        Some(Entry::Done { forgotten }) if ask.now < *forgotten => Err(NotClaimed::Duplicate),
        Some(Entry::Claimed { holder, lapses, .. }) if ask.now < *lapses && !dead(holder) => {
            Err(NotClaimed::InWork { holder: holder.clone(), lapses: *lapses })
        }
        _ => {
            let Ask { id, holder, now, lapse } = ask;
            Ok(Entry::Claimed { id, holder, lapses: now.after(lapse) })
        }
    }
}

/// The entry of a key after the work of claim `id` was done. A claim that has lapsed still counts
/// while nobody took it over.
pub fn commit(
    entry: Option<&Entry>,
    id: ClaimId,
    now: Timestamp,
    ttl: Duration,
) -> Result<Entry, ClaimLost> {
    match entry {
        Some(Entry::Claimed { id: held, .. }) if *held == id => {
            Ok(Entry::Done { forgotten: now.after(ttl) })
        }
        // Dropped when it had lapsed, and nobody came since.
        None => Ok(Entry::Done { forgotten: now.after(ttl) }),
        Some(Entry::Done { forgotten }) if *forgotten <= now => {
            Ok(Entry::Done { forgotten: now.after(ttl) })
        }
        Some(_) => Err(ClaimLost),
    }
}

/// Whether claim `id` may be given up: the entry is its own.
pub fn release(entry: Option<&Entry>, id: ClaimId) -> bool {
    matches!(entry, Some(Entry::Claimed { id: held, .. }) if *held == id)
}

/// How much and how long to remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupSettings {
    /// For how long a processed key is remembered.
    pub ttl: Duration,
    /// For how long a claim holds.
    pub lapse: Duration,
    /// Keys at most; 0 is taken as 1.
    pub max_keys: usize,
    /// Bytes of keys at most, not counting what each entry costs besides (about 200 bytes).
    pub max_bytes: usize,
}

impl Default for DedupSettings {
    fn default() -> Self {
        DedupSettings {
            ttl: Duration::from_secs(3600),
            lapse: Duration::from_secs(300),
            max_keys: 1_000_000,
            max_bytes: 64 << 20,
        }
    }
}

/// A key and its hash, so that the text is hashed once a call and never when a table grows.
trait Hashed {
    fn parts(&self) -> (u64, &str);
}

impl Hashed for (u64, &str) {
    fn parts(&self) -> (u64, &str) {
        *self
    }
}

impl Hash for dyn Hashed + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.parts().0);
    }
}

impl PartialEq for dyn Hashed + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Hashed + '_ {}

/// The same as it is kept; all places that know a key share its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    hash: u64,
    text: Arc<str>,
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Hashed for Key {
    fn parts(&self) -> (u64, &str) {
        (self.hash, &self.text)
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<'a> Borrow<dyn Hashed + 'a> for Key {
    fn borrow(&self) -> &(dyn Hashed + 'a) {
        self
    }
}

/// Hands on the hash that a key carries.
#[derive(Clone, Copy, Debug, Default)]
struct Carried(u64);

impl Hasher for Carried {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Table = HashMap<Key, Entry, BuildHasherDefault<Carried>>;

/// Keys in memory.
///
/// A check is one look-up in a hash table. Beside it stand two indexes that are touched only when
/// something changes: claims by number (few, since they are in flight) and processed keys in the
/// order in which they are forgotten, a queue because the TTL is the same for all.
#[derive(Clone, Debug)]
pub struct Dedup {
    settings: DedupSettings,
    hashing: RandomState,
    entries: Table,
    claims: BTreeMap<ClaimId, Key>,
    done: VecDeque<(Timestamp, Key)>,
    bytes: usize,
    next_id: u64,
    forgotten_early: u64,
}

impl Dedup {
    /// Nothing is known.
    pub fn new(settings: DedupSettings) -> Self {
        Dedup {
            settings,
            hashing: RandomState::new(),
            entries: Table::default(),
            claims: BTreeMap::new(),
            done: VecDeque::new(),
            bytes: 0,
            next_id: 0,
            forgotten_early: 0,
        }
    }

    /// Claims `key` for `holder` at `now`.
    pub fn claim(
        &mut self,
        key: &str,
        holder: &Holder,
        now: Timestamp,
    ) -> Result<ClaimId, NotClaimed> {
        let hashed = (self.hashing.hash_one(key), key);
        // The frequent answer first: a look-up and nothing else.
        let known = self.entries.get(&hashed as &dyn Hashed);
        if let Some(Entry::Done { forgotten }) = known
            && now < *forgotten
        {
            return Err(NotClaimed::Duplicate);
        }
        let id = ClaimId(self.next_id);
        let ask = Ask { id, holder: holder.clone(), now, lapse: self.settings.lapse };
        let entry = claim(known, ask, |_| false)?;
        if known.is_some() {
            self.drop_key(&hashed);
        }
        self.make_room(key.len(), now)?;
        self.next_id += 1;
        self.insert(Key { hash: hashed.0, text: key.into() }, entry);
        Ok(id)
    }

    /// The work of a claim on `key` is done.
    pub fn commit(&mut self, key: &str, id: ClaimId, now: Timestamp) -> Result<(), ClaimLost> {
        let hashed = (self.hashing.hash_one(key), key);
        self.forget_what_is_over(now);
        let known = self.entries.get_mut(&hashed as &dyn Hashed);
        let entry = commit(known.as_deref(), id, now, self.settings.ttl)?;
        if let Some(known @ Entry::Claimed { .. }) = known
            && let Some(key) = self.claims.remove(&id)
        {
            *known = entry;
            self.done.push_back((now.after(self.settings.ttl), key));
            self.trim();
            return Ok(());
        }
        // The claim was dropped meanwhile, so there may be no place; the key is then remembered at the
        // expense of the oldest, or not at all among nothing but claims.
        self.drop_key(&hashed);
        if self.make_room(key.len(), now).is_ok() {
            self.insert(Key { hash: hashed.0, text: key.into() }, entry);
        } else {
            self.forgotten_early += 1;
        }
        Ok(())
    }

    /// The work of a claim on `key` was not done; the next one may claim it at once.
    pub fn release(&mut self, key: &str, id: ClaimId) {
        let hashed = (self.hashing.hash_one(key), key);
        if release(self.entries.get(&hashed as &dyn Hashed), id) {
            self.drop_key(&hashed);
        }
    }

    /// All claims of `holder` lapse now; returns how many.
    pub fn holder_died(&mut self, holder: &Holder) -> usize {
        let held: Vec<Key> = self
            .claims
            .values()
            .filter(|key| {
                matches!(self.entries.get(*key), Some(Entry::Claimed { holder: of, .. }) if of == holder)
            })
            .cloned()
            .collect();
        for key in &held {
            self.drop_key(key);
        }
        held.len()
    }

    /// How many keys are remembered, including some that nobody asked for since their time was over.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many processed keys were forgotten before their time for want of room: their duplicates
    /// would pass.
    pub const fn forgotten_early(&self) -> u64 {
        self.forgotten_early
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.bytes += key.len();
        match &entry {
            Entry::Claimed { id, .. } => {
                self.claims.insert(*id, key.clone());
            }
            Entry::Done { forgotten } => self.done.push_back((*forgotten, key.clone())),
        }
        self.entries.insert(key, entry);
        self.trim();
    }

    /// Behind the front, what is over stays in the queue only after a clock was set back.
    fn trim(&mut self) {
        if self.done.len() > 2 * self.entries.len() + 16 {
            let entries = &self.entries;
            self.done.retain(|(forgotten, key)| is_current(entries, *forgotten, key));
        }
    }

    /// Takes a key out. What the queue of processed keys still says of it is skipped later.
    fn drop_key(&mut self, key: &dyn Hashed) {
        let Some((key, entry)) = self.entries.remove_entry(key) else { return };
        self.bytes -= key.len();
        if let Entry::Claimed { id, .. } = entry {
            self.claims.remove(&id);
        }
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        while self.done.front().is_some_and(|(forgotten, _)| *forgotten <= now) {
            self.forget_oldest(now);
        }
    }

    fn forget_oldest(&mut self, now: Timestamp) {
        if let Some((forgotten, key)) = self.done.pop_front()
            && is_current(&self.entries, forgotten, &key)
        {
            self.drop_key(&key);
            self.forgotten_early += u64::from(now < forgotten);
        }
    }

    /// Forgets what is over, and what is oldest until there is room for a key of `bytes`.
    fn make_room(&mut self, bytes: usize, now: Timestamp) -> Result<(), NotClaimed> {
        self.forget_what_is_over(now);
        while self.is_full(bytes) && !self.done.is_empty() {
            self.forget_oldest(now);
        }
        if !self.is_full(bytes) {
            return Ok(());
        }
        // Nothing but claims. Those that have lapsed may go: the first claims lapse first.
        while let Some((_, key)) = self.claims.first_key_value() {
            let lapsed = matches!(
                self.entries.get(key), Some(Entry::Claimed { lapses, .. }) if *lapses <= now
            );
            if !lapsed {
                break;
            }
            let key = key.clone();
            self.drop_key(&key);
            if !self.is_full(bytes) {
                return Ok(());
            }
        }
        Err(NotClaimed::Full)
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.entries.len() >= self.settings.max_keys.max(1)
            || self.bytes.saturating_add(bytes) > self.settings.max_bytes
    }
}

/// Whether the queue of processed keys still says what the table says.
fn is_current(entries: &Table, forgotten: Timestamp, key: &Key) -> bool {
    matches!(entries.get(key), Some(Entry::Done { forgotten: of }) if *of == forgotten)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    fn holder(name: &str) -> Holder {
        Holder(name.into())
    }

    fn dedup(max_keys: usize, max_bytes: usize) -> Dedup {
        Dedup::new(DedupSettings {
            ttl: Duration::from_millis(1000),
            lapse: Duration::from_millis(100),
            max_keys,
            max_bytes,
        })
    }

    #[test]
    fn a_message_is_processed_once_and_again_when_it_is_forgotten() {
        let mut dedup = dedup(10, 1000);
        let me = holder("a");
        let id = dedup.claim("m", &me, at(0)).expect("new");
        let in_work = NotClaimed::InWork { holder: me.clone(), lapses: at(100) };
        assert_eq!(dedup.claim("m", &holder("b"), at(99)), Err(in_work));
        dedup.commit("m", id, at(50)).expect("in time");
        assert_eq!(dedup.claim("m", &me, at(1049)), Err(NotClaimed::Duplicate));
        assert!(dedup.claim("m", &me, at(1050)).is_ok());
    }

    #[test]
    fn a_claim_lapses_by_time_by_death_and_by_release() {
        let mut dedup = dedup(10, 1000);
        let (a, b) = (holder("a"), holder("b"));
        let lost = dedup.claim("m", &a, at(0)).expect("new");
        let taken = dedup.claim("m", &b, at(100)).expect("lapsed");
        assert_eq!(dedup.commit("m", lost, at(101)), Err(ClaimLost));
        dedup.release("m", lost);
        assert!(matches!(dedup.claim("m", &a, at(101)), Err(NotClaimed::InWork { .. })));
        dedup.release("m", taken);
        dedup.claim("m", &a, at(102)).expect("released");
        dedup.claim("n", &a, at(102)).expect("new");
        dedup.claim("o", &b, at(102)).expect("new");
        assert_eq!(dedup.holder_died(&a), 2);
        assert_eq!(dedup.len(), 1);
        assert!(dedup.claim("m", &b, at(103)).is_ok());
    }

    #[test]
    fn work_that_took_too_long_counts_while_nobody_took_it_over() {
        let mut dedup = dedup(10, 1000);
        let id = dedup.claim("m", &holder("a"), at(0)).expect("new");
        assert_eq!(dedup.commit("m", id, at(5000)), Ok(()));
        assert_eq!(dedup.claim("m", &holder("b"), at(5001)), Err(NotClaimed::Duplicate));
    }

    #[test]
    fn the_dead_are_asked_for_only_when_it_matters() {
        let entry = Entry::Claimed { id: ClaimId(0), holder: holder("a"), lapses: at(100) };
        let ask = |now: i64| Ask {
            id: ClaimId(1),
            holder: holder("b"),
            now: at(now),
            lapse: Duration::from_millis(5),
        };
        let new =
            |now: i64| Entry::Claimed { id: ClaimId(1), holder: holder("b"), lapses: at(now + 5) };
        assert_eq!(claim(Some(&entry), ask(50), |_| true), Ok(new(50)));
        assert!(claim(Some(&entry), ask(50), |_| false).is_err());
        assert_eq!(claim(Some(&entry), ask(100), |_| panic!("it has lapsed")), Ok(new(100)));
        assert_eq!(claim(None, ask(0), |_| panic!("there is nobody")), Ok(new(0)));
    }

    #[test]
    fn when_it_is_full_the_oldest_processed_key_goes_and_a_claim_never() {
        let mut dedup = dedup(3, 1000);
        let me = holder("a");
        for key in ["1", "2"] {
            let id = dedup.claim(key, &me, at(0)).expect("room");
            dedup.commit(key, id, at(0)).expect("held");
        }
        dedup.claim("3", &me, at(1)).expect("room");
        dedup.claim("4", &me, at(1)).expect("in place of 1");
        assert_eq!(dedup.forgotten_early(), 1);
        assert_eq!(dedup.claim("2", &me, at(1)), Err(NotClaimed::Duplicate));
        dedup.claim("5", &me, at(2)).expect("in place of 2");
        assert_eq!(dedup.claim("6", &me, at(2)), Err(NotClaimed::Full));
        assert_eq!(dedup.claim("6", &me, at(101)).map(|_| ()), Ok(()), "3 and 4 have lapsed");
        assert_eq!(dedup.forgotten_early(), 2);
        let mut narrow = self::dedup(100, 10);
        narrow.claim("123456", &me, at(0)).expect("room");
        assert_eq!(narrow.claim("12345", &me, at(0)), Err(NotClaimed::Full));
        assert!(narrow.claim("1234", &me, at(0)).is_ok());
    }

    #[test]
    fn a_million_keys_cost_bounded_memory_and_the_queue_does_not_grow_with_repeats() {
        let mut dedup = dedup(100, 10_000);
        let me = holder("a");
        for round in 0..5000i64 {
            let key = format!("{}", round % 7);
            // Forgotten and processed again, over and over.
            let id = dedup.claim(&key, &me, at(round * 1000)).expect("forgotten");
            dedup.commit(&key, id, at(round * 1000)).expect("held");
            assert!(dedup.done.len() <= 8 && dedup.claims.is_empty() && dedup.len() <= 7);
        }
        // The same after the clock was set back by a day.
        for round in 5000..10_000i64 {
            let now = at((round - 86_400) * 1000);
            let key = format!("x{}", round % 7);
            let id = dedup.claim(&key, &me, now).expect("forgotten");
            dedup.commit(&key, id, now).expect("held");
            assert!(dedup.done.len() <= 60 && dedup.len() <= 14, "{}", dedup.done.len());
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Claim(u8, u8),
        Commit(usize),
        Release(usize),
        Die(u8),
        Wait(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u8..6, 0u8..3).prop_map(|(key, holder)| Step::Claim(key, holder)),
            4 => (0usize..8).prop_map(Step::Commit),
            1 => (0usize..8).prop_map(Step::Release),
            1 => (0u8..3).prop_map(Step::Die),
            3 => (0i64..400).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// The history of every key, searched from its end.
        #[test]
        fn it_agrees_with_the_history(steps in proptest::collection::vec(step(), 1..200)) {
            #[derive(Clone, Copy, Debug, PartialEq)]
            enum Event { Claimed(ClaimId, u8, i64), Committed(i64), Ended }
            let mut real = dedup(usize::MAX, usize::MAX);
            let mut history: Vec<(u8, Event)> = Vec::new();
            let mut given: Vec<(u8, ClaimId)> = Vec::new();
            let mut now = 0;
            let last = |history: &[(u8, Event)], key: u8| {
                history.iter().rev().find(|(of, _)| *of == key).map(|(_, event)| *event)
            };
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Claim(key, who) => {
                        let free = match last(&history, key) {
                            Some(Event::Claimed(_, _, since)) => now - since >= 100,
                            Some(Event::Committed(since)) => now - since >= 1000,
                            Some(Event::Ended) | None => true,
                        };
                        let claimed = real.claim(&key.to_string(), &holder(&who.to_string()), at(now));
                        prop_assert_eq!(claimed.is_ok(), free, "{:?}", &claimed);
                        if let Ok(id) = claimed {
                            prop_assert!(given.iter().all(|(_, other)| *other != id));
                            given.push((key, id));
                            history.push((key, Event::Claimed(id, who, now)));
                        }
                    }
                    Step::Commit(which) => {
                        let Some((key, id)) = given.get(which).copied() else { continue };
                        let counts = match last(&history, key) {
                            Some(Event::Claimed(held, ..)) => held == id,
                            Some(Event::Committed(since)) => now - since >= 1000,
                            Some(Event::Ended) | None => true,
                        };
                        let committed = real.commit(&key.to_string(), id, at(now));
                        prop_assert_eq!(committed.is_ok(), counts);
                        if counts {
                            history.push((key, Event::Committed(now)));
                        }
                    }
                    Step::Release(which) => {
                        let Some((key, id)) = given.get(which).copied() else { continue };
                        real.release(&key.to_string(), id);
                        if matches!(last(&history, key), Some(Event::Claimed(held, ..)) if held == id) {
                            history.push((key, Event::Ended));
                        }
                    }
                    Step::Die(who) => {
                        let mut expected = 0;
                        for key in 0..6 {
                            if matches!(last(&history, key), Some(Event::Claimed(_, of, _)) if of == who) {
                                history.push((key, Event::Ended));
                                expected += 1;
                            }
                        }
                        prop_assert_eq!(real.holder_died(&holder(&who.to_string())), expected);
                    }
                }
            }
        }

        #[test]
        fn bounds_hold_and_a_claim_is_never_forgotten_before_it_lapses(
            max_keys in 1usize..5,
            max_bytes in 2usize..12,
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let mut real = dedup(max_keys, max_bytes);
            let mut open: Vec<(String, ClaimId, i64)> = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Claim(key, who) => {
                        let key = "k".repeat(usize::from(key) + 1);
                        let held = open.iter().any(|(of, _, since)| *of == key && now - since < 100);
                        let claimed = real.claim(&key, &holder(&who.to_string()), at(now));
                        prop_assert!(!held || claimed.is_err());
                        if let Ok(id) = claimed {
                            open.push((key, id, now));
                        }
                    }
                    Step::Commit(which) if which < open.len() => {
                        let (key, id, since) = open.remove(which);
                        let in_time = now - since < 100;
                        prop_assert!(real.commit(&key, id, at(now)).is_ok() || !in_time);
                    }
                    Step::Release(which) if which < open.len() => {
                        let (key, id, _) = open.remove(which);
                        real.release(&key, id);
                    }
                    Step::Commit(_) | Step::Release(_) | Step::Die(_) => {}
                }
                let bytes: usize = real.entries.keys().map(|key| key.len()).sum();
                prop_assert_eq!(bytes, real.bytes);
                prop_assert!(real.len() <= max_keys && bytes <= max_bytes);
                let claimed =
                    real.entries.values().filter(|e| matches!(e, Entry::Claimed { .. })).count();
                prop_assert_eq!(claimed, real.claims.len());
            }
        }
    }
}
