//! Which broker this is, and what its version can do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::base::id::VhostName;

/// A broker's version. Compared by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl Version {
    /// The version `major.minor.patch`.
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Version { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Reads `3.10`, `3.10.8` and `4.0.5-rc.1`: what follows the numbers is dropped.
impl FromStr for Version {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no version such as 3.10 or 4.0.5");
        let mut numbers = [0u16; 3];
        let mut parts = text.splitn(3, '.');
        for (index, number) in numbers.iter_mut().enumerate() {
            let Some(part) = parts.next() else {
                if index < 2 {
                    return Err(wrong());
                }
                break;
            };
            let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
            *number = part[..end].parse().map_err(|_| wrong())?;
        }
        Ok(Version::new(numbers[0], numbers[1], numbers[2]))
    }
}

impl schemars::JsonSchema for Version {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "examples": ["4.0.5"] })
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Who answers behind the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// A RabbitMQ node or cluster.
    RabbitMq,
    /// The broker inside this process, on the state file.
    Embedded,
}

/// Who and where the broker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerIdentity {
    /// Which implementation.
    pub product: Product,
    /// The version; of the embedded broker, the RabbitMQ version that it imitates.
    pub version: Version,
    /// RabbitMQ's cluster name, or the state file's id.
    pub cluster_name: String,
    /// The virtual host all names are in.
    pub vhost: VhostName,
}

/// What differs by version, as facts measured on 3.10.8 and 4.0.5 and read in release notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Quorum queues drop a message after this many returns when nothing else is said.
    pub default_delivery_limit: Option<u32>,
    /// `x-delivery-limit: -1` means unlimited (else: gone at the first return).
    pub unlimited_delivery_limit: bool,
    /// Policies may say `classic_queues`, `quorum_queues`, `streams`.
    pub policy_by_queue_type: bool,
    /// A vhost may name a default queue type.
    pub default_queue_type: bool,
    /// A classic queue declared without a type reads back as `x-queue-type: classic`.
    pub reads_back_classic: bool,
    /// The broker goes on counting in an `x-death` that the publisher sent.
    pub honours_published_x_death: bool,
    /// Quorum queues keep two lanes of priority.
    pub quorum_priorities: bool,
    /// A message takes the count of its failed deliveries along when it is dead-lettered.
    pub carries_delivery_count: bool,
    /// Dead letters that are not at-least-once arrive in a stream.
    pub stream_takes_dead_letters: bool,
    /// Largest message in bytes with the default configuration.
    pub max_message_bytes: u64,
}

impl Capabilities {
    /// What `version` can do.
    pub const fn of(version: Version) -> Self {
        let v4 = version.major >= 4;
        let v3_11 = v4 || version.minor >= 11;
        let v3_12 = v4 || version.minor >= 12;
        Capabilities {
            default_delivery_limit: if v4 { Some(20) } else { None },
            unlimited_delivery_limit: v4,
            policy_by_queue_type: v3_12,
            default_queue_type: v3_11,
            reads_back_classic: v4,
            honours_published_x_death: !v4,
            quorum_priorities: v4,
            carries_delivery_count: v4,
            stream_takes_dead_letters: v3_12,
            max_message_bytes: if v4 { 16_777_216 } else { 134_217_728 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let read = |text: &str| text.parse::<Version>().unwrap();
        assert!(read("3.10.8") > read("3.9"));
        assert!(read("4.0.5-rc.1") < read("4.0.6"));
        assert_eq!(read("3.13"), Version::new(3, 13, 0));
        for text in ["", "4", "four", "4.x"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }
}
