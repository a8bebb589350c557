//! Putting the messages of each workflow back into order.
//!
//! A message that is the next of its workflow passes at once; one that comes too early is held until
//! those before it have come. How long a gap may stay open and what happens then is a policy:
//!
//! - release: the gap is told and the held messages pass; who comes late afterwards passes as late;
//! - park: the held messages go aside (to a dead-letter queue), and so does every further one until
//!   the missing come; then the workflow goes on. The order is never broken;
//! - hold: everything waits until the missing come.
//!
//! Held messages are bounded by count and bytes. When a bound is reached the policy acts at once on
//! the gap that has been open longest; under hold the message is handed back instead.
//!
//! In good order a message costs one look-up of its workflow and nothing is stored. Held messages are
//! in a B-tree by number, not in a deque by offset: memory follows the messages that are held, never
//! the width of a gap, which a sender chooses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::base::time::{HumanDuration, Timestamp};

use super::sequence::{RangeSet, Start};

/// What happens when a gap does not close in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapPolicy {
    /// Go on without the missing.
    Release,
    /// Put aside what cannot be handled in order.
    Park,
    /// Wait.
    Hold,
}

/// How much and how long to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReorderSettings {
    /// Which number each workflow begins with.
    pub start: Start,
    /// What happens when a gap does not close in time.
    pub policy: GapPolicy,
    /// How long a gap may stay open; means nothing for [`GapPolicy::Hold`].
    pub gap_timeout: Duration,
    /// Messages held at most, over all workflows.
    pub max_messages: usize,
    /// Bytes held at most, over all workflows.
    pub max_bytes: usize,
    /// Workflows at most whose next number is remembered; one that holds nothing is forgotten first.
    pub max_workflows: usize,
}

impl Default for ReorderSettings {
    fn default() -> Self {
        ReorderSettings {
            start: Start::FirstSeen,
            policy: GapPolicy::Release,
            gap_timeout: Duration::from_secs(30),
            max_messages: 10_000,
            max_bytes: 64 << 20,
            max_workflows: 100_000,
        }
    }
}

/// The consumer that feeds the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Messages the broker sends without an ack; 0 for no limit.
    pub prefetch: usize,
    /// After how long the broker takes an unacked message back and closes the channel; `None` when it
    /// never does.
    pub consumer_timeout: Option<Duration>,
}

/// Why settings cannot work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Deadlock {
    /// More can come than can be held.
    #[error(
        "the reorder buffer holds {max_messages} messages and the broker sends {} unacked: a full \
         buffer decides about gaps before they can close; make the buffer at least as large as the \
         prefetch", prefetch_words(*.prefetch)
    )]
    BufferBelowPrefetch {
        /// Messages the buffer holds.
        max_messages: usize,
        /// Messages the broker sends.
        prefetch: usize,
    },
    /// The broker ends the consumer before the gap is decided.
    #[error(
        "a gap may stay open for {}, but the broker takes unacked messages back after {} and closes \
         the channel: every gap would end the consumer and begin anew; make the gap time-out shorter",
        HumanDuration(*.gap), HumanDuration(*.consumer)
    )]
    GapBeyondConsumerTimeout {
        /// How long a gap may stay open.
        gap: Duration,
        /// How long a message may stay unacked.
        consumer: Duration,
    },
    /// The broker ends the consumer, as often as it comes.
    #[error(
        "with the policy hold a gap may stay open forever, but the broker takes unacked messages back \
         after {} and closes the channel; choose release or park", HumanDuration(*.consumer)
    )]
    HoldUnderConsumerTimeout {
        /// How long a message may stay unacked.
        consumer: Duration,
    },
}

fn prefetch_words(prefetch: usize) -> String {
    if prefetch == 0 { "any number".into() } else { prefetch.to_string() }
}

