//! Which letters are meant: one language for every command, asked of a live delivery or of a scan. Pure.
//!
//! A letter is meant when one of the names fits it, if any are given, and the condition holds and it
//! died in the span of time; of those, `first` or `last` takes so many.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::base::expression::{Context, Expression};
use crate::base::id::QueueName;
use crate::base::time::Timestamp;
use crate::broker::Delivery;
use crate::delivery::filter::{FILTER_VARIABLES, with_variable};

use super::fingerprint::Fingerprint;
use super::letter::LetterId;
use super::sighting::Told;

/// The names that a condition may use: those of every filter, and what is known of a letter.
pub const LETTER_VARIABLES: [&str; 7] =
    ["deaths", "reason", "origin", "id", "group", "position", "diedAt"];

/// Letters of an id that name it at least.
pub const SHORTEST_PREFIX: usize = 4;

/// The beginning of a letter's id, or all of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IdPrefix(String);

impl IdPrefix {
    /// Reads an id or the first of its letters, at least 4; `None` when it cannot be that.
    pub fn parse(text: &str) -> Option<IdPrefix> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte);
        let length = (SHORTEST_PREFIX..=26).contains(&text.len());
        (length && text.bytes().all(fits)).then(|| IdPrefix(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is all of an id.
    pub fn is_whole(&self) -> bool {
        LetterId::parse(&self.0).is_some()
    }

    /// Whether `id` begins so.
    pub fn fits(&self, id: &LetterId) -> bool {
        id.as_str().starts_with(&self.0)
    }
}

/// Which letters are meant, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Written", try_from = "Written")]
pub struct Selection {
    /// Letters by name.
    pub ids: Vec<IdPrefix>,
    /// Groups by name: letters of any of them.
    pub groups: Vec<Fingerprint>,
    /// A CEL condition.
    pub condition: Option<String>,
    /// Died then or later; a letter that does not tell when is not meant.
    pub since: Option<Timestamp>,
    /// Died before.
    pub until: Option<Timestamp>,
    /// Only so many from the head.
    pub first: Option<u64>,
    /// Only so many from the tail. Needs to be told how many there are: see [`Selector::needs_total`].
    pub last: Option<u64>,
}

/// A selection as a journal keeps it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    names: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
}

impl From<Selection> for Written {
    fn from(selection: Selection) -> Written {
        let Selection { ids, groups, condition, since, until, first, last } = selection;
        let ids = ids.into_iter().map(|IdPrefix(id)| id);
        Written {
            names: ids.chain(groups.iter().map(ToString::to_string)).collect(),
            condition,
            since_ms: since.map(Timestamp::unix_ms),
            until_ms: until.map(Timestamp::unix_ms),
            first,
            last,
        }
    }
}

impl TryFrom<Written> for Selection {
    type Error = SelectError;

    fn try_from(written: Written) -> Result<Selection, SelectError> {
        let Written { names, condition, since_ms, until_ms, first, last } = written;
        let mut selection = Selection {
            condition,
            since: since_ms.map(Timestamp::from_unix_ms),
            until: until_ms.map(Timestamp::from_unix_ms),
            first,
            last,
            ..Selection::default()
        };
        for name in &names {
            selection.add(name)?;
        }
        Ok(selection)
    }
}

/// Why a selection cannot be used, or not on this letter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// It is wrong in itself.
    #[error("{0}")]
    Invalid(String),
    /// A short name fits several letters.
    #[error("`{prefix}` begins the names of several letters, {first} and {second} among them")]
    Ambiguous {
        /// The short name.
        prefix: String,
        /// The letter that was seen first.
        first: LetterId,
        /// Another one.
        second: LetterId,
    },
    /// The condition cannot be decided for this letter, for example for want of a header. Most callers
    /// take such a letter for not meant, and count it.
    #[error("the condition cannot be decided: {0}")]
    Undecided(String),
    /// The last ones are asked for, and nobody has told how many there are.
    #[error("the last letters can be told only when it is known how many are meant in all")]
    NeedsTotal,
}

impl Selection {
    /// Whether every letter is meant.
    pub fn is_all(&self) -> bool {
        *self == Selection::default()
    }

    /// Whether the condition asks for a letter's place.
    pub fn asks_for_places(&self) -> bool {
        let uses = self.condition.as_deref().and_then(|condition| read(condition).ok());
        uses.is_some_and(|(_, uses)| uses.contains(&"position"))
    }

