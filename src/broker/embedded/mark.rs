//! What is kept about a message beside what its publisher said: one number in its row.

/// Marks of a message and two counters, packed as they lie in the state file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(i64);

const REDELIVERED: i64 = 1;
const DIED: i64 = 2;
const HIGH: i64 = 4;
// 8 was used by format 1 and is free.
const KEYS_SPENT: i64 = 16;
const RETURNS_AT: u32 = 8;
const FAILURES_AT: u32 = 32;
const RETURNS_MAX: i64 = (1 << (FAILURES_AT - RETURNS_AT)) - 1;
const FAILURES_MAX: i64 = (1 << (63 - FAILURES_AT)) - 1;

impl Mark {
    pub(super) const fn from_stored(number: i64) -> Mark {
        Mark(number)
    }

    pub(super) const fn stored(self) -> i64 {
        self.0
    }

    const fn has(self, flag: i64) -> bool {
        self.0 & flag != 0
    }

    /// Whether the queue it lies in handed it out before.
    pub(super) const fn is_redelivered(self) -> bool {
        self.has(REDELIVERED)
    }

    /// Whether its `x-death` is the broker's own.
    pub(super) const fn has_died(self) -> bool {
        self.has(DIED)
    }

    /// Whether it belongs into a quorum queue's lane of high priority.
    pub(super) const fn is_high(self) -> bool {
        self.has(HIGH)
    }

    /// Whether a queue has sent it on by a key of its own: what its `CC` and `BCC` say is no key any
    /// more.
    pub(super) const fn keys_are_spent(self) -> bool {
        self.has(KEYS_SPENT)
    }

    /// How often the quorum queue it lies in got it back.
    pub(super) const fn returns(self) -> i64 {
        (self.0 >> RETURNS_AT) & RETURNS_MAX
    }

    /// How often quorum queues of 4.0 took its consumer to have failed on it; it takes this along
    /// from queue to queue.
    pub(super) const fn failures(self) -> i64 {
        self.0 >> FAILURES_AT
    }

    /// What a new `x-delivery-count` in a quorum queue says, when there is something to say.
    pub(super) fn delivery_count(self) -> Option<i64> {
        [self.returns(), self.failures()].into_iter().find(|count| *count > 0)
    }

    pub(super) const fn high(self) -> Mark {
        Mark(self.0 | HIGH)
    }

    pub(super) const fn redelivered(self) -> Mark {
        Mark(self.0 | REDELIVERED)
    }

    /// Back in a quorum queue.
    pub(super) const fn returned(self) -> Mark {
        if self.returns() < RETURNS_MAX {
            Mark(self.0 + (1 << RETURNS_AT)).redelivered()
        } else {
            self.redelivered()
        }
    }

    pub(super) const fn failed(self) -> Mark {
        if self.failures() < FAILURES_MAX { Mark(self.0 + (1 << FAILURES_AT)) } else { self }
    }

    /// What is left of it when the message leaves its queue by dying.
    pub(super) const fn dead(self, keys_spent: bool) -> Mark {
        let spent = if keys_spent { KEYS_SPENT } else { 0 };
        Mark((self.0 & (FAILURES_MAX << FAILURES_AT)) | DIED | spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_do_not_touch_each_other_nor_the_flags() {
        let mut mark = Mark::default().high();
        for n in 1..=300 {
            mark = mark.returned();
            if n % 3 == 0 {
                mark = mark.failed();
            }
        }
        assert_eq!((mark.returns(), mark.failures()), (300, 100));
        assert!(mark.is_high() && mark.is_redelivered());
        assert!(!mark.has_died() && !mark.keys_are_spent());
        let full = Mark(RETURNS_MAX << RETURNS_AT | FAILURES_MAX << FAILURES_AT);
        let fuller = full.returned().failed();
        assert_eq!((fuller.returns(), fuller.failures()), (RETURNS_MAX, FAILURES_MAX));
    }

    #[test]
    fn death_keeps_the_failures_and_forgets_the_queue() {
        let dead = Mark::default().high().returned().failed().failed().dead(true);
        assert_eq!((dead.returns(), dead.failures()), (0, 2));
        assert!(dead.has_died() && dead.keys_are_spent());
        assert!(!dead.is_high() && !dead.is_redelivered());
        assert!(!Mark::default().dead(false).keys_are_spent());
    }

    #[test]
    fn what_was_carried_shows_until_the_queue_itself_has_something_to_count() {
        let carried = Mark::default().failed().failed().dead(false);
        assert_eq!(carried.delivery_count(), Some(2));
        assert_eq!(carried.returned().delivery_count(), Some(1));
        assert_eq!(Mark::default().delivery_count(), None);
    }
}
