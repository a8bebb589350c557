//! What a run is asked to do, in full: the journal keeps it, a plan holds it, and by it a run is resumed.
//!
//! Pure.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::diagnostic::Findings;
use crate::base::id::{ExchangeName, QueueName, RoutingKey, VhostName};
use crate::base::url::BrokerUrl;
use crate::deadletter::{Lanes, Selection};
use crate::delivery::pace::Pace;

use super::address::{Dress, Target};
use super::caution::{Canary, Caution, MostBack};
use super::edit::{EditError, EditSpec, Editor};
use super::machine::Order;
use super::mapping::{MapText, Mapping};
use super::plan::{MOST_HELD, Request, WINDOW};

/// What becomes of the letters that are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// Each goes back to where it is worked on, and begins anew.
    #[default]
    Replay,
    /// Each goes to another queue, dead as it is.
    Move,
    /// The same, and it stays as well.
    Copy,
    /// Each goes into a bundle.
    Drop,
    /// The same, and it stays as well.
    Export,
    /// Each is put aside, dead as it is.
    Park,
    /// Letters of a bundle go to a queue.
    Import,
    /// Each goes back to where an earlier run had taken it from.
    Undo,
}

impl Verb {
    /// The verb as a word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Verb::Replay => "replay",
            Verb::Move => "move",
            Verb::Copy => "copy",
            Verb::Drop => "drop",
            Verb::Export => "export",
            Verb::Park => "park",
            Verb::Import => "import",
            Verb::Undo => "undo",
        }
    }

    /// Whether letters go into a bundle.
    pub const fn writes_bundle(self) -> bool {
        matches!(self, Verb::Drop | Verb::Export)
    }

    /// Whether letters come from a bundle.
    pub const fn reads_bundle(self) -> bool {
        matches!(self, Verb::Import)
    }

    /// Whether a letter stays when its copy is confirmed.
    pub const fn keeps(self) -> bool {
        matches!(self, Verb::Copy | Verb::Export)
    }
}

/// How far the order is kept when a letter cannot go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OrderSpec {
    /// Stop at the first letter that cannot go.
    #[default]
    Queue,
    /// Go on past letters that cannot go.
    None,
    /// Stop, and send no letter before the one ahead of it is confirmed.
    Strict,
    /// The same among letters for which this CEL expression has the same value; others go on.
    Key(String),
}

impl fmt::Display for OrderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrderSpec::Queue => f.write_str("queue"),
            OrderSpec::None => f.write_str("none"),
            OrderSpec::Strict => f.write_str("strict"),
            OrderSpec::Key(key) => write!(f, "key:{key}"),
        }
    }
}

impl From<OrderSpec> for String {
    fn from(order: OrderSpec) -> String {
        order.to_string()
    }
}

impl FromStr for OrderSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<OrderSpec, String> {
        match text {
            "queue" => Ok(OrderSpec::Queue),
            "none" => Ok(OrderSpec::None),
            "strict" => Ok(OrderSpec::Strict),
            _ => match text.strip_prefix("key:") {
                Some(key) if !key.trim().is_empty() => Ok(OrderSpec::Key(key.to_owned())),
                _ => Err(format!(
                    "`{text}` is no order; write queue, none, strict or key:CEL, such as \
                     key:headers.order"
                )),
            },
        }
    }
}

impl TryFrom<String> for OrderSpec {
    type Error = String;

    fn try_from(text: String) -> Result<OrderSpec, String> {
        text.parse()
    }
}

/// Another vhost or broker, where the copies go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Elsewhere {
    /// The vhost, when it is not the one that the URL or the context says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost: Option<VhostName>,
    /// The context that leads to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// The broker's URL without its password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// Whether the URL had a password, and has to be given again by whoever goes on.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub had_password: bool,
    /// The cluster that it was when the run began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The URL as it was given: never written down.
    #[serde(skip)]
    pub url: Option<BrokerUrl>,
}

