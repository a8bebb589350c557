//! A plan in a file: which letters go where and why, what it costs and risks, and what was seen when it
//! was made, so that it is run on nothing else.
//!
//! Pure. The checksum tells an edited file from a whole one; it is no signature.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::broker::arguments::describe_value;
use crate::broker::definition::Destination;
use crate::broker::{BrokerIdentity, QueueType};
use crate::deadletter::select::{SelectError, Selection};
use crate::topology::fingerprint::{Fingerprint, canonical_binding};
use crate::topology::view::TopologyView;

use super::audience::Heard;
use super::machine::Order;
use super::plan::{Facts, Mode, Objection, Plan, Request};
use super::spec::{Planned, RunSpec};

/// The format that this program writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The most letters that a plan names one by one.
pub const MOST_LETTERS: usize = 100_000;

/// A plan of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeadLetterPlan {
    /// The format of this document.
    pub format: u32,
    /// The version of the program that made it.
    pub tool_version: String,
    /// When it was made.
    pub made_at: String,
    /// Who made it.
    pub made_by: String,
    /// Where the letters are.
    pub broker: BrokerSeen,
    /// The queue that they are in.
    pub queue: Seen,
    /// Letters that waited in it when they were looked at.
    pub ready: u64,
    /// Where the copies go, when that is another broker or vhost.
    pub elsewhere: Option<BrokerSeen>,
    /// The queues and exchanges that copies go to.
    pub targets: Vec<Seen>,
    /// What is asked for, in full.
    #[schemars(with = "serde_json::Map<String, Value>")]
    pub run: RunSpec,
    /// How many letters are meant and can go.
    pub meant: u64,
    /// These letters, in the order of the queue; null when there are too many to name them.
    pub letters: Option<Vec<PlannedLetter>>,
    /// How many go where.
    pub totals: Vec<Total>,
    /// The letters that stay.
    pub stay: Vec<Total>,
    /// What becomes different in each letter.
    pub edits: Vec<String>,
    /// What stands in the way; empty when nothing does.
    pub in_the_way: Vec<String>,
    /// What is risked: what is gone on in spite of, and what else to know.
    pub risks: Vec<String>,
    /// What it costs.
    pub cost: Vec<String>,
    /// In which order, and what a letter that cannot go means for the others.
    pub order: String,
    /// Who gets the copies that go through an exchange; null when it is not known.
    pub audience: Option<Vec<Heard>>,
    /// The files that it was made from.
    pub inputs: Vec<Input>,
    /// Of all the rest.
    pub checksum: Option<Fingerprint>,
}

/// A broker as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BrokerSeen {
    /// The cluster's name, or the embedded broker's id.
    pub cluster: String,
    /// The URL, without a password.
    pub url: String,
    /// The vhost.
    pub vhost: String,
    /// The version.
    pub version: String,
}

impl BrokerSeen {
    /// The broker behind `url`, which has no password in it.
    pub fn new(identity: &BrokerIdentity, url: String) -> BrokerSeen {
        BrokerSeen {
            cluster: identity.cluster_name.clone(),
            url,
            vhost: identity.vhost.to_string(),
            version: identity.version.to_string(),
        }
    }
}

/// A queue or an exchange as it was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seen {
    /// What it is.
    pub noun: SeenNoun,
    /// Its name.
    pub name: String,
    /// What of it matters, by name: its type, limits, and for an exchange what it is bound to; null when
    /// the broker does not tell.
    pub settings: Option<BTreeMap<String, String>>,
}

/// What was seen.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub enum SeenNoun {
    /// A queue.
    Queue,
    /// An exchange.
    Exchange,
}

impl SeenNoun {
    /// As a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            SeenNoun::Queue => "queue",
            SeenNoun::Exchange => "exchange",
        }
    }
}

/// A letter that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlannedLetter {
    /// Its name.
    pub id: String,
    /// Its place in the queue when it was looked at.
    pub position: u64,
    /// Where it goes.
    pub to: String,
    /// Why there.
    pub why: String,
}

/// A number of letters and what becomes of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Total {
    /// Where they go, or why they stay.
    pub what: String,
    /// How many.
    pub letters: u64,
}

/// A file that the plan was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The option that names it.
    pub option: String,
    /// The file, as whoever made the plan named it.
    pub file: String,
    /// Of what it says.
    pub fingerprint: Fingerprint,
}