    /// Adds what a word names: an id, the beginning of one, or a group.
    ///
    /// # Errors
    /// When it can be neither.
    pub fn add(&mut self, word: &str) -> Result<(), SelectError> {
        if let Some(group) = Fingerprint::parse(word) {
            self.groups.push(group);
        } else if let Some(id) = IdPrefix::parse(word) {
            self.ids.push(id);
        } else {
            return Err(SelectError::Invalid(format!(
                "`{word}` is neither a letter's id, which is 26 letters and digits and may be cut short to \
                 {SHORTEST_PREFIX}, nor a group such as g-abcdefgh23"
            )));
        }
        Ok(())
    }

    /// Adds the ids and groups of a selection file: documents that `dlq groups`, `dlq letters` or
    /// `dlq show` print with `-o json` or `-o ndjson`, or one name on each line.
    ///
    /// # Errors
    /// When it is neither, or names nothing.
    pub fn add_file(&mut self, text: &str) -> Result<(), SelectError> {
        let before = self.ids.len() + self.groups.len();
        if text.trim_start().starts_with('{') {
            for document in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
                let document = document.map_err(|error| {
                    SelectError::Invalid(format!("the selection file is no JSON: {error}"))
                })?;
                self.add_document(&document)?;
            }
        } else {
            let words = text.lines().map(str::trim).filter(|line| !line.is_empty());
            for word in words.filter(|line| !line.starts_with('#')) {
                self.add(word)?;
            }
        }
        if self.ids.len() + self.groups.len() == before {
            return Err(SelectError::Invalid(
                "the selection file names no letter and no group, and would mean every letter"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn add_document(&mut self, document: &Value) -> Result<(), SelectError> {
        for list in ["letters", "groups"] {
            for item in document.get(list).and_then(Value::as_array).into_iter().flatten() {
                self.add_document(item)?;
            }
        }
        // A letter also names its group, and is meant alone.
        let name = document.get("id").or_else(|| document.get("group")).and_then(Value::as_str);
        name.map_or(Ok(()), |name| self.add(name))
    }
}

/// What is known of a letter from an earlier look.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its name.
    pub id: &'a LetterId,
    /// Its group.
    pub group: Fingerprint,
    /// Whether its whole body is at hand.
    pub whole: bool,
}

/// Reads an expression over the names that a condition may use, and tells which of them it does.
fn read(source: &str) -> Result<(Expression, Vec<&'static str>), SelectError> {
    let known: Vec<&'static str> =
        FILTER_VARIABLES.iter().chain(&LETTER_VARIABLES).copied().collect();
    let expression = Expression::parse_with(source, &known)
        .map_err(|error| SelectError::Invalid(error.to_string()))?;
    let uses =
        known.into_iter().filter(|name| expression.variables().any(|v| v == *name)).collect();
    Ok((expression, uses))
}

/// Tells letters apart whose order matters among themselves: by the value of an expression over what a
/// condition may use.
#[derive(Clone, Debug)]
pub struct Lanes {
    key: Expression,
    uses: Vec<&'static str>,
    vhost: String,
    queue: QueueName,
}

impl Lanes {
    /// Makes ready to tell letters in `queue` of `vhost` apart by `key`.
    ///
    /// # Errors
    /// When the expression cannot be read.
    pub fn new(key: &str, vhost: &str, queue: &QueueName) -> Result<Lanes, SelectError> {
        let (key, uses) = read(key)?;
        Ok(Lanes { key, uses, vhost: vhost.to_owned(), queue: queue.clone() })
    }

    /// The lane of a letter: letters with the same value are in the same one.
    ///
    /// # Errors
    /// When it has no value for this letter.
    pub fn lane(&self, position: u64, delivery: &Delivery) -> Result<u64, SelectError> {
        let undecided =
            |why: String| SelectError::Undecided(format!("the key by which order is kept: {why}"));
        let told = Told::of(delivery);
        let id = self
            .uses
            .contains(&"id")
            .then(|| LetterId::of(&self.vhost, &self.queue, &delivery.message));
        let group = self.uses.contains(&"group").then(|| told.traits(delivery).fingerprint());
        let named = Named { told: &told, id: id.as_ref(), group, position };
        let value = self
            .key
            .evaluate(&context_of(&self.uses, delivery, &self.queue, &named))
            .map_err(|error| undecided(error.to_string()))?;
        if value.is_null() {
            return Err(undecided("it is null".to_owned()));
        }
        let digest = Sha256::digest(value.to_string());
        Ok(digest.iter().take(8).fold(0, |lane, byte| lane << 8 | u64::from(*byte)))
    }
}

/// Decides letter by letter, in the order of the queue.
#[derive(Clone, Debug)]
pub struct Selector {
    selection: Selection,
    condition: Option<Expression>,
    /// Of the names a condition may use, those that it does.
    uses: Vec<&'static str>,
    vhost: String,
    queue: QueueName,
    /// The names of letters, to be looked up.
    names: BTreeSet<String>,
    /// Which letter each short name meant.
    meant: BTreeMap<IdPrefix, LetterId>,
    matched: u64,
    total: Option<u64>,
}

impl Selector {
    /// Makes ready to decide about the letters in `queue` of `vhost`.
    ///
    /// # Errors
    /// When the condition cannot be read, or both the first and the last are asked for.
    pub fn new(
        selection: &Selection,
        vhost: &str,
        queue: &QueueName,
    ) -> Result<Selector, SelectError> {
        if selection.first.is_some() && selection.last.is_some() {
            return Err(SelectError::Invalid(
                "either the first or the last letters can be asked for".to_owned(),
            ));
        }
        let (condition, uses) = match &selection.condition {
            Some(source) => {
                let (condition, uses) = read(source)?;
                (Some(condition), uses)
            }
            None => (None, Vec::new()),
        };
        Ok(Selector {
            selection: selection.clone(),
            condition,
            uses,
            vhost: vhost.to_owned(),
            queue: queue.clone(),
            names: selection.ids.iter().map(|IdPrefix(id)| id.clone()).collect(),
            meant: BTreeMap::new(),
            matched: 0,
            total: None,
        })
    }

    /// Whether the last so many are asked for, so that [`Selector::set_total`] has to be called before
    /// [`Selector::wants`]. The number is that of all letters for which [`Selector::matches`] is true,
    /// which a scan or a first pass tells.
    pub fn needs_total(&self) -> bool {
        self.selection.last.is_some() && self.total.is_none()
    }

    /// Tells how many letters match when neither first nor last limits them.
    pub fn set_total(&mut self, matching: u64) {
        self.total = Some(matching);
    }

    /// Whether nothing after the letters decided so far can be meant.
    pub fn is_done(&self) -> bool {
        self.selection.first.is_some_and(|first| self.matched >= first)
    }

    /// Whether bodies have to be there to decide.
    pub fn needs_bodies(&self) -> bool {
        self.uses.contains(&"body")
            || self.uses.contains(&"group")
            || !self.selection.groups.is_empty()
    }

    /// Whether a letter is meant, of those that come in the order of the queue. `position` is its place,
    /// from 1.
    ///
    /// # Errors
    /// When it cannot be decided; the letter is then not counted.
    pub fn wants(&mut self, position: u64, delivery: &Delivery) -> Result<bool, SelectError> {
        if self.is_done() {
            return Ok(false);
        }
        if self.needs_total() {
            return Err(SelectError::NeedsTotal);
        }
        if !self.matches(position, delivery)? {
            return Ok(false);
        }
        self.matched += 1;
        let skipped = match (self.selection.last, self.total) {
            (Some(last), Some(total)) => total.saturating_sub(last),
            _ => 0,
        };
        Ok(self.matched > skipped)
    }

    /// Whether a letter is meant when neither first nor last limits how many.
    ///
    /// # Errors
    /// When it cannot be decided.
    pub fn matches(&mut self, position: u64, delivery: &Delivery) -> Result<bool, SelectError> {
        self.decide(position, delivery, None)
    }

    /// [`Selector::matches`] for a letter of which some is known already, perhaps more than is left of
    /// its body.
    ///
    /// # Errors
    /// When it cannot be decided.
    pub fn decide(
        &mut self,
        position: u64,
        delivery: &Delivery,
        known: Option<&Known<'_>>,
    ) -> Result<bool, SelectError> {
        let by_id = !self.selection.ids.is_empty();
        let by_group = !self.selection.groups.is_empty();
        let id = (by_id || self.uses.contains(&"id")).then(|| {
            let seen = || LetterId::of(&self.vhost, &self.queue, &delivery.message);
            known.map_or_else(seen, |known| known.id.clone())
        });
        let told = Told::of(delivery);
        let group = (by_group || self.uses.contains(&"group")).then(|| {
            let seen = || told.traits(delivery).fingerprint();
            known.map_or_else(seen, |known| known.group)
        });
        if by_id || by_group {
            let named = match &id {
                Some(id) if by_id => self.names(id)?,
                _ => false,
            };
            let grouped = group.is_some_and(|group| self.selection.groups.contains(&group));
            if !named && !grouped {
                return Ok(false);
            }
        }
        let died_at = told.died_at();
        let Selection { since, until, .. } = &self.selection;
        if since.is_some() || until.is_some() {
            let Some(at) = died_at else { return Ok(false) };
            if since.is_some_and(|since| at < since) || until.is_some_and(|until| at >= until) {
                return Ok(false);
            }
        }
        let Some(condition) = &self.condition else { return Ok(true) };
        let cut = known.is_some_and(|known| !known.whole);
        if cut && (self.uses.contains(&"body") || self.uses.contains(&"size")) {
            return Err(SelectError::Undecided("its body was not kept whole".to_owned()));
        }
        let named = Named { told: &told, id: id.as_ref(), group, position };
        let context = context_of(&self.uses, delivery, &self.queue, &named);
        condition.evaluate_bool(&context).map_err(|error| SelectError::Undecided(error.to_string()))
    }

    /// Whether one of the names begins that of the letter.
    fn names(&mut self, id: &LetterId) -> Result<bool, SelectError> {
        let mut named = false;
        // A hundred thousand names are looked up, not gone through for each letter.
        let begins = (SHORTEST_PREFIX..=id.as_str().len()).filter_map(|end| id.as_str().get(..end));
        let begins: Vec<&str> = begins.filter(|begin| self.names.contains(*begin)).collect();
        for prefix in begins.into_iter().map(|begin| IdPrefix(begin.to_owned())) {
            match self.meant.get(&prefix) {
                // Twins have one name; all of them are meant.
                Some(first) if first == id => {}
                Some(first) => {
                    return Err(SelectError::Ambiguous {
                        prefix: prefix.as_str().to_owned(),
                        first: first.clone(),
                        second: id.clone(),
                    });
                }
                None => {
                    self.meant.insert(prefix, id.clone());
                }
            }
            named = true;
        }
        Ok(named)
    }

    /// The names that no letter had so far.
    pub fn unmet(&self) -> Vec<&str> {
        let met = |prefix: &&IdPrefix| !self.meant.contains_key(*prefix);
        self.selection.ids.iter().filter(met).map(IdPrefix::as_str).collect()
    }
}

/// What is known of a letter beside its delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Named<'a> {
    /// What its headers tell.
    pub(crate) told: &'a Told,
    /// Its name.
    pub(crate) id: Option<&'a LetterId>,
    /// Its group.
    pub(crate) group: Option<Fingerprint>,
    /// Its place.
    pub(crate) position: u64,
}

/// What all the names stand for that an expression uses.
fn context_of<'a>(
    uses: &[&'static str],
    delivery: &'a Delivery,
    queue: &QueueName,
    named: &Named<'_>,
) -> Context<'a> {
    uses.iter().fold(Context::new(), |context, name| {
        with_letter(context, name, delivery, queue.as_str(), named)
    })
}

