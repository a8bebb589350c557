//! The replay of one queue as a machine of values: what has happened goes in, what is to be done comes
//! out.
//!
//! Pure. The rules, and `tests.rs` explores all that can happen under them:
//!
//! - A letter is published only after its intent is in the journal, in the order of the queue, and no
//!   more than `window` of them are out whose acks the broker has not taken.
//! - A letter is acked only after its copy is confirmed, the journal says so, and every letter before it
//!   is decided. What a crash gives back is then the rest of the line, in order.
//! - The newest intent stays an intent until a newer one is in the journal, or the run ends. So there is
//!   always a letter that is certainly still in the queue, behind everything that was acked: by it a
//!   resumed run knows which of the letters it meets are older ([`super::recall`]).
//! - What is not to go, is returned, refused or in doubt is held, and goes back to its place when the
//!   consumer closes. Nothing is ever put back singly.
//! - Where letters are copied only, a confirmed one is held as well. Where there is a queue for the rest,
//!   what would be held goes there instead, by the same rules.

use std::collections::{BTreeSet, VecDeque};

use crate::broker::{DeliveryTag, Settlement};
use crate::deadletter::letter::LetterId;

/// Place of a letter in its run, from 1, in the order of the queue.
pub type Position = u64;

/// How far the order is kept when a letter cannot go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The others go on.
    None,
    /// The run stops; those of the window that are out already are not held up.
    Queue,
    /// The run stops, and no letter is out before the one ahead of it is confirmed.
    Strict,
    /// Those of its lane stay too, and no letter is out before the one of its lane that is ahead of it is
    /// confirmed. Other lanes go on.
    Key,
}

/// What a run keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules {
    /// How many letters may be out without an ack that the broker has taken.
    pub window: u64,
    /// How many deliveries may be unsettled at once.
    pub prefetch: u64,
    /// How many letters are looked at, at most: those that wait when it begins.
    pub watermark: u64,
    /// How many letters are replayed, at most; those of earlier attempts do not count again.
    pub first: Option<u64>,
    /// Whether there was an attempt before: then what it had taken may come again, beside those.
    pub is_resumed: bool,
    /// What a refusal means for the others.
    pub order: Order,
    /// How often a letter may have been replayed before it is put aside.
    pub max_replays: u64,
    /// Whether there is a place where such letters are put aside; else they stay.
    pub parks: bool,
    /// Whether a letter stays when its copy is confirmed.
    pub keeps: bool,
    /// Whether there is a queue for what would otherwise stay. Then letters that could not go come behind
    /// those that were out with them, and what a refusal stops is the way to the target, not the run.
    pub rests: bool,
    /// Whether the way to the target is closed from the beginning, by a refusal in an earlier attempt.
    pub is_diverted: bool,
    /// Whether acks take nothing away, as in a stream: then nothing is held, whatever stays.
    pub passes: bool,
}

/// A letter that a journal knows from an earlier attempt of the same run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Known {
    /// Its place.
    pub position: Position,
    /// What had become of it.
    pub state: State,
}

/// A letter as it is handed out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// To settle it by.
    pub tag: DeliveryTag,
    /// Its name.
    pub key: LetterId,
    /// Whether it is selected, and has somewhere to go.
    pub wanted: bool,
    /// Whether this very run has sent it.
    pub is_echo: bool,
    /// How often it was replayed before.
    pub replays: u64,
    /// Which others it must not overtake, where the order goes by that.
    pub lane: Option<u64>,
    /// Whether an earlier attempt has confirmed one of its name, so that it was counted then.
    pub is_met: bool,
    /// What is known of it.
    pub known: Option<Known>,
}

/// Which way a letter goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// To its target.
    Target,
    /// To where those are put aside that were replayed too often.
    Parked,
    /// To the queue for the rest.
    Rest,
}

/// What became of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The broker answers for it.
    Confirmed,
    /// No queue took it.
    Returned,
    /// The broker refused it.
    Nacked,
    /// Certainly not there, because the publisher failed.
    NotSent,
    /// It may be there or not.
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A letter came.
    Seen(Seen),
    /// The write is on the disk.
    Written,
    /// The write failed: nothing more is published or acked.
    WriteFailed,
    /// What became of a publish.
    Outcome(Position, Fate),
    /// The broker has taken all acks.
    Flushed,
    /// Nothing more comes.
    Dry,
    /// Somebody asked to stop.
    Stop,
    /// The consumer is gone, and what it held is back in the queue.
    ConsumerLost,
}