impl Input {
    /// The file as it is now.
    pub fn new(option: &str, file: &str, text: &str) -> Input {
        let fingerprint = Fingerprint::of(&Value::from(text));
        Input { option: option.to_owned(), file: file.to_owned(), fingerprint }
    }
}

/// Settings by which letters are kept, lost or sent on.
const MATTERS: [&str; 11] = [
    "message-ttl",
    "expires",
    "max-length",
    "max-length-bytes",
    "overflow",
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
    "single-active-consumer",
    "max-priority",
];

/// What matters of a queue; `None` when there is none of this name.
pub fn seen_queue(view: &TopologyView, name: &str) -> Option<Seen> {
    let queue = view.queues.get(name)?;
    let mut settings = BTreeMap::from([("type".to_owned(), queue.queue_type.to_string())]);
    for setting in MATTERS {
        if let Some(known) = queue.effective.setting(setting) {
            settings.insert(setting.to_owned(), describe_value(&known.value));
        }
    }
    Some(Seen { noun: SeenNoun::Queue, name: name.to_owned(), settings: Some(settings) })
}

/// What matters of an exchange, and of what it leads to; `None` when there is none of this name.
pub fn seen_exchange(view: &TopologyView, name: &str) -> Option<Seen> {
    let exchange = view.exchanges.get(name)?;
    let definition = &exchange.definition;
    let mut settings = BTreeMap::from([("type".to_owned(), definition.kind.to_string())]);
    if let Some(alternate) = exchange.effective.alternate() {
        settings.insert("alternate-exchange".to_owned(), alternate.to_owned());
    }
    let mut reached = BTreeSet::from([name.to_owned()]);
    let mut waiting = vec![name.to_owned()];
    let mut bindings = BTreeSet::new();
    while let Some(from) = waiting.pop() {
        let mut next: Vec<String> = Vec::new();
        for binding in view.bindings.iter().filter(|binding| binding.source.as_str() == from) {
            bindings.insert(Fingerprint::of(&canonical_binding(binding)).to_string());
            if let Destination::Exchange(to) = &binding.destination {
                next.push(to.to_string());
            }
        }
        let alternate = view.exchanges.get(&from).and_then(|known| known.effective.alternate());
        next.extend(alternate.map(str::to_owned));
        waiting.extend(next.into_iter().filter(|to| reached.insert(to.clone())));
    }
    let print = Fingerprint::of(&json!(bindings));
    settings.insert("bindings".to_owned(), format!("{} ({})", bindings.len(), print.short()));
    Some(Seen { noun: SeenNoun::Exchange, name: name.to_owned(), settings: Some(settings) })
}

/// Why a plan file is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFileError {
    /// It is no JSON of this shape.
    #[error("it is no plan of dead letters: {0}")]
    Malformed(String),
    /// It was written by another kind of program or a newer one.
    #[error("it has {what} `{found}`, and this program reads `{known}`")]
    Foreign {
        /// Which field.
        what: &'static str,
        /// What it says.
        found: String,
        /// What it should say.
        known: String,
    },
    /// Its content does not fit its checksum.
    #[error("it was changed after it was made: its checksum does not fit")]
    Edited,
}

/// The `kind` of the document.
pub const KIND: &str = "DeadLetterPlan";

impl DeadLetterPlan {
    fn print(&self) -> Option<Fingerprint> {
        let bare = DeadLetterPlan { checksum: None, ..self.clone() };
        serde_json::to_value(bare).ok().map(|value| Fingerprint::of(&value))
    }

