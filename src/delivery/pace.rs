//! A token bucket: so many messages a second, and after a pause no more than a short burst.
//!
//! Pure: it is handed the time that has passed since the start.

use std::time::Duration;

/// How fast messages may go out.
#[derive(Clone, Debug)]
pub struct Pace {
    interval_ns: u128,
    burst_ns: u128,
    next_ns: u128,
    /// How long it takes to reach the rate.
    ramp_ns: u128,
}

impl Pace {
    /// At most `per_second` messages a second (above 0 and finite), in bursts of at most 10 ms' worth.
    /// `None` when there is no such rate.
    pub fn new(per_second: f64) -> Option<Self> {
        if !per_second.is_finite() || per_second <= 0.0 {
            return None;
        }
        let interval = Duration::try_from_secs_f64(1.0 / per_second).ok()?;
        let interval_ns = interval.as_nanos().max(1);
        Some(Pace { interval_ns, burst_ns: 10_000_000, next_ns: 0, ramp_ns: 0 })
    }

    /// The same, reached only after `ramp`: the rate rises evenly, from a tenth of it.
    pub fn rising(per_second: f64, ramp: Duration) -> Option<Self> {
        Some(Pace { ramp_ns: ramp.as_nanos(), ..Pace::new(per_second)? })
    }

    /// The time between two messages, at `now`.
    fn interval_at(&self, now: u128) -> u128 {
        if now >= self.ramp_ns {
            return self.interval_ns;
        }
        // A share of the rate, in thousandths.
        let share = (now * 1000 / self.ramp_ns).max(100);
        self.interval_ns.saturating_mul(1000) / share
    }

    /// How long to wait, at `elapsed` since the start, before the next message may go. Each call
    /// takes one place.
    pub fn wait(&mut self, elapsed: Duration) -> Duration {
        let now = elapsed.as_nanos();
        self.next_ns = self.next_ns.max(now.saturating_sub(self.burst_ns));
        let wait = self.next_ns.saturating_sub(now);
        self.next_ns += self.interval_at(self.next_ns);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as the pace allows and returns the times in milliseconds.
    fn times(pace: &mut Pace, start_ms: u64, count: usize) -> Vec<u64> {
        let mut now = Duration::from_millis(start_ms);
        (0..count)
            .map(|_| {
                now += pace.wait(now);
                u64::try_from(now.as_millis()).unwrap()
            })
            .collect()
    }

    #[test]
    fn messages_go_out_evenly() {
        let mut pace = Pace::new(10.0).unwrap();
        assert_eq!(times(&mut pace, 0, 4), [0, 100, 200, 300]);
    }

    #[test]
    fn a_rising_rate_begins_with_a_tenth_and_ends_with_all_of_it() {
        let mut pace = Pace::rising(100.0, Duration::from_secs(1)).unwrap();
        let times = times(&mut pace, 0, 100);
        assert_eq!(times[..3], [0, 100, 200]);
        assert_eq!(times[99] - times[98], 10);
        assert!(times.windows(2).all(|pair| pair[1] > pair[0]));
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{gaps:?}");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(10.0).unwrap();
        times(&mut pace, 0, 1);
        let after = times(&mut pace, 60_000, 3);
        assert_eq!(after, [60_000, 60_090, 60_190]);
    }

    #[test]
    fn a_thousand_a_second_take_a_second() {
        let mut pace = Pace::new(1000.0).unwrap();
        assert_eq!(times(&mut pace, 0, 1001).last(), Some(&1000));
        assert!(
            Pace::new(0.0).is_none() && Pace::new(f64::NAN).is_none() && Pace::new(-1.0).is_none()
        );
    }
}
