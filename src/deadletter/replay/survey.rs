//! What a run would do to each letter of a scan: where it goes and why, or why it stays, and who gets
//! the copies.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::base::id::QueueName;
use crate::deadletter::death::origin;
use crate::deadletter::select::{Known, Selection, Selector};
use crate::deadletter::store::{FindError, Scan, Scans, StoredLetter};
use crate::topology::view::TopologyView;

use super::address::{Nowhere, Sender, Target, replays};
use super::audience::{Audience, Heard};
use super::edit::{Edited, Editor};
use super::planned::{MOST_LETTERS, PlannedLetter, SeenNoun, Total};
use super::spec::{RunSpec, SpecError};

/// What a run would do.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// How many letters are meant and can go.
    pub meant: u64,
    /// These, as far as they can be named one by one.
    pub letters: Vec<PlannedLetter>,
    /// Whether these are all of them.
    pub all_named: bool,
    /// How many go where.
    pub totals: Vec<Total>,
    /// How many stay, and why.
    pub stay: Vec<Total>,
    /// The queues and exchanges that they go to.
    pub targets: BTreeSet<(SeenNoun, String)>,
    /// Who gets them, when it is known.
    pub heard: Option<Vec<Heard>>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// What is asked for cannot be done.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The scan cannot be asked so.
    #[error(transparent)]
    Find(#[from] FindError),
}

/// Where the copies go, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The topology there.
    pub view: Option<&'a TopologyView>,
    /// Whether that is another broker or vhost.
    pub elsewhere: bool,
}

/// Counts reasons; of those that are told in words of one letter, the first is told.
#[derive(Default)]
struct Reasons(BTreeMap<&'static str, (u64, Option<String>)>);

impl Reasons {
    fn add(&mut self, what: &'static str, why: Option<String>) {
        let (number, first) = self.0.entry(what).or_default();
        *number += 1;
        if first.is_none() {
            *first = why;
        }
    }

    fn totals(self) -> Vec<Total> {
        let total = |(what, (letters, first)): (&str, (u64, Option<String>))| Total {
            what: first.map_or_else(|| what.to_owned(), |first| format!("{what}: {first}")),
            letters,
        };
        self.0.into_iter().map(total).collect()
    }
}

struct Walk<'a> {
    spec: &'a RunSpec,
    queue: &'a QueueName,
    sender: Sender,
    editor: Option<Editor>,
    audience: Option<Audience>,
    totals: BTreeMap<String, u64>,
    reasons: Reasons,
    survey: Survey,
}

/// Asks a scan what a run of `spec` would do.
///
/// # Errors
/// When the scan or what is asked for is wrong.
pub fn survey(
    scans: &Scans,
    scan: &Scan,
    spec: &RunSpec,
    targets: Targets<'_>,
) -> Result<Survey, SurveyError> {
    let queue = &scan.of.queue;
    let target = spec.target()?;
    let hears = target.is_routed();
    let sender = Sender {
        run: String::new(),
        queue: queue.clone(),
        target,
        login: None,
        dress: spec.dress(),
        elsewhere: targets.elsewhere,
    };
    let mut walk = Walk {
        spec,
        queue,
        sender,
        editor: spec.editor()?,
        audience: targets.view.filter(|_| hears).map(Audience::new),
        totals: BTreeMap::new(),
        reasons: Reasons::default(),
        survey: Survey { all_named: true, ..Survey::default() },
    };
    let mut selector = Selector::new(
        &Selection { first: None, last: None, ..spec.selection.clone() },
        &scan.of.vhost,
        queue,
    )
    .map_err(FindError::from)?;
    let all = Selection::default();
    let Selection { first, last, .. } = spec.selection;
    let mut skipped = 0;
    if let Some(last) = last {
        let mut matching: u64 = 0;
        each(scans, scan, &all, &mut |letter| {
            matching += u64::from(decide(&mut selector, letter).unwrap_or(false));
        })?;
        skipped = matching.saturating_sub(last);
    }
    let mut matched: u64 = 0;
    each(scans, scan, &all, &mut |letter| match decide(&mut selector, letter) {
        Ok(true) if first.is_some_and(|first| walk.survey.meant >= first) => {
            walk.reasons.add("not selected", None);
        }
        Ok(true) => {
            matched += 1;
            if matched > skipped {
                walk.take(letter);
            } else {
                walk.reasons.add("not selected", None);
            }
        }
        Ok(false) => walk.reasons.add("not selected", None),
        Err(why) => walk.reasons.add("the condition cannot be decided", Some(why)),
    })?;
    let mut survey = walk.survey;
    survey.totals =
        walk.totals.into_iter().map(|(what, letters)| Total { what, letters }).collect();
    survey.stay = walk.reasons.totals();
    survey.heard = walk.audience.map(Audience::heard);
    Ok(survey)
}

