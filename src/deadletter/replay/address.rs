//! What is published for a letter: mostly the message as it was before it died, with its story in headers
//! of ours.
//!
//! Pure. Whatever the broker or a worker added by dying is moved into one entry of `x-nexus-history`,
//! so that the message begins anew on every version, and whatever is changed is kept there too:
//! [`as_it_lay`] gives the letter back as it lay in its queue. Only the history itself forgets: it keeps
//! the last [`JOURNEYS`] journeys, and fewer when they are large. The body of a letter that was edited is
//! in the journal of its run ([`is_edited`]).

use std::fmt;
use std::sync::Arc;

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::{Delivery, Publish};
use crate::delivery::worker::letter::{
    ATTEMPTS, FIRST_ATTEMPT, ORIGIN_EXCHANGE, ORIGIN_EXPIRATION, ORIGIN_KEY, ORIGIN_QUEUE,
};
use crate::message::{FieldTable, FieldValue, Message};

use crate::deadletter::death::{deaths, origin};
use crate::deadletter::letter::{LetterId, REPLAY_COUNT};

use super::edit::Edited;
use super::mapping::{Mapping, Place};

/// In a journey: the body was edited, and the one before is in the journal of the run.
const EDITED: &str = "body-edited";

/// Which run published the message.
pub const RUN: &str = "x-nexus-run";
/// The letter's name: the same on every copy that is made of it.
pub const REPLAY_KEY: &str = "x-nexus-replay-key";
/// What the message went through, the newest journey last.
pub const HISTORY: &str = "x-nexus-history";
/// When it died for the first time.
pub const ORIGIN_FIRST_DEATH: &str = "x-nexus-origin-first-death";
/// The `CC` that it had.
pub const ORIGINAL_CC: &str = "x-nexus-orig-cc";
/// The `BCC` that it had.
pub const ORIGINAL_BCC: &str = "x-nexus-orig-bcc";
/// The login that published it, when it is not ours.
pub const ORIGINAL_USER_ID: &str = "x-nexus-orig-user-id";

/// Journeys that are kept.
pub const JOURNEYS: usize = 8;

/// Bytes that the history may have: all headers have to fit into one frame of 128 KiB.
const HISTORY_SIZE: usize = 48 * 1024;

/// What a queue writes on a letter that lies in it: published, it would be taken for the next queue's.
const OF_THE_QUEUE: [&str; 3] = ["x-delivery-count", "x-acquired-count", "x-stream-offset"];
/// What a broker writes on a letter that dies.
const DEATH: &str = "x-death";
const DEATHS_BEGIN: [&str; 2] = ["x-first-death-", "x-last-death-"];
/// What a worker writes on it.
const OUR_DEATHS_BEGIN: &str = "x-nexus-death-";

/// Headers that send a message to further queues, and what they are called where they must not.
const COPIES: [(&str, &str); 2] = [("CC", ORIGINAL_CC), ("BCC", ORIGINAL_BCC)];

/// As what a letter is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dress {
    /// As a message that begins anew.
    Replay {
        /// With the time to live that it had before it died.
        restore_ttl: bool,
        /// With what the broker wrote when it died, so that an old broker goes on counting.
        keep_deaths: bool,
    },
    /// As the dead letter that it is, with a note of where it was.
    Moved,
    /// Not changed in anything, into a file.
    Kept,
    /// As it is in a file, from there to a queue.
    AsItIs,
    /// As it lay where the run that sent it had taken it from.
    AsItLay,
}

/// Where letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each to the queue it died in, and to no other.
    Origin,
    /// All to this queue.
    Queue(QueueName),
    /// Each to the exchange it had been published to, with its key.
    OriginExchange,
    /// All to this exchange, with this key or each with its own.
    Exchange(ExchangeName, Option<RoutingKey>),
    /// Into a bundle, each with the exchange and the key that it came with.
    Bundle,
    /// Each by the rule that fits it.
    Mapped(Arc<Mapping>),
}