impl ReorderSettings {
    /// Everything that would stop or loop when these settings are fed by `feed`.
    pub fn deadlocks(&self, feed: Feed) -> Vec<Deadlock> {
        let Feed { prefetch, consumer_timeout } = feed;
        let mut found = Vec::new();
        if prefetch == 0 || prefetch > self.max_messages {
            let max_messages = self.max_messages;
            found.push(Deadlock::BufferBelowPrefetch { max_messages, prefetch });
        }
        match (self.policy, consumer_timeout) {
            (GapPolicy::Hold, Some(consumer)) => {
                found.push(Deadlock::HoldUnderConsumerTimeout { consumer });
            }
            (GapPolicy::Release | GapPolicy::Park, Some(consumer))
                if self.gap_timeout >= consumer =>
            {
                let gap = self.gap_timeout;
                found.push(Deadlock::GapBeyondConsumerTimeout { gap, consumer });
            }
            _ => {}
        }
        found
    }
}

/// What comes out of the buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Release<T> {
    /// A message in its turn.
    InOrder(T),
    /// A message whose gap was given up before; those after it have passed.
    Late(T),
    /// A message whose number has passed or is held already.
    Duplicate(T),
    /// A message to put aside: those `missing` before it did not come.
    Parked {
        /// The message.
        item: T,
        /// The numbers that are waited for.
        missing: RangeInclusive<u64>,
    },
    /// There is no room and the policy is to hold: the message is handed back.
    NoRoom(T),
    /// A gap was given up; what follows it passes now.
    GapReleased {
        /// Of this workflow.
        workflow: Arc<str>,
        /// The numbers that did not come.
        missing: RangeInclusive<u64>,
        /// Because of time, or for want of room.
        because: Because,
    },
    /// A workflow begins to park.
    GapParked {
        /// This workflow.
        workflow: Arc<str>,
        /// The numbers that did not come.
        missing: RangeInclusive<u64>,
        /// Because of time, or for want of room.
        because: Because,
    },
    /// A workflow that held nothing was forgotten for want of room. If it goes on, it begins anew.
    Forgotten {
        /// This workflow.
        workflow: Arc<str>,
        /// The number it expected; see [`ReorderBuffer::resume`].
        next: u64,
    },
}

/// Why a gap was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It was open for too long.
    Timeout,
    /// The buffer is full.
    Full,
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Because::Timeout => "it was open for too long",
            Because::Full => "the buffer is full",
        })
    }
}

/// So many gaps of one workflow are remembered after they were given up.
const SKIPPED_RANGES: usize = 1000;

#[derive(Debug)]
struct Held<T> {
    item: T,
    bytes: usize,
}

#[derive(Debug)]
struct Lane<T> {
    next: u64,
    held: BTreeMap<u64, Held<T>>,
    // Since when the gap before the first held message is open.
    gap_since: Option<Timestamp>,
    skipped: RangeSet,
    parking: bool,
    used: u64,
}

/// The messages of all workflows. `T` is whatever the caller needs to handle a message.
#[derive(Debug)]
pub struct ReorderBuffer<T> {
    settings: ReorderSettings,
    lanes: HashMap<Arc<str>, Lane<T>>,
    // Open gaps, the oldest first.
    gaps: BTreeSet<(Timestamp, Arc<str>)>,
    messages: usize,
    bytes: usize,
    uses: u64,
}

impl<T> ReorderBuffer<T> {
    /// An empty buffer that is fed by `feed`; fails with everything that would stop or loop.
    pub fn new(settings: ReorderSettings, feed: Feed) -> Result<Self, Vec<Deadlock>> {
        let deadlocks = settings.deadlocks(feed);
        if !deadlocks.is_empty() {
            return Err(deadlocks);
        }
        Ok(ReorderBuffer {
            settings,
            lanes: HashMap::new(),
            gaps: BTreeSet::new(),
            messages: 0,
            bytes: 0,
            uses: 0,
        })
    }

    /// `workflow` goes on with the number `next`, as it was kept from before. Does nothing to a
    /// workflow that is known, and does not look at the number of workflows.
    pub fn resume(&mut self, workflow: &str, next: u64) {
        if !self.lanes.contains_key(workflow) {
            self.uses += 1;
            self.lanes.insert(workflow.into(), Lane::new(next, self.uses));
        }
    }