impl Elsewhere {
    /// In words.
    pub fn in_words(&self) -> String {
        let by = match (&self.context, &self.broker) {
            (Some(context), _) => format!("context {context}"),
            (None, Some(url)) => url.clone(),
            (None, None) => String::new(),
        };
        match &self.vhost {
            Some(vhost) if by.is_empty() => format!("vhost {vhost}"),
            Some(vhost) => format!("vhost {vhost} of {by}"),
            None => by,
        }
    }
}

/// Which letters of a plan a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Planned {
    /// How many letters are meant, each by its name; `None` when they are only counted.
    pub letters: Option<u64>,
    /// How many letters waited when they were looked at: none of them lies behind so many.
    pub within: u64,
}

/// The letters that go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CanarySpec {
    /// How many.
    pub letters: u64,
    /// How long they are watched, in milliseconds.
    pub wait_ms: u64,
}

/// What a run is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunSpec {
    /// What becomes of the letters.
    #[serde(default)]
    pub verb: Verb,
    /// Which letters.
    #[serde(default)]
    pub selection: Selection,
    /// All of them to this queue.
    #[serde(default)]
    pub to: Option<QueueName>,
    /// Each to the exchange it had been published to.
    #[serde(default)]
    pub via_exchange: bool,
    /// All of them to this exchange, with this key or each with its own: `EXCHANGE[:KEY]`.
    #[serde(default)]
    pub to_exchange: Option<String>,
    /// How often a letter may have been replayed.
    #[serde(default = "max_replays")]
    pub max_replays: u64,
    /// Where those go that were replayed more often.
    #[serde(default)]
    pub park: Option<QueueName>,
    /// What a letter that cannot go means for those behind it.
    #[serde(default)]
    pub order: OrderSpec,
    /// Letters unconfirmed at once.
    #[serde(default = "window")]
    pub window: u64,
    /// Messages a second, at most.
    #[serde(default)]
    pub rate: Option<f64>,
    /// How long it takes until that rate is reached, in milliseconds.
    #[serde(default)]
    pub ramp_ms: u64,
    /// So many letters go first, and are watched before the others follow.
    #[serde(default)]
    pub canary: Option<CanarySpec>,
    /// Of the letters that went, the most that may come back, in percent, before the run stops.
    #[serde(default)]
    pub max_return_percent: Option<f64>,
    /// How long to look at what becomes of the letters afterwards, in milliseconds.
    #[serde(default)]
    pub verify_ms: Option<u64>,
    /// Give back the time to live that letters had.
    #[serde(default)]
    pub restore_ttl: bool,
    /// Leave what the broker wrote when letters died.
    #[serde(default)]
    pub keep_x_death: bool,
    /// Letters of a bundle begin anew.
    #[serde(default)]
    pub begin_anew: bool,
    /// The bundle that letters go into or come from.
    #[serde(default)]
    pub bundle: Option<PathBuf>,
    /// The seal that the bundle had when the run began, so that no other is taken for it.
    #[serde(default)]
    pub bundle_seal: Option<String>,
    /// The run that is undone.
    #[serde(default)]
    pub undoes: Option<String>,
    /// Beside other consumers.
    #[serde(default)]
    pub alongside: bool,
    /// Hold letters that may expire meanwhile.
    #[serde(default)]
    pub allow_expiry: bool,
    /// Into a target that drops what it has.
    #[serde(default)]
    pub allow_loss: bool,
    /// The fewest lives that a letter which goes back may have.
    #[serde(default = "min_lives")]
    pub min_lives: u64,
    /// Look only at so many letters from the head.
    #[serde(default)]
    pub within: Option<u64>,
    /// Begin at this offset of a stream.
    #[serde(default)]
    pub from: Option<u64>,
    /// Hold letters that stay for so long at most, in milliseconds.
    #[serde(default)]
    pub max_hold_ms: Option<u64>,
    /// Hold so many letters at most.
    #[serde(default = "most_held")]
    pub most_held: u64,
    /// Put letters that stay into a queue of their own meanwhile, instead of holding them.
    #[serde(default)]
    pub staged: bool,
    /// Each by the rule that fits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<MapText>,
    /// What becomes different in letters.
    #[serde(default, skip_serializing_if = "EditSpec::is_empty")]
    pub edit: EditSpec,
    /// The copies go to another vhost or broker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<Elsewhere>,
    /// It was planned which letters are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
}