    /// The plan with its checksum.
    #[must_use]
    pub fn sealed(mut self) -> DeadLetterPlan {
        self.checksum = self.print();
        self
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// When it is none, or not as it was made.
    pub fn read(text: &str) -> Result<DeadLetterPlan, PlanFileError> {
        let malformed = |error: serde_json::Error| PlanFileError::Malformed(error.to_string());
        let mut value: Value = serde_json::from_str(text).map_err(malformed)?;
        let says = |field: &'static str, known: &str| {
            let found = match value.get(field) {
                None => return Err(PlanFileError::Malformed(format!("`{field}` is missing"))),
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            if found == known {
                return Ok(());
            }
            Err(PlanFileError::Foreign { what: field, found, known: known.to_owned() })
        };
        says("apiVersion", "nexus/v1")?;
        says("kind", KIND)?;
        says("format", &FORMAT.to_string())?;
        if let Some(object) = value.as_object_mut() {
            object.remove("apiVersion");
            object.remove("kind");
        }
        // By what the file says, not by what is understood of it: a key too many is an edit as well.
        let mut bare = value.clone();
        let checksum = bare.get_mut("checksum").map(Value::take);
        if checksum != Some(json!(Fingerprint::of(&bare))) {
            return Err(PlanFileError::Edited);
        }
        serde_json::from_value(value).map_err(malformed)
    }

    /// What is asked for, for the planned letters only.
    ///
    /// # Errors
    /// When a name in it can be none.
    pub fn run(&self) -> Result<RunSpec, SelectError> {
        let mut spec = self.run.clone();
        spec.planned = Some(Planned {
            letters: self.letters.as_ref().map(|letters| letters.len() as u64),
            // Nothing has to be looked at for none.
            within: if self.meant == 0 { 0 } else { self.ready },
        });
        if let Some(letters) = &self.letters {
            spec.selection = Selection::default();
            for letter in letters {
                spec.selection.add(&letter.id)?;
            }
        }
        Ok(spec)
    }
}

/// What is there now, to be compared with a plan.
#[derive(Clone, Debug)]
pub struct Now {
    /// Where the letters are.
    pub broker: BrokerSeen,
    /// Where the copies go.
    pub elsewhere: Option<BrokerSeen>,
    /// The queue, and how many letters wait; `None` when it is gone.
    pub queue: Option<(Seen, u64)>,
    /// Each target, in the order of the plan; `None` when it is gone.
    pub targets: Vec<Option<Seen>>,
    /// Each input, in the order of the plan; `None` when there is no such file here.
    pub inputs: Vec<Option<Input>>,
}

/// How what is there now differs from what a plan saw, in a way that matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// It is another cluster or vhost.
    pub place: Vec<String>,
    /// Something in it is different.
    pub content: Vec<String>,
}

impl Differences {
    /// Whether the plan can be run.
    pub fn is_empty(&self) -> bool {
        self.place.is_empty() && self.content.is_empty()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.place.iter().chain(&self.content)
    }
}

fn compare_brokers(what: &str, was: &BrokerSeen, is: &BrokerSeen, out: &mut Vec<String>) {
    for (field, was, is) in
        [("cluster", &was.cluster, &is.cluster), ("vhost", &was.vhost, &is.vhost)]
    {
        if was != is {
            out.push(format!("{what} is {field} `{is}`, and the plan is for `{was}`"));
        }
    }
}

fn compare(was: &Seen, is: Option<&Seen>, out: &mut Vec<String>) {
    let shown = format!("{} `{}`", was.noun.as_str(), was.name);
    let Some(is) = is else {
        out.push(format!("{shown} is gone"));
        return;
    };
    let (Some(was), Some(is)) = (&was.settings, &is.settings) else {
        if was.settings.is_some() != is.settings.is_some() {
            out.push(format!("{shown}: what it is can be told only at one of both times"));
        }
        return;
    };
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let (was, is) = (was.get(name), is.get(name));
        if was != is {
            let none = "nothing".to_owned();
            let (was, is) = (was.unwrap_or(&none), is.unwrap_or(&none));
            out.push(format!("{shown}: {name} is {is}, and was {was}"));
        }
    }
}

/// Compares a plan with what is there now. More letters than planned do not matter.
pub fn differences(plan: &DeadLetterPlan, now: &Now) -> Differences {
    let mut found = Differences::default();
    compare_brokers("this", &plan.broker, &now.broker, &mut found.place);
    match (&plan.elsewhere, &now.elsewhere) {
        (Some(was), Some(is)) => compare_brokers("the target", was, is, &mut found.place),
        (None, None) => {}
        _ => found.place.push("the copies would go to another broker than planned".to_owned()),
    }
    compare(&plan.queue, now.queue.as_ref().map(|(seen, _)| seen), &mut found.content);
    if let Some((_, ready)) = now.queue
        && ready < plan.meant
    {
        found.content.push(format!(
            "queue `{}` has {ready} letters, and {} are planned: somebody else took some",
            plan.queue.name, plan.meant
        ));
    }
    for (was, is) in plan.targets.iter().zip(&now.targets) {
        compare(was, is.as_ref(), &mut found.content);
    }
    for (was, is) in plan.inputs.iter().zip(&now.inputs) {
        if is.as_ref().is_some_and(|is| is.fingerprint != was.fingerprint) {
            found.content.push(format!("{} {} was changed", was.option, was.file));
        }
    }
    found
}

