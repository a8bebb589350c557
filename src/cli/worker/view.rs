//! What a worker did, and what it would do.

use schemars::JsonSchema;
use serde::Serialize;

use crate::base::id::QueueName;
use crate::base::time::HumanDuration;
use crate::broker::QueueDepth;
use crate::delivery::worker::{DeadLetters, ResultTo, WorkEnd, WorkOptions, WorkReport};

use crate::cli::output::{Page, View, count};

/// What became of the messages of a run.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkView {
    /// The queue.
    queue: String,
    /// Why it ended: count, idle, empty, deadline, stopped, cancelled, failure, handler, output,
    /// noWayOut or failed.
    ended: &'static str,
    /// Deliveries that came.
    received: u64,
    /// Of these, those that the broker had handed out before.
    redelivered: u64,
    /// Deliveries whose work is done.
    done: u64,
    /// Deliveries whose work had been done before.
    duplicates: u64,
    /// Deliveries that are dead letters now.
    dead_lettered: u64,
    /// Deliveries that were rejected.
    rejected: u64,
    /// Deliveries that failed, and whose error answer is with who asked.
    refused: u64,
    /// Deliveries that wait in a delay queue.
    delayed: u64,
    /// Deliveries that went back to the queue.
    returned: u64,
    /// Deliveries of a lost connection; they come again.
    void: u64,
    /// Messages that may come again although they are done, delayed or dead.
    repeats_possible: u64,
    /// Attempts that were begun.
    attempts: u64,
    /// Attempts that failed.
    failures: u64,
    /// Of these, those that took too long.
    timeouts: u64,
    /// Failed attempts that another follows.
    retries: u64,
    /// Results and answers that the broker has.
    published: u64,
    /// Answers that nobody waits for any more.
    unanswered: u64,
    /// Gaps in sequences that were given up.
    gaps: u64,
    /// How often the connection was lost and made again.
    reconnects: u32,
    /// How the last failed attempt failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<String>,
    /// What ended the run, unless it ended as it was meant to.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Milliseconds from subscription to end.
    elapsed_ms: u64,
}

impl WorkView {
    pub(super) fn new(queue: &QueueName, report: &WorkReport) -> Self {
        WorkView {
            queue: queue.as_str().to_owned(),
            ended: match report.ended {
                WorkEnd::Count => "count",
                WorkEnd::Idle => "idle",
                WorkEnd::Empty => "empty",
                WorkEnd::Deadline => "deadline",
                WorkEnd::Stopped => "stopped",
                WorkEnd::Cancelled => "cancelled",
                WorkEnd::Failure => "failure",
                WorkEnd::Handler => "handler",
                WorkEnd::Output => "output",
                WorkEnd::NoWayOut => "noWayOut",
                WorkEnd::Failed => "failed",
            },
            received: report.received,
            redelivered: report.redelivered,
            done: report.done,
            duplicates: report.duplicates,
            dead_lettered: report.dead_lettered,
            rejected: report.rejected,
            refused: report.refused,
            delayed: report.delayed,
            returned: report.returned,
            void: report.void,
            repeats_possible: report.repeats_possible,
            attempts: report.attempts,
            failures: report.failures,
            timeouts: report.timeouts,
            retries: report.retries,
            published: report.published,
            unanswered: report.unanswered,
            gaps: report.gaps,
            reconnects: report.reconnects,
            last_failure: report.last_failure.clone(),
            error: report.error.clone(),
            elapsed_ms: report.elapsed_ms,
        }
    }

