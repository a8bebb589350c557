//! Who gets the copies that go through an exchange: the queue that is meant, and whoever else is bound.
//!
//! Pure: over the topology as it is seen, and the routing that the embedded broker goes by.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::definition::ExchangeKind;
use crate::broker::routing::{RoutingTable, Step};
use crate::message::FieldTable;
use crate::topology::view::TopologyView;

/// Letters that go one way, and who gets their copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Heard {
    /// The exchange; empty for the default exchange.
    pub exchange: String,
    /// The routing key of the first of them.
    pub routing_key: String,
    /// How many different keys they have.
    pub routing_keys: u64,
    /// How many letters; null when it is not known.
    pub letters: Option<u64>,
    /// The queue that is meant.
    pub meant: Option<String>,
    /// Every queue that gets a copy, the one that is meant included.
    pub queues: Vec<String>,
    /// An exchange of a type that is not known here is on the way: others may get it too.
    pub unknown_exchange: Option<String>,
}

impl Heard {
    /// The queues that get a copy though another one is meant.
    pub fn others(&self) -> impl Iterator<Item = &str> {
        self.queues.iter().map(String::as_str).filter(|queue| Some(*queue) != self.meant.as_deref())
    }

    /// In one line: `8 letters by exchange agents to queue a (meant), and also b, c`.
    pub fn in_words(&self) -> String {
        let letters = match self.letters {
            Some(1) => "1 letter".to_owned(),
            Some(number) => format!("{number} letters"),
            None => "letters".to_owned(),
        };
        let by = if self.exchange.is_empty() {
            String::new()
        } else if self.routing_keys > 1 {
            format!(" by exchange {} with {} keys", self.exchange, self.routing_keys)
        } else {
            format!(" by exchange {} with key {}", self.exchange, self.routing_key)
        };
        let meant = self.meant.as_ref();
        let mut to = match meant {
            Some(meant) if self.queues.contains(meant) => format!("to queue {meant} (meant)"),
            Some(meant) => format!("not to queue {meant}, which is meant"),
            None => String::new(),
        };
        let others: Vec<&str> = self.others().collect();
        if !others.is_empty() {
            let word = if meant.is_some() { ", and also " } else { "to " };
            to = format!("{to}{word}{}", others.join(", "));
        } else if self.queues.is_empty() {
            to = "to nobody".to_owned();
        }
        if let Some(exchange) = &self.unknown_exchange {
            to = format!("{to}; who gets it from exchange {exchange} is not known");
        }
        format!("{letters}{by} {to}")
    }
}

/// Gathers who gets the copies of many letters.
#[derive(Debug)]
pub struct Audience {
    table: RoutingTable,
    /// The headers that any binding asks for.
    asked: BTreeSet<String>,
    /// By exchange, key and the headers that matter: the queues, and an exchange of unknown type.
    known: BTreeMap<[String; 3], Reached>,
    heard: BTreeMap<Way, (BTreeSet<String>, u64)>,
}

type Reached = (Vec<String>, Option<String>);
type Way = (String, Option<String>, Vec<String>, Option<String>);

