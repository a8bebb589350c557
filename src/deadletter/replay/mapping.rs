//! Where letters go by rule: a document `kind: ReplayMap`, read once, kept by its text. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::diagnostic::{Code, Diagnostic, Findings, Source};
use crate::base::document::{Spanned, decode, document_struct, read_documents};
use crate::base::expression::Expression;
use crate::base::id::{ExchangeName, QueueName, RoutingKey};
use crate::broker::Delivery;
use crate::deadletter::letter::LetterId;

use super::subject;

const PLACE: Code = Code("dlq/map-place");

document_struct! {
    /// Where dead letters go: the first rule that fits a letter decides. A letter that no rule fits
    /// stays, unless `otherwise` names a place.
    pub struct ReplayMapSpec: ReplayMap {
        /// The rules, in order.
        pub rules: Vec<Spanned<RuleSpec>>,
        /// Where letters go that no rule fits.
        pub otherwise: Option<Spanned<PlaceSpec>>,
    }
}

document_struct! {
    /// One rule: a condition, and either `to`, or `exchange` with or without `key`.
    pub struct RuleSpec {
        /// A CEL condition over the letter: `reason`, `origin.queue`, `deaths`, `headers`, `body` and
        /// the like.
        pub when: Spanned<Expression>,
        /// This queue.
        pub to: Option<QueueName>,
        /// This exchange.
        pub exchange: Option<ExchangeName>,
        /// With this key; each with its own when left out.
        pub key: Option<RoutingKey>,
    }
}

document_struct! {
    /// A place: either `to`, or `exchange` with or without `key`.
    pub struct PlaceSpec {
        /// This queue.
        pub to: Option<QueueName>,
        /// This exchange.
        pub exchange: Option<ExchangeName>,
        /// With this key; each with its own when left out.
        pub key: Option<RoutingKey>,
    }
}

/// A map as it was written: what a journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MapText {
    /// The file, as whoever gave it named it.
    pub file: String,
    /// What it says.
    pub text: String,
}

/// A place that a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A queue, and no other.
    Queue(QueueName),
    /// An exchange, with this key or each letter with its own.
    Exchange(ExchangeName, Option<RoutingKey>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Queue(queue) => write!(f, "queue {queue}"),
            Place::Exchange(exchange, None) => write!(f, "exchange {exchange}"),
            Place::Exchange(exchange, Some(key)) => write!(f, "exchange {exchange} with key {key}"),
        }
    }
}

#[derive(Clone, Debug)]
struct Rule {
    when: Expression,
    place: Place,
    why: String,
}

/// Rules that say where letters go.
#[derive(Clone, Debug)]
pub struct Mapping {
    text: MapText,
    rules: Vec<Rule>,
    otherwise: Option<(Place, String)>,
    uses: Vec<&'static str>,
}

/// Two are the same when they were written the same.
impl PartialEq for Mapping {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Mapping {}

fn place(
    to: Option<QueueName>,
    exchange: Option<ExchangeName>,
    key: Option<RoutingKey>,
) -> Result<Place, &'static str> {
    match (to, exchange, key) {
        (Some(_), Some(_), _) => Err("`to` and `exchange` exclude each other"),
        (Some(_), None, Some(_)) => Err("`key` is for an `exchange`"),
        (Some(queue), None, None) => Ok(Place::Queue(queue)),
        (None, Some(exchange), key) => Ok(Place::Exchange(exchange, key)),
        (None, None, _) => Err("it says neither `to` nor `exchange`"),
    }
}

impl Mapping {
    /// Reads a map.
    ///
    /// # Errors
    /// All that is wrong in it.
    pub fn read(text: &MapText) -> Result<Mapping, Findings> {
        let source = Source::new(text.file.clone(), text.text.clone());
        let documents = read_documents(&source)?;
        let [document] = &documents[..] else {
            let message = "one document of kind ReplayMap is needed";
            return Err(Findings(vec![Diagnostic::error(PLACE, message)]));
        };
        let spec: ReplayMapSpec = decode(document)?;
        let names = subject::names();
        let mut findings = Findings::default();
        let mut rules = Vec::new();
        for Spanned { value: rule, span } in spec.rules {
            let RuleSpec { when, to, exchange, key } = rule;
            if let Err(error) = when.check_variables(&names) {
                findings.push(error.at(when.span.as_ref()));
            }
            let line = span.as_ref().map_or(0, |span| span.line);
            let why = format!("{}:{line}: {}", text.file, when.source());
            match place(to, exchange, key) {
                Ok(place) => rules.push(Rule { when: when.value, place, why }),
                Err(why) => findings.push(
                    Diagnostic::error(PLACE, format!("the rule has no one place: {why}")).at(span),
                ),
            }
        }
        let mut otherwise = None;
        if let Some(Spanned { value: PlaceSpec { to, exchange, key }, span }) = spec.otherwise {
            match place(to, exchange, key) {
                Ok(place) => otherwise = Some((place, format!("{}: otherwise", text.file))),
                Err(why) => findings.push(
                    Diagnostic::error(PLACE, format!("`otherwise` has no one place: {why}"))
                        .at(span),
                ),
            }
        }
        if rules.is_empty() && otherwise.is_none() && findings.is_empty() {
            let finding = Diagnostic::error(PLACE, "the map has no rule and no `otherwise`")
                .at(document.span.clone());
            findings.push(finding);
        }
        if !findings.is_empty() {
            return Err(findings);
        }
        let uses = subject::used(rules.iter().map(|rule| &rule.when));
        Ok(Mapping { text: text.clone(), rules, otherwise, uses })
    }

