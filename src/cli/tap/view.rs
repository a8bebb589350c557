//! What `tap` says before and after.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::base::time::HumanDuration;
use crate::delivery::consume::ConsumeEnd;
use crate::delivery::tap::{Gap, TapPlan, TapQueue, TapReport};

use crate::cli::output::{Page, View, count};

use super::shown_arguments;

/// One binding of a tap.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct BindingView {
    /// The exchange.
    exchange: String,
    /// The key or pattern.
    routing_key: String,
    /// Header values and `x-match`.
    #[schemars(with = "serde_json::Map<String, Value>")]
    arguments: BTreeMap<String, Value>,
}

fn bindings(plan: &TapPlan) -> Vec<BindingView> {
    plan.bindings
        .iter()
        .map(|binding| BindingView {
            exchange: binding.exchange.to_string(),
            routing_key: binding.key.to_string(),
            arguments: shown_arguments(&binding.arguments),
        })
        .collect()
}

/// How a tap would be bound.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TapPlanView {
    /// The queue that would be made.
    queue: String,
    /// How many messages it would hold at most.
    buffer: u64,
    /// After how many milliseconds without a reader it would go away.
    expires_ms: u64,
    /// Its bindings.
    bindings: Vec<BindingView>,
    /// What to know before.
    warnings: Vec<String>,
    /// What others would lose while it is there.
    losses: Vec<String>,
}

impl TapPlanView {
    pub(super) fn new(queue: &TapQueue, plan: &TapPlan) -> Self {
        TapPlanView {
            queue: queue.name.to_string(),
            buffer: queue.length,
            expires_ms: HumanDuration(queue.expires).as_ms(),
            bindings: bindings(plan),
            warnings: plan.warnings.clone(),
            losses: plan.losses.clone(),
        }
    }
}

impl View for TapPlanView {
    const KIND: &'static str = "TapPlan";
    fn text(&self, page: &mut Page) {
        page.line(format!(
            "would make the queue {}: at most {}, gone by itself {} after its reader",
            page.style.strong(&self.queue),
            count(self.buffer, "message"),
            HumanDuration(std::time::Duration::from_millis(self.expires_ms))
        ));
        for BindingView { exchange, routing_key, arguments } in &self.bindings {
            let with = match arguments.is_empty() {
                true => String::new(),
                false => format!(" with {}", serde_json::json!(arguments)),
            };
            page.line(format!("  bound to exchange `{exchange}` by `{routing_key}`{with}"));
        }
        for loss in &self.losses {
            page.line(format!("{} {loss}", page.style.bad("loss:")));
        }
        for warning in &self.warnings {
            page.line(format!("{} {warning}", page.style.attention("warning:")));
        }
        page.line("nothing was bound");
    }
}

/// What a tap saw.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TapView {
    /// The queue of the tap.
    queue: String,
    /// How it was bound.
    bindings: Vec<BindingView>,
    /// Why it ended: `count`, `idle`, `deadline`, `stopped`, `cancelled`, `sinkFailed` or `failed`.
    ended: &'static str,
    /// Messages that came to the tap.
    seen: u64,
    /// Messages that the output has for good.
    written: u64,
    /// Messages for which the filter failed; they are not written.
    filter_errors: u64,
    /// What the first of these failures was.
    first_filter_error: Option<String>,
    /// Written messages that may be written twice, because the connection was lost.
    repeats_possible: u64,
    /// Times in which the tap was not bound.
    gaps: Vec<Gap>,
    /// Whether the tap was seen full, so that its oldest messages were dropped.
    was_full: bool,
    /// How many were dropped at least, as far as the broker counts; null when it is not known.
    dropped: Option<u64>,
    /// How often the connection was lost and made again.
    reconnects: u32,
    /// Why the queue of the tap may still be there; null when it is gone.
    left_behind: Option<String>,
    /// What failed or stood in the way.
    error: Option<String>,
    /// Bytes written.
    bytes: u64,
    /// How many were expected at least.
    expected: Option<u64>,
    /// Milliseconds from subscription to end.
    elapsed_ms: u64,
    #[serde(skip)]
    pipe_closed: bool,
}

