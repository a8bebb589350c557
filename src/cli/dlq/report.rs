//! What a run did, or would do, as it is shown; and the exit status that follows from it.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::deadletter::bundle_source::Contents;
use crate::deadletter::replay::address::Target;
use crate::deadletter::replay::audience::Heard;
use crate::deadletter::replay::caution::{Verdict, Watched};
use crate::deadletter::replay::machine::End;
use crate::deadletter::replay::plan::{Facts, Plan};
use crate::deadletter::replay::spec::{RunSpec, Verb};

use crate::cli::error::CliError;
use crate::cli::exit::ExitStatus;
use crate::cli::output::{Page, View, count};

/// What became of letters that went.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerdictView {
    /// Letters that went.
    sent: u64,
    /// Letters that came into the dead-letter queue meanwhile, at most so many of them from these; null
    /// when it could not be asked.
    came_back: Option<u64>,
    /// How long was looked, in seconds.
    looked_s: f64,
    /// Whether that is no more than may come back.
    good: bool,
}

impl VerdictView {
    fn new(verdict: &Verdict) -> VerdictView {
        VerdictView {
            sent: verdict.sent,
            came_back: verdict.back,
            looked_s: verdict.looked.as_secs_f64(),
            good: verdict.is_good,
        }
    }

    fn line(&self, what: &str) -> String {
        let sent = count(self.sent, "letter");
        let word = if self.good { "good" } else { "not good" };
        let looked = self.looked_s;
        match self.came_back {
            Some(0) => format!("{what}: {sent} went, none came back in {looked:.1} s: {word}"),
            Some(back) => {
                format!("{what}: {sent} went, up to {back} came back in {looked:.1} s: {word}")
            }
            None => format!("{what}: {sent} went, and how many came back is not known: {word}"),
        }
    }
}

/// What a run did to letters, or would do.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplayView {
    /// The run; empty when nothing was to be changed.
    pub(super) run: String,
    /// What becomes of the letters: `replay`, `move`, `copy`, `drop`, `export`, `park`, `import` or `undo`.
    verb: &'static str,
    /// The queue that the letters are in; of an import that which they lay in.
    queue: String,
    /// The bundle that the letters go into or come from.
    bundle: Option<String>,
    /// Which letters, in words.
    meant: String,
    /// Where they go, in words.
    target: String,
    /// Letters that waited when it began.
    ready: u64,
    /// `drain` when none stays, `hold` when letters that stay are held to the end, `staged` when they
    /// wait in a queue of their own, `stream` when the queue keeps all it has.
    mode: &'static str,
    /// How many may be out at once.
    window: u64,
    /// Letters looked at.
    looked_at: u64,
    /// Letters confirmed at their target; in a bundle, those that are on the disk.
    replayed: u64,
    /// Letters confirmed where worn out ones are put.
    parked: u64,
    /// Letters that came back after a crash and were acked without another copy.
    skipped: u64,
    /// Left: not selected, or nowhere to go.
    not_wanted: u64,
    /// Of these, those of which nothing tells where they belong.
    nowhere: u64,
    /// Of these, those for which the condition failed.
    filter_errors: u64,
    /// Of the letters that an undone run had sent, those that are not there any more; null when it is not
    /// known.
    pub(super) gone: Option<u64>,
    /// Letters that went otherwise than they lay: with a user id that is not ours, or with CC or BCC.
    altered: u64,
    /// Of these, those that cannot be edited so.
    not_edited: u64,
    /// Of the replayed ones, those whose body was edited; the one before is kept.
    bodies_edited: u64,
    /// Letters of the plan that were not met.
    pub(super) not_met: u64,
    /// Who gets the copies that go through an exchange; null when it is not known, or none does.
    pub(super) audience: Option<Vec<Heard>>,
    /// Left: replayed too often.
    worn_out: u64,
    /// Left: behind one that could not go.
    behind: u64,
    /// Letters put into the queue in which they wait while others are sent, in all attempts.
    rested: u64,
    /// Of these, those that are back where they were.
    brought_back: u64,
    /// How far a run is that puts letters elsewhere: `select`, `newcomers`, `back` or `whole`; null for
    /// others.
    stage: Option<&'static str>,
    /// Left: no queue took the copy.
    returned: u64,
    /// Left: the broker refused the copy.
    nacked: u64,
    /// Left: not sent any more.
    not_sent: u64,
    /// Left, and the copy may have arrived or not.
    in_doubt: u64,
    /// Of the replayed ones, those that may still be in the queue as well.
    in_both: u64,
    /// Letters that wait now; null when it is not known.
    left: Option<u64>,
    /// What became of the letters that --canary sent first; null when it was not asked for.
    canary: Option<VerdictView>,
    /// What became of all that went, as far as --verify has seen; null when it was not asked for.
    outcome: Option<VerdictView>,
    /// What stands in the way, or why it ended before all were done; empty when nothing.
    pub(super) stopped: Vec<String>,
    /// What else to know.
    pub(super) warnings: Vec<String>,
    /// Whether nothing was to be changed.
    dry_run: bool,
}

