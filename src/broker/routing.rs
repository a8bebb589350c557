//! Who would get this message: exchanges, bindings and headers in, queues and the way to them out.
//!
//! Pure: the embedded broker routes by it, `topology route` explains by it. The rules are RabbitMQ's,
//! as measured on 3.10.8 and 4.0.5: words of topics are what lies between dots, empty ones count;
//! `#` is zero or more words; a queue gets one copy however many bindings match; an exchange is
//! passed once however often it is reached; an alternate exchange steps in when none of the
//! exchange's own bindings matched.

use std::collections::{HashMap, HashSet};

use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::message::{FieldTable, FieldValue};

use super::definition::{BindingDefinition, Destination, ExchangeDefinition, ExchangeKind};

/// An exchange as routing needs it: declared, with the alternate exchange that is in effect
/// (argument or policy; the caller decides).
#[derive(Clone, Debug, PartialEq)]
pub struct RoutingExchange {
    /// The exchange.
    pub definition: ExchangeDefinition,
    /// Where messages go that none of its bindings takes.
    pub alternate: Option<ExchangeName>,
}

/// Exchanges, queues and bindings, indexed for routing.
///
/// Direct bindings are found by key, topic bindings in a tree of words, so the cost of a message
/// does not grow with bindings that have nothing to do with it.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    exchanges: Vec<Node>,
    by_name: HashMap<ExchangeName, usize>,
    queues: Vec<QueueName>,
    queue_index: HashMap<QueueName, usize>,
    bindings: Vec<BindingDefinition>,
    targets: Vec<Option<Target>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Target {
    Queue(usize),
    Exchange(usize),
}

#[derive(Clone, Debug)]
struct Node {
    name: ExchangeName,
    internal: bool,
    alternate: Option<ExchangeName>,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    Direct(HashMap<String, Vec<usize>>),
    Fanout(Vec<usize>),
    Topic(TopicTree),
    Headers(Vec<(HeadersMatch, usize)>),
    /// A plugin's type: what it would do is not known here.
    Unknown(String),
}

/// What routing one message came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// The queues that get it, each once, in the order in which they were reached.
    pub queues: Vec<QueueName>,
    /// What happened on the way, in order.
    pub steps: Vec<Step>,
}

impl Routed {
    /// Whether no queue gets it: a mandatory message comes back.
    pub fn is_unroutable(&self) -> bool {
        self.queues.is_empty()
    }
}

/// One step of a message through the exchanges.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A binding of this exchange matched.
    Binding(BindingDefinition),
    /// The default exchange hands it to the queue of that name.
    DefaultExchange {
        /// The queue.
        queue: QueueName,
    },
    /// No binding of `exchange` matched, so its alternate takes over.
    Alternate {
        /// The exchange without a match.
        exchange: ExchangeName,
        /// Its alternate.
        alternate: ExchangeName,
    },
    /// No binding of `exchange` matched and it has no alternate: this branch ends.
    NoMatch {
        /// The exchange without a match.
        exchange: ExchangeName,
    },
    /// An exchange that was named does not exist.
    MissingExchange {
        /// Its name.
        exchange: ExchangeName,
    },
    /// The exchange takes messages from other exchanges only; a publish is refused with 403.
    InternalExchange {
        /// Its name.
        exchange: ExchangeName,
    },
    /// The exchange was passed already; the message does not go through it again.
    AlreadyPassed {
        /// Its name.
        exchange: ExchangeName,
    },
    /// A plugin's exchange type: what it does with the message is not known.
    UnknownKind {
        /// Its name.
        exchange: ExchangeName,
        /// Its type.
        kind: String,
    },
}

/// Why routing did not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such exchange: AMQP 404.
    MissingExchange,
    /// It is internal: AMQP 403.
    InternalExchange,
}