/// An objection, with the option that overrides it.
pub fn objection_in_words(objection: &Objection) -> String {
    match objection.by {
        Some(option) => format!("{} ({option} goes on nonetheless)", objection.why),
        None => objection.why.clone(),
    }
}

/// What is gone on in spite of, by the options that were given.
pub fn overridden(facts: &Facts, request: &Request) -> Vec<String> {
    let bare = Request {
        alongside: false,
        allow_expiry: false,
        allow_loss: false,
        min_lives: request.min_lives.max(3),
        ..*request
    };
    let kept = super::plan::plan(facts, request).objections;
    super::plan::plan(facts, &bare)
        .objections
        .into_iter()
        .filter(|objection| !kept.contains(objection))
        .map(|objection| match objection.by {
            Some(option) => format!("{} (overridden by {option})", objection.why),
            None => objection.why,
        })
        .collect()
}

/// What a run costs.
pub fn cost(facts: &Facts, plan: &Plan, spec: &RunSpec, meant: u64) -> Vec<String> {
    let mut cost = Vec::new();
    let window = plan.rules.window;
    match plan.mode {
        Mode::Drain => cost.push("every letter of the queue goes; none is held".to_owned()),
        Mode::Stream => cost.push("nothing is taken from the stream; none is held".to_owned()),
        Mode::Staged => cost.push(
            "letters that stay are written twice: into a queue of their own, and back".to_owned(),
        ),
        Mode::Hold => {
            cost.push(
                "letters that stay are held until the end, and go back to their places".to_owned(),
            );
            if facts.queue_type == Some(QueueType::Quorum) {
                cost.push(match facts.delivery_limit {
                    Some(limit) => {
                        format!("each letter that is held loses one of its {limit} lives")
                    }
                    None => "a letter that is held is counted as returned once more".to_owned(),
                });
            }
        }
    }
    cost.push(format!("at most {window} letters come twice after each kill"));
    if let Some(rate) = spec.rate.filter(|rate| *rate > 0.0) {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate in seconds"
        )]
        let seconds = (meant as f64 / rate).ceil() as u64;
        cost.push(format!("at least {seconds} s, at {rate} letters a second"));
    }
    if spec.edit.changes_bodies() {
        cost.push("the body of each edited letter is kept in the state file".to_owned());
    }
    cost
}