fn max_replays() -> u64 {
    3
}

fn window() -> u64 {
    WINDOW
}

fn min_lives() -> u64 {
    3
}

fn most_held() -> u64 {
    MOST_HELD
}

impl Default for RunSpec {
    fn default() -> Self {
        RunSpec {
            verb: Verb::default(),
            selection: Selection::default(),
            to: None,
            via_exchange: false,
            to_exchange: None,
            max_replays: max_replays(),
            park: None,
            order: OrderSpec::default(),
            window: window(),
            rate: None,
            ramp_ms: 0,
            canary: None,
            max_return_percent: None,
            verify_ms: None,
            restore_ttl: false,
            keep_x_death: false,
            begin_anew: false,
            bundle: None,
            bundle_seal: None,
            undoes: None,
            alongside: false,
            allow_expiry: false,
            allow_loss: false,
            min_lives: min_lives(),
            within: None,
            from: None,
            max_hold_ms: None,
            most_held: most_held(),
            staged: false,
            map: None,
            edit: EditSpec::default(),
            elsewhere: None,
            planned: None,
        }
    }
}

/// Why a run cannot be what it is asked to be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The key by which order is kept cannot be read.
    #[error("--order: {0}")]
    Order(String),
    /// The place to send to is written wrongly.
    #[error("--to-exchange: {0}")]
    Exchange(String),
    /// There and back.
    #[error("`{0}` is both where the letters are and where they are to go")]
    Circular(QueueName),
    /// The map is wrong.
    #[error("the map {file} cannot be used")]
    Map {
        /// The file.
        file: String,
        /// What is wrong in it.
        findings: Findings,
    },
    /// Nothing can be edited so.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// No rate.
    #[error("--rate: {0} is no rate; write a number above 0")]
    Rate(String),
    /// No share.
    #[error("--max-return: {0} is no share; write a number of percent from 0 to 100, such as 5%")]
    Share(String),
    /// Nothing that could rise.
    #[error("--ramp says how the rate rises, and there is no --rate")]
    Ramp,
    /// One excludes the other.
    #[error("{0}")]
    Together(&'static str),
    /// The last ones are known only when all were looked at.
    #[error("which letters are the last is not known before all were looked at")]
    Last,
    /// Of two that begin alike the first would be gone before that shows.
    #[error("`{0}` is only the beginning of a letter's id, and may mean several")]
    Short(String),
}

impl RunSpec {
    /// Where the letters go.
    ///
    /// # Errors
    /// When the exchange is written wrongly.
    pub fn target(&self) -> Result<Target, SpecError> {
        if self.verb.writes_bundle() {
            return Ok(Target::Bundle);
        }
        if let Some(queue) = &self.to {
            return Ok(Target::Queue(queue.clone()));
        }
        if let Some(text) = &self.map {
            let map = Mapping::read(text)
                .map_err(|findings| SpecError::Map { file: text.file.clone(), findings })?;
            return Ok(Target::Mapped(Arc::new(map)));
        }
        if self.via_exchange {
            return Ok(Target::OriginExchange);
        }
        let Some(text) = &self.to_exchange else { return Ok(Target::Origin) };
        let wrong = |error: &dyn fmt::Display| SpecError::Exchange(error.to_string());
        let (exchange, key) = match text.split_once(':') {
            Some((exchange, key)) => (exchange, Some(key)),
            None => (text.as_str(), None),
        };
        let exchange = ExchangeName::new(exchange).map_err(|error| wrong(&error))?;
        let key = key.map(RoutingKey::new).transpose().map_err(|error| wrong(&error))?;
        Ok(Target::Exchange(exchange, key))
    }