impl View for ReplayView {
    const KIND: &'static str = "Replay";
    fn text(&self, page: &mut Page) {
        let queue = page.style.strong(&self.queue);
        let letters = |number: u64| count(number, "letter");
        let from = match &self.bundle {
            Some(bundle) if self.verb == Verb::Import.as_str() => format!("bundle {bundle}"),
            _ => format!("queue {queue}"),
        };
        if self.dry_run {
            let what = match self.mode {
                "drain" => "all go",
                "stream" => "nothing is taken from the stream",
                "staged" => "what stays waits in a queue of its own, and is brought back",
                _ => "what stays is held",
            };
            page.line(format!("{from}: {} would go to {}", self.meant, self.target));
            page.line(format!("{what}; at most {} would come twice after a kill", self.window));
        } else {
            let went = letters(self.replayed);
            page.line(format!("run {}: {went} of {from} to {}", self.run, self.target));
        }
        for (number, what) in [
            (self.parked, "put aside: replayed too often"),
            (self.skipped, "not sent again: confirmed before the crash"),
            (self.not_wanted.saturating_sub(self.nowhere + self.not_edited), "left: not selected"),
            (self.not_edited, "left: cannot be edited so"),
            (self.bodies_edited, "edited: their bodies from before are kept"),
            (self.not_met, "planned, and not met in the queue"),
            (self.nowhere, "left: nothing tells where else it belongs"),
            (self.worn_out, "left: replayed too often"),
            (self.behind, "left: behind one that could not go"),
            (self.rested, "put aside meanwhile, so that the others could be reached"),
            (self.brought_back, "brought back from there"),
            (self.returned, "left: returned, no queue took the copy"),
            (self.nacked, "left: the copy was refused"),
            (self.not_sent, "left: not sent any more"),
            (self.in_doubt, "left, and the copy may have arrived"),
            (self.in_both, "confirmed, and may still be in the queue as well"),
            (self.gone.unwrap_or_default(), "not there any more"),
            (
                self.altered,
                "without CC, BCC or a user id that are not ours to send; see their headers",
            ),
        ] {
            if number > 0 {
                page.line(format!("{} {what}", letters(number)));
            }
        }
        for heard in self.audience.iter().flatten() {
            page.line(heard.in_words());
        }
        for (what, verdict) in [("canary", &self.canary), ("afterwards", &self.outcome)] {
            if let Some(verdict) = verdict {
                page.line(verdict.line(what));
            }
        }
        for why in &self.stopped {
            let word = if self.dry_run { "in the way:" } else { "stopped:" };
            page.line(format!("{} {why}", page.style.attention(word)));
        }
        for warning in &self.warnings {
            page.line(format!("{} {warning}", page.style.attention("warning:")));
        }
        if self.dry_run {
            page.line("nothing was changed");
        }
    }
}

