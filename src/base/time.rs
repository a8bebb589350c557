//! Points in time, spans of time, and the clock that is handed to whoever needs one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point in time with millisecond precision, shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    unix_ms: i64,
}

impl Timestamp {
    /// The point `unix_ms` milliseconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_ms(unix_ms: i64) -> Self {
        Timestamp { unix_ms }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_ms(self) -> i64 {
        self.unix_ms
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, as AMQP's `timestamp` property counts.
    pub const fn unix_s(self) -> i64 {
        self.unix_ms.div_euclid(1000)
    }

    /// The point `duration` later; saturates.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Timestamp { unix_ms: self.unix_ms.saturating_add(ms) }
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(
            u64::try_from(self.unix_ms.saturating_sub(earlier.unix_ms)).unwrap_or(0),
        )
    }
}

/// So long ago, in one unit.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    seconds_ago(now.since(then).as_secs())
}

/// So many seconds ago, in one unit.
pub fn seconds_ago(seconds: u64) -> String {
    let unit = match seconds {
        0..=119 => Duration::from_secs(1),
        120..=7_199 => Duration::from_secs(60),
        7_200..=172_799 => Duration::from_secs(3600),
        _ => Duration::from_secs(86_400),
    };
    let number = seconds / unit.as_secs();
    let letter = match unit.as_secs() {
        1 => "s",
        60 => "m",
        3600 => "h",
        _ => "d",
    };
    format!("{number}{letter} ago")
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.unix_ms) {
            Ok(timestamp) => write!(f, "{timestamp:.3}"),
            Err(_) => write!(f, "{} ms since 1970", self.unix_ms),
        }
    }
}

impl FromStr for Timestamp {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<jiff::Timestamp>()
            .map(|timestamp| Timestamp { unix_ms: timestamp.as_millisecond() })
            .map_err(|error| format!("`{text}` is no RFC 3339 time: {error}"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Tells the time. The only thing in the product that may.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock that is handed to the others")]
    fn now(&self) -> Timestamp {
        Timestamp { unix_ms: jiff::Timestamp::now().as_millisecond() }
    }
}

/// A clock that stands where it was set.
#[derive(Debug)]
pub struct FixedClock(std::sync::atomic::AtomicI64);

impl FixedClock {
    /// A clock that shows `at` until it is moved.
    pub fn at(at: Timestamp) -> Self {
        FixedClock(std::sync::atomic::AtomicI64::new(at.unix_ms))
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp { unix_ms: self.0.load(std::sync::atomic::Ordering::SeqCst) }
    }
}

/// A span of time as people write it: `250ms`, `10s`, `1m30s`, `2h`, `7d`. A bare number has no unit
/// and is refused, except `0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// The span in whole milliseconds; saturates.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// The span of `ms` milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        HumanDuration(Duration::from_millis(ms))
    }
}

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.as_ms();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, ms) in UNITS {
            if rest >= ms {
                write!(f, "{}{unit}", rest / ms)?;
                rest %= ms;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{text}` is no duration; write it like 250ms, 10s, 1m30s, 2h or 7d");
        if text == "0" {
            return Ok(HumanDuration(Duration::ZERO));
        }
        let mut total: f64 = 0.0;
        let mut rest = text;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            let after = &rest[digits..];
            let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
            let unit = &after[..end];
            let (_, ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
            #[expect(clippy::cast_precision_loss, reason = "the largest unit is far below 2^53")]
            {
                total += number * *ms as f64;
            }
            rest = &after[end..];
        }
        Duration::try_from_secs_f64(total / 1000.0).map(HumanDuration).map_err(|_| wrong())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_and_write_the_same() {
        for text in ["250ms", "10s", "1m30s", "2h", "7d", "1d2h3m4s5ms"] {
            assert_eq!(text.parse::<HumanDuration>().map(|d| d.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("1.5s".parse::<HumanDuration>().map(HumanDuration::as_ms), Ok(1500));
        for text in ["", "10", "s", "10 s", "1y", "-1s", "1.2.3s", "99999999999999999999999d"] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
    }

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        let timestamp = Timestamp::from_unix_ms(1_700_000_000_123);
        assert_eq!(timestamp.to_string(), "2023-11-14T22:13:20.123Z");
        assert_eq!("2023-11-14T23:13:20.123+01:00".parse(), Ok(timestamp));
    }
}
