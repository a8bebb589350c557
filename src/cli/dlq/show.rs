//! `dlq show`: one letter, explained.

use std::collections::BTreeMap;

use clap::Args;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::base::time::{Timestamp, ago};
use crate::deadletter::journey::{Journey, Step, journey, links};
use crate::deadletter::labels::Label;
use crate::deadletter::mask::mask_text;
use crate::deadletter::plain::{body_of, body_value, properties_of};
use crate::deadletter::sighting::Told;
use crate::deadletter::store::{Scan, StoredLetter};
use crate::deadletter::trail::{NewEntry, Noun};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};
use crate::cli::session::Session;

use super::audit::note;
use super::label::LabelFileArgs;
use super::stored::{ScanOf, letter, pick, shown};

/// Arguments of `dlq show`.
#[derive(Debug, Args)]
#[command(
    after_help = "Asks the newest scan, not the queue. What looks like a secret, by its name or by itself, \
    is masked unless --unmask is given.\n\nExamples:\n  nexusctl dlq show @1\n  \
    nexusctl dlq show @2 --queue dead.agent.worker -o json"
)]
pub(super) struct ShowArgs {
    /// The letter: its id, the first letters of it, or @ and its place
    #[arg(value_name = "LETTER")]
    letter: String,
    #[command(flatten)]
    of: ScanOf,
    #[command(flatten)]
    labels: LabelFileArgs,
    /// Show secrets as they are; the trail is told
    #[arg(long)]
    unmask: bool,
    /// Why: kept in the trail
    #[arg(long, value_name = "TEXT", requires = "unmask")]
    reason: Option<String>,
}

/// One step of a letter's journey.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StepView {
    /// `published`, `died`, `givenUp`, `replayed` or `lies`.
    what: &'static str,
    /// The step in words.
    words: String,
    /// When; of several deaths, the first.
    at: Option<String>,
    /// Why it died.
    reason: Option<String>,
    /// How often.
    count: Option<u64>,
    /// The queue.
    queue: Option<String>,
    /// The host of a worker that gave it up.
    host: Option<String>,
    /// The last words of its handler.
    error: Option<String>,
}

impl StepView {
    fn new(step: &Step) -> StepView {
        let words = step.to_string();
        match step {
            Step::Published { at, .. } => {
                StepView { what: "published", words, at: shown(*at), ..StepView::default() }
            }
            Step::Died { queue, reason, count, first_at, .. } => StepView {
                what: "died",
                words,
                at: shown(*first_at),
                reason: Some(reason.to_string()),
                count: Some(*count),
                queue: Some(queue.clone()),
                ..StepView::default()
            },
            Step::GivenUp { queue, verdict } => StepView {
                what: "givenUp",
                words,
                at: shown(verdict.at),
                reason: Some(verdict.reason.clone()),
                count: verdict.attempts,
                queue: queue.clone(),
                host: verdict.host.clone(),
                error: verdict.error.clone(),
            },
            Step::Replayed { count } => {
                StepView { what: "replayed", words, count: Some(*count), ..StepView::default() }
            }
            Step::Lies { queue } => {
                StepView { what: "lies", words, queue: Some(queue.clone()), ..StepView::default() }
            }
        }
    }
}

/// One letter.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterView {
    /// Its id.
    id: String,
    /// Its group.
    group: String,
    /// What people call that; null when nobody has named it.
    label: Option<Label>,
    /// The scan that saw it.
    scan: i64,
    /// The queue it lies in.
    queue: String,
    /// Its place there, from 1.
    position: u64,
    /// Places of other letters that cannot be told apart from it.
    twins: Vec<u64>,
    /// When it died.
    died_at: Option<String>,
    /// Why; empty when nothing tells.
    reason: String,
    /// Its journey in one line.
    journey: String,
    /// Its journey step by step.
    steps: Vec<StepView>,
    /// What its headers do not tell, or contradict.
    gaps: Vec<String>,
    /// What it belongs to: message, correlation, workflow, saga, trace.
    links: BTreeMap<&'static str, String>,
    /// The exchange by which it came to this queue; the empty name is the default one.
    exchange: String,
    /// The key by which it came.
    routing_key: String,
    /// Whether it was handed out before the scan.
    redelivered: bool,
    /// Its properties and headers, as in a record.
    properties: Value,
    /// Bytes of its body.
    size: u64,
    /// Bytes of it that were kept.
    kept: u64,
    /// `json`, `text` or `hex`.
    body_as: &'static str,
    /// Its body.
    body: Value,
    /// What unpacked the body.
    unpacked: Option<&'static str>,
    /// What is wrong with the body.
    trouble: Option<String>,
    /// Whether secrets are masked.
    masked: bool,
    #[serde(skip)]
    died: Option<String>,
}