/// Where the letters go, for people.
///
/// # Errors
/// When that is written wrongly.
/// Which letters are meant, and how many at most.
pub(super) fn meant(spec: &RunSpec, facts: &Facts) -> String {
    let request = spec.request();
    let letters = |number| count(number, "letter");
    let first = request.first.map(|first| first.min(facts.ready));
    match (spec.planned.and_then(|planned| planned.letters), first) {
        (Some(planned), _) => format!("the planned {}", letters(planned)),
        (None, Some(first)) if request.selects => {
            format!("up to {} of those selected", letters(first))
        }
        (None, Some(first)) => letters(first),
        (None, None) if request.selects => format!("the selected of {}", letters(facts.ready)),
        (None, None) => letters(facts.ready),
    }
}

pub(super) fn in_words(spec: &RunSpec) -> Result<String, CliError> {
    let target = match spec.target()? {
        Target::Bundle => match &spec.bundle {
            Some(path) => format!("bundle {}", path.display()),
            None => "a bundle".to_owned(),
        },
        Target::Origin => "the queue each died in".to_owned(),
        Target::Queue(queue) => format!("queue {queue}"),
        Target::OriginExchange => "the exchange each was published to".to_owned(),
        Target::Exchange(exchange, None) => format!("exchange {exchange}"),
        Target::Exchange(exchange, Some(key)) => format!("exchange {exchange} with key {key}"),
        Target::Mapped(map) => format!("where {} says", map.text().file),
    };
    Ok(match &spec.elsewhere {
        Some(elsewhere) => format!("{target}, in {}", elsewhere.in_words()),
        None => target,
    })
}

pub(super) fn view_of(
    queue: &QueueName,
    spec: &RunSpec,
    facts: &Facts,
    plan: &Plan,
) -> Result<ReplayView, CliError> {
    Ok(ReplayView {
        run: String::new(),
        verb: spec.verb.as_str(),
        queue: queue.to_string(),
        bundle: spec.bundle.as_ref().map(|path| path.display().to_string()),
        target: in_words(spec)?,
        meant: meant(spec, facts),
        ready: facts.ready,
        mode: plan.mode.as_str(),
        window: plan.rules.window,
        looked_at: 0,
        replayed: 0,
        parked: 0,
        skipped: 0,
        not_wanted: 0,
        nowhere: 0,
        filter_errors: 0,
        gone: None,
        altered: 0,
        not_edited: 0,
        bodies_edited: 0,
        not_met: 0,
        audience: None,
        worn_out: 0,
        behind: 0,
        rested: 0,
        brought_back: 0,
        stage: None,
        returned: 0,
        nacked: 0,
        not_sent: 0,
        in_doubt: 0,
        in_both: 0,
        left: None,
        canary: None,
        outcome: None,
        stopped: Vec::new(),
        warnings: Vec::new(),
        dry_run: true,
    })
}

impl ReplayView {
    /// Of a bundle only what is selected comes; the others are counted here.
    pub(super) fn not_selected(&mut self, contents: &Contents) {
        self.not_wanted = contents.letters - contents.wanted.min(contents.letters);
        if let Some(error) = &contents.first_filter_error {
            let number = count(contents.filter_errors, "letter");
            self.warnings.push(format!("the condition failed for {number}: {error}"));
        }
    }

