//! All that can happen to three letters, two of them twins, under the machine of this room: every order of
//! deliveries, writes, confirms, returns and acks, a kill of the tool or of the broker at every step,
//! acks that the broker forgets in its death, somebody else who consumes, and resumed runs after each.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};

use super::machine::{
    Effect, End, Entry, Event, Fate, Known, Machine, Order, Position, Rules, Seen, State, Way,
};
use super::recall::{is_certainly_there, is_gone, recall};
use crate::broker::{DeliveryTag, Settlement};
use crate::deadletter::letter::LetterId;

type Id = u8;

/// The first and the last are twins.
fn key(id: Id) -> LetterId {
    LetterId::parse(&if id == 1 { "b" } else { "a" }.repeat(26)).unwrap()
}

/// A rule that is broken on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    AckBeforeConfirm,
    SkipByNameAlone,
    PublishBeforeIntent,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    window: u64,
    order: Order,
    /// Names of unwanted letters stay.
    wanted: [bool; 3],
    first: Option<u64>,
    /// Letters are copied only.
    keeps: bool,
    /// There is a queue for the rest.
    rests: bool,
    /// A classic queue: the broker forgets acks when it is killed, and a resumed run looks first.
    classic: bool,
    tool_kills: u8,
    broker_kills: u8,
    refusals: u8,
    others: u8,
    stops: u8,
    failed_writes: u8,
    mutation: Option<Mutation>,
}