    /// The message `number` of `workflow` has come, of `bytes`. What passes by it is added to `out`.
    pub fn push(
        &mut self,
        workflow: &str,
        number: u64,
        item: T,
        bytes: usize,
        now: Timestamp,
        out: &mut Vec<Release<T>>,
    ) {
        self.uses += 1;
        let Some(lane) = self.lanes.get_mut(workflow) else {
            self.forget_idle(out);
            let next = match self.settings.start {
                Start::At(first) => first,
                Start::FirstSeen => number,
            };
            self.lanes.insert(workflow.into(), Lane::new(next, self.uses));
            return self.push(workflow, number, item, bytes, now, out);
        };
        lane.used = self.uses;
        if number == lane.next {
            // Numbers end at 2^64 - 1; that one comes out once and is a duplicate afterwards.
            if number == u64::MAX && !lane.skipped.insert(u64::MAX) {
                return out.push(Release::Duplicate(item));
            }
            lane.next = number.saturating_add(1);
            out.push(Release::InOrder(item));
            lane.parking = false;
            if !lane.held.is_empty() {
                self.drain(workflow, now, out);
            }
            return;
        }
        if number < lane.next {
            let late = lane.skipped.remove(number);
            return out.push(if late { Release::Late(item) } else { Release::Duplicate(item) });
        }
        if lane.held.contains_key(&number) {
            return out.push(Release::Duplicate(item));
        }
        if lane.parking {
            let missing = lane.next..=number - 1;
            return out.push(Release::Parked { item, missing });
        }
        self.hold(workflow, number, item, bytes, now, out);
    }

    /// Decides every gap that has been open for too long at `now`.
    pub fn expire(&mut self, now: Timestamp, out: &mut Vec<Release<T>>) {
        if self.settings.policy == GapPolicy::Hold {
            return;
        }
        while let Some((since, workflow)) = self.gaps.first().cloned() {
            if now.since(since) < self.settings.gap_timeout {
                // A clock that was set back must not keep a gap open: its time starts again.
                if now < since {
                    self.restart_gaps(now);
                }
                return;
            }
            self.decide(&workflow, Because::Timeout, now, out);
        }
    }