/// The context with one of the names that a condition about letters may use.
pub(crate) fn with_letter<'a>(
    context: Context<'a>,
    name: &'static str,
    delivery: &'a Delivery,
    queue: &str,
    named: &Named<'_>,
) -> Context<'a> {
    let Named { told, id, group, position } = named;
    match name {
        "deaths" => context.with_owned(name, plain_deaths(told)),
        "reason" => context.with_owned(name, told.reason().into()),
        "origin" => context.with_owned(name, plain_origin(told)),
        "id" => context.with_owned(name, id.map(LetterId::as_str).into()),
        "group" => context.with_owned(name, group.map(|group| group.to_string()).into()),
        "position" => context.with_owned(name, (*position).into()),
        "diedAt" => context.with_owned(name, told.died_at().map_or(0, Timestamp::unix_s).into()),
        _ => with_variable(context, name, delivery, queue),
    }
}

fn plain_deaths(told: &Told) -> Value {
    told.deaths
        .iter()
        .map(|death| {
            json!({
                "queue": death.queue,
                "reason": death.reason.as_str(),
                "count": death.count,
                "firstAt": death.first_at.map_or(0, Timestamp::unix_s),
                "exchange": death.exchange,
                "routingKeys": death.routing_keys,
            })
        })
        .collect()
}