    /// As it was written.
    pub fn text(&self) -> &MapText {
        &self.text
    }

    /// Every place that it names, each once.
    pub fn places(&self) -> Vec<&Place> {
        let all = self.rules.iter().map(|rule| &rule.place);
        let mut places: Vec<&Place> = Vec::new();
        for place in all.chain(self.otherwise.iter().map(|(place, _)| place)) {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// Whether letters have to have their bodies.
    pub fn needs_body(&self) -> bool {
        self.uses.iter().any(|name| ["body", "group"].contains(name))
    }

    /// The place for a letter, and by which rule; `None` when it is for none.
    ///
    /// # Errors
    /// When a rule cannot be decided for this letter. It is not passed over: the next might fit only
    /// because this one could not be asked.
    pub fn place(
        &self,
        delivery: &Delivery,
        id: &LetterId,
        queue: &QueueName,
    ) -> Result<Option<(&Place, &str)>, String> {
        let context = subject::context(&self.uses, delivery, id, queue);
        for Rule { when, place, why } in &self.rules {
            match when.evaluate_bool(&context) {
                Ok(true) => return Ok(Some((place, why))),
                Ok(false) => {}
                Err(error) => return Err(format!("{why}: {error}")),
            }
        }
        Ok(self.otherwise.as_ref().map(|(place, why)| (place, why.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::DeliveryTag;
    use crate::message::{FieldTable, Message, Properties};

    fn read(text: &str) -> Result<Mapping, Findings> {
        let text = format!("apiVersion: nexus/v1\nkind: ReplayMap\n{text}");
        Mapping::read(&MapText { file: "map.yaml".to_owned(), text })
    }

    fn place(map: &Mapping, n: i64) -> Result<Option<(String, String)>, String> {
        let queue = QueueName::new("dead").unwrap();
        let headers = FieldTable::new().with("n", n).with("x-nexus-origin-queue", "jobs");
        let properties = Properties { headers: Some(headers), ..Properties::default() };
        let message = Message { properties, body: b"{\"a\":1}".to_vec() };
        let id = LetterId::of("/", &queue, &message);
        let delivery = Delivery {
            tag: DeliveryTag { generation: 0, tag: 1 },
            exchange: ExchangeName::new("dlx").unwrap(),
            routing_key: RoutingKey::new("jobs").unwrap(),
            redelivered: false,
            message,
        };
        let found = map.place(&delivery, &id, &queue)?;
        Ok(found.map(|(place, why)| (place.to_string(), why.to_owned())))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = "rules:\n  - when: headers.n == 1\n    to: one\n  \
            - when: origin.queue == 'jobs' && body.a == 1 && headers.n < 9\n    exchange: agents\n";
        let map = read(rules).unwrap();
        let found = |place: &str, why: &str| Ok(Some((place.to_owned(), why.to_owned())));
        assert_eq!(place(&map, 1), found("queue one", "map.yaml:4: headers.n == 1"));
        assert_eq!(place(&map, 2).unwrap().unwrap().0, "exchange agents");
        assert_eq!(place(&map, 9), Ok(None));
        let with = read(&format!("{rules}otherwise: {{exchange: x, key: k}}")).unwrap();
        assert_eq!(place(&with, 9), found("exchange x with key k", "map.yaml: otherwise"));
        assert_eq!(with.places().len(), 3);
        let fails = read("rules: [{when: headers.none == 1, to: q}]\notherwise: {to: z}").unwrap();
        assert!(place(&fails, 1).unwrap_err().contains("map.yaml:3"), "it is not passed over");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, why) in [
            ("rules: []", "no rule"),
            ("rules: [{when: reasn == '', to: q}]", "did you mean `reason`"),
            ("rules: [{when: position == 1, to: q}]", "position"),
            ("rules: [{when: 'a ==', to: q}]", "map.yaml:3:"),
            ("rules: [{when: 'true', to: q, exchange: e}]", "exclude each other"),
            ("rules: [{when: 'true', key: k}]", "neither"),
            ("rules: [{when: 'true', tu: q}]", "unknown key `tu`"),
            ("rules: []\notherwise: {to: q, key: k}", "`key` is for an `exchange`"),
        ] {
            let findings = read(text).unwrap_err();
            let shown: Vec<String> = findings.iter().map(ToString::to_string).collect();
            assert!(shown.join("\n").contains(why), "{text}: {shown:?}");
        }
        let both = read("rules: [{when: a, to: q}, {when: 'true'}]").unwrap_err();
        assert_eq!(both.0.len(), 2, "all at once");
    }
}