impl DeadLetterView {
    pub(super) fn new(
        scan: &Scan,
        letter: &StoredLetter,
        twins: Vec<u64>,
        unmask: bool,
        now: Timestamp,
    ) -> DeadLetterView {
        let Journey { steps, gaps } = journey(&letter.delivery, &scan.of.queue);
        let line = Journey { steps: steps.clone(), gaps: Vec::new() }.to_string();
        let mut steps: Vec<StepView> = steps.iter().map(StepView::new).collect();
        if !unmask {
            for step in &mut steps {
                step.error = step.error.take().map(|error| mask_text(&error));
            }
        }
        let told = Told::of(&letter.delivery);
        let decoded = body_of(letter);
        let (unpacked, trouble) = (decoded.unpacked, decoded.trouble.clone());
        let (body_as, body) = body_value(decoded.content, unmask);
        DeadLetterView {
            id: letter.id.to_string(),
            group: letter.group.to_string(),
            label: None,
            scan: scan.id.0,
            queue: scan.of.queue.to_string(),
            position: letter.position,
            twins,
            died_at: shown(letter.died_at),
            reason: told.reason().to_owned(),
            journey: line,
            steps,
            gaps,
            links: links(&letter.delivery.message.properties).into_iter().collect(),
            exchange: letter.delivery.exchange.as_str().to_owned(),
            routing_key: letter.delivery.routing_key.as_str().to_owned(),
            redelivered: letter.delivery.redelivered,
            properties: properties_of(letter, unmask),
            size: letter.size,
            kept: letter.delivery.message.body.len() as u64,
            body_as,
            body,
            unpacked,
            trouble,
            masked: !unmask,
            died: letter.died_at.map(|at| ago(at, now)),
        }
    }
}

impl View for DeadLetterView {
    const KIND: &'static str = "DeadLetter";
    fn text(&self, page: &mut Page) {
        let style = page.style;
        let place = format!("place {} of {}", self.position, self.queue);
        page.line(format!("letter {} ({}), {place}", style.strong(&self.id), self.group));
        if let Some(Label { name, note, runbook, owner }) = &self.label {
            page.line(format!("known as {}", style.strong(name)));
            for (what, text) in [("note", note), ("runbook", runbook), ("owner", owner)] {
                if let Some(text) = text {
                    page.line(format!("  {what}: {text}"));
                }
            }
        }
        if !self.twins.is_empty() {
            let places: Vec<String> = self.twins.iter().map(ToString::to_string).collect();
            page.line(
                style.attention(&format!("cannot be told apart from: {}", places.join(", "))),
            );
        }
        if let (Some(at), Some(ago)) = (&self.died_at, &self.died) {
            page.line(format!("died {at} ({ago})"));
        }
        page.gap();
        page.line(&self.journey);
        for step in &self.steps {
            let at = step.at.as_deref().unwrap_or("                       -");
            let host = step.host.as_ref().map(|host| format!(" on {host}")).unwrap_or_default();
            // In one line with others the words have to say it themselves.
            let words = step.words.strip_prefix(step.what).unwrap_or(&step.words).trim_start();
            page.line(format!("  {at:24}  {} {words}{host}", step.what));
            for line in step.error.iter().flat_map(|error| error.lines()) {
                page.line(format!("  {:24}    {}", "", style.bad(line)));
            }
        }
        for gap in &self.gaps {
            page.line(format!("  {} {gap}", style.attention("not known:")));
        }
        if !self.links.is_empty() {
            page.gap();
            for (name, value) in &self.links {
                page.line(format!("{name}: {value}"));
            }
        }
        page.gap();
        page.line(style.strong("properties"));
        page.line(format!("{:#}", self.properties));
        page.gap();
        let unpacked =
            self.unpacked.map(|name| format!(", unpacked from {name}")).unwrap_or_default();
        let size = count(self.size, "byte");
        page.line(style.strong(&format!("body ({}, {size}{unpacked})", self.body_as)));
        match &self.body {
            Value::String(text) => page.line(text.trim_end_matches('\n')),
            value => page.line(format!("{value:#}")),
        }
        if let Some(trouble) = &self.trouble {
            page.line(style.attention(trouble));
        }
    }
}

/// Tells the trail that somebody looks at letters with their secrets.
pub(super) fn unmasked(
    scan: &Scan,
    letters: &[&StoredLetter],
    reason: Option<&str>,
    session: &mut Session,
) -> Result<(), CliError> {
    for letter in letters {
        let entry = NewEntry {
            at: session.clock.now(),
            who: session.who.clone(),
            what: "secrets shown".to_owned(),
            noun: Noun::Letter,
            object: letter.id.to_string(),
            queue: Some(scan.of.queue.to_string()),
            run: None,
            reason: reason.map(str::to_owned),
            details: json!({
                "scan": scan.id.0,
                "position": letter.position,
                "vhost": scan.of.vhost,
                "messageId": letter.delivery.message.properties.message_id,
            }),
        };
        note(entry, session)?;
    }
    Ok(())
}

pub(super) fn run(args: &ShowArgs, session: &mut Session) -> Result<ExitStatus, CliError> {
    let (scans, scan) = pick(&args.of, session)?;
    let letter = letter(&scans, &scan, &args.letter)?;
    let mut twins = scans.places(scan.id, &letter.id)?;
    twins.retain(|place| *place != letter.position);
    if args.unmask {
        // Before anything is shown.
        unmasked(&scan, &[&letter], args.reason.as_deref(), session)?;
    }
    let now = session.clock.now();
    let labels = args.labels.read(session)?;
    let mut view = DeadLetterView::new(&scan, &letter, twins, args.unmask, now);
    if !labels.is_empty() {
        view.label = labels.by_group(&scans.groups(scan.id)?).remove(&letter.group);
    }
    session.ui.report(&view)?;
    Ok(ExitStatus::Done)
}