const CASE: Case = Case {
    window: 1,
    order: Order::Queue,
    wanted: [true; 3],
    first: None,
    keeps: false,
    rests: false,
    classic: true,
    tool_kills: 0,
    broker_kills: 0,
    refusals: 0,
    others: 0,
    stops: 0,
    failed_writes: 0,
    mutation: None,
};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Row {
    key: LetterId,
    state: State,
    copies: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Tool {
    machine: Machine,
    /// What a resumed run has taken before it comes to its anchor.
    buffer: Option<(LetterId, Vec<(u64, Id)>)>,
    letters: BTreeMap<Position, Id>,
    writing: Option<Vec<Entry>>,
    /// Published, on their way to the broker.
    sent: VecDeque<(Position, Id, Way)>,
    /// Outcomes on their way back.
    answers: Vec<(Position, Fate)>,
    flushing: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    ready: Vec<Id>,
    unacked: Vec<(u64, Id)>,
    /// Acks on their way to the broker: the tag, and whether those before it are meant too.
    acks: VecDeque<(u64, bool)>,
    /// Acked, and the disk does not know yet.
    lazily: Vec<Id>,
    target: Vec<Id>,
    rest: Vec<Id>,
    taken_by_others: Vec<Id>,
    rows: BTreeMap<Position, Row>,
    tool: Option<Tool>,
    last_end: Option<End>,
    tag: u64,
    kills: u8,
    broker_kills: u8,
    /// A run was resumed without an anchor after the broker was killed.
    without_anchor: bool,
    refused: u8,
    others: u8,
    stops: u8,
    failed_writes: u8,
    attempts: u8,
}

impl World {
    fn new() -> World {
        World {
            ready: vec![0, 1, 2],
            unacked: Vec::new(),
            acks: VecDeque::new(),
            lazily: Vec::new(),
            target: Vec::new(),
            rest: Vec::new(),
            taken_by_others: Vec::new(),
            rows: BTreeMap::new(),
            tool: None,
            last_end: None,
            tag: 0,
            kills: 0,
            broker_kills: 0,
            without_anchor: false,
            refused: 0,
            others: 0,
            stops: 0,
            failed_writes: 0,
            attempts: 0,
        }
    }

    fn rules(&self, case: &Case) -> Rules {
        let rules = Rules {
            window: case.window,
            prefetch: 0,
            watermark: self.ready.len() as u64,
            first: case.first.map(|first| first.saturating_sub(self.gone())),
            is_resumed: self.attempts > 1,
            order: case.order,
            max_replays: 3,
            parks: false,
            keeps: case.keeps,
            rests: case.rests,
            is_diverted: case.order == Order::Queue
                && self.rows.values().any(|row| row.state == State::Turned),
            passes: false,
        };
        Rules { prefetch: rules.intents().max(3), ..rules }
    }

    /// How many were replayed, as the store counts them.
    fn gone(&self) -> u64 {
        let gone = self.rows.values().filter(|row| is_gone(row.state));
        gone.map(|row| &row.key).collect::<HashSet<_>>().len() as u64
    }

    /// The anchor, as the store finds it.
    fn anchor(&self) -> Option<LetterId> {
        let times = |key: &LetterId| self.rows.values().filter(|row| row.key == *key).count();
        let mut rows = self.rows.values().rev();
        rows.find(|row| is_certainly_there(row.state) && times(&row.key) == 1)
            .map(|row| row.key.clone())
    }

    fn begin(&self, case: &Case) -> World {
        let mut world = self.clone();
        world.attempts += 1;
        let next = world.rows.keys().last().map_or(1, |last| last + 1);
        let anchor = world.anchor().filter(|_| case.classic || case.keeps);
        world.without_anchor |= anchor.is_none() && world.broker_kills > 0;
        world.last_end = None;
        world.tool = Some(Tool {
            machine: Machine::new(world.rules(case), next),
            buffer: anchor.map(|anchor| (anchor, Vec::new())),
            letters: BTreeMap::new(),
            writing: None,
            sent: VecDeque::new(),
            answers: Vec::new(),
            flushing: false,
        });
        world.on(None, case)
    }

    /// What the run that is resumed can know of what it has taken.
    fn recall(&self, anchor: &LetterId, head: &[LetterId]) -> HashMap<LetterId, Known> {
        recall(head, anchor, |name| {
            let rows = self.rows.iter().filter(|(_, row)| row.key == *name);
            rows.map(|(position, row)| (*position, row.state)).collect()
        })
    }

    /// Hands out what was taken until the anchor came, or until there was no more.
    fn empty_buffer(mut self, case: &Case) -> World {
        let taken = self.tool.as_mut().and_then(|tool| tool.buffer.take());
        let Some((anchor, taken)) = taken else { return self };
        let head: Vec<LetterId> = taken.iter().map(|(_, id)| key(*id)).collect();
        let mut recalled = self.recall(&anchor, &head);
        for (tag, id) in taken {
            let known = recalled.remove(&key(id));
            self = self.see(tag, id, known, case);
        }
        self
    }

    /// Hands the machine an event and does what it says.
    fn on(mut self, event: Option<Event>, case: &Case) -> World {
        let Some(mut tool) = self.tool.take() else { return self };
        if let Some(event) = event {
            tool.machine.on(event);
        }
        loop {
            let effects = tool.machine.effects();
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                match effect {
                    Effect::Write(entries) => {
                        if case.mutation == Some(Mutation::PublishBeforeIntent) {
                            for entry in &entries {
                                if let Entry::New(position, _, State::Intent(way)) = entry {
                                    tool.sent.push_back((*position, tool.letters[position], *way));
                                }
                            }
                        }
                        tool.writing = Some(entries);
                    }
                    Effect::Publish(position, way) => {
                        let id = tool.letters[&position];
                        if case.mutation != Some(Mutation::PublishBeforeIntent) {
                            tool.sent.push_back((position, id, way));
                        }
                        if case.mutation == Some(Mutation::AckBeforeConfirm)
                            && let Some((tag, _)) = self.unacked.iter().find(|(_, one)| *one == id)
                        {
                            self.acks.push_back((*tag, false));
                        }
                    }
                    Effect::Forget(_) => {}
                    Effect::Settle(tag, how, _) => {
                        self.acks.push_back((tag.tag, how == Settlement::AckUpTo));
                    }
                    Effect::Flush => tool.flushing = true,
                    Effect::End(why) => {
                        assert!(tool.writing.is_none() && tool.sent.is_empty());
                        while !self.acks.is_empty() {
                            self.take_ack(case);
                        }
                        self.give_back();
                        self.last_end = Some(why);
                        return self;
                    }
                }
            }
        }
        self.tool = Some(tool);
        self
    }

    fn take_ack(&mut self, case: &Case) {
        let Some((tag, up_to)) = self.acks.pop_front() else { return };
        let (gone, left) =
            self.unacked.iter().partition(|(one, _)| *one == tag || up_to && *one < tag);
        self.unacked = left;
        let gone: Vec<(u64, Id)> = gone;
        if case.classic && case.broker_kills > 0 {
            self.lazily.extend(gone.into_iter().map(|(_, id)| id));
        }
    }

    fn give_back(&mut self) {
        let back = std::mem::take(&mut self.unacked).into_iter().map(|(_, id)| id);
        self.ready.splice(0..0, back);
    }

    fn write(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let (position, state) = match entry {
                Entry::New(position, key, state) => {
                    let row = Row { key, state, copies: 0 };
                    assert!(self.rows.insert(position, row).is_none(), "a place is given once");
                    (position, state)
                }
                Entry::Now(position, state) => (position, state),
            };
            let row = self.rows.get_mut(&position).unwrap();
            row.state = state;
            row.copies += u8::from(matches!(state, State::Intent(_)));
        }
    }

    /// All that can happen next without anybody's fault, then all that can by one.
    fn next(&self, case: &Case) -> (Vec<World>, Vec<World>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let Some(tool) = &self.tool else {
            if self.attempts < 1 + self.kills + 1 {
                good.push(self.begin(case));
            }
            self.somebody_else(case, &mut bad);
            return (good, bad);
        };
        let with = |change: &dyn Fn(&mut World, &mut Tool)| {
            let mut world = self.clone();
            let mut tool = tool.clone();
            change(&mut world, &mut tool);
            world.tool = Some(tool);
            world
        };
        let rules = self.rules(case);
        if !self.ready.is_empty() && (self.unacked.len() as u64) < rules.prefetch {
            good.push(self.deliver(case));
        }
        if self.ready.is_empty() && tool.machine.takes() && tool.machine.is_idle() {
            good.push(match tool.buffer {
                Some(_) => self.clone().empty_buffer(case),
                None => self.clone().on(Some(Event::Dry), case),
            });
        }
        if let Some(entries) = &tool.writing {
            let done = with(&|world, tool| {
                world.write(entries.clone());
                tool.writing = None;
            });
            good.push(done.on(Some(Event::Written), case));
            if self.failed_writes < case.failed_writes {
                for reaches_the_disk in [false, true] {
                    let failed = with(&|world, tool| {
                        if reaches_the_disk {
                            world.write(entries.clone());
                        }
                        world.failed_writes += 1;
                        tool.writing = None;
                    });
                    bad.push(failed.on(Some(Event::WriteFailed), case));
                }
            }
        }
        if let Some((position, id, way)) = tool.sent.front().copied() {
            good.push(with(&|world, tool| {
                tool.sent.pop_front();
                world.arrive(id, way);
                tool.answers.push((position, Fate::Confirmed));
            }));
            if self.refused < case.refusals && way == Way::Target {
                for fate in [Fate::Returned, Fate::Nacked] {
                    bad.push(with(&|world, tool| {
                        world.refused += 1;
                        tool.sent.pop_front();
                        tool.answers.push((position, fate));
                    }));
                }
            }
        }
        for (at, (position, fate)) in tool.answers.iter().enumerate() {
            let heard = with(&|_, tool| {
                tool.answers.remove(at);
            });
            good.push(heard.on(Some(Event::Outcome(*position, *fate)), case));
        }
        if !self.acks.is_empty() {
            good.push(with(&|world, _| world.take_ack(case)));
        }
        if tool.flushing {
            let mut flushed = with(&|_, tool| tool.flushing = false);
            while !flushed.acks.is_empty() {
                flushed.take_ack(case);
            }
            good.push(flushed.on(Some(Event::Flushed), case));
        }
        if self.stops < case.stops {
            let stopped = with(&|world, _| world.stops += 1);
            bad.push(stopped.on(Some(Event::Stop), case));
        }
        self.somebody_else(case, &mut bad);
        if self.kills < case.tool_kills {
            self.kill_tool(tool, case, &mut bad);
        }
        if self.broker_kills < case.broker_kills {
            self.kill_broker(tool, case, &mut bad);
        }
        (good, bad)
    }

    fn somebody_else(&self, case: &Case, next: &mut Vec<World>) {
        if self.others < case.others && !self.ready.is_empty() {
            let mut world = self.clone();
            world.others += 1;
            let id = world.ready.remove(0);
            world.taken_by_others.push(id);
            next.push(world);
        }
    }

    fn deliver(&self, case: &Case) -> World {
        let mut world = self.clone();
        let id = world.ready.remove(0);
        world.tag += 1;
        world.unacked.push((world.tag, id));
        let tag = world.tag;
        let Some(tool) = &mut world.tool else { return world };
        if let Some((anchor, taken)) = &mut tool.buffer {
            taken.push((tag, id));
            let is_there = key(id) == *anchor;
            return if is_there { world.empty_buffer(case) } else { world };
        }
        let mut known = None;
        if case.mutation == Some(Mutation::SkipByNameAlone) {
            let mut rows = world.rows.iter().filter(|(_, row)| row.key == key(id));
            known = rows
                .find(|(_, row)| !is_certainly_there(row.state))
                .map(|(position, _)| Known { position: *position, state: State::Confirmed });
        }
        world.see(tag, id, known, case)
    }

    fn see(mut self, tag: u64, id: Id, known: Option<Known>, case: &Case) -> World {
        let is_met = self.rows.values().any(|row| row.key == key(id) && is_gone(row.state));
        let Some(tool) = &mut self.tool else { return self };
        if tool.machine.takes() {
            let position = known.map_or(tool.machine.next(), |known| known.position);
            tool.letters.insert(position, id);
        }
        let seen = Seen {
            tag: DeliveryTag { generation: 0, tag },
            key: key(id),
            wanted: case.wanted[usize::from(id)],
            is_echo: false,
            replays: 0,
            // The twins are in one lane.
            lane: Some(u64::from(id % 2)),
            is_met: is_met && self.attempts > 1,
            known,
        };
        self.on(Some(Event::Seen(seen)), case)
    }

    fn kill_tool(&self, tool: &Tool, case: &Case, next: &mut Vec<World>) {
        for arrived in 0..=tool.sent.len() {
            for acked in 0..=self.acks.len() {
                for written in [false, true] {
                    let mut world = self.clone();
                    world.tool = None;
                    world.kills += 1;
                    for (_, id, way) in tool.sent.iter().take(arrived) {
                        world.arrive(*id, *way);
                    }
                    (0..acked).for_each(|_| world.take_ack(case));
                    world.acks.clear();
                    match &tool.writing {
                        Some(entries) if written => world.write(entries.clone()),
                        None if written => continue,
                        _ => {}
                    }
                    world.give_back();
                    next.push(world);
                }
            }
        }
    }

    fn kill_broker(&self, tool: &Tool, case: &Case, next: &mut Vec<World>) {
        for arrived in 0..=tool.sent.len() {
            for acked in 0..=self.acks.len() {
                let mut world = self.clone();
                world.broker_kills += 1;
                world.kills += 1;
                for (_, id, way) in tool.sent.iter().take(arrived) {
                    world.arrive(*id, *way);
                }
                (0..acked).for_each(|_| world.take_ack(case));
                world.acks.clear();
                let lost: Vec<Position> = tool
                    .sent
                    .iter()
                    .map(|(position, ..)| *position)
                    .chain(tool.answers.iter().map(|(position, _)| *position))
                    .collect();
                let mut after = tool.clone();
                after.buffer = None;
                after.sent.clear();
                after.answers.clear();
                after.flushing = false;
                let had_flush = tool.flushing;
                world.tool = Some(after);
                world.give_back();
                // What the disk knew of the acks ends anywhere.
                for known in 0..=world.lazily.len() {
                    let mut world = world.clone();
                    let back = world.lazily.split_off(known);
                    world.ready.extend(back);
                    world.ready.sort_unstable();
                    world.lazily.clear();
                    let mut world = world.on(Some(Event::ConsumerLost), case);
                    if had_flush {
                        world = world.on(Some(Event::Flushed), case);
                    }
                    for position in &lost {
                        world = world.on(Some(Event::Outcome(*position, Fate::Unknown)), case);
                    }
                    next.push(world);
                }
            }
        }
    }

    fn arrive(&mut self, id: Id, way: Way) {
        if way == Way::Rest { &mut self.rest } else { &mut self.target }.push(id);
    }

    fn copies(&self, id: Id) -> usize {
        self.target.iter().chain(&self.rest).filter(|one| **one == id).count()
    }

    /// What must never be, if it is.
    fn wrong(&self, case: &Case) -> Option<String> {
        for id in 0..3 {
            let stays = self.ready.contains(&id)
                || self.unacked.iter().any(|(_, one)| *one == id)
                || self.taken_by_others.contains(&id);
            let there = stays || !case.keeps && self.copies(id) > 0;
            if !there {
                return Some(format!("letter {id} is lost"));
            }
            let listed: u8 =
                self.rows.values().filter(|row| row.key == key(id)).map(|row| row.copies).sum();
            if self.copies(id) > usize::from(listed) {
                return Some(format!("letter {id} came oftener than the journal says"));
            }
            if self.target.contains(&id) && !case.wanted[usize::from(id)] {
                return Some(format!("letter {id} was not wanted"));
            }
        }
        // Twins that the broker brings back are never skipped: none may be lost for the other.
        let counted = |id: &Id| self.broker_kills == 0 && !case.keeps || *id == 1;
        let more: usize = (0..3).filter(counted).map(|id| self.copies(id).saturating_sub(1)).sum();
        // A failed write leaves what was confirmed meanwhile in doubt, as a kill does.
        let faults = u64::from(self.kills) + u64::from(self.failed_writes);
        if more as u64 > case.window * faults && !self.without_anchor {
            return Some(format!("{more} duplicates after {faults} kills"));
        }
        let in_queue: Vec<Id> =
            self.unacked.iter().map(|(_, id)| *id).chain(self.ready.iter().copied()).collect();
        if !in_queue.is_sorted() {
            return Some("the queue has another order".to_owned());
        }
        let target = first_copies(&self.target);
        // A twin may be taken for the one that was counted.
        if case.first.is_some_and(|first| target.len() as u64 > first + 1) {
            return Some("more went than were asked for".to_owned());
        }
        let lane_is_broken = target.contains(&2)
            && case.wanted[0]
            && !self.taken_by_others.contains(&0)
            && target.iter().find(|id| **id != 1) != Some(&0);
        if !target.is_sorted() && self.refused == 0 || case.order == Order::Key && lane_is_broken {
            return Some("first copies came in another order".to_owned());
        }
        let overtaken = self.rest.contains(&0) && case.wanted[0] && !target.contains(&0);
        if case.order == Order::Queue && overtaken && target.contains(&2) {
            return Some("a letter went on past a refused one".to_owned());
        }
        let unwanted = |id: &Id| self.refused == 0 || !case.wanted[usize::from(*id)];
        if !first_copies(&self.rest).into_iter().filter(unwanted).is_sorted() {
            return Some("the rest is in another order".to_owned());
        }
        if self.last_end == Some(End::All)
            && self.kills == 0
            && self.refused == 0
            && !case.keeps
            && self.ready.iter().any(|id| case.rests || case.wanted[usize::from(*id)])
        {
            return Some("the run ended before all was done".to_owned());
        }
        None
    }
}

