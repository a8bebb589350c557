//! How long to wait before trying again: exponential growth, a cap, full jitter.
//!
//! Full jitter means that the wait is any span between zero and the ceiling, all equally likely.
//! Clients that lost the same broker at the same moment then do not come back together.

use std::time::Duration;

/// Waits between attempts. The ceiling of wait number n (from 0) is `base * 2^n`, at most `cap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts with the ceiling `base` and never goes beyond `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Backoff { base, cap, attempt: 0 }
    }

    /// How many waits were handed out since the start or the last reset.
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The same waits from number `attempt` on, for who counts the attempts elsewhere.
    #[must_use]
    pub const fn starting_at(self, attempt: u32) -> Self {
        Backoff { attempt, ..self }
    }

    /// The longest that the next wait can be.
    pub fn ceiling(&self) -> Duration {
        let factor = 1u32.checked_shl(self.attempt).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).unwrap_or(self.cap).min(self.cap)
    }

    /// The next wait; `dice` are 64 random bits, equally likely each.
    pub fn next_wait(&mut self, dice: u64) -> Duration {
        let ceiling = u64::try_from(self.ceiling().as_nanos()).unwrap_or(u64::MAX);
        self.attempt = self.attempt.saturating_add(1);
        // The high word of a 128-bit product scales the dice to 0..=ceiling without a division.
        let span = u128::from(ceiling) + 1;
        let nanos = (u128::from(dice) * span) >> 64;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(ceiling))
    }

    /// Starts again after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let mut backoff = Backoff::new(MS(100), MS(1000));
        let mut ceilings = Vec::new();
        for _ in 0..6 {
            ceilings.push(backoff.ceiling());
            backoff.next_wait(0);
        }
        assert_eq!(ceilings, [100, 200, 400, 800, 1000, 1000].map(MS));
        backoff.reset();
        assert_eq!(backoff.ceiling(), MS(100));
    }

    #[test]
    fn the_dice_reach_from_nothing_to_the_ceiling() {
        let backoff = Backoff::new(MS(100), MS(1000));
        assert_eq!(backoff.clone().next_wait(0), Duration::ZERO);
        assert_eq!(backoff.clone().next_wait(u64::MAX), MS(100));
        assert_eq!(backoff.clone().next_wait(u64::MAX / 2 + 1), MS(50));
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_its_ceiling_nor_the_cap(
            base in 0u64..1 << 40,
            cap in 0u64..1 << 40,
            dice in proptest::collection::vec(any::<u64>(), 1..80),
        ) {
            let mut backoff = Backoff::new(MS(base), MS(cap));
            for dice in dice {
                let ceiling = backoff.ceiling();
                prop_assert!(ceiling <= MS(cap));
                prop_assert!(backoff.next_wait(dice) <= ceiling);
            }
        }
    }
}