impl Audience {
    /// Over this topology.
    pub fn new(view: &TopologyView) -> Audience {
        let of_headers = |exchange: &ExchangeName| {
            let known = view.exchanges.get(exchange.as_str());
            known.is_some_and(|known| known.definition.kind == ExchangeKind::Headers)
        };
        let asked = view
            .bindings
            .iter()
            .filter(|binding| of_headers(&binding.source))
            .flat_map(|binding| binding.arguments.iter().map(|(name, _)| name.to_owned()))
            .filter(|name| name != "x-match")
            .collect();
        Audience { table: view.routing(), asked, known: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// Adds a letter: its copy is published so, and `meant` is the queue that should get it.
    pub fn add(
        &mut self,
        exchange: &ExchangeName,
        key: &RoutingKey,
        headers: Option<&FieldTable>,
        meant: Option<&QueueName>,
    ) {
        let matter: FieldTable = headers
            .iter()
            .flat_map(|headers| headers.iter())
            .filter(|(name, _)| self.asked.contains(*name))
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        let told = if matter.is_empty() { String::new() } else { format!("{matter:?}") };
        let place = [exchange.as_str().to_owned(), key.as_str().to_owned(), told];
        let table = &self.table;
        let (queues, unknown) = self.known.entry(place).or_insert_with(|| {
            let routed = table.route(exchange, key, &matter, &[]);
            let unknown = routed.steps.iter().find_map(|step| match step {
                Step::UnknownKind { exchange, .. } => Some(exchange.to_string()),
                _ => None,
            });
            let mut queues: Vec<String> = routed.queues.iter().map(ToString::to_string).collect();
            queues.sort();
            (queues, unknown)
        });
        let meant = meant.map(ToString::to_string);
        let way = (exchange.as_str().to_owned(), meant, queues.clone(), unknown.clone());
        let (keys, letters) = self.heard.entry(way).or_default();
        keys.insert(key.as_str().to_owned());
        *letters += 1;
    }

    /// Who gets them, most letters first.
    pub fn heard(self) -> Vec<Heard> {
        let mut heard: Vec<Heard> = self
            .heard
            .into_iter()
            .map(|((exchange, meant, queues, unknown_exchange), (keys, letters))| Heard {
                exchange,
                routing_keys: keys.len() as u64,
                routing_key: keys.into_iter().next().unwrap_or_default(),
                letters: Some(letters),
                meant,
                queues,
                unknown_exchange,
            })
            .collect();
        heard.sort_by_key(|heard| std::cmp::Reverse(heard.letters));
        heard
    }
}

/// What to warn of: copies that reach nobody, come back into `dead`, or do not reach whom they are for.
pub fn warnings(heard: &[Heard], dead: Option<&QueueName>) -> Vec<String> {
    let mut warnings = Vec::new();
    for one in heard {
        if one.queues.is_empty() && one.unknown_exchange.is_none() {
            warnings
                .push(format!("{}: the copies are returned, and the letters stay", one.in_words()));
        } else if dead.is_some_and(|dead| one.queues.iter().any(|queue| queue == dead.as_str())) {
            warnings.push(format!(
                "{}: a copy comes back into the dead-letter queue itself",
                one.in_words()
            ));
        } else if one.meant.as_ref().is_some_and(|meant| !one.queues.contains(meant)) {
            warnings.push(one.in_words());
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Version;
    use crate::broker::definition::ExchangeDefinition;
    use crate::broker::definition::{BindingDefinition, Destination};
    use crate::broker::routing::RoutingExchange;
    use crate::message::FieldValue;

    fn exchange(name: &str) -> ExchangeName {
        ExchangeName::new(name).unwrap()
    }

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn audience() -> Audience {
        let bind = |from: &str, to: &str, key: &str, arguments: FieldTable| BindingDefinition {
            source: exchange(from),
            destination: Destination::Queue(queue(to)),
            routing_key: RoutingKey::new(key).unwrap(),
            arguments,
        };
        let bindings = vec![
            bind("topic", "a", "k.*", FieldTable::new()),
            bind("topic", "b", "#", FieldTable::new()),
            bind("fan", "dead", "", FieldTable::new()),
            bind("heads", "c", "", FieldTable::new().with("region", "eu")),
        ];
        let kinds = [
            ("topic", ExchangeKind::Topic),
            ("fan", ExchangeKind::Fanout),
            ("heads", ExchangeKind::Headers),
            ("odd", ExchangeKind::Other("x-hash".to_owned())),
        ];
        let table = RoutingTable::new(
            kinds.map(|(name, kind)| RoutingExchange {
                definition: ExchangeDefinition::durable(exchange(name), kind),
                alternate: None,
            }),
            ["a", "b", "c", "dead"].map(queue),
            bindings,
        );
        Audience {
            table,
            asked: BTreeSet::from(["region".to_owned()]),
            known: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    fn add(audience: &mut Audience, name: &str, key: &str, region: &str, meant: Option<&str>) {
        let headers = FieldTable::new().with("region", region).with("n", FieldValue::Int16(1));
        let (key, meant) = (RoutingKey::new(key).unwrap(), meant.map(queue));
        audience.add(&exchange(name), &key, Some(&headers), meant.as_ref());
    }

    #[test]
    fn whoever_gets_a_copy_is_named() {
        let mut all = audience();
        for key in ["k.1", "k.1", "k.2"] {
            add(&mut all, "topic", key, "us", Some("a"));
        }
        add(&mut all, "topic", "other", "us", Some("a"));
        add(&mut all, "heads", "", "eu", None);
        add(&mut all, "heads", "", "us", None);
        add(&mut all, "fan", "", "us", Some("a"));
        add(&mut all, "odd", "", "us", None);
        add(&mut all, "", "a", "us", Some("a"));
        let heard = all.heard();
        let words: Vec<String> = heard.iter().map(Heard::in_words).collect();
        assert_eq!(
            words[0],
            "3 letters by exchange topic with 2 keys to queue a (meant), and also b"
        );
        for expected in [
            "1 letter by exchange topic with key other not to queue a, which is meant, and also b",
            "1 letter by exchange heads with key  to c",
            "1 letter by exchange heads with key  to nobody",
            "1 letter by exchange odd with key  to nobody; who gets it from exchange odd is not known",
            "1 letter to queue a (meant)",
        ] {
            assert!(words.iter().any(|word| word == expected), "{expected}: {words:#?}");
        }
        let warned = warnings(&heard, Some(&queue("dead"))).join("\n");
        for expected in ["returned, and the letters stay", "comes back into", "not to queue a"] {
            assert!(warned.contains(expected), "{expected}: {warned}");
        }
        assert_eq!(warned.lines().count(), 3);
        assert_eq!(warnings(&heard, None).len(), 3, "elsewhere nothing comes back: only not meant");
    }

    #[test]
    fn the_headers_that_matter_are_those_of_bindings() {
        let snapshot =
            TopologyView::of_topology(&crate::topology::Topology::default(), Version::new(4, 0, 5));
        assert!(Audience::new(&snapshot).asked.is_empty());
    }
}
