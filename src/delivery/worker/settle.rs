//! Which deliveries to settle next, with as few frames as possible.
//!
//! Pure. Deliveries are acked when their work is done, in whatever order. As soon as all from the
//! oldest on are done, one ack settles them together; those behind an open one are acked singly, so that
//! they do not wait for it.

use std::collections::VecDeque;

use crate::broker::{DeliveryTag, Settlement};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Open,
    Done,
    /// Settled already, by itself.
    Settled,
}

/// The deliveries of one connection that are not settled, and what lies between them.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    first: u64,
    generation: u32,
    places: VecDeque<Place>,
    open: usize,
    done: usize,
}

impl Unsettled {
    /// A delivery has come; those of the connection before are void.
    pub(super) fn arrive(&mut self, tag: DeliveryTag) {
        if tag.generation != self.generation || self.places.is_empty() {
            *self =
                Unsettled { first: tag.tag, generation: tag.generation, ..Unsettled::default() };
        }
        // Tags rise by one; should a broker leave some out, they are nobody's.
        while self.first + (self.places.len() as u64) < tag.tag {
            self.places.push_back(Place::Settled);
        }
        self.places.push_back(Place::Open);
        self.open += 1;
    }

    fn place(&mut self, tag: DeliveryTag) -> Option<&mut Place> {
        if tag.generation != self.generation {
            return None;
        }
        let at = usize::try_from(tag.tag.checked_sub(self.first)?).ok()?;
        self.places.get_mut(at)
    }

    /// The work of `tag` is done: it is to be acked.
    pub(super) fn done(&mut self, tag: DeliveryTag) {
        if let Some(place @ Place::Open) = self.place(tag) {
            *place = Place::Done;
            self.open -= 1;
            self.done += 1;
        }
    }

    /// `tag` was settled in another way.
    pub(super) fn settled(&mut self, tag: DeliveryTag) {
        if let Some(place @ Place::Open) = self.place(tag) {
            *place = Place::Settled;
            self.open -= 1;
        }
    }

    /// What to send so that everything that is done is acked; and how many deliveries that are.
    pub(super) fn acks(&mut self) -> (Vec<(DeliveryTag, Settlement)>, u64) {
        let mut acks = Vec::new();
        let acked = self.done as u64;
        if self.done == 0 && self.places.front() != Some(&Place::Settled) {
            return (acks, 0);
        }
        let of = |tag| DeliveryTag { generation: self.generation, tag };
        let mut last = None;
        let mut together = 0;
        while let Some(place) = self.places.front().filter(|place| **place != Place::Open) {
            if *place == Place::Done {
                last = Some(self.first);
                together += 1;
            }
            self.places.pop_front();
            self.first += 1;
        }
        self.done -= together;
        if let Some(last) = last {
            let how = if together > 1 { Settlement::AckUpTo } else { Settlement::Ack };
            acks.push((of(last), how));
        }
        for (at, place) in self.places.iter_mut().enumerate() {
            if self.done == 0 {
                break;
            }
            if *place == Place::Done {
                acks.push((of(self.first + at as u64), Settlement::Ack));
                *place = Place::Settled;
                self.done -= 1;
            }
        }
        (acks, acked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn tag(tag: u64) -> DeliveryTag {
        DeliveryTag { generation: 0, tag }
    }

    #[test]
    fn the_done_at_the_front_go_together_and_the_others_singly() {
        let mut unsettled = Unsettled::default();
        (1..=6).for_each(|n| unsettled.arrive(tag(n)));
        [1, 2, 4, 6].into_iter().for_each(|n| unsettled.done(tag(n)));
        let expected = vec![
            (tag(2), Settlement::AckUpTo),
            (tag(4), Settlement::Ack),
            (tag(6), Settlement::Ack),
        ];
        assert_eq!(unsettled.acks(), (expected, 4));
        assert_eq!(unsettled.acks(), (vec![], 0));
        unsettled.done(tag(3));
        unsettled.settled(tag(5));
        assert_eq!(unsettled.acks(), (vec![(tag(3), Settlement::Ack)], 1));
        assert_eq!(unsettled.open, 0);
        // A new connection counts anew, and what was before is nobody's.
        unsettled.arrive(DeliveryTag { generation: 1, tag: 1 });
        unsettled.done(tag(1));
        assert_eq!(unsettled.acks(), (vec![], 0));
    }

    proptest! {
        /// A broker that takes the acks at their word has acked what is done and nothing else.
        #[test]
        fn exactly_what_is_done_is_acked(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..300)) {
            let mut unsettled = Unsettled::default();
            let (mut next, mut open, mut done) = (1u64, BTreeSet::new(), BTreeSet::new());
            let mut at_broker = BTreeSet::new();
            for (what, which) in steps {
                match what {
                    0 => {
                        unsettled.arrive(tag(next));
                        open.insert(next);
                        at_broker.insert(next);
                        next += 1;
                    }
                    1 if !open.is_empty() => {
                        let one = *open.iter().nth(which.index(open.len())).unwrap();
                        open.remove(&one);
                        done.insert(one);
                        unsettled.done(tag(one));
                    }
                    2 if !open.is_empty() => {
                        let one = *open.iter().nth(which.index(open.len())).unwrap();
                        open.remove(&one);
                        at_broker.remove(&one);
                        unsettled.settled(tag(one));
                    }
                    _ => {
                        let (acks, count) = unsettled.acks();
                        prop_assert_eq!(count, done.len() as u64);
                        for (DeliveryTag { tag, .. }, how) in acks {
                            match how {
                                Settlement::AckUpTo => at_broker.retain(|other| *other > tag),
                                _ => prop_assert!(at_broker.remove(&tag), "acked twice: {tag}"),
                            }
                        }
                        done.clear();
                        prop_assert_eq!(&at_broker, &open);
                    }
                }
                prop_assert_eq!(unsettled.open, open.len());
            }
        }
    }
}