fn first_copies(all: &[Id]) -> Vec<Id> {
    let mut first: Vec<Id> = Vec::new();
    for id in all {
        if !first.contains(id) {
            first.push(*id);
        }
    }
    first
}

/// Explores everything; how many states there are, or the first that is wrong.
fn explore(case: Case) -> Result<usize, String> {
    let digest = |world: &World| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        hasher.finish()
    };
    let mut seen = HashSet::new();
    let mut waiting = vec![World::new()];
    while let Some(world) = waiting.pop() {
        if !seen.insert(digest(&world)) {
            continue;
        }
        if let Some(wrong) = world.wrong(&case) {
            return Err(format!("{wrong}\n{case:?}\n{world:#?}"));
        }
        let (good, bad) = world.next(&case);
        if good.is_empty() && world.tool.is_some() {
            return Err(format!("nothing goes on\n{case:?}\n{world:#?}"));
        }
        waiting.extend(good);
        waiting.extend(bad);
    }
    Ok(seen.len())
}

fn all(cases: impl IntoIterator<Item = Case>) {
    for case in cases {
        match explore(case) {
            Ok(states) => assert!(states > 20, "{states} states of {case:?}"),
            Err(wrong) => panic!("{wrong}"),
        }
    }
}

/// Both windows, some selections, both kinds of queue.
fn variants() -> Vec<Case> {
    let mut cases = Vec::new();
    for window in [1, 2] {
        for classic in [false, true] {
            for (wanted, first) in [
                ([true; 3], None),
                ([true, false, true], None),
                ([false, true, false], None),
                ([true; 3], Some(1)),
            ] {
                cases.push(Case { window, classic, wanted, first, ..CASE });
            }
        }
    }
    cases
}