fn each(
    scans: &Scans,
    scan: &Scan,
    all: &Selection,
    take: &mut dyn FnMut(&StoredLetter),
) -> Result<(), FindError> {
    scans.each(scan.id, all, &mut |letter| {
        take(&letter);
        ControlFlow::Continue(())
    })?;
    Ok(())
}

fn decide(selector: &mut Selector, letter: &StoredLetter) -> Result<bool, String> {
    let known = Known { id: &letter.id, group: letter.group, whole: letter.is_whole() };
    selector
        .decide(letter.position, &letter.delivery, Some(&known))
        .map_err(|error| error.to_string())
}

impl Walk<'_> {
    fn take(&mut self, letter: &StoredLetter) {
        let delivery = &letter.delivery;
        let headers = delivery.message.properties.headers.as_ref();
        if headers.is_some_and(|headers| replays(headers) >= self.spec.max_replays) {
            match &self.spec.park {
                Some(park) => {
                    let why = "replayed too often".to_owned();
                    self.survey.targets.insert((SeenNoun::Queue, park.to_string()));
                    self.go(letter, format!("queue {park}"), why);
                }
                None => self.reasons.add("replayed too often", None),
            }
            return;
        }
        let mapped = match &self.sender.target {
            Target::Mapped(map) => map.needs_body(),
            _ => false,
        };
        let edited = self.editor.as_ref().is_some_and(Editor::needs_body);
        if (mapped || edited) && !letter.is_whole() {
            self.reasons.add("the scan did not keep the whole body", None);
            return;
        }
        let to = match self.sender.address(delivery, &letter.id) {
            Ok(to) => to,
            Err(Nowhere::Undecided(why)) => {
                self.reasons.add("a rule of the map cannot be decided", Some(why));
                return;
            }
            Err(Nowhere::NoRule) => return self.reasons.add("no rule of the map fits", None),
            Err(Nowhere::NoOrigin) => {
                return self.reasons.add("nothing tells where it came from", None);
            }
            Err(Nowhere::Circular) => return self.reasons.add("it would go where it is", None),
        };
        let edits = match &self.editor {
            None => Edited::default(),
            Some(editor) => match editor.edit(delivery, &letter.id, self.queue) {
                Ok(edits) => edits,
                Err(why) => return self.reasons.add("it cannot be edited so", Some(why)),
            },
        };
        let (shown, why) = (to.to_string(), to.why.clone());
        let is_queue = to.exchange.is_default();
        self.survey.targets.insert(if is_queue {
            (SeenNoun::Queue, to.key.to_string())
        } else {
            (SeenNoun::Exchange, to.exchange.to_string())
        });
        if let Some(audience) = &mut self.audience {
            let publish = self.sender.letter_to(to, delivery, &letter.id, &edits);
            let meant = if is_queue {
                QueueName::new(publish.routing_key.as_str()).ok()
            } else {
                origin(&delivery.message.properties).map(|origin| origin.queue)
            };
            let headers = publish.message.properties.headers.as_ref();
            audience.add(&publish.exchange, &publish.routing_key, headers, meant.as_ref());
        }
        self.go(letter, shown, why);
    }

    fn go(&mut self, letter: &StoredLetter, to: String, why: String) {
        self.survey.meant += 1;
        *self.totals.entry(to.clone()).or_default() += 1;
        if self.survey.letters.len() < MOST_LETTERS {
            let (id, position) = (letter.id.to_string(), letter.position);
            self.survey.letters.push(PlannedLetter { id, position, to, why });
        } else {
            self.survey.all_named = false;
        }
    }
}