impl Target {
    /// Whether an exchange may hand the copies to further queues.
    pub fn is_routed(&self) -> bool {
        match self {
            Target::Origin | Target::Queue(_) | Target::Bundle => false,
            Target::OriginExchange | Target::Exchange(..) | Target::Mapped(_) => true,
        }
    }
}

/// Why a letter has nowhere to go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// Nothing tells where it came from.
    #[error("nothing tells where it came from")]
    NoOrigin,
    /// It would go where it is.
    #[error("it would go where it is")]
    Circular,
    /// No rule is for it.
    #[error("no rule of the map fits it")]
    NoRule,
    /// A rule cannot be decided.
    #[error("a rule of the map cannot be decided: {0}")]
    Undecided(String),
}

/// How letters are made into messages again.
#[derive(Clone, Debug)]
pub struct Sender {
    /// The run.
    pub run: String,
    /// The queue that the letters are in.
    pub queue: QueueName,
    /// Where to.
    pub target: Target,
    /// Our login: the only one that a message may carry.
    pub login: Option<String>,
    /// As what it goes.
    pub dress: Dress,
    /// Whether the targets are on another broker or in another vhost, where the same name is another
    /// queue.
    pub elsewhere: bool,
}

/// Where a letter goes, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The exchange.
    pub exchange: ExchangeName,
    /// The routing key.
    pub key: RoutingKey,
    /// Why.
    pub why: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { exchange, key, .. } = self;
        if exchange.is_default() {
            write!(f, "queue {key}")
        } else {
            write!(f, "exchange {exchange} key {key}")
        }
    }
}

impl Sender {
    /// Where the letter called `id` goes.
    ///
    /// # Errors
    /// When there is no such place.
    pub fn address(&self, delivery: &Delivery, id: &LetterId) -> Result<Address, Nowhere> {
        let origin = origin(&delivery.message.properties);
        let at = |exchange: ExchangeName, key: RoutingKey, why: String| {
            let back = exchange.is_default() && key == self.queue.as_routing_key();
            // What comes from a file may well go to the queue it once lay in.
            if back && !self.elsewhere && self.dress != Dress::AsItIs {
                return Err(Nowhere::Circular);
            }
            Ok(Address { exchange, key, why })
        };
        let to_queue = |queue: &QueueName, why: String| {
            at(ExchangeName::default_exchange(), queue.as_routing_key(), why)
        };
        let own_key = || {
            let key = origin.as_ref().and_then(|o| RoutingKey::new(o.routing_key.clone()).ok());
            key.unwrap_or_else(|| delivery.routing_key.clone())
        };
        if self.dress == Dress::AsItLay && as_it_lay(&delivery.message).is_none() {
            return Err(Nowhere::NoOrigin);
        }
        match &self.target {
            Target::Bundle => Ok(Address {
                exchange: delivery.exchange.clone(),
                key: delivery.routing_key.clone(),
                why: "into the bundle".to_owned(),
            }),
            Target::Queue(queue) => to_queue(queue, "told so".to_owned()),
            Target::Origin => {
                let origin = origin.as_ref().ok_or(Nowhere::NoOrigin)?;
                to_queue(&origin.queue, "it died there".to_owned())
            }
            Target::Exchange(exchange, key) => {
                let key = key.clone().unwrap_or_else(own_key);
                at(exchange.clone(), key, "told so".to_owned())
            }
            Target::OriginExchange => {
                let origin = origin.as_ref().ok_or(Nowhere::NoOrigin)?;
                let exchange = ExchangeName::new(origin.exchange.clone());
                let key = RoutingKey::new(origin.routing_key.clone());
                let (Ok(exchange), Ok(key)) = (exchange, key) else {
                    return Err(Nowhere::NoOrigin);
                };
                if exchange.is_default() && key.as_str().is_empty() {
                    // Only the queue is known: no message gets anywhere so.
                    return Err(Nowhere::NoOrigin);
                }
                at(exchange, key, "it was published there".to_owned())
            }
            Target::Mapped(map) => {
                let found = map.place(delivery, id, &self.queue).map_err(Nowhere::Undecided)?;
                let (place, why) = found.ok_or(Nowhere::NoRule)?;
                match place {
                    Place::Queue(queue) => to_queue(queue, why.to_owned()),
                    Place::Exchange(exchange, key) => {
                        let key = key.clone().unwrap_or_else(own_key);
                        at(exchange.clone(), key, why.to_owned())
                    }
                }
            }
        }
    }