fn plain_origin(told: &Told) -> Value {
    let origin = told.origin.as_ref();
    json!({
        "queue": origin.map_or("", |origin| origin.queue.as_str()),
        "exchange": origin.map_or("", |origin| origin.exchange.as_str()),
        "routingKey": origin.map_or("", |origin| origin.routing_key.as_str()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::id::{ExchangeName, RoutingKey};
    use crate::broker::DeliveryTag;
    use crate::message::{FieldTable, FieldValue, Message, Properties};

    fn queue() -> QueueName {
        QueueName::new("dead").unwrap()
    }

    fn letter(number: u64) -> Delivery {
        let entry = FieldTable::new()
            .with("queue", if number.is_multiple_of(2) { "even" } else { "odd" })
            .with("reason", "rejected")
            .with("count", 2)
            .with("exchange", "orders")
            .with("routing-keys", FieldValue::Array(vec!["order.new".into()]))
            .with("time", FieldValue::Timestamp(1_700_000_000 + number));
        let headers =
            FieldTable::new().with("x-death", FieldValue::Array(vec![FieldValue::Table(entry)]));
        let properties = Properties {
            message_id: Some(format!("m{number}")),
            headers: Some(headers),
            ..Properties::default()
        };
        Delivery {
            tag: DeliveryTag { generation: 0, tag: number },
            exchange: ExchangeName::default_exchange(),
            routing_key: RoutingKey::new("dead").unwrap(),
            redelivered: false,
            message: Message { properties, body: format!("{{\"n\":{number}}}").into_bytes() },
        }
    }

    fn id(number: u64) -> String {
        LetterId::of("/", &queue(), &letter(number).message).to_string()
    }

    fn chosen(selection: &Selection, of: u64) -> Vec<u64> {
        let mut selector = Selector::new(selection, "/", &queue()).unwrap();
        if selector.needs_total() {
            let mut count = selector.clone();
            let all = (1..=of).filter(|n| count.matches(*n, &letter(*n)) == Ok(true)).count();
            selector.set_total(all as u64);
        }
        (1..=of).filter(|n| selector.wants(*n, &letter(*n)).unwrap()).collect()
    }

    fn on(condition: &str) -> Selection {
        Selection { condition: Some(condition.to_owned()), ..Selection::default() }
    }

    #[test]
    fn a_selection_comes_back_from_a_journal_as_it_was() {
        let mut selection = Selection {
            condition: Some("size > 3".to_owned()),
            since: Some(Timestamp::from_unix_ms(5)),
            first: Some(2),
            ..Selection::default()
        };
        selection.add("abcd").unwrap();
        selection.add("g-abcdefgh23").unwrap();
        let written = serde_json::to_string(&selection).unwrap();
        assert_eq!(serde_json::from_str::<Selection>(&written).unwrap(), selection, "{written}");
        assert!(serde_json::from_str::<Selection>(r#"{"names":["no!"]}"#).is_err());
        assert_eq!(serde_json::to_string(&Selection::default()).unwrap(), "{}");
    }

    #[test]
    fn a_condition_sees_the_letter_and_its_deaths() {
        for (condition, meant) in [
            ("deaths[0].queue == 'even' && deaths[0].count == 2", vec![2, 4, 6]),
            ("reason == 'rejected' && position > 4", vec![5, 6]),
            ("origin.queue == 'odd' && origin.exchange == 'orders'", vec![1, 3, 5]),
            ("diedAt >= 1700000005 && body.n < 6", vec![5]),
            ("properties.messageId == 'm3' && queue == 'dead'", vec![3]),
            ("deaths.exists(d, 'order.new' in d.routingKeys) && size > 100", vec![]),
        ] {
            assert_eq!(chosen(&on(condition), 6), meant, "{condition}");
        }
        assert_eq!(chosen(&on(&format!("id == '{}'", id(4))), 6), [4]);
        let mut missing = Selector::new(&on("headers.none == 1"), "/", &queue()).unwrap();
        assert!(matches!(missing.wants(1, &letter(1)), Err(SelectError::Undecided(_))));
        assert!(Selector::new(&on("deadth == 1"), "/", &queue()).is_err());
    }

    #[test]
    fn names_are_any_of_them_and_the_rest_narrows() {
        let mut selection = Selection::default();
        selection.add(&id(2)).unwrap();
        selection.add(&id(5)[..8]).unwrap();
        assert_eq!(chosen(&selection, 6), [2, 5]);
        selection.condition = Some("position < 4".to_owned());
        assert_eq!(chosen(&selection, 6), [2]);
        let group = Told::of(&letter(1)).traits(&letter(1)).fingerprint();
        let mut selection = Selection::default();
        selection.add(&group.to_string()).unwrap();
        assert_eq!(chosen(&selection, 6), [1, 3, 5]);
        selection.last = Some(2);
        assert_eq!(chosen(&selection, 6), [3, 5]);
        for wrong in ["abc", "ABCD", "abc1", "g-abc", ""] {
            assert!(Selection::default().add(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_short_name_of_two_letters_is_refused_at_the_second() {
        let ids: Vec<String> = (1..4000).map(id).collect();
        let two = (0..ids.len()).find_map(|a| {
            let b = (a + 1..ids.len()).find(|b| ids[*b][..4] == ids[a][..4])?;
            Some((a, b))
        });
        let Some((a, b)) = two else { panic!("no two of 4000 ids begin alike") };
        let mut selection = Selection::default();
        selection.add(&ids[a][..4]).unwrap();
        let mut selector = Selector::new(&selection, "/", &queue()).unwrap();
        let (a, b) = (a as u64 + 1, b as u64 + 1);
        assert_eq!(selector.wants(a, &letter(a)), Ok(true));
        assert_eq!(selector.wants(a, &letter(a)), Ok(true), "a twin");
        assert!(matches!(selector.wants(b, &letter(b)), Err(SelectError::Ambiguous { .. })));
    }

    #[test]
    fn a_selection_file_is_what_commands_print_or_one_name_a_line() {
        let group = Fingerprint::from_bits(77).to_string();
        let (one, two) = (id(1), id(2));
        for (text, ids, groups) in [
            (format!("{{\"groups\":[{{\"group\":\"{group}\",\"count\":2}}]}}"), 0, 1),
            (format!("{{\"letters\":[{{\"id\":\"{one}\",\"group\":\"{group}\"}}]}}"), 1, 0),
            (format!("{{\"id\":\"{one}\"}}\n{{\"id\":\"{two}\"}}\n"), 2, 0),
            (format!("# mine\n{one}\n\n {group}\n"), 1, 1),
        ] {
            let mut selection = Selection::default();
            selection.add_file(&text).unwrap();
            assert_eq!((selection.ids.len(), selection.groups.len()), (ids, groups), "{text}");
        }
        for wrong in ["{\"letters\":[]}", "{", "", "{\"id\":\"?\"}"] {
            assert!(Selection::default().add_file(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn first_and_last_take_from_the_ends_of_what_matches(
            of in 0u64..30, many in 0u64..35, modulo in 1u64..5,
        ) {
            let condition = format!("position % {modulo} == 0");
            let all: Vec<u64> = (1..=of).filter(|n| n % modulo == 0).collect();
            let take = usize::try_from(many).unwrap().min(all.len());
            let first = Selection { first: Some(many), ..on(&condition) };
            prop_assert_eq!(chosen(&first, of), all[..take].to_vec());
            let last = Selection { last: Some(many), ..on(&condition) };
            prop_assert_eq!(chosen(&last, of), all[all.len() - take..].to_vec());
        }

        #[test]
        fn a_span_of_time_is_half_open(of in 1u64..20, since in 0i64..25, length in 0i64..25) {
            let at = |n: i64| Some(Timestamp::from_unix_ms((1_700_000_000 + n) * 1000));
            let selection =
                Selection { since: at(since), until: at(since + length), ..Selection::default() };
            let meant: Vec<u64> = (1..=of)
                .filter(|n| { let n = *n as i64; since <= n && n < since + length })
                .collect();
            prop_assert_eq!(chosen(&selection, of), meant);
        }
    }
}