    /// When [`ReorderBuffer::expire`] has something to do next. A clock that is set back makes this
    /// too late, so call it once in a gap time-out at least.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        if self.settings.policy == GapPolicy::Hold {
            return None;
        }
        self.gaps.first().map(|(since, _)| since.after(self.settings.gap_timeout))
    }

    /// Hands back everything that is held, in order within each workflow, for a clean stop. What was
    /// expected next stays known.
    pub fn take_held(&mut self) -> Vec<T> {
        self.gaps.clear();
        self.messages = 0;
        self.bytes = 0;
        self.lanes
            .values_mut()
            .flat_map(|lane| {
                lane.gap_since = None;
                std::mem::take(&mut lane.held).into_values().map(|held| held.item)
            })
            .collect()
    }

    /// How many messages are held.
    pub const fn messages(&self) -> usize {
        self.messages
    }

    /// How many bytes are held.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that `workflow` waits for; `None` when it is not known.
    pub fn next(&self, workflow: &str) -> Option<u64> {
        self.lanes.get(workflow).map(|lane| lane.next)
    }

    /// The open gaps: workflow, first missing range, since when, messages held behind it. The oldest
    /// first.
    pub fn open_gaps(
        &self,
    ) -> impl Iterator<Item = (&Arc<str>, RangeInclusive<u64>, Timestamp, usize)> {
        self.gaps.iter().filter_map(|(since, workflow)| {
            let lane = self.lanes.get(workflow)?;
            Some((workflow, lane.missing()?, *since, lane.held.len()))
        })
    }

    /// Holds a message that comes too early, and lets the policy decide about gaps when it is one too
    /// many. It is held first: a gap that is decided now must pass it in its turn.
    fn hold(
        &mut self,
        workflow: &str,
        number: u64,
        item: T,
        bytes: usize,
        now: Timestamp,
        out: &mut Vec<Release<T>>,
    ) {
        let ReorderSettings { max_messages, max_bytes, policy, .. } = self.settings;
        let full = self.messages >= max_messages || self.bytes.saturating_add(bytes) > max_bytes;
        if full && policy == GapPolicy::Hold {
            return out.push(Release::NoRoom(item));
        }
        let Some((key, lane)) = self.lane(workflow) else { return };
        lane.held.insert(number, Held { item, bytes });
        if lane.gap_since.is_none() {
            lane.gap_since = Some(now);
            self.gaps.insert((now, key));
        }
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        while self.messages > max_messages || self.bytes > max_bytes {
            let Some((_, oldest)) = self.gaps.first().cloned() else { break };
            self.decide(&oldest, Because::Full, now, out);
        }
    }

    fn lane(&mut self, workflow: &str) -> Option<(Arc<str>, &mut Lane<T>)> {
        let key = Arc::clone(self.lanes.get_key_value(workflow)?.0);
        Some((key, self.lanes.get_mut(workflow)?))
    }

    /// Lets everything pass that is in its turn now, and opens or closes the gap.
    fn drain(&mut self, workflow: &str, now: Timestamp, out: &mut Vec<Release<T>>) {
        let Some((key, lane)) = self.lane(workflow) else { return };
        let mut count = 0;
        let mut bytes = 0;
        while let Some(entry) = lane.held.first_entry()
            && *entry.key() == lane.next
        {
            let (number, held) = entry.remove_entry();
            count += 1;
            bytes += held.bytes;
            lane.next = number.saturating_add(1);
            if number == u64::MAX {
                lane.skipped.insert(number);
            }
            out.push(Release::InOrder(held.item));
        }
        // What is still held waits behind another gap, whose time begins now.
        let before = lane.gap_since.take();
        let open = !lane.held.is_empty();
        // Unless nothing moved: then it is the same gap, and a flood of repeats must not renew it.
        let since = if count == 0 { before.unwrap_or(now) } else { now };
        lane.gap_since = open.then_some(since);
        if let Some(before) = before {
            self.gaps.remove(&(before, Arc::clone(&key)));
        }
        if open {
            self.gaps.insert((since, key));
        }
        self.messages -= count;
        self.bytes -= bytes;
    }

    /// Applies the policy to the first gap of `workflow`.
    fn decide(
        &mut self,
        workflow: &str,
        because: Because,
        now: Timestamp,
        out: &mut Vec<Release<T>>,
    ) {
        let policy = self.settings.policy;
        let Some((key, lane)) = self.lane(workflow) else { return };
        let Some(missing) = lane.missing() else { return };
        if policy == GapPolicy::Park {
            lane.parking = true;
            let held = std::mem::take(&mut lane.held);
            let since = lane.gap_since.take();
            let next = lane.next;
            out.push(Release::GapParked { workflow: Arc::clone(&key), missing, because });
            self.messages -= held.len();
            for (number, Held { item, bytes }) in held {
                self.bytes -= bytes;
                out.push(Release::Parked { item, missing: next..=number - 1 });
            }
            if let Some(since) = since {
                self.gaps.remove(&(since, key));
            }
            return;
        }
        lane.next = missing.end().saturating_add(1);
        lane.skipped.insert_range(missing.clone());
        while lane.skipped.len() > SKIPPED_RANGES {
            lane.skipped.pop_first();
        }
        out.push(Release::GapReleased { workflow: key, missing, because });
        self.drain(workflow, now, out);
    }

    fn restart_gaps(&mut self, now: Timestamp) {
        let gaps = std::mem::take(&mut self.gaps);
        for (since, workflow) in gaps {
            let since = since.min(now);
            if let Some(lane) = self.lanes.get_mut(&workflow) {
                lane.gap_since = Some(since);
            }
            self.gaps.insert((since, workflow));
        }
    }

    /// Forgets an eighth of the workflows, those without held messages that were used longest ago,
    /// when there are too many. So many at once, because finding them looks at all.
    fn forget_idle(&mut self, out: &mut Vec<Release<T>>) {
        let most = self.settings.max_workflows.max(1);
        if self.lanes.len() < most {
            return;
        }
        // One that parks waits for something, so it is forgotten after the others.
        let mut idle: Vec<(bool, u64, Arc<str>)> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.held.is_empty())
            .map(|(workflow, lane)| (lane.parking, lane.used, Arc::clone(workflow)))
            .collect();
        idle.sort_unstable();
        for (.., workflow) in idle.into_iter().take(most.div_ceil(8)) {
            if let Some(lane) = self.lanes.remove(&workflow) {
                out.push(Release::Forgotten { workflow, next: lane.next });
            }
        }
    }
}