    /// What is published for `delivery`, whose name is `key`.
    ///
    /// # Errors
    /// When it has nowhere to go.
    pub fn letter(&self, delivery: &Delivery, key: &LetterId) -> Result<Publish, Nowhere> {
        Ok(self.letter_to(self.address(delivery, key)?, delivery, key, &Edited::default()))
    }

    /// The same for a letter of which it is known where it goes, and what becomes different in it.
    pub fn letter_to(
        &self,
        to: Address,
        delivery: &Delivery,
        key: &LetterId,
        edited: &Edited,
    ) -> Publish {
        let Address { exchange, key: routing_key, .. } = to;
        Publish { exchange, routing_key, message: self.message(delivery, key, edited) }
    }

    /// The same for a letter that is put aside: it goes to `queue` whatever it is.
    pub fn parked(&self, delivery: &Delivery, key: &LetterId, queue: &QueueName) -> Publish {
        Publish {
            exchange: ExchangeName::default_exchange(),
            routing_key: queue.as_routing_key(),
            message: self.message(delivery, key, &Edited::default()),
        }
    }

    /// Whether `delivery` cannot go as it is or as it lay: it would go to further queues, or the broker
    /// does not take its user id from us.
    pub fn alters(&self, delivery: &Delivery) -> bool {
        let mut message = match self.dress {
            Dress::Replay { .. } | Dress::Moved | Dress::Kept => return false,
            Dress::AsItIs => delivery.message.clone(),
            Dress::AsItLay => match as_it_lay(&delivery.message) {
                Some(message) => message,
                None => return false,
            },
        };
        make_fit(&mut message, self.login.as_deref())
    }