/// What the journal keeps of a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It stays.
    Held,
    /// It may be out.
    Intent(Way),
    /// Its copy is confirmed.
    Confirmed,
    /// Its copy, put aside, is confirmed.
    Parked,
    /// No queue took its copy.
    Returned,
    /// The broker refused its copy.
    Nacked,
    /// Its copy was confirmed in an earlier attempt: it is acked without another one.
    Skipped,
    /// Its copy is confirmed, and it stays.
    Copied,
    /// Its copy in the queue for the rest is confirmed.
    Rested,
    /// The same of one that could not go to its target.
    Turned,
}

impl State {
    /// Whether its copy is confirmed, wherever that went.
    pub const fn is_confirmed(self) -> bool {
        match self {
            State::Confirmed
            | State::Parked
            | State::Skipped
            | State::Copied
            | State::Rested
            | State::Turned => true,
            State::Held | State::Intent(_) | State::Returned | State::Nacked => false,
        }
    }

    /// Whether it is acked once this is written.
    const fn leaves(self) -> bool {
        self.is_confirmed() && !matches!(self, State::Copied)
    }
}

/// One line of a write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    /// A letter that the journal has not.
    New(Position, LetterId, State),
    /// One that it has.
    Now(Position, State),
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write all of this in one transaction; the answer is [`Event::Written`]. One at a time.
    Write(Vec<Entry>),
    /// Publish the letter.
    Publish(Position, Way),
    /// Its message is not needed any more.
    Forget(Position),
    /// Settle so many letters.
    Settle(DeliveryTag, Settlement, u64),
    /// Wait until the broker has taken all acks.
    Flush,
    /// All is done that can be: close.
    End(End),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// All that waited have been looked at.
    All,
    /// As many as were wanted went.
    First,
    /// A letter came back that this run had sent.
    Echo,
    /// Nothing more came: others took some.
    Dry,
    /// Every place is taken by a letter that stays.
    Full,
    /// A letter was refused.
    Refused,
    /// Somebody asked to stop.
    Stopped,
    /// The outcome of a publish is not known, or the broker failed.
    Broken,
    /// The journal failed.
    Journal,
}

/// What became of the letters so far, in this attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Looked at.
    pub looked: u64,
    /// Confirmed at their target.
    pub replayed: u64,
    /// Confirmed where they are put aside.
    pub parked: u64,
    /// Acked without another copy.
    pub skipped: u64,
    /// Left: not selected.
    pub not_wanted: u64,
    /// Left: replayed too often.
    pub worn_out: u64,
    /// Left: behind one of the same lane that could not go.
    pub behind: u64,
    /// Copied, and left.
    pub copied: u64,
    /// Confirmed in the queue for the rest.
    pub rested: u64,
    /// Left: no queue took the copy.
    pub returned: u64,
    /// Left: the copy was refused.
    pub nacked: u64,
    /// Left: not sent any more.
    pub not_sent: u64,
    /// Left, and the copy may be there.
    pub in_doubt: u64,
    /// Acks sent.
    pub acked: u64,
    /// Of these, those that the broker has not said it has taken.
    pub unflushed: u64,
    /// Of the replayed and parked ones, those that are certainly still in the queue as well.
    pub in_both: u64,
}