impl RoutingTable {
    /// Builds the table. Bindings whose source or destination is not among the given objects are
    /// kept but lead nowhere. The default exchange needs not be given.
    pub fn new(
        exchanges: impl IntoIterator<Item = RoutingExchange>,
        queues: impl IntoIterator<Item = QueueName>,
        bindings: impl IntoIterator<Item = BindingDefinition>,
    ) -> Self {
        let mut table = RoutingTable {
            exchanges: Vec::new(),
            by_name: HashMap::new(),
            queues: queues.into_iter().collect(),
            queue_index: HashMap::new(),
            bindings: bindings.into_iter().collect(),
            targets: Vec::new(),
        };
        table.queue_index =
            table.queues.iter().enumerate().map(|(index, name)| (name.clone(), index)).collect();
        for exchange in exchanges {
            if exchange.definition.name.is_default() {
                continue;
            }
            let matcher = match &exchange.definition.kind {
                ExchangeKind::Direct => Matcher::Direct(HashMap::new()),
                ExchangeKind::Fanout => Matcher::Fanout(Vec::new()),
                ExchangeKind::Topic => Matcher::Topic(TopicTree::default()),
                ExchangeKind::Headers => Matcher::Headers(Vec::new()),
                ExchangeKind::Other(kind) => Matcher::Unknown(kind.clone()),
            };
            table.by_name.insert(exchange.definition.name.clone(), table.exchanges.len());
            table.exchanges.push(Node {
                name: exchange.definition.name,
                internal: exchange.definition.internal,
                alternate: exchange.alternate,
                matcher,
            });
        }
        for (index, binding) in table.bindings.iter().enumerate() {
            let target = match &binding.destination {
                Destination::Queue(name) => table.queue_index.get(name).copied().map(Target::Queue),
                Destination::Exchange(name) => {
                    table.by_name.get(name).copied().map(Target::Exchange)
                }
            };
            table.targets.push(target);
            let Some(&source) = table.by_name.get(&binding.source) else { continue };
            if target.is_none() {
                continue;
            }
            match &mut table.exchanges[source].matcher {
                Matcher::Direct(by_key) => {
                    by_key.entry(binding.routing_key.as_str().to_owned()).or_default().push(index);
                }
                Matcher::Fanout(all) => all.push(index),
                Matcher::Topic(tree) => tree.insert(binding.routing_key.as_str(), index),
                Matcher::Headers(all) => all.push((HeadersMatch::of(&binding.arguments), index)),
                Matcher::Unknown(_) => {}
            }
        }
        table
    }

    /// Routes a message as a publisher's: `copies` are the keys of its `CC` and `BCC` headers, see
    /// [`sender_keys`]. Explains every step.
    pub fn route(
        &self,
        exchange: &ExchangeName,
        routing_key: &RoutingKey,
        headers: &FieldTable,
        copies: &[String],
    ) -> Routed {
        let mut explanation = Explanation { table: self, steps: Vec::new() };
        let queues = match self.check_publish(exchange) {
            Err(Refusal::MissingExchange) => {
                explanation.steps.push(Step::MissingExchange { exchange: exchange.clone() });
                Vec::new()
            }
            Err(Refusal::InternalExchange) => {
                explanation.steps.push(Step::InternalExchange { exchange: exchange.clone() });
                Vec::new()
            }
            Ok(()) => self.walk(exchange, routing_key.as_str(), headers, copies, &mut explanation),
        };
        Routed {
            queues: queues.into_iter().map(|index| self.queues[index].clone()).collect(),
            steps: explanation.steps,
        }
    }

    /// Whether a client may publish to `exchange`.
    pub fn check_publish(&self, exchange: &ExchangeName) -> Result<(), Refusal> {
        if exchange.is_default() {
            return Ok(());
        }
        match self.by_name.get(exchange) {
            None => Err(Refusal::MissingExchange),
            Some(&index) if self.exchanges[index].internal => Err(Refusal::InternalExchange),
            Some(_) => Ok(()),
        }
    }

    /// The queues that get the message, as positions in the list the table was made with, each once.
    /// Does not ask whether the exchange is internal, as dead letters do not; a missing exchange
    /// routes nowhere.
    pub fn targets(
        &self,
        exchange: &ExchangeName,
        routing_key: &str,
        headers: &FieldTable,
        copies: &[String],
    ) -> Vec<usize> {
        self.walk(exchange, routing_key, headers, copies, &mut Silent)
    }

    /// The queue at a position that [`RoutingTable::targets`] gave.
    pub fn queue(&self, index: usize) -> Option<&QueueName> {
        self.queues.get(index)
    }