    /// One or more lines for stderr.
    pub(super) fn words(&self) -> String {
        let end = match self.ended {
            "count" => "as many as wanted",
            "idle" => "nothing came any more",
            "empty" => "the queue is empty",
            "deadline" => "the time is up",
            "stopped" => "stopped",
            "cancelled" => "the broker ended the subscription",
            "failure" => "a message failed",
            "handler" => "the command cannot be used",
            "output" => "the output failed",
            "noWayOut" => "a dead letter has nowhere to go",
            _ => "the work cannot go on",
        };
        let mut parts = vec![format!("{} done", count(self.done, "message"))];
        for (number, what) in [
            (self.duplicates, "done before"),
            (self.dead_lettered, "dead-lettered"),
            (self.rejected, "rejected"),
            (self.refused, "answered with an error"),
            (self.delayed, "waiting in delay queues"),
            (self.returned, "back in the queue"),
            (self.repeats_possible, "may come again"),
        ] {
            if number > 0 {
                parts.push(format!("{number} {what}"));
            }
        }
        let mut text = format!("{}: {end}", parts.join(", "));
        let mut line = |line: String| text.push_str(&format!("\n{line}"));
        if self.failures > 0 {
            let failed = count(self.failures, "attempt");
            let late = match self.timeouts {
                0 => String::new(),
                timeouts => format!(", {timeouts} of them by taking too long"),
            };
            line(format!("{failed} of {} failed{late}", self.attempts));
        }
        if let Some(failure) = &self.last_failure {
            line(format!("the last failure: {}", failure.replace('\n', " / ")));
        }
        if self.gaps > 0 {
            line(format!("{} did not close in time", count(self.gaps, "gap")));
        }
        if self.unanswered > 0 {
            line(format!("{} found nobody waiting", count(self.unanswered, "answer")));
        }
        match self.reconnects {
            0 => {}
            1 => line("the connection was lost and made again once".to_owned()),
            times => line(format!("the connection was lost and made again {times} times")),
        }
        text
    }
}

impl View for WorkView {
    const KIND: &'static str = "Worked";
    fn text(&self, page: &mut Page) {
        page.line(self.words());
    }
}

/// What a worker would do.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkPlanView {
    /// The queue.
    queue: String,
    /// What handles its messages.
    handler: String,
    /// Messages that wait in it; absent when there is no such queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<u64>,
    /// How many are fetched at once.
    prefetch: u16,
    /// How often each is tried.
    attempts: u32,
    /// Where it waits in between.
    waits: Vec<String>,
    /// Where it goes when it failed for good.
    dead_letters: String,
    /// Where results go.
    results: String,
}

impl WorkPlanView {
    pub(super) fn new(
        queue: &QueueName,
        handler: &str,
        options: &WorkOptions,
        depth: Option<QueueDepth>,
    ) -> Self {
        let waits = options.delay_queues.iter();
        WorkPlanView {
            queue: queue.as_str().to_owned(),
            handler: handler.to_owned(),
            ready: depth.map(|depth| depth.ready),
            prefetch: options.prefetch,
            attempts: options.retry.max_attempts,
            waits: waits
                .map(|(delay, queue)| format!("{} in `{queue}`", HumanDuration(*delay)))
                .collect(),
            dead_letters: match &options.dead_letters {
                DeadLetters::To(to) => match &to.key {
                    Some(key) => format!("{}, key `{key}`", to.exchange.in_words()),
                    None => format!("{}, each with its own key", to.exchange.in_words()),
                },
                DeadLetters::Reject => "rejected".to_owned(),
                DeadLetters::Stop => "nowhere: the first one ends the run".to_owned(),
                DeadLetters::Answered => "nowhere: who asked gets an error answer".to_owned(),
            },
            results: match &options.result {
                ResultTo::Nowhere if options.answer => "to who asked".to_owned(),
                ResultTo::Nowhere => "nowhere".to_owned(),
                ResultTo::Output => "written".to_owned(),
                ResultTo::Publish { exchange, .. } => format!("to {}", exchange.in_words()),
            },
        }
    }
}

impl View for WorkPlanView {
    const KIND: &'static str = "WorkPlan";
    fn text(&self, page: &mut Page) {
        let ready = match self.ready {
            Some(ready) => format!("{} waiting", count(ready, "message")),
            None => "there is no such queue".to_owned(),
        };
        page.line(format!("would work on `{}` ({ready}) with {}", self.queue, self.handler));
        let waits = match self.waits.is_empty() {
            true => "waiting in the worker".to_owned(),
            false => format!("waiting {}", self.waits.join(", ")),
        };
        page.line(format!("each is tried up to {} times, {waits} in between", self.attempts));
        page.line(format!("dead letters: {}", self.dead_letters));
        page.line(format!("results: {}; {} fetched at once", self.results, self.prefetch));
    }
}