#[test]
fn without_a_fault_each_letter_goes_once_and_in_order() {
    all(variants());
    all(variants().into_iter().map(|case| Case { stops: 1, ..case }));
}

#[test]
fn kills_of_the_tool_lose_nothing_and_double_no_more_than_the_window() {
    all(variants().into_iter().map(|case| Case { tool_kills: 2, ..case }));
}

#[test]
fn kills_of_the_broker_lose_nothing_even_when_it_forgets_acks() {
    all(variants().into_iter().map(|case| Case { broker_kills: 1, ..case }));
    all(variants().into_iter().map(|case| Case { broker_kills: 1, tool_kills: 1, ..case }));
}

#[test]
fn refusals_and_others_who_consume_lose_nothing() {
    for order in [Order::None, Order::Queue, Order::Strict] {
        let cases =
            variants().into_iter().filter(|case| order != Order::Strict || case.window == 1);
        all(cases.map(|case| Case { refusals: 2, tool_kills: 1, order, ..case }));
    }
    all(variants().into_iter().map(|case| Case { others: 2, tool_kills: 1, ..case }));
}

#[test]
fn a_full_disk_stops_before_the_publish() {
    all(variants().into_iter().map(|case| Case { failed_writes: 1, tool_kills: 1, ..case }));
}

