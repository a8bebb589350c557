//! What `quickstart` prints at its end.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use crate::project::quickstart::{QuickstartReport, Worked};

use crate::cli::output::{Page, View};

/// Everything that happened.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuickstartView {
    /// Messages confirmed.
    published: u64,
    /// Messages rejected, and so dead-lettered.
    rejected: u64,
    /// Messages consumed and acked.
    consumed: u64,
    /// Messages found among the dead letters then.
    dead_lettered: u64,
    /// What a worker made of more messages.
    worker: WorkedView,
    /// Dead letters of both that went back to where they are worked on.
    replayed: u64,
    /// Of these, those whose work the mended worker did.
    mended: u64,
    /// Whether everything was removed again.
    cleaned_up: bool,
    /// The project's directory, when it was kept.
    kept: Option<String>,
    /// How long it took, in milliseconds.
    elapsed_ms: u64,
    /// The steps.
    steps: Vec<StepView>,
}

/// What a worker made of its messages; each is done or dead-lettered.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WorkedView {
    /// Messages confirmed.
    published: u64,
    /// Messages whose work is done.
    done: u64,
    /// Attempts that were begun.
    attempts: u64,
    /// Failed attempts that another followed.
    retried: u64,
    /// Messages that failed for good.
    dead_lettered: u64,
    /// What the first of these dead letters tells.
    first_death: Option<DeathView>,
}

/// What a dead letter tells.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DeathView {
    /// Which message.
    message_id: String,
    /// How the last attempt ended, such as `exit 65`.
    code: String,
    /// How many attempts were made.
    attempts: u64,
    /// What the command said last.
    error: String,
}

impl WorkedView {
    fn new(worked: &Worked) -> Self {
        WorkedView {
            published: worked.published,
            done: worked.done,
            attempts: worked.attempts,
            retried: worked.retried,
            dead_lettered: worked.dead_lettered,
            first_death: worked.first_death.as_ref().map(|death| DeathView {
                message_id: death.message_id.clone(),
                code: death.code.clone(),
                attempts: death.attempts,
                error: death.error.clone(),
            }),
        }
    }
}

/// One step.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct StepView {
    /// What was done.
    title: &'static str,
    /// The command that does it.
    command: String,
    /// What came of it.
    result: String,
}

impl QuickstartView {
    /// What came of a run that took `elapsed` and kept its project at `kept`.
    pub fn new(report: &QuickstartReport, elapsed: Duration, kept: Option<String>) -> Self {
        QuickstartView {
            published: report.published,
            rejected: report.rejected,
            consumed: report.consumed,
            dead_lettered: report.dead_lettered,
            worker: WorkedView::new(&report.worked),
            replayed: report.replayed,
            mended: report.mended,
            cleaned_up: report.cleaned_up,
            kept,
            elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            steps: report
                .steps
                .iter()
                .map(|step| StepView {
                    title: step.title,
                    command: step.command.clone(),
                    result: step.result.clone(),
                })
                .collect(),
        }
    }
}

impl View for QuickstartView {
    const KIND: &'static str = "Quickstart";
    /// The steps have been shown while they happened.
    fn text(&self, page: &mut Page) {
        let seconds = Duration::from_millis(self.elapsed_ms).as_secs_f64();
        let worker = &self.worker;
        page.line(format!(
            "{} published = {} consumed + {} done by a worker + {} that died, were sent back and done; \
             nothing lost, {seconds:.1} s",
            self.published + worker.published,
            self.consumed,
            worker.done,
            self.mended
        ));
        match &self.kept {
            Some(dir) => page.line(format!("kept in {dir}; try the commands above")),
            None => page.line("next: nexusctl init DIR"),
        }
    }
}

/// What the quickstart would do.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuickstartPlanView {
    /// The broker, without its password; null for a temporary embedded one.
    pub(super) broker: Option<String>,
    /// The project's directory; null for a temporary one.
    pub(super) directory: Option<String>,
    /// What all names would begin with.
    pub(super) name: String,
    /// Whether broker and directory would stay as they are at the end.
    pub(super) kept: bool,
}

impl View for QuickstartPlanView {
    const KIND: &'static str = "QuickstartPlan";
    fn text(&self, page: &mut Page) {
        let directory = self.directory.as_deref().unwrap_or("a temporary directory");
        let broker = self.broker.as_deref().unwrap_or("a temporary embedded broker");
        page.line(format!("would make a project in {directory}"));
        page.line(format!(
            "would declare exchanges and queues whose names begin with `{}` on {broker}",
            self.name
        ));
        page.line("would publish 1000 messages to them, consume them and reject some");
        page.line("would let a worker handle 20 more with `sh`, and some of them fail");
        page.line("would scan and group the dead letters, replay them, and handle them again");
        page.line(match self.kept {
            true => "would leave broker and directory as they are then",
            false => "would remove all of it again",
        });
    }
}