    /// Whether there is an exchange of that name; the default one always is.
    pub fn has_exchange(&self, exchange: &ExchangeName) -> bool {
        exchange.is_default() || self.by_name.contains_key(exchange)
    }

    fn walk(
        &self,
        exchange: &ExchangeName,
        routing_key: &str,
        headers: &FieldTable,
        copies: &[String],
        observer: &mut impl Observer,
    ) -> Vec<usize> {
        let keys = || std::iter::once(routing_key).chain(copies.iter().map(String::as_str));
        if exchange.is_default() {
            let mut queues = Vec::new();
            for key in keys() {
                if let Some(&index) = self.queue_index.get(key)
                    && !queues.contains(&index)
                {
                    queues.push(index);
                    observer.default_exchange(index);
                }
            }
            if queues.is_empty() {
                observer.step(|| Step::NoMatch { exchange: exchange.clone() });
            }
            return queues;
        }
        let Some(&first) = self.by_name.get(exchange) else {
            observer.step(|| Step::MissingExchange { exchange: exchange.clone() });
            return Vec::new();
        };
        let mut queues = Found::default();
        let mut passed = vec![first];
        let mut waiting = std::collections::VecDeque::from([first]);
        let mut matched = Vec::new();
        while let Some(current) = waiting.pop_front() {
            let node = &self.exchanges[current];
            matched.clear();
            match &node.matcher {
                Matcher::Direct(by_key) => {
                    for key in keys() {
                        matched.extend(by_key.get(key).into_iter().flatten());
                    }
                }
                Matcher::Fanout(all) => matched.extend(all),
                Matcher::Topic(tree) => {
                    for key in keys() {
                        tree.collect(key, &mut matched);
                    }
                }
                Matcher::Headers(all) => matched.extend(
                    all.iter()
                        .filter(|(wanted, _)| wanted.matches(headers))
                        .map(|(_, index)| index),
                ),
                Matcher::Unknown(kind) => observer
                    .step(|| Step::UnknownKind { exchange: node.name.clone(), kind: kind.clone() }),
            }
            matched.sort_unstable();
            matched.dedup();
            for &index in &matched {
                observer.step(|| Step::Binding(self.bindings[index].clone()));
                match self.targets[index] {
                    Some(Target::Queue(queue)) => queues.add(queue),
                    Some(Target::Exchange(next)) if passed.contains(&next) => {
                        observer.step(|| Step::AlreadyPassed {
                            exchange: self.exchanges[next].name.clone(),
                        });
                    }
                    Some(Target::Exchange(next)) => {
                        passed.push(next);
                        waiting.push_back(next);
                    }
                    None => {}
                }
            }
            if !matched.is_empty() {
                continue;
            }
            let Some(alternate) = &node.alternate else {
                if !matches!(node.matcher, Matcher::Unknown(_)) {
                    observer.step(|| Step::NoMatch { exchange: node.name.clone() });
                }
                continue;
            };
            observer.step(|| Step::Alternate {
                exchange: node.name.clone(),
                alternate: alternate.clone(),
            });
            match self.by_name.get(alternate) {
                None => observer.step(|| Step::MissingExchange { exchange: alternate.clone() }),
                Some(next) if passed.contains(next) => {
                    observer.step(|| Step::AlreadyPassed { exchange: alternate.clone() });
                }
                Some(&next) => {
                    passed.push(next);
                    waiting.push_back(next);
                }
            }
        }
        queues.list
    }
}

/// Queues found so far, each once, in order.
#[derive(Default)]
struct Found {
    list: Vec<usize>,
    set: HashSet<usize>,
}

impl Found {
    fn add(&mut self, queue: usize) {
        // A few are found faster in the list itself.
        const LINEAR: usize = 16;
        if self.list.len() < LINEAR {
            if !self.list.contains(&queue) {
                self.list.push(queue);
            }
            return;
        }
        if self.set.is_empty() {
            self.set.extend(&self.list);
        }
        if self.set.insert(queue) {
            self.list.push(queue);
        }
    }
}

trait Observer {
    fn step(&mut self, step: impl FnOnce() -> Step);
    fn default_exchange(&mut self, queue: usize);
}

struct Silent;

impl Observer for Silent {
    fn step(&mut self, _: impl FnOnce() -> Step) {}
    fn default_exchange(&mut self, _: usize) {}
}