impl Counts {
    /// Of two attempts together.
    #[must_use]
    pub fn and(self, later: Counts) -> Counts {
        Counts {
            looked: self.looked + later.looked,
            replayed: self.replayed + later.replayed,
            parked: self.parked + later.parked,
            skipped: self.skipped + later.skipped,
            // What stays is met again.
            not_wanted: self.not_wanted.max(later.not_wanted),
            worn_out: self.worn_out.max(later.worn_out),
            behind: self.behind.max(later.behind),
            copied: self.copied + later.copied,
            rested: self.rested + later.rested,
            returned: self.returned + later.returned,
            nacked: self.nacked + later.nacked,
            not_sent: later.not_sent,
            in_doubt: later.in_doubt,
            acked: self.acked + later.acked,
            unflushed: self.unflushed + later.unflushed,
            in_both: self.in_both + later.in_both,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// To be written as an intent.
    Fresh,
    /// To be written as held.
    ToHold,
    /// In the write that is under way, as an intent.
    Intending,
    /// In the write that is under way, and then it stays.
    Holding,
    /// Written as an intent: goes out when the window lets it.
    Due,
    /// Published.
    Out,
    /// To be written as this.
    Decided(State),
    /// In the write that is under way, as this.
    Deciding(State),
    /// Written as confirmed: may be acked.
    Done,
    /// Stays.
    Held,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    position: Position,
    tag: DeliveryTag,
    key: LetterId,
    way: Way,
    lane: Option<u64>,
    is_known: bool,
    /// Whether it went out in this attempt, and so holds a slot of the window until it is acked.
    was_out: bool,
    /// Whether it was refused and has its slot still: those behind it wait for it with theirs.
    has_slot: bool,
    /// Whether it was refused at its target.
    is_refused: bool,
    step: Step,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    rules: Rules,
    places: VecDeque<Place>,
    next: Position,
    taken: u64,
    counts: Counts,
    /// How many are published whose acks the broker has not taken.
    out: u64,
    /// Of what is acked and not flushed, how many hold a slot of the window.
    unflushed_out: u64,
    /// What the flush that is under way covers: slots and acks.
    covered: (u64, u64),
    held: u64,
    left_behind: bool,
    /// Lanes of letters that could not go.
    blocked: BTreeSet<u64>,
    /// After a refusal, with a queue for the rest: nothing goes to the target any more.
    diverted: bool,
    writing: bool,
    flushing: bool,
    consumer_lost: bool,
    journal_lost: bool,
    ending: Option<End>,
    ended: bool,
}

impl Machine {
    /// At the beginning of an attempt; the first letter that the journal does not know gets `next`.
    pub fn new(rules: Rules, next: Position) -> Machine {
        Machine {
            rules,
            places: VecDeque::new(),
            next,
            taken: 0,
            counts: Counts::default(),
            out: 0,
            unflushed_out: 0,
            covered: (0, 0),
            held: 0,
            left_behind: false,
            blocked: BTreeSet::new(),
            diverted: rules.is_diverted,
            writing: false,
            flushing: false,
            consumer_lost: false,
            journal_lost: false,
            ending: (rules.watermark == 0).then_some(End::All),
            ended: false,
        }
    }

    /// What became of the letters so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether more letters are taken.
    pub fn takes(&self) -> bool {
        self.ending.is_none()
    }

    /// The place that the next letter gets, unless it is known.
    pub fn next(&self) -> Position {
        self.next
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        !self.writing && !self.flushing && self.places.iter().all(|p| p.step != Step::Out)
    }

    fn end(&mut self, why: End) {
        // A worse reason replaces a better one.
        self.ending = Some(self.ending.map_or(why, |known| known.max(why)));
    }

    /// Takes in what has happened.
    pub fn on(&mut self, event: Event) {
        match event {
            Event::Seen(seen) => self.see(seen),
            Event::Written => self.written(),
            Event::WriteFailed => {
                self.writing = false;
                self.journal_lost = true;
                self.let_go();
                self.end(End::Journal);
            }
            Event::Outcome(position, fate) => self.decided(position, fate),
            Event::Flushed => {
                self.flushing = false;
                self.out -= self.covered.0;
                self.counts.unflushed -= self.covered.1;
                self.unflushed_out -= self.covered.0;
                self.covered = (0, 0);
            }
            Event::Dry => {
                if self.ending.is_none() {
                    self.end(End::Dry);
                }
            }
            Event::Stop => self.end(End::Stopped),
            Event::ConsumerLost => {
                self.consumer_lost = true;
                self.end(End::Broken);
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        if self.ending.is_some() {
            // Handed out beyond: goes back with the rest.
            return;
        }
        let Seen { tag, key, wanted, is_echo, replays, lane, is_met, known } = seen;
        if is_echo {
            self.end(End::Echo);
            return;
        }
        let enough = !is_met && self.has_enough();
        if enough && !self.rules.rests {
            self.end(End::First);
            return;
        }
        self.counts.looked += 1;
        let lane = lane.filter(|_| self.rules.order == Order::Key);
        let worn_out = replays >= self.rules.max_replays;
        let (step, way) = match known {
            Some(Known { state, .. }) if state.is_confirmed() => {
                self.counts.skipped += 1;
                let state = match state {
                    State::Copied | State::Rested | State::Turned => state,
                    _ => State::Skipped,
                };
                (Step::Decided(state), Way::Target)
            }
            _ if !wanted || enough || self.diverted => {
                self.counts.not_wanted += 1;
                self.stays()
            }
            _ if worn_out && !self.rules.parks => {
                self.counts.worn_out += 1;
                self.stays()
            }
            _ if lane.is_some_and(|lane| self.blocked.contains(&lane)) => {
                self.counts.behind += 1;
                self.stays()
            }
            _ => {
                self.taken += u64::from(!is_met);
                (Step::Fresh, if worn_out { Way::Parked } else { Way::Target })
            }
        };
        let position = known.map_or(self.next, |known| known.position);
        if known.is_none() {
            self.next += 1;
        }
        self.places.push_back(Place {
            position,
            tag,
            key,
            way,
            lane,
            is_known: known.is_some(),
            was_out: step == Step::Fresh,
            has_slot: false,
            is_refused: false,
            step,
        });
        if self.counts.looked >= self.rules.watermark {
            self.end(End::All);
        } else if self.has_enough() && !self.rules.rests && !self.rules.is_resumed {
            self.end(End::First);
        }
    }

    /// Whether as many as were wanted are on their way.
    fn has_enough(&self) -> bool {
        self.rules.first.is_some_and(|first| self.taken >= first)
    }

    /// What becomes of a letter that does not go.
    fn stays(&self) -> (Step, Way) {
        if self.rules.rests { (Step::Fresh, Way::Rest) } else { (Step::ToHold, Way::Target) }
    }

    fn written(&mut self) {
        self.writing = false;
        let held = if self.rules.passes { Step::Done } else { Step::Held };
        for place in &mut self.places {
            place.step = match place.step {
                Step::Intending => Step::Due,
                Step::Holding => held,
                Step::Deciding(state) => {
                    if state == State::Copied && std::mem::take(&mut place.was_out) {
                        // Nothing doubles it any more, though it is never acked.
                        self.out -= 1;
                    }
                    if state.leaves() { Step::Done } else { held }
                }
                other => other,
            };
        }
    }

    fn decided(&mut self, position: Position, fate: Fate) {
        let Some(place) = self.places.iter_mut().find(|place| place.position == position) else {
            return;
        };
        let counts = &mut self.counts;
        let refused = match fate {
            Fate::Confirmed => {
                let (state, count) = match place.way {
                    Way::Target if self.rules.keeps => (State::Copied, &mut counts.copied),
                    Way::Target => (State::Confirmed, &mut counts.replayed),
                    Way::Parked => (State::Parked, &mut counts.parked),
                    Way::Rest if place.is_refused => (State::Turned, &mut counts.rested),
                    Way::Rest => (State::Rested, &mut counts.rested),
                };
                *count += 1;
                place.step = Step::Decided(state);
                if self.journal_lost {
                    self.let_go();
                }
                return;
            }
            Fate::Returned => {
                counts.returned += 1;
                place.step = Step::Decided(State::Returned);
                true
            }
            Fate::Nacked => {
                counts.nacked += 1;
                place.step = Step::Decided(State::Nacked);
                true
            }
            Fate::NotSent => {
                counts.not_sent += 1;
                place.step = Step::Decided(State::Held);
                false
            }
            Fate::Unknown => {
                counts.in_doubt += 1;
                // The journal's intent says just that.
                place.step = Step::Held;
                false
            }
        };
        place.was_out = false;
        let (lane, to_rest) = (place.lane, refused && self.rules.rests && place.way != Way::Rest);
        if to_rest {
            // Goes to where the others that stay are, after what is out already.
            place.way = Way::Rest;
            place.step = Step::Fresh;
            place.is_known = true;
            place.was_out = true;
            place.has_slot = true;
            place.is_refused = true;
        } else {
            self.out -= 1;
        }
        if self.rules.order == Order::Key
            && let Some(lane) = lane
        {
            self.block(lane);
        }
        if self.journal_lost {
            self.let_go();
        }
        match self.rules.order {
            _ if !refused => self.end(End::Broken),
            Order::None => {}
            Order::Key if lane.is_some() => {}
            // To the rest queue nothing may be refused: its letters would lose their places.
            _ if to_rest => self.divert(),
            _ => self.end(End::Refused),
        }
        if refused && !to_rest && self.rules.rests {
            self.end(End::Refused);
        }
    }

    /// Keeps what waits in `lane` from going.
    fn block(&mut self, lane: u64) {
        self.blocked.insert(lane);
        self.turn_back(|place| place.lane == Some(lane));
    }

    /// Lets nothing more go to the target.
    fn divert(&mut self) {
        self.diverted = true;
        self.turn_back(|_| true);
    }

    /// What is not out yet and was to go stays instead.
    fn turn_back(&mut self, which: impl Fn(&Place) -> bool) {
        let rests = self.rules.rests;
        for place in &mut self.places {
            if place.way == Way::Rest || !which(place) {
                continue;
            }
            match place.step {
                // Written as an intent to go elsewhere, so it is written once more.
                Step::Due if rests => {
                    place.is_known = true;
                    place.step = Step::Fresh;
                }
                Step::Due => {
                    place.step = Step::Decided(State::Held);
                    place.was_out = false;
                }
                Step::Fresh if !rests => {
                    place.step = Step::ToHold;
                    place.was_out = false;
                }
                Step::Fresh => {}
                // In a write: looked at again when it is due.
                _ => continue,
            }
            self.counts.behind += 1;
            if rests {
                place.way = Way::Rest;
            }
        }
    }

    /// What is to be done now. To be asked after every batch of events, until it has nothing.
    pub fn effects(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        self.publish(&mut effects);
        self.settle(&mut effects);
        self.write(&mut effects);
        // With every place taken by what stays, and by the intent that waits for a newer one.
        let waits = |place: &Place| matches!(place.step, Step::Decided(state) if state.leaves());
        if self.ending.is_none()
            && effects.is_empty()
            && !self.writing
            && self.held + self.places.len() as u64 >= self.rules.prefetch
            && self.places.iter().all(waits)
        {
            self.end(End::Full);
            return self.effects();
        }
        if let Some(why) = self.ending
            && self.is_idle()
            && effects.is_empty()
            && (self.places.is_empty() || self.consumer_lost && self.only_stays())
        {
            if self.counts.unflushed > 0 && !self.consumer_lost {
                self.flush(&mut effects);
            } else {
                self.ended = true;
                effects.push(Effect::End(why));
            }
        }
        effects
    }

    /// Whether nothing is left to be decided: without a consumer nothing of it can be acked either.
    fn only_stays(&self) -> bool {
        self.places.iter().all(|place| matches!(place.step, Step::Held | Step::Done))
    }

    fn stops(&self) -> bool {
        self.ending.is_some_and(|why| why >= End::Refused)
    }

    fn publish(&mut self, effects: &mut Vec<Effect>) {
        let stops = self.stops();
        // What was in a write when its lane was blocked is due only now.
        if self.diverted {
            self.turn_back(|_| true);
        } else if !self.blocked.is_empty() {
            let blocked = std::mem::take(&mut self.blocked);
            self.turn_back(|place| place.lane.is_some_and(|lane| blocked.contains(&lane)));
            self.blocked = blocked;
        }
        let mut ahead = BTreeSet::new();
        for place in &mut self.places {
            let in_lane = place.lane.filter(|_| place.way != Way::Rest);
            let is_free = in_lane.is_none_or(|lane| !ahead.contains(&lane));
            if place.step == Step::Due {
                if stops {
                    self.counts.not_sent += 1;
                    self.out -= u64::from(std::mem::take(&mut place.has_slot));
                    place.was_out = false;
                    place.step = Step::Decided(State::Held);
                } else if self.out >= self.rules.window && !place.has_slot {
                    break;
                } else if is_free {
                    self.out += u64::from(!std::mem::take(&mut place.has_slot));
                    place.step = Step::Out;
                    effects.push(Effect::Publish(place.position, place.way));
                }
            }
            if matches!(place.step, Step::Due | Step::Out | Step::Intending | Step::Fresh) {
                ahead.extend(in_lane);
            }
        }
    }

    fn flush(&mut self, effects: &mut Vec<Effect>) {
        self.flushing = true;
        self.covered = (self.unflushed_out, self.counts.unflushed);
        effects.push(Effect::Flush);
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        let mut settle: Option<(DeliveryTag, Settlement, u64)> = None;
        while let Some(place) = self.places.front() {
            match place.step {
                Step::Done => {}
                Step::Held => {
                    self.left_behind = true;
                    self.held += 1;
                    effects.push(Effect::Forget(place.position));
                    self.places.pop_front();
                    continue;
                }
                _ => break,
            }
            let (tag, was_out) = (place.tag, place.was_out);
            self.places.pop_front();
            if self.consumer_lost {
                self.counts.in_both += 1;
                continue;
            }
            self.counts.acked += 1;
            self.counts.unflushed += 1;
            self.unflushed_out += u64::from(was_out);
            if self.left_behind {
                effects.push(Effect::Settle(tag, Settlement::Ack, 1));
                continue;
            }
            match &mut settle {
                Some((upto, _, number)) => {
                    *upto = tag;
                    *number += 1;
                }
                None => settle = Some((tag, Settlement::AckUpTo, 1)),
            }
        }
        // Those before the first that stays go out before the single ones.
        if let Some((tag, how, number)) = settle {
            let at = effects.iter().position(|e| matches!(e, Effect::Settle(..)));
            effects.insert(at.unwrap_or(effects.len()), Effect::Settle(tag, how, number));
        }
        let due = self.counts.unflushed >= (self.rules.window / 2).max(1);
        if due && !self.flushing && !self.consumer_lost {
            self.flush(effects);
        }
    }

    fn write(&mut self, effects: &mut Vec<Effect>) {
        if self.journal_lost {
            self.let_go();
            return;
        }
        if self.writing {
            return;
        }
        let stops = self.stops();
        let mut entries = Vec::new();
        let mut intends = false;
        let mut intended = self.places.iter().filter(|place| place.is_active()).count() as u64;
        for place in &mut self.places {
            let (state, step) = match place.step {
                Step::Fresh if stops => {
                    self.counts.not_sent += 1;
                    self.out -= u64::from(std::mem::take(&mut place.has_slot));
                    place.was_out = false;
                    (State::Held, Step::Holding)
                }
                Step::Fresh if intended < self.rules.intents() => {
                    intended += 1;
                    intends = true;
                    (State::Intent(place.way), Step::Intending)
                }
                // What is behind waits, for the journal goes by the order of the queue.
                Step::Fresh => break,
                Step::ToHold => (State::Held, Step::Holding),
                _ => continue,
            };
            place.step = step;
            entries.push(if place.is_known {
                Entry::Now(place.position, state)
            } else {
                Entry::New(place.position, place.key.clone(), state)
            });
        }
        // The newest intent stays one until there is a newer, or the end.
        let waits = self.places.iter().any(|place| place.step == Step::Fresh);
        let newest = self.places.iter().rposition(Place::is_intent);
        // Nor at the end when it cannot be acked: whoever resumes needs it.
        let ends = self.ending.is_some() && !waits && !self.consumer_lost;
        let spared = newest.filter(|_| !intends && !ends);
        for (at, place) in self.places.iter_mut().enumerate() {
            if let Step::Decided(state) = place.step
                && (spared != Some(at) || !state.leaves() || state == State::Skipped)
            {
                place.step = Step::Deciding(state);
                entries.push(Entry::Now(place.position, state));
            }
        }
        if entries.is_empty() && self.consumer_lost && self.is_idle() {
            for place in &mut self.places {
                if matches!(place.step, Step::Decided(_)) {
                    self.counts.in_both += 1;
                    place.step = Step::Held;
                }
            }
        }
        if !entries.is_empty() {
            self.writing = true;
            effects.push(Effect::Write(entries));
        }
    }

    /// Without a journal nothing waits for a write any more: all of it stays, and what was confirmed
    /// meanwhile is in both places, in doubt for whoever resumes.
    fn let_go(&mut self) {
        for place in &mut self.places {
            match place.step {
                Step::Fresh | Step::Intending | Step::Due => self.counts.not_sent += 1,
                Step::Decided(state) | Step::Deciding(state)
                    if state.leaves() && state != State::Skipped =>
                {
                    self.counts.in_both += 1;
                }
                Step::Out | Step::Done => continue,
                _ => {}
            }
            place.step = Step::Held;
        }
    }
}

impl Rules {
    /// How many intents the journal may have that are not acked: some ahead of the window, so that an
    /// ack need not wait for the next letter to be written.
    pub fn intents(&self) -> u64 {
        self.window + (self.window / 2).max(1)
    }
}

impl Place {
    /// Whether the journal says that it may be out.
    fn is_intent(&self) -> bool {
        match self.step {
            Step::Intending | Step::Due | Step::Out => true,
            Step::Decided(state) | Step::Deciding(state) => {
                !matches!(state, State::Skipped | State::Copied)
            }
            _ => false,
        }
    }

    /// Whether it is neither new nor left behind.
    fn is_active(&self) -> bool {
        self.is_intent() || self.step == Step::Done && self.was_out
    }
}