    fn message(&self, delivery: &Delivery, key: &LetterId, edited: &Edited) -> Message {
        let mut message = delivery.message.clone();
        let (restore_ttl, begins_anew, keep_deaths) = match self.dress {
            Dress::Replay { restore_ttl, keep_deaths } => (restore_ttl, true, keep_deaths),
            Dress::Moved => (false, false, true),
            Dress::Kept => return message,
            Dress::AsItIs => {
                make_fit(&mut message, self.login.as_deref());
                return message;
            }
            Dress::AsItLay => {
                message = as_it_lay(&message).unwrap_or(message);
                if let Some(body) = &edited.body {
                    message.body.clone_from(body);
                }
                make_fit(&mut message, self.login.as_deref());
                return message;
            }
        };
        let properties = &mut message.properties;
        let origin = origin(properties);
        let known = deaths(properties);
        let had_headers = properties.headers.is_some();
        let mut change = Change {
            headers: properties.headers.take().unwrap_or_default(),
            moved: FieldTable::new(),
            added: Vec::new(),
        };
        let replays = replays(&change.headers);
        let mut history = match change.headers.get(HISTORY) {
            Some(FieldValue::Array(_)) => match change.headers.remove(HISTORY) {
                Some(FieldValue::Array(journeys)) => journeys,
                _ => Vec::new(),
            },
            _ => Vec::new(),
        };
        let before: Vec<String> = change.headers.iter().map(|(name, _)| name.to_owned()).collect();
        for name in before {
            let is_death =
                name == DEATH || DEATHS_BEGIN.iter().any(|begin| name.starts_with(begin));
            let is_ours =
                name.starts_with(OUR_DEATHS_BEGIN) || name == ATTEMPTS || name == FIRST_ATTEMPT;
            if OF_THE_QUEUE.contains(&name.as_str())
                || is_death && !keep_deaths
                || is_ours && begins_anew
            {
                change.take(&name);
            }
        }
        for (name, kept) in COPIES {
            if let Some(keys) = change.take(name) {
                change.set(kept, keys);
            }
        }
        let mut journey = FieldTable::new()
            .with("dead-letter-queue", self.queue.as_str())
            .with("exchange", delivery.exchange.as_str())
            .with("routing-key", delivery.routing_key.as_str());
        if let Some(mode) = properties.delivery_mode {
            journey.insert("delivery-mode", i64::from(mode));
        }
        properties.delivery_mode = Some(2);
        for name in &edited.removed {
            change.take(name);
        }
        for (name, value) in &edited.set {
            change.set(name, value.clone());
        }
        if let Some(body) = &edited.body {
            message.body.clone_from(body);
            journey.insert(EDITED, true);
            if let Some(encoding) = properties.content_encoding.take() {
                journey.insert("content-encoding", encoding);
            }
        }
        if let Some(expiration) = properties.expiration.take() {
            journey.insert("expiration", expiration);
        }
        let had_ttl = known.first().and_then(|newest| newest.original_expiration.clone());
        let written = change.headers.get(ORIGIN_EXPIRATION).and_then(FieldValue::as_text);
        let had_ttl = written.map(str::to_owned).or(had_ttl);
        if restore_ttl {
            properties.expiration.clone_from(&had_ttl);
        }
        if let Some(user) = properties.user_id.take() {
            if self.login.as_deref() == Some(user.as_str()) {
                properties.user_id = Some(user);
            } else {
                change.set(ORIGINAL_USER_ID, user);
            }
        }
        // Written once: a second journey must not make the place of the first forgotten.
        if change.headers.get(ORIGIN_QUEUE).is_none()
            && let Some(origin) = origin
        {
            change.set(ORIGIN_QUEUE, origin.queue.as_str());
            change.set(ORIGIN_EXCHANGE, origin.exchange);
            change.set(ORIGIN_KEY, origin.routing_key);
            if let Some(ttl) = had_ttl {
                change.set(ORIGIN_EXPIRATION, ttl);
            }
        }
        if change.headers.get(ORIGIN_FIRST_DEATH).is_none()
            && let Some(first) = known.iter().filter_map(|death| death.first_at).min()
        {
            change.set(ORIGIN_FIRST_DEATH, first.to_string());
        }
        change.set(RUN, self.run.as_str());
        change.set(REPLAY_KEY, key.as_str());
        if begins_anew {
            let count = i64::try_from(replays.saturating_add(1)).unwrap_or(i64::MAX);
            change.set(REPLAY_COUNT, count);
        }
        if change.headers.get(HISTORY).is_some() {
            // Somebody else's idea of a history.
            change.take(HISTORY);
        }
        let Change { mut headers, moved, added } = change;
        if had_headers {
            journey.insert("moved", moved);
        }
        let added = added.into_iter().map(FieldValue::from).collect();
        journey.insert("added", FieldValue::Array(added));
        history.push(journey.into());
        shorten(&mut history);
        headers.insert(HISTORY, FieldValue::Array(history));
        properties.headers = Some(headers);
        message
    }
}

/// How often a letter with these headers was replayed before.
pub fn replays(headers: &FieldTable) -> u64 {
    let count = headers.get(REPLAY_COUNT).and_then(FieldValue::as_i64);
    count.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)
}

/// Headers on their way, with an account of what becomes different.
struct Change {
    headers: FieldTable,
    moved: FieldTable,
    added: Vec<String>,
}

impl Change {
    fn take(&mut self, name: &str) -> Option<FieldValue> {
        let value = self.headers.remove(name)?;
        self.moved.insert(name, value.clone());
        Some(value)
    }

    fn set(&mut self, name: &str, value: impl Into<FieldValue>) {
        if let Some(before) = self.headers.insert(name, value) {
            self.moved.insert(name, before);
        }
        self.added.push(name.to_owned());
    }
}