impl<T> Lane<T> {
    fn new(next: u64, used: u64) -> Self {
        Lane {
            next,
            held: BTreeMap::new(),
            gap_since: None,
            skipped: RangeSet::default(),
            parking: false,
            used,
        }
    }

    /// The numbers before the first held message that have not come.
    fn missing(&self) -> Option<RangeInclusive<u64>> {
        let (first, _) = self.held.first_key_value()?;
        Some(self.next..=first.checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_unix_ms(ms)
    }

    const FEED: Feed = Feed { prefetch: 1, consumer_timeout: None };

    fn settings(policy: GapPolicy) -> ReorderSettings {
        ReorderSettings {
            start: Start::At(0),
            policy,
            gap_timeout: Duration::from_millis(100),
            max_messages: 1000,
            max_bytes: 1_000_000,
            max_workflows: 100,
        }
    }

    fn buffer(settings: ReorderSettings) -> ReorderBuffer<u64> {
        ReorderBuffer::new(settings, FEED).expect("settings that work")
    }

    /// Pushes `number` of the workflow "w", as an item of 10 bytes that is its number.
    fn push(buffer: &mut ReorderBuffer<u64>, number: u64, now: i64) -> Vec<Release<u64>> {
        let mut out = Vec::new();
        buffer.push("w", number, number, 10, at(now), &mut out);
        out
    }

    fn expire(buffer: &mut ReorderBuffer<u64>, now: i64) -> Vec<Release<u64>> {
        let mut out = Vec::new();
        buffer.expire(at(now), &mut out);
        out
    }

    fn released(missing: RangeInclusive<u64>, because: Because) -> Release<u64> {
        Release::GapReleased { workflow: "w".into(), missing, because }
    }

    use Release::{Duplicate, InOrder, Late, NoRoom, Parked};

    #[test]
    fn messages_pass_in_order_and_once() {
        let mut buffer = buffer(settings(GapPolicy::Release));
        assert_eq!(push(&mut buffer, 2, 0), []);
        assert_eq!(push(&mut buffer, 0, 1), [InOrder(0)]);
        assert_eq!(push(&mut buffer, 2, 2), [Duplicate(2)]);
        assert_eq!(push(&mut buffer, 1, 3), [InOrder(1), InOrder(2)]);
        assert_eq!(push(&mut buffer, 1, 4), [Duplicate(1)]);
        assert_eq!((buffer.messages(), buffer.bytes()), (0, 0));
        assert_eq!(buffer.next_deadline(), None);
    }

    #[test]
    fn a_gap_that_is_released_is_told_and_the_late_pass_once() {
        let mut buffer = buffer(settings(GapPolicy::Release));
        for number in [0, 3, 5] {
            push(&mut buffer, number, 0);
        }
        assert_eq!(buffer.next_deadline(), Some(at(100)));
        assert_eq!(expire(&mut buffer, 99), []);
        assert_eq!(expire(&mut buffer, 100), [released(1..=2, Because::Timeout), InOrder(3)]);
        // The gap before 5 has its own time.
        assert_eq!(expire(&mut buffer, 199), []);
        assert_eq!(expire(&mut buffer, 200), [released(4..=4, Because::Timeout), InOrder(5)]);
        assert_eq!(push(&mut buffer, 2, 300), [Late(2)]);
        assert_eq!(push(&mut buffer, 2, 300), [Duplicate(2)]);
        assert_eq!(push(&mut buffer, 3, 300), [Duplicate(3)]);
    }

    #[test]
    fn parking_never_breaks_the_order_and_ends_when_the_missing_come() {
        let mut buffer = buffer(settings(GapPolicy::Park));
        for number in [0, 2, 3] {
            push(&mut buffer, number, 0);
        }
        let out = expire(&mut buffer, 100);
        let parked = |item| Parked { item, missing: 1..=item - 1 };
        assert!(matches!(&out[0], Release::GapParked { missing, .. } if *missing == (1..=1)));
        assert_eq!(out[1..], [parked(2), parked(3)]);
        assert_eq!(push(&mut buffer, 4, 101), [parked(4)]);
        assert_eq!(push(&mut buffer, 1, 102), [InOrder(1)]);
        assert_eq!(push(&mut buffer, 3, 103), [], "it may come again from where it was put");
        assert_eq!(push(&mut buffer, 2, 104), [InOrder(2), InOrder(3)]);
        assert_eq!(buffer.next("w"), Some(4));
    }

    #[test]
    fn holding_hands_back_what_has_no_room() {
        let mut buffer = buffer(ReorderSettings { max_messages: 2, ..settings(GapPolicy::Hold) });
        for number in [2, 3] {
            assert_eq!(push(&mut buffer, number, 0), []);
        }
        assert_eq!(push(&mut buffer, 4, 0), [NoRoom(4)]);
        assert_eq!(expire(&mut buffer, 1_000_000), []);
        assert_eq!(push(&mut buffer, 0, 0), [InOrder(0)]);
        assert_eq!(push(&mut buffer, 1, 0), [InOrder(1), InOrder(2), InOrder(3)]);
        assert_eq!(push(&mut buffer, 5, 0), []);
        assert_eq!(buffer.take_held(), [5]);
        assert_eq!((buffer.messages(), buffer.bytes(), buffer.next("w")), (0, 0, Some(4)));
        assert_eq!(push(&mut buffer, 5, 0), [], "handed back is not seen");
    }

    #[test]
    fn a_full_buffer_decides_the_oldest_gap_and_keeps_the_order_of_the_newcomer() {
        let mut buffer =
            buffer(ReorderSettings { max_messages: 2, ..settings(GapPolicy::Release) });
        for number in [9, 8] {
            assert_eq!(push(&mut buffer, number, 0), []);
        }
        let full = released(0..=6, Because::Full);
        assert_eq!(push(&mut buffer, 7, 0), [full, InOrder(7), InOrder(8), InOrder(9)]);
        let mut narrow =
            self::buffer(ReorderSettings { max_bytes: 9, ..settings(GapPolicy::Release) });
        assert_eq!(push(&mut narrow, 1, 0), [released(0..=0, Because::Full), InOrder(1)]);
    }

    #[test]
    fn the_width_of_a_gap_costs_nothing_and_numbers_may_end() {
        let mut buffer = buffer(settings(GapPolicy::Release));
        assert_eq!(push(&mut buffer, u64::MAX, 0), []);
        let gap = released(0..=u64::MAX - 1, Because::Timeout);
        assert_eq!(expire(&mut buffer, 100), [gap, InOrder(u64::MAX)]);
        assert_eq!(push(&mut buffer, u64::MAX, 100), [Duplicate(u64::MAX)]);
        assert_eq!(push(&mut buffer, 7, 100), [Late(7)]);
        let mut last = self::buffer(settings(GapPolicy::Release));
        last.resume("w", u64::MAX);
        assert_eq!(push(&mut last, u64::MAX, 0), [InOrder(u64::MAX)]);
        assert_eq!(push(&mut last, u64::MAX, 0), [Duplicate(u64::MAX)]);
    }

    #[test]
    fn a_clock_set_back_does_not_keep_a_gap_open() {
        let mut buffer = buffer(settings(GapPolicy::Release));
        push(&mut buffer, 1, 1_000_000);
        assert_eq!(expire(&mut buffer, 0), []);
        assert_eq!(buffer.next_deadline(), Some(at(100)));
        assert_eq!(expire(&mut buffer, 100).len(), 2);
    }

    #[test]
    fn workflows_are_independent_and_the_idle_are_forgotten_first() {
        let mut buffer =
            buffer(ReorderSettings { max_workflows: 3, ..settings(GapPolicy::Release) });
        let mut out = Vec::new();
        for (workflow, number) in [("a", 0), ("b", 5), ("c", 0), ("a", 1), ("d", 0)] {
            buffer.push(workflow, number, number, 1, at(0), &mut out);
        }
        let forgotten = Release::Forgotten { workflow: "c".into(), next: 1 };
        assert_eq!(out, [InOrder(0), InOrder(0), InOrder(1), forgotten, InOrder(0)]);
        assert_eq!(buffer.next("c"), None);
        buffer.resume("c", 1);
        buffer.resume("c", 9);
        assert_eq!(buffer.next("c"), Some(1));
        let gaps: Vec<_> = buffer.open_gaps().map(|(w, gap, ..)| (w.to_string(), gap)).collect();
        assert_eq!(gaps, [("b".to_owned(), 0..=4)]);
    }

    #[test]
    fn settings_that_must_stop_or_loop_are_refused_with_the_reason() {
        let feed = |prefetch, timeout_s: Option<u64>| Feed {
            prefetch,
            consumer_timeout: timeout_s.map(Duration::from_secs),
        };
        let half_hour = ReorderSettings {
            gap_timeout: Duration::from_secs(1800),
            max_messages: 100,
            ..ReorderSettings::default()
        };
        assert_eq!(half_hour.deadlocks(feed(100, Some(1801))), []);
        let both =
            ReorderBuffer::<u64>::new(half_hour, feed(500, Some(1800))).expect_err("refused");
        let said: Vec<String> = both.iter().map(ToString::to_string).collect();
        assert!(said[0].contains("holds 100 messages and the broker sends 500"), "{}", said[0]);
        assert!(said[1].contains("open for 30m, but the broker takes"), "{}", said[1]);
        let unlimited = half_hour.deadlocks(feed(0, None));
        assert!(unlimited[0].to_string().contains("sends any number unacked"), "{}", unlimited[0]);
        let hold = ReorderSettings { policy: GapPolicy::Hold, ..half_hour };
        assert_eq!(hold.deadlocks(feed(100, None)), []);
        assert!(
            hold.deadlocks(feed(100, Some(1)))[0].to_string().contains("choose release or park")
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(u8, u64, usize),
        Wait(i64),
        Expire,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u8..3, 0u64..25, 0usize..40).prop_map(|(w, n, b)| Step::Push(w, n, b)),
            2 => (0i64..80).prop_map(Step::Wait),
            2 => Just(Step::Expire),
        ]
    }

