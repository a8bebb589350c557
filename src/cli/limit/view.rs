//! Rate limits as they are shown.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::time::{HumanDuration, Timestamp};
use crate::resilience::limiter::{Limiter, Priority};

use crate::cli::output::{Page, View, count};

/// One limit and what is left of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitRow {
    /// Its name.
    name: String,
    /// Whether nexus.yaml names it.
    configured: bool,
    /// The most that passes at once.
    capacity: u32,
    /// What passes per second in the long run.
    per_second: f64,
    /// What is in the bucket.
    tokens: u64,
    /// Each priority, the most important first.
    priorities: Vec<PriorityView>,
    /// When it was written last; null when it was never used.
    changed: Option<String>,
}

/// What one priority may take.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PriorityView {
    /// `critical`, `high`, `normal` or `low`.
    priority: &'static str,
    /// What it may take now.
    available: u32,
    /// The percentage of the capacity that it leaves to those above it.
    reserve: u8,
    /// The percentage of the rate that it may take although the reserve forbids it.
    share: u8,
}

impl LimitRow {
    pub(super) fn new(
        name: &str,
        limiter: &Limiter,
        configured: bool,
        changed: Option<Timestamp>,
        now: Timestamp,
    ) -> LimitRow {
        let reserve = limiter.reserve();
        let priority = |priority: Priority| PriorityView {
            priority: priority.as_str(),
            available: limiter.available(priority, now),
            reserve: reserve.floor(priority),
            share: reserve.share(priority),
        };
        LimitRow {
            name: name.to_owned(),
            configured,
            capacity: limiter.limit().capacity(),
            per_second: limiter.limit().per_second(),
            tokens: limiter.tokens(now),
            priorities: Priority::ALL.map(priority).into(),
            changed: changed.map(|time| time.to_string()),
        }
    }
}

/// All limits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LimitListView {
    /// By name.
    pub(super) limits: Vec<LimitRow>,
}

impl View for LimitListView {
    const KIND: &'static str = "LimitList";
    const ITEMS: Option<&'static str> = Some("limits");
    fn text(&self, page: &mut Page) {
        if self.limits.is_empty() {
            page.line("no limits: nexus.yaml names none, and none was used");
        }
        let rows = self.limits.iter().map(|limit| {
            let mut row = vec![
                limit.name.clone(),
                limit.capacity.to_string(),
                limit.per_second.to_string(),
                limit.tokens.to_string(),
            ];
            row.extend(limit.priorities.iter().map(|priority| priority.available.to_string()));
            row
        });
        let headers =
            ["LIMIT", "CAPACITY", "PER SECOND", "LEFT", "CRITICAL", "HIGH", "NORMAL", "LOW"];
        page.wide_table(headers.map(str::to_owned).into(), rows.collect());
    }
}

/// One limit.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    /// The limit.
    #[serde(flatten)]
    pub(super) limit: LimitRow,
}

impl View for LimitView {
    const KIND: &'static str = "Limit";
    fn text(&self, page: &mut Page) {
        let LimitRow { name, configured, capacity, per_second, tokens, priorities, changed } =
            &self.limit;
        let name = page.style.strong(name);
        page.line(format!("limit {name}: {tokens} of {capacity} left, {per_second} per second"));
        if !configured {
            page.line("  as it was used last; nexus.yaml does not name it");
        }
        if let Some(changed) = changed {
            page.line(format!("  last written {changed}"));
        }
        page.gap();
        let rows = priorities.iter().map(|priority| {
            [
                priority.priority.to_owned(),
                priority.available.to_string(),
                format!("{} %", priority.reserve),
                format!("{} %", priority.share),
            ]
        });
        page.table(["PRIORITY", "MAY TAKE", "LEAVES OTHERS", "SURE OF"], rows.collect());
    }
}

/// What became of a wish for tokens.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitTakeView {
    /// The limit.
    pub(super) name: String,
    /// How many were wished for.
    pub(super) tokens: u32,
    /// How important it was.
    pub(super) priority: &'static str,
    /// Whether they were taken, or would be on a dry run.
    pub(super) taken: bool,
    /// After how many milliseconds they would be there; null when they were taken, or never.
    pub(super) retry_after_ms: Option<u64>,
    /// Whether nothing was to be taken.
    pub(super) dry_run: bool,
}

impl View for LimitTakeView {
    const KIND: &'static str = "LimitTake";
    fn text(&self, page: &mut Page) {
        let LimitTakeView { name, tokens, priority, taken, retry_after_ms, dry_run } = self;
        let what = format!("{} of {}", count(u64::from(*tokens), "token"), page.style.strong(name));
        page.line(match (taken, retry_after_ms) {
            (true, _) if *dry_run => format!("{what} would be taken with priority {priority}"),
            (true, _) => format!("{what} taken with priority {priority}"),
            (false, Some(ms)) => {
                let wait = HumanDuration::from_ms(*ms);
                format!("{what} not taken: priority {priority} has to wait for {wait}")
            }
            (false, None) => format!("{what} not taken: the rate of this limit is 0"),
        });
        if *dry_run {
            page.line("nothing was changed");
        }
    }
}