/// Drops the oldest journeys until the rest is no more than can be carried. The newest stays.
fn shorten(history: &mut Vec<FieldValue>) {
    let mut kept = 0;
    let mut bytes = 0;
    for journey in history.iter().rev().take(JOURNEYS) {
        bytes += size(journey);
        if kept > 0 && bytes > HISTORY_SIZE {
            break;
        }
        kept += 1;
    }
    history.drain(..history.len() - kept);
}

/// About as many bytes as it takes on the wire.
fn size(value: &FieldValue) -> usize {
    match value {
        FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => 5 + bytes.len(),
        FieldValue::Array(values) => 5 + values.iter().map(size).sum::<usize>(),
        FieldValue::Table(table) => {
            5 + table.iter().map(|(name, value)| 1 + name.len() + size(value)).sum::<usize>()
        }
        _ => 9,
    }
}

/// Makes a letter fit to be published as it is; whether anything of it had to give way, which is then kept
/// in a header of ours. What its queue wrote on it is left out, for that is the next queue's to write.
fn make_fit(message: &mut Message, login: Option<&str>) -> bool {
    let properties = &mut message.properties;
    let mut altered = false;
    if let Some(headers) = &mut properties.headers {
        let mut removed = false;
        for name in OF_THE_QUEUE {
            removed |= headers.remove(name).is_some();
        }
        if removed && headers.is_empty() {
            properties.headers = None;
        }
    }
    if let Some(headers) = &mut properties.headers {
        for (name, kept) in COPIES {
            if let Some(keys) = headers.remove(name) {
                headers.insert(kept, keys);
                altered = true;
            }
        }
    }
    if let Some(user) = properties.user_id.take() {
        if login == Some(user.as_str()) {
            properties.user_id = Some(user);
        } else {
            properties.headers_mut().insert(ORIGINAL_USER_ID, user);
            altered = true;
        }
    }
    altered
}