    /// What becomes different in letters.
    ///
    /// # Errors
    /// When nothing can be edited so.
    pub fn editor(&self) -> Result<Option<Editor>, SpecError> {
        Ok(Editor::new(&self.edit)?)
    }

    /// Whether it can be done to the letters in `queue` at all.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, queue: &QueueName) -> Result<(), SpecError> {
        self.check_plan(queue)?;
        // A bundle is looked at as a whole before.
        let from_queue = !self.verb.reads_bundle();
        if self.selection.last.is_some() && from_queue {
            return Err(SpecError::Last);
        }
        if from_queue && let Some(short) = self.selection.ids.iter().find(|id| !id.is_whole()) {
            return Err(SpecError::Short(short.as_str().to_owned()));
        }
        Ok(())
    }

    /// Whether it can be planned: what only a look at all letters tells is no objection then.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_plan(&self, queue: &QueueName) -> Result<(), SpecError> {
        let to_itself = !self.verb.reads_bundle() && self.target()? == Target::Queue(queue.clone());
        self.editor()?;
        if self.elsewhere.is_none() && (to_itself || self.park.as_ref() == Some(queue)) {
            return Err(SpecError::Circular(queue.clone()));
        }
        if let Some(rate) = self.rate
            && Pace::new(rate).is_none()
        {
            return Err(SpecError::Rate(rate.to_string()));
        }
        if let OrderSpec::Key(key) = &self.order {
            Lanes::new(key, "", queue).map_err(|error| SpecError::Order(error.to_string()))?;
        }
        if let Some(percent) = self.max_return_percent
            && !(0.0..=100.0).contains(&percent)
        {
            return Err(SpecError::Share(percent.to_string()));
        }
        if self.ramp_ms > 0 && self.rate.is_none() {
            return Err(SpecError::Ramp);
        }
        self.check_together()
    }

    /// Whether what is asked for goes together.
    fn check_together(&self) -> Result<(), SpecError> {
        let is_elsewhere = self.elsewhere.is_some();
        let counts_returns =
            self.canary.is_some() || self.max_return_percent.is_some() || self.verify_ms.is_some();
        for (is_so, why) in [
            (
                is_elsewhere && self.staged,
                "--staged and another vhost or broker: letters that stay wait where they are from",
            ),
            (
                is_elsewhere && counts_returns,
                "--canary, --max-return and --verify count what comes back here, and the copies go \
                 elsewhere",
            ),
            (
                self.canary.is_some() && self.selection.asks_for_places(),
                "--canary and a condition on `position`: places are others once some letters went",
            ),
        ] {
            if is_so {
                return Err(SpecError::Together(why));
            }
        }
        Ok(())
    }

    /// The letters that are meant, however many: how many go is the run's own to count, for of those that
    /// did not, more may be looked at.
    pub fn selection(&self) -> Selection {
        Selection { first: None, ..self.selection.clone() }
    }

    /// As what the letters go.
    pub fn dress(&self) -> Dress {
        match self.verb {
            Verb::Import if !self.begin_anew => Dress::AsItIs,
            Verb::Replay | Verb::Import => {
                Dress::Replay { restore_ttl: self.restore_ttl, keep_deaths: self.keep_x_death }
            }
            Verb::Move | Verb::Copy | Verb::Park => Dress::Moved,
            Verb::Drop | Verb::Export => Dress::Kept,
            Verb::Undo => Dress::AsItLay,
        }
    }

    /// Whether letters begin anew, so that it counts how often they did.
    pub fn begins_anew(&self) -> bool {
        matches!(self.dress(), Dress::Replay { .. })
    }

    /// How cautiously it is done; `watermark` letters waited when it began.
    pub fn caution(&self, watermark: u64) -> Caution {
        let ms = Duration::from_millis;
        let default = MostBack::default();
        Caution {
            canary: self
                .canary
                .map(|CanarySpec { letters, wait_ms }| Canary { letters, wait: ms(wait_ms) }),
            most_back: MostBack {
                percent: self.max_return_percent.unwrap_or(default.percent),
                breaks: self.max_return_percent.is_some(),
            },
            verify: self.verify_ms.map(ms),
            is_judged: false,
            watermark,
        }
    }

    /// What a plan is asked for.
    pub fn request(&self) -> Request {
        // Which of a bundle's letters are meant is decided where they come from.
        let from_queue = !self.verb.reads_bundle();
        Request {
            selects: match self.planned {
                Some(Planned { letters: Some(letters), within }) => letters < within,
                // A letter that no rule fits, or that cannot be edited so, stays.
                _ => {
                    let may_stay = self.map.is_some() || !self.edit.is_empty();
                    self.verb == Verb::Undo
                        || from_queue && (may_stay || !self.selection().is_all())
                }
            },
            first: self
                .planned
                .and_then(|planned| planned.letters)
                .or(self.selection.first)
                .filter(|_| from_queue),
            going: self.planned.and_then(|planned| planned.letters).unwrap_or(0),
            window: match self.rate {
                // A batch is sent as a whole: with a rate no more than a quarter of a second.
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 1 and the window"
                )]
                Some(rate) => self.window.min((rate / 4.0).clamp(1.0, 4096.0) as u64),
                None => self.window,
            },
            order: match self.order {
                OrderSpec::Queue => Order::Queue,
                OrderSpec::None => Order::None,
                OrderSpec::Strict => Order::Strict,
                OrderSpec::Key(_) => Order::Key,
            },
            max_replays: if self.begins_anew() { self.max_replays } else { u64::MAX },
            parks: self.park.is_some(),
            alongside: self.alongside,
            min_lives: self.min_lives,
            allow_expiry: self.allow_expiry,
            allow_loss: self.allow_loss,
            within: self.within,
            from: self.from,
            max_hold: self.max_hold_ms.map(Duration::from_millis),
            most_held: self.most_held,
            staged: self.staged,
            keeps: self.verb.keeps(),
            counts_returns: self.canary.is_some()
                || self.max_return_percent.is_some()
                || self.verify_ms.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_read_back_as_it_was_written() {
        let spec = RunSpec {
            to: Some(QueueName::new("repaired").unwrap()),
            order: OrderSpec::Key("headers.order".to_owned()),
            rate: Some(2.5),
            ..RunSpec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<RunSpec>(&text).unwrap(), spec);
        assert_eq!(serde_json::from_str::<RunSpec>("{}").unwrap(), RunSpec::default());
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        let queue = QueueName::new("dead").unwrap();
        let selection = |word| {
            let mut selection = Selection::default();
            selection.add(word).unwrap();
            selection
        };
        for (spec, error) in [
            (RunSpec { to: Some(queue.clone()), ..RunSpec::default() }, "both where"),
            (RunSpec { park: Some(queue.clone()), ..RunSpec::default() }, "both where"),
            (RunSpec { rate: Some(0.0), ..RunSpec::default() }, "no rate"),
            (
                RunSpec { order: OrderSpec::Key("headers.".to_owned()), ..RunSpec::default() },
                "--order",
            ),
            (
                RunSpec { order: OrderSpec::Key("nothing".to_owned()), ..RunSpec::default() },
                "nothing",
            ),
            (RunSpec { ramp_ms: 5, ..RunSpec::default() }, "no --rate"),
            (RunSpec { max_return_percent: Some(101.0), ..RunSpec::default() }, "no share"),
            (RunSpec { selection: selection("abcd"), ..RunSpec::default() }, "beginning"),
            (
                RunSpec {
                    selection: Selection { last: Some(1), ..Selection::default() },
                    ..RunSpec::default()
                },
                "the last",
            ),
        ] {
            assert!(spec.check(&queue).unwrap_err().to_string().contains(error), "{spec:?}");
        }
    }
}
