//! What `publish` prints.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::exchange_in_words;
use crate::delivery::publish::{Entry, Fate, PublishEnd, PublishReport};

use crate::cli::output::{Page, View, count};

/// What became of all messages.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishView {
    /// Why it ended: `complete`, `badLine`, `stopped` or `failed`.
    ended: String,
    /// The broker has them.
    confirmed: u64,
    /// No queue took them.
    returned: u64,
    /// The broker refused them.
    nacked: u64,
    /// They may be there or not.
    unknown: u64,
    /// Bad lines, never sent.
    skipped: u64,
    /// Body bytes of the confirmed messages.
    confirmed_bytes: u64,
    /// Milliseconds from the first reading to the last outcome.
    elapsed_ms: u64,
    /// Where to go on without leaving a line out; null when nothing is left.
    resume_at: Option<u64>,
    /// What failed.
    error: Option<String>,
    /// What to do about the first message that came back.
    hint: Option<String>,
    /// Whether `messages` holds everything.
    listed_all: bool,
    /// The messages, at most a hundred of each fate.
    messages: Vec<PublishedView>,
    #[serde(skip)]
    resume: Option<String>,
}

/// One message and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PublishedView {
    /// Its line, or its number when there are no lines; from 1.
    line: u64,
    /// `confirmed`, `returned`, `nacked`, `unknown` or `skipped`.
    fate: &'static str,
    /// Its message id.
    message_id: Option<String>,
    /// Where it was to go.
    exchange: Option<String>,
    /// Under which key.
    routing_key: Option<String>,
    /// Why, unless it is confirmed.
    reason: Option<String>,
}

impl From<&Entry> for PublishedView {
    fn from(entry: &Entry) -> Self {
        let Entry { line, fate, message_id, exchange, routing_key, reason, code: _ } =
            entry.clone();
        let fate = match fate {
            Fate::Confirmed => "confirmed",
            Fate::Returned => "returned",
            Fate::Nacked => "nacked",
            Fate::Unknown => "unknown",
            Fate::Skipped => "skipped",
        };
        PublishedView { line, fate, message_id, exchange, routing_key, reason }
    }
}

impl PublishView {
    /// What became of all messages, with advice about what came back.
    pub fn new(report: &PublishReport, hint: Option<String>) -> Self {
        let ended = match report.ended {
            PublishEnd::Complete => "complete",
            PublishEnd::BadLine => "badLine",
            PublishEnd::Stopped => "stopped",
            PublishEnd::Failed => "failed",
        };
        let messages = report.confirmed_entries.iter().chain(&report.entries);
        PublishView {
            ended: ended.to_owned(),
            confirmed: report.confirmed,
            returned: report.returned,
            nacked: report.nacked,
            unknown: report.unknown,
            skipped: report.skipped,
            confirmed_bytes: report.confirmed_bytes,
            elapsed_ms: report.elapsed_ms,
            resume_at: report.resume_at(),
            error: report.error.clone(),
            hint,
            listed_all: report.listed_all,
            messages: messages.map(PublishedView::from).collect(),
            resume: report.resume_statement(),
        }
    }
}

impl View for PublishView {
    const KIND: &'static str = "Published";
    const ITEMS: Option<&'static str> = Some("messages");
    fn text(&self, page: &mut Page) {
        let style = page.style;
        let mut listed = 0u64;
        for message in self.messages.iter().filter(|message| message.fate != "confirmed") {
            listed += 1;
            let mut line = format!("{} {}", style.bad(message.fate), message.line);
            if let Some(id) = &message.message_id {
                line.push_str(&format!(" ({id})"));
            }
            if let (Some(exchange), Some(key)) = (&message.exchange, &message.routing_key) {
                line.push_str(&format!(" to {} by `{key}`", exchange_in_words(exchange)));
            }
            if let Some(reason) = &message.reason {
                line.push_str(&format!(": {}", reason.replace('\n', "; ")));
            }
            page.line(line);
        }
        let not_confirmed = self.returned + self.nacked + self.unknown + self.skipped;
        if not_confirmed > listed {
            page.line(format!("… and {} more", not_confirmed - listed));
        }
        let mut parts = vec![format!("{} confirmed", count(self.confirmed, "message"))];
        for (number, what) in [
            (self.returned, "returned"),
            (self.nacked, "nacked"),
            (self.unknown, "of unknown outcome"),
            (self.skipped, "bad and not sent"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        page.line(parts.join(", "));
        if let Some(resume) = self.resume.as_ref().filter(|_| self.ended != "complete") {
            page.line(resume);
        }
    }
}
