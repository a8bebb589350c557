//! What `request` says: a line on stderr, or a document with the answers.

use std::io;

use schemars::JsonSchema;
use serde::Serialize;

use crate::delivery::publish::PublishEnd;
use crate::delivery::request::{Answer, Entry, RequestReport, RoundTrips};
use crate::message::record::write_record;

use crate::cli::consume::record_schema_in;
use crate::cli::output::{Page, View, count};

/// What became of all requests, and their answers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestView {
    /// Why it ended: `complete`, `badLine`, `stopped` or `failed`.
    ended: &'static str,
    /// Requests with all answers that were wanted, none of them an error.
    answered: u64,
    /// Requests of which an answer is an error.
    errors: u64,
    /// Requests without all their answers when the time was up.
    timed_out: u64,
    /// Requests that nobody can answer.
    nobody: u64,
    /// Requests that the broker refused.
    refused: u64,
    /// Requests that may have been delivered or not.
    unknown: u64,
    /// Requests that were not waited for because the run was stopped.
    stopped: u64,
    /// Bad lines, never sent.
    skipped: u64,
    /// Answers to nothing that was asked here; not written.
    foreign: u64,
    /// Answers that came too late, or twice; not written.
    late: u64,
    /// How often a request was sent again.
    retried: u64,
    /// How often the connection was lost and made again.
    reconnects: u32,
    /// How long the first answers took.
    round_trip_ms: Option<RoundTrips>,
    /// How answers came: `direct` or `queue`.
    via: &'static str,
    /// The first line that was not sent although it may be good.
    first_not_sent: Option<u64>,
    /// What is left on the broker, and why.
    left_behind: Option<String>,
    /// What failed.
    error: Option<String>,
    /// What to do about it.
    hint: Option<String>,
    /// Milliseconds from the first reading to the end.
    elapsed_ms: u64,
    /// Whether `requests` holds everything.
    listed_all: bool,
    /// The requests, at most a hundred of each fate.
    requests: Vec<RequestedView>,
    /// The answers, in the order in which they came.
    answers: Vec<AnswerView>,
    #[serde(skip)]
    many: bool,
}

/// One request and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RequestedView {
    /// Its line, or its number when there are no lines; from 1.
    line: u64,
    /// `answered`, `error`, `timedOut`, `nobody`, `refused`, `unknown`, `stopped` or `skipped`.
    fate: &'static str,
    /// What its answers carry.
    correlation_id: Option<String>,
    /// Its message id.
    message_id: Option<String>,
    /// Where it went.
    exchange: Option<String>,
    /// Under which key.
    routing_key: Option<String>,
    /// How many answers came.
    answers: u64,
    /// Milliseconds until the first.
    first_after_ms: Option<u64>,
    /// Why, unless it is answered.
    reason: Option<String>,
    /// Which error, when an error answer names it.
    error_code: Option<String>,
}

impl From<&Entry> for RequestedView {
    fn from(entry: &Entry) -> Self {
        let Entry {
            line,
            fate,
            correlation_id,
            message_id,
            exchange,
            routing_key,
            answers,
            first_after_ms,
            reason,
            error_code,
            code: _,
            was_sent: _,
        } = entry.clone();
        RequestedView {
            line,
            fate: fate.as_str(),
            correlation_id,
            message_id,
            exchange,
            routing_key,
            answers,
            first_after_ms,
            reason,
            error_code,
        }
    }
}

/// One answer.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnswerView {
    /// The line of its request.
    line: u64,
    /// Milliseconds from the request to it.
    after_ms: f64,
    /// What it says, when it is an error.
    error: Option<String>,
    /// The answer itself.
    #[schemars(schema_with = "record_schema_in")]
    record: serde_json::Value,
}

impl AnswerView {
    pub(super) fn new(answer: &Answer<'_>) -> io::Result<Self> {
        let mut line = Vec::new();
        write_record(&mut line, &crate::delivery::sink::record_of(answer.delivery, answer.queue));
        Ok(AnswerView {
            line: answer.line,
            after_ms: answer.after.as_secs_f64() * 1000.0,
            error: answer.error.as_ref().map(ToString::to_string),
            record: serde_json::from_slice(&line)?,
        })
    }
}

impl RequestView {
    pub(super) fn new(
        report: &RequestReport,
        answers: Vec<AnswerView>,
        hint: Option<String>,
    ) -> Self {
        let ended = match report.ended {
            PublishEnd::Complete => "complete",
            PublishEnd::BadLine => "badLine",
            PublishEnd::Stopped => "stopped",
            PublishEnd::Failed => "failed",
        };
        RequestView {
            ended,
            answered: report.answered,
            errors: report.errors,
            timed_out: report.timed_out,
            nobody: report.nobody,
            refused: report.refused,
            unknown: report.unknown,
            stopped: report.stopped,
            skipped: report.skipped,
            foreign: report.foreign,
            late: report.late,
            retried: report.retried,
            reconnects: report.reconnects,
            round_trip_ms: report.round_trip_ms,
            via: report.via,
            first_not_sent: report.first_not_sent,
            left_behind: report.left_behind.clone(),
            error: report.error.clone(),
            hint,
            elapsed_ms: report.elapsed_ms,
            listed_all: report.listed_all,
            requests: report.entries.iter().map(RequestedView::from).collect(),
            answers,
            many: report.answers != 1,
        }
    }

    /// One or more lines for stderr.
    pub fn words(&self) -> String {
        let mut parts = Vec::new();
        for (number, what) in [
            (self.answered, "answered"),
            (self.errors, "answered with an error"),
            (self.timed_out, "not answered in time"),
            (self.nobody, "with nobody to answer"),
            (self.refused, "refused by the broker"),
            (self.unknown, "in doubt"),
            (self.stopped, "not waited for"),
            (self.skipped, "bad and not sent"),
        ] {
            if number > 0 {
                parts.push(format!("{} {what}", count(number, "request")));
            }
        }
        if parts.is_empty() {
            parts.push("nothing was asked".to_owned());
        }
        let mut text = parts.join(", ");
        if let Some(RoundTrips { min, mean, max }) = self.round_trip_ms {
            text.push_str(&match self.many {
                true => format!(" in {min:.1} / {mean:.1} / {max:.1} ms (min / mean / max)"),
                false => format!(" in {mean:.1} ms"),
            });
        }
        for (number, what) in [
            (self.late, "came too late or twice"),
            (self.foreign, "belonged to nothing that was asked here"),
            (self.retried, "was sent again"),
        ] {
            if number > 0 {
                let noun = if what.ends_with("again") { "request" } else { "answer" };
                text.push_str(&format!("; {} {what}", count(number, noun)));
            }
        }
        match self.reconnects {
            0 => {}
            1 => text.push_str("\nthe connection was lost and made again once"),
            times => {
                text.push_str(&format!("\nthe connection was lost and made again {times} times"));
            }
        }
        if let Some(line) = self.first_not_sent {
            text.push_str(&format!("\nline {line} is the first that was not sent"));
        }
        text
    }
}

impl View for RequestView {
    const KIND: &'static str = "Requested";
    const ITEMS: Option<&'static str> = Some("answers");
    fn text(&self, page: &mut Page) {
        page.line(self.words());
    }
}