struct Explanation<'a> {
    table: &'a RoutingTable,
    steps: Vec<Step>,
}

impl Observer for Explanation<'_> {
    fn step(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }
    fn default_exchange(&mut self, queue: usize) {
        self.steps.push(Step::DefaultExchange { queue: self.table.queues[queue].clone() });
    }
}

/// The routing keys that the headers `CC` and `BCC` add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SenderKeys {
    /// Of `CC`, which stays in the headers.
    pub cc: Vec<String>,
    /// Of `BCC`, which the broker takes out.
    pub bcc: Vec<String>,
}

impl SenderKeys {
    /// Both, in the order in which the broker uses them.
    pub fn all(&self) -> Vec<String> {
        self.cc.iter().chain(&self.bcc).cloned().collect()
    }
}

/// Reads `CC` and `BCC`. Elements that are not text are passed over, as the broker does; a header
/// that is no array is refused with the header's name and its AMQP type as the broker calls it.
pub fn sender_keys(headers: Option<&FieldTable>) -> Result<SenderKeys, (String, &'static str)> {
    let mut keys = SenderKeys::default();
    let Some(headers) = headers else { return Ok(keys) };
    for (name, into) in [("CC", &mut keys.cc), ("BCC", &mut keys.bcc)] {
        match headers.get(name) {
            None => {}
            Some(FieldValue::Array(values)) => {
                into.extend(values.iter().filter_map(FieldValue::as_text).map(str::to_owned));
            }
            Some(other) => return Err((name.to_owned(), type_name(other))),
        }
    }
    Ok(keys)
}

/// What RabbitMQ calls the AMQP type of a value in its messages.
pub fn type_name(value: &FieldValue) -> &'static str {
    match value {
        FieldValue::Void => "void",
        FieldValue::Bool(_) => "bool",
        FieldValue::Int8(_) => "byte",
        FieldValue::UInt8(_) => "unsignedbyte",
        FieldValue::Int16(_) => "short",
        FieldValue::UInt16(_) => "unsignedshort",
        FieldValue::Int32(_) => "signedint",
        FieldValue::UInt32(_) => "unsignedint",
        FieldValue::Int64(_) => "long",
        FieldValue::Float(_) => "float",
        FieldValue::Double(_) => "double",
        FieldValue::Decimal { .. } => "decimal",
        FieldValue::Text(_) => "longstr",
        FieldValue::Bytes(_) => "binary",
        FieldValue::Timestamp(_) => "timestamp",
        FieldValue::Array(_) => "array",
        FieldValue::Table(_) => "table",
    }
}

/// The words of a key or pattern. An empty key has none; `.` has two empty ones.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let empty = key.is_empty();
    key.split('.').skip(usize::from(empty))
}

/// Whether a topic `pattern` takes `key`.
pub fn topic_matches(pattern: &str, key: &str) -> bool {
    let mut tree = TopicTree::default();
    tree.insert(pattern, 0);
    let mut found = Vec::new();
    tree.collect(key, &mut found);
    !found.is_empty()
}

/// Patterns as a tree of words. A key is followed through it as a set of nodes, so the cost is at
/// most words × nodes, however many `#` there are.
#[derive(Clone, Debug)]
struct TopicTree {
    nodes: Vec<TopicNode>,
}

#[derive(Clone, Debug, Default)]
struct TopicNode {
    words: HashMap<String, usize>,
    star: Option<usize>,
    hash: Option<usize>,
    /// Reached by `#`: takes any further word and stays.
    is_hash: bool,
    bindings: Vec<usize>,
}

impl Default for TopicTree {
    fn default() -> Self {
        TopicTree { nodes: vec![TopicNode::default()] }
    }
}

impl TopicTree {
    fn insert(&mut self, pattern: &str, binding: usize) {
        let mut at = 0;
        for word in words(pattern) {
            let fresh = self.nodes.len();
            let node = &mut self.nodes[at];
            let next = match word {
                "*" => *node.star.get_or_insert(fresh),
                "#" => *node.hash.get_or_insert(fresh),
                _ => match node.words.get(word) {
                    Some(&next) => next,
                    None => {
                        node.words.insert(word.to_owned(), fresh);
                        fresh
                    }
                },
            };
            if next == fresh {
                self.nodes.push(TopicNode { is_hash: word == "#", ..TopicNode::default() });
            }
            at = next;
        }
        self.nodes[at].bindings.push(binding);
    }