    /// What a workflow has seen come out, from which everything that may come next follows.
    #[derive(Default)]
    struct Model {
        // All below have passed or were told to be missing.
        next: u64,
        missing: BTreeSet<u64>,
        held: BTreeSet<u64>,
        parking: bool,
    }

    fn policy() -> impl Strategy<Value = GapPolicy> {
        proptest::sample::select(&[GapPolicy::Release, GapPolicy::Park, GapPolicy::Hold][..])
    }

    proptest! {
        #[test]
        fn every_message_comes_out_once_and_in_its_turn(
            policy in policy(),
            max_messages in 1usize..8,
            max_bytes in 30usize..200,
            steps in proptest::collection::vec(step(), 1..200),
        ) {
            let settings = ReorderSettings { max_messages, max_bytes, ..settings(policy) };
            let mut buffer: ReorderBuffer<(u8, u64, usize)> =
                ReorderBuffer::new(settings, FEED).expect("settings that work");
            let mut models: [Model; 3] = Default::default();
            let mut inside: BTreeSet<usize> = BTreeSet::new();
            let mut now = 0;
            for (id, step) in steps.into_iter().enumerate() {
                let mut out = Vec::new();
                let mut pushed = None;
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Expire => {
                        buffer.expire(at(now), &mut out);
                        prop_assert!(buffer.next_deadline().is_none_or(|then| then > at(now)));
                        for (_, _, since, held) in buffer.open_gaps() {
                            prop_assert!(held > 0);
                            prop_assert!(
                                policy == GapPolicy::Hold || now - since.unix_ms() < 100
                            );
                        }
                    }
                    Step::Push(workflow, number, bytes) => {
                        let model = &models[usize::from(workflow)];
                        pushed = Some((workflow, number, model.next, model.held.contains(&number)));
                        inside.insert(id);
                        let item = (workflow, number, id);
                        buffer.push(&workflow.to_string(), number, item, bytes, at(now), &mut out);
                    }
                }
                let mut came_out = BTreeSet::new();
                for release in &out {
                    let (item, missing) = match release {
                        InOrder(item) | Late(item) | Duplicate(item) | NoRoom(item)
                        | Parked { item, .. } => (Some(*item), None),
                        Release::GapReleased { workflow, missing, .. }
                        | Release::GapParked { workflow, missing, .. } => {
                            (None, Some((workflow.parse::<usize>().expect("a number"), missing)))
                        }
                        Release::Forgotten { .. } => (None, None),
                    };
                    if let Some((workflow, missing)) = missing {
                        let model = &mut models[workflow];
                        prop_assert_eq!(*missing.start(), model.next);
                        if policy == GapPolicy::Release {
                            model.missing.extend(missing.clone());
                            model.next = missing.end() + 1;
                        } else {
                            prop_assert_eq!(policy, GapPolicy::Park);
                            prop_assert!(!model.parking);
                            model.parking = true;
                        }
                        continue;
                    }
                    let Some((workflow, number, id)) = item else { continue };
                    let model = &mut models[usize::from(workflow)];
                    prop_assert!(inside.remove(&id), "{release:?} came out twice");
                    came_out.insert(id);
                    match release {
                        InOrder(_) => {
                            prop_assert_eq!(number, model.next);
                            model.next += 1;
                            model.parking = false;
                            model.held.remove(&number);
                        }
                        Late(_) => {
                            prop_assert!(number < model.next && model.missing.remove(&number));
                        }
                        Duplicate(_) => {
                            let passed = number < model.next && !model.missing.contains(&number);
                            prop_assert!(passed || model.held.contains(&number));
                        }
                        Parked { missing, .. } => {
                            prop_assert!(policy == GapPolicy::Park && model.parking);
                            prop_assert_eq!(missing, &(model.next..=number - 1));
                            model.held.remove(&number);
                        }
                        NoRoom(_) => {
                            prop_assert_eq!(policy, GapPolicy::Hold);
                            let Step::Push(_, _, bytes) = step else { panic!("only a push") };
                            prop_assert!(
                                buffer.messages() == max_messages
                                    || buffer.bytes() + bytes > max_bytes
                            );
                        }
                        _ => {}
                    }
                }
                if let Some((workflow, number, next, held)) = pushed {
                    let stayed = inside.contains(&id);
                    // Who is in turn passes at once; who is behind never stays.
                    prop_assert!(number > next || came_out.contains(&id));
                    prop_assert!(!(held && stayed));
                    if stayed {
                        models[usize::from(workflow)].held.insert(number);
                    }
                }
                prop_assert_eq!(buffer.messages(), inside.len());
                prop_assert!(buffer.messages() <= max_messages && buffer.bytes() <= max_bytes);
                let gaps = models.iter().filter(|model| !model.held.is_empty()).count();
                prop_assert_eq!(buffer.open_gaps().count(), gaps);
            }
            let left: BTreeSet<usize> = buffer.take_held().into_iter().map(|(.., id)| id).collect();
            prop_assert_eq!(left, inside);
        }

        #[test]
        fn any_shuffle_comes_out_sorted(
            numbers in Just((0u64..60).collect::<Vec<_>>()).prop_shuffle(),
            policy in policy(),
        ) {
            let mut buffer = buffer(settings(policy));
            let out: Vec<_> = numbers.iter().flat_map(|n| push(&mut buffer, *n, 0)).collect();
            prop_assert_eq!(out, (0..60).map(InOrder).collect::<Vec<_>>());
        }
    }
}