/// The newest journey of a message that a replay published.
fn newest_journey(published: &Message) -> Option<&FieldTable> {
    match published.properties.header(HISTORY)? {
        FieldValue::Array(history) => match history.last()? {
            FieldValue::Table(journey) => Some(journey),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a replay put another body into the message: the one before is in the journal of its run
/// ([`Journal::original`](super::store::Journal::original)).
pub fn is_edited(published: &Message) -> bool {
    newest_journey(published)
        .is_some_and(|journey| journey.get(EDITED) == Some(&FieldValue::Bool(true)))
}

/// The letter as it lay in its queue, from what was published for it; older journeys that the history
/// has no room for are missing in it. `None` when the message was not published by a replay. Its body is
/// the one that was published: see [`is_edited`].
pub fn as_it_lay(published: &Message) -> Option<Message> {
    let mut message = published.clone();
    let mut headers = message.properties.headers.take()?;
    let Some(FieldValue::Array(mut history)) = headers.remove(HISTORY) else { return None };
    let Some(FieldValue::Table(journey)) = history.pop() else { return None };
    let Some(FieldValue::Array(added)) = journey.get("added") else { return None };
    // Published without them: these are of the queue that it lies in now.
    for name in OF_THE_QUEUE {
        headers.remove(name);
    }
    let text = |name: &str| journey.get(name).and_then(FieldValue::as_text).map(str::to_owned);
    if let Some(user) = headers.get(ORIGINAL_USER_ID).and_then(FieldValue::as_text)
        && added.iter().any(|name| name.as_text() == Some(ORIGINAL_USER_ID))
    {
        message.properties.user_id = Some(user.to_owned());
    }
    for name in added.iter().filter_map(FieldValue::as_text) {
        headers.remove(name);
    }
    message.properties.delivery_mode = journey
        .get("delivery-mode")
        .and_then(FieldValue::as_i64)
        .and_then(|m| u8::try_from(m).ok());
    message.properties.expiration = text("expiration");
    if let Some(encoding) = text("content-encoding") {
        message.properties.content_encoding = Some(encoding);
    }
    message.properties.headers = match journey.get("moved") {
        Some(FieldValue::Table(moved)) => {
            if !history.is_empty() {
                headers.insert(HISTORY, FieldValue::Array(history));
            }
            for (name, value) in moved.iter() {
                headers.insert(name, value.clone());
            }
            Some(headers)
        }
        _ => None,
    };
    Some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::DeliveryTag;
    use crate::message::Properties;
    use crate::message::arbitrary::{message, same};

    fn sender(target: Target) -> Sender {
        Sender {
            run: "r1".to_owned(),
            queue: QueueName::new("dead").unwrap(),
            target,
            login: Some("me".to_owned()),
            dress: Dress::Replay { restore_ttl: false, keep_deaths: false },
            elsewhere: false,
        }
    }

    fn delivery(message: Message) -> Delivery {
        Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::new("dlx").unwrap(),
            routing_key: RoutingKey::new("jobs").unwrap(),
            redelivered: false,
            message,
        }
    }

    fn dead(queue: &str) -> Message {
        let entry = FieldTable::new()
            .with("queue", queue)
            .with("reason", "rejected")
            .with("count", 2_i64)
            .with("exchange", "agents")
            .with("routing-keys", FieldValue::Array(vec!["a.key".into(), "copy".into()]))
            .with("time", FieldValue::Timestamp(1_700_000_000))
            .with("original-expiration", "5000");
        let headers = FieldTable::new()
            .with("x-death", FieldValue::Array(vec![entry.into()]))
            .with("x-first-death-queue", queue)
            .with("x-delivery-count", 3_i64)
            .with("x-nexus-death-reason", "poison")
            .with("CC", FieldValue::Array(vec!["copy".into()]))
            .with("own", FieldValue::Int16(7));
        let properties = Properties {
            headers: Some(headers),
            user_id: Some("somebody".to_owned()),
            message_id: Some("m1".to_owned()),
            delivery_mode: Some(1),
            ..Properties::default()
        };
        Message { properties, body: b"body".to_vec() }
    }

    fn key() -> LetterId {
        LetterId::parse(&"a".repeat(26)).unwrap()
    }

    #[test]
    fn letters_go_where_they_are_told_to() {
        let queue = |name| QueueName::new(name).unwrap();
        let to = |exchange: &str, key: &str| {
            Ok((ExchangeName::new(exchange).unwrap(), RoutingKey::new(key).unwrap()))
        };
        let exchange = ExchangeName::new("other").unwrap();
        let given = delivery(dead("jobs"));
        for (target, expected) in [
            (Target::Origin, to("", "jobs")),
            (Target::Queue(queue("repaired")), to("", "repaired")),
            (Target::Queue(queue("dead")), Err(Nowhere::Circular)),
            (Target::OriginExchange, to("agents", "a.key")),
            (Target::Exchange(exchange.clone(), None), to("other", "a.key")),
            (Target::Exchange(exchange, Some(RoutingKey::new("k").unwrap())), to("other", "k")),
        ] {
            let found = sender(target.clone()).address(&given, &key());
            assert_eq!(found.map(|to| (to.exchange, to.key)), expected, "{target:?}");
        }
        let origin = sender(Target::Origin);
        let address = |sender: &Sender, message| {
            sender.address(&delivery(message), &key()).map(|to| to.key.to_string())
        };
        assert_eq!(address(&origin, Message::default()), Err(Nowhere::NoOrigin));
        assert_eq!(address(&origin, dead("dead")), Err(Nowhere::Circular));
        let elsewhere = Sender { elsewhere: true, ..origin };
        assert_eq!(address(&elsewhere, dead("dead")), Ok("dead".to_owned()));
    }

    #[test]
    fn a_letter_begins_anew_and_its_story_is_kept() {
        let given = delivery(dead("jobs"));
        let publish = sender(Target::Origin).letter(&given, &key()).unwrap();
        let properties = &publish.message.properties;
        let text = |name| properties.header(name).and_then(FieldValue::as_text);
        for gone in
            ["x-death", "x-first-death-queue", "x-delivery-count", "x-nexus-death-reason", "CC"]
        {
            assert_eq!(properties.header(gone), None, "{gone}");
        }
        assert_eq!(text(RUN), Some("r1"));
        assert_eq!(text(REPLAY_KEY), Some(key().as_str()));
        assert_eq!(properties.header(REPLAY_COUNT), Some(&FieldValue::Int64(1)));
        assert_eq!(text(ORIGIN_QUEUE), Some("jobs"));
        assert_eq!(text(ORIGIN_EXCHANGE), Some("agents"));
        assert_eq!(text(ORIGIN_EXPIRATION), Some("5000"));
        assert_eq!(text(ORIGINAL_USER_ID), Some("somebody"));
        assert_eq!(properties.header(ORIGINAL_CC), given.message.properties.header("CC"));
        assert_eq!(properties.header("own"), Some(&FieldValue::Int16(7)));
        assert_eq!((properties.delivery_mode, &properties.user_id), (Some(2), &None));
        assert_eq!(properties.expiration, None);
        let dress = Dress::Replay { restore_ttl: true, keep_deaths: true };
        let restored = Sender { dress, ..sender(Target::Origin) };
        let restored = restored.letter(&given, &key()).unwrap();
        assert_eq!(restored.message.properties.expiration.as_deref(), Some("5000"));
        let kept = |name| restored.message.properties.header(name).is_some();
        assert!(kept("x-death") && kept("x-first-death-queue") && !kept("x-nexus-death-reason"));
    }

    #[test]
    fn a_moved_letter_is_dead_and_goes_to_no_other_queue() {
        let given = delivery(dead("jobs"));
        let moved = Sender { dress: Dress::Moved, ..sender(Target::Origin) };
        let properties = moved.letter(&given, &key()).unwrap().message.properties;
        for same in ["x-death", "x-first-death-queue", "x-nexus-death-reason", "own"] {
            assert_eq!(properties.header(same), given.message.properties.header(same), "{same}");
        }
        for gone in ["CC", "x-delivery-count", REPLAY_COUNT] {
            assert_eq!(properties.header(gone), None, "{gone}");
        }
        assert_eq!(properties.header(RUN).and_then(FieldValue::as_text), Some("r1"));
    }

    #[test]
    fn from_a_file_a_letter_comes_as_it_was_but_for_what_no_broker_takes() {
        let queue = QueueName::new("dead").unwrap();
        let as_it_is = Sender { dress: Dress::AsItIs, ..sender(Target::Queue(queue)) };
        let mut fit = dead("jobs");
        fit.properties.user_id = Some("me".to_owned());
        fit.properties.headers_mut().remove("CC");
        let mut given = fit.clone();
        fit.properties.headers_mut().remove("x-delivery-count");
        let published = as_it_is.letter(&delivery(given.clone()), &key()).unwrap();
        assert_eq!((published.routing_key.as_str(), &published.message), ("dead", &fit));
        assert!(!as_it_is.alters(&delivery(given.clone())));
        given.properties.user_id = Some("somebody".to_owned());
        let published = as_it_is.letter(&delivery(given.clone()), &key()).unwrap();
        let user = published.message.properties.header(ORIGINAL_USER_ID);
        assert_eq!(user.and_then(FieldValue::as_text), Some("somebody"));
        assert_eq!(published.message.properties.user_id, None);
        assert!(as_it_is.alters(&delivery(given)));
    }

    #[test]
    fn the_origin_is_written_once_and_the_history_is_bounded() {
        let mut message = dead("jobs");
        for journey in 1..=12_i64 {
            let given = delivery(message);
            message = sender(Target::Origin).letter(&given, &key()).unwrap().message;
            let headers = message.properties.headers_mut();
            assert_eq!(headers.get(REPLAY_COUNT), Some(&FieldValue::Int64(journey)));
            assert_eq!(headers.get(ORIGIN_QUEUE).and_then(FieldValue::as_text), Some("jobs"));
            let Some(FieldValue::Array(history)) = headers.get(HISTORY) else { panic!() };
            assert_eq!(history.len() as u64, journey.unsigned_abs().min(JOURNEYS as u64));
            let entry = FieldTable::new().with("queue", "retry.30s").with("reason", "expired");
            let deaths: Vec<FieldValue> = (0..4).map(|_| entry.clone().into()).collect();
            headers.insert("x-death", FieldValue::Array(deaths));
        }
        let headers = message.properties.headers_mut();
        headers.insert("x-nexus-death-error", "e".repeat(40_000));
        let first = sender(Target::Origin).letter(&delivery(message), &key()).unwrap().message;
        let mut again = first;
        again.properties.headers_mut().insert("x-nexus-death-error", "e".repeat(40_000));
        let last = sender(Target::Origin).letter(&delivery(again), &key()).unwrap().message;
        let Some(FieldValue::Array(history)) = last.properties.header(HISTORY) else { panic!() };
        assert_eq!(history.len(), 1, "the older one is too large to be carried as well");
    }

    proptest! {
        #[test]
        fn an_edited_letter_is_given_back_by_what_is_kept(
            message in message(),
            new in any::<Vec<u8>>(),
            keep in any::<bool>(),
        ) {
            let mut message = message;
            if keep {
                message.properties.headers_mut().insert("changed", "before");
                message.properties.headers_mut().insert("gone", 1_i64);
            }
            let edited = Edited {
                set: vec![("changed".to_owned(), "after".into()), ("more".to_owned(), true.into())],
                removed: vec!["gone".to_owned()],
                body: Some(new.clone()),
            };
            let sender = sender(Target::Queue(QueueName::new("q").unwrap()));
            let given = delivery(message.clone());
            let to = sender.address(&given, &key()).unwrap();
            let published = sender.letter_to(to, &given, &key(), &edited).message;
            prop_assert!(is_edited(&published));
            prop_assert_eq!(&published.body, &new);
            prop_assert_eq!(&published.properties.content_encoding, &None);
            prop_assert_eq!(published.properties.header("changed"), Some(&"after".into()));
            prop_assert_eq!(published.properties.header("gone"), None);
            let mut back = as_it_lay(&published).unwrap();
            back.body.clone_from(&message.body);
            prop_assert!(same(&back, &message));
            let plain = sender.letter(&given, &key()).unwrap().message;
            prop_assert!(!is_edited(&plain));
        }

        #[test]
        fn nothing_of_a_letter_is_lost(message in message(), cc in any::<bool>()) {
            let mut message = message;
            if cc {
                message.properties.headers_mut().insert("CC", FieldValue::Array(vec!["x".into()]));
                message.properties.headers_mut().insert(ORIGINAL_CC, "an older one");
                message.properties.headers_mut().insert(HISTORY, "no history of ours");
            }
            let given = delivery(message.clone());
            let published = sender(Target::Queue(QueueName::new("q").unwrap()))
                .letter(&given, &key())
                .unwrap();
            prop_assert_eq!(&published.message.body, &message.body);
            prop_assert!(same(&as_it_lay(&published.message).unwrap(), &message));
            let moved = Sender { dress: Dress::Moved, ..sender(Target::Origin) };
            let mut moved = moved.parked(&given, &key(), &QueueName::new("q").unwrap()).message;
            moved.properties.headers_mut().insert("x-delivery-count", 7);
            prop_assert!(same(&as_it_lay(&moved).unwrap(), &message));
            // And once more, with the history of the first time.
            let mut again = published.message;
            again.properties.headers_mut().insert("x-death", "odd");
            let twice = sender(Target::Queue(QueueName::new("q").unwrap()))
                .letter(&delivery(again.clone()), &key())
                .unwrap();
            prop_assert!(same(&as_it_lay(&twice.message).unwrap(), &again));
        }
    }
}