    fn collect(&self, key: &str, into: &mut Vec<usize>) {
        let mut here = Vec::new();
        let mut next = Vec::new();
        self.enter(0, &mut here);
        for word in words(key) {
            for &at in &here {
                let node = &self.nodes[at];
                if node.is_hash {
                    self.enter(at, &mut next);
                }
                if let Some(&child) = node.words.get(word) {
                    self.enter(child, &mut next);
                }
                if let Some(child) = node.star {
                    self.enter(child, &mut next);
                }
            }
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut here, &mut next);
            next.clear();
            if here.is_empty() {
                return;
            }
        }
        for &at in &here {
            into.extend(&self.nodes[at].bindings);
        }
    }

    /// Adds `at` and what `#` reaches from it with no word at all.
    fn enter(&self, at: usize, set: &mut Vec<usize>) {
        let mut at = Some(at);
        while let Some(index) = at {
            set.push(index);
            at = self.nodes[index].hash;
        }
    }
}

/// The arguments of a binding to a headers exchange, ready to be compared.
#[derive(Clone, Debug)]
struct HeadersMatch {
    any: bool,
    wanted: Vec<(String, FieldValue)>,
}

impl HeadersMatch {
    fn of(arguments: &FieldTable) -> Self {
        let how = arguments.get("x-match").and_then(FieldValue::as_text).unwrap_or("all");
        let with_x = matches!(how, "all-with-x" | "any-with-x");
        HeadersMatch {
            any: matches!(how, "any" | "any-with-x"),
            wanted: arguments
                .iter()
                .filter(|(name, _)| *name != "x-match" && (with_x || !name.starts_with("x-")))
                .map(|(name, value)| (name.to_owned(), value.clone()))
                .collect(),
        }
    }

    fn matches(&self, headers: &FieldTable) -> bool {
        let mut each = self.wanted.iter().map(|(name, wanted)| {
            headers.get(name).is_some_and(|value| {
                matches!(wanted, FieldValue::Void) || wanted.is_equivalent(value)
            })
        });
        if self.any { each.any(|matched| matched) } else { each.all(|matched| matched) }
    }
}