    pub(super) fn take(&mut self, watched: &Watched) {
        let report = &watched.report;
        self.canary = watched.canary.as_ref().map(VerdictView::new);
        self.outcome = watched.outcome.as_ref().map(VerdictView::new);
        let counts = report.counts;
        self.looked_at = counts.looked;
        self.replayed = counts.replayed + counts.copied;
        self.parked = counts.parked;
        self.skipped = counts.skipped;
        self.not_wanted += counts.not_wanted;
        self.altered = report.altered;
        self.nowhere = report.nowhere;
        self.filter_errors = report.filter_errors;
        self.not_edited = report.not_edited;
        self.bodies_edited = report.bodies_edited;
        self.worn_out = counts.worn_out;
        self.behind = counts.behind;
        if let Some(staged) = &report.staged {
            self.rested = staged.rested;
            self.brought_back = staged.brought_back;
            self.stage = Some(staged.stage.as_str());
        }
        self.returned = counts.returned;
        self.nacked = counts.nacked;
        self.not_sent = counts.not_sent;
        self.in_doubt = counts.in_doubt;
        self.in_both = counts.in_both + counts.unflushed;
        self.left = report.left;
        self.stopped = why_stopped(watched).into_iter().collect();
        self.dry_run = false;
        if !report.order_kept {
            self.warnings.push(
                "the queue has letters that came back to it before: what stayed may now be behind those"
                    .to_owned(),
            );
        }
        if report.gone > 0 {
            let number = count(report.gone, "letter");
            self.warnings.push(format!("the stream let go of {number} before they were read"));
        }
        if let Some(why) = &report.first_not_edited {
            let number = count(report.not_edited, "letter");
            self.warnings.push(format!("{number} cannot be edited so, the first because {why}"));
        }
        if let Some(why) = report.first_nowhere.as_ref().filter(|why| why.contains("map")) {
            self.warnings.push(format!("of the first letter with nowhere to go: {why}"));
        }
        if let Some(error) = &report.first_filter_error {
            let number = count(report.filter_errors, "letter");
            self.warnings.push(format!("the condition failed for {number}: {error}"));
        }
    }
}

fn why_stopped(watched: &Watched) -> Option<String> {
    let report = &watched.report;
    let counts = report.counts;
    let refusal = || report.refusal.clone().unwrap_or_else(|| "a letter was refused".to_owned());
    let failure = || report.failure.clone().unwrap_or_else(|| "the broker failed".to_owned());
    if let Some(back) = report.too_many_back {
        return Some(format!(
            "more letters come back than may: up to {back} of {} that went",
            counts.replayed
        ));
    }
    if watched.canary.is_some_and(|canary| !canary.is_good) {
        return Some(
            "too many of those that went first came back; `dlq resume` with --despite-canary goes on \
             nonetheless"
                .to_owned(),
        );
    }
    match report.ended {
        _ if report.held_too_long => Some(
            "letters that stay were held for as long as is safe; resume it, or see --max-hold and \
             --staged"
                .to_owned(),
        ),
        _ if report.lives_at_risk => Some(
            "a letter that stays has few lives left; raise the delivery limit, or replay it too"
                .to_owned(),
        ),
        End::All | End::First | End::Dry if report.failure.is_some() => Some(failure()),
        End::Dry if report.stalled => Some(
            "the queue counts letters that it does not hand out: another consumer has it to itself, \
             or they have expired"
                .to_owned(),
        ),
        // An empty queue is done, whoever took what is missing from the count.
        End::All | End::First | End::Dry => (counts.returned + counts.nacked > 0).then(refusal),
        End::Echo => Some(
            "a letter came back that this run had sent: what it died of is not mended".to_owned(),
        ),
        End::Full => Some("every place is taken by a letter that stays".to_owned()),
        End::Refused => Some(refusal()),
        End::Stopped => Some("somebody asked to stop".to_owned()),
        End::Broken | End::Journal => Some(failure()),
    }
}

pub(super) fn status(watched: &Watched, stopped: ExitStatus) -> ExitStatus {
    let report = &watched.report;
    let counts = report.counts;
    let verdicts = [&watched.canary, &watched.outcome];
    let is_bad = verdicts.into_iter().flatten().any(|verdict| !verdict.is_good);
    if is_bad || report.too_many_back.is_some() {
        return ExitStatus::Negative;
    }
    if why_stopped(watched).is_none() {
        return if report.not_edited == 0 { ExitStatus::Done } else { ExitStatus::Partly };
    }
    if report.ended == End::Stopped && !report.lives_at_risk && !report.held_too_long {
        return stopped;
    }
    if counts.replayed + counts.copied + counts.parked + counts.skipped > 0 {
        return ExitStatus::Partly;
    }
    match report.ended {
        _ if counts.in_doubt > 0 => ExitStatus::OutcomeUnknown,
        _ if counts.returned + counts.nacked > 0 => ExitStatus::NotAccepted,
        End::Broken | End::Journal => ExitStatus::Unavailable,
        _ => ExitStatus::Failed,
    }
}