/// One window of two, for what is explored beside the replay itself.
fn narrow() -> impl Iterator<Item = Case> {
    variants().into_iter().filter(|case| case.window == 2)
}

#[test]
fn copying_leaves_every_letter_where_it_is() {
    let cases = || narrow().map(|case| Case { keeps: true, ..case });
    all(cases().map(|case| Case { tool_kills: 2, ..case }));
    all(cases().map(|case| Case { broker_kills: 1, ..case }));
    all(cases().map(|case| Case { refusals: 1, tool_kills: 1, order: Order::None, ..case }));
    all(cases().map(|case| Case { failed_writes: 1, ..case }));
}

#[test]
fn the_rest_is_put_aside_in_order() {
    let cases = || narrow().map(|case| Case { rests: true, ..case });
    all(cases().map(|case| Case { tool_kills: 2, ..case }));
    all(cases().map(|case| Case { broker_kills: 1, ..case }));
    for order in [Order::None, Order::Queue] {
        all(cases().map(|case| Case { refusals: 1, tool_kills: 1, order, ..case }));
    }
    all(cases().map(|case| Case { failed_writes: 1, stops: 1, ..case }));
}

#[test]
fn behind_a_refused_letter_its_lane_stays() {
    let cases = || narrow().map(|case| Case { order: Order::Key, ..case });
    all(cases().map(|case| Case { refusals: 2, tool_kills: 1, ..case }));
    all(cases().map(|case| Case { refusals: 1, broker_kills: 1, ..case }));
}

#[test]
fn the_exploration_notices_broken_rules() {
    for (mutation, what) in [
        (Mutation::AckBeforeConfirm, "is lost"),
        (Mutation::SkipByNameAlone, "is lost"),
        (Mutation::PublishBeforeIntent, "oftener than the journal says"),
    ] {
        let case = Case { window: 2, tool_kills: 2, mutation: Some(mutation), ..CASE };
        let wrong = explore(case).unwrap_err();
        assert!(wrong.contains(what), "{mutation:?}: {wrong}");
    }
}