/// What is wrong with the `x-match` of a binding to a headers exchange, in RabbitMQ's words.
pub fn check_headers_binding(arguments: &FieldTable) -> Result<(), String> {
    match arguments.get("x-match") {
        None => Ok(()),
        Some(FieldValue::Text(text)) => match text.as_slice() {
            b"all" | b"any" | b"all-with-x" | b"any-with-x" => Ok(()),
            other => Err(format!(
                "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
                String::from_utf8_lossy(other)
            )),
        },
        Some(other) => {
            Err(format!("Invalid x-match field type {}; expected longstr", type_name(other)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exchange(name: &str, kind: ExchangeKind, alternate: Option<&str>) -> RoutingExchange {
        RoutingExchange {
            definition: ExchangeDefinition::durable(ExchangeName::new(name).unwrap(), kind),
            alternate: alternate.map(|name| ExchangeName::new(name).unwrap()),
        }
    }

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn bind(source: &str, destination: Destination, key: &str) -> BindingDefinition {
        BindingDefinition {
            source: ExchangeName::new(source).unwrap(),
            destination,
            routing_key: RoutingKey::new(key).unwrap(),
            arguments: FieldTable::new(),
        }
    }

    fn to_queue(source: &str, name: &str, key: &str) -> BindingDefinition {
        bind(source, Destination::Queue(queue(name)), key)
    }

    fn to_exchange(source: &str, name: &str, key: &str) -> BindingDefinition {
        bind(source, Destination::Exchange(ExchangeName::new(name).unwrap()), key)
    }

    #[track_caller]
    fn check(table: &RoutingTable, exchange: &str, key: &str, queues: &[&str]) {
        let routed = table.route(
            &ExchangeName::new(exchange).unwrap(),
            &RoutingKey::new(key).unwrap(),
            &FieldTable::new(),
            &[],
        );
        let got: Vec<&str> = routed.queues.iter().map(QueueName::as_str).collect();
        assert_eq!(got, queues, "{exchange} {key}: {:?}", routed.steps);
    }

    /// The matcher as one would write it down: pattern word by word, trying every length for `#`.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match pattern.split_first() {
            None => key.is_empty(),
            Some((&"#", rest)) => (0..=key.len()).any(|n| naive(rest, &key[n..])),
            Some((&"*", rest)) => !key.is_empty() && naive(rest, &key[1..]),
            Some((word, rest)) => key.first() == Some(word) && naive(rest, &key[1..]),
        }
    }

    #[test]
    fn topics_match_as_measured() {
        for (pattern, yes, no) in [
            ("#", &["", "a", "a.b", ".", "#", "*"][..], &[][..]),
            ("#.#", &["", "a", "a.b"], &[]),
            ("", &[""], &["a", "."]),
            ("*", &["a", "#", "*"], &["", "a.b", "."]),
            ("#.a", &["a", "x.a", "x.y.a"], &["a.x", ""]),
            ("a.#", &["a", "a.b", "a.b.c", "a."], &["b", "b.a"]),
            ("#.*", &["a", "a.b"], &[""]),
            ("*.#", &["a", "a.b"], &[""]),
            ("a.#.b", &["a.b", "a.x.b", "a.x.y.b", "a..b"], &["a.b.", "a.b.c"]),
            ("a.*", &["a.", "a.b"], &["a", "a.b.c"]),
            ("*.*", &[".", "a.", ".a"], &["a", ".."]),
            (".", &["."], &["", "a"]),
            ("a..b", &["a..b"], &["a.b", "a.x.b"]),
            ("a.#b", &["a.#b"], &["a.b", "a.x.b"]),
            ("*a", &["*a"], &["ba"]),
            ("a.**", &["a.**"], &["a.b"]),
            ("A", &["A"], &["a"]),
            ("#.#.#", &["", "a", "a.b.c"], &[]),
        ] {
            for key in yes {
                assert!(topic_matches(pattern, key), "`{pattern}` takes `{key}`");
            }
            for key in no {
                assert!(!topic_matches(pattern, key), "`{pattern}` does not take `{key}`");
            }
        }
    }

    #[test]
    fn many_hashes_do_not_blow_up() {
        let pattern = vec!["#"; 40].join(".a.");
        let key = vec!["a"; 300].join(".") + ".b";
        assert!(topic_matches(&pattern, &key));
        assert!(!topic_matches(&(pattern + ".c"), &key));
    }

    proptest! {
        #[test]
        fn the_tree_agrees_with_the_plain_matcher(
            patterns in proptest::collection::vec(
                proptest::collection::vec(prop::sample::select(vec!["a", "b", "", "*", "#"]), 0..5),
                1..8,
            ),
            key in proptest::collection::vec(prop::sample::select(vec!["a", "b", "", "#"]), 0..6),
        ) {
            let mut tree = TopicTree::default();
            for (index, pattern) in patterns.iter().enumerate() {
                tree.insert(&pattern.join("."), index);
            }
            let key = key.join(".");
            let mut got = Vec::new();
            tree.collect(&key, &mut got);
            got.sort_unstable();
            let key_words: Vec<&str> = words(&key).collect();
            let wanted: Vec<usize> = patterns
                .iter()
                .enumerate()
                .filter(|(_, pattern)| {
                    let joined = pattern.join(".");
                    let pattern: Vec<&str> = words(&joined).collect();
                    naive(&pattern, &key_words)
                })
                .map(|(index, _)| index)
                .collect();
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn headers_match_as_measured() {
        let headers = FieldTable::new()
            .with("n", FieldValue::Int32(1))
            .with("t", "1")
            .with("b", true)
            .with("x-k", "v");
        let table = |pairs: &[(&str, FieldValue)]| {
            pairs.iter().fold(FieldTable::new(), |t, (k, v)| t.with(*k, v.clone()))
        };
        for (arguments, matched) in [
            (table(&[]), true),
            (table(&[("x-match", "any".into())]), false),
            (table(&[("n", FieldValue::Int64(1))]), true),
            (table(&[("n", "1".into())]), false),
            (table(&[("t", FieldValue::Int64(1))]), false),
            (table(&[("b", "true".into())]), false),
            (table(&[("n", FieldValue::Void)]), true),
            (table(&[("missing", FieldValue::Void)]), false),
            (table(&[("n", 1.into()), ("t", "2".into())]), false),
            (table(&[("x-match", "any".into()), ("n", 1.into()), ("t", "2".into())]), true),
            (table(&[("x-k", "other".into())]), true),
            (table(&[("x-match", "any".into()), ("x-k", "v".into())]), false),
            (table(&[("x-match", "all-with-x".into()), ("x-k", "other".into())]), false),
            (table(&[("x-match", "any-with-x".into()), ("x-k", "v".into())]), true),
        ] {
            assert_eq!(HeadersMatch::of(&arguments).matches(&headers), matched, "{arguments:?}");
        }
        let wrong = table(&[("x-match", "some".into())]);
        assert_eq!(
            check_headers_binding(&wrong).unwrap_err(),
            "Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x"
        );
    }

    #[test]
    fn a_queue_gets_one_copy_and_an_exchange_is_passed_once() {
        let table = RoutingTable::new(
            [exchange("x", ExchangeKind::Topic, None), exchange("y", ExchangeKind::Fanout, None)],
            [queue("q"), queue("r")],
            [
                to_queue("x", "q", "a.#"),
                to_queue("x", "q", "*"),
                to_exchange("x", "y", "#"),
                to_exchange("y", "x", ""),
                to_queue("y", "q", ""),
                to_queue("y", "r", ""),
            ],
        );
        check(&table, "x", "a", &["q", "r"]);
        check(&table, "", "r", &["r"]);
        check(&table, "", "nobody", &[]);
        check(&table, "missing", "a", &[]);
    }

    #[test]
    fn an_alternate_steps_in_only_when_nothing_matched() {
        let table = RoutingTable::new(
            [
                exchange("x", ExchangeKind::Direct, Some("alt")),
                exchange("alt", ExchangeKind::Fanout, Some("x")),
                exchange("self", ExchangeKind::Direct, Some("self")),
                exchange("gone", ExchangeKind::Direct, Some("missing")),
                exchange("hub", ExchangeKind::Fanout, Some("alt")),
                exchange("empty", ExchangeKind::Fanout, None),
            ],
            [queue("q"), queue("rest")],
            [to_queue("x", "q", "k"), to_queue("alt", "rest", ""), to_exchange("hub", "empty", "")],
        );
        check(&table, "x", "k", &["q"]);
        check(&table, "x", "other", &["rest"]);
        check(&table, "self", "k", &[]);
        check(&table, "gone", "k", &[]);
        // A binding to an exchange is a match, even when that exchange leads nowhere.
        check(&table, "hub", "k", &[]);
    }

    #[test]
    fn copies_are_routed_too_and_wrong_ones_refused() {
        let headers = FieldTable::new()
            .with("CC", FieldValue::Array(vec!["b".into(), FieldValue::Int64(1)]))
            .with("BCC", FieldValue::Array(vec!["c".into()]));
        let keys = sender_keys(Some(&headers)).unwrap();
        assert_eq!(keys.all(), ["b", "c"]);
        let table = RoutingTable::new([], [queue("a"), queue("b"), queue("c")], []);
        let routed = table.route(
            &ExchangeName::default_exchange(),
            &RoutingKey::new("a").unwrap(),
            &headers,
            &keys.all(),
        );
        assert_eq!(routed.queues, [queue("a"), queue("b"), queue("c")]);
        let wrong = FieldTable::new().with("CC", "b");
        assert_eq!(sender_keys(Some(&wrong)), Err(("CC".to_owned(), "longstr")));
    }

    #[test]
    fn an_internal_exchange_takes_no_publish_but_routes_for_others() {
        let mut inner = exchange("inner", ExchangeKind::Fanout, None);
        inner.definition.internal = true;
        let table = RoutingTable::new(
            [inner, exchange("outer", ExchangeKind::Fanout, None)],
            [queue("q")],
            [to_queue("inner", "q", ""), to_exchange("outer", "inner", "")],
        );
        check(&table, "inner", "", &[]);
        check(&table, "outer", "", &["q"]);
        assert_eq!(
            table.check_publish(&ExchangeName::new("inner").unwrap()),
            Err(Refusal::InternalExchange)
        );
    }
}