/// The order of a run, in words.
pub fn order_in_words(order: Order) -> &'static str {
    match order {
        Order::Queue => {
            "as they lie in the queue; the run stops at the first letter that cannot go"
        }
        Order::Key => {
            "as they lie in the queue; a letter that cannot go holds up those that belong with it"
        }
        Order::None => "as they lie in the queue, past letters that cannot go",
        Order::Strict => {
            "one after another, each confirmed before the next; the run stops at the first letter that \
             cannot go"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, settings: &[(&str, &str)]) -> Seen {
        let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Seen { noun: SeenNoun::Queue, name: name.to_owned(), settings: Some(settings.collect()) }
    }

    fn broker() -> BrokerSeen {
        BrokerSeen {
            cluster: "c".to_owned(),
            url: "amqp://h".to_owned(),
            vhost: "/".to_owned(),
            version: "4.0.5".to_owned(),
        }
    }

    fn plan() -> DeadLetterPlan {
        let letter = |position: u64| PlannedLetter {
            id: "abcdefghij234567abcdefghij".to_owned(),
            position,
            to: "queue jobs".to_owned(),
            why: "it died there".to_owned(),
        };
        DeadLetterPlan {
            format: FORMAT,
            tool_version: "1".to_owned(),
            made_at: "2026-11-24T00:00:00Z".to_owned(),
            made_by: "me".to_owned(),
            broker: broker(),
            queue: seen("dead", &[("type", "quorum"), ("delivery-limit", "20")]),
            ready: 5,
            elsewhere: None,
            targets: vec![seen("jobs", &[("type", "classic")])],
            run: RunSpec { rate: Some(2.5), ..RunSpec::default() },
            meant: 2,
            letters: Some(vec![letter(1), letter(2)]),
            totals: vec![Total { what: "queue jobs".to_owned(), letters: 2 }],
            stay: Vec::new(),
            edits: Vec::new(),
            in_the_way: Vec::new(),
            risks: Vec::new(),
            cost: Vec::new(),
            order: String::new(),
            audience: None,
            inputs: vec![Input::new("--map", "map.yaml", "rules")],
            checksum: None,
        }
        .sealed()
    }

    fn text(plan: &DeadLetterPlan) -> String {
        let mut value = json!({"apiVersion": "nexus/v1", "kind": KIND});
        let own = serde_json::to_value(plan).unwrap();
        value.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        serde_json::to_string_pretty(&value).unwrap()
    }

    #[test]
    fn a_plan_is_read_back_and_an_edit_of_any_line_is_seen() {
        let whole = text(&plan());
        assert_eq!(DeadLetterPlan::read(&whole), Ok(plan()));
        let mut edited = 0;
        for (at, line) in whole.lines().enumerate() {
            // Each value of each line, one at a time.
            for (old, new) in [("\"", "\"x"), ("1", "2"), ("2", "3"), ("5", "6"), ("null", "[]")] {
                let Some((key, value)) = line.split_once(':') else { continue };
                if !value.contains(old) {
                    continue;
                }
                let changed = format!("{key}:{}", value.replacen(old, new, 1));
                let lines = whole.lines().enumerate();
                let text: Vec<&str> =
                    lines.map(|(n, l)| if n == at { changed.as_str() } else { l }).collect();
                assert!(DeadLetterPlan::read(&text.join("\n")).is_err(), "{changed}");
                edited += 1;
            }
        }
        assert!(edited > 40, "{edited}");
        assert_eq!(
            DeadLetterPlan::read(&whole.replace("\"meant\": 2", "\"meant\": 2, \"more\": 1")),
            Err(PlanFileError::Edited)
        );
        // Neither the order of keys nor white space is an edit.
        let value: BTreeMap<String, Value> = serde_json::from_str(&whole).unwrap();
        assert_eq!(DeadLetterPlan::read(&serde_json::to_string(&value).unwrap()), Ok(plan()));
    }

    #[test]
    fn a_plan_is_for_its_letters_only() {
        let spec = plan().run().unwrap();
        assert_eq!(spec.planned, Some(Planned { letters: Some(2), within: 5 }));
        assert_eq!(spec.selection.ids.len(), 2);
        let counted = DeadLetterPlan { letters: None, ..plan() }.run().unwrap();
        assert_eq!(counted.planned, Some(Planned { letters: None, within: 5 }));
        assert!(counted.selection.is_all());
    }

    #[test]
    fn every_difference_that_matters_is_told_at_once() {
        let plan = plan();
        let now = Now {
            broker: broker(),
            elsewhere: None,
            queue: Some((plan.queue.clone(), 9)),
            targets: vec![Some(plan.targets[0].clone())],
            inputs: vec![None],
        };
        assert!(differences(&plan, &now).is_empty(), "more letters do not matter");
        let other = Now {
            broker: BrokerSeen { vhost: "v".to_owned(), version: "3".to_owned(), ..broker() },
            queue: Some((seen("dead", &[("type", "classic"), ("message-ttl", "5")]), 1)),
            targets: vec![None],
            inputs: vec![Some(Input::new("--map", "map.yaml", "other rules"))],
            elsewhere: None,
        };
        let found = differences(&plan, &other);
        let all: Vec<&str> = found.all().map(String::as_str).collect();
        assert_eq!(
            all,
            [
                "this is vhost `v`, and the plan is for `/`",
                "queue `dead`: delivery-limit is nothing, and was 20",
                "queue `dead`: message-ttl is 5, and was nothing",
                "queue `dead`: type is classic, and was quorum",
                "queue `dead` has 1 letters, and 2 are planned: somebody else took some",
                "queue `jobs` is gone",
                "--map map.yaml was changed",
            ]
        );
        let gone = Now { queue: None, elsewhere: Some(broker()), ..now };
        let found = differences(&plan, &gone);
        assert_eq!((found.place.len(), found.content.len()), (1, 1));
    }
}
