//! What happened to each message, and what the whole run means.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::json;

use crate::base::time::Timestamp;
use crate::broker::{BrokerError, Delivery};

use super::handler::{Fault, HandlerError};

/// What became of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fate {
    /// Its work is done, and the broker was told.
    Done,
    /// Its work was done before; the broker was told.
    Duplicate,
    /// It is in the dead-letter queue.
    DeadLettered,
    /// The broker was told that it is not wanted, and dead-letters it.
    Rejected,
    /// It failed, and who asked has an error answer.
    Refused,
    /// It waits in a delay queue for its next attempt.
    Delayed,
    /// It went back to the queue untouched or unfinished.
    Returned,
    /// It belongs to a lost connection and comes again.
    Void,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkEnd {
    /// As many were worked on as were wanted.
    Count,
    /// Nothing came for as long as was allowed.
    Idle,
    /// The queue is empty.
    Empty,
    /// The time was up.
    Deadline,
    /// Somebody asked to stop.
    Stopped,
    /// The broker ended the subscription.
    Cancelled,
    /// A message failed, and that is the end.
    Failure,
    /// The command cannot be run or does not speak the protocol.
    Handler,
    /// The output failed.
    Output,
    /// A dead letter has nowhere to go.
    NoWayOut,
    /// The broker or the state file failed.
    Failed,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkReport {
    /// Why it ended.
    pub ended: WorkEnd,
    /// Deliveries that came.
    pub received: u64,
    /// Of these, those the broker says it had handed out before.
    pub redelivered: u64,
    /// Deliveries whose work is done.
    pub done: u64,
    /// Deliveries whose work had been done before.
    pub duplicates: u64,
    /// Deliveries that are dead letters now.
    pub dead_lettered: u64,
    /// Deliveries that were rejected.
    pub rejected: u64,
    /// Deliveries that failed, and whose error answer is with who asked.
    pub refused: u64,
    /// Deliveries that wait in a delay queue.
    pub delayed: u64,
    /// Deliveries that went back to the queue.
    pub returned: u64,
    /// Deliveries of a lost connection; they come again.
    pub void: u64,
    /// Of those done, delayed or dead, those that may come again because the broker could not be told.
    pub repeats_possible: u64,
    /// Attempts that were begun.
    pub attempts: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Of these, those that took too long.
    pub timeouts: u64,
    /// Failed attempts that were, or will be, followed by another.
    pub retries: u64,
    /// Results and answers that the broker has.
    pub published: u64,
    /// Answers that nobody waits for any more.
    pub unanswered: u64,
    /// Gaps in sequences that were given up.
    pub gaps: u64,
    /// How often the connection was lost and made again.
    pub reconnects: u32,
    /// How the last failed attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<String>,
    /// What failed or stood in the way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The broker's part of the failure, for the exit status.
    #[serde(skip)]
    pub broker_error: Option<BrokerError>,
    /// The reader of the output went away.
    #[serde(skip)]
    pub pipe_closed: bool,
    /// Milliseconds from subscription to end.
    pub elapsed_ms: u64,
}

/// What a run means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WorkVerdict {
    /// All that came was done: status 0.
    Done,
    /// Some messages are dead letters now: status 3.
    Partly,
    /// The handler, the output, the queue or the broker failed: status 1 or 69.
    Failed,
    /// Stopped by a signal after a clean end: status 130 or 143.
    Stopped,
}

impl WorkReport {
    pub(super) const fn new() -> Self {
        WorkReport {
            ended: WorkEnd::Failed,
            received: 0,
            redelivered: 0,
            done: 0,
            duplicates: 0,
            dead_lettered: 0,
            rejected: 0,
            refused: 0,
            delayed: 0,
            returned: 0,
            void: 0,
            repeats_possible: 0,
            attempts: 0,
            failures: 0,
            timeouts: 0,
            retries: 0,
            published: 0,
            unanswered: 0,
            gaps: 0,
            reconnects: 0,
            last_failure: None,
            error: None,
            hint: None,
            broker_error: None,
            pipe_closed: false,
            elapsed_ms: 0,
        }
    }

    /// What it means.
    pub fn verdict(&self) -> WorkVerdict {
        match self.ended {
            WorkEnd::Stopped => WorkVerdict::Stopped,
            WorkEnd::Count | WorkEnd::Idle | WorkEnd::Empty | WorkEnd::Deadline => {
                if self.dead_lettered + self.rejected + self.refused > 0 {
                    WorkVerdict::Partly
                } else {
                    WorkVerdict::Done
                }
            }
            _ => WorkVerdict::Failed,
        }
    }

    pub(super) fn count(&mut self, fate: Fate) {
        *match fate {
            Fate::Done => &mut self.done,
            Fate::Duplicate => &mut self.duplicates,
            Fate::DeadLettered => &mut self.dead_lettered,
            Fate::Rejected => &mut self.rejected,
            Fate::Refused => &mut self.refused,
            Fate::Delayed => &mut self.delayed,
            Fate::Returned => &mut self.returned,
            Fate::Void => &mut self.void,
        } += 1;
    }

    /// How many deliveries are finished for good.
    pub fn finished(&self) -> u64 {
        self.done
            + self.duplicates
            + self.dead_lettered
            + self.rejected
            + self.refused
            + self.delayed
    }

    pub(super) fn handler_failed(&mut self, error: &HandlerError) -> WorkEnd {
        self.error = Some(format!("cannot {error}"));
        self.hint = Some(error.hint.clone());
        WorkEnd::Handler
    }
}

/// Takes one line of JSON for each delivery.
pub type Journal = Box<dyn Write + Send>;

pub(super) fn write_entry(
    journal: &mut Journal,
    now: Timestamp,
    delivery: &Delivery,
    fate: Fate,
    attempts: u32,
    fault: Option<&Fault>,
) -> io::Result<()> {
    let properties = &delivery.message.properties;
    let mut entry = json!({
        "time": now.to_string(),
        "fate": fate,
        "attempts": attempts,
        "redelivered": delivery.redelivered,
        "messageId": properties.message_id,
        "exchange": delivery.exchange.as_str(),
        "routingKey": delivery.routing_key.as_str(),
        "workflow": properties.header("x-nexus-workflow").and_then(|value| value.as_text()),
        "sequence": properties.header("x-nexus-sequence").and_then(|value| value.as_i64()),
        "class": fault.map(|fault| fault.class),
        "code": fault.map(|fault| fault.code.as_str()),
        "reason": fault.map(|fault| fault.reason.as_str()),
    });
    if let Some(entry) = entry.as_object_mut() {
        entry.retain(|_, value| !value.is_null());
    }
    writeln!(journal, "{entry}")
}
