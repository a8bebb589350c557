//! What a dead letter is called.
//!
//! A letter needs a name that stays when it is looked at again, is the same on every attempt to replay
//! it, and differs once it has died again. Message ids are not that: a message may have none, and keeps
//! its id through every death. So the name is made from the message and its newest death. Two letters
//! that are the same in all of this, such as copies without an id that died in the same second, share
//! one name; whoever acts on names counts them and treats such twins as undecided.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::delivery::worker::letter::DEATH_TIME;
use crate::message::{FieldValue, Message};

use super::death::{deaths, origin};

/// How often a letter was replayed before.
pub const REPLAY_COUNT: &str = "x-nexus-replay-count";

/// Name of a dead letter: 26 letters and digits. Also the key under which it is replayed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LetterId(String);

impl LetterId {
    /// The name of `message` as it lies in `queue` of `vhost`.
    pub fn of(vhost: &str, queue: &QueueName, message: &Message) -> LetterId {
        let properties = &message.properties;
        let mut hash = Sha256::new();
        // Each part with its length, so that no two lists of parts read the same.
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(vhost.as_bytes());
        part(queue.as_str().as_bytes());
        let origin = origin(properties);
        part(origin.as_ref().map_or("", |origin| origin.queue.as_str()).as_bytes());
        match &properties.message_id {
            Some(id) => {
                part(b"id");
                part(id.as_bytes());
            }
            None => {
                part(b"body");
                part(&message.body);
            }
        }
        if let Some(newest) = deaths(properties).first() {
            part(newest.queue.as_bytes());
            part(newest.reason.as_str().as_bytes());
            part(&newest.count.to_le_bytes());
            part(&newest.first_at.map_or(0, Timestamp::unix_ms).to_le_bytes());
        }
        let said = |name| properties.header(name);
        part(said(DEATH_TIME).and_then(FieldValue::as_text).unwrap_or_default().as_bytes());
        let count = said(REPLAY_COUNT).and_then(FieldValue::as_i64).unwrap_or(0);
        part(&count.to_le_bytes());
        LetterId(base32(&hash.finalize()))
    }

    /// Reads a name; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<LetterId> {
        let is_name = text.len() == LENGTH && text.bytes().all(|byte| ALPHABET.contains(&byte));
        is_name.then(|| LetterId(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LetterId({})", self.0)
    }
}

/// 26 digits of 5 bits each: 130 bits.
const LENGTH: usize = 26;

/// RFC 4648 §6, in small letters: no digit that looks like a letter.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn base32(bytes: &[u8]) -> String {
    let bit = |index: usize| bytes.get(index / 8).map_or(0, |byte| byte >> (7 - index % 8) & 1);
    (0..LENGTH)
        .map(|digit| {
            let value = (0..5).fold(0, |value, at| value << 1 | bit(digit * 5 + at));
            char::from(ALPHABET[usize::from(value)])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{FieldTable, Properties};

    #[test]
    fn the_digits_are_those_of_rfc_4648() {
        // §10: BASE32("foobar") = "MZXW6YTBOI======"; zero bits follow.
        assert_eq!(base32(b"foobar"), "mzxw6ytboiaaaaaaaaaaaaaaaa");
    }

    #[test]
    fn a_letter_keeps_its_name_until_it_dies_or_is_replayed_again() {
        let queue = QueueName::new("dead").unwrap();
        let letter = |id: Option<&str>, body: &str, count: i64, replays: i64| {
            let entry = FieldTable::new()
                .with("queue", "jobs")
                .with("reason", "rejected")
                .with("count", count);
            let headers = FieldTable::new()
                .with("x-death", FieldValue::Array(vec![FieldValue::Table(entry)]))
                .with(REPLAY_COUNT, replays);
            let properties = Properties {
                message_id: id.map(str::to_owned),
                headers: Some(headers),
                ..Properties::default()
            };
            LetterId::of("/", &queue, &Message { properties, body: body.into() })
        };
        let name = letter(Some("a"), "body", 1, 0);
        assert_eq!(name, letter(Some("a"), "body", 1, 0));
        assert_eq!(LetterId::parse(name.as_str()), Some(name.clone()));
        let others = [
            letter(Some("b"), "body", 1, 0),
            letter(Some("a"), "body", 2, 0),
            letter(Some("a"), "body", 1, 1),
            letter(None, "body", 1, 0),
            letter(None, "other", 1, 0),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(*other, name);
            assert!(!others[..at].contains(other));
        }
        assert_eq!(LetterId::parse("short"), None);
        assert_eq!(LetterId::parse(&name.as_str().to_uppercase()), None);
    }
}