impl TapView {
    pub(super) fn new(queue: &TapQueue, plan: &TapPlan, report: &TapReport) -> Self {
        let consumed = &report.consumed;
        let ended = match consumed.ended {
            ConsumeEnd::Count => "count",
            ConsumeEnd::Idle => "idle",
            ConsumeEnd::Deadline => "deadline",
            ConsumeEnd::Stopped => "stopped",
            ConsumeEnd::Cancelled => "cancelled",
            ConsumeEnd::SinkFailed => "sinkFailed",
            _ => "failed",
        };
        TapView {
            queue: queue.name.to_string(),
            bindings: bindings(plan),
            ended,
            seen: report.seen,
            written: consumed.written,
            filter_errors: consumed.filter_errors,
            first_filter_error: consumed.first_filter_error.clone(),
            repeats_possible: consumed.repeats_possible,
            gaps: report.gaps.clone(),
            was_full: report.was_full,
            dropped: report.dropped,
            // A tap that was made again has lost its connection before.
            reconnects: consumed.reconnects,
            left_behind: report.left_behind.clone(),
            error: consumed.error.clone(),
            bytes: consumed.bytes,
            expected: consumed.expected,
            elapsed_ms: consumed.elapsed_ms,
            pipe_closed: consumed.pipe_closed,
        }
    }

    /// What is missing in the output, and what is left on the broker.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for Gap { from, until } in &self.gaps {
            warnings.push(format!(
                "the tap was gone after the connection was lost and was bound again at {until}: \
                 messages since {from} may be missing"
            ));
        }
        if self.was_full {
            warnings.push(match self.dropped {
                Some(dropped) => format!(
                    "the tap was full: at least {} dropped; read faster, or raise `--buffer`",
                    if dropped == 1 {
                        "1 message was".to_owned()
                    } else {
                        format!("{dropped} messages were")
                    }
                ),
                None => {
                    "the tap was nearly full: messages may have been dropped, and the broker does \
                         not tell how many; read faster, or raise `--buffer`"
                        .to_owned()
                }
            });
        }
        warnings.extend(self.left_behind.clone());
        warnings
    }

    /// One or more lines for stderr.
    pub fn words(&self) -> String {
        let end = match self.ended {
            "count" => "as many as wanted",
            "idle" => "nothing came any more",
            "deadline" => "the time is up",
            "stopped" => "stopped",
            "cancelled" => "somebody deleted the tap",
            "sinkFailed" if self.pipe_closed => "the reader went away",
            "sinkFailed" => "the output failed",
            _ => "the broker failed",
        };
        let mut text = format!("{} written", count(self.written, "message"));
        if self.seen > self.written {
            text.push_str(&format!(" of {} seen", self.seen));
        }
        if self.repeats_possible > 0 {
            text.push_str(&format!(", {} may be there twice", self.repeats_possible));
        }
        text.push_str(&format!(": {end}"));
        if self.left_behind.is_none() {
            text.push_str("; the tap is gone");
        }
        if let Some(expected) = self.expected.filter(|expected| self.written < *expected) {
            text.push_str(&format!("; {expected} were expected"));
        }
        if let Some(error) = &self.first_filter_error {
            let failed = count(self.filter_errors, "message");
            text.push_str(&format!("\nthe filter failed for {failed}: {error}"));
        }
        if self.reconnects > 0 && self.gaps.is_empty() {
            text.push_str(
                "\nthe connection was lost and made again; the tap stayed bound meanwhile",
            );
        }
        text
    }
}

impl View for TapView {
    const KIND: &'static str = "Tapped";
    fn text(&self, page: &mut Page) {
        page.line(self.words());
    }
}
