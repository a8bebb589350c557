//! The messages that are here, and where each stands.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::base::time::Timestamp;
use crate::broker::Delivery;
use crate::delivery::worker::desk::Claim;
use crate::delivery::worker::handler::Fault;
use crate::delivery::worker::lanes::{JobId, LaneKey};
use crate::delivery::worker::report::Fate;
use crate::resilience::circuit::Permit;

/// Where a message stands.
#[derive(Debug)]
pub(super) enum Stage {
    /// Held until those before it in its sequence have come, or until its lane is free.
    Waiting,
    /// Asked for its key.
    Claiming,
    /// Ready to begin.
    Ready,
    /// In the handler.
    Running,
    /// Waits for its next attempt or claim.
    Delayed,
    /// Results, copies or dead letters are on their way: so many, then this.
    Posting(u8, Fate),
    /// Being remembered.
    Booking,
}

/// A message that is here.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) delivery: Arc<Delivery>,
    pub(super) lane: Option<LaneKey>,
    pub(super) number: Option<(String, u64)>,
    pub(super) stage: Stage,
    /// The attempt under way, or the next one; from 1.
    pub(super) attempt: u32,
    pub(super) began: Option<Timestamp>,
    pub(super) alone: bool,
    pub(super) claim: Option<Claim>,
    pub(super) permit: Option<Permit>,
    pub(super) fault: Option<Fault>,
    /// The connection it came by is lost: it comes again.
    pub(super) void: bool,
}

/// All messages that are here, by number.
#[derive(Debug, Default)]
pub(super) struct Works {
    first: u64,
    works: VecDeque<Option<Work>>,
    pub(super) count: usize,
}

impl Works {
    pub(super) fn add(&mut self, work: Work) -> JobId {
        self.works.push_back(Some(work));
        self.count += 1;
        JobId(self.first + self.works.len() as u64 - 1)
    }

    fn at(&mut self, id: JobId) -> Option<&mut Option<Work>> {
        self.works.get_mut(usize::try_from(id.0.checked_sub(self.first)?).ok()?)
    }

    pub(super) fn get(&mut self, id: JobId) -> Option<&mut Work> {
        self.at(id)?.as_mut()
    }

    pub(super) fn take(&mut self, id: JobId) -> Option<Work> {
        let work = self.at(id)?.take()?;
        self.count -= 1;
        while self.works.front().is_some_and(Option::is_none) {
            self.works.pop_front();
            self.first += 1;
        }
        Some(work)
    }

    pub(super) fn iter(&mut self) -> impl Iterator<Item = (JobId, &mut Work)> {
        let first = self.first;
        self.works
            .iter_mut()
            .enumerate()
            .filter_map(move |(at, work)| Some((JobId(first + at as u64), work.as_mut()?)))
    }
}

/// What tells a message that comes again from another one: its id, its way and its body.
pub(super) fn identity(delivery: &Delivery) -> Option<u64> {
    let id = delivery.message.properties.message_id.as_ref()?;
    let mut hasher = DefaultHasher::new();
    (id, delivery.exchange.as_str(), delivery.routing_key.as_str()).hash(&mut hasher);
    delivery.message.body.hash(&mut hasher);
    Some(hasher.finish())
}
