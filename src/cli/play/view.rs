//! What `play` prints.

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;

use crate::delivery::play::{Position, Speed, Timing};
use crate::delivery::publish::PublishReport;

use crate::cli::output::{Page, View};
use crate::cli::publish::PublishView;

/// What is known of a play.
pub(super) struct Played<'a> {
    pub(super) file: &'a Path,
    pub(super) journal: Option<&'a Path>,
    pub(super) speed: Speed,
    pub(super) resumed: Option<&'a Position>,
    pub(super) timing: &'a Timing,
    pub(super) report: &'a PublishReport,
    pub(super) hint: Option<String>,
}

/// What became of a recording.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlayView {
    /// The recording.
    file: String,
    /// `max`, or how many times as fast as it was recorded.
    speed: String,
    /// The journal that `--resume` goes on with; null when all is done.
    journal: Option<String>,
    /// Up to which line an earlier run had done everything; null when there was none.
    resumed_after: Option<u64>,
    /// How many messages behind that line may have been sent twice, at most.
    may_repeat: Option<u64>,
    /// Lines that were left out: outside of what was chosen, or done before.
    left_out: u64,
    /// Messages without a time; they went out without a pause.
    without_time: u64,
    /// How many milliseconds late a message went out at worst.
    latest_ms: f64,
    /// What became of the messages.
    #[serde(flatten)]
    published: PublishView,
}

impl PlayView {
    pub(super) fn new(played: Played<'_>) -> Self {
        let Played { file, journal, speed, resumed, timing, report, hint } = played;
        PlayView {
            file: file.display().to_string(),
            speed: speed.to_string(),
            journal: journal.map(|path| path.display().to_string()),
            resumed_after: resumed.map(|position| position.up_to),
            may_repeat: resumed.map(|position| position.window),
            left_out: timing.skipped(),
            without_time: timing.without_time(),
            latest_ms: timing.latest().as_secs_f64() * 1000.0,
            published: PublishView::new(report, hint),
        }
    }
}

impl View for PlayView {
    const KIND: &'static str = "Played";
    const ITEMS: Option<&'static str> = Some("messages");
    fn text(&self, page: &mut Page) {
        self.published.text(page);
    }
}
