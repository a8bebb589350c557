//! What `consume` says when it is done, and the document that it writes.

use schemars::JsonSchema;
use serde::Serialize;

use crate::delivery::consume::{ConsumeEnd, ConsumeReport};

use crate::cli::output::{Page, View, count};

/// What happened to the messages.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConsumeView {
    /// The queue.
    queue: String,
    /// Why it ended: `count`, `idle`, `empty`, `stalled`, `deadline`, `stopped`, `cancelled`, `held`,
    /// `livesAtRisk`, `sinkFailed` or `failed`.
    ended: &'static str,
    /// Messages that the output has for good.
    written: u64,
    /// Of these, acked.
    acked: u64,
    /// Of these, rejected.
    rejected: u64,
    /// Messages that stay in the queue though they were looked at.
    held: u64,
    /// Messages for which the filter failed; they are among the held.
    filter_errors: u64,
    /// What the first of these failures was.
    first_filter_error: Option<String>,
    /// Written messages that will come again.
    repeats_possible: u64,
    /// Written messages that had been handed out before.
    redelivered: u64,
    /// How often the connection was lost and made again.
    reconnects: u32,
    /// Bytes written.
    bytes: u64,
    /// How many were expected at least.
    expected: Option<u64>,
    /// What failed or stood in the way.
    error: Option<String>,
    /// Whether the reader of the output went away.
    pipe_closed: bool,
    /// Milliseconds from subscription to end.
    elapsed_ms: u64,
}

impl ConsumeView {
    /// What happened to the messages of `queue`.
    pub fn new(queue: &str, report: &ConsumeReport) -> Self {
        let ended = match report.ended {
            ConsumeEnd::Count => "count",
            ConsumeEnd::Idle => "idle",
            ConsumeEnd::Empty => "empty",
            ConsumeEnd::Stalled => "stalled",
            ConsumeEnd::Deadline => "deadline",
            ConsumeEnd::Stopped => "stopped",
            ConsumeEnd::Cancelled => "cancelled",
            ConsumeEnd::Held => "held",
            ConsumeEnd::LivesAtRisk => "livesAtRisk",
            ConsumeEnd::SinkFailed => "sinkFailed",
            ConsumeEnd::Failed => "failed",
        };
        ConsumeView {
            queue: queue.to_owned(),
            ended,
            written: report.written,
            acked: report.acked,
            rejected: report.rejected,
            held: report.held,
            filter_errors: report.filter_errors,
            first_filter_error: report.first_filter_error.clone(),
            repeats_possible: report.repeats_possible,
            redelivered: report.redelivered,
            reconnects: report.reconnects,
            bytes: report.bytes,
            expected: report.expected,
            error: report.error.clone(),
            pipe_closed: report.pipe_closed,
            elapsed_ms: report.elapsed_ms,
        }
    }

    /// One or more lines for stderr.
    pub fn words(&self) -> String {
        let end = match self.ended {
            "count" => "as many as wanted",
            "idle" => "nothing came any more",
            "empty" => "the queue is empty",
            "stalled" => "the queue counts messages and hands none out",
            "deadline" => "the time is up",
            "stopped" => "stopped",
            "cancelled" => "the broker ended the subscription",
            "held" => "no room to look behind the messages that are held",
            "livesAtRisk" => "a message has few lives left",
            "sinkFailed" if self.pipe_closed => "the reader went away",
            "sinkFailed" => "the output failed",
            _ => "the broker failed",
        };
        let mut parts = vec![format!("{} written", count(self.written, "message"))];
        for (number, what) in [
            (self.acked, "acked"),
            (self.rejected, "rejected"),
            (self.held, "left in the queue"),
            (self.repeats_possible, "may come again"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        let mut text = format!("{}: {end}", parts.join(", "));
        if self.expected.is_some_and(|expected| self.written < expected) {
            text.push_str(&format!("; {} were expected", self.expected.unwrap_or_default()));
        }
        match self.reconnects {
            0 => {}
            1 => text.push_str("\nthe connection was lost and made again once"),
            times => {
                text.push_str(&format!("\nthe connection was lost and made again {times} times"));
            }
        }
        if let Some(error) = &self.first_filter_error {
            let failed = count(self.filter_errors, "message");
            text.push_str(&format!("\nthe filter failed for {failed}: {error}"));
        }
        text
    }
}

impl View for ConsumeView {
    const KIND: &'static str = "Consumed";
    fn text(&self, page: &mut Page) {
        page.line(self.words());
    }
}

/// The document that `consume -o json` writes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessagesView {
    /// The messages, in the order in which they came.
    #[schemars(schema_with = "records")]
    messages: Vec<serde_json::Value>,
}

/// One record. What it refers to moves to where the document keeps its definitions.
pub(in crate::cli) fn record_schema_in(
    generator: &mut schemars::SchemaGenerator,
) -> schemars::Schema {
    let mut record = crate::message::record::record_schema();
    if let Some(object) = record.as_object_mut() {
        object.remove("$schema");
        object.remove("$id");
        if let Some(serde_json::Value::Object(definitions)) = object.remove("$defs") {
            generator.definitions_mut().extend(definitions);
        }
    }
    schemars::Schema::try_from(record).unwrap_or_default()
}

fn records(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let record = record_schema_in(generator);
    schemars::json_schema!({ "type": "array", "items": record })
}

impl View for MessagesView {
    const KIND: &'static str = "Messages";
    const ITEMS: Option<&'static str> = Some("messages");
    fn text(&self, _: &mut Page) {}
}
